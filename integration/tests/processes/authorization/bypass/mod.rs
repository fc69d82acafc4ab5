//! Ways to write a path or a host: none leads to a handler that a DENY names, however the server behind reads them.
//!
//! The servers are two of Go. With `MESH_TEST_LONG=1` they are nginx, HAProxy, Node and Tomcat as well, of which the programs
//! must be on the PATH, and the archives of Tomcat (embed-core, annotations-api, servlet-api) in the folder `MESH_TOMCAT`.

mod servers;
mod variants;

use std::{env, time::Duration};

use anyhow::Result;
use mesh_integration::harness::ready;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::servers::{has_go, servers};
use super::*;
use crate::support::is_long;

/// Denies the handlers and the host by which they are reached.
const DENY: &str = "apiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\n\
    metadata: {name: admin, namespace: shop}\n\
    spec: {targetRefs: [{kind: Pod, selector: {}}], action: DENY, enforcementLevel: Application,\n\
    \x20 rules: [{to: [{path: {type: PathPrefix, value: /admin}}, {headers: [{name: Host, value: admin.shop}]}]}]}\n";

/// As many different ways to write each are made up.
fn count() -> usize {
    if is_long() { 10_000 } else { 1_000 }
}

/// Sends requests, each on a connection of its own; the status and all that came of each.
async fn ask(to: SocketAddr, requests: &[String]) -> Result<Vec<(u16, String)>> {
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        let mut io = tokio::net::TcpStream::connect(to).await?;
        io.write_all(format!("{request}connection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        // A reset after the answer is an end, too.
        let _ = io.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        answers.push((status, text));
    }
    Ok(answers)
}

#[tokio::test]
async fn no_way_to_write_a_path_or_a_host_leads_past_a_deny() {
    if !has_go() {
        assert!(env::var("CI").as_deref() != Ok("true"), "there is no Go for the servers that are asked");
        return;
    }
    let mesh = Mesh::start().await;
    let paths = variants::paths(count()).into_iter().map(|path| format!("GET {path} HTTP/1.1\r\nhost: web.shop\r\n"));
    let kinds = [("paths", paths.collect()), ("hosts", variants::hosts(count()))];
    let mut passed = Vec::new();
    for (name, mut process, port) in servers(&mesh) {
        let app = SocketAddr::from(([127, 0, 0, 1], port));
        ready(&mut process, app, Duration::from_secs(120)).await.unwrap();
        let server = mesh.sidecar(name, &format!("{name}-1"), app, &[]).await;
        mesh.manifests.write("policies", DENY).unwrap();
        in_force(&server.proxy, &["AuthorizationPolicy shop/admin"]).await;
        for (kind, requests) in &kinds {
            // Straight to the application first: what it takes for what is denied.
            let direct = ask(app, requests).await.unwrap();
            let reached = direct.iter().filter(|(_, text)| text.ends_with("REACHED")).count();
            let through = ask(Governed::inbound(&server), requests).await.unwrap();
            let with = |wanted: u16| through.iter().filter(|(status, _)| *status == wanted).count();
            println!(
                "{name}: reached directly by {reached} of {} {kind}, through the sidecar: {} denied, {} malformed",
                requests.len(),
                with(403),
                with(400)
            );
            assert!(reached > count() / 100, "{name} takes some {kind} for what is denied");
            let wrong = requests.iter().zip(&through).filter(|(_, (_, text))| text.contains("REACHED"));
            passed.extend(wrong.map(|(request, (status, _))| format!("{name}: {request:?}: {status}")));
        }
        mesh.manifests.remove("policies").unwrap();
    }
    assert!(passed.is_empty(), "{} passed:\n{}", passed.len(), passed[..passed.len().min(40)].join("\n"));
}
