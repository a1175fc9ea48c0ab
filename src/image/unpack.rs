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
//! - Memory is bounded: what is kept until the end is charged against `Options::limit`.
//!
//! Left out: attributes of a hard link (they are its target's), access times.

use std::io::{ErrorKind, Read};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fchmod, fchown, fremovexattr, fsetxattr, fstat, ftruncate, futimens, linkat,
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

/// What this process may do, and how much.
pub struct Options {
    /// Only id 0 is mapped: everything stays root's, and owners other than root are counted.
    pub single_id: bool,
    /// Device nodes and some attributes need the initial user namespace: they are skipped and counted.
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
    let errno = |operation: &'static str| move |errno| Error::sys(operation, name, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(root, c".", flags, Mode::empty()).map_err(errno("unpack"))?;
    let mode = Mode::from_raw_mode(fstat(&root).map_err(errno("unpack"))?.st_mode);
    // The image must not inherit what the host gave to the directory it happens to lie in.
    let _ = fremovexattr(&root, DEFAULT);
    fchmod(&root, Mode::RWXU).map_err(errno("unpack"))?;
    let mut unpacker = Unpacker {
        reader: Reader {
            source: decompress::open(source, name)?,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            offset: 0,
        },
        root: root.as_fd(),
        root_mode: mode,
        options,
        left: options.limit,
        parent: None,
        directories: Vec::new(),
        report: Report::default(),
    };
    unpacker.archive().map_err(failed)?;
    Ok(unpacker.report)
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
            let item = parser.header(&block).map_err(|error| {
                // No member yet: probably something else altogether.
                let what = match self.report.members {
                    0 if error.member.is_empty() => "it is not a tar archive: ".to_owned(),
                    _ if error.member.is_empty() => format!("after member {}: ", show(&last)),
                    _ => format!("member {}: ", show(&error.member)),
                };
                format!("{what}{} (header at byte {offset})", error.reason)
            })?;
            match item {
                Item::More => {}
                Item::Extension { size } => {
                    let mut data = vec![0; size];
                    if self.reader.fill(&mut data)? < size {
                        return Err(self.truncated(&last));
                    }
                    parser.extension(&data).map_err(|error| {
                        let name = show(&error.member);
                        format!("member {name}: {} (header at byte {offset})", error.reason)
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
        self.reader.drain()?;
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
        let xattrs = member
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len());
        self.charge((BLOCK + path.len() + member.link.len() + xattrs.sum::<usize>()) as u64)?;
        if path.is_empty() {
            if member.kind != Kind::Directory {
                return Err("it would replace the root".to_owned());
            }
            self.root_mode = Mode::from_raw_mode(member.mode);
            self.directory_attributes(member, path, self.root)?;
        } else {
            let slash = path.iter().rposition(|&byte| byte == b'/');
            let name = &path[slash.map_or(0, |at| at + 1)..];
            let parent = self.parent(&path[..slash.unwrap_or(0)])?;
            let place = Place {
                parent: parent.1.as_fd(),
                name,
            };
            // Makes the member. What it replaced may be part of how the cached parent was found.
            let replaced = match member.kind {
                Kind::Directory => self.directory(member, &path, &place)?,
                Kind::File => self.file(member, &place)?,
                Kind::HardLink => self.hard_link(member, &place)?,
                Kind::Symlink | Kind::Fifo | Kind::Character | Kind::Block => {
                    self.node(member, &place)?
                }
            };
            match &self.parent {
                _ if replaced => self.parent = None,
                None => self.parent = Some(parent),
                Some(_) => {} // the new directory, in which the next member will probably lie
            }
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
        let (parent, name) = (place.parent, place.name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(parent, name, flags, Mode::empty());
        let make = || mkdirat(parent, name, Mode::RWXU).and_then(|()| open());
        let mut replaced = false;
        let directory = match make() {
            Err(Errno::EXIST) => match open() {
                // Merged; but access lists are like the mode, not added to.
                Ok(directory) => {
                    let _ = fremovexattr(&directory, ACCESS);
                    Ok(directory)
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    replaced = true;
                    remove_tree(parent, name).and_then(|()| make())
                }
                error => error,
            },
            result => result,
        };
        let directory = directory.map_err(because("mkdir"))?;
        self.directory_attributes(member, path.to_owned(), directory.as_fd())?;
        self.parent = Some((path.to_owned(), directory));
        Ok(replaced)
    }

    /// Sets what can be set already, and notes the rest for the end.
    fn directory_attributes(
        &mut self,
        member: &Member,
        path: Vec<u8>,
        directory: BorrowedFd<'_>,
    ) -> Outcome<()> {
        let object = Object::Open(directory);
        let is_root = path.is_empty();
        self.owner(member, &object)?;
        if !is_root {
            fchmod(directory, Mode::from_raw_mode(member.mode) | Mode::RWXU)
                .map_err(because("chmod"))?;
        }
        let mut default_acl = None;
        for (name, value) in &member.xattrs {
            match name == DEFAULT.as_bytes() {
                true => default_acl = Some(value.clone()),
                false => self.xattr(&object, name, value)?,
            }
        }
        let stat = fstat(directory).map_err(because("stat"))?;
        self.directories.push(Directory {
            path,
            id: (stat.st_dev, stat.st_ino),
            mode: Mode::from_raw_mode(member.mode),
            times: times(member),
            default_acl,
        });
        Ok(())
    }

    fn file(&mut self, member: &Member, place: &Place) -> Outcome<bool> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let (file, replaced) =
            place.make("open", || openat(place.parent, place.name, flags, mode))?;
        let whole = [(0, member.stored)];
        let mut done = 0;
        for &(start, length) in member.sparse.as_deref().unwrap_or(&whole) {
            let (mut offset, end) = (start, start + length);
            while offset < end {
                let data = self.reader.take(end - offset)?;
                if data.is_empty() {
                    let stored = member.stored;
                    return Err(format!(
                        "archive ends after {done} of {stored} bytes (truncated?)"
                    ));
                }
                write_all(&file, data, offset).map_err(because("write"))?;
                offset += data.len() as u64;
                done += data.len() as u64;
            }
        }
        self.report.bytes += done;
        if member.sparse.is_some() {
            ftruncate(&file, member.size).map_err(because("truncate"))?;
        }
        self.attributes(member, &Object::Open(file.as_fd()))?;
        futimens(&file, &times(member)).map_err(because("utimensat"))?;
        Ok(replaced)
    }

    fn hard_link(&mut self, member: &Member, place: &Place) -> Outcome<bool> {
        let target = clean(&member.link, "link target")?;
        let slash = target.iter().rposition(|&byte| byte == b'/');
        let (above, base) = (
            &target[..slash.unwrap_or(0)],
            &target[slash.map_or(0, |at| at + 1)..],
        );
        let failed = |errno| format!("link to {}: {}", show(&target), reason(errno));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = resolve::open(self.root, above, flags).map_err(failed)?;
        let (parent, name) = (place.parent, place.name);
        let link = || linkat(&directory, base, parent, name, AtFlags::empty());
        match link() {
            Ok(()) => return Ok(false),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let inode = |directory: BorrowedFd<'_>, name| {
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            Ok::<_, String>((stat.st_dev, stat.st_ino))
        };
        // Linked already, or to itself: removing it might remove the last of it.
        if inode(parent, name)? == inode(directory.as_fd(), base)? {
            return Ok(false);
        }
        remove_tree(parent, name)
            .and_then(|()| link())
            .map_err(failed)?;
        Ok(true)
    }

    /// Symlinks, devices and FIFOs: what cannot be opened to work on its descriptor.
    fn node(&mut self, member: &Member, place: &Place) -> Outcome<bool> {
        let (parent, name) = (place.parent, place.name);
        let device = match member.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if device != FileType::Fifo {
            if self.options.in_userns {
                self.report.skipped_devices += 1;
                return Ok(false);
            }
            // linux/kdev_t.h: more would be cut off silently.
            if member.major >= 1 << 12 || member.minor >= 1 << 20 {
                return Err("its device number is out of range".to_owned());
            }
        }
        let ((), replaced) = place.make("mknod", || match member.kind {
            Kind::Symlink => symlinkat(&member.link[..], parent, name),
            _ => {
                let number = makedev(member.major, member.minor);
                mknodat(parent, name, device, Mode::RUSR | Mode::WUSR, number)
            }
        })?;
        self.attributes(member, &Object::Named(place))?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        utimensat(parent, name, &times(member), flags).map_err(because("utimensat"))?;
        Ok(replaced)
    }

    /// Owner, mode and extended attributes of what is not a directory. In this order: chown clears set-user-ID and
    /// `security.capability`.
    fn attributes(&mut self, member: &Member, object: &Object) -> Outcome<()> {
        self.owner(member, object)?;
        let mode = Mode::from_raw_mode(member.mode);
        match object {
            _ if member.kind == Kind::Symlink => Ok(()),
            Object::Open(fd) => fchmod(fd, mode),
            // This would follow a symlink; but it was made just now, and nobody else is in the tree.
            Object::Named(place) => chmodat(place.parent, place.name, mode, AtFlags::empty()),
        }
        .map_err(because("chmod"))?;
        for (name, value) in &member.xattrs {
            self.xattr(object, name, value)?;
        }
        Ok(())
    }

    fn owner(&mut self, member: &Member, object: &Object) -> Outcome<()> {
        if self.options.single_id {
            self.report.skipped_owners += u64::from((member.uid, member.gid) != (0, 0));
            return Ok(());
        }
        let (uid, gid) = (
            Some(Uid::from_raw(member.uid)),
            Some(Gid::from_raw(member.gid)),
        );
        match object {
            Object::Open(fd) => fchown(fd, uid, gid),
            Object::Named(place) => chownat(
                place.parent,
                place.name,
                uid,
                gid,
                AtFlags::SYMLINK_NOFOLLOW,
            ),
        }
        .map_err(|errno| {
            let (uid, gid) = (member.uid, member.gid);
            format!("chown to {uid}:{gid}: {}", reason(errno))
        })
    }

    fn xattr(&mut self, object: &Object, name: &[u8], value: &[u8]) -> Outcome<()> {
        let flags = XattrFlags::empty();
        let result = match object {
            Object::Open(fd) => fsetxattr(fd, name, value, flags),
            // There is no setxattrat before Linux 6.13.
            Object::Named(place) => lsetxattr(&place.proc_path()[..], name, value, flags),
        };
        match result {
            // The file system has none: tmpfs before Linux 6.6 knows no user.*.
            Err(Errno::OPNOTSUPP) => self.report.skipped_xattrs += 1,
            // trusted.* and most of security.* need the initial user namespace.
            Err(Errno::PERM) if self.options.in_userns => self.report.skipped_xattrs += 1,
            // An access list names ids that are not mapped.
            Err(Errno::INVAL) if self.options.single_id && name.starts_with(b"system.") => {
                self.report.skipped_xattrs += 1;
            }
            Err(errno) => {
                return Err(format!(
                    "extended attribute {}: {}",
                    quote(name),
                    reason(errno)
                ));
            }
            Ok(()) => {}
        }
        Ok(())
    }

    /// What has to wait until nothing more is made in the directories; the root is opened to others at the very end.
    fn finish_directories(&mut self) -> Outcome<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        for directory in std::mem::take(&mut self.directories) {
            let at = |errno| format!("member {}: {}", show(&directory.path), reason(errno));
            let fd = match resolve::open(self.root, &directory.path, flags) {
                // A later member replaced it, or a directory above it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                result => result.map_err(at)?,
            };
            let stat = fstat(&fd).map_err(at)?;
            if (stat.st_dev, stat.st_ino) != directory.id {
                continue;
            }
            if let Some(list) = &directory.default_acl {
                self.xattr(&Object::Open(fd.as_fd()), DEFAULT.as_bytes(), list)?;
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
    fn make<T>(
        &self,
        operation: &str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Outcome<(T, bool)> {
        match make() {
            Err(Errno::EXIST) => remove_tree(self.parent, self.name)
                .and_then(|()| make())
                .map(|made| (made, true)),
            result => result.map(|made| (made, false)),
        }
        .map_err(because(operation))
    }

    fn proc_path(&self) -> Vec<u8> {
        let directory = format!("/proc/self/fd/{}/", self.parent.as_raw_fd());
        [directory.as_bytes(), self.name].concat()
    }
}

/// What attributes are set on.
enum Object<'a> {
    Open(BorrowedFd<'a>),
    Named(&'a Place<'a>),
}

/// The archive, in large pieces.
struct Reader<S> {
    source: S,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes taken so far.
    offset: u64,
}

impl<S: Read> Reader<S> {
    /// Takes what comes next, at least one byte and at most `limit`; nothing at the end.
    fn take(&mut self, limit: u64) -> Outcome<&[u8]> {
        while self.start == self.end {
            match self.source.read(&mut self.buffer) {
                Ok(0) => return Ok(&[]),
                Ok(read) => (self.start, self.end) = (0, read),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(format!("reading it after {} bytes: {error}", self.offset));
                }
            }
        }
        let buffered = (self.end - self.start) as u64;
        let taken = buffered.min(limit) as usize;
        self.start += taken;
        self.offset += taken as u64;
        Ok(&self.buffer[self.start - taken..self.start])
    }

    /// Fills `target` as far as the archive goes.
    fn fill(&mut self, target: &mut [u8]) -> Outcome<usize> {
        let mut filled = 0;
        while filled < target.len() {
            let data = self.take((target.len() - filled) as u64)?;
            if data.is_empty() {
                break;
            }
            target[filled..filled + data.len()].copy_from_slice(data);
            filled += data.len();
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> Outcome<()> {
        let mut left = bytes;
        while left > 0 {
            match self.take(left)?.len() {
                0 => return Err(format!("archive ends at byte {} (truncated?)", self.offset)),
                taken => left -= taken as u64,
            }
        }
        Ok(())
    }

    /// Skips what fills the last block of `size` bytes of data.
    fn padding(&mut self, size: u64) -> Outcome<()> {
        self.skip(size.wrapping_neg() % BLOCK as u64)
    }

    fn drain(&mut self) -> Outcome<()> {
        while !self.take(u64::MAX)?.is_empty() {}
        Ok(())
    }
}

fn write_all(file: &OwnedFd, mut data: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !data.is_empty() {
        match pwrite(file, data, offset) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(written) => {
                offset += written as u64;
                data = &data[written..];
            }
        }
    }
    Ok(())
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
