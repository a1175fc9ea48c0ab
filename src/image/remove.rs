//! Removes a directory tree, however deep, wide or hostile.
//!
//! Mechanism: unlinkat(2), openat2(2) with `RESOLVE_NO_XDEV`, renameat(2). A tree made by a hostile image or container
//! can be nested 100,000 deep, so neither recursion (the stack) nor a descriptor for each level (RLIMIT_NOFILE) nor
//! path names (PATH_MAX) will do. Instead, a subdirectory that is not empty is moved up into the top directory and
//! emptied there: never more than two directories are open, and every entry is looked at a bounded number of times.
//!
//! Invariant: symlinks are never followed and mount points never entered, so nothing outside the tree is removed.
//!
//! Left out: changing modes on the way. The caller has CAP_DAC_OVERRIDE over the tree, if only in its user namespace.

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, openat, openat2, renameat, seek,
    unlinkat,
};
use rustix::io::{Errno, Result};

/// Removes whatever `name` in `parent` is. It is no error if there is nothing. A mount point in it is EBUSY or EXDEV.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let name = CString::new(name).or(Err(Errno::INVAL))?;
    remove_entry(parent, &name)
}

/// [`remove_tree`], of a name as the kernel wants it.
pub fn remove_entry(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    if remove(parent, name)? {
        return Ok(());
    }
    let top = open_dir(parent, name)?;
    let mut moved = 0;
    // What is moved up may or may not appear in the pass that moves it (readdir(3)), so passes are made until the
    // directory is empty. Each replaces every subdirectory by that one's subdirectories: it ends at the leaves.
    let mut progress = true;
    while !remove(parent, name)? {
        if !std::mem::take(&mut progress) {
            return Err(Errno::NOTEMPTY);
        }
        seek(&top, SeekFrom::Start(0))?;
        for_each_entry(top.as_fd(), &mut |entry| {
            if remove(top.as_fd(), entry)? {
                progress = true;
                return Ok(());
            }
            let directory = open_dir(top.as_fd(), entry)?;
            for_each_entry(directory.as_fd(), &mut |inner| {
                progress = true;
                match remove(directory.as_fd(), inner)? {
                    true => Ok(()),
                    false => move_up(directory.as_fd(), inner, top.as_fd(), &mut moved),
                }
            })?;
            remove(top.as_fd(), entry).map(|_| ())
        })?;
    }
    Ok(())
}

/// Removes a file or an empty directory; false if it is a directory that is not empty.
fn remove(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
    let result = match unlinkat(parent, name, AtFlags::empty()) {
        // POSIX asks for EPERM, Linux says EISDIR; some file systems follow POSIX.
        Err(error @ (Errno::ISDIR | Errno::PERM)) => {
            match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTDIR) => Err(error),
                result => result,
            }
        }
        result => result,
    };
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves the directory `name` into `top` under a name that is free there. A rename replaces an empty directory, which
/// is just as well, and fails if anything else has the name.
fn move_up(from: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> Result<()> {
    loop {
        let free = CString::new(format!(".removed-{moved}")).or(Err(Errno::INVAL))?;
        *moved += 1;
        match renameat(from, name, top, &*free) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            result => return result,
        }
    }
}

fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        // Before Linux 5.6 a mount is entered; mini makes none there that this could meet.
        Err(Errno::NOSYS | Errno::PERM) => openat(parent, name, flags, Mode::empty()),
        result => result,
    }
}

/// Calls `act` with each name in a directory but "." and "..".
pub fn for_each_entry(
    directory: BorrowedFd<'_>,
    act: &mut dyn FnMut(&CStr) -> Result<()>,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(8 * 1024);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            act(name)?;
        }
    }
    Ok(())
}
