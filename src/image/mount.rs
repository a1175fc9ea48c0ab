//! Mounts the read-only file systems that images are made of, and shares them between containers.
//!
//! Mechanisms: mount(2), loop(4) with LOOP_CONFIGURE (Linux 5.8); for sharing fcntl(2) record locks, pidfd_open(2),
//! setns(2) with a pidfd (Linux 5.8), open_tree(2). Entries: [`share`], with [`erofs`] or [`filesystem`] as what it is
//! to do if nobody has the image. Read `erofs`, `attach_loop`, `filesystem`, then `share`, `borrow`, `enter`.
//!
//! EROFS reads an image and its devices from files (Linux 6.12) where the file system they lie on lets it: ext4, xfs,
//! btrfs do, tmpfs and overlay do not, and older kernels want block devices. Then each file gets a loop device, which
//! goes by itself when it is neither open nor mounted, so none is left however this process ends. Partitions are not
//! looked for.
//!
//! Every mount made anew is a superblock of its own, with its own page cache. Containers of one image use one: the
//! supervisor has the image as `imageN` in its working directory, a tmpfs in its own mount namespace, and others copy
//! that mount. They find each other by the image's *key file*, one that stands for the image in the store: its byte N is
//! locked for reading by each process that has the image as `imageN`, for as long as it lives, and fcntl tells which
//! process that is. So there is no state that could be wrong. Byte [`TURN`] is locked for writing while somebody looks or
//! mounts: of many that start at once one mounts, and the others find it.
//!
//! Invariants:
//! - The key file is in a directory that only this user can enter; whoever could lock it would be entered by others.
//! - Only the process that has the lock is entered: the pidfd is opened while it has it, and does not follow the number
//!   to another process. What is found by `/proc/PID/cwd` is used only if it is in that process's mount namespace, which
//!   open_tree checks; so a /proc of other processes, or none, does no harm.
//! - A process never closes a descriptor of a key file: that would give back its lock (only the sharing would be lost).
//! - `imageN` is neither idmapped nor covered: an idmapped mount cannot be idmapped again for another container.
//!
//! The kernel parses what it mounts: an image in one of these formats is trusted as a program run by root is, but for
//! nosuid, nodev. (The indexes of tar archives are mini's own.)
//!
//! Left out: loop devices before Linux 5.8, and the kernel's text on why it refuses (in dmesg).

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use linux_raw_sys::general as raw;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, makedev, mknodat, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Flock, FlockType, Pid, PidfdFlags, chroot, fchdir, fcntl_getlk, pidfd_open};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use crate::error::{Error, Result, error, quote, reason};
use container::sys;

/// The byte of a key file that is locked while its image is looked for or mounted; above those of images.
const TURN: u32 = 1 << 16;
/// How often a loop device may be taken by somebody else between finding and configuring it.
const ATTEMPTS: u32 = 1000;
/// From linux/major.h and linux/miscdevice.h.
const LOOP_MAJOR: u32 = 7;
const LOOP_CONTROL: (u32, u32) = (10, 237);

/// How an image came to be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A copy of another container's mount.
    Shared,
    /// From the file itself.
    File,
    Loop,
    /// From the block device that it is on.
    Device,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            How::Shared => "shared with another container",
            How::File => "file-backed",
            How::Loop => "through loop devices",
            How::Device => "from the device",
        })
    }
}

/// Mounts an EROFS image, or an index whose files' data are in `tars` (its extra devices, in order), on the directory
/// `at`. `name` is what errors call it; an error says why neither way worked.
pub fn erofs(name: &[u8], index: &File, tars: &[File], at: &CStr) -> Result<How> {
    let mut files = vec![index];
    files.extend(tars);
    let paths: Vec<String> = files.iter().map(|file| descriptor_path(file)).collect();
    let Err(errno) = mount_erofs(&paths, at) else {
        return Ok(How::File);
    };
    let fail = |then: &str| {
        let (name, file) = (quote(name), reason(errno));
        error!("mount({name}, \"erofs\"): file-backed: {file}; {then}")
    };
    let (mut paths, mut devices) = (Vec::new(), Vec::new());
    for file in files {
        let (path, device) = attach_loop(file).map_err(|error| fail(&error.to_string()))?;
        paths.push(path);
        devices.push(device);
    }
    match mount_erofs(&paths, at) {
        Ok(()) => Ok(How::Loop),
        Err(errno) => {
            let error = fail(&format!("through loop devices: {}", reason(errno)));
            Err(error.hint(hint(c"erofs", errno)))
        }
    }
}

/// The image is the first of the paths, its extra devices are the others.
fn mount_erofs(paths: &[String], at: &CStr) -> rustix::io::Result<()> {
    let (image, devices) = paths.split_first().ok_or(Errno::INVAL)?;
    let mut options = String::new();
    for path in devices {
        options.extend(["device=", path, ","]);
    }
    mount(image, at, c"erofs", &options)
}

/// Mounts a `squashfs`, `erofs` or `ext4` file system, which is in a file or is a block device, on the directory `at`.
pub fn filesystem(name: &[u8], file: &File, fstype: &CStr, at: &CStr) -> Result<How> {
    let status = fstat(descriptor(file)).map_err(|errno| Error::sys("fstat", name, errno))?;
    let is_device = FileType::from_raw_mode(status.st_mode) == FileType::BlockDevice;
    if fstype == c"erofs" && !is_device {
        return erofs(name, file, &[], at);
    }
    if fstype == c"ext4" && needs_recovery(file) {
        let error = error!("{}: mounted, or not cleanly unmounted", quote(name));
        return Err(error.hint("e2fsck -f repairs it; mini does not write to an image"));
    }
    let options = match fstype.to_bytes() {
        // Else the image can ask the kernel to panic when it finds an error in it.
        b"ext4" => "errors=remount-ro",
        _ => "",
    };
    let (path, device) = match is_device {
        true => (descriptor_path(file), None),
        false => attach_loop(file).map(|(path, device)| (path, Some(device)))?,
    };
    mount(&path, at, fstype, options).map_err(|errno| {
        let object = format!("{}, {}", quote(name), quote(fstype.to_bytes()));
        let error = error!("mount({object}): {}", reason(errno));
        error.hint(hint(fstype, errno))
    })?;
    Ok(device.map_or(How::Device, |_| How::Loop))
}

/// Whether an ext4 file system has a journal to be replayed, which even a read-only mount would write to it. The
/// superblock is at byte 1024, its s_feature_incompat at 0x60; INCOMPAT_RECOVER is bit 2 (Linux's
/// Documentation/filesystems/ext4/super.rst).
fn needs_recovery(file: &File) -> bool {
    let mut incompat = [0; 4];
    file.read_exact_at(&mut incompat, 1024 + 0x60).is_ok() && u32::from_le_bytes(incompat) & 4 != 0
}

fn mount(source: &str, at: &CStr, fstype: &CStr, options: &str) -> rustix::io::Result<()> {
    // The kernel copies a page of options and cuts the rest.
    if options.len() >= 4096 {
        return Err(Errno::TOOBIG);
    }
    let text = |text| CString::new(text).map_err(|_| Errno::INVAL);
    let (source, options) = (text(source)?, text(options)?);
    let flags = raw::MS_RDONLY | raw::MS_NOSUID | raw::MS_NODEV;
    sys::mount(Some(&source), at, Some(fstype), flags, Some(&options))
}

fn hint(fstype: &CStr, errno: Errno) -> &'static str {
    match (errno, fstype.to_bytes()) {
        (Errno::NODEV, b"erofs") => "this kernel lacks CONFIG_EROFS_FS",
        (Errno::NODEV, b"squashfs") => "this kernel lacks CONFIG_SQUASHFS",
        (Errno::NODEV, b"ext4") => "this kernel lacks CONFIG_EXT4_FS",
        (Errno::BUSY, _) => "the host has mounted it writable",
        (Errno::INVAL | Errno::UCLEAN | Errno::OPNOTSUPP | Errno::IO, _) => {
            "damaged, or of a kind that this kernel does not read: dmesg says more"
        }
        _ => "",
    }
}

fn descriptor_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// As rustix wants it, which knows no files of the standard library here.
fn descriptor(file: &File) -> BorrowedFd<'_> {
    sys::borrow(file.as_raw_fd())
}

/// Puts a file behind a loop device. Returns its path, and the descriptor that keeps it until it is mounted.
fn attach_loop(file: &File) -> Result<(String, OwnedFd)> {
    let fail =
        |operation, path: &str, errno, hint| Err(Error::sys(operation, path, errno).hint(hint));
    let (major, minor) = LOOP_CONTROL;
    let control = match open_node("loop-control", FileType::CharacterDevice, major, minor) {
        Ok((_, control)) => control,
        Err(errno) => return fail("open", "/dev/loop-control", errno, "CONFIG_BLK_DEV_LOOP"),
    };
    for _ in 0..ATTEMPTS {
        let number = match sys::free_loop(&control) {
            Ok(number) => number,
            Err(errno) => return fail("ioctl", "LOOP_CTL_GET_FREE", errno, ""),
        };
        let name = format!("loop{number}");
        let opened = open_node(&name, FileType::BlockDevice, LOOP_MAJOR, number);
        let configured = opened.and_then(|(path, device)| {
            sys::configure_loop(&device, descriptor(file))?;
            Ok((path, device))
        });
        match configured {
            Ok(device) => return Ok(device),
            // Somebody else was faster, or has removed it.
            Err(Errno::BUSY | Errno::NXIO) => {}
            Err(errno) => return fail("ioctl(LOOP_CONFIGURE)", &name, errno, "Linux 5.8"),
        }
    }
    fail("ioctl", "LOOP_CONFIGURE", Errno::BUSY, "")
}

/// Opens a device by its name in /dev or, where that has none, by a node made in the working directory.
fn open_node(
    name: &str,
    kind: FileType,
    major: u32,
    minor: u32,
) -> rustix::io::Result<(String, OwnedFd)> {
    let open = |path: &str| openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let path = format!("/dev/{name}");
    match open(&path) {
        Err(Errno::NOENT) => {}
        opened => return Ok((path, opened?)),
    }
    match mknodat(CWD, name, kind, Mode::RUSR, makedev(major, minor)) {
        Ok(()) | Err(Errno::EXIST) => Ok((name.to_owned(), open(name)?)),
        Err(errno) => Err(errno),
    }
}

/// Mounts an image on the directory `imageN` below the working directory, N being `number`: a copy of what another
/// container has of the same key file or, if none has, by calling `mount` with the key file and that path. The working
/// directory is private to this container, and stays so for as long as this process lives.
///
/// The key file is open for reading and writing. It stays open, and tells others that the image is in use, until this
/// process ends.
pub fn share(
    key: File,
    number: u32,
    mount: impl FnOnce(&File, &CStr) -> Result<How>,
) -> Result<How> {
    let at = image_path(number)?;
    // Where there are no locks nothing is shared.
    let locked = sys::lock_byte_as_process(descriptor(&key), false, TURN).is_ok();
    let how = match locked && borrow(&key, &at)? {
        true => How::Shared,
        false => mount(&key, &at)?,
    };
    if locked {
        let _ = sys::lock_byte_as_process(descriptor(&key), true, number);
        let _ = sys::unlock_byte_as_process(descriptor(&key), TURN);
    }
    std::mem::forget(key);
    Ok(how)
}

fn image_path(number: u32) -> Result<CString> {
    CString::new(format!("image{number}")).map_err(|_| Error::new("image: a NUL in its path"))
}

/// Another process that has the image, and as which number. Without a pid if it is in a pid namespace that cannot be
/// seen from here.
fn holder(key: &File) -> Option<(Option<Pid>, u32)> {
    let mut images = Flock::from(FlockType::WriteLock);
    images.length = u64::from(TURN);
    let lock = fcntl_getlk(descriptor(key), &images).ok()??;
    Some((lock.pid, lock.start as u32))
}

/// Copies the mount of another process that has the image; false if there is none, or it cannot be had. An error is one
/// after which this process must not go on.
fn borrow(key: &File, at: &CStr) -> Result<bool> {
    let Some((Some(pid), number)) = holder(key) else {
        return Ok(false);
    };
    let theirs = image_path(number)?;
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(false);
    };
    // Else it has died, and the pidfd may be that of the next process with its number.
    if holder(key) != Some((Some(pid), number)) {
        return Ok(false);
    }
    let cwd = format!("/proc/{}/cwd", pid.as_raw_pid());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(cwd) = openat(CWD, cwd.as_str(), flags, Mode::empty()) else {
        return Ok(false);
    };
    let copy = enter(&process, || {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(&cwd, theirs.as_c_str(), flags)
    })?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let moved = copy.and_then(|copy| move_mount(copy, c"", CWD, at, empty));
    Ok(moved.is_ok())
}

/// Does `work` in the mount namespace of a process and comes back, to the root and working directory as well, which
/// setns(2) changes (mini may run in a chroot). The outer error is that it could not come back.
fn enter<T>(
    process: &OwnedFd,
    work: impl FnOnce() -> rustix::io::Result<T>,
) -> Result<rustix::io::Result<T>> {
    let open = |path, flags| openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
    let opened = (
        open("/proc/self/ns/mnt", OFlags::RDONLY),
        open("/", OFlags::PATH),
        open(".", OFlags::PATH),
    );
    let (Ok(own), Ok(root), Ok(cwd)) = opened else {
        return Ok(Err(Errno::NOENT));
    };
    let entered = move_into_thread_name_spaces(process.as_fd(), ThreadNameSpaceType::MOUNT);
    if let Err(errno) = entered {
        return Ok(Err(errno));
    }
    let result = work();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))
        .and_then(|()| fchdir(&root))
        .and_then(|()| chroot(c"."))
        .and_then(|()| fchdir(&cwd))
        .map_err(|errno| Error::sys("setns", "/proc/self/ns/mnt", errno))?;
    Ok(result)
}
