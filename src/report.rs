//! The control socket between the supervisor and the container: a `SOCK_SEQPACKET` socket pair.
//!
//! Towards the container goes one packet, "go", and on a bridge a second one, which sets up its network. Towards the supervisor go fixed-size [`Report`]s, one of them
//! with the pty's master attached (`SCM_RIGHTS`, unix(7)). Packets keep their boundaries, so a report is whole or
//! absent; end of file means that the command was executed, or that the other side is gone.

use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Pid;

/// Bytes of explanation a report can carry: enough for most paths; longer ones are cut.
pub const DETAIL: usize = 240;
const SIZE: usize = 22 + DETAIL;

/// Both ends of a new socket: the supervisor's and the container's.
pub fn channel() -> Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    socketpair(AddressFamily::UNIX, kind, flags, None)
}

/// One record about the step with this index in the container's part of the plan.
#[derive(Clone, Copy)]
pub struct Report {
    pub step: u16,
    /// With an errno nothing after the step was done.
    pub result: Result<()>,
    /// How long the step took, in nanoseconds.
    pub nanoseconds: u64,
    /// The process that the step has made, by its number in the sender's pid namespace; 0 if there is none.
    pub process: i32,
    /// Why in more words than an errno has, from [`crate::exec`] and [`crate::user`].
    pub detail: Detail,
}

/// A report and what came with it.
pub struct Received {
    pub report: Report,
    pub descriptor: Option<OwnedFd>,
    /// The sender's number in this process's pid namespace, if the socket has SO_PASSCRED.
    pub sender: Option<Pid>,
}

/// A kind of explanation and the name that belongs to it.
#[derive(Clone, Copy)]
pub struct Detail {
    pub reason: Reason,
    length: u8,
    name: [u8; DETAIL],
}

/// Why a command cannot be executed, or a user not be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Reason {
    /// The errno says it all.
    Errno,
    /// No file of this name in any directory of PATH.
    NotFound,
    /// The interpreter that the script's `#!` line names is missing.
    Interpreter,
    /// The dynamic loader that the ELF file names (PT_INTERP) is missing.
    Loader,
    /// An ELF file for the machine with this number (`e_machine`, in decimal).
    Machine,
    /// No execute permission for this user.
    Permission,
    /// A directory.
    Directory,
    /// On a mount with the noexec flag.
    NoExec,
    /// Neither ELF nor a `#!` script.
    Format,
    /// No such user in the container's /etc/passwd.
    User,
    /// No such group in the container's /etc/group.
    Group,
}

const REASONS: [Reason; 11] = [
    Reason::Errno,
    Reason::NotFound,
    Reason::Interpreter,
    Reason::Loader,
    Reason::Machine,
    Reason::Permission,
    Reason::Directory,
    Reason::NoExec,
    Reason::Format,
    Reason::User,
    Reason::Group,
];

impl Detail {
    pub const NONE: Detail = Detail {
        reason: Reason::Errno,
        length: 0,
        name: [0; DETAIL],
    };

    pub fn new(reason: Reason, name: &[u8]) -> Detail {
        let mut detail = Detail {
            reason,
            ..Detail::NONE
        };
        for (to, from) in detail.name.iter_mut().zip(name) {
            *to = *from;
        }
        detail.length = name.len().min(DETAIL) as u8;
        detail
    }

    pub fn name(&self) -> &[u8] {
        self.name
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

impl Report {
    fn encode(&self) -> [u8; SIZE] {
        let errno = self.result.err().map_or(0, Errno::raw_os_error);
        let header = [self.nanoseconds, u64::from(self.step) << 32 | errno as u64];
        let header = header.map(u64::to_ne_bytes);
        let detail = [self.detail.reason as u8, self.detail.length];
        let mut bytes = [0; SIZE];
        let process = self.process.to_ne_bytes();
        let parts = [header.as_flattened(), &process, &detail, &self.detail.name];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    fn decode(bytes: &[u8; SIZE]) -> Option<Report> {
        let (nanoseconds, rest) = bytes.split_first_chunk()?;
        let (code, rest) = rest.split_first_chunk()?;
        let (process, rest) = rest.split_first_chunk()?;
        let ([reason, length], name) = rest.split_first_chunk()?;
        let code = u64::from_ne_bytes(*code);
        Some(Report {
            step: (code >> 32) as u16,
            result: match code as i32 {
                0 => Ok(()),
                errno => Err(Errno::from_raw_os_error(errno)),
            },
            nanoseconds: u64::from_ne_bytes(*nanoseconds),
            process: i32::from_ne_bytes(*process),
            detail: Detail {
                reason: *REASONS.get(usize::from(*reason))?,
                length: *length,
                name: *name.first_chunk()?,
            },
        })
    }

    /// Sends this report, with a descriptor if there is one to hand over. A supervisor that is gone is no error
    /// here: the parent-death signal ends the container.
    pub fn send(&self, socket: BorrowedFd<'_>, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes = self.encode();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if descriptor.is_some() {
            control.push(SendAncillaryMessage::ScmRights(descriptor.as_slice()));
        }
        let bytes = [IoSlice::new(&bytes)];
        sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// Receives the next report; `None` at end of file.
    pub fn receive(socket: impl AsFd) -> Result<Option<Received>> {
        let mut bytes = [0; SIZE];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = match recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            // It ended before it had read "go"; what it has said before is still there (net/unix/af_unix.c,
            // unix_release_sock).
            Err(Errno::CONNRESET) => {
                recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?
            }
            other => other?,
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let (mut descriptor, mut sender) = (None, None);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptor = descriptors.next(),
                RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials.pid),
                _ => {}
            }
        }
        let report = Report::decode(&bytes).ok_or(Errno::PROTO)?;
        Ok(Some(Received {
            report,
            descriptor,
            sender,
        }))
    }
}
