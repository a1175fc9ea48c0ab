//! What the user asked for: plain, validated data, whatever it was parsed from. The functions here turn the text
//! of an option's value into its part of a [`Spec`], or say in one line what is wrong with it.
//!
//! Left out: anything that depends on the machine (see `host.rs`) or on the image.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use container::step::ResourceLimit;
use linux_raw_sys::general as raw;

use crate::error::{Error, Result, quote};

/// One container.
#[derive(Debug, Clone)]
pub struct Spec {
    pub rootfs: Rootfs,
    pub name: Option<String>,
    pub hostname: Option<String>,
    /// The command and its arguments; never empty.
    pub command: Vec<Vec<u8>>,
    /// In the order given; a later variable of the same name wins.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Absolute.
    pub workdir: Vec<u8>,
    /// Name or number.
    pub user: Vec<u8>,
    pub group: Option<Vec<u8>>,
    pub interactive: bool,
    pub tty: bool,
    pub volumes: Vec<Volume>,
    pub tmpfs: Vec<Tmpfs>,
    pub read_only: bool,
    /// Size of /dev/shm in bytes.
    pub shm_size: u64,
    pub limits: Vec<ResourceLimit>,
    pub oom_score_adj: Option<i32>,
    /// Sent to the command when mini gets SIGTERM.
    pub stop_signal: i32,
    /// Whether mini's init is PID 1, or the command itself.
    pub init: bool,
    /// Namespaces (`CLONE_NEW*`) that the container shares with the host.
    pub shared: u32,
    /// A time namespace whose clocks start at zero.
    pub time: bool,
    /// Whether the container's changes stay on disk after it has ended.
    pub keep: bool,
    pub upper: Upper,
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    pub target: Vec<u8>,
    /// `MS_*`
    pub flags: u32,
    /// Options of tmpfs itself, such as `size=64m,mode=1777`; may be empty.
    pub data: String,
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

/// What is wrong with the value of an option.
pub fn invalid(option: &str, value: &str, what: &str) -> Error {
    Error::new(format!("{option} {}: {what}", quote(value.as_bytes())))
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
    let number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse::<u64>().ok());
    let size = number
        .filter(|number| (1..=u64::MAX >> shift).contains(number))
        .map(|number| number << shift);
    size.ok_or_else(|| {
        invalid(
            option,
            text,
            "not a size (a number with an optional k, m, g or t)",
        )
    })
}

/// A path in the container: absolute, without `..`, and not one that mini itself mounts.
fn target(option: &str, value: &str, text: &str) -> Result<Vec<u8>> {
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if !text.starts_with('/') {
        return Err(invalid(
            option,
            value,
            "the path in the container is not absolute",
        ));
    }
    if parts.contains(&"..") {
        return Err(invalid(
            option,
            value,
            "the path in the container contains \"..\"",
        ));
    }
    match parts.as_slice() {
        [] => Err(invalid(
            option,
            value,
            "cannot be the container's root directory itself",
        )),
        ["proc" | "sys", ..] | ["dev"] => Err(invalid(
            option,
            value,
            "mini mounts its own file system there",
        )),
        parts => Ok(format!("/{}", parts.join("/")).into_bytes()),
    }
}

/// `SRC:DST[:ro|rw]`; a relative source is below `cwd`.
pub fn volume(text: &str, cwd: &std::path::Path) -> Result<Volume> {
    let mut parts = text.splitn(3, ':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
        return Err(invalid("--volume", text, "not SRC:DST[:ro]"));
    };
    if source.is_empty() {
        return Err(invalid("--volume", text, "the source is empty"));
    }
    let read_only = match parts.next() {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(_) => return Err(invalid("--volume", text, "unknown mode (known: ro, rw)")),
    };
    Ok(Volume {
        source: cwd.join(source),
        target: target("--volume", text, destination)?,
        read_only,
    })
}

/// `DST[:OPTION,…]` with size=, mode=, uid=, gid=, nr_inodes=, ro, rw, exec, noexec, suid, nosuid, dev, nodev.
pub fn tmpfs(text: &str) -> Result<Tmpfs> {
    let (destination, options) = text.split_once(':').unwrap_or((text, ""));
    let mut flags = raw::MS_NOSUID | raw::MS_NODEV | raw::MS_NOEXEC;
    let mut data = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            None => match option {
                "ro" => flags |= raw::MS_RDONLY,
                "rw" => flags &= !raw::MS_RDONLY,
                "exec" => flags &= !raw::MS_NOEXEC,
                "noexec" => flags |= raw::MS_NOEXEC,
                "suid" => flags &= !raw::MS_NOSUID,
                "nosuid" => flags |= raw::MS_NOSUID,
                "dev" => flags &= !raw::MS_NODEV,
                "nodev" => flags |= raw::MS_NODEV,
                _ => {
                    return Err(invalid(
                        "--tmpfs",
                        text,
                        &format!("unknown option {}", quote(option.as_bytes())),
                    ));
                }
            },
            Some(("size", value)) => data.push(format!("size={}", size("--tmpfs", value)?)),
            Some(("mode", value))
                if u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777) =>
            {
                data.push(format!("mode={value}"));
            }
            Some((key @ ("uid" | "gid" | "nr_inodes"), value)) if value.parse::<u32>().is_ok() => {
                data.push(format!("{key}={value}"));
            }
            Some(_) => {
                return Err(invalid(
                    "--tmpfs",
                    text,
                    &format!("bad option {}", quote(option.as_bytes())),
                ));
            }
        }
    }
    Ok(Tmpfs {
        target: target("--tmpfs", text, destination)?,
        flags,
        data: data.join(","),
    })
}

/// The kernel's names, in the order of its numbers (asm-generic/resource.h); Docker and Podman take them in lower case.
const LIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// `NAME=SOFT[:HARD]`, where -1 and unlimited mean no limit.
pub fn limit(text: &str) -> Result<ResourceLimit> {
    let value = |value: &str| match value {
        "-1" | "unlimited" => Ok(u64::MAX),
        number => number
            .parse()
            .map_err(|_| invalid("--ulimit", text, "not a number")),
    };
    let Some((name, values)) = text.split_once('=') else {
        return Err(invalid("--ulimit", text, "not NAME=SOFT[:HARD]"));
    };
    let Some(index) = LIMITS
        .iter()
        .position(|known| known.eq_ignore_ascii_case(name))
    else {
        let known = LIMITS.join(" ").to_ascii_lowercase();
        let what = format!("unknown limit (known: {known})");
        return Err(invalid("--ulimit", text, &what));
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(invalid(
            "--ulimit",
            text,
            "the soft limit is above the hard limit",
        ));
    }
    Ok(ResourceLimit {
        name: LIMITS[index],
        resource: index as u32,
        soft,
        hard,
    })
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal by name (with or without SIG, also RTMIN+n and RTMAX-n) or number.
pub fn signal(option: &str, text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The C libraries keep 32 and 33 (glibc also 34) for themselves; 34 is the SIGRTMIN of systemd's SIGRTMIN+3.
    let real_time = |base: i32, rest: &str| match rest.as_bytes() {
        [] => Some(base),
        [b'+' | b'-', ..] => rest
            .parse()
            .ok()
            .and_then(|offset| base.checked_add(offset)),
        _ => None,
    };
    let number = if let Some(index) = SIGNALS.iter().position(|known| *known == name) {
        Some(index as i32 + 1)
    } else if let Some(rest) = name.strip_prefix("RTMIN") {
        real_time(34, rest).filter(|number| *number >= 34)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        real_time(64, rest).filter(|number| *number >= 34)
    } else {
        text.parse().ok()
    };
    number
        .filter(|number| (1..=64).contains(number))
        .ok_or_else(|| invalid(option, text, "unknown signal"))
}

/// `USER[:GROUP]`, each a name or a number.
pub fn user(text: &str) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let bad = |part: &str| {
        part.is_empty()
            || part.contains(['\n', ':', ','])
            || part
                .parse::<u64>()
                .is_ok_and(|number| number >= u64::from(u32::MAX))
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
        return Err(Error::new(format!(
            "{option} {}: not KEY=VALUE",
            quote(text)
        )));
    }
    let value = value
        .or_else(|| std::env::var_os(OsString::from_vec(key.to_vec())).map(OsStringExt::into_vec));
    Ok(value.map(|value| (key.to_vec(), value)))
}

/// A file of variables, one a line; empty lines and lines that begin with `#` are passed over.
pub fn environment_file(path: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let text = std::fs::read(path).map_err(|error| Error::io("--env-file open", path, &error))?;
    let lines = text
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines
        .filter(|line| !line.trim_ascii().is_empty() && !line.trim_ascii_start().starts_with(b"#"))
        .filter_map(|line| variable("--env-file", line.trim_ascii_start()).transpose())
        .collect()
}

/// A container's name: letters, digits, `_`, `.`, `-`, not beginning with a sign; at most 64 bytes, so that it can
/// be the hostname.
pub fn name(option: &str, text: String) -> Result<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && text.len() <= 64 && text.bytes().all(good) {
        return Ok(text);
    }
    Err(invalid(
        option,
        &text,
        "not a name (1 to 64 letters, digits, \"_\", \".\", \"-\")",
    ))
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

/// An absolute directory in the container.
pub fn workdir(text: &str) -> Result<Vec<u8>> {
    if !text.starts_with('/') {
        return Err(invalid("--workdir", text, "not an absolute path"));
    }
    Ok(text.as_bytes().to_vec())
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
        assert!(good.read_only);
        for (bad, why) in [
            ("/x", "not SRC:DST[:ro]"),
            ("/x:y", "not absolute"),
            ("/x:/a/../b", "\"..\""),
            ("/x:/", "root directory itself"),
            ("/x:/proc/sys", "mini mounts"),
            ("/x:/y:zz", "unknown mode"),
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
}
