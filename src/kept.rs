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
//! "%" and newlines in a value are written as "%25" and "%0a".

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, error, quote};
use crate::host::Host;
use crate::spec::{Rootfs, Spec, Userns};
use crate::store::make_private;
use crate::{cache, images};

/// A kept container.
pub struct Kept {
    pub id: String,
    /// Has `upper`.
    pub directory: PathBuf,
    lines: Vec<(String, Vec<u8>)>,
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
    let mut text = b"mini container 1\n".to_vec();
    let mut line = |key: &str, value: &[u8]| {
        text.extend([key.as_bytes(), b" "].concat());
        for byte in value {
            match byte {
                b'%' => text.extend(b"%25"),
                b'\n' => text.extend(b"%0a"),
                _ => text.push(*byte),
            }
        }
        text.push(b'\n');
    };
    if let Some(name) = &spec.name {
        line("name", name.as_bytes());
    }
    if let Rootfs::Path(path) = &spec.rootfs {
        let record = images::record(&host.store, path);
        let key = if record.is_some() { "image" } else { "rootfs" };
        line(key, path.as_os_str().as_bytes());
        line(
            "identity",
            identity(record.as_ref().unwrap_or(path)).as_bytes(),
        );
    }
    for layer in &spec.layers {
        line("layer", layer.as_os_str().as_bytes());
        line("identity", identity(layer).as_bytes());
    }
    if let Some(platform) = &spec.platform {
        line("platform", platform.as_bytes());
    }
    for (key, set) in [
        ("userxattr", userxattr),
        ("keep-id", spec.userns == Userns::KeepId),
    ] {
        if set {
            line(key, b"yes");
        }
    }
    let path = directory.join("record");
    std::fs::write(&path, text)
        .map_err(|error| Error::io("write", path.as_os_str().as_bytes(), error))
}

/// A word that changes with a file; empty for a directory, of which this cannot be said.
fn identity(path: &Path) -> String {
    let path = archive_file(path);
    // Opening a fifo would wait.
    let is_file = std::fs::metadata(path).is_ok_and(|status| status.is_file());
    let file = is_file.then(|| std::fs::File::open(path).ok()).flatten();
    file.and_then(|file| cache::identity(&file).ok())
        .unwrap_or_default()
}

fn archive_file(path: &Path) -> &Path {
    crate::image::archive::reference(path).0
}

impl Kept {
    /// The container of this id, of which the beginning will do, or this name.
    pub fn find(store: &Path, wanted: &str) -> Result<Kept> {
        let (mut best, mut found) = (0, Vec::new());
        if store.join("kept").exists() {
            // In somebody else's directory it could be anything.
            make_private(store)?;
            make_private(&store.join("kept"))?;
        }
        for id in crate::store::names(&store.join("kept")) {
            let directory = store.join("kept").join(&id);
            let Ok(text) = std::fs::read(directory.join("record")) else {
                continue;
            };
            let kept = Kept {
                lines: lines(&text),
                directory,
                id,
            };
            // A name may look like the beginning of an id.
            let fits = match &kept {
                kept if kept.id == wanted => 3,
                kept if kept.text("name") == Some(wanted) => 2,
                kept if kept.id.starts_with(wanted) && !wanted.is_empty() => 1,
                _ => continue,
            };
            if fits > best {
                (best, found) = (fits, Vec::new());
            }
            if fits == best {
                found.push(kept);
            }
        }
        let many = found.len() > 1;
        match found.pop() {
            Some(kept) if !many => Ok(kept),
            Some(_) => {
                let error = error!("{}: several kept containers", quote(wanted.as_bytes()));
                Err(error.hint("more of the id tells them apart"))
            }
            None => {
                let error = error!("{}: no kept container", quote(wanted.as_bytes()));
                Err(error.hint("mini run --keep leaves one"))
            }
        }
    }

    fn values(&self, key: &str) -> impl Iterator<Item = &[u8]> {
        let lines = self.lines.iter().filter(move |(known, _)| known == key);
        lines.map(|(_, value)| value.as_slice())
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.values(key).next()?).ok()
    }

    /// Whether its overlay was mounted with `userxattr`.
    pub fn userxattr(&self) -> bool {
        self.text("userxattr").is_some()
    }

    /// Makes `spec` one of the image that the container was made of. An error if that has changed, or cannot come again.
    pub fn image(&self, store: &Path, spec: &mut Spec) -> Result<()> {
        let path = |value: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(value.to_vec()));
        let rootfs = self
            .values("image")
            .chain(self.values("rootfs"))
            .next()
            .map(path);
        let Some(rootfs) = rootfs else {
            return Err(error!(
                "container {}: its image came from standard input",
                self.id
            ));
        };
        let layers: Vec<PathBuf> = self.values("layer").map(path).collect();
        let record = images::record(store, &rootfs);
        let mut identities = self.values("identity");
        for path in [&rootfs].into_iter().chain(&layers) {
            let file = record.as_ref().filter(|_| path == &rootfs);
            let found = identity(file.unwrap_or(path));
            if found.as_bytes() != identities.next().unwrap_or_default() {
                let name = crate::error::path(path);
                return Err(error!(
                    "{name} has changed since container {} was made of it",
                    self.id
                ));
            }
        }
        spec.rootfs = Rootfs::Path(rootfs);
        spec.layers = layers;
        spec.platform = self.text("platform").map(str::to_owned);
        if self.text("keep-id").is_some() {
            spec.userns = Userns::KeepId;
        }
        Ok(())
    }
}

fn lines(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(space) = line.iter().position(|byte| *byte == b' ') else {
            continue;
        };
        let mut value = Vec::new();
        let mut rest = &line[space + 1..];
        while let Some((first, after)) = rest.split_first() {
            let (byte, after) = match (first, after) {
                (b'%', [b'2', b'5', after @ ..]) => (b'%', after),
                (b'%', [b'0', b'a', after @ ..]) => (b'\n', after),
                _ => (*first, after),
            };
            value.push(byte);
            rest = after;
        }
        lines.push((String::from_utf8_lossy(&line[..space]).into_owned(), value));
    }
    lines
}
