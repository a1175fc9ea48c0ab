//! Executing the command, and finding out why it could not be executed.
//!
//! execve(2) says ENOENT for a missing file, a missing script interpreter and a missing dynamic loader alike, and
//! EACCES for four more causes. Shells and engines pass that on as it is; here the file is looked at once it has
//! failed, by the same process in the same root, and the cause named. elf(5). Left out: running a file without
//! `#!` through /bin/sh, as execvp(3) does: what is executed should be what was asked for.

use core::ffi::CStr;

use rustix::fs::{
    Access, AtFlags, CWD, FileType, OFlags, StatVfsMountFlags, accessat, fstatvfs, stat,
};
use rustix::io::{Errno, pread};

use crate::report::{Detail, Reason};
use crate::step::Command;
use crate::sys::{self, Word, execve};

/// Linux allows four interpreters in a row (`BINPRM_MAX_RECURSION`); one more for the loader of the last.
const CHAIN: usize = 6;
/// Longest interpreter path that is looked at; the kernel reads 256 bytes of a `#!` line.
const PATH: usize = 512;

/// Tries the candidates in order; returns only if none could be executed.
pub fn execute(command: &Command, environment: &[Word]) -> (Errno, Detail) {
    let name = command.name.to_bytes();
    let mut reason = (Errno::NOENT, Detail::new(Reason::NotFound, name));
    for path in command.candidates {
        let errno = execve(path, command.arguments, environment);
        let detail = explain(path, errno);
        match (errno, detail.reason) {
            // Not here: go on along PATH, but remember a file that exists.
            (Errno::NOENT | Errno::NOTDIR, Reason::NotFound) => {}
            (Errno::ACCESS, _) => reason = (errno, detail),
            _ => return (errno, detail),
        }
    }
    reason
}

/// Why `execve(path)` failed with `errno`.
fn explain(path: &CStr, errno: Errno) -> Detail {
    let missing = matches!(errno, Errno::NOENT | Errno::NOTDIR);
    let reason = match (errno, stat(path)) {
        (_, Err(_)) if missing => Reason::NotFound,
        (Errno::NOENT, Ok(_)) => return missing_interpreter(path),
        (Errno::ACCESS, Ok(status)) if FileType::from_raw_mode(status.st_mode).is_dir() => {
            Reason::Directory
        }
        (Errno::ACCESS, Ok(_)) => match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return Detail::NONE,
            Err(_) if on_noexec(path) => Reason::NoExec,
            Err(_) => Reason::Permission,
        },
        (Errno::NOEXEC, Ok(_)) => match Head::read(path) {
            Some(Head {
                elf: Some(machine), ..
            }) if machine != MACHINE => {
                let mut digits = *b"00000";
                let mut rest = machine;
                for digit in digits.iter_mut().rev() {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
                return Detail::new(Reason::Machine, &digits);
            }
            _ => Reason::Format,
        },
        _ => return Detail::NONE,
    };
    Detail::new(reason, path.to_bytes())
}

fn on_noexec(path: &CStr) -> bool {
    sys::open(path, OFlags::PATH)
        .and_then(fstatvfs)
        .is_ok_and(|status| status.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Follows the chain of interpreters to the one that is missing.
fn missing_interpreter(path: &CStr) -> Detail {
    let Some(mut head) = Head::read(path) else {
        return Detail::NONE;
    };
    for _ in 0..CHAIN {
        let next = head.next();
        if next.is_empty() || stat(next).is_err() {
            break;
        }
        match Head::read(next) {
            Some(following) => head = following,
            None => return Detail::NONE,
        }
    }
    let reason = match head.elf {
        Some(_) => Reason::Loader,
        None => Reason::Interpreter,
    };
    Detail::new(reason, head.next().to_bytes())
}

/// What the beginning of an executable file says.
struct Head {
    /// The machine of an ELF file; `None` for a script.
    elf: Option<u16>,
    /// The path of the script's interpreter or of the dynamic loader, with NUL at the end.
    next: [u8; PATH],
}

/// This machine's `e_machine` (elf.h).
const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "arm") {
    40
} else if cfg!(target_arch = "riscv64") {
    243
} else {
    0
};

impl Head {
    fn next(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.next).unwrap_or_default()
    }

    fn read(path: &CStr) -> Option<Head> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = sys::open(path, flags).ok()?;
        let mut bytes = [0; 512];
        pread(&file, &mut bytes, 0).ok()?;
        let mut next = [0; PATH];
        if let Some(line) = bytes.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
            let name = line
                .split(|byte| matches!(byte, b' ' | b'\t' | b'\0'))
                .next()?;
            // Shorter than the beginning of the file, so that a NUL is left.
            for (to, from) in next.iter_mut().zip(name) {
                *to = *from;
            }
            return Some(Head { elf: None, next });
        }
        if !bytes.starts_with(b"\x7fELF") {
            return None;
        }
        let machine = u16::from_le_bytes(*bytes.get(18..)?.first_chunk()?);
        // Offsets of e_phoff, e_phentsize (e_phnum follows) and, in a program header, p_offset and p_filesz.
        let wide = bytes.get(4) == Some(&2);
        let (phoff, phentsize, offset, size) = if wide {
            (32, 54, 8, 32)
        } else {
            (28, 42, 4, 16)
        };
        let word = |bytes: &[u8], at: usize| -> Option<u64> {
            let bytes = bytes.get(at..)?;
            match wide {
                true => Some(u64::from_le_bytes(*bytes.first_chunk()?)),
                false => Some(u64::from(u32::from_le_bytes(*bytes.first_chunk()?))),
            }
        };
        let half = |at: usize| -> Option<u64> {
            Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
        };
        let (entry_size, count) = (half(phentsize)?, half(phentsize + 2)?);
        let table = word(&bytes, phoff)?;
        for index in 0..count.min(64) {
            let mut entry = [0; 56];
            pread(&file, &mut entry, table.checked_add(index * entry_size)?).ok()?;
            if u32::from_le_bytes(*entry.first_chunk()?) == PT_INTERP {
                let length = (word(&entry, size)? as usize).min(PATH - 1);
                pread(&file, next.get_mut(..length)?, word(&entry, offset)?).ok()?;
                break;
            }
        }
        let elf = Some(machine);
        Some(Head { elf, next })
    }
}

const PT_INTERP: u32 = 3;
