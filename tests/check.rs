//! `mini check` says what `mini run` then does: on this kernel, and where strace takes a feature away.

mod support;
use support::{Bench, Output, Run, have, have_program};

/// mini with these arguments where strace spoils these calls.
fn spoilt(bench: &Bench, injects: &[&str], arguments: &[&str]) -> Output {
    let mut strace: Vec<String> = ["-f", "-qq", "-o", "/dev/null"].map(String::from).into();
    for inject in injects {
        let calls = inject.split(':').next().unwrap();
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
    assert_eq!(check(&[]).ok(), "mini run works, nothing is left out\n");
    assert_eq!(
        check(&["--no-init", "--seccomp", "log", "-u", "user"]).ok(),
        "mini run works, nothing is left out\n"
    );
    // And what capabilities mini itself has not.
    let output = check(&["--privileged"]).expect(1);
    let first = "mini run works, but:\n  --privileged: the command can do to this machine whatever mini can\n";
    assert!(output.stdout.starts_with(first), "{output:?}");
    assert_eq!(
        check(&["-u", "nobody-at-all"]).expect(2).stdout,
        "mini run fails: --user: no user \"nobody-at-all\" in the container's /etc/passwd\n"
    );
    let output = bench.mini(&["check", "run", "/none"]).output().expect(2);
    assert!(
        output
            .stdout
            .starts_with("mini run fails: ROOTFS open(\"/none\")"),
        "{output:?}"
    );
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        0,
        "the command was run"
    );
    let line = bench.mini(&["check", "images"]).output().one_line(125);
    assert!(!line.is_empty());
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
    ] {
        let output = spoilt(&bench, injects, &["check"]);
        assert!(row(&output, feature).starts_with("no   "), "{output:?}");
        assert_eq!(output.status, status, "{output:?}");
        let run = spoilt(&bench, injects, &traced).expect(0);
        let notes = run
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("# degraded: "));
        let notes: Vec<&str> = notes.collect();
        let said: Vec<&str> = verdict(&output)
            .lines()
            .skip(1)
            .map(str::trim_start)
            .collect();
        assert_eq!(said, notes, "{feature}");
        assert_eq!(said.is_empty(), status == 0, "{feature}");
    }
}
