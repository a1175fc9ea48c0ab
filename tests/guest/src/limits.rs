//! What limits are measured by: memory that is used, processor time that is got, processes that are made, a device's rate.

use std::ffi::{c_int, c_void};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use crate::kernel::{_exit, fork, kill};
use crate::{attempt, say};

unsafe extern "C" {
    fn mmap(
        at: *mut c_void,
        size: usize,
        access: c_int,
        flags: c_int,
        fd: c_int,
        from: i64,
    ) -> *mut u8;
    fn pause() -> c_int;
    fn clock() -> i64;
}

#[cfg(target_arch = "x86_64")]
const O_DIRECT: i32 = 0o40_000;
#[cfg(target_arch = "aarch64")]
const O_DIRECT: i32 = 0o200_000;

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// Memory of this size, each page of which has been written to.
fn memory(bytes: usize) -> &'static mut [u8] {
    // PROT_READ | PROT_WRITE; MAP_PRIVATE | MAP_ANONYMOUS.
    let at = unsafe { mmap(std::ptr::null_mut(), bytes, 3, 0x22, -1, 0) };
    if at as isize == -1 {
        say("no memory");
        unsafe { _exit(1) };
    }
    let memory = unsafe { std::slice::from_raw_parts_mut(at, bytes) };
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    memory
}

/// Takes memory and holds it until it is killed.
pub fn touch(bytes: &str) -> c_int {
    memory(number(bytes) as usize);
    say("touched");
    loop {
        unsafe { pause() };
    }
}

/// Runs for so many seconds of wall time, and says how many microseconds of processor time it got.
pub fn spin(seconds: &str) -> c_int {
    let end = Instant::now() + Duration::from_millis(number(seconds) * 1000);
    while Instant::now() < end {}
    // CLOCKS_PER_SEC is a million everywhere (clock(3)).
    say(&format!("cpu {}", unsafe { clock() }));
    0
}

/// A fork bomb: each of its processes makes others as long as it can. Says how many there were at most, this one and the
/// container's init among them; ends all of them after so many seconds.
pub fn bomb(seconds: &str) -> c_int {
    let end = Instant::now() + Duration::from_millis(number(seconds) * 1000);
    if unsafe { fork() } == 0 {
        loop {
            // The others are to go on making theirs, not to take turns in failing.
            if unsafe { fork() } < 0 {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
    say("ticking");
    let mut most = 0;
    while Instant::now() < end {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        let count = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_process));
        most = most.max(count.count());
    }
    unsafe { kill(-1, 9) };
    say(&format!("most {most}"));
    0
}

/// Reads or writes so many bytes of a file or device past the page cache, and says how many milliseconds that took.
pub fn direct(verb: &str, path: &str, bytes: &str) -> c_int {
    // A mapping is aligned as O_DIRECT wants it.
    let block = memory(1 << 16);
    let mut options = OpenOptions::new();
    let options = options.read(verb == "read").write(verb == "write");
    let begin = Instant::now();
    let result = options
        .custom_flags(O_DIRECT)
        .open(path)
        .and_then(|mut file| {
            for _ in 0..number(bytes) >> 16 {
                match verb {
                    "read" => file.read_exact(block)?,
                    _ => file.write_all(block)?,
                }
            }
            Ok(())
        });
    say(&format!("took {}", begin.elapsed().as_millis()));
    attempt(verb, result)
}
