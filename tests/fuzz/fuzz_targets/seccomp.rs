//! Feeds any text to `--seccomp FILE`: an error is one line; what is accepted makes a program that the kernel would take,
//! whatever the capabilities.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../../../src/json.rs"]
mod json;
#[path = "../../../src/seccomp/mod.rs"]
#[allow(dead_code)]
mod seccomp;
use seccomp::{Seccomp, filter, json::profile};

fn check_line(error: &str) {
    assert!(!error.contains(char::is_control), "{error:?}");
}

fuzz_target!(|data: &[u8]| {
    let profile = match profile("x.json", data) {
        Ok(profile) => profile,
        Err(error) => return check_line(&error),
    };
    let seccomp = Seccomp::File(Box::new(profile));
    for capabilities in [0, 1 << 21, u64::MAX] {
        let program = match filter(&seccomp, capabilities, (6, 18)) {
            Ok(filter) => filter.unwrap().program,
            Err(error) => {
                check_line(&error.to_string());
                continue;
            }
        };
        assert!(program.len() <= 4096);
        for (at, instruction) in program.iter().enumerate() {
            let left = program.len() - at - 1;
            match instruction.code {
                0x06 => {} // return
                0x05 => assert!((instruction.k as usize) < left),
                _ => assert!(usize::from(instruction.jt.max(instruction.jf)) < left),
            }
        }
    }
});
