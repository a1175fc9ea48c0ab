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
use rustix::process::{Pid, WaitOptions, getpid, ioctl_tiocsctty, setpgid, setsid, wait, waitpid};
use rustix::system::{RebootCommand, finit_module, reboot, sethostname};
use rustix::termios::{tcdrain, tcgetattr, tcsetpgrp};

use container::step::Step;
use container::{network, sys};

use crate::boot::{self, Job, jobs, line};
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

/// Whether the kernel has started mini, as /init or under whatever name, with the words of its command line that it did not
/// know: as the machine's PID 1 nothing but `mini init` makes sense.
pub fn started_as_init() -> bool {
    let command = std::env::args_os().nth(1);
    getpid() == Pid::INIT && command.is_none_or(|word| word != "init") && is_pid_1()
}

/// Does all a machine needs; does not return. With a `command`, that is run in place of any container.
pub fn run(command: &[Vec<u8>]) -> ! {
    // Ctrl-Alt-Del becomes SIGINT.
    attempt(reboot(RebootCommand::CadOff).map_err(|errno| Error::sys("reboot", "CAD_OFF", errno)));
    sys::set_signal_mask(STOPPING);
    mounts();
    let line = std::fs::read("/proc/cmdline").unwrap_or_default();
    let (parameters, errors) = parse(&String::from_utf8_lossy(&line));
    errors.into_iter().for_each(|error| attempt(Err(error)));
    settle(&parameters);
    // Before anybody changes it.
    let mode = tcgetattr(sys::borrow(0)).ok();
    let console = Step::Console(mode.map(|mode| &*Box::leak(Box::new(mode))));
    let mut jobs = work(command, &parameters, console);
    let (signal, _) = boot::run(&mut jobs, STOPPING);
    let status = match jobs.as_slice() {
        [only] if signal.is_none() && only.alone => Some(only.status),
        _ => None,
    };
    let mut exit = wish(signal).unwrap_or(match status {
        Some(REBOOT) => Exit::Reboot,
        _ => parameters.exit,
    });
    if exit == Exit::Shell {
        exit = wish(shell(console)).unwrap_or(Exit::Poweroff);
    }
    finish(exit, status)
}

/// What a signal asks for.
fn wish(signal: Option<i32>) -> Option<Exit> {
    match signal? as u32 {
        raw::SIGUSR1 => Some(Exit::Halt),
        raw::SIGUSR2 => Some(Exit::Poweroff),
        _ => Some(Exit::Reboot),
    }
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
            let path = format!("/dev/{name}");
            let _ = mknodat(CWD, path.as_str(), kind, mode, makedev(major, minor));
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
    for (fstype, directory, flags, data) in [
        ("devpts", "/dev/pts", SYSTEM & !raw::MS_NODEV, pts),
        ("tmpfs", "/dev/shm", TEMPORARY, "mode=1777"),
        ("tmpfs", "/run", TEMPORARY, "mode=0755"),
        ("tmpfs", "/tmp", TEMPORARY, "mode=1777"),
    ] {
        attempt(mount(fstype, directory, fstype, flags, data));
    }
    let modules = Path::new("/lib/modules/mini");
    for name in names(modules).iter().filter(|name| name.ends_with(".ko")) {
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
    let text = crate::proc::read("/proc/cgroups").unwrap_or_default();
    for line in text.lines().filter(|line| line.ends_with("\t1")) {
        let name = line.split('\t').next().unwrap_or_default();
        let at = format!("{top}/{name}");
        attempt(mount(name, &at, "cgroup", SYSTEM, name));
    }
}

/// Mounts what every system has; nothing if something is mounted there already.
fn mount(source: &str, target: &str, fstype: &str, flags: u32, data: &str) -> Result<()> {
    let device = |path: &Path| std::fs::metadata(path).map(|status| status.dev()).ok();
    let path = Path::new(target);
    let parent = path.parent().and_then(device);
    match device(path) {
        Some(found) if Some(found) != parent => Ok(()),
        _ => mount_on(source, target, fstype, flags, data),
    }
}

/// mount(2), on a directory that is made if need be.
fn mount_on(source: &str, target: &str, fstype: &str, flags: u32, data: &str) -> Result<()> {
    let fail = |errno| Error::sys("mount", target, errno);
    (std::fs::DirBuilder::new().recursive(true).mode(0o755))
        .create(target)
        .map_err(|error| Error::io("mkdir", target, error))?;
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
        Ok(console) => {
            (0..3).for_each(|number| {
                let _ = sys::duplicate(&console, number);
            });
            // When the leader of a session ends, its terminal is hung up, and what that has not sent yet is lost,
            // whoever wrote it (tty_vhangup_session). So this process leads: it does not end.
            let _ = setsid();
            let _ = ioctl_tiocsctty(sys::borrow(0));
            // Its own group is in the foreground now, and Ctrl-C would be a SIGINT, which asks for a reboot. Until
            // somebody has the console, that is the group of a process that has ended.
            briefly(0, &mut || {
                let _ = setpgid(None, None).and_then(|()| tcsetpgrp(sys::borrow(0), getpid()));
            });
        }
        Err(errno) => attempt(Err(Error::sys("open", "/dev/console", errno))),
    }
}

/// Does something in a process of its own, and waits for it, but no longer than so many seconds (0: for ever). Returns
/// whether it has ended.
fn briefly(seconds: u64, work: &mut dyn FnMut()) -> bool {
    let Ok(child) = sys::clone(0, || {
        // SIGTTOU would stop what uses the console from the background.
        sys::set_signal_mask(!0);
        work();
        0
    }) else {
        // Better here than not at all.
        work();
        return true;
    };
    let end = sys::clock(raw::CLOCK_MONOTONIC) + seconds * 1_000_000_000;
    let flags = match seconds {
        0 => WaitOptions::empty(),
        _ => WaitOptions::NOHANG,
    };
    // A SIGCHLD may be left over from before: only waitpid tells.
    while let Ok(None) = waitpid(Some(child), flags) {
        let now = sys::clock(raw::CLOCK_MONOTONIC);
        if now >= end {
            return false;
        }
        let _ = sys::wait_signal(1 << (raw::SIGCHLD - 1), Some(end - now));
    }
    true
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
    let loopback = network::configure(network::LOOPBACK);
    attempt(loopback.map_err(|errno| Error::sys("rtnetlink", "lo", errno)));
    for disk in &parameters.mounts {
        attempt(attach(disk));
    }
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
    mount_on(&path, &disk.directory, fstype, disk.flags, &disk.data).map_err(|error| fail(&error))
}

/// What is to run.
fn work(command: &[Vec<u8>], parameters: &Parameters, console: Step) -> Vec<Job> {
    if !command.is_empty() {
        return vec![on_console(console, command)];
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
    let count = lines.len();
    let lines = lines.into_iter().filter_map(bad).collect();
    jobs(lines, count, Some(console))
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
    line(name, words, "boot").map_err(|error| error!("mini.image, mini.args: {error}"))
}

/// A command that gets the console.
fn on_console(console: Step, command: &[Vec<u8>]) -> Job {
    let (name, command) = (quote(&command[0]), prepare(command, SEARCH));
    Job::new(name, vec![console], command)
}

/// The shell of the initramfs. Returns the signal that ended it, if one did.
fn shell(console: Step) -> Option<i32> {
    if !Path::new("/bin/sh").exists() {
        say("mini: mini.exit=shell: there is no /bin/sh\n");
        return None;
    }
    say("mini: mini.exit=shell: the machine powers off when the shell ends\n");
    boot::run(&mut [on_console(console, &[b"/bin/sh".to_vec()])], STOPPING).0
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
    // A dead disk must not keep the machine from going down, nor a console that flow control holds. reboot(2) does not
    // wait for the console either: without that the last lines would be lost.
    let ended = briefly(30, &mut || {
        rustix::fs::sync();
        detach();
    });
    if !ended {
        say("mini: sync, umount2: a disk does not answer; what was not written is lost\n");
    }
    briefly(5, &mut || {
        let _ = tcdrain(sys::borrow(2));
    });
    loop {
        attempt(reboot(command).map_err(|errno| Error::sys("reboot", what, errno)));
        // Halted, or not allowed to: PID 1 must not end.
        let _ = sys::wait_signal(0, None);
    }
}

/// Unmounts what is on disks, the last first; what cannot be, becomes read-only.
fn detach() {
    let text = crate::proc::read("/proc/self/mounts").unwrap_or_default();
    for line in text.lines().rev().filter(|line| line.starts_with("/dev/")) {
        // A backslash and three octal digits stand for a byte.
        let mut bytes = line.split(' ').nth(1).unwrap_or_default().bytes();
        let mut path = Vec::new();
        while let Some(byte) = bytes.next() {
            path.push(match byte {
                b'\\' => (bytes.by_ref().take(3)).fold(0, |byte: u8, digit| byte << 3 | digit & 7),
                byte => byte,
            });
        }
        let Ok(path) = CString::new(path) else {
            continue;
        };
        if unmount(path.as_c_str(), UnmountFlags::empty()).is_err() {
            let flags = raw::MS_REMOUNT | raw::MS_RDONLY;
            let _ = sys::mount(None, &path, None, flags, None);
        }
    }
}
