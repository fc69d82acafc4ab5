//! Probes and hooks that kubelet sends to the sidecar, which asks the application in its place.
//!
//! Kubelet's requests come from the node's address, and so do those of others: nothing that the sidecar sees on a
//! redirected connection tells them apart, and a policy that lets kubelet in lets the node in. So kubelet is sent to
//! the sidecar's own port, which is never redirected, on a path with the pod's [`Secret`]. Originals are in the sidecar's
//! variable `MESH_PROBES`: the sidecar does what they say, and `uninject` puts them back.
//!
//! What would not be asked of the application through the sidecar stays: commands, other hosts, ports that are not
//! redirected. What starts before the sidecar stays too, for nobody would answer.

use mesh_policy::well_known::{METRICS_PORT, PROBE_PATH, PROXY_CONTAINER};
use serde_json::{Map, Value, json};

use crate::{
    annotations::Settings,
    containers,
    pod::{Pod, name_of},
    ports::PortList,
    refusal::Refusal,
    secret::{Secret, Secrets},
};

/// Probes of one pod that are rewritten; more stay as they are. Kubelet asks each every few seconds.
const MAX_PROBES: usize = 64;
/// Bytes of [`VARIABLE`]; probes that find no room stay as they are. Linux takes 128 KiB in one variable.
const MAX_BYTES: usize = 64 * 1024;
/// The sidecar's variable with the originals.
const VARIABLE: &str = "MESH_PROBES";
/// Seconds that kubelet waits for an answer where the probe says nothing.
const TIMEOUT_SECONDS: u64 = 1;

/// What a probe or a hook may do; exactly one of them.
const HANDLERS: [&str; 5] = ["exec", "grpc", "httpGet", "sleep", "tcpSocket"];
/// Where probes and hooks are in a container, and which handlers of each are rewritten. (Kubelet ignores `tcpSocket` in hooks.)
const PLACES: [(&[&str], &[&str]); 5] = [
    (&["startupProbe"], &["httpGet", "tcpSocket", "grpc"]),
    (&["livenessProbe"], &["httpGet", "tcpSocket", "grpc"]),
    (&["readinessProbe"], &["httpGet", "tcpSocket", "grpc"]),
    (&["lifecycle", "postStart"], &["httpGet"]),
    (&["lifecycle", PRE_STOP], &["httpGet"]),
];
const PRE_STOP: &str = "preStop";

/// What is to be changed in a pod.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// Probes and hooks by their place in the pod as it is.
    pub(crate) probes: Vec<(Vec<String>, Value)>,
    /// [`VARIABLE`] of the sidecar.
    pub(crate) variable: Value,
}

/// All originals of a pod, as the sidecar is told them.
#[derive(Debug)]
struct Originals {
    secret: Secret,
    probes: Vec<Value>,
}

/// Rewrites what is not yet; `None` if there is nothing, or the pod says that it wants none.
pub(crate) fn rewrite(pod: &Pod<'_>, settings: &Settings, secrets: Secrets<'_>) -> Result<Option<Rewritten>, Refusal> {
    if !settings.rewrite_probes {
        return Ok(None);
    }
    // What others wrote into our variable is not added to.
    let before = match sidecar(pod).and_then(variable) {
        Some(text) => match Originals::read(text) {
            Some(before) => Some(before),
            None => return Ok(None),
        },
        None => None,
    };
    let found = found(pod, settings);
    if found.is_empty() {
        return Ok(None);
    }
    let mut originals = match before {
        Some(before) => before,
        None => Originals { secret: secrets()?, probes: Vec::new() },
    };
    let mut probes = Vec::new();
    let mut bytes = originals.text().len();
    for Found { place, probe, handler, original } in found {
        let more = escaped(&original).len() + ",".len();
        if originals.probes.len() == MAX_PROBES || bytes + more > MAX_BYTES {
            continue;
        }
        bytes += more;
        let mut probe = probe.clone();
        probe.remove(handler);
        probe.insert("httpGet".into(), originals.instead(originals.probes.len()));
        originals.probes.push(original);
        probes.push((place, probe.into()));
    }
    let variable = json!({"name": VARIABLE, "value": originals.text()});
    Ok(Some(Rewritten { probes, variable }).filter(|rewritten| !rewritten.probes.is_empty()))
}

/// The secret that an injected template has.
pub(crate) fn secret(pod: &Pod<'_>) -> Option<Secret> {
    Originals::read(variable(sidecar(pod)?)?).map(|originals| originals.secret)
}

/// The place of [`VARIABLE`] in the sidecar's `env`, if it is there.
pub(crate) fn place_of_variable(sidecar: &Value) -> Option<usize> {
    sidecar.get("env")?.as_array()?.iter().position(|variable| name_of(variable) == VARIABLE)
}

/// Puts the originals of an injected template back, where they were not changed since.
pub(crate) fn restore(template: &mut Value) {
    let Some(originals) = Pod::read(template).ok().and_then(|pod| Originals::read(variable(sidecar(&pod)?)?)) else {
        return;
    };
    for (n, original) in originals.probes.iter().enumerate() {
        let of = original.get("container").and_then(Value::as_str).unwrap_or_default();
        let name = original.get("probe").and_then(Value::as_str).unwrap_or_default();
        let Some((path, _)) = PLACES.iter().find(|(path, _)| path.last() == Some(&name)) else { continue };
        let Some((handler, action)) = HANDLERS.iter().find_map(|h| Some((*h, original.get(h)?))) else { continue };
        let instead = originals.instead(n);
        for list in ["/spec/initContainers", "/spec/containers"] {
            let containers = template.pointer_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter(|container| name_of(container) == of) {
                let probe = path.iter().try_fold(container, |at, step| at.get_mut(step)).and_then(Value::as_object_mut);
                if let Some(probe) = probe.filter(|probe| probe.get("httpGet") == Some(&instead)) {
                    probe.remove("httpGet");
                    probe.insert(handler.to_owned(), action.clone());
                }
            }
        }
    }
}

impl Originals {
    fn read(text: &str) -> Option<Self> {
        let mut told: Value = serde_json::from_str(text).ok()?;
        let secret = Secret::read(told.get("secret")?.as_str()?)?;
        match told.get_mut("probes")?.take() {
            Value::Array(probes) => Some(Self { secret, probes }),
            _ => None,
        }
    }

    fn text(&self) -> String {
        escaped(&json!({"secret": self.secret.as_str(), "probes": self.probes}))
    }

    /// What kubelet does instead of a probe.
    fn instead(&self, n: usize) -> Value {
        json!({"path": format!("{PROBE_PATH}{}/{n}", self.secret.as_str()), "port": METRICS_PORT, "scheme": "HTTP"})
    }
}

/// JSON for a variable of a container: kubelet would replace `$(NAME)`, and `$$`, by something else.
fn escaped(value: &Value) -> String {
    value.to_string().replace('$', "\\u0024")
}

/// Our container in a pod that is injected.
fn sidecar<'a>(pod: &Pod<'a>) -> Option<&'a Value> {
    let mut all = pod.init_containers.unwrap_or_default().iter().chain(pod.containers);
    all.find(|container| name_of(container) == PROXY_CONTAINER)
}

/// The text of [`VARIABLE`].
fn variable(sidecar: &Value) -> Option<&str> {
    sidecar.get("env")?.get(place_of_variable(sidecar)?)?.get("value")?.as_str()
}

/// A probe that can be rewritten.
struct Found<'a> {
    place: Vec<String>,
    probe: &'a Map<String, Value>,
    handler: &'static str,
    original: Value,
}

/// Every probe that can be rewritten and is not, in the order of the pod.
fn found<'a>(pod: &Pod<'a>, settings: &Settings) -> Vec<Found<'a>> {
    let inits = pod.init_containers.unwrap_or_default();
    let ours = |list: &[Value]| list.iter().position(|container| name_of(container) == PROXY_CONTAINER);
    // From where on containers start after the sidecar, and whether it ends after them.
    let (first_init, first, ends_last) = match (ours(inits), ours(pod.containers)) {
        (Some(at), _) => (at + 1, 0, true),
        (None, Some(at)) => (inits.len(), at + 1, false),
        (None, None) if settings.native_sidecar => (0, 0, true),
        (None, None) => (inits.len(), 0, false),
    };
    let stays = |container: &Value| container.get("restartPolicy").is_some_and(|policy| policy == "Always");
    let inits = inits.iter().enumerate().skip(first_init).filter(|(_, container)| stays(container));
    let inits = inits.map(|(i, container)| ("initContainers", i, container));
    let containers = pod.containers.iter().enumerate().skip(first);
    let containers = containers.map(|(i, container)| ("containers", i, container));
    let mut found = Vec::new();
    for (list, i, container) in inits.chain(containers) {
        for (path, handlers) in PLACES.iter().filter(|(path, _)| ends_last || path.last() != Some(&PRE_STOP)) {
            let index = i.to_string();
            let steps = ["spec", list, &index].into_iter().chain(path.iter().copied());
            let place = steps.map(str::to_owned).collect();
            found.extend(
                in_container(container, path, handlers, &settings.skip_inbound_ports)
                    .map(|(probe, handler, original)| Found { place, probe, handler, original }),
            );
        }
    }
    found
}

/// A probe of a container, its handler, and what the sidecar is told of it.
fn in_container<'a>(
    container: &'a Value,
    path: &[&str],
    handlers: &[&str],
    skipped: &PortList,
) -> Option<(&'a Map<String, Value>, &'static str, Value)> {
    let probe = path.iter().try_fold(container, |at, step| at.get(step))?.as_object()?;
    let is_there = |handler: &&&str| probe.get(**handler).is_some_and(|action| !action.is_null());
    let mut there = HANDLERS.iter().filter(is_there);
    let (Some(handler), None) = (there.next(), there.next()) else { return None };
    let action = probe.get(*handler).filter(|_| handlers.contains(handler))?.as_object()?;
    let is_empty = |field: &str| action.get(field).is_none_or(|value| value.is_null() || value == "");
    let port = port(action.get("port")?, container)?;
    let is_ours = containers::PORTS.iter().any(|(ours, _)| *ours == port);
    if !is_empty("host") || is_ours || skipped.contains(port) || !is_well_formed(handler, action) {
        return None;
    }
    let mut original = Map::new();
    original.insert("container".into(), name_of(container).into());
    original.insert("probe".into(), (*path.last()?).into());
    original.insert((*handler).to_owned(), Value::Object(action.clone()));
    original.insert("port".into(), port.into());
    if path.len() == 1 {
        let seconds = probe.get("timeoutSeconds").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
        original.insert("timeoutSeconds".into(), seconds.unwrap_or(TIMEOUT_SECONDS).into());
    }
    Some((probe, handler, original.into()))
}

/// The number of a port as kubelet finds it: a name is one of the container's own ports, or a number in quotes.
fn port(port: &Value, container: &Value) -> Option<u16> {
    let number = match port.as_str() {
        None => port.as_u64(),
        Some(name) => {
            let mut ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
            match ports.find(|port| name_of(port) == name) {
                Some(port) => port.get("containerPort")?.as_u64(),
                None => name.parse().ok(),
            }
        }
    };
    u16::try_from(number?).ok().filter(|port| *port > 0)
}

/// Whether the sidecar can read a handler. What Kubernetes would not take is left for it to refuse.
fn is_well_formed(handler: &str, action: &Map<String, Value>) -> bool {
    let is_text = |field: &str| action.get(field).is_none_or(|value| value.is_null() || value.is_string());
    let header = |header: &Value| {
        header.get("name").is_some_and(Value::is_string) && header.get("value").is_none_or(Value::is_string)
    };
    match handler {
        "httpGet" => {
            let scheme =
                action.get("scheme").is_none_or(|scheme| scheme.is_null() || scheme == "HTTP" || scheme == "HTTPS");
            let headers = match action.get("httpHeaders") {
                None | Some(Value::Null) => true,
                Some(headers) => headers.as_array().is_some_and(|headers| headers.iter().all(header)),
            };
            is_text("path") && scheme && headers
        }
        _ => is_text("service"),
    }
}

#[cfg(test)]
mod tests;
