//! The tests on a real Kubernetes: boots one, loads the images, runs the README's quick start, then everything that
//! needs a cluster, and takes it down again.
//!
//! As root on Linux the cluster is made here; otherwise `--context` names one. Where neither holds, the tests are
//! skipped, loudly, and counted so.

use std::{env, fs, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{CLUSTER, Count, Options, tests};
use crate::{
    conformance::{self, Suite, Verdict},
    step::{cargo, root, run, step},
};

/// The releases of the Gateway API whose suites run: the newest, and last the usual one, which the cluster then has again.
const CONFORMANCE: [&str; 2] = ["1.7", "1.6"];

/// What the tests need of a machine beside the cluster's own parts: programs, and Debian's packages that have them.
const PACKAGES: [(&str, &str); 2] = [("tcpdump", "tcpdump"), ("ping", "iputils-ping")];

/// Runs them all; the cluster goes down again whatever comes of it, unless it was up before or is to be kept.
pub fn run_all(options: &Options, count: &mut Count) -> Result<()> {
    let own = options.context.is_none();
    if own && !(cfg!(target_os = "linux") && rustix::process::geteuid().is_root()) {
        count.skipped += 1;
        println!(
            "\n!!! SKIPPED: the tests on a cluster. Run as root on Linux, and one is made; or name one with --context.\n"
        );
        return Ok(());
    }
    let was_up = root().join("target/cluster/kubeconfig").is_file();
    let done = on_cluster(options, count);
    if options.keep || was_up {
        println!("the cluster stays up: `cargo xtask cluster down` takes it down");
    } else if done.is_ok() || env::var_os("CI").is_some() {
        step("the cluster down", || xtask(&["cluster", "down"]))?;
    } else {
        println!("the cluster stays up for a look at what failed: `cargo xtask cluster down` takes it down");
    }
    done
}

fn on_cluster(options: &Options, count: &mut Count) -> Result<()> {
    packages()?;
    let mut up = vec!["cluster", "up"];
    up.extend(options.context.iter().flat_map(|context| ["--context", context]));
    step("a Kubernetes to test on", || xtask(&up))?;
    let described = fs::read_to_string(root().join("target/cluster/env.json")).context("target/cluster/env.json")?;
    let described: Value = serde_json::from_str(&described)?;
    let text = |name: &str| described[name].as_str().unwrap_or_default().to_owned();
    let (kubeconfig, node) = (text("kubeconfig"), text("networkNamespace"));
    // Where `cluster up` puts a kubectl for a machine without one.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(env::split_paths(&path).chain([root().join("target/cluster/bin")]))?;
    let environment = [
        ("MESH_TEST_KUBECONFIG", kubeconfig.as_str()),
        ("MESH_TEST_NODE", node.as_str()),
        ("PATH", path.to_str().context("PATH is no text")?),
    ];
    let on_it = |title: &str, test: &str, count: &mut Count| {
        // One after the other: they share two cores with a whole cluster, and the control plane that some take away.
        let which = ["-p", "mesh-integration", "--features", CLUSTER, "--test", test];
        let rest = ["--", "--test-threads=1", "--nocapture"];
        step(title, || tests(&[&which[..], &rest].concat(), &environment, options.long, count))
    };
    on_it("the README's quick start on Kubernetes", "quickstart", count)?;
    on_it("tests on the cluster", "cluster", count)?;
    step("the Gateway API's own conformance suites", || conformance(count))
}

/// The official suites on the mesh that the tests before have left; each of their tests counts as one.
fn conformance(count: &mut Count) -> Result<()> {
    let options = conformance::Options::default();
    for minor in CONFORMANCE {
        let suite = Suite::of(Some(minor))?;
        if !suite.go_is_there() {
            count.skipped += 1;
            println!(
                "\n!!! SKIPPED: the Gateway API's conformance suite {minor}. It is built with Go, and there is no `go` that can.\n"
            );
            continue;
        }
        let outcome = conformance::run_suite(suite, &options)?;
        count.passed += outcome.count(Verdict::Passed);
        count.failed += outcome.count(Verdict::Failed);
        count.skipped += outcome.count(Verdict::Skipped);
        outcome.judge(&options)?;
    }
    Ok(())
}

/// This program again, by cargo: the tests' build may have replaced the file that runs.
fn xtask(args: &[&str]) -> Result<()> {
    run(cargo([&["xtask"], args].concat()))
}

/// Installs what the tests call and the machine lacks.
fn packages() -> Result<()> {
    let found = |program: &str| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join(program).is_file())
    };
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing with apt-get: {}", missing.join(" "));
    for words in [&["update", "-qq"][..], &["install", "-y", "-qq", "--no-install-recommends"]] {
        let mut apt = Command::new("apt-get");
        apt.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        if words[0] == "install" {
            apt.args(&missing);
        }
        run(apt).with_context(|| format!("the tests on a cluster need {}", missing.join(", ")))?;
    }
    Ok(())
}
