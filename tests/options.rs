//! The options of `mini run`: what each changes inside, and that paths from an image or an option never lead out.

mod support;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use support::{Bench, guest, have};

// --- environment, directory, user ------------------------------------------------------------------------------

#[test]
fn variables_come_from_options_files_and_where_named_from_the_caller() {
    let Some(bench) = Bench::new("env") else {
        return;
    };
    let file = bench.file(
        "vars",
        "# comment\n\nFROM_FILE=1 and 2\r\n  INDENTED=x\nCALLER\nBOTH=file\nABSENT\nEMPTY=\n",
    );
    let options = [
        "--env-file",
        &file,
        "-e",
        "A=1",
        "-eB=2",
        "--env=C=3=4",
        "--env",
        "BOTH=option",
        "-e",
        "CALLER2",
        "-e",
        "ABSENT2",
        "-e",
        "A=last",
        "-e",
        "PATH=/bin",
        "--hostname",
        "h",
        "-e=D=5",
    ];
    let run = bench
        .guest(&options, &["report"])
        .env("CALLER", "c")
        .env("CALLER2", "c2")
        .env("OTHER", "no");
    let report = support::Report(run.output().ok());
    let expected = [
        "A=last",
        "B=2",
        "BOTH=option",
        "C=3=4",
        "CALLER2=c2",
        "CALLER=c",
        "D=5",
        "EMPTY=",
        "FROM_FILE=1 and 2",
        "HOME=/root",
        "HOSTNAME=h",
        "INDENTED=x",
        "PATH=/bin",
    ];
    assert_eq!(report.environment(), expected);
    assert_eq!(
        bench
            .report(&["-e", "HOME=/x", "-e", "HOSTNAME=y", "-e", "PATH=/bin"])
            .environment(),
        ["HOME=/x", "HOSTNAME=y", "PATH=/bin"]
    );
}

#[test]
fn the_working_directory_is_made_if_missing() {
    let Some(bench) = Bench::new("workdir") else {
        return;
    };
    for options in [
        &["-w", "/made/of/this"][..],
        &["-w/made/of/this"],
        &["--workdir=/made/of/this"],
    ] {
        assert_eq!(
            bench.shell(options, "pwd; stat -c '%a %u' /made . ").ok(),
            "/made/of/this\n755 0\n755 0\n"
        );
    }
    assert_eq!(
        bench.shell(&["-w", "/tmp"], "pwd; stat -c %a .").ok(),
        "/tmp\n1777\n"
    );
    // Root's directory, for a user who may not look into it.
    assert_eq!(
        bench
            .shell(&["-w", "/root", "-u", "user"], "pwd; id -u")
            .ok(),
        "/root\n1000\n"
    );
    // In a volume.
    let dir = bench.dir("dir");
    assert_eq!(
        bench
            .shell(
                &["-v", &format!("{dir}:/v"), "-w", "/v/new"],
                "pwd; touch x"
            )
            .ok(),
        "/v/new\n"
    );
    assert!(bench.path("dir/new/x").exists());
    let line = bench.shell(&["-w", "/etc/passwd"], "pwd").one_line(125);
    assert!(
        line.contains("\"/etc/passwd\"") && line.ends_with(": Not a directory"),
        "{line}"
    );
}

#[test]
fn users_and_groups_are_those_of_the_container() {
    let Some(bench) = Bench::new("user") else {
        return;
    };
    for (user, uid, gid, groups, home) in [
        ("root", 0, 0, vec!["29"], "/root"),
        ("0", 0, 0, vec!["29"], "/root"),
        ("user", 1000, 1000, vec!["29"], "/home/user"),
        ("1000", 1000, 1000, vec!["29"], "/home/user"),
        ("user:audio", 1000, 29, vec![], "/home/user"),
        ("1000:1234", 1000, 1234, vec![], "/home/user"),
        ("4321", 4321, 0, vec![], "/"),
        ("4321:bin", 4321, 2, vec![], "/"),
        ("nobody", 65534, 65534, vec![], "/nonexistent"),
        ("65535:65535", 65535, 65535, vec![], "/"),
        // With a user namespace there are no more than these.
        ("65536", 65536, 0, vec![], "/"),
        ("4294967294", 4_294_967_294u32, 0, vec![], "/"),
    ] {
        let mut options = vec!["-u", user];
        if uid > 65535 {
            let line = bench.guest(&options, &["report"]).output().one_line(125);
            let expected = "setresuid({uid}, {uid}, {uid}): Invalid argument \
                (--user: inside there are only ids 0 to 65535; --userns host has them all)";
            assert_eq!(line, expected, "{user}");
            let line = bench
                .guest(&["-t", "-u", user], &["report"])
                .output()
                .one_line(125);
            assert!(
                line.ends_with("only ids 0 to 65535; --userns host has them all)"),
                "{line}"
            );
            options.extend(["--userns", "host"]);
        }
        let report = bench.report(&options);
        assert_eq!(
            report.get("Uid"),
            format!("{uid} {uid} {uid} {uid}"),
            "{user}"
        );
        assert_eq!(
            report.get("Gid"),
            format!("{gid} {gid} {gid} {gid}"),
            "{user}"
        );
        let mut found: Vec<_> = report.get("Groups").split_whitespace().collect();
        // Whether the primary group is in the list makes no difference to the kernel.
        found.retain(|group| *group != gid.to_string());
        assert_eq!(found, groups, "{user}");
        assert!(
            report
                .environment()
                .contains(&format!("HOME={home}").as_str()),
            "{user}"
        );
        if uid != 0 {
            for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(report.get(key), "0000000000000000", "{user} {key}");
            }
        }
    }
    let line = bench.shell(&["-u", "0:65536"], "true").one_line(125);
    let expected = "setresgid({gid}, {gid}, {gid}): Invalid argument \
        (--user: inside there are only ids 0 to 65535; --userns host has them all)";
    assert_eq!(line, expected);
    // The container's files, also where they come from a volume.
    let passwd = bench.file("passwd", "me:x:77:78::/me:/bin/sh\n");
    let report = bench.report(&["-v", &format!("{passwd}:/etc/passwd:ro"), "--user=me"]);
    assert_eq!(
        (report.get("Uid"), report.get("Gid")),
        ("77 77 77 77", "78 78 78 78")
    );
}

#[test]
fn a_hostile_passwd_neither_blocks_nor_leads_out() {
    let Some(bench) = Bench::new("passwd") else {
        return;
    };
    let image = bench.small_image("image");
    fs::create_dir(bench.path("image/etc")).unwrap();
    let secret = bench.file("secret", "me:x:77:78::/me:/bin/sh\n");
    let passwd = bench.path("image/etc/passwd");
    let run = || {
        bench
            .mini(&["run", "-u", "me", &image, "--", "/guest", "report"])
            .limit(10)
            .output()
    };
    symlink(&secret, &passwd).unwrap();
    run().fails(125, "--user: no user \"me\" in the container's /etc/passwd");
    fs::remove_file(&passwd).unwrap();
    support::Run::new("mkfifo")
        .args(&[passwd.to_str().unwrap()])
        .output()
        .ok();
    run().one_line(125);
    fs::remove_file(&passwd).unwrap();
    symlink("/dev/zero", &passwd).unwrap();
    run().one_line(125);
    fs::remove_file(&passwd).unwrap();
    fs::write(
        &passwd,
        [
            vec![b'x'; 100_000],
            b"\n\0\n:::\nme\nme:x:1\nme:x:-1:2\nme:x:5:6".to_vec(),
        ]
        .concat(),
    )
    .unwrap();
    let report = support::Report(run().ok());
    assert_eq!(
        (report.get("Uid"), report.get("Gid")),
        ("5 5 5 5", "6 6 6 6")
    );
}

// --- volumes ---------------------------------------------------------------------------------------------------

#[test]
fn volumes_are_writable_or_read_only_and_always_without_suid_and_devices() {
    let Some(bench) = Bench::new("volumes") else {
        return;
    };
    let dir = bench.dir("dir");
    bench.file("dir/there", "hello\n");
    let (rw, ro) = (format!("{dir}:/data"), format!("{dir}:/data:ro"));
    assert_eq!(
        bench
            .shell(&["-v", &rw], "cat /data/there; echo new > /data/new")
            .ok(),
        "hello\n"
    );
    assert_eq!(fs::read_to_string(bench.path("dir/new")).unwrap(), "new\n");
    let output = bench
        .shell(&["-v", &ro], "cat /data/new && echo x > /data/other")
        .expect(1);
    assert_eq!(output.stdout, "new\n");
    assert!(
        output.stderr.contains("Read-only file system"),
        "{}",
        output.stderr
    );
    assert!(!bench.path("dir/other").exists());
    for (volume, mode) in [(&rw, "rw"), (&ro, "ro"), (&format!("{dir}:/data:rw"), "rw")] {
        let mount = bench.report(&["--volume", volume]).mount("/data");
        assert!(
            mount.has(mode) && mount.has("nosuid") && mount.has("nodev"),
            "{mount:?}"
        );
    }
    // In a user namespace no device can be made, whatever the capabilities.
    let script = "mknod /data/node c 1 3 && echo x > /data/node";
    for capability in ["CHOWN", "MKNOD", "ALL"] {
        let output = bench.shell(&["-v", &rw, "--cap-add", capability], script);
        let output = output.expect(1);
        assert!(
            output.stderr.contains("Operation not permitted"),
            "{capability}: {}",
            output.stderr
        );
        assert!(!bench.path("dir/node").exists());
    }
    // Where one can, or is there, it is dead.
    let output = bench
        .shell(
            &["-v", &rw, "--userns", "host", "--cap-add", "MKNOD"],
            script,
        )
        .expect(1);
    assert!(
        output.stderr.contains("Permission denied"),
        "{}",
        output.stderr
    );
    assert!(bench.path("dir/node").exists());
    for options in [&[][..], &["--cap-add", "ALL"], &["--privileged"]] {
        let options = [&["-v", &rw], options].concat();
        let output = bench.shell(&options, "echo x > /data/node").expect(1);
        assert!(
            output.stderr.contains("Permission denied"),
            "{options:?}: {}",
            output.stderr
        );
    }
    fs::remove_file(bench.path("dir/node")).unwrap();
    // A set-user-id program of the volume's is an ordinary one.
    fs::copy(guest(), bench.path("dir/suid")).unwrap();
    support::Run::new("chmod")
        .args(&["4755", &bench.text("dir/suid")])
        .output()
        .ok();
    let options = ["-v", &rw, "-u", "1000", "--no-new-privs=false"];
    for more in [&[][..], &["--userns", "host"], &["--privileged"]] {
        let run = bench.run(&[&options, more].concat(), &["/data/suid", "report"]);
        let report = support::Report(run.output().ok());
        assert_eq!(report.get("Uid"), "1000 1000 1000 1000", "{more:?}");
    }
    fs::remove_file(bench.path("dir/suid")).unwrap();
    // Relative to the caller's directory; several, one in another, whatever their order.
    let nested = bench.dir("nested");
    bench.file("nested/file", "nested\n");
    fs::create_dir(bench.path("dir/in")).unwrap();
    let run = bench.run(
        &["-v", &format!("{nested}:/data/in"), "-v", "dir:/data"],
        &["cat", "/data/in/file", "/data/there"],
    );
    assert_eq!(
        run.directory(&bench.path("")).output().ok(),
        "nested\nhello\n"
    );
}

#[test]
fn a_file_can_be_a_volume() {
    let Some(bench) = Bench::new("filevolume") else {
        return;
    };
    let file = bench.file("file", "contents\n");
    for target in [
        "/etc/passwd",
        "/new",
        "/deep/er/new",
        "/etc/hosts",
        "/etc/resolv.conf",
    ] {
        let text = bench
            .shell(
                &["-v", &format!("{file}:{target}")],
                &format!("cat {target}; echo more >> {target}"),
            )
            .ok();
        assert_eq!(text, "contents\n", "{target}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "contents\nmore\n");
        fs::write(&file, "contents\n").unwrap();
        bench
            .shell(
                &["-v", &format!("{file}:{target}:ro")],
                &format!("echo more >> {target}"),
            )
            .expect(1);
    }
    // A file on a directory does not go.
    let line = bench
        .shell(&["-v", &format!("{file}:/etc")], "true")
        .one_line(125);
    assert!(line.contains("\"{root}/etc\""), "{line}");
}

#[test]
fn what_is_mounted_below_a_read_only_volume_is_read_only_too() {
    let Some(bench) = Bench::new("submount") else {
        return;
    };
    let script = "mkdir v; mkdir v/sub; mount -t tmpfs none v/sub; echo below > v/sub/file
        $MINI run -v $PWD/v:/v $BUSYBOX -- sh -c 'cat /v/sub/file; echo x > /v/sub/new'
        ls v/sub
        $MINI run -v $PWD/v:/v:ro $BUSYBOX -- sh -c 'cat /v/sub/file; ! echo x > /v/sub/other; ! echo x > /v/other'
        ls v/sub v";
    let output = bench.private_shell(script).output().expect(0);
    assert_eq!(
        output.stdout,
        "below\nfile\nnew\nbelow\nv:\nsub\n\nv/sub:\nfile\nnew\n"
    );
    assert_eq!(
        output.stderr.matches("Read-only file system").count(),
        2,
        "{}",
        output.stderr
    );
}

#[test]
fn a_volume_target_goes_through_the_images_symlinks_and_stays_inside() {
    let Some(bench) = Bench::new("symlinks") else {
        return;
    };
    let image = bench.small_image("image");
    let canary = bench.dir("canary");
    let dir = bench.dir("dir");
    bench.file("dir/file", "volume\n");
    fs::create_dir(bench.path("image/inside")).unwrap();
    let links = [
        ("absolute", "/inside"),
        ("relative", "inside"),
        ("up", "../../../../../../../../inside"),
        ("outside", canary.as_str()),
        ("dangling", "/not/yet/there"),
        ("chain", "up"),
        ("dotdot", "/inside/../../../../inside"),
    ];
    for (name, to) in links {
        symlink(to, bench.path("image").join(name)).unwrap();
        for target in [format!("/{name}/x"), format!("/{name}")] {
            let run = bench.mini(&[
                "run",
                "-v",
                &format!("{dir}:{target}"),
                &image,
                "--",
                "/guest",
                "read",
            ]);
            let text = run.args(&[&format!("{target}/file")]).output().ok();
            assert_eq!(text, "volume\n", "{target} -> {to}");
        }
        // A file as well.
        let run = bench.mini(&[
            "run",
            "-v",
            &format!("{dir}/file:/{name}/f"),
            &image,
            "--",
            "/guest",
            "read",
        ]);
        assert_eq!(
            run.args(&[&format!("/{name}/f")]).output().ok(),
            "volume\n",
            "/{name}/f -> {to}"
        );
    }
    assert_eq!(
        fs::read_dir(&canary).unwrap().count(),
        0,
        "something was made outside"
    );
    assert_eq!(
        fs::read_dir(bench.path("image/inside")).unwrap().count(),
        0,
        "the image was changed"
    );
    // Loops, and links that the kernel alone can follow.
    symlink("/loop", bench.path("image/loop")).unwrap();
    symlink("/proc/self/root", bench.path("image/magic")).unwrap();
    symlink("/proc/1/cwd", bench.path("image/cwd")).unwrap();
    for name in ["loop", "magic", "cwd"] {
        let run = bench.mini(&[
            "run",
            "-v",
            &format!("{dir}:/{name}/x"),
            &image,
            "--",
            "/guest",
            "exit",
            "0",
        ]);
        let line = run.output().one_line(125);
        assert!(
            line.starts_with("mount(") && line.contains(&format!("\"{{root}}/{name}/x\"")),
            "{line}"
        );
    }
    assert!(!fs::exists("/x").unwrap());
}

#[test]
fn an_image_whose_proc_dev_or_sys_is_no_directory_is_refused() {
    let Some(bench) = Bench::new("hostile") else {
        return;
    };
    for (index, name) in ["proc", "dev", "sys"].into_iter().enumerate() {
        let image = bench.small_image(&format!("image{index}"));
        let place = std::path::Path::new(&image).join(name);
        let canary = bench.dir("canary");
        for target in ["/tmp", "tmp", canary.as_str(), "/", "."] {
            symlink(target, &place).unwrap();
            let line = bench
                .mini(&["run", &image, "--", "/guest", "exit", "0"])
                .output()
                .one_line(125);
            assert!(
                line.starts_with("mount(") && line.contains(&format!("\"{{root}}/{name}\"")),
                "{line}"
            );
            assert!(
                line.ends_with(" (the image has no ordinary directory there)"),
                "{line}"
            );
            fs::remove_file(&place).unwrap();
        }
        fs::write(&place, "").unwrap();
        let line = bench
            .mini(&["run", &image, "--", "/guest", "exit", "0"])
            .output()
            .one_line(125);
        assert!(
            line.ends_with(" (the image has no ordinary directory there)"),
            "{line}"
        );
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
    }
}

#[test]
fn an_image_may_have_anything_at_etc() {
    let Some(bench) = Bench::new("etc") else {
        return;
    };
    let read = |image: &str| {
        let run = bench.mini(&[
            "run",
            "--name",
            "box",
            image,
            "--",
            "/guest",
            "read",
            "/etc/hostname",
        ]);
        run.output().ok()
    };
    // Nothing; a dangling link for resolv.conf and hosts, as Ubuntu has it.
    let image = bench.small_image("nothing");
    assert_eq!(read(&image), "box\n");
    let image = bench.small_image("dangling");
    fs::create_dir(bench.path("dangling/etc")).unwrap();
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        bench.path("dangling/etc/resolv.conf"),
    )
    .unwrap();
    symlink("/nowhere/hosts", bench.path("dangling/etc/hosts")).unwrap();
    for file in ["resolv.conf", "hosts"] {
        let text = bench
            .mini(&[
                "run",
                &image,
                "--",
                "/guest",
                "read",
                &format!("/etc/{file}"),
            ])
            .output()
            .ok();
        assert!(
            text.contains("network") || text.contains("localhost"),
            "{text}"
        );
    }
    // /etc as a link, to where there is something, nothing, and outside.
    let canary = bench.dir("canary");
    for (index, target) in ["/tmp", "../../../tmp", "/not/there", canary.as_str()]
        .into_iter()
        .enumerate()
    {
        let name = format!("link{index}");
        let image = bench.small_image(&name);
        fs::create_dir(bench.path(&name).join("tmp")).unwrap();
        symlink(target, bench.path(&name).join("etc")).unwrap();
        assert_eq!(read(&image), "box\n", "{target}");
    }
    assert_eq!(
        fs::read_dir(&canary).unwrap().count(),
        0,
        "something was made outside"
    );
    // Files that are links to the host's.
    let image = bench.small_image("files");
    fs::create_dir(bench.path("files/etc")).unwrap();
    let secret = bench.file("secret", "secret\n");
    symlink(&secret, bench.path("files/etc/hostname")).unwrap();
    assert_eq!(read(&image), "box\n");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret\n");
}

#[test]
fn a_link_in_the_workdir_stays_inside() {
    let Some(bench) = Bench::new("workdirlink") else {
        return;
    };
    let image = bench.small_image("image");
    let canary = bench.dir("canary");
    symlink(&canary, bench.path("image/out")).unwrap();
    let run = bench.mini(&["run", "-w", "/out/deep", &image, "--", "/guest", "report"]);
    let report = support::Report(run.output().ok());
    assert_eq!(report.get("cwd"), format!("{canary}/deep"));
    assert_eq!(
        fs::read_dir(&canary).unwrap().count(),
        0,
        "something was made outside"
    );
    // CVE-2024-21626: a descriptor of the runtime's as working directory.
    symlink("/proc/self/fd/7", bench.path("image/fd")).unwrap();
    for number in 0..20 {
        for path in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/self/fd/{number}/../.."),
        ] {
            let run = bench.mini(&[
                "run",
                "-w",
                &path,
                &image,
                "--",
                "/guest",
                "exists",
                &format!("../../../..{canary}"),
            ]);
            let output = run.output();
            assert!(
                output.status == 125 || output.stdout.ends_with(" false\n"),
                "{path}: {output:?}"
            );
        }
    }
}

// --- file systems ----------------------------------------------------------------------------------------------

#[test]
fn a_tmpfs_has_the_options_given() {
    let Some(bench) = Bench::new("tmpfs") else {
        return;
    };
    let mount = bench.report(&["--tmpfs", "/t"]).mount("/t");
    assert_eq!(
        (mount.kind.as_str(), mount.options.as_str()),
        ("tmpfs", "rw,nosuid,nodev,noexec,relatime")
    );
    assert_eq!(
        bench.shell(&["--tmpfs", "/t"], "stat -c '%a %u' /t").ok(),
        "1777 0\n"
    );
    for options in [&[][..], &["--userns", "host"]] {
        let tmpfs = "/new/t:size=1m,mode=0700,uid=1000,gid=29,nr_inodes=20,exec,suid,dev";
        let options = [&["--tmpfs", tmpfs], options].concat();
        let report = bench.report(&options);
        let (mount, base) = (report.mount("/new/t"), report.base());
        assert_eq!(mount.options, "rw,relatime");
        // Ids are shown as those outside.
        for option in [
            "size=1024k",
            "mode=700",
            &format!("uid={}", base + 1000),
            &format!("gid={}", base + 29),
            "nr_inodes=20",
        ] {
            assert!(mount.has(option), "{option}: {mount:?}");
        }
        let text = bench.shell(&options, "stat -c '%a %u %g' /new/t").ok();
        assert_eq!(text, "700 1000 29\n", "{options:?}");
    }
    let output = bench
        .guest(&["--tmpfs=/t:size=1m"], &["fill", "/t/x", "9999999"])
        .output()
        .expect(1);
    assert_eq!(
        output.stdout,
        "filled 1048576\nfill No space left on device (os error 28)\n"
    );
    assert!(bench.report(&["--tmpfs", "/t:ro"]).mount("/t").has("ro"));
    // Over what the image has there, and below a volume.
    assert_eq!(
        bench
            .shell(&["--tmpfs", "/etc/profile.d"], "ls /etc/profile.d")
            .ok(),
        ""
    );
    let dir = bench.dir("dir");
    bench
        .shell(
            &["-v", &format!("{dir}:/v"), "--tmpfs", "/v/t"],
            "touch /v/t/x /v/y",
        )
        .ok();
    assert!(
        bench.path("dir/y").exists()
            && bench.path("dir/t").exists()
            && !bench.path("dir/t/x").exists()
    );
}

#[test]
fn a_read_only_root_leaves_volumes_and_tmpfs_writable() {
    let Some(bench) = Bench::new("readonly") else {
        return;
    };
    let dir = bench.dir("dir");
    let volume = format!("{dir}:/v");
    let options = [
        "--read-only",
        "--tmpfs",
        "/tmp",
        "-v",
        &volume,
        "-w",
        "/work",
    ];
    let script = "for place in / /etc /home /tmp /v /dev/shm /work; do (echo > $place/x) 2>/dev/null && echo $place; done; \
        touch -c /etc/passwd 2>&1";
    let output = bench.shell(&options, script);
    assert_eq!(
        output.stdout, "/tmp\n/v\n/dev/shm\ntouch: /etc/passwd: Read-only file system\n",
        "{}",
        output.stderr
    );
    assert!(bench.report(&["--read-only"]).mount("/").has("ro"));
    assert!(bench.report(&["--read-only=false"]).mount("/").has("rw"));
    // Nor can that be undone, except by who may do everything.
    let script = "mount -o remount,rw,bind / && echo x > /x && echo writable";
    for (options, writable) in [
        (&[][..], ""),
        (&["--userns", "host"], ""),
        (&["--cap-add", "SYS_ADMIN"], "writable\n"),
        (&["--privileged"], "writable\n"),
    ] {
        let output = bench.shell(&[&["--read-only"], options].concat(), script);
        assert_eq!(output.stdout, writable, "{options:?}: {}", output.stderr);
    }
}

#[test]
fn shm_has_the_size_given() {
    let Some(bench) = Bench::new("shm") else {
        return;
    };
    let output = bench
        .guest(&["--shm-size", "1M"], &["fill", "/dev/shm/x", "9999999"])
        .output()
        .expect(1);
    assert!(
        output.stdout.starts_with("filled 1048576\n"),
        "{}",
        output.stdout
    );
    let text = bench
        .guest(&[], &["fill", "/dev/shm/x", "60000000"])
        .output()
        .ok();
    assert!(text.starts_with("filled 60000000\n"), "{text}");
}

#[test]
fn the_upper_layer_is_limited_memory_or_disk() {
    let Some(bench) = Bench::new("upper") else {
        return;
    };
    let output = bench
        .guest(&["--upper", "tmpfs:2m"], &["fill", "/x", "9999999"])
        .output()
        .expect(1);
    assert!(
        output.stdout.contains("No space left on device"),
        "{}",
        output.stdout
    );
    let filled: usize = output
        .stdout
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!((1 << 20..=2 << 20).contains(&filled), "{filled}");
    let text = bench
        .guest(&["--upper", "disk"], &["fill", "/x", "9999999"])
        .output()
        .ok();
    assert!(text.contains("fill ok"), "{text}");
    // What is written is on disk, or it is not; the option of the mount does not say where.
    let directory = bench.busybox_directory();
    for (options, layer, on_disk) in [
        (&["--upper", "disk"][..], "layer/upper", true),
        (&["--upper", "tmpfs"], "own/upper", false),
        (&[], "own/upper", false),
        (
            &["--upper", "disk", "--userns", "host"],
            "layer/upper",
            true,
        ),
        (
            &["--upper", "tmpfs", "--userns", "host"],
            "own/upper",
            false,
        ),
    ] {
        let mount = bench.report(options).mount("/");
        assert!(mount.has(&format!("upperdir={layer}")), "{mount:?}");
        for image in [bench.busybox(), &directory] {
            let script = "echo x > /marker && echo ready && sleep 1000";
            let run = bench.mini(&["run"]).args(options);
            let mut running = run.args(&[image, "--", "sh", "-c", script]).start();
            running.until("ready");
            let found = bench.files();
            running.kill(2);
            running.wait();
            let found = found.iter().any(|file| file.ends_with("/upper/marker"));
            assert_eq!(found, on_disk, "{options:?} {image}");
        }
    }
}

// --- limits ----------------------------------------------------------------------------------------------------

/// Whether this process has CAP_SYS_RESOURCE (24), which not every root has.
fn have_sys_resource() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = u64::from_str_radix(set.unwrap().trim(), 16).unwrap();
    have(
        "resource",
        set & 1 << 24 != 0,
        "root has no CAP_SYS_RESOURCE here",
    )
}

#[test]
fn resource_limits() {
    let Some(bench) = Bench::new("ulimit") else {
        return;
    };
    let report = bench.report(&[
        "--ulimit",
        "nofile=100:200",
        "--ulimit=core=0",
        "--ulimit",
        "cpu=-1",
        "--ulimit",
        "nproc=50",
    ]);
    let limits = report.all("limit");
    for line in [
        "Max open files 100 200 files",
        "Max core file size 0 0 bytes",
        "Max cpu time unlimited unlimited seconds",
        "Max processes 50 50 processes",
    ] {
        assert!(limits.contains(&line), "{line}: {limits:?}");
    }
    // Without CAP_SYS_RESOURCE a hard limit cannot be raised.
    let script = "ulimit -n 50; exec \"$@\"";
    let mini = support::mini();
    for userns in ["auto", "host"] {
        let run = |setpriv: &[&str], command: &[&str]| {
            let run = bench.program("setpriv").args(setpriv);
            let run = run.args(&["sh", "-c", script, "sh", mini.to_str().unwrap(), "run"]);
            let run = run.args(&["--ulimit", "nofile=100:200", "--userns", userns]);
            run.args(&[bench.busybox(), "--"]).args(command).output()
        };
        let line = run(&["--bounding-set=-sys_resource"], &["true"]).one_line(125);
        let expected = "setrlimit(RLIMIT_NOFILE, {100, 200}): Operation not permitted \
            (--ulimit: raising a hard limit needs CAP_SYS_RESOURCE)";
        assert_eq!(line, expected, "{userns}");
        // With it mini can, for a container that has no such capability over the host's limits.
        if have_sys_resource() {
            let text = run(&[], &["sh", "-c", "ulimit -n; ulimit -Hn"]).ok();
            assert_eq!(text, "100\n200\n", "{userns}");
        }
    }
}

#[test]
fn oom_score_adj_can_be_raised_and_lowering_it_needs_a_capability() {
    let Some(bench) = Bench::new("oom") else {
        return;
    };
    assert_eq!(
        bench
            .report(&["--oom-score-adj", "500"])
            .get("oom_score_adj"),
        "500"
    );
    assert_eq!(
        bench.report(&["--oom-score-adj=1000"]).get("oom_score_adj"),
        "1000"
    );
    // Root may, also for a container whose own root may not.
    if have_sys_resource() {
        let report = bench.report(&["--oom-score-adj=-5"]);
        assert_eq!(report.get("oom_score_adj"), "-5");
    }
    let mini = support::mini();
    for userns in ["auto", "host"] {
        let run = bench.program("setpriv").args(&[
            "--bounding-set=-sys_resource",
            mini.to_str().unwrap(),
            "run",
        ]);
        let line = run
            .args(&["--userns", userns, "--oom-score-adj", "-5"])
            .args(&[bench.busybox(), "--", "true"])
            .output()
            .one_line(125);
        let (path, rest) = line.split_once("\"): ").unwrap();
        let pid = path.strip_prefix("write(\"/proc/").unwrap();
        let pid = pid.strip_suffix("/oom_score_adj").unwrap();
        assert!(pid.parse::<u32>().is_ok(), "{line}");
        let expected = "Permission denied (--oom-score-adj: lowering it needs CAP_SYS_RESOURCE)";
        assert_eq!(rest, expected, "{userns}");
    }
}

// --- namespaces ------------------------------------------------------------------------------------------------

#[test]
fn a_namespace_can_be_the_hosts() {
    let Some(bench) = Bench::new("shared") else {
        return;
    };
    let all = ["user", "pid", "net", "ipc", "uts", "cgroup", "mnt"];
    let shared = [
        ("--userns=host", "user"),
        ("--net=host", "net"),
        ("--pid=host", "pid"),
        ("--ipc=host", "ipc"),
        ("--uts=host", "uts"),
        ("--cgroupns=host", "cgroup"),
    ];
    let inode = |name: &str| {
        fs::read_link(format!("/proc/self/ns/{name}"))
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    for (option, name) in shared {
        let report = bench.report(&[option]);
        for each in all {
            assert_eq!(
                report.get(&format!("ns {each}")) == inode(each),
                each == name,
                "{option}: {each}"
            );
        }
    }
    let report = bench.report(&[
        "--userns=auto",
        "--net=none",
        "--pid=private",
        "--ipc=private",
        "--uts=private",
        "--cgroupns=private",
    ]);
    assert!(
        all.iter()
            .all(|each| report.get(&format!("ns {each}")) != inode(each))
    );
    let every: Vec<_> = shared.iter().map(|(option, _)| *option).collect();
    let report = bench.report(&every);
    assert!(
        all.iter()
            .all(|each| (report.get(&format!("ns {each}")) == inode(each)) == (*each != "mnt"))
    );
}

#[test]
fn what_belongs_to_a_shared_namespace_is_the_hosts() {
    let Some(bench) = Bench::new("hosts") else {
        return;
    };
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let own = own.trim_end();
    let report = bench.report(&["--uts", "host", "--name", "box"]);
    assert_eq!(report.get("hostname"), own);
    assert!(
        report
            .environment()
            .contains(&format!("HOSTNAME={own}").as_str())
    );
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap()
            .trim_end(),
        own
    );
    // The host's processes, this one among them.
    let report = bench.report(&["--pid", "host"]);
    let me = format!("{} ", std::process::id());
    assert!(
        report
            .all("process")
            .iter()
            .any(|line| line.starts_with(&me))
    );
    assert_ne!(report.get("pid"), "2");
    if fs::metadata("/dev/shm").is_ok_and(|status| status.is_dir()) {
        let name = format!("/dev/shm/mini-test-{}", std::process::id());
        fs::write(&name, "shared\n").unwrap();
        let text = bench
            .shell(&["--ipc", "host"], &format!("cat {name}"))
            .stdout;
        fs::remove_file(&name).unwrap();
        assert_eq!(text, "shared\n");
        bench.shell(&[], &format!("cat {name}")).expect(1);
    }
    // The host's interfaces.
    let host = fs::read_dir("/sys/class/net").unwrap().count();
    assert_eq!(
        bench
            .shell(&["--net", "host"], "ls /sys/class/net | wc -l")
            .ok()
            .trim(),
        host.to_string()
    );
}

#[test]
fn with_the_hosts_pid_namespace_orphans_are_reaped_as_well() {
    let Some(bench) = Bench::new("pidhost") else {
        return;
    };
    let output = bench.shell(&["--pid", "host"], "for i in 1 2 3 4 5; do (sleep 0.1 &); done; sleep 0.5; ps -o stat,ppid | grep -c ^Z.*$PPID$");
    assert_eq!(output.stdout, "0\n", "{}", output.stderr);
}

#[test]
fn time_starts_at_zero_in_a_time_namespace() {
    let Some(bench) = Bench::new("time") else {
        return;
    };
    if !have(
        "time",
        fs::exists("/proc/self/ns/time").unwrap(),
        "this kernel lacks CONFIG_TIME_NS",
    ) {
        return;
    }
    let seconds = |options: &[&str]| bench.report(options).get("uptime").parse::<f64>().unwrap();
    assert!(seconds(&["--time"]) < 5.0);
    assert!(seconds(&["--time", "--no-init"]) < 5.0);
    assert!(seconds(&[]) > 5.0);
}

// --- init, terminal, spellings ---------------------------------------------------------------------------------

#[test]
fn without_init_the_command_is_pid_1() {
    let Some(bench) = Bench::new("noinit") else {
        return;
    };
    let report = bench.report(&["--no-init", "-u", "user"]);
    for key in ["pid", "sid", "pgid"] {
        assert_eq!(report.get(key), "1", "{key}");
    }
    assert_eq!(
        (report.get("ppid"), report.get("Uid")),
        ("0", "1000 1000 1000 1000")
    );
    assert_eq!(report.all("process"), ["1 guest"]);
    let report = bench.report(&["--no-init=false"]);
    assert_eq!(report.get("pid"), "2");
    assert_eq!(bench.report(&["--init"]).get("pid"), "2");
}

#[test]
fn a_terminal_is_made_when_asked_for() {
    let Some(bench) = Bench::new("tty") else {
        return;
    };
    let output = bench
        .guest(&["-it"], &["report"])
        .env("TERM", "linux")
        .output()
        .expect(0);
    let report = support::Report(output.stdout.replace('\r', ""));
    for fd in 0..3 {
        assert_eq!(report.get(&format!("tty {fd}")), "true");
        assert_eq!(report.get(&format!("size {fd}")), "24 80");
    }
    assert_eq!(
        report.all("fd"),
        ["0 /dev/pts/0", "1 /dev/pts/0", "2 /dev/pts/0"]
    );
    assert_eq!(report.get("foreground"), "2");
    assert_eq!(
        bench.shell(&["-t"], "tty; stat -c %U $(tty)").stdout,
        "/dev/pts/0\r\nroot\r\n"
    );
    assert_eq!(
        bench
            .shell(&["-t", "-u", "user"], "tty; stat -c '%U %G' $(tty)")
            .stdout,
        "/dev/pts/0\r\nuser tty\r\n"
    );
    let report = bench.report(&[]);
    assert!((0..3).all(|fd| report.get(&format!("tty {fd}")) == "false"));
    // Without a terminal's TERM something that every program knows.
    let mut run = bench.guest(&["-t"], &["report"]);
    run.command.env_remove("TERM");
    assert!(run.output().stdout.contains("env TERM=xterm\r\n"));
}

#[test]
fn options_can_be_spelled_as_users_do() {
    let Some(bench) = Bench::new("spellings") else {
        return;
    };
    let script = "echo $A $(pwd) $(id -u); [ -t 0 ]";
    for options in [
        &["-it", "-eA=B", "-w/tmp", "-u1000"][..],
        &["-i", "-t", "-e", "A=B", "-w", "/tmp", "-u", "1000"],
        &[
            "--interactive",
            "--tty",
            "--env",
            "A=B",
            "--workdir",
            "/tmp",
            "--user",
            "1000",
        ],
        &[
            "--interactive=true",
            "--tty=true",
            "--env=A=B",
            "--workdir=/tmp",
            "--user=1000",
            "--rm",
        ],
        &[
            "-ti",
            "-e=A=B",
            "-w=/tmp",
            "-u=user",
            "--read-only=false",
            "--init",
        ],
        &["-iteA=B", "--workdir=/tmp", "-uuser"],
    ] {
        let output = bench.shell(options, script).expect(0);
        assert_eq!(output.stdout, "B /tmp 1000\r\n", "{options:?}");
    }
}

#[test]
fn the_command_is_taken_byte_for_byte() {
    let Some(bench) = Bench::new("bytes") else {
        return;
    };
    use std::os::unix::ffi::OsStrExt;
    let mut run = bench.run(&[], &["printf", "%s|", "a b", "", "--", "-x", "*"]);
    run.command.arg(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    run.command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let output = run.command.output().unwrap();
    assert_eq!(output.stdout, b"a b||--|-x|*|\xff\xfe|", "{output:?}");
    // The default command.
    assert_eq!(
        bench
            .mini(&["run", bench.busybox()])
            .input("echo $0; exit 3\n")
            .output()
            .expect(3)
            .stdout,
        "/bin/sh\n"
    );
}

#[test]
fn what_containers_write_to_volumes_belongs_to_who_wrote_it() {
    let Some(bench) = Bench::new("owner") else {
        return;
    };
    let dir = bench.dir("dir");
    support::Run::new("chmod")
        .args(&["777", &dir])
        .output()
        .ok();
    let volume = format!("{dir}:/v");
    bench
        .guest(&["-v", &volume, "-u", "1000"], &["write", "/v/x", "y"])
        .output()
        .ok();
    let status = fs::metadata(bench.path("dir/x")).unwrap();
    assert_eq!((status.uid(), status.mode() & 0o777), (1000, 0o644));
    assert!(fs::metadata(guest()).unwrap().is_file());
}

#[test]
fn a_switch_can_be_said_to_be_false() {
    let Some(bench) = Bench::new("false") else {
        return;
    };
    let text = bench.shell(&["--init=false"], "echo $$").ok();
    assert_eq!(text, "1\n");
    let text = bench
        .shell(
            &["--no-init=false", "--read-only=false"],
            "echo $$; touch /x",
        )
        .ok();
    assert_eq!(text, "2\n");
}
