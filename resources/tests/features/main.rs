//! What filters, retries, sessions and routes for connections become: one table a feature.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod connections;
mod filters;
mod rules;
mod sessions;

use std::sync::Arc;

use mesh_policy::{BackendTarget, Route, Rule, ServiceRef, Target};
use mesh_resources::{Options, Problem, Reason, Snapshot, parse_manifests};

const WORLD: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: bank}
spec: {ports: [{port: 80}]}
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: RetryPolicy
metadata: {name: p, namespace: shop}
spec: {attempts: 4, codes: [503], grpcCodes: [Unavailable], timeout: 9s, perTryTimeout: 3s}
";

fn compiled(kind: &str, spec: &str) -> (Snapshot, Vec<Arc<Route>>, Vec<Problem>) {
    let text = format!(
        "{WORLD}---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], {spec}}}\n"
    );
    let (snapshot, problems) = Snapshot::from_objects(&parse_manifests(&text, "f").unwrap(), Options::default());
    let service = ServiceRef::new("shop", "web", 80);
    let routes = snapshot.compile_outbound(&Target::Service(service), "shop").0.routes.routes().to_vec();
    (snapshot, routes, problems)
}

/// The one rule of a route, and what is wrong with it.
fn rule(kind: &str, rule: &str) -> (Rule, Vec<(Reason, String)>) {
    let (_, routes, problems) = compiled(kind, &format!("rules: [{{{rule}}}]"));
    (routes[0].rules[0].clone(), problems.into_iter().map(|p| (p.reason, p.field)).collect())
}

const TO_WEB: &str = "backendRefs: [{name: web, port: 80}]";

/// Whether all of a rule's requests are answered 500.
fn is_500(rule: &Rule) -> bool {
    let bad = |b: &mesh_policy::Backend| matches!(b.target, BackendTarget::Invalid { .. });
    rule.filters.is_empty() && rule.backends.iter().all(bad)
}

fn is_500_free(backends: &[mesh_policy::Backend]) -> bool {
    backends.iter().all(|backend| matches!(backend.target, BackendTarget::Service(_)))
}
