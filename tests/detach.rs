//! `mini run -d`, `ps -a`, `wait`, `rm` and `prune`: containers in the background, and what they leave.

mod support;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use support::{Bench, eventually, is_core, kill, mini};

/// The core has none of these commands.
fn bench(name: &str) -> Option<Bench> {
    if is_core() {
        return None;
    }
    Bench::new(name)
}

/// `mini run -d OPTIONS busybox.tar -- sh -c SCRIPT`; the id.
#[track_caller]
fn detach(bench: &Bench, options: &[&str], script: &str) -> String {
    let options = [&["-d"], options].concat();
    let line = bench.shell(&options, script).ok();
    let id = line.trim_end().to_owned();
    assert!(
        id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{line:?}"
    );
    assert_eq!(line, format!("{id}\n"));
    id
}

#[track_caller]
fn ok(bench: &Bench, arguments: &[&str]) -> String {
    bench.mini(arguments).output().ok()
}

/// What `mini ps -a` says of a container.
#[track_caller]
fn status(bench: &Bench, id: &str) -> String {
    let json = ok(bench, &["ps", "-a", "--json"]);
    let Some((_, of_it)) = json.split_once(&format!("{{\"id\":\"{id}\"")) else {
        return "gone".into();
    };
    let (_, status) = of_it.split_once("\"status\":\"").unwrap();
    status.split('"').next().unwrap().to_owned()
}

fn recorded(bench: &Bench, id: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(bench.path("run/running").join(id).join("record")).ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(' ')?.to_owned()))
}

/// The number of the supervisor's process.
#[track_caller]
fn supervisor(bench: &Bench, id: &str) -> i32 {
    recorded(bench, id, "supervisor").unwrap().parse().unwrap()
}

#[test]
fn the_id_is_printed_when_the_command_runs_and_all_can_be_learnt_afterwards() {
    let Some(bench) = bench("detach") else {
        return;
    };
    let id = detach(&bench, &["--name", "web"], "echo out; exit 3");
    assert_eq!(ok(&bench, &["wait", "web"]), "3\n");
    assert_eq!(status(&bench, &id), "exited (3)");
    ok(&bench, &["rm", &id]);
    let id = detach(
        &bench,
        &["--name", "web"],
        "mkfifo /fifo; echo out; echo err >&2; read x < /fifo; exit 3",
    );
    assert_eq!(status(&bench, &id), "running");
    assert!(ok(&bench, &["ps", "-q"]).contains(&id));
    let refused = bench.mini(&["rm", "web"]).output();
    refused.fails(
        125,
        &format!("container {id} is running (mini stop {id} ends it)"),
    );
    let said = || bench.mini(&["logs", "web"]).output().expect(0);
    assert!(eventually(|| said().stderr == "err\n"));
    ok(&bench, &["kill", "web"]);
    assert!(eventually(|| status(&bench, &id) == "exited (137)"));
    assert_eq!(ok(&bench, &["ps", "-q"]), "");
    assert_eq!(ok(&bench, &["ps", "-aq"]), format!("{id}\n"));
    for (filter, found) in [
        ("status=exited", true),
        ("status=exited (137)", true),
        ("status=running", false),
        ("name=web", true),
    ] {
        let ids = ok(&bench, &["ps", "-aq", "--filter", filter]);
        assert_eq!(!ids.is_empty(), found, "{filter}");
    }
    assert_eq!(ok(&bench, &["wait", "web", &id[..6]]), "137\n137\n");
    let logs = bench.mini(&["logs", "web"]).output().expect(0);
    assert_eq!((&*logs.stdout, &*logs.stderr), ("out\n", "err\n"));
    // Its changes are there until it is removed.
    let upper = bench.path("store/kept").join(&id).join("upper");
    assert!(upper.join("fifo").exists());
    ok(&bench, &["rm", "web"]);
    assert!(!upper.exists());
    assert_eq!(status(&bench, &id), "gone");
    bench
        .mini(&["rm", "web"])
        .output()
        .fails(125, "\"web\": no container (mini ps -a lists all)");
    bench.assert_nothing_left_but(&[]);
}

#[test]
fn what_fails_before_the_command_runs_is_the_callers() {
    let Some(bench) = bench("detach-fails") else {
        return;
    };
    let run = |arguments: &[&str]| bench.mini(&["run", "-d"]).args(arguments).output();
    run(&[bench.busybox(), "--", "/none"])
        .fails(127, "execve(\"/none\"): not found in the container");
    let line = run(&[bench.busybox(), "--", "/etc/passwd"]).one_line(126);
    assert!(line.contains("/etc/passwd"), "{line}");
    run(&["--log", "/none/x", bench.busybox()])
        .fails(125, "--log open(\"/none/x\"): No such file or directory");
    run(&["--log-max", "1k", bench.busybox()]).fails(125, "--log-max \"1k\": less than 64k");
    run(&["--log", "none", "--log-max", "1m", bench.busybox()])
        .fails(125, "--log and --log-max exclude each other");
    let output = bench
        .mini(&["run", "--log", "none", bench.busybox()])
        .output();
    output.fails(
        125,
        "--log and --log-max: only with --detach (the output is the caller's own)",
    );
    let file = bench.file("boot", format!("-d {}\n", bench.busybox()));
    let line = bench.mini(&["up", &file]).output().one_line(125);
    assert!(
        line.ends_with("--detach: not in a boot file (mini up waits for its containers)"),
        "{line}"
    );
    assert_eq!(ok(&bench, &["ps", "-aq"]), "");
    bench.assert_nothing_left_but(&[]);
}

#[test]
fn the_supervisor_holds_nothing_of_the_callers() {
    let Some(bench) = bench("detach-holds") else {
        return;
    };
    let secret = bench.file("secret", "x");
    // Somebody reads its output to the end, and descriptor 7 is left open.
    let script = format!(
        "exec 7<{secret}; id=$($MINI run -d $BUSYBOX -- sh -c 'for n in 0 1 2 7; do readlink /proc/$$/fd/$n; done; sleep 1000'); echo $id"
    );
    let id = bench.private_shell(&script).output().ok().trim().to_owned();
    let supervisor = supervisor(&bench, &id);
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap() {
        let entry = entry.unwrap();
        let to = fs::read_link(entry.path()).unwrap();
        found.push((entry.file_name().into_string().unwrap(), to));
    }
    for number in ["0", "1", "2"] {
        let (_, to) = found.iter().find(|(name, _)| name == number).unwrap();
        assert_eq!(to, Path::new("/dev/null"));
    }
    for (name, to) in &found {
        assert_ne!(to, Path::new(&secret), "{name}");
    }
    let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // Session and process group are its own, the parent is not the shell's.
    assert_eq!(
        (fields[2], fields[3]),
        (&*supervisor.to_string(), &*supervisor.to_string())
    );
    assert!(eventually(|| {
        let logs = ok(&bench, &["logs", &id]);
        logs.starts_with("/dev/null\n") && logs.lines().count() == 3
    }));
    assert!(!ok(&bench, &["logs", &id]).contains("secret"));
    ok(&bench, &["rm", "-f", &id]);
    bench.assert_nothing_left_but(&[]);
}

#[test]
fn with_rm_nothing_is_left() {
    let Some(bench) = bench("detach-rm") else {
        return;
    };
    let id = detach(&bench, &["--rm"], "touch /x; sleep 2; exit 4");
    assert_eq!(ok(&bench, &["wait", &id]), "4\n");
    assert!(eventually(|| bench.processes().is_empty()));
    bench.assert_nothing_left_but(&[]);
    assert_eq!(ok(&bench, &["ps", "-aq"]), "");
}

#[test]
fn a_name_is_free_when_its_container_has_ended_and_means_the_last_one() {
    let Some(bench) = bench("detach-names") else {
        return;
    };
    let first = detach(&bench, &["--name", "n"], "echo 1; exit 1");
    ok(&bench, &["wait", "n"]);
    let second = detach(&bench, &["--name", "n"], "echo 2; exit 2");
    assert_eq!(ok(&bench, &["wait", "n"]), "2\n");
    assert_eq!(ok(&bench, &["logs", "n"]), "2\n");
    let third = detach(&bench, &["--name", "n"], "echo 3; sleep 1000");
    let taken = bench.shell(&["-d", "--name", "n"], "true").one_line(125);
    assert!(
        taken.contains(&format!("container {third} has it")),
        "{taken}"
    );
    assert!(eventually(|| ok(&bench, &["logs", "n"]) == "3\n"));
    assert_eq!(ok(&bench, &["wait", &first]), "1\n");
    ok(&bench, &["rm", "-f", "n"]);
    ok(&bench, &["rm", "n"]);
    assert_eq!(
        (&*status(&bench, &first), &*status(&bench, &second)),
        ("exited (1)", "gone")
    );
    let pruned = ok(&bench, &["prune"]);
    assert!(pruned.contains(&first), "{pruned}");
    assert_eq!(status(&bench, &first), "gone");
    bench.assert_nothing_left_but(&[]);
}

/// Whatever is killed: what `ps` says is right, nothing runs on, and the next command removes what is left.
#[test]
fn killed_supervisors_leave_a_dead_container_and_nothing_else() {
    let Some(bench) = bench("detach-killed") else {
        return;
    };
    let mut ids = Vec::new();
    for number in 0..12 {
        let rm: &[&str] = if number % 3 == 0 { &["--rm"] } else { &[] };
        let id = detach(&bench, rm, "echo begun; (sleep 1000 &); sleep 1000");
        ids.push((id, !rm.is_empty()));
    }
    for (number, (id, _)) in ids.iter().enumerate() {
        thread::sleep(Duration::from_millis(7 * number as u64 % 11));
        kill(supervisor(&bench, id), 9);
        // At most a moment later.
        assert!(eventually(|| !ok(&bench, &["ps", "-q"]).contains(id)));
        let others = ok(&bench, &["ps", "-q"]);
        assert_eq!(others.lines().count(), ids.len() - 1 - number);
    }
    for (id, rm) in &ids {
        assert_eq!(status(&bench, id), if *rm { "gone" } else { "dead" });
    }
    let (dead, _) = &ids[1];
    assert_eq!(ok(&bench, &["logs", dead]), "begun\n");
    let line = bench.mini(&["wait", dead]).output().one_line(125);
    assert_eq!(
        line,
        format!("container {dead}: its supervisor has ended without a status")
    );
    let dead: Vec<&str> = ids
        .iter()
        .filter(|(_, rm)| !rm)
        .map(|(id, _)| &**id)
        .collect();
    ok(&bench, &[&["rm"], &dead[..]].concat());
    bench.assert_nothing_left_but(&[]);
}

#[test]
fn many_at_once() {
    let Some(bench) = bench("detach-many") else {
        return;
    };
    let runs: Vec<_> = (0..50)
        .map(|number| {
            let name = format!("c{number}");
            let command = ["sh", "-c", "echo $HOSTNAME; sleep 1000"];
            bench
                .run(&["-d", "--name", &name], &command)
                .limit(120)
                .start()
        })
        .collect();
    let mut ids: Vec<String> = runs.into_iter().map(|run| run.wait().ok()).collect();
    ids.sort();
    assert_eq!(ok(&bench, &["ps", "-q"]), ids.concat());
    let names: Vec<String> = (0..50).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        assert!(eventually(
            || ok(&bench, &["logs", name]) == format!("{name}\n")
        ));
    }
    let all = [&["stop", "-t", "0"], &names[..]].concat();
    bench.mini(&all).limit(120).output().ok();
    assert_eq!(ok(&bench, &["ps", "-q"]), "");
    bench
        .mini(&[&["rm"], &names[..]].concat())
        .limit(120)
        .output()
        .ok();
    bench.assert_nothing_left_but(&[]);
}

/// With a terminal at which nobody types.
#[test]
fn a_terminal_stays_open() {
    let Some(bench) = bench("detach-tty") else {
        return;
    };
    let id = detach(&bench, &["-t"], "tty; tty <&1; read x; echo over");
    assert!(eventually(
        || ok(&bench, &["logs", &id]) == "/dev/pts/0\r\n/dev/pts/0\r\n"
    ));
    assert_eq!(status(&bench, &id), "running");
    ok(&bench, &["rm", "-f", &id]);
    let file = bench.text("file");
    let id = detach(&bench, &["-t", "--log", &file], "echo to the file");
    ok(&bench, &["wait", &id]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "to the file\r\n");
    ok(&bench, &["rm", &id]);
    assert!(mini().exists());
}

#[test]
fn restarts_follow_the_rule() {
    let Some(bench) = bench("restart") else {
        return;
    };
    // In the foreground: the changes are its own each time.
    let output = bench
        .shell(
            &["--restart", "on-failure:2"],
            "echo run $(ls /was 2>&1); touch /was; exit 5",
        )
        .expect(5);
    assert_eq!(output.stdout.lines().count(), 3, "{}", output.stdout);
    assert_eq!(
        output.stderr,
        "mini: exit status 5, again in 100 ms\nmini: exit status 5, again in 200 ms\n"
    );
    let fails = bench.run(&["--restart", "always"], &["/none"]).output();
    fails.fails(127, "execve(\"/none\"): not found in the container");
    bench.assert_nothing_left_but(&[]);
    // In the background it goes on with what it has changed.
    let script = "echo x >> /runs; echo $(wc -l < /runs); printf unfinished; exit 6";
    let id = detach(&bench, &["--restart=on-failure:2", "--name", "r"], script);
    assert_eq!(ok(&bench, &["wait", "r"]), "6\n");
    assert_eq!(status(&bench, &id), "exited (6)");
    let said = "unfinished\n";
    assert_eq!(
        ok(&bench, &["logs", "r"]),
        format!("1\n{said}2\n{said}3\n{said}")
    );
    assert_eq!(recorded(&bench, &id, "restarts").as_deref(), Some("2"));
    ok(&bench, &["rm", "r"]);
    bench.assert_nothing_left_but(&[]);
}

#[test]
fn stop_ends_the_restarting() {
    let Some(bench) = bench("restart-stop") else {
        return;
    };
    // While it runs, with its stop signal; then in the pause between two runs.
    let options = ["--restart", "always", "--stop-signal", "USR1"];
    let id = detach(
        &bench,
        &options,
        "trap 'exit 9' USR1; echo up; sleep 1000 & wait",
    );
    assert!(eventually(|| ok(&bench, &["logs", &id]) == "up\n"));
    ok(&bench, &["stop", &id]);
    assert_eq!(status(&bench, &id), "exited (9)");
    let id = detach(&bench, &["--restart", "always"], "exit 1");
    assert!(eventually(|| {
        recorded(&bench, &id, "restarts").is_some_and(|count| count.parse::<u32>().unwrap() > 2)
    }));
    assert!(eventually(|| status(&bench, &id) == "restarting"));
    ok(&bench, &["stop", &id]);
    assert_eq!(status(&bench, &id), "exited (1)");
    // So does mini kill; nothing else is to be done to what does not run just now.
    let id = detach(&bench, &["--restart", "always"], "exit 1");
    // In this order: else the next run may have begun in between.
    assert!(eventually(|| recorded(&bench, &id, "restarts")
        .is_some_and(|count| count.parse::<u32>().unwrap() > 3)
        && status(&bench, &id) == "restarting"));
    let line = bench.mini(&["exec", &id, "true"]).output().one_line(125);
    assert!(line.contains("it is being restarted"), "{line}");
    ok(&bench, &["kill", &id]);
    assert!(eventually(|| status(&bench, &id) == "exited (1)"));
    ok(&bench, &["rm", &id]);
    // One that does not listen is killed, as with mini kill, and does not come back.
    for command in [&["stop", "-t", "0"][..], &["kill"]] {
        let deaf = "trap '' TERM; echo deaf; sleep 1000";
        let id = detach(&bench, &["--restart", "always"], deaf);
        assert!(eventually(|| ok(&bench, &["logs", &id]) == "deaf\n"));
        ok(&bench, &[command, &[&id]].concat());
        assert_eq!(ok(&bench, &["wait", &id]), "137\n");
        assert_eq!(status(&bench, &id), "exited (137)");
    }
    let dead = ok(&bench, &["ps", "-aq"]);
    let dead: Vec<&str> = dead.lines().collect();
    assert_eq!(dead.len(), 4);
    ok(&bench, &[&["rm"], &dead[..]].concat());
    bench.assert_nothing_left_but(&[]);
}

#[test]
fn whoever_is_killed_of_a_container_that_restarts() {
    let Some(bench) = bench("restart-killed") else {
        return;
    };
    let id = detach(&bench, &["--restart", "always"], "echo up; sleep 1000");
    let keeper: i32 = recorded(&bench, &id, "keeper").unwrap().parse().unwrap();
    for run in 1..4 {
        let runs = || ok(&bench, &["logs", &id]).lines().count() == run;
        assert!(eventually(runs), "{run}");
        let now = supervisor(&bench, &id);
        kill(now, 9);
        assert!(eventually(
            || recorded(&bench, &id, "supervisor").is_some_and(|next| next != now.to_string())
        ));
        assert_eq!(recorded(&bench, &id, "restarts").unwrap(), run.to_string());
    }
    assert!(eventually(|| status(&bench, &id) == "running"));
    kill(keeper, 9);
    assert!(eventually(|| status(&bench, &id) == "dead"));
    assert!(eventually(|| bench.processes().is_empty()));
    ok(&bench, &["rm", &id]);
    bench.assert_nothing_left_but(&[]);
}

/// What `/proc/PID/smaps_rollup` says: a process's memory in KB, of what it shares with others its part.
#[track_caller]
fn pss(pid: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

#[test]
fn the_supervisor_and_init_take_300_kb_at_most() {
    let Some(bench) = bench("pss") else {
        return;
    };
    let id = detach(&bench, &[], "sleep 1000");
    let both = ["supervisor", "pid"].map(|key| recorded(&bench, &id, key).unwrap());
    let sum = || both.iter().map(|pid| pss(pid)).sum::<u64>();
    // Init has started the command, and then gives back what it does not need.
    assert!(eventually(|| sum() <= 300), "{} KB", sum());
    println!("supervisor and init: {} KB", sum());
    ok(&bench, &["rm", "-f", &id]);

    // In the foreground when nothing has happened for a second.
    let running = bench
        .mini(&["run", bench.busybox(), "--", "sleep", "1000"])
        .start();
    let id = || {
        let listed = bench.mini(&["ps", "-q"]).output().ok();
        (!listed.is_empty()).then(|| listed.trim().to_owned())
    };
    assert!(eventually(|| id().is_some()));
    let id = id().unwrap();
    assert!(eventually(|| recorded(&bench, &id, "pid").is_some()));
    let both = ["supervisor", "pid"].map(|key| recorded(&bench, &id, key).unwrap());
    let sum = || both.iter().map(|pid| pss(pid)).sum::<u64>();
    assert!(eventually(|| sum() <= 300), "{} KB", sum());
    println!("in the foreground: {} KB", sum());
    running.kill(15);
    running.wait().expect(143);
}

/// Where there is no file that could be read again, one is made of it.
#[test]
fn what_comes_from_standard_input_can_be_started_again() {
    let Some(bench) = bench("restart-stdin") else {
        return;
    };
    let archive = fs::read(bench.busybox()).unwrap();
    for store in ["auto", "unpack", "tmpfs"] {
        let options = ["--store", store, "--restart", "on-failure:1"];
        let words = [
            &["run"],
            &options[..],
            &["-", "--", "sh", "-c", "echo run; exit 6"],
        ]
        .concat();
        let output = bench.mini(&words).input(archive.clone()).output();
        let output = output.expect(6);
        assert_eq!(output.stdout, "run\nrun\n", "{store}: {}", output.stderr);
        let words = [&["run", "-d"], &words[1..]].concat();
        let line = bench.mini(&words).input(archive.clone()).output().ok();
        let id = line.trim();
        assert_eq!(ok(&bench, &["wait", id]), "6\n");
        assert_eq!(ok(&bench, &["logs", id]), "run\nrun\n");
        ok(&bench, &["rm", id]);
    }
    bench.assert_nothing_left_but(&[]);
}

/// The run directory is gone then, and with it all that is known of what was in the background but its changes.
#[test]
fn prune_removes_the_changes_of_what_ended_with_the_machine() {
    let Some(mut bench) = bench("reboot") else {
        return;
    };
    bench.keeps = true;
    let ended = detach(&bench, &[], "echo x > /file; exit 3");
    ok(&bench, &["wait", &ended]);
    let kept = bench.shell(&["--keep"], "echo y > /file").expect(0);
    // Where its name is.
    assert!(kept.stderr.contains("kept"), "{}", kept.stderr);
    fs::remove_dir_all(bench.path("run")).unwrap();
    let running = detach(&bench, &[], "echo z > /file; sleep 1000");
    assert_eq!(ok(&bench, &["ps", "-aq"]), format!("{running}\n"));
    let there = || fs::read_dir(bench.path("store/kept")).unwrap().count();
    assert_eq!(there(), 3);
    let would = ok(&bench, &["prune", "--dry-run"]);
    let place = format!(
        "would remove \"{}\" ",
        bench.path("store/kept").join(&ended).display()
    );
    assert!(would.contains(&place), "{would}");
    assert_eq!(there(), 3);
    let did = ok(&bench, &["prune"]);
    assert!(
        did.contains(&place["would ".len()..].replace("remove", "removed")),
        "{did}"
    );
    assert_eq!(there(), 2);
    assert!(bench.path("store/kept").join(&running).exists());
    ok(&bench, &["rm", "-f", &running]);
    assert_eq!(there(), 1);
}
