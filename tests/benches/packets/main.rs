//! What traffic costs: no proxy, Weir by each of its paths, with and without policies, and
//! kube-proxy's rules, side by side. Needs root: `cargo xtask bench packets`.
//!
//! `weir_tests::bench` describes the method; this is the list of what is measured.

mod field;
mod goals;
mod plan;
mod readings;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use weir_tests::bench::Report;
use weir_tests::bench::kube_proxy::Iptables;
use weir_tests::bench::lanes::Contender;
use weir_tests::bench::site::{Proxy, Site};

use field::{Field, Progress};
use plan::Plan;

fn main() -> Result<()> {
    let mut report = Report::from_environment();
    let plan = Plan::asked(report.is_quick())?;
    let weir = binary()?;
    let iptables = Iptables::find();
    if iptables.is_none() {
        report.note("there is no iptables: its rules are left out");
    }
    let contenders = Contender::all(&plan.policies, has_fast_path(&weir)?, iptables.as_ref());
    report.note(&plan.describe(&contenders));
    let mut direct = Site::build(&weir, &Proxy::Nobody, 1, 0)?;
    if let Some(why) = direct.why_no_cycles() {
        report.note(&format!("cycles are left out: {why}"));
    }
    let mut progress = Progress::new(plan.samples(&contenders) * plan.services.len());
    for services in &plan.services {
        let mut field = Field::build(&weir, &contenders, *services, &report)?;
        field.measure(&mut direct, &plan, &mut report, &mut progress)?;
    }
    report.finish()
}

fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("WEIR_BINARY")
        .context("WEIR_BINARY is not set; measure by: cargo xtask bench packets")?;
    PathBuf::from(path)
        .canonicalize()
        .context("WEIR_BINARY names no file")
}

/// Does this binary know how to pass the node's stack by?
fn has_fast_path(weir: &Path) -> Result<bool> {
    let output = std::process::Command::new(weir)
        .args(["agent", "--help"])
        .output()
        .with_context(|| format!("run {}", weir.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("--fast-path"))
}
