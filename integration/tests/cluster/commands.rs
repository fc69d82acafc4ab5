//! `meshctl` against the cluster: what is right is green, what is wrong is named with its remedy.

use serde_json::Value;

use crate::{
    apps::App,
    kube::{Namespace, SYSTEM, apply, kubectl, meshctl, pod, rolled_out, try_meshctl, wait},
};

#[test]
fn check_is_green_for_a_healthy_mesh() {
    let namespace = Namespace::new("checked", true);
    apply(&App::new("web").manifest(&namespace.0));
    rolled_out(&namespace.0, &["deployment/web"]);
    meshctl(&["check"]);
    meshctl(&["check", "--proxy", "-n", &namespace.0]);
    let json: Value = serde_json::from_str(&meshctl(&["check", "-o", "json"])).expect("JSON");
    assert!(json.to_string().contains("control-plane"), "{json}");
}

#[test]
fn check_names_the_pod_that_was_never_restarted() {
    let namespace = Namespace::new("stale", false);
    apply(&App::new("web").manifest(&namespace.0));
    rolled_out(&namespace.0, &["deployment/web"]);
    kubectl(&["label", "namespace", &namespace.0, "--overwrite", "meshctl.dev/inject=enabled"]);
    let output = try_meshctl(&["check", "--proxy", "-n", &namespace.0, "--wait", "1s"]);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("rollout restart") && said.contains("web"), "{said}");
}

#[test]
fn a_pod_serves_the_certificate_of_its_service_account() {
    let namespace = Namespace::new("certified", true);
    apply(&App::new("web").manifest(&namespace.0));
    rolled_out(&namespace.0, &["deployment/web"]);
    let said = meshctl(&["identity", "-n", &namespace.0, &pod(&namespace.0, "app=web")]);
    assert!(said.contains("spiffe://cluster.local/ns/certified/sa/web"), "{said}");
}

#[test]
fn an_issuer_edited_to_garbage_is_refused_and_nothing_stops() {
    let namespace = Namespace::new("garbage", true);
    let secret = kubectl(&["get", "secret", "-n", SYSTEM, "mesh-issuer", "-o", "json"]);
    let mut restored: Value = serde_json::from_str(&secret).unwrap();
    restored["metadata"] = serde_json::json!({"name": "mesh-issuer", "namespace": SYSTEM,
        "labels": restored["metadata"]["labels"], "annotations": restored["metadata"]["annotations"]});
    let restored = serde_json::to_string(&restored).unwrap();
    let patch = r#"{"data":{"tls.crt":"Z2FyYmFnZQ=="}}"#;
    kubectl(&["patch", "secret", "-n", SYSTEM, "mesh-issuer", "--type=merge", "-p", patch]);
    let said = wait("the refusal in the log", || {
        let logs = kubectl(&["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=identity", "--tail=200"]);
        logs.lines().find(|line| line.contains("mesh-issuer") && line.contains("tls.crt")).map(str::to_owned)
    });
    println!("{said}");
    // The last good issuer goes on: a new pod gets its certificate.
    apply(&App::new("web").manifest(&namespace.0));
    rolled_out(&namespace.0, &["deployment/web"]);
    apply(&restored);
}
