//! `meshctl`: what people and scripts call. It parses the command line and hands over to one file per command.
//!
//! It links the proxy and the controller, so that this one file is enough for `meshctl demo`. It decides nothing about
//! traffic itself.

mod cmd;
mod output;

use std::process::ExitCode;

use clap::Parser;

/// What `--help` says of exit codes, for every command.
const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 wrong usage.";

/// Mesh, a lightweight service mesh: identity, encryption and routing for the traffic between services.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
