//! Indexes, mounted and compared with what GNU tar and unpacking make of the same archives.
//!
//! The sources are compiled into this test. Needs root, and a kernel that mounts EROFS from files (6.12); every mount is
//! made in a mount namespace of its own. `MINI_TEST_INDEX=FILE.tar` compares and times another archive.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::fd::AsFd;
use rustix::fs::{CWD, Mode, OFlags, openat};

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
use image::index::{devices, index};
use image::reader::{Section, Whiteouts};
use image::unpack::{Options, Unpacker};

fn have(what: &str, available: bool, reason: &str) -> bool {
    let required = std::env::var("MINI_TEST_REQUIRE").unwrap_or_default();
    assert!(
        available || !required.split(',').any(|word| word == what),
        "MINI_TEST_REQUIRE has {what}, but {reason}"
    );
    if !available {
        eprintln!("skipped: {reason}");
    }
    available
}

/// Runs the test `name` of this program once more, as root of a mount namespace of its own. True in that second run.
fn alone(name: &str) -> bool {
    if std::env::var_os("MINI_TEST_ALONE").is_some() {
        return true;
    }
    let root = rustix::process::geteuid().is_root();
    let erofs = fs::read_to_string("/proc/filesystems")
        .unwrap()
        .contains("erofs");
    if have("root", root, "this needs root") && have("erofs", erofs, "the kernel has no erofs") {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "--"])
            .arg(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
        run(command.env("MINI_TEST_ALONE", "1"));
    }
    false
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("index-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
    fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let result = image::remove::remove_tree(CWD, self.0.as_os_str().as_bytes());
        assert!(result.is_ok() || std::thread::panicking(), "{result:?}");
    }
}

fn section(path: &Path) -> (Vec<u8>, Section) {
    let file = File::open(path).unwrap();
    let left = file.metadata().unwrap().len();
    let section = Section {
        file,
        offset: 0,
        left,
    };
    (path.as_os_str().as_bytes().to_vec(), section)
}

/// Writes the index and mounts it on `target`; why not, if it cannot be.
fn mount(
    tars: &[(Vec<u8>, Section)],
    whiteouts: Whiteouts,
    image: &Path,
    target: &Path,
) -> Result<(), String> {
    use rustix::mount::*;
    let out = File::create(image).unwrap();
    let before = Instant::now();
    let indexed = index(tars, whiteouts, &out).map_err(|error| error.to_string())?;
    let indexed = indexed.map_err(|why| why.to_string())?;
    eprintln!("{}: {indexed:?}, {:?}", target.display(), before.elapsed());
    drop(out);
    // The same again.
    let again = File::create_new(image.with_extension("again")).unwrap();
    index(tars, whiteouts, &again).unwrap().unwrap();
    let again = image.with_extension("again");
    assert!(fs::read(image).unwrap() == fs::read(&again).unwrap());
    fs::remove_file(again).unwrap();

    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(context.as_fd(), "source", bytes(image)).unwrap();
    for (at, device) in devices(tars).unwrap().iter().enumerate() {
        if !devices(tars).unwrap()[..at].contains(device) {
            let path = format!("/proc/self/fd/{}", tars[at].1.file.as_raw_fd());
            fsconfig_set_string(context.as_fd(), "device", &path[..]).unwrap();
        }
    }
    fsconfig_set_flag(context.as_fd(), "ro").unwrap();
    fsconfig_create(context.as_fd()).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mounted = fsmount(context.as_fd(), flags, MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap();
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mounted.as_fd(), "", CWD, bytes(target), empty).unwrap();
    Ok(())
}

fn unpack(tars: &[(Vec<u8>, Section)], whiteouts: Whiteouts, target: &Path) -> Result<(), String> {
    let options = Options {
        in_userns: false,
        limit: 1 << 40,
        limit_name: "/store".to_owned(),
        whiteouts,
    };
    let root = openat(
        CWD,
        bytes(target),
        OFlags::PATH | OFlags::DIRECTORY,
        Mode::empty(),
    )
    .unwrap();
    let mut unpacker = Unpacker::new(root.as_fd(), &options).unwrap();
    for (name, section) in tars {
        let mut source = Section {
            file: section.file.try_clone().unwrap(),
            ..*section
        };
        unpacker
            .layer(&mut source, name)
            .map_err(|error| error.to_string())?;
    }
    unpacker.finish().map_err(|error| error.to_string())?;
    Ok(())
}

fn gnu_tar(archive: &Path, target: &Path) {
    let mut tar = Command::new("tar");
    tar.args([
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "-xpf",
    ]);
    run(tar.arg(archive).arg("-C").arg(target));
}

/// Everything that can be seen of a tree, one line for each name. Times of directories only on request: what is only
/// implied has none in the archive.
fn manifest(top: &Path) -> Vec<String> {
    fn visit(path: &Path, name: &[u8], first: &mut HashMap<u64, String>, lines: &mut Vec<String>) {
        let meta = fs::symlink_metadata(path).unwrap();
        let kind = meta.file_type();
        let shown = error::quote(name);
        let mut line = format!(
            "{:06o} {shown} {}:{} links {} time {}.{:09}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if !kind.is_dir() {
            let first = first.entry(meta.ino()).or_insert(shown);
            line += &format!(" same {first}");
        }
        if kind.is_char_device() || kind.is_block_device() {
            line += &format!(" device {:x}", meta.rdev());
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).unwrap();
            line += &format!(
                " -> {} ({})",
                error::quote(target.as_os_str().as_bytes()),
                meta.size()
            );
        }
        for (name, value) in xattrs(path) {
            line += &format!(" {}={}", error::quote(&name), error::quote(&value));
        }
        if kind.is_file() {
            line += &format!(" size {} data {:016x}", meta.size(), data(path));
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

/// A hash of what is in a file (FNV-1a on words).
fn data(path: &Path) -> u64 {
    use std::io::Read;
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut hash = 0xcbf2_9ce4_8422_2325;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]).unwrap() {
                0 => break,
                count => filled += count,
            }
        }
        for word in buffer[..filled].chunks(8) {
            let word = word.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        }
        if filled < buffer.len() {
            return hash;
        }
    }
}

#[track_caller]
fn assert_same(what: &str, ours: &Path, expected: &Path) -> usize {
    let (ours, expected) = (manifest(ours), manifest(expected));
    assert!(ours.len() > 1, "{what}: nothing to compare");
    // GNU tar leaves the time of unpacking on directories without a member, and on some with one (1.34, 1.35).
    let recent = |line: &str| {
        let seconds = line
            .split(" time ")
            .nth(1)
            .unwrap()
            .split('.')
            .next()
            .unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        line.starts_with("04")
            && seconds.parse::<i64>().unwrap() > now.unwrap().as_secs() as i64 - 600
    };
    let without = |line: &str| {
        let (start, rest) = line.split_once(" time ").unwrap();
        format!(
            "{start}{}",
            rest.split_once(' ').map_or("", |(_, rest)| rest)
        )
    };
    for (ours, expected) in ours.iter().zip(&expected) {
        if ours != expected && !(recent(expected) && without(ours) == without(expected)) {
            panic!("{what}:\nindex:    {ours}\nexpected: {expected}");
        }
    }
    assert_eq!(ours.len(), expected.len(), "{what}");
    ours.len()
}

/// Mounts an index of `archive` and compares it with what GNU tar makes of it. False if it cannot be indexed.
fn compare(archive: &Path, expected: Option<&Path>) -> bool {
    let scratch = Scratch::new("compare");
    let (mounted, theirs) = (scratch.dir("index"), scratch.dir("gnu"));
    let image = scratch.0.join("image");
    let what = archive.display().to_string();
    if let Err(reason) = mount(&[section(archive)], Whiteouts::Ordinary, &image, &mounted) {
        eprintln!("{reason}");
        assert!(reason.starts_with("index("), "{reason}");
        return false;
    }
    let expected = expected.unwrap_or_else(|| {
        gnu_tar(archive, &theirs);
        &theirs
    });
    let lines = assert_same(&what, &mounted, expected);
    eprintln!("{what}: {lines} names compared");
    run(Command::new("umount").arg(&mounted));
    true
}

#[test]
fn an_index_shows_what_gnu_tar_makes_of_real_root_file_systems() {
    if !alone("an_index_shows_what_gnu_tar_makes_of_real_root_file_systems") {
        return;
    }
    if let Some(archive) = std::env::var_os("MINI_TEST_INDEX") {
        assert!(compare(Path::new(&archive), None));
        return;
    }
    for name in ["busybox.tar", "debian.tar"] {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/rootfs")
            .join(name);
        let reason = format!("{} is not there (rootfs-build makes it)", archive.display());
        if have("rootfs", archive.exists(), &reason) {
            assert!(compare(&archive, None));
        }
    }
}

#[test]
fn an_index_shows_what_gnu_tar_makes_of_every_format() {
    if !alone("an_index_shows_what_gnu_tar_makes_of_every_format") {
        return;
    }
    let scratch = Scratch::new("torture");
    let torture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tar/torture");
    run(Command::new(torture).arg(scratch.dir("archives")));
    let (mut compared, mut refused) = (0, 0);
    let mut archives: Vec<_> = fs::read_dir(scratch.0.join("archives"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    archives.sort();
    for archive in archives {
        if archive.extension().is_some_and(|end| end == "tar") {
            let expected = archive.with_extension("expected");
            let expected = expected.is_dir().then_some(&expected);
            if let Some(expected) = expected {
                // cp made no "."; everything else is compared.
                fs::set_permissions(
                    expected,
                    std::os::unix::fs::PermissionsExt::from_mode(0o755),
                )
                .unwrap();
            }
            match compare(&archive, expected.map(PathBuf::as_path)) {
                true => compared += 1,
                false => refused += 1,
            }
        }
    }
    eprintln!("{compared} compared, {refused} refused");
    assert!(compared > 12 && refused >= 5);
}

// --- layers ----------------------------------------------------------------------------------------------------

/// An archive of members "TYPE PATH [CONTENT OR TARGET]": d, f, l (symlink), h (hard link), c (device 1:3).
fn layer(scratch: &Scratch, name: &str, members: &[&str]) -> PathBuf {
    let mut all = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let mut words = member.splitn(3, ' ');
        let mut word = || words.next().unwrap_or("").as_bytes();
        let (kind, path, rest) = (word()[0], word(), word());
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path);
        put(100, if kind == b'd' { b"0000750" } else { b"0000640" });
        put(108, format!("{number:07o}").as_bytes());
        put(116, b"0000007");
        let data = if kind == b'f' { rest } else { b"" };
        put(124, format!("{:011o}", data.len()).as_bytes());
        put(136, format!("{:011o}", 1_000_000_000 + number).as_bytes());
        let types = [
            (b'd', b'5'),
            (b'f', b'0'),
            (b'l', b'2'),
            (b'h', b'1'),
            (b'c', b'3'),
        ];
        put(
            156,
            &[types.iter().find(|(letter, _)| *letter == kind).unwrap().1],
        );
        put(
            157,
            if kind == b'l' || kind == b'h' {
                rest
            } else {
                b""
            },
        );
        put(257, b"ustar\x0000");
        put(329, b"0000001");
        put(337, b"0000003");
        put(148, b"        ");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        all.extend(header);
        all.extend(data);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.extend([0; 1024]);
    let path = scratch.0.join(name);
    fs::write(&path, all).unwrap();
    path
}

/// The manifest without what an overlay does not keep: links of directories, and which files are one across layers.
fn shown(top: &Path) -> Vec<String> {
    let lines = manifest(top).into_iter().map(|line| {
        let words = line.split(' ').collect::<Vec<_>>();
        let at = words.iter().position(|word| *word == "links").unwrap();
        let kept = words.iter().enumerate();
        kept.filter(|(index, _)| *index != at + 1)
            .map(|(_, word)| *word)
            .collect::<Vec<_>>()
            .join(" ")
    });
    lines.collect()
}

fn overlay(lower: &[&Path], target: &Path, userxattr: bool) {
    let lower: Vec<_> = lower.iter().map(|path| path.to_str().unwrap()).collect();
    let mut options = format!("ro,lowerdir={}", lower.join(":"));
    if userxattr {
        options += ",userxattr";
    }
    run(Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(target));
}

const LAYERS: [&[&str]; 4] = [
    &[
        "d ./",
        "d dir",
        "f dir/a a0",
        "f dir/b b0",
        "d dir/sub",
        "f dir/sub/x x0",
        "d emptied",
        "f emptied/1 1",
        "d emptied/2",
        "f emptied/2/3 3",
        "f gone gone",
        "d goes",
        "f goes/y y",
        "f file-to-dir f",
        "d dir-to-file",
        "f dir-to-file/z z",
        "l link dir",
        "h hard dir/a",
        "d twice",
        "f twice/t t0",
        "d again",
        "f again/old old",
        "f back back0",
        "d kept",
        "f kept/k k0",
        "d late",
        "f late/low low",
        "d late/sub",
        "f late/sub/low low",
        "d file-dir",
        "f file-dir/deep deep",
    ],
    &[
        "d dir",
        "f dir/.wh.a ",
        "f dir/c c1",
        "f .wh.gone ",
        "f .wh.goes ",
        "d emptied",
        "f emptied/.wh..wh..opq ",
        "f emptied/new new",
        "f .wh.file-to-dir ",
        "d file-to-dir",
        "f file-to-dir/in in",
        "f .wh.dir-to-file ",
        "f dir-to-file now",
        "f .wh.back ",
        "f .wh.again ",
        "d .wh..wh.plnk",
        "f .wh..wh.plnk/1.2 aufs",
        "f .wh..wh.aufs ",
        "f .wh.nothing ",
        // Whiteouts after what they do not concern.
        "d late",
        "f late/mine mine",
        "d late/sub",
        "f late/sub/mine mine",
        "f late/.wh..wh..opq ",
        "d twice",
        "f twice/u u1",
        "f .wh.twice ",
        "f file-dir file",
        "d again",
        "f again/new new1",
    ],
    &[
        "f dir/.wh.c ",
        "f dir/a a2",
        "f dir/sub/.wh.x ",
        "f back back2",
        "f goes/implied i",
        "f .wh.hard ",
        "f kept/.wh.nothing ",
        "f kept/l l2",
        "d file-dir",
        "f file-dir/new n",
        "f .wh.link ",
        "d link",
        "f link/l l",
        "f new/deep/implied i",
        "h new/hard kept/l",
        "c new/null",
        "f .wh.again ",
    ],
    &["d again", "f again/last last", "f emptied/.wh.new "],
];

#[test]
fn layers_are_the_same_indexed_unpacked_and_in_an_overlay() {
    if !alone("layers_are_the_same_indexed_unpacked_and_in_an_overlay") {
        return;
    }
    let scratch = Scratch::new("layers");
    let tars: Vec<_> = (0..4)
        .map(|n| layer(&scratch, &format!("{n}.tar"), LAYERS[n]))
        .collect();
    let sections = |range: std::ops::Range<usize>| {
        tars[range]
            .iter()
            .map(|tar| section(tar))
            .collect::<Vec<_>>()
    };
    let (unpacked, indexed) = (scratch.dir("unpacked"), scratch.dir("indexed"));
    unpack(&sections(0..4), Whiteouts::Remove, &unpacked).unwrap();
    mount(
        &sections(0..4),
        Whiteouts::Remove,
        &scratch.0.join("image"),
        &indexed,
    )
    .unwrap();
    assert_same("indexed", &indexed, &unpacked);
    let lines = manifest(&indexed);
    let names = lines
        .iter()
        .map(|line| line.split('"').nth(1).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(
        names,
        [
            "",
            "/again",
            "/again/last",
            "/back",
            "/dir",
            "/dir/a",
            "/dir/b",
            "/dir/sub",
            "/dir-to-file",
            "/emptied",
            "/file-dir",
            "/file-dir/new",
            "/file-to-dir",
            "/file-to-dir/in",
            "/goes",
            "/goes/implied",
            "/kept",
            "/kept/k",
            "/kept/l",
            "/late",
            "/late/mine",
            "/late/sub",
            "/late/sub/mine",
            "/link",
            "/link/l",
            "/new",
            "/new/deep",
            "/new/deep/implied",
            "/new/hard",
            "/new/null",
            "/twice",
            "/twice/u",
        ]
    );
    for (split, userxattr) in [(1, false), (1, true), (2, false), (3, true)] {
        let whiteouts = Whiteouts::Overlay { userxattr };
        let at = |what: &str| scratch.dir(&format!("{what}-{split}-{userxattr}"));
        let (below, above, merged) = (at("below"), at("above"), at("merged"));
        unpack(&sections(0..split), Whiteouts::Remove, &below).unwrap();
        unpack(&sections(split..4), whiteouts, &above).unwrap();
        overlay(&[&above, &below], &merged, userxattr);
        let image = scratch.0.join("image-above");
        let (above, both) = (at("index"), at("both"));
        mount(&sections(split..4), whiteouts, &image, &above).unwrap();
        overlay(&[&above, &below], &both, userxattr);
        let plain = |line: &String| line.split(" time ").next().unwrap().to_owned();
        let names = |top: &Path| shown(top).iter().map(plain).collect::<Vec<_>>();
        assert_eq!(names(&merged), names(&both), "{split}");
        // What the overlay cannot do: an implied directory above has attributes of its own.
        let all = |top: &Path| {
            names(top)
                .iter()
                .map(|line| line.split(' ').nth(1).unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(all(&both), all(&indexed), "{split}");
        for path in [both, above, merged] {
            run(Command::new("umount").arg(path));
        }
        fs::remove_file(image).unwrap();
    }
    run(Command::new("umount").arg(indexed));
}

#[test]
fn layers_in_one_file_have_one_device() {
    if !alone("layers_in_one_file_have_one_device") {
        return;
    }
    let scratch = Scratch::new("one");
    let first = fs::read(layer(&scratch, "0.tar", &["d a", "f a/x first"])).unwrap();
    let second = fs::read(layer(
        &scratch,
        "1.tar",
        &["d a", "f a/y second", "f .wh.b "],
    ))
    .unwrap();
    let other = layer(&scratch, "2.tar", &["f a/z third"]);
    let both = scratch.0.join("both");
    fs::write(&both, [&[0; 512], &first[..], &second].concat()).unwrap();
    let part = |offset: usize, left: usize| {
        let (name, section) = section(&both);
        let (offset, left) = (offset as u64, left as u64);
        (
            name,
            Section {
                offset,
                left,
                ..section
            },
        )
    };
    let tars = [
        part(512, first.len()),
        section(&other),
        part(512 + first.len(), second.len()),
    ];
    assert_eq!(devices(&tars).unwrap(), [0, 1, 0]);
    let (indexed, unpacked) = (scratch.dir("indexed"), scratch.dir("unpacked"));
    mount(&tars, Whiteouts::Remove, &scratch.0.join("image"), &indexed).unwrap();
    unpack(&tars, Whiteouts::Remove, &unpacked).unwrap();
    assert_same("one file", &indexed, &unpacked);
    assert_eq!(fs::read(indexed.join("a/y")).unwrap(), b"second");
    run(Command::new("umount").arg(indexed));
    // A part that begins in the middle of a block can only be unpacked.
    fs::write(&both, [&[0; 7], &first[..]].concat()).unwrap();
    let mut none = tempfile(&scratch);
    let reason = index(&[part(7, first.len())], Whiteouts::Remove, &none)
        .unwrap()
        .unwrap_err();
    assert!(
        reason.ends_with(": it does not begin at a multiple of 512 bytes"),
        "{reason}"
    );
    std::io::Write::flush(&mut none).unwrap();
}

fn tempfile(scratch: &Scratch) -> File {
    File::create(scratch.0.join("none")).unwrap()
}
