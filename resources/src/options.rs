//! How objects are read: what an installation says that no object does.

use ipnet::IpNet;

/// How objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether the label `meshctl.dev/inject: enabled` says that a pod is meshed (a folder of manifests), rather than
    /// a container named `mesh-proxy` (a cluster).
    pub meshed_by_label: bool,
    /// Trust domain of the identities.
    pub trust_domain: String,
    /// Domain of the cluster's DNS names.
    pub cluster_domain: String,
    /// Networks of the cluster's pods and Services beside the `podCIDRs` of its Nodes: an address in them that nobody is
    /// known to have is nobody's, and never outside of the mesh.
    pub cluster_networks: Vec<IpNet>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            meshed_by_label: false,
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_networks: Vec::new(),
        }
    }
}
