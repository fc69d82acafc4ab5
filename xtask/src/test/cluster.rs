//! The tests on a real Kubernetes: boots one, loads the images, runs the README's quick start, then everything that
//! needs a cluster, and takes it down again.
//!
//! As root on Linux the cluster is made here; otherwise `--context` names one, with images from `--image-registry`. The
//! mesh is installed in it and taken out again; tests that look into a node of our own are skipped there. Where there is
//! neither, all are skipped. Whatever is skipped is told loudly, and counted so.

use std::{env, process::Command};

use anyhow::{Context, Result, ensure};

use super::{Count, Options, tests};
use crate::{
    cluster::{Described, GATEWAY_API},
    conformance::{self, SUITES, Suite, Verdict},
    step::{cargo, quiet, root, run, step},
};

/// The release of the Gateway API whose suite always runs: the newest, which takes the place of the cluster's own. The usual
/// one, which the cluster then has again, runs with `--long`.
pub const NEWEST: &str = "1.7";

/// What the tests need of a machine beside the cluster's own parts: programs, and Debian's packages that have them.
const PACKAGES: [(&str, &str); 2] = [("tcpdump", "tcpdump"), ("ping", "iputils-ping")];

/// What the names of tests end in that look into the node which `cluster up` makes: packets on it, its API server away.
const ON_OUR_NODE: &str = "on_our_node";
/// The control plane's namespace, and the quick start's: what the tests leave in a cluster.
const LEFT: [&str; 2] = ["mesh-system", "shop"];

/// Runs them all; the cluster goes down again whatever comes of it, unless it was up before or is to be kept.
pub fn run_all(options: &Options, count: &mut Count) -> Result<()> {
    if options.context.is_none() && !can_be_made() {
        count.skipped += 1;
        println!(
            "\n!!! SKIPPED: the tests on a cluster. Run as root on Linux, and one is made; or name one with --context.\n"
        );
        return Ok(());
    }
    let was_up = root().join("target/cluster/kubeconfig").is_file();
    let mut up = vec!["cluster", "up"];
    up.extend(options.context.iter().flat_map(|context| ["--context", context]));
    let done = step("a Kubernetes to test on", || xtask(&up)).and_then(|()| {
        let cluster = Described::read()?;
        is_fit(&cluster)?;
        let done = on_cluster(&cluster, options, count);
        if cluster.is_somebody_elses() && !options.keep && is_for_good(&done) {
            step("the mesh out of the cluster", || without_mesh(&cluster))?;
        }
        done
    });
    if options.keep || was_up {
        println!("the cluster stays up: `cargo xtask cluster down` takes it down");
    } else if is_for_good(&done) {
        step("the cluster down", || xtask(&["cluster", "down"]))?;
    } else {
        println!("the cluster stays up for a look at what failed: `cargo xtask cluster down` takes it down");
    }
    done
}

/// Whether a cluster can be made here.
pub fn can_be_made() -> bool {
    cfg!(target_os = "linux") && rustix::process::geteuid().is_root()
}

/// Whether nobody is to look at what the tests have left.
fn is_for_good(done: &Result<()>) -> bool {
    done.is_ok() || env::var_os("CI").is_some()
}

fn on_cluster(cluster: &Described, options: &Options, count: &mut Count) -> Result<()> {
    let is_node = cluster.kind() == "node";
    if is_node {
        packages()?;
    } else {
        println!(
            "\n!!! SKIPPED: what looks into a node of our own ({ON_OUR_NODE}). Run as root on Linux without --context.\n"
        );
    }
    // Where `cluster up` puts a kubectl for a machine without one.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(env::split_paths(&path).chain([root().join("target/cluster/bin")]))?;
    let mut environment = vec![
        ("MESH_TEST_KUBECONFIG", cluster.text("kubeconfig").into()),
        ("MESH_TEST_CLUSTER", cluster.kind().into()),
        ("MESH_TEST_NODE", cluster.text("networkNamespace").into()),
        ("PATH", path.into()),
    ];
    environment.extend(options.image_registry.as_ref().map(|registry| ("MESH_TEST_REGISTRY", registry.into())));
    let on_it = |title: &str, test: &str, count: &mut Count| {
        // One after the other: they share two cores with a whole cluster, and the control plane that some take away.
        let mut which = vec!["--test", test, "--", "--test-threads=1", "--nocapture"];
        if !is_node {
            which.extend(["--skip", ON_OUR_NODE]);
        }
        step(title, || tests(&which, &environment, options.long, count))
    };
    on_it("the README's quick start on Kubernetes", "quickstart", count)?;
    on_it("tests on the cluster", "on_cluster", count)?;
    step("the Gateway API's own conformance suites", || conformance(cluster, options, count))
}

/// Refuses a cluster whose mesh is in use: the tests install, upgrade and break theirs.
fn is_fit(cluster: &Described) -> Result<()> {
    if !cluster.is_somebody_elses() {
        return Ok(());
    }
    let there =
        quiet(cluster.kubectl(&[&["get", "namespace", "--ignore-not-found", "-o", "name"][..], &LEFT].concat()))?;
    ensure!(
        there.is_empty(),
        "the cluster has {}, and the tests would alter and delete that: name a cluster without a mesh",
        there.split_whitespace().collect::<Vec<_>>().join(", ")
    );
    ensure!(
        conformance::gateway_api_of(cluster)?.is_some(),
        "the cluster has no Gateway API, and nothing of it is altered. Its owner can install it: standard channel, \
         v{GATEWAY_API}"
    );
    Ok(())
}

/// As `meshctl uninstall` does it.
fn without_mesh(cluster: &Described) -> Result<()> {
    let script = "target/debug/meshctl uninstall --force | \"$0\" delete --ignore-not-found -f - && \
                  \"$0\" delete namespace --ignore-not-found --wait \"$@\"";
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script, cluster.text("kubectl")]).args(LEFT);
    bash.current_dir(root()).env("KUBECONFIG", cluster.text("kubeconfig"));
    run(bash)
}

/// The official suite, with `--long` also the usual one, on the mesh that the tests before have left; each of their tests
/// counts as one. A cluster of somebody else's keeps the Gateway API that it has.
fn conformance(cluster: &Described, options: &Options, count: &mut Count) -> Result<()> {
    let suites = if cluster.is_somebody_elses() {
        let release = conformance::gateway_api_of(cluster)?.unwrap_or_default();
        let suite = SUITES.iter().find(|suite| suite.release == release);
        if suite.is_none() {
            count.skipped += 1;
            println!(
                "\n!!! SKIPPED: the Gateway API's conformance suite. The cluster has {release}, and no suite is for that.\n"
            );
        }
        suite.into_iter().collect()
    } else {
        let older = options.long.then_some(None);
        [Some(NEWEST)].into_iter().chain(older).map(Suite::of).collect::<Result<Vec<_>>>()?
    };
    for suite in suites {
        if !suite.can_be_had() {
            count.skipped += 1;
            println!(
                "\n!!! SKIPPED: the Gateway API's conformance suite {}. It is built with Go, and there is no `go` that can.\n",
                suite.minor
            );
            continue;
        }
        let options = conformance::Options::default();
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
