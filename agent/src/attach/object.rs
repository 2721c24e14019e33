//! The BPF object inside this binary, put there by `build.rs`.

use std::{error::Error, fmt};

static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dataplane.o"));

/// The binary was built without `WEIR_EBPF_OBJECT`, as a plain `cargo build` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingObject;

impl fmt::Display for MissingObject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("this binary was built without its BPF object: run `cargo xtask build`")
    }
}

impl Error for MissingObject {}

/// The object to load.
///
/// # Errors
///
/// This binary was built without one.
pub fn object() -> Result<&'static [u8], MissingObject> {
    if EMBEDDED.is_empty() {
        Err(MissingObject)
    } else {
        Ok(EMBEDDED)
    }
}
