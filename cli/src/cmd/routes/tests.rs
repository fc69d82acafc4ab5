//! Rows and their forms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_resources::parse_manifests;

use super::{rows::Shown, *};

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}, {port: 81, name: b}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web-v2, namespace: shop}, spec: {ports: [{port: 80}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - name: new
    matches: [{path: {value: /new}}]
    backendRefs: [{name: web-v2, port: 80, weight: 3}, {name: absent, port: 80}]
  - backendRefs: [{name: web, port: 80}]
status:
  parents:
  - controllerName: other/controller
    parentRef: {group: '', kind: Service, name: web}
    conditions: [{type: Accepted, status: 'False', reason: Nothing}]
  - controllerName: meshctl.dev/controller
    parentRef: {group: '', kind: Service, name: web, port: 80}
    conditions:
    - {type: Accepted, status: 'True', reason: Accepted}
    - {type: ResolvedRefs, status: 'False', reason: BackendNotFound}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mine, namespace: clients}
spec:
  parentRefs: [{group: '', kind: Service, name: web, namespace: shop, port: 81}]
  rules: [{backendRefs: [{name: web, namespace: shop, port: 81}]}]
";

fn shown(service: Option<&str>, all: bool) -> Vec<Row> {
    let objects = parse_manifests(OBJECTS, "f").unwrap();
    let (snapshot, _) = Snapshot::from_objects(&objects, Options::default());
    rows::rows(&snapshot, &objects, &Shown::new(service, all, Some("shop")), Told::ByObjects)
}

#[test]
fn rules_in_force_by_port_and_clients() {
    let rows = shown(Some("web"), false);
    let seen: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {} {} {:?}", row.service, row.clients, row.route.as_deref().unwrap_or("-"), row.rule))
        .collect();
    assert_eq!(
        seen,
        [
            "shop/web:80 all HTTPRoute shop/split Some(0)",
            "shop/web:80 all HTTPRoute shop/split Some(1)",
            "shop/web:81 all - None",
            "shop/web:81 clients HTTPRoute clients/mine Some(0)",
        ]
    );
    assert_eq!(rows[0].status.as_deref(), Some("ResolvedRefs=False (BackendNotFound)"));
    assert_eq!(rows[0].backends.iter().map(|backend| backend.share).collect::<Vec<_>>(), [75.0, 25.0]);
    assert_eq!((rows[3].status.as_deref(), shown(None, true).len()), (None, 5));
}

#[test]
fn without_a_controller_it_is_said_what_it_would_say() {
    let objects = parse_manifests(OBJECTS, "f").unwrap();
    let (snapshot, _) = Snapshot::from_objects(&objects, Options::default());
    let rows = rows::rows(&snapshot, &objects, &Shown::new(None, true, None), Told::ByController);
    let status = |at: usize| rows[at].status.as_deref();
    assert_eq!((status(0), status(2), status(3)), (Some("ResolvedRefs=False (BackendNotFound)"), None, Some("ok")));
}

#[test]
fn tables_are_columns_and_objects_have_all() {
    let mut rows = shown(Some("shop/web"), true);
    rows[0].traffic = Some(Traffic { success: 99.5, rps: 12.0, p50_ms: Some(1.25), p99_ms: None });
    let table = print(&rows, Format::Table).unwrap();
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split("   ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect();
    assert_eq!(
        lines[1],
        [
            "shop/web:80",
            "HTTPRoute shop/split",
            "0 (new)",
            "shop/web-v2:80 75 %, (500) 25 %",
            "ResolvedRefs=False (BackendNotFound)",
            "99.5 %",
            "12",
            "1.25 ms",
            "-"
        ]
    );
    let wide = print(&rows, Format::Wide).unwrap();
    assert!(wide.contains("path under \"/new\""), "{wide}");
    let json: serde_json::Value = serde_json::from_str(&print(&rows, Format::Json).unwrap()).unwrap();
    assert_eq!(json["routes"][0]["traffic"]["success"], 99.5);
    assert!(print(&rows, Format::Yaml).unwrap().contains("clients: all"));
    assert!(window("61s").is_err() && window("2m").is_err() && window("0s").unwrap().is_zero());
    assert_eq!(window("1m"), Ok(Duration::from_secs(60)));
}
