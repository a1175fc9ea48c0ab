//! Who the command runs as: names looked up in the container's own /etc/passwd and /etc/group (passwd(5),
//! group(5)), after its root is complete, so that a volume over /etc/passwd counts.
//!
//! The files belong to the image and may be hostile: they are opened below the root without magic links, must be
//! regular files, and only their first mebibyte is read. Left out: NSS, which would need the container's libc.

use rustix::fd::BorrowedFd;
use rustix::fs::{FileType, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs};
use rustix::io::{Errno, Result};

use crate::report::{Detail, Reason};
use crate::resolve;

/// Supplementary groups at most; Linux takes 65,536, of which nobody has been seen to use more than a few dozen.
const GROUPS: usize = 128;
/// Longest line that is understood; longer ones are passed over.
const LINE: usize = 16 * 1024;
/// Bytes of a file that are read.
const FILE: usize = 1024 * 1024;
/// Longest home directory.
const HOME: usize = 1024;

pub struct User {
    pub uid: u32,
    pub gid: u32,
    groups: [u32; GROUPS],
    group_count: usize,
    home: [u8; HOME],
    home_length: usize,
}

impl User {
    pub const ROOT: User = User {
        uid: 0,
        gid: 0,
        groups: [0; GROUPS],
        group_count: 0,
        home: [0; HOME],
        home_length: 0,
    };

    pub fn groups(&self) -> &[u32] {
        self.groups.get(..self.group_count).unwrap_or_default()
    }

    /// The home directory, `/` if the user has none.
    pub fn home(&self) -> &[u8] {
        match self.home.get(..self.home_length) {
            Some(home) if !home.is_empty() => home,
            _ => b"/",
        }
    }

    fn set_home(&mut self, home: &[u8]) {
        if home.len() < HOME {
            for (to, from) in self.home.iter_mut().zip(home) {
                *to = *from;
            }
            self.home_length = home.len();
        }
    }

    fn add_group(&mut self, gid: u32) -> Result<()> {
        if self.groups().contains(&gid) {
            return Ok(());
        }
        *self.groups.get_mut(self.group_count).ok_or(Errno::TOOBIG)? = gid;
        self.group_count += 1;
        Ok(())
    }

    /// Finds `user` (a name or a number) and `group` (the same) below `root`.
    ///
    /// A user given by number needs no entry; its group is then 0, as with Docker. Supplementary groups are those
    /// that list the user's name, unless a group was given.
    pub fn lookup(
        root: BorrowedFd<'_>,
        user: &[u8],
        group: Option<&[u8]>,
        detail: &mut Detail,
    ) -> Result<User> {
        let mut found = User::ROOT;
        let number = number(user);
        let mut name = [0; LINE];
        let mut name_length = None;
        let result = each_line(root, b"/etc/passwd", &mut |line| {
            let mut fields = line.split(|byte| *byte == b':');
            let (entry, uid) = (fields.next()?, fields.nth(1)?);
            let (uid, gid) = (self::number(uid)?, self::number(fields.next()?)?);
            if entry != user && Some(uid) != number {
                return None;
            }
            (found.uid, found.gid) = (uid, gid);
            found.set_home(fields.nth(1).unwrap_or_default());
            for (to, from) in name.iter_mut().zip(entry) {
                *to = *from;
            }
            name_length = Some(entry.len());
            Some(())
        });
        // A number needs no entry, whatever is wrong with the file.
        if number.is_none() {
            result?;
        }
        match (name_length, number) {
            (None, None) => {
                *detail = Detail::new(Reason::User, user);
                return Err(Errno::NOENT);
            }
            (None, Some(uid)) => found.uid = uid,
            _ => {}
        }
        if let Some(group) = group {
            *detail = Detail::new(Reason::Group, group);
            found.gid = find_group(root, group)?;
            *detail = Detail::NONE;
            return Ok(found);
        }
        // As initgroups(3) has it.
        found.add_group(found.gid)?;
        let Some(name) = name_length.and_then(|length| name.get(..length)) else {
            return Ok(found);
        };
        let mut overflow = Ok(());
        each_line(root, b"/etc/group", &mut |line| {
            let mut fields = line.split(|byte| *byte == b':');
            let (gid, members) = (self::number(fields.nth(2)?)?, fields.next()?);
            if members
                .split(|byte| *byte == b',')
                .any(|member| member == name)
            {
                overflow = overflow.and(found.add_group(gid));
            }
            None
        })
        .and(overflow)?;
        Ok(found)
    }
}

fn find_group(root: BorrowedFd<'_>, group: &[u8]) -> Result<u32> {
    let mut found = number(group);
    if found.is_none() {
        each_line(root, b"/etc/group", &mut |line| {
            let mut fields = line.split(|byte| *byte == b':');
            if fields.next()? == group {
                found = Some(number(fields.nth(1)?)?);
            }
            found.map(drop)
        })?;
    }
    found.ok_or(Errno::NOENT)
}

/// A decimal number that is a valid id; `u32::MAX` means "no change" to the kernel and is none.
fn number(text: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(text).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// Calls `visit` with each line of a file until it returns something. A missing file has no lines.
fn each_line(
    root: BorrowedFd<'_>,
    path: &[u8],
    visit: &mut dyn FnMut(&[u8]) -> Option<()>,
) -> Result<()> {
    // O_NONBLOCK: opening a fifo must not wait for a writer that never comes.
    let file = match resolve::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        file => file?,
    };
    // Not a file of proc either: reading /proc/kmsg takes the host's kernel log away.
    let regular = FileType::from_raw_mode(fstat(&file)?.st_mode).is_file();
    if !regular || fstatfs(&file)?.f_type == PROC_SUPER_MAGIC {
        return Err(Errno::INVAL);
    }
    let mut buffer = [0; LINE];
    let (mut filled, mut total) = (0, 0);
    let mut too_long = false;
    loop {
        let space = buffer.get_mut(filled..).unwrap_or_default();
        let count = rustix::io::read(&file, space)?;
        total += count;
        filled += count;
        let mut start = 0;
        let bytes = buffer.get(..filled).unwrap_or_default();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = line.ends_with(b"\n");
            if !whole && count > 0 {
                break;
            }
            start += line.len();
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            if !core::mem::take(&mut too_long) && visit(line).is_some() {
                return Ok(());
            }
        }
        if count == 0 || total >= FILE {
            return Ok(());
        }
        if start == 0 && filled == LINE {
            (too_long, start) = (true, filled);
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}
