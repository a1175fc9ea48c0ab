//! Containers that share namespaces, `--pid`, `--ipc`, `--net container:ID`: what they see of each other, how they end, what
//! is refused, and that the one which is there gets nothing of mini's when another one comes.

mod support;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::thread;
use std::time::Duration;

use support::{Bench, Report, Run, eventually, guest, have, have_program, is_core, kill, mini};

/// The core cannot do this.
fn bench(name: &str) -> Option<Bench> {
    if is_core() {
        return None;
    }
    Bench::new(name)
}

const PID: &str = "--pid=container:first";
const IPC: &str = "--ipc=container:first";
const NET: &str = "--net=container:first";
const ALL: [&str; 3] = [PID, IPC, NET];

/// Starts a container in the background, of which nothing stays but what is asked for.
#[track_caller]
fn start(bench: &Bench, name: &str, options: &[&str], script: &str) -> String {
    start_with(&|args| bench.mini(args), bench, name, options, script)
}

#[track_caller]
fn start_with(
    mini: &dyn Fn(&[&str]) -> Run,
    bench: &Bench,
    name: &str,
    options: &[&str],
    script: &str,
) -> String {
    let volume = format!("{}:/guest:ro", guest());
    let words = [
        &["run", "-d", "--rm", "--name", name, "-v", &volume],
        options,
        &[bench.busybox(), "--", "sh", "-c", script],
    ];
    let id = mini(&words.concat()).output().ok();
    id.trim_end().to_owned()
}

#[track_caller]
fn first(bench: &Bench, options: &[&str]) -> String {
    start(bench, "first", options, "exec sleep 1000")
}

#[track_caller]
fn exec(bench: &Bench, name: &str, script: &str) -> String {
    let run = bench.mini(&["exec", name, "sh", "-c", script]);
    run.output().ok()
}

/// What it has written so far.
fn logged(bench: &Bench, name: &str) -> String {
    bench.mini(&["logs", name]).output().stdout
}

#[track_caller]
fn end(bench: &Bench, names: &[&str]) {
    for name in names {
        bench.mini(&["rm", "-f", name]).output().ok();
    }
    assert_eq!(bench.mini(&["ps", "-aq"]).output().ok(), "");
}

/// A number from a container's record.
fn recorded(bench: &Bench, id: &str, key: &str) -> i32 {
    let record = fs::read_to_string(bench.path(&format!("run/running/{id}/record"))).unwrap();
    let mut lines = record
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    lines.next().unwrap().parse().unwrap()
}

const NAMESPACES: [&str; 7] = ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup"];

/// The namespaces that two containers have in common.
fn common(one: &Report, other: &Report) -> Vec<&'static str> {
    let same = |name: &&str| {
        let key = format!("ns {name}");
        one.get(&key) == other.get(&key)
    };
    NAMESPACES.into_iter().filter(same).collect()
}

#[test]
fn what_is_asked_for_is_shared_and_nothing_else() {
    let Some(bench) = bench("share") else { return };
    first(&bench, &[]);
    let theirs = || Report(exec(&bench, "first", "/guest"));
    for (options, shared) in [
        (&[PID][..], &["user", "pid"][..]),
        (&[IPC], &["user", "ipc"]),
        (&[NET], &["user", "net"]),
        (&ALL, &["user", "pid", "net", "ipc"]),
        (&[NET, "--no-init"], &["user", "net"]),
        (&[PID, "--no-init", "-u", "5:6"], &["user", "pid"]),
        (
            &[PID, "--uts", "host", "--cgroupns", "host"],
            &["user", "pid"],
        ),
    ] {
        let (ours, theirs) = (bench.report(options), theirs());
        assert_eq!(common(&ours, &theirs), shared, "{options:?}");
        assert_eq!(ours.ids(), theirs.ids(), "{options:?}");
        // Its own file systems of what it shares.
        for (at, kind) in [
            ("/proc", "proc"),
            ("/sys", "sysfs"),
            ("/dev/mqueue", "mqueue"),
        ] {
            assert_eq!(ours.mount(at).kind, kind, "{options:?}");
        }
        assert_eq!(ours.all("fd").len(), 3, "{options:?}");
    }
    // As protected as any other.
    let rights = |report: &Report| {
        let keys = [
            "CapBnd",
            "CapPrm",
            "CapEff",
            "CapInh",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
        ];
        keys.map(|key| report.get(key).to_owned())
    };
    assert_eq!(rights(&bench.report(&ALL)), rights(&bench.report(&[])));
    end(&bench, &["first"]);
}

#[test]
fn they_see_each_others_processes_memory_and_network() {
    let Some(bench) = bench("share-see") else {
        return;
    };
    let script =
        "echo one > /dev/shm/text; echo 192.0.2.7 far >> /etc/hosts; httpd -p 127.0.0.1:80 -h /etc
        trap 'echo got it > /dev/shm/signal' USR1; echo set; while :; do sleep 0.05; done";
    start(&bench, "first", &["--hostname", "one"], script);
    assert!(eventually(|| logged(&bench, "first") == "set\n"));
    let script = "kill -0 1 && kill -USR1 2 && hostname; cat /dev/shm/text; tail -n 1 /etc/hosts; wget -qO- 127.0.0.1/hostname
        until cat /dev/shm/signal 2>/dev/null; do sleep 0.05; done; echo two > /dev/shm/text; ps | grep -c 'mini [i]nit'";
    let options = [&ALL[..], &["--hostname", "two"]].concat();
    let text = bench.shell(&options, script).ok();
    assert_eq!(text, "two\none\n192.0.2.7 far\none\ngot it\n2\n");
    assert_eq!(exec(&bench, "first", "cat /dev/shm/text"), "two\n");
    // Without them it sees nothing of all that.
    let text = bench
        .shell(&[], "kill -0 2; ls /dev/shm; wget -qO- 127.0.0.1/hostname")
        .stdout;
    assert_eq!(text, "");
    // Message queues and shared memory of System V go with ipc.
    let ids = "cat /proc/sysvipc/shm | wc -l";
    assert_eq!(bench.shell(&[IPC], ids).ok(), exec(&bench, "first", ids));
    end(&bench, &["first"]);
}

#[test]
fn three_containers_and_exec_into_each() {
    let Some(bench) = bench("share-three") else {
        return;
    };
    let id = first(&bench, &[]);
    start(&bench, "second", &ALL, "exec sleep 1000");
    let through = ["--net=container:second", "--pid=container:second"];
    start(&bench, "third", &through, "exec sleep 1000");
    let see = |name: &str| Report(exec(&bench, name, "/guest"));
    let (first, second, third) = (see("first"), see("second"), see("third"));
    assert_eq!(common(&first, &second), ["user", "pid", "net", "ipc"]);
    assert_eq!(common(&first, &third), ["user", "pid", "net"]);
    assert_eq!(common(&second, &third), ["user", "pid", "net"]);
    assert_eq!((first.ids(), first.ids()), (second.ids(), third.ids()));
    // An exec goes to its own container's root and cgroup.
    exec(&bench, "second", "touch /second");
    assert_eq!(exec(&bench, "second", "ls -d /se*"), "/second\n");
    assert_eq!(exec(&bench, "third", "ls -d /se* 2>/dev/null; true"), "");
    // What is known of them.
    let inspected = bench.mini(&["inspect", "second"]).output().ok();
    assert!(
        inspected.contains(&format!("\"joined\":\"{id}\"")),
        "{inspected}"
    );
    assert_eq!(inspected.matches("\"inside\":").count(), 2, "{inspected}");
    let inspected = bench.mini(&["inspect", "first"]).output().ok();
    assert!(inspected.contains("\"joined\":null"), "{inspected}");
    // A command in one ends with that one.
    let mut running = bench
        .mini(&["exec", "second", "sh", "-c", "echo ready; sleep 1000"])
        .start();
    running.until("ready");
    bench.mini(&["stop", "-t", "0", "second"]).output().ok();
    assert_ne!(running.wait().status, 0);
    assert_eq!(exec(&bench, "third", "ps | grep -c '[s]leep 1000'"), "2\n");
    end(&bench, &["third", "first"]);
}

#[test]
fn the_status_is_the_commands() {
    let Some(bench) = bench("share-status") else {
        return;
    };
    first(&bench, &[]);
    for options in [&ALL[..], &[NET], &[PID, "--no-init"], &[IPC, "-t"]] {
        assert_eq!(bench.shell(options, "exit 7").status, 7, "{options:?}");
        assert_eq!(
            bench.shell(options, "kill -9 $$").status,
            137,
            "{options:?}"
        );
        assert_eq!(
            bench.run(options, &["nothing"]).output().status,
            127,
            "{options:?}"
        );
    }
    // Nothing of it stays in the other's pid namespace.
    for round in 0..10 {
        let script = "sleep 1000 & (setsid sleep 1000 &); (setsid sh -c 'sleep 1000 & sleep 1000' &); sleep 0.02";
        let options: &[&str] = if round % 2 == 0 {
            &[PID]
        } else {
            &[PID, "--no-init"]
        };
        bench.shell(options, script).expect(0);
        let gone = || exec(&bench, "first", "ps | grep -c '[s]leep'") == "1\n";
        assert!(eventually(gone), "{}", exec(&bench, "first", "ps"));
    }
    end(&bench, &["first"]);
}

#[test]
fn either_may_end_first() {
    let Some(bench) = bench("share-ends") else {
        return;
    };
    let sleep = "sleep 1000 & (setsid sleep 1000 &); exec sleep 1000";
    // The one that shares the other's processes ends with it, one that shares its network does not.
    first(&bench, &[]);
    let mut pids = bench
        .run(&[PID], &["sh", "-c", "echo ready; sleep 1000"])
        .start();
    pids.until("ready");
    start(&bench, "net", &[NET, IPC], sleep);
    let before = Report(exec(&bench, "net", "/guest"));
    bench.mini(&["stop", "-t", "0", "first"]).output().ok();
    assert_eq!(pids.wait().status, 137);
    let after = Report(exec(&bench, "net", "/guest"));
    assert_eq!(
        (common(&before, &after).len(), before.ids()),
        (7, after.ids())
    );
    assert_eq!(
        exec(
            &bench,
            "net",
            "echo x > /dev/shm/x; tail -n 1 /etc/hosts | wc -l"
        ),
        "1\n"
    );
    // Its ids are still nobody else's.
    assert!(!can_have(before.base()), "{}", before.base());
    end(&bench, &["net"]);
    // Another test's container may have them for a moment.
    assert!(eventually(|| can_have(before.base())), "{}", before.base());
    // The other way round.
    first(&bench, &[]);
    start(&bench, "pids", &ALL, sleep);
    bench.mini(&["stop", "-t", "0", "pids"]).output().ok();
    assert_eq!(exec(&bench, "first", "ps | grep -c '[s]leep'"), "1\n");
    end(&bench, &["first"]);
}

/// Whether the range of ids that begins with this one could be had by another container.
fn can_have(base: u32) -> bool {
    let path = std::path::Path::new("/run/mini/ids");
    let (first, count) = (0x7739_0000, 65536);
    // struct flock: type, whence, start, length, pid.
    let script = format!(
        "import fcntl,struct\nf=open('{}','r+b')\ntry:\n fcntl.fcntl(f,37,struct.pack('hhqqi4x',1,0,{},1,0))\n print('yes')\nexcept OSError:\n print('no')",
        path.display(),
        (base - first) / count,
    );
    let output = Run::new("python3").args(&["-c", &script]).output().ok();
    output == "yes\n"
}

#[test]
fn sigkill_of_either_supervisor_leaves_nothing() {
    let Some(bench) = bench("share-kill") else {
        return;
    };
    let sleep = "sleep 1000 & (setsid sleep 1000 &); exec sleep 1000";
    for options in [&ALL[..], &[PID, "--no-init"], &[NET]] {
        for late in [true, false] {
            let one = first(&bench, &[]);
            let two = start(&bench, "second", options, sleep);
            let victim = if late { &two } else { &one };
            kill(recorded(&bench, victim, "supervisor"), 9);
            if late {
                let gone = || exec(&bench, "first", "ps | grep -c '[s]leep'") == "1\n";
                assert!(
                    eventually(gone),
                    "{options:?} {}",
                    exec(&bench, "first", "ps")
                );
                bench.mini(&["rm", "-f", "first"]).output().ok();
            } else if options[0] == NET {
                assert_eq!(exec(&bench, "second", "echo on"), "on\n");
                bench.mini(&["rm", "-f", "second"]).output().ok();
            }
            let gone = || bench.mini(&["ps", "-aq"]).output().ok().is_empty();
            assert!(eventually(gone), "{options:?} {late}");
            bench.assert_nothing_left_but(&[]);
        }
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let Some(bench) = bench("share-refused") else {
        return;
    };
    let id = first(&bench, &[]);
    let own = start(&bench, "own", &["--userns", "host"], "exec sleep 1000");
    let before = bench.files();
    let fails = |options: &[&str], line: &str| {
        bench.run(options, &["true"]).output().fails(125, line);
    };
    let none = "no running container (mini ps lists those that are running)";
    fails(
        &["--net", "container:nobody"],
        &format!("\"nobody\": {none}"),
    );
    fails(
        &["--name", "me", "--pid", "container:me"],
        &format!("\"me\": {none}"),
    );
    let one = "an ID is needed, and for all such options the same";
    fails(
        &["--net", "container:"],
        &format!("--net \"container:\": {one}"),
    );
    fails(
        &[NET, "--pid", "container:own"],
        &format!("--pid \"container:own\": {one}"),
    );
    fails(
        &["--uts", "container:first"],
        "--uts \"container:first\": not host or private",
    );
    fails(&["--net", "bogus"], "--net \"bogus\": not host or none");
    fails(
        &[PID, "--time"],
        "--time and container:ID exclude each other",
    );
    for (option, key) in [(NET, "net.ipv4.ip_forward=1"), (IPC, "kernel.shmmni=5")] {
        let line = format!("--sysctl {key:?}: its namespace is another container's");
        fails(&[option, "--sysctl", key], &line);
    }
    let another = |id| format!("the user namespace is that of container {id}, another one");
    fails(
        &[NET, "--userns", "host"],
        &format!("--userns host: {}", another(&id)),
    );
    let hint = "--privileged means it unless --userns is given";
    fails(
        &[NET, "--privileged"],
        &format!("--userns host: {} ({hint})", another(&id)),
    );
    let auto = ["--net", "container:own", "--userns", "auto"];
    fails(&auto, &format!("--userns auto: {}", another(&own)));
    // What belongs to a namespace of its own may be set.
    let (key, read) = ("net.ipv4.ip_forward=1", "cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(bench.shell(&[PID, "--sysctl", key], read).ok(), "1\n");
    assert_eq!(bench.shell(&[NET, "--userns", "auto"], "true").ok(), "");
    assert_eq!(bench.files(), before);
    // One that has ended.
    let id = bench
        .run(&["-d", "--name", "over"], &["true"])
        .output()
        .ok();
    bench.mini(&["wait", "over"]).output().ok();
    fails(&["--net", "container:over"], &format!("\"over\": {none}"));
    fails(
        &["--net", &format!("container:{}", id.trim_end())],
        &format!("\"{}\": {none}", id.trim_end()),
    );
    end(&bench, &["over", "own", "first"]);
}

#[test]
fn what_the_other_shares_with_the_host_is_the_hosts() {
    let Some(bench) = bench("share-host") else {
        return;
    };
    let host = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    let shared = |report: &Report, name: &str| {
        report.get(&format!("ns {name}")) == host(name).to_str().unwrap()
    };
    first(&bench, &["--net", "host", "--ipc", "host"]);
    let report = bench.report(&[NET, IPC]);
    assert!(shared(&report, "net") && shared(&report, "ipc") && !shared(&report, "pid"));
    let report = bench.report(&ALL);
    assert!(shared(&report, "net") && shared(&report, "ipc") && !shared(&report, "pid"));
    assert_eq!(
        common(&report, &Report(exec(&bench, "first", "/guest"))),
        ["user", "pid", "net", "ipc"]
    );
    let text = bench
        .shell(&ALL, "cat /etc/hosts; ls /dev/shm | wc -l")
        .ok();
    assert!(
        text.starts_with(&fs::read_to_string("/etc/hosts").unwrap()),
        "{text}"
    );
    end(&bench, &["first"]);
    // And if it has no user namespace, there is none.
    first(&bench, &["--userns", "host"]);
    let report = bench.report(&ALL);
    assert!(shared(&report, "user") && !shared(&report, "net"));
    assert_eq!(
        common(&report, &Report(exec(&bench, "first", "/guest"))),
        ["user", "pid", "net", "ipc"]
    );
    end(&bench, &["first"]);
}

#[test]
fn volumes_directories_and_kept_changes_have_the_others_ids() {
    let Some(mut bench) = bench("share-ids") else {
        return;
    };
    bench.keeps = true;
    first(&bench, &[]);
    let dir = bench.dir("dir");
    let image = bench.busybox_directory();
    let volume = format!("{dir}:/v");
    for store in ["index", "unpack", "tmpfs"] {
        let options = [&ALL[..], &["-v", &volume, "--store", store]].concat();
        let text = bench
            .shell(
                &options,
                "touch /v/new /x; stat -c %u /v /v/new / /x /bin; rm /v/new",
            )
            .ok();
        assert_eq!(text, "0\n0\n0\n0\n0\n", "{store}");
    }
    let words = [
        "run",
        "--keep",
        NET,
        &image,
        "--",
        "sh",
        "-c",
        "chown 7 /etc; stat -c %u /etc",
    ];
    assert_eq!(bench.mini(&words).output().expect(0).stdout, "7\n");
    let mut kept = fs::read_dir(bench.path("store/kept")).unwrap();
    let upper = kept.next().unwrap().unwrap().path().join("upper/etc");
    assert_eq!(fs::metadata(upper).unwrap().uid(), 7);
    end(&bench, &["first"]);
}

fn as_user(bench: &Bench, args: &[&str]) -> Run {
    let words = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let run = bench.program("setpriv").args(&words);
    run.args(&[mini().to_str().unwrap()]).args(args)
}

#[test]
fn without_root_as_well() {
    let Some(bench) = bench("share-rootless") else {
        return;
    };
    if !have_program("setpriv") {
        return;
    }
    chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    let run = |args: &[&str]| as_user(&bench, args);
    for own in [&[][..], &["--userns", "keep-id"]] {
        let script = "echo one > /dev/shm/text; sleep 1000 & exec sleep 1000";
        start_with(&run, &bench, "first", own, script);
        let words = [&["run"], &ALL[..], &[bench.busybox(), "--", "sh", "-c"]].concat();
        let script =
            "cat /dev/shm/text; ps | grep -c '[s]leep'; id -u; tr -s ' ' < /proc/self/uid_map";
        let text = run(&[&words[..], &[script]].concat()).output().ok();
        let id = if own.is_empty() { 0 } else { 1000 };
        assert_eq!(text, format!("one\n2\n{id}\n {id} 1000 1\n"));
        let volume = format!("{}:/guest:ro", guest());
        let words = ["run", "-v", &volume, NET, bench.busybox(), "--", "/guest"];
        let report = Report(run(&words).output().ok());
        let theirs = Report(run(&["exec", "first", "/guest"]).output().ok());
        assert_eq!(common(&report, &theirs), ["user", "net"]);
        start_with(&run, &bench, "second", &ALL, "exec sleep 1000");
        let text = run(&["exec", "second", "ps"]).output().ok();
        assert_eq!(text.matches("sleep 1000").count(), 3, "{text}");
        run(&["rm", "-f", "second"]).output().ok();
        let other = if own.is_empty() { "keep-id" } else { "host" };
        let words = ["run", "--userns", other, NET, bench.busybox(), "--", "true"];
        let line = run(&words).output().one_line(125);
        assert!(
            line.starts_with(&format!(
                "--userns {other}: the user namespace is that of container "
            )),
            "{line}"
        );
        run(&["rm", "-f", "first"]).output().ok();
    }
    // It would see the supervisor, which is in its user namespace.
    start_with(&run, &bench, "first", &["--pid", "host"], "exec sleep 1000");
    let line = run(&["run", NET, bench.busybox(), "--", "true"])
        .output()
        .one_line(125);
    assert!(line.contains(" sees the host's processes"), "{line}");
    run(&["rm", "-f", "first"]).output().ok();
}

/// What a container can do with one that comes into its pid namespace, before that one's command is executed: nothing.
#[track_caller]
fn assert_not_trapped(
    bench: &Bench,
    mini: &dyn Fn(&[&str]) -> Run,
    options: &[&str],
    rounds: usize,
) {
    let volume = format!("{}:/guest:ro", guest());
    let image = bench.busybox();
    let words = [
        &["run", "--name", "first", "-v", &volume],
        options,
        &[image, "--", "/guest", "trap", "/end"],
    ];
    let mut trap = mini(&words.concat()).start();
    trap.until("ready");
    for round in 0..rounds {
        let more: &[&str] = [&[][..], &["-t"], &["--no-init"], &["--trace"]][round % 4];
        let userns: &[&str] = match options.contains(&"--privileged") {
            true => &["--userns", "host"],
            false => &[],
        };
        let words = [
            &["run"],
            &ALL[..],
            userns,
            &["-v", &volume],
            more,
            &[image, "--", "/guest", "sleep", "0.02"],
        ];
        mini(&words.concat()).output().expect(0);
    }
    mini(&["exec", "first", "touch", "/end"]).output();
    let report = Report(trap.wait().expect(0).stdout);
    let mut trapped = report.all("trapped");
    // /proc/PID/status may be read by everybody.
    trapped.retain(|what| !what.starts_with("rights "));
    // The other one's files are not its own.
    trapped.retain(|what| {
        !["root of", "cwd of"]
            .iter()
            .any(|known| what.starts_with(known))
    });
    assert_eq!(trapped, [""; 0], "{options:?}");
    let number = |key: &str| report.get(key).parse::<usize>().unwrap();
    // It has seen what there is to see, and was able to use it.
    assert!(
        number("seen") >= rounds && number("early") > 0 && number("reached") > 0,
        "{options:?}: {}",
        report.0
    );
}

#[test]
fn a_hostile_container_gets_nothing_of_minis() {
    let Some(bench) = bench("share-trap") else {
        return;
    };
    let run = |args: &[&str]| bench.mini(args);
    assert_not_trapped(&bench, &run, &[], 60);
    let all = ["--cap-add", "ALL", "--seccomp", "unconfined", "--no-init"];
    assert_not_trapped(&bench, &run, &all, 60);
}

#[test]
fn nor_does_one_of_the_same_user() {
    let Some(bench) = bench("share-trap-rootless") else {
        return;
    };
    if !have_program("setpriv") {
        return;
    }
    chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    let run = |args: &[&str]| as_user(&bench, args);
    assert_not_trapped(&bench, &run, &[], 40);
    let all = ["--cap-add", "ALL", "--seccomp", "unconfined", "--no-init"];
    assert_not_trapped(&bench, &run, &all, 40);
}

/// What is taken out of the other's mounts is looked for with the rights of its root, inside.
#[test]
fn paths_that_lead_out_lead_nowhere() {
    let Some(bench) = bench("share-paths") else {
        return;
    };
    let secret = bench.dir("secret");
    bench.file("secret/key", "secret");
    chown(&secret, Some(0), Some(0)).unwrap();
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let volume = format!("{secret}:/secret:noidmap");
    for (path, link) in [
        ("/etc/hosts", "/secret/key"),
        ("/etc/hosts", "/proc/1/root/etc/shadow"),
        ("/etc/resolv.conf", "/../../../../etc/mini-nothing"),
    ] {
        let script = format!(
            "umount {path}; rm -f {path}; ln -s {link} {path}; echo linked; exec sleep 1000"
        );
        let options = ["--cap-add", "ALL", "--seccomp", "unconfined", "-v", &volume];
        start(&bench, "first", &options, &script);
        assert!(eventually(|| logged(&bench, "first") == "linked\n"));
        let line = bench
            .shell(&[NET], "cat /etc/hosts /etc/resolv.conf")
            .one_line(125);
        assert!(
            line.contains("setns({ns/mnt}, CLONE_NEWNS), open_tree("),
            "{link}: {line}"
        );
        end(&bench, &["first"]);
    }
}

#[test]
fn the_trace_has_the_lines_of_the_dry_run() {
    let Some(bench) = bench("share-trace") else {
        return;
    };
    first(&bench, &[]);
    let words = [
        &ALL[..],
        &["--name", "second", bench.busybox(), "--", "true"],
    ]
    .concat();
    let plan = bench.mini(&["run", "--dry-run"]).args(&words).output().ok();
    let trace = bench
        .mini(&["run", "--trace"])
        .args(&words)
        .output()
        .expect(0)
        .stderr;
    // Each process does its part in the plan's order.
    for actor in ["supervisor ", "joiner ", "init ", "command "] {
        let lines = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| line.starts_with(actor));
            lines
                .map(|line| without_digits(line.split(" <").next().unwrap()))
                .collect()
        };
        let (done, planned) = (lines(&trace), lines(&plan));
        assert!(planned.len() > 5);
        assert_eq!(done, planned);
    }
    end(&bench, &["first"]);
}

/// Without the container's id.
fn without_digits(text: &str) -> String {
    let words = text.split_inclusive(['/', '"', '-']);
    let is_id =
        |word: &str| word.len() >= 12 && word[..12].bytes().all(|byte| byte.is_ascii_hexdigit());
    words
        .map(|word| if is_id(word) { &word[12..] } else { word })
        .collect()
}

/// The calls of these kinds in a line of a plan or of strace, each with the flags that it names.
fn calls(text: &str) -> Vec<String> {
    let known = [
        "unshare(",
        "setns(",
        "pivot_root(",
        "umount2(",
        "open_tree(",
        "prctl(PR_SET_DUMPABLE",
        "clone3(",
    ];
    let mut found = Vec::new();
    for (at, _) in text.match_indices(|c: char| c.is_ascii_lowercase()) {
        let begins = at == 0
            || !text.as_bytes()[at - 1].is_ascii_alphanumeric() && text.as_bytes()[at - 1] != b'_';
        let Some(name) = known
            .iter()
            .find(|name| begins && text[at..].starts_with(**name))
        else {
            continue;
        };
        let rest = &text[at + name.len()..];
        let end = rest.find(')').unwrap_or(rest.len());
        let words = rest[..end].split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let flags = [
            "CLONE_NEW",
            "CLONE_PARENT",
            "MNT_",
            "OPEN_TREE_CLONE",
            "SUID_DUMP_DISABLE",
        ];
        let is_flag = |word: &&str| {
            flags.iter().any(|flag| word.starts_with(flag)) && *word != "OPEN_TREE_CLOEXEC"
        };
        let mut words: Vec<&str> = words.filter(is_flag).collect();
        words.sort_unstable();
        found.push(format!("{name}{}", words.join("|")));
    }
    found
}

#[test]
fn strace_sees_what_the_plan_says() {
    let Some(bench) = bench("share-strace") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    first(&bench, &[]);
    let log = bench.text("log");
    let kinds = "trace=unshare,setns,pivot_root,umount2,open_tree,prctl,clone3,execve";
    let strace = [
        "-f",
        "-qq",
        "-s",
        "4096",
        "-e",
        "signal=none",
        "-o",
        &log,
        "-e",
        kinds,
    ];
    for options in [
        &ALL[..],
        &[NET],
        &[IPC, "--no-init"],
        &[PID, "--uts", "host"],
    ] {
        let run = bench.program("strace").args(&strace);
        let run = run.args(&[mini().to_str().unwrap(), "run", "--trace"]);
        let run = run.args(options).args(&[bench.busybox(), "--", "true"]);
        let trace = run.output().expect(0).stderr;
        let text = fs::read_to_string(&log).unwrap();
        let mut seen: std::collections::BTreeMap<&str, String> = Default::default();
        let mut executed = Vec::new();
        for line in text.lines() {
            let (pid, call) = line.split_once(' ').unwrap();
            // The rest of an interrupted line is told from its beginning.
            let call = call.trim_start().replace(" <unfinished", ") <");
            if call.starts_with("execve(") {
                executed.push(pid);
            } else if !call.starts_with("<... ") && !executed[1..].contains(&pid) {
                seen.entry(pid).or_default().push_str(&(call + " "));
            }
        }
        let of = |holds: &dyn Fn(&str) -> bool| -> Vec<Vec<String>> {
            seen.values()
                .filter(|text| holds(text))
                .map(|text| calls(text))
                .collect()
        };
        let planned = |actor: &str| -> Vec<String> {
            let lines = trace.lines().filter(|line| line.starts_with(actor));
            lines
                .flat_map(|line| calls(line.split(" <").next().unwrap()))
                .collect()
        };
        let joiner = of(&|text| text.contains("pivot_root(") && text.contains("setns("));
        assert_eq!(joiner, [planned("joiner ")], "{options:?}");
        let inits = of(&|text| text.contains("pivot_root(") && !text.contains("setns("));
        let mut init = planned("init ");
        init.extend(
            planned("command ")
                .into_iter()
                .filter(|_| options.contains(&"--no-init")),
        );
        assert_eq!(inits, [init], "{options:?}");
        // Each mount is taken by a process of its own.
        let takers = of(&|text| text.contains("open_tree(") && text.contains("SUID_DUMP_DISABLE"));
        let lines: Vec<_> = trace
            .lines()
            .filter(|line| line.contains(" open_tree(\"/"))
            .collect();
        assert_eq!(takers.len(), lines.len(), "{options:?}");
        for (taker, line) in takers.iter().zip(&lines) {
            assert_eq!(taker[0], "prctl(PR_SET_DUMPABLESUID_DUMP_DISABLE");
            assert_eq!(taker[1..], calls(line)[1..], "{options:?}");
        }
    }
    end(&bench, &["first"]);
}

#[test]
fn it_ends_at_any_moment() {
    let Some(bench) = bench("share-race") else {
        return;
    };
    for round in 0..24 {
        let one = first(&bench, &[]);
        let mut words = [
            &["run"],
            &ALL[..],
            &[bench.busybox(), "--", "sleep", "1000"],
        ]
        .concat();
        words.retain(|word| round % 3 > 0 || *word == NET || !word.starts_with("--"));
        let other = bench.mini(&words).start();
        thread::sleep(Duration::from_micros(round * 700));
        match round % 2 {
            0 => kill(recorded(&bench, &one, "supervisor"), 9),
            _ => drop(bench.mini(&["stop", "-t", "0", "first"]).output()),
        }
        thread::sleep(Duration::from_millis(20));
        // It has ended with the other, or failed; with its own network alone it goes on.
        other.kill(15);
        let output = other.wait();
        // -15: mini has been killed before it had anything to undo.
        assert!([125, 137, 143, -15].contains(&output.status), "{output:?}");
        assert!(
            output.status != 125 || output.stderr.starts_with("mini: "),
            "{output:?}"
        );
        assert!(output.stderr.lines().count() <= 1, "{output:?}");
        bench.mini(&["ps"]).output().ok();
        assert!(eventually(|| bench
            .mini(&["ps", "-aq"])
            .output()
            .ok()
            .is_empty()));
    }
    // And the one that comes is killed itself.
    first(&bench, &[]);
    for round in 0..16 {
        let options: &[&str] = if round % 2 == 0 {
            &ALL
        } else {
            &[PID, "--no-init"]
        };
        let other = bench
            .run(options, &["sh", "-c", "sleep 1000 & sleep 1000"])
            .start();
        thread::sleep(Duration::from_micros(round * 1000));
        other.kill(9);
        other.wait();
        bench.mini(&["ps"]).output().ok();
        let gone = || exec(&bench, "first", "ps | grep -c '[s]leep'") == "1\n";
        assert!(eventually(gone), "{}", exec(&bench, "first", "ps"));
    }
    end(&bench, &["first"]);
}

#[test]
fn older_kernels_do_as_well() {
    let Some(bench) = bench("share-older") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    first(&bench, &[]);
    let without = |calls: &str, options: &[&str]| {
        let (trace, inject) = (
            format!("trace={calls}"),
            format!("inject={calls}:error=ENOSYS"),
        );
        let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let run = bench.program("strace").args(&strace);
        let run = run.args(&[mini().to_str().unwrap(), "run"]).args(options);
        run.args(&[
            bench.busybox(),
            "--",
            "sh",
            "-c",
            "readlink /proc/self/ns/net; ps | wc -l; exit 3",
        ])
        .output()
    };
    let plain = without("pause", &ALL).expect(3).stdout;
    for calls in [
        "pidfd_open",
        "pidfd_open,clone3,close_range",
        "openat2,seccomp",
    ] {
        assert_eq!(without(calls, &ALL).expect(3).stdout, plain, "{calls}");
    }
    // There is no way to a mount of another namespace without it.
    let line = without("open_tree", &[NET]).one_line(125);
    assert!(
        line.contains("open_tree(\"/etc/hosts\", OPEN_TREE_CLONE)"),
        "{line}"
    );
    end(&bench, &["first"]);
}

#[test]
fn without_root_a_range_of_ids_is_shared() {
    let Some(bench) = bench("share-range") else {
        return;
    };
    let there = fs::exists("/etc/subuid").unwrap();
    if !have_program("newuidmap") || !have("user", there, "there is no /etc/subuid") {
        return;
    }
    chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    let script = "cp /etc/passwd .; grep -v :1000: /etc/passwd > passwd; echo minitest:x:1000:1000::/:/bin/sh >> passwd
        echo minitest:200000:65536 > subuid; cp subuid subgid
        for file in passwd subuid subgid; do mount --bind $file /etc/$file; done
        mini() { setpriv --reuid 1000 --regid 1000 --clear-groups $MINI \"$@\"; }
        mini run -d --rm --name first -u 5:6 $BUSYBOX -- sleep 1000 > /dev/null
        mini run --pid container:first --net container:first $BUSYBOX -- sh -c \
            'id -u; ps -o user,args | grep -c \"[s]leep 1000\"; tr -s \" \" < /proc/self/uid_map; touch /x; chown 7:8 /x; stat -c %u:%g /x'
        mini run --ipc container:first -u 9 $BUSYBOX -- sh -c 'id -u; touch /dev/shm/x; stat -c %u /dev/shm/x'
        mini exec -u 0 first stat -c %u /dev/shm/x
        mini rm -f first";
    let text = bench.private_shell(script).output().ok();
    assert_eq!(text, "0\n1\n 0 1000 1\n 1 200000 65536\n7:8\n9\n9\n9\n");
}

/// Whatever fails or dies on the way in, mini says so in one line, and nothing of it is left with the other container.
#[test]
fn an_error_or_a_kill_at_every_step_is_undone() {
    let Some(bench) = bench("share-steps") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    first(&bench, &[]);
    let calls = [
        ("setns", 5),
        ("unshare", 3),
        ("pivot_root", 1),
        ("umount2", 2),
        ("open_tree", 2),
        ("move_mount", 4),
        ("clone3", 5),
        ("setresuid", 1),
        ("recvfrom", 2),
        ("sendmsg", 2),
        ("sendto", 2),
        ("flock", 2),
        ("mount", 12),
    ];
    let before = bench.files();
    let (mut failed, mut went_on) = (0, 0);
    for (call, most) in calls {
        for number in 1..=most {
            for how in ["error=EPERM", "signal=KILL"] {
                // The supervisor's own would fail as well, when it cleans up.
                if call == "umount2" && how == "error=EPERM" {
                    continue;
                }
                let (trace, inject) = (
                    format!("trace={call}"),
                    format!("inject={call}:{how}:when={number}"),
                );
                let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
                let run = bench
                    .program("strace")
                    .args(&strace)
                    .args(&[mini().to_str().unwrap(), "run"]);
                let run = run.args(&ALL).args(&[bench.busybox(), "--", "true"]);
                let output = run.output();
                let what = format!("{inject}: {output:?}");
                match output.status {
                    0 => went_on += 1,
                    _ => failed += 1,
                }
                let lines = output
                    .stderr
                    .lines()
                    .filter(|line| line.starts_with("mini: "));
                assert!(lines.count() <= 1, "{what}");
                assert!(!output.stderr.contains("panic"), "{what}");
                // One that was not killed itself has said why.
                assert!(
                    how != "error=EPERM"
                        || output.status != 125
                        || output.stderr.starts_with("mini: "),
                    "{what}"
                );
                bench.mini(&["ps"]).output().ok();
                let gone = || {
                    exec(&bench, "first", "set -- /proc/[0-9]*; echo $#") == "3\n"
                        && bench.files() == before
                };
                assert!(
                    eventually(gone),
                    "{what}\n{}{:?}",
                    exec(&bench, "first", "ps"),
                    bench.files()
                );
            }
        }
    }
    assert!(failed > went_on, "{failed} {went_on}");
    end(&bench, &["first"]);
}
