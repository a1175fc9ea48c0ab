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
//!     detached /run/mini/running/ID   it was in the background: where else it is known, until it is removed

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, error, path as show};
use crate::host::Host;
use crate::record::Record;
use crate::spec::{Rootfs, Spec, Userns};
use crate::{cache, images, record};

/// A kept container; its directory has `upper`.
pub struct Kept(pub Record);

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
    let mut text = record::Text::new();
    for (key, value) in [("name", &spec.name), ("platform", &spec.platform)] {
        if let Some(value) = value {
            text.line(key, value.as_bytes());
        }
    }
    let mut file = |key: &str, path: &Path| {
        text.line(key, path.as_os_str().as_bytes());
        text.line("identity", identity(&host.store, path).as_bytes());
    };
    if let Rootfs::Path(path) = &spec.rootfs {
        let named = images::record(&host.store, path).is_some();
        file(if named { "image" } else { "rootfs" }, path);
    }
    for layer in &spec.layers {
        file("layer", layer);
    }
    if spec.detach.is_some() {
        let place = host.run.join("running").join(&host.id);
        text.line("detached", place.as_os_str().as_bytes());
    }
    for (key, set) in [
        ("userxattr", userxattr),
        ("keep-id", spec.userns == Userns::KeepId),
    ] {
        if set {
            text.line(key, b"yes");
        }
    }
    text.write(directory)
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

/// The directories of containers in the background that nothing else is known of any more: with the machine all that was in
/// the run directory has ended.
#[cfg(feature = "life")]
pub fn forgotten(store: &Path) -> Result<Vec<PathBuf>> {
    let gone = |record: &Record| {
        let place = record.all("detached").pop();
        place.is_some_and(|place| {
            let found = Path::new(OsStr::from_bytes(&place)).symlink_metadata();
            // What cannot be looked at may be there.
            found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        })
    };
    let kept = record::all(store, "kept")?.into_iter().filter(gone);
    Ok(kept.map(|record| record.directory).collect())
}

impl Kept {
    /// The container of this id, of which the beginning will do, or this name.
    pub fn find(store: &Path, wanted: &str) -> Result<Kept> {
        let kept = record::all(store, "kept")?;
        record::pick(kept, wanted, "kept container", "mini run --keep leaves one").map(Kept)
    }

    /// Whether its overlay was mounted with `userxattr`.
    pub fn userxattr(&self) -> bool {
        self.0.text("userxattr").is_some()
    }

    /// Makes `spec` one of the image that the container was made of. An error if that has changed, or cannot come again.
    pub fn image(&self, store: &Path, spec: &mut Spec) -> Result<()> {
        // The record may end early (it is not synced): a path is good only with the identity that comes after it.
        let (mut rootfs, mut last, mut unverified) = (None, PathBuf::new(), false);
        let changed = |path: &Path| {
            let (path, id) = (show(path), &self.0.id);
            Err(error!(
                "{path} has changed since container {id} was made of it"
            ))
        };
        for (key, value) in self.0.lines() {
            match key {
                b"image" | b"rootfs" | b"layer" => {
                    if std::mem::replace(&mut unverified, true) {
                        return changed(&last);
                    }
                    last = OsStr::from_bytes(&value).into();
                    match key {
                        b"layer" => spec.layers.push(last.clone()),
                        _ => rootfs = Some(Rootfs::Path(last.clone())),
                    }
                }
                b"identity" if identity(store, &last).as_bytes() != value.as_slice() => {
                    return changed(&last);
                }
                b"identity" => unverified = false,
                _ => {}
            }
        }
        if unverified {
            return changed(&last);
        }
        spec.rootfs = rootfs.ok_or_else(|| {
            let id = &self.0.id;
            error!("container {id}: its image came from standard input")
        })?;
        spec.platform = self.0.text("platform");
        if self.0.text("keep-id").is_some() {
            spec.userns = Userns::KeepId;
        }
        Ok(())
    }
}
