//! What the control plane's accounts may not do, and what a slip of an operator or a tenant costs: refusals that say what to do.

use std::{process::Output, time::Instant};

use serde_json::{Value, json};

use crate::kube::{
    Namespace, SYSTEM, apply, get, kubectl, meshctl, page, pod, text, try_apply, try_kubectl, try_meshctl, wait,
};

const AS_IDENTITY: &str = "--as=system:serviceaccount:mesh-system:mesh-identity";
const AS_DESTINATION: &str = "--as=system:serviceaccount:mesh-system:mesh-destination";
const AS_INJECTOR: &str = "--as=system:serviceaccount:mesh-system:mesh-injector";
const WEBHOOK: [&str; 2] = ["mutatingwebhookconfiguration", "mesh-injector"];

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Patches as an account would, without storing anything.
fn patched(account: &str, namespace: &str, object: [&str; 2], more: &[&str], patch: &Value) -> Output {
    let patch = patch.to_string();
    let args = ["patch", "-n", namespace, object[0], object[1], account, "--dry-run=server", "-p", &patch];
    try_kubectl(&[&args[..], more].concat())
}

#[test]
fn identity_changes_the_ca_bundle_of_its_webhook_and_no_other_field() {
    let change = |patch: Value| patched(AS_IDENTITY, SYSTEM, WEBHOOK, &["--type=json"], &patch);
    let at = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let everything = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]);
    let another = json!({"name": "x.example.com", "clientConfig": {"url": "https://10.88.0.66/x"}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": everything});
    let selector = json!({"matchLabels": {"a": "b"}});
    for wrong in [
        at("/webhooks/0/clientConfig", json!({"url": "https://10.88.0.66:9999/x"})),
        at("/webhooks/0/clientConfig/service/name", json!("other")),
        at("/webhooks/0/clientConfig/service/namespace", json!("tenant")),
        at("/webhooks/0/clientConfig/service/path", json!("/other")),
        at("/webhooks/0/namespaceSelector", json!({})),
        at("/webhooks/1/objectSelector", selector.clone()),
        at("/webhooks/2/rules", everything),
        at("/webhooks/0/failurePolicy", json!("Ignore")),
        at("/webhooks/0/timeoutSeconds", json!(30)),
        at("/webhooks/0/reinvocationPolicy", json!("Never")),
        at("/webhooks/0/matchConditions", json!([{"name": "never", "expression": "false"}])),
        at("/webhooks/-", another),
        json!([{"op": "remove", "path": "/webhooks/1"}]),
        json!([{"op": "remove", "path": "/webhooks"}]),
        json!([{"op": "move", "from": "/webhooks/0", "path": "/webhooks/1"}]),
        at("/metadata/labels/a", json!("b")),
        at("/metadata/annotations", json!({"a": "b"})),
        at("/metadata/finalizers", json!(["evil.example/hold"])),
    ] {
        let output = change(wrong.clone());
        let said = words(&output);
        assert!(!output.status.success() && said.contains("denied request: mesh-identity"), "{wrong}: {said}");
    }
    // Its work goes on, in one webhook or in all.
    let bundle = text(&get(SYSTEM, &WEBHOOK), "/webhooks/0/clientConfig/caBundle");
    let of = |index: usize| json!({"op": "replace", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle});
    let shorter = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]);
    for right in [json!([of(0)]), json!([of(0), of(1), of(2)]), shorter] {
        let output = change(right.clone());
        assert!(output.status.success(), "{right}: {}", words(&output));
    }
    // Nobody else is concerned.
    let label = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    kubectl(&["patch", WEBHOOK[0], WEBHOOK[1], "--dry-run=server", "--type=merge", "-p", &label]);
}

#[test]
fn each_account_makes_only_what_is_its_own() {
    let namespace = Namespace::new("accounts", false);
    let made = |account: &str, object: &Value| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), object.to_string()).expect("written");
        try_kubectl(&["create", account, "--dry-run=server", "-f", file.path().to_str().expect("a path")])
    };
    let config_map = |namespace: &str, name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}});
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"namespace": SYSTEM, "name": name}});
    let event = |reporter: &str, reason: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-", "namespace": namespace.0},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": namespace.0}, "type": "Normal",
            "reason": reason, "reportingComponent": reporter, "reportingInstance": reporter, "source": {"component": reporter}})
    };
    for (account, wrong) in [
        (AS_IDENTITY, config_map(&namespace.0, "mine")),
        (AS_IDENTITY, config_map("kube-system", "aws-auth")),
        (AS_IDENTITY, lease("mesh-other")),
        (AS_DESTINATION, lease("mesh-other")),
        (AS_INJECTOR, event("kubelet", "Killing")),
        (AS_INJECTOR, event("mesh-injector", "Killing")),
    ] {
        let output = made(account, &wrong);
        let said = words(&output);
        assert!(!output.status.success() && said.contains("denied request: mesh-"), "{account} {wrong}: {said}");
    }
    for (account, right) in [
        (AS_IDENTITY, config_map(&namespace.0, "mesh-trust-bundle")),
        (AS_INJECTOR, event("mesh-injector", "MeshInjectionSkipped")),
    ] {
        let output = made(account, &right);
        assert!(output.status.success(), "{account} {right}: {}", words(&output));
    }
}

#[test]
fn destination_writes_its_own_entries_of_a_routes_status_and_no_others() {
    let namespace = Namespace::new("entries", false);
    apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: {}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: none, port: 80}}], rules: [{{}}]}}\n",
        namespace.0
    ));
    // kubectl reads what it patches, which destination does by its watch.
    kubectl(&[
        "create",
        "role",
        "-n",
        &namespace.0,
        "reads",
        "--verb=get",
        "--resource=httproutes.gateway.networking.k8s.io/status",
    ]);
    let account = format!("--serviceaccount={SYSTEM}:mesh-destination");
    kubectl(&["create", "rolebinding", "-n", &namespace.0, "reads", "--role=reads", &account]);
    let entry = |controller: &str, status: &str| {
        json!({"parentRef": {"group": "", "kind": "Service", "name": "none", "port": 80}, "controllerName": controller,
            "conditions": [{"type": "Accepted", "status": status, "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
    };
    let write = |account: &[&str], parents: Value| {
        let patch = json!({"status": {"parents": parents}}).to_string();
        let args =
            ["patch", "httproute", "r", "-n", &namespace.0, "--subresource=status", "--type=merge", "-p", &patch];
        try_kubectl(&[&args[..], account].concat())
    };
    let other = entry("example.com/other", "True");
    let stored = write(&[], json!([other]));
    assert!(stored.status.success(), "{}", words(&stored));
    let as_destination = [AS_DESTINATION, "--dry-run=server"];
    let ours = || entry("meshctl.dev/controller", "False");
    let right = write(&as_destination, json!([other, ours()]));
    assert!(right.status.success(), "{}", words(&right));
    for wrong in
        [json!([ours()]), json!([entry("example.com/other", "False"), ours()]), json!([other, entry("x.y/z", "True")])]
    {
        let output = write(&as_destination, wrong.clone());
        let said = words(&output);
        assert!(!output.status.success() && said.contains("leaves those of other controllers"), "{wrong}: {said}");
    }
}

#[test]
fn a_bundle_that_a_tenant_holds_is_replaced_and_holds_up_nothing() {
    let namespace = Namespace::new("held", true);
    let data = |namespace: &str| {
        let found = try_kubectl(&["get", "-n", namespace, "configmap", "mesh-trust-bundle", "-o", "jsonpath={.data}"]);
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    let right = data(SYSTEM);
    wait("the bundle", || (data(&namespace.0) == right).then_some(()));
    let forged = json!({"metadata": {"finalizers": ["evil.example/hold"]}, "immutable": true,
        "data": {"ca-bundle.pem": "forged"}});
    let patch = forged.to_string();
    kubectl(&["patch", "-n", &namespace.0, "configmap", "mesh-trust-bundle", "--type=merge", "-p", &patch]);
    let began = Instant::now();
    wait("the bundle again", || (data(&namespace.0) == right).then_some(()));
    println!("a held bundle was replaced after {:.1} s", began.elapsed().as_secs_f64());
    let said = wait("the finalizer in the log", || {
        let logs = kubectl(&["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=identity", "--tail=200"]);
        logs.lines().find(|line| line.contains("evil.example/hold")).map(str::to_owned)
    });
    assert!(said.contains("held/mesh-trust-bundle"), "{said}");
    meshctl(&["check"]);
}

/// Puts an object back that was deleted, as it was.
fn again(object: &Value) {
    let mut restored = object.clone();
    let metadata = &object["metadata"];
    restored["metadata"] = json!({"name": metadata["name"], "namespace": metadata["namespace"],
        "labels": metadata["labels"], "annotations": metadata["annotations"]});
    apply(&restored.to_string());
}

#[test]
fn an_upgrade_makes_up_neither_values_nor_an_identity() {
    let upgraded = |more: &[&str]| try_meshctl(&[&["upgrade", "-o", "yaml"], more].concat());
    for (kind, name, flag) in
        [("configmap", "mesh-values", "--reset-values"), ("secret", "mesh-issuer", "--new-identity")]
    {
        let there = get(SYSTEM, &[kind, name]);
        kubectl(&["delete", "-n", SYSTEM, kind, name]);
        let (refused, told) = (upgraded(&[]), upgraded(&[flag]));
        again(&there);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(refused.stdout.is_empty() && said.contains(name) && said.contains(flag), "{said}");
        assert!(told.status.success(), "{flag}: {}", words(&told));
        let whole = upgraded(&[]);
        assert!(whole.status.success(), "{}", words(&whole));
    }
    meshctl(&["check"]);
}

#[test]
fn a_session_affinity_that_is_not_kept_is_told() {
    let namespace = Namespace::new("sticky", false);
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: sticky, namespace: {}}}\n\
         spec: {{sessionAffinity: ClientIP, selector: {{app: web}}, ports: [{{port: 80}}]}}\n",
        namespace.0
    );
    apply(&service);
    let destination = pod(SYSTEM, "app.kubernetes.io/component=destination");
    let said = wait("the problem", || {
        let problems: Vec<Value> = serde_json::from_str(&page(SYSTEM, &destination, 4652, "/problems")).expect("JSON");
        problems.into_iter().find(|problem| problem["object"] == format!("Service {}/sticky", namespace.0))
    });
    assert_eq!(said["field"], "spec.sessionAffinity", "{said}");
}

#[test]
fn a_namespace_whose_pod_security_refuses_what_is_injected_is_named() {
    let namespace = Namespace::new("baseline", true);
    kubectl(&["label", "namespace", &namespace.0, "pod-security.kubernetes.io/enforce=baseline"]);
    for mode in [&["check", "--pre"][..], &["check", "--wait", "0", "-n", &namespace.0]] {
        let said = words(&try_meshctl(mode));
        assert!(said.contains("baseline (baseline) refuses NET_ADMIN"), "{mode:?}: {said}");
    }
    // That it is so: the API server refuses the pod with its sidecar.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace.0},
        "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let said = words(&try_apply(&pod.to_string()));
    assert!(said.contains("violates PodSecurity") && said.contains("mesh-init"), "{said}");
}
