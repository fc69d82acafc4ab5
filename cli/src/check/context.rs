//! What checks share: the cluster, and lists that several of them read.
//!
//! A list is kept for [`KEPT`] only: checks that run at the same time share one, and a check that asks again while
//! things come up gets a new one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::well_known::{INJECT_LABEL, PROXY_CONTAINER};
use serde_json::Value;
use tokio::sync::Mutex;

pub(super) use crate::kube::pods::is_alive;
use crate::kube::{Cluster, ClusterError, core, path, value};

/// How long a list is shared.
const KEPT: Duration = Duration::from_millis(800);

/// What checks share.
pub(crate) struct Context {
    /// The cluster.
    pub cluster: Cluster,
    /// The one namespace whose pods are looked at; all if `None`.
    pub scope: Option<String>,
    /// This program's version.
    pub version: String,
    pods: Recent,
    namespaces: Recent,
    nodes: Recent,
}

type Recent = Mutex<Option<(Instant, Arc<Vec<Value>>)>>;

impl Context {
    /// Begins.
    pub(crate) fn new(cluster: Cluster, scope: Option<String>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            cluster,
            scope,
            version,
            pods: Recent::default(),
            namespaces: Recent::default(),
            nodes: Recent::default(),
        }
    }

    /// The pods of the scope.
    pub(crate) async fn pods(&self) -> Result<Arc<Vec<Value>>, ClusterError> {
        let path = match &self.scope {
            Some(namespace) => core(namespace, "pods"),
            None => "/api/v1/pods".to_owned(),
        };
        self.recent(&self.pods, &path).await
    }

    /// The pods of the scope that have a sidecar and have not ended.
    pub(crate) async fn meshed(&self) -> Result<Vec<Value>, ClusterError> {
        let pods = self.pods().await?;
        Ok(pods
            .iter()
            .filter(|pod| value::container(pod, PROXY_CONTAINER).is_some() && is_alive(pod))
            .cloned()
            .collect())
    }

    /// All namespaces.
    pub(crate) async fn namespaces(&self) -> Result<Arc<Vec<Value>>, ClusterError> {
        self.recent(&self.namespaces, "/api/v1/namespaces").await
    }

    /// Names of the namespaces of the scope whose label asks for injection, and that are not being deleted.
    pub(crate) async fn labelled(&self) -> Result<Vec<String>, ClusterError> {
        let namespaces = self.namespaces().await?;
        let wanted = namespaces.iter().filter(|namespace| {
            asks_for_injection(namespace) && self.scope.as_deref().is_none_or(|scope| scope == value::name(namespace))
        });
        Ok(wanted.map(|namespace| value::name(namespace).to_owned()).collect())
    }

    /// All nodes.
    pub(crate) async fn nodes(&self) -> Result<Arc<Vec<Value>>, ClusterError> {
        self.recent(&self.nodes, "/api/v1/nodes").await
    }

    /// An object of an API group, in a namespace; `None` when it is not there.
    pub(crate) async fn object(
        &self,
        group: &str,
        version: &str,
        namespace: &str,
        resource: &str,
        name: &str,
    ) -> Result<Option<Value>, ClusterError> {
        let path = match group {
            "" => path(&["api", version, "namespaces", namespace, resource, name]),
            group => path(&["apis", group, version, "namespaces", namespace, resource, name]),
        };
        self.cluster.find(&path).await
    }

    async fn recent(&self, list: &Recent, path: &str) -> Result<Arc<Vec<Value>>, ClusterError> {
        let mut kept = list.lock().await;
        if let Some((_, items)) = kept.as_ref().filter(|(read, _)| read.elapsed() < KEPT) {
            return Ok(items.clone());
        }
        let items = Arc::new(self.cluster.list(path, "").await?);
        *kept = Some((Instant::now(), items.clone()));
        Ok(items)
    }
}

/// Whether a namespace's label asks for injection, and it is not being deleted.
pub(super) fn asks_for_injection(namespace: &Value) -> bool {
    value::label(namespace, INJECT_LABEL) == "enabled" && value::text(namespace, "/status/phase") != "Terminating"
}

/// `namespace/name`.
pub(super) fn full_name(object: &Value) -> String {
    format!("{}/{}", value::namespace(object), value::name(object))
}
