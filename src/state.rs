//! The containers that are running: for each a directory `running/ID` in the run directory, locked by its supervisor for
//! as long as that lives, so that liveness is a fact (flock(2)), with a record:
//!
//!     mini container 1
//!     name web                                 if it has one
//!     hostname web                             if it was given
//!     image rootfs.tar                         ROOTFS as it was given
//!     command sh                               each word of the command
//!     created 1763808000                       seconds since 1970
//!     keeper 4710                              the process that starts it again, if there is one
//!     restarts 2                               how often it has
//!     supervisor 4711                          the supervisor's process
//!     stop-signal 15, stop-timeout 10          if they were given, each on its line
//!     label role=web                           each label
//!     layer site.tar                           each --layer
//!     note archives are unpacked: …            each default that is known to be left out
//!     detached yes                             in the background
//!     rm yes                                   and nothing is to be left of it
//!     kept /var/lib/mini/kept/ID               where its changes are
//!     cgroup /sys/fs/cgroup/pids/mini-ID       each of its cgroups
//!     freezer /sys/fs/cgroup/freezer/mini-ID   the one that `mini pause` makes on version 1
//!     env PATH=/bin                            each variable of the command's but HOME, and TERM if it was not given
//!     user 0, group 5, workdir /               who it runs as, and where; names or numbers, a group if it was given
//!     capabilities 800405fb, added 0           what is granted, and what of that --cap-add names
//!     no-new-privs yes, privileged yes         if it is so
//!     seccomp default                          or log, unconfined; filter FLAGS and the program, if it is from a file
//!     ulimit NOFILE=1024:524288                each
//!     shared 20000000                          the namespaces (CLONE_NEW*) that it shares with the host
//!     init no                                  if the command is its first process
//!     range yes                                if its ids are a range of its own
//!     joined 38000000 4a5b6c7d8e9f             the namespaces that it shares with this container, if it does
//!
//!     port 0.0.0.0:8080->80/tcp                each port of the host's that stands for one of the container's
//!     bridge mini0, address 10.177.0.2/24      where it is, if it is on a bridge
//!     gateway 10.177.0.1                       and the bridge's own address
//!     pid 4712                                 its first process, before that is told to go on
//!     oom yes                                  it was killed for its memory
//!     status 0                                 the status it ended with, if the supervisor could say so
//!     finished 1763808060                      and when
//!
//! When a container is started again, what begins with `restarts` or `supervisor` is written anew. All but what is from `pid` on is written before the container is made. What a dead supervisor left the next command removes
//! ([`sweep`]): all of it, but of a container in the background, unless it is to be removed, only the cgroups. Its record and
//! its log (`log.rs`), with nobody's lock on them, are what an ended container is. It is there until `mini rm`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container::{child, sys};
#[cfg(feature = "life")]
use container::{step::ResourceLimit, sys::Instruction};
use linux_raw_sys::general as raw;
#[cfg(feature = "life")]
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, OFlags};
use rustix::process::{WaitOptions, waitpid};

use crate::cgroup::{self, Choice};
use crate::error::{Result, error, quote};
use crate::host::Host;
use crate::record::{self, RECORD, Record, Text};
use crate::spec::{Rootfs, Spec};
use crate::store::{self, Directory};
#[cfg(feature = "life")]
use crate::{
    capability::Capabilities,
    cli,
    seccomp::{Filter, Seccomp},
    spec,
};

/// The text of the record of a container that is about to be made.
pub fn record(spec: &Spec, host: &Host, cgroups: &Choice, notes: &[String]) -> Vec<u8> {
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
    if let Some(detach) = &spec.detach {
        line("detached", b"yes");
        if detach.rm {
            line("rm", b"yes");
        }
        if spec.keep {
            let kept = host.store.join("kept").join(&host.id);
            line("kept", kept.as_os_str().as_bytes());
        }
    }
    for (key, value) in [
        ("stop-signal", spec.stop_signal),
        ("stop-timeout", spec.stop_timeout.map(|it| it as i32)),
    ] {
        if let Some(value) = value {
            line(key, value.to_string().as_bytes());
        }
    }
    #[cfg(feature = "net")]
    for port in &spec.network.ports {
        line("port", port.to_string().as_bytes());
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

/// What `mini exec` has to know of the command. Read by [`described`].
#[cfg(feature = "life")]
pub fn describe(
    spec: &Spec,
    environment: &[(&[u8], &[u8])],
    (user, group): (Vec<u8>, Option<Vec<u8>>),
    limits: &[ResourceLimit],
    granted: u64,
    filter: Option<&Filter>,
) -> Vec<u8> {
    let mut text = Text::more();
    for (key, value) in environment {
        text.line("env", &[key, &b"="[..], value].concat());
    }
    text.line("user", &user);
    if let Some(group) = &group {
        text.line("group", group);
    }
    text.line("workdir", &spec.workdir);
    let added = spec.capabilities.ambient(granted);
    for (key, set) in [("capabilities", granted), ("added", added)] {
        text.line(key, format!("{set:x}").as_bytes());
    }
    for (key, set) in [
        ("no-new-privs", spec.no_new_privs),
        ("privileged", spec.privileged),
    ] {
        if set {
            text.line(key, b"yes");
        }
    }
    // The file may be another one by then.
    let seccomp = match (&spec.seccomp, filter) {
        (Seccomp::Default, _) => "default".to_owned(),
        (Seccomp::Log, _) => "log".to_owned(),
        (_, None) => "unconfined".to_owned(),
        (_, Some(filter)) => {
            let mut program = format!("filter {:x} ", filter.flags);
            for it in &filter.program {
                program.push_str(&format!(
                    "{:04x}{:02x}{:02x}{:08x}",
                    it.code, it.jt, it.jf, it.k
                ));
            }
            program
        }
    };
    text.line("seccomp", seccomp.as_bytes());
    for ResourceLimit {
        name, soft, hard, ..
    } in limits
    {
        text.line("ulimit", format!("{name}={soft}:{hard}").as_bytes());
    }
    if !spec.init {
        text.line("init", b"no");
    }
    text.line("shared", format!("{:x}", spec.shared).as_bytes());
    text.bytes()
}

/// A command that is to run as the container's own does, of what [`describe`] has written.
#[cfg(feature = "life")]
pub fn described(container: &Record) -> Result<Spec> {
    let bad = |key: &str| error!("container {}: its record is bad: {key}", container.id);
    let hex = |text: &str, key| u64::from_str_radix(text, 16).map_err(|_| bad(key));
    let text = |key| container.text(key).ok_or_else(|| bad(key));
    let mut environment = Vec::new();
    for variable in container.all("env") {
        environment.extend(spec::variable("env", &variable)?);
    }
    let mut limits = Vec::new();
    for limit in container.all("ulimit") {
        limits.push(spec::limit(&String::from_utf8_lossy(&limit))?);
    }
    let text_of_filter = text("seccomp")?;
    let seccomp = match text_of_filter.split(' ').collect::<Vec<_>>()[..] {
        ["default"] => Seccomp::Default,
        ["log"] => Seccomp::Log,
        ["unconfined"] => Seccomp::Unconfined,
        ["filter", flags, program] => {
            let mut instructions = Vec::new();
            for digits in program.as_bytes().chunks(16) {
                let digits = String::from_utf8_lossy(digits);
                let number = hex(&digits, "seccomp")?;
                instructions.push(Instruction {
                    code: (number >> 48) as u16,
                    jt: (number >> 40) as u8,
                    jf: (number >> 32) as u8,
                    k: number as u32,
                });
            }
            Seccomp::Compiled(instructions, hex(flags, "seccomp")? as u32)
        }
        _ => return Err(bad("seccomp")),
    };
    Ok(Spec {
        environment,
        limits,
        seccomp,
        user: container.all("user").pop(),
        group: container.all("group").pop(),
        workdir: container
            .all("workdir")
            .pop()
            .ok_or_else(|| bad("workdir"))?,
        capabilities: Capabilities {
            base: hex(&text("capabilities")?, "capabilities")?,
            add: hex(&text("added")?, "added")?,
            drop: 0,
        },
        no_new_privs: container.text("no-new-privs").is_some(),
        // Standard input is the command's.
        rootfs: Rootfs::Path(PathBuf::new()),
        ..cli::plain()?
    })
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
    for record in record::each(top.parent().unwrap_or(top), "running")? {
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

/// The same for a container that is started again by this process's parent. What is known of it stays the same.
#[cfg(feature = "life")]
pub fn write_run(
    directory: &Directory,
    name: Option<&str>,
    text: &[u8],
    restarts: u32,
) -> Result<()> {
    if restarts > 0 {
        let line = format!("supervisor {}\n", std::process::id());
        return directory.append(RECORD, line.as_bytes());
    }
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_pid());
    let keeper = format!("keeper {parent}\n");
    write(directory, name, &[text, keeper.as_bytes()].concat())
}

/// Those whose supervisors live, or of them only the ones that `wanted` may mean.
#[cfg(feature = "life")]
pub fn running(run: &Path, wanted: Option<&str>) -> Result<Vec<Record>> {
    let mut containers = every(run, wanted)?;
    containers.retain(|(_, runs)| *runs);
    Ok(containers.into_iter().map(|(record, _)| record).collect())
}

/// All that are known, each with whether its supervisor lives; what a dead one left only if that stays. Of hundreds nobody
/// needs to ask for all the locks who has `wanted` only some.
#[cfg(feature = "life")]
pub fn every(run: &Path, wanted: Option<&str>) -> Result<Vec<(Record, bool)>> {
    let fits = |record: &Record| wanted.is_none_or(|wanted| record.fits(wanted) > 0);
    let records = record::each(run, "running")?
        .filter(fits)
        .collect::<Vec<_>>();
    // Nobody tries meanwhile whether a lock can be had, and has it for that moment. Without a record there is nothing to
    // ask; there need not be a directory either.
    let _guard = match records.is_empty() {
        true => None,
        false => Some(store::lock(
            &run.join("running"),
            FlockOperation::LockShared,
        )?),
    };
    let with = records.into_iter().map(|record| {
        let runs = runs(&record);
        // It may have ended since it was read, and have written how.
        let record = match runs {
            true => record,
            false => Record::read(record.directory),
        };
        (record, runs)
    });
    Ok(with
        .filter(|(record, runs)| *runs || stays(record))
        .collect())
}

/// Whether a container has ended that is to be there, and nothing of it runs on.
#[cfg(feature = "life")]
pub fn is_over(container: &Record) -> bool {
    let gone = || cgroups(container).iter().all(|path| !path.exists());
    stays(container) && !runs(container) && gone()
}

/// Whether a container is to be there when it has ended.
fn stays(container: &Record) -> bool {
    container.text("detached").is_some() && container.text("rm").is_none()
}

/// The container of this id, of which the beginning will do, or this name: the one that runs, else the one that has ended
/// last.
#[cfg(feature = "life")]
pub fn find_any(run: &Path, wanted: &str) -> Result<(Record, bool)> {
    let mut all = every(run, Some(wanted))?;
    let written = |record: &Record| {
        let status = std::fs::metadata(record.directory.join(RECORD));
        status.and_then(|status| status.modified()).ok()
    };
    let named = |record: &Record| record.text("name").as_deref() == Some(wanted);
    let last = (all.iter().filter(|(record, _)| named(record)))
        .max_by_key(|(record, runs)| (*runs, written(record)))
        .map(|(record, _)| record.id.clone());
    all.retain(|(record, _)| !named(record) || Some(&record.id) == last.as_ref());
    let running: Vec<String> = (all.iter().filter(|(_, runs)| *runs))
        .map(|(record, _)| record.id.clone())
        .collect();
    let records = all.into_iter().map(|(record, _)| record).collect();
    let found = record::pick(records, wanted, "container", "mini ps -a lists all")?;
    let runs = running.contains(&found.id);
    Ok((found, runs))
}

/// Whether a container's supervisor lives. It has had the lock since before there was a record.
pub fn runs(container: &Record) -> bool {
    store::lock(&container.directory, FlockOperation::NonBlockingLockShared).is_err()
        && container.directory.exists()
}

/// The same, asked while nobody tries whether the lock can be had, who would have it for that moment. Not by who has the
/// directory above locked.
#[cfg(feature = "life")]
pub fn lives(container: &Record) -> Result<bool> {
    let path = &container.directory;
    let _guard = store::lock(path.parent().unwrap_or(path), FlockOperation::LockShared)?;
    Ok(runs(container))
}

/// The running container of this id, of which the beginning will do, or this name.
#[cfg(feature = "life")]
pub fn find(run: &Path, wanted: &str) -> Result<Record> {
    let hint = "mini ps lists those that are running";
    record::pick(
        running(run, Some(wanted))?,
        wanted,
        "running container",
        hint,
    )
}

/// Removes what dead supervisors left, as [`store::dead`] finds it.
pub fn sweep(run: &Path, most: usize) -> Result<()> {
    let swept = swept(run, most)?;
    #[cfg(feature = "net")]
    let swept = swept & crate::net::lease::tidy(run, false)?;
    if !swept {
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
            let swept = swept(run, usize::MAX) == Ok(true);
            #[cfg(feature = "net")]
            let swept = swept & (crate::net::lease::tidy(run, true) == Ok(true));
            if swept {
                break;
            }
        }
        // Until the kernel has forgotten published ports: if this ended sooner, others would wait for it (`net/nat.rs`).
        #[cfg(feature = "net")]
        std::thread::sleep(Duration::from_millis(40));
        0
    };
    // By a child's child, for which a mini that runs for long has not to wait. If that cannot be, the next command does it.
    let child = sys::clone(0, || i32::from(sys::clone(0, sweep).is_err()));
    if let Ok(child) = child {
        let _ = waitpid(Some(child), WaitOptions::empty());
    }
}

/// Removes what can be removed; whether that is all.
pub fn swept(run: &Path, most: usize) -> Result<bool> {
    let mut all = true;
    for (path, _lock) in store::dead(run, "running", most)? {
        let record = Record::read(path);
        let gone = end(&record);
        if gone && !stays(&record) {
            store::remove(&record.directory);
        }
        all &= gone;
    }
    Ok(all)
}

/// Removes the cgroups of a container whose supervisor is dead. False if that is too early.
pub fn end(container: &Record) -> bool {
    let mut gone = true;
    for cgroup in cgroups(container) {
        gone &= cgroup::remove(&cgroup);
    }
    gone
}

/// Removes what is left of a container whose supervisor is dead: its cgroups, and once they are gone what it has changed
/// and the directory. False if that is too early.
#[cfg(any(feature = "images", feature = "life"))]
pub fn remove(container: &Record) -> bool {
    let gone = end(container);
    if gone {
        #[cfg(feature = "life")]
        crate::detach::forget(container);
        store::remove(&container.directory);
    }
    gone
}

/// Takes the directory of a container whose supervisor is dead, as [`store::dead`] does, while nobody else works on it.
/// `None` if it is gone.
#[cfg(feature = "life")]
pub fn claim(container: &Record) -> Result<Option<OwnedFd>> {
    let path = &container.directory;
    let top = path.parent().unwrap_or(path);
    for _ in 0..1000 {
        let guard = store::lock(top, FlockOperation::LockExclusive)?;
        if !path.exists() {
            return Ok(None);
        }
        if let Ok(lock) = store::lock(path, FlockOperation::NonBlockingLockExclusive)
            && rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok()
        {
            return Ok(Some(lock));
        }
        drop(guard);
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(error!("container {} is running", container.id))
}
