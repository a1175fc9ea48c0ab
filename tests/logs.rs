//! `mini logs`: what containers in the background have written, all of it or the end of it, while it is written, in
//! bounded space, and when the disk is full.

mod support;
use std::fs;
use std::thread;
use std::time::Duration;

use support::{Bench, Run, eventually, is_core};

/// The core has none of these commands.
fn bench(name: &str) -> Option<Bench> {
    if is_core() {
        return None;
    }
    Bench::new(name)
}

#[track_caller]
fn detach(bench: &Bench, options: &[&str], script: &str) -> String {
    let options = [&["-d"], options].concat();
    bench.shell(&options, script).ok().trim().to_owned()
}

fn logs(bench: &Bench, options: &[&str]) -> Run {
    bench.mini(&["logs"]).args(options)
}

/// The bytes of a container's log files.
fn files(bench: &Bench, id: &str) -> Vec<u8> {
    let directory = bench.path("run/running").join(id);
    let mut names: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("log."))
        .collect();
    names.sort_by_key(|name| name[4..].parse::<u64>().unwrap());
    assert!(names.len() <= 2, "{names:?}");
    names
        .iter()
        .flat_map(|name| fs::read(directory.join(name)).unwrap_or_default())
        .collect()
}

#[test]
fn both_streams_times_and_the_last_lines() {
    let Some(bench) = bench("logs") else { return };
    let script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; [ $i = 3 ] && sleep 0.5; sleep 0.01; done; sleep 1; echo late; \
                  printf '\\377\\033[2J end'";
    let id = detach(&bench, &[], script);
    bench.mini(&["wait", &id]).output().ok();
    let all = logs(&bench, &[&id]).output().expect(0);
    assert!(
        all.stdout.starts_with("out 1\nout 2\n")
            && all.stdout.ends_with("late\n\u{fffd}\x1b[2J end")
    );
    assert_eq!(all.stderr, "err 1\nerr 2\nerr 3\nerr 4\nerr 5\n");
    for (count, expected) in [("0", ""), ("1", " end"), ("2", "late\n"), ("999", "out 1")] {
        let output = logs(&bench, &["--tail", count, &id]).output().expect(0);
        assert!(
            output.stdout.contains(expected),
            "{count}: {}",
            output.stdout
        );
        let lines = output.stdout.lines().count() + output.stderr.lines().count();
        assert_eq!(lines, count.parse::<usize>().unwrap().min(12), "{count}");
    }
    let stamped = logs(&bench, &["-t", &id]).output().expect(0).stdout;
    for line in stamped.lines() {
        let (time, _) = line.split_once(' ').unwrap();
        assert!(
            time.len() == 30 && time.starts_with("20") && time.ends_with('Z'),
            "{line}"
        );
    }
    // From the time of a line on, and so long before now.
    let (time, _) = stamped.lines().nth(3).unwrap().split_once(' ').unwrap();
    let since = logs(&bench, &["--since", time, &id])
        .output()
        .expect(0)
        .stdout;
    assert!(since.starts_with("out 4\nout 5\nlate\n"), "{since}");
    let since = logs(&bench, &["--since", "1h", &id])
        .output()
        .expect(0)
        .stdout;
    assert_eq!(since, all.stdout);
    thread::sleep(Duration::from_secs(1));
    let since = logs(&bench, &["--since", "1s", &id]).output().expect(0);
    assert_eq!(since.stdout + &since.stderr, "");
    for (option, value, line) in [
        ("--tail", "x", "--tail \"x\": not a number of lines"),
        (
            "--since",
            "x",
            "--since \"x\": neither a time as in 10m nor one as in 2026-11-22T10:29:54Z",
        ),
    ] {
        logs(&bench, &[option, value, &id])
            .output()
            .fails(125, line);
    }
    bench.mini(&["rm", &id]).output().ok();
    let id = detach(&bench, &["--log", "none"], "echo x");
    bench.mini(&["wait", &id]).output().ok();
    let none = format!(
        "container {id}: it has no log (mini run -d keeps one, unless --log says otherwise)"
    );
    logs(&bench, &[&id]).output().fails(125, &none);
    bench.mini(&["rm", &id]).output().ok();
    let file = bench.text("file");
    fs::write(&file, "before\n").unwrap();
    let id = detach(&bench, &["--log", &file], "echo out; echo err >&2");
    bench.mini(&["wait", &id]).output().ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\nout\nerr\n");
    bench.mini(&["rm", &id]).output().ok();
}

#[test]
fn follow_shows_what_comes_until_the_end() {
    let Some(bench) = bench("logs-follow") else {
        return;
    };
    let id = detach(
        &bench,
        &[],
        "echo one; read x < /dev/zero & sleep 1; echo two; sleep 1; exit 3",
    );
    let mut follow = logs(&bench, &["-f", &id]).start();
    follow.until("one\n");
    follow.until("two\n");
    assert_eq!(follow.wait().ok(), "one\ntwo\n");
    assert_eq!(
        logs(&bench, &["-f", "--tail", "1", &id]).output().ok(),
        "two\n"
    );
    // It ends as well when the supervisor is killed, or nothing stays of the container.
    for rm in [false, true] {
        let options: &[&str] = if rm { &["--rm"] } else { &[] };
        let id = detach(&bench, options, "echo one; sleep 1000");
        let mut follow = logs(&bench, &["-f", &id]).start();
        follow.until("one\n");
        if rm {
            bench.mini(&["kill", &id]).output().ok();
        } else {
            let record = fs::read_to_string(bench.path("run/running").join(&id).join("record"));
            let record = record.unwrap();
            let pid = record
                .lines()
                .find_map(|line| line.strip_prefix("supervisor "));
            support::kill(pid.unwrap().parse().unwrap(), 9);
        }
        assert_eq!(follow.wait().ok(), "one\n");
    }
    bench.mini(&["prune"]).output().expect(0);
}

/// What is written fast is neither torn nor repeated, takes no more space than it may, and nobody waits.
#[test]
fn much_output_is_bounded_and_its_end_is_exact() {
    let Some(bench) = bench("logs-much") else {
        return;
    };
    // 200 MB.
    let script = "seq 1 2700000 | sed 's/$/ .................................................................../'; echo end";
    let id = detach(&bench, &["--log-max", "256k"], script);
    let (out, mini) = (bench.text("out"), support::mini());
    let script = format!("exec {} logs -f {id} > {out}", mini.display());
    let follow = bench
        .program("sh")
        .args(&["-c", &script])
        .limit(120)
        .start();
    let record = fs::read_to_string(bench.path("run/running").join(&id).join("record")).unwrap();
    let pid = record
        .lines()
        .find_map(|line| line.strip_prefix("supervisor "));
    let status = format!("/proc/{}/status", pid.unwrap());
    let mut most = 0;
    while let Ok(text) = fs::read_to_string(&status)
        && let Some(line) = text.lines().find(|line| line.starts_with("RssAnon"))
    {
        let kb: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        most = most.max(kb);
        thread::sleep(Duration::from_millis(100));
    }
    assert!(most > 0 && most < 2048, "{most} KiB");
    assert!(files(&bench, &id).len() <= 256 << 10);
    // Whoever follows got lines in order, each whole, and was told where some are missing between them; those before the
    // first may have been rotated away before it began.
    let followed = follow.wait().expect(0);
    let shown = fs::read_to_string(&out).unwrap();
    let mut last = 0;
    let mut gaps = 0;
    let all = shown.strip_suffix("end\n").unwrap();
    for line in all.lines() {
        assert_eq!(line.len() - line.find(' ').unwrap(), 68, "{line:?}");
        let number: u64 = line.split(' ').next().unwrap().parse().unwrap();
        assert!(number > last, "{number} after {last}");
        gaps += u64::from(last > 0 && number > last + 1);
        last = number;
    }
    assert_eq!(last, 2_700_000);
    assert_eq!(followed.stderr.lines().count() as u64, gaps);
    let tail = logs(&bench, &["--tail", "1001", &id]).output().ok();
    let expected: String = (2_699_001..=2_700_000)
        .map(|number| format!("{number} {}\n", ".".repeat(67)))
        .collect();
    assert_eq!(tail, expected + "end\n");
    bench.mini(&["rm", &id]).output().ok();
}

#[test]
fn an_endless_line_is_split_and_shown_as_one() {
    let Some(bench) = bench("logs-line") else {
        return;
    };
    let id = detach(
        &bench,
        &[],
        "head -c 100000 /dev/zero | tr '\\0' x; echo; echo next",
    );
    bench.mini(&["wait", &id]).output().ok();
    let output = logs(&bench, &[&id]).output().ok();
    assert_eq!(output, "x".repeat(100_000) + "\nnext\n");
    assert_eq!(logs(&bench, &["--tail", "2", &id]).output().ok(), output);
    assert_eq!(logs(&bench, &["--tail", "1", &id]).output().ok(), "next\n");
    let text = files(&bench, &id);
    let longest = text
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::len)
        .max()
        .unwrap();
    assert!(longest < 17_000, "{longest}");
    bench.mini(&["rm", &id]).output().ok();
    let id = detach(
        &bench,
        &["--log-max", "64k"],
        "head -c 50000000 /dev/zero | tr '\\0' x",
    );
    bench.mini(&["wait", &id]).output().ok();
    assert!(files(&bench, &id).len() <= 64 << 10);
    bench.mini(&["rm", &id]).output().ok();
}

/// The container goes on, and what is missing is counted.
#[test]
fn a_full_disk_costs_lines_alone() {
    let Some(bench) = bench("logs-full") else {
        return;
    };
    let script = "mkdir run; mount -t tmpfs -o size=400k,mode=0700 none run; \
        id=$($MINI run -d $BUSYBOX -- sh -c 'i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; \
            while [ -e /proc/self ]; do echo more; sleep 0.1; done'); \
        for i in $(seq 300); do [ $(df -k run | tail -1 | awk '{print $4}') = 0 ] && break; sleep 0.1; done; \
        df -k run | tail -1 | awk '{print \"free\", $4}'; sleep 1; \
        mount -o remount,size=800k run; sleep 1; $MINI logs $id | grep -v '^line' | sort | uniq -c | tail -3; \
        $MINI logs $id 2>&1 >/dev/null | sed 's/[0-9][0-9]*/N/'; \
        $MINI stop -t 0 $id; $MINI wait $id; $MINI rm $id; \
        mount -o remount,size=4k run; cat /dev/zero > run/full 2>/dev/null || true; \
        $MINI run -d $BUSYBOX -- true || echo status $?; rm run/full; find run -mindepth 2; umount run";
    let output = bench.private_shell(script).output().expect(0);
    // Without a second between them either signal may be the one that ends it.
    let said = output.stdout.replace("\n143\n", "\n137\n");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "free 0", "{}", output.stdout);
    assert!(lines[1].trim().ends_with(" more"), "{}", output.stdout);
    assert_eq!(
        lines[2..],
        [
            "mini: N lines are lost: the log could not be written",
            "137",
            "status 125"
        ],
        "{}{}",
        output.stdout,
        output.stderr
    );
    assert!(
        output.stderr.contains("No space left on device"),
        "{}",
        output.stderr
    );
    assert!(eventually(|| bench.processes().is_empty()));
}

/// As `head` does: mini ends by SIGPIPE, without a word, as cat(1) would.
#[test]
fn a_reader_that_has_seen_enough() {
    let Some(bench) = bench("logs-pipe") else {
        return;
    };
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let id = detach(&bench, &[], script);
    bench.mini(&["wait", &id]).output().ok();
    for command in [
        format!("logs {id}"),
        format!("logs -f {id}"),
        format!("logs --tail 19000 {id}"),
    ] {
        let script = format!("$0 {command} | head -n 1; echo ${{PIPESTATUS[0]}}");
        let mini = support::mini();
        let run = bench.program("bash").args(&["-c", &script]);
        let text = run.args(&[mini.to_str().unwrap()]).output().ok();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("line "), "{text}");
        assert_eq!(lines[1..], ["141"], "{command}");
    }
    bench.mini(&["rm", &id]).output().ok();
}
