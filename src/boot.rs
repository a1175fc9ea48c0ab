//! Boot files: a line per container, each the arguments of a `mini run`; run by `mini up FILE`, and by the machine's PID 1
//! (`machine.rs`). Entries: [`read`], then [`run`]. rt_sigtimedwait(2), waitpid(2).
//!
//!     # words as in a shell: quotes, backslash, # begins a comment; nothing is expanded
//!     --name web --restart always -v /data:/srv  /images/web.tar
//!     --restart on-failure:3  /images/once.tar  -- sh -c 'prepare && check'
//!
//! Each line is a process, `mini run` itself, so a container has the same supervisor here as anywhere. This process only
//! starts them, waits, and starts again; it learns everything from signals. `--restart` is done after 100 ms, then 200 ms,
//! twice as long each time up to a minute; a container that ran for ten seconds begins anew with 100 ms.
//!
//! Stopping: the last line first, and the next one up when that has ended. A container gets its stop signal, and is killed
//! if it has not ended within `--stop-timeout` seconds. A second request kills at once.
//!
//! `--net bridge` is a bridge of the file's own here, on which its containers know each other by name: that of /etc/web.boot is
//! `--net bridge:web`.
//!
//! Left out: waiting for one another. A line that needs another one's service fails until that is there, and restarts.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use linux_raw_sys::general as raw;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, wait};

use container::init::ENDING;
use container::step::{Command, Step};
use container::sys::{self, SignalSet};

use crate::cli;
use crate::error::{Error, Result, error, path as show, say};
use crate::plan::words;
use crate::run::exit_status;
use crate::spawn::Launch;
use crate::spec::Restart;

/// One container of a boot file.
#[derive(Debug)]
pub struct Line {
    /// What messages call it.
    pub name: String,
    /// The arguments of its `mini run`: without those of its restart and its stop.
    pub words: Vec<Vec<u8>>,
    pub restart: Restart,
    /// Seconds.
    pub stop_timeout: u32,
    /// Whether it asks for the terminal (`-i` or `-t`).
    pub interactive: bool,
}

/// The lines of a file, or what is wrong with each.
pub fn read(file: &Path) -> Result<Vec<Result<Line>>> {
    let bytes = file.as_os_str().as_bytes();
    let text = std::fs::read(file).map_err(|error| Error::io("open", bytes, error))?;
    let bridge = bridge_of(file);
    let parse = |(number, words): (usize, Result<_>)| {
        let name = format!("{} line {number}", show(file));
        words
            .and_then(|words| line(name.clone(), words, &bridge))
            .map_err(|error| error!("{name}: {error}"))
    };
    Ok(split(&text).into_iter().map(parse).collect())
}

/// The name of a file's bridge: the beginning of its own, as far as that can be one.
fn bridge_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let good = |c: &char| c.is_ascii_alphanumeric() || "_.-".contains(*c);
    let name: String = stem.chars().filter(good).take(10).collect();
    match name.is_empty() {
        true => "up".into(),
        false => name,
    }
}

/// A line from its words. `bridge` is the name of the bridge that the lines have in common.
pub fn line(name: String, words: Vec<Vec<u8>>, bridge: &str) -> Result<Line> {
    let (spec, words) = cli::line(words, bridge)?;
    Ok(Line {
        name,
        words,
        restart: spec.restart,
        stop_timeout: spec.stop_timeout.unwrap_or(STOP_TIMEOUT),
        interactive: spec.interactive || spec.tty,
    })
}

/// The words of each line that has any, with its number, from 1; a backslash at its end joins a line with the next one.
pub fn split(text: &[u8]) -> Vec<(usize, Result<Vec<Vec<u8>>>)> {
    let (mut lines, mut number) = (Vec::new(), 1);
    let mut bytes = text.iter().copied().peekable();
    while bytes.peek().is_some() {
        let first = number;
        let (mut words, mut word, mut quote, mut wrong) = (Vec::new(), None, None, None);
        loop {
            let byte = bytes.next();
            match (byte, quote) {
                (None | Some(b'\n'), quote) => {
                    number += 1;
                    if quote.is_some() {
                        wrong = Some("a quote is not closed");
                    }
                    break;
                }
                (Some(0), _) => wrong = Some("a zero byte"),
                (Some(byte), Some(open)) if byte == open => quote = None,
                (Some(b'\\'), None | Some(b'"')) => match bytes.next() {
                    Some(b'\n') => number += 1,
                    Some(0) => wrong = Some("a zero byte"),
                    None => wrong = Some("nothing follows the backslash"),
                    Some(byte) => {
                        let word: &mut Vec<u8> = word.get_or_insert_default();
                        if quote.is_some() && !b"\"\\$`".contains(&byte) {
                            word.push(b'\\');
                        }
                        word.push(byte);
                    }
                },
                (Some(byte @ (b'\'' | b'"')), None) => {
                    quote = Some(byte);
                    word.get_or_insert_default();
                }
                (Some(b' ' | b'\t' | b'\r'), None) => words.extend(word.take()),
                (Some(b'#'), None) if word.is_none() => {
                    while bytes.peek().is_some_and(|byte| *byte != b'\n') {
                        bytes.next();
                    }
                }
                (Some(byte), _) => word.get_or_insert_default().push(byte),
            }
        }
        words.extend(word);
        match wrong {
            Some(wrong) => lines.push((first, Err(Error::new(wrong)))),
            None if words.is_empty() => {}
            None => lines.push((first, Ok(words))),
        }
    }
    lines
}

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;
const SHORTEST: u64 = SECOND / 10;
const LONGEST: u64 = 60 * SECOND;
/// Whoever runs for so long has started well.
const WELL: u64 = 10 * SECOND;
/// Seconds that a container has to end in, unless told otherwise.
pub const STOP_TIMEOUT: u32 = 10;

/// Something that is to run.
pub struct Job {
    name: String,
    launch: Launch,
    restart: Restart,
    /// Whether it is the file's only line.
    pub alone: bool,
    stop_timeout: u64,
    state: State,
    /// How long the next restart waits, and how many there were.
    delay: u64,
    restarts: u32,
    /// How often what it has started was killed, because it did not end when it was told to.
    kills: u32,
    /// The exit status it had last.
    pub status: u8,
}

/// Times are of CLOCK_MONOTONIC, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is started at this time.
    Waiting(u64),
    /// Since when; once it was told to stop, also when it is killed.
    Running(Pid, u64, Option<u64>),
    Ended,
}

/// Jobs for the lines, of which a file has so many. One of them has the caller's terminal, by the step `console` if there
/// is one: a line alone, or else the first with -i or -t. Standard input of the others is /dev/null.
pub fn jobs(lines: Vec<Line>, count: usize, console: Option<Step>) -> Vec<Job> {
    let alone = count == 1;
    let interactive = lines.iter().position(|line| alone || line.interactive);
    let job = |(index, line): (usize, Line)| {
        let mut arguments = vec![b"mini".to_vec(), b"run".to_vec()];
        if !alone {
            // Progress bars of several would be written over each other.
            arguments.push(b"--quiet".to_vec());
        }
        arguments.extend(line.words);
        let command = Command {
            name: c"mini",
            candidates: &[c"/proc/self/exe"],
            arguments: words(&arguments),
        };
        let steps = match Some(index) == interactive {
            true => console.iter().copied().collect(),
            // Ctrl-C of a terminal is not for it, or all would be stopped at once.
            false => vec![Step::Setsid, Step::Null(0)],
        };
        let mut job = Job::new(line.name, steps, command);
        (job.restart, job.alone) = (line.restart, alone);
        job.stop_timeout = u64::from(line.stop_timeout) * SECOND;
        job
    };
    lines.into_iter().enumerate().map(job).collect()
}

impl Job {
    /// A command that is run once, after these steps.
    pub fn new(name: String, steps: Vec<Step>, command: Command) -> Job {
        Job {
            name,
            // If mini is killed, the containers end in order.
            launch: Launch::new(steps, raw::SIGTERM as i32, command),
            restart: Restart::No,
            alone: true,
            stop_timeout: u64::from(STOP_TIMEOUT) * SECOND,
            state: State::Waiting(0),
            delay: SHORTEST,
            restarts: 0,
            kills: 0,
            status: 0,
        }
    }

    fn start(&mut self, now: u64) {
        match self.launch.start() {
            Ok(pid) => self.state = State::Running(pid, now, None),
            Err(error) => {
                say(&format!("mini: {}: {error}\n", self.name));
                self.ended(error.status(), now, now);
            }
        }
    }

    /// It has ended with `status`, having been started at `since`.
    fn ended(&mut self, status: u8, since: u64, now: u64) {
        self.status = status;
        self.state = State::Ended;
        let again = self.restart.again(status, self.restarts);
        if !again && status == 0 {
            return;
        }
        let mut then = String::new();
        if again {
            self.delay = next_delay(self.delay, self.restarts, now - since);
            self.restarts = self.restarts.saturating_add(1);
            self.state = State::Waiting(now + self.delay);
            then = format!(", again in {} ms", self.delay / 1_000_000);
        }
        say(&format!(
            "mini: {}: exit status {status}{then}\n",
            self.name
        ));
    }

    /// Tells it to stop, and kills it when its time is up.
    fn stop(&mut self, now: u64) {
        let State::Running(pid, since, deadline) = self.state else {
            return;
        };
        // It cannot be gone: it has not been waited for.
        let number = pid.as_raw_pid();
        let next = match deadline {
            None => {
                let _ = sys::kill(number, raw::SIGTERM as i32);
                now + self.stop_timeout
            }
            Some(deadline) if deadline > now => return,
            // It waits for what the kernel does not give, such as a dead disk.
            Some(_) if self.kills > 5 => {
                say(&format!("mini: {}: does not end; left behind\n", self.name));
                self.state = State::Ended;
                return;
            }
            Some(_) => {
                // The container, so that its supervisor can clean up; if that has not helped, the supervisor.
                if self.kills > 0 || !kill_children(number) {
                    let _ = sys::kill(number, raw::SIGKILL as i32);
                }
                self.kills += 1;
                now + SECOND
            }
        };
        self.state = State::Running(pid, since, Some(next));
    }
}

/// Kills the children of a process; returns whether there was one. proc(5), /proc/PID/task/TID/children.
fn kill_children(parent: i32) -> bool {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = || crate::proc::read(&path).unwrap_or_default();
    let kill = |child: &str| {
        let pid = Pid::from_raw(child.parse().ok()?)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            // The number may be another process's by now; not so that of one that is a child still.
            Ok(process) if children().split(' ').any(|other| other == child) => {
                pidfd_send_signal(process, Signal::KILL).ok()
            }
            // Linux before 5.3, or a filter around mini.
            Err(Errno::NOSYS | Errno::PERM) => {
                sys::kill(pid.as_raw_pid(), raw::SIGKILL as i32).ok()
            }
            _ => None,
        }
    };
    children().split(' ').filter_map(kill).count() > 0
}

/// How long to wait after a run of `ran`, when the last wait was `delay`.
pub fn next_delay(delay: u64, restarts: u32, ran: u64) -> u64 {
    match restarts == 0 || ran >= WELL {
        true => SHORTEST,
        false => (delay * 2).min(LONGEST),
    }
}

/// Runs the jobs until all have ended, reaping whatever else ends. One of the signals of `ending` stops them, the last one
/// first. Returns that signal, and the exit status of the first job that failed without having been told to stop.
pub fn run(jobs: &mut [Job], ending: SignalSet) -> (Option<i32>, u8) {
    const CHILD: SignalSet = 1 << (raw::SIGCHLD - 1);
    let (mut stop, mut failure) = (None, 0);
    sys::default_signal(raw::SIGCHLD);
    sys::set_signal_mask(ending | CHILD);
    loop {
        let now = sys::clock(raw::CLOCK_MONOTONIC);
        let mut next = None;
        for job in jobs.iter_mut().rev() {
            match job.state {
                State::Waiting(_) if stop.is_some() => job.state = State::Ended,
                State::Running(..) if stop.is_some() && next.is_none() => job.stop(now),
                _ => {}
            }
            let due = match job.state {
                State::Waiting(due) | State::Running(_, _, Some(due)) => due,
                State::Running(_, _, None) => u64::MAX,
                State::Ended => continue,
            };
            next = Some(next.unwrap_or(u64::MAX).min(due));
        }
        let Some(next) = next else {
            return (stop, failure);
        };
        let due = |job: &&mut Job| matches!(job.state, State::Waiting(due) if due <= now);
        if let Some(job) = jobs.iter_mut().find(due) {
            job.start(now);
            note(job, &mut failure);
            continue;
        }
        let timeout = (next != u64::MAX).then(|| next.saturating_sub(now));
        match sys::wait_signal(ending | CHILD, timeout) {
            Ok(signal) if signal as u32 != raw::SIGCHLD => {
                for job in jobs.iter_mut().filter(|_| stop.is_some()) {
                    job.stop_timeout = 0;
                    if let State::Running(.., Some(deadline)) = &mut job.state {
                        *deadline = (*deadline).min(now);
                    }
                }
                stop.get_or_insert(signal);
            }
            // A child, or the time is up.
            _ => {}
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let now = sys::clock(raw::CLOCK_MONOTONIC);
            for job in jobs.iter_mut() {
                match job.state {
                    State::Running(own, since, None) if own == pid && stop.is_none() => {
                        job.ended(exit_status(status), since, now);
                        note(job, &mut failure);
                    }
                    State::Running(own, ..) if own == pid => job.state = State::Ended,
                    _ => {}
                }
            }
        }
    }
}

/// Notes the first failure.
fn note(job: &Job, failure: &mut u8) {
    if job.state == State::Ended && *failure == 0 {
        *failure = job.status;
    }
}

/// `mini up FILE`: nothing is started unless every line can be parsed.
pub fn up(file: &Path) -> Result<u8> {
    let lines = read(file)?.into_iter().collect::<Result<Vec<Line>>>()?;
    if lines.is_empty() {
        return Err(error!("{}: no line in it", show(file)));
    }
    let ending = ENDING & !sys::ignored(ENDING);
    let count = lines.len();
    let mut jobs = jobs(lines, count, None);
    Ok(run(&mut jobs, ending).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<(usize, String)> {
        let show = |words: Vec<Vec<u8>>| {
            let words: Vec<_> = words
                .iter()
                .map(|word| String::from_utf8_lossy(word))
                .collect();
            words.join("|")
        };
        let line = |(number, words): (usize, Result<_>)| {
            (
                number,
                words.map_or_else(|error| format!("! {error}"), show),
            )
        };
        split(text.as_bytes()).into_iter().map(line).collect()
    }

    #[test]
    fn words_are_those_of_a_shell() {
        for (text, expected) in [
            ("a b\tc\r", "a|b|c"),
            ("'a b' \"c d\"e'f' ''", "a b|c def|"),
            (r#"a\ b \# \\ "\a\"\\\$" '\'"#, r#"a b|#|\|\a"\$|\"#),
            ("a#b # c 'd", "a#b"),
            ("$HOME *", "$HOME|*"),
            ("'a", "! a quote is not closed"),
            ("a\\", "! nothing follows the backslash"),
            ("a\0", "! a zero byte"),
            ("a\\\0", "! a zero byte"),
        ] {
            assert_eq!(words(text), [(1, expected.to_owned())], "{text}");
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = "# a comment\n\na b\n 'open\nc \\\n d 'e\\f'\n  \nlast";
        let expected = [
            (3, "a|b"),
            (4, "! a quote is not closed"),
            (5, "c|d|e\\f"),
            (8, "last"),
        ];
        assert_eq!(
            words(text),
            expected.map(|(number, text)| (number, text.to_owned()))
        );
        assert!(words("").is_empty() && words("\n#\n").is_empty());
    }

    fn parse(text: &str) -> Result<Line> {
        let (_, words) = split(text.as_bytes()).remove(0);
        line("x".into(), words?, "file")
    }

    #[test]
    fn a_line_is_the_arguments_of_run() {
        let found =
            parse("--restart=on-failure:3 -it -e A=B --stop-timeout 5 x.tar -- sh -c --").unwrap();
        assert_eq!(found.restart, Restart::OnFailure(Some(3)));
        assert_eq!((found.stop_timeout, found.interactive), (5, true));
        // What is left is for `mini run`.
        let words = [
            "-i",
            "-t",
            "-e",
            "A=B",
            "--stop-timeout",
            "5",
            "--",
            "x.tar",
            "--",
            "sh",
            "-c",
            "--",
        ];
        assert_eq!(found.words, words.map(|word| word.as_bytes().to_vec()));
        let found = parse("-e --restart --env-file /none --seccomp /none x --restart y").unwrap();
        let words = "-e --restart --env-file /none --seccomp /none -- x --restart y";
        assert_eq!(found.words.join(&b' '), words.as_bytes());
        #[cfg(feature = "net")]
        for (text, expected) in [
            ("--net bridge -i x", "--net=bridge:file -i -- x"),
            ("--net=bridge:y x", "--net bridge:y -- x"),
            ("-e --net x bridge", "-e --net -- x bridge"),
        ] {
            let words = parse(text).unwrap().words.join(&b' ');
            assert_eq!(words, expected.as_bytes(), "{text}");
        }
        assert_eq!(bridge_of(Path::new("/etc/my web!.boot")), "myweb");
        assert_eq!(bridge_of(Path::new("/a/0123456789abc.x")), "0123456789");
        assert_eq!(bridge_of(Path::new("/a/ü.boot")), "up");
        let found = parse("--restart always -- -x").unwrap();
        assert_eq!((found.restart, found.stop_timeout), (Restart::Always, 10));
        assert!(!found.interactive && found.words == [&b"--"[..], b"-x"]);
        for (bad, why) in [
            (
                "--restart x y",
                "--restart \"x\": not no, always or on-failure[:N]",
            ),
            (
                "--restart on-failure:-1 y",
                "--restart \"on-failure:-1\": not",
            ),
            (
                "--stop-timeout 1s y",
                "--stop-timeout \"1s\": not a number of seconds",
            ),
            ("--net x y", "--net \"x\": not host or none"),
            ("--restart", "No value provided for option '--restart'"),
            ("--help", "--help: not in a boot file"),
            ("--rm", "Required positional arguments not provided: ROOTFS"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.starts_with(why), "{bad}: {error}");
        }
    }

    #[test]
    fn restarts_wait_longer_each_time_until_one_has_run_well() {
        let (mut delay, mut delays) = (0, Vec::new());
        for restarts in 0..12 {
            delay = next_delay(delay, restarts, SECOND);
            delays.push(delay / 1_000_000);
        }
        let expected = [
            100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000,
        ];
        assert_eq!(delays, expected);
        assert_eq!(next_delay(delay, 12, WELL), SHORTEST);
    }
}
