//! What protects the host from a command, as the kernel shows it: proc(5), namespaces(7), capabilities(7).
//!
//! This is observed, not remembered: a plan says what was meant, /proc says what is. `--trace` prints it for the
//! command's process when its set-up is over. Only the filter of system calls is taken from the plan then: it is loaded
//! by the next step, and may forbid to speak about it. `mini inspect` shows it of a
//! container that runs. Entries: [`observe`], [`of`].

use std::fs;

use container::capabilities::Set;
use container::step::Step;

use crate::error::quote;
use crate::plan::Plan;
use crate::proc;

/// What the kernel shows of a process's protection.
pub struct Protection {
    /// Bounding, permitted, effective, inheritable, ambient, by the names that they have in /proc/PID/status.
    pub capabilities: [(&'static str, Set); 5],
    pub no_new_privs: bool,
    /// Whether there is a filter of system calls.
    #[cfg(feature = "life")]
    pub seccomp: bool,
    /// Name, what the link says (`user:[4026531837]`), and whether mini itself is in another one.
    pub namespaces: Vec<(&'static str, String, bool)>,
    /// Words of /proc/PID/uid_map and gid_map.
    pub maps: [String; 2],
    /// Paths, quoted where they have to be.
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
}

/// The protection of the process with this number; what cannot be read is taken for absent.
pub fn of(pid: i32) -> Protection {
    let read = |name: &str| proc::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = read("status");
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.map_or("", |value| value.trim_start_matches(":\t"))
    };
    let set = |name| (name, Set(u64::from_str_radix(field(name), 16).unwrap_or(0)));
    let inode = |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}"));
    let mut namespaces = Vec::new();
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        if let Ok(theirs) = inode(&pid.to_string(), name) {
            let same = inode("self", name).is_ok_and(|mine| mine == theirs);
            namespaces.push((name, theirs.to_string_lossy().into_owned(), !same));
        }
    }
    let words = |name| {
        let text = read(name);
        text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (mut masked, mut read_only) = (Vec::new(), Vec::new());
    // Fields 4 to 6: the root of the mount in its file system, the mount point, the options (proc(5) mountinfo).
    for mount in read("mountinfo").lines() {
        let fields: Vec<&str> = mount.splitn(7, ' ').collect();
        let [_, _, _, root, target, options, _] = fields[..] else {
            continue;
        };
        // A name that may come from an image must not drive the terminal.
        let quoted = quote(target.as_bytes()).trim_matches('"').to_owned();
        if root.starts_with("/mask/") {
            masked.push(quoted);
        } else if target.starts_with('/') && options.split(',').any(|option| option == "ro") {
            read_only.push(quoted);
        }
    }
    Protection {
        capabilities: ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"].map(set),
        no_new_privs: field("NoNewPrivs") == "1",
        #[cfg(feature = "life")]
        seccomp: field("Seccomp") == "2",
        namespaces,
        maps: ["uid_map", "gid_map"].map(words),
        masked,
        read_only,
    }
}

/// The protection of the process with this number, which is to be what `plan` says, a line for each kind: the five
/// capability sets by the kernel's names, no_new_privs, the filter, namespaces by name and inode, the maps of ids, paths
/// that are masked or read-only. `notes`: defaults that were left out, and why.
pub fn observe(pid: i32, plan: &Plan, notes: &[String]) -> String {
    let found = of(pid);
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        for part in ["# ", what, ": ", value, "\n"] {
            text.push_str(part);
        }
    };
    for (name, set) in found.capabilities {
        line(&format!("capabilities {}", &name[3..]), &set.to_string());
    }
    line(
        "no_new_privs",
        if found.no_new_privs { "on" } else { "off" },
    );
    let filter = plan.steps.iter().find_map(|step| match step {
        Step::Seccomp(program, _) => Some(format!("filter of {} instructions", program.len())),
        _ => None,
    });
    line("seccomp", filter.as_deref().unwrap_or("off"));
    for (what, wanted) in [("own", true), ("shared with mini", false)] {
        let them = found.namespaces.iter().filter(|(.., own)| *own == wanted);
        let them: Vec<&str> = them.map(|(_, link, _)| link.as_str()).collect();
        line(&format!("namespaces, {what}"), &them.join(" "));
    }
    let [users, groups] = &found.maps;
    line("ids", &format!("users {users}, groups {groups}"));
    line("masked", &found.masked.join(" "));
    line("read-only", &found.read_only.join(" "));
    for note in notes {
        line("degraded", note);
    }
    text
}
