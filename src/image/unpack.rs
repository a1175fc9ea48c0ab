//! Unpacks a tar below a directory, as `tar --numeric-owner --xattrs --xattrs-include='*' --acls -xpf` does.
//!
//! Mechanism: openat(2), mkdirat(2), linkat(2), symlinkat(2), mknodat(2); then fchown(2), fchmod(2), fsetxattr(2) and
//! utimensat(2), in this order: chown clears set-user-ID and capabilities, and everything before changes the times.
//! Entry: `Unpacker::new`, `layer`, `finish`. Read these, then `Unpacker::member`, then the kinds.
//!
//! Invariants:
//! - Nothing outside the root is touched. A name with ".." is refused; a parent is looked up by `resolve`, so symlinks
//!   in it stay inside; the last component is only ever made new (`O_EXCL`), removed or replaced, never followed.
//! - The last of several members of one name wins: what is in the way is removed, a directory with all it holds; only
//!   a directory on a directory is merged.
//! - The root is closed to others (0700) until all is done. Times of directories come last, since making something in
//!   a directory changes them; so do default access lists, which what is made would inherit, and restrictive modes.
//! - Memory is bounded: what is kept until the end, or that of a layer, is charged against [`MEMORY`].
//!
//! Left out: attributes of a hard link (they are its target's), access times. A layer that names one directory by two
//! paths, one of them through a symlink, may remove by a whiteout on one what it has itself put there by the other.

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fchmod, fgetxattr, fremovexattr, fsetxattr, fstat, ftruncate, linkat,
    lsetxattr, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::Names;
use super::decompress::{self, Source};
use super::reader::{HIDES_ALL, Name, Outcome, Reader, Whiteouts, clean, cut_off, show, split};
use super::remove::{for_each_entry, remove_entry};
use super::tar::{BLOCK, DEFAULT, Kind, Member};
use crate::error::{Error, Result, error, quote, reason};
use container::resolve;

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
    /// Whether the archives are layers.
    pub whiteouts: Whiteouts,
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

/// Closes the root to others; returns it with the mode it had.
fn close_root(root: BorrowedFd<'_>) -> rustix::io::Result<(OwnedFd, Mode)> {
    let root = openat(root, c".", DIRECTORY, Mode::empty())?;
    let mode = Mode::from_raw_mode(fstat(&root)?.st_mode);
    // The image must not inherit what the host gave to the directory it happens to lie in.
    let _ = fremovexattr(&root, c"system.posix_acl_default");
    fchmod(&root, Mode::RWXU)?;
    Ok((root, mode))
}

/// Unpacks one archive after the other below the same root.
pub struct Unpacker<'a> {
    root: OwnedFd,
    root_mode: Mode,
    options: &'a Options,
    /// What errors call the archive.
    name: Vec<u8>,
    /// Bytes that may still be written.
    left: u64,
    /// The directory used last: most members lie in the same as the one before.
    parent: Option<(Vec<u8>, OwnedFd)>,
    directories: Vec<Directory>,
    /// The paths that this layer has, or has something in; each with 1 if nothing of lower layers is in it any more.
    made: Names,
    /// Bytes that may still be kept in memory; and how many of those used are for `made`.
    memory: usize,
    memory_of_made: usize,
    report: Report,
}

/// What is done to a directory at the end.
struct Directory {
    path: Vec<u8>,
    /// Device and inode: a later member may have put something else there.
    id: (u64, u64),
    mode: Mode,
    mtime: (i64, u32),
    default_acl: Option<Vec<u8>>,
}

impl<'a> Unpacker<'a> {
    pub fn new(root: BorrowedFd<'_>, options: &'a Options) -> Result<Unpacker<'a>> {
        let name = &options.limit_name;
        let root = close_root(root).map_err(|errno| Error::sys("unpack", name, errno))?;
        Ok(Unpacker {
            root: root.0,
            root_mode: root.1,
            options,
            name: Vec::new(),
            left: options.limit,
            parent: None,
            directories: Vec::new(),
            made: Names::new(),
            memory: MEMORY,
            memory_of_made: 0,
            report: Report::default(),
        })
    }

    /// Unpacks the next archive (plain, or compressed as `decompress` can tell), which errors call `name`.
    pub fn layer(&mut self, source: &mut dyn Source, name: &[u8]) -> Result<()> {
        name.clone_into(&mut self.name);
        self.parent = None;
        self.made = Names::new();
        self.memory += std::mem::take(&mut self.memory_of_made);
        let members = Reader::stream(decompress::open(source, name)?, self.options.whiteouts)
            .members(&mut |reader, member| self.member(member, reader));
        self.report.members += members.map_err(|reason| self.error(&reason))?;
        Ok(())
    }

    /// What has to wait until nothing more is made.
    pub fn finish(mut self) -> Result<Report> {
        match self.finish_directories() {
            Ok(()) => Ok(self.report),
            Err(reason) => Err(self.error(&reason)),
        }
    }

    fn error(&self, reason: &str) -> Error {
        error!("unpack({}): {reason}", quote(&self.name))
    }

    fn member(&mut self, member: &Member, reader: &mut Reader<'_>) -> Outcome<()> {
        let path = clean(&member.path, "name")?;
        let meaning = Name::of(&path, self.options.whiteouts)?;
        if meaning == Name::Metadata {
            return Ok(());
        }
        self.charge(member.stored)?;
        // What else it costs: an inode, and memory until the end.
        let xattrs = member.xattrs.iter();
        let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len()).sum();
        self.charge((BLOCK + path.len() + member.link.len() + xattrs) as u64)?;
        let (above, name) = split(&path);
        let parent = self.parent(above)?;
        let name = match meaning {
            Name::Whiteout(hidden) => c_string(hidden)?,
            _ => c_string(name)?,
        };
        let place = Place {
            parent: parent.1.as_fd(),
            name: &name,
        };
        match meaning {
            Name::Whiteout(_) => {
                self.remember(above)?;
                return self.hide(above, &place);
            }
            Name::Opaque if above.is_empty() && self.opaque_name().is_some() => {
                return Err(HIDES_ALL.into());
            }
            Name::Opaque => {
                self.remember(above)?;
                return self.opaque(above);
            }
            Name::Ordinary | Name::Metadata => self.remember(&path)?,
        }
        let replaced = match member.kind {
            Kind::Directory => self.directory(member, &path, &place)?,
            _ if path.is_empty() => return Err("it would replace the root".into()),
            Kind::File => self.file(member, &place, reader)?,
            Kind::HardLink => self.hard_link(member, &place)?,
            _ => self.node(member, &place)?,
        };
        match &self.parent {
            // What was replaced may be part of how the parent was found.
            _ if replaced => self.parent = None,
            None => self.parent = Some(parent),
            Some(_) => {} // the new directory, in which the next member will probably lie
        }
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> Outcome<()> {
        let left = self.left.checked_sub(bytes).ok_or_else(|| {
            let (left, name) = (self.left, &self.options.limit_name);
            error!("needs {bytes} bytes, only {left} free in {name}")
        })?;
        self.left = left;
        Ok(())
    }

    /// Takes the directory `path` out of the cache, or looks it up; it is made if the archive has not done so.
    fn parent(&mut self, path: &[u8]) -> Outcome<(Vec<u8>, OwnedFd)> {
        if let Some(parent) = self.parent.take()
            && parent.0 == path
        {
            return Ok(parent);
        }
        let make = || resolve::make_dir(self.root.as_fd(), path, Mode::from_raw_mode(0o755));
        let made = match make() {
            Err(Errno::NOTDIR) if self.opaque_name().is_some() => {
                self.unhide(path).and_then(|()| make())
            }
            result => result,
        };
        Ok((path.into(), made.map_err(because("parent directory"))?))
    }

    /// In an overlay, the attribute of a directory that does not show those below.
    fn opaque_name(&self) -> Option<&'static CStr> {
        match self.options.whiteouts {
            Whiteouts::Overlay { userxattr: true } => Some(c"user.overlay.opaque"),
            Whiteouts::Overlay { userxattr: false } => Some(c"trusted.overlay.opaque"),
            _ => None,
        }
    }

    fn set_opaque(&self, directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
        match self.opaque_name() {
            Some(name) => fsetxattr(directory, name, b"y", XattrFlags::empty()),
            None => Ok(()),
        }
    }

    /// Puts opaque directories in place of the whiteouts that earlier layers have left in `path`.
    fn unhide(&self, path: &[u8]) -> rustix::io::Result<()> {
        for path in prefixes(path) {
            let (above, name) = split(path);
            let parent = resolve::open(self.root.as_fd(), above, OFlags::PATH | OFlags::DIRECTORY)?;
            let place = Place {
                parent: parent.as_fd(),
                name: &CString::new(name).or(Err(Errno::INVAL))?,
            };
            let stat = place.stat()?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                unlinkat(place.parent, place.name, AtFlags::empty())?;
                // Just so: every plan begins with umask(0).
                mkdirat(place.parent, place.name, Mode::from_raw_mode(0o755))?;
                return self.set_opaque(place.open_dir()?.as_fd());
            }
        }
        Ok(())
    }

    /// Notes that this layer has `path`, and so something in each directory above it.
    fn remember(&mut self, mut path: &[u8]) -> Outcome<()> {
        if self.options.whiteouts == Whiteouts::Ordinary {
            return Ok(());
        }
        while !self.made.contains_key(path) {
            let bytes = path.len() + 64;
            let left = self.memory.checked_sub(bytes);
            self.memory = left.ok_or("more names than fit in memory")?;
            self.memory_of_made += bytes;
            self.made.insert(path.to_owned(), 0);
            path = split(path).0;
        }
        Ok(())
    }

    /// A whiteout: removes what lower layers have put at `place`, in the directory `above`.
    fn hide(&mut self, above: &[u8], place: &Place) -> Outcome<()> {
        let path = join(above, place.name.to_bytes());
        if self.made.contains_key(&path) {
            // This layer has it as well: of a directory, only what this layer has put there stays.
            return self.opaque(&path);
        }
        remove_entry(place.parent, place.name).map_err(because("whiteout"))?;
        if self.shows_below(above) {
            let kind = FileType::CharacterDevice;
            mknodat(place.parent, place.name, kind, Mode::empty(), 0).map_err(because("mknod"))?;
        }
        Ok(())
    }

    /// Whether an overlay shows what is below in the directory `path`. Where it does not, it would list whiteouts.
    fn shows_below(&self, path: &[u8]) -> bool {
        let Some(name) = self.opaque_name() else {
            return false;
        };
        !prefixes(path).any(|path| {
            resolve::open(self.root.as_fd(), path, DIRECTORY)
                .is_ok_and(|directory| fgetxattr(directory, name, &mut [0; 1]).is_ok())
        })
    }

    /// Removes everything lower layers have put in the directory `path`; nothing if it is none. Looks at each directory
    /// once in a layer.
    fn opaque(&mut self, path: &[u8]) -> Outcome<()> {
        let mut todo = vec![path.to_owned()];
        while let Some(here) = todo.pop() {
            if self.made.insert(here.clone(), 1) == Some(1) {
                continue;
            }
            let directory = match resolve::open(self.root.as_fd(), &here, DIRECTORY) {
                Err(Errno::NOTDIR | Errno::LOOP) => continue,
                result => result.map_err(because("whiteout"))?,
            };
            let directory = directory.as_fd();
            for_each_entry(directory, &mut |name| {
                let inner = join(&here, name.to_bytes());
                match self.made.contains_key(&inner) {
                    true => todo.push(inner),
                    false => remove_entry(directory, name)?,
                }
                Ok(())
            })
            .map_err(because("whiteout"))?;
            if here == path {
                self.set_opaque(directory).map_err(because("setxattr"))?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, member: &Member, path: &[u8], place: &Place) -> Outcome<bool> {
        let (directory, replaced) = place.directory().map_err(because("mkdir"))?;
        if replaced {
            // What was there hid the directories below; this one still does.
            let opaque = self.set_opaque(directory.as_fd());
            opaque.map_err(because("setxattr"))?;
        }
        let mode = Mode::from_raw_mode(member.mode);
        let passable = match path {
            b"" => Mode::RWXU, // the root stays closed
            _ => mode | Mode::RWXU,
        };
        self.attributes(member, place, Some(directory.as_fd()), passable)?;
        let stat = fstat(&directory).map_err(because("stat"))?;
        let default_acl = member.xattrs.iter().find(|(name, _)| name == DEFAULT);
        let kept = default_acl.map_or(0, |(_, value)| value.len()) + path.len();
        let left = self.memory.checked_sub(kept + size_of::<Directory>());
        self.memory = left.ok_or("more directories than fit in memory")?;
        self.directories.push(Directory {
            path: path.to_owned(),
            id: (stat.st_dev, stat.st_ino),
            mode,
            mtime: member.mtime,
            default_acl: default_acl.map(|(_, value)| value.clone()),
        });
        if path.is_empty() {
            self.root_mode = mode;
        }
        self.parent = Some((path.to_owned(), directory));
        Ok(replaced)
    }

    fn file(&mut self, member: &Member, place: &Place, reader: &mut Reader<'_>) -> Outcome<bool> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = || openat(place.parent, place.name, flags, Mode::RUSR | Mode::WUSR);
        let mut made = Err(Errno::EXIST);
        let replaced = place.make(&mut || {
            made = open();
            made.as_ref().map(drop).map_err(|errno| *errno)
        });
        let replaced = replaced.map_err(because("open"))?;
        let file = made.map_err(because("open"))?;
        let whole = [(0, member.stored)];
        let mut done = 0;
        for &(mut offset, length) in member.sparse.as_deref().unwrap_or(&whole) {
            let end = offset + length;
            while offset < end {
                let mut write = |data: &[u8]| match pwrite(&file, data, offset) {
                    Err(Errno::INTR) => Ok(0),
                    result => result.map_err(because("write")),
                };
                let Some(written) = reader.take(end - offset, &mut write)? else {
                    return Err(cut_off(done, member.stored));
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
        Ok(replaced)
    }

    fn hard_link(&mut self, member: &Member, place: &Place) -> Outcome<bool> {
        let target = clean(&member.link, "link target")?;
        let failed = |errno| error!("link to {}: {}", show(&target), reason(errno));
        let (above, name) = split(&target);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = resolve::open(self.root.as_fd(), above, flags).map_err(failed)?;
        let from = Place {
            parent: directory.as_fd(),
            name: &c_string(name)?,
        };
        // Linked already, or to itself: removing it might remove the last of it.
        if let (Ok(from), Ok(to)) = (from.stat(), place.stat())
            && (from.st_dev, from.st_ino) == (to.st_dev, to.st_ino)
        {
            return Ok(false);
        }
        let (flags, to) = (AtFlags::empty(), place);
        let mut link = || linkat(from.parent, from.name, to.parent, to.name, flags);
        place.make(&mut link).map_err(failed)
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
            return Err("its device number is out of range".into());
        }
        let device = makedev(member.major, member.minor);
        let target = c_string(&member.link)?;
        let mut make = || match kind {
            FileType::Symlink => symlinkat(&*target, place.parent, place.name),
            _ => mknodat(place.parent, place.name, kind, Mode::RUSR, device),
        };
        let replaced = place.make(&mut make).map_err(because("mknod"))?;
        self.attributes(member, place, None, Mode::from_raw_mode(member.mode))?;
        Ok(replaced)
    }

    /// Owner, mode, extended attributes and, but for a directory, times of what was just made; `fd` is it, if it could be
    /// opened. In this order: chown clears set-user-ID and `security.capability`, and everything changes the times.
    fn attributes(
        &mut self,
        member: &Member,
        place: &Place,
        fd: Option<BorrowedFd<'_>>,
        mode: Mode,
    ) -> Outcome<()> {
        let (parent, name) = (place.parent, place.name);
        let (uid, gid) = (member.uid, member.gid);
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => {}
            // An id that the user namespace does not have: it stays root's.
            Err(Errno::INVAL) if self.options.in_userns => self.report.skipped_owners += 1,
            Err(errno) => return Err(error!("chown to {uid}:{gid}: {}", reason(errno))),
        }
        if member.kind != Kind::Symlink {
            // This would follow a symlink; but it is none, and nobody else is in the tree.
            chmodat(parent, name, mode, AtFlags::empty()).map_err(because("chmod"))?;
        }
        for (xattr, value) in &member.xattrs {
            if member.kind != Kind::Directory || xattr != DEFAULT {
                self.xattr(place, fd, xattr, value)?;
            }
        }
        match member.kind {
            Kind::Directory => Ok(()),
            _ => place.set_times(member.mtime).map_err(because("utimensat")),
        }
    }

    fn xattr(
        &mut self,
        place: &Place,
        fd: Option<BorrowedFd<'_>>,
        name: &[u8],
        value: &[u8],
    ) -> Outcome<()> {
        let c_name = c_string(name)?;
        let result = match fd {
            Some(fd) => fsetxattr(fd, &*c_name, value, XattrFlags::empty()),
            None => {
                // There is no setxattrat(2) before Linux 6.13.
                let directory = format!("/proc/self/fd/{}/", place.parent.as_raw_fd());
                let path = c_string(&[directory.as_bytes(), place.name.to_bytes()].concat())?;
                lsetxattr(&*path, &*c_name, value, XattrFlags::empty())
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
        match result {
            Err(errno) if !skip => {
                let (name, reason) = (quote(name), reason(errno));
                return Err(error!("extended attribute {name}: {reason}"));
            }
            _ => self.report.skipped_xattrs += u64::from(skip),
        }
        Ok(())
    }

    /// What has to wait until nothing more is made in the directories; the root is opened to others at the very end.
    fn finish_directories(&mut self) -> Outcome<()> {
        for directory in std::mem::take(&mut self.directories) {
            let at = |errno| format!("member {}: {}", show(&directory.path), reason(errno));
            let fd = match resolve::open(self.root.as_fd(), &directory.path, DIRECTORY) {
                // A later member replaced it, or a directory above it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                result => result.map_err(at)?,
            };
            let stat = fstat(&fd).map_err(at)?;
            if (stat.st_dev, stat.st_ino) != directory.id {
                continue;
            }
            let (parent, name) = (fd.as_fd(), c".");
            let place = Place { parent, name };
            if let Some(list) = &directory.default_acl {
                self.xattr(&place, Some(fd.as_fd()), DEFAULT, list)?;
            }
            place.set_times(directory.mtime).map_err(at)?;
            if !directory.mode.contains(Mode::RWXU) && !directory.path.is_empty() {
                fchmod(&fd, directory.mode).map_err(at)?;
            }
        }
        fchmod(&self.root, self.root_mode).map_err(because("chmod of the root"))
    }
}

/// Where a member is made.
struct Place<'a> {
    parent: BorrowedFd<'a>,
    name: &'a CStr,
}

impl Place<'_> {
    /// Makes something new here; if there is something already it is removed first. True if so.
    fn make(&self, make: &mut dyn FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<bool> {
        match make() {
            Err(Errno::EXIST) => {
                remove_entry(self.parent, self.name)?;
                make().map(|()| true)
            }
            result => result.map(|()| false),
        }
    }

    fn open_dir(&self) -> rustix::io::Result<OwnedFd> {
        openat(self.parent, self.name, DIRECTORY, Mode::empty())
    }

    /// The directory that is here, or a new one; true if it took the place of something else.
    fn directory(&self) -> rustix::io::Result<(OwnedFd, bool)> {
        let replaced = match self.open_dir() {
            Err(Errno::NOENT) => false,
            // A symlink to a directory is replaced, too.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                remove_entry(self.parent, self.name)?;
                true
            }
            found => {
                let found = found?;
                // Merged; but an access list is like the mode: it is not added to.
                let _ = fremovexattr(&found, c"system.posix_acl_access");
                return Ok((found, false));
            }
        };
        mkdirat(self.parent, self.name, Mode::RWXU)?;
        Ok((self.open_dir()?, replaced))
    }

    fn set_times(&self, mtime: (i64, u32)) -> rustix::io::Result<()> {
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time(0, UTIME_OMIT),
            last_modification: time(mtime.0, mtime.1.into()),
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        utimensat(self.parent, self.name, &times, flags)
    }

    fn stat(&self) -> rustix::io::Result<Stat> {
        statat(self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn c_string(text: &[u8]) -> Outcome<CString> {
    CString::new(text).map_err(|_| "it has a NUL byte in a name".into())
}

/// The path of each directory from below the root to `path`, and `path`.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = (0..path.len()).filter(|&at| path[at] == b'/');
    slashes.chain([path.len()]).map(|end| &path[..end])
}

/// The path of `name` in the directory `above`.
fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    match above {
        b"" => name.to_owned(),
        _ => [above, b"/", name].concat(),
    }
}

fn because(operation: &str) -> impl Fn(Errno) -> Error {
    move |errno| format!("{operation}: {}", reason(errno)).into()
}
