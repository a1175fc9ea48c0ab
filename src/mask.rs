//! What of /proc and /sys is hidden or cannot be written to, and the sysctls that are set before.
//!
//! proc(5), sysfs(5). Several files there speak about, or change, the whole machine whatever namespace they are seen
//! from: /proc/kcore is its memory, /proc/sysrq-trigger reboots it. A user namespace takes the right to most of them
//! away; this is a second wall, and the only one under `--userns host`. The paths are those of the OCI engines'
//! default set, in `plan/inside.rs`.
//!
//! All of it happens before any volume is mounted, on file systems that mini has just mounted itself at directories of
//! which it knows that they are no symbolic links, by descriptor: no image can lead it elsewhere (CVE-2019-19921,
//! CVE-2023-27561, CVE-2025-31133). What covers a masked path comes from the supervisor's own tmpfs, mounted
//! read-only, and belongs to nobody inside: a directory without entries, or a file without permissions. /dev/null,
//! which others use, is a thing that the container can have a hand in (CVE-2025-31133 again).

use core::ffi::CStr;

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::{Errno, Result, write};

use linux_raw_sys::general as raw;

use crate::rootfs::{Begun, DescriptorPath};
use crate::sys;

/// In the container's directory; made by the supervisor.
pub const DIRECTORY: &CStr = c"mask/directory";
pub const FILE: &CStr = c"mask/file";

/// Opens a path below the root's own /proc or /sys (`rootfs::Own`); `None` if this kernel has no such thing.
fn open((base, path): Begun<'_>) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(base, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// Covers `path`.
pub fn mask(path: Begun<'_>) -> Result<()> {
    let Some(target) = open(path)? else {
        return Ok(());
    };
    let directory = FileType::from_raw_mode(fstat(&target)?.st_mode).is_dir();
    let cover = if directory { DIRECTORY } else { FILE };
    let target = DescriptorPath::new(&target);
    sys::mount(Some(cover), target.as_cstr(), None, raw::MS_BIND, None)
}

/// Makes `path` and everything below it read-only.
pub fn read_only(path: Begun<'_>) -> Result<()> {
    let Some(target) = open(path)? else {
        return Ok(());
    };
    let itself = DescriptorPath::new(&target);
    let itself = itself.as_cstr();
    let bind = raw::MS_BIND | raw::MS_REC;
    sys::mount(Some(itself), itself, None, bind, None)?;
    // The descriptor is still that of what is now below: opened again, the path leads to the new mount.
    let Some(mounted) = open(path)? else {
        return Err(Errno::NOENT);
    };
    // The flags of /proc itself, which a remount must not take away.
    let flags = raw::MS_REMOUNT | raw::MS_BIND | raw::MS_RDONLY | QUIET;
    let mounted = DescriptorPath::new(&mounted);
    sys::mount(None, mounted.as_cstr(), None, flags, None)
}

const QUIET: u32 = raw::MS_NOSUID | raw::MS_NODEV | raw::MS_NOEXEC;

/// Writes a sysctl of the container's namespaces. An optional one is a convenience: some kernels do not have it, others
/// let no user namespace write it.
pub fn sysctl(all: Begun<'_>, path: &CStr, value: &[u8], optional: bool) -> Result<()> {
    let settings = open(all)?.ok_or(Errno::NOENT)?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let result =
        openat(&settings, path, flags, Mode::empty()).and_then(|file| write(file, value).map(drop));
    if optional { Ok(()) } else { result }
}
