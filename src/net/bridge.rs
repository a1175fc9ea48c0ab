//! Bridges, and what is on them. Messages of rtnetlink(7), a function for each; then [`ensure`] and [`remove`].
//!
//! A bridge is mini's if its directory in `MINI_RUN/net` says so: a file `bridge` with the lines of a record (`record.rs`),
//! which is written before the interface is made, so that one half made is known again:
//!
//!     namespace 4026531840      inode of the network namespace that it is in
//!     gateway 10.177.0.1        its own address; its interface's is made from that
//!     mtu 1500
//!     keep yes                  it stays when its last container has gone
//!
//! Everything here happens under the lock of `MINI_RUN/net` (`lease.rs`). The orders of attributes are those of iproute2, with whose messages the tests compare these. Minimum kernel: veth and
//! bridge are older than any that mini runs on; IFLA_NET_NS_PID in the peer Linux 2.6.35.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;

use super::netlink::*;
use super::socket::Socket;
use super::{Wanted, nat};
use crate::error::{Error, Result, error, quote};
use crate::proc;
use crate::record::{Record, Text};
use crate::store::io;

/// An IPv4 address.
pub type Address = [u8; 4];
/// Bits that all addresses on a bridge have in common.
pub const PREFIX: u8 = 24;
/// AF_INET.
const INET: u8 = 2;
const MAKE: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE;

/// The address that an interface has on the link: one that nobody was given, made from its IP address (as Docker's).
pub fn hardware(address: Address) -> [u8; 6] {
    let [a, b, c, d] = address;
    [0x02, 0x42, a, b, c, d]
}

/// A new bridge, not up yet.
pub fn new_bridge(batch: &mut Batch, name: &str, address: Address, mtu: u32) {
    batch.message(RTM_NEWLINK, MAKE, &link(0, 0));
    batch.bytes(IFLA_ADDRESS, &hardware(address));
    batch.number(IFLA_MTU, mtu);
    batch.text(IFLA_IFNAME, name);
    batch.nest(IFLA_LINKINFO, |batch| {
        batch.bytes(IFLA_INFO_KIND, b"bridge")
    });
}

/// An interface is brought up.
pub fn set_up(batch: &mut Batch, index: u32) {
    batch.message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &link(index, IFF_UP));
}

/// An interface and all that depends on it goes.
pub fn delete_link(batch: &mut Batch, index: u32) {
    batch.message(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, &link(index, 0));
}

/// An interface gets an address of its network.
pub fn new_address(batch: &mut Batch, index: u32, address: Address) {
    let [a, b, c, _] = address;
    // struct ifaddrmsg: family, bits of the network, flags, scope, index.
    let header = [[INET, PREFIX, 0, 0], index.to_ne_bytes()];
    batch.message(RTM_NEWADDR, MAKE, header.as_flattened());
    batch.bytes(IFA_LOCAL, &address);
    batch.bytes(IFA_ADDRESS, &address);
    batch.bytes(IFA_BROADCAST, &[a, b, c, 255]);
}

/// The route to everywhere.
pub fn new_default_route(batch: &mut Batch, gateway: Address) {
    // struct rtmsg: family, bits of destination and source, type of service; table, who made it, scope, kind; flags.
    let kind = [RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST];
    let header = [[INET, 0, 0, 0], kind, [0; 4]];
    batch.message(RTM_NEWROUTE, MAKE, header.as_flattened());
    batch.bytes(RTA_GATEWAY, &gateway);
}

/// The index that a container's interface has in its own namespace, so that nobody has to look it up. 1 is `lo`, and the next
/// ones are taken where a module such as ipip or sit makes an interface of its own in every new namespace.
pub const ETH0: u32 = 100;

/// A pair of interfaces: one of this index on the bridge with index `master`, up, the other as `eth0` in the network namespace
/// of a process, which brings it up itself. They go with either namespace. The index has to be given here too, or the
/// kernel does not take the other one's (Linux 3.7; drivers/net/veth.c, veth_newlink).
pub fn new_veth(
    batch: &mut Batch,
    (index, name): (u32, &str),
    master: u32,
    mtu: u32,
    process: u32,
    inside: Address,
) {
    batch.message(RTM_NEWLINK, MAKE, &link(index, IFF_UP));
    batch.number(IFLA_MTU, mtu);
    batch.number(IFLA_MASTER, master);
    batch.text(IFLA_IFNAME, name);
    batch.nest(IFLA_LINKINFO, |batch| {
        batch.bytes(IFLA_INFO_KIND, b"veth");
        batch.nest(IFLA_INFO_DATA, |batch| {
            batch.nest(VETH_INFO_PEER, |batch| {
                // It cannot be up yet: ENOTCONN (drivers/net/veth.c, veth_open).
                batch.structure(&link(ETH0, 0));
                batch.bytes(IFLA_ADDRESS, &hardware(inside));
                batch.number(IFLA_MTU, mtu);
                batch.number(IFLA_NET_NS_PID, process);
                batch.text(IFLA_IFNAME, "eth0");
            });
        });
    });
}

/// Packets may leave a bridge by the port that they have come in by.
pub fn set_hairpin(batch: &mut Batch, name: &str) {
    batch.message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &link(0, 0));
    batch.text(IFLA_IFNAME, name);
    batch.nest(IFLA_LINKINFO, |batch| {
        batch.bytes(IFLA_INFO_SLAVE_KIND, b"bridge");
        batch.nest(IFLA_INFO_SLAVE_DATA, |batch| {
            batch.bytes(IFLA_BRPORT_MODE, &[1])
        });
    });
}

/// An interface as RTM_GETLINK tells it.
struct Link {
    index: u32,
    up: bool,
    kind: Vec<u8>,
    hardware: Vec<u8>,
    mtu: u32,
}

/// The interface of this name; `None` if there is none.
fn find(socket: &Socket, name: &str) -> Result<Option<Link>> {
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, NLM_F_REQUEST, &link(0, 0));
    batch.text(IFLA_IFNAME, name);
    // Two thirds of the answer.
    batch.number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    get(socket, &batch, name)
}

fn get(socket: &Socket, batch: &Batch, what: &str) -> Result<Option<Link>> {
    let mut found = None;
    let asked = socket.ask(batch, &mut |message| {
        // struct ifinfomsg: family, device type, index, flags, mask.
        let word_at = |at: usize| message.body.get(at..).and_then(word).unwrap_or_default();
        let attributes = message.attributes(16);
        let info = attributes.nested(IFLA_LINKINFO);
        let kind = info.value(IFLA_INFO_KIND).unwrap_or_default();
        found = Some(Link {
            index: word_at(4),
            up: word_at(8) & IFF_UP != 0,
            kind: text(kind).into_bytes(),
            hardware: attributes.value(IFLA_ADDRESS).unwrap_or_default().into(),
            mtu: attributes.number(IFLA_MTU).unwrap_or_default(),
        });
    });
    match asked {
        Err(Errno::NODEV) => Ok(None),
        other => other
            .map(|()| found)
            .map_err(|errno| Error::sys("RTM_GETLINK", what, errno)),
    }
}

/// A route of the host's: where to, in how many bits of the address, through which interface, how much it is preferred.
#[derive(Clone, Copy)]
struct Route {
    to: Address,
    bits: u8,
    interface: u32,
    metric: u32,
}

fn routes(socket: &Socket) -> Result<Vec<Route>> {
    let mut batch = Batch::new();
    let header = [INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    batch.message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &header);
    socket
        .dump(&batch, &mut |routes: &mut Vec<Route>, message| {
            let attributes = message.attributes(header.len());
            let to = attributes.value(RTA_DST).and_then(|to| to.first_chunk());
            routes.push(Route {
                to: to.copied().unwrap_or_default(),
                bits: message.body.get(1).copied().unwrap_or_default(),
                interface: attributes.number(RTA_OIF).unwrap_or_default(),
                metric: attributes.number(RTA_PRIORITY).unwrap_or_default(),
            });
        })
        .map_err(|errno| Error::sys("RTM_GETROUTE", "", errno))
}

/// Whether some address is both of this route and of the network that `gateway` is in. The default route is of none.
fn overlaps(route: &Route, gateway: Address) -> bool {
    let bits = route.bits.min(PREFIX);
    let (to, network) = (u32::from_be_bytes(route.to), u32::from_be_bytes(gateway));
    bits > 0 && (to ^ network) >> (32 - u32::from(bits)) == 0
}

/// The size of packets on the way out: that of the interface of the default route.
fn outgoing_mtu(socket: &Socket, routes: &[Route]) -> Result<u32> {
    let defaults = routes.iter().filter(|route| route.bits == 0);
    let Some(route) = defaults.min_by_key(|route| route.metric) else {
        return Ok(1500);
    };
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, NLM_F_REQUEST, &link(route.interface, 0));
    let link = get(socket, &batch, "default route")?;
    // No bridge takes less than 68, or more than 65535.
    Ok(link.map_or(1500, |link| link.mtu.clamp(68, 65535)))
}

/// A bridge that is there and up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Of its interface.
    pub name: String,
    pub index: u32,
    /// Its own address, in a network of [`PREFIX`] bits.
    pub gateway: Address,
    pub mtu: u32,
}

/// This process's network namespace, by its inode.
pub fn namespace() -> String {
    let namespace = std::fs::metadata("/proc/self/ns/net");
    namespace.map_or(String::new(), |it| it.ino().to_string())
}

const FILE: &str = "bridge";

/// What is known of a bridge.
pub struct Known {
    /// The inode of the network namespace that it is in; empty if it is none yet.
    namespace: String,
    /// Whether that is this process's.
    pub here: bool,
    gateway: Option<Address>,
    mtu: Option<u32>,
    /// Whether it stays when its last container has gone.
    pub keep: bool,
}

impl Known {
    pub fn is_elsewhere(&self) -> bool {
        !self.here && !self.namespace.is_empty()
    }
}

/// What is known of the bridge whose directory this is.
pub fn known(directory: &Path) -> Known {
    let text = proc::bytes(directory.join(FILE)).unwrap_or_default();
    let record = Record::parse(directory.to_owned(), text);
    let gateway = (record.text("gateway")).and_then(|text| text.parse::<Ipv4Addr>().ok());
    let place = record.text("namespace").unwrap_or_default();
    Known {
        here: place == namespace(),
        namespace: place,
        gateway: gateway.map(|gateway| gateway.octets()),
        mtu: record.text("mtu").and_then(|text| text.parse().ok()),
        keep: record.text("keep").is_some(),
    }
}

/// The file appears whole: killed between, mini would not know its own bridge again.
fn write(directory: &Path, gateway: Address, mtu: u32, keep: bool) -> Result<()> {
    let mut text = Text::more();
    text.line("namespace", namespace().as_bytes());
    text.line("gateway", Ipv4Addr::from(gateway).to_string().as_bytes());
    text.line("mtu", mtu.to_string().as_bytes());
    if keep {
        text.line("keep", b"yes");
    }
    let new = directory.join(".new-bridge");
    let path = directory.join(FILE);
    (std::fs::write(&new, text.bytes()).and_then(|()| std::fs::rename(&new, &path)))
        .map_err(|error| io("write", &path, error))
}

/// The bridge `name`, made if it is not there. Of the one whose directory this is, what is known, and whether a container
/// that runs is on it.
pub fn ensure(
    socket: &Socket,
    directory: &Path,
    name: &str,
    wanted: &Wanted,
    known: &Known,
    used: bool,
) -> Result<Bridge> {
    let failed = |what: &str| error!("--net bridge: {}: {what}", quote(name.as_bytes()));
    if !known.here && used {
        let error = failed("a bridge in another network namespace has this name");
        return Err(error.hint("--net bridge:NAME, or another MINI_RUN"));
    }
    let keep = known.keep;
    let known = known.gateway.zip(known.mtu).filter(|_| known.here);
    match (find(socket, name)?, known) {
        (Some(link), Some((gateway, mtu))) if is_minis(&link, gateway) => {
            if link.up {
                if keep != wanted.keep {
                    write(directory, gateway, mtu, wanted.keep)?;
                }
                return Ok(Bridge {
                    name: name.to_owned(),
                    index: link.index,
                    gateway,
                    mtu,
                });
            }
            delete(socket, link.index, name)?;
        }
        (Some(_), _) => {
            let error = failed("there is an interface of this name that mini has not made");
            return Err(error.hint("--net bridge:NAME takes another name"));
        }
        (None, _) => {}
    }
    let routes = routes(socket)?;
    let gateway = match known {
        // Its containers have addresses in it.
        Some((gateway, _)) if used => gateway,
        _ => network(wanted.address, &routes)?,
    };
    let mtu = outgoing_mtu(socket, &routes)?;
    write(directory, gateway, mtu, wanted.keep)?;
    make(socket, name, gateway, mtu)
}

/// Whether this is a bridge that mini has made, with this address.
fn is_minis(link: &Link, gateway: Address) -> bool {
    link.kind == b"bridge" && link.hardware == hardware(gateway)
}

/// The first address of a network for a new bridge: of the one that `address` is in, or the first that no route of the
/// host's leads to.
fn network(address: Option<Address>, routes: &[Route]) -> Result<Address> {
    let taken = |gateway| routes.iter().any(|route| overlaps(route, gateway));
    match address {
        Some([a, b, c, _]) if taken([a, b, c, 1]) => Err(error!(
            "--ip: the host has a route to {a}.{b}.{c}.0/{PREFIX} already"
        )),
        Some([a, b, c, _]) => Ok([a, b, c, 1]),
        None => {
            let mut all = (0..=255).map(|number| [10, 177, number, 1]);
            all.find(|gateway| !taken(*gateway)).ok_or_else(|| {
                let error = Error::new("--net bridge: the host has routes to all of 10.177.0.0/16");
                error.hint("--ip chooses another network")
            })
        }
    }
}

fn make(socket: &Socket, name: &str, gateway: Address, mtu: u32) -> Result<Bridge> {
    let mut batch = Batch::new();
    new_bridge(&mut batch, name, gateway, mtu);
    (socket.send(&batch))
        .map_err(|refused| failed("bridge", name, refused.errno, "CONFIG_BRIDGE"))?;
    let link = find(socket, name)?.ok_or_else(|| Error::sys("RTM_GETLINK", name, Errno::NODEV))?;
    // A container with CAP_NET_RAW could advertise itself as a router to the host (CVE-2020-13401). Without IPv6 in the kernel
    // there is no such file.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    // Who finds it up finds it complete.
    let mut batch = Batch::new();
    new_address(&mut batch, link.index, gateway);
    set_up(&mut batch, link.index);
    (socket.send(&batch))
        .map_err(|refused| failed("bridge", name, refused.errno, "CONFIG_INET"))?;
    Ok(Bridge {
        name: name.to_owned(),
        index: link.index,
        gateway,
        mtu,
    })
}

/// Why an interface could not be made. EOPNOTSUPP: the kernel knows no such kind, nor has a module for it.
pub fn failed(kind: &str, name: &str, errno: Errno, config: &str) -> Error {
    let error = Error::sys(&format!("RTM_NEWLINK {kind}"), name, errno);
    match errno {
        Errno::OPNOTSUPP => error.hint(&format!(
            "this kernel lacks {config}, or its module {kind} is not there"
        )),
        Errno::PERM => error.hint("it takes CAP_NET_ADMIN"),
        _ => error,
    }
}

fn delete(socket: &Socket, index: u32, name: &str) -> Result<()> {
    let mut batch = Batch::new();
    delete_link(&mut batch, index);
    match socket.send(&batch) {
        Err(refused) if refused.errno != Errno::NODEV => {
            Err(Error::sys("RTM_DELLINK", name, refused.errno))
        }
        _ => Ok(()),
    }
}

/// Removes a bridge on which nobody is, with its directory. One in another network namespace stays for a command there.
pub fn remove(socket: &Socket, directory: &Path, known: &Known) -> Result<()> {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    if let Some(gateway) = known.gateway {
        nat::bridge_removed(&name, gateway.into());
        if let Some(link) = find(socket, &name)?
            && is_minis(&link, gateway)
        {
            delete(socket, link.index, &name)?;
        }
    }
    std::fs::remove_dir_all(directory).map_err(|error| io("remove", directory, error))
}

/// The name of the host's end of a container's pair: 15 bytes at most, and no bridge's name: those are mini0 or begin with
/// mini-.
fn host_end(id: &str) -> String {
    format!("mini{}", id.get(..11).unwrap_or(id))
}

/// Whether the host's end of a container's pair is there: until the last process or descriptor of its network namespace has
/// gone, and the kernel has got to it.
pub fn is_connected(socket: &Socket, id: &str) -> bool {
    // If that cannot be told it may be.
    !matches!(find(socket, &host_end(id)), Ok(None))
}

/// Connects a container, of which this process is the first, with a bridge. The name of the host's end is made from the id.
pub fn connect(
    socket: &Socket,
    bridge: &Bridge,
    id: &str,
    process: u32,
    address: Address,
) -> Result<()> {
    let name = host_end(id);
    // Far above what the kernel hands out, and hardly ever another one's.
    let number = id.get(..6).and_then(|id| u32::from_str_radix(id, 16).ok());
    let mut index = 0x10000 + number.unwrap_or_default();
    for _ in 0..10 {
        let mut batch = Batch::new();
        let (master, mtu) = (bridge.index, bridge.mtu);
        new_veth(&mut batch, (index, &name), master, mtu, process, address);
        match socket.send(&batch).map_err(|refused| refused.errno) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {
                // That of the run before, of a container that is started again: the kernel has not got to it yet.
                if let Some(link) = find(socket, &name)? {
                    delete(socket, link.index, &name)?;
                }
            }
            Err(Errno::BUSY) => index += 1,
            Err(errno) => return Err(failed("veth", &name, errno, "CONFIG_VETH")),
        }
    }
    Err(failed("veth", &name, Errno::EXIST, ""))
}

/// Lets packets out of the bridge's port by which they have come in, so that a container reaches itself by a port of the
/// host's: hairpin mode.
pub fn reflect(socket: &Socket, id: &str) -> Result<()> {
    let name = host_end(id);
    let mut batch = Batch::new();
    set_hairpin(&mut batch, &name);
    let sent = socket.send(&batch);
    sent.map_err(|refused| Error::sys("RTM_NEWLINK hairpin", &name, refused.errno))
}

/// What the container's init sends in its own namespace: `lo` and `eth0` up, its address, the route to everywhere.
pub fn inside(address: Address, gateway: Address) -> Vec<u8> {
    let mut batch = Batch::new();
    set_up(&mut batch, 1);
    new_address(&mut batch, ETH0, address);
    set_up(&mut batch, ETH0);
    new_default_route(&mut batch, gateway);
    batch.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_chosen_that_no_route_leads_to() {
        let route = |to, bits| Route {
            to,
            bits,
            interface: 2,
            metric: 0,
        };
        let default = route([0; 4], 0);
        assert_eq!(network(None, &[default]).unwrap(), [10, 177, 0, 1]);
        let routes = [
            default,
            route([10, 177, 0, 128], 25),
            route([10, 177, 1, 7], 32),
            route([10, 177, 2, 0], 23),
            route([10, 0, 0, 0], 9),
        ];
        assert_eq!(network(None, &routes).unwrap(), [10, 177, 4, 1]);
        let error = network(None, &[route([10, 0, 0, 0], 8)]).unwrap_err();
        assert_eq!(
            &*error,
            "--net bridge: the host has routes to all of 10.177.0.0/16 (--ip chooses another network)"
        );
        let wanted = Some([192, 168, 5, 77]);
        assert_eq!(network(wanted, &routes).unwrap(), [192, 168, 5, 1]);
        let error = network(wanted, &[route([192, 168, 0, 0], 16)]).unwrap_err();
        assert_eq!(
            &*error,
            "--ip: the host has a route to 192.168.5.0/24 already"
        );
    }
}
