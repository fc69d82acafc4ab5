//! The role from its start to its end, over real sockets, against an API server that is none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};

use mesh_credentials::{Config, Credentials, channel::Peer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    args::{Args, Role as Roles},
    identity::{
        issuer::tests::{Pair, secret},
        trust_pem::base64,
    },
    kube::fake::Fake,
};

const SECRET: &str = "/api/v1/namespaces/mesh-system/secrets/mesh-issuer";
const BUNDLE: &str = "/api/v1/namespaces/mesh-system/configmaps/mesh-trust-bundle";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases/mesh-identity";
const TOKEN: &str = "aaa.bbb.ccc";
/// Nothing here takes that long, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn role(fake: &Fake) -> Role {
    let flags = ["mesh-controller", "identity", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let Roles::Identity(args) = Args::from_command_line(flags.map(Into::into)).unwrap().role else { panic!() };
    Role::start(args, fake.client()).unwrap()
}

fn put_issuer(fake: &Fake, issuer: &Pair, root: &Pair) {
    let data = secret(&[issuer], &issuer.key.serialize_pem(), &[root]);
    let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (key, base64(value))).collect();
    fake.put(SECRET, json!({"apiVersion": "v1", "kind": "Secret", "data": data}));
}

async fn page(role: &Role, path: &str) -> String {
    let mut tcp = tokio::net::TcpStream::connect(role.pages).await.unwrap();
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn until(what: &str, mut wanted: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !wanted().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn it_waits_for_an_issuer_serves_leads_and_ends() {
    let fake = Fake::new();
    fake.accept_token(TOKEN, "system:serviceaccount:mesh-system:mesh-destination", "d-0", "u1");
    let spec = json!({"serviceAccountName": "mesh-destination", "containers": [{"name": "controller"}]});
    fake.put("/api/v1/namespaces/mesh-system/pods/d-0", json!({"metadata": {"uid": "u1"}, "spec": spec}));
    let role = role(&fake);

    // Without an issuer it is there, says what is missing, and is not ready.
    let mut serving = Box::pin(role.serve());
    tokio::select! {
        _ = &mut serving => panic!("there is no issuer"),
        () = until("told", async || page(&role, "/problems").await.contains("there is no such Secret")) => {}
    }
    assert!(page(&role, "/ready").await.contains("503") && page(&role, "/live").await.contains("200"));

    // With one it is ready, and who has a token has a certificate.
    let root = Pair::root("root");
    put_issuer(&fake, &root.issue("issuer"), &root);
    let address = tokio::time::timeout(LIMIT, serving).await.unwrap().unwrap();
    until("ready", async || page(&role, "/ready").await.contains("200")).await;
    let dir = tempfile::tempdir().unwrap();
    let (token_file, trust_bundle_file) = (dir.path().join("token"), dir.path().join("ca-bundle.pem"));
    std::fs::write(&token_file, TOKEN).unwrap();
    std::fs::write(&trust_bundle_file, root.certificate.pem()).unwrap();
    let identity = Peer { address: address.to_string().parse().unwrap(), identity: role.identity.clone() };
    let credentials = Credentials::new(Config { identity, token_file, trust_bundle_file }).unwrap();
    let keep = tokio::spawn(credentials.clone().run(Arc::default(), drop));
    tokio::time::timeout(LIMIT, credentials.ready()).await.unwrap();
    assert!(page(&role, "/metrics").await.contains("mesh_controller_certificates_total{outcome=\"issued\"} 1"));

    // It leads, so the bundle is in our own namespace.
    until("the bundle", async || fake.get(BUNDLE).is_some()).await;
    assert!(page(&role, "/metrics").await.contains("mesh_controller_leading 1"));

    // An issuer that ends: not ready from then on.
    put_issuer(&fake, &root.issue_for("brief", Duration::from_secs(3)), &root);
    until("ended", async || page(&role, "/ready").await.contains("503")).await;
    assert!(page(&role, "/problems").await.contains("the issuer has ended"));
    put_issuer(&fake, &root.issue("good"), &root);
    until("ready again", async || page(&role, "/ready").await.contains("200")).await;

    // The Lease is given back at the end.
    keep.abort();
    tokio::time::timeout(LIMIT, role.stop()).await.unwrap();
    assert_eq!(fake.get(LEASE).unwrap()["spec"].get("holderIdentity"), None);
}
