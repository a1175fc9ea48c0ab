//! Unpacks a tar below a directory, as `tar --numeric-owner --xattrs --xattrs-include='*' --acls -xpf` does.
//!
//! Mechanism: openat(2), mkdirat(2), linkat(2), symlinkat(2), mknodat(2); then fchown(2), fchmod(2), fsetxattr(2) and
//! utimensat(2), in this order: chown clears set-user-ID and capabilities, and everything before changes the times.
//! Entry: `unpack`. Read it, then `Unpacker::member`, then the kinds.
//!
//! Invariants:
//! - Nothing outside the root is touched. A name with ".." is refused; a parent is looked up by `resolve`, so symlinks
//!   in it stay inside; the last component is only ever made new (`O_EXCL`), removed or replaced, never followed.
//! - The last of several members of one name wins: what is in the way is removed, a directory with all it holds; only
//!   a directory on a directory is merged.
//! - The root is closed to others (0700) until all is done. Times of directories come last, since making something in
//!   a directory changes them; so do default access lists, which what is made would inherit, and restrictive modes.
//! - Memory is bounded: what is kept until the end is charged against [`MEMORY`].
//!
//! Left out: attributes of a hard link (they are its target's), access times.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fchmod, fremovexattr, fsetxattr, fstat, ftruncate, futimens, linkat,
    lsetxattr, makedev, mkdirat, mknodat, openat, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::decompress;
use super::remove::remove_tree;
use super::tar::{BLOCK, Item, Kind, Member, Parser};
use crate::error::{Error, Result, quote, reason};
use container::resolve;

/// One read fills this; large enough that the calls do not count, small enough to stay in the processor's cache.
const BUFFER: usize = 256 * 1024;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Bytes of memory for what has to wait until the end: about two million directories. Without a limit, 70 MB of gzip can
/// ask for 24 GB.
const MEMORY: usize = 256 << 20;

/// What this process may do, and how much.
pub struct Options {
    /// Device nodes and some attributes need the initial user namespace, and some ids are not mapped in another: they are
    /// skipped and counted.
    pub in_userns: bool,
    /// Bytes that may be written in total.
    pub limit: u64,
    /// The path that has so many bytes free, for the error.
    pub limit_name: String,
}

/// What was done, and what had to be left out.
#[derive(Debug, Default)]
pub struct Report {
    pub members: u64,
    /// Bytes of file data.
    pub bytes: u64,
    pub skipped_devices: u64,
    pub skipped_owners: u64,
    pub skipped_xattrs: u64,
}

/// Unpacks the archive `source` (plain, or compressed as `decompress` can tell) below `root`. `name` is what errors
/// call the archive. After an error the tree is incomplete and its root closed: the caller removes it.
pub fn unpack(
    source: impl Read,
    name: &[u8],
    root: BorrowedFd<'_>,
    options: &Options,
) -> Result<Report> {
    let failed = |reason| Error::new(format!("unpack({}): {reason}", quote(name)));
    let source = BufReader::with_capacity(BUFFER, decompress::open(source, name)?);
    let root = close_root(root).map_err(|errno| failed(reason(errno)))?;
    let mut unpacker = Unpacker {
        reader: Reader { source, offset: 0 },
        root: root.0.as_fd(),
        root_mode: root.1,
        options,
        left: options.limit,
        parent: None,
        directories: Vec::new(),
        memory: MEMORY,
        report: Report::default(),
    };
    unpacker.archive().map_err(failed)?;
    Ok(unpacker.report)
}

/// Closes the root to others; returns it with the mode it had.
fn close_root(root: BorrowedFd<'_>) -> rustix::io::Result<(OwnedFd, Mode)> {
    let root = openat(root, c".", DIRECTORY, Mode::empty())?;
    let mode = Mode::from_raw_mode(fstat(&root)?.st_mode);
    // The image must not inherit what the host gave to the directory it happens to lie in.
    let _ = fremovexattr(&root, DEFAULT);
    fchmod(&root, Mode::RWXU)?;
    Ok((root, mode))
}

/// Why unpacking ended, without the archive's name.
type Outcome<T> = std::result::Result<T, String>;

struct Unpacker<'a, R> {
    reader: Reader<R>,
    root: BorrowedFd<'a>,
    root_mode: Mode,
    options: &'a Options,
    /// Bytes that may still be written.
    left: u64,
    /// The directory used last: most members lie in the same as the one before.
    parent: Option<(Vec<u8>, OwnedFd)>,
    directories: Vec<Directory>,
    /// Bytes that may still be kept in memory.
    memory: usize,
    report: Report,
}

/// What is done to a directory at the end.
struct Directory {
    path: Vec<u8>,
    /// Device and inode: a later member may have put something else there.
    id: (u64, u64),
    mode: Mode,
    times: Timestamps,
    default_acl: Option<Vec<u8>>,
}

impl<R: Read> Unpacker<'_, R> {
    /// Reads the archive to its end.
    fn archive(&mut self) -> Outcome<()> {
        let mut parser = Parser::default();
        let mut block = [0; BLOCK];
        let mut last = Vec::new();
        loop {
            let offset = self.reader.offset;
            if self.reader.fill(&mut block)? < BLOCK {
                return Err(self.truncated(&last));
            }
            let item = parser.header(&block).map_err(|reason| {
                // No member yet: probably something else altogether.
                let what = match self.report.members {
                    0 if parser.name.is_empty() => "it is not a tar archive".to_owned(),
                    _ if parser.name.is_empty() => format!("after member {}", show(&last)),
                    _ => format!("member {}", show(&parser.name)),
                };
                format!("{what}: {reason} (header at byte {offset})")
            })?;
            match item {
                Item::More => {}
                Item::Extension { size } => {
                    let mut data = vec![0; size];
                    if self.reader.fill(&mut data)? < size {
                        return Err(self.truncated(&last));
                    }
                    parser.extension(&data).map_err(|reason| {
                        let name = show(&parser.name);
                        format!("member {name}: {reason} (header at byte {offset})")
                    })?;
                    self.reader.padding(size as u64)?;
                }
                Item::Member(member) => {
                    self.report.members += 1;
                    self.member(&member)
                        .map_err(|reason| format!("member {}: {reason}", show(&member.path)))?;
                    last = member.path;
                }
                Item::End if self.report.members == 0 => {
                    return Err("it is not a tar archive: it has no member".to_owned());
                }
                Item::End => break,
            }
        }
        // A checksum of compressed data comes at their end.
        while self.reader.take(u64::MAX, |data| Ok(data.len()))?.is_some() {}
        self.finish_directories()
    }

    fn truncated(&self, last: &[u8]) -> String {
        match (self.report.members, self.reader.offset) {
            (0, 0) => "it is empty".to_owned(),
            (0, end) => format!("it is not a tar archive: it ends at byte {end} without a member"),
            (_, end) => format!(
                "it ends at byte {end} after member {} without an end mark (truncated?)",
                show(last)
            ),
        }
    }

    fn member(&mut self, member: &Member) -> Outcome<()> {
        let path = clean(&member.path, "name")?;
        self.charge(member.stored)?;
        // What else it costs: an inode, and memory until the end.
        let xattrs = member.xattrs.iter();
        let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len()).sum();
        self.charge((BLOCK + path.len() + member.link.len() + xattrs) as u64)?;
        let (above, name) = split(&path);
        let parent = self.parent(above)?;
        let place = Place {
            parent: parent.1.as_fd(),
            name,
        };
        let replaced = match member.kind {
            Kind::Directory => self.directory(member, &path, &place)?,
            _ if path.is_empty() => return Err("it would replace the root".to_owned()),
            Kind::File => self.file(member, &place)?,
            Kind::HardLink => self.hard_link(member, &place)?,
            _ => self.node(member, &place)?,
        };
        match &self.parent {
            // What was replaced may be part of how the parent was found.
            _ if replaced => self.parent = None,
            None => self.parent = Some(parent),
            Some(_) => {} // the new directory, in which the next member will probably lie
        }
        // Only files and GNU tar's 'D' have data.
        if member.kind != Kind::File {
            self.reader.skip(member.stored)?;
        }
        self.reader.padding(member.stored)
    }

    fn charge(&mut self, bytes: u64) -> Outcome<()> {
        let left = self.left.checked_sub(bytes).ok_or_else(|| {
            let (left, name) = (self.left, &self.options.limit_name);
            format!("needs {bytes} bytes, only {left} free in {name}")
        })?;
        self.left = left;
        Ok(())
    }

    /// Takes the directory `path` out of the cache, or looks it up; it is made if the archive has not done so.
    fn parent(&mut self, path: &[u8]) -> Outcome<(Vec<u8>, OwnedFd)> {
        match self.parent.take() {
            Some(parent) if parent.0 == path => Ok(parent),
            _ => resolve::make_dir(self.root, path, Mode::from_raw_mode(0o755))
                .map(|fd| (path.to_owned(), fd))
                .map_err(because("parent directory")),
        }
    }

    fn directory(&mut self, member: &Member, path: &[u8], place: &Place) -> Outcome<bool> {
        let open = || openat(place.parent, place.name, DIRECTORY, Mode::empty());
        let make = || mkdirat(place.parent, place.name, Mode::RWXU).and_then(|()| open());
        let found = open();
        // A symlink to a directory is replaced, too.
        let replaced = matches!(found, Err(Errno::NOTDIR | Errno::LOOP));
        let directory = match found {
            Err(Errno::NOENT) => make(),
            _ if replaced => remove_tree(place.parent, place.name).and_then(|()| make()),
            found => found.inspect(|directory| {
                // Merged; but an access list is like the mode: it is not added to.
                let _ = fremovexattr(directory, ACCESS);
            }),
        };
        let directory = directory.map_err(because("mkdir"))?;
        let mode = Mode::from_raw_mode(member.mode);
        // The root stays closed.
        let passable = if path.is_empty() {
            Mode::RWXU
        } else {
            mode | Mode::RWXU
        };
        self.attributes(member, place, Some(directory.as_fd()), passable)?;
        let stat = fstat(&directory).map_err(because("stat"))?;
        let default_acl = member
            .xattrs
            .iter()
            .find(|(name, _)| name == DEFAULT.as_bytes());
        let kept = default_acl.map_or(0, |(_, value)| value.len()) + path.len();
        let kept = self.memory.checked_sub(kept + size_of::<Directory>());
        self.memory = kept.ok_or("more directories than fit in memory")?;
        self.directories.push(Directory {
            path: path.to_owned(),
            id: (stat.st_dev, stat.st_ino),
            mode,
            times: times(member),
            default_acl: default_acl.map(|(_, value)| value.clone()),
        });
        if path.is_empty() {
            self.root_mode = mode;
        }
        self.parent = Some((path.to_owned(), directory));
        Ok(replaced)
    }

    fn file(&mut self, member: &Member, place: &Place) -> Outcome<bool> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = || openat(place.parent, place.name, flags, Mode::RUSR | Mode::WUSR);
        let (file, replaced) = place.make(open).map_err(because("open"))?;
        let whole = [(0, member.stored)];
        let mut done = 0;
        for &(mut offset, length) in member.sparse.as_deref().unwrap_or(&whole) {
            let end = offset + length;
            while offset < end {
                let write = |data: &[u8]| match pwrite(&file, data, offset) {
                    Err(Errno::INTR) => Ok(0),
                    result => result.map_err(because("write")),
                };
                let Some(written) = self.reader.take(end - offset, write)? else {
                    let stored = member.stored;
                    let what = format!("archive ends after {done} of {stored} bytes");
                    return Err(what + " (truncated?)");
                };
                offset += written;
                done += written;
            }
        }
        self.report.bytes += done;
        if member.sparse.is_some() {
            ftruncate(&file, member.size).map_err(because("truncate"))?;
        }
        let mode = Mode::from_raw_mode(member.mode);
        self.attributes(member, place, Some(file.as_fd()), mode)?;
        futimens(&file, &times(member)).map_err(because("utimensat"))?;
        Ok(replaced)
    }

    fn hard_link(&mut self, member: &Member, place: &Place) -> Outcome<bool> {
        let target = clean(&member.link, "link target")?;
        let failed = |errno| format!("link to {}: {}", show(&target), reason(errno));
        let (above, name) = split(&target);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = resolve::open(self.root, above, flags).map_err(failed)?;
        let link = || linkat(&directory, name, place.parent, place.name, AtFlags::empty());
        let inode = |directory: BorrowedFd<'_>, name| {
            statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| (stat.st_dev, stat.st_ino))
        };
        match link() {
            // Linked already, or to itself: removing it might remove the last of it.
            Err(Errno::EXIST)
                if inode(directory.as_fd(), name) == inode(place.parent, place.name) =>
            {
                Ok(false)
            }
            Err(Errno::EXIST) => remove_tree(place.parent, place.name)
                .and_then(|()| link())
                .map(|()| true),
            result => result.map(|()| false),
        }
        .map_err(failed)
    }

    /// Symlinks, devices and FIFOs: what cannot be opened to work on its descriptor.
    fn node(&mut self, member: &Member, place: &Place) -> Outcome<bool> {
        let kind = match member.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
            _ => FileType::Symlink,
        };
        if matches!(member.kind, Kind::Character | Kind::Block) && self.options.in_userns {
            self.report.skipped_devices += 1;
            return Ok(false);
        }
        // linux/kdev_t.h: more would be cut off silently.
        if member.major >= 1 << 12 || member.minor >= 1 << 20 {
            return Err("its device number is out of range".to_owned());
        }
        let device = makedev(member.major, member.minor);
        let make = || match kind {
            FileType::Symlink => symlinkat(&member.link[..], place.parent, place.name),
            _ => mknodat(place.parent, place.name, kind, Mode::RUSR, device),
        };
        let ((), replaced) = place.make(make).map_err(because("mknod"))?;
        let mode = Mode::from_raw_mode(member.mode);
        self.attributes(member, place, None, mode)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        utimensat(place.parent, place.name, &times(member), flags).map_err(because("utimensat"))?;
        Ok(replaced)
    }

    /// Owner, mode and extended attributes of what was just made; `fd` is it, if it could be opened. In this order:
    /// chown clears set-user-ID and `security.capability`.
    fn attributes(
        &mut self,
        member: &Member,
        place: &Place,
        fd: Option<BorrowedFd<'_>>,
        mode: Mode,
    ) -> Outcome<()> {
        let (parent, name) = (place.parent, place.name);
        let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match chownat(parent, name, Some(uid), Some(gid), flags) {
            Ok(()) => {}
            // An id that the user namespace does not have: it stays root's.
            Err(Errno::INVAL) if self.options.in_userns => self.report.skipped_owners += 1,
            Err(errno) => {
                let (uid, gid) = (member.uid, member.gid);
                return Err(format!("chown to {uid}:{gid}: {}", reason(errno)));
            }
        }
        if member.kind != Kind::Symlink {
            // This would follow a symlink; but it is none, and nobody else is in the tree.
            chmodat(parent, name, mode, AtFlags::empty()).map_err(because("chmod"))?;
        }
        for (xattr, value) in &member.xattrs {
            if member.kind != Kind::Directory || xattr != DEFAULT.as_bytes() {
                self.xattr(place, fd, xattr, value)?;
            }
        }
        Ok(())
    }

    fn xattr(
        &mut self,
        place: &Place,
        fd: Option<BorrowedFd<'_>>,
        name: &[u8],
        value: &[u8],
    ) -> Outcome<()> {
        let result = match fd {
            Some(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            None => {
                // There is no setxattrat(2) before Linux 6.13.
                let directory = format!("/proc/self/fd/{}/", place.parent.as_raw_fd());
                let path = [directory.as_bytes(), place.name].concat();
                lsetxattr(&path[..], name, value, XattrFlags::empty())
            }
        };
        let skip = match result {
            // The file system has none: tmpfs before Linux 6.6 knows no user.*.
            Err(Errno::OPNOTSUPP) => true,
            // trusted.* and most of security.* need the initial user namespace.
            Err(Errno::PERM) => self.options.in_userns,
            // An access list names ids that are not mapped.
            Err(Errno::INVAL) => self.options.in_userns && name.starts_with(b"system."),
            _ => false,
        };
        self.report.skipped_xattrs += u64::from(skip);
        result.or_else(|errno| match skip {
            true => Ok(()),
            false => Err(format!(
                "extended attribute {}: {}",
                quote(name),
                reason(errno)
            )),
        })
    }

    /// What has to wait until nothing more is made in the directories; the root is opened to others at the very end.
    fn finish_directories(&mut self) -> Outcome<()> {
        for directory in std::mem::take(&mut self.directories) {
            let at = |errno| format!("member {}: {}", show(&directory.path), reason(errno));
            let fd = match resolve::open(self.root, &directory.path, DIRECTORY) {
                // A later member replaced it, or a directory above it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                result => result.map_err(at)?,
            };
            let stat = fstat(&fd).map_err(at)?;
            if (stat.st_dev, stat.st_ino) != directory.id {
                continue;
            }
            if let Some(list) = &directory.default_acl {
                let place = Place {
                    parent: self.root,
                    name: &directory.path,
                };
                self.xattr(&place, Some(fd.as_fd()), DEFAULT.as_bytes(), list)?;
            }
            if !directory.mode.contains(Mode::RWXU) && !directory.path.is_empty() {
                fchmod(&fd, directory.mode).map_err(at)?;
            }
            futimens(&fd, &directory.times).map_err(at)?;
        }
        fchmod(self.root, self.root_mode).map_err(because("chmod of the root"))
    }
}

/// Where a member is made.
struct Place<'a> {
    parent: BorrowedFd<'a>,
    name: &'a [u8],
}

impl Place<'_> {
    /// Makes something new here; if there is something already it is removed first. True if so.
    fn make<T>(&self, make: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<(T, bool)> {
        match make() {
            Err(Errno::EXIST) => {
                remove_tree(self.parent, self.name)?;
                Ok((make()?, true))
            }
            result => Ok((result?, false)),
        }
    }
}

/// The archive, in large pieces.
struct Reader<S> {
    source: BufReader<S>,
    /// Bytes taken so far.
    offset: u64,
}

impl<S: Read> Reader<S> {
    /// Lets `take` have what comes next, at least one byte and at most `limit`, and goes on after as many bytes as it
    /// says. None at the end of the archive.
    fn take(
        &mut self,
        limit: u64,
        take: impl FnOnce(&[u8]) -> Outcome<usize>,
    ) -> Outcome<Option<u64>> {
        let taken = match self.source.fill_buf() {
            Ok([]) => return Ok(None),
            Ok(data) => take(&data[..limit.min(data.len() as u64) as usize])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(format!("reading it after {} bytes: {error}", self.offset)),
        };
        self.source.consume(taken);
        self.offset += taken as u64;
        Ok(Some(taken as u64))
    }

    /// Fills `target` as far as the archive goes.
    fn fill(&mut self, target: &mut [u8]) -> Outcome<usize> {
        let mut filled = 0;
        while filled < target.len() {
            let free = &mut target[filled..];
            let limit = free.len() as u64;
            let copy = |data: &[u8]| {
                free[..data.len()].copy_from_slice(data);
                Ok(data.len())
            };
            match self.take(limit, copy)? {
                Some(taken) => filled += taken as usize,
                None => break,
            }
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> Outcome<()> {
        let mut left = bytes;
        while left > 0 {
            match self.take(left, |data| Ok(data.len()))? {
                Some(taken) => left -= taken,
                None => return Err(format!("archive ends at byte {} (truncated?)", self.offset)),
            }
        }
        Ok(())
    }

    /// Skips what fills the last block of `size` bytes of data.
    fn padding(&mut self, size: u64) -> Outcome<()> {
        self.skip(size.wrapping_neg() % BLOCK as u64)
    }
}

/// The path below the root: without slashes in front and at the end, and without ".". What goes up is hostile.
fn clean(path: &[u8], what: &str) -> Outcome<Vec<u8>> {
    if path.is_empty() {
        return Err(format!("its {what} is empty"));
    }
    let mut clean = Vec::with_capacity(path.len());
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(format!("its {what} contains \"..\"")),
            _ if !clean.is_empty() => clean.push(b'/'),
            _ => {}
        }
        clean.extend(component);
    }
    Ok(clean)
}

/// The directory and the name in it, of a clean path; the root is "." in itself.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None if path.is_empty() => (path, b"."),
        None => (b"", path),
    }
}

fn times(member: &Member) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: member.mtime.0,
            tv_nsec: member.mtime.1.into(),
        },
    }
}

fn because(operation: &str) -> impl Fn(Errno) -> String {
    move |errno| format!("{operation}: {}", reason(errno))
}

/// A name for an error, which is one line that can be read.
fn show(path: &[u8]) -> String {
    match path.get(..256) {
        Some(start) if path.len() > 256 => quote(start) + "…",
        _ => quote(path),
    }
}
