//! The container's root directory: mounts at paths that an untrusted image has a say in, pivot_root, loopback.
//!
//! mount(2), mount_setattr(2), pivot_root(2), path_resolution(7), rtnetlink(7). Every mount below the new root is
//! made before the old root is given up, from the host's side and by descriptor: the target is resolved inside
//! the root ([`resolve`]), then addressed as `/proc/self/fd/N`. So one way of naming targets serves all kernels;
//! `move_mount` (Linux 5.2) would do the same for newer ones only. A path is never resolved twice.
//!
//! The old root is pivoted onto the new one (`pivot_root(".", ".")`) and detached from there, which needs no
//! directory in the image. Left out: `MS_MOVE` and chroot, out of which a process with CAP_SYS_CHROOT walks.

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, mkdirat, openat, stat,
    statat, statvfs,
};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use rustix::path::DecInt;

use linux_raw_sys::general as raw;

use crate::step::{Mount, Target};
use crate::{resolve, sys};

/// Directories that have to be made in the container: accessible to all, as a base system has them.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const FILE: Mode = Mode::from_raw_mode(0o644);

/// `mount(2)`, with the target resolved as its kind demands.
pub fn mount(root: Option<BorrowedFd<'_>>, mount: &Mount) -> Result<()> {
    let call = |mount: &Mount, target: &CStr| {
        sys::mount(mount.source, target, mount.fstype, mount.flags, mount.data)
    };
    let descriptor = match mount.target {
        Target::Path(path) => {
            let mut mount = *mount;
            if mount.flags & raw::MS_REMOUNT != 0 {
                // A remount replaces these flags, and must not take any away; MS_RDONLY and the next three are bits 0
                // to 3 in both. What it says nothing about, the access times, it leaves (mount(2)).
                mount.flags |= statvfs(path)?.f_flag.bits() as u32 & 0xf;
            }
            return call(&mount, path);
        }
        Target::Root(path) => plain_directory(root.ok_or(Errno::BADF)?, path)?,
        Target::Inside(path) => {
            let root = root.ok_or(Errno::BADF)?;
            let bind = mount.flags & raw::MS_BIND != 0;
            let target = match mount.source {
                Some(source) if bind && !is_directory(source)? => {
                    resolve::make_file(root, path.to_bytes(), FILE)?
                }
                _ => resolve::make_dir(root, path.to_bytes(), DIRECTORY)?,
            };
            not_minis_own(root, path, target)?
        }
    };
    let path = DescriptorPath::new(&descriptor);
    call(mount, path.as_cstr())
}

/// A symbolic link of the image must not lead a volume over what mini has mounted: /proc, /sys, /dev, masks. EXDEV.
fn not_minis_own(root: BorrowedFd<'_>, path: &CStr, target: OwnedFd) -> Result<OwnedFd> {
    const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572; // linux/magic.h
    let kind = fstatfs(&target)?.f_type;
    let device = fstat(&target)?.st_dev;
    // /dev and what masks are made of are one file system.
    let mut own = [c"dev", c"dev/pts", c"dev/shm", c"dev/mqueue"].into_iter();
    let own = own.any(|own| {
        statat(root, own, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|status| status.st_dev == device)
    });
    let linked = own && !path.to_bytes().starts_with(b"/dev/");
    match linked || kind == PROC_SUPER_MAGIC || kind == SYSFS_MAGIC {
        true => Err(Errno::XDEV),
        false => Ok(target),
    }
}

fn is_directory(path: &CStr) -> Result<bool> {
    Ok(FileType::from_raw_mode(stat(path)?.st_mode).is_dir())
}

/// Opens an entry of the root directory that must be an ordinary directory: ELOOP or ENOTDIR if it is not.
fn plain_directory(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let name = path.to_bytes().strip_prefix(b"/").ok_or(Errno::INVAL)?;
    match mkdirat(root, name, DIRECTORY) {
        Err(errno) if errno != Errno::EXIST => return Err(errno),
        _ => {}
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(root, name, flags, Mode::empty())
}

/// `/proc/self/fd/N` without allocation. The kernel resolves it to the very object that N is open on.
pub struct DescriptorPath([u8; 28]);

impl DescriptorPath {
    pub fn new(descriptor: &OwnedFd) -> DescriptorPath {
        let mut path = [0; 28];
        let digits = DecInt::from_fd(descriptor);
        let text = b"/proc/self/fd/".iter().chain(digits.as_bytes());
        for (to, from) in path.iter_mut().zip(text) {
            *to = *from;
        }
        DescriptorPath(path)
    }

    pub fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

/// Brings the loopback interface up: one RTM_NEWLINK for interface 1, which in a new network namespace is always
/// `lo`. The kernel gives it 127.0.0.1 and ::1 itself. An ioctl would do too, but only with CONFIG_INET.
pub fn loopback_up() -> Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const NLMSG_ERROR: u16 = 2;
    const IFF_UP: u32 = 1;
    // struct nlmsghdr: length, type and flags, sequence, port; struct ifinfomsg: family, padding and device type, index,
    // flags, mask of flags to change.
    const MESSAGE: [u32; 8] = {
        let (kind, flags) = (RTM_NEWLINK.to_ne_bytes(), REQUEST_AND_ACK.to_ne_bytes());
        let kind = u32::from_ne_bytes([kind[0], kind[1], flags[0], flags[1]]);
        [32, kind, 0, 0, 0, 1, IFF_UP, IFF_UP]
    };
    // No protocol is protocol 0, NETLINK_ROUTE.
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let message = MESSAGE.map(u32::to_ne_bytes);
    let message = message.as_flattened();
    send(&socket, message, SendFlags::empty())?;
    let mut answer = [0; 64];
    recv(socket.as_fd(), &mut answer, RecvFlags::empty())?;
    // Behind the header is struct nlmsgerr: 0 or a negative errno.
    let [
        _,
        _,
        _,
        _,
        k0,
        k1,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        e0,
        e1,
        e2,
        e3,
        ..,
    ] = answer;
    let error = i32::from_ne_bytes([e0, e1, e2, e3]);
    match (u16::from_ne_bytes([k0, k1]), error) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, error) => Err(Errno::from_raw_os_error(-error)),
        _ => Err(Errno::PROTO),
    }
}
