//! Compressed archives, told by their first bytes, never by their name.
//!
//! Formats, each a feature of its own, each with several members, frames or streams one after the other, each with every
//! check sum verified; what follows the last one is an error, and so is an end before the end:
//! - gzip, RFC 1952 (as pigz and bgzip write it): `gzip.rs`.
//! - zstd, RFC 8878, windows up to 128 MiB, as zstd(1) has it without `--long=31`; skippable frames: `zstd.rs`.
//! - xz, <https://tukaani.org/xz/xz-file-format.txt>, dictionaries up to 128 MiB (`xz -9` has 64), padding between
//!   streams and after them: `xz.rs`.
//!
//! Left out: zero bytes after the last gzip member are an error, dictionaries of zstd in files of their own. Other
//! compressions are recognised to be named in the error. A zstd(1) archive that lost its checksum (`--no-check`) is as
//! good as the tar in it.

use std::io::{BufReader, ErrorKind, Read};

#[cfg(feature = "gzip")]
use super::gzip::Gunzip;
#[cfg(feature = "xz")]
use super::xz::Unxz;
#[cfg(feature = "zstd")]
use super::zstd::Unzstd;
use crate::error::{Error, Result, error, quote};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
    Xz,
    /// Those that no build of mini can read.
    Bzip2,
    Lz4,
    Lzip,
}

impl Compression {
    pub fn name(self) -> &'static str {
        let known = MAGICS
            .iter()
            .find(|(_, compression, _)| *compression == self);
        known.map_or("", |(_, _, name)| name)
    }
}

/// First bytes (file(1)), at most [`MAGIC`] of them.
const MAGICS: [(&[u8], Compression, &str); 6] = [
    (b"\x1f\x8b", Compression::Gzip, "gzip"),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd, "zstd"),
    (b"\xfd7zXZ\0", Compression::Xz, "xz"),
    (b"BZh", Compression::Bzip2, "bzip2"),
    (b"\x04\x22\x4d\x18", Compression::Lz4, "lz4"),
    (b"LZIP", Compression::Lzip, "lzip"),
];

/// So many of a file's bytes are enough for [`detect`].
pub const MAGIC: usize = 6;

/// The compression of a file that begins so; `None` if it is none that is known.
pub fn detect(first: &[u8]) -> Option<Compression> {
    // A skippable frame, with which pzstd begins. (lz4 has the same, but does not begin with it.)
    if let [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] = first {
        return Some(Compression::Zstd);
    }
    let found = MAGICS.iter().find(|(magic, ..)| first.starts_with(magic));
    found.map(|(_, compression, _)| *compression)
}

/// Whatever can be read. A trait of its own with one method, because with a type parameter each decoder would be
/// compiled once for every kind of source (100 KB), and the table of a `dyn Read` has methods that nobody calls.
pub trait Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize>;
}

impl<R: Read> Source for R {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        Read::read(self, buffer)
    }
}

/// An archive's plain bytes.
pub struct Plain<'a>(Box<dyn Source + 'a>);

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

/// A source of which the first bytes have been read already; they come again.
struct Begun<'a> {
    magic: [u8; MAGIC],
    next: usize,
    length: usize,
    source: &'a mut dyn Source,
}

impl Read for Begun<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut rest = &self.magic[self.next..self.length];
        if rest.is_empty() {
            return self.source.read(buffer);
        }
        let count = Read::read(&mut rest, buffer)?;
        self.next += count;
        Ok(count)
    }
}

/// The plain bytes of `source`, which errors call `name`.
pub fn open<'a>(source: &'a mut dyn Source, name: &[u8]) -> Result<Plain<'a>> {
    let mut magic = [0; MAGIC];
    let mut length = 0;
    while length < magic.len() {
        match source.read(&mut magic[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", name, error)),
        }
    }
    let compression = detect(&magic[..length]);
    let begun = Begun {
        magic,
        next: 0,
        length,
        source,
    };
    let Some(compression) = compression else {
        return Ok(Plain(Box::new(begun)));
    };
    // 64 KiB is what a pipe holds; more brings nothing, inflating is 20 times slower than reading.
    let source = BufReader::with_capacity(64 * 1024, begun);
    match compression {
        #[cfg(feature = "gzip")]
        Compression::Gzip => Ok(Plain(Box::new(Gunzip::new(source)))),
        #[cfg(feature = "zstd")]
        Compression::Zstd => Ok(Plain(Box::new(Unzstd::new(source)))),
        #[cfg(feature = "xz")]
        Compression::Xz => Ok(Plain(Box::new(Unxz::new(source)))),
        other => {
            drop(source);
            Err(error!(
                "unpack({}): it is compressed with {}, which this build of mini cannot read",
                quote(name),
                other.name()
            ))
        }
    }
}

/// What is wrong with a compressed file.
#[cfg(any(feature = "gzip", feature = "zstd", feature = "xz"))]
pub fn invalid(format: &str, what: &str) -> std::io::Error {
    let text = ["not a valid ", format, " file: ", what].concat();
    std::io::Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"mini mini mini\n";

    /// What gzip(1), zstd(1) and xz(1) (with `--check=crc32`) make of it, as far as this build reads it; the last bytes of
    /// the check sum of the plain bytes; whether the file can be padded with four zero bytes.
    fn samples() -> Vec<(&'static str, &'static [u8], usize, bool)> {
        let all: [(_, &[u8], _, _, _); 3] = [
            (
                "gzip",
                b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xcd\xcc\xcb\x54\xc8\x85\x11\x5c\0\xd8\x99\x0f\xb5\x0f\0\0\0",
                23,
                false,
                cfg!(feature = "gzip"),
            ),
            (
                "zstd",
                b"\x28\xb5\x2f\xfd\x24\x0f\x65\0\0\x30mini \x0a\x01\0\x28\x8a\x16\xf8\x38\x9e\x8e",
                24,
                false,
                cfg!(feature = "zstd"),
            ),
            (
                "xz",
                b"\xfd7zXZ\0\0\x01\x69\x22\xde\x36\x02\0\x21\x01\x16\0\0\0\x74\x2f\xe5\xa3\xe0\0\x0e\0\x0c\x5d\0\x36\x9a\x4a\
                  \x1f\x61\xe1\x5c\xe6\xd1\x02\0\0\0\xd8\x99\x0f\xb5\0\x01\x24\x0f\x1c\x49\xd1\x41\x90\x42\x99\x0d\x01\0\0\0\0\x01YZ",
                47,
                true,
                cfg!(feature = "xz"),
            ),
        ];
        all.into_iter()
            .filter(|sample| sample.4)
            .map(|(name, bytes, sum, pads, _)| (name, bytes, sum, pads))
            .collect()
    }

    fn plain(bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        let mut bytes = bytes;
        let mut source = open(&mut bytes, b"x").map_err(|error| error.to_string())?;
        match source.read_to_end(&mut plain) {
            Ok(_) => Ok(plain),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn members_come_one_after_the_other() {
        for (_, bytes, _, pads) in samples() {
            assert_eq!(plain(bytes).unwrap(), PLAIN);
            assert_eq!(plain(&[bytes, bytes].concat()).unwrap(), PLAIN.repeat(2));
            let padded = plain(&[bytes, &[0; 4], bytes, &[0; 8]].concat());
            assert_eq!(padded.is_ok(), pads);
            assert!(!pads || padded.unwrap() == PLAIN.repeat(2));
        }
        assert_eq!(plain(PLAIN).unwrap(), PLAIN);
        assert_eq!(plain(b"").unwrap(), b"");
    }

    #[test]
    fn what_is_cut_short_is_an_error_that_says_so() {
        for (name, bytes, ..) in samples() {
            for length in MAGIC..bytes.len() {
                for rest in [&bytes[..length], &[bytes, &bytes[..length]].concat()] {
                    let error = plain(rest).unwrap_err();
                    let known = error.contains(name) && error.contains("cut short");
                    assert!(known, "{length}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_in_a_check_sum_and_what_follows_the_end_are_errors() {
        for (name, bytes, sum, _) in samples() {
            let mut damaged = bytes.to_vec();
            damaged[sum] ^= 1;
            for bad in [
                damaged,
                [bytes, b"garbage"].concat(),
                [bytes, b"\0"].concat(),
            ] {
                let error = plain(&bad).unwrap_err();
                assert!(error.contains(name), "{error}");
            }
        }
    }

    #[test]
    #[cfg(feature = "zstd")]
    fn skippable_frames_and_large_windows_of_zstd() {
        let (_, bytes, ..) = samples()[usize::from(cfg!(feature = "gzip"))];
        let skip = b"\x5a\x2a\x4d\x18\x03\0\0\0abc";
        let around = [&skip[..], bytes, skip].concat();
        assert_eq!(plain(&around).unwrap(), PLAIN);
        assert!(plain(&around[..around.len() - 1]).is_err());
        // Windows of 128 MiB and of an eighth more, before an empty last block.
        assert_eq!(plain(b"\x28\xb5\x2f\xfd\0\x88\x01\0\0").unwrap(), b"");
        let error = plain(b"\x28\xb5\x2f\xfd\0\x89\x01\0\0").unwrap_err();
        assert!(error.contains("128 MiB"), "{error}");
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (first, name) in [("BZh91AY&SY", "bzip2"), ("LZIP\x01", "lzip")] {
            let error = plain(first.as_bytes()).unwrap_err();
            let text = format!("unpack(\"x\"): it is compressed with {name}, ");
            assert!(error.starts_with(&text), "{error}");
        }
        assert_eq!(detect(b"\x04\x22\x4d\x18"), Some(Compression::Lz4));
        assert_eq!(detect(b"etc/"), None);
    }
}
