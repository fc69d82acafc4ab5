//! Manifests in, policies and problems out: the rules of the Gateway API and of GEP-1426, one test each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod routes;
mod services;

use mesh_policy::{BackendTarget, OutboundPolicy, OutboundVerdict, RequestFacts, ServiceRef, Target, decide_outbound};
use mesh_resources::{Options, Problem, Reason, Snapshot, parse_manifests};

/// Services web (two ports), api and headless, with endpoints; pods of which web-0 and web-1 are meshed.
const BASE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: grpc, port: 81, targetPort: rpc, appProtocol: kubernetes.io/h2c}
---
apiVersion: v1
kind: Service
metadata:
  name: api
  namespace: shop
  annotations: {config.meshctl.dev/opaque-ports: "3306,5000-5010"}
spec: {clusterIP: 10.0.0.2, ports: [{name: web, port: 8080}, {name: sql, port: 3306}, {name: raw, port: 9000, appProtocol: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: bank}
spec: {type: ExternalName, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: bank}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {meshctl.dev/inject: enabled}}
spec: {serviceAccountName: web, containers: [{name: app, ports: [{name: rpc, containerPort: 9090}]}]}
status: {podIP: 10.1.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {meshctl.dev/inject: enabled}, annotations: {config.meshctl.dev/opaque-ports: "7777"}}
spec: {serviceAccountName: web}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop}
spec: {}
status: {podIP: 10.1.0.3}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.2], conditions: {ready: true}, targetRef: {kind: Pod, name: web-1}, zone: z1}
- {addresses: [10.1.0.1], targetRef: {kind: Pod, name: web-0}}
- {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}, targetRef: {kind: Pod, name: plain}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-b, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, name: web-0}}]
"#;

fn snapshot(more: &str) -> (Snapshot, Vec<Problem>) {
    let objects = parse_manifests(&format!("{BASE}---\n{more}"), "test.yaml").unwrap();
    Snapshot::from_objects(&objects, Options { meshed_by_label: true, ..Options::default() })
}

/// An HTTPRoute of a namespace; `spec` is YAML in flow style without its braces.
fn route(kind: &str, full: &str, spec: &str) -> String {
    let (namespace, name) = full.split_once('/').unwrap();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

const WEB: &str = "parentRefs: [{group: '', kind: Service, name: web, namespace: shop}]";

fn web(port: u16) -> Target {
    Target::Service(ServiceRef::new("shop", "web", port))
}

/// `METHOD path` decided for a client in a namespace: the verdict in a word, or the backends.
fn decide(policy: &OutboundPolicy, method: &str, path: &str) -> String {
    let method = http::Method::from_bytes(method.as_bytes()).unwrap();
    let headers = http::HeaderMap::new();
    let facts = RequestFacts { method: &method, host: "web", path, query: None, headers: &headers };
    match decide_outbound(policy, &facts, &mut ()).verdict {
        OutboundVerdict::Default(_) => "default".to_owned(),
        OutboundVerdict::NotFound => "404".to_owned(),
        OutboundVerdict::NoBackends => "500".to_owned(),
        OutboundVerdict::Redirect(redirect) => redirect.status.to_string(),
        OutboundVerdict::Preflight(_) => "preflight".to_owned(),
        OutboundVerdict::Forward(rule) => {
            let backend = |b: &mesh_policy::Backend| match &b.target {
                BackendTarget::Service(service) => format!("{}x{service}", b.weight),
                BackendTarget::Invalid { .. } => format!("{}x500", b.weight),
            };
            rule.backends.iter().map(backend).collect::<Vec<_>>().join(" ")
        }
    }
}

fn seen(more: &str, method: &str, path: &str) -> (String, Vec<(Reason, String)>) {
    let (snapshot, problems) = snapshot(more);
    let (policy, compiled) = snapshot.compile_outbound(&web(80), "shop");
    assert!(compiled.iter().all(|p| problems.contains(p)), "what a client meets is known to everyone: {compiled:?}");
    (decide(&policy, method, path), problems.into_iter().map(|p| (p.reason, p.field)).collect())
}
