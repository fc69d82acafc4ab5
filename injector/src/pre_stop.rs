//! The `preStop: sleep` that containers get where they have no hook of their own.
//!
//! A pod that is deleted is told to end while others still believe that it serves. The sleep keeps its application
//! serving until the endpoints are known to be gone; it is kubelet's, so no image needs a `sleep` in it.

use mesh_policy::well_known::PROXY_CONTAINER;
use serde_json::{Value, json};

use crate::{
    annotations::Settings,
    config::Config,
    pod::{Pod, name_of},
};

/// A container that gets the hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Its place in `spec.containers`.
    pub(crate) index: usize,
    /// Its name.
    pub(crate) name: String,
    /// Whether it has a `lifecycle` already, without `preStop`.
    pub(crate) lifecycle: bool,
}

/// The containers that get a hook: those of pods that run until they are stopped, if the pod's grace period leaves the
/// application time after the sleep.
pub(crate) fn hooks(pod: &Pod<'_>, config: &Config, settings: &Settings) -> Vec<Hook> {
    let seconds = u64::from(settings.pre_stop_seconds);
    if seconds == 0 || !config.pre_stop_sleep || pod.ends_by_itself() || pod.grace_seconds() <= seconds {
        return Vec::new();
    }
    let hook = |(index, container): (usize, &Value)| {
        let name = name_of(container).to_owned();
        match container.get("lifecycle") {
            _ if name == PROXY_CONTAINER => None,
            None | Some(Value::Null) => Some(Hook { index, name, lifecycle: false }),
            Some(Value::Object(lifecycle)) => {
                let free = lifecycle.get("preStop").is_none_or(Value::is_null);
                free.then_some(Hook { index, name, lifecycle: true })
            }
            // Nothing that Kubernetes takes; it will say so.
            Some(_) => None,
        }
    };
    pod.containers.iter().enumerate().filter_map(hook).collect()
}

/// The hook itself.
pub(crate) fn sleep(seconds: u64) -> Value {
    json!({"sleep": {"seconds": seconds}})
}

/// How long a sidecar that is an ordinary container waits before it ends, which all containers are told at once: a
/// second longer than the longest sleep of an application, as far as the grace period lets it.
pub(crate) fn of_proxy(pod: &Pod<'_>, config: &Config, settings: &Settings) -> Option<u64> {
    if !config.pre_stop_sleep || settings.native_sidecar {
        return None;
    }
    let given = (!hooks(pod, config, settings).is_empty()).then_some(u64::from(settings.pre_stop_seconds));
    let own =
        pod.containers.iter().filter_map(|container| container.pointer("/lifecycle/preStop/sleep/seconds")?.as_u64());
    let longest = own.chain(given).max()?;
    Some((longest + 1).min(pod.grace_seconds().saturating_sub(1))).filter(|seconds| *seconds > 0)
}
