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

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags, open, statvfs};
use rustix::io::Errno;
use sha2::Digest;

use crate::cache::{NewFile, sync};
use crate::error::{Error, Result, error, quote};
use crate::image::digest::{inflate_checked, parse_digest};
use crate::image::oci;
use crate::image::reader::Whiteouts;
use crate::image::write::{Sink, Writer};
use crate::image::{Config, Image, Layer, Section, Sha256, Tar, changes, index};
use crate::images::{KINDS, Record, blob, check_name, directories, file_name, hold};

/// Hears how many bytes have been read so far; an error ends the import.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

/// An image that is being made. As long as it lives no blob is garbage.
pub struct Draft<'a> {
    store: &'a Path,
    blobs: PathBuf,
    record: Record,
    /// The most bytes a compressed tar may become.
    limit: u64,
    /// Bytes read so far.
    done: u64,
    progress: Progress<'a>,
    _guard: OwnedFd,
}

impl<'a> Draft<'a> {
    pub fn new(store: &'a Path, limit: u64, progress: Progress<'a>) -> Result<Draft<'a>> {
        let [images, blobs] = directories(store)?;
        Ok(Draft {
            store,
            blobs,
            record: Record::default(),
            limit,
            done: 0,
            progress,
            _guard: hold(&images, FlockOperation::LockShared)?,
        })
    }

    /// Adds a layer above those there are.
    pub fn layer(&mut self, layer: &Layer) -> Result<()> {
        let (digest, kind) = match layer {
            Layer::Tar(tar) => (self.tar(tar)?, KINDS[0]),
            Layer::Filesystem { path, fstype, .. } => (self.file_system(path)?, *fstype),
            Layer::Directory(path) => (self.directory(path)?, KINDS[0]),
        };
        self.record.layers.push((digest, kind));
        Ok(())
    }

    /// Adds a layer above those there are: the tar that `write` hands to the sink.
    pub fn written(&mut self, write: impl FnOnce(Sink<'_>) -> Result<()>) -> Result<()> {
        let digest = self.write(write)?;
        self.record.layers.push((digest, KINDS[0]));
        Ok(())
    }

    fn write(&mut self, write: impl FnOnce(Sink<'_>) -> Result<()>) -> Result<Sha256> {
        let new = NewFile::create(&self.blobs)?;
        let mut hash = sha2::Sha256::new();
        write(&mut |bytes| {
            hash.update(bytes);
            (new.file().write_all(bytes)).map_err(|error| self.failed(error))?;
            self.done += bytes.len() as u64;
            (self.progress)(self.done)
        })?;
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
        self.record.config = Some(self.write(|sink| sink(json.as_bytes()))?);
        Ok(())
    }

    /// Writes the image, whose configuration has been set, as an OCI archive.
    pub fn archive(&self, sink: Sink<'_>) -> Result<()> {
        let mut layers = Vec::new();
        for (digest, kind) in &self.record.layers {
            if *kind != KINDS[0] {
                let what = "an OCI archive has tars only, and the image is a file system";
                return Err(Error::new(what).hint("mini export writes one of all its files"));
            }
            let file = open_file(&self.blobs.join(blob(digest)))?;
            let size = file.metadata().map_or(0, |status| status.len());
            layers.push((file, size, *digest));
        }
        let layers: Vec<_> = (layers.iter())
            .map(|(file, size, digest)| oci::Layer {
                file,
                offset: 0,
                size: *size,
                digest: *digest,
            })
            .collect();
        let config = self
            .record
            .config
            .map(|config| self.blobs.join(blob(&config)));
        let path = config.unwrap_or_default();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::io("read", path.as_os_str().as_bytes(), error))?;
        oci::write_archive(Writer::new(sink), &text, &layers, b"").map(drop)
    }

    /// Gives the image its name, in place of what had it. `source` is what it was made from, for whoever asks.
    pub fn publish(mut self, name: &str, source: &[u8]) -> Result<()> {
        check_name(name)?;
        self.record.created = now();
        self.record.source = quote(source);
        // Also blobs that somebody else has only just renamed, and these directories.
        sync(&self.blobs)?;
        sync(self.store)?;
        let new = NewFile::create(&self.store.join("images"))?;
        (new.file().write_all(self.record.text().as_bytes()))
            .map_err(|error| Error::io("write", new.path().as_os_str().as_bytes(), error))?;
        let _change = hold(&self.blobs, FlockOperation::LockExclusive)?;
        new.publish(file_name(name), true)
    }

    /// Gives a blob its name, unless it is there already.
    fn keep(&self, new: NewFile, digest: Sha256) -> Result<Sha256> {
        if !self.blobs.join(blob(&digest)).exists() {
            new.publish(blob(&digest), true)?;
        }
        Ok(digest)
    }

    /// The digest of a file, if it is a blob of this store already.
    fn known(&self, path: &Path) -> Option<Sha256> {
        let name = path.strip_prefix(&self.blobs).ok()?.to_str()?;
        parse_digest(&name.replacen('-', ":", 1))
    }

    fn known_tar(&self, tar: &Tar) -> Option<Sha256> {
        let there = |digest: &Sha256| self.blobs.join(blob(digest)).exists();
        let blob = self.known(&tar.path).filter(|_| whole(tar));
        blob.or_else(|| tar.diff_id.filter(there))
    }

    fn tar(&mut self, tar: &Tar) -> Result<Sha256> {
        if let Some(digest) = self.known_tar(tar) {
            return Ok(digest);
        }
        let (new, digest) = self.inflated(tar)?;
        self.keep(new, digest)
    }

    fn inflated(&mut self, tar: &Tar) -> Result<(NewFile, Sha256)> {
        let name = tar.path.as_os_str().as_bytes().to_vec();
        let mut file = open_file(&tar.path)?;
        rewind(&mut file, &name, tar.offset)?;
        let new = NewFile::create(&self.blobs)?;
        let to = self.blobs.as_os_str().as_bytes().to_vec();
        let limit = self.limit;
        let mut source = Watched {
            source: file.take(tar.size.unwrap_or(u64::MAX)),
            draft: self,
            ended: None,
        };
        let target = (new.file(), to.as_slice());
        let digests = (tar.digest, tar.diff_id);
        let digest = inflate_checked(&mut source, &name, target, limit, digests, true);
        let digest = source.ended.map_or(digest, Err)?;
        Ok((new, digest.unwrap_or_default()))
    }

    fn file_system(&mut self, path: &Path) -> Result<Sha256> {
        if let Some(digest) = self.known(path) {
            return Ok(digest);
        }
        let mut source = open_file(path)?;
        rewind(&mut source, path.as_os_str().as_bytes(), 0)?;
        let new = NewFile::create(&self.blobs)?;
        let mut file = new.file();
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            let count = (source.read(&mut buffer))
                .map_err(|error| Error::io("read", path.as_os_str().as_bytes(), error))?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if count == 0 {
                break;
            }
            hash.update(bytes);
            size += count as u64;
            // Zeros become a hole.
            let done = match bytes.iter().all(|byte| *byte == 0) {
                true => file.seek(SeekFrom::Start(size)).map(drop),
                false => file.write_all(bytes),
            };
            done.map_err(|error| self.failed(error))?;
            self.done += count as u64;
            (self.progress)(self.done)?;
        }
        file.set_len(size).map_err(|error| self.failed(error))?;
        self.keep(new, hash.finalize().into())
    }

    fn directory(&mut self, path: &Path) -> Result<Sha256> {
        let name = path.as_os_str().as_bytes();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            open(name, flags, Mode::empty()).map_err(|errno| Error::sys("open", name, errno))?;
        let options = changes::Options {
            layer: false,
            userxattr: false,
            ids: 0..u32::MAX,
            skip: &[],
        };
        self.write(|sink| {
            let mut writer = Writer::new(sink);
            changes::write_tree(root.as_fd(), &mut writer, &options)?;
            writer.end().map(drop)
        })
    }

    /// Whether there is room for the layers, as far as their sizes are known before they are read.
    fn room(&self, image: &Image, source: &[u8]) -> Result<()> {
        let sizes = sizes(image.layers.iter().filter(|layer| match layer {
            Layer::Tar(tar) => self.known_tar(tar).is_none(),
            Layer::Filesystem { path, .. } => self.known(path).is_none(),
            Layer::Directory(_) => false,
        }));
        let blobs = self.blobs.as_os_str().as_bytes();
        let status = statvfs(blobs).map_err(|errno| Error::sys("statvfs", blobs, errno))?;
        let free = status.f_bavail.saturating_mul(status.f_frsize);
        // A ramfs counts no blocks.
        if sizes <= free || status.f_blocks == 0 {
            return Ok(());
        }
        let (source, store) = (quote(source), quote(self.store.as_os_str().as_bytes()));
        Err(error!(
            "import({source}): needs {sizes} bytes, only {free} free in {store}"
        ))
    }

    /// Goes through all tars, as the first start will.
    fn check(&self, image: &Image, source: &[u8]) -> Result<()> {
        let mut tars = Vec::new();
        for (digest, kind) in &self.record.layers {
            if *kind == KINDS[0] {
                let file = open_file(&self.blobs.join(blob(digest)))?;
                let status = file.metadata();
                let left = status
                    .map_err(|error| Error::io("fstat", source, error))?
                    .len();
                let offset = 0;
                tars.push((source.to_vec(), Section { file, offset, left }));
            }
        }
        let whiteouts = match layered(image) {
            true => Whiteouts::Remove,
            false => Whiteouts::Ordinary,
        };
        let scratch = NewFile::create(&self.blobs)?;
        // One that cannot be indexed is unpacked when it is used.
        index::index(&tars, whiteouts, scratch.file()).map(drop)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write", self.blobs.as_os_str().as_bytes(), error)
    }
}

/// Whether whiteouts mean something in an image's tars.
fn layered(image: &Image) -> bool {
    let described = |layer: &Layer| matches!(layer, Layer::Tar(tar) if tar.diff_id.is_some());
    image.layers.len() > 1 || image.layers.iter().any(described)
}

/// Whether it is a file as it is.
fn whole(tar: &Tar) -> bool {
    (tar.offset, tar.size, tar.compression) == (0, None, None)
}

/// Bytes that are to be read to import these layers, as far as that can be told.
pub fn sizes<'l>(layers: impl Iterator<Item = &'l Layer>) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |status| status.len());
    layers
        .map(|layer| match layer {
            Layer::Tar(tar) => tar.size.unwrap_or_else(|| size(&tar.path)),
            Layer::Filesystem { path, .. } => size(path),
            Layer::Directory(_) => 0,
        })
        .sum()
}

impl Draft<'_> {
    /// Adds all layers of an image, checks them, and takes its configuration.
    pub fn add(&mut self, image: &Image, source: &[u8]) -> Result<()> {
        self.room(image, source)?;
        for layer in &image.layers {
            self.layer(layer)?;
        }
        if layered(image) || image.config != Config::default() {
            self.config(&image.config)?;
        }
        self.check(image, source)
    }
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// A file, or standard input for `-`.
fn open_file(path: &Path) -> Result<File> {
    let opened = match path.as_os_str() == "-" {
        true => std::os::fd::AsFd::as_fd(&std::io::stdin())
            .try_clone_to_owned()
            .map(File::from),
        // Opening a fifo must not wait for a writer.
        false => (File::options().read(true))
            .custom_flags(raw::O_NONBLOCK as i32)
            .open(path),
    };
    opened.map_err(|error| Error::io("open", path.as_os_str().as_bytes(), error))
}

/// What standard input was copied into has just been written; a pipe is where it is.
fn rewind(file: &mut File, name: &[u8], offset: u64) -> Result<()> {
    match file.seek(SeekFrom::Start(offset)) {
        Err(error) if offset > 0 || error.kind() != ErrorKind::NotSeekable => {
            Err(Error::io("seek", name, error))
        }
        _ => Ok(()),
    }
}

/// A source whose progress is told, and may be ended.
struct Watched<'d, 'a> {
    source: std::io::Take<File>,
    draft: &'d mut Draft<'a>,
    ended: Option<Error>,
}

impl Read for Watched<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.source.read(buffer);
            self.draft.done += *count.as_ref().unwrap_or(&0) as u64;
            (self.draft.progress)(self.draft.done).map_err(|error| {
                self.ended = Some(error);
                std::io::Error::from_raw_os_error(Errno::CANCELED.raw_os_error())
            })?;
            match count {
                // A fifo whose writer is slow.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::archive::{self, Opened, Wanted};
    use crate::image::write::file;
    use crate::images::{list, resolve};
    use crate::store::names;
    use std::fs::{metadata, remove_dir_all, write};
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

    fn name(store: &Path, image: &Image, source: &str, name: &str) -> Result<()> {
        let mut progress = |_| Ok(());
        let mut draft = Draft::new(store, 0, &mut progress)?;
        draft.add(image, source.as_bytes())?;
        draft.publish(name, source.as_bytes())
    }

    fn import_with(store: &Path, path: &Path, limit: u64, progress: Progress<'_>) -> Result<()> {
        let Opened::Image(image) =
            archive::open_file(&open_file(path)?, path, path, &Wanted::default())?
        else {
            panic!("no image");
        };
        let mut draft = Draft::new(store, limit, progress)?;
        let made = draft
            .add(&image, b"source")
            .and_then(|()| draft.publish("x", b"source"));
        made.or_else(|error| crate::images::collect(store).and(Err(error)))
    }

    #[test]
    fn contents_are_there_once_and_a_name_can_be_given_again() {
        let (store, tar) = store("once", 100_000);
        let mut most = 0;
        let mut progress = |bytes| {
            most = bytes;
            Ok(())
        };
        import_with(&store, &tar, u64::MAX, &mut progress).unwrap();
        assert_eq!(most, metadata(&tar).unwrap().len());
        let stored = resolve(&store, "x").unwrap().unwrap();
        name(&store, &stored.image, "x", "y/z").unwrap();
        let mut image = stored.image.clone();
        image.layers.push(image.layers[0].clone());
        image.config.user = b"me".into();
        name(&store, &image, "x", "two").unwrap();
        drop(stored);
        assert_eq!(names(&store.join("blobs")).len(), 2);
        let rows = list(&store).unwrap();
        let kinds: Vec<_> = rows.iter().map(|row| (&*row.name, row.kind)).collect();
        assert_eq!(kinds, [("two", "oci"), ("x", "tar"), ("y/z", "tar")]);
        let two = resolve(&store, "two").unwrap().unwrap().image;
        assert_eq!((two.layers.len(), two.config.user), (2, b"me".to_vec()));
        remove_dir_all(store.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let (store, tar) = store("fails", 100_000);
        let check = |result: Result<()>, text: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            let left = [names(&store.join("blobs")), names(&store.join("images"))].concat();
            assert!(left.is_empty(), "{left:?}");
        };
        let mut interrupted = |bytes| match bytes {
            0..5000 => Ok(()),
            _ => Err(Error::new("interrupted")),
        };
        check(
            import_with(&store, &tar, u64::MAX, &mut interrupted),
            "interrupted",
        );
        check(import_with(&store, &tar, 5000, &mut |_| Ok(())), "5000");
        write(&tar, [b'x'; 700]).unwrap();
        check(
            import_with(&store, &tar, u64::MAX, &mut |_| Ok(())),
            "not a tar archive",
        );
        let draft = |digest, diff_id| {
            let mut progress = |_| Ok(());
            let mut draft = Draft::new(&store, u64::MAX, &mut progress)?;
            draft.layer(&Layer::Tar(Tar {
                path: tar.clone(),
                offset: 100,
                size: Some(512),
                compression: None,
                digest,
                diff_id,
            }))
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
        import_with(&store, &path, u64::MAX, &mut |_| Ok(())).unwrap();
        let rows = list(&store).unwrap();
        assert_eq!((rows[0].kind, rows[0].size), ("ext4", 100_000_000));
        assert!(rows[0].disk < 1_000_000);
        let blob = store.join("blobs").join(&names(&store.join("blobs"))[0]);
        assert!(metadata(&blob).unwrap().blocks() > 0);
        assert!(std::fs::read(&blob).unwrap() == std::fs::read(&path).unwrap());
        remove_dir_all(store.parent().unwrap()).unwrap();
    }
}
