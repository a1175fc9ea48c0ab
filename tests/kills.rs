//! Five hundred times SIGKILL at a random moment, beside a process that keeps a processor busy: of supervisors, of the
//! containers' first processes, of those that start containers again, of `mini run -d`, of `mini exec` and of the commands
//! that clean up. After each `mini ps` says what really runs, which is told by the commands' own processes; a name is free
//! as soon as nobody has it; in the end nothing is left.

mod support;
use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::{Bench, Run, is_core, kill};

const KILLS: u32 = 500;
/// Containers that there are at a time, each with a name of its own; the last ones are started again when they end.
const SLOTS: u64 = 8;
const RESTARTED: u64 = 6;
/// The number of what `mini exec` runs.
const GUEST: u64 = 99;
const LIMIT: Duration = Duration::from_secs(300);

struct Test<'a> {
    bench: &'a Bench,
    /// The state of a xorshift generator.
    random: u64,
    seed: u64,
}

/// Seconds that a slot's command sleeps: no other process has this argument.
fn seconds(slot: u64) -> String {
    format!("{}{slot:02}", 10_000_000 + std::process::id())
}

fn name(slot: u64) -> String {
    format!("s{slot}")
}

/// The slots whose commands are there, told by their arguments. A zombie has none.
fn running() -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let prefix = format!("sleep\0{}", 10_000_000 + std::process::id()).into_bytes();
    let numbers = lines.filter_map(|line| {
        let number = line.strip_prefix(&prefix[..])?.strip_suffix(b"\0")?;
        std::str::from_utf8(number).ok()?.parse().ok()
    });
    numbers.collect()
}

impl Test<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    /// Waits up to so many milliseconds.
    fn pause(&mut self, milliseconds: u64) {
        let time = self.below(milliseconds * 1000);
        sleep(Duration::from_micros(time));
    }

    fn mini(&self, words: &[&str]) -> Run {
        self.bench.mini(words).limit(30)
    }

    fn start(&self, slot: u64) -> Run {
        let (name, seconds) = (name(slot), seconds(slot));
        let mut options = vec!["-d", "--name", &name];
        // Of some nothing stays, others write to the disk, and are started again.
        if slot >= RESTARTED {
            options.extend(["--restart", "always"]);
        } else if slot % 2 == 1 {
            options.push("--rm");
        }
        self.bench.run(&options, &["sleep", &seconds]).limit(30)
    }

    /// What `mini ps` says is running, by slots.
    #[track_caller]
    fn listed(&self) -> BTreeSet<u64> {
        let table = self
            .mini(&["ps", "--filter", "status=running"])
            .output()
            .ok();
        let slot = |line: &str| {
            let name = line.split_whitespace().nth(1)?.strip_prefix('s')?;
            name.parse().ok()
        };
        table
            .lines()
            .skip(1)
            .map(|line| slot(line).unwrap())
            .collect()
    }

    /// Waits until what `mini ps` says is what runs, before and after it was asked.
    #[track_caller]
    fn check(&self, after: &str) -> BTreeSet<u64> {
        let begun = Instant::now();
        loop {
            // One whose caller was killed is still on its way.
            let starting = ["ps", "-q", "--filter", "status=starting"];
            let starting = self.mini(&starting).output().ok();
            let (before, listed, now) = (running(), self.listed(), running());
            if before == now && listed == now && starting.is_empty() {
                return now;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{after}: {now:?} run, listed are {listed:?}; seed {}\n{}",
                self.seed,
                self.mini(&["ps", "-a"]).output().stdout
            );
            sleep(Duration::from_millis(5));
        }
    }

    /// A process of a container by its key in the record, if that is still one of mini's.
    fn process(&self, slot: u64, key: &str) -> Option<i32> {
        let filter = format!("name={}", name(slot));
        let ids = self.mini(&["ps", "-q", "--filter", &filter]).output().ok();
        let record = self
            .bench
            .path("run/running")
            .join(ids.trim_end())
            .join("record");
        let text = fs::read_to_string(record).ok()?;
        let value = |key: &str| {
            let mut lines = text.lines();
            let found = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            found.and_then(|pid| pid.parse::<i32>().ok())
        };
        let (pid, supervisor) = (value(key)?, value("supervisor")?);
        // Its environment names the directory of this test; that of init, its child, is gone.
        let environment = fs::read(format!("/proc/{supervisor}/environ")).ok()?;
        let mark = self.bench.text("run").into_bytes();
        let ours = environment.windows(mark.len()).any(|part| part == mark);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        let child = key != "pid" || parent == supervisor.to_string();
        (ours && child).then_some(pid)
    }
}

#[test]
fn five_hundred_kills_at_random_moments() {
    // The core has none of these commands.
    let Some(bench) = Bench::new("kills").filter(|_| !is_core()) else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = now.as_nanos() as u64 | 1;
    eprintln!("seed {seed}");
    let (bench, random) = (&bench, seed);
    let mut test = Test {
        bench,
        random,
        seed,
    };
    let _load = Run::new("sh").args(&["-c", "while :; do :; done"]).start();
    let begun = Instant::now();
    let (mut kills, mut of) = (0, [0; 7]);
    let (mut runs, mut asked) = (BTreeSet::new(), None);
    while kills < KILLS && begun.elapsed() < LIMIT {
        // What has ended is there again under its name. One that is being restarted has it still; so has, soon, one whose
        // caller was killed while it was being made.
        for slot in (0..SLOTS).filter(|slot| !runs.contains(slot)) {
            let output = test.start(slot).output();
            let may_be = slot >= RESTARTED || asked == Some(slot);
            let taken = may_be && output.stderr.contains(" has it (");
            assert!(output.status == 0 || taken, "{output:?}; seed {seed}");
            if asked == Some(slot) {
                asked = None;
            }
        }
        let kind = test.below(of.len() as u64) as usize;
        let slot = test.below(if kind == 2 { 2 } else { SLOTS });
        let what = match kind {
            0 => "supervisor",
            1 => "pid",
            2 => "keeper",
            _ => "",
        };
        match kind {
            0..=2 => {
                let slot = if kind == 2 { RESTARTED + slot } else { slot };
                let found = test.process(slot, what);
                test.pause(3);
                let Some(pid) = found else {
                    // It is being started again just now.
                    runs = test.check("start");
                    continue;
                };
                kill(pid, 9);
            }
            3 | 4 => {
                let (name, seconds) = (name(slot), seconds(GUEST));
                let tty: &[&str] = if kind == 3 { &[] } else { &["-t"] };
                let words = [&["exec"], tty, &[&name, "sleep", &seconds]].concat();
                let exec = test.mini(&words).start();
                test.pause(20);
                exec.kill(9);
                exec.wait();
            }
            5 => {
                // The container may come to be or not; whoever asked for it will not know.
                let slot = slot % RESTARTED;
                test.mini(&["rm", "-f", &name(slot)]).output();
                let caller = test.start(slot).start();
                test.pause(30);
                caller.kill(9);
                caller.wait();
                asked = Some(slot);
            }
            _ => {
                let name = name(slot);
                let words: [&[&str]; 4] = [
                    &["rm", "-f", &name],
                    &["stop", &name],
                    &["ps", "-a"],
                    &["prune"],
                ];
                let which = test.below(4) as usize;
                let command = test.mini(words[which]).start();
                test.pause(15);
                command.kill(9);
                command.wait();
            }
        }
        (kills, of[kind]) = (kills + 1, of[kind] + 1);
        runs = test.check(
            [
                "supervisor",
                "init",
                "keeper",
                "exec",
                "exec -t",
                "run -d",
                "command",
            ][kind],
        );
    }
    eprintln!(
        "{kills} kills in {:.1} s: supervisors {}, init {}, keepers {}, exec {}, exec -t {}, run -d {}, others {}",
        begun.elapsed().as_secs_f64(),
        of[0],
        of[1],
        of[2],
        of[3],
        of[4],
        of[5],
        of[6]
    );
    assert!(kills > KILLS / 4, "only {kills} in {LIMIT:?}");
    let all = test.mini(&["ps", "-q"]).output().ok();
    let all: Vec<&str> = all.lines().collect();
    test.mini(&[&["rm", "-f"], &all[..]].concat()).output().ok();
    test.mini(&["prune"]).output().expect(0);
    assert_eq!(test.mini(&["ps", "-aq"]).output().ok(), "", "seed {seed}");
    assert_eq!(running(), BTreeSet::new(), "seed {seed}");
    bench.assert_nothing_left_but(&[]);
}
