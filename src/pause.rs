//! `mini pause` and `unpause`: every process of a container stops where it is.
//!
//! cgroups(7); cgroup.freeze of version 2 (Linux 5.2); of version 1 the controller freezer (freezer-subsystem.rst of the
//! kernel), for which a cgroup is made when it is first wanted, beside the container's others.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup::{read, tasks, write};
use crate::error::{Error, Result, error};
use crate::record::Record;
use crate::state;
use crate::stats::figure;

/// Whether a container is paused.
pub fn paused(container: &Record) -> bool {
    figure("paused", &state::cgroups(container)) == Some(1)
}

fn put(path: PathBuf, text: &str) -> Result<()> {
    write(&path, text).map_err(|errno| Error::sys("write", path.as_os_str().as_bytes(), errno))
}

/// Stops every process of a container where it is, or lets it go on.
pub fn pause(container: &Record, pause: bool) -> Result<()> {
    if pause && container.text("pid").is_none() {
        return Err(error!(
            "container {}: it is still being started",
            container.id
        ));
    }
    let cgroups = state::cgroups(container);
    if let Some(cgroup) = cgroups
        .iter()
        .find(|path| path.join("cgroup.freeze").exists())
    {
        let freeze = |text| put(cgroup.join("cgroup.freeze"), text);
        freeze(if pause { "1" } else { "0" })?;
        let events = cgroup.join("cgroup.events");
        let wanted = if pause { "frozen 1" } else { "frozen 0" };
        return wait(container, &|| read(&events).contains(wanted))
            .inspect_err(|_| drop(freeze("0")));
    }
    let freezer = container.text("freezer").map(PathBuf::from);
    let (Some(freezer), Some(members)) = (freezer, cgroups.first()) else {
        let error = error!(
            "container {} is in no cgroup that could be stopped",
            container.id
        );
        return Err(
            error.hint("it needs version 2 or the controller freezer, and a limit: --pids-limit")
        );
    };
    if !pause {
        return match freezer.exists() {
            true => put(freezer.join("freezer.state"), "THAWED"),
            false => Ok(()),
        };
    }
    match fs::create_dir(&freezer) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(
                "mkdir",
                freezer.to_string_lossy().as_bytes(),
                error,
            ));
        }
        _ => {}
    }
    if !members.exists() {
        // The container's supervisor removes the freezer last.
        let _ = fs::remove_dir(&freezer);
        return Err(error!("container {} has ended", container.id));
    }
    // Whoever moves into a frozen cgroup is stopped; meanwhile others may have forked.
    put(freezer.join("freezer.state"), "FROZEN")?;
    wait(container, &|| {
        let inside = tasks(&freezer);
        let mut outside = tasks(members);
        outside.retain(|pid| !inside.contains(pid));
        for pid in &outside {
            // It may have ended.
            let _ = write(&freezer.join("cgroup.procs"), &pid.to_string());
        }
        outside.is_empty() && read(&freezer.join("freezer.state")) == "FROZEN"
    })
    // All or none: of a part that stands still the rest knows nothing.
    .inspect_err(|_| drop(put(freezer.join("freezer.state"), "THAWED")))
}

/// Waits until it is so, for some seconds at most: on a busy machine each move into the freezer may take many milliseconds.
pub fn wait(container: &Record, done: &dyn Fn() -> bool) -> Result<()> {
    for _ in 0..1000 {
        if done() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(error!(
        "container {}: a process does not stop, as the kernel holds it up",
        container.id
    ))
}
