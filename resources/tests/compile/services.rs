//! What Services and pods become: the target that a name or an address means, its endpoints, the protocols of its
//! ports, and whether a port has routes.

use mesh_policy::{Endpoint, Protocol, Target};
use mesh_resources::{Options, Snapshot, parse_manifests};

use crate::{BASE, route, snapshot, web};

#[test]
fn names_and_addresses() {
    let (snapshot, problems) = snapshot("");
    assert_eq!(problems, []);
    let service = |target: &str, namespace: &str| match snapshot.resolve(target, namespace) {
        Some(Target::Service(service)) => service.to_string(),
        Some(Target::Endpoint(endpoint)) => {
            format!("{}={:?}", endpoint.workload, endpoint.identity.map(|i| i.to_string()))
        }
        Some(Target::Outside(_)) => "outside".to_owned(),
        Some(Target::Unknown(_)) => "unknown".to_owned(),
        None => "none".to_owned(),
    };
    for (target, namespace, expected) in [
        ("web:80", "shop", "shop/web:80"),
        ("web:80", "bank", "none"),
        ("web.shop:80", "bank", "shop/web:80"),
        ("web.shop.svc:81", "bank", "shop/web:81"),
        ("WEB.shop.svc.cluster.local.:80", "bank", "shop/web:80"),
        ("web.shop.svc.other.domain:80", "bank", "none"),
        ("web:82", "shop", "none"),
        ("web", "shop", "none"),
        ("web:0", "shop", "none"),
        ("10.0.0.1:80", "x", "shop/web:80"),
        ("10.0.0.1:82", "x", "unknown"),
        ("10.1.0.2:8080", "x", "shop/web-1=Some(\"spiffe://cluster.local/ns/shop/sa/web\")"),
        ("10.1.0.1:1234", "x", "shop/web-0=Some(\"spiffe://cluster.local/ns/shop/sa/web\")"),
        ("10.1.0.3:1", "x", "shop/plain=None"),
        ("10.9.9.9:80", "x", "outside"),
        ("vault.bank:80", "x", "bank/vault:80"),
        ("other.bank:80", "x", "none"),
        ("[::1]:80", "x", "outside"),
        ("", "x", "none"),
        (":80", "x", "none"),
    ] {
        assert_eq!(service(target, namespace), expected, "{target} in {namespace}");
    }
}

#[test]
fn endpoints_are_ready_sorted_and_once() {
    let (mut snapshot, _) = snapshot("");
    let Target::Service(service) = web(80) else { unreachable!() };
    let workloads = |snapshot: &Snapshot| -> Vec<String> {
        let text = |e: Endpoint| format!("{} {} {}", e.address, e.workload, e.identity.is_some());
        snapshot.endpoints(&service).into_iter().map(text).collect()
    };
    assert_eq!(workloads(&snapshot), ["10.1.0.1:8080 shop/web-0 true", "10.1.0.2:8080 shop/web-1 true"]);
    snapshot.delete("Pod", "shop", "web-1");
    snapshot.delete("EndpointSlice", "shop", "web-b");
    assert_eq!(workloads(&snapshot), ["10.1.0.1:8080 shop/web-0 true"], "who has 10.1.0.2 is not known any more");
    let drain = BASE.replace("conditions: {ready: true}", "conditions: {ready: false}");
    let drain = drain
        .replace("{addresses: [10.1.0.1], targetRef", "{addresses: [10.1.0.1], conditions: {ready: false}, targetRef");
    let objects = parse_manifests(&drain, "t").unwrap();
    let (snapshot, _) = Snapshot::from_objects(&objects, Options::default());
    assert_eq!(workloads(&snapshot), ["10.1.0.3:8080 shop/plain false"], "none is ready, so those that drain serve");
}

#[test]
fn protocols() {
    let (snapshot, _) = snapshot("");
    let outbound =
        |target: &str| snapshot.compile_outbound(&snapshot.resolve(target, "shop").unwrap(), "shop").0.protocol;
    for (target, expected) in [
        ("web:80", Protocol::Http1),
        ("web:81", Protocol::Http2),
        ("api:8080", Protocol::Detect),
        ("api:3306", Protocol::Opaque),
        ("api:9000", Protocol::Opaque),
        ("10.1.0.1:8080", Protocol::Http1),
        ("10.1.0.2:7777", Protocol::Opaque),
        ("10.1.0.1:7777", Protocol::Detect),
    ] {
        assert_eq!(outbound(target), expected, "{target}");
    }
    let inbound = |pod: &str, port| snapshot.compile_workload(pod, &[]).map(|policy| policy.ports.get(port).protocol);
    assert_eq!(inbound("shop/web-0", 8080), Some(Protocol::Http1));
    assert_eq!(inbound("shop/web-0", 9090), Some(Protocol::Http2), "by the name of the container port");
    assert_eq!(inbound("shop/web-1", 9090), Some(Protocol::Detect));
    assert_eq!(inbound("shop/web-1", 7777), Some(Protocol::Opaque));
    assert_eq!(inbound("shop/none", 80), None);
    assert_eq!(inbound("none", 80), None);
}

#[test]
fn a_port_is_told_of_the_routes_of_its_services() {
    let parent = "parentRefs: [{group: '', kind: Service, name: web, port: 80}]";
    let rules = "rules: [{backendRefs: [{name: web, port: 80}]}]";
    let consumer = "parentRefs: [{group: '', kind: Service, name: web, namespace: shop, port: 80}]";
    let tcp = "rules: [{backendRefs: [{name: web, port: 80}]}]";
    for (routes, expected) in [
        (String::new(), false),
        (route("HTTPRoute", "shop/r", &format!("{parent}, {rules}")), true),
        (route("GRPCRoute", "shop/r", &format!("{parent}, {rules}")), true),
        (
            route("HTTPRoute", "shop/r", &format!("parentRefs: [{{group: '', kind: Service, name: web}}], {rules}")),
            true,
        ),
        (
            route(
                "HTTPRoute",
                "shop/r",
                &format!("parentRefs: [{{group: '', kind: Service, name: api, port: 8080}}], {rules}"),
            ),
            false,
        ),
        (route("HTTPRoute", "bank/r", &format!("{consumer}, {rules}")), false),
        (route("TCPRoute", "shop/r", &format!("{parent}, {tcp}")), false),
    ] {
        let (snapshot, _) = snapshot(&routes);
        let has = |port, listed| {
            let policy = snapshot.compile_workload("shop/web-0", &[(port, listed)]).unwrap();
            assert_eq!(policy.ports.get(port), policy.ports.get(listed));
            policy.ports.get(port).has_request_routes
        };
        assert_eq!(has(8080, 8080), expected, "{routes}");
        assert_eq!(has(7, 8080), expected, "by the port that is listed: {routes}");
        assert!(!has(7, 7), "{routes}");
    }
}

#[test]
fn a_pod_goes_by_the_name_of_what_controls_it() {
    let pod = |labels: &str, owner: &str| {
        let owners = format!("ownerReferences: [{owner}]");
        let pod = format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, labels: {{{labels}}}, {owners}}}\nspec: {{}}\n"
        );
        snapshot(&pod).0.compile_workload("shop/p", &[]).unwrap().controlled_by.to_string()
    };
    let owned = |kind: &str, name: &str| format!("{{kind: {kind}, name: {name}, controller: true}}");
    let hash = "pod-template-hash: 5d4f";
    assert_eq!(pod(hash, &owned("ReplicaSet", "web-v1-5d4f")), "web-v1");
    // A ReplicaSet that no Deployment made.
    assert_eq!(pod("", &owned("ReplicaSet", "web-v1")), "web-v1");
    assert_eq!(pod(hash, &owned("StatefulSet", "db-5d4f")), "db-5d4f");
    assert_eq!(pod("", &owned("Job", "backup-29384950")), "backup");
    assert_eq!(pod("", &owned("Job", "backup-2938495")), "backup-2938495");
    assert_eq!(pod("", "{kind: Node, name: n1}"), "p", "an owner that is no controller");
    assert_eq!(pod("", ""), "p");
}
