//! Every check of Kubernetes, the Gateway API, the webhook and the data plane, over a cluster in which just the thing that
//! it looks for is wrong.

use serde_json::{Value, json};

use super::{
    one,
    well::{
        self, AUTHORITY, Authority, CRDS, LEASES, REVIEW, WEBHOOK, base64, cluster, crd, date, deployment, dns, empty,
        meshed_pod, metrics, namespace, node, stamp,
    },
};
use crate::{
    check::Status::{self, Failed, Skipped, Warning},
    kube::mock::Mock,
};

/// Runs a check and compares how it ends, and that it says these words and how to fix it.
pub(crate) async fn expect(mock: Mock, id: &str, status: Status, words: &[&str]) {
    let report = one(mock, id).await;
    assert_eq!(report.status, status, "{id}: {}", report.message);
    for word in words {
        assert!(report.message.contains(word), "{id} does not say {word:?}: {}", report.message);
    }
    assert_eq!(report.fix.is_empty(), status == Skipped, "{id}: {}", report.fix);
}

pub(crate) async fn expect_ok(mock: Mock, id: &str) {
    let report = one(mock, id).await;
    assert_eq!((report.status, report.fix.as_str()), (Status::Ok, ""), "{id}: {}", report.message);
}

/// An API server that allows everything but what has these words in it.
pub(crate) fn forbids(words: &'static [&'static str]) -> impl Fn(&str, Value) -> (u16, Value) {
    move |_, mut review| {
        let text = review.to_string();
        review["status"] = json!({ "allowed": !words.iter().any(|word| text.contains(word)) });
        (201, review)
    }
}

#[tokio::test]
async fn the_api_server() {
    let id = "kubernetes-api";
    expect(cluster().object("/version", json!({ "gitVersion": "v1.26.9" })), id, Failed, &["v1.26.9", "1.27"]).await;
    expect(cluster().object("/version", json!({ "gitVersion": "" })), id, Failed, &["none of Kubernetes"]).await;
    expect(cluster().refuses("/version", 401, "Unauthorized"), id, Failed, &["log in anew"]).await;
    expect(cluster().refuses("/version", 403, "no"), id, Skipped, &["ask for that permission"]).await;

    let id = "kubernetes-admission-policies";
    expect(cluster().object("/version", json!({ "gitVersion": "v1.29.9" })), id, Warning, &["v1.29.9", "1.30"]).await;
}

#[tokio::test]
async fn permissions_of_the_user() {
    let mock = Mock::default().post(REVIEW, forbids(&["\"secrets\""]));
    expect(mock, "kubernetes-permissions", Failed, &["may not create secrets in mesh-system"]).await;
    let mock = Mock::default().post(REVIEW, forbids(&["portforward", "\"nodes\""]));
    let words = ["list nodes", "create pods/portforward in mesh-system"];
    expect(mock, "kubernetes-check-permissions", Warning, &words).await;
}

#[tokio::test]
async fn clocks() {
    let id = "kubernetes-clock";
    expect(cluster().date(&date(-400)), id, Failed, &["ahead of the API server's"]).await;
    expect(cluster().date(&date(30)), id, Warning, &["behind the API server's"]).await;
    expect(cluster().date("soon"), id, Skipped, &["does not say what time it is"]).await;
    let lease = |from_now| vec![json!({ "metadata": { "name": "b" }, "spec": { "renewTime": stamp(from_now) } })];
    expect(cluster().list(LEASES, lease(30)), id, Warning, &["node b is", "ahead"]).await;
    expect(cluster().list(LEASES, lease(-300)), id, Warning, &["node b was last heard of"]).await;
}

#[tokio::test]
async fn nodes_and_their_networks() {
    let nodes = |node| cluster().list("/api/v1/nodes", vec![node]);
    expect(nodes(node("old", "v1.28.2", "6.1.0")), "kubernetes-sidecars", Warning, &["old has kubelet v1.28.2"]).await;
    let id = "kubernetes-kernel";
    expect(nodes(node("old", "v1.34.0", "4.19.0-1")), id, Warning, &["old has kernel 4.19.0-1"]).await;
    let mut windows = node("win", "v1.34.0", "10.0.20348");
    windows["status"]["nodeInfo"]["operatingSystem"] = "windows".into();
    expect(nodes(windows), id, Warning, &["win runs windows"]).await;

    let id = "kubernetes-pod-networks";
    let mut elsewhere = node("cloud", "v1.34.0", "6.1.0");
    elsewhere["spec"]["podCIDR"] = Value::Null;
    let values = |networks: &str| {
        let values = json!({ "data": { "values.yaml": format!("clusterNetworks: {networks}\n") } });
        let path = "/api/v1/namespaces/mesh-system/configmaps/mesh-values";
        cluster().list("/api/v1/nodes", vec![elsewhere.clone()]).object(path, values)
    };
    expect(values("[]"), id, Warning, &["cloud has no podCIDR", "clusterNetworks is empty"]).await;
    expect_ok(values("[10.0.0.0/8]"), id).await;
}

#[tokio::test]
async fn pod_security() {
    let id = "kubernetes-pod-security";
    let enforced = |name: &str, inject: &str, level: &str| {
        namespace(name, json!({ "meshctl.dev/inject": inject, "pod-security.kubernetes.io/enforce": level }))
    };
    let of = |namespaces: Vec<Value>| empty().list("/api/v1/namespaces", namespaces);
    let labelled = vec![
        enforced("shop", "enabled", "baseline"),
        enforced("bank", "enabled", "restricted"),
        enforced("open", "enabled", "privileged"),
        enforced("kube-system", "enabled", "baseline"),
        enforced("mesh-system", "disabled", "restricted"),
        enforced("later", "", "baseline"),
    ];
    let report = one(of(labelled.clone()), id).await;
    assert_eq!(
        (report.status, report.fix.as_str()),
        (Warning, "kubectl label namespace shop bank --overwrite pod-security.kubernetes.io/enforce=privileged")
    );
    assert!(report.message.contains("of shop (baseline), bank (restricted) refuses NET_ADMIN"), "{}", report.message);
    let report = one(of(labelled[2..].to_vec()), id).await;
    assert_eq!(report.status, Status::Ok);
    assert!(report.message.ends_with("1 other would, if labelled: later (baseline)"), "{}", report.message);
    let config = json!({ "data": { "config.yaml": "init: {enabled: false}" } });
    expect_ok(of(labelled).object("/api/v1/namespaces/mesh-system/configmaps/mesh-injector", config), id).await;
}

#[tokio::test]
async fn there_is_no_mesh_yet() {
    let id = "kubernetes-no-mesh";
    let installed =
        cluster().list("/apis/apps/v1/namespaces/mesh-system/deployments", vec![deployment("mesh-identity", 1, 1)]);
    expect(installed, id, Failed, &["Mesh", env!("CARGO_PKG_VERSION"), "half installed", "missing is"]).await;
    expect(empty().object(WEBHOOK, well::webhook("")), id, Failed, &["without a control plane"]).await;
}

#[tokio::test]
async fn gateway_api() {
    let routes = format!("{CRDS}/httproutes.gateway.networking.k8s.io");
    let id = "gateway-api-present";
    expect(cluster().refuses(&routes, 404, "not found"), id, Warning, &["no HTTPRoute"]).await;
    let mut old = crd("httproutes.gateway.networking.k8s.io", "v1");
    old["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"] = "v1.0.0".into();
    expect(cluster().object(&routes, old), id, Warning, &["v1.0.0", "older than 1.4"]).await;
    let report = one(cluster(), id).await;
    assert!(report.message.contains("without TLSRoute, TCPRoute, ReferenceGrant"), "{}", report.message);

    let id = "gateway-api-served";
    let alpha = crd("httproutes.gateway.networking.k8s.io", "v1alpha2");
    let words = ["httproutes is served in v1alpha2, and Mesh reads v1, v1beta1"];
    expect(cluster().object(&routes, alpha), id, Failed, &words).await;
    let alpha = crd("tlsroutes.gateway.networking.k8s.io", "v1alpha3");
    expect_ok(cluster().object(&format!("{CRDS}/tlsroutes.gateway.networking.k8s.io"), alpha), id).await;
    let words = ["no retrypolicies.policy.meshctl.dev"];
    expect(cluster().list(CRDS, vec![]), id, Warning, &words).await;
    let mut pending = crd("x.policy.meshctl.dev", "v1");
    pending["status"]["conditions"][0]["status"] = "False".into();
    expect(cluster().list(CRDS, vec![pending]), id, Failed, &["x.policy.meshctl.dev is not established"]).await;
    let none = Mock::default().list(CRDS, vec![]);
    expect(none, id, Skipped, &["there are none"]).await;
}

#[tokio::test]
async fn webhook() {
    let id = "webhook-configuration";
    let with = |at: &str, value: Value| {
        let mut webhook = well::webhook(&AUTHORITY.root);
        *webhook.pointer_mut(at).unwrap() = value;
        cluster().object(WEBHOOK, webhook)
    };
    expect(cluster().refuses(WEBHOOK, 404, "x"), id, Failed, &["no MutatingWebhookConfiguration"]).await;
    expect(with("/webhooks", json!([])), id, Failed, &["has no webhook"]).await;
    expect(with("/webhooks/0/namespaceSelector", json!({})), id, Failed, &["every pod of the cluster"]).await;
    expect(with("/webhooks/0/timeoutSeconds", json!(30)), id, Failed, &["may take 30 s"]).await;
    expect(with("/webhooks/0/clientConfig/service/name", json!("x")), id, Failed, &["does not lead to the Service"])
        .await;
    expect(with("/webhooks/0/clientConfig/caBundle", base64("garbage")), id, Failed, &["the caBundle of"]).await;

    let id = "webhook-serves";
    let serves = |config| cluster().tls("mesh-system/mesh-injector-1", 4653, config);
    let name = "mesh-injector.mesh-system.svc";
    let stranger = Authority::new(-60, 400 * 86_400);
    expect(serves(stranger.server(&[dns(name)])), id, Failed, &["does not lead to a trust anchor"]).await;
    expect(serves(AUTHORITY.server(&[dns("other.svc")])), id, Failed, &["not for the name mesh-injector"]).await;

    let system = namespace("kube-system", json!({ "meshctl.dev/inject": "enabled" }));
    let mock = cluster().list("/api/v1/namespaces", vec![system]);
    expect(mock, "webhook-namespaces", Warning, &["the label of kube-system has no effect"]).await;

    let id = "webhook-called";
    let answers =
        |status, value: Value| cluster().post("/api/v1/namespaces/shop/pods", move |_, _| (status, value.clone()));
    expect(answers(201, json!({ "spec": { "containers": [] } })), id, Failed, &["shop came back without a sidecar"])
        .await;
    let down = json!({ "message": "failed calling webhook \"namespaces.inject.meshctl.dev\": connection refused" });
    expect(answers(500, down), id, Failed, &["could not have a pod of shop injected", "connection refused"]).await;
    expect(
        answers(403, json!({ "message": "pods is forbidden: user cannot create" })),
        id,
        Skipped,
        &["may not create"],
    )
    .await;
    // Every namespace whose Pod Security refuses what is injected is named.
    let message = "violates PodSecurity \"baseline:latest\": non-default capabilities (container \"mesh-init\" must not include \"NET_ADMIN\")";
    let refused = |mock: Mock, namespace: &str| {
        mock.post(&format!("/api/v1/namespaces/{namespace}/pods"), move |_, _| (403, json!({ "message": message })))
    };
    let labelled = ["shop", "bank"].map(|name| namespace(name, json!({ "meshctl.dev/inject": "enabled" })));
    let mock = refused(refused(cluster().list("/api/v1/namespaces", labelled.to_vec()), "shop"), "bank");
    let report = one(mock, id).await;
    assert_eq!(
        (report.status, report.fix.as_str()),
        (Failed, "kubectl label namespace shop bank --overwrite pod-security.kubernetes.io/enforce=privileged")
    );
    assert!(report.message.contains("Pod Security of shop, bank refuses NET_ADMIN"), "{}", report.message);
    let quota = json!({ "message": "exceeded quota: pods" });
    expect(answers(403, quota), id, Skipped, &["another reason", "exceeded quota"]).await;
    // No namespace is labelled yet: a pod that asks for itself shows whether the API server calls the webhook.
    let alone = |status, value: Value| {
        let mock = cluster().list("/api/v1/namespaces", vec![]);
        mock.post("/api/v1/namespaces/default/pods", move |_, _| (status, value.clone()))
    };
    let sidecar = json!({ "spec": { "initContainers": [{ "name": "mesh-proxy" }], "containers": [] } });
    expect_ok(alone(201, sidecar), id).await;
    let down = json!({ "message": "failed calling webhook \"pods.inject.meshctl.dev\": connection refused" });
    expect(alone(500, down), id, Failed, &["could not have a pod of default injected", "connection refused"]).await;
    let security = json!({ "message": "violates PodSecurity \"restricted\": container \"mesh-init\"" });
    expect(alone(403, security), id, Skipped, &["no namespace is labelled"]).await;
    expect(cluster().list("/api/v1/namespaces", vec![]), id, Skipped, &["no namespace is labelled"]).await;
}

#[tokio::test]
async fn data_plane() {
    let pod = |change: &dyn Fn(&mut Value)| {
        let mut pod = meshed_pod();
        change(&mut pod);
        cluster().list("/api/v1/pods", vec![pod])
    };
    let id = "proxy-redirection";
    let failed = json!({ "exitCode": 1, "message": "nf_tables is not there" });
    let mock = pod(&|pod| {
        pod["status"]["initContainerStatuses"][0]["state"] = json!({ "waiting": {}, "terminated": failed.clone() })
    });
    expect(mock, id, Failed, &["mesh-init of shop/web-5d-1 ended with code 1 nf_tables is not there"]).await;
    expect(cluster().list("/api/v1/pods", vec![]), id, Skipped, &["no pod here has a sidecar"]).await;

    let mock = pod(&|pod| {
        pod["status"]["conditions"] = json!([]);
        pod["status"]["initContainerStatuses"][1] = json!({ "name": "mesh-proxy", "ready": false, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                "lastState": { "terminated": { "exitCode": 1, "message": "no token" } } });
    });
    expect(mock, "proxy-ready", Failed, &["1 of 1 sidecar not ready", "ends with code 1 again and again (no token)"])
        .await;

    let page = |text: &str| cluster().page("shop/web-5d-1", 4692, "/metrics", text);
    let id = "proxy-certificates";
    expect(page(&metrics(-60, 0)), id, Failed, &["that of shop/web-5d-1 ended 1 min"]).await;
    expect(page("up 1\n"), id, Failed, &["shop/web-5d-1 has none"]).await;
    let failing = metrics(600, 0) + "mesh_certificate_failures_total 3\n";
    expect(page(&failing), id, Warning, &["shop/web-5d-1 has", "left and could not be renewed"]).await;
    expect_ok(page(&metrics(600, 0)), id).await;

    let id = "proxy-policy";
    expect(page(&metrics(86_400, 300)), id, Failed, &["shop/web-5d-1 has not heard from it for 5 min"]).await;
    let refused = metrics(86_400, 0).replace("rejected_total 0", "rejected_total 2");
    expect(page(&refused), id, Warning, &["refused 2 updates"]).await;

    let id = "proxy-version";
    let mock = pod(&|pod| pod["metadata"]["labels"]["meshctl.dev/proxy-version"] = "0.0.9".into());
    expect(mock, id, Warning, &["shop/web-5d-1 has 0.0.9"]).await;

    let id = "proxy-missing";
    let mock = pod(&|pod| pod["spec"]["initContainers"] = json!([]));
    let report = one(mock, id).await;
    assert_eq!((report.status, report.fix.as_str()), (Warning, "kubectl -n shop rollout restart deployment web"));
    let mock = pod(&|pod| {
        pod["spec"]["initContainers"] = json!([]);
        pod["metadata"]["labels"]["meshctl.dev/inject"] = "disabled".into();
    });
    expect_ok(mock, id).await;
}
