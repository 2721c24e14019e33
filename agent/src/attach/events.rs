//! What the programs tell of packets, as it comes.

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};
use weir_ebpf::event::Event;
use weir_ebpf::tables::name;

use crate::maps::pins::Pins;

/// Events that are read at a time.
const BATCH: usize = 256;

/// The programs' ring buffer. There is one reader: whoever holds the agent's lock.
pub struct EventReader {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader").finish_non_exhaustive()
    }
}

impl EventReader {
    /// Opens it. Needs a running runtime.
    ///
    /// # Errors
    ///
    /// It is not pinned, or cannot be waited for.
    pub fn open(pins: &Pins) -> Result<Self> {
        let path = pins.map(name::EVENTS);
        let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        let ring = RingBuf::try_from(Map::RingBuf(data))
            .with_context(|| format!("read the ring buffer {}", name::EVENTS))?;
        // SAFETY: the ring buffer owns its file descriptor, which stays the same and open until
        // it is dropped; that happens in `AsyncFd`, after it has let go of it.
        let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = registered.with_context(|| format!("wait for {}", name::EVENTS))?;
        Ok(Self { ring })
    }

    /// Waits for events and adds some to these. What is no event, as of other programs than
    /// this agent's, is left out.
    ///
    /// # Errors
    ///
    /// The runtime ends.
    pub async fn read(&mut self, into: &mut Vec<Event>) -> Result<()> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let mut taken = 0;
            while let Some(item) = ready.get_inner_mut().next() {
                into.extend(Event::from_bytes(&item));
                taken += 1;
                if taken == BATCH {
                    return Ok(());
                }
            }
            ready.clear_ready();
            if taken > 0 {
                return Ok(());
            }
        }
    }
}
