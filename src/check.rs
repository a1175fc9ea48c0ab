//! `mini check`: what this kernel offers, and what would become of a `mini run`. Entry: [`run`].
//!
//! Nothing is concluded from version numbers: a row is tried in a process of its own (fork), which has its own mounts and
//! namespaces and ends at once; for a command line only what it uses, which its plan tells ([`whole_plan`]). Then a whole container is set up, from the command line given or else with the defaults
//! from a small archive, up to and without the execve of its command ([`rehearse`]): that is what `mini run`
//! does, so it cannot say anything else.
//!
//! Exit status: 0 if it works with every protection, 1 if something is left out, 2 if it does not work.
//!
//! Left out: features that only options need and whose absence their error explains.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags, mkdir, openat, setxattr};
use rustix::io::{Errno, Result as Io};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, chdir, waitpid};

use container::step::CLONE_FLAGS;
use container::sys;

use crate::cgroup;
use crate::cli::Action;
use crate::error::{Error, Result, reason};
use crate::explain::namespace_hint;
use crate::host;
use crate::image::Layer;
use crate::layers::{Layers, resolve, tar};
use crate::output::{join, string};
use crate::plan::{Stack, leak, plan};
use crate::run::rehearse;
use crate::spec::Spec;
use crate::store::names;
use crate::userns;

/// The features; behind a colon what mini does without each and what it takes to have it; behind a tilde by which words, or
/// others, a plan shows that it uses it, unless every plan does.
const FEATURES: [&str; 34] = [
    "clone3: clone does it (Linux 5.3)",
    "openat2: paths in images are walked, one component at a time (Linux 5.6)",
    "close_range: /proc/self/fd is used (Linux 5.9)",
    "pidfd_open: containers do not share an image's mount (Linux 5.3) ~ , \"image0\"",
    "open_tree: no idmapped mounts, and images' mounts are not shared (Linux 5.2) ~ open_tree|, \"image0\"",
    "mount_setattr: no idmapped mounts (Linux 5.12) ~ mount_setattr",
    "memfd_create: with --userns host mini's binary is within reach (Linux 3.17) ~ memfd_create",
    "user namespace: root inside is root outside (CONFIG_USER_NS) ~ CLONE_NEWUSER",
    "mount namespace: nothing works (CONFIG_NAMESPACES) ~ CLONE_NEWNS",
    "pid namespace: only --pid host works (CONFIG_PID_NS) ~ CLONE_NEWPID",
    "network namespace: only --net host works (CONFIG_NET_NS) ~ CLONE_NEWNET",
    "ipc namespace: only --ipc host works (CONFIG_IPC_NS) ~ CLONE_NEWIPC",
    "uts namespace: only --uts host works (CONFIG_UTS_NS) ~ CLONE_NEWUTS",
    "cgroup namespace: the host's cgroup paths are visible (CONFIG_CGROUPS, Linux 4.6) ~ CLONE_NEWCGROUP",
    "time namespace: no --time (CONFIG_TIME_NS, Linux 5.6) ~ CLONE_NEWTIME",
    "filter of system calls: all are allowed (CONFIG_SECCOMP_FILTER) ~ seccomp(",
    "keyrings: there are no keys (CONFIG_KEYS)",
    "overlay: archives only, unpacked for each container (CONFIG_OVERLAY_FS) ~ \"overlay\"",
    "overlay in a user namespace: with a directory root inside is root outside (Linux 5.11) ~ userxattr",
    "user attributes on tmpfs: changes go to disk (Linux 6.6) ~ own/work,userxattr",
    "idmapped tmpfs: --store tmpfs is unpacked for the container's ids (Linux 6.3) ~ image0\", \"tmpfs\"",
    "erofs: no erofs images, and archives are unpacked (CONFIG_EROFS_FS) ~ \"erofs\"",
    "archives as they lie: they are unpacked (Linux 6.4, CONFIG_EROFS_FS, root) ~ index(",
    "squashfs: no squashfs images (CONFIG_SQUASHFS) ~ \"squashfs\"",
    "ext4: no ext4 images (CONFIG_EXT4_FS) ~ \"ext4\"",
    "loop devices: no squashfs and ext4 images in files (CONFIG_BLK_DEV_LOOP) ~ LOOP_CONFIGURE",
    "devpts: nothing works (CONFIG_UNIX98_PTYS)",
    "message queues: no /dev/mqueue (CONFIG_POSIX_MQUEUE) ~ \"mqueue\"",
    "sysfs: nothing works (CONFIG_SYSFS) ~ \"sysfs\"",
    "pids controller: no limit of processes (CONFIG_CGROUP_PIDS) ~ /pids.max",
    "memory controller: no --memory (CONFIG_MEMCG) ~ /memory.max|/memory.limit",
    "cpu controller: no --cpus (CONFIG_CFS_BANDWIDTH) ~ /cpu.max|/cpu.cfs",
    "cpuset controller: no --cpuset (CONFIG_CPUSETS) ~ /cpuset.cpus",
    "io controller: no --io-max (CONFIG_BLK_DEV_THROTTLING) ~ /io.max|/blkio",
];

/// Tries one of them, which plans show by these words.
fn probe(feature: &str, words: &str) -> Io<()> {
    match feature {
        "clone3" => sys::has_call(raw::__NR_clone3),
        "openat2" => sys::has_call(raw::__NR_openat2),
        "close_range" => sys::has_call(raw::__NR_close_range),
        "pidfd_open" => sys::has_call(raw::__NR_pidfd_open),
        "open_tree" => sys::has_call(raw::__NR_open_tree),
        "mount_setattr" => sys::has_call(raw::__NR_mount_setattr),
        "memfd_create" => sys::has_call(raw::__NR_memfd_create),
        "filter of system calls" => sys::has_seccomp().then_some(()).ok_or(Errno::INVAL),
        "keyrings" => sys::join_session_keyring(),
        "overlay" => scratch().and_then(|()| overlay("")),
        "overlay in a user namespace" => inside()
            .and_then(|()| cover())
            .and_then(|()| overlay(",userxattr")),
        "user attributes on tmpfs" => attributes(),
        "idmapped tmpfs" => idmap(),
        "archives as they lie" => indexed(),
        "erofs" | "squashfs" | "ext4" => disk(feature),
        "loop devices" => loops(),
        "devpts" | "sysfs" => fresh(feature),
        "pids controller" => cgroup("--pids-limit=9"),
        "memory controller" => cgroup("--memory=9m"),
        "cpu controller" => cgroup("--cpus=0.5"),
        "cpuset controller" => cgroup("--cpuset=0"),
        "io controller" => {
            let disks = Path::new("/sys/block");
            let disk = names(disks).into_iter().next().ok_or(Errno::NODEV)?;
            let number = cgroup::read(&disks.join(disk).join("dev"));
            cgroup(&format!("--io-max={number}:rbps=9m"))
        }
        "message queues" => fresh("mqueue"),
        _ => namespace(flag(words)),
    }
}

/// The `CLONE_*` flag of this name; 0 if it is none.
fn flag(name: &str) -> u32 {
    let mut flags = CLONE_FLAGS.iter();
    let found = flags.find(|(_, known)| *known == name);
    found.map_or(0, |(flag, _)| *flag as u32)
}

/// A container's plan, as text, on this machine with a kernel that lacks nothing: what is in it, it uses.
fn whole_plan(spec: &Spec) -> Result<String> {
    let mut host = host::probe(spec)?;
    // What has to be read through to be told is an archive.
    let image = resolve(spec, &host, None, true).map(|(image, _)| image);
    let image = image.unwrap_or_else(|_| Layer::Tar(tar(Path::new("-"))).into());
    (host.version, host.namespaces, host.seccomp) = ((99, 0), u32::MAX, true);
    (host.overlay, host.mqueue, host.mount_setattr) = (true, true, true);
    if host.privileged {
        (host.no_index, host.idmap.image, host.idmap.store) = (None, true, true);
    }
    host.look_at(image.layers);
    Ok(plan(&spec.clone().complete(&image.config)?, &host)?.lines())
}

/// A feature with what happens without it, and if it is not there why not.
type Row = (&'static str, Option<Error>);

/// Prints the table, and what becomes of `spec`; returns the status to exit with.
pub fn run(spec: Option<Spec>, json: bool) -> Result<u8> {
    // Why there is none is told below.
    let plan = (spec.as_ref()).map(|spec| whole_plan(spec).unwrap_or_default());
    let host = crate::cli::plain().and_then(|spec| host::probe(&spec));
    let mut features = Vec::new();
    for row in FEATURES {
        let (row, words) = row.split_once(" ~ ").unwrap_or((row, ""));
        let used = |plan: &String| words.split('|').any(|word| plan.contains(word));
        if plan.as_ref().is_none_or(used) {
            let missing = attempt(|| probe(parts(row).0, words)).err();
            let why = missing.map(|errno| {
                let hint = match (flag(words), &host) {
                    (flag, Ok(host)) if flag != 0 => namespace_hint(errno, flag, host),
                    _ => "",
                };
                Error::new(reason(errno)).hint(hint)
            });
            features.push((row, why));
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

fn as_text(features: &[Row], rehearsed: &Result<Vec<String>>) -> String {
    let mut text = String::new();
    for (row, why) in features {
        match why {
            None => text.extend(["yes  ", parts(row).0, "\n"]),
            Some(why) => text.extend(["no   ", row, ": ", why, "\n"]),
        }
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

fn parts(row: &str) -> (&str, &str) {
    row.split_once(": ").unwrap_or((row, ""))
}

fn as_json(features: &[Row], rehearsed: &Result<Vec<String>>) -> String {
    let (text, null) = (|text: &str| string(text.as_bytes()), || "null".to_owned());
    let features = features.iter().map(|(row, why)| {
        let (feature, without) = parts(row);
        let (feature, without, present) = (text(feature), text(without), why.is_none());
        let why = why.as_ref().map_or_else(null, |why| text(why));
        format!(
            "{{\"feature\":{feature},\"present\":{present},\"without\":{without},\"why\":{why}}}"
        )
    });
    let (left_out, error) = match rehearsed {
        Ok(notes) => (notes.iter().map(|note| text(note)).collect(), null()),
        Err(error) => (Vec::new(), text(error)),
    };
    let list = |items: Vec<String>| join(["[", "]"], &items);
    let (features, left_out) = (list(features.collect()), list(left_out));
    format!("{{\"features\":{features},\"left_out\":{left_out},\"error\":{error}}}\n")
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

fn namespace(flag: u32) -> Io<()> {
    match flag {
        raw::CLONE_NEWUSER => sys::unshare(flag),
        _ => enter().and_then(|()| sys::unshare(flag)),
    }
}

/// As a run does it, of the small archive, in the store.
fn indexed() -> Io<()> {
    scratch()?;
    mkdir("image0", Mode::RWXU)?;
    let indexed = small_image().and_then(|spec| {
        let mut host = host::probe(&spec)?;
        if host.cover.take().is_some() {
            // On a read-only machine it is in memory, as this is.
            host.store = "/../l".into();
        }
        if let Some(why) = host.no_index {
            // The kernel may have what a run does not look for.
            return Err(Error::new(why));
        }
        resolve(&spec, &host, None, false)?;
        let tars = vec![tar(Path::new("-"))];
        let (layered, above) = (false, None);
        let stack = Stack {
            tars,
            layered,
            above,
        };
        Layers::new(&spec, &host, None).index(&stack, 0)
    });
    match indexed {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// A cgroup with this limit, as a container would have it.
fn cgroup(option: &str) -> Io<()> {
    let words = ["run", option, "-"].map(Into::into);
    let parsed = crate::cli::parse(words.to_vec());
    let Ok(Action::Run { spec, .. }) = parsed else {
        return Err(Errno::INVAL);
    };
    let choice = host::probe(&spec)
        .and_then(|host| cgroup::choose(&spec.resources, &host.cgroups, &host.id));
    let mut made = Ok(());
    for group in choice.map_err(|_| Errno::NODEV)?.groups {
        // What is not in use as yet is not begun for a trial.
        if group.enable.is_some() {
            continue;
        }
        made = made.and(mkdir(leak(group.path.as_os_str().as_bytes()), Mode::RWXU));
        for file in group.files.iter().filter(|file| !file.optional) {
            made = made.and_then(|()| cgroup::write(&file.path, &file.text));
        }
        cgroup::remove(&group.path);
    }
    made
}

/// A file system that needs nothing below it.
fn fresh(fstype: &str) -> Io<()> {
    scratch()?;
    let _ = sys::unshare(raw::CLONE_NEWIPC | raw::CLONE_NEWNET);
    mount(fstype, "m", "")
}

/// A file system on a block device: that there is none is what the kernel should say.
fn disk(fstype: &str) -> Io<()> {
    match scratch().and_then(|()| mount(fstype, "m", "")) {
        Err(errno @ (Errno::NODEV | Errno::PERM)) => Err(errno),
        _ => Ok(()),
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

fn overlay(option: &str) -> Io<()> {
    mount(
        "overlay",
        "m",
        &format!("lowerdir=l,upperdir=u,workdir=w{option}"),
    )
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
    // POSIX pax, ustar: name, mode, uid, gid, size, mtime, sum (its own field counts as blanks), type, magic.
    let (zero, long) = ("0000000\0", "00000000000\0");
    let numbers = ["0000755\0", zero, zero, long, long, "        5"].concat();
    for (offset, text) in [(0, "etc/"), (100, &numbers), (257, "ustar\x0000")] {
        header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    }
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
        let features = [(0, None), (17, Some("No such device".into()))]
            .map(|(index, why)| (FEATURES[index].split(" ~ ").next().unwrap(), why));
        assert_eq!(
            as_text(&features, &Ok(vec!["a".into(), "b".into()])),
            "yes  clone3\n\
             no   overlay: archives only, unpacked for each container (CONFIG_OVERLAY_FS): No such device\n\
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
            "{\"features\":[],\"left_out\":[\"\\u001b\\u000a\"],\"error\":null}\n"
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
