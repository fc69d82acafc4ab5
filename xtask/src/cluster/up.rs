//! `cluster up` of a node of our own: from nothing, from half of it, or from all of it.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{
    UpOptions, addons, components, files,
    layout::{Family, IPV6, KUBERNETES, Layout, NODE, families},
    leftovers,
    node::{self, ctr, ip, kubectl},
    processes::{self, Node},
    programs, status, tools,
};
use crate::step::{quiet, step};

/// Brings it up.
pub fn up(layout: &Layout, options: &UpOptions) -> Result<()> {
    let start = Instant::now();
    step("programs", || tools::ensure_all(layout))?;
    let is_dual = !options.single_stack && Path::new(IPV6).exists();
    let node = match processes::node(&layout.run) {
        Some(node) => {
            let state =
                layout.state()?.context("a node runs, and its env.json is gone: `cargo xtask cluster down` first")?;
            ensure!(
                state["dualStack"] == is_dual,
                "the cluster that is up has other address families: `cargo xtask cluster down` first"
            );
            println!("the node runs already: what is missing in it is started");
            node
        }
        None => step("node", || fresh(layout, is_dual))?,
    };
    step("Kubernetes", || start_components(layout, &node, is_dual))?;
    step("images of its own", || images(layout))?;
    step("cluster DNS, Gateway API", || {
        addons::core_dns(layout, is_dual)?;
        addons::gateway_api(kubectl(layout), options.gateway_api)?;
        addons::wait_ready(layout)
    })?;
    if programs::find("kubectl").is_none() {
        println!("\nkubectl: {}", tools::link_kubectl(layout)?.display());
    }
    println!(
        "\nKubernetes {KUBERNETES} is up, {:.0} s ({}):\n  export KUBECONFIG={}\n  logs: {}",
        start.elapsed().as_secs_f64(),
        if is_dual { "IPv4 and IPv6" } else { "IPv4" },
        layout.kubeconfig().display(),
        layout.run.join("logs").display()
    );
    Ok(())
}

/// A node where none runs. What an earlier one left when it was killed goes first.
fn fresh(layout: &Layout, is_dual: bool) -> Result<Node> {
    if let Some(other) = processes::nodes().first() {
        bail!(
            "another cluster with these addresses runs on this machine (process {}, files in {}): use it, or take it down \
             there with `cargo xtask cluster down`",
            other.pid,
            other.run.display()
        );
    }
    leftovers::clear(layout)?;
    free_addresses(is_dual)?;
    files::make(layout, is_dual)?;
    layout.write_state(is_dual, &[])?;
    node::make(layout, is_dual)
}

/// Fails if the machine already goes elsewhere for one of the cluster's addresses.
fn free_addresses(is_dual: bool) -> Result<()> {
    for Family { host, link_bits, pods, services, flag, .. } in families(is_dual) {
        for range in [&format!("{host}/{link_bits}"), *pods, *services] {
            for relation in ["root", "match"] {
                let routes = ip(&format!("{flag} route show to {relation} {range}")).unwrap_or_default();
                let taken = routes.lines().find(|route| !route.starts_with("default"));
                if let Some(route) = taken {
                    bail!(
                        "this machine has a route to {range}, which the cluster would use: `{}`. Another cluster? End it, or \
                         use --kind or --context",
                        route.trim()
                    );
                }
            }
        }
    }
    Ok(())
}

fn start_components(layout: &Layout, node: &Node, is_dual: bool) -> Result<()> {
    for component in components::all(layout, is_dual) {
        let start = Instant::now();
        if status::process_of(node, component.name).is_some() {
            node::wait_ready(layout, &component)?;
            println!("{} runs", component.name);
            continue;
        }
        node::start(layout, node, &component)?;
        println!("{} is ready, {:.1} s", component.name, start.elapsed().as_secs_f64());
    }
    status::write_state(layout, node, is_dual)
}

/// Imports pause and CoreDNS, unless they are there.
fn images(layout: &Layout) -> Result<()> {
    let mut list = ctr(layout);
    list.args(["images", "list", "--quiet"]);
    let there = quiet(list)?;
    let wanted = [
        ("mesh-cluster/pause", layout.node_tools.join("pause.tar")),
        ("mesh-cluster/coredns", layout.coredns.join("coredns.tar")),
    ];
    let missing: Vec<_> =
        wanted.into_iter().filter(|(name, _)| !there.contains(name)).map(|(_, archive)| archive).collect();
    node::load(layout, &missing).with_context(|| format!("{NODE} has no images"))
}
