//! The benchmark of Mesh; see [`mesh_integration::bench`]. `cargo xtask bench` builds and starts it.

use std::process::ExitCode;

use clap::Parser;
use mesh_integration::bench::{Options, run};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match bench().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The message alone: a backtrace of the benchmark helps nobody.
            eprintln!("mesh-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench() -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Whichever ends first, the future of the run is dropped, and with it every process that it started.
    tokio::select! {
        result = run(Options::parse()) => result,
        _ = interrupt.recv() => anyhow::bail!("interrupted; everything that was started is stopped"),
        _ = terminate.recv() => anyhow::bail!("told to end; everything that was started is stopped"),
    }
}
