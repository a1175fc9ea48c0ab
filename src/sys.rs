//! The system calls that rustix does not wrap, and the only `unsafe` code of mini but that of its heap (`heap.rs`).
//!
//! Each call goes through `syscall(2)` of the C library that std links anyway (musl in releases), so one
//! definition serves every architecture. Nothing here allocates, locks or panics: all of it may run between
//! `clone3` and `execve`. Left out on purpose: everything rustix has a safe function for.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_int, c_long};
use core::net::{Ipv4Addr, SocketAddrV4};

use linux_raw_sys::{general as raw, loop_device, net, ptrace};
use rustix::event::PollFd;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
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

/// The same for a call that takes no pointers, or only null.
fn numbers(number: u32, [a, b, c]: [usize; 3]) -> Result<usize> {
    // SAFETY: the functions here name only calls that take these arguments as numbers.
    unsafe { call(number, [a, b, c, 0, 0]) }
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
    clone_into(flags, None, child).map(|(pid, _)| pid)
}

/// The same, and the new process begins in this cgroup of version 2 (CLONE_INTO_CGROUP, Linux 5.7). Whether it does: the
/// other call cannot do that, nor can older kernels (E2BIG).
pub fn clone_into(
    flags: u32,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> Result<(Pid, bool)> {
    match fork(flags, cgroup)? {
        (Some(pid), placed) => Ok((pid, placed)),
        (None, _) => exit(child()),
    }
}

/// `None` in the child.
fn fork(flags: u32, cgroup: Option<BorrowedFd<'_>>) -> Result<(Option<Pid>, bool)> {
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
    // cgroup. Only the first published size (64 bytes, Linux 5.3) is passed where it will do, so that every clone3 kernel
    // accepts it.
    let clone3 = |more: u64, cgroup: u64, size: usize| {
        // A sibling ends with its parent's signal; clone3 wants none to be named then.
        let signal = match flags & raw::CLONE_PARENT {
            0 => raw::SIGCHLD.into(),
            _ => 0,
        };
        let flags = u64::from(flags) | more;
        let arguments = [flags, 0, 0, 0, signal, 0, 0, 0, 0, 0, cgroup];
        // SAFETY: `arguments` outlives the call; without CLONE_VM and CLONE_SETTLS the child is a complete copy of
        // this single-threaded process (mini never starts a thread) and goes on here with its own stack.
        unsafe {
            call(
                raw::__NR_clone3,
                [arguments.as_ptr() as usize, size, 0, 0, 0],
            )
        }
    };
    let mut id = match cgroup {
        Some(cgroup) => clone3(raw::CLONE_INTO_CGROUP, cgroup.as_raw_fd() as u64, 88),
        None => Err(Errno::TOOBIG),
    };
    let placed = id.is_ok();
    if let Err(Errno::TOOBIG) = id {
        id = clone3(0, 0, 64);
    }
    if let Err(Errno::NOSYS | Errno::PERM) = id {
        // The order of clone's last arguments differs by architecture; all of them are zero. So is the stack: a copy of
        // the caller's.
        id = numbers(raw::__NR_clone, [(flags | raw::SIGCHLD) as usize, 0, 0]);
    }
    Ok((Pid::from_raw(id? as i32), placed))
}

/// Whether the kernel filters system calls (CONFIG_SECCOMP_FILTER): EFAULT tells that it looked for a program.
pub fn has_seccomp() -> bool {
    prctl(
        linux_raw_sys::prctl::PR_SET_SECCOMP,
        ptrace::SECCOMP_MODE_FILTER,
    ) == Err(Errno::FAULT)
}

/// Whether the kernel has a call (`__NR_*`), asked with arguments that are good for nothing: no descriptor, no flags, no
/// size is -1. ENOSYS if not; EPERM may come from a filter around mini.
pub fn has_call(number: u32) -> Result<()> {
    // SAFETY: -1 is no address in a process, so nothing is read or written. No call does anything with these flags.
    match unsafe { call(number, [usize::MAX; 5]) } {
        Err(errno @ (Errno::NOSYS | Errno::PERM)) => Err(errno),
        _ => Ok(()),
    }
}

/// `unshare(2)` with `CLONE_NEW*` flags. rustix calls it unsafe because CLONE_FILES would split the descriptor
/// table under other threads; mini has none.
pub fn unshare(flags: u32) -> Result<()> {
    numbers(raw::__NR_unshare, [flags as usize, 0, 0]).map(drop)
}

/// The signal this process gets when its parent dies: `prctl(2)`, PR_SET_PDEATHSIG. rustix takes no real-time one.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(linux_raw_sys::prctl::PR_SET_PDEATHSIG, signal as u32).map(drop)
}

/// Ends this process at once: no destructors, no flushing.
pub fn exit(status: i32) -> ! {
    loop {
        let _ = numbers(raw::__NR_exit_group, [status as usize, 0, 0]);
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
    let (arguments, environment) = (arguments.as_ptr() as usize, environment.as_ptr() as usize);
    let list = [path.as_ptr() as usize, arguments, environment, 0, 0];
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
    let [source, target, fstype, data] = [source, Some(target), fstype, data].map(pointer);
    let arguments = [source, target, fstype, flags as usize, data];
    // SAFETY: each pointer is null or a string that outlives the call.
    unsafe { call(raw::__NR_mount, arguments) }.map(drop)
}

/// Sets mount attributes (`MOUNT_ATTR_*`), and nothing else, on a mount and on all below it: `mount_setattr(2)`,
/// Linux 5.12.
pub fn mount_setattr(target: &CStr, attributes: u64) -> Result<()> {
    let set = [attributes, 0, 0, 0]; // struct mount_attr: set, clear, propagation, user namespace
    set_attributes(raw::AT_FDCWD as usize, target, raw::AT_RECURSIVE, &set)
}

/// Shows the owners in a detached mount, and with `recursive` in all below it, as the ids of a user namespace:
/// `mount_setattr(2)` with MOUNT_ATTR_IDMAP.
pub fn idmap(tree: impl AsFd, userns: impl AsFd, recursive: bool) -> Result<()> {
    let userns = userns.as_fd().as_raw_fd() as u64;
    let set = [u64::from(raw::MOUNT_ATTR_IDMAP), 0, 0, userns];
    let depth = if recursive { raw::AT_RECURSIVE } else { 0 };
    let tree = tree.as_fd().as_raw_fd() as usize;
    set_attributes(tree, c"", raw::AT_EMPTY_PATH | depth, &set)
}

fn set_attributes(directory: usize, path: &CStr, flags: u32, set: &[u64; 4]) -> Result<()> {
    let (path, flags) = (pointer(Some(path)), flags as usize);
    let (set, size) = (set.as_ptr() as usize, size_of_val(set));
    // SAFETY: `path` and `set` outlive the call, and the size is that of `set`.
    unsafe { call(raw::__NR_mount_setattr, [directory, path, flags, set, size]) }.map(drop)
}

/// Whether there is this call, of open_tree(2), move_mount(2) and mount_setattr(2): EINVAL for flags that do not exist comes
/// first (for `move_mount` after CAP_SYS_ADMIN); ENOSYS says that there is not, EPERM that a filter around mini does not
/// know it.
pub fn has_mount_call(number: u32) -> bool {
    let arguments = [raw::AT_FDCWD as usize, pointer(Some(c"")), !0, 0, !0];
    // SAFETY: nothing is read but the empty path.
    let result = unsafe { call(number, arguments) };
    result == Err(Errno::INVAL)
}

/// Locks one byte of a file for as long as this open file lives, alone or with `shared` together with others: `fcntl(2)`,
/// F_OFD_SETLK (Linux 3.15). EAGAIN if somebody else has it.
pub fn lock_byte(file: impl AsFd, shared: bool, offset: u32) -> Result<()> {
    let kind = if shared { raw::F_RDLCK } else { raw::F_WRLCK };
    record_lock(file, raw::F_OFD_SETLK, kind, offset)
}

/// Waits until this process can have one byte of a file to itself, or with `shared` together with others. The lock
/// is gone when the process dies, but also when it closes any descriptor of the file: `fcntl(2)`, F_SETLKW.
pub fn lock_byte_as_process(file: impl AsFd, shared: bool, offset: u32) -> Result<()> {
    let kind = if shared { raw::F_RDLCK } else { raw::F_WRLCK };
    record_lock(file, SETLKW, kind, offset)
}

/// Gives back what [`lock_byte_as_process`] took.
pub fn unlock_byte_as_process(file: impl AsFd, offset: u32) -> Result<()> {
    record_lock(file, SETLKW, raw::F_UNLCK, offset)
}

#[cfg(target_pointer_width = "64")]
use raw::F_SETLKW as SETLKW;
#[cfg(target_pointer_width = "32")]
use raw::F_SETLKW64 as SETLKW;

fn record_lock(file: impl AsFd, command: u32, kind: u32, offset: u32) -> Result<()> {
    #[cfg(target_pointer_width = "64")]
    use raw::{__NR_fcntl as CALL, flock as Lock};
    #[cfg(target_pointer_width = "32")]
    use raw::{__NR_fcntl64 as CALL, flock64 as Lock};
    let lock = Lock {
        l_type: kind as _,
        l_whence: raw::SEEK_SET as _,
        l_start: offset.into(),
        l_len: 1,
        l_pid: 0,
    };
    let (file, command) = (file.as_fd().as_raw_fd() as usize, command as usize);
    // SAFETY: `lock` is the structure that these commands take, and outlives the call.
    unsafe { call(CALL, [file, command, &raw const lock as usize, 0, 0]) }.map(drop)
}

/// The number of a loop device that has no file, made if there is none: `loop(4)`, LOOP_CTL_GET_FREE (Linux 3.1).
/// Others may take it first.
pub fn free_loop(control: impl AsFd) -> Result<u32> {
    let control = control.as_fd().as_raw_fd() as usize;
    let request = loop_device::LOOP_CTL_GET_FREE as usize;
    numbers(raw::__NR_ioctl, [control, request, 0]).map(|number| number as u32)
}

/// Puts a file behind a loop device, read-only and in blocks of 512 bytes, until nobody has the device open or
/// mounted: `loop(4)`, LOOP_CONFIGURE (Linux 5.8; before it is EINVAL). EBUSY if it has one.
pub fn configure_loop(device: impl AsFd, file: impl AsFd) -> Result<()> {
    use loop_device::{LO_FLAGS_AUTOCLEAR, LO_FLAGS_READ_ONLY};
    // SAFETY: a structure of nothing but numbers.
    let mut configuration: loop_device::loop_config = unsafe { core::mem::zeroed() };
    configuration.fd = file.as_fd().as_raw_fd() as u32;
    configuration.block_size = 512;
    configuration.info.lo_flags = LO_FLAGS_AUTOCLEAR as u32 | LO_FLAGS_READ_ONLY as u32;
    let device = device.as_fd().as_raw_fd() as usize;
    let (request, pointer) = (
        loop_device::LOOP_CONFIGURE as usize,
        &raw const configuration as usize,
    );
    // SAFETY: `configuration` is the structure that this request takes, and outlives the call.
    unsafe { call(raw::__NR_ioctl, [device, request, pointer, 0, 0]) }.map(drop)
}

/// Leaves the session keyring for a new one of this process's own: `keyctl(2)`.
pub fn join_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    // The null pointer asks for a keyring without a name.
    numbers(raw::__NR_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, 0, 0]).map(drop)
}

/// Takes a capability out of the bounding set: `prctl(2)`, PR_CAPBSET_DROP. By number, as rustix takes only those
/// that it has a name for.
pub fn drop_bounding(capability: u32) -> Result<()> {
    prctl(linux_raw_sys::prctl::PR_CAPBSET_DROP, capability).map(drop)
}

/// Whether the kernel has a capability of this number: `prctl(2)`, PR_CAPBSET_READ.
pub fn has_capability(capability: u32) -> bool {
    prctl(linux_raw_sys::prctl::PR_CAPBSET_READ, capability).is_ok()
}

/// Adds a capability to the ambient set: `prctl(2)`, PR_CAP_AMBIENT (Linux 4.3).
pub fn raise_ambient(capability: u32) -> Result<()> {
    let raise = linux_raw_sys::prctl::PR_CAP_AMBIENT_RAISE as usize;
    let operation = linux_raw_sys::prctl::PR_CAP_AMBIENT as usize;
    numbers(raw::__NR_prctl, [operation, raise, capability as usize]).map(drop)
}

/// One of the operations of `prctl(2)` that takes a number and no pointer.
fn prctl(operation: u32, argument: u32) -> Result<usize> {
    numbers(raw::__NR_prctl, [operation as usize, argument as usize, 0])
}

/// Closes every descriptor from `first` on, or with `at_exec` marks it close-on-exec:
/// `close_range(2)`, Linux 5.9 (the flag 5.11).
pub fn close_range(first: u32, at_exec: bool) -> Result<()> {
    /// From linux/close_range.h.
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    let flags = if at_exec { CLOSE_RANGE_CLOEXEC } else { 0 };
    // Descriptors that are closed here are not used again: the callers exec, exit or keep to the numbers below `first`.
    numbers(
        raw::__NR_close_range,
        [first as usize, u32::MAX as usize, flags],
    )
    .map(drop)
}

/// Gives back memory of a process that is going to wait for long: this program's code and constants, which the kernel reads
/// from the file again where they are used, and the stack that deeper calls have used before. madvise(2), MADV_DONTNEED.
pub fn forget_memory() {
    // From the linker: the program's first byte, and the one behind its code.
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    const PAGE: usize = 4096;
    let (start, end) = (
        &raw const __executable_start as usize,
        &raw const etext as usize,
    );
    let advice = raw::MADV_DONTNEED as usize;
    // What is mapped there is a file, read-only and thus without changes of its own. The length is rounded up.
    // SAFETY: see above.
    let _ = unsafe { call(raw::__NR_madvise, [start, end - start, advice, 0, 0]) };
    // The page below the one with this function's frame may be in use by what it calls. Before the lowest page of the stack
    // there is nothing mapped (ENOMEM, with what is mapped given back all the same).
    const DEEPEST: usize = 32 * PAGE;
    let here = (&raw const advice as usize & !(PAGE - 1)) - PAGE;
    // SAFETY: no frame is below this function's, but those of the call itself, for which there is a page or more.
    let _ = unsafe { call(raw::__NR_madvise, [here - DEEPEST, DEEPEST, advice, 0, 0]) };
}

/// `poll(2)` without a time limit, by a process that is going to wait for long: all that runs between the memory's being
/// given back and the wait is this file's, so that little of the code comes back at once.
#[inline(never)]
pub fn forget_memory_and_poll(fds: &mut [PollFd<'_>]) -> Result<()> {
    forget_memory();
    let (at, length) = (fds.as_mut_ptr() as usize, fds.len());
    // SAFETY: PollFd is a struct pollfd; the kernel writes nothing but `revents` of these. No time limit, no mask of signals.
    unsafe { call(raw::__NR_ppoll, [at, length, 0, 0, 0]) }.map(drop)
}

/// Closes one descriptor by number, for kernels without [`close_range`].
pub fn close(descriptor: i32) {
    let _ = numbers(raw::__NR_close, [descriptor as usize, 0, 0]);
}

/// The descriptor with this number, which the caller knows to be open for as long as it is used.
pub fn borrow(descriptor: i32) -> BorrowedFd<'static> {
    // SAFETY: used at once, for 0 to 3, for files of the standard library that outlive the use, and for numbers that
    // /proc/self/fd has just listed; one that is closed gives EBADF, never memory unsafety.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

/// Takes over a descriptor that nothing else owns.
pub fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: the one caller (`close_descriptors`) has just made it and closed or forgotten all others.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Opens a file that is there, close-on-exec: `open(2)`. Paths that an image has a say in only from inside its root.
pub fn open(path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Makes `from` known under the number `to` as well, without close-on-exec: `dup3(2)`.
pub fn duplicate(from: impl AsFd, to: i32) -> Result<()> {
    let from = from.as_fd().as_raw_fd();
    if from == to {
        return rustix::io::fcntl_setfd(borrow(to), rustix::io::FdFlags::empty());
    }
    // `to` is 0 to 3, and the caller accounts for what was open there.
    numbers(raw::__NR_dup3, [from as usize, to as usize, 0]).map(drop)
}

/// A set of signals as the kernel has it: bit n−1 stands for signal n.
pub type SignalSet = u64;

/// Size in bytes of the kernel's signal set, which the rt_sig calls want to be told.
const SIGNAL_SET_SIZE: usize = 8;

/// Sets the signals that are blocked: `rt_sigprocmask(2)`.
pub fn set_signal_mask(set: SignalSet) {
    let (how, set) = (raw::SIG_SETMASK as usize, &raw const set as usize);
    let arguments = [how, set, 0, SIGNAL_SET_SIZE, 0];
    // SAFETY: `set` outlives the call. No other code here depends on signals being delivered.
    let _ = unsafe { call(raw::__NR_rt_sigprocmask, arguments) };
}

/// Waits for one of these blocked signals and returns its number: `rt_sigtimedwait(2)`. EAGAIN after this many
/// nanoseconds.
pub fn wait_signal(set: SignalSet, nanoseconds: Option<u64>) -> Result<i32> {
    #[cfg(target_pointer_width = "64")]
    let number = raw::__NR_rt_sigtimedwait;
    // The older call is there before Linux 5.1 as well; only its timeout has another layout.
    #[cfg(target_pointer_width = "32")]
    let number = match nanoseconds {
        None => raw::__NR_rt_sigtimedwait,
        Some(_) => raw::__NR_rt_sigtimedwait_time64,
    };
    let timeout = nanoseconds.map(|nanoseconds| raw::__kernel_timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as _,
        tv_nsec: (nanoseconds % 1_000_000_000) as _,
    });
    let timeout = (timeout.as_ref()).map_or(0, |timeout| core::ptr::from_ref(timeout) as usize);
    let arguments = [&raw const set as usize, 0, timeout, SIGNAL_SET_SIZE, 0];
    // SAFETY: `set` and what `timeout` points to outlive the call; no siginfo is asked for.
    unsafe { call(number, arguments) }.map(|signal| signal as i32)
}

/// The process group of a process; 0 if that is in none that can be seen from here: `getpgid(2)`. rustix takes no 0.
pub fn process_group(pid: i32) -> Result<i32> {
    numbers(raw::__NR_getpgid, [pid as usize, 0, 0]).map(|group| group as i32)
}

/// A descriptor that reports these blocked signals: `signalfd4(2)`, non-blocking, close-on-exec.
pub fn signalfd(set: SignalSet) -> Result<OwnedFd> {
    // SFD_CLOEXEC and SFD_NONBLOCK are defined as these.
    let flags = (raw::O_CLOEXEC | raw::O_NONBLOCK) as usize;
    let set = &raw const set as usize;
    let arguments = [usize::MAX, set, SIGNAL_SET_SIZE, flags, 0];
    // SAFETY: `set` outlives the call; the descriptor returned is new and owned by nobody else.
    unsafe { call(raw::__NR_signalfd4, arguments).map(|fd| OwnedFd::from_raw_fd(fd as c_int)) }
}

/// Sets a signal to its default action.
pub fn default_signal(signal: u32) {
    // All zero is SIG_DFL without flags or mask.
    let _ = action(signal, Some([0; 8]));
}

/// What a signal does: the kernel's struct sigaction, which begins with the handler; 64 bytes are enough for every
/// architecture's. Sets it to `new`, if there is one.
fn action(signal: u32, new: Option<[usize; 8]>) -> [usize; 8] {
    let mut old = [0; 8];
    let new = new.as_ref().map_or(0, |new| new.as_ptr() as usize);
    let pointer = old.as_mut_ptr() as usize;
    // SAFETY: both are at least as large as the kernel's structure, or null. SIGKILL and SIGSTOP give EINVAL.
    let _ = unsafe {
        call(
            raw::__NR_rt_sigaction,
            [signal as usize, new, pointer, SIGNAL_SET_SIZE, 0],
        )
    };
    old
}

/// Which of these signals are ignored, as nohup(1) leaves SIGHUP: `rt_sigaction(2)`.
pub fn ignored(set: SignalSet) -> SignalSet {
    const SIG_IGN: usize = 1;
    let mut ignored = 0;
    for signal in 1..=64 {
        let bit = 1 << (signal - 1);
        if set & bit != 0 && action(signal, None)[0] == SIG_IGN {
            ignored |= bit;
        }
    }
    ignored
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
    numbers(raw::__NR_kill, [pid as usize, signal as usize, 0]).map(drop)
}

/// `pidfd_send_signal(2)`, Linux 5.1.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let pidfd = pidfd.as_fd().as_raw_fd() as usize;
    numbers(raw::__NR_pidfd_send_signal, [pidfd, signal as usize, 0]).map(drop)
}

/// Sets a resource limit of a process (0: this one) by the kernel's number, `u64::MAX` being unlimited:
/// `prlimit64(2)`. Returns what it was, soft and hard; with `None` it stays so.
pub fn limit(pid: i32, resource: u32, limit: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let new = limit.map(|(soft, hard)| [soft, hard]);
    let new = new.as_ref().map_or(0, |new| new.as_ptr() as usize);
    let mut old = [0u64; 2];
    let pointer = old.as_mut_ptr() as usize;
    let arguments = [pid as usize, resource as usize, new, pointer, 0];
    // SAFETY: both have the layout of struct rlimit64 and outlive the call; `new` may be null.
    unsafe { call(raw::__NR_prlimit64, arguments) }.map(|_| (old[0], old[1]))
}

/// Has a socket say to which address a datagram was sent: `ip(7)`, IP_PKTINFO.
pub fn want_packet_info(socket: impl AsFd) -> Result<()> {
    let (socket, on) = (socket.as_fd().as_raw_fd() as usize, 1i32);
    let (level, name) = (net::SOL_IP as usize, net::IP_PKTINFO as usize);
    let arguments = [
        socket,
        level,
        name,
        &raw const on as usize,
        size_of_val(&on),
    ];
    // SAFETY: `on` is the number that this option takes, and outlives the call.
    unsafe { call(raw::__NR_setsockopt, arguments) }.map(drop)
}

/// Reads an option of the level of IP into `value`, which also says what is asked for: `getsockopt(2)`.
pub fn socket_option(socket: impl AsFd, name: u32, value: &mut [u8]) -> Result<()> {
    let (socket, level) = (socket.as_fd().as_raw_fd() as usize, net::SOL_IP as usize);
    let mut length = value.len() as u32;
    let (value, length) = (value.as_mut_ptr() as usize, &raw mut length as usize);
    let arguments = [socket, level, name as usize, value, length];
    // SAFETY: the kernel writes no more than `length` bytes to `value`, and both outlive the call.
    unsafe { call(raw::__NR_getsockopt, arguments) }.map(drop)
}

/// The ancillary data with the addresses of a datagram: struct cmsghdr and struct in_pktinfo.
#[repr(C)]
struct PacketInfo {
    header: net::cmsghdr,
    information: net::in_pktinfo,
}

/// Takes a datagram from a socket as above: its length, who it is from, and the address of this machine to answer from:
/// `recvmsg(2)`.
pub fn receive_datagram(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> Result<(usize, SocketAddrV4, Ipv4Addr)> {
    let none = (
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        Ipv4Addr::UNSPECIFIED,
    );
    let mut parts = [buffer.as_mut_ptr() as usize, buffer.len()];
    let number = raw::__NR_recvmsg;
    // SAFETY: `parts` describes the buffer, which is ours to write to.
    let (length, peer, local) = unsafe { message(number, socket, &mut parts, none) }?;
    Ok((length, peer, local))
}

/// Sends a datagram from this address of the machine's: `sendmsg(2)`.
pub fn send_datagram(
    socket: impl AsFd,
    bytes: &[u8],
    peer: SocketAddrV4,
    local: Ipv4Addr,
) -> Result<()> {
    let mut parts = [bytes.as_ptr() as usize, bytes.len()];
    let number = raw::__NR_sendmsg;
    // SAFETY: `parts` describes `bytes`, from which this call only reads.
    unsafe { message(number, socket, &mut parts, (peer, local)) }.map(drop)
}

/// Either of the two; returns the addresses as they are afterwards.
///
/// # Safety
/// `parts` is the address and the length of a buffer that the call may use.
unsafe fn message(
    number: u32,
    socket: impl AsFd,
    parts: &mut [usize; 2],
    (peer, local): (SocketAddrV4, Ipv4Addr),
) -> Result<(usize, SocketAddrV4, Ipv4Addr)> {
    let address = |address: Ipv4Addr| net::in_addr {
        s_addr: u32::from(address).to_be(),
    };
    let mut name = net::sockaddr_in {
        sin_family: net::AF_INET as _,
        sin_port: peer.port().to_be(),
        sin_addr: address(*peer.ip()),
        __pad: [0; 8],
    };
    let mut control = PacketInfo {
        header: net::cmsghdr {
            cmsg_len: size_of::<net::cmsghdr>() + size_of::<net::in_pktinfo>(),
            cmsg_level: net::SOL_IP as _,
            cmsg_type: net::IP_PKTINFO as _,
        },
        information: net::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: address(local),
            ipi_addr: address(Ipv4Addr::UNSPECIFIED),
        },
    };
    let header = net::msghdr {
        msg_name: (&raw mut name).cast(),
        msg_namelen: size_of_val(&name) as _,
        msg_iov: parts.as_mut_ptr().cast(),
        msg_iovlen: 1,
        msg_control: (&raw mut control).cast(),
        msg_controllen: size_of_val(&control),
        msg_flags: 0,
    };
    let socket = socket.as_fd().as_raw_fd() as usize;
    let flags = net::MSG_DONTWAIT | net::MSG_NOSIGNAL;
    let arguments = [socket, &raw const header as usize, flags as usize, 0, 0];
    // SAFETY: all that `header` points to outlives the call and is as long as it says; the caller vouches for the buffer.
    let length = unsafe { call(number, arguments) }?;
    let address = |address: net::in_addr| Ipv4Addr::from(u32::from_be(address.s_addr));
    let peer = SocketAddrV4::new(address(name.sin_addr), u16::from_be(name.sin_port));
    Ok((length, peer, address(control.information.ipi_spec_dst)))
}

/// One instruction of classic BPF, laid out as the kernel's struct sock_filter (linux/filter.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    /// How many instructions to skip if a comparison is true, and if it is false.
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Filters the system calls of this thread and all it will start, for ever: `seccomp(2)`, Linux 3.17; without flags
/// (`SECCOMP_FILTER_FLAG_*`) also `prctl(2)`, Linux 3.5. Takes no_new_privs or CAP_SYS_ADMIN, else it is EACCES; a
/// program or a flag that the kernel does not know is EINVAL.
pub fn set_filter(program: &[Instruction], flags: u32) -> Result<()> {
    /// The kernel's struct sock_fprog.
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    let program = Program {
        length: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        instructions: program.as_ptr(),
    };
    let pointer = &raw const program as usize;
    let operation = ptrace::SECCOMP_SET_MODE_FILTER as usize;
    // SAFETY: `program` and its instructions, `length` of them, outlive the call, which copies them.
    match unsafe {
        call(
            raw::__NR_seccomp,
            [operation, flags as usize, pointer, 0, 0],
        )
    } {
        Err(Errno::NOSYS) if flags == 0 => {
            let option = linux_raw_sys::prctl::PR_SET_SECCOMP as usize;
            let mode = ptrace::SECCOMP_MODE_FILTER as usize;
            // SAFETY: as above.
            unsafe { call(raw::__NR_prctl, [option, mode, pointer, 0, 0]) }
        }
        other => other,
    }
    .map(drop)
}
