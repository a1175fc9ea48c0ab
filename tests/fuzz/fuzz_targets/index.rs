//! Feeds any bytes to the index writer as one tar or two layers, and reads the image back: every number leads to something
//! inside the image, names are sorted, links are counted, and no directory is found twice. The same bytes give the same image.
#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../../../src/image/mod.rs"]
#[allow(dead_code)]
mod image;
#[path = "../../../src/json.rs"]
#[allow(dead_code)]
mod json;
#[path = "../../../src/output.rs"]
#[allow(dead_code)]
mod output;
use image::index::index;
use image::reader::{Section, Whiteouts};
use image::tar::BLOCK;

/// A file that nobody else sees.
fn file(data: &[u8]) -> File {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(0o20_200_000); // O_TMPFILE on x86_64
    let mut file = options.open("/dev/shm").unwrap();
    file.write_all(data).unwrap();
    file
}

/// Fills in the checksum of every block that could be a header: hardly an input would get past it otherwise.
fn fix_checksums(data: &mut [u8]) {
    for block in data.chunks_exact_mut(BLOCK) {
        if block.iter().any(|&byte| byte != 0) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}

fn number(image: &[u8], at: usize, bytes: usize) -> u64 {
    let bytes = image[at..at + bytes].iter().rev();
    bytes.fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// What fs/erofs of the kernel relies on, and what index.rs promises.
fn check(image: &[u8], size: u64) {
    assert_eq!(number(image, 1024, 4), 0xe0f5_e1e2);
    assert!(image.len().is_multiple_of(BLOCK) && image[..1024].iter().all(|&byte| byte == 0));
    let blocks = number(image, 1024 + 36, 4);
    assert_eq!(blocks as usize * BLOCK, image.len());
    let devices = number(image, 1024 + 86, 2) as usize;
    let device = |at: usize| {
        (
            number(image, 1152 + at * 128 + 68, 4),
            number(image, 1152 + at * 128 + 64, 4),
        )
    };
    let mut end = blocks;
    for at in 0..devices {
        assert_eq!(device(at).0, end);
        assert!(device(at).1 <= size.div_ceil(BLOCK as u64));
        end += device(at).1;
    }
    let root = number(image, 1024 + 14, 2) as usize;
    let mut found = std::collections::BTreeMap::from([(root, 0)]);
    let mut todo = vec![(root, root)];
    while let Some((inode, parent)) = todo.pop() {
        let at = inode * 32;
        let (format, xattrs, mode) = (
            number(image, at, 2),
            number(image, at + 2, 2),
            number(image, at + 4, 2),
        );
        let (size, address) = (number(image, at + 8, 8), number(image, at + 16, 4));
        let head = 64
            + if xattrs > 0 {
                8 + 4 * xattrs as usize
            } else {
                0
            };
        assert!(format == 1 || format == 5 && mode >> 12 == 0o12);
        let mut xattr = at + 64 + 12;
        while xattr < at + head {
            assert!(matches!(image[xattr + 1], 1..=4 | 6));
            xattr += (4 + image[xattr] as usize + number(image, xattr + 2, 2) as usize)
                .next_multiple_of(4);
        }
        assert!(head == 64 || xattr == at + head);
        let last = address + size.div_ceil(BLOCK as u64);
        match mode >> 12 {
            0o12 if format == 5 => assert!(
                (at + head) % BLOCK + size as usize <= BLOCK
                    && at + head + size as usize <= image.len()
            ),
            0o12 => assert!(size > 0 && last <= blocks),
            0o10 => assert!(address >= blocks && last <= end),
            0o04 => {
                assert!(last <= blocks && size > 0);
                let data = &image[address as usize * BLOCK..][..size as usize];
                let mut before: Option<&[u8]> = None;
                let mut dots = 0;
                for block in data.chunks(BLOCK) {
                    let count = number(block, 8, 2) as usize / 12;
                    for entry in 0..count {
                        let start = number(block, entry * 12 + 8, 2) as usize;
                        let stop = match entry + 1 {
                            next if next < count => number(block, next * 12 + 8, 2) as usize,
                            _ => block[start..]
                                .iter()
                                .position(|&b| b == 0)
                                .map_or(block.len(), |zero| start + zero),
                        };
                        let name = &block[start..stop];
                        assert!(
                            !name.is_empty()
                                && name.len() < 256
                                && !name.contains(&0)
                                && before < Some(name)
                        );
                        before = Some(name);
                        let inner = number(block, entry * 12, 8) as usize;
                        let kind = number(image, inner * 32 + 4, 2) >> 12;
                        let types = [
                            (1, 0o10),
                            (2, 0o04),
                            (3, 0o02),
                            (4, 0o06),
                            (5, 0o01),
                            (7, 0o12),
                        ];
                        assert!(types.contains(&(block[entry * 12 + 10], kind)));
                        match name {
                            b"." => assert_eq!(inner, inode),
                            b".." => assert_eq!(inner, parent),
                            _ => {
                                let seen = found.entry(inner).or_insert(0);
                                *seen += 1;
                                // A directory is found once.
                                assert!(kind != 0o04 || *seen == 1 && inner != root);
                                if *seen == 1 {
                                    todo.push((inner, inode));
                                }
                                continue;
                            }
                        }
                        dots += 1;
                        *found.get_mut(&inner).unwrap() += 1;
                    }
                }
                assert_eq!(dots, 2);
            }
            _ => {}
        }
    }
    for (&inode, &links) in &found {
        assert_eq!(number(image, inode * 32 + 44, 4), links);
    }
    assert_eq!(number(image, 1024 + 16, 8), found.len() as u64);
}

fuzz_target!(|data: &[u8]| {
    let Some((&how, data)) = data.split_first() else {
        return;
    };
    let mut data = data.to_vec();
    if how & 1 != 0 {
        fix_checksums(&mut data);
    }
    let whiteouts = match how >> 1 & 3 {
        0 => Whiteouts::Ordinary,
        1 => Whiteouts::Remove,
        2 => Whiteouts::Overlay { userxattr: true },
        _ => Whiteouts::Overlay { userxattr: false },
    };
    // The same file twice is two layers on one device.
    let (tar, size) = (file(&data), data.len() as u64);
    let section = |offset: u64, left: u64| {
        let file = tar.try_clone().unwrap();
        (b"x.tar".to_vec(), Section { file, offset, left })
    };
    let half = size / 2 / BLOCK as u64 * BLOCK as u64;
    let tars = match how >> 3 & 3 {
        0 => vec![section(0, half), section(half, size - half)],
        1 => vec![section(0, size), section(0, size)],
        2 => vec![section(how.into(), size.saturating_sub(how.into()))],
        _ => vec![section(0, size)],
    };
    let make = || {
        let out = file(b"");
        index(&tars, whiteouts, &out).map(|result| result.map(|made| (made, out)))
    };
    match make() {
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
        Ok(Err(reason)) => assert!(!reason.contains(char::is_control)),
        Ok(Ok((made, out))) => {
            let read = |file: File| {
                let mut image = vec![0; file.metadata().unwrap().len() as usize];
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut image, 0).unwrap();
                image
            };
            let image = read(out);
            assert_eq!(made.size, image.len() as u64);
            check(&image, size);
            assert!(read(make().unwrap().unwrap().1) == image);
        }
    }
});
