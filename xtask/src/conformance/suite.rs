//! The suite itself: building it, its official flags, and what it tells while it runs.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use super::{Options, Ran, SuiteOutcome, module, seconds, shown};
use crate::{
    cache::{CacheEntry, copy},
    cluster::GATEWAY_API,
    step::{root, run as run_command},
    tools::go,
};

/// One release of the suite, for the release of the Gateway API that it has the name of.
#[derive(Debug)]
pub struct Suite {
    /// As `--suite` has it.
    pub minor: &'static str,
    /// The release; the cluster must have the Gateway API in it.
    pub release: &'static str,
    /// The file beside the suite's own go.mod that pins it and what it is built from.
    pub pinned: &'static str,
    /// The Go that it is built with, where that is newer than what builds everything else; Go fetches it.
    toolchain: Option<&'static str>,
    /// Tests that cannot pass, as the release has them wrong.
    wrong: &'static [&'static str],
}

/// The ones that are run: all that Mesh claims to know. The one that [`GATEWAY_API`] names is the usual one.
pub const SUITES: [Suite; 4] = [
    Suite { minor: "1.4", release: "1.4.1", pinned: "go-1.4.mod", toolchain: None, wrong: &[] },
    // The test for 307 applies the route of the test for 303; mended in v1.6.
    Suite {
        minor: "1.5",
        release: "1.5.1",
        pinned: "go-1.5.mod",
        toolchain: None,
        wrong: &["MeshHTTPRoute307Redirect"],
    },
    Suite { minor: "1.6", release: GATEWAY_API, pinned: "go.mod", toolchain: None, wrong: &[] },
    Suite { minor: "1.7", release: "1.7.0", pinned: "go-1.7.mod", toolchain: Some("go1.27.4"), wrong: &[] },
];

impl Suite {
    /// The one of `--suite`, or the usual one.
    pub fn of(minor: Option<&str>) -> Result<&'static Self> {
        let is_it = |suite: &&Self| minor.map_or(suite.is_usual(), |minor| suite.minor == minor);
        let known = || SUITES.map(|suite| suite.minor).join(", ");
        SUITES.iter().find(is_it).with_context(|| format!("there are the suites {}", known()))
    }

    /// Whether it is the one for the Gateway API that our clusters have.
    pub fn is_usual(&self) -> bool {
        self.release == GATEWAY_API
    }

    /// Whether what one test makes is cleaned up by a flag of its own, as since v1.6.
    fn has_test_cleanup(&self) -> bool {
        !matches!(self.minor, "1.4" | "1.5")
    }

    /// Whether it is built, or a Go that builds it can be had.
    pub fn can_be_had(&self) -> bool {
        let is_built = self.entry().is_ok_and(|entry| entry.is_there());
        is_built || self.go(&["version"]).output().is_ok_and(|said| said.status.success())
    }

    /// Its place in the cache.
    fn entry(&self) -> Result<CacheEntry> {
        let sums = Path::new(self.pinned).with_extension("sum");
        let pins = [Path::new(self.pinned), &sums, Path::new("suite_test.go")].map(|file| folder().join(file));
        CacheEntry::of("gateway-api-conformance", self.release, &pins)
    }

    /// Go in its folder; a command that reads the pinned versions is told where by [`Suite::modfile`].
    fn go(&self, words: &[&str]) -> Command {
        let mut go = go(&folder());
        go.envs(self.toolchain.map(|toolchain| ("GOTOOLCHAIN", toolchain))).args(words);
        go
    }

    /// The flag that names the pinned versions.
    fn modfile(&self) -> String {
        format!("-modfile={}", self.pinned)
    }

    /// The folder of its sources; they became a module of their own with v1.5.
    fn sources(&self) -> Result<PathBuf> {
        let api = || anyhow::Ok(self.module("sigs.k8s.io/gateway-api")?.join("conformance"));
        self.module("sigs.k8s.io/gateway-api/conformance").or_else(|_| api())
    }

    fn module(&self, name: &str) -> Result<PathBuf> {
        module(self.go(&["list", &self.modfile(), "-m", "-f", "{{.Dir}}", name]), name)
    }
}

/// The suite's profiles for a mesh; each claims its core features.
pub const PROFILES: [&str; 2] = ["MESH-HTTP", "MESH-GRPC"];
/// What is claimed beyond: all that a test for a mesh asks for. A test that asks for more is skipped, which is an error
/// here, so that a later suite's tests do not go by unseen. Features of gateways stay out.
pub const FEATURES: [&str; 15] = [
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
];

/// The label that has pods injected.
const INJECT: &str = "meshctl.dev/inject=enabled";
/// What `integration/conformance/suite` says of a test begins so.
const MARK: &str = "conformance: ";
/// Far more than all tests take, which is minutes: a run that hangs must end.
const TIMEOUT: &str = "40m";
/// Words of the suite's lines that tell why a test has not passed yet, and what Go says of one that broke.
const COMPLAINTS: [&str; 5] = ["failed", "not ready yet", "timeout while waiting", "Error:", "panic:"];
/// How many such lines are shown of a test that failed.
const SHOWN: usize = 6;
/// How much of such a line is shown: some hold a whole answer.
const WIDTH: usize = 400;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran, and all was as the Gateway API has it.
    Passed,
    /// It ran, and something was not.
    Failed,
    /// It did not run: it needs a feature that is not claimed.
    Skipped,
}

/// Names in the folder of a suite that is built.
const PROGRAM: &str = "suite.test";
const MANIFESTS: &str = "manifests.yaml";
const DEFINITIONS: &str = "definitions";

/// The folder of its module.
pub fn folder() -> PathBuf {
    root().join("integration/conformance/suite")
}

/// A suite that is built, with what of its sources is needed to run it.
pub struct Built(PathBuf);

impl Built {
    /// The program that runs the tests.
    pub fn program(&self) -> PathBuf {
        self.0.join(PROGRAM)
    }

    /// The manifests of the tests' pods.
    pub fn manifests(&self) -> PathBuf {
        self.0.join(MANIFESTS)
    }

    /// The folder with the resource definitions of its release, standard channel.
    pub fn definitions(&self) -> PathBuf {
        self.0.join(DEFINITIONS)
    }
}

/// Builds it, if it is not in the cache yet.
pub fn build(suite: &Suite) -> Result<Built> {
    let what = format!("the conformance suite of the Gateway API {} (some minutes)", suite.release);
    let built = suite.entry()?.built(&what, |to| {
        let mut build = suite.go(&["test", &suite.modfile(), "-c", "-o"]);
        build.arg(to.join(PROGRAM)).arg(".");
        run_command(build)?;
        fs::write(to.join(MANIFESTS), fs::read(suite.sources()?.join("mesh/manifests.yaml"))?)?;
        copy(&suite.module("sigs.k8s.io/gateway-api")?.join("config/crd/standard"), &to.join(DEFINITIONS))
    })?;
    Ok(Built(built))
}

/// Runs it; each test is told when it ends.
pub fn run(suite: &Suite, program: &Path, work: &Path, kubeconfig: &Path, options: &Options) -> Result<SuiteOutcome> {
    let (report, log) = (work.join("report.yaml"), work.join("suite.log"));
    // A report of an earlier run must not be taken for this one's.
    let _ = fs::remove_file(&report);
    let mut command = Command::new(program);
    command.args(flags(suite, &report, options)).current_dir(work).env("KUBECONFIG", kubeconfig);
    let mut written = File::create(&log).with_context(|| format!("cannot write {}", shown(&log)))?;
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(written.try_clone()?).spawn()?;
    let said = child.stdout.take().context("no output")?;
    let mut tests: Vec<Ran> = Vec::new();
    let (mut since, mut complaints) = (start, VecDeque::new());
    for line in BufReader::new(said).split(b'\n') {
        let line = line?;
        written.write_all(&line)?;
        written.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line);
        let Some((verdict, name)) = told(&line) else {
            complain(&mut complaints, &line);
            continue;
        };
        let took = since.elapsed();
        if suite.wrong.contains(&name) {
            println!("left out {name}: release {} of the suite has it wrong", suite.release);
            continue;
        }
        match verdict {
            Verdict::Passed => println!("passed   {name} ({})", seconds(took)),
            Verdict::Failed => println!("FAILED   {name} ({})\n{}", seconds(took), joined(&complaints)),
            Verdict::Skipped if options.only.is_some() => {}
            Verdict::Skipped => println!("SKIPPED  {name}"),
        }
        tests.push(Ran { name: name.to_owned(), verdict, took });
        complaints.clear();
        since = Instant::now();
    }
    let status = child.wait()?;
    let outcome = SuiteOutcome { tests, report, log, took: start.elapsed() };
    ensure!(
        status.success() || outcome.count(Verdict::Failed) > 0,
        "the suite ended with {status}, not because of a test; all that it said is in {}. Its last complaints:\n{}",
        shown(&outcome.log),
        joined(&complaints)
    );
    ensure!(outcome.report.is_file(), "the suite wrote no report; all that it said is in {}", shown(&outcome.log));
    Ok(outcome)
}

/// The flags, as <https://gateway-api.sigs.k8s.io/concepts/conformance/> has them.
fn flags(suite: &Suite, report: &Path, options: &Options) -> Vec<String> {
    let clean = !options.keep;
    let mut flags = vec![
        "-test.v".to_owned(),
        format!("-test.timeout={TIMEOUT}"),
        format!("--conformance-profiles={}", PROFILES.join(",")),
        format!("--supported-features={}", FEATURES.join(",")),
        format!("--namespace-labels={INJECT}"),
        "--organization=mesh".to_owned(),
        "--project=mesh".to_owned(),
        "--url=https://meshctl.dev".to_owned(),
        format!("--version=v{}", env!("CARGO_PKG_VERSION")),
        "--contact=https://meshctl.dev".to_owned(),
        format!("--report-output={}", report.display()),
        format!("--cleanup-base-resources={clean}"),
    ];
    if !suite.wrong.is_empty() {
        flags.push(format!("--skip-tests={}", suite.wrong.join(",")));
    }
    if suite.has_test_cleanup() {
        flags.push(format!("--cleanup-test-resources={clean}"));
    }
    flags.extend(options.only.iter().map(|test| format!("--run-test={test}")));
    flags
}

/// What a line tells of a test, if it does.
fn told(line: &str) -> Option<(Verdict, &str)> {
    let (verdict, name) = line.strip_prefix(MARK)?.split_once(' ')?;
    let verdict = match verdict {
        "passed" => Verdict::Passed,
        "failed" => Verdict::Failed,
        "skipped" => Verdict::Skipped,
        _ => return None,
    };
    Some((verdict, name.trim()))
}

/// Keeps a line that may be the reason of a failure; the last ones are the ones that matter.
fn complain(complaints: &mut VecDeque<String>, line: &str) {
    if COMPLAINTS.iter().any(|words| line.contains(words)) {
        if complaints.len() == SHOWN {
            complaints.pop_front();
        }
        complaints.push_back(line.trim().chars().take(WIDTH).collect());
    }
}

fn joined(complaints: &VecDeque<String>) -> String {
    complaints.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_test_s_end_is_told_by_one_line() {
        assert_eq!(told("conformance: passed MeshBasic"), Some((Verdict::Passed, "MeshBasic")));
        assert_eq!(told("conformance: failed MeshPorts\r"), Some((Verdict::Failed, "MeshPorts")));
        assert_eq!(told("conformance: skipped MeshPorts"), Some((Verdict::Skipped, "MeshPorts")));
        assert_eq!(told("    conformance.go:74: Applying tests/mesh/mesh-ports.yaml"), None);
        assert_eq!(told("conformance: maybe MeshPorts"), None);
    }

    #[test]
    fn the_last_complaints_are_kept_and_cut() {
        let mut complaints = VecDeque::new();
        for n in 0..20 {
            complain(&mut complaints, &format!("  pod.go:75: Request {n} failed, {}", "x".repeat(WIDTH)));
            complain(&mut complaints, "  pod.go:78: Got resp");
        }
        assert_eq!(complaints.len(), SHOWN);
        assert!(complaints[SHOWN - 1].starts_with("pod.go:75: Request 19 failed"));
        assert!(complaints.iter().all(|line| line.chars().count() == WIDTH));
    }

    #[test]
    fn one_test_alone_and_its_leftovers_are_asked_for_by_flags() {
        let usual = Suite::of(None).unwrap();
        let ordinary = flags(usual, Path::new("report.yaml"), &Options::default());
        assert!(ordinary.contains(&"--cleanup-base-resources=true".to_owned()));
        assert!(!ordinary.iter().any(|flag| flag.starts_with("--run-test")));
        let options = Options { only: Some("MeshBasic".into()), keep: true, ..Options::default() };
        let looking = flags(usual, Path::new("report.yaml"), &options);
        assert!(looking.contains(&"--run-test=MeshBasic".to_owned()));
        assert!(looking.contains(&"--cleanup-test-resources=false".to_owned()));
        let old = flags(Suite::of(Some("1.5")).unwrap(), Path::new("report.yaml"), &options);
        assert!(!old.iter().any(|flag| flag.starts_with("--cleanup-test")), "{old:?}");
    }
}
