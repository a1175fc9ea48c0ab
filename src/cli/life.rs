//! The commands about containers that others have started.

use std::ffi::OsString;

use argh::FromArgs;
use container::sys;
use linux_raw_sys::general as raw;

use super::{Action, Command, Mode, given, seconds, texts};
use crate::error::{Error, Result, error};
use crate::life::Query;
use crate::logs::{Excerpt, point};
use crate::spec;

/// What to do with running containers, whose names or ids stand beside it.
pub enum Life {
    Ps(Query),
    /// What they use; of all if none is named.
    Stats {
        json: bool,
    },
    /// All that is known of them.
    Inspect {
        explain: bool,
    },
    /// Stops them where they are, or lets them go on.
    Pause(bool),
    Kill(i32),
    /// Gives them so many seconds.
    Stop(Option<u32>),
    Wait,
    Logs(Excerpt),
    /// Removes what is left of those that have ended; with `true` ends them first.
    Remove(bool),
}

/// A command for a running container.
pub struct Exec {
    pub container: String,
    pub command: Vec<Vec<u8>>,
    /// In the order given, behind the container's own.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Absolute. `None`: the container's.
    pub workdir: Option<Vec<u8>>,
    /// Name or number in the container, and the group's if it was given. `None`: the container's.
    pub user: Option<(Vec<u8>, Option<Vec<u8>>)>,
    pub interactive: bool,
    pub tty: bool,
    /// Not waited for, and without standard streams.
    pub detach: bool,
    /// With all capabilities of the container's user namespace and all system calls.
    pub privileged: bool,
    pub mode: Mode,
}

/// Runs one more command in a running container: as its own command is run, with the same environment, user, limits and
/// protection. ID is the container's id, the beginning of it, or its name.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "exec",
    help_triggers("-h", "--help"),
    note = "Options come before ID. The command ends when mini is killed, and when the container ends.",
    example = "mini exec web ls -l /srv\n  mini exec -u 0 -e LANG=C web sh",
    error_code(125, "mini failed, or was used wrongly; nothing was run"),
    error_code(126, "the command was found but cannot be run"),
    error_code(127, "the command was not found"),
    error_code(137, "(128 + n) signal n killed the command")
)]
pub struct ExecCommand {
    /// environment variable KEY=VALUE, or KEY to pass on the caller's; repeatable
    #[argh(option, short = 'e')]
    env: Vec<String>,
    /// directory the command starts in (default: the container's)
    #[argh(option, short = 'w')]
    workdir: Option<String>,
    /// user the command runs as, USER[:GROUP], names or numbers of the container (default: the container's)
    #[argh(option, short = 'u')]
    user: Option<String>,
    /// pass standard input on even if it is a terminal and the output is not
    #[argh(switch, short = 'i')]
    interactive: bool,
    /// give the command a terminal of its own (default if input and output are terminals)
    #[argh(switch, short = 't')]
    tty: bool,
    /// return as soon as the command runs; it reads and writes /dev/null, and ends with the container
    #[argh(switch, short = 'd')]
    detach: bool,
    /// all capabilities (of the container's user namespace), all system calls, set-uid programs
    #[argh(switch)]
    privileged: bool,
    /// print every step as a system call and do nothing
    #[argh(switch)]
    dry_run: bool,
    /// print every step to standard error as it is done, with the time it took
    #[argh(switch)]
    trace: bool,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    container: String,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "CMD")]
    command: Vec<String>,
}

impl ExecCommand {
    pub(super) fn exec(self, container: String, command: Vec<Vec<u8>>) -> Result<Exec> {
        if command.is_empty() {
            return Err(Error::new("exec: no command given"));
        }
        if self.detach && (self.tty || self.interactive) {
            return Err(Error::new("--detach excludes --tty and --interactive"));
        }
        let mut environment = Vec::new();
        for variable in &self.env {
            environment.extend(spec::variable("--env", variable.as_bytes())?);
        }
        Ok(Exec {
            container,
            command,
            environment,
            workdir: given(&self.workdir, spec::workdir)?,
            user: given(&self.user, spec::user)?,
            interactive: self.interactive,
            tty: self.tty,
            detach: self.detach,
            privileged: self.privileged,
            mode: match (self.dry_run, self.trace) {
                (true, _) => Mode::DryRun,
                (_, true) => Mode::Trace,
                _ => Mode::Normal,
            },
        })
    }
}

/// Lists the containers that are running.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "ps",
    help_triggers("-h", "--help"),
    example = "mini ps\nmini stop $(mini ps -q --filter label=role=web)"
)]
pub struct PsCommand {
    /// also those in the background that have ended
    #[argh(switch, short = 'a')]
    all: bool,
    /// print the ids alone
    #[argh(switch, short = 'q')]
    quiet: bool,
    /// for programs
    #[argh(switch)]
    json: bool,
    /// only those with name=PART, status=running, paused, starting, exited or dead, label=KEY or label=KEY=VALUE; repeatable
    #[argh(option)]
    filter: Vec<String>,
}

/// Sends a signal to the commands of running containers.
#[derive(FromArgs)]
#[argh(subcommand, name = "kill", help_triggers("-h", "--help"))]
pub struct KillCommand {
    /// which one, by name or number (default: KILL, which ends the whole container; STOP stops the command until CONT)
    #[argh(option, short = 's')]
    signal: Option<String>,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    containers: Vec<String>,
}

/// Ends running containers: the stop signal, and after some seconds SIGKILL. Returns when nothing is left of them.
#[derive(FromArgs)]
#[argh(subcommand, name = "stop", help_triggers("-h", "--help"))]
pub struct StopCommand {
    /// seconds until SIGKILL (default: the container's --stop-timeout, else 10)
    #[argh(option, short = 't')]
    time: Option<String>,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    containers: Vec<String>,
}

/// Waits until containers have ended, and prints the exit status of each.
#[derive(FromArgs)]
#[argh(subcommand, name = "wait", help_triggers("-h", "--help"))]
pub struct WaitCommand {
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    containers: Vec<String>,
}

/// Shows what a container in the background has written to its standard output and error.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "logs",
    help_triggers("-h", "--help"),
    example = "mini logs -f web\n  mini logs --tail 20 --since 10m web"
)]
pub struct LogsCommand {
    /// go on until the container ends
    #[argh(switch, short = 'f')]
    follow: bool,
    /// begin with the last so many lines
    #[argh(option, short = 'n')]
    tail: Option<String>,
    /// only what was written since then: as in 90s, 10m, 2h, or as in 2026-11-22T10:29:54Z
    #[argh(option)]
    since: Option<String>,
    /// begin each line with the time when it was written
    #[argh(switch, short = 't')]
    timestamps: bool,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    container: String,
}

/// Removes what is left of containers in the background that have ended: record, log and changes.
#[derive(FromArgs)]
#[argh(subcommand, name = "rm", help_triggers("-h", "--help"))]
pub struct RmCommand {
    /// end those that are running, by SIGKILL
    #[argh(switch, short = 'f')]
    force: bool,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    containers: Vec<String>,
}

/// Shows what running containers use: memory, processor time and how long limits held it back, processes, bytes read
/// and written, kills for want of memory. - is not counted by any cgroup of the container.
#[derive(FromArgs)]
#[argh(subcommand, name = "stats", help_triggers("-h", "--help"))]
pub struct StatsCommand {
    /// for programs: bytes and microseconds
    #[argh(switch)]
    json: bool,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    containers: Vec<String>,
}

/// Shows all that is known of containers, as JSON: what was asked for, and of those that run processes, namespaces, mounts,
/// limits and protection as the kernel has them.
#[derive(FromArgs)]
#[argh(subcommand, name = "inspect", help_triggers("-h", "--help"))]
pub struct InspectCommand {
    /// for a person instead: a sentence on each thing, the ordinary command that shows it, and what of its output is meant
    #[argh(switch)]
    explain: bool,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    containers: Vec<String>,
}

/// Stops every process of running containers where it is.
#[derive(FromArgs)]
#[argh(subcommand, name = "pause", help_triggers("-h", "--help"))]
pub struct PauseCommand {
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    containers: Vec<String>,
}

/// Lets paused containers go on.
#[derive(FromArgs)]
#[argh(subcommand, name = "unpause", help_triggers("-h", "--help"))]
pub struct UnpauseCommand {
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    containers: Vec<String>,
}

/// What `command` of this name says.
pub(super) fn action(command: Command, name: &str, rest: Vec<OsString>) -> Result<Action> {
    let what = match command {
        Command::Ps(ps) => Life::Ps(ps.query()?),
        Command::Stats(StatsCommand { json, .. }) => Life::Stats { json },
        Command::Pause(_)
        | Command::Unpause(_)
        | Command::Inspect(_)
        | Command::Kill(_)
        | Command::Stop(_)
        | Command::Wait(_)
        | Command::Rm(_)
            if rest.is_empty() =>
        {
            return Err(error!("{name}: no container given"));
        }
        Command::Inspect(InspectCommand { explain, .. }) => Life::Inspect { explain },
        Command::Pause(_) => Life::Pause(true),
        Command::Unpause(_) => Life::Pause(false),
        Command::Kill(kill) => {
            let signal = given(&kill.signal, |text| spec::signal("--signal", text))?;
            Life::Kill(signal.unwrap_or(raw::SIGKILL as i32))
        }
        Command::Stop(stop) => {
            let seconds = given(&stop.time, |text| seconds("--time", text))?;
            Life::Stop(seconds)
        }
        Command::Wait(_) => Life::Wait,
        Command::Logs(logs) => Life::Logs(logs.excerpt()?),
        Command::Rm(rm) => Life::Remove(rm.force),
        _ => return Err(error!("{name}: not about running containers")),
    };
    Ok(Action::Life(what, texts(rest)?))
}

impl PsCommand {
    fn query(self) -> Result<Query> {
        let mut filters = Vec::new();
        for filter in self.filter {
            match filter.split_once('=') {
                Some((key @ ("name" | "status" | "label"), value)) => {
                    filters.push((key.to_owned(), value.to_owned()));
                }
                _ => {
                    let what = "not name=PART, status=STATUS or label=KEY[=VALUE]";
                    return Err(spec::invalid("--filter", &filter, what));
                }
            }
        }
        Ok(Query {
            all: self.all,
            quiet: self.quiet,
            json: self.json,
            filters,
        })
    }
}

impl LogsCommand {
    fn excerpt(self) -> Result<Excerpt> {
        let number = |text: &str| {
            let number = text.parse();
            number.map_err(|_| spec::invalid("--tail", text, "not a number of lines"))
        };
        let now = sys::clock(raw::CLOCK_REALTIME);
        let since = |text: &str| {
            let what = "neither a time as in 10m nor one as in 2026-11-22T10:29:54Z";
            point(text, now).ok_or_else(|| spec::invalid("--since", text, what))
        };
        Ok(Excerpt {
            follow: self.follow,
            tail: given(&self.tail, number)?,
            since: given(&self.since, since)?.unwrap_or(0),
            timestamps: self.timestamps,
        })
    }
}
