//! What the integration tests share. They drive the release binary as a program: [`Bench`] gives a test directories
//! of its own and checks at its end that nothing is left on the host, [`Run`] runs a program for a limited time,
//! [`Report`] reads what the guest (tests/guest) says from inside a container.
//!
//! Environment: `MINI` is the binary (default: the release build of this checkout), `MINI_CORE=1` says that it was
//! built without default features, `MINI_TEST_REQUIRE=root,rootfs,…` turns a skip into a failure.
#![allow(dead_code)]

pub mod images;
pub mod qemu;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take before the test fails.
const LIMIT: Duration = Duration::from_secs(60);

// --- what a test needs -----------------------------------------------------------------------------------------

/// True if the test can go on; otherwise says why not, and fails if `MINI_TEST_REQUIRE` lists `what`.
pub fn have(what: &str, available: bool, reason: &str) -> bool {
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

/// Whether a program of this name is installed.
pub fn have_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    have(name, found, &format!("{name} is not installed"))
}

fn have_root() -> bool {
    have(
        "root",
        rustix::process::geteuid().is_root(),
        "this needs root",
    )
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The binary under test.
pub fn mini() -> PathBuf {
    let default = checkout().join("target/x86_64-unknown-linux-musl/release/mini");
    let mini = std::env::var_os("MINI").map_or(default, PathBuf::from);
    assert!(
        mini.is_file(),
        "{}: build it with cargo build --release, or set MINI",
        mini.display()
    );
    fs::canonicalize(mini).unwrap()
}

/// Whether the binary was built without default features.
pub fn is_core() -> bool {
    std::env::var("MINI_CORE").is_ok_and(|value| value == "1")
}

/// A root file system made by rootfs-build; the test is skipped without it.
pub fn rootfs(name: &str) -> Option<String> {
    let path = checkout().join("target/rootfs").join(name);
    let reason = format!("{} is not there (rootfs-build makes it)", path.display());
    have("rootfs", path.exists(), &reason).then(|| path.to_str().unwrap().to_owned())
}

/// The guest, built as mini is (the toolchain of .cargo/toolchain where there is one).
pub fn guest() -> &'static str {
    static GUEST: OnceLock<String> = OnceLock::new();
    GUEST.get_or_init(|| guest_for("x86_64"))
}

/// The guest for another architecture, as Rust calls it.
pub fn guest_for(architecture: &str) -> String {
    let triple = format!("{architecture}-unknown-linux-musl");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    let bin = checkout().join(".cargo/toolchain/bin");
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    let mut cargo = PathBuf::from("cargo");
    if bin.join("cargo").exists() {
        cargo = bin.join("cargo");
        let paths = [bin]
            .into_iter()
            .chain(std::env::split_paths(&path))
            .collect::<Vec<_>>();
        path = std::env::join_paths(paths).unwrap();
    }
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--quiet", "--target", &triple])
        .arg("--target-dir")
        .arg(&target);
    // What `cargo test` set for this process is not meant for that build.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_") && name != "CARGO_HOME"
            || name.starts_with("RUST") && name != "RUSTUP_HOME"
        {
            command.env_remove(name);
        }
    }
    let output = command
        .env("PATH", path)
        .current_dir(checkout().join("tests/guest"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "tests/guest: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let guest = target.join(triple).join("release/guest");
    guest.to_str().unwrap().to_owned()
}

// --- running programs ------------------------------------------------------------------------------------------

/// What became of a program.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status, or the negative number of the signal that killed it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Fails unless the program exited with `status`; returns itself.
    #[track_caller]
    pub fn expect(self, status: i32) -> Output {
        assert_eq!(
            self.status, status,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Exited with 0; its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        let output = self.expect(0);
        assert_eq!(
            output.stderr, "",
            "standard error; standard output: {}",
            output.stdout
        );
        output.stdout
    }

    /// mini failed with this status and exactly this line, and the command said nothing.
    #[track_caller]
    pub fn fails(self, status: i32, line: &str) {
        let found = self.expect(status);
        assert_eq!(found.stderr, format!("mini: {line}\n"));
        assert_eq!(found.stdout, "");
    }

    /// mini failed with this status and one line, which is returned without its "mini: ".
    #[track_caller]
    pub fn one_line(self, status: i32) -> String {
        let found = self.expect(status);
        assert_eq!(found.stdout, "", "standard error: {}", found.stderr);
        let line = found
            .stderr
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("mini: "));
        let line = line.unwrap_or_else(|| panic!("not a line of mini's: {:?}", found.stderr));
        assert!(!line.contains(char::is_control), "{line:?}");
        line.to_owned()
    }
}

/// A program to be run for a limited time.
pub struct Run {
    pub command: Command,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl Run {
    pub fn new(program: impl AsRef<OsStr>) -> Run {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Run {
            command,
            input: None,
            limit: LIMIT,
        }
    }

    pub fn args(mut self, args: &[&str]) -> Run {
        self.command.args(args);
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(key, value);
        self
    }

    pub fn directory(mut self, path: &Path) -> Run {
        self.command.current_dir(path);
        self
    }

    pub fn limit(mut self, seconds: u64) -> Run {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// What it reads from standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.command.stdin(Stdio::piped());
        self.input = Some(bytes.into());
        self
    }

    /// Starts it, with standard output and error in pipes.
    pub fn start(mut self) -> Running {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(bytes) = self.input.take() {
            let mut stdin = child.stdin.take().unwrap();
            // It may end without having read everything.
            thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Running {
            shown: format!("{:?}", self.command),
            child,
            stdout,
            stderr,
            limit: self.limit,
            seen: Vec::new(),
        }
    }

    pub fn output(self) -> Output {
        self.start().wait()
    }
}

fn collect(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A program that runs; killed when dropped.
pub struct Running {
    pub child: Child,
    shown: String,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    limit: Duration,
    seen: Vec<u8>,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Everything it has written to standard output until `text` is part of it.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        self.until_that(&format!("{text:?}"), |seen| seen.contains(text))
    }

    /// Everything it has written to standard output until that is right; `wanted` says what would be.
    #[track_caller]
    pub fn until_that(&mut self, wanted: &str, right: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + self.limit;
        loop {
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            if right(&seen) {
                return seen;
            }
            match self
                .stdout
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.seen.extend(bytes),
                Err(error) => panic!(
                    "{}: no {wanted} in {seen:?}: {error}\n{}",
                    self.shown,
                    self.errors()
                ),
            }
        }
    }

    /// Whether standard output has ended, waiting for that at most this long.
    pub fn output_ends_within(&mut self, time: Duration) -> bool {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        let deadline = Instant::now() + time;
        loop {
            match self
                .stdout
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.seen.extend(bytes),
                Err(Disconnected) => return true,
                Err(Timeout) => return false,
            }
        }
    }

    /// How many bytes of standard output have come.
    pub fn received(&mut self) -> usize {
        self.seen.extend(self.stdout.try_iter().flatten());
        self.seen.len()
    }

    pub fn kill(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    pub fn errors(&self) -> String {
        thread::sleep(Duration::from_millis(50));
        String::from_utf8_lossy(&self.stderr.try_iter().flatten().collect::<Vec<_>>()).into_owned()
    }

    #[track_caller]
    pub fn wait(mut self) -> Output {
        let deadline = Instant::now() + self.limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let seen = self
                    .seen
                    .iter()
                    .copied()
                    .chain(self.stdout.try_iter().flatten())
                    .collect::<Vec<_>>();
                panic!(
                    "{} did not end within {:?}; stdout: {}\nstderr: {}",
                    self.shown,
                    self.limit,
                    String::from_utf8_lossy(&seen),
                    self.errors()
                );
            }
            thread::sleep(Duration::from_micros(500));
        };
        // A process left behind may hold the pipes open: not for ever.
        let rest = |from: &Receiver<Vec<u8>>| {
            let mut bytes = Vec::new();
            while let Ok(more) = from.recv_timeout(Duration::from_secs(5)) {
                bytes.extend(more);
            }
            bytes
        };
        self.seen.extend(rest(&self.stdout));
        let stderr = rest(&self.stderr);
        Output {
            status: status.code().unwrap_or_else(|| -status.signal().unwrap()),
            stdout: String::from_utf8_lossy(&self.seen).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

unsafe extern "C" {
    #[link_name = "kill"]
    fn libc_kill(pid: i32, signal: i32) -> i32;
}

/// kill(2); rustix's `Signal` leaves out the real-time signals.
pub fn kill(pid: i32, signal: i32) {
    assert!(pid > 1, "kill {pid}");
    // SAFETY: two numbers.
    unsafe { libc_kill(pid, signal) };
}

/// Asks `what` every 10 ms until it is true, for at most ten seconds.
pub fn eventually(mut what: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if what() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

// --- the host --------------------------------------------------------------------------------------------------

/// The mounts that everybody sees, and the cgroups.
fn machine() -> Vec<String> {
    let mut found: Vec<String> = (fs::read_to_string("/proc/self/mountinfo").unwrap().lines())
        .map(|line| format!("mount {line}"))
        .collect();
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                // One with processes in it is somebody else's, who may make and remove it at any time: when this is
                // asked, no process of the test is left.
                let members = fs::read(entry.path().join("cgroup.procs")).unwrap_or_default();
                if members.is_empty() {
                    found.push(format!("cgroup {}", entry.path().display()));
                }
                directories.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Processes, except this one, that have `text` in their mounts, arguments or environment: those of a test's
/// containers all have its directory there, whatever they call themselves.
pub fn processes(text: &str) -> Vec<i32> {
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let marked = |pid: i32| {
        let files = ["mountinfo", "cmdline", "environ"];
        let mut texts = files
            .iter()
            .filter_map(|file| fs::read(format!("/proc/{pid}/{file}")).ok());
        texts.any(|bytes| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        })
    };
    numbers
        .filter(|pid| *pid != std::process::id() as i32 && marked(*pid))
        .collect()
}

/// Everything below a directory, sorted, each with type, mode, owner, size, time and contents. What goes meanwhile is not there.
pub fn tree(top: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    let mut names = vec![top.to_owned()];
    while let Some(path) = names.pop() {
        let Ok(status) = fs::symlink_metadata(&path) else {
            continue;
        };
        let mut line = format!(
            "{} {:o} {}:{} {} {}.{}",
            path.display(),
            status.mode(),
            status.uid(),
            status.gid(),
            status.nlink(),
            status.mtime(),
            status.mtime_nsec()
        );
        if status.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            names.extend(entries.map(|entry| entry.path()));
        } else if status.is_symlink() {
            line += &format!(" -> {}", fs::read_link(&path).unwrap().display());
        } else if status.is_file() {
            use std::hash::{DefaultHasher, Hash, Hasher};
            let mut hash = DefaultHasher::new();
            fs::read(&path).unwrap_or_default().hash(&mut hash);
            line += &format!(" {} {:x}", status.len(), hash.finish());
        }
        lines.push(line);
    }
    lines.sort();
    lines
}

// --- a test's place --------------------------------------------------------------------------------------------

/// A directory for one test, with a run directory and a store of its own. At its end nothing may be left of any
/// container: no mount, cgroup, process, file.
pub struct Bench {
    dir: PathBuf,
    before: Vec<String>,
    busybox: String,
    /// `--keep` was used: the store has what was kept.
    pub keeps: bool,
}

impl Bench {
    /// `None` if this machine is not root's or the busybox root is missing.
    pub fn new(name: &str) -> Option<Bench> {
        if !have_root() {
            return None;
        }
        let busybox = rootfs("busybox.tar")?;
        let dir = PathBuf::from(format!("/var/tmp/mini-test-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Some(Bench {
            dir,
            before: machine(),
            busybox,
            keeps: false,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A new directory.
    pub fn dir(&self, name: &str) -> String {
        fs::create_dir_all(self.path(name)).unwrap();
        self.text(name)
    }

    /// A new file.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), contents).unwrap();
        self.text(name)
    }

    /// busybox.tar.
    pub fn busybox(&self) -> &str {
        &self.busybox
    }

    /// busybox.tar unpacked.
    pub fn busybox_directory(&self) -> String {
        let path = self.dir("busybox");
        Run::new("tar")
            .args(&["xpf", &self.busybox, "-C", &path])
            .output()
            .ok();
        path
    }

    /// An image that consists of the guest alone.
    pub fn small_image(&self, name: &str) -> String {
        let path = self.dir(name);
        fs::copy(guest(), self.path(name).join("guest")).unwrap();
        path
    }

    /// Another program that may run mini (strace, a shell …), with mini's directories in its environment.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Run {
        Run::new(program)
            .env("MINI_RUN", self.path("run"))
            .env("MINI_ROOT", self.path("store"))
    }

    /// mini with these arguments.
    pub fn mini(&self, args: &[&str]) -> Run {
        self.program(mini()).args(args)
    }

    /// `mini run OPTIONS busybox.tar -- COMMAND`.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Run {
        self.mini(&["run"])
            .args(options)
            .args(&[&self.busybox, "--"])
            .args(command)
    }

    /// A shell script in busybox.tar.
    pub fn shell(&self, options: &[&str], script: &str) -> Output {
        self.run(options, &["/bin/sh", "-c", script]).output()
    }

    /// The guest in busybox.tar.
    pub fn guest(&self, options: &[&str], words: &[&str]) -> Run {
        let volume = format!("{}:/guest:ro", guest());
        self.mini(&["run", "-v", &volume])
            .args(options)
            .args(&[&self.busybox, "--", "/guest"])
            .args(words)
    }

    /// What the guest sees.
    #[track_caller]
    pub fn report(&self, options: &[&str]) -> Report {
        Report(self.guest(options, &["report"]).output().ok())
    }

    /// What comes of one of the guest's attacks (tests/guest/src/attacks.rs) in a container with these options, which
    /// are separated by spaces: `ok`, or the errno, or another word.
    #[track_caller]
    pub fn attack(&self, options: &str, attack: &str) -> String {
        let options: Vec<&str> = options.split_whitespace().collect();
        let output = self.guest(&options, &["attack", attack]).output();
        outcome(&output.expect(0), attack)
    }

    /// `script` in a mount namespace of its own, whose mounts the host does not see; $MINI, $BUSYBOX and $GUEST name
    /// those.
    pub fn private_shell(&self, script: &str) -> Run {
        let run =
            self.program("unshare")
                .args(&["-m", "--propagation", "private", "sh", "-euc", script]);
        run.env("MINI", mini())
            .env("BUSYBOX", &self.busybox)
            .env("GUEST", guest())
            .directory(&self.dir)
    }

    /// Processes that belong to this test.
    pub fn processes(&self) -> Vec<i32> {
        processes(self.dir.to_str().unwrap())
    }

    /// The same without those whose names are given.
    pub fn processes_but(&self, names: &[&str]) -> Vec<i32> {
        let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let others = |pid: &i32| !names.iter().any(|known| name(*pid).starts_with(known));
        self.processes().into_iter().filter(others).collect()
    }

    /// Nothing is left of any container, while other programs of the test still run.
    #[track_caller]
    pub fn assert_nothing_left_but(&self, names: &[&str]) {
        assert!(
            eventually(|| self.processes_but(names).is_empty()),
            "{:?}",
            self.processes_but(names)
        );
        assert_eq!(self.files(), Vec::<String>::new(), "files are left");
    }

    /// Directories and files that containers have left, but not what stays for the next one: some directories, and
    /// complete entries of the cache.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for top in ["run", "store"] {
            let path = self.path(top);
            if path.exists() {
                found.extend(
                    tree(&path)
                        .into_iter()
                        .map(|line| line.split(' ').next().unwrap().to_owned()),
                );
            }
        }
        let stays = [
            self.text("run"),
            self.text("run/running"),
            self.text("run/net"),
            // Where /run/mini cannot be made: the file in which ranges of ids are claimed.
            self.text("run/ids"),
            self.text("store"),
            self.text("store/containers"),
            self.text("store/kept"),
            self.text("store/cache"),
        ];
        let (kept, cached, new) = (
            self.text("store/kept"),
            self.text("store/cache/"),
            self.text("store/cache/.new-"),
        );
        found.retain(|path| {
            let entry = path.starts_with(&cached) && !path.starts_with(&new);
            !(stays.contains(path) || entry || self.keeps && path.starts_with(&kept))
        });
        found
    }

    #[track_caller]
    pub fn assert_nothing_left(&self) {
        eventually(|| self.processes().is_empty());
        if let Some(pid) = self.processes().first() {
            let show = |file: &str| {
                fs::read(format!("/proc/{pid}/{file}"))
                    .unwrap_or_default()
                    .escape_ascii()
                    .to_string()
            };
            panic!(
                "process {pid} is left: {} {}",
                show("cmdline"),
                show("status")
            );
        }
        assert_eq!(self.files(), Vec::<String>::new(), "files are left");
        // Containers of other tests come and go meanwhile, killed ones among them: what counts is what stays.
        let mut changes = self.changes();
        let same = eventually(|| {
            let now = self.changes();
            changes.retain(|change| now.contains(change));
            changes.is_empty()
        });
        assert!(
            same,
            "the host's mounts or cgroups have changed: {changes:#?}"
        );
    }

    /// The cgroups of containers that have not been able to remove them, those inside others first.
    fn cgroups(&self) -> Vec<PathBuf> {
        let containers = fs::read_dir(self.path("run/running")).into_iter().flatten();
        let mut cgroups = Vec::new();
        for container in containers.flatten() {
            // What is mounted over it is not seen from here.
            let record = fs::read_to_string(container.path().join("record")).unwrap_or_default();
            let own = format!("mini-{}", container.file_name().display());
            let named = |line: &str| line.split_once(' ').map(|(_, path)| PathBuf::from(path));
            let paths = (record.lines())
                .filter(|line| line.starts_with("cgroup ") || line.starts_with("freezer "))
                .filter_map(named);
            cgroups.extend(paths.filter(|path| path.iter().any(|part| part == own.as_str())));
        }
        cgroups.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
        cgroups
    }

    /// Mounts and cgroups that are new on the host, and mounts that are gone. A cgroup that is gone was somebody else's: it
    /// was empty for the moment in which the test began.
    fn changes(&self) -> Vec<String> {
        let now = machine();
        let new = now.iter().filter(|line| !self.before.contains(line));
        let gone = self.before.iter().filter(|line| !now.contains(line));
        let gone = gone.filter(|line| line.starts_with("mount "));
        new.map(|line| format!("new: {line}"))
            .chain(gone.map(|line| format!("gone: {line}")))
            .collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.assert_nothing_left();
        }
        let cgroups = self.cgroups();
        for _ in 0..200 {
            for pid in self.processes() {
                kill(pid, 9);
            }
            // Tests beside this one would take them for theirs. They are busy until the last process has gone.
            for cgroup in &cgroups {
                let _ = fs::remove_dir(cgroup);
            }
            if !cgroups.iter().any(|cgroup| cgroup.exists()) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What `guest attack` said of an attack.
#[track_caller]
pub fn outcome(output: &Output, attack: &str) -> String {
    // What is typed into a terminal may stand before it.
    let key = format!("{attack} ");
    let lines = output.stdout.lines();
    let mut found = lines.filter_map(|line| Some(&line[line.find(&key)? + key.len()..]));
    let Some(last) = found.next_back() else {
        panic!("nothing of {attack}: {output:?}");
    };
    last.trim_end().to_owned()
}

/// What the guest printed: `key value` lines.
#[derive(Debug)]
pub struct Report(pub String);

impl Report {
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
            .collect()
    }

    /// The value of a key that occurs once.
    #[track_caller]
    pub fn get(&self, key: &str) -> &str {
        match self.all(key).as_slice() {
            [value] => value,
            values => panic!("{key}: {values:?} in\n{}", self.0),
        }
    }

    /// The user namespace's map of user ids, `[inside, outside, count]` each. Those of groups are the same.
    #[track_caller]
    pub fn ids(&self) -> Vec<[u32; 3]> {
        assert_eq!(self.all("uid_map"), self.all("gid_map"));
        let numbers = |line: &str| {
            let numbers = line.split(' ').map(|number| number.parse().unwrap());
            numbers.collect::<Vec<u32>>().try_into().unwrap()
        };
        self.all("uid_map").into_iter().map(numbers).collect()
    }

    /// What id 0 inside is outside.
    #[track_caller]
    pub fn base(&self) -> u32 {
        let ids = self.ids();
        let root = ids.iter().find(|[inside, ..]| *inside == 0);
        root.unwrap_or_else(|| panic!("{ids:?}"))[1]
    }

    /// The environment, sorted.
    pub fn environment(&self) -> Vec<&str> {
        let mut variables = self.all("env");
        variables.sort();
        variables
    }

    /// Mount point, options, type and options of the file system, for each mount.
    pub fn mounts(&self) -> Vec<Mount> {
        self.all("mount").into_iter().map(Mount::parse).collect()
    }

    #[track_caller]
    pub fn mount(&self, at: &str) -> Mount {
        self.mounts()
            .into_iter()
            .rfind(|mount| mount.at == at)
            .unwrap_or_else(|| panic!("no mount at {at}\n{}", self.0))
    }
}

/// A line of /proc/PID/mountinfo.
#[derive(Debug, Clone)]
pub struct Mount {
    pub root: String,
    pub at: String,
    pub options: String,
    pub kind: String,
    pub data: String,
}

impl Mount {
    fn parse(line: &str) -> Mount {
        let (left, right) = line.split_once(" - ").unwrap();
        let (left, right): (Vec<_>, Vec<_>) =
            (left.split(' ').collect(), right.split(' ').collect());
        Mount {
            root: left[3].into(),
            at: left[4].into(),
            options: left[5].into(),
            kind: right[0].into(),
            data: right[2].into(),
        }
    }

    pub fn has(&self, option: &str) -> bool {
        self.options
            .split(',')
            .chain(self.data.split(','))
            .any(|found| found == option)
    }
}
