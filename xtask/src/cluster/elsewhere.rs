//! Clusters that are not made here: by kind, or an existing one that a context of the user's kubeconfig names. The
//! latter is used as it is: nothing but what a test puts into namespaces of its own.

use std::{
    env::consts::OS,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{
    GatewayApi, UpOptions, addons,
    layout::{self, GATEWAY_API, IPV6, Layout},
    node::kubectl,
    processes,
    programs::find,
};
use crate::step::{quiet, run, step};

/// The name of the cluster that kind makes.
const KIND: &str = "mesh-cluster";
/// Engines that kind can use.
const ENGINES: [&str; 3] = ["docker", "podman", "nerdctl"];

/// Whether `up` is to use kind or a context: because it was said, because one is in use, or because no node can be made
/// here.
pub fn is_wanted(layout: &Layout, options: &UpOptions) -> Result<bool> {
    if options.kind || options.context.is_some() || layout.is_up_elsewhere()? {
        return Ok(true);
    }
    if OS == "linux" && rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let has_kind = find("kind").is_some() && ENGINES.iter().any(|engine| find(engine).is_some());
    ensure!(
        has_kind,
        "a node of our own needs root on Linux, and kind with a container engine is not here either. Run this as root, \
         install kind, or name a cluster that exists: --context NAME"
    );
    Ok(true)
}

/// Makes a cluster with kind, or takes note of the context.
pub fn up(layout: &Layout, options: &UpOptions) -> Result<()> {
    ensure!(processes::node(&layout.run).is_none(), "a node of our own is up: `cargo xtask cluster down` first");
    ensure!(find("kubectl").is_some(), "kubectl is needed, and not here");
    let mut wanted = match &options.context {
        Some(context) => format!("context {context}"),
        None => "kind".into(),
    };
    if let Some(state) = layout.state()? {
        let is_up = state["cluster"].as_str().unwrap_or_default();
        if !options.kind && options.context.is_none() {
            // What is in use stays as it is.
            wanted = is_up.to_owned();
        }
        ensure!(is_up == wanted, "another cluster is in use ({is_up}): `cargo xtask cluster down` first");
    }
    let is_context = wanted != "kind";
    let start = Instant::now();
    match &options.context {
        Some(context) => take_note(layout, context, options.gateway_api)?,
        None if is_context => {}
        None => step("kind", || make(layout, options))?,
    }
    let state = json!({
        "kind": if is_context { "context" } else { "kind" },
        "cluster": wanted,
        "kubeconfig": layout.kubeconfig(),
        "kubectl": layout.kubectl,
    });
    layout::write(&layout.env_json(), &format!("{state:#}\n"))?;
    println!(
        "\n{wanted} is ready, {:.0} s:\n  export KUBECONFIG={}",
        start.elapsed().as_secs_f64(),
        layout.kubeconfig().display()
    );
    Ok(())
}

/// A copy of the one context, so that nothing we do can go to another cluster, and the user's file stays as it is.
fn take_note(layout: &Layout, context: &str, channel: GatewayApi) -> Result<()> {
    let mut view = Command::new("kubectl");
    view.args(["config", "view", "--minify", "--flatten", "--raw", "--context", context]);
    let copy = quiet(view).with_context(|| {
        format!("your kubeconfig has no context {context}: `kubectl config get-contexts` lists them")
    })?;
    fs::create_dir_all(&layout.run)?;
    fs::write(layout.kubeconfig(), "")?;
    fs::set_permissions(layout.kubeconfig(), fs::Permissions::from_mode(0o600))?;
    layout::write(&layout.kubeconfig(), &copy)?;
    let mut version = kubectl(layout);
    version.args(["version", "--request-timeout=10s"]);
    print!("{}", quiet(version).with_context(|| format!("the cluster of context {context} does not answer"))?);
    let mut routes = kubectl(layout);
    routes.args(["get", "crd", "httproutes.gateway.networking.k8s.io", "--request-timeout=10s"]);
    if channel != GatewayApi::None && quiet(routes).is_err() {
        println!(
            "the Gateway API is not installed in it, and this task alters nothing of it. Its owner can: standard channel, \
             version {GATEWAY_API}"
        );
    }
    Ok(())
}

fn make(layout: &Layout, options: &UpOptions) -> Result<()> {
    fs::create_dir_all(&layout.run)?;
    let mut list = Command::new("kind");
    list.args(["get", "clusters"]);
    if quiet(list)?.lines().any(|name| name == KIND) {
        let mut export = Command::new("kind");
        export.args(["export", "kubeconfig", "--name", KIND, "--kubeconfig"]).arg(layout.kubeconfig());
        quiet(export)?;
        println!("{KIND} runs already");
    } else {
        let config = layout.run.join("kind.yaml");
        let is_dual = !options.single_stack && Path::new(IPV6).exists();
        let family = if is_dual { "dual" } else { "ipv4" };
        let text = format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking: {{ ipFamily: {family} }}\n");
        layout::write(&config, &text)?;
        let mut create = Command::new("kind");
        create.args(["create", "cluster", "--name", KIND, "--wait", "180s", "--kubeconfig"]).arg(layout.kubeconfig());
        create.arg("--config").arg(config);
        run(create)?;
    }
    addons::gateway_api(kubectl(layout), options.gateway_api)
}

/// Ends what kind made; forgets a context, and leaves its cluster as it is.
pub fn down(layout: &Layout) -> Result<()> {
    let state = layout.state()?.unwrap_or_default();
    if state["kind"] == "kind" {
        let mut delete = Command::new("kind");
        delete.args(["delete", "cluster", "--name", KIND, "--kubeconfig"]).arg(layout.kubeconfig());
        run(delete)?;
    } else {
        println!("the cluster itself stays as it is; what tests made in it, they took away");
    }
    fs::remove_dir_all(&layout.run)?;
    Ok(())
}

/// What the cluster says of itself.
pub fn status(layout: &Layout) -> Result<()> {
    let state = layout.state()?.unwrap_or_default();
    println!(
        "{}: processes and memory of its parts are not seen from here",
        state["cluster"].as_str().unwrap_or_default()
    );
    let mut nodes = kubectl(layout);
    nodes.args(["get", "nodes", "-o", "wide", "--request-timeout=10s"]);
    print!("{}", quiet(nodes).context("the cluster does not answer")?);
    println!("\nexport KUBECONFIG={}", layout.kubeconfig().display());
    Ok(())
}

/// Gives images to kind's node; other clusters have them from a registry.
pub fn load(layout: &Layout, images: &[PathBuf]) -> Result<()> {
    let state = layout.state()?.unwrap_or_default();
    ensure!(
        state["kind"] == "kind",
        "images cannot be put into the cluster of a {}: push them to a registry that it pulls from, and install with \
         `meshctl install --image-registry`",
        state["cluster"].as_str().unwrap_or("context")
    );
    for image in images {
        let mut load = Command::new("kind");
        load.args(["load", "image-archive", "--name", KIND]).arg(image);
        run(load)?;
    }
    Ok(())
}

/// Pausing is for a node of our own.
pub fn no_components() -> Result<()> {
    bail!("components are stopped and started in a node of our own only (as root on Linux)")
}
