//! Images under names: what `images`, `rmi` and `prune` work on, and what `run NAME` starts from. (`import` makes them.)
//!
//! flock(2), rename(2). In the store:
//!
//!     images/NAME        the record: what the image is made of, as text ("/" in a name is "%" here)
//!     blobs/sha256-HEX   contents, each once: a plain tar, a file system image, a configuration as OCI's JSON
//!
//!     mini image 1
//!     created 1795343460
//!     source "debian.tar.gz"
//!     config sha256:5f70bf18a0860070…       if the image says anything about itself
//!     layer sha256:9f86d081884c7d65… tar    from the lowest up; tar, squashfs, erofs or ext4
//!     end
//!
//! Both kinds of files appear whole or not at all (`cache::NewFile`), a blob on the disk before the record that names
//! it, so a name always stands for a whole image. A blob that no record names is garbage. Read [`Record`], [`resolve`],
//! [`remove`], `garbage`.
//!
//! Locks, all of which the kernel gives back when their holder dies, taken in this order:
//! - `images/`, shared: blobs may be without a record (an import), or be about to be opened (a start). Garbage is collected
//!   with an exclusive lock, and if that is not to be had, by the next command.
//! - `blobs/`, exclusive, for a moment: records are replaced, removed and looked through by one at a time.
//! - a record, shared: a container made of this image runs. Only who holds the one on `blobs/` tries an exclusive one.
//!
//! A record that is damaged takes nothing with it: it is listed, it can be removed, and until then no blob is.
//!
//! Left out: the number of users of an image (flock does not tell), a history of what a name stood for.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::FlockOperation;

use crate::cache::{self, Removed, flock, linked, sweep};
use crate::error::{Error, Result, error, path as show, quote};
use crate::image::digest::{hex, parse_digest};
use crate::image::oci::rfc3339;
use crate::image::{Image, Layer, Sha256, Tar, manifest};
use crate::progress::size as bytes;
use crate::store::{self, lock, make_private, names};

/// What a layer can be: a tar, or a file system as mount(2) calls it.
pub const KINDS: [&std::ffi::CStr; 4] = [c"tar", c"squashfs", c"erofs", c"ext4"];

/// What an image under a name is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// When it got its name, in seconds since 1970.
    pub created: u64,
    /// What it was made from, quoted.
    pub source: String,
    /// The blob with its configuration. An image that has one is made of layers: whiteouts mean something in it.
    pub config: Option<Sha256>,
    /// The blobs of the layers, the lowest first, and what they are: one of [`KINDS`].
    pub layers: Vec<(Sha256, &'static std::ffi::CStr)>,
}

impl Record {
    pub fn text(&self) -> String {
        let mut text = format!(
            "mini image 1\ncreated {}\nsource {}\n",
            self.created, self.source
        );
        if let Some(config) = &self.config {
            text.extend(["config sha256:", &hex(config), "\n"]);
        }
        for (digest, kind) in &self.layers {
            let kind = kind.to_str().unwrap_or_default();
            text.extend(["layer sha256:", &hex(digest), " ", kind, "\n"]);
        }
        text + "end\n"
    }

    /// `None` if it is not, to the byte, what [`Record::text`] writes.
    pub fn parse(text: &str) -> Option<Record> {
        let mut record = Record::default();
        for line in text.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("created", value) => record.created = value.parse().ok()?,
                ("source", value) => record.source = value.to_owned(),
                ("config", value) => record.config = Some(parse_digest(value)?),
                ("layer", value) => {
                    let (digest, kind) = value.split_once(' ')?;
                    let kind = KINDS
                        .into_iter()
                        .find(|known| known.to_bytes() == kind.as_bytes())?;
                    record.layers.push((parse_digest(digest)?, kind));
                }
                _ => {}
            }
        }
        (record.text() == text && !record.layers.is_empty()).then_some(record)
    }

    /// The names of the blobs of its layers, and of its configuration.
    fn blobs(&self) -> impl Iterator<Item = String> {
        let layers = self.layers.iter().map(|(digest, _)| digest);
        layers.chain(&self.config).map(blob)
    }
}

/// The name of a blob.
pub fn blob(digest: &Sha256) -> String {
    format!("sha256-{}", hex(digest))
}

/// Checks an image's name: at most 200 bytes of letters, digits, and `. _ - / : @`; it begins with a letter or digit, as
/// does what stands behind each "/", and has no "..", so that it never looks like a path or an option.
pub fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    let begins = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric());
    let fits = name.len() <= 200 && !name.contains("..");
    if fits && name.bytes().all(good) && name.split('/').all(begins) {
        return Ok(());
    }
    let name = quote(name.as_bytes());
    let error = error!("{name}: not a name for an image");
    Err(error.hint(
        "1 to 200 letters, digits, \".\", \"_\", \"-\", \":\", \"@\", \"/\", as in debian:12",
    ))
}

/// What the record's file is called.
pub fn file_name(name: &str) -> String {
    name.replace('/', "%")
}

fn record_path(store: &Path, name: &str) -> PathBuf {
    store.join("images").join(file_name(name))
}

/// The directories of records and blobs, made if they are not there; they have to be this user's own.
pub fn directories(store: &Path) -> Result<[PathBuf; 2]> {
    let directories = [store.join("images"), store.join("blobs")];
    make_private(store)?;
    make_private(&directories[0])?;
    make_private(&directories[1])?;
    Ok(directories)
}

/// Locks one of them.
pub fn hold(directory: &Path, operation: FlockOperation) -> Result<OwnedFd> {
    lock(directory, operation)
        .map_err(|errno| Error::sys("flock", directory.as_os_str().as_bytes(), errno))
}

/// An image of the store that is in use as long as this lives.
pub struct Stored {
    pub image: Image,
    _record: File,
    opening: Option<OwnedFd>,
}

impl Stored {
    /// To be called when all its blobs have been opened or mounted: until then no garbage is collected, as the name may
    /// by now stand for another image.
    pub fn opened(&mut self) {
        self.opening = None;
    }
}

/// The image of this name. The layers are plain tars and file systems in files, whose digests need not be verified.
/// Tars have a `diff_id` if the image was made of layers, in which whiteouts mean something, and none if it was a tar of
/// a root file system.
pub fn resolve(store: &Path, name: &str) -> Result<Option<Stored>> {
    if check_name(name).is_err() || !store.join("images").exists() {
        return Ok(None);
    }
    let [images, blobs] = directories(store)?;
    let opening = Some(hold(&images, FlockOperation::LockShared)?);
    let path = record_path(store, name);
    let file = loop {
        let Some(file) = open(&path)? else {
            return Ok(None);
        };
        flock(&file, FlockOperation::LockShared)
            .map_err(|errno| Error::sys("flock", path.as_os_str().as_bytes(), errno))?;
        if linked(&file, &path) {
            break file;
        }
    };
    let record = read(&file).ok_or_else(|| {
        let error = error!(
            "image {}: {} is damaged",
            quote(name.as_bytes()),
            show(&path)
        );
        error.hint(&format!("mini rmi {name} removes it"))
    })?;
    let mut image = Image::default();
    if let Some(config) = &record.config {
        let path = blobs.join(blob(config));
        let failed =
            |what: &str| error!("image {}: {}: {what}", quote(name.as_bytes()), show(&path));
        let text = std::fs::read(&path)
            .map_err(|error| Error::io("read", path.as_os_str().as_bytes(), error))?;
        image.config = manifest::config(&text)
            .map_err(|what| failed(&what))?
            .config;
    }
    for (digest, fstype) in record.layers {
        let path = blobs.join(blob(&digest));
        image.layers.push(match fstype == KINDS[0] {
            true => Layer::Tar(Tar {
                path,
                offset: 0,
                size: None,
                compression: None,
                digest: None,
                diff_id: record.config.map(|_| digest),
            }),
            false => Layer::Filesystem {
                path,
                fstype,
                device: false,
            },
        });
    }
    Ok(Some(Stored {
        image,
        _record: file,
        opening,
    }))
}

/// The file of the record that a path given as ROOTFS stands for, if it is a name and no file.
pub fn record(store: &Path, path: &Path) -> Option<PathBuf> {
    let name = path.to_str().filter(|name| check_name(name).is_ok())?;
    let record = store.join("images").join(file_name(name));
    (!path.exists() && record.exists()).then_some(record)
}

fn open(record: &Path) -> Result<Option<File>> {
    match File::open(record) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", record.as_os_str().as_bytes(), error)),
    }
}

/// `None` if it is damaged.
fn read(mut record: &File) -> Option<Record> {
    let mut text = String::new();
    record.read_to_string(&mut text).ok()?;
    Record::parse(&text)
}

/// All names, sorted, and what they stand for.
fn records(store: &Path) -> Vec<(String, Option<Record>)> {
    let mut records = Vec::new();
    for name in names(&store.join("images")) {
        let name = name.replace('%', "/");
        if check_name(&name).is_ok() {
            let record = open(&record_path(store, &name)).ok().flatten();
            let record = record.and_then(|record| read(&record));
            records.push((name, record));
        }
    }
    records
}

/// Whether a container of this image runs; if not, none will until the file is closed.
fn in_use(record: &File) -> bool {
    flock(record, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// The id of a kept container that was made of this image.
fn kept_by(store: &Path, name: &str) -> Option<String> {
    let kept = store.join("kept");
    names(&kept).into_iter().find(|id| {
        let text = std::fs::read(kept.join(id).join("record")).unwrap_or_default();
        let mut lines = text.split(|byte| *byte == b'\n');
        lines.any(|line| line.strip_prefix(b"image ") == Some(name.as_bytes()))
    })
}

/// A line of what `mini images` prints; sizes in bytes.
#[derive(Debug)]
pub struct Row {
    pub name: String,
    /// `tar`, `squashfs`, `erofs`, `ext4`; `oci` if it has layers or a configuration; `damaged`.
    pub kind: &'static str,
    /// Of the layers.
    pub size: u64,
    /// On the disk.
    pub disk: u64,
    /// How much of that is other images', too.
    pub shared: u64,
    /// Seconds since 1970.
    pub created: u64,
    pub in_use: bool,
}

/// All images, sorted by name.
pub fn list(store: &Path) -> Result<Vec<Row>> {
    if !store.join("images").exists() {
        return Ok(Vec::new());
    }
    let [_, blobs] = directories(store)?;
    let _change = hold(&blobs, FlockOperation::LockExclusive)?;
    let records = records(store);
    let mut all = Vec::new();
    for (_, record) in &records {
        all.extend(record.as_ref().map(unique).unwrap_or_default());
    }
    let row = |(name, record): &(String, Option<Record>)| {
        let file = open(&record_path(store, name)).ok().flatten();
        let mut row = Row {
            name: name.clone(),
            kind: "damaged",
            size: 0,
            disk: 0,
            shared: 0,
            created: 0,
            in_use: file.is_some_and(|file| in_use(&file)),
        };
        let Some(record) = record else {
            return row;
        };
        row.created = record.created;
        row.kind = match record.layers.as_slice() {
            [(_, kind)] if record.config.is_none() => kind.to_str().unwrap_or_default(),
            _ => "oci",
        };
        let status = |blob: &String| std::fs::metadata(blobs.join(blob)).ok();
        for (digest, _) in &record.layers {
            row.size += status(&blob(digest)).map_or(0, |status| status.size());
        }
        for blob in unique(record) {
            let disk = status(&blob).map_or(0, |status| status.blocks() * 512);
            row.disk += disk;
            if all.iter().filter(|other| **other == blob).count() > 1 {
                row.shared += disk;
            }
        }
        row
    };
    Ok(records.iter().map(row).collect())
}

/// The blobs of an image, each once.
fn unique(record: &Record) -> Vec<String> {
    let mut blobs: Vec<String> = record.blobs().collect();
    blobs.sort();
    blobs.dedup();
    blobs
}

/// The rows as `mini images` prints them.
pub fn table(rows: &[Row]) -> String {
    let heads = ["NAME", "KIND", "SIZE", "DISK USED", "CREATED", "IN USE"];
    let mut lines = vec![heads.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let (disk, shared) = (bytes(row.disk), bytes(row.shared));
        let [size, disk, created] = match (row.kind, row.shared) {
            ("damaged", _) => ["-"; 3].map(str::to_owned),
            (_, 0) => [bytes(row.size), disk, date(row.created)],
            _ => [
                bytes(row.size),
                format!("{disk}, {shared} shared"),
                date(row.created),
            ],
        };
        let used = if row.in_use { "yes" } else { "no" };
        [
            row.name.clone(),
            row.kind.to_owned(),
            size,
            disk,
            created,
            used.to_owned(),
        ]
    }));
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// A time in seconds since 1970 as `2026-11-22 10:31`, UTC.
pub fn date(seconds: u64) -> String {
    rfc3339(seconds)
        .chars()
        .take(16)
        .collect::<String>()
        .replace('T', " ")
}

/// Removes a name, and then what no other needs. An image of which a container runs or was kept is only removed with
/// `force`; what runs goes on.
pub fn remove(store: &Path, name: &str, force: bool) -> Result<()> {
    check_name(name)?;
    let failed = |what: &str| error!("image {}: {what}", quote(name.as_bytes()));
    if !store.join("images").exists() {
        return Err(failed("there is none of this name").hint("mini images lists them"));
    }
    let [images, blobs] = directories(store)?;
    let change = hold(&blobs, FlockOperation::LockExclusive)?;
    let path = record_path(store, name);
    let Some(record) = open(&path)? else {
        return Err(failed("there is none of this name").hint("mini images lists them"));
    };
    if in_use(&record) && !force {
        return Err(
            failed("a container of it is running").hint("--force removes the name all the same")
        );
    }
    if let Some(id) = kept_by(store, name).filter(|_| !force) {
        let error = failed(&format!("the kept container {id} needs it"));
        return Err(error.hint("--force removes it all the same"));
    }
    std::fs::remove_file(&path)
        .map_err(|error| Error::io("unlink", path.as_os_str().as_bytes(), error))?;
    cache::sync(&images)?;
    drop(change);
    collect(store)
}

/// Removes what a killed import has left and blobs that no image needs. Cheap if there are none.
pub fn collect(store: &Path) -> Result<()> {
    cache::clean(store)?;
    garbage(store, &[], false).map(drop)
}

/// The same; only looks if `dry`, as if the images of these names were gone.
fn garbage(store: &Path, gone: &[String], dry: bool) -> Result<Vec<Removed>> {
    if !store.join("images").exists() {
        return Ok(Vec::new());
    }
    let [images, blobs] = directories(store)?;
    let Ok(_alone) = lock(&images, FlockOperation::NonBlockingLockExclusive) else {
        return Ok(Vec::new());
    };
    let _change = hold(&blobs, FlockOperation::LockExclusive)?;
    let mut removed = sweep(&images, dry);
    removed.extend(sweep(&blobs, dry));
    let mut needed = Vec::new();
    for (name, record) in records(store) {
        match record {
            _ if gone.contains(&name) => {}
            Some(record) => needed.extend(record.blobs()),
            None => return Ok(removed),
        }
    }
    let unneeded = |name: &String| name.starts_with("sha256-") && !needed.contains(name);
    for name in names(&blobs).into_iter().filter(unneeded) {
        removed.extend(cache::remove(&blobs.join(name), dry, |_| true));
    }
    Ok(removed)
}

/// Removes blobs that no image needs, the cache as far as it is not in use, and what the dead have left; with `all` also
/// images of which no container runs or was kept; what is damaged is `mini rmi`'s. Returns a line for each, and their
/// sum; with `dry` without doing it.
pub fn prune(store: &Path, run: &Path, all: bool, dry: bool) -> Result<String> {
    let mut gone = Vec::new();
    let mut removed = Vec::new();
    if all && store.join("images").exists() {
        let [images, blobs] = directories(store)?;
        let _change = hold(&blobs, FlockOperation::LockExclusive)?;
        for (name, record) in records(store) {
            if record.is_none() {
                continue;
            }
            let free = |record: &File| !in_use(record) && kept_by(store, &name).is_none();
            if let Some(record) = cache::remove(&record_path(store, &name), dry, free) {
                removed.push(record);
                gone.push(name);
            }
        }
        if !dry {
            cache::sync(&images)?;
        }
    }
    removed.extend(garbage(store, &gone, dry)?);
    removed.extend(cache::empty(store, dry)?);
    for (base, name) in [(run, "running"), (store, "containers")] {
        for (path, _lock) in store::dead(base, name)? {
            let disk = disk_used(&path);
            if !dry {
                store::remove(&path);
            }
            removed.push(Removed { path, disk });
        }
    }
    let (remove, free) = match dry {
        true => ("would remove", "would free"),
        false => ("removed", "freed"),
    };
    let mut text = String::new();
    for item in &removed {
        text.push_str(&format!(
            "{remove} {} {}\n",
            show(&item.path),
            bytes(item.disk)
        ));
    }
    let sum = removed.iter().map(|item| item.disk).sum();
    Ok(text + &format!("{free} {}\n", bytes(sum)))
}

/// Bytes of disk that a tree takes, as far as it can be read.
fn disk_used(top: &Path) -> u64 {
    let (mut sum, mut paths) = (0, vec![top.to_owned()]);
    while let Some(path) = paths.pop() {
        let Ok(status) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        sum += status.blocks() * 512;
        if status.is_dir() {
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                paths.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, remove_dir_all, write};

    /// A store with one image `a/b:1` of two layers and a configuration, and a blob that nobody needs.
    fn store(name: &str) -> PathBuf {
        let store = std::env::temp_dir().join(format!("mini-images-{name}-{}", std::process::id()));
        let _ = remove_dir_all(&store);
        let [_, blobs] = directories(&store).unwrap();
        for digest in [[1; 32], [2; 32], [4; 32]] {
            write(blobs.join(blob(&digest)), [digest[0]; 5000]).unwrap();
        }
        write(
            blobs.join(blob(&[3; 32])),
            r#"{"config":{"User":"me"},"rootfs":{"diff_ids":[]}}"#,
        )
        .unwrap();
        write(record_path(&store, "a/b:1"), record().text()).unwrap();
        store
    }

    fn record() -> Record {
        Record {
            created: 1_795_343_460,
            source: "\"x.tar\"".into(),
            config: Some([3; 32]),
            layers: vec![([1; 32], KINDS[1]), ([2; 32], KINDS[0])],
        }
    }

    #[test]
    fn a_record_is_read_back_and_nothing_else_is() {
        let text = record().text();
        assert_eq!(Record::parse(&text), Some(record()));
        let lines: Vec<&str> = text.lines().collect();
        for skipped in 0..lines.len() {
            // Without a layer or the configuration it is another image.
            let mut rest = lines.clone();
            rest.remove(skipped);
            let rest = rest.join("\n") + "\n";
            assert_eq!(
                Record::parse(&rest).is_some(),
                [3, 4, 5].contains(&skipped),
                "{rest}"
            );
        }
        for length in 0..text.len() {
            assert_eq!(Record::parse(&text[..length]), None);
        }
        for (old, new) in [
            ("tar\n", "zip\n"),
            ("end", "end\n"),
            ("0303", "030G"),
            ("created 1", "created +1"),
            ("sha256:", "sha256:../"),
        ] {
            assert_eq!(Record::parse(&text.replace(old, new)), None, "{new}");
        }
    }

    #[test]
    fn a_name_looks_like_no_path_and_no_option() {
        let long = "a".repeat(200);
        for name in [
            "debian:12",
            "docker.io/library/busybox",
            "a@sha256:00",
            "0",
            &long,
        ] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            ".",
            "a..b",
            "-a",
            ".new-1",
            "/a",
            "a/",
            "a//b",
            "a/.b",
            "a b",
            "a%b",
            "ä",
            "a\n",
            &(long.clone() + "a"),
        ] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.contains("not a name for an image"), "{error}");
        }
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_735_689_599, "2024-12-31 23:59"),
            (1_795_343_460, "2026-11-22 10:31"),
            (u64::MAX, "9999-12-31 23:59"),
        ] {
            assert_eq!(date(seconds), text);
        }
        for (count, text) in [
            (0, "0 B"),
            (7, "7 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_999, "9.9 kB"),
            (121_000_000, "121 MB"),
            (u64::MAX, "1.8 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn an_image_is_resolved_listed_and_removed() {
        let store = store("life");
        assert!(resolve(&store, "a/b:2").unwrap().is_none());
        assert!(resolve(&store, "../images/a").unwrap().is_none());
        let mut stored = resolve(&store, "a/b:1").unwrap().unwrap();
        assert_eq!(stored.image.config.user, b"me");
        assert!(
            matches!(&stored.image.layers[0], Layer::Filesystem { fstype, .. } if *fstype == c"squashfs")
        );
        assert!(matches!(&stored.image.layers[1], Layer::Tar(tar) if tar.diff_id == Some([2; 32])));
        // Nothing is collected until its blobs are open.
        collect(&store).unwrap();
        assert_eq!(names(&store.join("blobs")).len(), 4);
        stored.opened();
        collect(&store).unwrap();
        assert_eq!(names(&store.join("blobs")).len(), 3);
        write(record_path(&store, "c"), record().text()).unwrap();
        let rows = list(&store).unwrap();
        assert_eq!(
            (rows[0].size, rows[0].kind, rows[0].in_use, rows[1].in_use),
            (10000, "oci", true, false)
        );
        assert_eq!(
            table(&rows),
            "NAME   KIND  SIZE   DISK USED            CREATED           IN USE\n\
             a/b:1  oci   10 kB  20 kB, 20 kB shared  2026-11-22 10:31  yes\n\
             c      oci   10 kB  20 kB, 20 kB shared  2026-11-22 10:31  no\n"
        );
        let error = remove(&store, "a/b:1", false).unwrap_err().to_string();
        assert_eq!(
            error,
            "image \"a/b:1\": a container of it is running (--force removes the name all the same)"
        );
        create_dir_all(store.join("kept/0123")).unwrap();
        write(store.join("kept/0123/record"), "command x\nimage c\n").unwrap();
        let error = remove(&store, "c", false).unwrap_err().to_string();
        assert_eq!(
            error,
            "image \"c\": the kept container 0123 needs it (--force removes it all the same)"
        );
        remove(&store, "a/b:1", true).unwrap();
        assert_eq!(names(&store.join("blobs")).len(), 3);
        remove(&store, "c", true).unwrap();
        assert!(names(&store.join("blobs")).is_empty());
        assert!(remove(&store, "c", true).is_err());
        remove_dir_all(store).unwrap();
    }

    #[test]
    fn a_damaged_record_takes_nothing_with_it() {
        let store = store("damaged");
        write(record_path(&store, "bad"), "mini image 2\n").unwrap();
        write(store.join("blobs/.new-1-1"), "").unwrap();
        collect(&store).unwrap();
        assert_eq!(names(&store.join("blobs")).len(), 4);
        assert!(
            table(&list(&store).unwrap())
                .contains("\nbad    damaged  -      -          -                 no\n")
        );
        let error = resolve(&store, "bad").err().unwrap().to_string();
        assert!(
            error.ends_with("images/bad\" is damaged (mini rmi bad removes it)"),
            "{error}"
        );
        remove(&store, "bad", false).unwrap();
        assert_eq!(names(&store.join("blobs")).len(), 3);
        remove_dir_all(store).unwrap();
    }

    #[test]
    fn pruning_says_what_it_does_and_does_what_it_says() {
        let store = store("prune");
        let run = store.join("run");
        create_dir_all(run.join("running/0123456789ab/x")).unwrap();
        let before = |dry| prune(&store, &run, true, dry).unwrap();
        let would = before(true);
        assert_eq!(names(&store.join("blobs")).len(), 4);
        let did = before(false);
        assert_eq!(
            would
                .replace("would remove", "removed")
                .replace("would free", "freed"),
            did
        );
        assert_eq!(did.lines().count(), 1 + 4 + 1 + 1, "{did}");
        assert!(names(&store.join("blobs")).is_empty() && names(&run.join("running")).is_empty());
        assert_eq!(before(false), "freed 0 B\n");
        remove_dir_all(store).unwrap();
    }
}
