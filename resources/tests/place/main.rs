//! What a name or an address stands for, and which endpoints a caller should use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
mod endpoints;
mod names;
mod owners;

use mesh_policy::{ServiceRef, Target};
use mesh_resources::{Locality, Options, Snapshot, parse_manifests};

fn snapshot(text: &str) -> Snapshot {
    let objects = parse_manifests(text, "world.yaml").unwrap();
    let (snapshot, problems) = Snapshot::from_objects(&objects, Options::default());
    assert!(problems.is_empty(), "{problems:?}");
    snapshot
}

/// A world with claims that are wrong, and what is told of them.
fn doubtful(text: &str) -> (Snapshot, Vec<String>) {
    let objects = parse_manifests(text, "world.yaml").unwrap();
    let (snapshot, problems) = Snapshot::from_objects(&objects, Options::default());
    (snapshot, problems.into_iter().map(|problem| format!("{}: {}", problem.object, problem.what)).collect())
}

/// A Service's line: `name`, the fields of its spec.
fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n")
}

/// A slice of the Service `web`, port 8080 behind the port `http`.
fn slice(name: &str, family: &str, endpoints: &[&str]) -> String {
    let endpoints: String = endpoints.iter().map(|e| format!("- {{{e}}}\n")).collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
         metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         ports: [{{name: http, port: 8080}}]\nendpoints:\n{endpoints}"
    )
}

fn pod(name: &str, spec: &str, ips: &[&str]) -> String {
    let ips: Vec<_> = ips.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
    let ips = ips.join(", ");
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{serviceAccountName: web, containers: [{{name: app}}, {{name: mesh-proxy}}], {spec}}}\n\
         status: {{phase: Running, podIPs: [{ips}]}}\n"
    )
}

const WEB: &str = "clusterIP: 10.96.0.1, ports: [{name: http, port: 80, targetPort: web}]";

fn addresses(snapshot: &Snapshot, caller: &Locality) -> Vec<String> {
    let web = ServiceRef::new("shop", "web", 80);
    snapshot.endpoints_for(&web, caller).iter().map(|e| e.address.ip().to_string()).collect()
}

fn at(node: &str, zone: &str) -> Locality {
    let some = |text: &str| Some(text).filter(|t| !t.is_empty()).map(Into::into);
    Locality { node: some(node), zone: some(zone) }
}

/// `service shop/web:80`, `endpoint 10.0.0.1:80 shop/web-0 web`, or `-`.
fn resolved(snapshot: &Snapshot, target: &str) -> String {
    match snapshot.resolve(target, "shop") {
        None => "-".to_owned(),
        Some(Target::Outside(_)) => "outside".to_owned(),
        Some(Target::Unknown(_)) => "unknown".to_owned(),
        Some(Target::Service(service)) => format!("service {service}"),
        Some(Target::Endpoint(e)) => {
            let identity = e.identity.map_or("plain".to_owned(), |id| id.service_account().to_owned());
            format!("endpoint {} {} {identity}", e.address, e.workload)
        }
    }
}
