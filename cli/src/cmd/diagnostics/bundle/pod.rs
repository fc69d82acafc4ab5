//! What is collected of one pod: its object, the pages of its sidecar or of its part of the control plane, and logs.

use std::time::Duration;

use mesh_policy::well_known::{ADMIN_PORT, INIT_CONTAINER, MESH_INJECTOR, METRICS_PORT, PAGES_PORT, PROXY_CONTAINER};
use serde_json::Value;

use super::{
    archive::Content,
    collect::{Item, Job, yaml},
};
use crate::kube::{Cluster, ClusterError, core_object, encode, value};

/// Lines of one log: an hour of a sidecar that has a lot to say.
const LOG_LINES: usize = 5_000;
/// One log in the archive; the last lines stay.
const MAX_LOG: usize = 2 * 1024 * 1024;
/// One log as it is asked for: an API server cuts the end, which is what matters, so it must come whole.
const MAX_LOG_READ: usize = 16 * 1024 * 1024;

/// Whether a pod is a part of the control plane or has a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A part of the control plane.
    Control,
    /// A pod that was chosen.
    Chosen,
}

/// The job of a pod.
pub(super) fn job<'c>(cluster: &'c Cluster, pod: &'c Value, role: Role, since: Duration) -> Job<'c> {
    let (namespace, name) = (value::namespace(pod), value::name(pod));
    Job::new(format!("pod {namespace}/{name}"), async move {
        let folder = match role {
            Role::Control => format!("control-plane/{name}"),
            Role::Chosen => format!("proxies/{namespace}/{name}"),
        };
        let mut items = vec![yaml(&format!("{folder}/pod.yaml"), Ok(pod.clone()))];
        let (pages, containers) = match role {
            Role::Control => (control_pages(pod), containers(pod)),
            Role::Chosen if value::container(pod, PROXY_CONTAINER).is_none() => {
                items.push(Item::Missing(format!("{folder}: pages and logs"), "the pod has no sidecar".to_owned()));
                return items;
            }
            // The application's own log is nobody's business here.
            Role::Chosen => (&PROXY_PAGES[..], vec![INIT_CONTAINER, PROXY_CONTAINER]),
        };
        read_pages(cluster, pod, pages, &folder, &mut items).await;
        for container in containers {
            if value::container(pod, container).is_some() {
                logs(cluster, pod, container, since, &folder, &mut items).await;
            }
        }
        items
    })
}

/// A page: where it is served, and the file that it becomes.
type PageOf = (u16, &'static str, &'static str);

/// The pages of a sidecar.
const PROXY_PAGES: [PageOf; 5] = [
    (ADMIN_PORT, "/config", "config.json"),
    (ADMIN_PORT, "/authorization", "authorization.json"),
    (ADMIN_PORT, "/log-level", "log-level.txt"),
    (METRICS_PORT, "/metrics", "metrics.txt"),
    (METRICS_PORT, "/ready", "ready.txt"),
];
/// The pages of a part of the control plane; the injector has no problems to tell.
const CONTROL_PAGES: [PageOf; 3] = [
    (PAGES_PORT, "/metrics", "metrics.txt"),
    (PAGES_PORT, "/ready", "ready.txt"),
    (PAGES_PORT, "/problems", "problems.json"),
];

fn control_pages(pod: &Value) -> &'static [PageOf] {
    let is_injector = value::label(pod, "app.kubernetes.io/name") == MESH_INJECTOR;
    if is_injector { &CONTROL_PAGES[..2] } else { &CONTROL_PAGES }
}

fn containers(pod: &Value) -> Vec<&str> {
    let lists = ["/spec/initContainers", "/spec/containers"];
    lists.iter().flat_map(|list| value::items(pod, list)).map(|container| value::text(container, "/name")).collect()
}

async fn read_pages(cluster: &Cluster, pod: &Value, pages: &[PageOf], folder: &str, items: &mut Vec<Item>) {
    // A port that did not open is not waited for again.
    let mut closed: Option<(u16, String)> = None;
    for (port, page, file) in pages {
        let file = format!("{folder}/{file}");
        if let Some((_, why)) = closed.as_ref().filter(|(known, _)| known == port) {
            items.push(Item::Missing(file, why.clone()));
            continue;
        }
        match cluster.page(value::namespace(pod), value::name(pod), *port, page).await {
            // 503 of /ready says what is waited for.
            Ok(found) if found.status.is_success() || *page == "/ready" => {
                let text = found.text();
                let parsed = if file.ends_with(".json") { serde_json::from_str(&text).ok() } else { None };
                items.push(Item::File(file, parsed.map_or_else(|| Content::Text(text), Content::Json)));
            }
            Ok(found) => items.push(Item::Missing(file, format!("{page} answers {}", found.status))),
            Err(error) => {
                items.push(Item::Missing(file, error.to_string()));
                closed = matches!(error, ClusterError::Forward { .. }).then(|| (*port, error.to_string()));
            }
        }
    }
}

/// The log of a container, and of the one before it if it was restarted.
async fn logs(cluster: &Cluster, pod: &Value, container: &str, since: Duration, folder: &str, items: &mut Vec<Item>) {
    let status = value::container_status(pod, container);
    let restarted = status.is_some_and(|status| value::number(status, "/restartCount") > 0);
    let log = core_object(value::namespace(pod), "pods", value::name(pod));
    let asked = format!(
        "{log}/log?container={}&tailLines={LOG_LINES}&limitBytes={MAX_LOG_READ}&timestamps=true",
        encode(container)
    );
    let since = format!("&sinceSeconds={}", since.as_secs().max(1));
    let previous = restarted.then_some(("previous.log", "&previous=true"));
    for (end, query) in [("log", since.as_str())].into_iter().chain(previous) {
        let file = format!("{folder}/{container}.{end}");
        match cluster.text(&format!("{asked}{query}"), MAX_LOG_READ).await {
            Ok((text, is_cut)) => {
                let is_cut = is_cut || text.len() >= MAX_LOG_READ;
                items.push(Item::File(file.clone(), Content::Tail(text, MAX_LOG)));
                if is_cut {
                    items.push(Item::Missing(
                        format!("the end of {file}"),
                        "its lines are very long; ask for less with --since".to_owned(),
                    ));
                }
            }
            Err(error) => items.push(Item::Missing(file, error.to_string())),
        }
    }
}
