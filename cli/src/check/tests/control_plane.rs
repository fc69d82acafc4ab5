//! Every check of the control plane and of its identities, over a cluster in which just the thing that it looks for is
//! wrong.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    each::{expect, expect_ok, forbids},
    one,
    well::{
        self, AUTHORITY, Authority, REVIEW_OTHERS, base64, cluster, control_pod, deployment, namespace, spiffe, stamp,
    },
};
use crate::{
    check::{
        Context,
        Status::{Failed, Skipped, Warning},
        run::run,
    },
    kube::mock::Mock,
};

/// The path of a Deployment of the control plane.
fn deployment_path(part: &str) -> String {
    format!("/apis/apps/v1/namespaces/mesh-system/deployments/{part}")
}

#[tokio::test]
async fn the_namespace() {
    let path = "/api/v1/namespaces/mesh-system";
    let id = "control-plane-namespace";
    expect(cluster().refuses(path, 404, "not found"), id, Failed, &["Mesh is not installed here"]).await;
    expect(cluster().object(path, namespace("mesh-system", json!({}))), id, Warning, &["meshctl.dev/inject is \"\""])
        .await;
    let going = json!({ "status": { "phase": "Terminating" } });
    expect(cluster().object(path, going), id, Failed, &["is being deleted"]).await;
}

#[tokio::test]
async fn its_pods() {
    let id = "control-plane-pods";
    expect(cluster().refuses(&deployment_path("mesh-injector"), 404, "x"), id, Failed, &["mesh-injector", "not whole"])
        .await;
    expect(
        cluster().object(&deployment_path("mesh-identity"), deployment("mesh-identity", 0, 0)),
        id,
        Failed,
        &["scaled to 0"],
    )
    .await;
    let pulling = json!({ "metadata": { "name": "p" }, "status": { "phase": "Pending", "containerStatuses": [
        { "name": "identity", "state": { "waiting": { "reason": "ErrImagePull", "message": "no such image" } } }] } });
    let waiting = cluster()
        .object(&deployment_path("mesh-identity"), deployment("mesh-identity", 2, 1))
        .list("/api/v1/namespaces/mesh-system/pods", vec![pulling]);
    expect(waiting, id, Failed, &["mesh-identity has 1 of 2 pods ready", "p: identity: ErrImagePull no such image"])
        .await;

    // What a pod that runs and is not ready says of itself.
    let pod = json!({ "metadata": { "name": "mesh-identity-1", "namespace": "mesh-system" }, "status": { "phase": "Running" } });
    let told = cluster()
        .object(&deployment_path("mesh-identity"), deployment("mesh-identity", 1, 0))
        .list("/api/v1/namespaces/mesh-system/pods", vec![pod])
        .failing_page("mesh-system/mesh-identity-1", 4652, "/ready", "not ready: the watch of the issuer ended\n");
    expect(told, id, Failed, &["mesh-identity-1: not ready: the watch of the issuer ended"]).await;
}

#[tokio::test]
async fn its_services() {
    let id = "control-plane-services";
    expect(
        cluster().refuses("/api/v1/namespaces/mesh-system/services/mesh-identity", 404, "x"),
        id,
        Failed,
        &["no Service"],
    )
    .await;
    let none = cluster().list("/apis/discovery.k8s.io/v1/namespaces/mesh-system/endpointslices", vec![]);
    expect(none, id, Failed, &["mesh-identity has no ready endpoint"]).await;
}

#[tokio::test]
async fn its_limits() {
    let id = "control-plane-limits";
    let problem =
        |kind: &str, name: &str, reason: &str| json!({ "object": format!("{kind} {name}"), "reason": reason });
    let problems = [
        problem("HTTPRoute", "tenant/a", "TooLarge"),
        problem("HTTPRoute", "tenant/a", "TooLarge"),
        problem("EndpointSlice", "tenant/b", "TooLarge"),
        problem("HTTPRoute", "bank/c", "TooManyRoutes"),
        problem("HTTPRoute", "shop/d", "BackendNotFound"),
    ];
    let mock = cluster().page("mesh-system/mesh-destination-1", 4652, "/problems", &json!(problems).to_string());
    let words =
        ["1 object of bank (HTTPRoute bank/c)", "2 objects of tenant (HTTPRoute tenant/a, EndpointSlice tenant/b)"];
    expect(mock, id, Warning, &words).await;
    let mock = cluster().page("mesh-system/mesh-destination-1", 4652, "/problems", "<html>");
    expect(mock, id, Skipped, &["is no list of problems"]).await;
}

#[tokio::test]
async fn its_leaders() {
    let id = "control-plane-leader";
    let lease = "/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases/mesh-identity";
    expect(cluster().refuses(lease, 404, "x"), id, Failed, &["nobody leads"]).await;
    expect(cluster().object(lease, json!({ "spec": {} })), id, Failed, &["nobody holds"]).await;
    let other = "/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases/mesh-destination";
    expect(cluster().refuses(other, 404, "x"), id, Failed, &["Lease mesh-system/mesh-destination: nobody leads"]).await;
    let over = json!({ "spec": { "holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": stamp(-600) } });
    // 45 s, or a few more on a busy machine.
    expect(cluster().object(lease, over), id, Failed, &["a led until 9 min 4"]).await;
}

#[tokio::test]
async fn its_permissions() {
    let mock = Mock::default().post(REVIEW_OTHERS, forbids(&["tokenreviews"]));
    expect(mock, "control-plane-permissions", Failed, &["mesh-identity may not create tokenreviews"]).await;
}

#[tokio::test]
async fn its_admission_policies() {
    let id = "control-plane-admission-policies";
    let policies = well::admission_policies();
    let at = |kind: &str, name: &str| {
        let found =
            policies.iter().find(|policy| policy["kind"] == kind && policy["metadata"]["name"] == name).unwrap();
        (crate::chart::object_path(found).unwrap(), found.clone())
    };
    let (path, mut policy) = at("ValidatingAdmissionPolicy", "mesh-identity");
    expect(cluster().refuses(&path, 404, "x"), id, Failed, &["no ValidatingAdmissionPolicy mesh-identity"]).await;
    policy["spec"]["validations"][0]["expression"] = "true".into();
    expect(
        cluster().object(&path, policy.clone()),
        id,
        Failed,
        &["ValidatingAdmissionPolicy mesh-identity is not as it was"],
    )
    .await;
    policy["metadata"]["labels"]["app.kubernetes.io/version"] = "0.0.9".into();
    expect_ok(cluster().object(&path, policy), id).await;
    let (path, mut binding) = at("ValidatingAdmissionPolicyBinding", "mesh-identity");
    binding["spec"]["validationActions"] = json!(["Audit"]);
    expect(cluster().object(&path, binding), id, Failed, &["Binding mesh-identity is not as it was made"]).await;
    // Without any it depends on what identity may.
    let none = |mock: Mock| {
        policies.iter().fold(mock, |mock, policy| mock.refuses(&crate::chart::object_path(policy).unwrap(), 404, "x"))
    };
    expect(none(cluster()), id, Failed, &["there is no ValidatingAdmissionPolicy mesh-identity"]).await;
    expect_ok(none(cluster()).post(REVIEW_OTHERS, forbids(&["mutatingwebhookconfigurations"])), id).await;
}

#[tokio::test]
async fn its_version() {
    let mut other = deployment("mesh-injector", 1, 1);
    other["metadata"]["labels"]["app.kubernetes.io/version"] = "0.0.9".into();
    expect(
        cluster().object(&deployment_path("mesh-injector"), other),
        "control-plane-version",
        Warning,
        &["mesh-injector is 0.0.9"],
    )
    .await;
}

#[tokio::test]
async fn anchors_and_issuer() {
    let path = "/api/v1/namespaces/mesh-system/configmaps/mesh-trust-bundle";
    let bundle = |pem: &str| cluster().object(path, json!({ "data": { "ca-bundle.pem": pem } }));
    let id = "identity-anchors";
    expect(cluster().refuses(path, 404, "x"), id, Failed, &["no ConfigMap mesh-system/mesh-trust-bundle"]).await;
    expect(bundle("garbage"), id, Failed, &["no PEM certificate"]).await;
    let ended = Authority::new(-86_400, -3_600);
    expect(bundle(&ended.issuer), id, Failed, &["CN=issuer ended 1 h"]).await;
    let soon = Authority::new(-300 * 86_400, 10 * 86_400);
    expect(bundle(&soon.issuer), id, Warning, &["CN=issuer ends in "]).await;

    let path = "/api/v1/namespaces/mesh-system/secrets/mesh-issuer";
    let secret = |cert: &str, key: &str| {
        cluster().object(path, json!({ "data": { "tls.crt": base64(cert), "tls.key": base64(key) } }))
    };
    let id = "identity-issuer";
    expect(cluster().refuses(path, 404, "x"), id, Failed, &["no Secret mesh-system/mesh-issuer"]).await;
    expect(cluster().refuses(path, 403, "x"), id, Skipped, &["as it should be"]).await;
    expect(secret("garbage", &AUTHORITY.issuer_key), id, Failed, &["tls.crt: there is no PEM"]).await;
    expect(secret(&AUTHORITY.issuer, "garbage"), id, Failed, &["tls.key"]).await;
    expect(secret(&ended.issuer, &ended.issuer_key), id, Failed, &["CN=issuer ended"]).await;
    let stranger = Authority::new(-60, 400 * 86_400);
    expect(secret(&stranger.issuer, &stranger.issuer_key), id, Failed, &["is not trusted"]).await;
    // A certificate and the key of another: what it signs does not verify.
    expect(secret(&AUTHORITY.issuer, &stranger.issuer_key), id, Failed, &["is not trusted"]).await;
    let closing = secret(&soon.issuer, &soon.issuer_key).object(
        "/api/v1/namespaces/mesh-system/configmaps/mesh-trust-bundle",
        json!({ "data": { "ca-bundle.pem": soon.root } }),
    );
    expect(closing, id, Warning, &["CN=issuer ends in "]).await;
}

#[tokio::test]
async fn trust_bundles() {
    let id = "identity-bundles";
    let path = "/api/v1/namespaces/shop/configmaps/mesh-trust-bundle";
    expect(cluster().refuses(path, 404, "x"), id, Failed, &["the namespace shop has none"]).await;
    expect(cluster().object(path, json!({ "data": {} })), id, Failed, &["shop has another one"]).await;
    // One that somebody holds is named with what ends it, and is no failure of the whole cluster.
    let held = json!({
        "metadata": { "name": "mesh-trust-bundle", "namespace": "shop", "finalizers": ["evil.example/hold"],
            "deletionTimestamp": stamp(-3) },
        "immutable": true, "data": { "ca-bundle.pem": "forged" },
    });
    let report = one(cluster().object(path, held.clone()), id).await;
    assert_eq!(report.status, Warning, "{}", report.message);
    assert!(
        report.message.contains(
            "ConfigMap shop/mesh-trust-bundle is being deleted and is held by the finalizer evil.example/hold"
        )
    );
    assert!(report.fix.starts_with("kubectl -n shop patch configmap mesh-trust-bundle "), "{}", report.fix);
    let context = Context::new(cluster().object(path, held).cluster(), Some("shop".to_owned()));
    let check = crate::check::all().filter(|check| check.id == id).collect::<Vec<_>>();
    let report = run(&check, Arc::new(context), Duration::ZERO, |_| {}).await.remove(0);
    assert_eq!(report.status, Failed, "asked of that namespace alone");
    expect(cluster().list("/api/v1/namespaces", vec![]), id, Skipped, &["no namespace is labelled"]).await;
}

#[tokio::test]
async fn what_identity_serves() {
    let id = "identity-serves";
    let stranger = Authority::new(-60, 400 * 86_400);
    let serves = |config| cluster().tls("mesh-system/mesh-identity-1", 4650, config);
    expect(serves(stranger.server(&[spiffe("mesh-identity")])), id, Failed, &["does not lead to a trust anchor"]).await;
    expect(serves(AUTHORITY.server(&[spiffe("default")])), id, Failed, &["sa/default", "not spiffe://"]).await;
    expect(
        cluster().page("mesh-system/mesh-identity-1", 1, "/", "").list_of(
            "/api/v1/namespaces/mesh-system/pods",
            "identity",
            vec![],
        ),
        id,
        Failed,
        &["no pod of mesh-identity is ready"],
    )
    .await;
    let other =
        cluster().list_of("/api/v1/namespaces/mesh-system/pods", "identity", vec![control_pod("mesh-identity-x")]);
    expect(other, id, Failed, &["port 4650", "connection refused"]).await;
}
