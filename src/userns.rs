//! User namespaces, seen from outside. user_namespaces(7), Linux 3.8; idmapped mounts: mount_setattr(2), Linux 5.12.
//!
//! As root, the container's first process is made in a namespace of its own: [`claim`] finds a range of ids that
//! nobody else has, [`map`] writes it down, and [`idmap`] shows the files of image and volumes as if their owners were
//! the ids inside, so that nothing has to be changed on disk.
//!
//! Without root, mini itself enters one first, in which it has every capability: [`enter`]. newuidmap(1), subuid(5):
//! with subordinate ids the set-uid programs newuidmap and newgidmap write the maps; without, mini maps the one id that
//! it may map itself.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use container::sys::{self, Word};

use crate::error::{Error, Result, error, reason};
use crate::explain::namespace_hint;
use crate::host::Host;
use crate::plan::{IdMap, RANGE, leak, words};
use crate::run::wait_for;
use crate::store::make_private;

/// Enters a new user namespace as its root. newuidmap has to run outside of it and after it was made, so its
/// processes are made before and wait.
pub fn enter(map: &IdMap, host: &Host) -> Result<()> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::sys("pipe", "", errno))?;
    let mut helpers = Vec::new();
    if let Some(ids) = &map.subordinate {
        for (program, lines) in [
            (&ids.newuidmap, map.lines(map.uid, Some(ids.uids))),
            (&ids.newgidmap, map.lines(map.gid, Some(ids.gids))),
        ] {
            helpers.push((program, spawn_helper(program, &lines, &read, &write)?));
        }
    }
    let failed = |errno: Errno| {
        let error = error!("unshare(CLONE_NEWUSER): {}", reason(errno));
        error.hint(namespace_hint(errno, raw::CLONE_NEWUSER, host))
    };
    sys::unshare(raw::CLONE_NEWUSER).map_err(failed)?;
    if helpers.is_empty() {
        let write = |path: &str, text: String| {
            std::fs::write(path, text).map_err(|error| Error::io("write", path, error))
        };
        // A group map by the user itself is allowed only without setgroups (user_namespaces(7), CVE-2014-8989).
        write("/proc/self/setgroups", "deny".into())?;
        for (path, id) in [
            ("/proc/self/uid_map", map.uid),
            ("/proc/self/gid_map", map.gid),
        ] {
            let inside = if map.keep { id } else { 0 };
            write(path, format!("{inside} {id} 1"))?;
        }
        return Ok(());
    }
    rustix::io::write(&write, b"!!").map_err(|errno| Error::sys("write", "pipe", errno))?;
    for (program, pid) in helpers {
        let status = waitpid(Some(pid), WaitOptions::empty())
            .map_err(|errno| Error::sys("wait", "", errno))?;
        if status.is_none_or(|(_, status)| status.exit_status() != Some(0)) {
            return Err(
                error!("{}: failed", program.display()).hint("see /etc/subuid and /etc/subgid")
            );
        }
    }
    Ok(())
}

/// The first of the ids that containers are given: below 2^31, which some programs take for the end of all ids, and
/// above what useradd(8) (to 600,100,000), systemd (to 1,879,048,191) and sssd (to 2,000,200,000) hand out. From
/// 2,147,352,576 systemd has others.
const FIRST: u32 = 0x7739_0000;
const RANGES: u32 = (0x7ffe_0000 - FIRST) / RANGE;

/// Takes a range of ids for as long as the returned file, or a copy of it in another process, is open. `id`, the
/// container's, says where to begin the search.
///
/// Range n is byte n of one empty file, locked: that the owner lives is a fact then, and there is nothing to clean up.
/// The file is in one place whatever MINI_RUN says, or two containers could not see each other.
pub fn claim(directory: &Path, id: &str) -> Result<(u32, OwnedFd)> {
    make_private(directory)?;
    let name = directory.join("ids");
    let name = name.as_os_str().as_bytes();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| Error::sys("open", name, errno))?;
    let start = u32::from_str_radix(&id[..id.len().min(7)], 16).unwrap_or(0);
    for attempt in 0..RANGES {
        let range = (start % RANGES + attempt) % RANGES;
        match sys::lock_byte(&file, range) {
            Ok(()) => return Ok((FIRST + range * RANGE, file)),
            Err(Errno::AGAIN | Errno::ACCESS) => {}
            Err(errno) => return Err(Error::sys("fcntl(F_OFD_SETLK)", name, errno)),
        }
    }
    let error = error!("all {RANGES} ranges of ids are in use");
    Err(error.hint("--userns host does without one"))
}

/// Writes both maps of a process in a new user namespace: ids from 0 on are those from `base` on, `count` of them.
pub fn map(pid: Pid, base: u32, count: u32) -> Result<()> {
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{file}", pid.as_raw_pid());
        std::fs::write(&path, format!("0 {base} {count}"))
            .map_err(|error| Error::io("write", &path, error))?;
    }
    Ok(())
}

/// Does `work` in a process of its own, as root of a user namespace with a range of ids: what is made there belongs
/// to the container, on a file system that cannot be idmapped.
///
/// The process is a copy of this one, which has no threads: unlike the container's, it goes on using the standard
/// library. Returns what `work` returns.
pub fn inside(
    base: u32,
    interrupts: &OwnedFd,
    work: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let fail = |errno| Error::sys("clone3", "CLONE_NEWUSER", errno);
    let (go, send_go) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
    let (said, say) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
    let (parents_go, parents_said) = (send_go.as_raw_fd(), said.as_raw_fd());
    let child = sys::clone(raw::CLONE_NEWUSER, || {
        sys::close(parents_go);
        sys::close(parents_said);
        if rustix::io::read(&go, &mut [0; 1]) != Ok(1) {
            return 125;
        }
        // A change of ids clears it. A supervisor that died before is seen by the end of `go`, which it alone holds.
        let die = || sys::set_parent_death_signal(raw::SIGKILL as i32);
        let root = set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))
            .and_then(|()| set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
            .and_then(|()| die());
        if !wait_for(&go, None) {
            return 125;
        }
        let result = root
            .map_err(|errno| Error::sys("setresuid", "0", errno))
            .and_then(|()| work());
        let (text, status) = match result {
            Ok(text) => (text, 0),
            Err(error) => (error.to_string(), 125),
        };
        let _ = rustix::io::write(&say, text.as_bytes());
        status
    })
    .map_err(fail)?;
    drop((go, say));
    let mapped = map(child, base, RANGE).and_then(|()| {
        rustix::io::write(&send_go, b"!").map_err(|errno| Error::sys("write", "pipe", errno))
    });
    if mapped.is_err() || !wait_for(interrupts, Some(said.as_fd())) {
        let _ = sys::kill(child.as_raw_pid(), raw::SIGKILL as i32);
    }
    let mut text = [0; 8192];
    let length = rustix::io::read(&said, &mut text).unwrap_or(0);
    let status = waitpid(Some(child), WaitOptions::empty())
        .map_err(|errno| Error::sys("wait", "", errno))?;
    mapped?;
    let text = String::from_utf8_lossy(&text[..length]);
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(text.into_owned()),
        Some(_) if length > 0 => Err(Error::new(text)),
        _ => Err(Error::new(
            "unpack: interrupted, or killed (memory may have run out)",
        )),
    }
}

/// Mounts a copy of what is mounted at `path` over it, in which owners are shown as ids of the user namespace.
/// A file system below a volume that cannot be shown so stays as it is, and its files belong to nobody inside; then
/// false.
pub fn idmap(path: &CStr, userns: &OwnedFd, recursive: bool) -> rustix::io::Result<bool> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, path, flags)?;
    let whole = match sys::idmap(&tree, userns, recursive) {
        // EPERM: one below is idmapped already.
        Err(Errno::INVAL | Errno::PERM) if recursive => {
            sys::idmap(&tree, userns, false)?;
            false
        }
        result => result.map(|()| true)?,
    };
    move_mount(
        &tree,
        c"",
        CWD,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(whole)
}

/// A process that waits for a byte and then maps ids of this one.
fn spawn_helper(
    program: &Path,
    lines: &[[u32; 3]],
    read: &OwnedFd,
    write: &OwnedFd,
) -> Result<Pid> {
    let name = program.as_os_str().as_bytes();
    let mut texts = vec![name.to_vec(), std::process::id().to_string().into()];
    for number in lines.as_flattened() {
        texts.push(number.to_string().into());
    }
    let (path, words) = (leak(name), words(&texts));
    let write = write.as_raw_fd();
    sys::clone(0, || {
        // The parent's death must be seen as end of file.
        sys::close(write);
        if rustix::io::read(read, &mut [0; 1]) != Ok(1) {
            return 125;
        }
        sys::default_signals();
        sys::set_signal_mask(0);
        let _ = sys::execve(path, words, &[Word::END]);
        127
    })
    .map_err(|errno| Error::sys("clone3", "", errno))
}
