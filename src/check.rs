//! `mini check`: what this kernel offers, and what would become of a `mini run`. Entry: [`run`].
//!
//! Nothing is concluded from version numbers: each row is tried in a process of its own (fork), which has its own mounts and
//! namespaces and ends at once. Then a whole container is set up, from the command line given or else with the defaults
//! from a small archive, up to and without the execve of its command ([`rehearse`]): that is what `mini run`
//! does, so it cannot say anything else.
//!
//! Exit status: 0 if it works with every protection, 1 if something is left out, 2 if it does not work.
//!
//! Left out: features that only options need and whose absence their error explains.

use std::io::Write;

use linux_raw_sys::general as raw;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags, mkdir, openat, setxattr};
use rustix::io::{Errno, Result as Io};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, chdir, waitpid};

use container::sys;

use crate::error::{Error, Result, quote, reason};
use crate::plan::leak;
use crate::run::rehearse;
use crate::spec::Spec;
use crate::userns;

/// A feature of the kernel, what mini does without it, and what it takes to have it.
struct Row {
    feature: &'static str,
    without: &'static str,
    needs: &'static str,
    probe: Probe,
}

enum Probe {
    /// A system call.
    Call(u32),
    /// A namespace (`CLONE_NEW*`).
    Namespace(u32),
    /// A type of file system that needs nothing below it.
    Mount(&'static str),
    /// One on a block device: there is none, and that is what the kernel should say.
    Disk(&'static str),
    Other(fn() -> Io<()>),
}

const fn row(
    feature: &'static str,
    without: &'static str,
    needs: &'static str,
    probe: Probe,
) -> Row {
    Row {
        feature,
        without,
        needs,
        probe,
    }
}

use Probe::{Call, Disk, Mount, Namespace, Other};

const ROWS: [Row; 28] = [
    row("clone3", "clone", "Linux 5.3", Call(raw::__NR_clone3)),
    row(
        "openat2",
        "paths in images: one component at a time",
        "Linux 5.6",
        Call(raw::__NR_openat2),
    ),
    row(
        "close_range",
        "descriptors are closed one by one",
        "Linux 5.9",
        Call(raw::__NR_close_range),
    ),
    row(
        "pidfd_open",
        "containers do not share an image's mount",
        "Linux 5.3",
        Call(raw::__NR_pidfd_open),
    ),
    row(
        "open_tree",
        "containers do not share an image's mount",
        "Linux 5.2",
        Call(raw::__NR_open_tree),
    ),
    row(
        "mount_setattr",
        "no idmapped mounts; volumes come without what is mounted below",
        "Linux 5.12",
        Call(raw::__NR_mount_setattr),
    ),
    row(
        "memfd_create",
        "with --userns host mini's binary is within reach",
        "Linux 3.17",
        Call(raw::__NR_memfd_create),
    ),
    row(
        "user namespace",
        "root inside is root outside",
        "CONFIG_USER_NS",
        Namespace(raw::CLONE_NEWUSER),
    ),
    row(
        "mount namespace",
        "nothing works",
        "CONFIG_NAMESPACES",
        Namespace(raw::CLONE_NEWNS),
    ),
    row(
        "pid namespace",
        "only --pid host works",
        "CONFIG_PID_NS",
        Namespace(raw::CLONE_NEWPID),
    ),
    row(
        "network namespace",
        "only --net host works",
        "CONFIG_NET_NS",
        Namespace(raw::CLONE_NEWNET),
    ),
    row(
        "ipc namespace",
        "only --ipc host works",
        "CONFIG_IPC_NS",
        Namespace(raw::CLONE_NEWIPC),
    ),
    row(
        "uts namespace",
        "only --uts host works",
        "CONFIG_UTS_NS",
        Namespace(raw::CLONE_NEWUTS),
    ),
    row(
        "cgroup namespace",
        "the host's cgroup paths can be seen",
        "CONFIG_CGROUPS, Linux 4.6",
        Namespace(raw::CLONE_NEWCGROUP),
    ),
    row(
        "time namespace",
        "no --time",
        "CONFIG_TIME_NS, Linux 5.6",
        Namespace(raw::CLONE_NEWTIME),
    ),
    row(
        "filter of system calls",
        "system calls are not filtered",
        "CONFIG_SECCOMP_FILTER",
        Other(seccomp),
    ),
    row(
        "keyrings",
        "there are no keys to protect",
        "CONFIG_KEYS",
        Other(sys::join_session_keyring),
    ),
    row(
        "overlay",
        "archives only, unpacked for each container",
        "CONFIG_OVERLAY_FS",
        Other(overlay),
    ),
    row(
        "overlay in a user namespace",
        "root inside is root outside, but for archives",
        "Linux 5.11",
        Other(overlay_inside),
    ),
    row(
        "user attributes on tmpfs",
        "the layer above the image is on disk",
        "CONFIG_TMPFS_XATTR, Linux 6.6",
        Other(attributes),
    ),
    row(
        "idmapped tmpfs",
        "--store tmpfs is unpacked for the container's ids",
        "Linux 6.3",
        Other(idmap),
    ),
    row(
        "erofs",
        "archives are unpacked",
        "CONFIG_EROFS_FS",
        Disk("erofs"),
    ),
    row(
        "squashfs",
        "no squashfs images",
        "CONFIG_SQUASHFS",
        Disk("squashfs"),
    ),
    row("ext4", "no ext4 images", "CONFIG_EXT4_FS", Disk("ext4")),
    row(
        "loop devices",
        "no squashfs and ext4 images in files",
        "CONFIG_BLK_DEV_LOOP",
        Other(loops),
    ),
    row(
        "devpts",
        "no terminal",
        "CONFIG_UNIX98_PTYS",
        Mount("devpts"),
    ),
    row(
        "message queues",
        "no /dev/mqueue",
        "CONFIG_POSIX_MQUEUE",
        Mount("mqueue"),
    ),
    row("sysfs", "nothing works", "CONFIG_SYSFS", Mount("sysfs")),
];

/// Prints the table, and what becomes of `spec`; returns the status to exit with.
pub fn run(spec: Option<Spec>, json: bool) -> Result<u8> {
    let mut features = Vec::new();
    if spec.is_none() {
        for row in &ROWS {
            features.push((row, attempt(|| row.probe.make())));
        }
    }
    let rehearsed = match spec {
        Some(spec) => rehearse(spec),
        None => small_image().and_then(rehearse),
    };
    let text = match json {
        true => as_json(&features, &rehearsed),
        false => as_text(&features, &rehearsed),
    };
    (std::io::stdout().write_all(text.as_bytes()))
        .map_err(|error| Error::io("write", "standard output", error))?;
    Ok(match rehearsed {
        Ok(notes) if notes.is_empty() => 0,
        Ok(_) => 1,
        Err(_) => 2,
    })
}

fn as_text(features: &[(&Row, Io<()>)], rehearsed: &Result<Vec<String>>) -> String {
    let mut text = String::new();
    for (row, found) in features {
        let Row {
            feature,
            without,
            needs,
            ..
        } = row;
        text += &match found {
            Ok(()) => format!("yes  {feature}\n"),
            Err(errno) => format!("no   {feature}: {without} ({needs}; {})\n", reason(*errno)),
        };
    }
    match rehearsed {
        Ok(notes) if notes.is_empty() => text += "mini run works, nothing is left out\n",
        Ok(notes) => {
            text += "mini run works, but:\n";
            notes
                .iter()
                .for_each(|note| text.extend(["  ", note, "\n"]));
        }
        Err(error) => text.extend(["mini run fails: ", error, "\n"]),
    }
    text
}

fn as_json(features: &[(&Row, Io<()>)], rehearsed: &Result<Vec<String>>) -> String {
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let features = features.iter().map(|(row, found)| {
        let (feature, present) = (json(row.feature), found.is_ok());
        let (without, needs) = (json(row.without), json(row.needs));
        format!("{{\"feature\":{feature},\"present\":{present},\"without\":{without},\"needs\":{needs}}}")
    });
    let (left_out, error) = match rehearsed {
        Ok(notes) => (
            notes.iter().map(|note| json(note)).collect(),
            "null".to_owned(),
        ),
        Err(error) => (Vec::new(), json(error)),
    };
    let (features, left_out) = (list(features.collect()), list(left_out));
    format!("{{\"features\":{features},\"left_out\":{left_out},\"error\":{error}}}\n")
}

/// A string as JSON has it; what JSON has no letter for came out of [`quote`] as `\u{…}` or `\x…`, and is spelled out.
fn json(text: &str) -> String {
    quote(text.as_bytes())
        .replace("\\u{", "\\\\u{")
        .replace("\\x", "\\\\x")
}

/// Does something in a process of its own.
fn attempt(work: impl FnOnce() -> Io<()>) -> Io<()> {
    let child = sys::clone(0, || work().map_or_else(Errno::raw_os_error, |()| 0))?;
    let status = waitpid(Some(child), WaitOptions::empty())?;
    // Every errno that there is fits in an exit status.
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(errno) => Err(Errno::from_raw_os_error(errno)),
        None => Err(Errno::INTR),
    }
}

impl Probe {
    fn make(&self) -> Io<()> {
        match self {
            Call(number) => sys::has_call(*number),
            Namespace(raw::CLONE_NEWUSER) => sys::unshare(raw::CLONE_NEWUSER),
            Namespace(flag) => enter().and_then(|()| sys::unshare(*flag)),
            Mount(fstype) => {
                scratch()?;
                sys::unshare(raw::CLONE_NEWIPC | raw::CLONE_NEWNET)?;
                mount(fstype, "m", "")
            }
            Disk(fstype) => match scratch().and_then(|()| mount(fstype, "m", "")) {
                Err(errno @ (Errno::NODEV | Errno::PERM)) => Err(errno),
                _ => Ok(()),
            },
            Other(probe) => probe(),
        }
    }
}

/// Without root: becomes root of a user namespace.
fn enter() -> Io<()> {
    match sys::unshare(raw::CLONE_NEWNS) {
        Err(Errno::PERM) => inside(),
        result => result,
    }
}

/// Becomes root of a user namespace with a single id.
fn inside() -> Io<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    sys::unshare(raw::CLONE_NEWUSER | raw::CLONE_NEWNS)?;
    let write = |name: &str, text: String| {
        let written = std::fs::write(format!("/proc/self/{name}"), text);
        written.map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(0)))
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}

/// Goes to an empty directory in memory, below which there are some more; nobody else sees it.
fn scratch() -> Io<()> {
    enter().and_then(|()| cover())
}

fn cover() -> Io<()> {
    let flags = raw::MS_REC | raw::MS_PRIVATE;
    sys::mount(None, c"/", None, flags, None)?;
    mount("tmpfs", "/", "")?;
    chdir(c"/..")?;
    ["l", "u", "w", "m"]
        .into_iter()
        .try_for_each(|name| mkdir(name, Mode::RWXU))
}

fn mount(fstype: &str, at: &str, options: &str) -> Io<()> {
    let fstype = leak(fstype);
    sys::mount(Some(fstype), leak(at), Some(fstype), 0, Some(leak(options)))
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);

fn seccomp() -> Io<()> {
    match sys::has_seccomp() {
        true => Ok(()),
        false => Err(Errno::INVAL),
    }
}

fn overlay() -> Io<()> {
    scratch()?;
    mount("overlay", "m", "lowerdir=l,upperdir=u,workdir=w")
}

fn overlay_inside() -> Io<()> {
    inside()?;
    cover()?;
    mount("overlay", "m", "lowerdir=l,upperdir=u,workdir=w,userxattr")
}

fn attributes() -> Io<()> {
    scratch()?;
    setxattr("m", "user.mini", b"x", XattrFlags::empty())
}

/// With the user namespace of a process that is there for this alone.
fn idmap() -> Io<()> {
    let child = sys::clone(raw::CLONE_NEWUSER, || {
        sys::wait_signal(0, None).unwrap_or(0)
    })?;
    let number = child.as_raw_pid();
    let namespace = format!("/proc/{number}/ns/user");
    let namespace = userns::map(child, 0, 1)
        .map_err(|_| Errno::PERM)
        .and_then(|()| openat(CWD, namespace.as_str(), READ, Mode::empty()));
    let result = namespace.and_then(|namespace| {
        scratch()?;
        userns::idmap(c"m", &namespace, false).map(drop)
    });
    let _ = sys::kill(number, raw::SIGKILL as i32);
    result
}

fn loops() -> Io<()> {
    let control = openat(CWD, c"/dev/loop-control", READ, Mode::empty())?;
    sys::free_loop(&control).map(drop)
}

/// The default `mini run`, of an archive with one directory in it, which takes the place of standard input.
fn small_image() -> Result<Spec> {
    let fail = |errno| Error::sys("pipe", "image", errno);
    let mut header = [0; 512];
    let mut field =
        |offset: usize, text: &[u8]| header[offset..offset + text.len()].copy_from_slice(text);
    // POSIX pax, ustar: name, mode, uid, gid, size, mtime, type, magic; the sum counts its own field as blanks.
    field(0, b"etc/");
    field(100, b"0000755");
    field(108, b"0000000");
    field(116, b"0000000");
    field(124, b"00000000000");
    field(136, b"00000000000");
    field(148, b"        ");
    field(156, b"5");
    field(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let (image, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
    for bytes in [&header[..], &[0; 1024]] {
        rustix::io::write(&writer, bytes).map_err(fail)?;
    }
    sys::duplicate(&image, 0).map_err(fail)?;
    crate::cli::plain()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_what_happens_and_what_it_needs() {
        let features = [(&ROWS[0], Ok(())), (&ROWS[17], Err(Errno::NODEV))];
        assert_eq!(
            as_text(&features, &Ok(vec!["a".into(), "b".into()])),
            "yes  clone3\n\
             no   overlay: archives only, unpacked for each container (CONFIG_OVERLAY_FS; No such device)\n\
             mini run works, but:\n  a\n  b\n"
        );
        let failed = Err(Error::new("mount(\"x\"): no"));
        assert_eq!(as_text(&[], &failed), "mini run fails: mount(\"x\"): no\n");
        let json = as_json(&features, &failed);
        let rest = json.strip_prefix("{\"features\":[{\"feature\":\"clone3\",\"present\":true,");
        assert!(
            rest.is_some_and(|rest| rest.contains("\"feature\":\"overlay\",\"present\":false,"))
        );
        assert!(
            json.ends_with("}],\"left_out\":[],\"error\":\"mount(\\\"x\\\"): no\"}\n"),
            "{json}"
        );
        let notes = as_json(&[], &Ok(vec!["\u{1b}\n".into()]));
        assert_eq!(
            notes,
            "{\"features\":[],\"left_out\":[\"\\\\u{1b}\\n\"],\"error\":null}\n"
        );
    }

    #[test]
    fn a_probe_tells_why_and_leaves_this_process_as_it_is() {
        assert_eq!(attempt(|| Err(Errno::NODEV)), Err(Errno::NODEV));
        assert_eq!(attempt(|| Ok(())), Ok(()));
        assert_eq!(sys::has_call(raw::__NR_openat2), Ok(()));
        assert_eq!(sys::has_call(9999), Err(Errno::NOSYS));
    }
}
