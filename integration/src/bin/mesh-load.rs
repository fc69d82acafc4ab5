//! The load generator of Mesh; see [`mesh_integration::load`].

use std::process::ExitCode;

use clap::Parser;
use mesh_integration::load::{Options, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Options::parse()).await.and_then(|report| Ok(serde_json::to_string(&report)?)) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mesh-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
