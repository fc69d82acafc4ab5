//! What the tenant of one namespace does with all that his token allows: it harms his own namespace alone.
//!
//! Stage after stage, each on top of those before: patterns that are large when compiled, thousands of routes at one Service,
//! ten thousand objects, the largest that the API server takes, and changes all the time. In each, a victim's route is changed
//! and a victim's new pod is called. Memory, restarts and the Lease are asserted; times in a long run only.

mod objects;

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mesh_integration::harness::usage;
use serde_json::{Value, json};

use crate::{
    api::Api,
    apps::{App, service, web_and_client},
    kube::{Namespace, SYSTEM, apply, cluster_ip, get, is_long, kubectl, load, pause, pod, rolled_out, text, wait},
};

/// Most that destination takes, in KiB.
const DESTINATION: u64 = 256 << 10;
/// Most by which a sidecar of another namespace grows, in KiB.
const GROWTH: u64 = 16 << 10;
/// When a victim's changed route is in traffic and in its status, and a victim's new pod is served, in a long run.
const IN_TRAFFIC: Duration = Duration::from_secs(1);
const IN_STATUS: Duration = Duration::from_secs(5);
const SERVED: Duration = Duration::from_secs(5);
/// Changes a second, and the clients that make them.
const CHANGES: u32 = 300;
const CLIENTS: u32 = 8;

#[test]
fn a_tenant_with_all_that_its_token_may_do_harms_itself_alone_on_our_node() {
    let mut world = World::new();
    world.measure("before");
    world.create(objects::large_patterns(10));
    world.call("free");
    world.measure("ten routes of 4,096 large patterns");
    let (grpc, http) = if is_long() { (1_600, 300) } else { (300, 60) };
    world.create(objects::many_routes(grpc, http));
    world.call("many");
    world.measure(&format!("{} routes at one Service of 200 ports", grpc + http));
    if is_long() {
        world.create(objects::of_all_kinds(10_000));
        world.measure("10,000 objects more");
        world.create(objects::largest());
        world.measure("the largest objects");
    }
    let changing = world.change(grpc.min(150));
    world.measure("changes all the time");
    let made = changing.end();
    println!("{made:.0} changes a second");
    world.assert_unharmed();
}

/// A victim's namespace, a tenant's, and what is seen of both.
struct World {
    shop: Namespace,
    tenant: Namespace,
    /// By the tenant's own token, as far as the API server knows.
    api: Arc<Api>,
    client: String,
    web: String,
    version: u32,
    memory: Memory,
    before: Standing,
    /// Stages in which the victim waited too long.
    late: Vec<String>,
}

/// What must stay as it is of destination: its pods with their restarts, and its Lease.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    pods: Vec<(String, u64)>,
    lease: (String, u64),
}

impl Standing {
    fn now() -> Self {
        let pods = get(SYSTEM, &["pods", "-l", "app.kubernetes.io/component=destination"]);
        let restarts = |pod: &Value| {
            let restarts = pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_u64);
            (text(pod, "/metadata/name"), restarts.expect("it runs"))
        };
        let lease = get(SYSTEM, &["lease", "mesh-destination"]);
        let transitions = lease.pointer("/spec/leaseTransitions").and_then(Value::as_u64).unwrap_or_default();
        Self {
            pods: pods["items"].as_array().expect("a list").iter().map(restarts).collect(),
            lease: (text(&lease, "/spec/holderIdentity"), transitions),
        }
    }
}

impl World {
    fn new() -> Self {
        let (shop, tenant) = (Namespace::new("victim", true), Namespace::new("tenant", true));
        apply(&objects::rights(&tenant.0));
        let client = web_and_client(&shop.0);
        apply(&format!("{}{}", App::new("free").manifest(&tenant.0), service(&tenant.0, "free", "app: free")));
        rolled_out(&tenant.0, &["deployment/free"]);
        let web = format!("{}:80", cluster_ip(&shop.0, "web"));
        let api = Arc::new(Api::start(&[&format!("--as=system:serviceaccount:{}:mallory", tenant.0)]));
        let destination = pod(SYSTEM, "app.kubernetes.io/component=destination");
        let watched = [(SYSTEM, destination.clone()), (&shop.0, client.clone()), (&shop.0, pod(&shop.0, "app=web"))];
        let memory = Memory::watch(watched.map(|(namespace, pod)| (uid(namespace, &pod), pod)));
        let mut world =
            Self { shop, tenant, api, client, web, version: 0, memory, before: Standing::now(), late: Vec::new() };
        world.in_traffic();
        world.memory.is_usual();
        world
    }

    /// Makes objects, some at a time.
    fn create(&self, objects: Vec<(&'static str, Value)>) {
        let (began, count) = (Instant::now(), objects.len());
        let left = Arc::new(Mutex::new(objects));
        let workers: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (left, api, namespace) = (left.clone(), self.api.clone(), self.tenant.0.clone());
                thread::spawn(move || {
                    while let Some((resource, object)) = { left.lock().expect("no worker has failed").pop() } {
                        let path = objects::path(resource, &namespace);
                        let answer = api.ask("POST", &path, "application/json", &object);
                        assert!(answer.starts_with("HTTP/1.1 201"), "{resource}: {answer:.2000}");
                    }
                })
            })
            .collect();
        assert!(workers.into_iter().all(|worker| worker.join().is_ok()), "the API server refused an object");
        println!("{count} objects made in {:.1} s", began.elapsed().as_secs_f64());
    }

    /// The victim's client calls a Service of the tenant: what its sidecar learns of it is the tenant's.
    fn call(&self, service: &str) {
        let target = format!("{}:80", cluster_ip(&self.tenant.0, service));
        let args = ["http1", "--target", &target, "--count", "5", "--connections", "1"];
        load(&self.shop.0, &self.client, &args);
    }

    /// Changes the tenant's routes until the value is told to end.
    fn change(&self, routes: u32) -> Changing {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let workers = (0..CLIENTS).map(|place| {
            let (stop, made, api) = (stop.clone(), made.clone(), self.api.clone());
            let path = objects::path("grpcroutes", &self.tenant.0);
            thread::spawn(move || {
                let began = Instant::now();
                for n in 0.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let due = began + Duration::from_secs(1) * n * CLIENTS / CHANGES;
                    pause(due.saturating_duration_since(Instant::now()));
                    let patch = json!({"spec": {"hostnames": [format!("x{n}.example")]}});
                    let path = format!("{path}/g{}", (n * CLIENTS + place) % routes);
                    let answer = api.ask("PATCH", &path, "application/merge-patch+json", &patch);
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.2000}");
                    made.fetch_add(1, Relaxed);
                }
            })
        });
        Changing { workers: workers.collect(), stop, made, began: Instant::now() }
    }

    /// How soon a victim's changed route is in traffic and in its status.
    fn in_traffic(&mut self) -> (Duration, Duration) {
        self.version += 1;
        let (name, version) = (self.shop.0.clone(), self.version.to_string());
        apply(&objects::victims_route(&name, &version));
        let began = Instant::now();
        let status = thread::spawn(move || {
            wait("the victim's route in status", || {
                let route = get(&name, &["httproute", "v"]);
                let seen = route.pointer("/status/parents/0/conditions/0/observedGeneration");
                (seen.is_some() && seen == route.pointer("/metadata/generation")).then(|| began.elapsed())
            })
        });
        let args = ["http1", "--target", &self.web, "--count", "1", "--connections", "1"];
        let traffic = wait("the victim's route in traffic", || {
            let report = load(&self.shop.0, &self.client, &args);
            report.versions.contains_key(&version).then(|| began.elapsed())
        });
        (traffic, status.join().expect("the status is written"))
    }

    /// How soon a victim's new pod is served.
    fn served(&self) -> Duration {
        let name = self.shop.0.as_str();
        apply(&format!("{}{}", App::new("late").manifest(name), service(name, "late", "app: late")));
        let began = Instant::now();
        let target = wait("the address", || Some(format!("{}:80", cluster_ip(name, "late"))));
        let args = ["http1", "--target", &target, "--count", "1", "--connections", "1"];
        wait("the first answer of a new pod", || (load(name, &self.client, &args).errors == 0).then_some(()));
        let took = began.elapsed();
        kubectl(&["delete", "-n", name, "deployment/late", "service/late", "--wait=true"]);
        took
    }

    /// What the victim notices of the tenant's doings; `stage` names them.
    fn measure(&mut self, stage: &str) {
        let mut all = Vec::new();
        for _ in 0..if is_long() { 5 } else { 1 } {
            all.push(self.in_traffic());
        }
        let traffic = all.iter().map(|(traffic, _)| *traffic).max().unwrap_or_default();
        let status = all.iter().map(|(_, status)| *status).max().unwrap_or_default();
        let served = self.served();
        println!(
            "{stage}: a victim's route in traffic after {traffic:.1?} and in status after {status:.1?} at most, a new pod \
             served after {served:.1?}; {}",
            self.memory
        );
        if traffic > IN_TRAFFIC || status > IN_STATUS || served > SERVED {
            self.late.push(stage.to_owned());
        }
    }

    fn assert_unharmed(&self) {
        assert_eq!(Standing::now(), self.before, "destination was restarted, or lost its Lease");
        self.memory.assert_bounded();
        assert!(!is_long() || self.late.is_empty(), "the victim waited too long in: {:?}", self.late);
    }
}

/// Changes that are being made.
struct Changing {
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    began: Instant,
}

impl Changing {
    /// Ends them: how many were made in a second.
    fn end(self) -> f64 {
        let made = self.made.load(Relaxed) as f64 / self.began.elapsed().as_secs_f64();
        self.stop.store(true, Relaxed);
        assert!(self.workers.into_iter().all(|worker| worker.join().is_ok()), "the API server refused a change");
        made
    }
}

fn uid(namespace: &str, pod: &str) -> String {
    text(&get(namespace, &["pod", pod]), "/metadata/uid")
}

/// The most resident memory that Mesh's process in some pods has taken, looked at all the time.
struct Memory {
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
    usual: BTreeMap<String, u64>,
    end: Arc<AtomicBool>,
}

impl Memory {
    /// Of pods by their UIDs; the first is destination's.
    fn watch<const N: usize>(pods: [(String, String); N]) -> Self {
        let pids = pods.map(|(uid, name)| (process(&uid), name));
        let (seen, end) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let (into, until) = (seen.clone(), end.clone());
        thread::spawn(move || {
            while !until.load(Relaxed) {
                for (pid, name) in &pids {
                    // One that has ended is told by `Standing`.
                    let now = usage(*pid).map_or(0, |usage| usage.rss_kib);
                    let mut seen = into.lock().expect("nobody fails with it");
                    let most = seen.entry(name.clone()).or_default();
                    *most = now.max(*most);
                }
                pause(Duration::from_millis(100));
            }
        });
        Self { seen, usual: BTreeMap::new(), end }
    }

    fn most(&self) -> BTreeMap<String, u64> {
        self.seen.lock().expect("nobody fails with it").clone()
    }

    /// From here on, growth is counted.
    fn is_usual(&mut self) {
        self.usual = self.most();
    }

    fn assert_bounded(&self) {
        for (name, most) in self.most() {
            let usual = self.usual[&name];
            let bound = if name.starts_with("mesh-destination") { DESTINATION } else { usual + GROWTH };
            assert!(most < bound, "{name}: {most} KiB, {usual} at first");
        }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        for (name, most) in self.most() {
            write!(f, "{name} {:.1} MiB (+{:.1}) ", mib(most), mib(most - self.usual.get(&name).unwrap_or(&most)))?;
        }
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
    }
}

/// Mesh's process in the pod with this UID: its control group tells.
fn process(uid: &str) -> u32 {
    let of_pod = |pid: u32| {
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let is_ours = ["mesh-proxy", "mesh-controller"].contains(&name.trim());
        // With systemd's names for groups, dashes are underscores.
        is_ours && (group.contains(uid) || group.contains(&uid.replace('-', "_")))
    };
    let pids = fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid| of_pod(*pid)).expect("the pod runs on this machine's node")
}
