//! The cache: what can be made again of images, inflated tars and indexes of files, in `cache/` in the store.
//!
//! fcntl(2) with F_GETLK; `store` has the files that appear whole or not at all. Entries are valid for this boot only, so
//! that nothing needs fsync. The name of an entry says what it was made of: boot, device, inode, size, times
//! ([`identity`]). Read [`make`].
//!
//! Invariants:
//! - Under a name there is a complete file: nothing is ever written to a file that has one.
//! - One process at a time fills an entry; others wait for it instead of doing the same work.
//! - Whoever uses an entry holds a read lock of the whole file (fcntl(2), F_RDLCK), and it stays. Such locks of a process
//!   all go when it closes *any* descriptor of the file: what looks for them ([`unused`]) opens only entries that are
//!   about to go, which are never those this process uses.
//!
//! Left out: a limit to the size of the cache (`mini prune` empties it).

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use container::sys;

use crate::error::{Error, Result};
use crate::store::{NEW, NewFile, Removal, existing, io, names, private};

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
    let text = crate::proc::read("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.chars().take(8).collect())
}

/// The entry of this name, open for reading and writing (who shares a mount holds locks of both kinds); if it is not
/// there, `fill` writes it. While somebody else is at that, `interrupted` is asked 50 times a second whether to give up.
/// Entries of former boots and of an earlier state of the same file are removed, unless they are used.
pub fn make(
    store: &Path,
    name: &str,
    interrupted: &dyn Fn() -> bool,
    fill: &mut dyn FnMut(&File) -> Result<()>,
) -> Result<File> {
    let directory = directory(store)?;
    let path = directory.join(name);
    let mut locked = None;
    loop {
        match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened.map_err(|error| io("open", &path, error)),
        }
        let Some(new) = locked.take() else {
            // Whoever had the lock may have made the entry.
            locked = NewFile::lock(directory.join(format!("{NEW}{name}")), false, interrupted)?;
            continue;
        };
        // A dead one may have begun.
        (new.file.set_len(0)).map_err(|error| io("truncate", &new.path, error))?;
        fill(&new.file)?;
        new.publish(name.as_bytes(), false)?;
        clean(store)?;
        for old in names(&directory) {
            if !old.starts_with(NEW) && outdated(&old, name) {
                Removal::default().file(&directory.join(old), &unused);
            }
        }
    }
}

/// The cache's directory, made if it is not there.
pub fn directory(store: &Path) -> Result<PathBuf> {
    private(store, "cache")
}

/// Removes what the dead were making.
pub fn clean(store: &Path) -> Result<()> {
    if let Some(directory) = existing(store, "cache")? {
        Removal::default().of_the_dead(&directory);
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

/// Removes what is in the cache and not in use.
#[cfg(feature = "images")]
pub fn empty(store: &Path, removal: &mut Removal) -> Result<()> {
    if let Some(directory) = existing(store, "cache")? {
        removal.of_the_dead(&directory);
        for name in names(&directory) {
            if !name.starts_with(NEW) {
                removal.file(&directory.join(name), &unused);
            }
        }
    }
    Ok(())
}

/// Whether the entry `old` is of another boot than `new`, or of another state of the same file.
fn outdated(old: &str, new: &str) -> bool {
    // Boot, device, inode, state, and what it was made of.
    let mut fields = old.split(['-', '.']).zip(new.split(['-', '.']));
    let mut same = || fields.next().is_some_and(|(old, new)| old == new);
    !same() || same() && same() && !same()
}

/// Whether nobody uses an entry: holds a read lock of it.
pub fn unused(file: &File) -> bool {
    let lock = Flock::from(FlockType::WriteLock);
    // If it cannot be told, it is left alone.
    matches!(fcntl_getlk(sys::borrow(file.as_raw_fd()), &lock), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::make_private;
    use std::fs::{create_dir_all, remove_dir_all, write};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("mini-cache-{name}-{}", std::process::id()));
        let _ = remove_dir_all(&path);
        make_private(&path).unwrap();
        path
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
                    let file = make(&store, &name, &|| false, &mut { fill }).unwrap();
                    assert_eq!(std::io::read_to_string(file).unwrap(), "whole");
                });
            }
        });
        assert_eq!(filled.into_inner(), 1);
        let mut all = [stays.to_vec(), vec![name.clone()]].concat();
        all.sort();
        assert_eq!(names(&store.join("cache")), all);
        #[cfg(feature = "images")]
        {
            let mut removal = Removal::default();
            empty(&store, &mut removal).unwrap();
            assert_eq!(removal.text.lines().count(), 3);
        }
        remove_dir_all(store).unwrap();
    }

    #[test]
    fn who_fails_or_is_interrupted_leaves_nothing() {
        let store = directory("fail");
        let fails = make(&store, "x", &|| false, &mut |_| Err(Error::new("no")));
        assert_eq!(fails.unwrap_err().to_string(), "no");
        let outer = make(&store, "x", &|| false, &mut |_| {
            let inner = make(&store, "x", &|| true, &mut |_| Ok(()))
                .unwrap_err()
                .to_string();
            assert_eq!(
                inner,
                "interrupted while another mini was reading the same image"
            );
            Err(Error::new("no"))
        });
        assert!(outer.is_err() && names(&store.join("cache")).is_empty());
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
