//! The load generator of Mesh; see [`mesh_integration::load`].

use std::process::ExitCode;

use clap::Parser;
use mesh_integration::load::{Options, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let strict = options.strict;
    match run(options).await.and_then(|report| Ok((serde_json::to_string(&report)?, report.errors))) {
        Ok((json, errors)) => {
            println!("{json}");
            ExitCode::from(u8::from(strict && errors > 0))
        }
        Err(error) => {
            eprintln!("mesh-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
