//! The commands, one file each. A new one is a file here, a variant of [`Command`] and an arm of [`Command::run`].

pub(crate) mod authz;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod demo;
pub(crate) mod diagnostics;
pub(crate) mod explain;
pub(crate) mod identity;
pub(crate) mod inject;
pub(crate) mod install;
pub(crate) mod lint;
pub(crate) mod routes;
pub(crate) mod run;
pub(crate) mod tap;
pub(crate) mod test;
pub(crate) mod uninstall;
pub(crate) mod upgrade;
pub(crate) mod version;

use std::{future::Future, process::ExitCode};

use anyhow::Context;
use clap::Subcommand;

use crate::globals::Globals;

pub(crate) use install::GATEWAY_API;

/// Every command of `meshctl`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try the mesh on this machine: two versions of a service, a client, real sidecars, mutual TLS
    Demo(demo::Args),
    /// Print the manifests of the control plane, for kubectl apply
    Install(install::Args),
    /// Print the manifests of this version, with the identity and values of the installation
    Upgrade(upgrade::Args),
    /// Print what kubectl delete must delete
    Uninstall(uninstall::Args),
    /// Add the mesh to manifests: a label for the webhook, or the sidecar itself
    Inject(inject::InjectArgs),
    /// Take the mesh out of manifests
    Uninject(inject::UninjectArgs),
    /// Check a cluster: before an installation, after it, and its sidecars
    Check(check::Args),
    /// Explain which route and backends a request would get, and why not others
    Explain(explain::Args),
    /// Show the routes in force, their backends, status and traffic
    Routes(routes::Args),
    /// Show who may call what and by which policy, who called, and policies for just that
    Authz(authz::Args),
    /// Show the requests and connections of pods while they pass
    Tap(tap::Args),
    /// Find what is wrong with manifests, before a cluster sees them
    Lint(lint::Args),
    /// Check expectations about requests against manifests
    Test(test::Args),
    /// Show the certificate that a pod's sidecar proves
    Identity(identity::Args),
    /// Show what the control plane and the sidecars believe
    #[command(visible_alias = "diag")]
    Diagnostics(diagnostics::Args),
    /// Print the versions of meshctl, of the control plane and of the sidecars
    Version(version::Args),
    /// Print a completion script for a shell
    Completion(completion::Args),
    /// Run one of the mesh's processes (what `demo` starts)
    #[command(hide = true)]
    Run(run::Args),
}

impl Command {
    /// Runs the command. The code is 0 when all was well and 1 when the command itself has said what was not; an error
    /// is printed by the caller.
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        match self {
            Self::Demo(args) => demo::run(args),
            Self::Install(args) => install::run(&args, globals),
            Self::Upgrade(args) => upgrade::run(&args, globals),
            Self::Uninstall(args) => uninstall::run(&args, globals),
            Self::Inject(args) => inject::inject(&args, globals),
            Self::Uninject(args) => inject::uninject(&args),
            Self::Check(args) => check::run(&args, globals),
            Self::Explain(args) => explain::run(&args, globals),
            Self::Routes(args) => routes::run(&args, globals),
            Self::Authz(args) => authz::run(&args, globals),
            Self::Tap(args) => tap::run(&args, globals),
            Self::Lint(args) => lint::run(&args, globals),
            Self::Test(args) => test::run(&args),
            Self::Identity(args) => identity::run(&args, globals),
            Self::Diagnostics(args) => diagnostics::run(&args, globals),
            Self::Version(args) => version::run(&args, globals),
            Self::Completion(args) => completion::run(&args),
            Self::Run(args) => run::run(args),
        }
    }
}

/// Runs what speaks to a cluster; commands that do not never start a runtime for it.
fn block_on<T>(doing: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the asynchronous runtime could not be started")?.block_on(doing)
}
