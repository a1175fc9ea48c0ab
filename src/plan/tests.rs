use super::*;
use crate::cgroup::{Cgroups, Hierarchy};
use crate::cli::{Action, parse};
use crate::host::Idmap;

/// A machine with everything, and root on it.
fn machine() -> Host {
    Host {
        id: "0123456789ab".into(),
        seccomp: true,
        last_capability: 40,
        permitted: (1 << 41) - 1,
        idmap: Idmap {
            image: true,
            store: true,
            memory: true,
            volumes: vec![true; 9],
        },
        volume_directories: vec![true, false, true],
        devices: Vec::new(),
        limits: Vec::new(),
        thermal: Vec::new(),
        own_binary: false,
        ids_in: "/run/mini".into(),
        admin: true,
        privileged: true,
        ids: true,
        uid: 0,
        gid: 0,
        subordinate: None,
        namespaces: u32::MAX,
        overlay: true,
        mqueue: true,
        initial_root: false,
        mount_setattr: true,
        version: (6, 12),
        run: "/run/mini".into(),
        store: "/var/lib/mini".into(),
        cover: None,
        image: vec![tar("rootfs.tar")],
        no_index: None,
        terminals: [false; 3],
        nulls: [false; 3],
        window: (24, 80),
        term: Some(b"screen".to_vec()),
        hostname: "edge".into(),
        hosts: b"127.0.0.1 localhost edge\n".to_vec(),
        resolv_conf: b"nameserver 192.0.2.1\n".to_vec(),
        #[cfg(feature = "net")]
        upstreams: Vec::new(),
        #[cfg(feature = "net")]
        way_out: None,
        shared_ipc: [true, true],
        #[cfg(feature = "life")]
        other: None,
        clocks: (1000, 1234),
        cgroups: unified(),
    }
}

/// Cgroups of version 1, each controller for itself.
fn separate() -> Cgroups {
    let hierarchy = |name: &str| Hierarchy {
        v2: false,
        parent: format!("/sys/fs/cgroup/{name}").into(),
        controllers: vec![name.to_owned()],
        enabled: Vec::new(),
        why: None,
        left: Vec::new(),
        ceilings: Vec::new(),
        cpuset: match name {
            "cpuset" => ["0-3".into(), "0".into()],
            _ => Default::default(),
        },
    };
    let names = ["cpu", "cpuset", "memory", "blkio", "freezer", "pids"];
    Cgroups {
        hierarchies: names.map(hierarchy).into(),
        ..unified()
    }
}

/// Cgroups of version 2 as they are on a machine with systemd.
fn unified() -> Cgroups {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    Cgroups {
        hierarchies: vec![Hierarchy {
            v2: true,
            parent: "/sys/fs/cgroup".into(),
            controllers: words("cpuset cpu io memory pids"),
            enabled: words("memory pids"),
            why: None,
            left: Vec::new(),
            ceilings: Vec::new(),
            cpuset: Default::default(),
        }],
        devices: vec!["8:0".into(); 12],
        online: "0-3".into(),
        systemd: false,
    }
}

fn spec(line: &str) -> Spec {
    match parse(line.split(' ').map(Into::into).collect()) {
        Ok(Action::Run { spec, .. }) => spec.complete(&Default::default()).unwrap(),
        _ => panic!("not a run: {line}"),
    }
}

fn tar(path: &str) -> Layer {
    Layer::Tar(Tar {
        path: path.into(),
        offset: 0,
        size: None,
        compression: None,
        digest: None,
        diff_id: None,
    })
}

fn directory() -> Vec<Layer> {
    vec![Layer::Directory("/srv/root".into())]
}

/// Compares with `tests/plans/NAME`; `MINI_BLESS=1` writes that file instead.
fn golden(name: &str, line: &str, host: &Host) {
    let plan = plan(&spec(line), host).unwrap();
    let text = format!("# mini {line}\n{}", plan.lines());
    let file = format!("{}/tests/plans/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("MINI_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert!(
        text == expected,
        "the plan is not the one in {file}:\n{text}"
    );
}

#[test]
fn root_on_a_current_kernel() {
    golden("root", "run rootfs.tar", &machine());
    #[cfg(feature = "net")]
    {
        let options = "run --net bridge:web --ip 10.9.8.7 --net-alias www --add-host db:192.0.2.9 --dns 192.0.2.53 \
                       --name box -p 8080:80 -p 127.0.0.1:53:53/udp rootfs.tar";
        golden("bridge", options, &machine());
    }
    let options = "run --name web -v /srv:/data/deep:ro -v /etc/passwd:/etc/passwd --tmpfs /data:size=1m \
                   --read-only --ulimit nofile=10:20 --oom-score-adj 5 -w /data -u www --upper disk rootfs.tar -- ls -l";
    golden("options", options, &machine());
}

#[test]
fn root_in_an_initramfs() {
    let host = Host {
        initial_root: true,
        ..machine()
    };
    golden("initramfs", "run rootfs.tar", &host);
}

#[test]
fn a_directory_on_a_terminal_with_its_changes_kept() {
    let host = Host {
        image: directory(),
        terminals: [true; 3],
        ..machine()
    };
    golden("directory", "run --keep -u 5:6 /srv/root -- sh", &host);
}

#[test]
fn everything_shared_with_the_host() {
    let line =
        "run --net host --pid host --ipc host --uts host --cgroupns host --time --no-init x.tar";
    golden("shared", line, &machine());
    golden(
        "shared-rootless",
        line,
        &Host {
            admin: false,
            privileged: false,
            ids: false,
            uid: 1000,
            gid: 100,
            no_index: Some("only root can mount an index of them"),
            ..machine()
        },
    );
}

#[cfg(feature = "life")]
#[test]
fn namespaces_of_another_container() {
    let other = |namespaces| {
        Some(Other {
            id: "ba9876543210".into(),
            namespaces,
            range: true,
        })
    };
    let all = raw::CLONE_NEWUSER | raw::CLONE_NEWPID | raw::CLONE_NEWNET | raw::CLONE_NEWIPC;
    let host = Host {
        other: other(all),
        ..machine()
    };
    let line =
        "run --pid container:web --net container:web --ipc container:web -v /srv:/srv rootfs.tar";
    golden("joined", line, &host);
    // Of one of which the ipc namespace is the host's.
    let rootless = Host {
        admin: false,
        privileged: false,
        ids: false,
        uid: 1000,
        gid: 100,
        no_index: Some("only root can mount an index of them"),
        other: other(raw::CLONE_NEWUSER | raw::CLONE_NEWNET),
        ..machine()
    };
    golden(
        "joined-rootless",
        "run --net container:web --ipc host --no-init x.tar",
        &rootless,
    );
    let host = Host {
        image: directory(),
        idmap: Idmap {
            image: false,
            ..host.idmap.clone()
        },
        ..host
    };
    let error = plan(&spec("run --net container:web /srv/root"), &host);
    let why = "ROOTFS cannot be idmapped (its file system, or Linux before 5.19), as container ba9876543210 demands";
    assert_eq!(error.err().unwrap().to_string(), why);
}

#[test]
fn without_root() {
    let alone = Host {
        admin: false,
        privileged: false,
        ids: false,
        uid: 1000,
        gid: 100,
        no_index: Some("only root can mount an index of them"),
        ..machine()
    };
    golden("rootless", "run x.tar -- id", &alone);
    #[cfg(feature = "net")]
    {
        let with_pasta = Host {
            way_out: Some("/usr/bin/pasta".into()),
            ..alone.clone()
        };
        golden("rootless-net", "run --net bridge x.tar -- id", &with_pasta);
        for (options, why) in [
            (
                "--net bridge",
                "--net bridge: without root it takes pasta or slirp4netns",
            ),
            (
                "--net bridge:a",
                "--net bridge:NAME: only root can make a bridge",
            ),
            (
                "--net bridge --ip 1.2.3.4",
                "--ip: only root can make a bridge",
            ),
            ("-p 80:80", "--publish: only root can make a bridge"),
        ] {
            let error = plan(&spec(&format!("run {options} x.tar")), &alone).err();
            assert!(error.unwrap().starts_with(why), "{options}");
        }
    }
    let ids = Subordinate {
        uids: (100_000, 65_536),
        gids: (200_000, 65_536),
        newuidmap: "/usr/bin/newuidmap".into(),
        newgidmap: "/usr/bin/newgidmap".into(),
    };
    golden(
        "rootless-ids",
        "run x.tar -- id",
        &Host {
            subordinate: Some(ids),
            ..alone
        },
    );
}

#[test]
fn an_old_kernel_on_a_read_only_machine() {
    let host = Host {
        namespaces: !(raw::CLONE_NEWCGROUP | raw::CLONE_NEWTIME),
        overlay: false,
        mqueue: false,
        mount_setattr: false,
        no_index: Some("an index of them needs Linux 6.4"),
        version: (4, 4),
        run: "/run/mini".into(),
        store: "/run/mini".into(),
        cover: Some("/run".into()),
        idmap: Idmap {
            image: false,
            store: false,
            memory: false,
            volumes: vec![false],
        },
        ..machine()
    };
    golden("old", "run -v /srv:/srv:ro,noidmap -", &host);
    for (line, host, why) in [
        (
            "run --time x",
            host.clone(),
            "--time: this kernel lacks CONFIG_TIME_NS",
        ),
        (
            "run x",
            Host {
                image: directory(),
                ..host.clone()
            },
            "CONFIG_OVERLAY_FS",
        ),
        ("run --keep x.tar", host.clone(), "CONFIG_OVERLAY_FS"),
        (
            "run --userns auto x",
            Host {
                overlay: true,
                image: directory(),
                ..host.clone()
            },
            "no overlay in a user namespace before Linux 5.11",
        ),
        (
            "run x",
            Host {
                namespaces: !raw::CLONE_NEWNET,
                ..host.clone()
            },
            "--net host does without it",
        ),
        (
            "run x",
            Host {
                namespaces: !raw::CLONE_NEWUSER,
                admin: false,
                ..host
            },
            "CONFIG_USER_NS",
        ),
    ] {
        let error = plan(&spec(line), &host)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.contains(why), "{line}: {error}");
    }
}

#[test]
fn how_archives_are_brought_in() {
    let device = Layer::Filesystem {
        path: "/dev/mmcblk0p2".into(),
        fstype: c"squashfs",
        device: true,
    };
    let host = Host {
        image: vec![tar("/a.tar"), tar("/b.tar"), device, tar("/c.tar")],
        ..machine()
    };
    golden("layers", "run x", &host);
    golden("unpack", "run --store unpack x", &host);
    golden("memory", "run --store tmpfs rootfs.tar", &machine());
    let rw = Host {
        image: directory(),
        ..machine()
    };
    golden("rw", "run --rw /srv/root", &rw);
    let fails = |line: &str, host: &Host| plan(&spec(line), host).err().unwrap().to_string();
    assert_eq!(
        fails("run --rw x", &machine()),
        "--rw: ROOTFS is not a directory"
    );
    let host = Host {
        no_index: Some("this kernel lacks CONFIG_EROFS_FS"),
        ..machine()
    };
    let why = "--store index: this kernel lacks CONFIG_EROFS_FS";
    assert_eq!(fails("run --store index x", &host), why);
}

#[test]
fn the_environment_is_minis_then_the_users() {
    let with = |line: &str| {
        let spec = spec(line);
        let host = machine();
        let plan = plan(&spec, &host).unwrap();
        (plan.environment.len(), plan.home)
    };
    assert_eq!(with("run x.tar"), (3, Some(2)));
    assert_eq!(with("run -e A=1 -e A=2 -e PATH=/x x.tar"), (4, Some(3)));
    assert_eq!(with("run -e HOME=/x x.tar"), (3, None));
    assert_eq!(with("run -t x.tar"), (4, Some(3)));
}

/// A kernel takes a default away: it is left out with a note, and asked for it is an error.
#[test]
fn defaults_give_way_and_say_so() {
    let without_userns = Host {
        namespaces: !raw::CLONE_NEWUSER,
        ..machine()
    };
    let without_seccomp = Host {
        seccomp: false,
        ..machine()
    };
    let without_idmap = Host {
        image: directory(),
        idmap: Idmap {
            image: false,
            ..machine().idmap
        },
        ..machine()
    };
    let nested = Host {
        privileged: false,
        ..machine()
    };
    for (host, note, option) in [
        (without_userns, "lacks CONFIG_USER_NS", "--userns auto"),
        (
            without_seccomp,
            "lacks CONFIG_SECCOMP_FILTER",
            "--seccomp log",
        ),
        (without_idmap, "cannot be idmapped", "--userns auto"),
        (nested, "mini is in one already", "--userns auto"),
    ] {
        let found = plan(&spec("run x"), &host).unwrap().notes;
        assert!(found.iter().any(|found| found.contains(note)), "{found:?}");
        let error = plan(&spec(&format!("run {option} x")), &host);
        assert!(error.is_err(), "{option}: {note}");
    }
    assert_eq!(plan(&spec("run x"), &machine()).unwrap().notes, [""; 0]);
}

#[test]
fn every_limit_by_cgroups_of_either_version() {
    let line = "run -m 64M --memory-swap 96M --memory-reservation 32M --cpus 1.5 --cpu-weight 200 --cpuset 0-1 --pids-limit 64 \
                --io-max /dev/sda:rbps=1m,wbps=2m,riops=100,wiops=200 rootfs.tar";
    golden("limits-2", line, &machine());
    let host = Host {
        cgroups: separate(),
        ..machine()
    };
    golden("limits-1", line, &host);
    let host = Host {
        cgroups: Cgroups {
            systemd: true,
            ..unified()
        },
        ..machine()
    };
    golden(
        "limits-systemd",
        "run -m 64M --memory-reservation 32M --cpus 1 --cpu-weight 50 rootfs.tar",
        &host,
    );
}

/// A command that joins a container which runs.
#[cfg(feature = "life")]
fn joined(line: &str, container: &Container, detached: bool) -> String {
    let host = Host {
        limits: Vec::new(),
        ..machine()
    };
    let spec = Spec {
        init: false,
        rootfs: Rootfs::Path("/".into()),
        ..spec(line)
    };
    let plan = super::join(&spec, &host, container, detached).unwrap();
    plan.lines()
}

#[cfg(feature = "life")]
#[test]
fn a_joining_command_is_seen_inside_with_no_more_rights_than_it_keeps() {
    let own = raw::CLONE_NEWUSER | raw::CLONE_NEWNS | raw::CLONE_NEWPID;
    let container = Container {
        cgroups: vec![
            ("/sys/fs/cgroup/pids/mini-x".into(), false),
            ("/sys/fs/cgroup/unified/mini-x".into(), true),
        ],
        namespaces: vec![("{pidfd}", own), ("{ns/time}", raw::CLONE_NEWTIME)],
        users: Users::Range,
        oom_score_adj: Some(7),
    };
    let check = |name: &str, text: &str| {
        let file = format!("{}/tests/plans/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("MINI_BLESS").is_some() {
            std::fs::write(&file, text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&file).unwrap(), "{name}");
    };
    let line = "run -t -u 33 -e A=b --ulimit nofile=5:9 x.tar -- id";
    check("exec", &joined(line, &container, false));
    let shared = Container {
        namespaces: vec![("{pidfd}", raw::CLONE_NEWNS)],
        users: Users::Same,
        cgroups: Vec::new(),
        oom_score_adj: None,
    };
    let line = "run --seccomp unconfined --no-new-privs=false x.tar -- id";
    check("exec-detached", &joined(line, &shared, true));
}
