//! What a container is by default, seen from inside: namespaces, processes, mounts, devices, environment, descriptors,
//! signals, network, names; and that neither the image nor the host's own root can be got at.

mod support;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use support::{Bench, Report, guest, tree};

#[test]
fn every_namespace_is_the_containers_own() {
    let Some(bench) = Bench::new("namespaces") else {
        return;
    };
    let report = bench.report(&[]);
    let host_has = |report: &Report, name: &str| {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let inside = report.get(&format!("ns {name}"));
        assert!(inside.starts_with(&format!("{name}:[")), "{inside}");
        inside == host.to_str().unwrap()
    };
    for name in ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup"] {
        assert!(!host_has(&report, name), "{name}");
    }
    for options in [&["--userns", "host"][..], &["--privileged"]] {
        let report = bench.report(options);
        assert!(host_has(&report, "user"), "{options:?}");
        for name in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
            assert!(!host_has(&report, name), "{options:?} {name}");
        }
    }
}

#[test]
fn init_is_pid_1_and_the_command_pid_2_in_a_session_of_its_own() {
    let Some(bench) = Bench::new("processes") else {
        return;
    };
    let report = bench.report(&[]);
    assert_eq!(report.get("init-cmdline"), "mini init");
    for key in ["pid", "sid", "pgid", "NSpid", "NSsid"] {
        assert_eq!(report.get(key), "2", "{key}");
    }
    assert_eq!(report.get("ppid"), "1");
    assert_eq!(report.all("process"), ["1 mini", "2 guest"]);
    assert_eq!(report.get("cwd"), "/");
    let text = bench.shell(&[], "ps -o pid,args | sed -n '2,3p'").ok();
    assert_eq!(
        text,
        "    1 mini init\n    2 /bin/sh -c ps -o pid,args | sed -n '2,3p'\n"
    );
}

#[test]
fn the_mounts_are_the_documented_ones_and_none_of_the_hosts() {
    let Some(bench) = Bench::new("mounts") else {
        return;
    };
    let list = |report: &Report| {
        let mounts = report
            .mounts()
            .into_iter()
            .filter(|mount| mount.at != "/guest");
        let mut found = mounts
            .map(|mount| (mount.at, mount.kind, mount.options))
            .collect::<Vec<_>>();
        found.sort();
        found
    };
    let quiet = "ro,nosuid,nodev,noexec,relatime";
    let basic = |root: &'static str, sys: &'static str| {
        vec![
            ("/", "overlay", root),
            ("/proc", "proc", "rw,nosuid,nodev,noexec,relatime"),
            ("/sys", "sysfs", sys),
            ("/dev", "tmpfs", "rw,nosuid,noexec,relatime"),
            ("/dev/pts", "devpts", "rw,nosuid,noexec,relatime"),
            ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec,relatime"),
            ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime"),
            ("/etc/hosts", "tmpfs", "rw,nosuid,nodev,relatime"),
            ("/etc/hostname", "tmpfs", "rw,nosuid,nodev,relatime"),
            ("/etc/resolv.conf", "tmpfs", "rw,nosuid,nodev,relatime"),
        ]
    };
    let console = ("/dev/console", "devpts", "rw,nosuid,noexec,relatime");
    // What covers a masked path, and what is read-only: as far as this kernel has it.
    let cpus: Vec<String> = (0..4096)
        .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"))
        .collect();
    let masked = MASKED.into_iter().chain(cpus.iter().map(String::as_str));
    let masks: Vec<_> = (masked.map(|path| (path, "tmpfs", quiet)))
        .chain(READ_ONLY.map(|path| (path, "proc", quiet)))
        .filter(|(path, ..)| fs::exists(path).unwrap())
        .collect();
    assert!(masks.len() > 5, "{masks:?}");
    let ordinary = basic("rw,nosuid,nodev,relatime", quiet);
    let privileged = basic("rw,relatime", "rw,nosuid,nodev,noexec,relatime");
    let suid = basic("rw,nodev,relatime", quiet);
    for (options, mounts, masked) in [
        (&[][..], &ordinary, true),
        (&["-t"], &ordinary, true),
        (&["--userns", "host"], &ordinary, true),
        (&["--masks", "none"], &ordinary, false),
        (&["--no-new-privs=false"], &suid, true),
        (&["--privileged"], &privileged, false),
        (&["--privileged", "--masks=default"], &privileged, true),
    ] {
        let report = bench.report(options);
        let mut expected = mounts.clone();
        if masked {
            expected.extend(&masks);
        }
        if options == ["-t"] {
            expected.push(console);
        }
        let mut expected: Vec<_> = expected
            .iter()
            .map(|(at, kind, options)| (at.to_string(), kind.to_string(), options.to_string()))
            .collect();
        expected.sort();
        assert_eq!(list(&report), expected, "{options:?}");
        // Ids in the options of a file system are those outside.
        let base = report.base();
        for option in [format!("gid={}", base + 5), "ptmxmode=666".into()] {
            let pts = report.mount("/dev/pts");
            assert!(pts.has(&option), "{options:?} {option}: {pts:?}");
        }
        let shm = report.mount("/dev/shm");
        assert!(shm.has("size=65536k"), "{options:?}: {shm:?}");
        // The mount at / is not a part of something larger.
        assert_eq!(report.mount("/").root, "/", "{options:?}");
        for mount in report
            .mounts()
            .iter()
            .filter(|mount| mount.kind == "tmpfs" && MASKED.contains(&mount.at.as_str()))
        {
            let made = ["/mask/file", "/mask/directory"].contains(&mount.root.as_str());
            assert!(made, "{options:?}: {mount:?}");
        }
    }
}

/// The OCI engines' set, as it is documented.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

#[test]
fn dev_has_the_nodes_and_links_of_every_linux() {
    let Some(bench) = Bench::new("dev") else {
        return;
    };
    let mut expected = vec![
        "fd 120777 0:0 /proc/self/fd",
        "full 20666 1:7",
        "mqueue 41777 0:0",
        "null 20666 1:3",
        "ptmx 120777 0:0 pts/ptmx",
        "pts 40755 0:0",
        "random 20666 1:8",
        "shm 41777 0:0",
        "stderr 120777 0:0 /proc/self/fd/2",
        "stdin 120777 0:0 /proc/self/fd/0",
        "stdout 120777 0:0 /proc/self/fd/1",
        "tty 20666 5:0",
        "urandom 20666 1:9",
        "zero 20666 1:5",
    ];
    let nodes = |report: &Report| {
        let mut nodes: Vec<String> = report.all("dev").into_iter().map(str::to_owned).collect();
        nodes.sort();
        nodes
    };
    assert_eq!(nodes(&bench.report(&[])), expected);
    expected.insert(0, "console 20620 136:0");
    assert_eq!(nodes(&bench.report(&["-t"])), expected);
    let script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 3 /dev/urandom | wc -c && \
        echo out > /dev/stdout && : > /dev/shm/x && echo x > /dev/full";
    let output = bench.shell(&[], script).expect(1);
    assert_eq!(output.stdout, "3\n3\nout\n");
    assert!(
        output.stderr.contains("No space left on device"),
        "{}",
        output.stderr
    );
}

#[test]
fn the_environment_is_minis_own_and_the_caller_shows_nowhere() {
    let Some(bench) = Bench::new("environment") else {
        return;
    };
    let run = |options: &[&str]| {
        let output = bench
            .guest(options, &["report"])
            .env("SECRET", "hunter2")
            .env("TERM", "vt52")
            .output();
        Report(output.ok().replace('\r', ""))
    };
    let expected = [
        "HOME=/root",
        "HOSTNAME=box",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ];
    let report = run(&["--name", "box"]);
    assert_eq!(report.environment(), expected);
    let mut with_terminal = expected.to_vec();
    with_terminal.push("TERM=vt52");
    assert_eq!(run(&["--name", "box", "-t"]).environment(), with_terminal);
    for text in [
        &report.0,
        report.get("init-environ"),
        report.get("init-cmdline"),
    ] {
        assert!(
            !text.contains("hunter2") && !text.contains("MINI_RUN"),
            "{text}"
        );
    }
    assert_eq!(report.get("init-environ"), "");
    // Not in any process, whatever it shows. Init lets nobody look but who may trace any process of the machine, and
    // shows nothing to them, either.
    let script = "(: < /proc/1/environ) 2> /dev/null || echo closed
        cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/comm 2> /dev/null | grep -c -e hunter[2] -e MINI_RO[O]T";
    for (options, expected) in [
        (&[][..], "closed\n0"),
        (&["-t"], "closed\r\n0"),
        (&["--userns", "host"], "closed\n0"),
        (&["--cap-add", "SYS_PTRACE"], "closed\n0"),
        (&["--no-init"], "0"),
        (&["--privileged"], "0"),
        (&["--userns", "host", "--cap-add", "SYS_PTRACE"], "0"),
    ] {
        let output = bench
            .run(options, &["sh", "-c", script])
            .env("SECRET", "hunter2")
            .output();
        assert_eq!(
            output.stdout.trim_end(),
            expected,
            "{options:?}: {}",
            output.stderr
        );
    }
    // Sealed, mini starts over from memory: it keeps its arguments and environment until it overwrites them.
    let report = run(&["--name", "box", "--privileged"]);
    assert_eq!(report.environment(), expected);
    assert_eq!(report.get("init-cmdline"), "mini init");
    assert_eq!(report.get("init-environ"), "");
    assert_eq!(report.all("process"), ["1 mini", "2 guest"]);
}

#[test]
fn only_the_standard_descriptors_reach_the_command_and_init_has_none() {
    let Some(bench) = Bench::new("descriptors") else {
        return;
    };
    for options in [
        "",
        "--no-init",
        "-t",
        "--userns host",
        "--privileged",
        "--privileged -t",
    ] {
        // Two that the caller left open, one of them a directory of the host's and one beyond the first thousand.
        let script = format!(
            "ulimit -n 4096; exec 9< /etc; exec {{far}}< /; eval \"exec 2000< /etc\"
             exec \"$MINI\" run -v {}:/guest:ro {options} \"$BUSYBOX\" -- /guest report",
            guest()
        );
        let run = bench
            .program("bash")
            .args(&["-c", &script])
            .env("MINI", support::mini());
        let report = Report(
            run.env("BUSYBOX", bench.busybox())
                .output()
                .ok()
                .replace('\r', ""),
        );
        let mut numbers: Vec<_> = report
            .all("fd")
            .iter()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        numbers.sort();
        assert_eq!(
            numbers,
            ["0", "1", "2"],
            "{options}: {:?}",
            report.all("fd")
        );
        if options != "--no-init" {
            assert_eq!(report.all("init-fd"), Vec::<&str>::new(), "{options}");
            // It can be listed by the host's root, or by who may trace it.
            let looked = options.contains("host") || options.contains("privileged");
            let readable = report.get("init-fd-readable");
            assert_eq!(readable, looked.to_string(), "{options}");
        }
    }
}

unsafe extern "C" {
    fn sigprocmask(how: i32, set: *const [u64; 16], old: *mut [u64; 16]) -> i32;
    fn signal(number: i32, action: usize) -> usize;
    fn umask(mask: u32) -> u32;
}

#[test]
fn umask_signal_mask_and_dispositions_are_the_default_ones_whatever_the_callers_were() {
    let Some(bench) = Bench::new("signals") else {
        return;
    };
    for options in [&[][..], &["--no-init"]] {
        let mut run = bench.guest(options, &["report"]).limit(10);
        // SAFETY: system calls with numbers and memory of this function.
        unsafe {
            run.command.pre_exec(|| {
                let all = [u64::MAX; 16];
                sigprocmask(0, &all, std::ptr::null_mut());
                for number in [1, 2, 3, 10, 13, 15, 18, 20, 21, 22, 28] {
                    signal(number, 1);
                }
                umask(0o077);
                Ok(())
            });
        }
        let report = Report(run.output().ok());
        assert_eq!(report.get("Umask"), "0022", "{options:?}");
        for key in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
            assert_eq!(report.get(key), "0000000000000000", "{options:?} {key}");
        }
    }
}

#[test]
fn the_network_is_a_loopback_interface_that_is_up() {
    let Some(bench) = Bench::new("loopback") else {
        return;
    };
    let text = bench.guest(&[], &["loopback"]).output().ok();
    assert!(text.contains("127.0.0.1:0 ok"), "{text}");
    assert!(
        text.contains("[::1]:0 ok") || !fs::exists("/proc/net/if_inet6").unwrap(),
        "{text}"
    );
    let interfaces = "sed 1,2d /proc/net/dev | cut -d: -f1 && ls /sys/class/net";
    assert_eq!(bench.shell(&[], interfaces).ok(), "    lo\nlo\n");
    // Echo requests need no privilege, whoever sends them; raw sockets, which this busybox's ping wants, do.
    for options in [
        &[][..],
        &["-u", "1000"],
        &["-u", "65535:65535"],
        &["--cap-drop", "ALL"],
    ] {
        let text = bench.guest(options, &["ping"]).output().ok();
        assert_eq!(text, "ping ok\n", "{options:?}");
    }
    for (options, groups) in [
        (&[][..], "0\t65535\n"),
        (&["--userns", "host"], "0\t2147483647\n"),
    ] {
        let text = bench.shell(options, "cat /proc/sys/net/ipv4/ping_group_range");
        assert_eq!(text.ok(), groups, "{options:?}");
    }
    let ping = "ping -c1 -W2 127.0.0.1 | grep -c ' 0% packet loss'";
    let text = bench.shell(&["--cap-add", "NET_RAW"], ping).ok();
    assert_eq!(text, "1\n");
    let output = bench.shell(&[], ping).expect(1);
    assert_eq!(output.stderr, "ping: permission denied (are you root?)\n");
    if let Some(archive) = support::rootfs("debian.tar") {
        for user in ["0", "nobody"] {
            let run = bench.mini(&["run", "-u", user, &archive, "--", "sh", "-c", ping]);
            assert_eq!(run.output().ok(), "1\n", "{user}");
        }
    }
}

#[test]
fn the_hostname_is_hostname_else_name_else_id() {
    let Some(bench) = Bench::new("hostname") else {
        return;
    };
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let script = "hostname; cat /etc/hostname; echo $HOSTNAME; grep -c \"$(hostname)$\" /etc/hosts";
    let expect = |options: &[&str], name: &str| {
        assert_eq!(
            bench.shell(options, script).ok(),
            format!("{name}\n{name}\n{name}\n1\n")
        );
    };
    expect(&["--hostname", "alpha", "--name", "beta"], "alpha");
    expect(&["--name", "beta"], "beta");
    let id = bench.shell(&[], "hostname").ok();
    let id = id.trim_end();
    assert!(
        id.len() == 12 && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)),
        "{id}"
    );
    assert_ne!(bench.shell(&[], "hostname").ok().trim_end(), id);
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        own
    );
}

#[test]
fn hosts_and_resolv_conf_are_made_for_the_container() {
    let Some(bench) = Bench::new("etc") else {
        return;
    };
    let text = bench
        .shell(
            &["--name", "box"],
            "cat /etc/hosts /etc/resolv.conf; ls -l /etc/hosts | cut -c1-10",
        )
        .ok();
    let expected = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n\
        # no network: mini run --net host\n-rw-r--r--\n";
    assert_eq!(text, expected);
    // They can be written to, and the next container does not see it.
    bench
        .shell(
            &[],
            "echo 1.2.3.4 x >> /etc/hosts && grep -q 1.2.3.4 /etc/hosts",
        )
        .ok();
    bench.shell(&[], "grep 1.2.3.4 /etc/hosts").expect(1);
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert_eq!(
        bench.shell(&["--net", "host"], "cat /etc/hosts").ok(),
        hosts
    );
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(
        bench.shell(&["--net", "host"], "cat /etc/resolv.conf").ok(),
        resolv
    );
}

/// Changes what can be changed.
const VANDAL: &str = "rm -r /etc/profile.d /home; echo x > /etc/passwd; echo x >> /bin/busybox; chmod 700 /usr; \
    chown 5 /var; ln -s x /new; mkdir /dir; mv /opt /opt2; touch /srv; chmod 711 /; ls -d /opt2; mknod /node c 1 3";

#[test]
fn the_image_is_not_changed() {
    let Some(bench) = Bench::new("image") else {
        return;
    };
    let directory = bench.busybox_directory();
    let before = tree(directory.as_ref());
    // A device node can be made only outside of any user namespace.
    let refused = "mknod: /node: Operation not permitted\n";
    for (options, said) in [
        (&[][..], refused),
        (&["--upper", "disk"], refused),
        (&["--no-init"], refused),
        (&["--userns", "host", "--cap-add", "MKNOD"], ""),
        (&["--privileged", "--upper", "disk"], ""),
    ] {
        let run = bench
            .mini(&["run"])
            .args(options)
            .args(&[&directory, "--", "/bin/sh", "-c", VANDAL]);
        let output = run.output().expect(i32::from(!said.is_empty()));
        let seen = (output.stdout.as_str(), output.stderr.as_str());
        assert_eq!(seen, ("/opt2\n", said), "{options:?}");
        assert_eq!(tree(directory.as_ref()), before, "{options:?}");
    }
    for options in [&["--cap-add", "ALL"][..], &["--userns", "host"]] {
        let output = bench.shell(options, "mknod /node c 1 3").expect(1);
        assert_eq!(output.stderr, refused, "{options:?}");
    }
    // The next one sees nothing of it.
    let run = bench.mini(&["run", &directory, "--", "ls", "-d", "/opt", "/home"]);
    assert_eq!(run.output().ok(), "/home\n/opt\n");
    let archive = fs::read(bench.busybox()).unwrap();
    for (options, status) in [(&[][..], 1), (&["--privileged"], 0)] {
        let output = bench.shell(options, VANDAL).expect(status);
        assert_eq!(output.stdout, "/opt2\n", "{options:?}: {}", output.stderr);
    }
    assert!(
        fs::read(bench.busybox()).unwrap() == archive,
        "the archive has changed"
    );
    bench.shell(&[], "ls -d /opt2").expect(1);
}

#[test]
fn the_root_shows_owner_and_mode_of_the_images() {
    let Some(bench) = Bench::new("rootmode") else {
        return;
    };
    let directory = bench.busybox_directory();
    chown(&directory, Some(12), Some(34)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o711)).unwrap();
    let run = bench.mini(&["run", &directory, "--", "stat", "-c", "%a %u %g", "/"]);
    assert_eq!(run.output().ok(), "711 12 34\n");
}

#[test]
fn keep_keeps_the_changes_and_says_where() {
    let Some(mut bench) = Bench::new("keep") else {
        return;
    };
    bench.keeps = true;
    let output = bench
        .shell(&["--keep"], "echo kept > /etc/new; rm /etc/profile; exit 5")
        .expect(5);
    let line = output
        .stderr
        .strip_prefix("mini: the container's changes are in ")
        .expect(&output.stderr);
    let upper = std::path::Path::new(line.trim_end().trim_matches('"'));
    assert!(upper.starts_with(bench.path("store/kept")), "{line}");
    assert_eq!(fs::read_to_string(upper.join("etc/new")).unwrap(), "kept\n");
    let whiteout = fs::symlink_metadata(upper.join("etc/profile")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    for file in ["hosts", "hostname", "resolv.conf"] {
        let made = fs::read(upper.join("etc").join(file)).unwrap_or_default();
        assert_eq!(
            made, b"",
            "{file} belongs to the container, not to its changes"
        );
    }
}

#[test]
fn the_hosts_root_cannot_be_reached() {
    let Some(bench) = Bench::new("oldroot") else {
        return;
    };
    let report = bench.report(&[]);
    for mount in report.mounts() {
        let own = ["overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue"]
            .contains(&mount.kind.as_str());
        assert!(own || mount.at == "/guest", "{mount:?}");
    }
    // The host's own directories, by every way up; the bench's directory exists only there.
    let canary = bench.file("canary", "x");
    let script = format!(
        "for way in / /.. /../../../.. /proc/1/root /proc/1/root/.. /proc/self/root/.. /proc/1/cwd/.. /proc/self/cwd/../..; do
             [ -e $way{canary} ] && echo REACHED $way; [ -e $way/bin/busybox ] || echo CLOSED $way
         done
         for link in /proc/1/root /proc/1/cwd /proc/self/cwd; do readlink $link; done
         for fd in /proc/[0-9]*/fd/*; do [ -e $fd/../../../../../../..{canary} ] && echo REACHED $fd; done; true"
    );
    // Init's own ways lead to the container's root, for those that may take them.
    let open = "/\n/\n/\n";
    let closed = "CLOSED /proc/1/root\nCLOSED /proc/1/root/..\nCLOSED /proc/1/cwd/..\n/\n";
    for (options, expected) in [
        (&[][..], closed),
        (&["--userns", "host"], closed),
        (&["--cap-add", "ALL"], closed),
        (&["--no-init"], open),
        (&["--no-init", "--privileged"], open),
        (&["--privileged"], open),
        (&["--privileged", "--userns", "auto"], closed),
    ] {
        let text = bench.shell(options, &script).ok();
        assert_eq!(text, expected, "{options:?}");
    }
}

#[test]
fn propagation_leads_neither_way() {
    let Some(bench) = Bench::new("propagation") else {
        return;
    };
    // A mount made inside does not appear outside, also not where the volume came from a shared mount; nor does one
    // that is made outside appear inside.
    for options in [
        "--cap-add SYS_ADMIN",
        "--privileged",
        "--privileged --userns auto",
    ] {
        let script = format!(
            "mkdir v; mount -t tmpfs none v; mount --make-shared v; mkdir v/a v/b
             (for i in $(seq 200); do [ -e v/ready ] && break; sleep 0.05; done
              mount -t tmpfs none v/b; touch v/b/outside v/go) &
             $MINI run {options} -v $PWD/v:/v $BUSYBOX -- sh -c 'mount -t tmpfs none /v/a && touch /v/a/inside && ls /v/a
                 touch /v/ready; for i in $(seq 200); do [ -e /v/go ] && break; sleep 0.05; done; ls /v /v/b'
             wait; ls v/a | wc -l; ls v/b; umount v/b v; rmdir v"
        );
        let expected = "inside\n/v:\na\nb\ngo\nready\n\n/v/b:\n0\noutside\n";
        let text = bench.private_shell(&script).output().ok();
        assert_eq!(text, expected, "{options}");
    }
    // By default none can be made.
    for options in [&[][..], &["--userns", "host"]] {
        let output = bench.shell(options, "mount -t tmpfs none /mnt").expect(1);
        let said = "mount: permission denied (are you root?)\n";
        assert_eq!(output.stderr, said, "{options:?}");
    }
}

/// What the container needs of its own is found without passing the directories above.
#[test]
fn the_run_directory_may_lie_below_one_of_somebody_elses() {
    let Some(bench) = Bench::new("below") else {
        return;
    };
    let home = bench.dir("home");
    chown(&home, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let run = bench.mini(&["run", bench.busybox(), "--", "echo", "here"]);
    let output = run.env("MINI_RUN", bench.text("home/run")).output();
    assert_eq!(output.ok(), "here\n");
}

/// A directory that was made ready for chroot(8), with /proc and /sys mounted in it, as --rw: mini mounts its own over them.
#[test]
fn a_prepared_directory_may_be_the_root() {
    let Some(bench) = Bench::new("prepared") else {
        return;
    };
    let image = bench.busybox_directory();
    for options in ["", "--net host", "--pid host"] {
        let script = format!(
            "mkdir -p {image}/proc {image}/sys; mount -t proc p {image}/proc; mount -t sysfs s {image}/sys; \
             $MINI run --rw {options} {image} -- echo there"
        );
        let output = bench.private_shell(&script).output();
        assert_eq!(output.ok(), "there\n", "{options}");
    }
}
