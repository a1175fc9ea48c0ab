//! Paths inside a root directory that nobody vouches for.
//!
//! Mechanism: openat2(2) with `RESOLVE_IN_ROOT` (Linux 5.6), which resolves a path as if the given directory were
//! "/": absolute paths, ".." and symlinks of either kind stay inside, and `RESOLVE_NO_MAGICLINKS` keeps the links of
//! /proc/PID/fd from jumping elsewhere. What must also *make* what is missing, and every lookup where the kernel has
//! no openat2 (or an old seccomp sandbox answers EPERM to it), is walked here one component at a time.
//!
//! Read `open`, `make_dir`, `make_file`, then `walk`. See path_resolution(7), symlink(7).
//!
//! Invariant of the walk: every call names one component relative to a descriptor and has `O_NOFOLLOW`, so the kernel
//! never leaves the directory it is given; symlinks are read and followed here; ".." is never given to the kernel but
//! walks the known parents again from the root. So neither a hostile link nor somebody who renames directories
//! meanwhile leads outside (CVE-2018-15664, CVE-2021-30465 were such races).
//!
//! Left out: a walk does not refuse to cross mount points, and needs about 14 KiB of stack.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, openat2, unlinkat};
use rustix::io::{Errno, Result};

/// limits.h: the longest path with its NUL.
const PATH_MAX: usize = 4096;
/// As many symlinks as the kernel itself follows (MAXSYMLINKS, path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// Components a walk may visit. A path has at most 2048, but ".." walks again what came before it.
const MAX_STEPS: u32 = 16 * 1024;
/// openat2 gives up with EAGAIN when a rename happens during "..": openat2(2) says to try again, but not for ever.
const MAX_TRIES: u32 = 64;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// What a walk makes when it is missing.
#[derive(Clone, Copy)]
enum Make {
    Nothing,
    /// Every component, the last included, as a directory.
    Directories(Mode),
    /// Only the last component, as an empty regular file.
    File(Mode),
}

/// Opens `path` as if `root` were "/"; the empty path is the root. `flags` must not ask for a file to be created.
pub fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let whole = if path.is_empty() { b"." } else { path };
    for _ in 0..MAX_TRIES {
        match openat2(root, whole, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            // EPERM: container engines before 2020 answered it to every call their seccomp profile did not know.
            Err(Errno::NOSYS | Errno::PERM) => return walk(root, path, flags, Make::Nothing),
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// `mkdir -p` as if `root` were "/": symlinks are followed, also dangling ones, and whatever is missing becomes a
/// directory with exactly `mode`, whatever the umask. Returns an `O_PATH` descriptor.
pub fn make_dir(root: BorrowedFd<'_>, path: &[u8], mode: Mode) -> Result<OwnedFd> {
    match open(root, path, DIRECTORY) {
        Err(Errno::NOENT) => walk(root, path, DIRECTORY, Make::Directories(mode)),
        result => result,
    }
}

/// Finds a file to mount something on: what is at `path` already, of any type, or a new empty regular file with
/// exactly `mode` (missing parents get 0755). Returns an `O_PATH` descriptor.
///
/// A dangling symlink gets its target made if the target's directory exists, and is replaced by the file otherwise:
/// /etc/resolv.conf of an Ubuntu image points into a /run that only a running systemd would fill.
pub fn make_file(root: BorrowedFd<'_>, path: &[u8], mode: Mode) -> Result<OwnedFd> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let slash = path.iter().rposition(|&byte| byte == b'/');
    let (parent, name) = path.split_at(slash.map_or(0, |at| at.saturating_add(1)));
    if matches!(name, b"" | b"." | b"..") {
        return Err(Errno::ISDIR);
    }
    let parent = make_dir(root, parent, Mode::from_raw_mode(0o755))?;
    match walk(root, path, OFlags::PATH, Make::File(mode)) {
        Err(error) if is_symlink(parent.as_fd(), name) => {
            let hint = unlinkat(&parent, name, AtFlags::empty());
            hint.and_then(|()| make(parent.as_fd(), name, true, Make::File(mode)))
                .map_err(|_| error)?;
            openat(&parent, name, no_follow(OFlags::PATH), Mode::empty())
        }
        result => result,
    }
}

/// The component-by-component walk of the head of this file.
fn walk(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, make_missing: Make) -> Result<OwnedFd> {
    let mut rest = Rest::new(path)?;
    let mut done = Done::new();
    let mut target = [0; PATH_MAX];
    let mut links = 0;
    let mut here = openat(root, c".", no_follow(DIRECTORY), Mode::empty())?;
    for _ in 0..MAX_STEPS {
        let (name, last) = match rest.first() {
            None => return openat(&here, c".", no_follow(flags), Mode::empty()),
            Some(found) => found,
        };
        let length = name.len();
        if name == b".." {
            rest.drop_first(length);
            rest.prepend(done.parent())?;
            done.clear();
            here = openat(root, c".", no_follow(DIRECTORY), Mode::empty())?;
            continue;
        }
        match rustix::fs::readlinkat_raw(&here, name, &mut target[..]) {
            Ok(_) if last && flags.contains(OFlags::NOFOLLOW) => {}
            Ok(size) => {
                // A target that fills the buffer was cut off.
                let target = target.get(..size).filter(|found| found.len() < PATH_MAX);
                let target = target.ok_or(Errno::NAMETOOLONG)?;
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                rest.drop_first(length);
                rest.prepend(target)?;
                if target.first() == Some(&b'/') {
                    done.clear();
                    here = openat(root, c".", no_follow(DIRECTORY), Mode::empty())?;
                }
                continue;
            }
            Err(Errno::INVAL) => {} // not a symlink
            Err(Errno::NOENT) => make(here.as_fd(), name, last, make_missing)?,
            Err(error) => return Err(error),
        }
        if last {
            return openat(&here, name, no_follow(flags), Mode::empty());
        }
        here = openat(&here, name, no_follow(DIRECTORY), Mode::empty())?;
        done.push(name)?;
        rest.drop_first(length);
    }
    Err(Errno::LOOP)
}

/// Makes the missing `name` in `directory`, or says that it is missing.
fn make(directory: BorrowedFd<'_>, name: &[u8], last: bool, what: Make) -> Result<()> {
    let (flags, mode) = match what {
        Make::Directories(mode) => match mkdirat(directory, name, mode) {
            // Somebody else made it just now: then its mode is theirs.
            Err(Errno::EXIST) => return Ok(()),
            result => (result.map(|()| OFlags::DIRECTORY)?, mode),
        },
        Make::File(mode) if last => (OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode),
        Make::File(_) | Make::Nothing => return Err(Errno::NOENT),
    };
    // A chmod by name would follow a symlink put there meanwhile, and the umask may have taken bits away.
    fchmod(openat(directory, name, no_follow(flags), mode)?, mode)
}

fn is_symlink(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::readlinkat_raw(directory, name, &mut [0_u8; 1][..]).is_ok()
}

fn no_follow(flags: OFlags) -> OFlags {
    flags | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// The components still to be walked: the text at the end of the buffer, so that dropping the first and putting a
/// symlink's target in front move nothing else.
struct Rest {
    bytes: [u8; PATH_MAX],
    start: usize,
}

impl Rest {
    fn new(path: &[u8]) -> Result<Rest> {
        let mut rest = Rest {
            bytes: [0; PATH_MAX],
            start: PATH_MAX,
        };
        if path.contains(&0) {
            return Err(Errno::INVAL);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        rest.prepend(path)?;
        Ok(rest)
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or(&[])
    }

    /// The first component, and whether the path ends right after it ("a/" and "a/." go on: `a` must be a directory).
    /// Slashes and "." before it are passed over.
    fn first(&mut self) -> Option<(&[u8], bool)> {
        loop {
            let text = self.text();
            let length = match text.first()? {
                b'/' => 1,
                _ => text.iter().position(|&b| b == b'/').unwrap_or(text.len()),
            };
            if !matches!(text.get(..length), Some(b"/" | b".")) {
                break;
            }
            self.drop_first(length);
        }
        let text = self.text();
        let end = text.iter().position(|&byte| byte == b'/');
        Some((text.get(..end.unwrap_or(text.len()))?, end.is_none()))
    }

    fn drop_first(&mut self, length: usize) {
        self.start = self.start.saturating_add(length).min(PATH_MAX);
    }

    /// Puts `path` in front; what follows is empty or begins with a slash.
    fn prepend(&mut self, path: &[u8]) -> Result<()> {
        let start = self.start.checked_sub(path.len());
        let start = start.ok_or(Errno::NAMETOOLONG)?;
        let space = self.bytes.get_mut(start..self.start);
        space.ok_or(Errno::NAMETOOLONG)?.copy_from_slice(path);
        self.start = start;
        Ok(())
    }
}

/// The real directories from the root to where the walk is, "/a/b"; no symlinks and no "..".
struct Done {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Done {
    fn new() -> Done {
        Done {
            bytes: [0; PATH_MAX],
            length: 0,
        }
    }

    fn push(&mut self, name: &[u8]) -> Result<()> {
        for byte in core::iter::once(&b'/').chain(name) {
            let place = self.bytes.get_mut(self.length);
            *place.ok_or(Errno::NAMETOOLONG)? = *byte;
            self.length += 1;
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.length = 0;
    }

    /// The path without its last component; the root is its own parent.
    fn parent(&self) -> &[u8] {
        let path = self.bytes.get(..self.length).unwrap_or(&[]);
        let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        path.get(..end).unwrap_or(&[])
    }
}
