//! One step of a plan: what it asks of the kernel, and how that is shown.
//!
//! A step displays as the system call it makes, with its arguments. The same line is what `--dry-run`, `--trace`,
//! errors and the golden tests print, so the plan can be audited without reading the code, and compared with
//! strace. A name in braces is known only at run time: `{root}` is the container's root directory, `{terminal}`
//! its pty, `{uid}` what the container's /etc/passwd says.

use core::ffi::CStr;
use core::fmt::{self, Display, Formatter, Write};

use linux_raw_sys::general as raw;
use rustix::termios::Termios;

use crate::capabilities::Set;
use crate::sys::{Instruction, SignalSet, Word};

type Text = &'static CStr;

/// Where a mount goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A path of the supervisor's own, which no image has a say in.
    Path(Text),
    /// An entry of the container's root directory: made if it is missing, refused if it is not an ordinary
    /// directory (an image that makes /proc a symbolic link: CVE-2019-19921).
    Root(Text),
    /// Anywhere in the container: made if it is missing, symbolic links resolved inside the root.
    Inside(Text),
}

/// The arguments of `mount(2)`.
#[derive(Clone, Copy, Debug)]
pub struct Mount {
    pub source: Option<Text>,
    pub target: Target,
    pub fstype: Option<Text>,
    /// `MS_*`
    pub flags: u32,
    pub data: Option<Text>,
}

/// The command, ready for `execve(2)`.
#[derive(Clone, Copy)]
pub struct Command {
    /// The name as the user gave it.
    pub name: Text,
    /// The paths to try, in the order of PATH.
    pub candidates: &'static [Text],
    /// The arguments, ended by [`Word::END`].
    pub arguments: &'static [Word],
}

/// The arguments of `setrlimit(2)`; `u64::MAX` is unlimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceLimit {
    /// Without the `RLIMIT_` in front.
    pub name: &'static str,
    /// `RLIMIT_*`
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Copy)]
pub enum Step {
    /// Everything but 0, 1 and 2 will be closed by `execve`, also what the caller left open.
    CloseOnExec,
    Unshare(u32),
    Mount(Mount),
    /// Adds `MOUNT_ATTR_*` to a mount and all below it.
    MountAttributes(Text, u64),
    /// Path and mode.
    Mkdir(Text, u32),
    /// What it points to, and its path.
    Symlink(Text, Text),
    /// A device, or with `S_IFREG` an empty file to mount something on: path, type and mode, major and minor number.
    Mknod(Text, u32, u32, u32),
    /// Writes a file whole; makes it if it is missing.
    WriteFile(Text, &'static [u8]),
    /// Moves this process into a cgroup of version 1 by its file `tasks`, which the supervisor has opened: which it is.
    JoinCgroup(Text, usize),
    /// Waits until the supervisor has done its part; end of file means that it is gone.
    AwaitGo,
    /// Becomes root of the new user namespace, without the caller's groups.
    BecomeRoot,
    /// A session keyring of its own: the caller's keys stay out of reach (session-keyring(7)).
    JoinKeyring,
    /// A directory takes owner and mode of another: what it is, and of which.
    CopyOwner(Text, Text),
    /// Gets this signal when the supervisor dies, from here on.
    DieWithSupervisor(i32),
    /// Makes sure that the supervisor had not died before that took effect.
    CheckSupervisor,
    /// Overwrites the copy of the caller's command line and environment that /proc/PID/cmdline and environ show.
    HideCaller,
    /// No process of the container may look at or change this one through /proc, mini's own binary as /proc/1/exe
    /// included (proc(5), ptrace(2)). The command's execve undoes it for the command.
    NotDumpable,
    /// Becomes the parent of orphans; needed where the container has no pid namespace of its own.
    Subreaper,
    Setsid,
    /// The command leads the terminal's foreground process group (`mini init` on a terminal).
    Foreground,
    /// The same on the machine's console, whoever had the foreground before and in whatever mode that has left it: with
    /// this mode, if it is a terminal.
    Console(Option<&'static Termios>),
    /// A pty from the container's own devpts; its master goes to the supervisor.
    /// The paths are those of /dev/ptmx and of what the first one of a new devpts is called, or none if others may be there
    /// already; then its size in rows and columns.
    OpenTerminal(Text, Option<Text>, (u16, u16)),
    /// Opens the directory that becomes the container's root, as the base of everything resolved inside.
    OpenRoot(Text),
    /// A directory in the container, with its parents.
    MakeDirectory(Text),
    /// Hides a path of the container's own /proc or /sys, if it is there, below an empty directory or a file that
    /// cannot be opened.
    Mask(Text),
    /// Makes a path of the container's own /proc or /sys, if it is there, read-only.
    ReadOnly(Text),
    /// Writes to a file of the container's own /proc/sys; with `true` if that is possible.
    Sysctl(Text, &'static [u8], bool),
    Chdir(Text),
    Chroot,
    PivotRoot,
    DetachOldRoot,
    Sethostname(Text),
    /// Says that this process has a network namespace of its own, with which something else can be connected now.
    Apart,
    /// Sends messages of rtnetlink(7), all at once, which set up the network of this process's namespace: what they do.
    Network(&'static str),
    /// The same with messages that come from the supervisor when it has done its part.
    Connected(&'static str),
    /// Finds uid, gid, supplementary groups and home directory in the container's own files.
    LookupUser(&'static [u8], Option<&'static [u8]>),
    /// Gives the terminal to the user that was found.
    OwnTerminal,
    /// From here on two processes: the steps that follow are the command's. This one performs those given here, and
    /// becomes the reaper; with `true` the command's begin when it has done so.
    Fork(&'static [Step], bool),
    /// The container's terminal becomes descriptors 0, 1 and 2.
    #[cfg(feature = "life")]
    TerminalStreams,
    /// Descriptor 0, a terminal, becomes the controlling terminal.
    #[cfg(feature = "life")]
    ControllingTerminal,
    /// Closes everything but 0, 1, 2, the control socket, and what later steps use.
    #[cfg(feature = "life")]
    CloseOthers,
    /// Enters these namespaces (`CLONE_NEW*`) of a process, by a descriptor of it or of one of its namespaces: which it is,
    /// and its slot.
    #[cfg(feature = "life")]
    Setns(&'static str, u32, usize),
    /// From here on a new process goes on, made with these flags (CLONE_PARENT or none), and this one ends.
    #[cfg(feature = "life")]
    Pass(u32),
    /// The container's terminal becomes controlling terminal and descriptors 0, 1 and 2.
    AttachTerminal,
    /// Replaces descriptor 0, 1 or 2 by what the supervisor prepared.
    Stdio(u8),
    /// Replaces descriptor 0, 1 or 2 by the container's own /dev/null.
    Null(u8),
    /// Closes everything but 0, 1, 2 and the control socket, which becomes 3 and closes on execve.
    CloseDescriptors,
    Limit(ResourceLimit),
    Umask(u32),
    /// Drops all but these from the bounding set, up to the highest that the kernel has.
    DropBounding(u64, u32),
    /// The change of user leaves the permitted set as it is.
    KeepCapabilities,
    Setgroups,
    Setgid,
    Setuid,
    /// Gives up every capability but CAP_KILL, which PID 1 needs to pass signals on.
    KeepKill,
    /// The four other sets (capabilities(7)): what root gets; what any other user gets.
    Capabilities(u64, u64),
    NoNewPrivileges,
    /// The filter and `SECCOMP_FILTER_FLAG_*`.
    Seccomp(&'static [Instruction], u32),
    /// All signals at their default action, and this mask.
    ResetSignals(SignalSet),
    /// Tells the supervisor that the set-up is over. It comes before the filter, which need not allow for it.
    Ready,
    Execve(Command),
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Step::CloseOnExec => write!(f, "close_range(3, ~0U, CLOSE_RANGE_CLOEXEC)"),
            Step::Unshare(flags) => write!(f, "unshare({})", Flags(u64::from(*flags), CLONE_FLAGS)),
            Step::Mount(mount) => mount.fmt(f),
            Step::MountAttributes(path, attributes) => {
                let (path, flags) = (Quoted(path), Flags(*attributes, ATTRIBUTE_FLAGS));
                write!(f, "mount_setattr({path}, AT_RECURSIVE, {{set={flags}}})")
            }
            Step::Mkdir(path, mode) => write!(f, "mkdir({}, {mode:04o})", Quoted(path)),
            Step::Symlink(to, path) => write!(f, "symlink({}, {})", Quoted(to), Quoted(path)),
            Step::Mknod(path, mode, major, minor) => {
                let (path, permissions) = (Quoted(path), mode & 0o7777);
                let kind = match mode & raw::S_IFMT {
                    raw::S_IFCHR => "S_IFCHR",
                    raw::S_IFBLK => "S_IFBLK",
                    _ => return write!(f, "mknod({path}, S_IFREG|{permissions:04o})"),
                };
                let device = format_args!("makedev({major}, {minor})");
                write!(f, "mknod({path}, {kind}|{permissions:04o}, {device})")
            }
            Step::WriteFile(path, text) => match text.strip_suffix(b"\n").unwrap_or(text) {
                line if line.len() <= 40 && !line.contains(&b'\n') => {
                    write!(f, "write({}, \"{}\")", Quoted(path), line.escape_ascii())
                }
                _ => write!(f, "write({}, {} bytes)", Quoted(path), text.len()),
            },
            Step::JoinCgroup(tasks, _) => write!(f, "write({}, \"0\")", Quoted(tasks)),
            Step::AwaitGo => f.write_str("recv({control})"),
            Step::BecomeRoot => {
                f.write_str("setgroups([]), setresgid(0, 0, 0), setresuid(0, 0, 0)")
            }
            Step::JoinKeyring => f.write_str("keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)"),
            Step::CopyOwner(path, model) => {
                write!(f, "chown, chmod({}) as {}", Quoted(path), Quoted(model))
            }
            Step::DieWithSupervisor(9) => f.write_str("prctl(PR_SET_PDEATHSIG, SIGKILL)"),
            // Not SIGKILL: the last real-time signal, as strace calls it.
            Step::DieWithSupervisor(_) => f.write_str("prctl(PR_SET_PDEATHSIG, SIGRT_32)"),
            Step::CheckSupervisor => f.write_str("poll({control}, POLLHUP)"),
            Step::HideCaller => {
                f.write_str("prctl(PR_SET_DUMPABLE, 1), write(\"/proc/self/mem\", \"mini init\") over argv and environ")
            }
            Step::NotDumpable => f.write_str("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE)"),
            Step::Subreaper => f.write_str("prctl(PR_SET_CHILD_SUBREAPER, 1)"),
            Step::Setsid => f.write_str("setsid()"),
            Step::Foreground | Step::Console(_) => f.write_str("setpgid(0, 0), tcsetpgrp(0, getpid())"),
            Step::OpenTerminal(ptmx, terminal, (rows, columns)) => {
                write!(f, "open({}, O_RDWR|O_NOCTTY), ", Quoted(ptmx))?;
                match terminal {
                    Some(terminal) => write!(f, "open({})", Quoted(terminal))?,
                    None => f.write_str("ioctl(TIOCGPTPEER)")?,
                }
                write!(f, " ({columns}x{rows})")
            }
            Step::OpenRoot(path) => write!(f, "open({}, O_PATH|O_DIRECTORY)", Quoted(path)),
            Step::MakeDirectory(path) => write!(f, "mkdirat({{root}}, {}, 0755)", Quoted(path)),
            Step::Mask(path) => {
                let path = path.to_bytes().escape_ascii();
                write!(f, "mount(\"mask/…\", \"{{root}}{path}\", NULL, MS_BIND, NULL) if there")
            }
            Step::ReadOnly(path) => {
                let path = path.to_bytes().escape_ascii();
                f.write_str("mount(\"{root}")?;
                write!(f, "{path}\", …, MS_BIND|MS_REC), MS_REMOUNT|MS_RDONLY if there")
            }
            Step::Sysctl(path, value, optional) => {
                let (path, value) = (path.to_bytes().escape_ascii(), value.trim_ascii_end());
                let value = value.escape_ascii();
                let condition = if *optional { " if possible" } else { "" };
                write!(f, "write(\"{{root}}/proc/sys/{path}\", \"{value}\"){condition}")
            }
            Step::Chdir(path) => write!(f, "chdir({})", Quoted(path)),
            Step::Chroot => f.write_str("chroot(\".\")"),
            Step::PivotRoot => f.write_str("pivot_root(\".\", \".\")"),
            Step::DetachOldRoot => f.write_str("umount2(\".\", MNT_DETACH)"),
            Step::Sethostname(name) => write!(f, "sethostname({})", Quoted(name)),
            Step::Apart => f.write_str("send({control}, \"apart\")"),
            Step::Network(what) => write!(f, "rtnetlink({what})"),
            Step::Connected(what) => write!(f, "recv({{control}}) = {{messages}}, rtnetlink({what})"),
            Step::LookupUser(user, group) => {
                let user = user.escape_ascii();
                write!(f, "read(\"/etc/passwd\", \"/etc/group\") for {user}")?;
                group.map_or(Ok(()), |group| write!(f, ":{}", group.escape_ascii()))
            }
            Step::OwnTerminal => f.write_str("fchown({terminal}, {uid}, -1)"),
            Step::Fork(init, _) => {
                f.write_str("clone3(SIGCHLD)")?;
                init.iter().try_for_each(|step| write!(f, "; init: {step}"))
            }
            #[cfg(feature = "life")]
            Step::TerminalStreams => f.write_str("dup3({terminal}, 0 1 2)"),
            #[cfg(feature = "life")]
            Step::ControllingTerminal => f.write_str("ioctl(0, TIOCSCTTY)"),
            #[cfg(feature = "life")]
            Step::CloseOthers => f.write_str("close all but 0 1 2 {control} {stdio} {namespaces}"),
            #[cfg(feature = "life")]
            Step::Setns(of, flags, _) => {
                write!(f, "setns({of}, {})", Flags(u64::from(*flags), CLONE_FLAGS))
            }
            #[cfg(feature = "life")]
            Step::Pass(0) => f.write_str("clone3(SIGCHLD), _exit(0)"),
            #[cfg(feature = "life")]
            Step::Pass(_) => f.write_str("clone3(CLONE_PARENT), _exit(0)"),
            Step::AttachTerminal => {
                f.write_str("ioctl({terminal}, TIOCSCTTY), dup3({terminal}, 0 1 2)")
            }
            Step::Stdio(number) => write!(f, "dup3({{stdio{number}}}, {number})"),
            Step::Null(number) => write!(f, "open(\"/dev/null\"), dup3({{null}}, {number})"),
            Step::CloseDescriptors => f.write_str("close_range(4, ~0U, 0)"),
            Step::Limit(limit) => {
                let (name, soft, hard) = (limit.name, Limit(limit.soft), Limit(limit.hard));
                write!(f, "setrlimit(RLIMIT_{name}, {{{soft}, {hard}}})")
            }
            Step::Umask(mask) => write!(f, "umask({mask:03o})"),
            Step::DropBounding(kept, _) => {
                write!(f, "prctl(PR_CAPBSET_DROP) all but {}", Set(*kept))
            }
            Step::KeepKill => f.write_str("capset(kill)"),
            Step::KeepCapabilities => f.write_str("prctl(PR_SET_KEEPCAPS, 1)"),
            Step::Capabilities(root, other) => {
                let (root, other) = (Set(*root), Set(*other));
                write!(f, "capset({root}) for root, capset and PR_CAP_AMBIENT_RAISE({other}) for others")
            }
            Step::NoNewPrivileges => f.write_str("prctl(PR_SET_NO_NEW_PRIVS, 1)"),
            Step::Seccomp(program, flags) => {
                let length = program.len();
                write!(f, "seccomp(SECCOMP_SET_MODE_FILTER, {flags}, {{{length} instructions}})")
            }
            Step::Setgroups => f.write_str("setgroups({groups})"),
            Step::Setgid => f.write_str("setresgid({gid}, {gid}, {gid})"),
            Step::Setuid => f.write_str("setresuid({uid}, {uid}, {uid})"),
            Step::ResetSignals(_) => {
                f.write_str("rt_sigaction(1..64, SIG_DFL), rt_sigprocmask(SIG_SETMASK, [])")
            }
            Step::Ready => f.write_str("send({control}, \"ready\")"),
            Step::Execve(command) => write!(f, "execve({}, …)", Quoted(command.name)),
        }
    }
}

impl Display for Mount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (source, fstype) = (Nullable(self.source), Nullable(self.fstype));
        let flags = Flags(u64::from(self.flags), MOUNT_FLAGS);
        let (target, data) = (self.target, Nullable(self.data));
        write!(f, "mount({source}, {target}, {fstype}, {flags}, {data})")
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Target::Path(path) => Quoted(path).fmt(f),
            Target::Root(path) | Target::Inside(path) => {
                write!(f, "\"{{root}}{}\"", path.to_bytes().escape_ascii())
            }
        }
    }
}

/// A string between double quotes, printable whatever is in it.
pub struct Quoted<'a>(pub &'a CStr);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.to_bytes().escape_ascii())
    }
}

struct Nullable(Option<Text>);

impl Display for Nullable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => Quoted(text).fmt(f),
            None => f.write_str("NULL"),
        }
    }
}

/// A resource limit.
pub struct Limit(pub u64);

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("RLIM_INFINITY"),
            value => write!(f, "{value}"),
        }
    }
}

/// Flag bits by name, joined by `|`; bits without a name in hexadecimal.
pub struct Flags(pub u64, pub &'static [(u64, &'static str)]);

impl Display for Flags {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (mut rest, mut separator) = (self.0, "");
        for (bits, name) in self.1 {
            if self.0 & bits == *bits {
                f.write_str(separator)?;
                f.write_str(name)?;
                (rest, separator) = (rest & !bits, "|");
            }
        }
        match (rest, separator) {
            (0, "") => f.write_char('0'),
            (0, _) => Ok(()),
            _ => write!(f, "{separator}{rest:#x}"),
        }
    }
}

/// The namespaces of `clone3` and `unshare`.
pub const CLONE_FLAGS: &[(u64, &str)] = &[
    (raw::CLONE_NEWUSER as u64, "CLONE_NEWUSER"),
    (raw::CLONE_NEWNS as u64, "CLONE_NEWNS"),
    (raw::CLONE_NEWPID as u64, "CLONE_NEWPID"),
    (raw::CLONE_NEWNET as u64, "CLONE_NEWNET"),
    (raw::CLONE_NEWIPC as u64, "CLONE_NEWIPC"),
    (raw::CLONE_NEWUTS as u64, "CLONE_NEWUTS"),
    (raw::CLONE_NEWCGROUP as u64, "CLONE_NEWCGROUP"),
    (raw::CLONE_NEWTIME as u64, "CLONE_NEWTIME"),
    (raw::CLONE_INTO_CGROUP, "CLONE_INTO_CGROUP"),
];

const MOUNT_FLAGS: &[(u64, &str)] = &[
    (raw::MS_REMOUNT as u64, "MS_REMOUNT"),
    (raw::MS_BIND as u64, "MS_BIND"),
    (raw::MS_REC as u64, "MS_REC"),
    (raw::MS_PRIVATE as u64, "MS_PRIVATE"),
    (raw::MS_SLAVE as u64, "MS_SLAVE"),
    (raw::MS_RDONLY as u64, "MS_RDONLY"),
    (raw::MS_NOSUID as u64, "MS_NOSUID"),
    (raw::MS_NODEV as u64, "MS_NODEV"),
    (raw::MS_NOEXEC as u64, "MS_NOEXEC"),
    (raw::MS_STRICTATIME as u64, "MS_STRICTATIME"),
];

const ATTRIBUTE_FLAGS: &[(u64, &str)] = &[
    (raw::MOUNT_ATTR_RDONLY as u64, "MOUNT_ATTR_RDONLY"),
    (raw::MOUNT_ATTR_NOSUID as u64, "MOUNT_ATTR_NOSUID"),
    (raw::MOUNT_ATTR_NODEV as u64, "MOUNT_ATTR_NODEV"),
    (raw::MOUNT_ATTR_NOEXEC as u64, "MOUNT_ATTR_NOEXEC"),
];
