//! Standard input and output that are pipes and files: no byte lost, no hang, no busy loop.

mod support;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use support::{Bench, Run, guest, have_program, is_core};

/// A bash script with pipefail; $MINI, $BUSYBOX and $GUEST name what they say, $RUN is `$MINI run`.
fn bash(bench: &Bench, script: &str) -> Run {
    let script = format!("set -uo pipefail; {script}");
    let run = bench
        .program("bash")
        .args(&["-c", &script])
        .env("MINI", support::mini())
        .directory(&bench.path(""));
    run.env("BUSYBOX", bench.busybox())
        .env("GUEST", guest())
        .limit(30)
}

#[test]
fn a_reader_that_goes_away_ends_the_container() {
    let Some(bench) = Bench::new("head") else {
        return;
    };
    // 141: killed by SIGPIPE, whose action is the default one inside.
    let text = bash(
        &bench,
        "$MINI run $BUSYBOX -- yes | head -1; echo ${PIPESTATUS[0]}",
    )
    .output()
    .ok();
    assert_eq!(text, "y\n141\n");
    let text = bash(
        &bench,
        "$MINI run --no-init $BUSYBOX -- sh -c 'yes; true' | head -1",
    )
    .output()
    .expect(0);
    assert_eq!(text.stdout, "y\n");
    let text = bash(&bench, "$MINI run $BUSYBOX -- sh -c 'yes; echo $? >&2' 2>&1 >/dev/null | head -2 & sleep 0.3; kill %1; wait").output();
    assert_eq!(text.status, 0, "{text:?}");
}

#[test]
fn with_a_terminal_as_well() {
    let Some(bench) = Bench::new("headtty") else {
        return;
    };
    let text = bash(&bench, "$MINI run -t $BUSYBOX -- yes < /dev/null | head -1")
        .limit(10)
        .output();
    assert_eq!(text.stdout, "y\r\n", "{text:?}");
}

#[test]
fn fifty_megabytes_go_in_and_come_out() {
    let Some(bench) = Bench::new("bulk") else {
        return;
    };
    let mut state = 1u64;
    let bytes: Vec<u8> = (0..50_000_000 / 8)
        .flat_map(|_| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_ne_bytes()
        })
        .collect();
    bench.file("bulk", bytes);
    for options in ["", "-i", "--no-init"] {
        let script = format!(
            "cat bulk | $MINI run {options} $BUSYBOX -- cat | cmp - bulk && $MINI run {options} $BUSYBOX -- cat < bulk > copy && cmp copy bulk"
        );
        bash(&bench, &script).output().ok();
    }
    // A slow reader, and a reader and a writer at different speeds.
    bash(
        &bench,
        "$MINI run $BUSYBOX -- cat < bulk | (sleep 1; cmp - bulk)",
    )
    .output()
    .ok();
}

#[test]
fn all_that_a_terminal_shows_arrives() {
    let Some(bench) = Bench::new("ttybulk") else {
        return;
    };
    let script = "$MINI run -t $BUSYBOX -- seq 1 200000 < /dev/null | tr -d '\\r' > found; seq 1 200000 | cmp - found";
    bash(&bench, script).output().ok();
    // The last words of a command that ends at once.
    for _ in 0..20 {
        assert_eq!(
            bench
                .shell(&["-t"], "echo last; echo words >&2")
                .expect(0)
                .stdout,
            "last\r\nwords\r\n"
        );
    }
}

#[test]
fn input_from_a_pipe_ends_a_terminal() {
    let Some(bench) = Bench::new("ttyinput") else {
        return;
    };
    bench
        .run(&["-t"], &["sh"])
        .input("exit 5\n")
        .limit(10)
        .output()
        .expect(5);
    // The end of the input is the end of the file, with and without a newline before it, and at once.
    for (input, shown) in [("abc\n", "abc\r\nabc\r\n"), ("abc", "abcabc"), ("", "")] {
        let output = bench
            .run(&["-t"], &["cat"])
            .input(input)
            .limit(10)
            .output()
            .expect(0);
        assert_eq!(output.stdout, shown, "{input:?}");
    }
    let output = bench
        .run(&["-i", "-t"], &["sh", "-c", "cat; echo status $?"])
        .limit(10)
        .output()
        .expect(0);
    assert!(output.stdout.ends_with("status 0\r\n"), "{output:?}");
    // More than a line buffer holds, a line at a time.
    let lines: String = (0..5000).map(|number| format!("line {number}\n")).collect();
    let output = bench
        .run(&["-t"], &["sh", "-c", "stty -echo; wc -l"])
        .input(lines)
        .limit(20)
        .output()
        .expect(0);
    assert!(
        output.stdout.ends_with("5000\r\n"),
        "{}",
        output.stdout.len()
    );
}

#[test]
fn standard_input_is_left_to_whoever_comes_next() {
    let Some(bench) = Bench::new("leftinput") else {
        return;
    };
    let text = bash(
        &bench,
        "printf 'one\\ntwo\\n' > f; { $MINI run $BUSYBOX -- true; cat; } < f",
    )
    .output()
    .ok();
    assert_eq!(text, "one\ntwo\n");
}

#[test]
fn closed_standard_streams_are_no_obstacle() {
    let Some(bench) = Bench::new("closed") else {
        return;
    };
    let dir = bench.dir("dir");
    for (index, closed) in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "<&- >&-"]
        .iter()
        .enumerate()
    {
        for options in ["", "-t", "--no-init", "-i"] {
            let script = format!(
                "$MINI run {options} -v dir:/v $BUSYBOX -- sh -c 'echo x; echo y >&2; : > /v/{index}' {closed}"
            );
            let output = bash(&bench, &script).limit(10).output();
            assert_eq!(output.status, 0, "{closed} {options}: {output:?}");
            assert!(
                fs::remove_file(format!("{dir}/{index}")).is_ok(),
                "{closed} {options}"
            );
        }
    }
    // An error that nobody can read is an error all the same.
    bash(&bench, "$MINI run $BUSYBOX -- /nope 2>&-")
        .output()
        .expect(127);
    bash(&bench, "$MINI run --bogus $BUSYBOX 2>&-")
        .output()
        .expect(125);
    bash(&bench, "$MINI --help > /dev/full")
        .output()
        .expect(125);
    bash(&bench, "$MINI run --dry-run $BUSYBOX > /dev/full")
        .output()
        .expect(125);
    bash(&bench, "$MINI run --trace $BUSYBOX -- true 2> /dev/full")
        .output()
        .expect(0);
}

#[test]
fn a_command_that_closes_its_output_gives_its_reader_the_end() {
    let Some(bench) = Bench::new("mute") else {
        return;
    };
    for options in [&[][..], &["--no-init"], &["-i"]] {
        let mut running = bench.guest(options, &["mute", "3"]).start();
        running.until("last words\n");
        assert!(
            running.output_ends_within(Duration::from_secs(1)),
            "{options:?}: something holds the pipe open"
        );
        assert!(
            running.child.try_wait().unwrap().is_none(),
            "{options:?}: it ended too early"
        );
        running.wait().expect(0);
    }
    let mut running = bench.mini(&["init", "--", guest(), "mute", "3"]).start();
    running.until("last words\n");
    assert!(
        running.output_ends_within(Duration::from_secs(1)),
        "mini init holds the pipe open"
    );
    running.wait().expect(0);
}

#[test]
fn a_writer_notices_that_the_command_reads_no_more() {
    let Some(bench) = Bench::new("reader") else {
        return;
    };
    // The command closes its input: `yes` must die of SIGPIPE while the command still runs.
    let script = "exec 2>&1; { yes; echo yes ended >&2; } | $MINI run $BUSYBOX -- sh -c 'exec < /dev/null; sleep 2; echo done'";
    let mut running = bash(&bench, script).start();
    running.until("yes ended");
    assert!(
        !running.until("yes ended").contains("done"),
        "only at the very end"
    );
    running.wait();
}

#[test]
fn the_root_file_system_can_come_from_standard_input() {
    let Some(bench) = Bench::new("stdin") else {
        return;
    };
    let archive = fs::read(bench.busybox()).unwrap();
    let run = |bytes: Vec<u8>, options: &[&str]| {
        let run = bench.mini(&["run"]).args(options).args(&[
            "-",
            "--",
            "sh",
            "-c",
            "cat; echo inside; exit 3",
        ]);
        run.input(bytes).limit(20).output()
    };
    // The command's own input is empty then.
    assert_eq!(run(archive.clone(), &[]).expect(3).stdout, "inside\n");
    assert_eq!(run(archive.clone(), &["-i"]).expect(3).stdout, "inside\n");
    let cut = run(archive[..100_000].to_vec(), &[]).one_line(125);
    assert!(cut.starts_with("unpack(\"-\"): "), "{cut}");
    let empty = run(Vec::new(), &[]).one_line(125);
    assert!(empty.starts_with("unpack(\"-\"): "), "{empty}");
    if !is_core() && have_program("gzip") {
        let text = bash(&bench, "gzip -c $BUSYBOX | $MINI run - -- echo inside")
            .output()
            .ok();
        assert_eq!(text, "inside\n");
        bash(
            &bench,
            "gzip -c $BUSYBOX > b.tgz; $MINI run b.tgz -- echo inside",
        )
        .output()
        .ok();
    }
}

#[test]
fn without_a_decompressor_gzip_is_named() {
    let Some(bench) = Bench::new("nogzip") else {
        return;
    };
    if is_core() && have_program("gzip") {
        let line = bash(
            &bench,
            "gzip -c $BUSYBOX > b.tgz; $MINI run b.tgz -- echo inside",
        )
        .output()
        .one_line(125);
        assert!(line.contains("gzip"), "{line}");
    }
}

#[test]
fn a_slow_archive_can_be_interrupted() {
    let Some(bench) = Bench::new("interrupt") else {
        return;
    };
    let archive = fs::read(bench.busybox()).unwrap();
    for signal in [2, 15, 1] {
        let mut run = bench.mini(&["run", "-", "--", "true"]).limit(10);
        run.command.stdin(Stdio::piped());
        let mut running = run.start();
        let mut stdin = running.child.stdin.take().unwrap();
        stdin.write_all(&archive[..50_000]).unwrap();
        sleep(Duration::from_millis(100));
        running.kill(signal);
        let output = running.wait();
        assert!(
            output.status == 125 || output.status == 128 + signal,
            "signal {signal}: {output:?}"
        );
        drop(stdin);
        bench.assert_nothing_left();
    }
}

#[test]
fn a_signal_that_would_be_ignored_does_not_end_the_unpacking() {
    let Some(bench) = Bench::new("harmless") else {
        return;
    };
    let archive = fs::read(bench.busybox()).unwrap();
    // SIGCHLD, SIGCONT, SIGURG, SIGWINCH: the caller's window may change while a large image is unpacked.
    for signal in [17, 18, 23, 28] {
        let mut run = bench.mini(&["run", "-", "--", "echo", "ran"]).limit(10);
        run.command.stdin(Stdio::piped());
        let mut running = run.start();
        let mut stdin = running.child.stdin.take().unwrap();
        stdin.write_all(&archive[..50_000]).unwrap();
        sleep(Duration::from_millis(50));
        running.kill(signal);
        sleep(Duration::from_millis(50));
        // mini may be gone by now.
        let _ = stdin.write_all(&archive[50_000..]);
        drop(stdin);
        let output = running.wait();
        assert_eq!(
            (output.status, output.stdout.as_str()),
            (0, "ran\n"),
            "signal {signal}: {}",
            output.stderr
        );
    }
}

/// The processor time of a process in milliseconds.
fn cpu(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000_000
}

#[test]
fn waiting_costs_no_processor_time() {
    let Some(bench) = Bench::new("idle") else {
        return;
    };
    let mut all = Vec::new();
    for options in [&[][..], &["-i"], &["-t"], &["-i", "-t"], &["--no-init"]] {
        for input in ["null", "open", "ended"] {
            let mut run = bench.run(options, &["sh", "-c", "echo ready; exec sleep 1000"]);
            if input != "null" {
                run.command.stdin(Stdio::piped());
            }
            let mut running = run.start();
            let stdin = running.child.stdin.take().filter(|_| input == "open");
            running.until("ready");
            let before = cpu(running.pid());
            all.push((
                running,
                stdin,
                before,
                format!("{options:?} with {input} input"),
            ));
        }
    }
    // One whose reader has gone, and one that says something nobody reads.
    sleep(Duration::from_secs(2));
    for (running, _, before, what) in &all {
        let spent = cpu(running.pid()) - before;
        assert!(spent < 100, "{what}: {spent} ms in 2 s");
    }
    // The processes inside as well.
    let inside = bench
        .processes()
        .into_iter()
        .filter(|pid| cpu(*pid) > 500)
        .collect::<Vec<_>>();
    assert_eq!(inside, Vec::<i32>::new());
    for (running, ..) in all {
        running.kill(9);
        running.wait();
    }
    // Dead owners' directories are removed by the next one.
    bench.run(&[], &["true"]).output().ok();
}

#[test]
fn a_terminal_is_written_to_and_read_from_at_the_same_time() {
    let Some(bench) = Bench::new("bothways") else {
        return;
    };
    // A write that waits for room in the pty must not keep its output from being read, nor signals.
    let script = "yes abcdefg | head -20000 | $MINI run -t $BUSYBOX -- cat | wc -c";
    // pipefail: `yes` has ended by SIGPIPE.
    let count = bash(&bench, script).output().expect(141).stdout;
    // The input, echoed, and the output of cat.
    assert!(
        count.trim().parse::<usize>().unwrap() > 20_000 * 9,
        "{count}"
    );
    let script = "yes | $MINI run -t $BUSYBOX -- sleep 1; echo ${PIPESTATUS[1]}";
    let text = bash(&bench, script).output().expect(0).stdout;
    assert!(text.trim_end().ends_with('0'), "{text}");
}
