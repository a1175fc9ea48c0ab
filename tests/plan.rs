//! The plan is the audit surface: `--dry-run` prints it and does nothing, `--trace` prints the same lines as they are
//! done, and the system calls that strace sees are those of the plan, in its order, with its arguments, and no others
//! that mount, make or enter namespaces, or change credentials.

mod support;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use support::{Bench, Run, guest, have_program, mini};

/// Options that between them bring every kind of step.
fn option_sets(bench: &Bench) -> Vec<Vec<String>> {
    let dir = bench.dir("dir");
    let (rw, ro) = (format!("{dir}:/rw"), format!("{dir}:/ro:ro"));
    let guest = format!("{}:/guest:ro", guest());
    let sets: [&[&str]; 8] = [
        &[],
        &[
            "-v",
            &rw,
            "-v",
            &ro,
            "--tmpfs",
            "/t:size=1m",
            "-w",
            "/w/x",
            "-u",
            "user",
            "--read-only",
            "--ulimit",
            "nofile=9:99",
        ],
        &[
            "-t",
            "--name",
            "box",
            "--oom-score-adj",
            "7",
            "--shm-size",
            "1m",
        ],
        &["--no-init", "-u", "1000:29", "--hostname", "other"],
        &[
            "--net",
            "host",
            "--pid",
            "host",
            "--ipc",
            "host",
            "--uts",
            "host",
            "--cgroupns",
            "host",
        ],
        &["--pid", "host", "--no-init"],
        &["--time", "--upper", "tmpfs:1m"],
        &["--upper", "disk"],
    ];
    let with_guest = |set: &[&str]| {
        [&["-v", guest.as_str()], set]
            .concat()
            .iter()
            .map(|word| word.to_string())
            .collect()
    };
    sets.iter().map(|set| with_guest(set)).collect()
}

fn words(set: &[String]) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}

/// Replaces a container's id, 12 hexadecimal digits, by ID.
fn without_id(text: &str) -> String {
    let bytes = text.as_bytes();
    let hexadecimal = |at: usize| {
        bytes
            .get(at)
            .is_some_and(|byte| b"0123456789abcdef".contains(byte))
    };
    let mut result = String::new();
    let mut at = 0;
    while at < text.len() {
        let length = (at..).take_while(|at| hexadecimal(*at)).count();
        let before = at
            .checked_sub(1)
            .and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_alphanumeric);
        if length == 12 && !before {
            result += "ID";
            at += 12;
        } else {
            let step = length.max(1);
            result += &String::from_utf8_lossy(&bytes[at..at + step]);
            at += step;
        }
    }
    result
}

/// As an ordinary user without groups.
fn as_user(bench: &Bench, args: &[&str]) -> Run {
    let run =
        bench
            .program("setpriv")
            .args(&["--reuid", "1000", "--regid", "1000", "--clear-groups"]);
    run.args(&[mini().to_str().unwrap()]).args(args)
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let Some(bench) = Bench::new("dryrun") else {
        return;
    };
    for set in option_sets(&bench) {
        let args = [
            &["run", "--dry-run"][..],
            &words(&set),
            &[bench.busybox(), "--", "/guest"],
        ]
        .concat();
        let plan = bench.mini(&args).output().ok();
        let lines: Vec<&str> = plan.lines().collect();
        let actors = lines
            .iter()
            .map(|line| line.split(' ').next().unwrap())
            .collect::<BTreeSet<_>>();
        assert!(
            actors.is_subset(&BTreeSet::from(["supervisor", "init", "command", "#"])),
            "{actors:?}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.ends_with("execve(\"/guest\", …)")),
            "{plan}"
        );
        for call in [
            "unshare(CLONE_NEWNS)",
            "clone3(",
            "pivot_root(\".\", \".\")",
            "umount2(\".\", MNT_DETACH)",
        ] {
            assert_eq!(plan.matches(call).count().min(1), 1, "{call}: {plan}");
        }
        // The same question has the same answer, but for the id.
        assert_eq!(
            without_id(&bench.mini(&args).output().ok()),
            without_id(&plan)
        );
    }
    assert!(!Path::new(&bench.text("run")).exists() && !Path::new(&bench.text("store")).exists());
}

#[test]
fn a_dry_run_needs_no_privilege() {
    let Some(bench) = Bench::new("dryuser") else {
        return;
    };
    if !have_program("setpriv") {
        return;
    }
    let plan = as_user(&bench, &["run", "--dry-run", bench.busybox(), "--", "id"])
        .output()
        .ok();
    for step in [
        "unshare(CLONE_NEWUSER)",
        "unshare(CLONE_NEWNS)",
        "mount(\"overlay\"",
        "userxattr",
        "execve(\"id\", …)",
    ] {
        assert!(plan.contains(step), "{step}: {plan}");
    }
    // No call that makes anything, either.
    if have_program("strace") {
        let log = bench.text("log");
        let strace = [
            "-f",
            "-qq",
            "-o",
            &log,
            "-e",
            "trace=%process,%file,mount,umount2,unshare,setns,clone3,clone",
        ];
        bench
            .program("strace")
            .args(&strace)
            .args(&[
                mini().to_str().unwrap(),
                "run",
                "--dry-run",
                bench.busybox(),
            ])
            .output()
            .ok();
        let log = fs::read_to_string(log).unwrap();
        for call in [
            "mkdir", "mount(", "unshare(", "clone(", "clone3(", "O_CREAT", "unlink", "flock(",
            "setns(",
        ] {
            // A null target asks whether the call exists.
            let made: Vec<_> = log
                .lines()
                .filter(|line| {
                    line.contains(call)
                        && !line.contains("EFAULT")
                        && !line.contains("mount_setattr")
                })
                .collect();
            assert!(made.is_empty(), "{call}: {made:?}");
        }
    }
}

#[test]
fn a_trace_has_the_lines_of_the_dry_run_in_the_same_order() {
    let Some(bench) = Bench::new("trace") else {
        return;
    };
    let directory = bench.small_image("image");
    for set in option_sets(&bench) {
        for image in [bench.busybox(), &directory] {
            if image == directory && set.contains(&"user".to_owned()) {
                continue; // it has no /etc/passwd
            }
            let rest = [&words(&set)[..], &[image, "--", "/guest", "exit", "4"]].concat();
            let plan = bench.mini(&["run", "--dry-run"]).args(&rest).output().ok();
            let trace = bench
                .mini(&["run", "--trace"])
                .args(&rest)
                .output()
                .expect(4)
                .stderr
                .replace('\r', "");
            let mut done = String::new();
            for line in trace.lines().filter(|line| !line.starts_with("# ")) {
                let (step, time) = line
                    .rsplit_once(" <")
                    .unwrap_or_else(|| panic!("no time: {line}"));
                let time = time
                    .strip_suffix(" us>")
                    .unwrap_or_else(|| panic!("no time: {line}"));
                assert!(time.parse::<f64>().is_ok(), "{line}");
                done += &format!("{step}\n");
            }
            let plan: String = plan
                .lines()
                .filter(|line| !line.starts_with("# "))
                .map(|line| format!("{line}\n"))
                .collect();
            assert_eq!(without_id(&done), without_id(&plan), "{set:?}");
        }
    }
}

/// A call reduced to what plan and strace both show: its name, and its arguments as far as they are comparable.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    name: String,
    arguments: Vec<String>,
}

/// The calls that matter: everything that mounts, makes or enters namespaces, changes root, ids, capabilities, filters.
const WATCHED: [&str; 43] = [
    "mount",
    "umount2",
    "umount",
    "unshare",
    "setns",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "pivot_root",
    "chroot",
    "mount_setattr",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsmount",
    "fsconfig",
    "fspick",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "setgroups",
    "capset",
    "prctl",
    "seccomp",
    "sethostname",
    "setdomainname",
    "setsid",
    "chdir",
    "fchdir",
    "umask",
    "mkdir",
    "mknod",
    "symlink",
    "setrlimit",
    "prlimit64",
    "bpf",
    "keyctl",
];

/// Splits the arguments of a call at the top level.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut depth, mut quoted, mut last) = (vec![String::new()], 0, false, ' ');
    for letter in text.chars() {
        match letter {
            '"' if last != '\\' => quoted = !quoted,
            '{' | '[' | '(' if !quoted => depth += 1,
            '}' | ']' | ')' if !quoted => depth -= 1,
            _ => {}
        }
        if letter == ',' && depth == 0 && !quoted {
            found.push(String::new());
        } else {
            found.last_mut().unwrap().push(letter);
        }
        last = letter;
    }
    found
        .into_iter()
        .map(|argument| argument.trim().to_owned())
        .collect()
}

/// Flags in a fixed order.
fn flags(text: &str) -> String {
    let mut flags: Vec<&str> = text.split('|').collect();
    flags.sort();
    flags.join("|")
}

/// A path as both show it: what lies below the root is a descriptor for the kernel.
fn place(text: &str) -> String {
    if text.starts_with("\"{root}") || text.starts_with("\"/proc/self/fd/") {
        "inside".into()
    } else {
        text.into()
    }
}

/// One shape for a call of the plan and one that strace saw; `None` if it is not watched.
fn call(text: &str, id: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let rest = rest
        .split(" = ")
        .next()?
        .split(" <unfinished")
        .next()?
        .trim_end();
    let rest = rest.strip_suffix(')').unwrap_or(rest);
    let mut given = arguments(rest);
    // The C library has some calls only in the form that takes a directory, or by another name.
    let name = match name {
        "mkdirat" | "mknodat" if given[0] == "AT_FDCWD" => {
            given.remove(0);
            name.trim_end_matches("at")
        }
        "symlinkat" => {
            given.remove(1);
            "symlink"
        }
        name => name,
    };
    if !WATCHED.contains(&name) {
        return None;
    }
    let get = |index: usize| given.get(index).cloned().unwrap_or_default();
    let below = |path: String| path.contains(id).then_some(path);
    let arguments = match name {
        "mount" => vec![get(0), place(&get(1)), get(2), flags(&get(3)), get(4)],
        "umount2" => vec![get(0), get(1)],
        "unshare" => vec![flags(&get(0))],
        // What has just been made has no more than a number; a process is made with the namespaces' flags only.
        "clone3" | "clone" => vec![flags(&clone_flags(rest))],
        // An empty path asks whether the kernel has the call.
        "mount_setattr" if get(1) == "\"\"" => return None,
        "mount_setattr" => {
            // The plan leaves out the directory, and strace shows the size.
            let all = if get(0) == "AT_FDCWD" {
                &given[1..]
            } else {
                &given[..]
            };
            let set = all[2]
                .split(&['=', ',', '}'][..])
                .nth(1)
                .unwrap_or_default();
            vec![place(&all[0]), all[1].clone(), flags(set)]
        }
        // PR_GET_AUXV: rustix looks at what the kernel gave the process.
        "prctl" if get(0).starts_with("PR_GET_") || get(0).starts_with("0x41555856") => {
            return None;
        }
        // Any number but 0 turns it on.
        "prctl" if get(0) == "PR_SET_CHILD_SUBREAPER" => vec![get(0)],
        "prctl" => vec![get(0), get(1)],
        "sethostname" | "chdir" => vec![get(0)],
        "umask" => vec![get(0)],
        // mini's own directories; those in the container are made while a mount finds its place.
        "mkdir" | "mknod" => vec![below(get(0))?],
        "symlink" => vec![get(0), below(get(1))?],
        // Read only, if there is nothing to set.
        "prlimit64" if get(2) == "NULL" => return None,
        "prlimit64" => vec![get(1)],
        "setrlimit" => vec![get(0)],
        _ => vec![],
    };
    let name = if name == "setrlimit" {
        "prlimit64"
    } else {
        name
    };
    Some(Call {
        name: name.into(),
        arguments,
    })
}

fn clone_flags(text: &str) -> String {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("CLONE_"))
        .collect::<Vec<_>>()
        .join("|")
}

#[test]
fn strace_sees_the_calls_of_the_plan_in_order_and_no_others() {
    let Some(bench) = Bench::new("strace") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let directory = bench.busybox_directory();
    for set in option_sets(&bench) {
        for image in [bench.busybox(), &directory] {
            compare(
                &bench,
                &[&words(&set)[..], &[image, "--", "/guest", "exit", "4"]].concat(),
                false,
            );
        }
    }
}

#[test]
fn the_same_for_an_ordinary_user() {
    let Some(bench) = Bench::new("straceuser") else {
        return;
    };
    if !(have_program("strace") && have_program("setpriv")) {
        return;
    }
    let directory = bench.busybox_directory();
    // The image is the user's, and so are the directories below this one.
    Run::new("chown")
        .args(&["-R", "1000:1000", &directory])
        .output()
        .ok();
    std::os::unix::fs::chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    for image in [bench.busybox(), &directory] {
        for options in [
            &[][..],
            &["-t"],
            &["--net", "host"],
            &["--no-init", "-w", "/w"],
        ] {
            compare(
                &bench,
                &[options, &[image, "--", "sh", "-c", "exit 4"]].concat(),
                true,
            );
        }
    }
}

fn compare(bench: &Bench, rest: &[&str], user: bool) {
    let log = bench.text("log");
    let _ = fs::remove_file(&log);
    let mini = mini();
    let mut command = vec![];
    if user {
        // Without newuidmap, so that no other program changes anything.
        let setpriv = [
            "setpriv",
            "--reuid",
            "1000",
            "--regid",
            "1000",
            "--clear-groups",
            "env",
            "PATH=/bin/none",
            "/usr/bin/strace",
        ];
        command.extend(setpriv);
    } else {
        command.push("strace");
    }
    command.extend([
        "-f",
        "-qq",
        "-s",
        "4096",
        "-e",
        "signal=none",
        "-o",
        &log,
        mini.to_str().unwrap(),
        "run",
        "--trace",
    ]);
    command.extend(rest);
    let output = bench
        .program(command[0])
        .args(&command[1..])
        .output()
        .expect(4);
    // The plan of this very run, as its trace has it, with the last step that is never over.
    let trace = output.stderr.replace('\r', "");
    let id = trace.lines().find_map(|line| {
        let path = line.split_once("mkdir(\"")?.1.split('"').next()?;
        path.rsplit('/').next().map(str::to_owned)
    });
    let id = id.unwrap_or_else(|| panic!("no id: {trace}"));
    let mut planned: [Vec<Call>; 3] = Default::default();
    for line in trace.lines().filter(|line| !line.starts_with("# ")) {
        let (actor, step) = line.split_once(' ').unwrap();
        let step = step.trim_start().rsplit_once(" <").unwrap().0;
        let actor = ["supervisor", "init", "command"]
            .iter()
            .position(|known| *known == actor)
            .unwrap();
        // mkdir and flock; setting and looking.
        let first = step.split("), ").next().unwrap();
        planned[actor].extend(call(first, &id));
    }
    let log = fs::read_to_string(&log).unwrap();
    let mut processes: Vec<&str> = Vec::new();
    let mut seen: [Vec<Call>; 3] = Default::default();
    let mut executed: Vec<&str> = Vec::new();
    for line in log.lines() {
        let (process, text) = line.split_once(' ').unwrap();
        let text = text.trim_start();
        if !processes.contains(&process) {
            processes.push(process);
        }
        let index = processes
            .iter()
            .position(|known| *known == process)
            .unwrap();
        // The container's first execve is the command; what happens afterwards is its own affair.
        if index > 0 && text.starts_with("execve(") {
            executed.push(process);
        }
        if index < 3 && !executed.contains(&process) && !text.starts_with("<...") {
            seen[index].extend(call(text, &id));
        }
    }
    if rest.contains(&"--no-init") {
        // One process, which is both.
        let [_, init, command] = &mut planned;
        init.append(command);
    }
    for (actor, (planned, seen)) in ["supervisor", "init", "command"]
        .iter()
        .zip(planned.iter().zip(&seen))
    {
        for (index, (planned, seen)) in planned.iter().zip(seen).enumerate() {
            // An ordinary user's strace cannot read the memory of a process that is not dumpable.
            let mut pairs = planned.arguments.iter().zip(&seen.arguments);
            let hidden =
                pairs.any(|(text, pointer)| text.starts_with('"') && pointer.starts_with("0x"));
            if hidden && planned.name == seen.name {
                continue;
            }
            assert_eq!(planned, seen, "call {index} of the {actor}, {rest:?}");
        }
        assert_eq!(
            planned.len(),
            seen.len(),
            "{actor}, {rest:?}: planned {planned:#?}\nseen {seen:#?}"
        );
    }
}
