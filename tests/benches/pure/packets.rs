//! The packet's way on the host, with ordered maps for tables: what the code itself costs.

use std::cell::RefCell;
use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use criterion::BatchSize;
use weir_agent::maps::memory::MemoryTables;
use weir_ebpf::buffer::Buffer;
use weir_ebpf::{datapath, packet};
use weir_tests::bench::cases::{CASES, Case, Repeat};
use weir_tests::bench::exchange::Exchange;
use weir_tests::scenario::memory::Memory;
use weir_tests::scenario::runner::Executor as _;

use crate::estimates::{Estimates, Unit};

/// Source ports for packets of new flows, which begin here.
const FIRST_PORT: u16 = 20_000;

/// Parsing, and every hook with every kind of packet.
pub fn measure(estimates: &mut Estimates) -> Result<()> {
    estimates.begin("on the host");
    for (what, text) in [
        ("UDP", "udp 10.200.0.2:40000 > 10.32.0.10:53"),
        ("TCP", "tcp 10.200.0.2:40000 > 10.32.0.10:80 syn"),
        ("UDP over IPv6", "udp [fd00::2]:40000 > [fd00::10]:53"),
    ] {
        let frame = buffer(&Exchange::frame(text, FIRST_PORT)?)?;
        ensure!(packet::parse(&frame).is_ok(), "{text} is a packet");
        estimates.measure("parse", what, Unit::Nanoseconds, |bencher| {
            bencher.iter(|| packet::parse(black_box(&frame)));
        })?;
    }
    let exchange = Exchange::new()?;
    for case in CASES {
        of_case(estimates, &exchange, case)
            .with_context(|| format!("{}, {}", case.hook.name(), case.what))?;
    }
    Ok(())
}

fn of_case(estimates: &mut Estimates, exchange: &Exchange, case: &Case) -> Result<()> {
    let mut memory = Memory::new(1);
    memory.apply(exchange.plan())?;
    exchange.prepare(&mut memory, case, FIRST_PORT)?;
    let at = exchange.at(case.hook, case.pod)?;
    let frame = buffer(&Exchange::frame(case.packet, FIRST_PORT + 100)?)?;
    let (who, work) = (case.hook.name(), case.what);
    match case.repeat {
        // The packet goes from one service to the other, and back.
        Repeat::Many => {
            let frame = RefCell::new(frame);
            let tables = memory.tables();
            estimates.measure(who, work, Unit::Nanoseconds, |bencher| {
                bencher.iter(|| datapath::run(&mut *frame.borrow_mut(), tables, at).0);
            })
        }
        // The flow is new to tables that nobody has used.
        Repeat::Single => {
            let fresh = || -> (Buffer, MemoryTables) { (frame.clone(), memory.tables().clone()) };
            estimates.measure(who, work, Unit::Nanoseconds, |bencher| {
                bencher.iter_batched_ref(
                    fresh,
                    |(frame, tables)| datapath::run(frame, tables, at).0,
                    BatchSize::SmallInput,
                );
            })
        }
    }
}

fn buffer(frame: &[u8]) -> Result<Buffer> {
    Buffer::new(frame).context("a frame fits")
}
