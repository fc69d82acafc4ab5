//! The node: namespaces of its own on this machine, and the processes in them.
//!
//! Everything of the cluster lives in one network, mount, PID and UTS namespace. That is why taking it down can leave
//! nothing: its first process dies, and the kernel ends all others, frees the mounts and forgets the rules. The machine
//! itself has one end of a link, a route to each range of addresses, and a cgroup.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    components::Component,
    layout::{BRIDGE, BRIDGE_ADDRESS, CGROUP, Family, HOST_LINK, Layout, NETNS, NODE, families},
    processes::{self, INIT, Node},
    wait::until,
};
use crate::step::quiet;

/// The folder of all cgroup hierarchies.
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long a part may take to be ready. On two cores that also compile, the API server needs half a minute.
const READY: Duration = Duration::from_secs(180);
/// How long the namespaces may take.
const NAMESPACES: Duration = Duration::from_secs(20);
/// Lines of a log that are shown when its component fails.
const LAST_LINES: usize = 25;

/// `ip` with words, as in a shell.
pub fn ip(words: &str) -> Result<String> {
    let mut ip = Command::new("ip");
    ip.args(words.split_whitespace());
    quiet(ip)
}

/// kubectl for this cluster.
pub fn kubectl(layout: &Layout) -> Command {
    let mut kubectl = Command::new(&layout.kubectl);
    kubectl.arg("--kubeconfig").arg(layout.kubeconfig());
    kubectl
}

/// containerd's client, in the namespace of Kubernetes.
pub fn ctr(layout: &Layout) -> Command {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(layout.socket()).args(["--namespace", "k8s.io"]);
    ctr
}

/// Makes the namespaces and what leads to them.
pub fn make(layout: &Layout, is_dual: bool) -> Result<Node> {
    network(is_dual)?;
    for hierarchy in hierarchies() {
        let cgroup = hierarchy.join(CGROUP);
        fs::create_dir_all(&cgroup).with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
    }
    let log = File::create(layout.log("node"))?;
    let mut node = Command::new("setsid");
    node.args(["nsenter", &format!("--net=/run/netns/{NETNS}"), "unshare", "--pid", "--fork", "--mount", "--uts"]);
    node.args(["--mount-proc", "--propagation", "private", "/bin/sh"]).arg(layout.templates().join("node/node.sh"));
    node.arg(layout.run.parent().unwrap_or(&layout.run)).arg(&layout.cache);
    node.arg(layout.node_tools.join(INIT)).arg(&layout.run).arg(NODE);
    let mut child = node.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let made = until("the node's namespaces", NAMESPACES, || {
        if let Some(status) = child.try_wait()? {
            bail!("making the node's namespaces ended with {status}");
        }
        Ok(processes::node(&layout.run))
    });
    made.map_err(|error| with_log(&error, &layout.log("node")))
}

/// The cgroup hierarchies: one (v2) or one for each controller (v1).
pub fn hierarchies() -> Vec<PathBuf> {
    let all = PathBuf::from(CGROUPS);
    if all.join("cgroup.controllers").is_file() {
        return vec![all];
    }
    let folders = fs::read_dir(&all).into_iter().flatten().flatten().map(|entry| entry.path());
    // Names of several controllers are links to the hierarchy that has them.
    folders.filter(|folder| folder.is_dir() && !folder.is_symlink()).collect()
}

/// A network namespace, a link to it, the pods' bridge in it, and routes to pods and Services.
fn network(is_dual: bool) -> Result<()> {
    ip(&format!("netns add {NETNS}"))?;
    ip(&format!("link add {HOST_LINK} type veth peer name eth0 netns {NETNS}"))?;
    for (flags, link) in [("", HOST_LINK), ("-n mesh-cluster", "eth0"), ("-n mesh-cluster", "lo")] {
        ip(&format!("{flags} link set {link} up"))?;
    }
    // An address of its own: otherwise a bridge has the lowest of its ports', which changes as pods come, and pods that know the
    // old one reach nothing behind it until their kernels ask again.
    ip(&format!("-n {NETNS} link add {BRIDGE} address {BRIDGE_ADDRESS} type bridge"))?;
    ip(&format!("-n {NETNS} link set {BRIDGE} up"))?;
    for Family { host, node, link_bits, bridge, pods, services, flag } in families(is_dual) {
        let no_detection = if *flag == "-6" { "nodad" } else { "" };
        ip(&format!("{flag} address add {host}/{link_bits} dev {HOST_LINK} {no_detection}"))?;
        ip(&format!("{flag} -n {NETNS} address add {node}/{link_bits} dev eth0 {no_detection}"))?;
        ip(&format!("{flag} -n {NETNS} route add default via {host}"))?;
        ip(&format!("{flag} -n {NETNS} address add {bridge} dev {BRIDGE} {no_detection}"))?;
        // A Service that nobody translates stays here.
        ip(&format!("{flag} -n {NETNS} route add {services} dev {BRIDGE}"))?;
        for range in [pods, services] {
            ip(&format!("{flag} route add {range} via {node}"))?;
        }
    }
    Ok(())
}

/// Starts a component in the node and waits until it is ready.
pub fn start(layout: &Layout, node: &Node, component: &Component) -> Result<()> {
    let mut child = spawn(layout, node, component)?;
    let ready = until(component.name, READY, || {
        if let Some(status) = child.try_wait()? {
            bail!("{} ended with {status}", component.name);
        }
        Ok(component.is_ready(layout).then_some(()))
    });
    ready.map_err(|error| with_log(&error, &layout.log(component.name)))
}

/// Waits for a component that runs already, such as one of an `up` that was interrupted.
pub fn wait_ready(layout: &Layout, component: &Component) -> Result<()> {
    let ready = until(component.name, READY, || Ok(component.is_ready(layout).then_some(())));
    ready.map_err(|error| with_log(&error, &layout.log(component.name)))
}

fn spawn(layout: &Layout, node: &Node, component: &Component) -> Result<Child> {
    let log = layout.log(component.name);
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new("setsid"); // it outlives this program and its terminal
    command.args(["nsenter", "--target", &node.pid.to_string(), "--net", "--pid", "--mount", "--uts", "--"]);
    command.arg(&component.program).args(&component.arguments);
    command.env("TMPDIR", layout.run.join("tmp")).env("HOME", &layout.run).env_remove("KUBECONFIG");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {}", component.name))
}

/// Imports images into the node.
pub fn load(layout: &Layout, images: &[PathBuf]) -> Result<()> {
    ensure!(processes::node(&layout.run).is_some(), "no cluster is up: `cargo xtask cluster up`");
    for image in images {
        let mut import = ctr(layout);
        import.args(["images", "import"]).arg(image);
        let said = quiet(import)
            .with_context(|| format!("cannot import {}; is it what `docker save` writes?", image.display()))?;
        print!("{said}");
    }
    Ok(())
}

/// An error with the end of the log that tells why.
fn with_log(error: &anyhow::Error, log: &Path) -> anyhow::Error {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    anyhow!("{error:#}; the last lines of its log, {}:\n  {}", log.display(), last.join("\n  "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_failure_is_told_with_the_last_lines_and_the_path_of_the_log() {
        let log = std::env::temp_dir().join(format!("mesh-xtask-{}.log", std::process::id()));
        let lines: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        let said = with_log(&anyhow!("etcd ended"), &log).to_string();
        fs::remove_file(&log).unwrap();
        assert!(said.starts_with("etcd ended; ") && said.contains(&log.display().to_string()), "{said}");
        assert!(said.ends_with("line 99") && said.contains("line 75") && !said.contains("line 74"), "{said}");
    }

    #[test]
    fn what_a_command_said_is_in_its_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo because >&2; exit 3"]);
        let said = quiet(command).unwrap_err().to_string();
        assert!(said.contains("because") && said.contains('3'), "{said}");
    }
}
