//! `meshctl inject` and `uninject` over manifests as people have them: nothing but what is ours differs, as kubectl reads it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::os::unix::fs::symlink;

use mesh_resources::yaml;
use serde_json::{Value, json};
use support::Folder;

const SHAPES: &str = include_str!("data/shapes/charts.yaml");

/// The documents of a text, as kubectl reads them; null and empty maps are as absent, which they are to an API server.
fn read(text: &str) -> Vec<Value> {
    fn settled(value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let kept = fields.into_iter().map(|(name, value)| (name, settled(value)));
                kept.filter(|(_, value)| !value.is_null() && *value != json!({})).collect()
            }
            Value::Array(items) => items.into_iter().map(settled).collect(),
            other => other,
        }
    }
    let found = yaml::documents(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    found.into_iter().filter_map(|document| document.value).map(settled).collect()
}

#[test]
fn what_is_injected_and_taken_out_again_is_as_it_was() {
    let folder = Folder::with(&[("shapes.yaml", SHAPES)]);
    let before = read(SHAPES);
    assert!(before.len() >= 20, "{}", before.len());
    for manual in [&[][..], &["--manual", "--ignore-cluster"]] {
        let injected = folder.meshctl(&[&["inject", "shapes.yaml"], manual].concat());
        assert_eq!(injected.code, Some(0), "{}", injected.err);
        let after = folder.meshctl_with(&["uninject", "-"], &injected.out);
        assert_eq!(after.code, Some(0), "{}", after.err);
        for (now, then) in read(&after.out).iter().zip(&before) {
            // The Namespace opts in by the same label, and out again.
            assert_eq!(now, then, "{manual:?}");
        }
        assert_eq!(read(&after.out).len(), before.len());
        // As JSON it is the same.
        let list = folder.meshctl(&[&["inject", "-o", "json", "shapes.yaml"], manual].concat());
        let list: Value = serde_json::from_str(&list.out).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), before.len());
    }
}

#[test]
fn the_label_is_all_that_inject_adds() {
    let folder = Folder::with(&[("shapes.yaml", SHAPES)]);
    let injected = folder.meshctl(&["inject", "shapes.yaml"]);
    for (now, then) in read(&injected.out).iter().zip(read(SHAPES)) {
        let mut without = now.clone();
        for place in ["", "/template", "/spec/template", "/spec/jobTemplate/spec/template"] {
            if let Some(labels) =
                without.pointer_mut(&format!("{place}/metadata/labels")).and_then(Value::as_object_mut)
            {
                labels.remove("meshctl.dev/inject");
            }
        }
        let [now, then] = [without, then].map(|value| read(&value.to_string()));
        if then[0]["kind"] != "List" {
            assert_eq!(now, then);
        }
    }
    // What is not changed is as it was written, with its line breaks.
    assert!(injected.out.contains("  kept: |+\n    text\n\n\n---\n"), "{}", injected.out);
    assert!(injected.out.contains("hostNetwork: yes"), "skipped, and so as it was");
    for (object, said) in [
        ("DaemonSet shop/node", "skipped, the pod uses the node's network"),
        ("Pod shop/windows", "skipped, the pod is for Windows"),
        ("PodTemplate shop/template", "injected"),
        ("Service shop/hello", "injected"),
        ("Job shop/migrate-", "injected"),
        ("ScaledJob shop/scaled", "left as it is; no template of pods was found at"),
        ("ConfigMap shop/files", "has no pods"),
    ] {
        assert!(injected.err.contains(&format!("{object}: {said}")), "{object}: {}", injected.err);
    }
}

#[test]
fn json_in_a_row_and_other_encodings_are_read() {
    let pod = |name: &str| json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": { "containers": [{ "name": "a", "image": "x" }] } });
    let folder = Folder::with(&[("two.json", &format!("{}\n{}", pod("a"), pod("b")))]);
    let injected = folder.meshctl(&["inject", "two.json"]);
    assert_eq!((injected.code, read(&injected.out).len()), (Some(0), 2), "{}", injected.err);
    let wide: Vec<u8> = format!("\u{feff}{}", pod("c")).encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(folder.path().join("wide.json"), wide).unwrap();
    let injected = folder.meshctl(&["inject", "wide.json"]);
    assert_eq!(injected.code, Some(0), "{}", injected.err);
}

#[test]
fn folders_are_read_as_lint_reads_them() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: x}]}\n";
    let folder = Folder::with(&[
        ("k8s/web.yaml", pod),
        ("k8s/.github/ci.yml", "on: push\n"),
        (
            "k8s/kustomization.yaml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [web.yaml]\n",
        ),
    ]);
    symlink("nobody@host.1", folder.path().join("k8s/.#web.yaml")).unwrap();
    symlink(".", folder.path().join("k8s/current")).unwrap();
    for command in ["inject", "uninject"] {
        let ended = folder.meshctl(&[command, "k8s"]);
        assert_eq!((ended.code, read(&ended.out).len()), (Some(0), 1), "{}", ended.err);
        // Nothing named is wrong usage.
        assert_eq!(folder.meshctl(&[command]).code, Some(2));
    }
    let lint = folder.meshctl(&["lint", "k8s"]);
    assert_eq!(lint.code, Some(0), "{}", lint.err);
    assert!(lint.err.contains("1 object:"), "{}", lint.err);
}

#[test]
fn who_declines_or_has_another_mesh_is_left_alone() {
    let namespace =
        |name: &str, more: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, {more}}}\n");
    let deployment = |more: &str, template: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, {more}}}\nspec: {{template: {{metadata: {{{template}}}, \
             spec: {{containers: [{{name: a, image: x}}]}}}}}}\n"
        )
    };
    let folder = Folder::with(&[]);
    for (text, said) in [
        (namespace("a", "labels: {meshctl.dev/inject: disabled}"), "skipped, the namespace is opted out"),
        (namespace("a", "labels: {istio-injection: enabled}"), "skipped, the namespace belongs to Istio"),
        (namespace("a", "annotations: {linkerd.io/inject: enabled}"), "skipped, the namespace belongs to Linkerd"),
        (deployment("", "labels: {istio.io/rev: stable}"), "skipped, the pod belongs to Istio"),
        (
            deployment("", "labels: {istio.io/rev: stable, sidecar.istio.io/inject: 'false'}"),
            "Deployment web: injected",
        ),
        (deployment("labels: {meshctl.dev/inject: disabled}", ""), "skipped, its own label"),
        (deployment("annotations: {config.meshctl.dev/opaque-ports: '25'}", ""), "not in force: metadata.annotations."),
    ] {
        let ended = folder.meshctl_with(&["inject", "-"], &text);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(ended.err.contains(said), "{said}: {}", ended.err);
    }
    let wrong = folder.meshctl_with(&["inject", "-"], &namespace("a", "labels: {meshctl.dev/inject: 'no'}"));
    assert_eq!((wrong.code, wrong.out.as_str()), (Some(1), ""), "{}", wrong.err);
}

#[test]
fn a_guaranteed_pod_stays_so() {
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {
        "config.meshctl.dev/proxy-cpu-request": "100m", "config.meshctl.dev/proxy-cpu-limit": "100m",
        "config.meshctl.dev/proxy-memory-request": "64Mi", "config.meshctl.dev/proxy-memory-limit": "64Mi"}},
        "spec": {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}}"#;
    let ended = Folder::with(&[]).meshctl_with(&["inject", "--manual", "--ignore-cluster", "-o", "json", "-"], pod);
    let pod: Value = serde_json::from_str(&ended.out).unwrap();
    let all = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array().unwrap().clone()).concat();
    assert_eq!(all.len(), 3);
    for container in all {
        let (requests, limits) = (&container["resources"]["requests"], &container["resources"]["limits"]);
        assert!(limits["cpu"].is_string() && limits["memory"].is_string(), "a quota on limits is met: {container}");
        assert!(requests.is_null() || requests == limits, "{container}");
    }
}
