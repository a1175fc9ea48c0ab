use super::*;

/// What options given one after the other come to.
fn wanted(options: &[(&'static str, &str)]) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (option, value) in options {
        parse(option, value, &mut wanted).unwrap();
    }
    complete(&mut wanted).unwrap();
    wanted
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn hierarchy_of(v2: bool, parent: &str, controllers: &str) -> Hierarchy {
    Hierarchy {
        v2,
        parent: parent.into(),
        controllers: words(controllers),
        enabled: Vec::new(),
        why: None,
        left: Vec::new(),
        ceilings: Vec::new(),
        cpuset: Default::default(),
    }
}

fn machine(hierarchies: &[Hierarchy]) -> Cgroups {
    Cgroups {
        hierarchies: hierarchies.to_vec(),
        devices: vec!["8:0".into(); 16],
        online: "0-3".into(),
        systemd: false,
    }
}

fn unified() -> Cgroups {
    let mut hierarchy = hierarchy_of(true, "/cg", "cpuset cpu io memory pids");
    hierarchy.enabled = words("memory pids");
    machine(&[hierarchy])
}

fn separate() -> Cgroups {
    let mut cpuset = hierarchy_of(false, "/cg/cpuset", "cpuset");
    cpuset.cpuset = ["0-3".into(), "0".into()];
    machine(&[
        hierarchy_of(false, "/cg/cpu", "cpu"),
        cpuset,
        hierarchy_of(false, "/cg/memory/own", "memory"),
        hierarchy_of(false, "/cg/blkio", "blkio"),
        hierarchy_of(false, "/cg/freezer", "freezer"),
        hierarchy_of(false, "/cg/pids", "pids"),
    ])
}

#[test]
fn below_systemd_the_controllers_cannot_be_taken_away() {
    let mut cgroups = unified();
    cgroups.systemd = true;
    let limits = wanted(&[("--cpus", "1"), ("--memory", "64M")]);
    let choice = choose(&limits, &cgroups, "0123456789ab").unwrap();
    let group = |path: &str, file: &str, text: &str, entered| {
        let enable = Some((PathBuf::from(file), text.to_owned()));
        (PathBuf::from(path), enable, entered)
    };
    let groups = choice.groups.iter();
    let groups: Vec<_> = groups
        .map(|it| (it.path.clone(), it.enable.clone(), it.entered))
        .collect();
    let (holder, inner) = ("/cg/mini-0123456789ab", "/cg/mini-0123456789ab/container");
    let file = format!("{holder}/cgroup.subtree_control");
    assert_eq!(
        groups,
        [
            group(holder, "/cg/cgroup.subtree_control", "+cpu", false),
            group(inner, &file, "+memory +cpu +pids", true),
        ]
    );
    // The limits are where the container sees them.
    assert!(choice.groups[0].files.is_empty());
    assert!(written(&choice).iter().all(|line| line.starts_with(inner)));
    // Of version 1 nothing is taken away.
    cgroups.hierarchies = separate().hierarchies;
    let choice = choose(&limits, &cgroups, "0123456789ab").unwrap();
    assert!(choice.groups.iter().all(|group| group.entered && !group.v2));
}

#[test]
fn limits_that_do_not_bind_are_told() {
    let mut cgroups = unified();
    cgroups.hierarchies[0].left = vec!["/cg/service/memory.max".into()];
    let choice = choose(&wanted(&[("--cpus", "1")]), &cgroups, "0123456789ab").unwrap();
    assert_eq!(
        choice.notes,
        [
            "\"/cg/service/memory.max\" does not bind the container: its cgroup is made beside mini's own"
        ]
    );
}

/// `PATH TEXT` of each file, in order.
fn written(choice: &Choice) -> Vec<String> {
    let files = choice.groups.iter().flat_map(|group| &group.files);
    files
        .map(|file| format!("{} {}", file.path.display(), file.text))
        .collect()
}

fn refused(options: &[(&'static str, &str)], cgroups: &Cgroups) -> String {
    let choice = choose(&wanted(options), cgroups, "ID");
    choice
        .err()
        .map_or("taken".into(), |error| error.to_string())
}

const ALL: [(&str, &str); 9] = [
    ("--memory", "64M"),
    ("--memory-swap", "96M"),
    ("--memory-reservation", "32M"),
    ("--cpus", "1.5"),
    ("--cpu-weight", "200"),
    ("--cpuset", "0-1"),
    ("--pids-limit", "64"),
    ("--io-max", "8:0:rbps=1m,wbps=2m"),
    ("--io-max", "8:0:riops=100,wiops=200"),
];

#[test]
fn every_limit_in_version_2() {
    let choice = choose(&wanted(&ALL), &unified(), "ID").unwrap();
    assert_eq!(
        written(&choice),
        [
            "/cg/mini-ID/memory.oom.group 1",
            "/cg/mini-ID/memory.max 67108864",
            "/cg/mini-ID/memory.swap.max 33554432",
            "/cg/mini-ID/memory.low 33554432",
            "/cg/mini-ID/cpu.max 150000 100000",
            "/cg/mini-ID/cpu.weight 200",
            "/cg/mini-ID/cpuset.cpus 0-1",
            "/cg/mini-ID/pids.max 64",
            "/cg/mini-ID/io.max 8:0 rbps=1048576",
            "/cg/mini-ID/io.max 8:0 wbps=2097152",
            "/cg/mini-ID/io.max 8:0 riops=100",
            "/cg/mini-ID/io.max 8:0 wiops=200",
        ]
    );
    let [group] = choice.groups.as_slice() else {
        panic!("one cgroup for all");
    };
    // What the parent's children have already is left as it is.
    let enable = (
        "/cg/cgroup.subtree_control".into(),
        "+cpu +cpuset +io".into(),
    );
    assert_eq!((group.v2, &group.enable), (true, &Some(enable)));
    assert_eq!((choice.notes, choice.freezer), (Vec::new(), None));
}

#[test]
fn every_limit_in_version_1() {
    let choice = choose(&wanted(&ALL), &separate(), "ID").unwrap();
    assert_eq!(
        written(&choice),
        [
            "/cg/memory/own/mini-ID/memory.limit_in_bytes 67108864",
            "/cg/memory/own/mini-ID/memory.memsw.limit_in_bytes 100663296",
            "/cg/memory/own/mini-ID/memory.soft_limit_in_bytes 33554432",
            "/cg/cpu/mini-ID/cpu.cfs_quota_us 150000",
            "/cg/cpu/mini-ID/cpu.shares 2048",
            "/cg/cpuset/mini-ID/cpuset.cpus 0-3",
            "/cg/cpuset/mini-ID/cpuset.mems 0",
            "/cg/cpuset/mini-ID/cpuset.cpus 0-1",
            "/cg/pids/mini-ID/pids.max 64",
            "/cg/blkio/mini-ID/blkio.throttle.read_bps_device 8:0 1048576",
            "/cg/blkio/mini-ID/blkio.throttle.write_bps_device 8:0 2097152",
            "/cg/blkio/mini-ID/blkio.throttle.read_iops_device 8:0 100",
            "/cg/blkio/mini-ID/blkio.throttle.write_iops_device 8:0 200",
        ]
    );
    let enabled = choice
        .groups
        .iter()
        .any(|group| group.v2 || group.enable.is_some());
    assert!(!enabled && choice.groups.len() == 5);
    assert_eq!(choice.freezer, Some("/cg/freezer/mini-ID".into()));
}

/// Each controller is in one of the two.
#[test]
fn hybrid() {
    let mut cgroups = separate();
    cgroups
        .hierarchies
        .retain(|it| !it.controllers.contains(&"pids".to_owned()));
    cgroups
        .hierarchies
        .push(hierarchy_of(true, "/cg/unified", "pids hugetlb"));
    let options = [("--memory", "64M")];
    let choice = choose(&wanted(&options), &cgroups, "ID").unwrap();
    assert_eq!(
        written(&choice),
        [
            "/cg/memory/own/mini-ID/memory.limit_in_bytes 67108864",
            "/cg/memory/own/mini-ID/memory.memsw.limit_in_bytes 134217728",
            "/cg/unified/mini-ID/pids.max 2048",
        ]
    );
    // Version 2 stops processes itself.
    assert_eq!(choice.freezer, None);
    let why = refused(
        &[("--io-max", "8:0:rbps=1")],
        &machine(&cgroups.hierarchies[5..]),
    );
    assert_eq!(
        why,
        "--io-max: the controller io is not in \"/cg/unified/cgroup.controllers\""
    );
}

#[test]
fn without_controllers_only_what_is_asked_for_is_an_error() {
    let none = machine(&[]);
    let choice = choose(&wanted(&[]), &none, "ID").unwrap();
    assert!(choice.groups.is_empty());
    let why = "no cgroup hierarchy with the controller pids is mounted (CONFIG_CGROUP_PIDS)";
    assert_eq!(choice.notes, [format!("no limit of processes: {why}")]);
    for (option, value, controller, config) in [
        ("--memory", "64M", "memory", "CONFIG_MEMCG"),
        ("--cpus", "1", "cpu", "CONFIG_CFS_BANDWIDTH"),
        ("--cpuset", "0", "cpuset", "CONFIG_CPUSETS"),
        ("--pids-limit", "9", "pids", "CONFIG_CGROUP_PIDS"),
        ("--io-max", "8:0:rbps=1", "io", "CONFIG_BLK_DEV_THROTTLING"),
    ] {
        let why = format!(
            "{option}: no cgroup hierarchy with the controller {controller} is mounted ({config})"
        );
        assert_eq!(refused(&[(option, value)], &none), why);
    }
    let mut closed = unified();
    closed.hierarchies[0].why = Some("\"/cg\": Permission denied".into());
    let choice = choose(&wanted(&[]), &closed, "ID").unwrap();
    assert_eq!(
        choice.notes,
        ["no limit of processes: \"/cg\": Permission denied"]
    );
    assert_eq!(
        refused(&[("--memory", "1g")], &closed),
        "--memory: \"/cg\": Permission denied"
    );
}

#[test]
fn nothing_is_above_what_the_parent_has() {
    // In the order of LIMITS: memory, swap and (implied) processes.
    let mut cgroups = unified();
    cgroups.hierarchies[0].ceilings = vec![100 << 20, 10 << 20, 50];
    let options = [("--memory", "64M"), ("--memory-swap", "74M")];
    let choice = choose(&wanted(&options), &cgroups, "ID").unwrap();
    let lines = written(&choice);
    assert_eq!(
        lines[2..],
        [
            "/cg/mini-ID/memory.swap.max 10485760",
            "/cg/mini-ID/pids.max 50"
        ]
    );
    // What follows from --memory alone gives way.
    let choice = choose(&wanted(&options[..1]), &cgroups, "ID").unwrap();
    assert_eq!(written(&choice)[2], "/cg/mini-ID/memory.swap.max 10485760");
    for (options, why) in [
        (
            &[("--memory", "101M")][..],
            "--memory: 105906176 is above the 104857600 in memory.max of \"/cg\" or above it",
        ),
        (
            &[("--memory", "64M"), ("--memory-swap", "75M")],
            "--memory-swap: 78643200 is above the 77594624 in memory.swap.max of \"/cg\" or above it",
        ),
        (
            &[("--cpus", "4.01")],
            "--cpus: more than there are (\"0-3\" are running)",
        ),
        (
            &[("--cpuset", "4")],
            "--cpuset \"4\": there are only \"0-3\"",
        ),
        (
            &[("--cpuset", "0-4294967295")],
            "--cpuset \"0-4294967295\": there are only \"0-3\"",
        ),
    ] {
        let mut cgroups = cgroups.clone();
        if options[0].0 == "--cpus" {
            cgroups.hierarchies[0].ceilings.clear();
        }
        assert_eq!(refused(options, &cgroups), why);
    }
    // Protection is not a limit.
    cgroups.hierarchies[0].ceilings = vec![4096, u64::MAX];
    let choice = choose(&wanted(&[("--memory-reservation", "1M")]), &cgroups, "ID").unwrap();
    let note =
        "--memory-reservation holds as far as memory.low of \"/cg\" and above it goes: 4096 bytes";
    assert_eq!(choice.notes, [note]);
    assert_eq!(written(&choice)[1], "/cg/mini-ID/memory.low 1048576");
    let mut old = separate();
    old.hierarchies[1].cpuset[0] = "0,2".into();
    assert_eq!(
        refused(&[("--cpuset", "1")], &old),
        "--cpuset \"1\": there are only \"0,2\""
    );
}

#[test]
fn values_in_both_versions() {
    for (option, value, texts) in [
        ("--memory", "512k", ["524288", "524288"]),
        ("--memory-reservation", "1g", ["1073741824", "1073741824"]),
        ("--cpus", "0.01", ["1000 100000", "1000"]),
        ("--cpus", "2", ["200000 100000", "200000"]),
        ("--cpus", "0.123456789", ["12345 100000", "12345"]),
        ("--cpu-weight", "1", ["1", "11"]),
        ("--cpu-weight", "100", ["100", "1024"]),
        ("--cpu-weight", "10000", ["10000", "102400"]),
        ("--cpuset", "0-2,5", ["0-2,5", "0-2,5"]),
        ("--pids-limit", "4194304", ["4194304", "4194304"]),
        (
            "--io-max",
            "/dev/x:y:rbps=1k",
            ["8:0 rbps=1024", "8:0 1024"],
        ),
    ] {
        let mut found = Vec::new();
        parse(option, value, &mut found).unwrap();
        let wanted = &found[0];
        let text = |v2| wanted.limit.value(&wanted.amount, v2, u64::MAX, "8:0");
        assert_eq!([text(true), text(false)], texts, "{option} {value}");
    }
    for (swap, texts) in [
        ("-1", ["max", "-1"]),
        ("64M", ["0", "67108864"]),
        ("65M", ["1048576", "68157440"]),
    ] {
        let wanted = wanted(&[("--memory", "64M"), ("--memory-swap", swap)]);
        let text = |v2| wanted[1].limit.value(&wanted[1].amount, v2, 64 << 20, "");
        assert_eq!([text(true), text(false)], texts, "{swap}");
    }
}

#[test]
fn what_follows_from_what() {
    let shown = |options| -> Vec<_> {
        let list: Vec<Wanted> = wanted(options);
        list.into_iter()
            .map(|it| (it.limit.option, it.amount, it.implied))
            .collect()
    };
    let number = Amount::Number;
    assert_eq!(shown(&[]), [("--pids-limit", number(2048), true)]);
    assert_eq!(shown(&[("--pids-limit", "-1")]), []);
    assert_eq!(
        shown(&[("--pids-limit", "7"), ("--memory", "1M")]),
        [
            ("--memory", number(1 << 20), false),
            ("--memory-swap", number(2 << 20), true),
            ("--pids-limit", number(7), false),
        ]
    );
    // A limit that is lacking is an error only where it was asked for.
    let mut cgroups = separate();
    cgroups.hierarchies.retain(|it| it.controllers != ["pids"]);
    let choice = choose(&wanted(&[("--memory", "1M")]), &cgroups, "ID").unwrap();
    assert!(choice.groups.len() == 1 && choice.notes.len() == 1);
}

#[test]
fn malformed_values() {
    for (option, values) in [
        (
            "--memory",
            &["", "x", "1.5g", "-1", "0", "511k", "16777216t"][..],
        ),
        ("--memory-swap", &["", "-2", "1k"]),
        ("--memory-reservation", &["", "-1"]),
        (
            "--cpus",
            &[
                "",
                ".",
                ".5",
                "5.",
                "1e3",
                "-1",
                "+1",
                "0",
                "0.00999",
                "1.5.5",
                "18446744073709551615",
            ],
        ),
        ("--cpu-weight", &["", "0", "10001", "x"]),
        (
            "--cpuset",
            &[
                "",
                "a",
                "1-",
                "-1",
                "2-1",
                "0,,1",
                "+1",
                "0-+1",
                "4294967296",
            ],
        ),
        ("--pids-limit", &["", "0", "-2", "4194305"]),
        (
            "--io-max",
            &[
                "",
                "x",
                "x:",
                "x:rbps",
                "x:=1",
                "x:rbps=",
                "x:rbps=0",
                "x:rbps=-1",
                "x:ops=1",
                "x:rbps=1,",
                "x:rbps=1:2",
            ],
        ),
        ("--none", &["1"]),
    ] {
        for value in values {
            let error = parse(option, value, &mut Vec::new())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!("{option} {value:?}: ")),
                "{error}"
            );
        }
    }
    for options in [
        &[("--memory-swap", "1M")][..],
        &[("--memory", "2M"), ("--memory-swap", "1M")],
    ] {
        let mut list = Vec::new();
        for (option, value) in options {
            parse(option, value, &mut list).unwrap();
        }
        assert!(
            complete(&mut list)
                .unwrap_err()
                .to_string()
                .contains("--memory-swap")
        );
    }
}

/// Files are named after their controllers, which is how a hierarchy is found; and the list of options is theirs.
#[test]
fn the_table() {
    let known = ["memory", "cpu", "cpuset", "pids", "io", "blkio"];
    for limit in &LIMITS {
        assert!(
            known.contains(&limit.controller(true)) && known.contains(&limit.controller(false))
        );
        assert_eq!(limit.key.is_empty(), limit.unit != Unit::Rate, "{limit:?}");
    }
}

/// The README's table is this one.
#[test]
fn the_readme_has_the_table() {
    let readme = include_str!("../../README.md");
    for limit in &LIMITS {
        let unit = match limit.unit {
            Unit::Bytes => "bytes",
            Unit::Swap => "bytes of memory and swap together; version 2 has those of swap alone",
            Unit::Quota => "microseconds in each 100,000",
            Unit::Weight => "1 to 10000, normally 100; version 1 has shares, 1024 for 100",
            Unit::Processors => "numbers of processors, as in `0-2,5`",
            Unit::Tasks => "processes and threads",
            Unit::Rate if limit.key.ends_with("bps") => "bytes a second",
            Unit::Rate => "operations a second",
        };
        let option = match limit.key {
            "" => limit.option.to_owned(),
            key => format!("{} DEVICE:{key}=", limit.option),
        };
        let [new, old] = limit.files;
        let row = format!("| `{option}` | `{new}` | `{old}` | {unit} |\n");
        assert!(readme.contains(&row), "{row}");
    }
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `--") && line.matches(" | `").count() == 2);
    assert_eq!(rows.count(), LIMITS.len());
}

// --- mountinfo and /proc/self/cgroup ------------------------------------------------------------------------------

/// A directory for one test that looks like a hierarchy.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> Tree {
        let top = std::env::temp_dir().join(format!("mini-cgroup-{name}-{}", std::process::id()));
        for (file, text) in files {
            let path = top.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Tree(top)
    }

    /// The hierarchy that a mount of it is, as `own` of /proc/self/cgroup has the caller in it.
    fn hierarchy(&self, root: &str, kind: &str, own: &str, spec: &Spec) -> Option<Hierarchy> {
        let line = format!(
            "30 23 0:26 {root} {} rw,nosuid shared:4 - {kind}",
            self.0.display()
        );
        hierarchy(spec, &line, own).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn spec(options: &[(&'static str, &str)], parent: Option<&str>) -> Spec {
    let arguments = ["run", "x.tar"].map(Into::into).to_vec();
    let Ok(crate::cli::Action::Run { spec, .. }) = crate::cli::parse(arguments) else {
        panic!("a plain run");
    };
    Spec {
        resources: wanted(options),
        cgroup_parent: parent.map(Into::into),
        ..*spec
    }
}

/// What is taken to be mounted without asking is what mountinfo says.
#[test]
fn the_usual_mounts() {
    let own = |text: &str| usual_mounts(&wanted(&[("--memory", "1M"), ("--cpus", "1")]), text);
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    for line in own(&text).unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (place, kind) = (format!(" / {} ", fields[4]), format!(" - {} ", fields[6]));
        let mut mounts = mountinfo.lines();
        assert!(
            mounts.any(|mount| mount.contains(&place) && mount.contains(&kind)),
            "{line}"
        );
    }
    // One that is not wanted, one that is and is not there, one whose place is no hierarchy.
    assert_eq!(own("9:name=systemd:/\n3:devices:/x\n"), Some(String::new()));
    assert_eq!(own("4:memory,nowhere:/\n"), None);
    assert_eq!(own("4:memory,nowhere:/\n0::/\n"), None);
    assert_eq!(own("4:memory,../../..:/\n"), None);
}

#[test]
fn in_version_2_the_nearest_that_can_have_children() {
    let all = "cpuset cpu io memory pids\n";
    let tree = Tree::new(
        "nearest",
        &[
            ("cgroup.controllers", all),
            ("cgroup.subtree_control", all),
            ("cgroup.procs", "1\n"),
            ("user/cgroup.type", "domain\n"),
            ("user/cgroup.controllers", all),
            ("user/cgroup.subtree_control", "memory pids\n"),
            ("user/cgroup.procs", ""),
            ("user/memory.max", "1000000\n"),
            ("user/session/cgroup.type", "domain\n"),
            ("user/session/cgroup.controllers", "memory pids\n"),
            ("user/session/cgroup.subtree_control", ""),
            ("user/session/cgroup.procs", "77\n"),
            ("user/session/memory.max", "max\n"),
        ],
    );
    let (own, kind) = (
        "1:name=systemd:/x\n0::/user/session\n",
        "cgroup2 cgroup2 rw,nsdelegate",
    );
    let found = |options, parent| {
        tree.hierarchy("/", kind, own, &spec(options, parent))
            .unwrap()
    };
    let memory = found(&[("--memory", "1M")], None);
    assert_eq!((memory.parent, memory.why), (tree.0.join("user"), None));
    assert_eq!(memory.enabled, ["memory", "pids"]);
    // Memory, swap, processes.
    assert_eq!(memory.ceilings, [1_000_000, u64::MAX, u64::MAX]);
    // A controller that the user's has not on, and one that the session could not have at all.
    let cpus = found(&[("--cpus", "1")], None);
    assert_eq!((cpus.parent, cpus.why), (tree.0.join("user"), None));
    // The caller's own, named.
    let session = found(&[("--memory", "1M")], Some("/user/session"));
    let control = tree.0.join("user/session/cgroup.subtree_control");
    let why = format!(
        "{:?} cannot be written: there are processes in that cgroup",
        control.display().to_string()
    );
    assert_eq!(session.why, Some(why));
    let below = found(&[("--cpus", "1")], Some("none"));
    assert_eq!(below.parent, tree.0.join("user/session/none"));
    assert!(
        below
            .why
            .unwrap()
            .ends_with("none\": No such file or directory")
    );
    // Only a part of the hierarchy is mounted: that of the user.
    let (own, spec) = ("0::/outer/user/session\n", spec(&[], None));
    let part = tree.hierarchy("/outer", kind, own, &spec).unwrap();
    assert_eq!(part.parent, tree.0.join("user"));
}

#[test]
fn in_version_1_the_callers_own() {
    let tree = Tree::new(
        "own",
        &[
            ("cpu.cfs_quota_us", "-1\n"),
            ("service/cpu.cfs_quota_us", "20000\n"),
            ("service/cpu.cfs_period_us", "50000\n"),
            ("service/tasks", "1\n"),
        ],
    );
    let own = "4:cpu,cpuacct:/service\n3:pids:/\n";
    let options = [("--cpus", "0.3")];
    let found = |kind| tree.hierarchy("/", kind, own, &spec(&options, None));
    let cpu = found("cgroup cgroup rw,seclabel,cpu,cpuacct").unwrap();
    assert_eq!(
        (cpu.parent, cpu.controllers),
        (tree.0.join("service"), words("cpu"))
    );
    assert_eq!(cpu.ceilings, [40_000, u64::MAX]);
    // At the top there is no slash behind it.
    let pids = found("cgroup cgroup rw,pids").unwrap();
    assert_eq!(pids.parent.as_os_str(), tree.0.as_os_str());
    for other in [
        "cgroup cgroup rw,xattr,name=systemd",
        "cgroup cgroup rw,devices",
        "tmpfs tmpfs rw,mode=755",
    ] {
        assert!(found(other).is_none(), "{other}");
    }
}
