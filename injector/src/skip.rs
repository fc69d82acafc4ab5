//! Which pods are left as they are, and why.
//!
//! The webhook's selectors have decided already that a pod is opted in, by its namespace or its own label; here is
//! what they cannot see.

use std::fmt;

use mesh_policy::well_known::INJECT_LABEL;
use serde_json::{Map, Value};

use crate::{
    config::Config,
    pod::{Pod, name_of},
    refusal::Refusal,
};

/// Why a pod is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is one of ours, or of the cluster's own namespace.
    Namespace(String),
    /// Its label says `disabled`.
    OptedOut,
    /// It has the node's network, which is not ours to redirect.
    HostNetwork,
    /// It runs on Windows, where neither the sidecar nor the redirection does.
    Windows,
    /// Kubelet made it from a file; nothing that is changed here would have an effect.
    StaticPod,
    /// Another mesh serves it.
    OtherMesh {
        /// Its name.
        mesh: &'static str,
        /// What shows it.
        evidence: String,
    },
    /// It was injected by this version, and nothing is left to do.
    AlreadyInjected,
    /// It was injected by another version, by hand (`meshctl inject --manual`).
    OtherVersion(String),
}

impl Skip {
    /// A word for metrics and Events.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "namespace",
            Self::OptedOut => "opted-out",
            Self::HostNetwork => "host-network",
            Self::Windows => "windows",
            Self::StaticPod => "static-pod",
            Self::OtherMesh { .. } => "other-mesh",
            Self::AlreadyInjected => "already-injected",
            Self::OtherVersion(_) => "other-version",
        }
    }

    /// Whether people should be told: the pod is not (or not newly) in the mesh although it seems opted in.
    pub fn is_notable(&self) -> bool {
        *self != Self::AlreadyInjected
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "pods of the namespace {name} are never injected"),
            Self::OptedOut => write!(f, "the pod is opted out by its label {INJECT_LABEL}=disabled"),
            Self::HostNetwork => {
                f.write_str("the pod uses the node's network (spec.hostNetwork), which is not redirected")
            }
            Self::Windows => f.write_str("the pod is for Windows nodes, where the sidecar does not run"),
            Self::StaticPod => f.write_str("the pod is a static pod of its node, which cannot be changed here"),
            Self::OtherMesh { mesh, evidence } => write!(f, "the pod belongs to {mesh} ({evidence})"),
            Self::AlreadyInjected => f.write_str("the pod is injected already"),
            Self::OtherVersion(version) => {
                write!(f, "the pod was injected by hand by version {version}; inject its manifest anew to update it")
            }
        }
    }
}

/// The first reason to leave a pod as it is. A label with a value that nobody knows is refused.
pub(crate) fn reason(pod: &Pod<'_>, namespace: &str, config: &Config) -> Result<Option<Skip>, Refusal> {
    if namespace == "kube-system" || namespace == config.control_plane_namespace {
        return Ok(Some(Skip::Namespace(namespace.to_owned())));
    }
    match pod.labels.and_then(|labels| labels.get(INJECT_LABEL)) {
        None => {}
        Some(value) if value == "enabled" => {}
        Some(value) if value == "disabled" => return Ok(Some(Skip::OptedOut)),
        Some(value) => return Err(Refusal::Label(value.as_str().map_or_else(|| value.to_string(), str::to_owned))),
    }
    let at = |pointer: &[&str]| {
        pointer
            .iter()
            .try_fold(None, |at: Option<&Value>, field| {
                at.map_or_else(|| pod.spec.get(*field), |value| value.get(*field)).map(Some)
            })
            .flatten()
    };
    let says = |pointer: &[&str], text: &str| at(pointer).and_then(Value::as_str) == Some(text);
    Ok(if at(&["hostNetwork"]) == Some(&Value::Bool(true)) {
        Some(Skip::HostNetwork)
    } else if says(&["os", "name"], "windows") || says(&["nodeSelector", "kubernetes.io/os"], "windows") {
        Some(Skip::Windows)
    } else if pod.annotation("kubernetes.io/config.mirror").is_some() {
        Some(Skip::StaticPod)
    } else {
        other_mesh(pod).map(|(mesh, evidence)| Skip::OtherMesh { mesh, evidence })
    })
}

/// How another mesh is known.
struct OtherMesh {
    name: &'static str,
    /// Its containers, ordinary and init.
    containers: &'static [&'static str],
    /// Its labels and annotations, with the values that ask for its sidecar.
    asks: &'static [(&'static str, &'static [&'static str])],
}

const OTHER_MESHES: &[OtherMesh] = &[
    OtherMesh {
        name: "Linkerd",
        containers: &["linkerd-proxy", "linkerd-init", "linkerd-network-validator"],
        asks: &[("linkerd.io/inject", &["enabled", "ingress"])],
    },
    OtherMesh {
        name: "Istio",
        containers: &["istio-proxy", "istio-init", "istio-validation"],
        asks: &[("sidecar.istio.io/inject", &["true"]), ("istio.io/dataplane-mode", &["ambient"])],
    },
    OtherMesh {
        name: "Kuma",
        containers: &["kuma-sidecar", "kuma-init", "kuma-validation"],
        asks: &[("kuma.io/sidecar-injection", &["enabled", "true"])],
    },
    OtherMesh {
        name: "Consul",
        containers: &["consul-dataplane", "consul-connect-inject-init", "consul-mesh-init"],
        asks: &[("consul.hashicorp.com/connect-inject", &["true"])],
    },
    OtherMesh {
        name: "Open Service Mesh",
        containers: &["osm-init"],
        asks: &[("openservicemesh.io/sidecar-injection", &["enabled", "yes", "true"])],
    },
];

/// The mesh that serves a pod already or is asked to, and what shows it.
pub(crate) fn other_mesh(pod: &Pod<'_>) -> Option<(&'static str, String)> {
    let container = OTHER_MESHES.iter().find_map(|mesh| {
        let (field, container) = pod.all_containers().find(|(_, one)| mesh.containers.contains(&name_of(one)))?;
        Some((mesh.name, format!("{field} is {}", name_of(container))))
    });
    container.or_else(|| {
        OTHER_MESHES.iter().find_map(|mesh| {
            let asked = |kind: &str, map: Option<&Map<String, Value>>| {
                mesh.asks.iter().find_map(|(key, values)| {
                    let value = map?.get(*key)?.as_str().filter(|value| values.contains(value))?;
                    Some((mesh.name, format!("{kind} {key}={value}")))
                })
            };
            asked("annotation", pod.annotations).or_else(|| asked("label", pod.labels))
        })
    })
}
