//! Two hundred containers at once: all of them run, are listed, answer `mini exec` and stop, and nothing is left. What that
//! costs mini for each of them is printed beside what ten cost, not asserted: it depends on what else the machine does.

mod support;
use std::fs;
use std::time::Instant;

use support::{Bench, Running, is_core};

/// What the containers of one round cost.
struct Cost {
    /// Milliseconds from the first to the last container that runs, for each.
    start: f64,
    /// KiB of the supervisor and init, for each.
    memory: f64,
    /// Milliseconds of `mini ps`.
    list: f64,
    /// Milliseconds of `mini exec`, one after the other.
    exec: f64,
    /// Milliseconds for each until nothing is left.
    stop: f64,
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}

/// KiB that are a process's own, its part of what it shares included. proc(5), smaps_rollup (Linux 4.14).
#[track_caller]
fn pss(pid: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let (count, _) = line.unwrap().trim().split_once(' ').unwrap();
    count.parse().unwrap()
}

#[track_caller]
fn ok(bench: &Bench, arguments: &[&str]) -> String {
    bench.mini(arguments).limit(300).output().ok()
}

/// Starts so many containers at the same time, uses each, and ends them.
fn round(bench: &Bench, count: u32) -> Cost {
    let n = f64::from(count);
    let names: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
    let begun = Instant::now();
    let start = |name: &String| {
        let command = ["sh", "-c", "echo $HOSTNAME; exec sleep 1000"];
        let run = bench.run(&["-d", "--name", name, "--label", "many"], &command);
        run.limit(300).start()
    };
    let runs: Vec<Running> = names.iter().map(start).collect();
    let mut ids: Vec<String> = runs.into_iter().map(|run| run.wait().ok()).collect();
    let start = milliseconds(begun) / n;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count as usize, "an id is there twice");

    let begun = Instant::now();
    assert_eq!(ok(bench, &["ps", "-q"]), ids.concat());
    let list = milliseconds(begun);
    let running = [
        "ps",
        "-q",
        "--filter",
        "status=running",
        "--filter",
        "label=many",
    ];
    assert_eq!(ok(bench, &running), ids.concat());

    let mut memory = 0;
    for id in &ids {
        let record = bench.path("run/running").join(id.trim_end()).join("record");
        let text = fs::read_to_string(record).unwrap();
        for key in ["supervisor ", "pid "] {
            let pid = text.lines().find_map(|line| line.strip_prefix(key));
            memory += pss(pid.unwrap());
        }
    }

    let begun = Instant::now();
    for name in &names {
        assert_eq!(ok(bench, &["exec", name, "hostname"]), format!("{name}\n"));
    }
    let exec = milliseconds(begun) / n;
    for name in &names {
        assert_eq!(ok(bench, &["logs", name]), format!("{name}\n"));
    }

    let begun = Instant::now();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ok(bench, &[&["stop"], &names[..]].concat());
    let stop = milliseconds(begun) / n;
    assert_eq!(ok(bench, &["ps", "-q"]), "");
    let ended = ["ps", "-aq", "--filter", "status=exited (143)"];
    assert_eq!(ok(bench, &ended), ids.concat());
    ok(bench, &[&["rm"], &names[..]].concat());
    bench.assert_nothing_left();
    let memory = memory as f64 / n;
    Cost {
        start,
        memory,
        list,
        exec,
        stop,
    }
}

#[test]
fn two_hundred_run_at_once() {
    // The core has none of these commands.
    let Some(bench) = Bench::new("many").filter(|_| !is_core()) else {
        return;
    };
    // The image's index is made once.
    bench.run(&[], &["true"]).output().ok();
    let (few, many) = (round(&bench, 10), round(&bench, 200));
    eprintln!("for each container, of 10 and of 200 at once, and the ratio:");
    for (what, few, many) in [
        ("KiB PSS of supervisor and init", few.memory, many.memory),
        ("ms to start", few.start, many.start),
        ("ms of an exec", few.exec, many.exec),
        ("ms to stop", few.stop, many.stop),
        ("ms of a ps, of all", few.list, many.list),
    ] {
        eprintln!("{what:32} {few:8.2} {many:8.2} {:6.2}", many / few);
    }
}
