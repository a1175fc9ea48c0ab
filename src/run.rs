//! The supervisor of one container: carries out the plan, starts the container, waits, relays, cleans up.
//! Entry: [`run`]. signalfd(2), poll(2), unix(7).
//!
//! It is single-threaded and learns everything from one `poll`: signals, what the container reports, bytes to
//! relay. If it is killed, the kernel undoes its work: its mounts go with its mount namespace, the container's
//! first process has it as parent-death signal, its locks are released (see `store.rs`).

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid, chown, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{SendFlags, send};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use container::child::{self, Context, Environment};
use container::init;
use container::report::{self, Detail, Report};
use container::step::{Step, Target};
use container::sys::{self, Word};

use crate::cache;
use crate::cgroup;
use crate::cli::Mode as RunMode;
#[cfg(feature = "life")]
use crate::detach::{self, Caller};
use crate::error::{Error, NOT_FOUND, Result, error, path as show, reason, say};
use crate::explain::{namespace_hint, step_error};
use crate::host::{Host, probe};
#[cfg(feature = "images")]
use crate::kept;
use crate::layers::{self, Held, Layers};
#[cfg(feature = "life")]
use crate::log::Log;
#[cfg(feature = "net")]
use crate::net::{
    lease::{self, Lease},
    publish::{self, Port},
    relay,
    rootless::{self, Way},
};
use crate::plan::{Plan, RANGE, Stack, Task, Users, bind, leak, plan};
use crate::protection;
use crate::record::RECORD;
use crate::seal;
#[cfg(feature = "life")]
use crate::share;
#[cfg(feature = "life")]
use crate::spec::LogTo;
use crate::spec::{Restart, Spec};
use crate::state;
use crate::stats;
use crate::store::{self, Directory};
use crate::terminal::{Kind, Relay, Terminal};
use crate::userns;

/// Runs a container and returns the status to exit with.
pub fn run(spec: Spec, mode: RunMode) -> Result<u8> {
    carry_out(spec, mode, &mut Vec::new())
}

/// Does all that running the container takes, up to and without the execve of its command. Returns the defaults that were
/// left out, in words, or why it does not work.
pub fn rehearse(spec: Spec) -> Result<Vec<String>> {
    let (entrypoint, command) = (Some(Vec::new()), vec![Vec::new()]);
    let spec = Spec {
        entrypoint,
        command,
        detach: None,
        restart: Restart::No,
        ..spec
    };
    let mut notes = Vec::new();
    match carry_out(spec, RunMode::Normal, &mut notes) {
        // There is no command without a name: all that comes before it has been done.
        Err(error) if error.status() == NOT_FOUND => Ok(notes),
        Ok(NOT_FOUND) => Ok(notes),
        Err(error) => Err(error),
        Ok(status) => Err(error!("the container ended with status {status}")),
    }
}

fn carry_out(spec: Spec, mode: RunMode, notes: &mut Vec<String>) -> Result<u8> {
    #[cfg(feature = "life")]
    let inherited = match &spec.detach {
        Some(_) => detach::inherited(),
        None => Vec::new(),
    };
    let mut host = probe(&spec)?;
    #[cfg(feature = "life")]
    let spec = share::adapt(spec, &mut host)?;
    let signals = Signals::hold()?;
    let interrupts = Some(&signals.ending);
    let (image, held) = layers::resolve(&spec, &host, interrupts, mode == RunMode::DryRun)?;
    host.look_at(image.layers);
    let spec = spec.complete(&image.config)?;
    #[cfg(feature = "life")]
    let spec = detach::adapt(spec, &mut host);
    #[cfg(feature = "images")]
    let spec = kept::absolute(spec, &host.store);
    let spec = &spec;
    let mut plan = plan(spec, &host)?;
    #[cfg(feature = "images")]
    plan.notes
        .extend(crate::image::manifest::foreign(&image.config));
    if mode == RunMode::DryRun {
        let mut output = std::io::stdout().lock();
        (output.write_all(plan.lines().as_bytes()))
            .and_then(|()| output.flush())
            .map_err(|error| Error::io("write", "standard output", error))?;
        return Ok(0);
    }
    let trace = mode == RunMode::Trace;
    #[cfg(feature = "life")]
    if spec.detach.is_some() || spec.restart != Restart::No {
        if plan.tasks.iter().any(|task| matches!(task, Task::Seal)) {
            // That begins anew: before there are two.
            plan.notes.extend(seal::seal()?);
        }
        let mut held = Some(held);
        // In a process of its own, which has a copy of all this.
        let mut work = |caller, run: Option<detach::Run>| {
            let held = held.take().ok_or("the container was started already")?;
            if run.as_ref().is_some_and(|run| run.restarts > 0) {
                plan.go_on();
            }
            let mut supervisor = Supervisor::new(spec, &host, &mut plan, held, &signals, trace)?;
            (supervisor.caller, supervisor.run) = (Some(caller), run);
            supervise(supervisor, notes)
        };
        let path = host.run.join("running").join(&host.id);
        let mut keep = |caller: Option<Caller>| match spec.restart {
            Restart::No => caller.map_or(Ok(0), |caller| work(caller, None)),
            _ => detach::keep(spec, &path, caller, &signals.all, &mut |caller, run| {
                work(caller, Some(run))
            }),
        };
        return match spec.detach {
            None => keep(None),
            Some(_) => detach::start(&host.id, inherited, &signals.all, &mut |caller| {
                keep(Some(caller))
            }),
        };
    }
    let supervisor = Supervisor::new(spec, &host, &mut plan, held, &signals, trace)?;
    supervise(supervisor, notes)
}

/// Runs the container, from its first step to the last.
fn supervise(mut supervisor: Supervisor<'_>, notes: &mut Vec<String>) -> Result<u8> {
    let spec = supervisor.spec;
    let result = supervisor.start().and_then(|()| supervisor.watch());
    let status = result.as_ref().map_or_else(Error::status, |status| *status);
    // For mini wait; the container has ended, whether this can be written or not.
    if !supervisor.is_kept() {
        let now = sys::clock(raw::CLOCK_REALTIME) / 1_000_000_000;
        let _ = supervisor.note(&format!("status {status}\nfinished {now}\n"));
    }
    // What has no name has not run (`rehearse`), even if a filter has kept that from being told.
    let nameless = spec.command.first().is_some_and(Vec::is_empty);
    #[cfg(feature = "life")]
    if let (Err(error), Some(log)) = (&result, &mut supervisor.log) {
        log.say(&format!("mini: {error}"));
    }
    supervisor.end(result.is_ok() && !nameless);
    notes.append(&mut supervisor.notes);
    result
}

/// Runs a command in a container that runs already, and returns the status to exit with. `namespaces`: what the steps
/// enter by, in the order of their slots. When what `watched` is a pidfd of ends, the command does too.
#[cfg(feature = "life")]
pub fn join(
    spec: &Spec,
    host: &Host,
    plan: &mut Plan,
    mode: RunMode,
    namespaces: Vec<OwnedFd>,
    watched: Option<OwnedFd>,
) -> Result<u8> {
    if mode == RunMode::DryRun {
        return crate::print(&plan.lines());
    }
    let signals = Signals::hold()?;
    let held = Held {
        _record: None,
        opening: None,
    };
    let trace = mode == RunMode::Trace;
    let mut supervisor = Supervisor::new(spec, host, plan, held, &signals, trace)?;
    for (slot, namespace) in supervisor.context.namespaces.iter_mut().zip(namespaces) {
        *slot = Some(namespace);
    }
    supervisor.watched = watched;
    let result = supervisor.start().and_then(|()| supervisor.watch());
    supervisor.end(false);
    result
}

/// Mounts an image, with no container, and lets `look` have its root.
#[cfg(feature = "images")]
pub fn view(
    spec: Spec,
    host: &mut Host,
    userxattr: bool,
    look: &mut dyn FnMut(BorrowedFd<'_>) -> Result<()>,
) -> Result<()> {
    let signals = Signals::hold()?;
    let (image, held) = layers::resolve(&spec, host, Some(&signals.ending), false)?;
    host.look_at(image.layers);
    let mut plan = crate::plan::view(&spec, host, userxattr)?;
    let mut supervisor = Supervisor::new(&spec, host, &mut plan, held, &signals, false)?;
    let result = supervisor.start().and_then(|()| {
        let root = sys::open(c"root", OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| Error::sys("open", "root", errno))?;
        look(root.as_fd())
    });
    supervisor.end(false);
    result
}

/// Descriptors that signals are read from.
struct Signals {
    all: OwnedFd,
    /// Those that end mini while the container is not yet under way.
    ending: OwnedFd,
}

impl Signals {
    /// From now on a signal waits until it is read: it must not end mini with the work half done.
    fn hold() -> Result<Signals> {
        sys::default_signal(raw::SIGCHLD);
        let ignored = sys::ignored(init::ENDING);
        sys::set_signal_mask(init::FORWARDED & !ignored);
        let signalfd = |set| sys::signalfd(set).map_err(|errno| Error::sys("signalfd", "", errno));
        Ok(Signals {
            all: signalfd(init::FORWARDED & !ignored)?,
            ending: signalfd(init::ENDING & !ignored)?,
        })
    }
}

/// What has happened.
struct Ready {
    signal: bool,
    report: bool,
    /// By index, whether a relay, and behind them an output of the log, can go on.
    relays: Vec<bool>,
    /// Whether there is something to do for published ports.
    published: bool,
    /// Whether the container that a command has joined has ended.
    alone: bool,
}

struct Supervisor<'a> {
    spec: &'a Spec,
    host: &'a Host,
    plan: &'a Plan,
    /// Keeps an image under a name from being taken away.
    held: Held,
    /// Defaults that were left out: those that the plan knows of, and what turns out on the way.
    notes: Vec<String>,
    trace: bool,
    signals: &'a Signals,
    /// This side of the control socket, until the command has been executed.
    control: Option<OwnedFd>,
    context: Context,
    directories: Vec<Directory>,
    /// The container's first process, or the command in a container that runs already, until it has been waited for.
    child: Option<Pid>,
    /// The process that passes a command on to such a container.
    joiner: Option<Pid>,
    /// Its number, also when it has been waited for.
    passes: Option<Pid>,
    /// A pidfd of the container's first process, if the command would not end with it.
    watched: Option<OwnedFd>,
    /// The container's cgroup of version 2, until the clone.
    cgroup: Option<OwnedFd>,
    /// Whether a cgroup could not be removed yet.
    busy: bool,
    /// The first id of the container's range, and the file that keeps others from taking it.
    ids: Option<(u32, OwnedFd)>,
    /// The mount namespace of the container whose mounts are taken.
    #[cfg(feature = "life")]
    mounts: Option<OwnedFd>,
    relays: Vec<Relay>,
    /// In the background: who waits for the command to run, and where its output goes.
    #[cfg(feature = "life")]
    caller: Option<Caller>,
    /// Whether nothing is going to happen for a while.
    #[cfg(feature = "life")]
    forget: std::cell::Cell<bool>,
    /// If it is started again when it has ended.
    #[cfg(feature = "life")]
    run: Option<detach::Run>,
    #[cfg(feature = "life")]
    log: Option<Log>,
    #[cfg(feature = "life")]
    file: Option<OwnedFd>,
    /// The container's place on a bridge.
    #[cfg(feature = "net")]
    lease: Option<Lease>,
    /// Its way out, without a bridge.
    #[cfg(feature = "net")]
    way: Option<Way>,
    /// The host's ports that stand for the container's, and what serves them.
    #[cfg(feature = "net")]
    ports: Vec<(Port, OwnedFd)>,
    #[cfg(feature = "net")]
    published: Option<relay::Relay>,
    terminal: Option<Terminal>,
    /// Whether the new process has a network namespace of its own.
    #[cfg(feature = "net")]
    apart: bool,
    /// Whether the set-up got as far as the command's execve.
    began: bool,
}

impl<'a> Supervisor<'a> {
    fn new(
        spec: &'a Spec,
        host: &'a Host,
        plan: &'a mut Plan,
        held: Held,
        signals: &'a Signals,
        trace: bool,
    ) -> Result<Supervisor<'a>> {
        let (control, theirs) = report::channel()
            .map_err(|errno| Error::sys("socketpair", "", errno).hint("CONFIG_UNIX"))?;
        if trace || plan.joined {
            // The command's process is known by what it says, and who passes it on by its number.
            set_socket_passcred(&control, true)
                .map_err(|errno| Error::sys("setsockopt", "SO_PASSCRED", errno))?;
        }
        let joined = plan.passes();
        let mut words = std::mem::take(&mut plan.environment);
        words.push(Word::END);
        let words = words.leak();
        let room = |index| (index, vec![0; 1100].leak());
        let home = plan.home.map(room);
        Ok(Supervisor {
            spec,
            host,
            plan,
            held,
            notes: plan.notes.clone(),
            trace,
            signals,
            control: Some(control),
            context: Context {
                joined,
                ..Context::new(Some(theirs), Environment { words, home }, trace)
            },
            directories: Vec::new(),
            child: None,
            joiner: None,
            passes: None,
            watched: None,
            cgroup: None,
            busy: false,
            ids: None,
            #[cfg(feature = "life")]
            mounts: None,
            relays: Vec::new(),
            #[cfg(feature = "life")]
            caller: None,
            #[cfg(feature = "life")]
            forget: false.into(),
            #[cfg(feature = "life")]
            run: None,
            #[cfg(feature = "life")]
            log: None,
            #[cfg(feature = "life")]
            file: None,
            #[cfg(feature = "net")]
            lease: None,
            #[cfg(feature = "net")]
            way: None,
            #[cfg(feature = "net")]
            ports: Vec::new(),
            #[cfg(feature = "net")]
            published: None,
            terminal: None,
            #[cfg(feature = "net")]
            apart: false,
            began: false,
        })
    }
}

impl Supervisor<'_> {
    /// Performs the supervisor's steps; at the end the container is under way.
    fn start(&mut self) -> Result<()> {
        let mut noted = !self.trace;
        #[cfg(feature = "life")]
        if let Some(detach) = &self.spec.detach {
            let again = self.spec.restart != Restart::No;
            (self.log, self.file) = match &detach.log {
                LogTo::Own(most) => (Some(Log::new(*most, again)), None),
                to => (None, Some(detach::open(to)?)),
            };
        }
        self.streams()
            .map_err(|errno| Error::sys("pipe", "standard streams", errno))?;
        let mut swept = false;
        for task in &self.plan.tasks {
            swept |= matches!(task, Task::Sweep);
            // What takes long looks itself. A new process that has failed meanwhile ends it as well; in a trace, which has its
            // lines in the order of the plan, only at the end.
            let long = matches!(
                task,
                Task::Unpack { .. } | Task::Index { .. } | Task::Clone(_) | Task::Sweep | Task::Go
            );
            while long && !self.trace && self.has_reports() {
                self.receive()?;
            }
            if long && !wait_for(&self.signals.ending, None) {
                return Err(Error::new("interrupted before the container was started"));
            }
            if self.control.is_none() {
                return Ok(());
            }
            // Not before mini goes on from a copy of its binary, and begins anew.
            if !noted && !matches!(task, Task::Seal) {
                for note in &self.notes {
                    say(&format!("# {note}\n"));
                }
                noted = true;
            }
            if let Err(error) = self.timed(task) {
                if !swept {
                    // It may be what the dead have left that is in the way.
                    let _ = state::sweep(&self.host.run, store::SOME);
                }
                // It may be the new process that has failed, which says more.
                while self.has_reports() {
                    self.receive()?;
                }
                // If it is gone, why is found out when it is waited for.
                return self.control.as_ref().map_or(Ok(()), |_| Err(error));
            }
        }
        Ok(())
    }

    fn timed(&mut self, task: &Task) -> Result<()> {
        let started = child::nanoseconds(self.trace);
        let result = self.perform(task);
        let took = child::nanoseconds(self.trace).saturating_sub(started);
        if result.is_ok() {
            self.trace_line("supervisor", task, took);
        }
        result
    }

    fn trace_line(&self, actor: &str, step: &dyn std::fmt::Display, nanoseconds: u64) {
        if self.trace {
            // Neither floats nor u128: formatting those takes 6 KB of the binary.
            let (us, tenth) = (nanoseconds / 1000, nanoseconds / 100 % 10);
            self.say_lines(&format!("{actor:<10} {step} <{us}.{tenth} us>\n"));
        }
    }

    /// Raw mode leaves the carriage where it is.
    fn say_lines(&self, text: &str) {
        match self.terminal {
            Some(_) => say(&text.replace('\n', "\r\n")),
            None => say(text),
        }
    }

    fn perform(&mut self, task: &Task) -> Result<()> {
        match task {
            Task::Step(step) => {
                child::perform(step, &mut self.context)
                    .map_err(|errno| step_error(step, errno, &Detail::NONE, self.host))?;
                #[cfg(feature = "life")]
                if matches!(step, Step::Setns(..)) {
                    self.entered();
                }
                Ok(())
            }
            Task::Seal => {
                self.notes.extend(seal::seal()?);
                Ok(())
            }
            Task::EnterUserNamespace(map) => {
                userns::enter(map, self.host)?;
                self.entered();
                Ok(())
            }
            #[cfg(feature = "life")]
            Task::OpenNamespaces(other, ids) => {
                let opened = share::open(&self.host.run, other, ids.as_deref())?;
                for (slot, namespace) in self.context.namespaces.iter_mut().zip(opened.namespaces) {
                    *slot = Some(namespace);
                }
                (self.mounts, self.ids) = (Some(opened.mounts), opened.ids);
                Ok(())
            }
            #[cfg(feature = "life")]
            Task::TakeMount { from, to, userns } => {
                let Some(mounts) = &self.mounts else {
                    return Err(Error::new("no container to take a mount from"));
                };
                let interrupts = &self.signals.ending;
                share::take(from, to, mounts, *userns, &mut self.context, interrupts)
                    .map_err(|errno| error!("{task}: {}", reason(errno)))
            }
            #[cfg(feature = "life")]
            Task::Pass => self.pass(),
            Task::CreateDirectory(path) => {
                #[cfg(feature = "life")]
                if let Some(run) = &self.run
                    && run.directory.path() == path
                {
                    let lent = run.directory.lend();
                    let lent = lent.map_err(|errno| Error::sys("dup", "", errno))?;
                    self.directories.push(lent);
                    return Ok(());
                }
                self.directories.push(Directory::create(path)?);
                Ok(())
            }
            Task::Sweep => {
                state::sweep(&self.host.run, store::SOME)?;
                store::sweep(&self.host.store, "containers")?;
                cache::clean(&self.host.store)
            }
            Task::KeepDirectory(path) => {
                path.parent().map_or(Ok(()), store::make_private)?;
                store::make_private(path)?;
                #[cfg(feature = "images")]
                kept::write(path, self.spec, self.host, self.plan.userxattr)?;
                Ok(())
            }
            Task::Unpack { stack, to, shift } => {
                self.unpack(stack, to, if *shift { self.base() } else { 0 })
            }
            Task::Index { stack, number, to } => self.index(stack, *number, to.as_deref()),
            Task::MountFile {
                path,
                fstype,
                device,
                number,
            } => {
                let how = self.layers().mount(path, fstype, *device, *number)?;
                self.remark(&format!("{}: {how}", show(path)));
                Ok(())
            }
            Task::ClaimIds(path) => {
                self.ids = Some(userns::claim(path, &self.host.id)?);
                Ok(())
            }
            Task::Record(path, text) => {
                let name = self.spec.name.as_deref();
                self.directory(path).map_or(Ok(()), |directory| {
                    #[cfg(feature = "life")]
                    if let Some(run) = &self.run {
                        return state::write_run(directory, name, text, run.restarts);
                    }
                    state::write(directory, name, text)
                })?;
                #[cfg(feature = "life")]
                if let (Some(log), Some(directory)) = (&mut self.log, self.directories.first()) {
                    directory
                        .reopen()
                        .and_then(|directory| log.open(directory))
                        .map_err(|errno| Error::sys("open", "log", errno))?;
                }
                Ok(())
            }
            Task::Enable(path, text) => {
                cgroup::write(path, text).map_err(|errno| error!("{task}: {}", reason(errno)))
            }
            Task::Limit(file) => {
                let Err(errno) = cgroup::write(&file.path, &file.text) else {
                    return Ok(());
                };
                let why = format!("{task}: {}", reason(errno));
                match (file.optional, file.option) {
                    (true, _) => {
                        self.remark(&why);
                        self.notes.push(why);
                        Ok(())
                    }
                    (_, option) => Err(Error::from(why).hint(option)),
                }
            }
            Task::OpenCgroup(path, v2) => self
                .open_cgroup(path, *v2)
                .map_err(|errno| error!("{task}: {}", reason(errno))),
            Task::RemoveCgroup(path) => {
                self.busy |= !cgroup::remove(path);
                Ok(())
            }
            Task::Own(path) => own(path.to_bytes(), self.base()),
            Task::Clone(flags) => self.clone(task, *flags),
            Task::MapIds(users) => match users {
                Users::Range => userns::map(self.pid(), self.base(), RANGE),
                _ => userns::map(self.pid(), 0, u32::MAX),
            },
            Task::Idmap(path, recursive) => {
                let namespace = match &self.context.namespaces[0] {
                    Some(others) => format!("/proc/self/fd/{}", others.as_raw_fd()),
                    None => format!("/proc/{}/ns/user", self.pid().as_raw_pid()),
                };
                let whole = sys::open(leak(namespace), OFlags::RDONLY)
                    .and_then(|namespace| userns::idmap(path, &namespace, *recursive))
                    .map_err(|errno| {
                        let error = error!("{task}: {}", reason(errno));
                        error.hint("--userns host does without it; for a volume :noidmap")
                    })?;
                if !whole {
                    let note =
                        "below a volume are file systems that cannot be idmapped: nobody's inside";
                    self.notes.push(note.into());
                    self.remark(note);
                }
                Ok(())
            }
            Task::RaiseLimit(limit) => {
                let (pid, resource) = (self.pid().as_raw_pid(), limit.resource);
                let raise = |(soft, hard)| match hard >= limit.hard {
                    true => Ok((soft, hard)),
                    false => sys::limit(pid, resource, Some((soft, limit.hard))),
                };
                let failed =
                    |errno| step_error(&Step::Limit(*limit), errno, &Detail::NONE, self.host);
                let raised = sys::limit(pid, resource, None).and_then(raise);
                raised.map(drop).map_err(failed)
            }
            Task::OomScoreAdj(value) => {
                let path = format!("/proc/{}/oom_score_adj", self.pid().as_raw_pid());
                std::fs::write(&path, value.to_string()).map_err(|error| {
                    let error = Error::io("write", &path, error);
                    error.hint("--oom-score-adj: lowering it needs CAP_SYS_RESOURCE")
                })
            }
            #[cfg(feature = "net")]
            Task::OpenPort(port, high) => {
                self.ports.push((*port, publish::open(port, *high)?));
                Ok(())
            }
            #[cfg(feature = "net")]
            Task::JoinBridge { lease, .. } => {
                let (run, wanted) = (&self.host.run, &self.spec.network);
                let joined = lease::join(run, wanted, &self.host.id, lease);
                // A bridge may have been made for nobody.
                let lease = joined.inspect_err(|_| state::sweep_later(run))?;
                self.note(&lease.record())?;
                let doubt = lease.doubt();
                self.lease = Some(lease);
                match doubt {
                    Ok(doubt) => doubt.map_or(Ok(()), |what| self.remember(what)),
                    Err(missing) => self.tell(missing.to_string()),
                }
            }
            #[cfg(feature = "net")]
            Task::Connect => {
                self.await_network()?;
                let process = self.pid().as_raw_pid() as u32;
                (self.lease.as_ref()).map_or(Ok(()), |lease| lease.connect(process))
            }
            #[cfg(feature = "net")]
            Task::Publish(ports) => {
                let Some(lease) = &self.lease else {
                    return Ok(());
                };
                lease.publish(ports).or_else(|why| {
                    let what = "published ports are relayed, without the clients' addresses";
                    self.tell(format!("{what}: {why}"))
                })
            }
            #[cfg(feature = "net")]
            Task::Relay => {
                let ports = std::mem::take(&mut self.ports);
                if let Some(lease) = &self.lease {
                    let relay = relay::Relay::new(lease.address.into(), ports);
                    let failed = |errno| Error::sys("epoll", "ports", errno);
                    self.published = Some(relay.map_err(failed)?);
                }
                Ok(())
            }
            #[cfg(feature = "net")]
            Task::Configure => {
                let Some((control, lease)) = self.control.as_ref().zip(self.lease.as_ref()) else {
                    return Ok(());
                };
                send_packet(control, &lease.inside())
            }
            #[cfg(feature = "net")]
            Task::WayOut(program) => {
                self.await_network()?;
                let pid = self.pid().as_raw_pid();
                if rootless::is_pasta(program) {
                    let source = leak(format!("/proc/{pid}/ns/net"));
                    let bind = bind(source, Target::Path(c"netns"), 0);
                    self.perform(&Task::Step(bind))?;
                }
                let file = self
                    .host
                    .run
                    .join("running")
                    .join(&self.host.id)
                    .join("netns");
                self.way = Some(rootless::start(program, pid, &file.to_string_lossy())?);
                Ok(())
            }
            #[cfg(feature = "net")]
            Task::LeaveBridge => {
                let run = &self.host.run;
                let left = self.lease.take().map(|lease| lease.leave());
                if left.is_some_and(|left| left != Ok(false)) {
                    state::sweep_later(run);
                }
                Ok(())
            }
            Task::OpenPipes => {
                for number in 0..3 {
                    let stream = self.context.stdio[number].as_ref().map(AsFd::as_fd);
                    let stream = stream.unwrap_or(sys::borrow(number as i32));
                    open_pipe(stream, if number == 0 { Mode::ROTH } else { Mode::WOTH });
                }
                Ok(())
            }
            Task::Go => {
                let control = self.control.as_ref().expect("open until the command runs");
                self.context.stdio = [None, None, None];
                self.held.opening = None;
                // Before the command can begin: if it fails, nothing has been run.
                self.note(&format!("pid {}\n", self.pid().as_raw_pid()))?;
                send_packet(control, b"!")
            }
            Task::Unmount(path) => {
                let _ = unmount(path.as_os_str().as_bytes(), UnmountFlags::DETACH);
                Ok(())
            }
            #[cfg(feature = "life")]
            Task::LeaveDirectory(path) if self.caller.is_none() => {
                let mut all = self.directories.iter();
                if let Some(index) = all.position(|directory| directory.path() == path) {
                    self.directories.remove(index).leave();
                }
                Ok(())
            }
            // While a cgroup is there its record stays.
            Task::RemoveDirectory(path) | Task::LeaveDirectory(path)
                if self.busy && path.starts_with(&self.host.run) =>
            {
                Ok(())
            }
            Task::RemoveDirectory(path) | Task::LeaveDirectory(path) => {
                self.directories
                    .retain(|directory| directory.path() != path);
                Ok(())
            }
        }
    }

    /// A change of ids has cleared the signal.
    fn entered(&self) {
        if self.is_kept() {
            let _ = sys::set_parent_death_signal(raw::SIGKILL as i32);
        }
    }

    /// Lets the joiner go on, and waits until it says which process it has made.
    #[cfg(feature = "life")]
    fn pass(&mut self) -> Result<()> {
        self.mounts = None;
        if let Some(control) = &self.control {
            send_packet(control, b"!")?;
        }
        while self.child.is_none() {
            self.hear()?;
        }
        Ok(())
    }

    /// Waits until the new process has a network namespace of its own; before that, it is in this one.
    #[cfg(feature = "net")]
    fn await_network(&mut self) -> Result<()> {
        // Where one process passes the work on, the second one has been made with all its namespaces.
        while !self.apart && !self.plan.passes() {
            self.hear()?;
        }
        Ok(())
    }

    /// Waits for the next report of a process that has not begun with the command.
    #[cfg(any(feature = "life", feature = "net"))]
    fn hear(&mut self) -> Result<()> {
        let Some(control) = &self.control else {
            return Err(Error::new(
                "the container's first process was killed during set-up",
            ));
        };
        if !wait_for(&self.signals.ending, Some(control.as_fd())) {
            return Err(Error::new("interrupted before the container was started"));
        }
        self.receive()
    }

    fn directory(&self, path: &Path) -> Option<&Directory> {
        self.directories.iter().find(|made| made.path() == path)
    }

    /// Adds to the container's record.
    fn note(&self, lines: &str) -> Result<()> {
        let directory = self.directories.first();
        directory.map_or(Ok(()), |it| it.append(RECORD, lines.as_bytes()))
    }

    /// Says what does not work, also to whoever asks later.
    #[cfg(feature = "net")]
    fn tell(&mut self, what: String) -> Result<()> {
        self.say_lines(&format!("mini: {what}\n"));
        self.remember(what)
    }

    /// The same only for who asks.
    #[cfg(feature = "net")]
    fn remember(&mut self, what: String) -> Result<()> {
        let noted = self.note(&format!("note {what}\n"));
        self.notes.push(what);
        noted
    }

    /// The container's first process, for tasks between the clone and "go".
    fn pid(&self) -> Pid {
        let process = self.child.or(self.joiner);
        process.expect("the container is there")
    }

    /// The first id of the container's range.
    fn base(&self) -> u32 {
        self.ids.as_ref().map_or(0, |(base, _)| *base)
    }

    fn open_cgroup(&mut self, path: &Path, v2: bool) -> rustix::io::Result<()> {
        let (path, flags) = match v2 {
            true => (path.to_owned(), OFlags::RDONLY | OFlags::DIRECTORY),
            false => (path.join("tasks"), OFlags::WRONLY),
        };
        let opened = sys::open(leak(path.as_os_str().as_bytes()), flags)?;
        match self.context.tasks.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) if !v2 => *slot = Some(opened),
            _ => self.cgroup = Some(opened),
        }
        Ok(())
    }

    fn clone(&mut self, task: &Task, flags: u64) -> Result<()> {
        let (flags, steps) = (flags as u32, self.plan.steps);
        let supervisors_end = self.control.as_ref().map(AsRawFd::as_raw_fd);
        let context = &mut self.context;
        let cgroup = self.cgroup.take();
        let into = cgroup.as_ref().map(AsFd::as_fd);
        let (pid, placed) = sys::clone_into(flags, into, || {
            // Only the supervisor may hold its end: the container must see it closed when the supervisor dies.
            supervisors_end.into_iter().for_each(sys::close);
            child::container(steps, 0, context)
        })
        .map_err(|errno| {
            let error = error!("{task}: {}", reason(errno));
            error.hint(match errno {
                // cgroups(7), "Delegation containment".
                Errno::ACCESS if into.is_some() => {
                    "cgroup.procs of a cgroup that has both mini's and the container's in it must be writable"
                }
                _ => namespace_hint(errno, flags, self.host),
            })
        })?;
        match self.plan.passes() {
            true => (self.joiner, self.passes) = (Some(pid), Some(pid)),
            false => self.child = Some(pid),
        }
        self.context.tasks = [const { None }; 6];
        self.context.namespaces = [const { None }; 8];
        if let (false, Some(group)) = (placed, self.plan.cgroups.iter().rfind(|group| group.v2)) {
            let pid = pid.as_raw_pid().to_string();
            let file = group.path.join("cgroup.procs");
            cgroup::write(&file, &pid)
                .map_err(|errno| Error::sys("write", file.as_os_str().as_bytes(), errno))?;
        }
        // What only the container needs is closed here, so that end of file means what it should.
        self.context.control = None;
        Ok(())
    }

    fn layers(&self) -> Layers<'_> {
        Layers::new(self.spec, self.host, Some(&self.signals.ending))
    }

    /// A line about how something was done, for --trace.
    fn remark(&self, text: &str) {
        if self.trace {
            self.say_lines(&format!("# {text}\n"));
        }
    }

    fn unpack(&mut self, stack: &Stack, to: &Path, base: u32) -> Result<()> {
        let in_userns = !self.host.privileged || base != 0;
        let layers = self.layers();
        let unpacking = layers.unpacking(stack, to, in_userns)?;
        let report = match base {
            0 => unpacking()?,
            _ => {
                own(to.as_os_str().as_bytes(), base)?;
                let mut unpacking = Some(unpacking);
                let mut run = || unpacking.take().map_or(Ok(String::new()), |it| it());
                userns::inside(base, &self.signals.ending, &mut run)?
            }
        };
        self.remark(&report);
        Ok(())
    }

    fn index(&mut self, stack: &Stack, number: usize, to: Option<&Path>) -> Result<()> {
        let why = match self.layers().index(stack, number)? {
            Ok(text) => {
                self.remark(&text);
                return Ok(());
            }
            Err(why) => why,
        };
        let Some(to) = to else {
            return Err(error!("--store index: {why}"));
        };
        self.remark(&format!("unpacked, not indexed: {why}"));
        self.notes.push(format!("archives are unpacked: {why}"));
        let disk = to.parent().unwrap_or(to);
        if !self.directories.iter().any(|made| made.path() == disk) {
            self.directories.push(Directory::create(disk)?);
        }
        let from = leak(to.as_os_str().as_bytes());
        let at = leak(format!("image{number}"));
        for step in [Step::Mkdir(from, 0o755), bind(from, Target::Path(at), 0)] {
            self.perform(&Task::Step(step))?;
        }
        self.unpack(stack, to, 0)
    }

    /// Prepares what the command gets instead of a standard stream that is a terminal.
    fn streams(&mut self) -> rustix::io::Result<()> {
        for step in self.plan.steps {
            let Step::Stdio(number) = *step else {
                continue;
            };
            #[cfg(feature = "life")]
            if let Some(file) = &self.file {
                let theirs = rustix::io::fcntl_dupfd_cloexec(file, 3)?;
                self.context.stdio[usize::from(number)] = Some(theirs);
                continue;
            }
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            #[cfg(feature = "life")]
            if let Some(log) = &mut self.log {
                log.add(if number == 1 { "stdout" } else { "stderr" }, reader);
                self.context.stdio[usize::from(number)] = Some(writer);
                continue;
            }
            let own = rustix::io::fcntl_dupfd_cloexec(sys::borrow(number.into()), 3)?;
            let (relay, theirs) = match number {
                0 => (Relay::new(Kind::Input, own, writer), reader),
                _ => (Relay::new(Kind::Output, reader, own), writer),
            };
            self.relays.push(relay);
            self.context.stdio[usize::from(number)] = Some(theirs);
        }
        Ok(())
    }

    /// Waits until the container has ended, and returns its status.
    fn watch(&mut self) -> Result<u8> {
        let mut ended = None;
        // The last reports and output may come after the news that the process is gone.
        while ended.is_none() || self.control.is_some() || self.relays.iter().any(Relay::pending) {
            let over = self.over();
            let Ready {
                signal,
                report,
                relays: ready,
                alone,
                published,
            } = self.wait();
            #[cfg(feature = "net")]
            if let (true, Some(relay)) = (published, &mut self.published) {
                relay.pump();
                #[cfg(feature = "life")]
                if relay.became_idle() {
                    self.forget.set(true);
                }
            }
            if alone {
                self.watched = None;
                let kill = |pid: Pid| sys::kill(pid.as_raw_pid(), raw::SIGKILL as i32);
                let _ = self.child.map(kill);
            }
            if report {
                self.receive()?;
                // What came before a signal counts before it.
                while signal && self.has_reports() {
                    self.receive()?;
                }
                // Which process it is may be known only now.
                self.reap(&mut ended);
            }
            if over && !report {
                self.control = None;
            }
            let idle = !signal && !report && !published && !ready.contains(&true);
            #[cfg(feature = "life")]
            if let Some(log) = &mut self.log {
                for (index, _) in ready[self.relays.len()..]
                    .iter()
                    .enumerate()
                    .filter(|(_, ready)| **ready)
                {
                    log.pump(index);
                }
            }
            for (relay, ready) in self.relays.iter_mut().zip(ready) {
                if ready {
                    relay.pump();
                } else if idle && relay.ended() {
                    relay.type_end();
                }
            }
            // Nobody reads the container's terminal any more: it is hung up, as when a terminal window is closed.
            if self.terminal.is_some() && self.relays.iter().any(Relay::broken) {
                self.relays.clear();
                self.terminal = None;
            }
            if signal {
                self.signal(&mut ended)?;
            }
            if ended.is_some() {
                self.relays.iter_mut().for_each(Relay::finish);
                #[cfg(feature = "life")]
                self.log.iter_mut().for_each(Log::finish);
                #[cfg(feature = "net")]
                self.published.iter_mut().for_each(relay::Relay::finish);
            }
        }
        let cgroups = self.plan.cgroups.iter().map(|group| group.path.clone());
        let killed = ended == Some(128 + raw::SIGKILL as u8);
        let why = match killed {
            true => stats::out_of_memory(&cgroups.collect::<Vec<_>>()),
            false => None,
        };
        if !self.began {
            let error = match self.plan.joined {
                true => Error::new("the command's process was killed during set-up"),
                false => Error::new("the container's first process was killed during set-up"),
            };
            return Err(error.hint(
                why.as_deref()
                    .unwrap_or("by a signal, or because memory ran out"),
            ));
        }
        if let Some(why) = why {
            #[cfg(feature = "life")]
            if let Some(log) = &mut self.log {
                log.say(&format!("mini: killed: {why}"));
            }
            let _ = self.note("oom yes\n");
            self.say_lines(&format!("mini: killed: {why}\n"));
        }
        Ok(ended.unwrap_or(0))
    }

    /// Whether the command that has joined a container has ended. Its end of the control socket may be somebody else's by
    /// now, who does not close it.
    fn over(&self) -> bool {
        let gone = self.child.is_none() && self.joiner.is_none();
        self.plan.joined && !self.plan.detached && gone && self.control.is_some()
    }

    /// Waits for something to happen.
    fn wait(&self) -> Ready {
        let watched = |fd| PollFd::new(fd, PollFlags::IN);
        let mut fds = vec![watched(&self.signals.all)];
        fds.extend(self.control.as_ref().map(watched));
        let first = fds.len();
        let mut interested = Vec::new();
        for relay in &self.relays {
            let interest = relay.interest();
            interested.push(interest.is_some());
            fds.extend(interest);
        }
        #[cfg(feature = "life")]
        for interest in self.log.iter().flat_map(Log::interests) {
            interested.push(interest.is_some());
            fds.extend(interest);
        }
        let ports = fds.len();
        #[cfg(feature = "net")]
        if let Some(relay) = &self.published {
            fds.push(PollFd::from_borrowed_fd(relay.as_fd(), PollFlags::IN));
        }
        let last = fds.len();
        let alone = self.watched.as_ref().filter(|_| self.child.is_some());
        fds.extend(alone.map(watched));
        let after = |tv_sec, tv_nsec| Some(Timespec { tv_sec, tv_nsec });
        let timeout = match self.relays.iter().any(Relay::ended) {
            _ if self.over() => after(0, 0),
            true => after(0, 250_000_000),
            false => None,
        };
        #[cfg(feature = "life")]
        let (idle, timeout) = match (timeout, self.control.is_none()) {
            (None, _) if self.forget.take() => (true, None),
            // The command runs, and may do so for long.
            (None, true) => (false, after(1, 0)),
            (timeout, _) => (false, timeout),
        };
        #[cfg(not(feature = "life"))]
        let idle = false;
        // EINTR cannot come with all signals blocked, and would be tried again by the caller's loop.
        let happened = match idle {
            true => sys::forget_memory_and_poll(&mut fds).map(|()| 1),
            false => poll(&mut fds, timeout.as_ref()),
        };
        #[cfg(feature = "life")]
        self.forget.set(happened == Ok(0));
        #[cfg(not(feature = "life"))]
        let _ = happened;
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let mut rest = fds[first..].iter();
        for relay in &mut interested {
            *relay = *relay && rest.next().is_some_and(ready);
        }
        Ready {
            signal: ready(&fds[0]),
            report: first == 2 && ready(&fds[1]),
            relays: interested,
            published: fds[ports..last].iter().any(ready),
            alone: fds[last..].iter().any(ready),
        }
    }

    /// Whether there is more to be read of what the container reports.
    fn has_reports(&self) -> bool {
        let Some(control) = &self.control else {
            return false;
        };
        let (mut fds, now) = ([PollFd::new(control, PollFlags::IN)], Timespec::default());
        poll(&mut fds, Some(&now)) == Ok(1)
    }

    /// Reads what the container reports about its steps.
    fn receive(&mut self) -> Result<()> {
        let Some(control) = &self.control else {
            return Ok(());
        };
        let failed = |errno| Error::sys("recvmsg", "control", errno);
        let Some(received) = Report::receive(control).map_err(failed)? else {
            self.control = None;
            self.started();
            return Ok(());
        };
        let report = &received.report;
        let index = usize::from(report.step);
        let Some(step) = self.plan.steps.get(index) else {
            return Err(Error::new("control: bad report"));
        };
        if let Err(errno) = report.result {
            return Err(step_error(step, errno, &report.detail, self.host));
        }
        self.began |= matches!(step, Step::Ready);
        #[cfg(feature = "net")]
        {
            self.apart |= matches!(step, Step::Apart);
        }
        // In a container that runs others may have got hold of the socket.
        let trusted = !self.plan.joined || received.sender == self.passes;
        #[cfg(feature = "life")]
        if matches!(step, Step::Pass(flags) if *flags != 0) && trusted && self.child.is_none() {
            self.child = Pid::from_raw(report.process);
        }
        self.trace_line(self.plan.actor(index), step, report.nanoseconds);
        let observed = self.trace && !self.context.joined;
        if let (Step::Ready, Some(command), true) = (step, received.sender, observed) {
            let command = command.as_raw_pid();
            self.say_lines(&protection::observe(command, self.plan, &self.notes));
            let _ = send(control, b"!", SendFlags::NOSIGNAL);
        }
        match received.descriptor.filter(|_| trusted) {
            #[cfg(feature = "life")]
            Some(master) if self.spec.detach.is_some() => self.alone(master)?,
            Some(master) => {
                let terminal = Terminal::new(master);
                let relays = terminal
                    .relays()
                    .map_err(|errno| Error::sys("dup", "terminal", errno))?;
                self.relays.extend(relays);
                self.terminal = Some(terminal);
            }
            None => {}
        }
        Ok(())
    }

    /// The container's terminal, at which nobody types.
    #[cfg(feature = "life")]
    fn alone(&mut self, master: OwnedFd) -> Result<()> {
        let terminal = Terminal::alone(master);
        let output = (terminal.output()).map_err(|errno| Error::sys("dup", "terminal", errno))?;
        match (&mut self.log, self.file.take()) {
            (Some(log), _) => log.add("stdout", output),
            (None, Some(file)) => self.relays.push(Relay::new(Kind::Output, output, file)),
            (None, None) => {}
        }
        self.terminal = Some(terminal);
        Ok(())
    }

    /// The command runs. The supervisor lets go of the caller's input and output, so that whoever reads the output
    /// sees its end when the container closes it; standard error stays for messages.
    fn started(&mut self) {
        #[cfg(feature = "life")]
        if self.began
            && let Some(caller) = self.caller.take()
        {
            match self.spec.detach {
                Some(_) => {
                    self.forget.set(true);
                    return caller.leave();
                }
                None => caller.tell(),
            }
        }
        let null = sys::open(c"/dev/null", OFlags::RDWR);
        if let (Ok(null), None) = (null, &self.terminal) {
            let _ = sys::duplicate(&null, 0).and_then(|()| sys::duplicate(&null, 1));
        }
    }

    /// Whether another process is there when this one has ended.
    fn is_kept(&self) -> bool {
        #[cfg(feature = "life")]
        return self.run.is_some();
        #[cfg(not(feature = "life"))]
        false
    }

    /// Whether there is no pid namespace that ends with the container.
    fn shares_pids(&self) -> bool {
        let joined = self.spec.joined.as_ref().map_or(0, |(_, flags)| *flags);
        (self.spec.shared | joined) & raw::CLONE_NEWPID != 0
    }

    /// Reads one signal and acts on it.
    fn signal(&mut self, ended: &mut Option<u8>) -> Result<()> {
        let mut info = [0; 128]; // struct signalfd_siginfo, which begins with the number
        if rustix::io::read(&self.signals.all, &mut info) != Ok(info.len()) {
            return Ok(());
        }
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        let ends = init::ENDING & 1 << (number - 1) != 0;
        if number == raw::SIGCHLD {
            self.reap(ended);
            return Ok(());
        }
        if self.plan.joined && !self.began && ends {
            return Err(Error::new("interrupted before the command was started"));
        }
        let Some(child) = self.child else {
            // Only output is left, and somebody does not want to wait for its reader.
            if ends {
                if self.plan.joined {
                    self.control = None;
                }
                self.relays.clear();
            }
            return Ok(());
        };
        let forward = |signal| {
            // It cannot be gone: it has not been waited for.
            match self.plan.joined {
                // There is no init between.
                true => init::pass_on(child, signal),
                false => drop(sys::kill(child.as_raw_pid(), signal)),
            }
        };
        match number {
            raw::SIGWINCH if self.terminal.is_some() => {
                self.terminal.iter().for_each(Terminal::resize)
            }
            raw::SIGTSTP | raw::SIGTTIN | raw::SIGTTOU => {
                self.terminal.iter().for_each(Terminal::restore);
                forward(raw::SIGTSTP as i32);
                let _ = sys::kill(rustix::process::getpid().as_raw_pid(), raw::SIGSTOP as i32);
                self.terminal.iter_mut().for_each(Terminal::raw);
                forward(raw::SIGCONT as i32);
            }
            raw::SIGTERM => forward(self.spec.stop_signal.unwrap_or(raw::SIGTERM as i32)),
            // Means something else to a subreaper.
            other if other as i32 == init::SUPERVISOR_DIED && self.shares_pids() => {}
            other => forward(other as i32),
        }
        Ok(())
    }

    /// Takes note of how the container's first process, or the joining command, has ended.
    fn reap(&mut self, ended: &mut Option<u8>) {
        let waited = |process: &mut Option<Pid>| {
            let (_, status) = waitpid(Some((*process)?), WaitOptions::NOHANG).ok()??;
            *process = None;
            Some(exit_status(status))
        };
        // That of a joiner which has passed the work on says nothing.
        let failed = waited(&mut self.joiner).filter(|status| *status != 0);
        *ended = waited(&mut self.child).or(failed).or(*ended);
    }

    /// Whatever happened before: nothing is left afterwards.
    fn end(&mut self, ran: bool) {
        // First the terminal, so that messages come out straight.
        self.terminal = None;
        #[cfg(feature = "net")]
        {
            self.ports.clear();
            self.published = None;
        }
        for child in [self.joiner.take(), self.child.take()]
            .into_iter()
            .flatten()
        {
            let _ = sys::kill(child.as_raw_pid(), raw::SIGKILL as i32);
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
        #[cfg(feature = "net")]
        drop(self.way.take());
        for task in &self.plan.teardown {
            let _ = self.timed(task);
        }
        if self.busy {
            // Nobody needs to wait for processes that are still ending. What is locked is not swept.
            for directory in std::mem::take(&mut self.directories) {
                directory.leave();
            }
            state::sweep_later(&self.host.run);
        }
        let Some(kept) = &self.plan.kept else {
            return;
        };
        let (upper, work) = (kept.join("upper"), kept.join("work"));
        // What overlay has left in its work directory is of no use, and nothing is if the command never ran.
        #[cfg(feature = "life")]
        let ran = ran || self.run.as_ref().is_some_and(|run| run.restarts > 0);
        store::remove(if ran { &work } else { kept });
        if ran {
            let upper = show(&upper);
            say(&format!("mini: the container's changes are in {upper}\n"));
        }
    }
}

/// Sends the container's first process a packet. If it has ended meanwhile, that is found out, and why, when it is waited for.
fn send_packet(control: &OwnedFd, packet: &[u8]) -> Result<()> {
    match send(control, packet, SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::PIPE) => Ok(()),
        Err(errno) => Err(Error::sys("send", "control", errno)),
    }
}

/// The status that stands for how a process ended.
pub fn exit_status(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let status = status.exit_status().or(signal).unwrap_or(-1);
    u8::try_from(status).unwrap_or(crate::error::FAILED)
}

/// Gives a file to the container's root, whose id outside is `base`.
fn own(path: &[u8], base: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(base), Gid::from_raw(base));
    chown(path, Some(uid), Some(gid)).map_err(|errno| Error::sys("chown", path, errno))
}

/// Lets those who are not its owner open a pipe again, for reading or for writing as `mode` says. A named pipe is a
/// file, and left alone.
fn open_pipe(pipe: BorrowedFd<'_>, mode: Mode) {
    const PIPEFS_MAGIC: rustix::fs::FsWord = 0x5049_5045; // linux/magic.h
    if fstatfs(pipe).is_ok_and(|status| status.f_type == PIPEFS_MAGIC) {
        // Where it is not allowed, a program that opens /dev/stdout will say so.
        let _ = fstat(pipe).and_then(|status| {
            rustix::fs::fchmod(pipe, Mode::from_raw_mode(status.st_mode & 0o777) | mode)
        });
    }
}

/// Waits until `source` can be read, or just looks if there is none; false if a signal has come that ends mini.
pub fn wait_for(interrupts: &OwnedFd, source: Option<BorrowedFd<'_>>) -> bool {
    let fds = [interrupts.as_fd(), source.unwrap_or(interrupts.as_fd())];
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let now = Timespec::default();
    let _ = poll(&mut fds, source.is_none().then_some(&now));
    fds[0].revents().is_empty()
}
