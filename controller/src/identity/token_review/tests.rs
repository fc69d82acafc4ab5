//! Answers of an API server, and what becomes of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::identity::ca::Authority;

const TOKEN: &str = "eyJh.eyJz.c2ln";

/// What the API server answers, and what it was asked.
#[derive(Clone)]
struct Server {
    review: (u16, Value),
    pod: (u16, Value),
    asked: Arc<Mutex<Vec<Value>>>,
    calls: Arc<AtomicUsize>,
}

impl Server {
    /// All is well: the pod shop/web-0 of the service account web, meshed.
    fn good() -> Self {
        Self {
            review: (201, review("shop", "web", "web-0", "u1")),
            pod: (200, pod("u1", "web", &["app"], &["mesh-init", "mesh-proxy"])),
            asked: Arc::default(),
            calls: Arc::default(),
        }
    }

    fn verifier(&self) -> KubeVerifier {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::io::Error>(server.answer(request).await) }
        });
        KubeVerifier::new(Client::new(service, "mesh-system"), "mesh-system", "cluster.local".into())
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (parts, body) = request.into_parts();
        let (status, answer) = if parts.uri.path() == "/apis/authentication.k8s.io/v1/tokenreviews" {
            let body = body.collect_bytes().await.unwrap();
            self.asked.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            &self.review
        } else {
            self.asked.lock().unwrap().push(json!(parts.uri.path()));
            &self.pod
        };
        let body = Body::from(serde_json::to_vec(answer).unwrap());
        Response::builder().status(StatusCode::from_u16(*status).unwrap()).body(body).unwrap()
    }

    async fn verify(&self) -> Result<Subject, Refusal> {
        self.verifier().verify(TOKEN, None).await
    }
}

fn review(namespace: &str, account: &str, pod: &str, uid: &str) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": {
        "authenticated": true, "audiences": [TOKEN_AUDIENCE],
        "user": {"username": format!("system:serviceaccount:{namespace}:{account}"), "uid": "s1",
            "extra": {POD_NAME: [pod], POD_UID: [uid], "authentication.kubernetes.io/node-name": ["n1"]}}}})
}

fn pod(uid: &str, account: &str, containers: &[&str], init: &[&str]) -> Value {
    let named = |names: &[&str]| names.iter().map(|name| json!({"name": name, "image": "x"})).collect::<Vec<_>>();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "uid": uid},
        "spec": {"serviceAccountName": account, "containers": named(containers), "initContainers": named(init)},
        "status": {"phase": "Running"}})
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}))
}

#[tokio::test]
async fn a_good_token_is_its_pods_service_account() {
    let server = Server::good();
    let subject = server.verify().await.unwrap();
    assert_eq!(subject.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((subject.dns_name, subject.workload.as_str()), (None, "shop/web-0"));
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked[0]["spec"], json!({"audiences": [TOKEN_AUDIENCE], "token": TOKEN}), "our audience and no other");
    assert_eq!(asked[1], "/api/v1/namespaces/shop/pods/web-0");
    // The older form of the sidecar, an ordinary container.
    let pod = (200, pod("u1", "web", &["mesh-proxy", "app"], &[]));
    Server { pod, ..Server::good() }.verify().await.unwrap();
}

#[tokio::test]
async fn the_control_plane_needs_no_sidecar_and_the_injector_has_a_dns_name() {
    let of = |namespace, account| Server {
        review: (201, review(namespace, account, "p-0", "u1")),
        pod: (200, pod("u1", account, &["controller"], &[])),
        ..Server::good()
    };
    let destination = of("mesh-system", "mesh-destination").verify().await.unwrap();
    assert_eq!(destination.identity.as_str(), "spiffe://cluster.local/ns/mesh-system/sa/mesh-destination");
    assert_eq!(destination.dns_name, None);
    let injector = of("mesh-system", "mesh-injector").verify().await.unwrap();
    assert_eq!(injector.dns_name.as_deref(), Some("mesh-injector.mesh-system.svc"));
    // Neither the name elsewhere nor another of the namespace is enough.
    for (namespace, account) in
        [("shop", "mesh-injector"), ("mesh-system", "mesh-identity"), ("mesh-system", "default")]
    {
        let refused = of(namespace, account).verify().await.unwrap_err();
        assert!(matches!(&refused, Refusal::Denied(why) if why.contains("not meshed")), "{refused}");
    }
    // A meshed pod elsewhere whose service account is called like the injector's: the identity, but no DNS name.
    let meshed = Server { pod: (200, pod("u1", "mesh-injector", &["mesh-proxy"], &[])), ..of("shop", "mesh-injector") };
    assert_eq!(meshed.verify().await.unwrap().dns_name, None);
}

#[tokio::test]
async fn answers_that_prove_nothing_are_refused() {
    let with = |change: fn(&mut Value)| {
        let mut server = Server::good();
        change(&mut server.review.1["status"]);
        server
    };
    let cases = [
        ("does not accept", with(|s| *s = json!({"error": "token expired"}))),
        ("does not accept", with(|s| s["authenticated"] = json!(false))),
        ("does not accept", with(|s| *s = Value::Null)),
        ("audience", with(|s| s["audiences"] = json!([]))),
        ("audience", with(|s| drop(s.as_object_mut().unwrap().remove("audiences")))),
        ("audience", with(|s| s["audiences"] = json!(["https://kubernetes.default.svc"]))),
    ];
    for (reason, server) in cases {
        let refused = server.verify().await.unwrap_err();
        assert!(matches!(&refused, Refusal::Token(why) if why.contains(reason)), "{reason}: {refused}");
    }
    let denied = [
        ("not of a service account", with(|s| s["user"]["username"] = json!("admin"))),
        ("not of a service account", with(|s| s["user"]["username"] = json!("system:serviceaccount:shop"))),
        ("not of a service account", with(|s| s["user"]["username"] = json!("system:serviceaccount:a/b:web"))),
        ("not of a service account", with(|s| s["user"]["username"] = json!("system:serviceaccount:shop:web:x"))),
        ("not bound to a pod", with(|s| s["user"]["extra"] = json!({}))),
        ("not bound to a pod", with(|s| s["user"]["extra"][POD_UID] = json!([]))),
        ("not bound to a pod", with(|s| s["user"]["extra"][POD_NAME] = json!(["a", "b"]))),
        ("not bound to a pod", with(|s| s["user"]["extra"][POD_NAME] = json!(["../secrets"]))),
        ("does not exist", Server { pod: failure(404, "not found"), ..Server::good() }),
        ("does not exist", Server { pod: (200, pod("u2", "web", &["mesh-proxy"], &[])), ..Server::good() }),
        ("runs as other", Server { pod: (200, pod("u1", "other", &["mesh-proxy"], &[])), ..Server::good() }),
        ("not meshed", Server { pod: (200, pod("u1", "web", &["app"], &["mesh-init"])), ..Server::good() }),
        ("has ended", {
            let mut server = Server::good();
            server.pod.1["status"]["phase"] = json!("Succeeded");
            server
        }),
    ];
    for (reason, server) in denied {
        let refused = server.verify().await.unwrap_err();
        assert!(matches!(&refused, Refusal::Denied(why) if why.contains(reason)), "{reason}: {refused}");
    }
}

#[tokio::test]
async fn an_api_server_that_is_away_or_forbids_is_not_the_callers_fault() {
    for review in [failure(500, "etcd is away"), failure(403, "may not create tokenreviews"), failure(429, "slow down")]
    {
        let refused = Server { review, ..Server::good() }.verify().await.unwrap_err();
        let told = |why: &str| why.contains("ask again") && !["etcd", "tokenreviews"].iter().any(|w| why.contains(w));
        assert!(matches!(&refused, Refusal::Unavailable(why) if told(why)), "{refused}");
    }
    let refused = Server { pod: failure(503, "starting"), ..Server::good() }.verify().await.unwrap_err();
    assert!(matches!(refused, Refusal::Unavailable(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_says_nothing_is_waited_for_no_longer_than_the_limit() {
    let silent = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, std::io::Error>>());
    let verifier = KubeVerifier::new(Client::new(silent, "mesh-system"), "mesh-system", "cluster.local".into());
    let refused = verifier.verify(TOKEN, None).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Unavailable(why) if why.contains("8s")), "{refused}");
}

#[tokio::test]
async fn rubbish_never_reaches_the_api_server() {
    let server = Server::good();
    let long = format!("a.{}.c", "b".repeat(MAX_TOKEN_BYTES));
    for token in ["", "a", "a.b", "a.b.c.d", "a..c", "a.b\n.c", "a.b.c=", "ä.b.c", &long] {
        assert!(matches!(server.verifier().verify(token, None).await, Err(Refusal::Token(_))), "{token:?}");
    }
    assert_eq!(server.calls.load(Ordering::Relaxed), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a request asks for, the certificate has the name that the token proved and no other.
    #[test]
    fn the_names_in_a_certificate_are_the_tokens(
        names in proptest::collection::vec("[a-z]{1,10}\\.[a-z]{1,10}", 0..4),
        uris in proptest::collection::vec("spiffe://cluster\\.local/ns/[a-z]{1,8}/sa/[a-z]{1,8}", 0..4),
        namespace in "[a-z][a-z0-9]{0,10}",
        account in "[a-z][a-z0-9]{0,10}",
        common_name in "[ -~]{0,20}",
    ) {
        use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};
        let issued = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let server = Server {
                review: (201, review(&namespace, &account, "p", "u1")),
                pod: (200, pod("u1", &account, &["mesh-proxy"], &[])),
                ..Server::good()
            };
            let subject = server.verify().await.unwrap();
            let mut params = CertificateParams::new(names).unwrap();
            params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())));
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
            authority().sign_request(csr.der(), &subject.identity, subject.dns_name.as_deref()).unwrap()
        });
        let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
        let expected = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        prop_assert_eq!(&san.value.general_names, &[x509_parser::prelude::GeneralName::URI(&expected)]);
        prop_assert!(!leaf.is_ca());
        prop_assert_eq!(leaf.subject().to_string(), "O=Mesh workload");
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        prop_assert!(usage.client_auth && usage.server_auth && !usage.code_signing);
    }
}

fn authority() -> Authority {
    use crate::identity::issuer::{self, tests as pki};
    let root = pki::Pair::root("root");
    let secret = pki::secret(&[&root], &root.key.serialize_pem(), &[&root]);
    let accepted = issuer::read(&pki::stored(&secret), &pki::probe()).unwrap();
    Authority::new(accepted.signer, Duration::from_secs(3600))
}
