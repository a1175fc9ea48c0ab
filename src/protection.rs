//! What protects the host from a command, as the kernel shows it: proc(5), namespaces(7), capabilities(7).
//!
//! This is observed, not remembered: a plan says what was meant, /proc says what is. `--trace` prints it for the
//! command's process when its set-up is over. Only the filter of system calls is taken from the plan then: it is loaded
//! by the next step, and may forbid to speak about it. [`Protection`] is plain data, for whoever wants it in another form.

use std::fmt;
use std::fs;

use container::capabilities::Set;
use container::step::Step;

use crate::error::quote;
use crate::plan::Plan;

/// The protection of one process.
pub struct Protection {
    /// The five capability sets by the kernel's names: CapInh CapPrm CapEff CapBnd CapAmb.
    pub capabilities: Vec<(String, u64)>,
    pub no_new_privs: bool,
    /// Instructions of the filter of system calls, which is loaded by the next step if it is not loaded yet.
    pub seccomp: Option<usize>,
    /// Namespaces by name and inode, and whether mini itself is in the same.
    pub namespaces: Vec<(String, bool)>,
    /// First id inside, first id outside, how many; for users, then for groups.
    pub ids: [String; 2],
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
    /// Defaults that were left out, and why.
    pub degraded: Vec<String>,
}

impl Protection {
    /// Looks at the process with this number, which is to be what `plan` says.
    pub fn observe(pid: i32, plan: &Plan, notes: &[String]) -> Protection {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status = read("status");
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
            lines
                .find(|(key, _)| *key == name)
                .map_or("", |(_, value)| value)
        };
        let sets = ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"];
        let instructions = plan.steps.iter().find_map(|step| match step {
            Step::Seccomp(program, _) => Some(program.len()),
            _ => None,
        });
        let mut protection = Protection {
            capabilities: (sets.iter())
                .map(|name| {
                    (
                        name[3..].to_owned(),
                        u64::from_str_radix(field(name), 16).unwrap_or(0),
                    )
                })
                .collect(),
            no_new_privs: field("NoNewPrivs") == "1",
            seccomp: instructions,
            namespaces: namespaces(pid),
            ids: ["uid_map", "gid_map"].map(|name| {
                let map = read(name);
                map.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
            }),
            masked: Vec::new(),
            read_only: Vec::new(),
            degraded: notes.to_vec(),
        };
        // Fields 4 to 6: the root of the mount in its file system, the mount point, the options (proc(5) mountinfo).
        for line in read("mountinfo").lines() {
            let mut fields = line.split(' ').skip(3);
            let (Some(root), Some(target), Some(options)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if root.starts_with("/mask/") {
                protection.masked.push(printable(target));
            } else if target.starts_with(['/']) && options.split(',').any(|option| option == "ro") {
                protection.read_only.push(printable(target));
            }
        }
        protection
    }
}

/// A name that may come from an image must not drive the terminal.
fn printable(name: &str) -> String {
    quote(name.as_bytes()).trim_matches('"').to_owned()
}

fn namespaces(pid: i32) -> Vec<(String, bool)> {
    let inode =
        |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).ok();
    let names = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];
    let found = names.iter().filter_map(|name| {
        let theirs = inode(&pid.to_string(), name)?;
        let shared = inode("self", name).as_ref() == Some(&theirs);
        Some((theirs.display().to_string(), shared))
    });
    found.collect()
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, set) in &self.capabilities {
            writeln!(f, "# capabilities {name}: {}", Set(*set))?;
        }
        let on = |on: bool| if on { "on" } else { "off" };
        writeln!(f, "# no_new_privs: {}", on(self.no_new_privs))?;
        match self.seccomp {
            Some(instructions) => writeln!(f, "# seccomp: filter of {instructions} instructions")?,
            None => writeln!(f, "# seccomp: off")?,
        }
        for (kind, shared) in [("own", false), ("shared with mini", true)] {
            let namespaces = self.namespaces.iter().filter(|(_, with)| *with == shared);
            let names: Vec<&str> = namespaces.map(|(name, _)| name.as_str()).collect();
            writeln!(f, "# namespaces, {kind}: {}", names.join(" "))?;
        }
        writeln!(f, "# ids: users {}, groups {}", self.ids[0], self.ids[1])?;
        writeln!(f, "# masked: {}", self.masked.join(" "))?;
        writeln!(f, "# read-only: {}", self.read_only.join(" "))?;
        for note in &self.degraded {
            writeln!(f, "# degraded: {note}")?;
        }
        Ok(())
    }
}
