//! `mini stats`: what running containers use, as their cgroups count it; `mini pause` and `unpause`.
//!
//! cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ (memory, blkio-controller, freezer-subsystem) of
//! the kernel. What no cgroup of a container counts is unknown, shown as `-`, in JSON null: which controllers it has,
//! its limits decide (on version 1 each costs the start some 60 us). Processor time is then taken from /proc (proc(5)).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::{read, tasks, write};
use crate::error::{Error, Result, error};
use crate::output::{join, or_null, string, table};
use crate::record::Record;
use crate::state;

/// What is counted: its name in JSON, and where it stands in version 2 and in version 1. A file alone is one number; behind
/// a colon is the name in front of the number, behind a `*` what is in front of each that is to be added.
#[rustfmt::skip]
const FIGURES: [(&str, &str, &str); 13] = [
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
fn figure(name: &str, cgroups: &[PathBuf]) -> Option<u64> {
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
    let text = fs::read_to_string(cgroup.join(file)).ok()?;
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
        let text = read(&PathBuf::from(format!("/proc/{pid}/stat")));
        // Fields 14 to 17; behind the name, which is the second and may contain anything, comes the third.
        let after_name = text.rsplit(')').next().unwrap_or_default();
        let fields = after_name.split_ascii_whitespace().skip(14 - 3).take(4);
        ticks += fields
            .filter_map(|field| field.parse::<u64>().ok())
            .sum::<u64>();
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
fn binary(bytes: u64) -> String {
    match bytes >> 20 {
        0..10 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

/// What the containers of these names or ids use, or all if there are none.
pub fn stats(run: &Path, wanted: &[String], json: bool) -> Result<String> {
    let mut containers = Vec::new();
    match wanted {
        [] => containers = state::running(run)?,
        _ => {
            for wanted in wanted {
                containers.push(state::find(run, wanted)?);
            }
        }
    }
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for container in containers {
        let (cgroups, name) = (state::cgroups(&container), container.text("name"));
        let mut members = vec![format!("\"id\":{}", string(container.id.as_bytes()))];
        let quoted = or_null(&name, |name| string(name.as_bytes()));
        members.push(format!("\"name\":{quoted}"));
        for (name, ..) in FIGURES {
            let value = figure(name, &cgroups);
            let value = or_null(&value, u64::to_string);
            members.push(format!("\"{name}\":{value}"));
        }
        objects.push(join(["{", "}"], &members));
        let show =
            |name, how: fn(u64) -> String| figure(name, &cgroups).map_or("-".to_owned(), how);
        let count = |number: u64| number.to_string();
        let seconds = |us: u64| format!("{}.{:02} s", us / 1_000_000, us / 10_000 % 100);
        let state = match figure("paused", &cgroups) {
            Some(1) => "paused",
            _ => "running",
        };
        rows.push([
            container.id.clone(),
            name.unwrap_or_default(),
            state.to_owned(),
            show("memory", binary),
            show("memory_peak", binary),
            show("memory_limit", binary),
            show("cpu_usec", seconds),
            show("throttled_usec", seconds),
            show("pids", count),
            show("pids_limit", count),
            show("read_bytes", crate::progress::size),
            show("written_bytes", crate::progress::size),
            show("oom_kills", count),
        ]);
    }
    let heads = [
        "ID",
        "NAME",
        "STATE",
        "MEMORY",
        "PEAK",
        "LIMIT",
        "CPU",
        "THROTTLED",
        "PIDS",
        "LIMIT",
        "READ",
        "WRITTEN",
        "OOM KILLS",
    ];
    Ok(match json {
        true => join(["[", "]\n"], &objects),
        false => table(heads, rows),
    })
}

/// Whether a container is paused.
pub fn paused(container: &Record) -> bool {
    figure("paused", &state::cgroups(container)) == Some(1)
}

fn put(path: PathBuf, text: &str) -> Result<()> {
    write(&path, text).map_err(|errno| Error::sys("write", path.as_os_str().as_bytes(), errno))
}

/// Stops every process of a container where it is, or lets it go on.
pub fn pause(container: &Record, pause: bool) -> Result<()> {
    if pause && container.text("pid").is_none() {
        return Err(error!(
            "container {}: it is still being started",
            container.id
        ));
    }
    let cgroups = state::cgroups(container);
    if let Some(cgroup) = cgroups
        .iter()
        .find(|path| path.join("cgroup.freeze").exists())
    {
        let freeze = |text| put(cgroup.join("cgroup.freeze"), text);
        freeze(if pause { "1" } else { "0" })?;
        let events = cgroup.join("cgroup.events");
        let wanted = if pause { "frozen 1" } else { "frozen 0" };
        return wait(container, &|| read(&events).contains(wanted))
            .inspect_err(|_| drop(freeze("0")));
    }
    let freezer = container.text("freezer").map(PathBuf::from);
    let (Some(freezer), Some(members)) = (freezer, cgroups.first()) else {
        let error = error!(
            "container {} is in no cgroup that could be stopped",
            container.id
        );
        return Err(
            error.hint("it needs version 2 or the controller freezer, and a limit: --pids-limit")
        );
    };
    if !pause {
        return match freezer.exists() {
            true => put(freezer.join("freezer.state"), "THAWED"),
            false => Ok(()),
        };
    }
    match fs::create_dir(&freezer) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(
                "mkdir",
                freezer.to_string_lossy().as_bytes(),
                error,
            ));
        }
        _ => {}
    }
    if !members.exists() {
        // The container's supervisor removes the freezer last.
        let _ = fs::remove_dir(&freezer);
        return Err(error!("container {} has ended", container.id));
    }
    // Whoever moves into a frozen cgroup is stopped; meanwhile others may have forked.
    put(freezer.join("freezer.state"), "FROZEN")?;
    wait(container, &|| {
        let inside = tasks(&freezer);
        let mut outside = tasks(members);
        outside.retain(|pid| !inside.contains(pid));
        for pid in &outside {
            // It may have ended.
            let _ = write(&freezer.join("cgroup.procs"), &pid.to_string());
        }
        outside.is_empty() && read(&freezer.join("freezer.state")) == "FROZEN"
    })
    // All or none: of a part that stands still the rest knows nothing.
    .inspect_err(|_| drop(put(freezer.join("freezer.state"), "THAWED")))
}

/// Waits until it is so, for some seconds at most: on a busy machine each move into the freezer may take many milliseconds.
pub fn wait(container: &Record, done: &dyn Fn() -> bool) -> Result<()> {
    for _ in 0..1000 {
        if done() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(error!(
        "container {}: a process does not stop, as the kernel holds it up",
        container.id
    ))
}
