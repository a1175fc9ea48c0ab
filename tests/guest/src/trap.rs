//! `guest trap FILE`: until FILE is there, looks for processes that appear in this container and tries to get hold of each
//! at every moment of its life. Those of an engine that are on their way to a command's execve must give nothing away: no
//! trace, no descriptor, right, binary, directory, memory or environment of the host's. Prints what came of it: `seen N`
//! processes, `early N` looks at one that still bore mini's name, `reached N` looks that succeeded at one that did not,
//! and a line `trapped WHAT` for each catch.

use std::collections::HashSet;
use std::ffi::c_int;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::kernel::{self as nr, call, getpid};
use crate::say;

unsafe extern "C" {
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

const PTRACE_DETACH: usize = 17;
const PTRACE_SEIZE: usize = 0x4206;
const PTRACE_INTERRUPT: usize = 0x4207;
/// Of waitpid(2): also for those who are no children.
const WALL: c_int = 0x4000_0000;

struct Trap {
    seen: HashSet<i32>,
    early: u32,
    reached: u32,
    /// Device and inode of every file and directory that the container may show.
    own: HashSet<(u64, u64)>,
    /// The permitted capabilities of this process, and whether it has a filter.
    rights: Option<(u64, bool)>,
}

pub fn trap(end: &str) -> c_int {
    let identity = |path: &str| fs::metadata(path).map(|status| (status.dev(), status.ino()));
    let own = ["/", "/guest", "/bin/busybox", "/proc/self/exe"];
    let mut trap = Trap {
        seen: HashSet::new(),
        early: 0,
        reached: 0,
        own: own.iter().flat_map(|path| identity(path)).collect(),
        rights: rights("self"),
    };
    let me = unsafe { getpid() };
    // Those that were there before.
    let others: HashSet<i32> = processes().collect();
    say("ready");
    let mut highest = me;
    while fs::metadata(end).is_err() {
        for pid in processes().filter(|pid| !others.contains(pid)) {
            highest = highest.max(pid);
            trap.look(pid);
        }
        // The next ones, before anybody lists them.
        for pid in highest + 1..highest + 4 {
            trap.look(pid);
        }
    }
    say(&format!("seen {}", trap.seen.len()));
    say(&format!("early {}", trap.early));
    say(&format!("reached {}", trap.reached));
    0
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process's permitted capabilities, and whether its system calls are filtered.
fn rights(process: &str) -> Option<(u64, bool)> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.map(str::trim_ascii)
    };
    let permitted = u64::from_str_radix(field("CapPrm:")?, 16).ok()?;
    Some((permitted, field("Seccomp:")? != "0"))
}

impl Trap {
    fn catch(&self, pid: i32, what: &str) {
        say(&format!("trapped {what} of {pid}"));
    }

    /// Everything that can be tried with a process, from what closes soonest on.
    fn look(&mut self, pid: i32) {
        let path = |name: &str| format!("/proc/{pid}/{name}");
        let Ok(comm) = fs::read_to_string(path("comm")) else {
            return;
        };
        self.seen.insert(pid);
        // The name may be another by the time of what follows: what is found there decides.
        self.early += u32::from(comm.starts_with("mini"));
        // Whoever can be traced stands still while the rest is tried.
        let mut status = 0;
        let traced = call(nr::PTRACE, &[PTRACE_SEIZE, pid as usize, 0, 0]).is_ok();
        if traced {
            let _ = call(nr::PTRACE, &[PTRACE_INTERRUPT, pid as usize, 0, 0]);
            unsafe { waitpid(pid, &raw mut status, WALL) };
            self.reached += 1;
        }
        self.take(pid, traced);
        if traced {
            let _ = call(nr::PTRACE, &[PTRACE_DETACH, pid as usize, 0, 0]);
        }
    }

    fn take(&mut self, pid: i32, traced: bool) {
        let path = |name: &str| format!("/proc/{pid}/{name}");
        // Nobody here may have more; least of all one that can be made use of.
        if let (Some(own), Some(theirs)) = (self.rights, rights(&pid.to_string())) {
            if theirs.0 & !own.0 != 0 || own.1 && !theirs.1 {
                let held = if traced { "held " } else { "" };
                self.catch(pid, &format!("{held}rights {:x} {}", theirs.0, theirs.1));
            }
        }
        // Anybody may read this: of the host's mounts nothing stands there, not even the container's directory.
        let mounts = fs::read_to_string(path("mountinfo")).unwrap_or_default();
        let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        if points.any(|point| point.contains("/running/")) {
            self.catch(pid, "the host's mounts");
        }
        for name in ["exe", "root", "cwd"] {
            match fs::metadata(path(name)) {
                Ok(status) if self.own.contains(&(status.dev(), status.ino())) => self.reached += 1,
                Ok(_) => self.catch(pid, name),
                Err(_) => {}
            }
        }
        for entry in fs::read_dir(path("fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let number = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            let target = target.to_string_lossy();
            // The command has nothing else; what it opens itself lies in the container.
            let foreign = ["socket", "anon_inode", "/sys/fs/cgroup"];
            if number > 2 && foreign.iter().any(|kind| target.starts_with(kind)) {
                self.catch(pid, &format!("descriptor {number} {target}"));
            }
        }
        let environment = fs::read(path("environ")).unwrap_or_default();
        if environment.windows(9).any(|part| part == b"MINI_RUN=") {
            self.catch(pid, "environment");
        }
        if let Ok(pidfd) = call(nr::PIDFD_OPEN, &[pid as usize, 0]) {
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as c_int) };
            // The control socket is 3, close-on-exec; no command of the test has such a descriptor.
            let theirs = [pidfd.as_raw_fd() as usize, 3, 0];
            if let Ok(fd) = call(nr::PIDFD_GETFD, &theirs) {
                let target = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
                if target.to_string_lossy().starts_with("socket") {
                    self.catch(pid, "descriptor 3 by pidfd_getfd");
                }
                drop(unsafe { OwnedFd::from_raw_fd(fd as c_int) });
            }
        }
    }
}
