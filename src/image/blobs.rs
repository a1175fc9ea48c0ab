//! The files of an image that is a directory or an uncompressed tar: looked up by name, read where they are.
//!
//! Mechanism: in a directory openat2(2) below it (`container::resolve`); in a tar the headers are read once, the data
//! skipped, and a file is then a part of the archive. So the layers are never copied.
//!
//! Invariants: a name never leads outside the directory or archive, whatever "..", symlinks and hard links say; memory is
//! bounded by [`MEMORY`] and [`DOCUMENT`].

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use container::resolve;

use super::archive::{members, read_at, relative};
use super::reader::show;
use super::tar::{Kind, Member};
use super::{Sha256, Tar, decompress};
use crate::error::{Error, error, reason};

/// The largest document in JSON, in bytes. Registries accept manifests of 4 MiB.
const DOCUMENT: u64 = 4 << 20;

/// Bytes of memory for the names in an archive. An image of 500 layers has 2,000, of about 80 bytes.
const MEMORY: usize = 16 << 20;

/// As many links in a row as are followed; real archives have one.
const LINKS: usize = 8;

type Outcome<T> = crate::error::Result<T>;

pub enum Blobs<'a> {
    Directory(OwnedFd),
    Archive {
        file: &'a File,
        path: &'a Path,
        members: Vec<(Vec<u8>, What)>,
        /// Why there may be more members than these.
        damage: Option<Error>,
    },
}

/// What is known of a member.
pub enum What {
    File { offset: u64, size: u64 },
    Link(Vec<u8>),
}

/// A file, or a part of one.
pub struct Blob {
    file: File,
    path: PathBuf,
    offset: u64,
    /// Bytes.
    pub size: u64,
}

impl<'a> Blobs<'a> {
    pub fn directory(path: &Path) -> Outcome<Blobs<'a>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, path.as_os_str().as_bytes(), flags, Mode::empty()) {
            Ok(directory) => Ok(Blobs::Directory(directory)),
            Err(errno) => Err(reason(errno).into()),
        }
    }

    /// Reads the headers of the archive in `file`, which can be opened again at `path`.
    pub fn archive(file: &'a File, path: &'a Path) -> Blobs<'a> {
        let mut found = Vec::new();
        let mut memory = MEMORY;
        let read = |offset, buffer: &mut [u8]| read_at(file, offset, buffer);
        let mut visit = |member: Member, offset| {
            let name = relative(b"", &member.path);
            let size = member.size;
            let what = match member.kind {
                Kind::File if member.sparse.is_none() => What::File { offset, size },
                Kind::HardLink => What::Link(relative(b"", &member.link)),
                Kind::Symlink => What::Link(relative(&[&name, &b"/.."[..]].concat(), &member.link)),
                _ => return Ok(true),
            };
            let kept = name.len() + member.link.len() + size_of::<(Vec<u8>, What)>();
            let left = memory.checked_sub(kept);
            memory = left.ok_or("it has more members than an image has")?;
            found.push((name, what));
            Ok(true)
        };
        // A block device has no size of its own.
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let length = if length == 0 { u64::MAX } else { length };
        let damage = members(length, &read, &mut visit).err();
        Blobs::Archive {
            file,
            path,
            members: found,
            damage,
        }
    }

    /// Why something may be missing.
    pub fn damage(&self) -> Option<&str> {
        match self {
            Blobs::Directory(..) => None,
            Blobs::Archive { damage, .. } => damage.as_deref(),
        }
    }

    /// The file of this name; None if there is none.
    pub fn find(&self, name: &[u8]) -> Outcome<Option<Blob>> {
        let because = |errno| format!("{}: {}", show(name), reason(errno));
        let failed = |error: std::io::Error| format!("{}: {error}", show(name));
        match self {
            Blobs::Directory(directory) => {
                // O_PATH: it may be a fifo that nobody writes to.
                let found = match resolve::open(directory.as_fd(), name, OFlags::PATH) {
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                    result => result.map_err(because)?,
                };
                // The path where the symlinks led: who opens it again must not be led elsewhere.
                let link = format!("/proc/self/fd/{}", found.as_raw_fd());
                let path = std::fs::read_link(&link).map_err(failed)?;
                let metadata = std::fs::metadata(&link).map_err(failed)?;
                if !metadata.is_file() {
                    return Err(error!("{}: not a regular file", show(name)));
                }
                Ok(Some(Blob {
                    file: File::open(&link).map_err(failed)?,
                    path,
                    offset: 0,
                    size: metadata.len(),
                }))
            }
            Blobs::Archive {
                file,
                path,
                members,
                ..
            } => {
                let mut name = relative(b"", name);
                for _ in 0..LINKS {
                    // Of several members of one name the last one counts, as if they were unpacked.
                    let last = members.iter().rev().find(|(known, _)| *known == name);
                    match last.map(|(_, what)| what) {
                        None => return Ok(None),
                        Some(What::Link(target)) => name.clone_from(target),
                        Some(&What::File { offset, size }) => {
                            let (file, path) = (file.try_clone().map_err(failed)?, path.into());
                            return Ok(Some(Blob {
                                file,
                                path,
                                offset,
                                size,
                            }));
                        }
                    }
                }
                Err(error!("{}: {}", show(&name), reason(Errno::LOOP)))
            }
        }
    }
}

impl Blob {
    /// All of it.
    pub fn read(&self) -> Outcome<Vec<u8>> {
        if self.size > DOCUMENT {
            return Err("larger than 4 MiB".into());
        }
        let mut text = vec![0; self.size as usize];
        match read_at(&self.file, self.offset, &mut text) {
            Ok(length) if length == text.len() => Ok(text),
            Ok(_) => Err("it is truncated".into()),
            Err(error) => Err(error.to_string().into()),
        }
    }

    /// It as a layer. Its compression is told by its first bytes: manifests of docker-save do not say, others lie.
    pub fn layer(self, digest: Option<Sha256>, diff_id: Sha256) -> Outcome<Tar> {
        let mut start = [0; 8];
        let most = self.size.min(8) as usize;
        let length = read_at(&self.file, self.offset, &mut start[..most]);
        let length = length.map_err(|error| error.to_string())?;
        Ok(Tar {
            path: self.path,
            offset: self.offset,
            size: Some(self.size),
            compression: decompress::detect(&start[..length]),
            digest,
            diff_id: Some(diff_id),
        })
    }
}
