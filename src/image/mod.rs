//! Images: what a container's root is made of.
//!
//! An [`Image`] is a stack of [`Layer`]s, the lowest first, and a [`Config`]: what the image says about how it wants to be
//! run. `archive` finds out what a path is; `tar` reads the format without doing any input or output, `acl` translates
//! one attribute of it; `reader` goes through an archive, `decompress` inflates it; `tree` and `index` make a file system
//! of tars without unpacking them, `mount` mounts it; `unpack` writes a directory tree instead; `remove` takes one away
//! again.

pub mod acl;
pub mod archive;
#[cfg(feature = "images")]
pub mod blobs;
#[cfg(feature = "images")]
pub mod changes;
#[cfg(any(feature = "gzip", feature = "xz"))]
mod crc;
pub mod decompress;
#[cfg(feature = "images")]
pub mod digest;
#[cfg(feature = "gzip")]
pub mod gzip;
pub mod index;
pub mod inflate;
#[cfg(feature = "images")]
pub mod manifest;
pub mod mount;
#[cfg(feature = "images")]
pub mod oci;
pub mod reader;
pub mod remove;
pub mod tar;
pub mod tree;
pub mod unpack;
#[cfg(any(feature = "zstd", feature = "xz"))]
mod watched;
#[cfg(feature = "images")]
pub mod write;
#[cfg(feature = "xz")]
pub mod xz;
#[cfg(feature = "zstd")]
pub mod zstd;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use decompress::Compression;
pub use reader::Section;

/// The layers of a root file system, the lowest first, and what the image says about itself.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub layers: Vec<Layer>,
    pub config: Config,
}

#[derive(Debug, Clone)]
pub enum Layer {
    Directory(PathBuf),
    /// A file system in a file or block device.
    Filesystem {
        path: PathBuf,
        /// As mount(2) has it: `squashfs`, `erofs`, `ext4`.
        fstype: &'static std::ffi::CStr,
        /// Whether it is a block device, which needs no loop device.
        device: bool,
    },
    Tar(Tar),
}

/// A tar archive: a file, or a part of one, as in an archive of layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tar {
    /// `-` is standard input.
    pub path: PathBuf,
    /// The first byte in the file.
    pub offset: u64,
    /// Bytes in the file; `None` to its end.
    pub size: Option<u64>,
    pub compression: Option<Compression>,
    /// What the bytes in the file have to hash to (an OCI descriptor's digest).
    pub digest: Option<Sha256>,
    /// What the inflated bytes have to hash to (an OCI configuration's diff_id).
    pub diff_id: Option<Sha256>,
}

/// Names, each with a number: the only kind of map here, as each kind is 3 KB of code.
pub type Names = BTreeMap<Vec<u8>, usize>;

/// SHA-256 (FIPS 180-4).
pub type Sha256 = [u8; 32];

/// What an image says about how to run it: the `config` of the OCI image specification. Empty for a plain tar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    pub entrypoint: Vec<Vec<u8>>,
    pub cmd: Vec<Vec<u8>>,
    /// In order; names and values.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Empty if it does not say.
    pub workdir: Vec<u8>,
    /// USER[:GROUP]; empty if it does not say.
    pub user: Vec<u8>,
    pub stop_signal: Vec<u8>,
    pub labels: Vec<(Vec<u8>, Vec<u8>)>,
    /// As in `80/tcp`.
    pub exposed_ports: Vec<Vec<u8>>,
    /// Directories in the container.
    pub volumes: Vec<Vec<u8>>,
    /// OS/ARCHITECTURE[/VARIANT] in Go's names, as in `linux/arm64/v8`; empty if it does not say.
    pub platform: String,
}
