//! The cluster's objects, read once and compiled by the code that `mesh-destination` runs.

use std::collections::BTreeSet;

use mesh_resources::Snapshot;

use crate::{
    kube::{Cluster, ClusterError},
    manifests::{self, Wanted},
};

/// Reads and compiles the objects.
pub(super) struct World {
    /// Compiled.
    pub snapshot: Snapshot,
    /// Services by name, for messages about one that is not there.
    pub services: BTreeSet<String>,
}

/// Reads the objects. Kinds that the cluster does not serve count as having none.
pub(super) async fn read(cluster: &Cluster) -> Result<World, ClusterError> {
    let found = manifests::read_cluster(cluster, Wanted::Everything, &[]).await?;
    let services = found.objects.iter().filter(|object| object.is("Service"));
    let services = services.map(|service| format!("{}.{}", service.name, service.namespace)).collect();
    let (snapshot, _) = Snapshot::from_objects(&found.objects, found.options);
    Ok(World { snapshot, services })
}
