//! PID 1: the reaper. Entry: [`reap`].
//!
//! It waits for signals with all of them blocked (`rt_sigtimedwait`), so there are no handlers and no races:
//! a blocked signal is queued even for a pid namespace's init, whose unblocked default-action signals the kernel
//! drops (pid_namespaces(7)). SIGCHLD reaps everything that has ended; any other signal is passed on to the
//! command. It ends with the command, and the kernel then kills what is left in the pid namespace.
//!
//! Where a terminal would signal a whole process group (Ctrl-C, Ctrl-\, Ctrl-Z, hang-up, resizing), the command's
//! group gets the signal, otherwise the command alone (`mini init -g`: always the group). The command leads a session of its own, so its group
//! is orphaned and the kernel would discard a stop signal that has the default action (setpgid(2) on orphaned
//! groups): SIGTSTP, SIGTTIN and SIGTTOU are passed on as SIGSTOP.
//!
//! It allocates nothing, and in a container it keeps no descriptors: with them closed, the reader of a pipe that the
//! command closed sees end of file.

use linux_raw_sys::general as raw;
use rustix::fs::OFlags;
use rustix::io::{Errno, read};
use rustix::process::{Pid, WaitOptions, getpgrp, getpid, wait};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::sys::{self, SignalSet};

const fn bit(signal: u32) -> SignalSet {
    1 << (signal - 1)
}

/// Every signal that can be passed on, and SIGCHLD. Not in it: SIGKILL and SIGSTOP, which nobody can block, and
/// those that a fault or a closed pipe of mini's own would raise.
pub const FORWARDED: SignalSet = !(bit(raw::SIGKILL)
    | bit(raw::SIGSTOP)
    | bit(raw::SIGSEGV)
    | bit(raw::SIGBUS)
    | bit(raw::SIGFPE)
    | bit(raw::SIGILL)
    | bit(raw::SIGTRAP)
    | bit(raw::SIGPIPE)
    | bit(raw::SIGSYS));

/// Those that end mini as long as there is no container to pass them on to.
pub const ENDING: SignalSet =
    bit(raw::SIGHUP) | bit(raw::SIGINT) | bit(raw::SIGQUIT) | bit(raw::SIGTERM);

/// What this process is to the command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The init of a pid namespace: the kernel ends everything in it when this process ends.
    Init,
    /// A child subreaper in the host's pid namespace (`--pid host`): it does so itself, also when it gets
    /// [`SUPERVISOR_DIED`].
    Subreaper,
    /// `mini init` on its own: what the command leaves behind is none of its business.
    Alone,
    /// The same with a terminal: the command leads a process group in mini's own session (see
    /// [`pass_foreground`]) instead of a session.
    Foreground,
}

/// The parent-death signal of a [`Role::Subreaper`], which has work to do before it dies: the last real-time signal,
/// so that nobody misses it.
pub const SUPERVISOR_DIED: i32 = 64;

/// Reaps until `command` has ended, and returns the status to exit with: its own, or 128 + the signal that
/// killed it. With `group` every signal is for all of its process group, of which nothing is to outlive it.
pub fn reap(command: Pid, role: Role, group: bool) -> i32 {
    // A machine's or container's PID 1 cannot stop, and has nobody who would continue it.
    let stoppable = getpid() != Pid::INIT;
    let foreground = role == Role::Foreground;
    let mut status = None;
    while status.is_none() {
        // EINTR (after SIGSTOP and SIGCONT): wait again. Nothing else can fail here.
        let Ok(signal) = sys::wait_signal(FORWARDED, None) else {
            continue;
        };
        match signal as u32 {
            raw::SIGCHLD => status = collect(command, foreground && stoppable),
            _ if signal == SUPERVISOR_DIED && role == Role::Subreaper => {
                status = Some(128 + raw::SIGKILL as i32);
            }
            _ => {
                match group && !stops(signal) {
                    true => signal_group(command, signal),
                    false => pass_on(command, signal),
                }
                if stops(signal) && stoppable {
                    stop_and_resume(command, foreground);
                }
            }
        }
    }
    if role == Role::Subreaper {
        kill_descendants();
    }
    if group {
        // Its number is nobody else's while the group has members.
        let _ = sys::kill(-command.as_raw_pid(), raw::SIGTERM as i32);
    }
    status.unwrap_or_default()
}

/// Kills every child, then those that become children because their parents are gone, until nobody is left.
/// proc(5), /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN).
fn kill_descendants() {
    let mut text = [0; 4096];
    let children = || sys::open(c"/proc/thread-self/children", OFlags::RDONLY);
    while let Ok(count) = children().and_then(|file| read(file, &mut text)) {
        let list = core::str::from_utf8(text.get(..count).unwrap_or_default()).unwrap_or_default();
        // The last number may be cut; it is whole the next time.
        let whole = list.rsplit_once(' ').map_or("", |(whole, _)| whole);
        let mut killed = whole.split(' ').filter_map(|pid| pid.parse().ok());
        if !killed.any(|pid| sys::kill(pid, raw::SIGKILL as i32).is_ok()) {
            return;
        }
        for pid in killed {
            let _ = sys::kill(pid, raw::SIGKILL as i32);
        }
        // At least one dies; the rest is seen in the next round.
        let _ = wait(WaitOptions::empty());
    }
}

/// Whether a terminal stops a job by this signal.
fn stops(signal: i32) -> bool {
    matches!(signal as u32, raw::SIGTSTP | raw::SIGTTIN | raw::SIGTTOU)
}

/// Passes a signal on to the command, which leads a session: to its whole group where a terminal would do so.
pub fn pass_on(command: Pid, signal: i32) {
    match signal as u32 {
        _ if stops(signal) => signal_group(command, raw::SIGSTOP as i32),
        raw::SIGINT | raw::SIGQUIT | raw::SIGHUP | raw::SIGWINCH | raw::SIGCONT => {
            signal_group(command, signal);
        }
        _ => {
            let _ = sys::kill(command.as_raw_pid(), signal);
        }
    }
}

/// Sends `signal` to the command's process group. Between fork and setsid that group does not exist yet: then to
/// the command.
fn signal_group(command: Pid, signal: i32) {
    let pid = command.as_raw_pid();
    if sys::kill(-pid, signal) == Err(Errno::SRCH) {
        let _ = sys::kill(pid, signal);
    }
}

/// Reaps every child that has ended; the status to exit with, once the command is among them.
fn collect(command: Pid, stoppable: bool) -> Option<i32> {
    let options = if stoppable {
        WaitOptions::NOHANG | WaitOptions::UNTRACED
    } else {
        WaitOptions::NOHANG
    };
    let mut result = None;
    // Ends at None (nobody has ended) or ECHILD (nobody is left).
    while let Ok(Some((pid, status))) = wait(options) {
        if pid != command {
            continue;
        }
        if status.stopped() {
            // Ctrl-Z in the command's own process group: mini stops too, so that the shell which waits for mini
            // gets its prompt back.
            stop_and_resume(command, true);
            continue;
        }
        result = status
            .exit_status()
            .or(status.terminating_signal().map(|signal| 128 + signal));
    }
    result
}

/// Stops this process; continued, it continues the command, in the foreground if that is where mini is put.
fn stop_and_resume(command: Pid, foreground: bool) {
    let _ = sys::kill(getpid().as_raw_pid(), raw::SIGSTOP as i32);
    if foreground {
        pass_foreground(getpgrp(), command);
    }
    signal_group(command, raw::SIGCONT as i32);
}

/// Makes the process group `to` the foreground group of the terminal on standard input, if `from` is it now; true
/// if so. SIGTTOU is blocked in mini, or doing this would stop it (tcsetpgrp(3)).
pub fn pass_foreground(from: Pid, to: Pid) -> bool {
    let terminal = sys::borrow(0);
    tcgetpgrp(terminal) == Ok(from) && tcsetpgrp(terminal, to).is_ok()
}
