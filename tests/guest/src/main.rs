//! A program that runs inside containers and says what it sees there: `guest report` prints plain `key value` lines,
//! the other sub-commands do one small thing each. Parsing these beats parsing what shells print.
//!
//! It has no `fn main`: Rust's start-up code would ignore SIGPIPE and open missing descriptors before anything here
//! could look at them. System calls go through the C library that std links anyway.
#![no_main]

mod attacks;
mod filter;
mod kernel;
mod limits;
mod trap;

use std::ffi::{CStr, c_char, c_int, c_long, c_ulong};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::{fs, io, net, thread, time::Duration};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn getpid() -> c_int;
    fn getppid() -> c_int;
    fn getsid(pid: c_int) -> c_int;
    fn getpgid(pid: c_int) -> c_int;
    fn isatty(fd: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn tcgetpgrp(fd: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
}

#[cfg(target_arch = "x86_64")]
const RT_SIGPROCMASK_TIMEDWAIT: (c_long, c_long) = (14, 128);
#[cfg(target_arch = "aarch64")]
const RT_SIGPROCMASK_TIMEDWAIT: (c_long, c_long) = (135, 137);

const TIOCSTI: c_ulong = 0x5412;
const TIOCGWINSZ: c_ulong = 0x5413;

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    let arguments: Vec<String> = (0..count as usize)
        .map(|index| {
            unsafe { CStr::from_ptr(*arguments.add(index)) }
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let status = match words.as_slice() {
        [] | ["report"] => report(),
        ["exit", status] => number(status),
        ["kill", signal] => unsafe { kill(getpid(), number(signal)) },
        ["sleep", seconds] => sleep(seconds),
        ["orphans", count] => orphans(number(count)),
        ["signals"] => signals(),
        ["counter"] => counter(),
        ["loopback"] => loopback(),
        ["ping"] => attempt("ping", ping()),
        ["tiocsti", text] => tiocsti(text),
        // Closes what it writes to, and goes on.
        ["mute", seconds] => {
            say("last words");
            unsafe { (close(1), close(2)) };
            sleep(seconds)
        }
        ["write", path, text] => attempt("write", fs::write(path, text)),
        ["fill", path, bytes] => fill(path, number(bytes) as usize),
        ["read", path] => match fs::read(path) {
            Ok(bytes) => io::stdout().write_all(&bytes).map_or(1, |()| 0),
            error => attempt("read", error.map(drop)),
        },
        ["exists", paths @ ..] => {
            for path in paths {
                say(&format!("{path} {}", fs::symlink_metadata(path).is_ok()));
            }
            0
        }
        ["touch", bytes] => limits::touch(bytes),
        ["spin", seconds] => limits::spin(seconds),
        ["bomb", seconds] => limits::bomb(seconds),
        ["direct", verb, path, bytes] => limits::direct(verb, path, bytes),
        ["attack", attacks @ ..] => attacks::all(attacks),
        ["swap", one, other, milliseconds] => attacks::swap(one, other, milliseconds),
        ["owners", paths @ ..] => attacks::owners(paths),
        ["trap", end] => trap::trap(end),
        ["syscalls"] => filter::syscalls(),
        ["verdicts", calls @ ..] => filter::chosen(calls),
        ["refuse", call, index, value, program @ ..] => filter::refuse(call, index, value, program),
        _ => {
            say("unknown sub-command");
            99
        }
    };
    let _ = io::stdout().flush();
    status
}

fn number(text: &str) -> i32 {
    text.parse().unwrap_or(98)
}

fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
    let _ = io::stdout().flush();
}

fn attempt(what: &str, result: io::Result<()>) -> c_int {
    match result {
        Ok(()) => say(&format!("{what} ok")),
        Err(error) => {
            say(&format!("{what} {error}"));
            return 1;
        }
    }
    0
}

fn sleep(seconds: &str) -> c_int {
    thread::sleep(Duration::from_millis(
        (seconds.parse::<f64>().unwrap_or(0.0) * 1000.0) as u64,
    ));
    0
}

/// One `key value` line for each thing that can be seen; keys repeat where there are several.
fn report() -> c_int {
    // First the descriptors, before this program opens one.
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        // The descriptor that reads the directory shows it.
        if !target.to_string_lossy().ends_with("/fd") {
            lines.push(format!(
                "fd {} {}",
                entry.file_name().to_string_lossy(),
                target.display()
            ));
        }
    }
    unsafe {
        lines.push(format!("pid {}", getpid()));
        lines.push(format!("ppid {}", getppid()));
        lines.push(format!("sid {}", getsid(0)));
        lines.push(format!("pgid {}", getpgid(0)));
        for fd in 0..3 {
            lines.push(format!("tty {fd} {}", isatty(fd) == 1));
            let mut size = [0u16; 4];
            if ioctl(fd, TIOCGWINSZ, size.as_mut_ptr()) == 0 {
                lines.push(format!("size {fd} {} {}", size[0], size[1]));
            }
        }
        lines.push(format!("foreground {}", tcgetpgrp(0)));
    }
    // Uid, Gid, Groups, Umask, SigBlk, SigIgn, SigCgt, CapEff …
    for line in text("/proc/self/status").lines() {
        if let Some((key, value)) = line.split_once(':') {
            lines.push(format!(
                "{key} {}",
                value.split_whitespace().collect::<Vec<_>>().join(" ")
            ));
        }
    }
    for entry in fs::read_dir("/proc/self/ns")
        .into_iter()
        .flatten()
        .flatten()
    {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        lines.push(format!(
            "ns {} {}",
            entry.file_name().to_string_lossy(),
            link.display()
        ));
    }
    for (key, value) in std::env::vars_os() {
        let escape = |text: &std::ffi::OsStr| text.as_bytes().escape_ascii().to_string();
        lines.push(format!("env {}={}", escape(&key), escape(&value)));
    }
    lines.push(format!(
        "cwd {}",
        std::env::current_dir().unwrap_or_default().display()
    ));
    lines.extend(text("/proc/self/limits").lines().map(|line| {
        format!(
            "limit {}",
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        )
    }));
    lines.extend(
        text("/proc/self/mountinfo")
            .lines()
            .map(|line| format!("mount {line}")),
    );
    lines.push(format!(
        "hostname {}",
        text("/proc/sys/kernel/hostname").trim_end()
    ));
    lines.push(format!(
        "uptime {}",
        text("/proc/uptime").split(' ').next().unwrap_or_default()
    ));
    lines.push(format!(
        "oom_score_adj {}",
        text("/proc/self/oom_score_adj").trim_end()
    ));
    for file in ["uid_map", "gid_map"] {
        lines.extend(text(&format!("/proc/self/{file}")).lines().map(|line| {
            format!(
                "{file} {}",
                line.split_whitespace().collect::<Vec<_>>().join(" ")
            )
        }));
    }
    for (key, path) in [
        ("init-cmdline", "/proc/1/cmdline"),
        ("init-environ", "/proc/1/environ"),
    ] {
        // What was overwritten keeps its length.
        let mut bytes = fs::read(path).unwrap_or_default();
        bytes.truncate(
            bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1),
        );
        lines.push(format!("{key} {}", bytes.escape_ascii()));
    }
    let init_descriptors = fs::read_dir("/proc/1/fd");
    lines.push(format!("init-fd-readable {}", init_descriptors.is_ok()));
    for entry in init_descriptors.into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        lines.push(format!(
            "init-fd {} {}",
            entry.file_name().to_string_lossy(),
            target.display()
        ));
    }
    for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
        use std::os::unix::fs::MetadataExt;
        let Ok(status) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        let device = (status.rdev() >> 8, status.rdev() & 0xff);
        let link = fs::read_link(entry.path())
            .map(|to| format!(" {}", to.display()))
            .unwrap_or_default();
        lines.push(format!(
            "dev {} {:o} {}:{}{link}",
            entry.file_name().to_string_lossy(),
            status.mode(),
            device.0,
            device.1
        ));
    }
    for entry in fs::read_dir("/").into_iter().flatten().flatten() {
        lines.push(format!("root {}", entry.file_name().to_string_lossy()));
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.as_bytes().iter().all(u8::is_ascii_digit) {
            let comm = text(&format!("/proc/{}/comm", name.to_string_lossy()));
            lines.push(format!(
                "process {} {}",
                name.to_string_lossy(),
                comm.trim_end()
            ));
        }
    }
    say(&lines.join("\n"));
    0
}

fn text(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Leaves `count` processes without a parent, each of which ends on its own, and counts the zombies a moment later.
fn orphans(count: i32) -> c_int {
    unsafe {
        for _ in 0..count {
            let child = fork();
            if child == 0 {
                if fork() == 0 {
                    _exit(3);
                }
                _exit(0);
            }
            waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    // What still runs may become an orphan now; two looks at the processes tell zombies from those on their way.
    for _ in 0..100 {
        if zombies() == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    say(&format!("zombies {}", zombies()));
    0
}

fn zombies() -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| {
            let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
            let state = stat
                .rsplit(|byte| *byte == b')')
                .next()
                .and_then(|rest| rest.get(1).copied());
            state == Some(b'Z')
        })
        .count()
}

/// Prints the number of each signal it receives; ends at SIGUSR2.
fn signals() -> c_int {
    let all = u64::MAX;
    let (procmask, timedwait) = RT_SIGPROCMASK_TIMEDWAIT;
    unsafe { syscall(procmask, 2, &raw const all, 0, 8) };
    say("ready");
    loop {
        let signal = unsafe { syscall(timedwait, &raw const all, 0, 0, 8) };
        if signal > 0 {
            say(&format!("signal {signal}"));
        }
        if signal == 12 {
            return 0;
        }
    }
}

/// Counts aloud every 20 ms, so that it can be seen whether it runs.
fn counter() -> c_int {
    for count in 0..10_000 {
        if writeln!(io::stdout(), "{count}")
            .and_then(|()| io::stdout().flush())
            .is_err()
        {
            return 1;
        }
        thread::sleep(Duration::from_millis(20));
    }
    0
}

/// Talks to itself over 127.0.0.1 and ::1.
fn loopback() -> c_int {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let talk = || -> io::Result<()> {
            let listener = net::TcpListener::bind(address)?;
            let mut client = net::TcpStream::connect(listener.local_addr()?)?;
            listener.accept()?.0.write_all(b"x")?;
            client.read_exact(&mut [0])
        };
        attempt(address, talk());
    }
    0
}

/// Sends itself an echo request over a socket that needs no privilege, and waits for the answer (icmp(7)).
fn ping() -> io::Result<()> {
    use std::os::fd::{FromRawFd, OwnedFd};
    const AF_INET: c_int = 2;
    const SOCK_DGRAM: c_int = 2;
    const IPPROTO_ICMP: c_int = 1;
    let descriptor = unsafe { socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // What std does with datagrams is the same for this protocol.
    let socket = net::UdpSocket::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    // Type 8, echo; the kernel fills in checksum and identifier.
    socket.send_to(&[8, 0, 0, 0, 0, 0, 0, 1, b'x'], "127.0.0.1:0")?;
    let mut answer = [0; 9];
    socket.recv(&mut answer)?;
    match (answer[0], answer[8]) {
        (0, b'x') => Ok(()),
        _ => Err(io::Error::other("not the answer")),
    }
}

/// Types into every terminal it can get hold of, as if somebody sat there.
fn tiocsti(text: &str) -> c_int {
    let terminal = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty");
    let mut descriptors = vec![0, 1, 2];
    if let Ok(terminal) = &terminal {
        descriptors.push(std::os::fd::AsRawFd::as_raw_fd(terminal));
    }
    for fd in descriptors {
        for byte in text.bytes().chain([b'\n']) {
            unsafe { ioctl(fd, TIOCSTI, &raw const byte) };
        }
    }
    0
}

/// Writes until `bytes` are written or something is full.
fn fill(path: &str, bytes: usize) -> c_int {
    let chunk = vec![b'x'; 65536];
    let mut done = 0;
    let result = fs::File::create(path).and_then(|mut file| {
        while done < bytes {
            done += file.write(&chunk[..chunk.len().min(bytes - done)])?;
        }
        Ok(())
    });
    say(&format!("filled {done}"));
    attempt("fill", result)
}
