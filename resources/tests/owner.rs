//! Who has an address, whatever comes in whatever order: no endpoint of a meshed pod is ever without its identity.
//!
//! The oracle knows what was told last of each object and nothing of how the snapshot keeps it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, net::IpAddr, thread};

use mesh_policy::{Endpoint, ServiceRef, Target};
use mesh_resources::{Object, Options, Snapshot};
use serde_json::{Value, json};

/// Sequences of events that are tried.
const SEQUENCES: usize = 100_000;
/// Events of one of them, at most.
const MAX_EVENTS: usize = 8;
const THREADS: usize = 4;

/// Addresses: two of a Node's network, its IPv6 sibling, a node's, one outside, a cluster IP.
const IPS: [&str; 6] = ["10.0.0.1", "10.0.0.2", "fd00::1", "192.168.0.1", "203.0.113.1", "10.96.0.1"];
const PORTS: [u16; 2] = [8080, 9000];
const NAMESPACES: [&str; 2] = ["shop", "evil"];
const PODS: [&str; 2] = ["a", "b"];

/// What the oracle knows of a pod.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    ips: Vec<IpAddr>,
    is_host: bool,
    is_over: bool,
    account: &'static str,
    is_meshed: bool,
    /// Whether connections to 9000 do not come to its proxy.
    skips: bool,
}

/// The state of an object that an event tells.
struct Event {
    object: Object,
    pod: Option<Known>,
    has_networks: Option<bool>,
}

fn object(value: Value) -> Object {
    Object::from_value(value, None).unwrap()
}

fn pods(by_label: bool) -> Vec<Event> {
    let addresses: [&[&str]; 6] =
        [&[], &["10.0.0.1"], &["10.0.0.2"], &["10.0.0.1", "fd00::1"], &["fd00::1"], &["192.168.0.1"]];
    let mut all = Vec::new();
    for (namespace, name) in NAMESPACES.into_iter().flat_map(|ns| PODS.map(|name| (ns, name))) {
        for (i, ips) in addresses.into_iter().enumerate() {
            for bits in 0..16_u32 {
                let (is_meshed, skips) = (bits & 1 == 0, bits & 2 != 0);
                let (is_over, other) = (bits & 12 == 12, bits & 4 != 0);
                let is_host = i == 5;
                let account = if other { "db" } else { "web" };
                let mut containers = vec![json!({"name": "app"})];
                let (mut init, mut labels, mut annotations) = (vec![], json!({}), json!({}));
                if by_label {
                    labels = json!({"meshctl.dev/inject": if is_meshed { "enabled" } else { "disabled" }});
                    if skips {
                        annotations = json!({"config.meshctl.dev/skip-inbound-ports": "9000"});
                    }
                } else {
                    // What is annotated after the injection changes nothing.
                    annotations = json!({"config.meshctl.dev/skip-inbound-ports": "8000-9999"});
                    if is_meshed {
                        containers.push(json!({"name": "mesh-proxy"}));
                        let env = json!([{"name": "MESH_SKIP_INBOUND_PORTS", "value": "9000"}]);
                        init.push(json!({"name": "mesh-init", "env": if skips { env } else { json!([]) }}));
                    }
                }
                let texts: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
                let value = json!({"apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
                    "spec": {"serviceAccountName": account, "hostNetwork": is_host, "containers": containers,
                        "initContainers": init},
                    "status": {"phase": if is_over { "Failed" } else { "Running" }, "podIPs": texts}});
                let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
                let known = Known { ips, is_host, is_over, account, is_meshed: is_meshed && !is_host, skips };
                all.push(Event { object: object(value), pod: Some(known), has_networks: None });
            }
        }
    }
    all
}

fn slices() -> Vec<Event> {
    let mut all = Vec::new();
    for (n, namespace) in NAMESPACES.into_iter().enumerate() {
        let mut claims = vec![json!(null), json!({"kind": "Pod"}), json!({"kind": "Node", "name": "n"})];
        claims.extend(PODS.map(|name| json!({"kind": "Pod", "name": name})));
        claims.push(json!({"kind": "Pod", "name": "a", "namespace": NAMESPACES[1 - n]}));
        claims.push(json!({"kind": "Pod", "name": "unheard-of"}));
        for (i, first) in IPS.into_iter().enumerate() {
            for (c, claim) in claims.iter().enumerate() {
                let second = IPS[(i + c) % IPS.len()];
                let other = &claims[(i * 3 + c + 1) % claims.len()];
                let endpoint = |ip: &str, claim: &Value, state: usize| {
                    json!({"addresses": [ip], "targetRef": claim, "hostname": format!("h{state}"), "conditions":
                        {"ready": state != 1, "serving": state != 2, "terminating": state == 1}})
                };
                let mut endpoints = vec![endpoint(first, claim, c % 3)];
                let is_v6 = |ip: &str| ip.contains(':');
                if is_v6(first) == is_v6(second) {
                    endpoints.push(endpoint(second, other, i % 3));
                }
                for name in ["s1", "s2"] {
                    let value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                        "addressType": if is_v6(first) { "IPv6" } else { "IPv4" },
                        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": "web"}},
                        "ports": [{"name": "p", "port": PORTS[c % 2]}], "endpoints": endpoints});
                    all.push(Event { object: object(value), pod: None, has_networks: None });
                }
            }
        }
    }
    all
}

fn others() -> Vec<Event> {
    let event = |value: Value, has_networks| Event { object: object(value), pod: None, has_networks };
    let mut all = Vec::new();
    for namespace in NAMESPACES {
        for ip in ["None", "10.96.0.1", ""] {
            all.push(event(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": namespace},
                    "spec": {"clusterIP": ip, "ports": [{"name": "p", "port": 80}]}}),
                None,
            ));
        }
        all.push(event(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}), None));
    }
    for networks in [json!(["10.0.0.0/24", "fd00::/64"]), json!([])] {
        let has = networks != json!([]);
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"podCIDRs": networks}});
        all.push(event(node, Some(has)));
    }
    all
}

/// A small generator of its own: a failure names its seed and comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// What was told last.
#[derive(Default)]
struct Oracle {
    pods: BTreeMap<(String, String), Known>,
    has_networks: bool,
}

impl Oracle {
    fn take(&mut self, event: &Event, is_gone: bool) {
        let key = (event.object.namespace.clone(), event.object.name.clone());
        match (&event.pod, is_gone) {
            (Some(_), true) => drop(self.pods.remove(&key)),
            (Some(known), false) => drop(self.pods.insert(key, known.clone())),
            (None, _) => {}
        }
        if let Some(has) = event.has_networks {
            self.has_networks = has && !is_gone;
        }
    }

    /// What is wrong with an endpoint that is given out.
    fn judge(&self, endpoint: &Endpoint) -> Option<&'static str> {
        let (ip, port) = (endpoint.address.ip(), endpoint.address.port());
        let having = self.pods.iter().filter(|(_, pod)| !pod.is_over && pod.ips.contains(&ip));
        let (mut identities, mut is_known) = (Vec::new(), false);
        for ((namespace, _), pod) in having {
            is_known = true;
            if pod.is_meshed && !(pod.skips && port == 9000) {
                identities.push(format!("spiffe://cluster.local/ns/{namespace}/sa/{}", pod.account));
            }
        }
        let proved = endpoint.identity.as_ref().map(ToString::to_string);
        let is_of_pods = self.has_networks && (ip.to_string().starts_with("10.0.0.") || ip.is_ipv6());
        match proved {
            None if !identities.is_empty() => Some("a meshed pod without its identity"),
            Some(proved) if !identities.contains(&proved) => Some("an identity that no owner has"),
            None if !is_known && is_of_pods => Some("an address of pods that no pod has, in plain text"),
            _ => None,
        }
    }
}

/// Everything that a snapshot is asked for.
struct Questions {
    services: [ServiceRef; 2],
    targets: Vec<String>,
}

impl Questions {
    fn new() -> Self {
        let directly = IPS.iter().map(|ip| ip.parse::<IpAddr>().unwrap());
        let addresses = directly.map(|ip| std::net::SocketAddr::new(ip, 8080).to_string());
        let names = ["10.0.0.1:9000", "h0.web.shop:8080", "h2.web.evil:9000"].map(str::to_owned);
        Self {
            services: NAMESPACES.map(|ns| ServiceRef::new(ns, "web", 80)),
            targets: addresses.chain(names).collect(),
        }
    }

    /// Everything that a snapshot gives out.
    fn ask(&self, snapshot: &Snapshot) -> Vec<Endpoint> {
        let mut all: Vec<_> = self.services.iter().flat_map(|service| snapshot.endpoints(service)).collect();
        for target in &self.targets {
            if let Some(Target::Endpoint(endpoint)) = snapshot.resolve(target, "shop") {
                all.push(endpoint);
            }
        }
        all
    }
}

/// Tries sequences; gives how many endpoints were given with an identity and without.
fn run(seeds: std::ops::Range<usize>, by_label: bool) -> [usize; 2] {
    let (events, questions) = ([pods(by_label), slices(), others()], Questions::new());
    let mut counts = [0; 2];
    for seed in seeds {
        let mut random = Random(seed as u64);
        let (mut snapshot, mut oracle) =
            (Snapshot::new(Options { meshed_by_label: by_label, ..Options::default() }), Oracle::default());
        let mut told: Vec<(bool, &Event)> = Vec::new();
        for _ in 0..=random.below(MAX_EVENTS) {
            let (mut is_gone, event) = match random.below(8) {
                // Something goes that was there, or that nobody ever saw.
                0 if !told.is_empty() => (true, told[random.below(told.len())].1),
                n => {
                    let kind = &events[[0, 0, 0, 0, 1, 1, 1, 2][n]];
                    (false, &kind[random.below(kind.len())])
                }
            };
            is_gone |= random.below(12) == 0;
            if is_gone {
                let Object { kind, namespace, name, .. } = &event.object;
                snapshot.delete(kind, namespace, name);
            } else {
                snapshot.apply(&event.object);
            }
            oracle.take(event, is_gone);
            told.push((is_gone, event));
            for endpoint in questions.ask(&snapshot) {
                counts[usize::from(endpoint.identity.is_none())] += 1;
                if let Some(why) = oracle.judge(&endpoint) {
                    let events: Vec<_> = told.iter().map(|(gone, e)| (gone, &e.object.value)).collect();
                    panic!("seed {seed}: {why}: {endpoint:?} after {events:#?}");
                }
            }
        }
    }
    counts
}

#[test]
fn no_endpoint_of_a_meshed_pod_is_ever_without_its_identity() {
    let part = SEQUENCES / THREADS;
    let threads: Vec<_> =
        (0..THREADS).map(|n| thread::spawn(move || run(n * part..(n + 1) * part, n % 2 == 1))).collect();
    let counts: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let [meshed, plain] = counts.iter().fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
    println!("{SEQUENCES} sequences: {meshed} endpoints with an identity, {plain} without");
    assert!(meshed > SEQUENCES && plain > SEQUENCES / 2, "few are given out at all: {meshed} and {plain}");
}
