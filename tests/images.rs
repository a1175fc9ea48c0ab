//! Images as they are run: indexed, unpacked or inflated tars, archives of layers, file systems, directories and names.
//! What a container sees is compared with what GNU tar and umoci make of the same archives; what cannot be run says so
//! in one line and leaves nothing.
//!
//! Trees are compared from outside, by way of /proc/PID/root. Archives of layers are those of rootfs-build/images.
#![cfg(feature = "images")]

mod support;
use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use support::{Bench, Output, Run, Running, eventually, have, have_program, mini, rootfs};

/// What the image of rootfs-build/images says of itself.
const SAID: &str =
    "entry: first default two words\ncwd=/data/kept id=1000:1000 GREETING=hello = world\n";

// --- a place to run images in ----------------------------------------------------------------------------------

/// A bench whose store has a cache, which may hold complete entries at the end, but no loop device.
struct Place(Bench);

impl Deref for Place {
    type Target = Bench;
    fn deref(&self) -> &Bench {
        &self.0
    }
}

impl Place {
    fn new(name: &str) -> Option<Place> {
        Bench::new(&format!("images-{name}")).map(Place)
    }

    /// `mini run OPTIONS WORDS`; options are separated by spaces.
    fn image(&self, options: &str, words: &[&str]) -> Run {
        let options: Vec<&str> = options.split_whitespace().collect();
        self.mini(&["run"]).args(&options).args(words)
    }

    /// `mini run OPTIONS IMAGE -- /bin/sh -c SCRIPT`.
    fn sh(&self, options: &str, image: &str, script: &str) -> Output {
        let shell = [image, "--", "/bin/sh", "-c", script];
        self.image(options, &shell).output()
    }

    /// The lines of --trace about how the image was brought in.
    #[track_caller]
    fn trace(&self, options: &str, image: &str) -> String {
        let options = format!("--trace {options}");
        let lines = self.sh(&options, image, "exit 0").expect(0).stderr;
        let starts = ["# \"", "# unpacked, ", "supervisor unpack("];
        let of_images = |line: &&str| starts.iter().any(|start| line.starts_with(start));
        let lines: Vec<&str> = lines.lines().filter(of_images).collect();
        lines.join("\n")
    }

    /// It is refused with one line, which has these parts, and leaves nothing.
    #[track_caller]
    fn refuses(&self, options: &str, image: &str, parts: &[&str]) {
        let line = self.sh(options, image, "echo ran").one_line(125);
        has(&line, parts);
        assert_eq!(self.cache(), Vec::<String>::new(), "{line}");
        assert_eq!(self.loops(), Vec::<String>::new(), "{line}");
    }

    /// The names in the cache, sorted.
    fn cache(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("store/cache")).into_iter().flatten();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let names = entries.map(|entry| name(entry).into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn forget(&self) {
        let _ = fs::remove_dir_all(self.path("store/cache"));
    }

    /// What loop devices have that is this test's.
    fn loops(&self) -> Vec<String> {
        let devices = fs::read_dir("/sys/block").unwrap().flatten();
        let file = |device: fs::DirEntry| device.path().join("loop/backing_file");
        let mut files: Vec<String> = devices
            .filter_map(|device| fs::read_to_string(file(device)).ok())
            .collect();
        files.retain(|file| file.starts_with(&self.text("")));
        files
    }

    /// A script on the host, in a mount namespace of its own and in the test's directory. $MINI, $BUSYBOX and $IMAGES name
    /// those.
    fn script(&self, script: &str) -> Output {
        let words = ["-m", "--propagation", "private", "sh", "-euc", script];
        let run = self.program("unshare").args(&words);
        let images = Path::new(self.busybox()).with_file_name("images");
        let run = run.env("MINI", mini()).env("BUSYBOX", self.busybox());
        let run = run.env("IMAGES", images).directory(&self.path(""));
        run.output()
    }

    /// The same, which works; what it has said.
    #[track_caller]
    fn host(&self, script: &str) -> String {
        self.script(script).ok()
    }

    /// Starts a container that waits, and compares what it sees with a tree; returns the number of names.
    #[track_caller]
    fn same(&self, run: Run, image: &str, expected: &Path, owners: bool) -> usize {
        let volume = format!("{}/bin/busybox:/busybox:ro", self.busybox_directory());
        let script = "echo ready; exec /busybox sleep 1000";
        let run = run.args(&["--stop-signal", "TERM", "-v", &volume, image, "--"]);
        let mut running = run.args(&["/busybox", "sh", "-c", script]).start();
        running.until("ready");
        let sleeps = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words == b"/busybox\0sleep\x001000\0"
        };
        let mut found = None;
        assert!(eventually(|| {
            found = self.processes().into_iter().find(sleeps);
            found.is_some()
        }));
        let root = format!("/proc/{}/root", found.unwrap());
        let compared = compare(Path::new(&root), expected, owners);
        running.kill(15);
        running.wait().expect(143);
        compared
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let names = self.cache();
            let whole = !names.iter().any(|name| name.starts_with(".new-"));
            assert!(whole, "{names:?}");
            assert!(eventually(|| self.loops().is_empty()), "{:?}", self.loops());
            self.forget();
        }
    }
}

/// A file of rootfs-build/images; `None` if they are not there.
fn image(name: &str) -> Option<String> {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/rootfs/images");
    let reason = format!("{} is not there (rootfs-build makes it)", images.display());
    have("images", images.exists(), &reason).then(|| images.join(name).to_str().unwrap().to_owned())
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

/// The lines of a table, whose columns are separated by "~".
fn rows<const N: usize>(table: &str) -> impl Iterator<Item = [&str; N]> {
    let columns = |line: &'_ str| line.split('~').count();
    table.trim().lines().map(move |line| {
        assert_eq!(columns(line), N, "{line}");
        let mut cells = line.split('~').map(str::trim);
        std::array::from_fn(|_| cells.next().unwrap())
    })
}

// --- comparing trees -------------------------------------------------------------------------------------------

/// Which trees are compared, and whether their owners are.
struct Trees<'a> {
    ours: &'a Path,
    expected: &'a Path,
    owners: bool,
    /// The first name of each inode.
    inodes: [HashMap<(u64, u64), PathBuf>; 2],
    compared: usize,
    bytes: u64,
}

/// What a container has seen of an archive is what another program makes of it; returns the number of names.
#[track_caller]
fn compare(ours: &Path, expected: &Path, owners: bool) -> usize {
    let start = Instant::now();
    let inodes = Default::default();
    let (compared, bytes) = (0, 0);
    let mut trees = Trees {
        ours,
        expected,
        owners,
        inodes,
        compared,
        bytes,
    };
    let mut names = vec![PathBuf::new()];
    while let Some(name) = names.pop() {
        trees.node(&name);
        if fs::symlink_metadata(expected.join(&name)).unwrap().is_dir() {
            let entries = trees.list(expected, &name);
            assert_eq!(trees.list(ours, &name), entries, "{}", name.display());
            names.extend(entries);
        }
    }
    let Trees {
        compared, bytes, ..
    } = trees;
    eprintln!(
        "{compared} names, {bytes} bytes compared in {:?}",
        start.elapsed()
    );
    compared
}

impl Trees<'_> {
    /// What is in a directory, without what every container has mounts on.
    fn list(&self, top: &Path, name: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(top.join(name)).unwrap();
        let names = entries.map(|entry| name.join(entry.unwrap().file_name()));
        let own = |path: &Path| {
            let mounts = [
                "proc",
                "sys",
                "dev",
                "busybox",
                "etc/hosts",
                "etc/hostname",
                "etc/resolv.conf",
                // To an overlay this device means that there is no such file.
                "devices/whiteout",
            ];
            let made = ["etc", "data"].iter().any(|made| path == Path::new(made))
                && !self.expected.join(path).exists();
            made || mounts.iter().any(|mount| path == Path::new(mount))
        };
        let mut names: Vec<PathBuf> = names.filter(|path| !own(path)).collect();
        names.sort();
        names
    }

    fn node(&mut self, name: &Path) {
        let paths = [self.ours.join(name), self.expected.join(name)];
        let [ours, expected] = paths.each_ref().map(|path| {
            fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
        });
        let attributes = |status: &fs::Metadata, path: &Path| {
            let owner = self.owners.then(|| (status.uid(), status.gid()));
            let links = (!status.is_dir()).then(|| status.nlink());
            let size = status.is_file().then(|| status.size());
            let target = fs::read_link(path).ok();
            // The time of what a container has mounts in is its own; GNU tar (1.34, 1.35) leaves that of unpacking on
            // directories without a member, and on some with one.
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let recent = expected.mtime() > now.unwrap().as_secs() as i64 - 600;
            let timeless =
                expected.is_dir() && (recent || matches!(name.to_str(), Some("" | "etc")));
            let time = (!timeless).then(|| (status.mtime(), status.mtime_nsec()));
            let mode = format!("{:o}", status.mode());
            (
                mode,
                owner,
                links,
                size,
                target,
                time,
                status.rdev(),
                xattrs(path),
            )
        };
        let [one, other] = [
            attributes(&ours, &paths[0]),
            attributes(&expected, &paths[1]),
        ];
        assert_eq!(one, other, "{}", name.display());
        let first = [&ours, &expected].map(|status| (status.dev(), status.ino()));
        let [one, other] = [0, 1].map(|side| {
            let first = self.inodes[side].entry(first[side]);
            first.or_insert(name.to_owned()).clone()
        });
        assert!(ours.is_dir() || one == other, "{}: a link", name.display());
        if ours.is_file() && one == name {
            self.bytes += ours.size();
            assert!(same_contents(&paths), "{}: contents", name.display());
        }
        self.compared += 1;
    }
}

/// Whether files are the same; of those of gigabytes, which are holes, the last part is enough.
fn same_contents(paths: &[PathBuf; 2]) -> bool {
    let files = paths.each_ref().map(|path| File::open(path).unwrap());
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut at = match files[0].metadata().unwrap().len() {
        ..100_000_000 => 0,
        length => length - 100_000,
    };
    loop {
        let [one, other] = [0, 1].map(|side| files[side].read_at(&mut buffers[side], at).unwrap());
        if one == 0 || one != other || buffers[0][..one] != buffers[1][..one] {
            return one == 0 && other == 0;
        }
        at += one as u64;
    }
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let path = path.as_os_str().as_bytes();
    let mut names = vec![0; 65536];
    // Not every file system has them; those of an overlay cannot be seen in one.
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay."));
    let mut list: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.escape_ascii().to_string(), value[..length].to_vec())
        })
        .collect();
    list.sort();
    list
}

/// What GNU tar unpacks into a new directory of the bench.
fn gnu_tar(place: &Place, archive: &str, name: &str) -> PathBuf {
    let to = place.dir(name);
    let words = [
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "-xpf",
        archive,
        "-C",
        &to,
    ];
    Run::new("tar").args(&words).output().expect(0);
    to.into()
}

// --- tars, indexed ---------------------------------------------------------------------------------------------

#[test]
fn a_container_of_a_distribution_sees_what_gnu_tar_unpacks() {
    let (Some(place), Some(debian)) = (Place::new("debian"), rootfs("debian.tar")) else {
        return;
    };
    let indexed = || place.image("--userns host --store index", &[]);
    let expected = gnu_tar(&place, &debian, "gnu");
    assert!(place.same(indexed(), &debian, &expected, true) > 4000);
    // The same in a tar of more than 500 MB: the tree three times, and large files.
    place.host(
        "mkdir big; for n in 1 2 3; do head -c 40000000 /dev/urandom >big/$n; cp big/$n big/$n.copy; done
         ln big/1 big/linked; tar cf big.tar big; rm -r big; for n in a b c; do
         tar rf big.tar --xattrs --xattrs-include='*' --acls --transform \"s,^\\.,./$n,S\" -C gnu .; done",
    );
    let big = place.text("big.tar");
    assert!(fs::metadata(&big).unwrap().len() > 500_000_000);
    fs::remove_dir_all(&expected).unwrap();
    let expected = gnu_tar(&place, &big, "gnu");
    assert!(place.same(indexed(), &big, &expected, true) > 14_000);
}

#[test]
fn a_container_of_any_tar_sees_what_gnu_tar_unpacks() {
    let Some(place) = Place::new("torture") else {
        return;
    };
    let torture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tar/torture");
    let archives = place.dir("archives");
    Run::new(torture).args(&[&archives]).output().expect(0);
    let entries = fs::read_dir(&archives).unwrap();
    let mut tars: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    tars.retain(|path| path.extension().is_some_and(|end| end == "tar"));
    assert!(tars.len() > 17, "{tars:?}");
    for tar in tars {
        let archive = tar.to_str().unwrap();
        let mut expected = tar.with_extension("expected");
        match expected.is_dir() {
            // cp made no ".".
            true => fs::set_permissions(&expected, fs::Permissions::from_mode(0o755)).unwrap(),
            false => expected = gnu_tar(&place, archive, "gnu"),
        }
        eprintln!("{archive}");
        let run = place.image("--userns host", &[]);
        assert!(place.same(run, archive, &expected, true) > 1);
        let _ = fs::remove_dir_all(place.path("gnu"));
    }
}

#[test]
fn the_second_start_does_not_read_the_tar() {
    let Some(place) = Place::new("cached") else {
        return;
    };
    let tar = place.text("b.tar");
    fs::copy(place.busybox(), &tar).unwrap();
    has(
        &place.trace("", &tar),
        &[" index of ", " made, file-backed"],
    );
    let entries = place.cache();
    assert_eq!(entries.len(), 1);
    has(&place.trace("", &tar), &[" from the cache, file-backed"]);
    assert_eq!(place.cache(), entries);
    if have_program("strace") {
        let calls = "read,pread64,readv,preadv,mmap,sendfile,copy_file_range,splice";
        place.host(&format!(
            "strace -f -y -qq -o log -e trace={calls} \"$MINI\" run b.tar -- /bin/true"
        ));
        let log = fs::read_to_string(place.path("log")).unwrap();
        let reads: Vec<&str> = log.lines().filter(|line| line.contains("b.tar")).collect();
        let start = |line: &&str| line.contains(" pread64(") && line.ends_with(", 4096, 0) = 4096");
        assert!(reads.len() == 1 && reads.iter().all(start), "{reads:#?}");
    }
    // Another time: another index, and the old one goes.
    place.host("touch -d 2001-01-01 b.tar");
    has(&place.trace("", &tar), &[" made, "]);
    let others = place.cache();
    assert!(others.len() == 1 && others != entries, "{others:?}");
}

#[test]
fn a_tar_changed_while_it_is_in_use_is_an_error_inside_and_nothing_else() {
    let Some(place) = Place::new("changed") else {
        return;
    };
    place.host(
        "for letter in n z; do head -c 300000 /dev/zero | tr '\\0' $letter >$letter; done
         cp \"$BUSYBOX\" c.tar; tar rf c.tar n z; mkdir v",
    );
    let tar = place.text("c.tar");
    let bytes = fs::read(&tar).unwrap();
    let block = |letter| {
        let all = |block: &[u8]| block.iter().all(|&byte| byte == letter);
        bytes.chunks(512).position(all).unwrap() as u64 * 512
    };
    // On a store in memory the index goes through loop devices.
    for store in ["", "mount -t tmpfs -o mode=700 none store;"] {
        let script = "ls -l /n /z >/dev/null; echo ready; until [ -e /v/go ]; do sleep 0.02; done
            head -c 4 /n; echo; cat /z >/dev/null 2>/v/error || echo failed; echo alive";
        let run = format!("{store} \"$MINI\" run -v $PWD/v:/v c.tar -- /bin/sh -c '{script}'");
        place.dir("store");
        fs::write(&tar, &bytes).unwrap();
        let run = place.program("unshare").args(&["-m", "sh", "-euc", &run]);
        let mut running = run.env("MINI", mini()).directory(&place.path("")).start();
        running.until("ready");
        let file = File::options().write(true).open(&tar).unwrap();
        file.write_all_at(&[b'N'; 512], block(b'n')).unwrap();
        file.set_len(block(b'z')).unwrap();
        place.file("v/go", "");
        assert_eq!(running.wait().ok(), "ready\nNNNN\nfailed\nalive\n");
        let error = fs::read_to_string(place.path("v/error")).unwrap();
        assert!(
            error.ends_with("error\n") && error.contains("I/O") || error.contains("Input/output"),
            "{error}"
        );
        fs::remove_file(place.path("v/go")).unwrap();
    }
    // What is left of it is no tar any more.
    place.forget();
    place.refuses("", &tar, &[&tar, "truncated"]);
}

#[test]
fn how_a_tar_is_brought_in_can_be_chosen_and_is_told() {
    let Some(place) = Place::new("store") else {
        return;
    };
    for [store, said] in rows(
        "auto   ~ made, file-backed
         index  ~ from the cache, file-backed
         unpack ~ /store/containers/
         tmpfs  ~ /image0\")",
    ) {
        let trace = place.trace(&format!("--store {store}"), place.busybox());
        has(&trace, &[said]);
        let unpacks = store == "unpack" || store == "tmpfs";
        assert_eq!(trace.contains(" unpack(\""), unpacks, "{trace}");
    }
    // What cannot be indexed is unpacked, with the reason, the second time without trying; or not run at all.
    place.forget();
    place.host("mkdir s; tar xpf \"$BUSYBOX\" -C s; truncate -s 100k s/hole; tar cSf s.tar -C s .");
    let sparse = place.text("s.tar");
    let why = [
        "# unpacked, not indexed: index(",
        "\"./hole\": it has holes",
    ];
    has(&place.trace("", &sparse), &why);
    has(
        &place.trace("", &sparse),
        &["# unpacked, not indexed: it was tried before"],
    );
    let line = place.sh("--store index", &sparse, "").one_line(125);
    assert!(line.starts_with("--store index: "), "{line}");
    // A store in memory: no file system can read from files there.
    let text = place.host(
        "mkdir mem; mount -t tmpfs -o mode=700 none mem; for n in 1 2; do
         MINI_ROOT=$PWD/mem \"$MINI\" run --trace \"$BUSYBOX\" -- /bin/true 2>&1 | grep -o 'index of.*'; done
         for n in 1 2 3 4 5 6 7 8 9; do grep -l busybox.tar /sys/block/loop*/loop/backing_file >left 2>/dev/null || exit 0
         sleep 0.1; done; cat left",
    );
    let size = text.split(' ').nth(2).unwrap();
    let told = |how| format!("index of {size} bytes {how}, through loop devices\n");
    assert_eq!(text, told("made") + &told("from the cache"));
}

#[test]
fn fifty_containers_of_an_image_share_its_page_cache() {
    let (Some(place), Some(debian)) = (Place::new("fifty"), rootfs("debian.tar")) else {
        return;
    };
    // All at the same moment, with nothing in the cache: one makes the index.
    let started = Instant::now();
    let run = || place.image("", &[&debian, "--", "/bin/echo", "hi"]).start();
    let all: Vec<Running> = (0..50).map(|_| run()).collect();
    for running in all {
        assert_eq!(running.wait().ok(), "hi\n");
    }
    eprintln!(
        "50 with a cold cache started and ended: {:?}",
        started.elapsed()
    );
    assert_eq!(place.cache().len(), 1);

    let Some(group) = MemoryGroup::new() else {
        return;
    };
    let script =
        "find / -xdev -type f -print0 | xargs -0 cat >/dev/null; echo read; read line; exit 0";
    let shell = format!(
        "echo $$ >{}/cgroup.procs; exec \"$MINI\" run -i {debian} -- /bin/bash -c '{script}'",
        group.0.display()
    );
    let start = || {
        let mut run = place
            .program("sh")
            .env("MINI", mini())
            .args(&["-c", &shell]);
        // It stays open until the container is to end.
        run.command.stdin(std::process::Stdio::piped());
        run.start()
    };
    let before = group.cache();
    let mut all = vec![start()];
    all[0].until("read");
    let first = group.cache();
    for _ in 0..7 {
        let mut some: Vec<Running> = (0..7).map(|_| start()).collect();
        for running in &mut some {
            running.until("read");
        }
        all.extend(some);
    }
    let (first, more) = (first - before, group.cache().saturating_sub(first));
    let kilobytes = (first / 1000, more / 1000);
    eprintln!(
        "page cache of 50: {} kB for the first, {} kB for the others",
        kilobytes.0, kilobytes.1
    );
    assert!(first > 80_000_000, "the first has read too little: {first}");
    assert!(all.len() == 50 && more < 25_000_000, "{more} bytes more");
    for mut running in all {
        drop(running.child.stdin.take());
        running.wait().expect(0);
    }
}

/// A cgroup whose memory is counted, for this test.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Option<MemoryGroup> {
        let places = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
        let name = format!("mini-test-images-{}", std::process::id());
        let made = places
            .iter()
            .map(|place| Path::new(place).join(&name))
            .find(|path| {
                let made = fs::create_dir(path).is_ok();
                let counts = made && path.join("memory.stat").exists();
                if made && !counts {
                    fs::remove_dir(path).unwrap();
                }
                counts
            });
        have("cgroup", made.is_some(), "no cgroup counts memory here")
            .then(|| MemoryGroup(made.unwrap()))
    }

    /// Bytes of page cache.
    fn cache(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.stat")).unwrap();
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.parse().ok())
        };
        value("total_cache ").or_else(|| value("file ")).unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        assert!(eventually(|| fs::remove_dir(&self.0).is_ok()) || std::thread::panicking());
    }
}

// --- compressed tars -------------------------------------------------------------------------------------------

#[test]
fn compressed_tars_are_told_by_their_contents_and_inflated_once() {
    let Some(place) = Place::new("compressed") else {
        return;
    };
    let script = "sha256sum /bin/busybox; ls /etc";
    let sum = place.sh("", place.busybox(), script).ok();
    // $1 and $2 are the first megabyte of it, and the rest.
    let parts = "cp \"$BUSYBOX\" b; head -c 1000000 b >1; tail -c +1000001 b >2";
    for [tool, command] in rows(
        "gzip  ~ gzip -c b
         gzip  ~ gzip -1c 1 2
         pigz  ~ pigz -c b
         zstd  ~ zstd -qc b
         zstd  ~ zstd -qc 1; zstd -qc 2
         zstd  ~ zstd -qc --long=27 <b
         zstd  ~ zstd -qc --no-check b
         pzstd ~ pzstd -qc -p 2 b
         xz    ~ xz -0c b
         xz    ~ xz -9e -T1 <b
         xz    ~ xz -0 -T2 --block-size=300KiB -c b
         xz    ~ xz -0 --check=sha256 -c b
         xz    ~ xz -0c 1; head -c 8 /dev/zero; xz -0c --check=crc32 2; head -c 4 /dev/zero",
    ) {
        // No tool, no test of it.
        if !have_program(tool) {
            continue;
        }
        place.host(&format!("{parts}; ({command}) >wrong.txt"));
        let image = place.text("wrong.txt");
        place.forget();
        assert_eq!(place.sh("", &image, script).ok(), sum, "{command}");
        let state = || {
            let path = |name| place.path("store/cache").join(name);
            let status = place
                .cache()
                .into_iter()
                .map(|name| fs::metadata(path(name)).unwrap());
            status
                .map(|status| (status.ino(), status.ctime_nsec()))
                .collect::<Vec<_>>()
        };
        let inflated = state();
        assert_eq!(inflated.len(), 2, "{command}: a tar and its index");
        has(&place.trace("", &image), &[" from the cache, "]);
        assert_eq!(state(), inflated, "{command}");
        let unpacked = place.sh("--store unpack", &image, script);
        assert_eq!(unpacked.ok(), sum, "{command}");
    }
}

#[test]
fn damaged_and_endless_archives_are_refused_in_one_line() {
    let Some(place) = Place::new("damaged") else {
        return;
    };
    place.host("cp \"$BUSYBOX\" b; gzip -c b >gzip; zstd -qc b >zstd; xz -0c b >xz");
    // Where the check sum of the contents is: from the end.
    for (tool, sum) in [("gzip", 8), ("zstd", 1), ("xz", 40)] {
        let whole = fs::read(place.path(tool)).unwrap();
        let mut wrong = whole.clone();
        wrong[whole.len() - sum] ^= 1;
        for (name, bytes, said) in [
            ("sum", &wrong[..], "not a valid "),
            ("cut", &whole[..whole.len() / 2], "cut short"),
            ("end", &whole[..whole.len() - 1], "cut short"),
            ("more", &[&whole[..], b"garbage"].concat(), "not a valid "),
        ] {
            let image = place.file(&format!("{tool}.{name}"), bytes);
            for store in ["auto", "unpack", "tmpfs"] {
                place.refuses(&format!("--store {store}"), &image, &[&image, tool, said]);
            }
            let output = place.script(&format!("\"$MINI\" run - -- /bin/true <{image}"));
            has(&output.one_line(125), &[tool, said]);
        }
    }
    // What inflates to no tar, and what no build reads.
    for [name, command, said] in rows(
        "zeros ~ head -c 10000000 /dev/zero | gzip -1 ~ it is not a tar archive: it has no member
         short ~ head -c 1000000 b | gzip -1          ~ truncated
         bzip2 ~ printf BZh91AY                       ~ it is compressed with bzip2, which this build of mini cannot read
         long  ~ zstd -qc --long=31 <b                ~ its window is larger than 128 MiB",
    ) {
        place.host(&format!("{command} >{name}"));
        let image = place.text(name);
        place.refuses("", &image, &[&format!("(\"{image}\"): "), said]);
    }
    // Bombs: a limit that can be stated; without it half of what is free.
    place.host(
        "truncate -s 64M zero; tar cf z.tar zero; gzip -1k z.tar; zstd -q z.tar; xz -0k z.tar",
    );
    for name in ["z.tar.gz", "z.tar.zst", "z.tar.xz"] {
        let image = place.text(name);
        let said = format!(
            "inflate(\"{image}\"): it holds more than 33554432 bytes, which is the limit (--image-limit)"
        );
        place.refuses("--image-limit 32m", &image, &[&said]);
        let said = [&image, "only 33554432 free in the --image-limit"];
        place.refuses("--image-limit 32m --store unpack", &image, &said);
        let text = place.host(&format!(
            "mkdir -p mem; mount -t tmpfs -o size=80m,mode=700 none mem
             MINI_ROOT=$PWD/mem \"$MINI\" run {name} 2>&1 || find mem -type f"
        ));
        assert!(
            text.ends_with("bytes, which is the limit (--image-limit)\n")
                && text.lines().count() == 1,
            "{text}"
        );
    }
}

// --- archives of layers ----------------------------------------------------------------------------------------

#[test]
fn archives_of_every_tool_run_as_they_say() {
    let (Some(place), Some(_)) = (Place::new("archives"), image("")) else {
        return;
    };
    for name in "oci oci-zstd oci.tar buildah-oci.tar docker.tar buildah-docker.tar docker.tar.gz docker docker25.tar \
                 two.tar#localhost/three:1"
        .split(' ')
    {
        let path = image(name).unwrap();
        for options in ["", "--store unpack", "--userns host"] {
            let output = place.image(options, &[&path]).output();
            assert_eq!(output.ok(), SAID, "{options} {name}");
        }
        has(&place.trace("--entrypoint=", &path), &[" from the cache, "]);
        if name.ends_with(".tar") || name.ends_with(".gz") {
            let read = place.host(&format!("cat {path} | \"$MINI\" run -"));
            assert_eq!(read, SAID, "{name}");
        }
        if name.ends_with(".tar") {
            let read = place.host(&format!("gzip -1c {path} | \"$MINI\" run -"));
            assert_eq!(read, SAID, "{name}");
        }
    }
    for [options, name, said] in rows(
        "                       ~ two.tar#localhost/other:2 ~ other
                                ~ built.tar                 ~ built /home 1000
                                ~ multi                     ~ built /home 1000
                                ~ multi.tar                 ~ built /home 1000
         --platform linux/amd64 ~ multi.tar                 ~ built /home 1000",
    ) {
        let output = place.image(options, &[&image(name).unwrap()]).output();
        assert_eq!(
            output.ok(),
            said.replace(' ', "\n") + "\n",
            "{options} {name}"
        );
    }
    // Chosen, if only to find that it has no programs.
    let foreign = place.image("--platform linux/arm64", &[&image("multi").unwrap()]);
    has(
        &foreign.output().expect(127).stderr,
        &["execve(\"/bin/sh\"): not found"],
    );
    for [options, name, said] in rows(
        "                       ~ two.tar      ~ it has several images: \"localhost/three:1\", \"localhost/other:2\" (choose one with ROOTFS#NAME)
                                ~ two.tar#none ~ it has no image \"none\", but \"localhost/three:1\", \"localhost/other:2\"
         --platform linux/s390x ~ multi        ~ it has nothing for linux/s390x, but for \"linux/amd64\", \"linux/arm64/v8\"",
    ) {
        let path = image(name).unwrap();
        place.forget();
        place.refuses(options, &path, &[&path, said]);
    }
}

#[test]
fn options_override_what_an_image_says_as_dockers_do() {
    let (Some(place), Some(image)) = (Place::new("override"), image("docker.tar")) else {
        return;
    };
    // With an entrypoint from the command line the image's command is not used.
    for [options, command, said] in rows(
        "                                ~ a b ~ entry: first a b|cwd=/data/kept id=1000:1000 GREETING=hello = world
         -e GREETING=x -w /tmp -u 0      ~ q   ~ entry: first q|cwd=/tmp id=0:0 GREETING=x
         -u 5:6 -w /new                  ~ q   ~ entry: first q|cwd=/new id=5:6 GREETING=hello = world
         --entrypoint /bin/echo          ~     ~
         --entrypoint /bin/echo          ~ x   ~ x
         --entrypoint [\"/bin/echo\",\"a\"]  ~ c   ~ a c
         --entrypoint=                   ~ pwd ~ /data/kept",
    ) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let output = place.image(options, &[&[&image, "--"], &words[..]].concat()).output();
        assert_eq!(output.ok(), said.replace('|', "\n") + "\n", "{options} {command}");
    }
    // An image's stop signal is what SIGTERM becomes.
    for [options, signal] in rows("~ USR1\n --stop-signal HUP ~ HUP\n --stop-signal SIGUSR2 ~ USR2")
    {
        let script = "for s in USR1 USR2 HUP TERM; do trap \"echo $s; exit 7\" $s; done
            echo ready; while :; do sleep 0.02; done";
        let words = [&image, "--", "/bin/sh", "-c", script];
        let run = place.image(&format!("--entrypoint= {options}"), &words);
        let mut running = run.start();
        running.until("ready");
        running.kill(15);
        assert_eq!(
            running.wait().expect(7).stdout,
            format!("ready\n{signal}\n")
        );
    }
}

#[test]
fn three_layers_are_what_umoci_makes_of_them() {
    let (Some(place), Some(bundle)) = (Place::new("umoci"), image("umoci-bundle/rootfs")) else {
        return;
    };
    let as_root = "--entrypoint= -u 0 -w /";
    for [name, bundle] in rows(
        "oci          ~ umoci-bundle
         oci.tar      ~ umoci-bundle
         docker25.tar ~ umoci-bundle
         built.tar    ~ built-bundle",
    ) {
        let expected = image(bundle).unwrap() + "/rootfs";
        for store in ["index", "unpack", "tmpfs"] {
            let run = place.image(&format!("{as_root} --userns host --store {store}"), &[]);
            assert!(place.same(run, &image(name).unwrap(), expected.as_ref(), true) > 300);
        }
    }
    // As an ordinary user, who owns all of it.
    let user = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let namespaces = Run::new("setpriv")
        .args(&user)
        .args(&["unshare", "-Urm", "true"]);
    let works = namespaces.output().status == 0;
    if have(
        "user",
        works,
        "user namespaces are not for ordinary users here",
    ) {
        let _ = fs::remove_dir_all(place.path("store"));
        place.host("rm -rf run; chown 1000:1000 .; cp \"$MINI\" mini; cp \"$IMAGES/docker.tar\" .");
        let run = place
            .program("setpriv")
            .args(&user)
            .args(&["env", "PATH=/nowhere"]);
        let run = run.args(&[&place.text("mini"), "run"]);
        let run = run.args(&as_root.split(' ').collect::<Vec<_>>());
        assert!(place.same(run, &place.text("docker.tar"), bundle.as_ref(), false) > 300);
    }
}

#[test]
fn damaged_archives_of_layers_are_refused_in_one_line() {
    let (Some(place), Some(_)) = (Place::new("badlayers"), image("")) else {
        return;
    };
    // $m is the manifest, $layer the largest one.
    let names = "m=blobs/sha256/$(sed 's/.*sha256:\\([0-9a-f]*\\).*/\\1/' index.json); layer=$(ls -S blobs/sha256/* | head -1)";
    for [what, change, said] in rows(
        r#"another manifest    ~ sed -i s/zstd/zstD/ $m                           ~ is damaged: it has sha256:
           another layer       ~ printf x | dd of=$layer bs=1 seek=1000 conv=notrunc status=none ~ damaged
           a shorter layer     ~ truncate -s -1 $layer                           ~ bytes, not
           a missing layer     ~ rm $layer                                       ~ is missing
           a missing manifest  ~ rm $m                                           ~ is missing
           a wrong size        ~ sed -i 's/"size":[0-9]*/"size":7/' index.json   ~ bytes, not 7
           a path for a digest ~ sed -i 's,sha256:[0-9a-f]*,sha256:../../../etc/passwd,' index.json ~ not "sha256:" and 64 digits in lower case
           another digest      ~ sed -i 's/sha256:/md5:/' index.json             ~ not "sha256:" and 64 digits in lower case
           another kind        ~ sed -i s/manifest.v1/strange.v9/ index.json     ~ unknown media type "application/vnd.oci.image.strange.v9+json"
           nested lists        ~ printf '[%.0s' $(seq 10000) >index.json         ~ nested more than 32 deep
           nested objects      ~ printf '{"a":%.0s' $(seq 10000) >index.json     ~ nested more than 32 deep
           no JSON             ~ echo junk >index.json                           ~ line 1, column 1:
           an empty index      ~ echo '{"schemaVersion":2,"manifests":[]}' >index.json ~ it lists no image"#,
    ) {
        let copy = "rm -rf bad; cp -r \"$IMAGES/oci-zstd\" bad; cd bad";
        place.host(&format!(
            "{copy}; {names}; {change}; tar cf ../bad.tar oci-layout index.json blobs"
        ));
        for name in ["bad", "bad.tar"] {
            eprintln!("{what}: {name}");
            place.refuses(
                "--entrypoint=",
                &place.text(name),
                &[&place.text(name), said],
            );
        }
    }
}

#[test]
fn layers_are_stacked_by_hand_in_every_order() {
    let Some(place) = Place::new("layers") else {
        return;
    };
    place.host(
        "mkdir base; tar xpf \"$BUSYBOX\" -C base; mkdir -p base/x base/y/sub base/z
         touch base/x/low base/x/stays base/y/low base/y/sub/low base/z/low; tar cf base.tar -C base .
         mkdir -p tar/x tar/y; touch tar/x/.wh.low tar/y/.wh..wh..opq tar/y/tar; tar cf l.tar -C tar x y; gzip -k l.tar
         mkdir -p dir/x dir/z; mknod dir/x/stays c 0 0; touch dir/x/dir dir/z/dir
         setfattr -n user.overlay.opaque -v y dir/z; setfattr -n trusted.overlay.opaque -v y dir/z
         mkdir -p last/x; echo last >last/x/dir; tar cf last.tar -C last x",
    );
    for [layers, seen] in rows(
        "                   ~ /x/low /x/stays /y/low /y/sub/low /z/low
         l.tar              ~ /x/stays /y/tar /z/low
         l.tar.gz           ~ /x/stays /y/tar /z/low
         dir                ~ /x/dir /x/low /y/low /y/sub/low /z/dir
         l.tar dir          ~ /x/dir /y/tar /z/dir
         dir l.tar          ~ /x/dir /y/tar /z/dir
         dir l.tar last.tar ~ last /x/dir /y/tar /z/dir
         last.tar dir l.tar ~ /x/dir /y/tar /z/dir",
    ) {
        for store in [
            "",
            "--userns host",
            "--store unpack",
            "--store tmpfs --userns host",
        ] {
            let layers = layers.split_whitespace();
            let layers = layers.map(|name| format!(" --layer {}", place.text(name)));
            let options = store.to_owned() + &layers.collect::<String>();
            for base in ["base", "base.tar"] {
                let script = "echo $(cat /x/dir 2>/dev/null; find /x /y /z -type f | sort)";
                let output = place.sh(&options, &place.text(base), script);
                assert_eq!(output.ok().trim_end(), seen, "{options} {base}");
            }
        }
    }
    let missing = place.text("missing");
    let line = place.sh(&format!("--layer {missing}"), place.busybox(), "");
    has(&line.one_line(125), &[&missing]);
}

// --- file systems, directories, names --------------------------------------------------------------------------

#[test]
fn file_systems_and_block_devices_are_mounted_as_they_are() {
    let Some(place) = Place::new("filesystems") else {
        return;
    };
    if !(have_program("mksquashfs") && have_program("mkfs.erofs") && have_program("mkfs.ext4")) {
        return;
    }
    let expected = gnu_tar(&place, place.busybox(), "tree");
    place.host(
        "mksquashfs tree squashfs -quiet -no-progress; mkfs.erofs -E force-inode-extended erofs tree >/dev/null 2>&1
         mkfs.ext4 -q -d tree ext4 16M >/dev/null 2>&1
         mkdir m; cp ext4 mounted; mount -o loop mounted m; touch m/new; sync; cp mounted dirty; umount m",
    );
    for (name, how) in [
        ("squashfs", "through loop devices"),
        ("erofs", "file-backed"),
        ("ext4", "through loop devices"),
    ] {
        let image = place.text(name);
        let before = fs::read(&image).unwrap();
        has(&place.trace("", &image), &[how]);
        let script = "echo x >/new && rm -r /bin/ls /lost+found; stat -c %u:%g /bin/sh";
        let output = place.sh("", &image, script).expect(0);
        assert_eq!(output.stdout, "0:0\n", "{name}");
        if name != "ext4" {
            // Which has a lost+found of its own.
            let run = place.image("--userns host", &[]);
            assert!(place.same(run, &image, &expected, true) > 300);
        }
        let text = place.host(&format!(
            "device=$(losetup -f --show -r {name}); \"$MINI\" run --trace $device -- /bin/echo hi >out 2>log || cat log
             losetup -d $device; cat out; grep -o 'from the device' log"
        ));
        assert_eq!(text, "hi\nfrom the device\n", "{name}");
        assert!(fs::read(&image).unwrap() == before, "{name} was written to");
    }
    let dirty = place.text("dirty");
    let said =
        "mounted, or not cleanly unmounted (e2fsck -f repairs it; mini does not write to an image)";
    place
        .sh("", &dirty, "")
        .fails(125, &format!("\"{dirty}\": {said}"));
    // Damaged: the kernel refuses it.
    let squashfs = fs::read(place.path("squashfs")).unwrap();
    let cut = place.file("cut", &squashfs[..squashfs.len() / 2]);
    has(&place.sh("", &cut, "").one_line(125), &[&cut, "squashfs"]);
    if have_program("strace") {
        // The third mount(2) of a start is that of the image.
        let inject = "strace -f -qq -o log -e trace=mount -e inject=mount:error=ENODEV:when=3";
        let output = place.script(&format!("{inject} \"$MINI\" run squashfs"));
        has(
            &output.one_line(125),
            &["(this kernel lacks CONFIG_SQUASHFS)"],
        );
    }
}

#[test]
fn a_directory_is_not_written_to_unless_asked_for() {
    let Some(place) = Place::new("directory") else {
        return;
    };
    let root = place.busybox_directory();
    let before = support::tree(Path::new(&root));
    let script = "echo x >/new; rm /etc/passwd; chmod 700 /bin; mkdir /d && ls /new /d";
    place.sh("", &root, script).ok();
    let after = support::tree(Path::new(&root));
    assert!(after == before, "the directory has changed");
    for options in ["--rw", "--rw --userns host"] {
        let script =
            "umask 022; mkdir /made; echo x >/made/root; echo y >/made/user; chown 5:6 /made/user
            mv /etc/shells /made; ls -ln /made | wc -l";
        assert_eq!(place.sh(options, &root, script).ok(), "4\n");
        let owners = "cd busybox; ! [ -e etc/shells ]; stat -c '%n %u:%g %a' made made/*; mv made/shells etc; rm -r made";
        let expected = "made 0:0 755\nmade/root 0:0 644\nmade/shells 0:0 644\nmade/user 5:6 644\n";
        assert_eq!(place.host(owners), expected, "{options}");
    }
    let line = place.sh("--rw", place.busybox(), "").one_line(125);
    has(&line, &["--rw"]);
}

#[test]
fn a_file_wins_over_an_image_of_the_same_name() {
    let (Some(place), Some(built)) = (Place::new("names"), image("built.tar")) else {
        return;
    };
    place.mini(&["import", &built, "box"]).output().ok();
    let run = "\"$MINI\" run box";
    assert_eq!(place.host(run), "built\n/home\n1000\n");
    assert_eq!(
        place.host(&format!("cp \"$IMAGES/docker.tar\" box; {run}; rm box")),
        SAID
    );
    assert_eq!(place.host(run), "built\n/home\n1000\n");
    place.mini(&["rmi", "box"]).output().ok();
    let line = place.script(run).one_line(125);
    has(&line, &["\"box\"", "(nor is there an image of that name)"]);
    fs::remove_dir_all(place.path("store")).unwrap();
}

// --- what is shown, what is free -------------------------------------------------------------------------------

#[test]
fn what_takes_seconds_shows_on_a_terminal_how_far_it_is() {
    let Some(place) = Place::new("progress") else {
        return;
    };
    if !have_program("script") || !have_program("strace") {
        return;
    }
    place.host("gzip -c \"$BUSYBOX\" >slow.gz");
    // Every read takes a while (about a megabyte a second: both sides of 1 MB/s occur).
    let slow = "strace -f -qq -o /dev/null -e trace=pread64,read -e inject=pread64,read:delay_exit=60000 \"$MINI\" run";
    let command = "slow.gz -- /bin/echo done";
    // script(1) types what ends its input.
    let terminal = |command: &str| {
        let text = place.host(&format!("script -qec '{command}' /dev/null"));
        text.replace('\0', "").replace("^@", "")
    };
    let text = terminal(&format!("{slow} {command}"));
    let (bars, rest) = text.rsplit_once("\r\x1b[K").expect("no bar");
    assert_eq!(rest, "done\r\n");
    let bar = bars.rsplit('\r').next().unwrap();
    has(
        bar,
        &[
            "mini: slow.gz [#",
            "B of 1.0 MB, ",
            "B/s, 0:0",
            " left\x1b[K",
        ],
    );
    // What does not say how long it is has no bar.
    let text = terminal(&format!("cat slow.gz | {slow} - -- /bin/echo done"));
    has(&text, &["mini: - ", "B/s\x1b[K", "\r\x1b[Kdone"]);
    assert!(!text.contains(" left"), "{text:?}");
    place.forget();
    let text = terminal(&format!("{slow} --quiet {command}"));
    assert_eq!(text, "done\r\n");
    place.forget();
    assert_eq!(place.host(&format!("{slow} {command}")), "done\n");
}

#[test]
fn what_does_not_fit_is_told_beforehand_or_leaves_nothing() {
    let (Some(place), Some(debian)) = (Place::new("space"), rootfs("debian.tar")) else {
        return;
    };
    // The line that mini says; at most a megabyte of directories is left.
    let run = |prepare: &str, command: &str| {
        let text = place.host(&format!(
            "mkdir -p disk; {prepare}; export MINI_ROOT=$PWD/disk/store; \"$MINI\" run {command} 2>&1 && exit 9
             find disk -type f; [ $(df --output=used disk | tail -1) -lt 1000 ]"
        ));
        assert!(
            text.lines().count() == 1 && text.starts_with("mini: "),
            "{text}"
        );
        text
    };
    let memory = "mount -t tmpfs -o size=4m,mode=700 none disk";
    let store = place.text("disk/store");
    let size = fs::metadata(&debian).unwrap().len();
    let needs = format!("needs {size} bytes, only 41");
    let there = format!(" free in \"{store}/");
    has(
        &run(memory, &format!("--store unpack {debian}")),
        &[&needs, &there],
    );
    place.host("head -c 6000000 /dev/urandom >random; tar czf r.tar.gz random");
    has(
        &run(memory, "r.tar.gz"),
        &["needs 600", " bytes, only 41", &there],
    );
    // On a disk what is inflated has no size beforehand.
    if have_program("mkfs.ext4") {
        place.host("head -c 30000000 /dev/zero | tr '\\0' x >many; tar czf m.tar.gz many");
        let disk = "rm -f image; truncate -s 16M image; mkfs.ext4 -q image; mount -o loop image disk; rmdir disk/lost+found";
        let line = run(disk, "--image-limit 1g m.tar.gz");
        has(&line, &[&format!("\"{store}/cache\""), "No space left"]);
        let line = run(disk, &format!("--store unpack {debian}"));
        has(&line, &[&needs[..needs.len() - 2], &there]);
    }
}
