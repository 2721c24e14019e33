//! The first program of a machine that was booted to try one kernel: `cargo xtask test kernels`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_tests::kernel_test::main()
}
