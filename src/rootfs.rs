//! The container's root directory: mounts at paths that an untrusted image has a say in, pivot_root.
//!
//! mount(2), mount_setattr(2), pivot_root(2), path_resolution(7). Every mount below the new root is
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
use rustix::path::DecInt;

use linux_raw_sys::general as raw;

use crate::step::{Mount, Target};
use crate::{resolve, sys};

/// Directories that have to be made in the container: accessible to all, as a base system has them.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const FILE: Mode = Mode::from_raw_mode(0o644);

/// The roots of what was mounted on /proc and /sys, by which everything in them is found: whoever can write to the image
/// at the same time (`--rw`) could have another directory at that path by then, and what is to be masked elsewhere.
#[derive(Default)]
pub struct Own([Option<OwnedFd>; 2]);

/// A directory, and a path in it.
pub type Begun<'a> = (BorrowedFd<'a>, &'a [u8]);

const SYSFS_MAGIC: rustix::fs::FsWord = raw::SYSFS_MAGIC as _;
const OWN: [(&[u8], rustix::fs::FsWord); 2] =
    [(b"proc/", PROC_SUPER_MAGIC), (b"sys/", SYSFS_MAGIC)];

impl Own {
    /// Where a path begins, and the rest of it.
    pub fn base<'a>(&'a self, root: BorrowedFd<'a>, path: &'a CStr) -> Result<Begun<'a>> {
        let path = path.to_bytes().strip_prefix(b"/").ok_or(Errno::INVAL)?;
        for ((name, _), mounted) in OWN.iter().zip(&self.0) {
            if let (Some(rest), Some(mounted)) = (path.strip_prefix(*name), mounted) {
                return Ok((mounted.as_fd(), rest));
            }
        }
        Ok((root, path))
    }

    /// Opens what has just been mounted, if it is one of them. EXDEV if that is not there any more.
    fn add(&mut self, root: BorrowedFd<'_>, path: &CStr, mount: &Mount) -> Result<()> {
        let path = path.to_bytes().strip_prefix(b"/").unwrap_or_default();
        for ((name, kind), mounted) in OWN.iter().zip(&mut self.0) {
            if name.strip_suffix(b"/") == Some(path) {
                let opened = openat(root, path, PLAIN, Mode::empty())?;
                let status = fstat(&opened)?;
                let is = match mount.source {
                    Some(source) if mount.flags & raw::MS_BIND != 0 => {
                        let source = stat(source)?;
                        (source.st_dev, source.st_ino) == (status.st_dev, status.st_ino)
                    }
                    _ => fstatfs(&opened)?.f_type == *kind,
                };
                *mounted = Some(is.then_some(opened).ok_or(Errno::XDEV)?);
            }
        }
        Ok(())
    }
}

/// `mount(2)`, with the target resolved as its kind demands.
pub fn mount(root: Option<BorrowedFd<'_>>, own: &mut Own, mount: &Mount) -> Result<()> {
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
        Target::Root(path) => {
            let root = root.ok_or(Errno::BADF)?;
            let below = plain_directory(own.base(root, path)?)?;
            call(mount, DescriptorPath::new(&below).as_cstr())?;
            return own.add(root, path, mount);
        }
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
fn plain_directory((base, name): Begun<'_>) -> Result<OwnedFd> {
    match mkdirat(base, name, DIRECTORY) {
        Err(errno) if errno != Errno::EXIST => return Err(errno),
        _ => {}
    }
    openat(base, name, PLAIN, Mode::empty())
}

const PLAIN: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

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
