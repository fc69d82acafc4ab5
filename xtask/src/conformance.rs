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

use self::suite::Built;
pub use self::suite::{SUITES, Suite, Verdict};
use crate::{
    cluster::Described,
    step::{cargo, quiet, root, run, step},
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
    /// The suite of this minor release of the Gateway API: 1.4, 1.5, 1.6 (the usual one) or 1.7. A cluster of ours gets
    /// that release in place of its own, and loses the routes in it.
    #[arg(long, value_name = "MINOR")]
    suite: Option<String>,
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
pub struct SuiteOutcome {
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
struct Target<'c>(&'c Described);

/// Runs the suite, and writes report and page when everything that is claimed passes.
pub fn run_conformance(options: &Options) -> Result<()> {
    let suite = Suite::of(options.suite.as_deref())?;
    ensure!(suite.can_be_had(), "the suite is built with Go, and there is no `go` that can: install Go 1.26 or newer");
    let outcome = run_suite(suite, options)?;
    outcome.judge(options)?;
    if options.only.is_none() {
        step("docs/conformance", || page::write(suite, &outcome))?;
    }
    println!("\n{} passed, 0 failed; report: {}", outcome.count(Verdict::Passed), shown(&outcome.report));
    Ok(())
}

/// Builds what is needed and runs the suite. What it made in the cluster is taken away, whatever comes of it.
pub fn run_suite(suite: &Suite, options: &Options) -> Result<SuiteOutcome> {
    let work = root().join("target/conformance");
    fs::create_dir_all(&work)?;
    if let Some(context) = &options.context {
        run(cargo(["xtask", "cluster", "up", "--context", context]))?;
    }
    let cluster = Described::read()?;
    let target = Target(&cluster);
    let title = format!("the suite of Gateway API {} (minutes with an empty cache)", suite.release);
    let built = step(&title, || suite::build(suite))?;
    let image = step("the image of its pods", || echo::image(&built, &work))?;
    step("the cluster: image, Gateway API, mesh", || {
        target.load(&image)?;
        let is_new = target.gateway_api(suite, &built)?;
        target.mesh(is_new)?;
        target.clear()
    })?;
    let outcome = step("the suite's tests for a mesh", || {
        suite::run(suite, &built.program(), &work, Path::new(cluster.text("kubeconfig")), options)
    });
    if options.keep {
        println!("the namespaces {} stay", NAMESPACES.join(" and "));
    } else {
        step("namespaces away", || target.clear())?;
    }
    outcome
}

/// Builds the suite of a minor release, and the image of its pods.
pub fn build(minor: &str) -> Result<()> {
    let work = root().join("target/conformance");
    fs::create_dir_all(&work)?;
    echo::image(&suite::build(Suite::of(Some(minor))?)?, &work).map(drop)
}

/// The release of the Gateway API in a cluster, such as `1.6.3`; nothing if it has none.
pub fn gateway_api_of(cluster: &Described) -> Result<Option<String>> {
    let there = Target(cluster).bundle()?;
    Ok((!there.is_empty()).then(|| there.trim_start_matches('v').to_owned()))
}

impl SuiteOutcome {
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

impl Target<'_> {
    /// Gives the image to the nodes.
    fn load(&self, image: &Path) -> Result<()> {
        if self.0.is_somebody_elses() {
            println!("a cluster of yours pulls the suite's own image from its registry");
            return Ok(());
        }
        let load = ["xtask", "cluster", "load"].map(PathBuf::from);
        run(cargo(load.into_iter().chain([image.to_owned()])))
    }

    /// What the Gateway API's definitions say that they are; nothing if there are none.
    fn bundle(&self) -> Result<String> {
        let annotation = r"jsonpath={.metadata.annotations.gateway\.networking\.k8s\.io/bundle-version}";
        quiet(self.0.kubectl(&[
            "get",
            "crd",
            "httproutes.gateway.networking.k8s.io",
            "--ignore-not-found",
            "-o",
            annotation,
        ]))
    }

    /// Sees that the suite's release of the Gateway API is there, as the suite refuses any other. Whether it was put there.
    fn gateway_api(&self, suite: &Suite, built: &Built) -> Result<bool> {
        let there = self.bundle()?;
        let wanted = format!("v{}", suite.release);
        if there == wanted {
            println!("the Gateway API {wanted} is there");
            return Ok(false);
        }
        if self.0.is_somebody_elses() {
            let has = if there.is_empty() { "no Gateway API" } else { &there };
            bail!("the cluster has {has}, and nothing of it is altered. Its owner can install {wanted}");
        }
        if !there.is_empty() {
            println!("taking the Gateway API {there} away, and the routes with it");
            self.without_gateway_api()?;
        }
        println!("installing the Gateway API {wanted}, standard channel");
        let mut apply = self.0.kubectl(&["apply", "--server-side", "--force-conflicts", "-f"]);
        apply.arg(built.definitions());
        quiet(apply)?;
        quiet(self.0.kubectl(&["wait", "--for=condition=Established", "crd", "--all", READY]))?;
        Ok(true)
    }

    /// An older release cannot be put over a newer one: a policy of the newer forbids it, and kinds of it would stay.
    fn without_gateway_api(&self) -> Result<()> {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            let policy = "safe-upgrades.gateway.networking.k8s.io";
            quiet(self.0.kubectl(&["delete", kind, policy, "--ignore-not-found"]))?;
        }
        let all = quiet(self.0.kubectl(&["get", "crd", "-o", "name"]))?;
        let names = all.lines().filter(|name| name.ends_with(".gateway.networking.k8s.io"));
        let delete: Vec<&str> = ["delete", GONE].into_iter().chain(names).collect();
        quiet(self.0.kubectl(&delete)).map(drop)
    }

    /// Sees that a mesh is there, and waits for it. With definitions that are `new` it begins anew: the suite asks for routes
    /// at once, when an API server that has just lost and got them may not tell of changes yet.
    fn mesh(&self, is_new: bool) -> Result<()> {
        let deployments = quiet(self.0.kubectl(&["get", "deployments", "-n", SYSTEM, "-o", "name"]))?;
        ensure!(
            !deployments.is_empty(),
            "no mesh is installed in the cluster: the README's commands under \"On Kubernetes\" do that"
        );
        if is_new {
            quiet(self.0.kubectl(&["rollout", "restart", "-n", SYSTEM, "deployment/mesh-destination"]))?;
            quiet(self.0.kubectl(&["rollout", "status", "-n", SYSTEM, "deployment/mesh-destination", READY]))?;
        }
        let wait = ["wait", "-n", SYSTEM, "--for=condition=Available", "deployment", "--all", READY];
        quiet(self.0.kubectl(&wait)).context("the mesh does not come up: `meshctl check` says why")?;
        println!("the mesh is up: {}", deployments.split_whitespace().collect::<Vec<_>>().join(", "));
        Ok(())
    }

    /// Takes the suite's namespaces away, those of a run that was killed as well, and waits until they are gone.
    fn clear(&self) -> Result<()> {
        let delete = [&["delete", "namespace", "--ignore-not-found", GONE][..], &NAMESPACES].concat();
        print!("{}", quiet(self.0.kubectl(&delete))?);
        Ok(())
    }
}

/// The folder of a module, as `go list` says.
fn module(list: Command, name: &str) -> Result<PathBuf> {
    let said = quiet(list)?;
    ensure!(!said.trim().is_empty(), "the module {name} has no folder: `go mod download` fetches it");
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

    fn outcome(tests: &[(&str, Verdict)]) -> SuiteOutcome {
        let ran = |(name, verdict): &(&str, Verdict)| Ran {
            name: (*name).into(),
            verdict: *verdict,
            took: Duration::from_secs(1),
        };
        SuiteOutcome {
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
    fn each_suite_is_pinned_to_its_release() {
        for suite in &suite::SUITES {
            let pinned = fs::read_to_string(suite::folder().join(suite.pinned)).unwrap();
            let names = |module: &str| pinned.contains(&format!("{module} v{}\n", suite.release));
            assert!(names("sigs.k8s.io/gateway-api"), "{suite:?}");
            assert!(suite.minor == "1.4" || names("sigs.k8s.io/gateway-api/conformance"), "{suite:?}");
        }
        assert_eq!(Suite::of(None).unwrap().pinned, "go.mod");
        assert_eq!(Suite::of(Some("1.7")).unwrap().release, "1.7.0");
        assert!(Suite::of(Some("1.3")).unwrap_err().to_string().contains("1.4, 1.5, 1.6, 1.7"));
    }
}
