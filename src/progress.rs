//! A progress bar on the terminal that standard error is, for what takes more than a moment.
//!
//! One line that is written over itself: bytes, rate and the time that is left. Nothing else learns of it: where
//! standard error is not a terminal, or with `--quiet`, nothing is written at all. Such work ends when a signal comes that
//! ends mini, so whoever tells its progress hears of that.

use std::io::IsTerminal;

use linux_raw_sys::general::CLOCK_MONOTONIC;
use rustix::fd::{BorrowedFd, OwnedFd};

#[cfg(feature = "images")]
use crate::error::{Result, error};
use crate::error::{quote, say};
use crate::run::wait_for;

/// Nanoseconds until it appears, and between two lines.
const PATIENCE: u64 = 500_000_000;
const PAUSE: u64 = 100_000_000;

pub struct Progress<'a> {
    /// Quoted.
    name: String,
    /// Bytes at the end; 0 if that is not known.
    pub total: u64,
    pub done: u64,
    /// Nanoseconds; nothing is shown before `next`.
    began: u64,
    next: u64,
    visible: bool,
    /// Can be read when a signal has come that ends mini; none where signals have their usual effect.
    interrupts: Option<&'a OwnedFd>,
}

impl<'a> Progress<'a> {
    /// Of reading or writing what is called `name`, of so many bytes; `quiet` shows nothing.
    pub fn new(
        name: &[u8],
        total: u64,
        quiet: bool,
        interrupts: Option<&'a OwnedFd>,
    ) -> Progress<'a> {
        let silent = quiet || !std::io::stderr().is_terminal();
        let began = if silent { 0 } else { now() };
        Progress {
            name: quote(name),
            total,
            done: 0,
            began,
            next: if silent { u64::MAX } else { began + PATIENCE },
            visible: false,
            interrupts,
        }
    }

    /// Waits until `source` can be read; false if a signal has come.
    pub fn wait(&self, source: BorrowedFd<'_>) -> bool {
        (self.interrupts).is_none_or(|interrupts| wait_for(interrupts, Some(source)))
    }

    /// An error if a signal has come.
    #[cfg(feature = "images")]
    pub fn check(&self) -> Result<()> {
        match self.interrupts {
            Some(interrupts) if !wait_for(interrupts, None) => {
                Err(error!("{}: interrupted", self.name))
            }
            _ => Ok(()),
        }
    }

    /// Takes note of more bytes.
    pub fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.next == u64::MAX {
            return;
        }
        let now = now();
        if now >= self.next {
            (self.next, self.visible) = (now + PAUSE, true);
            say(&format!(
                "\r{}\x1b[K",
                self.line((now - self.began) / 1_000_000)
            ));
        }
    }

    fn line(&self, milliseconds: u64) -> String {
        let last = self.name.rsplit('/').next().unwrap_or_default();
        let label: String = last.trim_matches('"').chars().take(24).collect();
        let rate = self.done.saturating_mul(1000) / milliseconds.max(1);
        let (done, total, per_second) = (size(self.done), self.total, size(rate));
        if total == 0 {
            return format!("mini: {label} {done}, {per_second}/s");
        }
        let part = (self.done.min(total) * 20 / total) as usize;
        let left = total.saturating_sub(self.done).checked_div(rate);
        let left = left.unwrap_or(0);
        format!(
            "mini: {label} [{:20}] {done} of {}, {per_second}/s, {}:{:02} left",
            &"####################"[..part],
            size(total),
            left / 60,
            left % 60
        )
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.visible {
            say("\r\x1b[K");
        }
    }
}

fn now() -> u64 {
    container::sys::clock(CLOCK_MONOTONIC)
}

/// An amount of bytes in decimal units, with two or three digits: `7.3 MB`, `121 MB`.
pub fn size(count: u64) -> String {
    let (mut tenths, mut unit) = (count.saturating_mul(10), 0);
    while tenths >= 10_000 {
        (tenths, unit) = (tenths / 1000, unit + 1);
    }
    let unit = ["B", "kB", "MB", "GB", "TB", "PB", "EB"]
        .get(unit)
        .unwrap_or(&"");
    match tenths {
        1..100 if *unit != "B" => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        _ => format!("{} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_bytes_rate_and_time_left() {
        let mut progress = Progress::new(b"/x/debian.tar", 200_000_000, true, None);
        progress.add(50_000_000);
        assert_eq!(
            progress.line(500),
            "mini: debian.tar [#####               ] 50 MB of 200 MB, 100 MB/s, 0:01 left"
        );
        progress.total = 0;
        assert_eq!(progress.line(1), "mini: debian.tar 50 MB, 50 GB/s");
        assert_eq!(size(999_499), "999 kB");
    }
}
