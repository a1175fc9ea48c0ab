//! Feeds any bytes to the netlink parser, and checks that all it returns lies in them; then what a batch was made of is read
//! back.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/net/netlink.rs"]
#[allow(dead_code)]
mod netlink;
use netlink::{Attributes, Batch, Message, Messages};

/// How many attributes there are, those in attributes included, as deep as there is room.
fn count(attributes: Attributes<'_>, batch: &mut Batch) -> usize {
    let mut all = 0;
    for (kind, value) in attributes {
        assert!(kind < 0x4000);
        let _ = (netlink::text(value), netlink::word(value));
        batch.nest(kind, |batch| all += 1 + count(Attributes(value), batch));
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let mut batch = Batch::new();
    let counts: Vec<usize> = Messages(data)
        .map(|Message { kind, flags, body, .. }| {
            batch.message(kind, flags, &[]);
            count(Attributes(body), &mut batch)
        })
        .collect();
    let mut sink = Batch::new();
    sink.message(0, 0, &[]);
    let again: Vec<usize> = Messages(batch.as_bytes())
        .map(|message| count(message.attributes(0), &mut sink))
        .collect();
    assert_eq!(counts, again);
});
