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
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::cache::NewFile;
use crate::cli::{Commit, CommitTo, Images};
use crate::error::{Error, Result, error, quote};
use crate::host::{Host, probe};
use crate::image::changes::{self, write_tree};
use crate::image::write::{Sink, Writer};
use crate::image::{Config, Image};
use crate::images;
use crate::import::{self, Draft};
use crate::kept::Kept;
use crate::layers::{self, limit};
use crate::plan::IdMap;
use crate::progress::Progress;
use crate::run::{self, wait_for};
use crate::spec::{Rootfs, Spec, Store};
use crate::userns;

/// What mini itself has put into a container's root: files that it mounts over, and directories for its own mounts.
const OWN: [&[u8]; 6] = [
    b"etc/hosts",
    b"etc/hostname",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
    b"dev",
];

/// Carries out a command about images.
pub fn run(command: Images) -> Result<u8> {
    let mut spec = crate::cli::plain()?;
    let mut host = probe(&spec)?;
    let store = host.store.clone();
    let interrupts = interrupts()?;
    let text = match command {
        Images::Import {
            rootfs,
            name,
            platform,
            quiet,
        } => {
            images::check_name(&name)?;
            (spec.rootfs, spec.platform, spec.quiet) = (rootfs, platform, quiet);
            images::collect(&store)?;
            // From standard input it may be an archive of layers, which has to be a file.
            spec.store = Store::Index;
            let source = source(&spec);
            let (image, _held) = layers::resolve(&spec, &host, Some(&interrupts), false)?;
            let mut heard = heard(&source, &image, quiet, &interrupts);
            let mut draft = Draft::new(&store, limit(&spec, &store)?, &mut heard)?;
            let made = draft
                .add(&image, &source)
                .and_then(|()| draft.publish(&name, &source));
            // What was made of it is garbage if it failed.
            made.or_else(|error| images::collect(&store).and(Err(error)))?;
            String::new()
        }
        Images::List { quiet } => {
            images::collect(&store)?;
            let rows = images::list(&store)?;
            match quiet {
                true => rows.iter().map(|row| row.name.clone() + "\n").collect(),
                false => images::table(&rows),
            }
        }
        Images::Remove { names, force } => {
            let mut result = Ok(());
            for name in names {
                result = result.and(images::remove(&store, &name, force));
            }
            result.map(|()| String::new())?
        }
        Images::Prune { all, dry_run } => images::prune(&store, &host.run, all, dry_run)?,
        Images::Commit(commit) => {
            self::commit(&commit, spec, &host, &interrupts)?;
            String::new()
        }
        Images::Export { container, file } => {
            let kept = Kept::find(&host.store, &container)?;
            kept.image(&host.store, &mut spec)?;
            spec.layers.push(kept.directory.join("upper"));
            // Looking at it changes the working directory.
            let file = match file.as_os_str() == "-" {
                true => file,
                false => std::path::absolute(&file).unwrap_or(file),
            };
            run::view(spec, &mut host, kept.userxattr(), |root| {
                to_file(&file, &interrupts, &mut |sink| {
                    write(root, sink, false, false)
                })
            })?;
            String::new()
        }
    };
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

fn source(spec: &Spec) -> Vec<u8> {
    match &spec.rootfs {
        Rootfs::Stdin => b"-".to_vec(),
        Rootfs::Path(path) => path.as_os_str().as_bytes().to_vec(),
    }
}

fn commit(commit: &Commit, mut spec: Spec, host: &Host, interrupts: &OwnedFd) -> Result<()> {
    if let CommitTo::Name(name) = &commit.target {
        images::check_name(name)?;
    }
    let kept = Kept::find(&host.store, &commit.container)?;
    enter(host, &kept)?;
    let upper = open_directory(&kept.directory.join("upper"))?;
    let mut layer = |sink: Sink<'_>| write(upper.as_fd(), sink, true, kept.userxattr());
    if let CommitTo::Layer(path) = &commit.target {
        return to_file(path, interrupts, &mut layer);
    }
    kept.image(&host.store, &mut spec)?;
    images::collect(&host.store)?;
    let (image, held) = layers::resolve(&spec, host, Some(interrupts), false)?;
    let source = source(&spec);
    let mut heard = heard(&source, &image, false, interrupts);
    let draft = Draft::new(&host.store, limit(&spec, &host.store)?, &mut heard)?;
    let fill = |mut draft: Draft<'_>| {
        draft.add(&image, &source)?;
        draft.written(layer)?;
        draft.config(&changed(image.config.clone(), &commit.config))?;
        match &commit.target {
            CommitTo::Name(name) => draft.publish(name, &source),
            CommitTo::Archive(path) | CommitTo::Layer(path) => {
                to_file(path, interrupts, &mut |sink| draft.archive(sink))
            }
        }
    };
    let made = fill(draft);
    drop(held);
    // Garbage is what was made if it failed, or went into an archive.
    let collected = images::collect(&host.store);
    made.and(collected)
}

/// What hears how many bytes have been read: it shows them, and ends the work when a signal has come.
fn heard<'a>(
    name: &[u8],
    image: &Image,
    quiet: bool,
    interrupts: &'a OwnedFd,
) -> impl FnMut(u64) -> Result<()> + use<'a> {
    let total = import::sizes(image.layers.iter());
    let (name, mut progress) = (quote(name), Progress::new(name, Some(total), quiet));
    move |bytes| {
        progress.at(bytes);
        match wait_for(interrupts, None) {
            true => Ok(()),
            false => Err(error!("{name}: interrupted")),
        }
    }
}

/// Writes a tree as a tar.
fn write(root: BorrowedFd<'_>, sink: Sink<'_>, layer: bool, userxattr: bool) -> Result<()> {
    let options = changes::Options {
        layer,
        userxattr,
        ids: 0..u32::MAX,
        // In a whole tree they may be the image's own.
        skip: if layer { &OWN } else { &[] },
    };
    let mut writer = Writer::new(sink);
    write_tree(root, &mut writer, &options)?;
    writer.end().map(drop)
}

/// The configuration with what is not empty in `change` in its place; variables and labels one by one.
fn changed(config: Config, change: &Config) -> Config {
    let either = |new: &Vec<_>, old: Vec<_>| if new.is_empty() { old } else { new.clone() };
    let merged = |new: &[(Vec<u8>, Vec<u8>)], mut old: Vec<(Vec<u8>, Vec<u8>)>| {
        old.retain(|(key, _)| !new.iter().any(|(other, _)| other == key));
        old.extend_from_slice(new);
        old
    };
    let bytes = |new: &Vec<u8>, old: Vec<u8>| if new.is_empty() { old } else { new.clone() };
    Config {
        // Arguments are meant for the entrypoint they were made for.
        cmd: match change.entrypoint.is_empty() {
            true => either(&change.cmd, config.cmd),
            false => change.cmd.clone(),
        },
        entrypoint: either(&change.entrypoint, config.entrypoint),
        env: merged(&change.env, config.env),
        labels: merged(&change.labels, config.labels),
        workdir: bytes(&change.workdir, config.workdir),
        user: bytes(&change.user, config.user),
        ..config
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
        keep: kept.text("keep-id").is_some(),
        subordinate: host.subordinate.clone(),
    };
    userns::enter(&map, host)
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = path.as_os_str().as_bytes();
    openat(CWD, name, flags, Mode::empty()).map_err(|errno| Error::sys("open", name, errno))
}

/// Writes a file that appears when it is whole, with a progress bar; `-` is standard output. What exists and is not a
/// regular file, such as a pipe, is written to as it is.
fn to_file(
    path: &Path,
    interrupts: &OwnedFd,
    make: &mut dyn FnMut(Sink<'_>) -> Result<()>,
) -> Result<()> {
    let name = path.as_os_str().as_bytes();
    let mut progress = Progress::new(name, None, false);
    let mut into = |mut file: &File| {
        make(&mut |bytes: &[u8]| {
            if !wait_for(interrupts, None) {
                return Err(error!("{}: interrupted", quote(name)));
            }
            progress.add(bytes.len() as u64);
            (file.write_all(bytes)).map_err(|error| Error::io("write", name, error))
        })
    };
    let stream = name == b"-" || std::fs::metadata(path).is_ok_and(|status| !status.is_file());
    if stream {
        // Nothing is to be undone, and opening it or writing to it may wait for ever.
        sys::set_signal_mask(0);
    }
    if name == b"-" {
        let output = std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned();
        return into(
            &output
                .map_err(|error| Error::io("dup", name, error))?
                .into(),
        );
    }
    if stream {
        return into(&File::create(path).map_err(|error| Error::io("open", name, error))?);
    }
    let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(Error::sys("open", name, rustix::io::Errno::ISDIR));
    };
    let here = directory.as_os_str().is_empty();
    let new = NewFile::create(if here { Path::new(".") } else { directory })?;
    into(new.file())?;
    new.publish(file, true)
}
