//! Images under names: what `images`, `rmi` and `prune` work on, and what `run NAME` starts from. (`import` makes them.)
//!
//! flock(2), rename(2). In the store:
//!
//!     images/NAME        the record: what the image is made of, as text ("/" in a name is "%" here)
//!     blobs/sha256-HEX   contents, each once: a plain tar, a file system image, a configuration as OCI's JSON
//!
//!     mini image 1
//!     created 1795343460
//!     config sha256:5f70bf18a0860070…       if the image says anything about itself
//!     layer sha256:9f86d081884c7d65… tar    from the lowest up; tar, squashfs, erofs or ext4
//!     end
//!
//! Both kinds of files appear whole or not at all (`store::NewFile`), a blob on the disk before the record that names
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

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fd::AsFd;
use rustix::fs::FlockOperation;

use crate::cache;
use crate::error::{Error, Result, error, path as show, quote};
use crate::image::digest::{hex, parse_digest};
use crate::image::remove::for_each_entry;
use crate::image::{Image, Layer, Sha256, Tar, manifest};
use crate::layers::Held;
use crate::output::rfc3339;
use crate::progress::size as bytes;
use crate::store::{
    self, Removal, existing, flock, io, linked, lock, names, open_directory, private, sync,
};

/// What a layer can be: a tar, or a file system as mount(2) calls it.
pub const KINDS: [&CStr; 4] = [c"tar", c"squashfs", c"erofs", c"ext4"];

/// What an image under a name is made of.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When it got its name, in seconds since 1970.
    pub created: u64,
    /// The blob with its configuration. An image that has one is made of layers: whiteouts mean something in it.
    pub config: Option<Sha256>,
    /// The blobs of the layers, the lowest first, and what they are: one of [`KINDS`].
    pub layers: Vec<(Sha256, &'static CStr)>,
}

impl Record {
    pub fn text(&self) -> String {
        let mut text = format!("mini image 1\ncreated {}\n", self.created);
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
        for line in text.split('\n') {
            let mut words = line.split(' ');
            match (words.next()?, words.next(), words.next()) {
                ("created", Some(time), None) => record.created = time.parse().ok()?,
                ("config", Some(digest), None) => record.config = Some(parse_digest(digest)?),
                ("layer", Some(digest), Some(kind)) => {
                    let mut kinds = KINDS.into_iter();
                    let kind = kinds.find(|known| known.to_bytes() == kind.as_bytes())?;
                    record.layers.push((parse_digest(digest)?, kind));
                }
                _ => {}
            }
        }
        (record.text() == text && !record.layers.is_empty()).then_some(record)
    }

    /// The blobs of its layers, and of its configuration, each once.
    fn blobs(&self) -> Vec<Sha256> {
        let mut blobs = Vec::new();
        blobs.extend(self.config);
        for (digest, _) in &self.layers {
            if !blobs.contains(digest) {
                blobs.push(*digest);
            }
        }
        blobs
    }
}

/// The name of a blob.
pub fn blob(digest: &Sha256) -> String {
    ["sha256-", &hex(digest)].concat()
}

/// The digest in the name of a blob.
pub fn digest(blob: &str) -> Option<Sha256> {
    parse_digest(&["sha256:", blob.strip_prefix("sha256-")?].concat())
}

/// Checks an image's name: at most 200 bytes of letters, digits, and `. _ - / : @`; it begins with a letter or digit, as
/// does what stands behind each "/", and has no "..", so that it never looks like a path or an option.
pub fn check_name(name: &str) -> Result<()> {
    let (mut good, mut last) = (name.len() <= 200, b'/');
    for byte in name.bytes() {
        good &= match byte {
            b'.' => last != b'/' && last != b'.',
            b'_' | b'-' | b'/' | b':' | b'@' => last != b'/',
            _ => byte.is_ascii_alphanumeric(),
        };
        last = byte;
    }
    if good && last != b'/' {
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

/// The directories of records and blobs, made if they are not there; they have to be this user's own.
pub fn directories(store: &Path) -> Result<[PathBuf; 2]> {
    Ok([private(store, "images")?, private(store, "blobs")?])
}

/// The same, if they are there.
fn there(store: &Path) -> Result<Option<[PathBuf; 2]>> {
    match existing(store, "images")? {
        Some(_) => directories(store).map(Some),
        None => Ok(None),
    }
}

/// The image of this name, if there is one, in use as long as [`Held`] lives. The layers are plain tars and file systems
/// in files, whose digests need not be verified. Tars have a `diff_id` if the image was made of layers, in which
/// whiteouts mean something, and none if it was a tar of a root file system.
pub fn resolve(store: &Path, name: &str) -> Result<Option<(Image, Held)>> {
    let Some([images, blobs]) = there(store)? else {
        return Ok(None);
    };
    let opening = lock(&images, FlockOperation::LockShared)?;
    let path = images.join(file_name(name));
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
    let failed = |path: &Path, what: &str| {
        let (name, path) = (quote(name.as_bytes()), show(path));
        error!("image {name}: {path}{what}")
    };
    let Some(record) = read(&file) else {
        let hint = ["mini rmi ", name, " removes it"].concat();
        return Err(failed(&path, " is damaged").hint(&hint));
    };
    let mut image = Image::default();
    if let Some(config) = &record.config {
        let path = blobs.join(blob(config));
        let text = std::fs::read(&path).map_err(|error| io("read", &path, error))?;
        image.config = manifest::config(&text)
            .map_err(|what| failed(&path, &[": ", &what].concat()))?
            .config;
    }
    for (digest, fstype) in record.layers {
        let path = blobs.join(blob(&digest));
        image.layers.push(match fstype == KINDS[0] {
            true => Layer::Tar(Tar {
                path,
                diff_id: record.config.map(|_| digest),
                ..Tar::default()
            }),
            false => Layer::Filesystem {
                path,
                fstype,
                device: false,
            },
        });
    }
    let held = Held {
        _record: Some(file),
        opening: Some(opening),
    };
    Ok(Some((image, held)))
}

/// The file of the record that a path given as ROOTFS stands for, if it is a name and no file.
pub fn record(store: &Path, path: &Path) -> Option<PathBuf> {
    let name = path.to_str().filter(|name| check_name(name).is_ok())?;
    let record = store.join("images").join(file_name(name));
    (!path.exists() && record.exists()).then_some(record)
}

fn open(record: &Path) -> Result<Option<File>> {
    match File::open(record) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => Ok(Some(opened.map_err(|error| io("open", record, error))?)),
    }
}

/// `None` if it is damaged.
fn read(record: &File) -> Option<Record> {
    Record::parse(&std::io::read_to_string(record).ok()?)
}

/// A name, its record's file, and what is in that; `None` if it is damaged.
type Named = (String, PathBuf, Option<Record>);

/// All names, sorted.
fn records(images: &Path) -> Vec<Named> {
    let mut records = Vec::new();
    for file in names(images) {
        let name = file.replace('%', "/");
        if check_name(&name).is_ok() {
            let path = images.join(file);
            let record = File::open(&path).ok().and_then(|record| read(&record));
            records.push((name, path, record));
        }
    }
    records
}

/// Whether no container of this image runs; if so, none will until the file is closed.
fn unused(record: &File) -> bool {
    flock(record, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// The id of a kept container that was made of this image.
fn kept_by(store: &Path, name: &str) -> Option<String> {
    let kept = crate::record::all(store, "kept").unwrap_or_default();
    let of = |record: &crate::record::Record| record.text("image").as_deref() == Some(name);
    kept.into_iter().find(of).map(|record| record.id)
}

/// A line of what `mini images` prints: name, kind (`oci` if it has layers or a configuration), size of the layers, size on
/// the disk and how much of it is other images', too, time, whether it is in use.
pub type Row = [String; 6];

/// All images, sorted by name.
pub fn list(store: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let Some([images, blobs]) = there(store)? else {
        return Ok(rows);
    };
    let _change = lock(&blobs, FlockOperation::LockExclusive)?;
    let records = records(&images);
    let mut all = Vec::new();
    for (_, _, record) in &records {
        all.extend(record.as_ref().map(Record::blobs).unwrap_or_default());
    }
    for (name, path, record) in records {
        let mut row = ["", "damaged", "-", "-", "-", "no"].map(str::to_owned);
        row[0] = name;
        if File::open(&path).is_ok_and(|record| !unused(&record)) {
            row[5] = "yes".to_owned();
        }
        if let Some(record) = record {
            let kind = match record.layers.as_slice() {
                [(_, kind)] if record.config.is_none() => kind.to_str().unwrap_or_default(),
                _ => "oci",
            };
            let (mut size, mut disk, mut shared) = (0, 0, 0);
            for digest in record.blobs() {
                let Ok(status) = blobs.join(blob(&digest)).metadata() else {
                    continue;
                };
                let layers = record.layers.iter().filter(|layer| layer.0 == digest);
                size += status.len() * layers.count() as u64;
                disk += status.blocks() * 512;
                if all.iter().filter(|other| **other == digest).count() > 1 {
                    shared += status.blocks() * 512;
                }
            }
            (row[1], row[2], row[3]) = (kind.to_owned(), bytes(size), bytes(disk));
            row[4] = date(record.created);
            if shared > 0 {
                row[3].extend([", ", &bytes(shared), " shared"]);
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The rows as `mini images` prints them.
pub fn table(rows: Vec<Row>) -> String {
    let heads = ["NAME", "KIND", "SIZE", "DISK USED", "CREATED", "IN USE"];
    crate::output::table(heads, rows)
}

/// A time in seconds since 1970 as `2026-11-22 10:31`, UTC.
pub fn date(seconds: u64) -> String {
    let mut text = rfc3339(seconds).replace('T', " ");
    text.truncate(16);
    text
}

/// Removes a name, and then what no other needs. An image of which a container runs or was kept is only removed with
/// `force`; what runs goes on.
pub fn remove(store: &Path, name: &str, force: bool) -> Result<()> {
    check_name(name)?;
    let failed = |what: &str, hint: &str| {
        let error = error!("image {}: {what}", quote(name.as_bytes()));
        Err(error.hint(hint))
    };
    let absent = || failed("there is none of this name", "mini images lists them");
    let Some([images, blobs]) = there(store)? else {
        return absent();
    };
    let change = lock(&blobs, FlockOperation::LockExclusive)?;
    let path = images.join(file_name(name));
    let Some(record) = open(&path)? else {
        return absent();
    };
    if !force {
        if !unused(&record) {
            let hint = "--force removes the name all the same";
            return failed("a container of it is running", hint);
        }
        if let Some(id) = kept_by(store, name) {
            let what = ["the kept container ", &id, " needs it"].concat();
            return failed(&what, "--force removes it all the same");
        }
    }
    std::fs::remove_file(&path).map_err(|error| io("unlink", &path, error))?;
    sync(&images)?;
    drop(change);
    collect(store)
}

/// Removes what a killed import has left and blobs that no image needs. Cheap if there are none.
pub fn collect(store: &Path) -> Result<()> {
    cache::clean(store)?;
    garbage(store, &[], &mut Removal::default())
}

/// The same, as if the images of these names were gone.
fn garbage(store: &Path, gone: &[String], removal: &mut Removal) -> Result<()> {
    let Some([images, blobs]) = there(store)? else {
        return Ok(());
    };
    let Ok(_alone) = lock(&images, FlockOperation::NonBlockingLockExclusive) else {
        return Ok(());
    };
    let _change = lock(&blobs, FlockOperation::LockExclusive)?;
    removal.of_the_dead(&images);
    removal.of_the_dead(&blobs);
    let mut needed = Vec::new();
    for (name, _, record) in records(&images) {
        match record {
            _ if gone.contains(&name) => {}
            Some(record) => needed.extend(record.blobs()),
            None => return Ok(()),
        }
    }
    for name in names(&blobs) {
        let unneeded = |digest| !needed.contains(&digest);
        if name.starts_with("sha256-") && digest(&name).is_none_or(unneeded) {
            removal.file(&blobs.join(name), &|_| true);
        }
    }
    Ok(())
}

/// Removes blobs that no image needs, the cache as far as it is not in use, and what the dead have left; with `all` also
/// images of which no container runs or was kept; what is damaged is `mini rmi`'s. Returns a line for each, and their
/// sum; with `dry` without doing it.
pub fn prune(store: &Path, run: &Path, all: bool, dry: bool) -> Result<String> {
    let mut removal = Removal {
        dry,
        ..Removal::default()
    };
    let mut gone = Vec::new();
    if all && let Some([images, blobs]) = there(store)? {
        let _change = lock(&blobs, FlockOperation::LockExclusive)?;
        for (name, path, record) in records(&images) {
            let free = |record: &File| unused(record) && kept_by(store, &name).is_none();
            if record.is_some() && removal.file(&path, &free) {
                gone.push(name);
            }
        }
        if !dry {
            sync(&images)?;
        }
    }
    garbage(store, &gone, &mut removal)?;
    cache::empty(store, &mut removal)?;
    for (base, name) in [(run, "running"), (store, "containers")] {
        for (path, _lock) in store::dead(base, name, usize::MAX)? {
            removal.add(&path, disk_used(&path));
            let record = crate::record::Record::read(path);
            #[cfg(feature = "life")]
            if let Some(kept) = crate::detach::kept(&record) {
                removal.add(&kept, disk_used(&kept));
            }
            if !dry {
                crate::state::remove(&record);
            }
        }
    }
    #[cfg(feature = "life")]
    for path in crate::kept::forgotten(store)? {
        removal.add(&path, disk_used(&path));
        if !dry {
            crate::detach::discard(&path);
        }
    }
    let free = if dry { "would free " } else { "freed " };
    (removal.text).extend([free, &bytes(removal.freed), "\n"]);
    Ok(removal.text)
}

/// Bytes of disk that a tree takes, as far as it can be read.
fn disk_used(top: &Path) -> u64 {
    let (mut sum, mut paths) = (0, vec![top.to_owned()]);
    while let Some(path) = paths.pop() {
        sum += path
            .symlink_metadata()
            .map_or(0, |status| status.blocks() * 512);
        // What is no directory is not opened as one.
        if let Ok(directory) = open_directory(&path) {
            let _ = for_each_entry(directory.as_fd(), &mut |name| {
                paths.push(path.join(OsStr::from_bytes(name.to_bytes())));
                Ok(())
            });
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
        write(store.join("images/a%b:1"), record().text()).unwrap();
        store
    }

    fn record() -> Record {
        Record {
            created: 1_795_343_460,
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
                [2, 3, 4].contains(&skipped),
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
        let (image, mut held) = resolve(&store, "a/b:1").unwrap().unwrap();
        assert_eq!(image.config.user, b"me");
        assert!(
            matches!(&image.layers[0], Layer::Filesystem { fstype, .. } if *fstype == c"squashfs")
        );
        assert!(matches!(&image.layers[1], Layer::Tar(tar) if tar.diff_id == Some([2; 32])));
        // Nothing is collected until its blobs are open.
        collect(&store).unwrap();
        assert_eq!(names(&store.join("blobs")).len(), 4);
        held.opening = None;
        collect(&store).unwrap();
        assert_eq!(names(&store.join("blobs")).len(), 3);
        write(store.join("images/c"), record().text()).unwrap();
        let rows = list(&store).unwrap();
        assert_eq!(
            [&rows[0][2], &rows[0][1], &rows[0][5], &rows[1][5]],
            ["10 kB", "oci", "yes", "no"]
        );
        assert_eq!(
            table(rows),
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
        write(store.join("images/bad"), "mini image 2\n").unwrap();
        write(store.join("blobs/.new-1-1"), "").unwrap();
        collect(&store).unwrap();
        assert_eq!(names(&store.join("blobs")).len(), 4);
        assert!(
            table(list(&store).unwrap())
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
