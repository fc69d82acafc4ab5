//! Whoever's answer a change of pods, slices or Nodes makes another is told of it, and a Node's zone wakes nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_policy::{Endpoint, ServiceRef, Target, WorkloadPolicy};
use mesh_resources::{Found, Judged, Key, Locality, Object, Options, Snapshot, StatusId, Touched};
use proptest::prelude::*;
use serde_json::{Value, json};

const PODS: [&str; 3] = ["p0", "p1", "p2"];
const SERVICES: [&str; 2] = ["near", "any"];
const APPS: [&str; 2] = ["web", "api"];
const POLICY_API: &str = "policy.meshctl.dev/v1alpha1";

fn ip(n: usize) -> String {
    format!("10.0.0.{n}")
}

fn node_name() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec!["n0", "n1"]))
}

fn zone() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec!["a", "b"]))
}

fn node() -> impl Strategy<Value = Value> {
    (0..2usize, zone()).prop_map(|(n, zone)| {
        let labels = zone.map_or(json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{n}"), "labels": labels}})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let named = prop::option::of(8080u16..8082);
    let of_app = (prop::sample::select(APPS.to_vec()), named);
    (0..PODS.len(), 0..3usize, node_name(), any::<bool>(), of_app).prop_map(|(n, address, node, is_meshed, app)| {
        let mut containers = if is_meshed { json!([{"name": "mesh-proxy"}]) } else { json!([]) };
        let ports: Vec<_> = app.1.map(|port| json!({"name": "web", "containerPort": port})).into_iter().collect();
        containers.as_array_mut().unwrap().push(json!({"name": "app", "ports": ports}));
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": PODS[n], "namespace": "shop", "labels": {"app": app.0}},
            "spec": {"nodeName": node, "containers": containers, "serviceAccountName": app.0},
            "status": {"podIP": ip(address)}})
    })
}

fn service() -> impl Strategy<Value = Value> {
    let target = prop_oneof![(8080u16..8082).prop_map(|port| json!(port)), Just(json!("web"))];
    let app = prop::option::of(prop::sample::select(APPS.to_vec()));
    (0..SERVICES.len(), target, app).prop_map(|(n, target, app)| {
        let distribution = (n == 0).then_some("PreferClose");
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICES[n], "namespace": "shop"},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": target}], "trafficDistribution": distribution,
                "selector": app.map(|app| json!({"app": app}))}})
    })
}

fn namespace() -> impl Strategy<Value = Value> {
    prop::option::of(prop::sample::select(vec!["a", "b"])).prop_map(|team| {
        let labels = team.map_or(json!({}), |team| json!({"team": team}));
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})
    })
}

fn says() -> impl Strategy<Value = (&'static str, Value)> {
    let account = prop::sample::select(vec!["web", "other"]).prop_map(
        |name| json!({"sources": [{"type": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "shop"}}]}),
    );
    let ports = prop::sample::select(vec![80u16, 8080, 8081])
        .prop_map(|port| json!({"sources": [], "networkAttributes": {"ports": [port]}}));
    let rule = prop_oneof![Just(json!({})), account, ports];
    (prop::sample::select(vec!["ALLOW", "DENY", "AUDIT"]), rule)
}

fn policy() -> impl Strategy<Value = Value> {
    let app = prop::option::of(prop::sample::select(APPS.to_vec()));
    let selected = app.prop_map(|app| {
        let selector = app.map_or(json!({}), |app| json!({"matchLabels": {"app": app}}));
        json!([{"kind": "Pod", "selector": selector}])
    });
    let named = prop::sample::subsequence(SERVICES.to_vec(), 1..=2);
    let named =
        named.prop_map(|names| names.into_iter().map(|name| json!({"kind": "Service", "name": name})).collect());
    (0..2usize, prop_oneof![selected, named], says()).prop_map(|(n, targets, (action, rule))| {
        json!({"apiVersion": POLICY_API, "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("p{n}"), "namespace": "shop"},
            "spec": {"targetRefs": targets, "action": action, "enforcementLevel": "Network", "rules": [rule]}})
    })
}

fn cluster_policy() -> impl Strategy<Value = Value> {
    let name = "kubernetes.io/metadata.name";
    let namespaces = prop_oneof![
        Just(json!({})),
        Just(json!({"matchLabels": {"team": "a"}})),
        Just(json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]})),
        Just(json!({"matchLabels": {name: "shop"}})),
    ];
    let app = prop::option::of(prop::sample::select(APPS.to_vec()));
    let tier = prop::sample::select(vec!["Admin", "Baseline"]);
    (namespaces, app, tier, says()).prop_map(|(namespaces, app, tier, (action, rule))| {
        let pods = app.map(|app| json!({"matchLabels": {"app": app}}));
        json!({"apiVersion": POLICY_API, "kind": "ClusterAuthorizationPolicy", "metadata": {"name": "c"},
            "spec": {"tier": tier, "namespaceSelector": namespaces, "podSelector": pods,
                "action": action, "enforcementLevel": "Network", "rules": [rule]}})
    })
}

fn slice() -> impl Strategy<Value = Value> {
    let endpoint =
        (0..3usize, prop::option::of(0..PODS.len()), node_name(), zone()).prop_map(|(at, pod, node, zone)| {
            let pod = pod.map(|pod| json!({"kind": "Pod", "name": PODS[pod]}));
            json!({"addresses": [ip(at)], "targetRef": pod, "nodeName": node, "zone": zone})
        });
    (0..2usize, 0..SERVICES.len(), prop::collection::vec(endpoint, 0..3)).prop_map(|(n, service, endpoints)| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("s{n}"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": SERVICES[service]}},
            "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
    })
}

fn objects() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => node(),
        3 => pod(),
        2 => slice(),
        2 => service(),
        1 => namespace(),
        3 => policy(),
        2 => cluster_policy(),
    ]
}

/// Every answer that may be asked for: endpoints of each Service for each pod, what is at each address, each pod's policy.
#[derive(PartialEq)]
struct Answers {
    endpoints: Vec<(Key, Option<Arc<str>>, Vec<Endpoint>)>,
    addresses: Vec<(IpAddr, Target)>,
    inbound: Vec<(Key, Option<WorkloadPolicy>)>,
    /// What is said of each policy.
    said: Vec<(StatusId, Option<Judged>)>,
}

fn answers(snapshot: &Snapshot) -> Answers {
    let (mut endpoints, mut inbound) = (Vec::new(), Vec::new());
    for pod in PODS {
        let (workload, key) = (format!("shop/{pod}"), Key::new("shop", pod));
        for name in SERVICES {
            let service = ServiceRef::new("shop", name, 80);
            let depends = snapshot.depends_on_locality(&service);
            let place = if depends { snapshot.locality(&workload) } else { Locality::default() };
            let node = snapshot.pod(&workload).and_then(|pod| pod.node.clone());
            endpoints.push((Key::new("shop", name), node, snapshot.endpoints_for(&service, &place)));
        }
        inbound.push((key, snapshot.compile_workload(&workload, &[(9000, 8080)])));
    }
    let address = |n| {
        let address: SocketAddr = format!("{}:8080", ip(n)).parse().unwrap();
        (address.ip(), snapshot.resolve(&address.to_string(), "shop").unwrap())
    };
    let policies = [("AuthorizationPolicy", "shop", "p0"), ("AuthorizationPolicy", "shop", "p1")];
    let policies = policies.into_iter().chain([("ClusterAuthorizationPolicy", "default", "c")]);
    let said = policies.map(|(kind, namespace, name)| {
        let id = StatusId::new(kind, Key::new(namespace, name));
        let judged = snapshot.judge(&id, &mut Found::default());
        (id, judged)
    });
    Answers { endpoints, addresses: (0..3).map(address).collect(), inbound, said: said.collect() }
}

/// What is asked that is answered otherwise, and whose askers are not told.
fn untold(touched: &Touched, before: &Answers, now: &Answers) -> Vec<String> {
    let mut all = Vec::new();
    // A pod that is on another Node is another pod.
    let same = before.endpoints.iter().zip(&now.endpoints).filter(|((_, a, _), (_, b, _))| a == b);
    for ((service, node, a), (.., b)) in same {
        let is_told = touched.services.contains(service) || node.as_ref().is_some_and(|n| touched.nodes.contains(n));
        all.extend((a != b && !is_told).then(|| format!("endpoints of {service:?} for pods on {node:?}")));
    }
    for ((ip, a), (_, b)) in before.addresses.iter().zip(&now.addresses) {
        let is_told = touched.addresses.contains(ip) || touched.networks.iter().any(|network| network.contains(ip));
        all.extend((a != b && !is_told).then(|| format!("what is at {ip}")));
    }
    for ((pod, a), (_, b)) in before.inbound.iter().zip(&now.inbound) {
        all.extend((a != b && !touched.pods.contains(pod)).then(|| format!("the policy of {pod:?}")));
    }
    for ((id, a), (_, b)) in before.said.iter().zip(&now.said) {
        all.extend((a != b && !touched.statuses.contains(id)).then(|| format!("the status of {id:?}: {a:?} {b:?}")));
    }
    all
}

fn empty() -> Snapshot {
    let mut snapshot = Snapshot::new(Options::default());
    for (name, distribution) in SERVICES.into_iter().zip([Some("PreferClose"), None]) {
        let spec =
            json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}], "trafficDistribution": distribution});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        assert!(snapshot.apply(&Object::from_value(service, None).unwrap()).is_empty());
    }
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whose_answer_is_another_is_told(steps in prop::collection::vec((objects(), any::<bool>()), 1..30)) {
        let mut snapshot = empty();
        snapshot.take_touched();
        for (value, is_there) in steps {
            let before = answers(&snapshot);
            let object = Object::from_value(value, None).unwrap();
            let zone = |snapshot: &Snapshot| snapshot.nodes.get(&object.name.as_str().into())?.zone.clone();
            let zone_before = zone(&snapshot);
            if is_there {
                snapshot.apply(&object);
            } else {
                snapshot.delete(&object.kind, &object.namespace, &object.name);
            }
            let touched = snapshot.take_touched();
            prop_assert_eq!(untold(&touched, &before, &answers(&snapshot)), Vec::<String>::new());
            if object.kind.ends_with("Policy") {
                let changed = before.inbound.iter().zip(&answers(&snapshot).inbound).filter(|(a, b)| a != b).count();
                prop_assert!(changed <= touched.pods.len() && touched.addresses.is_empty());
            }
            if object.kind == "Node" {
                let is_moved = zone(&snapshot) != zone_before;
                let expected = is_moved.then(|| Arc::<str>::from(object.name.as_str())).into_iter().collect();
                prop_assert_eq!((touched.nodes, touched.pods), (expected, Default::default()), "nobody but those there");
            }
        }
    }
}
