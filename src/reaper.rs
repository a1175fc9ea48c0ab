//! `mini init -- CMD`: the reaper of `init.rs` on its own, as tini and dumb-init are used.
//!
//! As PID 1 of somebody else's container orphans come to it anyway; elsewhere it becomes a child subreaper
//! (prctl(2), Linux 3.4). With a terminal on standard input the command leads the foreground process group of
//! mini's own session, so that an interactive shell has job control; without one it leads a session of its own.

use std::os::unix::ffi::OsStringExt;

use rustix::fs::OFlags;
use rustix::process::{Pid, getpgrp, getpid, set_child_subreaper};
use rustix::termios::tcgetpgrp;

use container::init::{self, Role};
use container::step::Step;
use container::sys;

use crate::error::{Error, Result};
use crate::plan::prepare;
use crate::spawn::Launch;

/// Runs `command` and returns the status to exit with.
pub fn run(command: &[Vec<u8>]) -> Result<u8> {
    if command.is_empty() {
        return Err(Error::new("init: no command given"));
    }
    // Ignored by the caller, it would not be sent, and children would not be waited for (wait(2)).
    sys::default_signal(linux_raw_sys::general::SIGCHLD);
    sys::set_signal_mask(init::FORWARDED & !sys::ignored(init::ENDING));
    if getpid() != Pid::INIT {
        set_child_subreaper(Some(getpid()))
            .map_err(|errno| Error::sys("prctl", "PR_SET_CHILD_SUBREAPER", errno))?;
    }
    // Not if mini is in the background: the terminal is somebody else's then.
    let (role, own_group) = match tcgetpgrp(sys::borrow(0)) == Ok(getpgrp()) {
        true => (Role::Foreground, Step::Foreground),
        false => (Role::Alone, Step::Setsid),
    };
    let path = std::env::var_os("PATH").unwrap_or_default().into_vec();
    let pid = Launch::new(vec![own_group], 0, prepare(command, &path)).start()?;
    // Whoever reads the output sees its end when the command closes it.
    if let Ok(null) = sys::open(c"/dev/null", OFlags::RDWR) {
        let _ = sys::duplicate(&null, 1).and_then(|()| sys::duplicate(&null, 2));
    }
    let status = init::reap(pid, role);
    init::pass_foreground(pid, getpgrp());
    Ok(u8::try_from(status).unwrap_or(crate::error::FAILED))
}
