//! Which endpoints of a Service a caller should use: by their conditions, by the caller's place and by their family.

use mesh_resources::Locality;

use crate::{WEB, addresses, at, pod, resolved, service, slice, snapshot};

#[test]
fn conditions_choose_as_kube_proxy_does() {
    let ready = "addresses: [10.0.0.1], conditions: {ready: true}";
    let unknown = "addresses: [10.0.0.2]";
    let starting = "addresses: [10.0.0.3], conditions: {ready: false, serving: false}";
    let draining = "addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}";
    let ended = "addresses: [10.0.0.5], conditions: {ready: false, serving: false, terminating: true}";
    // As the control plane writes it for a Service with publishNotReadyAddresses.
    let published = "addresses: [10.0.0.6], conditions: {ready: true, serving: false, terminating: true}";
    for (endpoints, expected) in [
        (&[ready, unknown, starting, draining, ended][..], &["10.0.0.1", "10.0.0.2"][..]),
        (&[starting, draining, ended], &["10.0.0.4"]),
        (&[starting, ended], &[]),
        (&[published, draining], &["10.0.0.6"]),
    ] {
        let world = snapshot(&(service("web", WEB) + &slice("web-a", "IPv4", endpoints)));
        assert_eq!(addresses(&world, &Locality::default()), expected, "{endpoints:?}");
    }
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_is_ready_if_either_says_so() {
    let not_ready = slice("web-a", "IPv4", &["addresses: [10.0.0.1], conditions: {ready: false}"]);
    let ready = slice("web-b", "IPv4", &["addresses: [10.0.0.1]"]);
    let world = snapshot(&(service("web", WEB) + &not_ready + &ready));
    assert_eq!(addresses(&world, &Locality::default()), ["10.0.0.1"]);
}

#[test]
fn places_choose_as_kube_proxy_does() {
    let (a, b) = ("addresses: [10.0.0.1], nodeName: n1, zone: za", "addresses: [10.0.0.2], nodeName: n2, zone: zb");
    let (hint_a, hint_b) =
        (format!("{a}, hints: {{forZones: [{{name: za}}]}}"), format!("{b}, hints: {{forZones: [{{name: zb}}]}}"));
    let (node_a, node_b) = (
        format!("{a}, hints: {{forNodes: [{{name: n1}}], forZones: [{{name: za}}]}}"),
        format!("{b}, hints: {{forNodes: [{{name: n2}}], forZones: [{{name: zb}}]}}"),
    );
    let gone = "addresses: [10.0.0.3], nodeName: n3, conditions: {ready: false, serving: true, terminating: true}";
    let (one, two, both): (&[&str], &[&str], &[&str]) = (&["10.0.0.1"], &["10.0.0.2"], &["10.0.0.1", "10.0.0.2"]);
    for (policy, endpoints, caller, expected) in [
        ("", vec![a, b], at("n1", "za"), both),
        ("internalTrafficPolicy: Local", vec![a, b], at("n2", "zb"), two),
        ("internalTrafficPolicy: Local", vec![a, b], at("n9", "za"), &[]),
        ("internalTrafficPolicy: Local", vec![a, gone], at("n3", ""), &["10.0.0.3"]),
        // In a folder of manifests nobody has a node.
        ("internalTrafficPolicy: Local", vec![a, b], at("", ""), both),
        // Hints decide, whatever the Service says; without one for the caller, or with one missing, none does.
        ("", vec![&hint_a, &hint_b], at("n1", "za"), one),
        ("trafficDistribution: PreferClose", vec![&hint_a, &hint_b], at("n9", "zb"), two),
        ("trafficDistribution: PreferClose", vec![&hint_a, &hint_b], at("n9", "zc"), both),
        ("trafficDistribution: PreferClose", vec![&hint_a, &hint_b], at("n9", ""), both),
        ("trafficDistribution: PreferClose", vec![&hint_a, b], at("n1", "za"), both),
        ("trafficDistribution: PreferSameNode", vec![&node_a, &node_b], at("n2", "za"), two),
        ("trafficDistribution: PreferSameNode", vec![&node_a, &node_b], at("n9", "za"), one),
        ("trafficDistribution: PreferSameNode", vec![&node_a, &node_b], at("n9", "zc"), both),
        // Without hints the places of the endpoints stand for them.
        ("trafficDistribution: PreferSameZone", vec![a, b], at("n9", "zb"), two),
        ("trafficDistribution: PreferSameNode", vec![a, b], at("n1", "zb"), one),
        ("trafficDistribution: PreferSameNode", vec![a, b], at("n9", "zb"), two),
        ("trafficDistribution: SomethingNew", vec![a, b], at("n1", "za"), both),
    ] {
        let text = service("web", &format!("{WEB}, {policy}")) + &slice("web-a", "IPv4", &endpoints);
        assert_eq!(addresses(&snapshot(&text), &caller), expected, "{policy} {endpoints:?} {caller:?}");
    }
}

#[test]
fn a_caller_is_where_its_pod_runs() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: za}}\n";
    let mut world = snapshot(&(node.to_owned() + &pod("web-0", "nodeName: n1", &["10.0.0.1"])));
    assert_eq!(world.locality("shop/web-0"), at("n1", "za"));
    assert_eq!(world.locality("shop/other"), at("", ""));
    world.delete("Node", "default", "n1");
    assert_eq!(world.locality("shop/web-0"), at("n1", ""));
}

#[test]
fn one_family_of_a_dual_stack_service() {
    let v4 = slice("web-4", "IPv4", &["addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-0}"]);
    let v6 = slice("web-6", "IPv6", &["addresses: ['fd00::1'], targetRef: {kind: Pod, name: web-0}"]);
    let pods = pod("web-0", "", &["10.0.0.1", "fd00::1"]);
    let dual = |ips: &str| format!("clusterIP: {ips}, clusterIPs: [{ips}, X], ports: [{{name: http, port: 80}}]");
    for (first, second, slices, expected) in [
        ("10.96.0.1", "'fd01::1'", &[&v4, &v6][..], "10.0.0.1"),
        ("'fd01::1'", "10.96.0.1", &[&v4, &v6], "fd00::1"),
        ("'fd01::1'", "10.96.0.1", &[&v4], "10.0.0.1"),
    ] {
        let slices: String = slices.iter().map(|s| s.as_str()).collect();
        let world = snapshot(&(service("web", &dual(first).replace('X', second)) + &slices + &pods));
        assert_eq!(addresses(&world, &Locality::default()), [expected], "{first}");
        for target in ["10.96.0.1:80", "[fd01::1]:80"] {
            assert_eq!(resolved(&world, target), "service shop/web:80");
        }
        // A pod is one, by either address, whether a slice lists it or not.
        assert_eq!(resolved(&world, "10.0.0.1:8080"), "endpoint 10.0.0.1:8080 shop/web-0 web");
        assert_eq!(resolved(&world, "[fd00::1]:9"), "endpoint [fd00::1]:9 shop/web-0 web");
    }
}
