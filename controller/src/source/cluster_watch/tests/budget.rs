//! What has to wait for its turn or for room: nobody waits for another's changes, and what found no room is read by its
//! name.

use super::*;

/// A cluster that follows nobody, and how to tell it of something.
fn alone() -> (ClusterWatch, watch::Receiver<Arc<Published>>, watch::Receiver<bool>) {
    let metrics = Metrics::new();
    let (index, published) = Index::new(Options::default(), metrics.clone());
    let (cluster, synced) = ClusterWatch::new(index, &metrics);
    (cluster, published, synced)
}

fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.kind == name).unwrap()
}

/// Tells that nothing is there of any kind.
fn list_all(cluster: &mut ClusterWatch) {
    KINDS.iter().for_each(|kind| cluster.take(kind, Event::Listed(HashSet::new(), 100)));
}

fn route(namespace: &str, name: &str) -> Event {
    let mut value = tls_route();
    value["apiVersion"] = json!(format!("{GROUP}/v1"));
    value["kind"] = json!("TLSRoute");
    value["metadata"] = json!({"namespace": namespace, "name": name, "resourceVersion": "110"});
    let place = Arc::<ObjectBudget>::default().take(&namespace.into(), 1).unwrap();
    Event::Put(Box::new(Object::from_value(value, None).unwrap()), place, Some(110))
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_served_and_a_list_take_in_nobody_elses_changes() {
    let (mut cluster, published, synced) = alone();
    list_all(&mut cluster);
    cluster.turn();
    assert!(*synced.borrow());
    for n in 0..100 {
        cluster.take(kind("TLSRoute"), route("tenant", &format!("r{n}")));
    }
    // As every three seconds, and as after each relist.
    cluster.take(kind("RetryPolicy"), Event::Absent);
    cluster.take(kind("Pod"), Event::Listed(HashSet::new(), 120));
    assert!(cluster.index.keys_of("TLSRoute").is_empty(), "they have their turns");
    // What waits of the kind itself is gone with it.
    cluster.take(kind("TLSRoute"), Event::Absent);
    while cluster.turn() {}
    assert!(published.borrow().snapshot.tls_routes.is_empty() && cluster.waiting.is_done());
}

#[tokio::test(start_paused = true)]
async fn routes_are_waited_for_at_a_start_but_not_for_ever() {
    let (mut cluster, _published, synced) = alone();
    let origin = Arc::new(Origin { path: format!("/apis/{GROUP}/v1/tlsroutes"), api: format!("{GROUP}/v1") });
    let unread = |name: &str| Event::Stale(Key::new("tenant", name), origin.clone(), Some(110));
    list_all(&mut cluster);
    cluster.take(kind("TLSRoute"), unread("r"));
    cluster.take(kind("Pod"), unread("web"));
    cluster.turn();
    tokio::time::advance(2 * ROUTES_AT_START).await;
    cluster.turn();
    assert!(!*synced.borrow(), "nobody may be told of addresses before pods are known");
    cluster.take(kind("Pod"), Event::Gone(Key::new("tenant", "web"), 130));
    cluster.turn();
    assert!(*synced.borrow());
}

#[tokio::test]
async fn an_object_for_which_there_is_no_room_is_read_by_its_name() {
    let server = with_gateway();
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    // More at once than one namespace may have waiting, and behind it what belongs to another.
    let big = "x".repeat(crate::source::object_budget::SHARE_BYTES / 3);
    server.with(|state| state.is_held = true);
    for n in 0..12 {
        let ports = json!([{"port": 1_000 + n}]);
        let object =
            json!({"metadata": {"annotations": {"big": big}}, "spec": {"clusterIP": "10.96.0.1", "ports": ports}});
        server.put("services", "tenant", &format!("s{n}"), object);
    }
    server.put("services", "tenant", "gone", json!({"metadata": {"annotations": {"big": big}}, "spec": {}}));
    server.remove("services", "tenant", "gone");
    server.service("web", 80);
    server.with(|state| state.is_held = false);
    fixture.until(|cluster| cluster.snapshot.services.len() == 13).await;
    let cluster = fixture.published.borrow().clone();
    assert!((0..12).all(|n| knows(&cluster, &format!("s{n}.tenant:{}", 1_000 + n))) && knows(&cluster, "web:80"));
    assert!(server.with(|state| state.reads) > 0, "some found no room");
}

#[tokio::test]
async fn what_was_left_out_for_want_of_room_is_in_force_once_there_is_some() {
    let server = with_gateway();
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    let name = |n: usize| format!("r{n:02}");
    for n in 0..60 {
        let set: Vec<_> = (0..16).map(|m| json!({"name": format!("x-{n}-{m}"), "value": "v".repeat(4_000)})).collect();
        let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": set}});
        let rules: Vec<_> = (0..8).map(|_| json!({"filters": [filter]})).collect();
        let parent = json!({"group": "", "kind": "Service", "name": "web"});
        server.put("httproutes", "shop", &name(n), json!({"spec": {"parentRefs": [parent], "rules": rules}}));
    }
    let left_out = |cluster: &Published| cluster.snapshot.http_routes.values().filter(|r| r.rejected.is_some()).count();
    fixture.until(|cluster| cluster.snapshot.http_routes.len() == 60).await;
    assert!((5..20).contains(&left_out(&fixture.published.borrow().clone())));
    (0..20).for_each(|n| server.remove("httproutes", "shop", &name(n)));
    fixture.until(|cluster| cluster.snapshot.http_routes.len() == 40 && left_out(cluster) == 0).await;
}

#[tokio::test]
async fn what_is_not_there_is_told_from_what_cannot_be_asked_for_there() {
    let server = with_gateway();
    server.put("tlsroutes", "shop", "r", tls_route());
    let (client, kind) = (server.client(), kind("TLSRoute"));
    let at = |version: &str| Origin {
        path: format!("/apis/{GROUP}/{version}/tlsroutes"),
        api: format!("{GROUP}/{version}"),
    };
    let found = read(&client, kind, &at("v1"), &Key::new("shop", "r")).await.unwrap().unwrap();
    assert_eq!((found.kind.as_str(), found.api_version), ("TLSRoute", format!("{GROUP}/v1")));
    assert!(read(&client, kind, &at("v1"), &Key::new("shop", "gone")).await.unwrap().is_none());
    read(&client, kind, &at("v1alpha2"), &Key::new("shop", "r")).await.unwrap_err();
    server.put("nodes", "", "n1", json!({"spec": {"podCIDRs": ["10.0.0.0/24"]}}));
    let nodes = Origin { path: "/api/v1/nodes".to_owned(), api: "v1".to_owned() };
    let node = self::kind("Node");
    assert_eq!(read(&client, node, &nodes, &Key::new("default", "n1")).await.unwrap().unwrap().name, "n1");
}
