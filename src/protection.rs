//! What protects the host from a command, as the kernel shows it: proc(5), namespaces(7), capabilities(7).
//!
//! This is observed, not remembered: a plan says what was meant, /proc says what is. `--trace` prints it for the
//! command's process when its set-up is over. Only the filter of system calls is taken from the plan then: it is loaded
//! by the next step, and may forbid to speak about it. Entry: [`observe`].

use container::capabilities::Set;
use container::step::Step;
use std::fs;

use crate::error::quote;
use crate::plan::Plan;
use crate::proc;

/// The protection of the process with this number, which is to be what `plan` says, a line for each kind: the five
/// capability sets by the kernel's names, no_new_privs, the filter, namespaces by name and inode, the maps of ids, paths
/// that are masked or read-only. `notes`: defaults that were left out, and why.
pub fn observe(pid: i32, plan: &Plan, notes: &[String]) -> String {
    let read = |name: &str| proc::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = read("status");
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.map_or("", |value| value.trim_start_matches(":\t"))
    };
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        for part in ["# ", what, ": ", value, "\n"] {
            text.push_str(part);
        }
    };
    for name in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        let set = u64::from_str_radix(field(name), 16).unwrap_or(0);
        let what = format!("capabilities {}", &name[3..]);
        line(&what, &Set(set).to_string());
    }
    let no_new_privs = field("NoNewPrivs") == "1";
    line("no_new_privs", if no_new_privs { "on" } else { "off" });
    let filter = plan.steps.iter().find_map(|step| match step {
        Step::Seccomp(program, _) => Some(format!("filter of {} instructions", program.len())),
        _ => None,
    });
    line("seccomp", filter.as_deref().unwrap_or("off"));
    let inode = |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}"));
    let (mut own, mut shared) = (String::new(), String::new());
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        if let Ok(theirs) = inode(&pid.to_string(), name) {
            let same = inode("self", name).is_ok_and(|mine| mine == theirs);
            add(
                if same { &mut shared } else { &mut own },
                &theirs.to_string_lossy(),
            );
        }
    }
    line("namespaces, own", &own);
    line("namespaces, shared with mini", &shared);
    let map = |name: &str| {
        let mut numbers = String::new();
        for number in read(name).split_ascii_whitespace() {
            add(&mut numbers, number);
        }
        numbers
    };
    line(
        "ids",
        &format!("users {}, groups {}", map("uid_map"), map("gid_map")),
    );
    let (mut masked, mut read_only) = (String::new(), String::new());
    // Fields 4 to 6: the root of the mount in its file system, the mount point, the options (proc(5) mountinfo).
    for mount in read("mountinfo").lines() {
        let fields: Vec<&str> = mount.splitn(7, ' ').collect();
        let [_, _, _, root, target, options, _] = fields[..] else {
            continue;
        };
        // A name that may come from an image must not drive the terminal.
        let target = quote(target.as_bytes());
        let target = target.trim_matches('"');
        if root.starts_with("/mask/") {
            add(&mut masked, target);
        } else if target.starts_with('/') && options.split(',').any(|option| option == "ro") {
            add(&mut read_only, target);
        }
    }
    line("masked", &masked);
    line("read-only", &read_only);
    for note in notes {
        line("degraded", note);
    }
    text
}

/// Adds a word to a list of words.
fn add(list: &mut String, word: &str) {
    if !list.is_empty() {
        list.push(' ');
    }
    list.push_str(word);
}
