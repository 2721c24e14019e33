//! Any bytes as a frame: parsing never panics, and never reports what lies beyond the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_ebpf::{
    addr::Port,
    buffer::Buffer,
    packet::{self, NotParsed, Packet, Transport},
};

fuzz_target!(|frame: &[u8]| {
    let Some(buffer) = Buffer::<2048>::new(frame) else {
        return;
    };
    match packet::parse(&buffer) {
        Err(NotParsed::NotIp) => {
            let ether_type = buffer.ether_type();
            assert!(ether_type != packet::ETHER_TYPE_IPV4 && ether_type != packet::ETHER_TYPE_IPV6);
        }
        Err(NotParsed::Malformed) => {}
        Ok(headers) => {
            assert!(headers.network <= headers.transport && headers.transport <= headers.end);
            assert!(headers.end <= buffer.len());
            assert_eq!(headers.tuple.src.is_v4(), headers.is_v4);
            assert_eq!(headers.tuple.dst.is_v4(), headers.is_v4);
            let load = |offset: u32| buffer.load::<Port>(headers.transport + offset);
            let room = headers.end - headers.transport;
            match headers.kind() {
                Transport::Tcp(_) => {
                    let words: u8 = buffer.load(headers.transport + 12).expect("it was read");
                    let length = u32::from(words >> 4) * 4;
                    assert!((20..=room).contains(&length));
                }
                Transport::Udp => assert!(room >= 8),
                Transport::Sctp(_) => assert!(room >= 16),
                // An echo's identifier stands where its asker's port would.
                Transport::Echo | Transport::EchoReply => return,
                Transport::LaterFragment
                | Transport::IcmpError(_)
                | Transport::Discovery
                | Transport::Other => {
                    let ports = (headers.tuple.src_port, headers.tuple.dst_port);
                    assert_eq!(ports, (Port(0), Port(0)));
                    return;
                }
            }
            assert_eq!(load(0), Some(headers.tuple.src_port));
            assert_eq!(load(2), Some(headers.tuple.dst_port));
        }
    }
});
