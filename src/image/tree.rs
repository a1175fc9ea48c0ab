//! The file tree that one or several tars make, in memory and without their data: what `unpack` would write, node by
//! node, and from where in which tar each file's data come.
//!
//! Read `Tree::add`, `Tree::member`, then the kinds, then `hide` and `opaque`.
//!
//! Invariants:
//! - The rules are those of `unpack`: the last of several members of one name wins, directories are merged, hard links
//!   share a node; and so are the reasons why an archive is refused.
//! - What only unpacking can do ends with `Tree::refused` set, rather than in another tree than unpacking would make.
//! - Node 0 is the root. An entry leads to a node that exists, and a directory has one entry only; so there are no
//!   cycles. Nodes that no entry leads to any more stay in the list, and so do names that have been removed.
//! - Memory is bounded: every node is charged against [`MEMORY`].
//! - Nothing depends on the machine or the time: a directory that is only implied is root's, 0755, and as old as the
//!   member below it that first implied it.
//!
//! Left out: paths through a symlink; holes. A directory that a layer both removes and implies without having it as a
//! member keeps the attributes of the lower layer's if the whiteout comes after what implies it.

use rustix::io::Errno;

use super::reader::{HIDES_ALL, Name, Outcome, Reader, Whiteouts, clean, show, split};
use super::tar::{BLOCK, Kind, Member};
use super::{Names, acl};
use crate::error::{error, quote, reason};

/// Bytes of memory for nodes: about a million. Without a limit, an archive of nothing but headers takes as much.
const MEMORY: usize = 256 << 20;
/// What a name costs in a directory, beside its bytes: a share of a node of the map, and the allocator's.
const ENTRY: usize = 112;

/// limits.h, with the NUL.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// The attributes EROFS can hold, and how it numbers the beginnings of their names (erofs_fs.h: EROFS_XATTR_INDEX_*).
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", USER),
    (b"system.posix_acl_access", ACCESS),
    (b"system.posix_acl_default", DEFAULT),
    (b"trusted.", TRUSTED),
    (b"security.", 6),
];
const USER: u8 = 1;
const ACCESS: u8 = 2;
const DEFAULT: u8 = 3;
const TRUSTED: u8 = 4;
/// What makes a directory opaque in an overlay, without its prefix.
const OPAQUE: &[u8] = b"overlay.opaque";

pub struct Tree {
    /// The first is the root.
    pub nodes: Vec<Node>,
    entries: Vec<Entry>,
    pub members: u64,
    /// After an error: that it is no fault of the archive; unpacking can do it, or knows what is wrong.
    pub refused: bool,
    whiteouts: Whiteouts,
    /// The number of the layer that is being added, from 1.
    layer: u32,
    /// Bytes that may still be used.
    memory: usize,
}

pub struct Node {
    pub content: Content,
    /// The permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and the nanoseconds after that second (also before 1970).
    pub mtime: (i64, u32),
    pub xattrs: Vec<Xattr>,
    /// The layer to which everything in this directory belongs, if it is only one; 0 if not.
    only: u32,
}

pub enum Content {
    /// The numbers of its entries.
    Directory(Names),
    /// `size` bytes, `offset` bytes after the beginning of the tar's file; the tars are numbered from 0.
    File {
        tar: usize,
        offset: u64,
        size: u64,
    },
    Symlink(Vec<u8>),
    /// A device or FIFO. `rdev` as new_encode_dev() of linux/kdev_t.h has it.
    Special {
        kind: Kind,
        rdev: u32,
    },
}

struct Entry {
    /// None if it was removed.
    node: Option<usize>,
    /// The last layer that has it, or something in it; 0 for a whiteout.
    layer: u32,
}

pub struct Xattr {
    /// The beginning of the name, as a number of EROFS.
    pub prefix: u8,
    /// The rest of the name.
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

impl Tree {
    pub fn new(whiteouts: Whiteouts) -> Tree {
        Tree {
            nodes: vec![Node::implied((0, 0))],
            entries: Vec::new(),
            members: 0,
            refused: false,
            whiteouts,
            layer: 0,
            memory: MEMORY,
        }
    }

    /// Adds the next tar, which begins `start` bytes after the beginning of its file.
    pub fn add(&mut self, reader: &mut Reader<'_>, start: u64) -> Outcome<()> {
        self.layer += 1;
        if !start.is_multiple_of(BLOCK as u64) {
            return self.refuse("it does not begin at a multiple of 512 bytes");
        }
        self.members += reader.members(&mut |reader, member| {
            self.member(member, start + reader.offset)?;
            match member.kind {
                Kind::File => reader.skip_data(member.stored),
                _ => Ok(()),
            }
        })?;
        Ok(())
    }

    fn refuse<T>(&mut self, reason: &str) -> Outcome<T> {
        self.refused = true;
        Err(reason.into())
    }

    fn charge(&mut self, bytes: usize) -> Outcome<()> {
        let Some(left) = self.memory.checked_sub(bytes) else {
            return self.refuse("more files than fit in memory");
        };
        self.memory = left;
        Ok(())
    }

    fn member(&mut self, member: &mut Member, data: u64) -> Outcome<()> {
        let path = clean(&member.path, "name")?;
        let meaning = Name::of(&path, self.whiteouts)?;
        if meaning == Name::Metadata {
            return Ok(());
        }
        let long = |name: &[u8]| name.len() > NAME_MAX;
        if path.len() >= PATH_MAX || path.split(|&byte| byte == b'/').any(long) {
            return self.refuse("its name is too long");
        }
        let (above, name) = split(&path);
        let parent = self.parent(above, member.mtime)?;
        match meaning {
            Name::Whiteout(name) => return self.hide(above, parent, name),
            Name::Opaque if parent == 0 && self.is_overlay() => return Err(HIDES_ALL.into()),
            Name::Opaque => return self.opaque(parent),
            Name::Ordinary | Name::Metadata => {}
        }
        match member.kind {
            Kind::Directory if path.is_empty() => self.attributes(0, member),
            Kind::Directory => {
                let node = self.directory(parent, name, member.mtime, true)?;
                self.attributes(node, member)
            }
            _ if path.is_empty() => Err("it would replace the root".into()),
            Kind::HardLink => self.hard_link(parent, name, &member.link),
            _ => {
                let content = self.content(member, data)?;
                let node = self.make(parent, name, content, self.layer)?;
                self.attributes(node, member)
            }
        }
    }

    /// The directory `path`, which is made if no member has done so.
    fn parent(&mut self, path: &[u8], mtime: (i64, u32)) -> Outcome<usize> {
        let mut here = 0;
        for name in path.split(|&byte| byte == b'/').filter(|n| !n.is_empty()) {
            here = self.directory(here, name, mtime, false)?;
        }
        Ok(here)
    }

    fn is_overlay(&self) -> bool {
        matches!(self.whiteouts, Whiteouts::Overlay { .. })
    }

    fn entry(&self, directory: usize, name: &[u8]) -> Option<usize> {
        match &self.nodes[directory].content {
            Content::Directory(names) => names.get(name).copied(),
            _ => None,
        }
    }

    fn find(&self, directory: usize, name: &[u8]) -> Option<usize> {
        self.entries[self.entry(directory, name)?].node
    }

    /// Names and nodes in a directory, in the order of the names; none if it is something else.
    pub fn list(&self, directory: usize) -> Vec<(&[u8], usize)> {
        let mut list = Vec::new();
        if let Content::Directory(names) = &self.nodes[directory].content {
            for (name, &entry) in names {
                if let Some(node) = self.entries[entry].node {
                    list.push((&name[..], node));
                }
            }
        }
        list
    }

    /// Gives `name` to a node; whatever had it loses it.
    fn enter(&mut self, directory: usize, name: &[u8], node: usize, layer: u32) -> Outcome<()> {
        let node = Some(node);
        if let Some(entry) = self.entry(directory, name) {
            self.entries[entry] = Entry { node, layer };
            return Ok(());
        }
        self.charge(ENTRY + name.len())?;
        if let Content::Directory(names) = &mut self.nodes[directory].content {
            names.insert(name.to_vec(), self.entries.len());
            self.entries.push(Entry { node, layer });
        }
        Ok(())
    }

    fn make(&mut self, directory: usize, name: &[u8], node: Node, layer: u32) -> Outcome<usize> {
        self.charge(size_of::<Node>())?;
        self.nodes.push(node);
        let number = self.nodes.len() - 1;
        self.enter(directory, name, number, layer)?;
        Ok(number)
    }

    /// The directory `name`: the one that is there, or a new one; if `replace`, in place of whatever is there.
    fn directory(
        &mut self,
        parent: usize,
        name: &[u8],
        mtime: (i64, u32),
        replace: bool,
    ) -> Outcome<usize> {
        let entry = self.entry(parent, name);
        let found = entry.and_then(|entry| self.entries[entry].node);
        if let (Some(entry), Some(node)) = (entry, found) {
            match &self.nodes[node].content {
                Content::Directory(_) => {
                    self.entries[entry].layer = self.layer;
                    return Ok(node);
                }
                _ if replace => {}
                Content::Symlink(_) => return self.refuse("a symlink is in its path"),
                // Of an earlier layer, and overridden by this one.
                Content::Special { kind, rdev: 0 }
                    if *kind == Kind::Character && self.is_overlay() => {}
                _ => return Err(error!("parent directory: {}", reason(Errno::NOTDIR))),
            }
        }
        let node = self.make(parent, name, Node::implied(mtime), self.layer)?;
        self.nodes[node].only = self.layer;
        match found {
            // What was there hid the directories below; this one still does.
            Some(_) => self.opaque(node).map(|()| node),
            None => Ok(node),
        }
    }

    /// A new node but for its attributes.
    fn content(&mut self, member: &mut Member, data: u64) -> Outcome<Node> {
        let content = match member.kind {
            Kind::File if member.sparse.is_some() => return self.refuse("it has holes"),
            Kind::File => Content::File {
                tar: self.layer as usize - 1,
                offset: data,
                size: member.size,
            },
            Kind::Symlink if member.link.is_empty() || member.link.len() >= PATH_MAX => {
                return self.refuse("the length of its target");
            }
            Kind::Symlink => {
                self.charge(member.link.len())?;
                Content::Symlink(std::mem::take(&mut member.link))
            }
            // linux/kdev_t.h: more would be cut off silently.
            _ if member.major >= 1 << 12 || member.minor >= 1 << 20 => {
                return Err("its device number is out of range".into());
            }
            kind => Content::Special {
                kind,
                rdev: member.minor & 0xff | member.major << 8 | (member.minor & !0xff) << 12,
            },
        };
        Ok(Node {
            content,
            ..Node::implied((0, 0))
        })
    }

    fn hard_link(&mut self, parent: usize, name: &[u8], link: &[u8]) -> Outcome<()> {
        let target = clean(link, "link target")?;
        let failed = |errno| Err(error!("link to {}: {}", show(&target), reason(errno)));
        let found = self.lookup(&target)?;
        // Not if it is linked already, or to itself. What is in the way may be a directory with the target in it.
        if found != self.find(parent, name) {
            self.remove(parent, name);
        }
        let Some(node) = self.lookup(&target)? else {
            return failed(Errno::NOENT);
        };
        if let Content::Directory(_) = self.nodes[node].content
            && found != self.find(parent, name)
        {
            return failed(Errno::PERM);
        }
        self.enter(parent, name, node, self.layer)
    }

    /// What a hard link means by `path`.
    fn lookup(&mut self, path: &[u8]) -> Outcome<Option<usize>> {
        let mut here = Some(0);
        for name in path.split(|&byte| byte == b'/').filter(|n| !n.is_empty()) {
            let Some(node) = here else { break };
            if let Content::Symlink(_) = self.nodes[node].content {
                return self.refuse("a symlink is in the path of its link target");
            }
            here = self.find(node, name);
        }
        Ok(here)
    }

    fn remove(&mut self, directory: usize, name: &[u8]) {
        if let Some(entry) = self.entry(directory, name) {
            self.entries[entry].node = None;
        }
    }

    /// A whiteout: removes what lower layers have put at `name` in `directory`, which has the path `above`.
    fn hide(&mut self, above: &[u8], directory: usize, name: &[u8]) -> Outcome<()> {
        let entry = self.entry(directory, name);
        match entry.map(|entry| &self.entries[entry]) {
            // This layer has it as well: of a directory, only what this layer has put there stays.
            Some(&Entry {
                node: Some(node),
                layer,
            }) if layer == self.layer => {
                if let Content::Directory(_) = self.nodes[node].content {
                    self.opaque(node)?;
                }
                return Ok(());
            }
            _ => {}
        }
        if self.shows_below(above) {
            let (kind, rdev) = (Kind::Character, 0);
            let mut whiteout = Node::implied((0, 0));
            whiteout.content = Content::Special { kind, rdev };
            whiteout.mode = 0;
            self.make(directory, name, whiteout, 0)?;
        } else {
            self.remove(directory, name);
        }
        Ok(())
    }

    /// Whether an overlay shows what is below in the directory `path`. Where it does not, it would list whiteouts.
    fn shows_below(&self, path: &[u8]) -> bool {
        let mut here = Some(0);
        let mut shows = self.is_overlay();
        for name in path.split(|&byte| byte == b'/') {
            here = here.and_then(|node| self.find(node, name));
            let opaque = |node: usize| self.nodes[node].xattrs.iter().any(|x| x.name == OPAQUE);
            shows &= !here.is_some_and(opaque);
        }
        shows
    }

    /// Removes everything lower layers have put in the directory. Looks at each directory once in a layer.
    fn opaque(&mut self, directory: usize) -> Outcome<()> {
        let layer = self.layer;
        let mut todo = vec![directory];
        while let Some(node) = todo.pop() {
            let node = &mut self.nodes[node];
            if let Content::Directory(names) = &node.content
                && node.only != layer
            {
                node.only = layer;
                for &entry in names.values() {
                    let entry = &mut self.entries[entry];
                    entry.node = entry.node.filter(|_| entry.layer == layer);
                    todo.extend(entry.node);
                }
            }
        }
        let prefix = match self.whiteouts {
            Whiteouts::Overlay { userxattr: true } => USER,
            Whiteouts::Overlay { userxattr: false } => TRUSTED,
            _ => return Ok(()),
        };
        self.set_xattr(directory, prefix, OPAQUE, b"y".into())
    }

    fn attributes(&mut self, node: usize, member: &mut Member) -> Outcome<()> {
        let found = &mut self.nodes[node];
        (found.mode, found.mtime) = (member.mode, member.mtime);
        (found.uid, found.gid) = (member.uid, member.gid);
        // A directory may have had one; it is like the mode and not added to.
        found.xattrs.retain(|xattr| xattr.prefix != ACCESS);
        for (name, value) in std::mem::take(&mut member.xattrs) {
            let mut prefixes = PREFIXES.iter();
            let found = prefixes.find(|(start, _)| name.starts_with(start));
            let (start, prefix) = *found.unwrap_or(&(b"", 0));
            let rest = &name[start.len()..];
            let is_list = matches!(prefix, ACCESS | DEFAULT);
            let list = is_list.then(|| acl::mode(&value));
            let possible = match (prefix, member.kind) {
                (0, _) => false,
                (USER, kind) => matches!(kind, Kind::File | Kind::Directory),
                (DEFAULT, kind) => kind == Kind::Directory && list != Some(None),
                (ACCESS, kind) => kind != Kind::Symlink && list == Some(Some(member.mode & 0o777)),
                _ => true,
            };
            let long = rest.len() > NAME_MAX || value.len() > usize::from(u16::MAX);
            if !possible || long || is_list != rest.is_empty() {
                return self.refuse(&format!("extended attribute {}", quote(&name)));
            }
            // The kernel does not keep a list that says no more than the mode.
            if prefix != ACCESS || value.len() > acl::MINIMAL {
                self.set_xattr(node, prefix, rest, value)?;
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, node: usize, prefix: u8, name: &[u8], value: Vec<u8>) -> Outcome<()> {
        self.charge(size_of::<Xattr>() + name.len() + value.len())?;
        let xattrs = &mut self.nodes[node].xattrs;
        xattrs.retain(|other| (other.prefix, &other.name[..]) != (prefix, name));
        let name = name.to_vec();
        xattrs.push(Xattr {
            prefix,
            name,
            value,
        });
        // The largest size an inode of EROFS can say.
        match xattrs.iter().map(Xattr::size).sum::<usize>() {
            0..=0x3fff0 => Ok(()),
            _ => self.refuse("its extended attributes are too large"),
        }
    }
}

impl Node {
    /// A directory without a member of its own.
    fn implied(mtime: (i64, u32)) -> Node {
        Node {
            content: Content::Directory(Names::new()),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: Vec::new(),
            only: 0,
        }
    }
}

impl Xattr {
    /// Bytes in an inode of EROFS.
    pub fn size(&self) -> usize {
        (4 + self.name.len() + self.value.len()).next_multiple_of(4)
    }
}
