//! A netlink socket: batches are sent and acknowledged, dumps are read. netlink(7).
//!
//! The kernel works on what is sent before `send` returns. So all acknowledgements of a batch are there at once, and only a
//! dump goes on while it is read.

use std::mem::MaybeUninit;

use container::network;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{Protocol, RecvFlags, SendFlags, recv, send};

#[cfg(test)]
use super::netlink::NLM_F_DUMP;
use super::netlink::{Batch, Message, Messages, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, word};
use crate::error::{Error, Result};

/// More than the kernel puts into one datagram of a dump (NLMSG_GOODSIZE, 8 KB), or tells of one interface.
const DATAGRAM: usize = 16384;
/// How often a dump is begun.
const DUMPS: usize = 5;

pub struct Socket(OwnedFd);

/// The first message of a batch that the kernel did not accept: which it is, from 1 (0: the batch as a whole), and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    pub message: u32,
    pub errno: Errno,
}

impl Socket {
    /// One for NETLINK_ROUTE.
    pub fn route() -> Result<Socket> {
        open(None, "NETLINK_ROUTE", "CONFIG_NET")
    }

    /// One for NETLINK_NETFILTER.
    pub fn netfilter() -> Result<Socket> {
        let protocol = Some(rustix::net::netlink::NETFILTER);
        open(protocol, "NETLINK_NETFILTER", "CONFIG_NETFILTER_NETLINK")
    }

    /// Sends all messages of a batch. With NETLINK_ROUTE the kernel goes on behind one that it refuses, and answers only those
    /// with NLM_F_ACK or an error; with NETLINK_NETFILTER between NFNL_MSG_BATCH_BEGIN and END it is all or nothing.
    pub fn send(&self, batch: &Batch) -> std::result::Result<(), Refused> {
        let result = network::exchange(&self.0, batch.as_bytes());
        result.map_err(|(message, errno)| Refused { message, errno })
    }

    /// Sends one request (without NLM_F_ACK), and has `each` look at the message of the answer.
    pub fn ask(&self, batch: &Batch, each: &mut dyn FnMut(Message<'_>)) -> rustix::io::Result<()> {
        send(&self.0, batch.as_bytes(), SendFlags::empty())?;
        self.receive(each).map(drop)
    }

    /// Sends a request for all there are, and has `each` put together what the messages of the answer say. What has changed
    /// meanwhile may have come twice, or not at all: then it begins anew, a few times.
    pub fn dump<T: Default>(
        &self,
        batch: &Batch,
        each: &mut dyn FnMut(&mut T, Message<'_>),
    ) -> rustix::io::Result<T> {
        for _ in 0..DUMPS {
            let (mut found, mut changed) = (T::default(), false);
            send(&self.0, batch.as_bytes(), SendFlags::empty())?;
            let mut each = |message: Message<'_>| {
                changed |= message.flags & NLM_F_DUMP_INTR != 0;
                if message.kind != NLMSG_DONE {
                    each(&mut found, message);
                }
            };
            while !self.receive(&mut each)? {}
            if !changed {
                return Ok(found);
            }
        }
        Err(Errno::INTR)
    }

    /// Has `each` look at the messages of the next datagram, also at that which ends a dump; whether that has come.
    fn receive(&self, each: &mut dyn FnMut(Message<'_>)) -> rustix::io::Result<bool> {
        let mut buffer = [const { MaybeUninit::uninit() }; DATAGRAM];
        let (bytes, length) = loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                other => break other.map(|((bytes, _), length)| (&*bytes, length))?,
            }
        };
        if length > bytes.len() {
            return Err(Errno::NOBUFS);
        }
        let mut done = false;
        for message in Messages(bytes) {
            if message.kind == NLMSG_DONE || message.kind == NLMSG_ERROR {
                done = true;
                // A dump can fail half way.
                let error = word(message.body).unwrap_or_default() as i32;
                if (-4095..0).contains(&error) {
                    return Err(Errno::from_raw_os_error(-error));
                }
            }
            if message.kind != NLMSG_ERROR {
                each(message);
            }
        }
        Ok(done)
    }
}

fn open(protocol: Option<Protocol>, name: &str, config: &str) -> Result<Socket> {
    let socket = network::open(protocol);
    let socket = socket.map_err(|errno| Error::sys("socket", name, errno).hint(config))?;
    Ok(Socket(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    const DATA: u16 = 77;

    /// A message of a dump, of which the body is this number.
    fn message(kind: u16, flags: u16, number: i32) -> Vec<u8> {
        let mut batch = Batch::new();
        batch.message(kind, flags, &number.to_ne_bytes());
        batch.into_bytes()
    }

    /// What comes of a dump that is answered by these datagrams, and how often it was asked for.
    fn dump(answers: &[&[Vec<u8>]]) -> (rustix::io::Result<Vec<u32>>, usize) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (own, kernel) = socketpair(family, kind, SocketFlags::NONBLOCK, None).unwrap();
        for datagram in answers {
            send(&kernel, &datagram.concat(), SendFlags::empty()).unwrap();
        }
        let mut request = Batch::new();
        request.message(DATA, NLM_F_DUMP, &[]);
        let found = Socket(own).dump(&request, &mut |numbers: &mut Vec<u32>, message| {
            numbers.push(word(message.body).unwrap());
        });
        let asked = || recv(&kernel, &mut [0; 64][..], RecvFlags::empty()).ok();
        let count = std::iter::from_fn(asked).take_while(|(length, _)| *length > 0);
        (found, count.count())
    }

    #[test]
    fn a_dump_is_whole_or_an_error() {
        let data = |number| message(DATA, 0, number);
        let changed = |number| message(DATA, NLM_F_DUMP_INTR, number);
        let done = || message(NLMSG_DONE, 0, 0);
        assert_eq!(
            dump(&[&[data(1), data(2)], &[data(3), done()]]),
            (Ok(vec![1, 2, 3]), 1)
        );
        // What has changed is asked for anew, and what came of it forgotten.
        let (first, second) = ([data(1), changed(2)], [data(4), done()]);
        assert_eq!(dump(&[&first, &[done()], &second]), (Ok(vec![4]), 2));
        let end = message(NLMSG_DONE, NLM_F_DUMP_INTR, 0);
        assert_eq!(
            dump(&[&[data(1)], std::slice::from_ref(&end), &second]),
            (Ok(vec![4]), 2)
        );
        let ever: Vec<&[Vec<u8>]> = vec![std::slice::from_ref(&end); DUMPS];
        assert_eq!(dump(&ever), (Err(Errno::INTR), DUMPS));
        // Failed half way, or at once.
        let failed = message(NLMSG_DONE, 0, -12);
        assert_eq!(dump(&[&[data(1)], &[failed]]), (Err(Errno::NOMEM), 1));
        let refused = message(NLMSG_ERROR, 0, -2);
        assert_eq!(dump(&[&[refused]]), (Err(Errno::NOENT), 1));
        // More than there is room for.
        let large = vec![data(1); DATAGRAM / 20 + 1];
        assert_eq!(dump(&[&large]), (Err(Errno::NOBUFS), 1));
    }
}
