//! `cluster status`, `pause` and `resume`: the components one by one.

use std::{io::Write as _, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::{
    components::{self, Component},
    layout::Layout,
    node::{self, kubectl},
    processes::{self, Node, Process, is_alive, signal},
    wait::until,
};
use crate::step::quiet;

/// How long a component may take to end by itself. The API server waits for requests; a test wants it gone.
const END: Duration = Duration::from_secs(5);

/// Prints what runs. An error unless everything does.
pub fn status(layout: &Layout) -> Result<()> {
    let Some(node) = processes::node(&layout.run) else { bail!("no cluster is up: `cargo xtask cluster up`") };
    let processes = node.processes();
    let mut failed = Vec::new();
    let mut table = row("component", "pid", "state", "memory", "log");
    for component in all(layout)? {
        let found = processes.iter().find(|process| process.name == component.name);
        let is_ready = found.is_some() && component.is_ready(layout);
        let state = match (found, is_ready) {
            (None, _) => "stopped",
            (Some(_), false) => "unready",
            (Some(_), true) => "ready",
        };
        if !is_ready {
            failed.push(component.name);
        }
        let (pid, memory) = found.map_or(("-".into(), "-".into()), |found| (found.pid.to_string(), mib(found.rss_kib)));
        table += &row(component.name, &pid, state, &memory, &layout.log(component.name).display().to_string());
    }
    let shims: Vec<&Process> = processes.iter().filter(|process| process.name.starts_with("containerd-shim")).collect();
    let of_shims = shims.iter().map(|shim| shim.rss_kib).sum();
    table += &row("containerd-shim", "", &shims.len().to_string(), &mib(of_shims), "one for each pod");
    let of_all = processes.iter().map(|process| process.rss_kib).sum();
    table += &row("in all", "", "", &mib(of_all), "resident, without what runs in pods");
    table += &format!("\nexport KUBECONFIG={}\n", layout.kubeconfig().display());
    if failed.is_empty() {
        let mut nodes = kubectl(layout);
        nodes.args(["get", "nodes,pods", "--all-namespaces", "-o", "wide", "--request-timeout=5s"]);
        table += &format!("\n{}", quiet(nodes)?);
    }
    // Whoever reads only the first lines of it is no reason to panic.
    std::io::stdout().write_all(table.as_bytes())?;
    ensure!(failed.is_empty(), "not ready: {}; their logs say why", failed.join(", "));
    Ok(())
}

fn row(component: &str, pid: &str, state: &str, memory: &str, log: &str) -> String {
    format!("{component:<26} {pid:>8}  {state:<8} {memory:>9}  {log}\n")
}

/// Ends a component's process.
pub fn pause(layout: &Layout, name: &str) -> Result<()> {
    let (node, component) = one(layout, name)?;
    let Some(pid) = process_of(&node, component.name) else { bail!("{} is stopped already", component.name) };
    signal(pid, Signal::TERM);
    let gone = until(component.name, END, || Ok((!is_alive(pid)).then_some(())));
    if gone.is_err() {
        signal(pid, Signal::KILL);
        until(&format!("the end of {}", component.name), END, || Ok((!is_alive(pid)).then_some(())))?;
    }
    println!("{} is stopped; `cargo xtask cluster resume {name}` starts it", component.name);
    write_state(layout, &node, is_dual(layout)?)
}

/// Starts it again.
pub fn resume(layout: &Layout, name: &str) -> Result<()> {
    let (node, component) = one(layout, name)?;
    if process_of(&node, component.name).is_some() {
        println!("{} runs", component.name);
        return Ok(());
    }
    node::start(layout, &node, &component)?;
    println!("{} is ready", component.name);
    write_state(layout, &node, is_dual(layout)?)
}

/// A component's process.
pub fn process_of(node: &Node, name: &str) -> Option<u32> {
    node.processes().iter().find(|process| process.name == name).map(|process| process.pid)
}

/// Writes env.json with what runs now.
pub fn write_state(layout: &Layout, node: &Node, is_dual: bool) -> Result<()> {
    let processes = node.processes();
    let components = components::all(layout, is_dual);
    let is_component = |process: &&Process| components.iter().any(|component| component.name == process.name);
    let running = processes.iter().filter(is_component).map(|process| (process.name.as_str(), process.pid));
    layout.write_state(is_dual, &[("init", node.pid)].into_iter().chain(running).collect::<Vec<_>>())
}

fn one(layout: &Layout, name: &str) -> Result<(Node, Component)> {
    let component = components::named(all(layout)?, name)?;
    let node = processes::node(&layout.run).context("no cluster is up: `cargo xtask cluster up`")?;
    Ok((node, component))
}

fn all(layout: &Layout) -> Result<Vec<Component>> {
    Ok(components::all(layout, is_dual(layout)?))
}

fn is_dual(layout: &Layout) -> Result<bool> {
    let state = layout.state()?;
    Ok(state.is_some_and(|state| state["dualStack"] == true))
}

fn mib(kib: u64) -> String {
    format!("{} MiB", kib / 1024)
}
