//! `mini logs`: shows what a container in the background has written (`log.rs`). Entry: [`show`]. inotify(7), flock(2).
//!
//! It reads the files in their order, each through a descriptor that it holds, so that a rotation takes nothing from it that
//! it has begun with. With `-f` it waits for the kernel to say that something has been written in the directory, and reads
//! on; once there is a file of the next number, the one before is complete. A process of its own waits for the container's
//! lock, which tells the end, however the supervisor died. Only if files have come and gone meanwhile something is missing,
//! and that is said.

use std::os::unix::ffi::OsStrExt;

use linux_raw_sys::general as raw;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags, inotify, openat};
use rustix::io::{pread, write};
use rustix::pipe::{PipeFlags, pipe_with};

use container::sys;

use crate::error::{Error, Result, error, say};
use crate::log::{HEAD, LINE, name, numbers};
use crate::output::{days_of, leap, rfc3339};
use crate::record::Record;
use crate::store::{self, open_directory};

/// What `mini logs` is to show.
pub struct Excerpt {
    pub follow: bool,
    /// Only so many lines, the last ones.
    pub tail: Option<u64>,
    /// Nanoseconds since 1970.
    pub since: u64,
    pub timestamps: bool,
}

/// One of the files, and how far it has been read: so many bytes, which end with an entry.
struct Part {
    number: u64,
    file: OwnedFd,
    at: u64,
}

impl Part {
    fn open(directory: &OwnedFd, number: u64) -> Option<Part> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, name(number).as_str(), flags, Mode::empty()).ok()?;
        Some(Part {
            number,
            file,
            at: 0,
        })
    }

    /// Gives every whole entry from where it is to the end of the file to `show`.
    fn read(&mut self, show: &mut Show) -> Result<()> {
        let mut buffer = vec![0; 2 * (LINE + HEAD)];
        loop {
            let count = pread(&self.file, &mut buffer[..], self.at)
                .map_err(|errno| Error::sys("read", name(self.number), errno))?;
            let Some(last) = buffer[..count].iter().rposition(|byte| *byte == b'\n') else {
                return Ok(());
            };
            for entry in buffer[..last].split(|byte| *byte == b'\n') {
                show.entry(entry)?;
            }
            self.at += last as u64 + 1;
        }
    }
}

/// The first file with this number or a higher one.
fn first(directory: &OwnedFd, least: u64) -> Option<Part> {
    loop {
        let mut numbers = numbers(directory).into_iter();
        let number = numbers.find(|number| *number >= least)?;
        // It may be gone by now, and another one there.
        if let Some(part) = Part::open(directory, number) {
            return Some(part);
        }
    }
}

/// Which lines are shown, and how.
struct Show {
    /// The text of the time before which nothing is.
    since: String,
    timestamps: bool,
    /// Lines that are still to be passed over.
    skip: u64,
    /// Lines so far.
    lines: u64,
    /// For standard output and error: whether the last line goes on, and whether it is shown.
    open: [(bool, bool); 2],
    output: [Vec<u8>; 2],
    /// Only counts them.
    count: bool,
}

impl Show {
    fn entry(&mut self, entry: &[u8]) -> Result<()> {
        // Whatever is not an entry of ours is passed over.
        let mut parts = entry.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(kind), Some(line)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(());
        };
        if time < self.since.as_bytes() {
            return Ok(());
        }
        let number = usize::from(stream == b"stderr");
        let (goes_on, shown) = &mut self.open[number];
        if !*goes_on {
            self.lines += 1;
            *shown = self.lines > self.skip && !self.count;
        }
        let begins = !std::mem::replace(goes_on, kind == b"P");
        if !*shown {
            return Ok(());
        }
        let output = &mut self.output[number];
        if begins && self.timestamps {
            output.extend_from_slice(time);
            output.push(b' ');
        }
        output.extend_from_slice(line);
        if kind != b"P" {
            output.push(b'\n');
        }
        // Where both go to the same place they stay in order.
        self.flush(1 - number)?;
        match self.output[number].len() > LINE {
            true => self.flush(number),
            false => Ok(()),
        }
    }

    fn flush(&mut self, number: usize) -> Result<()> {
        let (mut done, output) = (0, &mut self.output[number]);
        while done < output.len() {
            match write(sys::borrow(number as i32 + 1), &output[done..]) {
                Ok(count) => done += count,
                Err(errno) => {
                    let name = ["standard output", "standard error"][number];
                    return Err(Error::sys("write", name, errno));
                }
            }
        }
        output.clear();
        Ok(())
    }
}

/// Shows the log of a container.
pub fn show(container: &Record, excerpt: &Excerpt) -> Result<()> {
    // Who reads may have seen enough, as `head` has.
    sys::default_signal(raw::SIGPIPE);
    let path = &container.directory;
    let bytes = path.as_os_str().as_bytes();
    let failed = |operation: &'static str| move |errno| Error::sys(operation, bytes, errno);
    let directory = open_directory(path).map_err(failed("open"))?;
    // Before looking what there is.
    let watch = match excerpt.follow {
        true => Some(Watch::new(container).map_err(failed("inotify_add_watch"))?),
        false => None,
    };
    let mut show = Show {
        since: stamp(excerpt.since),
        timestamps: excerpt.timestamps,
        skip: 0,
        lines: 0,
        open: [(false, false); 2],
        output: [Vec::new(), Vec::new()],
        count: true,
    };
    let Some(mut part) = first(&directory, 0) else {
        let error = error!("container {}: it has no log", container.id);
        return Err(error.hint("mini run -d keeps one, unless --log says otherwise"));
    };
    let mut parts = Vec::new();
    while let Some(tail) = excerpt.tail {
        // All are held until they are shown.
        part.read(&mut show)?;
        let next = first(&directory, part.number + 1);
        part.at = 0;
        parts.push(part);
        if let Some(next) = next {
            part = next;
            continue;
        }
        show.skip = show.lines.saturating_sub(tail);
        (show.lines, show.open) = (0, [(false, false); 2]);
        part = parts.remove(0);
        break;
    }
    show.count = false;
    loop {
        // Whoever has ended has written all that there is to be read now.
        let ended = watch.as_ref().is_none_or(Watch::ended);
        part.read(&mut show)?;
        let next = match parts.is_empty() {
            true => first(&directory, part.number + 1),
            false => Some(parts.remove(0)),
        };
        if let Some(next) = next {
            // It was complete before the next one was there.
            part.read(&mut show)?;
            if next.number != part.number + 1 {
                show.flush(0)?;
                show.flush(1)?;
                say(
                    "mini: lines are missing here: they were written faster than they could be read\n",
                );
            }
            part = next;
            continue;
        }
        show.flush(0)?;
        show.flush(1)?;
        match &watch {
            Some(watch) if !ended => watch.wait(),
            _ => return Ok(()),
        }
    }
}

/// Tells when there is something new.
struct Watch {
    inotify: OwnedFd,
    /// End of file once the container has ended.
    ended: OwnedFd,
}

impl Watch {
    fn new(container: &Record) -> rustix::io::Result<Watch> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags)?;
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        let path = container.directory.as_os_str().as_bytes();
        inotify::add_watch(&inotify, path, events)?;
        let (ended, alive) = pipe_with(PipeFlags::CLOEXEC)?;
        let (directory, this) = (&container.directory, rustix::process::getpid());
        let reader = ended.as_raw_fd();
        sys::clone(0, || {
            sys::close(reader);
            let _ = sys::set_parent_death_signal(raw::SIGKILL as i32);
            if rustix::process::getppid() == Some(this) {
                // If the directory is gone, so is the container.
                let _ = store::lock(directory, FlockOperation::LockShared);
            }
            drop(alive);
            0
        })?;
        Ok(Watch { inotify, ended })
    }

    fn ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.ended, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&Default::default()));
        !fds[0].revents().is_empty()
    }

    /// Waits for something to be written, or for the end.
    fn wait(&self) {
        let mut fds = [&self.inotify, &self.ended].map(|fd| PollFd::new(fd, PollFlags::IN));
        let _ = poll(&mut fds, None);
        // What has happened is seen in the files.
        let mut events = [0; 4096];
        while rustix::io::read(&self.inotify, &mut events).is_ok_and(|count| count > 0) {}
    }
}

/// A time as an entry has it.
fn stamp(nanoseconds: u64) -> String {
    let mut text = rfc3339(nanoseconds / SECOND);
    text.pop();
    format!("{text}.{:09}Z", nanoseconds % SECOND)
}

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// A point in time, in nanoseconds since 1970: so long before `now` (`90`, `10s`, `5m`, `2h`, `1d`), or as RFC 3339 has it,
/// with `Z` or an offset, and with a fraction of up to nine digits or none (`2026-11-22T10:29:54.5+01:00`).
pub fn point(text: &str, now: u64) -> Option<u64> {
    let number = |text: &str| {
        let decimal = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| decimal)
    };
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("", 1)];
    let (digits, unit) = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
    if let Some(count) = number(digits) {
        let before = count.saturating_mul(unit * SECOND);
        return Some(now.saturating_sub(before));
    }
    let (date, rest) = text.split_at_checked(10)?;
    let (clock, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let three = |text: &str, by: char| {
        let mut parts = text.split(by).map(number);
        let all = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(all)
    };
    let ((year, month, day), (hour, minute, second)) = (three(date, '-')?, three(clock, ':')?);
    if !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let end = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(end);
    let nanoseconds = match fraction.strip_prefix('.') {
        Some(digits) if (1..=9).contains(&digits.len()) => {
            number(digits)? * 10u64.pow(9 - digits.len() as u32)
        }
        None if fraction.is_empty() => 0,
        _ => return None,
    };
    let days = (1970..year).map(|year| if leap(year) { 366 } else { 365 });
    let months = (1..month).map(|month| days_of(year, month));
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let days = days.sum::<u64>() + months.sum::<u64>() + day - 1;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let seconds = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => seconds,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let offset = number(hours)?.checked_mul(3600)? + number(minutes)?.min(59) * 60;
            match sign {
                "+" => seconds.checked_sub(offset)?,
                _ => seconds.checked_add(offset)?,
            }
        }
    };
    seconds.checked_mul(SECOND)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        let now = 1_795_343_394 * SECOND + 5;
        for (text, seconds) in [
            ("10", 1_795_343_384),
            ("10s", 1_795_343_384),
            ("2m", 1_795_343_274),
            ("1h", 1_795_339_794),
            ("1d", 1_795_256_994),
        ] {
            assert_eq!(point(text, now), Some(seconds * SECOND + 5), "{text}");
        }
        assert_eq!(point("99999999d", now), Some(0));
        for (text, point_) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-28T23:59:59Z", 951_782_399 * SECOND),
            (
                "2026-11-22T10:29:54.25Z",
                1_795_343_394 * SECOND + SECOND / 4,
            ),
            (
                "2026-11-22 11:29:54.000000001+01:00",
                1_795_343_394 * SECOND + 1,
            ),
            ("2026-11-22T05:59:54-04:30", 1_795_343_394 * SECOND),
        ] {
            assert_eq!(point(text, now), Some(point_), "{text}");
        }
        for text in [
            "",
            "s",
            "-1s",
            "+1",
            "1w",
            "10 s",
            "2026-11-22",
            "2026-11-22T10:29:54",
            "2026-02-29T10:29:54Z",
            "2026-13-01T10:29:54Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T10:29:54.Z",
            "2026-11-22T10:29:54.1234567890Z",
            "1969-12-31T23:59:59Z",
            "2026-11-22T10:29:54ZZ",
            "1970-01-01T00:00:00+01:00",
            "99999999999999999999d",
            "2026-11-22T10:29:54+1",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(point(text, now), None, "{text}");
        }
    }
}
