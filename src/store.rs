//! The directories of containers: made, locked, and removed, by their owner or after its death.
//!
//! flock(2). Each container has a directory `ID` below the run directory and, if it needs the disk, one below the
//! store. Its supervisor holds an exclusive lock on each for as long as it lives, and the kernel gives the lock
//! back however it dies. So a directory that can be locked has no owner, and whoever makes the next container
//! removes it ([`sweep`]). The lock is on the directory itself: there is no lock file that could be left over.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, mkdir, openat, rmdir, stat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::image::remove::remove_tree;

/// How often making a directory is tried while others take it for a dead one.
const ATTEMPTS: usize = 1000;

/// A container's directory, locked; removed with all its contents when dropped.
pub struct Directory {
    path: PathBuf,
    lock: OwnedFd,
}

impl Directory {
    /// Makes and locks `path`.
    pub fn create(path: &Path) -> Result<Directory> {
        make_private(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.as_os_str().as_bytes();
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            result = mkdir(name, Mode::from_raw_mode(0o700));
            match result {
                // Somebody's sweep is still about to remove it: see below.
                Err(Errno::EXIST) => std::thread::yield_now(),
                Err(_) => break,
                // Between mkdir and the lock somebody's sweep may take it for a dead one: then make it again.
                Ok(()) => match try_lock(path) {
                    Ok(None) => {}
                    Ok(Some(lock)) => {
                        let path = path.to_owned();
                        return Ok(Directory { path, lock });
                    }
                    Err(errno) => {
                        let _ = rmdir(name);
                        return Err(Error::sys("flock", name, errno));
                    }
                },
            }
        }
        Err(Error::sys(
            "mkdir",
            name,
            result.err().unwrap_or(Errno::BUSY),
        ))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Under the lock, which is given back when the field is dropped.
        let _: &OwnedFd = &self.lock;
        remove(&self.path);
    }
}

/// Opens and locks a directory; `None` if it has an owner, or is gone or another one by the time it is locked.
fn try_lock(path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    let name = path.as_os_str().as_bytes();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        directory => directory?,
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    let (locked, there) = (fstat(&directory)?, stat(name));
    let same =
        there.is_ok_and(|there| (there.st_dev, there.st_ino) == (locked.st_dev, locked.st_ino));
    Ok(same.then_some(directory))
}

/// Removes the directories below `parent` whose owners are dead. What cannot be removed stays for the next time.
pub fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_id = name.len() == 12 && name.as_bytes().iter().all(u8::is_ascii_hexdigit);
        let path = entry.path();
        if is_id && let Ok(Some(_lock)) = try_lock(&path) {
            remove(&path);
        }
    }
}

fn remove(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(parent) = openat(CWD, parent.as_os_str().as_bytes(), flags, Mode::empty()) {
        let _ = remove_tree(parent.as_fd(), name.as_bytes());
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
    .map_err(|error| {
        Error::io("mkdir", name, &error).hint("MINI_RUN and MINI_ROOT choose other directories")
    })?;
    let status =
        std::fs::symlink_metadata(path).map_err(|error| Error::io("lstat", name, &error))?;
    let mine = status.uid() == rustix::process::geteuid().as_raw();
    if !status.is_dir() || !mine || status.mode() & 0o022 != 0 {
        return Err(Error::new(format!(
            "{}: not a directory that only this user can write to",
            crate::error::quote(name)
        )));
    }
    Ok(())
}
