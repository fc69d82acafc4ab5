//! `cluster down`, and the look for what it may have left.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use rustix::process::Signal;

use super::{
    layout::{CGROUP, HOST_LINK, Layout, NETNS},
    node::{hierarchies, ip},
    processes::{self, is_alive, signal, strays},
    wait::until,
};

/// How long processes and cgroups may take to be gone.
const GONE: Duration = Duration::from_secs(20);

/// Takes the cluster down and proves that nothing is left.
pub fn down(layout: &Layout) -> Result<()> {
    if let Some(other) = processes::nodes().iter().find(|node| node.run != layout.run) {
        bail!("the cluster on this machine is of another workspace ({}): run this there", other.run.display());
    }
    clear(layout)?;
    println!(
        "the cluster is down: no process, mount, link, route, rule, network namespace, cgroup or file of it is left. What was \
         built stays in {} for the next one",
        layout.cache.display()
    );
    Ok(())
}

/// Removes everything, whatever there is of it, and looks for what stayed.
pub fn clear(layout: &Layout) -> Result<()> {
    if let Some(node) = processes::node(&layout.run) {
        node.kill()?;
    }
    for stray in strays(&layout.run) {
        signal(stray.pid, Signal::KILL);
        until(
            &format!("the end of {} ({})", stray.name, stray.pid),
            GONE,
            || Ok((!is_alive(stray.pid)).then_some(())),
        )?;
    }
    if Path::new("/sys/class/net").join(HOST_LINK).exists() {
        ip(&format!("link delete {HOST_LINK}"))?;
    }
    if Path::new("/run/netns").join(NETNS).exists() {
        ip(&format!("netns delete {NETNS}"))?;
    }
    for cgroup in cgroups() {
        // Its last processes may be about to go.
        until(&format!("the end of {}", cgroup.display()), GONE, || Ok(remove_cgroup(&cgroup).then_some(())))?;
    }
    if layout.run.exists() {
        fs::remove_dir_all(&layout.run)?;
    }
    let left = leftovers(layout);
    if !left.is_empty() {
        bail!("taken down, but this is left:\n  {}", left.join("\n  "));
    }
    Ok(())
}

/// What is left of a cluster, each with its name.
fn leftovers(layout: &Layout) -> Vec<String> {
    let mut left = Vec::new();
    left.extend(processes::node(&layout.run).map(|node| format!("process {}: the node's first", node.pid)));
    left.extend(strays(&layout.run).iter().map(|stray| format!("process {}: {}", stray.pid, stray.name)));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let run = layout.run.display().to_string();
    let ours = |mount: &&str| mount.contains(&run) || mount.contains(NETNS);
    left.extend(mounts.lines().filter(ours).map(|mount| format!("mount: {mount}")));
    let links = ip("-o link show").unwrap_or_default();
    left.extend(links.lines().filter(|link| link.contains(HOST_LINK)).map(|link| format!("link: {link}")));
    let routes = ["-4", "-6"].map(|family| ip(&format!("{family} route show table all")).unwrap_or_default()).concat();
    left.extend(routes.lines().filter(|route| route.contains(HOST_LINK)).map(|route| format!("route: {route}")));
    left.extend(rules());
    left.extend(cgroups().iter().map(|cgroup| format!("cgroup: {}", cgroup.display())));
    left.extend(layout.run.exists().then(|| format!("folder: {run}")));
    left.extend(Path::new("/run/netns").join(NETNS).exists().then(|| format!("network namespace: {NETNS}")));
    left
}

/// Rules in this machine's own network that name the link. There are none to begin with: all are in the node's.
fn rules() -> Vec<String> {
    let list = |program: &str, words: &[&str]| {
        let output = std::process::Command::new(program).args(words).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    let all = list("iptables-save", &[]) + &list("ip6tables-save", &[]) + &list("nft", &["list", "ruleset"]);
    all.lines().filter(|rule| rule.contains(HOST_LINK)).map(|rule| format!("rule: {rule}")).collect()
}

fn cgroups() -> Vec<PathBuf> {
    hierarchies().into_iter().map(|hierarchy| hierarchy.join(CGROUP)).filter(|cgroup| cgroup.is_dir()).collect()
}

/// Removes a cgroup with those below. Whether it is gone.
fn remove_cgroup(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}
