//! zstd: frames one after the other (RFC 8878), with every check sum verified.
//!
//! Decoding a frame is ruzstd's work; it leaves to its user to go on to the next frame and to compare the check sum.

use std::io::{BufRead, Read, Result};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::watched::Watched;

/// The plain bytes of one or more zstd frames.
pub struct Unzstd<R> {
    source: Watched<R>,
    decoder: Box<FrameDecoder>,
    /// What this frame has given so far, in bytes; `None` between frames.
    frame: Option<u64>,
}

impl<R: BufRead> Unzstd<R> {
    pub fn new(source: R) -> Unzstd<R> {
        Unzstd {
            source: Watched::new(source),
            // It refuses windows above 128 MiB before it allocates anything.
            decoder: Box::new(FrameDecoder::new()),
            frame: None,
        }
    }

    fn bad(&mut self, what: &str) -> std::io::Error {
        self.source.error("zstd", what)
    }

    /// Reads a frame's header; goes over a skippable frame.
    fn header(&mut self) -> Result<()> {
        let what = match self.decoder.reset(&mut self.source) {
            Ok(()) => {
                self.frame = Some(0);
                return Ok(());
            }
            Err(FrameDecoderError::ReadFrameHeaderError(header)) => match header {
                ReadFrameHeaderError::SkipFrame { length, .. } => {
                    let mut frame = (&mut self.source).take(u64::from(length));
                    let skipped = std::io::copy(&mut frame, &mut std::io::sink())?;
                    if skipped == u64::from(length) {
                        return Ok(());
                    }
                    "it is cut short"
                }
                ReadFrameHeaderError::BadMagicNumber(_) => "something other than zstd follows",
                _ => "damaged header",
            },
            Err(FrameDecoderError::WindowSizeTooBig { .. }) => "its window is larger than 128 MiB",
            Err(FrameDecoderError::DictNotProvided { .. }) => "it needs a dictionary",
            Err(_) => "damaged header",
        };
        Err(self.bad(what))
    }

    /// Compares the check sum and length of a frame, each of which may be missing, with what was read.
    fn trailer(&mut self, length: u64) -> Result<()> {
        self.frame = None;
        let sum = self.decoder.get_checksum_from_data();
        let size = self.decoder.content_size();
        if sum.is_some() && sum != self.decoder.get_calculated_checksum()
            || size != 0 && size != length
        {
            return Err(self.bad("check sum or length differ"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Unzstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while !buffer.is_empty() {
            let Some(length) = self.frame else {
                if self.source.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.header()?;
                continue;
            };
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                self.frame = Some(length + count as u64);
                return Ok(count);
            }
            if self.decoder.is_finished() {
                self.trailer(length)?;
                continue;
            }
            let block = BlockDecodingStrategy::UptoBlocks(1);
            if self.decoder.decode_blocks(&mut self.source, block).is_err() {
                return Err(self.bad("damaged data"));
            }
        }
        Ok(0)
    }
}
