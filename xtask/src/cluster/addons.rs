//! What a cluster has beside Kubernetes itself: cluster DNS and the Gateway API's resource definitions.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    GatewayApi,
    files::filled,
    layout::{COREDNS, DNS, Layout, OUTSIDE, families},
    node::kubectl,
    tools,
    wait::until,
};
use crate::step::quiet;

/// How long the node may take to be ready, and cluster DNS to answer.
const READY: Duration = Duration::from_secs(180);
/// How long an answer of cluster DNS may take.
const ANSWER: Duration = Duration::from_millis(500);

/// Starts cluster DNS.
pub fn core_dns(layout: &Layout, is_dual: bool) -> Result<()> {
    let image = format!("docker.io/mesh-cluster/coredns:{COREDNS}");
    let hosts: Vec<_> =
        families(is_dual).iter().map(|family| format!("            {} {OUTSIDE}", family.host)).collect();
    let manifest =
        filled(layout, "addons/coredns.yaml", is_dual, &[("IMAGE", &image), ("OUTSIDE", &hosts.join("\n"))])?;
    apply(kubectl(layout), &manifest)
}

/// Installs the Gateway API's resource definitions with the given kubectl.
pub fn gateway_api(kubectl: Command, channel: GatewayApi) -> Result<()> {
    let folder = match channel {
        GatewayApi::Standard => "standard",
        GatewayApi::Experimental => "experimental",
        GatewayApi::None => return Ok(()),
    };
    let folder = tools::gateway_api()?.join(folder);
    let mut manifest = String::new();
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for file in files.iter().filter(|file| name(file).starts_with("gateway.networking.")) {
        manifest += "---\n";
        manifest += &fs::read_to_string(file)?;
    }
    ensure!(!manifest.is_empty(), "{} has no resource definitions", folder.display());
    apply(kubectl, &manifest)
}

/// Waits until the node takes pods and a name is resolved at the cluster DNS's Service, from this machine: what leads
/// there is kube-proxy's translation, the bridge, and CoreDNS with a watch of the API server.
pub fn wait_ready(layout: &Layout) -> Result<()> {
    until("the node to be Ready", READY, || {
        let mut wait = kubectl(layout);
        wait.args(["wait", "--for=condition=Ready", "node", "--all", "--timeout=4s"]);
        Ok(quiet(wait).ok())
    })?;
    until("CoreDNS to answer", READY, || Ok(resolves("kubernetes.default.svc.cluster.local").then_some(())))
        .with_context(|| {
            let mut pods = kubectl(layout);
            pods.args(["describe", "pods", "--namespace", "kube-system"]);
            quiet(pods).unwrap_or_default()
        })
}

/// Whether cluster DNS has an IPv4 address for the name.
fn resolves(name: &str) -> bool {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.set_read_timeout(Some(ANSWER)).ok()?;
        let server: Ipv4Addr = DNS.parse().ok()?;
        socket.connect(SocketAddr::from((server, 53))).ok()?;
        socket.send(&question(name)).ok()?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).ok()?;
        // No error in the flags, and at least one answer.
        Some(length > 12 && answer[3] & 0x0f == 0 && u16::from_be_bytes([answer[6], answer[7]]) > 0)
    };
    ask().unwrap_or(false)
}

/// A DNS question for an IPv4 address.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x4d, 0x65, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// `kubectl apply` of a text, on the server's side: definitions are too long for the annotation of the other.
fn apply(mut kubectl: Command, manifest: &str) -> Result<()> {
    kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
    let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(manifest.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "`kubectl apply` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_as_rfc_1035_has_it() {
        let asked = question("a.bc");
        assert_eq!(&asked[12..], b"\x01a\x02bc\x00\x00\x01\x00\x01");
    }
}
