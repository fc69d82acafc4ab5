//! The control plane: who is who (certificates), what is where (endpoints) and what applies (policies), for proxies.
//!
//! It takes its objects from a folder of manifests or from an API server. Reading order: [`args`], [`role`] (one file a
//! role: its startup, top to bottom) and [`app`] (what roles share at start and end); [`watch`], `listing` and [`folder`]
//! (files) or [`kube`] (watches), then [`index`] (objects to snapshots) with `judge` and `turns`, [`topics`], [`statuses`] and
//! [`problems`]; [`server`] and [`listener`] (TLS and gRPC, and their bounds), then one file a service: [`identity`],
//! [`trust`], [`policy`], [`destination`], and [`stalled`] beside them. It decides nothing itself: what an object means is
//! `mesh-resources`'.

mod account;
pub mod admin;
pub mod app;
pub mod args;
pub mod ca;
mod cache;
mod caller;
mod compiler;
pub mod destination;
pub mod files;
pub mod folder;
mod follow;
pub mod identity;
pub mod index;
pub mod issuer;
pub mod judge;
pub mod kube;
pub mod listener;
mod listing;
pub mod local_ca;
pub mod metrics;
pub mod policy;
pub mod problems;
pub mod revisions;
pub mod role;
pub mod server;
pub mod serving;
pub mod stalled;
pub mod statuses;
mod streams;
pub mod token;
pub mod token_files;
pub mod topics;
pub mod trust;
mod turns;
pub mod verifier;
pub mod watch;

use std::{ffi::OsString, process::ExitCode};

/// Runs the controller until SIGTERM or SIGINT. Blocks; builds its own runtime of one thread.
///
/// The first argument is the program's name. Exit codes: 0 after a signal, 1 when it could not start or go on, 2 for
/// wrong arguments.
pub fn main_from_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match args::Args::from_command_line(args) {
        Ok(args) => args,
        Err(error) => {
            // Where not even this can be printed, the exit code still tells.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(error) = app::init_log(args.role.log()) {
        eprintln!("mesh-controller: {error:#}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the runtime could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(role::run(args.role)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
