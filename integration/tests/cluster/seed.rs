//! The first thing that people do with a mesh: two versions, 90/10, everything mutually authenticated.

use std::{
    io::{self, Read},
    process::{Child, Stdio},
    thread::JoinHandle,
};

use mesh_integration::load::Report;

use crate::{
    apps::{App, service},
    kube::{Namespace, apply, cluster_ip, exec, get, in_node, load, page, pod, rolled_out, text, wait},
};

/// What is asked for.
const SECRET: &str = "/1k?secret=in-the-clear";
/// Bytes of the requests that a listener on the wire would look for.
const SECRETS: [&[u8]; 2] = [SECRET.as_bytes(), b"mesh-load"];

#[test]
fn nine_to_one_with_mutual_tls() {
    let seed = Seed::sown("seed");
    let report = seed.ask(5000);
    let share = report.versions["web-v2"] as f64 / 5000.0;
    println!("v2's share of 5000: {:.2} %; p50 {} us, p99 {} us", share * 100.0, report.p50_us, report.p99_us);
    assert!((0.083..=0.117).contains(&share), "v2 got {share}");
}

#[test]
fn nothing_is_in_the_clear_on_our_node() {
    let seed = Seed::sown("seed-seen");
    let capture = Capture::start();
    seed.ask(1000);
    let seen = capture.stop();
    assert!(seen.len() > 1 << 20, "the capture saw {} bytes only", seen.len());
    for secret in SECRETS {
        assert!(!contains(&seen, secret), "{:?} is on the wire", String::from_utf8_lossy(secret));
    }
}

/// Two versions of `web`, nine to one, and a client.
struct Seed {
    namespace: Namespace,
    client: String,
    target: String,
}

impl Seed {
    /// With the route in force, which is so when v2 is seen.
    fn sown(name: &str) -> Self {
        let namespace = Namespace::new(name, true);
        let apps: String = ["web-v1", "web-v2", "client"].iter().map(|app| App::new(app).manifest(name)).collect();
        let services = [("web", "app: web-v1"), ("web-v1", "app: web-v1"), ("web-v2", "app: web-v2")];
        let services: String = services.iter().map(|(web, selector)| service(name, web, selector)).collect();
        apply(&format!("{apps}{services}{}", ROUTE.replace("NAMESPACE", name)));
        rolled_out(name, &["deployment/web-v1", "deployment/web-v2", "deployment/client"]);
        let seed =
            Self { client: pod(name, "app=client"), target: format!("{}:80", cluster_ip(name, "web")), namespace };
        wait("the route in force", || seed.load("/1k", 100).versions.contains_key("web-v2").then_some(()));
        seed
    }

    fn load(&self, path: &str, count: u64) -> Report {
        let count = count.to_string();
        let args = ["http1", "--target", &self.target, "--host", "web", "--path", path, "--count", &count];
        load(&self.namespace.0, &self.client, &[&args[..], &["--seconds", "60"]].concat())
    }

    /// Sends requests. None fails, and by both proxies' own counting all of it is mutual TLS between these accounts.
    fn ask(&self, count: u64) -> Report {
        let name = self.namespace.0.as_str();
        let before = Meshed::of(name, &self.client, "outbound", "client");
        let report = self.load(SECRET, count);
        assert_eq!((report.requests, report.errors), (count, 0), "{:?}", report.errors_by);
        let after = Meshed::of(name, &self.client, "outbound", "client");
        for app in ["web-v1", "web-v2"] {
            let requests = report.versions[app] as f64;
            let sent = after.to(name, app) - before.to(name, app);
            let inbound = Meshed::of(name, &pod(name, &format!("app={app}")), "inbound", "client");
            let received = inbound.to(name, app);
            assert!(
                sent == requests && received >= requests,
                "{app} answered {requests}: {sent} sent, {received} received"
            );
        }
        report
    }
}

const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - backendRefs:
    - {name: web-v1, port: 80, weight: 90}
    - {name: web-v2, port: 80, weight: 10}
";

/// What a proxy says of itself.
pub fn metrics(namespace: &str, pod: &str) -> String {
    page(namespace, pod, 4692, "/metrics")
}

fn value(line: &str) -> f64 {
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Requests over mutual TLS from one service account, by the service account that they went to.
struct Meshed(Vec<(String, f64)>);

impl Meshed {
    fn of(namespace: &str, pod: &str, direction: &str, from: &str) -> Self {
        let (direction, from) = (format!("direction=\"{direction}\""), format!("/sa/{from}\""));
        let metrics = metrics(namespace, pod);
        let lines = metrics.lines().filter(|line| {
            let source = line.split("src_identity=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
            line.starts_with("mesh_requests_total{")
                && line.contains(&direction)
                && line.contains("tls=\"mutual\"")
                && source.ends_with(&from)
        });
        Self(lines.map(|line| (line.to_owned(), value(line))).collect())
    }

    fn to(&self, namespace: &str, account: &str) -> f64 {
        let identity = format!("dst_identity=\"spiffe://cluster.local/ns/{namespace}/sa/{account}\"");
        self.0.iter().filter(|(line, _)| line.contains(&identity)).map(|(_, count)| count).sum()
    }
}

/// Every packet of either family on the node, by tcpdump, read as it comes.
struct Capture {
    tcpdump: Child,
    reader: JoinHandle<io::Result<Vec<u8>>>,
}

impl Capture {
    fn start() -> Self {
        let mut tcpdump = in_node("tcpdump");
        tcpdump.args(["-i", "any", "-U", "-s", "0", "-B", "32768", "-w", "-", "ip", "or", "ip6"]);
        let mut tcpdump = tcpdump.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tcpdump is installed");
        let (mut said, mut stdout) = (tcpdump.stderr.take().unwrap(), tcpdump.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).map(|_| all)
        });
        // It says so when it listens; what it says later nobody reads, but it is little.
        let read = said.read(&mut [0; 256]).expect("tcpdump speaks");
        assert!(read > 0, "tcpdump ended");
        tcpdump.stderr = Some(said);
        Self { tcpdump, reader }
    }

    fn stop(mut self) -> Vec<u8> {
        let id = rustix::process::Pid::from_child(&self.tcpdump);
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("tcpdump runs");
        let all = self.reader.join().unwrap().expect("tcpdump's output");
        self.tcpdump.wait().expect("tcpdump ends");
        all
    }
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

#[test]
fn whoever_is_not_in_the_mesh_is_served_and_can_be_called() {
    let (meshed, plain) = (Namespace::new("permissive", true), Namespace::new("permissive-plain", false));
    for namespace in [&meshed.0, &plain.0] {
        apply(&format!("{}{}", App::new("web").manifest(namespace), service(namespace, "web", "app: web")));
    }
    for (from, to) in [(&meshed.0, &plain.0), (&plain.0, &meshed.0)] {
        rolled_out(from, &["deployment/web"]);
        rolled_out(to, &["deployment/web"]);
        let target = format!("{}:80", cluster_ip(to, "web"));
        let report = load(from, &pod(from, "app=web"), &["http1", "--target", &target, "--count", "50"]);
        assert_eq!((report.requests, report.errors), (50, 0), "{from} to {to}: {:?}", report.errors_by);
    }
    let injected = get(&meshed.0, &["pods", "-l", "app=web"]);
    assert_eq!(text(&injected, "/items/0/spec/initContainers/1/name"), "mesh-proxy");
    let untouched = get(&plain.0, &["pods", "-l", "app=web"]);
    assert!(untouched.pointer("/items/0/spec/initContainers").is_none());
    // The application's own process is as it was.
    assert!(exec(&meshed.0, &pod(&meshed.0, "app=web"), &["/mesh-origin", "--help"]).contains("mesh-origin"));
}
