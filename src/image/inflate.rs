//! Inflates an archive into a file, once, so that the file can be indexed and mounted.
//!
//! Inflating takes one processor and writing another: a thread writes what this one has inflated. It lives only as long
//! as the call (the rest of mini is one thread), inherits the caller's signal mask, and the buffers go round between the
//! two, so memory is bounded whatever the archive says. Entry: `inflate`.
//!
//! Left out: holes for runs of zeros, posix_fallocate(3), which would only find a full disk a little earlier.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::decompress::{self, Source};
use crate::error::{Error, Result, quote};

/// Bytes; large enough that the calls do not count.
const BUFFER: usize = 256 * 1024;
/// One is filled, one is written, the others make up for what comes in bursts.
const BUFFERS: usize = 4;

/// How many bytes were read and written.
#[derive(Debug, PartialEq, Eq)]
pub struct Inflated {
    pub stored: u64,
    pub plain: u64,
}

/// Writes the plain bytes of `source`, which errors call `name`, to a file, which they call `target.1`, and shows them
/// to `each` in order, on the other thread. `limit` is the most bytes that may be written: a few kilobytes can inflate to
/// as many gigabytes. After an error the file is incomplete: the caller removes it.
pub fn inflate(
    source: &mut dyn Source,
    name: &[u8],
    (file, file_name): (&File, &[u8]),
    limit: u64,
    each: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Inflated> {
    let mut source = Counted { source, count: 0 };
    let plain = decompress::open(&mut source, name)?;
    let (full, to_write) = sync_channel(BUFFERS);
    let (empty, to_fill) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        let _ = empty.send(vec![0; BUFFER]);
    }
    let written = thread::scope(|scope| {
        let writer = thread::Builder::new()
            .spawn_scoped(scope, move || write(&to_write, &empty, file, each));
        let writer = writer.map_err(|error| Error::io("clone", "thread", &error))?;
        let read = fill(plain, name, limit, &to_fill, &full);
        // The writer ends when nothing can come any more.
        drop(full);
        let written = writer.join().unwrap_or(Ok(()));
        // Inflating ends early if writing failed, and then says nothing.
        written.map_err(|error| Error::io("write", file_name, &error))?;
        read
    });
    let plain = written?;
    Ok(Inflated {
        stored: source.count,
        plain,
    })
}

/// A full buffer: its bytes count up to here.
type Full = (Vec<u8>, usize);

/// Inflates until the end, or until nobody writes any more; returns how many bytes.
fn fill(
    mut plain: decompress::Plain<'_>,
    name: &[u8],
    limit: u64,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Full>,
) -> Result<u64> {
    let mut total = 0;
    while let Ok(mut buffer) = empty.recv() {
        let mut filled = 0;
        while filled < buffer.len() {
            match Read::read(&mut plain, &mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("inflate", name, &error)),
            }
        }
        total += filled as u64;
        if total > limit {
            return Err(Error::new(format!(
                "inflate({}): it holds more than {limit} bytes, which is the limit",
                quote(name)
            )));
        }
        if filled == 0 || full.send((buffer, filled)).is_err() {
            break;
        }
    }
    Ok(total)
}

/// Writes what comes until nothing can come any more.
fn write(
    full: &Receiver<Full>,
    empty: &SyncSender<Vec<u8>>,
    mut file: &File,
    each: &mut dyn FnMut(&[u8]),
) -> std::io::Result<()> {
    while let Ok((buffer, filled)) = full.recv() {
        let bytes = &buffer[..filled];
        file.write_all(bytes)?;
        each(bytes);
        // Nobody fills it any more after an error or at the end.
        let _ = empty.send(buffer);
    }
    Ok(())
}

struct Counted<'a> {
    source: &'a mut dyn Source,
    count: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

    use super::*;

    /// Without a name: gone when it is closed.
    fn file() -> File {
        File::options()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::TMPFILE.bits() as i32)
            .open(std::env::temp_dir())
            .unwrap()
    }

    #[test]
    fn all_bytes_arrive_and_are_shown_in_order() {
        let bytes: Vec<u8> = (0..7 * BUFFER + 5).map(|at| (at % 251) as u8).collect();
        let (file, mut seen) = (file(), Vec::new());
        let length = bytes.len() as u64;
        let inflated = inflate(&mut &bytes[..], b"x", (&file, b"y"), length, &mut |bytes| {
            seen.extend_from_slice(bytes);
        });
        let (stored, plain) = (length, length);
        assert_eq!(inflated.unwrap(), Inflated { stored, plain });
        let mut written = vec![0; bytes.len()];
        file.read_exact_at(&mut written, 0).unwrap();
        assert!(written == bytes && seen == bytes);
    }

    #[test]
    fn more_than_the_limit_is_an_error_that_names_it() {
        let mut zeros = std::io::repeat(0);
        let file = file();
        let error = inflate(&mut zeros, b"bomb", (&file, b"y"), 1 << 20, &mut |_| {}).unwrap_err();
        assert_eq!(
            error.to_string(),
            "inflate(\"bomb\"): it holds more than 1048576 bytes, which is the limit"
        );
        assert!(file.metadata().unwrap().len() <= 1 << 20);
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_target() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        for source in [1, 100 * BUFFER as u64] {
            let mut source = std::io::repeat(0).take(source);
            let error =
                inflate(&mut source, b"x", (&full, b"store"), u64::MAX, &mut |_| {}).unwrap_err();
            assert_eq!(
                error.to_string(),
                "write(\"store\"): No space left on device"
            );
        }
    }

    #[test]
    fn a_source_that_fails_is_named() {
        let mut directory = File::open("/").unwrap();
        let error = inflate(&mut directory, b"x", (&file(), b"y"), 1, &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "read(\"x\"): Is a directory");
    }
}
