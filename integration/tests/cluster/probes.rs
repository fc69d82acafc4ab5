//! The kubelet's probes under injection: each kind goes to the sidecar, but for commands; each works, and each fails when
//! its application is down.

use serde_json::Value;

use crate::{
    apps::App,
    kube::{Namespace, apply, get, wait},
};

/// Name, and the probe's action.
const PROBES: [(&str, &str); 5] = [
    ("http", "httpGet: {path: /1k, port: 8080}"),
    ("named", "httpGet: {path: /1k, port: http}"),
    ("tcp", "tcpSocket: {port: 8080}"),
    ("grpc", "grpc: {port: 8080}"),
    (
        "exec",
        "exec: {command: [/mesh-load, http1, --target, '127.0.0.1:8080', --count, '1', --connections, '1', --strict]}",
    ),
];

fn app(name: &str, probe: &str, up: bool) -> String {
    let probes = format!(
        "startupProbe: {{{probe}, periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 2}}
        readinessProbe: {{{probe}, periodSeconds: 1, timeoutSeconds: 2}}
        livenessProbe: {{{probe}, periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 2}}"
    );
    let app = App { container: &probes, ..App::new(name) };
    // An application that is down: it runs and listens elsewhere.
    let manifest = app.manifest("probes");
    if up { manifest } else { manifest.replace("'[::]:8080'", "'[::]:8081'") }
}

#[test]
fn each_probe_works_and_each_fails_when_the_application_is_down() {
    let _namespace = Namespace::new("probes", true);
    let all: String = PROBES
        .iter()
        .flat_map(|(name, probe)| [app(&format!("{name}-up"), probe, true), app(&format!("{name}-down"), probe, false)])
        .collect();
    apply(&all);
    for (name, _) in PROBES {
        wait(&format!("{name}-up ready, by its {name} probes"), || started(&format!("{name}-up")).then_some(()));
        let handlers = handlers(&format!("{name}-up"));
        let is_ours = |path: &Option<String>| path.as_ref().is_some_and(|path| path.starts_with("/probe/"));
        assert!(handlers.iter().all(|path| is_ours(path) == (name != "exec")), "{name}: {handlers:?}");
    }
    for (name, _) in PROBES {
        // The probe has failed at least once, and never succeeded.
        wait(&format!("a failed {name} probe"), || {
            let events = get("probes", &["events"]);
            let failed = events.pointer("/items")?.as_array()?.iter().any(|event| {
                let of = event.pointer("/involvedObject/name").and_then(Value::as_str).unwrap_or_default();
                event["reason"] == "Unhealthy" && of.starts_with(&format!("{name}-down"))
            });
            failed.then_some(())
        });
        assert!(!started(&format!("{name}-down")), "{name}-down says it is up");
    }
}

/// Whether the application's container has passed its startup and readiness probes.
fn started(app: &str) -> bool {
    let pods = get("probes", &["pods", "-l", &format!("app={app}")]);
    let statuses = pods.pointer("/items/0/status/containerStatuses").and_then(Value::as_array);
    statuses.is_some_and(|all| all.iter().any(|c| c["name"] == "app" && c["ready"] == true && c["started"] == true))
}

/// The paths that kubelet asks for the application's container, one for each probe; `None` where it asks otherwise.
fn handlers(app: &str) -> [Option<String>; 3] {
    let pods = get("probes", &["pods", "-l", &format!("app={app}")]);
    let containers = pods.pointer("/items/0/spec/containers").and_then(Value::as_array);
    let container = containers.and_then(|all| all.iter().find(|container| container["name"] == "app"));
    ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| {
        let path = container?.pointer(&format!("/{probe}/httpGet/path"))?;
        path.as_str().map(str::to_owned)
    })
}
