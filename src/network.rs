//! A batch of netlink messages goes to the kernel: netlink(7), rtnetlink(7).
//!
//! The messages were put together before (`net/netlink.rs`, or [`LOOPBACK`] here), so the container's own init can
//! bring up its network with nothing but a socket, one send and as many receives as there are messages. Left out:
//! dumps and notifications, which nothing inside needs.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const RTM_NEWLINK: u16 = 16;
const REQUEST_AND_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;

/// Brings the loopback interface up: one RTM_NEWLINK for interface 1, which in a new network namespace is always
/// `lo`. The kernel gives it 127.0.0.1 and ::1 itself. An ioctl would do too, but only with CONFIG_INET.
pub const LOOPBACK: &[u8] = {
    const SIZE: u32 = 32;
    const INDEX: u32 = 1;
    // struct nlmsghdr: length, type and flags, sequence, port; struct ifinfomsg: family, padding and device type, index,
    // flags, mask of flags to change.
    const MESSAGE: [[u8; 4]; 8] = {
        let [[k0, k1], [f0, f1]] = [RTM_NEWLINK.to_ne_bytes(), REQUEST_AND_ACK.to_ne_bytes()];
        let (size, index, up) = (
            SIZE.to_ne_bytes(),
            INDEX.to_ne_bytes(),
            IFF_UP.to_ne_bytes(),
        );
        [
            size,
            [k0, k1, f0, f1],
            [0; 4],
            [0; 4],
            [0; 4],
            index,
            up,
            up,
        ]
    };
    MESSAGE.as_flattened()
};

/// A socket of this protocol (`NETLINK_*`): `None` is NETLINK_ROUTE.
pub fn open(protocol: Option<Protocol>) -> Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    socket_with(family, kind, SocketFlags::CLOEXEC, protocol)
}

/// Sends all messages at once, and returns what the kernel refused first: the message's sequence number, and why.
///
/// The kernel works on them before send returns, and has answered then; thus what is not there yet will not come.
pub fn exchange(socket: impl AsFd, batch: &[u8]) -> core::result::Result<(), (u32, Errno)> {
    let before = |errno| (0, errno);
    send(socket.as_fd(), batch, SendFlags::empty()).map_err(before)?;
    let mut refused = None;
    loop {
        let mut answer = [0; 64];
        // A refused message is sent back behind the error, and cut off here.
        match recv(socket.as_fd(), &mut answer, RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return refused.map_or(Ok(()), Err),
            // More errors than there was room for: the first ones are known.
            Err(errno) => refused = refused.or(Some((0, errno))),
            Ok(_) => refused = refused.or(error_in(&answer)),
        }
    }
}

/// What an answer says has failed. Behind the header, struct nlmsghdr, is struct nlmsgerr: 0 or a negative errno, and the
/// header of the message in question.
fn error_in(answer: &[u8; 64]) -> Option<(u32, Errno)> {
    let number = |at: usize| {
        let bytes = answer.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    let kind = answer.get(4..)?.first_chunk()?;
    let error = number(16)? as i32;
    let sequence = number(28)?;
    let is_error = u16::from_ne_bytes(*kind) == NLMSG_ERROR && (-4095..0).contains(&error);
    is_error.then(|| (sequence, Errno::from_raw_os_error(-error)))
}

/// The same for the network of the namespace that this process is in.
pub fn configure(batch: &[u8]) -> Result<()> {
    exchange(open(None)?, batch).map_err(|(_, errno)| errno)
}
