//! Who has an address, whatever slices claim: with which identity its endpoint is called, in plain text, or not at all.

use mesh_policy::ServiceRef;
use mesh_resources::{Key, Locality, Options, Snapshot, parse_manifests};

use crate::{WEB, addresses, at, doubtful, pod, resolved, service, slice, snapshot};

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
            let service = ServiceRef::new(namespace, "web", 80);
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
        let web = ServiceRef::new("shop", "web", 80);
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
    let web = ServiceRef::new("shop", "web", 80);
    assert_eq!(world.endpoints_for(&web, &at("", ""))[0].identity, None);
}
