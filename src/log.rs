//! What a container in the background writes to its standard output and error: files `log.N` beside its record, of which
//! `mini logs` (`logs.rs`) shows lines. Entry: [`Log`]. ftruncate(2), pipe(7).
//!
//! The format is the one of Kubernetes' CRI, an entry for each line, with the time when it was read:
//!
//!     2026-11-22T20:10:11.123456789Z stdout F a line
//!     2026-11-22T20:10:11.123456789Z stderr P the beginning of one that goes on in the next entry of the same stream
//!
//! Bounds: in memory a line of 16 KiB for each stream (a longer one is split), and as much that is to be written; on disk
//! two files, which have together what `--log-max` says. Once `log.7` has half of it, `log.8` is begun and `log.6` removed:
//! nothing is torn by that, and whoever reads them can tell whether one is missing. They are reached through a descriptor
//! of the directory: the supervisor has a tmpfs over the path. If they cannot be written to (ENOSPC), lines are dropped, and counted, and an entry says so as
//! soon as there is room: the container does not wait for the disk. It does wait, as for any reader of a pipe, if it writes
//! faster than its supervisor can.
//!
//! Left out: fsync(2), compression. What the supervisor has not read when it is killed, at most a line of each stream, is lost.

use std::fmt::Write;

use linux_raw_sys::general as raw;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, ftruncate, openat, unlinkat,
};
use rustix::io::{Errno, read, write};

use container::sys;

use crate::image::remove::for_each_entry;
use crate::output::rfc3339;

/// What the files are called, before their number.
pub const NAME: &str = "log.";

/// Bytes of a line that are one entry.
pub const LINE: usize = 16 * 1024;

/// Bytes that both files may have, unless told otherwise, and at least: room for an entry in each.
pub const MOST: u64 = 1 << 20;
pub const LEAST: u64 = 64 * 1024;

/// Bytes of an entry before its line, and behind it.
pub const HEAD: usize = "2026-11-22T20:10:11.123456789Z stdout F \n".len();

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// One of the container's streams.
struct Stream {
    name: &'static str,
    /// Until its end.
    from: Option<OwnedFd>,
    /// What has been read of a line that has not ended.
    line: Vec<u8>,
}

pub struct Log {
    /// Of the container, once it is there.
    directory: Option<OwnedFd>,
    file: Option<OwnedFd>,
    number: u64,
    /// Bytes in the file, and how many are enough.
    size: u64,
    half: u64,
    streams: Vec<Stream>,
    /// Whole entries that are to be written.
    entries: Vec<u8>,
    /// Lines that could not be.
    lost: u64,
    /// When the last of them were read: the second, and all of it as text.
    time: (u64, String),
    /// What an entry is called whose line has not ended when the container has: another run may write to the same files.
    last: &'static str,
}

impl Log {
    pub fn new(most: u64, again: bool) -> Log {
        Log {
            directory: None,
            file: None,
            number: 0,
            size: 0,
            half: most / 2,
            streams: Vec::new(),
            entries: Vec::new(),
            lost: 0,
            time: (u64::MAX, String::new()),
            last: if again { "F" } else { "P" },
        }
    }

    /// Reads a stream from now on.
    pub fn add(&mut self, name: &'static str, from: OwnedFd) {
        self.streams.push(Stream {
            name,
            from: Some(from),
            line: Vec::new(),
        });
    }

    /// Begins to write, in this directory, to the file that is the last one there.
    pub fn open(&mut self, directory: OwnedFd) -> rustix::io::Result<()> {
        self.number = numbers(&directory).last().copied().unwrap_or(0);
        let file = create(&directory, self.number)?;
        self.size = fstat(&file)?.st_size as u64;
        (self.directory, self.file) = (Some(directory), Some(file));
        Ok(())
    }

    /// What to poll for, for each stream; `None` if it has ended.
    pub fn interests(&self) -> impl Iterator<Item = Option<PollFd<'_>>> {
        let from = self.streams.iter().map(|stream| stream.from.as_ref());
        from.map(|from| from.map(|from| PollFd::new(from, PollFlags::IN)))
    }

    /// Reads once from a stream, and writes what lines that gives. Whether there was something.
    pub fn pump(&mut self, index: usize) -> bool {
        let Some(stream) = self.streams.get_mut(index) else {
            return false;
        };
        let mut line = std::mem::take(&mut stream.line);
        let held = line.len();
        line.resize(LINE, 0);
        let count = match stream
            .from
            .as_ref()
            .map(|from| read(from, &mut line[held..]))
        {
            Some(Err(Errno::AGAIN | Errno::INTR)) => None,
            // A terminal that was hung up is EIO.
            Some(Ok(0) | Err(_)) | None => {
                stream.from = None;
                None
            }
            Some(Ok(count)) => Some(count),
        };
        let name = stream.name;
        self.clock();
        line.truncate(held + count.unwrap_or(0));
        let mut start = 0;
        while let Some(length) = line[start.max(held)..]
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let end = start.max(held) + length;
            self.entry(name, "F", &line[start..end]);
            start = end + 1;
        }
        line.drain(..start);
        if line.len() == LINE {
            self.entry(name, "P", &line);
            line.clear();
        }
        self.flush();
        // A quiet container costs no memory.
        line.shrink_to_fit();
        self.entries = Vec::new();
        self.streams[index].line = line;
        count.is_some()
    }

    /// Takes what is in the pipes when nobody writes to them any more; what has not ended is a line as well.
    pub fn finish(&mut self) {
        for index in 0..self.streams.len() {
            if let Some(from) = &self.streams[index].from {
                // A pipe or pty of mini's own.
                let _ =
                    fcntl_getfl(from).and_then(|flags| fcntl_setfl(from, flags | OFlags::NONBLOCK));
            }
            // A pipe has a megabyte at most; with --pid host somebody may go on.
            let mut most = 2 * (1 << 20) / LINE;
            while self.pump(index) && most > 0 {
                most -= 1;
            }
            let line = std::mem::take(&mut self.streams[index].line);
            if !line.is_empty() {
                self.entry(self.streams[index].name, self.last, &line);
            }
            self.streams[index].from = None;
        }
        self.flush();
    }

    /// A line of mini's own.
    pub fn say(&mut self, text: &str) {
        self.clock();
        self.entry("stderr", "F", text.as_bytes());
        self.flush();
    }

    /// Takes the time for the entries that follow.
    fn clock(&mut self) {
        let now = sys::clock(raw::CLOCK_REALTIME);
        let (second, nanosecond) = (now / SECOND, now % SECOND);
        let (last, text) = &mut self.time;
        if *last != second {
            (*last, *text) = (second, rfc3339(second));
        }
        // As far as 2026-11-22T20:10:11.
        text.truncate(19);
        let _ = write!(text, ".{nanosecond:09}Z");
    }

    fn entry(&mut self, stream: &str, kind: &str, line: &[u8]) {
        let room = LINE.saturating_sub(self.entries.len() + line.len());
        if room < HEAD {
            self.flush();
        }
        for part in [&self.time.1, " ", stream, " ", kind, " "] {
            self.entries.extend_from_slice(part.as_bytes());
        }
        self.entries.extend_from_slice(line);
        self.entries.push(b'\n');
    }

    /// Writes the entries, or gives them up.
    fn flush(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() {
            return;
        }
        let lost = self.lost;
        if lost > 0 {
            self.lost = 0;
            let text = format!("mini: {lost} lines are lost: the log could not be written");
            self.entry("stderr", "F", text.as_bytes());
            let note = std::mem::take(&mut self.entries);
            if self.append(&note) == 0 {
                self.lost = lost;
            }
        }
        let written = if self.lost > 0 {
            0
        } else {
            self.append(&entries)
        };
        let rest = entries[written..].iter();
        self.lost += rest.filter(|byte| **byte == b'\n').count() as u64;
        self.entries = entries;
        self.entries.clear();
    }

    /// Adds whole entries to the file; how many bytes of them it took.
    fn append(&mut self, entries: &[u8]) -> usize {
        if self.size > 0 && self.size + entries.len() as u64 > self.half {
            self.rotate();
        }
        if self.file.is_none() {
            let directory = self.directory.as_ref();
            self.file = directory.and_then(|it| create(it, self.number).ok());
        }
        let Some(file) = &self.file else {
            return 0;
        };
        let count = write(file, entries).unwrap_or(0);
        let whole = entries[..count].iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        self.size += whole as u64;
        if whole < count {
            // Whoever reads it meanwhile takes whole lines alone.
            let _ = ftruncate(file, self.size);
        }
        whole
    }

    fn rotate(&mut self) {
        let Some(directory) = &self.directory else {
            return;
        };
        // Before there is a new one: it may need the room.
        if let Some(old) = self.number.checked_sub(1) {
            let _ = unlinkat(directory, name(old).as_str(), AtFlags::empty());
        }
        self.number += 1;
        (self.file, self.size) = (create(directory, self.number).ok(), 0);
    }
}

pub fn name(number: u64) -> String {
    format!("{NAME}{number}")
}

/// The numbers of the files in a container's directory, in order.
pub fn numbers(directory: impl AsFd) -> Vec<u64> {
    let mut numbers = Vec::new();
    // A descriptor of its own, which begins with the first entry.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = openat(directory, ".", flags, Mode::empty()) else {
        return numbers;
    };
    let _ = for_each_entry(directory.as_fd(), &mut |name| {
        let name = name.to_str().ok();
        let number = name.and_then(|name| name.strip_prefix(NAME)?.parse::<u64>().ok());
        numbers.extend(number);
        Ok(())
    });
    numbers.sort_unstable();
    numbers
}

fn create(directory: impl AsFd, number: u64) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    openat(
        directory,
        name(number).as_str(),
        flags | OFlags::NOFOLLOW,
        mode,
    )
}
