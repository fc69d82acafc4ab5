//! Networks of pods and Services: whether they are known. An address in one of them that has no owner is never taken for
//! one outside of the mesh.
//!
//! It reads Nodes and the installation's values.

use std::sync::Arc;

use serde_json::Value;

use super::{Check, Context, Outcome, When, count, names, page};
use crate::{
    kube::{ClusterError, value},
    manifests::cluster::cluster_networks,
};

pub(super) static CHECKS: &[Check] = &[Check {
    id: "kubernetes-pod-networks",
    area: "Kubernetes",
    what: "it is known which addresses are of the cluster",
    why: "what an address means that nobody is known to have cannot be told: it is taken for one outside of the mesh",
    fix: "meshctl upgrade --set 'clusterNetworks={10.0.0.0/8}' | kubectl apply -f -",
    page: page!("kubernetes-pod-networks"),
    when: &[When::Installed],
    after: &["kubernetes-api"],
    run: |context| Box::pin(pod_networks(context)),
}];

async fn pod_networks(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let nodes = context.nodes().await?;
    let has_range = |node: &&Value| !value::text(node, "/spec/podCIDR").is_empty();
    let without: Vec<_> = nodes.iter().filter(|node| !has_range(node)).map(value::name).collect();
    if without.is_empty() {
        return Ok(Outcome::pass(format!("{} with the podCIDR of its pods", count(nodes.len(), "node"))));
    }
    let networks = cluster_networks(&context.cluster).await?;
    if networks.is_empty() {
        return Ok(Outcome::warn(format!(
            "{} has no podCIDR, and the value clusterNetworks is empty: name the networks of pods and Services there",
            names(&without)
        )));
    }
    let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
    Ok(Outcome::pass(format!("clusterNetworks: {}", names(&networks))))
}
