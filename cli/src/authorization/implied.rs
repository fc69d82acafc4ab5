//! The Pods and EndpointSlices that manifests imply: those that controllers would make of templates and of Services.
//!
//! A folder of manifests has Deployments and Services; policies are about pods. Each template becomes one pod, with a sidecar
//! unless its label says otherwise, and each Service with a selector gets the pods that it selects.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use mesh_policy::well_known::INJECT_LABEL;
use mesh_resources::Object;
use serde_json::{Value, json};

use super::{named::template_of, selector::selects};
use crate::kube::value;

/// What is implied of the objects, and `namespace/name` of each pod among it.
pub(super) fn implied(objects: &[Object]) -> (Vec<Object>, BTreeSet<String>) {
    let mut added: Vec<Object> = Vec::new();
    for workload in objects.iter().filter(|object| template_of(&object.kind).is_some()) {
        let taken = |name: &str| {
            let mut pods = objects.iter().chain(&added).filter(|object| object.is("Pod"));
            pods.any(|pod| pod.namespace == workload.namespace && pod.name == name)
        };
        let name = Some(workload.name.clone()).filter(|name| !taken(name));
        let name = name.unwrap_or_else(|| format!("{}-{}", workload.name, workload.kind.to_ascii_lowercase()));
        if !is_owned(workload, objects) && !has_pods(workload, objects) {
            added.extend(pod_of(workload, &name));
        }
    }
    let names = added.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
    let pods: Vec<&Object> = objects.iter().chain(&added).filter(|object| object.is("Pod")).collect();
    let has_slice = |service: &Object| {
        let slices = objects.iter().filter(|object| object.is("EndpointSlice"));
        let mut slices = slices.filter(|slice| slice.namespace == service.namespace);
        slices.any(|slice| value::label(&slice.value, "kubernetes.io/service-name") == service.name)
    };
    let services = objects.iter().filter(|object| object.is("Service") && !has_slice(object));
    let slices: Vec<Object> = services.flat_map(|service| slices_of(service, &pods)).collect();
    added.extend(slices);
    (added, names)
}

/// Whether the object is made by another one of the manifests.
fn is_owned(object: &Object, objects: &[Object]) -> bool {
    let owners = value::items(&object.value, "/metadata/ownerReferences");
    owners.iter().any(|owner| {
        let is_it = |other: &&Object| {
            other.kind == value::text(owner, "/kind")
                && other.name == value::text(owner, "/name")
                && other.namespace == object.namespace
        };
        objects.iter().any(|other| is_it(&other))
    })
}

/// Whether pods of a workload are there themselves.
fn has_pods(workload: &Object, objects: &[Object]) -> bool {
    let selector = workload.value.pointer("/spec/selector").unwrap_or(&Value::Null);
    let mut pods = objects.iter().filter(|object| object.is("Pod") && object.namespace == workload.namespace);
    pods.any(|pod| selects(selector, labels(pod)))
}

pub(super) fn labels(object: &Object) -> &Value {
    object.value.pointer("/metadata/labels").unwrap_or(&Value::Null)
}

fn pod_of(workload: &Object, name: &str) -> Option<Object> {
    let mut pod = workload.value.pointer(template_of(&workload.kind)?)?.clone();
    let root = pod.as_object_mut()?;
    root.insert("apiVersion".to_owned(), "v1".into());
    root.insert("kind".to_owned(), "Pod".into());
    let metadata = root.entry("metadata").or_insert_with(|| json!({})).as_object_mut()?;
    metadata.insert("name".to_owned(), name.into());
    metadata.insert("namespace".to_owned(), workload.namespace.as_str().into());
    let labels = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()?;
    labels.entry(INJECT_LABEL).or_insert_with(|| "enabled".into());
    Object::from_value(pod, workload.source.clone()).ok()
}

/// A slice for each pod that a Service selects: names of ports may be other numbers in each. A pod without an address, as
/// manifests are written, gets one of the loopback, which says nothing of who answers; `targetRef` does.
fn slices_of(service: &Object, pods: &[&Object]) -> Vec<Object> {
    let Some(selector) = service.value.pointer("/spec/selector").filter(|labels| labels.is_object()) else {
        return Vec::new();
    };
    let selector = json!({ "matchLabels": selector });
    let is_selected = |pod: &&&Object| pod.namespace == service.namespace && selects(&selector, labels(pod));
    let slice = |(place, pod): (u32, &&Object)| {
        let ports: Vec<Value> = value::items(&service.value, "/spec/ports")
            .iter()
            .filter_map(|port| {
                let target = port.get("targetPort").or_else(|| port.get("port"))?;
                let number = target.as_u64().or_else(|| container_port(pod, target.as_str()?))?;
                Some(json!({ "name": value::text(port, "/name"), "port": number }))
            })
            .collect();
        let [_, a, b, c] = (place + 2).to_be_bytes();
        let address = value::text(&pod.value, "/status/podIP").parse::<IpAddr>();
        let address = address.unwrap_or(Ipv4Addr::new(127, a, b, c).into());
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{place}", service.name),
                "namespace": service.namespace,
                "labels": { "kubernetes.io/service-name": service.name },
            },
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": ports,
            "endpoints": [{
                "addresses": [address],
                "targetRef": { "kind": "Pod", "name": pod.name, "namespace": pod.namespace },
            }],
        });
        Object::from_value(object, service.source.clone()).ok()
    };
    (0..).zip(pods.iter().filter(is_selected)).filter_map(slice).collect()
}

/// The number of a container port by its name.
fn container_port(pod: &Object, name: &str) -> Option<u64> {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let mut ports =
        lists.iter().flat_map(|list| value::items(&pod.value, list)).flat_map(|c| value::items(c, "/ports"));
    ports.find(|port| value::text(port, "/name") == name)?.get("containerPort")?.as_u64()
}
