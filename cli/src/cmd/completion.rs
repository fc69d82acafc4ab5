//! `meshctl completion SHELL`: the completion script of a shell, made from the command line's own definition.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

/// Arguments of `meshctl completion`.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  source <(meshctl completion bash)\n  meshctl completion fish > ~/.config/fish/completions/meshctl.fish"
)]
pub(crate) struct Args {
    /// The shell that will read the script
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script. Into memory first: the generator panics when its writer fails, and a closed pipe is no bug.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "meshctl", &mut script);
    std::io::stdout().write_all(&script).context("the script could not be written to standard output")?;
    Ok(ExitCode::SUCCESS)
}
