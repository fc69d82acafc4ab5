//! Answers over manifests, a mock of the API server, and what a sidecar has in force.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::well_known::ADMIN_PORT;
use mesh_proto::v1;
use mesh_resources::parse_manifests;
use prost::Message;
use serde_json::{Value, json};

use super::*;
use crate::{authorization::Verdict, kube::mock::Mock};

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - name: cart
    matches: [{path: {value: /cart}, headers: [{name: user, value: '7'}]}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: '1'}]}}
    timeouts: {request: 1s500ms}
    backendRefs: [{name: web, port: 80, weight: 9}, {name: web-v2, port: 80, weight: 1}]
  - matches: [{path: {type: Exact, value: /gone}}]
    backendRefs: [{name: absent, port: 80}]
  - matches: [{path: {value: /none}}]
    filters: [{type: ExtensionRef, extensionRef: {group: policy.meshctl.dev, kind: RetryPolicy, name: odd}}]
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: RetryPolicy
metadata: {name: odd, namespace: shop}
spec: {novelty: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, namespace: clients}
";

fn question(words: &[&str], headers: &[(&'static str, &'static str)]) -> Question {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    Question::from_words(&words, map).unwrap()
}

fn by_files(question: &Question) -> Explained {
    let objects = parse_manifests(OBJECTS, "shop.yaml").unwrap();
    by_objects(&Snapshot::from_objects(&objects, Options::default()).0, question, "shop")
}

#[test]
fn every_key_is_there_and_stays() {
    let explained = by_files(&question(&["GET", "http://web.shop/cart?x=1"], &[("user", "7")]));
    let json = serde_json::to_value(&explained).unwrap();
    assert_eq!(
        json,
        json!({
            "target": "shop/web:80",
            "from": "shop",
            "verdict": "forward",
            "route": { "kind": "HTTPRoute", "namespace": "shop", "name": "web" },
            "rule": { "index": 0, "name": "cart" },
            "matched": json["matched"],
            "filters": [{ "type": "RequestHeaderModifier", "set": [{ "name": "x", "value": "1" }], "add": [], "remove": [] }],
            "timeouts": { "request": "1s500ms", "backendRequest": null },
            "retry": null,
            "session": null,
            "backends": [
                { "service": "shop/web:80", "weight": 9, "share": 90.0, "invalid": null, "filters": [] },
                { "service": "shop/web-v2:80", "weight": 1, "share": 10.0, "invalid": null, "filters": [] },
            ],
            "sent": { "host": "web.shop", "path": "/cart?x=1", "headers": { "user": "7", "x": "1" }, "responseHeaders": {} },
            "answer": null,
            "tried": [{ "route": "HTTPRoute shop/web", "rule": 1, "name": null, "why": json["tried"][0]["why"] }],
            "server": null,
            "problems": json["problems"],
            "notes": [],
        })
    );
    assert!(json["matched"].as_str().unwrap().contains("/cart"), "{json}");
    assert!(json["tried"][0]["why"].as_str().unwrap().contains("/gone"), "{json}");
    // The fault of a sibling rule is told as well: it is the same object.
    assert!(json["problems"][0].as_str().unwrap().starts_with("shop.yaml:"), "{json}");
    assert!(json["problems"][1].as_str().unwrap().contains("every request is answered 500"), "{json}");
    assert!(json["problems"][2].as_str().unwrap().contains("RetryPolicy shop/odd: spec.novelty"), "{json}");
}

#[test]
fn what_is_refused_says_so() {
    for (words, verdict, status) in [
        (&["GET", "http://web.shop/else"][..], "not-found", Some(404)),
        (&["GET", "http://web.shop/none"], "no-backends", Some(500)),
        (&["GET", "http://web.shop/gone"], "invalid-backends", Some(500)),
        (&["GET", "http://web.shop:81/"], "unknown-target", Some(503)),
        (&["tcp://absent.shop:5432"], "unknown-target", None),
    ] {
        let question = question(words, &[]);
        let explained = by_files(&question);
        assert!(explained.is_refused() && Explained::VERDICTS.contains(&explained.verdict));
        assert_eq!((explained.verdict, explained.answer.as_ref().unwrap().status), (verdict, status), "{words:?}");
    }
    let explained = by_files(&question(&["GET", "http://web.shop:81/"], &[]));
    assert!(explained.notes[1].contains("Service shop/web has the ports: 80"), "{:?}", explained.notes);
    let explained = by_files(&question(&["tcp://web.shop:80"], &[]));
    assert_eq!((explained.verdict, explained.is_refused()), ("default", false));
}

#[test]
fn people_read_lines() {
    let question = question(&["GET", "http://web.shop/cart"], &[("user", "7")]);
    let text = text::write(&by_files(&question), &question, Style::PLAIN);
    for line in [
        "GET http://web.shop:80/cart, for clients in shop\n",
        "  target    shop/web:80\n",
        "  verdict   forwarded\n",
        "  route     HTTPRoute shop/web\n",
        "  rule      0 (cart): ",
        "  filter    request headers: set x: 1\n",
        "  timeouts  whole 1s500ms\n",
        "  backend       90 %  shop/web:80 (weight 9)\n",
        "  tried before\n    HTTPRoute shop/web rule 1: ",
        "  problems\n    shop.yaml:",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

#[test]
fn a_client_is_a_namespace_however_it_is_named() {
    let objects = parse_manifests(OBJECTS, "f").unwrap();
    for (from, namespace, expected) in [
        (None, None, "default"),
        (None, Some("n"), "n"),
        (Some("shop"), Some("n"), "shop"),
        (Some("shop/front-x"), None, "shop"),
        (Some("deploy/front"), None, "clients"),
        (Some("Deployment/front"), Some("n"), "n"),
        (Some("pod/front-x"), Some("n"), "n"),
    ] {
        assert_eq!(from_given(from, namespace, &objects), expected, "{from:?} {namespace:?}");
    }
}

/// The objects above as an API server lists them.
fn mock() -> Mock {
    let objects = parse_manifests(OBJECTS, "f").unwrap();
    let of = |kind: &str| objects.iter().filter(|o| o.kind == kind).map(|o| o.value.clone()).collect::<Vec<Value>>();
    Mock::default()
        .list("/api/v1/services", of("Service"))
        .object("/apis/gateway.networking.k8s.io", json!({ "versions": [{ "version": "v1" }] }))
        .object(
            "/apis/gateway.networking.k8s.io/v1",
            json!({ "resources": [{ "name": "httproutes", "kind": "HTTPRoute" }] }),
        )
        .object("/apis/policy.meshctl.dev", json!({ "versions": [{ "version": "v1alpha1" }] }))
        .object(
            "/apis/policy.meshctl.dev/v1alpha1",
            json!({ "resources": [{ "name": "retrypolicies", "kind": "RetryPolicy" }] }),
        )
        .list("/apis/policy.meshctl.dev/v1alpha1/retrypolicies", of("RetryPolicy"))
        .list("/apis/gateway.networking.k8s.io/v1/httproutes", of("HTTPRoute"))
}

#[tokio::test]
async fn a_cluster_gives_the_same_answer() {
    let question = question(&["GET", "http://web.shop/cart"], &[("user", "7")]);
    let found = by_cluster(&mock().cluster(), Some("deploy/front"), &question).await.unwrap();
    let mut expected = by_files(&question);
    // What is behind the Services is asked of the cluster as well; there is nothing.
    let behind = found.server.as_ref().unwrap().decided.iter().map(|group| group.decided.verdict);
    assert_eq!(behind.collect::<Vec<_>>(), [Verdict::NoPods; 2]);
    expected.server = found.server.clone();
    // There are no files.
    let without_files = |said: &String| said.split_once(": ").map_or(said.clone(), |(_, rest)| rest.to_owned());
    expected.problems = expected.problems.iter().map(without_files).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_a_sidecar_has_in_force_is_asked_of_it() {
    let objects = parse_manifests(OBJECTS, "f").unwrap();
    let (snapshot, _) = Snapshot::from_objects(&objects, Options::default());
    let target = snapshot.resolve("web.shop:80", "shop").unwrap();
    let (policy, _) = snapshot.compile_outbound(&target, "shop");
    let wire = v1::OutboundPolicy::from(&policy).encode_to_vec();
    let cluster = Mock::default()
        .bytes("shop/front", ADMIN_PORT, "/policy", wire)
        .bytes("shop/odd", ADMIN_PORT, "/policy", b"hello".to_vec())
        .bytes("shop/old", ADMIN_PORT, "/config", Vec::new())
        .cluster();
    let question = question(&["GET", "http://web.shop/cart"], &[("user", "7")]);
    let found = live::explain(&cluster, "front", &question).await.unwrap();
    let expected = Explained { problems: Vec::new(), ..by_files(&question) };
    assert_eq!(found, expected);
    for (pod, said) in
        [("odd", "is not a policy"), ("old", "asked for web.shop:80"), ("none", "meshctl check --proxy -n shop")]
    {
        let error = format!("{:#}", live::explain(&cluster, pod, &question).await.unwrap_err());
        assert!(error.contains(said), "{pod}: {error}");
    }
}
