//! Injection of manifests: any object that holds a template of pods, in the two manners of `meshctl inject`.
//!
//! [`Manner::Label`] opts the pods in and leaves the rest to the webhook; [`Manner::Manual`] writes everything into the
//! template, for clusters or pipelines without the webhook. [`uninject_document`] takes either out again. Objects are
//! known by their shape, not their kind: whatever has `spec.template.spec.containers` is served, custom resources
//! too. Where a template stands elsewhere, that is said. It reads and writes no files.

use mesh_policy::well_known::INJECT_LABEL;
use serde_json::{Map, Value};

use crate::{
    config::Config,
    misplaced::{Misplaced, misplaced},
    other_mesh,
    patch::{self, NamespaceFacts, Outcome},
    pod::Pod,
    probes,
    refusal::Refusal,
    secret::Secrets,
    skip::Skip,
};

mod uninject;

pub use uninject::uninject_document;

/// Lists in lists beyond this are no manifest.
const MAX_DEPTH: usize = 4;

/// How a manifest is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// The label `meshctl.dev/inject: enabled` is put on pods (or a Namespace); the webhook does the rest.
    Label,
    /// Everything that the webhook would add is written into the template.
    Manual,
}

/// What became of one object of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its kind, or a dash.
    pub kind: String,
    /// Its namespace, if the manifest names one.
    pub namespace: Option<String>,
    /// Its name (or `generateName`), or a dash.
    pub name: String,
    /// What was done.
    pub change: Change,
    /// Settings of it that are not in force.
    pub misplaced: Vec<Misplaced>,
}

/// What was done to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was changed.
    Changed,
    /// It holds no pods.
    NoPods,
    /// It has containers at a place where no template of pods is looked for.
    Elsewhere {
        /// Path of their list.
        containers: String,
    },
    /// It is as it should be already.
    Same,
    /// Its pods are left alone.
    Skipped(Skip),
    /// Its pods cannot be injected; the object is as it was.
    Refused(Refusal),
}

/// Injects the pods of a document: an object, or a List of objects. Returns it with a report for each object.
///
/// `namespace` is that of objects which name none. `secrets` is for the probes of templates: all pods of one have the same.
pub fn inject_document(
    document: &Value,
    manner: Manner,
    namespace: &str,
    config: &Config,
    secrets: Secrets<'_>,
) -> (Value, Vec<Report>) {
    let mut document = document.clone();
    let mut reports = Vec::new();
    each_object(&mut document, 0, &mut reports, &mut |object, object_namespace| match manner {
        Manner::Label => label(object, object_namespace.unwrap_or(namespace), config, secrets),
        Manner::Manual => manual(object, object_namespace.unwrap_or(namespace), config, secrets),
    });
    (document, reports)
}

/// Where templates of pods are looked for, for messages.
pub const PLACES: &str = "template, spec.template and spec.jobTemplate.spec.template";

/// Where an object keeps what becomes pods: the steps to the value with `metadata` and `spec`.
fn template_path(object: &Value) -> Option<&'static [&'static str]> {
    let holds = |path: &[&str]| {
        let template = path.iter().try_fold(object, |at, step| at.get(step));
        template.and_then(|template| template.get("spec")?.get("containers")).is_some()
    };
    let is_core = object.get("apiVersion").is_none_or(|version| version == "v1");
    if is_core && object.get("kind").and_then(Value::as_str) == Some("Pod") {
        return Some(&[]);
    }
    let places = [&["template"][..], &["spec", "template"], &["spec", "jobTemplate", "spec", "template"]];
    places.into_iter().find(|path| holds(path))
}

fn template_mut<'a>(object: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |at, step| at.get_mut(step))
}

/// The path of the template of an object's pods, as in `spec.template`; empty for a Pod.
pub(crate) fn templates(object: &Value) -> Option<String> {
    template_path(object).map(|path| path.join("."))
}

/// The value at a path of names.
pub(crate) fn at<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(object, |at, step| at.get(step))
}

/// What is said of an object without a template where one is looked for.
fn no_template(object: &Value) -> Change {
    /// Deeper than any template stands.
    const MOST: usize = 12;
    fn find(value: &Value, path: &str, depth: usize) -> Option<String> {
        let is_container = |item: &Value| item.get("image").or_else(|| item.get("name")).is_some_and(Value::is_string);
        match value {
            _ if depth > MOST => None,
            Value::Object(fields) => fields.iter().find_map(|(name, inner)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let items = inner.as_array().filter(|items| name == "containers" && !items.is_empty());
                match items.is_some_and(|items| items.iter().all(is_container)) {
                    true => Some(path),
                    false => find(inner, &path, depth + 1),
                }
            }),
            Value::Array(items) => {
                items.iter().enumerate().find_map(|(i, item)| find(item, &format!("{path}[{i}]"), depth + 1))
            }
            _ => None,
        }
    }
    find(object, "", 0).map_or(Change::NoPods, |containers| Change::Elsewhere { containers })
}

/// Calls a function for each object that is no list, and notes what it did.
fn each_object(
    document: &mut Value,
    depth: usize,
    reports: &mut Vec<Report>,
    change: &mut impl FnMut(&mut Value, Option<&str>) -> Change,
) {
    let text = |of: Option<&Value>| of.and_then(Value::as_str).map(str::to_owned);
    let kind = text(document.get("kind")).unwrap_or_else(|| "-".into());
    if kind.ends_with("List")
        && depth < MAX_DEPTH
        && let Some(Value::Array(items)) = document.get_mut("items")
    {
        return items.iter_mut().for_each(|item| each_object(item, depth + 1, reports, change));
    }
    let metadata = document.get("metadata");
    let namespace = text(metadata.and_then(|metadata| metadata.get("namespace")));
    let name = metadata.and_then(|metadata| metadata.get("name").or_else(|| metadata.get("generateName")));
    let name = text(name).unwrap_or_else(|| "-".into());
    let misplaced = misplaced(document, false);
    let change = change(document, namespace.as_deref());
    reports.push(Report { kind, namespace, name, change, misplaced });
}

fn label(object: &mut Value, namespace: &str, config: &Config, secrets: Secrets<'_>) -> Change {
    let target = if is_namespace(object) {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if name == "kube-system" || name == config.control_plane_namespace {
            return Change::Skipped(Skip::Namespace(name.to_owned()));
        }
        match opted(object) {
            Some(Err(refusal)) => return Change::Refused(refusal),
            Some(Ok(false)) => return Change::Skipped(Skip::NamespaceOptedOut),
            Some(Ok(true)) | None => {}
        }
        let map = |name: &str| object.get("metadata")?.get(name)?.as_object();
        if let Some((mesh, evidence)) = other_mesh::asked(map("labels"), map("annotations")) {
            return Change::Skipped(Skip::NamespaceOfOtherMesh { mesh, evidence });
        }
        object
    } else {
        let Some(path) = template_path(object) else { return no_template(object) };
        if let Some(skip) = opted_out_above(object, path) {
            return Change::Skipped(skip);
        }
        let is_nameless = is_nameless(object, path);
        let Some(template) = template_mut(object, path) else { return Change::NoPods };
        // What the webhook would refuse or leave alone is told now, not when pods do not start.
        let named = is_nameless.then(|| with_names(template));
        let judged = named.as_ref().unwrap_or(template);
        match patch::inject(judged, &NamespaceFacts { name: namespace.to_owned() }, config, secrets) {
            Err(refusal) => return Change::Refused(refusal),
            Ok(Outcome::Skipped { reason: Skip::AlreadyInjected }) => return Change::Same,
            Ok(Outcome::Skipped { reason }) => return Change::Skipped(reason),
            Ok(Outcome::Injected { .. }) => template,
        }
    };
    opt_in(target)
}

fn manual(object: &mut Value, namespace: &str, config: &Config, secrets: Secrets<'_>) -> Change {
    let Some(path) = template_path(object) else { return no_template(object) };
    if let Some(skip) = opted_out_above(object, path) {
        return Change::Skipped(skip);
    }
    if is_nameless(object, path) {
        return Change::Skipped(Skip::Nameless);
    }
    let Some(template) = template_mut(object, path) else { return Change::NoPods };
    // Whatever an earlier run (of any version, with any configuration) wrote is made anew, but for the secret: pods that
    // are as they should be must not be replaced.
    let mut made = template.clone();
    let kept = Pod::read(template).ok().and_then(|pod| probes::secret(&pod));
    let secrets: Secrets<'_> = &|| kept.clone().map_or_else(secrets, Ok);
    if uninject::has_record(&made) {
        uninject::template(&mut made);
    }
    match patch::inject(&made, &NamespaceFacts { name: namespace.to_owned() }, config, secrets) {
        Err(refusal) => return Change::Refused(refusal),
        Ok(Outcome::Skipped { reason }) => return Change::Skipped(reason),
        Ok(Outcome::Injected { pod, .. }) => made = pod,
    }
    // The webhook must know these pods, and their namespace needs the trust bundle.
    opt_in(&mut made);
    if *template == made {
        return Change::Same;
    }
    *template = made;
    Change::Changed
}

/// What the label of an object says, if it has it.
fn opted(object: &Value) -> Option<Result<bool, Refusal>> {
    let value = object.get("metadata")?.get("labels")?.get(INJECT_LABEL)?;
    Some(match value.as_str() {
        Some("enabled") => Ok(true),
        Some("disabled") => Ok(false),
        _ => Err(Refusal::Label(value.as_str().map_or_else(|| value.to_string(), str::to_owned))),
    })
}

/// Whoever put `disabled` on what holds the template meant its pods, though nobody reads it there.
fn opted_out_above(object: &Value, path: &'static [&'static str]) -> Option<Skip> {
    let template = path.iter().try_fold(object, |at, step| at.get(step))?;
    let is_out = !path.is_empty() && matches!(opted(object), Some(Ok(false))) && opted(template).is_none();
    let place = match path {
        ["template"] => "template.metadata.labels",
        [_, "jobTemplate", ..] => "spec.jobTemplate.spec.template.metadata.labels",
        _ => "spec.template.metadata.labels",
    };
    is_out.then_some(Skip::OptedOutAbove(place))
}

/// Groups of Kubernetes' own kinds with pods: there every container must have a name.
const OWN_GROUPS: [&str; 3] = ["", "apps", "batch"];

/// Whether containers have no name, in a kind whose controller gives them one (Knative's does).
fn is_nameless(object: &Value, path: &[&str]) -> bool {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let template = path.iter().try_fold(object, |at, step| at.get(step));
    let has_none = |container: &Value| container.get("name").is_none_or(Value::is_null) && container.is_object();
    let containers = template.and_then(|template| template.pointer("/spec/containers")).and_then(Value::as_array);
    !OWN_GROUPS.contains(&group) && containers.is_some_and(|containers| containers.iter().any(has_none))
}

/// A template whose containers all have names, to be judged by.
fn with_names(template: &Value) -> Value {
    let mut named = template.clone();
    let containers = named.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
    for (i, container) in containers.into_iter().flatten().enumerate() {
        if let Some(container) = container.as_object_mut()
            && container.get("name").is_none_or(Value::is_null)
        {
            container.insert("name".to_owned(), format!("container-{i}").into());
        }
    }
    named
}

fn is_namespace(object: &Value) -> bool {
    object.get("kind").and_then(Value::as_str) == Some("Namespace")
        && object.get("apiVersion").and_then(Value::as_str) == Some("v1")
}

/// Puts the label on an object or template.
fn opt_in(target: &mut Value) -> Change {
    let labels = target.as_object_mut().and_then(|target| member(target, "metadata")).and_then(|m| member(m, "labels"));
    match labels.map(|labels| labels.insert(INJECT_LABEL.to_owned(), "enabled".into())) {
        None => Change::Refused(Refusal::malformed("metadata.labels", "is no object")),
        Some(Some(before)) if before == "enabled" => Change::Same,
        Some(_) => Change::Changed,
    }
}

/// A member that is an object, made if it is absent or null; `None` if it is something else.
fn member<'a>(of: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    let value = of.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}
