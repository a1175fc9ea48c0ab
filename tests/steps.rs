//! Forty ordinary steps with containers in the background, one after the other as a person would type them: as root, and
//! as an ordinary user with a single id.

mod support;
use std::os::unix::fs::chown;
use std::thread::sleep;
use std::time::Duration;

use support::{Bench, Output, Run, eventually, have, have_program, is_core, mini};

/// Types commands as somebody.
struct Person<'a> {
    bench: &'a Bench,
    /// Of an ordinary user; root if there is none.
    user: Option<u32>,
    steps: u32,
}

impl Person<'_> {
    fn mini(&self, words: &[&str]) -> Run {
        let mini = mini();
        let mini = mini.to_str().unwrap();
        let Some(user) = self.user else {
            return self.bench.mini(words);
        };
        let id = user.to_string();
        let setpriv = ["--reuid", &id, "--regid", &id, "--clear-groups"];
        let run = self.bench.program("setpriv").args(&setpriv);
        run.args(&["env", "PATH=/nowhere", mini]).args(words)
    }

    fn output(&self, words: &[&str]) -> Output {
        self.mini(words).output()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.output(words).ok()
    }

    /// `mini run -d OPTIONS busybox.tar -- sh -c SCRIPT`; the id.
    #[track_caller]
    fn detach(&self, options: &[&str], script: &str) -> String {
        let image = [self.bench.busybox(), "--", "sh", "-c", script];
        let line = self.ok(&[&["run", "-d"], options, &image].concat());
        let id = line.trim_end().to_owned();
        assert!(line.len() == 13 && id.bytes().all(|it| it.is_ascii_hexdigit()));
        id
    }

    /// The next step, for whoever reads what has failed.
    fn step(&mut self, number: u32, what: &str) {
        self.steps += 1;
        assert_eq!(self.steps, number);
        eprintln!("step {number}: {what}");
    }

    /// What `mini ps -a` says of a container.
    #[track_caller]
    fn status(&self, id: &str) -> String {
        let json = self.ok(&["ps", "-a", "--json"]);
        let Some((_, of_it)) = json.split_once(&format!("{{\"id\":\"{id}\"")) else {
            return "gone".into();
        };
        let (_, status) = of_it.split_once("\"status\":\"").unwrap();
        status.split('"').next().unwrap().to_owned()
    }
}

/// Says what it reads from a fifo, and which signals it gets; ends with 5 when told to by SIGTERM.
const WEB: &str = "trap 'echo usr1' USR1; trap 'exit 5' TERM; mkfifo /tmp/in; exec 3<>/tmp/in; echo ready; echo warned >&2
    while :; do read line <&3 && echo got $line; done";
/// Counts in a file.
const JOB: &str = "n=0; while :; do n=$((n+1)); echo $n > /tmp/n; sleep 0.02; done";

fn forty_steps(it: &mut Person) {
    it.step(1, "nothing runs");
    assert_eq!(it.ok(&["ps", "-aq"]), "");

    it.step(2, "run three containers in the background");
    let web = it.detach(&["--name", "web", "--label", "tier=front"], WEB);
    let job = it.detach(&["--name", "job", "--label", "tier=back"], JOB);
    let third = it.detach(&["--label", "spare"], "echo only this; sleep 1000");

    it.step(3, "ps -q has all three");
    let mut ids = [web.as_str(), &job, &third];
    ids.sort();
    assert_eq!(
        it.ok(&["ps", "-q"]),
        ids.map(|id| format!("{id}\n")).concat()
    );

    it.step(4, "ps as a table");
    let table = it.ok(&["ps"]);
    let row = table.lines().find(|line| line.starts_with(&web)).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[1..4], ["web", it.bench.busybox(), "sh"]);
    assert!(row.contains(" running "), "{row}");
    assert_eq!(table.lines().count(), 4);

    it.step(5, "ps as JSON");
    let json = it.ok(&["ps", "--json"]);
    assert!(json.contains(&format!("{{\"id\":\"{web}\",\"name\":\"web\",\"image\":")));
    assert!(json.contains(&format!("{{\"id\":\"{third}\",\"name\":null,\"image\":")));
    assert_eq!(json.matches("\"status\":\"running\"").count(), 3, "{json}");

    it.step(6, "ps of one name");
    assert_eq!(
        it.ok(&["ps", "-q", "--filter", "name=web"]),
        format!("{web}\n")
    );

    it.step(7, "ps of a label, with and without its value");
    assert_eq!(
        it.ok(&["ps", "-q", "--filter", "label=tier"])
            .lines()
            .count(),
        2
    );
    let back = it.ok(&["ps", "-q", "--filter", "label=tier=back"]);
    assert_eq!(back, format!("{job}\n"));

    it.step(8, "ps of a status");
    assert_eq!(it.ok(&["ps", "-aq", "--filter", "status=exited"]), "");
    assert_eq!(
        it.ok(&["ps", "-aq", "--filter", "status=running"])
            .lines()
            .count(),
        3
    );

    it.step(9, "a name that is in use is refused");
    let image = it.bench.busybox();
    let line = it
        .output(&["run", "-d", "--name", "web", image, "--", "true"])
        .one_line(125);
    let expected = format!("--name \"web\": container {web} has it (mini stop ends it)");
    assert_eq!(line, expected);

    it.step(10, "exec");
    assert_eq!(it.ok(&["exec", "web", "hostname"]), "web\n");

    it.step(
        11,
        "exec by the beginning of the id, with a status of its own",
    );
    it.output(&["exec", &third[..8], "sh", "-c", "exit 7"])
        .expect(7);

    it.step(12, "exec of what is not there");
    it.output(&["exec", "web", "/nope"])
        .fails(127, "execve(\"/nope\"): not found in the container");

    it.step(13, "exec without a terminal, and with one");
    it.output(&["exec", "web", "sh", "-c", "[ -t 0 ] || [ -t 1 ]"])
        .expect(1);
    let tty = it.ok(&[
        "exec",
        "-t",
        "web",
        "sh",
        "-c",
        "[ -t 0 ] && [ -t 1 ] && tty",
    ]);
    assert!(
        tty.starts_with("/dev/pts/") && tty.ends_with("\r\n"),
        "{tty:?}"
    );

    it.step(14, "exec with standard input");
    let run = it.mini(&["exec", "-i", "web", "cat"]).input("typed\n");
    assert_eq!(run.output().ok(), "typed\n");

    it.step(15, "exec with a variable and a working directory");
    let words = [
        "exec",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "web",
        "sh",
        "-c",
        "echo $A; pwd",
    ];
    assert_eq!(it.ok(&words), "b\n/tmp\n");

    it.step(16, "what one exec writes another one sees");
    it.ok(&["exec", "web", "sh", "-c", "echo kept > /file"]);
    assert_eq!(it.ok(&["exec", "web", "cat", "/file"]), "kept\n");

    it.step(17, "exec in the background");
    it.ok(&[
        "exec",
        "-d",
        "web",
        "sh",
        "-c",
        "sleep 0.1; echo done > /done",
    ]);
    assert!(eventually(|| it
        .output(&["exec", "web", "cat", "/done"])
        .stdout
        == "done\n"));

    it.step(18, "logs, each stream where it belongs");
    let said = |words: &[&str]| {
        let output = it.output(words).expect(0);
        (output.stdout, output.stderr)
    };
    assert_eq!(
        said(&["logs", "web"]),
        ("ready\n".into(), "warned\n".into())
    );

    it.step(19, "logs -f while it writes");
    let mut follow = it.mini(&["logs", "-f", "web"]).start();
    follow.until("ready\n");
    for word in ["one", "two", "three"] {
        let script = format!("echo {word} > /tmp/in");
        it.ok(&["exec", "web", "sh", "-c", &script]);
        follow.until(&format!("got {word}\n"));
    }

    it.step(20, "the end of the logs");
    assert_eq!(it.ok(&["logs", "--tail", "1", "web"]), "got three\n");
    assert_eq!(it.ok(&["logs", "-n", "2", "web"]), "got two\ngot three\n");

    it.step(21, "logs with times");
    let stamped = it.ok(&["logs", "-t", "--tail", "2", "web"]);
    let times: Vec<&str> = stamped
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert!(
        stamped.contains("Z got two\n") && times.len() == 2,
        "{stamped}"
    );

    it.step(22, "logs since one of them, and since a moment ago");
    assert_eq!(it.ok(&["logs", "--since", times[1], "web"]), "got three\n");
    sleep(Duration::from_millis(1100));
    assert_eq!(it.ok(&["logs", "--since", "1s", "web"]), "");

    it.step(23, "inspect");
    let json = it.ok(&["inspect", "web"]);
    for part in [
        format!("[{{\"id\":\"{web}\",\"name\":\"web\","),
        "\"labels\":[\"tier=front\"]".into(),
        "\"running\":true".into(),
    ] {
        assert!(json.contains(&part), "{part}: {json}");
    }

    it.step(24, "inspect for a person");
    let text = it.ok(&["inspect", "--explain", "web"]);
    assert!(text.starts_with(&format!("Container {web} has a record")) && text.contains("  $ "));

    it.step(25, "what they use");
    assert_eq!(it.ok(&["stats"]).lines().count(), 4);

    it.step(26, "pause");
    let paused = it.output(&["pause", "job"]);
    // An ordinary user has no cgroup here.
    let frozen = it.user.is_none() && paused.status == 0;
    match frozen {
        true => assert_eq!(it.status(&job), "paused"),
        false => assert!(
            paused
                .one_line(125)
                .contains("is in no cgroup that could be stopped")
        ),
    }

    it.step(27, "what is paused is found by that");
    let found = it.ok(&["ps", "-q", "--filter", "status=paused"]);
    assert_eq!(
        found,
        if frozen {
            format!("{job}\n")
        } else {
            String::new()
        }
    );

    it.step(28, "unpause");
    if frozen {
        it.ok(&["unpause", "job"]);
    }
    assert_eq!(it.status(&job), "running");
    let number = || it.output(&["exec", "job", "cat", "/tmp/n"]).stdout;
    let before = number();
    assert!(eventually(|| number() != before));

    it.step(29, "a signal for the command");
    it.ok(&["kill", "-s", "USR1", "web"]);
    follow.until("usr1\n");

    it.step(30, "one that runs cannot be removed");
    it.output(&["rm", "web"]).fails(
        125,
        &format!("container {web} is running (mini stop {web} ends it)"),
    );

    it.step(
        31,
        "wait for one, stop it: both say how it ended, and logs -f ends with it",
    );
    let waiting = it.mini(&["wait", "web"]).start();
    sleep(Duration::from_millis(100));
    it.ok(&["stop", "web"]);
    assert_eq!(waiting.wait().ok(), "5\n");
    assert_eq!(it.ok(&["wait", "web"]), "5\n");
    let followed = follow.wait().expect(0);
    assert_eq!(
        followed.stdout,
        "ready\ngot one\ngot two\ngot three\nusr1\n"
    );

    it.step(32, "ps has two, ps -a three");
    assert_eq!(it.ok(&["ps", "-q"]).lines().count(), 2);
    assert_eq!(it.ok(&["ps", "-aq"]).lines().count(), 3);
    assert_eq!(it.status(&web), "exited (5)");
    assert_eq!(
        it.ok(&["ps", "-aq", "--filter", "status=exited"]),
        format!("{web}\n")
    );

    it.step(33, "no exec in one that has ended, but its logs");
    let line = it.output(&["exec", "web", "true"]).one_line(125);
    assert!(line.starts_with("\"web\": no running container"), "{line}");
    assert_eq!(it.ok(&["logs", "-n", "1", "web"]), "usr1\n");

    it.step(34, "its name is free again, and means the one that runs");
    let again = it.detach(
        &["--name", "web"],
        "trap '' TERM; echo again; while :; do sleep 1; done",
    );
    assert!(eventually(|| it.ok(&["logs", "web"]) == "again\n"));
    assert_eq!(it.ok(&["logs", &web, "-n", "1"]), "usr1\n");

    it.step(35, "stop one that does not listen");
    it.ok(&["stop", "-t", "1", "web"]);
    assert_eq!(it.status(&again), "exited (137)");

    it.step(36, "kill ends a container");
    it.ok(&["kill", &third]);
    assert!(eventually(|| it.status(&third) == "exited (137)"));

    it.step(37, "rm removes those that have ended");
    it.ok(&["rm", "web", &third]);
    assert_eq!([it.status(&again), it.status(&third)], ["gone", "gone"]);
    it.output(&["rm", &third]).fails(
        125,
        &format!("\"{third}\": no container (mini ps -a lists all)"),
    );

    it.step(38, "one that fails is started again, twice");
    let script = "echo run; exit 6";
    let failing = it.detach(&["--restart", "on-failure:2"], script);
    assert_eq!(it.ok(&["wait", &failing]), "6\n");
    assert_eq!(it.ok(&["logs", &failing]), "run\nrun\nrun\n");

    it.step(
        39,
        "with --rm nothing is left, without it rm -f ends what runs",
    );
    let passing = it.detach(&["--rm"], "exit 0");
    assert!(eventually(|| it.status(&passing) == "gone"));
    it.ok(&["rm", "-f", "job"]);
    assert_eq!(it.status(&job), "gone");

    it.step(40, "prune removes the rest");
    let pruned = it.ok(&["prune"]);
    assert!(
        pruned.contains(&web) && pruned.contains(&failing),
        "{pruned}"
    );
    assert_eq!(it.ok(&["ps", "-aq"]), "");
    it.bench.assert_nothing_left_but(&[]);
}

/// The core has none of these commands.
fn bench(name: &str) -> Option<Bench> {
    if is_core() {
        return None;
    }
    Bench::new(name)
}

#[test]
fn forty_steps_as_root() {
    let Some(bench) = bench("steps") else { return };
    let (user, steps) = (None, 0);
    let mut root = Person {
        bench: &bench,
        user,
        steps,
    };
    forty_steps(&mut root);
    assert_eq!(root.steps, 40);
}

#[test]
fn forty_steps_as_an_ordinary_user() {
    let Some(bench) = bench("steps-user") else {
        return;
    };
    if !have_program("setpriv") {
        return;
    }
    chown(bench.path(""), Some(1000), Some(1000)).unwrap();
    let setpriv = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let run = Run::new("setpriv")
        .args(&setpriv)
        .args(&["unshare", "-Urm", "true"]);
    let reason = "user namespaces are not for ordinary users here";
    if !have("user", run.output().status == 0, reason) {
        return;
    }
    let (user, steps) = (Some(1000), 0);
    let mut person = Person {
        bench: &bench,
        user,
        steps,
    };
    forty_steps(&mut person);
    assert_eq!(person.steps, 40);
}
