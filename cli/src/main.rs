//! `meshctl`: what people and scripts call. It parses the command line and hands over to one file per command.
//!
//! It links the proxy and the controller, so that this one file is enough for `meshctl demo`. It decides nothing about
//! traffic itself.

mod certificate;
mod chart;
mod check;
mod clock;
mod cmd;
mod globals;
mod kube;
mod manifests;
mod metrics;
mod output;

use std::{env, path::Path, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser};

/// What `--help` says of exit codes, for every command.
const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 wrong usage.";

/// Mesh, a lightweight service mesh: identity, encryption and routing for the traffic between services.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    globals: globals::Globals,
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    let Cli { globals, command } = parse();
    match command.run(&globals) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line; ends the process when it is wrong, or asks for help.
fn parse() -> Cli {
    let mut command = Cli::command();
    if is_plugin(env::args_os().next().as_deref().map(Path::new)) {
        command = command.bin_name(PLUGIN);
    }
    let read = command.clone().try_get_matches().and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    read.unwrap_or_else(|error| error.format(&mut command).exit())
}

/// How it is called as a plugin of kubectl.
const PLUGIN: &str = "kubectl mesh";

/// Whether kubectl runs us, under the name that it looks for on `PATH`.
fn is_plugin(program: Option<&Path>) -> bool {
    program.and_then(Path::file_stem).is_some_and(|name| name == "kubectl-mesh")
}
