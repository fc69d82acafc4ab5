//! Whom a change of a Service, a slice, a pod or a node touches, and what an answer depends on.

use mesh_resources::{Depends, Key, Locality, Snapshot, parse_manifests};

use crate::{WEB, addresses, doubtful, pod, service, slice, snapshot};

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
    let zoned = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}";
    let touched = change(zoned);
    assert_eq!((touched.services, touched.pods, touched.addresses), Default::default(), "nothing runs there");
    assert_eq!(touched.nodes, ["n1".into()].into());
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
    let told =
        |world: &Snapshot, pod: &str| world.compile_workload(pod, &[]).unwrap().ports.get(8080).has_request_routes;
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
    let node = |cidr: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: node}}\nspec: {{podCIDR: {cidr}}}");
    let mut change = |text: &str| {
        world.apply(&parse_manifests(text, "x.yaml").unwrap()[0]);
        let touched = world.take_touched();
        let services: Vec<_> = touched.services.iter().map(|key| key.name.to_string()).collect();
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
