//! The life of containers that others have started: `mini ps`, `stats`, `kill`, `stop`, `wait`.
//!
//! pidfd_open(2) (Linux 5.3), pidfd_send_signal(2) (5.1), flock(2). There is no daemon to ask: what is known stands in each
//! container's record (`state.rs`), and whether it runs, its supervisor's lock says. A signal goes to the container's
//! first process, which passes it on; it cannot be another with the same number, since that would not be the supervisor's
//! child, and a supervisor that has the lock is alive.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::fd::OwnedFd;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use container::sys;

use crate::cli::life::Life;
use crate::detach;
use crate::error::{Error, Result, error, escape};
use crate::host;
use crate::inspect;
use crate::logs;
use crate::output::{join, or_null, string, table};
use crate::pause;
use crate::proc;
use crate::record::{RECORD, Record};
use crate::state;
use crate::stats::{FIGURES, binary, figure};
use crate::store;

/// What `mini ps` is to show.
pub struct Query {
    /// Also those that have ended.
    pub all: bool,
    pub quiet: bool,
    pub json: bool,
    /// KEY=VALUE: name (a part of it), status, label (KEY or KEY=VALUE).
    pub filters: Vec<(String, String)>,
}

/// Carries out a command about running containers.
pub fn run(what: Life, containers: &[String]) -> Result<u8> {
    let run = host::run()?;
    state::sweep(&run, usize::MAX)?;
    let mut text = match &what {
        Life::Ps(query) => ps(&run, query)?,
        Life::Stats { json } => stats(&run, containers, *json)?,
        Life::Inspect { explain } => {
            let found = containers
                .iter()
                .map(|wanted| Ok(state::find_any(&run, wanted)?.0));
            inspect::inspect(&found.collect::<Result<Vec<_>>>()?, *explain)
        }
        _ => String::new(),
    };
    let mut found = Vec::new();
    if !matches!(
        what,
        Life::Ps(_) | Life::Stats { .. } | Life::Inspect { .. }
    ) {
        // All of them first: while one is waited for, another may end.
        found.extend(containers.iter().map(|wanted| open(&run, wanted, &what)));
    }
    // What fails with one does not keep it from the others.
    let mut result = Ok(0);
    for container in found {
        let done = container.and_then(|(container, record)| match &what {
            Life::Pause(stand) => pause::pause(&container, *stand),
            Life::Kill(signal) => kill(&container, *signal),
            Life::Stop(seconds) => stop(&run, &container, *seconds),
            Life::Logs(excerpt) => logs::show(&container, excerpt),
            Life::Remove(force) => remove(&run, &container, *force),
            _ => wait(container, record).map(|status| text.extend([&status, "\n"])),
        });
        result = result.and_then(|ok| done.map(|()| ok));
    }
    let printed = crate::print(&text);
    result.and(printed)
}

/// A container, with its record's file: the supervisor writes the status there before it takes the name away. Most commands
/// want one that is running.
fn open(run: &Path, wanted: &str, what: &Life) -> Result<(Record, File)> {
    let container = match what {
        Life::Wait | Life::Logs(_) | Life::Remove(_) => state::find_any(run, wanted)?.0,
        _ => state::find(run, wanted)?,
    };
    let record = File::open(container.directory.join(RECORD));
    let record = record.map_err(|_| ended(&container))?;
    Ok((container, record))
}

/// What a container is doing.
fn status(container: &Record, runs: bool) -> String {
    match (container.text("status"), container.text("pid")) {
        (Some(status), _) if !runs => format!("exited ({status})"),
        _ if !runs => "dead".into(),
        (Some(_), _) if container.text("keeper").is_some() => "restarting".into(),
        _ if pause::paused(container) => "paused".into(),
        (_, None) => "starting".into(),
        _ => "running".into(),
    }
}

/// The containers that are running, or all that there are.
fn ps(run: &Path, query: &Query) -> Result<String> {
    let (mut rows, mut objects, mut ids) = (Vec::new(), Vec::new(), String::new());
    for (container, runs) in state::every(run, None)? {
        if !runs && !query.all {
            continue;
        }
        let name = container.text("name");
        let pid = container.number("pid").filter(|_| runs);
        let status = status(&container, runs);
        let labels = container.all("label");
        let fits = |(key, value): &(String, String)| match key.as_str() {
            "name" => name.as_ref().is_some_and(|name| name.contains(value)),
            "status" => status == *value || status.split(' ').next() == Some(value),
            _ => labels.iter().any(|label| {
                let rest = label.strip_prefix(value.as_bytes());
                rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'=' && !value.contains('='))
            }),
        };
        if !query.filters.iter().all(fits) {
            continue;
        }
        ids.extend([&container.id, "\n"]);
        let now = sys::clock(raw::CLOCK_REALTIME) / 1_000_000_000;
        let created = container.number("created").unwrap_or(now);
        let image = container.all("image").concat();
        let (words, ports) = (container.all("command"), container.all("port"));
        let strings = |values: &[Vec<u8>]| {
            let values: Vec<String> = values.iter().map(|value| string(value)).collect();
            join(["[", "]"], &values)
        };
        let members = [
            ("id", string(container.id.as_bytes())),
            ("name", or_null(&name, |name| string(name.as_bytes()))),
            ("image", string(&image)),
            ("command", strings(&words)),
            ("status", string(status.as_bytes())),
            ("created", created.to_string()),
            ("pid", or_null(&pid, u64::to_string)),
            ("labels", strings(&labels)),
            ("ports", strings(&ports)),
        ];
        let member = |(key, value)| format!("\"{key}\":{value}");
        objects.push(join(["{", "}"], &members.map(member)));
        let mut command = escape(&words.join(&b' '));
        if let Some((end, _)) = command.char_indices().nth(40) {
            command.replace_range(end.., "...");
        }
        let up = duration(now.saturating_sub(created));
        rows.push([
            container.id,
            name.unwrap_or_default(),
            escape(&image),
            command,
            status,
            up,
            escape(&ports.join(&b", "[..])),
        ]);
    }
    Ok(match query {
        Query { json: true, .. } => join(["[", "]\n"], &objects),
        Query { quiet: true, .. } => ids,
        _ => table(
            ["ID", "NAME", "IMAGE", "COMMAND", "STATUS", "UP", "PORTS"],
            rows,
        ),
    })
}

/// What the containers of these names or ids use, or all if there are none.
fn stats(run: &Path, wanted: &[String], json: bool) -> Result<String> {
    let mut containers = Vec::new();
    match wanted {
        [] => containers = state::running(run, None)?,
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

/// A time in the largest unit of which there is at least one.
fn duration(seconds: u64) -> String {
    let units = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let unit = units.iter().find(|(unit, _)| seconds >= *unit);
    let (unit, name) = unit.unwrap_or(&(1, "s"));
    format!("{} {name}", seconds / unit)
}

/// A process, as it was when it was looked for by its number.
pub struct Process {
    pub pid: Pid,
    /// Not where the kernel has none.
    pub pidfd: Option<OwnedFd>,
}

impl Process {
    fn find(container: &Record, key: &str) -> Option<Process> {
        let pid = container
            .number(key)
            .and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        Some(Process { pid, pidfd })
    }

    /// Sends it a signal; one that has ended needs none.
    fn signal(&self, signal: i32) -> Result<()> {
        let sent = match &self.pidfd {
            Some(pidfd) => sys::pidfd_send_signal(pidfd, signal),
            None => sys::kill(self.pid.as_raw_pid(), signal),
        };
        match sent {
            Err(Errno::SRCH) => Ok(()),
            sent => {
                sent.map_err(|errno| Error::sys("kill", self.pid.as_raw_pid().to_string(), errno))
            }
        }
    }
}

/// The two processes that a container consists of for its host.
pub struct Processes {
    /// Its first process.
    pub init: Process,
    pub supervisor: Process,
}

/// A process's parent.
pub fn parent(pid: Pid) -> Option<i32> {
    // The fourth field.
    proc::stat(pid.as_raw_pid()).get(1)?.parse().ok()
}

impl Processes {
    /// `None` if the container has ended meanwhile.
    pub fn of(container: &Record) -> Result<Option<Processes>> {
        // Between two runs the record is that of the last one, whose processes are gone.
        let container = &Record::read(container.directory.clone());
        if container.text("status").is_some() {
            return match container.text("keeper") {
                Some(_) => Err(error!("container {}: it is being restarted", container.id)),
                None => Ok(None),
            };
        }
        let init = Process::find(container, "pid");
        let (Some(init), Some(supervisor)) = (init, Process::find(container, "supervisor")) else {
            let id = &container.id;
            return Err(error!("container {id}: it is still being started"));
        };
        let its = parent(init.pid) == Some(supervisor.pid.as_raw_pid()) && state::runs(container);
        Ok(its.then_some(Processes { init, supervisor }))
    }

    /// Sends a signal that is to end the container. What is paused, or stopped as by Ctrl-Z, goes on: it could not end.
    fn end(&self, container: &Record, signal: i32) -> Result<()> {
        // It need not be in a cgroup that could be paused.
        let _ = pause::pause(container, false);
        self.init.signal(signal)?;
        self.supervisor.signal(raw::SIGCONT as i32)
    }
}

pub fn ended(container: &Record) -> Error {
    error!("container {} has ended", container.id)
}

/// Sends a signal to a container.
fn kill(container: &Record, signal: i32) -> Result<()> {
    let keeper = Process::find(container, "keeper").filter(|_| state::runs(container));
    if let (true, Some(keeper)) = (signal == raw::SIGKILL as i32, keeper) {
        // That is its end: it is not to be started again, also if it does not run just now.
        keeper.signal(raw::SIGTERM as i32)?;
        return kill_kept(container);
    }
    let processes = Processes::of(container)?.ok_or_else(|| ended(container))?;
    match signal as u32 {
        raw::SIGKILL => processes.end(container, signal),
        // Nobody can catch it: init would stop, and the command go on. With this one init stops the command.
        raw::SIGSTOP if container.text("init").is_none() => {
            processes.init.signal(raw::SIGTSTP as i32)
        }
        _ => processes.init.signal(signal),
    }
}

/// Sends SIGKILL to what runs of a container that is not to be started again. It may be about to run: then one waits for
/// its number, or for the end.
fn kill_kept(container: &Record) -> Result<()> {
    while state::runs(container) {
        match Processes::of(container) {
            Ok(Some(processes)) => return processes.end(container, raw::SIGKILL as i32),
            Ok(None) => break,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(())
}

/// Sends a container its stop signal, after some seconds SIGKILL, and waits until nothing is left of it.
fn stop(run: &Path, container: &Record, seconds: Option<u32>) -> Result<()> {
    let number = |key| container.number(key).map(|number| number as u32);
    let seconds = seconds
        .or_else(|| number("stop-timeout"))
        .unwrap_or(crate::boot::STOP_TIMEOUT);
    // One that is started again: whoever does that is told to end, and tells the container.
    let kept = Process::find(container, "keeper").filter(|_| state::runs(container));
    if let Some(keeper) = kept {
        let _ = pause::pause(container, false);
        keeper.signal(raw::SIGTERM as i32)?;
        if let Ok(Some(processes)) = Processes::of(container) {
            processes.supervisor.signal(raw::SIGCONT as i32)?;
        }
        let gone = |_| {
            std::thread::sleep(Duration::from_millis(5));
            !state::runs(container)
        };
        if !(0..u64::from(seconds) * 200).any(gone) {
            kill_kept(container)?;
        }
    } else if let Some(processes) = Processes::of(container)? {
        let signal = number("stop-signal").unwrap_or(raw::SIGTERM);
        processes.end(container, signal as i32)?;
        let gone = |_| {
            std::thread::sleep(Duration::from_millis(5));
            !state::runs(container)
        };
        if !(0..u64::from(seconds) * 200).any(gone) {
            processes.end(container, raw::SIGKILL as i32)?;
        }
    }
    await_end(container)?;
    // A supervisor that was killed has left it; one that was not leaves a cgroup whose processes are still ending.
    pause::wait(container, &|| {
        let over = || state::swept(run, usize::MAX).is_err() || state::is_over(container);
        !container.directory.exists() || over()
    })
}

/// Removes what is left of a container that has ended; with `force` ends it first.
fn remove(run: &Path, container: &Record, force: bool) -> Result<()> {
    if state::lives(container)? {
        let id = &container.id;
        if !force {
            return Err(
                error!("container {id} is running").hint(&format!("mini stop {id} ends it"))
            );
        }
        stop(run, container, Some(0))?;
    }
    // It may have been one that leaves nothing.
    if !container.directory.exists() {
        return Ok(());
    }
    detach::remove(container)
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
fn wait(container: Record, mut record: File) -> Result<String> {
    await_end(&container)?;
    let mut text = Vec::new();
    let _ = record.read_to_end(&mut text);
    let record = Record::parse(container.directory, text);
    let error = || {
        let id = &record.id;
        error!("container {id}: its supervisor has ended without a status")
    };
    record.text("status").ok_or_else(error)
}
