//! PID 1: orphans are reaped, signals reach the command, stopping and continuing work; in a container, and as
//! `mini init` outside of one and as PID 1 of somebody else's.

mod support;
use std::fs;
use std::os::unix::process::CommandExt;
use std::thread::sleep;
use std::time::Duration;

use support::{Bench, Report, Running, eventually, guest, have_program};

const TERM: i32 = 15;
const CONT: i32 = 18;
const TSTP: i32 = 20;
/// Ends the guest's `signals`.
const USR2: i32 = 12;

// --- orphans ---------------------------------------------------------------------------------------------------

#[test]
fn ten_thousand_orphans_leave_no_zombie() {
    let Some(bench) = Bench::new("orphans") else {
        return;
    };
    assert_eq!(
        bench.guest(&[], &["orphans", "10000"]).output().ok(),
        "zombies 0\n"
    );
}

#[test]
fn ten_thousand_orphans_of_a_shell_leave_no_zombie() {
    let Some(bench) = Bench::new("shellorphans") else {
        return;
    };
    let script = "i=0; while [ $i -lt 10000 ]; do (sleep 0 &) ; i=$((i+1)); done; for n in $(seq 50); do ps -o stat | grep -q ^Z || break; sleep 0.1; done; ps -o stat | grep -c ^Z";
    let output = bench.run(&[], &["sh", "-c", script]).limit(240).output();
    assert_eq!(
        (output.status, output.stdout.as_str()),
        (1, "0\n"),
        "{}",
        output.stderr
    );
    // As the issue has it.
    let script = "i=0; while [ $i -lt 1000 ]; do (sleep 0 &) ; i=$((i+1)); done";
    bench.run(&[], &["sh", "-c", script]).output().ok();
}

#[test]
fn orphans_that_outlive_the_command_end_with_it() {
    let Some(bench) = Bench::new("outlive") else {
        return;
    };
    for options in [&[][..], &["--no-init"], &["-t"]] {
        bench
            .shell(
                options,
                "(setsid sleep 1000 > /dev/null 2>&1 &); (sleep 1000 &); exit 6",
            )
            .expect(6);
        bench.assert_nothing_left();
    }
}

// --- signals ---------------------------------------------------------------------------------------------------

/// Signals that mini passes on as they are: not those that nobody can catch (9, 19), those that a fault raises
/// (4, 5, 7, 8, 11, 13, 31), the news of a child (17), and those that stop (20, 21, 22).
fn forwarded() -> impl Iterator<Item = i32> {
    (1..=64)
        .filter(|signal| ![4, 5, 7, 8, 9, 11, 13, 17, 19, 20, 21, 22, 31, USR2].contains(signal))
}

/// Sends each signal to the program; the guest below it must receive each exactly once.
fn each_signal_arrives_once(mut running: Running) {
    running.until("ready\n");
    let signals: Vec<i32> = forwarded().chain([USR2]).collect();
    for signal in &signals {
        running.kill(*signal);
        running.until(&format!("signal {signal}\n"));
    }
    let output = running.wait().expect(0);
    let expected: String = signals
        .iter()
        .map(|signal| format!("signal {signal}\n"))
        .collect();
    assert_eq!(output.stdout, format!("ready\n{expected}"));
}

#[test]
fn every_signal_that_can_be_forwarded_arrives_once() {
    let Some(bench) = Bench::new("forward") else {
        return;
    };
    each_signal_arrives_once(bench.guest(&[], &["signals"]).start());
}

#[test]
fn without_init_as_well() {
    let Some(bench) = Bench::new("forwardnoinit") else {
        return;
    };
    each_signal_arrives_once(bench.guest(&["--no-init"], &["signals"]).start());
}

#[test]
fn a_signal_that_kills_the_command_ends_the_container() {
    let Some(bench) = Bench::new("kill") else {
        return;
    };
    for (options, signal) in [
        (&[][..], TERM),
        (&[], 2),
        (&["-t"], 1),
        (&["--pid", "host"], TERM),
    ] {
        let mut running = bench
            .run(options, &["sh", "-c", "echo ready; exec sleep 1000"])
            .start();
        running.until("ready");
        running.kill(signal);
        assert_eq!(running.wait().status, 128 + signal, "{options:?} {signal}");
        bench.assert_nothing_left();
    }
}

#[test]
fn stop_signal_is_what_sigterm_becomes() {
    let Some(bench) = Bench::new("stopsignal") else {
        return;
    };
    for (name, number) in [("USR1", 10), ("SIGINT", 2), ("3", 3), ("RTMIN+3", 37)] {
        let mut running = bench.guest(&["--stop-signal", name], &["signals"]).start();
        running.until("ready\n");
        running.kill(TERM);
        running.until(&format!("signal {number}\n"));
        running.kill(USR2);
        assert_eq!(
            running.wait().ok(),
            format!("ready\nsignal {number}\nsignal 12\n")
        );
    }
}

/// The letter of a process's state.
fn state(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

/// SIGTSTP stops the program and the guest below it, SIGCONT continues both.
fn stops_and_continues(mut running: Running) {
    running.until("3");
    for _ in 0..3 {
        running.kill(TSTP);
        assert!(
            eventually(|| state(running.pid()) == 'T'),
            "mini does not stop"
        );
        // The guest stops after mini, and what it had written may still be on its way.
        let mut before = 0;
        let stands = eventually(|| {
            before = running.received();
            sleep(Duration::from_millis(200));
            running.received() == before
        });
        assert!(stands, "the command does not stop");
        running.kill(CONT);
        assert!(
            eventually(|| running.received() > before),
            "the command does not go on"
        );
        assert_ne!(state(running.pid()), 'T');
    }
    running.kill(TERM);
    assert_eq!(running.wait().status, 128 + TERM);
}

#[test]
fn sigtstp_and_sigcont_stop_and_continue_the_command() {
    let Some(bench) = Bench::new("tstp") else {
        return;
    };
    stops_and_continues(bench.guest(&[], &["counter"]).start());
    stops_and_continues(bench.guest(&["-t"], &["counter"]).start());
}

unsafe extern "C" {
    fn signal(number: i32, action: usize) -> usize;
}

#[test]
fn a_caller_that_ignores_sigchld_makes_no_difference() {
    let Some(bench) = Bench::new("sigchld") else {
        return;
    };
    let guest = guest();
    for mut run in [
        bench.run(&[], &["sh", "-c", "exit 7"]),
        bench.run(&["--no-init"], &["sh", "-c", "exit 7"]),
        bench.mini(&["init", "--", guest, "exit", "7"]),
    ] {
        // SAFETY: a system call with numbers only.
        unsafe {
            run.command.pre_exec(|| {
                signal(17, 1);
                Ok(())
            });
        }
        run.limit(5).output().expect(7);
    }
}

// --- mini init -------------------------------------------------------------------------------------------------

#[test]
fn mini_init_exits_as_its_command_does() {
    let Some(bench) = Bench::new("init") else {
        return;
    };
    let init = |command: &[&str]| bench.mini(&["init", "--"]).args(command).output();
    init(&["sh", "-c", "exit 7"]).expect(7);
    init(&["sh", "-c", "kill -9 $$"]).expect(137);
    bench
        .mini(&["init", "sh", "-c", "exit 7"])
        .output()
        .expect(7);
    init(&["/nope"]).fails(127, "execve(\"/nope\"): not found in the container");
    init(&["nope"]).fails(127, "execve(\"nope\"): not found in the container");
    init(&["/etc/passwd"]).fails(126, "execve(\"/etc/passwd\"): no permission to execute it");
    init(&["/etc"]).fails(126, "execve(\"/etc\"): it is a directory");
    // Unlike a container's, this command has the caller's environment and directory.
    let run = bench
        .mini(&["init", "--", guest(), "report"])
        .env("CALLER", "yes")
        .directory(&bench.path(""));
    let report = Report(run.output().ok());
    assert!(report.environment().contains(&"CALLER=yes"));
    assert_eq!(
        report.get("cwd"),
        bench.path("").to_str().unwrap().trim_end_matches('/')
    );
    assert_eq!(report.get("pid"), report.get("sid"));
    for key in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(report.get(key), "0000000000000000", "{key}");
    }
    // Descriptors are passed on (systemd's socket activation), and none of mini's own is among them.
    let direct = Report(bench.program(guest()).output().ok());
    assert_eq!(
        report.all("fd").len(),
        direct.all("fd").len(),
        "{:?}",
        report.all("fd")
    );
}

#[test]
fn mini_init_is_a_child_subreaper() {
    let Some(bench) = Bench::new("subreaper") else {
        return;
    };
    // Orphans come to mini (the parent of the shell), and none of them stays as a zombie.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 2 &); done
        adopted=$(wc -w < /proc/$PPID/task/$PPID/children)
        for n in $(seq 100); do [ $(wc -w < /proc/$PPID/task/$PPID/children) = 1 ] && break; sleep 0.1; done; echo $adopted $(cat /proc/$PPID/task/$PPID/children) $$";
    let text = bench
        .mini(&["init", "--", "sh", "-c", script])
        .output()
        .ok();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!((words.len(), words[0]), (3, "11"), "{text}");
    assert_eq!(words[1], words[2], "only the shell is left: {text}");
}

#[test]
fn mini_init_forwards_signals_and_stops() {
    let Some(bench) = Bench::new("initsignals") else {
        return;
    };
    each_signal_arrives_once(bench.mini(&["init", "--", guest(), "signals"]).start());
    stops_and_continues(bench.mini(&["init", "--", guest(), "counter"]).start());
}

#[test]
fn mini_init_can_be_pid_1_elsewhere() {
    let Some(bench) = Bench::new("initpid1") else {
        return;
    };
    if !have_program("unshare") {
        return;
    }
    let mini = support::mini();
    let unshare = |command: &[&str]| {
        let run = bench.program("unshare").args(&[
            "-pf",
            "--mount-proc",
            "--kill-child",
            mini.to_str().unwrap(),
            "init",
            "--",
        ]);
        run.args(command)
    };
    let report = Report(unshare(&[guest(), "report"]).output().ok());
    assert_eq!(
        (report.get("pid"), report.get("ppid"), report.get("sid")),
        ("2", "1", "2")
    );
    assert_eq!(
        unshare(&[guest(), "orphans", "2000"]).output().ok(),
        "zombies 0\n"
    );
    unshare(&["sh", "-c", "exit 9"]).output().expect(9);
    unshare(&["sh", "-c", "kill -TERM $$"]).output().expect(143);
    unshare(&["/nope"])
        .output()
        .fails(127, "execve(\"/nope\"): not found in the container");
    // And in a container of mini's own.
    let mini = format!("{}:/mini:ro", mini.display());
    let volume = format!("{}:/guest:ro", guest());
    let run = bench.run(
        &["--no-init", "-v", &mini, "-v", &volume],
        &["/mini", "init", "--", "/guest", "orphans", "100"],
    );
    assert_eq!(run.output().ok(), "zombies 0\n");
}

#[test]
fn what_the_caller_ignores_stays_ignored() {
    let Some(bench) = Bench::new("nohup") else {
        return;
    };
    // As under nohup(1): the hang-up of the caller's terminal is not for the container.
    let script = "trap '' HUP; \"$0\" run \"$1\" -- sh -c 'sleep 1; exit 4' & sleep 0.5; kill -HUP $!; wait $!";
    let mini = support::mini();
    let shell =
        bench
            .program("bash")
            .args(&["-c", script, mini.to_str().unwrap(), bench.busybox()]);
    shell.output().expect(4);
}
