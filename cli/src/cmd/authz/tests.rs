//! Answers, lists, reports and generated policies, over manifests and a mock of the API server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use clap::Parser;
use mesh_policy::well_known::{ADMIN_PORT, PROXY_CONTAINER};
use mesh_resources::parse_manifests;
use serde_json::{Value, json};

use super::*;
use crate::{
    kube::{Cluster, mock::Mock},
    output::Style,
};

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: gone, namespace: shop}
spec: {selector: {app: gone}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {serviceAccountName: web, containers: [{name: app, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, ports: [{containerPort: 5432}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, namespace: shop}
spec: {selector: {matchLabels: {app: front}}, template: {metadata: {labels: {app: front}}, spec: {serviceAccountName: front}}}
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{kind: Pod, selector: {matchLabels: {app: web}}}]
  action: ALLOW
  enforcementLevel: Application
  rules:
  - sources: [{type: ServiceAccount, serviceAccount: {name: front}}]
    to: [{method: GET}]
";

fn objects() -> Objects {
    Objects::of_manifests(parse_manifests(MANIFESTS, "f.yaml").unwrap())
}

fn args(line: &str) -> Args {
    Args::try_parse_from(["authz"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()))).unwrap()
}

fn answered(line: &str) -> anyhow::Result<ask::Answer> {
    let args = args(line);
    let (from, to) = (args.from.clone().unwrap(), args.to.clone().unwrap());
    ask::answer(&args, &from, &to, &objects(), "shop")
}

#[test]
fn a_question_is_answered_yes_or_no() {
    for (line, allowed, said) in [
        (
            "--from deploy/front --to web.shop GET /",
            true,
            "AuthorizationPolicy shop/web rule 0 lets in spiffe://cluster.local/ns/shop/sa/front",
        ),
        ("--from deploy/front --to web", true, "rule 0 lets in"),
        ("--from sa/front --to svc/web:80 POST /", false, "nearest: AuthorizationPolicy shop/web rule 0, "),
        ("--from deploy/front --to pod/web tcp", false, "it is about requests, and bytes show none"),
        ("--from deploy/front --to deploy/web:8080 grpc shop.Cart/Add", false, "nearest"),
        ("--from spiffe://other.test/ns/shop/sa/front --to web", false, "the caller is not"),
        ("--from none --source-ip 10.0.0.1 --to web", false, "a caller without identity"),
        ("--from unauthenticated --to db tcp", true, "no policy speaks of a caller without identity"),
    ] {
        let answer = answered(line).unwrap();
        assert_eq!(answer.allowed, allowed, "{line}: {answer:?}");
        assert!(answer.reason.contains(said), "{line}: {}", answer.reason);
        let text = ask::text(&answer, false, Style::PLAIN);
        assert!(text.starts_with(if allowed { "yes: " } else { "no: " }), "{text}");
    }
}

#[test]
fn what_cannot_be_answered_says_what_to_write() {
    for (line, said) in [
        ("--from shop --to web", "name who calls"),
        ("--from deploy/absent --to web", "there is no Deployment shop/absent"),
        ("--from sa/a --to absent", "no Service and no pod shop/absent"),
        ("--from sa/a --to web:81", "another port"),
        ("--from sa/a --to web:x", "is no port"),
        ("--from sa/a --to sa/b", "calls and is not called"),
        ("--from sa/a --to gone", "has no pods"),
        ("--from sa/a --to deploy/front", "no port of front is known"),
        ("--from sa/a --to web GET here", "write METHOD PATH"),
    ] {
        let why = format!("{:#}", answered(line).unwrap_err());
        assert!(why.contains(said), "{line}: {why}");
    }
}

#[test]
fn pods_that_differ_answer_no() {
    let second = MANIFESTS.replace(
        "name: db, namespace: shop}\nspec: {selector: {app: db}",
        "name: db, namespace: shop}\nspec: {selector: {tier: t}",
    );
    let second = second
        .replace("labels: {app: db}", "labels: {app: db, tier: t}")
        .replace("labels: {app: web}}\n    spec", "labels: {app: web, tier: t}}\n    spec");
    let objects = Objects::of_manifests(parse_manifests(&second, "f.yaml").unwrap());
    let args = args("--from sa/other --to db");
    let answer = ask::answer(&args, "sa/other", "db", &objects, "shop").unwrap();
    assert_eq!((answer.allowed, answer.decided.len()), (false, 2), "{answer:?}");
    assert!(answer.reason.ends_with("pods differ, 1 of 2 say no: shop/web"), "{}", answer.reason);
}

#[test]
fn callers_are_listed_with_what_closes() {
    let objects = objects();
    let called = |text: &str| callee::Callee::read(text).unwrap().called(&objects, "shop").unwrap();
    let shown = list::print(&list::rows(&called("web")), Format::Table).unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert!(lines[1].contains("spiffe://cluster.local/ns/shop/sa/front") && lines[1].contains("rule 0"), "{shown}");
    assert!(lines[2].contains("everyone else") && lines[2].ends_with("closed"), "{shown}");
    let shown = list::print(&list::rows(&called("sts/db")), Format::Wide).unwrap();
    assert!(shown.contains("everyone") && shown.contains("open") && shown.contains("shop/db"), "{shown}");
    let words: Vec<String> = list::summaries(&objects, Some("shop"))
        .into_iter()
        .map(|row| format!("{} {}", row.service, row.access))
        .collect();
    assert_eq!(words, ["shop/db:5432 open to everyone", "shop/gone:80 no pods", "shop/web:80 closed but for 1 rule"]);
}

fn pod(name: &str, ip: &str, is_meshed: bool) -> Value {
    let container = if is_meshed { PROXY_CONTAINER } else { "app" };
    json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "pod-template-hash": "5d4f", "app": "web" },
            "ownerReferences": [{ "kind": "ReplicaSet", "name": "web-5d4f", "controller": true }] },
        "spec": { "containers": [{ "name": container }], "nodeName": "n1" },
        "status": { "phase": "Running", "podIP": ip, "hostIP": "10.9.0.1" },
    })
}

fn caller_of(identity: Option<&str>, source: Option<&str>, port: u16, allowed: u64, denied: u64) -> Value {
    json!({ "identity": identity, "source": source, "port": port, "protocol": "http", "allowed": allowed,
        "denied": denied, "shadow_denied": 0, "audited": 0, "last_seen": 1_700_000_000,
        "denied_by": if denied > 0 { json!({ "policy": "AuthorizationPolicy shop/web", "rule": null }) } else { Value::Null } })
}

fn mock(callers: &[Value]) -> Cluster {
    let page = json!({ "policies": [], "callers": callers }).to_string();
    let selector = json!({ "matchLabels": { "app": "web" } });
    Mock::default()
        .list(
            "/api/v1/namespaces/shop/pods",
            vec![pod("web-5d4f-a", "10.0.0.1", true), pod("web-5d4f-b", "10.0.0.2", true)],
        )
        .list("/api/v1/pods", vec![pod("web-5d4f-a", "10.0.0.1", true), pod("plain-1", "10.0.0.7", false)])
        .object("/apis/apps/v1/namespaces/shop/deployments/web", json!({ "spec": { "selector": selector } }))
        .page("shop/web-5d4f-a", ADMIN_PORT, "/authorization", &page)
        .page("shop/web-5d4f-b", ADMIN_PORT, "/authorization", &page)
        .cluster()
}

const FRONT: &str = "spiffe://cluster.local/ns/clients/sa/front";
const OTHER: &str = "spiffe://other.test/ns/a/sa/b";

#[tokio::test]
async fn a_report_sums_what_the_sidecars_saw() {
    let seen = [
        caller_of(Some(FRONT), None, 8080, 5, 0),
        caller_of(Some(OTHER), None, 8080, 0, 2),
        caller_of(None, Some("10.0.0.7"), 8080, 1, 0),
        caller_of(None, Some("10.9.0.1"), 8080, 1, 0),
    ];
    let (asked, all) = report::ask(&mock(&seen), false).await.unwrap();
    let made = report::report(asked, &all);
    let text = report::text(&made, false, Style::PLAIN);
    for said in [
        "called without identity\n",
        "10.0.0.7 (pod shop/plain-1)   2 ",
        "10.9.0.1 (node n1)",
        "denied\n",
        "2023-11-14T22:13:20Z   AuthorizationPolicy shop/web",
        "2 sidecars were asked; see what was denied above",
        "safe to refuse callers without identity? no: 2 callers without identity were let in; ",
    ] {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }
    assert!(!text.contains(FRONT) && report::text(&made, true, Style::PLAIN).contains(FRONT), "{text}");
    let shown = serde_json::to_value(&made).unwrap();
    assert_eq!((&shown["callers"][0]["allowed"], &shown["strict"]["safe"]), (&json!(2), &json!(false)), "{shown:#}");
}

#[tokio::test]
async fn whether_to_be_strict_is_said() {
    for (seen, safe, said) in [
        (vec![caller_of(Some(FRONT), None, 80, 5, 0)], Some(true), "yes: "),
        (vec![caller_of(None, Some("10.0.0.7"), 80, 0, 3)], Some(true), "yes: "),
        (vec![caller_of(None, Some("10.0.0.7"), 80, 1, 0)], Some(false), "no: 1 caller without identity was let in"),
        (vec![caller_of(None, None, 0, 1, 0)], None, "not known: a sidecar saw more"),
    ] {
        let (asked, all) = report::ask(&mock(&seen), false).await.unwrap();
        let made = report::report(asked, &all).strict;
        assert_eq!(made.safe, safe, "{made:?}");
        assert!(made.said.starts_with(said), "{made:?}");
    }
    let silent = Mock::default().list("/api/v1/namespaces/shop/pods", vec![pod("mute", "10.0.0.1", true)]).cluster();
    let (asked, all) = report::ask(&silent, false).await.unwrap();
    let made = report::report(asked, &all);
    assert_eq!((made.strict.safe, made.not_asked[0].pod.as_str()), (None, "shop/mute"));
    assert!(report::text(&made, false, Style::PLAIN).contains("shop/mute   port 4691"), "{made:?}");
    let bare = Mock::default().list("/api/v1/namespaces/shop/pods", vec![]).cluster();
    let why = report::ask(&bare, false).await.unwrap_err().to_string();
    assert!(why.contains("no running pod of namespace shop has a sidecar"), "{why}");
}

#[tokio::test]
async fn policies_let_in_just_those_that_called() {
    let seen = [
        caller_of(Some(FRONT), None, 8080, 5, 0),
        caller_of(Some(OTHER), None, 8080, 1, 0),
        caller_of(Some(FRONT), None, 9090, 0, 2),
        caller_of(None, Some("10.0.0.7"), 8080, 1, 0),
    ];
    let cluster = mock(&seen);
    let (asked, all) = report::ask(&cluster, false).await.unwrap();
    let mut workloads: Vec<_> = generate::workloads(&asked, &all).into_values().collect();
    assert_eq!(workloads.len(), 1);
    workloads[0].selector = workloads[0].owner.selector(&cluster, &asked.pods[0].0).await;
    let text = generate::write(&workloads, &asked.silent, "cluster.local", false);
    let (_, policy) = text.split_once("---\n").unwrap();
    assert_eq!(
        policy,
        "# Deployment shop/web
# 10.0.0.7 (pod shop/plain-1) called port 8080 without identity: mesh it, or add a source of type CIDR
# spiffe://cluster.local/ns/clients/sa/front called port 9090 and was refused: no rule is written for it
apiVersion: policy.meshctl.dev/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: web-callers
  namespace: shop
spec:
  action: ALLOW
  enforcementLevel: Network
  mode: Shadow
  rules:
  - networkAttributes:
      ports:
      - 8080
    sources:
    - serviceAccount:
        name: front
        namespace: clients
      type: ServiceAccount
    - spiffe: \"spiffe://other.test/ns/a/sa/b\"
      type: SPIFFE
  targetRefs:
  - kind: Pod
    selector:
      matchLabels:
        app: web
"
    );
    // What is written is understood as it is meant.
    let (snapshot, problems) = mesh_resources::Snapshot::from_objects(
        &parse_manifests(&text, "f").unwrap(),
        mesh_resources::Options::default(),
    );
    assert!(
        problems.iter().all(|problem| problem.severity == mesh_resources::Severity::Warning),
        "{problems:?} {snapshot:?}"
    );
    assert!(generate::write(&workloads, &[], "cluster.local", true).contains("mode: Enforce"));
    let mut twin = workloads[0].clone();
    twin.owner.kind = "StatefulSet".to_owned();
    let both = generate::write(&[workloads[0].clone(), twin], &[], "cluster.local", false);
    assert!(both.contains("name: web-deployment-callers") && both.contains("name: web-statefulset-callers"), "{both}");
    workloads[0].selector = None;
    assert!(!generate::write(&workloads, &[], "cluster.local", false).contains("kind:"));
}

/// The manifests above with the pods of their templates, as an API server lists them.
fn cluster() -> Cluster {
    let all = parse_manifests(MANIFESTS, "f.yaml").unwrap();
    let of = |kind: &str| all.iter().filter(|object| object.kind == kind).map(|o| o.value.clone()).collect::<Vec<_>>();
    let mut web = pod("web-1", "10.0.0.1", true);
    web["metadata"]["annotations"] = json!({ "meshctl.dev/injected": "999.0.0" });
    let slice = json!({
        "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": [{ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": "web-1", "namespace": "shop" } }],
    });
    let resource = json!({ "name": "authorizationpolicies", "kind": "AuthorizationPolicy" });
    let front = all.iter().find(|object| object.kind == "Deployment" && object.name == "front").unwrap();
    Mock::default()
        .list("/api/v1/services", of("Service"))
        .list("/api/v1/namespaces/shop/pods", vec![web])
        .list("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", vec![slice])
        .object("/apis/policy.meshctl.dev", json!({ "versions": [{ "version": "v1alpha1" }] }))
        .object("/apis/policy.meshctl.dev/v1alpha1", json!({ "resources": [resource] }))
        .list("/apis/policy.meshctl.dev/v1alpha1/authorizationpolicies", of("AuthorizationPolicy"))
        .object("/apis/apps/v1/namespaces/shop/deployments/front", front.value.clone())
        .cluster()
}

#[tokio::test]
async fn a_cluster_is_asked_as_manifests_are() {
    let front = Named::Workload { kind: "Deployment", name: "front" };
    let read = of_cluster(&cluster(), &[], &[front]).await.unwrap();
    for (method, allowed) in [("GET", true), ("POST", false)] {
        let args = args(&format!("--from deploy/front --to web {method} /"));
        let answer = ask::answer(&args, "deploy/front", "web", &read.objects, "shop").unwrap();
        assert_eq!(answer.allowed, allowed, "{answer:?}");
        assert_eq!(answer.decided[0].pods, ["shop/web-1"]);
        assert_eq!(answer.notes, ["Deployment shop/front is taken for meshed: there is no pod of it"]);
    }
}
