//! Containers in the background: `mini run -d`. Entry: [`start`]. setsid(2), pipe(7), dup2(2).
//!
//! The caller forks the supervisor, which does what it does for any container (`run.rs`), and waits for one byte: that the
//! command has been executed. Then it prints the container's id and ends. End of file instead of that byte says that the
//! supervisor has failed, and has said why on the standard error that both have; its status is the caller's. Until then
//! the caller passes on the signals that would end it.
//!
//! From that moment on the supervisor holds nothing of the caller's: it has a session of its own, /dev/null for standard
//! input, output and error, its own working directory, and none of the descriptors that the caller left open. The
//! container has had nothing of it at any time: its standard input is /dev/null, or with `-t` a terminal at which nobody
//! types; its output goes to the log (`log.rs`).

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{fcntl_dupfd_cloexec, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, getpid, getppid, setsid, waitpid};

use container::{init, sys};

use crate::boot::next_delay;
use crate::cli;
use crate::error::{Error, FAILED, Result, error, say};
use crate::host::{Host, probe};
use crate::pause;
use crate::plan::IdMap;
use crate::record::{RECORD, Record};
use crate::run::exit_status;
use crate::spec::{LogTo, Rootfs, Spec, Upper, Userns};
use crate::state;
use crate::store::{self, Directory, names};
use crate::userns;

/// Whoever waits for the command to be executed.
pub struct Caller {
    /// Takes a byte then.
    pipe: OwnedFd,
    /// Descriptors that are the caller's.
    inherited: Vec<i32>,
}

/// The descriptors that are open now, but 0, 1 and 2.
pub fn inherited() -> Vec<i32> {
    let names = names("/proc/self/fd".as_ref());
    let numbers = names.iter().filter_map(|name| name.parse().ok());
    // One of them was open only while this looked.
    let open = |number: &i32| *number > 2 && rustix::io::fcntl_getfd(sys::borrow(*number)).is_ok();
    numbers.filter(open).collect()
}

/// What a container in the background has in place of the caller's streams; and its changes stay until it is removed,
/// where that can be.
pub fn adapt(mut spec: Spec, host: &mut Host) -> Spec {
    let Some(detach) = &spec.detach else {
        return spec;
    };
    // A stream that would be a terminal goes through the supervisor.
    let relayed = detach.log != LogTo::Nothing;
    host.nulls = [true, !relayed, !relayed];
    host.terminals = [false, relayed, relayed];
    let own_ids = host.privileged && spec.userns != Userns::Host;
    let overlay = host.overlay && (host.version >= (5, 11) || host.privileged && !own_ids);
    let disk = host.cover.is_none() && (host.idmap.store || !own_ids);
    let layer = !spec.writable && !matches!(spec.upper, Upper::Tmpfs(_));
    spec.keep |= !detach.rm && overlay && disk && layer;
    spec
}

/// A run of a container that is started again, as its supervisor has it.
pub struct Run {
    /// The container's directory.
    pub directory: Directory,
    pub restarts: u32,
}

/// Runs the container until `rule` says that it is enough, each time in a process of its own; with `caller` in the
/// background. `work` is what that process does. Returns the status to exit with: the last run's.
///
/// This process has the lock on the container's directory `path`, and goes on having it between two runs. When it is told
/// to end (by `mini stop`, or by Ctrl-C), so is the run, and there is no other one.
pub fn keep(
    spec: &Spec,
    path: &Path,
    mut caller: Option<Caller>,
    signals: &OwnedFd,
    work: &mut dyn FnMut(Caller, Run) -> Result<u8>,
) -> Result<u8> {
    let directory = Directory::create(path)?;
    let (mut delay, mut restarts, mut stopped) = (0, 0, false);
    // From which the image is read again, when /dev/null has taken the place of standard input.
    let image = match spec.rootfs {
        Rootfs::Stdin => Some(fcntl_dupfd_cloexec(sys::borrow(0), 3).map_err(failed("dup"))?),
        Rootfs::Path(_) => None,
    };
    loop {
        let begun = sys::clock(raw::CLOCK_MONOTONIC);
        let mut run = Some(Run {
            directory: directory.lend().map_err(failed("dup"))?,
            restarts,
        });
        let ran = one(&mut caller, signals, &mut stopped, &mut |caller| {
            if let Some(image) = &image {
                sys::duplicate(image, 0).map_err(failed("dup2"))?;
            }
            run.take().map_or(Ok(FAILED), |run| work(caller, run))
        });
        let (status, started) = match ran {
            // No process can be made just now: what it has said so far is not lost for that.
            Err(_) if restarts > 0 => (FAILED, false),
            ran => ran?,
        };
        if !started && restarts == 0 {
            return Ok(status);
        }
        let time = sys::clock(raw::CLOCK_REALTIME) / 1_000_000_000;
        // If that cannot be written, nobody can be told.
        let _ = directory.append(
            RECORD,
            format!("status {status}\nfinished {time}\n").as_bytes(),
        );
        let now = sys::clock(raw::CLOCK_MONOTONIC);
        if stopped || !spec.restart.again(status, restarts) {
            if spec.detach.as_ref().is_some_and(|detach| !detach.rm) {
                directory.leave();
            }
            return Ok(status);
        }
        delay = next_delay(delay, restarts, now - begun);
        if spec.detach.is_none() {
            let ms = delay / 1_000_000;
            say(&format!("mini: exit status {status}, again in {ms} ms\n"));
        }
        while !stopped && sys::clock(raw::CLOCK_MONOTONIC) < now + delay {
            let rest = (now + delay).saturating_sub(sys::clock(raw::CLOCK_MONOTONIC));
            let rest = Timespec {
                tv_sec: (rest / 1_000_000_000) as _,
                tv_nsec: (rest % 1_000_000_000) as _,
            };
            let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&rest));
            stopped |= signal(signals).is_some_and(|(number, _)| ends(number));
        }
        if stopped {
            if spec.detach.as_ref().is_some_and(|detach| !detach.rm) {
                directory.leave();
            }
            return Ok(status);
        }
        restarts += 1;
        // What a supervisor that was killed has left.
        let record = Record::read(path.to_owned());
        for _ in 0..200 {
            if state::end(&record) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(kept) = kept(&record) {
            let work = kept.join("work");
            if work.exists() {
                store::remove(&work);
            }
        }
        let _ = directory.truncate(RECORD, &|text| {
            let line = |key: &[u8]| text.windows(key.len()).position(|part| part == key);
            let places = [line(b"\nrestarts "), line(b"\nsupervisor ")];
            (places.into_iter().flatten().min()).map_or(text.len(), |place| place + 1)
        });
        let _ = directory.append(RECORD, format!("restarts {restarts}\n").as_bytes());
    }
}

/// One run: its status, and whether its command was executed.
fn one(
    caller: &mut Option<Caller>,
    signals: &OwnedFd,
    stopped: &mut bool,
    work: &mut dyn FnMut(Caller) -> Result<u8>,
) -> Result<(u8, bool)> {
    let (ready, pipe) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
    let inherited = caller
        .as_ref()
        .map_or(Vec::new(), |it| it.inherited.clone());
    let (ours, this) = (ready.as_raw_fd(), getpid());
    let supervisor = sys::clone(0, || {
        sys::close(ours);
        let _ = sys::set_parent_death_signal(raw::SIGKILL as i32);
        if getppid() != Some(this) {
            return i32::from(FAILED);
        }
        end(work(Caller { pipe, inherited }))
    })
    .map_err(failed("clone3"))?;
    let mut started = None;
    loop {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        if started.is_none() {
            fds.push(PollFd::new(&ready, PollFlags::IN));
        }
        let _ = poll(&mut fds, None);
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            started = Some(read(&ready, &mut [0; 1]) == Ok(1));
            if started == Some(true) {
                caller.take().into_iter().for_each(Caller::leave);
            }
        }
        let Some((number, code)) = signal(signals) else {
            continue;
        };
        match number {
            raw::SIGCHLD => {
                if let Ok(Some((_, status))) = waitpid(Some(supervisor), WaitOptions::NOHANG) {
                    return Ok((exit_status(status), started == Some(true)));
                }
                continue;
            }
            // From a terminal the run has it as well.
            _ if code <= 0 => {
                let _ = sys::kill(supervisor.as_raw_pid(), number as i32);
            }
            _ => {}
        }
        if [raw::SIGTSTP, raw::SIGTTIN, raw::SIGTTOU].contains(&number) {
            let _ = sys::kill(this.as_raw_pid(), raw::SIGSTOP as i32);
        }
        *stopped |= ends(number);
    }
}

fn ends(signal: u32) -> bool {
    init::ENDING & 1 << (signal - 1) != 0
}

/// The next signal that waits: its number, and whether somebody sent it (0 and below) or the kernel.
fn signal(signals: &OwnedFd) -> Option<(u32, i32)> {
    let mut info = [0; 128]; // struct signalfd_siginfo: number, errno, code …
    (read(signals, &mut info) == Ok(info.len())).then(|| {
        let word = |at: usize| [info[at], info[at + 1], info[at + 2], info[at + 3]];
        (u32::from_ne_bytes(word(0)), i32::from_ne_bytes(word(8)))
    })
}

/// The status of a process that has done its work.
fn end(result: Result<u8>) -> i32 {
    i32::from(result.unwrap_or_else(|error| {
        say(&format!("mini: {error}\n"));
        error.status()
    }))
}

fn failed(operation: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |errno| Error::sys(operation, "", errno)
}

/// Opens what the output goes to, if that is not the log.
pub fn open(log: &LogTo) -> Result<OwnedFd> {
    let path = match log {
        LogTo::File(path) => path.as_os_str().as_bytes(),
        _ => b"/dev/null",
    };
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    // A fifo without a reader would keep mini waiting, deaf to signals; the container's writes wait as anywhere.
    let opened = rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::from_raw_mode(0o644));
    opened
        .and_then(|file| rustix::fs::fcntl_setfl(&file, OFlags::APPEND).map(|()| file))
        .map_err(|errno| Error::sys("--log open", path, errno))
}

/// Does `work` in a process of its own, and prints `id` once that has said that the command runs. Returns the status to
/// exit with.
pub fn start(
    id: &str,
    inherited: Vec<i32>,
    signals: &OwnedFd,
    work: &mut dyn FnMut(Caller) -> Result<u8>,
) -> Result<u8> {
    let (ready, pipe) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
    let (ours, caller) = (ready.as_raw_fd(), Caller { pipe, inherited });
    let supervisor = sys::clone(0, || {
        sys::close(ours);
        let _ = setsid();
        end(work(caller))
    })
    .map_err(failed("clone3"))?;
    loop {
        let watched = [&ready, signals].map(|fd| PollFd::new(fd, PollFlags::IN));
        let mut fds = watched;
        let _ = poll(&mut fds, None);
        if !fds[0].revents().is_empty() {
            break;
        }
        if let Some((number, _)) = signal(signals).filter(|(number, _)| ends(*number)) {
            // It cannot be gone: it has not been waited for.
            let _ = sys::kill(supervisor.as_raw_pid(), number as i32);
        }
    }
    if read(&ready, &mut [0; 1]) == Ok(1) {
        let mut output = std::io::stdout();
        return (writeln!(output, "{id}")
            .and_then(|()| output.flush())
            .map(|()| 0))
        .map_err(|error| Error::io("write", "standard output", error));
    }
    let ended = waitpid(Some(supervisor), WaitOptions::empty()).map_err(failed("wait"))?;
    Ok(ended.map_or(crate::error::FAILED, |(_, status)| exit_status(status)))
}

impl Caller {
    /// Lets go of all that is the caller's, and tells it that the command runs.
    pub fn leave(self) {
        if let Ok(null) = sys::open(c"/dev/null", OFlags::RDWR) {
            for number in 0..3 {
                let _ = sys::duplicate(&null, number);
            }
        }
        self.inherited.iter().copied().for_each(sys::close);
        self.tell();
    }

    /// Tells it that the command runs.
    pub fn tell(&self) {
        // It may have been killed.
        let _ = write(&self.pipe, b"!");
    }
}

/// Where the changes of a container are, if they are there.
pub fn kept(container: &Record) -> Option<PathBuf> {
    let path = container.all("kept").concat();
    let path = PathBuf::from(OsString::from_vec(path));
    // In a record that was cut short it could be any directory.
    let whole = path.ends_with(Path::new("kept").join(&container.id));
    Some(path).filter(|path| whole && path.exists())
}

/// Removes the changes of a container that has ended. What cannot be removed is said.
pub fn forget(container: &Record) {
    if let Some(kept) = kept(container) {
        discard(&kept);
    }
}

/// Removes changes that were kept.
pub fn discard(kept: &Path) {
    // Without root most in there belongs to ids that are the container's: in a user namespace like its own.
    let inside = || {
        let entered = cli::plain().and_then(|spec| {
            let host = probe(&spec)?;
            let map = IdMap {
                uid: host.uid,
                gid: host.gid,
                keep: Record::read(kept.to_owned()).text("keep-id").is_some(),
                subordinate: host.subordinate.clone(),
            };
            userns::enter(&map, &host)
        });
        if let Err(error) = entered {
            say(&format!("mini: {error}\n"));
        }
        store::remove(kept);
        0
    };
    if rustix::process::geteuid().is_root() {
        return store::remove(kept);
    }
    if let Ok(child) = sys::clone(0, inside) {
        let _ = waitpid(Some(child), WaitOptions::empty());
    }
}

/// Removes what is left of a container that has ended.
pub fn remove(container: &Record) -> Result<()> {
    // It may be gone by itself.
    if let Some(_lock) = state::claim(container)? {
        // What was killed with its supervisor may be about to end.
        let gone = || state::remove(container) && !container.directory.exists();
        let id = &container.id;
        pause::wait(container, &gone)
            .map_err(|_| error!("container {id}: a process of it does not end"))?;
    }
    Ok(())
}
