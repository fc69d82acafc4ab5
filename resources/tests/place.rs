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
        Some(Target::Outside(_)) => "outside".to_owned(),
        Some(Target::Unknown(_)) => "unknown".to_owned(),
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
            + &pod("web-0", "", &["10.0.0.1"])
            + &external("alias", "web.shop.svc.cluster.local")
            + &external("dotted", "WEB.shop.svc.cluster.local.")
            + &external("twice", "alias.shop.svc.cluster.local")
            + &external("one-pod", "web-0.web.shop.svc.cluster.local")
            + &external("away", "example.com")
            + &external("short", "web.shop")
            + &external("circle", "circle.shop.svc.cluster.local")
            + &external("nowhere", "''")
            + &external("hop-1", "web.shop.svc.cluster.local")
            + &(2..=5)
                .map(|n| external(&format!("hop-{n}"), &format!("hop-{}.shop.svc.cluster.local", n - 1)))
                .collect::<String>()),
    );
    for (target, expected) in [
        ("alias:80", "service shop/web:80"),
        ("dotted:80", "service shop/web:80"),
        ("twice.shop.svc:80", "service shop/web:80"),
        ("one-pod:8080", "endpoint 10.0.0.1:8080 shop/web-0 web"),
        ("alias:81", "-"),
        ("away:80", "-"),
        ("short:80", "-"),
        ("circle:80", "-"),
        ("nowhere:80", "-"),
        ("hop-4:80", "service shop/web:80"),
        ("hop-5:80", "-"),
    ] {
        assert_eq!(resolved(&world, target), expected, "{target}");
    }
}

#[test]
fn addresses_are_never_confused() {
    let (world, told) = doubtful(
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
        ("10.96.0.1:82", "unknown"),
        ("10.96.0.2:80", "unknown"),
        // The slice still names the pod that had the address before.
        ("10.0.0.1:8080", "endpoint 10.0.0.1:8080 shop/web-0 web"),
        // A node's address says nothing of a pod; a port of it that a slice lists is called in plain text.
        ("192.168.0.1:22", "outside"),
        ("192.168.0.1:8080", "endpoint 192.168.0.1:8080 shop/host-a plain"),
        ("[::ffff:192.168.0.1]:8080", "endpoint 192.168.0.1:8080 shop/host-a plain"),
        ("10.0.0.9:80", "outside"),
    ] {
        assert_eq!(resolved(&world, target), expected, "{target}");
    }
    assert_eq!(told, ["EndpointSlice shop/web-a: 10.0.0.1: its targetRef names Pod shop/gone, which is not there"]);
    assert_eq!(addresses(&world, &Locality::default()), ["192.168.0.1"], "the other endpoint of the slice stays");
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
    let mut world = doubtful(&(service("web", WEB) + &first + &pod("web-0", "", &["10.0.0.1"]))).0;
    assert!(!world.take_touched().policies.is_empty());
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
    assert!(
        change(&service("web", &format!("{WEB}, internalTrafficPolicy: Local")))
            .services
            .contains(&Key::new("shop", "web"))
    );
    assert!(change("apiVersion: v1\nkind: Node\nmetadata: {name: n1}").is_empty());
    assert!(
        change("apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}").everything
    );
}

#[test]
fn a_cluster_address_that_slices_list_touches_their_services() {
    let listed = slice("web-a", "IPv4", &["addresses: [10.96.0.9]"]);
    let (mut world, _) = doubtful(&(service("web", WEB) + &listed));
    let nowhere = Locality::default();
    let other = service("other", "clusterIP: 10.96.0.9, ports: [{name: http, port: 80}]");
    assert_eq!(addresses(&world, &nowhere), ["10.96.0.9"], "outside of the cluster, as far as is known");
    world.take_touched();
    world.apply(&parse_manifests(&other, "x.yaml").unwrap()[0]);
    assert!(addresses(&world, &nowhere).is_empty());
    assert!(world.take_touched().services.contains(&Key::new("shop", "web")));
    world.delete("Service", "shop", "other");
    assert_eq!(addresses(&world, &nowhere), ["10.96.0.9"]);
    assert!(world.take_touched().services.contains(&Key::new("shop", "web")));
}

#[test]
fn a_slice_that_names_no_pod_leads_to_the_one_with_its_address() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}\n";
    let unnamed = slice("web-a", "IPv4", &["addresses: [10.0.0.1]"]);
    let ports = "ports: [{name: http, port: 80, targetPort: 8080}]";
    let pods = pod("web-0", "", &["10.0.0.1"]) + &pod("web-1", "", &["10.0.0.2"]);
    let alias = service("web", &format!("type: ExternalName, externalName: a.example, {ports}"));
    let (mut world, _) = doubtful(&(alias + &unnamed + &pods + route));
    let told = |world: &Snapshot, pod: &str| world.compile_inbound(pod, 8080, 8080).unwrap().has_request_routes;
    assert!(!told(&world, "shop/web-0"), "an ExternalName is no parent");
    world.take_touched();
    // The same ports of a Service that is one.
    world.apply(&parse_manifests(&service("web", &format!("clusterIP: 10.96.0.1, {ports}")), "x.yaml").unwrap()[0]);
    assert!(told(&world, "shop/web-0") && !told(&world, "shop/web-1"));
    let touched = world.take_touched();
    assert_eq!(touched.pods, [Key::new("shop", "web-0")].into());
    // A slice comes and goes.
    world.delete("EndpointSlice", "shop", "web-a");
    assert!(!told(&world, "shop/web-0") && world.take_touched().pods.contains(&Key::new("shop", "web-0")));
    // One of another namespace says nothing.
    let foreign = unnamed.replace("namespace: shop", "namespace: bank");
    world.apply(&parse_manifests(&foreign, "x.yaml").unwrap()[0]);
    assert!(!told(&world, "shop/web-0"));
}

#[test]
fn the_network_of_a_node_touches_what_is_in_it() {
    let two = slice("web-a", "IPv4", &["addresses: [10.0.1.5]"]) + &slice("web-b", "IPv4", &["addresses: [10.0.2.5]"]);
    let two = two.replacen("service-name: web", "service-name: other", 1);
    let (mut world, _) = doubtful(&(service("web", WEB) + &two));
    world.take_touched();
    let node = |cidr: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n}}\nspec: {{podCIDR: {cidr}}}");
    let mut change = |text: &str| {
        world.apply(&parse_manifests(text, "x.yaml").unwrap()[0]);
        let touched = world.take_touched();
        let services: Vec<_> = touched.services.iter().map(|key| key.name.to_string()).collect();
        assert!(!touched.everything);
        (services.join(" "), touched.addresses.len(), touched.networks.len(), touched.doubts)
    };
    assert_eq!(change(&node("10.0.1.0/24")), ("other".to_owned(), 1, 1, true));
    assert_eq!(change(&node("10.0.2.0/24")), ("other web".to_owned(), 2, 2, true));
    assert_eq!(change(&node("10.0.2.0/24")), (String::new(), 0, 0, false));
}

#[test]
fn what_an_answer_depends_on() {
    let world = snapshot(
        &(service("web", WEB)
            + &service("alias", "type: ExternalName, externalName: web-0.web.shop.svc.cluster.local")),
    );
    let key = |name: &str| Key::new("shop", name);
    let policies = |name: &str| Depends::Policies(key(name));
    let web = [policies("web"), Depends::Endpoints(key("web"))];
    for (target, expected) in [
        ("web:80", vec![policies("web")]),
        ("web.shop.svc.cluster.local:80", vec![policies("web")]),
        ("10.0.0.1:80", vec![Depends::Address("10.0.0.1".parse().unwrap())]),
        ("web-0.web:80", [&web[..], &[Depends::Policies(Key::new("web", "web-0"))]].concat()),
        ("web-0.web.shop.svc.cluster.local:80", web.to_vec()),
        ("alias:80", [&[policies("alias")], &web[..]].concat()),
        ("a.b.example.com:80", vec![]),
    ] {
        assert_eq!(world.depends(target, "shop"), expected, "{target}");
    }
}

/// A slice of another Service and namespace.
fn foreign(namespace: &str, endpoint: &str) -> String {
    slice("web-a", "IPv4", &[endpoint])
        .replace("namespace: shop, labels", &format!("namespace: {namespace}, labels"))
        .replace("name: web-a", "name: claim")
}

const NODE: &str =
    "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [10.0.0.0/24, 'fd00::/64']}\n";

#[test]
fn the_pod_that_has_an_address_decides_whatever_slices_say() {
    let web = service("web", WEB) + &pod("web-0", "", &["10.0.0.1"]);
    let evil = service("web", WEB).replace("shop", "evil").replace("10.96.0.1", "10.96.0.9")
        + &pod("x", "", &[]).replace("shop", "evil");
    let right = "addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-0}";
    let direct = "endpoint 10.0.0.1:8080 shop/web-0 web";
    for (claim, is_given, told) in [
        // Without a targetRef it is the owner all the same, with its identity.
        ("addresses: [10.0.0.1]", true, None),
        ("addresses: [10.0.0.1], targetRef: {kind: Node, name: n1}", true, None),
        (
            "addresses: [10.0.0.1], targetRef: {kind: Pod, name: x}",
            false,
            Some("its targetRef names Pod evil/x, but Pod shop/web-0 has the address"),
        ),
        (
            "addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-0, namespace: shop}",
            false,
            Some("its targetRef names no Pod of the slice's namespace"),
        ),
        (
            "addresses: [10.0.0.1], targetRef: {kind: Pod}",
            false,
            Some("its targetRef names no Pod of the slice's namespace"),
        ),
        (
            "addresses: [10.0.0.1], targetRef: {kind: Pod, name: nobody}",
            false,
            Some("its targetRef names Pod evil/nobody, which is not there"),
        ),
    ] {
        let (world, problems) = doubtful(
            &[&web, &evil, &slice("web-a", "IPv4", &[right]), &foreign("evil", claim)].map(String::as_str).concat(),
        );
        let told: Vec<_> = told.iter().map(|what| format!("EndpointSlice evil/claim: 10.0.0.1: {what}")).collect();
        assert_eq!(problems, told, "{claim}");
        let of = |namespace: &str| {
            let service = ServiceRef { namespace: namespace.into(), name: "web".into(), port: 80 };
            world.endpoints(&service).iter().map(|e| e.identity.clone().map(|id| id.to_string())).collect::<Vec<_>>()
        };
        let proved = vec![Some("spiffe://cluster.local/ns/shop/sa/web".to_owned())];
        assert_eq!(of("shop"), proved, "the owner's own slice stays: {claim}");
        assert_eq!(of("evil"), if is_given { proved } else { vec![] }, "{claim}");
        assert_eq!(resolved(&world, "10.0.0.1:8080"), direct, "{claim}");
    }
}

#[test]
fn an_address_that_nobody_is_known_to_have_is_never_plain_in_the_networks_of_pods() {
    let base = service("web", WEB) + &pod("web-0", "", &["10.0.0.1"]) + NODE;
    let claim = "targetRef: {kind: Pod, name: later}";
    for (ip, target_ref, is_given, direct) in [
        ("10.0.0.7", "", false, "unknown"),
        ("10.0.0.7", claim, false, "unknown"),
        ("10.96.0.1", "", false, "unknown"),
        // A database outside, by a slice that somebody wrote.
        ("192.0.2.7", "", true, "endpoint 192.0.2.7:8080  plain"),
        ("172.16.0.7", "", true, "endpoint 172.16.0.7:8080  plain"),
        ("172.16.0.7", claim, false, "outside"),
    ] {
        let endpoint = format!("addresses: [{ip}], {target_ref}");
        let (world, problems) = doubtful(&(base.clone() + &slice("web-b", "IPv4", &[&endpoint])));
        let expected = if is_given { vec![ip] } else { vec![] };
        assert_eq!(addresses(&world, &Locality::default()), expected, "{endpoint}");
        assert_eq!(problems.is_empty(), is_given, "{problems:?}");
        assert_eq!(resolved(&world, &format!("{ip}:8080")), direct, "{endpoint}");
    }
    // The slice came first; the pod gets its address, keeps it while it runs, and is over.
    let listed = slice("web-b", "IPv4", &[&format!("addresses: [10.0.0.7], {claim}")]);
    let (mut world, _) = doubtful(&(base + &listed));
    let mut step = |text: &str| {
        world.apply(&parse_manifests(text, "x.yaml").unwrap()[0]);
        let touched = world.take_touched();
        assert!(touched.services.contains(&Key::new("shop", "web")), "its Service is told: {text}");
        addresses(&world, &Locality::default())
    };
    assert_eq!(step(&pod("later", "", &[])), [""; 0]);
    assert_eq!(step(&pod("later", "", &["10.0.0.7"])), ["10.0.0.7"]);
    assert_eq!(step(&pod("later", "", &["10.0.0.7"]).replace("Running", "Succeeded")), [""; 0]);
    assert_eq!(step(&pod("later", "", &["10.0.0.7"])), ["10.0.0.7"]);
    world.delete("Pod", "shop", "later");
    assert!(world.take_touched().services.contains(&Key::new("shop", "web")));
    assert_eq!(addresses(&world, &Locality::default()), [""; 0], "the Pod is gone, its slice is not yet");
    assert!(world.problems().iter().any(|problem| problem.what.contains("shop/later, which is not there")));
}

#[test]
fn an_address_that_is_given_again_is_not_plain_for_its_earlier_pod() {
    let plain = pod("old", "", &["10.0.0.1"]).replace(", {name: mesh-proxy}", "");
    let stale = slice("web-a", "IPv4", &["addresses: [10.0.0.1], targetRef: {kind: Pod, name: old}"]);
    let (world, _) = doubtful(&[service("web", WEB), plain, stale, pod("new", "", &["10.0.0.1"])].concat());
    assert_eq!(addresses(&world, &Locality::default()), [""; 0]);
    assert_eq!(resolved(&world, "10.0.0.1:8080"), "unknown");
}

#[test]
fn where_all_pods_share_an_address_the_target_ref_chooses() {
    let labelled = |name: &str, inject: &str| {
        pod(name, "", &["127.0.0.1"])
            .replace("namespace: shop}", &format!("namespace: shop, labels: {{meshctl.dev/inject: {inject}}}}}"))
            .replace("serviceAccountName: web", &format!("serviceAccountName: {name}"))
    };
    let pods = labelled("a", "enabled") + &labelled("b", "enabled") + &labelled("c", "disabled");
    for (claim, expected) in [
        ("targetRef: {kind: Pod, name: a}", Some("a")),
        ("targetRef: {kind: Pod, name: b}", Some("b")),
        ("targetRef: {kind: Pod, name: c}", Some("plain")),
        ("targetRef: {kind: Pod, name: gone}", None),
        // A process of the machine that no Pod stands for.
        ("", Some("plain")),
    ] {
        let slice = slice("web-a", "IPv4", &[&format!("addresses: [127.0.0.1], {claim}")]);
        let objects = parse_manifests(&(service("web", WEB) + &slice + &pods), "world.yaml").unwrap();
        let (world, _) = Snapshot::from_objects(&objects, Options { meshed_by_label: true, ..Options::default() });
        let web = ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
        let given = world.endpoints(&web);
        let proved: Vec<_> =
            given.iter().map(|e| e.identity.as_ref().map_or("plain", |id| id.service_account())).collect();
        assert_eq!(proved, expected.into_iter().collect::<Vec<_>>(), "{claim}");
    }
}

#[test]
fn a_port_that_is_not_redirected_has_no_proxy_before_it() {
    // What is annotated later says nothing of what init was told.
    let annotated = "namespace: shop, annotations: {config.meshctl.dev/skip-inbound-ports: '1-65535'}}";
    let init = "initContainers: [{name: mesh-init, env: [{name: A, value: '80'}, \
        {name: MESH_SKIP_INBOUND_PORTS, value: '9000, 8080-8090'}]}]";
    let pod = pod("web-0", init, &["10.0.0.1"]).replace("namespace: shop}", annotated);
    let slice = slice("web-a", "IPv4", &["addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-0}"]);
    let world = snapshot(&[service("web", WEB), slice, pod].concat());
    assert_eq!(resolved(&world, "10.0.0.1:8080"), "endpoint 10.0.0.1:8080 shop/web-0 plain");
    assert_eq!(resolved(&world, "10.0.0.1:9000"), "endpoint 10.0.0.1:9000 shop/web-0 plain");
    assert_eq!(resolved(&world, "10.0.0.1:80"), "endpoint 10.0.0.1:80 shop/web-0 web");
    let web = ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
    assert_eq!(world.endpoints_for(&web, &at("", ""))[0].identity, None);
}
