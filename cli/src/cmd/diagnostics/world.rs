//! The cluster's objects, read once and compiled by the code that `mesh-destination` runs.

use std::collections::BTreeSet;

use mesh_injector::config::Config;
use mesh_resources::{Object, Options, Snapshot};
use serde_json::Value;

use crate::kube::{CONTROL_NAMESPACE, Cluster, ClusterError, core_object};

/// What destination watches: path, `apiVersion` and kind. Lists of the API do not repeat the latter in each item.
const WATCHED: [(&str, &str, &str); 8] = [
    ("/api/v1/services", "v1", "Service"),
    ("/api/v1/pods", "v1", "Pod"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/api/v1/namespaces", "v1", "Namespace"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("/apis/gateway.networking.k8s.io/v1/httproutes", "gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("/apis/gateway.networking.k8s.io/v1/grpcroutes", "gateway.networking.k8s.io/v1", "GRPCRoute"),
    ("/apis/gateway.networking.k8s.io/v1beta1/referencegrants", "gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
];

/// The objects of now.
pub struct World {
    /// Compiled.
    pub snapshot: Snapshot,
    /// Services by name, for messages about one that is not there.
    pub services: BTreeSet<String>,
}

/// Reads the objects. Kinds that the cluster does not serve count as having none.
pub async fn read(cluster: &Cluster) -> Result<World, ClusterError> {
    let mut objects = Vec::new();
    for (path, api_version, kind) in WATCHED {
        let items = match cluster.list(path, "").await {
            Err(error) if error.is_not_found() => Vec::new(),
            items => items?,
        };
        for mut item in items {
            if let Some(item) = item.as_object_mut() {
                item.insert("apiVersion".to_owned(), api_version.into());
                item.insert("kind".to_owned(), kind.into());
            }
            // What an API server gives out has a name; anything else is not destination's business either.
            objects.extend(Object::from_value(item, None));
        }
    }
    let services = objects.iter().filter(|object| object.kind == "Service");
    let services = services.map(|service| format!("{}.{}", service.name, service.namespace)).collect();
    let options = options(cluster).await?;
    let (snapshot, _) = Snapshot::from_objects(&objects, options);
    Ok(World { snapshot, services })
}

/// The domains of the installation; the defaults where there is none, or where it may not be read.
async fn options(cluster: &Cluster) -> Result<Options, ClusterError> {
    let found = match cluster.find(&core_object(CONTROL_NAMESPACE, "configmaps", "mesh-injector")).await {
        Err(error) if error.is_forbidden() => None,
        found => found?,
    };
    let text = found.as_ref().and_then(|found| found.pointer("/data/config.yaml")).and_then(Value::as_str);
    let config = text.and_then(|text| Config::from_yaml(text).ok()).unwrap_or_default();
    Ok(Options { meshed_by_label: false, trust_domain: config.trust_domain, cluster_domain: config.cluster_domain })
}
