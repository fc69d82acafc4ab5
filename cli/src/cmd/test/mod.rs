//! `meshctl test`: expectations about requests, checked against manifests before they are applied.
//!
//! What happens to a request is decided as `meshctl explain` decides it, and so as the proxy does.

mod compare;
mod junit;
mod suite;
#[cfg(test)]
mod tests;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use crossterm::style::Color;
use mesh_resources::{Options, Snapshot};
use serde::Serialize;
use serde_json::json;

use self::suite::Suite;
use super::explain::{Explained, by_objects, title};
use crate::{
    manifests,
    output::{self, Format, JSON, Style, YAML, formats},
};

/// Arguments of `meshctl test`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl test tests/routes.yaml
  meshctl test tests/*.yaml --junit report.xml
  meshctl test tests/routes.yaml -o json

A file of tests:
  manifests: [../k8s]
  tests:
  - name: the cart goes to the new version
    from: shop
    request: {method: GET, url: 'http://web.shop/cart?x=1', headers: {user: '7'}}
    expect: {route: shop/web, rule: 0, backends: {web-v1: 90, web-v2: 10}}

Exit codes: 0 all hold, 1 one does not, 2 wrong usage or unreadable input.")]
pub(crate) struct Args {
    /// Files of tests
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Write the results for CI, in the format of JUnit
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// How to print the results
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Table)]
    output: Format,
}

/// What `-o` takes here.
const FORMATS: [(Format, &str); 3] = [(Format::Table, "A line for each test, and the differences"), JSON, YAML];

/// How one test ended.
#[derive(Debug, Serialize)]
struct TestOutcome {
    /// The file.
    pub file: String,
    /// The test's name.
    pub name: String,
    /// Whether everything was as expected.
    pub passed: bool,
    /// What was not.
    pub differences: Vec<compare::Difference>,
    /// What was asked.
    pub request: String,
    /// What was decided.
    pub explained: Explained,
}

/// Runs the tests.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    manifests::judged(test(args))
}

fn test(args: &Args) -> anyhow::Result<ExitCode> {
    let mut outcomes = Vec::new();
    for file in &args.files {
        let suite = Suite::read(file)?;
        outcomes.extend(outcomes_of(&suite, &file.display().to_string())?);
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    let passed = outcomes.len() - failed;
    match args.output {
        Format::Json | Format::Yaml => {
            let object = json!({ "passed": passed, "failed": failed, "tests": outcomes });
            output::line(&output::pretty(args.output, &object)?)?;
        }
        _ => {
            for outcome in &outcomes {
                output::line(&text(outcome, Style::stdout()))?;
            }
            output::line(&format!("{passed} passed, {failed} failed"))?;
        }
    }
    if let Some(path) = &args.junit {
        fs::write(path, junit::report(&outcomes)).with_context(|| path.display().to_string())?;
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn outcomes_of(suite: &Suite, file: &str) -> anyhow::Result<Vec<TestOutcome>> {
    let options = Options { meshed_by_label: true, ..Options::default() };
    let (snapshot, _) = Snapshot::from_objects(&suite.objects, options);
    let outcome = |case: &suite::Case| {
        let question = case.question().with_context(|| format!("{file}: test {:?}", case.name))?;
        let explained = by_objects(&snapshot, &question, case.from());
        let differences = compare::differences(&case.expect, &explained);
        Ok(TestOutcome {
            file: file.to_owned(),
            name: case.name.clone(),
            passed: differences.is_empty(),
            differences,
            request: title(&question),
            explained,
        })
    };
    suite.tests.iter().map(outcome).collect()
}

fn text(outcome: &TestOutcome, style: Style) -> String {
    if outcome.passed {
        return format!("{}  {}", style.paint("ok  ", Color::Green), outcome.name);
    }
    let head = format!("{}  {} ({})", style.paint("FAIL", Color::Red), outcome.name, outcome.file);
    [head].into_iter().chain(details(outcome)).collect::<Vec<_>>().join("\n")
}

/// What was not as expected, and how it came about.
fn details(outcome: &TestOutcome) -> Vec<String> {
    let explained = &outcome.explained;
    let mut lines = vec![format!("      {}, for clients in {}", outcome.request, explained.from)];
    for difference in &outcome.differences {
        lines.push(format!("      {}", difference.field));
        lines.push(format!("        expected {}", difference.expected));
        lines.push(format!("        but is   {}", difference.found));
    }
    let won = explained.route.as_ref().zip(explained.rule.as_ref());
    if let Some((route, rule)) = won {
        let matched = explained.matched.as_deref().unwrap_or("everything");
        lines.push(format!(
            "      {} {}/{} rule {} matched: {matched}",
            route.kind, route.namespace, route.name, rule.index
        ));
    }
    for lost in &explained.tried {
        lines.push(format!("      {} rule {} lost: {}", lost.route, lost.rule, lost.why));
    }
    lines.extend(explained.problems.iter().map(|problem| format!("      problem: {problem}")));
    lines
}
