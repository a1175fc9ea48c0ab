//! What tini and dumb-init document of themselves, as tests of `mini init`: exit codes, signals to the command and to its
//! process group, orphans, terminals, job control, signals that come early or twice, the parent's death. Each as a child
//! subreaper and, where that makes a difference, as PID 1 of a namespace that somebody else (unshare(1)) has made.
//!
//! What differs from them by intention: mini is always a subreaper when it is not PID 1 (tini: `-s`); signals that a
//! terminal sends to a group go to the command's group also without `-g`; no signal is rewritten but SIGTSTP, SIGTTIN and
//! SIGTTOU, which become SIGSTOP (dumb-init's default).

mod support;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use support::{Bench, Report, Run, Running, eventually, guest, have_program, kill, mini};

const HUP: i32 = 1;
const INT: i32 = 2;
const QUIT: i32 = 3;
const KILL: i32 = 9;
const USR1: i32 = 10;
/// Ends the guest's `signals`.
const USR2: i32 = 12;
const TERM: i32 = 15;
const CONT: i32 = 18;
const TSTP: i32 = 20;
const TTIN: i32 = 21;
const TTOU: i32 = 22;
const WINCH: i32 = 28;

unsafe extern "C" {
    fn setsid() -> i32;
    fn ioctl(fd: i32, request: u64, ...) -> i32;
    fn sigprocmask(how: i32, set: *const [u64; 16], old: *mut [u64; 16]) -> i32;
    fn raise(signal: i32) -> i32;
}

/// `mini init OPTIONS -- COMMAND`.
fn init(bench: &Bench, options: &[&str], command: &[&str]) -> Run {
    bench
        .mini(&["init"])
        .args(options)
        .args(&["--"])
        .args(command)
}

/// The same as PID 1 of a pid namespace.
fn pid_1(bench: &Bench, options: &[&str], command: &[&str]) -> Run {
    let mini = mini();
    bench
        .program("unshare")
        .args(&["-pf", "--mount-proc", "--kill-child"])
        .args(&[mini.to_str().unwrap(), "init"])
        .args(options)
        .args(&["--"])
        .args(command)
}

fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = list.split_whitespace().map(|pid| pid.parse().unwrap());
    pids.collect()
}

/// The only child of a process.
#[track_caller]
fn child(pid: i32) -> i32 {
    let mut found = Vec::new();
    let one = eventually(|| {
        found = children(pid);
        found.len() == 1
    });
    assert!(one, "{found:?}");
    found[0]
}

/// What proc_pid_stat(5) has behind the name of the command: state, parent, group, session, terminal, the terminal's
/// foreground group …
#[track_caller]
fn stat(pid: i32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    fields.split_whitespace().map(str::to_owned).collect()
}

/// The letter of a process's state; empty if there is no such process.
fn state(pid: i32) -> String {
    stat(pid).first().cloned().unwrap_or_default()
}

/// How often a line stands in a text.
fn count(text: &str, line: &str) -> usize {
    text.lines().filter(|found| *found == line).count()
}

/// Two guests in one process group that say which signals they get, the command and a child of its.
fn pair() -> [String; 3] {
    let script = format!("{0} signals & exec {0} signals", guest());
    ["sh".into(), "-c".into(), script]
}

// --- exit codes ------------------------------------------------------------------------------------------------

#[test]
fn the_status_is_the_commands_or_128_and_the_signal() {
    let Some(bench) = Bench::new("pid1-status") else {
        return;
    };
    let unshare = have_program("unshare");
    for status in [0, 1, 2, 125, 126, 127, 128, 254, 255] {
        let script = format!("exit {status}");
        init(&bench, &[], &["sh", "-c", &script])
            .output()
            .expect(status);
    }
    for signal in [HUP, INT, QUIT, 6, KILL, USR1, 11, 13, TERM, 34, 64] {
        let script = format!("ulimit -c 0; kill -{signal} $$; sleep 1000");
        let command = ["sh", "-c", &script];
        init(&bench, &[], &command).output().expect(128 + signal);
        if unshare {
            pid_1(&bench, &[], &command).output().expect(128 + signal);
        }
    }
}

/// tini -e.
#[test]
fn a_status_can_be_one_of_success() {
    let Some(bench) = Bench::new("pid1-success") else {
        return;
    };
    let options = ["-e", "143", "--success", "7"];
    for (script, expected) in [
        ("exit 143", 0),
        ("kill $$; sleep 1000", 0),
        ("exit 7", 0),
        ("exit 8", 8),
        ("exit 0", 0),
    ] {
        let run = init(&bench, &options, &["sh", "-c", script]);
        run.output().expect(expected);
    }
    for bad in ["256", "-1", "x"] {
        let run = init(&bench, &["-e", bad], &["true"]);
        let line = run.output().one_line(125);
        let expected = format!("Error parsing option '-e' with value '{bad}'");
        assert!(line.starts_with(&expected), "{line}");
    }
}

// --- orphans ---------------------------------------------------------------------------------------------------

/// The status that an orphan ends with is not taken for the command's.
#[test]
fn orphans_end_without_being_taken_for_the_command() {
    let Some(bench) = Bench::new("pid1-orphans") else {
        return;
    };
    let script =
        "for i in 1 2 3; do (sh -c 'sleep 0.1; exit 9' &); done; (sh -c 'sleep 0.1; kill -9 $$' &)
        for n in $(seq 100); do [ $(wc -w < /proc/$PPID/task/$PPID/children) = 1 ] && break; sleep 0.1; done; cat /proc/$PPID/task/$PPID/children; exit 4";
    let output = init(&bench, &[], &["sh", "-c", script]).output().expect(4);
    // The shell alone, which has the cat.
    assert_eq!(
        output.stdout.split_whitespace().count(),
        1,
        "{}",
        output.stdout
    );
    if have_program("unshare") {
        let output = pid_1(&bench, &[], &["sh", "-c", script]).output().expect(4);
        assert_eq!(output.stdout.trim(), "2");
    }
}

/// What is left when the command ends: as PID 1 the kernel ends it; a subreaper leaves it alone, as tini does, and with
/// the group, as dumb-init does, sends that SIGTERM.
#[test]
fn what_the_command_leaves_behind() {
    let Some(bench) = Bench::new("pid1-rest") else {
        return;
    };
    let file = bench.text("pid");
    let script = format!("sleep 1000 > /dev/null 2>&1 & echo $! > {file}; exit 5");
    let left = || {
        let text = fs::read_to_string(&file).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    init(&bench, &[], &["sh", "-c", &script]).output().expect(5);
    sleep(Duration::from_millis(100));
    assert!(eventually(|| state(left()) == "S"));
    kill(left(), KILL);
    for option in ["-g", "--group"] {
        init(&bench, &[option], &["sh", "-c", &script])
            .output()
            .expect(5);
        assert!(eventually(
            || !Path::new(&format!("/proc/{}", left())).exists()
        ));
    }
    if have_program("unshare") {
        // Also what is in another session.
        let script = "setsid sleep 1000 > /dev/null 2>&1 & sleep 0.1; exit 5";
        pid_1(&bench, &[], &["sh", "-c", script]).output().expect(5);
        assert!(eventually(|| bench.processes().is_empty()));
    }
}

/// dumb-init: several of them can be strung together.
#[test]
fn one_below_another() {
    let Some(bench) = Bench::new("pid1-nested") else {
        return;
    };
    let mini = mini();
    let inner = [mini.to_str().unwrap(), "init", "--"];
    let run = init(&bench, &[], &[&inner[..], &["echo", "oh, hi"]].concat());
    assert_eq!(run.output().ok(), "oh, hi\n");
    let run = init(
        &bench,
        &["-g"],
        &[&inner[..], &[guest(), "signals"]].concat(),
    );
    let mut running = run.start();
    running.until("ready\n");
    for signal in [TERM, HUP, USR2] {
        running.kill(signal);
        running.until(&format!("signal {signal}\n"));
    }
    assert_eq!(
        running.wait().ok(),
        "ready\nsignal 15\nsignal 1\nsignal 12\n"
    );
}

// --- signals to the command, or to its group -------------------------------------------------------------------

/// Signals that are passed on as they are.
fn forwarded() -> impl Iterator<Item = i32> {
    let not = [4, 5, 7, 8, 9, 11, 13, 17, 19, TSTP, TTIN, TTOU, 31, USR2];
    (1..=64).filter(move |signal| !not.contains(signal))
}

/// Two guests that are ready to get signals.
fn two(run: Run) -> Running {
    let mut running = run.start();
    running.until_that("two that are ready", |seen| count(seen, "ready") == 2);
    running
}

#[test]
fn signals_reach_the_command_alone_or_its_group() {
    let Some(bench) = Bench::new("pid1-group") else {
        return;
    };
    let pair = pair();
    let command: Vec<&str> = pair.iter().map(String::as_str).collect();
    let unshare = have_program("unshare");
    for options in [&[][..], &["-g"]] {
        let mut runs = vec![(init as fn(&_, &_, &_) -> _, false)];
        if unshare {
            runs.push((pid_1, true));
        }
        for (how, below) in runs {
            let mut running = two(how(&bench, options, &command));
            let to = match below {
                true => child(running.pid()),
                false => running.pid(),
            };
            let group = [HUP, INT, QUIT, WINCH, CONT];
            for signal in forwarded() {
                kill(to, signal);
                let times = 1 + usize::from(!options.is_empty() || group.contains(&signal));
                let line = format!("signal {signal}");
                running.until_that(&line, |seen| count(seen, &line) == times);
            }
            // The command ends with it. What is left of the group gets SIGTERM with -g, and has had this one before;
            // what is left of a namespace the kernel ends.
            kill(to, USR2);
            let others: Vec<i32> = match below {
                true => Vec::new(),
                false => children(to),
            };
            let output = running.wait().expect(0);
            for signal in forwarded().filter(|signal| *signal != TERM) {
                let times = 1 + usize::from(!options.is_empty() || group.contains(&signal));
                let found = count(&output.stdout, &format!("signal {signal}"));
                assert_eq!(found, times, "{signal} {options:?}");
            }
            if options.is_empty() && !below {
                assert_eq!(count(&output.stdout, "signal 12"), 1);
            }
            for pid in others.into_iter().chain(bench.processes()) {
                kill(pid, KILL);
            }
        }
    }
}

/// tini's example: a shell that does not react while it waits for a program.
#[test]
fn a_shell_that_waits_for_a_program_ends_with_its_group() {
    let Some(bench) = Bench::new("pid1-shell") else {
        return;
    };
    // The shell has its program.
    let waits = |running: &Running| child(child(running.pid()));
    let script = "trap 'exit 3' INT TERM; echo ready; sleep 1000; echo over";
    let command = ["bash", "-c", script];
    let mut running = init(&bench, &["-g"], &command).start();
    running.until("ready");
    waits(&running);
    running.kill(TERM);
    running.wait().expect(3);
    let mut running = init(&bench, &[], &command).start();
    running.until("ready");
    waits(&running);
    running.kill(TERM);
    sleep(Duration::from_millis(300));
    assert_eq!(running.child.try_wait().unwrap(), None);
    // As from a terminal.
    running.kill(INT);
    running.wait().expect(3);
}

/// Twice means twice, and nobody loses patience: to end what does not listen is up to whoever started mini.
#[test]
fn a_command_that_ignores_sigterm_gets_each_and_stays() {
    let Some(bench) = Bench::new("pid1-stubborn") else {
        return;
    };
    let mut running = init(&bench, &[], &[guest(), "signals"]).start();
    running.until("ready\n");
    for times in 1..=3 {
        running.kill(TERM);
        running.until_that("another SIGTERM", |seen| count(seen, "signal 15") == times);
    }
    running.kill(USR2);
    running.wait().expect(0);

    let script =
        "trap 'echo stopping; sleep 0.5; exit 6' TERM; echo ready; while :; do sleep 0.1; done";
    let mut running = init(&bench, &[], &["sh", "-c", script]).start();
    running.until("ready");
    running.kill(TERM);
    running.until("stopping");
    // Both while the shell is in its trap: they wait, and then it is over.
    running.kill(TERM);
    running.kill(TERM);
    running.wait().expect(6);

    if have_program("unshare") {
        let mut running = pid_1(
            &bench,
            &[],
            &["sh", "-c", "trap '' TERM; echo ready; sleep 1000"],
        )
        .start();
        running.until("ready");
        let first = child(running.pid());
        kill(first, TERM);
        sleep(Duration::from_millis(200));
        assert_eq!(running.child.try_wait().unwrap(), None);
        // From outside PID 1 can be killed, and all goes with it.
        kill(first, KILL);
        running.wait();
        assert!(eventually(|| bench.processes().is_empty()));
    }
}

// --- signals that come early -----------------------------------------------------------------------------------

#[test]
fn a_signal_that_comes_before_the_command_runs_is_not_lost() {
    let Some(bench) = Bench::new("pid1-early") else {
        return;
    };
    // It was there before mini.
    let mut run = init(&bench, &[], &["sleep", "1000"]);
    // SAFETY: both are safe to be called after fork (signal-safety(7)).
    unsafe {
        run.command.pre_exec(|| {
            let set = [1 << (USR1 - 1), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            sigprocmask(0, &raw const set, std::ptr::null_mut());
            raise(USR1);
            Ok(())
        });
    }
    run.limit(10).output().expect(128 + USR1);
    if !have_program("strace") {
        return;
    }
    // It comes while the command's execve is held up.
    let delay = "inject=execve:delay_enter=600000";
    let strace = [
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        "trace=execve",
        "-e",
        delay,
    ];
    let mini = mini();
    let run = bench.program("strace").args(&strace);
    let run = run.args(&[mini.to_str().unwrap(), "init", "sleep", "1000"]);
    let running = run.limit(20).start();
    // strace makes and ends processes of its own first, to try what ptrace(2) can do here: mini is the one that
    // has a child.
    let mut found = (0, 0);
    let one = eventually(|| {
        let pairs = children(running.pid()).into_iter();
        let mut pairs = pairs.flat_map(|init| children(init).into_iter().map(move |it| (init, it)));
        pairs.next().map(|pair| found = pair).is_some()
    });
    assert!(one, "{:?}", children(running.pid()));
    let (init, command) = found;
    assert_eq!(
        fs::read_link(format!("/proc/{command}/exe")).unwrap(),
        mini,
        "already executed"
    );
    kill(init, TERM);
    running.wait().expect(128 + TERM);
}

// --- stopping --------------------------------------------------------------------------------------------------

/// dumb-init: SIGTSTP, SIGTTIN and SIGTTOU stop the command by SIGSTOP, since its group is orphaned, then itself.
#[test]
fn job_control_signals_stop_both_and_sigcont_continues_both() {
    let Some(bench) = Bench::new("pid1-stop") else {
        return;
    };
    for options in [&[][..], &["-g"]] {
        // A command that would catch it stops all the same.
        let script = format!("trap : TSTP TTIN TTOU; {} counter", guest());
        let mut running = init(&bench, options, &["sh", "-c", &script]).start();
        running.until("3");
        let shell = child(running.pid());
        let counter = child(shell);
        for signal in [TSTP, TTIN, TTOU] {
            running.kill(signal);
            for pid in [running.pid(), shell, counter] {
                assert!(eventually(|| state(pid) == "T"), "{signal}");
            }
            running.kill(CONT);
            for pid in [running.pid(), shell, counter] {
                assert!(eventually(|| state(pid) != "T"), "{signal}");
            }
            let before = running.received();
            assert!(eventually(|| running.received() > before));
        }
        running.kill(INT);
        running.wait().expect(128 + INT);
    }
}

#[test]
fn pid_1_stops_the_command_but_not_itself() {
    let Some(bench) = Bench::new("pid1-stop1") else {
        return;
    };
    if !have_program("unshare") {
        return;
    }
    let mut running = pid_1(&bench, &[], &[guest(), "counter"]).start();
    running.until("3");
    let first = child(running.pid());
    let command = child(first);
    for signal in [TSTP, TTIN, TTOU] {
        kill(first, signal);
        assert!(eventually(|| state(command) == "T"), "{signal}");
        assert_ne!(state(first), "T");
        kill(first, CONT);
        assert!(eventually(|| state(command) != "T"), "{signal}");
    }
    kill(first, TERM);
    running.wait().expect(128 + TERM);
}

// --- terminals -------------------------------------------------------------------------------------------------

/// A pty, which is the standard input of a program that leads a session with it as controlling terminal.
struct Terminal(File);

impl Terminal {
    fn new() -> Terminal {
        let open = OpenOptions::new().read(true).write(true).open("/dev/ptmx");
        let master = open.unwrap();
        let unlock = 0;
        // SAFETY: TIOCSPTLCK reads an int.
        assert_eq!(
            unsafe { ioctl(master.as_raw_fd(), 0x4004_5431, &raw const unlock) },
            0
        );
        Terminal(master)
    }

    /// The program's standard output and error stay pipes.
    fn start(&self, mut run: Run) -> Running {
        let mut number = 0;
        // SAFETY: TIOCGPTN writes an int.
        let asked = unsafe { ioctl(self.0.as_raw_fd(), 0x8004_5430, &raw mut number) };
        assert_eq!(asked, 0);
        const O_NOCTTY: i32 = 0o400;
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_NOCTTY)
            .open(format!("/dev/pts/{number}"));
        run.command.stdin(open.unwrap());
        // SAFETY: system calls with numbers only, after fork.
        unsafe {
            run.command.pre_exec(|| {
                const TIOCSCTTY: u64 = 0x540e;
                let led = setsid() > 0 && ioctl(0, TIOCSCTTY, 0) == 0;
                led.then_some(()).ok_or_else(std::io::Error::last_os_error)
            });
        }
        run.start()
    }

    fn types(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn resize(&self, rows: u16) {
        const TIOCSWINSZ: u64 = 0x5414;
        let size = [rows, 80, 0, 0];
        // SAFETY: it reads a struct winsize, four short ints.
        assert_eq!(
            unsafe { ioctl(self.0.as_raw_fd(), TIOCSWINSZ, &raw const size) },
            0
        );
    }
}

/// The command's group is the terminal's foreground group, in mini's own session; what is typed reaches it once, and mini
/// not at all.
#[test]
fn the_terminal_is_the_commands() {
    let Some(bench) = Bench::new("pid1-tty") else {
        return;
    };
    for options in [&[][..], &["-g"]] {
        let mut terminal = Terminal::new();
        let mut running = terminal.start(init(&bench, options, &[guest(), "signals"]));
        running.until("ready\n");
        let (first, command) = (running.pid(), child(running.pid()));
        let fields = stat(command);
        // Group, session, foreground group.
        assert_eq!(
            [&fields[2], &fields[3], &fields[5]],
            [
                &command.to_string(),
                &first.to_string(),
                &command.to_string()
            ]
        );
        terminal.types("\x03");
        running.until("signal 2\n");
        terminal.types("\x1c");
        running.until("signal 3\n");
        terminal.types("\x1a");
        running.until("signal 20\n");
        terminal.resize(30);
        running.until("signal 28\n");
        // Nobody sends any of them twice.
        sleep(Duration::from_millis(200));
        // The terminal is gone: the session's leader is told so, and passes that on.
        drop(terminal);
        running.until("signal 1\n");
        running.kill(USR2);
        let output = running.wait().expect(0);
        for signal in [1, 2, 3, 20, 28] {
            assert_eq!(
                count(&output.stdout, &format!("signal {signal}")),
                1,
                "{signal}"
            );
        }
    }
}

/// Ctrl-Z stops a command that lets it, and mini, so that a shell which waits for mini would have its prompt back.
#[test]
fn ctrl_z_stops_both() {
    let Some(bench) = Bench::new("pid1-ctrl-z") else {
        return;
    };
    let mut terminal = Terminal::new();
    let mini = mini();
    // mini is neither the session's leader nor in an orphaned group.
    let script = format!("{} init -- {} counter; read x", mini.display(), guest());
    let mut running = terminal.start(bench.program("bash").args(&["--norc", "-ic", &script]));
    running.until("3");
    let first = child(running.pid());
    let command = child(first);
    assert_eq!(stat(command)[5], command.to_string());
    terminal.types("\x1a");
    for pid in [first, command] {
        assert!(eventually(|| state(pid) == "T"));
    }
    let before = running.received();
    kill(first, CONT);
    for pid in [first, command] {
        assert!(eventually(|| state(pid) != "T"));
    }
    assert!(eventually(|| running.received() > before));
    kill(first, KILL);
    kill(command, KILL);
}

/// The foreground goes back to where it came from: whoever started mini can read again, without SIGTTIN, and mini was not
/// stopped by SIGTTOU when it gave the terminal back from the background.
#[test]
fn the_terminal_is_given_back() {
    let Some(bench) = Bench::new("pid1-tty-back") else {
        return;
    };
    let mini = mini();
    let mini = mini.display();
    for command in ["true", "sh -c 'exit 3'", "sh -c 'kill -9 $$'", "/nope"] {
        let mut terminal = Terminal::new();
        let script = format!(
            "{mini} init -- {command} 2> /dev/null; echo status $?; read line; echo got $line"
        );
        let mut running = terminal.start(bench.program("sh").args(&["-c", &script]));
        running.until("status");
        terminal.types("text\n");
        running.until("got text\n");
        running.wait().expect(0);
    }
}

/// In the background it leaves the terminal alone: the command has a session of its own.
#[test]
fn in_the_background_the_terminal_is_left_alone() {
    let Some(bench) = Bench::new("pid1-tty-background") else {
        return;
    };
    let terminal = Terminal::new();
    let mini = mini();
    let script = format!(
        "set -m; {} init -- {} report & wait",
        mini.display(),
        guest()
    );
    let running = terminal.start(bench.program("bash").args(&["-c", &script]));
    let report = Report(running.wait().expect(0).stdout);
    assert_eq!(report.get("pid"), report.get("sid"));
}

// --- the parent's death ----------------------------------------------------------------------------------------

/// tini -p.
#[test]
fn the_parents_death_is_passed_on() {
    let Some(bench) = Bench::new("pid1-parent") else {
        return;
    };
    let mini = mini();
    let start = |option: &str| {
        let script = format!(
            "{} init {option} -- {} signals & wait",
            mini.display(),
            guest()
        );
        let mut running = bench.program("sh").args(&["-c", &script]).start();
        running.until("ready\n");
        let first = child(running.pid());
        let command = child(first);
        running.kill(KILL);
        (running, first, command)
    };
    for (option, signal) in [("-p TERM", 15), ("--pdeathsig SIGUSR1", 10), ("-p 34", 34)] {
        let (mut running, first, _) = start(option);
        running.until(&format!("signal {signal}\n"));
        kill(first, USR2);
        running.until("signal 12\n");
    }
    // One that cannot be passed on ends both.
    let (_running, first, command) = start("-p KILL");
    for pid in [first, command] {
        assert!(eventually(|| !Path::new(&format!("/proc/{pid}")).exists()));
    }
    // Without the option nothing happens.
    let (mut running, first, command) = start("");
    sleep(Duration::from_millis(200));
    assert!(eventually(|| [state(first), state(command)] == ["S", "S"]));
    kill(first, USR2);
    assert_eq!(running.until("signal 12\n"), "ready\nsignal 12\n");
    init(&bench, &["-p", "SIGNONE"], &["true"])
        .output()
        .fails(125, "--pdeathsig \"SIGNONE\": unknown signal");
}
