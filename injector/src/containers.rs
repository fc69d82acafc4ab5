//! What is added to a pod: the init container, the sidecar, and the volume with its token and roots.
//!
//! Everything passes Pod Security `restricted`, but for the one capability of `mesh-init`. Nothing that may change
//! while a pod lives (roots, policies, endpoints) is written into it.

use mesh_policy::{
    access_log::Format,
    well_known::{
        ADMIN_PORT, DESTINATION_PORT, IDENTITY_PORT, INBOUND_PORT, INIT_CONTAINER, MESH_DESTINATION, MESH_IDENTITY,
        METRICS_PORT, OUTBOUND_PORT, PROXY_CONTAINER, TOKEN_AUDIENCE, TRUST_BUNDLE, TRUST_BUNDLE_KEY,
    },
};
use serde_json::{Map, Value, json};

use crate::{
    annotations::Settings,
    config::{Config, Resources},
    pod::VOLUME,
};

/// Ports of the sidecar in the pod's network, and what it does there.
pub const PORTS: [(u16, &str); 4] = [
    (OUTBOUND_PORT, "takes redirected outbound connections"),
    (INBOUND_PORT, "takes redirected inbound connections"),
    (ADMIN_PORT, "has its admin page"),
    (METRICS_PORT, "serves /ready and /metrics"),
];
/// Kubelet renews the token after 80 % of this.
const TOKEN_SECONDS: u32 = 3600;
/// Where token and roots are in the sidecar.
const MOUNT_PATH: &str = "/var/run/mesh";

/// The init container `mesh-init`: redirects the pod's traffic, checks that it did, and ends.
pub(crate) fn init(config: &Config, settings: &Settings, with_resources: bool) -> Value {
    let uid = config.proxy.uid;
    let mut env = vec![
        variable("MESH_PROXY_UID", uid),
        variable("MESH_OUTBOUND_PORT", OUTBOUND_PORT),
        variable("MESH_INBOUND_PORT", INBOUND_PORT),
    ];
    for (name, ports) in [
        ("MESH_SKIP_INBOUND_PORTS", &settings.skip_inbound_ports),
        ("MESH_SKIP_OUTBOUND_PORTS", &settings.skip_outbound_ports),
    ] {
        if !ports.is_empty() {
            env.push(variable(name, ports));
        }
    }
    let mut security = security_context(uid);
    security["capabilities"]["add"] = json!(["NET_ADMIN"]);
    let mut container = Map::new();
    container.insert("name".into(), INIT_CONTAINER.into());
    container.insert("image".into(), settings.image.as_str().into());
    container.insert("imagePullPolicy".into(), config.proxy.image_pull_policy.as_str().into());
    container.insert("args".into(), json!(["init"]));
    container.insert("env".into(), env.into());
    if with_resources {
        insert_resources(&mut container, &settings.init_resources);
    }
    container.insert("securityContext".into(), security);
    container.insert("terminationMessagePolicy".into(), "FallbackToLogsOnError".into());
    container.into()
}

/// The sidecar `mesh-proxy`. `pre_stop` is for the older form only: a native sidecar ends after the application anyway.
pub(crate) fn proxy(config: &Config, settings: &Settings, with_resources: bool, pre_stop: Option<u64>) -> Value {
    let mut container = Map::new();
    container.insert("name".into(), PROXY_CONTAINER.into());
    container.insert("image".into(), settings.image.as_str().into());
    container.insert("imagePullPolicy".into(), config.proxy.image_pull_policy.as_str().into());
    if settings.native_sidecar {
        container.insert("restartPolicy".into(), "Always".into());
    }
    container.insert("env".into(), proxy_env(config, settings).into());
    // Names of ports have at most 15 characters.
    let port = json!({"name": "mesh-metrics", "containerPort": METRICS_PORT, "protocol": "TCP"});
    container.insert("ports".into(), json!([port]));
    let probe = json!({
        "httpGet": {"path": "/ready", "port": METRICS_PORT},
        "periodSeconds": 2,
        "timeoutSeconds": 2,
        "failureThreshold": 3,
    });
    container.insert("readinessProbe".into(), probe);
    // Nothing behind it starts before this ends, so that an application's first connection finds a proxy that is ready.
    let mut lifecycle = json!({"postStart": {"exec": {"command": ["/mesh-proxy", "await"]}}});
    if let Some(seconds) = pre_stop {
        lifecycle["preStop"] = json!({"sleep": {"seconds": seconds}});
    }
    container.insert("lifecycle".into(), lifecycle);
    if with_resources {
        insert_resources(&mut container, &settings.resources);
    }
    container.insert("securityContext".into(), security_context(config.proxy.uid));
    container.insert("terminationMessagePolicy".into(), "FallbackToLogsOnError".into());
    let mount = json!({"name": VOLUME, "mountPath": MOUNT_PATH, "readOnly": true});
    container.insert("volumeMounts".into(), json!([mount]));
    container.into()
}

/// The projected volume of token and roots. Its files are 0644: kubelet narrows them to the pod's `fsGroup` where there
/// is one, and every container has that group.
pub(crate) fn volume() -> Value {
    json!({
        "name": VOLUME,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {
                    "name": TRUST_BUNDLE,
                    "items": [{"key": TRUST_BUNDLE_KEY, "path": TRUST_BUNDLE_KEY}],
                }},
            ],
        },
    })
}

fn proxy_env(config: &Config, settings: &Settings) -> Vec<Value> {
    let (namespace, domain) = (&config.control_plane_namespace, &config.cluster_domain);
    let address = |service: &str, port: u16| format!("{service}.{namespace}.svc.{domain}:{port}");
    let identity = |account: &str| format!("spiffe://{}/ns/{namespace}/sa/{account}", config.trust_domain);
    let from_pod = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = vec![
        from_pod("POD_NAME", "metadata.name"),
        from_pod("POD_NAMESPACE", "metadata.namespace"),
        from_pod("MESH_POD_IPS", "status.podIPs"),
        variable("MESH_WORKLOAD", "$(POD_NAMESPACE)/$(POD_NAME)"),
        variable("MESH_IDENTITY_ADDR", address(MESH_IDENTITY, IDENTITY_PORT)),
        variable("MESH_IDENTITY_NAME", identity(MESH_IDENTITY)),
        variable("MESH_DESTINATION_ADDR", address(MESH_DESTINATION, DESTINATION_PORT)),
        variable("MESH_DESTINATION_NAME", identity(MESH_DESTINATION)),
        variable("MESH_TOKEN_FILE", format_args!("{MOUNT_PATH}/token")),
        variable("MESH_TRUST_BUNDLE_FILE", format_args!("{MOUNT_PATH}/{TRUST_BUNDLE_KEY}")),
        variable("MESH_LOG", &settings.log_level),
        variable("MESH_SHUTDOWN_GRACE", format_args!("{}s", settings.shutdown_grace_seconds)),
        variable("MESH_WORKERS", settings.workers),
    ];
    if config.proxy.denial_details {
        env.push(variable("MESH_DENIAL_DETAILS", true));
    }
    if config.proxy.access_log_format == Format::Text {
        env.push(variable("MESH_ACCESS_LOG_FORMAT", "text"));
    }
    env
}

fn variable(name: &str, value: impl std::fmt::Display) -> Value {
    json!({"name": name, "value": value.to_string()})
}

fn insert_resources(container: &mut Map<String, Value>, resources: &Resources) {
    let map = |amounts: &std::collections::BTreeMap<String, crate::quantity::Quantity>| {
        amounts.iter().map(|(name, amount)| (name.clone(), amount.as_str().into())).collect::<Map<_, Value>>()
    };
    let mut rendered = Map::new();
    for (field, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        if !amounts.is_empty() {
            rendered.insert(field.into(), map(amounts).into());
        }
    }
    if !rendered.is_empty() {
        container.insert("resources".into(), rendered.into());
    }
}

fn security_context(uid: u32) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsGroup": uid,
        "runAsNonRoot": true,
        "runAsUser": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}
