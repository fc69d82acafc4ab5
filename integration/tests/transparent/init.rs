//! `mesh-proxy init` and `mesh-proxy await` by themselves: privileges, repetition, refusals.

use std::{net::TcpStream, time::Instant};

use crate::{
    mesh::{Mesh, PATIENCE, UID, WEB, answered, get, run_await, run_init, text},
    net::Net,
};

#[tokio::test]
async fn it_needs_no_user_but_one_capability() {
    let Some(mut net) = Net::new() else { return };
    let pod = net.pod();
    let refused = run_init(&pod, UID, false, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused);
    assert!(said.contains("NET_ADMIN") && said.contains("securityContext"), "{said}");
    let taken = pod.run(|| TcpStream::connect_timeout(&"192.0.2.1:80".parse().unwrap(), PATIENCE / 60));
    assert!(taken.is_err(), "nothing is redirected");

    for (uid, capable) in [(UID, true), (0, false)] {
        let done = run_init(&pod, uid, capable, &[]);
        assert!(done.status.success(), "as user {uid}: {}", text(&done));
        assert!(text(&done).contains("192.0.2.1:80 and [2001:db8::1]:80"), "it saw both families: {}", text(&done));
    }
}

#[tokio::test]
async fn wrong_values_name_their_variable() {
    let Some(mut net) = Net::new() else { return };
    let pod = net.pod();
    let refused = run_init(&pod, UID, true, &[("MESH_SKIP_OUTBOUND_CIDRS", "10.0.0.0/99")]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("MESH_SKIP_OUTBOUND_CIDRS=\"10.0.0.0/99\""), "{}", text(&refused));
}

/// Also beside a proxy that runs, as when a node restarts a pod's init container.
#[tokio::test]
async fn twice_is_once() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    let client = mesh.meshed("client", &[]).await;
    mesh.service(&web.pod, "web").await;
    let _web = mesh.app(&web.pod, "web", "[::]:8080", &[]).await;
    let began = Instant::now();
    for pod in [&web.pod, &client.pod] {
        let again = run_init(pod, UID, true, &[]);
        assert!(again.status.success(), "{}", text(&again));
    }
    println!("init took {:?} with the start of its process", began.elapsed() / 2);
    assert_eq!(answered(&get(&client.pod, format!("{WEB}:80"))), "web");
    assert!(web.metric("mesh_tls_connections_total", &["inbound", "sa/client"]).await >= 1.0);
}

/// Long lists are one batch still.
#[tokio::test]
async fn the_longest_lists_fit() {
    let Some(mut net) = Net::new() else { return };
    let pod = net.pod();
    let ports: Vec<String> = (0..256).map(|n| format!("{}", 10_000 + 2 * n)).collect();
    let networks: Vec<String> = (0..256).map(|n| format!("fd00:{n:x}::/32")).collect();
    let (ports, networks) = (ports.join(","), networks.join(","));
    let lists = [
        ("MESH_SKIP_INBOUND_PORTS", &*ports),
        ("MESH_SKIP_OUTBOUND_PORTS", &ports),
        ("MESH_SKIP_OUTBOUND_CIDRS", &networks),
    ];
    let done = run_init(&pod, UID, true, &lists);
    assert!(done.status.success(), "{}", text(&done));
}

#[tokio::test]
async fn the_gate_says_why_it_stays_closed() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    assert!(run_await(&web.pod, "5s").status.success());
    let empty = mesh.net.pod();
    let closed = run_await(&empty, "200ms");
    assert_eq!(closed.status.code(), Some(1));
    assert!(text(&closed).contains("not ready after 200ms"), "{}", text(&closed));
}
