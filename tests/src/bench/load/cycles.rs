//! The cycles that processors spend, where they can be counted: few virtual machines let one.

use anyhow::{Context as _, Result};
use perf_event::events::{Event, Hardware};
use perf_event::{Builder, Counter};

/// A counter for some processors. It counts whatever they do, this work and others', but not while they
/// have nothing to do.
#[derive(Debug)]
pub struct Cycles(Vec<Counter>);

impl Cycles {
    /// Of these processors.
    ///
    /// # Errors
    /// This machine has no such counter.
    pub fn of(processors: &[usize]) -> Result<Self> {
        Self::counting(Hardware::CPU_CYCLES, processors)
    }

    fn counting<E: Event + Clone>(event: E, processors: &[usize]) -> Result<Self> {
        let counters = processors.iter().map(|processor| {
            Builder::new(event.clone())
                .any_pid()
                .one_cpu(*processor)
                .include_kernel()
                .build()
                .with_context(|| format!("count what processor {processor} does"))
        });
        counters.collect::<Result<_>>().map(Self)
    }

    /// Begins at zero.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn start(&mut self) -> Result<()> {
        for counter in &mut self.0 {
            counter.reset().context("reset a counter")?;
            counter.enable().context("start a counter")?;
        }
        Ok(())
    }

    /// Ends, and tells how many there were.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn stop(&mut self) -> Result<u64> {
        let mut sum = 0;
        for counter in &mut self.0 {
            counter.disable().context("stop a counter")?;
            sum += counter.read().context("read a counter")?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use perf_event::events::Software;

    use super::*;

    /// A clock instead of cycles: every machine has that. Other processors' need privileges.
    #[test]
    #[ignore = "needs root: cargo test -p weir-tests --lib cycles -- --ignored"]
    fn a_counter_begins_at_zero_each_time() {
        let mut clock = Cycles::counting(Software::CPU_CLOCK, &[0]).unwrap();
        clock.start().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let first = clock.stop().unwrap();
        clock.start().unwrap();
        let second = clock.stop().unwrap();
        assert!(first > second && second > 0, "{first} {second}");
    }
}
