//! A failure as the user reads it: the step, the reason, and where possible what to do about it.
//!
//! The hints are about what the errno does not say: which kernel option, which switch of the machine, which option
//! of mini. user_namespaces(7), namespaces(7), execve(2), elf(5).

use container::report::{Detail, Reason};
use container::step::{CLONE_FLAGS, Command, Step, Target};
use linux_raw_sys::general as raw;
use rustix::io::Errno;

use crate::error::{CANNOT_RUN, Error, NOT_FOUND, error, quote, reason};
use crate::host::Host;

/// Why `step` failed.
pub fn step_error(step: &Step, errno: Errno, detail: &Detail, host: &Host) -> Error {
    let (file, what) = match (step, detail.reason) {
        (_, Reason::User) => ("passwd", "user"),
        (_, Reason::Group) => ("group", "group"),
        (Step::Execve(command), _) => return exec_error(command, errno, detail),
        _ => {
            return error!("{step}: {}", reason(errno)).hint(step_hint(step, errno, host));
        }
    };
    let name = quote(detail.name());
    error!("--user: no {what} {name} in the container's /etc/{file}")
}

/// Why `command` was not executed.
pub fn exec_error(command: &Command, errno: Errno, detail: &Detail) -> Error {
    let (command, name) = (quote(command.name.to_bytes()), quote(detail.name()));
    let why = match detail.reason {
        Reason::NotFound => "not found in the container".to_owned(),
        Reason::Interpreter => format!("its interpreter {name} is not there"),
        Reason::Loader => format!("its dynamic loader {name} is not there"),
        Reason::Machine => {
            let (built_for, this) = (machine_name(detail.name()), std::env::consts::ARCH);
            format!("it is built for {built_for}, this machine is {this}")
        }
        Reason::Permission => "no permission to execute it".to_owned(),
        Reason::Directory => "it is a directory".to_owned(),
        Reason::NoExec => "it lies on a mount with the noexec flag".to_owned(),
        Reason::Format => "neither an ELF program nor a script that begins with #!".to_owned(),
        _ => reason(errno),
    };
    let status = match detail.reason {
        Reason::NotFound => NOT_FOUND,
        _ => CANNOT_RUN,
    };
    error!("execve({command}): {why}").with_status(status)
}

/// The name of an `e_machine` (elf.h), given as five decimal digits.
fn machine_name(digits: &[u8]) -> String {
    let known = "00003 i386 00008 mips 00020 powerpc 00021 powerpc64 00022 s390x 00040 arm 00062 x86_64 00183 aarch64 \
                 00243 riscv 00258 loongarch";
    let mut words = known.split(' ');
    match words.find(|word| word.as_bytes() == digits) {
        Some(_) => words.next().unwrap_or_default().to_owned(),
        None => format!("ELF machine {}", quote(digits)),
    }
}

fn step_hint(step: &Step, errno: Errno, host: &Host) -> &'static str {
    match (step, errno) {
        (Step::Mount(mount), Errno::NODEV) => match mount.fstype.unwrap_or_default().to_bytes() {
            b"overlay" => "this kernel lacks CONFIG_OVERLAY_FS",
            b"devpts" => "this kernel lacks CONFIG_UNIX98_PTYS",
            b"mqueue" => "this kernel lacks CONFIG_POSIX_MQUEUE",
            b"sysfs" => "this kernel lacks CONFIG_SYSFS",
            b"proc" => "this kernel lacks CONFIG_PROC_FS",
            _ => "this kernel lacks CONFIG_TMPFS",
        },
        (Step::Mount(mount), _) => match (mount.target, errno) {
            (Target::Root(_), Errno::LOOP | Errno::NOTDIR) => {
                "the image has no ordinary directory there"
            }
            (Target::Root(_), Errno::PERM) if host.privileged => {
                "in a user namespace /proc and /sys must not be covered in part, as other containers have them: \
                 --userns host does without one"
            }
            (Target::Inside(_), Errno::XDEV) => {
                "a symbolic link in the image leads it to /proc, /sys or /dev"
            }
            (Target::Inside(_), Errno::ROFS) => {
                "a mount point cannot be made on a read-only volume"
            }
            (_, Errno::NOENT) => "/proc must be mounted on the host, and the source be there",
            (_, Errno::NOSPC) => "too many mounts: fs.mount-max",
            (_, Errno::PERM | Errno::ACCESS) if !host.privileged => restricted(),
            _ => "",
        },
        (Step::Unshare(flags), _) => namespace_hint(errno, *flags, host),
        (Step::Fork(..), Errno::AGAIN) => {
            "--pids-limit counts mini's init too; or the user has too many processes (RLIMIT_NPROC)"
        }
        #[cfg(feature = "life")]
        (Step::Pass(_), Errno::AGAIN) => {
            "the container's --pids-limit is reached, or its user has too many processes (RLIMIT_NPROC)"
        }
        #[cfg(feature = "life")]
        (Step::Pass(_), Errno::NOMEM) => "the container that has this pid namespace has ended",
        (Step::PivotRoot, Errno::INVAL) => "is the root not a mount point, as in a chroot?",
        (Step::Limit(_), Errno::PERM) => "--ulimit: raising a hard limit needs CAP_SYS_RESOURCE",
        (Step::Setuid | Step::Setgid | Step::Setgroups | Step::OwnTerminal, Errno::INVAL)
            if !host.privileged =>
        {
            "--user: not mapped into the user namespace; /etc/subuid and newuidmap give more ids"
        }
        (Step::Setuid | Step::Setgid | Step::Setgroups | Step::OwnTerminal, Errno::INVAL) => {
            "--user: inside there are only ids 0 to 65535; --userns host has them all"
        }
        (Step::JoinKeyring, Errno::DQUOT) => "sysctl kernel.keys.maxkeys allows no more keyrings",
        (Step::Seccomp(..), Errno::INVAL) => "this kernel lacks CONFIG_SECCOMP_FILTER",
        (Step::Sysctl(..), Errno::NOENT) => "--sysctl: this kernel has no such setting",
        (Step::Sysctl(..), Errno::ACCESS | Errno::PERM) if host.privileged => {
            "--sysctl: not allowed in a user namespace; --userns host allows it"
        }
        (Step::Sysctl(..), Errno::INVAL) => "--sysctl: the kernel does not take this value",
        _ => "",
    }
}

fn sysctl(path: &str) -> Option<i64> {
    let text = crate::proc::read(format!("/proc/sys/{path}")).ok()?;
    text.trim_ascii().parse().ok()
}

/// Why a namespace cannot be made, as far as the machine's switches tell.
pub fn namespace_hint(errno: Errno, flags: u32, host: &Host) -> &'static str {
    let user = flags & raw::CLONE_NEWUSER != 0;
    if !host.privileged && sysctl("kernel/unprivileged_userns_clone") == Some(0) {
        return "sysctl kernel.unprivileged_userns_clone=1 allows it, or run as root";
    }
    let full = matches!(errno, Errno::NOSPC | Errno::USERS);
    // Without privileges nothing is to be had before a user namespace.
    let first = if host.admin { 0 } else { raw::CLONE_NEWUSER };
    if let Some(kind) = forbidden(flags | first).filter(|_| full) {
        let instead = match (kind.as_str(), host.privileged) {
            ("user", true) => ", or use --userns host",
            ("user", false) => ", or run as root",
            _ => "",
        };
        return format!("sysctl user.max_{kind}_namespaces is 0: raise it{instead}").leak();
    }
    match errno {
        Errno::NOSPC | Errno::USERS if user && host.privileged => {
            "a limit in /proc/sys/user/max_*_namespaces is reached; --userns host needs one less"
        }
        Errno::NOSPC | Errno::USERS => "a limit in /proc/sys/user/max_*_namespaces is reached",
        Errno::INVAL => "this kernel lacks one of these namespaces: CONFIG_*_NS",
        _ if !host.privileged => restricted(),
        _ if user => "if it is the user namespace that is refused, --userns host does without",
        _ => "",
    }
}

/// Of which of these namespaces none is allowed.
fn forbidden(flags: u32) -> Option<String> {
    let asked = CLONE_FLAGS
        .iter()
        .filter(|(flag, _)| flags & *flag as u32 != 0);
    let mut kinds = asked.map(|(_, name)| {
        let kind = name.replace("CLONE_NEW", "").to_ascii_lowercase();
        kind.replace("ns", "mnt")
    });
    kinds.find(|kind| sysctl(&format!("user/max_{kind}_namespaces")) == Some(0))
}

/// Ubuntu lets anybody make a user namespace but has AppArmor refuse what is done in it.
fn restricted() -> &'static str {
    match sysctl("kernel/apparmor_restrict_unprivileged_userns") {
        Some(1) => {
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0 allows it, or run as root"
        }
        _ => "not allowed in a user namespace here; run as root",
    }
}
