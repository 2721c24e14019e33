//! Puts the BPF object beside the agent's code, for `attach::object` to embed.
//!
//! `cargo xtask build` names the object in `WEIR_EBPF_OBJECT`. Without it an empty file takes its
//! place, so that a plain `cargo build`, `test` or `doc` needs no BPF toolchain.

use std::{env, error::Error, fs, path::Path};

const VARIABLE: &str = "WEIR_EBPF_OBJECT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let embedded = Path::new(&env::var("OUT_DIR")?).join("dataplane.o");
    let Some(object) = env::var_os(VARIABLE) else {
        fs::write(embedded, [])?;
        return Ok(());
    };
    let object = Path::new(&object);
    println!("cargo:rerun-if-changed={}", object.display());
    let content = fs::read(object).map_err(|error| {
        format!(
            "read the BPF object {VARIABLE}={}: {error}",
            object.display()
        )
    })?;
    if content.is_empty() {
        return Err(format!("the BPF object {VARIABLE}={} is empty", object.display()).into());
    }
    fs::write(embedded, content)?;
    Ok(())
}
