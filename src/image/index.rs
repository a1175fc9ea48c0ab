//! Writes a file system of metadata only, whose files' data are in tars: a container starts from a tar that is not unpacked.
//!
//! Mechanism: EROFS with extra devices (Linux 5.16; files as devices 6.12). Entry: `index`. Read it, then `image` and what it calls.
//! Format: linux/fs/erofs/erofs_fs.h. Numbers are little-endian. Blocks have 512 bytes, since that is how the data
//! in a tar are aligned; one address space of blocks holds the image and, after it, one tar file after the other:
//!
//! ```text
//! byte 0     zeros
//! 1024       superblock: magic, block size, root's number, where the device table is
//! 1152       device table: for each tar file, 128 bytes: number of blocks @64, address of the first @68
//! then       inodes, the root first; the number of an inode is its byte / 32
//!              64 bytes:   format, mode, size, address of the data or device number, owner, time, links
//!              attributes: 12 bytes of header; then name's length, prefix and value's length, name, value; each
//!                          padded to 4 bytes
//!              the target of a symlink, if it does not cross a block boundary
//! then       blocks of directories: as many {inode, offset of the name in the block, type} as fit with their
//!              names, then the names; in bytewise order, with "." and ".."
//!            blocks of long symlinks' targets
//! the end    the blocks of the first tar file; of the second; …
//! ```
//!
//! Invariants: the same tars give the same bytes. No block address is beyond 32 bits, and none of a file beyond what the
//! tar has. Memory is bounded by that of the `tree` (an image has 64 bytes for a node and what was charged there).
//!
//! Left out: a checksum of the superblock (it is optional, and what it would protect is not checked either), short
//! inodes, shared attributes, directories inside their inodes; UUID and label are zero.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::reader::{Reader, Section, Whiteouts};
use super::tar::{BLOCK, Kind};
use super::tree::{Content, Node, Tree, Xattr};
use crate::error::{Error, Result, error, quote};

const MAGIC: u32 = 0xe0f5_e1e2;
const SUPERBLOCK: usize = 1024;
const DEVICES: usize = 1152;
/// Bytes of an entry in the device table.
const SLOT: usize = 128;
const INODE: usize = 64;
/// Inodes begin at multiples of this.
const UNIT: usize = 32;
/// The layouts of data: in blocks of their own, or right after the inode.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;

/// What was made.
#[derive(Debug)]
pub struct Indexed {
    pub members: u64,
    pub nodes: u64,
    /// Bytes of the image.
    pub size: u64,
}

/// Writes to the empty file `out` an image of the tree that these plain tars make, the lowest first; each has a name
/// for errors. It is mounted with the distinct files of the tars as devices, in the order of `devices`. The inner
/// error is one line that says why this cannot be: unpacking can, or knows what is wrong.
pub fn index(
    tars: &[(Vec<u8>, Section)],
    whiteouts: Whiteouts,
    out: &File,
) -> Result<Result<Indexed>> {
    let mut tree = Tree::new(whiteouts);
    for (name, section) in tars {
        let file = section.file.try_clone();
        let section = Section {
            file: file.map_err(|error| Error::io("dup", name, error))?,
            ..*section
        };
        let start = section.offset;
        if let Err(reason) = tree.add(&mut Reader::headers(section, whiteouts), start) {
            // As unpacking would say it.
            return match tree.refused {
                true => Ok(Err(error!("index({}): {reason}", quote(name)))),
                false => Err(error!("unpack({}): {reason}", quote(name))),
            };
        }
    }
    let Some((image, nodes)) = image(&tree, &devices(tars)?) else {
        return Ok(Err("index: it is larger than 2 TiB".into()));
    };
    out.write_all_at(&image, 0)
        .map_err(|error| Error::io("write", "index", error))?;
    Ok(Ok(Indexed {
        members: tree.members,
        nodes,
        size: image.len() as u64,
    }))
}

/// For each tar the number of its device, from 0: the distinct files in the order in which they first appear.
pub fn devices(tars: &[(Vec<u8>, Section)]) -> Result<Vec<usize>> {
    let (mut found, mut numbers) = (Vec::new(), Vec::new());
    for (name, section) in tars {
        let meta = section.file.metadata();
        let meta = meta.map_err(|error| Error::io("stat", name, error))?;
        let id = (meta.dev(), meta.ino());
        let known = found.iter().position(|other| *other == id);
        numbers.push(known.unwrap_or(found.len()));
        if known.is_none() {
            found.push(id);
        }
    }
    Ok(numbers)
}

/// Where a node comes to be.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The byte at which the inode begins.
    inode: usize,
    links: u32,
    /// The directory it was found in first: the only one, if it is a directory.
    parent: usize,
    /// Of its data.
    layout: u16,
    size: u64,
    /// The first block of the data, or the device number.
    address: u32,
}

/// The image of a tree whose tars are on these devices, and the number of nodes in it. None if there are more blocks
/// than can be numbered.
pub fn image(tree: &Tree, devices: &[usize]) -> Option<(Vec<u8>, u64)> {
    let slots = devices.iter().max().map_or(0, |last| last + 1);
    let (order, mut places) = reachable(tree);
    let mut end = DEVICES + slots * SLOT;
    for &node in &order {
        end = place(&tree.nodes[node], end, &mut places[node]);
    }
    let mut image = vec![0; end.next_multiple_of(BLOCK)];
    for &node in &order {
        write_blocks(tree, node, &mut places, &mut image)?;
    }
    let mut ends = vec![0; slots];
    for &node in &order {
        if let Content::File { tar, offset, size } = tree.nodes[node].content {
            let end = &mut ends[devices[tar]];
            *end = (offset / BLOCK as u64 + size.div_ceil(BLOCK as u64)).max(*end);
        }
    }
    let mut address = (image.len() / BLOCK) as u64;
    let mut first = Vec::new();
    for (slot, &blocks) in ends.iter().enumerate() {
        let at = DEVICES + slot * SLOT + 64;
        let numbers = [u32::try_from(blocks).ok()?, u32::try_from(address).ok()?];
        put(&mut image, at, numbers.map(u32::to_le_bytes).as_flattened());
        first.push(address);
        address += blocks;
    }
    u32::try_from(address).ok()?;
    for (number, &node) in order.iter().enumerate() {
        let place = &mut places[node];
        if let Content::File { tar, offset, .. } = tree.nodes[node].content {
            place.address = (first[devices[tar]] + offset / BLOCK as u64) as u32;
        }
        let inode = inode(&tree.nodes[node], place, number);
        put(&mut image, place.inode, &inode);
    }
    let superblock = superblock(&image, places[0].inode, order.len(), slots)?;
    put(&mut image, SUPERBLOCK, &superblock);
    Some((image, order.len() as u64))
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The nodes that entries lead to, the root first; and for each node its links and parent.
fn reachable(tree: &Tree) -> (Vec<usize>, Vec<Place>) {
    let mut order = vec![0];
    let mut places = vec![Place::default(); tree.nodes.len()];
    // Its own "." and "..", since it has no parent.
    places[0].links = 2;
    let mut next = 0;
    while let Some(&parent) = order.get(next) {
        next += 1;
        for (_, node) in tree.list(parent) {
            let place = &mut places[node];
            if place.links == 0 {
                place.parent = parent;
                order.push(node);
            }
            place.links += 1;
            if let Content::Directory(_) = tree.nodes[node].content {
                place.links += 1; // its "."
                places[parent].links += 1; // its ".."
            }
        }
    }
    (order, places)
}

/// Gives a node the first place that is free, or one after it; returns the next one that is free.
fn place(node: &Node, free: usize, place: &mut Place) -> usize {
    let head = INODE + attributes_size(node);
    place.inode = free;
    let mut tail = 0;
    if let Content::Symlink(target) = &node.content
        && target.len() <= BLOCK - UNIT
    {
        tail = target.len();
        place.layout = INLINE;
        while (place.inode + head) % BLOCK + tail > BLOCK {
            place.inode += UNIT;
        }
    }
    (place.inode + head + tail).next_multiple_of(UNIT)
}

fn attributes_size(node: &Node) -> usize {
    match node.xattrs.iter().map(Xattr::size).sum::<usize>() {
        0 => 0,
        size => 12 + size,
    }
}

/// Appends the blocks that a node needs in the image. None if there are too many.
fn write_blocks(tree: &Tree, node: usize, places: &mut [Place], image: &mut Vec<u8>) -> Option<()> {
    let first = image.len();
    let size = match &tree.nodes[node].content {
        Content::Directory(_) => {
            let mut entries = tree.list(node);
            for entry in [(&b"."[..], node), (b"..", places[node].parent)] {
                let at = entries.partition_point(|other| other.0 < entry.0);
                entries.insert(at, entry);
            }
            directory(tree, &entries, places, image)
        }
        Content::Symlink(target) => {
            if places[node].layout == PLAIN {
                image.extend(target);
            }
            target.len()
        }
        Content::File { size, .. } => {
            places[node].size = *size;
            return Some(());
        }
        Content::Special { rdev, .. } => {
            places[node].address = *rdev;
            return Some(());
        }
    };
    image.resize(image.len().next_multiple_of(BLOCK), 0);
    places[node].size = size as u64;
    places[node].address = u32::try_from(first / BLOCK).ok()?;
    Some(())
}

/// Appends the blocks of a directory, the last one without its padding; returns their size.
fn directory(
    tree: &Tree,
    entries: &[(&[u8], usize)],
    places: &[Place],
    image: &mut Vec<u8>,
) -> usize {
    const ENTRY: usize = 12;
    let first = image.len();
    let mut rest = entries;
    while !rest.is_empty() {
        image.resize(image.len().next_multiple_of(BLOCK), 0);
        let mut used = 0;
        let fits = rest.iter().take_while(|(name, _)| {
            used += ENTRY + name.len();
            used <= BLOCK
        });
        let (block, later) = rest.split_at(fits.count());
        let mut offset = block.len() * ENTRY;
        for &(name, node) in block {
            let mut entry = [0; ENTRY];
            put(
                &mut entry,
                0,
                &((places[node].inode / UNIT) as u64).to_le_bytes(),
            );
            put(&mut entry, 8, &(offset as u16).to_le_bytes());
            entry[10] = file_type(&tree.nodes[node]).0;
            image.extend_from_slice(&entry);
            offset += name.len();
        }
        for (name, _) in block {
            image.extend_from_slice(name);
        }
        rest = later;
    }
    image.len() - first
}

/// The type in a directory (linux/fs_types.h) and in a mode (inode(7)).
fn file_type(node: &Node) -> (u8, u16) {
    match node.content {
        Content::File { .. } => (1, 0o100_000),
        Content::Directory(_) => (2, 0o040_000),
        Content::Special {
            kind: Kind::Character,
            ..
        } => (3, 0o020_000),
        Content::Special {
            kind: Kind::Block, ..
        } => (4, 0o060_000),
        Content::Special { .. } => (5, 0o010_000),
        Content::Symlink(_) => (7, 0o120_000),
    }
}

/// An inode with its attributes and, if it is inline, the target of a symlink.
fn inode(node: &Node, place: &Place, number: usize) -> Vec<u8> {
    let attributes = attributes_size(node);
    // The header counts as one.
    let count = attributes.saturating_sub(12) / 4 + usize::from(attributes > 0);
    let mode = match &node.content {
        Content::Symlink(_) => 0o777,
        _ => node.mode as u16,
    };
    let mut head = [0; INODE];
    put(&mut head, 0, &(1 | place.layout << 1).to_le_bytes()); // 1: the form of 64 bytes
    put(&mut head, 2, &(count as u16).to_le_bytes());
    put(&mut head, 4, &(file_type(node).1 | mode).to_le_bytes());
    put(&mut head, 8, &place.size.to_le_bytes());
    put(&mut head, 16, &place.address.to_le_bytes());
    put(&mut head, 20, &(number as u32 + 1).to_le_bytes());
    put(&mut head, 24, &node.uid.to_le_bytes());
    put(&mut head, 28, &node.gid.to_le_bytes());
    put(&mut head, 32, &node.mtime.0.to_le_bytes());
    put(&mut head, 40, &node.mtime.1.to_le_bytes());
    put(&mut head, 44, &place.links.to_le_bytes());
    let mut inode = head.to_vec();
    if attributes > 0 {
        inode.resize(INODE + 12, 0);
    }
    for xattr in &node.xattrs {
        let [low, high] = (xattr.value.len() as u16).to_le_bytes();
        inode.extend_from_slice(&[xattr.name.len() as u8, xattr.prefix, low, high]);
        inode.extend(&xattr.name);
        inode.extend(&xattr.value);
        inode.resize(inode.len().next_multiple_of(4), 0);
    }
    if let Content::Symlink(target) = &node.content
        && place.layout == INLINE
    {
        inode.extend(target);
    }
    inode
}

/// None if there are too many devices for the root's number, which has 16 bits.
fn superblock(image: &[u8], root: usize, inodes: usize, devices: usize) -> Option<[u8; 128]> {
    let mut block = [0; 128];
    put(&mut block, 0, &MAGIC.to_le_bytes());
    block[12] = BLOCK.ilog2() as u8;
    let root = u16::try_from(root / UNIT).ok()?;
    put(&mut block, 14, &root.to_le_bytes());
    put(&mut block, 16, &(inodes as u64).to_le_bytes());
    let blocks = u32::try_from(image.len() / BLOCK).ok()?;
    put(&mut block, 36, &blocks.to_le_bytes());
    block[80] = 8; // EROFS_FEATURE_INCOMPAT_DEVICE_TABLE
    put(&mut block, 86, &u16::try_from(devices).ok()?.to_le_bytes());
    put(&mut block, 88, &((DEVICES / SLOT) as u16).to_le_bytes());
    Some(block)
}
