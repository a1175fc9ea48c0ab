//! The containers that are running: for each a directory `running/ID` in the run directory, locked by its supervisor for
//! as long as that lives, so that liveness is a fact (flock(2)), with a record:
//!
//!     mini container 1
//!     name web                                 if it has one
//!     cgroup /sys/fs/cgroup/pids/mini-ID       each of its cgroups
//!     freezer /sys/fs/cgroup/freezer/mini-ID   the one that `mini pause` makes on version 1
//!
//! It is written before any of this is made. What a dead supervisor left the next command removes ([`sweep`]).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container::{child, sys};
use rustix::fs::{FlockOperation, OFlags};

use crate::cgroup::{self, Choice};
use crate::error::Result;
use crate::record::{self, Record, Text};
use crate::spec::Spec;
use crate::store;

/// The text of the record of a container that is about to be made.
pub fn record(spec: &Spec, cgroups: &Choice) -> Vec<u8> {
    let mut text = Text::new();
    if let Some(name) = &spec.name {
        text.line("name", name.as_bytes());
    }
    for group in &cgroups.groups {
        text.line("cgroup", group.path.as_os_str().as_bytes());
    }
    if let Some(freezer) = &cgroups.freezer {
        text.line("freezer", freezer.as_os_str().as_bytes());
    }
    text.bytes()
}

/// The container's cgroups.
pub fn cgroups(record: &Record) -> Vec<PathBuf> {
    let paths = [record.all("freezer"), record.all("cgroup")].concat();
    paths
        .iter()
        .map(|path| OsStr::from_bytes(path).into())
        .collect()
}

/// Those whose supervisors live.
pub fn running(run: &Path) -> Result<Vec<Record>> {
    let mut records = record::all(run, "running")?;
    records.retain(|it| store::lock(&it.directory, FlockOperation::NonBlockingLockShared).is_err());
    Ok(records)
}

/// The running container of this id, of which the beginning will do, or this name.
pub fn find(run: &Path, wanted: &str) -> Result<Record> {
    let hint = "mini stats lists those that are running";
    record::pick(running(run)?, wanted, "running container", hint)
}

/// Removes what dead supervisors left.
pub fn sweep(run: &Path) -> Result<()> {
    if !swept(run)? {
        sweep_later(run);
    }
    Ok(())
}

/// Does so in a process of its own, which goes on for two seconds at most: until the dead container's last processes, which
/// may have been told to end just now, are gone.
pub fn sweep_later(run: &Path) {
    let sweep = || {
        // Nobody may wait for this process to close something.
        child::close_from(0);
        for _ in 0..3 {
            let _ = sys::open(c"/dev/null", OFlags::RDWR).map(std::mem::forget);
        }
        for _ in 0..200 {
            std::thread::sleep(Duration::from_millis(10));
            if swept(run) == Ok(true) {
                break;
            }
        }
        0
    };
    // If that cannot be, the next command does it.
    let _ = sys::clone(0, sweep);
}

/// Removes what can be removed; whether that is all.
fn swept(run: &Path) -> Result<bool> {
    let mut all = true;
    for (path, _lock) in store::dead(run, "running")? {
        all &= remove(&path);
    }
    Ok(all)
}

/// Removes the directory of a container whose supervisor is dead, and its cgroups first. False if that is too early.
pub fn remove(directory: &Path) -> bool {
    let mut gone = true;
    for cgroup in cgroups(&Record::read(directory.to_owned())) {
        gone &= cgroup::remove(&cgroup);
    }
    if gone {
        store::remove(directory);
    }
    gone
}
