//! Goes through a tar, and says what the names in it mean: what unpacking and indexing have in common.
//!
//! Mechanism: read(2) on a stream; pread(2) on a part of a file, where data are passed over without being read.
//! Read `Reader::members`, then `clean` and `Name`.
//!
//! Format of the names: the OCI image specification, "Image Layer Filesystem Changeset", section "Whiteouts". In a
//! layer, `.wh.NAME` stands for the removal of NAME, `.wh..wh..opq` for that of everything in its directory; both
//! concern only what lower layers have put there, wherever in the archive they stand. Other names that begin with
//! `.wh..wh.` are aufs's own and nobody else's.
//!
//! Invariant: every member ends where its header says, whatever is done with it; so the next header is found.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;

use super::decompress::Plain;
use super::tar::{BLOCK, Item, Member, Parser};
use crate::error::{Error, error, quote};

/// Why it ended, without the archive's name.
pub type Outcome<T> = crate::error::Result<T>;

/// A part of a file, read without moving the file's own offset.
pub struct Section {
    pub file: File,
    pub offset: u64,
    /// Bytes to the end of the part.
    pub left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = self.left.min(buffer.len() as u64) as usize;
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.forward(count as u64);
        Ok(count)
    }
}

impl Section {
    /// Passes over so many bytes without reading them, or as many as there are; returns how many.
    fn forward(&mut self, bytes: u64) -> u64 {
        let count = bytes.min(self.left);
        self.offset += count;
        self.left -= count;
        count
    }
}

/// Of an opaque root above what is no archive: an overlay does not look whether a layer's root is opaque.
pub const HIDES_ALL: &str = "it hides all that is below, where not all layers are archives";

/// An archive that is being read.
pub struct Reader<'a> {
    source: BufReader<From<'a>>,
    /// Bytes taken so far.
    pub offset: u64,
    /// Whether it may be without members, as a layer may that changes nothing.
    layer: bool,
}

enum From<'a> {
    Section(Section),
    Stream(Plain<'a>),
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            From::Section(section) => section.read(buffer),
            From::Stream(plain) => Read::read(plain, buffer),
        }
    }
}

impl<'a> Reader<'a> {
    /// Reads headers in small pieces and data not at all.
    pub fn headers(section: Section, whiteouts: Whiteouts) -> Reader<'a> {
        // A header with its extension header; or several, of members that have no data.
        Reader::new(From::Section(section), 4096, whiteouts)
    }

    /// Reads everything, in large pieces.
    pub fn stream(plain: Plain<'a>, whiteouts: Whiteouts) -> Reader<'a> {
        // Large enough that the calls do not count, small enough to stay in the processor's cache.
        Reader::new(From::Stream(plain), 256 * 1024, whiteouts)
    }

    fn new(source: From<'a>, buffer: usize, whiteouts: Whiteouts) -> Reader<'a> {
        Reader {
            source: BufReader::with_capacity(buffer, source),
            offset: 0,
            layer: whiteouts != Whiteouts::Ordinary,
        }
    }

    /// Reads the archive to its end and hands each member to `visit`, which may take its data: `stored` bytes come
    /// next. Returns the number of members.
    pub fn members(
        &mut self,
        visit: &mut dyn FnMut(&mut Self, &mut Member) -> Outcome<()>,
    ) -> Outcome<u64> {
        let mut parser = Parser::default();
        let mut block = [0; BLOCK];
        let mut last = Vec::new();
        let mut members = 0;
        loop {
            let offset = self.offset;
            if self.fill(&mut block)? < BLOCK {
                return Err(self.truncated(members, &last));
            }
            let item = parser.header(&block).map_err(|reason| {
                // No member yet: probably something else altogether.
                let what = match members {
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
                    if self.fill(&mut data)? < size {
                        return Err(self.truncated(members, &last));
                    }
                    parser.extension(&data).map_err(|reason| {
                        let name = show(&parser.name);
                        error!("member {name}: {reason} (header at byte {offset})")
                    })?;
                    self.skip_padding(size as u64)?;
                }
                Item::Member(mut member) => {
                    members += 1;
                    let end = self.offset.saturating_add(member.stored);
                    visit(self, &mut member)
                        .and_then(|()| self.skip(end.saturating_sub(self.offset)))
                        .and_then(|()| self.skip_padding(member.stored))
                        .map_err(|reason| format!("member {}: {reason}", show(&member.path)))?;
                    last = member.path;
                }
                Item::End if members == 0 && !self.layer => {
                    return Err("it is not a tar archive: it has no member".into());
                }
                Item::End => break,
            }
        }
        // A checksum of compressed data comes at their end.
        self.pass(u64::MAX).map(|_| members)
    }

    fn truncated(&self, members: u64, last: &[u8]) -> Error {
        match (members, self.offset) {
            (0, 0) => "it is empty".into(),
            (0, end) => {
                error!("it is not a tar archive: it ends at byte {end} without a member")
            }
            (_, end) => {
                let last = show(last);
                error!("it ends at byte {end} after member {last} without an end mark (truncated?)")
            }
        }
    }

    /// Lets `take` have what comes next, at least one byte and at most `limit`, and goes on after as many bytes as it
    /// says. None at the end of the archive.
    pub fn take(
        &mut self,
        limit: u64,
        take: &mut dyn FnMut(&[u8]) -> Outcome<usize>,
    ) -> Outcome<Option<u64>> {
        let taken = match self.source.fill_buf() {
            Ok([]) => return Ok(None),
            Ok(data) => take(&data[..limit.min(data.len() as u64) as usize])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error!("reading it after {} bytes: {error}", self.offset)),
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
            let mut copy = |data: &[u8]| {
                free[..data.len()].copy_from_slice(data);
                Ok(data.len())
            };
            match self.take(limit, &mut copy)? {
                Some(taken) => filled += taken as usize,
                None => break,
            }
        }
        Ok(filled)
    }

    /// Passes over so many bytes, or as many as there are; returns how many.
    fn pass(&mut self, bytes: u64) -> Outcome<u64> {
        let held = bytes.min(self.source.buffer().len() as u64);
        self.source.consume(held as usize);
        // If that was not enough the buffer is empty, and the source stands where the caller thinks it does.
        let passed = match self.source.get_mut() {
            From::Section(section) => held + section.forward(bytes - held),
            From::Stream(_) => held,
        };
        self.offset += passed;
        let mut left = bytes - passed;
        while left > 0 {
            match self.take(left, &mut |data| Ok(data.len()))? {
                Some(taken) => left -= taken,
                None => break,
            }
        }
        Ok(bytes - left)
    }

    /// Passes over the data of a file.
    pub fn skip_data(&mut self, stored: u64) -> Outcome<()> {
        let done = self.pass(stored)?;
        if done < stored {
            return Err(cut_off(done, stored));
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Outcome<()> {
        if self.pass(bytes)? < bytes {
            return Err(error!("archive ends at byte {} (truncated?)", self.offset));
        }
        Ok(())
    }

    /// Passes over what fills the last block of `size` bytes of data.
    fn skip_padding(&mut self, size: u64) -> Outcome<()> {
        self.skip(size.wrapping_neg() % BLOCK as u64)
    }
}

/// The error of a file of which only `done` bytes are there.
pub fn cut_off(done: u64, stored: u64) -> Error {
    error!("archive ends after {done} of {stored} bytes (truncated?)")
}

/// What names that begin with ".wh." mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// Ordinary files: the archive is a whole root file system.
    Ordinary,
    /// The archives are layers; nothing lies below the lowest.
    Remove,
    /// The archives are layers and become one layer of an overlay, above others. What is removed there, too, is said as
    /// overlayfs wants it: by a character device 0/0, and the attribute `user.overlay.opaque` or
    /// `trusted.overlay.opaque` of a directory that does not show those below. (A directory that only these archives
    /// have would list such a device, of something that an earlier one of them had there; nothing says what is below.)
    Overlay {
        /// As the mount option says it.
        userxattr: bool,
    },
}

/// What a clean path is in a layer.
#[derive(Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Ordinary,
    /// Of this name in the same directory.
    Whiteout(&'a [u8]),
    /// Of its directory.
    Opaque,
    /// For aufs only.
    Metadata,
}

impl Name<'_> {
    pub fn of(path: &[u8], whiteouts: Whiteouts) -> Outcome<Name<'_>> {
        let (above, name) = split(path);
        let aufs = |name: &[u8]| name.starts_with(b".wh..wh.");
        match name.strip_prefix(b".wh.") {
            _ if whiteouts == Whiteouts::Ordinary => Ok(Name::Ordinary),
            _ if above.split(|&byte| byte == b'/').any(aufs) => Ok(Name::Metadata),
            None => Ok(Name::Ordinary),
            Some(b".wh..opq") => Ok(Name::Opaque),
            _ if aufs(name) => Ok(Name::Metadata),
            Some(b"" | b"." | b"..") => Err("its whiteout names no file".into()),
            Some(name) => Ok(Name::Whiteout(name)),
        }
    }
}

/// The path below the root: without slashes in front and at the end, and without ".". What goes up is hostile.
pub fn clean(path: &[u8], what: &str) -> Outcome<Vec<u8>> {
    if path.is_empty() {
        return Err(error!("its {what} is empty"));
    }
    let mut clean = Vec::with_capacity(path.len());
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(error!("its {what} contains \"..\"")),
            _ if !clean.is_empty() => clean.push(b'/'),
            _ => {}
        }
        clean.extend(component);
    }
    Ok(clean)
}

/// The directory and the name in it, of a clean path; the root is "." in itself.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None if path.is_empty() => (path, b"."),
        None => (b"", path),
    }
}

/// A name for an error, which is one line that can be read.
pub fn show(path: &[u8]) -> String {
    match path.get(..256) {
        Some(start) if path.len() > 256 => quote(start) + "…",
        _ => quote(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_layer() {
        for (path, name) in [
            ("a/b", Name::Ordinary),
            (".wh.x", Name::Whiteout(b"x")),
            ("a/.wh.x", Name::Whiteout(b"x")),
            ("a/.wh..x", Name::Whiteout(b".x")),
            ("a/.wh..wh..opq", Name::Opaque),
            (".wh..wh.plnk", Name::Metadata),
            (".wh..wh.plnk/1.2", Name::Metadata),
            (".wh..wh.plnk/.wh..wh..opq", Name::Metadata),
            ("a/.wh..wh.aufs", Name::Metadata),
            (".wh.x/y", Name::Ordinary),
        ] {
            assert_eq!(Name::of(path.as_bytes(), Whiteouts::Remove), Ok(name));
            let ordinary = Name::of(path.as_bytes(), Whiteouts::Ordinary);
            assert_eq!(ordinary, Ok(Name::Ordinary));
        }
        for path in [".wh.", "a/.wh..", "a/.wh..."] {
            assert!(Name::of(path.as_bytes(), Whiteouts::Remove).is_err());
        }
    }
}
