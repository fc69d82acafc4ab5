//! Parts of the proxy that are our own, each beside the library that the field has for it (`mesh-parts`, a program of the
//! proxy): HTTP/1 beside hyper, TLS records beside tokio-rustls.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::{cases::Figures, testbed::Party};
use crate::harness::binary;

/// Each metric of HTTP/1, and the work of `mesh-parts` that it is of.
pub(super) const HTTP1: [(&str, &[&str]); 2] =
    [("cpu_us_server", &["http1-server"]), ("cpu_us_client", &["http1-client"])];
/// The same of TLS records.
pub(super) const TLS: [(&str, &[&str]); 2] =
    [("cpu_us_per_mib_64k", &["tls", "65536"]), ("cpu_us_per_mib_1k", &["tls", "1024"])];

/// One party's cost of each metric, which share the time.
pub(super) async fn measure(metrics: [(&'static str, &[&str]); 2], party: Party, seconds: f64) -> Result<Figures> {
    let seconds = (seconds / metrics.len() as f64).to_string();
    let mut figures = Figures::new();
    for (metric, work) in metrics {
        let mut command = Command::new(binary("mesh-parts")?);
        command.args([party.key(), &seconds]).args(work).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.context("cannot start mesh-parts")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mesh-parts {work:?} failed: {said}");
        let cost = String::from_utf8(output.stdout)?;
        figures.push((metric, cost.trim().parse().context("mesh-parts said no figure")?));
    }
    Ok(figures)
}
