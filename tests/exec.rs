//! `mini exec`: the command is in the same place, with the same rights, as the container's own; it ends with mini and with
//! the container; and a hostile container gets nothing of mini's on the way there.

mod support;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Bench, Output, Report, Run, Running, eventually, guest, have_program, is_core, kill, mini,
};

/// The core has no such command.
fn bench(name: &str) -> Option<Bench> {
    if is_core() {
        return None;
    }
    Bench::new(name)
}

/// A container `box` with the guest in it, which has said that it is ready.
#[track_caller]
fn start(bench: &Bench, options: &[&str], script: &str) -> Running {
    let volume = format!("{}:/guest:ro", guest());
    let all = [&["--name", "box", "-v", &volume], options].concat();
    let mut running = bench.run(&all, &["sh", "-c", script]).start();
    running.until("ready");
    running
}

const SLEEP: &str = "echo ready; sleep 1000";

fn exec(bench: &Bench, options: &[&str], command: &[&str]) -> Run {
    bench
        .mini(&["exec"])
        .args(options)
        .args(&["box"])
        .args(command)
}

#[track_caller]
fn stop(bench: &Bench, container: Running) {
    bench.mini(&["stop", "-t", "0", "box"]).output().ok();
    container.wait();
}

/// What two processes of a container have in common, if they have the same place and the same rights.
fn place(report: &Report) -> String {
    let differ = [
        "pid ",
        "ppid ",
        "sid ",
        "pgid ",
        "Pid ",
        "PPid ",
        "Tgid ",
        "Ngid ",
        "NStgid ",
        "NSpid ",
        "NSpgid ",
        "NSsid ",
        "Name ",
        "State ",
        "process ",
        "uptime ",
        "voluntary",
        "nonvoluntary",
        "Vm",
        "Rss",
        "fd ",
        "Sig",
        "HugetlbPages",
        "x86_",
        "Threads",
        "Cpus",
        "Mems",
        "FDSize",
        "Kthread",
        "CoreDumping",
        "THP",
        "untag",
        "Shd",
        "limit Max pending",
        // The shell around the container's own, which with --no-init is what init is elsewhere.
        "init-cmdline ",
        "init-environ ",
        "env PWD=",
        "env SHLVL=",
    ];
    let mut lines: Vec<&str> = report.0.lines().collect();
    lines.retain(|line| !differ.iter().any(|key| line.starts_with(key)));
    lines.sort();
    lines.join("\n")
}

/// Starts a container whose command is `guest report` and stays, and runs the same in it: they see the same.
#[track_caller]
fn assert_same(bench: &Bench, run: &dyn Fn(&[&str]) -> Run, options: &[&str]) {
    let volume = format!("{}:/guest:ro", guest());
    let command = ["sh", "-c", "/guest report; echo ready; exec sleep 1000"];
    let all = [
        &["run", "--name", "box", "-v", &volume],
        options,
        &[bench.busybox(), "--"],
        &command,
    ]
    .concat();
    let mut container = run(&all).start();
    let first = Report(container.until("\nready").replace("\nready\n", "\n"));
    let second = Report(run(&["exec", "box", "/guest", "report"]).output().ok());
    assert_eq!(place(&first), place(&second), "{options:?}");
    assert!(!first.all("ns").is_empty() && !first.all("CapBnd").is_empty());
    let numbers = |report: &Report| -> Vec<String> {
        let fds = report.all("fd").into_iter();
        fds.map(|fd| fd.split(' ').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(numbers(&second), ["0", "1", "2"]);
    for (mini, key) in [
        (&first, "SigIgn"),
        (&first, "SigBlk"),
        (&second, "SigIgn"),
        (&second, "SigBlk"),
    ] {
        assert_eq!(mini.get(key), "0000000000000000", "{key}");
    }
    // Its own session, and nothing above it in the container.
    assert_eq!(
        (second.get("ppid"), second.get("sid")),
        ("0", second.get("pid"))
    );
    run(&["stop", "-t", "0", "box"]).output().ok();
    container.wait();
}

#[test]
fn the_command_is_where_the_containers_own_is() {
    let Some(bench) = bench("exec-same") else {
        return;
    };
    let run = |args: &[&str]| bench.mini(args);
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let profile = bench.file("profile.json", profile);
    let mut all: Vec<Vec<&str>> = vec![
        vec![],
        vec!["--userns", "host"],
        vec![
            "-u",
            "33:44",
            "-w",
            "/tmp",
            "-e",
            "A=b c",
            "-e",
            "N=x\ny",
            "--cap-add",
            "net_raw",
            "--cap-drop",
            "chown",
        ],
        vec![
            "--time",
            "--ulimit",
            "nofile=77:99",
            "--no-new-privs=false",
            "--oom-score-adj",
            "300",
        ],
        vec!["--net", "host", "--ipc", "host", "--uts", "host"],
        vec!["--seccomp", "unconfined", "--masks", "none", "--read-only"],
        vec!["--privileged"],
        vec!["--no-init"],
    ];
    if cfg!(feature = "json") {
        all.push(vec!["--seccomp", &profile]);
    }
    for options in &all {
        assert_same(&bench, &run, options);
    }
}

/// mini as an ordinary user.
fn as_user(bench: &Bench, args: &[&str]) -> Run {
    let user = [
        "--reuid",
        "1000",
        "--regid",
        "1000",
        "--clear-groups",
        "env",
        "PATH=/nowhere",
        mini().to_str().unwrap(),
    ]
    .map(str::to_owned);
    let mut run = bench.program("setpriv");
    run.command.args(user).args(args);
    run
}

#[test]
fn without_root_as_well() {
    let Some(bench) = bench("exec-rootless") else {
        return;
    };
    std::os::unix::fs::chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    let run = |args: &[&str]| as_user(&bench, args);
    let all: [&[&str]; 5] = [
        &[],
        &["--time"],
        &["--no-init"],
        &["--userns", "keep-id"],
        &["--privileged"],
    ];
    for options in all {
        assert_same(&bench, &run, options);
    }
}

#[test]
fn the_status_is_the_commands() {
    let Some(bench) = bench("exec-status") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    let run = |command: &[&str]| exec(&bench, &[], command).output();
    assert_eq!(run(&["echo", "-n", "x"]).ok(), "x");
    run(&["sh", "-c", "exit 3"]).expect(3);
    run(&["sh", "-c", "kill -9 $$"]).expect(137);
    run(&["sh", "-c", "kill -15 $$"]).expect(143);
    run(&["/nowhere"]).fails(127, "execve(\"/nowhere\"): not found in the container");
    run(&["/etc/passwd"]).fails(126, "execve(\"/etc/passwd\"): no permission to execute it");
    let chdir = "chdir(\"/nowhere\"): No such file or directory";
    exec(&bench, &["-w", "/nowhere"], &["true"])
        .output()
        .fails(125, chdir);
    let user = "--user: no user \"who\" in the container's /etc/passwd";
    exec(&bench, &["-u", "who"], &["true"])
        .output()
        .fails(125, user);
    run(&[]).fails(125, "exec: no command given");
    bench.mini(&["exec"]).output().one_line(125);
    exec(&bench, &["-d", "-t"], &["true"])
        .output()
        .fails(125, "--detach excludes --tty and --interactive");
    // Words that look like options are the command's.
    assert_eq!(run(&["--", "echo", "-d"]).ok(), "-d\n");
    stop(&bench, container);
    let ended = "\"box\": no running container (mini ps lists those that are running)";
    run(&["true"]).fails(125, ended);
}

#[test]
fn options_change_what_the_container_has() {
    let Some(bench) = bench("exec-options") else {
        return;
    };
    let container = start(
        &bench,
        &["-e", "A=1", "-e", "B=1", "--memory", "64m"],
        SLEEP,
    );
    let options = ["-e", "A=2", "-w", "/tmp", "-u", "33:44"];
    let script = "echo $A $B $PWD $(id -u) $(id -g) $HOME; cat /proc/self/cgroup";
    let text = exec(&bench, &options, &["sh", "-c", script]).output().ok();
    let (first, cgroups) = text.split_once('\n').unwrap();
    assert_eq!(first, "2 1 /tmp 33 44 /");
    let own = exec(&bench, &[], &["cat", "/proc/1/cgroup"]).output().ok();
    assert_eq!(cgroups, own);
    let status = |options: &[&str]| Report(exec(&bench, options, &["/guest"]).output().ok());
    let (plain, privileged) = (status(&[]), status(&["--privileged"]));
    assert_eq!(plain.get("CapEff"), "00000000800405fb");
    assert_eq!((plain.get("NoNewPrivs"), plain.get("Seccomp")), ("1", "2"));
    let all = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    let all = (1u64 << (all.trim().parse::<u64>().unwrap() + 1)) - 1;
    assert_eq!(privileged.get("CapEff"), format!("{all:016x}"));
    assert_eq!(
        (privileged.get("NoNewPrivs"), privileged.get("Seccomp")),
        ("0", "0")
    );
    // As far as the container's user namespace goes, and no further.
    assert_eq!(privileged.all("ns"), plain.all("ns"));
    assert_eq!(privileged.ids(), plain.ids());
    let hostname = exec(
        &bench,
        &["--privileged"],
        &["sh", "-c", "echo x > /proc/sys/kernel/panic"],
    )
    .output();
    assert_ne!(hostname.status, 0);
    stop(&bench, container);
}

#[test]
fn standard_streams_are_passed_on() {
    let Some(bench) = bench("exec-streams") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    let big: Vec<u8> = (0..1_000_000u32)
        .map(|number| b'a' + (number % 26) as u8)
        .collect();
    let output = exec(&bench, &[], &["cat"]).input(big.clone()).output().ok();
    assert!(output.as_bytes() == big);
    let output = exec(&bench, &["-i"], &["sh", "-c", "cat; echo e >&2"])
        .input("in")
        .output();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("in", "e\n")
    );
    // A terminal of the container's own.
    let output = exec(&bench, &["-t"], &["sh", "-c", "tty; stty size; echo $TERM"])
        .env("TERM", "screen")
        .output();
    assert_eq!(output.expect(0).stdout, "/dev/pts/0\r\n24 80\r\nscreen\r\n");
    let output = exec(&bench, &["-t"], &["cat"]).input("typed\n").output();
    assert_eq!(output.expect(0).stdout, "typed\r\ntyped\r\n");
    let report = exec(&bench, &["-t"], &["/guest"])
        .output()
        .expect(0)
        .stdout
        .replace('\r', "");
    let report = Report(report);
    assert_eq!(report.get("foreground"), report.get("pid"));
    stop(&bench, container);
}

#[test]
fn signals_reach_the_command() {
    let Some(bench) = bench("exec-signals") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("USR1", 10)] {
        let script =
            format!("trap 'echo got; exit 9' {name}; echo up; while :; do sleep 0.05; done");
        let mut running = exec(&bench, &[], &["sh", "-c", &script]).start();
        running.until("up");
        running.kill(number);
        let output = running.wait().expect(9);
        assert!(
            output.stdout.ends_with("got\n"),
            "{name}: {}",
            output.stdout
        );
    }
    stop(&bench, container);
}

/// The processes of the container with this argument, as it sees them itself.
fn count(bench: &Bench, argument: &str) -> usize {
    let text = exec(bench, &[], &["ps", "-o", "args"]).output().ok();
    text.lines()
        .filter(|line| line.starts_with("sleep") && line.ends_with(argument))
        .count()
}

#[test]
fn the_command_dies_with_mini() {
    let Some(bench) = bench("exec-killed") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    for option in [&[][..], &["-t"]] {
        let mut running = exec(&bench, option, &["sh", "-c", "echo up; exec sleep 2222"]).start();
        running.until("up");
        assert!(eventually(|| count(&bench, "2222") == 1));
        running.kill(9);
        assert_eq!(running.wait().status, -9);
        assert!(eventually(|| count(&bench, "2222") == 0));
    }
    stop(&bench, container);
}

#[test]
fn the_command_dies_with_the_container() {
    let Some(bench) = bench("exec-ends") else {
        return;
    };
    // Also one that is in the host's pid namespace: then its cgroup ends it, or mini.
    for options in [
        &[][..],
        &["--no-init"],
        &["--pid", "host"],
        &["--pid", "host", "--pids-limit", "-1"],
    ] {
        let container = start(&bench, options, SLEEP);
        let mut running = exec(&bench, &[], &["sh", "-c", "echo up; exec sleep 2223"]).start();
        running.until("up");
        bench.mini(&["stop", "-t", "0", "box"]).output().ok();
        assert_eq!(running.wait().status, 137, "{options:?}");
        container.wait();
        bench.assert_nothing_left();
    }
    // mini that is killed takes the container and those who have joined it with it.
    let container = start(&bench, &[], SLEEP);
    let mut running = exec(&bench, &[], &["sh", "-c", "echo up; exec sleep 2224"]).start();
    running.until("up");
    container.kill(9);
    container.wait();
    running.wait().expect(137);
    bench.mini(&["ps"]).output().ok();
}

#[test]
fn a_detached_command_stays_until_the_container_ends() {
    let Some(bench) = bench("exec-detached") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    let began = Instant::now();
    assert_eq!(exec(&bench, &["-d"], &["sleep", "2225"]).output().ok(), "");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(count(&bench, "2225"), 1);
    // What fails before it runs is told.
    exec(&bench, &["-d"], &["/nowhere"])
        .output()
        .fails(127, "execve(\"/nowhere\"): not found in the container");
    exec(&bench, &["-d"], &["/guest", "write", "/out", "x"])
        .output()
        .ok();
    assert!(eventually(|| exec(&bench, &[], &["cat", "/out"])
        .output()
        .stdout
        == "x"));
    exec(&bench, &["-d"], &["sh", "-c", "/guest report > /report"])
        .output()
        .ok();
    let read = || Report(exec(&bench, &[], &["cat", "/report"]).output().stdout);
    assert!(eventually(|| !read().all("process").is_empty()));
    for number in 0..2 {
        // Of the container's own devices.
        assert_eq!(
            read().all("fd")[number].split(' ').nth(1),
            Some(["/dev/null", "/report"][number])
        );
    }
    // The container's init reaps it.
    exec(&bench, &["-d"], &["true"]).output().ok();
    let zombies = || {
        exec(
            &bench,
            &[],
            &["sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status"],
        )
        .output()
        .stdout
    };
    assert!(eventually(|| zombies().is_empty()));
    stop(&bench, container);
    bench.assert_nothing_left();
    // Nothing would end it.
    let container = start(&bench, &["--pid", "host", "--pids-limit", "-1"], SLEEP);
    let line = exec(&bench, &["-d"], &["sleep", "2226"])
        .output()
        .one_line(125);
    assert!(line.ends_with(
        "has neither a pid namespace nor a cgroup of its own (nothing would end the command when the container ends)"
    ));
    stop(&bench, container);
    let container = start(&bench, &["--pid", "host"], SLEEP);
    exec(&bench, &["-d"], &["sleep", "2226"]).output().ok();
    stop(&bench, container);
}

#[test]
fn a_paused_container_is_refused() {
    let Some(bench) = bench("exec-paused") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    if bench.mini(&["pause", "box"]).output().status != 0 {
        stop(&bench, container);
        return assert!(!Path::new("/sys/fs/cgroup/freezer").exists());
    }
    let line = exec(&bench, &[], &["true"]).output().one_line(125);
    assert!(
        line.ends_with(" is paused (mini unpause lets it go on)"),
        "{line}"
    );
    bench.mini(&["unpause", "box"]).output().ok();
    exec(&bench, &[], &["true"]).output().ok();
    stop(&bench, container);
}

#[test]
fn many_at_once() {
    let Some(bench) = bench("exec-many") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    let all: Vec<Running> = (0..50)
        .map(|number| {
            exec(
                &bench,
                &[],
                &["sh", "-c", &format!("echo {number}; exit {}", number % 7)],
            )
            .start()
        })
        .collect();
    for (number, running) in all.into_iter().enumerate() {
        assert_eq!(
            running.wait().expect(number as i32 % 7).stdout,
            format!("{number}\n")
        );
    }
    stop(&bench, container);
}

#[test]
fn it_ends_at_any_moment() {
    let Some(bench) = bench("exec-race") else {
        return;
    };
    for round in 0..12 {
        let container = start(&bench, &[], SLEEP);
        let all: Vec<Running> = (0..4)
            .map(|_| exec(&bench, &[], &["sleep", "100"]).start())
            .collect();
        thread::sleep(Duration::from_millis(round * 2));
        container.kill(9);
        container.wait();
        for running in all {
            let Output { status, stderr, .. } = running.wait();
            let ended = stderr.ends_with(" has ended\n") || stderr.contains("no running container");
            assert!(
                status == 137 && stderr.is_empty() || status == 125 && ended,
                "{status} {stderr}"
            );
        }
        bench.mini(&["ps"]).output().ok();
    }
}

/// What the container's root can do with mini on its way to a command's execve: nothing but what is in `but`.
#[track_caller]
fn assert_not_trapped(
    bench: &Bench,
    mini: &dyn Fn(&[&str]) -> Run,
    options: &[&str],
    but: &[&str],
    rounds: usize,
) {
    // The user is found after a long search, in which the container has its chance.
    let script = "for i in $(seq 20000); do echo user$i:x:$i:$i::/:/bin/sh; done > /etc/passwd; echo late:x:0:0::/:/bin/sh >> /etc/passwd
        exec /guest trap /end";
    let volume = format!("{}:/guest:ro", guest());
    let image = bench.busybox();
    let all = ["run", "--name", "box", "-v", &volume];
    let all = [&all, options, &[image, "--", "sh", "-c", script]].concat();
    let mut trap = mini(&all).start();
    trap.until("ready");
    for round in 0..rounds {
        let terminal: &[&str] = if round % 4 == 3 { &["-t"] } else { &[] };
        let command = ["-u", "late", "box", "/guest", "sleep", "0.02"];
        let words = [&["exec"], terminal, &command].concat();
        mini(&words).output().expect(0);
    }
    // It may end with the container.
    mini(&["exec", "box", "touch", "/end"]).output();
    let report = Report(trap.wait().expect(0).stdout);
    let mut trapped = report.all("trapped");
    trapped.retain(|what| !but.iter().any(|known| what.starts_with(known)));
    assert_eq!(trapped, [""; 0], "{options:?}");
    let number = |key: &str| report.get(key).parse::<usize>().unwrap();
    // It has seen what there is to see, and was able to use it.
    assert!(number("seen") >= rounds / 2, "{options:?}: {}", report.0);
    assert!(
        number("early") > 0 && number("reached") > 0,
        "{options:?}: {}",
        report.0
    );
}

#[test]
fn a_hostile_container_cannot_trap_it() {
    let Some(bench) = bench("exec-trap") else {
        return;
    };
    let run = |args: &[&str]| bench.mini(args);
    assert_not_trapped(&bench, &run, &[], &[], 200);
    let all = ["--cap-add", "ALL", "--seccomp", "unconfined", "--no-init"];
    assert_not_trapped(&bench, &run, &all, &[], 60);
    assert_not_trapped(&bench, &run, &["--userns", "host"], &[], 60);
    // Here the kernel lets it trace whomever it sees. It finds a sealed copy of mini and the socket to it, but no rights.
    let host = ["--userns", "host", "--cap-add", "SYS_PTRACE"];
    let but = ["exe of", "descriptor 3 "];
    assert_not_trapped(&bench, &run, &host, &but, 60);
}

#[test]
fn nor_can_one_of_the_same_user() {
    let Some(bench) = bench("exec-trap-rootless") else {
        return;
    };
    std::os::unix::fs::chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    let run = |args: &[&str]| as_user(&bench, args);
    assert_not_trapped(&bench, &run, &[], &[], 60);
    let all = ["--privileged"];
    assert_not_trapped(&bench, &run, &all, &[], 60);
}

#[test]
fn paths_that_lead_to_mini_lead_nowhere() {
    let Some(bench) = bench("exec-paths") else {
        return;
    };
    // In place of what mini opens inside lies a link to what mini has open, or is.
    for (path, to) in [
        ("/dev/null", "/proc/self/fd/0"),
        ("/dev/null", "/proc/self/fd/1"),
        ("/dev/null", "/etc/motd"),
    ] {
        let script = format!("rm -f {path}; echo text > /etc/motd; ln -s {to} {path}; {SLEEP}");
        let container = start(&bench, &["--userns", "host", "--cap-add", "ALL"], &script);
        let line = exec(&bench, &[], &["ls", "-l", "/proc/self/fd/0"])
            .output()
            .one_line(125);
        assert!(
            line.starts_with("open(\"/dev/null\"), dup3({null}, 0): "),
            "{line}"
        );
        stop(&bench, container);
    }
    let script = format!(
        "mkdir /d; mount -t tmpfs none /dev/pts; ln -s /proc/self/fd/0 /dev/pts/ptmx; {SLEEP}"
    );
    let options = [
        "--cap-add",
        "ALL",
        "--seccomp",
        "unconfined",
        "--userns",
        "host",
    ];
    let container = start(&bench, &options, &script);
    let line = exec(&bench, &["-t"], &["true"]).output().one_line(125);
    assert!(
        line.starts_with("open(\"/dev/pts/ptmx\", O_RDWR|O_NOCTTY), ioctl(TIOCGPTPEER)"),
        "{line}"
    );
    // Its own file is not to be had by executing it either: it is a sealed copy.
    let output = exec(&bench, &[], &["sh", "-c", "exec 3> /proc/self/exe"]).output();
    assert_ne!(output.status, 0);
    stop(&bench, container);
}

#[test]
fn the_trace_has_the_lines_of_the_dry_run() {
    let Some(bench) = bench("exec-trace") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    let plan = exec(&bench, &["--dry-run"], &["true"]).output().ok();
    let trace = exec(&bench, &["--trace"], &["true"])
        .output()
        .expect(0)
        .stderr;
    let sorted = |text: &str| {
        let lines = text
            .lines()
            .map(|line| line.split(" <").next().unwrap().to_owned());
        let mut lines: Vec<String> = lines.filter(|line| !line.starts_with('#')).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&plan), sorted(&trace));
    let namespaces = "setns({pidfd}, CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWNET|CLONE_NEWIPC|CLONE_NEWUTS|CLONE_NEWCGROUP)";
    assert!(plan.contains(namespaces), "{plan}");
    let position = |text: &str| plan.find(text).unwrap_or_else(|| panic!("{text}: {plan}"));
    assert!(position("SUID_DUMP_DISABLE") < position("setns("));
    assert!(position("close all but") < position("setns("));
    // Nobody inside sees a process that has more rights than the command, or a filter less.
    let passed = position("CLONE_PARENT");
    for step in [
        "setresuid(0, 0, 0)",
        "setresuid({uid}",
        "PR_CAPBSET_DROP",
        "capset(",
        "PR_SET_NO_NEW_PRIVS",
        "seccomp(",
        "close_range(4",
        "open(\"/dev/null\")",
    ] {
        assert!(position(step) < passed, "{step}");
    }
    stop(&bench, container);
}

#[test]
fn kill_9_leaves_nothing() {
    let Some(bench) = bench("exec-nothing") else {
        return;
    };
    let container = start(&bench, &[], SLEEP);
    for delay in 0..30 {
        let running = exec(&bench, &[], &["sleep", "2227"]).start();
        thread::sleep(Duration::from_micros(delay * 150));
        kill(running.pid(), 9);
        running.wait();
    }
    assert!(eventually(|| count(&bench, "2227") == 0));
    stop(&bench, container);
    bench.assert_nothing_left();
}

#[test]
fn older_kernels_do_as_well() {
    let Some(bench) = bench("exec-older") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let container = start(&bench, &[], SLEEP);
    let without = |calls: &str, arguments: &[&str]| {
        let trace = format!("trace={calls}");
        let inject = format!("inject={calls}:error=ENOSYS");
        let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let run = bench.program("strace").args(&strace);
        let run = run.args(&[mini().to_str().unwrap(), "exec"]);
        run.args(arguments).output()
    };
    let plan = without("pidfd_open", &["--dry-run", "box", "true"]).ok();
    assert!(plan.contains("setns({ns/user}, CLONE_NEWUSER)"), "{plan}");
    assert!(plan.contains("setns({ns/pid}, CLONE_NEWPID)"), "{plan}");
    let plain = Report(exec(&bench, &[], &["/guest"]).output().ok());
    for calls in [
        "pidfd_open",
        "pidfd_open,clone3,close_range",
        "openat2,seccomp",
    ] {
        let report = Report(without(calls, &["box", "/guest"]).ok());
        assert_eq!(place(&plain), place(&report), "{calls}");
        assert_eq!(report.all("fd").len(), 3, "{calls}");
        without(calls, &["box", "sh", "-c", "exit 3"]).expect(3);
        without(calls, &["-t", "box", "test", "-t", "0"]).expect(0);
        without(calls, &["-d", "box", "true"]).expect(0);
    }
    stop(&bench, container);
}

#[test]
fn a_container_that_is_being_set_up_is_not_joined() {
    let Some(bench) = bench("exec-early") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    for options in [&[][..], &["--no-init"], &["--userns", "host"]] {
        // Slowly enough to be looked at in between.
        let strace = [
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=mount,pivot_root,umount2,execve,pwrite64",
        ];
        let slow = [
            "-e",
            "inject=mount,pivot_root,umount2,execve,pwrite64:delay_exit=15000",
        ];
        let run = bench.program("strace").args(&strace).args(&slow);
        let run = run.args(&[mini().to_str().unwrap(), "run", "--name", "box"]);
        let run = run
            .args(options)
            .args(&[bench.busybox(), "--", "sh", "-c", SLEEP]);
        let mut container = run.start();
        let (mut early, mut joined) = (0, false);
        while !joined {
            let script = "read root < /etc/hostname; echo $root $$; ls -d /proc/1/status";
            let output = exec(&bench, &[], &["sh", "-c", script]).output();
            joined = output.status == 0;
            match output.status {
                0 => assert!(output.stdout.starts_with("box "), "{}", output.stdout),
                _ => {
                    let starting = output.stderr.ends_with(": it is still being started\n");
                    let none = output.stderr.contains("no running container");
                    assert!(output.status == 125 && (starting || none), "{output:?}");
                    early += usize::from(starting);
                }
            }
        }
        assert!(early > 0, "{options:?}");
        container.until("ready");
        stop(&bench, container);
    }
}

#[test]
fn a_full_container_says_so() {
    let Some(bench) = bench("exec-full") else {
        return;
    };
    let container = start(
        &bench,
        &["--pids-limit", "2"],
        "echo ready; exec sleep 1000",
    );
    let line = exec(&bench, &[], &["true"]).output().one_line(125);
    let why = "(the container's --pids-limit is reached, or its user has too many processes (RLIMIT_NPROC))";
    assert!(line.ends_with(why), "{line}");
    stop(&bench, container);
}
