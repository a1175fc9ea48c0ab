//! xz: streams one after the other, with padding between them, and every check sum verified.
//!
//! All of it is lzma-rust2's work. Left to it: the sizes in the index are not compared with those of the blocks, whose
//! check sums say more. Here is only the limit, and the errors.

use std::io::{ErrorKind, Read, Result};

use lzma_rust2::XzReader;

use super::watched::Watched;

/// KiB: a dictionary of 128 MiB, and what the decoder needs beside it.
const MEMORY: u32 = 128 * 1024 + 256;

/// The plain bytes of one or more xz streams.
pub struct Unxz<R: Read> {
    reader: Box<XzReader<Watched<R>>>,
}

impl<R: Read> Unxz<R> {
    pub fn new(source: R) -> Unxz<R> {
        let reader = XzReader::new_mem_limit(Watched::new(source), true, MEMORY);
        Unxz {
            reader: Box::new(reader),
        }
    }
}

impl<R: Read> Read for Unxz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            let what = match error.kind() {
                ErrorKind::OutOfMemory => "its dictionary is larger than 128 MiB",
                ErrorKind::Unsupported => "unknown filter or check sum",
                _ => "damaged data",
            };
            self.reader.inner_mut().error("xz", what)
        })
    }
}
