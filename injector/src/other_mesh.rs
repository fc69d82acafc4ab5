//! Other meshes: what shows that one serves a pod, is asked to, or is asked to for a whole namespace.

use serde_json::{Map, Value};

use crate::pod::{Pod, name_of};

/// How another mesh is known.
struct OtherMesh {
    name: &'static str,
    /// The domain of its labels and annotations.
    domain: &'static str,
    /// Its containers, ordinary and init.
    containers: &'static [&'static str],
    /// Its labels and annotations, with the values that ask for its sidecar; none for any value.
    asks: &'static [(&'static str, &'static [&'static str])],
    /// Those that keep it away, whatever else asks for it.
    declines: &'static [(&'static str, &'static [&'static str])],
}

const OTHER_MESHES: &[OtherMesh] = &[
    OtherMesh {
        name: "Linkerd",
        domain: "linkerd.io",
        containers: &["linkerd-proxy", "linkerd-init", "linkerd-network-validator"],
        asks: &[("linkerd.io/inject", &["enabled", "ingress"])],
        declines: &[("linkerd.io/inject", &["disabled"])],
    },
    OtherMesh {
        name: "Istio",
        domain: "istio.io",
        containers: &["istio-proxy", "istio-init", "istio-validation"],
        asks: &[
            ("sidecar.istio.io/inject", &["true"]),
            ("istio-injection", &["enabled"]),
            ("istio.io/rev", &[]),
            ("istio.io/dataplane-mode", &["ambient"]),
        ],
        declines: &[("sidecar.istio.io/inject", &["false"]), ("istio-injection", &["disabled"])],
    },
    OtherMesh {
        name: "Kuma",
        domain: "kuma.io",
        containers: &["kuma-sidecar", "kuma-init", "kuma-validation"],
        asks: &[("kuma.io/sidecar-injection", &["enabled", "true"])],
        declines: &[("kuma.io/sidecar-injection", &["disabled", "false"])],
    },
    OtherMesh {
        name: "Consul",
        domain: "consul.hashicorp.com",
        containers: &["consul-dataplane", "consul-connect-inject-init", "consul-mesh-init"],
        asks: &[("consul.hashicorp.com/connect-inject", &["true"])],
        declines: &[("consul.hashicorp.com/connect-inject", &["false"])],
    },
    OtherMesh {
        name: "Open Service Mesh",
        domain: "openservicemesh.io",
        containers: &["osm-init"],
        asks: &[
            ("openservicemesh.io/sidecar-injection", &["enabled", "yes", "true"]),
            ("openservicemesh.io/monitored-by", &[]),
        ],
        declines: &[("openservicemesh.io/sidecar-injection", &["disabled", "no", "false"])],
    },
];

/// The mesh that serves a pod already or is asked to, and what shows it.
pub(crate) fn of_pod(pod: &Pod<'_>) -> Option<(&'static str, String)> {
    let container = OTHER_MESHES.iter().find_map(|mesh| {
        let (field, container) = pod.all_containers().find(|(_, one)| mesh.containers.contains(&name_of(one)))?;
        Some((mesh.name, format!("{field} is {}", name_of(container))))
    });
    container.or_else(|| asked(pod.labels, pod.annotations))
}

/// The mesh that the labels and annotations of a pod or of a namespace ask for, and which of them does.
pub(crate) fn asked(
    labels: Option<&Map<String, Value>>,
    annotations: Option<&Map<String, Value>>,
) -> Option<(&'static str, String)> {
    let found = |kind: &str, map: Option<&Map<String, Value>>, of: &[(&str, &[&str])]| {
        of.iter().find_map(|(key, values)| {
            let value = map?.get(*key)?.as_str().filter(|value| !value.is_empty())?;
            (values.is_empty() || values.contains(&value)).then(|| format!("{kind} {key}={value}"))
        })
    };
    OTHER_MESHES.iter().find_map(|mesh| {
        let either = |of| found("annotation", annotations, of).or_else(|| found("label", labels, of));
        let evidence = either(mesh.asks).filter(|_| either(mesh.declines).is_none())?;
        Some((mesh.name, evidence))
    })
}

/// The mesh whose setting a label or annotation is.
pub(crate) fn of_setting(key: &str) -> Option<&'static str> {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let is_of = |of: &str| domain.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    OTHER_MESHES.iter().find(|mesh| is_of(mesh.domain)).map(|mesh| mesh.name)
}
