//! The life of containers that others have started: `mini ps`, `kill`, `stop`, `wait`.
//!
//! pidfd_open(2) (Linux 5.3), pidfd_send_signal(2) (5.1), flock(2). There is no daemon to ask: what is known stands in each
//! container's record (`state.rs`), and whether it runs, its supervisor's lock says. A signal goes to the container's
//! first process, which passes it on; it cannot be another with the same number, since that would not be the supervisor's
//! child, and a supervisor that has the lock is alive.

use std::path::Path;
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use container::sys;

use crate::cli::Life;
use crate::error::{Error, Result, error};
use crate::host;
use crate::output::{join, string, table};
use crate::record::Record;
use crate::state;
use crate::stats;
use crate::store;

/// What `mini ps` is to show.
pub struct Query {
    pub quiet: bool,
    pub json: bool,
    /// KEY=VALUE: name (a part of it), status, label (KEY or KEY=VALUE).
    pub filters: Vec<(String, String)>,
}

/// Carries out a command about running containers.
pub fn run(what: Life, containers: &[String]) -> Result<u8> {
    let run = host::run()?;
    let mut text = match &what {
        Life::Ps(query) => ps(&run, query)?,
        Life::Stats { json } => stats::stats(&run, containers, *json)?,
        _ => String::new(),
    };
    // What fails with one does not keep it from the others.
    let mut result = Ok(0);
    for wanted in containers {
        let done = match what {
            Life::Ps(_) | Life::Stats { .. } => Ok(()),
            Life::Pause(pause) => state::find(&run, wanted).and_then(|it| stats::pause(&it, pause)),
            Life::Kill(signal) => kill(&run, wanted, signal),
            Life::Stop(seconds) => stop(&run, wanted, seconds),
            Life::Wait => wait(&run, wanted).map(|status| text.extend([&status, "\n"])),
        };
        result = result.and_then(|ok| done.map(|()| ok));
    }
    let printed = crate::print(&text);
    result.and(printed)
}

/// The running containers.
fn ps(run: &Path, query: &Query) -> Result<String> {
    let (mut rows, mut objects, mut ids) = (Vec::new(), Vec::new(), String::new());
    for container in state::running(run)? {
        let text = |key| container.text(key).unwrap_or_default();
        let status = match (stats::paused(&container), container.text("pid")) {
            (true, _) => "paused",
            (_, None) => "starting",
            _ => "running",
        };
        let labels = container.all("label");
        let fits = |(key, value): &(String, String)| match key.as_str() {
            "name" => text("name").contains(value),
            "status" => status == value,
            _ => labels.iter().any(|label| {
                let rest = label.strip_prefix(value.as_bytes());
                rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'=' && !value.contains('='))
            }),
        };
        if !query.filters.iter().all(fits) {
            continue;
        }
        ids.extend([&container.id, "\n"]);
        let strings = |key| {
            let values: Vec<String> = container.all(key).iter().map(|it| string(it)).collect();
            join(["[", "]"], &values)
        };
        let now = sys::clock(raw::CLOCK_REALTIME) / 1_000_000_000;
        let created: u64 = text("created").parse().unwrap_or(now);
        let members = [
            ("id", string(container.id.as_bytes())),
            ("name", string(text("name").as_bytes())),
            ("image", string(text("image").as_bytes())),
            ("command", strings("command")),
            ("status", string(status.as_bytes())),
            ("created", created.to_string()),
            ("pid", container.text("pid").unwrap_or("null".into())),
            ("labels", strings("label")),
        ];
        let member = |(key, value)| format!("\"{key}\":{value}");
        objects.push(join(["{", "}"], &members.map(member)));
        let mut command = Vec::new();
        for word in container.all("command") {
            command.push(crate::error::quote(&word).trim_matches('"').to_owned());
        }
        let mut command = command.join(" ");
        if let Some((end, _)) = command.char_indices().nth(40) {
            command.replace_range(end.., "...");
        }
        let up = duration(now.saturating_sub(created));
        let image = crate::error::quote(text("image").as_bytes());
        let image = image.trim_matches('"').to_owned();
        rows.push([
            container.id.clone(),
            text("name"),
            image,
            command,
            status.into(),
            up,
        ]);
    }
    Ok(match query {
        Query { json: true, .. } => join(["[", "]\n"], &objects),
        Query { quiet: true, .. } => ids,
        _ => table(["ID", "NAME", "IMAGE", "COMMAND", "STATUS", "UP"], rows),
    })
}

/// A time in the largest unit of which there is at least one.
fn duration(seconds: u64) -> String {
    let units = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let unit = units.iter().find(|(unit, _)| seconds >= *unit);
    let (unit, name) = unit.unwrap_or(&(1, "s"));
    format!("{} {name}", seconds / unit)
}

/// A container's first process.
struct Init {
    pid: Pid,
    /// Not where the kernel has none.
    pidfd: Option<OwnedFd>,
}

impl Init {
    /// `None` if the container has ended meanwhile.
    fn of(container: &Record) -> Result<Option<Init>> {
        let number = |key| {
            container
                .text(key)
                .and_then(|text| text.parse::<i32>().ok())
        };
        let Some(pid) = number("pid").and_then(Pid::from_raw) else {
            return Err(error!(
                "container {}: it is still being started",
                container.id
            ));
        };
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()));
        let stat = stat.unwrap_or_default();
        // The fourth field; behind the name, which is the second, comes the third.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let parent = after_name.split_ascii_whitespace().nth(1);
        let parent = parent.and_then(|parent| parent.parse().ok());
        let its = parent.is_some() && parent == number("supervisor") && state::runs(container);
        Ok(its.then_some(Init { pid, pidfd }))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let sent = match &self.pidfd {
            Some(pidfd) => sys::pidfd_send_signal(pidfd, signal),
            None => sys::kill(self.pid.as_raw_pid(), signal),
        };
        match sent {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => {
                sent.map_err(|errno| Error::sys("kill", self.pid.as_raw_pid().to_string(), errno))
            }
        }
    }
}

/// Sends a signal to a container.
fn kill(run: &Path, wanted: &str, signal: i32) -> Result<()> {
    let container = state::find(run, wanted)?;
    match Init::of(&container)? {
        Some(init) => {
            // What is paused by version 1 cannot end.
            if signal == raw::SIGKILL as i32 {
                stats::pause(&container, false).ok();
            }
            init.signal(signal)
        }
        None => Err(error!("container {} has ended", container.id)),
    }
}

/// Sends a container its stop signal, after some seconds SIGKILL, and waits until nothing is left of it.
fn stop(run: &Path, wanted: &str, seconds: Option<u32>) -> Result<()> {
    let container = state::find(run, wanted)?;
    let number = |key| {
        container
            .text(key)
            .and_then(|text| text.parse::<u32>().ok())
    };
    let seconds = seconds
        .or_else(|| number("stop-timeout"))
        .unwrap_or(crate::boot::STOP_TIMEOUT);
    if let Some(init) = Init::of(&container)? {
        // One that is stopped could not end.
        stats::pause(&container, false).ok();
        init.signal(number("stop-signal").unwrap_or(raw::SIGTERM) as i32)?;
        if !init.ended(&container, seconds) {
            init.signal(raw::SIGKILL as i32)?;
        }
    }
    await_end(&container)
}

impl Init {
    /// Waits so long for its end; whether it has ended.
    fn ended(&self, container: &Record, seconds: u32) -> bool {
        if let Some(pidfd) = &self.pidfd {
            let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
            let time = Timespec {
                tv_sec: seconds.into(),
                tv_nsec: 0,
            };
            return poll(&mut fds, Some(&time)).unwrap_or(1) > 0;
        }
        for _ in 0..u64::from(seconds) * 50 {
            if !state::runs(container) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

/// Waits until the supervisor is gone.
fn await_end(container: &Record) -> Result<()> {
    match store::lock(&container.directory, FlockOperation::LockShared) {
        // The directory is gone already.
        Err(_) if !container.directory.exists() => Ok(()),
        locked => locked.map(drop),
    }
}

/// Waits for a container's end, and returns the status it ended with.
fn wait(run: &Path, wanted: &str) -> Result<String> {
    let container = state::find(run, wanted)?;
    // It has the status before its name goes.
    let record = std::fs::File::open(container.directory.join(crate::record::RECORD));
    await_end(&container)?;
    let mut text = String::new();
    if let Ok(mut record) = record {
        let _ = std::io::Read::read_to_string(&mut record, &mut text);
    }
    let status = text.lines().find_map(|line| line.strip_prefix("status "));
    match status {
        Some(status) => Ok(status.to_owned()),
        None => Err(error!(
            "container {}: its supervisor has ended without a status",
            container.id
        )),
    }
}
