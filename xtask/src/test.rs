//! `cargo xtask test`: every check, the cheap ones first, until the first that fails.
//!
//! All tests run with `--workspace` and the same features, those on a cluster too, so that cargo unifies features once and
//! builds everything once. The end is a table of where the time went, and the last line counts the tests:
//! `N passed, N failed`, and `, N skipped` where some were.

mod ahead;
mod cluster;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    chart,
    hung::Silence,
    step::{cargo, root, run, run_lines, shown, step, times},
    tidy, tools,
};

use self::ahead::Ahead;
pub use self::ahead::run as run_ahead;

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

/// The folder cargo-deny derives from the address of the RustSec database.
const ADVISORIES: &str = "target/advisory-dbs/advisory-db-3157b0e258782691";

/// The feature that turns the tests on a cluster on.
const CLUSTER: &str = "mesh-integration/cluster";

/// Tests that run side by side where nothing else is said.
const THREADS: &str = "4";

/// Tests that end no test for so long hang. The longest takes two minutes where it is alone.
const HANGS: Duration = Duration::from_secs(15 * 60);
/// The same with `--long`: outages of minutes, five times.
const HANGS_LONG: Duration = Duration::from_secs(60 * 60);

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
    println!("\nwhere the time went:\n{}", times());
    let skipped = if count.skipped > 0 { format!(", {} skipped", count.skipped) } else { String::new() };
    println!("{} passed, {} failed{skipped}", count.passed, count.failed);
    done.is_ok()
}

/// Runs everything; the first failure is the error.
fn run_all(options: &Options, count: &mut Count) -> Result<()> {
    // A cluster of somebody else's pulls images from its registry.
    let ahead = (options.context.is_none() && cluster::can_be_made()).then(Ahead::start);
    if !options.only_cluster {
        run_here(options, count)?;
    }
    if let Some(ahead) = ahead {
        step("the rest of what is built ahead", || ahead.finish())?;
    }
    cluster::run_all(options, count)?;
    let strict = env::var("CI").is_ok_and(|ci| ci == "true");
    ensure!(!strict || count.skipped == 0, "{} tests were skipped, and CI=true allows none", count.skipped);
    Ok(())
}

/// What needs no cluster.
fn run_here(options: &Options, count: &mut Count) -> Result<()> {
    step("tidy: module documentation, file lengths, no machine paths, a test for each bound", || tidy::run(&root()))?;
    step("format (files that `cargo fmt --all` would change)", || run(cargo(["fmt", "--all", "--", "--check", "-l"])))?;
    step("dependencies: licences, bans, sources, advisories", deny)?;
    let lints = ["clippy", "--workspace", "--all-targets", "--features", CLUSTER, "--quiet", "--", "-D", "warnings"];
    step("lints", || run(cargo(lints)))?;
    // All targets at once: binaries for the tests of processes, and every test, with the same features.
    let build = ["build", "--workspace", "--all-targets", "--features", CLUSTER];
    step("build binaries and tests", || run(cargo(build)))?;
    let tools = step("h2spec and Helm, which tests run", || go_tools(count))?;
    step("chart: helm lint, kubeconform, kube-score", || judge_chart(count))?;
    step("unit and property tests, and tests of real processes", || {
        let files = files_of_tests()?;
        let which = ["--lib", "--bins"].into_iter().chain(files.iter().flat_map(|file| ["--test", file]));
        tests(&which.collect::<Vec<_>>(), &tools, options.long, count)
    })?;
    step("examples in the documentation", || tests(&["--doc"], &[], options.long, count))?;
    if options.long {
        step("images as they are released", || run(cargo(["xtask", "images"])))?;
    }
    step("documentation", || {
        // Who reads it works on these crates, where most modules are private: links to them are wanted, and judged.
        let mut doc = cargo(["doc", "--workspace", "--no-deps", "--quiet", "--document-private-items"]);
        doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
        run(doc)
    })
}

/// The files of tests that need no cluster. The others are built with the same features, and so would run by `--tests`.
fn files_of_tests() -> Result<Vec<String>> {
    let said = cargo(["metadata", "--locked", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: Value = serde_json::from_slice(&said.stdout).context("cargo metadata gave no JSON")?;
    let targets = metadata["packages"].as_array().into_iter().flatten().filter_map(|p| p["targets"].as_array());
    files_without_features(targets.flatten())
}

/// The names of targets that are files of tests and need no feature. Cargo takes them by name from all packages, so a name
/// that one with a feature has too would run that one.
fn files_without_features<'t>(targets: impl Iterator<Item = &'t Value>) -> Result<Vec<String>> {
    let files = targets.filter(|target| target["kind"] == json!(["test"]));
    let (here, elsewhere): (Vec<_>, Vec<_>) = files.partition(|target| target["required-features"].is_null());
    let names = |targets: Vec<&Value>| -> BTreeSet<String> {
        targets.iter().filter_map(|target| target["name"].as_str().map(str::to_owned)).collect()
    };
    let (here, elsewhere) = (names(here), names(elsewhere));
    ensure!(!here.is_empty(), "cargo metadata names no files of tests");
    let both: Vec<&str> = here.intersection(&elsewhere).map(String::as_str).collect();
    ensure!(both.is_empty(), "files of tests with and without a feature have one name: {}", both.join(", "));
    Ok(here.into_iter().collect())
}

/// Runs cargo's tests of a kind and adds to the count.
fn tests(which: &[&str], environment: &[(&str, PathBuf)], long: bool, count: &mut Count) -> Result<()> {
    let mut command = cargo(["test", "--workspace", "--features", CLUSTER]);
    command.args(which).envs(environment.iter().cloned());
    // The harness and its servers are found there by every test.
    command.env("MESH_BIN_DIR", root().join("target/debug"));
    // More than cores: tests of processes mostly wait, and take turns where they measure.
    command.env("RUST_TEST_THREADS", THREADS);
    if long {
        command.env("MESH_TEST_LONG", "1");
    }
    let limit = if long { HANGS_LONG } else { HANGS };
    let name = shown(&command);
    let before = *count;
    let success = run_lines(command, Silence::new(limit), |line| count.add(line))?;
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

/// Builds tools that tests run, and gives the variables that name them. Without Go their tests are skipped, and counted so.
fn go_tools(count: &mut Count) -> Result<Vec<(&'static str, PathBuf)>> {
    for (tool, what) in [(tools::H2SPEC, "HTTP/2 conformance"), (tools::HELM, "meshctl install beside helm template")] {
        if tool.build()?.is_none() {
            count.skipped += 1;
            println!("\n!!! SKIPPED: {what}. {} is built with Go, and there is no `go`.\n", tool.name);
        }
    }
    tools::environment()
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

/// `cargo deny check` with a cargo-deny of our own.
fn deny() -> Result<()> {
    let tool = tools::cargo_deny()?;
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
    fn files_that_need_a_cluster_are_left_out_and_have_names_of_their_own() {
        let file = |name: &str, features: Value| json!({"kind": ["test"], "name": name, "required-features": features});
        let lib = json!({"kind": ["lib"], "name": "lib"});
        let targets = [lib, file("b", Value::Null), file("on_cluster", json!(["cluster"])), file("a", Value::Null)];
        assert!(files_without_features(targets.iter()).is_ok_and(|names| names == ["a", "b"]));
        let twice = [file("a", Value::Null), file("a", json!(["cluster"]))];
        assert!(files_without_features(twice.iter()).is_err_and(|error| error.to_string().ends_with("one name: a")));
        assert!(files_of_tests().is_ok_and(|names| names.contains(&"processes".to_owned())));
    }

    #[test]
    fn results_are_summed() {
        let mut count = Count::default();
        count.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s");
        count.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s");
        count.add("test a_name ... ok");
        assert_eq!(count, Count { passed: 4, failed: 2, skipped: 3 });
    }
}
