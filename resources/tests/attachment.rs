//! What is kept up with each change is what a look at everything finds: the routes in force, their compiled forms, what is to
//! be said of them, and whom a change concerns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use mesh_policy::{OutboundPolicy, RouteKind, ServiceRef, Target};
use mesh_resources::{Found, Key, Object, Options, Snapshot, StatusId, kinds::KINDS};
use proptest::prelude::*;
use serde_json::{Value, json};

const NAMESPACES: [&str; 2] = ["shop", "bank"];
const ROUTES: [&str; 4] = ["GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute"];

fn service() -> impl Strategy<Value = Value> {
    let port = (80..83u16, prop::sample::select(vec!["", "tcp", "grpc"]));
    (0..2usize, 0..2usize, prop::collection::vec(port, 0..3), 0..12u8).prop_map(|(namespace, name, ports, form)| {
        let mut seen = std::collections::BTreeSet::new();
        let ports: Vec<_> = ports
            .into_iter()
            .filter(|(port, _)| seen.insert(*port))
            .map(|(port, says)| json!({"name": format!("p{port}"), "port": port, "appProtocol": says}))
            .collect();
        let mut spec = json!({"ports": ports});
        match form {
            0 => spec["clusterIP"] = json!("None"),
            1 => spec = json!({"type": "ExternalName", "externalName": "web0.shop.svc.cluster.local"}),
            _ => {}
        }
        json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": format!("web{name}"), "namespace": NAMESPACES[namespace]}})
    })
}

fn parent() -> impl Strategy<Value = Value> {
    let (port, section) = (prop::option::of(80..84u16), prop::option::of(80..84u16));
    (0..2usize, 0..2usize, port, section).prop_map(|(namespace, name, port, section)| {
        let mut parent =
            json!({"group": "", "kind": "Service", "namespace": NAMESPACES[namespace], "name": format!("web{name}")});
        if let Some(port) = port {
            parent["port"] = json!(port);
        }
        if let Some(section) = section {
            parent["sectionName"] = json!(format!("p{section}"));
        }
        parent
    })
}

fn route() -> impl Strategy<Value = Value> {
    let refs = (prop::collection::vec(parent(), 1..4), 0..2usize, 0..2usize, any::<bool>());
    (0..4usize, 0..2usize, 0..3u8, 0..3u8, refs).prop_map(
        |(kind, namespace, name, created, (parents, to, backend, retried))| {
            let backend = json!({"namespace": NAMESPACES[to], "name": format!("web{backend}"), "port": 80});
            let mut rule = json!({"backendRefs": [backend]});
            if retried && kind < 2 {
                let named = json!({"group": "policy.meshctl.dev", "kind": "RetryPolicy", "name": "again"});
                rule["filters"] = json!([{"type": "ExtensionRef", "extensionRef": named}]);
            }
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": ROUTES[kind],
            "metadata": {"name": format!("r{name}"), "namespace": NAMESPACES[namespace],
                "creationTimestamp": format!("2026-01-01T00:00:0{created}Z")},
            "spec": {"parentRefs": parents, "rules": [rule]}})
        },
    )
}

fn other() -> impl Strategy<Value = Value> {
    let grant = |from: &str, to: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
            "metadata": {"name": "g", "namespace": to},
            "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from}],
                "to": [{"group": "", "kind": "Service"}]}})
    };
    let policy = |namespace: &str, attempts: u32| {
        json!({"apiVersion": "policy.meshctl.dev/v1alpha1", "kind": "RetryPolicy",
            "metadata": {"name": "again", "namespace": namespace}, "spec": {"attempts": attempts}})
    };
    let all =
        vec![grant("shop", "bank"), grant("bank", "shop"), policy("shop", 2), policy("bank", 2), policy("shop", 3)];
    prop::sample::select(all)
}

#[derive(Clone, Debug)]
enum Step {
    Put(Value),
    /// The n-th of those that are there.
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => service().prop_map(Step::Put),
        6 => route().prop_map(Step::Put),
        1 => other().prop_map(Step::Put),
        3 => (0..20usize).prop_map(Step::Remove),
    ]
}

type There = BTreeMap<(String, String, String), Value>;

fn name_of(value: &Value) -> (String, String, String) {
    let text = |pointer: &str| value.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    (text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

fn fresh(there: &There) -> Snapshot {
    let objects: Vec<_> = there.values().map(|value| Object::from_value(value.clone(), None).unwrap()).collect();
    Snapshot::from_objects(&objects, Options::default()).0
}

fn targets() -> impl Iterator<Item = (ServiceRef, &'static str)> {
    let services = NAMESPACES.into_iter().flat_map(|namespace| ["web0", "web1"].map(|name| (namespace, name)));
    let ports = services.flat_map(|(namespace, name)| (80..84).map(move |port| (namespace, name, port)));
    ports.flat_map(|(namespace, name, port)| NAMESPACES.map(|client| (ServiceRef::new(namespace, name, port), client)))
}

fn policies(snapshot: &Snapshot) -> Vec<OutboundPolicy> {
    targets().map(|(service, client)| snapshot.outbound_policy(&Target::Service(service), client)).collect()
}

/// GEP-1426, word by word over all routes: the names of those in force.
fn oracle(snapshot: &Snapshot, service: &ServiceRef, client: &str) -> Vec<(RouteKind, Key)> {
    let key = Key::of_service(service);
    let Some(found) = snapshot.services.get(&key) else { return Vec::new() };
    let Some(port) = found.port(service.port).filter(|_| !found.is_headless && found.external_name.is_none()) else {
        return Vec::new();
    };
    for namespace in [client, &service.namespace] {
        for kind in RouteKind::ALL {
            let covers = |parent: &mesh_resources::route::Parent| {
                parent.namespace == service.namespace
                    && parent.name == service.name
                    && parent.port.is_none_or(|wanted| wanted == port.port)
                    && parent.section.as_ref().is_none_or(|wanted| *wanted == port.name)
            };
            let all = snapshot.routes(kind).iter().filter(|(key, _)| &*key.namespace == namespace);
            let mut attached: Vec<_> = all.filter(|(_, route)| route.parents.iter().any(covers)).collect();
            attached.sort_by_key(|(key, route)| (route.meta.created, key.name.clone()));
            if !attached.is_empty() {
                return attached.into_iter().map(|(key, _)| (kind, key.clone())).collect();
            }
        }
    }
    Vec::new()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn kept_up_is_as_looked_up(steps in prop::collection::vec(step(), 1..40)) {
        let (mut kept, mut there) = (Snapshot::new(Options::default()), There::new());
        let mut said = BTreeMap::new();
        for step in steps {
            let before = policies(&kept);
            match step {
                Step::Put(value) => {
                    kept.apply(&Object::from_value(value.clone(), None).unwrap());
                    there.insert(name_of(&value), value);
                }
                Step::Remove(n) => {
                    let Some(name) = there.keys().nth(n).cloned() else { continue };
                    there.remove(&name);
                    kept.delete(&name.0, &name.1, &name.2);
                }
            }
            let (touched, whole) = (kept.take_touched(), fresh(&there));
            // The routes in force, as they are compiled, are those of a look at everything, and those of the oracle.
            let now = policies(&kept);
            prop_assert_eq!(&now, &policies(&whole));
            for (((service, client), before), now) in targets().zip(&before).zip(&now) {
                let names: Vec<_> = now
                    .routes
                    .routes()
                    .iter()
                    .map(|route| (route.meta.kind, Key { namespace: route.meta.namespace.clone(), name: route.meta.name.clone() }))
                    .collect();
                prop_assert_eq!(names, oracle(&whole, &service, client));
                // Whoever is concerned is told.
                let key = Key::of_service(&service);
                let is_told = |namespace: &str| touched.policies.contains(&(key.clone(), namespace.into()));
                prop_assert!(before == now || is_told(client) || is_told(&service.namespace));
            }
            // What is judged again is all of which something else is to be said.
            let mut found = Found::default();
            for id in &touched.statuses {
                match kept.judge(id, &mut found) {
                    Some(judged) => drop(said.insert(id.clone(), judged)),
                    None => drop(said.remove(id)),
                }
            }
            let mut found = Found::default();
            let kinds = KINDS.iter().filter(|kind| kind.status.is_some()).map(|kind| kind.kind);
            let ids = kinds.flat_map(|kind| whole.keys_of(kind).into_iter().map(move |key| StatusId::new(kind, key)));
            let all: BTreeMap<_, _> = ids.filter_map(|id| Some((id.clone(), whole.judge(&id, &mut found)?))).collect();
            prop_assert_eq!(&said, &all);
        }
    }
}
