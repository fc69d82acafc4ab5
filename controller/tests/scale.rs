//! A cluster of ten thousand pods under a thousand proxies: what one change costs, and whom it wakes.
//!
//! What is asserted are counts and memory; times are printed (`--nocapture`), as the machine is shared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use mesh_controller::{DestinationService, Index, Metrics, PeerInfo, PolicyService};
use mesh_policy::Identity;
use mesh_proto::v1::{self, destination_server::Destination, policy_server::Policy};
use mesh_resources::{Object, Options};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Request;

const SERVICES: usize = 1_000;
const PODS_EACH: usize = 10;
const PROXIES: usize = 1_000;
/// Targets that a proxy follows: policy and endpoints of each.
const TARGETS: usize = 10;
const LIMIT: Duration = Duration::from_secs(60);
/// Held by each test: memory is the whole process's, so they run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

fn object(value: Value) -> Object {
    Object::from_value(value, None).unwrap()
}

fn service(n: usize) -> Object {
    object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}"), "namespace": "shop"},
        "spec": {"clusterIP": format!("10.96.{}.{}", n / 250, n % 250), "ports": [{"name": "http", "port": 80}]}}))
}

fn ip(pod: usize) -> String {
    format!("10.{}.{}.{}", pod / 40_000, pod / 200 % 200, pod % 200)
}

fn pod(n: usize) -> Object {
    object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{n}"), "namespace": "shop"},
        "spec": {"serviceAccountName": "web", "nodeName": format!("node-{}", n % 100), "containers": [
            {"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}, {"name": "mesh-proxy"}]},
        "status": {"phase": "Running", "podIP": ip(n), "podIPs": [{"ip": ip(n)}]}}))
}

/// The slice of a Service; `ready` of its endpoints are.
fn slice(n: usize, ready: usize) -> Object {
    let endpoint = |at: usize| {
        let pod = n * PODS_EACH + at;
        json!({"addresses": [ip(pod)], "conditions": {"ready": at < ready}, "nodeName": format!("node-{}", pod % 100),
            "zone": "za", "targetRef": {"kind": "Pod", "name": format!("p{pod}"), "namespace": "shop"}})
    };
    let endpoints: Vec<_> = (0..PODS_EACH).map(endpoint).collect();
    object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("s{n}-x"), "namespace": "shop", "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints}))
}

fn filled() -> (Index, tokio::sync::watch::Receiver<Arc<mesh_controller::Published>>, Arc<Metrics>) {
    let metrics = Metrics::new();
    let (mut index, published) = Index::new(Options::default(), metrics.clone());
    for n in 0..SERVICES {
        index.put(&service(n));
        index.put(&slice(n, PODS_EACH));
    }
    (0..SERVICES * PODS_EACH).for_each(|n| index.put(&pod(n)));
    index.publish();
    (index, published, metrics)
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let identity = Some(Identity::new("cluster.local", "shop", "web").unwrap());
    request.extensions_mut().insert(PeerInfo::new(identity, "10.0.0.1:1".parse().unwrap()));
    request
}

#[test]
fn a_copy_for_each_change_costs_little_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = resident();
    let begun = Instant::now();
    let (mut index, published, _) = filled();
    let (filled_in, full) = (begun.elapsed(), resident());
    assert_eq!(published.borrow().snapshot.len(), SERVICES * (2 + PODS_EACH));
    // Every reader holds on to the snapshot that it saw last.
    let mut held = Vec::new();
    let mut times: Vec<Duration> = (0..1_000)
        .map(|n| {
            let begun = Instant::now();
            index.put(&slice(n % SERVICES, 1 + n % 9));
            assert!(index.publish_state());
            held.push(published.borrow().clone());
            begun.elapsed()
        })
        .collect();
    let kept = resident();
    times.sort();
    let (median, p99) = (times[500], times[990]);
    println!("{} objects in {filled_in:?}, {} MiB", SERVICES * (2 + PODS_EACH), full.saturating_sub(before) / 1024);
    println!("put and publish of one slice: {median:?} at the median, {p99:?} at the 99th percentile");
    println!("a thousand snapshots held: {} KiB each", kept.saturating_sub(full) / 1_000);
    assert!(kept.saturating_sub(full) < 300 * 1024, "{} KiB", kept.saturating_sub(full));
}

#[test]
fn one_slice_wakes_only_those_who_follow_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(changes_under_a_thousand_proxies());
}

/// Opens the streams of every proxy, whose updates are counted.
async fn open_all(
    policy: &PolicyService,
    destination: &DestinationService,
    updates: &Arc<AtomicUsize>,
    news: &Arc<Notify>,
) {
    for proxy in 0..PROXIES {
        let workload = format!("shop/p{proxy}");
        for target in 0..TARGETS {
            // Everyone follows the first Service; the others are spread.
            let n = if target == 0 { 0 } else { (proxy * TARGETS + target) % SERVICES };
            let outbound = v1::OutboundRequest {
                target: format!("s{n}:80"),
                workload: workload.clone(),
                deltas: true,
                unowned: true,
            };
            let service = Some(v1::ServiceRef {
                namespace: "shop".into(),
                name: format!("s{n}"),
                port: 80,
                ..Default::default()
            });
            let endpoints = v1::EndpointsRequest { service, workload: workload.clone() };
            let outbound = policy.outbound(request(outbound)).await.unwrap().into_inner().map(drop);
            let endpoints = destination.endpoints(request(endpoints)).await.unwrap().into_inner().map(drop);
            let mut both = futures_util::stream::select(outbound, endpoints);
            let (updates, news) = (updates.clone(), news.clone());
            tokio::spawn(async move {
                while both.next().await.is_some() {
                    updates.fetch_add(1, Ordering::Relaxed);
                    news.notify_one();
                }
            });
        }
    }
}

async fn changes_under_a_thousand_proxies() {
    let (mut index, published, metrics) = filled();
    let cancel = CancellationToken::new();
    let policy = PolicyService::new(published.clone(), index.interests(), cancel.clone(), metrics.clone());
    let destination = DestinationService::new(published.clone(), index.interests(), cancel.clone(), metrics.clone());
    let (updates, news) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let before = resident();
    open_all(&policy, &destination, &updates, &news).await;
    let all = PROXIES * TARGETS * 2;
    let reach = async |wanted: usize| {
        let wait = async {
            while updates.load(Ordering::Relaxed) < wanted {
                news.notified().await;
            }
        };
        let begun = Instant::now();
        tokio::time::timeout(LIMIT, wait).await.expect("the updates arrive");
        begun.elapsed()
    };
    println!(
        "{all} streams: first answers in {:?}, {} MiB",
        reach(all).await,
        resident().saturating_sub(before) / 1024
    );
    let compiled = |text: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix("mesh_controller_compilations_total "));
        line.unwrap().parse().unwrap()
    };

    // One that everyone follows.
    let count = compiled(&metrics.render());
    let mut slowest = Duration::ZERO;
    for round in 1..=9 {
        let begun = Instant::now();
        index.put(&slice(0, round));
        index.publish_state();
        reach(all + round * PROXIES).await;
        slowest = slowest.max(begun.elapsed());
    }
    println!("a slice that {PROXIES} proxies follow: in all hands after at most {slowest:?}");
    let extra = compiled(&metrics.render()) - count;
    assert!(extra <= 9.0, "compiled once a change, not once a proxy: {extra}");

    // One that a few follow: the others sleep on.
    let followers = (0..PROXIES).flat_map(|proxy| (1..TARGETS).map(move |t| (proxy * TARGETS + t) % SERVICES));
    let few = followers.filter(|n| *n == 17).count();
    let (count, begun) = (compiled(&metrics.render()), Instant::now());
    index.put(&slice(17, 3));
    index.publish_state();
    reach(all + 9 * PROXIES + few).await;
    println!("a slice that {few} proxies follow: in all hands after {:?}", begun.elapsed());
    assert!(compiled(&metrics.render()) - count <= 1.0);
    tokio::task::yield_now().await;
    assert_eq!(updates.load(Ordering::Relaxed), all + 9 * PROXIES + few, "nobody else heard of it");

    // What concerns everyone.
    let begun = Instant::now();
    let mut object = service(3);
    object.value["spec"]["internalTrafficPolicy"] = json!("Local");
    index.put(&object);
    index.publish_state();
    index.put(&slice(17, 4));
    index.publish_state();
    reach(all + 9 * PROXIES + 2 * few).await;
    println!("a changed Service, which {all} streams look at: {:?}", begun.elapsed());
    cancel.cancel();
}
