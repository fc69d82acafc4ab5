//! `--transparent`: each pod of the demo in a network namespace of its own, all on one bridge.
//!
//! The namespaces have no names: they live as long as a process of the demo is in one or holds it open, and their
//! interfaces go with them. However the demo ends, nothing is left, and the machine's own network is never touched: the
//! node, with the bridge and the controller, is a namespace as well. Interfaces are made with `ip` (iproute2).
//!
//! This thread lives on the node; [`Namespace::within`] goes into a pod for the length of a call.

use std::{
    fs::File,
    io::Write,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    process::{self, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use rustix::{
    process::geteuid,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};

/// The node's address on the bridge; pods have the next ones.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The network namespace that this thread is in.
const HERE: &str = "/proc/thread-self/ns/net";

/// One pod's network.
#[derive(Debug)]
pub(super) struct Namespace {
    pod: File,
    node: Arc<File>,
}

/// Makes the node, moves this thread there, and makes a namespace for each pod, which has the address [`address`] says.
pub(super) fn make(pods: usize) -> anyhow::Result<Vec<Arc<Namespace>>> {
    ensure!(
        geteuid().is_root(),
        "--transparent needs root: it makes network namespaces; run it with sudo, or without it"
    );
    let node = Arc::new(unshare().context("no network namespace can be made")?);
    ip(&[
        "link set lo up".into(),
        "link add br0 type bridge".into(),
        format!("addr add {NODE}/24 dev br0"),
        "link set br0 up".into(),
    ])?;
    (0..pods).map(|index| pod(&node, index)).collect()
}

/// The address of a pod, by its place.
pub(super) fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(NODE.to_bits() + 1 + index as u32)
}

fn pod(node: &Arc<File>, index: usize) -> anyhow::Result<Arc<Namespace>> {
    let pod = unshare().context("no network namespace can be made")?;
    enter(node)?;
    let path = format!("/proc/{}/fd/{}", process::id(), pod.as_raw_fd());
    ip(&[
        format!("link add pod{index} type veth peer name eth0 netns {path}"),
        format!("link set pod{index} master br0 up"),
    ])?;
    let namespace = Namespace { pod, node: node.clone() };
    namespace.within(|| {
        ip(&[
            "link set lo up".into(),
            format!("addr add {}/24 dev eth0", address(index)),
            "link set eth0 up".into(),
            format!("route add default via {NODE}"),
        ])
    })??;
    Ok(Arc::new(namespace))
}

impl Namespace {
    /// Does something in the pod: sockets that it makes and processes that it starts are the pod's. It must not wait
    /// for anything that this thread does elsewhere.
    pub(super) fn within<T>(&self, what: impl FnOnce() -> T) -> anyhow::Result<T> {
        enter(&self.pod)?;
        let done = what();
        enter(&self.node)?;
        Ok(done)
    }
}

/// Moves this thread into a new namespace and holds that open.
// Deprecated because one of its flags, which is not used here, needs care with file descriptors.
#[allow(deprecated)]
fn unshare() -> anyhow::Result<File> {
    rustix::thread::unshare(UnshareFlags::NEWNET)?;
    Ok(File::open(HERE)?)
}

fn enter(namespace: &File) -> anyhow::Result<()> {
    let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    entered.context("cannot change the network namespace")
}

fn ip(lines: &[String]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("`ip` does not start; --transparent needs iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.join("\n").as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!("`ip` failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_follow_the_node() {
        assert_eq!((address(0), address(4)), (Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 6)));
    }
}
