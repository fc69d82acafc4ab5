//! What is collected, as jobs: each asks for a few things and gives what it got, and why it did not get the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::well_known::{
    CONTROL_NAMESPACE, GATEWAY_GROUP, MESH_INJECTOR, POLICY_GROUP, TRUST_BUNDLE, VALUES_CONFIG_MAP,
};
use mesh_resources::kinds::{KINDS, Version, is_namespaced};
use serde_json::{Value, json};

use super::archive::Content;
use crate::{
    check::{self, Check, Context, When, report::Teller, run::run as run_checks},
    kube::{Cluster, ClusterError, core, core_object, path, value},
    manifests::cluster::{Served, served},
    output::{Format, Style},
};

/// Something that was asked for.
pub(super) enum Item {
    /// A file of the archive.
    File(String, Content),
    /// What could not be had, and why.
    Missing(String, String),
}

/// A job, and what it is about.
pub(super) struct Job<'c> {
    /// For progress, and for the index if there is no time for it.
    pub what: String,
    /// What it does.
    pub run: Pin<Box<dyn Future<Output = Vec<Item>> + 'c>>,
}

impl<'c> Job<'c> {
    /// A job.
    pub(super) fn new(what: impl Into<String>, run: impl Future<Output = Vec<Item>> + 'c) -> Self {
        Self { what: what.into(), run: Box::pin(run) }
    }
}

/// An object for a file, or the reason why there is none.
pub(super) fn yaml(file: &str, read: Result<Value, ClusterError>) -> Item {
    match read {
        Ok(value) => Item::File(file.to_owned(), Content::Yaml(value)),
        Err(error) => Item::Missing(file.to_owned(), error.to_string()),
    }
}

/// Objects for a file; none is no file.
async fn list(cluster: &Cluster, file: &str, at: &str) -> Option<Item> {
    match cluster.list(at, "").await {
        Ok(items) if items.is_empty() => None,
        // What is not served has no objects.
        Err(error) if error.is_not_found() => None,
        read => Some(yaml(file, read.map(Value::Array))),
    }
}

/// The jobs of the cluster itself: versions, checks, the control plane's objects, and those of kinds without a namespace.
pub(super) fn of_cluster<'c>(cluster: &'c Cluster, control: &'c [Value], server: Value) -> Vec<Job<'c>> {
    let installed: Vec<&'static Check> = check::all().filter(|check| check.when.contains(&When::Installed)).collect();
    let proxies: Vec<&'static Check> = check::all().filter(|check| check.when.contains(&When::Proxy)).collect();
    let namespace = cluster.namespace();
    vec![
        Job::new("versions", versions(cluster, control, server)),
        Job::new("check", checks(cluster, "check.json", None, installed)),
        Job::new("check --proxy", checks(cluster, "check-proxy.json", Some(namespace.to_owned()), proxies)),
        Job::new("the control plane's objects", installation(cluster)),
        Job::new("policies of the cluster", kinds(cluster, None)),
    ]
}

/// The job of a namespace.
pub(super) fn of_namespace<'c>(cluster: &'c Cluster, namespace: &'c str) -> Job<'c> {
    Job::new(format!("objects of namespace {namespace}"), async move {
        let folder = format!("namespaces/{namespace}");
        let object = cluster.get(&path(&["api", "v1", "namespaces", namespace])).await;
        let mut items = vec![yaml(&format!("{folder}/namespace.yaml"), object)];
        items.extend(list(cluster, &format!("{folder}/events.yaml"), &core(namespace, "events")).await);
        items.extend(kinds(cluster, Some(namespace)).await);
        items
    })
}

async fn checks(cluster: &Cluster, file: &str, scope: Option<String>, checks: Vec<&'static Check>) -> Vec<Item> {
    let begun = Instant::now();
    let context = Arc::new(Context::new(cluster.clone(), scope));
    let reports = run_checks(&checks, context, Duration::ZERO, |_| {}).await;
    let object = Teller::new(Format::Json, Style::stdout()).end(&reports, begun.elapsed());
    vec![match object.and_then(|text| Ok(serde_json::from_str(&text)?)) {
        Ok(object) => Item::File(file.to_owned(), Content::Json(object)),
        Err(error) => Item::Missing(file.to_owned(), format!("{error:#}")),
    }]
}

async fn versions(cluster: &Cluster, control: &[Value], server: Value) -> Vec<Item> {
    let mut items = Vec::new();
    let images: BTreeMap<&str, Vec<Value>> = control.iter().map(|pod| (value::name(pod), images(pod))).collect();
    let mut definitions = BTreeMap::new();
    for kind in KINDS.iter().filter(|kind| matches!(kind.version, Version::Served(_))) {
        let name = format!("{}.{}", kind.plural, kind.group);
        let at = path(&["apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions", &name]);
        match cluster.find(&at).await {
            Ok(found) => {
                definitions.insert(name, found.as_ref().map_or(Value::Null, definition));
            }
            Err(error) => items.push(Item::Missing(format!("the definition {name}"), error.to_string())),
        }
    }
    let all = json!({
        "meshctl": env!("CARGO_PKG_VERSION"),
        "apiServer": server,
        "controlPlane": images,
        "definitions": definitions,
    });
    items.push(Item::File("versions.json".to_owned(), Content::Json(all)));
    items
}

/// The images of a pod, as it names them and as they were pulled.
fn images(pod: &Value) -> Vec<Value> {
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let all = lists.iter().flat_map(|list| value::items(pod, list));
    all.map(|status| {
        let text = |pointer| value::text(status, pointer);
        json!({ "container": text("/name"), "image": text("/image"), "imageID": text("/imageID") })
    })
    .collect()
}

/// What is told of a definition (CRD): its schema is known by its version.
fn definition(found: &Value) -> Value {
    let served = value::items(found, "/spec/versions").iter().filter(|version| value::flag(version, "/served"));
    let served: Vec<&str> = served.map(|version| value::text(version, "/name")).collect();
    json!({
        "bundleVersion": value::annotation(found, "gateway.networking.k8s.io/bundle-version"),
        "channel": value::annotation(found, "gateway.networking.k8s.io/channel"),
        "served": served,
        "established": value::condition(found, "Established"),
    })
}

/// The objects of the installation. Secrets are not among them.
async fn installation(cluster: &Cluster) -> Vec<Item> {
    let mut items = Vec::new();
    for map in [MESH_INJECTOR, VALUES_CONFIG_MAP, TRUST_BUNDLE] {
        let read = cluster.get(&core_object(CONTROL_NAMESPACE, "configmaps", map)).await;
        items.push(yaml(&format!("control-plane/configmap-{map}.yaml"), read));
    }
    let webhook = path(&["apis", "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", MESH_INJECTOR]);
    items.push(yaml("control-plane/webhook.yaml", cluster.get(&webhook).await));
    let of_group = |group, plural| path(&["apis", group, "v1", "namespaces", CONTROL_NAMESPACE, plural]);
    for (file, at) in [
        ("deployments", of_group("apps", "deployments")),
        ("leases", of_group("coordination.k8s.io", "leases")),
        ("services", core(CONTROL_NAMESPACE, "services")),
        ("events", core(CONTROL_NAMESPACE, "events")),
    ] {
        items.extend(list(cluster, &format!("control-plane/{file}.yaml"), &at).await);
    }
    items
}

/// The objects that the mesh reads, with their status: of a namespace, or those that are in none.
async fn kinds(cluster: &Cluster, namespace: Option<&str>) -> Vec<Item> {
    let mut items = Vec::new();
    let is_wanted = |kind: &str| is_namespaced(kind) == namespace.is_some();
    let fixed = KINDS.iter().filter(|kind| namespace.is_some() && matches!(kind.kind, "Service" | "EndpointSlice"));
    let mut all: Vec<Served> = fixed.filter_map(Served::fixed).collect();
    for group in BTreeSet::from([GATEWAY_GROUP, POLICY_GROUP]) {
        match served(cluster, group).await {
            Ok(found) => all.extend(found.into_iter().filter(|kind| is_wanted(&kind.kind))),
            Err(error) => items.push(Item::Missing(format!("objects of {group}"), error.to_string())),
        }
    }
    let folder = namespace.map_or_else(|| "cluster".to_owned(), |namespace| format!("namespaces/{namespace}"));
    for kind in all {
        items.extend(list(cluster, &format!("{folder}/{}.yaml", kind.plural), &kind.path(namespace)).await);
    }
    items
}
