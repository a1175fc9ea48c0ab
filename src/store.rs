//! The directories of containers: made, locked, and removed, by their owner or after its death.
//!
//! flock(2). Each container has a directory `running/ID` in the run directory and, if it needs the disk,
//! `containers/ID` in the store, which may be the same place. Its supervisor holds an exclusive lock on each for as
//! long as it lives, and the kernel gives the lock back however it dies. So a directory that can be locked has no
//! owner, and whoever makes the next container removes it ([`sweep`]). The lock is on the directory itself: there is
//! no lock file that could be left over.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, mkdir, openat, rmdir};

use crate::error::{Error, Result, error, say};
use crate::image::remove::remove_tree;

const ELSEWHERE: &str = "MINI_RUN and MINI_ROOT choose other directories";

/// A container's directory, locked; removed with all its contents when dropped.
pub struct Directory {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Directory {
    /// Makes and locks `path`.
    pub fn create(path: &Path) -> Result<Directory> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        parent.parent().map_or(Ok(()), make_private)?;
        make_private(parent)?;
        let fail = |operation, path: &Path, errno| {
            Error::sys(operation, path.as_os_str().as_bytes(), errno)
        };
        // Held until the new directory is locked: between mkdir and flock a sweep would take it for a dead one.
        let _guard = lock(parent, FlockOperation::LockExclusive)
            .map_err(|errno| fail("flock", parent, errno))?;
        mkdir(path.as_os_str().as_bytes(), Mode::from_raw_mode(0o700))
            .map_err(|errno| fail("mkdir", path, errno))?;
        match lock(path, FlockOperation::NonBlockingLockExclusive) {
            Ok(_lock) => Ok(Directory {
                path: path.to_owned(),
                _lock,
            }),
            Err(errno) => {
                let _ = rmdir(path.as_os_str().as_bytes());
                Err(fail("flock", path, errno))
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    /// Under the lock, which is given back when the field is dropped.
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Opens a directory and locks it (flock(2)), until the descriptor is closed.
pub fn lock(path: &Path, operation: FlockOperation) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path.as_os_str().as_bytes(), flags, Mode::empty())?;
    flock(&directory, operation)?;
    Ok(directory)
}

/// Removes the directories below `name` in `base` whose owners are dead. What cannot be removed stays for the next time.
pub fn sweep(base: &Path, name: &str) -> Result<()> {
    // The lock on `parent` is not held: removing may take long, and nobody needs to wait for it.
    let dead = dead(base, name)?;
    dead.iter().for_each(|(path, _lock)| remove(path));
    Ok(())
}

/// The directories below `name` in `base` whose owners are dead, locked. Both have to be this user's own first: in
/// somebody else's, what is removed could be anything.
pub fn dead(base: &Path, name: &str) -> Result<Vec<(PathBuf, OwnedFd)>> {
    let parent = &base.join(name);
    if std::fs::symlink_metadata(parent).is_err() {
        return Ok(Vec::new());
    }
    make_private(base)?;
    make_private(parent)?;
    let Ok(_guard) = lock(parent, FlockOperation::LockExclusive) else {
        return Ok(Vec::new());
    };
    let mut dead = Vec::new();
    for name in names(parent) {
        let path = parent.join(&name);
        if is_id(name.as_bytes())
            && let Ok(lock) = lock(&path, FlockOperation::NonBlockingLockExclusive)
        {
            dead.push((path, lock));
        }
    }
    Ok(dead)
}

/// The names in a directory, sorted; none if it cannot be read. Names that are not UTF-8 are not ours.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(entries) = std::fs::read_dir(directory) {
        for entry in entries.flatten() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort_unstable();
    names
}

fn is_id(name: &[u8]) -> bool {
    name.len() == 12 && name.iter().all(u8::is_ascii_hexdigit)
}

/// Removes a directory and all that is in it, and says so if that fails.
pub fn remove(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let removed = openat(CWD, parent.as_os_str().as_bytes(), flags, Mode::empty())
        .and_then(|parent| remove_tree(parent.as_fd(), name.as_bytes()));
    if let Err(errno) = removed {
        say(&format!(
            "mini: {}\n",
            Error::sys("remove", path.as_os_str().as_bytes(), errno)
        ));
    }
}

/// Makes a directory and those above it, private to this user. One that exists must be this user's and nobody
/// else's to write to: /tmp/mini-UID could have been made by anybody.
pub fn make_private(path: &Path) -> Result<()> {
    let name = path.as_os_str().as_bytes();
    (std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path))
    .map_err(|error| Error::io("mkdir", name, error).hint(ELSEWHERE))?;
    let status =
        std::fs::symlink_metadata(path).map_err(|error| Error::io("lstat", name, error))?;
    let mine = status.uid() == rustix::process::geteuid().as_raw();
    if !status.is_dir() || !mine || status.mode() & 0o022 != 0 {
        let name = crate::error::quote(name);
        let error = error!("{name}: not a directory that only this user can write to");
        return Err(error.hint(ELSEWHERE));
    }
    Ok(())
}
