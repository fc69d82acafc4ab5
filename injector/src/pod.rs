//! The parts of a pod that injection looks at, read once from dynamic JSON.
//!
//! An absent field and an explicit null mean the same, as to an API server. What has another type than Kubernetes
//! gives it is refused here, so that nothing behind this has to think of it.

use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// Name of the volume with token and trust bundle.
pub(crate) const VOLUME: &str = "mesh-identity";

/// A pod, or the template of pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pod<'a> {
    pub(crate) metadata: Option<&'a Map<String, Value>>,
    pub(crate) labels: Option<&'a Map<String, Value>>,
    pub(crate) annotations: Option<&'a Map<String, Value>>,
    pub(crate) spec: &'a Map<String, Value>,
    pub(crate) containers: &'a [Value],
    pub(crate) init_containers: Option<&'a [Value]>,
    pub(crate) volumes: Option<&'a [Value]>,
}

impl<'a> Pod<'a> {
    /// Reads a pod. Errors name the first field that has a type it cannot have.
    pub(crate) fn read(pod: &'a Value) -> Result<Self, Refusal> {
        let pod = pod.as_object().ok_or_else(|| Refusal::malformed("the pod", "is no object"))?;
        let metadata = map(pod, "metadata", "metadata")?;
        let of_metadata = |field, path| metadata.map_or(Ok(None), |metadata| map(metadata, field, path));
        let spec = map(pod, "spec", "spec")?.ok_or_else(|| Refusal::malformed("spec", "is missing"))?;
        let containers = items(spec, "containers", true)?.filter(|containers| !containers.is_empty());
        Ok(Self {
            metadata,
            labels: of_metadata("labels", "metadata.labels")?,
            annotations: of_metadata("annotations", "metadata.annotations")?,
            spec,
            containers: containers.ok_or_else(|| Refusal::malformed("spec.containers", "has no container"))?,
            init_containers: items(spec, "initContainers", true)?,
            volumes: items(spec, "volumes", false)?,
        })
    }

    /// The text of an annotation.
    pub(crate) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations?.get(key)?.as_str()
    }

    /// All containers with the path of each, init containers first.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
        let numbered = |field: &'static str, list: &'a [Value]| {
            list.iter().enumerate().map(move |(i, container)| (format!("spec.{field}[{i}]"), container))
        };
        numbered("initContainers", self.init_containers.unwrap_or_default())
            .chain(numbered("containers", self.containers))
    }

    /// Whether there is a container, ordinary or init, of a name.
    pub(crate) fn has_container(&self, name: &str) -> bool {
        self.init_containers
            .unwrap_or_default()
            .iter()
            .chain(self.containers)
            .any(|container| name_of(container) == name)
    }

    /// Whether its containers end some day, as those of Jobs do.
    pub(crate) fn ends_by_itself(&self) -> bool {
        matches!(self.spec.get("restartPolicy").and_then(Value::as_str), Some("Never" | "OnFailure"))
    }

    /// Seconds between SIGTERM (or `preStop`) and SIGKILL.
    pub(crate) fn grace_seconds(&self) -> u64 {
        /// What Kubernetes gives pods that say nothing.
        const DEFAULT: u64 = 30;
        match self.spec.get("terminationGracePeriodSeconds") {
            None | Some(Value::Null) => DEFAULT,
            // A negative one is 1 second to kubelet; whatever else it is, the API server refuses.
            Some(seconds) => seconds.as_u64().unwrap_or(1),
        }
    }
}

/// The name of a container, volume or port; empty where there is none.
pub(crate) fn name_of(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// A field that is an object, or absent.
fn map<'a>(of: &'a Map<String, Value>, field: &str, path: &str) -> Result<Option<&'a Map<String, Value>>, Refusal> {
    match of.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(Refusal::malformed(path, "is no object")),
    }
}

/// A field of the spec that is a list of objects, or absent.
fn items<'a>(spec: &'a Map<String, Value>, field: &str, named: bool) -> Result<Option<&'a [Value]>, Refusal> {
    let list = match spec.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Refusal::malformed(format!("spec.{field}"), "is no list")),
    };
    for (i, item) in list.iter().enumerate() {
        if !item.is_object() {
            return Err(Refusal::malformed(format!("spec.{field}[{i}]"), "is no object"));
        }
        if named && name_of(item).is_empty() {
            return Err(Refusal::malformed(format!("spec.{field}[{i}]"), "has no name"));
        }
    }
    Ok(Some(list))
}
