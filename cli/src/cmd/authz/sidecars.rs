//! Asks the sidecars of pods what they saw, several at a time.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use mesh_policy::well_known::{ADMIN_PORT, PROXY_CONTAINER};
use serde::Serialize;
use serde_json::Value;

use super::page::Page;
use crate::{
    kube::{Cluster, ClusterError, core, pods::is_alive, value},
    output,
};

/// Sidecars that are asked at a time: each is a port-forward through the API server.
const AT_ONCE: usize = 16;
/// How often it is said how far it is: whoever waits longer than this wants to know.
const PROGRESS: Duration = Duration::from_secs(1);

/// A pod that could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Silent {
    /// `namespace/name`.
    pub pod: String,
    /// What came instead.
    pub why: String,
}

/// What the sidecars saw.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Each pod with what its sidecar saw, by name.
    pub pods: Vec<(Value, Page)>,
    /// Those that could not be asked, by name.
    pub silent: Vec<Silent>,
}

/// Running pods: of a namespace, or of all.
pub(super) async fn pods(cluster: &Cluster, namespace: Option<&str>) -> Result<Vec<Value>, ClusterError> {
    let path = namespace.map_or("/api/v1/pods".to_owned(), |namespace| core(namespace, "pods"));
    let mut pods = cluster.list(&path, "").await?;
    pods.retain(is_alive);
    Ok(pods)
}

/// Asks those of the pods that have a sidecar.
pub(super) async fn ask(cluster: &Cluster, pods: &[Value]) -> Asked {
    let meshed: Vec<&Value> = pods.iter().filter(|pod| value::container(pod, PROXY_CONTAINER).is_some()).collect();
    let one = |pod: &Value| {
        let (namespace, name) = (value::namespace(pod).to_owned(), value::name(pod).to_owned());
        let pod = pod.clone();
        async move {
            let page = cluster.page(&namespace, &name, ADMIN_PORT, "/authorization").await;
            let page = page.map_err(|error| error.to_string()).and_then(|page| page.ok());
            let page = page.and_then(|page| {
                Page::read(&page.body).ok_or_else(|| "its page /authorization is not one of this version".to_owned())
            });
            (pod, page)
        }
    };
    let mut answers = stream::iter(meshed.iter().copied().map(one)).buffer_unordered(AT_ONCE);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS, PROGRESS);
    let mut asked = Asked::default();
    loop {
        tokio::select! {
            answer = answers.next() => match answer {
                None => break,
                Some((pod, Ok(page))) => asked.pods.push((pod, page)),
                Some((pod, Err(why))) => asked.silent.push(Silent { pod: full_name(&pod), why }),
            },
            _ = ticks.tick() => {
                output::note(&format!("{} of {} sidecars were asked", asked.pods.len() + asked.silent.len(), meshed.len()));
            }
        }
    }
    drop(answers);
    asked.pods.sort_by_key(|(pod, _)| full_name(pod));
    asked.silent.sort_by(|a, b| a.pod.cmp(&b.pod));
    asked
}

/// `namespace/name`.
pub(super) fn full_name(pod: &Value) -> String {
    format!("{}/{}", value::namespace(pod), value::name(pod))
}
