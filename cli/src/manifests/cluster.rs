//! Objects from a cluster, in whatever versions it serves them.
//!
//! The kinds are found out by discovery, so that routes of the experimental channel, or of an older or newer Gateway
//! API, are read where they are.

use std::collections::BTreeSet;

use mesh_injector::config::Config;
use mesh_policy::well_known::{CONTROL_NAMESPACE, MESH_INJECTOR, VALUES_CONFIG_MAP};
use mesh_resources::{
    IpNet, Object, Options, is_used,
    kinds::{KINDS, Kind, Version, is_namespaced},
};
use serde_json::Value;

use crate::{
    chart::values,
    kube::{Cluster, ClusterError, core_object, path, value},
};

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Services, routes, and what routes refer to: all that decides about requests to Services.
    Routes,
    /// Endpoints and pods as well, for targets that are addresses.
    Addresses,
    /// Whatever the control plane reads: Nodes and Namespaces as well.
    Everything,
}

/// What a cluster has.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Its objects.
    pub objects: Vec<Object>,
    /// How they are to be read.
    pub options: Options,
    /// What could not be seen.
    pub notes: Vec<String>,
}

/// A kind as the API server serves it.
#[derive(Debug)]
pub(crate) struct Served {
    /// `v1` or `group/version`.
    api_version: String,
    /// As in `HTTPRoute`.
    pub kind: String,
    /// As in a path.
    pub plural: String,
}

impl Served {
    /// One that every API server has in this version.
    pub(crate) fn fixed(kind: &Kind) -> Option<Self> {
        let Version::Fixed(version) = kind.version else { return None };
        let api_version = if kind.group.is_empty() { version.to_owned() } else { format!("{}/{version}", kind.group) };
        Some(Self { api_version, kind: kind.kind.to_owned(), plural: kind.plural.to_owned() })
    }

    /// Path of its list: of a namespace, or of all.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let mut parts = match self.api_version.split_once('/') {
            Some((group, version)) => vec!["apis", group, version],
            None => vec!["api", &self.api_version],
        };
        parts.extend(namespace.into_iter().flat_map(|namespace| ["namespaces", namespace]));
        parts.push(&self.plural);
        path(&parts)
    }
}

/// Reads the objects. Where a kind may not be listed in the whole cluster, only those of `namespaces` are read, and a
/// note says so.
pub(crate) async fn read(cluster: &Cluster, wanted: Wanted, namespaces: &[&str]) -> Result<Found, ClusterError> {
    let is_wanted = |kind: &&Kind| match wanted {
        Wanted::Routes => kind.kind == "Service",
        Wanted::Addresses => kind.is_namespaced,
        Wanted::Everything => true,
    };
    let mut kinds: Vec<Served> = KINDS.iter().filter(is_wanted).filter_map(Served::fixed).collect();
    let is_served = |kind: &&Kind| matches!(kind.version, Version::Served(_));
    let groups: BTreeSet<&str> = KINDS.iter().filter(is_served).map(|kind| kind.group).collect();
    for group in groups {
        kinds.extend(served(cluster, group).await?);
    }
    let mut found = Found { options: options(cluster).await?, ..Found::default() };
    for kind in &kinds {
        let items = list(cluster, kind, namespaces, &mut found.notes).await?;
        found.take(kind, items);
    }
    Ok(found)
}

impl Found {
    pub(super) fn take(&mut self, kind: &Served, items: Vec<Value>) {
        for mut item in items {
            // Lists of the API do not repeat these in each item.
            if let Some(item) = item.as_object_mut() {
                item.insert("apiVersion".to_owned(), kind.api_version.as_str().into());
                item.insert("kind".to_owned(), kind.kind.as_str().into());
            }
            // What an API server gives out has a name; anything else is not the mesh's business.
            self.objects.extend(Object::from_value(item, None));
        }
    }
}

/// The kinds of a group that the mesh has a use for, each in the version that the API server prefers.
pub(crate) async fn served(cluster: &Cluster, group: &str) -> Result<Vec<Served>, ClusterError> {
    let mut found: Vec<Served> = Vec::new();
    let about = cluster.find(&path(&["apis", group])).await?.unwrap_or_default();
    for version in value::items(&about, "/versions") {
        let version = value::text(version, "/version");
        let list = cluster.find(&path(&["apis", group, version])).await?.unwrap_or_default();
        for resource in value::items(&list, "/resources") {
            let (plural, kind) = (value::text(resource, "/name"), value::text(resource, "/kind"));
            // `httproutes/status` is no kind of its own.
            let is_new = !plural.contains('/') && found.iter().all(|known| known.kind != kind);
            if is_new && is_used(group, kind) {
                let (kind, plural) = (kind.to_owned(), plural.to_owned());
                found.push(Served { api_version: format!("{group}/{version}"), kind, plural });
            }
        }
    }
    Ok(found)
}

async fn list(
    cluster: &Cluster,
    kind: &Served,
    namespaces: &[&str],
    notes: &mut Vec<String>,
) -> Result<Vec<Value>, ClusterError> {
    match cluster.list(&kind.path(None), "").await {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) if error.is_forbidden() && !is_namespaced(&kind.kind) && !namespaces.is_empty() => {
            notes.push(format!("{} may not be listed; what they say is not seen", kind.plural));
            Ok(Vec::new())
        }
        Err(error) if error.is_forbidden() && !namespaces.is_empty() => {
            let mut items = Vec::new();
            for namespace in namespaces {
                items.extend(cluster.list(&kind.path(Some(namespace)), "").await?);
            }
            let where_to = namespaces.join(", ");
            notes.push(format!("{} may be listed in {where_to} only; what others have is not seen", kind.plural));
            Ok(items)
        }
        listed => listed,
    }
}

/// The domains and networks of the installation; the defaults where there is none, or where it may not be read.
pub(crate) async fn options(cluster: &Cluster) -> Result<Options, ClusterError> {
    let text = if_allowed(installed(cluster, MESH_INJECTOR, "/data/config.yaml").await)?.flatten();
    let config = text.and_then(|text| Config::from_yaml(&text).ok()).unwrap_or_default();
    Ok(Options {
        meshed_by_label: false,
        trust_domain: config.trust_domain,
        cluster_domain: config.cluster_domain,
        cluster_networks: if_allowed(cluster_networks(cluster).await)?.unwrap_or_default(),
    })
}

/// The installation's value `clusterNetworks`; none where there is no installation.
pub(crate) async fn cluster_networks(cluster: &Cluster) -> Result<Vec<IpNet>, ClusterError> {
    let text = installed(cluster, VALUES_CONFIG_MAP, "/data/values.yaml").await?;
    let values = text
        .and_then(|text| values::read_yaml(&format!("ConfigMap {VALUES_CONFIG_MAP}"), &text).ok())
        .unwrap_or_default();
    let networks = value::items(&values, "/clusterNetworks").iter().filter_map(Value::as_str);
    Ok(networks.filter_map(|network| network.parse().ok()).collect())
}

/// A text of a ConfigMap of the installation.
async fn installed(cluster: &Cluster, name: &str, key: &str) -> Result<Option<String>, ClusterError> {
    let found = cluster.find(&core_object(CONTROL_NAMESPACE, "configmaps", name)).await?;
    Ok(found.as_ref().and_then(|found| found.pointer(key)).and_then(Value::as_str).map(str::to_owned))
}

/// What was read; nothing where it may not be.
pub(super) fn if_allowed<T>(read: Result<T, ClusterError>) -> Result<Option<T>, ClusterError> {
    match read {
        Err(error) if error.is_forbidden() => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;
    use crate::kube::mock::Mock;

    fn named(name: &str) -> Value {
        json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": {} })
    }

    fn mock() -> Mock {
        let group = |versions: &[&str]| json!({ "versions": versions.iter().map(|v| json!({ "version": v })).collect::<Vec<_>>() });
        let resources = |kinds: &[(&str, &str)]| json!({ "resources": kinds.iter().map(|(n, k)| json!({ "name": n, "kind": k })).collect::<Vec<_>>() });
        Mock::default()
            .list("/api/v1/services", vec![named("web")])
            .object("/apis/gateway.networking.k8s.io", group(&["v1", "v1beta1"]))
            .object(
                "/apis/gateway.networking.k8s.io/v1",
                resources(&[("httproutes", "HTTPRoute"), ("httproutes/status", "HTTPRoute"), ("gateways", "Gateway")]),
            )
            .object(
                "/apis/gateway.networking.k8s.io/v1beta1",
                resources(&[("httproutes", "HTTPRoute"), ("referencegrants", "ReferenceGrant")]),
            )
            .list("/apis/gateway.networking.k8s.io/v1/httproutes", vec![named("split")])
            .list("/apis/gateway.networking.k8s.io/v1beta1/referencegrants", vec![named("grant")])
    }

    #[tokio::test]
    async fn each_kind_is_read_in_the_version_that_is_preferred() {
        let found = read(&mock().cluster(), Wanted::Routes, &["shop"]).await.unwrap();
        let seen: Vec<_> = found.objects.iter().map(|o| format!("{} {} {}", o.api_version, o.kind, o.name)).collect();
        assert_eq!(
            seen,
            [
                "v1 Service web",
                "gateway.networking.k8s.io/v1 HTTPRoute split",
                "gateway.networking.k8s.io/v1beta1 ReferenceGrant grant"
            ]
        );
        assert_eq!(found.notes, Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_the_installation_says_of_the_cluster_is_known() {
        let map = |key: &str, text: &str| json!({ "data": { key: text } });
        let at = |name: &str| format!("/api/v1/namespaces/mesh-system/configmaps/{name}");
        let cluster = mock()
            .object(&at(MESH_INJECTOR), map("config.yaml", "trustDomain: example.org\n"))
            .object(&at("mesh-values"), map("values.yaml", "clusterNetworks: [10.0.0.0/8, nonsense]\n"));
        let found = options(&cluster.cluster()).await.unwrap();
        let networks: Vec<_> = found.cluster_networks.iter().map(ToString::to_string).collect();
        assert_eq!((found.trust_domain.as_str(), networks), ("example.org", vec!["10.0.0.0/8".to_owned()]));
    }

    #[tokio::test]
    async fn without_the_right_to_see_all_one_namespace_is_read() {
        let limited = mock()
            .refuses("/api/v1/services", 403, "services is forbidden")
            .list("/api/v1/namespaces/shop/services", vec![named("web")]);
        let found = read(&limited.cluster(), Wanted::Routes, &["shop"]).await.unwrap();
        assert_eq!((found.objects.len(), found.notes.len()), (3, 1));
        assert!(found.notes[0].contains("services may be listed in shop only"), "{:?}", found.notes);
    }
}
