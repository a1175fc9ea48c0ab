//! The packet filter's part: one table of nf_tables, `ip mini`, which leads who comes to a published port on to the
//! container, lets containers out under the host's address, and keeps bridges apart. nft(8); its messages are in
//! `nftables.rs`.
//!
//! The table is made with the first bridge and goes with the last, in one transaction either way. Nobody else's table is
//! touched: base chains of several tables are called one after the other, by priority. Its rules, [`RULES`], never change;
//! what does are elements of sets and maps, so a container with published ports is one message more. Shown by
//! `nft list table ip mini`.
//!
//! Ports are translated only in prerouting: what the host itself sends, to loopback or its own address, meets the socket of
//! the supervisor (`publish.rs`), and needs no route_localnet. A drop by anybody is final, whatever is accepted here. So where
//! somebody else drops by policy what is forwarded, as Docker and ufw do, ports are not translated, and the sockets serve
//! everybody ([`refusal`]).
//!
//! Minimum kernel: Linux 4.10 (fib). Left out: IPv6; other people's rules that drop although their chain's policy is to accept (firewalld's): they cannot be told from those that do not
//! concern these packets. Connections that conntrack knows go on as they are when a port has gone.

use std::net::Ipv4Addr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};

use container::sys;

use super::netlink::*;
use super::nftables::*;
use super::publish::Port;
use super::socket::Socket;
use crate::error::{Error, Result, error, quote, reason};

use Expression::*;

/// Their interfaces.
static BRIDGES: Set = Set {
    name: "bridges",
    number: 1,
    key: (IFNAME, 16),
    map: false,
    note: &[0, 4, 1, 0, 0, 0],
};
/// Each bridge with itself: where a packet comes from and goes to.
static PAIRS: Set = Set {
    name: "pairs",
    number: 2,
    key: (IFNAME << 6 | IFNAME, 32),
    map: false,
    note: &[0, 4, 0, 0, 0, 0, 3, 8, 0, 4, 13, 0, 0, 0, 1, 0],
};
/// The networks of the bridges, without the bits of the host.
static SUBNETS: Set = Set {
    name: "subnets",
    number: 3,
    key: (IPV4_ADDR, 4),
    map: false,
    note: &[0, 4, 2, 0, 0, 0],
};
/// Protocol and port.
static PUBLISH: Set = Set {
    name: "publish",
    number: 4,
    key: (INET_PROTO << 6 | INET_SERVICE, 8),
    map: true,
    note: NOTE_MAP,
};
/// The same on one address only.
static PUBLISH_ON: Set = Set {
    name: "publish_on",
    number: 5,
    key: (IPV4_ADDR << 12 | INET_PROTO << 6 | INET_SERVICE, 12),
    map: true,
    note: NOTE_MAP,
};
/// So many elements go into one transaction: all of it has to fit into the socket's buffer, 200 KB.
const AT_ONCE: usize = 500;
static SETS: [&Set; 5] = [&BRIDGES, &PAIRS, &SUBNETS, &PUBLISH, &PUBLISH_ON];

const CHAINS: [Chain; 3] = [
    ("prerouting", "nat", NF_INET_PRE_ROUTING, NF_IP_PRI_NAT_DST),
    (
        "postrouting",
        "nat",
        NF_INET_POST_ROUTING,
        NF_IP_PRI_NAT_SRC,
    ),
    ("forward", "filter", NF_INET_FORWARD, NF_IP_PRI_FILTER),
];

const IIFNAME: Expression = Meta(NFT_META_IIFNAME, NFT_REG_1);
const OIFNAME: Expression = Meta(NFT_META_OIFNAME, NFT_REG_1);
const SADDR: Expression = Network(12, 4, NFT_REG_1);
/// It goes to somewhere else than where it was sent.
const DNATTED: Expression = Ct(2, 0x20);
/// ESTABLISHED or RELATED.
const KNOWN: Expression = Ct(0, 0x6);

/// The rules, and above each how nft shows it.
static RULES: [(&str, &[Expression]); 10] = [
    // fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @publish_on
    (
        "prerouting",
        &[
            ForThisMachine,
            Network(16, 4, NFT_REG_1),
            Meta(NFT_META_L4PROTO, NFT_REG32_01),
            Transport(2, 2, NFT_REG32_02),
            Mapped(&PUBLISH_ON),
            Dnat,
        ],
    ),
    // fib daddr type local dnat ip to meta l4proto . th dport map @publish
    (
        "prerouting",
        &[
            ForThisMachine,
            Meta(NFT_META_L4PROTO, NFT_REG_1),
            Transport(2, 2, NFT_REG32_01),
            Mapped(&PUBLISH),
            Dnat,
        ],
    ),
    // ip saddr & 255.255.255.0 @subnets oifname != @bridges masquerade
    (
        "postrouting",
        &[
            SADDR,
            NetworkOf,
            In(&SUBNETS),
            OIFNAME,
            NotIn(&BRIDGES),
            Masquerade,
        ],
    ),
    // The answer to a container on the same bridge would go past the translation.
    // ip saddr & 255.255.255.0 @subnets oifname @bridges ct status dnat masquerade
    (
        "postrouting",
        &[
            SADDR,
            NetworkOf,
            In(&SUBNETS),
            OIFNAME,
            In(&BRIDGES),
            DNATTED,
            Masquerade,
        ],
    ),
    // iifname . oifname @pairs accept
    (
        "forward",
        &[
            IIFNAME,
            Meta(NFT_META_OIFNAME, NFT_REG_2),
            In(&PAIRS),
            Verdict(NF_ACCEPT),
        ],
    ),
    // oifname @bridges ct status dnat accept
    (
        "forward",
        &[OIFNAME, In(&BRIDGES), DNATTED, Verdict(NF_ACCEPT)],
    ),
    // iifname @bridges oifname @bridges drop
    (
        "forward",
        &[
            IIFNAME,
            In(&BRIDGES),
            OIFNAME,
            In(&BRIDGES),
            Verdict(NF_DROP),
        ],
    ),
    // oifname @bridges ct state established,related accept
    (
        "forward",
        &[OIFNAME, In(&BRIDGES), KNOWN, Verdict(NF_ACCEPT)],
    ),
    // Nobody gets in who was not asked: not by a route to the bridge's network either.
    // oifname @bridges drop
    ("forward", &[OIFNAME, In(&BRIDGES), Verdict(NF_DROP)]),
    // iifname @bridges accept
    ("forward", &[IIFNAME, In(&BRIDGES), Verdict(NF_ACCEPT)]),
];

/// Sets, chains and rules.
fn table(transaction: &mut Transaction, closed: bool) {
    transaction.new_table();
    for chain in CHAINS {
        let policy = match chain.2 {
            NF_INET_FORWARD if closed => NF_DROP,
            _ => NF_ACCEPT,
        };
        transaction.new_chain(chain, policy);
    }
    for set in SETS {
        transaction.new_set(set);
    }
    for (chain, expressions) in RULES {
        transaction.new_rule(chain, expressions);
    }
}

/// What there is of a bridge.
fn of_bridge(name: &str, network: Ipv4Addr) -> [Element; 3] {
    let mut interface = name.as_bytes().to_vec();
    interface.resize(16, 0);
    let [a, b, c, _] = network.octets();
    let pair = [&interface[..], &interface].concat();
    let element = |set, key| Element {
        set,
        key,
        data: None,
    };
    [
        element(&BRIDGES, interface),
        element(&PAIRS, pair),
        element(&SUBNETS, vec![a, b, c, 0]),
    ]
}

/// What there is of published ports of a container: in a register each part begins at a multiple of 4 bytes. To a port on
/// loopback nobody comes from outside.
fn of_ports(ports: &[Port], container: Ipv4Addr) -> Vec<Element> {
    const IPPROTO_TCP: u8 = 6;
    const IPPROTO_UDP: u8 = 17;
    let mut elements = Vec::new();
    for port in ports.iter().filter(|port| !port.address.is_loopback()) {
        let padded = |port: u16| {
            let [high, low] = port.to_be_bytes();
            [high, low, 0, 0]
        };
        let protocol = if port.udp { IPPROTO_UDP } else { IPPROTO_TCP };
        let key = [[protocol, 0, 0, 0], padded(port.host)];
        let to = [container.octets(), padded(port.container)];
        let (set, key) = match port.address {
            Ipv4Addr::UNSPECIFIED => (&PUBLISH, key.concat()),
            address => (&PUBLISH_ON, [&address.octets()[..], &key.concat()].concat()),
        };
        let mut data = [0; 8];
        data.copy_from_slice(to.as_flattened());
        let data = Some(data);
        elements.push(Element { set, key, data });
    }
    elements
}

/// The keys of the elements of a set.
fn keys(socket: &Socket, set: &Set) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut batch = Batch::new();
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    batch.message(kind, flags, &[NFPROTO_IPV4, 0, 0, 0]);
    batch.text(NFTA_TABLE, TABLE);
    batch.text(NFTA_SET_ELEM_LIST_SET, set.name);
    socket.dump(&batch, &mut |keys: &mut Vec<Vec<u8>>, message| {
        let elements = message.attributes(4).nested(NFTA_SET_ELEM_LIST_ELEMENTS);
        keys.extend(elements.filter_map(|(_, element)| {
            let key = Attributes(element).nested(NFTA_SET_ELEM_KEY);
            key.value(NFTA_DATA_VALUE).map(<[u8]>::to_vec)
        }));
    })
}

/// Takes elements away. Those that are not there do not matter; one of them would have a whole transaction refused. Whether
/// there were any.
fn remove(socket: &Socket, elements: &[Element]) -> bool {
    let mut some = false;
    for set in SETS {
        let mut own: Vec<&Element> = elements.iter().collect();
        own.retain(|element| element.set.number == set.number);
        if own.is_empty() {
            continue;
        }
        match keys(socket, set) {
            Ok(mut there) => {
                there.sort_unstable();
                own.retain(|element| there.binary_search(&element.key).is_ok());
            }
            // There is no table.
            Err(Errno::NOENT) => continue,
            Err(_) => {}
        }
        some |= !own.is_empty();
        for elements in own.chunks(AT_ONCE) {
            let mut transaction = Transaction::new();
            (elements.iter()).for_each(|element| transaction.element(false, element));
            if transaction.send(socket).is_ok() {
                continue;
            }
            // All or nothing: one may have gone meanwhile.
            for element in elements {
                let mut one = Transaction::new();
                one.element(false, element);
                let _ = one.send(socket);
            }
        }
    }
    some
}

/// Adds elements, and before them the table, if it is not there and may be made: `closed` tells whether it is. Elements
/// that are there with another value are a dead supervisor's: what they stand for is this one's.
fn add(socket: &Socket, elements: &[Element], closed: Option<&dyn Fn() -> bool>) -> Result<()> {
    let send = |closed: Option<&dyn Fn() -> bool>| {
        let mut transaction = Transaction::new();
        if let Some(closed) = closed {
            table(&mut transaction, closed());
        }
        for element in elements {
            transaction.element(true, element);
        }
        let sent = transaction.send(socket);
        sent.map_err(|refused| (refused.message, refused.errno, transaction.needs))
    };
    let mut sent = send(None);
    if closed.is_some() && matches!(sent, Err((_, Errno::NOENT, _))) {
        sent = send(closed);
    }
    if let Err((_, Errno::EXIST | Errno::BUSY, _)) = sent {
        remove(socket, elements);
        sent = send(None);
    }
    sent.map_err(|(message, errno, needs)| {
        let error = error!("nf_tables(\"ip {TABLE}\"): {}", reason(errno));
        // Messages are numbered from 1; 0 is all of them.
        let needs = needs.get((message as usize).saturating_sub(1));
        match errno {
            Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT => {
                error.hint(needs.unwrap_or(&"CONFIG_NF_TABLES"))
            }
            _ => error,
        }
    })
}

/// A bridge of this network (its /24) has been made: containers on it get out, and no other bridge's reach them. `closed`
/// tells whether nobody but mini wanted this machine to forward anything, so that nobody else's packets are.
///
/// Every container that joins it sees to that, since the table is gone when somebody has flushed all there are: a
/// transaction that finds all there costs no more than a look. Returns the socket, for [`publish`], and whose chain drops
/// what is forwarded, if one does.
pub fn bridge_added(
    name: &str,
    network: Ipv4Addr,
    closed: &dyn Fn() -> bool,
) -> Result<(Socket, Option<String>)> {
    let socket = Socket::netfilter()?;
    add(&socket, &of_bridge(name, network), Some(closed))?;
    let chain = refusal(&socket)?;
    Ok((socket, chain))
}

/// A bridge has gone, or is about to. With the last the table goes.
pub fn bridge_removed(name: &str, network: Ipv4Addr) {
    let Ok(socket) = Socket::netfilter() else {
        return;
    };
    remove(&socket, &of_bridge(name, network));
    if keys(&socket, &BRIDGES).is_ok_and(|left| left.is_empty()) {
        let mut transaction = Transaction::new();
        transaction.message(NFT_MSG_DELTABLE, 0, "CONFIG_NF_TABLES");
        let _ = transaction.send(&socket);
    }
}

/// Who comes from outside to these ports is led on to the container.
pub fn publish(socket: &Socket, ports: &[Port], container: Ipv4Addr) -> Result<()> {
    let elements = of_ports(ports, container);
    let mut some = elements.chunks(AT_ONCE);
    some.try_for_each(|some| add(socket, some, None))
}

/// No longer. The socket is not closed before this process ends: the kernel would have that wait until nobody looks at the
/// elements any more (RCU, 8 ms; net/netfilter/nf_tables_api.c, `nft_rcv_nl_event`).
pub fn unpublish(containers: &[(Vec<Port>, Ipv4Addr)]) {
    let of = |(ports, container): &(Vec<Port>, Ipv4Addr)| of_ports(ports, *container);
    let elements: Vec<Element> = containers.iter().flat_map(of).collect();
    if !elements.is_empty()
        && let Ok(socket) = Socket::netfilter()
        && remove(&socket, &elements)
    {
        std::mem::forget(socket);
    }
}

/// Who else drops, by policy, what this machine forwards: a base chain of nf_tables, or iptables of the older kind.
fn refusal(socket: &Socket) -> Result<Option<String>> {
    let mut batch = Batch::new();
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN;
    batch.message(kind, NLM_F_REQUEST | NLM_F_DUMP, &[0; 4]);
    let asked = socket.dump(&batch, &mut |found: &mut Option<String>, message| {
        *found = found.take().or(dropping(&message));
    });
    let failed = |errno| Error::sys("nf_tables", "chains", errno).hint("CONFIG_NF_TABLES");
    let mut found = asked.map_err(failed)?;
    let tables = std::fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    if found.is_none() && tables.lines().any(|table| table == "filter") && legacy_drops() {
        found = Some("chain FORWARD of iptables-legacy".into());
    }
    Ok(found)
}

/// Whether this chain, of a dump, drops what is forwarded.
fn dropping(message: &Message<'_>) -> Option<String> {
    let family = *message.body.first()?;
    let attributes = message.attributes(4);
    let number = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let hook = attributes.nested(NFTA_CHAIN_HOOK);
    let forward = number(hook.value(NFTA_HOOK_HOOKNUM)?)? == NF_INET_FORWARD;
    let policy = number(attributes.value(NFTA_CHAIN_POLICY)?)?;
    let table = text(attributes.value(NFTA_TABLE)?);
    let name = match family {
        NFPROTO_IPV4 if table != TABLE => "ip",
        NFPROTO_INET => "inet",
        _ => return None,
    };
    let chain = quote(text(attributes.value(NFTA_CHAIN_NAME)?).as_bytes());
    let table = quote(table.as_bytes());
    (forward && policy == NF_DROP).then(|| format!("chain {chain} of table {name} {table}"))
}

/// Whether the policy of FORWARD in the filter table of iptables-legacy is to drop. linux/netfilter_ipv4/ip_tables.h.
fn legacy_drops() -> bool {
    const IPT_SO_GET_INFO: u32 = 64;
    const IPT_SO_GET_ENTRIES: u32 = 65;
    /// XT_TABLE_MAXNAMELEN, with which both structures begin.
    const NAME: usize = 32;
    let look = || {
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
        let number = |bytes: &[u8], at: usize| word(bytes.get(at..)?);
        // struct ipt_getinfo: valid hooks, the entry that each of 5 hooks begins with, and its last, entries, size.
        let mut information = [0; NAME + 4 * 13];
        information[..6].copy_from_slice(b"filter");
        sys::socket_option(&socket, IPT_SO_GET_INFO, &mut information).ok()?;
        let last = number(&information, NAME + 4 * (1 + 5 + NF_INET_FORWARD as usize))?;
        let size = number(&information, NAME + 4 * 12)?;
        // struct ipt_get_entries: size, and at a multiple of 8 bytes the entries.
        let head = NAME + 8;
        let mut entries = vec![0; head + size as usize];
        entries[..6].copy_from_slice(b"filter");
        entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
        sys::socket_option(&socket, IPT_SO_GET_ENTRIES, &mut entries).ok()?;
        // struct ipt_entry: where its target is. That of the last one is the policy: struct xt_standard_target, where a
        // verdict is behind 32 bytes, negative and one less.
        let entry = entries.get(head + last as usize..)?;
        let target = u16::from_ne_bytes(*entry.get(88..)?.first_chunk()?);
        Some(number(entry, usize::from(target) + 32)? as i32 == -(NF_DROP as i32) - 1)
    };
    look().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes in hexadecimal; `#` begins a comment. nft numbers its messages from 0, this from 1.
    fn captured(text: &str) -> Vec<u8> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let words = lines.flat_map(str::split_whitespace);
        let mut bytes: Vec<u8> = words
            .map(|word| u8::from_str_radix(word, 16).unwrap())
            .collect();
        let mut at = 0;
        while let Some(length) = bytes.get(at..).and_then(word) {
            bytes[at + 8] += 1;
            at += length as usize;
        }
        bytes
    }

    /// Compares message by message, so that a failure says which.
    fn same(mut transaction: Transaction, text: &str) {
        transaction.end(NFNL_MSG_BATCH_END);
        let expected = captured(text);
        let own = Messages(transaction.batch.as_bytes());
        for (own, theirs) in own.zip(Messages(&expected)) {
            assert_eq!(own, theirs);
        }
        assert_eq!(transaction.batch.as_bytes(), expected);
        assert_eq!(transaction.needs.len() as u32, transaction.batch.count());
    }

    const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 177, 0, 2);

    fn ports() -> Vec<Port> {
        let parse = |text| super::super::publish::parse(text).unwrap();
        ["8080:80", "192.0.2.1:53:5353/udp", "127.0.0.1:99:99"]
            .iter()
            .flat_map(|text| parse(text))
            .collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_table_is_made_as_by_nft() {
        let mut transaction = Transaction::new();
        table(&mut transaction, true);
        for element in of_bridge("mini0", Ipv4Addr::new(10, 177, 0, 1)) {
            transaction.element(true, &element);
        }
        same(transaction, include_str!("../../tests/data/nft/create.hex"));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ports_come_and_go_as_by_nft() {
        for (new, text) in [
            (true, include_str!("../../tests/data/nft/publish.hex")),
            (false, include_str!("../../tests/data/nft/unpublish.hex")),
        ] {
            let mut transaction = Transaction::new();
            for element in of_ports(&ports(), CONTAINER) {
                transaction.element(new, &element);
            }
            same(transaction, text);
        }
        let mut transaction = Transaction::new();
        transaction.message(NFT_MSG_DELTABLE, 0, "CONFIG_NF_TABLES");
        same(transaction, include_str!("../../tests/data/nft/delete.hex"));
    }

    #[test]
    fn chains_that_drop_are_named() {
        let chain = |family: u8, table: &str, hook: Option<u32>, policy: u32| {
            let mut batch = Batch::new();
            batch.message(NFT_MSG_NEWCHAIN, 0, &[family, 0, 0, 0]);
            batch.text(NFTA_TABLE, table);
            batch.text(NFTA_CHAIN_NAME, "FORWARD");
            if let Some(hook) = hook {
                nest(&mut batch, NFTA_CHAIN_HOOK, |batch| {
                    batch.big(NFTA_HOOK_HOOKNUM, hook)
                });
                batch.big(NFTA_CHAIN_POLICY, policy);
            }
            let message = Messages(batch.as_bytes()).next();
            dropping(&message.unwrap())
        };
        let forward = Some(NF_INET_FORWARD);
        let named = |text: &str| Some(text.to_owned());
        assert_eq!(
            chain(2, "filter", forward, NF_DROP),
            named("chain \"FORWARD\" of table ip \"filter\"")
        );
        assert_eq!(
            chain(1, "fw", forward, NF_DROP),
            named("chain \"FORWARD\" of table inet \"fw\"")
        );
        assert_eq!(chain(2, "filter", forward, NF_ACCEPT), None);
        assert_eq!(chain(2, "filter", Some(NF_INET_PRE_ROUTING), NF_DROP), None);
        assert_eq!(chain(2, "filter", None, NF_DROP), None);
        // Of mini itself; of IPv6; of bridged frames.
        assert_eq!(chain(2, TABLE, forward, NF_DROP), None);
        assert_eq!(chain(10, "filter", forward, NF_DROP), None);
        assert_eq!(chain(7, "filter", forward, NF_DROP), None);
    }
}
