//! The objects that commands are about, in one form: from files and folders, or from a cluster.
//!
//! Nothing is decoded here: `mesh-resources` does that, for these commands as for the controller.

pub(crate) mod cluster;
mod files;
mod pods;
pub(crate) mod walk;

use std::process::ExitCode;

pub(crate) use cluster::{Found, Wanted, read as read_cluster};
pub(crate) use files::ManifestFiles;

use crate::output;

/// The exit code of commands that judge files or requests when they could not: neither yes nor no.
pub(crate) const UNREADABLE: u8 = 2;

/// The exit code of a command that judges: an error means that there was nothing to judge.
pub(crate) fn judged(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    Ok(result.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::from(UNREADABLE)
    }))
}
