//! Known ways out of a container, tried by the guest (tests/guest/src/attacks.rs) from inside and by an ordinary user
//! from outside. Every one is tried twice: with the defence, where it has to fail with the errno that is written here,
//! and without it, where it has to succeed, so that no test passes because the attack itself is broken. Where several
//! defences stand behind each other, each is tried alone as far as the options allow.

mod support;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use support::{Bench, Report, Run, Running, guest, have, have_program, mini, outcome, tree};

// --- tables of attacks ---------------------------------------------------------------------------------------------

/// What switches a defence off, or all of them.
const UNFILTERED: &str = "--seccomp unconfined";
const UNMASKED: &str = "--masks none";
const HOST_IDS: &str = "--userns host";
const PRIVILEGED: &str = "--privileged";

/// An attack, and what comes of it under which options: first the defaults, last what lets it succeed. Several errnos,
/// separated by `|`, depend on how the kernel was built.
struct Row<'a> {
    attack: &'a str,
    outcomes: &'a [(&'a [&'a str], &'a str)],
}

const fn row<'a>(attack: &'a str, outcomes: &'a [(&'a [&'a str], &'a str)]) -> Row<'a> {
    Row { attack, outcomes }
}

/// Tries all of them and lists what came out otherwise.
#[track_caller]
fn try_all(bench: &Bench, common: &str, rows: &[Row]) {
    let mut wrong = String::new();
    for Row { attack, outcomes } in rows {
        let (first, last) = (outcomes.first().unwrap(), outcomes.last().unwrap());
        assert!(first.0.is_empty(), "{attack}: the defaults come first");
        assert_ne!(first.1, last.1, "{attack}: nothing is shown");
        for (options, expected) in *outcomes {
            let found = bench.attack(&format!("{common} {}", options.join(" ")), attack);
            if !expected.split('|').any(|one| one == found) {
                writeln!(wrong, "{attack} {options:?}: {found}, not {expected}").unwrap();
            }
        }
    }
    assert_eq!(wrong, "");
}

const SYS_ADMIN: &str = "--cap-add SYS_ADMIN";
const SYS_PTRACE: &str = "--cap-add SYS_PTRACE";

#[test]
fn mounting() {
    let Some(bench) = Bench::new("mounting") else {
        return;
    };
    try_all(
        &bench,
        "",
        &[
            row(
                "mount:tmpfs",
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[HOST_IDS, UNFILTERED], "EPERM"),
                    (&[SYS_ADMIN], "ok"),
                ],
            ),
            row(
                "overlay",
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[SYS_ADMIN], "ok"),
                ],
            ),
            // A new proc has no masks. With the capability one can take these away as well.
            row(
                "mount:proc",
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[SYS_ADMIN], "ok"),
                ],
            ),
            // /sys is read-only: the kernel does not let a user namespace have a new one that is not.
            row(
                "mount:sysfs",
                &[
                    (&[], "EPERM"),
                    (&[SYS_ADMIN], "EPERM"),
                    (&[PRIVILEGED], "ok"),
                ],
            ),
            row("bind:/etc:/mnt", &[(&[], "EPERM"), (&[PRIVILEGED], "ok")]),
            row(
                "fsopen:tmpfs",
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[PRIVILEGED], "ok"),
                ],
            ),
            row(
                "open_tree:/etc",
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[PRIVILEGED], "ok"),
                ],
            ),
            row(
                "move_mount:/etc",
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[PRIVILEGED], "ok"),
                ],
            ),
            row(
                "pivot_root",
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[PRIVILEGED], "ok"),
                ],
            ),
        ],
    );
}

#[test]
fn undoing_masks_and_read_only_mounts() {
    let Some(bench) = Bench::new("remounting") else {
        return;
    };
    let all = [HOST_IDS, SYS_ADMIN];
    let mut rows = Vec::new();
    for attack in [
        "remount:/proc/sys",
        "mount_setattr:/proc/sys",
        "remount:/sys",
        "remount-super:/sys",
        "umount:/proc/sys",
        "umount:/proc/keys",
        "umount:/sys/firmware",
    ] {
        rows.push((
            attack,
            [
                (&[][..], "EPERM"),
                (&[UNFILTERED][..], "EPERM"),
                (&all[..], "ok"),
            ],
        ));
    }
    let rows: Vec<Row> = rows
        .iter()
        .map(|(attack, outcomes)| row(attack, outcomes))
        .collect();
    try_all(&bench, "", &rows);
}

#[test]
fn files_that_act_on_the_machine() {
    let Some(bench) = Bench::new("files") else {
        return;
    };
    // Anybody may read these on the host, so that only the mask is in the way.
    for path in ["/proc/keys", "/proc/interrupts"] {
        let attack = format!("read:{path}");
        try_all(
            &bench,
            "",
            &[row(&attack, &[(&[], "EACCES"), (&[UNMASKED], "ok")])],
        );
    }
    // Only the host's root may read these: two walls. Root of the host's ids opens the mask, and finds nothing.
    try_all(
        &bench,
        "",
        &[row(
            "read:/proc/timer_list",
            &[
                (&[], "EACCES"),
                (&[UNMASKED], "EACCES"),
                (&[HOST_IDS], "empty"),
                (&[HOST_IDS, UNMASKED], "ok"),
            ],
        )],
    );
    try_all(
        &bench,
        "",
        &[row(
            "read:/sys/firmware",
            &[(&[], "empty"), (&[HOST_IDS], "empty"), (&[UNMASKED], "ok")],
        )],
    );
    // A permission is asked for before a read-only mount is noticed, except where the file is truncated as well.
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/irq/default_smp_affinity",
    ] {
        let (write, truncate) = (format!("write:{path}"), format!("truncate:{path}"));
        try_all(
            &bench,
            "",
            &[
                row(
                    &write,
                    &[
                        (&[], "EACCES"),
                        (&[UNMASKED], "EACCES"),
                        (&[HOST_IDS], "EROFS"),
                        (&[HOST_IDS, UNMASKED], "ok"),
                    ],
                ),
                row(
                    &truncate,
                    &[
                        (&[], "EROFS"),
                        (&[UNMASKED], "EACCES"),
                        (&[HOST_IDS], "EROFS"),
                        (&[HOST_IDS, UNMASKED], "ok"),
                    ],
                ),
            ],
        );
    }
    // What was there is written back.
    try_all(
        &bench,
        "",
        &[
            row(
                "rewrite:/proc/sys/kernel/core_pattern",
                &[(&[], "EACCES"), (&[PRIVILEGED], "ok")],
            ),
            // This one belongs to the container's own network namespace.
            row(
                "rewrite:/proc/sys/net/ipv4/ip_forward",
                &[
                    (&[], "EACCES"),
                    (&["--cap-add NET_ADMIN"], "EROFS"),
                    (&["--cap-add NET_ADMIN", UNMASKED], "ok"),
                ],
            ),
            row(
                "truncate:/sys/kernel/rcu_normal",
                &[
                    (&[], "EROFS"),
                    (&[HOST_IDS], "EROFS"),
                    (&[PRIVILEGED], "ok"),
                ],
            ),
        ],
    );
    // Not every kernel has these; where it has, the host's root can open them and the container's cannot.
    for (attack, refused) in [
        ("truncate:/proc/sysrq-trigger", "EROFS"),
        ("write:/proc/sysrq-trigger", "EACCES"),
        ("truncate:/proc/sys/kernel/modprobe", "EROFS"),
        ("truncate:/sys/kernel/uevent_helper", "EROFS"),
        ("read:/proc/kcore", "EACCES"),
        ("read:/proc/sched_debug", "EACCES"),
    ] {
        let path = attack.split_once(':').unwrap().1;
        if !fs::exists(path).unwrap() {
            assert_eq!(bench.attack("", attack), "ENOENT", "{attack}");
            assert_eq!(bench.attack(PRIVILEGED, attack), "ENOENT", "{attack}");
        } else {
            try_all(
                &bench,
                "",
                &[row(attack, &[(&[], refused), (&[PRIVILEGED], "ok")])],
            );
        }
    }
}

#[test]
fn namespaces() {
    let Some(bench) = Bench::new("escapens") else {
        return;
    };
    let everything_but_filter: &[(&[&str], &str)] = &[
        (&[], "EPERM"),
        (&[UNFILTERED], "EPERM"),
        (&[SYS_ADMIN], "ok"),
    ];
    try_all(
        &bench,
        "",
        &[
            // Only the filter stands against these.
            row("unshare:user", &[(&[], "EPERM"), (&[UNFILTERED], "ok")]),
            row("unshare:none", &[(&[], "EPERM"), (&[UNFILTERED], "ok")]),
            row("clone:user", &[(&[], "EPERM"), (&[UNFILTERED], "ok")]),
            row("clone3:user", &[(&[], "ENOSYS"), (&[UNFILTERED], "ok")]),
            // Programs take the older call then.
            row("clone3:none", &[(&[], "ENOSYS"), (&[UNFILTERED], "ok")]),
            row("unshare:mnt", everything_but_filter),
            row("unshare:net", everything_but_filter),
            row("clone:mnt", everything_but_filter),
            row("setns:/proc/self/ns/uts", everything_but_filter),
            row(
                "setns:/proc/1/ns/mnt",
                &[
                    (&[], "EACCES"),
                    (&[UNFILTERED], "EACCES"),
                    (&[PRIVILEGED], "ok"),
                ],
            ),
        ],
    );
    assert_eq!(bench.attack("", "clone:none"), "ok");
}

#[test]
fn init_is_out_of_reach() {
    let Some(bench) = Bench::new("escapeinit") else {
        return;
    };
    // In the host's user namespace a capability is enough. In a container's own it is not: init's memory is of a
    // process that was not started there.
    let refused = |errno: &'static str| {
        [
            (&[][..], errno),
            (&[UNFILTERED][..], errno),
            (&[HOST_IDS, UNFILTERED][..], errno),
            (&[SYS_PTRACE][..], errno),
            (&[SYS_PTRACE, UNFILTERED][..], errno),
            (&[PRIVILEGED][..], "ok"),
        ]
    };
    let (permission, access) = (refused("EPERM"), refused("EACCES"));
    try_all(
        &bench,
        "",
        &[
            row("ptrace:1", &permission),
            row("vm_readv:1", &permission),
            row("kcmp:1", &permission),
            row(
                "pidfd_getfd:1",
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[SYS_PTRACE], "EPERM"),
                    (&[PRIVILEGED], "EBADF|ok"),
                ],
            ),
            row("both:/proc/1/mem", &access),
            row(
                "read:/proc/1/environ",
                &[(&[], "EACCES"), (&[PRIVILEGED], "ok|empty")],
            ),
            row("read:/proc/1/maps", &access),
            row("read:/proc/1/exe", &access),
            row("link:/proc/1/exe", &access),
            row("link:/proc/1/root", &access),
            row("link:/proc/1/cwd", &access),
            row("enter:/proc/1/root", &access),
            row("enter:/proc/1/cwd", &access),
            row(
                "read:/proc/1/fd",
                &[(&[], "EACCES"), (&[PRIVILEGED], "ok|empty")],
            ),
        ],
    );
    // With the host's ids and SYS_PTRACE init can be made to execute something; it has no more to give than the
    // container has, and no filter less.
    if cfg!(target_arch = "x86_64") {
        try_all(
            &bench,
            "",
            &[row(
                "inject:1",
                &[
                    (&[], "EPERM"),
                    (&[SYS_PTRACE], "EPERM"),
                    (&[HOST_IDS, SYS_PTRACE], "EPERM|nothing"),
                    (&[PRIVILEGED], "nothing"),
                ],
            )],
        );
        // The same attack on a process that has something to give.
        let victim = "/guest sleep 20 & for try in $(seq 2000); do \
             grep -q guest /proc/$!/comm && grep -q State:.S /proc/$!/status && break; done; \
             exec /guest attack inject:$!";
        let guest = format!("{}:/guest:ro", guest());
        let options = ["run", "--privileged", "-v", &guest, bench.busybox()];
        let output = bench.mini(&options).args(&["--", "sh", "-c", victim]);
        assert!(output.output().ok().contains(" ok"));
    }
    // --cap-add SYS_PTRACE is still good for the container's own processes.
    assert_eq!(bench.attack(SYS_PTRACE, "link:/proc/self/exe"), "ok");
    // Also when the command is not root.
    for attack in ["both:/proc/1/mem", "link:/proc/1/exe", "link:/proc/1/root"] {
        assert_eq!(bench.attack("-u 1000", attack), "EACCES", "{attack}");
    }
}

#[test]
fn calls_that_act_on_the_kernel() {
    let Some(bench) = Bench::new("calls") else {
        return;
    };
    // The filter alone.
    let filter: &[(&[&str], &str)] = &[(&[], "EPERM"), (&[UNFILTERED], "ok")];
    // The filter, then a capability.
    let both: &[(&[&str], &str)] = &[
        (&[], "EPERM"),
        (&[UNFILTERED], "EPERM"),
        (&[PRIVILEGED], "ok"),
    ];
    let mut rows = vec![
        row("keyctl", filter),
        row("add_key", filter),
        row("request_key", &[(&[], "EPERM"), (&[UNFILTERED], "ENOKEY")]),
        row("io_uring_setup", filter),
        row("userfaultfd", filter),
        row("personality:40000", filter),
        row("syslog", both),
        row("settimeofday", both),
        row(
            "sethostname",
            &[
                (&[], "EPERM"),
                (&[UNFILTERED], "EPERM"),
                (&[SYS_ADMIN], "ok"),
            ],
        ),
        row("fanotify_init", &[(&[], "EPERM"), (&[PRIVILEGED], "ok")]),
        row("bpf", &[(&[], "EPERM"), (&[PRIVILEGED], "ok")]),
        row("perf_event_open", &[(&[], "EPERM"), (&[PRIVILEGED], "ok")]),
        // The arguments are nonsense: another errno says that the kernel looked at them, or that it has no such thing.
        row(
            "adjtimex",
            &[
                (&[], "EPERM"),
                (&[UNFILTERED], "EPERM"),
                (&[PRIVILEGED], "EINVAL"),
            ],
        ),
        row(
            "reboot",
            &[
                (&[], "EPERM"),
                (&[UNFILTERED], "EPERM"),
                (&[PRIVILEGED], "EINVAL"),
            ],
        ),
        row(
            "swapon",
            &[
                (&[], "EPERM"),
                (&[UNFILTERED], "EPERM"),
                (&[PRIVILEGED], "ENOENT"),
            ],
        ),
        row(
            "acct",
            &[
                (&[], "EPERM"),
                (&[UNFILTERED], "EPERM"),
                (&[PRIVILEGED], "ENOENT"),
            ],
        ),
        row(
            "quotactl",
            &[
                (&[], "EPERM"),
                (&[PRIVILEGED], "ENODEV|EFAULT|ENOENT|ENOSYS|EINVAL|ENOTBLK"),
            ],
        ),
        row(
            "init_module",
            &[(&[], "EPERM"), (&[PRIVILEGED], "ENOSYS|EFAULT|ENOEXEC")],
        ),
        row(
            "finit_module",
            &[(&[], "EPERM"), (&[PRIVILEGED], "ENOSYS|EBADF")],
        ),
        row(
            "delete_module",
            &[(&[], "EPERM"), (&[PRIVILEGED], "ENOSYS|ENOENT")],
        ),
        row(
            "kexec_load",
            &[(&[], "EPERM"), (&[PRIVILEGED], "ENOSYS|EINVAL")],
        ),
        row(
            "kexec_file_load",
            &[(&[], "EPERM"), (&[PRIVILEGED], "ENOSYS|EINVAL|EBADF")],
        ),
    ];
    if cfg!(target_arch = "x86_64") {
        rows.push(row("iopl", &[(&[], "EPERM"), (&[PRIVILEGED], "ok|ENOSYS")]));
        rows.push(row(
            "ioperm",
            &[(&[], "EPERM"), (&[PRIVILEGED], "ok|ENOSYS")],
        ));
    }
    try_all(&bench, "", &rows);
    // What ordinary programs ask for.
    assert_eq!(bench.attack("", "personality:0"), "ok");
}

#[test]
fn sockets_of_other_families() {
    let Some(bench) = Bench::new("families") else {
        return;
    };
    const NET_RAW: &str = "--cap-add NET_RAW";
    try_all(
        &bench,
        "",
        &[
            // AF_VSOCK reaches the hypervisor and other machines past every network namespace; AF_ALG is a large part
            // of the kernel.
            row(
                "socket:40:1:0",
                &[(&[], "EPERM"), (&[UNFILTERED], "ok|EAFNOSUPPORT")],
            ),
            row(
                "socket:38:5:0",
                &[(&[], "EPERM"), (&[UNFILTERED], "ok|EAFNOSUPPORT")],
            ),
            row("socket:17:3:0", &[(&[], "EPERM"), (&[NET_RAW], "ok")]),
            row("socket:2:3:1", &[(&[], "EPERM"), (&[NET_RAW], "ok")]),
        ],
    );
    for family in ["1:1:0", "2:1:0", "2:2:0", "10:1:0", "16:3:0"] {
        assert_eq!(bench.attack("", &format!("socket:{family}")), "ok");
    }
}

#[test]
fn typing_into_the_terminal() {
    let Some(bench) = Bench::new("typing") else {
        return;
    };
    let legacy = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").unwrap_or_default();
    let without = if legacy.trim() == "0" { "EIO" } else { "ok" };
    // The container's own terminal. The kernel drops the upper half of a request, and so does the filter.
    try_all(
        &bench,
        "-t",
        &[
            row("tiocsti", &[(&[], "EPERM"), (&[UNFILTERED], without)]),
            row("tiocsti-high", &[(&[], "EPERM"), (&[UNFILTERED], without)]),
            // ENOTTY: no virtual console. The filter does not ask what it is.
            row("tioclinux", &[(&[], "EPERM"), (&[UNFILTERED], "ENOTTY")]),
        ],
    );
    assert_eq!(bench.attack("-t -u 1000", "tiocsti"), "EPERM");
}

#[test]
fn device_nodes() {
    let Some(bench) = Bench::new("nodes") else {
        return;
    };
    const MKNOD: &str = "--cap-add MKNOD";
    // A loop device stands for the host's disk, which not every machine lets its root open; and one of memory's.
    for attack in ["mknod:/tmp/x:b:7:0", "mknod:/tmp/x:c:1:5"] {
        try_all(
            &bench,
            "",
            &[row(
                attack,
                &[
                    (&[], "EPERM"),
                    (&[UNFILTERED], "EPERM"),
                    (&[MKNOD], "EPERM"),
                    (&[MKNOD, UNFILTERED], "EPERM"),
                    (&[HOST_IDS, UNFILTERED], "EPERM"),
                    (&[PRIVILEGED], "ok"),
                ],
            )],
        );
    }
    // Nodes that are there already, in the image and on a volume, for everybody to use.
    let image = bench.small_image("image");
    let volume = bench.dir("volume");
    for directory in [&image, &volume] {
        let node = format!("{directory}/zero");
        Run::new("mknod")
            .args(&["-m", "666", &node, "c", "1", "5"])
            .output()
            .ok();
        assert_eq!(
            fs::File::open(&node)
                .map(drop)
                .map_err(|error| error.to_string()),
            Ok(())
        );
    }
    let open = |options: &[&str], path: &str| {
        let attack = format!("read:{path}");
        let volume = format!("{volume}:/volume");
        let run = bench.mini(&["run", "-v", &volume]).args(options);
        outcome(
            &run.args(&[&image, "--", "/guest", "attack", &attack])
                .output()
                .expect(0),
            &attack,
        )
    };
    assert_eq!(open(&[], "/zero"), "EACCES");
    assert_eq!(open(&["--seccomp", "unconfined"], "/zero"), "EACCES");
    assert_eq!(open(&[PRIVILEGED], "/zero"), "ok");
    assert_eq!(open(&[], "/volume/zero"), "EACCES");
    assert_eq!(open(&["--userns", "host"], "/volume/zero"), "EACCES");
    // With --device it is there on purpose.
    let device = format!("{volume}/zero:/dev/wanted");
    assert_eq!(open(&["--device", &device], "/dev/wanted"), "ok");
}

// --- out of the root -----------------------------------------------------------------------------------------------

#[test]
fn a_second_chroot_does_not_lead_out() {
    let Some(bench) = Bench::new("chroot") else {
        return;
    };
    let canary = bench.file("canary", "x");
    let attack = format!("chroot:{canary}");
    // The capability is there, but above the root is nothing: the old root was detached.
    for options in ["", PRIVILEGED] {
        assert_eq!(bench.attack(options, &attack), "ENOENT", "{options}");
    }
    // In a runtime that only calls chroot(2) it works.
    let script = "mkdir -p naive/tmp; cp $GUEST naive/guest; chroot naive /guest attack";
    let output = bench.private_shell(&format!("{script} {attack}")).output();
    assert_eq!(outcome(&output.expect(0), &attack), "ok");
}

#[test]
fn a_guessed_file_handle_does_not_lead_out() {
    let Some(bench) = Bench::new("handle") else {
        return;
    };
    let canary = bench.file("canary", "x");
    let volume = bench.dir("volume");
    let kind = Run::new("stat")
        .args(&["-f", "-c", "%T", &volume])
        .output()
        .ok();
    // Where the bench's directory lies on a file system of its own, its path begins below that one's root.
    let mut top = bench.path("");
    while fs::metadata(top.parent().unwrap()).unwrap().dev() == fs::metadata(&top).unwrap().dev() {
        if !top.pop() || top.parent().is_none() {
            break;
        }
    }
    if !have(
        "ext4",
        kind.trim() == "ext2/ext3",
        "/var/tmp is not on ext4",
    ) {
        return;
    }
    let inside = Path::new(&canary).strip_prefix(&top).unwrap();
    let attack = format!("handle:/volume:{}", inside.display());
    let common = format!("-v {volume}:/volume");
    const SEARCH: &str = "--cap-add DAC_READ_SEARCH";
    try_all(
        &bench,
        &common,
        &[row(
            &attack,
            &[
                (&[], "EPERM"),
                (&[UNFILTERED], "EPERM"),
                (&[HOST_IDS, UNFILTERED], "EPERM"),
                (&[SEARCH], "EPERM"),
                (&[SEARCH, UNFILTERED], "EPERM"),
                (&[HOST_IDS, SEARCH], "ok"),
            ],
        )],
    );
}

/// Leaves descriptors of the host open in what it starts: 3 to 20, directories and files in turn.
fn leaking(bench: &Bench, command: &str) -> Run {
    let mut script = String::new();
    for fd in 3..=20 {
        let path = if fd % 2 == 1 { "/" } else { "/etc/passwd" };
        write!(script, "exec {fd}< {path}; ").unwrap();
    }
    let run = bench
        .program("bash")
        .args(&["-euc", &format!("{script} {command}")]);
    run.env("MINI", mini())
        .env("BUSYBOX", bench.busybox())
        .env("GUEST", guest())
        .directory(&bench.path(""))
}

/// CVE-2024-21626.
#[test]
fn descriptors_that_the_caller_left_open_lead_nowhere() {
    let Some(bench) = Bench::new("leaks") else {
        return;
    };
    let canary = bench.file("canary", "x");
    let attacks: Vec<String> = (3..=24).map(|fd| format!("fd:{fd}:{canary}")).collect();
    let attacks = attacks.join(" ");
    for options in ["", "--no-init", "-t", PRIVILEGED] {
        let command = format!(
            "exec $MINI run {options} -v $GUEST:/guest:ro $BUSYBOX -- /guest attack {attacks}"
        );
        let output = leaking(&bench, &command).output().expect(0);
        for attack in attacks.split(' ') {
            assert_eq!(outcome(&output, attack), "ENOENT", "{options:?} {attack}");
        }
    }
    // A runtime that leaves them open.
    let command = format!(
        "mkdir -p naive/proc; cp $GUEST naive/guest
         exec unshare -m sh -c 'mount -t proc none naive/proc; exec chroot naive /guest attack {attacks}'"
    );
    let output = leaking(&bench, &command).output().expect(0);
    for fd in [3, 5, 19] {
        assert_eq!(outcome(&output, &format!("fd:{fd}:{canary}")), "ok", "{fd}");
    }
}

/// CVE-2024-21626, by the working directory.
#[test]
fn the_working_directory_is_never_outside() {
    let Some(bench) = Bench::new("workdir") else {
        return;
    };
    let canary = bench.file("canary", "x");
    let attack = format!("cwd:{canary}");
    let image = bench.small_image("image");
    let mut directories: Vec<String> = (3..=24).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    for (name, to) in [
        ("fd", "/proc/self/fd/3"),
        ("cwd", "/proc/self/cwd"),
        ("thread", "/proc/thread-self/fd/5"),
        ("root", "/proc/1/root"),
        ("up", "../../../../../../../.."),
        ("host", bench.path("").to_str().unwrap()),
    ] {
        symlink(to, format!("{image}/{name}")).unwrap();
        directories.push(format!("/{name}"));
    }
    directories.extend([
        "/proc/self/cwd".to_owned(),
        "/proc/1/cwd".to_owned(),
        "/proc/self/root".to_owned(),
    ]);
    for directory in &directories {
        let command = format!("exec $MINI run -w {directory} {image} -- /guest attack {attack}");
        let output = leaking(&bench, &command).output();
        // Either the container starts at a directory of its own, or it does not start.
        match output.status {
            0 => assert_eq!(outcome(&output, &attack), "ENOENT", "{directory}"),
            _ => drop(output.one_line(125)),
        }
        assert_eq!(bench.files(), Vec::<String>::new());
    }
    // A descriptor as working directory, where nobody looks.
    let command = format!("cd /proc/self/fd/3; exec $GUEST attack {attack}");
    assert_eq!(
        outcome(&leaking(&bench, &command).output().expect(0), &attack),
        "ok"
    );
}

// --- images and volumes that lead elsewhere --------------------------------------------------------------------------

/// CVE-2019-19921, CVE-2023-27561, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: mount points that are symbolic
/// links.
#[test]
fn mount_points_that_are_links_lead_nowhere() {
    let Some(bench) = Bench::new("links") else {
        return;
    };
    let victim = bench.dir("victim");
    for name in ["file", "console", "null", "hosts"] {
        bench.file(&format!("victim/{name}"), "untouched");
    }
    bench.dir("victim/sub");
    let before = tree(victim.as_ref());
    let up = format!("{}{victim}", "../".repeat(12));
    let targets = [
        &victim,
        &up,
        "/etc",
        "/proc",
        "/proc/sys",
        "/proc/self/fd",
        "/dev",
        "/dev/pts",
        "/sys",
        "/tmp/dangling",
        "/",
        ".",
    ];
    let places = ["proc", "sys", "dev", "etc"];
    let inner = [
        "dev/console",
        "dev/pts",
        "dev/null",
        "dev/shm",
        "dev/mqueue",
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
    ];
    let mut count = 0;
    let mut started = 0;
    for place in places.iter().chain(&inner) {
        // What stands for the place itself leads to itself: that is another's test.
        for target in targets {
            count += 1;
            let image = bench.small_image(&format!("image{count}"));
            let link = Path::new(&image).join(place);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, &link).unwrap();
            let options: &[&str] = if place.starts_with("dev") {
                &["-t"]
            } else {
                &[]
            };
            let run = bench
                .mini(&["run"])
                .args(options)
                .args(&[&image, "--", "/guest", "report"]);
            let output = run.output();
            let what = format!("{place} -> {target}: {output:?}");
            assert_eq!(tree(victim.as_ref()), before, "{what}");
            match output.status {
                0 => {
                    started += 1;
                    let report = Report(output.stdout.replace('\r', ""));
                    has_its_own(&report, &what);
                }
                125 => assert!(
                    output.stderr.starts_with("mini: ") && output.stderr.lines().count() == 1,
                    "{what}"
                ),
                _ => panic!("{what}"),
            }
            fs::remove_dir_all(&image).unwrap();
        }
    }
    // /dev is mini's own, so whatever the image has below it does not matter.
    assert!(started > 40, "only {started} of {count} images ran");
    // A runtime that mounts by path.
    let output = bench
        .private_shell("mkdir naive; ln -s $PWD/victim naive/proc; mount -t proc none naive/proc; ls victim/self/status")
        .output();
    assert_eq!(output.ok(), "victim/self/status\n");
}

/// /proc, /sys and /dev are mini's, masks and all, and nothing lies over or below the first two that is not.
#[track_caller]
fn has_its_own(report: &Report, what: &str) {
    for (at, kind) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "tmpfs")] {
        assert_eq!(report.mount(at).kind, kind, "{what}");
    }
    assert!(report.mount("/proc/sys").has("ro"), "{what}");
    for mount in report.mounts() {
        let below = mount.at.starts_with("/proc") || mount.at.starts_with("/sys");
        // What covers a masked path is one file or directory of a tmpfs.
        let own = ["proc", "sysfs"].contains(&mount.kind.as_str())
            || mount.kind == "tmpfs" && mount.root != "/";
        assert!(!below || own, "{what}: {mount:?}");
    }
}

#[test]
fn volumes_on_links_stay_inside_and_cover_nothing_of_minis() {
    let Some(bench) = Bench::new("volumes") else {
        return;
    };
    let victim = bench.dir("victim");
    bench.file("victim/file", "untouched");
    let before = tree(victim.as_ref());
    let data = bench.dir("data");
    bench.file("data/mine", "x");
    let image = bench.small_image("image");
    let up = format!("{}{victim}", "../".repeat(12));
    for (number, target) in [
        "/proc",
        "/proc/sys",
        "/proc/self",
        "/proc/self/fd/3",
        "/proc/keys",
        "/proc/1",
        "/dev",
        "/dev/pts",
        "/dev/console",
        "/sys",
        "/sys/firmware",
        "proc/../proc",
        &victim,
        &up,
        "/tmp/dangling",
        "loop",
    ]
    .iter()
    .enumerate()
    {
        let link = format!("{image}/link{number}");
        symlink(target.replace("loop", &format!("link{number}")), &link).unwrap();
        for below in ["", "/sub", "/status"] {
            for (option, source) in [
                ("-v", format!("{data}:")),
                ("-v", format!("{data}/mine:")),
                ("--tmpfs", String::new()),
            ] {
                let value = format!("{source}/link{number}{below}");
                let run = bench.mini(&["run", option, &value, &image, "--", "/guest"]);
                let output = run.output();
                let what = format!("{option} {value} -> {target}: {output:?}");
                assert_eq!(tree(victim.as_ref()), before, "{what}");
                match output.status {
                    0 => {
                        has_its_own(&Report(output.stdout), &what);
                    }
                    125 => assert!(
                        output.stderr.starts_with("mini: ") && output.stderr.lines().count() == 1,
                        "{what}"
                    ),
                    _ => panic!("{what}"),
                }
            }
        }
    }
}

/// CVE-2019-19921 and CVE-2025-52881 again: the link appears while another container is being made.
#[test]
fn a_race_on_a_shared_volume_leads_nowhere() {
    let Some(bench) = Bench::new("race") else {
        return;
    };
    let victim = bench.dir("victim");
    bench.file("victim/file", "untouched");
    let before = tree(victim.as_ref());
    let data = bench.dir("data");
    bench.file("data/mine", "x");
    let shared = bench.dir("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    for (target, name) in [
        ("/proc".to_owned(), "proc"),
        (format!("{}{victim}", "../".repeat(12)), "victim"),
    ] {
        let place = bench.dir(&format!("shared/{name}"));
        fs::create_dir(format!("{place}/place")).unwrap();
        symlink(&target, format!("{place}/other")).unwrap();
        chown(&place, Some(0), Some(0)).unwrap();
        let volume = format!("{shared}:/shared");
        let words = [
            "swap",
            &format!("/shared/{name}/place"),
            &format!("/shared/{name}/other"),
            "1500",
        ];
        let mut swapper = bench.guest(&["-v", &volume], &words).start();
        swapper.until("swapping");
        let (mut inside, mut refused) = (0, 0);
        for round in 0..30 {
            let below = if round % 2 == 0 { "" } else { "/sub" };
            let target = format!("{data}:/shared/{name}/place{below}");
            let output = bench
                .guest(&["-v", &volume, "-v", &target], &["report"])
                .output();
            assert_eq!(tree(victim.as_ref()), before, "{output:?}");
            match output.status {
                0 => {
                    inside += 1;
                    has_its_own(&Report(output.stdout), name);
                }
                125 => refused += 1,
                _ => panic!("{output:?}"),
            }
        }
        let text = swapper.wait().ok();
        let count: u32 = text
            .lines()
            .last()
            .unwrap()
            .strip_prefix("swapped ")
            .unwrap()
            .parse()
            .unwrap();
        // It did race.
        assert!(
            count > 1000,
            "{count} swaps; {inside} started, {refused} refused"
        );
    }
}

// --- mini's own binary -----------------------------------------------------------------------------------------------

/// A copy of a program for one user, and what it holds.
fn copy(bench: &Bench, from: impl AsRef<Path>, name: &str, owner: u32) -> (String, Vec<u8>) {
    let directory = bench.dir(&format!("copy-{name}"));
    let path = format!("{directory}/mini");
    fs::copy(from, &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&path, Some(owner), Some(owner)).unwrap();
    chown(&directory, Some(owner), Some(owner)).unwrap();
    let contents = fs::read(&path).unwrap();
    (path, contents)
}

/// CVE-2019-5736 in full: a container finds the file of the program `path`, gives the descriptor to another container
/// of the same kind and ends, so that the file is busy no longer; the other one writes. `own` and `other` start mini
/// from two different files. What came of the opening, and of the writing.
fn overwrite(
    bench: &Bench,
    own: impl Fn() -> Run,
    other: impl Fn() -> Run,
    command: &[&str],
    path: &str,
    idle: impl FnOnce(),
) -> (String, String) {
    let socket = bench.dir("sockets");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let _ = fs::remove_file(format!("{socket}/s"));
    let volume = format!("{socket}:/sockets");
    let image = bench.text("image");
    if !fs::exists(&image).unwrap() {
        bench.small_image("image");
        symlink("/proc/self/exe", format!("{image}/link")).unwrap();
        let script = b"#!/proc/self/exe\n".to_vec();
        for (name, contents) in [
            ("script", script),
            ("loaded", with_loader("/proc/self/exe")),
        ] {
            let path = bench.file(&format!("image/{name}"), contents);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // An ordinary user's image has to be that user's.
        let owner = fs::metadata(bench.path("")).unwrap().uid();
        let owner = format!("{owner}:{owner}");
        Run::new("chown")
            .args(&["-hR", &owner, &image])
            .output()
            .ok();
    }
    let options = ["-v", &volume, &image, "--"];
    let mut taker = other()
        .args(&options)
        .args(&["/guest", "attack", "take:/sockets/s"])
        .start();
    taker.until("listening");
    let give = format!("give:/sockets/s:{path}");
    let giver = own()
        .args(&options)
        .args(command)
        .args(&["/guest", "attack", &give])
        .output();
    let given = outcome(&giver, &give);
    idle();
    let taken = if given == "ok" {
        outcome(&taker.wait().expect(0), "take:/sockets/s")
    } else {
        taker.kill(15);
        taker.wait();
        "nothing".to_owned()
    };
    (given, taken)
}

/// A program whose dynamic loader is `loader`: an ELF header, PT_INTERP, PT_LOAD.
fn with_loader(loader: &str) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let machine = fs::read(guest()).unwrap()[18..20].to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(machine);
    file.extend(1u32.to_le_bytes());
    let size = 64 + 2 * 56 + loader.len() as u64 + 1;
    // e_entry, e_phoff, e_shoff; e_flags; sizes and counts.
    for word in [0x5000_0000 + 64u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let interpreter = [
        64 + 2 * 56,
        0x5000_0000 + 64 + 2 * 56,
        0,
        loader.len() as u64 + 1,
        loader.len() as u64 + 1,
        1,
    ];
    for (kind, flags, words) in [
        (3u32, 4u32, interpreter),
        (1, 5, [0, 0x5000_0000, 0, size, size, 4096]),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        words
            .iter()
            .for_each(|word: &u64| file.extend(word.to_le_bytes()));
    }
    file.extend(loader.bytes());
    file.push(0);
    file
}

/// Commands that make mini itself a process of the container, whose /proc/PID/exe nothing else would protect: a link of
/// the image's leads the first execve to the program that is just running.
const ITSELF: [&str; 4] = ["/link", "init", "--", ""];

#[test]
fn an_unprotected_program_can_be_overwritten() {
    let Some(bench) = Bench::new("overwritten") else {
        return;
    };
    // What the attack does to a program that has nothing against it: a supervisor of the host's, seen by a container
    // without protection, while it runs and after.
    let (victim, contents) = copy(&bench, guest(), "victim", 0);
    let (other, _) = copy(&bench, mini(), "other", 0);
    let supervisor = Run::new(&victim).args(&["sleep", "1000"]).start();
    let path = format!("/proc/{}/exe", supervisor.pid());
    let run = |file: &str| {
        bench
            .program(file)
            .args(&["run", "--privileged", "--pid", "host"])
    };
    // While it runs it is busy.
    let attack = format!("overwrite:{path}");
    assert_eq!(bench.attack("--privileged --pid host", &attack), "ETXTBSY");
    let (given, taken) = overwrite(
        &bench,
        || run(mini().to_str().unwrap()),
        || run(&other),
        &[],
        &path,
        || drop(supervisor),
    );
    assert_eq!((given.as_str(), taken.as_str()), ("ok", "ok"));
    let changed = fs::read(&victim).unwrap();
    assert!(changed.len() == contents.len() + 1 && changed.ends_with(b"!"));
    // With a user namespace, the default, the container sees it but has no permission.
    let supervisor = Run::new(&victim).args(&["sleep", "1000"]).start();
    let attack = format!("overwrite:/proc/{}/exe", supervisor.pid());
    assert_eq!(bench.attack("--pid host", &attack), "EACCES");
}

/// Overwrites a copy of mini in every way and looks at the copy afterwards.
#[track_caller]
fn mini_stays_as_it_is(
    bench: &Bench,
    owner: u32,
    options: &str,
    start: impl Fn(&Bench, &str) -> Run,
) {
    let (own, contents) = copy(bench, mini(), "own", owner);
    let (other, _) = copy(bench, mini(), "other", owner);
    let options: Vec<&str> = options.split_whitespace().collect();
    let run = |file: &str| start(bench, file).args(&["run"]).args(&options);
    let with_init = !options.contains(&"--no-init");
    let itself = &ITSELF[..3];
    let ways: [(&[&str], &str); 4] = [
        (&[], "/proc/1/exe"),
        // Behind `/link init --`, the parent of the guest is mini, started by the container.
        (
            itself,
            if with_init {
                "/proc/2/exe"
            } else {
                "/proc/1/exe"
            },
        ),
        (
            &["/proc/self/exe", "init", "--"],
            if with_init {
                "/proc/2/exe"
            } else {
                "/proc/1/exe"
            },
        ),
        (&[], "/proc/self/task/1/exe"),
    ];
    for (command, path) in ways {
        // Without init, PID 1 is the guest itself, a volume.
        if !with_init && command.is_empty() {
            continue;
        }
        let (given, taken) = overwrite(bench, || run(&own), || run(&other), command, path, || ());
        let what = format!("{options:?} {command:?} {path}: {given}, {taken}");
        assert!(
            given != "ok" || ["EACCES", "EPERM", "EROFS"].contains(&taken.as_str()),
            "{what}"
        );
        assert!(
            fs::read(&own).unwrap() == contents,
            "{what}: mini has changed"
        );
    }
    // By a script's interpreter and by a loader; whatever mini does as such, it ends.
    for command in ["/script", "/loaded"] {
        run(&own)
            .args(&[&bench.text("image"), "--", command])
            .limit(20)
            .output();
        assert!(
            fs::read(&own).unwrap() == contents,
            "{options:?} {command}: mini has changed"
        );
    }
    assert_eq!(fs::metadata(&own).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn mini_cannot_be_overwritten_by_default() {
    let Some(bench) = Bench::new("exe") else {
        return;
    };
    let start = |bench: &Bench, file: &str| bench.program(file);
    mini_stays_as_it_is(&bench, 0, "", start);
    mini_stays_as_it_is(&bench, 0, "--no-init", start);
    mini_stays_as_it_is(
        &bench,
        0,
        "--cap-add SYS_PTRACE --seccomp unconfined",
        start,
    );
}

#[test]
fn mini_cannot_be_overwritten_by_the_hosts_root() {
    let Some(bench) = Bench::new("hostexe") else {
        return;
    };
    let start = |bench: &Bench, file: &str| bench.program(file);
    mini_stays_as_it_is(&bench, 0, HOST_IDS, start);
    mini_stays_as_it_is(&bench, 0, "--userns host --no-init", start);
    mini_stays_as_it_is(&bench, 0, "--userns host --cap-add SYS_PTRACE", start);
    mini_stays_as_it_is(&bench, 0, PRIVILEGED, start);
}

#[test]
fn mini_cannot_be_overwritten_by_its_owner_inside() {
    let Some(bench) = user_bench("ownexe") else {
        return;
    };
    let start = |bench: &Bench, file: &str| as_user(bench, USER, &[file]);
    mini_stays_as_it_is(&bench, USER, "", start);
    mini_stays_as_it_is(&bench, USER, "--no-init", start);
    mini_stays_as_it_is(&bench, USER, "--cap-add ALL --seccomp unconfined", start);
}

// --- other people's processes, sockets and keys ----------------------------------------------------------------------

#[test]
fn the_hosts_processes_are_neither_seen_nor_signalled() {
    let Some(bench) = Bench::new("kill") else {
        return;
    };
    let mut victim = Run::new(guest()).args(&["signals"]).start();
    victim.until("ready");
    let pid = victim.pid();
    try_all(
        &bench,
        "",
        &[
            row(
                &format!("kill:{pid}"),
                &[
                    (&[], "ESRCH"),
                    (&[PRIVILEGED], "ESRCH"),
                    // Seen, but of another user namespace.
                    (&["--pid host"], "EPERM"),
                    (&["--pid host", HOST_IDS], "ok"),
                ],
            ),
            row(
                &format!("read:/proc/{pid}/comm"),
                &[(&[], "ENOENT"), (&["--pid host"], "ok")],
            ),
            row(
                &format!("ptrace:{pid}"),
                &[
                    (&[], "ESRCH"),
                    (&["--pid host"], "EPERM"),
                    (&["--pid host", SYS_PTRACE], "EPERM"),
                    (&["--pid host", PRIVILEGED], "ok"),
                ],
            ),
            row(
                &format!("link:/proc/{pid}/root"),
                &[
                    (&[], "ENOENT"),
                    (&["--pid host"], "EACCES"),
                    (&["--pid host", PRIVILEGED], "ok"),
                ],
            ),
        ],
    );
    victim.kill(12);
    assert_eq!(victim.wait().ok(), "ready\nsignal 12\n");
}

#[test]
fn abstract_sockets_of_the_host_cannot_be_reached() {
    use std::os::linux::net::SocketAddrExt;
    let Some(bench) = Bench::new("abstract") else {
        return;
    };
    let name = format!("mini-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let attack = format!("abstract:{name}");
    try_all(
        &bench,
        "",
        &[row(
            &attack,
            &[(&[], "ECONNREFUSED"), (&["--net host"], "ok")],
        )],
    );
}

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
}

/// A session keyring of its own with a key in it, for what `run` starts.
fn with_key(mut run: Run, description: &'static std::ffi::CStr) -> Run {
    const KEYCTL_JOIN_SESSION_KEYRING: u64 = 1;
    const KEY_SPEC_SESSION_KEYRING: i64 = -3;
    let (add_key, keyctl) = if cfg!(target_arch = "x86_64") {
        (248, 250)
    } else {
        (217, 219)
    };
    // SAFETY: system calls with numbers and strings that live for ever.
    unsafe {
        run.command.pre_exec(move || {
            let made = syscall(keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize);
            let kind = c"user".as_ptr();
            let key = syscall(
                add_key,
                kind,
                description.as_ptr(),
                c"secret".as_ptr(),
                6usize,
                KEY_SPEC_SESSION_KEYRING,
            );
            if made < 0 || key < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    run
}

#[test]
fn the_callers_keys_stay_outside() {
    let Some(bench) = Bench::new("keys") else {
        return;
    };
    let attack = "search-key:mini-test-secret";
    let search = |options: &[&str]| {
        let run = bench.guest(options, &["attack", attack]);
        outcome(
            &with_key(run, c"mini-test-secret").output().expect(0),
            attack,
        )
    };
    assert_eq!(search(&[]), "EPERM");
    for options in [
        &["--seccomp", "unconfined"][..],
        &["--seccomp", "unconfined", "--userns", "host"],
        &[PRIVILEGED],
    ] {
        assert_eq!(search(options), "ENOKEY", "{options:?}");
    }
    // What mini does not start finds it.
    let run = Run::new(guest()).args(&["attack", attack]);
    assert_eq!(
        outcome(
            &with_key(run, c"mini-test-secret").output().expect(0),
            attack
        ),
        "ok"
    );
}

// --- gaining privileges inside ---------------------------------------------------------------------------------------

#[test]
fn programs_with_setuid_or_capabilities_give_nothing() {
    let Some(bench) = Bench::new("suid") else {
        return;
    };
    let image = bench.small_image("image");
    let setuid = format!("{image}/setuid");
    let capable = format!("{image}/capable");
    for path in [&setuid, &capable] {
        fs::copy(guest(), path).unwrap();
    }
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
    if !have_program("setcap") {
        return;
    }
    Run::new("setcap")
        .args(&["cap_net_bind_service+ep", &capable])
        .output()
        .ok();
    let report = |options: &[&str], command: &str| {
        let run = bench.mini(&["run", "-u", "1000"]).args(options);
        Report(
            run.args(&[&image, "--", command, "report"])
                .output()
                .expect(0)
                .stdout,
        )
    };
    let caps = |report: &Report| u64::from_str_radix(report.get("CapEff"), 16).unwrap();
    let inside = report(&[], "/setuid");
    assert_eq!(
        (inside.get("Uid"), caps(&inside)),
        ("1000 1000 1000 1000", 0)
    );
    assert_eq!(caps(&report(&[], "/capable")), 0);
    // Two walls: no_new_privs, and a root that is mounted nosuid as long as it is on.
    assert!(inside.mount("/").has("nosuid"));
    assert_eq!(inside.get("NoNewPrivs"), "1");
    let open = ["--no-new-privs=false"];
    let inside = report(&open, "/setuid");
    assert_eq!(inside.get("Uid"), "1000 0 0 0");
    assert_eq!(caps(&inside), 0x8004_05fb);
    assert_eq!(caps(&report(&open, "/capable")), 1 << 10);
    // On a volume never.
    let volume = format!("{image}:/volume");
    let options = ["--no-new-privs=false", "-v", &volume];
    assert_eq!(
        report(&options, "/volume/setuid").get("Uid"),
        "1000 1000 1000 1000"
    );
}

#[test]
fn a_volume_in_the_strict_form_belongs_to_somebody_else() {
    let Some(bench) = Bench::new("noidmap") else {
        return;
    };
    let volume = bench.dir("volume");
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o755)).unwrap();
    bench.file("volume/secret", "x");
    fs::set_permissions(
        bench.path("volume/secret"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let strict = format!("-v {volume}:/v:noidmap");
    let plain = format!("-v {volume}:/v");
    for (attack, errno) in [("create:/v/new", "EACCES"), ("read:/v/secret", "EACCES")] {
        assert_eq!(bench.attack(&strict, attack), errno);
        assert_eq!(bench.attack(&plain, attack), "ok");
    }
    let status = fs::metadata(bench.path("volume/new")).unwrap();
    assert_eq!((status.uid(), status.gid()), (0, 0));
    // What nobody may change, the container's root may not either, whatever its capabilities.
    assert_eq!(
        bench.attack(&format!("{strict} --cap-add ALL"), "read:/v/secret"),
        "EACCES"
    );
    assert_eq!(
        bench.attack(&format!("{strict} {HOST_IDS}"), "read:/v/secret"),
        "ok"
    );
}

// --- an ordinary user outside ----------------------------------------------------------------------------------------

const USER: u32 = 1000;

/// A program as that user, without newuidmap in its PATH.
fn as_user(bench: &Bench, uid: u32, program: &[&str]) -> Run {
    let id = uid.to_string();
    let setpriv = [
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "env",
        "PATH=/nowhere",
    ];
    bench.program("setpriv").args(&setpriv).args(program)
}

/// A bench whose directory belongs to the user, on a machine where users can make user namespaces.
fn user_bench(name: &str) -> Option<Bench> {
    let bench = Bench::new(name)?;
    chown(bench.path(""), Some(USER), Some(USER)).unwrap();
    let run = Run::new("setpriv").args(&[
        "--reuid",
        "1000",
        "--regid",
        "1000",
        "--clear-groups",
        "unshare",
        "-Urm",
        "true",
    ]);
    let works = have_program("setpriv") && run.output().status == 0;
    have(
        "user",
        works,
        "user namespaces are not for ordinary users here",
    )
    .then_some(bench)
}

/// The guest's attacks on the host itself, without a container, by `uid`.
fn outside(bench: &Bench, uid: u32, attack: &str) -> String {
    outcome(
        &as_user(bench, uid, &[guest(), "attack", attack])
            .output()
            .expect(0),
        attack,
    )
}

/// A container of root's whose processes are known: supervisor, init, command.
fn running(bench: &Bench, options: &[&str]) -> (Running, Vec<i32>) {
    let mut run = bench
        .run(options, &["sh", "-c", "echo ready; sleep 1000"])
        .start();
    run.until("ready");
    let children = |pid: i32| -> Vec<i32> {
        let text =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    };
    let init = children(run.pid())[0];
    let mut pids = vec![run.pid(), init];
    pids.extend(children(init));
    assert_eq!(pids.len(), 3, "supervisor, init and command");
    (run, pids)
}

#[test]
fn a_user_cannot_reach_roots_containers() {
    let Some(bench) = user_bench("outside") else {
        return;
    };
    // The user may come as far as the bench's directory, and there are root's directories of mini's.
    for options in [&[][..], &["-u", "1000"], &["--userns", "host"]] {
        let (running, pids) = running(&bench, options);
        for pid in &pids {
            for (attack, errno) in [
                (format!("kill:{pid}"), "EPERM"),
                (format!("ptrace:{pid}"), "EPERM"),
                (format!("vm_readv:{pid}"), "EPERM"),
                (format!("both:/proc/{pid}/mem"), "EACCES"),
                (format!("read:/proc/{pid}/environ"), "EACCES"),
                (format!("link:/proc/{pid}/exe"), "EACCES"),
                (format!("link:/proc/{pid}/root"), "EACCES"),
                (format!("link:/proc/{pid}/ns/mnt"), "EACCES"),
                (format!("read:/proc/{pid}/fd"), "EACCES"),
            ] {
                assert_eq!(
                    outside(&bench, USER, &attack),
                    errno,
                    "{options:?} {attack}"
                );
                // Root could.
                assert!(
                    ["ok", "empty", "EFAULT"].contains(&outside(&bench, 0, &attack).as_str()),
                    "{attack}"
                );
            }
        }
        for path in ["run", "store", "run/running", "store/cache"] {
            let attack = format!("read:{}", bench.text(path));
            assert_eq!(outside(&bench, USER, &attack), "EACCES");
            assert!(
                ["ok", "empty"].contains(&outside(&bench, 0, &attack).as_str()),
                "{attack}"
            );
            let attack = format!("create:{}/planted", bench.text(path));
            assert_eq!(outside(&bench, USER, &attack), "EACCES");
            let status = fs::metadata(bench.path(path)).unwrap();
            assert_eq!((status.uid(), status.mode() & 0o7777), (0, 0o700), "{path}");
        }
        running.kill(15);
        running.wait();
    }
    // Where the command has the user's own id on the host, the user may signal it: that is what `--userns host` means.
    let (running, pids) = running(&bench, &["--userns", "host", "-u", "1000"]);
    assert_eq!(outside(&bench, USER, &format!("kill:{}", pids[2])), "ok");
    for pid in &pids[..2] {
        assert_eq!(outside(&bench, USER, &format!("kill:{pid}")), "EPERM");
    }
    running.kill(15);
    running.wait();
}

#[test]
fn mini_is_nothing_that_gives_a_user_more() {
    let Some(bench) = user_bench("gain") else {
        return;
    };
    // Neither setuid nor with capabilities of its own.
    let status = fs::metadata(mini()).unwrap();
    assert_eq!(status.mode() & 0o6000, 0);
    if have_program("getcap") {
        assert_eq!(
            Run::new("getcap")
                .args(&[mini().to_str().unwrap()])
                .output()
                .ok(),
            ""
        );
    }
    let secret = bench.file("secret", "x");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&secret, Some(0), Some(0)).unwrap();
    let etc = bench.dir("etc");
    chown(&etc, Some(0), Some(0)).unwrap();
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o755)).unwrap();
    let zero = bench.text("null");
    Run::new("mknod")
        .args(&["-m", "600", &zero, "c", "1", "3"])
        .output()
        .ok();
    let device = format!("{zero}:/dev/other");
    let volume = format!("{secret}:/secret");
    let directory = format!("{etc}:/other");
    let guest_volume = format!("{}:/guest:ro", guest());
    // The outcome inside, or none where mini does not start.
    let attempt = |options: &[&str], attack: &str| {
        let run = as_user(
            &bench,
            USER,
            &[mini().to_str().unwrap(), "run", "-v", &guest_volume],
        );
        let output = run
            .args(options)
            .args(&[bench.busybox(), "--", "/guest", "attack", attack])
            .output();
        match output.status {
            0 => outcome(&output, attack),
            125 => "125".to_owned(),
            _ => panic!("{output:?}"),
        }
    };
    let every: [&[&str]; 4] = [
        &[],
        &["--privileged"],
        &["--userns", "host"],
        &["--cap-add", "ALL", "--seccomp", "unconfined"],
    ];
    for more in every {
        for (options, attack, errno) in [
            (["-v", &volume], "read:/secret", "EACCES"),
            (["-v", &directory], "create:/other/new", "EACCES"),
            (["--device", &device], "both:/dev/other", "EACCES"),
            (["-w", "/"], "write:/proc/sys/kernel/core_pattern", "EACCES"),
            (["-w", "/"], "settimeofday", "EPERM"),
        ] {
            let found = attempt(&[&options, more].concat(), attack);
            let harmless = [errno, "125", "EROFS", "EPERM"].contains(&found.as_str());
            assert!(harmless, "{more:?} {options:?} {attack}: {found}");
        }
    }
    for directory in ["run", "store"] {
        fs::remove_dir_all(bench.path(directory)).ok();
    }
    // The same by root, in directories of root's.
    assert_eq!(bench.attack(&format!("-v {volume}"), "read:/secret"), "ok");
    assert_eq!(
        bench.attack(&format!("-v {directory}"), "create:/other/new"),
        "ok"
    );
    assert_eq!(
        bench.attack(&format!("--device {device}"), "both:/dev/other"),
        "ok"
    );
    assert_eq!(
        bench.attack(PRIVILEGED, "write:/proc/sys/kernel/core_pattern"),
        "ok"
    );
}

/// A uid that nobody has, for the directory /tmp/mini-UID.
const STRANGER: u32 = 54_321;

#[test]
fn directories_planted_for_a_user_are_not_used() {
    let Some(bench) = user_bench("planted") else {
        return;
    };
    let place = format!("/tmp/mini-{STRANGER}");
    let remove = || {
        let _ = fs::remove_file(&place);
        let _ = fs::remove_dir_all(&place);
    };
    remove();
    let trap = bench.dir("trap");
    chown(&trap, Some(USER), Some(USER)).unwrap();
    let own = bench.dir("own");
    chown(&own, Some(STRANGER), Some(STRANGER)).unwrap();
    let store = bench.dir("strangers");
    chown(&store, Some(STRANGER), Some(STRANGER)).unwrap();
    let run = || {
        let id = STRANGER.to_string();
        let root = format!("MINI_ROOT={store}");
        let setpriv = [
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "env",
            "-u",
            "MINI_RUN",
            "-u",
            "XDG_RUNTIME_DIR",
            &root,
        ];
        let run = Run::new("setpriv").args(&setpriv);
        run.args(&[
            mini().to_str().unwrap(),
            "run",
            bench.busybox(),
            "--",
            "true",
        ])
        .output()
    };
    // A link to the attacker's directory, to one that would do, and to nothing; a directory of the attacker's; one that
    // others can write to; a file.
    let line = |plant: &dyn Fn()| {
        remove();
        plant();
        let line = run().one_line(125);
        assert!(line.contains(&place), "{line}");
        assert_eq!(
            fs::read_dir(&trap).unwrap().count(),
            0,
            "something was made in the attacker's directory"
        );
        assert_eq!(
            fs::read_dir(&own).unwrap().count(),
            0,
            "the link was followed"
        );
    };
    for target in [&trap, &own, "/tmp/mini-test-dangling"] {
        line(&|| symlink(target, &place).unwrap());
    }
    assert!(!fs::exists("/tmp/mini-test-dangling").unwrap());
    line(&|| {
        fs::create_dir(&place).unwrap();
        chown(&place, Some(USER), Some(USER)).unwrap();
    });
    line(&|| {
        fs::create_dir(&place).unwrap();
        chown(&place, Some(STRANGER), Some(STRANGER)).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    });
    line(&|| fs::write(&place, "").unwrap());
    // Without any of that it works.
    remove();
    run().ok();
    assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, 0o700);
    remove();
}

#[test]
fn a_range_of_ids_is_all_that_a_user_gets() {
    let Some(bench) = user_bench("range") else {
        return;
    };
    if !have_program("newuidmap")
        || !have(
            "user",
            fs::exists("/etc/subuid").unwrap(),
            "there is no /etc/subuid",
        )
    {
        return;
    }
    for (name, owner) in [
        ("mine", 200_005),
        ("next", 265_536),
        ("before", 199_999),
        ("other", 1001),
        ("root", 0),
    ] {
        let file = bench.file(name, "x");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(owner), Some(owner)).unwrap();
    }
    let guest_copy = bench.text("guest-copy");
    fs::copy(guest(), &guest_copy).unwrap();
    let attacks =
        "read:/v/mine read:/v/next read:/v/before read:/v/other read:/v/root create:/v/new";
    let script = format!(
        "grep -v :1000: /etc/passwd > passwd; echo minitest:x:1000:1000::/:/bin/sh >> passwd
         echo minitest:200000:65536 > subuid; cp subuid subgid
         for file in passwd subuid subgid; do mount --bind $file /etc/$file; done
         exec setpriv --reuid 1000 --regid 1000 --clear-groups $MINI run --cap-add ALL -v $PWD:/v:noidmap -v {guest_copy}:/guest:ro \
             $BUSYBOX -- /guest attack {attacks}"
    );
    let output = bench.private_shell(&script).output().expect(0);
    let expected = [
        ("read:/v/mine", "ok"),
        ("read:/v/next", "EACCES"),
        ("read:/v/before", "EACCES"),
        ("read:/v/other", "EACCES"),
        ("read:/v/root", "EACCES"),
        ("create:/v/new", "ok"),
    ];
    for (attack, errno) in expected {
        assert_eq!(outcome(&output, attack), errno, "{attack}");
    }
    assert_eq!(fs::metadata(bench.path("new")).unwrap().uid(), USER);
}

// --- what an attacker found ------------------------------------------------------------------------------------------

/// Its owner may make a file writable that is not: access(2) alone does not tell who can overwrite mini.
#[test]
fn a_binary_that_its_owner_made_read_only_is_out_of_reach_too() {
    let Some(bench) = user_bench("readonlyexe") else {
        return;
    };
    let own = bench.text("mini");
    fs::copy(mini(), &own).unwrap();
    chown(&own, Some(USER), Some(USER)).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o555)).unwrap();
    // What it does succeeds, on something else.
    let script = "chmod 6777 /proc/$PPID/exe";
    let command = [
        &own,
        "run",
        bench.busybox(),
        "--",
        "/proc/self/exe",
        "init",
        "--",
    ];
    let run = as_user(&bench, USER, &command).args(&["sh", "-c", script]);
    assert_eq!(run.output().ok(), "");
    assert_eq!(
        fs::metadata(&own).unwrap().permissions().mode() & 0o7777,
        0o555
    );
}

#[test]
fn volumes_on_links_do_not_cover_what_is_mounted_in_dev() {
    let Some(bench) = Bench::new("devlinks") else {
        return;
    };
    let image = bench.small_image("image");
    let data = bench.dir("data");
    for target in ["/dev/shm", "/dev/pts", "/dev/mqueue"] {
        let link = target.replace("/dev", "");
        symlink(target, format!("{image}{link}")).unwrap();
        let output = bench.mini(&[
            "run",
            "-v",
            &format!("{data}:{link}"),
            &image,
            "--",
            "/guest",
        ]);
        let line = output.output().one_line(125);
        assert!(
            line.contains("a symbolic link in the image leads it to"),
            "{line}"
        );
    }
}

/// A directory would be a way out, whatever root is inside; the host's own node could be changed by its owner.
#[test]
fn standard_streams_lead_nowhere() {
    let Some(bench) = Bench::new("streams") else {
        return;
    };
    for (script, number) in [("< /", 0), ("9< / >&9", 1)] {
        let output = bench.private_shell(&format!("$MINI run $BUSYBOX -- true {script}"));
        output.output().fails(
            125,
            &format!(
                "descriptor {number} is a directory or a path: the container could leave through it"
            ),
        );
    }
    let same = "[ $(stat -Lc %d /proc/self/fd/0) = $(stat -c %d /dev/null) ]";
    for options in ["", "--userns host"] {
        let script = format!("$MINI run {options} $BUSYBOX -- sh -c '{same}' < /dev/null");
        assert_eq!(bench.private_shell(&script).output().ok(), "", "{options}");
    }
}

/// What others write to the same pipe is not the container's to read.
#[test]
fn a_pipe_can_be_opened_again_only_as_it_is() {
    let Some(bench) = Bench::new("pipe") else {
        return;
    };
    for (options, can) in [("", false), ("-u 1000", false), ("--userns host", true)] {
        let script = format!(
            "$MINI run {options} $BUSYBOX -- sh -c 'echo x > /dev/stdout; true 3< /proc/self/fd/1' | cat; \
             echo status $?"
        );
        let output = bench.private_shell(&script).output();
        assert!(output.stdout.starts_with("x\n"), "{options}: {output:?}");
        let refused = output.stderr.contains("Permission denied");
        assert_eq!(refused, !can, "{options}: {output:?}");
    }
}

/// Nothing is removed in a directory that is somebody else's, or could be exchanged by somebody else.
#[test]
fn a_foreign_directory_is_not_swept() {
    let Some(bench) = Bench::new("sweep") else {
        return;
    };
    let left = bench.dir("theirs/running/0123456789ab");
    bench.file("theirs/running/0123456789ab/file", "theirs");
    chown(bench.path("theirs"), Some(USER), Some(USER)).unwrap();
    let run = bench.mini(&["run", bench.busybox(), "--", "true"]);
    let line = run
        .env("MINI_RUN", bench.text("theirs"))
        .output()
        .one_line(125);
    assert!(
        line.contains("not a directory that only this user can write to"),
        "{line}"
    );
    assert!(fs::exists(format!("{left}/file")).unwrap());
    // One's own is.
    chown(bench.path("theirs"), Some(0), Some(0)).unwrap();
    for directory in ["theirs", "theirs/running"] {
        fs::set_permissions(bench.path(directory), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let run = bench.mini(&["run", bench.busybox(), "--", "true"]);
    run.env("MINI_RUN", bench.text("theirs")).output().ok();
    assert!(!fs::exists(left).unwrap());
}

/// Somebody who can write to the directory that a container has as its root exchanges /proc there while it is set up: what
/// is masked is masked all the same, wherever that ends up (the races of CVE-2019-19921 and CVE-2025-31133).
#[test]
fn proc_is_masked_wherever_its_directory_goes() {
    let Some(bench) = Bench::new("proc-race") else {
        return;
    };
    let image = bench.busybox_directory();
    fs::create_dir_all(format!("{image}/other")).unwrap();
    let (one, two) = (format!("{image}/proc"), format!("{image}/other"));
    let mut swapper = bench
        .program(guest())
        .args(&["swap", &one, &two, "6000"])
        .start();
    swapper.until("swapping");
    // The caller's keys, in a file that everybody may read.
    let script = "for at in /proc /other; do [ -e $at/version ] && echo mounted; cat $at/keys && echo seen; done";
    let (mut mounted, mut refused) = (0, 0);
    for _ in 0..60 {
        let run = bench.mini(&["run", "--rw", &image, "--", "/bin/sh", "-c", script]);
        let output = run.limit(20).output();
        assert!(!output.stdout.contains("seen"), "{output:?}");
        match output.status {
            125 => refused += 1,
            _ => mounted += usize::from(output.stdout.contains("mounted")),
        }
    }
    swapper.kill(15);
    swapper.wait();
    // Both have to happen, or it was no race.
    assert!(mounted > 0 && refused > 0, "{mounted} {refused}");
}
