//! Reads tar: a pull parser that is handed blocks and never reads, seeks or opens anything itself.
//!
//! Format: POSIX.1-1988 "ustar", POSIX.1-2001 "pax" extended headers (both under "pax" in POSIX), and what GNU tar
//! writes (tar(5), and "Tar Internals" in GNU tar's manual): long names, base-256 numbers, four kinds of sparse files;
//! v7 and old GNU as far as they differ.
//!
//! The caller hands every header block to `Parser::header` and does what the `Item` says: hand over the next block
//! (`More`), or the data of an extension header (`Extension`), or take a complete `Member`, whose `stored` bytes follow
//! padded to a whole block. Read `Parser::header`, `member_header`, `describe`, `Extended::set`, then the numbers.
//!
//! Invariants: no input makes it panic, and what it keeps is bounded (`EXTENSION_LIMIT`, `MAX_NUMBERS`). A `Member`
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

/// The most numbers in a sparse map, two for each extent: 16 MiB of memory.
const MAX_NUMBERS: usize = 1 << 21;

/// The reason is a clause for "member NAME: …"; `Parser::name` is the name.
type Parsed<T> = Result<T, &'static str>;

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes that are access control lists.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// What a member is, with the type in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    File = b'0',
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
    pub xattrs: Xattrs,
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

/// The records of pax headers that have a string for a value, and what they are called here.
const TEXTS: [&[u8]; 5] = [
    b"path",
    b"linkpath",
    b"GNU.sparse.name",
    b"SCHILY.acl.access",
    b"SCHILY.acl.default",
];

/// Those that have a number. The sparse formats 0.0 and 0.1 say size, 1.0 says realsize.
const NUMBERS: [&[u8]; 6] = [
    b"size",
    b"uid",
    b"gid",
    b"GNU.sparse.major",
    b"GNU.sparse.size",
    b"GNU.sparse.realsize",
];

/// What the extension headers say about the next member.
#[derive(Clone, Default)]
struct Extended {
    /// The values of [`TEXTS`], empty if there is none, and of [`NUMBERS`], the last two of which are one.
    texts: [Vec<u8>; 5],
    numbers: [Option<u64>; 5],
    mtime: Option<(i64, u32)>,
    xattrs: Xattrs,
    /// Offset and length of each extent in turn.
    sparse_map: Vec<u64>,
}

/// What comes next.
#[derive(Default)]
enum State {
    #[default]
    Header,
    /// The data of an extension header of this type.
    Extension(u8),
    /// A block with more of an old GNU sparse map.
    OldSparse(Box<Member>, Vec<u64>),
    /// A block of the sparse map that pax format 1.0 puts before the data; and the digits of a number cut in two.
    Sparse1(Box<Member>, Vec<u64>, Option<u64>),
}

#[derive(Default)]
pub struct Parser {
    /// The member an error is about, as far as it is known.
    pub name: Vec<u8>,
    state: State,
    global: Extended,
    local: Option<Extended>,
    /// GNU tar's long name and link target, if not empty.
    long: [Vec<u8>; 2],
}

impl Parser {
    /// Takes the next block: a header, or what `Item::More` asked for.
    pub fn header(&mut self, block: &[u8; BLOCK]) -> Parsed<Item> {
        match std::mem::take(&mut self.state) {
            State::OldSparse(member, map) => {
                return self.old_sparse(member, map, &block[..504], block[504] != 0);
            }
            State::Sparse1(member, map, digits) => return self.sparse1(member, map, digits, block),
            State::Header | State::Extension(_) => {}
        }
        if block.iter().all(|&byte| byte == 0) {
            return Ok(Item::End);
        }
        // The name in a block with a wrong checksum is probably not a name.
        self.name.clear();
        check(block)?;
        self.name = name(block);
        match block[156] {
            typeflag @ (b'x' | b'X' | b'g' | b'L' | b'K' | b'V') => {
                let size = unsigned(&block[124..136])?;
                if size > EXTENSION_LIMIT {
                    return Err("its extension header is larger than 1 MiB");
                }
                self.state = State::Extension(typeflag);
                let size = size as usize;
                Ok(Item::Extension { size })
            }
            b'M' => Err("it is continued from another volume"),
            _ => self.member_header(block),
        }
    }

    /// Takes the data of an extension header.
    pub fn extension(&mut self, data: &[u8]) -> Parsed<()> {
        match std::mem::take(&mut self.state) {
            State::Extension(b'L') => self.long[0] = c_string(data).to_vec(),
            State::Extension(b'K') => self.long[1] = c_string(data).to_vec(),
            State::Extension(b'g') => records(&mut self.global, data)?,
            State::Extension(b'x' | b'X') => {
                let global = &self.global;
                records(self.local.get_or_insert_with(|| global.clone()), data)?;
            }
            _ => {} // 'V', a volume label: its data, if any, are nothing to unpack
        }
        Ok(())
    }

    fn member_header(&mut self, block: &[u8; BLOCK]) -> Parsed<Item> {
        let local = self.local.take();
        let mut extended = local.unwrap_or_else(|| self.global.clone());
        let [path, target, sparse_name, access, default] = std::mem::take(&mut extended.texts);
        let [long_path, long_link] = std::mem::take(&mut self.long);
        for path in [long_path, path, sparse_name] {
            if !path.is_empty() {
                self.name = path;
            }
        }
        let mut link = c_string(&block[157..257]).to_vec();
        for target in [long_link, target] {
            if !target.is_empty() {
                link = target;
            }
        }
        let mut member = describe(block, self.name.clone(), link, &extended)?;
        member.xattrs = extended.xattrs;
        add_acl(&mut member.xattrs, ACCESS, &access, acl::MINIMAL)?;
        add_acl(&mut member.xattrs, DEFAULT, &default, 0)?;
        let map = extended.sparse_map;
        if block[156] == b'S' {
            member.size = unsigned(&block[483..495])?;
            return self.old_sparse(member, map, &block[386..482], block[482] != 0);
        }
        let [.., major, size] = extended.numbers;
        match (major, size) {
            (None, None) => Ok(Item::Member(member)),
            _ if member.kind != Kind::File => Ok(Item::Member(member)),
            (Some(1), Some(size)) => {
                member.size = size;
                self.state = State::Sparse1(member, map, None);
                Ok(Item::More)
            }
            (None | Some(0), Some(size)) => {
                member.size = size;
                with_map(member, &map)
            }
            _ => Err("its sparse format is unknown"),
        }
    }

    /// Takes the extents in one block of an old GNU sparse map, 12 digits each for offset and length until a field is
    /// empty; `more` tells whether another block follows.
    fn old_sparse(
        &mut self,
        member: Box<Member>,
        mut map: Vec<u64>,
        fields: &[u8],
        more: bool,
    ) -> Parsed<Item> {
        for extent in fields.chunks_exact(24).take_while(|extent| extent[12] != 0) {
            push(&mut map, unsigned(&extent[..12])?)?;
            push(&mut map, unsigned(&extent[12..])?)?;
        }
        if !more {
            return with_map(member, &map);
        }
        self.state = State::OldSparse(member, map);
        Ok(Item::More)
    }

    /// Takes one block of a sparse map 1.0, part of the stored data: decimal numbers, one a line, cut into blocks
    /// anywhere. The first is the number of extents; after the last the block is padded.
    fn sparse1(
        &mut self,
        mut member: Box<Member>,
        mut map: Vec<u64>,
        mut digits: Option<u64>,
        block: &[u8],
    ) -> Parsed<Item> {
        let stored = member.stored.checked_sub(BLOCK as u64);
        member.stored = stored.ok_or("its sparse map is longer than its data")?;
        for &byte in block {
            if byte != b'\n' {
                let value = digit(digits.unwrap_or(0), byte, 10);
                digits = Some(value.ok_or("its sparse map is malformed")?);
                continue;
            }
            push(
                &mut map,
                digits.take().ok_or("its sparse map is malformed")?,
            )?;
            let extents = (map.len() as u64 - 1) / 2;
            if map.len() % 2 == 1 && map[0] == extents {
                return with_map(member, &map[1..]);
            }
        }
        self.state = State::Sparse1(member, map, digits);
        Ok(Item::More)
    }
}

/// The member in a header block, with what the extension headers changed, but for attributes and sparse map.
fn describe(
    block: &[u8; BLOCK],
    path: Vec<u8>,
    link: Vec<u8>,
    extended: &Extended,
) -> Parsed<Box<Member>> {
    let typeflag = block[156];
    let kind = match typeflag {
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        // 'D' is GNU tar's directory in an incremental dump; its data are a list of names.
        b'5' | b'D' => Kind::Directory,
        b'6' => Kind::Fifo,
        // v7 had no type for directories. But what has a sparse map is a file ('S': old GNU).
        _ if typeflag != b'S' && path.ends_with(b"/") => Kind::Directory,
        // POSIX: a type that is not known is treated as a regular file. '7' was "contiguous".
        _ => Kind::File,
    };
    let [size, uid, gid, ..] = extended.numbers;
    let stored = match size {
        // These have no data, whatever the size says (POSIX; GNU tar for hard links in pax format).
        _ if matches!(typeflag, b'1'..=b'6') => 0,
        Some(size) => size,
        None => unsigned(&block[124..136])?,
    };
    // Those of extension headers have been checked.
    let owner = |said: Option<u64>, field| match said {
        Some(said) => Ok(said as u32),
        None => id(number(field)?),
    };
    // Other types may have anything here: v7 had no such fields.
    let device = |field| match kind {
        Kind::Character | Kind::Block => {
            u32::try_from(unsigned(field)?).or(Err("its header has a number out of range"))
        }
        _ => Ok(0),
    };
    Ok(Box::new(Member {
        kind,
        path,
        link,
        mode: (number(&block[100..108])? & 0o7777) as u32,
        uid: owner(uid, &block[108..116])?,
        gid: owner(gid, &block[116..124])?,
        mtime: match extended.mtime {
            Some(time) => time,
            None => (number(&block[136..148])?, 0),
        },
        stored,
        size: stored,
        major: device(&block[329..337])?,
        minor: device(&block[337..345])?,
        xattrs: Vec::new(),
        sparse: None,
    }))
}

/// Adds an access control list that has more than `minimal` bytes, unless it is among the attributes already: GNU tar
/// writes both forms when asked for both, and only the attribute has numbers for sure.
fn add_acl(xattrs: &mut Xattrs, name: &[u8], text: &[u8], minimal: usize) -> Parsed<()> {
    if !text.is_empty() && !xattrs.iter().any(|(other, _)| other == name) {
        let list = acl::from_text(text)?;
        if list.len() > minimal {
            xattrs.push((name.into(), list));
        }
    }
    Ok(())
}

/// Gives the member its sparse map, checked against the sizes: whoever unpacks or maps the file relies on it.
fn with_map(mut member: Box<Member>, numbers: &[u64]) -> Parsed<Item> {
    let mut map = Vec::with_capacity(numbers.len() / 2);
    let (mut end, mut sum) = (0, 0);
    for extent in numbers.chunks(2) {
        let &[offset, length] = extent else {
            return Err("its sparse map is malformed");
        };
        let next = offset.checked_add(length);
        let next = next.filter(|&next| offset >= end && next <= member.size);
        end = next.ok_or("its sparse map overlaps or goes beyond its size")?;
        sum += length; // at most `end`, since the extents are disjoint
        // Writers end the map with an empty extent at the end of the file, so that its size is known.
        if length > 0 {
            map.push((offset, length));
        }
    }
    if sum != member.stored {
        return Err("its sparse map does not fit its data");
    }
    member.sparse = Some(map);
    Ok(Item::Member(member))
}

fn push(map: &mut Vec<u64>, number: u64) -> Parsed<()> {
    if map.len() >= MAX_NUMBERS {
        return Err("its sparse map has more than a million extents");
    }
    map.push(number);
    Ok(())
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
        const MALFORMED: &str = "its pax header has a malformed number";
        let number = |text| decimal(text).ok_or(MALFORMED);
        if let Some(at) = TEXTS.iter().position(|known| *known == key) {
            if value.contains(&0) {
                return Err("its extension header has a NUL byte in a string");
            }
            self.texts[at] = value.to_vec();
            return Ok(());
        }
        if let Some(at) = NUMBERS.iter().position(|known| *known == key) {
            let said = match value {
                b"" => None,
                _ => Some(number(value)?),
            };
            if let (b"uid" | b"gid", Some(owner)) = (key, said) {
                id(i64::try_from(owner).unwrap_or(i64::MAX))?;
            }
            self.numbers[at.min(4)] = said;
            return Ok(());
        }
        match key {
            b"mtime" => {
                self.mtime = match value {
                    b"" => None,
                    _ => Some(time(value).ok_or(MALFORMED)?),
                }
            }
            // Sparse format 0.0: one record for each number.
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                push(&mut self.sparse_map, number(value)?)?;
            }
            // 0.1: one record for all.
            b"GNU.sparse.map" => {
                self.sparse_map.clear();
                for text in value.split(|&byte| byte == b',') {
                    push(&mut self.sparse_map, number(text)?)?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(unescape(name), value.to_vec())?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Parsed<()> {
        self.xattrs.retain(|(other, _)| *other != name);
        self.xattrs.push((name, value));
        // Several headers, or a global one that keeps growing.
        let sizes = self
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len());
        match sizes.sum::<usize>() as u64 {
            0..=EXTENSION_LIMIT => Ok(()),
            _ => Err("its extended attributes are larger than 1 MiB"),
        }
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
    let field = &block[148..156];
    let sums = |bytes: &[u8]| {
        let mut sums = (0, 0);
        for &byte in bytes {
            sums.0 += i64::from(byte);
            sums.1 += i64::from(byte as i8);
        }
        sums
    };
    let (all, own) = (sums(block), sums(field));
    let spaces = 8 * i64::from(b' ');
    match number(field) {
        Ok(sum) if sum == all.0 - own.0 + spaces || sum == all.1 - own.1 + spaces => Ok(()),
        _ => Err("wrong checksum"),
    }
}

/// Up to the first NUL, or all.
fn c_string(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

/// A number of a header: octal digits between spaces and NULs; or, if the first bit is set, two's complement of the
/// other bits, big-endian ("base-256", GNU tar and star; for what 11 octal digits cannot hold). Blank is 0.
fn number(field: &[u8]) -> Parsed<i64> {
    const MALFORMED: &str = "its header has a malformed number";
    const RANGE: &str = "its header has a number out of range";
    if let [first @ 0x80..=0xff, rest @ ..] = field {
        let sign = i64::from(first & 0x3f) - i64::from(first & 0x40);
        let join = |value: i64, &byte: &u8| value.checked_mul(256)?.checked_add(byte.into());
        return rest.iter().try_fold(sign, join).ok_or(RANGE);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A ustar header with these fields set (offset, bytes) and the right checksum.
    fn block(fields: &[(usize, &[u8])]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let defaults: [(usize, &[u8]); 4] = [
            (0, b"name"),
            (100, b"0000644\0"),
            (257, b"ustar\x0000"),
            (148, b"        "),
        ];
        for (at, bytes) in defaults.iter().chain(fields) {
            block[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    fn member(parser: &mut Parser, fields: &[(usize, &[u8])]) -> Member {
        match parser.header(&block(fields)) {
            Ok(Item::Member(member)) => *member,
            other => panic!("{other:?}"),
        }
    }

    fn extension(parser: &mut Parser, typeflag: u8, data: &[u8]) -> Parsed<()> {
        let size = format!("{:011o}", data.len());
        let header = block(&[(124, size.as_bytes()), (156, &[typeflag])]);
        let size = data.len();
        assert_eq!(parser.header(&header), Ok(Item::Extension { size }));
        parser.extension(data)
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"  0000 7", 0),
            (b"77777777", 0o77777777),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"\x80\0\0\0\0\x2d\xc6\xc0", 3_000_000),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", i64::MIN),
        ] {
            assert_eq!(number(field), Ok(value), "{field:x?}");
        }
        for field in [&b"0000x44\0"[..], b"9       ", b"-1      "] {
            assert!(number(field).is_err(), "{field:x?}");
        }
        assert!(number(b"\x80\0\0\0\x80\0\0\0\0\0\0\0").is_err());
        assert!(number(b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0").is_err());
        assert!(unsigned(b"\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn times_have_signs_and_fractions() {
        for (text, time_of) in [
            ("0", (0, 0)),
            ("1234567890.5", (1_234_567_890, 500_000_000)),
            ("-1", (-1, 0)),
            ("-1.25", (-2, 750_000_000)),
            ("-0.000000001", (-1, 999_999_999)),
            ("7.1234567899", (7, 123_456_789)),
            ("7.", (7, 0)),
        ] {
            assert_eq!(time(text.as_bytes()), Some(time_of), "{text}");
        }
        for text in [
            "",
            "-",
            ".5",
            "1.2.3",
            "1e9",
            "+1",
            " 1",
            "1.23456789x",
            "9223372036854775808",
        ] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_checksum_may_be_of_signed_bytes() {
        let mut header = block(&[(0, b"\xff\xfe")]);
        let signed: i32 = header.iter().map(|&byte| i32::from(byte as i8)).sum();
        let field: i32 = header[148..156].iter().map(|&byte| i32::from(byte)).sum();
        let sum = signed - field + 8 * 32;
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(matches!(
            Parser::default().header(&header),
            Ok(Item::Member(_))
        ));
        header[0] ^= 1;
        assert_eq!(Parser::default().header(&header), Err("wrong checksum"));
    }

    #[test]
    fn a_prefix_belongs_to_ustar_and_not_to_old_gnu_or_v7() {
        let mut parser = Parser::default();
        let prefix = (345, &b"a/b"[..]);
        assert_eq!(member(&mut parser, &[prefix]).path, b"a/b/name");
        assert_eq!(
            member(&mut parser, &[prefix, (257, b"ustar  \0")]).path,
            b"name"
        );
        assert_eq!(
            member(&mut parser, &[prefix, (257, b"\0\0\0\0\0\0\0\0")]).path,
            b"name"
        );
        assert_eq!(member(&mut parser, &[(0, &[b'n'; 100])]).path, [b'n'; 100]);
    }

    #[test]
    fn types_and_which_of_them_have_data() {
        let mut parser = Parser::default();
        for (typeflag, kind, stored) in [
            (b'0', Kind::File, 8),
            (0, Kind::File, 8),
            (b'7', Kind::File, 8),
            (b'z', Kind::File, 8),
            (b'1', Kind::HardLink, 0),
            (b'2', Kind::Symlink, 0),
            (b'3', Kind::Character, 0),
            (b'4', Kind::Block, 0),
            (b'5', Kind::Directory, 0),
            (b'6', Kind::Fifo, 0),
            (b'D', Kind::Directory, 8),
        ] {
            let found = member(&mut parser, &[(156, &[typeflag]), (124, b"00000000010\0")]);
            assert_eq!(
                (found.kind, found.stored),
                (kind, stored),
                "{}",
                typeflag as char
            );
        }
        let v7 = member(&mut parser, &[(0, b"dir/"), (257, &[0; 8]), (156, &[0])]);
        assert_eq!(v7.kind, Kind::Directory);
        // The fuzzer found a directory with a sparse map.
        let sparse = member(&mut parser, &[(0, b"dir/"), (156, b"S")]);
        assert_eq!((sparse.kind, sparse.sparse), (Kind::File, Some(vec![])));
    }

    #[test]
    fn extensions_apply_to_one_member_and_global_ones_to_all() {
        let mut parser = Parser::default();
        extension(&mut parser, b'g', b"12 uid=4321\n11 gid=765\n").unwrap();
        extension(&mut parser, b'x', b"11 path=xy\n").unwrap();
        extension(&mut parser, b'x', b"8 gid=7\n14 size=00002\n").unwrap();
        let first = member(&mut parser, &[]);
        assert_eq!(
            (&first.path[..], first.uid, first.gid, first.stored),
            (&b"xy"[..], 4321, 7, 2)
        );
        // An empty value takes back even what is global.
        extension(&mut parser, b'x', b"7 uid=\n").unwrap();
        let second = member(&mut parser, &[]);
        assert_eq!(
            (&second.path[..], second.uid, second.gid),
            (&b"name"[..], 0, 765)
        );
        assert_eq!(member(&mut parser, &[]).uid, 4321);
    }

    #[test]
    fn long_names_end_at_a_nul_and_pax_wins_over_them() {
        let mut parser = Parser::default();
        extension(&mut parser, b'L', b"long\0rest").unwrap();
        extension(&mut parser, b'K', b"target\0").unwrap();
        let first = member(&mut parser, &[(156, b"2"), (157, b"short")]);
        assert_eq!(
            (&first.path[..], &first.link[..]),
            (&b"long"[..], &b"target"[..])
        );
        let second = member(&mut parser, &[(156, b"2"), (157, b"short")]);
        assert_eq!(
            (&second.path[..], &second.link[..]),
            (&b"name"[..], &b"short"[..])
        );
        extension(&mut parser, b'x', b"12 path=pax\n").unwrap();
        extension(&mut parser, b'L', b"long\0").unwrap();
        assert_eq!(member(&mut parser, &[]).path, b"pax");
    }

    #[test]
    fn attributes_are_unescaped_and_the_last_value_counts() {
        let mut parser = Parser::default();
        let records = [
            &b"32 SCHILY.xattr.user.a%3Db%25=1\n"[..],
            b"31 SCHILY.xattr.user.a%3Db%25=\n",
            b"27 SCHILY.xattr.user.n=x\0y\n",
        ];
        extension(&mut parser, b'x', &records.concat()).unwrap();
        let found = member(&mut parser, &[]).xattrs;
        let expected = [
            (b"user.a=b%".to_vec(), vec![]),
            (b"user.n".to_vec(), b"x\0y".to_vec()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn attributes_cannot_pile_up() {
        let mut parser = Parser::default();
        let mut result = Ok(());
        for name in 0..3 {
            let mut record = format!("500000 SCHILY.xattr.user.{name}=").into_bytes();
            record.resize(499_999, b'v');
            record.push(b'\n');
            result = extension(&mut parser, b'g', &record);
        }
        assert_eq!(
            result.unwrap_err(),
            "its extended attributes are larger than 1 MiB"
        );
    }

    #[test]
    fn an_old_sparse_map_goes_on_in_more_blocks() {
        let mut parser = Parser::default();
        let extents: [&[u8]; 4] = [
            b"00000000000\x0000000000001\0",
            b"00000000010\x0000000000001\0",
            b"00000000020\x0000000000001\0",
            b"00000000030\x0000000000001\0",
        ];
        let header = block(&[
            (156, b"S"),
            (257, b"ustar  \0"),
            (124, b"00000000005\0"),
            (386, &extents.concat()),
            (482, b"\x01"),
            (483, b"00000000100\0"),
        ]);
        assert_eq!(parser.header(&header), Ok(Item::More));
        let mut more = [0; BLOCK];
        more[..24].copy_from_slice(b"00000000040\x0000000000001\0");
        let Ok(Item::Member(found)) = parser.header(&more) else {
            panic!("no member")
        };
        assert_eq!((found.size, found.stored), (64, 5));
        assert_eq!(
            found.sparse.unwrap(),
            [(0, 1), (8, 1), (16, 1), (24, 1), (32, 1)]
        );
    }

    #[test]
    fn the_end_is_one_block_of_zeros() {
        assert_eq!(Parser::default().header(&[0; BLOCK]), Ok(Item::End));
    }
}
