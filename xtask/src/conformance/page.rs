//! What came of a run in which all passed, for docs/conformance: the official report as it is, and a page for people.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};

use super::{
    Outcome, Verdict, seconds,
    suite::{FEATURES, PROFILES},
};
use crate::{cluster::GATEWAY_API, step::root};

/// Writes both.
pub fn write(outcome: &Outcome) -> Result<()> {
    let report = fs::read_to_string(&outcome.report).context("the suite's report")?;
    let folder = root().join("docs/conformance");
    let name = format!("gateway-api-v{GATEWAY_API}-report.yaml");
    for (name, text) in [(name.as_str(), &report), ("gateway-api.md", &page(outcome, &report, &name)?)] {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write docs/conformance/{name}"))?;
        println!("docs/conformance/{name}");
    }
    Ok(())
}

/// The page. Its first table has the columns that the Gateway API asks of a report's README.
fn page(outcome: &Outcome, report: &str, name: &str) -> Result<String> {
    let (channel, mode) = (value(report, "gatewayAPIChannel"), value(report, "mode"));
    let (version, passed) = (env!("CARGO_PKG_VERSION"), outcome.count(Verdict::Passed));
    let mut page = format!(
        "# Gateway API: the official conformance suite

Written by `cargo xtask conformance`, which runs the suite of Gateway API {GATEWAY_API} on the cluster that is up
([how](../development/conformance.md)); `cargo xtask test` does the same after its own tests on a cluster.

| API channel | Implementation version | Mode | Report |
|---|---|---|---|
| {channel} | v{version} | {mode} | [report]({name}) |

**{passed} of {} tests for a mesh pass**, none is skipped; {} in all. Profiles: {}.

The official report counts fewer: it leaves out each test that needs a feature which is in no mesh profile
(`HTTPRoute...` below). They run all the same, and must pass.

## Claimed

",
        outcome.tests.len(),
        seconds(outcome.took),
        PROFILES.join(", "),
    );
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
        let outcome = Outcome {
            tests: vec![Ran { name: "MeshBasic".into(), verdict: Verdict::Passed, took }],
            report: "report.yaml".into(),
            log: "suite.log".into(),
            took,
        };
        let report = "apiVersion: x\ngatewayAPIChannel: standard\nmode: default\n";
        let page = page(&outcome, report, "r.yaml").unwrap();
        assert!(page.contains(&format!("| standard | v{} | default | [report](r.yaml) |", env!("CARGO_PKG_VERSION"))));
        assert!(page.contains("**1 of 1 tests for a mesh pass**") && page.contains("| MeshBasic | 1.5 s |"), "{page}");
        assert!(FEATURES.iter().all(|feature| page.contains(&format!("- {feature}\n"))));
    }
}
