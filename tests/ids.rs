//! Ids and protection: ranges of ids of a container's own, whom files belong to inside and outside (volumes, changes that
//! are kept), and that what `--trace` reports as obtained is what a process inside finds out about itself.

mod support;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use support::{Bench, Output, Report, Running, eventually, have};

/// The documented span of the ranges: below 2^31, above what other programs hand out.
const FIRST: u32 = 0x7739_0000;
const RANGES: u32 = 2245;

/// The range, by number, that a line of uid_map stands for.
fn range(map: &str) -> u32 {
    let numbers: Vec<u32> = map.split_whitespace().flat_map(str::parse).collect();
    let [0, base, 65536] = numbers[..] else {
        panic!("{map}");
    };
    assert_eq!((base - FIRST) % 65536, 0, "{map}");
    let range = (base - FIRST) / 65536;
    assert!(range < RANGES, "{map}");
    range
}

/// A container that shows its map and then waits.
fn waiting(bench: &Bench, image: &str, place: &str) -> (Running, u32) {
    let run = bench.mini(&["run", image, "--", "/bin/sh", "-c"]);
    let run = run.args(&["cat /proc/self/uid_map; echo ready; sleep 1000"]);
    let run = run.env("MINI_RUN", bench.path(place));
    let mut running = run.env("MINI_ROOT", bench.path("store")).start();
    let text = running.until("ready");
    let range = range(text.lines().next().unwrap());
    (running, range)
}

/// Whether somebody holds the lock that stands for this range (proc(5), /proc/locks).
fn claimed(range: u32) -> bool {
    let status = fs::metadata("/run/mini/ids").unwrap();
    let file = format!(":{} {range} {range}", status.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks
        .lines()
        .any(|line| line.contains("OFDLCK") && line.ends_with(&file))
}

#[test]
fn containers_at_the_same_time_have_disjoint_ranges_wherever_their_state_is() {
    let Some(bench) = Bench::new("ranges") else {
        return;
    };
    let directory = bench.busybox_directory();
    let mut running: Vec<(Running, u32)> = ["run", "run", "run", "other", "other", "third"]
        .iter()
        .map(|place| waiting(&bench, &directory, place))
        .collect();
    let mut ranges: Vec<u32> = running.iter().map(|(_, range)| *range).collect();
    assert!(ranges.iter().all(|range| claimed(*range)), "{ranges:?}");
    ranges.sort();
    ranges.dedup();
    assert_eq!(ranges.len(), running.len(), "{ranges:?}");
    // Groups have the same, and the host sees no more of it than numbers.
    assert_eq!(bench.report(&[]).ids()[0][2], 65536);
    // A range is free again when its supervisor has ended, also if it was killed.
    for (index, (running, range)) in running.drain(..).enumerate() {
        running.kill(if index % 2 == 0 { 9 } else { 15 });
        running.wait();
        assert!(eventually(|| !claimed(range)), "{index}");
    }
    assert!(eventually(|| bench.processes().is_empty()));
    // What one of them left, another that has the same directory removes.
    for place in ["run", "other", "third"] {
        let next = bench.run(&[], &["true"]);
        next.env("MINI_RUN", bench.path(place)).output().ok();
    }
    // The file of ranges stays, readable for nobody else.
    let status = fs::metadata("/run/mini/ids").unwrap();
    assert_eq!(
        (status.len(), status.uid(), status.mode() & 0o7777),
        (0, 0, 0o600)
    );
}

#[repr(C)]
struct Lock {
    kind: i16,
    whence: i16,
    start: i64,
    length: i64,
    pid: i32,
}

unsafe extern "C" {
    fn fcntl(file: i32, command: i32, lock: *const Lock) -> i32;
}

/// Locks ranges for as long as the file is open.
fn lock(file: &fs::File, start: u32, count: u32) {
    const F_OFD_SETLK: i32 = 37;
    let lock = Lock {
        kind: 1, // F_WRLCK
        whence: 0,
        start: start.into(),
        length: count.into(),
        pid: 0,
    };
    // SAFETY: struct flock of 64-bit Linux, which outlives the call.
    let result = unsafe { fcntl(file.as_raw_fd(), F_OFD_SETLK, &raw const lock) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_claimed_range_is_passed_over_and_when_all_are_there_is_an_error() {
    let Some(bench) = Bench::new("full") else {
        return;
    };
    if !have(
        "root",
        fs::metadata("/run/mini").is_ok(),
        "there is no /run/mini",
    ) {
        return;
    }
    // Another /run/mini, so that no other container is disturbed.
    let dir = bench.dir("ids");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let file = fs::File::create(bench.path("ids/ids")).unwrap();
    let run = |options: &str| {
        let script = format!(
            "mount --bind ids /run/mini; $MINI run {options} $BUSYBOX -- cat /proc/self/uid_map"
        );
        bench.private_shell(&script).output()
    };
    let left = 1234;
    lock(&file, 0, left);
    lock(&file, left + 1, RANGES - left - 1);
    assert_eq!(range(&run("").ok()), left);
    // Free again.
    assert_eq!(range(&run("").ok()), left);
    lock(&file, left, 1);
    let line = run("").one_line(125);
    let expected = "all 2245 ranges of ids are in use (--userns host does without one)";
    assert_eq!(line, expected);
    assert_eq!(
        run("--userns host").ok().split_whitespace().last(),
        Some("4294967295")
    );
}

/// Owner and group of a file on the host.
fn owner(bench: &Bench, file: &str) -> (u32, u32) {
    let status = fs::symlink_metadata(bench.path(file)).unwrap();
    (status.uid(), status.gid())
}

/// A directory with a file of root's that nobody else may read, one of user 1000's, and one of an id beyond 65535; and
/// a directory for everybody.
fn volume(bench: &Bench) -> String {
    let dir = bench.dir("dir");
    for (name, id, mode) in [
        ("root", 0, 0o600),
        ("user", 1000, 0o600),
        ("far", 70_000, 0o644),
    ] {
        let file = bench.file(&format!("dir/{name}"), format!("{name}\n"));
        chown(&file, Some(id), Some(id)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    let all = bench.dir("dir/all");
    fs::set_permissions(&all, fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

const OWNERS: &str = "cd /v; stat -c '%u %g %n' . root user far all";

#[test]
fn in_a_volume_ids_inside_are_ids_on_disk() {
    let Some(bench) = Bench::new("idmap") else {
        return;
    };
    let dir = volume(&bench);
    let volume = format!("{dir}:/v");
    let seen = "0 0 .\n0 0 root\n1000 1000 user\n65534 65534 far\n0 0 all\n";
    for userns in ["auto", "host"] {
        let options = ["--userns", userns, "-v", &volume];
        let seen = match userns {
            "auto" => seen.to_owned(),
            _ => seen.replace("65534 65534", "70000 70000"),
        };
        assert_eq!(bench.shell(&options, OWNERS).ok(), seen, "{userns}");
        let script = "cd /v; cat root user; echo x > new; mkdir sub; chown 5:6 sub; echo x > all/0";
        assert_eq!(bench.shell(&options, script).ok(), "root\nuser\n");
        for (file, ids) in [("new", (0, 0)), ("sub", (5, 6)), ("all/0", (0, 0))] {
            assert_eq!(
                owner(&bench, &format!("dir/{file}")),
                ids,
                "{userns} {file}"
            );
        }
        let as_user = [&options[..], &["-u", "1000:1234"]].concat();
        let script = "cd /v; echo x > all/1000; cat user; cat root 2>&1; (echo x > denied) 2>&1";
        let output = bench.shell(&as_user, script).expect(1);
        let said = "user\ncat: can't open 'root': Permission denied\n\
            /bin/sh: can't create denied: Permission denied\n";
        assert_eq!(output.stdout.replace("\nsh:", "\n/bin/sh:"), said);
        assert_eq!(owner(&bench, "dir/all/1000"), (1000, 1234));
        fs::remove_dir_all(bench.path("dir/sub")).unwrap();
        fs::remove_file(bench.path("dir/new")).unwrap();
        for file in ["0", "1000"] {
            fs::remove_file(bench.path("dir/all").join(file)).unwrap();
        }
    }
    // An id beyond 65535 is nobody's: it can be read as everybody may, and not be given away.
    let script = "cat /v/far; chown 0 /v/far 2>/dev/null || echo kept";
    assert_eq!(bench.shell(&["-v", &volume], script).ok(), "far\nkept\n");
    assert_eq!(owner(&bench, "dir/far"), (70_000, 70_000));
}

#[test]
fn with_noidmap_container_root_is_nobody_in_a_volume() {
    let Some(bench) = Bench::new("noidmap") else {
        return;
    };
    let dir = volume(&bench);
    let volume = format!("{dir}:/v:noidmap");
    let options = ["--userns", "auto", "-v", volume.as_str()];
    let nobody = "65534 65534";
    let seen = format!("{nobody} .\n{nobody} root\n{nobody} user\n{nobody} far\n{nobody} all\n");
    assert_eq!(bench.shell(&options, OWNERS).ok(), seen);
    let script = "cd /v; cat far; for file in root user; do cat $file 2>/dev/null || echo $file denied; done
        (echo x > new) 2>/dev/null || echo new denied; chown 0 far 2>/dev/null || echo far kept
        rm root 2>/dev/null || echo root kept; echo x > all/file; stat -c %u all/file; cat /proc/self/uid_map";
    let text = bench.shell(&options, script).ok();
    let (text, map) = text.trim_end().rsplit_once('\n').unwrap();
    let expected = "far\nroot denied\nuser denied\nnew denied\nfar kept\nroot kept\n0";
    assert_eq!(text, expected);
    let base = FIRST + range(map) * 65536;
    assert_eq!(owner(&bench, "dir/all/file"), (base, base));
    fs::remove_file(bench.path("dir/all/file")).unwrap();
    for volume in [
        format!("{dir}:/v:ro,noidmap"),
        format!("{dir}:/v:noidmap,ro"),
    ] {
        let options = ["-v", &volume];
        assert_eq!(bench.shell(&options, OWNERS).ok(), seen);
        let output = bench.shell(&options, "cat /v/far; echo x > /v/all/file");
        let output = output.expect(1);
        assert_eq!(output.stdout, "far\n");
        assert!(
            output.stderr.contains("Read-only file system"),
            "{output:?}"
        );
        let mount = bench.report(&options).mount("/v");
        assert!(!mount.has("idmapped") && mount.has("ro"), "{mount:?}");
    }
    // The same for a single file.
    let file = format!("{dir}/user:/v:noidmap");
    bench.shell(&["-v", &file], "cat /v").expect(1);
    let mapped = format!("{dir}/user:/v");
    let text = bench.shell(
        &["-v", &mapped, "-u", "1000"],
        "cat /v; echo more >> /v; stat -c %u /v",
    );
    assert_eq!(text.ok(), "user\n1000\n");
    assert_eq!(owner(&bench, "dir/user"), (1000, 1000));
    assert!(bench.report(&["-v", &mapped]).mount("/v").has("idmapped"));
    // Where there is no range there is nothing to map.
    let options = ["--userns", "host", "-v", volume.as_str()];
    assert_eq!(bench.shell(&options, "cat /v/root").ok(), "root\n");
}

#[test]
fn a_volume_that_cannot_be_idmapped_leads_to_the_identity_map_and_a_note() {
    let Some(bench) = Bench::new("cannot") else {
        return;
    };
    for source in ["/proc/version", "/sys/kernel"] {
        let volume = format!("{source}:/v");
        let script =
            "tr -s ' ' < /proc/self/uid_map; stat -c %u /v; mknod /node c 1 3 || echo refused";
        let output = bench.shell(&["--trace", "-v", &volume], script).expect(0);
        let expected = " 0 0 4294967295\n0\nrefused\n";
        assert_eq!(output.stdout, expected, "{source}");
        let why =
            format!("\"{source}\" cannot be idmapped (its file system, or Linux before 5.19)");
        let note = format!("root's files inside are root's outside: {why}");
        for start in ["# ", "# degraded: "] {
            let line = format!("{start}{note}");
            assert!(output.stderr.lines().any(|found| found == line), "{line}");
        }
        let asked = bench.shell(&["--userns", "auto", "-v", &volume], "true");
        asked.fails(125, &format!("--userns auto: {why}"));
        let strict = format!("{volume}:noidmap");
        let options = ["--userns", "auto", "-v", &strict];
        let text = bench
            .shell(&options, "stat -c %u /v; cat /proc/self/uid_map")
            .ok();
        let (first, map) = text.split_once('\n').unwrap();
        assert_eq!(first, "65534", "{source}");
        range(map);
    }
    let text = bench.shell(&["-v", "/proc/version:/v"], "cat /v").ok();
    assert_eq!(text, fs::read_to_string("/proc/version").unwrap());
}

#[test]
fn what_is_mounted_below_a_volume_is_idmapped_too() {
    let Some(bench) = Bench::new("below") else {
        return;
    };
    let show = "for at in /v /v/sub; do stat -c \"%u %n\" $at $at/file; echo x > $at/new; done";
    let script = format!(
        "mkdir v; mkdir v/sub; mount -t tmpfs none v/sub
         for at in v v/sub; do echo x > $at/file; chown 1000 $at/file; done
         $MINI run -v $PWD/v:/v $BUSYBOX -- sh -c '{show}'
         stat -c '%u %n' v/new v/sub/new"
    );
    let output = bench.private_shell(&script).output();
    let expected = "0 /v\n1000 /v/file\n0 /v/sub\n1000 /v/sub/file\n0 v/new\n0 v/sub/new\n";
    assert_eq!(output.ok(), expected);
    // One that cannot be is nobody's; the volume itself is as it should be.
    let script = "mkdir w; mkdir w/proc; mount -t proc none w/proc; echo x > w/file
        $MINI run -v $PWD/w:/v $BUSYBOX -- stat -c '%u %n' /v /v/file /v/proc /v/proc/version";
    let output = bench.private_shell(script).output();
    let expected = "0 /v\n0 /v/file\n65534 /v/proc\n65534 /v/proc/version\n";
    assert_eq!(output.ok(), expected);
}

#[test]
fn what_is_kept_has_on_disk_the_owners_it_had_inside() {
    let Some(mut bench) = Bench::new("keptids") else {
        return;
    };
    bench.keeps = true;
    let directory = bench.busybox_directory();
    let script =
        "echo x > /new; chown 1234:4321 /new; mkdir /made; chown 65535 /home/user; chmod 4755 /new";
    for userns in ["auto", "host"] {
        for image in [bench.busybox(), &directory] {
            let run = bench.mini(&["run", "--userns", userns, "--keep", image, "--"]);
            let output = run.args(&["sh", "-c", script]).output().expect(0);
            let upper = output.stderr.split('"').nth(1).unwrap().to_owned();
            for (file, ids, mode) in [
                ("", (0, 0), 0o755),
                ("new", (1234, 4321), 0o4755),
                ("made", (0, 0), 0o755),
                ("home/user", (65535, 1000), 0o755),
            ] {
                let status = fs::symlink_metadata(format!("{upper}/{file}")).unwrap();
                let found = (status.uid(), status.gid());
                assert_eq!(found, ids, "{userns} {image} {file}");
                if file != "home/user" {
                    assert_eq!(status.mode() & 0o7777, mode, "{userns} {image} {file}");
                }
            }
        }
    }
}

// --- the report on what was obtained ---------------------------------------------------------------------------

/// The line of the report that begins so.
fn line<'a>(trace: &'a str, name: &str) -> &'a str {
    let start = format!("# {name}: ");
    let mut lines = trace.lines().filter_map(|line| {
        let bare = line.strip_suffix(':').filter(|_| line == start.trim_end());
        line.strip_prefix(&start).or(bare.map(|_| ""))
    });
    let found = lines.next();
    assert!(lines.next().is_none(), "{name} twice: {trace}");
    found.unwrap_or_else(|| panic!("no {name}: {trace}"))
}

/// A set of capabilities by name as the kernel shows it.
fn bits(names: &str) -> u64 {
    const NAMES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable \
        net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace \
        sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write \
        audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf \
        checkpoint_restore";
    let number = |name| NAMES.split(' ').position(|known| known == name).unwrap();
    let names = names.split(',').filter(|name| *name != "none");
    names.map(|name| 1 << number(name)).sum()
}

#[test]
fn the_report_of_a_trace_is_what_a_process_inside_finds() {
    let Some(bench) = Bench::new("report") else {
        return;
    };
    for options in [
        &[][..],
        &["-u", "1000"],
        &["-u", "1000", "--cap-add", "NET_RAW,KILL"],
        &["--cap-add", "SYS_PTRACE", "--cap-drop", "CHOWN,SETUID"],
        &["--cap-drop", "ALL"],
        &["--cap-add", "ALL", "--no-init"],
        &["--no-new-privs=false", "--masks", "none"],
        &["--seccomp", "unconfined"],
        &["--seccomp", "log"],
        &["--userns", "host", "--net", "host", "--uts=host"],
        &[
            "--pid",
            "host",
            "--ipc",
            "host",
            "--cgroupns=host",
            "--time",
        ],
        &["--privileged"],
        &["--privileged", "-u", "1000", "--read-only"],
    ] {
        let Output { stdout, stderr, .. } = bench
            .guest(&[&["--trace"], options].concat(), &["report"])
            .output()
            .expect(0);
        let report = Report(stdout);
        for set in ["Bnd", "Prm", "Eff", "Inh", "Amb"] {
            let inside = u64::from_str_radix(report.get(&format!("Cap{set}")), 16).unwrap();
            let said = line(&stderr, &format!("capabilities {set}"));
            assert_eq!(bits(said), inside, "{options:?} {set}: {said}");
        }
        let flag = match line(&stderr, "no_new_privs") {
            "on" => "1",
            "off" => "0",
            other => panic!("{other}"),
        };
        assert_eq!(report.get("NoNewPrivs"), flag, "{options:?}");
        let filter = line(&stderr, "seccomp");
        let mode = if filter == "off" { "0" } else { "2" };
        assert_eq!(report.get("Seccomp"), mode, "{options:?}: {filter}");
        if let Some(instructions) = filter.strip_prefix("filter of ") {
            let step = format!("{{{instructions}}})");
            assert!(stderr.contains(&step), "{options:?}: {filter}");
        }
        let [own, shared] = ["namespaces, own", "namespaces, shared with mini"]
            .map(|name| line(&stderr, name).split(' ').collect::<Vec<_>>());
        for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
            let inside = report.get(&format!("ns {name}"));
            let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            let place = if inside == host.to_str().unwrap() {
                &shared
            } else {
                &own
            };
            assert!(
                place.contains(&inside),
                "{options:?} {inside}: {own:?} {shared:?}"
            );
        }
        let [id] = report.ids()[..] else {
            panic!("{options:?}");
        };
        let id = id.map(|number| number.to_string()).join(" ");
        assert_eq!(line(&stderr, "ids"), format!("users {id}, groups {id}"));
        let mounts = report.mounts();
        let at = |mounts: Vec<&support::Mount>| -> String {
            let at: Vec<&str> = mounts.iter().map(|mount| mount.at.as_str()).collect();
            at.join(" ")
        };
        let masked = mounts
            .iter()
            .filter(|mount| mount.root.starts_with("/mask/"));
        assert_eq!(line(&stderr, "masked"), at(masked.collect()), "{options:?}");
        let read_only = mounts.iter().filter(|mount| {
            let options = mount.options.split(',').collect::<Vec<_>>();
            options.contains(&"ro") && !mount.root.starts_with("/mask/")
        });
        assert_eq!(
            line(&stderr, "read-only"),
            at(read_only.collect()),
            "{options:?}"
        );
    }
}
