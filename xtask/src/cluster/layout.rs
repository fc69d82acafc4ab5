//! Where everything of the cluster is: versions, names, addresses, files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::programs;
use crate::{cache, step::root};

/// Kubernetes: the last minor version that runs on cgroup v1 as on v2. integration/cluster/kubernetes pins it.
pub const KUBERNETES: &str = "1.34.4";
/// CoreDNS; integration/cluster/coredns pins it.
pub const COREDNS: &str = "1.14.7";
/// The Gateway API.
pub const GATEWAY_API: &str = "1.6.3";

/// Templates of all configuration, and the Go modules, in the workspace.
pub const TEMPLATES: &str = "integration/cluster";
/// The one node.
pub const NODE: &str = "mesh-node";
/// The node's network namespace, for `ip netns exec`.
pub const NETNS: &str = "mesh-cluster";
/// The machine's end of the link to the node.
pub const HOST_LINK: &str = "mesh-cluster0";
/// The pods' bridge, in the node's network namespace.
pub const BRIDGE: &str = "cni0";
/// Its own link-layer address.
pub const BRIDGE_ADDRESS: &str = "0a:58:0a:58:00:01";
/// The parent of all pods in each cgroup hierarchy.
pub const CGROUP: &str = "mesh-cluster";
/// The image of each pod's pause container.
pub const PAUSE_IMAGE: &str = "docker.io/mesh-cluster/pause:1";
/// A name that pods resolve to the machine outside of the cluster.
pub const OUTSIDE: &str = "outside.test";

/// Linux has this where it has IPv6.
pub const IPV6: &str = "/proc/net/if_inet6";

/// Addresses of one family.
pub struct Family {
    /// The machine's end of the link.
    pub host: &'static str,
    /// The node.
    pub node: &'static str,
    /// Bits of the link's network.
    pub link_bits: u8,
    /// The bridge's own, which its CNI plugin would give it too: it is there before the first pod.
    pub bridge: &'static str,
    /// Where pods have theirs.
    pub pods: &'static str,
    /// Where Services have theirs.
    pub services: &'static str,
    /// The flag of `ip`.
    pub flag: &'static str,
}

const V4: Family = Family {
    host: "10.87.0.1",
    node: "10.87.0.2",
    link_bits: 30,
    bridge: "10.88.0.1/16",
    pods: "10.88.0.0/16",
    services: "10.96.0.0/16",
    flag: "-4",
};
const V6: Family = Family {
    host: "fd00:10:87::1",
    node: "fd00:10:87::2",
    link_bits: 126,
    bridge: "fd00:10:88::1/64",
    pods: "fd00:10:88::/64",
    services: "fd00:10:96::/112",
    flag: "-6",
};
/// The API server's own Service.
pub const API_SERVICE: &str = "10.96.0.1";
/// The Service kube-dns.
pub const DNS: &str = "10.96.0.10";

/// The families of a cluster.
pub fn families(is_dual: bool) -> &'static [Family] {
    const BOTH: [Family; 2] = [V4, V6];
    if is_dual { const { &BOTH } } else { const { &[V4] } }
}

/// One field of all families, separated by commas, as Kubernetes' flags want them.
pub fn joined(is_dual: bool, field: impl Fn(&Family) -> &'static str) -> String {
    families(is_dual).iter().map(field).collect::<Vec<_>>().join(",")
}

/// Files and folders.
pub struct Layout {
    /// The workspace.
    pub root: PathBuf,
    /// What is built once, for all checkouts of this user.
    pub cache: PathBuf,
    /// The programs of Kubernetes.
    pub kubernetes: PathBuf,
    /// CoreDNS's folder.
    pub coredns: PathBuf,
    /// Small programs of our own for the node.
    pub node_tools: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
    /// All of the running cluster; `down` removes it.
    pub run: PathBuf,
}

impl Layout {
    /// Of this workspace.
    ///
    /// # Errors
    ///
    /// When there is no place for what is built, or a file that pins it cannot be read.
    pub fn new() -> Result<Self> {
        // Both are named in files that other processes read: links would lead them to other names.
        let real = |folder: PathBuf| folder.canonicalize().unwrap_or(folder);
        let root = real(root());
        Ok(Self {
            cache: real(cache::folder()?),
            kubernetes: real(programs::kubernetes(&root)?.path()),
            coredns: real(programs::coredns(&root)?.path()),
            node_tools: real(programs::node_tools(&root)?.path()),
            kubectl: programs::kubectl_program()?,
            run: root.join("target/cluster"),
            root,
        })
    }

    /// The folder of templates.
    pub fn templates(&self) -> PathBuf {
        self.root.join(TEMPLATES)
    }

    /// For kubectl and everything else.
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.join("kubeconfig")
    }

    /// What tests must know.
    pub fn env_json(&self) -> PathBuf {
        self.run.join("env.json")
    }

    /// containerd's.
    pub fn socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    /// A component's log.
    pub fn log(&self, component: &str) -> PathBuf {
        self.run.join("logs").join(format!("{component}.log"))
    }

    /// What the cluster that is up was made of; nothing if none is.
    pub fn state(&self) -> Result<Option<Value>> {
        let path = self.env_json();
        match fs::read(&path) {
            Ok(text) => {
                let state = serde_json::from_slice(&text);
                state
                    .map(Some)
                    .with_context(|| format!("{} is damaged: `cargo xtask cluster down` clears it", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Whether the cluster that is up is not of this machine's own making.
    pub fn is_up_elsewhere(&self) -> Result<bool> {
        Ok(self.state()?.is_some_and(|state| state["kind"] != "node"))
    }

    /// Writes env.json for our node.
    pub fn write_state(&self, is_dual: bool, pids: &[(&str, u32)]) -> Result<()> {
        let list = |field: fn(&Family) -> &'static str| families(is_dual).iter().map(field).collect::<Vec<_>>();
        let state = json!({
            "kind": "node",
            "kubernetes": KUBERNETES,
            "gatewayApi": GATEWAY_API,
            "kubeconfig": self.kubeconfig(),
            "kubectl": self.kubectl,
            "server": server(),
            "node": NODE,
            "dualStack": is_dual,
            "nodeAddresses": list(|family| family.node),
            "hostAddresses": list(|family| family.host),
            "podRanges": list(|family| family.pods),
            "serviceRanges": list(|family| family.services),
            "dns": DNS,
            "outsideName": OUTSIDE,
            "networkNamespace": NETNS,
            "bridge": BRIDGE,
            "hostLink": HOST_LINK,
            "containerdSocket": self.socket(),
            "logs": self.run.join("logs"),
            "processes": pids.iter().map(|(name, pid)| ((*name).to_owned(), json!(pid))).collect::<serde_json::Map<_, _>>(),
        });
        write(&self.env_json(), &format!("{state:#}\n"))
    }
}

/// The API server's address, as the machine and the node reach it.
pub fn server() -> String {
    format!("https://{}:6443", V4.node)
}

/// Writes a file, with a message that names it.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
