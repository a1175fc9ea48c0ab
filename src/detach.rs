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

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, setsid, waitpid};

use container::{init, sys};

use crate::cli;
use crate::error::{Error, Result, error, say};
use crate::host::{Host, probe};
use crate::plan::IdMap;
use crate::record::Record;
use crate::run::exit_status;
use crate::spec::{LogTo, Spec, Upper, Userns};
use crate::state;
use crate::store::{self, names};
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

/// Opens what the output goes to, if that is not the log.
pub fn open(log: &LogTo) -> Result<OwnedFd> {
    let path = match log {
        LogTo::File(path) => path.as_os_str().as_bytes(),
        _ => b"/dev/null",
    };
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
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
    let failed = |operation: &'static str| move |errno| Error::sys(operation, "", errno);
    let (ready, pipe) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
    let (ours, caller) = (ready.as_raw_fd(), Caller { pipe, inherited });
    let supervisor = sys::clone(0, || {
        sys::close(ours);
        let _ = setsid();
        i32::from(work(caller).unwrap_or_else(|error| {
            say(&format!("mini: {error}\n"));
            error.status()
        }))
    })
    .map_err(failed("clone3"))?;
    loop {
        let watched = [&ready, signals].map(|fd| PollFd::new(fd, PollFlags::IN));
        let mut fds = watched;
        let _ = poll(&mut fds, None);
        if !fds[0].revents().is_empty() {
            break;
        }
        let mut info = [0; 128]; // struct signalfd_siginfo, which begins with the number
        if read(signals, &mut info) == Ok(info.len()) && info[0] > 0 {
            let number = u32::from(info[0]);
            if init::ENDING & 1 << (number - 1) != 0 {
                // It cannot be gone: it has not been waited for.
                let _ = sys::kill(supervisor.as_raw_pid(), number as i32);
            }
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
    let Some(kept) = kept(container) else {
        return;
    };
    // Without root most in there belongs to ids that are the container's: in a user namespace like its own.
    let inside = || {
        let entered = cli::plain().and_then(|spec| {
            let host = probe(&spec)?;
            let map = IdMap {
                uid: host.uid,
                gid: host.gid,
                keep: Record::read(kept.clone()).text("keep-id").is_some(),
                subordinate: host.subordinate.clone(),
            };
            userns::enter(&map, &host)
        });
        if let Err(error) = entered {
            say(&format!("mini: {error}\n"));
        }
        store::remove(&kept);
        0
    };
    if rustix::process::geteuid().is_root() {
        return store::remove(&kept);
    }
    if let Ok(child) = sys::clone(0, inside) {
        let _ = waitpid(Some(child), WaitOptions::empty());
    }
}

/// Removes what is left of a container that has ended.
pub fn remove(container: &Record) -> Result<()> {
    // It may be gone by itself.
    if let Some(_lock) = state::claim(container)? {
        state::remove(container);
        if container.directory.exists() {
            let id = &container.id;
            return Err(error!("container {id}: a process of it does not end"));
        }
    }
    Ok(())
}
