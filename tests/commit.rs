//! Images made of containers: `run --keep`, `commit`, `export`. What a container has changed comes back the same, for mini
//! and for the tools of others; and whatever ends a commit, nothing half is left.
#![cfg(feature = "images")]

mod support;
use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use support::images::{check, finish, killed, names};
use support::{Bench, Output, Run, Running, have_program, rootfs};

/// What mini makes anew in each container.
const OWN: [&str; 6] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
];

fn bench(name: &str) -> Option<Bench> {
    let mut bench = Bench::new(name)?;
    bench.keeps = true;
    Some(bench)
}

/// Runs a shell script in a container that is kept under this name.
#[track_caller]
fn keep(bench: &Bench, name: &str, options: &[&str], image: &str, script: &str) {
    let run = bench
        .mini(&["run", "--keep", "--name", name])
        .args(options)
        .args(&[image, "--", "/bin/sh", "-euc", script]);
    let output = run.output().expect(0);
    let line = "mini: the container's changes are in \"";
    assert!(output.stderr.starts_with(line), "{}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
}

/// A container of this image that waits, and the root directory it sees.
#[track_caller]
fn waiting(bench: &Bench, options: &[&str], image: &str, script: &str) -> (Running, String) {
    let script = format!("{script}\necho ready; exec sleep 4321");
    let run = bench
        .mini(&["run", "--userns", "host", "--cap-add", "MKNOD"])
        .args(&["--user", "0", "--entrypoint", "", "--stop-signal", "TERM"])
        .args(options)
        .args(&[image, "--", "/bin/sh", "-euc", &script]);
    let mut running = run.start();
    running.until("ready");
    let children = |pid: i32| -> Vec<i32> {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let list = list.unwrap_or_default();
        list.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    };
    let sleeps = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default() == "sleep\x004321\0"
    };
    let found = || {
        let first = children(running.pid());
        first.into_iter().flat_map(children).find(sleeps)
    };
    assert!(support::eventually(|| found().is_some()));
    let pid = found().unwrap();
    (running, format!("/proc/{pid}/root"))
}

#[track_caller]
fn end(running: Running) -> Output {
    running.kill(15);
    running.wait().expect(128 + 15)
}

/// Everything to be seen of a tree, a line for each name; without what mini makes anew, and the times of the
/// directories it makes that in.
fn manifest(top: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first = HashMap::new();
    let mut names = vec![String::new()];
    while let Some(name) = names.pop() {
        if OWN.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{top}{name}");
        let path = match name.as_str() {
            "" => Path::new(top).join("."),
            _ => Path::new(&path).to_owned(),
        };
        let status = fs::symlink_metadata(&path).unwrap();
        let kind = status.file_type();
        let mut line = format!(
            "{name} {:06o} {}:{}",
            status.mode(),
            status.uid(),
            status.gid()
        );
        if !["", "/etc"].contains(&name.as_str()) {
            line += &format!(" {}.{:09}", status.mtime(), status.mtime_nsec());
        }
        if kind.is_char_device() || kind.is_block_device() {
            line += &format!(" device {:x}", status.rdev());
        }
        if kind.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        }
        if kind.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            let mut entries: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .map(|entry| format!("{name}/{entry}"))
                .collect();
            // The last one is visited first.
            entries.sort_by(|one, other| other.cmp(one));
            names.extend(entries);
        } else {
            // Not the number of links: an overlay also counts those that it hides.
            let id = (status.dev(), status.ino());
            let first = first.entry(id).or_insert_with(|| name.clone());
            line += &format!(" {} is {first}", status.len());
            if kind.is_file() && *first == name {
                use std::hash::{DefaultHasher, Hash, Hasher};
                let mut hash = DefaultHasher::new();
                fs::read(&path).unwrap().hash(&mut hash);
                line += &format!(" {:x}", hash.finish());
            }
        }
        for (name, value) in xattrs(&path) {
            line += &format!(" {name}={value:?}");
        }
        lines.push(line);
    }
    lines
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let path = path.as_os_str().as_bytes();
    let mut names = vec![0; 65536];
    // Not every file system has any.
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    let mut list: Vec<_> = (names.split_terminator('\0'))
        .filter(|name| !name.starts_with("trusted.overlay."))
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_owned(), value[..length].to_vec())
        })
        .collect();
    list.sort();
    list
}

#[track_caller]
fn assert_same(what: &str, found: &[String], expected: &[String]) {
    let only = |these: &[String], those: &[String]| {
        let lines = these.iter().filter(|line| !those.contains(line)).take(20);
        lines.cloned().collect::<Vec<_>>().join("\n")
    };
    assert!(expected.len() > 20, "{what}: nothing to compare");
    assert!(
        found == expected,
        "{what}; only found:\n{}\nonly expected:\n{}",
        only(found, expected),
        only(expected, found)
    );
}

/// What a container of this image sees.
#[track_caller]
fn seen(bench: &Bench, options: &[&str], image: &str) -> Vec<String> {
    let (running, root) = waiting(bench, options, image, "true");
    let lines = manifest(&root);
    end(running);
    lines
}

/// One change of every kind, on top of busybox.tar.
const CHANGES: &str = "
    cd /; umask 022
    mkdir -p new/sub; echo hi >new/file; ln new/file new/sub/link; ln -s ../nowhere new/symlink
    : >new/empty; mkfifo -m 640 new/fifo; mknod -m 660 new/null c 1 3; mknod -m 600 new/disk b 7 65
    echo x >new/set; chown 12:34 new/set; chmod 6755 new/set
    mkdir -m 1777 new/sticky; chown 56:78 new/sticky
    echo more >>etc/profile; chmod 600 etc/os-release; chown 5:6 etc/shells
    rm etc/passwd; rm -r srv; echo file >srv; rm etc/shadow; mkdir etc/shadow
    mv home houses; mv houses/user houses/moved
    rm -r var; mkdir var; echo only >var/this
    rm bin/arch; rm -r opt; ln -s mnt opt
    touch -h -d 1969-12-31 new/symlink; touch -d 2040-01-02 new/empty";

#[test]
fn changes_become_a_layer_and_come_back() {
    let Some(bench) = bench("layer") else {
        return;
    };
    let script = "cp \"$BUSYBOX\" base.tar
         \"$MINI\" run --keep --name x base.tar -- sh -c 'echo hi >/a; rm /etc/passwd; mkdir /d' 2>kept
         \"$MINI\" commit x l.tar
         \"$MINI\" run --layer l.tar base.tar -- sh -c 'cat /a; test -d /d; test -e /etc/passwd || echo gone'
         bsdtar -tf l.tar";
    let output = bench.private_shell(script).output().ok();
    assert_eq!(output, "hi\ngone\n./\na\nd/\netc/\netc/.wh.passwd\n");
    finish(&bench);
}

#[test]
fn every_change_comes_back_the_same() {
    let Some(bench) = bench("every") else {
        return;
    };
    if !["setfattr", "setfacl", "setcap", "bsdtar"]
        .iter()
        .all(|name| have_program(name))
    {
        return;
    }
    let image = bench.busybox();
    let volume = format!("{}:/volume", bench.dir("volume"));
    bench.file("volume/file", "");
    let options = ["--keep", "--name", "x", "-v", &volume];
    let (running, root) = waiting(&bench, &options, image, CHANGES);
    // What a shell in there cannot do.
    let script = "cd $0/new; setfattr -n user.a -v b file; setfattr -n user.a -v d sub; setfacl -m u:9:r set
         setcap cap_net_raw+ep empty; setfattr -n user.c -v d ../bin/sh
         touch -d '2001-02-03 04:05:06.123456789 UTC' file; touch -d '1950-06-07 08:09:10 UTC' ../etc/group";
    let output = Run::new("sh").args(&["-euc", script, &root]).output();
    output.ok();
    let mut expected = manifest(&root);
    end(running);
    let volume = |line: &String| line.starts_with("/volume");
    assert_eq!(expected.iter().filter(|line| volume(line)).count(), 2);
    expected.retain(|line| !volume(line));
    for target in ["l.tar", "o.tar", "name"] {
        let path = match target {
            "name" => target.to_owned(),
            _ => bench.text(target),
        };
        let format: &[&str] = if target == "o.tar" {
            &["--format", "oci"]
        } else {
            &[]
        };
        let commit = bench.mini(&["commit"]).args(format).args(&["x", &path]);
        commit.output().ok();
        let mut found = match target {
            "l.tar" => seen(&bench, &["--layer", &path], image),
            _ => seen(&bench, &[], &path),
        };
        // Of a volume there is where it was mounted.
        assert_eq!(found.iter().filter(|line| volume(line)).count(), 1);
        found.retain(|line| !volume(line));
        assert_same(target, &found, &expected);
    }
    // The same without EROFS.
    let layer = bench.text("l.tar");
    let mut found = seen(&bench, &["--store", "unpack", "--layer", &layer], image);
    found.retain(|line| !volume(line));
    assert_same("unpacked", &found, &expected);
    // All of it in one archive.
    let flat = bench.text("flat.tar");
    bench.mini(&["export", "x", &flat]).output().ok();
    let piped = bench.private_shell("\"$MINI\" export x - | cmp - flat.tar");
    assert_eq!(piped.output().ok(), "");
    for (tool, options) in [
        (
            "tar",
            &[
                "--numeric-owner",
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
                "-xpf",
            ][..],
        ),
        ("bsdtar", &["--numeric-owner", "-xpf"]),
    ] {
        let tree = bench.dir(&format!("by-{tool}"));
        let run = Run::new(tool).args(options).args(&[&flat, "-C", &tree]);
        // GNU tar does not like some of the times.
        run.output().expect(0);
        let mut found = manifest(&tree);
        found.retain(|line| !volume(line));
        assert_same(tool, &found, &expected);
    }
    let again = seen(&bench, &[], &flat);
    let again: Vec<String> = again.into_iter().filter(|line| !volume(line)).collect();
    assert_same("exported", &again, &expected);
    finish(&bench);
}

#[test]
fn owners_are_those_inside() {
    let Some(bench) = bench("owners") else {
        return;
    };
    let script =
        "mkdir /d; echo x >/d/f; chown -R 12:34 /d; rm /etc/passwd; rm -r /home; mkdir /home";
    keep(&bench, "x", &[], bench.busybox(), script);
    let layer = bench.text("l.tar");
    bench.mini(&["commit", "x", &layer]).output().ok();
    let listing = Run::new("tar").args(&["--numeric-owner", "-tvf", &layer]);
    let listing = listing.output().ok();
    let members: Vec<(&str, &str)> = (listing.lines())
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.nth(1).unwrap(), words.nth(3).unwrap())
        })
        .collect();
    let expected = [
        ("0/0", "./"),
        ("12/34", "d/"),
        ("12/34", "d/f"),
        ("0/0", "etc/"),
        ("0/0", "etc/.wh.passwd"),
        ("0/0", "home/"),
        ("0/0", "home/.wh..wh..opq"),
    ];
    assert_eq!(members, expected);
    let script = "stat -c %u:%g /d /d/f; ls /home; ls /etc/passwd 2>&1 | grep -c 'No such'";
    let run = bench.mini(&["run", "--layer", &layer, bench.busybox(), "--", "/bin/sh"]);
    let output = run.args(&["-c", script]).output().ok();
    assert_eq!(output, "12:34\n12:34\n1\n");
    finish(&bench);
}

#[test]
fn the_image_may_be_of_any_kind() {
    let Some(bench) = bench("kinds") else {
        return;
    };
    let Some(images) = rootfs("images") else {
        return;
    };
    if !have_program("mksquashfs") || !have_program("mkfs.ext4") {
        return;
    }
    let directory = bench.busybox_directory();
    let script = format!(
        "gzip -c \"$BUSYBOX\" >base.tar.gz; mksquashfs {directory} base.squashfs -quiet -no-progress >&2
         truncate -s 16M base.ext4; mkfs.ext4 -q -d {directory} base.ext4
         mkdir above; echo above >above/file; tar -cf above.tar -C above .
         \"$MINI\" import \"$BUSYBOX\" base; \"$MINI\" import {images}/oci images/oci"
    );
    bench.private_shell(&script).output().expect(0);
    let [above, gzip, squashfs, ext4] =
        ["above.tar", "base.tar.gz", "base.squashfs", "base.ext4"].map(|name| bench.text(name));
    let docker = format!("{images}/docker.tar");
    let oci = format!("{images}/oci");
    let kinds: [(&str, &[&str], bool); 9] = [
        (bench.busybox(), &["--layer", &above], true),
        (&gzip, &[], true),
        (&directory, &[], true),
        (&docker, &[], true),
        (&oci, &["--layer", &above], true),
        ("base", &[], true),
        ("images/oci", &[], true),
        (&squashfs, &[], false),
        (&ext4, &[], false),
    ];
    for (number, (image, options, tars)) in kinds.into_iter().enumerate() {
        let name = format!("x{number}");
        let script = "mkdir /new; echo hi >/new/file; rm /etc/profile; mv /root /toor";
        let all = [options, &["--keep", "--name", &name]].concat();
        let (running, root) = waiting(&bench, &all, image, script);
        let expected = manifest(&root);
        end(running);
        let layer = bench.text(&format!("{name}.tar"));
        bench.mini(&["commit", &name, &layer]).output().ok();
        let above = [options, &["--layer", &layer]].concat();
        assert_same(image, &seen(&bench, &above, image), &expected);
        bench.mini(&["commit", &name, &name]).output().ok();
        assert_same(image, &seen(&bench, &[], &name), &expected);
        let archive = bench.text("o.tar");
        let commit = bench.mini(&["commit", "--format", "oci", &name, &archive]);
        match tars {
            true => {
                commit.output().ok();
                assert_same(image, &seen(&bench, &[], &archive), &expected);
                fs::remove_file(&archive).unwrap();
            }
            false => commit.output().fails(
                125,
                "an OCI archive has tars only, and the image is a file system \
                 (mini export writes one of all its files)",
            ),
        }
        let flat = bench.text("flat.tar");
        bench.mini(&["export", &name, &flat]).output().ok();
        assert_same(image, &seen(&bench, &[], &flat), &expected);
    }
    check(&bench);
    finish(&bench);
}

#[test]
fn a_kept_container_needs_its_image() {
    let Some(bench) = bench("needs") else {
        return;
    };
    bench
        .mini(&["import", bench.busybox(), "base"])
        .output()
        .ok();
    keep(&bench, "x", &[], "base", "echo hi >/new");
    let id = names(&bench, "kept").remove(0);
    bench.mini(&["rmi", "base"]).output().fails(
        125,
        &format!(
            "image \"base\": the kept container {id} needs it (--force removes it all the same)"
        ),
    );
    bench.mini(&["prune", "--all"]).output().ok();
    assert_eq!(check(&bench), ["base"]);
    bench.mini(&["commit", "x", "next"]).output().ok();
    bench.mini(&["rmi", "--force", "base"]).output().ok();
    // What the new image needs is there.
    let run = bench.mini(&["run", "next", "--", "cat", "/new"]);
    assert_eq!(run.output().ok(), "hi\n");
    assert_eq!(check(&bench), ["next"]);
    let line = bench.mini(&["commit", "x", "more"]).output().one_line(125);
    assert_eq!(
        line,
        format!("\"base\" has changed since container {id} was made of it")
    );
    assert_eq!(check(&bench), ["next"]);
    finish(&bench);
}

#[test]
fn an_image_says_how_it_is_run() {
    let Some(bench) = bench("config") else {
        return;
    };
    let script = "mkdir /work; echo 'me:x:1000:1000::/:/bin/sh' >>/etc/passwd";
    keep(&bench, "x", &[], bench.busybox(), script);
    let commit = bench
        .mini(&["commit", "--entrypoint", "[\"/bin/sh\",\"-c\"]", "--cmd"])
        .args(&["[\"id -u; pwd; echo $A $B\"]", "--env", "A=1", "-e", "B=2"])
        .args(&[
            "--workdir",
            "/work",
            "--user",
            "me",
            "--label",
            "l=m",
            "x",
            "one",
        ]);
    commit.output().ok();
    let run = bench.mini(&["run", "one"]);
    assert_eq!(run.output().ok(), "1000\n/work\n1 2\n");
    let run = bench.mini(&["run", "one", "--", "echo $A"]);
    assert_eq!(run.output().ok(), "1\n");
    // What is not said stays as the image below has it; a new entrypoint takes the old arguments with it.
    keep(&bench, "y", &["--entrypoint", ""], "one", "echo y >/tmp/y");
    let commit = bench.mini(&["commit", "--env", "B=3", "--user", "0", "y", "two"]);
    commit.output().ok();
    let run = bench.mini(&["run", "two"]);
    assert_eq!(run.output().ok(), "0\n/work\n1 3\n");
    let commit = bench.mini(&["commit", "--entrypoint", "/usr/bin/env", "y", "three"]);
    commit.output().ok();
    let output = bench.mini(&["run", "three"]).output().ok();
    assert!(
        output.contains("A=1\n") && output.contains("B=2\n"),
        "{output}"
    );
    let line = bench
        .mini(&["commit", "--format", "layer", "--user", "0", "x", "l.tar"])
        .output();
    line.fails(125, "--format layer: a layer has no configuration");
    assert_eq!(check(&bench), ["one", "three", "two"]);
    finish(&bench);
}

#[test]
fn others_read_and_run_the_archives() {
    let Some(bench) = bench("others") else {
        return;
    };
    if !["skopeo", "umoci", "buildah"]
        .iter()
        .all(|name| have_program(name))
    {
        return;
    }
    let (running, root) = waiting(&bench, &["--keep", "--name", "x"], bench.busybox(), CHANGES);
    let expected = manifest(&root);
    end(running);
    let commit = bench
        .mini(&[
            "commit",
            "--entrypoint",
            "/bin/busybox",
            "--cmd",
            "[\"cat\",\"/new/file\"]",
        ])
        .args(&[
            "--env",
            "A=b",
            "--workdir",
            "/new",
            "--user",
            "5:6",
            "--label",
            "l=m",
        ])
        .args(&["x", &bench.text("o.tar")]);
    commit.output().ok();
    // An archive is all that is left of it.
    assert!(names(&bench, "blobs").is_empty());
    bench.file(
        "policy.json",
        "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}",
    );
    let tools = |script: &str| {
        let run = bench.private_shell(script).env("TMPDIR", bench.path(""));
        run.env("STORAGE_DRIVER", "vfs")
            .env("XDG_CACHE_HOME", bench.path(""))
            .output()
    };
    let script = "skopeo inspect --config oci-archive:o.tar
         skopeo inspect oci-archive:o.tar >inspected
         skopeo --policy policy.json copy -q oci-archive:o.tar oci:layout:latest
         skopeo --policy policy.json copy -q oci-archive:o.tar docker-archive:docker.tar:x:latest
         umoci unpack --image layout:latest bundle >log 2>&1 || cat log";
    let config = tools(script).ok().split_whitespace().collect::<String>();
    for part in [
        "\"User\":\"5:6\"",
        "\"Env\":[\"A=b\"]",
        "\"Entrypoint\":[\"/bin/busybox\"]",
        "\"Cmd\":[\"cat\",\"/new/file\"]",
        "\"WorkingDir\":\"/new\"",
        "\"Labels\":{\"l\":\"m\"}",
    ] {
        assert!(config.contains(part), "{part}: {config}");
    }
    let found = manifest(&bench.text("bundle/rootfs"));
    assert_same("umoci", &found, &expected);
    for archive in ["o.tar", "layout", "docker.tar"] {
        let path = bench.text(archive);
        assert_eq!(bench.mini(&["run", &path]).output().ok(), "hi\n");
        assert_same(archive, &seen(&bench, &[], &path), &expected);
    }
    let script = "b='buildah --root storage --runroot storage-run'
         $b from -q --signature-policy policy.json --name c oci-archive:o.tar >&2
         $b run --isolation chroot c -- /bin/cat /new/file
         $b run --isolation chroot c -- /bin/sh -c 'pwd; echo $A'
         $b rm c >&2";
    let output = tools(script).expect(0);
    assert_eq!(output.stdout, "hi\n/new\nb\n");
    if have_program("podman") {
        let script = "p='podman --root storage2 --runroot storage2-run --cgroup-manager cgroupfs'
             $p load -q -i o.tar >&2 --signature-policy policy.json
             $p images -q";
        let output = tools(script).expect(0);
        assert_eq!(output.stdout.lines().count(), 1, "{}", output.stderr);
    }
    finish(&bench);
}

#[test]
fn what_cannot_be_committed_is_said_in_a_line() {
    let Some(bench) = bench("errors") else {
        return;
    };
    let layer = bench.text("l.tar");
    for command in ["commit", "export"] {
        for name in ["nobody", ""] {
            bench.mini(&[command, name, &layer]).output().fails(
                125,
                &format!("\"{name}\": no kept container (mini run --keep leaves one)"),
            );
        }
    }
    let base = bench.text("base.tar");
    fs::copy(bench.busybox(), &base).unwrap();
    keep(&bench, "same", &[], &base, "echo 1 >/new");
    keep(&bench, "same", &[], &base, "echo 2 >/new");
    let [first, second] = &names(&bench, "kept")[..] else {
        panic!("not two");
    };
    bench.mini(&["commit", "same", &layer]).output().fails(
        125,
        "\"same\": several kept containers (more of the id tells them apart)",
    );
    bench.mini(&["commit", &first[..11], &layer]).output().ok();
    bench.mini(&["commit", second, "name"]).output().ok();
    // A name comes before the beginning of an id.
    keep(&bench, &first[..1], &[], &base, "echo 3 >/new");
    bench.mini(&["commit", &first[..1], &layer]).output().ok();
    let run = bench.mini(&["run", "--layer", &layer, &base, "--", "cat", "/new"]);
    assert_eq!(run.output().ok(), "3\n");

    // The image has changed, or is gone, or was never there to stay.
    let piped = bench.mini(&["run", "--keep", "--name", "piped", "-", "--", "/bin/true"]);
    piped.input(fs::read(&base).unwrap()).output().expect(0);
    let id = names(&bench, "kept");
    let id = id.iter().find(|id| {
        let record = bench.path("store/kept").join(id).join("record");
        fs::read_to_string(record)
            .unwrap()
            .contains("\nname piped\n")
    });
    let id = id.unwrap();
    let changed = format!("\"{base}\" has changed since container {first} was made of it");
    for change in ["printf x >>", "rm "] {
        let script = format!("{change}{base}");
        Run::new("sh").args(&["-c", &script]).output().ok();
        bench
            .mini(&["commit", first, "other"])
            .output()
            .fails(125, &changed);
        bench
            .mini(&["export", first, &bench.text("e.tar")])
            .output()
            .fails(125, &changed);
        // The changes are there all the same.
        bench.mini(&["commit", first, &layer]).output().ok();
    }
    let above = bench.text("above.tar");
    fs::copy(&layer, &above).unwrap();
    keep(
        &bench,
        "above",
        &["--layer", &above],
        bench.busybox(),
        "true",
    );
    bench.mini(&["commit", "above", "above"]).output().ok();
    fs::copy(bench.busybox(), &above).unwrap();
    let line = bench
        .mini(&["commit", "above", "above"])
        .output()
        .one_line(125);
    assert!(
        line.starts_with(&format!("\"{above}\" has changed since")),
        "{line}"
    );
    bench.mini(&["rmi", "above"]).output().ok();
    let stdin = format!("container {id}: its image came from standard input");
    bench
        .mini(&["commit", "piped", "other"])
        .output()
        .fails(125, &stdin);
    bench
        .mini(&["export", "piped", &layer])
        .output()
        .fails(125, &stdin);

    // What is to be written cannot be.
    let line = bench.mini(&["commit", first, "a b"]).output().one_line(125);
    assert!(line.contains("not a name for an image"), "{line}");
    let missing = bench.text("missing/l.tar");
    let line = bench
        .mini(&["commit", first, &missing])
        .output()
        .one_line(125);
    assert!(line.contains("/missing/"), "{line}");
    let directory = bench.dir("directory");
    let line = bench
        .mini(&["commit", first, &directory])
        .output()
        .one_line(125);
    assert!(line.contains(&directory), "{line}");
    assert_eq!(check(&bench), ["name"]);
    assert!(!bench.path("e.tar").exists());
    finish(&bench);
}

#[test]
fn a_full_disk_leaves_no_half_file() {
    let Some(bench) = bench("full") else {
        return;
    };
    if !have_program("mkfs.ext4") {
        return;
    }
    let script = "dd if=/dev/zero of=/big bs=1M count=12 2>/dev/null";
    keep(&bench, "x", &[], bench.busybox(), script);
    let script = "fails() { if \"$@\"; then echo \"$* succeeded\"; fi; }
         disk() { truncate -s $1 disk; mkfs.ext4 -q -O ^has_journal disk; mkdir mnt; mount -o loop disk mnt; }
         disk 8M; cd mnt
         fails \"$MINI\" commit x ./l.tar; fails \"$MINI\" commit --format oci x o.tar
         fails \"$MINI\" export x e.tar; ls -A; fails \"$MINI\" export x - >part
         cd ..; umount mnt; rm -r mnt disk
         # The store itself.
         disk 24M; export MINI_ROOT=$PWD/mnt/full
         \"$MINI\" run --keep --name y \"$BUSYBOX\" -- dd if=/dev/zero of=/big bs=1M count=12 2>/dev/null
         fails \"$MINI\" commit y name; fails \"$MINI\" commit --format oci y o.tar
         find mnt/full -type f | grep -v /cache/ | grep -v /kept/ || true; test ! -e o.tar
         umount mnt; rm -r mnt disk";
    let output = bench.private_shell(script).output().expect(0);
    assert_eq!(output.stdout, "lost+found\n");
    let errors: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(errors.len(), 6, "{errors:?}");
    for line in errors {
        assert!(line.ends_with(": No space left on device"), "{line}");
    }
    finish(&bench);
}

/// Commits and exports as the user 1000, who is `minitest` and has subordinate ids if `ids`.
fn as_user(bench: &Bench, ids: bool, script: &str) -> Output {
    let mount = "getent passwd 0 >passwd; echo minitest:x:1000:1000::/:/bin/sh >>passwd
         echo minitest:200000:65536 >subuid; cp subuid subgid
         for file in passwd subuid subgid; do mount --bind $file /etc/$file; done\n";
    let user = "cp \"$BUSYBOX\" base.tar; chown 1000:1000 .
         mini() { setpriv --reuid 1000 --regid 1000 --clear-groups \"$MINI\" \"$@\"; }\n";
    let mount = if ids { mount } else { "" };
    bench
        .private_shell(&[mount, user, script].concat())
        .output()
}

const AS_USER: &str = "
    mini run --keep --name x base.tar -- sh -ec \"$CHANGE\" 2>log || cat log
    mini commit x ./l.tar; mini commit --cmd '[\"cat\",\"/new\"]' x name; mini commit --format oci x o.tar
    mini export x flat.tar; mini images -q; tar --numeric-owner -tvf l.tar | awk '{print $2, $6}'
    mini run name
    for image in '--layer l.tar base.tar' name o.tar flat.tar; do
        mini run $image -- sh -c 'stat -c \"%u:%g %a\" /new; ls /etc/passwd 2>&1 | grep -c No; ls /home'
    done";

#[test]
fn an_ordinary_user_commits_with_a_single_id() {
    let Some(bench) = bench("single") else {
        return;
    };
    if !have_program("setpriv") {
        return;
    }
    let change =
        "CHANGE='echo hi >/new; chmod 4755 /new; rm /etc/passwd; rm -r /home; mkdir /home'\n";
    let output = as_user(&bench, false, &[change, AS_USER].concat()).ok();
    let layer = "0/0 ./\n0/0 etc/\n0/0 etc/.wh.passwd\n0/0 home/\n0/0 home/.wh..wh..opq\n0/0 new\n";
    let seen = "0:0 4755\n1\n".repeat(4);
    assert_eq!(output, format!("name\n{layer}hi\n{seen}"));
    finish(&bench);
}

#[test]
fn an_ordinary_user_commits_with_subordinate_ids() {
    let Some(bench) = bench("subordinate") else {
        return;
    };
    let files = ["passwd", "subuid", "subgid"];
    if !have_program("setpriv")
        || !have_program("newuidmap")
        || !files
            .iter()
            .all(|file| Path::new("/etc").join(file).exists())
    {
        return;
    }
    let change = "CHANGE='echo hi >/new; chown 12:34 /new; chmod 6755 /new; rm /etc/passwd; rm -r /home; mkdir /home'\n";
    let output = as_user(&bench, true, &[change, AS_USER].concat()).ok();
    let layer =
        "0/0 ./\n0/0 etc/\n0/0 etc/.wh.passwd\n0/0 home/\n0/0 home/.wh..wh..opq\n12/34 new\n";
    let seen = "12:34 6755\n1\n".repeat(4);
    assert_eq!(output, format!("name\n{layer}hi\n{seen}"));
    finish(&bench);
}

/// Files in a directory that were being made.
fn new_files(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".new-")).collect()
}

#[test]
fn a_commit_killed_at_any_moment_leaves_the_old_image_or_the_new_one() {
    let Some(bench) = bench("killname") else {
        return;
    };
    let script = "dd if=/dev/zero of=/big bs=1M count=4 2>/dev/null";
    keep(&bench, "x", &[], bench.busybox(), script);
    keep(&bench, "old", &[], bench.busybox(), "echo old >/new");
    let prepare = || {
        bench.mini(&["commit", "old", "name"]).output().ok();
    };
    let look = || {
        assert_eq!(check(&bench), ["name"]);
        assert!(new_files(&bench.path("store/images")).is_empty());
    };
    killed(&bench, &["commit", "x", "name"], 40, prepare, look);
    finish(&bench);
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let Some(bench) = bench("killfile") else {
        return;
    };
    let script = "dd if=/dev/zero of=/big bs=1M count=4 2>/dev/null";
    keep(&bench, "x", &[], bench.busybox(), script);
    let out = bench.dir("out");
    let file = format!("{out}/file.tar");
    let commands: [&[&str]; 3] = [
        &["commit", "x", &file],
        &["commit", "--format", "oci", "x", &file],
        &["export", "x", &file],
    ];
    for command in commands {
        bench.mini(command).output().ok();
        let whole = fs::read(&file).unwrap();
        let prepare = || drop(fs::remove_file(&file));
        let look = || {
            if let Ok(found) = fs::read(&file) {
                assert!(found == whole);
            }
            assert!(check(&bench).is_empty());
            assert!(
                names(&bench, "cache")
                    .iter()
                    .all(|name| !name.starts_with(".new-"))
            );
        };
        killed(&bench, command, 20, prepare, look);
        // Those that were killed had no time to remove theirs; those that are told to end have.
        for name in new_files(Path::new(&out)) {
            fs::remove_file(Path::new(&out).join(name)).unwrap();
        }
        for (number, signal) in [2, 15, 1].into_iter().cycle().take(9).enumerate() {
            prepare();
            let running = bench.mini(command).start();
            std::thread::sleep(std::time::Duration::from_millis(3 * number as u64));
            running.kill(signal);
            let output = running.wait();
            assert_eq!(new_files(Path::new(&out)), Vec::<String>::new());
            let there = Path::new(&file).exists();
            match output.status {
                0 => assert!(there),
                125 => assert!(!there && output.clone().one_line(125).contains("interrupted")),
                // Before it had anything to undo.
                status => assert!(!there && status == -signal, "{output:?}"),
            }
            assert!(check(&bench).is_empty());
        }
    }
    finish(&bench);
}
