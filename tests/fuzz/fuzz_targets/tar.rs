//! Feeds any bytes to the tar parser as `unpack` does, and checks what tar.rs promises about a `Member`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/image/acl.rs"]
mod acl;
#[path = "../../../src/image/tar.rs"]
#[allow(dead_code)]
mod tar;
use tar::{BLOCK, EXTENSION_LIMIT, Item, Kind, Member, Parser};

/// The checksum field is filled in first: hardly an input would get past it otherwise.
fn fix_checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn check(member: &Member) {
    assert!(!member.path.contains(&0) && !member.link.contains(&0));
    assert!(member.uid != u32::MAX && member.gid != u32::MAX);
    assert!(member.mode <= 0o7777 && member.mtime.1 < 1_000_000_000);
    let size: usize = member
        .xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    assert!(size as u64 <= 5 * EXTENSION_LIMIT);
    let Some(map) = &member.sparse else {
        return assert_eq!(member.size, member.stored);
    };
    assert_eq!(member.kind, Kind::File);
    let mut end = 0;
    for &(offset, length) in map {
        assert!(offset >= end && length > 0);
        end = offset + length;
    }
    assert!(end <= member.size);
    assert_eq!(
        map.iter().map(|&(_, length)| length).sum::<u64>(),
        member.stored
    );
}

fuzz_target!(|data: &[u8]| {
    let Some((&fix, mut data)) = data.split_first() else {
        return;
    };
    let mut parser = Parser::default();
    let mut in_map = false;
    while let Some((block, rest)) = data.split_first_chunk::<BLOCK>() {
        let mut block = *block;
        if fix & 1 != 0 && !in_map && block.iter().any(|&byte| byte != 0) {
            fix_checksum(&mut block);
        }
        data = rest;
        let Ok(item) = parser.header(&block) else {
            return;
        };
        in_map = item == Item::More;
        let stored = match item {
            Item::More => 0,
            Item::End => return,
            Item::Extension { size } => {
                assert!(size as u64 <= EXTENSION_LIMIT);
                let Some(content) = data.get(..size) else {
                    return;
                };
                if parser.extension(content).is_err() {
                    return;
                }
                size as u64
            }
            Item::Member(member) => {
                check(&member);
                member.stored
            }
        };
        let padded = stored.checked_next_multiple_of(BLOCK as u64);
        let padded = padded.and_then(|padded| usize::try_from(padded).ok());
        let Some(rest) = padded.and_then(|padded| data.get(padded..)) else {
            return;
        };
        data = rest;
    }
});
