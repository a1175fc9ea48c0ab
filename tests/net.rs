//! Containers on bridges: names, addresses, what is there meanwhile and what is left. Each test has a machine of its own in
//! that it works in a network namespace of its own, in which there is nothing but `lo`; iproute2 looks at it, and makes what
//! other people would have made.

mod support;

use std::collections::HashSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{Bench, Run, Running, eventually, have_program, is_core, kill, mini};

/// A machine: a network namespace, for as long as a process in it lives.
struct Host {
    bench: Bench,
    holder: Child,
}

impl Host {
    fn new(name: &str) -> Option<Host> {
        if is_core() || !have_program("ip") || !have_program("nsenter") {
            return None;
        }
        let bench = Bench::new(name)?;
        let holder = Command::new("unshare")
            .args(["-n", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let id = holder.id().to_string();
        assert!(eventually(|| namespace(&id) != namespace("self")));
        let host = Host { bench, holder };
        host.shell("ip link set lo up");
        Some(host)
    }

    /// A program on this machine, with mini's directories in its environment.
    fn program(&self, words: &[&str]) -> Run {
        let holder = self.holder.id().to_string();
        self.bench
            .program("nsenter")
            .args(&["-t", &holder, "-n"])
            .args(words)
    }

    #[track_caller]
    fn shell(&self, script: &str) -> String {
        self.program(&["sh", "-euc", script]).output().ok()
    }

    fn mini(&self, words: &[&str]) -> Run {
        self.program(&[mini().to_str().unwrap()]).args(words)
    }

    /// `mini run OPTIONS busybox.tar -- sh -c SCRIPT`.
    fn run(&self, options: &[&str], script: &str) -> Run {
        let image = self.bench.busybox();
        self.mini(&["run"])
            .args(options)
            .args(&[image, "--", "sh", "-c", script])
    }

    /// One that runs until it is stopped.
    fn start(&self, options: &[&str], script: &str) -> Running {
        let script = format!("{script}\necho ready; exec sleep 1000");
        let mut running = self.run(options, &script).start();
        running.until("ready");
        running
    }

    /// Links, addresses, routes and parameters.
    fn dump(&self) -> String {
        self.look(
            "ip -br link; ip -4 -o address; ip -4 route show table all; \
             grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_forward 2> /dev/null || true",
        )
    }

    /// What a script prints that only looks. `ip` says so if something has changed meanwhile: the kernel may be busy with
    /// hundreds of network namespaces that other tests have left.
    #[track_caller]
    fn look(&self, script: &str) -> String {
        let mut output = None;
        eventually(|| {
            let seen = self.program(&["sh", "-euc", script]).output();
            let whole = !seen.stderr.contains("Dump was interrupted");
            output = Some(seen);
            whole
        });
        output.unwrap().ok()
    }

    /// Waits until the interfaces of all but this many containers are gone, and with them what keeps their addresses.
    #[track_caller]
    fn until_connected(&self, count: usize) {
        let connected = || {
            self.look("ip -br link show type bridge_slave")
                .lines()
                .count()
        };
        assert!(eventually(|| connected() == count), "{}", connected());
    }

    #[track_caller]
    fn assert_as_before(&self, before: &str) {
        let same = eventually(|| self.dump() == before);
        assert!(same, "before: {before}\nnow: {}", self.dump());
        assert!(
            eventually(|| self.bench.files().is_empty()),
            "{:?}",
            self.bench.files()
        );
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Ends a container.
fn stop(running: Running) {
    running.kill(15);
    let status = running.wait().status;
    assert!(status == 143 || status == 0, "{status}");
}

const BRIDGE: [&str; 2] = ["--net", "bridge"];

#[test]
fn containers_reach_each_other_by_name() {
    let Some(host) = Host::new("net-names") else {
        return;
    };
    let before = host.dump();
    let serve = "mkdir /www; echo hello > /www/x; httpd -p 80 -h /www";
    let options = ["--name", "web", "--hostname", "box", "--net-alias", "www"];
    let web = host.start(&[&BRIDGE[..], &options].concat(), serve);
    let ask =
        "for name in web box www 10.177.0.2; do wget -q -O - http://$name/x; done; cat /etc/hosts";
    let local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let options = ["--name", "b", "--add-host", "db:192.0.2.7"];
    assert_eq!(
        host.run(&[&BRIDGE[..], &options].concat(), ask)
            .output()
            .ok(),
        format!(
            "{}{local}10.177.0.3\tb\n192.0.2.7\tdb\n10.177.0.2\tbox web www\n",
            "hello\n".repeat(4)
        )
    );
    // The host itself is on the bridge, too.
    let busybox = host.bench.busybox_directory();
    let wget = format!("{busybox}/bin/busybox wget -q -O - http://10.177.0.2/x");
    assert_eq!(host.shell(&wget), "hello\n");
    // It had no part in that, and sees the others come and go in a file that it cannot write to.
    let id = host.mini(&["ps", "-q"]).output().ok();
    let inside = |script: &str| host.mini(&["exec", id.trim(), "sh", "-c", script]).output();
    assert_eq!(
        inside("cat /etc/hosts").ok(),
        format!("{local}10.177.0.2\tbox web www\n")
    );
    assert_eq!(inside("echo x >> /etc/hosts").status, 1);
    host.until_connected(1);
    let other = host.start(&[&BRIDGE[..], &["--name", "longer-name"]].concat(), "");
    let with = format!("{local}10.177.0.2\tbox web www\n10.177.0.3\tlonger-name\n");
    assert_eq!(inside("cat /etc/hosts").ok(), with);
    stop(other);
    assert_eq!(
        inside("cat /etc/hosts").ok(),
        format!("{local}10.177.0.2\tbox web www\n")
    );
    stop(web);
    host.assert_as_before(&before);
}

#[test]
fn a_container_has_an_interface_and_a_way_out() {
    let Some(host) = Host::new("net-eth0") else {
        return;
    };
    // The way out has large packets; another route is not preferred.
    host.shell(
        "ip link add out mtu 9000 type veth peer name out2 mtu 9000; ip link set out2 up; ip link set out up; ip address add 192.0.2.1/24 dev out; \
         ip link add slow type veth peer name slow2; ip link set slow2 up; ip link set slow mtu 1300 up; ip address add 198.51.100.1/24 dev slow; \
         ip route add default via 192.0.2.2 metric 10; ip route add default via 198.51.100.2 metric 20; \
         ip route add 10.177.0.0/23 via 192.0.2.3",
    );
    let before = host.dump();
    let script = "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /sys/class/net/eth0/ifindex; \
                  ip -4 -o address show eth0 | tr -s ' '; ip route; cat /proc/sys/net/ipv4/ip_forward";
    let running = host.start(&BRIDGE, "");
    let expected = "02:42:0a:b1:02:03\n9000\n100\n\
                    100: eth0 inet 10.177.2.3/24 brd 10.177.2.255 scope global eth0\\ valid_lft forever preferred_lft forever\n\
                    default via 10.177.2.1 dev eth0 \n10.177.2.0/24 dev eth0 scope link  src 10.177.2.3 \n0\n";
    assert_eq!(host.run(&BRIDGE, script).output().ok(), expected);
    // Also when it shares its user namespace with the host. An address is not given to another one before the interface of
    // the container that had it has gone.
    let ports = "ip -br link show master mini0 | wc -l";
    assert!(eventually(|| host.look(ports) == "1\n"));
    let options = [&BRIDGE[..], &["--userns", "host"]].concat();
    assert_eq!(host.run(&options, script).output().ok(), expected);
    let look = "cat /proc/sys/net/ipv4/ip_forward; ip -o link show mini0 | grep -oE 'mtu [0-9]+|ether [0-9a-f:]+'; \
                ip -br link show master mini0 | wc -l";
    // Those of the two that have ended go when the kernel has got to it.
    let seen = "1\nmtu 9000\nether 02:42:0a:b1:02:01\n1\n";
    let same = eventually(|| host.look(look) == seen);
    assert!(same, "{}", host.look(look));
    // One without a bridge has none of it.
    assert_eq!(host.run(&[], "ls /sys/class/net").output().ok(), "lo\n");
    stop(running);
    host.assert_as_before(&before);
}

#[test]
fn name_servers_are_given() {
    let Some(host) = Host::new("net-dns") else {
        return;
    };
    let show = |options: &[&str]| {
        let output = host
            .run(options, "cat /etc/resolv.conf; tail -n 1 /etc/hosts")
            .output();
        output.expect(0).stdout
    };
    let given = [
        "--dns",
        "192.0.2.53",
        "--dns",
        "2001:db8::1",
        "--dns-search",
        "a.test",
        "--dns-search",
        "b.test",
    ];
    let expected = "nameserver 192.0.2.53\nnameserver 2001:db8::1\nsearch a.test b.test\n";
    let hosts = ["--add-host", "db:192.0.2.7", "--hostname", "box"];
    let all = [&given[..], &hosts].concat();
    let on_bridge = show(&[&BRIDGE[..], &all].concat());
    assert!(
        on_bridge.contains(expected) && on_bridge.ends_with("192.0.2.7\tdb\n"),
        "{on_bridge}"
    );
    assert_eq!(
        show(&all),
        format!("# no network: mini run --net host\n{expected}192.0.2.7\tdb\n")
    );
    let shared = show(&[&["--net", "host"][..], &all].concat());
    assert!(
        shared.contains(expected) && shared.ends_with("192.0.2.7\tdb\n"),
        "{shared}"
    );
    let before = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(!shared.contains("\nnameserver 127.") && !before.contains("192.0.2.53"));
}

#[test]
fn many_start_at_once_and_none_gets_the_address_of_another() {
    let Some(host) = Host::new("net-many") else {
        return;
    };
    let before = host.dump();
    let script = "ip -4 -o address show eth0 | tr -s ' ' | cut -d ' ' -f 4; exec sleep 1000";
    let start = |_| host.run(&BRIDGE, script).start();
    let mut all: Vec<Running> = (0..20).map(start).collect();
    let addresses: HashSet<String> = all.iter_mut().map(|it| it.until("/24\n")).collect();
    let expected = (2..22).map(|last| format!("10.177.0.{last}/24\n"));
    assert_eq!(addresses, expected.collect());
    assert_eq!(host.shell("ip -br link show master mini0 | wc -l"), "20\n");
    let last = all.pop().unwrap();
    for running in &all {
        running.kill(15);
    }
    all.into_iter().for_each(|it| drop(it.wait()));
    // Who is left knows of nobody else any more.
    let id = host.mini(&["ps", "-q"]).output().ok();
    let hosts = || {
        host.mini(&["exec", id.trim(), "cat", "/etc/hosts"])
            .output()
            .ok()
    };
    assert_eq!(hosts().lines().count(), 3, "{}", hosts());
    stop(last);
    host.assert_as_before(&before);
}

#[test]
fn nothing_is_left_of_those_that_are_killed() {
    let Some(host) = Host::new("net-killed") else {
        return;
    };
    // Somebody's parameters that turning on forwarding would change.
    host.shell(
        "ip link add own type bridge; echo 1 > /proc/sys/net/ipv4/conf/own/forwarding; \
         echo 0 > /proc/sys/net/ipv4/conf/all/accept_redirects",
    );
    let before = host.dump();
    for round in 0..10u64 {
        let start = |number| {
            let name = format!("bridge:b{}", number % 2);
            host.run(&["--net", &name], "exec sleep 1000").start()
        };
        let all: Vec<Running> = (0..4).map(start).collect();
        // At any point of the set-up, or later.
        for (number, running) in all.iter().enumerate() {
            std::thread::sleep(Duration::from_millis((round * 7 + number as u64 * 3) % 40));
            running.kill(9);
        }
        drop(all);
    }
    host.mini(&["ps"]).output().ok();
    host.assert_as_before(&before);
}

#[test]
fn a_hundred_runs_leave_nothing() {
    let Some(host) = Host::new("net-hundred") else {
        return;
    };
    let before = host.dump();
    for _ in 0..100 {
        host.run(&BRIDGE, "true").output().ok();
    }
    host.assert_as_before(&before);
}

#[test]
fn an_address_can_be_chosen() {
    let Some(host) = Host::new("net-ip") else {
        return;
    };
    let before = host.dump();
    let ip = |address| [&BRIDGE[..], &["--ip", address]].concat();
    let script = "ip -4 -o address show eth0 | tr -s ' ' | cut -d ' ' -f 4";
    // The first one chooses the network.
    let running = host.start(&ip("172.30.5.9"), script);
    let id = host.mini(&["ps", "-q"]).output().ok();
    assert_eq!(host.run(&BRIDGE, script).output().ok(), "172.30.5.2/24\n");
    assert_eq!(
        host.run(&ip("172.30.5.200"), script).output().ok(),
        "172.30.5.200/24\n"
    );
    for (address, why) in [
        ("172.30.5.9", format!("container {} has it", id.trim())),
        ("172.30.5.1", "that of mini0 itself".into()),
        ("172.30.5.0", "not an address of a host".into()),
        (
            "172.30.6.2",
            "not in the network of mini0, 172.30.5.0/24".into(),
        ),
    ] {
        let line = format!("--ip {address}: {why}");
        host.run(&ip(address), "true").output().fails(125, &line);
    }
    let options = ["--net", "bridge:other", "--ip", "172.30.5.77"];
    let line = "--ip: the host has a route to 172.30.5.0/24 already";
    host.run(&options, "true").output().fails(125, line);
    // Another bridge has another network.
    let other = host.run(&["--net", "bridge:other"], script).output().ok();
    assert_eq!(other, "10.177.0.2/24\n");
    stop(running);
    host.assert_as_before(&before);
}

#[test]
fn a_bridge_is_made_again_if_something_is_wrong_with_it_but_not_somebody_elses() {
    let Some(host) = Host::new("net-repair") else {
        return;
    };
    let before = host.dump();
    host.shell("ip link add mini0 type bridge");
    let line = "--net bridge: \"mini0\": there is an interface of this name that mini has not made \
                (--net bridge:NAME takes another name)";
    host.run(&BRIDGE, "true").output().fails(125, line);
    host.shell("ip link show mini0; ip link delete mini0");
    // It stays as long as that is wanted.
    let keep = [&BRIDGE[..], &["--net-keep"]].concat();
    host.run(&keep, "true").output().ok();
    let index = "ip -o link show mini0 | cut -d : -f 1";
    let kept = host.shell(index);
    host.run(&keep, "true").output().ok();
    assert_eq!(host.shell(index), kept);
    // As when mini is killed while it makes one.
    host.shell("ip link set mini0 down; ip address flush dev mini0");
    let ping = "ip route | grep -q default && arping -c 1 -I eth0 10.177.0.1 > /dev/null; cat /proc/net/arp | wc -l";
    host.run(&keep, ping).output().expect(0);
    assert_ne!(host.shell(index), kept);
    // While somebody is on it the network stays the same. (First what has ended has to be gone, or its address is not free.)
    let ports = "ip -br link show master mini0 | wc -l";
    assert!(eventually(|| host.look(ports) == "0\n"));
    let running = host.start(&keep, "");
    host.shell("ip link delete mini0; ip link add other type bridge; ip link set other up; ip address add 10.177.1.1/24 dev other");
    let address = "ip -4 -o address show eth0 | tr -s ' ' | cut -d ' ' -f 4";
    assert_eq!(host.run(&keep, address).output().ok(), "10.177.0.3/24\n");
    stop(running);
    host.shell("ip link delete other; ip link show mini0");
    // One that does not want it to stay has the last word.
    host.run(&BRIDGE, "true").output().ok();
    host.assert_as_before(&before);
}

#[test]
fn a_files_containers_have_a_bridge_of_their_own() {
    let Some(host) = Host::new("net-up") else {
        return;
    };
    let before = host.dump();
    let other = host.start(&[&BRIDGE[..], &["--name", "other"]].concat(), "");
    let image = host.bench.busybox();
    let ask =
        "until wget -q -O - http://web/x; do sleep 0.1; done; grep -c other /etc/hosts; kill -9 $$";
    let lines = format!(
        "--net bridge --name web --net-alias w {image} -- sh -c 'echo hello > /x; httpd -f -p 80 -h /'\n\
         --net bridge {image} -- sh -c '{ask}'\n"
    );
    let file = host.bench.file("shop-front.boot", lines);
    let mut up = host.mini(&["up", &file]).start();
    up.until("hello\n0\n");
    let link = host.shell("ip -br link show type bridge | cut -d ' ' -f 1 | sort");
    assert_eq!(link, "mini-shop-front\nmini0\n");
    up.kill(15);
    up.wait();
    stop(other);
    host.assert_as_before(&before);
}

#[test]
fn where_it_is_can_be_seen() {
    let Some(host) = Host::new("net-inspect") else {
        return;
    };
    let running = host.start(&[&BRIDGE[..], &["--name", "web"]].concat(), "");
    let text = host.mini(&["inspect", "web"]).output().ok();
    for part in [
        r#""bridge":"mini0""#,
        r#""address":"10.177.0.2/24""#,
        r#""routes":["default via 10.177.0.1 dev eth0","10.177.0.0/24 dev eth0"]"#,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = host.mini(&["inspect", "--explain", "web"]).output().ok();
    let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut shown, mut looked) = (String::new(), 0);
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("  $ ") {
            let about = ["-n ip", "ip link"].iter().any(|it| command.contains(it));
            shown = match about {
                true => spaced(&host.shell(command)),
                false => String::new(),
            };
            looked += usize::from(about);
        } else if let (Some(said), false) = (line.strip_prefix("    "), shown.is_empty()) {
            assert!(
                shown.contains(&spaced(said)),
                "{said:?} is not in {shown:?}"
            );
        }
    }
    assert_eq!(looked, 3, "{text}");
    stop(running);
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(host) = Host::new("net-refused") else {
        return;
    };
    for (options, line) in [
        (&["--ip", "10.177.0.9"][..], "--ip: only with --net bridge"),
        (
            &["--net-alias", "x", "--net", "host"],
            "--net-alias: only with --net bridge",
        ),
        (&["--net-keep"], "--net-keep: only with --net bridge"),
        (
            &["--net", "bridge", "--ip", "10.177.0"],
            "--ip \"10.177.0\": not an IPv4 address",
        ),
        (
            &["--net", "bridge:elevenchars"],
            "--net \"bridge:elevenchars\": the name of a bridge has 1 to 10 letters, digits, \"_\", \".\", \"-\"",
        ),
        (
            &["--net", "bridge:a/b"],
            "--net \"bridge:a/b\": the name of a bridge has 1 to 10 letters, digits, \"_\", \".\", \"-\"",
        ),
        (&["--net", "bridges"], "--net \"bridges\": not host or none"),
        (&["--add-host", "x"], "--add-host \"x\": not NAME:IP"),
        (
            &["--add-host", "x:y"],
            "--add-host \"x:y\": not an IP address",
        ),
        (
            &["--add-host", "a b:1.1.1.1"],
            "--add-host \"a b\": not a name (1 to 64 letters, digits, \"_\", \".\", \"-\")",
        ),
        (
            &["--net", "bridge", "--net-alias", "Localhost"],
            "--net-alias \"Localhost\": means something else already",
        ),
        (
            &["--net", "bridge", "--net-alias", "10.0.0.1"],
            "--net-alias \"10.0.0.1\": means something else already",
        ),
        (
            &["--dns", "0.0.0.0"],
            "--dns \"0.0.0.0\": not an address of a host",
        ),
        (&["--dns", "x"], "--dns \"x\": not an IP address"),
        (
            &["--dns-search", "a b"],
            "--dns-search \"a b\": not a name (1 to 64 letters, digits, \"_\", \".\", \"-\")",
        ),
    ] {
        host.run(options, "true").output().fails(125, line);
    }
    // A bridge of the same name in another network namespace, with somebody on it.
    let running = host.start(&BRIDGE, "");
    let other = host.bench.program("unshare");
    let image = host.bench.busybox();
    let output = other
        .args(&[
            "-n",
            mini().to_str().unwrap(),
            "run",
            "--net",
            "bridge",
            image,
        ])
        .output();
    let line = "--net bridge: \"mini0\": a bridge in another network namespace has this name \
                (--net bridge:NAME, or another MINI_RUN)";
    output.fails(125, line);
    stop(running);
}

#[test]
fn the_core_says_that_it_has_no_bridges() {
    if !is_core() {
        return;
    }
    let Some(bench) = Bench::new("net-core") else {
        return;
    };
    let line = "--net bridge: this mini is built without the feature net";
    bench.shell(&BRIDGE, "true").fails(125, line);
}

/// Its interface is there when they are set.
#[test]
fn sysctls_may_be_about_the_interface() {
    let Some(host) = Host::new("net-sysctl") else {
        return;
    };
    for _ in 0..10 {
        let options = ["--sysctl", "net.ipv4.conf.eth0.rp_filter=2"];
        let script =
            "cat /proc/sys/net/ipv4/conf/eth0/rp_filter; ip -4 -o address show eth0 | wc -l";
        let output = host.run(&[&BRIDGE[..], &options].concat(), script).output();
        assert_eq!(output.ok(), "2\n1\n");
    }
}

#[test]
fn a_container_that_is_started_again_is_on_the_bridge_again() {
    let Some(host) = Host::new("net-restart") else {
        return;
    };
    let before = host.dump();
    let options = [
        &BRIDGE[..],
        &["--restart", "on-failure:3", "--name", "again"],
    ]
    .concat();
    let script = "ip -4 -o address show eth0 | tr -s ' ' | cut -d ' ' -f 4; exit 1";
    let output = host.run(&options, script).output();
    assert_eq!(
        output.stdout,
        "10.177.0.2/24\n".repeat(4),
        "{}",
        output.stderr
    );
    host.mini(&["ps"]).output().ok();
    host.assert_as_before(&before);
}

#[test]
fn a_killed_containers_name_goes_with_the_next_command() {
    let Some(host) = Host::new("net-sweep") else {
        return;
    };
    let one = host.start(&[&BRIDGE[..], &["--name", "one"]].concat(), "");
    let two = host.start(&[&BRIDGE[..], &["--name", "two"]].concat(), "");
    let hosts = || {
        host.mini(&["exec", "one", "cat", "/etc/hosts"])
            .output()
            .ok()
    };
    assert!(hosts().ends_with("10.177.0.3\ttwo\n"), "{}", hosts());
    let pid = two.pid();
    kill(pid, 9);
    drop(two);
    host.mini(&["ps"]).output().ok();
    assert!(
        eventually(|| hosts().ends_with("10.177.0.2\tone\n")),
        "{}",
        hosts()
    );
    stop(one);
}

#[test]
fn without_root_there_is_a_way_out_and_it_ends_with_the_container() {
    if is_core() || !have_program("ip") || !have_program("setpriv") {
        return;
    }
    for program in ["pasta", "slirp4netns"] {
        if !have_program(program) {
            continue;
        }
        let Some(bench) = Bench::new(&format!("net-{program}")) else {
            return;
        };
        let busybox = bench.busybox_directory();
        let own = bench.dir("bin");
        let find = format!("ln -s $(command -v {program}) {own}/");
        Run::new("sh").args(&["-c", &find]).output().ok();
        bench.file("script", WAY_OUT);
        for (directory, text) in [("out", "outside"), ("local", "secret")] {
            bench.dir(directory);
            bench.file(&format!("{directory}/x"), text);
        }
        std::os::unix::fs::chown(bench.path(""), Some(1000), Some(1000)).unwrap();
        let words = ["-n", "-m", "--propagation", "private", "sh", "-eu"];
        let run = bench.program("unshare").args(&words);
        let run = run.args(&[&bench.text("script"), &own, &busybox]);
        let run = run.env("MINI", mini()).env("BUSYBOX", bench.busybox());
        let seen = run.directory(&bench.path("")).output().ok();
        assert_eq!(
            seen, "outside\nno secret\nno secret\nup\nrefused\n",
            "{program}"
        );
    }
}

/// A machine on which an ordinary user may make tap interfaces, with another one at 192.0.2.2.
const WAY_OUT: &str = r#"
bin=$1 busybox=$2/bin/busybox
ip link set lo up
ip link add out type veth peer name other
ip address add 192.0.2.1/24 dev out
ip link set out up
ip route add default via 192.0.2.2
unshare -n sleep 60 & other=$!
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link set other netns $other
nsenter -t $other -n ip address add 192.0.2.2/24 dev other
nsenter -t $other -n ip link set other up
nsenter -t $other -n $busybox httpd -f -p 8000 -h out & servers=$!
$busybox httpd -f -p 127.0.0.1:8000 -h local & servers="$servers $!"
mount -t tmpfs dev /dev/net
mknod -m 666 /dev/net/tun c 10 200
user() { PATH=$bin /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
user $MINI run --net bridge $BUSYBOX -- sh -c '
    wget -q -O - http://192.0.2.2:8000/x; echo
    gateway=$(ip route | sed -n "s/default via \([0-9.]*\).*/\1/p")
    for address in $gateway 127.0.0.1; do
        timeout 2 wget -q -O - http://$address:8000/x 2> /dev/null | grep -q secret || echo no secret
    done'
# Killed, which leaves nothing, as the bench finds out at its end.
user() { PATH=$bin exec /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
user $MINI run --net bridge $BUSYBOX -- sh -c 'echo up; exec sleep 1000' > up & mini=$!
for n in $(seq 200); do grep -qs up up && break; sleep 0.1; done
cat up
kill -9 $mini
bin=/nowhere
user $MINI run --net bridge $BUSYBOX 2>&1 | grep -q "without root it takes pasta or slirp4netns" && echo refused
(user $MINI run $BUSYBOX -- true)
kill $other $servers
"#;

/// By `--net container:ID` a network namespace outlives the container that it was made for.
#[test]
fn an_address_is_nobody_elses_while_somebody_can_still_receive_there() {
    let Some(host) = Host::new("net-outlived") else {
        return;
    };
    let before = host.dump();
    let one = host.start(&["--net", "bridge", "--name", "one"], "");
    let other = host.start(&["--net", "container:one"], "");
    let third = host.start(&BRIDGE, "");
    stop(one);
    let address = "ip -4 -o address show eth0 | tr -s ' ' | cut -d ' ' -f 4";
    assert_eq!(host.run(&BRIDGE, address).output().ok(), "10.177.0.4/24\n");
    stop(other);
    let again = || host.run(&BRIDGE, address).output().ok() == "10.177.0.2/24\n";
    assert!(eventually(again));
    stop(third);
    host.assert_as_before(&before);
}

#[test]
fn a_bridge_is_never_made_for_nobody_nor_for_what_is_no_address() {
    let Some(host) = Host::new("net-nobody") else {
        return;
    };
    let before = host.dump();
    for address in [
        "0.0.0.5",
        "127.0.0.5",
        "169.254.1.5",
        "224.0.0.5",
        "255.255.255.5",
    ] {
        let run = host.run(&["--net", "bridge", "--ip", address], "true");
        let said = run.output().one_line(125);
        assert!(said.contains("not an address of a network"), "{said}");
    }
    // That of the bridge itself: known only when there is one.
    let run = host.run(&["--net", "bridge", "--ip", "10.177.0.1"], "true");
    assert!(run.output().one_line(125).contains("that of mini0 itself"));
    // No other command is needed.
    assert!(eventually(|| !host
        .shell("ip link show; cat /proc/sys/net/ipv4/ip_forward")
        .contains("mini0")));
    host.assert_as_before(&before);
}
