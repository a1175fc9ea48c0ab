//! Reads tar: a pull parser that is handed blocks and never reads, seeks or opens anything itself.
//!
//! Format: POSIX.1-1988 "ustar", POSIX.1-2001 "pax" extended headers (both under "pax" in POSIX), and what GNU tar
//! writes (tar(5), and "Tar Internals" in GNU tar's manual): long names, base-256 numbers, four kinds of sparse files;
//! v7 and old GNU as far as they differ.
//!
//! The caller hands every header block to `Parser::header` and does what the `Item` says: hand over the next block
//! (`More`), or the data of an extension header (`Extension`), or take a complete `Member`, whose `stored` bytes follow
//! padded to a whole block. Read `Parser::header`, `finish`, `record`, then the number formats.
//!
//! Invariants: no input makes it panic, and what it keeps is bounded (`EXTENSION_LIMIT`, `MAX_EXTENTS`). A `Member`
//! is consistent: ids are valid ids, strings have no NUL, a sparse map is ascending, disjoint, inside the file and as
//! long as the stored data. Names are whatever the archive says: ".." is the business of who uses them.
//!
//! Left out: user and group names (an image's numbers are its own; this machine's passwd does not know them), atime
//! and ctime, star's `SCHILY.realsize`, base-64 numbers (GNU tar of 1999), multi-volume archives, `tar -A` (what comes
//! after the first zero block is not read).

use super::acl;

pub const BLOCK: usize = 512;

/// The largest extension header. Linux allows names of 4 KiB and values of extended attributes of 64 KiB, so a
/// mebibyte is far more than what a file can have, and little enough to be kept in memory.
pub const EXTENSION_LIMIT: u64 = 1 << 20;

/// The most extents a sparse file may have: 16 MiB of memory.
const MAX_EXTENTS: usize = 1 << 20;

/// Why a header is refused: `member` (as far as its name is known) and a clause for "member NAME: …".
#[derive(Debug, PartialEq, Eq)]
pub struct TarError {
    pub member: Vec<u8>,
    pub reason: &'static str,
}

type Parsed<T> = Result<T, &'static str>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// Everything an archive says about one member.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    pub kind: Kind,
    pub path: Vec<u8>,
    /// Target of a hard link or symlink.
    pub link: Vec<u8>,
    /// The permission bits with set-user-ID, set-group-ID and sticky; not the type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and the nanoseconds after that second (also before 1970).
    pub mtime: (i64, u32),
    /// Bytes of data that follow in the archive, before the padding to a whole block.
    pub stored: u64,
    /// Size of the file: more than `stored` if it is sparse.
    pub size: u64,
    pub major: u32,
    pub minor: u32,
    /// Names and values as setxattr(2) takes them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of each piece of the stored data, if the file is sparse.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// What the caller does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// Take the member; its data and their padding come next, then a header.
    Member(Box<Member>),
    /// Hand over the next block, too.
    More,
    /// Hand over the `size` bytes of data that come next, to `Parser::extension`; then padding, then a header.
    Extension { size: usize },
    /// The archive is complete.
    End,
}

/// What the extension headers say about the next member.
#[derive(Clone, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    acl_access: Option<Vec<u8>>,
    acl_default: Option<Vec<u8>>,
    // GNU.sparse.*
    sparse_major: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_offset: u64,
    sparse_map: Option<Vec<(u64, u64)>>,
}

/// What the next block or the next extension data is.
#[derive(Default)]
enum State {
    #[default]
    Header,
    /// The data of an extension header of this type, from the header of this name.
    Extension(u8, Vec<u8>),
    /// A block with more of an old GNU sparse map.
    OldSparse(Box<Member>),
    /// A block of the sparse map that pax format 1.0 puts before the data.
    Sparse1(Box<Member>, Decimals),
}

/// The decimal numbers of a sparse map 1.0, one a line, cut into blocks anywhere: their count, then offset and length
/// in turn.
#[derive(Default)]
struct Decimals {
    value: Option<u64>,
    left: Option<u64>,
    offset: Option<u64>,
}

#[derive(Default)]
pub struct Parser {
    state: State,
    global: Extended,
    local: Option<Extended>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Parser {
    /// Takes the next block: a header, or what `Item::More` asked for.
    pub fn header(&mut self, block: &[u8; BLOCK]) -> Result<Item, TarError> {
        match std::mem::take(&mut self.state) {
            State::OldSparse(member) => self.old_sparse(member, &block[..504], block[504] != 0),
            State::Sparse1(member, decimals) => self.sparse1(member, decimals, block),
            State::Header | State::Extension(..) => {
                if block.iter().all(|&byte| byte == 0) {
                    return Ok(Item::End);
                }
                // The name in a block with a wrong checksum is probably not a name.
                check(block).map_err(|reason| refuse(Vec::new(), reason))?;
                match block[156] {
                    b'x' | b'X' | b'g' | b'L' | b'K' | b'V' => self.extension_header(block),
                    b'M' => Err(refuse(name(block), "it is continued from another volume")),
                    _ => self.member_header(block),
                }
            }
        }
    }

    fn extension_header(&mut self, block: &[u8; BLOCK]) -> Result<Item, TarError> {
        let size = unsigned(&block[124..136]).map_err(|reason| refuse(name(block), reason))?;
        if size > EXTENSION_LIMIT {
            let reason = "its extension header is larger than 1 MiB";
            return Err(refuse(name(block), reason));
        }
        self.state = State::Extension(block[156], name(block));
        Ok(Item::Extension {
            size: size as usize,
        })
    }

    /// Takes the data of an extension header.
    pub fn extension(&mut self, data: &[u8]) -> Result<(), TarError> {
        let State::Extension(typeflag, name) = std::mem::take(&mut self.state) else {
            return Ok(());
        };
        let result = match typeflag {
            b'L' => text(c_string(data)).map(|path| self.long_path = path),
            b'K' => text(c_string(data)).map(|link| self.long_link = link),
            b'g' => records(&mut self.global, data),
            b'V' => Ok(()), // a volume label: its data, if any, are nothing to unpack
            _ => {
                let global = &self.global;
                records(self.local.get_or_insert_with(|| global.clone()), data)
            }
        };
        result.map_err(|reason| refuse(name, reason))
    }

    fn member_header(&mut self, block: &[u8; BLOCK]) -> Result<Item, TarError> {
        let local = self.local.take();
        let mut extended = local.unwrap_or_else(|| self.global.clone());
        let (long_path, long_link) = (self.long_path.take(), self.long_link.take());
        let path = extended.sparse_name.take().or(extended.path.take());
        let path = path.or(long_path).unwrap_or_else(|| name(block));
        let link = extended.link.take().or(long_link);
        let link = link.unwrap_or_else(|| c_string(&block[157..257]).to_vec());
        let sparse = (extended.sparse_major, extended.sparse_size);
        let map = extended.sparse_map.take();
        let mut member = match describe(block, &path, extended) {
            Ok(member) => Box::new(Member {
                path,
                link,
                ..member
            }),
            Err(reason) => return Err(refuse(path, reason)),
        };
        if block[156] == b'S' {
            return match unsigned(&block[483..495]) {
                Ok(size) => {
                    member.size = size;
                    self.old_sparse(member, &block[386..482], block[482] != 0)
                }
                Err(reason) => Err(refuse(member.path, reason)),
            };
        }
        match (sparse, map) {
            _ if member.kind != Kind::File => finish(member),
            ((Some(1), Some(size)), _) => {
                member.size = size;
                self.state = State::Sparse1(member, Decimals::default());
                Ok(Item::More)
            }
            ((None | Some(0), None), None) => finish(member),
            ((None | Some(0), Some(size)), map) => {
                member.size = size;
                member.sparse = Some(map.unwrap_or_default());
                finish(member)
            }
            _ => Err(refuse(member.path, "its sparse format is unknown")),
        }
    }

    /// Takes the extents in one block of an old GNU sparse map; `more` tells whether another block follows.
    fn old_sparse(
        &mut self,
        mut member: Box<Member>,
        fields: &[u8],
        more: bool,
    ) -> Result<Item, TarError> {
        let map = member.sparse.get_or_insert_default();
        if let Err(reason) = extents(map, fields) {
            return Err(refuse(member.path, reason));
        }
        if !more {
            return finish(member);
        }
        self.state = State::OldSparse(member);
        Ok(Item::More)
    }

    /// Takes one block of a sparse map 1.0, which is part of the stored data.
    fn sparse1(
        &mut self,
        mut member: Box<Member>,
        mut decimals: Decimals,
        block: &[u8],
    ) -> Result<Item, TarError> {
        let Some(stored) = member.stored.checked_sub(BLOCK as u64) else {
            return Err(refuse(
                member.path,
                "its sparse map is longer than its data",
            ));
        };
        member.stored = stored;
        match decimals.take(member.sparse.get_or_insert_default(), block) {
            Ok(true) => finish(member),
            Ok(false) => {
                self.state = State::Sparse1(member, decimals);
                Ok(Item::More)
            }
            Err(reason) => Err(refuse(member.path, reason)),
        }
    }
}

fn refuse(member: Vec<u8>, reason: &'static str) -> TarError {
    TarError { member, reason }
}

/// The member in a header block, with what the extension headers changed; without path, link and sparse map.
fn describe(block: &[u8; BLOCK], path: &[u8], extended: Extended) -> Parsed<Member> {
    let typeflag = block[156];
    let kind = match typeflag {
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        // 'D' is GNU tar's directory in an incremental dump; its data are a list of names.
        b'5' | b'D' => Kind::Directory,
        b'6' => Kind::Fifo,
        // v7 had no type for directories.
        _ if path.ends_with(b"/") => Kind::Directory,
        // POSIX: a type that is not known is treated as a regular file. '7' was "contiguous".
        _ => Kind::File,
    };
    let stored = match extended.size {
        // These have no data, whatever the size says (POSIX; GNU tar for hard links in pax format).
        _ if matches!(typeflag, b'1'..=b'6') => 0,
        Some(size) => size,
        None => unsigned(&block[124..136])?,
    };
    let (mut major, mut minor) = (0, 0);
    if matches!(kind, Kind::Character | Kind::Block) {
        const RANGE: &str = "its device number is out of range";
        major = unsigned(&block[329..337])?.try_into().or(Err(RANGE))?;
        minor = unsigned(&block[337..345])?.try_into().or(Err(RANGE))?;
    }
    Ok(Member {
        kind,
        path: Vec::new(),
        link: Vec::new(),
        mode: (number(&block[100..108])? & 0o7777) as u32,
        uid: extended
            .uid
            .map_or_else(|| id(number(&block[108..116])?), Ok)?,
        gid: extended
            .gid
            .map_or_else(|| id(number(&block[116..124])?), Ok)?,
        mtime: match extended.mtime {
            Some(time) => time,
            None => (number(&block[136..148])?, 0),
        },
        stored,
        size: stored,
        major,
        minor,
        xattrs: with_acls(extended)?,
        sparse: None,
    })
}

/// The extended attributes, and the access control lists unless they are among the attributes already: GNU tar
/// writes both forms when asked for both, and only the attribute has numbers for sure.
fn with_acls(extended: Extended) -> Parsed<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut xattrs = extended.xattrs;
    for (name, list, minimal) in [
        ("system.posix_acl_access", extended.acl_access, acl::MINIMAL),
        ("system.posix_acl_default", extended.acl_default, 0),
    ] {
        if let Some(list) = list
            && !xattrs.iter().any(|(other, _)| other == name.as_bytes())
        {
            let list = acl::from_text(&list)?;
            if list.len() > minimal {
                xattrs.push((name.into(), list));
            }
        }
    }
    Ok(xattrs)
}

/// Checks a sparse map against the sizes: whoever unpacks or maps the file relies on it.
fn finish(mut member: Box<Member>) -> Result<Item, TarError> {
    let Some(map) = &mut member.sparse else {
        return Ok(Item::Member(member));
    };
    // Writers end the map with an empty extent at the end of the file, so that its size is known.
    map.retain(|&(_, length)| length != 0);
    let (mut end, mut sum) = (0, 0);
    for &(offset, length) in map.iter() {
        let next = offset.checked_add(length);
        let next = next.filter(|&next| offset >= end && next <= member.size);
        let Some(next) = next else {
            let reason = "its sparse map overlaps or goes beyond its size";
            return Err(refuse(member.path, reason));
        };
        end = next;
        sum += length; // at most `end`, since the extents are disjoint
    }
    if sum != member.stored {
        return Err(refuse(member.path, "its sparse map does not fit its data"));
    }
    Ok(Item::Member(member))
}

/// Adds one extent to a sparse map.
fn push_extent(map: &mut Vec<(u64, u64)>, offset: u64, length: u64) -> Parsed<()> {
    if map.len() >= MAX_EXTENTS {
        return Err("its sparse map has more than 1048576 extents");
    }
    map.push((offset, length));
    Ok(())
}

/// The extents of an old GNU sparse header: 12 digits each for offset and length, until a field is empty.
fn extents(map: &mut Vec<(u64, u64)>, fields: &[u8]) -> Parsed<()> {
    for extent in fields.chunks_exact(24) {
        if extent[12] == 0 {
            break;
        }
        push_extent(map, unsigned(&extent[..12])?, unsigned(&extent[12..])?)?;
    }
    Ok(())
}

impl Decimals {
    /// Takes the numbers of one block; true when the map is complete (what is left of the block is padding).
    fn take(&mut self, map: &mut Vec<(u64, u64)>, block: &[u8]) -> Parsed<bool> {
        const MALFORMED: &str = "its sparse map is malformed";
        for &byte in block {
            if byte != b'\n' {
                let value = digit(self.value.unwrap_or(0), byte, 10);
                self.value = Some(value.ok_or(MALFORMED)?);
                continue;
            }
            let value = self.value.take().ok_or(MALFORMED)?;
            match (self.left, self.offset.take()) {
                (None, _) => self.left = Some(value),
                (Some(_), None) => self.offset = Some(value),
                (Some(left), Some(offset)) => {
                    push_extent(map, offset, value)?;
                    self.left = left.checked_sub(1);
                }
            }
            if self.left == Some(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Takes the records `LENGTH KEY=VALUE\n` of a pax header.
fn records(extended: &mut Extended, mut data: &[u8]) -> Parsed<()> {
    const MALFORMED: &str = "its pax header is malformed";
    while !data.is_empty() {
        let space = data.iter().position(|&b| b == b' ').ok_or(MALFORMED)?;
        let length = decimal(&data[..space]).ok_or(MALFORMED)?;
        let length = usize::try_from(length).or(Err(MALFORMED))?;
        let (record, rest) = data.split_at_checked(length).ok_or(MALFORMED)?;
        let record = record.get(space + 1..).ok_or(MALFORMED)?;
        let record = record.strip_suffix(b"\n").ok_or(MALFORMED)?;
        let equals = record.iter().position(|&b| b == b'=').ok_or(MALFORMED)?;
        extended.set(&record[..equals], &record[equals + 1..])?;
        data = rest;
    }
    Ok(())
}

impl Extended {
    /// Takes one record. An empty value takes back what was said before (POSIX), but is a value for an attribute.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Parsed<()> {
        const SPARSE: &str = "its sparse map is malformed";
        let number = || match value {
            b"" => Ok(None),
            _ => decimal(value)
                .map(Some)
                .ok_or("its pax header has a malformed number"),
        };
        let owner = |number: u64| id(i64::try_from(number).unwrap_or(i64::MAX));
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?.map(owner).transpose()?,
            b"gid" => self.gid = number()?.map(owner).transpose()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value).ok_or("its time is malformed")?),
            b"SCHILY.acl.access" => self.acl_access = text(value)?,
            b"SCHILY.acl.default" => self.acl_default = text(value)?,
            b"GNU.sparse.name" => self.sparse_name = text(value)?,
            b"GNU.sparse.major" => self.sparse_major = number()?,
            // The formats 0.0 and 0.1 say size, 1.0 says realsize.
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = number()?,
            // 0.0: one record for each number.
            b"GNU.sparse.offset" => self.sparse_offset = decimal(value).ok_or(SPARSE)?,
            b"GNU.sparse.numbytes" => {
                let length = decimal(value).ok_or(SPARSE)?;
                let map = self.sparse_map.get_or_insert_default();
                push_extent(map, self.sparse_offset, length)?;
            }
            // 0.1: one record for all.
            b"GNU.sparse.map" => {
                let map = self.sparse_map.insert(Vec::new());
                let mut numbers = value.split(|&byte| byte == b',');
                while let Some(offset) = numbers.next() {
                    let offset = decimal(offset).ok_or(SPARSE)?;
                    let length = numbers.next().and_then(decimal).ok_or(SPARSE)?;
                    push_extent(map, offset, length)?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(unescape(name), value)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: &[u8]) -> Parsed<()> {
        self.xattrs.retain(|(other, _)| *other != name);
        self.xattrs.push((name, value.to_vec()));
        let size: usize = self
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        // Several headers, or a global one that keeps growing.
        if size > EXTENSION_LIMIT as usize {
            return Err("its extended attributes are larger than 1 MiB");
        }
        Ok(())
    }
}

/// GNU tar writes "=" in the name of an attribute as "%3D" and "%" as "%25".
fn unescape(mut name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    while let Some((&first, rest)) = name.split_first() {
        let (byte, rest) = match rest {
            [b'3', b'D', rest @ ..] if first == b'%' => (b'=', rest),
            [b'2', b'5', rest @ ..] if first == b'%' => (b'%', rest),
            _ => (first, rest),
        };
        plain.push(byte);
        name = rest;
    }
    plain
}

/// The name in a header. The prefix belongs to "ustar\0"; old GNU ("ustar  \0") keeps other things there.
fn name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = c_string(&block[..100]);
    match c_string(&block[345..500]) {
        prefix if &block[257..263] == b"ustar\0" && !prefix.is_empty() => {
            [prefix, b"/", name].concat()
        }
        _ => name.to_vec(),
    }
}

/// The checksum is the sum of all bytes, its own field taken as spaces. Some old writers summed signed bytes.
fn check(block: &[u8; BLOCK]) -> Parsed<()> {
    let (mut unsigned, mut signed) = (0, 0);
    for (index, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) {
            b' '
        } else {
            byte
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    match number(&block[148..156]) {
        Ok(sum) if sum == unsigned || sum == signed => Ok(()),
        _ => Err("wrong checksum"),
    }
}

/// Up to the first NUL, or all.
fn c_string(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

/// A string of an extension header; None if it is empty.
fn text(value: &[u8]) -> Parsed<Option<Vec<u8>>> {
    match value {
        b"" => Ok(None),
        _ if value.contains(&0) => Err("its extension header has a NUL byte in a string"),
        _ => Ok(Some(value.to_vec())),
    }
}

/// A number of a header: octal digits between spaces and NULs; or, if the first bit is set, two's complement of the
/// other bits, big-endian ("base-256", GNU tar and star; for what 11 octal digits cannot hold). Blank is 0.
fn number(field: &[u8]) -> Parsed<i64> {
    const MALFORMED: &str = "its header has a malformed number";
    const RANGE: &str = "its header has a number out of range";
    let first = field.first().copied().unwrap_or(0);
    if first & 0x80 != 0 {
        let sign = if first & 0x40 != 0 { -0x80 } else { 0 };
        return field[1..]
            .iter()
            .try_fold(i64::from(first & 0x7f) + sign, |value, &byte| {
                value.checked_mul(256)?.checked_add(i64::from(byte))
            })
            .ok_or(RANGE);
    }
    let digits = field.trim_ascii_start();
    let digits = digits
        .split(|byte| matches!(byte, b' ' | 0))
        .next()
        .unwrap_or(digits);
    let value = digits
        .iter()
        .try_fold(0, |value, &byte| digit(value, byte, 8));
    i64::try_from(value.ok_or(MALFORMED)?).or(Err(RANGE))
}

fn unsigned(field: &[u8]) -> Parsed<u64> {
    u64::try_from(number(field)?).or(Err("its header has a negative number"))
}

/// A user or group id. The last one means "do not change" to chown(2), so nothing can belong to it.
fn id(number: i64) -> Parsed<u32> {
    let id = u32::try_from(number).ok().filter(|&id| id != u32::MAX);
    id.ok_or("its owner is out of range")
}

/// All of `text` as a decimal number.
fn decimal(text: &[u8]) -> Option<u64> {
    let (&first, rest) = text.split_first()?;
    rest.iter()
        .try_fold(digit(0, first, 10)?, |value, &byte| digit(value, byte, 10))
}

fn digit(value: u64, byte: u8, base: u64) -> Option<u64> {
    let digit = u64::from(byte.wrapping_sub(b'0'));
    value
        .checked_mul(base)?
        .checked_add(digit)
        .filter(|_| digit < base)
}

/// Seconds since 1970 with a sign and a fraction, both optional: "-1.25" is 0.75 seconds after second -2.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    let mut nanoseconds = 0;
    for place in 0..fraction.len().max(9) {
        let byte = fraction.get(place).copied().unwrap_or(b'0');
        // The kernel keeps nine digits; what follows must still be digits.
        let value = digit(nanoseconds, byte, 10)?;
        nanoseconds = if place < 9 { value } else { nanoseconds };
    }
    let nanoseconds = nanoseconds as u32;
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}
