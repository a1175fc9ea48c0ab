//! Writes tar: members in the reader's own terms ([`Member`]) become the bytes of an archive.
//!
//! Format: POSIX.1-2001 "pax": a "ustar" header for each member, and before it a pax header (type `x`) with what ustar
//! has no room for: names that do not split into 155 and 100 bytes, ids above 2,097,151, sizes from 8 GiB, times that
//! have a fraction or lie before 1970, extended attributes (`SCHILY.xattr.`, as star and GNU tar have it) and access
//! control lists (`SCHILY.acl.` as text too: bsdtar reads no other form). Names are bytes, as GNU tar writes them.
//! tar(5). Read `Writer::member`, then `header`.
//!
//! Invariant: what `tar::Parser` reads back is the same `Member`; nothing in the archive depends on anything else, so
//! that the same tree gives the same bytes.
//!
//! Left out: sparse members (holes are written as zeros: only so can an index map the file), user and group names,
//! access times.

use super::acl;
use super::tar::{ACCESS, BLOCK, DEFAULT, EXTENSION_LIMIT, Kind, Member};
use crate::error::{Result, error, quote};

/// As much is handed on at a time.
const BUFFER: usize = 256 * 1024;

/// Where the archive goes: takes the next bytes of it, in large pieces. It may also count and hash them, show progress,
/// or end it all with an error. (A `dyn Write` is a larger table of functions.)
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// An archive being written.
pub struct Writer<'a> {
    sink: Sink<'a>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were not handed on yet.
    filled: usize,
    /// Bytes that were.
    written: u64,
}

impl<'a> Writer<'a> {
    pub fn new(sink: Sink<'a>) -> Writer<'a> {
        Writer {
            sink,
            buffer: vec![0; BUFFER],
            filled: 0,
            written: 0,
        }
    }

    /// Writes what comes before a member's data. `stored` bytes of them have to follow: see [`Writer::data`]. The name
    /// of a directory ends with a slash.
    pub fn member(&mut self, member: &Member) -> Result<()> {
        let mut records = Vec::new();
        let block = header(member.kind as u8, member, &mut records);
        if records.len() as u64 > EXTENSION_LIMIT {
            let name = quote(&member.path);
            let reason = "its extended attributes are larger than 1 MiB";
            return Err(error!("write({name}): {reason}"));
        }
        if !records.is_empty() {
            let extension = Member {
                stored: records.len() as u64,
                mode: 0o644,
                ..file(b"././@PaxHeader")
            };
            let size = extension.stored;
            self.put(&header(b'x', &extension, &mut Vec::new()))?;
            self.put(&records)?;
            self.pad(size)?;
        }
        self.put(&block)
    }

    /// Writes a member's data: `size` bytes that `read` fills its argument with, as read(2) does. If there are not as
    /// many this is an error that calls the file `name`.
    pub fn data(
        &mut self,
        size: u64,
        name: &[u8],
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let free = &mut self.buffer[self.filled..];
            let most = free.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = read(&mut free[..most])?.min(most);
            if count == 0 {
                let (name, done) = (quote(name), size - left);
                let error = error!("read({name}): it ends after {done} bytes");
                return Err(error.hint(&format!("it had {size} a moment ago")));
            }
            left -= count as u64;
            self.filled(count)?;
        }
        self.pad(size)
    }

    /// Ends the archive and returns its size in bytes.
    pub fn end(mut self) -> Result<u64> {
        self.put(&[0; 2 * BLOCK])?;
        self.hand_on()?;
        Ok(self.written)
    }

    /// Zeros up to a whole block after `size` bytes.
    fn pad(&mut self, size: u64) -> Result<()> {
        let rest = size.wrapping_neg() % BLOCK as u64;
        self.put(&[0; BLOCK][..rest as usize])
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let free = &mut self.buffer[self.filled..];
            let (now, later) = bytes.split_at(bytes.len().min(free.len()));
            free[..now.len()].copy_from_slice(now);
            self.filled(now.len())?;
            bytes = later;
        }
        Ok(())
    }

    /// So many more bytes are in the buffer. It is never left full.
    fn filled(&mut self, count: usize) -> Result<()> {
        self.filled += count;
        match self.filled {
            BUFFER => self.hand_on(),
            _ => Ok(()),
        }
    }

    fn hand_on(&mut self) -> Result<()> {
        (self.sink)(&self.buffer[..self.filled])?;
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

/// An empty file of root's that nobody may do anything with, of 1970.
pub fn file(path: &[u8]) -> Member {
    Member {
        kind: Kind::File,
        path: path.to_vec(),
        link: Vec::new(),
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        stored: 0,
        size: 0,
        major: 0,
        minor: 0,
        xattrs: Vec::new(),
        sparse: None,
    }
}

/// The header of a member; what does not fit is added to `records`. The fields of ustar, in bytes: name 0, mode 100, uid
/// 108, gid 116, size 124, mtime 136, checksum 148, type 156, link 157, magic 257, device 329 and 337, prefix 345.
fn header(typeflag: u8, member: &Member, records: &mut Vec<u8>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let (prefix, name) = split(&member.path).unwrap_or_else(|| {
        record(records, b"path", &member.path);
        (b"", &member.path)
    });
    if member.link.len() > 100 {
        record(records, b"linkpath", &member.link);
    }
    for (at, size, text) in [
        (0, 100, name),
        (156, 1, &[typeflag]),
        (157, 100, &member.link),
        (257, 8, b"ustar\x0000"),
        (345, 155, prefix),
    ] {
        let text = &text[..text.len().min(size)];
        block[at..at + text.len()].copy_from_slice(text);
    }
    let (seconds, nanoseconds) = member.mtime;
    for (at, size, key, value) in [
        (100, 8, "", member.mode.into()),
        (108, 8, "uid", member.uid.into()),
        (116, 8, "gid", member.gid.into()),
        (124, 12, "size", member.stored),
        (136, 12, "", seconds.max(0) as u64),
        (329, 8, "", member.major.into()),
        (337, 8, "", member.minor.into()),
    ] {
        if !octal(&mut block[at..at + size], value) && !key.is_empty() {
            record(records, key.as_bytes(), value.to_string().as_bytes());
        }
    }
    if nanoseconds != 0 || !(0..1 << 33).contains(&seconds) {
        record(records, b"mtime", decimal(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in &member.xattrs {
        record(records, &[b"SCHILY.xattr.", &*escape(name)].concat(), value);
        let key = match &name[..] {
            ACCESS => b"SCHILY.acl.access".as_slice(),
            DEFAULT => b"SCHILY.acl.default",
            _ => continue,
        };
        if let Some(list) = acl::to_text(value) {
            record(records, key, list.as_bytes());
        }
    }
    // The sum of all bytes, its own field taken as spaces: at most 18 bits, six digits.
    block[148..156].fill(b' ');
    let sum = block.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// The prefix and the name of a header, if the path can be cut at a slash so that both fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let end = path.len().min(157) - 1;
    let slash = path[..end].iter().rposition(|&byte| byte == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!prefix.is_empty() && name.len() <= 100).then_some((prefix, name))
}

/// Fills the field with octal digits and a NUL; false if the number has more digits.
fn octal(field: &mut [u8], mut value: u64) -> bool {
    let digits = field.iter_mut().rev();
    for (place, byte) in digits.enumerate() {
        *byte = 0;
        if place > 0 {
            *byte = b'0' + (value % 8) as u8;
            value /= 8;
        }
    }
    value == 0
}

/// Adds `LENGTH KEY=VALUE\n`; the length counts its own digits, too.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let others = b" =\n".len() + key.len() + value.len();
    let mut length = others.to_string();
    while length != (others + length.len()).to_string() {
        length = (others + length.len()).to_string();
    }
    for part in [length.as_bytes(), b" ", key, b"=", value, b"\n"] {
        records.extend_from_slice(part);
    }
}

/// Seconds since 1970 with a sign and a fraction; the nanoseconds count from that second on, also before 1970.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    let (sign, seconds, nanoseconds) = match (seconds, nanoseconds) {
        (0.., _) => ("", seconds, nanoseconds),
        (_, 0) => ("-", seconds, 0),
        _ => ("-", seconds + 1, 1_000_000_000 - nanoseconds),
    };
    let seconds = seconds.unsigned_abs();
    match nanoseconds {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{nanoseconds:09}"),
    }
}

/// GNU tar's way to write the name of an attribute, in which "=" would end the key.
fn escape(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in name {
        escaped.extend_from_slice(match byte {
            b'=' => b"%3D",
            b'%' => b"%25",
            _ => std::slice::from_ref(byte),
        });
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tar::{Item, Parser};
    use super::*;

    /// The archive of these members, each with as many "d" as it stores.
    fn archive(members: &[Member]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sink = |data: &[u8]| {
            bytes.extend(data);
            Ok(())
        };
        let mut writer = Writer::new(&mut sink);
        for member in members {
            writer.member(member).unwrap();
            let mut read = |buffer: &mut [u8]| {
                buffer.fill(b'd');
                Ok(buffer.len().min(1000))
            };
            writer.data(member.stored, b"", &mut read).unwrap();
        }
        assert_eq!(writer.end().unwrap(), bytes.len() as u64);
        bytes
    }

    fn parse(bytes: &[u8]) -> Vec<Member> {
        let (mut parser, mut found, mut at) = (Parser::default(), Vec::new(), 0);
        loop {
            let block = bytes[at..at + BLOCK].try_into().unwrap();
            at += BLOCK;
            let size = match parser.header(block).unwrap() {
                Item::Member(member) => {
                    found.push(*member);
                    found[found.len() - 1].stored as usize
                }
                Item::Extension { size } => {
                    parser.extension(&bytes[at..at + size]).unwrap();
                    size
                }
                Item::More => panic!("a sparse member"),
                Item::End => break,
            };
            at += size.next_multiple_of(BLOCK);
        }
        assert_eq!(&bytes[at - BLOCK..], [0; 2 * BLOCK]);
        found
    }

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let deep = |length: usize| [&[b'd'; 60][..], b"/", &[b'n'; 400][..length - 61]].concat();
        let list = acl::from_text(b"u::rw,u:12345:r,g::r,m:rw,o:-").unwrap();
        let mut members = vec![
            Member {
                kind: Kind::Directory,
                mode: 0o1777,
                ..file(b"./")
            },
            Member {
                stored: 1,
                size: 1,
                mode: 0o4755,
                ..file(b"one")
            },
            Member {
                stored: 600_000,
                size: 600_000,
                ..file(b"long")
            },
            Member {
                uid: 2_097_152,
                gid: u32::MAX - 1,
                ..file(b"ids")
            },
            Member {
                mtime: (-2, 750_000_000),
                ..file(b"before 1970")
            },
            Member {
                mtime: (i64::MIN + 1, 0),
                ..file(b"long before")
            },
            Member {
                mtime: (1 << 40, 1),
                ..file(b"late")
            },
            Member {
                mtime: (-1, 999_999_999),
                ..file(b"\xff\xfe")
            },
            Member {
                kind: Kind::HardLink,
                link: deep(101),
                ..file(b"hard")
            },
            Member {
                kind: Kind::Symlink,
                link: deep(100),
                ..file(b"soft")
            },
            Member {
                kind: Kind::Block,
                major: 4095,
                minor: 0xfffff,
                ..file(b"dev")
            },
            Member {
                kind: Kind::Fifo,
                ..file(b"fifo")
            },
            Member {
                xattrs: vec![
                    (b"user.a=b%3D".to_vec(), b"x\0\n=y".to_vec()),
                    (b"user.empty".to_vec(), Vec::new()),
                    (b"system.posix_acl_access".to_vec(), list),
                ],
                ..file(b"attributes")
            },
        ];
        members.extend((99..300).map(|length| file(&deep(length))));
        members.extend((95..108).map(|length| Member {
            kind: Kind::Directory,
            ..file(&[&[b'n'; 200][..length], b"/"].concat())
        }));
        assert_eq!(parse(&archive(&members)), members);
    }

    #[test]
    fn pax_headers_only_where_they_are_needed() {
        let path = [&[b'd'; 155][..], b"/", &[b'n'; 100]].concat();
        assert_eq!(archive(&[file(&path)]).len(), 3 * BLOCK);
        let path = [&[b'd'; 156][..], b"/", &[b'n'; 99]].concat();
        assert_eq!(archive(&[file(&path)]).len(), 5 * BLOCK);
    }

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for (value, start) in [
            (0, "5 k=\n"),
            (4, "9 k=vvvv\n"),
            (5, "11 k="),
            (94, "101 k="),
            (93, "99 k="),
        ] {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'v'; value]);
            assert!(records.starts_with(start.as_bytes()), "{value}");
            assert!(start.starts_with(&records.len().to_string()));
        }
    }

    #[test]
    fn data_that_end_early_are_an_error() {
        let mut sink = |_: &[u8]| Ok(());
        let mut left = 3;
        let mut read = |buffer: &mut [u8]| Ok(buffer.len().min(std::mem::take(&mut left)));
        let error = Writer::new(&mut sink).data(8, b"/log", &mut read);
        assert_eq!(
            error.unwrap_err().to_string(),
            "read(\"/log\"): it ends after 3 bytes (it had 8 a moment ago)"
        );
    }
}
