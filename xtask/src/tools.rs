//! Tools written in Go, each pinned by a module of its own in this folder and built once into `target/tools`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::step::{root, run};

/// A tool that is built here.
pub struct GoTool {
    /// The folder with its go.mod, under `xtask/`, and its program's name.
    pub name: &'static str,
    /// Its version, part of the folder in `target/tools`.
    pub version: &'static str,
    /// The package of the program.
    pub package: &'static str,
}

/// What the tests of HTTP/2 conformance run; `integration/tests/h2spec.rs` has the same folder.
pub const H2SPEC: GoTool =
    GoTool { name: "h2spec", version: "2.2.1", package: "github.com/summerwind/h2spec/cmd/h2spec" };
/// What renders the chart beside us; `cli/src/chart/helm.rs` has the same folder.
pub const HELM: GoTool = GoTool { name: "helm", version: "3.22.0", package: "helm.sh/helm/v3/cmd/helm" };
/// Compares manifests with the schemas of the API.
pub const KUBECONFORM: GoTool =
    GoTool { name: "kubeconform", version: "0.8.0", package: "github.com/yannh/kubeconform/cmd/kubeconform" };
/// Judges manifests by rules of good practice.
pub const KUBE_SCORE: GoTool =
    GoTool { name: "kube-score", version: "1.20.0", package: "github.com/zegl/kube-score/cmd/kube-score" };

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
    /// Where it is, or will be.
    pub fn path(&self) -> PathBuf {
        root().join(format!("target/tools/{0}-{1}/{0}", self.name, self.version))
    }

    /// Builds it if it is not there yet. `None` without Go.
    pub fn build(&self) -> Result<Option<PathBuf>> {
        let (path, GoTool { name, version, package }) = (self.path(), self);
        if path.is_file() {
            println!("{name} {version} is in target/tools already");
            return Ok(Some(path));
        }
        if !go_is_there() {
            return Ok(None);
        }
        println!("building {name} {version} into target/tools (half a minute, or a few with an empty cache)");
        let mut build = Command::new("go");
        build.args(["build", "-mod=readonly", "-trimpath", "-o"]).arg(&path).arg(package);
        build.current_dir(root().join("xtask").join(name));
        run(build)?;
        Ok(Some(path))
    }
}
