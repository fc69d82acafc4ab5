//! `meshctl lint`: what is wrong with manifests, before a cluster sees them.
//!
//! The problems are those that the controller writes into the status of routes, in the same words; here they come with
//! a file and a line, and in the forms that pipelines read.

mod finding;
mod github;
mod sarif;
#[cfg(test)]
mod tests;
mod told;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use crossterm::style::Color;
use serde_json::json;

use self::finding::{Finding, Level};
use crate::{
    globals::Globals,
    kube::Cluster,
    manifests::{self, ManifestFiles, Wanted},
    output::{self, Format, JSON, Style, YAML, formats},
};

/// Arguments of `meshctl lint`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl lint k8s/
  helm template shop/ | meshctl lint -
  meshctl lint --with-cluster k8s/routes.yaml
  meshctl lint --strict -o github k8s/
  meshctl lint -o sarif k8s/ > lint.sarif

A Service that a route names and the files do not have is an error if the files have other Services of its
namespace, or with --with-cluster; else it is a note.
Exit codes: 0 no errors, 1 errors (with --strict also warnings), 2 wrong usage or unreadable input.")]
pub(crate) struct Args {
    /// Files and folders of manifests; - for standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Look in the cluster for what the files refer to and do not have
    #[arg(long)]
    with_cluster: bool,
    /// Warnings are errors
    #[arg(long)]
    strict: bool,
    /// How to print what is wrong
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Table)]
    output: Format,
}

/// What `-o` takes here.
const FORMATS: [(Format, &str); 5] = [
    (Format::Table, "A line and a fix for each"),
    JSON,
    YAML,
    (Format::Github, "Commands for a workflow of GitHub: annotations of the changed lines"),
    (Format::Sarif, "SARIF 2.1.0, for code scanning"),
];

/// Prints what is wrong.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    manifests::judged(lint(args, globals))
}

fn lint(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let given = ManifestFiles::read(&args.paths)?;
    let cluster = match args.with_cluster {
        false => None,
        true => Some(super::block_on(async {
            let cluster = Cluster::connect(globals).await?;
            Ok(manifests::read_cluster(&cluster, Wanted::Routes, &[cluster.namespace()]).await?)
        })?),
    };
    cluster.iter().flat_map(|found| &found.notes).for_each(|note| output::note(note));
    let mut findings = finding::gather(&given, cluster.as_ref());
    if args.strict {
        let warnings = findings.iter_mut().filter(|finding| finding.level == Level::Warning);
        warnings.for_each(|finding| finding.level = Level::Error);
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings, notes) = (count(Level::Error), count(Level::Warning), count(Level::Note));
    let summary = format!(
        "{}: {errors} errors, {warnings} warnings, {notes} notes",
        many(given.objects.len(), "object", "objects")
    );
    match args.output {
        Format::Json | Format::Yaml => {
            let object = json!({
                "errors": errors, "warnings": warnings, "notes": notes, "objects": given.objects.len(),
                "findings": findings,
            });
            output::line(&output::pretty(args.output, &object)?)?;
        }
        Format::Github => {
            for finding in &findings {
                output::line(&github::command(finding))?;
            }
            output::note(&summary);
        }
        Format::Sarif => output::line(&output::pretty(Format::Json, &sarif::log(&findings))?)?,
        _ => {
            for finding in &findings {
                output::line(&text(finding, Style::stdout()))?;
            }
            output::note(&summary);
        }
    }
    Ok(if errors > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn many(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn text(finding: &Finding, style: Style) -> String {
    let place = match (&finding.file, finding.line) {
        (Some(file), Some(line)) => format!("{file}:{line}: "),
        (Some(file), None) => format!("{file}: "),
        _ => String::new(),
    };
    let level = match finding.level {
        Level::Error => style.paint("error", Color::Red),
        Level::Warning => style.paint("warning", Color::Yellow),
        Level::Note => "note".to_owned(),
    };
    let fix = if finding.fix.is_empty() { String::new() } else { format!("\n    fix: {}", finding.fix) };
    format!("{place}{level}: {} [{}]{fix}", finding.message(), finding.reason)
}
