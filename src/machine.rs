//! mini as the machine's PID 1: `mini init`, or mini as /init of an initramfs. Entry: [`run`]. init(1), reboot(2), mount(2),
//! proc(5), cgroups(7), tty_ioctl(4).
//!
//! In order: /proc, /dev, /sys and what lies below; the console as descriptors 0, 1, 2; modules (/lib/modules/mini/*.ko, in
//! the order of their names); hostname, loopback; what `mini.mount` names; then the containers (`boot.rs`); in the end
//! everything is killed, synced, unmounted, and the machine powered off or as `mini.exit` says. The parameters stand in
//! `cmdline.rs`. Whatever fails is one line on the console, and the machine goes on.
//!
//! Signals, as busybox's init has them: SIGUSR2 powers off, SIGTERM and SIGINT (which the kernel sends for Ctrl-Alt-Del)
//! reboot, SIGUSR1 halts; containers are stopped in order first. Without a signal: `mini.exit`; but when the only container
//! has ended with status 133, as systemd-nspawn has it, the machine reboots.
//!
//! Left out: dependencies of modules, fsck, swap, /etc/fstab, getty, a clock from the network.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, openat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, WaitOptions, getpid, wait};
use rustix::system::{RebootCommand, finit_module, reboot, sethostname};

use container::{rootfs, sys};

use crate::boot::{self, Job, console, jobs, line};
use crate::cmdline::{Exit, Mount, Parameters, device, parse};
use crate::error::{Error, Result, error, path as show, quote, say};
use crate::plan::{leak, prepare};
use crate::store::names;

const BOOT_FILE: &str = "/etc/mini.boot";
const SEARCH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The exit status of a lone container that reboots the machine.
const REBOOT: u8 = 133;

/// Whether this process is PID 1 of the machine, not of a container: of the initial pid namespace, which is told by its
/// inode; or, as long as there is no /proc, by kthreadd, which is process 2 there and in no process group.
pub fn is_pid_1() -> bool {
    const PROC_PID_INIT_INO: u64 = 0xefff_fffc; // include/linux/proc_ns.h
    getpid() == Pid::INIT
        && std::fs::metadata("/proc/self/ns/pid").map_or_else(
            |_| sys::process_group(2) == Ok(0),
            |namespace| namespace.ino() == PROC_PID_INIT_INO,
        )
}

/// Whether the kernel has started mini as /init or the like, with whatever words of its command line it did not know.
pub fn started_as_init() -> bool {
    let init = |name: std::ffi::OsString| Path::new(&name).file_name() == Some("init".as_ref());
    getpid() == Pid::INIT && std::env::args_os().next().is_some_and(init) && is_pid_1()
}

/// Does all a machine needs; does not return. With a `command`, that is run in place of any container.
pub fn run(command: &[Vec<u8>]) -> ! {
    // Ctrl-Alt-Del becomes SIGINT.
    attempt(reboot(RebootCommand::CadOff).map_err(|errno| Error::sys("reboot", "CAD_OFF", errno)));
    sys::set_signal_mask(STOPPING);
    mounts();
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let (parameters, errors) = parse(&line);
    errors.into_iter().for_each(|error| attempt(Err(error)));
    settle(&parameters);
    let mut jobs = work(command, &parameters);
    let (signal, _) = boot::run(&mut jobs, STOPPING);
    let status = match jobs.as_slice() {
        [only] if signal.is_none() => Some(only.status),
        _ => None,
    };
    let mut exit = match (signal.unwrap_or(0) as u32, status) {
        (raw::SIGUSR1, _) => Exit::Halt,
        (raw::SIGUSR2, _) => Exit::Poweroff,
        (raw::SIGTERM | raw::SIGINT, _) | (_, Some(REBOOT)) => Exit::Reboot,
        _ => parameters.exit,
    };
    if exit == Exit::Shell {
        shell();
        exit = Exit::Poweroff;
    }
    finish(exit, status)
}

const STOPPING: sys::SignalSet = 1 << (raw::SIGUSR1 - 1)
    | 1 << (raw::SIGUSR2 - 1)
    | 1 << (raw::SIGTERM - 1)
    | 1 << (raw::SIGINT - 1);

/// Says what has failed; the machine goes on.
fn attempt(result: Result<()>) {
    if let Err(error) = result {
        say(&format!("mini: {error}\n"));
    }
}

const SYSTEM: u32 = raw::MS_NOSUID | raw::MS_NODEV | raw::MS_NOEXEC;
const TEMPORARY: u32 = raw::MS_NOSUID | raw::MS_NODEV;

/// The file systems that every program expects, the console, and modules.
fn mounts() {
    attempt(mount("proc", "/proc", "proc", SYSTEM, ""));
    if let Err(error) = mount("dev", "/dev", "devtmpfs", raw::MS_NOSUID, "mode=0755") {
        say(&format!("mini: {error}\n"));
        attempt(mount("dev", "/dev", "tmpfs", raw::MS_NOSUID, "mode=0755"));
        for (name, major, minor) in [("null", 1, 3), ("tty", 5, 0), ("console", 5, 1)] {
            let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
            let _ = mknodat(
                CWD,
                format!("/dev/{name}").as_str(),
                kind,
                mode,
                makedev(major, minor),
            );
        }
    }
    open_console();
    attempt(mount("sys", "/sys", "sysfs", SYSTEM, ""));
    for (name, to) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        let _ = symlink(format!("/proc/self/fd{to}"), format!("/dev/{name}"));
    }
    let pts = "gid=5,mode=0620,ptmxmode=0666";
    attempt(mount(
        "pts",
        "/dev/pts",
        "devpts",
        raw::MS_NOSUID | raw::MS_NOEXEC,
        pts,
    ));
    for (directory, mode) in [
        ("/dev/shm", "mode=1777"),
        ("/run", "mode=0755"),
        ("/tmp", "mode=1777"),
    ] {
        attempt(mount("tmpfs", directory, "tmpfs", TEMPORARY, mode));
    }
    let modules = Path::new("/lib/modules/mini");
    for name in names(modules) {
        attempt(load(&modules.join(name)));
    }
    if Path::new("/sys/fs/cgroup").is_dir() {
        cgroups();
    }
}

/// The one hierarchy of version 2; where the kernel has only version 1 (before Linux 4.5), one for each controller.
fn cgroups() {
    let top = "/sys/fs/cgroup";
    if mount("cgroup2", top, "cgroup2", SYSTEM, "").is_ok() {
        return;
    }
    attempt(mount("cgroup", top, "tmpfs", SYSTEM, "mode=0755"));
    let text = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    for line in text.lines().filter(|line| line.ends_with("\t1")) {
        let name = line.split('\t').next().unwrap_or_default();
        attempt(mount(
            name,
            &format!("{top}/{name}"),
            "cgroup",
            SYSTEM,
            name,
        ));
    }
}

/// mount(2), on a directory that is made if need be; nothing if something is mounted there already.
fn mount(source: &str, target: &str, fstype: &str, flags: u32, data: &str) -> Result<()> {
    let fail = |errno| Error::sys("mount", target, errno);
    (std::fs::DirBuilder::new().recursive(true).mode(0o755))
        .create(target)
        .map_err(|error| Error::io("mkdir", target, error))?;
    let device = |path: &Path| std::fs::metadata(path).map(|status| status.dev()).ok();
    let path = Path::new(target);
    if path
        .parent()
        .is_some_and(|parent| device(parent) != device(path))
    {
        return Ok(());
    }
    let (source, target, fstype, data) = (leak(source), leak(target), leak(fstype), leak(data));
    sys::mount(Some(source), target, Some(fstype), flags, Some(data)).map_err(|errno| {
        let hint = match errno {
            Errno::NODEV => format!("this kernel has no {}", fstype.to_string_lossy()),
            _ => String::new(),
        };
        fail(errno).hint(&hint)
    })
}

/// Makes the console standard input, output and error: the kernel opens it only if its node was there before.
fn open_console() {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(CWD, c"/dev/console", flags, Mode::empty()) {
        Ok(console) => (0..3).for_each(|number| {
            let _ = sys::duplicate(&console, number);
        }),
        Err(errno) => attempt(Err(Error::sys("open", "/dev/console", errno))),
    }
}

/// finit_module(2); a module that is there already is none of our business.
fn load(path: &Path) -> Result<()> {
    let name = path.as_os_str().as_bytes();
    let file = openat(CWD, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::sys("open", name, errno))?;
    match finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::sys("finit_module", name, errno)),
    }
}

/// Hostname, loopback, disks.
fn settle(parameters: &Parameters) {
    let file = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = parameters.hostname.as_deref().unwrap_or(file.trim_ascii());
    if !name.is_empty() {
        attempt(
            sethostname(name.as_bytes()).map_err(|errno| Error::sys("sethostname", name, errno)),
        );
    }
    attempt(rootfs::loopback_up().map_err(|errno| Error::sys("rtnetlink", "lo", errno)));
    parameters
        .mounts
        .iter()
        .for_each(|disk| attempt(attach(disk)));
}

/// Mounts what a `mini.mount` names.
fn attach(disk: &Mount) -> Result<()> {
    let fail = |why: &str| error!("mini.mount {}: {why}", quote(disk.device.as_bytes()));
    let (path, found) = device(&disk.device).map_err(|error| fail(&error))?;
    let Some(fstype) = disk.fstype.as_deref().or(found) else {
        return Err(fail("no ext4, squashfs or erofs: name its type"));
    };
    // As a path of bytes it could not have come from the command line.
    let path = path.to_string_lossy();
    mount(&path, &disk.directory, fstype, disk.flags, &disk.data).map_err(|error| fail(&error))
}

/// What is to run.
fn work(command: &[Vec<u8>], parameters: &Parameters) -> Vec<Job> {
    if !command.is_empty() {
        return vec![on_console(command)];
    }
    let mut lines = Vec::new();
    match &parameters.image {
        Some(image) => lines.push(lone(image, parameters)),
        None => {
            let file = parameters.boot.as_deref().unwrap_or(Path::new(BOOT_FILE));
            match boot::read(file) {
                Ok(found) => lines = found,
                Err(error) => attempt(Err(error.hint("mini.boot or mini.image tell what to run"))),
            }
        }
    }
    // One that cannot be parsed does not keep the others from running.
    let bad = |line: Result<_>| line.map_err(|error| attempt(Err(error))).ok();
    jobs(lines.into_iter().filter_map(bad).collect(), console)
}

/// The container of `mini.image`.
fn lone(image: &str, parameters: &Parameters) -> Result<boot::Line> {
    let mut path = PathBuf::from(image);
    if ["/dev/", "LABEL=", "UUID="]
        .iter()
        .any(|start| image.starts_with(start))
    {
        path = device(image)
            .map_err(|error| error!("mini.image: {error}"))?
            .0;
    }
    let mut words = parameters.arguments.clone();
    words.push(path.as_os_str().as_bytes().to_vec());
    words.push(b"--".to_vec());
    words.extend_from_slice(&parameters.command);
    let name = show(&path);
    line(name, words).map_err(|error| error!("mini.image, mini.args: {error}"))
}

/// A command that gets the console.
fn on_console(command: &[Vec<u8>]) -> Job {
    let (steps, terminal) = console();
    Job::new(
        quote(&command[0]),
        steps,
        prepare(command, SEARCH),
        terminal,
    )
}

/// The shell of the initramfs.
fn shell() {
    if !Path::new("/bin/sh").exists() {
        return say("mini: mini.exit=shell: there is no /bin/sh\n");
    }
    say("mini: mini.exit=shell: the machine powers off when the shell ends\n");
    boot::run(&mut [on_console(&[b"/bin/sh".to_vec()])], STOPPING);
}

/// Ends everything: processes, mounts, the machine.
fn finish(exit: Exit, status: Option<u8>) -> ! {
    let (what, command) = match exit {
        Exit::Reboot => ("reboot", RebootCommand::Restart),
        Exit::Halt => ("halt", RebootCommand::Halt),
        Exit::Poweroff | Exit::Shell => ("power off", RebootCommand::PowerOff),
    };
    let why = status.map_or(String::new(), |status| format!(" (exit status {status})"));
    say(&format!("mini: {what}{why}\n"));
    // What containers without a pid namespace of their own have left, and what somebody has started by hand.
    for (signal, patience) in [(raw::SIGTERM, 2_000_000_000), (raw::SIGKILL, 1_000_000_000)] {
        let _ = sys::kill(-1, signal as i32);
        let end = sys::clock(raw::CLOCK_MONOTONIC) + patience;
        // Ends with an error: ECHILD when nobody is left.
        while let Ok(ended) = wait(WaitOptions::NOHANG) {
            let now = sys::clock(raw::CLOCK_MONOTONIC);
            if now >= end {
                break;
            }
            if ended.is_none() {
                let _ = sys::wait_signal(1 << (raw::SIGCHLD - 1), Some(end - now));
            }
        }
    }
    rustix::fs::sync();
    detach();
    loop {
        attempt(reboot(command).map_err(|errno| Error::sys("reboot", what, errno)));
        // Halted, or not allowed to: PID 1 must not end.
        let _ = sys::wait_signal(0, None);
    }
}

/// Unmounts what is on disks, the last first; what cannot be, becomes read-only.
fn detach() {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in text.lines().rev().filter(|line| line.starts_with("/dev/")) {
        let target = line.split(' ').nth(1).unwrap_or_default();
        let Ok(path) = CString::new(target) else {
            continue;
        };
        if unmount(path.as_c_str(), UnmountFlags::empty()).is_err() {
            let flags = raw::MS_REMOUNT | raw::MS_RDONLY;
            let _ = sys::mount(None, &path, None, flags, None);
        }
    }
}
