//! The plan is the audit surface: `--dry-run` prints it and does nothing, `--trace` prints the same lines as they are
//! done, and the system calls that strace sees are those of the plan, in its order, with its arguments, and no others
//! that mount, make or enter namespaces, or change credentials.

mod support;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use support::{Bench, Run, guest, have_program, is_core, mini};

/// Options that between them bring every kind of step; images bring the rest.
fn option_sets(bench: &Bench) -> Vec<Vec<String>> {
    let dir = bench.dir("dir");
    let (rw, ro) = (format!("{dir}:/rw"), format!("{dir}:/ro:ro"));
    let strict = format!("{dir}:/strict:noidmap");
    let guest = format!("{}:/guest:ro", guest());
    let sets: [&[&str]; 24] = [
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
        &["--userns", "host", "-u", "5:6"],
        &["--privileged"],
        &["--privileged", "-t", "--no-init", "--userns", "auto"],
        &[
            "--device",
            "/dev/zero:/dev/deep/er/zero:rwm",
            "--device",
            "/dev/null:/dev/deep/null",
        ],
        &[
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--sysctl",
            "kernel.shm_rmid_forced=1",
        ],
        &["--cap-add", "NET_RAW,SYS_PTRACE", "--cap-drop", "CHOWN"],
        &[
            "-u",
            "1000",
            "--cap-add",
            "NET_RAW",
            "--cap-add=SYS_PTRACE,KILL",
        ],
        &["--cap-drop", "ALL", "--pid=host", "-u", "1"],
        &["--no-new-privs=false", "-u", "1000", "--cap-add", "KILL"],
        &["--masks", "none", "-v", &strict],
        &["--seccomp", "unconfined"],
        &["--seccomp", "log", "--net", "host"],
        &["--userns", "host", "--net", "host", "--ipc", "host"],
        &["--store", "index"],
        &["--store", "unpack"],
        &["--store", "tmpfs", "--upper", "disk"],
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

/// Options with an image: a tar, a directory, layers above them, a file system in a file.
fn runs(bench: &Bench) -> Vec<Vec<String>> {
    let directory = bench.busybox_directory();
    let mut runs = Vec::new();
    for set in option_sets(bench) {
        for image in [bench.busybox(), &directory] {
            runs.push([&set[..], &[image.to_owned()]].concat());
        }
    }
    let guest = format!("{}:/guest:ro", guest());
    let mut add = |words: &[&str]| {
        let words = [&["-v", &guest], words].concat();
        runs.push(words.iter().map(|word| word.to_string()).collect());
    };
    let above = bench.dir("above");
    bench.file("above/.wh.etc", "");
    let layer = bench.text("layer.tar");
    (Run::new("tar")
        .args(&["cf", &layer, "-C", &above, "."])
        .output())
    .ok();
    add(&["--layer", &layer, bench.busybox()]);
    add(&["--layer", &layer, &directory]);
    let both = ["--layer", &above, "--layer", &layer, bench.busybox()];
    add(&both);
    add(&[&["--store", "unpack", "--upper", "disk"][..], &both].concat());
    if have_program("mksquashfs") {
        let squashfs = bench.text("image.squashfs");
        let make = Run::new("mksquashfs").args(&[&directory, &squashfs, "-quiet", "-no-progress"]);
        make.output().ok();
        add(&[&squashfs]);
        add(&["--layer", &layer, "--userns", "host", &squashfs]);
    }
    add(&["--rw", &directory]);
    runs
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
                        && !line.contains("move_mount")
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
    for set in runs(&bench) {
        let rest = [&words(&set)[..], &["--", "/guest", "exit", "4"]].concat();
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
        let (done, plan) = (without_id(&done), without_id(&plan));
        // Init and the command are two processes: either may be the first to say something after the fork.
        for commands in [false, true] {
            let part = |text: &'_ str| -> Vec<String> {
                let lines = text.lines().map(str::to_owned);
                lines
                    .filter(|line| line.starts_with("command ") == commands)
                    .collect()
            };
            let (done, plan) = (part(&done), part(&plan));
            for (done, plan) in done.iter().zip(&plan) {
                assert_eq!(done, plan, "{set:?}");
            }
            assert_eq!(done.len(), plan.len(), "{set:?}");
        }
    }
}

// --- calls as plan and strace both show them ---------------------------------------------------------------------

/// A call reduced to what plan and strace both show: its name, and its arguments as far as they are comparable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    name: String,
    arguments: Vec<String>,
}

fn new_call(name: &str, arguments: &[&str]) -> Call {
    Call {
        name: name.into(),
        arguments: arguments.iter().map(|text| text.to_string()).collect(),
    }
}

/// The calls that matter: everything that mounts, makes or enters namespaces, changes root, ids, capabilities, filters,
/// and what mini writes to files of the kernel's or of its own.
const WATCHED: [&str; 51] = [
    "sendto",
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
    "memfd_create",
    "fcntl",
    "chown",
    "chmod",
    "fchown",
    "fchmod",
    "ioctl",
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

/// `SECCOMP_FILTER_FLAG_*` as the number that the plan shows.
fn filter_flags(text: &str) -> String {
    let number = |flag: &str| match flag {
        "SECCOMP_FILTER_FLAG_TSYNC" => 1,
        "SECCOMP_FILTER_FLAG_LOG" => 2,
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
        number => number.parse::<u32>().unwrap(),
    };
    text.split('|').map(number).sum::<u32>().to_string()
}

/// `8192*1024`, `RLIM64_INFINITY`, `1024` as the plan shows them.
fn limit(text: &str) -> String {
    if text.ends_with("INFINITY") {
        return "RLIM_INFINITY".into();
    }
    let factors = text.split('*').map(|factor| factor.parse::<u64>().unwrap());
    factors.product::<u64>().to_string()
}

/// A set of capabilities, as `1<<CAP_CHOWN|1<<CAP_KILL`, 0 or `chown,kill`, sorted.
fn capabilities(text: &str) -> String {
    let names = text.split(['|', ',']).map(|name| {
        let name = name.strip_prefix("1<<").unwrap_or(name);
        name.strip_prefix("CAP_")
            .unwrap_or(name)
            .to_ascii_lowercase()
    });
    let mut names: Vec<String> = names.filter(|name| name != "0" && name != "none").collect();
    names.sort();
    names.join(",")
}

/// The capabilities of this kernel by number.
fn all_capabilities() -> Vec<&'static str> {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    let last: usize = last.trim().parse().unwrap();
    let names = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable \
        net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace \
        sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write \
        audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf \
        checkpoint_restore";
    names.split(' ').take(last + 1).collect()
}

/// The value of `name=…` in a structure as strace shows it.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let start = text
        .find(&format!("{name}="))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    let rest = &text[start + name.len() + 1..];
    &rest[..rest.find([',', '}']).unwrap_or(rest.len())]
}

/// The descriptors of a process that are files, by where these are in the container (`{root}/proc`) or on the host.
type Descriptors = BTreeMap<String, String>;

/// A path as the plan shows it: by its place in the container's root where the kernel got a descriptor.
fn place(text: &str, descriptors: &Descriptors) -> String {
    let number = text.strip_prefix("\"/proc/self/fd/");
    match number.and_then(|number| descriptors.get(number.trim_end_matches('"'))) {
        Some(path) => format!("\"{path}\""),
        None => text.into(),
    }
}

/// What an image is mounted from as the plan shows it, whatever its name or number.
fn source(path: String) -> String {
    match path.as_str() {
        // An index, in the cache or too special for that.
        text if text.contains("/cache/") => "{index}".into(),
        text if text.starts_with("\"/dev/loop") => "{loop}".into(),
        _ => path,
    }
}

/// The options of a mount with the files that they name by descriptors.
fn options(text: &str, descriptors: &Descriptors) -> String {
    let words = text.trim_matches('"').split(',').map(|word| {
        let file = word.strip_prefix("device=/proc/self/fd/");
        let path = file.and_then(|number| descriptors.get(number));
        path.map_or(word.to_owned(), |path| format!("device={path}"))
    });
    match text.starts_with('"') {
        true => format!("\"{}\"", words.collect::<Vec<_>>().join(",")),
        false => text.into(),
    }
}

/// One shape for a call of the plan and one that strace saw; `None` if it is not watched.
fn call(text: &str, id: &str, descriptors: &Descriptors) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (rest, result) = match rest.rsplit_once(" = ") {
        Some((rest, result)) if !result.contains('"') => (rest.trim_end(), result),
        _ => (rest, ""),
    };
    let rest = rest.strip_suffix(')').unwrap_or(rest);
    let mut given = arguments(rest);
    // The C library has some calls only in the form that takes a directory, or by another name.
    let name = match name {
        "mkdirat" | "mknodat" | "fchownat" | "fchmodat" if given[0] == "AT_FDCWD" => {
            given.remove(0);
            name.trim_start_matches('f').trim_end_matches("at")
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
    let places = |text: String| place(&text, descriptors);
    // What mini makes on the host has the container's id in its path, or is seen from the container's directory.
    let own = |path: String| {
        let here = ["\"own/", "\"layer/"]
            .iter()
            .any(|start| path.starts_with(start));
        (here || path.contains(id)).then_some(path)
    };
    let (mut watched, name) = (
        given.clone(),
        if name == "setrlimit" {
            "prlimit64"
        } else {
            name
        },
    );
    match name {
        "mount" => {
            watched = vec![
                source(places(get(0))),
                places(get(1)),
                get(2),
                flags(&get(3)),
                options(&get(4), descriptors),
            ]
        }
        // Somebody else may have been faster to take that loop device.
        "ioctl" if get(1) == "LOOP_CONFIGURE" && !result.contains("EBUSY") => {
            let file = descriptors.get(field(&get(2), "fd"));
            watched = vec![get(1), file.cloned().unwrap_or_default()];
        }
        "ioctl" => return None,
        // Of netlink's messages those about interfaces, addresses and routes, by their types; nothing else is sent.
        "sendto" => match messages_seen(rest) {
            types if types.is_empty() => return None,
            types => watched = vec![types],
        },
        "unshare" => watched = vec![flags(&get(0))],
        "sethostname" => watched.truncate(1),
        // What has just been made has no more than a number; a process is made with the namespaces' flags only.
        "clone3" | "clone" => watched = vec![flags(&clone_flags(rest))],
        // An empty path without a descriptor asks whether the kernel has the call.
        "mount_setattr" | "open_tree" | "move_mount"
            if get(0) == "AT_FDCWD" && get(1) == "\"\"" =>
        {
            return None;
        }
        "mount_setattr" if get(1) == "\"\"" => {
            watched = vec![flags(&get(2)), field(&get(3), "attr_set").into()];
        }
        "mount_setattr" => {
            // The plan leaves out the directory, and strace shows the size.
            let all = if get(0) == "AT_FDCWD" {
                &given[1..]
            } else {
                &given[..]
            };
            let set = all[2].split(['=', ',', '}']).nth(1).unwrap_or_default();
            watched = vec![places(all[0].clone()), all[1].clone(), flags(set)];
        }
        "open_tree" => watched = vec![get(1), flags(&get(2))],
        "move_mount" => watched = vec![get(3), get(4)],
        // rustix looks at what the kernel gave the process (PR_GET_AUXV); questions change nothing, and to the one about
        // filters EFAULT is the answer.
        "prctl" => match get(0).as_str() {
            what if what.starts_with("PR_GET_") || what.starts_with("0x41555856") => return None,
            "PR_CAPBSET_READ" => return None,
            "PR_SET_SECCOMP" if result.contains("EFAULT") => return None,
            // Any number but 0 turns it on.
            "PR_SET_CHILD_SUBREAPER" => watched = vec![get(0)],
            "PR_SET_DUMPABLE" if get(1) == "1" => watched[1] = "SUID_DUMP_USER".into(),
            "PR_CAPBSET_DROP" => watched = vec![get(0), capabilities(&get(1))],
            "PR_CAP_AMBIENT" => watched = vec![get(1), capabilities(&get(2))],
            _ => watched = vec![get(0), get(1)],
        },
        "capset" if get(1).starts_with("0x") => watched = vec![get(1); 3],
        "capset" => {
            let set = |name| capabilities(field(&get(1), name));
            watched = vec![set("effective"), set("permitted"), set("inheritable")];
        }
        "seccomp" => {
            let length = match get(2) {
                text if text.contains("len=") => field(&text, "len").to_owned(),
                text => text,
            };
            watched = vec![get(0), filter_flags(&get(1)), length];
        }
        // A pointer to none.
        "setgroups" => watched = vec![given.last().unwrap().replace("NULL", "[]")],
        // mini's own directories; those in the container are made while a mount finds its place.
        "mkdir" | "mknod" => watched = vec![own(get(0))?],
        "symlink" => watched = vec![get(0), own(get(1))?],
        "chown" => watched = vec![own(get(0))?, get(1), get(2)],
        "chmod" => watched = vec![own(get(0))?],
        // The standard streams, and the terminal.
        "fchmod" if ["0", "1", "2"].contains(&get(0).as_str()) => watched = vec![get(0)],
        "fchmod" => return None,
        "fchown" if get(2) == "-1" => watched[0] = "{terminal}".into(),
        "fchown" => return None,
        // Locks and seals.
        "fcntl" if get(1) == "F_OFD_SETLK" => {
            // Somebody else's range.
            if result.contains("EAGAIN") {
                return None;
            }
            let file = descriptors.get(&get(0)).cloned().unwrap_or_default();
            watched = vec![file, get(1), field(&get(2), "l_start").into()];
        }
        "fcntl" if get(1) == "F_ADD_SEALS" => watched = vec![get(1), flags(&get(2))],
        "fcntl" => return None,
        "prlimit64" => {
            let limits = |text: &str| {
                [
                    limit(field(text, "rlim_cur")),
                    limit(field(text, "rlim_max")),
                ]
            };
            watched = match (get(0).as_str(), get(2).as_str()) {
                // What this process's limits are.
                ("0", "NULL") => return None,
                (_, "NULL") => vec!["{pid}".into(), get(1), "NULL".into()],
                ("0", set) if set.starts_with("0x") => vec![get(1), set.into(), set.into()],
                ("0", set) => {
                    let [soft, hard] = limits(set);
                    vec![get(1), soft, hard]
                }
                (_, set) => vec!["{pid}".into(), get(1), limits(set)[1].clone()],
            };
        }
        _ => {}
    }
    Some(Call {
        name: name.into(),
        arguments: watched,
    })
}

/// The types of rtnetlink(7) messages that a text names.
fn message_types(text: &str) -> String {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let types: Vec<&str> = words.filter(|word| word.starts_with("RTM_")).collect();
    types.join(" ")
}

/// The same of a batch as strace shows it: as numbers, until it has found out what the socket is.
fn messages_seen(text: &str) -> String {
    const NUMBERS: [(&str, &str); 11] = [
        ("0x10", "RTM_NEWLINK"),
        ("0x12", "RTM_GETLINK"),
        ("0x14", "RTM_NEWADDR"),
        ("0x18", "RTM_NEWROUTE"),
        ("0x1a", "RTM_GETROUTE"),
        ("0xa00", "NFT_MSG_NEWTABLE"),
        ("0xa03", "NFT_MSG_NEWCHAIN"),
        ("0xa04", "NFT_MSG_GETCHAIN"),
        ("0xa06", "NFT_MSG_NEWRULE"),
        ("0xa09", "NFT_MSG_NEWSET"),
        ("0xa0c", "NFT_MSG_NEWSETELEM"),
    ];
    let name = |part: &str| {
        let word = part.split([' ', ',']).next().unwrap_or_default();
        let word = word.rsplit('|').next().unwrap_or_default();
        let known = NUMBERS
            .iter()
            .find(|(number, name)| [*number, *name].contains(&word));
        known.map(|(_, name)| *name)
    };
    let mut types: Vec<&str> = text.split("nlmsg_type=").skip(1).filter_map(name).collect();
    if types.iter().any(|name| name.starts_with("NFT_")) {
        // Those that begin a transaction have the number of an RTM_NEWLINK.
        types.retain(|name| name.starts_with("NFT_"));
        types.dedup();
    }
    types.join(" ")
}

fn clone_flags(text: &str) -> String {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("CLONE_"))
        .collect::<Vec<_>>()
        .join("|")
}

// --- what strace saw ---------------------------------------------------------------------------------------------

/// What a process of the log has open, and what it has done.
#[derive(Default, Clone)]
struct Process {
    pid: String,
    descriptors: Descriptors,
    /// The descriptors that it has opened in order to write.
    writable: BTreeSet<String>,
    /// Both as they were when it made another process.
    passed_on: (Descriptors, BTreeSet<String>),
    /// A call that had not returned when the next line was written.
    unfinished: String,
    calls: Vec<Call>,
    executed: bool,
}

impl Process {
    /// Takes note of what a call opens; true if it is one that opens or writes.
    fn opens(&mut self, text: &str) -> bool {
        let Some((name, rest)) = text.split_once('(') else {
            return false;
        };
        if !["open", "openat", "openat2", "write", "pwrite64", "fcntl"].contains(&name) {
            return false;
        }
        let Some((rest, result)) = rest.rsplit_once(" = ") else {
            return true;
        };
        let given = arguments(rest.trim_end().strip_suffix(')').unwrap_or(rest));
        let result = result.split(' ').next().unwrap();
        if name == "fcntl" {
            let copy = given[1].starts_with("F_DUPFD");
            if let (true, Some(path)) = (copy, self.descriptors.get(&given[0]).cloned()) {
                self.descriptors.insert(result.into(), path);
                self.writable.remove(result);
            }
            return copy;
        }
        if name == "write" || name == "pwrite64" {
            // The record is completed when the container is told to go on, and when it has ended.
            let keys = ["pid ", "status ", "bridge "].map(|key| format!("\"{key}"));
            let completed = keys.iter().any(|key| given[1].starts_with(key));
            if !self.writable.contains(&given[0]) || completed {
                return true;
            }
            // Who is on a bridge, and all that is written down about it.
            if self.descriptors[&given[0]].contains("/run/net/") {
                return true;
            }
            let path = match self.descriptors[&given[0]].as_str() {
                path if path.contains("/cache/.new-") => "{index}",
                path => path,
            };
            let text = given[1].replace("\\n\"", "\"");
            let write = new_call("write", &[&format!("\"{path}\""), &text, &given[2]]);
            match self.calls.last_mut() {
                // In pieces: the last one counts.
                Some(last) if last.name == "write" && last.arguments[0] == write.arguments[0] => {
                    *last = write;
                }
                _ => self.calls.push(write),
            }
            return true;
        }
        if result.parse::<u32>().is_err() {
            return true;
        }
        let (directory, path, how) = match name {
            "open" => ("AT_FDCWD", &given[0], &given[1]),
            _ => (given[0].as_str(), &given[1], &given[2]),
        };
        let path = path.trim_matches('"').trim_end_matches('/');
        let full = match (directory, path) {
            // The container's root, opened once.
            ("AT_FDCWD", "root") => "{root}".to_owned(),
            ("AT_FDCWD", path) => path.to_owned(),
            (directory, path) => {
                let above = self.descriptors.get(directory).cloned();
                let above = above.unwrap_or_else(|| "?".into());
                match path.trim_start_matches('/') {
                    "" | "." => above,
                    path => format!("{above}/{path}"),
                }
            }
        };
        // What an archive brings is made below a directory's descriptor.
        let record = path == "record";
        let unpacked = directory != "AT_FDCWD" && how.contains("O_CREAT") && !record;
        let writes = how.contains("O_WRONLY") || how.contains("O_RDWR");
        self.descriptors.insert(result.into(), full);
        self.writable.remove(result);
        if writes && !unpacked {
            self.writable.insert(result.into());
        }
        true
    }
}

/// The calls of the first three processes: supervisor, init, command.
fn seen(log: &str, id: &str) -> [Vec<Call>; 3] {
    let mut processes: Vec<Process> = Vec::new();
    for line in log.lines() {
        let (pid, text) = line.split_once(' ').unwrap();
        let text = text.trim_start();
        let index = processes.iter().position(|process| process.pid == pid);
        let index = index.unwrap_or_else(|| {
            // A process begins with what the one before it had open.
            let above = processes.last().cloned().unwrap_or_default();
            let (descriptors, writable) = above.passed_on;
            processes.push(Process {
                pid: pid.into(),
                descriptors,
                writable,
                executed: above.executed,
                ..Process::default()
            });
            processes.len() - 1
        });
        let process = &mut processes[index];
        let mut text = text.to_owned();
        if text.starts_with("clone") || text.starts_with("fork(") || text.starts_with("vfork(") {
            process.passed_on = (process.descriptors.clone(), process.writable.clone());
        }
        if let Some((_, rest)) = text.split_once(" resumed>") {
            let begun = std::mem::take(&mut process.unfinished);
            text = begun + rest;
        }
        if index > 0 && text.starts_with("execve(") {
            // The container's first execve is the command; what happens afterwards is its own affair.
            process.executed = true;
        }
        if let Some((begun, _)) = text.split_once(" <unfinished") {
            process.unfinished = begun.to_owned();
            continue;
        }
        if process.executed || process.opens(&text) {
            continue;
        }
        if let Some(sealed) = text.strip_prefix("execve(\"/proc/self/fd/") {
            assert!(sealed.ends_with("= 0"), "{text}");
            process.calls.push(new_call("execve", &["sealed"]));
        } else {
            process.calls.extend(call(&text, id, &process.descriptors));
        }
    }
    let mut processes = processes.into_iter().map(|process| process.calls);
    [(); 3].map(|()| processes.next().unwrap_or_default())
}

// --- what the plan announced -------------------------------------------------------------------------------------

/// A call that has to come, or one that may be left out.
#[derive(Debug, Clone)]
struct Planned {
    call: Call,
    optional: bool,
}

/// The calls that a line of the plan stands for, with `*` where it does not say an argument.
fn expected(step: &str, id: &str, user: &str) -> Vec<Planned> {
    let none = Descriptors::new();
    let one = |name: &str, arguments: &[&str]| Planned {
        call: new_call(name, arguments),
        optional: false,
    };
    let maybe = |name: &str, arguments: &[&str]| Planned {
        optional: true,
        ..one(name, arguments)
    };
    // Everything up to the quote that ends the first string.
    let string = |text: &str| format!("\"{}\"", text.split('"').nth(1).unwrap());
    if step.starts_with("memfd_create(") {
        let seals = flags("F_SEAL_SEAL|F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_WRITE");
        return vec![
            one("memfd_create", &["\"mini\"", "*"]),
            one("fcntl", &["F_ADD_SEALS", &seals]),
            one("execve", &["sealed"]),
        ];
    }
    if let Some((archives, mount)) = step.split_once(") = {index}, ") {
        // One that is in the cache is not written again.
        let files = archives.split('"').skip(1).step_by(2);
        let devices: String = files.map(|file| format!("device={file},")).collect();
        let mount = call(&mount.replace("device=…", &devices), id, &none).unwrap();
        let write = maybe("write", &["\"{index}\"", "*", "*"]);
        return vec![write, one("mount", &words(&mount.arguments))];
    }
    if let Some((configure, mount)) = step.split_once(" = {loop}, ") {
        let mount = call(mount, id, &none).unwrap();
        let file = string(configure).replace('"', "");
        let configure = one("ioctl", &["LOOP_CONFIGURE", &file]);
        return vec![configure, one("mount", &words(&mount.arguments))];
    }
    if let Some(maps) = step.strip_prefix("unshare(CLONE_NEWUSER), ") {
        // Without newuidmap there is one line each.
        let mut calls = vec![
            one("unshare", &["CLONE_NEWUSER"]),
            one("write", &["\"/proc/self/setgroups\"", "\"deny\"", "*"]),
        ];
        for map in maps.split(", ") {
            let (kind, line) = map.split_once("map ").unwrap();
            let path = format!("\"/proc/self/{kind}_map\"");
            calls.push(one("write", &[&path, &format!("\"{line}\""), "*"]));
        }
        return calls;
    }
    if step.starts_with("rtnetlink(") && step.contains("= {bridge}") {
        // It is found; if not it is made: where there is no route, and looked at once more.
        let make = ["RTM_GETROUTE", "RTM_GETLINK", "RTM_NEWLINK", "RTM_GETLINK"];
        let mut calls = vec![one("sendto", &["RTM_GETLINK"])];
        calls.extend(make.map(|kind| maybe("sendto", &[kind])));
        let ipv6 = "\"/proc/sys/net/ipv6/conf/mini0/disable_ipv6\"";
        calls.push(maybe("write", &[ipv6, "\"1\"", "*"]));
        calls.push(maybe("sendto", &["RTM_NEWADDR RTM_NEWLINK"]));
        calls.push(one("sendto", &["NFT_MSG_NEWSETELEM"]));
        let table =
            "NFT_MSG_NEWTABLE NFT_MSG_NEWCHAIN NFT_MSG_NEWSET NFT_MSG_NEWRULE NFT_MSG_NEWSETELEM";
        calls.push(maybe("sendto", &[table]));
        calls.push(one("sendto", &["NFT_MSG_GETCHAIN"]));
        let forward = "\"/proc/sys/net/ipv4/ip_forward\"";
        calls.push(maybe("write", &[forward, "\"1\"", "*"]));
        return calls;
    }
    if step.starts_with("socket(AF_INET") {
        let limit = || one("prlimit64", &["RLIMIT_NOFILE", "*", "*"]);
        // Up to the hard one, if it cannot be more.
        let refused = || maybe("prlimit64", &["RLIMIT_NOFILE", "*", "*"]);
        return match step.contains("prlimit") {
            true => vec![limit(), limit(), refused()],
            false => vec![],
        };
    }
    if step.starts_with("nf_tables(") {
        let sent = ["NFT_MSG_NEWSETELEM", "RTM_NEWLINK"];
        return sent.map(|kind| one("sendto", &[kind])).to_vec();
    }
    if step.starts_with("prlimit(RLIMIT_NOFILE, more)") {
        return vec![maybe("prlimit64", &["RLIMIT_NOFILE", "*", "*"])];
    }
    if step.starts_with("unlink(\"net/") {
        return vec![maybe("clone3", &[""])];
    }
    if step.starts_with("rtnetlink(") || step.starts_with("recv({control}) = {messages}, ") {
        return vec![one("sendto", &[&message_types(step)])];
    }
    if step.starts_with("fcntl(") && step.ends_with("F_OFD_SETLK) = {base}") {
        // First alone, then together with others.
        let file = string(step).replace('"', "");
        let lock = || one("fcntl", &[&file, "F_OFD_SETLK", "*"]);
        return vec![lock(), lock()];
    }
    if step.starts_with("open_tree(") {
        let (recursive, depth) = match step.contains("|AT_RECURSIVE") {
            true => ("|AT_RECURSIVE", "AT_EMPTY_PATH|AT_RECURSIVE"),
            false => ("", "AT_EMPTY_PATH"),
        };
        let how = flags(&format!("OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC{recursive}"));
        let path = string(step);
        return vec![
            one("open_tree", &[&path, &how]),
            one("mount_setattr", &[depth, "MOUNT_ATTR_IDMAP"]),
            one("move_mount", &[&path, "MOVE_MOUNT_F_EMPTY_PATH"]),
        ];
    }
    if let Some(raised) = step.strip_prefix("prlimit({pid}, ") {
        let (name, least) = raised
            .trim_end_matches(')')
            .split_once(", at least ")
            .unwrap();
        let least = if least == u64::MAX.to_string() {
            "RLIM_INFINITY"
        } else {
            least
        };
        return vec![
            one("prlimit64", &["{pid}", name, "NULL"]),
            maybe("prlimit64", &["{pid}", name, least]),
        ];
    }
    if step.starts_with("fchmod(0, ") {
        let of = |number: &&str| maybe("fchmod", &[number]);
        return ["0", "1", "2"].iter().map(of).collect();
    }
    if step.starts_with("chown, chmod(") {
        let path = string(step);
        return vec![one("chown", &[&path, "*", "*"]), one("chmod", &[&path])];
    }
    if let Some(rest) = step.strip_prefix("prctl(PR_SET_DUMPABLE, 1), ") {
        let dumpable = one("prctl", &["PR_SET_DUMPABLE", "SUID_DUMP_USER"]);
        let rest = expected(rest, id, user);
        return [dumpable].into_iter().chain(rest).collect();
    }
    if let Some(rest) = step.strip_prefix("write(") {
        // Of /proc/self/mem, the last piece.
        let path = string(step);
        let condition = step.ends_with(" if possible");
        // Without a text it is the record, in which there are times.
        let rest = rest.split_once(", ").map_or("0 bytes)", |(_, rest)| rest);
        let rest = rest.rsplit_once(')').unwrap().0;
        let (text, length) = match rest.strip_suffix(" bytes") {
            Some("0") => ("*".to_owned(), "*".to_owned()),
            Some(length) => ("*".to_owned(), length.to_owned()),
            None => (
                format!("\"{}\"", rest.split('"').nth(1).unwrap()),
                "*".into(),
            ),
        };
        let there = |path: &str| fs::exists(path.replace("{root}", "").trim_matches('"')).unwrap();
        if condition && !there(&path) {
            return vec![];
        }
        let write = |path: &str| one("write", &[path, &text, &length]);
        return match step.ends_with(", gid_map") {
            true => vec![write(&path), write(&path.replace("uid_map", "gid_map"))],
            false => vec![write(&path)],
        };
    }
    if let Some(path) = step.strip_suffix(" if there") {
        // proc and sysfs have the same files in every namespace, so whether it is there can be seen here.
        let path = path.split('"').find(|text| text.starts_with("{root}"));
        let path = path.unwrap();
        let host = path.strip_prefix("{root}").unwrap();
        let Ok(status) = fs::metadata(host) else {
            return vec![];
        };
        let target = format!("\"{path}\"");
        if step.starts_with("mount(\"mask/") {
            let cover = if status.is_dir() {
                "\"mask/directory\""
            } else {
                "\"mask/file\""
            };
            return vec![one("mount", &[cover, &target, "NULL", "MS_BIND", "NULL"])];
        }
        let bind = flags("MS_BIND|MS_REC");
        let restrict = flags("MS_RDONLY|MS_NOSUID|MS_NODEV|MS_NOEXEC|MS_REMOUNT|MS_BIND");
        return vec![
            one("mount", &[&target, &target, "NULL", &bind, "NULL"]),
            one("mount", &["NULL", &target, "NULL", &restrict, "NULL"]),
        ];
    }
    if let Some(kept) = step.strip_prefix("prctl(PR_CAPBSET_DROP) all but ") {
        let kept: Vec<&str> = kept.split(',').collect();
        let dropped = all_capabilities().into_iter();
        let dropped = dropped.filter(|name| !kept.contains(name));
        return dropped
            .map(|name| one("prctl", &["PR_CAPBSET_DROP", name]))
            .collect();
    }
    if step == "capset(kill)" {
        return vec![one("capset", &["kill", "kill", ""])];
    }
    if let Some(rest) = step.strip_prefix("capset(") {
        let (root, rest) = rest
            .split_once(") for root, capset and PR_CAP_AMBIENT_RAISE(")
            .unwrap();
        let other = rest.strip_suffix(") for others").unwrap();
        if user == "0" {
            let set = capabilities(root);
            return vec![one("capset", &[&set, &set, ""])];
        }
        let set = capabilities(other);
        let mut calls = vec![one("capset", &[&set, &set, &set])];
        let raised = all_capabilities().into_iter();
        let raised = raised.filter(|name| other.split(',').any(|word| word == *name));
        calls.extend(raised.map(|name| one("prctl", &["PR_CAP_AMBIENT_RAISE", name])));
        return calls;
    }
    if let Some(rest) = step.strip_prefix("seccomp(SECCOMP_SET_MODE_FILTER, ") {
        let (flags, rest) = rest.split_once(", {").unwrap();
        let length = rest.split(' ').next().unwrap();
        return vec![one("seccomp", &["SECCOMP_SET_MODE_FILTER", flags, length])];
    }
    if let Some(rest) = step.strip_prefix("setrlimit(") {
        let (name, limits) = rest.split_once(", {").unwrap();
        let (soft, hard) = limits.trim_end_matches("})").split_once(", ").unwrap();
        return vec![one("prlimit64", &[name, soft, hard])];
    }
    if step.starts_with("clone3(SIGCHLD); init: ") {
        // What init itself does afterwards.
        let mut steps = step.split("; init: ");
        steps.next();
        let calls = steps.flat_map(|step| expected(step, id, user));
        return [one("clone3", &[""])].into_iter().chain(calls).collect();
    }
    if step.starts_with("mkdir(") || step.starts_with("mknod(") {
        // mkdir and flock.
        let (name, path) = (&step[..5], string(step));
        return vec![one(name, &[&path])];
    }
    let calls = step.split("), ").filter_map(|text| call(text, id, &none));
    calls
        .map(|call| Planned {
            call,
            optional: false,
        })
        .collect()
}

/// Whether the call is the one planned. An ordinary user's strace cannot read the memory of a process that is not
/// dumpable, and shows pointers.
fn fits(planned: &Call, seen: &Call, user: bool) -> bool {
    // A remount takes no flags away from what is mounted there.
    let kept = |planned: &str, seen: &str| {
        let mut more = seen.split('|').filter(|flag| !planned.contains(flag));
        planned.split('|').all(|flag| seen.contains(flag))
            && more.all(|flag| ["MS_RDONLY", "MS_NOSUID", "MS_NODEV", "MS_NOEXEC"].contains(&flag))
    };
    let known = |(planned, seen): (&String, &String)| {
        planned == seen
            || planned == "*"
            || planned.contains("MS_REMOUNT") && kept(planned, seen)
            || user && seen.starts_with("0x") && !planned.starts_with("PR_")
    };
    planned.name == seen.name
        && planned.arguments.len() == seen.arguments.len()
        && planned.arguments.iter().zip(&seen.arguments).all(known)
}

#[test]
fn strace_sees_the_calls_of_the_plan_in_order_and_no_others() {
    let Some(bench) = Bench::new("strace") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    for set in runs(&bench) {
        compare(
            &bench,
            mini().to_str().unwrap(),
            &[&words(&set)[..], &["--", "/guest", "exit", "4"]].concat(),
            false,
        );
    }
}

#[test]
fn the_same_on_a_bridge() {
    let Some(bench) = Bench::new("stracebridge") else {
        return;
    };
    if is_core() || !have_program("strace") {
        return;
    }
    let ports = ["-p", "8080:80", "-p", "127.0.0.1:8053:53/udp"];
    let many = ["-p", "9001-9130:1-130"];
    for options in [&[][..], &["-t"], &["--no-init"], &ports, &many] {
        let rest = [
            &["--net", "bridge"],
            options,
            &[bench.busybox(), "--", "sh", "-c", "exit 4"],
        ];
        compare(&bench, mini().to_str().unwrap(), &rest.concat(), false);
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
    // A binary that the user may write to is sealed first.
    let own = bench.text("own-mini");
    fs::copy(mini(), &own).unwrap();
    std::os::unix::fs::chown(&own, Some(1000), Some(1000)).unwrap();
    let mini = mini().to_str().unwrap().to_owned();
    for (mini, image) in [
        (&mini, bench.busybox()),
        (&mini, &directory),
        (&own, &directory),
    ] {
        for options in [
            &[][..],
            &["-t"],
            &["--net", "host"],
            &["--no-init", "-w", "/w"],
            &["--userns", "keep-id", "--cap-add", "NET_RAW"],
            &["--cap-drop", "ALL", "--masks", "none"],
            &[
                "--privileged",
                "--userns",
                "auto",
                "--device",
                "/dev/zero:/dev/a/zero",
            ],
        ] {
            compare(
                &bench,
                mini,
                &[options, &[image, "--", "sh", "-c", "exit 4"]].concat(),
                true,
            );
        }
    }
}

fn compare(bench: &Bench, mini: &str, rest: &[&str], user: bool) {
    let log = bench.text("log");
    let _ = fs::remove_file(&log);
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
        if rest.contains(&"bridge") {
            // Not on this machine's own network.
            command.extend(["unshare", "-n"]);
        }
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
        mini,
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
    let mut seen = seen(&fs::read_to_string(&log).unwrap(), &id);
    if rest.contains(&"--no-init") {
        assert_eq!(seen[2], Vec::new(), "{rest:?}");
    }
    // What was found out on the way.
    let last = |calls: &[Call], name: &str, index: usize| {
        let mut found = calls.iter().rev().filter(|call| call.name == name);
        found.find_map(|call| call.arguments.get(index).cloned())
    };
    let map = |call: &&Call| call.name == "write" && call.arguments[0].ends_with("/uid_map\"");
    let map = seen[0]
        .iter()
        .find(map)
        .map(|call| call.arguments[1].clone());
    let base = map.as_ref().and_then(|map| map.split(' ').nth(1));
    let base = base.unwrap_or("0").to_owned();
    let command = if rest.contains(&"--no-init") { 1 } else { 2 };
    let uid = last(&seen[command], "setresuid", 0).unwrap();
    let gid = last(&seen[command], "setresgid", 0).unwrap();
    // Byte n of the file of ranges stands for the nth range.
    if let Some(range) = last(&seen[0], "fcntl", 2) {
        let range: u32 = range.parse().unwrap();
        assert_eq!(base, (0x7739_0000 + range * 65536).to_string());
    }
    let values = [
        ("{base}", &base),
        ("{uid}", &uid),
        ("{gid}", &gid),
        ("{groups}", &"*".into()),
    ];
    let mut planned: [Vec<Planned>; 3] = Default::default();
    for line in trace.lines().filter(|line| !line.starts_with("# ")) {
        let (actor, step) = line.split_once(' ').unwrap();
        let mut step = step.trim_start().rsplit_once(" <").unwrap().0.to_owned();
        let actor = ["supervisor", "init", "command"]
            .iter()
            .position(|known| *known == actor)
            .unwrap();
        if !step.ends_with("= {base}") {
            for (name, value) in values {
                step = step.replace(name, value);
            }
        }
        if step == "send({control}, \"ready\")" {
            // So that the supervisor may look at it for the trace; execve makes it so in any case.
            planned[actor].push(Planned {
                call: new_call("prctl", &["PR_SET_DUMPABLE", "SUID_DUMP_USER"]),
                optional: false,
            });
        }
        planned[actor].extend(expected(&step, &id, &uid));
    }
    if rest.contains(&"--no-init") {
        // One process, which is both.
        let [_, init, command] = &mut planned;
        init.append(command);
    }
    // What mini is called in ps, before there is a plan.
    seen[0].retain(|call| {
        call.arguments
            .first()
            .is_none_or(|what| what != "PR_SET_NAME")
    });
    // A process's number is in the path.
    for call in seen
        .iter_mut()
        .flatten()
        .filter(|call| call.name == "write")
    {
        let path = &mut call.arguments[0];
        let number: String = path.chars().filter(char::is_ascii_digit).collect();
        if path.starts_with(&format!("\"/proc/{number}/")) && !number.is_empty() {
            *path = path.replace(&number, "{pid}");
        }
    }
    for (actor, (planned, seen)) in ["supervisor", "init", "command"]
        .iter()
        .zip(planned.iter().zip(&seen))
    {
        let mut seen = seen.iter();
        let mut next = seen.next();
        for planned in planned {
            match next {
                Some(call) if fits(&planned.call, call, user) => next = seen.next(),
                _ if planned.optional => {}
                other => panic!(
                    "{actor}, {rest:?}: planned {:?}\nseen {other:?}, then {:?}",
                    planned.call,
                    seen.next()
                ),
            }
        }
        assert_eq!(next, None, "{actor}, {rest:?}: not in the plan");
    }
}
