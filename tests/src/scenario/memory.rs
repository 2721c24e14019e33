//! The executor in memory: the datapath's library over ordered maps, no privileges.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_agent::maps::memory::MemoryTables;
use weir_agent::maps::{Contents, Plan};
use weir_ebpf::addr::Port;
use weir_ebpf::buffer::Buffer;
use weir_ebpf::conntrack::SECOND;
use weir_ebpf::datapath::{self, At};
use weir_ebpf::event::Event;
use weir_ebpf::socket::{self, Caller, Decision, Peer};
use weir_ebpf::tables::{Nanos, Tables as _};
use weir_ebpf::verdict::{Hook, Verdict};

use super::format::CallKind;
use super::runner::{Called, Executor, Sent, SocketCall};

/// Tables and a clock that stands still until it is advanced.
#[derive(Debug)]
pub struct Memory {
    tables: MemoryTables,
}

impl Memory {
    /// Empty tables; random choices follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let tables = MemoryTables::new(Contents::default(), seed);
        // A machine that was started a while ago.
        tables.set_now(1_000 * SECOND);
        Self { tables }
    }

    /// The tables.
    #[must_use]
    pub const fn tables(&self) -> &MemoryTables {
        &self.tables
    }
}

/// The index of the interface by which packets leave the node: that which `BPF_PROG_TEST_RUN` has.
pub const UPLINK: u32 = 1;

impl Executor for Memory {
    fn apply(&mut self, plan: &Plan) -> Result<()> {
        self.tables.apply(plan);
        Ok(())
    }

    fn send(&mut self, at: At, frame: &[u8]) -> Result<Sent> {
        let mut buffer: Buffer = Buffer::new(frame).context("the frame is too long")?;
        anyhow::ensure!(at.hook != Hook::Socket, "no packet is seen at a socket");
        let (verdict, _) = datapath::run(&mut buffer, &self.tables, at);
        Ok(Sent {
            verdict,
            frame: buffer.bytes().to_vec(),
        })
    }

    fn call(&mut self, call: &SocketCall) -> Result<Called> {
        let caller = Caller {
            cookie: call.socket,
            is_node: call.is_node,
        };
        let peer = Peer {
            addr: call.peer.ip().into(),
            port: Port::new(call.peer.port()),
        };
        let tables = &self.tables;
        let decision = match call.kind {
            CallKind::Connect => socket::connect(tables, caller, call.protocol, peer),
            CallKind::Sendmsg => socket::sendmsg(tables, caller, peer),
            CallKind::Recvmsg | CallKind::Getpeername => {
                match socket::peer_name(tables, caller, call.protocol, peer) {
                    Some(service) => Decision::Translate(service),
                    None => Decision::Pass,
                }
            }
        };
        let (verdict, peer) = match decision {
            Decision::Pass => (Verdict::Pass, call.peer),
            Decision::Translate(to) => (
                Verdict::Translate,
                SocketAddr::new(to.addr.into(), to.port.number()),
            ),
            Decision::Refuse(reason) => (Verdict::Reject(reason), call.peer),
        };
        Ok(Called { verdict, peer })
    }

    fn take_events(&mut self) -> Result<Vec<Event>> {
        Ok(self.tables.take_events())
    }

    fn advance(&mut self, by: Duration) -> Result<()> {
        let by = Nanos::try_from(by.as_nanos()).context("too long")?;
        self.tables.set_now(self.tables.now() + by);
        Ok(())
    }
}
