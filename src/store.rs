//! What mini has on disks: private directories, files that appear whole or not at all, the directories of containers;
//! and how all of it is locked, and removed after its owner's death.
//!
//! flock(2), rename(2), fsync(2). Whoever makes something has a lock on it for as long as it lives, and the kernel gives
//! the lock back however it dies. So what can be locked has no owner, and the next command removes it. There are two kinds:
//! - A container has a directory `running/ID` in the run directory and, if it needs the disk, `containers/ID` in the
//!   store, which may be the same place ([`Directory`], [`sweep`]). The lock is on the directory itself.
//! - A file is written under a name beginning with `.new-` and renamed when it is complete ([`NewFile`],
//!   [`Removal::of_the_dead`]). Between making and locking it somebody may take it for a dead one's: whoever has locked
//!   one looks whether it still has its name, and else begins anew.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, mkdir, openat, rmdir, unlinkat};
use rustix::io::Errno;

use container::sys;

use crate::error::{Error, Result, error, path as show, say};
use crate::image::remove::{for_each_entry, remove_tree};
use crate::progress::size;
use crate::record::RECORD;

const ELSEWHERE: &str = "MINI_RUN and MINI_ROOT choose other directories";

/// The beginning of the names of files that are being made.
pub const NEW: &str = ".new-";

/// A file that is being made: locked, and removed when dropped unless it was published.
pub struct NewFile {
    pub path: PathBuf,
    /// Open for reading and writing.
    pub file: File,
}

impl NewFile {
    /// A new file in `directory`, under a name that nobody else uses.
    pub fn create(directory: &Path) -> Result<NewFile> {
        let mut number = 0;
        loop {
            let path = directory.join(format!("{NEW}{}-{number}", std::process::id()));
            // Only who takes it for a dead one's can have locked it, for a moment.
            if let Some(new) = NewFile::lock(path, true, &|| false)? {
                return Ok(new);
            }
            number += 1;
        }
    }

    /// Makes a file, or unless `alone` opens one, and locks it: what is in it may be a dead one's. `None` if there is one
    /// and `alone`, or it lost its name meanwhile. While somebody else has the lock, `interrupted` is asked 50 times a
    /// second whether to give up.
    pub fn lock(
        path: PathBuf,
        alone: bool,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<NewFile>> {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        options.create(true).create_new(alone).truncate(false);
        let file = match options.custom_flags(raw::O_NOFOLLOW as i32).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            opened => opened.map_err(|error| io("open", &path, error))?,
        };
        while let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if errno != Errno::WOULDBLOCK {
                return Err(Error::sys("flock", path.as_os_str().as_bytes(), errno));
            }
            if interrupted() {
                return Err("interrupted while another mini was reading the same image".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(linked(&file, &path).then_some(NewFile { path, file }))
    }

    /// Gives it its name in the same directory, in place of what has it. If `durable`, it is on the disk before the name
    /// is, and the name before this returns.
    pub fn publish(self, name: &[u8], durable: bool) -> Result<()> {
        let path = self.path.with_file_name(OsStr::from_bytes(name));
        if durable {
            (self.file.sync_all()).map_err(|error| io("fsync", &self.path, error))?;
        }
        std::fs::rename(&self.path, &path).map_err(|error| io("rename", &path, error))?;
        match path.parent() {
            Some(directory) if durable => sync(directory),
            _ => Ok(()),
        }
    }
}

impl Drop for NewFile {
    /// Under the lock, so that it is this file that goes: after a rename there is none, or one that is not ours.
    fn drop(&mut self) {
        if linked(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes the entries of a directory to the disk.
pub fn sync(directory: &Path) -> Result<()> {
    (File::open(directory).and_then(|directory| directory.sync_all()))
        .map_err(|error| io("fsync", directory, error))
}

/// Whether the file of this path is this file.
pub fn linked(file: &File, path: &Path) -> bool {
    let (Ok(this), Ok(found)) = (file.metadata(), std::fs::symlink_metadata(path)) else {
        return false;
    };
    (this.dev(), this.ino()) == (found.dev(), found.ino())
}

/// flock(2) on a file.
pub fn flock(file: &File, operation: FlockOperation) -> rustix::io::Result<()> {
    rustix::fs::flock(sys::borrow(file.as_raw_fd()), operation)
}

/// What is removed, with a line for each.
#[derive(Default)]
pub struct Removal {
    /// Only looks what would be removed.
    pub dry: bool,
    pub text: String,
    /// Bytes of disk.
    pub freed: u64,
}

impl Removal {
    /// Takes note of something that took so many bytes of disk.
    pub fn add(&mut self, path: &Path, disk: u64) {
        let verb = if self.dry { "would remove" } else { "removed" };
        (self.text).push_str(&format!("{verb} {} {}\n", show(path), size(disk)));
        self.freed += disk;
    }

    /// Removes a file if `unused` says so of it, opened for reading. What cannot be removed stays for the next time.
    /// Whether it went.
    pub fn file(&mut self, path: &Path, unused: &dyn Fn(&File) -> bool) -> bool {
        let flags = raw::O_NOFOLLOW | raw::O_NONBLOCK;
        let opened = (File::options().read(true))
            .custom_flags(flags as i32)
            .open(path);
        let Ok(file) = opened else {
            return false;
        };
        let Ok(status) = file.metadata() else {
            return false;
        };
        let goes =
            status.is_file() && unused(&file) && (self.dry || std::fs::remove_file(path).is_ok());
        if goes {
            self.add(path, status.blocks() * 512);
        }
        goes
    }

    /// Removes the `.new-` files of the dead in a directory.
    pub fn of_the_dead(&mut self, directory: &Path) {
        for name in names(directory) {
            if name.starts_with(NEW) {
                let path = directory.join(name);
                self.file(&path, &|file| {
                    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
                        && linked(file, &path)
                });
            }
        }
    }
}

/// A container's directory, locked; removed with all its contents when dropped.
pub struct Directory {
    path: PathBuf,
    lock: OwnedFd,
    /// Somebody else removes it.
    lent: bool,
}

impl Directory {
    /// Makes and locks `path`.
    pub fn create(path: &Path) -> Result<Directory> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        parent.parent().map_or(Ok(()), make_private)?;
        make_private(parent)?;
        // Held until the new directory is locked: between mkdir and flock a sweep would take it for a dead one.
        let _guard = lock(parent, FlockOperation::LockExclusive)?;
        let name = path.as_os_str().as_bytes();
        mkdir(name, Mode::from_raw_mode(0o700))
            .map_err(|errno| Error::sys("mkdir", name, errno))?;
        let lock = lock(path, FlockOperation::NonBlockingLockExclusive).inspect_err(|_| {
            let _ = rmdir(name);
        });
        Ok(Directory {
            path: path.to_owned(),
            lock: lock?,
            lent: false,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds to a file in it, also when something is mounted over it by now.
    pub fn append(&self, name: &str, text: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let file = openat(&self.lock, name, flags, Mode::from_raw_mode(0o600));
        let written = file.and_then(|file| match rustix::io::write(&file, text)? {
            length if length == text.len() => Ok(()),
            _ => Err(Errno::NOSPC),
        });
        let path = self.path.join(name);
        written.map_err(|errno| Error::sys("write", path.as_os_str().as_bytes(), errno))
    }

    /// The same for another process: the lock is held until both are gone, and this one removes it.
    #[cfg(feature = "life")]
    pub fn lend(&self) -> rustix::io::Result<Directory> {
        Ok(Directory {
            path: self.path.clone(),
            lock: rustix::io::fcntl_dupfd_cloexec(&self.lock, 3)?,
            lent: true,
        })
    }

    /// Cuts a file in it off before what `find` gives the place of.
    #[cfg(feature = "life")]
    pub fn truncate(&self, name: &str, find: &dyn Fn(&[u8]) -> usize) -> rustix::io::Result<()> {
        let file = openat(
            &self.lock,
            name,
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = vec![0; rustix::fs::fstat(&file)?.st_size as usize];
        let length = rustix::io::pread(&file, &mut text[..], 0)?;
        rustix::fs::ftruncate(&file, find(&text[..length]) as u64)
    }

    /// Another descriptor of it, without the lock: what is mounted over it by then is not seen through that either.
    #[cfg(feature = "life")]
    pub fn reopen(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.lock, ".", flags, Mode::empty())
    }

    /// Gives the lock back, and leaves the directory to others as a dead one's.
    pub fn leave(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Directory {
    /// Under the lock, which is given back when the field is dropped.
    fn drop(&mut self) {
        if self.lent || self.path.as_os_str().is_empty() {
            return;
        }
        // Mostly there is nothing else in it.
        let _ = unlinkat(&self.lock, RECORD, AtFlags::empty());
        if rmdir(self.path.as_os_str().as_bytes()).is_err() {
            remove(&self.path);
        }
    }
}

/// Opens a directory and locks it (flock(2)), until the descriptor is closed.
pub fn lock(path: &Path, operation: FlockOperation) -> Result<OwnedFd> {
    let directory = open_directory(path).and_then(|directory| {
        rustix::fs::flock(&directory, operation)?;
        Ok(directory)
    });
    directory.map_err(|errno| Error::sys("flock", path.as_os_str().as_bytes(), errno))
}

/// Opens a directory, and no symlink to one.
pub fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path.as_os_str().as_bytes(), flags, Mode::empty())
}

/// How many directories a start or an exec looks at: with hundreds of containers that took longer than all the rest. Other
/// commands look at all.
pub const SOME: usize = 64;

/// Removes the directories below `name` in `base` whose owners are dead. What cannot be removed stays for the next time.
pub fn sweep(base: &Path, name: &str) -> Result<()> {
    // The lock on the parent is not held: removing may take long, and nobody needs to wait for it.
    for (path, _lock) in dead(base, name, SOME)? {
        remove(&path);
    }
    Ok(())
}

/// The directories below `name` in `base` whose owners are dead, locked: shared, as it is when somebody looks whether the
/// owner lives, who would else take this process for it. Of more directories than `most`, that many are looked at, beginning
/// somewhere.
pub fn dead(base: &Path, name: &str, most: usize) -> Result<Vec<(PathBuf, OwnedFd)>> {
    let mut dead = Vec::new();
    let Some(parent) = existing(base, name)? else {
        return Ok(dead);
    };
    let Ok(_guard) = lock(&parent, FlockOperation::LockExclusive) else {
        return Ok(dead);
    };
    let mut ids: Vec<[u8; 12]> = Vec::new();
    if let Ok(directory) = open_directory(&parent) {
        let _ = for_each_entry(directory.as_fd(), &mut |name| {
            let id = name.to_bytes().try_into().ok();
            ids.extend(id.filter(|id: &[u8; 12]| id.iter().all(u8::is_ascii_hexdigit)));
            Ok(())
        });
    }
    let first = sys::clock(raw::CLOCK_MONOTONIC) as usize % ids.len().max(1);
    let looked = ids.iter().cycle().skip(first).take(ids.len().min(most));
    for id in looked {
        let path = parent.join(OsStr::from_bytes(id));
        if let Ok(lock) = lock(&path, FlockOperation::NonBlockingLockExclusive)
            && rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok()
        {
            dead.push((path, lock));
        }
    }
    Ok(dead)
}

/// The names in a directory, sorted; none if it cannot be read. Names that are not UTF-8 are not ours.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(directory) = open_directory(directory) {
        let _ = for_each_entry(directory.as_fd(), &mut |name| {
            if let Ok(name) = name.to_str() {
                names.push(name.to_owned());
            }
            Ok(())
        });
    }
    names.sort_unstable();
    names
}

/// Removes a directory and all that is in it, and says so if that fails.
pub fn remove(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let removed =
        open_directory(parent).and_then(|parent| remove_tree(parent.as_fd(), name.as_bytes()));
    if let Err(errno) = removed {
        say(&format!(
            "mini: {}\n",
            Error::sys("remove", path.as_os_str().as_bytes(), errno)
        ));
    }
}

/// The directory `name` in `base`, both made if they are not there.
pub fn private(base: &Path, name: &str) -> Result<PathBuf> {
    let path = base.join(name);
    make_private(base)?;
    make_private(&path)?;
    Ok(path)
}

/// The directory `name` in `base`, if it is there. Both have to be this user's own: in somebody else's, what is found
/// or removed could be anything.
pub fn existing(base: &Path, name: &str) -> Result<Option<PathBuf>> {
    match base.join(name).symlink_metadata() {
        // What cannot be looked at is somebody else's.
        Err(error) if error.kind() != ErrorKind::PermissionDenied => Ok(None),
        _ => private(base, name).map(Some),
    }
}

/// Makes a directory and those above it, private to this user. One that exists must be this user's and nobody
/// else's to write to: /tmp/mini-UID could have been made by anybody.
pub fn make_private(path: &Path) -> Result<()> {
    let made = (std::fs::DirBuilder::new().recursive(true))
        .mode(0o700)
        .create(path);
    made.map_err(|error| io("mkdir", path, error).hint(ELSEWHERE))?;
    let status = std::fs::symlink_metadata(path).map_err(|error| io("lstat", path, error))?;
    let mine = status.uid() == rustix::process::geteuid().as_raw();
    if !status.is_dir() || !mine || status.mode() & 0o022 != 0 {
        let path = show(path);
        let error = error!("{path}: not a directory that only this user can write to");
        return Err(error.hint(ELSEWHERE));
    }
    Ok(())
}

/// A failed call of the standard library on a path.
pub fn io(operation: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(operation, path.as_os_str().as_bytes(), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{read, remove_dir_all, write};

    #[test]
    fn a_new_file_is_there_whole_or_not_at_all() {
        let top = std::env::temp_dir().join(format!("mini-store-new-{}", std::process::id()));
        let _ = remove_dir_all(&top);
        make_private(&top).unwrap();
        let (one, two) = (
            NewFile::create(&top).unwrap(),
            NewFile::create(&top).unwrap(),
        );
        std::io::Write::write_all(&mut &one.file, b"one").unwrap();
        write(top.join(".new-1-dead"), "x").unwrap();
        for dry in [true, false] {
            let mut removal = Removal {
                dry,
                ..Removal::default()
            };
            removal.of_the_dead(&top);
            assert_eq!(removal.text.lines().count(), 1);
        }
        assert_eq!(names(&top).len(), 2);
        one.publish(b"a", true).unwrap();
        drop(two);
        assert_eq!(names(&top), ["a"]);
        assert_eq!(read(top.join("a")).unwrap(), b"one");
        remove_dir_all(top).unwrap();
    }
}
