//! Two replicas of each part: an upgrade in place keeps identity and pods, and any one replica may die.

use std::time::{SystemTime, UNIX_EPOCH};

use mesh_integration::harness::series;
use serde_json::Value;

use crate::{
    apps::{App, service, web_and_client},
    kube::{
        Namespace, SYSTEM, apply, cluster_ip, get, in_node, kubectl, load, meshctl, page, pod, rolled_out, start_load,
        text, try_apply, wait,
    },
};

const PARTS: [&str; 3] = ["deployment/mesh-identity", "deployment/mesh-destination", "deployment/mesh-injector"];

/// Takes the second replicas away again, also when a test fails.
struct Single;

impl Drop for Single {
    fn drop(&mut self) {
        // One replica each: the machine is shared with the tests that follow.
        let manifests = meshctl(&["upgrade", "--set", "ha=false"]);
        let applied = try_apply(&manifests);
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        rolled_out(SYSTEM, &PARTS);
    }
}

#[test]
fn one_replica_of_each_part_may_die() {
    let namespace = Namespace::new("ha", true);
    let client = web_and_client(&namespace.0);
    let target = format!("{}:80", cluster_ip(&namespace.0, "web"));
    let issuer = || text(&get(SYSTEM, &["secret", "mesh-issuer"]), "/data/tls.crt");
    let before = issuer();

    // The upgrade itself happens under load.
    let running =
        start_load(&namespace.0, &client, &["http1", "--target", &target, "--rate", "200", "--seconds", "30"]);
    apply(&meshctl(&["upgrade", "--ha"]));
    let single = Single;
    rolled_out(SYSTEM, &PARTS);
    assert_eq!(before, issuer(), "an upgrade keeps the identity");
    for part in PARTS {
        let found = get(SYSTEM, &[part]);
        assert_eq!(found.pointer("/status/readyReplicas").and_then(Value::as_u64), Some(2), "{part}");
    }

    // The older replica of each, the leaders among them, without a farewell.
    for component in ["identity", "destination", "injector"] {
        let label = format!("app.kubernetes.io/component={component}");
        let sorted = ["--sort-by=.metadata.creationTimestamp", "-o", "name"];
        let two = wait("two replicas, and those before them gone", || {
            let names = kubectl(&[&["get", "pods", "-n", SYSTEM, "-l", &label][..], &sorted].concat());
            (names.lines().count() == 2).then_some(names)
        });
        let oldest = two.lines().next().expect("two");
        kubectl(&["delete", "-n", SYSTEM, oldest, "--grace-period=0", "--force"]);
    }
    // New pods are injected, certified and told of endpoints by those that are left.
    apply(&format!("{}{}", App::new("late").manifest(&namespace.0), service(&namespace.0, "late", "app: late")));
    rolled_out(&namespace.0, &["deployment/late"]);
    let late = format!("{}:80", cluster_ip(&namespace.0, "late"));
    let report = load(&namespace.0, &client, &["http1", "--target", &late, "--count", "20", "--connections", "1"]);
    assert_eq!((report.requests, report.errors), (20, 0), "{:?}", report.errors_by);
    let report = running.report();
    println!(
        "upgrade to two replicas and the death of one of each: {} requests, {} failed",
        report.requests, report.errors
    );
    assert_eq!(report.errors, 0, "{:?}", report.errors_by);
    rolled_out(SYSTEM, &PARTS);
    // The leaders' work is taken up by the others: a namespace labelled now gets its trust bundle.
    let other = Namespace::new("ha-later", true);
    wait("the trust bundle of a namespace labelled now", || {
        let found =
            kubectl(&["get", "configmap", "-n", &other.0, "--ignore-not-found", "mesh-trust-bundle", "-o", "name"]);
        (!found.is_empty()).then_some(())
    });
    drop(single);
}

const DESTINATION: &str = "app.kubernetes.io/component=destination";

/// Replicas of destination, in number; one again with the value.
struct Replicas;

impl Replicas {
    fn scale(count: &str) {
        kubectl(&["scale", "-n", SYSTEM, "deployment/mesh-destination", "--replicas", count]);
        rolled_out(SYSTEM, &["deployment/mesh-destination"]);
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        Self::scale("1");
    }
}

/// A pod that hears nothing of the API server any more, as long as the value lives: packets are lost, none is refused.
struct Stalled([Vec<String>; 2]);

impl Stalled {
    fn pod(address: &str) -> Self {
        let rule = |table: &str, chain: &str, end: &str, port: &str| {
            format!("-t {table} -I {chain} {end} {address} -p tcp -m multiport {port} 443,6443 -j DROP")
                .split(' ')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let rules = [rule("raw", "PREROUTING", "-s", "--dports"), rule("mangle", "POSTROUTING", "-d", "--sports")];
        for rule in &rules {
            let output = in_node("iptables").args(rule).output().expect("iptables is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Self(rules)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        for rule in &mut self.0 {
            "-D".clone_into(&mut rule[2]);
            let _ = in_node("iptables").args(rule).output();
        }
    }
}

#[test]
fn proxies_that_move_to_a_replica_whose_watch_is_stalled_lose_nothing_on_our_node() {
    let namespace = Namespace::new("stalled", true);
    let name = namespace.0.as_str();
    let client = web_and_client(name);
    let target = format!("{}:80", cluster_ip(name, "web"));
    let first = pod(SYSTEM, DESTINATION);
    let replicas = Replicas;
    Replicas::scale("2");
    let second = wait("a second replica", || {
        let names = kubectl(&["get", "pods", "-n", SYSTEM, "-l", DESTINATION, "-o", "name"]);
        names.lines().map(|name| name.trim_start_matches("pod/").to_owned()).find(|name| *name != first)
    });
    let running = start_load(name, &client, &["http1", "--target", &target, "--rate", "200", "--seconds", "40"]);
    // All proxies are with the first; the second learns nothing of the new pods.
    let stalled = Stalled::pod(&text(&get(SYSTEM, &["pod", &second]), "/status/podIP"));
    let roll = || {
        kubectl(&["rollout", "restart", "-n", name, "deployment/web"]);
        rolled_out(name, &["deployment/web"]);
        wait("the old pod to be gone", || {
            let pods = kubectl(&["get", "pods", "-n", name, "-l", "app=web", "--no-headers"]);
            (pods.lines().count() == 1).then_some(())
        });
    };
    roll();
    // Nobody else is ready yet when the proxies look for another.
    kubectl(&["delete", "pod", "-n", SYSTEM, &first, "--grace-period=0", "--force"]);
    wait("proxies at the second", || {
        (metric(&second, "mesh_controller_streams").iter().sum::<f64>() > 0.0).then_some(())
    });
    drop(stalled);
    let again = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    wait("the second to follow again", || {
        let seen = metric(&second, "mesh_controller_watch_seen_timestamp_seconds");
        seen.iter().all(|seen| *seen > again).then_some(())
    });
    wait("the client's proxy to follow again", || {
        let away = crate::seed::metrics(name, &client);
        away.lines().any(|line| line == "mesh_control_disconnected_since_seconds 0").then_some(())
    });
    let report = running.report();
    println!("moved to a replica whose watch is stalled: {} requests, {} failed", report.requests, report.errors);
    assert_eq!(report.errors, 0, "{:?}", report.errors_by);
    // What changes from now on is followed.
    roll();
    wait("answers of the new pod", || {
        let args = ["http1", "--target", &target, "--count", "20", "--connections", "1"];
        (load(name, &client, &args).errors == 0).then_some(())
    });
    drop(replicas);
}

/// The values of a metric of a replica of destination.
fn metric(pod: &str, name: &str) -> Vec<f64> {
    series(&page(SYSTEM, pod, 4652, "/metrics"), name, &[]).collect()
}
