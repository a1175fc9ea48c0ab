//! `mini check` says what `mini run` then does: on this kernel, and where strace takes a feature away.

mod support;
use support::{Bench, Output, Run, have, have_program};

/// mini with these arguments where strace spoils these calls; if they are those of `mount`, on `image0` alone.
fn spoilt(bench: &Bench, injects: &[&str], arguments: &[&str]) -> Output {
    let mut strace: Vec<String> = ["-f", "-qq", "-o", "/dev/null"].map(String::from).into();
    for inject in injects {
        let calls = inject.split(':').next().unwrap();
        if calls == "mount" {
            strace.extend(["-P", "image0"].map(String::from));
        }
        strace.extend(["-e".into(), format!("trace={calls}")]);
        strace.extend(["-e".into(), format!("inject={inject}")]);
    }
    let mini = support::mini();
    let strace: Vec<&str> = strace.iter().map(String::as_str).collect();
    let run: Run = bench.program("strace").args(&strace);
    run.args(&[mini.to_str().unwrap()]).args(arguments).output()
}

/// The line of the table about a feature.
fn row<'a>(output: &'a Output, feature: &str) -> &'a str {
    let about = |line: &&str| {
        let rest = line.get(5..).and_then(|line| line.strip_prefix(feature));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let line = output.stdout.lines().find(about);
    line.unwrap_or_else(|| panic!("no row {feature}: {}", output.stdout))
}

/// The features in the table.
fn features(output: &Output) -> Vec<&str> {
    let rows = output.stdout.lines().filter(|line| !line.starts_with(' '));
    let rows = rows.filter_map(|line| line.get(5..).filter(|_| line[3..].starts_with("  ")));
    rows.map(|row| row.split(": ").next().unwrap()).collect()
}

/// What is said about the run.
fn verdict(output: &Output) -> &str {
    let at = output.stdout.find("mini run ").expect("no verdict");
    &output.stdout[at..]
}

#[test]
fn this_kernel_has_everything() {
    let Some(bench) = Bench::new("check") else {
        return;
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next(), numbers.next());
    if !have(
        "linux-6.12",
        version >= (Some(6), Some(12)),
        "Linux is too old",
    ) {
        return;
    }
    let output = bench.mini(&["check"]).output().expect(0);
    assert_eq!(output.stderr, "");
    assert_eq!(verdict(&output), "mini run works, nothing is left out\n");
    let missing: Vec<&str> = output
        .stdout
        .lines()
        .filter(|line| line.starts_with("no "))
        .collect();
    assert_eq!(missing, [""; 0]);
    assert!(
        output
            .stdout
            .lines()
            .filter(|line| line.starts_with("yes  "))
            .count()
            > 20
    );

    let json = bench.mini(&["check", "--json"]).output().ok();
    assert!(
        json.starts_with("{\"features\":[{\"feature\":\"clone3\",\"present\":true,"),
        "{json}"
    );
    assert!(
        json.ends_with("],\"left_out\":[],\"error\":null}\n"),
        "{json}"
    );
}

#[test]
fn a_command_line_is_tried_without_its_command() {
    let Some(bench) = Bench::new("checkrun") else {
        return;
    };
    let dir = bench.dir("dir");
    let (volume, busybox) = (format!("{dir}:/v"), bench.busybox().to_owned());
    let check = |options: &[&str]| {
        let arguments = [&["check", "run", "-v", &volume], options, &[&busybox]].concat();
        bench
            .mini(&arguments)
            .args(&["--", "touch", "/v/made"])
            .output()
    };
    let fine = "mini run works, nothing is left out\n";
    assert_eq!(verdict(&check(&[]).expect(0)), fine);
    let options = ["--no-init", "--seccomp", "log", "-u", "user"];
    assert_eq!(verdict(&check(&options).expect(0)), fine);
    // And what capabilities mini itself has not.
    let output = check(&["--privileged"]).expect(1);
    let first = "mini run works, but:\n  --privileged: the command can do to this machine whatever mini can\n";
    assert!(verdict(&output).starts_with(first), "{output:?}");
    assert_eq!(
        verdict(&check(&["-u", "nobody-at-all"]).expect(2)),
        "mini run fails: --user: no user \"nobody-at-all\" in the container's /etc/passwd\n"
    );
    let output = bench.mini(&["check", "run", "/none"]).output().expect(2);
    let failed = "mini run fails: ROOTFS open(\"/none\")";
    assert!(verdict(&output).starts_with(failed), "{output:?}");
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        0,
        "the command was run"
    );
    let line = bench.mini(&["check", "images"]).output().one_line(125);
    assert!(!line.is_empty());
}

#[test]
fn the_table_has_what_the_command_line_uses() {
    let Some(bench) = Bench::new("checkuse") else {
        return;
    };
    let (archive, directory) = (bench.busybox(), &bench.busybox_directory());
    let all = bench.mini(&["check"]).output();
    let own = "pid network ipc uts cgroup".split(' ');
    let own: Vec<String> = own.map(|kind| format!("{kind} namespace")).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let shared = "--pid host --net host --ipc host --uts host --cgroupns host --userns host";
    // What there is with these options, and what there is not.
    for (options, image, with, without) in [
        (
            "",
            archive,
            &["user namespace", "archives as they lie", "erofs", "overlay"][..],
            &[
                "time namespace",
                "squashfs",
                "ext4",
                "loop devices",
                "memfd_create",
            ][..],
        ),
        ("", archive, &own, &["idmapped tmpfs"]),
        ("--time", archive, &["time namespace"], &[]),
        (shared, archive, &["memfd_create"], &own),
        (
            shared,
            archive,
            &["overlay"],
            &["user namespace", "overlay in a user namespace"],
        ),
        (
            "--seccomp unconfined",
            archive,
            &[],
            &["filter of system calls"],
        ),
        (
            "--store tmpfs",
            archive,
            &["idmapped tmpfs"],
            &["archives as they lie", "erofs"],
        ),
        (
            "",
            directory,
            &["overlay"],
            &["archives as they lie", "erofs", "pidfd_open"],
        ),
        (
            "--rw",
            directory,
            &["mount_setattr"],
            &["overlay", "user attributes on tmpfs"],
        ),
    ] {
        let options: Vec<&str> = options.split_ascii_whitespace().collect();
        let arguments = [&["check", "run"], &options[..], &[image]].concat();
        let output = bench.mini(&arguments).output();
        let rows = features(&output);
        for feature in with {
            assert!(rows.contains(feature), "{options:?} {feature}: {output:?}");
        }
        for feature in without {
            assert!(!rows.contains(feature), "{options:?} {feature}: {output:?}");
            assert!(features(&all).contains(feature), "{feature}: {all:?}");
        }
        assert!(verdict(&output).starts_with("mini run works"), "{output:?}");
    }
    if have_program("mksquashfs") {
        let file = bench.text("image.squashfs");
        let made = bench.program("mksquashfs");
        made.args(&[directory, &file, "-quiet", "-no-progress"])
            .output()
            .expect(0);
        let output = bench.mini(&["check", "run", &file]).output();
        let rows = features(&output);
        assert!(
            rows.contains(&"squashfs") && rows.contains(&"loop devices"),
            "{output:?}"
        );
        assert!(!rows.contains(&"erofs"), "{output:?}");
    }
}

#[test]
fn what_a_sysctl_keeps_away_names_it_with_its_value() {
    let Some(bench) = Bench::new("checksysctl") else {
        return;
    };
    // The limits are those of a user namespace of its own.
    let script = "echo 0 > /proc/sys/user/max_net_namespaces; exec \"$0\" check --json";
    let mini = support::mini();
    let arguments = ["-Ur", "sh", "-c", script, mini.to_str().unwrap()];
    let output = bench.program("unshare").args(&arguments).output().expect(2);
    let why = "No space left on device (sysctl user.max_net_namespaces is 0: raise it)";
    let row = format!(
        "{{\"feature\":\"network namespace\",\"present\":false,\
         \"without\":\"only --net host works (CONFIG_NET_NS)\",\"why\":\"{why}\"}}"
    );
    assert!(output.stdout.contains(&row), "{output:?}");
    let there = "{\"feature\":\"uts namespace\",\"present\":true,\
         \"without\":\"only --uts host works (CONFIG_UTS_NS)\",\"why\":null}";
    assert!(output.stdout.contains(there), "{output:?}");
    let error = output.stdout.split("\"error\":").nth(1).unwrap();
    assert!(error.contains(why), "{output:?}");
}

#[test]
fn what_it_says_of_poorer_kernels_is_what_a_run_then_does() {
    let Some(bench) = Bench::new("checkpoor") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    let busybox = bench.busybox().to_owned();
    let traced = ["run", "--trace", &busybox, "--", "true"];
    for (feature, injects, status) in [
        ("clone3", &["clone3:error=ENOSYS"][..], 0),
        ("openat2", &["openat2:error=ENOSYS"], 0),
        ("close_range", &["close_range:error=ENOSYS"], 0),
        ("pidfd_open", &["pidfd_open:error=ENOSYS"], 0),
        ("mount_setattr", &["mount_setattr:error=ENOSYS"], 1),
        ("keyrings", &["keyctl:error=ENOSYS"], 0),
        ("memfd_create", &["memfd_create:error=ENOSYS"], 0),
        ("archives as they lie", &["mount:error=ENODEV:when=1..2"], 1),
    ] {
        let output = spoilt(&bench, injects, &["check"]);
        assert!(row(&output, feature).starts_with("no   "), "{output:?}");
        assert_eq!(output.status, status, "{output:?}");
        let run = spoilt(&bench, injects, &traced).expect(0);
        let notes = run
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("# degraded: "));
        // `mini check` has its archive from standard input.
        let notes: Vec<String> = notes.map(|note| note.replace(&busybox, "-")).collect();
        let said: Vec<&str> = verdict(&output)
            .lines()
            .skip(1)
            .map(str::trim_start)
            .collect();
        assert_eq!(said, notes, "{feature}");
        assert_eq!(said.is_empty(), status == 0, "{feature}");
    }
}
