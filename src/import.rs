//! Makes images under names: from a file or directory (`mini import`), or layer by layer ([`Draft`], `mini commit`).
//!
//! Mechanism: every layer becomes a blob, a file named by the SHA-256 of its contents: a tar is inflated on the way, a
//! directory written as a tar, a file system image copied (holes stay holes). What is there already is not written again,
//! and not even read if the image says what it hashes to. Then the record is written, and with its rename the image is
//! there. See `images` for the files, the locks, and what happens to what a killed import leaves.
//!
//! Invariants: before its record is, everything it names is on the disk (fsync(2)); all tars of an image were gone
//! through once, so that it will not turn out at its first start that one of them is none. After an error nothing stays.
//!
//! Left out: reflinks (a tar has to be read anyway, to be hashed).

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use container::sys;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::FlockOperation;
use sha2::Digest;

use crate::error::{Error, Result, error, quote};
use crate::image::reader::Whiteouts;
use crate::image::write::{Sink, Writer};
use crate::image::{Config, Image, Layer, Section, Sha256, changes, index, oci};
use crate::images::{KINDS, Record, blob, digest, directories, file_name};
use crate::layers::{self, Layers, section};
use crate::progress::Progress;
use crate::store::{NewFile, io, lock, sync};

/// What mini itself has put into a container's root: files that it mounts over, and directories for its own mounts.
const OWN: [&[u8]; 6] = [
    b"etc/hosts",
    b"etc/hostname",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
    b"dev",
];

/// Writes something, piece by piece.
pub type Written<'w> = &'w mut dyn FnMut(Sink<'_>) -> Result<()>;

/// An image that is being made. As long as it lives no blob is garbage.
pub struct Draft<'a> {
    layers: &'a Layers<'a>,
    source: &'a [u8],
    images: PathBuf,
    blobs: PathBuf,
    record: Record,
    progress: Progress<'a>,
    _guard: OwnedFd,
}

impl<'a> Draft<'a> {
    /// One that is made from what is called `source`.
    pub fn new(layers: &'a Layers<'a>, source: &'a [u8]) -> Result<Draft<'a>> {
        let [images, blobs] = directories(layers.store)?;
        Ok(Draft {
            layers,
            source,
            record: Record::default(),
            progress: Progress::new(source, 0, layers.quiet, layers.interrupts),
            _guard: lock(&images, FlockOperation::LockShared)?,
            images,
            blobs,
        })
    }

    /// Adds all layers of an image, checks them, and takes its configuration.
    pub fn add(&mut self, image: &Image) -> Result<()> {
        // What is to be read, as far as that is known, takes as much room at least.
        for layer in &image.layers {
            self.progress.total += match layer {
                _ if self.known(layer).is_some() => 0,
                Layer::Tar(tar) => tar.size.unwrap_or_else(|| size(&tar.path)),
                Layer::Filesystem { path, .. } => size(path),
                Layer::Directory(_) => 0,
            };
        }
        let store = self.layers.store;
        layers::room(self.progress.total, layers::free(store)?, store)
            .map_err(|why| error!("import({}): {why}", quote(self.source)))?;
        for layer in &image.layers {
            self.layer(layer)?;
        }
        if layered(image) || image.config != Config::default() {
            self.config(&image.config)?;
        }
        self.check(image)
    }

    /// Adds a layer above those there are.
    pub fn layer(&mut self, layer: &Layer) -> Result<()> {
        let digest = match (self.known(layer), layer) {
            (Some(digest), _) => digest,
            (None, Layer::Tar(tar)) => {
                let new = NewFile::create(&self.blobs)?;
                let archive = section(tar, layers::open(&tar.path)?)?;
                let (layers, progress) = (self.layers, &mut self.progress);
                let digest = layers.inflate(tar, archive, &new.file, &self.blobs, progress, true);
                // Else it is an error of reading.
                self.progress.check()?;
                self.keep(new, digest?.unwrap_or_default())?
            }
            (None, Layer::Filesystem { path, .. }) => {
                let mut source = section(&layers::tar(path), layers::open(path)?)?;
                let mut buffer = vec![0; 1 << 16];
                self.write(true, &mut |sink| {
                    loop {
                        match source.read(&mut buffer) {
                            Ok(0) => return Ok(()),
                            Ok(count) => sink(&buffer[..count])?,
                            Err(error) => return Err(io("read", path, error)),
                        }
                    }
                })?
            }
            (None, Layer::Directory(path)) => {
                let root = layers::open(path)?;
                let root = sys::borrow(root.as_raw_fd());
                self.write(false, &mut |sink| write_tree(root, sink, false, false))?
            }
        };
        let kind = match layer {
            Layer::Filesystem { fstype, .. } => *fstype,
            _ => KINDS[0],
        };
        self.record.layers.push((digest, kind));
        Ok(())
    }

    /// Adds a layer above those there are: the tar that `write` hands to the sink.
    pub fn written(&mut self, write: Written<'_>) -> Result<()> {
        let digest = self.write(false, write)?;
        self.record.layers.push((digest, KINDS[0]));
        Ok(())
    }

    /// Zeros become holes where `holes` asks for it.
    fn write(&mut self, holes: bool, write: Written<'_>) -> Result<Sha256> {
        let new = NewFile::create(&self.blobs)?;
        let (mut file, mut hash, mut size) = (&new.file, sha2::Sha256::new(), 0);
        let failed = |error| io("write", &self.blobs, error);
        write(&mut |bytes| {
            hash.update(bytes);
            size += bytes.len() as u64;
            let done = match holes && bytes.iter().all(|byte| *byte == 0) {
                true => file.seek(SeekFrom::Start(size)).map(drop),
                false => file.write_all(bytes),
            };
            done.map_err(failed)?;
            self.progress.add(bytes.len());
            self.progress.check()
        })?;
        file.set_len(size).map_err(failed)?;
        self.keep(new, hash.finalize().into())
    }

    /// Sets what the image says about itself; to be called after its layers are there.
    pub fn config(&mut self, config: &Config) -> Result<()> {
        let mut parts = config.platform.split('/').skip(1);
        let platform = match (parts.next(), parts.next()) {
            (Some(architecture), variant) => (architecture, variant.unwrap_or("")),
            _ => oci::platform(),
        };
        let layers: Vec<Sha256> = self.record.layers.iter().map(|layer| layer.0).collect();
        // Without a time: the same configuration is the same blob.
        let json = oci::config_json(config, platform, 0, "mini import", &layers);
        self.record.config = Some(self.write(false, &mut |sink| sink(json.as_bytes()))?);
        Ok(())
    }

    /// Writes the image, whose configuration has been set, as an OCI archive.
    pub fn archive(&self, sink: Sink<'_>) -> Result<()> {
        let mut parts = Vec::new();
        for (digest, kind) in &self.record.layers {
            if *kind != KINDS[0] {
                let what = "an OCI archive has tars only, and the image is a file system";
                return Err(Error::new(what).hint("mini export writes one of all its files"));
            }
            parts.push((self.blob(digest)?, *digest));
        }
        let mut layers = Vec::new();
        for (section, digest) in &parts {
            layers.push(oci::Layer {
                file: &section.file,
                offset: 0,
                size: section.left,
                digest: *digest,
            });
        }
        let config = self.record.config.unwrap_or_default();
        let text = std::io::read_to_string(self.blob(&config)?.file)
            .map_err(|error| io("read", &self.blobs, error))?;
        oci::write_archive(Writer::new(sink), &text, &layers, b"").map(drop)
    }

    /// Gives the image its name, in place of what had it.
    pub fn publish(&mut self, name: &str) -> Result<()> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.record.created = now.map_or(0, |now| now.as_secs());
        // Also blobs that somebody else has only just renamed, and these directories.
        sync(&self.blobs)?;
        sync(self.layers.store)?;
        let new = NewFile::create(&self.images)?;
        ((&new.file).write_all(self.record.text().as_bytes()))
            .map_err(|error| io("write", &new.path, error))?;
        let _change = lock(&self.blobs, FlockOperation::LockExclusive)?;
        new.publish(file_name(name).as_bytes(), true)
    }

    /// Gives a blob its name, unless it is there already.
    fn keep(&self, new: NewFile, digest: Sha256) -> Result<Sha256> {
        let name = blob(&digest);
        if !self.blobs.join(&name).exists() {
            new.publish(name.as_bytes(), true)?;
        }
        Ok(digest)
    }

    /// A blob that is there.
    fn blob(&self, digest: &Sha256) -> Result<Section> {
        let path = self.blobs.join(blob(digest));
        section(&layers::tar(&path), layers::open(&path)?)
    }

    /// The digest of a layer, if it is a blob of this store already.
    fn known(&self, layer: &Layer) -> Option<Sha256> {
        let there = |digest: &Sha256| self.blobs.join(blob(digest)).exists();
        let own = |path: &Path| digest(path.strip_prefix(&self.blobs).ok()?.to_str()?);
        match layer {
            Layer::Tar(tar) => {
                let whole = (tar.offset, tar.size, tar.compression) == (0, None, None);
                let own = own(&tar.path).filter(|_| whole);
                own.or(tar.diff_id.filter(there))
            }
            Layer::Filesystem { path, .. } => own(path),
            Layer::Directory(_) => None,
        }
    }

    /// Goes through all tars, as the first start will.
    fn check(&self, image: &Image) -> Result<()> {
        let mut tars = Vec::new();
        for (digest, kind) in &self.record.layers {
            if *kind == KINDS[0] {
                tars.push((self.source.to_vec(), self.blob(digest)?));
            }
        }
        let whiteouts = match layered(image) {
            true => Whiteouts::Remove,
            false => Whiteouts::Ordinary,
        };
        let scratch = NewFile::create(&self.blobs)?;
        // One that cannot be indexed is unpacked when it is used.
        index::index(&tars, whiteouts, &scratch.file).map(drop)
    }
}

/// Writes a tree as a tar, or if `layer` the upper directory of an overlay as a layer.
pub fn write_tree(
    root: BorrowedFd<'_>,
    sink: Sink<'_>,
    layer: bool,
    userxattr: bool,
) -> Result<()> {
    let options = changes::Options {
        layer,
        userxattr,
        ids: 0..u32::MAX,
        // In a whole tree they may be the image's own.
        skip: if layer { &OWN } else { &[] },
    };
    let mut writer = Writer::new(sink);
    changes::write_tree(root, &mut writer, &options)?;
    writer.end().map(drop)
}

/// Whether whiteouts mean something in an image's tars.
fn layered(image: &Image) -> bool {
    let described = |layer: &Layer| matches!(layer, Layer::Tar(tar) if tar.diff_id.is_some());
    image.layers.len() > 1 || image.layers.iter().any(described)
}

/// Bytes of a file; 0 if there are none to be told.
fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |status| status.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Tar;
    use crate::image::archive::{self, Opened, Wanted};
    use crate::image::write::file;
    use crate::images::{list, resolve};
    use crate::store::names;
    use std::fs::{File, metadata, remove_dir_all, write};
    use std::os::unix::fs::MetadataExt;

    /// A store of its own, and beside it a tar of one file of so many bytes.
    fn store(name: &str, size: usize) -> (PathBuf, PathBuf) {
        let top = std::env::temp_dir().join(format!("mini-import-{name}-{}", std::process::id()));
        let _ = remove_dir_all(&top);
        std::fs::create_dir(&top).unwrap();
        let mut bytes = Vec::new();
        let mut sink = |more: &[u8]| {
            bytes.extend(more);
            Ok(())
        };
        let mut writer = Writer::new(&mut sink);
        let mut member = file(b"file");
        member.stored = size as u64;
        member.size = size as u64;
        writer.member(&member).unwrap();
        let mut read = |buffer: &mut [u8]| {
            buffer.fill(7);
            Ok(buffer.len())
        };
        writer.data(size as u64, b"file", &mut read).unwrap();
        writer.end().unwrap();
        write(top.join("a.tar"), bytes).unwrap();
        (top.join("store"), top.join("a.tar"))
    }

    fn layers(store: &Path, limit: u64) -> Layers<'_> {
        Layers {
            store,
            quiet: true,
            limit: Some(limit),
            interrupts: None,
        }
    }

    fn name(store: &Path, image: &Image, name: &str) -> Result<()> {
        let layers = layers(store, 0);
        let mut draft = Draft::new(&layers, b"source")?;
        draft.add(image)?;
        draft.publish(name)
    }

    /// Returns how many bytes were read.
    fn import_with(layers: &Layers, path: &Path) -> Result<u64> {
        let Opened::Image(image) =
            archive::open_file(&layers::open(path)?, path, path, &Wanted::default())?
        else {
            panic!("no image");
        };
        let mut draft = Draft::new(layers, b"source")?;
        let made = draft.add(&image).and_then(|()| draft.publish("x"));
        let done = draft.progress.done;
        drop(draft);
        crate::images::collect(layers.store)?;
        made.map(|()| done)
    }

    #[test]
    fn contents_are_there_once_and_a_name_can_be_given_again() {
        let (store, tar) = store("once", 100_000);
        let all = layers(&store, u64::MAX);
        assert_eq!(import_with(&all, &tar), Ok(metadata(&tar).unwrap().len()));
        let (mut image, held) = resolve(&store, "x").unwrap().unwrap();
        name(&store, &image, "y/z").unwrap();
        image.layers.push(image.layers[0].clone());
        image.config.user = b"me".into();
        name(&store, &image, "two").unwrap();
        drop(held);
        assert_eq!(names(&store.join("blobs")).len(), 2);
        let rows = list(&store).unwrap();
        let kinds: Vec<_> = rows.iter().map(|row| (&*row[0], &*row[1])).collect();
        assert_eq!(kinds, [("two", "oci"), ("x", "tar"), ("y/z", "tar")]);
        let two = resolve(&store, "two").unwrap().unwrap().0;
        assert_eq!((two.layers.len(), two.config.user), (2, b"me".to_vec()));
        remove_dir_all(store.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let (store, tar) = store("fails", 100_000);
        let check = |result: Result<u64>, text: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            let left = [names(&store.join("blobs")), names(&store.join("images"))].concat();
            assert!(left.is_empty(), "{left:?}");
        };
        let mut all = layers(&store, u64::MAX);
        // As if a signal had come.
        let (signal, sender) = rustix::pipe::pipe().unwrap();
        drop(sender);
        all.interrupts = Some(&signal);
        check(import_with(&all, &tar), "interrupted");
        all.interrupts = None;
        check(import_with(&layers(&store, 5000), &tar), "5000");
        write(&tar, [b'x'; 700]).unwrap();
        check(import_with(&all, &tar), "not a tar archive");
        let draft = |digest, diff_id| {
            let mut draft = Draft::new(&all, b"source")?;
            let layer = draft.layer(&Layer::Tar(Tar {
                path: tar.clone(),
                offset: 100,
                size: Some(512),
                compression: None,
                digest,
                diff_id,
            }));
            layer.map(|()| 0)
        };
        check(draft(None, Some([1; 32])), "0101");
        check(draft(Some([2; 32]), Some([1; 32])), "0202");
        remove_dir_all(store.parent().unwrap()).unwrap();
    }

    #[test]
    fn holes_of_a_file_system_stay_holes() {
        let (store, _) = store("holes", 0);
        let path = store.with_file_name("ext4");
        let file = File::create(&path).unwrap();
        file.set_len(100_000_000).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, &[0x53, 0xef], 1080).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"middle", 50_000_000).unwrap();
        import_with(&layers(&store, u64::MAX), &path).unwrap();
        let rows = list(&store).unwrap();
        assert_eq!([&rows[0][1], &rows[0][2]], ["ext4", "100 MB"]);
        assert!(rows[0][3].ends_with(" kB"), "{rows:?}");
        let blob = store.join("blobs").join(&names(&store.join("blobs"))[0]);
        assert!(metadata(&blob).unwrap().blocks() > 0);
        assert!(std::fs::read(&blob).unwrap() == std::fs::read(&path).unwrap());
        remove_dir_all(store.parent().unwrap()).unwrap();
    }
}
