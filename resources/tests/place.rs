//! What a name or an address stands for, and which endpoints a caller should use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::{Protocol, ServiceRef, Target};
use mesh_resources::{Depends, Key, Locality, Options, Snapshot, parse_manifests};

fn snapshot(text: &str) -> Snapshot {
    let objects = parse_manifests(text, "world.yaml").unwrap();
    let (snapshot, problems) = Snapshot::from_objects(&objects, Options::default());
    assert!(problems.is_empty(), "{problems:?}");
    snapshot
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
    let web = ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
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
        Some(Target::Service(service)) => format!("service {service}"),
        Some(Target::Endpoint(e)) => {
            let identity = e.identity.map_or("plain".to_owned(), |id| id.service_account().to_owned());
            format!("endpoint {} {} {identity}", e.address, e.workload)
        }
    }
}

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

#[test]
fn headless_services_and_the_pods_of_stateful_sets() {
    let endpoints = [
        "addresses: [10.0.0.1], hostname: web-0, targetRef: {kind: Pod, name: web-0}",
        "addresses: [10.0.0.2], hostname: web-1, targetRef: {kind: Pod, name: web-1}, conditions: {ready: false}",
    ];
    let world = snapshot(
        &(service("web", "clusterIP: None, ports: [{name: http, port: 80, targetPort: 8080}]")
            + &slice("web-a", "IPv4", &endpoints)
            + &pod("web-0", "", &["10.0.0.1"])
            + &pod("web-1", "", &["10.0.0.2"])),
    );
    assert_eq!(addresses(&world, &Locality::default()), ["10.0.0.1"]);
    let web_0 = "endpoint 10.0.0.1:8080 shop/web-0 web";
    for (target, expected) in [
        ("web:80", "service shop/web:80"),
        ("web.shop.svc.cluster.local.:80", "service shop/web:80"),
        ("10.0.0.1:8080", web_0),
        ("web-0.web:8080", web_0),
        ("WEB-0.web.shop:8080", web_0),
        ("web-0.web.shop.svc:8080", web_0),
        ("web-0.web.shop.svc.cluster.local:8080", web_0),
        ("web-0.web.shop.svc.cluster.local:1234", "endpoint 10.0.0.1:1234 shop/web-0 web"),
        ("web-1.web:8080", "-"),
        ("web-2.web:8080", "-"),
        ("web-0.web.other:8080", "-"),
        ("web-0.web.shop.svc.example.com:8080", "-"),
        ("web:8080", "-"),
    ] {
        assert_eq!(resolved(&world, target), expected, "{target}");
    }
}

#[test]
fn external_names_are_what_they_name() {
    let external = |name: &str, to: &str| service(name, &format!("type: ExternalName, externalName: {to}"));
    let world = snapshot(
        &(service("web", WEB)
            + &slice(
                "web-a",
                "IPv4",
                &["addresses: [10.0.0.1], hostname: web-0, targetRef: {kind: Pod, name: web-0}"],
            )
            + &external("alias", "web.shop.svc.cluster.local")
            + &external("dotted", "WEB.shop.svc.cluster.local.")
            + &external("twice", "alias.shop.svc.cluster.local")
            + &external("one-pod", "web-0.web.shop.svc.cluster.local")
            + &external("away", "example.com")
            + &external("short", "web.shop")
            + &external("circle", "circle.shop.svc.cluster.local")
            + &external("nowhere", "''")),
    );
    for (target, expected) in [
        ("alias:80", "service shop/web:80"),
        ("dotted:80", "service shop/web:80"),
        ("twice.shop.svc:80", "service shop/web:80"),
        ("one-pod:8080", "endpoint 10.0.0.1:8080 shop/web-0 plain"),
        ("alias:81", "-"),
        ("away:80", "-"),
        ("short:80", "-"),
        ("circle:80", "-"),
        ("nowhere:80", "-"),
    ] {
        assert_eq!(resolved(&world, target), expected, "{target}");
    }
}

#[test]
fn addresses_are_never_confused() {
    let world = snapshot(
        &(service("web", WEB)
            + &service("other", "clusterIP: 10.96.0.1, ports: [{port: 81}]")
            + &service("twin-a", "clusterIP: 10.96.0.2, ports: [{port: 80}]")
            + &service("twin-b", "clusterIP: 10.96.0.2, ports: [{port: 80}]")
            + &slice(
                "web-a",
                "IPv4",
                &[
                    "addresses: [10.0.0.1], targetRef: {kind: Pod, name: gone}",
                    "addresses: [192.168.0.1], targetRef: {kind: Pod, name: host-a}",
                ],
            )
            + &pod("web-0", "", &["10.0.0.1"])
            + &pod("host-a", "hostNetwork: true", &["192.168.0.1"])
            + &pod("host-b", "hostNetwork: true", &["192.168.0.1"])
            + &pod("old", "", &["10.0.0.9"]).replace("Running", "Succeeded")),
    );
    for (target, expected) in [
        ("10.96.0.1:80", "service shop/web:80"),
        ("10.96.0.1:81", "service shop/other:81"),
        ("10.96.0.1:82", "-"),
        ("10.96.0.2:80", "-"),
        // The slice still names the pod that had the address before.
        ("10.0.0.1:8080", "endpoint 10.0.0.1:8080 shop/web-0 web"),
        // A node's address says nothing of a pod; a port of it that a slice lists is called in plain text.
        ("192.168.0.1:22", "-"),
        ("192.168.0.1:8080", "endpoint 192.168.0.1:8080 shop/host-a plain"),
        ("10.0.0.9:80", "-"),
    ] {
        assert_eq!(resolved(&world, target), expected, "{target}");
    }
}

#[test]
fn protocols_of_services_and_pods() {
    let opaque = "annotations: {config.meshctl.dev/opaque-ports: '8080'";
    let pods = pod("web-0", "", &["10.0.0.1"]);
    let slices = slice("web-a", "IPv4", &["addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-0}"]);
    let named = pods.replace("{name: app}", "{name: app, ports: [{name: web, containerPort: 8080}]}");
    let ports = |more: &str| {
        service("web", &format!("clusterIP: 10.96.0.1, ports: [{{name: http, port: 80, targetPort: web{more}}}]"))
    };
    let service_opaque =
        ports("").replace("namespace: shop}", "namespace: shop, annotations: {config.meshctl.dev/opaque-ports: '80'}}");
    let pod_opaque = named.replace("namespace: shop}", &format!("namespace: shop, {opaque}}}}}"));
    // What is said of a port goes before a list that it is in.
    let http2 = |port: u16| format!("protocol: '{port}=http2', config.meshctl.dev/opaque-ports: '{port}'");
    let service_http2 = ports(", appProtocol: http")
        .replace("namespace: shop}", &format!("namespace: shop, annotations: {{config.meshctl.dev/{}}}}}", http2(80)));
    let pod_http2 = named.replace(
        "namespace: shop}",
        &format!("namespace: shop, annotations: {{config.meshctl.dev/{}}}}}", http2(8080)),
    );
    for (service, pod, outbound, direct, inbound) in [
        (ports(""), &named, Protocol::Detect, Protocol::Detect, Protocol::Detect),
        (ports(", appProtocol: kubernetes.io/h2c"), &named, Protocol::Http2, Protocol::Http2, Protocol::Http2),
        (ports(", appProtocol: http"), &named, Protocol::Http1, Protocol::Http1, Protocol::Http1),
        (service_opaque.clone(), &named, Protocol::Opaque, Protocol::Opaque, Protocol::Opaque),
        (ports(", appProtocol: http"), &pod_opaque, Protocol::Http1, Protocol::Opaque, Protocol::Opaque),
        (service_http2, &named, Protocol::Http2, Protocol::Http2, Protocol::Http2),
        (ports(", appProtocol: http"), &pod_http2, Protocol::Http1, Protocol::Http2, Protocol::Http2),
    ] {
        let world = snapshot(&(service + &slices + pod));
        let policy = |target: &str| world.compile_outbound(&world.resolve(target, "shop").unwrap(), "shop").0.protocol;
        assert_eq!(policy("web:80"), outbound);
        assert_eq!(policy("10.0.0.1:8080"), direct);
        assert_eq!(world.compile_inbound("shop/web-0", 8080, 8080).unwrap().protocol, inbound);
    }
}

#[test]
fn a_change_touches_whom_it_concerns() {
    let first = slice(
        "web-a",
        "IPv4",
        &[
            "addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-0}",
            "addresses: [10.0.0.2], targetRef: {kind: Pod, name: web-1}",
        ],
    );
    let mut world = snapshot(&(service("web", WEB) + &first + &pod("web-0", "", &["10.0.0.1"])));
    assert!(world.take_touched().everything);
    let mut change = |text: &str| {
        world.apply(&parse_manifests(text, "x.yaml").unwrap()[0]);
        world.take_touched()
    };
    let (web, names) = (Key::new("shop", "web"), |names: &[&str]| names.iter().map(|n| Key::new("shop", *n)).collect());
    assert!(change(&first).is_empty(), "the same again");
    let touched = change(&first.replace("10.0.0.2]", "10.0.0.2], conditions: {ready: false}"));
    assert!(!touched.everything);
    assert_eq!(touched.services, [web.clone()].into());
    assert_eq!(touched.addresses, ["10.0.0.2".parse().unwrap()].into());
    assert_eq!(touched.pods, names(&["web-1"]));
    // A pod that gets another account changes what its Service's endpoints prove.
    let touched = change(&pod("web-0", "", &["10.0.0.1"]).replace("serviceAccountName: web", "serviceAccountName: db"));
    assert_eq!((touched.services, touched.pods), ([web].into(), names(&["web-0"])));
    // What nobody reads is no change.
    let touched = change(
        &pod("web-0", "", &["10.0.0.1"]).replace("serviceAccountName: web", "serviceAccountName: db, priority: 1"),
    );
    assert!(touched.is_empty(), "{touched:?}");
    assert!(change(&service("web", &format!("{WEB}, internalTrafficPolicy: Local"))).everything);
    assert!(change("apiVersion: v1\nkind: Node\nmetadata: {name: n1}").is_empty());
    assert!(
        change("apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}").everything
    );
}

#[test]
fn what_an_answer_depends_on() {
    let world = snapshot(
        &(service("web", WEB)
            + &service("alias", "type: ExternalName, externalName: web-0.web.shop.svc.cluster.local")),
    );
    let web = Depends::Service(Key::new("shop", "web"));
    for (target, expected) in [
        ("web:80", Depends::Policies),
        ("web.shop.svc.cluster.local:80", Depends::Policies),
        ("10.0.0.1:80", Depends::Address("10.0.0.1".parse().unwrap())),
        ("web-0.web:80", web.clone()),
        ("web-0.web.shop.svc.cluster.local:80", web.clone()),
        ("alias:80", web),
        ("example.com:80", Depends::Policies),
    ] {
        assert_eq!(world.depends(target, "shop"), expected, "{target}");
    }
}

#[test]
fn a_port_that_is_not_redirected_has_no_proxy_before_it() {
    let skipping = "namespace: shop, annotations: {config.meshctl.dev/skip-inbound-ports: '9000,8080-8090'}}";
    let pod = pod("web-0", "", &["10.0.0.1"]).replace("namespace: shop}", skipping);
    let slice = slice("web-a", "IPv4", &["addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-0}"]);
    let world = snapshot(&[service("web", WEB), slice, pod].concat());
    assert_eq!(resolved(&world, "10.0.0.1:8080"), "endpoint 10.0.0.1:8080 shop/web-0 plain");
    assert_eq!(resolved(&world, "10.0.0.1:9000"), "endpoint 10.0.0.1:9000 shop/web-0 plain");
    assert_eq!(resolved(&world, "10.0.0.1:80"), "endpoint 10.0.0.1:80 shop/web-0 web");
    let web = ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
    assert_eq!(world.endpoints_for(&web, &at("", ""))[0].identity, None);
}
