//! netlink(7) messages, written and read: what rtnetlink(7) and nf_tables have in common.
//!
//! A message is a header (length, type, flags, sequence number, port), a fixed structure of its family, and attributes:
//! length, type and value, padded to 4 bytes, which may hold attributes themselves. Numbers are in the byte order of the
//! machine for NETLINK_ROUTE, in that of the network for NETLINK_NETFILTER. What comes from the kernel is read without
//! trust in any length: what does not fit ends the iteration.
//!
//! Left out: notifications, and attributes of more than 64 KB. The constants have the names of linux/netlink.h,
//! rtnetlink.h, if_link.h, if_addr.h and veth.h. Fuzz target: tests/fuzz/fuzz_targets/netlink.rs.

/// `NLM_F_*`: a request; that is to be acknowledged; for all there are; that makes what must not be there yet.
pub const NLM_F_REQUEST: u16 = 1;
pub const NLM_F_ACK: u16 = 4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
/// In the answer: what was dumped has changed meanwhile.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// What a dump ends with: an errno, negative, or 0.
pub const NLMSG_DONE: u16 = 3;
pub const NLMSG_ERROR: u16 = 2;

pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
pub const RTM_GETLINK: u16 = 18;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_GETROUTE: u16 = 26;

pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_MASTER: u16 = 10;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_NET_NS_PID: u16 = 19;
pub const IFLA_EXT_MASK: u16 = 29;
pub const RTEXT_FILTER_SKIP_STATS: u32 = 8;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;
pub const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub const IFLA_INFO_SLAVE_DATA: u16 = 5;
pub const IFLA_BRPORT_MODE: u16 = 4;
pub const VETH_INFO_PEER: u16 = 1;
pub const IFF_UP: u32 = 1;

pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
pub const IFA_BROADCAST: u16 = 4;

pub const RTA_DST: u16 = 1;
pub const RTA_OIF: u16 = 4;
pub const RTA_GATEWAY: u16 = 5;
pub const RTA_PRIORITY: u16 = 6;
pub const RT_TABLE_MAIN: u8 = 254;
pub const RTPROT_BOOT: u8 = 3;
pub const RTN_UNICAST: u8 = 1;

/// The two high bits of an attribute's type are flags: NLA_F_NESTED, NLA_F_NET_BYTEORDER.
pub const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// struct nlmsghdr and struct nlattr, in bytes.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

/// Messages one behind the other, to be sent at once.
#[derive(Default, Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where the last message begins, and how many there are.
    start: usize,
    count: u32,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Begins a message of this type with these `NLM_F_*` and its family's structure. Its sequence number is how many
    /// there are now: from 1.
    pub fn message(&mut self, kind: u16, flags: u16, header: &[u8]) {
        self.start = self.bytes.len();
        self.count += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        // To the kernel.
        self.bytes.extend_from_slice(&[0; 4]);
        self.put(header);
    }

    /// Appends to the last message.
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute of the last message, or of the attribute that is open. At most 65,531 bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE + value.len()) as u16;
        self.put(&[length.to_ne_bytes(), kind.to_ne_bytes()].concat());
        self.put(value);
    }

    /// A text, with the zero byte behind it.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// A number in the order of the machine.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A number in the order of the network, as NETLINK_NETFILTER has them.
    pub fn big(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds what `fill` appends: first, if there is one, a structure without padding behind it, see
    /// [`Batch::structure`], then attributes. nf_tables wants [`NLA_F_NESTED`] in its type.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Batch)) {
        let start = self.bytes.len();
        self.bytes(kind, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// A structure that is no attribute: what VETH_INFO_PEER begins with. A multiple of 4 bytes.
    pub fn structure(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }

    /// How many messages there are.
    #[cfg(test)]
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// struct ifinfomsg: of any family and device type, the interface of this index (0: a new one, or by name), and the flags
/// that are to be set.
pub fn link(index: u32, up: u32) -> [u8; 16] {
    let words = [0, index, up, up].map(u32::to_ne_bytes);
    std::array::from_fn(|at| words[at / 4][at % 4])
}

/// A message as it was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    pub sequence: u32,
    /// Behind the header: the family's structure and the attributes.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a structure of so many bytes.
    pub fn attributes(&self, behind: usize) -> Attributes<'a> {
        Attributes(self.body.get(behind..).unwrap_or_default())
    }
}

/// The messages in a datagram.
#[derive(Clone)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = word(self.0)? as usize;
        let (kind, flags) = (half(self.0.get(4..)?)?, half(self.0.get(6..)?)?);
        let sequence = word(self.0.get(8..)?)?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind,
            flags,
            sequence,
            body,
        })
    }
}

/// Attributes: types, without their flags, and values.
#[derive(Clone)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(half(self.0)?);
        let kind = half(self.0.get(2..)?)? & NLA_TYPE_MASK;
        let value = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this type.
    pub fn value(&self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self.clone();
        all.find(|(other, _)| *other == kind)
            .map(|(_, value)| value)
    }

    /// The same as a number in the order of the machine.
    pub fn number(&self, kind: u16) -> Option<u32> {
        word(self.value(kind)?)
    }

    /// What is in a nested attribute; nothing if there is none.
    pub fn nested(&self, kind: u16) -> Attributes<'a> {
        Attributes(self.value(kind).unwrap_or_default())
    }
}

/// The 4, or 2, bytes in front as a number in the order of the machine.
pub fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// The text in an attribute, up to its zero byte.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}
