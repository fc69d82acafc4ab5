//! The injector's configuration: the key `config.yaml` of the ConfigMap `mesh-injector`, written by the chart.
//!
//! Unknown fields are refused, so that a misspelt one is noticed where it was written. What one pod may change of it
//! is `annotations`' business.

use std::collections::BTreeMap;

use mesh_policy::{
    Identity,
    access_log::Format,
    well_known::{CONTROL_NAMESPACE, MESH_IDENTITY, PROXY_UID},
};
use mesh_resources::yaml;
use serde::{Deserialize, Serialize};

use crate::{VERSION, ports::PortList, quantity::Quantity};

/// Longest `preStop` sleep; longer than this nobody's endpoints take to be known as gone.
pub const MAX_PRE_STOP_SECONDS: u32 = 300;
/// Longest time for open requests after SIGTERM.
pub const MAX_SHUTDOWN_GRACE_SECONDS: u32 = 3600;
/// Most data-plane threads of a sidecar.
pub const MAX_WORKERS: u32 = 64;

/// Everything that pods are given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Trust domain of every identity.
    pub trust_domain: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Namespace of the control plane; its pods are never injected.
    pub control_plane_namespace: String,
    /// The sidecar `mesh-proxy`.
    pub proxy: ProxyConfig,
    /// The init container `mesh-init`.
    pub init: InitConfig,
    /// Seconds of the `preStop: sleep` given to containers that have no hook; 0 is none.
    pub pre_stop_seconds: u32,
    /// Whether the cluster knows `preStop: sleep` (Kubernetes 1.30 and newer do).
    pub pre_stop_sleep: bool,
}

/// What the sidecar is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// Image of `mesh-proxy` and `mesh-init`.
    pub image: String,
    /// Its pull policy: Always, IfNotPresent or Never.
    pub image_pull_policy: String,
    /// Log filter.
    pub log_level: String,
    /// Data-plane threads.
    pub workers: u32,
    /// Requests and limits.
    pub resources: Resources,
    /// User and group id of the sidecar and of `mesh-init`.
    pub uid: u32,
    /// Open requests may end this long after SIGTERM.
    pub shutdown_grace_seconds: u32,
    /// Whether the sidecar is an init container that stays (`restartPolicy: Always`; Kubernetes 1.29 and newer).
    pub native_sidecar: bool,
    /// Whether a caller that policy refuses is told by which policy and rule.
    pub denial_details: bool,
    /// How its access log is written.
    pub access_log_format: Format,
    /// Whether pods that say nothing of it are annotated for Prometheus.
    pub scrape_annotations: bool,
    /// Ports of pods that say nothing themselves which are opaque bytes.
    pub opaque_ports: PortList,
    /// Inbound ports that are not redirected.
    pub skip_inbound_ports: PortList,
    /// Outbound ports that are not redirected.
    pub skip_outbound_ports: PortList,
}

/// What the init container is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InitConfig {
    /// False where something else (a CNI plugin) redirects the pod's traffic.
    pub enabled: bool,
    /// Requests and limits.
    pub resources: Resources,
}

/// Requests and limits of a container, as Kubernetes writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// What the scheduler keeps free for it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may never pass.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not YAML of the right shape.
    #[error("the injector's configuration cannot be read: {0}")]
    Shape(String),
    /// A field has a value that cannot be.
    #[error("the injector's configuration: {field} is {value:?}, but must be {expected}")]
    Value {
        /// Path of the field.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: String,
    },
}

impl Config {
    /// Reads and checks the text of `config.yaml`.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        // Half-written files are empty; defaults are asked for with `{}`.
        if text.trim().is_empty() {
            return Err(ConfigError::Shape("it is empty; write {} for the defaults".into()));
        }
        let value = yaml::value(text).map_err(|error| ConfigError::Shape(error.to_string()))?;
        let config: Self = serde_json::from_value(value).map_err(|error| ConfigError::Shape(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every value. The first wrong one is the error.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |right: bool, field, value: &dyn ToString, expected: &dyn ToString| {
            if right {
                Ok(())
            } else {
                Err(ConfigError::Value { field, value: value.to_string(), expected: expected.to_string() })
            }
        };
        let up_to = |most: u32| format!("a whole number from 0 to {most}");
        let identity = |domain, namespace| Identity::new(domain, namespace, MESH_IDENTITY).is_ok();
        let domain = &self.trust_domain;
        check(identity(domain, CONTROL_NAMESPACE), "trustDomain", domain, &"1 to 255 of a-z 0-9 . _ -")?;
        let domain = &self.cluster_domain;
        check(dns_name(domain), "clusterDomain", domain, &"a DNS name such as cluster.local")?;
        let namespace = &self.control_plane_namespace;
        check(identity("cluster.local", namespace), "controlPlaneNamespace", namespace, &"the name of a namespace")?;

        let proxy = &self.proxy;
        check(image(&proxy.image), "proxy.image", &proxy.image, &"an image reference such as registry/name:tag")?;
        let policy = &proxy.image_pull_policy;
        let known = matches!(&**policy, "Always" | "IfNotPresent" | "Never");
        check(known, "proxy.imagePullPolicy", policy, &"Always, IfNotPresent or Never")?;
        check(log_filter(&proxy.log_level), "proxy.logLevel", &proxy.log_level, &LOG_FILTER)?;
        let workers = proxy.workers;
        check((1..=MAX_WORKERS).contains(&workers), "proxy.workers", &workers, &format!("from 1 to {MAX_WORKERS}"))?;
        // Ids of users are 31 bits in Kubernetes; root would need no redirection to be told from other roots.
        let uid = proxy.uid;
        check((1..=i32::MAX as u32).contains(&uid), "proxy.uid", &uid, &"a user id from 1 to 2147483647")?;
        let (grace, most) = (proxy.shutdown_grace_seconds, MAX_SHUTDOWN_GRACE_SECONDS);
        check(grace <= most, "proxy.shutdownGraceSeconds", &grace, &up_to(most))?;
        let (seconds, most) = (self.pre_stop_seconds, MAX_PRE_STOP_SECONDS);
        check(seconds <= most, "preStopSeconds", &seconds, &up_to(most))?;
        for (field, resources) in [("proxy.resources", &proxy.resources), ("init.resources", &self.init.resources)] {
            if let Some((name, request, limit)) = resources.contradiction() {
                let value = format!("a request of {request} {name}");
                check(false, field, &value, &format!("no request above its limit, {limit}"))?;
            }
        }
        Ok(())
    }
}

impl Resources {
    /// A resource of which more is requested than allowed: its name, the request and the limit.
    pub fn contradiction(&self) -> Option<(&str, &Quantity, &Quantity)> {
        let pairs = self.requests.iter().filter_map(|(name, request)| Some((name, request, self.limits.get(name)?)));
        pairs.into_iter().find(|(_, request, limit)| request.exceeds(limit)).map(|(n, r, l)| (n.as_str(), r, l))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            control_plane_namespace: CONTROL_NAMESPACE.into(),
            proxy: ProxyConfig::default(),
            init: InitConfig::default(),
            pre_stop_seconds: 3,
            pre_stop_sleep: true,
        }
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            image: format!("docker.io/mesh/mesh-proxy:{VERSION}"),
            image_pull_policy: "IfNotPresent".into(),
            log_level: "info".into(),
            workers: 1,
            // No CPU limit: throttling a proxy stops all requests of its pod for the rest of a period.
            resources: resources(&[("cpu", "10m"), ("memory", "20Mi")], &[("memory", "256Mi")]),
            uid: PROXY_UID,
            shutdown_grace_seconds: 30,
            native_sidecar: true,
            denial_details: false,
            scrape_annotations: false,
            access_log_format: Format::Json,
            opaque_ports: PortList::default(),
            skip_inbound_ports: PortList::default(),
            skip_outbound_ports: PortList::default(),
        }
    }
}

impl Default for InitConfig {
    fn default() -> Self {
        Self { enabled: true, resources: resources(&[("cpu", "10m"), ("memory", "10Mi")], &[("memory", "64Mi")]) }
    }
}

fn resources(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Resources {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().filter_map(|(name, text)| Some(((*name).to_owned(), Quantity::parse(text).ok()?))).collect()
    };
    Resources { requests: map(requests), limits: map(limits) }
}

/// What a log filter may look like, for messages.
pub const LOG_FILTER: &str = "off, error, warn, info, debug or trace, or a list such as info,mesh_proxy=debug";
/// Longest log filter.
const MAX_LOG_FILTER: usize = 256;
/// Longest image reference: registries allow 255 for the name, and a digest is 71 more.
const MAX_IMAGE: usize = 512;

/// Whether the proxy can use a text as its log filter.
pub(crate) fn log_filter(text: &str) -> bool {
    let level = |text: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].iter().any(|known| known.eq_ignore_ascii_case(text))
    };
    let target =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    let directive = |text: &str| match text.split_once('=') {
        Some((module, of_it)) => target(module) && level(of_it),
        None => level(text),
    };
    text.len() <= MAX_LOG_FILTER && text.split(',').all(directive)
}

/// Whether a text may be an image reference: the registry has the last word.
pub(crate) fn image(text: &str) -> bool {
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b':' | b'@' | b'[' | b']');
    (1..=MAX_IMAGE).contains(&text.len()) && text.bytes().all(allowed) && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_empty_map_is_the_defaults_and_they_are_valid() {
        assert_eq!(Config::from_yaml("{}").unwrap(), Config::default());
        let written = serde_json::to_string(&Config::default()).unwrap();
        assert_eq!(Config::from_yaml(&written).unwrap(), Config::default());
    }

    #[test]
    fn what_the_chart_writes_is_read() {
        let config = Config::from_yaml(
            "trustDomain: corp.example\nclusterDomain: cluster.local\ncontrolPlaneNamespace: mesh-system\n\
             proxy:\n  image: docker.io/mesh/mesh-proxy:1.2.3\n  imagePullPolicy: IfNotPresent\n  logLevel: info\n  \
             workers: 2\n  resources: {requests: {cpu: 1, memory: 20Mi}, limits: {cpu: 1.5, memory: 256Mi}}\n  \
             uid: 4640\n  shutdownGraceSeconds: 30\n  nativeSidecar: true\n  denialDetails: true\n  scrapeAnnotations: true\n  \
             opaquePorts: [25, '3306-3310']\n  skipInboundPorts: []\n  skipOutboundPorts: []\ninit: {enabled: false, resources: {}}\npreStopSeconds: 0\n",
        )
        .unwrap();
        assert_eq!(config.proxy.resources.requests["cpu"].as_str(), "1");
        assert_eq!(config.proxy.opaque_ports.to_string(), "25,3306-3310");
        assert!(!config.init.enabled && config.pre_stop_sleep);
    }

    #[test]
    fn wrong_values_are_named_with_what_is_right() {
        for (text, expected) in [
            ("trustDomian: x", "trustDomian"),
            ("proxy: {workres: 2}", "workres"),
            ("trustDomain: Corp", "trustDomain is \"Corp\""),
            ("clusterDomain: 'a..b'", "clusterDomain"),
            ("controlPlaneNamespace: ''", "controlPlaneNamespace"),
            ("proxy: {image: ''}", "proxy.image"),
            ("proxy: {image: 'a b'}", "proxy.image"),
            ("proxy: {imagePullPolicy: Sometimes}", "Always, IfNotPresent or Never"),
            ("proxy: {logLevel: loud}", "proxy.logLevel is \"loud\""),
            ("proxy: {workers: 0}", "from 1 to 64"),
            ("proxy: {uid: 0}", "proxy.uid"),
            ("proxy: {opaquePorts: [0]}", "port from 1 to 65535"),
            ("proxy: {resources: {requests: {cpu: lots}}}", "\"lots\" is not a quantity"),
            ("proxy: {resources: {requests: {cpu: 2}, limits: {cpu: 1}}}", "proxy.resources is \"a request of 2 cpu\""),
            ("preStopSeconds: 301", "from 0 to 300"),
            ("- no\n- map", "cannot be read"),
            (" \n", "it is empty"),
        ] {
            let error = Config::from_yaml(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
