//! What came of a run in which all passed, for docs/conformance: the official report as it is, and a page for people.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};

use super::{
    Suite, SuiteOutcome, Verdict, seconds,
    suite::{FEATURES, PROFILES, SUITES},
};
use crate::{cluster::GATEWAY_API, step::root};

/// Writes the report; of the usual suite also the page.
pub fn write(suite: &Suite, outcome: &SuiteOutcome) -> Result<()> {
    let folder = root().join("docs/conformance");
    let put = |name: &str, text: &str| {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write docs/conformance/{name}"))?;
        println!("docs/conformance/{name}");
        anyhow::Ok(())
    };
    put(&name(suite), &fs::read_to_string(&outcome.report).context("the suite's report")?)?;
    if suite.is_usual() {
        let report = |suite: &Suite| Some((name(suite), fs::read_to_string(folder.join(name(suite))).ok()?));
        let reports: Vec<_> = SUITES.iter().filter_map(report).collect();
        put("gateway-api.md", &page(outcome, &reports)?)?;
    }
    Ok(())
}

/// The name of the report's file.
fn name(suite: &Suite) -> String {
    format!("gateway-api-v{}-report.yaml", suite.release)
}

/// The page about the usual suite, with a table of all reports, by the names of their files. It has the columns that the
/// Gateway API asks of a report's README.
fn page(outcome: &SuiteOutcome, reports: &[(String, String)]) -> Result<String> {
    let mut page = format!(
        "# Gateway API: the official conformance suite

Written by `cargo xtask conformance`, which runs the suite on the cluster that is up ([how](../development/conformance.md));
`cargo xtask test` does the same after its own tests on a cluster, with the suites of {GATEWAY_API} and of the newest release.

| Gateway API | API channel | Implementation version | Mode | Report |
|---|---|---|---|---|
"
    );
    for (name, report) in reports {
        let value = |key| value(report, key);
        let (release, channel, mode) = (value("gatewayAPIVersion"), value("gatewayAPIChannel"), value("mode"));
        writeln!(page, "| {release} | {channel} | v{} | {mode} | [report]({name}) |", env!("CARGO_PKG_VERSION"))?;
    }
    write!(
        page,
        "
Of {GATEWAY_API} **{} of {} tests for a mesh pass**, none is skipped; {} in all. Profiles: {}.

The official report counts fewer: it leaves out each test that needs a feature which is in no mesh profile
(`HTTPRoute...` below). They run all the same, and must pass.

## Claimed

",
        outcome.count(Verdict::Passed),
        outcome.tests.len(),
        seconds(outcome.took),
        PROFILES.join(", "),
    )?;
    for feature in FEATURES {
        writeln!(page, "- {feature}")?;
    }
    page += "\nWith the profiles come `HTTPRoute` and `GRPCRoute`.\n\n## Tests\n\n| Test | Time |\n|---|---|\n";
    for ran in &outcome.tests {
        writeln!(page, "| {} | {} |", ran.name, seconds(ran.took))?;
    }
    Ok(page)
}

/// What stands behind a key at the margin of the report.
fn value<'a>(report: &'a str, key: &str) -> &'a str {
    let of = |line: &'a str| line.strip_prefix(key)?.strip_prefix(": ");
    report.lines().find_map(of).unwrap_or("unknown").trim()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::{super::Ran, *};

    #[test]
    fn the_page_says_what_ran_where_and_what_is_claimed() {
        let took = Duration::from_millis(1500);
        let outcome = SuiteOutcome {
            tests: vec![Ran { name: "MeshBasic".into(), verdict: Verdict::Passed, took }],
            report: "report.yaml".into(),
            log: "suite.log".into(),
            took,
        };
        let report = "apiVersion: x\ngatewayAPIVersion: v1.2.3\ngatewayAPIChannel: standard\nmode: default\n";
        let page = page(&outcome, &[("r.yaml".into(), report.into())]).unwrap();
        let row = format!("| v1.2.3 | standard | v{} | default | [report](r.yaml) |\n", env!("CARGO_PKG_VERSION"));
        assert!(page.contains(&row), "{page}");
        assert!(page.contains("**1 of 1 tests for a mesh pass**") && page.contains("| MeshBasic | 1.5 s |"), "{page}");
        assert!(FEATURES.iter().all(|feature| page.contains(&format!("- {feature}\n"))));
    }
}
