//! As an ordinary user: with a single id, with subordinate ids through newuidmap, the directories that such a user has,
//! what others may see of them, and what is said where the kernel does not allow it.

mod support;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use support::{Bench, Report, Run, eventually, guest, have, have_program, mini};

/// The user that the tests run as; nobody needs to know it by name.
const USER: u32 = 1000;

/// Whether an ordinary user may make user namespaces on this machine.
fn have_user() -> bool {
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
    have_program("setpriv")
        && have(
            "user",
            run.output().status == 0,
            "user namespaces are not for ordinary users here",
        )
}

/// A bench whose directory belongs to the user, who keeps all in it.
fn bench(name: &str) -> Option<Bench> {
    let bench = Bench::new(name)?;
    chown(bench.path(""), Some(USER), Some(USER)).unwrap();
    have_user().then_some(bench)
}

/// A program as that user, without newuidmap in its PATH.
fn as_user(bench: &Bench, program: &[&str]) -> Run {
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
}

fn rootless(bench: &Bench, args: &[&str]) -> Run {
    as_user(bench, &[mini().to_str().unwrap()]).args(args)
}

#[test]
fn with_a_single_id_the_user_is_root_inside() {
    let Some(bench) = bench("single") else { return };
    let text = rootless(&bench, &["run", bench.busybox(), "--", "id"])
        .output()
        .ok();
    assert!(text.starts_with("uid=0(root) gid=0(root)"), "{text}");
    let volume = format!("{}:/guest:ro", guest());
    let report = Report(
        rootless(
            &bench,
            &[
                "run",
                "-v",
                &volume,
                "--name",
                "box",
                bench.busybox(),
                "--",
                "/guest",
            ],
        )
        .output()
        .ok(),
    );
    assert_eq!(
        (
            report.get("pid"),
            report.get("ppid"),
            report.get("hostname")
        ),
        ("2", "1", "box")
    );
    for name in ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(report.get(&format!("ns {name}")), host.to_str().unwrap());
    }
    for (at, kind) in [
        ("/", "overlay"),
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev/pts", "devpts"),
        ("/dev/mqueue", "mqueue"),
    ] {
        assert_eq!(report.mount(at).kind, kind, "{at}");
    }
    assert_eq!(
        report.environment(),
        [
            "HOME=/root",
            "HOSTNAME=box",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        ]
    );
    assert_eq!(report.all("fd").len(), 3);
    assert_eq!(
        (report.get("init-environ"), report.all("init-fd").len()),
        ("", 0)
    );
    let script = "set -e; cat /proc/self/uid_map | tr -s ' '; echo x > /etc/passwd; rm -r /home; touch /new; echo y > /dev/null
        head -c 2 /dev/urandom | wc -c; stat -c %A /new; : > /dev/shm/x; cat /proc/sys/net/ipv4/ping_group_range";
    let text = rootless(&bench, &["run", bench.busybox(), "--", "sh", "-c", script])
        .output()
        .ok();
    assert_eq!(text, " 0 1000 1\n2\n-rw-r--r--\n0\t0\n");
    let run = |options: &[&str], command: &[&str]| {
        let words = [
            &["run", "-v", &volume],
            options,
            &[bench.busybox(), "--"],
            command,
        ];
        rootless(&bench, &words.concat()).output()
    };
    // Echo requests need no privilege; raw sockets, which this busybox's ping wants, do.
    assert_eq!(run(&[], &["/guest", "ping"]).ok(), "ping ok\n");
    let ping = ["ping", "-c1", "-W1", "127.0.0.1"];
    run(&["--cap-add", "NET_RAW"], &ping).expect(0);
    let output = run(&[], &ping).expect(1);
    assert_eq!(output.stderr, "ping: permission denied (are you root?)\n");
}

#[test]
fn statuses_errors_and_options_are_the_same() {
    let Some(bench) = bench("same") else { return };
    let run = |options: &[&str], script: &str| {
        let args = [
            &["run"],
            options,
            &[bench.busybox(), "--", "sh", "-c", script],
        ]
        .concat();
        rootless(&bench, &args).output()
    };
    run(&[], "exit 7").expect(7);
    run(&[], "kill -9 $$").expect(137);
    run(&["-t"], "[ -t 0 ] && exit 8").expect(8);
    run(&["--no-init"], "exit 9").expect(9);
    rootless(&bench, &["run", bench.busybox(), "--", "/nope"])
        .output()
        .fails(127, "execve(\"/nope\"): not found in the container");
    for option in [
        "--net=host",
        "--pid=host",
        "--ipc=host",
        "--uts=host",
        "--cgroupns=host",
        "--time",
        "--read-only",
        "--upper=disk",
        "--upper=tmpfs:1m",
    ] {
        let output = run(&[option], "exit 3");
        assert_eq!(output.status, 3, "{option}: {}", output.stderr);
    }
    let dir = bench.dir("dir");
    chown(&dir, Some(USER), Some(USER)).unwrap();
    let (rw, ro) = (format!("{dir}:/v"), format!("{dir}:/v:ro"));
    run(&["-v", &rw, "-w", "/v/sub"], "echo x > file").ok();
    assert_eq!(
        fs::metadata(bench.path("dir/sub/file")).unwrap().uid(),
        USER
    );
    let output = run(&["-v", &ro], "echo x > /v/other").expect(1);
    assert!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
    // An id that is not mapped.
    let line = run(&["-u", "user"], "true").one_line(125);
    assert!(
        line.contains("not mapped into the user namespace"),
        "{line}"
    );
    // A directory of the user's own as image.
    let image = bench.busybox_directory();
    Run::new("chown")
        .args(&["-R", "1000:1000", &image])
        .output()
        .ok();
    let before = support::tree(image.as_ref());
    let text = rootless(
        &bench,
        &[
            "run",
            &image,
            "--",
            "sh",
            "-c",
            "rm -r /home; echo x > /etc/passwd; id -u; ls -d /home",
        ],
    )
    .output();
    assert_eq!((text.status, text.stdout.as_str()), (1, "0\n"), "{text:?}");
    assert_eq!(support::tree(image.as_ref()), before);
}

#[test]
fn killing_the_supervisor_ends_it_as_well() {
    let Some(bench) = bench("kill") else { return };
    let run = rootless(
        &bench,
        &[
            "run",
            bench.busybox(),
            "--",
            "sh",
            "-c",
            "echo ready; sleep 1000",
        ],
    );
    let mut running = run.start();
    running.until("ready");
    assert!(!bench.files().is_empty());
    running.kill(9);
    running.wait();
    assert!(eventually(|| bench.processes().is_empty()));
    rootless(&bench, &["run", bench.busybox(), "--", "true"])
        .output()
        .ok();
    assert_eq!(bench.files(), Vec::<String>::new());
}

/// A script as root in a mount namespace where the user has a name and a range of subordinate ids.
fn with_range(bench: &Bench, script: &str) -> Run {
    let prepare = "cp /etc/passwd /etc/group .; grep -v :1000: /etc/passwd > passwd; echo minitest:x:1000:1000::/:/bin/sh >> passwd
        echo minitest:200000:65536 > subuid; cp subuid subgid
        for file in passwd subuid subgid; do [ -e /etc/$file ] || exit 77; mount --bind $file /etc/$file; done
        run() { setpriv --reuid 1000 --regid 1000 --clear-groups $MINI run \"$@\"; }";
    bench.private_shell(&format!("{prepare}\n{script}"))
}

#[test]
fn with_newuidmap_there_is_a_range_of_ids() {
    let Some(bench) = bench("range") else { return };
    if !have_program("newuidmap")
        || !have(
            "user",
            fs::exists("/etc/subuid").unwrap(),
            "there is no /etc/subuid",
        )
    {
        return;
    }
    let script = "run $BUSYBOX -- sh -c 'tr -s \" \" < /proc/self/uid_map; tr -s \" \" < /proc/self/gid_map; id -u
            touch /f; chown 5:6 /f; stat -c \"%u %g\" /f /home/user'
        run -u user $BUSYBOX -- id
        run -t -u user $BUSYBOX -- sh -c 'tty; stat -c \"%U %G\" $(tty)' < /dev/null
        run --upper disk $BUSYBOX -- sh -c 'chown 7 /etc/passwd; stat -c %u /etc/passwd; exit 5' || echo status $?";
    let output = with_range(&bench, script).output().expect(0);
    let expected = " 0 1000 1\n 1 200000 65536\n 0 1000 1\n 1 200000 65536\n0\n5 6\n1000 1000\n\
        uid=1000(user) gid=1000(user) groups=29(audio),1000(user)\n/dev/pts/0\nuser tty\n7\nstatus 5\n";
    assert_eq!(
        output.stdout.replace('\r', ""),
        expected,
        "{}",
        output.stderr
    );
    assert_eq!(bench.files(), Vec::<String>::new());
}

#[test]
fn with_keep_id_the_user_has_the_same_id_inside() {
    let Some(bench) = bench("keepid") else { return };
    let dir = bench.dir("dir");
    chown(&dir, Some(USER), Some(USER)).unwrap();
    let volume = format!("{dir}:/v");
    let run = |options: &[&str], script: &str| {
        let words = [
            &["run", "--userns", "keep-id", "-v", &volume],
            options,
            &[bench.busybox(), "--", "sh", "-c", script],
        ];
        rootless(&bench, &words.concat()).output()
    };
    // With a single id: that one, and nothing of root's.
    let script = "id; tr -s ' ' < /proc/self/uid_map; grep -E '^Cap(Eff|Prm)' /proc/self/status
        cat /proc/sys/net/ipv4/ping_group_range; echo $HOME; echo x > /v/file; stat -c '%u %g' /v /v/file";
    let expected = "uid=1000(user) gid=1000(user)\n 1000 1000 1\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n1000\t1000\n/home/user\n1000 1000\n1000 1000\n";
    let text = run(&[], script).ok().replace(" groups=1000(user)", "");
    assert_eq!(text, expected);
    let status = fs::metadata(bench.path("dir/file")).unwrap();
    assert_eq!((status.uid(), status.gid()), (USER, USER));
    let text = run(&["-t"], "tty; stat -c %u $(tty)").expect(0).stdout;
    assert_eq!(text, "/dev/pts/0\r\n1000\r\n");
    let line = run(&["-u", "0"], "true").one_line(125);
    assert!(
        line.contains("--user: not mapped into the user namespace"),
        "{line}"
    );
    // It is for other users than root, and not without a user namespace of mini's own.
    let root = bench.run(&["--userns", "keep-id"], &["true"]).output();
    root.fails(
        125,
        "--userns keep-id: root has no id to keep; it is for other users",
    );
    let words = [&["run", "--userns", "host"][..], &[bench.busybox()]].concat();
    let line = "--userns host: only root can do without a user namespace";
    rootless(&bench, &words).output().fails(125, line);
    let mini = mini();
    let inside = [
        "PATH=/usr/bin:/bin",
        "unshare",
        "-Urm",
        mini.to_str().unwrap(),
        "run",
        "--userns",
        "keep-id",
        bench.busybox(),
    ];
    let line = "--userns keep-id: mini is in a user namespace already";
    as_user(&bench, &inside).output().fails(125, line);
}

#[test]
fn with_keep_id_and_subordinate_ids_the_others_are_around_it() {
    let Some(bench) = bench("keeprange") else {
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
    let dir = bench.dir("dir");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let script = "run --userns keep-id -v $PWD/dir:/v $BUSYBOX -- sh -c 'tr -s \" \" < /proc/self/uid_map
            tr -s \" \" < /proc/self/gid_map; id -u; id -g; echo x > /v/own; stat -c \"%u %g\" /v/own /etc/passwd'
        run --userns keep-id -u 0 -v $PWD/dir:/v $BUSYBOX -- sh -c 'id -u; echo x > /v/root; chown 5:6 /etc/passwd
            stat -c \"%u %g\" /v/root /etc/passwd'
        run --userns keep-id -u nobody -v $PWD/dir:/v $BUSYBOX -- sh -c 'id -u; echo x > /v/nobody'
        stat -c '%u %g' dir/own dir/root dir/nobody; rm dir/*";
    let output = with_range(&bench, script).output().expect(0);
    let map = " 0 200000 1000\n 1000 1000 1\n 1001 201000 64536\n";
    let expected = format!(
        "{map}{map}1000\n1000\n1000 1000\n0 0\n0\n0 0\n5 6\n65534\n\
         1000 1000\n200000 200000\n265533 265533\n"
    );
    assert_eq!(output.stdout, expected, "{}", output.stderr);
    assert_eq!(bench.files(), Vec::<String>::new());
}

#[test]
fn where_user_namespaces_are_switched_off_the_switch_is_named() {
    let Some(bench) = bench("switch") else { return };
    // In a user namespace of its own the limit can be set to 0; without capabilities mini needs another one.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" run \"$1\" -- true";
    let mini = mini();
    let run = as_user(
        &bench,
        &[
            "PATH=/usr/bin:/bin",
            "unshare",
            "-Ur",
            "sh",
            "-c",
            script,
            mini.to_str().unwrap(),
            bench.busybox(),
        ],
    );
    let line = run.output().one_line(125);
    let expected = "unshare(CLONE_NEWUSER): No space left on device (sysctl user.max_user_namespaces is 0: raise it, or run as root)";
    assert_eq!(line, expected);
}

#[test]
fn nobody_else_can_look_into_a_running_container() {
    let Some(bench) = bench("others") else { return };
    let mut running = bench
        .run(
            &["--upper", "disk"],
            &["sh", "-c", "echo ready; sleep 1000"],
        )
        .start();
    running.until("ready");
    for path in ["run", "store", "store/containers", "store/cache"] {
        let status = fs::metadata(bench.path(path)).unwrap();
        assert_eq!((status.uid(), status.mode() & 0o7777), (0, 0o700), "{path}");
    }
    let output = as_user(&bench, &["PATH=/bin:/usr/bin", "ls", &bench.text("run")]).output();
    assert!(output.status != 0 && output.stdout.is_empty(), "{output:?}");
    // Nor can a user's mini be made to work in root's directory.
    let line = rootless(&bench, &["run", bench.busybox(), "--", "true"])
        .output()
        .one_line(125);
    assert!(line.contains(&bench.text("run")), "{line}");
    running.kill(15);
    running.wait();
}

/// mini as the user without MINI_RUN and MINI_ROOT, and with these variables instead.
fn plain(bench: &Bench, variables: &[&str], args: &[&str]) -> Run {
    let unset = [
        "-u",
        "MINI_RUN",
        "-u",
        "MINI_ROOT",
        "-u",
        "XDG_RUNTIME_DIR",
        "-u",
        "XDG_DATA_HOME",
        "-u",
        "HOME",
    ];
    let mini = mini();
    let program = [
        &["env"],
        &unset[..],
        variables,
        &[mini.to_str().unwrap()],
        args,
    ]
    .concat();
    let run =
        bench
            .program("setpriv")
            .args(&["--reuid", "1000", "--regid", "1000", "--clear-groups"]);
    run.args(&program)
}

#[test]
fn the_directories_are_those_of_the_xdg_base_directory_specification() {
    let Some(bench) = bench("xdg") else { return };
    let own = |name: &str| {
        let dir = bench.dir(name);
        chown(&dir, Some(USER), Some(USER)).unwrap();
        dir
    };
    let (runtime, data, home) = (own("runtime"), own("data"), own("home"));
    let plan = |variables: &[&str]| {
        let plan = plain(&bench, variables, &["run", "--dry-run", bench.busybox()])
            .output()
            .ok();
        let paths = plan
            .lines()
            .filter(|line| line.contains(", 0700), flock("))
            .map(|line| line.split('"').nth(1).unwrap().to_owned());
        paths
            .map(|path| {
                Path::new(&path)
                    .parent()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    let (runtime_dir, data_home, home_dir) = (
        format!("XDG_RUNTIME_DIR={runtime}"),
        format!("XDG_DATA_HOME={data}"),
        format!("HOME={home}"),
    );
    assert_eq!(
        plan(&[&runtime_dir, &data_home]),
        [
            format!("{runtime}/mini/running"),
            format!("{data}/mini/containers")
        ]
    );
    assert_eq!(
        plan(&[&runtime_dir, &home_dir]),
        [
            format!("{runtime}/mini/running"),
            format!("{home}/.local/share/mini/containers")
        ]
    );
    assert_eq!(plan(&[&home_dir])[0], "/tmp/mini-1000/running");
    let run = plain(
        &bench,
        &[&runtime_dir, &data_home],
        &["run", bench.busybox(), "--", "true"],
    );
    run.output().ok();
    for path in [
        "runtime/mini",
        "runtime/mini/running",
        "data/mini",
        "data/mini/containers",
    ] {
        let status = fs::metadata(bench.path(path)).unwrap();
        assert_eq!(
            (status.uid(), status.mode() & 0o777),
            (USER, 0o700),
            "{path}"
        );
    }
    assert_eq!(
        fs::read_dir(bench.path("runtime/mini/running"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        fs::read_dir(bench.path("data/mini/containers"))
            .unwrap()
            .count(),
        0
    );
    // Relative ones are invalid.
    let line = plain(&bench, &["XDG_RUNTIME_DIR=here"], &["run", bench.busybox()])
        .output()
        .one_line(125);
    assert!(
        line.starts_with("XDG_RUNTIME_DIR=\"here\": not usable"),
        "{line}"
    );
}

#[test]
fn a_directory_in_tmp_that_somebody_else_made_is_refused() {
    let Some(bench) = bench("squat") else { return };
    let home = bench.dir("home");
    chown(&home, Some(USER), Some(USER)).unwrap();
    // Another /tmp, so that nothing happens to the machine's.
    for make in [
        "mkdir -m 700 /tmp/mini-1000",
        "mkdir -m 777 /tmp/mini-1000",
        "mkdir -m 777 /tmp/mini-1000; chown 1000 /tmp/mini-1000",
        "mkdir /tmp/other; chmod 700 /tmp/other; chown 1000 /tmp/other; ln -s other /tmp/mini-1000",
        "ln -s /tmp/nothing /tmp/mini-1000",
        "echo > /tmp/mini-1000",
        "mkdir -m 700 /tmp/mini-1000; chown 1000 /tmp/mini-1000",
        "true",
    ] {
        let script = format!(
            "cp $MINI mini; cp $BUSYBOX busybox.tar; mount -t tmpfs -o mode=1777 none /tmp; {make}
             unset MINI_RUN MINI_ROOT XDG_RUNTIME_DIR XDG_DATA_HOME; export HOME={home}
             setpriv --reuid 1000 --regid 1000 --clear-groups ./mini run busybox.tar -- echo ran; ls -A /tmp/mini-1000; ls -A /tmp/mini-1000/running; rm -r /tmp/mini-1000"
        );
        let output = bench.private_shell(&script).output();
        match make {
            "true" | "mkdir -m 700 /tmp/mini-1000; chown 1000 /tmp/mini-1000" => {
                // It has served, and the user's own directories stay for the next one.
                assert_eq!(output.ok(), "ran\nrunning\n", "{make}");
            }
            _ => {
                let line = output.one_line(125);
                assert!(line.contains("\"/tmp/mini-1000\""), "{make}: {line}");
            }
        }
    }
}

#[test]
fn links_in_the_users_directories_lead_nowhere() {
    let Some(bench) = bench("links") else { return };
    // A dead container's directory that is a link to somebody's files: they must survive the sweep.
    let victim = bench.dir("victim");
    bench.file("victim/file", "precious");
    for place in ["run", "store/containers"] {
        fs::create_dir_all(bench.path(place)).unwrap();
        fs::set_permissions(bench.path(place), fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&victim, bench.path(place).join("0123456789ab")).unwrap();
    }
    Run::new("chown")
        .args(&[
            "-R",
            "-h",
            "1000:1000",
            &bench.text("run"),
            &bench.text("store"),
        ])
        .output()
        .ok();
    rootless(&bench, &["run", bench.busybox(), "--", "true"])
        .output()
        .ok();
    bench.run(&[], &["true"]).output();
    assert_eq!(
        fs::read_to_string(bench.path("victim/file")).unwrap(),
        "precious"
    );
    for place in ["run", "store/containers"] {
        fs::remove_file(bench.path(place).join("0123456789ab")).unwrap();
    }
}

#[test]
fn root_of_a_user_namespace_is_root_enough() {
    let Some(bench) = bench("fakeroot") else {
        return;
    };
    // As inside rootless podman: capabilities, but only over what belongs to the namespace.
    let mini = mini();
    let run = as_user(
        &bench,
        &[
            "PATH=/usr/bin:/bin",
            "unshare",
            "-Urm",
            mini.to_str().unwrap(),
            "run",
            bench.busybox(),
            "--",
            "id",
            "-u",
        ],
    );
    assert_eq!(run.output().ok(), "0\n");
}

#[test]
fn the_container_cannot_change_minis_own_binary_through_its_init() {
    let Some(bench) = bench("exe") else {
        return;
    };
    // The user's own copy: as its owner, root inside may change its mode and times, if it can name it.
    let own = bench.path("own-mini");
    fs::copy(mini(), &own).unwrap();
    chown(&own, Some(USER), Some(USER)).unwrap();
    let before = fs::metadata(&own).unwrap();
    let script = "chmod 4777 /proc/1/exe; touch -d 200101010000 /proc/1/exe; cat /proc/1/environ /proc/1/maps; true";
    let image = bench.busybox().to_owned();
    let words = [
        own.to_str().unwrap(),
        "run",
        &image,
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = as_user(&bench, &words).output().expect(0);
    assert_eq!(output.stdout, "");
    assert_eq!(
        output.stderr.matches("Permission denied").count(),
        4,
        "{}",
        output.stderr
    );
    let after = fs::metadata(&own).unwrap();
    assert_eq!(before.permissions(), after.permissions());
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}
