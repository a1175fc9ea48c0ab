//! Kernels that lack a system call, played by strace, which answers ENOSYS for it: an ordinary run works all the same,
//! and what is promised still holds. One test for each row of the README's kernel table that can be played this way.
//! A default protection that is lost is named by `--trace` and `mini check`; one that was asked for is an error. `fsopen`,
//! `statx` and `copy_file_range` are not called by a run at present: that it can do without them is to stay so.

mod support;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use support::{Bench, Output, Report, eventually, guest, have_program};

/// `mini ARGUMENTS` where none of these calls exists, in any process.
fn mini_without(bench: &Bench, calls: &str, arguments: &[&str]) -> Output {
    let mini = support::mini();
    let trace = format!("trace={calls}");
    let inject = format!("inject={calls}:error=ENOSYS");
    let strace = [
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ];
    let run = bench.program("strace").args(&strace);
    run.args(&[mini.to_str().unwrap()]).args(arguments).output()
}

/// `mini run OPTIONS busybox.tar -- COMMAND` there.
fn without(bench: &Bench, calls: &str, options: &[&str], command: &[&str]) -> Output {
    let volume = format!("{}:/guest:ro", guest());
    let run = [&["run", "-v", &volume], options, &[bench.busybox(), "--"]].concat();
    mini_without(bench, calls, &[&run, command].concat())
}

/// Everything that a run promises and that could be lost where a call is missing. `rows` are those of `mini check`'s table
/// that are to say so; where "idmapped tmpfs" is one of them, owners of volumes are lost, and that is to be reported.
fn all_is_well(name: &str, calls: &str, rows: &[&str]) {
    let Some(bench) = Bench::new(name) else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let dir = bench.dir("dir");
    bench.file("dir/file", "there\n");
    let (rw, ro) = (format!("{dir}:/rw"), format!("{dir}:/ro:ro"));
    let options = [
        "-v",
        &rw,
        "-v",
        &ro,
        "--tmpfs",
        "/t",
        "--ulimit",
        "nofile=100",
        "-w",
        "/made",
        "-u",
        "user",
        "--read-only",
    ];
    let output = without(&bench, calls, &options, &["/guest", "report"]);
    let report = Report(output.ok());
    assert_eq!(
        (report.get("pid"), report.get("Uid"), report.get("cwd")),
        ("2", "1000 1000 1000 1000", "/made")
    );
    assert_eq!(report.all("fd").len(), 3, "{:?}", report.all("fd"));
    assert_eq!(report.all("init-fd").len(), 0);
    for (at, mode) in [
        ("/rw", "rw"),
        ("/ro", "ro"),
        ("/", "ro"),
        ("/guest", "ro"),
        ("/t", "rw"),
    ] {
        let mount = report.mount(at);
        assert!(mount.has(mode), "{mount:?}");
        assert!(
            at == "/" || mount.has("nosuid") && mount.has("nodev"),
            "{mount:?}"
        );
    }
    let script = "cat /ro/file; (echo x > /ro/new) 2>&1; echo y > /rw/new; exit 7";
    let output = without(
        &bench,
        calls,
        &["-v", &rw, "-v", &ro],
        &["sh", "-c", script],
    )
    .expect(7);
    assert_eq!(
        output.stdout,
        "there\nsh: can't create /ro/new: Read-only file system\n"
    );
    assert!(bench.path("dir/new").exists());
    assert_eq!(
        without(&bench, calls, &["-t"], &["sh", "-c", "tty"])
            .expect(0)
            .stdout,
        "/dev/pts/0\r\n"
    );
    without(&bench, calls, &["--no-init"], &["sh", "-c", "kill -9 $$"]);
    without(&bench, calls, &[], &["/nope"])
        .fails(127, "execve(\"/nope\"): not found in the container");

    // What is lost is said, by `--trace` and by `mini check`; and nothing is said to be lost that is not.
    let why = "cannot be idmapped (its file system, or Linux before 5.19)";
    let lost = format!(
        "root's files inside are root's outside: \"{}\" {why}",
        guest()
    );
    let lost = Vec::from_iter(rows.contains(&"idmapped tmpfs").then_some(lost.as_str()));
    let traced = without(&bench, calls, &["--trace"], &["true"]).expect(0);
    assert_eq!(notes(&traced.stderr), lost);
    let degraded = traced.stderr.lines();
    let degraded = degraded.filter_map(|line| line.strip_prefix("# degraded: "));
    assert_eq!(degraded.collect::<Vec<_>>(), lost);
    let volume = format!("{}:/guest:ro", guest());
    let check = ["check", "run", "-v", &volume, bench.busybox(), "--", "true"];
    let (status, said) = match lost.first() {
        None => (0, "\nmini run works, nothing is left out\n".to_owned()),
        Some(lost) => (1, format!("\nmini run works, but:\n  {lost}\n")),
    };
    let checked = mini_without(&bench, calls, &check).expect(status).stdout;
    assert!(checked.ends_with(&said), "no {said} in {checked}");
    let table = bench.mini(&["check"]).output();
    let before = missing(&table.stdout);
    let table = mini_without(&bench, calls, &["check"]);
    let mut now = missing(&table.stdout);
    now.retain(|row| !before.contains(row));
    assert_eq!(now, rows, "{}", table.stdout);
}

/// The features that `mini check` says are not there.
fn missing(table: &str) -> Vec<&str> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("no   "));
    rows.flat_map(|row| row.split(':').next()).collect()
}

#[test]
fn without_openat2() {
    all_is_well("openat2", "openat2", &["openat2"]);
}

#[test]
fn without_clone3() {
    all_is_well("clone3", "clone3", &["clone3"]);
}

#[test]
fn without_close_range() {
    all_is_well("close_range", "close_range", &["close_range"]);
}

#[test]
fn without_mount_setattr() {
    all_is_well(
        "mount_setattr",
        "mount_setattr",
        &["mount_setattr", "idmapped tmpfs"],
    );
}

#[test]
fn without_pidfd_open() {
    all_is_well("pidfd_open", "pidfd_open", &["pidfd_open"]);
}

/// It is only called where another container of the image runs.
#[test]
fn without_pidfd_open_containers_of_one_image_do_not_share_its_mount() {
    let Some(bench) = bench("anew") else {
        return;
    };
    // It ends when its input does.
    let mut first = bench.run(&["-i"], &["sh", "-c", "echo up; read line; exit 0"]);
    first.command.stdin(Stdio::piped());
    let mut first = first.start();
    first.until("up\n");
    let run = [
        "run",
        "--trace",
        bench.busybox(),
        "--",
        "cat",
        "/etc/hostname",
    ];
    let shares = |output: Output| {
        let output = output.expect(0);
        assert_eq!(output.stdout.len(), "0123456789ab\n".len());
        assert_eq!(notes(&output.stderr), Vec::<&str>::new());
        assert!(
            output.stderr.contains("from the cache, "),
            "{}",
            output.stderr
        );
        output
            .stderr
            .contains("from the cache, shared with another container\n")
    };
    assert!(shares(bench.mini(&run).output()));
    assert!(!shares(mini_without(&bench, "pidfd_open", &run)));
    // It is not in the way of those who come after it.
    assert!(shares(bench.mini(&run).output()));
    drop(first.child.stdin.take());
    first.wait().expect(0);
}

#[test]
fn without_open_tree() {
    all_is_well("open_tree", "open_tree", &["open_tree", "idmapped tmpfs"]);
}

#[test]
fn without_move_mount() {
    all_is_well("move_mount", "move_mount", &["idmapped tmpfs"]);
}

#[test]
fn without_fsopen() {
    all_is_well("fsopen", "fsopen", &[]);
}

#[test]
fn without_statx() {
    all_is_well("statx", "statx", &[]);
}

#[test]
fn without_copy_file_range() {
    all_is_well("copy_file_range", "copy_file_range", &[]);
}

#[test]
fn without_any_of_them() {
    let calls = "clone3,openat2,close_range,pidfd_open,open_tree,mount_setattr,move_mount,fsopen,statx,copy_file_range";
    let rows = [
        "clone3",
        "openat2",
        "close_range",
        "pidfd_open",
        "open_tree",
        "mount_setattr",
        "idmapped tmpfs",
    ];
    all_is_well("all", calls, &rows);
}

#[test]
fn without_openat2_hostile_links_still_stay_inside() {
    let Some(bench) = Bench::new("links") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let canary = bench.dir("canary");
    let volume = format!("{}:/image/out/x", bench.dir("dir"));
    let image = bench.small_image("image");
    std::os::unix::fs::symlink(&canary, bench.path("image/out")).unwrap();
    std::os::unix::fs::symlink(&canary, bench.path("image/etc")).unwrap();
    let mini = support::mini();
    let strace = [
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=openat2",
        "-e",
        "inject=openat2:error=ENOSYS",
    ];
    let run = bench.program("strace").args(&strace).args(&[
        mini.to_str().unwrap(),
        "run",
        "-v",
        &volume,
        "-w",
        "/out/deep",
    ]);
    run.args(&[&image, "--", "/guest", "exit", "0"])
        .output()
        .ok();
    assert_eq!(
        std::fs::read_dir(&canary).unwrap().count(),
        0,
        "something was made outside"
    );
}

#[test]
fn without_mount_setattr_nothing_below_a_read_only_volume_is_writable() {
    let Some(bench) = Bench::new("below") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let script = "mkdir v; mkdir v/sub; mount -t tmpfs none v/sub
        strace -f -qq -o /dev/null -e inject=mount_setattr:error=ENOSYS \
            $MINI run -v $PWD/v:/v:ro $BUSYBOX -- sh -c '! (echo x > /v/x) 2>/dev/null; ! (echo x > /v/sub/x) 2>/dev/null; echo done'
        ls v/sub | wc -l";
    assert_eq!(bench.private_shell(script).output().ok(), "done\n0\n");
}

// --- protections -----------------------------------------------------------------------------------------------

/// `mini ARGUMENTS` where a call answers as `inject` says, in mini itself or with `all` in every process.
fn injected(bench: &Bench, all: bool, inject: &str, arguments: &[&str]) -> Output {
    let mini = support::mini();
    let inject = format!("inject={inject}");
    let mut strace = vec!["-qq", "-o", "/dev/null", "-e", &inject];
    if all {
        strace.push("-f");
    }
    let run = bench.program("strace").args(&strace);
    run.args(&[mini.to_str().unwrap()]).args(arguments).output()
}

/// The bench, if strace is there.
fn bench(name: &str) -> Option<Bench> {
    let bench = Bench::new(name)?;
    have_program("strace").then_some(bench)
}

/// The notes in what `--trace` says, but for the report on what was obtained in the end.
fn notes(trace: &str) -> Vec<&str> {
    let lines = trace.lines().filter_map(|line| line.strip_prefix("# "));
    let known = [
        "capabilities ",
        "no_new_privs: ",
        "seccomp: ",
        "namespaces, ",
        "ids: ",
        "masked: ",
        "read-only: ",
        "degraded: ",
    ];
    lines
        .filter(|line| !known.iter().any(|start| line.starts_with(start)))
        .filter(|line| !line.contains(" members, ") && !line.contains(": index of "))
        .collect()
}

const OWNERS: &str = "tr -s ' ' < /proc/self/uid_map; cd /; stat -c '%n %u %g' . etc/passwd home/user
    chown 5:6 etc/passwd home; chown 65535 home/user; touch new; stat -c '%n %u %g' etc/passwd home home/user new";

const IDMAP: &str = "mount_setattr:error=ENOSYS";

#[test]
fn without_idmapped_mounts_an_archive_is_unpacked_as_the_containers_own() {
    let Some(bench) = bench("shift") else {
        return;
    };
    let owners = ". 0 0\netc/passwd 0 0\nhome/user 1000 1000\n\
        etc/passwd 5 6\nhome 5 6\nhome/user 65535 1000\nnew 0 0\n";
    for options in [
        &[][..],
        &["--userns", "auto"],
        &["--upper", "disk"],
        &["--no-init", "--read-only=false", "-t"],
    ] {
        let arguments = [
            &["run", "--trace"],
            options,
            &[bench.busybox(), "--", "sh", "-c", OWNERS],
        ];
        let output = injected(&bench, true, IDMAP, &arguments.concat()).expect(0);
        let stdout = output.stdout.replace('\r', "");
        let (map, rest) = stdout.split_once('\n').unwrap();
        assert_eq!(rest, owners, "{options:?}");
        let map: Vec<u32> = map.split_whitespace().flat_map(str::parse).collect();
        assert!(
            map[0] == 0 && map[1] >= 0x7739_0000 && map[2] == 65536,
            "{map:?}"
        );
        let text = output.stderr.replace('\r', "");
        let note = "archives are unpacked: the store cannot be idmapped";
        assert_eq!(notes(&text), [note], "{options:?}");
        bench.assert_nothing_left();
    }
    // An idmapped mount takes three calls.
    for call in ["open_tree", "move_mount"] {
        let run = ["run", "--trace", bench.busybox(), "--", "true"];
        let output = mini_without(&bench, call, &run).expect(0);
        let note = "archives are unpacked: the store cannot be idmapped";
        assert_eq!(notes(&output.stderr), [note], "{call}");
    }
    let run = ["run", "--store", "index", bench.busybox()];
    let line = "--store index: the store cannot be idmapped";
    injected(&bench, true, IDMAP, &run).fails(125, line);
    // On disk the files belong to the range.
    let mini = support::mini();
    let inject = format!("inject={IDMAP}");
    let strace = ["-qq", "-o", "/dev/null", "-e", &inject];
    let script =
        "tr -s ' ' < /proc/self/uid_map; echo x > /marker; chown 7 /marker; echo ready; sleep 1000";
    let run = bench.program("strace").args(&strace);
    let run = run.args(&[mini.to_str().unwrap(), "run", "--upper", "disk"]);
    let mut running = run
        .args(&[bench.busybox(), "--", "sh", "-c", script])
        .start();
    let text = running.until("ready");
    let base: u32 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    let containers = fs::read_dir(bench.path("store/containers")).unwrap();
    let dir = containers.flatten().next().unwrap().path();
    for (file, owner) in [
        ("lower", 0),
        ("lower/etc/passwd", 0),
        ("lower/home/user", 1000),
        ("upper", 0),
        ("upper/marker", 7),
    ] {
        let status = fs::symlink_metadata(dir.join(file)).unwrap();
        assert_eq!(status.uid(), base + owner, "{file}");
    }
    // strace passes no signal on.
    support::kill(bench.processes_but(&["strace"])[0], 9);
    drop(running);
    assert!(eventually(|| bench.processes().is_empty()));
    bench.run(&[], &["true"]).output().ok();
    // What goes wrong with the archive is said in the same words.
    let broken = bench.file("broken.tar", [b'x'; 2048]);
    let said = bench.mini(&["run", &broken, "--", "true"]).output();
    let said = said.one_line(125);
    let output = injected(&bench, true, IDMAP, &["run", &broken, "--", "true"]);
    assert_eq!(output.one_line(125), said);
    bench.assert_nothing_left();
}

#[test]
fn without_idmapped_mounts_a_directory_keeps_its_owners_by_the_identity_map() {
    let Some(bench) = bench("identity") else {
        return;
    };
    let directory = bench.busybox_directory();
    let before = support::tree(directory.as_ref());
    let dir = bench.dir("dir");
    let volume = format!("{dir}:/v");
    let why = "cannot be idmapped (its file system, or Linux before 5.19)";
    for (options, image, what) in [
        (&[][..], directory.as_str(), "ROOTFS".to_owned()),
        (&["-v", &volume], bench.busybox(), format!("\"{dir}\"")),
    ] {
        let run = |options: &[&str], command: &[&str]| {
            let run = [&["run"], options, &[image, "--"], command].concat();
            injected(&bench, true, IDMAP, &run)
        };
        let traced = [&["--trace"], options].concat();
        let output = run(&traced, &["sh", "-c", OWNERS]).expect(0);
        let expected = " 0 0 4294967295\n. 0 0\netc/passwd 0 0\nhome/user 1000 1000\n\
            etc/passwd 5 6\nhome 5 6\nhome/user 65535 1000\nnew 0 0\n";
        assert_eq!(output.stdout, expected, "{image}");
        let note = format!("root's files inside are root's outside: {what} {why}");
        assert_eq!(notes(&output.stderr), [note.as_str()]);
        assert!(output.stderr.contains(&format!("# degraded: {note}\n")));
        // There is a namespace all the same: root's power ends there.
        let output = run(options, &["mknod", "/node", "c", "1", "3"]).expect(1);
        assert_eq!(output.stderr, "mknod: /node: Operation not permitted\n");
        // Asked for, it is an error.
        let asked = [&["--userns", "auto"], options].concat();
        let line = format!("--userns auto: {what} {why}");
        run(&asked, &["true"]).fails(125, &line);
        // Nobody's is better than root's: without the map it need not be.
        if !options.is_empty() {
            let strict = format!("{volume}:noidmap");
            let asked = ["--userns", "auto", "-v", &strict];
            assert_eq!(run(&asked, &["stat", "-c", "%U", "/v"]).ok(), "nobody\n");
        }
    }
    assert_eq!(support::tree(directory.as_ref()), before);
    // What is kept is to have its owners on disk.
    let line = format!("--userns auto: \"{}\" {why}", bench.text("store"));
    let run = ["run", "--keep", "--userns", "auto", bench.busybox()];
    injected(&bench, true, IDMAP, &run).fails(125, &line);
}

#[test]
fn without_seccomp_the_default_gives_way_and_says_so() {
    let Some(bench) = bench("noseccomp") else {
        return;
    };
    // Which of mini's calls of prctl asks for it.
    let log = bench.text("log");
    let mini = support::mini();
    let strace = ["-qq", "-e", "trace=prctl", "-o", &log];
    let run = bench.program("strace").args(&strace);
    let run = run.args(&[mini.to_str().unwrap(), "run", bench.busybox(), "--", "true"]);
    run.output().ok();
    let text = fs::read_to_string(&log).unwrap();
    let asked = |line: &str| line.contains("PR_SET_SECCOMP");
    let nth = text.lines().position(asked).unwrap() + 1;
    let inject = format!("prctl:error=EINVAL:when={nth}");
    let script = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status";
    let run = |options: &[&str]| {
        let run = [
            &["run"],
            options,
            &[bench.busybox(), "--", "sh", "-c", script],
        ];
        injected(&bench, false, &inject, &run.concat())
    };
    let why = "this kernel lacks CONFIG_SECCOMP_FILTER";
    let output = run(&["--trace"]).expect(0);
    assert_eq!(output.stdout, "NoNewPrivs:\t1\nSeccomp:\t0\n");
    let note = format!("system calls are not filtered: {why}");
    assert_eq!(notes(&output.stderr), [note.as_str()]);
    for line in ["seccomp: off".to_owned(), format!("degraded: {note}")] {
        assert!(output.stderr.contains(&format!("# {line}\n")), "{line}");
    }
    assert!(!output.stderr.contains("SECCOMP_SET_MODE_FILTER"));
    run(&["--seccomp", "log"]).fails(125, &format!("--seccomp: {why}"));
    let output = run(&["--trace", "--seccomp", "unconfined"]).expect(0);
    assert_eq!(notes(&output.stderr), Vec::<&str>::new());
}

#[test]
fn without_keyrings_there_is_nothing_to_leave() {
    let Some(bench) = bench("nokeys") else {
        return;
    };
    let run = |error: &str, options: &[&str]| {
        let run = [&["run"], options, &[bench.busybox(), "--", "echo", "fine"]];
        injected(
            &bench,
            true,
            &format!("keyctl:error={error}"),
            &run.concat(),
        )
    };
    for options in [&[][..], &["--userns", "host"], &["--no-init"]] {
        assert_eq!(run("ENOSYS", options).ok(), "fine\n", "{options:?}");
    }
    // A filter around mini, which holds for the command, too.
    assert_eq!(run("EPERM", &[]).ok(), "fine\n");
    // Any other failure would leave the caller's keys in reach.
    let line = "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL): Quota exceeded \
                (sysctl kernel.keys.maxkeys allows no more keyrings)";
    run("EDQUOT", &[]).fails(125, line);
}

#[test]
fn without_memfd_create_minis_binary_is_not_sealed() {
    let Some(bench) = bench("nomemfd") else {
        return;
    };
    let note = "mini's binary is within the container's reach: no memfd_create (Linux 3.17)";
    let run = |inject: &str, options: &[&str]| {
        let run = [&["run"], options, &[bench.busybox(), "--", "echo", "fine"]];
        injected(&bench, false, inject, &run.concat())
    };
    for options in [&["--userns", "host"][..], &["--privileged"]] {
        let options = [&["--trace"], options].concat();
        let output = run("memfd_create:error=ENOSYS", &options).expect(0);
        assert_eq!(output.stdout, "fine\n");
        assert!(notes(&output.stderr).contains(&note), "{}", output.stderr);
    }
    // With ids of its own the container cannot reach it.
    let output = run("memfd_create:error=ENOSYS", &["--trace"]).expect(0);
    assert_eq!(notes(&output.stderr), Vec::<&str>::new());
    // Any other failure is an error.
    for (inject, said) in [
        (
            "memfd_create:error=EPERM",
            "memfd_create(\"mini's binary\"): Operation not permitted",
        ),
        (
            "memfd_create:error=EACCES",
            "memfd_create(\"mini's binary\"): Permission denied (sysctl vm.memfd_noexec=2 forbids it)",
        ),
        (
            "sendfile:error=EPERM",
            "sendfile(\"mini's binary\"): Operation not permitted",
        ),
        (
            "execve:error=EPERM:when=1",
            "execve(\"mini's binary\"): Operation not permitted",
        ),
    ] {
        run(inject, &["--userns", "host"]).fails(125, said);
    }
    bench.assert_nothing_left();
}

#[test]
fn where_user_namespaces_are_refused_the_way_out_is_named() {
    let Some(bench) = bench("nouserns") else {
        return;
    };
    let run = |error: &str, options: &[&str]| {
        let run = [&["run"], options, &[bench.busybox(), "--", "true"]].concat();
        let inject = format!("clone3,clone:error={error}:when=1");
        injected(&bench, false, &inject, &run)
    };
    let call = "clone3(CLONE_NEWUSER|CLONE_NEWPID|CLONE_NEWIPC|CLONE_NEWUTS, SIGCHLD)";
    for (error, said) in [
        (
            "EPERM",
            "Operation not permitted (if it is the user namespace that is refused, --userns host does without)",
        ),
        (
            "ENOSPC",
            "No space left on device (a limit in /proc/sys/user/max_*_namespaces is reached; \
             --userns host needs one less)",
        ),
        (
            "EINVAL",
            "Invalid argument (this kernel lacks one of these namespaces: CONFIG_*_NS)",
        ),
    ] {
        run(error, &[]).fails(125, &format!("{call}: {said}"));
        run(error, &["--userns", "auto"]).fails(125, &format!("{call}: {said}"));
    }
    bench.assert_nothing_left();
}

// --- images ----------------------------------------------------------------------------------------------------

/// `mini ARGUMENTS` where calls that have to do with these files answer as `injects` say.
fn refused(bench: &Bench, paths: &[&str], injects: &[&str], arguments: &[&str]) -> Output {
    let mini = support::mini();
    let injects: Vec<String> = (injects.iter())
        .map(|inject| format!("inject={inject}"))
        .collect();
    let mut strace = vec!["-qq", "-o", "/dev/null"];
    strace.extend(paths.iter().flat_map(|path| ["-P", path]));
    strace.extend(injects.iter().flat_map(|inject| ["-e", inject]));
    let run = bench.program("strace").args(&strace);
    run.args(&[mini.to_str().unwrap()]).args(arguments).output()
}

/// The loop devices that have this file.
fn loops(path: &str) -> usize {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let file = |device: fs::DirEntry| fs::read_to_string(device.path().join("loop/backing_file"));
    devices
        .flat_map(file)
        .filter(|file| file.trim() == path)
        .count()
}

#[test]
fn without_erofs_an_archive_is_unpacked() {
    let Some(bench) = bench("noerofs") else {
        return;
    };
    let run = |options: &[&str]| {
        let run = [
            &["run"],
            options,
            &[bench.busybox(), "--", "cat", "/etc/passwd"],
        ]
        .concat();
        refused(&bench, &["image0"], &["mount:error=ENODEV:when=1..2"], &run)
    };
    let passwd = bench.run(&[], &["cat", "/etc/passwd"]).output().ok();
    let why = format!(
        "mount(\"{}\", \"erofs\"): file-backed: No such device; through loop devices: No such device \
         (this kernel lacks CONFIG_EROFS_FS)",
        bench.busybox()
    );
    for options in [&[][..], &["--upper", "disk"], &["--userns", "host"]] {
        assert_eq!(run(options).ok(), passwd, "{options:?}");
        let output = run(&[&["--trace"], options].concat()).expect(0);
        let note = format!("unpacked, not indexed: {why}");
        assert!(
            notes(&output.stderr).contains(&note.as_str()),
            "{}",
            output.stderr
        );
        bench.assert_nothing_left();
    }
    run(&["--store", "index"]).fails(125, &format!("--store index: {why}"));
    assert_eq!(run(&["--store", "unpack"]).ok(), passwd);
    assert_eq!(run(&["--store", "tmpfs"]).ok(), passwd);
    assert_eq!(loops(bench.busybox()), 0);
}

#[test]
fn without_file_backed_erofs_there_are_loop_devices_and_without_those_it_is_unpacked() {
    let Some(bench) = bench("noloop") else {
        return;
    };
    let tar = bench.text("image.tar");
    fs::copy(bench.busybox(), &tar).unwrap();
    // Before Linux 6.12.
    let old = "mount:error=ENOTBLK:when=1";
    let command = ["run", "--trace", &tar, "--", "echo", "fine"];
    for how in [
        "made, through loop devices",
        "from the cache, through loop devices",
    ] {
        let output = refused(&bench, &["image0"], &[old], &command).expect(0);
        assert_eq!(output.stdout, "fine\n");
        assert!(output.stderr.contains(how), "{}", output.stderr);
        assert!(eventually(|| loops(&tar) == 0));
    }
    let control = "/dev/loop-control";
    let gone = |control: &str, error: &str, options: &[&str]| {
        let run = [&["run"], options, &[&tar, "--", "echo", "fine"]].concat();
        let lost = format!("{control}:error={error}");
        refused(
            &bench,
            &["image0", "/dev/loop-control"],
            &[old, &lost],
            &run,
        )
    };
    for (call, error, said) in [
        (
            "openat",
            "ENXIO",
            format!("open(\"{control}\"): No such device or address (CONFIG_BLK_DEV_LOOP)"),
        ),
        (
            "ioctl",
            "EPERM",
            "ioctl(\"LOOP_CTL_GET_FREE\"): Operation not permitted".into(),
        ),
    ] {
        assert_eq!(gone(call, error, &[]).ok(), "fine\n");
        let line = format!(
            "--store index: mount(\"{tar}\", \"erofs\"): file-backed: Block device required; {said}"
        );
        gone(call, error, &["--store", "index"]).fails(125, &line);
    }
    // A file system in a file cannot do without.
    if have_program("mksquashfs") {
        let (from, image) = (bench.busybox_directory(), bench.text("image.squashfs"));
        let make = support::Run::new("mksquashfs");
        make.args(&[&from, &image, "-quiet", "-no-progress"])
            .output()
            .ok();
        let run = ["run", &image, "--", "echo", "fine"];
        assert_eq!(refused(&bench, &[], &[], &run).ok(), "fine\n");
        let line = format!("open(\"{control}\"): No such device or address (CONFIG_BLK_DEV_LOOP)");
        refused(&bench, &[control], &["openat:error=ENXIO"], &run).fails(125, &line);
    }
}

#[test]
fn without_a_name_for_this_boot_nothing_is_cached() {
    let Some(bench) = bench("noboot") else {
        return;
    };
    let boot = "/proc/sys/kernel/random/boot_id";
    let run = |image: &str| {
        let run = ["run", "--trace", image, "--", "echo", "fine"];
        let output = refused(&bench, &[boot], &["openat:error=ENOENT"], &run).expect(0);
        assert_eq!(output.stdout, "fine\n");
        assert!(output.stderr.contains(" made, "), "{}", output.stderr);
        assert_eq!(fs::read_dir(bench.path("store/cache")).unwrap().count(), 0);
    };
    run(bench.busybox());
    run(bench.busybox());
    if !support::is_core() && have_program("gzip") {
        let small = bench.text("image.tar");
        fs::copy(bench.busybox(), &small).unwrap();
        support::Run::new("gzip")
            .args(&["-1", &small])
            .output()
            .ok();
        run(&format!("{small}.gz"));
        run(&format!("{small}.gz"));
    }
}
