//! The messages, byte for byte as iproute2 6.1 sends them, and what the parser makes of bytes that are none.
//! Captured in a throw-away namespace: `unshare -n`, there `strace -f -e trace=sendto,sendmsg -e write=all ip ...`. The
//! sequence number, which iproute2 takes from the clock, is 1 here.
#![cfg(target_endian = "little")]

use super::bridge::*;
use super::netlink::*;

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |text: &str| u8::from_str_radix(text, 16).unwrap();
    hex.split_whitespace().map(byte).collect()
}

fn made(fill: impl FnOnce(&mut Batch)) -> Vec<u8> {
    let mut batch = Batch::new();
    fill(&mut batch);
    batch.into_bytes()
}

#[test]
fn a_bridge_is_made_as_by_iproute2() {
    // ip link add name mini0 address 02:42:0a:b1:00:01 mtu 1500 type bridge
    let expected = bytes(
        "50 00 00 00 10 00 05 06 01 00 00 00 00 00 00 00
         00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
         0a 00 01 00 02 42 0a b1 00 01 00 00 08 00 04 00
         dc 05 00 00 0a 00 03 00 6d 69 6e 69 30 00 00 00
         10 00 12 00 0a 00 01 00 62 72 69 64 67 65 00 00",
    );
    let batch = made(|batch| new_bridge(batch, "mini0", [10, 177, 0, 1], 1500));
    assert_eq!(batch, expected);
}

#[test]
fn an_address_and_a_route_are_added_as_by_iproute2() {
    // ip address add 10.177.0.1/24 broadcast + dev mini0 (which has index 2)
    let expected = bytes(
        "30 00 00 00 14 00 05 06 01 00 00 00 00 00 00 00
         02 18 00 00 02 00 00 00 08 00 02 00 0a b1 00 01
         08 00 01 00 0a b1 00 01 08 00 04 00 0a b1 00 ff",
    );
    let batch = made(|batch| new_address(batch, 2, [10, 177, 0, 1]));
    assert_eq!(batch, expected);
    // ip route add default via 10.177.0.1
    let expected = bytes(
        "24 00 00 00 18 00 05 06 01 00 00 00 00 00 00 00
         02 00 00 00 fe 03 00 01 00 00 00 00 08 00 05 00
         0a b1 00 01",
    );
    let batch = made(|batch| new_default_route(batch, [10, 177, 0, 1]));
    assert_eq!(batch, expected);
}

#[test]
fn a_pair_is_made_as_by_iproute2() {
    // ip link add name mabc up index 70000 mtu 1500 master mini0 type veth
    //   peer name eth0 index 100 address 02:42:0a:b1:00:02 mtu 1500 netns 19615
    let expected = bytes(
        "88 00 00 00 10 00 05 06 01 00 00 00 00 00 00 00
         00 00 00 00 70 11 01 00 01 00 00 00 01 00 00 00
         08 00 04 00 dc 05 00 00 08 00 0a 00 02 00 00 00
         09 00 03 00 6d 61 62 63 00 00 00 00 4c 00 12 00
         08 00 01 00 76 65 74 68 40 00 02 00 3c 00 01 00
         00 00 00 00 64 00 00 00 00 00 00 00 00 00 00 00
         0a 00 01 00 02 42 0a b1 00 02 00 00 08 00 04 00
         dc 05 00 00 08 00 13 00 9f 4c 00 00 09 00 03 00
         65 74 68 30 00 00 00 00",
    );
    let batch = made(|batch| new_veth(batch, (70000, "mabc"), 2, 1500, 19615, [10, 177, 0, 2]));
    assert_eq!(batch, expected);
}

#[test]
fn an_interface_is_removed_and_lo_brought_up_as_by_iproute2() {
    // ip link del dev mini0
    let expected = bytes(
        "20 00 00 00 11 00 05 00 01 00 00 00 00 00 00 00
         00 00 00 00 02 00 00 00 00 00 00 00 00 00 00 00",
    );
    assert_eq!(made(|batch| delete_link(batch, 2)), expected);
    // ip link set dev mini0 up
    let expected = bytes(
        "20 00 00 00 10 00 05 00 01 00 00 00 00 00 00 00
         00 00 00 00 02 00 00 00 01 00 00 00 01 00 00 00",
    );
    assert_eq!(made(|batch| set_up(batch, 2)), expected);
    // The same for index 1, the sequence number being another.
    let expected = bytes(
        "20 00 00 00 10 00 05 00 00 00 00 00 00 00 00 00
         00 00 00 00 01 00 00 00 01 00 00 00 01 00 00 00",
    );
    assert_eq!(container::network::LOOPBACK, expected);
}

#[test]
fn what_was_written_is_read_back() {
    let mut batch = Batch::new();
    new_bridge(&mut batch, "a", [1, 2, 3, 4], 9000);
    new_veth(&mut batch, (9, "v"), 3, 1400, 77, [1, 2, 3, 5]);
    let messages: Vec<Message> = Messages(batch.as_bytes()).collect();
    let kinds = messages.iter().map(|it| (it.kind, it.flags, it.sequence));
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE;
    assert!(kinds.eq([(RTM_NEWLINK, flags, 1), (RTM_NEWLINK, flags, 2)]));
    let bridge = messages[0].attributes(16);
    assert_eq!(bridge.number(IFLA_MTU), Some(9000));
    assert_eq!(text(bridge.value(IFLA_IFNAME).unwrap()), "a");
    assert_eq!(
        bridge.nested(IFLA_LINKINFO).value(IFLA_INFO_KIND),
        Some(&b"bridge"[..])
    );
    let data = messages[1]
        .attributes(16)
        .nested(IFLA_LINKINFO)
        .nested(IFLA_INFO_DATA);
    let peer = Attributes(&data.value(VETH_INFO_PEER).unwrap()[16..]);
    assert_eq!(peer.number(IFLA_NET_NS_PID), Some(77));
    assert_eq!(peer.number(IFLA_MASTER), None);
}

#[test]
fn what_does_not_fit_ends_the_iteration() {
    let whole = made(|batch| {
        new_bridge(batch, "mini0", [10, 177, 0, 1], 1500);
        delete_link(batch, 7);
    });
    for length in 0..whole.len() {
        let count = Messages(&whole[..length]).count();
        assert_eq!(count, usize::from(length >= 80), "{length} bytes");
    }
    // Lengths that are too short for a header, or longer than what is there.
    for length in [0u32, 1, 15, 81, u32::MAX - 2, u32::MAX] {
        let bytes = [&length.to_ne_bytes()[..], &[0; 76]].concat();
        assert_eq!(Messages(&bytes).next(), None, "{length}");
    }
    for length in [0u16, 3, 9, u16::MAX] {
        let bytes = [&length.to_ne_bytes()[..], &[1, 0, 5, 6, 7, 8]].concat();
        assert_eq!(Attributes(&bytes).next(), None, "{length}");
    }
    // The last attribute need not be padded; its type's flags are not part of it.
    let bytes = bytes("05 00 03 80 61");
    assert_eq!(Attributes(&bytes).collect::<Vec<_>>(), [(3, &b"a"[..])]);
    assert_eq!(Attributes(&bytes).number(3), None);
}
