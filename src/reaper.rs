//! `mini init -- CMD`: the reaper of `init.rs` on its own, as tini and dumb-init are used.
//!
//! As PID 1 of somebody else's container orphans come to it anyway; elsewhere it becomes a child subreaper
//! (prctl(2), Linux 3.4). With a terminal on standard input the command leads the foreground process group of
//! mini's own session, so that an interactive shell has job control; without one it leads a session of its own.
//!
//! Options as tini has them: `-g`, `-p`, `-e`; what its `-s` asks for is always so. Left out of what dumb-init has: rewriting
//! signals (`mini run --stop-signal` does it for a container), and SIGTERM for what the command leaves behind, without `-g`.

use std::os::unix::ffi::OsStringExt;

use linux_raw_sys::general::{SIGCHLD, SIGKILL};
use rustix::fs::OFlags;
use rustix::process::{Pid, getpgrp, getpid, set_child_subreaper};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use container::init::{ENDING, FORWARDED, Role, pass_foreground, reap};
use container::step::Step;
use container::sys;

use crate::error::{Error, FAILED, Result};
use crate::plan::prepare;
use crate::spawn::Launch;

/// What `mini init` is to run, and how.
#[derive(Default)]
pub struct Init {
    pub command: Vec<Vec<u8>>,
    /// Signals are for the command's whole process group.
    pub group: bool,
    /// The signal that this process gets when its parent dies, and passes on.
    pub parent_death: Option<i32>,
    /// Statuses of the command for which this process exits with 0.
    pub success: Vec<u8>,
}

/// Runs the command and returns the status to exit with.
pub fn run(init: &Init) -> Result<u8> {
    if init.command.is_empty() {
        return Err(Error::new("init: no command given"));
    }
    // Ignored by the caller, it would not be sent, and children would not be waited for (wait(2)).
    sys::default_signal(SIGCHLD);
    sys::set_signal_mask(FORWARDED & !sys::ignored(ENDING));
    if getpid() != Pid::INIT {
        set_child_subreaper(Some(getpid()))
            .map_err(|errno| Error::sys("prctl", "PR_SET_CHILD_SUBREAPER", errno))?;
    }
    let mut death = 0;
    if let Some(signal) = init.parent_death {
        sys::set_parent_death_signal(signal)
            .map_err(|errno| Error::sys("prctl", "PR_SET_PDEATHSIG", errno))?;
        // That one cannot be passed on.
        if signal == SIGKILL as i32 {
            death = signal;
        }
    }
    // Not if mini is in the background: the terminal is somebody else's then.
    let (role, own_group) = match tcgetpgrp(sys::borrow(0)) == Ok(getpgrp()) {
        true => (Role::Foreground, Step::Foreground),
        false => (Role::Alone, Step::Setsid),
    };
    let path = std::env::var_os("PATH").unwrap_or_default().into_vec();
    let command = prepare(&init.command, &path);
    let started = Launch::new(vec![own_group], death, command).start();
    let pid = started.inspect_err(|_| {
        // It may have taken it before it failed.
        if role == Role::Foreground {
            let _ = tcsetpgrp(sys::borrow(0), getpgrp());
        }
    })?;
    // Whoever reads the output sees its end when the command closes it.
    if let Ok(null) = sys::open(c"/dev/null", OFlags::RDWR) {
        let _ = sys::duplicate(&null, 1).and_then(|()| sys::duplicate(&null, 2));
    }
    let status = reap(pid, role, init.group);
    pass_foreground(pid, getpgrp());
    match u8::try_from(status).unwrap_or(FAILED) {
        status if init.success.contains(&status) => Ok(0),
        status => Ok(status),
    }
}
