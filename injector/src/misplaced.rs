//! Settings that are silently not in force: misspelt ones, and right ones at a place where nobody reads them.
//!
//! What a pod says is refused by the webhook where it is wrong. But a setting on a Deployment itself in place of its template, on a
//! Namespace, or as a label in place of an annotation does nothing, and nothing tells. This does, for `meshctl lint` and `inject`.

use mesh_policy::well_known::{
    ACCESS_LOG_ANNOTATION, ACCESS_LOG_ATTRIBUTES_ANNOTATION, CHANGES_ANNOTATION, CONFIG_PREFIX, INJECT_LABEL,
    INJECTED_ANNOTATION, OPAQUE_PORTS_ANNOTATION, PROTOCOL_ANNOTATION, VERSION_LABEL,
};
use serde_json::{Map, Value};

use crate::{annotations, config::Config, manifest::templates, other_mesh};

/// A setting that is not in force as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// Path of the label or annotation in the object.
    pub field: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub fix: String,
    /// Whether pods do not start because of it.
    pub is_refused: bool,
}

/// What an object is to the mesh, and so what it may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Pod,
    Namespace,
    Service,
    /// Whoever makes pods of a template, and everything else: nothing on it is read.
    Other,
}

/// Annotations that Services may have.
const OF_SERVICES: [&str; 2] = [OPAQUE_PORTS_ANNOTATION, PROTOCOL_ANNOTATION];
/// Annotations that Namespaces may have.
const OF_NAMESPACES: [&str; 2] = [ACCESS_LOG_ANNOTATION, ACCESS_LOG_ATTRIBUTES_ANNOTATION];
/// What else of ours there is on objects.
const RECORDS: [&str; 4] = [INJECT_LABEL, VERSION_LABEL, INJECTED_ANNOTATION, CHANGES_ANNOTATION];
/// Letters by which a domain may differ from ours and still be meant for it.
const MISSPELT: usize = 2;
/// Most that is told of one object.
const MAX_TOLD: usize = 50;

/// What is not in force of what an object says. `is_meshed`: whether its namespace is in the mesh, so that the settings of another mesh
/// on its pods are none.
pub fn misplaced(object: &Value, is_meshed: bool) -> Vec<Misplaced> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let kind = text("kind");
    let role = match (text("apiVersion"), kind) {
        ("v1", "Pod") => Role::Pod,
        ("v1", "Namespace") => Role::Namespace,
        ("v1", "Service") => Role::Service,
        _ => Role::Other,
    };
    let templates: Vec<String> = templates(object).into_iter().filter(|path| !path.is_empty()).collect();
    let place = match templates.first() {
        Some(path) => format!("{path}.metadata"),
        None => "its pods".to_owned(),
    };
    let mut found = Vec::new();
    let itself = Place { role, kind, prefix: String::new(), place: &place };
    itself.check(object, is_meshed, &mut found);
    for path in &templates {
        if let Some(template) = crate::manifest::at(object, path) {
            let inner = Place { role: Role::Pod, kind: "Pod", prefix: format!("{path}."), place: &place };
            inner.check(template, is_meshed, &mut found);
        }
    }
    // Jobs of a CronJob stand between it and its pods.
    if let Some(job) = object.pointer("/spec/jobTemplate").filter(|_| kind == "CronJob") {
        let inner = Place { role: Role::Other, kind: "Job", prefix: "spec.jobTemplate.".to_owned(), place: &place };
        inner.check(job, is_meshed, &mut found);
    }
    found.truncate(MAX_TOLD);
    found
}

/// Metadata, and whose it is.
struct Place<'a> {
    role: Role,
    kind: &'a str,
    /// Path of what has the metadata, with a dot behind it.
    prefix: String,
    /// Where settings of pods belong.
    place: &'a str,
}

impl Place<'_> {
    fn check(&self, of: &Value, is_meshed: bool, found: &mut Vec<Misplaced>) {
        let map = |name: &str| of.pointer("/metadata")?.get(name)?.as_object();
        let (labels, annotations) = (map("labels"), map("annotations"));
        for (key, value) in labels.into_iter().flatten() {
            self.push(found, "labels", key, value, self.label(key, value));
        }
        for (key, value) in annotations.into_iter().flatten() {
            self.push(found, "annotations", key, value, self.annotation(key));
        }
        if self.role == Role::Pod {
            // The webhook says only the first one that is wrong.
            if let Err(error) = annotations::Settings::resolve(&Config::default(), annotations) {
                let field = format!(
                    "{}metadata.annotations{}",
                    self.prefix,
                    error.name().map(|n| format!(".{n}")).unwrap_or_default()
                );
                let what = format!("{error}; the webhook refuses the pods");
                found.push(Misplaced { field, what, fix: "correct or remove it".to_owned(), is_refused: true });
            }
        }
        self.others(labels, annotations, is_meshed, found);
    }

    fn push(&self, found: &mut Vec<Misplaced>, list: &str, key: &str, value: &Value, told: Option<(String, String)>) {
        let Some((what, fix)) = told else { return };
        let is_refused = self.role == Role::Pod && key == INJECT_LABEL && list == "labels" && value != "disabled";
        found.push(Misplaced { field: format!("{}metadata.{list}.{key}", self.prefix), what, fix, is_refused });
    }

    /// What is wrong with a label, and what to do.
    fn label(&self, key: &str, value: &Value) -> Option<(String, String)> {
        let kind = self.kind;
        if key == INJECT_LABEL {
            let is_known = value == "enabled" || value == "disabled";
            return match self.role {
                Role::Pod if !is_known => Some((
                    format!("{value} is neither \"enabled\" nor \"disabled\", so that the webhook refuses the pods"),
                    "write one of the two".to_owned(),
                )),
                Role::Namespace if !is_known => Some((
                    format!("{value} is neither \"enabled\" nor \"disabled\", so that nothing is injected"),
                    "write one of the two".to_owned(),
                )),
                Role::Pod | Role::Namespace => None,
                Role::Service | Role::Other => Some((
                    format!("the label of a {kind} is not read, only that of pods and of their Namespace"),
                    format!("put it in {}.labels", self.place),
                )),
            };
        }
        if key.starts_with(CONFIG_PREFIX) {
            return Some((
                "it is a label, and settings are read from annotations".to_owned(),
                format!("put it in {}.annotations", self.place),
            ));
        }
        misspelt(key)
    }

    /// The same of an annotation.
    fn annotation(&self, key: &str) -> Option<(String, String)> {
        let kind = self.kind;
        if key == INJECT_LABEL {
            return Some((
                "it is an annotation, and only the label of this name is read".to_owned(),
                match self.role {
                    Role::Pod | Role::Namespace => "make it a label".to_owned(),
                    Role::Service | Role::Other => format!("make it a label in {}.labels", self.place),
                },
            ));
        }
        if !key.starts_with(CONFIG_PREFIX) {
            return misspelt(key);
        }
        let to_pods = format!("put it in {}.annotations", self.place);
        let is_known = annotations::ANNOTATIONS.iter().any(|known| known.name == key);
        match self.role {
            // Told with what is allowed.
            Role::Pod => None,
            Role::Service if OF_SERVICES.contains(&key) => None,
            Role::Namespace if OF_NAMESPACES.contains(&key) => None,
            _ if !is_known => Some((
                format!("there is no such setting; the nearest is {}", annotations::nearest(key)),
                "correct it".to_owned(),
            )),
            Role::Service => {
                Some(("it is read from pods only, not from a Service".to_owned(), "put it on the pods".to_owned()))
            }
            Role::Namespace => Some((
                "it is read from pods only, not from a Namespace".to_owned(),
                "put it on the pods, or set the value of the chart for all".to_owned(),
            )),
            Role::Other => Some((format!("annotations of a {kind} are not read, only those of pods"), to_pods)),
        }
    }

    /// Settings of another mesh, where this one serves the pods.
    fn others(
        &self,
        labels: Option<&Map<String, Value>>,
        annotations: Option<&Map<String, Value>>,
        is_meshed: bool,
        found: &mut Vec<Misplaced>,
    ) {
        let own = labels.and_then(|labels| labels.get(INJECT_LABEL));
        let is_ours = own.is_some_and(|own| own == "enabled")
            || (own.is_none() && is_meshed && other_mesh::asked(labels, annotations).is_none());
        if !is_ours || self.role == Role::Other {
            return;
        }
        if let Some((mesh, evidence)) = other_mesh::asked(labels, annotations) {
            let what = match self.role {
                Role::Namespace => {
                    format!("its pods are asked for by {mesh} too ({evidence}): two meshes cannot serve one pod")
                }
                _ => format!("it is asked for by {mesh} too ({evidence}), so that the pod is left alone"),
            };
            let fix = "take it out of one of the two meshes".to_owned();
            found.push(Misplaced { field: format!("{}metadata", self.prefix), what, fix, is_refused: false });
            return;
        }
        for (list, map) in [("labels", labels), ("annotations", annotations)] {
            for key in map.into_iter().flatten().map(|(key, _)| key) {
                let Some(mesh) = other_mesh::of_setting(key) else { continue };
                let field = format!("{}metadata.{list}.{key}", self.prefix);
                let what = format!("it is a setting of {mesh}, which this mesh does not read");
                let fix = match annotations::alike(key) {
                    Some(ours) => format!("write {ours}, if that is meant, or remove it"),
                    None => "remove it".to_owned(),
                };
                found.push(Misplaced { field, what, fix, is_refused: false });
            }
        }
    }
}

/// A name that is like one of ours and is none.
fn misspelt(key: &str) -> Option<(String, String)> {
    let (domain, _) = key.split_once('/')?;
    let ours = [CONFIG_PREFIX, INJECT_LABEL].iter().filter_map(|name| name.split_once('/')).map(|(domain, _)| domain);
    let is_near = ours.map(|ours| strsim::damerau_levenshtein(ours, domain)).min()? <= MISSPELT;
    if !is_near || RECORDS.contains(&key) {
        return None;
    }
    let known = RECORDS.iter().copied().chain(annotations::ANNOTATIONS.iter().map(|known| known.name));
    let nearest = known.min_by_key(|known| strsim::damerau_levenshtein(known, key))?;
    Some((format!("there is no such setting; the nearest is {nearest}"), "correct or remove it".to_owned()))
}

#[cfg(test)]
mod tests;
