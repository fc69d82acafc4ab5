//! The annotations by which many a Prometheus finds pods (`prometheus.io/*`), for pods that say nothing of it themselves.
//!
//! There is room for one port only: a pod that has any of them means its application, and keeps that.

use mesh_policy::well_known::METRICS_PORT;
use serde_json::Value;

use crate::{config::Config, pod::Pod};

/// The annotations: whether, where, and which page.
pub(crate) const SCRAPE_ANNOTATIONS: [&str; 3] = ["prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path"];

/// What a pod is given; nothing if it is not asked for, or if the pod has one of its own.
pub(crate) fn annotations(pod: &Pod<'_>, config: &Config) -> Vec<(String, Value)> {
    let has_own = pod.annotations.is_some_and(|all| SCRAPE_ANNOTATIONS.iter().any(|name| all.contains_key(*name)));
    if !config.proxy.scrape_annotations || has_own {
        return Vec::new();
    }
    let values = ["true".to_owned(), METRICS_PORT.to_string(), "/metrics".to_owned()];
    SCRAPE_ANNOTATIONS.iter().zip(values).map(|(&name, value)| (name.to_owned(), value.into())).collect()
}
