//! What each BPF program costs on its own.

use anyhow::Result;
use weir_tests::bench::Report;

fn main() -> Result<()> {
    Report::from_environment().finish()
}
