//! Who may ask the controller: proxies with a certificate of a living pod, which only a good token gets, for as long as
//! it lasts and across a restart.

use mesh_proto::v1::{self, policy_client::PolicyClient};
use tonic::{Code, transport::Channel};

use crate::{
    ask, code_of,
    common::{self, Fixture, LIMIT, WORLD, next},
};

#[tokio::test]
async fn callers_must_be_who_they_say() {
    let f = Fixture::start(&[]).await;
    let channel = f.proxy("shop.client").await;
    assert_eq!(code_of(channel.clone(), "web:80", "shop/web-0").await, Code::PermissionDenied);
    assert_eq!(code_of(channel.clone(), "web:80", "shop/absent").await, Code::Unavailable, "another may know it");
    // Without a certificate, or with one of another root, the handshake fails with an alert that says so.
    assert_eq!(alert(f.destination(None)).await, "received fatal alert: CertificateRequired");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = "spiffe://cluster.local/ns/shop/sa/client".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(name)];
    let forged = params.self_signed(&key).unwrap();
    let stranger = alert(f.destination(Some((vec![forged.into()], key)))).await;
    assert_eq!(stranger, "received fatal alert: UnknownCA");
}

/// The innermost reason why a call over a channel failed.
async fn alert(channel: Channel) -> String {
    let status = PolicyClient::new(channel).outbound(ask("web:80", "shop/client")).await.map(|_| ()).unwrap_err();
    let mut cause: &dyn std::error::Error = &status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[tokio::test]
async fn certificates_only_for_good_tokens_of_living_pods() {
    let f = Fixture::start(&["--token-lifetime", "3600s"]).await;
    let token = f.token("shop.client");
    f.certify(&token).await.unwrap();
    assert!(!f.state().join("tokens/shop.plain").exists(), "no token for a pod that is not meshed");

    let other = Fixture::start(&[]).await;
    let foreign = f.certify(&other.token("shop.client")).await.map(|_| ()).unwrap_err();
    assert_eq!(foreign.code(), Code::Unauthenticated);
    assert_eq!(f.certify("").await.map(|_| ()).unwrap_err().code(), Code::Unauthenticated);

    let request = v1::CertifyRequest { csr_der: b"rubbish".to_vec(), token: token.clone() };
    let refused = f.identity_client().certify(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    // The pod runs as someone else now, then it is gone.
    let code = async |token: &str, why: &str| {
        let refused = async {
            loop {
                match f.certify(token).await {
                    Ok(_) => tokio::task::yield_now().await,
                    Err(status) if status.message().contains(why) => break status.code(),
                    Err(_) => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, refused).await.expect("the certificate is refused")
    };
    f.write("world.yaml", &WORLD.replace("serviceAccountName: client", "serviceAccountName: other"));
    assert_eq!(code(&token, "runs as other").await, Code::PermissionDenied);
    f.write("world.yaml", &WORLD.replace("name: client,", "name: client-2,"));
    assert_eq!(code(&token, "does not exist").await, Code::PermissionDenied);
    assert!(f.page("/metrics").await.1.contains("mesh_controller_certificates_total{outcome=\"issued\"}"));
}

#[tokio::test]
async fn an_expired_token_is_refused_and_the_file_holds_a_fresh_one() {
    let f = Fixture::start(&["--token-lifetime", "2s"]).await;
    let old = f.token("shop.client");
    let refused = async {
        loop {
            match f.certify(&old).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => break status,
            }
        }
    };
    let status = tokio::time::timeout(LIMIT, refused).await.unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("expired"), "{status}");
    f.certify(&f.token("shop.client")).await.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_trust_and_a_shutdown_ends_streams_cleanly() {
    let mut f = Fixture::start(&[]).await;
    let (token, bundle) = (f.token("shop.client"), std::fs::read(f.state().join("trust-bundle.pem")).unwrap());
    let certified = f.certify(&token).await.unwrap();
    let mut trust = f.identity_client().trust(v1::TrustRequest {}).await.unwrap().into_inner();
    assert_eq!(next(&mut trust).await.roots_der.len(), 1);
    let channel = f.proxy("shop.client").await;
    let mut stream = PolicyClient::new(channel).outbound(ask("web:80", "shop/client")).await.unwrap().into_inner();
    next(&mut stream).await;
    assert_eq!(f.page("/ready").await.0, 200);

    f.restart().await;
    assert_eq!(stream.message().await.unwrap(), None, "ends without error");
    assert_eq!(trust.message().await.unwrap(), None, "ends without error");
    assert_eq!(std::fs::read(f.state().join("trust-bundle.pem")).unwrap(), bundle);
    // The certificate and the token of before are still good.
    let mut client = PolicyClient::new(f.destination(Some(certified)));
    client.outbound(ask("web:80", "shop/client")).await.unwrap();
    f.certify(&token).await.unwrap();
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(f.state().join("addresses.json")).unwrap()).unwrap();
    assert_eq!(written["identity"], f.addresses().identity.to_string());
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_let_it_in() {
    let f = Fixture::start(&["--leaf-lifetime", "3s"]).await;
    let channel = f.proxy("shop.client").await;
    let mut stream = PolicyClient::new(channel).outbound(ask("web:80", "shop/client")).await.unwrap().into_inner();
    next(&mut stream).await;
    let end = tokio::time::timeout(LIMIT, stream.message()).await.expect("the connection ends");
    end.unwrap_err();
    // The controller's own certificate lasts no longer, and is a newer one by now.
    f.certify(&f.token("shop.client")).await.unwrap();
}

#[tokio::test]
async fn who_says_nothing_after_the_handshake_does_not_keep_the_connection() {
    use tokio::io::AsyncReadExt;
    let f = Fixture::start(&[]).await;
    let mut silent = common::Tls::new(&f.state(), None).connect(f.addresses().identity).await.unwrap();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LIMIT, silent.read_to_end(&mut rest)).await.expect("the controller hangs up");
    // With or without a goodbye of TLS; what came before are the server's own first frames.
    assert!(end.is_ok() || end.unwrap_err().kind() == std::io::ErrorKind::UnexpectedEof);
}
