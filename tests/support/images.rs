//! What the tests of images under names share: the store as it should be, and commands killed at any moment.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Bench, Run};

/// The names in a directory of the store, sorted; none if it is not there.
pub fn names(bench: &Bench, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(bench.path("store").join(directory));
    let mut names: Vec<String> = (entries.into_iter().flatten())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What the records say is there, and nothing else; each blob is what its name says. Returns the names of the images.
#[track_caller]
pub fn check(bench: &Bench) -> Vec<String> {
    let mut needed = BTreeSet::new();
    for name in names(bench, "images") {
        let record = fs::read_to_string(bench.path("store/images").join(&name)).unwrap();
        assert!(
            record.starts_with("mini image 1\n") && record.ends_with("\nend\n"),
            "{name}: {record}"
        );
        for line in record.lines() {
            let digest = line.split(' ').find(|word| word.starts_with("sha256:"));
            needed.extend(digest.map(|digest| digest.replace(':', "-")));
        }
    }
    assert_eq!(names(bench, "blobs"), Vec::from_iter(needed.clone()));
    for blob in needed {
        let path = bench.text(&format!("store/blobs/{blob}"));
        let output = Run::new("sha256sum").args(&[&path]).output().ok();
        assert_eq!(output[..64], blob["sha256-".len()..]);
    }
    names(bench, "images")
}

/// Removes the store, so that the bench finds nothing left.
pub fn finish(bench: &Bench) {
    fs::remove_dir_all(bench.path("store")).unwrap();
}

/// Numbers that look random (xorshift); another sequence each time, which is printed.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        eprintln!("seed {}", seed.as_nanos() as u64);
        Random(seed.as_nanos() as u64 | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Kills `arguments` at this many moments of the time they take, each time after `prepare`, and looks after the next
/// command.
pub fn killed(
    bench: &Bench,
    arguments: &[&str],
    moments: usize,
    prepare: impl Fn(),
    check: impl Fn(),
) {
    let mut random = Random::new();
    let mut whole = Duration::ZERO;
    for _ in 0..3 {
        prepare();
        let start = Instant::now();
        bench.mini(arguments).output().expect(0);
        whole = whole.max(start.elapsed());
    }
    for _ in 0..moments {
        prepare();
        let running = bench.mini(arguments).start();
        thread::sleep(Duration::from_nanos(random.below(whole.as_nanos() as u64)));
        running.kill(9);
        running.wait();
        bench.mini(&["images", "-q"]).output().ok();
        check();
    }
}
