//! What a container has in its hands by default, seen from inside: ids, capabilities, no_new_privs, the filter, masks,
//! limits, keys, devices; and each option that changes one of these. tests/attacks.rs tries to get past them.

mod support;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use support::{Bench, Report, Run, guest, have, have_program, is_core, mini, tree};

/// CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT SETFCAP.
const ELEVEN: u64 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 18
    | 1 << 31;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

/// All that this kernel has: what root of a user namespace of its own can have.
fn every_capability() -> u64 {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    (2 << last.trim().parse::<u64>().unwrap()) - 1
}

/// All that the caller has, who may be less than root: nobody has more in the host's user namespace.
fn callers_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
}

/// Inheritable, permitted, effective, bounding, ambient.
fn sets(report: &Report) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|key| u64::from_str_radix(report.get(key), 16).unwrap())
}

/// What the guest sees; mini may say something on standard error.
#[track_caller]
fn report(bench: &Bench, options: &str) -> Report {
    let options: Vec<&str> = options.split_whitespace().collect();
    Report(bench.guest(&options, &["report"]).output().expect(0).stdout)
}

// --- capabilities ----------------------------------------------------------------------------------------------------

#[test]
fn all_five_capability_sets_are_deliberate() {
    let Some(bench) = Bench::new("caps") else {
        return;
    };
    let (all, callers) = (every_capability(), callers_capabilities());
    let root = |caps: u64| [0, caps, caps, caps, 0];
    for (options, expected) in [
        ("", root(ELEVEN)),
        ("-u 1000", [0, 0, 0, ELEVEN, 0]),
        ("-u user", [0, 0, 0, ELEVEN, 0]),
        ("-u 0:1000", root(ELEVEN)),
        ("--userns host", root(ELEVEN)),
        ("--userns auto", root(ELEVEN)),
        ("--userns host -u 1000", [0, 0, 0, ELEVEN, 0]),
        ("--no-new-privs=false", root(ELEVEN)),
        ("--no-new-privs=false -u 1000", [0, 0, 0, ELEVEN, 0]),
        ("--seccomp unconfined", root(ELEVEN)),
        ("--no-init", root(ELEVEN)),
        ("--cap-add NET_ADMIN", root(ELEVEN | NET_ADMIN)),
        ("--cap-add CAP_NET_ADMIN", root(ELEVEN | NET_ADMIN)),
        ("--cap-add cap_net_admin", root(ELEVEN | NET_ADMIN)),
        ("--cap-add CHOWN", root(ELEVEN)),
        ("--cap-drop CHOWN", root(ELEVEN & !1)),
        (
            "--cap-drop CAP_CHOWN --cap-drop SETFCAP",
            root(ELEVEN & !1 & !(1 << 31)),
        ),
        ("--cap-drop ALL", root(0)),
        ("--cap-drop all -u 1000", root(0)),
        ("--cap-drop ALL --cap-add CHOWN", root(1)),
        ("--cap-add ALL", root(all)),
        ("--cap-add ALL --cap-drop NET_ADMIN", root(all & !NET_ADMIN)),
        ("--userns host --cap-add ALL", root(callers)),
        ("--privileged", root(callers)),
        // Ambient, or an ordinary user could not keep it over execve.
        (
            "-u 1000 --cap-add NET_BIND_SERVICE",
            [
                NET_BIND_SERVICE,
                NET_BIND_SERVICE,
                NET_BIND_SERVICE,
                ELEVEN,
                NET_BIND_SERVICE,
            ],
        ),
        (
            "-u 1000 --cap-drop ALL --cap-add NET_BIND_SERVICE",
            [NET_BIND_SERVICE; 5],
        ),
        (
            "-u 1000 --cap-add NET_ADMIN",
            [
                NET_ADMIN,
                NET_ADMIN,
                NET_ADMIN,
                ELEVEN | NET_ADMIN,
                NET_ADMIN,
            ],
        ),
    ] {
        let found = sets(&report(&bench, options));
        assert_eq!(
            found, expected,
            "{options:?}: {found:x?}, not {expected:x?}"
        );
    }
}

#[test]
fn the_callers_capability_sets_do_not_show() {
    let Some(bench) = Bench::new("callercaps") else {
        return;
    };
    if !have_program("setpriv") {
        return;
    }
    // Inheritable and ambient ones of the caller's (CVE-2022-24769).
    let script = format!(
        "exec setpriv --inh-caps +net_raw,+chown --ambient-caps +net_raw,+chown $MINI run -v {}:/guest:ro $BUSYBOX -- /guest report",
        guest()
    );
    let run = bench
        .program("sh")
        .args(&["-c", &script])
        .env("MINI", mini())
        .env("BUSYBOX", bench.busybox());
    assert_eq!(
        sets(&Report(run.output().ok())),
        [0, ELEVEN, ELEVEN, ELEVEN, 0]
    );
}

#[test]
fn a_capability_does_what_it_says() {
    let Some(bench) = Bench::new("capuse") else {
        return;
    };
    // A port below 1024, as an ordinary user; the namespace's own threshold is the usual one.
    let script = "nc -l -p 80 -w 1 < /dev/null; [ $? = 0 ] && echo bound; true";
    let bind = |options: &[&str]| bench.shell(options, script).expect(0).stderr;
    let denied = bind(&["-u", "1000"]);
    assert!(denied.contains("Permission denied"), "{denied}");
    let allowed = bind(&["-u", "1000", "--cap-add", "NET_BIND_SERVICE"]);
    assert!(!allowed.contains("Permission denied"), "{allowed}");
    bench.shell(&[], "touch /f && chown 5:6 /f").ok();
    let output = bench.shell(&["--cap-drop", "CHOWN"], "touch /f && chown 5:6 /f");
    assert!(
        output.status != 0 && output.stderr.contains("not permitted"),
        "{output:?}"
    );
}

/// 125 and one line that names the option and the value.
#[track_caller]
fn refused(bench: &Bench, options: &[&str]) -> String {
    let line = bench.run(options, &["true"]).output().one_line(125);
    let (option, value) = (options[options.len() - 2], options[options.len() - 1]);
    assert!(
        line.contains(option) && line.contains(value),
        "{options:?}: {line}"
    );
    assert!(!bench.path("run/running").exists() || bench.files().is_empty());
    line
}

#[test]
fn unknown_capabilities_are_refused() {
    let Some(bench) = Bench::new("badcaps") else {
        return;
    };
    for name in [
        "BOGUS",
        "CAP_",
        "",
        "CAP_ALL_OF_THEM",
        "NET-ADMIN",
        "64",
        "CAP_CAP_CHOWN",
    ] {
        refused(&bench, &["--cap-add", name]);
        refused(&bench, &["--cap-drop", name]);
    }
}

// --- ids -------------------------------------------------------------------------------------------------------------

/// The first id outside of a container's 65,536.
#[track_caller]
fn base(map: &str) -> u32 {
    let words: Vec<u32> = map
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let [0, base, 65_536] = words[..] else {
        panic!("{map:?} is not a range of 65,536 ids from 0");
    };
    base
}

fn maps(bench: &Bench, options: &[&str]) -> (String, String) {
    let text = bench
        .shell(
            options,
            "cat /proc/self/uid_map; echo -; cat /proc/self/gid_map",
        )
        .ok();
    let (uids, gids) = text.split_once("-\n").unwrap();
    (uids.to_owned(), gids.to_owned())
}

#[test]
fn the_ids_of_a_container_are_a_range_of_its_own() {
    let Some(bench) = Bench::new("ids") else {
        return;
    };
    for options in [
        &[][..],
        &["--userns", "auto"],
        &["-u", "1000"],
        &["--no-init"],
        &["--pid", "host"],
        &["--net", "host"],
        &["--ipc", "host"],
    ] {
        let (uids, gids) = maps(&bench, options);
        let base = base(&uids);
        assert_eq!(uids, gids, "{options:?}");
        assert_eq!(base % 65_536, 0, "{options:?}");
        assert!(
            (0x7739_0000..=0x7ffd_0000).contains(&base),
            "{options:?}: {base:x}"
        );
    }
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    assert_ne!(report(&bench, "").get("ns user"), own.to_str().unwrap());
    for options in ["--userns host", "--privileged"] {
        assert_eq!(
            report(&bench, options).get("ns user"),
            own.to_str().unwrap()
        );
        let options: Vec<&str> = options.split(' ').collect();
        let text = bench
            .run(&options, &["cat", "/proc/self/uid_map"])
            .output()
            .expect(0)
            .stdout;
        let host = fs::read_to_string("/proc/self/uid_map").unwrap();
        assert_eq!(
            text.split_whitespace().collect::<Vec<_>>(),
            host.split_whitespace().collect::<Vec<_>>()
        );
    }
}

#[test]
fn containers_at_the_same_time_have_disjoint_ranges() {
    let Some(bench) = Bench::new("disjoint") else {
        return;
    };
    // Also when they do not know of each other: a run directory of its own for every second one.
    let other = bench.dir("other");
    let mut running = Vec::new();
    for number in 0..6 {
        let mut run = bench.run(
            &[],
            &["sh", "-c", "cat /proc/self/uid_map; echo ready; sleep 1000"],
        );
        if number % 2 == 1 {
            run = run.env("MINI_RUN", format!("{other}/run{number}"));
        }
        running.push(run.start());
    }
    let mut bases = HashSet::new();
    for run in &mut running {
        let text = run.until("ready");
        bases.insert(base(text.lines().next().unwrap()));
    }
    assert_eq!(bases.len(), 6, "{bases:x?}");
    for run in running {
        run.kill(15);
        run.wait();
    }
}

#[test]
fn files_on_a_volume_keep_their_owners() {
    let Some(bench) = Bench::new("owners") else {
        return;
    };
    let volume = bench.dir("volume");
    for (name, owner) in [
        ("root", 0),
        ("user", 1000),
        ("some", 1234),
        ("last", 65_535),
        ("beyond", 65_536),
    ] {
        let path = bench.file(&format!("volume/{name}"), "");
        chown(path, Some(owner), Some(owner)).unwrap();
    }
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    let plain = format!("{volume}:/v");
    let owners = |options: &[&str], names: &[&str]| {
        let paths: Vec<String> = names.iter().map(|name| format!("/v/{name}")).collect();
        let words: Vec<&str> = ["owners"]
            .into_iter()
            .chain(paths.iter().map(String::as_str))
            .collect();
        bench.guest(options, &words).output().ok()
    };
    let inside = owners(&["-v", &plain], &["root", "user", "some", "last", "beyond"]);
    let expected = "/v/root 0 0 100644\n/v/user 1000 1000 100644\n/v/some 1234 1234 100644\n/v/last 65535 65535 100644\n\
        /v/beyond 65534 65534 100644\n";
    assert_eq!(inside, expected);
    // And what is made inside belongs to the same ids outside.
    for (options, name, owner) in [
        (&["-v", &plain][..], "new-root", 0),
        (&["-v", &plain, "-u", "1000"], "new-user", 1000),
        (&["-v", &plain, "--userns", "host"], "new-host", 0),
    ] {
        let output = bench
            .guest(options, &["attack", &format!("create:/v/{name}")])
            .output();
        assert!(output.clone().ok().ends_with(" ok\n"), "{output:?}");
        let status = fs::metadata(bench.path(&format!("volume/{name}"))).unwrap();
        assert_eq!((status.uid(), status.gid()), (owner, owner), "{name}");
    }
    bench
        .shell(&["-v", &plain], "touch /v/given && chown 7:8 /v/given")
        .ok();
    let status = fs::metadata(bench.path("volume/given")).unwrap();
    assert_eq!((status.uid(), status.gid()), (7, 8));
    // The strict form: all of the host's ids are nobody's, and what the container makes has ids of its range.
    let strict = format!("{volume}:/v:noidmap");
    let inside = owners(&["-v", &strict], &["root", "user", "beyond"]);
    assert_eq!(
        inside,
        "/v/root 65534 65534 100644\n/v/user 65534 65534 100644\n/v/beyond 65534 65534 100644\n"
    );
    let text = bench
        .shell(
            &["-v", &strict],
            "touch /v/strict; cut -c12-22 /proc/self/uid_map",
        )
        .ok();
    let status = fs::metadata(bench.path("volume/strict")).unwrap();
    assert_eq!(status.uid().to_string(), text.trim());
}

#[test]
fn the_images_files_show_their_own_owners_and_nothing_is_chowned() {
    let Some(bench) = Bench::new("imageids") else {
        return;
    };
    let image = bench.busybox_directory();
    for (path, owner) in [("etc/profile", 1234), ("srv", 65_535), ("home/user", 1000)] {
        chown(format!("{image}/{path}"), Some(owner), Some(owner)).unwrap();
    }
    let before = tree(image.as_ref());
    let script = "stat -c '%n %u %g' / /bin/busybox /etc/profile /srv /home/user /etc/hosts /dev/null /dev/pts /tmp
        touch /new /srv/new; stat -c '%n %u' /new /srv/new; chown 5 /etc/profile; stat -c '%n %u' /etc/profile";
    let text = |options: &[&str], image: &str| {
        bench
            .mini(&["run"])
            .args(options)
            .args(&[image, "--", "sh", "-c", script])
            .output()
            .ok()
    };
    let expected = "/ 0 0\n/bin/busybox 0 0\n/etc/profile 1234 1234\n/srv 65535 65535\n/home/user 1000 1000\n/etc/hosts 0 0\n\
        /dev/null 0 0\n/dev/pts 0 0\n/tmp 0 0\n/new 0\n/srv/new 0\n/etc/profile 5\n";
    for options in [&[][..], &["--upper", "disk"], &["--userns", "host"]] {
        // A node bound from the host belongs to the host's root.
        let found = text(options, &image).replace("/dev/null 65534 65534", "/dev/null 0 0");
        assert_eq!(found, expected, "{options:?}");
        assert_eq!(
            tree(image.as_ref()),
            before,
            "{options:?}: the image has changed"
        );
    }
    // An archive's, and an archive is not changed either.
    let script = "stat -c '%u %g' /home/user /bin/busybox; su -s /bin/sh user -c 'touch ~/x && stat -c %u ~/x'";
    assert_eq!(bench.shell(&[], script).ok(), "1000 1000\n0 0\n1000\n");
}

#[test]
fn keep_keeps_the_ids_that_were_seen_inside() {
    let Some(mut bench) = Bench::new("keepids") else {
        return;
    };
    bench.keeps = true;
    let script = "touch /root-made /user-made; chown 1000:1000 /user-made; chown 7 /etc/profile";
    let output = bench.shell(&["--keep"], script).expect(0);
    let line = output.stderr.trim_end();
    let upper = line.rsplit(' ').next().unwrap().trim_matches('"');
    for (name, owner) in [("root-made", 0), ("user-made", 1000), ("etc/profile", 7)] {
        assert_eq!(
            fs::metadata(format!("{upper}/{name}")).unwrap().uid(),
            owner,
            "{name}"
        );
    }
}

#[test]
fn keep_id_is_for_ordinary_users() {
    let Some(bench) = Bench::new("keepid") else {
        return;
    };
    chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    let as_user = |program: &[&str]| {
        let setpriv = [
            "--reuid",
            "1000",
            "--regid",
            "1000",
            "--clear-groups",
            "env",
            "PATH=/nowhere",
        ];
        bench.program("setpriv").args(&setpriv).args(program)
    };
    let works = have_program("setpriv")
        && as_user(&["/usr/bin/unshare", "-Urm", "/bin/true"])
            .output()
            .status
            == 0;
    if !have(
        "user",
        works,
        "user namespaces are not for ordinary users here",
    ) {
        return;
    }
    let mini = mini();
    let run = |options: &[&str], script: &str| {
        let run = as_user(&[mini.to_str().unwrap(), "run"]).args(options);
        run.args(&[bench.busybox(), "--", "sh", "-c", script])
            .output()
    };
    let volume = format!("{}:/v", bench.dir("volume"));
    chown(bench.path("volume"), Some(1000), Some(1000)).unwrap();
    let text = run(
        &["--userns", "keep-id", "-v", &volume],
        "id -u; id -g; touch /v/new; stat -c %u /v/new",
    )
    .ok();
    assert_eq!(text, "1000\n1000\n1000\n");
    assert_eq!(fs::metadata(bench.path("volume/new")).unwrap().uid(), 1000);
    assert_eq!(run(&[], "id -u").ok(), "0\n");
    // For root there is nothing to keep.
    refused(&bench, &["--userns", "keep-id"]);
    refused(&bench, &["--userns", "bogus"]);
}

// --- no_new_privs and the filter ---------------------------------------------------------------------------------------

#[test]
fn no_new_privs_and_the_filter_are_on() {
    let Some(bench) = Bench::new("nnp") else {
        return;
    };
    for (options, no_new_privs, seccomp) in [
        ("", "1", "2"),
        ("-u 1000", "1", "2"),
        ("--no-init", "1", "2"),
        ("-t", "1", "2"),
        ("--userns host", "1", "2"),
        ("--cap-add ALL", "1", "2"),
        ("--no-new-privs", "1", "2"),
        ("--no-new-privs=false", "0", "2"),
        ("--no-new-privs=false -u 1000", "0", "2"),
        ("--seccomp unconfined", "1", "0"),
        ("--seccomp log", "1", "2"),
        ("--privileged", "0", "0"),
    ] {
        let text = report(&bench, options).0.replace('\r', "");
        let found = Report(text);
        assert_eq!(
            (found.get("NoNewPrivs"), found.get("Seccomp")),
            (no_new_privs, seccomp),
            "{options}"
        );
        // Only then a program with the setuid bit could become somebody.
        let nosuid = found.mount("/").has("nosuid");
        assert_eq!(nosuid, no_new_privs == "1", "{options}");
    }
}

/// `number name verdict` for 0 to 600, as the table in the source predicts it for the default capabilities and
/// arguments that are all zero.
fn predicted() -> Vec<(String, String, String)> {
    let path = format!(
        "{}/tests/plans/seccomp-{}",
        env!("CARGO_MANIFEST_DIR"),
        std::env::consts::ARCH
    );
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [number, name, verdict] = words[..] else {
                panic!("{path}: {line:?}");
            };
            assert!(["allow", "EPERM", "ENOSYS"].contains(&verdict), "{line:?}");
            (number.to_owned(), name.to_owned(), verdict.to_owned())
        })
        .collect()
}

/// uretprobe and uprobe on x86_64: since Linux 6.14 the kernel lets these two past every filter, as only its own
/// trampolines make them; from anywhere else they fail (ENXIO) or kill the process.
fn past_every_filter(number: &str, verdict: &str) -> bool {
    cfg!(target_arch = "x86_64")
        && ["335", "336"].contains(&number)
        && ["ENXIO", "kill"].contains(&verdict)
}

/// What the guest's probe says (tests/guest/src/filter.rs), by number.
fn verdicts(bench: &Bench, options: &[&str], words: &[&str]) -> Vec<(String, String)> {
    let text = bench.guest(options, words).output().expect(0).stdout;
    let pairs = text
        .lines()
        .map(|line| line.split_once(' ').unwrap_or_else(|| panic!("{line:?}")));
    pairs
        .map(|(call, verdict)| (call.to_owned(), verdict.to_owned()))
        .collect()
}

#[test]
fn every_system_call_has_the_outcome_that_the_table_predicts() {
    let Some(bench) = Bench::new("syscalls") else {
        return;
    };
    let predicted = predicted();
    let numbers: Vec<String> = (0..=600).map(|number: u32| number.to_string()).collect();
    assert_eq!(
        predicted.iter().map(|line| &line.0).collect::<Vec<_>>(),
        numbers.iter().collect::<Vec<_>>()
    );
    for options in [
        &[][..],
        &["-u", "1000"],
        &["--no-new-privs=false", "-u", "1000"],
        &["--userns", "host"],
    ] {
        let found = verdicts(&bench, options, &["syscalls"]);
        let wrong: Vec<String> = (found.iter().zip(&predicted))
            .filter(|((number, verdict), line)| {
                *verdict != line.2 && !past_every_filter(number, verdict)
            })
            .map(|((number, verdict), line)| {
                format!("{number} {}: {verdict}, not {}", line.1, line.2)
            })
            .collect();
        assert_eq!((found.len(), wrong), (601, vec![]), "{options:?}");
    }
}

#[test]
fn log_and_unconfined_deny_nothing() {
    let Some(bench) = Bench::new("seccomplog") else {
        return;
    };
    for mode in ["log", "unconfined"] {
        let found = verdicts(&bench, &["--seccomp", mode], &["syscalls"]);
        let denied: Vec<_> = found
            .iter()
            .filter(|(number, verdict)| verdict != "allow" && !past_every_filter(number, verdict))
            .collect();
        assert_eq!((found.len(), denied), (601, vec![]), "{mode}");
    }
}

#[test]
fn foreign_abis_do_not_exist() {
    let Some(bench) = Bench::new("abis") else {
        return;
    };
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    // x32: read, getpid, execve, bpf, its own numbers from 512 on, none. i386: exit, getpid, mount, execve, none.
    let x32 = [
        "0x40000000",
        "0x40000027",
        "0x4000003b",
        "0x40000141",
        "0x40000200",
        "0x40000221",
        "0x7fffffff",
    ];
    let i386 = ["i386-1", "i386-20", "i386-21", "i386-11", "i386-600"];
    let calls = [&x32[..], &i386, &["0x80000000", "0xffffffff"]].concat();
    let words = [&["verdicts"][..], &calls].concat();
    for options in [
        &[][..],
        &["--privileged", "--seccomp", "log"],
        &["--seccomp", "unconfined"],
        &["--cap-add", "ALL"],
    ] {
        let expected = if options.is_empty() || options[0] == "--cap-add" {
            "ENOSYS"
        } else {
            "allow"
        };
        for (call, verdict) in verdicts(&bench, options, &words) {
            assert_eq!(verdict, expected, "{options:?} {call}");
        }
    }
}

#[test]
fn arguments_are_looked_at_where_they_matter() {
    let Some(bench) = Bench::new("arguments") else {
        return;
    };
    let (clone, ioctl, personality, socket) = if cfg!(target_arch = "x86_64") {
        (56, 16, 135, 41)
    } else {
        (220, 29, 92, 198)
    };
    let mut calls = Vec::new();
    // Each namespace alone and among the flags of a thread; threads, processes and vfork.
    for flag in [
        0x0002_0000u64,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        calls.push((format!("{clone}:{flag:#x}"), "EPERM"));
        calls.push((format!("{clone}:{:#x}", flag | 0x003d_0f00), "EPERM"));
    }
    for flags in [0u64, 17, 0x4111, 0x0120_0011, 0x003d_0f00] {
        calls.push((format!("{clone}:{flags:#x}"), "allow"));
    }
    for (request, verdict) in [
        (0x5412u64, "EPERM"),
        (0x541c, "EPERM"),
        (0x1_0000_5412, "EPERM"),
        (0xffff_ffff_0000_541c, "EPERM"),
        (0x5413, "allow"),
        (0x5401, "allow"),
    ] {
        calls.push((format!("{ioctl}:0:{request:#x}"), verdict));
    }
    for (value, verdict) in [
        (0u64, "allow"),
        (8, "allow"),
        (0x2_0000, "allow"),
        (0x2_0008, "allow"),
        (0xffff_ffff, "allow"),
        (0x4_0000, "EPERM"),
        (0x40_0000, "EPERM"),
    ] {
        calls.push((format!("{personality}:{value:#x}"), verdict));
    }
    for (family, verdict) in [
        (1u64, "allow"),
        (2, "allow"),
        (10, "allow"),
        (16, "allow"),
        (17, "allow"),
        (38, "EPERM"),
        (40, "EPERM"),
        (0x1_0000_0028, "EPERM"),
        (0xffff_ffff_0000_0026, "EPERM"),
    ] {
        calls.push((format!("{socket}:{family:#x}:1:0"), verdict));
    }
    let words: Vec<&str> = ["verdicts"]
        .into_iter()
        .chain(calls.iter().map(|(call, _)| call.as_str()))
        .collect();
    let found = verdicts(&bench, &[], &words);
    let wrong: Vec<String> = (found.iter().zip(&calls))
        .filter(|((_, verdict), (_, expected))| verdict != expected)
        .map(|((call, verdict), (_, expected))| format!("{call}: {verdict}, not {expected}"))
        .collect();
    assert_eq!((found.len(), wrong), (calls.len(), vec![]));
}

#[test]
fn the_filter_follows_the_capabilities() {
    let Some(bench) = Bench::new("filtercaps") else {
        return;
    };
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    // mount, unshare, clone(NEWNS), setns; chroot; settimeofday; open_by_handle_at; kcmp; syslog; reboot.
    for (capability, calls) in [
        ("SYS_ADMIN", &["165", "272", "56:0x20000", "308"][..]),
        ("SYS_TIME", &["164"]),
        ("DAC_READ_SEARCH", &["304"]),
        ("SYS_PTRACE", &["312"]),
        ("SYSLOG", &["103"]),
        ("SYS_BOOT", &["169"]),
        ("SYS_PACCT", &["163"]),
    ] {
        let words = [&["verdicts"][..], calls].concat();
        for (call, verdict) in verdicts(&bench, &[], &words) {
            assert_eq!(verdict, "EPERM", "{call}");
        }
        for (call, verdict) in verdicts(&bench, &["--cap-add", capability], &words) {
            assert_eq!(verdict, "allow", "--cap-add {capability}: {call}");
        }
    }
    // chroot is granted, until it is taken away.
    assert_eq!(verdicts(&bench, &[], &["verdicts", "161"])[0].1, "allow");
    assert_eq!(
        verdicts(&bench, &["--cap-drop", "SYS_CHROOT"], &["verdicts", "161"])[0].1,
        "EPERM"
    );
}

#[test]
fn a_profile_from_a_file() {
    let Some(bench) = Bench::new("profile") else {
        return;
    };
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let profile = bench.file(
        "profile.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
                        {"names":["sethostname"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    let options = ["--seccomp", profile.as_str()];
    if is_core() {
        let line = refused(&bench, &options);
        assert!(line.contains("built without the feature json"), "{line}");
        return;
    }
    let found = verdicts(
        &bench,
        &options,
        &["verdicts", "83", "258", "170", "250", "56:0x10000000"],
    );
    let found: Vec<&str> = found.iter().map(|(_, verdict)| verdict.as_str()).collect();
    assert_eq!(found, ["ENOSPC", "ENOSPC", "EPERM", "allow", "allow"]);
    let output = bench.shell(&options, "mkdir /x");
    assert!(output.stderr.contains("No space left"), "{output:?}");
    // Refused in one line that names the file.
    for (name, contents) in [
        ("truncated.json", r#"{"defaultAction":"SCMP_ACT_AL"#),
        ("wrong.json", r#"{"defaultAction":5}"#),
        ("action.json", r#"{"defaultAction":"SCMP_ACT_BOGUS"}"#),
        ("empty.json", ""),
        ("deep.json", &"[".repeat(100_000)),
    ] {
        let path = bench.file(name, contents);
        let line = refused(&bench, &["--seccomp", &path]);
        assert!(!line.contains("panick"), "{line}");
    }
    refused(&bench, &["--seccomp", "/no/such.json"]);
}

// --- /proc, /sys ---------------------------------------------------------------------------------------------------------

/// The OCI engines' default set.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_list",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

#[test]
fn masked_and_read_only_paths() {
    let Some(bench) = Bench::new("masks") else {
        return;
    };
    let inside = bench.report(&[]);
    let mut throttle: Vec<String> = Vec::new();
    for entry in fs::read_dir("/sys/devices/system/cpu").unwrap().flatten() {
        let path = entry.path().join("thermal_throttle");
        if path.exists() {
            throttle.push(path.to_str().unwrap().to_owned());
        }
    }
    let mut count = 0;
    for path in MASKED
        .into_iter()
        .chain(throttle.iter().map(String::as_str))
    {
        let read = format!("read:{path}");
        let Ok(status) = fs::metadata(path) else {
            assert_eq!(bench.attack("", &read), "ENOENT");
            continue;
        };
        count += 1;
        let cover = inside.mount(path);
        assert!(cover.kind == "tmpfs" && cover.has("ro"), "{cover:?}");
        let owners = bench.guest(&[], &["owners", path]).output().ok();
        if status.is_dir() {
            assert_eq!(bench.attack("", &read), "empty", "{path}");
            assert_eq!(
                bench.attack("", &format!("create:{path}/x")),
                "EROFS",
                "{path}"
            );
        } else {
            assert_eq!(bench.attack("", &read), "EACCES", "{path}");
            assert_eq!(owners, format!("{path} 65534 65534 100000\n"));
        }
        assert!(!bench.attack("--masks none", &read).is_empty());
    }
    assert!(count >= 4, "this kernel has hardly anything to mask");
    for path in READ_ONLY {
        if fs::exists(path).unwrap() {
            assert!(inside.mount(path).has("ro"), "{path}");
        }
    }
    assert!(inside.mount("/sys").has("ro"));
    // Nothing of that.
    for options in ["--masks none", "--privileged"] {
        let inside = report(&bench, options);
        let below = |mount: &support::Mount| {
            mount.at.starts_with("/proc/") || mount.at.starts_with("/sys/")
        };
        let left: Vec<_> = inside
            .mounts()
            .into_iter()
            .filter(below)
            .map(|mount| mount.at)
            .collect();
        assert_eq!(left, Vec::<String>::new(), "{options}");
        assert_eq!(
            inside.mount("/sys").has("ro"),
            options != "--privileged",
            "{options}"
        );
    }
    refused(&bench, &["--masks", "bogus"]);
}

#[test]
fn the_masks_are_there_with_the_hosts_proc_as_well() {
    let Some(bench) = Bench::new("hostmasks") else {
        return;
    };
    for options in ["--pid host", "--pid host --userns host", "--net host"] {
        let inside = report(&bench, options);
        assert!(inside.mount("/proc/sys").has("ro"), "{options}");
        let read = bench.attack(options, "read:/proc/keys");
        assert!(read == "EACCES" || read == "empty", "{options}: {read}");
        assert_eq!(
            bench.attack(options, "read:/sys/firmware"),
            "empty",
            "{options}"
        );
    }
    // On the host itself nothing is covered.
    assert!(fs::read("/proc/keys").is_ok());
    assert!(fs::read_dir("/sys/firmware").unwrap().count() > 0);
}

#[test]
fn sysctls_of_namespaces_can_be_set_and_no_others() {
    let Some(bench) = Bench::new("sysctl") else {
        return;
    };
    for (key, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "5\t5"),
        ("net.core.somaxconn", "1234"),
        ("kernel.shm_rmid_forced", "1"),
        ("kernel.msgmax", "4096"),
        ("kernel.sem", "250\t32000\t100\t128"),
        ("fs.mqueue.msg_max", "20"),
    ] {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let before = fs::read_to_string(&path).unwrap();
        let option = format!("{key}={value}");
        let text = bench
            .run(&["--sysctl", &option], &["cat", &path])
            .output()
            .ok();
        assert_eq!(text.trim_end(), value, "{key}");
        assert_ne!(before.trim_end(), value, "{key}: choose another value");
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            before,
            "{key}: the host's has changed"
        );
    }
    for value in [
        "kernel.core_pattern=core",
        "kernel.hostname=x",
        "kernel.panic=0",
        "vm.swappiness=60",
        "fs.file-max=1000",
        "kernel.ns_last_pid=5",
        "user.max_user_namespaces=5",
        "net.ipv4.ip_forward",
        "=1",
        "net.=1",
        "net/../kernel/panic=0",
        "net.ipv4/../../kernel/panic=0",
        "net..ipv4=1",
        "/net/ipv4/ip_forward=1",
    ] {
        refused(&bench, &["--sysctl", value]);
    }
    // Not where the namespace is the host's.
    refused(
        &bench,
        &["--net", "host", "--sysctl", "net.ipv4.ip_forward=1"],
    );
    refused(&bench, &["--ipc", "host", "--sysctl", "kernel.msgmax=4096"]);
    // A key or a value that the kernel does not have, once the container is being made.
    let line = bench
        .run(&["--sysctl", "net.ipv4.no_such=1"], &["true"])
        .output()
        .one_line(125);
    assert!(line.contains("no_such"), "{line}");
    let line = bench
        .run(&["--sysctl", "kernel.shm_rmid_forced=many"], &["true"])
        .output()
        .one_line(125);
    assert!(line.contains("shm_rmid_forced"), "{line}");
}

#[test]
fn anybody_may_ping() {
    let Some(bench) = Bench::new("ping") else {
        return;
    };
    let text = bench
        .shell(&[], "cat /proc/sys/net/ipv4/ping_group_range")
        .ok();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "65535"]);
    for options in [
        &[][..],
        &["-u", "1000"],
        &["-u", "1234:65535"],
        &["--cap-drop", "ALL"],
        &["--userns", "host", "-u", "1000"],
    ] {
        // SOCK_DGRAM of IPPROTO_ICMP.
        assert_eq!(
            bench.attack(&options.join(" "), "socket:2:2:1"),
            "ok",
            "{options:?}"
        );
    }
    // busybox's ping knows raw sockets only; Debian's is tried in tests/debian.rs.
    let ping = "ping -c 1 -W 2 127.0.0.1 > /dev/null";
    let output = bench.shell(&[], ping).expect(1);
    assert!(output.stderr.contains("permission denied"), "{output:?}");
    bench.shell(&["--cap-add", "NET_RAW"], ping).ok();
    let user = ["-u", "1000", "--cap-add", "NET_RAW"];
    bench.shell(&user, ping).ok();
}

// --- what is left of the caller's --------------------------------------------------------------------------------------

#[test]
fn limits_groups_umask_are_set_deliberately() {
    let Some(bench) = Bench::new("deliberate") else {
        return;
    };
    if !have_program("setpriv") || !have_program("prlimit") {
        return;
    }
    let caller = |limits: &[&str], options: &str| {
        let guest = format!("{}:/guest:ro", guest());
        let mini = mini();
        let run =
            bench
                .program("prlimit")
                .args(limits)
                .args(&["setpriv", "--groups", "4,24,27,65533"]);
        let run = run.args(&[mini.to_str().unwrap(), "run", "-v", &guest]);
        let options: Vec<&str> = options.split_whitespace().collect();
        let mut run = run
            .args(&options)
            .args(&[bench.busybox(), "--", "/guest", "report"]);
        unsafe extern "C" {
            fn umask(mask: u32) -> u32;
        }
        // SAFETY: a system call with a number.
        unsafe {
            run.command.pre_exec(|| {
                umask(0o177);
                Ok(())
            });
        }
        Report(run.output().ok())
    };
    let limit = |report: &Report, name: &str| -> (String, String) {
        let line = report
            .all("limit")
            .into_iter()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim_start();
        let mut words = line.split(' ');
        (
            words.next().unwrap().to_owned(),
            words.next().unwrap().to_owned(),
        )
    };
    let much = [
        "--core=unlimited:unlimited",
        "--nofile=20000:20000",
        "--stack=67108864:unlimited",
    ];
    for options in ["", "-u 1000", "--userns host", "--no-init", "--privileged"] {
        let inside = caller(&much, options);
        // Not 0: see limits() in src/host.rs.
        let core = limit(&inside, "Max core file size");
        assert_eq!(core, ("1".into(), "1".into()), "{options}");
        assert_eq!(limit(&inside, "Max open files").0, "1024", "{options}");
        let hard: u32 = limit(&inside, "Max open files").1.parse().unwrap();
        assert!((1024..=524_288).contains(&hard), "{options}: {hard}");
        assert_eq!(limit(&inside, "Max stack size").0, "8388608", "{options}");
        assert_eq!(inside.get("Umask"), "0022", "{options}");
        let groups: Vec<&str> = inside.get("Groups").split_whitespace().collect();
        for foreign in ["4", "24", "27", "65533", "65534"] {
            assert!(!groups.contains(&foreign), "{options}: {groups:?}");
        }
    }
    // Where the caller has less, there is not more.
    let inside = caller(&["--nofile=100:200"], "");
    assert_eq!(
        limit(&inside, "Max open files"),
        ("200".to_owned(), "200".to_owned())
    );
    // --ulimit wins.
    let inside = caller(&much, "--ulimit core=4096:8192 --ulimit nofile=50:60");
    assert_eq!(
        limit(&inside, "Max core file size"),
        ("4096".to_owned(), "8192".to_owned())
    );
    assert_eq!(
        limit(&inside, "Max open files"),
        ("50".to_owned(), "60".to_owned())
    );
}

#[test]
fn init_has_hardly_any_privilege_and_cannot_be_looked_at() {
    let Some(bench) = Bench::new("initcaps") else {
        return;
    };
    const KILL: u64 = 1 << 5;
    for options in [
        &[][..],
        &["-u", "1000"],
        &["--userns", "host"],
        &["--cap-add", "ALL"],
        &["--privileged"],
        &["--cap-drop", "ALL"],
    ] {
        let text = bench
            .run(options, &["cat", "/proc/1/status"])
            .output()
            .expect(0)
            .stdout;
        let status = Report(text.replace(":\t", " "));
        let [inheritable, permitted, effective, _, ambient] = sets(&status);
        let all = options == ["--cap-add", "ALL"] || options == ["--privileged"];
        let granted = if all { u64::MAX } else { ELEVEN };
        assert_eq!(
            (inheritable, permitted & !KILL, effective & !KILL, ambient),
            (0, 0, 0, 0),
            "{options:?}"
        );
        assert_eq!(status.get("Name"), "mini");
        // Whoever could make it execute a program would otherwise get all that its bounding set holds.
        let more = sets(&status)[3] & !granted;
        let without = more == 0 || status.get("NoNewPrivs") == "1";
        assert!(without, "{options:?}: init could get {more:x}");
        // Whose /proc/PID/… are root's although it runs as the container's root: not dumpable.
        if options.is_empty() {
            let text = bench
                .guest(
                    options,
                    &["owners", "/proc/1/environ", "/proc/self/environ"],
                )
                .output()
                .ok();
            assert_eq!(
                text,
                "/proc/1/environ 65534 65534 100400\n/proc/self/environ 0 0 100400\n"
            );
        }
    }
    // It does its work nonetheless: signals, orphans of every user, and the status.
    let output = bench.guest(&["-u", "1000"], &["orphans", "5"]).output();
    assert_eq!(output.ok(), "zombies 0\n");
    bench.shell(&["-u", "1000"], "exit 7").expect(7);
    let mut run = bench.guest(&["-u", "1000"], &["signals"]).start();
    run.until("ready");
    run.kill(15);
    run.until("signal 15");
    run.kill(12);
    run.wait().expect(0);
}

#[test]
fn standard_output_and_error_can_be_opened_by_name() {
    let Some(bench) = Bench::new("stdout") else {
        return;
    };
    // Pipes of the caller's, who is root.
    for options in [
        "",
        "-u 1000",
        "--userns host",
        "--userns host -u 1000",
        "--no-init",
        "--cap-drop ALL",
        "-u 1000 --cap-drop ALL",
    ] {
        let words: Vec<&str> = options.split_whitespace().collect();
        let output = bench
            .guest(
                &words,
                &[
                    "attack",
                    "say:/dev/stdout",
                    "say:/dev/stderr",
                    "say:/proc/self/fd/1",
                ],
            )
            .output();
        assert_eq!(
            output.stdout,
            "said\nsay:/dev/stdout ok\nsay:/dev/stderr ok\nsaid\nsay:/proc/self/fd/1 ok\n",
            "{options}"
        );
        assert_eq!(
            (output.status, output.stderr.as_str()),
            (0, "said\n"),
            "{options}"
        );
    }
    // With a terminal as well.
    let output = bench
        .guest(
            &["-t", "-u", "1000"],
            &["attack", "say:/dev/stdout", "say:/dev/tty"],
        )
        .output()
        .expect(0);
    assert_eq!(
        output.stdout.replace('\r', ""),
        "said\nsay:/dev/stdout ok\nsaid\nsay:/dev/tty ok\n"
    );
    // And from standard input by name.
    let run = bench
        .run(&["-i", "-u", "1000"], &["cat", "/dev/stdin"])
        .input("typed");
    assert_eq!(run.output().ok(), "typed");
}

// --- options that open something -----------------------------------------------------------------------------------------

#[test]
fn devices_that_were_asked_for() {
    let Some(bench) = Bench::new("device") else {
        return;
    };
    let node = bench.text("node");
    Run::new("mknod")
        .args(&["-m", "600", &node, "c", "1", "5"])
        .output()
        .ok();
    let before = tree(node.as_ref());
    for (value, path) in [
        ("/dev/zero:/dev/nothing".to_owned(), "/dev/nothing"),
        (format!("{node}:/dev/sub/own"), "/dev/sub/own"),
        ("/dev/loop0".to_owned(), "/dev/loop0"),
    ] {
        if value == "/dev/loop0"
            && !have(
                "loop",
                fs::exists("/dev/loop0").unwrap(),
                "there is no /dev/loop0",
            )
        {
            continue;
        }
        for more in ["", "--userns host", "--masks none"] {
            let options = format!("--device {value} {more}");
            let found = bench.attack(&options, &format!("both:{path}"));
            assert_eq!(found, "ok", "{options}");
        }
        assert_ne!(
            bench.attack("", &format!("read:{path}")),
            "ok",
            "{path} is there anyway"
        );
    }
    assert_eq!(
        bench.attack(&format!("--device {node}:/dev/own"), "read:/dev/own"),
        "ok"
    );
    assert_eq!(
        bench.attack(
            &format!("--device {node}:/dev/own -u 1000"),
            "read:/dev/own"
        ),
        "EACCES"
    );
    assert_eq!(tree(node.as_ref()), before, "the node has changed");
    refused(&bench, &["--device", "/dev/no-such-device"]);
    refused(&bench, &["--device", "/etc/passwd"]);
    refused(&bench, &["--device", &node]);
    refused(&bench, &["--device", "/dev/zero:relative"]);
    refused(&bench, &["--device", "/dev/zero:/dev/../etc/x"]);
}

#[test]
fn privileged_undoes_all_of_it() {
    let Some(bench) = Bench::new("privileged") else {
        return;
    };
    let inside = report(&bench, "--privileged");
    assert_eq!(sets(&inside)[2], callers_capabilities());
    assert_eq!(
        (inside.get("NoNewPrivs"), inside.get("Seccomp")),
        ("0", "0")
    );
    assert_eq!(
        inside.get("ns user"),
        fs::read_link("/proc/self/ns/user")
            .unwrap()
            .to_str()
            .unwrap()
    );
    for (at, option) in [("/sys", "rw"), ("/proc", "rw")] {
        assert!(inside.mount(at).has(option), "{at}");
    }
    assert_eq!(
        bench.attack("--privileged", "rewrite:/proc/sys/kernel/core_pattern"),
        "ok"
    );
    assert_eq!(
        bench.attack("--privileged", "write:/sys/kernel/rcu_normal"),
        "ok"
    );
    assert_eq!(bench.attack("--privileged", "mount:tmpfs"), "ok");
    // The host's devices.
    let names: Vec<&str> = inside
        .all("dev")
        .iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    for name in ["kmsg", "loop0"] {
        assert!(
            names.contains(&name) || !fs::exists(format!("/dev/{name}")).unwrap(),
            "{name}: {names:?}"
        );
    }
    // Its own namespaces it has all the same, and its own terminals.
    for name in ["pid", "net", "ipc", "uts", "mnt"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(inside.get(&format!("ns {name}")), host.to_str().unwrap());
    }
    assert_eq!(inside.mount("/dev/pts").kind, "devpts");
}

#[test]
fn trace_says_what_was_obtained() {
    let Some(bench) = Bench::new("obtained") else {
        return;
    };
    let said = |options: &[&str]| {
        let output = bench
            .run(&[&["--trace"], options].concat(), &["true"])
            .output()
            .expect(0);
        // When the set-up is over, right before the filter is loaded and the command executed.
        let start = output.stderr.find("\"ready\")").expect("not ready");
        assert!(output.stderr[start..].contains("execve("));
        let lines = output.stderr[start..].lines();
        let lines: Vec<&str> = lines.filter_map(|line| line.strip_prefix("# ")).collect();
        lines.join("\n").to_lowercase()
    };
    let text = said(&[]);
    for word in [
        "no_new_privs",
        "seccomp",
        "instructions",
        "cap",
        "65536",
        "mask",
        "user:[",
        "mnt:[",
        "pid:[",
        "net:[",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_ne!(said(&["--privileged"]), text);
    // Without --trace nobody is bothered.
    assert_eq!(bench.run(&[], &["true"]).output().ok(), "");
}
