//! What a decoder reads from: it keeps why reading ended, because the decoders' own errors say too little of it and, as
//! text, cost several kilobytes.

use std::io::{Error, ErrorKind, Read, Result};

use super::decompress::invalid;

/// A source that keeps why it ended, for a decoder whose own errors say too much (1 KB of text for each) or too little.
pub struct Watched<R> {
    pub source: R,
    /// Bytes read so far.
    #[cfg_attr(not(feature = "xz"), allow(dead_code))]
    pub count: u64,
    failed: Option<Error>,
    ended: bool,
}

impl<R: Read> Watched<R> {
    pub fn new(source: R) -> Watched<R> {
        Watched {
            source,
            count: 0,
            failed: None,
            ended: false,
        }
    }

    /// Why the decoder of `format` failed: what failed to be read, else the end of the file, else `what`.
    pub fn error(&mut self, format: &str, what: &str) -> Error {
        let what = if self.ended { "it is cut short" } else { what };
        self.failed.take().unwrap_or_else(|| invalid(format, what))
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let result = self.source.read(buffer);
        match &result {
            Ok(count) => {
                self.ended = *count == 0 && !buffer.is_empty();
                self.count += *count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                self.failed = Some(match error.raw_os_error() {
                    Some(errno) => Error::from_raw_os_error(errno),
                    None => error.kind().into(),
                });
            }
        }
        result
    }
}
