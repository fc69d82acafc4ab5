//! Figures that are promised: how soon a change is in force, what a restart costs, how fast the webhook answers.
//!
//! They are printed; what is asserted is far from them, as the machine is shared. In a long run it is what is promised.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use crate::{
    api::Api,
    apps::{App, image},
    kube::{
        Namespace, SYSTEM, apply, cluster_ip, get, in_node, is_long, kubectl, load, page, pause, pod, rolled_out, text,
        wait,
    },
};

/// Changes whose way is measured; the 99th percentile of fewer is the worst.
const CHANGES: usize = 50;
/// Restarts that are measured, each way.
const RESTARTS: u32 = 5;
/// Pods that the webhook is asked about, how many in a second, and by how many clients.
const PODS: u32 = 500;
const PODS_A_SECOND: u32 = 50;
const CLIENTS: u32 = 10;
/// Far beyond any promise.
const FAR: Duration = Duration::from_secs(10);

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Every few milliseconds, how many updates the proxy with this address has counted, and when (seconds since 1970), as the node
/// sees it.
fn look_at_updates(proxy: &str) -> (Child, Receiver<(f64, f64)>) {
    let script = format!(
        "while exec 3<>/dev/tcp/{proxy}/4692; do printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; \
         n=$(grep -a '^mesh_control_updates_total ' <&3); echo \"$EPOCHREALTIME $n\"; exec 3<&-; done"
    );
    let mut looking = in_node("bash").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("bash");
    let (tell, seen) = mpsc::sync_channel(4_096);
    let lines = BufReader::new(looking.stdout.take().expect("piped")).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            let at: Option<f64> = words.next().and_then(|at| at.parse().ok());
            let count: Option<f64> = words.next_back().and_then(|count| count.parse().ok());
            if let (Some(at), Some(count)) = (at, count)
                && tell.send((at, count)).is_err()
            {
                return;
            }
        }
    });
    (looking, seen)
}

#[test]
fn how_soon_a_changed_endpoint_is_in_force_on_our_node() {
    let namespace = Namespace::new("in-force", true);
    let name = namespace.0.as_str();
    // Endpoints that only this test changes.
    let free = format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: free, namespace: {name}}}, spec: {{ports: [{{name: http, port: 80, \
         targetPort: 8080}}]}}}}\n"
    );
    apply(&format!("{}{}{free}", App::new("web").manifest(name), App::new("client").manifest(name)));
    rolled_out(name, &["deployment/web", "deployment/client"]);
    let (web, client) = (pod(name, "app=web"), pod(name, "app=client"));
    let address = |pod: &str| text(&get(name, &["pod", pod]), "/status/podIP");
    let (web, proxy) = (address(&web), address(&client));
    let slice = |more: usize| {
        let unready = format!(", {{addresses: [10.255.0.{}], conditions: {{ready: true}}}}", 1 + more);
        let more = if more == 0 { "" } else { &unready };
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: free-1, namespace: {name}, labels: {{kubernetes.io/service-name: free}}}}\n\
             ports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [{web}], conditions: {{ready: true}}}}{more}]\n"
        )
    };
    apply(&slice(0));
    let target = format!("{}:80", cluster_ip(name, "free"));
    let report = load(name, &client, &["http1", "--target", &target, "--count", "5", "--connections", "1"]);
    assert_eq!(report.errors, 0, "{:?}", report.errors_by);

    let (mut looking, seen) = look_at_updates(&proxy);
    let mut took = Vec::new();
    let mut count = seen.recv_timeout(FAR).expect("the proxy's page").1;
    for change in 1..=CHANGES {
        // A stale look would be taken for a fast one.
        while let Ok((_, now)) = seen.try_recv() {
            count = now;
        }
        apply(&slice(change));
        let committed = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let (at, now) = loop {
            let look = seen.recv_timeout(FAR).expect("the proxy hears of the change");
            if look.1 > count {
                break look;
            }
        };
        count = now;
        // kubectl ends some time after the API server answered it: then the change may be there before.
        took.push((at - committed).max(0.0) * 1000.0);
    }
    let _ = looking.kill();
    let _ = looking.wait();
    let mid = median(&mut took);
    println!(
        "a changed endpoint is in force in a proxy {mid:.0} ms after kubectl ended at the median, {:.0} ms at most of {CHANGES}",
        took[CHANGES - 1]
    );
    assert!(took[CHANGES - 1] < if is_long() { 500.0 } else { FAR.as_secs_f64() * 1000.0 });
}

#[test]
fn what_a_restart_costs() {
    let (with, without) = (Namespace::new("restart", true), Namespace::new("restart-plain", false));
    let restart = |namespace: &str, phase: Duration| {
        pause(phase);
        let began = Instant::now();
        kubectl(&["rollout", "restart", "-n", namespace, "deployment/web"]);
        rolled_out(namespace, &["deployment/web"]);
        let took = began.elapsed().as_secs_f64();
        wait("the old pod to be gone", || {
            (kubectl(&["get", "pods", "-n", namespace, "--no-headers"]).lines().count() == 1).then_some(())
        });
        took
    };
    for namespace in [&with.0, &without.0] {
        apply(&App::new("web").manifest(namespace));
        rolled_out(namespace, &["deployment/web"]);
    }
    // kubelet looks once a second, and the end of the restart before falls on a look: each begins at another phase, else all
    // of them take the same number of looks.
    let phases = (0..RESTARTS).map(|n| n * Duration::from_secs(1) / RESTARTS);
    let (injected, plain): (Vec<_>, Vec<_>) =
        phases.map(|phase| (restart(&with.0, phase), restart(&without.0, phase))).unzip();
    let mean = |times: &[f64]| times.iter().sum::<f64>() / f64::from(RESTARTS);
    let (injected, plain) = (mean(&injected), mean(&plain));
    println!("restart of a Deployment: {injected:.2} s injected, {plain:.2} s without, mean of {RESTARTS}");
    // Two more looks, of 1.006 s each, and two more containers to start.
    assert!(injected < plain + if is_long() { 2.3 } else { 20.0 });
}

#[test]
fn how_fast_the_webhook_answers() {
    let namespace = Namespace::new("webhook-load", true);
    let label = "app.kubernetes.io/component=injector";
    wait("one injector, which then answers everything", || {
        let pods = kubectl(&["get", "pods", "-n", SYSTEM, "-l", label, "--no-headers"]);
        (pods.lines().count() == 1).then_some(())
    });
    let injector = pod(SYSTEM, label);
    let api = Arc::new(Api::start(&[]));
    let before = answers(&injector);
    let began = Instant::now();
    // An open loop: each client takes every so manieth of the times at which a pod is due.
    let client = |place: u32| {
        let (namespace, api) = (namespace.0.clone(), api.clone());
        std::thread::spawn(move || {
            for n in (place..PODS).step_by(CLIENTS as usize) {
                pause((began + n * Duration::from_secs(1) / PODS_A_SECOND).saturating_duration_since(Instant::now()));
                let answer = make_pod(&api, &namespace, n);
                assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    let all_made = clients.into_iter().all(|client| client.join().is_ok());
    let took = began.elapsed();
    assert!(all_made, "the API server refused a pod");
    let after = answers(&injector);
    let within = |bound: &str| {
        let at = |all: &[(String, f64)]| all.iter().find(|(le, _)| le == bound).map_or(0.0, |(_, count)| *count);
        at(&after) - at(&before)
    };
    let all = within("+Inf");
    println!(
        "webhook: {PODS} pods in {took:.1?}, {all} reviews; {:.1} % answered within 20 ms, {:.1} % within 10 ms",
        100.0 * within("0.02") / all,
        100.0 * within("0.01") / all
    );
    let bound = if is_long() { "0.02" } else { "1" };
    assert!(all >= f64::from(PODS) && within(bound) / all > 0.99, "{after:?}");
}

/// Asks for a pod that is not stored: webhooks are asked on a dry run, too.
fn make_pod(api: &Api, namespace: &str, n: u32) -> String {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{n}")},
        "spec": {"containers": [{"name": "app", "image": image()}]}});
    api.ask("POST", &format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"), "application/json", &pod)
}

/// The buckets of the injector's answers, by their upper ends in seconds.
fn answers(injector: &str) -> Vec<(String, f64)> {
    let bucket = |line: &str| {
        let (_, rest) = line.split_once("_bucket{le=\"")?;
        let (le, count) = rest.split_once("\"} ")?;
        Some((le.to_owned(), count.trim().parse().ok()?))
    };
    page(SYSTEM, injector, 4652, "/metrics").lines().filter_map(bucket).collect()
}

#[test]
fn a_pod_that_declines_is_told_of() {
    let namespace = Namespace::new("declined", true);
    let app = App { metadata: "", ..App::new("web") }.manifest(&namespace.0);
    apply(&app.replace("labels: {app: web}\n", "labels: {app: web, meshctl.dev/inject: disabled}\n"));
    rolled_out(&namespace.0, &["deployment/web"]);
    let found = get(&namespace.0, &["pods", "-l", "app=web"]);
    assert!(found.pointer("/items/0/spec/initContainers").is_none(), "{found}");
    wait("an Event that says why", || {
        let events = kubectl(&["get", "events", "-n", &namespace.0, "-o", "jsonpath={.items[*].message}"]);
        events.contains("opted out").then_some(())
    });
}
