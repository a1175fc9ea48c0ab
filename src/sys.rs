//! The system calls that rustix does not wrap, and the only `unsafe` code of mini.
//!
//! Each call goes through `syscall(2)` of the C library that std links anyway (musl in releases), so one
//! definition serves every architecture. Nothing here allocates, locks or panics: all of it may run between
//! `clone3` and `execve`. Left out on purpose: everything rustix has a safe function for.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_int, c_long};

use linux_raw_sys::general as raw;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::process::Pid;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
}

/// Makes a system call and turns -1 into the errno.
///
/// # Safety
/// The arguments must be what the kernel expects of this call: pointers valid for as long as it uses them.
unsafe fn call(number: u32, arguments: [usize; 5]) -> Result<usize> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the caller vouches for the arguments; errno is this thread's own, and there is only one thread.
    unsafe {
        match syscall(number as c_long, a, b, c, d, e) {
            -1 => Err(Errno::from_raw_os_error(*__errno_location())),
            value => Ok(value as usize),
        }
    }
}

fn pointer(text: Option<&CStr>) -> usize {
    text.map_or(0, |text| text.as_ptr() as usize)
}

/// Runs `child` in a new process made by `clone3(2)` (Linux 5.3) with these `CLONE_*` flags, or by `clone(2)`
/// where the kernel knows no clone3 (ENOSYS) or a
/// seccomp filter around mini does not (EPERM). The child exits with what `child` returns.
///
/// This is a fork: no memory is shared, so the child may go on using everything that was prepared before.
pub fn clone(flags: u32, child: impl FnOnce() -> i32) -> Result<Pid> {
    let arguments = raw::clone_args {
        flags: u64::from(flags),
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(raw::SIGCHLD),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // Only the first published size (64 bytes, Linux 5.3) is passed, so that every clone3 kernel accepts it.
    // SAFETY: `arguments` outlives the call; without CLONE_VM and CLONE_SETTLS the child is a complete copy of
    // this single-threaded process (mini never starts a thread) and goes on here with its own stack.
    let id = match unsafe {
        call(
            raw::__NR_clone3,
            [&raw const arguments as usize, 64, 0, 0, 0],
        )
    } {
        // The order of clone's last arguments differs by architecture; all of them are zero.
        Err(Errno::NOSYS | Errno::PERM) => unsafe {
            // SAFETY: as above; a stack of 0 means a copy of the caller's.
            call(
                raw::__NR_clone,
                [(flags | raw::SIGCHLD) as usize, 0, 0, 0, 0],
            )
        },
        other => other,
    }?;
    match Pid::from_raw(id as i32) {
        Some(pid) => Ok(pid),
        None => exit(child()),
    }
}

/// `unshare(2)` with `CLONE_NEW*` flags. rustix calls it unsafe because CLONE_FILES would split the descriptor
/// table under other threads; mini has none.
pub fn unshare(flags: u32) -> Result<()> {
    // SAFETY: a number only.
    unsafe { call(raw::__NR_unshare, [flags as usize, 0, 0, 0, 0]) }.map(drop)
}

/// The signal this process gets when its parent dies: `prctl(2)`, PR_SET_PDEATHSIG. rustix takes no real-time one.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    let arguments = [
        linux_raw_sys::prctl::PR_SET_PDEATHSIG as usize,
        signal as usize,
        0,
        0,
        0,
    ];
    // SAFETY: numbers only.
    unsafe { call(raw::__NR_prctl, arguments) }.map(drop)
}

/// Ends this process at once: no destructors, no flushing.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: exit_group takes a number and does not return.
        let _ = unsafe { call(raw::__NR_exit_group, [status as usize, 0, 0, 0, 0]) };
    }
}

/// One element of an argument or environment list as `execve(2)` wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Word(*const c_char);

impl Word {
    /// The null pointer that ends a list.
    pub const END: Word = Word(core::ptr::null());

    pub const fn new(text: &'static CStr) -> Word {
        Word(text.as_ptr())
    }
}

/// Replaces this process; returns only the reason why that failed. Both lists must end with [`Word::END`].
pub fn execve(path: &CStr, arguments: &[Word], environment: &[Word]) -> Errno {
    let ended = |list: &[Word]| list.last().is_some_and(|word| word.0.is_null());
    if !ended(arguments) || !ended(environment) {
        return Errno::FAULT;
    }
    let list = [
        path.as_ptr() as usize,
        arguments.as_ptr() as usize,
        environment.as_ptr() as usize,
        0,
        0,
    ];
    // SAFETY: `path` ends with NUL; both lists end with null, and a `Word` points to a string that lives for ever.
    match unsafe { call(raw::__NR_execve, list) } {
        Err(errno) => errno,
        Ok(_) => Errno::INVAL,
    }
}

/// `mount(2)`; `None` is a null pointer.
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: u32,
    data: Option<&CStr>,
) -> Result<()> {
    let arguments = [
        pointer(source),
        pointer(Some(target)),
        pointer(fstype),
        flags as usize,
        pointer(data),
    ];
    // SAFETY: each pointer is null or a string that outlives the call.
    unsafe { call(raw::__NR_mount, arguments) }.map(drop)
}

/// Sets mount attributes (`MOUNT_ATTR_*`), and nothing else, on a mount and on all below it: `mount_setattr(2)`,
/// Linux 5.12.
pub fn mount_setattr(target: &CStr, attributes: u64) -> Result<()> {
    let set = [attributes, 0, 0, 0]; // struct mount_attr: set, clear, propagation, user namespace
    let (target, flags) = (pointer(Some(target)), raw::AT_RECURSIVE as usize);
    let size = size_of_val(&set);
    let arguments = [
        raw::AT_FDCWD as usize,
        target,
        flags,
        set.as_ptr() as usize,
        size,
    ];
    // SAFETY: `target` and `set` outlive the call, and the size is that of `set`.
    unsafe { call(raw::__NR_mount_setattr, arguments) }.map(drop)
}

/// Closes every descriptor from `first` on, or with `at_exec` marks it close-on-exec:
/// `close_range(2)`, Linux 5.9 (the flag 5.11).
pub fn close_range(first: u32, at_exec: bool) -> Result<()> {
    /// From linux/close_range.h.
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    let flags = if at_exec { CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: numbers only. Descriptors that are closed here are not used again: the callers exec, exit or
    // keep to the numbers below `first`.
    unsafe {
        call(
            raw::__NR_close_range,
            [first as usize, u32::MAX as usize, flags, 0, 0],
        )
    }
    .map(drop)
}

/// Closes one descriptor by number, for kernels without [`close_range`].
pub fn close(descriptor: i32) {
    // SAFETY: as for `close_range`.
    let _ = unsafe { call(raw::__NR_close, [descriptor as usize, 0, 0, 0, 0]) };
}

/// The descriptor with this number, which the caller knows to be open for as long as it is used.
pub fn borrow(descriptor: i32) -> BorrowedFd<'static> {
    // SAFETY: used at once, for 0 to 3 and for numbers that /proc/self/fd has just listed; one that is closed
    // gives EBADF, never memory unsafety.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

/// Takes over a descriptor that nothing else owns.
pub fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: the one caller (`close_descriptors`) has just made it and closed or forgotten all others.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Makes `from` known under the number `to` as well, without close-on-exec: `dup3(2)`.
pub fn duplicate(from: impl AsFd, to: i32) -> Result<()> {
    let from = from.as_fd().as_raw_fd();
    if from == to {
        return rustix::io::fcntl_setfd(borrow(to), rustix::io::FdFlags::empty());
    }
    // SAFETY: numbers only; `to` is 0 to 3, and the caller accounts for what was open there.
    unsafe { call(raw::__NR_dup3, [from as usize, to as usize, 0, 0, 0]) }.map(drop)
}

/// A set of signals as the kernel has it: bit n−1 stands for signal n.
pub type SignalSet = u64;

/// Size in bytes of the kernel's signal set, which the rt_sig calls want to be told.
const SIGNAL_SET_SIZE: usize = 8;

/// Sets the signals that are blocked: `rt_sigprocmask(2)`.
pub fn set_signal_mask(set: SignalSet) {
    let arguments = [
        raw::SIG_SETMASK as usize,
        &raw const set as usize,
        0,
        SIGNAL_SET_SIZE,
        0,
    ];
    // SAFETY: `set` outlives the call. No other code here depends on signals being delivered.
    let _ = unsafe { call(raw::__NR_rt_sigprocmask, arguments) };
}

/// Waits for one of these blocked signals and returns its number: `rt_sigtimedwait(2)`.
pub fn wait_signal(set: SignalSet) -> Result<i32> {
    // SAFETY: `set` outlives the call; no siginfo and no timeout are asked for.
    unsafe {
        call(
            raw::__NR_rt_sigtimedwait,
            [&raw const set as usize, 0, 0, SIGNAL_SET_SIZE, 0],
        )
    }
    .map(|signal| signal as i32)
}

/// A descriptor that reports these blocked signals: `signalfd4(2)`, non-blocking, close-on-exec.
pub fn signalfd(set: SignalSet) -> Result<OwnedFd> {
    // SFD_CLOEXEC and SFD_NONBLOCK are defined as these.
    let flags = (raw::O_CLOEXEC | raw::O_NONBLOCK) as usize;
    // SAFETY: `set` outlives the call; the descriptor returned is new and owned by nobody else.
    unsafe {
        let fd = call(
            raw::__NR_signalfd4,
            [
                usize::MAX,
                &raw const set as usize,
                SIGNAL_SET_SIZE,
                flags,
                0,
            ],
        )?;
        Ok(OwnedFd::from_raw_fd(fd as c_int))
    }
}

/// Sets a signal to its default action.
pub fn default_signal(signal: u32) {
    // All zero is SIG_DFL without flags or mask, whatever the architecture's layout; 32 bytes is the largest.
    let action = [0u64; 4];
    let arguments = [
        signal as usize,
        action.as_ptr() as usize,
        0,
        SIGNAL_SET_SIZE,
        0,
    ];
    // SAFETY: `action` is at least as large as the kernel's struct sigaction. SIGKILL and SIGSTOP give EINVAL.
    let _ = unsafe { call(raw::__NR_rt_sigaction, arguments) };
}

/// Which of these signals are ignored, as nohup(1) leaves SIGHUP: `rt_sigaction(2)`.
pub fn ignored(set: SignalSet) -> SignalSet {
    const SIG_IGN: usize = 1;
    let is_ignored = |signal: &u32| {
        let mut action = [0usize; 8];
        let arguments = [
            *signal as usize,
            0,
            action.as_mut_ptr() as usize,
            SIGNAL_SET_SIZE,
            0,
        ];
        // SAFETY: `action` is at least as large as the kernel's struct sigaction, which begins with the handler.
        let _ = unsafe { call(raw::__NR_rt_sigaction, arguments) };
        action[0] == SIG_IGN
    };
    let candidates = (1..=64u32).filter(|signal| set & 1 << (signal - 1) != 0);
    candidates
        .filter(is_ignored)
        .fold(0, |ignored, signal| ignored | 1 << (signal - 1))
}

/// Sets every signal to its default action (Rust's start-up ignores SIGPIPE; the caller may ignore others, and
/// what is ignored stays so through `execve`).
pub fn default_signals() {
    (1..=64).for_each(default_signal);
}

/// Nanoseconds on a clock (`CLOCK_*`): `clock_gettime(2)`. As a system call, not through the vDSO, which mini would
/// have to find and parse first; it reads clocks a handful of times.
pub fn clock(id: u32) -> u64 {
    let mut time = raw::__kernel_timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    #[cfg(target_pointer_width = "64")]
    const CALL: u32 = raw::__NR_clock_gettime;
    #[cfg(target_pointer_width = "32")]
    const CALL: u32 = raw::__NR_clock_gettime64;
    // SAFETY: `time` is what the kernel writes to, and outlives the call.
    let _ = unsafe { call(CALL, [id as usize, &raw mut time as usize, 0, 0, 0]) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// `kill(2)`: a negative `pid` is a process group. rustix's `Signal` leaves out the real-time signals.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: numbers only.
    unsafe { call(raw::__NR_kill, [pid as usize, signal as usize, 0, 0, 0]) }.map(drop)
}

/// Sets a resource limit by the kernel's number, `u64::MAX` being unlimited: `prlimit64(2)`.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    // SAFETY: `limit` has the layout of struct rlimit64 and outlives the call.
    unsafe {
        call(
            raw::__NR_prlimit64,
            [0, resource as usize, limit.as_ptr() as usize, 0, 0],
        )
    }
    .map(drop)
}
