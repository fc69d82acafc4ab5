//! What the names of headless Services, of their pods and of ExternalNames stand for, what addresses do, and the
//! protocols of what is found.

use mesh_policy::Protocol;
use mesh_resources::Locality;

use crate::{WEB, addresses, doubtful, pod, resolved, service, slice, snapshot};

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
        assert_eq!(world.compile_workload("shop/web-0", &[]).unwrap().ports.get(8080).protocol, inbound);
    }
}
