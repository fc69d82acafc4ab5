//! Which pods are left as they are, and why.
//!
//! The webhook's selectors have decided already that a pod is opted in, by its namespace or its own label; here is
//! what they cannot see.

use std::fmt;

use mesh_policy::well_known::INJECT_LABEL;
use serde_json::{Map, Value};

use crate::{config::Config, other_mesh, pod::Pod, refusal::Refusal};

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
    /// A container has no name in its manifest: the controller of its kind gives it one.
    Nameless,
    /// The label of the Namespace says `disabled`.
    NamespaceOptedOut,
    /// The Namespace asks for another mesh.
    NamespaceOfOtherMesh {
        /// Its name.
        mesh: &'static str,
        /// What shows it.
        evidence: String,
    },
    /// What holds the template has the label that is for pods, and there it says `disabled`.
    OptedOutAbove(&'static str),
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
            Self::Nameless => "nameless",
            Self::OptedOutAbove(_) | Self::NamespaceOptedOut => "opted-out",
            Self::NamespaceOfOtherMesh { .. } => "other-mesh",
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
            Self::Nameless => f.write_str(
                "a container has no name, for the controller of this kind gives it one when it makes the pod: set the label \
                 (inject without --manual), and the webhook does the rest",
            ),
            Self::NamespaceOptedOut => write!(f, "the namespace is opted out by its label {INJECT_LABEL}=disabled"),
            Self::NamespaceOfOtherMesh { mesh, evidence } => {
                write!(f, "the namespace belongs to {mesh} ({evidence}), and no pod can be served by two meshes")
            }
            Self::OptedOutAbove(where_to) => write!(
                f,
                "its own label {INJECT_LABEL}=disabled says so, though nothing but the label of pods is read: if they are to \
                 stay out of the mesh, put it on {where_to}, and else remove it"
            ),
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
    } else if says(&["os", "name"], "windows") || is_on_windows(pod) {
        Some(Skip::Windows)
    } else if pod.annotation("kubernetes.io/config.mirror").is_some() {
        Some(Skip::StaticPod)
    } else {
        other_mesh::of_pod(pod).map(|(mesh, evidence)| Skip::OtherMesh { mesh, evidence })
    })
}

/// Labels of nodes that name their operating system: today's, and the one before it, which nodes have as well.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
/// The label that nodes of Windows have and others do not.
const WINDOWS_BUILD: &str = "node.kubernetes.io/windows-build";

/// Whether a pod is scheduled to nodes of Windows only: by its node selector, or by what its affinity requires.
fn is_on_windows(pod: &Pod<'_>) -> bool {
    let selects = |selector: &Map<String, Value>| {
        selector.contains_key(WINDOWS_BUILD)
            || OS_LABELS.iter().any(|label| selector.get(*label).and_then(Value::as_str) == Some("windows"))
    };
    if pod.spec.get("nodeSelector").and_then(Value::as_object).is_some_and(selects) {
        return true;
    }
    const REQUIRED: &str = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = pod.spec.get("affinity").and_then(|affinity| affinity.pointer(REQUIRED)).and_then(Value::as_array);
    // One of the terms is enough for a node, and of a term every expression must hold.
    terms.is_some_and(|terms| !terms.is_empty() && terms.iter().all(requires_windows))
}

fn requires_windows(term: &Value) -> bool {
    let expressions = term.get("matchExpressions").and_then(Value::as_array);
    expressions.into_iter().flatten().any(|expression| {
        let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
        let mut values = expression.get("values").and_then(Value::as_array).into_iter().flatten().peekable();
        match (text("key"), text("operator")) {
            (key, "In") if OS_LABELS.contains(&key) => {
                values.peek().is_some() && values.all(|value| value == "windows")
            }
            (WINDOWS_BUILD, "In" | "Exists") => true,
            _ => false,
        }
    })
}
