//! `meshctl`: what people and scripts call. It parses the command line and hands over to one file per command.
//!
//! It links the proxy and the controller, so that this one file is enough for `meshctl demo`. It decides nothing about
//! traffic itself.

#![warn(unreachable_pub)] // nothing of a program is public: what is unused then shows

mod authorization;
mod certificate;
mod chart;
mod check;
mod clock;
mod cmd;
mod definitions;
mod globals;
mod kube;
mod manifests;
mod metrics;
mod output;
mod yaml;

use std::{env, path::Path, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser};

/// What `--help` says of exit codes, for every command.
const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 wrong usage.";

/// Mesh, a lightweight service mesh: identity, encryption and routing for the traffic between services.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// The command lines of every command that has `-o`, and the words that help and completion name.
    fn outputs(command: &clap::Command, path: &[String], found: &mut Vec<(Vec<String>, Vec<String>)>) {
        for part in command.get_subcommands() {
            let path = [path, &[part.get_name().to_owned()]].concat();
            if let Some(output) = part.get_arguments().find(|arg| arg.get_id() == "output") {
                let words = output.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
                found.push((path.clone(), words));
            }
            outputs(part, &path, found);
        }
    }

    #[test]
    fn each_command_names_the_formats_that_it_takes() {
        let mut found = Vec::new();
        outputs(&Cli::command(), &[], &mut found);
        let told: Vec<String> =
            found.iter().map(|(path, words)| [path.join(" "), words.join("|")].join(": ")).collect();
        assert_eq!(
            told,
            [
                "demo: table|json|yaml",
                "install: yaml|json",
                "upgrade: yaml|json",
                "uninstall: yaml|json",
                "inject: yaml|json",
                "uninject: yaml|json",
                "check: table|short|json|yaml",
                "explain: table|json|yaml",
                "routes: table|wide|json|yaml",
                "authz: table|wide|json|yaml",
                "authz report: table|wide|json|yaml",
                "tap: table|wide|json",
                "lint: table|json|yaml|github|sarif",
                "test: table|json|yaml",
                "identity: table|json|yaml|pem",
                "diagnostics endpoints: table|wide|json|yaml",
                "diagnostics policy: json|yaml",
                "diagnostics proxy-config: json|yaml",
                "version: table|json|yaml",
            ]
        );
    }

    #[test]
    fn a_format_that_a_command_does_not_take_is_refused_with_those_that_it_takes() {
        let parse = |args: &str| Cli::try_parse_from(["meshctl"].into_iter().chain(args.split(' ')));
        for args in ["lint x -o text", "test x -o text", "lint x -o sarif", "identity x -o pem", "check -o short"] {
            parse(args).unwrap();
        }
        let refused = parse("check -o pem").unwrap_err().to_string();
        assert!(refused.contains("[possible values: table, short, json, yaml]"), "{refused}");
    }
}
