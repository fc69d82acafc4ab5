//! Taking the mesh out of manifests again.
//!
//! What is ours is known by its name; what is not (a `preStop` hook in a container of the user's) by the record that
//! injection left in an annotation, and probes by the originals that the sidecar was told. A map or list that is empty
//! afterwards goes too: an absent one means the same.

use mesh_policy::well_known::{
    CHANGES_ANNOTATION, INIT_CONTAINER, INJECT_LABEL, INJECTED_ANNOTATION, OPAQUE_PORTS_ANNOTATION, PROXY_CONTAINER,
    SKIP_INBOUND_PORTS_ANNOTATION, VERSION_LABEL,
};
use serde_json::{Map, Value};

use super::{Change, Report, each_object, is_namespace, no_template, template_mut, template_path};
use crate::{
    patch::{
        DEFAULT_CONTAINER, DEFAULT_CONTAINER_CHANGE, OPAQUE_PORTS_CHANGE, PRE_STOP_CHANGE, SCRAPE_CHANGE,
        SKIP_INBOUND_CHANGE,
    },
    pod::{VOLUME, name_of},
    probes,
    scrape::SCRAPE_ANNOTATIONS,
};

/// Takes the label, and whatever `--manual` wrote, out of a document: the inverse of
/// [`inject_document`](super::inject_document), if the document was not opted in before.
pub fn uninject_document(document: &Value) -> (Value, Vec<Report>) {
    let mut document = document.clone();
    let mut reports = Vec::new();
    each_object(&mut document, 0, &mut reports, &mut |object, _| {
        let path: &[&str] = match template_path(object) {
            _ if is_namespace(object) => &[],
            None => return no_template(object),
            Some(path) => path,
        };
        let Some(target) = template_mut(object, path) else { return Change::NoPods };
        let before = target.clone();
        template(target);
        if *target == before { Change::Same } else { Change::Changed }
    });
    (document, reports)
}

/// Whether a template was injected with everything.
pub(super) fn has_record(template: &Value) -> bool {
    record(template, INJECTED_ANNOTATION).is_some()
}

/// Takes everything of ours out of a template (or a Namespace).
pub(super) fn template(template: &mut Value) {
    if has_record(template) {
        probes::restore(template);
        let changes = record(template, CHANGES_ANNOTATION).unwrap_or_default().to_owned();
        for field in ["initContainers", "containers"] {
            filter(template, field, |container| ![PROXY_CONTAINER, INIT_CONTAINER].contains(&name_of(container)));
        }
        filter(template, "volumes", |volume| name_of(volume) != VOLUME);
        for change in changes.split(',') {
            undo(template, change);
        }
        for annotation in [INJECTED_ANNOTATION, CHANGES_ANNOTATION] {
            remove(template, &["metadata", "annotations"], annotation);
        }
        remove(template, &["metadata", "labels"], VERSION_LABEL);
    }
    if template.pointer("/metadata/labels").and_then(|labels| labels.get(INJECT_LABEL)).is_some_and(|v| v == "enabled")
    {
        remove(template, &["metadata", "labels"], INJECT_LABEL);
    }
}

fn record<'a>(template: &'a Value, annotation: &str) -> Option<&'a str> {
    template.pointer("/metadata/annotations")?.get(annotation)?.as_str()
}

/// Undoes one entry of the record.
fn undo(template: &mut Value, change: &str) {
    match change {
        DEFAULT_CONTAINER_CHANGE => remove(template, &["metadata", "annotations"], DEFAULT_CONTAINER),
        OPAQUE_PORTS_CHANGE => remove(template, &["metadata", "annotations"], OPAQUE_PORTS_ANNOTATION),
        SKIP_INBOUND_CHANGE => remove(template, &["metadata", "annotations"], SKIP_INBOUND_PORTS_ANNOTATION),
        SCRAPE_CHANGE => {
            for annotation in SCRAPE_ANNOTATIONS {
                remove(template, &["metadata", "annotations"], annotation);
            }
        }
        _ => {
            let Some(name) = change.strip_prefix(PRE_STOP_CHANGE) else { return };
            let containers = template.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter(|container| name_of(container) == name) {
                remove(container, &["lifecycle"], "preStop");
            }
        }
    }
}

/// Removes a member of the map at a path, and then the maps on the path that it leaves empty.
fn remove(value: &mut Value, path: &[&str], member: &str) {
    let Some(map) = value.as_object_mut() else { return };
    let Some((step, rest)) = path.split_first() else {
        map.remove(member);
        return;
    };
    let Some(inner) = map.get_mut(*step) else { return };
    let had = inner.as_object().is_some_and(|inner| !inner.is_empty());
    remove(inner, rest, member);
    if had && inner.as_object().is_some_and(Map::is_empty) {
        map.remove(*step);
    }
}

/// Keeps those elements of a list of the spec that pass, and removes the list if none is left.
fn filter(template: &mut Value, field: &str, keep: impl Fn(&Value) -> bool) {
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let Some(Value::Array(list)) = spec.get_mut(field) else { return };
    let before = list.len();
    list.retain(keep);
    if list.is_empty() && before > 0 {
        spec.remove(field);
    }
}
