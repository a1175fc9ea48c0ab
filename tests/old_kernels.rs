//! Kernels that lack a system call, played by strace, which answers ENOSYS for it: an ordinary run works all the same,
//! and what is promised still holds. One test for each row of the README's kernel table that can be played this way.

mod support;
use support::{Bench, Output, Report, guest, have_program};

/// `mini run OPTIONS busybox.tar -- COMMAND` where none of these calls exists, in any process.
fn without(bench: &Bench, calls: &str, options: &[&str], command: &[&str]) -> Output {
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
    let volume = format!("{}:/guest:ro", guest());
    let run =
        bench
            .program("strace")
            .args(&strace)
            .args(&[mini.to_str().unwrap(), "run", "-v", &volume]);
    run.args(options)
        .args(&[bench.busybox(), "--"])
        .args(command)
        .output()
}

/// Everything that a run promises and that could be lost where a call is missing.
fn all_is_well(name: &str, calls: &str) {
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
}

#[test]
fn without_openat2() {
    all_is_well("openat2", "openat2");
}

#[test]
fn without_clone3() {
    all_is_well("clone3", "clone3");
}

#[test]
fn without_close_range() {
    all_is_well("close_range", "close_range");
}

#[test]
fn without_mount_setattr() {
    all_is_well("mount_setattr", "mount_setattr");
}

#[test]
fn without_any_of_them() {
    all_is_well("all", "openat2,clone3,close_range,mount_setattr");
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
