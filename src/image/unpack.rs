//! Unpacks a tar below a directory, as `tar --numeric-owner --xattrs --xattrs-include='*' --acls -xpf` does.
//!
//! Mechanism: openat(2), mkdirat(2), linkat(2), symlinkat(2), mknodat(2); then fchown(2), fchmod(2), fsetxattr(2) and
//! utimensat(2), in this order: chown clears set-user-ID and capabilities, and everything before changes the times.
//! Entry: `unpack`, or for layers `Unpacker::new`, `layer`, `finish`. Read these, then `Unpacker::member`, then the kinds.
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

use std::collections::BTreeMap;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fchmod, fgetxattr, fremovexattr, fsetxattr, fstat, ftruncate, futimens,
    linkat, lsetxattr, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::decompress::{self, Source};
use super::reader::{HIDES_ALL, Name, Outcome, Reader, Whiteouts, clean, cut_off, show, split};
use super::remove::{for_each_entry, remove_tree};
use super::tar::{BLOCK, Kind, Member};
use crate::error::{Error, Result, error, quote, reason};
use container::resolve;

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
    let _ = fremovexattr(&root, DEFAULT);
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
    /// The paths that this layer has, or has something in; and whether nothing of lower layers is in it any more.
    made: BTreeMap<Vec<u8>, bool>,
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
    times: Timestamps,
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
            made: BTreeMap::new(),
            memory: MEMORY,
            memory_of_made: 0,
            report: Report::default(),
        })
    }

    /// Unpacks the next archive (plain, or compressed as `decompress` can tell), which errors call `name`.
    pub fn layer(&mut self, source: &mut dyn Source, name: &[u8]) -> Result<()> {
        name.clone_into(&mut self.name);
        self.parent = None;
        self.made = BTreeMap::new();
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
        let place = Place {
            parent: parent.1.as_fd(),
            name,
        };
        match meaning {
            Name::Whiteout(name) => {
                self.remember(above)?;
                return self.hide(above, &Place { name, ..place });
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
            format!("needs {bytes} bytes, only {left} free in {name}")
        })?;
        self.left = left;
        Ok(())
    }

    /// Takes the directory `path` out of the cache, or looks it up; it is made if the archive has not done so.
    fn parent(&mut self, path: &[u8]) -> Outcome<(Vec<u8>, OwnedFd)> {
        match self.parent.take() {
            Some(parent) if parent.0 == path => Ok(parent),
            _ => {
                let make =
                    || resolve::make_dir(self.root.as_fd(), path, Mode::from_raw_mode(0o755));
                let made = match make() {
                    Err(Errno::NOTDIR) if self.opaque_name().is_some() => {
                        self.unhide(path).and_then(|()| make())
                    }
                    result => result,
                };
                made.map(|fd| (path.to_owned(), fd))
                    .map_err(because("parent directory"))
            }
        }
    }

    /// In an overlay, the attribute of a directory that does not show those below.
    fn opaque_name(&self) -> Option<&'static str> {
        match self.options.whiteouts {
            Whiteouts::Overlay { userxattr: true } => Some("user.overlay.opaque"),
            Whiteouts::Overlay { userxattr: false } => Some("trusted.overlay.opaque"),
            _ => None,
        }
    }

    fn set_opaque(&self, directory: &OwnedFd) -> rustix::io::Result<()> {
        self.opaque_name().map_or(Ok(()), |name| {
            fsetxattr(directory, name, b"y", XattrFlags::empty())
        })
    }

    /// Puts opaque directories in place of the whiteouts that earlier layers have left in `path`.
    fn unhide(&self, path: &[u8]) -> rustix::io::Result<()> {
        for path in prefixes(path) {
            let (above, name) = split(path);
            let parent = resolve::open(self.root.as_fd(), above, OFlags::PATH | OFlags::DIRECTORY)?;
            let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                unlinkat(&parent, name, AtFlags::empty())?;
                resolve::make_dir(parent.as_fd(), name, Mode::from_raw_mode(0o755))?;
                self.set_opaque(&openat(&parent, name, DIRECTORY, Mode::empty())?)?;
                return Ok(());
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
            self.made.insert(path.to_owned(), false);
            path = split(path).0;
        }
        Ok(())
    }

    /// A whiteout: removes what lower layers have put at `place`, in the directory `above`.
    fn hide(&mut self, above: &[u8], place: &Place) -> Outcome<()> {
        let path = join(above, place.name);
        if self.made.contains_key(&path) {
            // This layer has it as well: of a directory, only what this layer has put there stays.
            return self.opaque(&path);
        }
        remove_tree(place.parent, place.name).map_err(because("whiteout"))?;
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
            if self.made.insert(here.clone(), true) == Some(true) {
                continue;
            }
            let directory = match resolve::open(self.root.as_fd(), &here, DIRECTORY) {
                Err(Errno::NOTDIR | Errno::LOOP) => continue,
                result => result.map_err(because("whiteout"))?,
            };
            for_each_entry(directory.as_fd(), |name| {
                let inner = join(&here, name);
                match self.made.contains_key(&inner) {
                    true => todo.push(inner),
                    false => remove_tree(directory.as_fd(), name)?,
                }
                Ok(())
            })
            .map_err(because("whiteout"))?;
            if here == path {
                self.set_opaque(&directory).map_err(because("setxattr"))?;
            }
        }
        Ok(())
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
        if replaced {
            // What was there hid the directories below; this one still does.
            self.set_opaque(&directory).map_err(because("setxattr"))?;
        }
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

    fn file(&mut self, member: &Member, place: &Place, reader: &mut Reader<'_>) -> Outcome<bool> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = || openat(place.parent, place.name, flags, Mode::RUSR | Mode::WUSR);
        let (file, replaced) = place.make(open).map_err(because("open"))?;
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
        futimens(&file, &times(member)).map_err(because("utimensat"))?;
        Ok(replaced)
    }

    fn hard_link(&mut self, member: &Member, place: &Place) -> Outcome<bool> {
        let target = clean(&member.link, "link target")?;
        let failed = |errno| error!("link to {}: {}", show(&target), reason(errno));
        let (above, name) = split(&target);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = resolve::open(self.root.as_fd(), above, flags).map_err(failed)?;
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
            return Err("its device number is out of range".into());
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
                return Err(error!("chown to {uid}:{gid}: {}", reason(errno)));
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
            false => Err(error!(
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
            let fd = match resolve::open(self.root.as_fd(), &directory.path, DIRECTORY) {
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
                    parent: fd.as_fd(),
                    name: &directory.path,
                };
                self.xattr(&place, Some(fd.as_fd()), DEFAULT.as_bytes(), list)?;
            }
            if !directory.mode.contains(Mode::RWXU) && !directory.path.is_empty() {
                fchmod(&fd, directory.mode).map_err(at)?;
            }
            futimens(&fd, &directory.times).map_err(at)?;
        }
        fchmod(&self.root, self.root_mode).map_err(because("chmod of the root"))
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

fn because(operation: &str) -> impl Fn(Errno) -> Error {
    move |errno| format!("{operation}: {}", reason(errno)).into()
}
