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

use crate::cache::{self, NewFile};
use crate::error::{Error, Result, error, path as show};
use crate::host::Host;
use crate::image::archive::{self, Opened, Wanted};
#[cfg(feature = "images")]
use crate::image::digest;
#[cfg(not(feature = "images"))]
use crate::image::inflate;
use crate::image::mount::{self, How};
use crate::image::reader::Whiteouts;
use crate::image::{Config, Image, Layer, Section, Sha256, Tar, index, unpack};
use crate::plan::Stack;
use crate::progress::Progress;
use crate::run::wait_for;
use crate::spec::{Rootfs, Spec, Store};

/// What ROOTFS and the layers above it are, and the image's own configuration. What has to be read from standard input,
/// or inflated to be looked into, is; `dry` forbids that.
pub fn resolve(
    spec: &Spec,
    host: &Host,
    interrupts: Option<&OwnedFd>,
    dry: bool,
) -> Result<(Image, Held)> {
    let layers = Layers::new(spec, host, interrupts);
    let mut held = Held::default();
    let mut image = match &spec.rootfs {
        Rootfs::Stdin => layers.standard_input(spec, dry)?,
        Rootfs::Path(path) => match std::fs::metadata(archive::reference(path).0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                layers.named(path, &mut held)?
            }
            _ => layers.look_at(path, spec, dry)?,
        },
    };
    for path in &spec.layers {
        image.layers.extend(layers.look_at(path, spec, dry)?.layers);
    }
    Ok((image, held))
}

/// What keeps an image under a name from being taken away; nothing in a build without names.
#[derive(Default)]
pub struct Held {
    #[cfg(feature = "images")]
    stored: Option<crate::images::Stored>,
}

impl Held {
    /// All of the image has been opened or mounted: garbage may be collected again.
    pub fn opened(&mut self) {
        #[cfg(feature = "images")]
        if let Some(stored) = &mut self.stored {
            stored.opened();
        }
    }
}

/// What the work needs to know.
pub struct Layers<'a> {
    pub host: &'a Host,
    pub quiet: bool,
    /// Bytes that a compressed archive may become; half of what is free, unless given.
    pub limit: Option<u64>,
    /// Can be read when a signal has come that ends mini; none where signals have their usual effect.
    pub interrupts: Option<&'a OwnedFd>,
}

/// A plain tar: a file or a part of one.
struct Part {
    file: File,
    path: PathBuf,
    offset: u64,
    size: u64,
}

/// What came of an index: how it was mounted, or why it cannot be; for --trace.
pub enum Brought {
    Mounted(String),
    Not(String),
}

impl<'a> Layers<'a> {
    pub fn new(spec: &Spec, host: &'a Host, interrupts: Option<&'a OwnedFd>) -> Layers<'a> {
        Layers {
            host,
            quiet: spec.quiet,
            limit: spec.image_limit,
            interrupts,
        }
    }
}

impl Layers<'_> {
    /// What a path is.
    fn look_at(&self, path: &Path, spec: &Spec, dry: bool) -> Result<Image> {
        let (file, reference) = archive::reference(path);
        let wanted = Wanted {
            platform: spec.platform.as_deref(),
            reference,
        };
        let absolute = std::path::absolute(file).unwrap_or(file.to_owned());
        match archive::open_file(&open(&absolute)?, &absolute, path, &wanted)? {
            Opened::Image(image) => Ok(image),
            Opened::Stream => Ok(plain_tar(&absolute)),
            Opened::Inflate(tar) => self.inflated(&tar, path, &wanted, dry),
        }
    }

    /// The image in an archive of layers that is compressed as a whole: it is inflated into the cache first.
    fn inflated(&self, tar: &Tar, name: &Path, wanted: &Wanted, dry: bool) -> Result<Image> {
        if dry {
            let error = error!("{}: an archive of layers, compressed", show(name));
            return Err(error.hint("it has to be inflated to be looked into: --dry-run cannot"));
        }
        let part = self.plain(tar)?;
        match archive::open_file(&part.file, &part.path, name, wanted)? {
            Opened::Image(image) => Ok(image),
            _ => Ok(plain_tar(&part.path)),
        }
    }

    /// The image under a name.
    fn named(&self, path: &Path, held: &mut Held) -> Result<Image> {
        let absent = Error::sys("ROOTFS open", path.as_os_str().as_bytes(), Errno::NOENT);
        #[cfg(feature = "images")]
        if let Some(name) = path
            .to_str()
            .filter(|name| crate::images::check_name(name).is_ok())
        {
            let Some(stored) = crate::images::resolve(&self.host.store, name)? else {
                return Err(absent.hint("nor is there an image of that name"));
            };
            let image = stored.image.clone();
            held.stored = Some(stored);
            return Ok(image);
        }
        let _ = held;
        Err(absent)
    }

    /// Standard input: a file as it is; else copied into a file first, inflated on the way. That takes the place of
    /// descriptor 0, so that it is there even if mini goes on from a copy of its binary. What is to be unpacked without
    /// more ado is not copied, and then cannot be an archive of layers.
    fn standard_input(&self, spec: &Spec, dry: bool) -> Result<Image> {
        let name = Path::new(STDIN);
        let wanted = Wanted {
            platform: spec.platform.as_deref(),
            reference: None,
        };
        // On a read-only machine there is no place for it yet.
        let nowhere = self.host.cover.is_some();
        let streams = dry || nowhere || matches!(spec.store, Store::Unpack | Store::Tmpfs);
        match archive::open_file(&open(name)?, name, name, &wanted)? {
            Opened::Image(image) => return Ok(image),
            Opened::Inflate(tar) => return self.inflated(&tar, name, &wanted, dry),
            Opened::Stream if streams => return Ok(plain_tar(name)),
            Opened::Stream => {}
        }
        let directory = cache::directory(&self.host.store)?;
        let spooled = NewFile::create(&directory)?;
        self.inflate(&tar(name), open(name)?, spooled.file(), &directory)?;
        (spooled.file().rewind()).map_err(|error| Error::io("seek", STDIN, error))?;
        sys::duplicate(sys::borrow(spooled.file().as_raw_fd()), 0)
            .map_err(|errno| Error::sys("dup2", "0", errno))?;
        match archive::open_file(spooled.file(), name, name, &wanted)? {
            Opened::Image(image) => Ok(image),
            _ => Ok(plain_tar(name)),
        }
    }

    /// Mounts an index of the archives on `image{number}`, below the working directory.
    pub fn index(&self, stack: &Stack, number: usize) -> Result<Brought> {
        let store = &self.host.store;
        let stream =
            |tar: &&Tar| std::fs::metadata(&tar.path).is_ok_and(|status| !status.is_file());
        if let Some(tar) = stack.tars.iter().find(stream) {
            return Ok(Brought::Not(format!(
                "{}: not a regular file",
                show(&tar.path)
            )));
        }
        let mut parts = Vec::new();
        for tar in &stack.tars {
            parts.push(self.plain(tar)?);
        }
        let inflated = || {
            let cache = store.join("cache");
            (parts.iter()).filter(move |part| part.path.starts_with(&cache))
        };
        let suffix = match stack.whiteouts() {
            Whiteouts::Ordinary => "index",
            Whiteouts::Remove => "layers.index",
            Whiteouts::Overlay { userxattr: true } => "user.index",
            Whiteouts::Overlay { userxattr: false } => "trusted.index",
        };
        let ranges: Vec<_> = (parts.iter())
            .map(|part| (&part.file, part.offset, Some(part.size)))
            .collect();
        // A file without a name cannot come again.
        let name = match parts
            .iter()
            .all(|part| cache::linked(&part.file, &part.path))
        {
            true => cache::name(&ranges, &suffix_for(suffix, &stack.tars))?,
            false => None,
        };
        let sections = || -> Result<_> {
            let mut sections = Vec::new();
            for (part, tar) in parts.iter().zip(&stack.tars) {
                sections.push(part.section(&tar.path)?);
            }
            Ok(sections)
        };
        let (mut made, mut why) = (None, None);
        let mut fill = |file: &File| {
            for (part, tar) in parts.iter().zip(&stack.tars) {
                self.verify(part, tar)?;
            }
            let indexed = index::index(&sections()?, stack.whiteouts(), file).inspect_err(|_| {
                // What turns out to be no tar is not kept inflated.
                for part in inflated() {
                    cache::remove(&part.path, false, |file| !cache::in_use(file));
                }
            });
            match indexed? {
                Ok(indexed) => made = Some(indexed),
                Err(reason) => why = Some(reason),
            }
            // What cannot be indexed leaves an empty index, so that the next start need not try.
            Ok(())
        };
        let cached = match &name {
            Some(name) => cache::get(store, name)?,
            None => None,
        };
        let file = match (cached, &name) {
            (Some(file), _) => file,
            (None, Some(name)) => cache::make(store, name, || self.interrupted(), &mut fill)?,
            (None, None) => {
                let new = NewFile::create(&cache::directory(store)?)?;
                fill(new.file())?;
                dup(new.file())?
            }
        };
        if let Some(why) = why {
            return Ok(Brought::Not(why.to_string()));
        }
        let sections = sections()?;
        let devices = index::devices(&sections)?;
        let mut files = Vec::new();
        for (device, (_, section)) in devices.iter().zip(sections) {
            if *device == files.len() {
                files.push(section.file);
            }
        }
        let size = file.metadata().map_or(0, |status| status.len());
        if size == 0 {
            return Ok(Brought::Not(
                "it was tried before, and cannot be indexed".into(),
            ));
        }
        let first = &stack.tars[0].path;
        let label = show(first);
        let how = mount::share(file, number as u32, |index, at| {
            mount::erofs(first.as_os_str().as_bytes(), index, &files, at)
        });
        drop(files);
        // Closes them: from here on none of this process's descriptors of what is held goes.
        let paths: Vec<PathBuf> = parts.into_iter().map(|part| part.path).collect();
        for path in paths
            .iter()
            .filter(|path| path.starts_with(store.join("cache")))
        {
            cache::hold(path);
        }
        Ok(match (how, made) {
            (Err(why), _) => Brought::Not(why.to_string()),
            (Ok(how), None) => Brought::Mounted(format!(
                "{label}: index of {size} bytes from the cache, {how}"
            )),
            (Ok(how), Some(made)) => {
                let index::Indexed {
                    members,
                    nodes,
                    size,
                } = made;
                let text = format!(
                    "{label}: {members} members, {nodes} nodes, index of {size} bytes made, {how}"
                );
                Brought::Mounted(text)
            }
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
        let Some(key) = key else {
            return mount(crate::plan::leak(format!("image{number}")));
        };
        let key = cache::make(&self.host.store, &key, || self.interrupted(), |_| Ok(()))?;
        mount::share(key, number as u32, |_, at| mount(at))
    }

    /// Opens what is needed to unpack the archives below `to`: a process with other ids may do so, but not open it.
    pub fn unpacking(&self, stack: &Stack, to: &Path, in_userns: bool) -> Result<Unpacking<'_>> {
        let target = to.as_os_str().as_bytes();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, target, flags, Mode::empty())
            .map_err(|errno| Error::sys("open", target, errno))?;
        let limit = free(to)?;
        let (mut room, mut room_name) = (limit, to.display().to_string());
        let mut sources = Vec::new();
        for tar in &stack.tars {
            let source = self.source(tar, open(&tar.path)?)?;
            if let Some(given) = self.limit.filter(|given| *given < limit)
                && (tar.compression.is_some() || tar.path == Path::new(STDIN))
            {
                (room, room_name) = (given, "the --image-limit".to_owned());
            }
            if source.sized && source.section.left > limit {
                return Err(short(source.section.left, limit, to));
            }
            sources.push((source, tar.clone(), self.digests(tar)));
        }
        Ok(Unpacking {
            root,
            sources,
            options: unpack::Options {
                in_userns,
                limit: room,
                limit_name: room_name,
                whiteouts: stack.whiteouts(),
            },
        })
    }

    /// The archive as a plain tar: itself, or inflated into the cache.
    fn plain(&self, tar: &Tar) -> Result<Part> {
        let file = open(&tar.path)?;
        let size = length(&file)?.saturating_sub(tar.offset);
        let part = Part {
            file,
            path: tar.path.clone(),
            offset: tar.offset,
            size: tar.size.unwrap_or(size),
        };
        if tar.compression.is_none() {
            return Ok(part);
        }
        let store = &self.host.store;
        let suffix = suffix_for("tar", std::slice::from_ref(tar));
        let name = cache::name(&[(&part.file, tar.offset, tar.size)], &suffix)?;
        let directory = cache::directory(store)?;
        let Some(name) = name else {
            let new = NewFile::create(&directory)?;
            self.inflate(tar, dup(&part.file)?, new.file(), &directory)?;
            return Ok(Part {
                size: length(new.file())?,
                path: new.path().to_owned(),
                offset: 0,
                file: dup(new.file())?,
            });
        };
        let file = match cache::get(store, &name)? {
            Some(file) => file,
            None => cache::make(
                store,
                &name,
                || self.interrupted(),
                |file| self.inflate(tar, dup(&part.file)?, file, &directory),
            )?,
        };
        Ok(Part {
            size: length(&file)?,
            path: directory.join(name),
            offset: 0,
            file,
        })
    }

    /// `file` is the archive's: opened again, its path could lead to another file than the one the entry is named after.
    fn inflate(&self, tar: &Tar, file: File, to: &File, directory: &Path) -> Result<()> {
        let name = tar.path.as_os_str().as_bytes();
        let free = free(directory)?;
        let mut source = self.source(tar, file)?;
        if source.sized && source.section.left > free {
            return Err(short(source.section.left, free, directory));
        }
        let limit = self.limit.unwrap_or(free / 2);
        let to = (to, directory.as_os_str().as_bytes());
        #[cfg(feature = "images")]
        digest::inflate_checked(&mut source, name, to, limit, self.digests(tar), false)?;
        #[cfg(not(feature = "images"))]
        inflate::inflate(&mut source, name, to, limit, &mut |_| {})?;
        Ok(())
    }

    /// Reads a plain tar whose digest is known.
    fn verify(&self, part: &Part, tar: &Tar) -> Result<()> {
        #[cfg(feature = "images")]
        if let (Some(digest), _) = self.digests(tar)
            && tar.compression.is_none()
        {
            let name = tar.path.as_os_str().as_bytes();
            digest::verify(&mut self.source(tar, dup(&part.file)?)?, name, digest)?;
        }
        let _ = (part, tar);
        Ok(())
    }

    /// What an archive's bytes, and the inflated ones, have to hash to; the store's own were verified when they came.
    fn digests(&self, tar: &Tar) -> Digests {
        match tar.path.starts_with(self.host.store.join("blobs")) {
            true => (None, None),
            false if tar.compression.is_none() => (tar.digest.or(tar.diff_id), None),
            false => (tar.digest, tar.diff_id),
        }
    }

    fn source(&self, tar: &Tar, file: File) -> Result<Source<'_>> {
        let length = length(&file)?;
        let left = tar.size.unwrap_or(length.saturating_sub(tar.offset));
        let sized = length > 0;
        Ok(Source {
            progress: Progress::new(
                tar.path.as_os_str().as_bytes(),
                sized.then_some(left),
                self.quiet,
            ),
            section: Section {
                file,
                offset: tar.offset,
                left,
            },
            sized,
            interrupts: self.interrupts,
        })
    }

    fn interrupted(&self) -> bool {
        self.interrupts
            .is_some_and(|interrupts| !wait_for(interrupts, None))
    }
}

/// As [`Layers::digests`].
type Digests = (Option<Sha256>, Option<Sha256>);

/// Archives about to be unpacked.
pub struct Unpacking<'a> {
    root: OwnedFd,
    sources: Vec<(Source<'a>, Tar, Digests)>,
    options: unpack::Options,
}

impl Unpacking<'_> {
    /// Unpacks them; returns a line about it.
    pub fn run(self) -> Result<String> {
        let mut unpacker = unpack::Unpacker::new(self.root.as_fd(), &self.options)?;
        for (mut source, tar, digests) in self.sources {
            let name = tar.path.as_os_str().as_bytes();
            #[cfg(feature = "images")]
            digest::checked(&mut source, name, digests, |source| {
                unpacker.layer(source, name)
            })?;
            #[cfg(not(feature = "images"))]
            unpacker.layer(&mut source, name)?;
            let _ = digests;
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
    }
}

impl Part {
    /// With the name that errors have for it.
    fn section(&self, name: &Path) -> Result<(Vec<u8>, Section)> {
        let name = name.as_os_str().as_bytes();
        let file = dup(&self.file)?;
        let (offset, left) = (self.offset, self.size);
        Ok((name.to_vec(), Section { file, offset, left }))
    }
}

/// An archive as it is read: it counts for the progress bar, and fails once a signal has come, so that Ctrl-C ends the
/// reading of a large or slow one.
struct Source<'a> {
    section: Section,
    /// Whether it is a file, of a known size.
    sized: bool,
    progress: Progress,
    interrupts: Option<&'a OwnedFd>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(interrupts) = self.interrupts
            && !wait_for(interrupts, Some(sys::borrow(self.section.file.as_raw_fd())))
        {
            return Err(std::io::Error::from_raw_os_error(
                Errno::CANCELED.raw_os_error(),
            ));
        }
        let count = match self.sized {
            true => self.section.read(buffer)?,
            false => self.section.file.read(buffer)?,
        };
        self.progress.add(count as u64);
        Ok(count)
    }
}

const STDIN: &str = "-";

/// `-` is standard input. O_NONBLOCK: opening a fifo must not wait for a writer where no signal ends the wait.
fn open(path: &Path) -> Result<File> {
    let name = path.as_os_str().as_bytes();
    let opened = match name == STDIN.as_bytes() {
        true => std::os::fd::AsFd::as_fd(&std::io::stdin())
            .try_clone_to_owned()
            .map(File::from),
        false => {
            let mut options = File::options();
            options.read(true).custom_flags(raw::O_NONBLOCK as i32);
            options.open(path)
        }
    };
    opened.map_err(|error| Error::io("open", name, error))
}

fn dup(file: &File) -> Result<File> {
    (file.try_clone()).map_err(|error| Error::io("dup", "image", error))
}

/// Bytes in a file; 0 if it is none.
fn length(file: &File) -> Result<u64> {
    let status = file
        .metadata()
        .map_err(|error| Error::io("fstat", "image", error))?;
    Ok(if status.is_file() { status.len() } else { 0 })
}

fn tar(path: &Path) -> Tar {
    Tar {
        path: path.to_owned(),
        offset: 0,
        size: None,
        compression: None,
        digest: None,
        diff_id: None,
    }
}

/// What an entry of the cache ends in: the digests that were verified when it was made are part of its name, so that the
/// same file is looked at again if others are wanted.
fn suffix_for(kind: &str, tars: &[Tar]) -> String {
    #[cfg(feature = "images")]
    {
        let digests = tars.iter().flat_map(|tar| [tar.digest, tar.diff_id]);
        let digests: Vec<u8> = digests.flatten().flatten().collect();
        if !digests.is_empty() {
            let hash = digest::hex(&digest::sha256(&digests));
            return format!("{}.{kind}", hash.get(..16).unwrap_or_default());
        }
    }
    let _ = tars;
    kind.to_owned()
}

/// An image that is one archive.
fn plain_tar(path: &Path) -> Image {
    Image {
        layers: vec![Layer::Tar(tar(path))],
        config: Config::default(),
    }
}

/// Bytes that a compressed archive may become in the store: half of what is free, unless given.
#[cfg(feature = "images")]
pub fn limit(spec: &Spec, store: &Path) -> Result<u64> {
    spec.image_limit.map_or_else(|| Ok(free(store)? / 2), Ok)
}

/// Bytes that can be written below a directory. What is in memory must also fit there.
fn free(directory: &Path) -> Result<u64> {
    // It may have to be made first.
    let there = directory.ancestors().find(|path| path.exists());
    let name = there.unwrap_or(directory).as_os_str().as_bytes();
    let space = statvfs(name).map_err(|errno| Error::sys("statvfs", name, errno))?;
    // A ramfs counts no blocks.
    let free = match space.f_blocks {
        0 => u64::MAX,
        _ => space.f_bavail.saturating_mul(space.f_frsize),
    };
    let kind = statfs(name)
        .map_err(|errno| Error::sys("statfs", name, errno))?
        .f_type as u32;
    match kind {
        0x0102_1994 | 0x8584_58f6 => Ok(free.min(available_memory())), // tmpfs, ramfs: linux/magic.h
        _ => Ok(free),
    }
}

/// Bytes of memory that can be had without swapping (proc(5), MemAvailable, Linux 3.14).
fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.map_or(u64::MAX, |number| number.saturating_mul(1024))
}

fn short(needed: u64, free: u64, directory: &Path) -> Error {
    let directory = show(directory);
    error!("needs {needed} bytes, only {free} free in {directory}")
}
