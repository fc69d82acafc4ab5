//! The writer against an API server that others change too, and two writers of which one leads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::well_known::CONTROLLER_NAME;
use mesh_resources::{Key, Object, Options};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    kube::{fake::Fake, lease::Election},
    source::index::Index,
    status::observed::entries,
};

const SERVICE: &str = "/api/v1/namespaces/shop/services/web";

fn path(name: &str) -> String {
    format!("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/{name}")
}

fn service(fake: &Fake) {
    fake.put(SERVICE, json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}));
}

/// Writes a route to `backend`; its other parents and its status stay.
fn route(fake: &Fake, name: &str, generation: i64, parents: &[Value], backend: &str) {
    let before = fake.get(&path(name)).map_or(json!({}), |route| route["status"].clone());
    let rules = json!([{"backendRefs": [{"name": backend, "port": 80}]}]);
    fake.put(
        &path(name),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"generation": generation},
            "spec": {"parentRefs": parents, "rules": rules}, "status": before}),
    );
}

fn to_service() -> Value {
    json!({"group": "", "kind": "Service", "name": "web"})
}

fn to_gateway() -> Value {
    json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "front"})
}

/// What an entry says of a condition: its status, reason, generation and time.
fn said(fake: &Fake, name: &str, condition: &str) -> Option<(String, String, i64, String)> {
    let route = fake.get(&path(name))?;
    let ours = entries(StatusForm::Parents, &route).find(|entry| entry["controllerName"] == CONTROLLER_NAME)?;
    let found = ours["conditions"].as_array()?.iter().find(|found| found["type"] == condition)?;
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    Some((text("status"), text("reason"), found["observedGeneration"].as_i64()?, text("lastTransitionTime")))
}

fn accepted(fake: &Fake, name: &str, generation: i64) -> bool {
    said(fake, name, "Accepted").is_some_and(|said| (said.0.as_str(), said.2) == ("True", generation))
}

fn patches(fake: &Fake) -> usize {
    fake.asked().iter().filter(|asked| asked.starts_with("PATCH")).count()
}

async fn until(fake: &Fake, what: &str, wanted: impl Fn(&Fake) -> bool) {
    let waiting = async {
        while !wanted(fake) {
            fake.event().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Lets what would be written be written, by the clock of the test.
async fn settle(fake: &Fake) {
    for _ in 0..500 {
        fake.event().await;
    }
}

/// A replica: an index that follows the server, and the writer.
fn replica(fake: &Fake) -> StatusWriter {
    let metrics = Metrics::new();
    let (mut index, state) = Index::new(Options::default(), metrics.clone());
    let writer = StatusWriter {
        client: fake.client(),
        state,
        wanted: index.wanted(),
        statuses: index.observed_status(),
        metrics: metrics.clone(),
    };
    follow(fake, &mut index);
    let fake = fake.clone();
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            if std::mem::replace(&mut seen, fake.version()) != seen {
                follow(&fake, &mut index);
            }
            fake.event().await;
        }
    });
    writer
}

/// Takes in everything there is, as the watches do.
fn follow(fake: &Fake, index: &mut Index) {
    let mut there = std::collections::HashSet::new();
    for object in fake.all().into_iter().filter(|object| object["kind"] != "Lease") {
        let object = Object::from_value(object, None).unwrap();
        there.insert((object.kind.clone(), Key::new(object.namespace.as_str(), object.name.as_str())));
        index.put(&object);
    }
    for kind in ["HTTPRoute", "RetryPolicy"] {
        for gone in index.keys_of(kind).into_iter().filter(|key| !there.contains(&(kind.to_owned(), key.clone()))) {
            index.remove(kind, &gone, 0);
        }
    }
    index.publish();
}

#[tokio::test(start_paused = true)]
async fn written_with_the_generation_changed_with_the_world_and_removed_with_the_parent() {
    let fake = Fake::new();
    service(&fake);
    route(&fake, "r", 1, &[to_service()], "web");
    route(&fake, "north", 1, &[to_gateway()], "web");
    let task = tokio::spawn(replica(&fake).run());
    until(&fake, "accepted", |f| accepted(f, "r", 1)).await;
    let (resolved, accepted_at) = (said(&fake, "r", "ResolvedRefs").unwrap(), said(&fake, "r", "Accepted").unwrap().3);
    assert_eq!((resolved.0.as_str(), resolved.1.as_str()), ("True", "ResolvedRefs"));
    assert!(resolved.3.len() == 20 && resolved.3.ends_with('Z'), "{}", resolved.3);
    let route_now = fake.get(&path("r")).unwrap();
    assert_eq!(route_now["status"]["parents"][0]["parentRef"], to_service());
    // Another version of it, with a backend that is not there.
    let old = fake.get(&path("r")).unwrap()["status"].to_string().replace(&accepted_at, "2001-01-01T00:00:00Z");
    let mut aged = fake.get(&path("r")).unwrap();
    aged["status"] = serde_json::from_str(&old).unwrap();
    fake.put(&path("r"), aged);
    route(&fake, "r", 2, &[to_service()], "nowhere");
    until(&fake, "the backend is missed", |f| said(f, "r", "ResolvedRefs").is_some_and(|said| said.0 == "False")).await;
    let now = said(&fake, "r", "ResolvedRefs").unwrap();
    assert_eq!((now.1.as_str(), now.2), ("BackendNotFound", 2));
    assert_ne!(now.3, "2001-01-01T00:00:00Z", "its status is another");
    assert_eq!(said(&fake, "r", "Accepted").unwrap().3, "2001-01-01T00:00:00Z", "its status is the same");
    // The Service comes: nothing changed in the route.
    fake.put("/api/v1/namespaces/shop/services/nowhere", fake.get(SERVICE).unwrap());
    until(&fake, "the backend is there", |f| said(f, "r", "ResolvedRefs").is_some_and(|said| said.0 == "True")).await;
    // It is a Gateway's only, by now.
    route(&fake, "r", 3, &[to_gateway()], "web");
    until(&fake, "nothing of ours", |f| f.get(&path("r")).unwrap()["status"]["parents"] == json!([])).await;
    settle(&fake).await;
    assert_eq!(patches(&fake), 4, "each change is one write: {:?}", fake.asked());
    assert_eq!(fake.get(&path("north")).unwrap()["status"], json!({}), "none of ours");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_others_write_stays_and_a_conflict_is_written_anew() {
    let fake = Fake::new();
    service(&fake);
    route(&fake, "r", 1, &[to_gateway(), to_service()], "web");
    let writer = replica(&fake);
    let metrics = writer.metrics.clone();
    let task = tokio::spawn(writer.run());
    let theirs = json!({"controllerName": "example.com/gateway", "parentRef": to_gateway(), "conditions": []});
    // They write while we do.
    let rival = fake.clone();
    let entry = theirs.clone();
    fake.before_next_patch(move || {
        let mut object = rival.get(&path("r")).unwrap();
        object["status"] = json!({"parents": [entry]});
        rival.put(&path("r"), object);
    });
    until(&fake, "accepted", |f| accepted(f, "r", 1)).await;
    let parents = fake.get(&path("r")).unwrap()["status"]["parents"].clone();
    assert_eq!((parents[0].clone(), parents.as_array().unwrap().len()), (theirs, 2));
    assert!(metrics.render().contains("mesh_controller_status_writes_total{result=\"conflict\"} 1"));
    // They take ours out.
    let mut object = fake.get(&path("r")).unwrap();
    object["status"]["parents"].as_array_mut().unwrap().truncate(1);
    fake.put(&path("r"), object);
    until(&fake, "accepted again", |f| accepted(f, "r", 1)).await;
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_tried_again_and_an_outage_is_waited_out() {
    let fake = Fake::new();
    service(&fake);
    ["good", "bad"].iter().for_each(|name| route(&fake, name, 1, &[to_service()], "web"));
    fake.forbid(&format!("PATCH {}/status", path("bad")));
    let writer = replica(&fake);
    let metrics = writer.metrics.clone();
    let task = tokio::spawn(writer.run());
    let tries = |f: &Fake| f.asked().iter().filter(|asked| **asked == format!("PATCH {}/status", path("bad"))).count();
    until(&fake, "the other, and three tries", |f| accepted(f, "good", 1) && tries(f) >= 3).await;
    assert!(metrics.render().contains("mesh_controller_status_outdated 1"), "{}", metrics.render());
    fake.allow();
    until(&fake, "allowed now", |f| accepted(f, "bad", 1)).await;
    fake.set_away(true);
    route(&fake, "good", 2, &[to_service()], "web");
    settle(&fake).await;
    assert!(!accepted(&fake, "good", 2));
    fake.set_away(false);
    let back = Instant::now();
    until(&fake, "written afterwards", |f| accepted(f, "good", 2)).await;
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    task.abort();
}

const POLICY: &str = "/apis/policy.meshctl.dev/v1alpha1/namespaces/shop/retrypolicies/again";

/// Our entries of the policy: of which route, and what is said of `Accepted`.
fn ancestors(fake: &Fake) -> Vec<(String, String, i64)> {
    let policy = fake.get(POLICY).unwrap();
    let ours = entries(StatusForm::Ancestors, &policy).filter(|entry| entry["controllerName"] == CONTROLLER_NAME);
    let said = |entry: &Value| {
        let (accepted, name) = (&entry["conditions"][0], &entry["ancestorRef"]["name"]);
        let status = format!("{} {}", accepted["status"].as_str().unwrap(), accepted["reason"].as_str().unwrap());
        (name.as_str().unwrap().to_owned(), status, accepted["observedGeneration"].as_i64().unwrap())
    };
    ours.map(said).collect()
}

#[tokio::test(start_paused = true)]
async fn a_policy_says_of_which_routes_it_is_and_nothing_when_nobody_refers_to_it() {
    let fake = Fake::new();
    service(&fake);
    let theirs = json!({"controllerName": "example.com/other", "ancestorRef": {"name": "x"}, "conditions": []});
    let write = |generation: i64, attempts: u32, ancestors: &Value| {
        fake.put(
            POLICY,
            json!({"apiVersion": "policy.meshctl.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"generation": generation},
                "spec": {"attempts": attempts}, "status": {"ancestors": ancestors}}),
        );
    };
    write(1, 2, &json!([theirs]));
    let refer = |name: &str, parent: Value| {
        let named = json!({"group": "policy.meshctl.dev", "kind": "RetryPolicy", "name": "again"});
        let rules = json!([{"filters": [{"type": "ExtensionRef", "extensionRef": named}]}]);
        fake.put(
            &path(name),
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"generation": 1},
                "spec": {"parentRefs": [parent], "rules": rules}, "status": {}}),
        );
    };
    refer("a", to_service());
    refer("b", to_service());
    refer("north", to_gateway());
    let task = tokio::spawn(replica(&fake).run());
    let says = |names: &[&str], status: &str, generation: i64| -> Vec<(String, String, i64)> {
        names.iter().map(|name| ((*name).to_owned(), status.to_owned(), generation)).collect()
    };
    let accepted = says(&["a", "b"], "True Accepted", 1);
    until(&fake, "both routes", |f| ancestors(f) == accepted).await;
    // Nobody would take it by now.
    write(2, 1000, &fake.get(POLICY).unwrap()["status"]["ancestors"]);
    let refused = says(&["a", "b"], "False Invalid", 2);
    until(&fake, "it is invalid", |f| ancestors(f) == refused).await;
    refer("b", to_gateway());
    let refused = says(&["a"], "False Invalid", 2);
    until(&fake, "one route", |f| ancestors(f) == refused).await;
    fake.remove(&path("a"));
    until(&fake, "no route", |f| ancestors(f).is_empty()).await;
    assert_eq!(fake.get(POLICY).unwrap()["status"]["ancestors"], json!([theirs]), "what others wrote stays");
    task.abort();
}

/// Runs a writer while it leads, as the role does.
fn candidate(fake: &Fake, name: &str) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let (election, mut leading) = Election::new(fake.client(), "mesh-system", MANAGER, name);
    let (cancel, writer) = (CancellationToken::new(), replica(fake));
    let electing = election.run(cancel.clone());
    let task = tokio::spawn(async move {
        tokio::join!(electing, crate::kube::lead(&mut leading, || writer.clone().run()));
    });
    (cancel, task)
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_one_writes_each_route_once_and_the_other_takes_over() {
    // More than may be written at once.
    const ROUTES: usize = 150;
    let fake = Fake::new();
    service(&fake);
    let names: Vec<String> = (0..ROUTES).map(|n| format!("r{n}")).collect();
    names.iter().for_each(|name| route(&fake, name, 1, &[to_service()], "web"));
    let writes = |f: &Fake| f.asked().iter().filter(|asked| asked.ends_with("/status")).count();
    let (stop_a, a) = candidate(&fake, "a");
    let (stop_b, b) = candidate(&fake, "b");
    until(&fake, "all written", |f| names.iter().all(|name| accepted(f, name, 1))).await;
    settle(&fake).await;
    assert_eq!(writes(&fake), ROUTES, "a steady published is written once");
    // A graceful end gives the Lease back, and the next leader finds nothing to do.
    let holder = |f: &Fake| {
        f.get(&format!("/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases/{MANAGER}")).unwrap()["spec"]["holderIdentity"].clone()
    };
    let first = holder(&fake);
    let (stop_first, first_task, stop_second, second_task) =
        if first == "a" { (stop_a, a, stop_b, b) } else { (stop_b, b, stop_a, a) };
    stop_first.cancel();
    until(&fake, "the other leads", |f| holder(f) != first && holder(f) != Value::Null).await;
    settle(&fake).await;
    assert_eq!(writes(&fake), ROUTES, "nothing flaps");
    route(&fake, "r0", 2, &[to_service()], "web");
    until(&fake, "the other writes", |f| accepted(f, "r0", 2)).await;
    assert_eq!(writes(&fake), ROUTES + 1);
    stop_second.cancel();
    second_task.await.unwrap();
    first_task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_the_cluster_has_a_status_too() {
    const STRICT: &str = "/apis/policy.meshctl.dev/v1alpha1/clusterauthorizationpolicies/strict";
    let fake = Fake::new();
    fake.put(
        STRICT,
        json!({"apiVersion": "policy.meshctl.dev/v1alpha1", "kind": "ClusterAuthorizationPolicy", "metadata": {"generation": 3},
            "spec": {"tier": "Admin", "namespaceSelector": {}, "requireMeshIdentity": {}}}),
    );
    let task = tokio::spawn(replica(&fake).run());
    let accepted = |f: &Fake| {
        let policy = f.get(STRICT).unwrap();
        let found = policy.pointer("/status/ancestors/0/conditions/0").cloned().unwrap_or_default();
        found["type"] == "Accepted" && found["status"] == "True" && found["observedGeneration"] == 3
    };
    until(&fake, "it is told", accepted).await;
    task.abort();
}
