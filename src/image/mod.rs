//! Images: from an archive to a directory tree.
//!
//! `tar` reads the format without doing any input or output, `acl` translates one attribute of it, `decompress`
//! tells compressed archives by their first bytes, `unpack` writes the tree, `remove` takes one away again.

pub mod acl;
pub mod decompress;
#[cfg(feature = "gzip")]
pub mod gzip;
pub mod remove;
pub mod tar;
pub mod unpack;
