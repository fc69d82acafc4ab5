//! Parts of the control plane go away; what runs goes on running.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use mesh_integration::load::Report;
use rustix::process::Pid;

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
    let apps: String = ["web", "shut"].iter().map(|name| App::new(name).manifest(&namespace.0)).collect();
    let services = ["web", "shut"].map(|name| service(&namespace.0, name, &format!("app: {name}"))).concat();
    // Whom nobody may call stays so, whatever is away and whatever starts anew meanwhile.
    apply(&format!(
        "{apps}{services}---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: shut, namespace: {}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: shut}}], action: ALLOW, enforcementLevel: Network}}\n",
        namespace.0
    ));
    rolled_out(&namespace.0, &["deployment/web", "deployment/shut"]);
    let target = |service: &str| format!("{}:80", cluster_ip(&namespace.0, service));
    let stopped = Duration::from_secs(if is_long() { 120 } else { 15 });
    // They run by themselves: `kubectl exec` would end with the API server.
    let seconds = stopped.as_secs() + 20;
    let load = |name: &str, service: &str, how: &str| {
        apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {}}}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: {}
    command: [/mesh-load, http1, --target, '{}', --seconds, '{seconds}', {how}]
",
            namespace.0,
            image(),
            target(service)
        ));
        kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            "--timeout=60s",
            "-n",
            &namespace.0,
            &format!("pod/{name}"),
        ]);
    };
    let report = |name: &str| -> Report {
        let pod = format!("pod/{name}");
        kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s", "-n", &namespace.0, &pod]);
        let said = kubectl(&["logs", "-n", &namespace.0, name, "-c", "app"]);
        serde_json::from_str(&said).expect("mesh-load prints JSON")
    };
    load("load", "web", "--rate, '200', --strict");
    load("refused", "shut", "--rate, '20'");
    component("pause");
    let down = Instant::now();
    let killed = kill_destination();
    assert!(killed > 0, "destination runs on this node");
    while down.elapsed() < stopped {
        pause(Duration::from_millis(200));
    }
    component("resume");
    let (served, refused) = (report("load"), report("refused"));
    println!(
        "without an API server for {stopped:?}, destination killed {killed} times: {} requests, {} failed; of those that are forbidden {} refused, {} served",
        served.requests, served.errors, refused.errors, refused.requests
    );
    assert_eq!(served.errors, 0, "{:?}", served.errors_by);
    assert!(refused.requests == 0 && refused.errors > 0, "{:?}", refused.versions);
    assert!(refused.errors_by.keys().all(|error| error.contains("403")), "{:?}", refused.errors_by);
    // What changes afterwards is seen again.
    kubectl(&["scale", "-n", &namespace.0, "deployment/web", "--replicas=2"]);
    rolled_out(&namespace.0, &["deployment/web"]);
}

/// Kills the processes of destination on this node, which kubelet starts anew; how many there were.
fn kill_destination() -> usize {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_destination = |id: &i32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"/mesh-controller"))
            && words.next() == Some(b"destination")
    };
    let found = ids.filter(is_destination).filter_map(Pid::from_raw);
    found.filter(|id| rustix::process::kill_process(*id, rustix::process::Signal::KILL).is_ok()).count()
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
