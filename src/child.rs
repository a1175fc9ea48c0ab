//! Performing steps: the loop that both sides use, and the container's processes. Entry: [`container`].
//!
//! Contract of everything here: it runs in a copy of the supervisor, whose memory it may read but whose standard
//! library it must not use. No allocation, no panic; a failure becomes one fixed-size report on the control
//! socket, and the process exits. The privileges are those of the supervisor until `Setuid`.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use linux_raw_sys::general as raw;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    FileType, FsWord, Gid, Mode, OFlags, RawDir, Uid, chmod, chown, fchown, fstat, fstatfs, mkdir,
    mknodat, openat, stat, symlink,
};
use rustix::io::{Errno, FdFlags, pwrite, read, write};
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::{RecvFlags, recv};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, chdir, chroot, getpgrp, getpid, ioctl_tiocsctty, pivot_root,
    set_child_subreaper, set_dumpable_behavior, setpgid, setsid, umask,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcsetattr, tcsetpgrp, tcsetwinsize};
#[cfg(feature = "life")]
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use rustix::thread::{
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::init::Role;
use crate::report::{Detail, Report};
use crate::step::Step;
use crate::sys::Word;
use crate::user::User;
use crate::{capabilities, exec, init, mask, network, resolve, rootfs, sys};

/// Exit status of a container whose set-up failed; the supervisor has the report and knows better.
const SETUP_FAILED: i32 = 125;
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// What is known only at run time: the slots that steps fill and later steps use.
pub struct Context {
    pub control: Option<OwnedFd>,
    /// What becomes descriptor 0, 1, 2 of the command, where it is not the caller's own.
    pub stdio: [Option<OwnedFd>; 3],
    /// The files `tasks` of the container's cgroups of version 1.
    pub tasks: [Option<OwnedFd>; 6],
    pub root: Option<OwnedFd>,
    pub own: rootfs::Own,
    pub terminal: Option<OwnedFd>,
    pub user: User,
    pub environment: Environment,
    /// Whether every step is reported, with the time it took.
    pub trace: bool,
    /// Whether it joins a container that runs already: whose processes must not get at this one before its execve, and may
    /// have changed what is there.
    pub joined: bool,
    /// What namespaces are entered by.
    pub namespaces: [Option<OwnedFd>; 8],
    /// What is known about a failure beyond its errno.
    pub detail: Detail,
}

impl Context {
    pub fn new(control: Option<OwnedFd>, environment: Environment, trace: bool) -> Context {
        Context {
            control,
            stdio: [None, None, None],
            tasks: [const { None }; 6],
            root: None,
            own: rootfs::Own::default(),
            terminal: None,
            user: User::ROOT,
            environment,
            trace,
            joined: false,
            namespaces: [const { None }; 8],
            detail: Detail::NONE,
        }
    }

    fn control(&self) -> rustix::io::Result<&OwnedFd> {
        self.control.as_ref().ok_or(Errno::BADF)
    }

    fn terminal(&self) -> rustix::io::Result<&OwnedFd> {
        self.terminal.as_ref().ok_or(Errno::BADF)
    }
}

/// The command's environment. `HOME` is filled in when the user is known.
pub struct Environment {
    pub words: &'static mut [Word],
    /// The element of `words` that is HOME, and room for its text; `None` if the user set it.
    pub home: Option<(usize, &'static mut [u8])>,
}

impl Environment {
    fn set_home(&mut self, home: &[u8]) {
        let Some((index, buffer)) = self.home.take() else {
            return;
        };
        // The last byte stays NUL.
        let room = buffer.len().saturating_sub(1);
        let text = b"HOME=".iter().chain(home);
        for (to, from) in buffer.iter_mut().take(room).zip(text) {
            *to = *from;
        }
        let word = self.words.get_mut(index);
        if let (Some(word), Ok(text)) = (word, CStr::from_bytes_until_nul(buffer)) {
            *word = Word::new(text);
        }
    }
}

/// Runs the steps of a new container process; returns its exit status unless the last step is an `execve` that
/// succeeds. At [`Step::Fork`] a second process goes on with the rest while this one becomes the reaper.
/// `first` is the index of the first step to be done, as reports give it.
pub fn container(steps: &[Step], first: usize, context: &mut Context) -> i32 {
    let trace = context.trace;
    let mut ready = false;
    for (index, step) in steps.iter().enumerate().skip(first) {
        let started = nanoseconds(trace);
        let mut attached = None;
        let result = match step {
            Step::Fork(init, hold) => match fork(steps, index + 1, context, *hold) {
                Ok((pid, go)) => {
                    let took = nanoseconds(trace).saturating_sub(started);
                    let result = init.iter().try_for_each(|step| perform(step, context));
                    report(context, trace, index, result, took, None, 0);
                    return match result {
                        Ok(()) => become_init(pid, go),
                        Err(_) => SETUP_FAILED,
                    };
                }
                Err(errno) => Err(errno),
            },
            #[cfg(feature = "life")]
            Step::Pass(flags) => {
                match sys::clone(*flags, || container(steps, index + 1, context)) {
                    Ok(pid) => {
                        let took = nanoseconds(trace).saturating_sub(started);
                        let pid = pid.as_raw_pid();
                        report(context, true, index, Ok(()), took, None, pid);
                        return 0;
                    }
                    Err(errno) => Err(errno),
                }
            }
            Step::OpenTerminal(ptmx, terminal, size) => {
                open_terminal(context, ptmx, *terminal, *size).map(|master| attached = Some(master))
            }
            step => {
                if ready && trace {
                    // Before, because afterwards it may be too late, or forbidden by a filter from a file.
                    report(context, true, index, Ok(()), 0, None, 0);
                }
                perform(step, context)
            }
        };
        let ready_now = matches!(step, Step::Ready);
        let said = matches!(step, Step::Apart | Step::Ready);
        let observed = ready_now && trace && !context.joined;
        if observed {
            let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        }
        let (tell, took) = (trace && !ready, nanoseconds(trace).saturating_sub(started));
        let attached = attached.as_ref().map(AsFd::as_fd);
        report(context, tell || said, index, result, took, attached, 0);
        if let Err(errno) = result {
            // The status counts where a filter from a file has kept the report back.
            return match (step, errno) {
                (Step::Execve(_), Errno::NOENT) => NOT_FOUND,
                (Step::Execve(_), _) => CANNOT_RUN,
                _ => SETUP_FAILED,
            };
        }
        if observed {
            // The supervisor looks at what this process is, and says when it has seen it.
            let control = context.control();
            let _ = control.and_then(|control| recv(control, &mut [0; 1], RecvFlags::empty()));
        }
        ready |= ready_now;
    }
    SETUP_FAILED
}

/// Starts a process that goes on with the step of index `first`; with `hold` not before a byte is written to the
/// descriptor returned.
fn fork(
    steps: &[Step],
    first: usize,
    context: &mut Context,
    hold: bool,
) -> rustix::io::Result<(Pid, Option<OwnedFd>)> {
    let (wait, go) = if hold {
        pipe_with(PipeFlags::CLOEXEC).map(|(wait, go)| (Some(wait), Some(go)))?
    } else {
        (None, None)
    };
    let pid = sys::clone(0, || {
        // If init ends instead, this is end of file.
        if let Some(go) = &go {
            sys::close(go.as_raw_fd());
        }
        match wait.as_ref().map(|wait| read(wait, &mut [0; 1])) {
            None | Some(Ok(1)) => container(steps, first, context),
            _ => SETUP_FAILED,
        }
    })?;
    Ok((pid, go))
}

/// Nothing of the supervisor's is left in init when the command begins.
fn become_init(command: Pid, go: Option<OwnedFd>) -> i32 {
    match go.map(|go| sys::duplicate(&go, 0)) {
        None => close_from(0),
        Some(kept) => {
            close_from(1);
            let _ = kept.and_then(|()| write(sys::borrow(0), b"!").map(drop));
            sys::close(0);
        }
    }
    sys::forget_memory();
    match getpid() {
        Pid::INIT => init::reap(command, Role::Init, false),
        _ => init::reap(command, Role::Subreaper, false),
    }
}

/// The time, if it is wanted.
pub fn nanoseconds(trace: bool) -> u64 {
    if trace {
        sys::clock(raw::CLOCK_MONOTONIC)
    } else {
        0
    }
}

/// Reports a failure; with `tell` also that nothing failed.
fn report(
    context: &Context,
    tell: bool,
    index: usize,
    result: rustix::io::Result<()>,
    nanoseconds: u64,
    attached: Option<BorrowedFd<'_>>,
    process: i32,
) {
    if result.is_ok() && !tell && attached.is_none() {
        return;
    }
    let report = Report {
        step: index as u16,
        result,
        nanoseconds,
        process,
        detail: context.detail,
    };
    if let Some(control) = &context.control {
        // The supervisor may be gone; then nobody is left to tell.
        let _ = report.send(control.as_fd(), attached);
    }
}

/// Performs one step. Used by the supervisor for its own steps as well.
pub fn perform(step: &Step, context: &mut Context) -> rustix::io::Result<()> {
    let root = context.root.as_ref().map(AsFd::as_fd);
    let inside = root.ok_or(Errno::BADF);
    match step {
        Step::CloseOnExec => close_on_exec(),
        Step::Unshare(flags) => sys::unshare(*flags),
        Step::Mount(mount) => rootfs::mount(root, &mut context.own, mount),
        Step::MountAttributes(path, attributes) => sys::mount_setattr(path, *attributes),
        Step::Mkdir(path, mode) => mkdir(*path, Mode::from_raw_mode(*mode)),
        Step::Symlink(to, path) => symlink(*to, *path),
        Step::Mknod(path, mode, major, minor) => {
            let (kind, mode) = (FileType::from_raw_mode(*mode), Mode::from_raw_mode(*mode));
            let device = rustix::fs::makedev(*major, *minor);
            mknodat(rustix::fs::CWD, *path, kind, mode, device)
        }
        Step::WriteFile(path, text) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            let file = openat(rustix::fs::CWD, *path, flags, Mode::from_raw_mode(0o644))?;
            match write(&file, text)? {
                length if length == text.len() => Ok(()),
                _ => Err(Errno::NOSPC),
            }
        }
        Step::JoinCgroup(_, slot) => {
            let tasks = context.tasks.get_mut(*slot).and_then(Option::take);
            write(tasks.ok_or(Errno::BADF)?, b"0").map(drop)
        }
        Step::AwaitGo => receive(context, &mut [0; 1]).map(drop),
        Step::BecomeRoot => become_root(),
        Step::JoinKeyring => match sys::join_session_keyring() {
            // No CONFIG_KEYS: there are no keys to keep out of reach. EPERM: a filter around mini, which the command
            // inherits, keeps it from all keys.
            Err(Errno::NOSYS | Errno::PERM) => Ok(()),
            result => result,
        },
        Step::CopyOwner(path, model) => copy_owner(path, model),
        Step::DieWithSupervisor(signal) => sys::set_parent_death_signal(*signal),
        Step::CheckSupervisor => check_supervisor(context),
        Step::HideCaller => hide_caller(),
        Step::NotDumpable => set_dumpable_behavior(DumpableBehavior::NotDumpable),
        Step::Subreaper => set_child_subreaper(Some(getpid())),
        Step::Setsid => setsid().map(drop),
        Step::Console(mode) => {
            // SIGTTOU would stop who does this from the background; ResetSignals comes later.
            sys::set_signal_mask(!0);
            setpgid(None, None)?;
            // The console need not be a terminal.
            let _ = tcsetpgrp(sys::borrow(0), getpid());
            if let Some(mode) = mode {
                let _ = tcsetattr(sys::borrow(0), OptionalActions::Now, mode);
            }
            Ok(())
        }
        Step::Foreground => {
            let group = getpgrp();
            setpgid(None, None)?;
            init::pass_foreground(group, getpid());
            Ok(())
        }
        Step::OpenRoot(path) => {
            context.root = Some(sys::open(path, OFlags::PATH | OFlags::DIRECTORY)?);
            Ok(())
        }
        Step::MakeDirectory(path) => {
            let mode = Mode::from_raw_mode(0o755);
            resolve::make_dir(inside?, path.to_bytes(), mode).map(drop)
        }
        Step::Mask(path) => mask::mask(context.own.base(inside?, path)?),
        Step::ReadOnly(path) => mask::read_only(context.own.base(inside?, path)?),
        Step::Sysctl(path, value, optional) => {
            let all = context.own.base(inside?, c"/proc/sys")?;
            mask::sysctl(all, path, value, *optional)
        }
        Step::Chdir(path) => chdir(*path),
        Step::Chroot => chroot(c"."),
        Step::PivotRoot => pivot_root(c".", c"."),
        Step::DetachOldRoot => unmount(c".", UnmountFlags::DETACH),
        Step::Sethostname(name) => rustix::system::sethostname(name.to_bytes()),
        Step::Network(_) => network::configure(network::LOOPBACK),
        Step::Connected(_) => {
            let mut messages = [0; 512];
            let length = receive(context, &mut messages)?;
            network::configure(messages.get(..length).unwrap_or_default())
        }
        Step::OwnTerminal => {
            let owner = Uid::from_raw(context.user.uid);
            fchown(context.terminal()?, Some(owner), None)
        }
        Step::AttachTerminal => {
            let terminal = context.terminal()?;
            ioctl_tiocsctty(terminal)?;
            (0..3).try_for_each(|number| sys::duplicate(terminal, number))
        }
        #[cfg(feature = "life")]
        Step::TerminalStreams => {
            let terminal = context.terminal()?;
            (0..3).try_for_each(|number| sys::duplicate(terminal, number))
        }
        #[cfg(feature = "life")]
        Step::ControllingTerminal => ioctl_tiocsctty(sys::borrow(0)),
        Step::Stdio(number) => {
            let source = context.stdio.get(usize::from(*number));
            let source = source.and_then(Option::as_ref).ok_or(Errno::BADF)?;
            sys::duplicate(source, i32::from(*number))
        }
        Step::Null(number) => {
            let null = match root {
                // As /proc/self/fd/0 it would hand over what is to be replaced.
                Some(root) if context.joined => open_null(root)?,
                _ => sys::open(c"/dev/null", OFlags::RDWR)?,
            };
            sys::duplicate(&null, i32::from(*number))
        }
        Step::CloseDescriptors => close_descriptors(context),
        Step::Limit(limit) => {
            sys::limit(0, limit.resource, Some((limit.soft, limit.hard))).map(drop)
        }
        Step::Umask(mask) => {
            umask(Mode::from_raw_mode(*mask));
            Ok(())
        }
        Step::DropBounding(kept, highest) => capabilities::drop_bounding(*kept, *highest),
        Step::KeepKill => capabilities::keep_kill(),
        Step::KeepCapabilities => set_keep_capabilities(true),
        Step::Capabilities(root, other) => match context.user.uid {
            0 => capabilities::set(*root, false),
            _ => capabilities::set(*other, *other != 0),
        },
        Step::NoNewPrivileges => set_no_new_privs(true),
        Step::Seccomp(program, flags) => sys::set_filter(program, *flags),
        Step::Setgroups => set_groups(context.user.groups()),
        Step::Setgid => {
            let gid = Gid::from_raw(context.user.gid);
            set_thread_res_gid(gid, gid, gid)
        }
        Step::Setuid => {
            let uid = Uid::from_raw(context.user.uid);
            set_thread_res_uid(uid, uid, uid)
        }
        Step::ResetSignals(mask) => {
            sys::default_signals();
            sys::set_signal_mask(*mask);
            Ok(())
        }
        Step::LookupUser(user, group) => {
            context.user = User::lookup(inside?, user, *group, &mut context.detail)?;
            Ok(())
        }
        Step::Apart | Step::Ready => Ok(()), // the report says it
        Step::Execve(command) => {
            context.environment.set_home(context.user.home());
            let (errno, detail) = exec::execute(command, context.environment.words);
            context.detail = detail;
            Err(errno)
        }
        #[cfg(feature = "life")]
        Step::CloseOthers => close_others(context),
        #[cfg(feature = "life")]
        Step::Setns(_, flags, slot) => {
            // What is entered is not needed any more, and nobody inside is to see it.
            let namespace = context.namespaces.get_mut(*slot).and_then(Option::take);
            let flags = ThreadNameSpaceType::from_bits_retain(*flags);
            move_into_thread_name_spaces(namespace.as_ref().ok_or(Errno::BADF)?.as_fd(), flags)
        }
        // The loop above deals with these.
        #[cfg(feature = "life")]
        Step::Pass(_) => Err(Errno::NOSYS),
        Step::Fork(..) | Step::OpenTerminal(..) => Err(Errno::NOSYS),
    }
}

/// Waits for a packet from the supervisor. If it is gone, this process goes too.
fn receive(context: &Context, packet: &mut [u8]) -> rustix::io::Result<usize> {
    match recv(context.control()?, packet, RecvFlags::empty())? {
        (_, 0) => sys::exit(SETUP_FAILED),
        (_, length) => Ok(length),
    }
}

/// In a new user namespace, without the caller's groups.
pub fn become_root() -> rustix::io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// The upper directory's owner and mode are what the container's `/` shows.
fn copy_owner(path: &CStr, model: &CStr) -> rustix::io::Result<()> {
    let status = stat(model)?;
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    match chown(path, Some(uid), Some(gid)) {
        // An owner that the user namespace does not map.
        Err(errno) if errno != Errno::INVAL => return Err(errno),
        _ => {}
    }
    chmod(path, Mode::from_raw_mode(status.st_mode & 0o7777))
}

/// A supervisor that died before `PR_SET_PDEATHSIG` sends no signal, and getppid() is 0 across pid namespaces
/// whether it lives or not: only the socket tells.
fn check_supervisor(context: &Context) -> rustix::io::Result<()> {
    let mut fds = [PollFd::new(context.control()?, PollFlags::empty())];
    match poll(&mut fds, Some(&Timespec::default()))? {
        0 => Ok(()),
        _ => sys::exit(SETUP_FAILED),
    }
}

/// A process shows what it was started with for as long as it lives, and init lives inside: without this, the
/// container reads the caller's environment in /proc/1/environ. The areas are in proc(5) stat, fields 48 to 51;
/// written through /proc/self/mem because only the C library's start-up code knows the pointers.
fn hide_caller() -> rustix::io::Result<()> {
    // A change of ids takes /proc/self away from a process, and the supervisor may have given it up (proc(5),
    // prctl(2) PR_SET_DUMPABLE); it is taken back.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    let mut text = [0; 1024];
    let length = read(sys::open(c"/proc/self/stat", OFlags::RDONLY)?, &mut text)?;
    let text = text.get(..length).unwrap_or_default();
    // The second field is a name in parentheses, in which anything may stand; the third follows the last one.
    let after_name = text.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    let mut fields = (after_name.split(|byte| *byte == b' ').skip(1))
        .map(|field| core::str::from_utf8(field).ok()?.parse::<u64>().ok());
    let mut area = [0; 4];
    for (to, from) in area.iter_mut().zip(fields.by_ref().skip(48 - 3)) {
        *to = from.ok_or(Errno::PROTO)?;
    }
    let [arguments, arguments_end, environment, environment_end] = area;
    let memory = sys::open(c"/proc/self/mem", OFlags::WRONLY)?;
    // The first byte comes first and last: who asks whether this is the command yet (`mini exec`) sees the old words, a zero
    // byte, or the new ones, and no mixture.
    pwrite(&memory, b"\0", arguments)?;
    for (start, end) in [(arguments, arguments_end), (environment, environment_end)] {
        let mut at = start;
        while at < end {
            let zeros = [0; 4096];
            let count = zeros.len().min((end - at) as usize);
            at += pwrite(&memory, zeros.get(..count).unwrap_or_default(), at)? as u64;
        }
    }
    pwrite(&memory, b"ini init", arguments + 1)?;
    // Changes the first byte alone.
    pwrite(&memory, b"mini init", arguments).map(drop)
}

/// linux/magic.h
const DEVPTS_SUPER_MAGIC: FsWord = 0x1cd1;

/// Opens a new pty and returns its master; the other side, the terminal, stays in the context.
fn open_terminal(
    context: &mut Context,
    ptmx: &CStr,
    terminal: Option<&CStr>,
    size: (u16, u16),
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = match &context.root {
        // As /proc/self/fd/0 it would be the caller's terminal.
        Some(root) if context.joined => resolve::open(root.as_fd(), ptmx.to_bytes(), flags)?,
        _ => sys::open(ptmx, flags)?,
    };
    unlockpt(&master)?;
    let (ws_row, ws_col) = size;
    let (ws_xpixel, ws_ypixel) = (0, 0);
    let size = Winsize {
        ws_row,
        ws_col,
        ws_xpixel,
        ws_ypixel,
    };
    tcsetwinsize(&master, size)?;
    let terminal = match terminal {
        // By its path, which no image has a say in.
        Some(terminal) => sys::open(terminal, flags)?,
        // TIOCGPTPEER, Linux 4.13: nobody can put another in its place.
        None => {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            ioctl_tiocgptpeer(&master, flags)?
        }
    };
    // A volume may have been mounted over /dev through a symbolic link (CVE-2025-52565 was of this kind).
    for opened in [&master, &terminal] {
        if fstatfs(opened)?.f_type != DEVPTS_SUPER_MAGIC {
            return Err(Errno::NOTTY);
        }
    }
    context.terminal = Some(terminal);
    Ok(master)
}

/// The null device inside a root in which anything may have been put in its place.
fn open_null(root: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let null = resolve::open(root, b"/dev/null", flags)?;
    let status = fstat(&null)?;
    let device = FileType::from_raw_mode(status.st_mode).is_char_device();
    match device && status.st_rdev == rustix::fs::makedev(1, 3) {
        true => Ok(null),
        false => Err(Errno::NODEV),
    }
}

fn set_groups(groups: &[u32]) -> rustix::io::Result<()> {
    let mut list = [Gid::ROOT; 128];
    for (to, from) in list.iter_mut().zip(groups) {
        *to = Gid::from_raw(*from);
    }
    set_thread_groups(list.get(..groups.len()).ok_or(Errno::TOOBIG)?)
}

/// Leaves 0, 1, 2 and the control socket, which becomes 3.
fn close_descriptors(context: &mut Context) -> rustix::io::Result<()> {
    sys::duplicate(context.control()?, 3)?;
    rustix::io::fcntl_setfd(sys::borrow(3), FdFlags::CLOEXEC)?;
    close_from(4);
    // Every other descriptor of this process is closed now, whatever the context says.
    let own = core::mem::take(&mut context.own);
    let (control, root, terminal) = (
        &mut context.control,
        &mut context.root,
        &mut context.terminal,
    );
    core::mem::forget((control.take(), root.take(), terminal.take(), own));
    context.control = Some(sys::own(3));
    Ok(())
}

/// Leaves 0, 1, 2, the control socket, the streams to come, and what namespaces are entered by.
#[cfg(feature = "life")]
fn close_others(context: &Context) -> rustix::io::Result<()> {
    each_descriptor(3, &|number| {
        let kept = [context.control.as_ref()].into_iter();
        let kept = kept.chain(context.stdio.iter().map(Option::as_ref));
        let mut kept = kept.chain(context.namespaces.iter().map(Option::as_ref));
        if !kept.any(|kept| kept.is_some_and(|kept| kept.as_raw_fd() == number)) {
            sys::close(number);
        }
    })
}

/// Marks every descriptor from 3 on close-on-exec, also those that mini's caller left open.
fn close_on_exec() -> rustix::io::Result<()> {
    match sys::close_range(3, true) {
        // EINVAL: Linux 5.9 and 5.10 do not know the flag.
        Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => each_descriptor(3, &|number| {
            let _ = rustix::io::fcntl_setfd(sys::borrow(number), FdFlags::CLOEXEC);
        }),
        result => result,
    }
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: i32) {
    if sys::close_range(first as u32, false).is_err() {
        let _ = each_descriptor(first, &sys::close);
    }
}

/// Calls `act` for every open descriptor from `first` on, as /proc/self/fd lists them (kernels before 5.9).
fn each_descriptor(first: i32, act: &dyn Fn(i32)) -> rustix::io::Result<()> {
    let directory = sys::open(c"/proc/self/fd", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        let number = name.and_then(|name| name.parse().ok());
        match number {
            Some(number) if number >= first && number != directory.as_raw_fd() => act(number),
            _ => {}
        }
    }
    Ok(())
}
