//! Limits by cgroups of version 1 (on version 2: tests/machine.rs): they hold, from inside there is no way out of them,
//! what they count and how it ended is told, and nothing of them is left or has changed on the host.

mod support;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::{Bench, Run, Running, eventually, guest, have, have_program, is_core, mini};

const MIB: u64 = 1 << 20;

/// The cgroup that this process is in, in the hierarchy of version 1 that has a controller.
fn own(controller: &str) -> PathBuf {
    let has = |list: &str| list.split(',').any(|name| name == controller);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let top = mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - cgroup ")?;
        has(back.rsplit(' ').next()?).then(|| front.split(' ').nth(4))?
    });
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        has(fields.next()?).then(|| fields.next())?
    });
    let path = format!("{}{}", top.unwrap(), path.unwrap());
    PathBuf::from(path.trim_end_matches('/'))
}

fn bench(name: &str) -> Option<Bench> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let there = ["pids", "memory", "cpu", "cpuset", "freezer", "blkio"].map(|controller| {
        let has = |list: &str| list.split(',').any(|name| name == controller);
        (groups.lines()).any(|line| line.split(':').nth(1).is_some_and(has))
    });
    let reason = "this machine lacks controllers of version 1";
    have("cgroup1", there == [true; 6], reason).then(|| Bench::new(name))?
}

/// The same for commands that the core has not.
fn life_bench(name: &str) -> Option<Bench> {
    if is_core() {
        return None;
    }
    bench(name)
}

/// A container that runs the guest, when that has said `text`.
#[track_caller]
fn start(bench: &Bench, options: &[&str], words: &[&str], text: &str) -> Running {
    let mut running = bench.guest(options, words).start();
    running.until(text);
    running
}

/// The id of the only container that runs.
#[track_caller]
fn id(bench: &Bench) -> String {
    let found = fs::read_dir(bench.path("run/running")).unwrap();
    let names: Vec<_> = found.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].to_str().unwrap().to_owned()
}

/// A file of that container's cgroup in the hierarchy of a controller.
#[track_caller]
fn file(bench: &Bench, controller: &str, name: &str) -> String {
    let group = own(controller).join(format!("mini-{}", id(bench)));
    let text = fs::read_to_string(group.join(name));
    let text = text.unwrap_or_else(|error| panic!("{}: {name}: {error}", group.display()));
    text.trim_end().to_owned()
}

/// Ends a container that does not end by itself.
fn stop(running: Running) {
    running.kill(15);
    running.wait().expect(143);
}

// --- each limit ------------------------------------------------------------------------------------------------

#[test]
fn a_container_that_is_killed_for_its_memory_says_so() {
    let Some(bench) = bench("memory") else { return };
    let touch = (128 * MIB).to_string();
    let told = "mini: killed: out of memory (limit 64 MiB, peak 64 MiB)\n";
    for options in [&["-m", "64M"][..], &["--memory=64m", "--no-init"]] {
        let output = bench.guest(options, &["touch", &touch]).output();
        let output = output.expect(137);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", told));
    }
    // Without the limit, or below it, there is room; also beside a limit of something else.
    for options in [&[][..], &["-m", "192M"], &["--pids-limit", "50"]] {
        stop(start(&bench, options, &["touch", &touch], "touched"));
    }
    // Who is killed by somebody else, or is not what the container was for, gives no cause for a message.
    let volume = format!("{}:/guest:ro", guest());
    let options = ["-v", &volume, "-m", "64M"];
    let output = bench.shell(&options, "kill -9 $$").expect(137);
    assert_eq!(output.stderr, "");
    let script = format!("/guest touch {touch}; echo $?");
    let output = bench.shell(&options, &script).expect(0);
    assert_eq!(output.stdout.lines().last(), Some("137"), "{output:?}");
    assert!(!output.stderr.contains("mini:"), "{output:?}");
}

#[test]
fn memory_is_that_of_files_and_tmpfs_too() {
    let Some(bench) = bench("tmpfs") else { return };
    let fill = ["fill", "/dev/shm/x", "134217728"];
    let output = bench
        .guest(&["-m", "64M", "--shm-size", "1g"], &fill)
        .output();
    let told = "mini: killed: out of memory (limit 64 MiB, peak 64 MiB)\n";
    assert_eq!(output.expect(137).stderr, told);
}

#[test]
fn what_is_too_little_to_start_with_is_told_as_that() {
    let Some(bench) = bench("little") else { return };
    let output = bench.run(&["--pids-limit", "1"], &["true"]).output();
    let line = output.one_line(125);
    assert!(line.contains("--pids-limit counts mini's init"), "{line}");
    let alone = ["--pids-limit", "1", "--no-init"];
    bench.run(&alone, &["true"]).output().ok();
    // It depends on the kernel what the set-up takes; if that is too much it is told as that.
    let output = bench.run(&["-m", "512k"], &["true"]).output();
    let told = match output.status {
        0 => return,
        // It came as far as the command.
        137 => "mini: killed: out of memory (limit 512 KiB",
        _ => "killed during set-up (out of memory (limit 512 KiB",
    };
    assert!(output.stderr.contains(told), "{output:?}");
    assert!([125, 137].contains(&output.status), "{output:?}");
}

#[test]
fn processor_time() {
    let Some(bench) = bench("cpus") else { return };
    // With much weight it gets what it may have on a busy machine too.
    let options = ["--cpus", "0.5", "--cpu-weight", "10000"];
    let mut all = Vec::new();
    for _ in 0..4 {
        let said = bench.guest(&options, &["spin", "4"]).output().ok();
        let us: u64 = said
            .trim_end()
            .strip_prefix("cpu ")
            .unwrap()
            .parse()
            .unwrap();
        assert!(us <= 2_100_000, "{us} us of processor time in 4 s");
        all.push(us);
        if us >= 1_900_000 {
            return;
        }
    }
    panic!("less than half a processor, each time: {all:?} us in 4 s");
}

#[test]
fn processors() {
    let Some(bench) = bench("cpuset") else { return };
    for list in ["0", "0-0", "0,0"] {
        let report = bench.report(&["--cpuset", list]);
        assert_eq!(report.get("Cpus_allowed_list"), "0", "{list}");
    }
    let all = fs::read_to_string("/proc/self/status").unwrap();
    let all = all
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    assert_eq!(bench.report(&[]).get("Cpus_allowed_list"), all.unwrap());
}

#[test]
fn a_fork_bomb_goes_as_far_as_the_limit_and_the_host_answers() {
    let Some(bench) = bench("bomb") else { return };
    for (options, limit) in [(&["--pids-limit", "50"][..], 50), (&[], 2048)] {
        let mut running = start(&bench, options, &["bomb", "6"], "ticking");
        bench.run(&[], &["true"]).output().ok();
        let ended = running.child.try_wait().unwrap();
        assert_eq!(ended, None, "the host answers when it is over");
        let output = running.wait().expect(0);
        let most = output
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("most "));
        let most: u64 = most.unwrap().parse().unwrap();
        assert!((limit / 2..=limit).contains(&most), "{most} of {limit}");
    }
}

/// A file as a loop device, for as long as this lives.
struct Loop(String);

impl Loop {
    fn new(bench: &Bench) -> Loop {
        let file = bench.file("device", vec![0; 8 << 20]);
        let output = Run::new("losetup").args(&["-f", "--show", &file]).output();
        Loop(output.ok().trim_end().to_owned())
    }

    /// MAJOR:MINOR.
    fn number(&self) -> String {
        let name = self.0.strip_prefix("/dev/").unwrap();
        let text = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        text.trim_end().to_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let output = Run::new("losetup").args(&["-d", &self.0]).output();
        assert!(output.status == 0 || thread::panicking(), "{output:?}");
    }
}

#[test]
fn each_option_is_written_to_its_file() {
    let Some(bench) = bench("files") else { return };
    let device = Loop::new(&bench);
    let number = device.number();
    let rates = format!("{}:rbps=1m,wbps=2M,riops=100", device.0);
    // A second one, of a number.
    let more = format!("{number}:wiops=200");
    let options = "--memory 64M --memory-swap 96M --memory-reservation 32M --cpus 1.5 --cpu-weight 200 --cpuset 0-1 --pids-limit 64";
    let mut options: Vec<&str> = options.split(' ').collect();
    options.extend(["--io-max", &rates, "--io-max", &more]);
    let running = start(&bench, &options, &["counter"], "0");
    for (controller, name, expected) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("cpu", "cpu.cfs_quota_us", "150000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.shares", "2048"),
        ("cpuset", "cpuset.cpus", "0-1"),
        ("pids", "pids.max", "64"),
        (
            "blkio",
            "blkio.throttle.read_bps_device",
            &format!("{number} 1048576"),
        ),
        (
            "blkio",
            "blkio.throttle.write_bps_device",
            &format!("{number} 2097152"),
        ),
        (
            "blkio",
            "blkio.throttle.read_iops_device",
            &format!("{number} 100"),
        ),
        (
            "blkio",
            "blkio.throttle.write_iops_device",
            &format!("{number} 200"),
        ),
    ] {
        assert_eq!(file(&bench, controller, name), expected, "{name}");
    }
    let swap = "memory.memsw.limit_in_bytes";
    let counts_swap = own("memory").join(swap).exists();
    if counts_swap {
        assert_eq!(file(&bench, "memory", swap), "100663296");
    }
    // The command and init are in all of them, this process in none.
    let members = file(&bench, "pids", "cgroup.procs");
    assert_eq!(members.lines().count(), 2, "{members}");
    for controller in ["memory", "cpu", "cpuset", "blkio"] {
        assert_eq!(file(&bench, controller, "cgroup.procs"), members);
    }
    stop(running);

    for (weight, shares) in [("1", "11"), ("100", "1024"), ("10000", "102400")] {
        let running = start(&bench, &["--cpu-weight", weight], &["counter"], "0");
        assert_eq!(file(&bench, "cpu", "cpu.shares"), shares, "{weight}");
        stop(running);
    }
    for (options, expected) in [
        (&["-m", "64M"][..], "134217728"),
        (&["-m", "64M", "--memory-swap", "64M"], "67108864"),
        (&["-m", "64M", "--memory-swap", "-1"], "9223372036854771712"),
    ] {
        let running = start(&bench, options, &["counter"], "0");
        if counts_swap {
            assert_eq!(file(&bench, "memory", swap), expected, "{options:?}");
        }
        stop(running);
    }
    // What is limited needs a cgroup, nothing else does.
    let running = start(&bench, &[], &["counter"], "0");
    assert_eq!(file(&bench, "pids", "pids.max"), "2048");
    let name = format!("mini-{}", id(&bench));
    for controller in ["memory", "cpu", "cpuset", "blkio", "freezer"] {
        assert!(!own(controller).join(&name).exists(), "{controller}");
    }
    stop(running);
    let running = start(&bench, &["--pids-limit", "-1"], &["counter"], "0");
    let name = format!("mini-{}", id(&bench));
    assert!(!own("pids").join(&name).exists());
    stop(running);
}

// --- where ------------------------------------------------------------------------------------------------------

/// A cgroup below this process's own in some hierarchies. A process sleeps in it, so that other tests know it for somebody
/// else's.
struct Parent {
    name: String,
    groups: Vec<PathBuf>,
    sleeper: Child,
}

impl Parent {
    fn new(name: &str, controllers: &[&str]) -> Parent {
        let name = format!("mini-test-{name}-{}", std::process::id());
        let sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut groups = Vec::new();
        for controller in controllers {
            let group = own(controller).join(&name);
            fs::create_dir(&group).unwrap();
            if *controller == "cpuset" {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let text = fs::read_to_string(own("cpuset").join(file)).unwrap();
                    fs::write(group.join(file), text).unwrap();
                }
            }
            fs::write(group.join("tasks"), sleeper.id().to_string()).unwrap();
            groups.push(group);
        }
        Parent {
            name,
            groups,
            sleeper,
        }
    }

    /// Writes to a file, in whichever hierarchy has it.
    fn set(&self, file: &str, text: &str) {
        let mut paths = self.groups.iter().map(|group| group.join(file));
        fs::write(paths.find(|path| path.exists()).unwrap(), text).unwrap();
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = self.sleeper.kill();
        let _ = self.sleeper.wait();
        for group in &self.groups {
            let gone = eventually(|| fs::remove_dir(group).is_ok());
            assert!(gone || thread::panicking(), "{}", group.display());
        }
    }
}

#[test]
fn below_a_parent_of_the_callers_choice() {
    let Some(bench) = bench("parent") else { return };
    let parent = Parent::new("parent", &["pids", "memory"]);
    let relative = parent.name.as_str();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut lines = groups.lines().filter_map(|line| line.split_once(":pids:"));
    let above = lines.next().unwrap().1.trim_end_matches('/');
    let absolute = format!("{above}/{relative}");
    for path in [relative, &absolute] {
        let running = start(&bench, &["--cgroup-parent", path], &["counter"], "0");
        let group = format!("{relative}/mini-{}", id(&bench));
        let limit = fs::read_to_string(own("pids").join(group).join("pids.max"));
        assert_eq!(limit.unwrap(), "2048\n");
        stop(running);
    }
    // In each hierarchy that a limit is in.
    let options = ["--cgroup-parent", relative, "-m", "64M"];
    let running = start(&bench, &options, &["counter"], "0");
    for controller in ["pids", "memory"] {
        let group = format!("{relative}/mini-{}", id(&bench));
        assert!(own(controller).join(group).is_dir(), "{controller}");
    }
    stop(running);
    let line = bench.run(&["--cgroup-parent", relative, "--cpus", "1"], &["true"]);
    let place = own("cpu").join(relative);
    let why = format!(
        "--cpus: {:?}: No such file or directory",
        place.display().to_string()
    );
    line.output().fails(125, &why);

    // One that is not there is an error also where nothing but the default would have been made in it.
    let place = own("pids").join("none");
    let why = format!(
        "{:?}: No such file or directory",
        place.display().to_string()
    );
    for (options, option) in [
        (&["--cgroup-parent", "none"][..], "--cgroup-parent"),
        (
            &["--cgroup-parent", "none", "--pids-limit", "9"],
            "--cgroup-parent",
        ),
    ] {
        let output = bench.run(options, &["true"]).output();
        output.fails(125, &format!("{option}: {why}"));
    }
    let options = ["--cgroup-parent", relative, "--pids-limit", "-1"];
    let why = "--cgroup-parent: there is no limit, for which a cgroup would be made";
    bench.run(&options, &["true"]).output().fails(125, why);
}

#[test]
fn not_above_what_the_parent_has() {
    let Some(bench) = bench("ceiling") else {
        return;
    };
    let parent = Parent::new("ceiling", &["pids", "memory", "cpu", "cpuset"]);
    parent.set("pids.max", "20");
    parent.set("memory.limit_in_bytes", "33554432");
    parent.set("cpu.cfs_period_us", "50000");
    parent.set("cpu.cfs_quota_us", "30000");
    parent.set("cpuset.cpus", "0");
    let inside = |options: &[&str]| {
        let all = [&["--cgroup-parent", &parent.name], options].concat();
        bench.run(&all, &["true"]).output()
    };
    for (option, value, number, ceiling, file, controller) in [
        ("--pids-limit", "21", "21", "20", "pids.max", "pids"),
        (
            "--memory",
            "64M",
            "67108864",
            "33554432",
            "memory.limit_in_bytes",
            "memory",
        ),
        (
            "--cpus",
            "0.61",
            "61000",
            "60000",
            "cpu.cfs_quota_us",
            "cpu",
        ),
    ] {
        let place = own(controller).join(&parent.name).display().to_string();
        let why =
            format!("{option}: {number} is above the {ceiling} in {file} of {place:?} or above it");
        inside(&[option, value]).fails(125, &why);
    }
    inside(&["--cpuset", "1"]).fails(125, "--cpuset \"1\": there are only \"0\"");
    for (option, value) in [
        ("--pids-limit", "20"),
        ("--memory", "32M"),
        ("--cpus", "0.59"),
        ("--cpuset", "0"),
    ] {
        inside(&[option, value]).ok();
    }
    // The default gives way, and so does what follows from a limit.
    let options = ["--cgroup-parent", &parent.name];
    let running = start(&bench, &options, &["counter"], "0");
    let group = own("pids")
        .join(&parent.name)
        .join(format!("mini-{}", id(&bench)));
    assert_eq!(fs::read_to_string(group.join("pids.max")).unwrap(), "20\n");
    stop(running);
}

#[test]
fn bad_values_are_told_before_anything_is_made() {
    let Some(bench) = bench("bad") else { return };
    let image = bench.busybox();
    let processors = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let processors = processors.trim_end();
    let last: u32 = processors
        .rsplit(['-', ','])
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let (beyond, too_many) = ((last + 1).to_string(), (last + 2).to_string());
    let size = "not a size (a number with an optional k, m, g or t)";
    let rates = "not DEVICE:KEY=NUMBER,... with rbps, wbps (bytes), riops, wiops a second";
    let cpus = "not a number of processors, at least 0.01 (a thousandth of a second in each tenth)";
    let list = "not a list of processors, as in 0-2,5";
    let tasks = "not a number from 1 to 4194304, or -1 for no limit";
    let weight = "not a number from 1 to 10000";
    let least = "less than 512k, in which no container can start";
    let mut cases = Vec::new();
    for (option, what, values) in [
        (
            "--memory",
            size,
            &[
                "",
                "x",
                "1x",
                "-1",
                "1.5g",
                "64 M",
                "0",
                "99999999999999999999",
            ][..],
        ),
        ("--memory", least, &["1", "4096", "511k"]),
        ("--memory-swap", size, &["", "x", "-2"]),
        ("--memory-reservation", size, &["", "x", "-1"]),
        (
            "--cpus",
            cpus,
            &[
                "",
                "0",
                "0.009",
                "-1",
                "1e3",
                "1,5",
                ".5",
                "1.",
                "x",
                "99999999999999999999",
            ],
        ),
        (
            "--cpu-weight",
            weight,
            &["", "0", "10001", "-5", "1.5", "x"],
        ),
        (
            "--cpuset",
            list,
            &[
                "",
                "x",
                "1-0",
                "0-",
                "-1",
                "0,,1",
                "+0",
                "0-+1",
                "4294967296",
            ],
        ),
        (
            "--pids-limit",
            tasks,
            &["", "0", "-2", "x", "4194305", "1.5"],
        ),
        (
            "--io-max",
            rates,
            &[
                "",
                "/dev/vda",
                "/dev/vda:",
                "/dev/vda:rbps",
                "/dev/vda:rbps=",
                "/dev/vda:rbps=0",
                "/dev/vda:rbps=x",
                "/dev/vda:rbps=1,",
                "/dev/vda:bps=1",
                "/dev/vda:=1",
                "/dev/vda:rbps=max",
            ],
        ),
        (
            "--cgroup-parent",
            "empty, or it has \"..\" in it",
            &["", "..", "/x/../y", "x/.."],
        ),
    ] {
        for value in values {
            cases.push((vec![option, value], format!("{option} {value:?}: {what}")));
        }
    }
    let more = format!("--cpus: more than there are ({processors:?} are running)");
    let only = |list: &str| format!("--cpuset {list:?}: there are only {processors:?}");
    let all = format!("0-{beyond}");
    let swap = "--memory-swap is memory and swap together: it cannot be less than --memory";
    cases.extend([
        (vec!["--cpus", &too_many], more),
        (vec!["--cpuset", &beyond], only(&beyond)),
        (vec!["--cpuset", &all], only(&all)),
        (vec!["--cpuset", "0-4294967295"], only("0-4294967295")),
        (vec!["-m", "64M", "--memory-swap", "32M"], swap.into()),
        (
            vec!["--memory-swap", "64M"],
            "--memory-swap needs --memory".into(),
        ),
    ]);
    let plain = bench.file("plain", "x");
    let (on_file, not) = (
        format!("{plain}:rbps=1"),
        format!("--io-max {plain:?}: not a block device"),
    );
    cases.extend([
        (
            vec!["--io-max", "/dev/null:rbps=1"],
            "--io-max \"/dev/null\": not a block device".into(),
        ),
        (vec!["--io-max", &on_file], not),
        (
            vec!["--io-max", "/none:rbps=1"],
            "--io-max stat(\"/none\"): No such file or directory".into(),
        ),
        (
            vec!["--io-max", "999:0:rbps=1"],
            "--io-max \"999:0\": there is no such block device".into(),
        ),
    ]);
    for (options, line) in cases {
        let output = bench.run(&options, &["true"]).output();
        assert_eq!(output.one_line(125), line, "{options:?}");
        let dry = bench
            .mini(&["run", "--dry-run"])
            .args(&options)
            .args(&[image]);
        assert_eq!(dry.output().one_line(125), line, "--dry-run {options:?}");
    }
    assert!(!bench.path("run").exists(), "something was made");
}

// --- from inside -------------------------------------------------------------------------------------------------

/// Ways out of a limit, and the outcomes that are none.
fn assert_no_way_out(bench: &Bench, options: &str, attacks: &[&str]) {
    for attack in attacks {
        let outcome = bench.attack(options, attack);
        let refused = ["EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS", "EINVAL"];
        assert!(
            refused.contains(&outcome.as_str()),
            "{options}: {attack}: {outcome}"
        );
    }
}

#[test]
fn from_inside_there_is_no_way_out() {
    let Some(bench) = bench("attacks") else {
        return;
    };
    let attacks = [
        "truncate:/sys/fs/cgroup/cgroup.procs",
        "write:/sys/fs/cgroup/pids.max",
        "mkdir:/sys/fs/cgroup/x",
        "remount:/sys",
        "remount-super:/sys",
        "remount:/sys/fs/cgroup",
        "remount-super:/sys/fs/cgroup",
        "mount_setattr:/sys",
        "open_tree:/sys",
        "umount:/sys",
        "bind:/tmp:/sys/fs/cgroup",
        "cgroup:2:cgroup.procs:0",
        "cgroup:pids:pids.max:max",
        "cgroup:memory:memory.limit_in_bytes:-1",
        "mount:cgroup",
        "fsopen:cgroup2",
        "unshare:cgroup",
        "unshare:user",
        "clone3:none",
        "setns:/proc/1/ns/cgroup",
        "setns:/proc/1/ns/mnt",
    ];
    let limits = "--pids-limit 20 -m 64M --cpus 1";
    for options in ["", "--userns host ", "--no-init "] {
        assert_no_way_out(&bench, &format!("{options}{limits}"), &attacks);
    }
    // Even with the capability to mount, and the hierarchies in sight: all files belong to root outside.
    for controller in ["pids", "memory", "cpu", "2"] {
        for (file, value) in [
            ("cgroup.procs", "0"),
            ("tasks", "0"),
            ("pids.max", "max"),
            ("memory.limit_in_bytes", "-1"),
            ("cpu.cfs_quota_us", "-1"),
            ("notify_on_release", "1"),
            ("release_agent", "/x"),
        ] {
            let attack = format!("cgroup:{controller}:{file}:{value}");
            let options = format!("{limits} --cap-add SYS_ADMIN");
            assert_no_way_out(&bench, &options, &[&attack]);
        }
    }
    for controller in ["pids", "memory", "freezer"] {
        let place = own(controller).display().to_string();
        for (attack, file) in [
            ("write", "/tasks"),
            ("write", "/cgroup.procs"),
            ("mkdir", "/x"),
        ] {
            let options = format!("{limits} -v {place}:/cg:noidmap");
            assert_no_way_out(&bench, &options, &[&format!("{attack}:/cg{file}")]);
        }
    }
}

/// What the README says of containers whose root is the machine's.
#[test]
fn who_may_do_everything_may_lift_limits() {
    let Some(bench) = bench("privileged") else {
        return;
    };
    let raise = "cgroup:pids:pids.max:max";
    for options in ["--privileged", "--userns host --cap-add SYS_ADMIN"] {
        let options = format!("--pids-limit 20 {options}");
        assert_eq!(bench.attack(&options, raise), "ok", "{options}");
    }
    // As long as it does not, the limit holds.
    let output = bench.guest(&["--privileged", "-m", "64M"], &["touch", "134217728"]);
    let told = "mini: killed: out of memory (limit 64 MiB, peak 64 MiB)\n";
    assert_eq!(output.output().expect(137).stderr, told);
}

#[test]
fn names_outside_are_not_seen_inside() {
    let Some(bench) = bench("names") else { return };
    let options = ["-m", "64M", "--cpus", "1"];
    let groups = bench.shell(&options, "cat /proc/self/cgroup").ok();
    for controller in ["pids", "memory", "cpu"] {
        let end = format!(":{controller}:/");
        assert!(groups.lines().any(|line| line.ends_with(&end)), "{groups}");
    }
    assert_eq!(bench.shell(&options, "ls /sys/fs/cgroup").ok(), "");
}

// --- an ordinary user --------------------------------------------------------------------------------------------

#[test]
fn without_a_cgroup_of_ones_own() {
    let Some(bench) = bench("user") else { return };
    if !have_program("setpriv") {
        return;
    }
    chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    let user = |options: &[&str]| {
        let setpriv = "--reuid 1000 --regid 1000 --clear-groups env PATH=/nowhere";
        let words = setpriv.split(' ').collect::<Vec<_>>();
        let run = bench.program("setpriv").args(&words);
        let run = run.args(&[mini().to_str().unwrap(), "run"]).args(options);
        run.args(&[bench.busybox(), "--", "echo", "works"]).output()
    };
    assert_eq!(user(&[]).ok(), "works\n");
    let output = user(&["--trace"]).expect(0);
    let pids = own("pids").display().to_string();
    let note = format!("# no limit of processes: {pids:?}: Permission denied\n");
    assert!(output.stderr.contains(&note), "{note}{}", output.stderr);
    for (option, value, controller) in [
        ("--memory", "64M", "memory"),
        ("--cpus", "1", "cpu"),
        ("--pids-limit", "50", "pids"),
        ("--cpuset", "0", "cpuset"),
    ] {
        let place = own(controller).display().to_string();
        user(&[option, value]).fails(125, &format!("{option}: {place:?}: Permission denied"));
    }
}

// --- mini stats, pause -------------------------------------------------------------------------------------------

/// The members of the one object that `mini stats --json` prints.
fn stats(bench: &Bench) -> BTreeMap<String, String> {
    let text = bench.mini(&["stats", "--json"]).output().ok();
    let object = text
        .strip_prefix("[{")
        .and_then(|text| text.strip_suffix("}]\n"));
    let object = object.unwrap_or_else(|| panic!("{text}"));
    let members = object.split(',').map(|member| {
        let (name, value) = member.split_once(':').unwrap();
        (
            name.trim_matches('"').to_owned(),
            value.trim_matches('"').to_owned(),
        )
    });
    members.collect()
}

#[test]
fn stats_are_what_the_files_and_the_guest_say() {
    let Some(bench) = life_bench("stats") else {
        return;
    };
    let device = Loop::new(&bench);
    let rates = format!("{}:rbps=1g", device.0);
    let options = [
        "--name",
        "box",
        "-m",
        "64M",
        "--cpus",
        "1",
        "--pids-limit",
        "64",
        "--io-max",
        &rates,
    ];
    let touch = (40 * MIB).to_string();
    let running = start(&bench, &options, &["touch", &touch], "touched");
    let stats_now = stats(&bench);
    let number = |name: &str| {
        stats_now[name]
            .parse::<u64>()
            .unwrap_or_else(|_| panic!("{name}: {stats_now:?}"))
    };
    assert_eq!(
        (stats_now["id"].as_str(), stats_now["name"].as_str()),
        (id(&bench).as_str(), "box")
    );
    let same = |name: &str, controller: &str, from: &str| {
        let text = file(&bench, controller, from);
        assert_eq!(stats_now[name], text, "{name}");
    };
    // Each processor has up to 64 pages charged in advance, which the kernel gives back whenever it likes.
    let near = |name: &str, from: &str| {
        let (said, read) = (number(name), file(&bench, "memory", from));
        let read: u64 = read.parse().unwrap();
        assert!(said.abs_diff(read) <= MIB, "{name}: {said}, {from}: {read}");
    };
    near("memory", "memory.usage_in_bytes");
    near("memory_peak", "memory.max_usage_in_bytes");
    same("memory_limit", "memory", "memory.limit_in_bytes");
    same("pids", "pids", "pids.current");
    same("pids_limit", "pids", "pids.max");
    assert_eq!(
        (number("memory_limit"), number("pids"), number("pids_limit")),
        (64 * MIB, 2, 64)
    );
    let memory = number("memory");
    assert!((40 * MIB..48 * MIB).contains(&memory), "{memory}");
    assert!(number("memory_peak") >= memory);
    assert_eq!(
        (
            number("oom_kills"),
            number("read_bytes"),
            number("written_bytes")
        ),
        (0, 0, 0)
    );
    assert_eq!(
        stats_now["paused"], "null",
        "nothing has made that cgroup yet"
    );

    // The table has the same in other units.
    let table = bench.mini(&["stats", "box"]).output().ok();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        "ID NAME STATE MEMORY PEAK LIMIT CPU THROTTLED PIDS LIMIT READ WRITTEN OOM KILLS"
            .split(' ')
            .collect::<Vec<_>>()
    );
    let id = id(&bench);
    assert_eq!(lines[1][..3], [&id, "box", "running"], "{table}");
    let mib: u64 = lines[1][3].parse().unwrap();
    assert!(mib.abs_diff(memory >> 20) <= 1, "{table}");
    assert!(table.contains(" 64 MiB "), "{table}");
    assert_eq!(lines.len(), 2);
    for wanted in [id.as_str(), &id[..6], "box"] {
        let table = bench.mini(&["stats", wanted]).output().ok();
        let line = table.lines().nth(1).unwrap();
        assert!(line.starts_with(&id), "{table}");
    }
    let line = bench.mini(&["stats", "none"]).output().one_line(125);
    assert_eq!(
        line,
        "\"none\": no running container (mini ps lists those that are running)"
    );
    stop(running);
    assert_eq!(bench.mini(&["stats", "--json"]).output().ok(), "[]\n");
}

#[test]
fn stats_of_time_and_devices() {
    let Some(bench) = life_bench("time") else {
        return;
    };
    let device = Loop::new(&bench);
    let (rates, node) = (
        format!("{}:rbps=1g", device.0),
        format!("{}:/dev/disk", device.0),
    );
    let volume = format!("{}:/guest:ro", guest());
    let options = [
        "-v",
        &volume,
        "--userns",
        "host",
        "--cpus",
        "0.2",
        "--cpu-weight",
        "10000",
        "--io-max",
        &rates,
        "--device",
        &node,
        "-m",
        "64M",
    ];
    let script = "/guest spin 2; /guest direct read /dev/disk 4194304; /guest touch 134217728; echo over; sleep 1000";
    let mut running = bench.run(&options, &["sh", "-c", script]).start();
    let said = running.until("over");
    assert!(said.contains("read ok"), "{said}");
    let (stats_now, throttled) = (stats(&bench), file(&bench, "cpu", "cpu.stat"));
    let number = |name: &str| {
        stats_now[name]
            .parse::<u64>()
            .unwrap_or_else(|_| panic!("{name}: {stats_now:?}"))
    };
    let spun: u64 = said
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .unwrap()
        .parse()
        .unwrap();
    // From /proc, which counts in hundredths of a second; touching memory takes some time too.
    let cpu = number("cpu_usec");
    assert!(
        (spun - 50_000..spun + 500_000).contains(&cpu),
        "{cpu}, the guest says {spun}"
    );
    let line = |key: &str| {
        let mut lines = throttled.lines().filter_map(|line| line.strip_prefix(key));
        lines.next().unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!(number("throttled"), line("nr_throttled "));
    assert_eq!(number("throttled_usec"), line("throttled_time ") / 1000);
    assert!(number("throttled_usec") > 500_000, "{stats_now:?}");
    assert_eq!(number("read_bytes"), 4 * MIB, "{stats_now:?}");
    assert_eq!(number("oom_kills"), 1);
    stop(running);
}

#[test]
fn what_is_not_counted_is_unknown() {
    let Some(bench) = life_bench("unknown") else {
        return;
    };
    for (options, pids) in [(&[][..], "2"), (&["--pids-limit", "-1"], "null")] {
        let running = start(&bench, options, &["counter"], "0");
        let found = stats(&bench);
        assert_eq!(
            (found["pids"].as_str(), found["memory"].as_str()),
            (pids, "null")
        );
        assert_eq!(found["name"], "null");
        let table = bench.mini(&["stats"]).output().ok();
        assert!(table.lines().nth(1).unwrap().contains(" - "), "{table}");
        stop(running);
    }
}

/// Whether the counter goes on, sooner or later: the machine may be busy.
fn goes_on(running: &mut Running) -> bool {
    let before = running.received();
    eventually(|| running.received() > before)
}

/// Whether it does not. What it had written before it was stopped may still be on its way.
fn stands_still(running: &mut Running) -> bool {
    (0..20).any(|_| {
        thread::sleep(Duration::from_millis(200));
        let before = running.received();
        thread::sleep(Duration::from_millis(400));
        running.received() == before
    })
}

#[test]
fn a_paused_container_stands_still() {
    let Some(bench) = life_bench("pause") else {
        return;
    };
    let mut running = start(&bench, &["--name", "box"], &["counter"], "0");
    let id = id(&bench);
    for wanted in ["box", &id, &id[..5]] {
        assert!(goes_on(&mut running));
        bench.mini(&["pause", wanted]).output().ok();
        assert!(stands_still(&mut running));
        assert_eq!(stats(&bench)["paused"], "1");
        // Once more changes nothing.
        bench.mini(&["pause", wanted]).output().ok();
        assert!(stands_still(&mut running));
        bench.mini(&["unpause", wanted]).output().ok();
        assert!(goes_on(&mut running));
        assert_eq!(stats(&bench)["paused"], "0");
        bench.mini(&["unpause", wanted]).output().ok();
    }
    // It ends as soon as it may.
    bench.mini(&["pause", "box"]).output().ok();
    running.kill(15);
    assert!(stands_still(&mut running));
    bench.mini(&["unpause", "box"]).output().ok();
    running.wait().expect(143);
    for command in ["pause", "unpause"] {
        let output = bench.mini(&[command, "box"]).output();
        let why = "\"box\": no running container (mini ps lists those that are running)";
        output.fails(125, why);
    }
}

#[test]
fn many_processes_are_all_paused() {
    let Some(bench) = life_bench("many") else {
        return;
    };
    let script =
        "for i in $(seq 40); do sh -c 'while :; do sleep 0.01; done' & done; echo ready; wait";
    let mut running = bench.run(&[], &["sh", "-c", script]).start();
    running.until("ready");
    bench.mini(&["pause", &id(&bench)]).output().ok();
    let used = || stats(&bench)["cpu_usec"].clone();
    let before = used();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(used(), before);
    let (all, frozen) = (
        file(&bench, "pids", "cgroup.procs"),
        file(&bench, "freezer", "cgroup.procs"),
    );
    assert!(all.lines().count() > 40);
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&frozen), sorted(&all));
    bench.mini(&["unpause", &id(&bench)]).output().ok();
    stop(running);
}

#[test]
fn what_is_paused_and_dead_is_swept_too() {
    let Some(bench) = life_bench("dead") else {
        return;
    };
    let running = start(&bench, &["-m", "64M"], &["counter"], "0");
    let group = own("freezer").join(format!("mini-{}", id(&bench)));
    bench.mini(&["pause", &id(&bench)]).output().ok();
    running.kill(9);
    running.wait();
    assert!(group.exists());
    bench.run(&[], &["true"]).output().ok();
    assert!(eventually(
        || bench.processes().is_empty() && !group.exists()
    ));
}

#[test]
fn without_any_cgroup_nothing_can_be_paused() {
    let Some(bench) = life_bench("unlimited") else {
        return;
    };
    let mut running = start(&bench, &["--pids-limit", "-1"], &["counter"], "0");
    let id = id(&bench);
    let line = bench.mini(&["pause", &id]).output().one_line(125);
    let why = format!(
        "container {id} is in no cgroup that could be stopped (it needs version 2 or the controller freezer, and a limit: --pids-limit)"
    );
    assert_eq!(line, why);
    assert!(goes_on(&mut running));
    stop(running);
}

// --- what stays --------------------------------------------------------------------------------------------------

/// What is set in the machine's cgroups, but not in containers', and where the processes are that live all the while.
#[derive(Debug, Default)]
struct Machine {
    settings: BTreeMap<PathBuf, String>,
    members: BTreeMap<(i32, String), String>,
}

impl Machine {
    fn look() -> Machine {
        let mut machine = Machine::default();
        let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let name = entry.file_name().to_str().unwrap().to_owned();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if !name.starts_with("mini-") {
                        directories.push(entry.path());
                    }
                    continue;
                }
                let set = [
                    "release_agent",
                    "notify_on_release",
                    "cgroup.clone_children",
                    "cgroup.subtree_control",
                    "cgroup.type",
                    "cgroup.freeze",
                    "cpuset.cpus",
                    "cpuset.mems",
                    "memory.limit_in_bytes",
                    "memory.use_hierarchy",
                    "cpu.shares",
                    "cpu.cfs_quota_us",
                    "freezer.state",
                    "pids.max",
                ];
                if set.contains(&name.as_str()) {
                    let text = fs::read_to_string(entry.path());
                    machine
                        .settings
                        .insert(entry.path(), text.unwrap_or_default());
                }
            }
        }
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let (Ok(stat), Ok(groups)) = (
                fs::read_to_string(entry.path().join("stat")),
                fs::read_to_string(entry.path().join("cgroup")),
            ) else {
                continue;
            };
            // A number may be used again; the time of the start, field 22, tells.
            let after_name = stat.rsplit(')').next().unwrap();
            let started = after_name
                .split_whitespace()
                .nth(22 - 3)
                .unwrap()
                .to_owned();
            machine.members.insert((pid, started), groups);
        }
        machine
    }

    fn assert_same(&self, other: &Machine) {
        for (file, text) in &self.settings {
            assert_eq!(
                other.settings.get(file).unwrap_or(text),
                text,
                "{}",
                file.display()
            );
        }
        for (process, groups) in &self.members {
            let now = other.members.get(process).unwrap_or(groups);
            // The test's own containers and other tests' move themselves.
            if !groups.contains("/mini-") && !now.contains("/mini-") {
                assert_eq!(now, groups, "{process:?}");
            }
        }
        assert!(self.settings.len() > 10 && self.members.len() > 3);
    }
}

/// The cgroups of containers, in any hierarchy.
fn containers() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_str().unwrap().to_owned();
                if name.starts_with("mini-") && !name.starts_with("mini-test-") {
                    found.insert(entry.path());
                }
                directories.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn five_hundred_kills_at_random_moments_leave_nothing() {
    let Some(bench) = bench("kills") else { return };
    let image = bench.small_image("image");
    let device = Loop::new(&bench);
    let rates = format!("{}:rbps=1m,wbps=1m", device.0);
    let options = "-m 64M --memory-swap 96M --memory-reservation 32M --cpus 0.9 --cpu-weight 50 --cpuset 0 --pids-limit 64";
    let mut options: Vec<&str> = options.split(' ').collect();
    options.extend(["--io-max", &rates]);
    let before = Machine::look();
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    eprintln!("seed {seed}");
    // What a start takes here, four at a time as below.
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let run = bench.mini(&["run"]).args(&options);
                let mut running = run.args(&[&image, "--", "/guest", "counter"]).start();
                running.until("0");
                running.kill(9);
            });
        }
    });
    let start = (began.elapsed().as_micros() as u64).max(30_000);
    // The ids that were seen: not those of other tests.
    let (mut ran, mut seen) = (0, BTreeSet::new());
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for worker in 0..4 {
            let (bench, image, options) = (&bench, &image, &options);
            workers.push(scope.spawn(move || {
                let mut state = seed ^ (worker + 1);
                let (mut ran, mut seen) = (0, BTreeSet::new());
                for round in 0..125 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let how = [&[][..], &["--no-init"], &["--userns", "host"]][round % 3];
                    let run = bench.mini(&["run"]).args(options).args(how);
                    let mut running = run.args(&[image, "--", "/guest", "counter"]).start();
                    // The start is within that time, on a busy machine too.
                    thread::sleep(Duration::from_micros(state % (2 * start)));
                    running.kill(9);
                    ran += usize::from(running.received() > 0);
                    running.wait();
                    let names = fs::read_dir(bench.path("run/running"));
                    for name in names.into_iter().flatten().flatten() {
                        seen.insert(format!("mini-{}", name.file_name().to_str().unwrap()));
                    }
                }
                (ran, seen)
            }));
        }
        for worker in workers {
            let (some, ids) = worker.join().unwrap();
            ran += some;
            seen.extend(ids);
        }
    });
    eprintln!(
        "{ran} of 500 had got as far as the command; {} ids",
        seen.len()
    );
    assert!(seen.len() > 100, "hardly any was killed while it ran");
    bench.run(&[], &["true"]).output().ok();
    let left = || {
        let mut left = containers();
        left.retain(|path| seen.contains(path.file_name().unwrap().to_str().unwrap()));
        left
    };
    assert!(
        eventually(|| left().is_empty()),
        "seed {seed}: {:?}",
        left()
    );
    assert!(
        eventually(|| bench.processes().is_empty()),
        "{:?}",
        bench.processes()
    );
    before.assert_same(&Machine::look());
    bench.assert_nothing_left();
}

#[test]
fn a_dry_run_shows_each_limit_as_it_is_written() {
    let Some(bench) = bench("dry") else { return };
    let run = bench.mini(&[
        "run",
        "--dry-run",
        "-m",
        "64M",
        "--cpus",
        "0.5",
        bench.busybox(),
    ]);
    let plan = run.output().ok();
    for (controller, file, text) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("pids", "pids.max", "2048"),
    ] {
        let place = own(controller).display().to_string();
        let mut lines = plan
            .lines()
            .filter(|line| line.starts_with(&format!("supervisor write(\"{place}/mini-")));
        let end = format!("/{file}\", \"{text}\")");
        assert!(lines.any(|line| line.ends_with(&end)), "{end}\n{plan}");
    }
    assert!(!Path::new(&bench.path("run")).exists());
}
