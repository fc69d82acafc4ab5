//! What is asked of sidecars, which are asked, and what is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::well_known::{ADMIN_PORT, PROXY_CONTAINER};
use serde_json::{Map, Value, json};

use super::{
    sidecars::{MAX_PODS, of_cluster},
    *,
};
use crate::kube::mock::Mock;

fn args(words: &str) -> Args {
    Args::try_parse_from(["tap"].into_iter().chain(words.split(' '))).unwrap()
}

fn event(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn a_sidecar_is_asked_for_what_is_wanted() {
    let ask = |words: &str| query(&args(words), "shop");
    assert_eq!(ask("deploy/web"), "/tap?rate=100");
    assert_eq!(
        ask("deploy/web --from deploy/front --path /a&b --method GET --status 5xx --class not_found --rate 7"),
        "/tap?rate=7&direction=inbound&peer=shop%2Ffront&path=%2Fa%26b&method=GET&status=5xx&class=not_found"
    );
    let named = ask("web --attributes http.request.header.X-User,url.query");
    assert_eq!(named, "/tap?rate=100&attributes=url.query%2Chttp.request.header.x-user");
    for (peer, expected) in [
        ("svc/web", "shop/web"),
        ("sa/web", "shop/web"),
        ("bank/web", "bank/web"),
        ("web.bank.svc", "bank/web"),
        ("ns/bank", "bank"),
        ("bank", "bank"),
        ("spiffe://d/ns/a/sa/b", "spiffe://d/ns/a/sa/b"),
    ] {
        assert_eq!(peer_of(peer, "shop"), expected);
    }
}

#[test]
fn wrong_usage_is_refused() {
    for words in [
        "web --rate 1001",
        "web --rate 0",
        "web --class bad",
        "web --to a --from b",
        "web --max 0",
        "web -o yaml",
        "web --attributes http.request.header.authorization",
        "web --at 127.0.0.1:1",
        "--to a",
    ] {
        assert!(Args::try_parse_from(["tap"].into_iter().chain(words.split(' '))).is_err(), "{words}");
    }
}

#[tokio::test]
async fn pods_of_workloads_and_services_are_found_and_a_pod_needs_no_look() {
    let pod = |name: String, container: &str| json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": { "containers": [{ "name": container }] } });
    let pods = (0..=MAX_PODS).map(|n| pod(format!("web-{n}"), PROXY_CONTAINER));
    let web = json!({ "spec": { "selector": { "matchLabels": { "app": "web" } } } });
    let cluster = Mock::default()
        .object("/apis/apps/v1/namespaces/shop/deployments/web", web)
        .object("/api/v1/namespaces/shop/services/web", json!({ "spec": { "selector": { "app": "web" } } }))
        .object("/api/v1/namespaces/shop/services/none", json!({ "spec": {} }))
        .list_of("/api/v1/namespaces/shop/pods", "app%3Dweb", pods.chain([pod("bare".to_owned(), "app")]).collect())
        .cluster();
    for target in ["deploy/web", "svc/web"] {
        assert_eq!(of_cluster(&cluster, target).await.unwrap().len(), MAX_PODS + 1, "{target}");
    }
    for (target, name) in [("web-0", "shop/web-0"), ("pod/web-0", "shop/web-0"), ("bank/x", "bank/x")] {
        assert_eq!(of_cluster(&cluster, target).await.unwrap()[0].name, name);
    }
    for (target, why) in [("svc/none", "selects no pods"), ("sa/web", "has no pods"), ("deploy/other", "not found")] {
        let error = format!("{:#}", of_cluster(&cluster, target).await.unwrap_err());
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn lines_come_one_by_one_and_who_may_not_forward_is_told_what_to_ask_for() {
    let cluster = Mock::default()
        .page("shop/web-0", ADMIN_PORT, "/tap", "{\"phase\":\"end\"}\n\n{\"phase\":\"open\"}\nrest")
        .forbidden_port("shop/web-1", ADMIN_PORT, "pods \"web-1\" is forbidden: User \"ada\"")
        .page("shop/web-2", ADMIN_PORT, "/other", "")
        .cluster();
    let mut lines = cluster.lines("shop", "web-0", ADMIN_PORT, "/tap?rate=1").await.unwrap();
    let mut read = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        read.push(String::from_utf8(line.to_vec()).unwrap());
    }
    assert_eq!(read, ["{\"phase\":\"end\"}", "", "{\"phase\":\"open\"}"]);
    let error = cluster.lines("shop", "web-1", ADMIN_PORT, "/tap").await.err().unwrap().to_string();
    assert!(error.contains("User \"ada\"") && error.contains("`pods/portforward`"), "{error}");
    let error = cluster.lines("shop", "web-2", ADMIN_PORT, "/tap").await.err().unwrap().to_string();
    assert!(error.contains("404"), "{error}");
}

#[test]
fn an_event_is_a_line_in_which_nothing_is_obeyed() {
    let shown = event(json!({
        "phase": "end", "timestamp": "2026-12-01T10:11:12.345Z", "mesh.direction": "inbound",
        "mesh.source.identity": "spiffe://cluster.local/ns/shop/sa/front",
        "mesh.destination.pod": "shop/web-0", "http.request.method": "GET",
        "url.path": "/a b\u{1b}[31m\u{202e}", "http.response.status_code": 403, "mesh.class": "denied",
        "mesh.first_byte": 0.0125, "mesh.decision.id": "0000000000000007", "url.query": "token=secret",
        "http.request.header.x-user": "a\u{9b}da", "http.response.header.x-other": "hidden",
    }));
    let named = vec!["http.request.header.x-user".to_owned()];
    let table = Printer::new(Format::Table, named.clone(), Style::PLAIN);
    let line = table.line("shop/web-0", shown.clone());
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "10:11:12.345",
            "inbound",
            "shop/front",
            "shop/web-0",
            "GET",
            "/a\u{2423}b\u{fffd}[31m\u{fffd}",
            "403",
            "denied",
            "12.5ms",
            "-",
            "0000000000000007",
            "x-user=a\u{fffd}da"
        ]
    );
    let json = Printer::new(Format::Json, named, Style::PLAIN);
    let line = json.line("shop/web-0", event(json!({ "phase": "end", "url.path": "/<b>", "url.query": "secret" })));
    assert_eq!(line, r#"{"phase":"end","pod":"shop/web-0","url.path":"/\u003cb\u003e"}"#);

    let wide = Printer::new(Format::Wide, Vec::new(), Style::PLAIN);
    let bytes = json!({ "phase": "open", "mesh.direction": "outbound", "network.peer.address": "10.0.0.9" });
    let line = wide.line("shop/web-0", event(bytes));
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..8], ["-", "outbound", "-", "10.0.0.9", "-", "-", "-", "open"], "{line}");
    assert_eq!(words[11..], ["shop/web-0", "-", "-", "-/-"]);
}
