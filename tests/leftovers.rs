//! Nothing is left on the host: no mount, no cgroup, no process, no file, however a run ends. `Bench` checks that after
//! every test; here a run fails at each of its steps, and is killed at each of its steps and at random moments.
//!
//! strace does the harm (`-e inject`): as the tracer of the supervisor alone, or attached to the container's first
//! process while that waits for "go", so that calls are counted for one process.

mod support;
use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::{Bench, Output, Run, eventually, guest, have_program, kill, mini};

/// The steps of a plan without who does them.
fn steps(plan: &str) -> Vec<String> {
    let lines = plan.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap().1.trim_start().to_owned())
        .collect()
}

/// The id of a container as it appears in a line, replaced by ID.
fn without_id(text: &str) -> String {
    let mut words = Vec::new();
    let is_id = |word: &&str| {
        word.len() == 12 && word.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
    };
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (name, end) = match word.char_indices().next_back() {
            Some((at, last)) if !last.is_ascii_alphanumeric() => word.split_at(at),
            _ => (word, ""),
        };
        words.push(
            Some(name)
                .filter(|name| !is_id(name))
                .unwrap_or("ID")
                .to_owned()
                + end,
        );
    }
    words.concat()
}

#[test]
fn after_every_kind_of_end() {
    let Some(bench) = Bench::new("ends") else {
        return;
    };
    let directory = bench.busybox_directory();
    for options in [
        &[][..],
        &["-t"],
        &["--no-init"],
        &["--upper", "disk"],
        &["--read-only"],
        &["--net", "host"],
    ] {
        for image in [bench.busybox(), &directory] {
            for (command, status) in [
                ("exit 0", 0),
                ("exit 3", 3),
                ("kill -9 $$", 137),
                ("sleep 100 & exit 4", 4),
            ] {
                // PID 1 of a pid namespace is immune to its own signals.
                let status = if options == ["--no-init"] && status == 137 {
                    0
                } else {
                    status
                };
                bench
                    .mini(&["run"])
                    .args(options)
                    .args(&[image, "--", "sh", "-c", command])
                    .output()
                    .expect(status);
                assert!(
                    bench.processes().is_empty(),
                    "{options:?} {command}: before mini had ended"
                );
            }
            bench
                .mini(&["run"])
                .args(options)
                .args(&[image, "--", "/nope"])
                .output()
                .expect(127);
            bench
                .mini(&["run"])
                .args(options)
                .args(&["-u", "ghost", image])
                .output()
                .expect(125);
            bench.assert_nothing_left();
        }
    }
}

#[test]
fn with_the_hosts_pid_namespace_no_process_outlives_the_supervisor() {
    let Some(bench) = Bench::new("pidhost") else {
        return;
    };
    let mut running = bench
        .run(
            &["--pid", "host"],
            &["sh", "-c", "echo ready; sleep 1000; true"],
        )
        .start();
    running.until("ready");
    running.kill(9);
    running.wait();
    let mut problems = Vec::new();
    swept(&bench, "kill -9", &mut problems);
    bench
        .run(
            &["--pid", "host"],
            &["sh", "-c", "sleep 1000 & (setsid sleep 1000 &) ; exit 4"],
        )
        .output()
        .expect(4);
    swept(&bench, "exit", &mut problems);
    // The directories are those of a killed one.
    problems.retain(|problem| problem.contains("processes"));
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_next_command_sweeps_run_directory_and_store_whatever_it_needs_itself() {
    let Some(bench) = Bench::new("sweep") else {
        return;
    };
    let image = bench.small_image("image");
    let mut running = bench
        .run(&[], &["sh", "-c", "echo ready; sleep 1000"])
        .start();
    running.until("ready");
    running.kill(9);
    running.wait();
    assert!(eventually(|| bench.processes().is_empty()));
    // This one has a directory as image and its changes in memory: nothing on disk.
    bench
        .mini(&["run", &image, "--", "/guest", "exit", "0"])
        .output()
        .ok();
    let files = bench.files();
    bench.run(&[], &["true"]).output().ok();
    assert_eq!(files, Vec::<String>::new());
}

#[test]
fn the_next_command_removes_what_a_killed_one_left() {
    let Some(bench) = Bench::new("killed") else {
        return;
    };
    for options in [&[][..], &["--upper", "disk"], &["-t"], &["--no-init"]] {
        let mut running = bench
            .run(options, &["sh", "-c", "echo ready; sleep 1000"])
            .start();
        running.until("ready");
        // While it runs another one leaves its directories alone.
        bench.run(&[], &["true"]).output().ok();
        let files = bench.files();
        assert!(!files.is_empty());
        running.kill(9);
        running.wait();
        assert!(
            eventually(|| bench.processes().is_empty()),
            "PID 1 outlives its supervisor"
        );
        bench.run(&[], &["true"]).output().ok();
        bench.assert_nothing_left();
    }
}

#[test]
fn what_is_not_a_containers_directory_is_left_alone() {
    let Some(bench) = Bench::new("foreign") else {
        return;
    };
    for place in ["run", "store/containers"] {
        for name in ["0123456789abc", "0123456789a", "0123456789ag", "kept"] {
            fs::create_dir_all(bench.path(place).join(name)).unwrap();
        }
        // A symbolic link of a container's name, and a file.
        std::os::unix::fs::symlink("/etc", bench.path(place).join("0123456789ab")).unwrap();
        fs::write(bench.path(place).join("ba9876543210"), "").unwrap();
    }
    let before = bench.files();
    bench.run(&[], &["true"]).output().ok();
    assert_eq!(bench.files(), before);
    fs::remove_dir_all(bench.path("run")).unwrap();
    fs::remove_dir_all(bench.path("store")).unwrap();
}

#[test]
fn two_hundred_kills_at_random_moments() {
    let Some(bench) = Bench::new("random") else {
        return;
    };
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    eprintln!("seed {seed}");
    thread::scope(|scope| {
        for worker in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                let mut state = seed ^ (worker + 1);
                for round in 0..50 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let options =
                        [&[][..], &["--upper", "disk"], &["-t"], &["--no-init"]][round % 4];
                    let running = bench
                        .run(options, &["sh", "-c", "sleep 1000 & sleep 1000"])
                        .start();
                    // Unpacking takes most of the time; afterwards everything happens within 10 ms.
                    thread::sleep(Duration::from_micros(state % 60_000));
                    running.kill(9);
                    running.wait();
                }
            });
        }
    });
    assert!(
        eventually(|| bench.processes().is_empty()),
        "{:?} still run; seed {seed}",
        bench.processes()
    );
    bench.run(&[], &["true"]).output().ok();
    bench.assert_nothing_left();
}

// --- at every step ---------------------------------------------------------------------------------------------

/// The options that all of these run with: many steps, and directories in memory and on disk.
fn options(bench: &Bench) -> Vec<String> {
    let dir = bench.dir("dir");
    let words = [
        "--upper",
        "disk",
        "-v",
        &format!("{dir}:/v:ro"),
        "-v",
        &format!("{dir}:/strict:noidmap"),
        "--device",
        "/dev/zero:/dev/deep/zero",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "-u",
        "1000",
        "--cap-add",
        "NET_RAW",
        "--oom-score-adj",
        "10",
        "--tmpfs",
        "/t",
        "-w",
        "/w",
        "--ulimit",
        "core=0",
        "-t",
    ];
    // Beside these, what is there by default: ids, idmapped mounts, masks, sets of capabilities, a filter.
    words.iter().map(|word| word.to_string()).collect()
}

/// The system calls of a plan; those that the C library and mini's own bookkeeping make are not among them.
const CALLS: &str = "umask,close_range,unshare,mount,umount2,mkdir,mkdirat,flock,symlink,symlinkat,mknod,mknodat,openat,\
    openat2,write,pwrite64,read,chown,fchownat,fchown,chmod,fchmodat,fchmod,clone3,sendto,recvfrom,prctl,setsid,\
    ioctl,chdir,pivot_root,sethostname,socket,dup3,fcntl,mount_setattr,prlimit64,setgroups,setresgid,setresuid,\
    rt_sigprocmask,execve,poll,ppoll,wait4,kill,unlinkat,signalfd4,socketpair,open,open_tree,move_mount,keyctl,capset,\
    seccomp,pread64,ftruncate,rename,unlink,statfs";

/// Which call, and which one of that name, from a log of strace's.
fn calls(log: &str) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    for line in log.lines() {
        // "PID call(" or "call(", not "<... call resumed>" nor "+++ exited".
        let text = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let Some(name) = text.split_once('(').map(|(name, _)| name) else {
            continue;
        };
        if name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            let nth = found.iter().filter(|(known, _)| known == name).count() + 1;
            found.push((name.to_owned(), nth));
        }
    }
    found
}

/// An archive, and a file system in a file: what is done to mount an image before there is a container.
fn images(bench: &Bench) -> Vec<Vec<String>> {
    let (from, tar) = (bench.small_image("small"), bench.text("image.tar"));
    let make = Run::new("tar").args(&["cf", &tar, "-C", &from, "."]);
    make.output().ok();
    let mut images = vec![vec!["--store".to_owned(), "index".to_owned(), tar]];
    if have_program("mksquashfs") {
        let image = bench.text("image.squashfs");
        let make = Run::new("mksquashfs").args(&[&from, &image, "-quiet", "-no-progress"]);
        make.output().ok();
        images.push(vec![image]);
    }
    images
}

/// Runs mini with an image under strace, which traces the supervisor alone. Nothing is in the cache.
fn mounted(bench: &Bench, image: &[String], inject: Option<&str>, log: &str) -> Output {
    let _ = fs::remove_dir_all(bench.path("store/cache"));
    let mini = mini();
    let trace = format!("trace={CALLS}");
    let mut strace = vec!["-qq", "-e", "signal=none", "-o", log, "-e", &trace];
    strace.extend(inject.iter().flat_map(|inject| ["-e", inject]));
    let run = bench.program("strace").args(&strace);
    let words: Vec<&str> = image.iter().map(String::as_str).collect();
    run.args(&[mini.to_str().unwrap(), "run"])
        .args(&words)
        .args(&["--", "/guest", "exit", "0"])
        .limit(20)
        .output()
}

/// Runs mini under strace, which traces the supervisor alone.
fn supervised(bench: &Bench, image: &str, inject: Option<&str>, log: &str) -> Output {
    let mini = mini();
    let trace = format!("trace={CALLS}");
    let mut strace = vec!["-qq", "-e", "signal=none", "-o", log, "-e", &trace];
    strace.extend(inject.iter().flat_map(|inject| ["-e", inject]));
    let run = bench
        .program("strace")
        .args(&strace)
        .args(&[mini.to_str().unwrap(), "run"]);
    let words = options(bench);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run.args(&words)
        .args(&[image, "--", "/guest", "exit", "0"])
        .limit(20)
        .output()
}

/// Runs mini with strace attached to the container's first process (and all that come from it) before it has done
/// anything; `None` if that came too late. The supervisor's "go" is delayed, on which that process waits.
fn attached(
    bench: &Bench,
    image: &str,
    inject: Option<&str>,
    log: &str,
    milliseconds: u32,
) -> Option<Output> {
    let mini = mini();
    let delay = format!("inject=sendto:delay_enter={}:when=1", milliseconds * 1000);
    let strace = [
        "-qq",
        "-e",
        "signal=none",
        "-o",
        "/dev/null",
        "-e",
        "trace=sendto",
        "-e",
        &delay,
    ];
    let words = options(bench);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = bench
        .program("strace")
        .args(&strace)
        .args(&[mini.to_str().unwrap(), "run", "--no-init"])
        .args(&words);
    let running = run
        .args(&[image, "--", "/guest", "exit", "0"])
        .limit(20)
        .start();
    let child = |pid: i32| -> Option<i32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let mut first = None;
    for _ in 0..20_000 {
        first = child(running.pid()).and_then(child);
        if first.is_some() {
            break;
        }
        thread::sleep(Duration::from_micros(500));
    }
    let first = first
        .expect("the container's first process has not come")
        .to_string();
    let trace = format!("trace={CALLS}");
    let mut attach = vec![
        "-f",
        "-qq",
        "-e",
        "signal=none",
        "-o",
        log,
        "-e",
        &trace,
        "-p",
        &first,
    ];
    attach.extend(inject.iter().flat_map(|inject| ["-e", inject]));
    let attached = bench.program("strace").args(&attach).limit(20).start();
    let output = running.wait();
    attached.wait();
    // Attaching interrupts the call that waits for "go", which is then made again.
    let calls = calls(&fs::read_to_string(log).unwrap());
    (calls.first().is_some_and(|(call, _)| call == "recvfrom")).then_some(output)
}

fn contained(bench: &Bench, image: &str, inject: Option<&str>, log: &str) -> Output {
    let mut tries = [60, 200, 1000].into_iter();
    tries
        .find_map(|time| attached(bench, image, inject, log, time))
        .expect("strace could not be attached in time")
}

/// Forgets what a killed or failed run has left, and says what that was.
fn swept(bench: &Bench, what: &str, problems: &mut Vec<String>) {
    if !eventually(|| bench.processes().is_empty()) {
        problems.push(format!("{what}: processes are left"));
        bench.processes().into_iter().for_each(|pid| kill(pid, 9));
    }
    let files = bench.files();
    if !files.is_empty() {
        problems.push(format!("{what}: left {files:?}"));
        bench.run(&["--upper", "disk"], &["true"]).output().ok();
    }
}

/// What strace does to the nth call of a name, for each call of a log.
fn injections(log: &str, what: &str) -> Vec<(String, String)> {
    let log = fs::read_to_string(log).unwrap();
    calls(&log)
        .into_iter()
        .map(|(call, nth)| (format!("inject={call}:{what}:when={nth}"), call))
        .collect()
}

#[test]
fn killed_at_every_step_of_the_supervisor() {
    let Some(bench) = Bench::new("killstep") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let (image, log) = (bench.small_image("image"), bench.text("log"));
    supervised(&bench, &image, None, &log).expect(0);
    let all = injections(&log, "signal=KILL");
    assert!(all.len() > 60, "{all:?}");
    for (inject, _) in &all {
        supervised(&bench, &image, Some(inject), "/dev/null");
        assert!(
            eventually(|| bench.processes().is_empty()),
            "{inject}: {:?} are left",
            bench.processes()
        );
    }
    assert!(!bench.files().is_empty());
    bench.run(&["--upper", "disk"], &["true"]).output().ok();
    bench.assert_nothing_left();
}

#[test]
fn killed_at_every_step_of_bringing_an_image() {
    let Some(bench) = Bench::new("killimage") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let log = bench.text("log");
    for image in images(&bench) {
        mounted(&bench, &image, None, &log).expect(0);
        let mut unfinished = false;
        for (inject, _) in &injections(&log, "signal=KILL") {
            mounted(&bench, &image, Some(inject), "/dev/null");
            assert!(
                eventually(|| bench.processes().is_empty()),
                "{inject}: {:?} are left",
                bench.processes()
            );
            let new = |path: &String| path.contains("/cache/.new-");
            unfinished |= bench.files().iter().any(new);
            // The next command has another image, and nothing to put into the cache.
            let run = ["run", &bench.text("small"), "--", "/guest", "exit", "0"];
            if !bench.files().is_empty() {
                bench.mini(&run).output().ok();
            }
            // What is still ending is swept by a process that the command has left behind.
            eventually(|| bench.files().is_empty());
            assert_eq!(bench.files(), Vec::<String>::new(), "{inject}");
        }
        assert!(unfinished, "{image:?}");
    }
}

#[test]
fn an_error_at_every_step_of_bringing_an_image_is_reported_and_undone() {
    let Some(bench) = Bench::new("imageerrors") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let log = bench.text("log");
    for image in images(&bench) {
        let words: Vec<&str> = image.iter().map(String::as_str).collect();
        let dry = bench.mini(&["run", "--dry-run"]).args(&words);
        let plan = steps(&without_id(&dry.args(&["--", "/guest"]).output().ok()));
        let (mut named, mut problems) = (BTreeSet::new(), Vec::new());
        mounted(&bench, &image, None, &log).expect(0);
        let all = injections(&log, "error=EPERM");
        let started = all.iter().position(|(_, call)| call == "sendto").unwrap();
        // What only looks decides what is done, and what is said.
        let spared = [
            "execve",
            "rt_sigprocmask",
            "close_range",
            "fcntl",
            "poll",
            "mount_setattr",
        ];
        let calls = all[..started].iter();
        for (inject, _) in calls.filter(|(_, call)| !spared.contains(&call.as_str())) {
            let output = mounted(&bench, &image, Some(inject), "/dev/null");
            judge(inject, &output, &plan, &mut named, &mut problems);
            swept(&bench, inject, &mut problems);
        }
        // Without the lock it cannot be known whose file that is: it is left to the next command.
        problems.retain(|problem| !(problem.contains("=flock:") && problem.contains("/.new-")));
        // What the kernel is first asked with invalid arguments tells whether it has idmapped mounts; that is what is said.
        problems.retain(|problem| !problem.ends_with("the store cannot be idmapped"));
        // (An index that cannot be mounted one way is mounted another way: see tests/old_kernels.rs.)
        let mount = plan.iter().find(|step| step.contains("= {loop}, "));
        assert!(mount.is_none_or(|step| named.contains(step)), "{named:#?}");
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

#[test]
fn killed_at_every_step_of_the_container() {
    let Some(bench) = Bench::new("killinside") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let (image, log) = (bench.small_image("image"), bench.text("log"));
    // On a loaded machine strace may catch the calls of a neighbour: what both runs have counts.
    let seen = || {
        contained(&bench, &image, None, &log).expect(0);
        injections(&log, "signal=KILL")
    };
    let first = seen();
    let all: Vec<_> = seen()
        .into_iter()
        .filter(|call| first.contains(call))
        .collect();
    assert!(all.len() > 60, "{all:?}");
    let mut problems = Vec::new();
    for (inject, _) in &all {
        let output = contained(&bench, &image, Some(inject), &log);
        if output.status != 137 && output.status != 125 {
            problems.push(format!("{inject}: {output:?}"));
        }
        swept(&bench, inject, &mut problems);
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// What an error says of a step that has several calls, or whose arguments are known only when it is done: operation and
/// object. Whoever raises a limit for the container says which limit it would be.
fn shown(step: &str) -> Vec<String> {
    let path = step.split('"').nth(1).unwrap_or_default();
    let operation = step.split('(').next().unwrap();
    match operation {
        // A file system is named by its file, not by the loop device.
        "ioctl" => vec![format!("mount(\"{path}\", \"squashfs\"): ")],
        "fcntl" => vec![format!("fcntl(F_OFD_SETLK)(\"{path}\")")],
        "chown" if step.ends_with("{base}, {base})") => vec![format!("chown(\"{path}\")")],
        "write" if path.ends_with("/uid_map") => vec![
            format!("write(\"{path}\")"),
            format!("write(\"{}\")", path.replace("uid_map", "gid_map")),
        ],
        "write" if path.ends_with("/oom_score_adj") => vec![format!("write(\"{path}\")")],
        "prlimit" => vec![format!("setrlimit({}", step.split(", ").nth(1).unwrap())],
        _ => vec![],
    }
}

/// A process's number as the plan shows it.
fn without_pid(line: &str) -> String {
    match line.split_once("\"/proc/") {
        Some((before, rest)) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}\"/proc/{{pid}}{rest}")
        }
        _ => line.to_owned(),
    }
}

/// What became of a run in which a call failed: either mini did without it, or said which step it was.
fn judge(
    what: &str,
    output: &Output,
    plan: &[String],
    named: &mut BTreeSet<String>,
    problems: &mut Vec<String>,
) {
    let line = output
        .stderr
        .strip_prefix("mini: ")
        .and_then(|line| line.strip_suffix('\n'))
        .map(|line| without_pid(&without_id(line)));
    let line = match (output.status, line) {
        (0, None) if output.stderr.is_empty() => return,
        (125, Some(line)) if !line.contains('\n') && output.stdout.is_empty() => line,
        _ => return problems.push(format!("{what}: {output:?}")),
    };
    let step = plan
        .iter()
        .filter(|step| line.starts_with(&format!("{step}: ")));
    let composite: Vec<&String> = (plan.iter())
        .filter(|step| shown(step).iter().any(|start| line.starts_with(start)))
        .collect();
    named.extend(composite.iter().map(|step| step.to_string()));
    match step.max_by_key(|step| step.len()) {
        Some(step) => drop(named.insert(step.clone())),
        None if !composite.is_empty() => {}
        // Calls beside the plan's steps have an operation and an object all the same.
        None if line.contains("Operation not permitted") => {}
        None => problems.push(format!("{what}: {line}")),
    }
}

#[test]
fn an_error_at_every_step_is_reported_and_undone() {
    let Some(bench) = Bench::new("errors") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let (image, log) = (bench.small_image("image"), bench.text("log"));
    let words = options(&bench);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let dry = bench
        .mini(&["run", "--dry-run", "--no-init"])
        .args(&words)
        .args(&[&image, "--", "/guest", "exit", "0"]);
    let plan = steps(&without_id(&dry.output().ok()));
    let (mut named, mut problems) = (BTreeSet::new(), Vec::new());

    // Twice: later ones find the directories of the first.
    supervised(&bench, &image, None, &log).expect(0);
    supervised(&bench, &image, None, &log).expect(0);
    let all = injections(&log, "error=EPERM");
    // Up to the start of the container: what fails afterwards is left to the next command.
    let started = all.iter().position(|(_, call)| call == "sendto").unwrap();
    let spared = [
        "execve",
        "rt_sigprocmask",
        "read",
        "close_range",
        "fcntl",
        "poll",
        "ioctl",
    ];
    // Of those calls one is a step: the lock on a range of ids.
    let text = fs::read_to_string(&log).unwrap();
    let mut locks = text.lines().filter(|line| line.starts_with("fcntl("));
    let lock = locks.position(|line| line.contains("F_OFD_SETLK")).unwrap() + 1;
    let lock = format!("inject=fcntl:error=EPERM:when={lock}");
    for (inject, _) in all[..=started]
        .iter()
        .filter(|(inject, call)| !spared.contains(&call.as_str()) || *inject == lock)
    {
        let output = supervised(&bench, &image, Some(inject), "/dev/null");
        judge(inject, &output, &plan, &mut named, &mut problems);
        swept(&bench, inject, &mut problems);
    }

    // What the new process does while the supervisor is still at work is too soon for a strace that is attached to it:
    // a filter on all of them refuses it, by the number of its argument that nobody else's has.
    for refused in [
        ["write", "2", "1"],
        ["unshare", "0", "0x40000000"],
        ["sendto", "2", "32"],
    ] {
        // It may be told to go on when it has ended already, or just before.
        for _ in 0..5 {
            let run = bench.program(guest()).args(&["refuse"]).args(&refused);
            let run = run.args(&[mini().to_str().unwrap(), "run", "--no-init"]);
            let run = run
                .args(&words)
                .args(&[&image, "--", "/guest", "exit", "0"]);
            let output = run.limit(20).output();
            assert_eq!(output.status, 125, "{refused:?}: {output:?}");
            judge(
                &refused.join(" "),
                &output,
                &plan,
                &mut named,
                &mut problems,
            );
            swept(&bench, &refused.join(" "), &mut problems);
        }
    }

    for killed in [
        ["kill-unshare", "0", "0x40000000"],
        ["kill-sendto", "2", "32"],
    ] {
        for _ in 0..5 {
            let run = bench.program(guest()).args(&["refuse"]).args(&killed);
            let run = run.args(&[mini().to_str().unwrap(), "run", "--no-init"]);
            let run = run
                .args(&words)
                .args(&[&image, "--", "/guest", "exit", "0"]);
            let what = "the container's first process was killed during set-up (by a signal, or because memory ran out)";
            run.limit(20).output().fails(125, what);
            swept(&bench, &killed.join(" "), &mut problems);
        }
    }

    contained(&bench, &image, None, &log).expect(0);
    let all = injections(&log, "error=EPERM");
    let executed = all.iter().position(|(_, call)| call == "execve").unwrap();
    for (inject, call) in all[..executed]
        .iter()
        .filter(|(_, call)| call != "rt_sigprocmask")
    {
        let output = contained(&bench, &image, Some(inject), &log);
        // Waiting for "go" as if the supervisor was gone ends it without a word.
        if call != "recvfrom" || output.status == 0 {
            judge(inject, &output, &plan, &mut named, &mut problems);
        }
        swept(&bench, inject, &mut problems);
    }
    contained(
        &bench,
        &image,
        Some("inject=execve:error=EPERM:when=1"),
        &log,
    )
    .fails(126, "execve(\"/guest\"): Operation not permitted");

    // Every step has failed once and was named, but for those that cannot fail, are the end, or name what they are
    // made of ("flock(…)", "chown(…)").
    let cannot = [
        "umask(",
        "close_range(",
        "rt_sigaction(",
        "umount2(\"/",
        "rmdir(",
        "remove(",
        "execve(",
        "recv(",
        "poll(",
        "send(",
        "read(",
        // EPERM is a filter around mini, with which it goes on.
        "keyctl(",
        // Without it clone(2) is tried.
        "clone3(",
        // Several calls, each of which is named.
        "flock(LOCK_EX|LOCK_NB) and remove",
        "chown, chmod(",
    ];
    let composite = |step: &str| step.starts_with("mkdir(") && step.contains("flock(");
    for step in plan.iter().filter(|step| !named.contains(*step)) {
        if !composite(step) && !cannot.iter().any(|name| step.starts_with(name)) {
            problems.push(format!("never named: {step}"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn only_what_mini_made_is_swept() {
    let Some(bench) = Bench::new("foreign-swept") else {
        return;
    };
    // The name of a container, but not where containers are.
    let foreign = bench.dir("both/deadbeef0123");
    fs::write(format!("{foreign}/precious"), "x").unwrap();
    fs::set_permissions(
        bench.path("both"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    // The run directory may be the store as well.
    let both = bench.path("both");
    let run = bench.run(&["--upper", "disk"], &["true"]);
    run.env("MINI_RUN", &both)
        .env("MINI_ROOT", &both)
        .output()
        .ok();
    assert_eq!(fs::read(format!("{foreign}/precious")).unwrap(), b"x");
    assert_eq!(fs::read_dir(bench.path("both/running")).unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(bench.path("both/containers")).unwrap().count(),
        0
    );
}

#[test]
fn nothing_is_kept_of_what_never_ran() {
    let Some(bench) = Bench::new("keptnot") else {
        return;
    };
    let output = bench.run(&["--keep"], &["/nope"]).output().expect(127);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert_eq!(fs::read_dir(bench.path("store/kept")).unwrap().count(), 0);
    fs::remove_dir(bench.path("store/kept")).unwrap();
}

#[test]
fn a_set_up_that_was_killed_is_no_status_of_the_command() {
    let Some(bench) = Bench::new("killed-setup") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let mini = support::mini();
    let strace = bench.program("strace").args(&[
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "inject=pivot_root:signal=KILL",
        mini.to_str().unwrap(),
        "run",
        bench.busybox(),
        "--",
        "true",
    ]);
    let line = strace.output().one_line(125);
    assert!(
        line.contains("the container's first process was killed during set-up"),
        "{line}"
    );
}
