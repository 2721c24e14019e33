//! Sockets of the node's own processes, with programs, tables and cgroup all in place.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Child;
use std::time::Duration;

use weir_agent::attach::{Dataplane, cleanup, destroy_stale_udp_sockets};
use weir_agent::maps::{Contents, Plan, Write};
use weir_ebpf::addr::{Addr, Port, Protocol};
use weir_ebpf::tables::{Backend, BackendKey, Frontend, FrontendKey, Service, ServingKey};

use crate::bed::{self, eventually};

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

/// One service port with one backend.
fn serve(dataplane: &Dataplane, service: u32, frontend: &str, protocol: Protocol, to: SocketAddr) {
    let key = FrontendKey::new(addr(frontend), Port::new(80), protocol);
    let backend = Backend::new(Addr::from(to.ip()), Port::new(to.port()));
    dataplane
        .tables()
        .unwrap()
        .apply(&Plan(vec![
            Write::PutServing(ServingKey { service, backend }),
            Write::PutBackend(BackendKey { service, slot: 0 }, backend),
            Write::PutService(
                service,
                Service {
                    backend_count: 1,
                    revision: 1,
                    ..Service::default()
                },
            ),
            Write::PutFrontend(
                key,
                Frontend::to(service, weir_ebpf::tables::FrontendFlags::NONE),
            ),
        ]))
        .unwrap();
}

fn output(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Says a word to whoever connects.
fn greeter(at: &str, word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _sent = stream.and_then(|mut stream| writeln!(stream, "{word}"));
        }
    });
    address
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_cluster_ip_answers_also_when_the_agent_is_gone() {
    bed::run(|bed| {
        let mut dataplane = bed.load();
        serve(
            &dataplane,
            1,
            "10.32.0.140",
            Protocol::TCP,
            greeter("127.0.0.1", "four"),
        );
        serve(
            &dataplane,
            2,
            "fd00:10:32::8c",
            Protocol::TCP,
            greeter("::1", "six"),
        );
        dataplane.attach_cgroup(bed.cgroup()).unwrap();
        let ask = |frontend: &str| {
            output(bed.shell(&format!(
                "exec 3<>/dev/tcp/{frontend}/80 && read -t 60 -r -u 3 word && echo \"$word\""
            )))
        };
        assert_eq!(ask("10.32.0.140"), "four\n");
        assert_eq!(ask("fd00:10:32::8c"), "six\n");
        drop(dataplane);
        assert_eq!(ask("10.32.0.140"), "four\n");
        cleanup(&bed.bpffs()).unwrap();
        let text = ask("10.32.0.140");
        assert!(!text.contains("four"), "translated after cleanup: {text}");
    });
}

/// A process with a connected UDP socket, which sends a datagram for each line it is told.
struct Talker {
    child: Child,
}

impl Talker {
    fn connect(bed: &bed::Bed, frontend: &str) -> Self {
        let child = bed.shell(&format!(
            "exec 3<>/dev/udp/{frontend}/80 && while read -r line; do echo \"$line\" >&3 || exit \
             1; done"
        ));
        Self { child }
    }

    fn say(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    /// What it complained of.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        output(self.child)
    }
}

fn hears(server: &UdpSocket, word: &str) {
    let mut datagram = [0; 64];
    let (length, _) = server.recv_from(&mut datagram).unwrap();
    assert_eq!(&datagram[..length], format!("{word}\n").as_bytes());
}

fn udp_server(at: &str) -> UdpSocket {
    let server = UdpSocket::bind((at, 0)).unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    server
}

fn a_socket_whose_backend_has_gone_is_destroyed(frontend: &'static str, at: &'static str) {
    bed::run(move |bed| {
        let server = udp_server(at);
        let backend = server.local_addr().unwrap();
        let mut dataplane = bed.load();
        serve(&dataplane, 1, frontend, Protocol::UDP, backend);
        dataplane.attach_cgroup(bed.cgroup()).unwrap();
        let tables = dataplane.tables().unwrap();

        let mut translated = Talker::connect(bed, frontend);
        translated.say("one");
        hears(&server, "one");
        // This one found the same peer by itself.
        let direct = UdpSocket::bind((at, 0)).unwrap();
        direct.connect(backend).unwrap();

        let peer = Backend::new(Addr::from(backend.ip()), Port::new(backend.port()));
        let serves = ServingKey {
            service: 1,
            backend: peer,
        };
        let mut present = tables.read().unwrap();
        present.serving = BTreeSet::from([serves]);
        assert_eq!(destroy_stale_udp_sockets(&present, &tables).unwrap(), 0);
        translated.say("two");
        hears(&server, "two");

        // The same backend still serves another service port.
        let gone = Contents {
            serving: BTreeSet::from([ServingKey {
                service: 2,
                ..serves
            }]),
            ..present
        };
        assert_eq!(destroy_stale_udp_sockets(&gone, &tables).unwrap(), 1);
        assert_eq!(destroy_stale_udp_sockets(&gone, &tables).unwrap(), 0);
        translated.say("three");
        let complaint = translated.end();
        assert!(
            complaint.contains("Destination address required"),
            "{complaint:?}"
        );
        direct.send(b"four\n").unwrap();
        hears(&server, "four");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn an_ipv4_socket_whose_backend_has_gone_is_destroyed() {
    a_socket_whose_backend_has_gone_is_destroyed("10.32.0.10", "127.0.0.1");
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn an_ipv6_socket_whose_backend_has_gone_is_destroyed() {
    a_socket_whose_backend_has_gone_is_destroyed("fd00:10:32::a", "::1");
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn sockets_and_counters_can_be_listed() {
    bed::run(|bed| {
        let mut dataplane = bed.load();
        serve(
            &dataplane,
            1,
            "10.32.0.140",
            Protocol::TCP,
            greeter("127.0.0.1", "hello"),
        );
        dataplane.attach_cgroup(bed.cgroup()).unwrap();
        let tables = dataplane.tables().unwrap();
        assert_eq!(tables.sockets().count(), 0);
        assert_eq!(tables.flows().count(), 0);

        let mut child = bed.shell("exec 3<>/dev/tcp/10.32.0.140/80 && echo open && read -r");
        let mut word = [0; 5];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut word)
            .unwrap();
        eventually("the socket's peer is listed", || {
            tables
                .sockets()
                .map(Result::unwrap)
                .any(|(_, flow)| flow.addr == addr("10.32.0.140") && flow.service == 1)
        });
        assert!(!tables.counters().unwrap().is_empty());
        drop(child.stdin.take());
        child.wait().unwrap();
    });
}
