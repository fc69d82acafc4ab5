//! Who is on the other side: of the outbound side the server, of the inbound side the caller.

use mesh_policy::Identity;

use crate::metrics::Direction;

/// Who is wanted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// This identity.
    Identity(String),
    /// Anybody of this namespace.
    Namespace(String),
    /// A workload: its service account, one of its pods, or its Service.
    Workload { namespace: String, name: String },
}

impl Peer {
    /// Reads `spiffe://...`, `NAMESPACE/NAME` or `NAMESPACE`; `None`: it names nothing.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.starts_with("spiffe://") {
            return Identity::parse(text).ok().map(|identity| Self::Identity(identity.as_str().to_owned()));
        }
        match text.split_once('/') {
            None if text.is_empty() => None,
            None => Some(Self::Namespace(text.to_owned())),
            Some((namespace, name)) if namespace.is_empty() || name.is_empty() || name.contains('/') => None,
            Some((namespace, name)) => Some(Self::Workload { namespace: namespace.to_owned(), name: name.to_owned() }),
        }
    }

    /// Whether the other side of a series is it. `pod`: `namespace/pod` of the server, of the outbound side.
    pub(super) fn is_of(&self, labels: &[(&'static str, String)], pod: Option<&str>) -> bool {
        let label = |wanted: &str| labels.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
        let is_outbound = label("direction") == Direction::Outbound.as_str();
        let (identity, pod, backend) = match is_outbound {
            true => (label("dst_identity"), pod.unwrap_or_default(), label("backend")),
            // The rest tells of this pod.
            false => (label("src_identity"), "", ""),
        };
        let proved = || Identity::parse(identity).ok();
        let (pod, service) = (pod.split_once('/'), backend.split_once('/'));
        match self {
            Self::Identity(wanted) => identity == wanted,
            Self::Namespace(wanted) => {
                let is_there = |named: Option<(&str, &str)>| named.is_some_and(|(namespace, _)| namespace == wanted);
                is_there(pod) || is_there(service) || proved().is_some_and(|proved| proved.namespace() == wanted)
            }
            Self::Workload { namespace, name } => {
                let of = |pod: &str| is_pod_of(name, pod);
                let named = |service: &str| service.rsplit_once(':').is_some_and(|(service, _)| service == name);
                let account = |proved: Identity| proved.namespace() == namespace && proved.service_account() == name;
                pod.is_some_and(|(of_pod, pod)| of_pod == namespace && of(pod))
                    || service.is_some_and(|(of_service, service)| of_service == namespace && named(service))
                    || proved().is_some_and(account)
            }
        }
    }
}

/// Whether a pod has the name, or what controllers make of theirs: `NAME-0`, `NAME-x7k2p`, `NAME-5d4f6b-x7k2p`.
fn is_pod_of(name: &str, pod: &str) -> bool {
    let parts = pod.strip_prefix(name).map(|rest| (rest.starts_with('-'), rest.matches('-').count(), rest.len()));
    parts.is_some_and(|(is_part, count, length)| length == 0 || is_part && count <= 2)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SA: &str = "spiffe://cluster.local/ns/shop/sa/";

    #[test]
    fn the_other_side_is_known_by_any_of_its_names() {
        let labels = |direction: &str, source: &str, destination: &str, backend: &str| {
            [("direction", direction), ("src_identity", source), ("dst_identity", destination), ("backend", backend)]
                .map(|(name, value)| (name, value.to_owned()))
        };
        let (front, web) = (format!("{SA}front"), format!("{SA}web"));
        let out = labels("outbound", &front, &web, "store/cart:80");
        let inbound = labels("inbound", &front, &web, "8080");
        let pod = Some("shop/api-5d4f-x7k");
        for (text, of_out, of_inbound) in [
            (&*web, true, false),
            (&*front, false, true),
            ("shop", true, true),
            ("store", true, false),
            ("other", false, false),
            ("shop/web", true, false),
            ("shop/front", false, true),
            ("shop/api", true, false),
            ("shop/api-5d4f", true, false),
            ("shop/api-5d4f-x7k", true, false),
            ("shop/ap", false, false),
            ("store/api", false, false),
            ("store/cart", true, false),
            ("shop/cart", false, false),
        ] {
            let peer = Peer::read(text).unwrap();
            assert_eq!(
                (peer.is_of(&out, pod), peer.is_of(&inbound, Some("shop/web-0"))),
                (of_out, of_inbound),
                "{text}"
            );
        }
        assert!(!Peer::read("shop").unwrap().is_of(&labels("inbound", "", "", ""), None));
        for wrong in ["", "/", "shop/", "/web", "a/b/c", "spiffe://", "spiffe://d/ns/a"] {
            assert_eq!(Peer::read(wrong), None, "{wrong}");
        }
    }
}
