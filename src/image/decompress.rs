//! Compressed archives, told by their first bytes, never by their name.
//!
//! Format: gzip, RFC 1952, also several members one after the other (as pigz and bgzip write); the check sum and length
//! at the end of each are verified (feature `gzip`, `gzip.rs`).
//!
//! Left out: zero bytes or other padding after the last gzip member are an error. Other compressions are recognised
//! to be named in the error.

use std::io::{ErrorKind, Read};

#[cfg(feature = "gzip")]
use super::gzip::Gunzip;
use crate::error::{Error, Result, quote};

/// First bytes of what is not read (file(1)).
const UNKNOWN: [(&[u8], &str); 5] = [
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
];

/// An archive's plain bytes. (As a `Box<dyn Read>` this would be 3 KB larger: the table of a trait object has all
/// the methods that nobody calls.)
pub enum Plain<S> {
    Stored(Begun<S>),
    #[cfg(feature = "gzip")]
    Gzip(Gunzip<std::io::BufReader<Begun<S>>>),
}

impl<S: Read> Read for Plain<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Plain::Stored(source) => source.read(buffer),
            #[cfg(feature = "gzip")]
            Plain::Gzip(source) => source.read(buffer),
        }
    }
}

/// A source of which the first bytes have been read already; they come again.
pub struct Begun<S> {
    magic: [u8; 6],
    next: usize,
    length: usize,
    source: S,
}

impl<S: Read> Read for Begun<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut rest = &self.magic[self.next..self.length];
        if rest.is_empty() {
            return self.source.read(buffer);
        }
        let count = rest.read(buffer)?;
        self.next += count;
        Ok(count)
    }
}

/// The plain bytes of `source`, which errors call `name`.
pub fn open<S: Read>(mut source: S, name: &[u8]) -> Result<Plain<S>> {
    let mut magic = [0; 6];
    let mut length = 0;
    while length < magic.len() {
        match source.read(&mut magic[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", name, &error)),
        }
    }
    let first = &magic[..length];
    let gzip = first.starts_with(b"\x1f\x8b");
    let unknown = UNKNOWN
        .iter()
        .find(|(known, _)| first.starts_with(known))
        .map(|(_, format)| *format);
    let unknown = unknown.or((gzip && cfg!(not(feature = "gzip"))).then_some("gzip"));
    if let Some(format) = unknown {
        let name = quote(name);
        let text = format!(
            "unpack({name}): it is compressed with {format}, which this build of mini cannot read"
        );
        return Err(Error::new(text));
    }
    let begun = Begun {
        magic,
        next: 0,
        length,
        source,
    };
    #[cfg(feature = "gzip")]
    if gzip {
        // 64 KiB is what a pipe holds; more brings nothing, inflating is 20 times slower than reading.
        let source = std::io::BufReader::with_capacity(64 * 1024, begun);
        return Ok(Plain::Gzip(Gunzip::new(source)));
    }
    Ok(Plain::Stored(begun))
}
