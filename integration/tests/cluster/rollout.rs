//! Rollouts under load lose nothing, whether the application drains or exits at once.

use crate::{
    apps::{App, service},
    kube::{Namespace, apply, cluster_ip, is_long, kubectl, pause, pod, rolled_out, start_load},
};

/// Rollouts in an ordinary run; `cargo xtask test --long` asks for five.
fn rollouts() -> usize {
    if is_long() { 5 } else { 1 }
}

fn roll(name: &str, on_term: &str) {
    let _namespace = Namespace::new(name, true);
    let probe = "readinessProbe: {httpGet: {path: /1k, port: 8080}, periodSeconds: 1}";
    let app = App { replicas: 3, args: &["--on-term", on_term], container: probe, ..App::new("web") };
    let manifests = [app.manifest(name), App::new("client").manifest(name), service(name, "web", "app: web")];
    apply(&manifests.concat());
    rolled_out(name, &["deployment/web", "deployment/client"]);
    let client = pod(name, "app=client");
    let target = format!("{}:80", cluster_ip(name, "web"));
    let seconds = (rollouts() * 40).to_string();
    let common = ["http1", "--target", &target, "--host", "web", "--seconds", &seconds, "--connections", "16"];
    let mut gets = start_load(name, &client, &[&common[..], &["--rate", "500"]].concat());
    let posts = start_load(name, &client, &[&common[..], &["--rate", "100", "--method", "POST"]].concat());
    let mut done = 0;
    for _ in 0..rollouts() {
        kubectl(&["rollout", "restart", "-n", name, "deployment/web"]);
        rolled_out(name, &["deployment/web"]);
        done += usize::from(gets.is_running());
    }
    assert_eq!(done, rollouts(), "the load ended before the rollouts");
    // The old pods are gone, not only replaced.
    while !kubectl(&["get", "pods", "-n", name, "-l", "app=web", "--no-headers"]).lines().all(|l| l.contains("Running"))
    {
        pause(std::time::Duration::from_millis(500));
    }
    for (what, report) in [("GET", gets.report()), ("POST", posts.report())] {
        println!(
            "{name}: {} {what}s, {} failed, p50 {} us, p99 {} us",
            report.requests, report.errors, report.p50_us, report.p99_us
        );
        assert_eq!(report.errors, 0, "{what}: {:?}", report.errors_by);
    }
}

#[test]
fn an_application_that_drains_loses_nothing() {
    roll("rollout-drain", "drain");
}

#[test]
fn an_application_that_exits_at_once_loses_nothing() {
    roll("rollout-exit", "exit");
}
