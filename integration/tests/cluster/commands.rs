//! `meshctl` against the cluster: what is right is green, what is wrong is named with its remedy.

use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::{
    apps::{App, service, web_and_client},
    kube::{
        Namespace, SYSTEM, apply, cluster_ip, get, kubectl, load, meshctl, pod, rolled_out, start_load, text,
        try_meshctl, wait,
    },
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
fn a_route_whose_backends_are_down_has_0_percent() {
    let namespace = Namespace::new("down", true);
    let name = namespace.0.as_str();
    let client = web_and_client(name);
    let route = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: {name}}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]\n  rules:\n  \
         - backendRefs: [{{name: none, port: 80}}]\n"
    );
    apply(&format!("{}{route}", service(name, "none", "app: none")));
    let target = format!("{}:80", cluster_ip(name, "web"));
    let running = start_load(name, &client, &["http1", "--target", &target, "--rate", "50", "--seconds", "15"]);
    let row = wait("its requests to be shown", || {
        let rows = meshctl(&["routes", "web", "-n", name, "--window", "1s", "-o", "json"]);
        let rows: Value = serde_json::from_str(&rows).expect("JSON");
        let row =
            rows.pointer("/routes/0").filter(|row| row["route"] == json!(format!("HTTPRoute {name}/web")))?.clone();
        (row.pointer("/traffic/rps").and_then(Value::as_f64)? > 10.0 && row["traffic"]["success"] == 0.0).then_some(row)
    });
    println!("{row}");
    drop(running);
}

#[test]
fn an_issuer_edited_to_garbage_is_refused_and_nothing_stops() {
    let namespace = Namespace::new("garbage", true);
    let restored = issuer();
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

/// The issuer's Secret, to be applied again.
fn issuer() -> String {
    let secret = get(SYSTEM, &["secret", "mesh-issuer"]);
    let metadata = &secret["metadata"];
    let metadata = json!({"name": "mesh-issuer", "namespace": SYSTEM, "labels": metadata["labels"],
        "annotations": metadata["annotations"]});
    let mut restored = secret.clone();
    restored["metadata"] = metadata;
    restored.to_string()
}

/// Nothing vouches for the old certificates any more, and they would last for a day.
#[test]
fn under_anchors_that_share_nothing_with_the_old_everything_goes_on() {
    let namespace = Namespace::new("new-anchors", true);
    let client = web_and_client(&namespace.0);
    let target = format!("{}:80", cluster_ip(&namespace.0, "web"));
    let ca_bundle = || {
        let webhooks = get(SYSTEM, &["mutatingwebhookconfiguration", "mesh-injector"]);
        text(&webhooks, "/webhooks/0/clientConfig/caBundle")
    };

    let restored = issuer();
    let key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = root.self_signed(&key).unwrap().pem();
    let patch = json!({"stringData": {"tls.crt": root, "ca.crt": root, "tls.key": key.serialize_pem()}}).to_string();
    let goes_on = |change: &dyn Fn()| {
        let before = ca_bundle();
        change();
        let began = Instant::now();
        wait("the webhook's caBundle to follow", || (ca_bundle() != before).then_some(()));
        // A new pod: the API server believes the injector, and the pod's proxy, which knows the new anchor alone, the
        // client's.
        kubectl(&["rollout", "restart", "-n", &namespace.0, "deployment/web"]);
        rolled_out(&namespace.0, &["deployment/web"]);
        wait("requests to the new pod", || {
            let report =
                load(&namespace.0, &client, &["http1", "--target", &target, "--count", "50", "--connections", "5"]);
            (report.requests == 50 && report.errors == 0).then_some(())
        });
        println!("new anchors are in use by all after {:.1} s", began.elapsed().as_secs_f64());
    };
    goes_on(&|| drop(kubectl(&["patch", "secret", "-n", SYSTEM, "mesh-issuer", "--type=merge", "-p", &patch])));
    goes_on(&|| apply(&restored));
    meshctl(&["check"]);
}
