//! What a container uses, as its cgroups count it.
//!
//! cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ (memory, blkio-controller) of
//! the kernel. What no cgroup of a container counts is unknown, shown as `-`, in JSON null: which controllers it has,
//! its limits decide (on version 1 each costs the start some 60 us). Processor time is then taken from /proc (proc(5)).

use std::path::{Path, PathBuf};

use crate::cgroup::{read, tasks};
use crate::proc;

/// What is counted: its name in JSON, and where it stands in version 2 and in version 1. A file alone is one number; behind
/// a colon is the name in front of the number, behind a `*` what is in front of each that is to be added.
#[rustfmt::skip]
pub const FIGURES: [(&str, &str, &str); 13] = [
    ("memory", "memory.current", "memory.usage_in_bytes"),
    ("memory_peak", "memory.peak", "memory.max_usage_in_bytes"),
    ("memory_limit", "memory.max", "memory.limit_in_bytes"),
    ("cpu_usec", "cpu.stat:usage_usec", "cpuacct.usage"),
    ("throttled_usec", "cpu.stat:throttled_usec", "cpu.stat:throttled_time"),
    ("throttled", "cpu.stat:nr_throttled", "cpu.stat:nr_throttled"),
    ("pids", "pids.current", "pids.current"),
    ("pids_limit", "pids.max", "pids.max"),
    ("read_bytes", "io.stat* rbytes=", "blkio.throttle.io_service_bytes* Read "),
    ("written_bytes", "io.stat* wbytes=", "blkio.throttle.io_service_bytes* Write "),
    ("oom_kills", "memory.events:oom_kill", "memory.oom_control:oom_kill"),
    ("oom_group_kills", "memory.events:oom_group_kill", ""),
    ("paused", "cgroup.freeze", "freezer.self_freezing"),
];
const NANOSECONDS: [&str; 2] = ["cpuacct.usage", "cpu.stat:throttled_time"];

/// The figure of this name, from whichever of a container's cgroups has it. `None`: none has, or it is unlimited.
pub fn figure(name: &str, cgroups: &[PathBuf]) -> Option<u64> {
    let (_, new, old) = FIGURES.iter().find(|(known, ..)| *known == name)?;
    let found = cgroups.iter().find_map(|cgroup| {
        let v2 = cgroup.join("cgroup.events").exists();
        let place = if v2 { new } else { old };
        let value = number(cgroup, place)?;
        Some(if !v2 && NANOSECONDS.contains(place) {
            value / 1000
        } else {
            value
        })
    });
    match name {
        "cpu_usec" => found.or_else(|| processor_time(cgroups)),
        _ => found,
    }
}

fn number(cgroup: &Path, place: &str) -> Option<u64> {
    let (file, key) = place.split_once([':', '*']).unwrap_or((place, ""));
    let text = proc::read(cgroup.join(file)).ok()?;
    let first = |text: &str| text.split_ascii_whitespace().next()?.parse::<u64>().ok();
    match place.contains('*') {
        true => Some(text.split(key).skip(1).filter_map(first).sum()),
        // Version 1 says that there is no limit by a number of 63 bits.
        false if key.is_empty() => first(&text).filter(|number| *number < 1 << 62),
        false => text.lines().find_map(|line| first(line.strip_prefix(key)?)),
    }
}

/// Microseconds that the processes in a cgroup have run for, with those of their children that are gone.
fn processor_time(cgroups: &[PathBuf]) -> Option<u64> {
    let mut ticks = 0;
    for pid in tasks(cgroups.first()?) {
        // Fields 14 to 17.
        let stat = proc::stat(pid);
        let fields = stat.iter().skip(14 - 3).take(4);
        let numbers = fields.filter_map(|field| field.parse::<u64>().ok());
        ticks += numbers.sum::<u64>();
    }
    // USER_HZ is 100 on every architecture that mini is built for.
    Some(ticks * 10_000)
}

/// How a container ended that the kernel killed for its memory; `None` if it did not.
pub fn out_of_memory(cgroups: &[PathBuf]) -> Option<String> {
    // Where the container goes whole, there is a count of that (Linux 5.17), and others do not matter.
    let whole = cgroups
        .iter()
        .any(|cgroup| read(&cgroup.join("memory.oom.group")) == "1");
    let whole = figure("oom_group_kills", cgroups).filter(|_| whole);
    whole
        .or_else(|| figure("oom_kills", cgroups))
        .filter(|kills| *kills > 0)?;
    let mut parts = Vec::new();
    for (what, name) in [("limit", "memory_limit"), ("peak", "memory_peak")] {
        let value = figure(name, cgroups).map(|bytes| format!("{what} {}", binary(bytes)));
        parts.extend(value);
    }
    Some(format!("out of memory ({})", parts.join(", ")))
}

/// An amount of memory, in the unit that limits are given in.
pub fn binary(bytes: u64) -> String {
    match bytes >> 20 {
        0..10 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}
