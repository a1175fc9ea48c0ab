//! Boot files on an ordinary machine: `mini up FILE` starts a container for each line, starts those again that are to be,
//! and stops all in order. (As the machine's PID 1, see the tests that boot one.)

mod support;
use std::fs;
use std::time::{Duration, Instant};

use support::{Bench, Output, Run, eventually, is_core, kill};

const INT: i32 = 2;
const TERM: i32 = 15;

/// `mini up` of a file with these lines, in which `IMAGE` is busybox.tar.
fn up(bench: &Bench, lines: &str) -> Run {
    let file = bench.file("boot", lines.replace("IMAGE", bench.busybox()));
    bench.mini(&["up", &file])
}

/// What mini itself has said, without the name of the file; time and again in another order.
fn said(bench: &Bench, output: &Output) -> Vec<String> {
    let name = format!("mini: {:?} ", bench.text("boot"));
    let lines = output.stderr.lines().map(|line| line.replace(&name, ""));
    lines.collect()
}

#[test]
fn one_ends_one_crashes_and_is_restarted_one_runs_on() {
    let Some(bench) = Bench::new("up") else {
        return;
    };
    let lines = "# three containers\n\
        IMAGE -- echo 'one  ends'\n\
        --restart on-failure:3 IMAGE -- \\\n  sh -c 'echo crash; exit 3'\n\n\
        IMAGE -- sh -c 'trap \"echo stopped; exit 0\" TERM; echo runs on; while :; do sleep 0.1; done'\n";
    let began = Instant::now();
    let mut running = up(&bench, lines).start();
    assert!(eventually(|| {
        running.errors().contains("exit status 3\n")
    }));
    // 100, 200 and 400 ms of waiting.
    assert!(began.elapsed() >= Duration::from_millis(700));
    running.until("runs on\n");
    running.kill(INT);
    let output = running.wait();
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.pop(), Some("stopped"));
    lines.sort_unstable();
    let crashes = ["crash"; 4];
    assert_eq!(lines, [&crashes[..], &["one  ends", "runs on"]].concat());
    // That of the one that failed; the one that was stopped has not.
    assert_eq!(output.status, 3);
}

#[test]
fn restarts_are_announced_and_end_with_a_success() {
    let Some(bench) = Bench::new("upagain") else {
        return;
    };
    let dir = bench.dir("count");
    let lines = format!(
        "--restart on-failure -v {dir}:/c IMAGE -- sh -c 'echo x >> /c/n; [ $(wc -l < /c/n) = 3 ]'\n"
    );
    let output = up(&bench, &lines).output().expect(0);
    assert_eq!(
        said(&bench, &output),
        [
            "line 1: exit status 1, again in 100 ms",
            "line 1: exit status 1, again in 200 ms"
        ]
    );
    // Also one that succeeds, for as long as nobody stops it.
    let mut running = up(&bench, "--restart always IMAGE -- echo again\n").start();
    running.until("again\nagain\nagain\n");
    running.kill(TERM);
    let output = running.wait().expect(0);
    assert!(said(&bench, &output).contains(&"line 1: exit status 0, again in 200 ms".to_owned()));
}

#[test]
fn what_an_option_names_is_read_when_the_container_is_started() {
    let Some(bench) = Bench::new("upread") else {
        return;
    };
    let dir = bench.dir("late");
    let lines = format!(
        "--restart on-failure --env-file {dir}/env IMAGE -- sh -c 'echo read $A'\n\
         -v {dir}:/late IMAGE -- sh -c 'sleep 0.3; echo A=1 > /late/env'\n"
    );
    let output = up(&bench, &lines).output().expect(0);
    assert_eq!(output.stdout, "read 1\n");
    let said = said(&bench, &output);
    let again = "line 1: exit status 125, again in 100 ms".to_owned();
    assert!(said.contains(&again), "{said:?}");
}

#[test]
fn all_are_stopped_in_order_and_who_does_not_is_killed() {
    let Some(bench) = Bench::new("uporder") else {
        return;
    };
    let dir = bench.dir("log");
    // Each says when it is asked to stop, and the first, which is asked last, takes its time.
    let line = |name: &str, options: &str, then: &str| {
        format!(
            "{options} -v {dir}:/log IMAGE -- sh -c 'trap \"echo {name} asked >> /log/order; {then}\" TERM USR1; \
             echo {name}; while :; do sleep 0.1; done'\n"
        )
    };
    let end = |name: &str| format!("sleep 0.5; echo {name} ends >> /log/order; exit 7");
    let lines = [
        line("first", "", &end("first")),
        line("deaf", "--stop-timeout 3", ""),
        line("last", "--stop-signal USR1", &end("last")),
    ];
    let mut running = up(&bench, &lines.concat()).start();
    for name in ["first\n", "deaf\n", "last\n"] {
        running.until(name);
    }
    running.kill(INT);
    let output = running.wait().expect(0);
    assert_eq!(said(&bench, &output), [""; 0]);
    assert_eq!(
        fs::read_to_string(bench.path("log/order")).unwrap(),
        "last asked\nlast ends\ndeaf asked\nfirst asked\nfirst ends\n"
    );
    // The one that was killed has been cleaned up after, too.
    bench.assert_nothing_left();
}

#[test]
fn a_second_request_kills() {
    let Some(bench) = Bench::new("uptwice") else {
        return;
    };
    let deaf = "IMAGE -- sh -c 'trap \"echo asked\" TERM; echo up; while :; do sleep 0.1; done'\n";
    let mut running = up(&bench, &deaf.repeat(2)).start();
    running.until("up\nup\n");
    running.kill(INT);
    running.until("asked\n");
    let began = Instant::now();
    running.kill(INT);
    running.wait().expect(0);
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn if_mini_is_killed_the_containers_end() {
    let Some(bench) = Bench::new("upkilled") else {
        return;
    };
    let line = "IMAGE -- sh -c 'trap \"echo stopped; exit 0\" TERM; echo up; while :; do sleep 0.1; done'\n";
    let mut running = up(&bench, &line.repeat(2)).start();
    running.until("up\nup\n");
    kill(running.pid(), 9);
    running.until("stopped\nstopped\n");
    assert_eq!(running.wait().status, -9);
    assert!(eventually(|| bench.processes().is_empty()));
}

#[test]
fn nothing_is_started_if_a_line_is_wrong() {
    let Some(bench) = Bench::new("upwrong") else {
        return;
    };
    for (wrong, why) in [
        ("--net x IMAGE", "--net \"x\": not host or none"),
        ("IMAGE 'x", "a quote is not closed"),
        (
            "--restart sometimes IMAGE",
            "--restart \"sometimes\": not no, always or on-failure[:N]",
        ),
    ] {
        let line = up(&bench, &format!("IMAGE -- echo started\n\n{wrong}\n"))
            .output()
            .one_line(125);
        assert_eq!(line, format!("{:?} line 3: {why}", bench.text("boot")));
    }
    let line = up(&bench, "# nothing\n").output().one_line(125);
    assert_eq!(line, format!("{:?}: no line in it", bench.text("boot")));
    // What can be known only when it is run is that line's failure.
    let output = up(&bench, "/none.tar\nIMAGE -- echo started\n")
        .output()
        .expect(125);
    assert_eq!(output.stdout, "started\n");
    let said = said(&bench, &output);
    assert!(
        said.contains(&"line 1: exit status 125".to_owned()),
        "{said:?}"
    );
    // A line is run by `mini run`, and by nothing else that could be called by hand.
    for command in [&["line", "x"][..], &["check", "line", "x"]] {
        let line = bench.mini(command).output().one_line(125);
        assert_eq!(line, "Unrecognized argument: line (see mini --help)");
    }
    // The core does that in boot files alone.
    let options = ["--restart=on-failure:1"];
    let output = bench
        .run(&options, &["sh", "-c", "echo x; exit 3"])
        .output();
    if is_core() {
        output.fails(125, "--restart: only in a boot file (see mini up --help)");
    } else {
        let output = output.expect(3);
        let said = (output.stdout.as_str(), output.stderr.as_str());
        assert_eq!(said, ("x\nx\n", "mini: exit status 3, again in 100 ms\n"));
    }
}

#[test]
fn standard_input_is_for_one_that_asks_or_is_alone() {
    let Some(bench) = Bench::new("upinput") else {
        return;
    };
    for (lines, expected) in [
        ("IMAGE -- sh -c 'echo a $(cat)'\n", "a typed\n"),
        ("IMAGE -- sh -c 'echo a $(cat)'\nIMAGE -- true\n", "a\n"),
        (
            "IMAGE -- true\n-i IMAGE -- sh -c 'echo b $(cat)'\n",
            "b typed\n",
        ),
    ] {
        assert_eq!(
            up(&bench, lines).input("typed\n").output().ok(),
            expected,
            "{lines}"
        );
    }
}
