//! Waiting for a condition instead of sleeping.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two looks at a condition, to begin with.
const PAUSE: Duration = Duration::from_millis(5);
/// And then this part of the time waited so far: a look may cost the one who is waited for.
const PAUSES: u32 = 16;

/// Looks until `condition` holds. Fails with what was waited for once `limit` has passed, or
/// when the condition cannot be looked at.
pub fn wait_for(
    what: impl Fn() -> String,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for_some(what, limit, || Ok(condition()?.then_some(())))
}

/// As [`wait_for`], for a condition that comes with a value.
pub fn wait_for_some<T>(
    what: impl Fn() -> String,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().with_context(|| format!("while waiting for {}", what()))? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} for {}, in vain", what());
        }
        sleep(PAUSE.max(start.elapsed() / PAUSES));
    }
}
