//! `mini inspect`: compared with what the container itself finds, and each command that `--explain` prints is run.

#[cfg(feature = "json")]
#[allow(dead_code, unused_imports)]
#[path = "../src/error.rs"]
mod error;
#[cfg(feature = "json")]
#[allow(dead_code)]
#[path = "../src/json.rs"]
mod json;
#[cfg(feature = "json")]
#[allow(dead_code)]
#[path = "../src/output.rs"]
mod output;
mod support;

use std::process::Command;

use support::{Bench, Running, have_program, is_core};

fn bench(name: &str) -> Option<Bench> {
    if is_core() {
        return None;
    }
    Bench::new(name)
}

fn stop(bench: &Bench, running: Running) {
    let id = bench.mini(&["ps", "-q"]).output().ok();
    let stop = ["stop", "-t", "0", id.trim_end()];
    bench.mini(&stop).output().ok();
    running.wait();
}

#[test]
fn every_command_that_is_explained_shows_what_it_is_said_to_show() {
    let Some(bench) = bench("explain") else {
        return;
    };
    for program in ["lsns", "nsenter", "capsh", "flock"] {
        if !have_program(program) {
            return;
        }
    }
    let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for options in [
        &["--name", "box", "-m", "64M", "--cpus", "1"][..],
        &["--hostname", "other", "--cap-drop", "all", "--no-init"],
        &["--privileged", "--pid", "host", "--net", "host"],
    ] {
        let script = "sleep 1000 & sleep 0.3; echo ready; wait";
        let mut running = bench.run(options, &["sh", "-c", script]).start();
        running.until("ready");
        let id = bench.mini(&["ps", "-q"]).output().ok();
        let explain = ["inspect", "--explain", id.trim_end()];
        let text = bench.mini(&explain).output().ok();
        let (mut commands, mut shown) = (0, String::new());
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("  $ ") {
                let output = Command::new("sh").args(["-c", command]).output().unwrap();
                shown = spaced(&String::from_utf8_lossy(&output.stdout));
                commands += 1;
            } else if let Some(said) = line.strip_prefix("    ") {
                let said = spaced(said);
                assert!(
                    !said.is_empty() && shown.contains(&said),
                    "{said:?} is not in {shown:?}\n{text}"
                );
            } else {
                assert!(line.ends_with('.'), "{line:?}");
            }
        }
        assert!(commands >= 16, "{text}");
        stop(&bench, running);
    }
}

#[cfg(feature = "json")]
#[test]
fn a_document_says_what_the_container_itself_finds() {
    use json::Value;
    let Some(bench) = bench("document") else {
        return;
    };
    let options =
        "--name box --label role=\"web\" -m 64M --pids-limit 77 --cap-drop chown --hostname other";
    let options: Vec<&str> = options.split(' ').collect();
    // A name that would drive a terminal.
    let script = "printf '\\033[31mx' > /proc/self/comm; ls -l /proc/self/ns; cat /proc/self/uid_map; sleep 1000 & sleep 0.3; echo ready; wait";
    let mut running = bench.run(&options, &["sh", "-c", script]).start();
    let report = running.until("ready");
    let text = bench.mini(&["inspect", "box"]).output().ok();
    assert_eq!(
        text.matches(|c: char| c.is_control()).collect::<String>(),
        "\n"
    );
    let whole = json::parse(text.as_bytes()).unwrap();
    let show = |path: &str| -> String {
        let mut value = &whole;
        for key in path.split('.') {
            value = match value {
                Value::Array(all) => &all[key.parse::<usize>().unwrap()],
                Value::Object(members) => {
                    let found = members.iter().find(|(known, _)| known == key);
                    &found.unwrap_or_else(|| panic!("{path}: {text}")).1
                }
                _ => panic!("{path}: {text}"),
            };
        }
        match value {
            Value::Text(text) | Value::Number(text) => text.clone(),
            other => format!("{other:?}"),
        }
    };
    for (path, expected) in [
        ("0.name", "box"),
        ("0.hostname", "other"),
        ("0.labels.0", "role=\"web\""),
        ("0.command.0", "sh"),
        ("0.command.2", script),
        ("0.now.processes.0.inside", "2"),
        ("0.now.processes.1.inside", "1"),
        ("0.now.processes.1.name", "mini"),
        ("0.now.mounts.0.target", "/"),
        ("0.now.mounts.0.type", "overlay"),
        ("0.exit_status", "Other"),
    ] {
        assert_eq!(show(path), expected, "{path}: {text}");
    }
    assert_eq!(show("0.pid"), show("0.now.processes.1.pid"));
    for part in [
        "\"running\":true",
        "\"no_new_privs\":true",
        "\"seccomp_filter\":true",
        "/pids.max\":\"77\"",
        "\"CapAmb\":[]",
        "\"CapBnd\":[\"dac_override\",",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        let link = format!(
            "{name}:[{}]",
            show(&format!("0.now.namespaces.{name}.inode"))
        );
        assert!(report.contains(&link), "{link}: {report}");
    }
    let map = report
        .lines()
        .find(|line| line.trim().ends_with("65536"))
        .unwrap();
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(show("0.now.uid_map"), map.join(" "));
    let explained = bench.mini(&["inspect", "--explain", "box"]).output().ok();
    assert!(!explained.contains('\x1b'), "{explained}");
    stop(&bench, running);
    let line = bench.mini(&["inspect", "box"]).output().one_line(125);
    assert_eq!(line, "\"box\": no container (mini ps -a lists all)");
    // One that has ended, and stays.
    let id = bench
        .mini(&["run", "-d", bench.busybox(), "--", "sh", "-c", "exit 7"])
        .output()
        .ok();
    bench.mini(&["wait", id.trim_end()]).output().ok();
    let text = bench.mini(&["inspect", id.trim_end()]).output().ok();
    assert!(
        text.contains("\"running\":false")
            && text.contains("\"exit_status\":7,\"finished\":1")
            && text.ends_with("\"now\":null}]\n"),
        "{text}"
    );
    let text = bench
        .mini(&["inspect", "--explain", id.trim_end()])
        .output()
        .ok();
    assert_eq!(text.lines().count(), 3, "{text}");
    bench.mini(&["rm", id.trim_end()]).output().ok();
}
