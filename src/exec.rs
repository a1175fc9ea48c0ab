//! Executing the command, and finding out why it could not be executed.
//!
//! execve(2) says ENOENT for a missing file, a missing script interpreter and a missing dynamic loader alike, and
//! EACCES for four more causes. Shells and engines pass that on as it is; here the file is looked at once it has
//! failed, by the same process in the same root, and the cause named. elf(5). Left out: running a file without
//! `#!` through /bin/sh, as execvp(3) does: what is executed should be what was asked for.

use core::ffi::CStr;

use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, StatVfsMountFlags, accessat, fstatvfs, openat, stat,
};
use rustix::io::{Errno, pread};

use crate::report::{Detail, Reason};
use crate::step::Command;
use crate::sys::{Word, execve};

/// Linux allows four interpreters in a row (`BINPRM_MAX_RECURSION`); one more for the loader of the last.
const CHAIN: usize = 6;
/// Longest interpreter path that is looked at; the kernel reads 256 bytes of a `#!` line.
const PATH: usize = 512;

/// Tries the candidates in order; returns only if none could be executed.
pub fn execute(command: &Command, environment: &[Word]) -> (Errno, Detail) {
    let mut reason = (
        Errno::NOENT,
        Detail::new(Reason::NotFound, command.name.to_bytes()),
    );
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
    let Ok(status) = stat(path) else {
        return match errno {
            Errno::NOENT | Errno::NOTDIR => Detail::new(Reason::NotFound, path.to_bytes()),
            _ => Detail::NONE,
        };
    };
    match errno {
        Errno::NOENT => missing_interpreter(path),
        Errno::ACCESS if FileType::from_raw_mode(status.st_mode).is_dir() => {
            Detail::new(Reason::Directory, path.to_bytes())
        }
        Errno::ACCESS
            if accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_err() =>
        {
            Detail::new(
                if on_noexec(path) {
                    Reason::NoExec
                } else {
                    Reason::Permission
                },
                path.to_bytes(),
            )
        }
        Errno::NOEXEC => match Head::read(path) {
            Some(Head::Elf(elf)) if elf.machine != MACHINE => {
                let mut digits = *b"00000";
                let mut rest = elf.machine;
                for digit in digits.iter_mut().rev() {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
                Detail::new(Reason::Machine, &digits)
            }
            _ => Detail::new(Reason::Format, path.to_bytes()),
        },
        _ => Detail::NONE,
    }
}

fn on_noexec(path: &CStr) -> bool {
    openat(
        rustix::fs::CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(fstatvfs)
    .is_ok_and(|status| status.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Follows the chain of interpreters to the one that is missing.
fn missing_interpreter(path: &CStr) -> Detail {
    let mut buffer = [0; PATH];
    let mut head = Head::read(path);
    for _ in 0..CHAIN {
        let (reason, name) = match &head {
            Some(Head::Script(name)) => (Reason::Interpreter, *name),
            Some(Head::Elf(elf)) => (Reason::Loader, elf.loader),
            None => return Detail::NONE,
        };
        buffer = name;
        let Ok(next) = CStr::from_bytes_until_nul(&buffer) else {
            return Detail::NONE;
        };
        if next.is_empty() || stat(next).is_err() {
            return Detail::new(reason, next.to_bytes());
        }
        head = Head::read(next);
    }
    Detail::new(
        Reason::Interpreter,
        CStr::from_bytes_until_nul(&buffer)
            .unwrap_or_default()
            .to_bytes(),
    )
}

/// What the beginning of an executable file says. Paths end with NUL.
enum Head {
    Script([u8; PATH]),
    Elf(Elf),
}

struct Elf {
    machine: u16,
    loader: [u8; PATH],
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
    fn read(path: &CStr) -> Option<Head> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(rustix::fs::CWD, path, flags, Mode::empty()).ok()?;
        let mut bytes = [0; 512];
        pread(&file, &mut bytes, 0).ok()?;
        if let Some(line) = bytes.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
            let end = line
                .iter()
                .position(|byte| matches!(byte, b' ' | b'\t' | b'\0'));
            return Some(Head::Script(terminated(
                line.get(..end.unwrap_or(line.len()))?,
            )));
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
        let half = |at: usize| {
            Some(u64::from(u16::from_le_bytes(
                *bytes.get(at..)?.first_chunk()?,
            )))
        };
        let (table, entry_size, count) =
            (word(&bytes, phoff)?, half(phentsize)?, half(phentsize + 2)?);
        let mut elf = Elf {
            machine,
            loader: [0; PATH],
        };
        for index in 0..count.min(64) {
            let mut entry = [0; 56];
            pread(&file, &mut entry, table.checked_add(index * entry_size)?).ok()?;
            if u32::from_le_bytes(*entry.first_chunk()?) == PT_INTERP {
                let mut name = [0; PATH];
                let length = (word(&entry, size)? as usize).min(PATH - 1);
                pread(&file, name.get_mut(..length)?, word(&entry, offset)?).ok()?;
                elf.loader = name;
                break;
            }
        }
        Some(Head::Elf(elf))
    }
}

const PT_INTERP: u32 = 3;

/// A copy of `name` that ends with NUL, cut if it is too long.
fn terminated(name: &[u8]) -> [u8; PATH] {
    let mut copy = [0; PATH];
    for (to, from) in copy.iter_mut().take(PATH - 1).zip(name) {
        *to = *from;
    }
    copy
}
