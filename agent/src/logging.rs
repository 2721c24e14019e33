//! Log lines for operators, on standard error.
//!
//! `info` is a change that an operator would note, `warn` what someone should look at, `debug`
//! single objects and single packets.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tracing::Level;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The target under which the programs' own records appear.
const PACKETS: &str = "dataplane";

/// What libraries say at `debug` is for their own developers; `--log aya=debug` shows it.
const QUIET: &str = "aya=info,aya_obj=info,netlink_proto=info,rtnetlink=info,notify=info,\
                     hyper_util=info,kube_client=info,rustls=info,tower=info";

/// Starts logging. Tells whether single packets are to be logged: the programs are loaded
/// without that code where they are not.
///
/// # Errors
/// The filter is not one.
pub fn start(filter: &str) -> Result<bool> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .with_context(|| format!("--log {filter}: not a filter; try info, debug or warn"))?;
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::registry()
        .with(filter)
        .with(
            fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(is_terminal)
                .with_target(false),
        )
        .try_init()
        .context("start logging")?;
    Ok(tracing::enabled!(target: PACKETS, Level::DEBUG))
}
