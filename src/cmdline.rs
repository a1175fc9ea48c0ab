//! The parameters of the kernel's command line that are meant for mini as the machine's PID 1, and finding the file systems
//! they name. Entries: [`parse`], [`device`]. proc(5) /proc/cmdline; bootparam(7).
//!
//!     mini.image=PATH|DEVICE mini.args="OPTIONS of run" mini.cmd="CMD"    one container, or
//!     mini.boot=FILE                                                      a boot file (default: /etc/mini.boot)
//!     mini.exit=poweroff|reboot|halt|shell                                when nothing is left to run
//!     mini.mount=DEVICE:DIR[:TYPE[:OPTION,...]]                           repeatable
//!     mini.hostname=NAME                                                  (default: what is in /etc/hostname)
//!
//! DEVICE is a path, LABEL=… or UUID=…. As the kernel has it, `"` keeps blanks together and cannot be escaped; within, words
//! are as in a boot file.
//!
//! Superblocks: Linux's Documentation/filesystems/ext4/super.rst, fs/erofs/erofs_fs.h. A squashfs has neither label nor UUID.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;

use container::sys;

use crate::boot;
use crate::error::{Error, Result, error};
use crate::image::archive::filesystem;
use crate::spec::{self, invalid};
use crate::store::names;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pub image: Option<String>,
    pub arguments: Vec<Vec<u8>>,
    pub command: Vec<Vec<u8>>,
    pub boot: Option<PathBuf>,
    pub exit: Exit,
    pub mounts: Vec<Mount>,
    pub hostname: Option<String>,
}

/// What the machine does in the end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    #[default]
    Poweroff,
    Reboot,
    Halt,
    /// A shell on the console first, then as `Poweroff`.
    Shell,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    pub device: String,
    /// Absolute.
    pub directory: String,
    /// `None`: what its superblock says.
    pub fstype: Option<String>,
    /// `MS_*`
    pub flags: u32,
    /// Options of the file system itself.
    pub data: String,
}

/// The parameters in a command line, and what is wrong with those that cannot be used.
pub fn parse(line: &str) -> (Parameters, Vec<Error>) {
    let (mut parameters, mut errors) = (Parameters::default(), Vec::new());
    let mut quoted = false;
    let words = line.trim_ascii().split(|c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    });
    for word in words {
        // What comes behind "--" is for programs that the kernel starts.
        if word == "--" {
            break;
        }
        let plain = word.replace('"', "");
        if let Some(parameter) = plain.strip_prefix("mini.")
            && let Err(error) = parameters.set(parameter)
        {
            errors.push(error);
        }
    }
    let words = !(parameters.arguments.is_empty() && parameters.command.is_empty());
    if words && parameters.image.is_none() {
        errors.push(Error::new("mini.cmd, mini.args: without mini.image"));
    }
    if parameters.boot.is_some() && parameters.image.is_some() {
        errors.push(Error::new("mini.boot: not with mini.image"));
    }
    (parameters, errors)
}

impl Parameters {
    fn set(&mut self, parameter: &str) -> Result<()> {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            _ if value.is_empty() => return Err(error!("mini.{key}: no value")),
            "image" => self.image = Some(value.to_owned()),
            "args" => self.arguments = words(parameter, value)?,
            "cmd" => self.command = words(parameter, value)?,
            "boot" => self.boot = Some(value.into()),
            "hostname" => self.hostname = Some(spec::name("mini.hostname", value)?),
            "mount" => self.mounts.push(mount(value)?),
            "exit" => {
                self.exit = match value {
                    "poweroff" => Exit::Poweroff,
                    "reboot" => Exit::Reboot,
                    "halt" => Exit::Halt,
                    "shell" => Exit::Shell,
                    _ => {
                        let what = "not poweroff, reboot, halt or shell";
                        return Err(invalid("mini.exit", value, what));
                    }
                }
            }
            _ => return Err(error!("mini.{key}: no such parameter")),
        }
        Ok(())
    }
}

fn words(parameter: &str, value: &str) -> Result<Vec<Vec<u8>>> {
    match boot::split(value.as_bytes()).pop() {
        Some((_, words)) => words.map_err(|why| error!("mini.{parameter}: {why}")),
        None => Ok(Vec::new()),
    }
}

/// `DEVICE:DIR[:TYPE[:OPTION,...]]`
fn mount(text: &str) -> Result<Mount> {
    let bad = |what| Err(invalid("mini.mount", text, what));
    let mut parts = text.splitn(4, ':');
    let (Some(device), Some(directory)) = (parts.next(), parts.next()) else {
        return bad("not DEVICE:DIR[:TYPE[:OPTION,...]]");
    };
    if device.is_empty() {
        return bad("no DEVICE");
    }
    if !directory.starts_with('/') {
        return bad("DIR is not absolute");
    }
    let fstype = parts.next().filter(|fstype| !fstype.is_empty());
    let (mut flags, mut data) = (0, Vec::new());
    for option in parts.next().unwrap_or_default().split(',') {
        match option {
            "" | "rw" | "defaults" => {}
            "ro" => flags |= raw::MS_RDONLY,
            "nosuid" => flags |= raw::MS_NOSUID,
            "nodev" => flags |= raw::MS_NODEV,
            "noexec" => flags |= raw::MS_NOEXEC,
            "noatime" => flags |= raw::MS_NOATIME,
            other => data.push(other),
        }
    }
    Ok(Mount {
        device: device.to_owned(),
        directory: directory.to_owned(),
        fstype: fstype.map(str::to_owned),
        flags,
        data: data.join(","),
    })
}

/// How long a device may take to appear, and how often it is looked for.
const PATIENCE: u64 = 10_000_000_000; // nanoseconds
const INTERVAL: u64 = 50_000_000;

/// The path of a device, and the type of the file system on it; waits until it is there.
pub fn device(name: &str) -> Result<(PathBuf, Option<&'static str>)> {
    let now = || sys::clock(raw::CLOCK_MONOTONIC);
    let end = now() + PATIENCE;
    loop {
        let found = match name.split_once('=').filter(|_| !name.starts_with('/')) {
            Some((key @ ("LABEL" | "UUID"), wanted)) => {
                let all = names(Path::new("/sys/class/block")).into_iter();
                // What is below a directory of /dev has ! for its slash.
                let mut all = all.map(|name| Path::new("/dev").join(name.replace('!', "/")));
                all.find(|path| superblock(path).is_some_and(|found| found.is(key, wanted)))
            }
            _ => Some(PathBuf::from(name)).filter(|path| path.exists()),
        };
        if let Some(path) = found {
            let fstype = superblock(&path).map(|found| found.fstype);
            return Ok((path, fstype));
        }
        if now() >= end {
            return Err(error!("{name}: no such device after 10 s"));
        }
        // No signal ends it.
        let _ = sys::wait_signal(0, Some(INTERVAL));
    }
}

/// What a file system says about itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Superblock {
    pub fstype: &'static str,
    label: Vec<u8>,
    uuid: Vec<u8>,
}

impl Superblock {
    fn is(&self, key: &str, wanted: &str) -> bool {
        if key == "LABEL" {
            return !wanted.is_empty() && self.label == wanted.as_bytes();
        }
        let hex: String = self.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        !hex.is_empty() && wanted.replace('-', "").eq_ignore_ascii_case(&hex)
    }
}

fn superblock(device: &Path) -> Option<Superblock> {
    let mut start = [0; 2048];
    File::open(device).ok()?.read_exact_at(&mut start, 0).ok()?;
    identify(&start)
}

/// The superblock in the first 2,048 bytes of a device.
fn identify(start: &[u8]) -> Option<Superblock> {
    let fstype = filesystem(start)?.to_str().ok()?;
    let (uuid, label) = match fstype {
        "ext4" => (1024 + 104, 1024 + 120),
        "erofs" => (1024 + 48, 1024 + 64),
        _ => (0, 0),
    };
    let field = |offset: usize| match offset {
        0 => &[],
        _ => start.get(offset..offset + 16).unwrap_or_default(),
    };
    let label = field(label).split(|byte| *byte == 0).next();
    Some(Superblock {
        fstype,
        label: label.unwrap_or_default().to_vec(),
        uuid: field(uuid).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_command_line() {
        let line = "quiet console=ttyS0 mini.image=/x.tar mini.cmd=\"sh -c 'echo a  b'\" mini.args=-t \
                    mini.mount=LABEL=data:/data mini.mount=/dev/vda:/b:ext4:ro,nosuid,journal=x,y \
                    \"mini.hostname=edge\" mini.exit=reboot -- mini.exit=halt\n";
        let (found, errors) = parse(line);
        assert!(errors.is_empty());
        let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let data = Mount {
            device: "LABEL=data".into(),
            directory: "/data".into(),
            fstype: None,
            flags: 0,
            data: String::new(),
        };
        let disk = Mount {
            device: "/dev/vda".into(),
            directory: "/b".into(),
            fstype: Some("ext4".into()),
            flags: raw::MS_RDONLY | raw::MS_NOSUID,
            data: "journal=x,y".into(),
        };
        let expected = Parameters {
            image: Some("/x.tar".into()),
            arguments: words(&["-t"]),
            command: words(&["sh", "-c", "echo a  b"]),
            boot: None,
            exit: Exit::Reboot,
            mounts: vec![data, disk],
            hostname: Some("edge".into()),
        };
        assert_eq!(found, expected);
        assert_eq!(parse("").0, Parameters::default());
    }

    #[test]
    fn what_cannot_be_used_is_named_and_the_rest_counts() {
        for (bad, why) in [
            (
                "mini.exit=x",
                "mini.exit \"x\": not poweroff, reboot, halt or shell",
            ),
            ("mini.exit", "mini.exit: no value"),
            ("mini.bogus=1", "mini.bogus: no such parameter"),
            (
                "mini.mount=/dev/vda",
                "mini.mount \"/dev/vda\": not DEVICE:DIR[:TYPE[:OPTION,...]]",
            ),
            ("mini.mount=a:b", "mini.mount \"a:b\": DIR is not absolute"),
            ("mini.cmd='a", "mini.cmd='a: a quote is not closed"),
            ("mini.hostname=-", "mini.hostname \"-\": not a name"),
        ] {
            let (found, errors) = parse(&format!("mini.boot=/b {bad}"));
            assert_eq!(found.boot.as_deref(), Some(Path::new("/b")));
            assert!(
                errors.len() == 1 && errors[0].starts_with(why),
                "{bad}: {errors:?}"
            );
        }
    }

    #[test]
    fn superblocks() {
        let mut start = [0; 2048];
        assert_eq!(identify(&start), None);
        let uuid = "01234567-89ab-cdef-0123-456789ABCDEF";
        let bytes: Vec<u8> = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].repeat(2);
        for (magic_at, magic, fstype, uuid_at, label_at) in [
            (1024, &0xe0f5_e1e2u32.to_le_bytes()[..], "erofs", 1072, 1088),
            (1080, &[0x53, 0xef], "ext4", 1128, 1144),
        ] {
            start = [0; 2048];
            start[magic_at..magic_at + magic.len()].copy_from_slice(magic);
            start[uuid_at..uuid_at + 16].copy_from_slice(&bytes);
            start[label_at..label_at + 4].copy_from_slice(b"data");
            let found = identify(&start).unwrap();
            assert_eq!(found.fstype, fstype);
            assert!(found.is("UUID", uuid) && found.is("LABEL", "data"));
            assert!(!found.is("UUID", "") && !found.is("LABEL", "") && !found.is("LABEL", "dat"));
        }
        start = [0; 2048];
        start[..4].copy_from_slice(b"hsqs");
        let found = identify(&start).unwrap();
        assert_eq!(found.fstype, "squashfs");
        assert!(!found.is("UUID", "") && !found.is("LABEL", ""));
    }
}
