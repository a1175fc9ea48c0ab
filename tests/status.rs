//! Exit statuses and error messages: the command's own status, 125, 126 and 127 told apart, and one line each that
//! names what is wrong. A mistake in the arguments is found before anything is made.

mod support;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{Bench, Output, Run, guest, is_core, rootfs};

#[test]
fn the_status_is_the_commands_own() {
    let Some(bench) = Bench::new("status") else {
        return;
    };
    bench.shell(&[], "exit 7").expect(7);
    bench.shell(&[], "exit 255").expect(255);
    bench.shell(&[], "exit 125").expect(125);
    bench.shell(&["-t"], "exit 7").expect(7);
    bench.shell(&["--no-init"], "exit 7").expect(7);
    bench.run(&[], &["true"]).output().ok();
}

#[test]
fn a_signal_that_kills_the_command_gives_128_and_its_number() {
    let Some(bench) = Bench::new("killed") else {
        return;
    };
    bench.shell(&[], "kill -9 $$").expect(137);
    bench.shell(&[], "kill -TERM $$").expect(143);
    bench.guest(&[], &["kill", "6"]).output().expect(134);
    bench.guest(&[], &["kill", "64"]).output().expect(192);
}

#[test]
fn a_missing_command_is_127_and_named() {
    let Some(bench) = Bench::new("missing") else {
        return;
    };
    for name in ["/nope", "nope", "/etc/passwd/nope", "./nope", ""] {
        let line = format!("execve(\"{name}\"): not found in the container");
        bench.run(&[], &[name]).output().fails(127, &line);
    }
    let line = "execve(\"/nope\"): not found in the container";
    bench
        .run(&["--no-init"], &["/nope"])
        .output()
        .fails(127, line);
    bench
        .run(&["-e", "PATH=/nowhere"], &["ls"])
        .output()
        .fails(127, "execve(\"ls\"): not found in the container");
}

/// Runs /dir/NAME after `prepare` has made it in a directory of the host.
fn prepared(bench: &Bench, name: &str, contents: &[u8], mode: u32) -> Output {
    let dir = bench.dir("dir");
    let file = bench.file(&format!("dir/{name}"), contents);
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    bench
        .run(&["-v", &format!("{dir}:/dir")], &[&format!("/dir/{name}")])
        .output()
}

#[test]
fn what_is_there_and_cannot_be_run_is_126_with_the_reason() {
    let Some(bench) = Bench::new("cannot") else {
        return;
    };
    let binary = fs::read(guest()).unwrap();
    let cannot = |name: &str, contents: &[u8], mode: u32, why: &str| {
        prepared(&bench, name, contents, mode)
            .fails(126, &format!("execve(\"/dir/{name}\"): {why}"));
    };
    cannot("mode", &binary, 0o644, "no permission to execute it");
    cannot(
        "script",
        b"#!/nope -x\n",
        0o755,
        "its interpreter \"/nope\" is not there",
    );
    cannot(
        "spaces",
        b"#! \t/no/pe\targ\n",
        0o755,
        "its interpreter \"/no/pe\" is not there",
    );
    cannot(
        "crlf",
        b"#!/bin/sh\r\n",
        0o755,
        "its interpreter \"/bin/sh\\u{d}\" is not there",
    );
    cannot(
        "text",
        b"echo hello\n",
        0o755,
        "neither an ELF program nor a script that begins with #!",
    );
    cannot(
        "empty",
        b"",
        0o755,
        "neither an ELF program nor a script that begins with #!",
    );
    // A script whose interpreter is a script whose interpreter is missing.
    bench.file("dir/chain", "#!/dir/script\n");
    cannot(
        "outer",
        b"#!/dir/script\n",
        0o755,
        "its interpreter \"/nope\" is not there",
    );
    // e_machine, at offset 18 of an ELF file.
    let mut other = binary.clone();
    other[18..20].copy_from_slice(&183u16.to_le_bytes());
    cannot(
        "arm",
        &other,
        0o755,
        "it is built for aarch64, this machine is x86_64",
    );
    other[18..20].copy_from_slice(&0x1234u16.to_le_bytes());
    let line = prepared(&bench, "odd", &other, 0o755).one_line(126);
    assert!(
        line.starts_with("execve(\"/dir/odd\"): it is built for ELF machine "),
        "{line}"
    );
    assert!(
        line.contains("4660") && line.ends_with(", this machine is x86_64"),
        "{line}"
    );
    bench
        .run(&[], &["/etc"])
        .output()
        .fails(126, "execve(\"/etc\"): it is a directory");
}

#[test]
fn a_missing_dynamic_loader_is_named() {
    let Some(bench) = Bench::new("loader") else {
        return;
    };
    // busybox.tar has no loader at all; a program of the host's needs one.
    let program = fs::read("/bin/true").unwrap();
    let output = prepared(&bench, "true", &program, 0o755);
    let line = output.one_line(126);
    assert!(
        line.starts_with("execve(\"/dir/true\"): its dynamic loader \"/lib"),
        "{line}"
    );
    assert!(line.ends_with("\" is not there"), "{line}");
}

#[test]
fn a_mount_without_exec_is_named() {
    let Some(bench) = Bench::new("noexec") else {
        return;
    };
    let script = "cp /guest /t/guest && chmod 755 /t/guest && /t/guest exit 3";
    bench
        .guest(&["--tmpfs", "/t:exec"], &["exit", "3"])
        .output()
        .expect(3);
    let volume = format!("{}:/guest:ro", guest());
    bench
        .shell(&["--tmpfs", "/t:exec", "-v", &volume], script)
        .expect(3);
    bench
        .shell(&["--tmpfs", "/t", "-v", &volume], script)
        .expect(126);
    // mini itself says so where the command lies on one: here a volume from a file system mounted noexec.
    let output = bench
        .private_shell(
            "mkdir m; mount -t tmpfs -o noexec none m; cp $GUEST m/guest
             exec $MINI run -v $PWD/m:/m $BUSYBOX -- /m/guest exit 3",
        )
        .output();
    output.fails(
        126,
        "execve(\"/m/guest\"): it lies on a mount with the noexec flag",
    );
}

#[test]
fn the_first_of_path_that_cannot_be_executed_is_remembered() {
    let Some(bench) = Bench::new("path") else {
        return;
    };
    bench.dir("a");
    bench.file("a/tool", "#!/bin/sh\n");
    fs::set_permissions(bench.path("a/tool"), fs::Permissions::from_mode(0o644)).unwrap();
    let volume = format!("{}:/a", bench.text("a"));
    let options = ["-v", &volume, "-e", "PATH=/none:/a:/bin"];
    bench
        .run(&options, &["tool"])
        .output()
        .fails(126, "execve(\"tool\"): no permission to execute it");
    bench.run(&options, &["true"]).output().ok();
}

/// 125 with one line, before anything exists.
#[track_caller]
fn refused(bench: &Bench, run: Run) -> String {
    let line = run.output().one_line(125);
    assert!(
        !bench.path("run").exists() && !bench.path("store").exists(),
        "{line}: something was made"
    );
    line
}

#[test]
fn bad_usage_is_125_and_nothing_is_made() {
    let Some(bench) = Bench::new("usage") else {
        return;
    };
    let line = refused(&bench, bench.run(&["--bogus"], &["true"]));
    assert!(line.contains("--bogus"), "{line}");
    let cases: [(&[&str], &str); 22] = [
        (&["bogus"], "bogus"),
        (&["run"], "ROOTFS"),
        (&["run", "--bogus=3", "x"], "--bogus"),
        (&["run", "-z", "x"], "-z"),
        (&["run", "-itz", "x"], "-z"),
        (&["run", "--name"], "--name"),
        (&["run", "-e"], "-e"),
        (
            &["run", "--read-only=maybe", "x"],
            "--read-only \"maybe\": neither true nor false",
        ),
        (
            &["run", "--init", "--no-init", "x"],
            "--init and --no-init exclude each other",
        ),
        (
            &["run", "--no-new-privs", "--no-new-privs=false", "x"],
            "--no-new-privs and --no-new-privs=false exclude each other",
        ),
        (
            &["run", "--no-new-privs=no", "x"],
            "--no-new-privs \"no\": neither true nor false",
        ),
        (
            &["run", "--cap-add", "KILL,CHOWN", "--cap-drop=chown", "x"],
            "--cap-add and --cap-drop exclude each other (chown)",
        ),
        (
            &["run", "--cap-add", "ALL", "--cap-drop", "all", "x"],
            "--cap-add and --cap-drop exclude each other (all)",
        ),
        (
            &[
                "run",
                "--net=host",
                "--sysctl",
                "net.ipv4.ip_forward=1",
                "x",
            ],
            "\"net.ipv4.ip_forward=1\": its namespace is shared with the host; it would change the host",
        ),
        (
            &["run", "--ipc=host", "--sysctl", "kernel.shmmax=1", "x"],
            "\"kernel.shmmax=1\": its namespace is shared with the host",
        ),
        (
            &["run", "--uts=host", "--sysctl", "kernel.domainname=a", "x"],
            "\"kernel.domainname=a\": its namespace is shared with the host",
        ),
        (
            &["run", "--rm", "--keep", "x"],
            "--rm and --keep exclude each other",
        ),
        (
            &["run", "--uts", "host", "--hostname", "x", "x"],
            "--hostname would rename the host under --uts host",
        ),
        (&["run", ""], "ROOTFS is empty"),
        (&["run", "--name", "a", "--name", "b", "x"], "--name"),
        (&["init"], "init: no command given"),
        (&["init", "--"], "init: no command given"),
    ];
    for (args, names) in cases {
        let line = refused(&bench, bench.mini(args));
        assert!(line.contains(names), "{args:?}: {line}");
    }
    // Bytes that are no text.
    use std::os::unix::ffi::OsStrExt;
    let mut run = bench.mini(&["run"]);
    run.command
        .arg(std::ffi::OsStr::from_bytes(b"--name=\xff\x1b"))
        .arg("x");
    let line = refused(&bench, run);
    assert!(line.contains("\\xff"), "{line}");
}

#[test]
fn every_malformed_value_is_named() {
    let Some(bench) = Bench::new("values") else {
        return;
    };
    let long = "x".repeat(65);
    let size = "not a size (a number with an optional k, m, g or t)";
    let name = "not a name (1 to 64 letters, digits, \"_\", \".\", \"-\")";
    let sysctl = "not KEY=VALUE in one line";
    let host = "not a sysctl of a namespace; it would change the host";
    let restrict =
        "PERM must be rw or rwm, mini cannot restrict a device (it has no device cgroup)";
    let cases = [
        ("--name", "-x", name),
        ("--name", "", name),
        ("--name", "a/b", name),
        ("--name", long.as_str(), name),
        ("--hostname", "a b", name),
        ("--hostname", "..", name),
        ("--env", "=x", "not KEY=VALUE"),
        ("--env", "", "not KEY=VALUE"),
        ("--workdir", "tmp", "not an absolute path"),
        ("--workdir", "", "not an absolute path"),
        ("--user", "", "not USER[:GROUP]"),
        ("--user", ":0", "not USER[:GROUP]"),
        ("--user", "0:", "not USER[:GROUP]"),
        ("--user", "4294967295", "not USER[:GROUP]"),
        ("--user", "0:99999999999", "not USER[:GROUP]"),
        ("--volume", "/etc", "not SRC:DST[:OPTION,...]"),
        ("--volume", ":/x", "the source is empty"),
        (
            "--volume",
            "/etc:x",
            "the path in the container is not absolute",
        ),
        (
            "--volume",
            "/etc:/x/../y",
            "the path in the container contains \"..\"",
        ),
        (
            "--volume",
            "/etc:/",
            "cannot be the container's root directory itself",
        ),
        (
            "--volume",
            "/etc:/proc/sys",
            "mini mounts its own file system there",
        ),
        (
            "--volume",
            "/etc:/dev",
            "mini mounts its own file system there",
        ),
        (
            "--volume",
            "/etc:/x:rx",
            "unknown option \"rx\" (known: ro, rw, noidmap)",
        ),
        (
            "--volume",
            "/etc:/x:ro,",
            "unknown option \"\" (known: ro, rw, noidmap)",
        ),
        ("--tmpfs", "x", "the path in the container is not absolute"),
        ("--tmpfs", "/sys", "mini mounts its own file system there"),
        ("--tmpfs", "/x:bogus", "unknown option \"bogus\""),
        ("--tmpfs", "/x:mode=9", "bad option \"mode=9\""),
        ("--tmpfs", "/x:uid=-1", "bad option \"uid=-1\""),
        ("--shm-size", "1x", size),
        ("--shm-size", "", size),
        ("--shm-size", "-1", size),
        ("--shm-size", "99999999999t", size),
        ("--ulimit", "nofile", "not NAME=SOFT[:HARD]"),
        ("--ulimit", "nofile=x", "not a number"),
        (
            "--ulimit",
            "nofile=2:1",
            "the soft limit is above the hard limit",
        ),
        ("--oom-score-adj", "1001", "not a number from -1000 to 1000"),
        ("--oom-score-adj", "x", "not a number from -1000 to 1000"),
        ("--stop-signal", "BOGUS", "unknown signal"),
        ("--stop-signal", "0", "unknown signal"),
        ("--stop-signal", "65", "unknown signal"),
        ("--stop-signal", "RTMIN3", "unknown signal"),
        ("--net", "bogus", "not host or none"),
        ("--pid", "none", "not host or private"),
        ("--ipc", "none", "not host or private"),
        ("--uts", "none", "not host or private"),
        ("--cgroupns", "none", "not host or private"),
        ("--upper", "memory", "not tmpfs[:SIZE] or disk"),
        ("--upper", "disk:1m", "not tmpfs[:SIZE] or disk"),
        ("--userns", "none", "not auto or host or keep-id"),
        ("--masks", "all", "not default or none"),
        ("--cap-add", "", "unknown capability"),
        ("--cap-add", "NET_RAWW", "unknown capability"),
        ("--cap-drop", "21", "unknown capability"),
        ("--sysctl", "net.ipv4.ip_forward", sysctl),
        ("--sysctl", "=1", sysctl),
        ("--sysctl", "net.ipv4.ip_forward=1\n", sysctl),
        ("--sysctl", "vm.swappiness=1", host),
        ("--sysctl", "net/../vm/swappiness=1", host),
        ("--sysctl", "net.//.vm.swappiness=1", host),
        ("--sysctl", "kernel.hostname=x", "--hostname sets it"),
        ("--device", "fuse", "the source is not absolute"),
        ("--device", "/dev/fuse:/dev/a:rw:", "not SRC[:DST][:PERM]"),
        ("--device", "/dev/fuse:r", restrict),
        ("--device", "/dev/fuse:/dev/a:", restrict),
        ("--device", "/dev/null", "mini makes that itself"),
        ("--device", "/dev/fuse:/dev/pts/9", "mini makes that itself"),
        (
            "--device",
            "/dev/fuse:/fuse",
            "the path in the container is not below /dev",
        ),
        (
            "--device",
            "/dev/fuse:/dev/../fuse",
            "the path in the container contains \"..\"",
        ),
    ];
    for (option, value, why) in cases {
        let line = refused(&bench, bench.run(&[option, value], &["true"]));
        assert_eq!(line, format!("{option} {value:?}: {why}"));
        // Spelled the other way it is the same.
        let joined = format!("{option}={value}");
        assert_eq!(refused(&bench, bench.run(&[&joined], &["true"])), line);
    }
    let line = refused(&bench, bench.run(&["--ulimit", "bogus=1"], &["true"]));
    assert!(
        line.starts_with("--ulimit \"bogus=1\": unknown limit (known: cpu fsize "),
        "{line}"
    );
    // Where the size is a part of the value, that part is quoted.
    for (option, value, part) in [("--tmpfs", "/x:size=big", "big"), ("--upper", "tmpfs:", "")] {
        let line = refused(&bench, bench.run(&[option, value], &["true"]));
        assert_eq!(line, format!("{option} {part:?}: {size}"));
    }
    let line = refused(
        &bench,
        bench.run(&["--keep", "--upper", "tmpfs"], &["true"]),
    );
    assert_eq!(line, "--keep and --upper tmpfs exclude each other");
}

#[test]
fn what_is_missing_on_the_host_is_named() {
    let Some(bench) = Bench::new("absent") else {
        return;
    };
    let absent = "No such file or directory";
    assert_eq!(
        refused(&bench, bench.mini(&["run", "/no/such.tar"])),
        format!("ROOTFS open(\"/no/such.tar\"): {absent}")
    );
    let hint = match is_core() {
        true => "",
        false => " (nor is there an image of that name)",
    };
    assert_eq!(
        refused(&bench, bench.mini(&["run", "no-such:1"])),
        format!("ROOTFS open(\"no-such:1\"): {absent}{hint}")
    );
    let line = refused(&bench, bench.run(&["-v", "/no/such:/x"], &["true"]));
    assert_eq!(line, format!("--volume stat(\"/no/such\"): {absent}"));
    let line = refused(&bench, bench.run(&["--env-file", "/no/such"], &["true"]));
    assert_eq!(line, format!("--env-file open(\"/no/such\"): {absent}"));
    let line = refused(&bench, bench.run(&["-v", "/no/\x1b[2J\n:/x"], &["true"]));
    assert_eq!(
        line,
        format!("--volume stat(\"/no/\\u{{1b}}[2J\\n\"): {absent}")
    );
}

#[test]
fn what_is_not_a_tar_archive_is_125_and_leaves_nothing() {
    let Some(bench) = Bench::new("nottar") else {
        return;
    };
    let whole = fs::read(rootfs("busybox.tar").unwrap()).unwrap();
    for (name, contents) in [
        ("text.tar", b"This is not an archive.\n".repeat(100)),
        ("empty.tar", Vec::new()),
        ("zeros.tar", vec![0; 10240]),
        ("cut.tar", whole[..whole.len() / 2].to_vec()),
    ] {
        let file = bench.file(name, contents);
        let line = bench
            .mini(&["run", &file, "--", "true"])
            .output()
            .one_line(125);
        assert!(line.starts_with(&format!("unpack({file:?}): ")), "{line}");
        bench.assert_nothing_left();
    }
    // A device as ROOTFS, and a directory without anything in it.
    let line = bench
        .mini(&["run", "/dev/null", "--", "true"])
        .output()
        .one_line(125);
    assert!(line.contains("\"/dev/null\""), "{line}");
    let empty = bench.dir("empty");
    bench
        .mini(&["run", &empty, "--", "true"])
        .output()
        .fails(127, "execve(\"true\"): not found in the container");
}

#[test]
fn a_user_or_group_that_the_container_lacks_is_named() {
    let Some(bench) = Bench::new("nouser") else {
        return;
    };
    let line = "--user: no user \"ghost\" in the container's /etc/passwd";
    bench
        .run(&["-u", "ghost"], &["true"])
        .output()
        .fails(125, line);
    let line = "--user: no group \"ghosts\" in the container's /etc/group";
    bench
        .run(&["-u", "user:ghosts"], &["true"])
        .output()
        .fails(125, line);
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    let Some(bench) = Bench::new("dirs") else {
        return;
    };
    for variable in ["MINI_RUN", "MINI_ROOT"] {
        for bad in ["relative", "/var/tmp/a,b", "/var/tmp/a:b"] {
            let line = bench
                .run(&[], &["true"])
                .env(variable, bad)
                .output()
                .one_line(125);
            assert_eq!(
                line,
                format!(
                    "{variable}={bad:?}: not usable (an absolute path without , : \\ is needed)"
                )
            );
        }
        let file = bench.file("file", "");
        let line = bench
            .run(&[], &["true"])
            .env(variable, &file)
            .output()
            .one_line(125);
        assert!(line.contains(&file), "{line}");
        assert!(
            line.contains("MINI_RUN") || line.contains("not a directory that only this user"),
            "{line}"
        );
    }
    // Somebody else could write there.
    let open = bench.dir("open");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let hint = "MINI_RUN and MINI_ROOT choose other directories";
    let line = format!("{open:?}: not a directory that only this user can write to ({hint})");
    bench
        .run(&[], &["true"])
        .env("MINI_RUN", &open)
        .output()
        .fails(125, &line);
    bench
        .run(&[], &["true"])
        .env("MINI_ROOT", &open)
        .output()
        .fails(125, &line);
}

#[test]
fn help_and_version_are_on_standard_output() {
    let Some(bench) = Bench::new("help") else {
        return;
    };
    for args in [
        &["--help"][..],
        &["-h"],
        &[],
        &["run", "--help"],
        &["run", "-h"],
        &["init", "--help"],
    ] {
        let text = bench.mini(args).output().ok();
        assert!(text.contains("Usage: mini"), "{args:?}: {text}");
    }
    assert!(
        bench
            .mini(&["--version"])
            .output()
            .ok()
            .starts_with("mini ")
    );
    // What stands behind ROOTFS is the command's.
    let text = bench.run(&[], &["ls", "--help"]).output();
    assert!(text.stderr.contains("BusyBox"), "{text:?}");
    bench
        .mini(&["run", bench.busybox(), "sh", "-c", "exit 4"])
        .output()
        .expect(4);
    bench
        .mini(&["run", "--", bench.busybox(), "sh", "-c", "exit 4"])
        .output()
        .expect(4);
}
