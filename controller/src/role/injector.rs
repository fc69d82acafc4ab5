//! `mesh-controller injector`: the mutating webhook.

use anyhow::{Result, bail};

use crate::args::InjectorArgs;

/// Runs until SIGTERM or SIGINT.
pub async fn run(_args: InjectorArgs) -> Result<()> {
    bail!("the role injector is not built into this version; use the folder role, or a later version")
}
