//! What one namespace's tenant may do to the index that all share: his objects, many, large and changing all the time.
//!
//! What is asserted is memory, order and counts; times are printed (`--nocapture`), as the machine is shared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use mesh_controller::{Index, Metrics, Published};
use mesh_policy::{ServiceRef, Target};
use mesh_resources::{Key, Object, Options, StatusId};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Held by each test: memory is the whole process's, so they run one after the other.
static ALONE: Mutex<()> = Mutex::new(());
/// Most that destination may take (the bar) less what it takes without any tenant.
const MAX_GROWTH_KIB: u64 = 200 * 1024;

struct World {
    index: Index,
    published: watch::Receiver<Arc<Published>>,
    wanted: watch::Receiver<mesh_controller::Wanted>,
}

fn object(value: Value) -> Object {
    Object::from_value(value, None).unwrap()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn route(kind: &str, namespace: &str, name: &str, parents: Value, rules: Value) -> Object {
    object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "generation": 1},
        "spec": {"parentRefs": parents, "rules": rules}}))
}

fn service(namespace: &str, name: &str, ports: usize) -> Object {
    let ports: Vec<_> = (0..ports).map(|n| json!({"name": format!("p{n}"), "port": 1_000 + n})).collect();
    object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": ports}}))
}

fn parent(name: &str, section: Option<usize>) -> Value {
    match section {
        Some(port) => json!({"group": "", "kind": "Service", "name": name, "sectionName": format!("p{port}")}),
        None => json!({"group": "", "kind": "Service", "name": name}),
    }
}

fn to(name: &str) -> Value {
    json!([{"backendRefs": [{"name": name, "port": 1_000}]}])
}

impl World {
    /// A victim's Service with a route.
    fn new() -> Self {
        let (index, published) = Index::new(Options::default(), Metrics::new());
        let wanted = index.wanted();
        let mut world = Self { index, published, wanted };
        world.index.put(&service("shop", "web", 1));
        world.victim(1);
        world.index.publish();
        world
    }

    fn victim(&mut self, version: u32) {
        let filter = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-v", "value": version.to_string()}]}});
        let rules = json!([{"filters": [filter], "backendRefs": [{"name": "web", "port": 1_000}]}]);
        let mut object = route("HTTPRoute", "shop", "v", json!([parent("web", None)]), rules);
        object.value["metadata"]["generation"] = json!(version);
        self.index.put(&object);
    }

    fn victims_status(&self) -> Option<u64> {
        self.wanted.borrow().get(&StatusId::new("HTTPRoute", Key::new("shop", "v"))).copied()
    }

    fn policy_bytes(&self, namespace: &str, name: &str) -> usize {
        let service = ServiceRef::new(namespace, name, 1_000);
        self.published.borrow().snapshot.outbound_policy(&Target::Service(service), "shop").routes.bytes()
    }
}

/// One Service of 200 ports, GRPCRoutes at its last port, HTTPRoutes with 32 parents at its other ports.
fn flood(world: &mut World, grpc: usize, http: usize) {
    world.index.put(&service("tenant", "many", 200));
    for n in 0..grpc {
        world.index.put(&route(
            "GRPCRoute",
            "tenant",
            &format!("g{n}"),
            json!([parent("many", Some(199))]),
            to("many"),
        ));
    }
    for n in 0..http {
        let parents: Vec<_> = (0..32).map(|port| parent("many", Some(port))).collect();
        world.index.put(&route("HTTPRoute", "tenant", &format!("h{n}"), json!(parents), to("many")));
    }
}

#[test]
fn a_change_among_thousands_of_routes_judges_few_and_a_victims_is_judged_in_its_turn() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new();
    let before = resident();
    let begun = Instant::now();
    flood(&mut world, 1_600, 300);
    println!("1,900 routes taken in: {:?}", begun.elapsed());
    let begun = Instant::now();
    world.index.publish_state();
    println!("published: {:?}", begun.elapsed());
    // All of the tenant's wait to be judged; the victim's has its turn behind one of them.
    world.victim(2);
    world.index.publish_state();
    let old = world.victims_status();
    assert!(world.index.judge_some(2), "many are left");
    assert_ne!(world.victims_status(), old);
    let begun = Instant::now();
    world.index.publish();
    println!("all judged: {:?}, {} MiB", begun.elapsed(), resident().saturating_sub(before) / 1024);
    // One hostname of one route: nothing of another route is judged again.
    for n in 0..20 {
        let mut changed = route("GRPCRoute", "tenant", "g0", json!([parent("many", Some(199))]), to("many"));
        changed.value["spec"]["hostnames"] = json!([format!("b{n}.example")]);
        let begun = Instant::now();
        world.index.put(&changed);
        world.index.publish_state();
        let mut judged = 1;
        while world.index.judge_some(1) {
            judged += 1;
        }
        assert_eq!(judged, 1, "it stands where it stood, and so do all others");
        if n == 0 {
            println!("one change: {:?}, {judged} judged", begun.elapsed());
        }
    }
}

#[test]
fn ten_thousand_objects_of_one_namespace_stay_within_their_room() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new();
    let before = resident();
    let begun = Instant::now();
    flood(&mut world, 4_000, 6_000);
    world.index.publish();
    let grown = resident().saturating_sub(before);
    println!("ten thousand routes: {:?}, {} MiB", begun.elapsed(), grown / 1024);
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB");
    let problems = world.published.borrow().problems.len();
    assert!(problems <= 1_001, "{problems} are listed");
    let begun = Instant::now();
    world.victim(2);
    world.index.publish_state();
    println!("the victim's change in force: {:?}", begun.elapsed());
    assert!(world.policy_bytes("shop", "web") > 0);
    let old = world.victims_status();
    world.index.judge_some(2);
    assert_ne!(world.victims_status(), old);
}

#[test]
fn the_largest_objects_that_an_api_server_takes_stay_within_their_room() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new();
    let before = resident();
    // 128 matches with 16 headers and 16 parameters each, of other texts in each route: about 1.5 MiB.
    let entries = |kind: &str, route: usize, matched: usize| -> Vec<Value> {
        let text = |n: usize| format!("{route}-{matched}-{n}{}", "[a-z0-9]{60}".repeat(20));
        (0..16).map(|n| json!({"type": kind, "name": format!("x{n}"), "value": text(n)})).collect()
    };
    let kinds = ["RegularExpression", "Exact"];
    let begun = Instant::now();
    let mut slowest = begun.elapsed();
    for n in 0..120 {
        let kind = kinds[n % 2];
        let matched = |m: usize| json!({"headers": entries(kind, n, m), "queryParams": entries(kind, n, m)});
        let rules: Vec<_> = (0..16)
            .map(|rule| {
                let matches: Vec<_> = (0..8).map(|m| matched(rule * 8 + m)).collect();
                json!({"matches": matches, "backendRefs": [{"name": "free", "port": 1_000}]})
            })
            .collect();
        let object = route("HTTPRoute", "tenant", &format!("r{n}"), json!([parent("free", None)]), json!(rules));
        let one = Instant::now();
        world.index.put(&object);
        slowest = slowest.max(one.elapsed());
    }
    world.index.put(&service("tenant", "free", 30_000));
    world.index.publish();
    let grown = resident().saturating_sub(before);
    println!("120 of the largest routes: {:?}, the slowest {slowest:?}, {} MiB", begun.elapsed(), grown / 1024);
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB");
    // Whatever port is asked for, under whatever name.
    for port in 1_000..2_000 {
        let service = ServiceRef::new("tenant", "free", port);
        let policy = world.published.borrow().snapshot.outbound_policy(&Target::Service(service), "shop");
        assert!(policy.routes.bytes() <= mesh_policy::bounds::MAX_POLICY_BYTES);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB with a thousand policies");
}
