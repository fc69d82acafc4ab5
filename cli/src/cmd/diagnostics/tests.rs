//! Targets over a mock of the API server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::kube::mock::Mock;

/// The Service `shop/web` with a meshed and a plain pod, a route for it, and an installation in `example.org`.
fn mock() -> Mock {
    let pod = |name: &str, ip: &str, containers: Value| {
        json!({ "metadata": { "name": name, "namespace": "shop" },
            "spec": { "serviceAccountName": "web", "containers": containers },
            "status": { "phase": "Running", "podIP": ip } })
    };
    let endpoint = |name: &str, ip: &str| json!({ "addresses": [ip], "conditions": { "ready": true }, "targetRef": { "kind": "Pod", "name": name, "namespace": "shop" } });
    let route = json!({ "metadata": { "name": "split", "namespace": "shop" }, "spec": {
        "parentRefs": [{ "group": "", "kind": "Service", "name": "web" }],
        "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }, { "name": "absent", "port": 80 }] }] } });
    Mock::default()
        .list(
            "/api/v1/services",
            vec![json!({ "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "clusterIP": "10.96.0.7", "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } })],
        )
        .list(
            "/api/v1/pods",
            vec![
                pod("web-1", "10.88.0.1", json!([{ "name": "web" }, { "name": "mesh-proxy" }])),
                pod("web-2", "10.88.0.2", json!([{ "name": "web" }])),
            ],
        )
        .list("/api/v1/nodes", vec![])
        .list("/api/v1/namespaces", vec![])
        .list(
            "/apis/discovery.k8s.io/v1/endpointslices",
            vec![json!({
            "metadata": { "name": "web-x", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": [endpoint("web-1", "10.88.0.1"), endpoint("web-2", "10.88.0.2")] })],
        )
        .object("/apis/gateway.networking.k8s.io", json!({ "versions": [{ "version": "v1" }] }))
        .object(
            "/apis/gateway.networking.k8s.io/v1",
            json!({ "resources": [{ "name": "httproutes", "kind": "HTTPRoute" }] }),
        )
        .list("/apis/gateway.networking.k8s.io/v1/httproutes", vec![route])
        .object(
            "/api/v1/namespaces/mesh-system/configmaps/mesh-injector",
            json!({ "data": { "config.yaml": "trustDomain: example.org\n" } }),
        )
}

async fn world() -> World {
    world::read(&mock().cluster()).await.unwrap()
}

fn target(text: &str, from: Option<&str>) -> TargetArgs {
    TargetArgs { target: text.to_owned(), from: from.map(str::to_owned) }
}

#[tokio::test]
async fn endpoints_are_those_of_destination() {
    let world = world().await;
    for (text, from) in [("web:80", None), ("web.shop:80", Some("other")), ("10.96.0.7:80", Some("shop/web-1"))] {
        let table = endpoints(&world, &target(text, from), "shop", Format::Table).unwrap();
        assert_eq!(
            table,
            "ADDRESS          POD          TRANSPORT\n10.88.0.1:8080   shop/web-1   mTLS\n10.88.0.2:8080   shop/web-2   plain",
            "{text}"
        );
    }
    let wide = endpoints(&world, &target("web:80", None), "shop", Format::Wide).unwrap();
    assert!(wide.contains("spiffe://example.org/ns/shop/sa/web"), "{wide}");
    let json: Value =
        serde_json::from_str(&endpoints(&world, &target("10.88.0.2:8080", None), "shop", Format::Json).unwrap())
            .unwrap();
    assert_eq!((&json["endpoints"][0]["pod"], &json["endpoints"][0]["identity"]), (&"shop/web-2".into(), &Value::Null));
}

#[tokio::test]
async fn a_target_that_is_nothing_says_why() {
    let world = world().await;
    for (text, from, message) in [
        ("web", None, "has no port; write it as a client calls it, such as web.shop:80"),
        ("web:81", None, "the Service shop/web has no port 81"),
        ("web:80", Some("other"), "neither a Service nor a pod"),
        ("web:80", Some("shop/absent"), "there is no pod shop/absent"),
    ] {
        let error = endpoints(&world, &target(text, from), "shop", Format::Table).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}

#[tokio::test]
async fn a_policy_is_shown_with_what_is_wrong() {
    let found = policy(&world().await, &target("web:80", None), "shop").unwrap();
    assert_eq!(found["policy"]["routes"][0]["name"], "split");
    assert_eq!(found["policy"]["routes"][0]["rules"][0]["backends"][0]["service"], "shop/web:80");
    let problems = found["problems"].as_array().unwrap();
    assert!(problems.iter().any(|problem| problem.as_str().unwrap().contains("absent")), "{problems:?}");
}

#[tokio::test]
async fn pages_of_sidecars_are_passed_on() {
    let cluster = mock().page("shop/web-1", 4692, "/metrics", "up 1\n").cluster();
    assert_eq!(page(&cluster, "web-1", 4692, "/metrics").await.unwrap(), "up 1\n");
    assert_eq!(page(&cluster, "pod/web-1", 4692, "/metrics").await.unwrap(), "up 1\n");
    let error = format!("{:#}", page(&cluster, "shop/web-2", 4692, "/metrics").await.unwrap_err());
    assert!(
        error.contains("meshctl check --proxy -n shop") && error.contains("port 4692 of pod shop/web-2"),
        "{error}"
    );
    let error = page(&cluster, "web-1", 4692, "/nothing").await.unwrap_err().to_string();
    assert!(error.contains("404"), "{error}");
}
