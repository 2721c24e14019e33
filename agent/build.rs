//! Embeds the BPF object that `cargo xtask build-ebpf` has built.
//!
//! Without one (`WEIR_EBPF_OBJECT` is not set) the agent builds and tests as well, and says so when
//! it is asked to load programs.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=WEIR_EBPF_OBJECT");
    let directory = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let target = PathBuf::from(directory).join("dataplane.o");
    match env::var_os("WEIR_EBPF_OBJECT") {
        Some(object) => {
            let object = PathBuf::from(object);
            println!("cargo::rerun-if-changed={}", object.display());
            fs::copy(&object, &target).unwrap_or_else(|error| {
                panic!("WEIR_EBPF_OBJECT: copy {}: {error}", object.display())
            });
        }
        None => fs::write(&target, []).expect("OUT_DIR can be written"),
    }
}
