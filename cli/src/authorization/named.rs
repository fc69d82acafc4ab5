//! How people name a caller or a workload, as kubectl takes it.

use crate::kube::path;

/// Kinds, as kubectl abbreviates them, with the kind itself.
const KINDS: [(&str, &str); 17] = [
    ("pod", "Pod"),
    ("pods", "Pod"),
    ("po", "Pod"),
    ("deploy", "Deployment"),
    ("deployment", "Deployment"),
    ("deployments", "Deployment"),
    ("ds", "DaemonSet"),
    ("daemonset", "DaemonSet"),
    ("sts", "StatefulSet"),
    ("statefulset", "StatefulSet"),
    ("rs", "ReplicaSet"),
    ("replicaset", "ReplicaSet"),
    ("job", "Job"),
    ("cronjob", "CronJob"),
    ("cj", "CronJob"),
    ("sa", "ServiceAccount"),
    ("serviceaccount", "ServiceAccount"),
];

/// What a text names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// An identity.
    Spiffe(&'a str),
    /// A namespace.
    Namespace(&'a str),
    /// `NAMESPACE/POD`.
    PodOf { namespace: &'a str, name: &'a str },
    /// A workload, whose namespace is said elsewhere.
    Workload { kind: &'static str, name: &'a str },
}

impl<'a> Named<'a> {
    /// The namespace that the text itself says.
    pub(crate) fn namespace(self) -> Option<&'a str> {
        match self {
            Self::Spiffe(text) => text.split('/').nth(4),
            Self::Namespace(namespace) | Self::PodOf { namespace, .. } => Some(namespace),
            Self::Workload { .. } => None,
        }
    }
}

/// Reads `spiffe://...`, `NAMESPACE`, `NAMESPACE/POD` or `KIND/NAME`.
pub(crate) fn named(text: &str) -> Named<'_> {
    if text.starts_with("spiffe://") {
        return Named::Spiffe(text);
    }
    let Some((first, name)) = text.split_once('/') else { return Named::Namespace(text) };
    match KINDS.iter().find(|(word, _)| first.eq_ignore_ascii_case(word)) {
        Some((_, kind)) => Named::Workload { kind, name },
        None => Named::PodOf { namespace: first, name },
    }
}

/// The path of a workload of a kind that has a template of pods; `None`: the kind has none.
pub(crate) fn path_of(kind: &str, namespace: &str, name: &str) -> Option<String> {
    let (group, plural) = match kind {
        "Deployment" => ("apps", "deployments"),
        "DaemonSet" => ("apps", "daemonsets"),
        "StatefulSet" => ("apps", "statefulsets"),
        "ReplicaSet" => ("apps", "replicasets"),
        "Job" => ("batch", "jobs"),
        "CronJob" => ("batch", "cronjobs"),
        _ => return None,
    };
    Some(path(&["apis", group, "v1", "namespaces", namespace, plural, name]))
}

/// Where the template of pods is in a workload; `None`: the kind has none.
pub(super) fn template_of(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet" | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_named_as_kubectl_names_them() {
        for (text, expected) in [
            ("shop", Named::Namespace("shop")),
            ("shop/web-x", Named::PodOf { namespace: "shop", name: "web-x" }),
            ("Deploy/web", Named::Workload { kind: "Deployment", name: "web" }),
            ("sa/web", Named::Workload { kind: "ServiceAccount", name: "web" }),
            ("spiffe://d/ns/a/sa/b", Named::Spiffe("spiffe://d/ns/a/sa/b")),
        ] {
            assert_eq!(named(text), expected);
        }
    }
}
