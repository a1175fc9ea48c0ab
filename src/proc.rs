//! Files whose text the kernel makes when they are read: of /proc, /sys and cgroup file systems. proc(5).
//!
//! `std::fs::read` asks for their length, which is 0, and begins with 32 bytes: ten system calls a file, where four do. A
//! start reads up to two dozen of them. Records of containers are read in the same way, of which there may be hundreds.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fd::AsFd;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Result;

/// The whole text of a file; what is not UTF-8 becomes U+FFFD.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    Ok(String::from_utf8(bytes(path)?)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// All that is in a file.
pub fn bytes(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref().as_os_str().as_bytes();
    rest(openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// What has not been read yet of a file.
pub fn rest(file: impl AsFd) -> Result<Vec<u8>> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match rustix::io::read(&file, &mut buffer)? {
            0 => return Ok(text),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
}

/// The fields of /proc/PID/stat from the third on; empty if there is no such process.
pub fn stat(pid: i32) -> Vec<String> {
    let text = read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second is the name, which may contain anything.
    let (_, fields) = text.rsplit_once(')').unwrap_or_default();
    fields.split_ascii_whitespace().map(str::to_owned).collect()
}
