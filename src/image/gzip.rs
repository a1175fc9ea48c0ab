//! gzip: the frame around a deflate stream (RFC 1952), with every check sum verified.
//!
//! Inflating is miniz_oxide's work. The frame is ours because the crates that have one bring 20 KB of CRC code for
//! processors with and without AVX-512; ours is `crc.rs`.

use std::io::{BufRead, Error, Read, Result};

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

use super::crc::{CRC32, Crc};
use super::decompress::invalid;

/// The plain bytes of one or more gzip members, one after the other (as pigz and bgzip write them).
pub struct Gunzip<R> {
    source: R,
    state: Box<InflateState>,
    /// Of what this member has given so far.
    crc: Crc,
    /// The length of that; `None` between members.
    member: Option<u32>,
    any: bool,
}

fn bad(what: &str) -> Error {
    invalid("gzip", what)
}

impl<R: BufRead> Gunzip<R> {
    pub fn new(source: R) -> Gunzip<R> {
        let state = InflateState::new_boxed(DataFormat::Raw);
        Gunzip {
            source,
            state,
            crc: Crc::new(CRC32),
            member: None,
            any: false,
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let Some(&byte) = self.source.fill_buf()?.first() else {
            return Err(bad("it is cut short"));
        };
        self.source.consume(1);
        Ok(byte)
    }

    /// A little-endian number of this many bytes.
    fn number(&mut self, bytes: u32) -> Result<u32> {
        let mut number = 0u32;
        for index in 0..bytes {
            number |= u32::from(self.byte()?).unbounded_shl(8 * index);
        }
        Ok(number)
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
        (self.member, self.any) = (Some(0), true);
        Ok(())
    }

    /// Compares the check sum and length behind a member with what was read.
    fn trailer(&mut self, length: u32) -> Result<()> {
        self.member = None;
        if u64::from(self.number(4)?) != self.crc.take() || self.number(4)? != length {
            return Err(bad("check sum or length differ"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while !buffer.is_empty() {
            let Some(length) = self.member else {
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
            let length = length.wrapping_add(plain.len() as u32);
            self.crc.update(plain);
            self.member = Some(length);
            match result.status {
                Ok(MZStatus::StreamEnd) => self.trailer(length)?,
                Ok(_) | Err(MZError::Buf) if at_end && plain.is_empty() => {
                    return Err(bad("it is cut short"));
                }
                Ok(_) | Err(MZError::Buf) => {}
                Err(_) => return Err(bad("damaged data")),
            }
            if result.bytes_written > 0 {
                return Ok(result.bytes_written);
            }
        }
        Ok(0)
    }
}
