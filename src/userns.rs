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
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use container::child::become_root;
use container::sys::{self, Word};

use crate::error::{Error, Result, error, reason};
use crate::explain::namespace_hint;
use crate::host::Host;
use crate::plan::{IdMap, RANGE, leak, words};
use crate::run::wait_for;
use crate::store::make_private;

/// A process made to do something once it is let go, and nothing if this one dies before.
struct Waiting {
    pid: Pid,
    go: OwnedFd,
}

impl Waiting {
    /// `work` gets the descriptor whose end of file tells that this process has died.
    fn start(flags: u32, work: &mut dyn FnMut(&OwnedFd) -> i32) -> rustix::io::Result<Waiting> {
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC)?;
        let pid = sys::clone(flags, || {
            // The parent's death must be seen as end of file.
            sys::close(go.as_raw_fd());
            match rustix::io::read(&wait, &mut [0; 1]) {
                Ok(1) => work(&wait),
                _ => 125,
            }
        })?;
        Ok(Waiting { pid, go })
    }

    fn go(&self) -> Result<()> {
        (rustix::io::write(&self.go, b"!").map(drop))
            .map_err(|errno| Error::sys("write", "pipe", errno))
    }

    /// The status that it has ended with; `None` if a signal has killed it.
    fn wait(&self) -> Result<Option<i32>> {
        let ended = waitpid(Some(self.pid), WaitOptions::empty())
            .map_err(|errno| Error::sys("wait", "", errno))?;
        Ok(ended.and_then(|(_, status)| status.exit_status()))
    }
}

/// Enters a new user namespace as its root. newuidmap has to run outside of it and after it was made, so its
/// processes are made before and wait.
pub fn enter(map: &IdMap, host: &Host) -> Result<()> {
    let mut helpers = Vec::new();
    if let Some(ids) = &map.subordinate {
        for (program, lines) in [
            (&ids.newuidmap, map.lines(map.uid, Some(ids.uids))),
            (&ids.newgidmap, map.lines(map.gid, Some(ids.gids))),
        ] {
            helpers.push((program, start_helper(program, &lines)?));
        }
    }
    sys::unshare(raw::CLONE_NEWUSER).map_err(|errno| {
        let error = error!("unshare(CLONE_NEWUSER): {}", reason(errno));
        error.hint(namespace_hint(errno, raw::CLONE_NEWUSER, host))
    })?;
    if helpers.is_empty() {
        // A group map by the user itself is allowed only without setgroups (user_namespaces(7), CVE-2014-8989).
        write("self", "setgroups", "deny")?;
        for (file, id) in [("uid_map", map.uid), ("gid_map", map.gid)] {
            let inside = if map.keep { id } else { 0 };
            write("self", file, &format!("{inside} {id} 1"))?;
        }
    }
    for (program, helper) in &helpers {
        helper.go()?;
        if helper.wait()? != Some(0) {
            let error = error!("{}: failed", program.display());
            return Err(error.hint("see /etc/subuid and /etc/subgid"));
        }
    }
    Ok(())
}

/// Writes a file of a process that concerns its user namespace.
fn write(process: &str, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{process}/{file}");
    std::fs::write(&path, text).map_err(|error| Error::io("write", &path, error))
}

/// A process that maps ids of this one.
fn start_helper(program: &Path, lines: &[[u32; 3]]) -> Result<Waiting> {
    let name = program.as_os_str().as_bytes();
    let mut texts = vec![name.to_vec(), std::process::id().to_string().into()];
    for number in lines.as_flattened() {
        texts.push(number.to_string().into());
    }
    let (path, words) = (leak(name), words(&texts));
    Waiting::start(0, &mut |_| {
        sys::default_signals();
        sys::set_signal_mask(0);
        let _ = sys::execve(path, words, &[Word::END]);
        127
    })
    .map_err(|errno| Error::sys("clone3", "", errno))
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
/// The file is in one place whatever MINI_RUN says, or two containers could not see each other. Whoever could lock it alone
/// goes on having it together with others ([`share`]), which keeps strangers away as well.
pub fn claim(directory: &Path, id: &str) -> Result<(u32, OwnedFd)> {
    let file = ranges(directory)?;
    let start = u32::from_str_radix(&id[..id.len().min(7)], 16).unwrap_or(0);
    for attempt in 0..RANGES {
        let range = (start % RANGES + attempt) % RANGES;
        let locked =
            sys::lock_byte(&file, false, range).and_then(|()| sys::lock_byte(&file, true, range));
        match locked {
            Ok(()) => return Ok((FIRST + range * RANGE, file)),
            Err(Errno::AGAIN | Errno::ACCESS) => {}
            Err(errno) => return Err(unlocked(directory, errno)),
        }
    }
    let error = error!("all {RANGES} ranges of ids are in use");
    Err(error.hint("--userns host does without one"))
}

/// Keeps the range that begins with the id `base` from being given away also when its owner has ended, for as long as the
/// returned file is open. The owner has to live still when this has been done.
#[cfg(feature = "life")]
pub fn share(directory: &Path, base: u32) -> Result<OwnedFd> {
    let file = ranges(directory)?;
    sys::lock_byte(&file, true, base.wrapping_sub(FIRST) / RANGE)
        .map_err(|errno| unlocked(directory, errno))?;
    Ok(file)
}

fn unlocked(directory: &Path, errno: Errno) -> Error {
    let name = directory.join("ids");
    Error::sys("fcntl(F_OFD_SETLK)", name.as_os_str().as_bytes(), errno)
}

/// The file in which ranges of ids are locked.
fn ranges(directory: &Path) -> Result<OwnedFd> {
    make_private(directory)?;
    let name = directory.join("ids");
    let name = name.as_os_str().as_bytes();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| Error::sys("open", name, errno))
}

/// Writes both maps of a process in a new user namespace: ids from 0 on are those from `base` on, `count` of them.
pub fn map(pid: Pid, base: u32, count: u32) -> Result<()> {
    let (process, text) = (pid.as_raw_pid().to_string(), format!("0 {base} {count}"));
    write(&process, "uid_map", &text)?;
    write(&process, "gid_map", &text)
}

/// Does `work` in a process of its own, as root of a user namespace with a range of ids: what is made there belongs
/// to the container, on a file system that cannot be idmapped.
///
/// The process is a copy of this one, which has no threads: unlike the container's, it goes on using the standard
/// library. Returns what `work` returns.
pub fn inside(
    base: u32,
    interrupts: &OwnedFd,
    work: &mut dyn FnMut() -> Result<String>,
) -> Result<String> {
    let fail = |errno| Error::sys("clone3", "CLONE_NEWUSER", errno);
    let (said, say) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
    let child = Waiting::start(raw::CLONE_NEWUSER, &mut |parent| {
        // A change of ids clears the signal. A supervisor that died before is seen by the end of the pipe.
        let root = become_root()
            .and_then(|()| sys::set_parent_death_signal(raw::SIGKILL as i32))
            .map_err(|errno| Error::sys("setresuid", "0", errno));
        if !wait_for(parent, None) {
            return 125;
        }
        let result = root.and_then(|()| work());
        let text: &str = match &result {
            Ok(text) => text,
            Err(error) => error,
        };
        let _ = rustix::io::write(&say, text.as_bytes());
        if result.is_ok() { 0 } else { 125 }
    })
    .map_err(fail)?;
    drop(say);
    let mapped = map(child.pid, base, RANGE).and_then(|()| child.go());
    if mapped.is_err() || !wait_for(interrupts, Some(said.as_fd())) {
        let _ = sys::kill(child.pid.as_raw_pid(), raw::SIGKILL as i32);
    }
    let mut text = [0; 8192];
    let length = rustix::io::read(&said, &mut text).unwrap_or(0);
    let status = child.wait()?;
    mapped?;
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    match status {
        Some(0) => Ok(text),
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
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, c"", CWD, path, flags).map(|()| whole)
}
