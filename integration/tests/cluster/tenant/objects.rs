//! The tenant's objects, and the victim's.

use serde_json::{Value, json};

const ROUTES: &str = "gateway.networking.k8s.io/v1";

/// Where objects of a kind are made.
pub fn path(resource: &str, namespace: &str) -> String {
    let group = match resource {
        "grpcroutes" | "httproutes" => format!("apis/{ROUTES}"),
        "endpointslices" => "apis/discovery.k8s.io/v1".to_owned(),
        _ => "api/v1".to_owned(),
    };
    format!("/{group}/namespaces/{namespace}/{resource}")
}

/// A ServiceAccount that may do everything in its namespace, and nothing elsewhere.
pub fn rights(namespace: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: mallory, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: mallory, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}}
subjects: [{{kind: ServiceAccount, name: mallory, namespace: {namespace}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: mallory, namespace: {namespace}}}
rules:
- {{apiGroups: [gateway.networking.k8s.io, policy.meshctl.dev], resources: ['*'], verbs: ['*']}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: ['*']}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: mallory-routes, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: mallory}}
subjects: [{{kind: ServiceAccount, name: mallory, namespace: {namespace}}}]
"
    )
}

/// A route that says in a response header which version of it is in force.
pub fn victims_route(namespace: &str, version: &str) -> String {
    format!(
        "---
apiVersion: {ROUTES}
kind: HTTPRoute
metadata: {{name: v, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]
  rules:
  - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-version, value: '{version}'}}]}}}}]
    backendRefs: [{{name: web, port: 80}}]
"
    )
}

fn object(resource: &'static str, kind: &str, version: &str, name: String, spec: Value) -> (&'static str, Value) {
    (resource, json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}))
}

fn http(name: String, parents: Value, rules: Value) -> (&'static str, Value) {
    object("httproutes", "HTTPRoute", ROUTES, name, json!({"parentRefs": parents, "rules": rules}))
}

fn grpc(name: String, parents: Value) -> (&'static str, Value) {
    let rules = json!([{"backendRefs": [{"name": "free", "port": 80}]}]);
    object("grpcroutes", "GRPCRoute", ROUTES, name, json!({"parentRefs": parents, "rules": rules}))
}

fn parent(service: &str, section: Option<String>) -> Value {
    let mut parent = json!({"group": "", "kind": "Service", "name": service});
    if let Some(section) = section {
        parent["sectionName"] = json!(section);
    }
    parent
}

fn ports(count: usize, first: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"name": format!("p{n}"), "port": first + n})).collect()
}

/// Routes with 128 matches of 32 patterns each, every pattern some hundred KiB when compiled.
pub fn large_patterns(count: usize) -> Vec<(&'static str, Value)> {
    let patterns = |letter: char, at: usize| {
        let one = |n: usize| json!({"type": "RegularExpression", "name": format!("{letter}{n}"), "value": format!("{at}{n}[a-z0-9]{{700}}")});
        (0..16).map(one).collect::<Vec<_>>()
    };
    let route = |name: usize| {
        let one = |rule: usize, at: usize| {
            json!({"path": {"type": "PathPrefix", "value": format!("/{rule}/{at}")},
                "headers": patterns('h', rule * 64 + at), "queryParams": patterns('q', rule * 64 + at)})
        };
        let rules: Vec<_> = (0..2)
            .map(|rule| {
                let matches: Vec<_> = (0..64).map(|at| one(rule, at)).collect();
                json!({"matches": matches, "backendRefs": [{"name": "free", "port": 80}]})
            })
            .collect();
        http(format!("large{name}"), json!([parent("free", None)]), json!(rules))
    };
    (0..count).map(route).collect()
}

/// A Service of 200 ports, GRPCRoutes at its last, HTTPRoutes with 32 parents at its others.
pub fn many_routes(grpc_routes: u32, http_routes: u32) -> Vec<(&'static str, Value)> {
    let mut ports = ports(200, 1_000);
    ports[0]["port"] = json!(80);
    let spec = json!({"selector": {"app": "free"}, "ports": ports});
    let mut all = vec![object("services", "Service", "v1", "many".to_owned(), spec)];
    let last = json!([parent("many", Some("p199".to_owned()))]);
    all.extend((0..grpc_routes).map(|n| grpc(format!("g{n}"), last.clone())));
    let parents: Vec<_> = (0..32).map(|port| parent("many", Some(format!("p{port}")))).collect();
    let rules = json!([{"backendRefs": [{"name": "free", "port": 80}]}]);
    all.extend((0..http_routes).map(|n| http(format!("h{n}"), json!(parents), rules.clone())));
    all
}

/// Services, slices of foreign addresses, pods that no node takes, routes: a fifth each, HTTPRoutes and GRPCRoutes apart.
pub fn of_all_kinds(count: usize) -> Vec<(&'static str, Value)> {
    let one = |n: usize| match n % 5 {
        0 => object(
            "services",
            "Service",
            "v1",
            format!("s{n}"),
            json!({"clusterIP": "None", "selector": {"app": "none"}, "ports": ports(3, 80)}),
        ),
        1 => slice(format!("e{n}"), &format!("s{}", n - 1), 10, n),
        2 => pod(format!("p{n}"), 0),
        3 => http(
            format!("a{n}"),
            json!([parent(&format!("s{}", n - 3), None)]),
            json!([{"backendRefs": [{"name": "free", "port": 80}]}]),
        ),
        _ => grpc(format!("b{n}"), json!([parent(&format!("s{}", n - 4), None)])),
    };
    (0..count).map(one).collect()
}

/// Some of each kind, each nearly as large as the API server takes it.
pub fn largest() -> Vec<(&'static str, Value)> {
    let long = |n: usize| "x".repeat(4_000 + n % 10);
    let header = |rule: usize, at: usize, n: usize| json!({"name": format!("h{n}"), "value": format!("{rule}-{at}-{}", long(n))});
    let route = |name: usize| {
        let one = |rule: usize, at: usize| json!({"headers": (0..2).map(|n| header(rule, at, n)).collect::<Vec<_>>()});
        let rules: Vec<_> = (0..16)
            .map(|rule| json!({"matches": (0..8).map(|at| one(rule, at)).collect::<Vec<_>>(), "backendRefs": [{"name": "free", "port": 80}]}))
            .collect();
        http(format!("long{name}"), json!([parent("many", None)]), json!(rules))
    };
    let mut all: Vec<_> = (0..20).map(route).collect();
    all.extend((0..20).map(|n| {
        object("services", "Service", "v1", format!("wide{n}"), json!({"clusterIP": "None", "ports": ports(10_000, 1)}))
    }));
    all.extend((0..20).map(|n| slice(format!("full{n}"), "free", 1_000, n)));
    all.extend((0..20).map(|n| pod(format!("heavy{n}"), 250_000)));
    all
}

fn slice(name: String, service: &str, endpoints: usize, seed: usize) -> (&'static str, Value) {
    let address = |n: usize| format!("192.0.{}.{}", (seed + n / 250) % 250, 1 + n % 250);
    let endpoint =
        |n: usize| json!({"addresses": [address(n)], "conditions": {"ready": true}, "hostname": format!("host-{n}")});
    let endpoints: Vec<_> = (0..endpoints).map(endpoint).collect();
    let labels = json!({"kubernetes.io/service-name": service});
    (
        "endpointslices",
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": labels}, "ports": [{"name": "p0", "port": 8080}], "endpoints": endpoints}),
    )
}

fn pod(name: String, annotation: usize) -> (&'static str, Value) {
    let spec =
        json!({"nodeSelector": {"no": "where"}, "containers": [{"name": "a", "image": "docker.io/mesh/none:1"}]});
    let mut pod = object("pods", "Pod", "v1", name, spec);
    pod.1["metadata"]["annotations"] = json!({"heavy": "x".repeat(annotation)});
    pod
}
