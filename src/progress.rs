//! A progress bar on the terminal that standard error is, for what takes more than a moment.
//!
//! One line that is written over itself: bytes, rate and the time that is left. Nothing else learns of it: where
//! standard error is not a terminal, or with `--quiet`, nothing is written at all.

use std::io::IsTerminal;

use linux_raw_sys::general::CLOCK_MONOTONIC;

use crate::error::{quote, say};

/// Nanoseconds until it appears, and between two lines.
const PATIENCE: u64 = 500_000_000;
const PAUSE: u64 = 100_000_000;

pub struct Progress {
    label: String,
    /// Bytes at the end, if that is known.
    total: Option<u64>,
    done: u64,
    /// Nanoseconds; nothing is shown before `next`.
    began: u64,
    next: u64,
    visible: bool,
}

impl Progress {
    /// For so many bytes of what is called `label`; `quiet` shows nothing.
    pub fn new(label: &[u8], total: Option<u64>, quiet: bool) -> Progress {
        let silent = quiet || !std::io::stderr().is_terminal();
        let began = if silent { 0 } else { now() };
        let label = label.rsplit(|byte| *byte == b'/').next().unwrap_or(label);
        Progress {
            label: quote(label).trim_matches('"').chars().take(24).collect(),
            total: total.filter(|total| *total > 0),
            done: 0,
            began,
            next: if silent { u64::MAX } else { began + PATIENCE },
            visible: false,
        }
    }

    /// Takes note of more bytes.
    pub fn add(&mut self, bytes: u64) {
        self.at(self.done + bytes);
    }

    /// Takes note of how many bytes there were so far.
    pub fn at(&mut self, bytes: u64) {
        self.done = bytes;
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
        let rate = self.done.saturating_mul(1000) / milliseconds.max(1);
        let (label, done, per_second) = (&self.label, size(self.done), size(rate));
        let Some(total) = self.total else {
            return format!("mini: {label} {done}, {per_second}/s");
        };
        let part = (self.done.min(total) * 20).checked_div(total).unwrap_or(0) as usize;
        let left = total
            .saturating_sub(self.done)
            .checked_div(rate)
            .unwrap_or(0);
        format!(
            "mini: {label} [{:20}] {done} of {}, {per_second}/s, {}:{:02} left",
            &"####################"[..part],
            size(total),
            left / 60,
            left % 60
        )
    }
}

impl Drop for Progress {
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
        let mut progress = Progress::new(b"/x/debian.tar", Some(200_000_000), true);
        progress.add(50_000_000);
        assert_eq!(
            progress.line(500),
            "mini: debian.tar [#####               ] 50 MB of 200 MB, 100 MB/s, 0:01 left"
        );
        progress.total = None;
        assert_eq!(progress.line(1), "mini: debian.tar 50 MB, 50 GB/s");
        assert_eq!(size(999_499), "999 kB");
    }
}
