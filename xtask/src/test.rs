//! `cargo xtask test`: every check, the cheap ones first, until the first that fails.
//!
//! All tests run with `--workspace`, so that cargo unifies features once and builds everything once. The last line
//! counts the tests: `N passed, N failed`, and `, N skipped` where some were.

mod cluster;

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    chart,
    step::{cargo, root, run, run_lines, shown, step},
    tidy, tools,
};

/// Flags of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// Also what takes minutes each: long outages, repeated rollouts.
    #[arg(long)]
    long: bool,
    /// The cluster of this context in your kubeconfig, for the tests that need one; otherwise one is made for them.
    /// The mesh is installed in it, and taken out again.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Where that cluster pulls the images of `cargo xtask images --test` from; otherwise its nodes must have them.
    #[arg(long, value_name = "REGISTRY", requires = "context")]
    image_registry: Option<String>,
    /// Leave the cluster and the mesh on it up afterwards.
    #[arg(long)]
    keep: bool,
    /// Only the tests on a cluster.
    #[arg(long)]
    only_cluster: bool,
}

/// The version of cargo-deny that `deny.toml` is written for.
const DENY: &str = "0.20.2";
/// The folder cargo-deny derives from the address of the RustSec database.
const ADVISORIES: &str = "target/advisory-dbs/advisory-db-3157b0e258782691";

/// The feature that turns the tests on a cluster on.
const CLUSTER: &str = "mesh-integration/cluster";

/// Tests counted from the `test result:` lines of cargo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs everything and prints the closing line last, whatever happens. Whether all holds.
pub fn test(options: &Options) -> bool {
    let mut count = Count::default();
    let done = run_all(options, &mut count);
    if let Err(error) = &done {
        println!("\n{error:#}");
        // A step that is no test counts as one: "0 failed" stands only under a run in which nothing failed.
        count.failed = count.failed.max(1);
    }
    let skipped = if count.skipped > 0 { format!(", {} skipped", count.skipped) } else { String::new() };
    println!("\n{} passed, {} failed{skipped}", count.passed, count.failed);
    done.is_ok()
}

/// Runs everything; the first failure is the error.
fn run_all(options: &Options, count: &mut Count) -> Result<()> {
    if !options.only_cluster {
        run_here(options, count)?;
    }
    cluster::run_all(options, count)?;
    let strict = env::var("CI").is_ok_and(|ci| ci == "true");
    ensure!(!strict || count.skipped == 0, "{} tests were skipped, and CI=true allows none", count.skipped);
    Ok(())
}

/// What needs no cluster.
fn run_here(options: &Options, count: &mut Count) -> Result<()> {
    step("tidy: module documentation, file lengths, no machine paths", || tidy::run(&root()))?;
    step("format (files that `cargo fmt --all` would change)", || run(cargo(["fmt", "--all", "--", "--check", "-l"])))?;
    step("dependencies: licences, bans, sources, advisories", deny)?;
    let lints = ["clippy", "--workspace", "--all-targets", "--features", CLUSTER, "--quiet", "--", "-D", "warnings"];
    step("lints", || run(cargo(lints)))?;
    // All targets at once: binaries for the tests of processes, and every test, with the same features.
    step("build binaries and tests", || run(cargo(["build", "--workspace", "--all-targets"])))?;
    step("h2spec and Helm, which tests run", || go_tools(count))?;
    step("chart: helm lint, kubeconform, kube-score", || judge_chart(count))?;
    // Not `--test *`, which would also name those that need a cluster.
    step("unit and property tests, and tests of real processes", || {
        tests(&["--workspace", "--tests"], &[], options.long, count)
    })?;
    step("examples in the documentation", || tests(&["--workspace", "--doc"], &[], options.long, count))?;
    step("documentation", || {
        let mut doc = cargo(["doc", "--workspace", "--no-deps", "--quiet"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        run(doc)
    })
}

/// Runs cargo's tests of a kind and adds to the count.
fn tests(which: &[&str], environment: &[(&str, &str)], long: bool, count: &mut Count) -> Result<()> {
    let mut command = cargo(["test"]);
    // The harness and its servers are found there by every test.
    command.args(which).env("MESH_BIN_DIR", root().join("target/debug")).envs(environment.iter().copied());
    if long {
        command.env("MESH_TEST_LONG", "1");
    }
    let name = shown(&command);
    let before = *count;
    let success = run_lines(command, |line| count.add(line))?;
    let failed = count.failed - before.failed;
    ensure!(success || failed == 0, "{failed} tests failed in `{name}`");
    ensure!(success, "`{name}` failed before its tests ran; its messages are above");
    Ok(())
}

impl Count {
    /// Adds a line of cargo's output, if it is one that counts:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                // Nothing is left out here but what cannot run.
                "ignored" | "filtered out" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Builds tools that tests run, each pinned by a module of Go. Without Go their tests are skipped, and counted so.
fn go_tools(count: &mut Count) -> Result<()> {
    for (tool, what) in [(tools::H2SPEC, "HTTP/2 conformance"), (tools::HELM, "meshctl install beside helm template")] {
        if tool.build()?.is_none() {
            count.skipped += 1;
            println!("\n!!! SKIPPED: {what}. {} is built with Go, and there is no `go`.\n", tool.name);
        }
    }
    Ok(())
}

/// What other tools say of the chart.
fn judge_chart(count: &mut Count) -> Result<()> {
    if !chart::judge()? {
        count.skipped += 1;
        println!(
            "\n!!! SKIPPED: helm lint, kubeconform and kube-score. They are built with Go, and there is no `go`.\n"
        );
    }
    Ok(())
}

/// `cargo deny check` with a cargo-deny of our own under `target/tools`.
fn deny() -> Result<()> {
    let tool = root().join("target/tools/bin/cargo-deny");
    let said = Command::new(&tool).arg("--version").output();
    if !said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(DENY)) {
        println!("installing cargo-deny {DENY} into target/tools (about a minute)");
        // Its own target folder is temporary; without debug information and optimisation it builds four times faster.
        let mut install =
            cargo(["install", "cargo-deny", "--version", DENY, "--locked", "--debug", "--force", "--quiet"]);
        install.args(["--root", "target/tools"]).env("CARGO_PROFILE_DEV_DEBUG", "0");
        run(install)?;
    }
    let mut checks = vec!["bans", "licenses", "sources"];
    match advisories()? {
        true => checks.push("advisories"),
        false => println!(
            "\n!!! SKIPPED: advisories. Set MESH_ADVISORY_DB to a copy of the RustSec advisory database (the folder that \
             has `crates/` in it) to check dependencies for known vulnerabilities.\n"
        ),
    }
    // cargo-deny reads the manifests of all dependencies, and offline it fetches none.
    run(cargo(["fetch", "--locked", "--quiet"]))?;
    let mut check = Command::new(tool);
    // Duplicates are allowed and long to print; `cargo deny check bans` shows them.
    check.current_dir(root()).args(["--offline", "check"]).args(checks).args(["--allow", "duplicate"]);
    run(check)
}

/// Puts the database that `MESH_ADVISORY_DB` names where cargo-deny looks without a network. Whether there is one.
fn advisories() -> Result<bool> {
    let Some(given) = env::var_os("MESH_ADVISORY_DB") else { return Ok(false) };
    let crates = root().join(Path::new(&given)).join("crates");
    if !crates.is_dir() {
        bail!("MESH_ADVISORY_DB is {given:?}, and there is no folder {}", crates.display());
    }
    let folder = root().join(ADVISORIES);
    fs::create_dir_all(folder.join(".git"))?;
    // cargo-deny takes the time of this file for that of the last fetch; whoever names a database vouches for its age.
    fs::write(folder.join(".git/FETCH_HEAD"), "")?;
    let link = folder.join("crates");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&crates, &link).with_context(|| format!("cannot link {}", link.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed() {
        let mut count = Count::default();
        count.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s");
        count.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s");
        count.add("test a_name ... ok");
        assert_eq!(count, Count { passed: 4, failed: 2, skipped: 3 });
    }
}
