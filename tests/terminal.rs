//! Terminals, played with tmux: an interactive shell inside has job control, the window size follows, nothing inside can
//! type into the caller's terminal, and whatever happens the caller gets it back as it was.
//!
//! Each test has a tmux server of its own, whose socket lies in the test's directory.

mod support;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use support::{Bench, Run, eventually, guest, have_program, is_core, kill, mini};

/// A terminal with a bash in it, whose prompt is "outer$". Its environment has $MINI, $BUSYBOX, $GUEST.
struct Screen<'a> {
    bench: &'a Bench,
    socket: String,
}

impl<'a> Screen<'a> {
    fn new(bench: &'a Bench) -> Option<Screen<'a>> {
        if !have_program("tmux") {
            return None;
        }
        let screen = Screen {
            bench,
            socket: bench.text("tmux.socket"),
        };
        let rc =
            "PS1='outer$ '; set +o history; bind 'set enable-bracketed-paste off'; cd \"$HERE\"\n";
        let rc = bench.file("bashrc", rc);
        let shell = format!("bash --noprofile --rcfile {rc} -i");
        let run = bench.program("tmux").args(&[
            "-S",
            &screen.socket,
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            &shell,
        ]);
        let run = run
            .env("MINI", mini())
            .env("BUSYBOX", bench.busybox())
            .env("GUEST", guest())
            .env("HERE", bench.path(""));
        run.env("SHELL", "/bin/bash").output().ok();
        screen.wait("outer$");
        // What is compared at the end.
        screen.line("stty -a > before; grep flags /proc/self/fdinfo/0 >> before");
        Some(screen)
    }

    fn tmux(&self, args: &[&str]) -> String {
        Run::new("tmux")
            .args(&["-S", &self.socket])
            .args(args)
            .limit(10)
            .output()
            .stdout
    }

    /// Types text and Enter.
    fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.key("Enter");
    }

    /// Has the shell run something for so long; a key that is pressed before it runs would be the shell's.
    #[track_caller]
    fn busy(&self, seconds: u32) {
        self.line(&format!(
            "clear; sh -c 'echo begins {seconds}; exec sleep {seconds}'"
        ));
        self.wait(&format!("\nbegins {seconds}"));
    }

    /// Presses a key by tmux's name for it.
    fn key(&self, name: &str) {
        self.tmux(&["send-keys", name]);
    }

    /// All lines, each with a newline before it.
    fn text(&self) -> String {
        format!("\n{}", self.tmux(&["capture-pane", "-p", "-J", "-S", "-"]))
    }

    /// Waits until the screen shows `text`.
    #[track_caller]
    fn wait(&self, text: &str) {
        assert!(
            eventually(|| self.text().contains(text)),
            "no {text:?} on the screen:\n{}",
            self.text()
        );
    }

    /// Waits until the last line that is not empty is exactly this (a prompt).
    #[track_caller]
    fn prompt(&self, text: &str) {
        let last = || {
            self.text()
                .trim_end()
                .lines()
                .last()
                .unwrap_or_default()
                .trim_end()
                .to_owned()
        };
        assert!(
            eventually(|| last() == text),
            "the last line is not {text:?}:\n{}",
            self.text()
        );
    }

    /// Waits for the outer shell's prompt, and compares what can be seen of its terminal.
    #[track_caller]
    fn is_sane(&self) {
        self.prompt("outer$");
        self.line("clear; stty -a > after; grep flags /proc/self/fdinfo/0 >> after; echo compared");
        self.wait("\ncompared");
        let read = |name: &str| {
            let text = fs::read_to_string(self.bench.path(name)).unwrap();
            // Rows and columns may have changed, and do not matter.
            text.lines()
                .filter(|line| !line.contains("rows"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(read("after"), read("before"));
    }

    /// The pid of mini that the shell has started.
    #[track_caller]
    fn mini(&self) -> i32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim_end();
        let mut found = None;
        let there = eventually(|| {
            let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))
                .unwrap_or_default();
            found = children
                .split_whitespace()
                .next()
                .map(|pid| pid.parse::<i32>().unwrap());
            found.is_some_and(|pid| {
                fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == mini())
            })
        });
        assert!(there, "mini does not run:\n{}", self.text());
        found.unwrap()
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
        let _ = fs::remove_file(&self.socket);
    }
}

#[test]
fn an_interactive_shell_has_job_control() {
    let Some(bench) = Bench::new("jobs") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("$MINI run --name box -e PS1='inner# ' $BUSYBOX");
    screen.prompt("inner#");
    screen.line("tty; ps -o pid,args");
    screen.wait("/dev/pts/0");
    screen.wait("1 mini init");
    // Ctrl-C ends the command and nothing else.
    screen.busy(1000);
    screen.key("C-c");
    screen.prompt("inner#");
    screen.line("echo status $?");
    screen.wait("status 130");
    screen.busy(1001);
    screen.key("C-c");
    screen.prompt("inner#");
    // Ctrl-Z stops it, fg continues it.
    screen.busy(2000);
    screen.key("C-z");
    screen.wait("Stopped");
    screen.prompt("inner#");
    screen.line("jobs; echo listed");
    screen.wait("listed");
    screen.line("fg");
    sleep(Duration::from_millis(200));
    screen.key("C-c");
    screen.prompt("inner#");
    // Ctrl-\ as well, and Ctrl-D at the end.
    screen.busy(3000);
    screen.key("C-\\");
    screen.prompt("inner#");
    screen.line("echo quit $?");
    screen.wait("quit 131");
    screen.line("clear; exit 7");
    screen.prompt("outer$");
    screen.line("echo status $?");
    screen.wait("status 7");
    screen.is_sane();
}

#[test]
fn a_shell_that_joins_a_container_has_job_control() {
    let Some(bench) = Bench::new("exec-jobs") else {
        return;
    };
    // The core has no mini exec.
    if is_core() {
        return;
    }
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("$MINI run --name box $BUSYBOX -- sleep 1000 < /dev/null > /dev/null 2>&1 &");
    screen.line("clear; until $MINI exec box true 2> /dev/null; do sleep 0.1; done; echo up");
    screen.wait("\nup");
    screen.line("$MINI exec -e PS1='inner# ' box sh");
    screen.prompt("inner#");
    screen.line("tty; ps -o pid,args");
    screen.wait("/dev/pts/0");
    screen.wait("1 mini init");
    screen.busy(1000);
    screen.key("C-c");
    screen.prompt("inner#");
    screen.line("echo status $?");
    screen.wait("status 130");
    screen.busy(2000);
    screen.key("C-z");
    screen.wait("Stopped");
    screen.prompt("inner#");
    screen.line("fg");
    sleep(Duration::from_millis(200));
    screen.key("C-c");
    screen.prompt("inner#");
    // The window's size, at the beginning and when it changes.
    screen.line("clear; stty size");
    screen.wait("24 80");
    screen.tmux(&["resize-window", "-x", "101", "-y", "31"]);
    screen.line("until stty size | grep -q '31 101'; do sleep 0.1; done; stty size");
    screen.wait("\n31 101");
    screen.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    sleep(Duration::from_millis(300));
    screen.line("clear; exit 7");
    screen.prompt("outer$");
    screen.line("echo status $?");
    screen.wait("status 7");
    screen.is_sane();
    // The terminal that a container may have seen is its own, also for a command that reads from it alone.
    screen.line("clear; $MINI exec -i box sh -c 'tty; read x; echo got $x' | cat");
    screen.wait("not a tty");
    screen.line("typed");
    screen.wait("got typed");
    screen.line("clear; $MINI stop -t 0 box; echo stopped");
    screen.wait("stopped");
}

#[test]
fn end_of_file_ends_a_shell() {
    let Some(bench) = Bench::new("eof") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("$MINI run -e PS1='inner# ' $BUSYBOX -- sh");
    screen.prompt("inner#");
    screen.key("C-d");
    screen.is_sane();
}

#[test]
fn the_window_size_follows() {
    let Some(bench) = Bench::new("window") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("$MINI run -e PS1='inner# ' $BUSYBOX -- sh");
    screen.prompt("inner#");
    screen.line("stty size");
    screen.wait("24 80");
    screen.line("trap 'echo changed' WINCH; sh -c 'trap \"stty size; exit\" WINCH; echo waiting; while :; do sleep 0.1; done'");
    screen.wait("\nwaiting");
    screen.tmux(&["resize-window", "-x", "101", "-y", "31"]);
    screen.wait("31 101");
    screen.tmux(&["resize-window", "-x", "60", "-y", "20"]);
    screen.line("until stty size | grep -q '20 60'; do sleep 0.1; done; stty size");
    screen.wait("\n20 60");
    screen.line("clear; exit");
    screen.is_sane();
}

#[test]
fn a_signal_that_ends_mini_restores_the_terminal() {
    let Some(bench) = Bench::new("signals") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    for (signal, status) in [(15, 143), (1, 129), (2, 130), (3, 131)] {
        screen.line("clear; $MINI run $BUSYBOX -- sh -c 'echo running; exec sleep 1000'");
        screen.wait("\nrunning");
        kill(screen.mini(), signal);
        screen.prompt("outer$");
        screen.line("echo status $?");
        screen.wait(&format!("status {status}"));
        screen.is_sane();
        bench.assert_nothing_left_but(&["tmux", "bash"]);
    }
    // An interactive shell goes at a hang-up.
    screen.line("clear; $MINI run -e PS1='inner# ' $BUSYBOX -- sh");
    screen.prompt("inner#");
    kill(screen.mini(), 1);
    screen.wait("# outer$");
    screen.key("Enter");
    screen.is_sane();
}

#[test]
fn a_failure_restores_the_terminal() {
    let Some(bench) = Bench::new("failure") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    for (command, shown) in [
        (
            "$MINI run $BUSYBOX -- /nope",
            "mini: execve(\"/nope\"): not found in the container",
        ),
        (
            "$MINI run $BUSYBOX -- sh -c 'stty raw -echo; kill -9 $$'",
            "status 137",
        ),
        (
            "$MINI run $BUSYBOX -- sh -c 'stty raw -echo; exit 3'",
            "status 3",
        ),
        (
            "$MINI run -u ghost $BUSYBOX",
            "mini: --user: no user \"ghost\"",
        ),
        ("$MINI run -w /etc/passwd/x $BUSYBOX", "Not a directory"),
    ] {
        screen.line(&format!("clear; {command}; echo status $?"));
        screen.wait(shown);
        screen.is_sane();
    }
}

#[test]
fn kill_9_of_mini_ends_the_container() {
    let Some(bench) = Bench::new("kill9") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("clear; $MINI run $BUSYBOX -- sh -c 'echo running; exec sleep 1000'");
    screen.wait("\nrunning");
    kill(screen.mini(), 9);
    screen.wait("Killed");
    assert!(eventually(|| bench
        .processes_but(&["tmux", "bash"])
        .is_empty()));
    // Nobody could restore the terminal, but it is there.
    screen.line("stty sane; clear; $MINI run $BUSYBOX -- echo again");
    screen.wait("\nagain");
    screen.prompt("outer$");
    assert_eq!(bench.files(), Vec::<String>::new());
}

#[test]
fn a_closed_terminal_ends_the_container() {
    let Some(bench) = Bench::new("hangup") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("clear; $MINI run -e PS1='inner# ' $BUSYBOX -- sh");
    screen.prompt("inner#");
    drop(screen);
    assert!(
        eventually(|| bench.processes().is_empty()),
        "something runs on without a terminal"
    );
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("clear; $MINI run $BUSYBOX -- sh -c 'trap \"\" HUP; echo running; while read line; do :; done; sleep 1'");
    screen.wait("\nrunning");
    drop(screen);
    assert!(
        eventually(|| bench.processes().is_empty()),
        "the input does not end"
    );
}

#[test]
fn nothing_inside_can_type_into_the_callers_terminal() {
    let Some(bench) = Bench::new("tiocsti") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    let canary = bench.text("canary");
    for options in ["", "-i", "-t", "--no-init"] {
        for redirection in ["", "> out", "< /dev/null", "2> err", "> out 2> err"] {
            let command = format!(
                "clear; $MINI run {options} -v $GUEST:/guest:ro $BUSYBOX -- /guest tiocsti 'touch {canary}' {redirection}; printf '\\ntyped\\n'"
            );
            screen.line(&command);
            screen.wait("\ntyped");
        }
    }
    sleep(Duration::from_millis(300));
    screen.is_sane();
    assert!(!bench.path("canary").exists());
    // No descriptor of the container's is the caller's terminal.
    screen.line("clear; tty > caller; $MINI run -i -v $GUEST:/guest:ro $BUSYBOX -- /guest report > report; echo written");
    screen.wait("\nwritten");
    let report = fs::read_to_string(bench.path("report")).unwrap();
    let caller = fs::read_to_string(bench.path("caller")).unwrap();
    assert!(report.contains("fd 0 pipe:"), "{report}");
    assert!(
        !report
            .lines()
            .any(|line| line.starts_with("fd ") && line.ends_with(caller.trim_end())),
        "{report}"
    );
}

#[test]
fn only_one_end_is_a_terminal() {
    let Some(bench) = Bench::new("oneend") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    // Output to a file: no terminal inside, and messages come to the screen.
    screen.line(
        "clear; $MINI run $BUSYBOX -- sh -c 'tty; echo out; echo err >&2' > out; echo status $?",
    );
    screen.wait("err");
    screen.wait("status 0");
    assert_eq!(
        fs::read_to_string(bench.path("out")).unwrap(),
        "not a tty\nout\n"
    );
    screen.is_sane();
    // Typed input reaches a command with -i, without it there is none.
    screen.line("clear; $MINI run -i $BUSYBOX -- cat > out; echo status $?");
    sleep(Duration::from_millis(300));
    screen.line("hello");
    screen.key("C-d");
    screen.wait("status 0");
    assert_eq!(fs::read_to_string(bench.path("out")).unwrap(), "hello\n");
    screen.is_sane();
    screen.line("clear; $MINI run $BUSYBOX -- cat > out; echo status $?");
    screen.wait("status 0");
    // Ctrl-C reaches it without a terminal inside, once.
    screen.line("clear; $MINI run -i $BUSYBOX -- sh -c 'trap \"echo got >&2\" INT; echo up >&2; sleep 1; sleep 1; echo end >&2' > out; echo status $?");
    screen.wait("\nup");
    screen.key("C-c");
    screen.wait("status 0");
    assert_eq!(
        screen.text().matches("\ngot").count() + screen.text().matches("^Cgot").count(),
        1,
        "{}",
        screen.text()
    );
    screen.is_sane();
    // Input from a pipe, output on the screen.
    screen.line("clear; echo piped | $MINI run $BUSYBOX -- sh -c 'cat; tty'; echo status $?");
    screen.wait("piped");
    screen.wait("not a tty");
    screen.is_sane();
    // Not an interactive shell: it asks the terminal where the cursor is, and the outer shell would get the answer.
    screen.line(
        "clear; echo 'tty; exit 4' | $MINI run -t $BUSYBOX -- sh -c 'read a; eval $a'; echo status $?",
    );
    screen.wait("status 4");
    screen.is_sane();
}

#[test]
fn a_stopped_mini_gives_the_terminal_back_and_takes_it_again() {
    let Some(bench) = Bench::new("stop") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("clear; $MINI run -e PS1='inner# ' $BUSYBOX -- sh");
    screen.prompt("inner#");
    kill(screen.mini(), 20);
    screen.wait("Stopped");
    screen.is_sane();
    // In the background it does not touch the terminal.
    screen.line("clear; bg; sleep 0.3; stty -a > after; grep flags /proc/self/fdinfo/0 >> after; echo in front");
    screen.wait("\nin front");
    assert_eq!(
        fs::read_to_string(bench.path("after")).unwrap(),
        fs::read_to_string(bench.path("before")).unwrap()
    );
    screen.tmux(&["resize-window", "-x", "90", "-y", "30"]);
    screen.line("clear; fg");
    sleep(Duration::from_millis(300));
    screen.line("echo back; stty size; sleep 1000");
    screen.wait("\nback");
    screen.wait("30 90");
    screen.key("C-c");
    screen.line("clear; exit 5");
    screen.prompt("outer$");
    screen.line("echo status $?");
    screen.wait("status 5");
    screen.is_sane();
}

#[test]
fn mini_init_on_a_terminal_has_job_control() {
    let Some(bench) = Bench::new("init") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("clear; PS1='inner# ' $MINI init -- sh -i");
    screen.wait("inner#");
    screen.busy(1000);
    screen.key("C-c");
    screen.prompt("inner#");
    screen.line("exit 7");
    screen.prompt("outer$");
    screen.line("echo status $?");
    screen.wait("status 7");
    screen.is_sane();
    // A plain command stops and continues with mini.
    screen.line("clear; $MINI init -- sh -c 'echo running; sleep 2; echo done'");
    screen.wait("\nrunning");
    screen.key("C-z");
    screen.wait("Stopped");
    screen.is_sane();
    screen.line("clear; fg");
    screen.wait("\ndone");
    screen.is_sane();
}

#[test]
fn what_is_typed_ahead_and_the_flags_of_the_terminal_are_left_alone() {
    let Some(bench) = Bench::new("ahead") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    // bash would repair O_NONBLOCK (04000 in "flags") itself, so it is looked at before bash reads again.
    screen.line("clear; $MINI run $BUSYBOX -- true; grep flags /proc/self/fdinfo/0 > flags; $MINI run -i $BUSYBOX -- true > out; grep flags /proc/self/fdinfo/0 >> flags; echo done");
    screen.wait("\ndone");
    let before = fs::read_to_string(bench.path("before")).unwrap();
    let before = before.lines().last().unwrap();
    assert_eq!(
        fs::read_to_string(bench.path("flags")).unwrap(),
        format!("{before}\n{before}\n")
    );
}

#[test]
fn what_is_pasted_arrives_whole() {
    let Some(bench) = Bench::new("paste") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("clear; $MINI run -v $PWD:/v $BUSYBOX -- sh -c 'stty raw -echo; printf \"running\\r\\n\"; head -c 100000 > /v/pasted'");
    screen.wait("\nrunning");
    let text: String = (0..10_000).map(|number| format!("{number:09}_")).collect();
    bench.file("text", &text);
    screen.tmux(&["load-buffer", &bench.text("text")]);
    screen.tmux(&["paste-buffer", "-r"]);
    screen.is_sane();
    assert!(
        fs::read_to_string(bench.path("pasted")).unwrap() == text,
        "not all arrived"
    );
}

#[test]
fn the_terminal_inside_is_a_terminal_in_every_respect() {
    let Some(bench) = Bench::new("respects") else {
        return;
    };
    let Some(screen) = Screen::new(&bench) else {
        return;
    };
    screen.line("clear; $MINI run $BUSYBOX -- sh -c 'echo a > /dev/tty; echo b > /dev/console; tty; ls -l /proc/self/fd/0 | sed s/.*-..//'");
    screen.wait("\na\nb\n/dev/pts/0\n/dev/pts/0\n");
    screen.line("clear; test \"$($MINI run -t $BUSYBOX -- sh -c 'echo $TERM' | tr -d '\\r')\" = $TERM && echo same");
    screen.wait("\nsame");
    // A second one can be opened inside, as screen or script would.
    screen.line("clear; $MINI run $BUSYBOX -- sh -c 'exec 3<>/dev/ptmx && ls /dev/pts'");
    screen.wait("\n0     1     ptmx");
    screen.is_sane();
}
