//! Parts of the control plane go away; what runs goes on running.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    apps::{App, image, service},
    kube::{Namespace, SYSTEM, apply, cluster_ip, is_long, kubectl, load, pause, pod, rolled_out, start_load, wait},
};

/// How long the control plane stays away: an ordinary run proves the manner of an outage, a long one its time.
fn away() -> Duration {
    Duration::from_secs(if is_long() { 300 } else { 30 })
}

#[test]
fn without_controllers_everything_that_runs_goes_on() {
    let namespace = Namespace::new("outage", true);
    let apps: String = ["web", "idle", "client"].iter().map(|name| App::new(name).manifest(&namespace.0)).collect();
    let services = ["web", "idle"].map(|name| service(&namespace.0, name, &format!("app: {name}"))).concat();
    apply(&format!("{apps}{services}"));
    rolled_out(&namespace.0, &["deployment/web", "deployment/idle", "deployment/client"]);
    let client = pod(&namespace.0, "app=client");
    let target = |service: &str| format!("{}:80", cluster_ip(&namespace.0, service));
    let ask = |service: &str| {
        load(&namespace.0, &client, &["http1", "--target", &target(service), "--count", "10", "--connections", "1"])
    };
    assert_eq!((ask("idle").errors, ask("web").errors), (0, 0));

    let restore = Restore;
    for name in ["mesh-destination", "mesh-identity"] {
        kubectl(&["scale", "-n", SYSTEM, &format!("deployment/{name}"), "--replicas=0"]);
        kubectl(&[
            "wait",
            "-n",
            SYSTEM,
            "--for=delete",
            "pod",
            "-l",
            &format!("app.kubernetes.io/component={}", &name[5..]),
            "--timeout=60s",
        ]);
    }
    let seconds = away().as_secs().to_string();
    let running = start_load(
        &namespace.0,
        &client,
        &["http1", "--target", &target("web"), "--rate", "200", "--seconds", &seconds],
    );
    let report = running.report();
    println!("without controllers for {seconds} s: {} requests, {} failed", report.requests, report.errors);
    assert_eq!(report.errors, 0, "{:?}", report.errors_by);
    // A Service that was not called meanwhile.
    let idle = ask("idle");
    assert_eq!((idle.requests, idle.errors), (10, 0), "{:?}", idle.errors_by);

    drop(restore);
    // Fresh endpoints: a new replica gets requests soon after it is ready.
    kubectl(&["scale", "-n", &namespace.0, "deployment/web", "--replicas=2"]);
    rolled_out(&namespace.0, &["deployment/web"]);
    let ready = Instant::now();
    let second = kubectl(&[
        "get",
        "pods",
        "-n",
        &namespace.0,
        "-l",
        "app=web",
        "--sort-by=.metadata.creationTimestamp",
        "-o",
        "name",
    ]);
    let second = second.lines().last().unwrap().trim_start_matches("pod/").to_owned();
    wait("requests at the new replica", || {
        assert_eq!(ask("web").errors, 0);
        let inbound = crate::seed::metrics(&namespace.0, &second);
        inbound.lines().any(|l| l.starts_with("mesh_requests_total{") && l.contains("inbound")).then_some(())
    });
    let took = ready.elapsed();
    println!("fresh endpoints in use {:.1} s after the replica was ready", took.as_secs_f64());
    assert!(!is_long() || took.as_secs() < 5, "{took:?}");
}

/// Brings the control plane back, also when a test fails.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        for name in ["mesh-identity", "mesh-destination", "mesh-injector"] {
            kubectl(&["scale", "-n", SYSTEM, &format!("deployment/{name}"), "--replicas=1"]);
        }
        rolled_out(SYSTEM, &["deployment/mesh-identity", "deployment/mesh-destination", "deployment/mesh-injector"]);
    }
}

#[test]
fn without_an_api_server_everything_that_runs_goes_on_on_our_node() {
    let namespace = Namespace::new("no-api", true);
    apply(&format!("{}{}", App::new("web").manifest(&namespace.0), service(&namespace.0, "web", "app: web")));
    rolled_out(&namespace.0, &["deployment/web"]);
    let target = format!("{}:80", cluster_ip(&namespace.0, "web"));
    let stopped = Duration::from_secs(if is_long() { 120 } else { 15 });
    // It runs by itself: `kubectl exec` would end with the API server.
    let seconds = stopped.as_secs() + 20;
    apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: load, namespace: {}}}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: {}
    command: [/mesh-load, http1, --target, '{target}', --rate, '200', --seconds, '{seconds}', --strict]
",
        namespace.0,
        image()
    ));
    let pod = ["-n", namespace.0.as_str(), "pod/load"];
    kubectl(&[&["wait", "--for=jsonpath={.status.phase}=Running", "--timeout=60s"][..], &pod].concat());
    component("pause");
    let down = Instant::now();
    while down.elapsed() < stopped {
        pause(Duration::from_millis(200));
    }
    component("resume");
    kubectl(&[&["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s"][..], &pod].concat());
    let report = kubectl(&["logs", "-n", &namespace.0, "load", "-c", "app"]);
    println!("without an API server for {stopped:?}: {report}");
    // What changes afterwards is seen again.
    kubectl(&["scale", "-n", &namespace.0, "deployment/web", "--replicas=2"]);
    rolled_out(&namespace.0, &["deployment/web"]);
}

/// Stops or starts the API server of the cluster that the tests made.
fn component(what: &str) {
    let output = Command::new("cargo").args(["xtask", "cluster", what, "apiserver"]).output().expect("cargo");
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_an_injector_only_labelled_namespaces_notice() {
    let (labelled, plain) = (Namespace::new("no-injector", true), Namespace::new("no-injector-plain", false));
    let restore = Restore;
    kubectl(&["scale", "-n", SYSTEM, "deployment/mesh-injector", "--replicas=0"]);
    kubectl(&[
        "wait",
        "-n",
        SYSTEM,
        "--for=delete",
        "pod",
        "-l",
        "app.kubernetes.io/component=injector",
        "--timeout=60s",
    ]);
    for namespace in [&labelled, &plain] {
        apply(&App::new("web").manifest(&namespace.0));
    }
    rolled_out(&plain.0, &["deployment/web"]);
    // The documented answer: the pod is not made, and the ReplicaSet says why.
    wait("the refusal", || {
        let events = kubectl(&["get", "events", "-n", &labelled.0, "-o", "jsonpath={.items[*].message}"]);
        events.contains("inject.meshctl.dev").then_some(())
    });
    drop(restore);
    while !kubectl(&["get", "pods", "-n", &labelled.0, "--no-headers"]).contains("2/2") {
        // The ReplicaSet's next try; its backoff grows, so a new rollout asks at once.
        kubectl(&["rollout", "restart", "-n", &labelled.0, "deployment/web"]);
        rolled_out(&labelled.0, &["deployment/web"]);
        pause(Duration::from_millis(200));
    }
}
