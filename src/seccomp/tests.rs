//! The filter against a machine that runs it, and the policy against Docker's.

use std::collections::BTreeMap;

use container::sys::Instruction;
use linux_raw_sys::errno::{ENOSYS, EPERM};
use linux_raw_sys::{general, if_tun as bpf, ptrace as raw};

use super::bpf::{Comparison, Outcome, Policy, Test, assemble};
use super::*;

/// The eleven capabilities of a default container.
const CAPABILITIES: u64 = {
    let numbers = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31];
    let (mut set, mut index) = (0, 0);
    while index < numbers.len() {
        set |= 1 << numbers[index];
        index += 1;
    }
    set
};
/// Where the numbers of x32 begin.
const X32: u32 = 1 << 30;
const ALL: u64 = (1 << 41) - 1;
const KERNEL: (u32, u32) = (6, 18);
const AUDIT: u32 = calls::MACHINE.audit;

/// A call as the kernel shows it to a filter.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Call {
    number: u32,
    audit: u32,
    arguments: [u64; 6],
}

fn call(number: u32, arguments: [u64; 6]) -> Call {
    Call {
        number,
        audit: AUDIT,
        arguments,
    }
}

/// What the kernel demands (net/core/filter.c, kernel/seccomp.c), as far as mini's programs go: instructions that it
/// knows, jumps that stay inside, loads of whole words, an end that returns.
fn check(program: &[Instruction]) {
    assert!((1..=bpf::BPF_MAXINSNS as usize).contains(&program.len()));
    for (at, instruction) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        let Instruction { code, jt, jf, k } = *instruction;
        match u32::from(code) {
            0x20 => assert!(k.is_multiple_of(4) && k < 64 && left > 0),
            0x54 => assert!(left > 0),
            0x06 => assert_eq!((jt, jf), (0, 0)),
            0x05 => assert!((k as usize) < left),
            0x15 | 0x25 | 0x35 => assert!(usize::from(jt.max(jf)) < left),
            other => panic!("instruction {at}: {other:#x}"),
        }
    }
    assert_eq!(program.last().map(|last| last.code), Some(6));
}

fn run(program: &[Instruction], call: Call) -> u32 {
    let mut data = [call.number, call.audit, 0, 0].to_vec();
    data.extend(
        call.arguments
            .iter()
            .flat_map(|value| [*value as u32, (value >> 32) as u32]),
    );
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let holds = match code {
            0x20 => {
                accumulator = data[k as usize / 4];
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x06 => return k,
            0x05 => {
                at += k as usize;
                continue;
            }
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            _ => accumulator >= k,
        };
        at += usize::from(if holds { jt } else { jf });
    }
}

fn program(seccomp: &Seccomp, capabilities: u64, kernel: (u32, u32)) -> Vec<Instruction> {
    let filter = filter(seccomp, capabilities, kernel).unwrap().unwrap();
    check(&filter.program);
    filter.program
}

/// Every call in the table: number and name.
fn all_calls() -> impl Iterator<Item = (u16, &'static [u8])> {
    calls::GROUPS.iter().flat_map(|group| {
        let names = group.names.split(|byte| *byte == b' ');
        group.numbers.iter().copied().zip(names)
    })
}

fn name(number: u32) -> Option<&'static str> {
    static NAMES: std::sync::LazyLock<BTreeMap<u32, &str>> = std::sync::LazyLock::new(|| {
        let text = |name| std::str::from_utf8(name).unwrap();
        all_calls()
            .map(|(number, name)| (number.into(), text(name)))
            .collect()
    });
    NAMES.get(&number).copied()
}

/// xorshift64: the same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Values near which something changes, in any of the profile's arguments.
fn values() -> Vec<u64> {
    let mut values = vec![0, 1, 7, 8, 9, 0x11, 37, 38, 39, 40, 41, 45, 0x80, 0x1_ffff];
    values.extend([
        0x2_0000,
        0x2_0001,
        0x2_0008,
        0x2_0009,
        0x120_0011,
        0x3d_0f00,
        0x7e02_0000,
    ]);
    values.extend([
        0x5411,
        0x5412,
        0x5413,
        0x541c,
        0x5423,
        0xffff_fffe,
        0xffff_ffff,
    ]);
    values.extend([25, 26, 27, 28, 29, 30, 31, 63].map(|bit| 1 << bit));
    let high: Vec<u64> = values.iter().map(|value| value | 1 << 32).collect();
    values.extend(high);
    values.push(u64::MAX);
    values
}

/// The calls that are asked about: every number, those that look at arguments with many of these.
fn calls_to_ask() -> Vec<Call> {
    let special = [
        general::__NR_ioctl,
        general::__NR_socket,
        general::__NR_clone,
        general::__NR_personality,
    ];
    let mut calls = Vec::new();
    for number in (0..=600).chain([general::__NR_read | 1 << 31, u32::MAX]) {
        let few = [0, 38, 0x5412, u64::MAX];
        let values = if special.contains(&number) {
            values()
        } else {
            few.to_vec()
        };
        for value in values {
            calls.push(call(number, [value, 0, 0, 0, 0, 0]));
            calls.push(call(number, [0, value, 0, 0, 0, 0]));
        }
    }
    calls
}

#[test]
fn every_call_that_the_headers_know_is_in_one_group() {
    let source = "pub const __NR_";
    let mut seen = BTreeMap::new();
    for (number, name) in all_calls() {
        assert_eq!(seen.insert(number, name), None, "{number}");
        assert!(usize::from(number) < calls::COUNT);
    }
    let Some(headers) = headers() else { return };
    let missing: Vec<&str> = headers
        .lines()
        .filter_map(|line| line.strip_prefix(source)?.split_once(": u32 = "))
        .filter(|(name, number)| {
            let number: u16 = number.trim_end_matches(';').parse().unwrap();
            seen.get(&number) != Some(&name.as_bytes())
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(missing, [""; 0], "new calls: see src/seccomp/calls.rs");
}

/// The source of the crate that has the numbers: cargo knows where.
fn headers() -> Option<String> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut paths = text
        .split('"')
        .filter(|text| text.contains("/linux-raw-sys-0."));
    let manifest = paths.find(|path| path.ends_with("/Cargo.toml"));
    let Some(manifest) = manifest else {
        eprintln!("skip: cargo does not tell where linux-raw-sys is");
        return None;
    };
    let file = format!("src/{}/general.rs", std::env::consts::ARCH);
    std::fs::read_to_string(std::path::Path::new(manifest).with_file_name(file)).ok()
}

#[test]
fn foreign_calls_are_refused() {
    let program = program(&Seccomp::Default, CAPABILITIES, KERNEL);
    let foreign = [
        raw::AUDIT_ARCH_I386,
        raw::AUDIT_ARCH_ARM,
        raw::AUDIT_ARCH_X86_64,
        raw::AUDIT_ARCH_AARCH64,
    ];
    for audit in foreign.into_iter().filter(|audit| *audit != AUDIT) {
        for number in 0..600 {
            let outcome = run(
                &program,
                Call {
                    audit,
                    ..call(number, [0; 6])
                },
            );
            assert_eq!(outcome, errno(ENOSYS));
        }
    }
    for number in 0..600 {
        assert_eq!(run(&program, call(X32 | number, [0; 6])), errno(ENOSYS));
    }
}

#[test]
fn log_refuses_nothing_and_logs_what_the_default_refuses() {
    for capabilities in [0, CAPABILITIES, ALL] {
        let refusing = program(&Seccomp::Default, capabilities, KERNEL);
        let logging = program(&Seccomp::Log, capabilities, KERNEL);
        let foreign = Call {
            audit: 7,
            ..call(0, [0; 6])
        };
        for call in calls_to_ask().into_iter().chain([foreign]) {
            let expected = match run(&refusing, call) {
                ALLOW => ALLOW,
                _ => raw::SECCOMP_RET_LOG,
            };
            assert_eq!(run(&logging, call), expected, "{call:?}");
        }
    }
    let error = filter(&Seccomp::Log, 0, (4, 13)).err().unwrap().to_string();
    assert_eq!(
        error,
        "--seccomp \"log\": logging, and killing a process as a whole, need Linux 4.14"
    );
    assert!(filter(&Seccomp::Unconfined, 0, KERNEL).unwrap().is_none());
}

/// A default container on Linux 6.18 with arguments of zero: `NUMBER NAME OUTCOME` for 0 to 600.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_golden_table() {
    let program = program(&Seccomp::Default, CAPABILITIES, KERNEL);
    let mut text = String::new();
    for number in 0..=600 {
        let outcome = match run(&program, call(number, [0; 6])) {
            ALLOW => "allow",
            action if action == errno(EPERM) => "EPERM",
            action if action == errno(ENOSYS) => "ENOSYS",
            action => panic!("{number}: {action:#x}"),
        };
        text.push_str(&format!(
            "{number} {} {outcome}\n",
            name(number).unwrap_or("-")
        ));
    }
    let file = format!("{}/tests/plans/seccomp-x86_64", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("MINI_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert!(
        text == std::fs::read_to_string(&file).unwrap(),
        "not what is in {file}"
    );
}

#[test]
fn the_readme_has_the_table_and_the_figures() {
    let root = env!("CARGO_MANIFEST_DIR");
    let read = |file: &str| std::fs::read_to_string(format!("{root}/{file}")).unwrap_or_default();
    let readme = read("README.md");
    for (what, outcome, why) in profile::DEVIATIONS {
        let row = format!("| {what} | {outcome} | {why} |\n");
        assert!(readme.contains(&row), "README.md lacks: {row}");
    }
    let length = program(&Seccomp::Default, CAPABILITIES, KERNEL).len();
    println!(
        "{length} instructions; {} with all capabilities",
        program(&Seccomp::Default, ALL, KERNEL).len()
    );
    println!("{length} instructions");
    if cfg!(target_arch = "x86_64") {
        assert!(
            readme.contains(&format!("{length} instructions")),
            "README.md: {length} instructions"
        );
    }
}

#[test]
fn the_kernel_takes_it_also_by_prctl() {
    let work = || {
        rustix::thread::set_no_new_privs(true).unwrap();
        let mut without = Policy::new(errno(ENOSYS));
        without.from(0, ALLOW.into());
        without.from(general::__NR_seccomp, errno(ENOSYS).into());
        without.from(general::__NR_seccomp + 1, ALLOW.into());
        let set = |program: &[Instruction], flags| container::sys::set_filter(program, flags);
        set(&assemble(&without), 0).unwrap();
        let program = program(&Seccomp::Default, CAPABILITIES, KERNEL);
        assert_eq!(set(&program, 2), Err(rustix::io::Errno::NOSYS));
        set(&program, 0).unwrap();
    };
    // A filter stays as long as its thread.
    std::thread::spawn(work).join().unwrap();
}

#[test]
#[cfg(not(feature = "json"))]
fn a_file_needs_the_feature() {
    let error = Seccomp::parse("x.json").unwrap_err();
    let expected = "this mini was built without the feature json (known: default, log, unconfined)";
    assert_eq!(
        error.to_string(),
        format!("--seccomp \"x.json\": {expected}")
    );
}

/// Run with --ignored --nocapture, in a release build: how long it takes to make the default filter and to load it.
#[test]
#[ignore = "a measurement"]
fn time_to_make_and_load() {
    let make = || {
        filter(&Seccomp::Default, CAPABILITIES, KERNEL)
            .unwrap()
            .unwrap()
    };
    let time = |work: &dyn Fn()| {
        let start = std::time::Instant::now();
        work();
        start.elapsed().as_nanos()
    };
    let load = move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        let filter = make();
        time(&|| container::sys::set_filter(&filter.program, filter.flags).unwrap())
    };
    // A filter stays as long as its thread.
    let in_a_thread = |_| std::thread::spawn(load).join().unwrap();
    let mut made: Vec<u128> = (0..200)
        .map(|_| time(&|| drop(std::hint::black_box(make()))))
        .collect();
    let mut loaded: Vec<u128> = (0..200).map(in_a_thread).collect();
    made.sort();
    loaded.sort();
    println!("made in {} ns ({} at best)", made[100], made[0]);
    println!("loaded in {} ns ({} at best)", loaded[100], loaded[0]);
}

// --- the assembler ----------------------------------------------------------------------------------------------

fn evaluate(outcome: &Outcome, arguments: [u64; 6]) -> u32 {
    let mut holds = true;
    for test in &outcome.tests {
        let value = arguments[usize::from(test.argument)] & test.mask;
        let compared = match test.comparison {
            Comparison::Equal => value == test.value,
            Comparison::Greater => value > test.value,
            Comparison::GreaterOrEqual => value >= test.value,
        };
        holds &= compared != test.negated;
        if let Some(action) = test.action {
            if holds {
                return action;
            }
            holds = true;
        }
    }
    outcome.otherwise
}

fn random_test(random: &mut Random, last: bool) -> Test {
    let comparison = match random.next(3) {
        0 => Comparison::Equal,
        1 => Comparison::Greater,
        _ => Comparison::GreaterOrEqual,
    };
    let few = [
        0,
        1,
        2,
        0xffff_ffff,
        1 << 32,
        1 << 32 | 1,
        u64::MAX,
        u64::MAX - 1,
    ];
    let mut pick = || few[random.next(few.len() as u64) as usize];
    let mask = if comparison == Comparison::Equal {
        pick()
    } else {
        u64::MAX
    };
    let value = pick() & mask;
    Test {
        argument: random.next(6) as u8,
        mask,
        comparison,
        value,
        negated: random.next(2) == 0,
        action: (last || random.next(3) == 0).then(|| errno(random.next(5) as u32)),
    }
}

#[test]
fn a_program_does_what_its_policy_says() {
    let mut random = Random(42);
    for (size, tests, step) in [
        (1, 0, 1),
        (1, 6, 1),
        (2, 1, 7),
        (30, 30, 3),
        (400, 1, 2),
        (400, 2, 1),
        (600, 0, 2),
    ] {
        let mut outcomes = Vec::new();
        let mut policy = Policy::new(errno(999));
        for index in 0..size {
            let tests = (0..tests).map(|number| random_test(&mut random, number + 1 == tests));
            let tests = if index % 2 == 0 {
                tests.collect()
            } else {
                Vec::new()
            };
            // More actions than one jump can reach.
            let otherwise = if random.next(2) == 0 {
                ALLOW
            } else {
                errno(random.next(300) as u32)
            };
            outcomes.push(Outcome { tests, otherwise });
            policy.from(index * step, outcomes[index as usize].clone());
        }
        let program = assemble(&policy);
        if program.len() <= bpf::BPF_MAXINSNS as usize {
            check(&program);
        }
        assert_eq!(
            run(
                &program,
                Call {
                    audit: AUDIT ^ 1,
                    ..call(0, [0; 6])
                }
            ),
            errno(999)
        );
        for number in (0..size * step + 2).chain([u32::MAX]) {
            let outcome = &outcomes[(number / step).min(size - 1) as usize];
            for _ in 0..40 {
                let few = [
                    0,
                    1,
                    2,
                    3,
                    0xffff_ffff,
                    1 << 32,
                    1 << 32 | 1,
                    1 << 32 | 2,
                    u64::MAX,
                ];
                let arguments = [(); 6].map(|()| few[random.next(few.len() as u64) as usize]);
                let expected = evaluate(outcome, arguments);
                assert_eq!(
                    run(&program, call(number, arguments)),
                    expected,
                    "{number} {outcome:?} {arguments:x?}"
                );
            }
        }
    }
}

// --- Docker -----------------------------------------------------------------------------------------------------

#[cfg(feature = "json")]
mod docker {
    use super::*;
    use std::collections::BTreeSet;

    use crate::json::{Value, parse};

    fn capability_sets() -> Vec<u64> {
        let mut random = Random(1);
        let mut sets = vec![0, CAPABILITIES, ALL, u64::MAX, 1 << 21 | CAPABILITIES];
        sets.extend((0..41).map(|capability| 1 << capability));
        sets.extend((0..20).map(|_| random.next(1 << 41)));
        sets
    }

    fn field<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
        match value {
            Value::Object(pairs) => pairs
                .iter()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    fn list(value: Option<&Value>) -> &[Value] {
        match value {
            Some(Value::Array(items)) => items,
            _ => &[],
        }
    }

    fn text(value: &Value) -> &str {
        match value {
            Value::Text(text) => text,
            _ => "",
        }
    }

    fn number(value: Option<&Value>) -> u64 {
        match value {
            Some(Value::Number(number)) => number.parse().unwrap(),
            _ => 0,
        }
    }

    fn texts<'a>(value: &'a Value, outer: &str, inner: &str) -> Vec<&'a str> {
        list(field(value, outer).and_then(|value| field(value, inner)))
            .iter()
            .map(text)
            .collect()
    }

    /// Docker's profile, understood anew: nothing here is shared with what is tested but the JSON parser.
    pub struct Docker {
        document: Value,
    }

    impl Docker {
        pub fn new() -> Docker {
            Docker {
                document: parse(&docker_json()).unwrap(),
            }
        }

        /// The rules that hold for this container on this machine.
        pub fn rules(&self, capabilities: u64, kernel: (u32, u32)) -> BTreeMap<&str, Vec<&Value>> {
            let names = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
                NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT \
                SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE \
                AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ \
                PERFMON BPF CHECKPOINT_RESTORE";
            let granted: BTreeSet<String> = names
                .split_whitespace()
                .enumerate()
                .filter(|(number, _)| capabilities & 1 << number != 0)
                .map(|(_, name)| format!("CAP_{name}"))
                .collect();
            let machine = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            let recent = |value: Option<&Value>| {
                let version = value.map(|value| text(value).split_once('.').unwrap());
                version.map(|(major, minor)| {
                    kernel >= (major.parse().unwrap(), minor.parse().unwrap())
                })
            };
            let mut rules: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
            for rule in list(field(&self.document, "syscalls")) {
                let has = |name: &&str| granted.contains(*name);
                let arches = texts(rule, "includes", "arches");
                let included = texts(rule, "includes", "caps").iter().all(has)
                    && (arches.is_empty() || arches.contains(&machine))
                    && recent(field(rule, "includes").and_then(|value| field(value, "minKernel")))
                        != Some(false);
                let excluded = texts(rule, "excludes", "caps").iter().any(has)
                    || texts(rule, "excludes", "arches").contains(&machine)
                    || recent(field(rule, "excludes").and_then(|value| field(value, "minKernel")))
                        == Some(true);
                if included && !excluded {
                    for name in list(field(rule, "names")) {
                        rules.entry(text(name)).or_default().push(rule);
                    }
                }
            }
            rules
        }
    }

    /// What runc, with libseccomp, makes of them. All rules of this file that match a call agree.
    pub fn outcome(rules: &BTreeMap<&str, Vec<&Value>>, name: Option<&str>, call: Call) -> u32 {
        let highest = super::general::__NR_removexattrat;
        for rule in name.and_then(|name| rules.get(name)).into_iter().flatten() {
            let matches = list(field(rule, "args")).iter().all(|condition| {
                let argument = call.arguments[number(field(condition, "index")) as usize];
                let value = number(field(condition, "value"));
                match text(field(condition, "op").unwrap()) {
                    "SCMP_CMP_LT" => argument < value,
                    "SCMP_CMP_GT" => argument > value,
                    "SCMP_CMP_EQ" => argument == value,
                    "SCMP_CMP_MASKED_EQ" => {
                        argument & value == number(field(condition, "valueTwo"))
                    }
                    other => panic!("{other}"),
                }
            });
            if matches {
                return match text(field(rule, "action").unwrap()) {
                    "SCMP_ACT_ALLOW" => ALLOW,
                    "SCMP_ACT_ERRNO" => errno(number(field(rule, "errnoRet")) as u32),
                    other => panic!("{other}"),
                };
            }
        }
        errno(if call.number > highest { ENOSYS } else { EPERM })
    }

    pub fn docker_json() -> Vec<u8> {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/docker-seccomp-default.json"
        );
        std::fs::read(file).unwrap()
    }

    /// Which of the deviations concerns a call, by its place in the table, and what is expected then.
    fn deviation(
        call: Call,
        capabilities: u64,
        docker: impl Fn(Call) -> u32,
    ) -> Option<(usize, u32)> {
        let requests = [
            linux_raw_sys::ioctl::TIOCSTI,
            linux_raw_sys::ioctl::TIOCLINUX,
        ];
        let (first, second) = (call.arguments[0], call.arguments[1] as u32);
        let expected = match call.number {
            number if name(number).is_none() => (1, errno(ENOSYS)),
            general::__NR_ioctl if requests.contains(&second) => (2, errno(EPERM)),
            general::__NR_ioctl if second == 0x5423 && capabilities & (1 << 12 | 1 << 21) == 0 => {
                (3, errno(EPERM))
            }
            general::__NR_socket if first > u64::from(u32::MAX) => {
                let mut call = call;
                call.arguments[0] &= 0xffff_ffff;
                (4, docker(call))
            }
            _ => return None,
        };
        Some(expected).filter(|(_, expected)| *expected != docker(call))
    }

    #[test]
    fn the_default_is_dockers_but_for_the_deviations() {
        let docker = Docker::new();
        let mut met = BTreeSet::from([0]); // in `foreign_calls_are_refused`
        for capabilities in capability_sets() {
            for kernel in [(3, 10), (4, 7), (4, 8), (5, 0), KERNEL] {
                let program = program(&Seccomp::Default, capabilities, kernel);
                let rules = docker.rules(capabilities, kernel);
                for call in calls_to_ask() {
                    let outcome = |call: Call| outcome(&rules, name(call.number), call);
                    let expected = match deviation(call, capabilities, outcome) {
                        Some((index, expected)) => {
                            met.insert(index);
                            expected
                        }
                        None => outcome(call),
                    };
                    assert_eq!(
                        run(&program, call),
                        expected,
                        "{call:x?} {capabilities:#x} {kernel:?}"
                    );
                }
            }
        }
        assert!(met.into_iter().eq(0..profile::DEVIATIONS.len()));
    }

    #[test]
    fn dockers_file_gives_what_docker_gives() {
        let docker = Docker::new();
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/docker-seccomp-default.json"
        );
        let file = Seccomp::parse(path).unwrap();
        for capabilities in capability_sets() {
            for kernel in [(4, 7), KERNEL] {
                let program = program(&file, capabilities, kernel);
                let rules = docker.rules(capabilities, kernel);
                for call in calls_to_ask() {
                    let expected = outcome(&rules, name(call.number), call);
                    // Nothing above 2^30 is a call, whatever Docker says.
                    assert_eq!(
                        run(&program, call),
                        expected,
                        "{call:x?} {capabilities:#x} {kernel:?}"
                    );
                }
            }
        }
    }

    fn profile(text: &str) -> crate::error::Result<Box<Profile>> {
        super::super::json::profile("x.json", text.as_bytes()).map(Box::new)
    }

    /// The outcomes of read (0) with these first two arguments, under a profile of these rules.
    fn outcomes(rules: &str, asked: &[[u64; 2]]) -> Vec<u32> {
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_TRAP", "syscalls": [{rules}]}}"#);
        let profile = Seccomp::File(profile(&text).unwrap());
        let program = program(&profile, 1 << 21, KERNEL);
        let number = general::__NR_read;
        asked
            .iter()
            .map(|[a, b]| run(&program, call(number, [*a, *b, 0, 0, 0, 0])))
            .collect()
    }

    #[test]
    fn conditions_mean_what_they_mean_to_runc() {
        let rule = |args: &str| {
            format!(
                r#"{{"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW", "args": [{args}]}}"#
            )
        };
        let arg = |index: u32, op: &str, value: u64, two: u64| {
            format!(
                r#"{{"index": {index}, "op": "SCMP_CMP_{op}", "value": {value}, "valueTwo": {two}}}"#
            )
        };
        let (yes, no) = (ALLOW, raw::SECCOMP_RET_TRAP);
        let edge = 1 << 33 | 5;
        for (op, below, equal, above) in [
            ("NE", yes, no, yes),
            ("LT", yes, no, no),
            ("LE", yes, yes, no),
            ("EQ", no, yes, no),
            ("GE", no, yes, yes),
            ("GT", no, no, yes),
        ] {
            let asked = [
                edge - (1 << 32),
                edge - 1,
                edge,
                edge + 1,
                edge + (1 << 32) - 3,
            ]
            .map(|value| [value, 0]);
            let expected = [below, below, equal, above, above];
            assert_eq!(
                outcomes(&rule(&arg(0, op, edge, 0)), &asked),
                expected,
                "{op}"
            );
        }
        let masked = rule(&arg(0, "MASKED_EQ", 0xf0_0000_00f0, 0x10_0000_0010));
        let asked = [
            [0x10_0000_0010, 0],
            [0xf1f_ffff_ff1f, 0],
            [0x10, 0],
            [0x10_0000_0030, 0],
        ];
        assert_eq!(outcomes(&masked, &asked), [yes, yes, no, no]);
        // Of different arguments all, of the same argument any.
        let all = rule(&[arg(0, "EQ", 1, 0), arg(1, "EQ", 2, 0)].join(","));
        assert_eq!(outcomes(&all, &[[1, 2], [1, 1], [2, 2]]), [yes, no, no]);
        let any = rule(&[arg(0, "EQ", 1, 0), arg(1, "EQ", 2, 0), arg(0, "EQ", 3, 0)].join(","));
        assert_eq!(
            outcomes(&any, &[[1, 1], [2, 2], [3, 3], [2, 3]]),
            [yes, yes, yes, no]
        );
        // The first that matches.
        let rules = format!(
            r#"{}, {{"name": "read", "action": "SCMP_ACT_KILL"}}, {{"name": "read", "action": "SCMP_ACT_LOG"}}"#,
            rule(&arg(0, "EQ", 1, 0))
        );
        assert_eq!(
            outcomes(&rules, &[[1, 0], [2, 0]]),
            [yes, raw::SECCOMP_RET_KILL_THREAD]
        );
        for (action, expected) in [
            (r#""SCMP_ACT_ERRNO""#, errno(1)),
            (r#""SCMP_ACT_ERRNO", "errnoRet": 4095"#, errno(4095)),
            (
                r#""SCMP_ACT_ERRNO", "errnoRet": 22, "errno": "EINVAL""#,
                errno(22),
            ),
            (
                r#""SCMP_ACT_TRACE", "errnoRet": 7"#,
                raw::SECCOMP_RET_TRACE | 7,
            ),
            (r#""SCMP_ACT_KILL_PROCESS""#, raw::SECCOMP_RET_KILL_PROCESS),
            (
                r#""SCMP_ACT_LOG", "includes": null, "args": null, "comment": "x""#,
                raw::SECCOMP_RET_LOG,
            ),
            (
                r#""SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}"#,
                no,
            ),
            (
                r#""SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}"#,
                yes,
            ),
            (
                r#""SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}"#,
                no,
            ),
            (
                r#""SCMP_ACT_ALLOW", "includes": {"minKernel": "6.18"}"#,
                yes,
            ),
            (r#""SCMP_ACT_ALLOW", "includes": {"minKernel": "6.19"}"#, no),
            (r#""SCMP_ACT_ALLOW", "excludes": {"minKernel": "6.18"}"#, no),
            (
                r#""SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "arm64", "riscv64"]}"#,
                yes,
            ),
            (
                r#""SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "arm64", "riscv64"]}"#,
                no,
            ),
            (r#""SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}"#, no),
        ] {
            let rule = format!(r#"{{"name": "read", "action": {action}}}"#);
            assert_eq!(outcomes(&rule, &[[0, 0]]), [expected], "{action}");
        }
    }

    #[test]
    fn numbers_above_the_highest_named_are_unknown() {
        let above = general::__NR_removexattrat + 1;
        for (default, expected) in [
            (r#""SCMP_ACT_ERRNO""#, errno(ENOSYS)),
            (r#""SCMP_ACT_ERRNO", "defaultErrnoRet": 5"#, errno(ENOSYS)),
            (r#""SCMP_ACT_KILL""#, errno(ENOSYS)),
            (r#""SCMP_ACT_LOG""#, raw::SECCOMP_RET_LOG),
            (r#""SCMP_ACT_ALLOW""#, ALLOW),
        ] {
            let text = format!(
                r#"{{"defaultAction": {default}, "syscalls": [{{"name": "removexattrat", "action": "SCMP_ACT_ALLOW"}}]}}"#
            );
            let program = program(&Seccomp::File(profile(&text).unwrap()), 0, KERNEL);
            let ask = |number| run(&program, call(number, [0; 6]));
            assert_eq!(
                [ask(above - 1), ask(above), ask(600)],
                [ALLOW, expected, expected],
                "{default}"
            );
            // x32, also under a profile that lists what it forbids.
            assert_eq!([ask(X32), ask(u32::MAX)], [errno(ENOSYS); 2]);
            assert_eq!(
                run(
                    &program,
                    Call {
                        audit: 3,
                        ..call(0, [0; 6])
                    }
                ),
                errno(ENOSYS)
            );
        }
        let nothing =
            profile(r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5}"#).unwrap();
        let program = program(&Seccomp::File(nothing), 0, KERNEL);
        assert_eq!(run(&program, call(600, [0; 6])), errno(5));
    }

    #[test]
    fn flags_and_architectures() {
        let flags = r#"["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#;
        let machines =
            r#"["SCMP_ARCH_S390X", "SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_RISCV64"]"#;
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": {flags}, "architectures": {machines}}}"#
        );
        let file = Seccomp::File(profile(&text).unwrap());
        assert_eq!(filter(&file, 0, KERNEL).unwrap().unwrap().flags, 6);
        let error = filter(&file, 0, (4, 16)).err().unwrap().to_string();
        assert_eq!(
            error,
            "--seccomp \"x.json\": SECCOMP_FILTER_FLAG_SPEC_ALLOW needs Linux 4.17"
        );
        assert!(
            filter(&file, 0, (4, 13))
                .err()
                .unwrap()
                .to_string()
                .ends_with("need Linux 4.14")
        );
    }

    #[test]
    fn bad_input_is_one_line_that_names_the_place() {
        let deep = "[".repeat(500_000);
        let nested = r#"{"a":"#.repeat(1000);
        let default = r#""defaultAction": "SCMP_ACT_ERRNO""#;
        let rule = |text: &str| {
            format!(r#"{{{default}, "syscalls": [{{}}, {{{text}}}]}}"#).replace("{}, ", "")
        };
        let arg = |text: &str| {
            rule(&format!(
                r#""name": "read", "action": "SCMP_ACT_ALLOW", "args": [{text}]"#
            ))
        };
        for (text, expected) in [
            (
                "".to_owned(),
                "line 1, column 1: Unexpected end of file, a value was expected",
            ),
            (
                "{\n \"a\": 1,\n\x1b}".into(),
                "line 3, column 1: Unexpected char: '?'",
            ),
            (
                "{\"a\": [1, 2".into(),
                "line 1, column 12: Array values must be followed by a comma",
            ),
            (
                "{\"a\": \"x".into(),
                "line 1, column 7: Unexpected end of file",
            ),
            (
                "{\"a\": 1e".into(),
                "line 1, column 7: Unexpected end of file",
            ),
            (
                "{\"a\": \"\\ud800\\u0041\"}".into(),
                "line 1, column 14: \\u41 is not a valid low surrogate",
            ),
            (
                "{} {}".into(),
                "line 1, column 4: The JSON already contains one root element",
            ),
            (deep, "line 1, column 35: nested more than 32 deep"),
            (nested, "line 1, column 167: nested more than 32 deep"),
            ("[]".into(), "not an object"),
            ("{}".into(), "no defaultAction"),
            ("{\"a\\u001b\": 1}".into(), "an unknown key: \"a\\u{1b}\""),
            (
                format!("{{{default}, {default}}}"),
                "a key comes twice: \"defaultAction\"",
            ),
            (
                r#"{"defaultAction": "ALLOW"}"#.into(),
                "defaultAction: unknown action",
            ),
            (
                r#"{"defaultAction": 7}"#.into(),
                "defaultAction: not a string",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.into(),
                "defaultAction: mini asks no agent",
            ),
            (
                format!(r#"{{{default}, "listenerPath": "/x"}}"#),
                "listenerPath: mini asks no agent",
            ),
            (
                format!(r#"{{{default}, "defaultErrnoRet": 4096}}"#),
                "defaultErrnoRet: not a whole number from 0 to 4095",
            ),
            (
                format!(r#"{{{default}, "defaultErrnoRet": -1}}"#),
                "defaultErrnoRet: not a whole number from 0 to 4095",
            ),
            (
                format!(r#"{{{default}, "flags": ["NEW_LISTENER"]}}"#),
                "flags[0]: mini knows no such flag",
            ),
            (
                format!(r#"{{{default}, "flags": {{}}}}"#),
                "flags: not an array",
            ),
            (
                format!(r#"{{{default}, "architectures": ["SCMP_ARCH_S390"]}}"#),
                "this machine is not",
            ),
            (
                format!(r#"{{{default}, "architectures": [7]}}"#),
                "architectures[0]: not a string",
            ),
            (
                format!(r#"{{{default}, "archMap": [{{"architecture": "x"}}]}}"#),
                "this machine is not among the architectures",
            ),
            (
                format!(r#"{{{default}, "archMap": [{{}}]}}"#),
                "archMap[0]: no architecture",
            ),
            (
                format!(r#"{{{default}, "syscalls": [7]}}"#),
                "syscalls[0]: not an object",
            ),
            (rule(""), "syscalls[0]: no action"),
            (
                rule(r#""action": "SCMP_ACT_ALLOW""#),
                "syscalls[0]: no names",
            ),
            (
                rule(r#""action": "SCMP_ACT_ALLOW", "names": [7]"#),
                "syscalls[0].names[0]: not a string",
            ),
            (
                rule(r#""action": "SCMP_ACT_ALLOW", "names": [], "name": "x""#),
                "syscalls[0].name: there are names already",
            ),
            (
                rule(r#""action": "SCMP_ACT_X", "name": "x""#),
                "syscalls[0].action: unknown action",
            ),
            (
                rule(r#""action": "SCMP_ACT_ALLOW", "name": "x", "errno": "EX""#),
                "syscalls[0].errno: mini needs the number, too",
            ),
            (
                rule(r#""action": "SCMP_ACT_ALLOW", "name": "x", "exclude": {}"#),
                "syscalls[0]: an unknown key: \"exclude\"",
            ),
            (
                rule(r#""action": "SCMP_ACT_ALLOW", "name": "x", "includes": {"caps": ["CAP_X"]}"#),
                "syscalls[0].includes.caps[0]: unknown capability",
            ),
            (
                rule(r#""action": "SCMP_ACT_ALLOW", "name": "x", "excludes": {"minKernel": "4"}"#),
                "syscalls[0].excludes.minKernel: not a version such as 4.8",
            ),
            (arg("7"), "syscalls[0].args[0]: not an object"),
            (arg("{}"), "syscalls[0].args[0]: no index"),
            (
                arg(r#"{"index": 6, "value": 1, "op": ""}"#),
                "syscalls[0].args[0].index: not a whole number from 0 to 5",
            ),
            (
                arg(r#"{"index": 0, "value": 1.5, "op": ""}"#),
                "syscalls[0].args[0].value: not a whole number from 0 to",
            ),
            (
                arg(r#"{"index": 0, "value": 18446744073709551616, "op": ""}"#),
                "syscalls[0].args[0].value: not a whole",
            ),
            (
                arg(r#"{"index": 0, "value": 1, "op": "SCMP_CMP_X"}"#),
                "syscalls[0].args[0].op: unknown operator",
            ),
        ] {
            let error = profile(&text)
                .err()
                .unwrap_or_else(|| panic!("accepted: {text:.100}"));
            assert!(error.starts_with(expected), "{text:.100}: {error}");
            assert!(!error.contains(|c: char| c.is_control()), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_none() {
        let directory = std::env::temp_dir().join(format!("mini-seccomp-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let large = directory.join("large.json");
        std::fs::write(&large, vec![b' '; 2 << 20]).unwrap();
        let error = |path: &std::path::Path| {
            let error = Seccomp::parse(path.to_str().unwrap()).unwrap_err();
            assert_eq!(error.status(), 125);
            error.to_string()
        };
        let missing = error(&directory.join("missing"));
        assert!(missing.ends_with(
            "missing\": No such file or directory (known: default, log, unconfined, or a file)"
        ));
        assert!(error(&directory).contains("Is a directory"));
        assert!(error(&large).ends_with("large.json\": larger than 1 MiB"));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_filter_that_is_too_large_says_by_how_much() {
        let rules = |count: u64| {
            let rule = |value| {
                format!(
                    r#"{{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [
                        {{"index": 0, "op": "SCMP_CMP_EQ", "value": {value}}}]}}"#
                )
            };
            let rules: Vec<String> = (0..count).map(rule).collect();
            let text = format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#,
                rules.join(",")
            );
            let file = Seccomp::File(profile(&text).map_err(|error| error.to_string())?);
            filter(&file, 0, KERNEL)
                .map(|filter| filter.unwrap().program)
                .map_err(|error| error.to_string())
        };
        let program = rules(1000).unwrap();
        check(&program);
        for value in [0, 1, 500, 999, 1000, 1 << 32] {
            let expected = if value < 1000 { ALLOW } else { errno(EPERM) };
            assert_eq!(
                run(&program, call(general::__NR_write, [value, 0, 0, 0, 0, 0])),
                expected
            );
        }
        let error = rules(1100).unwrap_err();
        // 1,100 comparisons of four instructions, and what leads to them and on.
        let expected = |length: u32| {
            let excess = length - 4096;
            format!(
                "--seccomp \"x.json\": the filter has {length} instructions, {excess} more than the kernel takes"
            )
        };
        assert!(
            (4400..4500).any(|length| error == expected(length)),
            "{error}"
        );
        assert!(
            rules(25_000)
                .unwrap_err()
                .ends_with("too many conditions for the kernel")
        );
    }
}
