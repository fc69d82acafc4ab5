//! What an upgrade keeps, what it refuses, and what it says then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::kube::mock::Mock;

#[test]
fn versions_that_cannot_work_together() {
    for (theirs, ours) in [("0.1.0", "0.1.9"), ("0.1.0", "0.2.0"), ("0.3.1", "0.2.0"), ("v1.4.0-rc.1", "1.5.0")] {
        assert_eq!(too_far(theirs, ours), None, "{theirs} {ours}");
    }
    for (theirs, ours) in [("0.1.0", "0.3.0"), ("0.5.0", "0.3.0"), ("0.9.0", "1.0.0"), ("", "0.1.0"), ("new", "0.1.0")]
    {
        assert!(too_far(theirs, ours).is_some(), "{theirs} {ours}");
    }
}

fn args(words: &[&str]) -> Args {
    Args::try_parse_from(["upgrade"].iter().chain(words)).unwrap()
}

fn secret(made: &identity::Made) -> Value {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let (material, encode) = (&made.material, |text: &str| STANDARD.encode(text));
    json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "mesh"}}, "data": {
        "ca.crt": encode(&material.anchors), "tls.crt": encode(&material.certificate), "tls.key": encode(&material.key),
    }})
}

fn installed(values: &str) -> Installed {
    let stored = json!({"data": {"values.yaml": values}});
    let namespace = json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "mesh"}}});
    Installed { values: Some(stored), namespace: Some(namespace), ..Installed::default() }
}

const SECRET: &str = "/api/v1/namespaces/mesh-system/secrets/mesh-issuer";

#[tokio::test]
async fn identity_and_values_are_kept_and_new_ones_laid_over() {
    let made = identity::make("corp.example").unwrap();
    let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
    let found = installed("trustDomain: corp.example\nproxy: {workers: 3, logLevel: warn}\n");
    let given = kept(&args(&["--set", "proxy.logLevel=info"]), &cluster, &found).await.unwrap();
    assert_eq!(given["proxy"], json!({"workers": 3, "logLevel": "info"}));
    assert_eq!(given["identity"]["issuer"]["key"], made.material.key);
    assert_eq!(given["namespace"]["create"], true);
    let reset = kept(&args(&["--reset-values", "--set", "trustDomain=corp.example"]), &cluster, &found).await.unwrap();
    assert_eq!(reset["proxy"], Value::Null);
    assert_eq!(reset["identity"]["trustAnchors"], made.material.anchors);
}

#[tokio::test]
async fn with_an_external_issuer_everything_that_is_trusted_stays_so() {
    let (made, other) = (identity::make("cluster.local").unwrap(), identity::make("cluster.local").unwrap());
    let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
    let stored = "identity: {external: true, trustAnchorsConfigMap: roots}";
    let both = format!("{}{}", made.material.anchors, other.material.anchors);
    let bundle = Some(json!({"data": {"ca-bundle.pem": both}}));
    let given = kept(&args(&[]), &cluster, &Installed { bundle, ..installed(stored) }).await.unwrap();
    assert_eq!(given["identity"]["trustAnchors"], both);
    assert_eq!(given["identity"]["trustAnchorsConfigMap"], "roots");
    assert_eq!(given["identity"]["issuer"], Value::Null);
    let given = kept(&args(&[]), &cluster, &installed(stored)).await.unwrap();
    assert_eq!(given["identity"]["trustAnchors"], made.material.anchors);
}

#[tokio::test]
async fn what_was_taken_away_stays_away() {
    let made = identity::make("cluster.local").unwrap();
    let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
    let mut all = values::with_defaults(json!({
        "destination": {"resources": {"limits": null}}, "nodeSelector": {"kubernetes.io/os": null},
    }))
    .unwrap();
    assert!(all["destination"]["resources"].get("limits").is_none());
    all["identity"].as_object_mut().unwrap().retain(|name, _| !["issuer", "trustAnchors"].contains(&name.as_str()));
    let given = kept(&args(&[]), &cluster, &installed(&all.to_string())).await.unwrap();
    let again = values::with_defaults(given).unwrap();
    for place in ["destination", "nodeSelector", "injector", "proxy"] {
        assert_eq!(again[place], all[place], "{place}");
    }
}

#[tokio::test]
async fn a_changed_trust_domain_an_edited_secret_or_an_unknown_value_is_refused_with_the_object() {
    let made = identity::make("corp.example").unwrap();
    let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
    let message = |error: anyhow::Error| format!("{error:#}");
    let unknown = kept(&args(&[]), &cluster, &installed("proxy: {threads: 3}")).await.unwrap_err();
    assert!(message(unknown).contains("--reset-values"));
    let mut garbage = secret(&made);
    garbage["data"]["tls.key"] = "AAAA".into();
    let cluster = Mock::default().object(SECRET, garbage).cluster();
    let wrong = message(kept(&args(&[]), &cluster, &installed("trustDomain: corp.example")).await.unwrap_err());
    assert!(wrong.contains("mesh-system/mesh-issuer") && wrong.contains("tls.key"), "{wrong}");
}

#[tokio::test]
async fn sidecars_that_are_too_old_are_named_and_hold_up_nobody_who_insists() {
    let pod = json!({"metadata": {"namespace": "tenant", "name": "old", "labels": {"meshctl.dev/proxy-version": "9.9.9"}},
        "spec": {"initContainers": [{"name": "mesh-proxy"}]}, "status": {"phase": "Running"}});
    let version = json!({"metadata": {"labels": {"app.kubernetes.io/version": env!("CARGO_PKG_VERSION")}}});
    let found = Installed { webhook: Some(version), ..Installed::default() };
    let cluster = Mock::default().list("/api/v1/pods", vec![pod.clone()]).cluster();
    let message = check_skew(&cluster, &found, false).await.unwrap_err().to_string();
    assert!(message.contains("tenant/old") && message.contains("--force"), "{message}");
    check_skew(&cluster, &found, true).await.unwrap();
    let mut claims = pod;
    claims["spec"] = json!({});
    let cluster = Mock::default().list("/api/v1/pods", vec![claims]).cluster();
    check_skew(&cluster, &found, false).await.unwrap();
}

#[tokio::test]
async fn values_that_are_lost_are_made_up_only_when_told_so() {
    let made = identity::make("cluster.local").unwrap();
    let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
    let (gone, emptied) = (Installed { values: None, ..installed("") }, installed(""));
    for lost in [&gone, &emptied] {
        let message = format!("{:#}", kept(&args(&[]), &cluster, lost).await.unwrap_err());
        assert!(message.contains("mesh-system/mesh-values") && message.contains("--reset-values"), "{message}");
        let given = kept(&args(&["--reset-values", "--set", "ha=true"]), &cluster, lost).await.unwrap();
        assert_eq!((&given["ha"], &given["proxy"]), (&Value::Bool(true), &Value::Null));
        assert_eq!(given["identity"]["issuer"]["key"], made.material.key, "the identity is kept");
    }
}

#[tokio::test]
async fn an_identity_that_is_lost_is_made_anew_only_when_told_so() {
    let made = identity::make("cluster.local").unwrap();
    let stored = installed("trustDomain: cluster.local");
    let empty = Mock::default().object(SECRET, json!({"metadata": secret(&made)["metadata"], "data": {}})).cluster();
    for lost in [Mock::default().cluster(), empty] {
        let message = format!("{:#}", kept(&args(&[]), &lost, &stored).await.unwrap_err());
        assert!(message.contains("mesh-system/mesh-issuer") && message.contains("--new-identity"), "{message}");
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("anchor.key");
        let words = ["--new-identity", "--identity-anchor-key-out", key.to_str().unwrap()];
        let given = kept(&args(&words), &lost, &stored).await.unwrap();
        assert!(given["identity"]["trustAnchors"].as_str().unwrap().contains("CERTIFICATE"));
        assert!(std::fs::read_to_string(key).unwrap().contains("PRIVATE KEY"));
    }
    // Half of one is refused, and one that is there is not replaced.
    let mut half = secret(&made);
    half["data"].as_object_mut().unwrap().remove("tls.key");
    let half = Mock::default().object(SECRET, half).cluster();
    let message = format!("{:#}", kept(&args(&["--new-identity"]), &half, &stored).await.unwrap_err());
    assert!(message.contains("missing: identity.issuer.key"), "{message}");
    let whole = Mock::default().object(SECRET, secret(&made)).cluster();
    let message = format!("{:#}", kept(&args(&["--new-identity"]), &whole, &stored).await.unwrap_err());
    assert!(message.contains("there is one"), "{message}");
    // Files are as good as the Secret.
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let words = [
        "--identity-trust-anchors-file".to_owned(),
        file("ca.crt", &made.material.anchors),
        "--identity-issuer-certificate-file".to_owned(),
        file("tls.crt", &made.material.certificate),
        "--identity-issuer-key-file".to_owned(),
        file("tls.key", &made.material.key),
    ];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let given = kept(&args(&words), &Mock::default().cluster(), &stored).await.unwrap();
    assert_eq!(given["identity"]["issuer"]["key"], made.material.key);
}

#[tokio::test]
async fn with_lost_values_nobody_elses_secret_is_taken_for_ours() {
    let made = identity::make("cluster.local").unwrap();
    let mut foreign = secret(&made);
    foreign["metadata"] = json!({});
    let cluster = Mock::default().object(SECRET, foreign).cluster();
    let found = Installed { values: None, ..installed("") };
    let message = format!("{:#}", kept(&args(&["--reset-values"]), &cluster, &found).await.unwrap_err());
    assert!(message.contains("--identity-external-issuer"), "{message}");
    let words = ["--reset-values", "--identity-external-issuer"];
    let given = kept(&args(&words), &cluster, &found).await.unwrap();
    assert_eq!(given["identity"]["issuer"], Value::Null, "no Secret is rendered");
    assert_eq!(given["identity"]["trustAnchors"], made.material.anchors);
    let given = kept(&args(&["--reset-values", "--set", "identity.external=false"]), &cluster, &found).await.unwrap();
    assert_eq!(given["identity"]["issuer"]["key"], made.material.key);
}

#[test]
fn what_cannot_be_upgraded_says_what_to_do() {
    let message = |found: &Installed| may_upgrade(found, "https://k").unwrap_err().to_string();
    assert!(message(&Installed::default()).contains("meshctl install"));
    let labels = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}});
    assert!(message(&Installed { values: Some(labels), ..Installed::default() }).contains("helm upgrade"));
}
