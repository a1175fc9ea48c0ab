//! `mini ps`, `kill`, `stop` and `wait`: what they show and do, and what a container, another user, or a record that is
//! out of date can make of that.

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
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use support::{Bench, Run, Running, eventually, have, have_program, is_core, mini, rootfs};

/// The core has none of these commands.
fn bench(name: &str) -> Option<Bench> {
    if is_core() {
        return None;
    }
    Bench::new(name)
}

const KILL: i32 = 9;
const TSTP: i32 = 20;

/// Ends with 3 when told to by SIGTERM.
const POLITE: &str = "trap 'exit 3' TERM; echo ready; sleep 1000 & wait";
/// Does nothing of the kind.
const STUBBORN: &str = "trap '' TERM; echo ready; while :; do sleep 1000; done";

/// A container that runs `script`, which has said that it is ready.
#[track_caller]
fn start(bench: &Bench, options: &[&str], script: &str) -> Running {
    let mut running = bench.run(options, &["sh", "-c", script]).start();
    running.until("ready");
    running
}

fn ps(bench: &Bench, options: &[&str]) -> String {
    bench.mini(&["ps"]).args(options).output().ok()
}

/// The id of the only container that a filter finds.
#[track_caller]
fn id(bench: &Bench, filter: &str) -> String {
    let ids = ps(bench, &["-q", "--filter", filter]);
    assert_eq!(ids.len(), 13, "{filter}: {ids:?}");
    ids.trim_end().to_owned()
}

/// The value of a key in a container's record.
fn recorded(bench: &Bench, id: &str, key: &str) -> String {
    let text = fs::read_to_string(bench.path("run/running").join(id).join("record")).unwrap();
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{key}: {text}")).to_owned()
}

/// No directory and no cgroup of a container.
#[track_caller]
fn assert_gone(bench: &Bench, id: &str) {
    let cgroup = format!("mini-{id}");
    let mut directories = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            assert_ne!(entry.file_name(), *cgroup);
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
        }
    }
    assert!(!bench.path("run/running").join(id).exists(), "{id}");
}

/// A record as a container would have it, in a directory that this process locks until it is closed.
fn plant(bench: &Bench, id: &str, text: &str) -> OwnedFd {
    let directory = bench.dir(&format!("run/running/{id}"));
    bench.file(&format!("run/running/{id}/record"), text);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, directory.as_str(), flags, Mode::empty()).unwrap();
    flock(&directory, FlockOperation::NonBlockingLockExclusive).unwrap();
    directory
}

#[track_caller]
fn assert_alive(process: &mut Running) {
    thread::sleep(Duration::from_millis(50));
    assert_eq!(process.child.try_wait().unwrap(), None);
}

/// Waits until this `mini wait` waits for the container's lock: then it has read all records.
#[track_caller]
fn assert_waits(bench: &Bench, process: &Running, name: &str) {
    use std::os::unix::fs::MetadataExt;
    let id = id(bench, &format!("name={name}"));
    let directory = fs::metadata(bench.path("run/running").join(id)).unwrap();
    let (pid, inode) = (
        format!(" {} ", process.pid()),
        format!(":{} ", directory.ino()),
    );
    let waits =
        |line: &str| line.contains("-> FLOCK") && line.contains(&pid) && line.contains(&inode);
    let locks = || fs::read_to_string("/proc/locks").unwrap();
    assert!(eventually(|| locks().lines().any(waits)), "{}", locks());
}

fn has_freezer() -> bool {
    let found = ["cgroup.controllers", "freezer"]
        .iter()
        .any(|name| Path::new("/sys/fs/cgroup").join(name).exists());
    have("freezer", found, "there is no cgroup that could be paused")
}

// --- ps --------------------------------------------------------------------------------------------------------

#[test]
fn ps_shows_the_containers_that_run() {
    let Some(bench) = bench("ps") else { return };
    let heads = "ID  NAME  IMAGE  COMMAND  STATUS  UP  PORTS\n";
    assert_eq!(ps(&bench, &[]), heads);
    assert_eq!(ps(&bench, &["-q"]), "");
    assert_eq!(ps(&bench, &["--json"]), "[]\n");
    let labels = ["--label", "role=web", "--label", "tier", "--label", "a=b=c"];
    let web = start(&bench, &[&["--name", "web"], &labels[..]].concat(), POLITE);
    let web_id = id(&bench, "name=web");
    let other = start(&bench, &["--label", "role=webmaster"], POLITE);
    let ids = ps(&bench, &["-q"]);
    let other_id = ids.replace(&format!("{web_id}\n"), "").trim().to_owned();

    let table = ps(&bench, &[]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 3, "{table}");
    let of_web = lines.iter().find(|line| line[0] == web_id).unwrap();
    assert_eq!(of_web[1..5], ["web", bench.busybox(), "sh", "-c"]);
    let row = table.lines().find(|line| line.starts_with(&web_id));
    let (_, end) = row.unwrap().split_once("sh -c ").unwrap();
    assert!(end.starts_with("trap 'exit 3' TERM; echo ready; sl...  running  "));
    assert_eq!(of_web.last(), Some(&"s"), "{table}");
    let of_other = lines.iter().find(|line| line[0] == other_id).unwrap();
    assert_eq!(of_other[1], bench.busybox());

    let json = ps(&bench, &["--json", "--filter", "name=web"]);
    let expected = format!(
        "[{{\"id\":\"{web_id}\",\"name\":\"web\",\"image\":\"{}\",\"command\":[\"sh\",\"-c\",\"{POLITE}\"],\
         \"status\":\"running\",\"created\":{},\"pid\":{},\"labels\":[\"role=web\",\"tier\",\"a=b=c\"],\"ports\":[]}}]\n",
        bench.busybox(),
        recorded(&bench, &web_id, "created"),
        recorded(&bench, &web_id, "pid")
    );
    assert_eq!(json, expected);
    let both = ps(&bench, &["--json"]);
    assert!(both.contains("\"name\":null,"), "{both}");
    // Its pid is that of the first process, whose parent is mini.
    let stat = format!("/proc/{}/stat", recorded(&bench, &web_id, "pid"));
    let stat = fs::read_to_string(stat).unwrap();
    assert_eq!(stat.split(' ').nth(3), Some(web.pid().to_string().as_str()));

    for (filters, expected) in [
        (&["name=web"][..], &[&web_id][..]),
        (&["name=e"], &[&web_id]),
        (&["name=x"], &[]),
        (&["label=role"], &[&web_id, &other_id]),
        (&["label=role=web"], &[&web_id]),
        (&["label=rol"], &[]),
        (&["label=tier"], &[&web_id]),
        (&["label=tier="], &[]),
        (&["label=a=b"], &[]),
        (&["label=a=b=c"], &[&web_id]),
        (&["status=running"], &[&web_id, &other_id]),
        (&["status=paused"], &[]),
        (&["label=role", "name=web"], &[&web_id]),
        (&["label=role=web", "label=role=webmaster"], &[]),
    ] {
        let filters: Vec<&str> = filters.iter().flat_map(|it| ["--filter", it]).collect();
        let ids = ps(&bench, &[&["-q"], &filters[..]].concat());
        let found = expected.iter().filter(|id| ids.contains(id.as_str()));
        assert_eq!(
            (ids.len(), found.count()),
            (13 * expected.len(), expected.len()),
            "{filters:?}"
        );
    }
    bench.mini(&["ps", "--filter", "image=x"]).output().fails(
        125,
        "--filter \"image=x\": not name=PART, status=STATUS or label=KEY[=VALUE]",
    );
    bench
        .mini(&["stop", "web", &other_id])
        .output()
        .expect(0)
        .ok();
    assert_eq!((web.wait().status, other.wait().status), (3, 3));
    assert_eq!(ps(&bench, &[]), heads);
}

/// What is not of mini's making: where the image lies, what the command is, labels.
#[test]
fn nothing_hostile_breaks_the_table_or_the_json() {
    let Some(bench) = bench("hostile") else {
        return;
    };
    let evil = b"\x1b[2J\n]}\"\\',{\r\t\xe2\x80\xae\xc2\x9b1m\xff\x7f ";
    let image = [bench.text("i").as_bytes(), evil].concat();
    symlink(bench.busybox(), OsStr::from_bytes(&image)).unwrap();
    let text = String::from_utf8_lossy(evil).into_owned();
    let label = format!("{}=x", text.replace('\u{fffd}', ""));
    // Lines of a record, but in a value.
    let fake = "\nstatus 0\npid 1\nname fake\n";
    let mut run = bench
        .mini(&["run", "--name", "h", "--label", &label, "--label", fake])
        .directory(&bench.path(""));
    run.command
        .arg(OsStr::from_bytes(&image))
        .args(["--", "sh", "-c", "echo ready; read x; exit 4", fake])
        .arg(OsStr::from_bytes(evil))
        .stdin(std::process::Stdio::piped());
    let mut running = run.start();
    running.until("ready");
    let stdin = running.child.stdin.take();

    let table = ps(&bench, &[]);
    assert_eq!(table.lines().count(), 2, "{table:?}");
    let plain = |c: char| !c.is_control() && !('\u{202a}'..='\u{202e}').contains(&c);
    assert!(
        table.lines().all(|line| line.chars().all(plain)),
        "{table:?}"
    );
    let shown = "i\\u{1b}[2J\\n]}\\\"\\\\',{\\u{d}\\u{9}\\u{202e}\\u{9b}1m\\xff\\u{7f}   sh -c echo ready; read x; exit 4 \\nstatu...  running";
    assert!(table.contains(shown), "{table}\n{shown}");

    let ids = ps(&bench, &["-q", "--filter", "name=h"]);
    let json = ps(&bench, &["--json"]);
    assert_eq!(json.matches('\n').count(), 1, "{json:?}");
    assert_eq!(json.matches("\"pid\":").count(), 1, "{json:?}");
    #[cfg(feature = "json")]
    {
        use json::Value;
        let Ok(Value::Array(mut all)) = json::parse(json.as_bytes()) else {
            panic!("{json:?}");
        };
        let Some(Value::Object(members)) = all.pop() else {
            panic!("{json:?}");
        };
        let of = |key: &str| {
            let value = members.iter().find(|(known, _)| known == key);
            match value.unwrap_or_else(|| panic!("{key}")).1.clone() {
                Value::Text(text) => vec![text],
                Value::Array(values) => values
                    .into_iter()
                    .map(|value| match value {
                        Value::Text(text) => text,
                        other => panic!("{other:?}"),
                    })
                    .collect(),
                other => panic!("{other:?}"),
            }
        };
        let script = "echo ready; read x; exit 4";
        assert_eq!(of("image"), [format!("{}{text}", bench.text("i"))]);
        assert_eq!(of("command"), ["sh", "-c", script, fake, &text]);
        assert_eq!(of("labels"), [label.as_str(), fake]);
        assert_eq!(of("name"), ["h"]);
        assert_eq!(format!("{}\n", of("id")[0]), ids);
    }
    let waiting = bench.mini(&["wait", "h"]).start();
    let filter = format!("label={label}");
    assert_eq!(ps(&bench, &["-q", "--filter", &filter]), ids);
    bench.mini(&["kill", "fake"]).output().fails(
        125,
        "\"fake\": no running container (mini ps lists those that are running)",
    );
    assert_waits(&bench, &waiting, "h");
    drop(stdin);
    assert_eq!(waiting.wait().ok(), "4\n");
    assert_eq!(running.wait().status, 4);
}

#[test]
fn ps_while_containers_come_and_go() {
    let Some(bench) = bench("busy") else { return };
    thread::scope(|scope| {
        let bench = &bench;
        let runs: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || {
                    let name = format!("name{number}");
                    for _ in 0..50 {
                        // The name is free again as soon as mini has ended.
                        bench.run(&["--name", &name], &["true"]).output().ok();
                    }
                })
            })
            .collect();
        let mut most = 0;
        while runs.iter().any(|run| !run.is_finished()) {
            let ids = ps(bench, &["-q"]);
            most = most.max(ids.lines().count());
            assert!(ps(bench, &["--json"]).ends_with("]\n"));
            for id in ids.lines() {
                let output = bench.mini(&["wait", id]).output();
                match output.status {
                    0 => assert_eq!(output.stdout, "0\n"),
                    _ => {
                        let line = output.one_line(125);
                        let gone = line.contains("no container") || line.ends_with("has ended");
                        assert!(gone, "{line}");
                    }
                }
            }
        }
        assert!((1..=4).contains(&most), "{most}");
    });
}

#[test]
fn a_container_without_its_supervisor_does_not_run() {
    let Some(bench) = bench("dead") else { return };
    if !have_program("strace") {
        return;
    }
    // Also while another command, which is held up here, removes what it left.
    let sweep = || {
        let delay = "inject=rmdir,unlinkat:delay_enter=400000:when=1";
        let strace = bench
            .program("strace")
            .args(&["-qqq", "-o", "/dev/null", "-e", delay]);
        strace.args(&[mini().to_str().unwrap()])
    };
    let die = || {
        let running = start(&bench, &["--name", "x", "--pids-limit", "20"], STUBBORN);
        let id = id(&bench, "name=x");
        running.kill(KILL);
        running.wait();
        id
    };
    for _ in 0..3 {
        die();
        assert_eq!(ps(&bench, &["-q"]), "");
        assert!(eventually(|| bench.processes().is_empty()));
        let id = die();
        // What cannot be removed yet would be left to a process that is not held up.
        assert!(eventually(|| bench.processes().is_empty()));
        let sweeper = sweep()
            .args(&["run", bench.busybox(), "--", "true"])
            .start();
        thread::sleep(Duration::from_millis(200));
        assert!(
            bench.path("run/running").join(&id).exists(),
            "not yet removed"
        );
        assert!(!ps(&bench, &["-q"]).contains(&id), "{id} does not run");
        bench.run(&["--name", "x"], &["true"]).output().ok();
        sweeper.wait().ok();
        assert_gone(&bench, &id);
    }
}

// --- names and ids ---------------------------------------------------------------------------------------------

#[test]
fn of_many_containers_of_one_name_one_runs() {
    let Some(bench) = bench("names") else { return };
    for _ in 0..3 {
        let start = |_| bench.run(&["--name", "same"], &["sleep", "1000"]).start();
        let mut all: Vec<Running> = (0..20).map(start).collect();
        let ended = |all: &mut Vec<Running>| {
            let ended = |it: &mut Running| it.child.try_wait().unwrap().is_some();
            all.iter_mut().map(ended).collect::<Vec<_>>()
        };
        let one_is_left = || ended(&mut all).iter().filter(|ended| **ended).count() == 19;
        assert!(eventually(one_is_left), "{:?}", ended(&mut all));
        assert!(eventually(|| ps(
            &bench,
            &["-q", "--filter", "status=running"]
        )
        .len()
            == 13));
        let id = id(&bench, "name=same");
        assert_eq!(ps(&bench, &["-q"]), format!("{id}\n"));
        let over = ended(&mut all);
        let mut winner = None;
        for (running, over) in all.into_iter().zip(over) {
            match over {
                true => running.wait().fails(
                    125,
                    &format!("--name \"same\": container {id} has it (mini stop ends it)"),
                ),
                false => winner = Some(running),
            }
        }
        bench.mini(&["stop", "same"]).output().ok();
        assert_gone(&bench, &id);
        assert_eq!(winner.unwrap().wait().status, 143);
    }
}

#[test]
fn containers_are_found_by_name_id_or_beginning_of_id() {
    let Some(bench) = bench("find") else { return };
    let mut lambs: Vec<Running> = (0..3)
        .map(|_| Run::new("sleep").args(&["1000"]).start())
        .collect();
    let this = std::process::id();
    let mut planted = Vec::new();
    // The name of the last is the beginning of the others' ids.
    for (lamb, (id, name)) in lambs.iter().zip([
        ("aaaa00000001", "one"),
        ("aaaa00000002", "bbbb00000003"),
        ("bbbb00000003", "aaaa"),
    ]) {
        let text = format!(
            "mini container 1\nname {name}\ncreated 1\nsupervisor {this}\npid {}\n",
            lamb.pid()
        );
        planted.push(plant(&bench, id, &text));
    }
    let kill = |id: &str| bench.mini(&["kill", "-s", "TERM", id]).output();
    kill("aaa").fails(
        125,
        "\"aaa\": several running containers (more of the id tells them apart)",
    );
    for wanted in ["", "b0", "onE", "aaaa000000012", "../running/aaaa00000001"] {
        kill(wanted).fails(
            125,
            &format!("{wanted:?}: no running container (mini ps lists those that are running)"),
        );
    }
    lambs.iter_mut().for_each(assert_alive);
    // A whole id before a name, a name before the beginning of an id.
    for (wanted, victim) in [("bbbb00000003", 2), ("aaaa00000002", 1), ("on", 0)] {
        if wanted == "on" {
            kill("one").ok();
        } else {
            kill(wanted).ok();
        }
        assert!(eventually(|| lambs[victim]
            .child
            .try_wait()
            .unwrap()
            .is_some()));
    }
    // What has ended and is still there is refused.
    kill("aaaa").fails(125, "container bbbb00000003 has ended");
    drop(planted);
    // Not locked by anybody: nobody's.
    assert_eq!(ps(&bench, &["-q"]), "");
    bench.run(&[], &["true"]).output().ok();
    assert_eq!(bench.files(), Vec::<String>::new());
}

/// A pid in a record may be another process's by now.
#[test]
fn no_other_process_gets_a_signal() {
    let Some(bench) = bench("reuse") else { return };
    let mut innocent = Run::new("sleep").args(&["1000"]).start();
    let this = std::process::id();
    let id = "0123456789ab";
    let of = |supervisor: &str, pid: &str| {
        format!("mini container 1\nname x\ncreated 1\nsupervisor {supervisor}\npid {pid}\n")
    };
    let pid = innocent.pid().to_string();
    for (supervisor, pid) in [
        ("1", pid.as_str()),
        (&pid, &pid),
        ("0", &pid),
        ("-1", "-1"),
        ("-1", &pid),
        ("x", &pid),
        ("4294967296", "4294967297"),
        (&this.to_string(), "4194305"),
        (&this.to_string(), &format!("-{pid}")),
        (&this.to_string(), "0"),
    ] {
        let _lock = plant(&bench, id, &of(supervisor, pid));
        for command in [&["kill", "x"][..], &["kill", "-s", "TERM", "x"]] {
            let line = bench.mini(command).output().one_line(125);
            let refused = [
                "container 0123456789ab has ended",
                "container 0123456789ab: it is still being started",
            ];
            assert!(
                refused.contains(&line.as_str()),
                "{supervisor} {pid}: {line}"
            );
        }
    }
    // To stop it there is nothing to be done but wait for the supervisor.
    let lock = plant(&bench, id, &of("1", &pid));
    let mut stop = bench.mini(&["stop", "-t", "0", "x"]).start();
    assert_alive(&mut stop);
    drop(lock);
    stop.wait().ok();
    assert!(!bench.path("run/running").join(id).exists());
    // Right in all, but that its supervisor lives.
    drop(plant(&bench, id, &of(&this.to_string(), &pid)));
    bench.mini(&["kill", "x"]).output().fails(
        125,
        "\"x\": no running container (mini ps lists those that are running)",
    );
    assert_alive(&mut innocent);
    // And right in that as well.
    let _lock = plant(&bench, id, &of(&this.to_string(), &pid));
    bench.mini(&["kill", "x"]).output().ok();
    assert_eq!(innocent.wait().status, -KILL);
    fs::remove_dir_all(bench.path("run/running").join(id)).unwrap();
}

#[test]
fn what_is_being_started_is_listed_and_waited_for() {
    let Some(bench) = bench("starting") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    // The supervisor's first mount of a file system comes after the record.
    let delay = [
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        "inject=mount:delay_enter=5000000:when=2",
    ];
    let run = bench
        .program("strace")
        .args(&delay)
        .args(&[mini().to_str().unwrap(), "run", "--name", "slow"])
        .args(&[bench.busybox(), "--", "/nope"])
        .start();
    assert!(eventually(|| !ps(&bench, &["-q"]).is_empty()));
    let id = id(&bench, "status=starting");
    assert!(ps(&bench, &["--json"]).contains("\"status\":\"starting\""));
    assert!(ps(&bench, &["--json"]).contains("\"pid\":null"));
    for command in ["kill", "stop"] {
        let output = bench.mini(&[command, "slow"]).output();
        output.fails(125, &format!("container {id}: it is still being started"));
    }
    assert_eq!(bench.mini(&["wait", "slow"]).output().ok(), "127\n");
    assert_eq!(run.wait().status, 127);
}

// --- kill ------------------------------------------------------------------------------------------------------

#[test]
fn kill_sends_the_command_a_signal() {
    let Some(bench) = bench("signals") else {
        return;
    };
    for options in [&[][..], &["--no-init"], &["--pid", "host"], &["-t"]] {
        let options = [&["--name", "x"], options].concat();
        let mut running = bench.guest(&options, &["signals"]).start();
        running.until("ready");
        let mut expected = String::new();
        for (signal, number) in [
            ("HUP", 1),
            ("SIGUSR1", 10),
            ("term", 15),
            ("2", 2),
            ("RTMIN", 34),
            ("RTMIN+3", 37),
            ("sigrtmax-1", 63),
            ("40", 40),
        ] {
            bench.mini(&["kill", "-s", signal, "x"]).output().ok();
            expected += &format!("signal {number}\n");
            let seen = running.until_that(&expected, |seen| {
                seen.replace('\r', "").ends_with(&expected)
            });
            assert_eq!(seen.matches("signal").count(), expected.lines().count());
        }
        bench.mini(&["kill", "--signal", "USR2", "x"]).output().ok();
        running.wait().expect(0);
    }
    for (signal, quoted) in [
        ("0", "0"),
        ("65", "65"),
        ("BOGUS", "BOGUS"),
        ("", ""),
        ("-1", "-1"),
    ] {
        bench
            .mini(&["kill", &format!("--signal={signal}"), "x"])
            .output()
            .fails(125, &format!("--signal \"{quoted}\": unknown signal"));
    }
}

/// The letter of a process's state; empty if there is none.
fn state_of(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    fields.chars().take(1).collect()
}

/// SIGSTOP is for the command: init, which could not catch it, goes on reaping and passing signals on. What has been stopped
/// can still be ended.
#[test]
fn kill_with_sigstop_stops_the_command() {
    let Some(bench) = bench("sigstop") else {
        return;
    };
    let volume = format!("{}:/guest:ro", support::guest());
    for (options, init) in [
        (&[][..], true),
        (&["-t"], true),
        (&["--no-init"], false),
        (&["--pid", "host"], true),
        (&["--restart", "always"], true),
    ] {
        let options = [&["--name", "x", "-v", &volume][..], options].concat();
        let mut running = bench.run(&options, &["/guest", "counter"]).start();
        running.until("3");
        let first = recorded(&bench, &id(&bench, "name=x"), "pid");
        let command = match init {
            false => first.clone(),
            true => {
                let file = format!("/proc/{first}/task/{first}/children");
                fs::read_to_string(file).unwrap().trim().to_owned()
            }
        };
        for _ in 0..2 {
            bench.mini(&["kill", "-s", "STOP", "x"]).output().ok();
            assert!(eventually(|| state_of(&command) == "T"), "{options:?}");
            bench.mini(&["kill", "-s", "CONT", "x"]).output().ok();
            assert!(eventually(|| state_of(&command) != "T"), "{options:?}");
        }
        bench.mini(&["kill", "-s", "STOP", "x"]).output().ok();
        let begun = Instant::now();
        // A first process has no default action but for SIGKILL.
        let stop: &[&str] = if init {
            &["stop"]
        } else {
            &["stop", "-t", "1"]
        };
        bench.mini(stop).args(&["x"]).output().ok();
        assert!(begun.elapsed() < Duration::from_secs(8), "{options:?}");
        running.wait().expect(if init { 143 } else { 137 });
    }
}

#[test]
fn kill_without_a_signal_ends_all_of_it() {
    let Some(bench) = bench("killall") else {
        return;
    };
    for options in [&[][..], &["--no-init"], &["--pid", "host"], &["-t"]] {
        let options = [&["--name", "x"], options].concat();
        let script = format!("(setsid sleep 1000 &); {STUBBORN}");
        let mut running = start(&bench, &options, &script);
        // It may ignore what can be ignored.
        bench.mini(&["kill", "-s", "TERM", "x"]).output().ok();
        assert_alive(&mut running);
        bench.mini(&["kill", "x"]).output().ok();
        assert_eq!(running.wait().status, 137, "{options:?}");
        bench.assert_nothing_left();
    }
}

/// With --no-init a container says itself what its first process is called.
#[test]
fn the_name_of_a_process_deceives_nobody() {
    let Some(bench) = bench("comm") else { return };
    for name in [") S 1 (", "x) S 1 1 1 1", "\n) S 1"] {
        let script = format!("printf '%s' '{name}' > /proc/self/comm; {POLITE}");
        let running = start(&bench, &["--no-init", "--name", "x"], &script);
        bench.mini(&["stop", "x"]).output().ok();
        assert_eq!(running.wait().status, 3, "{name:?}");
    }
}

// --- stop ------------------------------------------------------------------------------------------------------

#[test]
fn stop_sends_the_stop_signal_and_returns_when_nothing_is_left() {
    let Some(bench) = bench("stop") else { return };
    let handler =
        |signal: &str| format!("trap 'echo {signal}; exit 5' {signal}; trap '' TERM; {STUBBORN}");
    for (options, script, status) in [
        (&[][..], POLITE.to_owned(), 3),
        (&["--no-init"], POLITE.to_owned(), 3),
        (&["--pid", "host"], POLITE.to_owned(), 3),
        (&["-t"], POLITE.to_owned(), 3),
        (&["--upper", "disk"], POLITE.to_owned(), 3),
        (&[], "echo ready; exec sleep 1000".to_owned(), 143),
        (&["--stop-signal", "KILL"], STUBBORN.to_owned(), 137),
        (
            &["--stop-signal", "USR1"],
            handler("USR1").replace("sleep 1000", "sleep 0.1"),
            5,
        ),
    ] {
        let options = [&["--name", "x", "--pids-limit", "20"], options].concat();
        let running = start(&bench, &options, &script);
        let id = id(&bench, "name=x");
        let begun = Instant::now();
        bench.mini(&["stop", "x"]).output().ok();
        assert_gone(&bench, &id);
        assert!(begun.elapsed() < Duration::from_secs(8), "{options:?}");
        assert_eq!(running.wait().status, status, "{options:?}");
        bench.assert_nothing_left();
    }
}

#[test]
fn stop_kills_what_does_not_end_in_time() {
    let Some(bench) = bench("timeout") else {
        return;
    };
    for (timeout, arguments, seconds) in [
        ("1000", &["-t", "0"][..], 0),
        ("1000", &["-t", "1"], 1),
        ("1", &[], 1),
        ("0", &["--time", "2"], 2),
    ] {
        let running = start(
            &bench,
            &["--name", "x", "--stop-timeout", timeout],
            STUBBORN,
        );
        let id = id(&bench, "name=x");
        let begun = Instant::now();
        bench
            .mini(&["stop"])
            .args(arguments)
            .args(&["x"])
            .output()
            .ok();
        let took = begun.elapsed();
        assert_gone(&bench, &id);
        assert!(took >= Duration::from_secs(seconds), "{took:?}");
        assert!(took < Duration::from_secs(seconds + 8), "{took:?}");
        assert_eq!(running.wait().status, 137);
    }
    for time in ["-1", "x", "", "1.5", "4294967296"] {
        let output = bench
            .mini(&["stop", &format!("--time={time}"), "x"])
            .output();
        let line = output.one_line(125);
        assert!(line.starts_with(&format!("--time {time:?}: ")), "{line}");
    }
}

/// A container that is just being started again has no first process that could be killed: stop and kill wait for it.
#[test]
fn what_is_about_to_be_started_again_is_killed_then() {
    let Some(bench) = bench("restart-window") else {
        return;
    };
    for command in [&["stop", "-t", "0", "x"][..], &["kill", "x"]] {
        let script = "trap '' TERM; (trap '' TERM; echo ready; exec sleep 1000) & wait";
        let mut supervisor = bench.program("sh").args(&["-c", script]).start();
        supervisor.until("ready");
        let pid = supervisor.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let first = children.trim().to_owned();
        let keeper = bench.program("sleep").args(&["1000"]).start();
        let record = format!(
            "mini container 1\nname x\ndetached yes\ncreated 1\nkeeper {}\nrestarts 1\nsupervisor {pid}\n",
            keeper.pid()
        );
        let id = "0123456789ab";
        let lock = plant(&bench, id, &record);
        let mut ending = bench.mini(command).start();
        assert!(keeper.wait().status == -15);
        assert_alive(&mut ending);
        // Now it has one.
        bench.file(
            &format!("run/running/{id}/record"),
            format!("{record}pid {first}\n"),
        );
        assert!(
            eventually(|| ["", "Z"].contains(&&*state_of(&first))),
            "{command:?}"
        );
        drop(lock);
        ending.wait().expect(0);
        supervisor.kill(KILL);
        supervisor.wait();
        fs::remove_dir_all(bench.path("run")).unwrap();
    }
}

/// Another command that looks whether its supervisor is dead has its lock for a moment.
#[test]
fn what_has_ended_does_not_run_because_somebody_looks() {
    let Some(bench) = bench("sweeping") else {
        return;
    };
    if !have_program("strace") {
        return;
    }
    bench
        .run(&["-d", "--name", "x"], &["true"])
        .output()
        .expect(0);
    bench.mini(&["wait", "x"]).output().ok();
    assert!(eventually(|| bench.processes().is_empty()));
    let mini = mini();
    let mini = mini.to_str().unwrap();
    let delayed = |flock: &str, time: &str, words: &[&str]| {
        let delay = format!("inject=flock:delay_enter={time}:when={flock}");
        let run = bench
            .program("strace")
            .args(&["-qqq", "-o", "/dev/null", "-e", &delay, mini]);
        run.args(words).start()
    };
    // Its sixth lock is the one by which rm asks; the other command's third gives back the one that it should not see.
    let removing = delayed("6", "400000", &["rm", "x"]);
    thread::sleep(Duration::from_millis(150));
    let looking = delayed("3", "700000", &["ps"]);
    removing.wait().ok();
    looking.wait().ok();
    assert_eq!(ps(&bench, &["-aq"]), "");
}

#[test]
fn stop_sends_what_the_image_says_or_the_command_line() {
    let Some(bench) = bench("imagesignal") else {
        return;
    };
    // The core build reads no images that say so. This one says USR1.
    let Some(image) = rootfs("images/docker.tar").filter(|_| !is_core()) else {
        return;
    };
    let script = "for s in USR1 USR2 HUP TERM; do trap \"echo $s; exit 7\" $s; done
        echo ready; while :; do sleep 0.02; done";
    for (options, signal) in [(&[][..], "USR1"), (&["--stop-signal", "HUP"], "HUP")] {
        let mut running = bench
            .mini(&["run", "--name", "x", "--entrypoint="])
            .args(options)
            .args(&[&image, "--", "/bin/sh", "-c", script])
            .start();
        running.until("ready");
        bench.mini(&["stop", "x"]).output().ok();
        let output = running.wait().expect(7);
        assert_eq!(output.stdout, format!("ready\n{signal}\n"));
    }
}

#[test]
fn what_is_paused_or_stopped_ends_all_the_same() {
    let Some(bench) = bench("paused") else { return };
    let paused = |running: &Running| {
        assert!(running.pid() > 1);
        bench.mini(&["pause", "x"]).output().ok();
        assert_eq!(ps(&bench, &["-q", "--filter", "status=paused"]).len(), 13);
        assert_eq!(ps(&bench, &["-q", "--filter", "status=running"]), "");
    };
    // As by Ctrl-Z.
    let stopped = |running: &Running| {
        running.kill(TSTP);
        let stat = format!("/proc/{}/stat", running.pid());
        assert!(eventually(|| fs::read_to_string(&stat)
            .unwrap()
            .contains(") T ")));
    };
    let mut ways: Vec<&dyn Fn(&Running)> = vec![&stopped];
    if has_freezer() {
        ways.push(&paused);
    }
    for way in ways {
        for (command, script, status) in [
            (&["stop", "x"][..], POLITE, 3),
            (&["stop", "-t", "1", "x"], STUBBORN, 137),
            (&["kill", "x"], STUBBORN, 137),
        ] {
            let running = start(&bench, &["--name", "x", "--pids-limit", "20"], script);
            let id = id(&bench, "name=x");
            way(&running);
            let begun = Instant::now();
            bench.mini(command).limit(20).output().ok();
            assert!(begun.elapsed() < Duration::from_secs(8), "{command:?}");
            assert_eq!(running.wait().status, status, "{command:?}");
            assert_gone(&bench, &id);
        }
    }
}

#[test]
fn stop_removes_what_a_killed_supervisor_left() {
    let Some(bench) = bench("stopdead") else {
        return;
    };
    let stubborn = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done";
    for _ in 0..5 {
        let mut running = start(&bench, &["--name", "x", "--pids-limit", "20"], stubborn);
        let id = id(&bench, "name=x");
        let stop = bench.mini(&["stop", "-t", "1000", "x"]).start();
        running.until("asked");
        running.kill(KILL);
        stop.wait().ok();
        assert_gone(&bench, &id);
    }
}

// --- wait, and several at once ---------------------------------------------------------------------------------

#[test]
fn wait_prints_the_status_that_each_ended_with() {
    let Some(bench) = bench("wait") else { return };
    let start = |name: &str, script: &str| {
        let mut run = bench.run(&["--name", name], &["sh", "-c", script]);
        run.command.stdin(std::process::Stdio::piped());
        let mut running = run.start();
        running.until("ready");
        let stdin = running.child.stdin.take();
        (running, stdin)
    };
    let (one, first) = start("one", "echo ready; read x; exit 7");
    let (two, second) = start("two", "echo ready; read x; kill -USR1 $$");
    let both = bench.mini(&["wait", "two", "one"]).start();
    let again = bench.mini(&["wait", "one"]).start();
    assert_waits(&bench, &again, "one");
    assert_waits(&bench, &both, "two");
    drop(first);
    assert_eq!(again.wait().ok(), "7\n");
    drop(second);
    assert_eq!(both.wait().ok(), "138\n7\n");
    assert_eq!((one.wait().status, two.wait().status), (7, 138));
    bench
        .mini(&["wait", "one"])
        .output()
        .fails(125, "\"one\": no container (mini ps -a lists all)");

    // While it ends, there is a status or no such container.
    let mut statuses = 0;
    for round in 0..30 {
        let (running, stdin) = start("x", "echo ready; read x; exit 9");
        let before = bench.mini(&["wait", "x"]).start();
        thread::sleep(Duration::from_millis(round % 4));
        drop(stdin);
        let meanwhile = bench.mini(&["wait", "x"]).start();
        for wait in [before, meanwhile] {
            let output = wait.wait();
            match output.status {
                0 => {
                    assert_eq!(output.stdout, "9\n");
                    statuses += 1;
                }
                _ => {
                    let line = output.one_line(125);
                    assert!(!line.contains("without a status"), "{line}");
                }
            }
        }
        assert_eq!(running.wait().status, 9);
    }
    assert!(statuses > 0, "{statuses}");
}

#[test]
fn wait_does_not_make_up_a_status() {
    let Some(bench) = bench("nostatus") else {
        return;
    };
    let running = start(&bench, &["--name", "x"], POLITE);
    let id = id(&bench, "name=x");
    let wait = bench.mini(&["wait", "x"]).start();
    assert_waits(&bench, &wait, "x");
    running.kill(KILL);
    wait.wait().fails(
        125,
        &format!("container {id}: its supervisor has ended without a status"),
    );
    bench.run(&[], &["true"]).output().ok();
}

#[test]
fn what_fails_with_one_container_is_done_with_the_others() {
    let Some(bench) = bench("several") else {
        return;
    };
    for command in ["kill", "stop", "wait"] {
        let output = bench.mini(&[command]).output();
        output.fails(125, &format!("{command}: no container given"));
        let one = start(&bench, &["--name", "one"], POLITE);
        let two = start(&bench, &["--name", "two"], POLITE);
        let output = match command {
            "wait" => {
                let wait = bench.mini(&["wait", "one", "nope", "two"]).start();
                assert_waits(&bench, &wait, "one");
                bench.mini(&["stop", "two", "one"]).output().ok();
                wait.wait()
            }
            _ => bench.mini(&[command, "one", "nope", "two"]).output(),
        };
        let expected = ["", "3\n3\n"][usize::from(command == "wait")];
        let line = match command {
            "wait" => "mini: \"nope\": no container (mini ps -a lists all)\n",
            _ => "mini: \"nope\": no running container (mini ps lists those that are running)\n",
        };
        assert_eq!(
            (
                output.status,
                output.stdout.as_str(),
                output.stderr.as_str()
            ),
            (125, expected, line)
        );
        let status = if command == "kill" { 137 } else { 3 };
        assert_eq!((one.wait().status, two.wait().status), (status, status));
    }
}

// --- other users -----------------------------------------------------------------------------------------------

/// A script with directories of its own for /run and /tmp. `as 1000 …` runs something as that user, with mini's default
/// directories.
fn users(bench: &Bench, script: &str) -> Run {
    let prepare = "cp $MINI $BUSYBOX .; chmod 755 mini; chmod 644 busybox.tar; MINI=$PWD/mini BUSYBOX=$PWD/busybox.tar
        mount -t tmpfs -o mode=755 tmpfs /run; mount -t tmpfs -o mode=1777 tmpfs /tmp
        unset MINI_RUN MINI_ROOT XDG_RUNTIME_DIR
        as() { id=$1; shift; setpriv --reuid $id --regid $id --clear-groups env PATH=/nowhere \"$@\"; }
        up() { for n in $(seq 100); do [ -n \"$(\"$@\" -q)\" ] && return; sleep 0.1; done; exit 99; }";
    bench.private_shell(&format!("{prepare}\n{script}"))
}

#[test]
fn users_see_and_end_their_own_containers_only() {
    let Some(bench) = bench("users") else { return };
    if !have_program("setpriv") {
        return;
    }
    let userns = "setpriv --reuid 1000 --regid 1000 --clear-groups unshare -Ur true";
    let can = Run::new("sh").args(&["-c", userns]).output().status == 0;
    if !have(
        "user",
        can,
        "user namespaces are not for ordinary users here",
    ) {
        return;
    }
    let script = "$MINI run --name roots $BUSYBOX -- sleep 1000 & root=$!
        as 1000 $MINI run --name users --label who=user $BUSYBOX -- sleep 1000 & user=$!
        up $MINI ps --filter status=running; up as 1000 $MINI ps --filter status=running
        id=$($MINI ps -q)
        $MINI ps | sed 1d | tr -s ' ' | cut -d' ' -f2
        as 1000 $MINI ps | sed 1d | tr -s ' ' | cut -d' ' -f2
        as 1001 $MINI ps -q
        for who in roots $id; do as 1000 $MINI kill $who || echo $?; done 2>&1 | sed s/$id/ID/
        for command in ps stats 'kill users' 'stop users' 'wait users'; do
            as 1001 /usr/bin/env MINI_RUN=/run/mini $MINI $command 2>&1 || echo $?
            as 1001 /usr/bin/env MINI_RUN=/tmp/mini-1000 $MINI $command 2>&1 || echo $?
            env MINI_RUN=/tmp/mini-1000 $MINI $command 2>&1 || echo $?
        done | LC_ALL=C sort | uniq -c | tr -s ' '
        as 1000 $MINI stop users; wait $user || echo user $?
        $MINI stop roots; wait $root || echo root $?";
    let output = users(&bench, script).output().expect(0);
    let other = "not a directory that only this user can write to (MINI_RUN and MINI_ROOT choose other directories)";
    let expected = format!(
        "roots\nusers\n\
         mini: \"roots\": no running container (mini ps lists those that are running)\n125\n\
         mini: \"ID\": no running container (mini ps lists those that are running)\n125\n \
         15 125\n \
         5 mini: \"/run/mini\": {other}\n \
         10 mini: \"/tmp/mini-1000\": {other}\nuser 143\nroot 143\n"
    );
    assert_eq!(output.stdout, expected, "{}", output.stderr);
}

/// What another user has put where a user's or root's records would be.
#[test]
fn planted_records_are_refused() {
    let Some(bench) = bench("planted") else {
        return;
    };
    if !have_program("setpriv") {
        return;
    }
    let script = "sleep 1000 & innocent=$!
        trap 'kill $innocent' EXIT
        plant() { as 1001 /bin/mkdir -p $1/running/aaaaaaaaaaaa
            printf 'mini container 1\\nname x\\ncreated 1\\nsupervisor %s\\npid %s\\n' $$ $innocent |
                as 1001 /usr/bin/tee $1/running/aaaaaaaaaaaa/record > /dev/null; }
        try() { for command in 'kill x' 'stop -t 0 x' 'wait x' ps stats; do
                \"$@\" $command 2>&1 || echo $?
            done | LC_ALL=C sort | uniq -c | tr -s ' '; }
        # In the place of the user's own; by a symbolic link to a directory that is the user's, or root's.
        plant /tmp/mini-1000; flock -F /tmp/mini-1000/running/aaaaaaaaaaaa sleep 1000 & locked=$!
        sleep 0.2
        try as 1000 $MINI
        try env MINI_RUN=/tmp/mini-1000 $MINI
        kill $locked; rm -r /tmp/mini-1000
        as 1000 /bin/mkdir -m 700 -p /tmp/real/running
        as 1001 /bin/ln -s /tmp/real /tmp/mini-1000
        try as 1000 $MINI
        rm -r /tmp/mini-1000
        # The user's own, to which others may write.
        as 1000 /bin/mkdir -p /tmp/mini-1000/running; chmod 777 /tmp/mini-1000/running
        try as 1000 $MINI
        kill -0 $innocent; echo alive";
    let output = users(&bench, script).output().expect(0);
    let other = "not a directory that only this user can write to (MINI_RUN and MINI_ROOT choose other directories)";
    let block = |path: &str| format!(" 5 125\n 5 mini: \"{path}\": {other}\n");
    let base = block("/tmp/mini-1000");
    let expected = format!(
        "{base}{base}{base}{}alive\n",
        block("/tmp/mini-1000/running")
    );
    assert_eq!(output.stdout, expected, "{}", output.stderr);
}
