//! Pods: who serves, as whom, and whether a proxy stands before it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use mesh_policy::Identity;

use crate::{
    object::Object,
    problem::{Reason, Report},
    service::opaque_ports,
    snapshot::Options,
    walker::Node,
};

/// Label that says in a folder of manifests that a pod is meshed.
pub const INJECT_LABEL: &str = "meshctl.dev/inject";
/// Container that says on a cluster that a pod is meshed.
pub const PROXY_CONTAINER: &str = "mesh-proxy";

/// A Pod, as far as the mesh cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Its own addresses: none while it has none, when it is over, and when it shares those of its node.
    pub ips: Vec<IpAddr>,
    /// Its service account, `default` if the manifest names none.
    pub service_account: Arc<str>,
    /// The identity that its proxy proves; `None` when it is not meshed.
    pub identity: Option<Identity>,
    /// Container ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Ranges of the opaque-ports annotation.
    pub opaque_ports: Vec<(u16, u16)>,
}

impl Pod {
    /// Whether a proxy stands before it.
    pub fn is_meshed(&self) -> bool {
        self.identity.is_some()
    }

    /// `namespace/name`.
    pub fn workload(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Decodes a Pod.
pub(crate) fn decode(object: &Object, options: &Options, report: &mut Report<'_>) -> Pod {
    let root = Node::root(&object.value);
    let text = |pointer: &str| object.value.pointer(pointer).and_then(|value| value.as_str());
    let is_over = matches!(text("/status/phase"), Some("Succeeded" | "Failed"));
    let host_network = object.value.pointer("/spec/hostNetwork").and_then(|value| value.as_bool()) == Some(true);
    let service_account = text("/spec/serviceAccountName").filter(|name| !name.is_empty()).unwrap_or("default");
    let containers: Vec<_> = ["/spec/containers", "/spec/initContainers"]
        .iter()
        .filter_map(|pointer| object.value.pointer(pointer)?.as_array())
        .flatten()
        .collect();
    let mut pod = Pod {
        namespace: object.namespace.as_str().into(),
        name: object.name.as_str().into(),
        ips: if is_over || host_network { Vec::new() } else { addresses(&root, report) },
        service_account: service_account.into(),
        identity: None,
        ports: BTreeMap::new(),
        opaque_ports: opaque_ports(&root, report),
    };
    for port in containers.iter().filter_map(|c| c.get("ports")?.as_array()).flatten() {
        let number = port.get("containerPort").and_then(|n| n.as_u64()).and_then(|n| u16::try_from(n).ok());
        if let (Some(name), Some(number)) = (port.get("name").and_then(|n| n.as_str()), number) {
            pod.ports.insert(name.to_owned(), number);
        }
    }
    let is_meshed = if options.meshed_by_label {
        text("/metadata/labels/meshctl.dev~1inject") == Some("enabled")
    } else {
        containers.iter().any(|c| c.get("name").and_then(|n| n.as_str()) == Some(PROXY_CONTAINER))
    };
    if is_meshed {
        match Identity::new(&options.trust_domain, &object.namespace, service_account) {
            Ok(identity) => pod.identity = Some(identity),
            Err(why) => {
                let what = format!("{why}; the pod counts as not meshed");
                report.error("spec.serviceAccountName", Reason::UnsupportedValue, what, "use a Kubernetes name");
            }
        }
    }
    pod
}

fn addresses(root: &Node<'_>, report: &mut Report<'_>) -> Vec<IpAddr> {
    let Ok(Some(status)) = root.object("status", report) else { return Vec::new() };
    let single = status.text("podIP", report).ok().flatten().map(|ip| (status.field("podIP"), ip));
    let several = status.items("podIPs", report).unwrap_or_default();
    let several = several.iter().filter_map(|node| Some((node.field("ip"), node.value.get("ip")?.as_str()?)));
    let mut ips = Vec::new();
    for (field, text) in single.into_iter().chain(several).filter(|(_, text)| !text.is_empty()) {
        match text.parse() {
            Ok(ip) if ips.contains(&ip) => {}
            Ok(ip) => ips.push(ip),
            Err(_) => {
                let what = format!("{text:?} is not an IP address and left out");
                report.error(&field, Reason::UnsupportedValue, what, "write an IP address");
            }
        }
    }
    ips
}
