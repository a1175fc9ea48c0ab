//! Feeds any bytes to the decompressors: no panic, no endless loop, errors of one line. The first byte says how many
//! plain bytes are asked for at once.
#![no_main]

use std::io::Read;

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
use image::decompress;

/// Bytes: a small input inflates to gigabytes, which would only take time.
const ENOUGH: usize = 1 << 20;

fn check_line(error: &str) {
    assert!(!error.contains(char::is_control), "{error:?}");
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, mut data)) = data.split_first() else {
        return;
    };
    let mut plain = match decompress::open(&mut data, b"x") {
        Ok(plain) => plain,
        Err(error) => return check_line(&error.to_string()),
    };
    let mut buffer = vec![0; (usize::from(step) << 8) + 1];
    let mut total = 0;
    while total < ENOUGH {
        match plain.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => total += count,
            Err(error) => return check_line(&error.to_string()),
        }
    }
});
