//! Who is on a bridge: `MINI_RUN/net/BRIDGE/ADDRESS`, for each container a file, locked (flock(2)) by its supervisor for as
//! long as that lives. What is not locked is a dead one's, and its address free. Entries: [`join`], [`Lease::leave`],
//! [`tidy`].
//!
//! In the file are the lines of a record (`record.rs`), the id first:
//!
//!     id 0123456789ab
//!     hostname web, name web, alias www    its names, each on its line
//!     host 192.0.2.1 db                    each --add-host
//!     port 0.0.0.0:8080->80/tcp            each port that is led on to it
//!
//! An address that nobody holds is not given to another one before the interface of the container that had it has gone: by
//! `--net container:ID`, or by a descriptor, its network namespace can outlive it, and would get what is for the other. Of
//! such a lease only the line with the id is left: names and ports have been taken back.
//!
//! Whoever comes or goes has the lock of `MINI_RUN/net` meanwhile. So there are no two at the same address, nobody removes a
//! bridge that another one is about to join, and /etc/hosts of all is written by one at a time.

use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, ftruncate, mkdir, openat};
use rustix::io::Errno;

use super::bridge::{self, Address, Bridge, Known, PREFIX};
use super::publish::Port;
use super::socket::Socket;
use super::{MAIN, Wanted, forward, names, nat};
use crate::error::{Error, Result, error};
use crate::proc;
use crate::record::Record;
use crate::store;

/// Below `MINI_RUN`.
const NET: &str = "net";

/// A container's place on a bridge. Its file is locked until this is dropped.
pub struct Lease {
    pub bridge: Bridge,
    pub address: Address,
    /// A socket for nf_tables, and whose chain drops what is forwarded, if one does; or why there are no rules for the bridge.
    filter: Result<(Option<Socket>, Option<String>)>,
    id: String,
    /// The bridge's directory.
    directory: PathBuf,
    /// Which need not be opened again.
    socket: Socket,
    /// Whether ports are led on to it.
    published: bool,
    file: OwnedFd,
}

/// What is in a bridge's directory of containers: those that live, the dead, and of these the ones that are still connected.
struct Found {
    known: Known,
    live: Vec<(Address, Record)>,
    dead: Vec<(Address, Record)>,
    connected: Vec<(Address, Record)>,
}

fn open(path: &Path, create: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    flags.set(OFlags::CREATE, create);
    let path = path.as_os_str().as_bytes();
    openat(CWD, path, flags, Mode::from_raw_mode(0o600))
}

/// The leases in a bridge's directory.
fn leases(directory: &Path) -> impl Iterator<Item = (Address, PathBuf, OwnedFd)> {
    store::names(directory).into_iter().filter_map(|name| {
        let address = name.parse::<Ipv4Addr>().ok()?;
        let path = directory.join(&name);
        let file = open(&path, false).ok()?;
        Some((address.octets(), path, file))
    })
}

fn read(path: PathBuf, file: &OwnedFd) -> Record {
    Record::parse(path, proc::rest(file).unwrap_or_default())
}

/// Whether somebody has the lock. Asked under the lock of all bridges, so that nobody else tries whether he can have it.
fn lives(file: &OwnedFd) -> bool {
    flock(file, FlockOperation::NonBlockingLockShared).is_err()
}

/// Whether somebody lives on a bridge, and nobody is dead there.
fn is_settled(directory: &Path) -> bool {
    let mut some = false;
    leases(directory).all(|(.., file)| {
        some = true;
        lives(&file)
    }) && some
}

/// Looks at all leases of a bridge, under the lock, for the container `own`.
fn look(socket: &Socket, directory: &Path, own: &str) -> Found {
    let mut found = Found {
        known: bridge::known(directory),
        live: Vec::new(),
        dead: Vec::new(),
        connected: Vec::new(),
    };
    for (address, path, file) in leases(directory) {
        let record = read(path, &file);
        let id = record.text("id").unwrap_or_default();
        // One that is started again takes the interface away itself, and keeps its address.
        let kind = match () {
            _ if lives(&file) => &mut found.live,
            _ if found.known.here && id != own && bridge::is_connected(socket, &id) => {
                &mut found.connected
            }
            _ => &mut found.dead,
        };
        kind.push((address, record));
    }
    found
}

/// The ports that were led on to a container.
fn ports(lease: &Record) -> Vec<Port> {
    let port = |text: Vec<u8>| Port::read(&String::from_utf8_lossy(&text));
    lease.all("port").into_iter().filter_map(port).collect()
}

/// The published ports of all that live on bridges in this network namespace.
fn taken(top: &Path) -> Vec<Port> {
    let mut taken = Vec::new();
    for name in store::names(top) {
        let directory = top.join(name);
        if bridge::known(&directory).here {
            for (_, path, file) in leases(&directory).filter(|(.., file)| lives(file)) {
                let lease = read(path, &file);
                taken.extend(ports(&lease));
            }
        }
    }
    taken
}

/// How long a lease is that has only the id.
fn retained(id: &str) -> u64 {
    "id \n".len() as u64 + id.len() as u64
}

/// Whether a lease has more than that.
fn is_whole(lease: &Record) -> bool {
    lease.text("hostname").is_some()
}

/// Takes back what dead containers have had on a bridge, of those that are still connected all but the address. Whether the
/// others have to be told.
fn bury(top: &Path, directory: &Path, found: &Found) -> bool {
    let connected = || found.connected.iter().filter(|(_, lease)| is_whole(lease));
    if found.known.here {
        let published = |(address, lease): &(Address, Record)| {
            let ports = ports(lease);
            (!ports.is_empty()).then(|| (ports, Ipv4Addr::from(*address)))
        };
        let dead = found.dead.iter().chain(connected());
        let mut published: Vec<_> = dead.filter_map(published).collect();
        if !published.is_empty() {
            // Who has such a port by now has it led to himself.
            let taken = taken(top);
            for (ports, _) in &mut published {
                ports.retain(|port| !taken.iter().any(|other| other.is_same(port)));
            }
            nat::unpublish(&published);
        }
    }
    for (_, lease) in connected() {
        let id = lease.text("id").unwrap_or_default();
        // If that fails it is done again.
        let _ = open(&lease.directory, false).and_then(|file| ftruncate(&file, retained(&id)));
    }
    for (_, lease) in &found.dead {
        let _ = std::fs::remove_file(&lease.directory);
        if let Some(id) = lease.text("id") {
            let _ = std::fs::remove_file(directory.join(names::hosts_file(&id)));
        }
    }
    let mut all = found.dead.iter().chain(connected());
    all.any(|(_, lease)| is_whole(lease))
}

/// Takes an address on the wanted bridge, which is made if it is not there, and tells the others on it. `text` is what the
/// lease says of the container `id`.
pub fn join(run: &Path, wanted: &Wanted, id: &str, text: &[u8]) -> Result<Lease> {
    let name = wanted.bridge.as_deref().unwrap_or(MAIN);
    let top = store::private(run, NET)?;
    let _guard = store::lock(&top, FlockOperation::LockExclusive)?;
    let directory = top.join(name);
    // In a directory that nobody else can write to: what is there is mini's.
    match mkdir(directory.as_os_str().as_bytes(), Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => {
            let path = directory.as_os_str().as_bytes();
            return Err(Error::sys("mkdir", path, errno));
        }
    }
    let socket = Socket::route()?;
    let found = look(&socket, &directory, id);
    bury(&top, &directory, &found);
    let mut live = found.live;
    let (alive, used) = (live.len(), !live.is_empty() || !found.connected.is_empty());
    let bridge = bridge::ensure(&socket, &directory, name, wanted, &found.known, used)?;
    let filter = nat::bridge_added(name, bridge.gateway.into(), &|| forward::is_closed(&top));
    let published = !wanted.ports.is_empty();
    let filter = filter.map(|(socket, chain)| (Some(socket).filter(|_| published), chain));
    if filter.is_ok() {
        // Not without the rules: the host would pass on what anybody sends.
        forward::on(&top)?;
    }
    live.extend(found.connected);
    let address = free(&bridge, wanted.address, &live)?;
    live.truncate(alive);
    let path = directory.join(Ipv4Addr::from(address).to_string());
    let written = open(&path, true).and_then(|file| {
        // Locked first: from then on it is nobody's who is dead.
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        match rustix::io::write(&file, text)? {
            length if length == text.len() => Ok(file),
            _ => Err(Errno::NOSPC),
        }
    });
    let failed = |errno| Error::sys("write", path.as_os_str().as_bytes(), errno);
    let file = written.map_err(failed)?;
    let lease = Lease {
        bridge,
        address,
        filter,
        id: id.to_owned(),
        directory,
        socket,
        published,
        file,
    };
    live.push((address, Record::parse(path, text.to_vec())));
    names::refresh(&lease.directory, &live)?;
    Ok(lease)
}

/// The lowest address that is free, or the wanted one.
fn free(bridge: &Bridge, wanted: Option<Address>, live: &[(Address, Record)]) -> Result<Address> {
    let [a, b, c, _] = bridge.gateway;
    let has = |address| live.iter().find(|(other, _)| *other == address);
    let Some(wanted) = wanted else {
        let mut all = (2..=254).map(|number| [a, b, c, number]);
        let error = || error!("--net bridge: all addresses of {} are taken", bridge.name);
        return all.find(|it| has(*it).is_none()).ok_or_else(error);
    };
    let show = Ipv4Addr::from(wanted);
    let what = match (wanted, has(wanted)) {
        ([x, y, z, _], _) if [x, y, z] != [a, b, c] => {
            format!(
                "not in the network of {}, {a}.{b}.{c}.0/{PREFIX}",
                bridge.name
            )
        }
        ([.., 0 | 255], _) => "not an address of a host".to_owned(),
        (_, _) if wanted == bridge.gateway => format!("that of {} itself", bridge.name),
        (_, Some((_, lease))) => {
            let id = lease.text("id").unwrap_or_default();
            format!("container {id} has it")
        }
        (_, None) => return Ok(wanted),
    };
    Err(error!("--ip {show}: {what}"))
}

impl Lease {
    /// The lines for the container's own record.
    pub fn record(&self) -> String {
        let Bridge { name, gateway, .. } = &self.bridge;
        let (address, gateway) = (Ipv4Addr::from(self.address), Ipv4Addr::from(*gateway));
        format!("bridge {name}\naddress {address}/{PREFIX}\ngateway {gateway}\n")
    }

    /// Connects the container, of which this process is the first, with the bridge.
    pub fn connect(&self, process: u32) -> Result<()> {
        let Lease {
            socket, bridge, id, ..
        } = self;
        bridge::connect(socket, bridge, id, process, self.address)
    }

    /// In words, what does not work on this bridge (an error), or may not.
    pub fn doubt(&self) -> Result<Option<String>> {
        let name = &self.bridge.name;
        match &self.filter {
            Ok((_, None)) => Ok(None),
            Ok((_, Some(chain))) => Ok(Some(format!(
                "{name}: its containers may not get out: {chain} drops what is forwarded"
            ))),
            Err(why) => Err(error!(
                "{name} is not kept apart from other networks, nor are its containers let out: {why}"
            )),
        }
    }

    /// Has the kernel lead who comes to these ports from outside on to the container, and the container itself, too. An
    /// error if there are no rules, or somebody else does not let him, as was found when the container joined.
    pub fn publish(&self, ports: &[Port]) -> Result<()> {
        match &self.filter {
            Err(why) => return Err(Error::new(&**why)),
            Ok((_, Some(chain))) => {
                // Nor are they led to who had them before.
                nat::unpublish(&[(ports.to_vec(), self.address.into())]);
                return Err(error!("{chain} drops what is forwarded"));
            }
            Ok((Some(socket), None)) => nat::publish(socket, ports, self.address.into())?,
            Ok((None, None)) => {}
        }
        bridge::reflect(&self.socket, &self.id)
    }

    /// What the container's init does to its own network.
    pub fn inside(&self) -> Vec<u8> {
        bridge::inside(self.address, self.bridge.gateway)
    }

    /// Gives the place back, and tells the others. Whether there is something left for [`tidy`]: a bridge without anybody,
    /// or ports, since the kernel takes 8 ms to forget one, and whoever has told it to waits for that when it ends. The
    /// interface goes with the container's network namespace, and the address with the interface.
    pub fn leave(self) -> Result<bool> {
        let top = self.directory.parent().unwrap_or(&self.directory);
        let _guard = store::lock(top, FlockOperation::LockExclusive)?;
        let (mut live, mut published) = (Vec::new(), self.published);
        for (address, path, file) in leases(&self.directory) {
            if address != self.address {
                let lease = read(path, &file);
                match lives(&file) {
                    true => live.push((address, lease)),
                    false => published |= lease.text("port").is_some(),
                }
            }
        }
        names::refresh(&self.directory, &live)?;
        if !self.published {
            let _ = ftruncate(&self.file, retained(&self.id));
        }
        // Nobody is to see it half given back.
        drop(self.file);
        Ok(live.is_empty() || published)
    }
}

/// Removes what dead containers have left, and bridges on which nobody is. With `patient` it waits for the kernel, which
/// takes 15 ms for a bridge, and for others that are at it; without, it leaves that to somebody else. Whether all is done.
pub fn tidy(run: &Path, patient: bool) -> Result<bool> {
    let Some(top) = store::existing(run, NET)? else {
        return Ok(true);
    };
    let operation = match patient {
        true => FlockOperation::LockExclusive,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    let Ok(_guard) = store::lock(&top, operation) else {
        return Ok(false);
    };
    let (mut done, mut left) = (true, false);
    let directories = store::names(&top).into_iter().map(|name| top.join(name));
    for directory in directories.filter(|directory| directory.is_dir()) {
        // As is most often the case.
        if is_settled(&directory) {
            left = true;
            continue;
        }
        let socket = Socket::route()?;
        let found = look(&socket, &directory, "");
        if bury(&top, &directory, &found) {
            names::refresh(&directory, &found.live)?;
        }
        // One that is elsewhere, or is to stay.
        let stays = found.known.is_elsewhere() || found.known.keep;
        match found.live.is_empty() && !stays {
            // Nothing leads to it any more from what is still connected.
            true if patient => bridge::remove(&socket, &directory, &found.known)?,
            unused => {
                done &= !unused;
                left = true;
            }
        }
    }
    if patient {
        forward::off(&top);
    }
    // While there are bridges it is theirs.
    Ok(done && (left || !forward::is_left(&top)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_address_is_taken_or_the_wanted_one() {
        let bridge = Bridge {
            name: "mini0".into(),
            index: 3,
            gateway: [10, 177, 0, 1],
            mtu: 1500,
        };
        let lease = |last: u8| {
            let record = Record::parse("x".into(), format!("id c{last}\n").into());
            ([10, 177, 0, last], record)
        };
        let live = [lease(2), lease(4)];
        let take = |wanted| free(&bridge, wanted, &live).map_err(|error| error.to_string());
        assert_eq!(take(None), Ok([10, 177, 0, 3]));
        assert_eq!(take(Some([10, 177, 0, 9])), Ok([10, 177, 0, 9]));
        for (wanted, why) in [
            ([10, 177, 0, 4], "--ip 10.177.0.4: container c4 has it"),
            ([10, 177, 0, 1], "--ip 10.177.0.1: that of mini0 itself"),
            (
                [10, 177, 0, 255],
                "--ip 10.177.0.255: not an address of a host",
            ),
            (
                [10, 177, 1, 4],
                "--ip 10.177.1.4: not in the network of mini0, 10.177.0.0/24",
            ),
        ] {
            assert_eq!(take(Some(wanted)), Err(why.into()));
        }
        let all: Vec<_> = (2..=254).map(lease).collect();
        let error = free(&bridge, None, &all).unwrap_err();
        assert_eq!(&*error, "--net bridge: all addresses of mini0 are taken");
    }
}
