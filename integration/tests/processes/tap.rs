//! Who looks sees what passes, as text; nothing that may be secret unless it was named; and is forgotten when gone.

use std::{net::SocketAddr, process::Output};

use mesh_integration::harness::{binary, eventually, http_get};
use serde_json::Value;
use tokio::process::Command;

use crate::support::{H1, Mesh, TEST_WAIT, get};

/// Runs `meshctl tap` at a sidecar.
async fn tap(at: SocketAddr, args: &[&str]) -> Output {
    let mut command = Command::new(binary("meshctl").unwrap());
    command.args(["tap", "--at", &at.to_string()]).args(args).kill_on_drop(true);
    command.output().await.unwrap()
}

/// Requests with what a terminal would obey and with secrets, again and again.
async fn ask_all_the_time(entry: SocketAddr) {
    let head =
        "host: web.shop\r\nx-user: a\u{9b}31m\u{202e}da\r\ncookie: session=secret\r\nauthorization: Bearer secret";
    for path in ["/1k?token=secret", "/%1b%5b31m%3cb%3e", "/\u{202e}\u{9b}31m"].iter().cycle() {
        let request = format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n");
        let mut connection = H1::connect(entry).await.unwrap();
        connection.ask(request).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_passes_is_seen_as_text_and_no_secret_unless_it_is_named() {
    let (mesh, client, server) = Mesh::pair().await;
    mesh.until_ok(&client).await;
    let showing = ["--from", "shop", "-o", "json", "--max", "30"];
    let plain = tap(server.proxy.admin, &showing);
    let names = "url.query,http.request.header.x-user";
    let naming = ["--to", "svc/web", "-n", "shop", "--attributes", names, "--max", "30"];
    // By a name that only discovery tells.
    let by_pod = ["--to", "shop/web-1", "-o", "wide", "--max", "1"];
    let all = async { tokio::join!(plain, tap(client.proxy.admin, &naming), tap(client.proxy.admin, &by_pod)) };
    let (plain, named, by_pod) = tokio::select! {
        all = tokio::time::timeout(TEST_WAIT, all) => all.unwrap(),
        () = ask_all_the_time(client.entry()) => unreachable!("it has no end"),
    };
    let shown = String::from_utf8_lossy(&by_pod.stdout);
    assert!(by_pod.status.success() && shown.contains(" shop/web-1 "), "{by_pod:?}");
    for output in [&plain, &named] {
        assert!(output.status.success(), "{output:?}");
        let text = std::str::from_utf8(&output.stdout).unwrap();
        let is_obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(is_obeyed) && text.contains("/%1b%5b31m"), "{text}");
        assert!(!text.contains("session") && !text.contains("Bearer"), "{text}");
    }
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(!text.contains("secret") && !text.contains("x-user") && !text.contains('<'), "{text}");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = events.iter().find(|event| event["url.path"] == "/1k").unwrap();
    assert_eq!((&event["phase"], &event["mesh.direction"]), (&"end".into(), &"inbound".into()), "{event}");
    assert_eq!(event["mesh.source.identity"], "spiffe://cluster.local/ns/shop/sa/client", "{event}");
    let text = String::from_utf8(named.stdout).unwrap();
    assert!(text.contains("url.query=token=secret") && text.contains("x-user=a\u{fffd}31m\u{fffd}da"), "{text}");
    assert!(text.lines().skip(1).all(|line| line.contains("outbound")), "{text}");
}

#[tokio::test]
async fn secrets_are_refused_and_who_leaves_is_forgotten() {
    let (mesh, client, server) = Mesh::pair().await;
    mesh.until_ok(&client).await;
    let admin = server.proxy.admin;
    for secret in ["authorization", "cookie", "set-cookie", "proxy-authorization"] {
        let name = format!("http.request.header.{secret}");
        let refused = http_get(admin, &format!("/tap?attributes={name}")).await.unwrap();
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert_eq!(tap(admin, &["--attributes", &name]).await.status.code(), Some(2));
    }
    // Not at the pod's address.
    let elsewhere = http_get(server.proxy.metrics, "/tap").await.unwrap();
    assert_eq!(elsewhere.status, 404);
    let look = async || {
        let mut connection = H1::connect(admin).await?;
        connection.send("GET /tap HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        anyhow::Ok((connection.head().await?.status, connection))
    };
    let mut all = Vec::new();
    for _ in 0..8 {
        let (status, connection) = look().await.unwrap();
        assert_eq!(status, 200);
        all.push(connection);
    }
    assert_eq!(look().await.unwrap().0, 429);
    // Traffic is served all the same.
    assert_eq!(get(client.entry(), "web.shop", "/1k").await.unwrap().head.status, 200);
    all.remove(0);
    let again = async || Ok((look().await?.0 == 200).then_some(()));
    eventually("a place for another one", TEST_WAIT, again).await.unwrap();
}
