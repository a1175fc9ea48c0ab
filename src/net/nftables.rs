//! Messages of nf_tables: sets, chains, rules made of expressions, and transactions of them. nft(8),
//! linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
//!
//! Everything is in one table, which the first attribute of every message names. A rule is a list of expressions, each of
//! which moves something between the packet and registers, or looks at a register and ends the rule; the order of attributes
//! is that of nft, with whose messages the tests compare these (`nat.rs`). What the table is for is in `nat.rs`.
//!
//! Left out: all expressions and attributes that mini has no use for; intervals, time-outs and counters.

use super::netlink::*;
use super::socket::{Refused, Socket};

/// The name of mini's table.
pub const TABLE: &str = "mini";

// linux/netfilter/nfnetlink.h: a subsystem, above the number of the message; and the two ends of a transaction.
pub const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub const NFNL_MSG_BATCH_BEGIN: u16 = 16;
pub const NFNL_MSG_BATCH_END: u16 = 17;
pub const NLM_F_APPEND: u16 = 0x800;

pub const NFT_MSG_NEWTABLE: u16 = 0;
pub const NFT_MSG_DELTABLE: u16 = 2;
pub const NFT_MSG_NEWCHAIN: u16 = 3;
pub const NFT_MSG_GETCHAIN: u16 = 4;
pub const NFT_MSG_NEWRULE: u16 = 6;
pub const NFT_MSG_NEWSET: u16 = 9;
pub const NFT_MSG_NEWSETELEM: u16 = 12;
pub const NFT_MSG_GETSETELEM: u16 = 13;
pub const NFT_MSG_DELSETELEM: u16 = 14;

/// Families: NFPROTO_INET (both versions of IP) and NFPROTO_IPV4.
pub const NFPROTO_INET: u8 = 1;
pub const NFPROTO_IPV4: u8 = 2;
/// linux/netfilter.h: the hooks, and what happens to a packet.
pub const NF_INET_PRE_ROUTING: u32 = 0;
pub const NF_INET_FORWARD: u32 = 2;
pub const NF_INET_POST_ROUTING: u32 = 4;
pub const NF_DROP: u32 = 0;
pub const NF_ACCEPT: u32 = 1;
/// Priorities (linux/netfilter_ipv4.h): where everybody has theirs.
pub const NF_IP_PRI_NAT_DST: i32 = -100;
pub const NF_IP_PRI_FILTER: i32 = 0;
pub const NF_IP_PRI_NAT_SRC: i32 = 100;

/// Every object has its table as the first attribute.
pub const NFTA_TABLE: u16 = 1;
pub const NFTA_TABLE_FLAGS: u16 = 2;
pub const NFTA_CHAIN_NAME: u16 = 3;
pub const NFTA_CHAIN_HOOK: u16 = 4;
pub const NFTA_CHAIN_POLICY: u16 = 5;
pub const NFTA_CHAIN_TYPE: u16 = 7;
pub const NFTA_HOOK_HOOKNUM: u16 = 1;
pub const NFTA_HOOK_PRIORITY: u16 = 2;
pub const NFTA_SET_NAME: u16 = 2;
pub const NFTA_SET_FLAGS: u16 = 3;
pub const NFTA_SET_KEY_TYPE: u16 = 4;
pub const NFTA_SET_KEY_LEN: u16 = 5;
pub const NFTA_SET_DATA_TYPE: u16 = 6;
pub const NFTA_SET_DATA_LEN: u16 = 7;
pub const NFTA_SET_ID: u16 = 10;
pub const NFTA_SET_USERDATA: u16 = 13;
pub const NFT_SET_MAP: u32 = 8;
pub const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
pub const NFTA_SET_ELEM_KEY: u16 = 1;
pub const NFTA_SET_ELEM_DATA: u16 = 2;
pub const NFTA_RULE_CHAIN: u16 = 2;
pub const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub const NFTA_LIST_ELEM: u16 = 1;
pub const NFTA_EXPR_NAME: u16 = 1;
pub const NFTA_EXPR_DATA: u16 = 2;
pub const NFTA_DATA_VALUE: u16 = 1;
pub const NFTA_DATA_VERDICT: u16 = 2;
pub const NFTA_VERDICT_CODE: u16 = 1;

/// A chain: name, type, hook, priority.
pub type Chain = (&'static str, &'static str, u32, i32);

// The types that nft knows values by; of several one behind the other, six bits each.
pub const IPV4_ADDR: u32 = 7;
pub const INET_PROTO: u32 = 12;
pub const INET_SERVICE: u32 = 13;
pub const IFNAME: u32 = 41;
/// What nft notes of a map, so that it can show it: from which types key and value are put together.
pub const NOTE_MAP: &[u8] = &[
    0, 4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 3, 8, 0, 4, 13, 0, 0, 0, 1, 0, 4, 8, 0, 4, 13, 0, 0, 0, 1,
    0, 6, 4, 0, 0, 0, 0,
];

/// A set, or a map from its keys to an address and a port.
pub struct Set {
    pub name: &'static str,
    /// By which the rules of the same transaction know it.
    pub number: u32,
    /// Type and length of a key.
    pub key: (u32, u32),
    pub map: bool,
    /// What nft notes of it, so that it can show it: byte order, and whether keys are put together.
    pub note: &'static [u8],
}

/// One step of a rule. Each looks at what it says, in registers; where a comparison fails, the rule ends.
#[derive(Clone, Copy)]
pub enum Expression {
    /// The packet is for an address of this machine.
    ForThisMachine,
    /// Bytes of the IP header, or of what is behind it, from an offset, so many: to a register.
    Network(u32, u32, u32),
    Transport(u32, u32, u32),
    /// NFT_META_*, to a register.
    Meta(u32, u32),
    /// What is in register 1, without the bits of the host.
    NetworkOf,
    /// What begins in register 1 is in the set.
    In(&'static Set),
    NotIn(&'static Set),
    /// Or in the map, whose value then is where it was.
    Mapped(&'static Set),
    /// Any of these bits of what conntrack knows (NFT_CT_*).
    Ct(u32, u32),
    /// To the address and the port that were found in the map.
    Dnat,
    /// From the address of the interface that it leaves by.
    Masquerade,
    Verdict(u32),
}

use Expression::*;

pub const NFT_REG_1: u32 = 1;
pub const NFT_REG_2: u32 = 2;
/// The registers of 4 bytes: these are the second and third of register 1.
pub const NFT_REG32_01: u32 = 9;
pub const NFT_REG32_02: u32 = 10;
pub const NFT_META_IIFNAME: u32 = 6;
pub const NFT_META_OIFNAME: u32 = 7;
pub const NFT_META_L4PROTO: u32 = 16;

impl Expression {
    /// Its name, and what a kernel without it was built without.
    pub fn name(self) -> (&'static str, &'static str) {
        match self {
            ForThisMachine => ("fib", "CONFIG_NFT_FIB_IPV4"),
            Network(..) | Transport(..) => ("payload", "CONFIG_NF_TABLES"),
            Meta(..) => ("meta", "CONFIG_NF_TABLES"),
            NetworkOf => ("bitwise", "CONFIG_NF_TABLES"),
            In(_) | NotIn(_) | Mapped(_) => ("lookup", "CONFIG_NF_TABLES"),
            Ct(..) => ("ct", "CONFIG_NFT_CT"),
            Dnat => ("nat", "CONFIG_NFT_NAT"),
            Masquerade => ("masq", "CONFIG_NFT_MASQ"),
            Verdict(_) => ("immediate", "CONFIG_NF_TABLES"),
        }
    }

    /// Appends it to the rule that is open.
    fn add(self, batch: &mut Batch) {
        if let Ct(key, bits) = self {
            // Three of the kernel's: what it knows, of that these bits, and not none.
            expression(batch, "ct", |batch| {
                batch.big(2, key); // NFTA_CT_KEY
                batch.big(1, NFT_REG_1); // NFTA_CT_DREG
            });
            bitwise(batch, &bits.to_ne_bytes(), false);
            return compare(batch, true, 0);
        }
        match self {
            NetworkOf => return bitwise(batch, &[255, 255, 255, 0], true),
            ForThisMachine => {
                const RTN_LOCAL: u32 = 2;
                expression(batch, "fib", |batch| {
                    batch.big(3, 2); // NFTA_FIB_FLAGS: NFTA_FIB_F_DADDR
                    batch.big(2, 3); // NFTA_FIB_RESULT: NFT_FIB_RESULT_ADDRTYPE
                    batch.big(1, NFT_REG_1); // NFTA_FIB_DREG
                });
                return compare(batch, false, RTN_LOCAL);
            }
            _ => {}
        }
        expression(batch, self.name().0, |batch| match self {
            Network(offset, length, register) => payload(batch, 1, offset, length, register),
            Transport(offset, length, register) => payload(batch, 2, offset, length, register),
            Meta(key, register) => {
                batch.big(2, key); // NFTA_META_KEY
                batch.big(1, register); // NFTA_META_DREG
            }
            In(set) | NotIn(set) | Mapped(set) => {
                batch.big(2, NFT_REG_1); // NFTA_LOOKUP_SREG
                if matches!(self, Mapped(_)) {
                    batch.big(3, NFT_REG_1); // NFTA_LOOKUP_DREG
                }
                batch.text(1, set.name); // NFTA_LOOKUP_SET
                batch.big(4, set.number); // NFTA_LOOKUP_SET_ID
                if matches!(self, NotIn(_)) {
                    batch.big(5, 1); // NFTA_LOOKUP_FLAGS: NFT_LOOKUP_F_INV
                }
            }
            Dnat => {
                batch.big(1, 1); // NFTA_NAT_TYPE: NFT_NAT_DNAT
                batch.big(2, NFPROTO_IPV4.into()); // NFTA_NAT_FAMILY
                batch.big(3, NFT_REG_1); // NFTA_NAT_REG_ADDR_MIN
                batch.big(5, NFT_REG32_01); // NFTA_NAT_REG_PROTO_MIN
            }
            Verdict(verdict) => {
                batch.big(1, 0); // NFTA_IMMEDIATE_DREG: NFT_REG_VERDICT
                nest(batch, 2, |batch| {
                    // NFTA_IMMEDIATE_DATA
                    nest(batch, NFTA_DATA_VERDICT, |batch| {
                        batch.big(NFTA_VERDICT_CODE, verdict);
                    });
                });
            }
            // Masquerade has nothing to say; the others are done above.
            _ => {}
        });
    }
}

pub fn nest(batch: &mut Batch, kind: u16, fill: impl FnOnce(&mut Batch)) {
    batch.nest(NLA_F_NESTED | kind, fill);
}

fn expression(batch: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    nest(batch, NFTA_LIST_ELEM, |batch| {
        batch.text(NFTA_EXPR_NAME, name);
        nest(batch, NFTA_EXPR_DATA, fill);
    });
}

/// A value, as keys and constants are given.
fn value(batch: &mut Batch, kind: u16, bytes: &[u8]) {
    nest(batch, kind, |batch| batch.bytes(NFTA_DATA_VALUE, bytes));
}

fn payload(batch: &mut Batch, base: u32, offset: u32, length: u32, register: u32) {
    // NFTA_PAYLOAD_DREG, BASE, OFFSET, LEN
    for (kind, number) in [(1, register), (2, base), (3, offset), (4, length)] {
        batch.big(kind, number);
    }
}

/// Register 1 & mask; nft 1.0.6 says for addresses, and only there, that this is NFT_BITWISE_BOOL, as it is without saying.
fn bitwise(batch: &mut Batch, mask: &[u8], explicit: bool) {
    expression(batch, "bitwise", |batch| {
        batch.big(1, NFT_REG_1); // NFTA_BITWISE_SREG
        batch.big(2, NFT_REG_1); // NFTA_BITWISE_DREG
        if explicit {
            batch.big(6, 0); // NFTA_BITWISE_OP
        }
        batch.big(3, mask.len() as u32); // NFTA_BITWISE_LEN
        value(batch, 4, mask); // NFTA_BITWISE_MASK
        value(batch, 5, &[0; 4]); // NFTA_BITWISE_XOR
    });
}

/// Register 1 is this number, or is not.
fn compare(batch: &mut Batch, not: bool, number: u32) {
    expression(batch, "cmp", |batch| {
        batch.big(1, NFT_REG_1); // NFTA_CMP_SREG
        batch.big(2, not.into()); // NFTA_CMP_OP: NFT_CMP_EQ, NFT_CMP_NEQ
        value(batch, 3, &number.to_ne_bytes()); // NFTA_CMP_DATA
    });
}

/// A transaction: all of it happens, or nothing.
pub struct Transaction {
    pub batch: Batch,
    /// For each message, what a kernel that does not know its object was built without.
    pub needs: Vec<&'static str>,
}

impl Transaction {
    pub fn new() -> Transaction {
        let mut transaction = Transaction {
            batch: Batch::new(),
            needs: Vec::new(),
        };
        transaction.end(NFNL_MSG_BATCH_BEGIN);
        transaction
    }

    /// Begins or ends it.
    pub fn end(&mut self, kind: u16) {
        // struct nfgenmsg: family, version, and here the subsystem.
        let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
        (self.batch).message(kind, NLM_F_REQUEST, &[0, 0, high, low]);
        self.needs.push("CONFIG_NF_TABLES");
    }

    /// Begins a message about the table.
    pub fn message(&mut self, kind: u16, flags: u16, needs: &'static str) -> &mut Batch {
        let header = [NFPROTO_IPV4, 0, 0, 0];
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        (self.batch).message(kind, NLM_F_REQUEST | flags, &header);
        self.batch.text(NFTA_TABLE, TABLE);
        self.needs.push(needs);
        &mut self.batch
    }

    /// Makes the table. Refused with EEXIST if it is there.
    pub fn new_table(&mut self) {
        let batch = self.message(NFT_MSG_NEWTABLE, NLM_F_EXCL, "CONFIG_NF_TABLES_IPV4");
        batch.big(NFTA_TABLE_FLAGS, 0);
    }

    pub fn new_chain(&mut self, (name, kind, hook, priority): Chain, policy: u32) {
        let batch = self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, "CONFIG_NFT_NAT");
        batch.text(NFTA_CHAIN_NAME, name);
        batch.text(NFTA_CHAIN_TYPE, kind);
        batch.big(NFTA_CHAIN_POLICY, policy);
        nest(batch, NFTA_CHAIN_HOOK, |batch| {
            batch.big(NFTA_HOOK_HOOKNUM, hook);
            batch.big(NFTA_HOOK_PRIORITY, priority as u32);
        });
    }

    pub fn new_set(&mut self, set: &Set) {
        let (kind, length) = set.key;
        let batch = self.message(NFT_MSG_NEWSET, NLM_F_CREATE, "CONFIG_NF_TABLES");
        batch.text(NFTA_SET_NAME, set.name);
        batch.big(NFTA_SET_FLAGS, if set.map { NFT_SET_MAP } else { 0 });
        batch.big(NFTA_SET_KEY_TYPE, kind);
        batch.big(NFTA_SET_KEY_LEN, length);
        if set.map {
            batch.big(NFTA_SET_DATA_TYPE, IPV4_ADDR << 6 | INET_SERVICE);
            batch.big(NFTA_SET_DATA_LEN, 8);
        }
        batch.big(NFTA_SET_ID, set.number);
        batch.bytes(NFTA_SET_USERDATA, set.note);
    }

    pub fn new_rule(&mut self, chain: &str, expressions: &[Expression]) {
        let mut needs = expressions.iter().map(|expression| expression.name().1);
        let special = needs.rfind(|needs| *needs != "CONFIG_NF_TABLES");
        let needs = special.unwrap_or("CONFIG_NF_TABLES");
        let batch = self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, needs);
        batch.text(NFTA_RULE_CHAIN, chain);
        nest(batch, NFTA_RULE_EXPRESSIONS, |batch| {
            for expression in expressions {
                expression.add(batch);
            }
        });
    }

    /// Adds an element, or takes it away.
    pub fn element(&mut self, new: bool, element: &Element) {
        let (kind, flags) = match new {
            true => (NFT_MSG_NEWSETELEM, NLM_F_CREATE),
            false => (NFT_MSG_DELSETELEM, 0),
        };
        let batch = self.message(kind, flags, "CONFIG_NF_TABLES");
        batch.text(NFTA_SET_ELEM_LIST_SET, element.set.name);
        if new {
            batch.big(NFTA_SET_ELEM_LIST_SET_ID, element.set.number);
        }
        nest(batch, NFTA_SET_ELEM_LIST_ELEMENTS, |batch| {
            nest(batch, NFTA_LIST_ELEM, |batch| {
                value(batch, NFTA_SET_ELEM_KEY, &element.key);
                if let (Some(data), true) = (&element.data, new) {
                    value(batch, NFTA_SET_ELEM_DATA, data);
                }
            });
        });
    }

    pub fn send(&mut self, socket: &Socket) -> std::result::Result<(), Refused> {
        self.end(NFNL_MSG_BATCH_END);
        socket.send(&self.batch)
    }
}

/// What a set has, or a map has and leads to.
pub struct Element {
    pub set: &'static Set,
    pub key: Vec<u8>,
    pub data: Option<[u8; 8]>,
}
