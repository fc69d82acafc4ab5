//! Two replicas of each part: an upgrade in place keeps identity and pods, and any one replica may die.

use serde_json::Value;

use crate::{
    apps::{App, service, web_and_client},
    kube::{
        Namespace, SYSTEM, apply, cluster_ip, get, kubectl, load, meshctl, rolled_out, start_load, text, try_apply,
        wait,
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
