//! The container's network: what is wanted of it ([`Wanted`]), a bridge ([`bridge`]), addresses on it ([`lease`]), names
//! ([`names`]), whether the host passes packets on ([`forward`]), how they are translated and who may ([`nat`]), and ports of
//! the host's that stand for the container's ([`publish`], [`relay`]).
//!
//! All of it is spoken to the kernel by netlink ([`netlink`], [`socket`]): no `ip`, `iptables` or `nft` has to be there.
//! The container's init does its own part by a batch that is prepared here (`network.rs`). IPv4 only.

pub mod bridge;
mod forward;
pub mod lease;
pub mod names;
pub mod nat;
pub mod netlink;
mod nftables;
pub mod publish;
pub mod relay;
pub mod rootless;
pub mod socket;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

use bridge::Address;
use publish::Port;

use crate::error::{Result, error};
use crate::spec::{invalid, name};

/// The interface of `--net bridge`.
pub const MAIN: &str = "mini0";

/// What the options say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The interface of the bridge that it is connected with; `None` if with none.
    pub bridge: Option<String>,
    /// `None`: the lowest that is free.
    pub address: Option<Address>,
    /// Names that it has for the others on the bridge, besides its own.
    pub aliases: Vec<String>,
    /// Ports of the host's that stand for the container's.
    pub ports: Vec<Port>,
    /// Whether the bridge stays when it is the last.
    pub keep: bool,
    /// Name and address, for its /etc/hosts.
    pub hosts: Vec<(String, String)>,
    /// Name servers, and domains that names are looked up in.
    pub servers: Vec<String>,
    pub search: Vec<String>,
}

impl Wanted {
    /// What belongs to a bridge must not be given without, nor a port of the host's twice.
    pub fn check(&self) -> Result<()> {
        if self.bridge.is_some() {
            return match publish::twice(&self.ports) {
                Some(port) => Err(error!(
                    "--publish: {}/{} is given twice",
                    port.host,
                    port.protocol()
                )),
                None => Ok(()),
            };
        }
        for (given, option) in [
            (self.address.is_some(), "--ip"),
            (!self.aliases.is_empty(), "--net-alias"),
            (self.keep, "--net-keep"),
            (!self.ports.is_empty(), "--publish"),
        ] {
            if given {
                return Err(error!("{option}: only with --net bridge"));
            }
        }
        Ok(())
    }
}

/// `bridge[:NAME]` as the name of an interface, of which the kernel takes 15 bytes; `None` if it is something else.
pub fn bridge_name(text: &str) -> Option<Result<String>> {
    let rest = text.strip_prefix("bridge")?;
    if rest.is_empty() {
        return Some(Ok(MAIN.to_owned()));
    }
    let given = rest.strip_prefix(':')?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let what = "the name of a bridge has 1 to 10 letters, digits, \"_\", \".\", \"-\"";
    Some(match given.len() {
        1..=10 if given.bytes().all(good) => Ok(format!("mini-{given}")),
        _ => Err(invalid("--net", text, what)),
    })
}

/// An IPv4 address that a host can have.
pub fn address(text: &str) -> Result<Address> {
    let address: std::result::Result<Ipv4Addr, _> = text.parse();
    let Ok(address) = address else {
        return Err(invalid("--ip", text, "not an IPv4 address"));
    };
    let [first, ..] = address.octets();
    // 0.0.0.0/8, and from 224.0.0.0 on: multicast, reserved, broadcast (RFC 6890).
    if first == 0 || first >= 224 || address.is_loopback() || address.is_link_local() {
        return Err(invalid("--ip", text, "not an address of a network"));
    }
    Ok(address.octets())
}

/// `NAME:IP`.
pub fn add_host(text: &str) -> Result<(String, String)> {
    let bad = |what| Err(invalid("--add-host", text, what));
    match text.split_once(':') {
        Some((_, address)) if address.parse::<IpAddr>().is_err() => bad("not an IP address"),
        Some((host, address)) => Ok((name("--add-host", host)?, address.to_owned())),
        None => bad("not NAME:IP"),
    }
}

/// A name for others, which they do not have a meaning for already.
pub fn alias(text: &str) -> Result<String> {
    let own = ["localhost", "ip6-localhost", "ip6-loopback"];
    if own.iter().any(|own| text.eq_ignore_ascii_case(own)) || text.parse::<IpAddr>().is_ok() {
        return Err(invalid("--net-alias", text, "means something else already"));
    }
    name("--net-alias", text)
}

/// The address of a name server.
pub fn server(text: &str) -> Result<String> {
    match text.parse::<IpAddr>() {
        // Which in a resolv.conf means loopback.
        Ok(address) if address.is_unspecified() => {
            Err(invalid("--dns", text, "not an address of a host"))
        }
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(invalid("--dns", text, "not an IP address")),
    }
}

/// A domain that names are looked up in; `.` alone for none.
pub fn search(text: &str) -> Result<String> {
    match text {
        "." => Ok(text.to_owned()),
        text => name("--dns-search", text),
    }
}
