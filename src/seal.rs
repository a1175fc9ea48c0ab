//! mini's own binary, out of the container's reach. Entry: [`seal`]. memfd_create(2), fcntl(2) on file sealing, Linux
//! 3.17.
//!
//! A process of the container that gets hold of /proc/PID/exe of a process that still runs mini's binary, or that runs
//! it itself (`#!/proc/self/exe`), can open it for writing once it is no longer executed, if the file belongs to its
//! user: the next `mini` on the host is then the attacker's (CVE-2019-5736). "Text file busy" only makes it wait.
//! With a range of ids of its own the container's user is nobody on the host and owns nothing. Where it does, mini
//! goes on from a copy in memory, which is sealed against writing, before it does anything else; it costs about the
//! binary's size in memory and a third of a millisecond.
//!
//! Left out: a read-only bind mount instead of the copy. Root could change it back.

use std::os::unix::ffi::OsStringExt;

use rustix::fd::AsRawFd;
use rustix::fs::{
    MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create, sendfile,
};
use rustix::io::Errno;

use container::sys;

use crate::error::{Error, Result};
use crate::plan::{environment, leak, words};

/// Returns if this process runs from a sealed copy already; else starts over from one. Returns also where that cannot
/// be, with a note.
pub fn seal() -> Result<Option<String>> {
    let fail = |operation: &'static str| move |errno| Error::sys(operation, "mini's binary", errno);
    let binary = sys::open(c"/proc/self/exe", OFlags::RDONLY).map_err(fail("open"))?;
    // EINVAL: not a file in memory.
    if fcntl_get_seals(&binary).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(None);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 there is no flag for it, and all can be executed.
    let made = match memfd_create(c"mini", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(c"mini", flags),
        result => result,
    };
    let copy = match made {
        Err(Errno::NOSYS) => {
            let note =
                "mini's binary is within the container's reach: no memfd_create (Linux 3.17)";
            return Ok(Some(note.into()));
        }
        Err(Errno::ACCESS) => {
            return Err(
                fail("memfd_create")(Errno::ACCESS).hint("sysctl vm.memfd_noexec=2 forbids it")
            );
        }
        result => result.map_err(fail("memfd_create"))?,
    };
    while sendfile(&copy, &binary, None, 1 << 24).map_err(fail("sendfile"))? > 0 {}
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&copy, seals).map_err(fail("fcntl(F_ADD_SEALS)"))?;
    let arguments: Vec<_> = std::env::args_os().map(OsStringExt::into_vec).collect();
    let path = leak(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    Err(fail("execve")(sys::execve(
        path,
        words(&arguments),
        environment(),
    )))
}
