//! Published ports, translation and the relay, between hosts that are network namespaces of the test's own: mini runs on
//! the `router`, to which `outside` and `beyond` are connected. Nothing outside this machine is ever addressed.
//!
//! Who answers in a container is this test: a thread of it listens in the container's network namespace, and so sees who
//! the container sees.

mod support;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::{Bench, Run, Running, eventually, have, have_program, is_core, kill, mini, rootfs};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long something is waited for that must not come.
const SHORT: Duration = Duration::from_millis(600);
/// The router's addresses, and those of the two others.
const ROUTER: &str = "192.0.2.1";
const OUTSIDE: &str = "192.0.2.2";
const BEYOND: &str = "198.51.100.2";
/// The first bridge's own address.
const GATEWAY: &str = "10.177.0.1";

/// Calls `work` in the network namespace of a process.
fn inside<T: Send>(pid: i32, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let path = format!("/proc/{pid}/ns/net");
        let namespace = rustix::fs::open(path.as_str(), OFlags::RDONLY, Mode::empty()).unwrap();
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

/// A process in a network namespace of its own.
fn host() -> Running {
    let host = Run::new("unshare").args(&["-n", "sleep", "600"]).start();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let (own, pid) = (namespace("self"), host.pid().to_string());
    assert!(eventually(
        || namespace(&pid).is_some_and(|it| Some(it) != own)
    ));
    host
}

struct Hosts {
    bench: Bench,
    router: Running,
    outside: Running,
    beyond: Running,
}

impl Hosts {
    /// `None` where there cannot be any.
    fn new(name: &str) -> Option<Hosts> {
        if is_core() || !have("net", have_program("ip"), "ip is not installed") {
            return None;
        }
        let bench = Bench::new(name)?;
        let hosts = Hosts {
            bench,
            router: host(),
            outside: host(),
            beyond: host(),
        };
        let links = format!(
            "ip link set lo up
             for other in {} {}; do
                 ip link add to$other type veth peer name eth0 netns $other
                 ip link set to$other up
                 nsenter -n -t $other ip link set lo up
             done
             ip address add {ROUTER}/24 dev to{0}
             ip address add 198.51.100.1/24 dev to{1}
             nsenter -n -t {0} sh -ec 'ip address add {OUTSIDE}/24 dev eth0; ip link set eth0 up
                 ip route add default via {ROUTER}'
             nsenter -n -t {1} sh -ec 'ip address add {BEYOND}/24 dev eth0; ip link set eth0 up
                 ip route add default via 198.51.100.1'",
            hosts.outside.pid(),
            hosts.beyond.pid()
        );
        hosts.on_router(&links);
        // The kernel tells later that both ends of a pair are up.
        let down = || hosts.on_router("ip link").contains("DOWN");
        assert!(eventually(|| !down()));
        Some(hosts)
    }

    /// What a shell script says on the router.
    fn on_router(&self, script: &str) -> String {
        let pid = self.router.pid().to_string();
        Run::new("nsenter")
            .args(&["-n", "-t", &pid, "sh", "-ec", script])
            .output()
            .ok()
    }

    /// mini on the router, where no program can be found by its name.
    fn mini(&self, args: &[&str]) -> Run {
        let (pid, mini) = (self.router.pid().to_string(), mini());
        self.bench
            .program("/usr/bin/nsenter")
            .env("PATH", "/nowhere")
            .args(&["-n", "-t", &pid, mini.to_str().unwrap()])
            .args(args)
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Run {
        let image = [self.bench.busybox(), "--"];
        let run = self.mini(&["run", "-q"]).args(options);
        run.args(&image).args(command)
    }

    /// A container in the background that does nothing, and what mini said about it.
    fn start(&self, options: &[&str]) -> Container {
        let options = [&["-d", "--rm"], options].concat();
        let output = self.run(&options, &["sleep", "600"]).output().expect(0);
        self.container(output.stdout.trim(), output.stderr)
    }

    fn container(&self, id: &str, said: String) -> Container {
        let record = fs::read_to_string(self.bench.path(&format!("run/running/{id}/record")));
        Container {
            id: id.to_owned(),
            record: record.unwrap(),
            said,
            servers: Mutex::default(),
            open: Arc::new(true.into()),
        }
    }

    fn stop(&self, container: Container) {
        self.mini(&["kill", &container.id]).output().ok();
        self.mini(&["wait", &container.id]).output();
    }

    /// What others have made: packet filters, and links, addresses and routes.
    fn dump(&self) -> String {
        let mut script =
            "ip link; ip address; ip route; cat /proc/sys/net/ipv4/ip_forward".to_owned();
        for (program, how) in [
            ("nft", "nft list ruleset"),
            ("iptables-save", "iptables-save"),
            ("iptables-legacy-save", "iptables-legacy-save"),
        ] {
            if have_program(program) {
                script += &format!("; {how} | sed '/^#/d; s/ \\[.*\\]$//'");
            }
        }
        // What the kernel counts or still tries out is no difference.
        let text = self.on_router(&format!("({script}) 2>/dev/null || true"));
        let lines = text
            .lines()
            .filter(|line| !line.contains("valid_lft") && !line.contains("fe80:"));
        lines.map(|line| line.to_owned() + "\n").collect()
    }

    /// Checks that nothing is left of any container on the router, after one more command.
    fn assert_as_before(&self, before: &str) {
        self.mini(&["ps"]).output().ok();
        let same = eventually(|| self.dump() == before);
        assert!(same, "before: {before}\nafter: {}", self.dump());
        let files = || self.bench.files();
        assert!(eventually(|| files().is_empty()), "{:?}", files());
    }
}

struct Container {
    id: String,
    record: String,
    said: String,
    /// Those who answer in it, and whether they may: their sockets keep its network namespace.
    servers: Mutex<Vec<JoinHandle<()>>>,
    open: Arc<AtomicBool>,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.open.store(false, Relaxed);
        for server in self.servers.lock().unwrap().drain(..) {
            let _ = server.join();
        }
    }
}

impl Container {
    fn number(&self, key: &str) -> i32 {
        let line = self.record.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().trim().parse().unwrap()
    }

    fn address(&self) -> Ipv4Addr {
        let line = self
            .record
            .lines()
            .find_map(|line| line.strip_prefix("address "));
        line.unwrap().split('/').next().unwrap().parse().unwrap()
    }

    /// Has `answer` called until the container is stopped.
    fn answer(&self, mut answer: impl FnMut() + Send + 'static) {
        let open = self.open.clone();
        let server = thread::spawn(move || {
            while open.load(Relaxed) {
                answer();
            }
        });
        self.servers.lock().unwrap().push(server);
    }

    /// Tells everybody who connects to this port who he is.
    fn serve(&self, port: u16) {
        let pid = self.number("pid ");
        let listener = inside(pid, || TcpListener::bind(("0.0.0.0", port)).unwrap());
        listener.set_nonblocking(true).unwrap();
        self.answer(move || match listener.accept() {
            Ok((mut stream, peer)) => {
                let _ = stream.write_all(peer.ip().to_string().as_bytes());
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        });
    }

    /// Sends every datagram back, and behind it who it is from.
    fn echo(&self, port: u16) {
        let pid = self.number("pid ");
        let socket = inside(pid, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
        let often = Some(Duration::from_millis(50));
        socket.set_read_timeout(often).unwrap();
        let mut buffer = vec![0; 65536];
        self.answer(move || {
            if let Ok((count, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..count], peer);
                let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
            }
        });
    }
}

fn connect_within(time: Duration, pid: i32, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let stream = inside(pid, || TcpStream::connect_timeout(&to, time))?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(stream)
}

/// A new container's port of the bridge may not lead anywhere yet; the kernel tries again after a second.
fn connect(pid: i32, to: &str) -> std::io::Result<TcpStream> {
    connect_within(PATIENCE, pid, to)
}

/// What is said to who connects from the namespace of this process.
fn ask(pid: i32, to: &str) -> std::io::Result<String> {
    let mut said = String::new();
    connect(pid, to)?.read_to_string(&mut said)?;
    Ok(said)
}

/// Sends a datagram of each size, which has to come back, and returns who the container has said it is from.
fn exchange(pid: i32, to: &str) -> String {
    let socket = inside(pid, || UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    let mut buffer = vec![0; 65536];
    let mut who = String::new();
    for size in [1, 1472, 1473, 9000, 65507] {
        let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        socket.send(&sent).unwrap();
        let count = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..count] == sent, "{size} bytes to {to}");
        let count = socket.recv(&mut buffer).unwrap();
        who = String::from_utf8_lossy(&buffer[..count]).into_owned();
    }
    who
}

/// Asks until there is an answer.
fn answer(pid: i32, to: &str) -> String {
    let mut answer = String::new();
    let answered = eventually(|| ask(pid, to).map(|said| answer = said).is_ok());
    assert!(answered, "{to}: {:?}", ask(pid, to));
    answer
}

#[test]
fn ports_answer_from_outside_and_on_the_host() {
    let Some(hosts) = Hosts::new("publish") else {
        return;
    };
    let before = hosts.dump();
    let options = [
        "-p",
        "8080:80",
        "-p",
        "8053:53/udp",
        "-p",
        "127.0.0.1:8081:80",
    ];
    let container = hosts.start(&options);
    assert_eq!(container.said, "");
    container.serve(80);
    container.echo(53);
    let (outside, router) = (hosts.outside.pid(), hosts.router.pid());
    // Who comes from outside keeps his address; for the host, the supervisor connects.
    assert_eq!(ask(outside, "192.0.2.1:8080").unwrap(), OUTSIDE);
    assert_eq!(
        ask(hosts.beyond.pid(), "198.51.100.1:8080").unwrap(),
        BEYOND
    );
    for address in ["127.0.0.1:8080", "192.0.2.1:8080", "127.0.0.1:8081"] {
        assert_eq!(ask(router, address).unwrap(), GATEWAY, "{address}");
    }
    let refused = ask(outside, "192.0.2.1:8081").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(exchange(outside, "192.0.2.1:8053"), OUTSIDE);
    for address in ["127.0.0.1:8053", "192.0.2.1:8053", "198.51.100.1:8053"] {
        assert_eq!(exchange(router, address), GATEWAY, "{address}");
    }
    // The container itself comes by its own port, too.
    let pid = container.number("pid ");
    assert_eq!(ask(pid, "192.0.2.1:8080").unwrap(), GATEWAY);
    // It has none of the supervisor's sockets, nor has its command.
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let command: i32 = children.trim().parse().unwrap();
    for process in [pid, command] {
        for entry in fs::read_dir(format!("/proc/{process}/fd"))
            .into_iter()
            .flatten()
        {
            let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            assert!(
                !target.to_string_lossy().starts_with("socket:"),
                "{target:?}"
            );
        }
    }
    let ps = hosts.mini(&["ps"]).output().ok();
    assert!(ps.contains("0.0.0.0:8080->80/tcp"), "{ps}");
    let inspect = hosts.mini(&["inspect", &container.id]).output().ok();
    assert!(inspect.contains("0.0.0.0:8053->53/udp"), "{inspect}");
    hosts.stop(container);
    let gone = ask(router, "127.0.0.1:8080").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::ConnectionRefused);
    hosts.assert_as_before(&before);
    hosts.bench.assert_nothing_left();
}

/// Asks for a page from everywhere until it comes, then ends the container.
#[track_caller]
fn serves(hosts: &Hosts, run: Running, page: &str) {
    let get = |pid: i32, to: &str| -> std::io::Result<String> {
        let mut stream = connect(pid, to)?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    let works = |pid, to| get(pid, to).is_ok_and(|said| said.ends_with(page));
    for (pid, to) in [
        (hosts.outside.pid(), "192.0.2.1:8080"),
        (hosts.router.pid(), "192.0.2.1:8080"),
        (hosts.router.pid(), "127.0.0.1:8080"),
    ] {
        assert!(eventually(|| works(pid, to)), "{to}: {:?}", get(pid, to));
    }
    run.kill(15);
    run.wait();
    hosts.bench.assert_nothing_left();
}

#[test]
fn a_web_server_answers_everybody() {
    let Some(hosts) = Hosts::new("httpd") else {
        return;
    };
    let script = "mkdir /w; echo it works >/w/index.html; exec httpd -f -h /w";
    let run = hosts.run(&["-p", "8080:80"], &["sh", "-c", script]).start();
    serves(&hosts, run, "it works\n");
}

/// Base, package and site are three archives (rootfs-build/apache).
#[test]
fn apache_from_layers_answers_everybody() {
    let (Some(hosts), Some(base)) = (Hosts::new("apache"), rootfs("debian.tar")) else {
        return;
    };
    let layers = ["apache.tar", "site.tar"].map(|name| rootfs(name).unwrap());
    let arguments = [
        "run",
        "-p",
        "8080:80",
        "--layer",
        &layers[0],
        "--layer",
        &layers[1],
        &base,
        "--",
        "apache2",
        "-D",
        "FOREGROUND",
        "-f",
        "/etc/apache2/apache2.conf",
    ];
    let run = hosts.mini(&arguments).start();
    serves(
        &hosts,
        run,
        "<h1>It is served from three tar archives.</h1>\n",
    );
}

#[test]
fn containers_get_out_and_only_by_published_ports_in() {
    let Some(hosts) = Hosts::new("masquerade") else {
        return;
    };
    let (one, other) = (
        hosts.start(&["-p", "8080:80"]),
        hosts.start(&["--net", "bridge:other"]),
    );
    one.serve(80);
    other.serve(80);
    let address = |container: &Container| format!("{}:80", container.address());
    let (one_inside, other_inside) = (one.number("pid "), other.number("pid "));
    // Out: as the router.
    let listener = inside(hosts.beyond.pid(), || {
        TcpListener::bind("0.0.0.0:7000").unwrap()
    });
    for pid in [one_inside, other_inside] {
        let stream = connect(pid, "198.51.100.2:7000").unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_string(), "198.51.100.1");
        drop(stream);
    }
    // In: the host, but nobody else by a route of his own.
    assert_eq!(ask(hosts.router.pid(), &address(&one)).unwrap(), GATEWAY);
    let refused = |pid, to: &str| {
        let error = connect_within(SHORT, pid, to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{to}: {error}");
    };
    refused(hosts.outside.pid(), &address(&one));
    // Between bridges: by published ports alone.
    refused(other_inside, &address(&one));
    refused(one_inside, &address(&other));
    assert_eq!(ask(other_inside, "192.0.2.1:8080").unwrap(), GATEWAY);
    // The router was none before, and is none for others now.
    refused(hosts.outside.pid(), "198.51.100.2:7000");
    hosts.stop(one);
    hosts.stop(other);
    hosts.bench.assert_nothing_left();
}

#[test]
fn ranges_and_ports_in_use() {
    let Some(hosts) = Hosts::new("ranges") else {
        return;
    };
    let before = hosts.dump();
    let container = hosts.start(&["-p", "9000-9002:80-82", "-p", "192.0.2.1:9100:80"]);
    let router = hosts.router.pid();
    for port in 80..=82 {
        container.serve(port);
        let to = format!("192.0.2.1:{}", port + 8920);
        assert_eq!(ask(hosts.outside.pid(), &to).unwrap(), OUTSIDE);
    }
    assert_eq!(ask(hosts.outside.pid(), "192.0.2.1:9100").unwrap(), OUTSIDE);
    assert_eq!(ask(router, "192.0.2.1:9100").unwrap(), GATEWAY);
    let somewhere_else = ask(hosts.beyond.pid(), "198.51.100.1:9100").unwrap_err();
    assert_eq!(somewhere_else.kind(), ErrorKind::ConnectionRefused);
    let busy = inside(router, || TcpListener::bind("0.0.0.0:9200").unwrap());
    for (options, line) in [
        (
            "-p 9001:80",
            "bind(\"0.0.0.0:9001/tcp\"): Address in use (--publish: somebody else has this port)",
        ),
        (
            "-p 127.0.0.1:9199-9200:1-2",
            "bind(\"127.0.0.1:9200/tcp\"): Address in use (--publish: somebody else has this port)",
        ),
        (
            "-p 203.0.113.1:80:80",
            "bind(\"203.0.113.1:80/tcp\"): Address not available (--publish: that is no address of this machine)",
        ),
        (
            "-p 80:80 -p 127.0.0.1:81:80 -p 80:81",
            "--publish: 80/tcp is given twice",
        ),
        ("-p 80", "--publish \"80\": not [ADDR:]HOST:CONTAINER[/udp]"),
        ("-p 80:80 --net none", "--publish: only with --net bridge"),
        ("-p 80:80 --net host", "--publish: only with --net bridge"),
    ] {
        let options: Vec<&str> = options.split(' ').collect();
        let run = hosts.run(&options, &["true"]).output();
        run.fails(125, line);
    }
    drop(busy);
    // A protocol of its own, and an address of its own.
    let udp = hosts.start(&["-p", "9001:80/udp", "-p", "127.0.0.1:9100:80"]);
    hosts.stop(udp);
    hosts.stop(container);
    hosts.assert_as_before(&before);
    hosts.bench.assert_nothing_left();
}

#[test]
fn five_hundred_connections_at_once() {
    const MANY: usize = 500;
    let Some(hosts) = Hosts::new("many") else {
        return;
    };
    let container = hosts.start(&["-p", "8080:80"]);
    let supervisor = container.number("supervisor ");
    let memory = |key: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/{supervisor}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    };
    let listener = inside(container.number("pid "), || {
        TcpListener::bind("0.0.0.0:80").unwrap()
    });
    let server = thread::spawn(move || {
        // Nobody is answered before all are there.
        let mut streams: Vec<TcpStream> = (0..MANY).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            let mut bytes = [0; 1000];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    let before = memory("Pss_Anon:");
    let clients: Vec<TcpStream> = (0..MANY)
        .map(|_| connect(hosts.router.pid(), "127.0.0.1:8080").unwrap())
        .collect();
    for (index, mut client) in clients.iter().enumerate() {
        client.write_all(&[index as u8; 1000]).unwrap();
    }
    for (index, mut client) in clients.iter().enumerate() {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        assert!(bytes == [index as u8; 1000], "{index}");
    }
    server.join().unwrap();
    drop(clients);
    let descriptors = || {
        fs::read_dir(format!("/proc/{supervisor}/fd"))
            .unwrap()
            .count()
    };
    assert!(eventually(|| descriptors() < 40), "{}", descriptors());
    println!("supervisor: {} KB", memory("Pss:"));
    let now = || memory("Pss_Anon:");
    let small = eventually(|| now() <= before + 64);
    assert!(small, "{before} KB before, {} KB now", now());
    container.serve(80);
    assert_eq!(answer(hosts.router.pid(), "127.0.0.1:8080"), GATEWAY);
    hosts.stop(container);
    hosts.bench.assert_nothing_left();
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    let Some(hosts) = Hosts::new("stalled") else {
        return;
    };
    let container = hosts.start(&["-p", "8080:80", "-p", "8081:81"]);
    container.serve(81);
    let listener = inside(container.number("pid "), || {
        TcpListener::bind("0.0.0.0:80").unwrap()
    });
    let router = hosts.router.pid();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut client = connect(router, "127.0.0.1:8080").unwrap();
        let (server, _) = listener.accept().unwrap();
        client.set_write_timeout(Some(SHORT)).unwrap();
        // Until there is no room left in any buffer.
        while client.write(&[7; 65536]).is_ok() {}
        streams.push((client, server));
    }
    assert_eq!(ask(router, "127.0.0.1:8081").unwrap(), GATEWAY);
    // It goes on where it stopped.
    for (client, mut server) in streams {
        drop(client);
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).unwrap();
        assert!(bytes.len() > 65536 && bytes.iter().all(|byte| *byte == 7));
    }
    hosts.stop(container);
    hosts.bench.assert_nothing_left();
}

#[test]
fn where_somebody_else_drops_the_relay_serves_all() {
    let Some(hosts) = Hosts::new("refused") else {
        return;
    };
    for (program, script, undo, name) in [
        (
            "nft",
            "nft 'table inet wall { chain out { type filter hook forward priority 5; policy drop; }; }'",
            "nft delete table inet wall",
            "chain \"out\" of table inet \"wall\"",
        ),
        (
            "iptables-nft",
            "iptables-nft -P FORWARD DROP",
            "iptables-nft -P FORWARD ACCEPT",
            "chain \"FORWARD\" of table ip \"filter\"",
        ),
        (
            "iptables-legacy",
            "iptables-legacy -P FORWARD DROP",
            "iptables-legacy -P FORWARD ACCEPT",
            "chain FORWARD of iptables-legacy",
        ),
    ] {
        if !have("net", have_program(program), "it is not installed") {
            continue;
        }
        hosts.on_router(script);
        let before = hosts.dump();
        let container = hosts.start(&["-p", "8080:80", "-p", "8053:53/udp"]);
        let line = format!(
            "mini: published ports are relayed, without the clients' addresses: {name} drops what is forwarded\n"
        );
        assert_eq!(container.said, line);
        let inspect = hosts.mini(&["inspect", &container.id]).output().ok();
        let doubt = "mini0: its containers may not get out: chain";
        assert!(inspect.contains(doubt), "{inspect}");
        container.serve(80);
        container.echo(53);
        assert_eq!(ask(hosts.outside.pid(), "192.0.2.1:8080").unwrap(), GATEWAY);
        assert_eq!(exchange(hosts.outside.pid(), "192.0.2.1:8053"), GATEWAY);
        // With the address that it has been asked at, also if that is not the nearest one.
        assert_eq!(exchange(hosts.outside.pid(), "198.51.100.1:8053"), GATEWAY);
        hosts.stop(container);
        hosts.assert_as_before(&before);
        hosts.on_router(undo);
    }
    hosts.bench.assert_nothing_left();
}

#[test]
fn without_nf_tables_the_relay_serves_all() {
    let Some(hosts) = Hosts::new("nonft") else {
        return;
    };
    if !have("net", have_program("strace"), "strace is not installed") {
        return;
    }
    // The first two sockets are the port and one for rtnetlink, the next asks for nf_tables.
    let (pid, mini) = (hosts.router.pid().to_string(), mini());
    let inject = "inject=socket:error=EPROTONOSUPPORT:when=3";
    let words = ["-n", "-t", &pid, "strace", "-qq", "-o", "/dev/null"];
    let traced = ["-e", "trace=socket", "-e", inject, mini.to_str().unwrap()];
    let run = ["run", "-q", "-p", "8080:80", hosts.bench.busybox(), "--"];
    let program = hosts.bench.program("nsenter").args(&words).args(&traced);
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut running = program.args(&run).args(&["sh", "-c", script]).start();
    running.until("ready");
    let ids = hosts.mini(&["ps", "-q"]).output().ok();
    let container = hosts.container(ids.trim(), String::new());
    container.serve(80);
    for pid in [hosts.outside.pid(), hosts.router.pid()] {
        assert_eq!(ask(pid, "192.0.2.1:8080").unwrap(), GATEWAY);
    }
    kill(container.number("supervisor "), 15);
    drop(container);
    let why = "socket(\"NETLINK_NETFILTER\"): Protocol not supported (CONFIG_NETFILTER_NETLINK)";
    let said = format!(
        "mini: mini0 is not kept apart from other networks, nor are its containers let out: {why}\n\
         mini: published ports are relayed, without the clients' addresses: {why}\n"
    );
    assert_eq!(running.wait().expect(3).stderr, said);
    hosts.bench.assert_nothing_left();
}

#[test]
fn the_rules_of_others_stay_as_they_are() {
    let Some(hosts) = Hosts::new("others") else {
        return;
    };
    if !have("net", have_program("nft"), "nft is not installed") {
        return;
    }
    hosts.on_router(
        "nft 'table inet theirs { set s { type ifname; elements = { \"mini0\" }; }
              chain in { type filter hook input priority 0; tcp dport 1 counter drop; }
              chain nat { type nat hook prerouting priority -90; tcp dport 2 redirect to :3; }; }
              table ip6 mini { chain c { accept; }; }'",
    );
    if have_program("iptables-nft") {
        hosts.on_router("iptables-nft -t nat -A POSTROUTING -s 203.0.113.0/24 -j MASQUERADE");
    }
    let before = hosts.dump();
    for _ in 0..100 {
        hosts
            .run(&["-p", "8080:80", "-p", "8053:53/udp"], &["true"])
            .output()
            .ok();
    }
    hosts.assert_as_before(&before);
    // Nor does a supervisor that was killed leave anything, after one more command.
    let (one, other) = (
        hosts.start(&["-p", "8080:80"]),
        hosts.start(&["-p", "8081:80"]),
    );
    kill(one.number("supervisor "), 9);
    assert!(eventually(|| hosts
        .mini(&["ps", "-q"])
        .output()
        .ok()
        .trim()
        == other.id));
    // The other's are still there, and the first one's can be taken.
    let third = hosts.start(&["-p", "8080:80"]);
    for (container, to) in [(&other, "192.0.2.1:8081"), (&third, "192.0.2.1:8080")] {
        container.serve(80);
        assert_eq!(ask(hosts.outside.pid(), to).unwrap(), OUTSIDE);
    }
    let flushed = hosts.on_router("nft list table ip mini");
    assert!(
        flushed.contains("tcp . 8080") && flushed.contains("tcp . 8081"),
        "{flushed}"
    );
    for container in [other, third] {
        kill(container.number("supervisor "), 9);
    }
    assert!(eventually(|| hosts.bench.processes().is_empty()));
    hosts.assert_as_before(&before);
    hosts.bench.assert_nothing_left();
}

/// Elements of the table, as nft shows them.
fn published(hosts: &Hosts) -> String {
    hosts.on_router("nft list map ip mini publish")
}

#[test]
fn ports_go_with_their_container_also_if_its_network_lives_on() {
    let Some(hosts) = Hosts::new("outlived") else {
        return;
    };
    if !have("net", have_program("nft"), "nft is not installed") {
        return;
    }
    let before = hosts.dump();
    // So that the bridge is used.
    let third = hosts.start(&["--net", "bridge"]);
    for killed in [false, true] {
        let one = hosts.start(&["-p", "8080:80", "--name", "one"]);
        let other = hosts.start(&["--net", "container:one"]);
        let lease = format!("run/net/mini0/{}", one.address());
        let (lease, id) = (hosts.bench.path(&lease), one.id.clone());
        assert!(published(&hosts).contains("tcp . 8080"));
        match killed {
            true => {
                kill(one.number("supervisor "), 9);
                assert!(eventually(|| !hosts
                    .mini(&["ps", "-q"])
                    .output()
                    .ok()
                    .contains(&id)));
            }
            false => hosts.stop(one),
        }
        // No other command is needed if it could take leave.
        let gone = eventually(|| !published(&hosts).contains("8080"));
        assert!(gone, "{}", published(&hosts));
        // The address is kept, and nothing else.
        let left = || fs::read_to_string(&lease).unwrap_or_default();
        assert!(eventually(|| left() == format!("id {id}\n")), "{}", left());
        let next = hosts.start(&["--net", "bridge"]);
        assert!(!lease.ends_with(next.address().to_string()));
        hosts.stop(next);
        hosts.stop(other);
    }
    hosts.stop(third);
    hosts.assert_as_before(&before);
}

#[test]
fn what_a_dead_one_had_is_not_taken_from_who_has_it_now() {
    let Some(hosts) = Hosts::new("taken") else {
        return;
    };
    if !have("net", have_program("nft"), "nft is not installed") {
        return;
    }
    let before = hosts.dump();
    let (one, other) = (
        hosts.start(&["-p", "8080:80", "-p", "8053:53/udp"]),
        hosts.start(&["--net", "bridge:other"]),
    );
    one.serve(80);
    // A lease of one that was killed before these began, on the other bridge.
    let [a, b, c, _] = other.address().octets();
    let lease = format!("run/net/mini-other/{a}.{b}.{c}.77");
    let ports = "port 0.0.0.0:8080->80/tcp\nport 0.0.0.0:8053->53/udp\n";
    let lease = hosts.bench.file(
        &lease,
        format!("id 0123456789ab\nhostname x\n{ports}port 0.0.0.0:8081->80/tcp\n"),
    );
    let dead = format!("8081 : {a}.{b}.{c}.77 . 80");
    hosts.on_router(&format!(
        "nft add element ip mini publish '{{ tcp . {dead} }}'"
    ));
    hosts.mini(&["ps"]).output().ok();
    assert!(eventually(|| !fs::exists(&lease).unwrap()));
    let now = published(&hosts);
    assert!(
        now.contains("tcp . 8080") && now.contains("udp . 8053") && !now.contains("8081"),
        "{now}"
    );
    assert_eq!(ask(hosts.outside.pid(), "192.0.2.1:8080").unwrap(), OUTSIDE);
    hosts.stop(one);
    hosts.stop(other);
    hosts.assert_as_before(&before);
}

#[test]
fn three_thousand_ports() {
    let Some(hosts) = Hosts::new("thousands") else {
        return;
    };
    let before = hosts.dump();
    // The usual limit, whatever it is here.
    let limited = |words: &[&str]| {
        let (pid, mini) = (hosts.router.pid().to_string(), mini());
        let script = "ulimit -Sn 1024; exec \"$@\"";
        let shell = ["-n", "-t", &pid, "/bin/sh", "-c", script, "sh"];
        let run = hosts.bench.program("/usr/bin/nsenter").args(&shell);
        run.args(&[mini.to_str().unwrap()]).args(words)
    };
    let range = "20000-22999:20000-22999";
    let udp = format!("{range}/udp");
    let options = ["run", "-q", "-d", "--rm", "-p", range, "-p", &udp];
    let image = [hosts.bench.busybox(), "--", "sleep", "600"];
    let output = limited(&[&options[..], &image].concat()).output();
    let output = output.expect(0);
    assert_eq!(output.stderr, "");
    let container = hosts.container(output.stdout.trim(), output.stderr);
    container.serve(21500);
    container.echo(22999);
    assert_eq!(
        ask(hosts.outside.pid(), "192.0.2.1:21500").unwrap(),
        OUTSIDE
    );
    assert_eq!(exchange(hosts.outside.pid(), "192.0.2.1:22999"), OUTSIDE);
    assert_eq!(ask(hosts.router.pid(), "127.0.0.1:21500").unwrap(), GATEWAY);
    // The container has the limit that mini was started with.
    let limits = fs::read_to_string(format!("/proc/{}/limits", container.number("pid ")));
    let limits = limits.unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    assert!(files.unwrap().contains(" 1024 "), "{limits}");
    hosts.stop(container);
    hosts.assert_as_before(&before);
    hosts.bench.assert_nothing_left();
}

#[test]
fn rules_that_somebody_has_flushed_come_back_with_the_next_container() {
    let Some(hosts) = Hosts::new("flushed") else {
        return;
    };
    if !have("net", have_program("nft"), "nft is not installed") {
        return;
    }
    let before = hosts.dump();
    let (one, other) = (
        hosts.start(&["--net", "bridge"]),
        hosts.start(&["--net", "bridge:other"]),
    );
    let listener = inside(hosts.beyond.pid(), || {
        TcpListener::bind("0.0.0.0:7000").unwrap()
    });
    let gets_out = |container: &Container, time: Duration| {
        let stream = connect_within(time, container.number("pid "), "198.51.100.2:7000");
        stream.is_ok_and(|_| listener.accept().unwrap().1.ip().to_string() == "198.51.100.1")
    };
    assert!(gets_out(&one, PATIENCE) && gets_out(&other, PATIENCE));
    hosts.on_router("nft flush ruleset");
    assert!(!gets_out(&one, SHORT) && !gets_out(&other, SHORT));
    // On each bridge, also if the table is there again.
    for (container, options) in [
        (&one, ["--net", "bridge"]),
        (&other, ["--net", "bridge:other"]),
    ] {
        hosts.run(&options, &["true"]).output().ok();
        assert!(gets_out(container, PATIENCE));
    }
    let rules = hosts.on_router("nft list set ip mini pairs");
    assert!(rules.contains("\"mini0\" . \"mini0\""), "{rules}");
    hosts.stop(one);
    hosts.stop(other);
    hosts.assert_as_before(&before);
}
