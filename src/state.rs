//! The containers that are running: for each a directory `running/ID` in the run directory, locked by its supervisor for
//! as long as that lives, so that liveness is a fact (flock(2)), with a record:
//!
//!     mini container 1
//!     name web                                 if it has one
//!     hostname web                             if it was given
//!     image rootfs.tar                         ROOTFS as it was given
//!     command sh                               each word of the command
//!     created 1763808000                       seconds since 1970
//!     supervisor 4711                          its process
//!     stop-signal 15, stop-timeout 10          if they were given, each on its line
//!     label role=web                           each label
//!     layer site.tar                           each --layer
//!     note archives are unpacked: …            each default that is known to be left out
//!     cgroup /sys/fs/cgroup/pids/mini-ID       each of its cgroups
//!     freezer /sys/fs/cgroup/freezer/mini-ID   the one that `mini pause` makes on version 1
//!
//!     pid 4712                                 its first process, before that is told to go on
//!     status 0                                 the status it ended with, if the supervisor could say so
//!
//! All but the last two is written before the container is made. What a dead supervisor left the next command removes
//! ([`sweep`]).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container::{child, sys};
use linux_raw_sys::general as raw;
use rustix::fs::{FlockOperation, OFlags};
use rustix::process::{WaitOptions, waitpid};

use crate::cgroup::{self, Choice};
use crate::error::{Result, error, quote};
use crate::record::{self, RECORD, Record, Text};
use crate::spec::{Rootfs, Spec};
use crate::store::{self, Directory};

/// The text of the record of a container that is about to be made.
pub fn record(spec: &Spec, cgroups: &Choice, notes: &[String]) -> Vec<u8> {
    let mut text = Text::new();
    let mut line = |key, value: &[u8]| text.line(key, value);
    if let Some(name) = &spec.name {
        line("name", name.as_bytes());
    }
    if let Some(name) = &spec.hostname {
        line("hostname", name.as_bytes());
    }
    line(
        "image",
        match &spec.rootfs {
            Rootfs::Path(path) => path.as_os_str().as_bytes(),
            Rootfs::Stdin => b"-",
        },
    );
    for layer in &spec.layers {
        line("layer", layer.as_os_str().as_bytes());
    }
    for word in &spec.command {
        line("command", word);
    }
    for label in &spec.labels {
        line("label", label.as_bytes());
    }
    for (key, value) in [
        ("stop-signal", spec.stop_signal),
        ("stop-timeout", spec.stop_timeout.map(|it| it as i32)),
    ] {
        if let Some(value) = value {
            line(key, value.to_string().as_bytes());
        }
    }
    for note in notes {
        line("note", note.as_bytes());
    }
    for group in cgroups.groups.iter().rev() {
        text.line("cgroup", group.path.as_os_str().as_bytes());
    }
    if let Some(freezer) = &cgroups.freezer {
        text.line("freezer", freezer.as_os_str().as_bytes());
    }
    text.bytes()
}

/// The container's cgroups, the one of `mini pause` last. Everything in them is going to be killed: what has not its name, in
/// a record that was cut short, is not one.
pub fn cgroups(record: &Record) -> Vec<PathBuf> {
    let paths = [record.all("cgroup"), record.all("freezer")].concat();
    let mut paths: Vec<PathBuf> = paths
        .iter()
        .map(|it| OsStr::from_bytes(it).into())
        .collect();
    let name = cgroup::name(&record.id);
    let inner = Path::new(&name).join(cgroup::INNER);
    paths.retain(|path| path.ends_with(&name) || path.ends_with(&inner));
    paths
}

/// Writes the record, with what is not known when a plan is made: now, and this process. The name must be nobody's that
/// runs.
pub fn write(directory: &Directory, name: Option<&str>, text: &[u8]) -> Result<()> {
    let now = sys::clock(raw::CLOCK_REALTIME) / 1_000_000_000;
    let more = format!("created {now}\nsupervisor {}\n", std::process::id());
    let Some(name) = name else {
        return directory.append(RECORD, &[text, more.as_bytes()].concat());
    };
    let top = directory.path().parent().unwrap_or(directory.path());
    let _guard = store::lock(top, FlockOperation::LockExclusive)?;
    for record in record::all(top.parent().unwrap_or(top), "running")? {
        if record.text("name").as_deref() == Some(name) && runs(&record) {
            let error = error!(
                "--name {}: container {} has it",
                quote(name.as_bytes()),
                record.id
            );
            return Err(error.hint("mini stop ends it"));
        }
    }
    directory.append(RECORD, &[text, more.as_bytes()].concat())
}

/// Those whose supervisors live.
#[cfg(feature = "life")]
pub fn running(run: &Path) -> Result<Vec<Record>> {
    let mut records = record::all(run, "running")?;
    // Nobody tries meanwhile whether a lock can be had, and has it for that moment. Without a record there is nothing to
    // ask; there need not be a directory either.
    let _guard = match records.is_empty() {
        true => None,
        false => Some(store::lock(
            &run.join("running"),
            FlockOperation::LockShared,
        )?),
    };
    records.retain(runs);
    Ok(records)
}

/// Whether a container's supervisor lives. It has had the lock since before there was a record.
pub fn runs(container: &Record) -> bool {
    store::lock(&container.directory, FlockOperation::NonBlockingLockShared).is_err()
        && container.directory.exists()
}

/// The running container of this id, of which the beginning will do, or this name.
#[cfg(feature = "life")]
pub fn find(run: &Path, wanted: &str) -> Result<Record> {
    let hint = "mini ps lists those that are running";
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
    // By a child's child, for which a mini that runs for long has not to wait. If that cannot be, the next command does it.
    let child = sys::clone(0, || i32::from(sys::clone(0, sweep).is_err()));
    if let Ok(child) = child {
        let _ = waitpid(Some(child), WaitOptions::empty());
    }
}

/// Removes what can be removed; whether that is all.
pub fn swept(run: &Path) -> Result<bool> {
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
