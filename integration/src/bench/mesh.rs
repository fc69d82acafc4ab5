//! The Mesh pair: controller, outbound and inbound `mesh-proxy` as a user would run them, with a route in force and
//! metrics on.

use anyhow::{Result, ensure};

use super::testbed::{Pair, Ports, Servers};
use crate::harness::{Controller, Meshed, PortSpec, Proxy, ProxyConfig, Sandbox, http_get};

/// Ports of the Service `web.bench`.
const HTTP: u16 = 80;
const GRPC: u16 = 50051;
const SINK: u16 = 9000;
const ECHO: u16 = 9001;
/// Routes of the Service `rules.bench`, and rules of each.
const ROUTES: usize = 10;
const RULES: usize = 10;

/// Authorization policies, and rules of each.
const POLICIES: usize = 100;
const POLICY_RULES: usize = 10;

/// Starts the controller with the manifests that tell it where `between` listens. `governed`: the port of the server that
/// policies are about.
pub(super) async fn controller(sandbox: &Sandbox, between: &Ports, governed: Option<u16>) -> Result<Controller> {
    let manifests = sandbox.manifests()?;
    let port = |name, port, target, protocol| PortSpec { name, port, target, app_protocol: Some(protocol) };
    let ports = [
        port("http", HTTP, between.http, "http"),
        port("grpc", GRPC, between.grpc, "kubernetes.io/h2c"),
        port("sink", SINK, between.sink, "tcp"),
        port("echo", ECHO, between.echo, "tcp"),
    ];
    manifests.pod("bench", "web-0", "web", "web", Meshed::Yes)?;
    manifests.pod("bench", "client-0", "client", "client", Meshed::Yes)?;
    manifests.service("bench", "web", &ports)?;
    manifests.endpoint("bench", "web", "web-0", &ports)?;
    manifests.http_route("bench", "all", "web", HTTP, "web")?;
    manifests.service("bench", "rules", &ports[..1])?;
    manifests.endpoint("bench", "rules", "web-0", &ports[..1])?;
    manifests.write("rules", &rules())?;
    if let Some(port) = governed {
        manifests.write("policies", &policies(port))?;
    }
    Controller::start(sandbox).await
}

/// A hundred rules in ten routes of the Service `rules`. The one that matches is tried last: shorter prefixes come later.
fn rules() -> String {
    let mut routes = String::new();
    for route in 0..ROUTES {
        routes.push_str(&format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: rules-{route}, namespace: bench}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: rules, port: {HTTP}}}]\n  rules:\n"
        ));
        for rule in 0..RULES {
            let is_last = route + 1 == ROUTES && rule + 1 == RULES;
            let path = if is_last { "/1k".to_owned() } else { format!("/another-{route}-{rule}") };
            routes.push_str(&format!(
                "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    backendRefs: [{{name: rules, port: {HTTP}}}]\n"
            ));
        }
    }
    routes
}

/// Policies with rules of an identity, a port, a method and a prefix each. The last one lets the client in.
fn policies(port: u16) -> String {
    let mut policies = String::new();
    for policy in 0..POLICIES {
        policies.push_str(&format!(
            "---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p-{policy:03}, namespace: bench}}\nspec:\n  \
             targetRefs: [{{kind: Pod, selector: {{matchLabels: {{app: web}}}}}}]\n  action: ALLOW\n  \
             enforcementLevel: Application\n  rules:\n"
        ));
        for rule in 0..POLICY_RULES {
            let is_last = policy + 1 == POLICIES && rule + 1 == POLICY_RULES;
            let path = if is_last { "/1k".to_owned() } else { format!("/another-{policy}-{rule}") };
            policies.push_str(&format!(
                "  - sources: [{{type: ServiceAccount, serviceAccount: {{name: client}}}}]\n    \
                 networkAttributes: {{ports: [{port}]}}\n    \
                 to: [{{method: GET, path: {{type: PathPrefix, value: {path}}}}}]\n"
            ));
        }
    }
    policies
}

/// Starts both proxies.
pub(super) async fn start(
    sandbox: &Sandbox,
    controller: &Controller,
    between: &Ports,
    servers: &Servers,
) -> Result<Pair> {
    let outer = Ports::free();
    let workers = vec![("MESH_WORKERS".to_owned(), "1".to_owned())];
    let http = servers.http.address.port();
    let inbound = ProxyConfig {
        workload: "bench/web-0".to_owned(),
        inbound: vec![
            (between.http, http),
            (between.grpc, http),
            (between.sink, servers.sink.address.port()),
            (between.echo, servers.echo.address.port()),
        ],
        env: workers.clone(),
        ..ProxyConfig::default()
    };
    let to = |listen, port: u16| (listen, format!("web.bench:{port}"));
    let outbound = ProxyConfig {
        workload: "bench/client-0".to_owned(),
        outbound: vec![
            to(outer.http, HTTP),
            to(outer.grpc, GRPC),
            to(outer.sink, SINK),
            to(outer.echo, ECHO),
            (outer.rules, format!("rules.bench:{HTTP}")),
        ],
        env: workers,
        ..ProxyConfig::default()
    };
    let inbound = Proxy::start(sandbox, controller, inbound).await?;
    let outbound = Proxy::start(sandbox, controller, outbound).await?.process;
    Ok(Pair { outbound, inbound: inbound.process, inbound_admin: inbound.metrics, ports: outer })
}

/// Fails unless every handshake that the inbound side finished was what the comparison claims. It never resumes: each
/// connection counts here.
pub(super) async fn check_handshakes(pair: &Pair) -> Result<()> {
    let metrics = http_get(pair.inbound_admin, "/metrics").await?.body;
    let finished = metrics.lines().filter(|line| line.starts_with("mesh_tls_connections_total{"));
    let inbound: Vec<&str> = finished.filter(|line| line.contains("direction=\"inbound\"")).collect();
    ensure!(!inbound.is_empty(), "the inbound proxy has finished no mutual TLS handshake");
    let as_claimed = inbound.iter().all(|line| line.contains("X25519MLKEM768"));
    ensure!(as_claimed, "handshakes of Mesh with another group than X25519MLKEM768: {inbound:?}");
    Ok(())
}
