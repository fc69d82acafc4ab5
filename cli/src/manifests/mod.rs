//! The objects that commands are about, in one form: from files and folders, or from a cluster.
//!
//! Nothing is decoded here: that is `mesh-resources`', for these commands as for the controller.

pub(crate) mod cluster;
mod files;

use std::process::ExitCode;

pub use cluster::{Found, Wanted, read as read_cluster};
pub use files::Given;

use crate::output;

/// What commands that judge files or requests end with when they could not judge: neither a yes nor a no.
pub const UNREADABLE: u8 = 2;

/// The code of a command that judges: an error means that there was nothing to judge.
pub fn judged(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    Ok(result.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::from(UNREADABLE)
    }))
}
