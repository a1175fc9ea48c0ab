//! A policy from a file, in the JSON format that Docker and Podman take.
//!
//! Format: the seccomp object of the OCI runtime specification (config-linux.md), and what Docker adds to it: archMap,
//! includes, excludes, name. Where these are silent it means what it means to runc:
//!
//! - Names that are no call of this machine are ignored.
//! - All conditions of a rule have to hold; but if two of them are about the same argument, any one is enough.
//! - Numbers above the highest one named get ENOSYS, unless the default action lets calls through.
//!
//! Of several rules for a call the first one that matches counts, in the order of the file (libseccomp prefers those
//! without conditions). Stricter than runc: calls of foreign ABIs are refused whatever the file says, and unknown
//! keys, actions, operators and capabilities are errors.
//!
//! Entry: [`read`], then [`Profile::policy`]. Left out: SCMP_ACT_NOTIFY, which needs an agent that decides.

use container::capabilities::NAMES;
use linux_raw_sys::errno::{ENOSYS, EPERM};
use linux_raw_sys::ptrace as raw;
use rustix::fs::{Mode, OFlags};

use super::bpf::{Comparison, LIMIT, Outcome, Policy, Test};
use super::calls::{self, COUNT, MACHINE};
use super::errno;
use crate::error::{Result, reason};
use crate::json::{Node, Value, parse};

/// A file that is in order; what it means depends on capabilities and kernel.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Where it came from.
    pub path: String,
    document: Value,
}

/// Docker's profile has 15 KB.
const SIZE_LIMIT: usize = 1 << 20;

pub fn read(path: &str) -> Result<Profile> {
    let fail = |errno| {
        format!(
            "{} (known: default, log, unconfined, or a file)",
            reason(errno)
        )
    };
    // O_NONBLOCK: a fifo that nobody writes to is empty, not something to wait for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
    let mut text = vec![0; SIZE_LIMIT + 1];
    let mut length = 0;
    while length <= SIZE_LIMIT {
        match rustix::io::read(&file, &mut text[length..]).map_err(fail)? {
            0 => return profile(path, &text[..length]),
            more => length += more,
        }
    }
    Err("larger than 1 MiB".into())
}

pub fn profile(path: &str, text: &[u8]) -> Result<Profile> {
    let (path, document) = (path.into(), parse(text)?);
    let profile = Profile { path, document };
    profile.policy(0, (0, 0)).map(|_| profile)
}

/// From here on the numbers of x86_64 are those of its 32-bit sibling x32 (`__X32_SYSCALL_BIT`); on other machines no
/// call has so large a number.
const X32: u32 = 0x4000_0000;

impl Profile {
    /// The policy for these capabilities and this kernel, and `SECCOMP_FILTER_FLAG_*`.
    pub fn policy(&self, capabilities: u64, kernel: (u32, u32)) -> Result<(Policy, u32)> {
        let root = Node::root(&self.document);
        root.keys(
            "defaultAction defaultErrnoRet defaultErrno architectures archMap flags syscalls listenerPath \
             listenerMetadata",
        )?;
        if let Some(node) = root.get("listenerPath").or(root.get("listenerMetadata")) {
            return Err(node.error("mini asks no agent"));
        }
        for_this_machine(&root)?;
        let default = action(&root, "defaultAction", "defaultErrnoRet", "defaultErrno")?;

        // Each call's tests so far, and what ends them: the first rule without conditions.
        let mut calls = vec![(Vec::new(), None); COUNT];
        let (mut highest, mut total) = (None, 0);
        for rule in root.items("syscalls")? {
            rule.keys("names name action errnoRet errno args comment includes excludes")?;
            let action = action(&rule, "action", "errnoRet", "errno")?;
            let (numbers, tests) = (numbers(&rule)?, tests(&rule, action)?);
            let (_, fails) = facts(rule.get("includes"), capabilities, kernel)?;
            let (holds, _) = facts(rule.get("excludes"), capabilities, kernel)?;
            if fails || holds {
                continue;
            }
            for number in numbers {
                highest = highest.max(Some(number));
                let (known, end) = &mut calls[usize::from(number)];
                if end.is_none() {
                    known.extend(&tests);
                    total += tests.len();
                    *end = tests.is_empty().then_some(action);
                }
            }
            // Each takes two instructions at least; what comes from a file must not take all memory.
            if total > 8 * LIMIT {
                return Err(rule.error("too many conditions for the kernel"));
            }
        }

        // What a number gets that no rule decides.
        let unnamed = |number| match (default & raw::SECCOMP_RET_ACTION_FULL, highest) {
            (raw::SECCOMP_RET_ALLOW | raw::SECCOMP_RET_LOG | raw::SECCOMP_RET_TRACE, _) => default,
            (_, Some(highest)) if number > u32::from(highest) => errno(ENOSYS),
            _ => default,
        };
        let mut policy = Policy::new(errno(ENOSYS));
        for (number, (tests, end)) in (0..).zip(calls) {
            let otherwise = end.unwrap_or(unnamed(number));
            policy.from(number, Outcome { tests, otherwise });
        }
        policy.from(COUNT as u32, unnamed(COUNT as u32).into());
        policy.from(X32, errno(ENOSYS).into());
        Ok((policy, flags(&root)?))
    }
}

/// If the file lists architectures, this one has to be among them.
fn for_this_machine(root: &Node) -> Result<()> {
    let (mut any, mut this) = (false, false);
    for node in root.items("architectures")? {
        (any, this) = (true, this | (node.text()? == MACHINE.scmp));
    }
    for entry in root.items("archMap")? {
        entry.keys("architecture subArchitectures")?;
        let name = entry.need("architecture")?.text()?;
        (any, this) = (true, this | (name == MACHINE.scmp));
    }
    match any && !this {
        true => Err(root.error("this machine is not among the architectures")),
        false => Ok(()),
    }
}

fn flags(root: &Node) -> Result<u32> {
    let mut flags = 0;
    for flag in root.items("flags")? {
        flags |= match flag.text()? {
            // All threads at once: there is one only.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => raw::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => raw::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            _ => return Err(flag.error("mini knows no such flag (known: TSYNC, LOG, SPEC_ALLOW)")),
        };
    }
    Ok(flags)
}

/// The action, with its errno. Podman also writes the errno's name, beside the number.
fn action(node: &Node, action: &str, number: &str, name: &str) -> Result<u32> {
    let data = match (node.get(number), node.get(name)) {
        (Some(number), _) => number.number(4095)? as u32,
        (None, Some(name)) => return Err(name.error("mini needs the number, too")),
        (None, None) => EPERM,
    };
    let action = node.need(action)?;
    Ok(match action.text()? {
        "SCMP_ACT_ALLOW" => raw::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => errno(data),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => raw::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => raw::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => raw::SECCOMP_RET_TRAP,
        "SCMP_ACT_LOG" => raw::SECCOMP_RET_LOG,
        "SCMP_ACT_TRACE" => raw::SECCOMP_RET_TRACE | data,
        "SCMP_ACT_NOTIFY" => return Err(action.error("mini asks no agent")),
        _ => return Err(action.error("unknown action")),
    })
}

/// The numbers of those calls that this machine has.
fn numbers(rule: &Node) -> Result<Vec<u16>> {
    let name = rule.get("name");
    match (&name, rule.get("names")) {
        (Some(name), Some(_)) => return Err(name.error("there are names already")),
        (None, None) => return Err(rule.error("no names")),
        _ => {}
    }
    let mut numbers = Vec::new();
    for name in name.into_iter().chain(rule.items("names")?) {
        match calls::number(name.text()?.as_bytes()) {
            Some(number) if !numbers.contains(&number) => numbers.push(number),
            _ => {}
        }
    }
    Ok(numbers)
}

fn tests(rule: &Node, action: u32) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    let mut arguments = 0u32;
    for node in rule.items("args")? {
        node.keys("index value valueTwo op")?;
        let argument = node.need("index")?.number(5)? as u8;
        let value = node.need("value")?.number(u64::MAX)?;
        let second = match node.get("valueTwo") {
            Some(node) => node.number(u64::MAX)?,
            None => 0,
        };
        let op = node.need("op")?;
        let (mut mask, mut masked) = (u64::MAX, value);
        let (comparison, negated) = match op.text()? {
            "SCMP_CMP_EQ" => (Comparison::Equal, false),
            "SCMP_CMP_MASKED_EQ" => {
                (mask, masked) = (value, value & second);
                (Comparison::Equal, false)
            }
            "SCMP_CMP_NE" => (Comparison::Equal, true),
            "SCMP_CMP_GT" => (Comparison::Greater, false),
            "SCMP_CMP_LE" => (Comparison::Greater, true),
            "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, false),
            "SCMP_CMP_LT" => (Comparison::GreaterOrEqual, true),
            _ => return Err(op.error("unknown operator")),
        };
        arguments |= 1 << argument;
        let action = Some(action);
        tests.push(Test {
            argument,
            mask,
            comparison,
            value: masked,
            negated,
            action,
        });
    }
    if arguments.count_ones() as usize == tests.len()
        && let [others @ .., _] = &mut tests[..]
    {
        others.iter_mut().for_each(|test| test.action = None);
    }
    Ok(tests)
}

/// Whether one of the conditions in `includes` (all have to hold) or `excludes` (any is enough) holds, and one fails.
fn facts(node: Option<Node>, capabilities: u64, kernel: (u32, u32)) -> Result<(bool, bool)> {
    let (mut holds, mut fails) = (false, false);
    let Some(node) = node else {
        return Ok((false, false));
    };
    let mut fact = |fact: bool| (holds, fails) = (holds | fact, fails | !fact);
    node.keys("caps arches minKernel")?;
    for cap in node.items("caps")? {
        let name = cap.text()?.strip_prefix("CAP_").unwrap_or_default();
        match NAMES
            .split(' ')
            .position(|known| known.eq_ignore_ascii_case(name))
        {
            Some(number) => fact(capabilities & 1 << number != 0),
            None => return Err(cap.error("unknown capability")),
        }
    }
    let (mut any, mut this) = (false, false);
    for arch in node.items("arches")? {
        (any, this) = (true, this | (arch.text()? == MACHINE.go));
    }
    if any {
        fact(this);
    }
    if let Some(least) = node.get("minKernel") {
        let numbers = least.text()?.split_once('.');
        match numbers.map(|(major, minor)| (major.parse(), minor.parse())) {
            Some((Ok(major), Ok(minor))) => fact(kernel >= (major, minor)),
            _ => return Err(least.error("not a version such as 4.8")),
        }
    }
    Ok((holds, fails))
}
