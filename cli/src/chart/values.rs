//! The chart's values: their types, and what each may be.
//!
//! `charts/mesh/values.yaml` has the defaults and says what each value means; `values.schema.json`, by which Helm
//! refuses wrong ones, is generated from the types here, and so is the table in docs/install.md. What values become is
//! the templates' business.

mod merge;
mod words;

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

pub(crate) use self::merge::{defaults, merge, read_yaml, take_away, with_defaults};
use super::ChartError;

/// A DNS name, of the cluster or of a trust domain.
const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The same, or empty.
const OPTIONAL_DNS_NAME: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$";
/// A whole number and a unit.
pub(crate) const DURATION: &str = r"^[1-9][0-9]*[hms]$";
/// A registry with a path, or a reference to an image; the registry has the last word.
const IMAGE: &str = r"^[A-Za-z0-9][-A-Za-z0-9._:/@\[\]]*$";
/// The same, or empty.
const OPTIONAL_IMAGE: &str = r"^([A-Za-z0-9][-A-Za-z0-9._:/@\[\]]*)?$";
/// A tag of an image, or empty.
const OPTIONAL_TAG: &str = r"^([A-Za-z0-9_][-A-Za-z0-9._]{0,127})?$";
/// Levels, also of modules.
const LOG_FILTER: &str = r"^[A-Za-z0-9_:]+(=[a-z]+)?(,[A-Za-z0-9_:]+(=[a-z]+)?)*$";
/// A port or a range of ports.
const PORTS: &str = r"^[0-9]{1,5}(-[0-9]{1,5})?$";
/// An amount of CPU or memory.
const QUANTITY: &str = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$";
/// Labels that the chart gives its pods.
const OWN_LABELS: [&str; 4] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
];
/// The annotation that the chart gives its pods.
const OWN_ANNOTATION: &str = "kubectl.kubernetes.io/default-container";
/// Most replicas of a part: far more than any cluster needs.
const MAX_REPLICAS: u32 = 100;

macro_rules! values {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub(crate) struct $name { $($(#[$attribute])* pub $field: $type,)* }
    )*};
}

values! {
    /// Every value. What each means stands in values.yaml.
    Values {
        #[cfg_attr(test, schemars(regex(pattern = DNS_NAME)))]
        trust_domain: String,
        #[cfg_attr(test, schemars(regex(pattern = DNS_NAME)))]
        cluster_domain: String,
        cluster_networks: Vec<String>,
        ha: bool,
        #[cfg_attr(test, schemars(regex(pattern = LOG_FILTER)))]
        log_level: String,
        namespace: Namespace,
        image: Image,
        image_pull_secrets: Vec<String>,
        identity: Identity,
        destination: Component,
        injector: Component,
        webhook: Webhook,
        admission_policies: AdmissionPolicies,
        proxy: Proxy,
        init: Init,
        #[cfg_attr(test, schemars(range(max = 300)))]
        pre_stop_seconds: u32,
        pre_stop_sleep: bool,
        network_policy: NetworkPolicy,
        monitoring: Monitoring,
        pod_labels: BTreeMap<String, String>,
        pod_annotations: BTreeMap<String, String>,
        node_selector: BTreeMap<String, String>,
        tolerations: Vec<Map<String, Value>>,
        priority_class_name: String,
    }
    /// The namespace mesh-system.
    Namespace { create: bool, }
    /// Our images.
    Image {
        #[cfg_attr(test, schemars(regex(pattern = IMAGE)))]
        registry: String,
        #[cfg_attr(test, schemars(regex(pattern = OPTIONAL_TAG)))]
        tag: String,
        pull_policy: PullPolicy,
    }
    /// mesh-identity, and who signs.
    Identity {
        external: bool,
        trust_anchors: String,
        #[cfg_attr(test, schemars(regex(pattern = OPTIONAL_DNS_NAME)))]
        trust_anchors_config_map: String,
        issuer: Issuer,
        #[cfg_attr(test, schemars(regex(pattern = DURATION)))]
        leaf_lifetime: String,
        #[cfg_attr(test, schemars(range(max = MAX_REPLICAS)))]
        replicas: u32,
        resources: Resources,
    }
    /// What signs the certificates of workloads.
    Issuer { crt: String, key: String, }
    /// One of the other parts.
    Component {
        #[cfg_attr(test, schemars(range(max = MAX_REPLICAS)))]
        replicas: u32,
        resources: Resources,
    }
    /// The webhook.
    Webhook { failure_policy: FailurePolicy, }
    /// What holds the control plane's accounts to what they must do.
    AdmissionPolicies { enabled: bool, }
    /// What sidecars are.
    Proxy {
        #[cfg_attr(test, schemars(regex(pattern = OPTIONAL_IMAGE)))]
        image: String,
        #[cfg_attr(test, schemars(regex(pattern = LOG_FILTER)))]
        log_level: String,
        #[cfg_attr(test, schemars(range(min = 1, max = 64)))]
        workers: u32,
        #[cfg_attr(test, schemars(range(min = 1, max = 2_147_483_647_u32)))]
        uid: u32,
        #[cfg_attr(test, schemars(range(max = 3600)))]
        shutdown_grace_seconds: u32,
        native_sidecar: bool,
        denial_details: bool,
        access_log_format: AccessLogFormat,
        opaque_ports: Vec<Ports>,
        skip_inbound_ports: Vec<Ports>,
        skip_outbound_ports: Vec<Ports>,
        resources: Resources,
    }
    /// What the init container is.
    Init { enabled: bool, resources: Resources, }
    /// NetworkPolicies of mesh-system.
    NetworkPolicy { enabled: bool, }
    /// What Prometheus finds pods by.
    Monitoring { pod_monitor: bool, scrape_annotations: bool, }
    /// Requests and limits, as Kubernetes writes them.
    Resources {
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        requests: BTreeMap<String, Quantity>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        limits: BTreeMap<String, Quantity>,
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs)] // Kubernetes' own words
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// How sidecars write the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub(crate) enum AccessLogFormat {
    Json,
    Text,
}

/// What becomes of a pod when no injector answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs)] // Kubernetes' own words
pub(crate) enum FailurePolicy {
    Fail,
    Ignore,
}

/// A port or a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(crate) enum Ports {
    /// 3306
    One(#[cfg_attr(test, schemars(range(min = 1)))] u16),
    /// "3306-3310"
    Range(#[cfg_attr(test, schemars(regex(pattern = PORTS)))] String),
}

/// An amount, as a number or with a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(crate) enum Quantity {
    /// 1, 0.5
    Number(#[cfg_attr(test, schemars(with = "f64", range(min = 0)))] Number),
    /// "100m", "64Mi"
    Text(#[cfg_attr(test, schemars(regex(pattern = QUANTITY)))] String),
}

impl Values {
    /// Reads the values in force. The error names the value, as in `proxy.workers`.
    pub(crate) fn read(values: &Value) -> Result<Self, ChartError> {
        let wrong = |why: String| ChartError::Values { name: "the values".to_owned(), why };
        let read: Self = serde_json::from_value(values.clone()).map_err(|error| {
            // The types say what is unknown or wrong in their own words, and not where: the place is searched for.
            let defaults = defaults().unwrap_or_default();
            wrong(match place(values) {
                Some(place) => words::at(&place, values, &defaults, &error.to_string()),
                None => words::missing(values, &defaults),
            })
        })?;
        read.check().map_err(wrong)?;
        Ok(read)
    }

    /// Names that the chart gives its pods, and so nobody else can.
    fn check_own_names(&self) -> Result<(), String> {
        let told =
            |list: &str, name: &str| Err(format!("{list} has {name}, which the chart sets itself; use another name"));
        match OWN_LABELS.iter().find(|name| self.pod_labels.contains_key(**name)) {
            Some(name) => told("podLabels", name),
            None if self.pod_annotations.contains_key(OWN_ANNOTATION) => told("podAnnotations", OWN_ANNOTATION),
            None => Ok(()),
        }
    }

    /// What the types do not say: patterns and ranges. The schema has the same.
    fn check(&self) -> Result<(), String> {
        let proxy = &self.proxy;
        let matching = [
            ("trustDomain", &self.trust_domain, &*DNS_NAME_RE, "a name such as cluster.local"),
            ("clusterDomain", &self.cluster_domain, &*DNS_NAME_RE, "a name such as cluster.local"),
            ("logLevel", &self.log_level, &*LOG_FILTER_RE, "info, or a list such as info,mesh_controller=debug"),
            ("proxy.logLevel", &proxy.log_level, &*LOG_FILTER_RE, "info, or a list such as info,mesh_proxy=debug"),
            ("image.registry", &self.image.registry, &*IMAGE_RE, "a registry such as docker.io/mesh"),
            ("image.tag", &self.image.tag, &*TAG_RE, "a tag such as 1.2.3, or empty"),
            (
                "proxy.image",
                &proxy.image,
                &*OPTIONAL_IMAGE_RE,
                "an image such as docker.io/mesh/mesh-proxy:1.2.3, or empty",
            ),
            (
                "identity.trustAnchorsConfigMap",
                &self.identity.trust_anchors_config_map,
                &*OPTIONAL_DNS_NAME_RE,
                "the name of a ConfigMap, or empty",
            ),
            ("identity.leafLifetime", &self.identity.leaf_lifetime, &*DURATION_RE, "a time such as 24h or 30m"),
        ];
        for (name, value, pattern, expected) in matching {
            if !pattern.is_match(value) {
                return Err(format!("{name} is {value:?}, but must be {expected}"));
            }
        }
        let within = [
            ("identity.replicas", self.identity.replicas, 0, MAX_REPLICAS),
            ("destination.replicas", self.destination.replicas, 0, MAX_REPLICAS),
            ("injector.replicas", self.injector.replicas, 0, MAX_REPLICAS),
            ("proxy.workers", proxy.workers, 1, 64),
            ("proxy.uid", proxy.uid, 1, 2_147_483_647),
            ("proxy.shutdownGraceSeconds", proxy.shutdown_grace_seconds, 0, 3600),
            ("preStopSeconds", self.pre_stop_seconds, 0, 300),
        ];
        for (name, value, least, most) in within {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} is {value}, but must be from {least} to {most}"));
            }
        }
        self.check_own_names()?;
        for network in &self.cluster_networks {
            if network.parse::<mesh_resources::IpNet>().is_err() {
                return Err(format!("clusterNetworks has {network:?}, but must have networks such as 10.96.0.0/12"));
            }
        }
        for (name, ports) in [
            ("proxy.opaquePorts", &proxy.opaque_ports),
            ("proxy.skipInboundPorts", &proxy.skip_inbound_ports),
            ("proxy.skipOutboundPorts", &proxy.skip_outbound_ports),
        ] {
            for port in ports {
                port.check().map_err(|why| format!("{name}: {why}"))?;
            }
        }
        for (name, resources) in [
            ("identity.resources", &self.identity.resources),
            ("destination.resources", &self.destination.resources),
            ("injector.resources", &self.injector.resources),
            ("proxy.resources", &proxy.resources),
            ("init.resources", &self.init.resources),
        ] {
            for (of, quantity) in resources.requests.iter().chain(&resources.limits) {
                quantity.check().map_err(|why| format!("{name}: {of} is {why}"))?;
            }
        }
        Ok(())
    }
}

impl Ports {
    fn check(&self) -> Result<(), String> {
        match self {
            Self::One(port) if *port > 0 => Ok(()),
            Self::Range(text) if PORTS_RE.is_match(text) => Ok(()),
            Self::One(port) => Err(format!("{port} is no port; write one from 1 to 65535")),
            Self::Range(text) => Err(format!("{text:?} is no port and no range such as 3306-3310")),
        }
    }
}

impl Quantity {
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Text(text) if !QUANTITY_RE.is_match(text) => {
                Err(format!("{text:?}, but must be a quantity such as 100m or 64Mi"))
            }
            Self::Number(number) if number.as_f64().is_none_or(|number| number < 0.0) => {
                Err(format!("{number}, but must not be negative"))
            }
            _ => Ok(()),
        }
    }
}

macro_rules! patterns {
    ($($name:ident = $pattern:expr;)*) => {$(
        #[allow(clippy::expect_used)] // a constant; a test reads it
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("a valid pattern"));
    )*};
}

patterns! {
    DNS_NAME_RE = DNS_NAME;
    OPTIONAL_DNS_NAME_RE = OPTIONAL_DNS_NAME;
    LOG_FILTER_RE = LOG_FILTER;
    IMAGE_RE = IMAGE;
    OPTIONAL_IMAGE_RE = OPTIONAL_IMAGE;
    TAG_RE = OPTIONAL_TAG;
    DURATION_RE = DURATION;
    PORTS_RE = PORTS;
    QUANTITY_RE = QUANTITY;
}

/// The first value that is not of its type: each is laid alone on the defaults, which are right.
fn place(values: &Value) -> Option<String> {
    let defaults = defaults().ok()?;
    let right = |path: &[&str], value: &Value| {
        let over = path.iter().rev().fold(value.clone(), |inner, name| serde_json::json!({ *name: inner }));
        let mut all = defaults.clone();
        merge(&mut all, over);
        serde_json::from_value::<Values>(all).is_ok()
    };
    let mut path: Vec<&str> = Vec::new();
    let mut value = values;
    loop {
        let next = value.as_object()?.iter().find(|(name, item)| {
            let path: Vec<_> = path.iter().copied().chain([name.as_str()]).collect();
            !right(&path, item)
        });
        let Some((name, item)) = next else { return (!path.is_empty()).then(|| path.join(".")) };
        path.push(name);
        value = item;
        if !value.is_object() {
            return Some(path.join("."));
        }
    }
}

#[cfg(test)]
mod tests;
