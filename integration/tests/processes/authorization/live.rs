//! Policies that come and go while connections are open.

use tokio::io::AsyncReadExt;

use super::*;
use crate::support::{Grpc, H1, finish, grpc_message, grpc_status, is_long, next};

const CLOSED: &str = "apiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\n\
    metadata: {name: closed, namespace: shop}\n\
    spec: {targetRefs: [{kind: Pod, selector: {matchLabels: {app: APP}}}], action: ALLOW, enforcementLevel: Network}\n";

#[tokio::test]
async fn what_a_new_policy_forbids_ends_and_what_it_allows_goes_on() {
    let governed = Governed::start().await;
    let client = governed.mesh.client(&["web.shop:80", "echo.shop:80"]).await;
    governed.mesh.until_ok(&client).await;
    let echoed = async || {
        let mut bytes = H1::connect(client.ports[1]).await?;
        bytes.send("\x01probe").await?;
        Ok(bytes.raw(6).await.is_ok().then_some(bytes))
    };
    let mut bytes = eventually("bytes to come back", TEST_WAIT, echoed).await.unwrap();
    let grpc = Grpc::connect(client.entry()).await.unwrap();
    let (answer, mut forbidden) = grpc.call("web.shop", "Bidi").await.unwrap();
    forbidden.send_data(grpc_message(b"one"), false).unwrap();
    let mut answer = answer.await.unwrap().into_body();
    next(&mut answer).await.unwrap().expect("the stream is open");

    // Only what a method is called that the policy refuses; another stream of the same connection goes on.
    let (other, mut allowed) = grpc.call("web.shop", "ClientStream").await.unwrap();
    allowed.send_data(grpc_message(b"one"), false).unwrap();
    let deny = "apiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: bidi, namespace: shop}\n\
        spec: {targetRefs: [{kind: Pod, selector: {matchLabels: {app: web}}}], action: DENY, enforcementLevel: Application,\n\
        \x20 rules: [{to: [{grpc: {method: {service: bench.Echo, method: Bidi}}}]}]}\n";
    governed.mesh.manifests.write("policies", deny).unwrap();
    let began = tokio::time::Instant::now();
    while next(&mut answer).await.unwrap_or_default().is_some() {}
    println!("a stream of gRPC ended {:?} after the policy was written", began.elapsed());
    allowed.send_data(grpc_message(b"two"), true).unwrap();
    let answer = finish(other).await.unwrap();
    assert_eq!(grpc_status(&answer).as_deref(), Some("0"), "{answer:?}");
    bytes.send("\x01again").await.unwrap();
    assert_eq!(bytes.raw(6).await.unwrap(), b"\x01again", "nothing is said about this pod");

    governed.mesh.manifests.write("more", &CLOSED.replace("APP", "echo")).unwrap();
    let began = tokio::time::Instant::now();
    let end = tokio::time::timeout(TEST_WAIT, bytes.stream.read(&mut [0; 8])).await.expect("it ends");
    assert!(end.as_ref().map_or(true, |read| *read == 0), "{end:?}");
    println!("bytes ended {:?} after the policy was written", began.elapsed());

    ["policies", "more"].iter().for_each(|name| governed.mesh.manifests.remove(name).unwrap());
    eventually("bytes to come back", TEST_WAIT, echoed).await.unwrap();
}

/// Sidecars that a policy is about: fifty with `MESH_TEST_LONG=1`.
fn concerned() -> usize {
    if is_long() { 50 } else { 5 }
}

#[tokio::test]
async fn a_policy_is_in_force_in_all_whom_it_is_about_and_nobody_else_is_woken() {
    let mesh = Mesh::start().await;
    let app = SocketAddr::from(([127, 0, 0, 1], 9));
    let (mut about, mut others) = (Vec::new(), Vec::new());
    for n in 0..concerned() {
        about.push(mesh.hidden_sidecar("web", &format!("web-{n}"), app, &[]).await);
    }
    for n in 0..2 {
        others.push(mesh.hidden_sidecar("other", &format!("other-{n}"), app, &[]).await);
    }
    let updates = async |servers: &[Server]| {
        let mut all = Vec::new();
        for server in servers {
            all.push(crate::support::metric(&server.proxy, "mesh_control_updates_total", &[]).await);
        }
        all
    };
    let before = updates(&others).await;
    for (names, action) in [(&["AuthorizationPolicy shop/closed"][..], "written"), (&[], "removed")] {
        let began = tokio::time::Instant::now();
        match action {
            "written" => mesh.manifests.write("closed", &CLOSED.replace("APP", "web")).unwrap(),
            _ => mesh.manifests.remove("closed").unwrap(),
        }
        for server in &about {
            in_force(&server.proxy, names).await;
        }
        println!("{action}: in force in all {} after {:?}, each asked one after another", about.len(), began.elapsed());
    }
    assert_eq!(updates(&others).await, before, "those that it is not about heard nothing");
}
