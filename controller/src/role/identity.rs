//! `mesh-controller identity`: issues certificates and keeps the trust bundle current.

use anyhow::{Result, bail};

use crate::args::IdentityArgs;

/// Runs until SIGTERM or SIGINT.
pub async fn run(_args: IdentityArgs) -> Result<()> {
    bail!("the role identity is not built into this version; use the folder role, or a later version")
}
