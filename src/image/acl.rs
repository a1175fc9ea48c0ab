//! POSIX access control lists: the text a tar holds, and the extended attribute the kernel wants.
//!
//! Format: acl(5), "long text form" and "short text form", one entry a line or separated by commas, as GNU tar
//! (`SCHILY.acl.access`), star and bsdtar write it; and the value of `system.posix_acl_access` and
//! `system.posix_acl_default`, linux/posix_acl_xattr.h: a little-endian version, then {tag, permissions, id} entries
//! in the order of their tags.
//!
//! Left out: looking up names. The ids belong to the image and this machine's passwd does not know them, so an entry
//! that has only a name is an error. (star and bsdtar add the id as a fourth field; GNU tar writes the binary form
//! beside the text if asked with `--xattrs --xattrs-include='*'`.)

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

// linux/posix_acl.h
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The length of a list with only owner, group and others. As an access list it says no more than the mode does; GNU
/// tar writes one for every member.
pub const MINIMAL: usize = 4 + 3 * 8;

/// The kernel's form of the list `text`.
pub fn from_text(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut entries = Vec::new();
    for line in text.split(|byte| matches!(byte, b',' | b'\n')) {
        // getfacl(1) appends "#effective:r--".
        let line = line.split(|&byte| byte == b'#').next().unwrap_or(line);
        if !line.trim_ascii().is_empty() {
            entries.push(entry(line)?);
        }
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    // posix_acl_valid() of the kernel wants them in this order; GNU tar writes them so, bsdtar does not.
    for tag in [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER] {
        for entry in entries.iter().filter(|entry| entry.0 == tag) {
            value.extend(tag.to_le_bytes());
            value.extend(entry.2.to_le_bytes());
            value.extend(entry.1.to_le_bytes());
        }
    }
    Ok(value)
}

/// `TAG:QUALIFIER:PERMISSIONS[:ID]` as (tag, id, permissions).
fn entry(line: &[u8]) -> Result<(u16, u32, u16), &'static str> {
    const MALFORMED: &str = "its access control list is malformed";
    let mut fields = line.split(|&byte| byte == b':').map(<[u8]>::trim_ascii);
    let mut field = || fields.next().unwrap_or(b"");
    let (mut tag, mut qualifier) = (field(), field());
    if matches!(tag, b"default" | b"d") {
        (tag, qualifier) = (qualifier, field());
    }
    // "mask::rwx", but acl(5) also allows "mask:rwx".
    let mut permissions = field();
    if permissions.is_empty() && matches!(tag, b"mask" | b"m" | b"other" | b"o") {
        (permissions, qualifier) = (qualifier, b"");
    }
    let id = field();
    let mut bits = 0;
    for byte in permissions {
        bits |= match byte {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return Err(MALFORMED),
        };
    }
    let named = !qualifier.is_empty();
    let tag = match tag {
        b"user" | b"u" if named => USER,
        b"user" | b"u" => USER_OBJ,
        b"group" | b"g" if named => GROUP,
        b"group" | b"g" => GROUP_OBJ,
        b"mask" | b"m" if !named => MASK,
        b"other" | b"o" if !named => OTHER,
        _ => return Err(MALFORMED),
    };
    if !named {
        return Ok((tag, NO_ID, bits));
    }
    let digits = if id.is_empty() { qualifier } else { id };
    match str::from_utf8(digits).map(str::parse) {
        Ok(Ok(id)) if id != NO_ID => Ok((tag, id, bits)),
        _ => Err("its access control list has a name without the numeric id"),
    }
}

/// The entries of a list in the kernel's form; None if it is malformed.
fn entries(list: &[u8]) -> Option<&[[u8; 8]]> {
    let (entries, rest) = list.strip_prefix(&VERSION.to_le_bytes())?.as_chunks();
    rest.is_empty().then_some(entries)
}

/// Tag, permissions and id of an entry.
fn fields(&[t0, t1, p0, p1, id @ ..]: &[u8; 8]) -> (u16, u16, u32) {
    let (tag, permissions) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
    (tag, permissions, u32::from_le_bytes(id))
}

/// The permission bits of the mode that a file with this access list has; None if the kernel would not take the list, or
/// not give it back as it is (posix_acl_valid(), posix_acl_update_mode()).
pub fn mode(list: &[u8]) -> Option<u32> {
    let (mut mode, mut last, mut seen) = (0, 0, 0);
    for entry in entries(list)? {
        let (tag, permissions, id) = fields(entry);
        let named = matches!(tag, USER | GROUP);
        let in_order = tag > last || tag == last && named;
        if !in_order || permissions > 7 || named == (id == NO_ID) {
            return None;
        }
        let permissions = u32::from(permissions);
        match tag {
            USER_OBJ => mode |= permissions << 6,
            // The mask stands for the group, if there is one.
            GROUP_OBJ => mode |= permissions << 3,
            MASK => mode = mode & !0o070 | permissions << 3,
            OTHER => mode |= permissions,
            USER | GROUP => {}
            _ => return None,
        }
        last = tag;
        seen |= tag;
    }
    let needed = match seen & (USER | GROUP) {
        0 => USER_OBJ | GROUP_OBJ | OTHER,
        _ => USER_OBJ | GROUP_OBJ | OTHER | MASK,
    };
    (seen & needed == needed).then_some(mode)
}

#[cfg(feature = "images")]
/// The text of a list in the kernel's form, an entry a line, with numbers for names; None if it is malformed.
pub fn to_text(list: &[u8]) -> Option<String> {
    let mut text = String::new();
    for entry in entries(list)? {
        let (tag, permissions, id) = fields(entry);
        text.push_str(match tag {
            USER_OBJ | USER => "user:",
            GROUP_OBJ | GROUP => "group:",
            MASK => "mask:",
            OTHER => "other:",
            _ => return None,
        });
        if matches!(tag, USER | GROUP) {
            text.push_str(&id.to_string());
        }
        text.push(':');
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            text.push(if permissions & bit == 0 { '-' } else { letter });
        }
        text.push('\n');
    }
    Some(text)
}

#[cfg(feature = "images")]
/// Replaces the ids in a list in the kernel's form by what `id` makes of them; None if it does not for one.
pub fn map_ids(list: &mut [u8], map: impl Fn(u32) -> Option<u32>) -> Option<()> {
    for entry in list.get_mut(4..)?.as_chunks_mut().0 {
        if let (USER | GROUP, _, id) = fields(entry) {
            entry[4..].copy_from_slice(&map(id)?.to_le_bytes());
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: &[u8] = b"\x02\0\0\0\
        \x01\0\x06\0\xff\xff\xff\xff\
        \x02\0\x04\0\x39\x30\0\0\
        \x04\0\x04\0\xff\xff\xff\xff\
        \x10\0\x06\0\xff\xff\xff\xff\
        \x20\0\0\0\xff\xff\xff\xff";

    #[test]
    fn gnu_star_and_short_forms_are_one_list() {
        for text in [
            "user::rw-\nuser:12345:r--\ngroup::r--\nmask::rw-\nother::---\n",
            "user::rw-,group::r--,other::---,user:lisa:r--:12345,mask::rw-",
            "u::rw,u:12345:r,g::r,m:rw,o:-",
            "default:user::rw- #effective:r--\ndefault:user:12345:r--\ndefault:group::r--\ndefault:mask::rw-\ndefault:other::---",
        ] {
            assert_eq!(from_text(text.as_bytes()).unwrap(), NAMED, "{text}");
        }
    }

    #[test]
    fn a_minimal_list_is_told_by_its_length() {
        let list = from_text(b"user::rw-\ngroup::r--\nother::r--\n").unwrap();
        assert_eq!(list.len(), MINIMAL);
        assert_eq!(from_text(b"").unwrap(), VERSION.to_le_bytes());
    }

    #[test]
    fn a_list_has_a_mode_if_the_kernel_takes_it() {
        assert_eq!(mode(NAMED), Some(0o660));
        let minimal = from_text(b"u::rwx,g::r-x,o::--x").unwrap();
        assert_eq!(mode(&minimal), Some(0o751));
        for wrong in [
            "",
            "u::rwx,g::r-x",
            "u::rwx,g::r-x,o::--x,u:5:r--",
            "u::rwx,u::rwx,g::r-x,o::--x",
        ] {
            assert_eq!(mode(&from_text(wrong.as_bytes()).unwrap()), None, "{wrong}");
        }
        assert_eq!(mode(&NAMED[..NAMED.len() - 1]), None);
        assert_eq!(mode(b"\x02\0\0"), None);
    }

    #[test]
    fn names_and_nonsense_are_errors() {
        for text in [
            "user:daemon:r--",
            "user:4294967295:r--",
            "user::rwz",
            "what::r--",
            "::",
            "mask:5:r--",
        ] {
            assert!(from_text(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[cfg(feature = "images")]
    #[test]
    fn a_list_has_a_text_and_other_ids() {
        let text = "user::rw-\nuser:12345:r--\ngroup::r--\nmask::rw-\nother::---\n";
        assert_eq!(to_text(NAMED).unwrap(), text);
        assert_eq!(to_text(b"\x02\0\0\0\x01"), None);
        assert_eq!(to_text(b"\x01\0\0\0"), None);
        let mut list = NAMED.to_vec();
        assert_eq!(map_ids(&mut list, |id| id.checked_sub(12_000)), Some(()));
        let text = text.replace("12345", "345");
        assert_eq!(to_text(&list).unwrap(), text);
        assert_eq!(map_ids(&mut list, |_| None), None);
    }
}
