//! Finds out what a path is: a directory, a file system, a tar, or an archive of an image's layers.
//!
//! Formats are told by their first bytes (squashfs, EROFS, ext2 to ext4, tar, compressed tar; see file(1)), archives of
//! images also by the name of their first member. What is in them is read by `manifest`, with feature `images`.
//!
//! Invariant: for all but images this is one open, one fstat and one small pread; nothing is read twice, and the file's
//! offset does not move.
//!
//! Read [`open_file`], then [`members`]. Left out: partition tables, other file systems, images of other engines (ACI,
//! Singularity).

use std::ffi::CStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Result as Io};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use super::tar::{BLOCK, Item, Member, Parser};
use super::{Config, Image, Layer, Section, Tar, decompress};
#[cfg(feature = "images")]
use super::{blobs::Blobs, manifest};
use crate::error::{Error, Result, error, path as show};

/// Which image, if there are several.
#[derive(Clone, Copy, Default)]
#[cfg_attr(not(feature = "images"), allow(dead_code))]
pub struct Wanted<'a> {
    /// OS/ARCHITECTURE[/VARIANT] in Go's names; without it, this machine's.
    pub platform: Option<&'a str>,
    /// Its tag, name or digest; without it, there has to be only one.
    pub reference: Option<&'a str>,
}

pub enum Opened {
    Image(Image),
    /// A compressed archive of an image: it has to be inflated into a file, and that opened.
    Inflate(Tar),
    /// What cannot be read twice, such as a pipe: it has to be copied into a file (inflated, if it is compressed), and
    /// that opened; or it is taken for a tar.
    Stream,
}

/// As much of a file as is looked at. It holds a tar's first header, also behind two extension headers.
const START: usize = 4096;

#[cfg(test)]
pub fn open(path: &Path, wanted: &Wanted) -> Result<Opened> {
    let failed = |error| Error::io("open", path.as_os_str().as_bytes(), error);
    open_file(&File::open(path).map_err(failed)?, path, path, wanted)
}

/// Opens the image in a file or directory. `path` is how it can be opened again, `name` is what errors call it.
pub fn open_file(file: &File, path: &Path, name: &Path, wanted: &Wanted) -> Result<Opened> {
    let failed = |operation| move |error| Error::io(operation, bytes(name), error);
    let kind = file.metadata().map_err(failed("fstat"))?.file_type();
    if kind.is_dir() {
        let plain = Layer::Directory(path.into());
        return Ok(Opened::Image(
            image(None, path, name, wanted)?.unwrap_or(plain.into()),
        ));
    } else if !kind.is_file() && !kind.is_block_device() {
        return Ok(Opened::Stream);
    }
    let mut start = [0; START];
    let length = read_at(file, 0, &mut start).map_err(failed("read"))?;
    let start = &start[..length];
    let tar = Tar {
        path: path.into(),
        offset: 0,
        size: None,
        compression: decompress::detect(start),
        digest: None,
        diff_id: None,
    };
    if tar.compression.is_some() {
        // Only as much is inflated as tells the first member's name. What is damaged is found when it is unpacked.
        let mut section = Section {
            file: file.try_clone().map_err(failed("dup"))?,
            offset: 0,
            left: u64::MAX,
        };
        let mut plain = Vec::new();
        let source = decompress::open(&mut section, bytes(name))?;
        let _ = source.take(START as u64).read_to_end(&mut plain);
        return Ok(match first_member(&plain) {
            Some(member) if of_an_image(&member) => Opened::Inflate(tar),
            _ => Opened::Image(Layer::Tar(tar).into()),
        });
    }
    // A tar first: its data may look like a superblock, which lies behind a kilobyte of anything.
    let member = first_member(start);
    if member.as_deref().is_some_and(of_an_image)
        && let Some(image) = image(Some(file), path, name, wanted)?
    {
        return Ok(Opened::Image(image));
    }
    let layer = match filesystem(start) {
        Some(fstype) if member.is_none() => Layer::Filesystem {
            path: path.into(),
            fstype,
            device: kind.is_block_device(),
        },
        _ => Layer::Tar(tar),
    };
    Ok(Opened::Image(layer.into()))
}

impl From<Layer> for Image {
    /// An image of one layer that says nothing about itself.
    fn from(layer: Layer) -> Image {
        Image {
            layers: vec![layer],
            config: Config::default(),
        }
    }
}

/// `x.tar#NAME` as `x.tar` and NAME, a [`Wanted::reference`]; but a file may have just this name.
pub fn reference(path: &Path) -> (&Path, Option<&str>) {
    let text = path.to_str().filter(|_| !path.exists());
    let parts = text.and_then(|text| text.rsplit_once('#'));
    parts.map_or((path, None), |(path, name)| (Path::new(path), Some(name)))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// The type mount(2) wants, from the magic number in the superblock.
pub fn filesystem(start: &[u8]) -> Option<&'static CStr> {
    let at = |offset, magic: &[u8]| start.get(offset..).is_some_and(|s| s.starts_with(magic));
    match () {
        _ if at(0, b"hsqs") => Some(c"squashfs"),
        _ if at(1024, &0xe0f5_e1e2u32.to_le_bytes()) => Some(c"erofs"),
        // Also ext2 and ext3.
        _ if at(1080, &0xef53u16.to_le_bytes()) => Some(c"ext4"),
        _ => None,
    }
}

/// The name of the first member but "./", or an empty name if it lies farther behind; None if this is no tar.
fn first_member(start: &[u8]) -> Option<Vec<u8>> {
    let mut name = None;
    let read = |offset, buffer: &mut [u8]| {
        let rest = usize::try_from(offset).ok();
        let mut rest = rest.and_then(|at| start.get(at..)).unwrap_or(&[]);
        rest.read(buffer)
    };
    // It may well end too early.
    let _ = members(u64::MAX, &read, &mut |member, _| {
        let found = name.insert(relative(b"", &member.path));
        Ok(found.is_empty())
    });
    name
}

const FILES: [&[u8]; 5] = [
    b"blobs",
    b"oci-layout",
    b"index.json",
    b"manifest.json",
    b"repositories",
];

/// Whether only archives of images begin with a member of this name.
fn of_an_image(name: &[u8]) -> bool {
    let first = name.split(|&byte| byte == b'/').next().unwrap_or(name);
    let id = first.strip_suffix(b".tar").or(first.strip_suffix(b".json"));
    let id = id.unwrap_or(first);
    FILES.contains(&first) || id.len() == 64 && id.iter().all(u8::is_ascii_hexdigit)
}

/// Goes through the headers of an archive of `length` bytes. `read` reads at an offset until the buffer is full or the
/// archive ends. `visit` gets each member with the offset of its data, and says whether to go on.
pub fn members(
    length: u64,
    read: &dyn Fn(u64, &mut [u8]) -> Io<usize>,
    visit: &mut dyn FnMut(Member, u64) -> Result<bool>,
) -> Result<()> {
    let mut parser = Parser::default();
    let mut offset = 0u64;
    let fill = |offset, buffer: &mut [u8]| match read(offset, buffer) {
        Ok(length) if length == buffer.len() => Ok(true),
        Ok(0) => Ok(false),
        Ok(_) => Err(Error::from("it is truncated")),
        Err(error) => Err(error.to_string().into()),
    };
    loop {
        let mut block = [0; BLOCK];
        if !fill(offset, &mut block)? {
            return Ok(());
        }
        let wrong = |reason| error!("{reason} (header at byte {offset})");
        let item = parser.header(&block).map_err(wrong)?;
        let data = offset + BLOCK as u64;
        let stored = match item {
            Item::End => return Ok(()),
            Item::More => 0,
            Item::Extension { size } => {
                let mut text = vec![0; size];
                if size > 0 && !fill(data, &mut text)? {
                    return Err("it is truncated".into());
                }
                parser.extension(&text).map_err(wrong)?;
                size as u64
            }
            Item::Member(member) => {
                let stored = member.stored;
                if data.checked_add(stored).is_none_or(|end| end > length) {
                    return Err(wrong("it is truncated"));
                }
                if !visit(*member, data)? {
                    return Ok(());
                }
                stored
            }
        };
        let next = stored.checked_next_multiple_of(BLOCK as u64);
        let next = next.and_then(|padded| data.checked_add(padded));
        offset = next.ok_or("it is truncated")?;
    }
}

/// Fills the buffer, unless the file ends; returns how much there was.
pub fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> Io<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// A path seen from a directory, both within an archive: without "." and "..", relative to the archive's root.
pub fn relative(directory: &[u8], path: &[u8]) -> Vec<u8> {
    let whole = [directory, b"/", path].concat();
    let absolute = path.starts_with(b"/");
    let whole = if absolute { path } else { &whole };
    let mut components = Vec::new();
    for component in whole.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => _ = components.pop(),
            _ => components.push(component),
        }
    }
    components.join(&b'/')
}

/// The image whose files are in a directory or archive; None if there is none.
#[cfg(feature = "images")]
fn image(
    archive: Option<&File>,
    path: &Path,
    name: &Path,
    wanted: &Wanted,
) -> Result<Option<Image>> {
    let blobs = match archive {
        Some(file) => Ok(Blobs::archive(file, path)),
        None => Blobs::directory(path),
    };
    let image = blobs.and_then(|blobs| manifest::read(&blobs, wanted));
    image.map_err(|reason| wrong(name, &reason))
}

/// A build that does not read images says so: their files are no root file system.
#[cfg(not(feature = "images"))]
fn image(archive: Option<&File>, path: &Path, name: &Path, _: &Wanted) -> Result<Option<Image>> {
    let layout = ["oci-layout", "index.json"].map(|file| path.join(file).exists());
    let what = match archive {
        Some(_) => "archives of images",
        None if layout == [true; 2] => "OCI layouts",
        None => return Ok(None),
    };
    let reason = ["this build of mini cannot read ", what].concat();
    Err(wrong(name, &reason))
}

fn wrong(name: &Path, reason: &str) -> Error {
    error!("image({}): {reason}", show(name))
}

#[cfg(test)]
mod tests;
