//! System calls by number, their numbers on both machines, and the names of errors.

use std::ffi::{CString, c_int, c_long};
use std::io;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    pub fn fork() -> c_int;
    pub fn kill(pid: c_int, signal: c_int) -> c_int;
    pub fn getpid() -> c_int;
    pub fn _exit(status: c_int) -> !;
}

/// `NAME = x86_64, aarch64`; from 424 on the numbers are the same everywhere.
macro_rules! numbers {
    ($($name:ident = $x86:literal, $arm:literal;)*) => {
        $(#[allow(dead_code)] pub const $name: c_long =
            if cfg!(target_arch = "x86_64") { $x86 } else { $arm };)*
    };
}

numbers! {
    IOCTL = 16, 29;
    GETPID = 39, 172;
    CLONE = 56, 220;
    PTRACE = 101, 117;
    SYSLOG = 103, 116;
    PERSONALITY = 135, 92;
    PIVOT_ROOT = 155, 41;
    PRCTL = 157, 167;
    ADJTIMEX = 159, 171;
    CHROOT = 161, 51;
    ACCT = 163, 89;
    SETTIMEOFDAY = 164, 170;
    MOUNT = 165, 40;
    UMOUNT2 = 166, 39;
    SWAPON = 167, 224;
    REBOOT = 169, 142;
    SETHOSTNAME = 170, 161;
    INIT_MODULE = 175, 105;
    DELETE_MODULE = 176, 106;
    QUOTACTL = 179, 60;
    KEXEC_LOAD = 246, 104;
    ADD_KEY = 248, 217;
    REQUEST_KEY = 249, 218;
    KEYCTL = 250, 219;
    UNSHARE = 272, 97;
    PERF_EVENT_OPEN = 298, 241;
    FANOTIFY_INIT = 300, 262;
    NAME_TO_HANDLE_AT = 303, 264;
    OPEN_BY_HANDLE_AT = 304, 265;
    SETNS = 308, 268;
    PROCESS_VM_READV = 310, 270;
    KCMP = 312, 272;
    FINIT_MODULE = 313, 273;
    RENAMEAT2 = 316, 276;
    SECCOMP = 317, 277;
    WRITE = 1, 64;
    SENDTO = 44, 206;
    KEXEC_FILE_LOAD = 320, 294;
    BPF = 321, 280;
    USERFAULTFD = 323, 282;
    IO_URING_SETUP = 425, 425;
    OPEN_TREE = 428, 428;
    MOVE_MOUNT = 429, 429;
    FSOPEN = 430, 430;
    PIDFD_OPEN = 434, 434;
    CLONE3 = 435, 435;
    PIDFD_GETFD = 438, 438;
    MOUNT_SETATTR = 442, 442;
}

/// A system call; arguments are numbers and addresses.
pub fn call(number: c_long, arguments: &[usize]) -> io::Result<usize> {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}

/// A string for the kernel; the address holds as long as the value lives.
pub fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// The path or name of a string made by [`text`].
pub fn at(text: &CString) -> usize {
    text.as_ptr() as usize
}

/// Waits for a child for so many hundredths of a second; `None` if it still runs then.
pub fn wait(pid: c_int, hundredths: u32) -> Option<c_int> {
    const WNOHANG: c_int = 1;
    let mut status = 0;
    for _ in 0..hundredths * 10 {
        if unsafe { waitpid(pid, &raw mut status, WNOHANG) } == pid {
            return Some(status);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    None
}

/// `EPERM` and the like.
pub fn name(error: &io::Error) -> String {
    let number = error.raw_os_error().unwrap_or(0);
    let known = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (3, "ESRCH"),
        (5, "EIO"),
        (6, "ENXIO"),
        (8, "ENOEXEC"),
        (9, "EBADF"),
        (11, "EAGAIN"),
        (12, "ENOMEM"),
        (13, "EACCES"),
        (14, "EFAULT"),
        (16, "EBUSY"),
        (17, "EEXIST"),
        (18, "EXDEV"),
        (19, "ENODEV"),
        (20, "ENOTDIR"),
        (21, "EISDIR"),
        (22, "EINVAL"),
        (25, "ENOTTY"),
        (26, "ETXTBSY"),
        (28, "ENOSPC"),
        (30, "EROFS"),
        (38, "ENOSYS"),
        (40, "ELOOP"),
        (61, "ENODATA"),
        (75, "EOVERFLOW"),
        (93, "EPROTONOSUPPORT"),
        (94, "ESOCKTNOSUPPORT"),
        (95, "EOPNOTSUPP"),
        (97, "EAFNOSUPPORT"),
        (111, "ECONNREFUSED"),
        (116, "ESTALE"),
        (126, "ENOKEY"),
    ];
    let found = known.iter().find(|(value, _)| *value == number);
    found.map_or_else(|| format!("errno-{number}"), |(_, name)| (*name).to_owned())
}
