//! Compressed archives, told by their first bytes, never by their name.
//!
//! Format: gzip, RFC 1952, also several members one after the other (as pigz and bgzip write); the check sum and length
//! at the end of each are verified (feature `gzip`, `gzip.rs`).
//!
//! Left out: zero bytes or other padding after the last gzip member are an error. Other compressions are recognised
//! to be named in the error.

use std::io::{Cursor, ErrorKind, Read};

use crate::error::{Error, Result, quote};

/// First bytes of what is not read (file(1)).
const UNKNOWN: [(&[u8], &str); 5] = [
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
];

/// The plain bytes of `source`, which errors call `name`.
pub fn open<'a>(mut source: impl Read + 'a, name: &[u8]) -> Result<Box<dyn Read + 'a>> {
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
    let magic = &magic[..length];
    let unknown = UNKNOWN.iter().find(|(first, _)| magic.starts_with(first));
    if let Some((_, format)) = unknown {
        return Err(unsupported(name, format));
    }
    let whole = Cursor::new(magic.to_vec()).chain(source);
    if magic.starts_with(b"\x1f\x8b") {
        return gunzip(whole, name);
    }
    Ok(Box::new(whole))
}

#[cfg(feature = "gzip")]
fn gunzip<'a>(source: impl Read + 'a, _name: &[u8]) -> Result<Box<dyn Read + 'a>> {
    // 64 KiB is what a pipe holds; more brings nothing, inflating is 20 times slower than reading.
    let source = std::io::BufReader::with_capacity(64 * 1024, source);
    Ok(Box::new(super::gzip::Gunzip::new(source)))
}

#[cfg(not(feature = "gzip"))]
fn gunzip<'a>(_source: impl Read + 'a, name: &[u8]) -> Result<Box<dyn Read + 'a>> {
    Err(unsupported(name, "gzip"))
}

fn unsupported(name: &[u8], format: &str) -> Error {
    Error::new(format!(
        "unpack({}): it is compressed with {format}, which this build of mini cannot read",
        quote(name)
    ))
}
