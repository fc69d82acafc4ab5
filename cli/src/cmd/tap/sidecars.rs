//! Which sidecars are asked, and how they are reached.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use anyhow::{Context, anyhow, bail, ensure};
use mesh_policy::well_known::{ADMIN_PORT, PROXY_CONTAINER};
use serde_json::Value;
use tokio::net::TcpStream;

use super::{Args, words::plain};
use crate::{
    authorization::{Named, named, path_of},
    cmd::demo::{NAMESPACE as DEMO, SIDECARS},
    globals::Globals,
    kube::{
        Cluster, Lines, core, core_object, encode,
        pods::{is_alive, selector_query},
        value,
    },
    output,
};

/// Sidecars of one command: each is a port-forward through the API server, and nobody reads more at a time.
pub(super) const MAX_PODS: usize = 20;
/// A file of a demo: far more than its few pods need.
const MAX_FILE: u64 = 64 * 1024;

/// Sidecars, and who leads to them.
pub(super) struct Found {
    /// `None`: they are on this machine.
    cluster: Option<Cluster>,
    namespace: String,
    pub(super) sidecars: Vec<Sidecar>,
}

/// A sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sidecar {
    /// `NAMESPACE/POD`, or what else it is known by.
    pub(super) name: String,
    at: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Pod { namespace: String, name: String },
    Local(SocketAddr),
}

impl Sidecar {
    fn of_pod(namespace: &str, name: &str) -> Self {
        let at = Place::Pod { namespace: namespace.to_owned(), name: name.to_owned() };
        Self { name: format!("{namespace}/{name}"), at }
    }
}

impl Found {
    /// Of names that say none.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Opens a page that comes line by line.
    pub(super) async fn open(&self, sidecar: &Sidecar, path: &str) -> anyhow::Result<Lines> {
        match (&sidecar.at, &self.cluster) {
            (Place::Local(address), _) => {
                let stream = TcpStream::connect(address).await;
                let stream = stream.with_context(|| format!("the sidecar at {address} cannot be reached"))?;
                let lines = Lines::ask(Box::new(stream), path.to_owned()).await;
                lines.map_err(|why| anyhow!("{}: {}", sidecar.name, plain(&why)))
            }
            (Place::Pod { namespace, name }, Some(cluster)) => {
                let lines = cluster.lines(namespace, name, ADMIN_PORT, path).await;
                lines.map_err(|error| anyhow!("{}", plain(&error.to_string())))
            }
            (Place::Pod { .. }, None) => bail!("{} is in no cluster", sidecar.name),
        }
    }
}

/// The sidecars that are meant; at least one.
pub(super) async fn find(args: &Args, globals: &Globals) -> anyhow::Result<Found> {
    let here = |default: &str, sidecars| {
        let namespace = globals.namespace.clone().unwrap_or_else(|| default.to_owned());
        Found { cluster: None, namespace, sidecars: first(sidecars) }
    };
    if !args.at.is_empty() {
        let local = |address: &SocketAddr| Sidecar { name: address.to_string(), at: Place::Local(*address) };
        return Ok(here("default", args.at.iter().map(local).collect()));
    }
    if let Some(folder) = &args.demo {
        return Ok(here(DEMO, of_demo(folder, args.target.as_deref())?));
    }
    let target = args.target.as_deref().unwrap_or_default();
    let cluster = Cluster::connect(globals).await?;
    let sidecars = first(of_cluster(&cluster, target).await?);
    let namespace = cluster.namespace().to_owned();
    Ok(Found { cluster: Some(cluster), namespace, sidecars })
}

/// As many as may be, and how many more there are.
fn first(mut all: Vec<Sidecar>) -> Vec<Sidecar> {
    if all.len() > MAX_PODS {
        output::note(&format!("note: {MAX_PODS} of {} pods are followed; name one for others: pod/NAME", all.len()));
        all.truncate(MAX_PODS);
    }
    all
}

fn of_demo(folder: &Path, target: Option<&str>) -> anyhow::Result<Vec<Sidecar>> {
    let file = folder.join(SIDECARS);
    let shown = file.display();
    let length = fs::metadata(&file).map(|about| about.len());
    let length = length.with_context(|| format!("{shown} cannot be read; does a demo run with this --dir?"))?;
    ensure!(length <= MAX_FILE, "{shown} is too long to be a demo's");
    let text = fs::read(&file).with_context(|| format!("{shown} cannot be read"))?;
    let all: BTreeMap<String, SocketAddr> =
        serde_json::from_slice(&text).with_context(|| format!("{shown} is not as a demo writes it"))?;
    // A workload of the demo is what its pods' names begin with.
    let name = target.map(|target| target.rsplit_once('/').map_or(target, |(_, name)| name));
    let is_meant = |pod: &str| {
        let part = |name: &str| pod.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        name.is_none_or(part)
    };
    let known: Vec<&str> = all.keys().map(String::as_str).collect();
    let meant: Vec<Sidecar> = all
        .iter()
        .filter(|(pod, _)| is_meant(pod))
        .map(|(pod, address)| Sidecar { name: pod.clone(), at: Place::Local(*address) })
        .collect();
    ensure!(!meant.is_empty(), "the demo has no {}; it has {}", target.unwrap_or_default(), known.join(", "));
    Ok(meant)
}

/// A pod that is named is not read: who may only forward ports can follow it.
pub(super) async fn of_cluster(cluster: &Cluster, target: &str) -> anyhow::Result<Vec<Sidecar>> {
    let namespace = cluster.namespace();
    let (what, selector) = match (target.split_once('/'), named(target)) {
        (None, _) => return Ok(vec![Sidecar::of_pod(namespace, target)]),
        (Some(("svc" | "service" | "services", name)), _) => {
            let service = cluster.get(&core_object(namespace, "services", name)).await?;
            let labels = service.pointer("/spec/selector").and_then(Value::as_object).cloned().unwrap_or_default();
            (format!("Service {namespace}/{name}"), serde_json::json!({ "matchLabels": labels }))
        }
        (_, Named::Workload { kind: "Pod", name }) => return Ok(vec![Sidecar::of_pod(namespace, name)]),
        (_, Named::PodOf { namespace, name }) => return Ok(vec![Sidecar::of_pod(namespace, name)]),
        (_, Named::Workload { kind, name }) => {
            let path = path_of(kind, namespace, name).filter(|_| kind != "CronJob");
            let path =
                path.ok_or_else(|| anyhow!("a {kind} has no pods to follow; name a workload, Service or pod"))?;
            let selector = cluster.get(&path).await?.pointer("/spec/selector").cloned().unwrap_or_default();
            (format!("{kind} {namespace}/{name}"), selector)
        }
        _ => bail!("{target:?} names no workload, Service or pod"),
    };
    let labels = selector_query(&selector).with_context(|| format!("{what} selects no pods"))?;
    let pods = cluster.list(&core(namespace, "pods"), &format!("labelSelector={}", encode(&labels))).await?;
    let meshed = pods.iter().filter(|pod| is_alive(pod) && value::container(pod, PROXY_CONTAINER).is_some());
    let mut found: Vec<Sidecar> = meshed.map(|pod| Sidecar::of_pod(namespace, value::name(pod))).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    ensure!(!found.is_empty(), "no running pod of {what} has a sidecar; see: meshctl check --proxy -n {namespace}");
    Ok(found)
}
