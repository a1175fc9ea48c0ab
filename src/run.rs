//! The supervisor of one container: carries out the plan, starts the container, waits, relays, cleans up.
//! Entry: [`run`]. signalfd(2), poll(2), unix(7).
//!
//! It is single-threaded and learns everything from one `poll`: signals, what the container reports, bytes to
//! relay. If it is killed, the kernel undoes its work: its mounts go with its mount namespace, the container's
//! first process has it as parent-death signal, its locks are released (see `store.rs`).

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use container::child::{self, Context, Environment, Program};
use container::init;
use container::report::{Detail, Outcome, Report};
use container::step::Step;
use container::sys::{self, Word};
use container::user::User;

use crate::cli::Mode as RunMode;
use crate::error::{Error, Result, path as show, reason, say};
use crate::explain::{namespace_hint, step_error};
use crate::host::{Host, probe};
use crate::image;
use crate::plan::{Plan, Stream, Task, plan};
use crate::spec::{Rootfs, Spec};
use crate::store::{self, Directory};
use crate::terminal::{Kind, Relay, Terminal};
use crate::userns;

/// Runs a container and returns the status to exit with.
pub fn run(spec: &Spec, mode: RunMode) -> Result<u8> {
    let host = probe(spec)?;
    let mut plan = plan(spec, &host)?;
    if mode == RunMode::DryRun {
        let mut output = std::io::stdout().lock();
        (output
            .write_all(plan.lines().as_bytes())
            .and_then(|()| output.flush()))
        .map_err(|error| Error::io("write", "standard output", &error))?;
        return Ok(0);
    }
    // From here on a signal waits until it is read: it must not end mini with the work half done.
    sys::default_signal(raw::SIGCHLD);
    let ignored = sys::ignored(init::ENDING);
    sys::set_signal_mask(init::FORWARDED & !ignored);
    let signalfd = |set| sys::signalfd(set).map_err(|errno| Error::sys("signalfd", "", errno));
    let (signals, interrupts) = (
        signalfd(init::FORWARDED & !ignored)?,
        signalfd(init::ENDING & !ignored)?,
    );
    let (control, theirs) = (socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    ))
    .map_err(|errno| Error::sys("socketpair", "", errno).hint("CONFIG_UNIX"))?;
    let mut words = std::mem::take(&mut plan.environment);
    words.push(Word::END);
    let home = plan.home.map(|index| {
        (
            index,
            Box::leak(vec![0u8; 1100].into_boxed_slice()) as &'static mut [u8],
        )
    });
    let environment = Environment {
        words: Box::leak(words.into_boxed_slice()),
        home,
    };
    let mut supervisor = Supervisor {
        spec,
        host: &host,
        plan: &plan,
        trace: mode == RunMode::Trace,
        signals,
        interrupts,
        control: Some(control),
        context: Context {
            control: Some(theirs),
            stdio: [None, None, None],
            root: None,
            terminal: None,
            user: User::ROOT,
            environment,
            detail: Detail::NONE,
        },
        directories: Vec::new(),
        child: None,
        relays: Vec::new(),
        terminal: None,
        began: false,
    };
    let result = supervisor.start().and_then(|()| supervisor.watch());
    supervisor.end(result.is_ok());
    result
}

struct Supervisor<'a> {
    spec: &'a Spec,
    host: &'a Host,
    plan: &'a Plan,
    trace: bool,
    /// The descriptor that signals are read from.
    signals: OwnedFd,
    /// The same for those that end mini while the container is not yet under way.
    interrupts: OwnedFd,
    /// This side of the control socket, until the command has been executed.
    control: Option<OwnedFd>,
    context: Context,
    directories: Vec<Directory>,
    /// The container's first process, until it has been waited for.
    child: Option<Pid>,
    relays: Vec<Relay>,
    terminal: Option<Terminal>,
    /// Whether the set-up got as far as the command's execve.
    began: bool,
}

impl Supervisor<'_> {
    /// Performs the supervisor's steps; at the end the container is under way.
    fn start(&mut self) -> Result<()> {
        for note in self.plan.notes.iter().filter(|_| self.trace) {
            say(&format!("# {note}\n"));
        }
        if !self.plan.terminal {
            self.streams()
                .map_err(|errno| Error::sys("pipe", "standard streams", errno))?;
        }
        for task in &self.plan.tasks {
            if !wait_for(&self.interrupts, None) {
                return Err(Error::new("interrupted before the container was started"));
            }
            let started = sys::clock(raw::CLOCK_MONOTONIC);
            self.perform(task)?;
            self.trace_line(
                "supervisor",
                task,
                sys::clock(raw::CLOCK_MONOTONIC) - started,
            );
        }
        Ok(())
    }

    fn trace_line(&self, actor: &str, step: &dyn std::fmt::Display, nanoseconds: u64) {
        if self.trace {
            // Raw mode leaves the carriage where it is.
            let end = if self.terminal.is_some() {
                "\r\n"
            } else {
                "\n"
            };
            // Neither floats nor u128: formatting those takes 6 KB of the binary.
            let (us, tenth) = (nanoseconds / 1000, nanoseconds / 100 % 10);
            say(&format!("{actor:<10} {step} <{us}.{tenth} us>{end}"));
        }
    }

    fn perform(&mut self, task: &Task) -> Result<()> {
        match task {
            Task::Step(step) => child::perform(step, &mut self.context)
                .map_err(|errno| step_error(step, errno, &Detail::NONE, self.host)),
            Task::EnterUserNamespace(map) => userns::enter(map, self.host),
            Task::CreateDirectory(path) => {
                if self.directories.is_empty() {
                    store::sweep(&self.host.run.join("running"));
                    store::sweep(&self.host.store.join("containers"));
                }
                self.directories.push(Directory::create(path)?);
                Ok(())
            }
            Task::KeepDirectory(path) => store::make_private(path),
            Task::Unpack {
                archive,
                to,
                single_id,
                in_userns,
            } => self.unpack(archive, to, *single_id, *in_userns),
            Task::Adopt { from, to } => adopt(from, to),
            Task::Clone(flags) => self.clone(task, *flags),
            Task::Go => {
                let control = self.control.as_ref().expect("open until the command runs");
                send(control, b"!", SendFlags::NOSIGNAL)
                    .map_err(|errno| Error::sys("send", "control", errno))?;
                Ok(())
            }
            Task::Unmount(path) => {
                let _ = unmount(path.as_os_str().as_bytes(), UnmountFlags::DETACH);
                Ok(())
            }
            Task::RemoveDirectory(path) => {
                self.directories
                    .retain(|directory| directory.path() != path);
                Ok(())
            }
        }
    }

    fn clone(&mut self, task: &Task, flags: u32) -> Result<()> {
        let program = Program {
            steps: self.plan.steps,
            trace: self.trace,
        };
        let supervisors_end = self.control.as_ref().map(AsRawFd::as_raw_fd);
        let context = &mut self.context;
        let pid = sys::clone(flags, || {
            // Only the supervisor may hold its end: the container must see it closed when the supervisor dies.
            supervisors_end.into_iter().for_each(sys::close);
            child::container(program, 0, context)
        })
        .map_err(|errno| {
            let error = Error::new(format!("{task}: {}", reason(errno)));
            error.hint(namespace_hint(errno, self.host))
        })?;
        self.child = Some(pid);
        // What only the container needs is closed here, so that end of file means what it should.
        self.context.control = None;
        self.context.stdio = [None, None, None];
        Ok(())
    }

    fn unpack(
        &mut self,
        archive: &Rootfs,
        to: &Path,
        single_id: bool,
        in_userns: bool,
    ) -> Result<()> {
        let (name, opened) = match archive {
            Rootfs::Stdin => (
                b"-".as_slice(),
                std::os::fd::AsFd::as_fd(&std::io::stdin())
                    .try_clone_to_owned()
                    .map(File::from),
            ),
            // O_NONBLOCK: opening a fifo must not wait for a writer where no signal ends the wait.
            Rootfs::Path(path) => {
                let mut options = File::options();
                options.read(true).custom_flags(raw::O_NONBLOCK as i32);
                (path.as_os_str().as_bytes(), options.open(path))
            }
        };
        let source = opened.map_err(|error| Error::io("open", name, &error))?;
        let target = to.as_os_str().as_bytes();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, target, flags, Mode::empty())
            .map_err(|errno| Error::sys("open", target, errno))?;
        let space =
            rustix::fs::fstatvfs(&root).map_err(|errno| Error::sys("statvfs", target, errno))?;
        let options = image::unpack::Options {
            single_id,
            in_userns,
            limit: space.f_bavail.saturating_mul(space.f_frsize),
            limit_name: to.display().to_string(),
        };
        let interrupts = &self.interrupts;
        let source = Interruptible { source, interrupts };
        let report = image::unpack::unpack(source, name, root.as_fd(), &options)?;
        if self.trace {
            say(&format!(
                "# {} members, {} bytes; not possible here: {} devices, {} owners, {} attributes\n",
                report.members,
                report.bytes,
                report.skipped_devices,
                report.skipped_owners,
                report.skipped_xattrs
            ));
        }
        Ok(())
    }

    /// Prepares what the command gets instead of a standard stream that is a terminal.
    fn streams(&mut self) -> rustix::io::Result<()> {
        for (number, stream) in self.plan.streams.into_iter().enumerate() {
            self.context.stdio[number] = match stream {
                Stream::Inherit => None,
                Stream::Null => Some(openat(
                    CWD,
                    c"/dev/null",
                    OFlags::RDWR | OFlags::CLOEXEC,
                    Mode::empty(),
                )?),
                Stream::Relay => {
                    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
                    let own = rustix::io::fcntl_dupfd_cloexec(sys::borrow(number as i32), 3)?;
                    let (relay, theirs) = match number {
                        0 => (Relay::new(Kind::Input, own, writer), reader),
                        _ => (Relay::new(Kind::Output, reader, own), writer),
                    };
                    self.relays.push(relay);
                    Some(theirs)
                }
            };
        }
        Ok(())
    }

    /// Waits until the container has ended, and returns its status.
    fn watch(&mut self) -> Result<u8> {
        let mut ended = None;
        // The last reports and output may come after the news that the process is gone.
        while ended.is_none() || self.control.is_some() || self.relays.iter().any(Relay::pending) {
            let (signal, report, ready) = self.wait();
            if report {
                self.receive()?;
            }
            let idle = !signal && !report && !ready.contains(&true);
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
            }
        }
        if !self.began {
            let error = Error::new("the container's first process was killed during set-up");
            return Err(error.hint("by a signal, or because memory ran out"));
        }
        Ok(ended.unwrap_or(0))
    }

    /// Waits for something to happen: a signal, a report, or (by index) a relay that can go on.
    fn wait(&self) -> (bool, bool, Vec<bool>) {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(
            self.control
                .as_ref()
                .map(|control| PollFd::new(control, PollFlags::IN)),
        );
        let first = fds.len();
        let interests: Vec<Option<PollFd<'_>>> = self.relays.iter().map(Relay::interest).collect();
        fds.extend(interests.iter().flatten().cloned());
        let again = Timespec {
            tv_sec: 0,
            tv_nsec: 250_000_000,
        };
        let timeout = self.relays.iter().any(Relay::ended).then_some(&again);
        // EINTR cannot come with all signals blocked, and would be tried again by the caller's loop.
        let _ = poll(&mut fds, timeout);
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let mut results = fds[first..].iter().map(ready);
        let relays = interests
            .iter()
            .map(|interest| interest.is_some() && results.next() == Some(true))
            .collect();
        (ready(&fds[0]), first == 2 && ready(&fds[1]), relays)
    }

    /// Reads what the container reports about its steps.
    fn receive(&mut self) -> Result<()> {
        let Some(control) = &self.control else {
            return Ok(());
        };
        let received =
            Report::receive(control).map_err(|errno| Error::sys("recvmsg", "control", errno))?;
        let Some((report, descriptor)) = received else {
            self.control = None;
            self.started();
            return Ok(());
        };
        let index = usize::from(report.step);
        let step = self
            .plan
            .steps
            .get(index)
            .ok_or_else(|| Error::new("control: bad report"))?;
        match report.outcome {
            Outcome::Done => {
                self.began |= matches!(step, Step::Execve(_));
                self.trace_line(self.plan.actor(index), step, report.nanoseconds);
            }
            Outcome::Failed(errno) => {
                return Err(step_error(step, errno, &report.detail, self.host));
            }
        }
        if let Some(master) = descriptor {
            let terminal = Terminal::new(master);
            let relays = terminal
                .relays()
                .map_err(|errno| Error::sys("dup", "terminal", errno))?;
            self.relays.extend(relays);
            self.terminal = Some(terminal);
        }
        Ok(())
    }

    /// The command runs. The supervisor lets go of the caller's input and output, so that whoever reads the output
    /// sees its end when the container closes it; standard error stays for messages.
    fn started(&self) {
        let null = openat(
            CWD,
            c"/dev/null",
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        );
        if let (Ok(null), None) = (null, &self.terminal) {
            let _ = sys::duplicate(&null, 0).and_then(|()| sys::duplicate(&null, 1));
        }
    }

    fn shares_pids(&self) -> bool {
        self.spec.shared & raw::CLONE_NEWPID != 0
    }

    /// Reads one signal and acts on it.
    fn signal(&mut self, ended: &mut Option<u8>) -> Result<()> {
        let mut info = [0; 128]; // struct signalfd_siginfo, which begins with the number
        if rustix::io::read(&self.signals, &mut info) != Ok(info.len()) {
            return Ok(());
        }
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        let Some(child) = self.child else {
            // Only output is left, and somebody does not want to wait for its reader.
            if init::ENDING & 1 << (number - 1) != 0 {
                self.relays.clear();
            }
            return Ok(());
        };
        let forward = |signal| {
            // It cannot be gone: it has not been waited for.
            let _ = sys::kill(child.as_raw_pid(), signal);
        };
        match number {
            raw::SIGCHLD => {
                if let Ok(Some((_, status))) = waitpid(Some(child), WaitOptions::NOHANG) {
                    self.child = None;
                    *ended = Some(exit_status(status));
                }
            }
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
            raw::SIGTERM => forward(self.spec.stop_signal),
            // Means something else to a subreaper.
            other if other as i32 == init::SUPERVISOR_DIED && self.shares_pids() => {}
            other => forward(other as i32),
        }
        Ok(())
    }

    /// Whatever happened before: nothing is left afterwards.
    fn end(&mut self, ran: bool) {
        // First the terminal, so that messages come out straight.
        self.terminal = None;
        if let Some(child) = self.child.take() {
            let _ = sys::kill(child.as_raw_pid(), raw::SIGKILL as i32);
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
        for task in &self.plan.teardown {
            let started = sys::clock(raw::CLOCK_MONOTONIC);
            let _ = self.perform(task);
            self.trace_line(
                "supervisor",
                task,
                sys::clock(raw::CLOCK_MONOTONIC) - started,
            );
        }
        let Some(kept) = &self.plan.kept else {
            return;
        };
        let (upper, work) = (kept.join("upper"), kept.join("work"));
        // What overlay has left in its work directory is of no use, and nothing is if the command never ran.
        store::remove(if ran { &work } else { kept });
        if ran {
            say(&format!(
                "mini: the container's changes are in {}\n",
                show(&upper)
            ));
        }
    }
}

/// The status that stands for how a process ended.
fn exit_status(status: WaitStatus) -> u8 {
    let status = status
        .exit_status()
        .or(status.terminating_signal().map(|signal| 128 + signal));
    status
        .and_then(|status| u8::try_from(status).ok())
        .unwrap_or(crate::error::FAILED)
}

/// Waits until `source` can be read, or just looks if there is none; false if a signal has come that ends mini.
fn wait_for(interrupts: &OwnedFd, source: Option<BorrowedFd<'_>>) -> bool {
    let fds = [interrupts.as_fd(), source.unwrap_or(interrupts.as_fd())];
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = source.is_none().then_some(&Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    });
    let _ = poll(&mut fds, timeout);
    fds[0].revents().is_empty()
}

/// A reader that fails once a signal has come, so that Ctrl-C ends the unpacking of a large or slow archive.
struct Interruptible<'a> {
    source: File,
    interrupts: &'a OwnedFd,
}

impl std::io::Read for Interruptible<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let source = std::os::fd::AsRawFd::as_raw_fd(&self.source);
        if !wait_for(self.interrupts, Some(sys::borrow(source))) {
            return Err(std::io::Error::from_raw_os_error(
                Errno::CANCELED.raw_os_error(),
            ));
        }
        self.source.read(buffer)
    }
}

/// The upper directory's owner and mode are what the container's `/` shows.
fn adopt(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let fail = |operation: &str, path: &Path, error| {
        Error::io(operation, path.as_os_str().as_bytes(), &error)
    };
    let status = std::fs::metadata(from).map_err(|error| fail("stat", from, error))?;
    // EINVAL: an owner that the user namespace does not map.
    match std::os::unix::fs::chown(to, Some(status.uid()), Some(status.gid())) {
        Err(error) if error.raw_os_error() != Some(Errno::INVAL.raw_os_error()) => {
            return Err(fail("chown", to, error));
        }
        _ => {}
    }
    let mode = std::fs::Permissions::from_mode(status.mode() & 0o7777);
    std::fs::set_permissions(to, mode).map_err(|error| fail("chmod", to, error))
}
