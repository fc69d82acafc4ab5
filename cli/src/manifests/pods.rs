//! What is read of a cluster beside its policies, for decisions of servers: pods of some namespaces, and a workload.
//!
//! Only where it matters: a cluster has many pods, and whoever asks may see those of few namespaces.

use std::collections::BTreeSet;

use mesh_resources::{Object, kinds::KINDS};

use super::cluster::{Found, Served, if_allowed};
use crate::{
    authorization::{Named, path_of},
    kube::{Cluster, ClusterError, path},
};

impl Found {
    /// Adds the pods of some namespaces, their endpoints, and the namespaces themselves, for decisions of servers. What may not
    /// be read is named in a note.
    pub(crate) async fn add_pods(&mut self, cluster: &Cluster, namespaces: &[&str]) -> Result<(), ClusterError> {
        let namespaces: BTreeSet<&str> = namespaces.iter().copied().collect();
        let kinds = KINDS.iter().filter(|kind| kind.is_namespaced && kind.kind != "Service");
        for kind in kinds.filter_map(Served::fixed) {
            // For a target that is an address all of them were read.
            if self.objects.iter().any(|object| object.is(&kind.kind)) {
                continue;
            }
            for namespace in &namespaces {
                match cluster.list(&kind.path(Some(namespace)), "").await {
                    Ok(items) => self.take(&kind, items),
                    Err(error) if error.is_not_found() => {}
                    Err(error) if error.is_forbidden() => {
                        self.notes.push(format!("{} of {namespace} may not be listed; they are not seen", kind.plural));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let namespace_kind = KINDS.iter().filter(|kind| kind.kind == "Namespace").find_map(Served::fixed);
        let Some(kind) = namespace_kind else { return Ok(()) };
        for namespace in namespaces {
            let found = if_allowed(cluster.find(&path(&["api", "v1", "namespaces", namespace])).await)?;
            match found {
                Some(found) => self.take(&kind, found.into_iter().collect()),
                None => self.notes.push(format!(
                    "namespace {namespace} may not be read; policies that select namespaces by label may not be seen"
                )),
            }
        }
        Ok(())
    }

    /// Adds the workload that is named, if it has a template of pods and is there. A note says that it may not be read.
    pub(crate) async fn add_workload(
        &mut self,
        cluster: &Cluster,
        named: Option<Named<'_>>,
        namespace: &str,
    ) -> Result<(), ClusterError> {
        let Some(Named::Workload { kind, name }) = named else { return Ok(()) };
        let Some(path) = path_of(kind, namespace, name) else { return Ok(()) };
        match if_allowed(cluster.find(&path).await)? {
            Some(found) => self.objects.extend(found.and_then(|found| Object::from_value(found, None).ok())),
            None => self.notes.push(format!("{kind} {namespace}/{name} may not be read; it is not seen")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::{Value, json};

    use super::*;
    use crate::kube::mock::Mock;

    fn named(name: &str) -> Value {
        json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": {} })
    }

    #[tokio::test]
    async fn pods_are_read_where_they_may_be() {
        let limited = Mock::default()
            .list("/api/v1/namespaces/shop/pods", vec![named("web-0")])
            .object("/api/v1/namespaces/shop", json!({ "metadata": { "name": "shop" } }))
            .refuses("/api/v1/namespaces/bank/pods", 403, "pods is forbidden")
            .refuses("/api/v1/namespaces/bank", 403, "namespaces is forbidden")
            .object(
                "/apis/apps/v1/namespaces/shop/deployments/web",
                json!({ "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": { "name": "web", "namespace": "shop" } }),
            );
        let cluster = limited.cluster();
        let mut found = Found::default();
        found.add_pods(&cluster, &["shop", "bank", "shop"]).await.unwrap();
        for named in [Named::Workload { kind: "Deployment", name: "web" }, Named::Namespace("shop")] {
            found.add_workload(&cluster, Some(named), "shop").await.unwrap();
        }
        let seen: Vec<_> = found.objects.iter().map(|object| format!("{} {}", object.kind, object.name)).collect();
        assert_eq!(seen, ["Pod web-0", "Namespace shop", "Deployment web"]);
        let hidden =
            Mock::default().refuses("/apis/apps/v1/namespaces/shop/deployments/web", 403, "forbidden").cluster();
        let web = Named::Workload { kind: "Deployment", name: "web" };
        let mut unseen = Found::default();
        unseen.add_workload(&hidden, Some(web), "shop").await.unwrap();
        assert_eq!(unseen.notes, ["Deployment shop/web may not be read; it is not seen"]);
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
        assert!(found.notes[0].starts_with("pods of bank may not be listed"), "{:?}", found.notes);
    }
}
