//! Tools that checks and tests run, pinned and kept in the [`cache`](crate::cache): those written in Go, each by a module
//! of its own in this folder, and cargo-deny.
//!
//! `cargo xtask tools` builds them and says where they are, for tests that are run by hand.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    cache::CacheEntry,
    step::{cargo, root, run},
};

/// A tool in Go that is built here.
pub struct GoTool {
    /// The folder with its go.mod, under `xtask/`, and its program's name.
    pub name: &'static str,
    /// Its version, as its go.mod has it.
    pub version: &'static str,
    /// The package of the program.
    pub package: &'static str,
    /// The variable by which tests are told where it is, if tests run it.
    pub variable: Option<&'static str>,
}

/// What the tests of HTTP/2 conformance run; `integration/tests/processes/h2spec.rs` reads the variable.
pub const H2SPEC: GoTool = GoTool {
    name: "h2spec",
    version: "2.2.1",
    package: "github.com/summerwind/h2spec/cmd/h2spec",
    variable: Some("MESH_H2SPEC"),
};
/// What renders the chart beside us; `cli/src/chart/helm.rs` reads the variable.
pub const HELM: GoTool =
    GoTool { name: "helm", version: "3.22.0", package: "helm.sh/helm/v3/cmd/helm", variable: Some("MESH_HELM") };
/// Compares manifests with the schemas of the API.
pub const KUBECONFORM: GoTool = GoTool {
    name: "kubeconform",
    version: "0.8.0",
    package: "github.com/yannh/kubeconform/cmd/kubeconform",
    variable: None,
};
/// Judges manifests by rules of good practice.
pub const KUBE_SCORE: GoTool = GoTool {
    name: "kube-score",
    version: "1.20.0",
    package: "github.com/zegl/kube-score/cmd/kube-score",
    variable: None,
};
/// All of them.
const GO_TOOLS: [&GoTool; 4] = [&H2SPEC, &HELM, &KUBECONFORM, &KUBE_SCORE];

/// The version of cargo-deny that `deny.toml` is written for.
const DENY: &str = "0.20.2";

/// Whether there is a Go to build with.
pub fn go_is_there() -> bool {
    Command::new("go").arg("version").output().is_ok_and(|said| said.status.success())
}

/// Go in the folder of a module, for static programs that do not depend on what a user has set, but for where modules
/// come from.
pub fn go(folder: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(folder).env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly -buildvcs=false");
    go.env("CGO_ENABLED", "0");
    go
}

impl GoTool {
    /// Builds it if it is not there yet. `None` without it and without Go.
    pub fn build(&self) -> Result<Option<PathBuf>> {
        let GoTool { name, version, package, .. } = self;
        let module = root().join("xtask").join(name);
        let entry = CacheEntry::of(name, version, &[module.join("go.mod"), module.join("go.sum")])?;
        if !entry.is_there() && !go_is_there() {
            return Ok(None);
        }
        let what = format!("{name} {version} (half a minute, or a few with an empty cache of Go)");
        let folder = entry.built(&what, |folder| {
            let mut build = Command::new("go");
            build.args(["build", "-mod=readonly", "-trimpath", "-o"]).arg(folder.join(name)).arg(package);
            build.current_dir(&module);
            run(build)
        })?;
        Ok(Some(folder.join(name)))
    }
}

/// cargo-deny, installed if it is not there yet.
pub fn cargo_deny() -> Result<PathBuf> {
    let entry = CacheEntry::of("cargo-deny", DENY, &[])?;
    let folder = entry.built(&format!("cargo-deny {DENY} (a minute or two)"), |folder| {
        // Its own target folder is temporary; without debug information and optimisation it builds four times faster.
        let mut install = cargo(["install", "cargo-deny", "--version", DENY, "--locked", "--debug", "--quiet"]);
        // `--no-track`: the folder is renamed, and cargo is not to look for what it installed there.
        install.args(["--no-track", "--root"]).arg(folder).env("CARGO_PROFILE_DEV_DEBUG", "0");
        run(install)
    })?;
    Ok(folder.join("bin/cargo-deny"))
}

/// Variables that tell tests where the tools are which they run. A tool that is not there and cannot be built has none.
pub fn environment() -> Result<Vec<(&'static str, PathBuf)>> {
    let named = GO_TOOLS.iter().filter_map(|tool| Some((tool.variable?, tool.build())));
    named.filter_map(|(variable, path)| Some(path.transpose()?.map(|path| (variable, path)))).collect()
}

/// `cargo xtask tools`: builds what tests run, and prints it as a shell takes it.
pub fn run_tools() -> Result<()> {
    for (variable, path) in environment()? {
        println!("export {variable}={}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_modules_pin_the_versions() {
        for GoTool { name, version, .. } in GO_TOOLS {
            let pinned = std::fs::read_to_string(root().join("xtask").join(name).join("go.mod")).unwrap();
            assert!(pinned.contains(&format!(" v{version}")), "{name} is not pinned to {version}");
        }
    }
}
