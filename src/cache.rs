//! Files that appear whole or not at all, and the cache made of them.
//!
//! flock(2), rename(2), fsync(2), fcntl(2) with F_GETLK. A file is written under a name beginning with `.new-`, locked by
//! its maker, and renamed when it is complete ([`NewFile`]). The kernel gives the lock back however the maker dies, so
//! a `.new-` file that can be locked is a dead one's and may be removed ([`sweep`]). Between making a file and locking
//! it somebody may do just that: whoever has locked one looks whether it still has its name, and else begins anew.
//!
//! The cache (`cache/` in the store) has what can be made again: inflated tars and indexes of files, valid for this
//! boot only, so that nothing needs fsync. The name of an entry says what it was made of: boot, device, inode, size,
//! times ([`identity`]). Read [`NewFile`], then [`make`].
//!
//! Invariants:
//! - Under a name there is a complete file: nothing is ever written to a file that has one.
//! - One process at a time fills an entry; others wait for it instead of doing the same work.
//! - Whoever uses an entry holds a read lock of the whole file (fcntl(2), F_RDLCK), and it stays. Such locks of a process
//!   all go when it closes *any* descriptor of the file: what looks for them ([`in_use`]) opens only entries that are
//!   about to go, which are never those this process uses.
//!
//! Left out: a limit to the size of the cache (`mini prune` empties it).

#![cfg_attr(not(feature = "images"), allow(dead_code))]

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use container::sys;

use crate::error::{Error, Result};
use crate::store::{make_private, names};

/// The beginning of the names of files that are being made.
const NEW: &str = ".new-";

/// A file that is being made: locked, and removed when dropped unless it was published.
pub struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    /// A new file in `directory`, under a name that nobody else uses.
    pub fn create(directory: &Path) -> Result<NewFile> {
        let mut number = 0;
        loop {
            let path = directory.join(format!("{NEW}{}-{number}", std::process::id()));
            // Only who takes it for a dead one's can have locked it, for a moment.
            match locked(&path, true, || false) {
                Ok(Some(file)) => return Ok(NewFile { path, file }),
                Ok(None) => number += 1,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(io("open", &path, error)),
            }
        }
    }

    /// The file, open for reading and writing, and empty.
    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name in the same directory, in place of what has it. If `durable`, it is on the disk before the name
    /// is, and the name before this returns.
    pub fn publish(self, name: impl AsRef<OsStr>, durable: bool) -> Result<()> {
        let path = self.path.with_file_name(name.as_ref());
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

/// Makes a file, or unless `alone` opens one, and locks it. `None` if it lost its name meanwhile; `Interrupted` if
/// `interrupted` said so, which is asked 50 times a second while somebody else has the lock.
fn locked(
    path: &Path,
    alone: bool,
    interrupted: impl Fn() -> bool,
) -> std::io::Result<Option<File>> {
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(raw::O_NOFOLLOW as i32);
    // What is in a file of somebody else's is only lost once it is locked.
    let file = options
        .create(true)
        .create_new(alone)
        .truncate(false)
        .open(path)?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(linked(&file, path).then_some(file)),
            Err(Errno::WOULDBLOCK) if interrupted() => return Err(ErrorKind::Interrupted.into()),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(20)),
            Err(errno) => return Err(std::io::Error::from_raw_os_error(errno.raw_os_error())),
        }
    }
}

/// Whether the file of this path is this file.
pub fn linked(file: &File, path: &Path) -> bool {
    let id = |status: std::fs::Metadata| (status.dev(), status.ino());
    let found = std::fs::symlink_metadata(path).map(id).ok();
    found.is_some() && found == file.metadata().map(id).ok()
}

/// Something that was removed, or would be: its path and the bytes of disk it takes.
pub struct Removed {
    pub path: PathBuf,
    pub disk: u64,
}

/// Removes a file if `unused` says so of it, opened for reading; only looks if `dry`. What cannot be removed stays for
/// the next time.
pub fn remove(path: &Path, dry: bool, unused: impl FnOnce(&File) -> bool) -> Option<Removed> {
    let flags = raw::O_NOFOLLOW | raw::O_NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags as i32)
        .open(path)
        .ok()?;
    let status = file.metadata().ok().filter(|status| status.is_file())?;
    if !unused(&file) || !dry && std::fs::remove_file(path).is_err() {
        return None;
    }
    Some(Removed {
        path: path.to_owned(),
        disk: status.blocks() * 512,
    })
}

/// Removes the `.new-` files of the dead in a directory.
pub fn sweep(directory: &Path, dry: bool) -> Vec<Removed> {
    let mut removed = Vec::new();
    for name in names(directory) {
        let path = directory.join(&name);
        if name.starts_with(NEW) {
            removed.extend(remove(&path, dry, |file| {
                flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() && linked(file, &path)
            }));
        }
    }
    removed
}

/// One word that differs when the file is another or was changed: device, inode; then size, and the times of the last
/// change of the contents and of the inode in seconds and nanoseconds. At most 104 bytes, good as a part of a name.
pub fn identity(file: &File) -> Result<String> {
    let status = (file.metadata()).map_err(|error| Error::io("fstat", "image", error))?;
    Ok(format!(
        "{:x}-{:x}-{:x}_{:x}_{:x}_{:x}_{:x}",
        status.dev(),
        status.ino(),
        status.size(),
        status.mtime(),
        status.mtime_nsec(),
        status.ctime(),
        status.ctime_nsec()
    ))
}

/// The name of what is made of these files, or parts of them (offset and size), with a suffix: `tar`, `index`, or `key`
/// for an empty file that only stands for them. `None` if this boot has no name, or there are several and this build
/// cannot hash (feature `images`): that is not cached.
pub fn name(parts: &[(&File, u64, Option<u64>)], suffix: &str) -> Result<Option<String>> {
    let mut keys = Vec::new();
    for (file, offset, size) in parts {
        let whole = identity(file)?;
        keys.push(match size {
            None if *offset == 0 => whole,
            _ => format!("{whole}-{offset:x}-{:x}", size.unwrap_or(0)),
        });
    }
    let key = match keys.as_slice() {
        [key] => key.clone(),
        #[cfg(feature = "images")]
        keys => crate::image::digest::hex(&crate::image::digest::sha256(keys.join(" ").as_bytes())),
        #[cfg(not(feature = "images"))]
        _ => return Ok(None),
    };
    Ok(boot().map(|boot| format!("{boot}-{key}.{suffix}")))
}

/// The first eight digits of what the kernel calls this boot (random(4)); none without CONFIG_SYSCTL.
fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.chars().take(8).collect())
}

/// The entry of this name, open for reading and writing (who shares a mount holds locks of both kinds).
pub fn get(store: &Path, name: &str) -> Result<Option<File>> {
    let Some(directory) = existing(store)? else {
        return Ok(None);
    };
    let path = directory.join(name);
    match File::options().read(true).write(true).open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("open", &path, error)),
    }
}

/// The entry of this name, as [`get`] opens it; if it is not there, `fill` writes it. While somebody else is at that,
/// `interrupted` is asked 50 times a second whether to give up. Entries of former boots and of an earlier state of the
/// same file are removed, unless they are used.
pub fn make(
    store: &Path,
    name: &str,
    interrupted: impl Fn() -> bool,
    fill: impl FnOnce(&File) -> Result<()>,
) -> Result<File> {
    let directory = directory(store)?;
    let path = directory.join(format!("{NEW}{name}"));
    let file = loop {
        match locked(&path, false, &interrupted) {
            Ok(Some(file)) => break file,
            Ok(None) => {} // published or given up
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                return Err(Error::new(
                    "interrupted while another mini was reading the same image",
                ));
            }
            Err(error) => return Err(io("open", &path, error)),
        }
    };
    let new = NewFile { path, file };
    if let Some(file) = get(store, name)? {
        return Ok(file);
    }
    // A dead one may have begun.
    (new.file.set_len(0)).map_err(|error| io("truncate", &new.path, error))?;
    fill(&new.file)?;
    new.publish(name, false)?;
    sweep(&directory, false);
    for old in names(&directory) {
        if !old.starts_with(NEW) && outdated(&old, name) {
            remove(&directory.join(old), false, |file| !in_use(file));
        }
    }
    get(store, name)?.ok_or_else(|| io("open", &directory.join(name), ErrorKind::NotFound.into()))
}

/// The cache's directory, made if it is not there.
pub fn directory(store: &Path) -> Result<PathBuf> {
    let directory = store.join("cache");
    make_private(store)?;
    make_private(&directory)?;
    Ok(directory)
}

/// The cache's directory if it is there. In somebody else's an entry could be anything.
fn existing(store: &Path) -> Result<Option<PathBuf>> {
    match store.join("cache").exists() {
        true => directory(store).map(Some),
        false => Ok(None),
    }
}

/// Removes what the dead were making.
pub fn clean(store: &Path) -> Result<()> {
    if let Some(directory) = existing(store)? {
        sweep(&directory, false);
    }
    Ok(())
}

/// Keeps an entry from being removed for as long as this process lives. To be called when it has closed all other
/// descriptors of it.
pub fn hold(path: &Path) {
    if let Ok(file) = File::open(path) {
        let _ = rustix::fs::fcntl_lock(
            sys::borrow(file.as_raw_fd()),
            FlockOperation::NonBlockingLockShared,
        );
        std::mem::forget(file);
    }
}

/// Removes what is in the cache and not in use; only looks if `dry`.
pub fn empty(store: &Path, dry: bool) -> Result<Vec<Removed>> {
    let Some(directory) = existing(store)? else {
        return Ok(Vec::new());
    };
    let mut removed = sweep(&directory, dry);
    for name in names(&directory)
        .iter()
        .filter(|name| !name.starts_with(NEW))
    {
        removed.extend(remove(&directory.join(name), dry, |file| !in_use(file)));
    }
    Ok(removed)
}

/// Whether the entry `old` is of another boot than `new`, or of another state of the same file.
fn outdated(old: &str, new: &str) -> bool {
    let fields =
        |name: &str| -> Vec<String> { name.split(['-', '.']).map(str::to_owned).collect() };
    let (boot, file, state) = (0..1, 1..3, 3..4);
    let (old, new) = (fields(old), fields(new));
    old.get(boot.clone()) != new.get(boot)
        || old.get(file.clone()) == new.get(file) && old.get(state.clone()) != new.get(state)
}

/// Whether somebody uses an entry: holds a read lock of it.
pub fn in_use(file: &File) -> bool {
    let lock = Flock::from(FlockType::WriteLock);
    // If it cannot be told, it is left alone.
    !matches!(fcntl_getlk(sys::borrow(file.as_raw_fd()), &lock), Ok(None))
}

/// flock(2) on a file.
pub fn flock(file: &File, operation: FlockOperation) -> rustix::io::Result<()> {
    rustix::fs::flock(sys::borrow(file.as_raw_fd()), operation)
}

fn io(operation: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(operation, path.as_os_str().as_bytes(), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, read, remove_dir_all, write};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("mini-cache-{name}-{}", std::process::id()));
        let _ = remove_dir_all(&path);
        make_private(&path).unwrap();
        path
    }

    #[test]
    fn a_new_file_is_there_whole_or_not_at_all() {
        let top = directory("new");
        let (one, two) = (
            NewFile::create(&top).unwrap(),
            NewFile::create(&top).unwrap(),
        );
        std::io::Write::write_all(&mut one.file(), b"one").unwrap();
        write(top.join(".new-1-dead"), "x").unwrap();
        assert_eq!(sweep(&top, true).len(), 1);
        assert_eq!(sweep(&top, false).len(), 1);
        assert_eq!(names(&top).len(), 2);
        one.publish("a", true).unwrap();
        drop(two);
        assert_eq!(names(&top), ["a"]);
        assert_eq!(read(top.join("a")).unwrap(), b"one");
        remove_dir_all(top).unwrap();
    }

    #[test]
    fn one_fills_an_entry_and_others_wait_for_it() {
        let store = directory("make");
        create_dir_all(store.join("cache")).unwrap();
        let name = format!("{}-1-2-3.tar", boot().unwrap());
        // Of a dead one, of a former boot, and of the same file in another state: they go; another file's and one with
        // something else in it stay.
        let stays = [
            name.replace("-2-3", "-3-4"),
            name.replace("3.tar", "3-200-5.tar"),
        ];
        for old in [
            &format!(".new-{name}"),
            "0-1-2-3.tar",
            &name.replace("-3.", "-4."),
        ] {
            write(store.join("cache").join(old), "remains of something").unwrap();
        }
        stays
            .iter()
            .for_each(|name| write(store.join("cache").join(name), "").unwrap());
        let filled = AtomicUsize::new(0);
        let fill = |mut file: &File| {
            filled.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(100));
            std::io::Write::write_all(&mut file, b"whole").unwrap();
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let file = make(&store, &name, || false, fill).unwrap();
                    assert_eq!(std::io::read_to_string(file).unwrap(), "whole");
                });
            }
        });
        assert_eq!(filled.into_inner(), 1);
        let mut all = [stays.to_vec(), vec![name.clone()]].concat();
        all.sort();
        assert_eq!(names(&store.join("cache")), all);
        assert_eq!(empty(&store, false).unwrap().len(), 3);
        remove_dir_all(store).unwrap();
    }

    #[test]
    fn who_fails_or_is_interrupted_leaves_nothing() {
        let store = directory("fail");
        let fails = make(&store, "x", || false, |_| Err(Error::new("no")));
        assert_eq!(fails.unwrap_err().to_string(), "no");
        let outer = make(
            &store,
            "x",
            || false,
            |_| {
                let inner = make(&store, "x", || true, |_| Ok(()))
                    .unwrap_err()
                    .to_string();
                assert_eq!(
                    inner,
                    "interrupted while another mini was reading the same image"
                );
                Err(Error::new("no"))
            },
        );
        assert!(outer.is_err() && names(&store.join("cache")).is_empty());
        assert!(get(&store, "x").unwrap().is_none());
        remove_dir_all(store).unwrap();
    }

    #[test]
    fn a_changed_file_has_another_identity() {
        let store = directory("identity");
        let (a, b) = (store.join("a"), store.join("b"));
        write(&a, "1").unwrap();
        write(&b, "1").unwrap();
        let id = |path: &Path| identity(&File::open(path).unwrap()).unwrap();
        let before = id(&a);
        assert!(before == id(&a) && before != id(&b) && before.len() <= 104);
        std::thread::sleep(Duration::from_millis(20));
        write(&a, "2").unwrap();
        assert_ne!(before, id(&a));
        let file = File::open(&a).unwrap();
        let entry = |parts: &[_]| name(parts, "index").unwrap().unwrap();
        let whole = entry(&[(&file, 0, None)]);
        assert_eq!(whole, format!("{}-{}.index", boot().unwrap(), id(&a)));
        assert_eq!(
            entry(&[(&file, 512, Some(16))]),
            whole.replace(".index", "-200-10.index")
        );
        let two = name(&[(&file, 0, None), (&file, 0, None)], "index").unwrap();
        let length = cfg!(feature = "images").then_some(8 + 1 + 64 + 6);
        assert_eq!(two.map(|name| name.len()), length);
        remove_dir_all(store).unwrap();
    }
}
