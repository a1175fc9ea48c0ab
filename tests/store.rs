//! Images under names: `import`, `images`, `rmi`, `prune`. Whatever happens to them (killed at any moment, a full disk,
//! each other), under a name there is a whole image, and nothing else stays behind the next command.
#![cfg(feature = "images")]

mod support;
use std::fs;
use std::path::Path;
use std::thread;

use support::images::{check, finish, killed, names};
use support::{Bench, Run, eventually, have_program, rootfs};

/// A tar of so many bytes of one file, and a name for it.
fn tar(bench: &Bench, name: &str, size: u64) -> String {
    let directory = bench.dir(&format!("{name}.d"));
    let file = fs::File::create(Path::new(&directory).join(name)).unwrap();
    file.set_len(size).unwrap();
    let path = bench.text(&format!("{name}.tar"));
    Run::new("tar")
        .args(&["cf", &path, "-C", &directory, "."])
        .output()
        .ok();
    path
}

#[test]
fn an_image_has_a_name_until_it_is_removed_and_contents_are_there_once() {
    let Some(bench) = Bench::new("names") else {
        return;
    };
    assert_eq!(bench.mini(&["images", "-q"]).output().ok(), "");
    let busybox = bench.busybox();
    bench.mini(&["import", busybox, "bb"]).output().ok();
    bench
        .mini(&["import", busybox, "registry/bb:1"])
        .output()
        .ok();
    let other = tar(&bench, "other", 100);
    bench.mini(&["import", &other, "other"]).output().ok();
    assert_eq!(check(&bench), ["bb", "other", "registry%bb:1"]);
    assert_eq!(names(&bench, "blobs").len(), 2);
    let quiet = bench.mini(&["images", "-q"]).output().ok();
    assert_eq!(quiet, "bb\nother\nregistry/bb:1\n");
    let table = bench.mini(&["images"]).output().ok();
    let lines: Vec<Vec<&str>> = (table.lines())
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
        })
        .map(Iterator::collect)
        .collect();
    assert_eq!(
        lines[0],
        ["NAME", "KIND", "SIZE", "DISK USED", "CREATED", "IN USE"]
    );
    assert_eq!(lines[1][..3], ["bb", "tar", "2.1 MB"]);
    assert!(lines[1][3].ends_with(" shared"), "{table}");
    assert!(!lines[2][3].ends_with(" shared"), "{table}");
    assert_eq!((lines[3][0], lines[3][5]), ("registry/bb:1", "no"));
    // Another name for an image of the store, and another image for a name.
    bench.mini(&["import", "other", "again"]).output().ok();
    bench.mini(&["import", busybox, "other"]).output().ok();
    assert_eq!(check(&bench).len(), 4);
    bench.mini(&["rmi", "bb", "registry/bb:1"]).output().ok();
    assert_eq!(check(&bench), ["again", "other"]);
    bench.mini(&["rmi", "again", "other"]).output().ok();
    assert!(check(&bench).is_empty());
    bench.mini(&["rmi", "other"]).output().fails(
        125,
        "image \"other\": there is none of this name (mini images lists them)",
    );
    finish(&bench);
}

#[test]
fn what_is_imported_can_be_compressed_come_from_a_pipe_or_be_a_directory() {
    let Some(bench) = Bench::new("sources") else {
        return;
    };
    let busybox = bench.busybox();
    bench.mini(&["import", busybox, "plain"]).output().ok();
    let gzip = "gzip -c \"$BUSYBOX\" >b.gz; \"$MINI\" import b.gz gzip; \
                cat b.gz | \"$MINI\" import - piped; cat \"$BUSYBOX\" | \"$MINI\" import - pipe";
    bench.private_shell(gzip).output().ok();
    assert_eq!(check(&bench), ["gzip", "pipe", "piped", "plain"]);
    assert_eq!(names(&bench, "blobs").len(), 1);
    let directory = bench.busybox_directory();
    bench.mini(&["import", &directory, "dir"]).output().ok();
    for name in ["gzip", "dir"] {
        let run = bench.mini(&["run", name, "--", "/bin/sh", "-c", "echo hi"]);
        assert_eq!(run.output().ok(), "hi\n");
    }
    finish(&bench);
}

#[test]
fn what_is_in_use_is_only_removed_by_force_and_goes_on() {
    let Some(bench) = Bench::new("inuse") else {
        return;
    };
    bench.mini(&["import", bench.busybox(), "bb"]).output().ok();
    let script = "echo ready; while ! test -e /stop; do sleep 0.1; done; ls /bin/busybox";
    let volume = format!("{}:/v", bench.dir("volume"));
    let script = script.replace("/stop", "/v/stop");
    let mut running = bench
        .mini(&["run", "-v", &volume, "bb", "--", "/bin/sh", "-c", &script])
        .start();
    running.until("ready");
    assert!(bench.mini(&["images"]).output().ok().ends_with("  yes\n"));
    bench.mini(&["rmi", "bb"]).output().fails(
        125,
        "image \"bb\": a container of it is running (--force removes the name all the same)",
    );
    bench.mini(&["prune", "--all"]).output().ok();
    assert_eq!(check(&bench), ["bb"]);
    bench.mini(&["rmi", "-f", "bb"]).output().ok();
    assert!(check(&bench).is_empty());
    bench.file("volume/stop", "");
    assert!(running.wait().expect(0).stdout.ends_with("/bin/busybox\n"));
    // A kept container needs its image, too.
    bench.mini(&["import", bench.busybox(), "bb"]).output().ok();
    fs::create_dir_all(bench.path("store/kept/0123456789ab")).unwrap();
    bench.file("store/kept/0123456789ab/record", "image bb\n");
    bench.mini(&["rmi", "bb"]).output().fails(
        125,
        "image \"bb\": the kept container 0123456789ab needs it (--force removes it all the same)",
    );
    bench.mini(&["prune", "--all"]).output().ok();
    assert_eq!(check(&bench), ["bb"]);
    finish(&bench);
}

#[test]
fn images_of_every_kind_run_under_their_names() {
    let Some(bench) = Bench::new("kinds") else {
        return;
    };
    let Some(images) = rootfs("images") else {
        return;
    };
    let programs = ["mksquashfs", "mkfs.erofs", "mkfs.ext4"];
    if !programs.into_iter().all(have_program) {
        return;
    }
    let directory = bench.busybox_directory();
    let script = format!(
        "mksquashfs {directory} squashfs -quiet -no-progress; mkfs.erofs --quiet erofs {directory}
         truncate -s 16M ext4; mkfs.ext4 -q -d {directory} ext4"
    );
    bench.private_shell(&script).output().expect(0);
    let [oci, docker] = ["oci", "docker.tar.gz"].map(|name| format!("{images}/{name}"));
    let [squashfs, erofs, ext4] = ["squashfs", "erofs", "ext4"].map(|name| bench.text(name));
    let kinds = [
        (bench.busybox(), "tar"),
        (&oci, "oci"),
        (&docker, "oci"),
        (&squashfs, "squashfs"),
        (&erofs, "erofs"),
        (&ext4, "ext4"),
    ];
    for (path, kind) in kinds {
        bench.mini(&["import", path, "name"]).output().ok();
        let table = bench.mini(&["images"]).output().ok();
        assert!(table.contains(&format!("\nname  {kind} ")), "{table}");
        let options = [
            "run",
            "--entrypoint",
            "",
            "--stop-signal",
            "TERM",
            "name",
            "--",
        ];
        let run = bench.mini(&options);
        let script = "ls -d /bin/busybox; echo ready; exec sleep 1000";
        let mut running = run.args(&["/bin/sh", "-c", script]).start();
        assert!(running.until("ready").starts_with("/bin/busybox\n"));
        bench.mini(&["prune", "--all"]).output().ok();
        bench.mini(&["rmi", "name"]).output().fails(
            125,
            "image \"name\": a container of it is running (--force removes the name all the same)",
        );
        assert_eq!(check(&bench), ["name"]);
        running.kill(15);
        running.wait().expect(128 + 15);
        bench.mini(&["rmi", "name"]).output().ok();
        assert!(check(&bench).is_empty());
    }
    finish(&bench);
}

#[test]
fn what_is_no_image_gets_no_name() {
    let Some(bench) = Bench::new("bad") else {
        return;
    };
    let busybox = bench.busybox();
    for name in [
        "", ".", "..", "-x", ".new-1", "/a", "a/", "a//b", "a/../b", "a b", "a%b", "\u{e4}",
    ] {
        let name = if name.starts_with('-') { "a\n-x" } else { name };
        let line = bench
            .mini(&["import", busybox, name])
            .output()
            .one_line(125);
        assert!(line.contains("not a name for an image"), "{line}");
    }
    let whole = fs::read(busybox).unwrap();
    bench.file("junk", "junk");
    bench.file("empty", "");
    bench.file("short", &whole[..whole.len() / 2]);
    bench.dir("file.d");
    for file in ["junk", "empty", "short", "missing"] {
        let path = bench.text(file);
        let line = bench.mini(&["import", &path, "x"]).output().one_line(125);
        assert!(line.contains(&path), "{line}");
        assert!(check(&bench).is_empty());
    }
    let run = Run::new("sh")
        .env("MINI", support::mini())
        .env("MINI_ROOT", bench.path("store"));
    let run = run.env("MINI_RUN", bench.path("run"));
    let line = run
        .args(&["-c", "echo junk | \"$MINI\" import - x"])
        .output()
        .one_line(125);
    assert!(line.contains("\"-\""), "{line}");
    assert!(check(&bench).is_empty());
    finish(&bench);
}

#[test]
fn a_damaged_record_is_named_and_takes_nothing_with_it() {
    let Some(bench) = Bench::new("record") else {
        return;
    };
    for name in ["one", "two"] {
        let path = tar(&bench, name, 1000);
        bench.mini(&["import", &path, name]).output().ok();
    }
    let record = bench.path("store/images/two");
    let whole = fs::read_to_string(&record).unwrap();
    let longer = whole.clone() + "end\n";
    for damaged in ["", "mini image 2\n", &whole[..whole.len() - 5], &longer] {
        fs::write(&record, damaged).unwrap();
        let table = bench.mini(&["images"]).output().ok();
        assert!(table.contains("\ntwo   damaged  -"), "{table}");
        let line = bench.mini(&["run", "two"]).output().one_line(125);
        assert!(
            line.contains("images/two\" is damaged (mini rmi two removes it)"),
            "{line}"
        );
        bench.mini(&["prune", "--all", "--dry-run"]).output().ok();
        bench.mini(&["prune"]).output().ok();
        assert_eq!(names(&bench, "blobs").len(), 2);
    }
    bench.mini(&["rmi", "two"]).output().ok();
    assert_eq!(check(&bench), ["one"]);
    finish(&bench);
}

#[test]
fn pruning_says_what_it_frees() {
    let Some(bench) = Bench::new("prune") else {
        return;
    };
    bench.mini(&["import", bench.busybox(), "bb"]).output().ok();
    fs::create_dir_all(bench.path("store/cache")).unwrap();
    bench.file("store/cache/00000000-1-2-3.tar", "of a former boot");
    bench.file("store/cache/.new-00000000-1-2-4.tar", "of a dead one");
    fs::create_dir_all(bench.path("store/containers/0123456789ab/upper")).unwrap();
    let would = bench.mini(&["prune", "--dry-run"]).output().ok();
    assert_eq!(would.lines().count(), 4, "{would}");
    assert_eq!(names(&bench, "cache").len(), 2);
    let did = bench.mini(&["prune"]).output().ok();
    assert_eq!(
        would
            .replace("would remove", "removed")
            .replace("would free", "freed"),
        did
    );
    assert!(names(&bench, "cache").is_empty() && names(&bench, "containers").is_empty());
    assert_eq!(bench.mini(&["prune"]).output().ok(), "freed 0 B\n");
    let did = bench.mini(&["prune", "--all"]).output().ok();
    assert!(did.ends_with("freed 2.1 MB\n"), "{did}");
    assert!(check(&bench).is_empty());
    finish(&bench);
}

#[test]
fn an_import_killed_at_any_moment_leaves_the_old_image_or_the_new_one() {
    let Some(bench) = Bench::new("killimport") else {
        return;
    };
    let old = tar(&bench, "old", 1000);
    let busybox = bench.busybox().to_owned();
    let prepare = || drop(bench.mini(&["import", &old, "name"]).output().ok());
    let import = ["import", &busybox, "name"];
    killed(&bench, &import, 100, prepare, || {
        assert_eq!(check(&bench), ["name"])
    });
    finish(&bench);
}

#[test]
fn a_prune_killed_at_any_moment_leaves_whole_images() {
    let Some(bench) = Bench::new("killprune") else {
        return;
    };
    let paths = ["one", "two", "three"].map(|name| (name, tar(&bench, name, 100_000)));
    let prepare = || {
        for (name, path) in &paths {
            bench.mini(&["import", path, name]).output().ok();
        }
        fs::create_dir_all(bench.path("store/cache")).unwrap();
        bench.file("store/cache/00000000-1-2-3.tar", "of a former boot");
    };
    let look = || drop(check(&bench));
    killed(&bench, &["prune", "--all"], 100, prepare, look);
    bench.mini(&["prune", "--all"]).output().ok();
    assert!(check(&bench).is_empty() && names(&bench, "cache").is_empty());
    finish(&bench);
}

#[test]
fn a_full_disk_is_told_beforehand_or_leaves_nothing() {
    let Some(bench) = Bench::new("full") else {
        return;
    };
    if !have_program("mkfs.ext4") {
        return;
    }
    // The size of a tar is known before it is read, that of a directory is not.
    let big = tar(&bench, "big", 20 << 20);
    let script = format!(
        "truncate -s 8M disk; mkfs.ext4 -q -O ^has_journal disk; mkdir mnt; mount -o loop disk mnt
         export MINI_ROOT=$PWD/mnt/store
         \"$MINI\" import \"$BUSYBOX\" first
         gzip -c {big} >b.gz
         for image in {big} big.d b.gz -; do
             if gzip -dc b.gz | \"$MINI\" import $image second 2>>errors; then exit 9; fi
             find $MINI_ROOT -type f | grep -vc /images/
         done
         \"$MINI\" images -q
         cd mnt/store/blobs; sha256sum * | sed 's/\\(.*\\)  sha256-\\1/good/'; cd ../../..
         umount mnt"
    );
    let output = bench.private_shell(&script).output().ok();
    assert_eq!(output, "1\n1\n1\n1\nfirst\ngood\n");
    let errors = fs::read_to_string(bench.path("errors")).unwrap();
    let lines: Vec<&str> = errors.lines().collect();
    let store = bench.text("mnt/store");
    let [tar, directory, gzip, stdin] = lines[..] else {
        panic!("{errors}");
    };
    let needs = format!("mini: import(\"{big}\"): needs ");
    assert!(tar.starts_with(&needs) && tar.ends_with(&format!(" free in \"{store}\"")));
    let full = format!("mini: write(\"{store}/blobs\"): No space left on device");
    assert_eq!(directory, full);
    for (line, name) in [(gzip, bench.text("b.gz")), (stdin, "-".to_owned())] {
        let bytes = line.strip_prefix(&format!("mini: inflate(\"{name}\"): it holds more than "));
        assert!(
            bytes
                .is_some_and(|bytes| bytes.ends_with(" bytes, which is the limit (--image-limit)")),
            "{line}"
        );
    }
    bench.dir("store");
    finish(&bench);
}

#[test]
fn many_at_once_do_not_harm_each_other() {
    let Some(bench) = Bench::new("many") else {
        return;
    };
    let other = tar(&bench, "other", 500_000);
    let busybox = bench.busybox().to_owned();
    thread::scope(|scope| {
        for number in 0..4 {
            let (bench, other, busybox) = (&bench, &other, &busybox);
            // All give images to the same name, and each to one of its own, that stays.
            scope.spawn(move || {
                let own = format!("own{number}");
                for round in 0..8 {
                    let path = if (round + number) % 2 == 0 {
                        other
                    } else {
                        busybox
                    };
                    bench.mini(&["import", path, "name"]).output().ok();
                    bench.mini(&["import", path, &own]).output().ok();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                bench.mini(&["rmi", "name"]).output();
                bench.mini(&["prune"]).output().ok();
                bench.mini(&["images"]).output().ok();
            }
        });
    });
    bench.mini(&["images", "-q"]).output().ok();
    let found = check(&bench);
    for number in 0..4 {
        assert!(found.contains(&format!("own{number}")), "{found:?}");
    }
    finish(&bench);
}

#[test]
fn while_an_import_reads_nothing_of_it_is_garbage() {
    let Some(bench) = Bench::new("slow") else {
        return;
    };
    let whole = fs::read(bench.busybox()).unwrap();
    let mut running = bench.mini(&["import", "-", "slow"]);
    running.command.stdin(std::process::Stdio::piped());
    let mut running = running.start();
    let mut stdin = running.child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, &whole[..whole.len() / 2]).unwrap();
    assert!(eventually(|| names(&bench, "cache").len() == 1));
    bench.mini(&["prune", "--all"]).output().ok();
    bench.mini(&["images"]).output().ok();
    assert_eq!(names(&bench, "cache").len(), 1);
    std::io::Write::write_all(&mut stdin, &whole[whole.len() / 2..]).unwrap();
    drop(stdin);
    running.wait().ok();
    assert_eq!(check(&bench), ["slow"]);
    finish(&bench);
}

#[test]
fn an_ordinary_user_has_images_of_his_own() {
    let Some(bench) = Bench::new("user") else {
        return;
    };
    if !have_program("setpriv") {
        return;
    }
    // A directory that this user can write to, and one that he cannot read everything in.
    let script = "mkdir home; chown 1234:1234 home; mkdir -p tree/a; echo x >tree/a/b; cp \"$MINI\" \"$BUSYBOX\" home
         u=\"setpriv --reuid 1234 --regid 1234 --clear-groups env MINI_ROOT=$PWD/home/store MINI_RUN=$PWD/home/run home/mini\"
         $u import home/busybox.tar bb; $u import tree tree; $u images -q
         chmod 0 tree/a/b; $u import tree other 2>error && exit 9
         cat error >&2; ls home/store/blobs | wc -l; $u rmi bb tree; ls home/store/blobs | wc -l; rm -r home";
    let output = bench.private_shell(script).output().expect(0);
    assert_eq!(output.stdout, "bb\ntree\n2\n0\n");
    assert!(
        output.stderr.contains("a/b\"): Permission denied"),
        "{}",
        output.stderr
    );
    assert_eq!(output.stderr.lines().count(), 1);
}
