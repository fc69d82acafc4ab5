//! `meshctl version`.

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use crate::output::{self, Format};

/// Arguments of `meshctl version`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  meshctl version\n  meshctl version -o json")]
pub struct Args {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// The object of `-o json|yaml`.
#[derive(Debug, Serialize)]
struct Version {
    /// This program, SemVer.
    client: &'static str,
}

/// Prints the version.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let version = Version { client: env!("CARGO_PKG_VERSION") };
    match args.output {
        Format::Table => output::line(&format!("meshctl {}", version.client))?,
        format => output::object(format, &version)?,
    }
    Ok(ExitCode::SUCCESS)
}
