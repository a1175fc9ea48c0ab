//! The built-in profile: which system calls the container gets, given its capabilities.
//!
//! It allows what Docker's default profile allows, less the deviations below. Known calls that it forbids are EPERM;
//! numbers that are no call, or one newer than the profile, are ENOSYS, as on a kernel that lacks them: C libraries
//! try new calls first and fall back on that errno only.
//!
//! Reading order: [`policy`], [`arguments`]; which call is in which group is in `calls.rs`.
//!
//! Left out: anything that only a look at memory could decide (paths, the flags of clone3).

use linux_raw_sys::errno::{ENOSYS, EPERM};
use linux_raw_sys::{general as raw, ioctl, net};

use super::bpf::{Comparison, Outcome, Policy, Test};
use super::calls::{COUNT, EVERYBODY, GROUPS, SINCE_4_8};
use super::{ALLOW, errno};

/// How mini deviates from Docker's profile, and why. `tests.rs` holds the effective policies against each other, with
/// these as the only exceptions, and the README's table against this one.
#[cfg(test)]
pub const DEVIATIONS: [(&str, &str, &str); 5] = [
    (
        "every call of a foreign ABI (i386 and x32 on x86_64, 32-bit ARM on arm64)",
        "ENOSYS",
        "a second table of calls, seldom used and less tested; Docker filters it by the same names",
    ),
    (
        "numbers that are no call (336 to 423 on x86_64)",
        "ENOSYS instead of EPERM",
        "they may become calls: programs fall back from ENOSYS only",
    ),
    (
        "`ioctl` with TIOCSTI or TIOCLINUX",
        "EPERM",
        "they type into the terminal, or paste into it: whoever reads there next executes it (CVE-2017-5226)",
    ),
    (
        "`ioctl` with TIOCSETD, without CAP_NET_ADMIN and CAP_SYS_ADMIN",
        "EPERM",
        "it makes the host's kernel load a driver for the terminal's line, some of which gave root away \
         (CVE-2017-2636, CVE-2023-6546)",
    ),
    (
        "`socket` with bits above the 32nd in its first argument",
        "what the lower 32 bits get",
        "the kernel ignores them, Docker's comparison does not: 2³² + 38 was AF_ALG",
    ),
];

/// `capabilities`: bit n stands for capability n. `kernel`: its version.
pub fn policy(capabilities: u64, kernel: (u32, u32)) -> Policy {
    let since_4_8 = if kernel >= (4, 8) { SINCE_4_8 } else { 0 };
    let granted = capabilities & (SINCE_4_8 - 1) | EVERYBODY | since_4_8;
    let mut actions = [errno(ENOSYS); COUNT];
    for group in GROUPS {
        let allowed = group.allowed & granted != 0;
        for number in group.numbers {
            let refused = errno(group.otherwise);
            actions[usize::from(*number)] = if allowed { ALLOW } else { refused };
        }
    }
    let mut policy = Policy::new(errno(ENOSYS));
    for (number, action) in (0..).zip(actions) {
        policy.from(number, arguments(number, granted).unwrap_or(action.into()));
    }
    policy.from(COUNT as u32, errno(ENOSYS).into());
    policy
}

/// What depends on arguments.
fn arguments(number: u32, granted: u64) -> Option<Outcome> {
    let has = |capability: u32| granted & 1 << capability != 0;
    // Most arguments are 32 bits wide, and the kernel does not look at the others.
    let is = |argument: u8, mask: u32, value: u32, action: u32| Test {
        argument,
        mask: mask.into(),
        comparison: Comparison::Equal,
        value: value.into(),
        negated: false,
        action: Some(action),
    };
    let tests = |tests: Vec<Test>, otherwise: u32| Some(Outcome { tests, otherwise });
    let no = errno(EPERM);
    match number {
        raw::__NR_ioctl => {
            let mut refused = vec![ioctl::TIOCSTI, ioctl::TIOCLINUX];
            if !has(raw::CAP_NET_ADMIN) && !has(raw::CAP_SYS_ADMIN) {
                refused.push(ioctl::TIOCSETD);
            }
            let refused = refused.into_iter();
            tests(
                refused
                    .map(|request| is(1, u32::MAX, request, no))
                    .collect(),
                ALLOW,
            )
        }
        // The kernel's cryptography for everybody, with a history of holes; the hypervisor and its other machines.
        raw::__NR_socket => {
            let refused = [net::AF_ALG, net::AF_VSOCK].into_iter();
            tests(
                refused.map(|family| is(0, u32::MAX, family, no)).collect(),
                ALLOW,
            )
        }
        // New namespaces, which the capabilities inside would be worth something in. CLONE_NEWTIME is not among them:
        // clone takes these bits for the signal.
        raw::__NR_clone if !has(raw::CAP_SYS_ADMIN) => {
            let namespaces = raw::CLONE_NEWNS
                | raw::CLONE_NEWCGROUP
                | raw::CLONE_NEWUTS
                | raw::CLONE_NEWIPC
                | raw::CLONE_NEWUSER
                | raw::CLONE_NEWPID
                | raw::CLONE_NEWNET;
            tests(vec![is(0, namespaces, 0, ALLOW)], no)
        }
        // Linux, 32-bit Linux, the same with UNAME26, and the question what it is; nothing that turns off the
        // randomisation of addresses or maps the page at zero.
        raw::__NR_personality => {
            let mut known = vec![Test {
                comparison: Comparison::Greater,
                mask: u64::MAX,
                ..is(0, 0, u32::MAX, no)
            }];
            let values = [0, 8, 0x2_0000, 0x2_0008, u32::MAX].into_iter();
            known.extend(values.map(|value| is(0, u32::MAX, value, ALLOW)));
            tests(known, no)
        }
        _ => None,
    }
}
