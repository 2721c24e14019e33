//! The BPF object inside this binary.

use anyhow::{Result, bail};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane.o"));

/// The object, aligned as its reader needs it.
///
/// # Errors
///
/// This binary was built without one.
pub fn object() -> Result<&'static [u8]> {
    if OBJECT.is_empty() {
        bail!("this binary was built without its BPF object: build it with `cargo xtask build`");
    }
    Ok(OBJECT)
}
