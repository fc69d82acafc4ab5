//! The decision and the patch: a pod and the configuration in; what is added, why it is left alone or refused, out.
//!
//! Pure, and over dynamic JSON. Patches only add (or replace our own record), so whatever other webhooks did before
//! stays, and what they do afterwards is looked at again without doing anything twice.

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use mesh_policy::well_known::{
    CHANGES_ANNOTATION, INIT_CONTAINER, INJECTED_ANNOTATION, OPAQUE_PORTS_ANNOTATION, PROXY_CONTAINER,
    SKIP_INBOUND_PORTS_ANNOTATION, VERSION_LABEL,
};
use serde_json::{Map, Value};

use crate::{
    VERSION,
    annotations::Settings,
    config::Config,
    containers,
    pod::{Pod, VOLUME, name_of},
    pre_stop::{self, Hook},
    probes::{self, Rewritten},
    refusal::Refusal,
    scrape,
    secret::Secrets,
    skip::{self, Skip},
};

/// In [`CHANGES_ANNOTATION`]: the annotation that tells kubectl which container is meant when none is named.
pub(crate) const DEFAULT_CONTAINER_CHANGE: &str = "default-container";
/// In [`CHANGES_ANNOTATION`]: the annotation with the opaque ports of the configuration.
pub(crate) const OPAQUE_PORTS_CHANGE: &str = "opaque-ports";
/// In [`CHANGES_ANNOTATION`]: the annotation with the ports of the configuration that are not redirected.
pub(crate) const SKIP_INBOUND_CHANGE: &str = "skip-inbound-ports";
/// In [`CHANGES_ANNOTATION`]: the annotations for Prometheus.
pub(crate) const SCRAPE_CHANGE: &str = "scrape";
/// In [`CHANGES_ANNOTATION`], before the name of a container: its `preStop` hook.
pub(crate) const PRE_STOP_CHANGE: &str = "pre-stop/";
pub(crate) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// What is known of the pod's namespace. Its labels are not: the webhook's selectors have read them, so that the
/// injector needs no permission to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: String,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is changed.
    Injected {
        /// The pod with the sidecar.
        pod: Value,
        /// What makes it of the pod that was given.
        patch: Patch,
    },
    /// It stays as it is.
    Skipped {
        /// Why.
        reason: Skip,
    },
}

/// Adds the sidecar to a pod (or to a template of pods), leaves it alone, or refuses it with the reason.
///
/// `secrets` is asked for one secret at most, if the pod has probes that are rewritten.
pub fn inject(
    pod: &Value,
    namespace: &NamespaceFacts,
    config: &Config,
    secrets: Secrets<'_>,
) -> Result<Outcome, Refusal> {
    let read = Pod::read(pod)?;
    let ours = read.annotation(INJECTED_ANNOTATION).filter(|_| read.has_container(PROXY_CONTAINER));
    if let Some(reason) = skip::reason(&read, &namespace.name, config)? {
        return match reason {
            // Whoever came second must not go unnoticed.
            Skip::OtherMesh { mesh, evidence } if ours.is_some() => Err(Refusal::TwoMeshes { mesh, evidence }),
            reason => Ok(Outcome::Skipped { reason }),
        };
    }
    let settings = Settings::resolve(config, read.annotations)?;
    let patch = match ours {
        Some(VERSION) => again(&read, config, &settings, secrets)?,
        Some(other) => return Ok(Outcome::Skipped { reason: Skip::OtherVersion(other.to_owned()) }),
        None => {
            conflicts(&read, config, &settings)?;
            fresh(&read, config, &settings, secrets)?
        }
    };
    if patch.is_empty() {
        return Ok(Outcome::Skipped { reason: Skip::AlreadyInjected });
    }
    let mut injected = pod.clone();
    json_patch::patch(&mut injected, &patch).map_err(|_| Refusal::malformed("the pod", "cannot be changed"))?;
    Ok(Outcome::Injected { pod: injected, patch })
}

/// What the sidecar and this pod cannot both have.
fn conflicts(pod: &Pod<'_>, config: &Config, settings: &Settings) -> Result<(), Refusal> {
    let uid = config.proxy.uid;
    let is_uid = |value: Option<&Value>| value.and_then(Value::as_u64) == Some(u64::from(uid));
    let of_pod = is_uid(pod.spec.get("securityContext").and_then(|security| security.get("runAsUser")));
    for (field, container) in pod.all_containers() {
        let name = name_of(container);
        if name == PROXY_CONTAINER || name == INIT_CONTAINER {
            return Err(Refusal::NameTaken { field, name: name.to_owned() });
        }
        match container.pointer("/securityContext/runAsUser").filter(|user| !user.is_null()) {
            Some(user) if is_uid(Some(user)) => {
                return Err(Refusal::UidTaken { field: format!("{field}.securityContext.runAsUser"), uid });
            }
            None if of_pod => return Err(Refusal::UidTaken { field: "spec.securityContext.runAsUser".into(), uid }),
            _ => {}
        }
        for (i, port) in container.get("ports").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let taken =
                containers::PORTS.iter().find(|(ours, _)| port.get("containerPort") == Some(&Value::from(*ours)));
            let tcp = port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP");
            if let Some(&(port, purpose)) = taken.filter(|_| tcp) {
                return Err(Refusal::PortTaken { field: format!("{field}.ports[{i}].containerPort"), port, purpose });
            }
        }
    }
    if let Some(i) = pod.volumes.unwrap_or_default().iter().position(|volume| name_of(volume) == VOLUME) {
        return Err(Refusal::VolumeTaken { field: format!("spec.volumes[{i}]") });
    }
    if !settings.native_sidecar && pod.ends_by_itself() {
        let policy = pod.spec.get("restartPolicy").and_then(Value::as_str).unwrap_or_default();
        return Err(Refusal::NeverEnds { restart_policy: policy.to_owned() });
    }
    Ok(())
}

/// Everything, for a pod that has nothing of ours.
fn fresh(pod: &Pod<'_>, config: &Config, settings: &Settings, secrets: Secrets<'_>) -> Result<Patch, Refusal> {
    let hooks = pre_stop::hooks(pod, config, settings);
    let mut changes: Vec<String> = hooks.iter().map(|hook| format!("{PRE_STOP_CHANGE}{}", hook.name)).collect();
    let mut annotations = Map::from_iter([(INJECTED_ANNOTATION.to_owned(), VERSION.into())]);

    // In the older form the sidecar is the first container, but nobody who runs `kubectl logs` means it.
    if !settings.native_sidecar && pod.annotation(DEFAULT_CONTAINER).is_none() {
        let first = pod.containers.first().map(name_of).unwrap_or_default();
        annotations.insert(DEFAULT_CONTAINER.to_owned(), first.into());
        changes.push(DEFAULT_CONTAINER_CHANGE.to_owned());
    }
    // Discovery reads these from the pod; it does not know our configuration.
    for (change, annotation, ports) in [
        (OPAQUE_PORTS_CHANGE, OPAQUE_PORTS_ANNOTATION, &config.proxy.opaque_ports),
        (SKIP_INBOUND_CHANGE, SKIP_INBOUND_PORTS_ANNOTATION, &config.proxy.skip_inbound_ports),
    ] {
        if !ports.is_empty() && pod.annotations.is_none_or(|all| !all.contains_key(annotation)) {
            annotations.insert(annotation.to_owned(), ports.to_string().into());
            changes.push(change.to_owned());
        }
    }
    let scraped = scrape::annotations(pod, config);
    if !scraped.is_empty() {
        annotations.extend(scraped);
        changes.push(SCRAPE_CHANGE.to_owned());
    }
    if !changes.is_empty() {
        annotations.insert(CHANGES_ANNOTATION.to_owned(), changes.join(",").into());
    }

    let mut patch = Builder::default();
    if pod.metadata.is_none() {
        patch.add(&["metadata"], Value::Object(Map::new()));
    }
    let labels = Map::from_iter([(VERSION_LABEL.to_owned(), VERSION.into())]);
    patch.entries(&["metadata", "labels"], pod.labels.is_some(), labels);
    patch.entries(&["metadata", "annotations"], pod.annotations.is_some(), annotations);
    patch.last(&["spec", "volumes"], pod.volumes.is_some(), containers::volume());
    patch.hooks(&hooks, settings);
    let rewritten = probes::rewrite(pod, settings, secrets)?;
    let variable = rewritten.map(|rewritten| patch.probes(rewritten));

    // Where the pod bounds its resources as a whole, amounts of our own could pass that bound.
    let own_resources = pod.spec.get("resources").is_none_or(Value::is_null);
    let mut proxy = containers::proxy(config, settings, own_resources, pre_stop::of_proxy(pod, config, settings));
    if let (Some(variable), Some(env)) = (variable, proxy.get_mut("env").and_then(Value::as_array_mut)) {
        env.push(variable);
    }
    let init = config.init.enabled.then(|| containers::init(config, settings, own_resources));
    if settings.native_sidecar {
        // Ours come first, so that what other init containers say goes through the mesh as well.
        patch.first(
            &["spec", "initContainers"],
            pod.init_containers.is_some(),
            init.into_iter().chain([proxy]).collect(),
        );
    } else {
        // The proxy starts after all init containers: whatever they say must not be redirected to it.
        patch.add(&["spec", "containers", "0"], proxy);
        if let Some(init) = init {
            patch.last(&["spec", "initContainers"], pod.init_containers.is_some(), init);
        }
    }
    Ok(patch.finish())
}

/// What is left to do for a pod that is injected: containers that other webhooks added since get their hook, and have
/// their probes rewritten.
fn again(pod: &Pod<'_>, config: &Config, settings: &Settings, secrets: Secrets<'_>) -> Result<Patch, Refusal> {
    let hooks = pre_stop::hooks(pod, config, settings);
    let mut patch = Builder::default();
    if !hooks.is_empty() {
        let before = pod.annotation(CHANGES_ANNOTATION).filter(|changes| !changes.is_empty()).map(str::to_owned);
        let new = hooks.iter().map(|hook| format!("{PRE_STOP_CHANGE}{}", hook.name));
        let changes = before.into_iter().chain(new).collect::<Vec<_>>().join(",");
        // `add` replaces a member that is there (RFC 6902, 4.1).
        patch.add(&["metadata", "annotations", CHANGES_ANNOTATION], changes.into());
        patch.hooks(&hooks, settings);
    }
    let lists = [("initContainers", pod.init_containers.unwrap_or_default()), ("containers", pod.containers)];
    let ours = lists.into_iter().find_map(|(list, containers)| {
        let at = containers.iter().position(|container| name_of(container) == PROXY_CONTAINER)?;
        Some((list, at.to_string(), &containers[at]))
    });
    if let (Some((list, at, proxy)), Some(rewritten)) = (ours, probes::rewrite(pod, settings, secrets)?) {
        let variable = patch.probes(rewritten);
        let env = ["spec", list, &at, "env"];
        match probes::place_of_variable(proxy) {
            Some(n) => {
                let value = variable.get("value").cloned().unwrap_or_default();
                patch.add(&[&env[..], &[&n.to_string(), "value"]].concat(), value);
            }
            None => patch.last(&env, proxy.get("env").is_some_and(Value::is_array), variable),
        }
    }
    Ok(patch.finish())
}

/// Operations in order, all of them `add`.
#[derive(Default)]
struct Builder(Vec<PatchOperation>);

impl Builder {
    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.0.push(PatchOperation::Add(AddOperation { path, value }));
    }

    /// Adds members to a map that is there, or the map.
    fn entries(&mut self, path: &[&str], there: bool, entries: Map<String, Value>) {
        if !there {
            return self.add(path, entries.into());
        }
        for (key, value) in entries {
            self.add(&[path, &[&key]].concat(), value);
        }
    }

    /// Adds elements before those of a list that is there, or the list.
    fn first(&mut self, path: &[&str], there: bool, elements: Vec<Value>) {
        if !there {
            return self.add(path, elements.into());
        }
        for (i, element) in elements.into_iter().enumerate() {
            self.add(&[path, &[&i.to_string()]].concat(), element);
        }
    }

    /// Adds an element at the end of a list that is there, or the list.
    fn last(&mut self, path: &[&str], there: bool, element: Value) {
        if there { self.add(&[path, &["-"]].concat(), element) } else { self.add(path, vec![element].into()) }
    }

    fn hooks(&mut self, hooks: &[Hook], settings: &Settings) {
        for hook in hooks {
            let container = ["spec", "containers", &hook.index.to_string(), "lifecycle"].map(str::to_owned);
            let container: Vec<&str> = container.iter().map(String::as_str).collect();
            let sleep = pre_stop::sleep(settings.pre_stop_seconds.into());
            let entries = Map::from_iter([("preStop".to_owned(), sleep)]);
            self.entries(&container, hook.lifecycle, entries);
        }
    }

    /// Rewrites probes of a pod whose containers stand where they stood, and gives the sidecar's variable.
    fn probes(&mut self, rewritten: Rewritten) -> Value {
        for (place, probe) in rewritten.probes {
            self.add(&place.iter().map(String::as_str).collect::<Vec<_>>(), probe);
        }
        rewritten.variable
    }

    fn finish(self) -> Patch {
        Patch(self.0)
    }
}
