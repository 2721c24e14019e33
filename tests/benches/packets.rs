//! What traffic costs: no proxy, Weir, and kube-proxy's rules side by side.

use anyhow::Result;
use weir_tests::bench::Report;

fn main() -> Result<()> {
    Report::from_environment().finish()
}
