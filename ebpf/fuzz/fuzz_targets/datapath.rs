//! A script of packets, changes and pauses on a small node.
//!
//! Bytes are read as steps, each a byte that says what happens and one with its length:
//! a packet from a pod or to a pod (the bytes behind the Ethernet header), a new set of backends,
//! a pause. Whatever happens: nothing panics, untouched means untouched, a translated packet has
//! the tuple of its flow and differs only where it may, an answer is a valid packet, and the
//! reply of a translated packet leads back.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{
    addr, backend, frame,
    world::{Hook, UPLINK, World},
};
use libfuzzer_sys::fuzz_target;
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    conntrack::SECOND,
    datapath::{self, At, Decision},
    packet::{self, Headers, TcpFlags, Transport},
    tables::{Backend, FlowRole},
    verdict::Verdict,
};

const SERVICES: [&str; 2] = ["10.32.0.140", "fd00:10:32::8c"];

fn backends(family: usize) -> [Backend; 4] {
    match family {
        0 => [
            backend("10.200.0.2", 80),
            backend("10.200.0.7", 8080),
            backend("10.200.128.1", 80),
            backend("10.200.0.7", 80),
        ],
        _ => [
            backend("fd00:10:200::2", 80),
            backend("fd00:10:200::7", 8080),
            backend("fd00:10:200:8000::1", 80),
            backend("fd00:10:200::7", 80),
        ],
    }
}

const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

fn number(family: usize, protocol: usize) -> u32 {
    u32::try_from(1 + family * PROTOCOLS.len() + protocol).expect("six")
}

fuzz_target!(|script: &[u8]| {
    let world = World::default();
    for (family, text) in SERVICES.into_iter().enumerate() {
        for (index, protocol) in PROTOCOLS.into_iter().enumerate() {
            world.add_frontend(addr(text), 80, protocol, number(family, index));
            world.set_backends(number(family, index), &backends(family));
        }
    }
    let mut rest = script;
    while let [what, length, more @ ..] = rest {
        let (step, behind) = more.split_at(usize::from(*length).min(more.len()));
        rest = behind;
        match what % 8 {
            0..4 => packet(&world, Hook::FromPod, *what, step),
            4..6 => packet(&world, Hook::ToPod, *what, step),
            6 => {
                let (family, index) = (usize::from(what >> 7), usize::from(what >> 3) % 3);
                let set: Vec<Backend> = backends(family)
                    .into_iter()
                    .enumerate()
                    .filter(|(bit, _)| length & (1 << bit) != 0)
                    .map(|(_, backend)| backend)
                    .collect();
                world.set_backends(number(family, index), &set);
            }
            _ => world.wait(u64::from(*length) * SECOND),
        }
    }
});

fn packet(world: &World, hook: Hook, what: u8, bytes: &[u8]) {
    let mut before = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    before.extend(if what & 0x80 == 0 {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    });
    before.extend(bytes);
    let mut buffer = Buffer::<1024>::new(&before).expect("short");
    let Ok(headers) = packet::parse(&buffer) else {
        return;
    };
    let (verdict, work) = datapath::run(&mut buffer, world, At::new(hook, UPLINK));
    let flow = work.flow;
    let after = buffer.bytes();
    match verdict {
        Verdict::Pass | Verdict::PassFragment => assert_eq!(before, after),
        // What follows a flow has none of its own.
        Verdict::Translate if !headers.kind().has_ports() => {
            assert_eq!(before.len(), after.len());
        }
        Verdict::Translate => {
            assert_eq!(before.len(), after.len());
            let now = packet::parse(&buffer).expect("it still is a packet");
            assert_eq!(
                Headers {
                    tuple: flow.to,
                    ..headers
                },
                now
            );
            assert_only_declared_bytes_differ(&headers, &before, after);
            if has_right_header_checksum(&headers, &before) {
                assert!(has_right_header_checksum(&headers, after));
            }
            if flow.role == FlowRole::FORWARD {
                assert_reply_leads_back(world, &headers, &flow.to.reversed());
            }
        }
        Verdict::Reject(_) => {
            frame::assert_checksums(after);
            let answer = packet::parse(&buffer).expect("the answer is a packet");
            assert_eq!(answer.tuple.src, headers.tuple.dst);
            assert_eq!(answer.tuple.dst, headers.tuple.src);
            assert_eq!(answer.end as usize, after.len());
        }
        Verdict::Drop(_) => {}
    }
}

fn assert_reply_leads_back(world: &World, headers: &Headers, reply: &weir_ebpf::tables::Tuple) {
    let answer = Headers {
        tuple: *reply,
        kind: match headers.kind() {
            Transport::Tcp(_) => Transport::Tcp(TcpFlags::ACK),
            Transport::Sctp(_) => Transport::Sctp(0),
            other => other,
        }
        .into(),
        ..*headers
    };
    let (decision, flow) = world.decide(Hook::ToPod, &answer);
    assert_eq!(
        decision,
        Decision::TRANSLATE,
        "the reply {reply} is not known"
    );
    assert_eq!(flow.to, headers.tuple.reversed());
}

fn has_right_header_checksum(headers: &Headers, frame: &[u8]) -> bool {
    let network = headers.network as usize;
    headers.is_v4 && frame::sum(&frame[network..headers.transport as usize]) == 0xffff
}

fn assert_only_declared_bytes_differ(headers: &Headers, before: &[u8], after: &[u8]) {
    let (network, transport) = (headers.network as usize, headers.transport as usize);
    let addresses = if headers.is_v4 {
        network + 10..network + 20
    } else {
        network + 8..network + 40
    };
    let checksum = match headers.kind() {
        Transport::Tcp(_) => transport + 16..transport + 18,
        Transport::Udp => transport + 6..transport + 8,
        _ => 0..0,
    };
    for (place, (old, new)) in before.iter().zip(after).enumerate() {
        let may_change = addresses.contains(&place)
            || (transport..transport + 4).contains(&place)
            || checksum.contains(&place);
        assert!(old == new || may_change, "byte {place} changed");
    }
}
