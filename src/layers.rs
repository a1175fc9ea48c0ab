//! The layers of an image, brought to where they can be mounted: archives are inflated into the cache and indexed, or
//! unpacked; a name, or standard input, becomes files. Entry: [`resolve`], then [`Layers`].
//!
//! What is inflated or indexed stays in the store's cache (`cache.rs`) for the next container; what is unpacked is the
//! container's own. Digests are verified whenever bytes are read for the first time: by inflating, by unpacking, or before
//! an index is made.
//!
//! Left out: inflating a stream that is to be unpacked. It goes straight to the tree.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat, statfs, statvfs};
use rustix::io::Errno;

use container::sys;

use crate::cache;
use crate::error::{Error, Result, error, path as show};
use crate::host::{Host, in_memory};
use crate::image::archive::{self, Opened, Wanted};
#[cfg(feature = "images")]
use crate::image::digest;
#[cfg(not(feature = "images"))]
use crate::image::inflate;
use crate::image::mount::{self, How};
use crate::image::reader::Whiteouts;
use crate::image::{Image, Layer, Section, Sha256, Tar, index, unpack};
use crate::plan::Stack;
use crate::progress::Progress;
use crate::run::wait_for;
use crate::spec::{Restart, Rootfs, Spec, Store};
use crate::store::{NewFile, Removal, io, linked};

/// What ROOTFS and the layers above it are, and the image's own configuration. What has to be read from standard input,
/// or inflated to be looked into, is; `dry` forbids that.
pub fn resolve(
    spec: &Spec,
    host: &Host,
    interrupts: Option<&OwnedFd>,
    dry: bool,
) -> Result<(Image, Held)> {
    let layers = Layers::new(spec, host, interrupts);
    let look_at = |path: &Path| {
        let (file, reference) = archive::reference(path);
        let absolute = std::path::absolute(file).unwrap_or(file.to_owned());
        layers.look_at(&absolute, path, spec, reference, dry, true)
    };
    let (mut image, held) = match &spec.rootfs {
        Rootfs::Stdin => {
            let stdin = Path::new(STDIN);
            // On a read-only machine there is no place for a copy yet.
            let nowhere = host.cover.is_some();
            // What is read a second time has to be copied, too.
            let again = spec.restart != Restart::No;
            if again && nowhere {
                let error = Error::new("--restart: there is no place for a copy of standard input");
                return Err(error.hint("it can be read only once; this machine is read-only"));
            }
            let once = !again && matches!(spec.store, Store::Unpack | Store::Tmpfs);
            let streams = dry || nowhere || once;
            let image = layers.look_at(stdin, stdin, spec, None, dry, streams)?;
            (image, Held::default())
        }
        Rootfs::Path(path) => match std::fs::metadata(archive::reference(path).0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => layers.named(path)?,
            _ => (look_at(path)?, Held::default()),
        },
    };
    for path in &spec.layers {
        image.layers.append(&mut look_at(path)?.layers);
    }
    Ok((image, held))
}

/// What keeps an image under a name from being taken away; nothing in a build without names.
#[derive(Default)]
pub struct Held {
    /// Locked as long as the image is in use.
    pub _record: Option<File>,
    /// While this is locked no garbage is collected, as the name may by now stand for another image.
    pub opening: Option<OwnedFd>,
}

/// What the work needs to know.
pub struct Layers<'a> {
    pub store: &'a Path,
    pub quiet: bool,
    /// Bytes that a compressed archive may become; half of what is free, unless given.
    pub limit: Option<u64>,
    /// Can be read when a signal has come that ends mini; none where signals have their usual effect.
    pub interrupts: Option<&'a OwnedFd>,
}

/// What came of an index: how it was mounted, or why it cannot be; for --trace.
pub type Brought = std::result::Result<String, String>;

impl<'a> Layers<'a> {
    pub fn new(spec: &Spec, host: &'a Host, interrupts: Option<&'a OwnedFd>) -> Layers<'a> {
        Layers {
            store: &host.store,
            quiet: spec.quiet,
            limit: spec.image_limit,
            interrupts,
        }
    }

    /// What is at a path, which errors call `name`. What cannot be read twice is taken for a tar that is to be unpacked if
    /// `streams`; else it is standard input, and copied into a file first.
    fn look_at(
        &self,
        path: &Path,
        name: &Path,
        spec: &Spec,
        reference: Option<&str>,
        dry: bool,
        streams: bool,
    ) -> Result<Image> {
        let wanted = Wanted {
            platform: spec.platform.as_deref(),
            reference,
        };
        let (file, path) = match archive::open_file(&open(path)?, path, name, &wanted)? {
            Opened::Image(image) => return Ok(image),
            Opened::Stream if streams => return Ok(Layer::Tar(tar(path)).into()),
            Opened::Stream => (self.spool()?, path.to_owned()),
            Opened::Inflate(_) if dry => {
                let error = error!("{}: an archive of layers, compressed", show(name));
                return Err(error.hint("it has to be inflated to be looked into: --dry-run cannot"));
            }
            Opened::Inflate(tar) => {
                let (section, path) = self.plain(&tar)?;
                (section.file, path)
            }
        };
        match archive::open_file(&file, &path, name, &wanted)? {
            Opened::Image(image) => Ok(image),
            _ => Ok(Layer::Tar(tar(&path)).into()),
        }
    }

    /// Copies standard input into a file, inflated on the way. That takes the place of descriptor 0, so that it is there
    /// even if mini goes on from a copy of its binary.
    fn spool(&self) -> Result<File> {
        let directory = cache::directory(self.store)?;
        let spooled = NewFile::create(&directory)?;
        let mut file = &spooled.file;
        let tar = tar(Path::new(STDIN));
        let source = section(&tar, open(&tar.path)?)?;
        let mut progress = self.progress(&tar, &source);
        self.inflate(&tar, source, file, &directory, &mut progress, false)?;
        file.rewind()
            .map_err(|error| io("seek", &tar.path, error))?;
        sys::duplicate(sys::borrow(file.as_raw_fd()), 0)
            .map_err(|errno| Error::sys("dup2", "0", errno))?;
        dup(file)
    }

    /// The image under a name.
    fn named(&self, path: &Path) -> Result<(Image, Held)> {
        let absent = Error::sys("ROOTFS open", path.as_os_str().as_bytes(), Errno::NOENT);
        #[cfg(feature = "images")]
        if let Some(name) = path.to_str()
            && crate::images::check_name(name).is_ok()
        {
            let found = crate::images::resolve(self.store, name)?;
            return found.ok_or_else(|| absent.hint("nor is there an image of that name"));
        }
        Err(absent)
    }

    /// Mounts an index of the archives on `image{number}`, below the working directory.
    pub fn index(&self, stack: &Stack, number: usize) -> Result<Brought> {
        for tar in &stack.tars {
            if std::fs::metadata(&tar.path).is_ok_and(|status| !status.is_file()) {
                let path = show(&tar.path);
                return Ok(Err(format!("{path}: not a regular file")));
            }
        }
        // With the names that errors have for them; and those in the cache.
        let (mut parts, mut inflated) = (Vec::new(), Vec::new());
        let cache = self.store.join("cache");
        // A file without a name cannot come again.
        let mut lasting = true;
        for tar in &stack.tars {
            let (section, path) = self.plain(tar)?;
            lasting &= linked(&section.file, &path);
            parts.push((tar.path.as_os_str().as_bytes().to_vec(), section));
            if path.starts_with(&cache) {
                inflated.push(path);
            }
        }
        let kind = match stack.whiteouts() {
            Whiteouts::Ordinary => "index",
            Whiteouts::Remove => "layers.index",
            Whiteouts::Overlay { userxattr: true } => "user.index",
            Whiteouts::Overlay { userxattr: false } => "trusted.index",
        };
        let mut ranges = Vec::new();
        for (_, section) in &parts {
            ranges.push((&section.file, section.offset, Some(section.left)));
        }
        let name = match lasting {
            true => cache::name(&ranges, &suffix(kind, &stack.tars))?,
            false => None,
        };
        let mut made = None;
        let (file, _) = self.cached(name, &mut |file| {
            for ((_, section), tar) in parts.iter().zip(&stack.tars) {
                self.verify(section, tar)?;
            }
            let indexed = index::index(&parts, stack.whiteouts(), file).inspect_err(|_| {
                // What turns out to be no tar is not kept inflated.
                for path in &inflated {
                    Removal::default().file(path, &cache::unused);
                }
            });
            // What cannot be indexed leaves an empty index, so that the next start need not try.
            made = Some(indexed?);
            Ok(())
        })?;
        let size = file.metadata().map_or(0, |status| status.len());
        let made = match made {
            Some(Err(why)) => return Ok(Err(why.to_string())),
            None if size == 0 => {
                let why = "it was tried before, and cannot be indexed";
                return Ok(Err(why.to_owned()));
            }
            Some(Ok(made)) => format!(
                "{} members, {} nodes, index of {} bytes made",
                made.members, made.nodes, made.size
            ),
            None => format!("index of {size} bytes from the cache"),
        };
        let devices = index::devices(&parts)?;
        let mut files = Vec::new();
        for (device, (_, section)) in devices.into_iter().zip(parts) {
            if device == files.len() {
                files.push(section.file);
            }
        }
        let first = &stack.tars[0].path;
        let how = mount::share(file, number as u32, |index, at| {
            mount::erofs(first.as_os_str().as_bytes(), index, &files, at)
        });
        // Closes them: from here on none of this process's descriptors of what is held goes.
        drop(files);
        for path in &inflated {
            cache::hold(path);
        }
        Ok(match how {
            Err(why) => Err(why.to_string()),
            Ok(how) => Ok(format!("{}: {made}, {how}", show(first))),
        })
    }

    /// Mounts a file system image or block device on `image{number}`.
    pub fn mount(
        &self,
        path: &Path,
        fstype: &'static CStr,
        device: bool,
        number: usize,
    ) -> Result<How> {
        let file = open(path)?;
        let name = path.as_os_str().as_bytes();
        let key = match device {
            true => None,
            false => cache::name(&[(&file, 0, None)], "key")?,
        };
        let mount = |at: &CStr| mount::filesystem(name, &file, fstype, at);
        if key.is_none() {
            return mount(crate::plan::leak(format!("image{number}")));
        }
        let (key, _) = self.cached(key, &mut |_| Ok(()))?;
        mount::share(key, number as u32, |_, at| mount(at))
    }

    /// Opens what is needed to unpack the archives below `to`: a process with other ids may do so, but not open it. What is
    /// returned does so, and returns a line about it.
    pub fn unpacking(
        &self,
        stack: &Stack,
        to: &Path,
        in_userns: bool,
    ) -> Result<impl FnOnce() -> Result<String>> {
        let target = to.as_os_str().as_bytes();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, target, flags, Mode::empty())
            .map_err(|errno| Error::sys("open", target, errno))?;
        let free = free(to)?;
        let mut options = unpack::Options {
            in_userns,
            limit: free,
            limit_name: to.display().to_string(),
            whiteouts: stack.whiteouts(),
        };
        let mut sources = Vec::new();
        for tar in &stack.tars {
            let section = section(tar, open(&tar.path)?)?;
            if let Some(given) = self.limit.filter(|given| *given < free)
                && (tar.compression.is_some() || tar.path == Path::new(STDIN))
            {
                (options.limit, options.limit_name) = (given, "the --image-limit".to_owned());
            }
            room(section.left, free, to)?;
            sources.push((section, tar));
        }
        Ok(move || {
            let mut unpacker = unpack::Unpacker::new(root.as_fd(), &options)?;
            for (section, tar) in sources {
                let name = tar.path.as_os_str().as_bytes();
                let progress = &mut self.progress(tar, &section);
                let mut source = Source { section, progress };
                #[cfg(feature = "images")]
                digest::checked(&mut source, name, self.digests(tar), |source| {
                    unpacker.layer(source, name)
                })?;
                #[cfg(not(feature = "images"))]
                unpacker.layer(&mut source, name)?;
            }
            let report = unpacker.finish()?;
            Ok(format!(
                "{} members, {} bytes; not possible here: {} devices, {} owners, {} attributes",
                report.members,
                report.bytes,
                report.skipped_devices,
                report.skipped_owners,
                report.skipped_xattrs
            ))
        })
    }

    /// The entry of the cache of this name, or without a name a file that goes with its descriptors, which `fill` writes
    /// if it is not there; and its path.
    fn cached(
        &self,
        name: Option<String>,
        fill: &mut dyn FnMut(&File) -> Result<()>,
    ) -> Result<(File, PathBuf)> {
        let directory = cache::directory(self.store)?;
        let Some(name) = name else {
            let new = NewFile::create(&directory)?;
            fill(&new.file)?;
            return Ok((dup(&new.file)?, new.path.clone()));
        };
        let interrupted = || (self.interrupts).is_some_and(|signals| !wait_for(signals, None));
        let file = cache::make(self.store, &name, &interrupted, fill)?;
        Ok((file, directory.join(name)))
    }

    /// The archive as a plain tar: itself, or inflated into the cache; and its path.
    fn plain(&self, tar: &Tar) -> Result<(Section, PathBuf)> {
        let archive = section(tar, open(&tar.path)?)?;
        if tar.compression.is_none() {
            return Ok((archive, tar.path.clone()));
        }
        let suffix = suffix("tar", std::slice::from_ref(tar));
        let name = cache::name(&[(&archive.file, tar.offset, tar.size)], &suffix)?;
        let cache = self.store.join("cache");
        let (file, path) = self.cached(name, &mut |to| {
            // Opened again, its path could lead to another file than the one the entry is named after.
            let (source, mut progress) = (copy(&archive)?, self.progress(tar, &archive));
            self.inflate(tar, source, to, &cache, &mut progress, false)
                .map(drop)
        })?;
        Ok((section(&self::tar(&path), file)?, path))
    }

    /// Writes the plain bytes of an archive to a file in `directory`; returns their digest if it is known what it has to
    /// be, or if `always`.
    pub fn inflate(
        &self,
        tar: &Tar,
        section: Section,
        to: &File,
        directory: &Path,
        progress: &mut Progress<'_>,
        always: bool,
    ) -> Result<Option<Sha256>> {
        let name = tar.path.as_os_str().as_bytes();
        let free = free(directory)?;
        room(section.left, free, directory)?;
        let mut source = Source { section, progress };
        let limit = self.limit.unwrap_or(free / 2);
        let to = (to, directory.as_os_str().as_bytes());
        #[cfg(feature = "images")]
        {
            let digests = (tar.digest, tar.diff_id);
            digest::inflate_checked(&mut source, name, to, limit, digests, always)
        }
        #[cfg(not(feature = "images"))]
        {
            let _ = always;
            inflate::inflate(&mut source, name, to, limit, &mut |_| {}).map(|_| None)
        }
    }

    /// Reads a plain tar whose digest is known.
    fn verify(&self, section: &Section, tar: &Tar) -> Result<()> {
        #[cfg(feature = "images")]
        if let (Some(digest), _) = self.digests(tar)
            && tar.compression.is_none()
        {
            let mut source = Source {
                section: copy(section)?,
                progress: &mut self.progress(tar, section),
            };
            digest::verify(&mut source, tar.path.as_os_str().as_bytes(), digest)?;
        }
        let _ = (section, tar);
        Ok(())
    }

    /// What an archive's bytes, and the inflated ones, have to hash to; the store's own were verified when they came.
    #[cfg(feature = "images")]
    fn digests(&self, tar: &Tar) -> (Option<Sha256>, Option<Sha256>) {
        match tar.path.starts_with(self.store.join("blobs")) {
            true => (None, None),
            false if tar.compression.is_none() => (tar.digest.or(tar.diff_id), None),
            false => (tar.digest, tar.diff_id),
        }
    }

    /// Of reading an archive.
    fn progress(&self, tar: &Tar, section: &Section) -> Progress<'a> {
        let name = tar.path.as_os_str().as_bytes();
        let total = if section.left == ALL { 0 } else { section.left };
        Progress::new(name, total, self.quiet, self.interrupts)
    }
}

/// An archive as it is read: it counts for the progress bar, and fails once a signal has come, so that Ctrl-C ends the
/// reading of a large or slow one.
struct Source<'p, 'a> {
    section: Section,
    progress: &'p mut Progress<'a>,
}

impl Read for Source<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let file = &mut self.section.file;
        if !self.progress.wait(sys::borrow(file.as_raw_fd())) {
            return Err(std::io::Error::from_raw_os_error(
                Errno::CANCELED.raw_os_error(),
            ));
        }
        let count = match self.section.left {
            ALL => file.read(buffer)?,
            _ => self.section.read(buffer)?,
        };
        self.progress.add(count);
        Ok(count)
    }
}

const STDIN: &str = "-";

/// What is left of an archive whose size is not known: it is read from where it is.
const ALL: u64 = u64::MAX;

/// Where in an opened file an archive is.
pub fn section(tar: &Tar, file: File) -> Result<Section> {
    let length = file.metadata().map(|status| match status.is_file() {
        true => status.len().saturating_sub(tar.offset),
        false => ALL,
    });
    let length = length.map_err(|error| Error::io("fstat", "image", error))?;
    Ok(Section {
        file,
        offset: tar.offset,
        left: tar.size.unwrap_or(length),
    })
}

/// `-` is standard input. O_NONBLOCK: opening a fifo must not wait for a writer where no signal ends the wait.
pub fn open(path: &Path) -> Result<File> {
    let opened = match path.as_os_str() == STDIN {
        true => std::os::fd::AsFd::as_fd(&std::io::stdin())
            .try_clone_to_owned()
            .map(File::from),
        false => (File::options().read(true))
            .custom_flags(raw::O_NONBLOCK as i32)
            .open(path),
    };
    opened.map_err(|error| io("open", path, error))
}

fn dup(file: &File) -> Result<File> {
    (file.try_clone()).map_err(|error| Error::io("dup", "image", error))
}

fn copy(section: &Section) -> Result<Section> {
    let file = dup(&section.file)?;
    Ok(Section { file, ..*section })
}

/// A plain tar.
pub fn tar(path: &Path) -> Tar {
    let path = path.to_owned();
    Tar {
        path,
        ..Tar::default()
    }
}

/// What an entry of the cache ends in: the digests that were verified when it was made are part of its name, so that the
/// same file is looked at again if others are wanted.
fn suffix(kind: &str, tars: &[Tar]) -> String {
    #[cfg(feature = "images")]
    {
        let mut digests = Vec::new();
        for tar in tars {
            for digest in [&tar.digest, &tar.diff_id] {
                digests.extend_from_slice(digest.as_ref().map_or(&[], |digest| digest));
            }
        }
        if !digests.is_empty() {
            let mut suffix = digest::hex(&digest::sha256(&digests));
            suffix.truncate(16);
            return suffix + "." + kind;
        }
    }
    let _ = tars;
    kind.to_owned()
}

/// Bytes that can be written below a directory. What is in memory must also fit there.
pub fn free(directory: &Path) -> Result<u64> {
    // It may have to be made first.
    let there = directory.ancestors().find(|path| path.exists());
    let name = there.unwrap_or(directory).as_os_str().as_bytes();
    let space = statvfs(name).map_err(|errno| Error::sys("statvfs", name, errno))?;
    // A ramfs counts no blocks.
    let free = match space.f_blocks {
        0 => u64::MAX,
        _ => space.f_bavail.saturating_mul(space.f_frsize),
    };
    let status = statfs(name).map_err(|errno| Error::sys("statfs", name, errno))?;
    Ok(match in_memory(status.f_type as u32) {
        true => free.min(available_memory()),
        false => free,
    })
}

/// Bytes of memory that can be had without swapping (proc(5), MemAvailable, Linux 3.14).
fn available_memory() -> u64 {
    let text = crate::proc::read("/proc/meminfo").unwrap_or_default();
    let (_, rest) = text.split_once("MemAvailable:").unwrap_or_default();
    let (number, _) = rest.split_once(" kB").unwrap_or_default();
    let number = number.trim_ascii().parse().unwrap_or(u64::MAX);
    number.saturating_mul(1024)
}

/// An error if more is needed than is free in a directory, as far as that is known.
pub fn room(needed: u64, free: u64, directory: &Path) -> Result<()> {
    if needed <= free || needed == ALL {
        return Ok(());
    }
    let directory = show(directory);
    Err(error!(
        "needs {needed} bytes, only {free} free in {directory}"
    ))
}
