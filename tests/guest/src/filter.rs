//! What this process's seccomp filters do with a system call, asked of the kernel without making the call.
//!
//! `guest syscalls` prints `NUMBER VERDICT` for 0 to 600 with all-zero arguments, `guest verdicts CALL…` the same for
//! single calls, each written `NUMBER` or `NUMBER:ARG:ARG…`, behind `i386-` for int 0x80. A verdict is `allow`,
//! `kill`, or the errno that a filter answers.
//!
//! An errno alone cannot tell: many calls answer EPERM or ENOSYS by themselves. So a child puts a filter of its own on
//! top that answers SECCOMP_RET_USER_NOTIF to everything. The kernel runs all filters of a process and takes the
//! strictest answer; errno, trap and kill are stricter than a notification, allow, log and trace are not
//! (seccomp(2)). A denied call therefore returns the errno of the denying filter, and any other call stops at the
//! notification, which this process answers with an errno that exists nowhere else. Nothing is ever executed, so no
//! call can block, exit or do harm, and every number goes through the kernel's own evaluation.

use std::ffi::c_int;
use std::io;

use crate::kernel::{
    CLONE, GETPID, IOCTL, PRCTL, SECCOMP, SENDTO, UNSHARE, WRITE, call, kill, name, wait,
};
use crate::say;

unsafe extern "C" {
    fn mmap(
        at: *mut u8,
        size: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut u8;
    fn close(fd: c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: usize, timeout: c_int) -> c_int;
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

/// The errno by which this process answers a notification.
const REACHED: i32 = 3999;
/// The arguments of the getpid that says that the child is through.
const DONE: u64 = 0x646f_6e65;

#[derive(Clone, Copy)]
struct Call {
    number: u32,
    i386: bool,
    arguments: [u64; 6],
}

/// What the child tells its parent by memory: system calls are out of its reach.
#[repr(C)]
struct Shared {
    /// The index of the call that is being made.
    current: u32,
    listener: i32,
    results: [i64; 1024],
}

pub fn syscalls() -> c_int {
    verdicts((0..=600).map(|number| (number.to_string(), parse(&number.to_string()))))
}

pub fn chosen(words: &[&str]) -> c_int {
    verdicts(words.iter().map(|word| ((*word).to_owned(), parse(word))))
}

fn parse(word: &str) -> Call {
    let (i386, word) = word
        .strip_prefix("i386-")
        .map_or((false, word), |rest| (true, rest));
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    };
    let numbers: Vec<u64> = word.split(':').map(number).collect();
    let mut arguments = [0; 6];
    arguments[..numbers.len() - 1].copy_from_slice(&numbers[1..]);
    Call {
        number: numbers[0] as u32,
        i386,
        arguments,
    }
}

fn verdicts(calls: impl Iterator<Item = (String, Call)>) -> c_int {
    let (names, calls): (Vec<String>, Vec<Call>) = calls.unzip();
    let shared = unsafe { mmap(std::ptr::null_mut(), 16384, 3, 0x21, -1, 0) }.cast::<Shared>();
    let mut from = 0;
    while from < calls.len() {
        match probe(&calls, from, shared) {
            Ok(None) => break,
            // A filter killed the child at this one; the rest is for another child.
            Ok(Some(killed)) => {
                unsafe { (*shared).results[killed] = i64::MIN };
                from = killed + 1;
            }
            Err(error) => {
                say(&format!("error {error}"));
                return 1;
            }
        }
    }
    let results = unsafe { &(*shared).results };
    let lines = names.iter().zip(results).map(|(call, result)| {
        let verdict = match -*result {
            value if value == i64::from(REACHED) => "allow".to_owned(),
            value if value == i64::MIN.wrapping_neg() => "kill".to_owned(),
            value @ 1..4096 => name(&io::Error::from_raw_os_error(value as i32)),
            value => format!("odd {value}"),
        };
        format!("{call} {verdict}")
    });
    say(&lines.collect::<Vec<_>>().join("\n"));
    0
}

/// Lets a child make the calls from `from` on. The index of the one at which it was killed, if it was.
fn probe(calls: &[Call], from: usize, shared: *mut Shared) -> io::Result<Option<usize>> {
    const GO: u32 = u32::MAX;
    unsafe { (&raw mut (*shared).listener).write_volatile(0) };
    unsafe { (&raw mut (*shared).current).write_volatile(GO) };
    const CLONE_FILES_SIGCHLD: usize = 0x400 | 17;
    let child = call(CLONE, &[CLONE_FILES_SIGCHLD])? as c_int;
    if child == 0 {
        let listener = install().unwrap_or_else(|error| -error.raw_os_error().unwrap_or(1));
        unsafe { (&raw mut (*shared).listener).write_volatile(listener) };
        // From here on no call is the child's own to make; the parent writes 0 when it listens.
        while unsafe { (&raw const (*shared).current).read_volatile() } == GO {
            std::hint::spin_loop();
        }
        for (index, one) in calls.iter().enumerate().skip(from) {
            unsafe { (&raw mut (*shared).current).write_volatile(index as u32) };
            let result = raw(one);
            unsafe { (&raw mut (*shared).results[index]).write_volatile(result) };
        }
        let arguments = [DONE; 6];
        loop {
            raw(&Call {
                number: GETPID as u32,
                i386: false,
                arguments,
            });
        }
    }
    let ended = |result| {
        unsafe { kill(child, 9) };
        wait(child, 500);
        result
    };
    // The descriptor's number is good here too, as they share their table.
    let listener = loop {
        match unsafe { (&raw const (*shared).listener).read_volatile() } {
            0 if wait(child, 1).is_none() => {}
            error if error <= 0 => return ended(Err(io::Error::from_raw_os_error(-error))),
            fd => break fd,
        }
    };
    unsafe { (&raw mut (*shared).current).write_volatile(from as u32) };
    let result = answer(listener, child, shared, ended);
    unsafe { close(listener) };
    result
}

fn answer(
    listener: c_int,
    child: c_int,
    shared: *mut Shared,
    ended: impl Fn(io::Result<Option<usize>>) -> io::Result<Option<usize>>,
) -> io::Result<Option<usize>> {
    // struct seccomp_notif: id, pid, flags, then seccomp_data: nr, arch, ip, six arguments. The answer: id, val,
    // error, flags.
    const RECEIVE: usize = 0xc050_2100;
    const SEND: usize = 0xc018_2101;
    loop {
        let mut ready = PollFd {
            fd: listener,
            events: 1,
            revents: 0,
        };
        let count = unsafe { poll(&raw mut ready, 1, 5000) };
        if count != 1 || ready.revents & 1 == 0 {
            let current = unsafe { (&raw const (*shared).current).read_volatile() } as usize;
            // Hung up: killed. Silent: it is stuck, which a number cannot bring about.
            return match wait(child, if count == 1 { 500 } else { 0 }) {
                Some(_) => Ok(Some(current)),
                None => ended(Err(io::Error::other("the child is stuck"))),
            };
        }
        let mut notice = [0u64; 10];
        if call(
            IOCTL,
            &[listener as usize, RECEIVE, notice.as_mut_ptr() as usize],
        )
        .is_err()
        {
            continue;
        }
        if notice[4..].iter().all(|argument| *argument == DONE) {
            return ended(Ok(None));
        }
        let error = (-REACHED) as u32;
        let reply = [notice[0], 0, u64::from(error)];
        let _ = call(IOCTL, &[listener as usize, SEND, reply.as_ptr() as usize]);
    }
}

/// Puts the filter on top and returns its listener.
fn install() -> io::Result<i32> {
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    const SET_MODE_FILTER: usize = 1;
    const NEW_LISTENER: usize = 8;
    // BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF.
    let program: [u64; 1] = [0x0006 | 0x7fc0_0000 << 32];
    let header: (u64, *const u64) = (1, program.as_ptr());
    let header: [usize; 2] = [header.0 as usize, header.1 as usize];
    // Without it the filter needs CAP_SYS_ADMIN. This process is only here to ask.
    let _ = call(PRCTL, &[PR_SET_NO_NEW_PRIVS, 1]);
    let arguments = [SET_MODE_FILTER, NEW_LISTENER, header.as_ptr() as usize];
    call(SECCOMP, &arguments).map(|fd| fd as i32)
}

/// `guest refuse CALL INDEX VALUE PROGRAM…`: executes a program for which, and all that comes from it, a call fails with
/// EPERM if the lower half of its argument with this index has this value. With `kill-CALL` it is killed instead.
pub fn refuse(call_name: &str, index: &str, value: &str, program: &[&str]) -> i32 {
    use std::os::unix::process::CommandExt;
    const SET_MODE_FILTER: usize = 1;
    let value = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    let known = [("write", WRITE), ("unshare", UNSHARE), ("sendto", SENDTO)];
    let (call_name, answer) = match call_name.strip_prefix("kill-") {
        Some(call_name) => (call_name, 0x8000_0000),
        None => (call_name, 0x0005_0000 | 1),
    };
    let number = known.iter().find(|(name, _)| *name == call_name);
    let (Some((_, number)), Ok(value), Ok(index)) = (number, value, index.parse::<u64>()) else {
        say("guest refuse: write, unshare or sendto, an index and a value");
        return 99;
    };
    // struct sock_filter: code, jumps if true and false, constant. BPF_LD | BPF_W | BPF_ABS; BPF_JMP | BPF_JEQ | BPF_K; BPF_RET.
    let load = |at: u64| 0x20 | at << 32;
    let equal = |what: u64, otherwise: u64| 0x15 | otherwise << 24 | what << 32;
    let filter: [u64; 6] = [
        load(0),
        equal(*number as u64, 3),
        load(16 + 8 * index),
        equal(value, 1),
        0x06 | answer << 32,
        0x06 | 0x7fff_0000 << 32,
    ];
    let header: [usize; 2] = [filter.len(), filter.as_ptr() as usize];
    if let Err(error) = call(SECCOMP, &[SET_MODE_FILTER, 0, header.as_ptr() as usize]) {
        say(&format!("seccomp: {error}"));
        return 99;
    }
    let error = std::process::Command::new(program[0])
        .args(&program[1..])
        .exec();
    say(&format!("{}: {error}", program[0]));
    99
}

/// The call as it is, without a C library in between.
#[cfg(target_arch = "x86_64")]
fn raw(one: &Call) -> i64 {
    use std::arch::asm;
    let [a, b, c, d, e, f] = one.arguments;
    let result: i64;
    if one.i386 {
        let result: i32;
        unsafe {
            asm!(
                "push rbx", "mov ebx, {b:e}", "int 0x80", "pop rbx", b = in(reg) a,
                inlateout("eax") one.number => result, in("ecx") b, in("edx") c, in("esi") d, in("edi") e,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        return i64::from(result);
    }
    unsafe {
        asm!(
            "syscall", inlateout("rax") i64::from(one.number) => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, out("rcx") _, out("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn raw(one: &Call) -> i64 {
    use std::arch::asm;
    let [a, b, c, d, e, f] = one.arguments;
    let result: i64;
    unsafe {
        asm!(
            "svc 0", in("x8") i64::from(one.number), inlateout("x0") a => result, in("x1") b, in("x2") c,
            in("x3") d, in("x4") e, in("x5") f,
        );
    }
    result
}
