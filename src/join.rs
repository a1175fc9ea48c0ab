//! `mini exec`: a command in a container that runs already. Entry: [`run`].
//!
//! setns(2) by a pidfd (Linux 5.8; before that by the files of /proc/PID/ns), namespaces(7), pid_namespaces(7). What the
//! container's own command was given stands in its record (`state.rs`); with the options it becomes a [`Spec`], and that
//! with what the container looks like from outside a plan (`plan/join.rs`), which the supervisor of `run.rs` carries out.
//!
//! The command dies with the container: by its pid namespace, else by its cgroup and by mini, which watches the
//! container's first process. It dies with mini, unless that is told to go on without it (`-d`).
//!
//! Left out: what an attacker gains from a machine where processes that change their ids can be traced
//! (fs.suid_dumpable=1): there mini refuses.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use container::sys;

use crate::capability;
use crate::cli::life::Exec;
use crate::error::{Error, Result, error};
use crate::host::{self, Host, mapped_ids, probe};
use crate::life::{Processes, ended, parent};
use crate::pause;
use crate::plan::{self, Container, Users, leak};
use crate::record::Record;
use crate::run;
use crate::seccomp::Seccomp;
use crate::share;
use crate::spec::Spec;
use crate::state;
use crate::store::names;

/// Runs a command in a running container and returns the status to exit with.
pub fn run(exec: Exec) -> Result<u8> {
    let run = host::run()?;
    state::sweep(&run, crate::store::SOME)?;
    let container = state::find(&run, &exec.container)?;
    join(exec, &container).map_err(|error| match state::runs(&container) {
        // It may have ended at any moment, and each has an error of its own.
        false if error.status() == crate::error::FAILED => ended(&container),
        _ => error,
    })
}

fn join(exec: Exec, container: &Record) -> Result<u8> {
    let id = &container.id;
    let processes = Processes::of(container)?.ok_or_else(|| ended(container))?;
    if pause::paused(container) {
        let error = error!("container {id} is paused");
        return Err(error.hint("mini unpause lets it go on"));
    }
    untraceable()?;
    let (mode, detach) = (exec.mode, exec.detach);
    let mut spec = complete(exec, state::described(container)?);
    let mut host = probe(&spec)?;
    let init = processes.init.pid;
    let command = command(container, &processes)?;
    let entrance = Entrance::find(init, command, &host)?;
    // Of that number there was no other process meanwhile.
    let same = Processes::of(container)?.is_some_and(|now| now.init.pid == init);
    if !same || entrance.pid != init && parent(entrance.pid) != Some(init.as_raw_pid()) {
        return Err(ended(container));
    }
    // One that it shares with another container does not end with it.
    let own_pids = entrance.flags & raw::CLONE_NEWPID & !share::joined(container).1 != 0;
    let freezer = container.all("freezer");
    let mut cgroups = Vec::new();
    let all = state::cgroups(container);
    for path in all.clone() {
        let is_freezer = |freezer: &Vec<u8>| path.as_os_str().as_encoded_bytes() == *freezer;
        // In one that has the container's own in it there may be no processes.
        let holds = all.iter().any(|it| *it != path && it.starts_with(&path));
        if !holds && !freezer.iter().any(is_freezer) {
            let v2 = !path.join("tasks").exists();
            cgroups.push((path, v2));
        }
    }
    if !own_pids && cgroups.is_empty() && (detach || processes.init.pidfd.is_none()) {
        let error = error!("container {id} has neither a pid namespace nor a cgroup of its own");
        return Err(error.hint("nothing would end the command when the container ends"));
    }
    if !host.admin {
        host.ids = mapped_ids(&entrance.pid.as_raw_pid().to_string()) > 1;
        host.subordinate = None;
    }
    if detach {
        host.nulls = [true; 3];
    }
    lower(&mut spec, &host)?;
    let users = match container.text("range") {
        _ if entrance.flags & raw::CLONE_NEWUSER == 0 || !host.privileged => Users::Same,
        Some(_) => Users::Range,
        None => Users::Identity,
    };
    let outside = Container {
        cgroups,
        namespaces: entrance.names,
        users,
        oom_score_adj: oom_score_adj(init),
    };
    let mut plan = plan::join(&spec, &host, &outside, detach)?;
    let watched = processes.init.pidfd.filter(|_| !own_pids && !detach);
    run::join(&spec, &host, &mut plan, mode, entrance.opened, watched)
}

/// An error where a change of ids would let a container's processes trace this one before its execve (proc(5)).
pub fn untraceable() -> Result<()> {
    if fs::read("/proc/sys/fs/suid_dumpable").is_ok_and(|text| text.starts_with(b"1")) {
        let error = Error::new("sysctl fs.suid_dumpable is 1: the container could trace mini");
        return Err(error.hint("0 or 2 forbids it"));
    }
    Ok(())
}

/// The first child of the container's init, if it has one; an error if its command does not run yet.
pub fn command(container: &Record, processes: &Processes) -> Result<Option<Pid>> {
    let (id, init) = (&container.id, processes.init.pid);
    // Its init has a child when everything is set up.
    let command = first_child(init).filter(|_| container.text("init").is_none());
    if command.is_none() && !is_command(init, processes.supervisor.pid) {
        return Err(error!("container {id}: it is still being started"));
    }
    Ok(command)
}

/// The container's command, with what the options say.
fn complete(exec: Exec, mut spec: Spec) -> Spec {
    spec.init = false;
    (spec.interactive, spec.tty) = (exec.interactive, exec.tty);
    spec.command = exec.command;
    spec.environment.extend(exec.environment);
    if let Some(workdir) = exec.workdir {
        spec.workdir = workdir;
    }
    if let Some((user, group)) = exec.user {
        (spec.user, spec.group) = (Some(user), group);
    }
    if exec.privileged {
        spec.capabilities.base = capability::ALL;
        spec.seccomp = Seccomp::Unconfined;
        spec.no_new_privs = false;
    }
    spec
}

/// Whoever may not raise a hard limit goes on with less where its own is lower than the container's.
fn lower(spec: &mut Spec, host: &Host) -> Result<()> {
    for limit in spec.limits.iter_mut().filter(|_| !host.privileged) {
        let (_, hard) = sys::limit(0, limit.resource, None)
            .map_err(|errno| Error::sys("prlimit", limit.name, errno))?;
        limit.hard = limit.hard.min(hard);
        limit.soft = limit.soft.min(hard);
    }
    Ok(())
}

/// What a process of the container has, if it is not what this one has and hands on.
fn oom_score_adj(init: Pid) -> Option<i32> {
    let read = |process: &str| fs::read_to_string(format!("/proc/{process}/oom_score_adj")).ok();
    let theirs = read(&init.as_raw_pid().to_string());
    let differs = theirs != read("self");
    theirs?.trim_ascii().parse().ok().filter(|_| differs)
}

/// The namespaces, and what leads to them.
struct Entrance {
    /// Whose namespaces they are.
    pid: Pid,
    /// Those that are not mini's own.
    flags: u32,
    names: Vec<(&'static str, u32)>,
    opened: Vec<OwnedFd>,
}

/// In the order in which they have to be entered one by one: the first gives the right to the others.
const NAMESPACES: [(&str, u32); 8] = [
    ("user", raw::CLONE_NEWUSER),
    ("mnt", raw::CLONE_NEWNS),
    ("pid", raw::CLONE_NEWPID),
    ("net", raw::CLONE_NEWNET),
    ("ipc", raw::CLONE_NEWIPC),
    ("uts", raw::CLONE_NEWUTS),
    ("cgroup", raw::CLONE_NEWCGROUP),
    // Where its children begin: mini's init stays outside of the one that it makes.
    ("time_for_children", raw::CLONE_NEWTIME),
];

impl Entrance {
    /// The namespaces of the container's first process. An ordinary user may not look at mini's init (ptrace(2)), which
    /// cannot be traced: then those of the command, its first child.
    fn find(init: Pid, command: Option<Pid>, host: &Host) -> Result<Entrance> {
        let failed = |pid: Pid, error: std::io::Error| {
            let denied = error.kind() == ErrorKind::PermissionDenied;
            let error = Error::io("open", format!("/proc/{}/ns", pid.as_raw_pid()), error);
            match denied {
                true => error.hint("the command has not begun, or its user may not trace it"),
                false => error,
            }
        };
        match (Entrance::of(init, host), command) {
            (Err(error), Some(command)) if error.kind() == ErrorKind::PermissionDenied => {
                Entrance::of(command, host).map_err(|error| failed(command, error))
            }
            (found, _) => found.map_err(|error| failed(init, error)),
        }
    }

    fn of(pid: Pid, host: &Host) -> std::io::Result<Entrance> {
        let number = pid.as_raw_pid();
        let (mut names, mut opened) = (Vec::new(), Vec::new());
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        // It leads to all of them at once.
        let mut pidfd = pidfd.filter(|_| host.version >= (5, 8));
        let at_once = pidfd.is_some();
        let mut flags = 0;
        for (name, flag) in NAMESPACES {
            let path = format!("/proc/{number}/ns/{name}");
            let io = |errno: Errno| std::io::Error::from_raw_os_error(errno.raw_os_error());
            let inode = |path: &str| fs::metadata(path).map(|status| status.ino());
            // What this kernel does not have.
            let Ok(own) = inode(&format!("/proc/self/ns/{name}")) else {
                continue;
            };
            if inode(&path)? == own {
                continue;
            }
            flags |= flag;
            if !at_once || flag == raw::CLONE_NEWTIME {
                opened.push(sys::open(leak(&path), OFlags::RDONLY).map_err(io)?);
                names.push((&*format!("{{ns/{name}}}").leak(), flag));
            }
        }
        let together = flags & !raw::CLONE_NEWTIME;
        if let (Some(pidfd), true) = (pidfd.take(), together != 0) {
            opened.insert(0, pidfd);
            names.insert(0, ("{pidfd}", together));
        }
        Ok(Entrance {
            pid,
            flags,
            names,
            opened,
        })
    }
}

/// The first child of a process.
fn first_child(pid: Pid) -> Option<Pid> {
    let number = pid.as_raw_pid();
    let listed = fs::read_to_string(format!("/proc/{number}/task/{number}/children"));
    let first = match listed {
        Ok(children) => children.split(' ').next()?.parse().ok(),
        // No CONFIG_PROC_CHILDREN.
        Err(_) => {
            let names = names(Path::new("/proc"));
            let mut pids: Vec<i32> = names.iter().filter_map(|name| name.parse().ok()).collect();
            pids.sort_unstable();
            let is_child = |pid: &i32| Pid::from_raw(*pid).and_then(parent) == Some(number);
            pids.into_iter().find(is_child)
        }
    };
    first.and_then(Pid::from_raw)
}

/// Whether the first process of a container without mini's init has become its command: until then it shows the arguments
/// that mini was started with, or what they have been overwritten with. Before that the host's files are still there.
fn is_command(init: Pid, supervisor: Pid) -> bool {
    let arguments = |pid: Pid| fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid()));
    match (arguments(init), arguments(supervisor)) {
        // Nothing, or a zero byte at first: it is just being overwritten.
        (Ok(own), Ok(minis)) => {
            let none = own.first().is_none_or(|byte| *byte == 0);
            !none && own != minis && !own.starts_with(b"mini init\0")
        }
        _ => false,
    }
}
