//! Makes images of containers that were kept, and flat archives of them: `mini commit`, `mini export`; and carries out
//! the other commands about images, which live in `images.rs`. Entry: [`run`].
//!
//! A container's changes are the upper directory of its overlay. They become a layer as OCI has it (`image/changes.rs`),
//! which alone is what `--layer` takes; with the layers of the image below it and a configuration it is an image, under
//! a name or in an archive (`image/oci.rs`). Without root the directory is read from inside a user namespace like the
//! container's, in which its owners are what they were for the container.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use container::{init, sys};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;

use crate::cli::{Commit, CommitTo, Images};
use crate::error::{Error, Result};
use crate::host::{Host, probe};
use crate::image::Config;
use crate::images;
use crate::import::{self, Draft};
use crate::kept::Kept;
use crate::layers::{self, Layers};
use crate::plan::IdMap;
use crate::progress::Progress;
use crate::run;
use crate::spec::{Rootfs, Spec, Store};
use crate::store::{NewFile, io, open_directory};
use crate::userns;

/// Carries out a command about images.
pub fn run(command: Images) -> Result<u8> {
    let mut spec = crate::cli::plain()?;
    let mut host = probe(&spec)?;
    let interrupts = &interrupts()?;
    let mut text = String::new();
    match command {
        Images::Import {
            rootfs,
            name,
            platform,
            quiet,
        } => {
            images::check_name(&name)?;
            (spec.rootfs, spec.platform, spec.quiet) = (rootfs, platform, quiet);
            // From standard input it may be an archive of layers, which has to be a file.
            spec.store = Store::Index;
            make(&spec, &host, interrupts, &mut |draft, _| {
                draft.publish(&name)
            })?;
        }
        Images::List { quiet } => {
            images::collect(&host.store)?;
            let rows = images::list(&host.store)?;
            match quiet {
                true => rows.iter().for_each(|row| text.extend([&row[0], "\n"])),
                false => text = images::table(rows),
            }
        }
        Images::Remove { names, force } => {
            let mut result = Ok(());
            for name in names {
                result = result.and(images::remove(&host.store, &name, force));
            }
            result?;
        }
        Images::Prune { all, dry_run } => {
            text = images::prune(&host.store, &host.run, all, dry_run)?;
        }
        Images::Commit(commit) => self::commit(&commit, spec, &host, interrupts)?,
        Images::Export { container, file } => {
            let kept = Kept::find(&host.store, &container)?;
            kept.image(&host.store, &mut spec)?;
            spec.layers.push(kept.0.directory.join("upper"));
            // Looking at it changes the working directory.
            let file = match file.as_os_str() == "-" {
                true => file,
                false => std::path::absolute(&file).unwrap_or(file),
            };
            run::view(spec, &mut host, kept.userxattr(), &mut |root| {
                to_file(&file, interrupts, &mut |sink| {
                    import::write_tree(root, sink, false, false)
                })
            })?;
        }
    }
    let mut output = std::io::stdout().lock();
    (output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush()))
    .map_err(|error| Error::io("write", "standard output", error))?;
    Ok(0)
}

/// Lets signals that end mini wait, to be noticed where the work can be undone.
fn interrupts() -> Result<OwnedFd> {
    let set = init::ENDING & !sys::ignored(init::ENDING);
    sys::set_signal_mask(set);
    sys::signalfd(set).map_err(|errno| Error::sys("signalfd", "", errno))
}

/// Makes an image of what `spec` says; `finish` has it and its configuration when its layers are there.
fn make(
    spec: &Spec,
    host: &Host,
    interrupts: &OwnedFd,
    finish: &mut dyn FnMut(&mut Draft<'_>, &mut Config) -> Result<()>,
) -> Result<()> {
    images::collect(&host.store)?;
    let source = match &spec.rootfs {
        Rootfs::Stdin => b"-",
        Rootfs::Path(path) => path.as_os_str().as_bytes(),
    };
    let (mut image, held) = layers::resolve(spec, host, Some(interrupts), false)?;
    let layers = Layers::new(spec, host, Some(interrupts));
    let mut draft = Draft::new(&layers, source)?;
    let made = draft
        .add(&image)
        .and_then(|()| finish(&mut draft, &mut image.config));
    drop((draft, held));
    // Garbage is what was made if it failed or went into an archive, and what had the name.
    let collected = images::collect(&host.store);
    made.and(collected)
}

fn commit(commit: &Commit, mut spec: Spec, host: &Host, interrupts: &OwnedFd) -> Result<()> {
    if let CommitTo::Name(name) = &commit.target {
        images::check_name(name)?;
    }
    let kept = Kept::find(&host.store, &commit.container)?;
    enter(host, &kept)?;
    let path = kept.0.directory.join("upper");
    let upper = open_directory(&path)
        .map_err(|errno| Error::sys("open", path.as_os_str().as_bytes(), errno))?;
    let layer: import::Written<'_> =
        &mut |sink| import::write_tree(upper.as_fd(), sink, true, kept.userxattr());
    if let CommitTo::Layer(path) = &commit.target {
        return to_file(path, interrupts, layer);
    }
    kept.image(&host.store, &mut spec)?;
    make(&spec, host, interrupts, &mut |draft, config| {
        draft.written(layer)?;
        change(config, &commit.config);
        draft.config(config)?;
        match &commit.target {
            CommitTo::Name(name) => draft.publish(name),
            CommitTo::Archive(path) | CommitTo::Layer(path) => {
                to_file(path, interrupts, &mut |sink| draft.archive(sink))
            }
        }
    })
}

/// Puts what is not empty in `change` in the configuration's place; variables and labels one by one.
fn change(config: &mut Config, change: &Config) {
    // Arguments are meant for the entrypoint they were made for.
    if !change.entrypoint.is_empty() || !change.cmd.is_empty() {
        config.cmd = change.cmd.clone();
    }
    if !change.entrypoint.is_empty() {
        config.entrypoint = change.entrypoint.clone();
    }
    for (new, old) in [
        (&change.workdir, &mut config.workdir),
        (&change.user, &mut config.user),
    ] {
        if !new.is_empty() {
            *old = new.clone();
        }
    }
    for (new, old) in [
        (&change.env, &mut config.env),
        (&change.labels, &mut config.labels),
    ] {
        for pair in new {
            old.retain(|(key, _)| *key != pair.0);
            old.push(pair.clone());
        }
    }
}

/// Without root, a user namespace like the container's.
fn enter(host: &Host, kept: &Kept) -> Result<()> {
    if host.admin {
        return Ok(());
    }
    let map = IdMap {
        uid: host.uid,
        gid: host.gid,
        keep: kept.0.text("keep-id").is_some(),
        subordinate: host.subordinate.clone(),
    };
    userns::enter(&map, host)
}

/// Writes a file that appears when it is whole, with a progress bar; `-` is standard output. What exists and is not a
/// regular file, such as a pipe, is written to as it is.
fn to_file(path: &Path, interrupts: &OwnedFd, make: import::Written<'_>) -> Result<()> {
    let name = path.as_os_str().as_bytes();
    let mut progress = Progress::new(name, 0, false, Some(interrupts));
    let mut into = |mut file: &File| {
        make(&mut |bytes: &[u8]| {
            progress.check()?;
            progress.add(bytes.len());
            (file.write_all(bytes)).map_err(|error| io("write", path, error))
        })
    };
    if name == b"-" || std::fs::metadata(path).is_ok_and(|status| !status.is_file()) {
        // Nothing is to be undone, and opening it or writing to it may wait for ever.
        sys::set_signal_mask(0);
        let opened = match name {
            b"-" => std::os::fd::AsFd::as_fd(&std::io::stdout())
                .try_clone_to_owned()
                .map(File::from),
            _ => File::create(path),
        };
        return into(&opened.map_err(|error| io("open", path, error))?);
    }
    let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(Error::sys("open", name, Errno::ISDIR));
    };
    let here = directory.as_os_str().is_empty();
    let new = NewFile::create(if here { Path::new(".") } else { directory })?;
    into(&new.file)?;
    new.publish(file.as_bytes(), true)
}
