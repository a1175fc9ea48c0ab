//! Without root: a user namespace in which mini is root. Entry: [`enter`].
//!
//! user_namespaces(7), newuidmap(1), subuid(5). Linux 3.8. With subordinate ids the set-uid programs newuidmap and
//! newgidmap write the maps; without, mini maps the one id that it may map itself.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use container::sys::{self, Word};

use crate::error::{Error, Result, reason};
use crate::explain::namespace_hint;
use crate::host::Host;
use crate::plan::{IdMap, leak};

/// Enters a new user namespace as its root. newuidmap has to run outside of it and after it was made, so its
/// processes are made before and wait.
pub fn enter(map: &IdMap, host: &Host) -> Result<()> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::sys("pipe", "", errno))?;
    let mut helpers = Vec::new();
    if let Some(ids) = &map.subordinate {
        for (program, outside, range) in [
            (&ids.newuidmap, map.uid, ids.uids),
            (&ids.newgidmap, map.gid, ids.gids),
        ] {
            helpers.push((
                program,
                spawn_helper(program, outside, range, &read, &write)?,
            ));
        }
    }
    let failed = |errno: Errno| {
        let error = Error::new(format!("unshare(CLONE_NEWUSER): {}", reason(errno)));
        error.hint(namespace_hint(errno, host))
    };
    sys::unshare(raw::CLONE_NEWUSER).map_err(failed)?;
    if helpers.is_empty() {
        let write = |path: &str, text: String| {
            std::fs::write(path, text).map_err(|error| Error::io("write", path, &error))
        };
        // A group map by the user itself is allowed only without setgroups (user_namespaces(7), CVE-2014-8989).
        write("/proc/self/setgroups", "deny".into())?;
        write("/proc/self/uid_map", format!("0 {} 1", map.uid))?;
        return write("/proc/self/gid_map", format!("0 {} 1", map.gid));
    }
    rustix::io::write(&write, b"!!").map_err(|errno| Error::sys("write", "pipe", errno))?;
    for (program, pid) in helpers {
        let status = waitpid(Some(pid), WaitOptions::empty())
            .map_err(|errno| Error::sys("wait", "", errno))?;
        if status.is_none_or(|(_, status)| status.exit_status() != Some(0)) {
            return Err(Error::new(format!("{}: failed", program.display()))
                .hint("see /etc/subuid and /etc/subgid"));
        }
    }
    Ok(())
}

/// A process that waits for a byte and then maps ids of this one.
fn spawn_helper(
    program: &Path,
    outside: u32,
    range: (u32, u32),
    read: &OwnedFd,
    write: &OwnedFd,
) -> Result<Pid> {
    let this = std::process::id().to_string();
    let text = [
        program.display().to_string(),
        this,
        "0".into(),
        outside.to_string(),
        "1".into(),
        "1".into(),
    ];
    let range = [range.0.to_string(), range.1.to_string()];
    let words: Vec<Word> = text
        .into_iter()
        .chain(range)
        .map(|word| Word::new(leak(word)))
        .chain([Word::END])
        .collect();
    let path = leak(program.as_os_str().as_bytes());
    let write = write.as_raw_fd();
    sys::clone(0, || {
        // The parent's death must be seen as end of file.
        sys::close(write);
        if rustix::io::read(read, &mut [0; 1]) != Ok(1) {
            return 125;
        }
        sys::default_signals();
        sys::set_signal_mask(0);
        let _ = sys::execve(path, &words, &[Word::END]);
        127
    })
    .map_err(|errno| Error::sys("clone3", "", errno))
}
