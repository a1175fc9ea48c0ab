//! Inflates an archive into a file, once, so that the file can be indexed and mounted.
//!
//! What is written the kernel copies, and brings to the disk while this goes on inflating (write(2)), so the two
//! overlap without a second thread or process.
//!
//! Left out: holes for runs of zeros, posix_fallocate(3), which would only find a full disk a little earlier.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};

use super::decompress::{self, Source};
use crate::error::{Error, Result, error, quote};

/// Bytes; large enough that the calls do not count, small enough for the processor's cache.
const BUFFER: usize = 256 * 1024;

/// Writes the plain bytes of `source`, which errors call `name`, to a file, which they call `target.1`, and shows them
/// to `each` in order. `limit` is the most bytes that may be written: a few kilobytes can inflate to as many gigabytes.
/// After an error the file is incomplete: the caller removes it.
pub fn inflate(
    source: &mut dyn Source,
    name: &[u8],
    (mut file, file_name): (&File, &[u8]),
    limit: u64,
    each: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    let mut plain = decompress::open(source, name)?;
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let bytes = match Read::read(&mut plain, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("inflate", name, error)),
        };
        total += bytes.len() as u64;
        if total > limit {
            return Err(error!(
                "inflate({}): it holds more than {limit} bytes, which is the limit (--image-limit)",
                quote(name)
            ));
        }
        (file.write_all(bytes)).map_err(|error| Error::io("write", file_name, error))?;
        each(bytes);
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
        inflated.unwrap();
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
            "inflate(\"bomb\"): it holds more than 1048576 bytes, which is the limit (--image-limit)"
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
