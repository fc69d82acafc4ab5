//! Clusters that are well: one with Mesh and an application, one without anything.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::{Value, json};

use crate::{chart, clock, kube::mock::Mock};

/// An authority of a mesh: a root, and an issuer below it.
pub(super) struct Authority {
    pub(super) root: String,
    pub(super) issuer: String,
    pub(super) issuer_key: String,
}

impl Authority {
    /// Makes one whose issuer lasts from `begins` to `ends`, seconds from now.
    pub(super) fn new(begins: i64, ends: i64) -> Self {
        let params = |name: &str, begins: i64, ends: i64| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.not_before = time(begins);
            params.not_after = time(ends);
            params
        };
        let root_key = KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(params("root", begins, ends.max(400 * 86_400)), root_key).unwrap();
        let issuer_key = KeyPair::generate().unwrap();
        let issuer = params("issuer", begins, ends).signed_by(&issuer_key, &root).unwrap();
        Self { root: root.pem(), issuer: issuer.pem(), issuer_key: issuer_key.serialize_pem() }
    }

    /// What serves a leaf for these names.
    pub(super) fn server(&self, names: &[SanType]) -> Arc<ServerConfig> {
        let issuer = Issuer::from_ca_cert_pem(&self.issuer, KeyPair::from_pem(&self.issuer_key).unwrap()).unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = names.to_vec();
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.not_after = time(86_400);
        let key = KeyPair::generate().unwrap();
        let leaf: CertificateDer<'static> = leaf.signed_by(&key, &issuer).unwrap().into();
        let issuer = rustls::pki_types::pem::PemObject::from_pem_slice(self.issuer.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf, issuer], PrivateKeyDer::try_from(key.serialize_der()).unwrap());
        let mut config = config.unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A time from now, in the type that rcgen takes.
fn time<T: From<SystemTime>>(from_now: i64) -> T {
    (UNIX_EPOCH + Duration::from_secs((clock::now() + from_now).try_into().unwrap())).into()
}

/// The authority of the cluster that is well.
pub(super) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new(-3_600, 300 * 86_400));

pub(super) fn spiffe(account: &str) -> SanType {
    SanType::URI(format!("spiffe://cluster.local/ns/mesh-system/sa/{account}").try_into().unwrap())
}

pub(super) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub(super) fn base64(text: &str) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap()
}

const NOW_FORMAT: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// The header `Date` of a time from now.
pub(super) fn date(from_now: i64) -> String {
    jiff::Timestamp::from_second(clock::now() + from_now).unwrap().strftime(NOW_FORMAT).to_string()
}

/// RFC 3339 of a time from now.
pub(super) fn stamp(from_now: i64) -> String {
    clock::format(clock::now() + from_now)
}

pub(super) fn node(name: &str, kubelet: &str, kernel: &str) -> Value {
    json!({ "metadata": { "name": name }, "status": { "nodeInfo": {
        "kubeletVersion": kubelet, "kernelVersion": kernel, "operatingSystem": "linux", "architecture": "amd64",
    } }, "spec": { "podCIDR": "10.88.0.0/24" } })
}

pub(super) fn namespace(name: &str, labels: Value) -> Value {
    json!({ "metadata": { "name": name, "labels": labels }, "status": { "phase": "Active" } })
}

pub(super) fn deployment(name: &str, replicas: i64, available: i64) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "mesh-system", "generation": 1,
            "labels": { "app.kubernetes.io/version": env!("CARGO_PKG_VERSION") } },
        "spec": { "replicas": replicas },
        "status": { "observedGeneration": 1, "availableReplicas": available, "updatedReplicas": replicas },
    })
}

/// A ready pod of the control plane.
pub(super) fn control_pod(part: &str) -> Value {
    json!({
        "metadata": { "name": format!("{part}-1"), "namespace": "mesh-system" },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// A pod of an application with a sidecar that is well.
pub(super) fn meshed_pod() -> Value {
    json!({
        "metadata": { "name": "web-5d-1", "namespace": "shop",
            "labels": { "meshctl.dev/proxy-version": env!("CARGO_PKG_VERSION") },
            "ownerReferences": [{ "kind": "ReplicaSet", "name": "web-5d" }] },
        "spec": {
            "initContainers": [{ "name": "mesh-init" }, { "name": "mesh-proxy", "restartPolicy": "Always" }],
            "containers": [{ "name": "web" }],
        },
        "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "initContainerStatuses": [
                { "name": "mesh-init", "state": { "terminated": { "exitCode": 0 } } },
                { "name": "mesh-proxy", "ready": true, "state": { "running": {} } },
            ],
        },
    })
}

pub(super) fn crd(name: &str, version: &str) -> Value {
    json!({
        "metadata": { "name": name, "annotations": {
            "gateway.networking.k8s.io/bundle-version": "v1.6.3", "gateway.networking.k8s.io/channel": "standard" } },
        "spec": { "versions": [{ "name": version, "served": true }] },
        "status": { "conditions": [{ "type": "Established", "status": "True" }, { "type": "NamesAccepted", "status": "True" }] },
    })
}

pub(super) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(super) const REVIEW: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
pub(super) const REVIEW_OTHERS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
pub(super) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
pub(super) const WEBHOOK: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mesh-injector";

/// A cluster without Mesh.
pub(super) fn empty() -> Mock {
    let allowed = |_: &str, mut review: Value| {
        review["status"] = json!({ "allowed": true });
        (201, review)
    };
    Mock::default()
        .date(&date(0))
        .object("/version", json!({ "gitVersion": "v1.34.4" }))
        .post(REVIEW, allowed)
        .post(REVIEW_OTHERS, allowed)
        .list("/api/v1/nodes", vec![node("a", "v1.34.4", "6.18.0")])
        .list("/api/v1/namespaces", vec![namespace("default", json!({}))])
        .list(LEASES, vec![json!({ "metadata": { "name": "a" }, "spec": { "renewTime": stamp(-3) } })])
        .list(CRDS, vec![])
        .object(
            &format!("{CRDS}/httproutes.gateway.networking.k8s.io"),
            crd("httproutes.gateway.networking.k8s.io", "v1"),
        )
        .object(
            &format!("{CRDS}/grpcroutes.gateway.networking.k8s.io"),
            crd("grpcroutes.gateway.networking.k8s.io", "v1"),
        )
}

/// The webhook configuration, with this authority.
pub(super) fn webhook(bundle: &str) -> Value {
    json!({ "webhooks": [{
        "name": "namespaces.inject.meshctl.dev", "timeoutSeconds": 3, "failurePolicy": "Fail",
        "namespaceSelector": { "matchLabels": { "meshctl.dev/inject": "enabled" } },
        "clientConfig": { "service": { "name": "mesh-injector" }, "caBundle": base64(bundle) },
    }] })
}

/// A cluster with Mesh and the application `web` in the namespace `shop`.
pub(super) fn cluster() -> Mock {
    let system = namespace(
        "mesh-system",
        json!({ "meshctl.dev/inject": "disabled", "pod-security.kubernetes.io/enforce": "restricted" }),
    );
    let shop = namespace("shop", json!({ "meshctl.dev/inject": "enabled" }));
    let bundle = json!({ "data": { "ca-bundle.pem": AUTHORITY.root } });
    let secret = json!({ "data": { "tls.crt": base64(&AUTHORITY.issuer), "tls.key": base64(&AUTHORITY.issuer_key) } });
    let lease =
        |holder| json!({ "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": stamp(-2) } });
    let mut mock = empty()
        .list(
            CRDS,
            ["authorizationpolicies", "clusterauthorizationpolicies", "retrypolicies"]
                .map(|plural| crd(&format!("{plural}.policy.meshctl.dev"), "v1alpha1"))
                .to_vec(),
        )
        .object("/api/v1/namespaces/mesh-system", system.clone())
        .list("/api/v1/namespaces", vec![system, shop])
        .object("/api/v1/namespaces/mesh-system/configmaps/mesh-trust-bundle", bundle.clone())
        .object("/api/v1/namespaces/shop/configmaps/mesh-trust-bundle", bundle)
        .object("/api/v1/namespaces/mesh-system/secrets/mesh-issuer", secret)
        .object("/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases/mesh-identity", lease("mesh-identity-1"))
        .object(
            "/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases/mesh-destination",
            lease("mesh-destination-1"),
        )
        .object(WEBHOOK, webhook(&AUTHORITY.root))
        .post("/api/v1/namespaces/shop/pods", |query, mut pod| {
            assert_eq!(query, "dryRun=All", "a check must not store anything");
            pod["spec"]["initContainers"] = json!([{ "name": "mesh-proxy" }]);
            (201, pod)
        })
        .list("/api/v1/pods", vec![meshed_pod()])
        .list("/api/v1/namespaces/mesh-system/pods", vec![])
        .tls("mesh-system/mesh-identity-1", 4650, AUTHORITY.server(&[spiffe("mesh-identity")]))
        .tls("mesh-system/mesh-injector-1", 4653, AUTHORITY.server(&[dns("mesh-injector.mesh-system.svc")]))
        .page("mesh-system/mesh-destination-1", 4652, "/problems", "[]")
        .page("shop/web-5d-1", 4692, "/metrics", &metrics(20 * 3_600, 0));
    let mut slices = Vec::new();
    for part in ["mesh-identity", "mesh-destination", "mesh-injector"] {
        mock = mock
            .object(&format!("/apis/apps/v1/namespaces/mesh-system/deployments/{part}"), deployment(part, 1, 1))
            .object(
                &format!("/api/v1/namespaces/mesh-system/services/{part}"),
                json!({ "metadata": { "name": part } }),
            );
        slices.push(json!({ "metadata": { "labels": { "kubernetes.io/service-name": part } },
            "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": true } }] }));
    }
    for policy in admission_policies() {
        mock = mock.object(&chart::object_path(&policy).unwrap(), policy);
    }
    mock.list("/apis/discovery.k8s.io/v1/namespaces/mesh-system/endpointslices", slices)
        .list_of("/api/v1/namespaces/mesh-system/pods", "identity", vec![control_pod("mesh-identity")])
        .list_of("/api/v1/namespaces/mesh-system/pods", "injector", vec![control_pod("mesh-injector")])
        .list_of("/api/v1/namespaces/mesh-system/pods", "destination", vec![control_pod("mesh-destination")])
}

/// The admission policies and their bindings, as an API server gives them.
pub(super) fn admission_policies() -> Vec<Value> {
    let rendered = chart::render(chart::largest()).unwrap().into_iter().map(|manifest| manifest.object);
    let mut policies: Vec<_> = rendered
        .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.starts_with("ValidatingAdmissionPolicy")))
        .collect();
    for policy in policies.iter_mut().filter(|object| object["kind"] == "ValidatingAdmissionPolicy") {
        policy["spec"]["matchConstraints"]["matchPolicy"] = "Equivalent".into();
        policy["spec"]["matchConstraints"]["objectSelector"] = json!({});
    }
    policies
}

/// The metrics of a sidecar: how long its certificate lasts, how long it has not heard from the control plane.
pub(super) fn metrics(lasts: i64, away: i64) -> String {
    let since = if away == 0 { 0 } else { clock::now() - away };
    let ends = clock::now() + lasts;
    format!(
        "mesh_certificate_expiry_seconds {ends}\nmesh_control_disconnected_since_seconds {since}\nmesh_control_rejected_total 0\n"
    )
}
