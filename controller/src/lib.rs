//! The control plane: who is who (certificates), what is where (endpoints) and what applies (policies), for proxies.
//!
//! It takes its objects from a folder of manifests or from an API server. Reading order: `args`, `role` (one file a role: its
//! startup, top to bottom) and `app` (what roles share at start and end); `source` (objects to snapshots), `status` (what is
//! said of them), `api` (what proxies ask), `identity` (certificates, tokens and trust); `kube` is what everything shares that
//! talks to an API server. It decides nothing itself: what an object means is `mesh-resources`'.

mod admin;
mod api;
mod app;
mod args;
mod files;
mod identity;
mod kube;
mod metrics;
mod role;
mod source;
mod status;
mod turns;

use std::{ffi::OsString, process::ExitCode};

pub use api::{
    destination::DestinationService,
    listener::{Limits, MAX_HEADERS},
    policy::PolicyService,
    server::{MAX_CERTIFY_BYTES, MAX_QUESTION_BYTES, PeerInfo},
};
pub use args::{Args, Role};
pub use identity::issuer;
pub use metrics::Metrics;
pub use role::folder::{Addresses, Controller};
pub use source::index::{Index, Published};
pub use status::judge::Wanted;

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
