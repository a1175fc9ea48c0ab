//! The filter for the container's system calls: what `--seccomp` asks for, as a program for the kernel.
//!
//! Mechanism: seccomp(2), filter mode (Linux 3.5; SECCOMP_RET_LOG, KILL_PROCESS and flags Linux 4.14): the kernel runs
//! the program at every system call of the command and whatever that starts, and does what it returns. mini makes it
//! before the clone, since that takes memory; `sys::set_filter` loads it, last of all.
//!
//! Reading order: [`filter`], `profile` (mini's own policy), `calls` (numbers and names), `bpf` (the assembler),
//! `json` (a policy from a file).
//!
//! Left out: supervisors that decide call by call (SECCOMP_RET_USER_NOTIF); filters for foreign ABIs, whose calls are
//! always refused.

mod bpf;
mod calls;
#[cfg(feature = "json")]
pub mod json;
mod profile;
#[cfg(test)]
mod tests;

use container::sys::Instruction;
use linux_raw_sys::ptrace as raw;

use crate::error::{Error, Result, error, quote};
#[cfg(feature = "json")]
use json::Profile;

/// What `--seccomp` asks for.
#[derive(Debug, Clone)]
pub enum Seccomp {
    /// The built-in profile.
    Default,
    /// Everything is allowed; what the built-in profile would refuse goes to the audit log.
    Log,
    Unconfined,
    #[cfg(feature = "json")]
    File(Box<Profile>),
    /// The filter of a container that runs already, and its flags.
    #[cfg(feature = "life")]
    Compiled(Vec<Instruction>, u32),
}

/// What `sys::set_filter` takes.
pub struct Filter {
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`
    pub flags: u32,
}

const ALLOW: u32 = raw::SECCOMP_RET_ALLOW;

/// The action that refuses a call with this errno.
const fn errno(errno: u32) -> u32 {
    raw::SECCOMP_RET_ERRNO | errno
}

fn invalid(text: &str, what: &str) -> Error {
    error!("--seccomp {}: {what}", quote(text.as_bytes()))
}

impl Seccomp {
    /// `default`, `log`, `unconfined`, or the path of a JSON file, which is read here.
    pub fn parse(text: &str) -> Result<Seccomp> {
        match text {
            "default" => Ok(Seccomp::Default),
            "log" => Ok(Seccomp::Log),
            "unconfined" => Ok(Seccomp::Unconfined),
            #[cfg(feature = "json")]
            path => match json::read(path) {
                Ok(profile) => Ok(Seccomp::File(Box::new(profile))),
                Err(what) => Err(invalid(path, &what)),
            },
            #[cfg(not(feature = "json"))]
            _ => Err(invalid(
                text,
                "this mini was built without the feature json (known: default, log, unconfined)",
            )),
        }
    }

    /// As the user wrote it.
    fn name(&self) -> &str {
        match self {
            Seccomp::Default => "default",
            Seccomp::Log => "log",
            Seccomp::Unconfined => "unconfined",
            #[cfg(feature = "json")]
            Seccomp::File(profile) => &profile.path,
            #[cfg(feature = "life")]
            Seccomp::Compiled(..) => "filter",
        }
    }
}

/// The filter, if there is to be one. `capabilities`: bit n is set if capability n is granted. `kernel`: the version of
/// the running one.
pub fn filter(seccomp: &Seccomp, capabilities: u64, kernel: (u32, u32)) -> Result<Option<Filter>> {
    let fail = |what: &str| invalid(seccomp.name(), what);
    let (policy, flags) = match seccomp {
        Seccomp::Unconfined => return Ok(None),
        #[cfg(feature = "life")]
        Seccomp::Compiled(program, flags) => {
            let (program, flags) = (program.clone(), *flags);
            return Ok(Some(Filter { program, flags }));
        }
        _ if calls::GROUPS.is_empty() => {
            return Err(fail(
                "mini does not know this machine's system calls (--seccomp unconfined does without)",
            ));
        }
        Seccomp::Default | Seccomp::Log => (profile::policy(capabilities, kernel), 0),
        #[cfg(feature = "json")]
        Seccomp::File(profile) => profile
            .policy(capabilities, kernel)
            .map_err(|what| fail(&what))?,
    };
    let mut program = bpf::assemble(&policy);
    let mut recent = false;
    for action in program.iter_mut().filter_map(bpf::action) {
        if matches!(seccomp, Seccomp::Log) && *action != ALLOW {
            *action = raw::SECCOMP_RET_LOG;
        }
        recent |= [raw::SECCOMP_RET_LOG, raw::SECCOMP_RET_KILL_PROCESS].contains(action);
    }
    let length = program.len();
    if length > bpf::LIMIT {
        let excess = length - bpf::LIMIT;
        let what = "more than the kernel takes";
        return Err(fail(&format!(
            "the filter has {length} instructions, {excess} {what}"
        )));
    }
    // An older kernel kills at an action that it does not know, and by the thread.
    if kernel < (4, 14) && (recent || flags & raw::SECCOMP_FILTER_FLAG_LOG != 0) {
        return Err(fail(
            "logging, and killing a process as a whole, need Linux 4.14",
        ));
    }
    if kernel < (4, 17) && flags & raw::SECCOMP_FILTER_FLAG_SPEC_ALLOW != 0 {
        return Err(fail("SECCOMP_FILTER_FLAG_SPEC_ALLOW needs Linux 4.17"));
    }
    Ok(Some(Filter { program, flags }))
}
