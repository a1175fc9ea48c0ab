//! Containers that share namespaces: `--pid`, `--ipc`, `--net container:ID`. Entries: [`adapt`], [`open`], [`take`].
//!
//! setns(2), user_namespaces(7), open_tree(2) and move_mount(2) (Linux 5.2). How the container gets into them is a plan
//! (`plan/share.rs`); here is what has to be known of the other one for that, what opens its namespaces, and what takes a
//! mount out of it: /dev/shm belongs to no namespace but is what processes that share one expect to share, and so
//! are /etc/hosts and /etc/resolv.conf of a network.
//!
//! The other's namespaces live as long as somebody is in them, and its range of ids belongs to all who are (`userns.rs`).
//! Only with its pid namespace does the container end when the other one does.
//!
//! Left out: namespaces of several containers at once; of one that shares them itself, they may all be.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, waitpid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use container::child::{Context, become_root, perform};
use container::report::{self, Detail, Report};
use container::step::Step;
use container::{resolve, sys};

use crate::error::{Error, Result, error};
use crate::host::{Host, Other, mapped_ids, shared_file};
use crate::join::{command, untraceable};
use crate::life::{Processes, ended, parent};
use crate::plan::{SHARED, leak};
use crate::proc;
use crate::record::Record;
use crate::run::wait_for;
use crate::spec::{Spec, Userns};
use crate::state;
use crate::userns;

/// Looks for the container whose namespaces are to be shared, and takes over what follows from it. Those that the other one
/// shares with the host are the host's.
pub fn adapt(mut spec: Spec, host: &mut Host) -> Result<Spec> {
    let Some((wanted, flags)) = spec.joined.take() else {
        return Ok(spec);
    };
    untraceable()?;
    let container = state::find(&host.run, &wanted)?;
    let (id, pid) = (&container.id, number(process(&container)?));
    let mut namespaces = 0;
    for (name, flag) in SHARED {
        // A kernel without user namespaces.
        let Some(own) = inode("self", name) else {
            continue;
        };
        let theirs = inode(&pid, name).ok_or_else(|| not_readable(&pid))?;
        match (flags | raw::CLONE_NEWUSER) & flag {
            0 => {}
            raw::CLONE_NEWUSER if theirs == own => {}
            _ if theirs == own => spec.shared |= flag,
            _ => namespaces |= flag,
        }
    }
    host.hosts = shared_file(&spec, "/etc/hosts");
    host.resolv_conf = shared_file(&spec, "/etc/resolv.conf");
    if namespaces & !raw::CLONE_NEWUSER == 0 {
        return Ok(spec);
    }
    if !host.admin && inode("self", "pid") == inode(&pid, "pid") {
        let error = error!("container {id} sees the host's processes: it could trace mini");
        return Err(error.hint("it has --pid host; as root it can be joined"));
    }
    let mounts = raw::CLONE_NEWNET | raw::CLONE_NEWIPC;
    if namespaces & mounts != 0 && host.version < (5, 2) {
        let error = Error::new("--net and --ipc container:ID: this kernel lacks open_tree");
        return Err(error.hint("Linux 5.2"));
    }
    let range = container.text("range").is_some();
    let has = namespaces & raw::CLONE_NEWUSER != 0;
    let keep = !host.admin && inside(&pid, host.uid).is_some_and(|id| id != 0);
    let (same, option) = match spec.userns {
        Userns::Default => (true, ""),
        Userns::Auto => (has && range, "auto"),
        Userns::Host => (!has && host.privileged, "host"),
        Userns::KeepId => (keep, "keep-id"),
    };
    if !same {
        let error =
            error!("--userns {option}: the user namespace is that of container {id}, another one");
        return Err(error.hint(match spec.privileged {
            true => "--privileged means it unless --userns is given",
            false => "",
        }));
    }
    match spec.userns {
        Userns::Default if keep => spec.userns = Userns::KeepId,
        Userns::Default if !has && host.privileged => spec.userns = Userns::Host,
        _ => {}
    }
    if !host.admin {
        host.ids = mapped_ids(&pid) > 1;
        host.subordinate = None;
    }
    host.other = Some(Other {
        id: id.clone(),
        namespaces,
        range,
    });
    spec.joined = Some((wanted, namespaces));
    Ok(spec)
}

/// With which container this one shares namespaces, and which (`CLONE_NEW*`).
pub fn joined(container: &Record) -> (Option<String>, u32) {
    let line = container.text("joined").unwrap_or_default();
    let (flags, id) = line.split_once(' ').unzip();
    let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok());
    (id.map(str::to_owned), flags.unwrap_or(0))
}

/// A process by which a container's namespaces can be found: its first, or where an ordinary user may not look at that one,
/// which cannot be traced (ptrace(2)), the command.
fn process(container: &Record) -> Result<Pid> {
    let processes = Processes::of(container)?.ok_or_else(|| ended(container))?;
    let command = command(container, &processes)?;
    let init = processes.init.pid;
    let readable = inode(&number(init), "net").is_some();
    Ok(command.filter(|_| !readable).unwrap_or(init))
}

fn number(pid: Pid) -> String {
    pid.as_raw_pid().to_string()
}

fn inode(process: &str, name: &str) -> Option<u64> {
    let status = fs::metadata(format!("/proc/{process}/ns/{name}"));
    status.map(|status| status.ino()).ok()
}

fn not_readable(pid: &str) -> Error {
    let error = error!("/proc/{pid}/ns cannot be read");
    error.hint("the container has ended, or its user may not trace it")
}

/// The first id outside of those that a process's user namespace maps.
fn base(pid: &str) -> Option<u32> {
    let map = proc::read(format!("/proc/{pid}/uid_map")).ok()?;
    map.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What a user's id is there.
fn inside(pid: &str, uid: u32) -> Option<u32> {
    let map = proc::read(format!("/proc/{pid}/uid_map")).ok()?;
    map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (inside, outside) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        (outside == uid).then_some(inside)
    })
}

/// What leads into a container.
pub struct Opened {
    /// In the order of [`SHARED`].
    pub namespaces: Vec<OwnedFd>,
    /// Its mount namespace.
    pub mounts: OwnedFd,
    /// The first id of its range, and what keeps that from being given away.
    pub ids: Option<(u32, OwnedFd)>,
}

/// Opens what leads into `other`; with the directory where ranges of ids are locked, keeps its range as well.
pub fn open(run: &Path, other: &Other, ids: Option<&Path>) -> Result<Opened> {
    let container = Record::read(run.join("running").join(&other.id));
    let of = process(&container)?;
    let pid = number(of);
    let open = |name: &str| {
        let path = format!("/proc/{pid}/ns/{name}");
        sys::open(leak(&path), OFlags::RDONLY).map_err(|errno| Error::sys("open", &path, errno))
    };
    let mut namespaces = Vec::new();
    for (name, flag) in SHARED {
        // It may have been started again since it was looked at, but not otherwise.
        if other.namespaces & flag != 0 {
            namespaces.push(open(name)?);
        }
    }
    let mounts = open("mnt")?;
    let ids = match (ids, base(&pid)) {
        (Some(directory), Some(base)) => Some((base, userns::share(directory, base)?)),
        _ => None,
    };
    // Of that number there was no other process meanwhile, and the range is its own still.
    let same = Processes::of(&container)?
        .is_some_and(|now| now.init.pid == of || parent(of) == Some(now.init.pid.as_raw_pid()));
    match same {
        true => Ok(Opened {
            namespaces,
            mounts,
            ids,
        }),
        false => Err(ended(&container)),
    }
}

/// Mounts on `to` what the container of this mount namespace has at `from`. It is looked for by a process that has no more
/// rights than the container's root: with `userns` it enters the user namespace first, by its slot of `context`.
pub fn take(
    from: &CStr,
    to: &CStr,
    mounts: &OwnedFd,
    userns: bool,
    context: &mut Context,
    interrupts: &OwnedFd,
) -> rustix::io::Result<()> {
    let (ours, theirs) = report::channel()?;
    let child = sys::clone(0, || {
        let found = find(from, mounts, userns, context);
        let report = Report {
            step: 0,
            result: found.as_ref().map(drop).map_err(|errno| *errno),
            nanoseconds: 0,
            process: 0,
            detail: Detail::NONE,
        };
        let _ = report.send(theirs.as_fd(), found.as_ref().ok().map(AsFd::as_fd));
        0
    })?;
    drop(theirs);
    // The container may keep it waiting.
    let received = match wait_for(interrupts, Some(ours.as_fd())) {
        true => Report::receive(&ours),
        false => Err(Errno::INTR),
    };
    let _ = sys::kill(child.as_raw_pid(), raw::SIGKILL as i32);
    waitpid(Some(child), WaitOptions::empty())?;
    let received = received?.ok_or(Errno::SRCH)?;
    received.report.result?;
    let tree = received.descriptor.ok_or(Errno::SRCH)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, c"", CWD, to, flags)
}

/// A copy of the mount at `path` in another mount namespace, from the path on.
fn find(
    path: &CStr,
    mounts: &OwnedFd,
    userns: bool,
    context: &mut Context,
) -> rustix::io::Result<OwnedFd> {
    // A container in the host's pid namespace sees this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if userns {
        perform(&Step::Setns("", raw::CLONE_NEWUSER, 0), context)?;
        become_root()?;
    }
    move_into_thread_name_spaces(mounts.as_fd(), ThreadNameSpaceType::MOUNT)?;
    let root = sys::open(c"/", OFlags::PATH | OFlags::DIRECTORY)?;
    let found = resolve::open(root.as_fd(), path.to_bytes(), OFlags::PATH)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&found, c"", flags)
}
