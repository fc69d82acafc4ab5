//! What is added passes Pod Security `restricted` (v1.34), but for the one capability of `mesh-init`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_injector::{
    config::Config,
    patch::{NamespaceFacts, Outcome, inject},
    secret::Secret,
};
use serde_json::{Value, json};

/// Violations of the `baseline` and `restricted` rules by a whole pod.
fn violations(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut found = Vec::new();
    let mut forbid = |bad: bool, what: String| {
        if bad {
            found.push(what);
        }
    };
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        forbid(spec[field] == true, field.into());
    }
    const VOLUMES: [&str; 8] =
        ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let allowed = volume.as_object().unwrap().keys().all(|key| key == "name" || VOLUMES.contains(&key.as_str()));
        forbid(!allowed, format!("volume {}", volume["name"]));
    }
    let lists = ["initContainers", "containers"].into_iter().filter_map(|field| spec[field].as_array());
    for container in lists.flatten() {
        let (name, security) = (container["name"].as_str().unwrap(), &container["securityContext"]);
        let either = |field: &str| match &security[field] {
            Value::Null => spec["securityContext"][field].clone(),
            own => own.clone(),
        };
        forbid(security["privileged"] == true, format!("{name}: privileged"));
        forbid(security["allowPrivilegeEscalation"] != false, format!("{name}: allowPrivilegeEscalation"));
        forbid(either("runAsNonRoot") != true, format!("{name}: runAsNonRoot"));
        forbid(either("runAsUser") == 0, format!("{name}: runAsUser"));
        let seccomp = either("seccompProfile");
        forbid(
            !["RuntimeDefault", "Localhost"].iter().any(|t| seccomp["type"] == *t),
            format!("{name}: seccompProfile"),
        );
        let drops_all = security["capabilities"]["drop"].as_array().is_some_and(|drop| drop.contains(&json!("ALL")));
        forbid(!drops_all, format!("{name}: capabilities.drop"));
        for added in security["capabilities"]["add"].as_array().into_iter().flatten() {
            forbid(added != "NET_BIND_SERVICE", format!("{name}: {}", added.as_str().unwrap()));
        }
        for port in container["ports"].as_array().into_iter().flatten() {
            forbid(!port["hostPort"].is_null(), format!("{name}: hostPort"));
        }
        forbid(!security["procMount"].is_null(), format!("{name}: procMount"));
    }
    found
}

fn restricted_pod(restart_policy: &str) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "restartPolicy": restart_policy,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "web",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

#[test]
fn only_the_one_capability() {
    for (config, expected) in [
        ("{}", vec!["mesh-init: NET_ADMIN"]),
        ("{proxy: {nativeSidecar: false}}", vec!["mesh-init: NET_ADMIN"]),
        ("{init: {enabled: false}}", vec![]),
    ] {
        let pod = restricted_pod("Always");
        assert_eq!(violations(&pod), Vec::<String>::new(), "the pod itself passes");
        let namespace = NamespaceFacts { name: "shop".into() };
        let outcome = inject(&pod, &namespace, &Config::from_yaml(config).unwrap(), &Secret::random).unwrap();
        let Outcome::Injected { pod, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(violations(&pod), expected, "{config}");
        let ours = |container: &&Value| container["name"].as_str().unwrap().starts_with("mesh-");
        let lists = ["initContainers", "containers"].into_iter().filter_map(|field| pod["spec"][field].as_array());
        for container in lists.flatten().filter(ours) {
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
}
