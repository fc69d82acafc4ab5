//! The roles of a controller process. Each file is one role's start, in order, top to bottom.

pub(crate) mod destination;
pub(crate) mod folder;
pub(crate) mod identity;
pub(crate) mod injector;

use anyhow::Result;

use crate::args::Role;

/// Runs a role until SIGTERM or SIGINT.
pub(crate) async fn run(role: Role) -> Result<()> {
    match role {
        Role::Folder(args) => folder::run(args).await,
        Role::Identity(args) => identity::run(args).await,
        Role::Destination(args) => destination::run(args).await,
        Role::Injector(args) => injector::run(args).await,
    }
}
