//! gzip: the frame around a deflate stream (RFC 1952), with every check sum verified.
//!
//! Inflating is miniz_oxide's work. The frame is ours because the crates that have one bring 20 KB of CRC code for
//! processors with and without AVX-512; here it is a table of 2 KB.

use std::io::{BufRead, Error, ErrorKind, Read, Result};

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

/// The plain bytes of one or more gzip members, one after the other (as pigz and bgzip write them).
pub struct Gunzip<R> {
    source: R,
    state: Box<InflateState>,
    /// CRC-32 and length of what this member has given so far; `None` between members.
    member: Option<(u32, u32)>,
    any: bool,
}

fn bad(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("not a valid gzip file: {what}"),
    )
}

impl<R: BufRead> Gunzip<R> {
    pub fn new(source: R) -> Gunzip<R> {
        let state = InflateState::new_boxed(DataFormat::Raw);
        Gunzip {
            source,
            state,
            member: None,
            any: false,
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = *self
            .source
            .fill_buf()?
            .first()
            .ok_or_else(|| bad("it is cut short"))?;
        self.source.consume(1);
        Ok(byte)
    }

    /// A little-endian number of this many bytes.
    fn number(&mut self, bytes: u32) -> Result<u32> {
        (0..bytes).try_fold(0, |number, index| {
            Ok(number | u32::from(self.byte()?).unbounded_shl(8 * index))
        })
    }

    /// Reads a member's header, up to the deflate stream.
    fn header(&mut self) -> Result<()> {
        if self.number(2)? != 0x8b1f {
            return Err(bad("something other than gzip follows"));
        }
        let (method, flags) = (self.byte()?, self.byte()?);
        if method != 8 || flags & 0xe0 != 0 {
            return Err(bad("unknown method or flags"));
        }
        // Time, level and operating system; then what the flags tell of.
        let set = |flag| flags & flag != 0;
        self.number(6)?;
        if set(4) {
            for _ in 0..self.number(2)? {
                self.byte()?;
            }
        }
        // Name and comment end with NUL.
        for flag in [8, 16] {
            while set(flag) && self.byte()? != 0 {}
        }
        if set(2) {
            self.number(2)?;
        }
        self.state.reset(DataFormat::Raw);
        (self.member, self.any) = (Some((!0, 0)), true);
        Ok(())
    }

    /// Compares the check sum and length behind a member with what was read.
    fn trailer(&mut self, crc: u32, length: u32) -> Result<()> {
        self.member = None;
        if self.number(4)? != !crc || self.number(4)? != length {
            return Err(bad("check sum or length differ"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while !buffer.is_empty() {
            let Some((crc, length)) = self.member else {
                if self.any && self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.header()?;
                continue;
            };
            let input = self.source.fill_buf()?;
            let at_end = input.is_empty();
            let result = inflate(&mut self.state, input, buffer, MZFlush::None);
            self.source.consume(result.bytes_consumed);
            let plain = &buffer[..result.bytes_written];
            let (crc, length) = (crc32(crc, plain), length.wrapping_add(plain.len() as u32));
            self.member = Some((crc, length));
            match result.status {
                Ok(MZStatus::StreamEnd) => self.trailer(crc, length)?,
                Ok(_) | Err(MZError::Buf) if at_end && plain.is_empty() => {
                    return Err(Error::new(
                        ErrorKind::UnexpectedEof,
                        "the gzip file is cut short",
                    ));
                }
                Ok(_) | Err(MZError::Buf) => {}
                Err(_) => return Err(bad("damaged data")),
            }
            if !buffer[..result.bytes_written].is_empty() {
                return Ok(result.bytes_written);
            }
        }
        Ok(0)
    }
}

/// Tables for two bytes at a time ("slicing by 2"), of the polynomial 0xedb88320. Four would be faster by a tenth of
/// what inflating takes, and 2 KB larger.
static TABLES: [[u32; 256]; 2] = {
    let mut tables = [[0; 256]; 2];
    let mut index = 0;
    while index < 512 {
        let (table, byte) = (index / 256, index % 256);
        let mut crc = if table == 0 {
            byte as u32
        } else {
            tables[0][byte]
        };
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        tables[table][byte] = crc;
        index += 1;
    }
    tables
};

/// CRC-32 as gzip has it, without the complement at both ends.
fn crc32(mut crc: u32, bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    for pair in pairs {
        crc ^= u32::from(u16::from_le_bytes(*pair));
        let [a, b, ..] = crc.to_le_bytes().map(usize::from);
        crc = TABLES[1][a] ^ TABLES[0][b] ^ (crc >> 16);
    }
    for byte in rest {
        crc = (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc32() {
        assert_eq!(!crc32(!0, b"123456789"), 0xcbf4_3926);
        assert_eq!(!crc32(crc32(!0, b"12"), b"3456789"), 0xcbf4_3926);
    }
}
