//! A directory tree as the members of a tar: a whole root file system, or what a container changed in one.
//!
//! Mechanism: openat(2) with O_PATH and O_NOFOLLOW, statx(2) (Linux 4.11), getdents64(2), and /proc/self/fd/N, which is
//! the file opened before whatever has its name by now. The upper directory of an overlay becomes a layer of the OCI
//! image specification ("Image Layer Filesystem Changeset"): a whiteout, a device 0/0 or since Linux 6.7 a file with
//! an attribute, becomes an empty file ".wh.NAME", and an opaque directory contains ".wh..wh..opq".
//! Documentation/filesystems/overlayfs.rst. Entry: `write_tree`. Read it, then `Walk::entry`.
//!
//! Invariants:
//! - Names are in the order of their bytes in each directory, so the same tree gives the same archive.
//! - Symlinks are never followed and mount points never entered: nothing outside the tree gets into the archive.
//! - A hostile tree may be deep and wide. Only one directory is open at a time: the way up is "..", and has to lead to
//!   the directory it was. Names that wait and files with several links are charged against [`MEMORY`].
//! - The tree may change meanwhile: what has gone was not there, what grows is cut, what shrinks is an error. Who wants
//!   one moment of it stops whoever writes.
//!
//! Left out: sockets (a tar has none) and what is mounted, both counted; SELinux's labels (they are this machine's
//! policy); in a layer, an overlay's attributes. What redirect_dir and metacopy leave in an upper directory is an error:
//! it means something only with the layers below.

use std::ops::Range;

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, Statx, StatxAttributes, StatxFlags, getxattr,
    listxattr, openat, readlinkat_raw, statx,
};
use rustix::io::{Errno, read};

use super::Names;
use super::acl;
use super::tar::{Kind, Member};
use super::write::{Writer, file};
use crate::error::{Error, Result, error, quote};

/// Bytes of memory for names that wait and files with several links: about two million of them.
const MEMORY: usize = 256 << 20;

/// linux/limits.h, with the NUL at the end. Nothing could unpack what is longer.
const PATH_MAX: usize = 4096;

/// linux/limits.h: the longest value of an extended attribute, and the longest list of their names.
const XATTR_SIZE_MAX: usize = 64 * 1024;

const NO_FOLLOW: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

pub struct Options<'a> {
    /// The tree is the upper directory of an overlay, to be written as an OCI layer.
    pub layer: bool,
    /// Whether the overlay's attributes in it are `user.overlay.*`, else `trusted.overlay.*`.
    pub userxattr: bool,
    /// The owners that there may be: the first is written as 0. `0..u32::MAX` writes all as they are.
    pub ids: Range<u32>,
    /// Paths without a slash in front, of files and directories to be left out if they are empty: mount points.
    pub skip: &'a [&'a [u8]],
}

/// What was done, and what was left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub members: u64,
    pub skipped_sockets: u64,
    /// Mount points: files that are missing, directories that are empty.
    pub skipped_mounts: u64,
}

/// Adds all that is below `root` to an archive, `root` itself as "./". Errors show paths as if it were "/".
pub fn write_tree(
    root: BorrowedFd<'_>,
    writer: &mut Writer<'_>,
    options: &Options,
) -> Result<Written> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | NO_FOLLOW;
    let mut walk = Walk {
        writer,
        options,
        here: openat(root, c".", flags, Mode::empty()).map_err(failed("open", b""))?,
        path: Vec::new(),
        levels: Vec::new(),
        device: None,
        links: Names::new(),
        linked: Vec::new(),
        memory: MEMORY,
        names: vec![0; XATTR_SIZE_MAX],
        value: vec![0; XATTR_SIZE_MAX],
        written: Written::default(),
    };
    walk.entry(b".")?;
    while let Some(level) = walk.levels.last_mut() {
        walk.path.truncate(level.length);
        match level.names.pop() {
            Some(name) => {
                walk.memory += cost(&name);
                if level.length > 0 {
                    walk.path.push(b'/');
                }
                walk.path.extend(&name);
                walk.entry(&name)?;
            }
            None => walk.up()?,
        }
    }
    Ok(walk.written)
}

/// A directory on the way from the root.
struct Level {
    /// The entries still to be written, the last first.
    names: Vec<Vec<u8>>,
    id: Id,
    /// The length of its path.
    length: usize,
}

/// Major and minor number of the device, and inode.
type Id = [u8; 16];

struct Walk<'a, 'w> {
    writer: &'a mut Writer<'w>,
    options: &'a Options<'a>,
    /// The directory of the last level.
    here: OwnedFd,
    /// Of what is being written, from the root and without a slash in front.
    path: Vec<u8>,
    levels: Vec<Level>,
    /// The root's.
    device: Option<(u32, u32)>,
    /// Where files with several links were written, and which of them an [`Id`] is. (To forget one after its last link
    /// costs more code than it saves memory.)
    linked: Vec<Vec<u8>>,
    links: Names,
    /// Bytes that may still be kept in memory.
    memory: usize,
    /// For system calls to write to.
    names: Vec<u8>,
    value: Vec<u8>,
    written: Written,
}

impl Walk<'_, '_> {
    /// Writes the entry `name` of the directory. If it is a directory, its entries come next.
    fn entry(&mut self, name: &[u8]) -> Result<()> {
        if self.path.len() >= PATH_MAX {
            return Err(self.error("its path is longer than 4095 bytes"));
        }
        if self.options.layer && name.starts_with(b".wh.") {
            return Err(self.error("in a layer, this name would say that something is missing"));
        }
        let fd = match openat(&self.here, name, OFlags::PATH | NO_FOLLOW, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            result => result.map_err(failed("open", &self.path))?,
        };
        let stat = stat(&fd).map_err(failed("statx", &self.path))?;
        let Some(kind) = kind(&stat) else {
            self.written.skipped_sockets += 1;
            return Ok(());
        };
        let is_mount = self.is_mount(&stat, kind);
        self.written.skipped_mounts += u64::from(is_mount);
        let device = (stat.stx_rdev_major, stat.stx_rdev_minor);
        let empty = kind == Kind::File && stat.stx_size == 0;
        match kind {
            Kind::Directory => self.directory(&fd, &stat, is_mount),
            _ if is_mount || empty && self.options.skip.contains(&&self.path[..]) => Ok(()),
            // The kernel makes one such device and links it to all these names.
            Kind::Character if self.options.layer && device == (0, 0) => self.mark(b".wh.", name),
            _ => self.leaf(&fd, kind, &stat, name),
        }
    }

    /// Goes back to the directory above.
    fn up(&mut self) -> Result<()> {
        self.levels.pop();
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        self.path.truncate(level.length);
        let flags = OFlags::PATH | OFlags::DIRECTORY | NO_FOLLOW;
        let above = openat(&self.here, c"..", flags, Mode::empty());
        self.here = above.map_err(failed("open", &self.path))?;
        let stat = stat(&self.here).map_err(failed("statx", &self.path))?;
        match id(&stat) == level.id {
            true => Ok(()),
            false => Err(self.error("what was in it was moved while it was read")),
        }
    }

    /// Everything but link, data and extended attributes.
    fn describe(&self, kind: Kind, stat: &Statx) -> Result<Member> {
        let (uid, gid) = (stat.stx_uid, stat.stx_gid);
        let (Some(uid), Some(gid)) = (self.id(uid), self.id(gid)) else {
            let reason = format!("its owner {uid}:{gid} is none of the container's");
            return Err(self.error(&reason));
        };
        let stored = match kind {
            Kind::File => stat.stx_size,
            _ => 0,
        };
        Ok(Member {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid,
            gid,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            stored,
            size: stored,
            major: stat.stx_rdev_major,
            minor: stat.stx_rdev_minor,
            ..file(&self.path)
        })
    }

    /// The container's id for one on disk.
    fn id(&self, id: u32) -> Option<u32> {
        let ids = &self.options.ids;
        ids.contains(&id).then(|| id - ids.start)
    }

    /// Whether something is mounted here, which the kernel says since Linux 5.8; before, a directory's device does,
    /// mostly. (A file's says nothing in an overlay.) The first one asked about is the root.
    fn is_mount(&mut self, stat: &Statx, kind: Kind) -> bool {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let Some(root) = self.device else {
            self.device = Some(device);
            return false;
        };
        let here = StatxAttributes::MOUNT_ROOT;
        match stat.stx_attributes_mask.contains(here) {
            true => stat.stx_attributes.contains(here),
            false => kind == Kind::Directory && device != root,
        }
    }

    fn directory(&mut self, fd: &OwnedFd, stat: &Statx, is_mount: bool) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | NO_FOLLOW;
        let here = openat(fd, c".", flags, Mode::empty()).map_err(failed("open", &self.path))?;
        let names = match is_mount {
            true => Vec::new(),
            false => self.list(&here)?,
        };
        if names.is_empty() && self.options.skip.contains(&&self.path[..]) {
            return Ok(());
        }
        let mut member = self.describe(Kind::Directory, stat)?;
        let (is_opaque, _) = self.xattrs(fd, &mut member)?;
        if self.path.is_empty() {
            member.path.push(b'.');
        }
        member.path.push(b'/');
        self.add(&member)?;
        self.levels.push(Level {
            names,
            id: id(stat),
            length: self.path.len(),
        });
        self.here = here;
        match is_opaque {
            true => self.mark(b".wh..wh..opq", b""),
            false => Ok(()),
        }
    }

    /// The names in a directory, the last first.
    fn list(&mut self, directory: &OwnedFd) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed("readdir", &self.path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.charge(name)?;
                names.push(name.to_vec());
            }
        }
        last_first(&mut names);
        Ok(names)
    }

    /// Writes what is not a directory.
    fn leaf(&mut self, fd: &OwnedFd, kind: Kind, stat: &Statx, name: &[u8]) -> Result<()> {
        let mut member = self.describe(kind, stat)?;
        if let Some(&first) = self.links.get(&id(stat)[..]) {
            member.kind = Kind::HardLink;
            member.link.clone_from(&self.linked[first]);
            member.stored = 0;
            return self.add(&member);
        }
        let (_, is_whiteout) = self.xattrs(fd, &mut member)?;
        if is_whiteout {
            return self.mark(b".wh.", name);
        }
        if stat.stx_nlink > 1 {
            self.charge(&member.path)?;
            self.links.insert(id(stat).into(), self.linked.len());
            self.linked.push(member.path.clone());
        }
        match kind {
            Kind::File => return self.file(fd, &member),
            Kind::Symlink => {
                let size = readlinkat_raw(fd, c"", &mut self.value[..]);
                let size = size.map_err(failed("readlink", &self.path))?;
                member.link = self.value[..size].to_vec();
            }
            _ => {}
        }
        self.add(&member)
    }

    fn file(&mut self, fd: &OwnedFd, member: &Member) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let data = openat(CWD, &*proc_path(fd), flags, Mode::empty());
        let data = data.map_err(failed("open", &self.path))?;
        self.add(member)?;
        let mut read = |buffer: &mut [u8]| loop {
            match read(&data, &mut *buffer) {
                Err(Errno::INTR) => {}
                result => return result.map_err(failed("read", &self.path)),
            }
        };
        let name = shown(&self.path);
        self.writer.data(member.stored, &name, &mut read)
    }

    /// Reads the extended attributes into the member, by name; returns what an overlay means by some of them: that it is
    /// opaque, and that it is a whiteout.
    fn xattrs(&mut self, fd: &OwnedFd, member: &mut Member) -> Result<(bool, bool)> {
        let file = proc_path(fd);
        let (mut is_opaque, mut is_whiteout) = (false, false);
        let size = match listxattr(&*file, &mut self.names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            result => result.map_err(failed("listxattr", &self.path))?,
        };
        let mut names = Vec::new();
        for name in self.names[..size].split(|&byte| byte == 0) {
            names.push(name.to_vec());
        }
        last_first(&mut names);
        while let Some(name) = names.pop() {
            if name.is_empty() || name == b"security.selinux" {
                continue;
            }
            let name = &name[..];
            let size = match getxattr(&*file, name, &mut self.value[..]) {
                Err(Errno::NODATA) => continue, // gone meanwhile
                result => result.map_err(failed("getxattr", &self.path))?,
            };
            let mut value = self.value[..size].to_vec();
            // Those of the other kind mean nothing to the container's overlay, whoever set them.
            let of_overlay: &[u8] = match self.options.userxattr {
                true => b"user.overlay.",
                false => b"trusted.overlay.",
            };
            match name.strip_prefix(of_overlay) {
                Some(name) if self.options.layer => match name {
                    // "x": it has no other meaning than that there may be whiteouts with the attribute below.
                    b"opaque" => is_opaque = value == b"y",
                    b"whiteout" => {
                        is_whiteout = member.kind == Kind::File && member.stored == 0;
                    }
                    b"redirect" | b"metacopy" => {
                        return Err(self.error("it only refers to something in the layers below"));
                    }
                    _ => {}
                },
                _ => {
                    if self.map_ids(name, &mut value).is_none() {
                        return Err(self.error("an id in an attribute is none of the container's"));
                    }
                    member.xattrs.push((name.to_vec(), value));
                }
            }
        }
        Ok((is_opaque, is_whiteout))
    }

    /// Makes the ids in an attribute's value the container's; None if one is not.
    fn map_ids(&self, name: &[u8], value: &mut Vec<u8>) -> Option<()> {
        if name.starts_with(b"system.posix_acl_") {
            return acl::map_ids(value, |id| self.id(id));
        }
        // linux/capability.h: since Linux 4.14, revision 3 names at its end the root of the user namespace in which
        // the capabilities count. Inside, that is revision 2.
        if name == b"security.capability"
            && let [_, _, _, revision @ 3, .., a, b, c, d] = &mut value[..]
        {
            let root = self.id(u32::from_le_bytes([*a, *b, *c, *d]))?;
            [*a, *b, *c, *d] = root.to_le_bytes();
            if root == 0 {
                *revision = 2;
                value.truncate(value.len() - 4);
            }
        }
        Some(())
    }

    /// Writes a whiteout or what makes the directory opaque: an empty file with this name.
    fn mark(&mut self, prefix: &[u8], name: &[u8]) -> Result<()> {
        let directory = self.levels.last().map_or(0, |level| level.length);
        let mut path = self.path[..directory].to_vec();
        if directory > 0 {
            path.push(b'/');
        }
        self.add(&file(&[&path, prefix, name].concat()))
    }

    fn add(&mut self, member: &Member) -> Result<()> {
        self.written.members += 1;
        self.writer.member(member)
    }

    fn charge(&mut self, name: &[u8]) -> Result<()> {
        let left = self.memory.checked_sub(cost(name));
        self.memory = left.ok_or_else(|| self.error("more names than fit in memory"))?;
        Ok(())
    }

    fn error(&self, reason: &str) -> Error {
        error!("read({}): {reason}", quote(&shown(&self.path)))
    }
}

/// What a name costs to keep, with what belongs to it.
fn cost(name: &[u8]) -> usize {
    name.len() + 128
}

fn last_first(names: &mut [Vec<u8>]) {
    names.sort_unstable_by(|a, b| b.cmp(a));
}

fn kind(stat: &Statx) -> Option<Kind> {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::CharacterDevice => Some(Kind::Character),
        FileType::BlockDevice => Some(Kind::Block),
        FileType::Fifo => Some(Kind::Fifo),
        _ => None,
    }
}

fn stat(fd: &OwnedFd) -> rustix::io::Result<Statx> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

fn id(stat: &Statx) -> Id {
    let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
    (u128::from(device) << 64 | u128::from(stat.stx_ino)).to_be_bytes()
}

/// A name for what a descriptor stands for, even if that is a symlink.
fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A path as errors show it: one line that can be read.
fn shown(path: &[u8]) -> Vec<u8> {
    [b"/", &path[..path.len().min(256)]].concat()
}

fn failed<'a>(operation: &'a str, path: &'a [u8]) -> impl Fn(Errno) -> Error + 'a {
    move |errno| Error::sys(operation, &shown(path)[..], errno)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use rustix::fd::AsFd;
    use rustix::fs::{XattrFlags, chownat, mknodat, setxattr};

    use super::super::tar::{BLOCK, Item, Parser};
    use super::*;

    /// An empty directory, removed at the end.
    struct Tree(String);

    impl Tree {
        fn new(name: &str) -> Tree {
            let temporary = std::env::temp_dir();
            let temporary = temporary.to_str().unwrap();
            let path = format!("{temporary}/changes-{name}-{}", std::process::id());
            fs::create_dir(&path).unwrap();
            Tree(path)
        }

        /// What the members say, one a line: kind, name, link.
        fn list(&self, options: &Options) -> Result<String> {
            let root = openat(CWD, &*self.0, OFlags::PATH | NO_FOLLOW, Mode::empty()).unwrap();
            let mut bytes = Vec::new();
            let mut sink = |data: &[u8]| {
                bytes.extend(data);
                Ok(())
            };
            let mut writer = Writer::new(&mut sink);
            let written = write_tree(root.as_fd(), &mut writer, options)?;
            writer.end()?;
            let (mut parser, mut text, mut rest) = (Parser::default(), String::new(), &bytes[..]);
            while let Some((block, after)) = rest.split_first_chunk() {
                let size = match parser.header(block).unwrap() {
                    Item::Member(member) => {
                        let member = *member;
                        let name = String::from_utf8_lossy(&member.path);
                        let link = String::from_utf8_lossy(&member.link);
                        let owner = member.uid;
                        text += &format!("{:?} {name} {link} {owner}\n", member.kind);
                        member.stored as usize
                    }
                    Item::Extension { size } => {
                        parser.extension(&after[..size]).unwrap();
                        size
                    }
                    _ => break,
                };
                rest = &after[size.next_multiple_of(BLOCK)..];
            }
            assert_eq!(written.members, text.lines().count() as u64);
            Ok(text)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = super::super::remove::remove_tree(CWD, self.0.as_bytes());
        }
    }

    const ALL: Options = Options {
        layer: false,
        userxattr: true,
        ids: 0..u32::MAX,
        skip: &[],
    };

    #[test]
    fn an_upper_directory_becomes_a_layer() {
        let tree = Tree::new("layer");
        let at = |name: &str| format!("{}/{name}", tree.0);
        for name in ["d", "etc", "proc", "x"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["d/new", "etc/hosts", "x/gone", "first"] {
            File::create(at(name)).unwrap();
        }
        fs::hard_link(at("first"), at("d/second")).unwrap();
        let whiteout = FileType::CharacterDevice;
        mknodat(CWD, &*at("etc/passwd"), whiteout, Mode::empty(), 0).unwrap();
        for (name, attribute, value) in [
            ("d", "user.overlay.opaque", "y"),
            ("x", "user.overlay.opaque", "x"),
            ("x/gone", "user.overlay.whiteout", ""),
            ("first", "user.overlay.origin", "1"),
        ] {
            setxattr(&*at(name), attribute, value.as_bytes(), XattrFlags::CREATE).unwrap();
        }
        let layer = Options {
            layer: true,
            skip: &[b"etc/hosts", b"proc", b"etc"],
            ..ALL
        };
        let me = rustix::process::getuid().as_raw();
        let expected = format!(
            "Directory ./  {me}\nDirectory d/  {me}\nFile d/.wh..wh..opq  0\nFile d/new  {me}\n\
             File d/second  {me}\nDirectory etc/  {me}\nFile etc/.wh.passwd  0\n\
             HardLink first d/second {me}\nDirectory x/  {me}\nFile x/.wh.gone  0\n"
        );
        assert_eq!(tree.list(&layer).unwrap(), expected);
        File::create(at("d/.wh.evil")).unwrap();
        assert_eq!(
            tree.list(&layer).unwrap_err().to_string(),
            "read(\"/d/.wh.evil\"): in a layer, this name would say that something is missing"
        );
        let plain = tree.list(&ALL).unwrap();
        assert!(plain.contains("File d/.wh.evil"), "{plain}");
        assert!(plain.contains("Character etc/passwd"), "{plain}");
    }

    #[test]
    fn owners_are_those_in_the_container() {
        let tree = Tree::new("owners");
        let shifted = Options {
            ids: 100_000..165_536,
            ..ALL
        };
        let chown = |id| {
            let (uid, gid) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
            chownat(CWD, &*tree.0, Some(uid), Some(gid), AtFlags::empty()).unwrap();
        };
        chown(165_535);
        assert_eq!(tree.list(&shifted).unwrap(), "Directory ./  65535\n");
        chown(5);
        assert_eq!(
            tree.list(&shifted).unwrap_err().to_string(),
            "read(\"/\"): its owner 5:5 is none of the container's"
        );
    }

    #[test]
    fn a_tree_may_be_deeper_than_there_are_descriptors() {
        let tree = Tree::new("deep");
        let mut here = openat(CWD, &*tree.0, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..2047 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("to", &here, "e").unwrap();
            here = openat(&here, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        let list = tree.list(&ALL).unwrap();
        assert_eq!(list.lines().count(), 2 * 2047 + 1);
        assert!(list.lines().last().unwrap().starts_with("Symlink e to"));
        rustix::fs::mkdirat(&here, "dd", Mode::RWXU).unwrap();
        let error = tree.list(&ALL).unwrap_err().to_string();
        assert!(
            error.ends_with("/d/\"): its path is longer than 4095 bytes"),
            "{error}"
        );
    }
}
