//! `cargo xtask conformance`: the Gateway API's own conformance suite, on the cluster that is up and the mesh in it.
//!
//! Top to bottom: the suite is built as it is published, [`echo`] makes the image that its pods run, the cluster is
//! looked at (Gateway API, mesh), the suite runs with its official flags, and [`page`] writes what came of it into
//! docs/conformance. docs/development/conformance.md is how to work with it.
//!
//! It brings up no cluster and installs no mesh: `cargo xtask cluster up` and `meshctl install` do.

mod echo;
mod page;
mod suite;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use self::suite::Verdict;
use crate::{
    cluster::{GATEWAY_API, quiet},
    step::{cargo, root, run, step},
    tools::{go, go_is_there},
};

/// Namespaces that the suite makes.
const NAMESPACES: [&str; 2] = ["gateway-conformance-mesh", "gateway-conformance-mesh-consumer"];
/// The control plane's namespace.
const SYSTEM: &str = "mesh-system";
/// How long the control plane may take to be up, as tests that took it away may have run just before.
const READY: &str = "--timeout=180s";
/// How long namespaces may take to go: pods have half a minute to end.
const GONE: &str = "--timeout=120s";

/// Flags of `cargo xtask conformance`.
#[derive(clap::Args, Default)]
pub struct Options {
    /// The cluster of this context in your kubeconfig; otherwise the one that is up.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// One test of the suite, such as MeshBasic; report and page stay as they are.
    #[arg(long, value_name = "TEST")]
    only: Option<String>,
    /// Leave what the suite made in the cluster, for a look.
    #[arg(long)]
    keep: bool,
}

/// What came of the suite.
pub struct Outcome {
    /// Each test for a mesh, in the order in which it ran.
    tests: Vec<Ran>,
    /// The official report.
    report: PathBuf,
    /// Everything that the suite said.
    log: PathBuf,
    /// From the first pod to the last.
    took: Duration,
}

/// One test of the suite.
pub struct Ran {
    name: String,
    verdict: Verdict,
    took: Duration,
}

/// The cluster that is tested on.
struct Target {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// Somebody else's: nothing of it is altered but what tests make in namespaces of their own.
    is_context: bool,
}

/// Runs the suite, and writes report and page when everything that is claimed passes.
pub fn run_conformance(options: &Options) -> Result<()> {
    ensure!(go_is_there(), "the suite is built with Go, and there is no `go`: install Go 1.26 or newer");
    let outcome = run_suite(options)?;
    outcome.judge(options)?;
    if options.only.is_none() {
        step("docs/conformance", || page::write(&outcome))?;
    }
    println!("\n{} passed, 0 failed; report: {}", outcome.count(Verdict::Passed), shown(&outcome.report));
    Ok(())
}

/// Builds what is needed and runs the suite. What it made in the cluster is taken away, whatever comes of it.
pub fn run_suite(options: &Options) -> Result<Outcome> {
    let work = root().join("target/conformance");
    fs::create_dir_all(&work)?;
    let target = target(options.context.as_deref())?;
    let program = step("the suite (minutes with an empty cache)", || suite::build(&work))?;
    let image = step("the image of its pods", || echo::image(&work))?;
    step("the cluster: image, Gateway API, mesh", || {
        target.load(&image)?;
        target.gateway_api()?;
        target.mesh()?;
        target.clear()
    })?;
    let outcome = step("the suite's tests for a mesh", || suite::run(&program, &work, &target.kubeconfig, options));
    if options.keep {
        println!("the namespaces {} stay", NAMESPACES.join(" and "));
    } else {
        step("namespaces away", || target.clear())?;
    }
    outcome
}

impl Outcome {
    /// How many tests ended so.
    pub fn count(&self, verdict: Verdict) -> u64 {
        self.tests.iter().map(|ran| u64::from(ran.verdict == verdict)).sum()
    }

    /// An error unless every test for a mesh ran and passed.
    pub fn judge(&self, options: &Options) -> Result<()> {
        let named = |verdict: Verdict| {
            let names = self.tests.iter().filter(|ran| ran.verdict == verdict).map(|ran| ran.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let failed = self.count(Verdict::Failed);
        ensure!(
            failed == 0,
            "{failed} tests of the suite failed: {}; all that it said is in {}",
            named(Verdict::Failed),
            shown(&self.log)
        );
        ensure!(self.count(Verdict::Passed) > 0, "no test of the suite ran; what it said is in {}", shown(&self.log));
        let skipped = self.count(Verdict::Skipped);
        ensure!(
            skipped == 0 || options.only.is_some(),
            "{skipped} tests of the suite were skipped, as they need features that xtask/src/conformance/suite.rs does \
             not claim: {}",
            named(Verdict::Skipped)
        );
        Ok(())
    }
}

/// The cluster that is up, or the one of the context.
fn target(context: Option<&str>) -> Result<Target> {
    if let Some(context) = context {
        run(cargo(["xtask", "cluster", "up", "--context", context]))?;
    }
    let described = fs::read(root().join("target/cluster/env.json"))
        .context("no cluster is up: `cargo xtask cluster up`, or name one with --context")?;
    let described: Value = serde_json::from_slice(&described).context("target/cluster/env.json")?;
    let path = |name: &str| {
        let path = described[name].as_str().with_context(|| format!("target/cluster/env.json has no {name}"))?;
        anyhow::Ok(PathBuf::from(path))
    };
    Ok(Target {
        kubectl: path("kubectl")?,
        kubeconfig: path("kubeconfig")?,
        is_context: described["kind"] == "context",
    })
}

impl Target {
    fn kubectl(&self, words: &[&str]) -> Command {
        let mut kubectl = Command::new(&self.kubectl);
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(words);
        kubectl
    }

    /// Gives the image to the nodes.
    fn load(&self, image: &Path) -> Result<()> {
        if self.is_context {
            println!("a cluster of yours pulls the suite's own image from its registry");
            return Ok(());
        }
        let load = ["xtask", "cluster", "load"].map(PathBuf::from);
        run(cargo(load.into_iter().chain([image.to_owned()])))
    }

    /// Sees that the suite's version of the Gateway API is there: the suite refuses any other.
    fn gateway_api(&self) -> Result<()> {
        let annotation = r"jsonpath={.metadata.annotations.gateway\.networking\.k8s\.io/bundle-version}";
        let get = ["get", "crd", "httproutes.gateway.networking.k8s.io", "--ignore-not-found", "-o", annotation];
        let there = quiet(self.kubectl(&get))?;
        let wanted = format!("v{GATEWAY_API}");
        if there == wanted {
            println!("the Gateway API {wanted} is there");
            return Ok(());
        }
        ensure!(there.is_empty(), "the cluster has the Gateway API {there}, and the suite is for {wanted}");
        if self.is_context {
            bail!("the cluster has no Gateway API, and nothing of it is altered. Its owner can install {wanted}");
        }
        println!("installing the Gateway API {wanted}, standard channel");
        let crds = module(&suite::folder(), "sigs.k8s.io/gateway-api")?.join("config/crd/standard");
        let mut apply = self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f"]);
        apply.arg(crds);
        quiet(apply)?;
        quiet(self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", READY])).map(drop)
    }

    /// Sees that a mesh is there, and waits for it.
    fn mesh(&self) -> Result<()> {
        let deployments = quiet(self.kubectl(&["get", "deployments", "-n", SYSTEM, "-o", "name"]))?;
        ensure!(
            !deployments.is_empty(),
            "no mesh is installed in the cluster: the README's commands under \"On Kubernetes\" do that"
        );
        let wait = ["wait", "-n", SYSTEM, "--for=condition=Available", "deployment", "--all", READY];
        quiet(self.kubectl(&wait)).context("the mesh does not come up: `meshctl check` says why")?;
        println!("the mesh is up: {}", deployments.split_whitespace().collect::<Vec<_>>().join(", "));
        Ok(())
    }

    /// Takes the suite's namespaces away, those of a run that was killed as well, and waits until they are gone.
    fn clear(&self) -> Result<()> {
        let delete = [&["delete", "namespace", "--ignore-not-found", GONE][..], &NAMESPACES].concat();
        print!("{}", quiet(self.kubectl(&delete))?);
        Ok(())
    }
}

/// The folder of a module that what is in `folder` is built from.
fn module(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut list = go(folder);
    list.args(["list", "-m", "-f", "{{.Dir}}", name]);
    let said = quiet(list)?;
    ensure!(!said.trim().is_empty(), "the module {name} has no folder: `go mod download` in {}", shown(folder));
    Ok(said.trim().into())
}

/// A path as people here know it: from the workspace's folder on.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Seconds with one decimal.
fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn outcome(tests: &[(&str, Verdict)]) -> Outcome {
        let ran = |(name, verdict): &(&str, Verdict)| Ran {
            name: (*name).into(),
            verdict: *verdict,
            took: Duration::from_secs(1),
        };
        Outcome {
            tests: tests.iter().map(ran).collect(),
            report: root().join("target/conformance/report.yaml"),
            log: root().join("target/conformance/suite.log"),
            took: Duration::from_secs(2),
        }
    }

    #[test]
    fn only_all_of_it_is_good_enough() {
        let (all, one) = (Options::default(), Options { only: Some("A".into()), ..Options::default() });
        assert!(outcome(&[("A", Verdict::Passed), ("B", Verdict::Passed)]).judge(&all).is_ok());
        let failed = outcome(&[("A", Verdict::Passed), ("B", Verdict::Failed)]).judge(&all).unwrap_err().to_string();
        assert!(failed.contains("failed: B;") && failed.contains("in target/conformance/suite.log"), "{failed}");
        let skipped = outcome(&[("A", Verdict::Passed), ("B", Verdict::Skipped)]);
        assert!(skipped.judge(&all).unwrap_err().to_string().contains("not claim: B"));
        assert!(skipped.judge(&one).is_ok());
        assert!(outcome(&[("A", Verdict::Skipped)]).judge(&one).is_err());
    }

    #[test]
    fn the_suite_that_is_pinned_is_for_the_cluster_s_gateway_api() {
        let pinned = fs::read_to_string(suite::folder().join("go.mod")).unwrap();
        for module in ["sigs.k8s.io/gateway-api", "sigs.k8s.io/gateway-api/conformance"] {
            assert!(pinned.contains(&format!("\t{module} v{GATEWAY_API}\n")), "{module}");
        }
    }
}
