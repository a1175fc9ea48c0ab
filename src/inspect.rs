//! `mini inspect`: all that is known of a container, as one JSON document; or for a person, with the ordinary commands that
//! show the same.
//!
//! What was meant comes from the container's record (`state.rs`), what is from proc(5), namespaces(7) and cgroups(7): of
//! its command, the first child of its first process. A document has the same members for every container, with null for what it has not.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;

use crate::cgroup::{self, LIMITS};
use crate::error::{escape, quote};
use crate::output::{join, or_null, string};
use crate::proc;
use crate::protection::{self, Protection};
use crate::record::{RECORD, Record};
use crate::share;
use crate::state;
use crate::store::names;

/// A process of a container.
struct Process {
    pid: i32,
    /// Its number in the container's pid namespace.
    inside: i32,
    parent: i32,
    name: String,
}

/// What is found of a container that runs.
struct Found {
    /// The first is the one that the container was started for.
    processes: Vec<Process>,
    protection: Protection,
    /// Target, type, source and options of each mount.
    mounts: Vec<[String; 4]>,
    /// Files of its cgroups that limit it, and what is in them.
    limits: Vec<(PathBuf, String)>,
    /// Where packets go, as `ip route` has it.
    routes: Vec<String>,
}

impl Found {
    fn of(init: i32, container: &Record) -> Found {
        let cgroups = &state::cgroups(container)[..];
        let mut processes = processes(init, cgroups, share::joined(container).1);
        let first = processes.iter().enumerate();
        let first = first.filter(|(_, it)| it.parent == init);
        let command = first.min_by_key(|(_, it)| it.inside).map(|(at, _)| at);
        let command = command.or_else(|| processes.iter().position(|it| it.pid == init));
        if let Some(at) = command {
            processes[..=at].rotate_right(1);
        }
        let pid = processes.first().map_or(init, |it| it.pid);
        Found {
            protection: protection::of(pid),
            mounts: mounts(pid),
            limits: limits(cgroups),
            routes: routes(pid),
            processes,
        }
    }
}

/// Those in the pid namespace of `init`; where that is the host's or, as `joined` says (`CLONE_NEW*`), another container's,
/// those in the container's cgroups.
fn processes(init: i32, cgroups: &[PathBuf], joined: u32) -> Vec<Process> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let theirs = namespace(&init.to_string());
    let mut members = Vec::new();
    if theirs == namespace("self") || joined & raw::CLONE_NEWPID != 0 {
        members = cgroups
            .first()
            .map_or(Vec::new(), |path| cgroup::tasks(path));
        members.push(init);
    } else {
        let numbers = names(Path::new("/proc")).into_iter();
        let inside = numbers.filter(|pid| theirs.is_some() && namespace(pid) == theirs);
        members.extend(inside.filter_map(|pid| pid.parse::<i32>().ok()));
    }
    members.sort_unstable();
    members.dedup();
    members.into_iter().filter_map(process).collect()
}

fn process(pid: i32) -> Option<Process> {
    let status = proc::read(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let number = |text: &str| text.trim_ascii().parse().ok();
    // One for each namespace, the innermost last (Linux 4.1).
    let inside = field("NSpid:").and_then(|all| number(all.rsplit('\t').next()?));
    Some(Process {
        pid,
        inside: inside.unwrap_or(pid),
        parent: field("PPid:").and_then(number).unwrap_or(0),
        name: field("Name:\t").unwrap_or_default().to_owned(),
    })
}

fn mounts(pid: i32) -> Vec<[String; 4]> {
    let text = proc::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(4);
        let (target, options) = (front.next()?, front.next()?);
        let mut back = back.splitn(3, ' ');
        let (kind, source) = (back.next()?, back.next()?);
        Some([target, kind, source, options].map(str::to_owned))
    };
    text.lines().filter_map(mount).collect()
}

/// The routes of the IPv4 main table in the network namespace of a process: proc_pid_net(5), route. Addresses there are
/// hexadecimal numbers of the machine's byte order.
fn routes(pid: i32) -> Vec<String> {
    let text = proc::read(format!("/proc/{pid}/net/route")).unwrap_or_default();
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let address = |at: usize| {
            let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
            Some(Ipv4Addr::from(number.to_ne_bytes()))
        };
        let (to, gateway, mask) = (address(1)?, address(2)?, address(7)?);
        let mut route = match u32::from(mask).count_ones() {
            0 => "default".to_owned(),
            bits => format!("{to}/{bits}"),
        };
        if !gateway.is_unspecified() {
            route.push_str(&format!(" via {gateway}"));
        }
        Some(format!("{route} dev {}", fields[0]))
    };
    text.lines().skip(1).filter_map(route).collect()
}

fn limits(cgroups: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let mut limits: Vec<(PathBuf, String)> = Vec::new();
    for cgroup in cgroups {
        for path in LIMITS
            .iter()
            .flat_map(|limit| limit.files)
            .map(|file| cgroup.join(file))
        {
            let text = proc::read(&path)
                .unwrap_or_default()
                .trim_ascii()
                .to_owned();
            let unlimited = ["", "max", "max 100000", "-1", "0", "9223372036854771712"];
            if !unlimited.contains(&text.as_str())
                && !limits.iter().any(|(known, _)| *known == path)
            {
                limits.push((path, text));
            }
        }
    }
    limits
}

/// What is known of containers, as an array of JSON or, for a person, as text.
pub fn inspect(containers: &[Record], explain: bool) -> String {
    let describe = |container: &Record| {
        let pid = container
            .number("pid")
            .and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.filter(|_| state::runs(container));
        let found = pid.map(|pid| Found::of(pid, container));
        match explain {
            true => explained(container, found.as_ref()),
            false => json(container, found.as_ref()),
        }
    };
    let all: Vec<String> = containers.iter().map(describe).collect();
    match explain {
        true => all.join("\n"),
        false => join(["[", "]\n"], &all),
    }
}

fn object(members: &[(&str, String)]) -> String {
    let members = members
        .iter()
        .map(|(key, json)| format!("\"{key}\":{json}"));
    join(["{", "}"], &members.collect::<Vec<_>>())
}

fn strings<T: AsRef<[u8]>>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|it| string(it.as_ref())).collect();
    join(["[", "]"], &all)
}

fn json(container: &Record, found: Option<&Found>) -> String {
    let text = |key| or_null(&container.text(key), |text| string(text.as_bytes()));
    let number = |key| or_null(&container.number(key), u64::to_string);
    let list = |key| strings(container.all(key));
    let yes = |key| container.text(key).is_some().to_string();
    object(&[
        ("id", string(container.id.as_bytes())),
        ("name", text("name")),
        ("hostname", text("hostname")),
        ("image", text("image")),
        ("layers", list("layer")),
        ("command", list("command")),
        ("labels", list("label")),
        ("created", number("created")),
        ("running", found.is_some().to_string()),
        ("pid", number("pid")),
        ("supervisor", number("supervisor")),
        ("exit_status", number("status")),
        ("finished", number("finished")),
        ("restarts", number("restarts")),
        ("out_of_memory", yes("oom")),
        ("degraded", list("note")),
        ("user", text("user")),
        ("group", text("group")),
        ("workdir", text("workdir")),
        ("env", list("env")),
        ("ulimits", list("ulimit")),
        ("seccomp", text("seccomp")),
        ("privileged", yes("privileged")),
        ("stop_signal", number("stop-signal")),
        ("stop_timeout", number("stop-timeout")),
        ("cgroups", list("cgroup")),
        ("bridge", text("bridge")),
        ("address", text("address")),
        ("ports", list("port")),
        (
            "joined",
            or_null(&share::joined(container).0, |id| string(id.as_bytes())),
        ),
        ("now", or_null(&found, |found| now(found))),
    ])
}

/// What is now, of a container that runs.
fn now(found: &Found) -> String {
    let processes = found.processes.iter().map(|it| {
        object(&[
            ("pid", it.pid.to_string()),
            ("inside", it.inside.to_string()),
            ("parent", it.parent.to_string()),
            ("name", string(it.name.as_bytes())),
        ])
    });
    let mounts = found.mounts.iter().map(|mount| {
        let keys = ["target", "type", "source", "options"];
        let members: Vec<_> = keys
            .into_iter()
            .zip(mount.iter().map(|it| string(it.as_bytes())))
            .collect();
        object(&members)
    });
    let limits = found.limits.iter().map(|(path, text)| {
        let path = string(path.as_os_str().as_bytes());
        format!("{path}:{}", string(text.as_bytes()))
    });
    let protection = &found.protection;
    let namespaces = protection.namespaces.iter().map(|(name, link, own)| {
        let inode = link
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .trim_end_matches(']');
        let members = [("inode", inode.to_owned()), ("own", own.to_string())];
        format!("\"{name}\":{}", object(&members))
    });
    let sets = protection.capabilities.iter().map(|(name, set)| {
        let set = set.to_string();
        let names = set.split(',').filter(|name| *name != "none");
        format!("\"{name}\":{}", strings(names))
    });
    let [users, groups] = &protection.maps;
    object(&[
        (
            "processes",
            join(["[", "]"], &processes.collect::<Vec<_>>()),
        ),
        (
            "namespaces",
            join(["{", "}"], &namespaces.collect::<Vec<_>>()),
        ),
        ("uid_map", string(users.as_bytes())),
        ("gid_map", string(groups.as_bytes())),
        ("capabilities", join(["{", "}"], &sets.collect::<Vec<_>>())),
        ("no_new_privs", protection.no_new_privs.to_string()),
        ("seccomp_filter", protection.seccomp.to_string()),
        ("masked", strings(&protection.masked)),
        ("read_only", strings(&protection.read_only)),
        ("mounts", join(["[", "]"], &mounts.collect::<Vec<_>>())),
        ("limits", join(["{", "}"], &limits.collect::<Vec<_>>())),
        ("routes", strings(&found.routes)),
    ])
}

/// The same for a person: behind `$` a command, and below it what of its output is meant.
fn explained(container: &Record, found: Option<&Found>) -> String {
    let mut text = String::new();
    let mut part = |what: &str, command: &str, shown: &[&str]| {
        text.push_str(&format!("{what}\n  $ {command}\n"));
        for line in shown {
            // Names of processes and mounts are the container's.
            text.push_str(&format!("    {}\n", escape(line.as_bytes())));
        }
    };
    let directory = container.directory.display();
    let what = format!("Container {} has a record, a file of text.", container.id);
    let image = container.all("image").concat();
    let image = format!("image {}", quote(&image).trim_matches('"'));
    part(&what, &format!("cat {directory}/{RECORD}"), &[&image]);
    let Some(found) = found else {
        return text;
    };
    part(
        "It runs: its supervisor has a lock on the record's directory, which nobody else can have then (flock(2)).",
        &format!("flock -n {directory} echo it does not run || echo locked"),
        &["locked"],
    );
    let Some(command) = found.processes.first() else {
        return text;
    };
    let (pid, protection) = (command.pid, &found.protection);
    for it in &found.processes {
        part(
            "A process of it is one of this machine, with another number in the namespaces that it is in (pid_namespaces(7)).",
            &format!("grep -E 'Name|NSpid' /proc/{}/status", it.pid),
            &[&it.name, &format!("{}", it.pid), &it.inside.to_string()],
        );
    }
    let links: Vec<&str> = protection
        .namespaces
        .iter()
        .map(|(_, link, _)| link.as_str())
        .collect();
    part(
        "Its namespaces (namespaces(7)): where the number is the same, two processes share one.",
        &format!("ls -l /proc/{pid}/ns"),
        &links,
    );
    let own = protection.namespaces.iter().filter(|(.., own)| *own);
    let numbers: Vec<&str> = own
        .map(|(_, link, _)| link.trim_matches(|c: char| !c.is_ascii_digit()))
        .collect();
    part(
        "Those of its own, with the processes in them.",
        &format!("lsns -p {pid}"),
        &numbers,
    );
    let name = container
        .text("hostname")
        .or_else(|| container.text("name"));
    let name = name.as_ref().unwrap_or(&container.id);
    if protection
        .namespaces
        .iter()
        .any(|(name, _, own)| *own && *name == "uts")
    {
        part(
            "One can go there, into one of them or all (setns(2)): this is its name.",
            &format!("nsenter -t {pid} -u uname -n"),
            &[name],
        );
    }
    let [users, groups] = &protection.maps;
    part(
        "Its users: the first inside, the first outside, how many (user_namespaces(7)).",
        &format!("cat /proc/{pid}/uid_map"),
        &[users],
    );
    part(
        "Its groups.",
        &format!("cat /proc/{pid}/gid_map"),
        &[groups],
    );
    for (set, value) in &protection.capabilities {
        part(
            &format!("The capabilities in its set {set} (capabilities(7)): {value}."),
            &format!("grep {set} /proc/{pid}/status"),
            &[&format!("{:016x}", value.0)],
        );
    }
    let [.., (_, effective), _, _] = &protection.capabilities;
    let hex = format!("{:016x}", effective.0);
    let all = effective.to_string();
    let names = all.split(',').filter(|name| *name != "none");
    let names: Vec<String> = names.map(|name| format!("cap_{name}")).collect();
    part(
        "The effective ones by name.",
        &format!("capsh --decode={hex}"),
        &[&format!("0x{hex}={}", names.join(","))],
    );
    part(
        "What execve(2) cannot give it back (PR_SET_NO_NEW_PRIVS), and whether its system calls are filtered (2: yes; seccomp(2)).",
        &format!("grep -E 'NoNewPrivs|Seccomp:' /proc/{pid}/status"),
        &[
            &format!("NoNewPrivs: {}", i32::from(protection.no_new_privs)),
            &format!("Seccomp: {}", if protection.seccomp { 2 } else { 0 }),
        ],
    );
    let targets: Vec<&str> = found
        .mounts
        .iter()
        .map(|[target, ..]| target.as_str())
        .collect();
    part(
        "What it sees as its files (mount_namespaces(7)).",
        &format!("cat /proc/{pid}/mountinfo"),
        &targets,
    );
    if let (Some(bridge), Some(address)) = (container.text("bridge"), container.text("address")) {
        part(
            "Its interface, in its network namespace (network_namespaces(7)), is one end of a pair (veth(4)).",
            &format!("nsenter -t {pid} -n ip address show dev eth0"),
            &[&address],
        );
        let routes: Vec<&str> = found.routes.iter().map(String::as_str).collect();
        part(
            "From there packets go to the bridge.",
            &format!("nsenter -t {pid} -n ip route"),
            &routes,
        );
        part(
            "The other end is at a bridge of this machine, with those of the others.",
            &format!("ip link show master {bridge}"),
            &[&format!(
                "mini{}",
                container.id.get(..11).unwrap_or_default()
            )],
        );
    }
    for cgroup in state::cgroups(container).iter().filter(|it| it.is_dir()) {
        part(
            "Its processes are counted and limited in a cgroup (cgroups(7)).",
            &format!("cat {}/cgroup.procs", cgroup.display()),
            &[&pid.to_string()],
        );
    }
    for (path, value) in &found.limits {
        part("A limit.", &format!("cat {}", path.display()), &[value]);
    }
    text
}
