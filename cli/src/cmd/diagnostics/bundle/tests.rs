//! Bundles of a mock of a cluster, read back from their archives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, fs, io::Read};

use flate2::read::GzDecoder;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    archive::{Archive, Content, Index},
    *,
};
use crate::kube::mock::Mock;

fn meshed(name: &str) -> Value {
    json!({ "kind": "Pod", "metadata": { "name": name, "namespace": "shop", "labels": { "app": "web" } },
        "spec": { "initContainers": [{ "name": "mesh-proxy", "env": [{ "name": "MESH_PROBES", "value": "hunter2" }] }],
            "containers": [{ "name": "web", "env": [{ "name": "DB", "value": "hunter2" }] }] },
        "status": { "phase": "Running", "initContainerStatuses": [{ "name": "mesh-proxy", "restartCount": 1 }] } })
}

/// A cluster with a part of the control plane, and `pods` meshed pods in `shop`.
fn mock(pods: usize) -> Mock {
    let names: Vec<String> = (1..=pods).map(|number| format!("web-{number}")).collect();
    let identity = json!({ "metadata": { "name": "mesh-identity-1", "namespace": "mesh-system",
        "labels": { "app.kubernetes.io/name": "mesh-identity" } }, "spec": { "containers": [{ "name": "identity" }] } });
    let route = json!({ "metadata": { "name": "split", "namespace": "shop" }, "spec": { "rules": [{ "filters": [{
        "requestHeaderModifier": { "set": [{ "name": "x-key", "value": "hunter2" }] } }] }] },
        "status": { "parents": [{ "controllerName": "meshctl.dev/controller" }] } });
    let mut mock = Mock::default()
        .object("/version", json!({ "gitVersion": "v1.33.1" }))
        .list("/api/v1/namespaces/mesh-system/pods", vec![identity])
        .list("/api/v1/namespaces/shop/pods", names.iter().map(|name| meshed(name)).collect())
        .object(
            "/apis/apps/v1/namespaces/shop/deployments/web",
            json!({ "spec": { "selector": { "matchLabels": { "app": "web" } } } }),
        )
        .object("/apis/gateway.networking.k8s.io", json!({ "versions": [{ "version": "v1" }] }))
        .object(
            "/apis/gateway.networking.k8s.io/v1",
            json!({ "resources": [{ "name": "httproutes", "kind": "HTTPRoute" }] }),
        )
        .list("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes", vec![route])
        .page("mesh-system/mesh-identity-1", 4652, "/problems", "[]")
        .object(
            "/api/v1/namespaces/mesh-system/pods/mesh-identity-1/log",
            "signed for eyJhbGciOiJI.hunter2.x\n".into(),
        );
    for name in &names {
        let pod = format!("shop/{name}");
        let set = json!({ "set": [{ "name": "x-key", "value": "hunter2" }], "revision": 7 });
        mock = mock
            .page(&pod, 4691, "/config", &set.to_string())
            .page(&pod, 4691, "/log-level", "info\n")
            .page(&pod, 4692, "/metrics", "up 1\n")
            .object(&format!("/api/v1/namespaces/shop/pods/{name}"), meshed(name))
            .object(
                &format!("/api/v1/namespaces/shop/pods/{name}/log"),
                "Authorization: Bearer hunter2\nready\n".into(),
            );
    }
    mock
}

fn args(pods: &[&str]) -> Args {
    Args { pods: pods.iter().map(|&pod| pod.to_owned()).collect(), file: None, since: Duration::from_secs(60) }
}

/// The files of an archive, without their folder.
fn files(path: &Path) -> BTreeMap<String, String> {
    let mut tar = tar::Archive::new(GzDecoder::new(fs::File::open(path).unwrap()));
    let entries = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().strip_prefix("b").unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (path, text)
    });
    entries.collect()
}

async fn bundle(mock: Mock, pods: &[&str]) -> (Index, BTreeMap<String, String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.tar.gz");
    let index = write(&args(pods), &mock.cluster(), "b", 0, &file).await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    (index, files(&file))
}

#[tokio::test]
async fn a_bundle_has_what_is_there_and_says_what_is_not() {
    let (index, files) = bundle(mock(1), &[]).await;
    for file in [
        "README.txt",
        "index.json",
        "versions.json",
        "check.json",
        "check-proxy.json",
        "control-plane/mesh-identity-1/pod.yaml",
        "control-plane/mesh-identity-1/problems.json",
        "control-plane/mesh-identity-1/identity.log",
        "namespaces/shop/httproutes.yaml",
        "proxies/shop/web-1/pod.yaml",
        "proxies/shop/web-1/config.json",
        "proxies/shop/web-1/metrics.txt",
        "proxies/shop/web-1/mesh-proxy.log",
        "proxies/shop/web-1/mesh-proxy.previous.log",
    ] {
        assert!(files.contains_key(file), "{file} is not among {:?}", files.keys());
    }
    assert!(!files.contains_key("proxies/shop/web-1/web.log"), "the application's log");
    let missing: Vec<&str> = index.missing.iter().map(|missing| missing.what.as_str()).collect();
    for what in [
        "control-plane/webhook.yaml",
        "proxies/shop/web-1/authorization.json",
        "control-plane/mesh-identity-1/metrics.txt",
    ] {
        assert!(missing.contains(&what), "{missing:?}");
        assert!(files["README.txt"].contains(what) && files["index.json"].contains(what));
    }
    let versions: Value = serde_json::from_str(&files["versions.json"]).unwrap();
    assert_eq!(versions["apiServer"]["gitVersion"], "v1.33.1");
    assert!(files["namespaces/shop/httproutes.yaml"].contains("meshctl.dev/controller"), "the status");
    assert!(files["proxies/shop/web-1/mesh-proxy.log"].ends_with("\nready\n"));
    for (path, text) in &files {
        assert!(!text.contains("hunter2"), "{path}: {text}");
    }
}

#[tokio::test]
async fn at_most_twenty_pods_are_taken_and_the_rest_is_told() {
    let (index, files) = bundle(mock(23), &[]).await;
    assert_eq!(files.keys().filter(|path| path.ends_with("/config.json")).count(), chosen::MAX_PROXIES);
    assert!(index.missing.iter().any(|missing| missing.what == "3 of the meshed pods of namespace shop"), "{index:?}");
}

#[tokio::test]
async fn pods_are_named_in_several_ways_and_each_is_there_once() {
    let (index, files) = bundle(mock(2), &["deploy/web", "web-1", "shop/web-2", "absent"]).await;
    assert_eq!(files.keys().filter(|path| path.ends_with("/config.json")).count(), 2);
    assert!(index.missing.iter().any(|missing| missing.what == "absent"), "{index:?}");
}

#[tokio::test]
async fn without_an_answer_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Mock::default().refuses("/version", 401, "who are you?").cluster();
    let error = write(&args(&[]), &refused, "b", 0, &folder.path().join("b.tar.gz")).await.unwrap_err();
    assert!(error.to_string().contains("log in anew"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn each_file_and_the_whole_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.tar.gz");
    let mut archive = Archive::begin(&file, "b", 0).unwrap().bounded(10, 25);
    archive.add("head", Content::Text("0123456789abc".to_owned())).unwrap();
    archive.add("tail", Content::Tail("0\n12345\n6789\n".to_owned(), 100)).unwrap();
    archive.add("rest", Content::Text("0123456789".to_owned())).unwrap();
    archive.add("last", Content::Text("0".to_owned())).unwrap();
    archive.add("../../etc/x", Content::Text(String::new())).unwrap();
    let index = archive.end(&file).unwrap();
    let files = files(&file);
    let of = |path: &str| files.get(path).map(String::as_str);
    assert_eq!((of("head"), of("tail"), of("rest")), (Some("0123456789"), Some("6789\n"), Some("0123456789")));
    assert_eq!((of("last"), of("_/_/etc/x")), (None, Some("")));
    assert_eq!(index.files.iter().map(|file| file.cut).collect::<Vec<_>>(), [3, 8, 0, 0]);
    assert_eq!(index.missing[0].what, "last");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_cut_never_shows_a_secret(at in 0..120_usize, secret in "[a-z0-9]{24}") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("b.tar.gz");
        let text = format!("{}\nAuthorization: Bearer {secret}\nend\n", "x".repeat(30));
        let mut archive = Archive::begin(&file, "b", 0).unwrap().bounded(at, 1000);
        archive.add("head", Content::Text(text.clone())).unwrap();
        archive.add("tail", Content::Tail(text, 1000)).unwrap();
        archive.end(&file).unwrap();
        for text in files(&file).values() {
            prop_assert!(!text.contains(&secret[..8]), "{}", text);
        }
    }
}
