//! What is known of a container that was run with `--keep`: a small text file, `kept/ID/record` in the store, beside the
//! directory `upper` that has its changes.
//!
//!     mini container 1
//!     name web                    if it had one
//!     image debian:12             the image's name in the store, or
//!     rootfs /srv/debian.tar      where ROOTFS was
//!     identity 800-1f2a-…         of the file, to tell whether it is still the same
//!     layer /srv/site.tar         each --layer, the lowest first, with its identity
//!     userxattr yes               what the container's overlay was mounted with
//!
//! A newline in a value is written as NUL, which no value has.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, error, path as show, quote};
use crate::host::Host;
use crate::spec::{Rootfs, Spec, Userns};
use crate::store::{existing, io, names};
use crate::{cache, images};

/// A kept container.
pub struct Kept {
    pub id: String,
    /// Has `upper`.
    pub directory: PathBuf,
    /// The record.
    text: Vec<u8>,
}

/// Makes the paths of the image those that they are from anywhere.
pub fn absolute(mut spec: Spec, store: &Path) -> Spec {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or(path.to_owned());
    if let Rootfs::Path(path) = &mut spec.rootfs
        && images::record(store, path).is_none()
    {
        *path = absolute(path);
    }
    for layer in &mut spec.layers {
        *layer = absolute(layer);
    }
    spec
}

/// Writes the record of a container that is about to run. Paths have to be absolute.
pub fn write(directory: &Path, spec: &Spec, host: &Host, userxattr: bool) -> Result<()> {
    let mut text = b"mini container 1".to_vec();
    let mut line = |key: &str, value: &[u8]| {
        text.push(b'\n');
        text.extend_from_slice(key.as_bytes());
        text.push(b' ');
        for byte in value {
            text.push(if *byte == b'\n' { 0 } else { *byte });
        }
    };
    for (key, value) in [("name", &spec.name), ("platform", &spec.platform)] {
        if let Some(value) = value {
            line(key, value.as_bytes());
        }
    }
    let mut file = |key: &str, path: &Path| {
        line(key, path.as_os_str().as_bytes());
        line("identity", identity(&host.store, path).as_bytes());
    };
    if let Rootfs::Path(path) = &spec.rootfs {
        let named = images::record(&host.store, path).is_some();
        file(if named { "image" } else { "rootfs" }, path);
    }
    for layer in &spec.layers {
        file("layer", layer);
    }
    for (key, set) in [
        ("userxattr", userxattr),
        ("keep-id", spec.userns == Userns::KeepId),
    ] {
        if set {
            line(key, b"yes");
        }
    }
    text.push(b'\n');
    let path = directory.join("record");
    std::fs::write(&path, text).map_err(|error| io("write", &path, error))
}

/// A word that changes with the file that a path or a name stands for; empty for a directory, of which this cannot be said.
fn identity(store: &Path, path: &Path) -> String {
    let record = images::record(store, path);
    let path = record
        .as_deref()
        .unwrap_or(crate::image::archive::reference(path).0);
    // Opening a fifo would wait.
    let file = path.is_file().then(|| File::open(path).ok()).flatten();
    file.and_then(|file| cache::identity(&file).ok())
        .unwrap_or_default()
}

impl Kept {
    /// The container of this id, of which the beginning will do, or this name.
    pub fn find(store: &Path, wanted: &str) -> Result<Kept> {
        let (mut best, mut many, mut found) = (0, false, None);
        // In somebody else's directory it could be anything.
        let kept = existing(store, "kept")?.unwrap_or_default();
        for id in names(&kept) {
            let directory = kept.join(&id);
            let Ok(text) = std::fs::read(directory.join("record")) else {
                continue;
            };
            let kept = Kept {
                id,
                directory,
                text,
            };
            // A name may look like the beginning of an id.
            let fits = match &kept {
                kept if kept.id == wanted => 3,
                kept if kept.text("name") == Some(wanted) => 2,
                kept if kept.id.starts_with(wanted) && !wanted.is_empty() => 1,
                _ => continue,
            };
            many = fits == best || many && fits < best;
            if fits >= best {
                (best, found) = (fits, Some(kept));
            }
        }
        let failed = |what: &str, hint: &str| {
            let error = error!("{}: {what}", quote(wanted.as_bytes()));
            Err(error.hint(hint))
        };
        match found {
            _ if many => failed("several kept containers", "more of the id tells them apart"),
            Some(kept) => Ok(kept),
            None => failed("no kept container", "mini run --keep leaves one"),
        }
    }

    /// What the record says: keys and values.
    fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.text.split(|byte| *byte == b'\n');
        lines.map(|line| {
            let space = line.iter().position(|byte| *byte == b' ');
            let (key, value) = line.split_at(space.unwrap_or(line.len()));
            (key, value.get(1..).unwrap_or_default())
        })
    }

    /// The value of a key that is there once at most.
    pub fn text(&self, key: &str) -> Option<&str> {
        for (known, value) in self.lines() {
            if known == key.as_bytes() {
                return str::from_utf8(value).ok();
            }
        }
        None
    }

    /// Whether its overlay was mounted with `userxattr`.
    pub fn userxattr(&self) -> bool {
        self.text("userxattr").is_some()
    }

    /// Makes `spec` one of the image that the container was made of. An error if that has changed, or cannot come again.
    pub fn image(&self, store: &Path, spec: &mut Spec) -> Result<()> {
        // The record may end early (it is not synced): a path is good only with the identity that comes after it.
        let (mut rootfs, mut last, mut unverified) = (None, PathBuf::new(), false);
        let changed = |path: &Path| {
            let (path, id) = (show(path), &self.id);
            Err(error!(
                "{path} has changed since container {id} was made of it"
            ))
        };
        for (key, value) in self.lines() {
            match key {
                b"image" | b"rootfs" | b"layer" => {
                    if std::mem::replace(&mut unverified, true) {
                        return changed(&last);
                    }
                    let mut path = value.to_vec();
                    for byte in &mut path {
                        *byte = if *byte == 0 { b'\n' } else { *byte };
                    }
                    last = OsStr::from_bytes(&path).into();
                    match key {
                        b"layer" => spec.layers.push(last.clone()),
                        _ => rootfs = Some(Rootfs::Path(last.clone())),
                    }
                }
                b"identity" if identity(store, &last).as_bytes() != value => return changed(&last),
                b"identity" => unverified = false,
                _ => {}
            }
        }
        if unverified {
            return changed(&last);
        }
        spec.rootfs = rootfs.ok_or_else(|| {
            let id = &self.id;
            error!("container {id}: its image came from standard input")
        })?;
        spec.platform = self.text("platform").map(str::to_owned);
        if self.text("keep-id").is_some() {
            spec.userns = Userns::KeepId;
        }
        Ok(())
    }
}
