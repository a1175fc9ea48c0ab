//! Images as they are run: indexed, unpacked or inflated tars, archives of layers, file systems, directories and names.
//! What a container sees is compared with what GNU tar and umoci make of the same archives; what cannot be run says so
//! in one line and leaves nothing.
//!
//! Trees are compared from outside, by way of /proc/PID/root. Archives of layers are those of rootfs-build/images.

mod support;
use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
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

    /// `mini run OPTIONS IMAGE -- /bin/sh -c SCRIPT`; options are separated by spaces.
    fn sh(&self, options: &str, image: &str, script: &str) -> Run {
        let shell = [image, "--", "/bin/sh", "-c", script];
        self.image(options, &shell[..])
    }

    /// `mini run OPTIONS WORDS`.
    fn image(&self, options: &str, words: &[&str]) -> Run {
        let options: Vec<&str> = options.split_whitespace().collect();
        self.mini(&["run"]).args(&options).args(words)
    }

    /// The lines of --trace about how the image was brought in.
    #[track_caller]
    fn trace(&self, options: &str, image: &str) -> String {
        let run = self.sh(&format!("--trace {options}"), image, "exit 0");
        let lines = run.output().expect(0).stderr;
        let of_images = |line: &&str| {
            let starts = ["# \"", "# unpacked, ", "supervisor unpack("];
            starts.iter().any(|start| line.starts_with(start))
        };
        lines
            .lines()
            .filter(of_images)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// It is refused with one line, which is returned, and leaves nothing.
    #[track_caller]
    fn refused(&self, options: &str, image: &str) -> String {
        let line = self.sh(options, image, "echo ran").output().one_line(125);
        assert_eq!(self.cache(), Vec::<String>::new(), "{line}");
        assert_eq!(self.loops(), Vec::<String>::new(), "{line}");
        line
    }

    /// The names in the cache, sorted.
    fn cache(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("store/cache")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
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
        let files = devices
            .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
        files
            .filter(|file| file.starts_with(self.path("").to_str().unwrap()))
            .collect()
    }

    /// A script on the host, in a mount namespace of its own and in the test's directory. $MINI, $BUSYBOX and $IMAGES name
    /// those.
    fn script(&self, script: &str) -> Output {
        let words = ["-m", "--propagation", "private", "sh", "-euc", script];
        let run = self
            .program("unshare")
            .args(&words)
            .directory(&self.path(""));
        let images = Path::new(self.busybox()).with_file_name("images");
        let run = run.env("MINI", mini()).env("BUSYBOX", self.busybox());
        run.env("IMAGES", images).output()
    }

    /// Starts a container that waits, and shows `look` its root.
    fn seen(&self, run: Run, image: &str, look: impl FnOnce(&Path)) {
        let volume = format!("{}/bin/busybox:/busybox:ro", self.busybox_directory());
        let script = "echo ready; exec /busybox sleep 1000";
        let volume = ["--stop-signal", "TERM", "-v", &volume];
        let options = [image, "--", "/busybox", "sh", "-c", script];
        let mut running = run.args(&volume).args(&options).start();
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
        look(Path::new(&format!("/proc/{}/root", found.unwrap())));
        running.kill(15);
        running.wait().expect(143);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let new: Vec<String> = self.cache();
        assert!(!new.iter().any(|name| name.starts_with(".new-")), "{new:?}");
        assert!(eventually(|| self.loops().is_empty()), "{:?}", self.loops());
        self.forget();
    }
}

/// A file of rootfs-build/images.
fn images() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/rootfs/images");
    let reason = format!("{} is not there (rootfs-build makes it)", path.display());
    have("images", path.exists(), &reason).then_some(path)
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
fn assert_same(ours: &Path, expected: &Path, owners: bool) -> usize {
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
        if one == 0 || one != other || buffers[0] != buffers[1] {
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
    let expected = gnu_tar(&place, &debian, "gnu");
    let run = place.mini(&["run", "--userns", "host", "--store", "index"]);
    place.seen(run, &debian, |root| {
        assert!(assert_same(root, &expected, true) > 4000)
    });
    // The same in a tar of more than 500 MB: the tree four times, and as much again in large files.
    let made = place.script(
        "mkdir big; for n in 1 2 3; do head -c 40000000 /dev/urandom >big/$n; cp big/$n big/$n.copy; done
         ln big/1 big/linked; tar cf big.tar big; rm -r big
         for n in a b c; do tar rf big.tar --xattrs --xattrs-include='*' --acls --transform \"s,^\\.,./$n,S\" -C gnu .; done",
    );
    made.ok();
    let big = place.text("big.tar");
    assert!(fs::metadata(&big).unwrap().len() > 500_000_000);
    fs::remove_dir_all(&expected).unwrap();
    let expected = gnu_tar(&place, &big, "gnu");
    let run = place.mini(&["run", "--userns", "host", "--store", "index"]);
    place.seen(run, &big, |root| {
        assert!(assert_same(root, &expected, true) > 14_000)
    });
}

#[test]
fn a_container_of_any_tar_sees_what_gnu_tar_unpacks() {
    let Some(place) = Place::new("torture") else {
        return;
    };
    let torture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tar/torture");
    let archives = place.dir("archives");
    Run::new(torture).args(&[&archives]).output().expect(0);
    let mut tars: Vec<PathBuf> = fs::read_dir(&archives)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    tars.retain(|path| path.extension().is_some_and(|end| end == "tar"));
    assert!(tars.len() > 17, "{tars:?}");
    for tar in tars {
        let archive = tar.to_str().unwrap();
        eprintln!("{archive}");
        let made = tar.with_extension("expected");
        let expected = match made.is_dir() {
            true => {
                // cp made no ".".
                fs::set_permissions(&made, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                    .unwrap();
                made
            }
            false => gnu_tar(&place, archive, "gnu"),
        };
        let run = place.mini(&["run", "--userns", "host"]);
        place.seen(run, archive, |root| {
            assert!(assert_same(root, &expected, true) > 0)
        });
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
    let first = place.trace("", &tar);
    assert!(
        first.contains(" index of ") && first.contains(" made, file-backed"),
        "{first}"
    );
    let entries = place.cache();
    assert_eq!(entries.len(), 1);
    let second = place.trace("", &tar);
    assert!(second.contains(" from the cache, file-backed"), "{second}");
    assert_eq!(place.cache(), entries);
    if have_program("strace") {
        let calls = "trace=read,pread64,readv,preadv,mmap,sendfile,copy_file_range,splice";
        let (log, mini) = (place.text("log"), mini());
        let words = [
            "-f",
            "-y",
            "-o",
            &log,
            "-e",
            calls,
            mini.to_str().unwrap(),
            "run",
            &tar,
            "true",
        ];
        place.program("strace").args(&words).output().expect(0);
        let log = fs::read_to_string(&log).unwrap();
        let reads: Vec<&str> = log.lines().filter(|line| line.contains("b.tar")).collect();
        let start = |line: &&str| line.contains(" pread64(") && line.ends_with(", 4096, 0) = 4096");
        assert!(reads.len() <= 1 && reads.iter().all(start), "{reads:#?}");
    }
    // Another time: another index, and the old one goes. In another place it is the same.
    Run::new("touch")
        .args(&["-d", "2001-01-01", &tar])
        .output()
        .ok();
    assert!(place.trace("", &tar).contains(" made, "));
    let others = place.cache();
    assert!(others.len() == 1 && others != entries, "{others:?}");
}

#[test]
fn a_tar_changed_while_it_is_in_use_is_an_error_inside_and_nothing_else() {
    let Some(place) = Place::new("changed") else {
        return;
    };
    let made = place.script(
        "for letter in n z; do head -c 300000 /dev/zero | tr '\\0' $letter >$letter; done
         cp \"$BUSYBOX\" c.tar; tar rf c.tar n z",
    );
    made.ok();
    let tar = place.text("c.tar");
    let bytes = fs::read(&tar).unwrap();
    let block = |letter| {
        let all = |block: &[u8]| block.iter().all(|&byte| byte == letter);
        bytes.chunks(512).position(all).unwrap() as u64 * 512
    };
    let volume = format!("-v {}:/v", place.dir("v"));
    let script = "ls -l /n /z >/dev/null; echo ready; until [ -e /v/go ]; do sleep 0.02; done
        head -c 4 /n; echo; cat /z >/dev/null || echo failed; echo alive";
    for store in ["file", "loop"] {
        // On a store in memory the index goes through loop devices.
        let words = [
            "-m",
            "sh",
            "-euc",
            "[ $1 = file ] || mount -t tmpfs -o mode=700 none store; shift; exec \"$@\"",
            "sh",
            store,
        ];
        fs::create_dir_all(place.path("store")).unwrap();
        fs::write(&tar, &bytes).unwrap();
        let mini = mini();
        let run = [
            mini.to_str().unwrap(),
            "run",
            "-v",
            &volume[3..],
            &tar,
            "--",
            "/bin/sh",
            "-c",
            script,
        ];
        let mut running = place
            .program("unshare")
            .directory(&place.path(""))
            .args(&words)
            .args(&run)
            .start();
        running.until("ready");
        let file = File::options().write(true).open(&tar).unwrap();
        file.write_all_at(&[b'N'; 512], block(b'n')).unwrap();
        file.set_len(block(b'z')).unwrap();
        place.file("v/go", "");
        let output = running.wait().expect(0);
        assert_eq!(output.stdout, "ready\nNNNN\nfailed\nalive\n", "{store}");
        assert!(
            output.stderr.contains("I/O error") || output.stderr.contains("Input/output error"),
            "{output:?}"
        );
        fs::remove_file(place.path("v/go")).unwrap();
    }
    // What is left of it is no tar any more.
    place.forget();
    let line = place.refused("", &tar);
    assert!(line.contains(&tar) && line.contains("truncated"), "{line}");
}

#[test]
fn how_a_tar_is_brought_in_can_be_chosen_and_is_told() {
    let Some(place) = Place::new("store") else {
        return;
    };
    let busybox = place.busybox();
    for (store, said) in [
        ("auto", " made, file-backed"),
        ("index", " from the cache, file-backed"),
        ("unpack", "/store/containers/"),
        ("tmpfs", "/image0\")"),
    ] {
        let trace = place.trace(&format!("--store {store}"), busybox);
        assert!(trace.contains(said), "{store}: {trace}");
        assert_eq!(
            trace.contains(" unpack(\""),
            store == "unpack" || store == "tmpfs"
        );
    }
    // What cannot be indexed is unpacked, with the reason, the second time without trying; or not run at all.
    place.forget();
    place
        .script("mkdir s; tar xpf \"$BUSYBOX\" -C s; truncate -s 100k s/hole; tar cSf s.tar -C s .")
        .ok();
    let sparse = place.text("s.tar");
    let trace = place.trace("", &sparse);
    assert!(
        trace.contains("# unpacked, not indexed: index(")
            && trace.contains("\"./hole\": it has holes"),
        "{trace}"
    );
    let trace = place.trace("", &sparse);
    assert!(
        trace.contains("# unpacked, not indexed: it was tried before"),
        "{trace}"
    );
    let line = place
        .sh("--store index", &sparse, "")
        .output()
        .one_line(125);
    assert!(line.starts_with("--store index: "), "{line}");
    // A store in memory: no file system can read from files there.
    let mounted = "mkdir mem; mount -t tmpfs -o mode=700 none mem; for n in 1 2; do
        MINI_ROOT=$PWD/mem \"$MINI\" run --trace \"$BUSYBOX\" -- /bin/true 2>&1 | grep 'index of'; done
        for i in 1 2 3 4 5 6 7 8 9; do grep -l busybox.tar /sys/block/loop*/loop/backing_file >left 2>/dev/null || exit 0; sleep 0.1
        done; cat left";
    let text = place.script(mounted).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "loop devices are left: {text}");
    assert!(lines[0].ends_with(" made, through loop devices"), "{text}");
    assert!(
        lines[1].ends_with(" from the cache, through loop devices"),
        "{text}"
    );
}

#[test]
fn fifty_containers_of_an_image_share_its_page_cache() {
    let (Some(place), Some(debian)) = (Place::new("fifty"), rootfs("debian.tar")) else {
        return;
    };
    // All at the same moment, with nothing in the cache: one makes the index.
    let started = Instant::now();
    let all: Vec<Running> = (0..50)
        .map(|_| place.image("", &[&debian, "--", "/bin/echo", "hi"]).start())
        .collect();
    all.into_iter()
        .for_each(|running| assert_eq!(running.wait().ok(), "hi\n"));
    eprintln!(
        "50 containers with a cold cache, started and ended: {:?}",
        started.elapsed()
    );
    assert_eq!(place.cache().len(), 1);

    let Some(group) = MemoryGroup::new() else {
        return;
    };
    let script = "find / -xdev -type f -print0 | xargs -0 cat >/dev/null; echo read; read line";
    let shell = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", group.0.display());
    let start = || {
        let mini = mini();
        let run = [
            "sh",
            mini.to_str().unwrap(),
            "run",
            "-i",
            &debian,
            "--",
            "/bin/bash",
            "-c",
            script,
        ];
        // Its standard input stays open until it is to end.
        let mut run = place.program("sh").args(&["-c", &shell]).args(&run);
        run.command.stdin(std::process::Stdio::piped());
        run.start()
    };
    let before = group.cache();
    let mut all = vec![start()];
    all[0].until("read");
    let first = group.cache();
    for _ in 0..7 {
        let mut some: Vec<Running> = (0..7).map(|_| start()).collect();
        some.iter_mut()
            .for_each(|running| drop(running.until("read")));
        all.extend(some);
    }
    assert_eq!(all.len(), 50);
    let more = group.cache().saturating_sub(first);
    let first = first - before;
    eprintln!(
        "page cache: {} kB for the first, {} kB for 49 more",
        first / 1000,
        more / 1000
    );
    assert!(first > 80_000_000, "the first has read too little: {first}");
    assert!(more < 25_000_000, "49 more take {more} bytes of page cache");
    for mut running in all {
        drop(running.child.stdin.take());
        assert_eq!(running.wait().status, 1);
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
    let sum = place
        .sh("", place.busybox(), "sha256sum /bin/busybox; ls /etc")
        .output()
        .ok();
    let parts = |with: &str| format!("head -c 1000000 b | {with}; tail -c +1000001 b | {with}");
    for (tool, command) in [
        ("gzip", "gzip -c b".to_owned()),
        ("gzip", parts("gzip -1")),
        ("pigz", "pigz -c b".into()),
        ("zstd", "zstd -qc b".into()),
        ("zstd", parts("zstd -q")),
        ("zstd", "zstd -qc --long=27 <b".into()),
        ("zstd", "zstd -qc --no-check b".into()),
        ("pzstd", "pzstd -qc -p 2 b".into()),
        ("xz", "xz -0c b".into()),
        ("xz", "xz -9e -T1 <b".into()),
        ("xz", "xz -0 -T2 --block-size=300KiB -c b".into()),
        ("xz", "xz -0 --check=sha256 -c b".into()),
        (
            "xz",
            format!("{}; head -c 8 /dev/zero", parts("xz -0 --check=crc32")),
        ),
    ] {
        // No tool, no test of it.
        if !have_program(tool) {
            continue;
        }
        place
            .script(&format!("cp \"$BUSYBOX\" b; ({command}) >wrong.txt"))
            .ok();
        let image = place.text("wrong.txt");
        place.forget();
        let output = place
            .sh("", &image, "sha256sum /bin/busybox; ls /etc")
            .output();
        assert_eq!(output.ok(), sum, "{command}");
        let state = || {
            let status =
                |name: &String| fs::metadata(place.path("store/cache").join(name)).unwrap();
            let ids = place
                .cache()
                .into_iter()
                .map(|name| (status(&name).ino(), status(&name).ctime_nsec()));
            ids.collect::<Vec<_>>()
        };
        let inflated = state();
        assert_eq!(inflated.len(), 2, "{command}: a tar and its index");
        assert!(
            place.trace("", &image).contains(" from the cache, "),
            "{command}"
        );
        assert_eq!(state(), inflated, "{command}");
        let unpacked = place
            .sh("--store unpack", &image, "sha256sum /bin/busybox; ls /etc")
            .output();
        assert_eq!(unpacked.ok(), sum, "{command}");
    }
}

#[test]
fn damaged_and_endless_archives_are_refused_in_one_line() {
    let Some(place) = Place::new("damaged") else {
        return;
    };
    place
        .script("gzip -c \"$BUSYBOX\" >gzip; zstd -qc \"$BUSYBOX\" >zstd; xz -0c \"$BUSYBOX\" >xz")
        .ok();
    // Where the check sum of the contents is: from the end.
    for (tool, sum) in [("gzip", 8), ("zstd", 1), ("xz", 40)] {
        let whole = fs::read(place.path(tool)).unwrap();
        let mut wrong = whole.clone();
        wrong[whole.len() - sum] ^= 1;
        for (name, bytes, said) in [
            ("sum", &wrong, ""),
            ("cut", &whole[..whole.len() / 2].to_vec(), "cut short"),
            ("end", &whole[..whole.len() - 1].to_vec(), "cut short"),
            ("more", &[&whole[..], b"garbage"].concat(), ""),
        ] {
            let image = place.file(&format!("{tool}.{name}"), bytes);
            for store in ["auto", "unpack", "tmpfs"] {
                let line = place.refused(&format!("--store {store}"), &image);
                let known = line.contains(&image) && line.contains(tool) && line.contains(said);
                assert!(known, "{store}: {line}");
            }
            let output = place.script(&format!("\"$MINI\" run - -- /bin/true <{image}"));
            assert!(output.one_line(125).contains(tool), "{image}");
        }
    }
    // What inflates to no tar, and what no build reads.
    for (name, command, said) in [
        ("zeros", "head -c 10000000 /dev/zero | gzip -1", "no member"),
        (
            "short",
            "head -c 1000000 \"$BUSYBOX\" | gzip -1",
            "truncated",
        ),
        (
            "bzip2",
            "bzip2 -c \"$BUSYBOX\"",
            "it is compressed with bzip2, which this build of mini cannot read",
        ),
        (
            "long",
            "zstd -qc --long=31 <\"$BUSYBOX\"",
            "its window is larger than 128 MiB",
        ),
    ] {
        if name != "bzip2" || have_program("bzip2") {
            place.script(&format!("{command} >{name}")).ok();
            let image = place.text(name);
            let line = place.refused("", &image);
            assert!(
                line.contains(&format!("\"{image}\"): ")) && line.contains(said),
                "{line}"
            );
        }
    }
    // Bombs: a limit that can be stated; without it half of what is free.
    place
        .script(
            "truncate -s 64M zero; tar cf z.tar zero; gzip -1k z.tar; zstd -q z.tar; xz -0k z.tar",
        )
        .ok();
    for name in ["z.tar.gz", "z.tar.zst", "z.tar.xz"] {
        let image = place.text(name);
        let line = place.refused("--image-limit 32m", &image);
        let said =
            format!("inflate(\"{image}\"): it holds more than 33554432 bytes, which is the limit");
        assert_eq!(line, said);
        let line = place.refused("--image-limit 32m --store unpack", &image);
        assert!(
            line.contains(&image) && line.contains("only 33554432 free in the --image-limit"),
            "{line}"
        );
        let small = format!(
            "mkdir -p mem; mount -t tmpfs -o size=80m,mode=700 none mem; MINI_ROOT=$PWD/mem \"$MINI\" run {name} 2>&1 || find mem -type f"
        );
        let text = place.script(&small).ok();
        assert!(
            text.contains("bytes, which is the limit\n") && text.lines().count() == 1,
            "{text}"
        );
    }
}

// --- archives of layers ----------------------------------------------------------------------------------------

#[test]
fn archives_of_every_tool_run_as_they_say() {
    let (Some(place), Some(images)) = (Place::new("archives"), images()) else {
        return;
    };
    let path = |name: &str| images.join(name).to_str().unwrap().to_owned();
    for name in [
        "oci",
        "oci-zstd",
        "oci.tar",
        "buildah-oci.tar",
        "docker.tar",
        "buildah-docker.tar",
        "docker.tar.gz",
        "docker",
        "docker25.tar",
        "two.tar#localhost/three:1",
    ] {
        for options in ["", "--store unpack", "--userns host"] {
            let output = place.image(options, &[&path(name)]).output();
            assert_eq!(output.ok(), SAID, "{options} {name}");
        }
        assert!(
            place
                .trace("--entrypoint=", &path(name))
                .contains(" from the cache, "),
            "{name}"
        );
        let image = images.join(name);
        if image.is_file() {
            for command in ["cat", "gzip -1c"] {
                if name.ends_with(".gz") && command != "cat" {
                    continue;
                }
                let piped = format!("{command} {} | \"$MINI\" run -", image.display());
                assert_eq!(place.script(&piped).ok(), SAID, "{piped}");
            }
        }
    }
    for (options, name, said) in [
        ("", "two.tar#localhost/other:2", "other\n"),
        ("", "built.tar", "built\n/home\n1000\n"),
        ("", "multi", "built\n/home\n1000\n"),
        ("", "multi.tar", "built\n/home\n1000\n"),
        (
            "--platform linux/amd64",
            "multi.tar",
            "built\n/home\n1000\n",
        ),
    ] {
        assert_eq!(
            place.image(options, &[&path(name)]).output().ok(),
            said,
            "{options} {name}"
        );
    }
    let foreign = place
        .image("--platform linux/arm64", &[&path("multi")])
        .output();
    let foreign = foreign.expect(127).stderr;
    assert!(
        foreign.contains("execve(\"/bin/sh\"): not found"),
        "{foreign}"
    );
    for (options, name, said) in [
        (
            "",
            "two.tar",
            "it has several images: \"localhost/three:1\", \"localhost/other:2\" (choose one with ROOTFS#NAME)",
        ),
        (
            "",
            "two.tar#none",
            "it has no image \"none\", but \"localhost/three:1\", \"localhost/other:2\"",
        ),
        (
            "--platform linux/s390x",
            "multi",
            "it has nothing for linux/s390x, but for \"linux/amd64\", \"linux/arm64/v8\"",
        ),
    ] {
        let line = place.image(options, &[&path(name)]).output().one_line(125);
        assert!(line.contains(said) && line.contains(&path(name)), "{line}");
    }
}

#[test]
fn options_override_what_an_image_says_as_dockers_do() {
    let (Some(place), Some(images)) = (Place::new("override"), images()) else {
        return;
    };
    let image = images.join("docker.tar").to_str().unwrap().to_owned();
    let where_ = "cwd=/data/kept id=1000:1000 GREETING=hello = world\n";
    for (options, command, said) in [
        (
            "",
            &["a", "b c"][..],
            format!("entry: first a b c\n{where_}"),
        ),
        (
            "-e GREETING=x -w /tmp -u 0",
            &["q"],
            "entry: first q\ncwd=/tmp id=0:0 GREETING=x\n".into(),
        ),
        (
            "-u 5:6 -w /new",
            &["q"],
            "entry: first q\ncwd=/new id=5:6 GREETING=hello = world\n".into(),
        ),
        // Docker's: with an entrypoint of its own the image's command is not used.
        ("--entrypoint /bin/echo", &[], "\n".into()),
        ("--entrypoint /bin/echo", &["x"], "x\n".into()),
        ("--entrypoint [\"/bin/echo\",\"a\"]", &["c"], "a c\n".into()),
        ("--entrypoint=", &["/bin/pwd"], "/data/kept\n".into()),
    ] {
        let words = [&[image.as_str(), "--"], command].concat();
        assert_eq!(
            place.image(options, &words).output().ok(),
            said,
            "{options} {command:?}"
        );
    }
    // An image's stop signal is what SIGTERM becomes.
    for (options, signal) in [
        ("", "USR1"),
        ("--stop-signal HUP", "HUP"),
        ("--stop-signal SIGUSR2", "USR2"),
    ] {
        let script = "for s in USR1 USR2 HUP TERM; do trap \"echo $s; exit 7\" $s; done; echo ready; while :; do sleep 0.02; done";
        let words = [&image, "--", "/bin/sh", "-c", script];
        let mut running = place
            .image(&format!("--entrypoint= {options}"), &words)
            .start();
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
    let (Some(place), Some(images)) = (Place::new("umoci"), images()) else {
        return;
    };
    let as_root = ["--entrypoint=", "-u", "0", "-w", "/"];
    for (name, bundle) in [
        ("oci", "umoci-bundle"),
        ("oci.tar", "umoci-bundle"),
        ("docker25.tar", "umoci-bundle"),
        ("built.tar", "built-bundle"),
    ] {
        let image = images.join(name).to_str().unwrap().to_owned();
        let expected = images.join(bundle).join("rootfs");
        for store in ["index", "unpack", "tmpfs"] {
            let run = place
                .mini(&["run", "--userns", "host", "--store", store])
                .args(&as_root);
            place.seen(run, &image, |root| {
                assert!(assert_same(root, &expected, true) > 30)
            });
        }
    }
    // As somebody who can read it: owners are his, or those that he has been given.
    std::os::unix::fs::chown(place.path(""), Some(1000), Some(1000)).unwrap();
    let _ = fs::remove_dir_all(place.path("store"));
    let _ = fs::remove_dir_all(place.path("run"));
    let user = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let probe = Run::new("setpriv")
        .args(&user)
        .args(&["unshare", "-Urm", "true"])
        .output()
        .status;
    if have(
        "user",
        probe == 0,
        "user namespaces are not for ordinary users here",
    ) {
        let image = place.text("docker.tar");
        fs::copy(images.join("docker.tar"), &image).unwrap();
        let binary = place.text("mini");
        fs::copy(mini(), &binary).unwrap();
        let words = [
            &user[..],
            &["env", "PATH=/nowhere", &binary, "run"],
            &as_root,
        ]
        .concat();
        let run = place.program("setpriv").args(&words);
        let expected = images.join("umoci-bundle/rootfs");
        place.seen(run, &image, |root| {
            assert!(assert_same(root, &expected, false) > 30)
        });
    }
}

#[test]
fn damaged_archives_of_layers_are_refused_in_one_line() {
    let (Some(place), Some(_)) = (Place::new("badlayers"), images()) else {
        return;
    };
    let blob = "blob() { sed -n 's/.*\"digest\":\"sha256:\\([0-9a-f]*\\)\".*/\\1/p' \"$1\" | sed 's,^,blobs/sha256/,'; }; m=$(blob index.json)
        layer=$(ls -S blobs/sha256/* | head -1); ";
    for (what, script, said) in [
        (
            "another manifest",
            "sed -i s/zstd/zstD/ $m",
            "is damaged: it has sha256:",
        ),
        (
            "another layer",
            "printf x | dd of=$layer bs=1 seek=1000 conv=notrunc status=none",
            "",
        ),
        ("a shorter layer", "truncate -s -1 $layer", "bytes, not"),
        ("a missing layer", "rm $layer", "is missing"),
        ("a missing manifest", "rm $m", "is missing"),
        (
            "a wrong size",
            "sed -i 's/\"size\":[0-9]*/\"size\":7/' index.json",
            "bytes, not 7",
        ),
        (
            "a path for a digest",
            "sed -i 's/sha256:[0-9a-f]*/sha256:..\\/..\\/..\\/etc\\/passwd/' index.json",
            "not \"sha256:\" and 64 digits in lower case",
        ),
        (
            "another digest",
            "sed -i 's/sha256:/md5:/' index.json",
            "not \"sha256:\" and 64 digits in lower case",
        ),
        (
            "another kind",
            "sed -i 's/manifest.v1/strange.v9/' index.json",
            "unknown media type \"application/vnd.oci.image.strange.v9+json\"",
        ),
        (
            "nested lists",
            "printf '[%.0s' $(seq 10000) >index.json",
            "nested more than 32 deep",
        ),
        (
            "nested objects",
            "printf '{\"a\":%.0s' $(seq 10000) >index.json",
            "nested more than 32 deep",
        ),
        ("no JSON", "echo junk >index.json", "line 1, column 1: "),
        (
            "an empty index",
            "echo '{\"schemaVersion\":2,\"manifests\":[]}' >index.json",
            "it lists no image",
        ),
    ] {
        let script = format!(
            "rm -rf bad; cp -r \"$IMAGES/oci-zstd\" bad; cd bad; {blob} {script}; tar cf ../bad.tar oci-layout *[!t]"
        );
        place.script(&script).ok();
        for name in ["bad", "bad.tar"] {
            let image = place.text(name);
            let line = place.refused("--entrypoint=", &image);
            eprintln!("{what}: {line}");
            assert!(
                line.contains(&image) && line.contains(said),
                "{what}: {line}"
            );
        }
    }
}

#[test]
fn layers_are_stacked_by_hand_in_every_order() {
    let Some(place) = Place::new("layers") else {
        return;
    };
    let made = "mkdir base; tar xpf \"$BUSYBOX\" -C base
        mkdir -p base/x base/y/sub base/z; touch base/x/low base/x/stays base/y/low base/y/sub/low base/z/low
        tar cf base.tar -C base .
        mkdir -p tar/x tar/y; touch tar/x/.wh.low tar/y/.wh..wh..opq tar/y/tar; tar cf l.tar -C tar x y; gzip -k l.tar
        mkdir -p dir/x dir/z; mknod dir/x/stays c 0 0; touch dir/x/dir dir/z/dir
        setfattr -n user.overlay.opaque -v y dir/z; setfattr -n trusted.overlay.opaque -v y dir/z
        mkdir -p last/x; echo last >last/x/dir; tar cf last.tar -C last x";
    place.script(made).ok();
    let tar = "/x/stays /y/tar /z/low";
    let dir = "/x/dir /x/low /y/low /y/sub/low /z/dir";
    let both = "/x/dir /y/tar /z/dir";
    for (layers, seen) in [
        (&[][..], "/x/low /x/stays /y/low /y/sub/low /z/low"),
        (&["l.tar"], tar),
        (&["l.tar.gz"], tar),
        (&["dir"], dir),
        (&["l.tar", "dir"], both),
        (&["dir", "l.tar"], both),
        (&["dir", "l.tar", "last.tar"], both),
        (&["last.tar", "dir", "l.tar"], both),
    ] {
        for base in ["base", "base.tar"] {
            for more in [
                "",
                "--userns host",
                "--store unpack",
                "--store tmpfs --userns host",
            ] {
                let layers = layers
                    .iter()
                    .map(|name| format!(" --layer {}", place.text(name)));
                let options = more.to_owned() + &layers.collect::<String>();
                let script = "echo $(find /x /y /z -type f | sort)";
                let output = place.sh(&options, &place.text(base), script).output();
                assert_eq!(output.ok().trim_end(), seen, "{options} {base}");
            }
        }
    }
    let options = format!("--layer {}", place.text("missing"));
    let line = place
        .sh(&options, place.busybox(), "")
        .output()
        .one_line(125);
    assert!(line.contains(&place.text("missing")), "{line}");
}

// --- file systems, directories, names --------------------------------------------------------------------------

#[test]
fn file_systems_and_block_devices_are_mounted_as_they_are() {
    let Some(place) = Place::new("filesystems") else {
        return;
    };
    if !["mksquashfs", "mkfs.erofs", "mkfs.ext4"]
        .into_iter()
        .all(have_program)
    {
        return;
    }
    let expected = gnu_tar(&place, place.busybox(), "tree");
    let made = "mksquashfs tree squashfs -quiet -no-progress; mkfs.erofs -E force-inode-extended erofs tree >/dev/null 2>&1
        mkfs.ext4 -q -d tree ext4 16M >/dev/null 2>&1
        mkdir m; cp ext4 mounted; mount -o loop mounted m; touch m/new; sync; cp mounted dirty; umount m";
    place.script(made).ok();
    for (name, how) in [
        ("squashfs", "through loop devices"),
        ("erofs", "file-backed"),
        ("ext4", "through loop devices"),
    ] {
        let image = place.text(name);
        let before = fs::read(&image).unwrap();
        let trace = place.trace("", &image);
        assert!(trace.contains(how), "{name}: {trace}");
        let output = place
            .sh(
                "",
                &image,
                "echo x >/new && rm /bin/ls && stat -c %u:%g /bin/sh",
            )
            .output();
        assert_eq!(output.ok(), "0:0\n", "{name}");
        if name != "ext4" {
            // Which has a lost+found of its own.
            place.seen(place.mini(&["run", "--userns", "host"]), &image, |tree| {
                assert!(assert_same(tree, &expected, true) > 300)
            });
        }
        let device = format!(
            "device=$(losetup -f --show -r {name}); \"$MINI\" run --trace $device -- /bin/echo hi >out 2>log || cat log
             losetup -d $device; cat out; grep -o 'from the device' log"
        );
        assert_eq!(
            place.script(&device).ok(),
            "hi\nfrom the device\n",
            "{name}"
        );
        assert!(fs::read(&image).unwrap() == before, "{name} was written to");
    }
    place.forget();
    let dirty = place.text("dirty");
    let said =
        "mounted, or not cleanly unmounted (e2fsck -f repairs it; mini does not write to an image)";
    let line = place.sh("", &dirty, "").output().one_line(125);
    assert_eq!(line, format!("\"{dirty}\": {said}"));
    // Damaged: the kernel refuses it.
    let squashfs = fs::read(place.path("squashfs")).unwrap();
    let cut = place.file("cut", &squashfs[..squashfs.len() / 2]);
    let line = place.sh("", &cut, "").output().one_line(125);
    assert!(line.contains(&cut) && line.contains("squashfs"), "{line}");
    if have_program("strace") {
        // The third mount(2) of a start is that of the image.
        let inject =
            "strace -f -qq -o log -e trace=mount -e inject=mount:error=ENODEV:when=3 \"$MINI\" run";
        let line = place
            .script(&format!("{inject} \"$PWD/squashfs\""))
            .one_line(125);
        assert!(
            line.ends_with("(this kernel lacks CONFIG_SQUASHFS)"),
            "{line}"
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
    place.sh("", &root, script).output().ok();
    assert!(
        support::tree(Path::new(&root)) == before,
        "the directory has changed"
    );
    for options in ["", "--userns host"] {
        let script = "umask 022; mkdir /made; echo x >/made/root; echo y >/made/user; chown 5:6 /made/user; mv /etc/shells /made; rm -f /home/x";
        place
            .sh(&format!("--rw {options}"), &root, script)
            .output()
            .ok();
        let owner = |name: &str| {
            let status = fs::metadata(place.path("busybox/made").join(name)).unwrap();
            (status.uid(), status.gid(), status.mode() & 0o777)
        };
        assert_eq!(owner("root"), (0, 0, 0o644), "{options}");
        assert_eq!(owner("user"), (5, 6, 0o644), "{options}");
        assert!(!place.path("busybox/etc/shells").exists() && owner("shells").0 == 0);
        fs::rename(
            place.path("busybox/made/shells"),
            place.path("busybox/etc/shells"),
        )
        .unwrap();
        fs::remove_dir_all(place.path("busybox/made")).unwrap();
    }
    let line = place.sh("--rw", place.busybox(), "").output().one_line(125);
    assert!(line.contains("--rw"), "{line}");
}

#[test]
fn a_file_wins_over_an_image_of_the_same_name() {
    let (Some(place), Some(images)) = (Place::new("names"), images()) else {
        return;
    };
    let built = images.join("built.tar").to_str().unwrap().to_owned();
    place.mini(&["import", &built, "box"]).output().ok();
    let run = || {
        place
            .mini(&["run", "box"])
            .directory(&place.path(""))
            .output()
    };
    assert_eq!(run().ok(), "built\n/home\n1000\n");
    fs::copy(images.join("docker.tar"), place.path("box")).unwrap();
    assert_eq!(run().ok(), SAID);
    fs::remove_file(place.path("box")).unwrap();
    assert_eq!(run().ok(), "built\n/home\n1000\n");
    place.mini(&["rmi", "box"]).output().ok();
    let missing = place.image("", &["box"]).output().one_line(125);
    assert!(
        missing.contains("\"box\"") && missing.ends_with("(nor is there an image of that name)"),
        "{missing}"
    );
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
    place.script("gzip -c \"$BUSYBOX\" >slow.gz").ok();
    // Every read takes a while.
    let slow = "strace -f -qq -o /dev/null -e trace=pread64,read -e inject=pread64,read:delay_exit=60000 \"$MINI\" run";
    let command = "slow.gz -- /bin/echo done";
    let erase = "\r\x1b[K";
    // script(1) types what ends its input.
    let terminal = |script: &str| {
        place
            .script(script)
            .ok()
            .replace('\0', "")
            .replace("^@", "")
    };
    let text = terminal(&format!("script -qec '{slow} {command}' /dev/null"));
    let (bar, rest) = text.rsplit_once(erase).expect("no bar");
    assert_eq!(rest, "done\r\n");
    let bar = bar.rsplit('\r').next().unwrap();
    assert!(
        bar.starts_with("mini: slow.gz [#") && bar.contains("B of 1 MB, "),
        "{bar:?}"
    );
    assert!(
        bar.contains(" kB/s, 0:0") && bar.ends_with(" left\x1b[K"),
        "{bar:?}"
    );
    place.forget();
    let piped = format!("cat slow.gz | {slow} - -- /bin/echo done");
    let text = terminal(&format!("script -qec '{piped}' /dev/null"));
    assert!(
        text.contains("mini: - ") && text.contains("kB/s\x1b[K") && !text.contains(" left"),
        "{text:?}"
    );
    for (quiet, before) in [(true, "--quiet"), (false, "")] {
        place.forget();
        let run = format!("{slow} {before} {command}");
        let output = match quiet {
            true => terminal(&format!("script -qec '{run}' /dev/null")),
            false => place.script(&run).ok(),
        };
        assert_eq!(output.trim_end(), "done");
    }
}

#[test]
fn what_does_not_fit_is_told_beforehand_or_leaves_nothing() {
    let (Some(place), Some(debian)) = (Place::new("space"), rootfs("debian.tar")) else {
        return;
    };
    let run = |prepare: &str, command: &str| {
        let script = format!(
            "mkdir -p disk; {prepare}; export MINI_ROOT=$PWD/disk/store; \"$MINI\" run {command} 2>error && exit 9; cat error
             [ $(wc -l <error) = 1 ]; find disk -type f; df --output=used disk | tail -1"
        );
        let text = place.script(&script).ok();
        let lines: Vec<&str> = text.lines().collect();
        let [line, used] = lines[..] else {
            panic!("left: {text}")
        };
        (line.to_owned(), used.trim().parse::<u64>().unwrap())
    };
    let memory = "mount -t tmpfs -o size=4m,mode=700 none disk";
    let store = place.text("disk");
    let size = fs::metadata(&debian).unwrap().len();
    let (line, used) = run(memory, &format!("--store unpack {debian}"));
    let free = format!("mini: needs {size} bytes, only 41");
    assert!(
        line.starts_with(&free)
            && line.contains(&format!(" free in \"{store}/store/"))
            && used < 100,
        "{line} {used}"
    );
    place
        .script("head -c 6000000 /dev/urandom >random; tar cf - random | gzip -1 >r.tar.gz")
        .ok();
    let (line, used) = run(memory, "r.tar.gz");
    assert!(
        line.starts_with("mini: needs 600") && line.contains(" bytes, only 41") && used < 100,
        "{line} {used}"
    );
    // On a disk what is inflated has no size beforehand.
    if have_program("mkfs.ext4") {
        place
            .script(
                "head -c 30000000 /dev/zero | tr '\\0' x >many; tar cf - many | gzip -1 >m.tar.gz",
            )
            .ok();
        let disk = "rm -f image; truncate -s 16M image; mkfs.ext4 -q image; mount -o loop image disk; rmdir disk/lost+found";
        let (line, used) = run(disk, "--image-limit 1g m.tar.gz");
        assert!(
            line.contains(&format!("\"{store}/store/cache\"")) && line.contains("No space left"),
            "{line}"
        );
        assert!(used < 1000, "{used} kB are left");
        let (line, _) = run(disk, &format!("--store unpack {debian}"));
        assert!(
            line.contains(" bytes, only ") && line.contains(&store),
            "{line}"
        );
    }
}
