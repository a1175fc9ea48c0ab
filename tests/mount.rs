//! Mounting images and sharing them, on the real kernel: the sources are compiled into this test (mini is a program, not
//! a library). Needs root, mkfs.erofs, mksquashfs and mkfs.ext4.
//!
//! A supervisor is played by [`supervisor`]: this program again, in a process and a mount namespace of its own, which
//! says how it got its image and then keeps it until its standard input ends. It must have one thread, and a test runs
//! in the second of its process, so there is one process more.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use container::sys;
use linux_raw_sys::general as raw;
use rustix::process::{Flock, FlockType, fcntl_getlk};

#[allow(dead_code)]
#[path = "../src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../src/image/mount.rs"]
mod mount;

// --- helpers ---------------------------------------------------------------------------------------------------

/// True if the test can go on; otherwise says why not, and fails if `MINI_TEST_REQUIRE` lists `what`.
fn have(what: &str, available: bool, reason: &str) -> bool {
    let required = std::env::var("MINI_TEST_REQUIRE").unwrap_or_default();
    assert!(
        available || !required.split(',').any(|word| word == what),
        "MINI_TEST_REQUIRE has {what}, but {reason}"
    );
    if !available {
        eprintln!("skipped: {reason}");
    }
    available
}

fn ready() -> bool {
    let programs = ["mkfs.erofs", "mksquashfs", "mkfs.ext4"];
    let runs = |program: &&str| {
        let command = format!("command -v {program} >/dev/null");
        Command::new("sh")
            .args(["-c", &command])
            .status()
            .unwrap()
            .success()
    };
    have(
        "root",
        rustix::process::geteuid().is_root(),
        "this needs root",
    ) && have(
        "images",
        programs.iter().all(runs),
        "mkfs.erofs, mksquashfs or mkfs.ext4 is missing",
    )
}

fn sh(directory: &Path, command: &str) {
    let status = Command::new("sh")
        .args(["-ec", command])
        .current_dir(directory)
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success(), "{command}");
}

/// A directory with images, removed at its end, when no loop device may have a file of it.
struct Bench(PathBuf);

impl Bench {
    /// `index` is an EROFS image whose data are in `blob`; `whole` one without devices.
    fn new(name: &str, megabytes: u32) -> Bench {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mount-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("tree")).unwrap();
        let bench = Bench(path);
        sh(
            &bench.0,
            &format!(
                "head -c {megabytes}M /dev/urandom > tree/big; echo hello > tree/hello
             mkfs.erofs --quiet --chunksize=4096 --blobdev=blob index tree 2>/dev/null
             mkfs.erofs --quiet whole tree 2>/dev/null; : > key"
            ),
        );
        bench
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(loops(&self.0), 0, "loop devices are left");
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How many loop devices have a file below this directory. One that is just being cleared gets a moment.
fn loops(directory: &Path) -> usize {
    let count = || {
        let names = (fs::read_dir("/sys/block").unwrap())
            .map(|entry| entry.unwrap().path().join("loop/backing_file"));
        names
            .filter(|name| {
                let file = fs::read_to_string(name).unwrap_or_default();
                Path::new(file.trim()).starts_with(directory)
            })
            .count()
    };
    let start = Instant::now();
    while count() > 0 && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    count()
}

/// Whether somebody has the image of this key file.
fn in_use(key: &str) -> bool {
    let file = File::open(key).unwrap();
    let lock = Flock::from(FlockType::WriteLock);
    let found = fcntl_getlk(sys::borrow(file.as_raw_fd()), &lock);
    found.unwrap().is_some()
}

/// A directory for page cache to be counted in: a memory cgroup of its own; none where it cannot be made.
struct Counter(PathBuf);

impl Counter {
    fn new(name: &str) -> Option<Counter> {
        let name = format!("mini-test-{name}-{}", std::process::id());
        let path = Path::new("/sys/fs/cgroup/memory").join(name);
        (path.parent().unwrap().join("memory.stat").exists() && fs::create_dir(&path).is_ok())
            .then_some(Counter(path))
    }

    fn kilobytes(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.stat")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("cache "));
        line.unwrap().parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A supervisor, seen from outside.
struct Supervisor {
    /// The parent of the supervisor, which exits as that does.
    process: Child,
    pid: i32,
    output: BufReader<ChildStdout>,
}

impl Supervisor {
    /// `job`: the key file or `-`, the file system's type, then its files; `options` change what it finds.
    fn start(bench: &Bench, job: &[&str], options: &str, counter: Option<&Counter>) -> Supervisor {
        let files = job.iter().enumerate().map(|(index, name)| match index {
            1 => name.to_string(),
            _ if *name == "-" || name.starts_with('/') => name.to_string(),
            _ => bench.file(name),
        });
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "supervisor",
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("JOB", files.collect::<Vec<_>>().join(" "))
            .env("OPTIONS", options)
            .env(
                "COUNTER",
                counter.map_or(Path::new(""), |counter| &counter.0),
            )
            .env("DIRECTORY", bench.0.join("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let pid = 0;
        let mut supervisor = Supervisor {
            process,
            pid,
            output,
        };
        supervisor.pid = supervisor.says().parse().unwrap();
        supervisor
    }

    /// What it says next: how it has mounted (or why not), its device number, whether the files are as they should be.
    fn says(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.output.read_line(&mut line).unwrap() > 0,
                "the supervisor is gone"
            );
            // The test harness writes "test supervisor ... " before it.
            if let Some((_, said)) = line.trim_end().split_once('@') {
                return said.to_owned();
            }
        }
    }

    fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }

    fn kill(mut self) {
        sys::kill(self.pid, raw::SIGKILL as i32).unwrap();
        assert!(!self.process.wait().unwrap().success());
    }
}

fn one(bench: &Bench, job: &[&str], options: &str) -> String {
    let mut supervisor = Supervisor::start(bench, job, options, None);
    let said = supervisor.says();
    supervisor.end();
    said
}

/// What the other process does. Not a test of its own.
#[test]
#[ignore]
fn supervisor() {
    let job = std::env::var("JOB").unwrap_or_default();
    let mut job = job.split(' ');
    let (Some(key), Some(fstype)) = (job.next(), job.next()) else {
        return;
    };
    let child = sys::clone(0, || {
        println!("@{}", std::process::id());
        supervise(key, fstype, job);
        0
    });
    let status = rustix::process::waitpid(child.ok(), rustix::process::WaitOptions::empty());
    // Without a word if it was killed, as it may have been for the test.
    let status = status.unwrap().unwrap().1.exit_status();
    std::process::exit(i32::from(status != Some(0)));
}

fn supervise<'a>(key: &str, fstype: &str, job: impl Iterator<Item = &'a str>) {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let options = variable("OPTIONS");
    let files: Vec<File> = job.map(|name| File::open(name).unwrap()).collect();
    let open = |name| File::options().read(true).write(true).open(name).unwrap();
    let (key, key_name) = ((key != "-").then(|| open(key)), key);
    if !variable("COUNTER").is_empty() {
        fs::write(Path::new(&variable("COUNTER")).join("cgroup.procs"), "0").unwrap();
    }
    let none = |target: &CStr, flags| sys::mount(None, target, None, flags, None).unwrap();
    let tmpfs = |target: &CStr| sys::mount(None, target, Some(c"tmpfs"), 0, None).unwrap();
    sys::unshare(raw::CLONE_NEWNS).unwrap();
    none(c"/", raw::MS_REC | raw::MS_SLAVE);
    let directory = variable("DIRECTORY");
    let _ = fs::create_dir(&directory);
    std::env::set_current_dir(&directory).unwrap();
    tmpfs(c".");
    std::env::set_current_dir(&directory).unwrap();
    fs::create_dir("image0").unwrap();
    fs::create_dir("image1").unwrap();
    if options.contains("chroot") {
        // The test's files are already open; what is needed of the host is bound into the new root.
        fs::create_dir_all("root/proc").unwrap();
        fs::create_dir_all("root/work").unwrap();
        sys::mount(
            Some(c"/proc"),
            c"root/proc",
            None,
            raw::MS_BIND | raw::MS_REC,
            None,
        )
        .unwrap();
        sys::mount(Some(c"."), c"root/work", None, raw::MS_BIND, None).unwrap();
        rustix::process::chroot("root").unwrap();
        rustix::process::chdir("/work").unwrap();
    }
    if options.contains("no-proc") {
        rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    if options.contains("no-dev") {
        tmpfs(c"/dev");
    }
    let number = u32::from(options.contains("second"));
    let tars = &files[1..];
    let at = format!("image{number}");
    let make = |at: &CStr| match fstype {
        "index" => mount::erofs(b"test", &files[0], tars, at),
        "squashfs" => mount::filesystem(b"test", &files[0], c"squashfs", at),
        "ext4" => mount::filesystem(b"test", &files[0], c"ext4", at),
        _ => mount::filesystem(b"test", &files[0], c"erofs", at),
    };
    let before = fs::read_link("/proc/self/ns/mnt");
    let start = Instant::now();
    let how = match key {
        Some(key) => mount::share(key, number, |_, at| make(at)),
        None => make(&std::ffi::CString::new(at.as_str()).unwrap()),
    };
    let took = start.elapsed().as_micros();
    if options.contains("twice") {
        let how = mount::share(open(key_name), 1, |_, at| make(at));
        assert_eq!(how.unwrap(), mount::How::File);
    }
    let after = fs::read_link("/proc/self/ns/mnt");
    assert_eq!(before.ok(), after.ok());
    match how {
        Ok(how) => {
            let device = fs::metadata(&at).unwrap().dev();
            let big = fs::read(format!("{at}/big")).unwrap();
            let sum = big.chunks(61).map(|chunk| u64::from(chunk[0])).sum::<u64>();
            let hello = fs::read_to_string(format!("{at}/hello")).unwrap();
            assert!(fs::write(format!("{at}/new"), "").is_err(), "read-only");
            println!("@{how:?} {device} {} {sum} {took}", hello.trim());
        }
        Err(error) => println!("@{error}"),
    }
    if options.contains("chroot") {
        assert_eq!(std::env::current_dir().unwrap(), Path::new("/work"));
        assert!(!Path::new("/usr").exists());
    }
    let _ = std::io::stdout().flush();
    let _ = std::io::stdin().read(&mut [0]);
}

fn word(said: &str, index: usize) -> &str {
    said.split(' ').nth(index).unwrap_or_default()
}

// --- the tests -------------------------------------------------------------------------------------------------

#[test]
fn images_are_mounted_in_every_way() {
    if !ready() {
        return;
    }
    let bench = Bench::new("ways", 3);
    sh(
        &bench.0,
        "mksquashfs tree sq -quiet -noappend >/dev/null
        truncate -s 16M e4; mkfs.ext4 -q -d tree e4
        cp e4 dirty; debugfs -w -R 'feature needs_recovery' dirty 2>/dev/null
        head -c 1M /dev/zero > zero; cp index cut; truncate -s 1200 cut",
    );
    let good = one(&bench, &["-", "index", "index", "blob"], "");
    assert!(good.starts_with("File "), "{good}");
    let rest = |said: &str| format!("{} {}", word(said, 2), word(said, 3));
    let expect = |how: &str, job: &[&str], options: &str| {
        let said = one(&bench, job, options);
        assert_eq!((word(&said, 0), rest(&said)), (how, rest(&good)), "{said}");
    };
    expect("File", &["-", "erofs", "whole"], "");
    expect("Loop", &["-", "squashfs", "sq"], "");
    expect("Loop", &["-", "ext4", "e4"], "");
    expect("Loop", &["-", "index", "index", "blob"], "no-proc");
    expect("Loop", &["-", "squashfs", "sq"], "no-dev");
    expect("Loop", &["-", "squashfs", "sq"], "no-dev no-proc");
    // tmpfs has no read_folio.
    let shm = format!("/dev/shm/mini-test-{}", std::process::id());
    fs::copy(bench.0.join("index"), &shm).unwrap();
    expect("Loop", &["-", "index", &shm, "blob"], "");
    fs::remove_file(&shm).unwrap();
    let refused = |job: &[&str], options: &str, why: &str| {
        let said = one(&bench, job, options);
        assert_eq!(said, why);
    };
    refused(
        &["-", "ext4", "dirty"],
        "",
        "\"test\": mounted, or not cleanly unmounted (e2fsck -f repairs it; mini does not write to an image)",
    );
    let damaged = "(damaged, or of a kind that this kernel does not read: dmesg says more)";
    refused(
        &["-", "squashfs", "zero"],
        "",
        &format!("mount(\"test\", \"squashfs\"): Invalid argument {damaged}"),
    );
    refused(
        &["-", "index", "zero", "blob"],
        "",
        &format!(
            "mount(\"test\", \"erofs\"): file-backed: Invalid argument; through loop devices: Invalid argument {damaged}"
        ),
    );
    // Nothing may panic; whether a superblock alone can be mounted is the kernel's business.
    one(&bench, &["-", "index", "cut", "blob"], "");
}

#[test]
fn a_block_device_is_mounted_directly() {
    if !ready() {
        return;
    }
    let bench = Bench::new("device", 1);
    sh(
        &bench.0,
        "mksquashfs tree sq -quiet -noappend >/dev/null; losetup -r -f --show sq > name",
    );
    let device = fs::read_to_string(bench.0.join("name"))
        .unwrap()
        .trim()
        .to_owned();
    let said = one(&bench, &["-", "squashfs", &device], "");
    sh(&bench.0, &format!("losetup -d {device}"));
    assert!(said.starts_with("Device "), "{said}");
}

#[test]
fn containers_of_one_image_share_its_page_cache() {
    if !ready() {
        return;
    }
    const MEGABYTES: u32 = 16;
    const COUNT: usize = 20;
    for job in [
        ["index", "index", "index", "blob"].as_slice(),
        &["key", "erofs", "whole"],
        &["-", "index", "index", "blob"],
    ] {
        let bench = Bench::new("cache", MEGABYTES);
        let (one, others) = (Counter::new("one"), Counter::new("others"));
        let mut first = Supervisor::start(&bench, job, "", one.as_ref());
        let said = first.says();
        let rest: Vec<_> = (1..COUNT)
            .map(|_| {
                let mut supervisor = Supervisor::start(&bench, job, "", others.as_ref());
                (supervisor.says(), supervisor)
            })
            .collect();
        let shared = rest
            .iter()
            .filter(|(other, _)| word(other, 0) == "Shared" && word(other, 1) == word(&said, 1));
        assert_eq!(shared.count(), if job[0] == "-" { 0 } else { COUNT - 1 });
        assert!(
            rest.iter()
                .all(|(other, _)| word(other, 3) == word(&said, 3))
        );
        let mut times: Vec<u64> = rest
            .iter()
            .map(|(other, _)| word(other, 4).parse().unwrap())
            .collect();
        times.sort();
        let took = format!(
            "the first mount took {} us, the others {} us in the median",
            word(&said, 4),
            times[COUNT / 2]
        );
        if let (Some(one), Some(others)) = (&one, &others) {
            let (one, others) = (one.kilobytes(), others.kilobytes());
            println!(
                "{job:?}: page cache of the first {one} KiB, of {} others {others} KiB; {took}",
                COUNT - 1
            );
            assert!(job[0] == "-" || others < 1024, "{others} KiB");
        }
        // An image is there for the others when the first has gone.
        if job[0] != "-" {
            assert!(in_use(&bench.file(job[0])));
        }
        first.end();
        let mut last = Supervisor::start(&bench, job, "second", None);
        assert!(job[0] == "-" || last.says().starts_with("Shared"));
        rest.into_iter()
            .for_each(|(_, supervisor)| supervisor.end());
        // From one that has it as image1.
        let mut again = Supervisor::start(&bench, job, "", None);
        assert!(job[0] == "-" || again.says().starts_with("Shared"));
        last.end();
        again.end();
        assert!(job[0] == "-" || !in_use(&bench.file(job[0])));
    }
}

#[test]
fn many_may_start_at_once() {
    if !ready() {
        return;
    }
    let bench = Bench::new("many", 1);
    let shm = format!("/dev/shm/mini-test-many-{}", std::process::id());
    fs::copy(bench.0.join("index"), &shm).unwrap();
    // With a key one mounts and the others share; without, each needs two loop devices.
    for (job, alone) in [
        (["key", "index", "index", "blob"], 1),
        (["key", "index", &shm, "blob"], 1),
        (["-", "index", &shm, "blob"], 30),
    ] {
        let mut supervisors: Vec<_> = (0..30)
            .map(|_| Supervisor::start(&bench, &job, "", None))
            .collect();
        let said: Vec<_> = supervisors.iter_mut().map(Supervisor::says).collect();
        assert!(said.iter().all(|said| word(said, 2) == "hello"), "{said:?}");
        let shared = said.iter().filter(|said| word(said, 0) == "Shared").count();
        assert_eq!(shared, 30 - alone, "{said:?}");
        supervisors.into_iter().for_each(Supervisor::end);
    }
    fs::remove_file(&shm).unwrap();
}

#[test]
fn the_one_that_has_the_image_may_die_at_any_moment() {
    if !ready() {
        return;
    }
    let bench = Bench::new("die", 1);
    let job = ["key", "index", "index", "blob"];
    let mut shared = 0;
    for round in 0..60u64 {
        let mut first = Supervisor::start(&bench, &job, "", None);
        first.says();
        let mut second = Supervisor::start(&bench, &job, "", None);
        std::thread::sleep(Duration::from_micros(round * 10));
        first.kill();
        let said = second.says();
        assert_eq!(word(&said, 2), "hello", "{said}");
        shared += u32::from(word(&said, 0) == "Shared");
        second.end();
    }
    println!("{shared} of 60 had it from the one that was killed");
    // And one that is killed while it looks for it.
    for round in 0..60u64 {
        let second = Supervisor::start(&bench, &job, "", None);
        std::thread::sleep(Duration::from_micros(round * 10));
        second.kill();
    }
    assert!(!in_use(&bench.file("key")));
}

#[test]
fn a_chroot_and_a_missing_proc_do_no_harm() {
    if !ready() {
        return;
    }
    let bench = Bench::new("chroot", 1);
    let job = ["key", "index", "index", "blob"];
    let mut first = Supervisor::start(&bench, &job, "", None);
    first.says();
    let said = one(&bench, &job, "chroot");
    assert!(said.starts_with("Shared"), "{said}");
    let said = one(&bench, &job, "no-proc");
    assert!(said.starts_with("Loop"), "{said}");
    first.end();
    let mut first = Supervisor::start(&bench, &job, "chroot", None);
    assert!(first.says().starts_with("File"));
    let said = one(&bench, &job, "");
    assert!(said.starts_with("Shared"), "{said}");
    first.end();
}

#[test]
fn an_image_given_twice_is_still_shared() {
    if !ready() {
        return;
    }
    let bench = Bench::new("twice", 1);
    let job = ["key", "index", "index", "blob"];
    let mut first = Supervisor::start(&bench, &job, "twice", None);
    assert!(first.says().starts_with("File"));
    let said = one(&bench, &job, "");
    assert!(said.starts_with("Shared"), "{said}");
    first.end();
}

#[test]
fn a_lock_that_somebody_else_has_leads_nowhere() {
    if !ready() {
        return;
    }
    let bench = Bench::new("other", 1);
    // A process that has the lock, but neither a mount namespace of its own nor an image.
    let key = File::options()
        .read(true)
        .write(true)
        .open(bench.file("key"))
        .unwrap();
    key.write_at(b"x", 0).unwrap();
    sys::lock_byte_as_process(sys::borrow(std::os::fd::AsRawFd::as_raw_fd(&key)), true, 0).unwrap();
    let said = one(&bench, &["key", "index", "index", "blob"], "");
    assert!(said.starts_with("File"), "{said}");
}
