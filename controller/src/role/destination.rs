//! `mesh-controller destination`: policies and endpoints, from the watches of an API server.

use anyhow::{Result, bail};

use crate::args::DestinationArgs;

/// Runs until SIGTERM or SIGINT.
pub async fn run(_args: DestinationArgs) -> Result<()> {
    bail!("the role destination is not built into this version; use the folder role, or a later version")
}
