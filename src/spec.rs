//! What the user asked for: plain, validated data, whatever it was parsed from. The functions here turn the text
//! of an option's value into its part of a [`Spec`], or say in one line what is wrong with it.
//!
//! Left out: anything that depends on the machine (see `host.rs`) or on the image.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use container::step::ResourceLimit;
use linux_raw_sys::general as raw;

use crate::capability::Capabilities;
use crate::cgroup::Wanted;
use crate::error::{Error, Result, error, quote};
use crate::image::Config;
use crate::seccomp::Seccomp;

/// One container. What an option implies for others (`--privileged`) is already applied.
#[derive(Debug, Clone)]
pub struct Spec {
    pub rootfs: Rootfs,
    /// Archives and directories that are stacked above it, the lowest first.
    pub layers: Vec<PathBuf>,
    pub store: Store,
    /// Whether what the container writes goes to the directory ROOTFS itself.
    pub writable: bool,
    /// OS/ARCH[/VARIANT] of the image to take where there are several. `None`: this machine's.
    pub platform: Option<String>,
    /// Bytes that a compressed archive may become. `None`: half of what is free.
    pub image_limit: Option<u64>,
    /// No progress bar.
    pub quiet: bool,
    pub name: Option<String>,
    pub hostname: Option<String>,
    /// KEY=VALUE, for whoever looks for containers.
    pub labels: Vec<String>,
    /// In place of the image's own; empty for none.
    pub entrypoint: Option<Vec<Vec<u8>>>,
    /// The command and its arguments; not empty once it is [complete](Spec::complete).
    pub command: Vec<Vec<u8>>,
    /// In the order given; a later variable of the same name wins.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Absolute; empty until it is complete, if it was not given.
    pub workdir: Vec<u8>,
    /// Name or number in the container. `None`, if it was not given: root, or with [`Userns::KeepId`] the caller.
    pub user: Option<Vec<u8>>,
    /// Name or number. `None`: the user's own group.
    pub group: Option<Vec<u8>>,
    pub interactive: bool,
    pub tty: bool,
    pub volumes: Vec<Volume>,
    pub tmpfs: Vec<Tmpfs>,
    pub read_only: bool,
    /// Size of /dev/shm in bytes.
    pub shm_size: u64,
    pub limits: Vec<ResourceLimit>,
    /// Limits by cgroups, in the order of the table.
    pub resources: Vec<Wanted>,
    /// The cgroup that the container's are made in, in each hierarchy: absolute, or below the caller's.
    pub cgroup_parent: Option<PathBuf>,
    pub oom_score_adj: Option<i32>,
    /// Sent to the command when mini gets SIGTERM. `None`: SIGTERM.
    pub stop_signal: Option<i32>,
    /// In the background, and how. `None`: the caller waits for it.
    pub detach: Option<Detach>,
    /// What happens when the container has ended, and how many seconds it has to end in when it is stopped.
    pub restart: Restart,
    pub stop_timeout: Option<u32>,
    /// Whether mini's init is PID 1, or the command itself.
    pub init: bool,
    /// Namespaces (`CLONE_NEW*`) that the container shares with the host.
    pub shared: u32,
    /// A running container, by its id or name, and those that it shares with that one.
    pub joined: Option<(String, u32)>,
    /// A time namespace whose clocks start at zero.
    pub time: bool,
    /// Whether the container's changes stay on disk after it has ended.
    pub keep: bool,
    pub upper: Upper,
    pub userns: Userns,
    /// Whether `--privileged` was given; what it means stands in the fields it changes.
    pub privileged: bool,
    pub capabilities: Capabilities,
    /// Whether execve(2) may give no more privileges than there were (PR_SET_NO_NEW_PRIVS, prctl(2)).
    pub no_new_privs: bool,
    pub seccomp: Seccomp,
    /// Whether the parts of /proc and /sys that concern the host are masked or read-only.
    pub masks: bool,
    /// Paths below /proc/sys, as in `net/ipv4/ip_forward`, and values; each belongs to a namespace that is the
    /// container's own.
    pub sysctls: Vec<(String, String)>,
    pub devices: Vec<Device>,
    #[cfg(feature = "net")]
    pub network: crate::net::Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    Path(PathBuf),
    /// `-`: an archive from standard input.
    Stdin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub source: PathBuf,
    /// Absolute, in the container.
    pub target: Vec<u8>,
    pub read_only: bool,
    /// Whether ids inside are ids on disk, by an idmapped mount; else they are those that the container's ids map to.
    pub idmap: bool,
}

/// A device node of the host's that the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute, on the host.
    pub source: PathBuf,
    /// In the container: below /dev, and nothing that mini makes there.
    pub target: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    pub target: Vec<u8>,
    /// `MS_*`
    pub flags: u32,
    /// Options of tmpfs itself, such as `size=64m,mode=1777`; may be empty.
    pub data: String,
}

/// How the files of an archive are brought to where they can be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// As `Index`; where that is not possible as `Unpack`.
    Auto,
    /// They stay in the archive, and an index of them is mounted.
    Index,
    /// A directory tree on disk.
    Unpack,
    /// A directory tree in memory.
    Tmpfs,
}

/// Where the container's changes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// Memory if they will be gone afterwards, disk if they are kept.
    Default,
    /// A tmpfs, of this many bytes or else the kernel's default, half of the memory.
    Tmpfs(Option<u64>),
    Disk,
}

/// A container in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detach {
    /// Whether nothing is to be left of it once it has ended: no record, no log, no changes.
    pub rm: bool,
    #[cfg(feature = "life")]
    pub log: LogTo,
}

/// Where the output of a container in the background goes.
#[cfg(feature = "life")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTo {
    /// The log of `mini logs`, of this many bytes.
    Own(u64),
    /// A file, as it is.
    File(PathBuf),
    Nothing,
}

/// What happens when a container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    No,
    Always,
    /// If its exit status is not 0, so many times at most.
    OnFailure(Option<u32>),
}

impl Restart {
    /// Whether what has ended with `status`, after so many restarts, is started again.
    pub fn again(self, status: u8, restarts: u32) -> bool {
        match self {
            Restart::No => false,
            Restart::Always => true,
            Restart::OnFailure(most) => status != 0 && most.is_none_or(|most| restarts < most),
        }
    }
}

/// The user namespace (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Userns {
    /// As `Auto`, as far as kernel and file systems allow.
    Default,
    /// A range of ids of the container's own, insisted upon.
    Auto,
    /// None of its own.
    Host,
    /// The caller has the same ids inside.
    KeepId,
}

impl Spec {
    /// Adds what the image says for itself, where the command line says nothing: as Docker does it, `--entrypoint` also
    /// takes the place of the image's arguments, and a command only that of the arguments.
    pub fn complete(mut self, config: &Config) -> Result<Spec> {
        if self.entrypoint.is_none() && self.command.is_empty() {
            self.command.clone_from(&config.cmd);
        }
        let mut command = self.entrypoint.take().unwrap_or(config.entrypoint.clone());
        command.append(&mut self.command);
        if command.is_empty() {
            command.push(b"/bin/sh".to_vec());
        }
        self.command = command;
        self.environment.splice(0..0, config.env.iter().cloned());
        if self.workdir.is_empty() {
            // Some write "app" and mean "/app".
            let path = config.workdir.strip_prefix(b"/");
            self.workdir = [b"/", path.unwrap_or(&config.workdir)].concat();
        }
        let text = |what: &[u8]| {
            let text = String::from_utf8(what.to_vec());
            text.map_err(|_| error!("the image's {}: not valid UTF-8", quote(what)))
        };
        if self.user.is_none() && self.userns != Userns::KeepId && !config.user.is_empty() {
            let parsed = user(&text(&config.user)?);
            let (name, group) = parsed.map_err(|error| error!("the image: {error}"))?;
            (self.user, self.group) = (Some(name), group);
        }
        if self.stop_signal.is_none() && !config.stop_signal.is_empty() {
            let number = signal("--stop-signal", &text(&config.stop_signal)?);
            let number = number.map_err(|error| error!("the image: {error}"))?;
            self.stop_signal = Some(number);
        }
        Ok(self)
    }
}

/// What is wrong with the value of an option.
pub fn invalid(option: &str, value: &str, what: &str) -> Error {
    error!("{option} {}: {what}", quote(value.as_bytes()))
}

/// An amount of bytes: a number with an optional b, k, m, g or t (powers of 1024, in either case).
pub fn size(option: &str, text: &str) -> Result<u64> {
    let mut digits = text;
    let mut shift = 0;
    if let Some((number, unit)) = text.split_at_checked(text.len().saturating_sub(1)) {
        let unit = unit.as_bytes().first().unwrap_or(&0).to_ascii_lowercase();
        if let Some(index) = b"bkmgt".iter().position(|known| *known == unit) {
            (digits, shift) = (number, 10 * index);
        }
    }
    let decimal = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse::<u64>() {
        Ok(number) if decimal && (1..=u64::MAX >> shift).contains(&number) => Ok(number << shift),
        _ => {
            let what = "not a size (a number with an optional k, m, g or t)";
            Err(invalid(option, text, what))
        }
    }
}

/// A path in the container: absolute, without `..`, and not one that mini itself mounts.
fn target(option: &str, value: &str, text: &str) -> Result<Vec<u8>> {
    let parts = || text.split('/').filter(|part| !matches!(*part, "" | "."));
    let (first, second) = (parts().next(), parts().nth(1));
    let what = match (first, second) {
        _ if !text.starts_with('/') => "the path in the container is not absolute",
        _ if parts().any(|part| part == "..") => "the path in the container contains \"..\"",
        (None, _) => "cannot be the container's root directory itself",
        (Some("proc" | "sys"), _) | (Some("dev"), None) => "mini mounts its own file system there",
        _ => {
            let mut path = Vec::new();
            for part in parts() {
                path.extend_from_slice(&[b"/", part.as_bytes()].concat());
            }
            return Ok(path);
        }
    };
    Err(invalid(option, value, what))
}

/// `SRC:DST[:OPTION,…]` with ro, rw, noidmap; a relative source is below `cwd`.
pub fn volume(text: &str, cwd: &std::path::Path) -> Result<Volume> {
    let bad = |what: &str| Err(invalid("--volume", text, what));
    let mut parts = text.splitn(3, ':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
        return bad("not SRC:DST[:OPTION,...]");
    };
    if source.is_empty() {
        return bad("the source is empty");
    }
    let (mut read_only, mut idmap) = (false, true);
    for option in parts
        .next()
        .into_iter()
        .flat_map(|options| options.split(','))
    {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "noidmap" => idmap = false,
            _ => {
                let option = quote(option.as_bytes());
                return bad(&format!("unknown option {option} (known: ro, rw, noidmap)"));
            }
        }
    }
    Ok(Volume {
        source: cwd.join(source),
        target: target("--volume", text, destination)?,
        read_only,
        idmap,
    })
}

/// What mini makes in /dev itself.
pub const DEV: &str =
    "null zero full random urandom tty console pts ptmx shm mqueue fd stdin stdout stderr";

/// `SRC[:DST][:PERM]`, where DST is SRC unless given. PERM is there for Docker's sake: it can take nothing away.
pub fn device(text: &str) -> Result<Device> {
    let bad = |what| Err(invalid("--device", text, what));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, permissions) = match *parts.as_slice() {
        [source] => (source, source, "rw"),
        [source, other] if other.starts_with('/') => (source, other, "rw"),
        [source, permissions] => (source, source, permissions),
        [source, destination, permissions] => (source, destination, permissions),
        _ => return bad("not SRC[:DST][:PERM]"),
    };
    if !source.starts_with('/') {
        return bad("the source is not absolute");
    }
    let mut letters = "rwm".bytes().take(permissions.len());
    if !matches!(permissions.len(), 2 | 3)
        || !letters.all(|letter| permissions.as_bytes().contains(&letter))
    {
        return bad(
            "PERM must be rw or rwm, mini cannot restrict a device (it has no device cgroup)",
        );
    }
    let target = target("--device", text, destination)?;
    let Some(below) = target.strip_prefix(b"/dev/") else {
        return bad("the path in the container is not below /dev");
    };
    let name = below.split(|byte| *byte == b'/').next();
    if DEV.split(' ').any(|own| Some(own.as_bytes()) == name) {
        return bad("mini makes that itself");
    }
    Ok(Device {
        source: PathBuf::from(source),
        target,
    })
}

/// `KEY=VALUE`, as path below /proc/sys and value. As in sysctl(8) and sysctl.d(5), the first separator decides: if
/// it is a slash, dots are part of the names; if it is a dot, slashes stand for such dots.
///
/// Only what belongs to a namespace (proc_sys_kernel(5), ipc_namespaces(7), uts_namespaces(7)) that is not one of
/// `shared` (`CLONE_NEW*`): anything else would change the host.
pub fn sysctl(text: &str, shared: u32) -> Result<(String, String)> {
    let bad = |what| Err(invalid("--sysctl", text, what));
    let Some((key, value)) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty() && !text.contains(['\n', '\0']))
    else {
        return bad("not KEY=VALUE in one line");
    };
    let first = key.bytes().find(|byte| matches!(byte, b'.' | b'/'));
    let mut path = key.to_owned();
    if first == Some(b'.') {
        // Interchanges the two; there is no NUL in it.
        path = path.replace('.', "\0").replace('/', ".").replace('\0', "/");
    }
    let odd = |part| matches!(part, "" | "." | "..");
    // A directory, which ends in a slash, stands for all that is below it.
    let stands_for = |name: &str| {
        let rest = path.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() != name.ends_with('/'))
    };
    let of = |(_, names): &&(u32, &str)| names.split(' ').any(stands_for);
    match SYSCTLS.iter().find(of) {
        Some((namespace, _)) if !path.split('/').any(odd) => match shared & namespace {
            0 => Ok((path, value.to_owned())),
            _ => bad("its namespace is shared with the host; it would change the host"),
        },
        _ if path == "kernel/hostname" => bad("--hostname sets it"),
        _ => bad("not a sysctl of a namespace; it would change the host"),
    }
}

/// Namespaces and what in /proc/sys belongs to them.
const SYSCTLS: [(u32, &str); 3] = [
    (raw::CLONE_NEWNET, "net/"),
    (raw::CLONE_NEWUTS, "kernel/domainname"),
    (
        raw::CLONE_NEWIPC,
        "fs/mqueue/ kernel/msgmax kernel/msgmnb kernel/msgmni kernel/sem kernel/shmall kernel/shmmax \
         kernel/shmmni kernel/shm_rmid_forced",
    ),
];

/// `DST[:OPTION,…]` with size=, mode=, uid=, gid=, nr_inodes=, ro, rw, exec, noexec, suid, nosuid, dev, nodev.
pub fn tmpfs(text: &str) -> Result<Tmpfs> {
    let (destination, options) = text.split_once(':').unwrap_or((text, ""));
    let mut flags = raw::MS_NOSUID | raw::MS_NODEV | raw::MS_NOEXEC;
    let mut data = String::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let flag = match option.strip_prefix("no").unwrap_or(option) {
            "ro" | "rw" => raw::MS_RDONLY,
            "exec" => raw::MS_NOEXEC,
            "suid" => raw::MS_NOSUID,
            "dev" => raw::MS_NODEV,
            _ => 0,
        };
        let bad = |what| {
            let what = format!("{what} option {}", quote(option.as_bytes()));
            Err(invalid("--tmpfs", text, &what))
        };
        let Some((key, value)) = option.split_once('=') else {
            match option {
                "ro" | "noexec" | "nosuid" | "nodev" => flags |= flag,
                "rw" | "exec" | "suid" | "dev" => flags &= !flag,
                _ => return bad("unknown"),
            }
            continue;
        };
        let octal = u32::from_str_radix(value, 8);
        let value = match key {
            "size" => &size("--tmpfs", value)?.to_string(),
            "mode" if octal.is_ok_and(|mode| mode <= 0o7777) => value,
            "uid" | "gid" | "nr_inodes" if value.parse::<u32>().is_ok() => value,
            _ => return bad("bad"),
        };
        data.push_str(if data.is_empty() { "" } else { "," });
        data.push_str(&format!("{key}={value}"));
    }
    Ok(Tmpfs {
        target: target("--tmpfs", text, destination)?,
        flags,
        data,
    })
}

/// The kernel's names, in the order of its numbers (asm-generic/resource.h); Docker and Podman take them in lower case.
const LIMITS: &str = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME";

/// `NAME=SOFT[:HARD]`, where -1 and unlimited mean no limit.
pub fn limit(text: &str) -> Result<ResourceLimit> {
    let bad = |what: &str| invalid("--ulimit", text, what);
    let value = |value: &str| match value {
        "-1" | "unlimited" => Ok(u64::MAX),
        number => number.parse().map_err(|_| bad("not a number")),
    };
    let (name, values) = (text.split_once('=')).ok_or_else(|| bad("not NAME=SOFT[:HARD]"))?;
    let mut known = (0..).zip(LIMITS.split(' '));
    let found = known.find(|(_, known)| known.eq_ignore_ascii_case(name));
    let (resource, name) = found.ok_or_else(|| {
        let known = LIMITS.to_ascii_lowercase();
        bad(&format!("unknown limit (known: {known})"))
    })?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(bad("the soft limit is above the hard limit"));
    }
    Ok(ResourceLimit {
        name,
        resource,
        soft,
        hard,
    })
}

/// In the order of their numbers, from 1 on.
const SIGNALS: &str = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP \
                       TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";

/// A signal by name (with or without SIG, also RTMIN+n and RTMAX-n) or number.
pub fn signal(option: &str, text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The C libraries keep 32 and 33 (glibc also 34) for themselves; 34 is the SIGRTMIN of systemd's SIGRTMIN+3.
    let real_time = |base: i32, rest: &str| {
        let offset = match rest.as_bytes() {
            [] => 0,
            [b'+' | b'-', ..] => rest.parse().ok()?,
            _ => return None,
        };
        base.checked_add(offset).filter(|number| *number >= 34)
    };
    let mut known = (1..).zip(SIGNALS.split(' '));
    let number = if let Some((number, _)) = known.find(|(_, known)| *known == name) {
        Some(number)
    } else if let Some(rest) = name.strip_prefix("RTMIN") {
        real_time(34, rest)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        real_time(64, rest)
    } else {
        text.parse().ok()
    };
    (number.filter(|number| (1..=64).contains(number)))
        .ok_or_else(|| invalid(option, text, "unknown signal"))
}

/// `USER[:GROUP]`, each a name or a number.
pub fn user(text: &str) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let bad = |part: &str| {
        let number = part.parse::<u64>().unwrap_or(0);
        let separated = part.contains(['\n', ':', ',']);
        part.is_empty() || separated || number >= u64::from(u32::MAX)
    };
    if bad(user) || group.is_some_and(bad) {
        return Err(invalid("--user", text, "not USER[:GROUP]"));
    }
    Ok((user.into(), group.map(Into::into)))
}

/// `KEY=VALUE`, or `KEY` alone, which takes the caller's value and is left out if there is none.
pub fn variable(option: &str, text: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (key, value) = match text.iter().position(|byte| *byte == b'=') {
        Some(end) => (&text[..end], Some(text[end + 1..].to_vec())),
        None => (text, None),
    };
    if key.is_empty() || text.contains(&0) {
        return Err(error!("{option} {}: not KEY=VALUE", quote(text)));
    }
    let callers = || std::env::var_os(OsString::from_vec(key.to_vec()));
    let value = value.or_else(|| callers().map(OsStringExt::into_vec));
    Ok(value.map(|value| (key.to_vec(), value)))
}

/// A file of variables, one a line; empty lines and lines that begin with `#` are passed over.
pub fn environment_file(path: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let text = std::fs::read(path).map_err(|error| Error::io("--env-file open", path, error))?;
    let mut variables = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if !line.is_empty() && !line.starts_with(b"#") {
            variables.extend(variable("--env-file", line)?);
        }
    }
    Ok(variables)
}

/// A container's name: letters, digits, `_`, `.`, `-`, not beginning with a sign; at most 64 bytes, so that it can
/// be the hostname.
pub fn name(option: &str, text: &str) -> Result<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let sign = text.starts_with(['_', '.', '-']);
    if !text.is_empty() && !sign && text.len() <= 64 && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    let what = "not a name (1 to 64 letters, digits, \"_\", \".\", \"-\")";
    Err(invalid(option, text, what))
}

/// `tmpfs[:SIZE]` or `disk`.
pub fn upper(text: &str) -> Result<Upper> {
    match text.split_once(':') {
        None if text == "tmpfs" => Ok(Upper::Tmpfs(None)),
        None if text == "disk" => Ok(Upper::Disk),
        Some(("tmpfs", bytes)) => Ok(Upper::Tmpfs(Some(size("--upper", bytes)?))),
        _ => Err(invalid("--upper", text, "not tmpfs[:SIZE] or disk")),
    }
}

/// `no`, `always` or `on-failure[:N]`.
pub fn restart(text: &str) -> Result<Restart> {
    let most = |most: &str| most.parse().map(|most| Restart::OnFailure(Some(most))).ok();
    let known = match text.split_once(':') {
        None if text == "no" => Some(Restart::No),
        None if text == "always" => Some(Restart::Always),
        None if text == "on-failure" => Some(Restart::OnFailure(None)),
        Some(("on-failure", number)) => most(number),
        _ => None,
    };
    known.ok_or_else(|| invalid("--restart", text, "not no, always or on-failure[:N]"))
}

/// A path in the cgroup hierarchies.
pub fn cgroup_parent(text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if text.is_empty()
        || path
            .components()
            .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(invalid(
            "--cgroup-parent",
            text,
            "empty, or it has \"..\" in it",
        ));
    }
    Ok(path)
}

/// An absolute directory in the container.
pub fn workdir(text: &str) -> Result<Vec<u8>> {
    if !text.starts_with('/') {
        return Err(invalid("--workdir", text, "not an absolute path"));
    }
    Ok(text.as_bytes().to_vec())
}

/// A command: one word, or several as a JSON array; none if it is empty.
pub fn words(option: &str, text: &str) -> Result<Vec<Vec<u8>>> {
    if !text.starts_with('[') {
        let word = Some(text.into()).filter(|_| !text.is_empty());
        return Ok(word.into_iter().collect());
    }
    #[cfg(feature = "json")]
    return array(text).map_err(|why| invalid(option, text, &why));
    #[cfg(not(feature = "json"))]
    Err(invalid(option, text, "this build of mini cannot read JSON"))
}

#[cfg(feature = "json")]
fn array(text: &str) -> Result<Vec<Vec<u8>>> {
    let value = crate::json::parse(format!("{{\"words\":{text}}}").as_bytes())?;
    let node = crate::json::Node::root(&value);
    let mut words = Vec::new();
    for word in node.items("words")? {
        words.push(word.text()?.into());
    }
    Ok(words)
}

/// ROOTFS as given on the command line.
pub fn rootfs(text: OsString) -> Result<Rootfs> {
    match text.as_bytes() {
        b"" => Err(Error::new("ROOTFS is empty")),
        b"-" => Ok(Rootfs::Stdin),
        _ => Ok(Rootfs::Path(PathBuf::from(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("-m", "64").unwrap(), 64);
        assert_eq!(size("-m", "64K").unwrap(), 64 << 10);
        assert_eq!(size("-m", "2g").unwrap(), 2 << 30);
        for bad in ["", "k", "-1", "+1", "1x", "1.5g", "99999999999t"] {
            assert!(size("-m", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_name_what_is_wrong() {
        let cwd = std::path::Path::new("/here");
        let good = volume("data:/srv//data/:ro", cwd).unwrap();
        assert_eq!(good.source, PathBuf::from("/here/data"));
        assert_eq!(good.target, b"/srv/data");
        assert!(good.read_only && good.idmap);
        let strict = volume("/x:/y:ro,noidmap,rw", cwd).unwrap();
        assert!(!strict.read_only && !strict.idmap);
        for (bad, why) in [
            ("/x", "not SRC:DST[:OPTION,...]"),
            ("/x:y", "not absolute"),
            ("/x:/a/../b", "\"..\""),
            ("/x:/", "root directory itself"),
            ("/x:/proc/sys", "mini mounts"),
            ("/x:/y:zz", "unknown option \"zz\" (known: "),
            ("/x:/y:", "unknown option \"\""),
            ("/x:/y:ro,", "unknown option \"\""),
            ("/x:/y:ro:rw", "unknown option \"ro:rw\""),
            (":/y", "source is empty"),
        ] {
            let error = volume(bad, cwd).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn tmpfs_options() {
        let found = tmpfs("/run:size=64m,mode=1777,exec").unwrap();
        assert_eq!(found.data, "size=67108864,mode=1777");
        assert_eq!(found.flags, raw::MS_NOSUID | raw::MS_NODEV);
        for bad in [
            "run",
            "/run:size=x",
            "/run:mode=9",
            "/run:bogus",
            "/run:huge=always",
        ] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_users_signals() {
        let found = limit("nofile=10:20").unwrap();
        assert_eq!(
            (found.name, found.resource, found.soft, found.hard),
            ("NOFILE", 7, 10, 20)
        );
        assert_eq!(limit("core=-1").unwrap().hard, u64::MAX);
        assert!(
            limit("nofile=20:10").is_err() && limit("bogus=1").is_err() && limit("nofile").is_err()
        );
        assert_eq!(user("a:b").unwrap(), (b"a".to_vec(), Some(b"b".to_vec())));
        assert!(user("").is_err() && user("a:").is_err() && user("4294967295").is_err());
        assert_eq!(signal("-s", "SIGTERM").unwrap(), 15);
        assert_eq!(signal("-s", "rtmin+3").unwrap(), 37);
        assert_eq!(signal("-s", "9").unwrap(), 9);
        for bad in ["0", "65", "SIGBOGUS", "RTMIN3", "RTMAX+1", ""] {
            assert!(signal("-s", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_are_below_dev_and_unrestricted() {
        let place = |text| {
            let found = device(text).unwrap();
            let target = String::from_utf8(found.target).unwrap();
            (found.source.display().to_string(), target)
        };
        let fuse = |target: &str| ("/dev/fuse".to_owned(), target.to_owned());
        for text in ["/dev/fuse", "/dev/fuse:rwm", "/dev/fuse:/dev//fuse:wr"] {
            assert_eq!(place(text), fuse("/dev/fuse"), "{text}");
        }
        assert_eq!(place("/dev/fuse:/dev/a/b:mwr"), fuse("/dev/a/b"));
        assert_eq!(place("/srv/node:/dev/nullx").1, "/dev/nullx");
        let restrict = "mini cannot restrict a device";
        for (bad, why) in [
            ("", "source is not absolute"),
            ("dev/fuse", "source is not absolute"),
            ("/srv/node", "not below /dev"),
            ("/dev/fuse:/fuse", "not below /dev"),
            ("/dev/fuse:/dev", "mini mounts its own"),
            ("/dev/fuse:/dev/../x", "\"..\""),
            ("/dev/fuse:/dev/pts/0", "mini makes that itself"),
            ("/dev/fuse:/dev/./stdin", "mini makes that itself"),
            ("/dev/null", "mini makes that itself"),
            ("/dev/fuse:", restrict),
            ("/dev/fuse:r", restrict),
            ("/dev/fuse:rm", restrict),
            ("/dev/fuse:rww", restrict),
            ("/dev/fuse:/dev/x:rwx", restrict),
            ("/dev/fuse:/dev/x:rwmm", restrict),
            ("/dev/fuse:/dev/x:rw:", "not SRC[:DST][:PERM]"),
        ] {
            let error = device(bad).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn sysctls_belong_to_the_containers_namespaces() {
        let (net, ipc, uts) = (raw::CLONE_NEWNET, raw::CLONE_NEWIPC, raw::CLONE_NEWUTS);
        for (key, path, namespace) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward", net),
            ("net/ipv4/conf/eth0.1/log", "net/ipv4/conf/eth0.1/log", net),
            ("net.ipv4.conf.eth0/1.log", "net/ipv4/conf/eth0.1/log", net),
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced", ipc),
            ("kernel/sem", "kernel/sem", ipc),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max", ipc),
            ("kernel.domainname", "kernel/domainname", uts),
        ] {
            let text = format!("{key}=1 2=3");
            assert_eq!(
                sysctl(&text, !namespace).unwrap(),
                (path.into(), "1 2=3".into())
            );
            let error = sysctl(&text, namespace).unwrap_err().to_string();
            assert!(error.contains("shared with the host"), "{error}");
        }
        let host = "not a sysctl of a namespace; it would change the host";
        let form = "not KEY=VALUE in one line";
        for (bad, why) in [
            ("vm.swappiness=1", host),
            ("kernel.core_pattern=|/x", host),
            ("kernel.msgmax.x=1", host),
            ("kernel.ms=1", host),
            ("fs.mqueue=1", host),
            ("fs.mqueue.=1", host),
            ("net.ipv4.=1", host),
            ("net=1", host),
            ("net.=1", host),
            ("network.x=1", host),
            ("net/../kernel/core_pattern=1", host),
            ("net.//.kernel.core_pattern=1", host),
            ("net.ipv4..x=1", host),
            ("/net/ipv4/ip_forward=1", host),
            ("../net/x=1", host),
            ("kernel.hostname=x", "--hostname sets it"),
            ("net.ipv4.ip_forward", form),
            ("=1", form),
            ("", form),
        ] {
            let error = sysctl(bad, 0).unwrap_err().to_string();
            assert_eq!(error, format!("--sysctl {bad:?}: {why}"));
        }
        assert!(sysctl("net.x=1\n2", 0).is_err() && sysctl("net.x=\0", 0).is_err());
    }
}
