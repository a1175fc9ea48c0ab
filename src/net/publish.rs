//! Published ports (`--publish`): sockets of the host that stand for ports of a container. tcp(7), udp(7), ip(7) for
//! IP_PKTINFO.
//!
//! The supervisor binds the host's ports before anything else is made, so that one in use is an error at once and one that
//! is free stays reserved. Who comes from outside is led on to the container by the kernel, and the container sees its
//! address (`nat.rs`). Whom that does not reach, meets these sockets: the host itself, on loopback or its own address, and
//! everybody where the kernel cannot or may not forward. They are served by a relay (`relay.rs`).
//!
//! Left out: IPv6; protocols other than TCP and UDP.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use container::sys;

use crate::error::{Error, Result};
use crate::spec::invalid;

/// A port of the host's that stands for one of the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The host's address; unspecified for all it has.
    pub address: Ipv4Addr,
    pub host: u16,
    pub container: u16,
    pub udp: bool,
}

impl Port {
    pub fn protocol(&self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }

    /// Whether both are the same port of the host's, whatever is behind it.
    pub fn is_same(&self, other: &Port) -> bool {
        (self.address, self.host, self.udp) == (other.address, other.host, other.udp)
    }

    fn socket(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, self.host)
    }

    /// Writes the calls that take it.
    pub fn write_call(&self, f: &mut fmt::Formatter<'_>, high: bool) -> fmt::Result {
        let (kind, then) = match self.udp {
            true => ("SOCK_DGRAM", ""),
            false => ("SOCK_STREAM", ", listen({port})"),
        };
        let address = self.socket();
        write!(
            f,
            "socket(AF_INET, {kind}) = {{port}}, bind({{port}}, {address}){then}"
        )?;
        match high {
            true => {
                f.write_str(", fcntl({port}, F_DUPFD_CLOEXEC, RLIMIT_NOFILE), prlimit around it")
            }
            false => Ok(()),
        }
    }

    /// What [`fmt::Display`] makes of it, read back.
    pub fn read(text: &str) -> Option<Port> {
        let (socket, rest) = text.split_once("->")?;
        let ports = parse(&format!("{socket}:{rest}")).ok()?;
        ports.first().copied()
    }
}

/// As `docker ps` has it.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (socket, protocol) = (self.socket(), self.protocol());
        write!(f, "{socket}->{}/{protocol}", self.container)
    }
}

/// `[ADDR:]HOST:CONTAINER[/tcp|/udp]`, where HOST and CONTAINER are ports or ranges of as many: a port for each.
pub fn parse(text: &str) -> Result<Vec<Port>> {
    let bad = |what: &str| Err(invalid("--publish", text, what));
    let (rest, udp) = match text.split_once('/') {
        None => (text, false),
        Some((rest, "tcp")) => (rest, false),
        Some((rest, "udp")) => (rest, true),
        Some(_) => return bad("neither /tcp nor /udp"),
    };
    let mut parts = rest.rsplitn(3, ':');
    let (Some(container), Some(host)) = (parts.next(), parts.next()) else {
        return bad("not [ADDR:]HOST:CONTAINER[/udp]");
    };
    let address = match parts.next().map(str::parse::<Ipv4Addr>) {
        None => Ipv4Addr::UNSPECIFIED,
        Some(Ok(address)) if address.is_multicast() || address.is_broadcast() => {
            return bad("the address is not one of a host");
        }
        Some(Ok(address)) => address,
        Some(Err(_)) => return bad("the address is not an IPv4 address"),
    };
    let (Some(host), Some(container)) = (range(host), range(container)) else {
        return bad("not a port (1 to 65535) or a range of ports");
    };
    if host.clone().count() != container.clone().count() {
        return bad("the ranges differ in length");
    }
    let port = |(host, container)| Port {
        address,
        host,
        container,
        udp,
    };
    Ok(host.zip(container).map(port).collect())
}

/// A port of the host's that is given twice: also once on one address and once on all.
pub fn twice(ports: &[Port]) -> Option<Port> {
    let mut sorted = ports.to_vec();
    // Of the same port that on all addresses, 0.0.0.0, comes first.
    sorted.sort_unstable_by_key(|port| (port.udp, port.host, port.address));
    let same = |pair: &&[Port]| {
        let all = pair[0].address.is_unspecified();
        (pair[0].udp, pair[0].host) == (pair[1].udp, pair[1].host)
            && (all || pair[0].address == pair[1].address)
    };
    sorted.windows(2).find(same).map(|pair| pair[0])
}

fn range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port > 0)
    };
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

/// So many ports have descriptors like any other file's.
pub const FEW: usize = 128;

/// Takes a port of the host's. From now on clients wait for it to be relayed. `high` if there are more than [`FEW`].
pub fn open(port: &Port, high: bool) -> Result<OwnedFd> {
    let object = format!("{}/{}", port.socket(), port.protocol());
    let failed = |errno| {
        Error::sys("bind", &object, errno).hint(match errno {
            Errno::ADDRINUSE => "--publish: somebody else has this port",
            Errno::ACCESS => {
                "--publish: ports below net.ipv4.ip_unprivileged_port_start take CAP_NET_BIND_SERVICE"
            }
            Errno::ADDRNOTAVAIL => "--publish: that is no address of this machine",
            _ => "--publish",
        })
    };
    let socket = bound(port).map_err(failed)?;
    match high {
        // If it cannot be, there is no limit to speak of, or it will be met.
        true => Ok(move_up(&socket).unwrap_or(socket)),
        false => Ok(socket),
    }
}

/// The same socket with a number above RLIMIT_NOFILE, which is raised for the moment. So the ones below stay free for
/// what else the supervisor opens, and the container, which has the limits of the supervisor, gets the usual one.
fn move_up(socket: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    /// As many ports as there are, of both protocols.
    const MORE: u64 = 1 << 17;
    let (soft, hard) = sys::limit(0, raw::RLIMIT_NOFILE, None)?;
    let raised = soft.saturating_add(MORE);
    let raise = |to: u64| sys::limit(0, raw::RLIMIT_NOFILE, Some((to, hard.max(to))));
    // Above the hard one it takes CAP_SYS_RESOURCE.
    raise(raised).or_else(|_| raise(hard))?;
    let moved = fcntl_dupfd_cloexec(socket, soft as i32);
    sys::limit(0, raw::RLIMIT_NOFILE, Some((soft, hard)))?;
    moved
}

fn bound(port: &Port) -> rustix::io::Result<OwnedFd> {
    let socket = stream_or_datagrams(port.udp)?;
    if port.udp {
        bind(&socket, &port.socket())?;
        sys::want_packet_info(&socket)?;
        return Ok(socket);
    }
    // Connections that have ended may still hold the port (TIME_WAIT); who listens on it holds it nevertheless.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Every accepted socket inherits these: small pieces go on at once, and a client that is gone is noticed.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_secs(120))?;
    bind(&socket, &port.socket())?;
    listen(&socket, 4096)?;
    Ok(socket)
}

/// A socket that never waits.
pub fn stream_or_datagrams(udp: bool) -> rustix::io::Result<OwnedFd> {
    let kind = if udp {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
    if udp {
        // Two datagrams of 64 KB, as the kernel counts them, are more than fit by default. It takes CAP_NET_ADMIN.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, 1 << 20);
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn lines(text: &str) -> Vec<String> {
        let ports = parse(text).unwrap();
        ports.iter().map(Port::to_string).collect()
    }

    #[test]
    fn ports_and_ranges() {
        assert_eq!(lines("8080:80"), ["0.0.0.0:8080->80/tcp"]);
        assert_eq!(lines("8080:80/tcp"), ["0.0.0.0:8080->80/tcp"]);
        assert_eq!(lines("127.0.0.1:53:53/udp"), ["127.0.0.1:53->53/udp"]);
        assert_eq!(
            lines("10.1.2.3:8000-8002:80-82"),
            [
                "10.1.2.3:8000->80/tcp",
                "10.1.2.3:8001->81/tcp",
                "10.1.2.3:8002->82/tcp"
            ]
        );
        assert_eq!(parse("1-65535:1-65535/udp").unwrap().len(), 65535);
    }

    #[test]
    fn a_port_of_the_hosts_is_there_once() {
        let twice = |texts: &[&str]| {
            let ports: Vec<Port> = texts.iter().flat_map(|it| parse(it).unwrap()).collect();
            twice(&ports).map(|port| port.to_string())
        };
        let once = [
            "80:80",
            "80:80/udp",
            "81:80",
            "127.0.0.1:82:80",
            "10.0.0.1:82:80",
        ];
        assert_eq!(twice(&once), None);
        let first = |port: &str| Some(port.to_owned());
        assert_eq!(twice(&["80:80", "80:81"]), first("0.0.0.0:80->80/tcp"));
        let ranges = ["70-90:70-90/udp", "10.0.0.1:81:1/tcp", "10.0.0.1:90:1/udp"];
        assert_eq!(twice(&ranges), first("0.0.0.0:90->90/udp"));
        let one = ["127.0.0.1:5:5", "127.0.0.2:5:5", "127.0.0.1:5:6"];
        assert_eq!(
            twice(&one).map(|port| port[..11].to_owned()),
            first("127.0.0.1:5")
        );
    }

    #[test]
    fn what_is_no_port() {
        for (text, what) in [
            ("", "not [ADDR:]HOST:CONTAINER[/udp]"),
            ("80", "not [ADDR:]HOST:CONTAINER[/udp]"),
            ("80:80/sctp", "neither /tcp nor /udp"),
            ("x:80:80", "the address is not an IPv4 address"),
            ("::1:80:80", "the address is not an IPv4 address"),
            ("0:80", "not a port (1 to 65535) or a range of ports"),
            ("+1:80", "not a port (1 to 65535) or a range of ports"),
            ("65536:80", "not a port (1 to 65535) or a range of ports"),
            ("9-8:80-81", "not a port (1 to 65535) or a range of ports"),
            ("80-90:80", "the ranges differ in length"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("--publish \"{text}\": {what}"));
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((LOCAL, 0)).unwrap();
        let host = taken.local_addr().unwrap().port();
        let port = parse(&format!("127.0.0.1:{host}:80")).unwrap()[0];
        let error = open(&port, false).unwrap_err().to_string();
        let expected = format!(
            "bind(\"127.0.0.1:{host}/tcp\"): Address already in use (--publish: somebody else has this port)"
        );
        assert_eq!(error, expected);
    }
}
