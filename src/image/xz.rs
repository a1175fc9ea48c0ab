//! xz: streams one after the other, with padding between them (<https://tukaani.org/xz/xz-file-format.txt>), every check
//! sum verified, and the index compared with the blocks.
//!
//! Decoding LZMA2 is lzma-rust2's work. The container is ours: with lzma-rust2's it would bring eight filters for the
//! code of processors and a second SHA-256 (25 KB), of which tars have nothing.
//!
//! A stream is a header, blocks, an index with the sizes of the blocks, and a footer. Read [`Unxz::read`], then `next`.
//! Left out: filters other than LZMA2.

use std::io::{ErrorKind, Read, Result as Io};

use lzma_rust2::Lzma2Reader;
use sha2::{Digest, Sha256};

use super::crc::{CRC32, CRC64, Crc};
use super::watched::Watched;

/// Bytes.
const DICTIONARY: u64 = 128 << 20;

/// What is wrong with the file, unless the source failed or ended.
type Outcome<T> = std::result::Result<T, &'static str>;

const DAMAGED: &str = "damaged data";

/// The plain bytes of one or more xz streams.
pub struct Unxz<R: Read> {
    /// Of the block that is being read, or of the one before, or of none. Always there but while a block begins.
    reader: Option<Lzma2Reader<Watched<R>>>,
    block: Option<Block>,
    stream: Option<Stream>,
    /// Of what is read but blocks' data.
    crc: Crc,
}

struct Stream {
    /// The kind of check sum, as the header has it.
    kind: u8,
    blocks: u64,
    /// Of the blocks' sizes, as the index has them.
    sizes: Crc,
}

struct Block {
    check: Check,
    /// Where it and its data begin in the file.
    start: u64,
    data: u64,
    /// Bytes of it so far.
    plain: u64,
    /// What its header says of the sizes of its data, if it does: compressed, plain.
    told: [Option<u64>; 2],
}

enum Check {
    None,
    Crc(Crc, usize),
    Sha256(Sha256),
}

impl Check {
    fn new(kind: u8) -> Outcome<Check> {
        match kind {
            0 => Ok(Check::None),
            1 => Ok(Check::Crc(Crc::new(CRC32), 4)),
            4 => Ok(Check::Crc(Crc::new(CRC64), 8)),
            10 => Ok(Check::Sha256(Sha256::new())),
            _ => Err("unknown filter or check sum"),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::None => {}
            Check::Crc(crc, _) => crc.update(bytes),
            Check::Sha256(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Check::None => Vec::new(),
            Check::Crc(mut crc, length) => crc.take().to_le_bytes()[..length].to_vec(),
            Check::Sha256(hasher) => hasher.finalize().to_vec(),
        }
    }
}

impl<R: Read> Unxz<R> {
    pub fn new(source: R) -> Unxz<R> {
        Unxz {
            reader: Some(Lzma2Reader::new(Watched::new(source), 0, None)),
            block: None,
            stream: None,
            crc: Crc::new(CRC32),
        }
    }

    fn count(&self) -> u64 {
        self.reader
            .as_ref()
            .map_or(0, |reader| reader.inner().count)
    }

    /// Fills the buffer, unless the file ends; returns how much there was.
    fn fill(&mut self, buffer: &mut [u8]) -> Outcome<usize> {
        let source = self.reader.as_mut().ok_or(DAMAGED)?.inner_mut();
        let mut count = 0;
        while count < buffer.len() {
            match source.read(&mut buffer[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(DAMAGED),
            }
        }
        self.crc.update(&buffer[..count]);
        Ok(count)
    }

    fn bytes<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        match self.fill(&mut bytes)? {
            count if count == N => Ok(bytes),
            _ => Err(DAMAGED),
        }
    }

    /// A number of up to nine bytes, seven bits in each.
    fn number(&mut self) -> Outcome<u64> {
        let mut number = 0;
        for index in 0..9 {
            let [byte] = self.bytes()?;
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DAMAGED)
    }

    /// Zeros up to a multiple of four bytes from `start` on.
    fn padding(&mut self, start: u64) -> Outcome<()> {
        while !(self.count() - start).is_multiple_of(4) {
            if self.bytes()? != [0] {
                return Err(DAMAGED);
            }
        }
        Ok(())
    }

    /// The check sum of what was read since `crc` was last taken, which follows now.
    fn checked(&mut self) -> Outcome<()> {
        let crc = self.crc.take();
        match u64::from(u32::from_le_bytes(self.bytes()?)) == crc {
            true => Ok(()),
            false => Err(DAMAGED),
        }
    }

    /// Goes on to the next block's data, the next stream, or the end of the file: then false.
    fn next(&mut self) -> Outcome<bool> {
        if let Some(block) = self.block.take() {
            self.end_block(block)?;
        }
        let Some(stream) = self.stream.take() else {
            return self.stream();
        };
        let start = self.count();
        self.crc.take();
        match self.bytes()? {
            [0] => self.index(start, stream)?,
            [size] => {
                self.block = Some(self.block(start, start + 4 * u64::from(size), &stream)?);
                self.stream = Some(stream);
            }
        }
        Ok(true)
    }

    /// Reads the header of the next stream, and padding before it; false at the end of the file.
    fn stream(&mut self) -> Outcome<bool> {
        let mut magic = [0; 4];
        loop {
            match self.fill(&mut magic)? {
                0 if self.count() > 0 => return Ok(false),
                4 if magic == [0; 4] && self.count() > 4 => {}
                4 if magic == *b"\xfd7zX" => break,
                _ => return Err("something other than xz follows"),
            }
        }
        let rest = self.bytes()?;
        self.crc.take();
        let [zero, kind] = self.bytes()?;
        self.checked()?;
        if rest != *b"Z\0" || zero != 0 {
            return Err(DAMAGED);
        }
        Check::new(kind)?;
        self.stream = Some(Stream {
            kind,
            blocks: 0,
            sizes: Crc::new(CRC32),
        });
        Ok(true)
    }

    /// Reads a block's header, from its second byte on; it begins at `start`, and at `end` is its check sum.
    fn block(&mut self, start: u64, end: u64, stream: &Stream) -> Outcome<Block> {
        let [flags] = self.bytes()?;
        let mut told = [None; 2];
        for (size, flag) in told.iter_mut().zip([0x40, 0x80]) {
            if flags & flag != 0 {
                *size = Some(self.number()?);
            }
        }
        // One filter: LZMA2, which has one byte of properties.
        if flags & 0x3f != 0 || self.number()? != 0x21 || self.number()? != 1 {
            return Err("unknown filter or check sum");
        }
        let dictionary = match self.bytes()? {
            [size @ 0..40] => (2 | u64::from(size) & 1) << (size / 2 + 11),
            [40] => u64::from(u32::MAX),
            _ => return Err(DAMAGED),
        };
        while self.count() < end {
            if self.bytes()? != [0] {
                return Err(DAMAGED);
            }
        }
        if self.count() != end {
            return Err(DAMAGED);
        }
        self.checked()?;
        if dictionary > DICTIONARY {
            return Err("its dictionary is larger than 128 MiB");
        }
        let reader = self.reader.take().map(Lzma2Reader::into_inner);
        self.reader = reader.map(|source| Lzma2Reader::new(source, dictionary as u32, None));
        Ok(Block {
            check: Check::new(stream.kind)?,
            start,
            data: self.count(),
            plain: 0,
            told,
        })
    }

    fn end_block(&mut self, block: Block) -> Outcome<()> {
        let data = self.count() - block.data;
        let sizes = [data, block.plain];
        let differs = |(told, size): (Option<u64>, u64)| told.is_some_and(|told| told != size);
        if block.told.into_iter().zip(sizes).any(differs) {
            return Err(DAMAGED);
        }
        self.padding(block.data)?;
        let check = block.check.finish();
        let mut stored = vec![0; check.len()];
        self.fill(&mut stored)?;
        if stored != check {
            return Err("its check sum differs");
        }
        if let Some(stream) = &mut self.stream {
            let unpadded = block.data - block.start + data + check.len() as u64;
            stream.blocks += 1;
            stream.sizes.update(&unpadded.to_le_bytes());
            stream.sizes.update(&block.plain.to_le_bytes());
        }
        Ok(())
    }

    /// Reads the index, from its second byte on, and the footer; they have to agree with the blocks and the header.
    fn index(&mut self, start: u64, mut stream: Stream) -> Outcome<()> {
        let mut sizes = Crc::new(CRC32);
        let blocks = self.number()?;
        if blocks != stream.blocks {
            return Err(DAMAGED);
        }
        for _ in 0..2 * blocks {
            sizes.update(&self.number()?.to_le_bytes());
        }
        self.padding(start)?;
        let size = (self.count() - start) / 4;
        self.checked()?;
        let crc = u32::from_le_bytes(self.bytes()?);
        self.crc.take();
        let backward = u32::from_le_bytes(self.bytes()?);
        let flags = self.bytes()?;
        let good = u64::from(crc) == self.crc.take()
            && u64::from(backward) == size
            && flags == [0, stream.kind]
            && self.bytes()? == *b"YZ"
            && sizes.take() == stream.sizes.take();
        good.then_some(()).ok_or(DAMAGED)
    }

    /// Plain bytes of this block, none at its end.
    fn plain(&mut self, block: &mut Block, buffer: &mut [u8]) -> Outcome<usize> {
        let reader = self.reader.as_mut().ok_or(DAMAGED)?;
        let count = reader.read(buffer).map_err(|_| DAMAGED)?;
        block.check.update(&buffer[..count]);
        block.plain += count as u64;
        Ok(count)
    }

    fn decode(&mut self, buffer: &mut [u8]) -> Outcome<usize> {
        loop {
            if let Some(mut block) = self.block.take() {
                let count = self.plain(&mut block, buffer)?;
                self.block = Some(block);
                if count > 0 {
                    return Ok(count);
                }
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

impl<R: Read> Read for Unxz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Io<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.decode(buffer).map_err(|what| match &mut self.reader {
            Some(reader) => reader.inner_mut().error("xz", what),
            None => std::io::Error::other(what),
        })
    }
}
