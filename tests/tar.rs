//! Unpacking, against the real GNU tar and against archives that mean harm.
//!
//! The sources are compiled into this test (mini is a program, not a library), so that they can be called in ways the
//! command line does not offer. `tests/tar/torture` makes the archives. Needs root; what needs more says so. The whole
//! runs a second time under `strace -e inject=openat2:error=ENOSYS`, as on a kernel before Linux 5.6.
//!
//! Archives that mean harm also go through the index writer and, as files, to the program itself, which indexes what it
//! can: it has to say the same, and to leave nothing. (That indexes show the same trees is in index.rs.)

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, SeekFrom, openat};

#[allow(dead_code)]
#[path = "../src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../src/image/mod.rs"]
mod image;
#[cfg(feature = "json")]
#[allow(dead_code)]
#[path = "../src/json.rs"]
mod json;
#[cfg(feature = "json")]
#[allow(dead_code)]
#[path = "../src/output.rs"]
mod output;
mod support;
/// What the core build leaves out.
const GZIP: bool = cfg!(feature = "gzip");

use container::resolve;
use image::index::index;
use image::reader::{Section, Whiteouts};
use image::remove::remove_tree;
use image::unpack::{Options, Report, Unpacker};
use support::{Run, have};

// --- helpers ---------------------------------------------------------------------------------------------------

fn root() -> bool {
    have(
        "root",
        rustix::process::geteuid().is_root(),
        "this needs root",
    )
}

/// A directory below target/, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("tar-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    /// A new empty directory.
    fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let result = remove_tree(CWD, bytes(&self.0));
        assert!(result.is_ok() || std::thread::panicking(), "{result:?}");
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, bytes(path), flags, Mode::empty()).unwrap()
}

fn options(limit: u64) -> Options {
    Options {
        in_userns: false,
        limit,
        limit_name: "/store".to_owned(),
        whiteouts: Whiteouts::Ordinary,
    }
}

fn unpack(
    mut archive: impl Read,
    name: &[u8],
    root: &Path,
    options: &Options,
) -> error::Result<Report> {
    let root = open(root);
    let mut unpacker = Unpacker::new(root.as_fd(), options)?;
    unpacker.layer(&mut archive, name)?;
    unpacker.finish()
}

fn mini(archive: &[u8], root: &Path) -> Result<Report, String> {
    unpack(archive, b"x.tar", root, &options(1 << 30)).map_err(|error| {
        assert_eq!(error.status(), 125);
        let line = error.to_string();
        assert!(line.starts_with("unpack(\"x.tar\"): "), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
        line
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{errors}",
        output.status
    );
}

/// Runs the tests of this program called `filter` once more, under the program `with`.
fn again(with: &[&str], filter: &[&str], variable: (&str, &str)) {
    let mut command = Command::new(with[0]);
    let this = std::env::current_exe().unwrap();
    command.args(&with[1..]).arg(this).args(filter);
    run(command.env(variable.0, variable.1).arg("--nocapture"));
}

/// Everything that can be seen of a tree, one line for each name: type, mode, owner, time, device, links to the same
/// inode, target, extended attributes (access lists and capabilities are such), size, data and holes.
fn manifest(top: &Path) -> Vec<String> {
    fn visit(path: &Path, name: &[u8], first: &mut HashMap<u64, String>, lines: &mut Vec<String>) {
        let meta = fs::symlink_metadata(path).unwrap();
        let kind = meta.file_type();
        let shown = error::quote(name);
        let age = SystemTime::now().duration_since(meta.modified().unwrap());
        let time = match age.is_ok_and(|age| age.as_secs() < 600) {
            true => "now".to_owned(),
            false => format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()),
        };
        let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
        let mut line = format!(
            "{time} {mode:06o} {shown} {uid}:{gid} links {}",
            meta.nlink()
        );
        if !kind.is_dir() {
            let first = first.entry(meta.ino()).or_insert(shown);
            write!(line, " same {first}").unwrap();
        }
        if kind.is_char_device() || kind.is_block_device() {
            write!(line, " device {:x}", meta.rdev()).unwrap();
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).unwrap();
            write!(line, " -> {}", error::quote(bytes(&target))).unwrap();
        }
        for (name, value) in xattrs(path) {
            write!(line, " {}={}", error::quote(&name), error::quote(&value)).unwrap();
        }
        if kind.is_file() {
            write!(line, " size {} data {}", meta.size(), data(path)).unwrap();
        }
        lines.push(line);
        if kind.is_dir() {
            let entries = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let mut entries: Vec<_> = entries.collect();
            entries.sort();
            for entry in entries {
                let name = [name, b"/", entry.as_bytes()].concat();
                visit(&path.join(&entry), &name, first, lines);
            }
        }
    }
    let mut lines = Vec::new();
    visit(top, b"", &mut HashMap::new(), &mut lines);
    lines
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(bytes(path), &mut names[..]).unwrap();
    let names = names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty());
    let mut list: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(bytes(path), name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    list.sort();
    list
}

/// Where the data of a file lie between its holes, and a hash of them.
fn data(path: &Path) -> String {
    let file = openat(CWD, bytes(path), OFlags::RDONLY, Mode::empty()).unwrap();
    let (mut text, mut hasher) = (String::new(), DefaultHasher::new());
    let mut end = 0;
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(end)) {
        end = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        write!(text, "{start}-{end},").unwrap();
        let mut buffer = vec![0; (end - start) as usize];
        let mut read = 0;
        while read < buffer.len() {
            read += rustix::io::pread(&file, &mut buffer[read..], start + read as u64).unwrap();
        }
        buffer.hash(&mut hasher);
    }
    format!("{text}{:016x}", hasher.finish())
}

#[track_caller]
fn assert_same(what: &str, mini: &Path, other: &Path) {
    let (mini, other) = (manifest(mini), manifest(other));
    assert!(mini.len() > 1, "{what}: nothing to compare");
    // The time of a directory that is only implied is that of unpacking. GNU tar 1.34 also leaves that on a directory
    // which gets a member after one that lies elsewhere; mini does not.
    let same = |mini: &str, other: &str| match other.strip_prefix("now 04") {
        Some(other) => mini.ends_with(other),
        None => mini == other,
    };
    let differ = mini
        .iter()
        .zip(&other)
        .find(|(mini, other)| !same(mini, other));
    if let Some((mini, other)) = differ {
        panic!("{what}:\nmini:     {mini}\nexpected: {other}");
    }
    assert_eq!(mini.len(), other.len(), "{what}");
}

/// Unpacks `archive` with GNU tar and with mini, and compares.
fn compare(archive: &Path, scratch: &Scratch) {
    let (ours, theirs) = (scratch.dir("mini"), scratch.dir("gnu"));
    let source = fs::File::open(archive).unwrap();
    unpack(source, bytes(archive), &ours, &options(1 << 40)).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "-xpf",
    ]);
    run(tar.arg(archive).arg("-C").arg(&theirs));
    assert_same(&archive.display().to_string(), &ours, &theirs);
    for tree in [ours, theirs] {
        remove_tree(CWD, bytes(&tree)).unwrap();
    }
}

// --- archives that mean well -----------------------------------------------------------------------------------

#[test]
fn the_tree_is_what_gnu_tar_makes_of_every_format() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("torture");
    let torture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tar/torture");
    run(Command::new(torture).arg(scratch.dir("archives")));
    let mut compared = 0;
    for entry in fs::read_dir(scratch.path("archives")).unwrap() {
        let archive = entry.unwrap().path();
        let expected = archive.with_extension("expected");
        let is_archive = archive
            .extension()
            .is_some_and(|end| end == "tar" || end == "gz" && GZIP);
        if expected.is_dir() && is_archive {
            let ours = scratch.dir("mini");
            mini(&fs::read(&archive).unwrap(), &ours).unwrap();
            let (what, set) = (
                archive.display().to_string(),
                fs::Permissions::from_mode(0o755),
            );
            // cp made no "."; everything else is compared.
            fs::set_permissions(&expected, set).unwrap();
            assert_same(&what, &ours, &expected);
            remove_tree(CWD, bytes(&ours)).unwrap();
        } else if is_archive {
            compare(&archive, &scratch);
        }
        compared += usize::from(is_archive);
    }
    assert!(compared > 25, "only {compared} archives");
}

#[test]
fn the_tree_is_what_gnu_tar_makes_of_real_root_file_systems() {
    if !root() {
        return;
    }
    for name in ["busybox.tar", "debian.tar"] {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/rootfs")
            .join(name);
        let reason = format!("{} is not there (rootfs-build makes it)", archive.display());
        if have("rootfs", archive.exists(), &reason) {
            compare(&archive, &Scratch::new(name));
        }
    }
}

#[test]
fn without_openat2_all_is_the_same() {
    if std::env::var_os("MINI_TEST_NO_OPENAT2").is_some() {
        let resolve = rustix::fs::ResolveFlags::empty();
        let result = rustix::fs::openat2(CWD, c".", OFlags::PATH, Mode::empty(), resolve);
        assert_eq!(result.unwrap_err(), rustix::io::Errno::NOSYS);
        return;
    }
    if !root() {
        return;
    }
    let strace =
        "strace -f -qq --seccomp-bpf -o /dev/null -e trace=openat2 -e inject=openat2:error=ENOSYS";
    let strace: Vec<_> = strace.split(' ').collect();
    again(
        &strace,
        &["--skip", "every_byte", "--skip", "image::"],
        ("MINI_TEST_NO_OPENAT2", "1"),
    );
}

#[test]
fn in_a_user_namespace_with_one_id_what_cannot_be_is_counted() {
    if !root() {
        return;
    }
    if std::env::var_os("MINI_TEST_IN_USERNS").is_none() {
        let name = "in_a_user_namespace_with_one_id_what_cannot_be_is_counted";
        let unshare = ["unshare", "--user", "--map-root-user"];
        return again(&unshare, &["--exact", name], ("MINI_TEST_IN_USERNS", "1"));
    }
    let scratch = Scratch::new("userns");
    let archive = archive(&[
        member("owned", b'0', b"", |h| h.number(108, 8, 1000)),
        member("zero", b'3', b"", |h| h.number(329, 8, 1)),
        pax(&[
            ("SCHILY.xattr.trusted.t", b"t"),
            ("SCHILY.xattr.user.u", b"u"),
        ]),
        member("attributes", b'0', b"", |_| {}),
        pax(&[(
            "SCHILY.acl.access",
            b"user::rw-,user:12345:r--,group::r--,mask::r--,other::---",
        )]),
        member("list", b'0', b"", |_| {}),
    ]);
    let tree = scratch.dir("tree");
    let limited = Options {
        in_userns: true,
        ..options(1 << 20)
    };
    let report = unpack(&archive[..], b"x.tar", &tree, &limited).unwrap();
    assert_eq!(report.members, 4);
    assert_eq!(report.skipped_owners, 1);
    assert_eq!(report.skipped_devices, 1);
    assert_eq!(report.skipped_xattrs, 2);
    assert_eq!(
        xattrs(&tree.join("attributes")),
        [(b"user.u".to_vec(), b"u".to_vec())]
    );
    assert!(!tree.join("zero").exists());
}

// --- archives that mean harm -----------------------------------------------------------------------------------

/// A header block under construction.
struct Header([u8; 512]);

impl Header {
    fn text(&mut self, at: usize, text: &[u8]) {
        self.0[at..at + text.len()].copy_from_slice(text);
    }
    fn number(&mut self, at: usize, width: usize, number: u64) {
        let digits = format!("{number:0width$o}", width = width - 1);
        if digits.len() < width {
            return self.text(at, digits.as_bytes());
        }
        self.text(at, &[0x80; 12][..width]);
        self.text(at + 1, &[0; 12][..width - 1 - 8.min(width - 1)]);
        let big = number.to_be_bytes();
        self.text(at + width - 8.min(width - 1), &big[8 - 8.min(width - 1)..]);
    }
    fn link(&mut self, target: &str) {
        self.text(157, target.as_bytes());
    }
}

/// A header and its padded data. `change` may overwrite any field; the checksum is right afterwards.
fn member(name: &str, typeflag: u8, data: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header([0; 512]);
    header.text(0, &name.as_bytes()[..name.len().min(100)]);
    header.number(100, 8, 0o644);
    header.number(124, 12, data.len() as u64);
    header.number(136, 12, 1_000_000_000);
    header.text(156, &[typeflag]);
    header.text(257, b"ustar\x0000");
    change(&mut header);
    header.text(148, b"        ");
    let sum = header.0.iter().map(|&byte| u64::from(byte)).sum();
    header.number(148, 7, sum);
    let mut all = header.0.to_vec();
    all.extend(data);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

fn file(name: &str) -> Vec<u8> {
    member(name, b'0', b"evil", |_| {})
}

fn link(name: &str, typeflag: u8, target: &str) -> Vec<u8> {
    member(name, typeflag, b"", |header| header.link(target))
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let length = key.len() + value.len() + 3;
        // The length counts its own digits.
        let digits = (1..)
            .find(|digits| (length + digits).to_string().len() == *digits)
            .unwrap();
        write!(data, "{} {key}=", length + digits).unwrap();
        data.extend(*value);
        data.push(b'\n');
    }
    member("PaxHeaders/x", b'x', &data, |_| {})
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut all = members.concat();
    all.resize(all.len() + 1024, 0);
    all
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip");
    let mut gzip = gzip
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    gzip.stdin.take().unwrap().write_all(data).unwrap();
    gzip.wait_with_output().unwrap().stdout
}

/// Whether unpacking failed with this line, or inflating with the end of it. What is too large for the disk can be
/// something else before it is written.
fn says(line: &str, unpacked: &Result<Report, String>) -> bool {
    let Err(error) = unpacked else { return false };
    // musl has other words.
    let line = line
        .replace("Symbolic link loop", "Too many levels of symbolic links")
        .replace("Filename too long", "File name too long");
    let inflated = line.strip_prefix("inflate(\"x.tar\"): ");
    *error == line
        || error.contains(" bytes, only ")
        || inflated.is_some_and(|reason| error.ends_with(&format!(" bytes: {reason}")))
}

/// Beside the root there is a directory with a canary; nothing may change there.
struct Cage {
    scratch: Scratch,
    before: Vec<String>,
    count: u32,
}

impl Cage {
    fn new(name: &str) -> Cage {
        let scratch = Scratch::new(name);
        fs::write(scratch.dir("outside").join("canary"), "alive").unwrap();
        let before = manifest(&scratch.path("outside"));
        Cage {
            scratch,
            before,
            count: 0,
        }
    }
    fn unpack(&mut self, archive: &[u8]) -> (PathBuf, Result<Report, String>) {
        let (root, result) = self.unpack_and_index(archive);
        if std::env::var_os("MINI_TEST_NO_OPENAT2").is_none() {
            for store in ["auto", "index"] {
                self.run(store, &result);
            }
        }
        (root, result)
    }
    fn unpack_and_index(&mut self, archive: &[u8]) -> (PathBuf, Result<Report, String>) {
        self.count += 1;
        let root = self.scratch.dir(&format!("root{}", self.count));
        let result = mini(archive, &root);
        assert_eq!(
            manifest(&self.scratch.path("outside")),
            self.before,
            "{result:?}"
        );
        let path = self.scratch.path("x.tar");
        fs::write(&path, archive).unwrap();
        if image::decompress::detect(archive).is_none() {
            let section = Section {
                file: fs::File::open(&path).unwrap(),
                offset: 0,
                left: archive.len() as u64,
            };
            let out = fs::File::create(self.scratch.path("index")).unwrap();
            let indexed = index(&[(b"x.tar".to_vec(), section)], Whiteouts::Ordinary, &out);
            match (indexed.map_err(|error| error.to_string()), &result) {
                (Err(line), _) => {
                    assert!(says(&line, &result), "index: {line}\nunpack: {result:?}")
                }
                // Unpacking decides.
                (Ok(Err(_)), _) => {}
                (Ok(Ok(_)), result) => assert!(
                    result.is_ok() || says("", result),
                    "indexed, unpack: {result:?}"
                ),
            }
        }
        (root, result)
    }
    /// `mini run --store STORE x.tar -- /nothing` after unpacking had this result.
    #[track_caller]
    fn run(&self, store: &str, result: &Result<Report, String>) {
        let path = self.scratch.path("x.tar");
        let path = path.to_str().unwrap();
        let run = Run::new(support::mini())
            .env("MINI_ROOT", self.scratch.path("store"))
            .env("MINI_RUN", self.scratch.path("run"))
            .args(&["run", "--store", store, path, "--", "/nothing"]);
        let output = run.output();
        let (mut expected, mut left) = (125, Vec::new());
        if result.is_ok() && !(store == "index" && output.status == 125) {
            expected = 127;
        }
        let line = output.one_line(expected).replace(path, "x.tar");
        match expected {
            127 => assert_eq!(line, "execve(\"/nothing\"): not found in the container"),
            _ => assert!(
                says(&line, result) || store == "index" && line.starts_with("--store index: "),
                "--store {store}: {line}\nunpack: {result:?}"
            ),
        }
        for top in ["store", "run"] {
            if self.scratch.path(top).exists() {
                left.extend(manifest(&self.scratch.path(top)));
                remove_tree(CWD, bytes(&self.scratch.path(top))).unwrap();
            }
        }
        // That it cannot be indexed is remembered: an empty entry of the cache.
        let known = |line: &str| line.contains(".index\" ") && line.contains(" size 0 ");
        left.retain(|line| expected == 125 && !line.contains(" 040700 ") && !known(line));
        assert_eq!(left, [""; 0], "--store {store}: {line}");
        assert_eq!(manifest(&self.scratch.path("outside")), self.before);
    }
    #[track_caller]
    fn refuses(&mut self, members: &[Vec<u8>], expected: &str) {
        let error = self.unpack(&archive(members)).1.unwrap_err();
        assert_eq!(error, format!("unpack(\"x.tar\"): {expected}"));
    }
}

#[test]
fn hostile_names_and_links_are_refused() {
    if !root() {
        return;
    }
    let mut cage = Cage::new("names");
    for name in ["../x", "a/../../x", "/../x", "..", "a/..", "./..//x"] {
        for typeflag in b"0123456" {
            let expected = format!("member \"{name}\": its name contains \"..\"");
            cage.refuses(&[member(name, *typeflag, b"", |_| {})], &expected);
        }
    }
    for target in ["../../outside/canary", "../outside/canary", "a/../b"] {
        let expected = "member \"x\": its link target contains \"..\"";
        cage.refuses(&[link("x", b'1', target)], expected);
    }
    let canary = cage.scratch.path("outside/canary").display().to_string();
    let record = pax(&[("linkpath", canary.as_bytes())]);
    cage.refuses(
        &[[record, link("x", b'1', "")].concat()],
        &format!(
            "member \"x\": link to \"{}\": No such file or directory",
            &canary[1..]
        ),
    );
    let directory = [member("d", b'5', b"", |_| {}), link("x", b'1', "d")];
    cage.refuses(
        &directory,
        "member \"x\": link to \"d\": Operation not permitted",
    );
    let cycle = [link("a", b'2', "b"), link("b", b'2', "a"), file("a/x")];
    let expected = "member \"a/x\": parent directory: Too many levels of symbolic links";
    cage.refuses(&cycle, expected);
    cage.refuses(
        &[file("f"), file("f/x")],
        "member \"f/x\": parent directory: Not a directory",
    );
    for name in [".", "/", "./", "//."] {
        let expected = format!("member \"{name}\": it would replace the root");
        cage.refuses(&[link(name, b'2', "x")], &expected);
    }
    cage.refuses(
        &[member("", b'0', b"", |_| {})],
        "member \"\": its name is empty",
    );
    let deep = "a/".repeat(100_000);
    let error = cage
        .unpack(&archive(&[pax(&[("path", deep.as_bytes())]), file("x")]))
        .1;
    let error = error.unwrap_err();
    assert!(
        error.ends_with("a/\"…: parent directory: File name too long"),
        "{error}"
    );
    let long = "n".repeat(256);
    let error = cage
        .unpack(&archive(&[pax(&[("path", long.as_bytes())]), file("x")]))
        .1;
    let error = error.unwrap_err();
    assert!(error.ends_with("nn\": open: File name too long"), "{error}");
}

#[test]
fn links_to_the_outside_stay_inside() {
    if !root() {
        return;
    }
    let mut cage = Cage::new("links");
    let outside = cage.scratch.path("outside").display().to_string();
    let far_up = "../".repeat(30) + &outside[1..];
    for target in [
        &outside[..],
        &far_up,
        "../outside",
        "/proc/self/cwd",
        "/proc/self/root",
    ] {
        // Long targets do not fit the header.
        let out = || {
            [
                pax(&[("linkpath", target.as_bytes())]),
                link("out", b'2', ""),
            ]
            .concat()
        };
        let canary = format!("{target}/canary");
        let to_canary = || [pax(&[("linkpath", canary.as_bytes())]), link("c", b'2', "")].concat();
        let (root, result) = cage.unpack(&archive(&[
            out(),
            file("out/new"),
            file("out/canary"),
            member("out/dir", b'5', b"", |_| {}),
            link("out/symlink", b'2', "x"),
            link("out/hard", b'1', "out/canary"),
            link("hard", b'1', "out/canary"),
        ]));
        result.unwrap();
        assert_eq!(fs::read(root.join("hard")).unwrap(), b"evil", "{target}");
        // Written, linked and changed through the link itself: it is replaced, or linked as a link.
        let (root, result) = cage.unpack(&archive(&[
            to_canary(),
            link("hard", b'1', "c"),
            member("c", b'0', b"evil", |header| header.number(100, 8, 0o4777)),
            member("hard", b'0', b"evil", |header| {
                header.number(100, 8, 0o4777)
            }),
            to_canary(),
            member("c", b'5', b"", |header| header.number(100, 8, 0o777)),
            file("c/in"),
            to_canary(),
            member("c", b'6', b"", |_| {}),
        ]));
        result.unwrap();
        assert!(
            fs::symlink_metadata(root.join("c"))
                .unwrap()
                .file_type()
                .is_fifo()
        );
        assert!(fs::symlink_metadata(root.join("hard")).unwrap().is_file());
        // A directory that held the parent of the next member becomes a link to the outside.
        let (root, result) = cage.unpack(&archive(&[
            member("d/e", b'5', b"", |_| {}),
            file("d/e/f"),
            [pax(&[("linkpath", target.as_bytes())]), link("d", b'2', "")].concat(),
            file("d/e/f"),
        ]));
        result.unwrap();
        assert!(fs::symlink_metadata(root.join("d")).unwrap().is_symlink());
    }
}

#[test]
fn lies_and_bombs_are_refused() {
    if !root() {
        return;
    }
    let mut cage = Cage::new("lies");
    let size = |name: &str, size| member(name, b'0', b"", |header| header.number(124, 12, size));
    cage.refuses(
        &[size("big", 1 << 40)],
        "member \"big\": needs 1099511627776 bytes, only 1073741824 free in /store",
    );
    cage.refuses(
        &[size("short", 5000)],
        "member \"short\": archive ends after 1024 of 5000 bytes (truncated?)",
    );
    let raw = |at: usize, text: &'static [u8]| {
        member("x", b'0', b"", move |header| header.text(at, text))
    };
    for (header, reason) in [
        (
            raw(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            "its header has a negative number",
        ),
        (
            raw(124, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            "its header has a number out of range",
        ),
        (
            raw(124, b"12345678\xff   "),
            "its header has a malformed number",
        ),
        (
            raw(108, b"\x80\0\0\x01\0\0\0\0"),
            "its owner is out of range",
        ),
        (
            raw(116, b"\x80\0\0\0\xff\xff\xff\xff"),
            "its owner is out of range",
        ),
        (
            raw(108, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
            "its owner is out of range",
        ),
        (raw(100, b"rwxr-xr-"), "its header has a malformed number"),
        (raw(156, b"M"), "it is continued from another volume"),
    ] {
        cage.refuses(
            &[header],
            &format!("member \"x\": {reason} (header at byte 0)"),
        );
    }
    for (record, value, reason) in [
        ("uid", &b"4294967295"[..], "its owner is out of range"),
        (
            "gid",
            b"99999999999999999999",
            "its pax header has a malformed number",
        ),
        ("size", b"-1", "its pax header has a malformed number"),
        ("mtime", b"1e9", "its pax header has a malformed number"),
        (
            "path",
            b"a\0b",
            "its extension header has a NUL byte in a string",
        ),
        (
            "GNU.sparse.map",
            b"1,,3",
            "its pax header has a malformed number",
        ),
    ] {
        let expected = format!("member \"PaxHeaders/x\": {reason} (header at byte 0)");
        cage.refuses(&[pax(&[(record, value)]), file("x")], &expected);
    }
    let acl = pax(&[(
        "SCHILY.acl.access",
        b"user::rw-,user:daemon:r--,group::r--,mask::r--,other::---",
    )]);
    cage.refuses(
        &[acl, file("x")],
        "member \"x\": its access control list has a name without the numeric id (header at byte 1024)",
    );
    let huge = member("x", b'x', b"", |header| {
        header.number(124, 12, (1 << 32) - 1)
    });
    cage.refuses(
        &[huge],
        "member \"x\": its extension header is larger than 1 MiB (header at byte 0)",
    );
    for data in [
        &b"5 a=b\n"[..],
        b"7 a=b\n",
        b"6 a=b\nx",
        b"a=b\n",
        b"6a=b",
        b"4 =\n4",
        b"18446744073709551616 a=b\n",
        b"0 a=b\n",
    ] {
        let expected = "member \"g\": its pax header is malformed (header at byte 0)";
        cage.refuses(&[member("g", b'g', data, |_| {})], expected);
    }
    let device = member("dev", b'3', b"", |header| header.number(329, 8, 4096));
    cage.refuses(
        &[device],
        "member \"dev\": its device number is out of range",
    );
    // Each member of nothing costs something, too.
    let many: Vec<_> = (0..200).map(|i| size(&format!("f{i}"), 0)).collect();
    let root = cage.scratch.dir("many");
    let error = unpack(&archive(&many)[..], b"x", &root, &options(65536)).unwrap_err();
    assert!(error.to_string().contains("bytes, only"), "{error}");
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    if !root() {
        return;
    }
    let mut cage = Cage::new("sparse");
    let sparse = |map: &'static str, size: &'static str| {
        let records = [
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", size.as_bytes()),
        ];
        [pax(&records), member("s", b'0', b"evil", |_| {})].concat()
    };
    let beyond = "its sparse map overlaps or goes beyond its size";
    for (map, size, reason) in [
        ("0,4", "3", beyond),
        ("0,2,1,2", "100", beyond),
        ("10,2,0,2", "100", beyond),
        ("18446744073709551615,4", "18446744073709551615", beyond),
        ("0,3", "100", "its sparse map does not fit its data"),
        ("0,5", "100", "its sparse map does not fit its data"),
    ] {
        let expected = format!("member \"s\": {reason}");
        let error = cage.unpack(&archive(&[sparse(map, size)])).1.unwrap_err();
        assert!(error.contains(&expected), "{map} {size}: {error}");
    }
    let one = |map: &[u8]| {
        let map = &[map, &[0; 512][map.len()..]].concat();
        let records = [
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"100"),
        ];
        archive(&[pax(&records), member("s", b'0', map, |_| {})])
    };
    for (map, reason) in [
        (&b"1\n0\n5\n"[..], "its sparse map does not fit its data"),
        (b"99999\n0\n5\n", "its sparse map is malformed"),
        (b"1\n-1\n5\n", "its sparse map is malformed"),
        (b"99999999999999999999999\n", "its sparse map is malformed"),
        (b"\n\n\n", "its sparse map is malformed"),
        (b"", "its sparse map is malformed"),
        (&[b'0'; 512], "its sparse map is longer than its data"),
    ] {
        let error = cage.unpack(&one(map)).1.unwrap_err();
        assert!(
            error.contains(&format!("member \"s\": {reason}")),
            "{error}"
        );
    }
    let old = member("s", b'S', b"evil", |header| {
        header.number(386, 12, 7);
        header.number(398, 12, 4);
        header.number(483, 12, 10);
    });
    cage.refuses(
        &[old],
        "member \"s\": its sparse map overlaps or goes beyond its size (header at byte 0)",
    );
}

#[test]
fn what_is_no_tar_is_told() {
    if !root() {
        return;
    }
    let mut cage = Cage::new("no-tar");
    let no_tar = "unpack(\"x.tar\"): it is not a tar archive: ";
    for (bytes, expected) in [
        (vec![], "unpack(\"x.tar\"): it is empty".to_owned()),
        (vec![0; 10240], format!("{no_tar}it has no member")),
        (
            b"hello".to_vec(),
            format!("{no_tar}it ends at byte 5 without a member"),
        ),
        (
            vec![b'x'; 4096],
            format!("{no_tar}wrong checksum (header at byte 0)"),
        ),
        (
            b"BZh91AY&SY".to_vec(),
            "unpack(\"x.tar\"): it is compressed with bzip2, which this build of mini cannot read"
                .to_owned(),
        ),
    ] {
        assert_eq!(cage.unpack(&bytes).1.unwrap_err(), expected);
    }
    let mut second = archive(&[file("first"), file("second")]);
    second[1024] ^= 1;
    let expected =
        "unpack(\"x.tar\"): after member \"first\": wrong checksum (header at byte 1024)";
    assert_eq!(cage.unpack(&second).1.unwrap_err(), expected);
    // What comes after the end is somebody else's, unless it is compressed.
    let mut more = archive(&[file("x")]);
    more.extend(b"anything");
    cage.unpack(&more).1.unwrap();
    let good = gzip(&archive(&[file("x")]));
    if !GZIP {
        let expected =
            "unpack(\"x.tar\"): it is compressed with gzip, which this build of mini cannot read";
        assert_eq!(cage.unpack(&good).1.unwrap_err(), expected);
    } else {
        cage.unpack(&good).1.unwrap();
    }
    for wrong in [good.len() - 1, good.len() - 8]
        .into_iter()
        .filter(|_| GZIP)
    {
        let mut bad = good.clone();
        bad[wrong] ^= 1;
        let error = cage.unpack(&bad).1.unwrap_err();
        assert!(error.contains("check sum or length differ"), "{error}");
    }
    cage.unpack(&[&good[..], b"anything"].concat())
        .1
        .unwrap_err();
    let terminal = [member("\x1b]0;x\x07\r\n", b'0', b"", |header| {
        header.number(124, 12, 9999)
    })];
    let error = cage.unpack(&archive(&terminal)).1.unwrap_err();
    assert!(error.contains(r#"member "\u{1b}]0;x\u{7}"#), "{error}");
}

#[test]
fn an_archive_cut_at_every_byte_is_refused() {
    if !root() {
        return;
    }
    let mut cage = Cage::new("cut");
    let records = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.realsize", b"100000"),
    ];
    let mut map = b"1\n4096\n700\n".to_vec();
    map.resize(512 + 700, b'd');
    let members = [
        member("dir", b'5', b"", |_| {}),
        file("dir/file"),
        pax(&[
            ("path", "long".repeat(60).as_bytes()),
            ("SCHILY.xattr.user.x", b"y"),
        ]),
        member("long", b'5', b"", |_| {}),
        [pax(&records), member("sparse", b'0', &map, |_| {})].concat(),
        link("hard", b'1', "dir/file"),
        member("last", b'0', &[b'l'; 513], |_| {}),
    ];
    let whole = archive(&members);
    let end = whole.len() - 512; // one zero block is enough
    for length in 0..=whole.len() {
        let (root, result) = cage.unpack_and_index(&whole[..length]);
        assert_eq!(result.is_err(), length < end, "{length} bytes: {result:?}");
        remove_tree(CWD, bytes(&root)).unwrap();
    }
    let compressed = gzip(&whole);
    for length in 0..=compressed.len() {
        let (root, result) = cage.unpack_and_index(&compressed[..length]);
        let complete = length == compressed.len() && GZIP;
        assert_eq!(result.is_ok(), complete, "{length} bytes: {result:?}");
        remove_tree(CWD, bytes(&root)).unwrap();
    }
}

#[test]
fn the_caller_s_umask_and_default_lists_do_not_show() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("umask");
    let root = scratch.dir("root");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o751)).unwrap();
    run(Command::new("setfacl")
        .args(["-d", "-m", "u:12345:rwx"])
        .arg(&root));
    // The umask belongs to the whole process, so the others would see it: this one runs alone.
    if std::env::var_os("MINI_TEST_UMASK").is_none() {
        let name = "the_caller_s_umask_and_default_lists_do_not_show";
        return again(&["env"], &["--exact", name], ("MINI_TEST_UMASK", "1"));
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let members = [
        member("a", b'0', b"", |header| header.number(100, 8, 0o6777)),
        member("implied/b", b'6', b"", |header| {
            header.number(100, 8, 0o666)
        }),
        member("d", b'5', b"", |header| header.number(100, 8, 0o1777)),
    ];
    mini(&archive(&members), &root).unwrap();
    for (name, mode) in [
        ("", 0o751),
        ("a", 0o6777),
        ("implied", 0o755),
        ("implied/b", 0o666),
        ("d", 0o1777),
    ] {
        let path = root.join(name);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{name}");
        assert_eq!(xattrs(&path), [], "{name}");
    }
}

// --- resolve ---------------------------------------------------------------------------------------------------

#[test]
fn paths_resolve_as_if_the_root_were_slash() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("resolve");
    let top = scratch.dir("root");
    let absolute = top.display().to_string();
    fs::write(scratch.path("secret"), "outside").unwrap();
    fs::create_dir_all(top.join("a/b")).unwrap();
    fs::write(top.join("a/b/file"), "inside").unwrap();
    for (target, name) in [
        ("/a/b", "absolute"),
        ("../../../../a/b", "up"),
        ("a", "relative"),
        ("/", "slash"),
        ("..", "a/dots"),
        ("loop", "loop"),
        ("/nowhere/to/go", "dangling"),
        ("file", "a/b/link"),
        ("/proc/self/root", "magic"),
    ] {
        symlink(target, top.join(name)).unwrap();
    }
    let root = open(&top);
    let read = |path: &str| -> Result<String, rustix::io::Errno> {
        let fd = resolve::open(root.as_fd(), path.as_bytes(), OFlags::RDONLY)?;
        let mut buffer = [0; 64];
        let length = rustix::io::read(&fd, &mut buffer[..])?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    for path in [
        "a/b/file",
        "/a/b/file",
        "//a/./b//file",
        "absolute/file",
        "up/file",
        "relative/b/file",
        "slash/a/b/file",
        "../../a/b/file",
        "a/../a/b/../b/file",
        "a/dots/a/b/file",
        "a/b/link",
        "absolute/../b/link",
        "slash/../../absolute/../../up/link",
    ] {
        assert_eq!(read(path).as_deref(), Ok("inside"), "{path}");
    }
    use rustix::io::Errno;
    for (path, error) in [
        ("../secret", Errno::NOENT),
        ("/../../secret", Errno::NOENT),
        ("up/../../../secret", Errno::NOENT),
        (&absolute[..], Errno::NOENT),
        ("loop", Errno::LOOP),
        ("loop/x", Errno::LOOP),
        ("a/b/file/", Errno::NOTDIR),
        ("a/b/file/.", Errno::NOTDIR),
        ("a/b/file/..", Errno::NOTDIR),
        ("missing/../a/b/file", Errno::NOENT),
        ("a\0b", Errno::INVAL),
        ("magic/etc/passwd", Errno::NOENT),
    ] {
        assert_eq!(read(path), Err(error), "{path}");
    }
    assert_eq!(read(&"a/../".repeat(900)), Err(Errno::NAMETOOLONG));
    // RDONLY of a directory, and the link itself.
    let directory = resolve::open(root.as_fd(), b"", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
    let same = |fd: &OwnedFd, path: &str| {
        let (here, there) = (
            rustix::fs::fstat(fd).unwrap(),
            fs::symlink_metadata(top.join(path)).unwrap(),
        );
        assert_eq!(here.st_ino, there.ino(), "{path}");
    };
    same(&directory, "");
    let link = resolve::open(root.as_fd(), b"absolute", OFlags::PATH | OFlags::NOFOLLOW).unwrap();
    same(&link, "absolute");
    let link = resolve::open(root.as_fd(), b"absolute/", OFlags::PATH | OFlags::NOFOLLOW).unwrap();
    same(&link, "a/b");
    // Forty links are followed, one more is not.
    for i in 0..41 {
        symlink(format!("chain{}", i + 1), top.join(format!("chain{i}"))).unwrap();
    }
    fs::write(top.join("chain41"), "end").unwrap();
    assert_eq!(read("chain1").as_deref(), Ok("end"));
    assert_eq!(read("chain0"), Err(Errno::LOOP));
}

#[test]
fn mount_targets_are_made_inside() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("make");
    let top = scratch.dir("root");
    fs::write(scratch.dir("outside").join("canary"), "alive").unwrap();
    let before = manifest(&scratch.path("outside"));
    let root = open(&top);
    let root = root.as_fd();
    let mode = |path: &str| fs::symlink_metadata(top.join(path)).unwrap().mode();
    let dir = |path: &str| resolve::make_dir(root, path.as_bytes(), Mode::from_raw_mode(0o751));
    let file = |path: &str| resolve::make_file(root, path.as_bytes(), Mode::from_raw_mode(0o640));
    dir("a/b/c").unwrap();
    assert_eq!((mode("a"), mode("a/b/c")), (0o40751, 0o40751));
    dir("/a/b/../new/./x/").unwrap();
    assert_eq!(mode("a/new/x"), 0o40751);
    symlink(scratch.path("outside"), top.join("out")).unwrap();
    symlink("../../outside", top.join("a/out")).unwrap();
    symlink("/made/by/link", top.join("dangling")).unwrap();
    dir("dangling/x").unwrap();
    assert_eq!(mode("made/by/link/x"), 0o40751);
    dir("out/x").unwrap();
    dir("a/out/x").unwrap();
    assert_eq!(mode("outside/x"), 0o40751);
    file("out/file").unwrap();
    file("a/out/canary").unwrap();
    assert_eq!(mode("outside/canary"), 0o100640);
    assert_eq!(manifest(&scratch.path("outside")), before);
    // There already: nothing is changed, whatever it is.
    file("a/b").unwrap();
    file("p/q/r").unwrap();
    assert_eq!((mode("p/q"), mode("p/q/r")), (0o40755, 0o100640));
    use rustix::io::Errno;
    assert_eq!(dir("p/q/r").unwrap_err(), Errno::NOTDIR);
    assert_eq!(dir("p/q/r/s").unwrap_err(), Errno::NOTDIR);
    assert_eq!(file("p/new/").unwrap_err(), Errno::ISDIR);
    file("p/..").unwrap();
    // A dangling link: the target is made where its directory exists, else the link is replaced.
    fs::create_dir(top.join("etc")).unwrap();
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        top.join("etc/resolv.conf"),
    )
    .unwrap();
    file("etc/resolv.conf").unwrap();
    assert_eq!(mode("etc/resolv.conf"), 0o100640);
    assert!(!top.join("run").exists());
    fs::create_dir(top.join("run")).unwrap();
    symlink("../run/resolv.conf", top.join("etc/other")).unwrap();
    file("etc/other").unwrap();
    assert!(
        fs::symlink_metadata(top.join("etc/other"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(mode("run/resolv.conf"), 0o100640);
}

// --- remove ----------------------------------------------------------------------------------------------------

#[test]
fn a_tree_100000_deep_is_removed_with_few_descriptors() {
    let mut levels = 3000;
    let scratch = Scratch::new("deep");
    if root() {
        // In memory there is time for more.
        if std::env::var_os("MINI_TEST_DEEP").is_none() {
            let name = "a_tree_100000_deep_is_removed_with_few_descriptors";
            let unshare = ["unshare", "--mount", "--propagation", "private"];
            again(&unshare, &["--exact", name], ("MINI_TEST_DEEP", "1"));
        } else {
            levels = 100_000;
            run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", "nr_inodes=0", "tmpfs"])
                .arg(&scratch.0));
        }
    }
    let tree = scratch.dir("tree");
    let mut here = open(&tree);
    for level in 0..levels {
        rustix::fs::mkdirat(&here, c"d", Mode::RWXU).unwrap();
        if level % 1000 == 0 {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            openat(&here, c"file", flags, Mode::RUSR).unwrap();
            rustix::fs::mkdirat(&here, c".removed-1", Mode::RWXU).unwrap();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        here = openat(&here, c"d", flags, Mode::empty()).unwrap();
    }
    remove_tree(open(&scratch.0).as_fd(), b"tree").unwrap();
    assert!(!tree.exists());
    drop(here);
    if levels > 3000 {
        run(Command::new("umount").arg(&scratch.0));
    }
}

#[test]
fn wide_trees_are_removed_and_links_are_not_followed() {
    let scratch = Scratch::new("wide");
    let outside = scratch.dir("outside");
    fs::write(outside.join("canary"), "alive").unwrap();
    let tree = scratch.dir("tree");
    for i in 0..300 {
        let directory = tree.join(format!("{i}/{i}/.removed-{i}"));
        fs::create_dir_all(&directory).unwrap();
        symlink(&outside, directory.join("out")).unwrap();
        fs::write(tree.join(format!(".removed-{i}")), "").unwrap();
        fs::write(directory.join("file"), "").unwrap();
        fs::create_dir(directory.join("empty")).unwrap();
    }
    for i in 0..5000 {
        fs::write(tree.join(format!("7/{i:0200}")), "").unwrap();
    }
    symlink(&outside, scratch.path("link")).unwrap();
    let parent = open(&scratch.0);
    for name in ["tree", "link", "nothing"] {
        remove_tree(parent.as_fd(), name.as_bytes()).unwrap();
    }
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
}

#[test]
fn mounts_are_not_emptied() {
    if !root() || std::env::var_os("MINI_TEST_NO_OPENAT2").is_some() {
        return;
    }
    if std::env::var_os("MINI_TEST_MOUNTS").is_none() {
        let unshare = ["unshare", "--mount", "--propagation", "private"];
        return again(
            &unshare,
            &["--exact", "mounts_are_not_emptied"],
            ("MINI_TEST_MOUNTS", "1"),
        );
    }
    let scratch = Scratch::new("mounts");
    let tree = scratch.dir("tree");
    let outside = scratch.dir("outside");
    fs::write(outside.join("canary"), "alive").unwrap();
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    for path in ["a/b/c", "a"] {
        run(Command::new("mount")
            .arg("--bind")
            .arg(&outside)
            .arg(tree.join(path)));
        remove_tree(CWD, bytes(&tree)).unwrap_err();
        assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        for line in mounts.lines().filter(|line| line.contains("tar-mounts")) {
            let target = line.split(' ').nth(1).unwrap();
            run(Command::new("umount").arg(OsStr::new(target)));
        }
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
    }
}
