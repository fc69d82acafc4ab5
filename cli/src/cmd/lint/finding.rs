//! What is wrong in the files, and how severe it is.
//!
//! What files refer to and do not have may well be in the cluster. It is taken for missing where the files show that
//! they are meant to have it: where they hold Services of the namespace in question.

use std::collections::{BTreeMap, BTreeSet};

use mesh_resources::{Object, ObjectId, Options, Problem, Severity, Snapshot};
use serde::Serialize;
use serde_json::Value;

use super::told;
use crate::manifests::{Found, ManifestFiles};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Some traffic is not served as written.
    Error,
    /// Something is left out without harm to the rest.
    Warning,
    /// Something that could not be judged.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Finding {
    /// The file; `null` where it is not known.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u64>,
    /// How bad it is.
    pub level: Level,
    /// The reason, as in a status condition.
    pub reason: String,
    /// `Kind namespace/name`; `null` for a file that cannot be read.
    pub object: Option<String>,
    /// The field.
    pub field: Option<String>,
    /// What is wrong, and what follows from it.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

/// The reason for a file that is no manifest.
pub(super) const UNREADABLE: &str = "Unreadable";
/// The reason for an object that is there twice.
pub(super) const REPEATED: &str = "Repeated";

/// Reasons that may say that something is not in the files.
const OF_REFERENCES: [&str; 4] = ["BackendNotFound", "NoMatchingParent", "RefNotPermitted", "TargetNotFound"];

impl Finding {
    /// `object: field: what`.
    pub(super) fn message(&self) -> String {
        let parts = [&self.object, &self.field].into_iter().flatten().filter(|part| !part.is_empty());
        parts.map(|part| format!("{part}: ")).chain([self.what.clone()]).collect()
    }

    fn of_problem(problem: &Problem) -> Self {
        Self {
            file: problem.source.as_ref().map(|source| source.file.to_string()),
            line: problem.source.as_ref().map(|source| source.line),
            level: match problem.severity {
                Severity::Error => Level::Error,
                Severity::Warning => Level::Warning,
            },
            reason: problem.reason.as_str().to_owned(),
            object: Some(problem.object.to_string()),
            field: Some(problem.field.clone()),
            what: problem.what_and_effect(),
            fix: problem.fix.clone(),
        }
    }

    /// About a field of an object.
    pub(super) fn of(object: &Object, field: &str, level: Level, reason: &str, what: &str, fix: &str) -> Self {
        let source = object.source_of(field);
        Self {
            file: source.as_ref().map(|source| source.file.to_string()),
            line: source.as_ref().map(|source| source.line),
            level,
            reason: reason.to_owned(),
            object: Some(object.id().to_string()),
            field: Some(field.to_owned()).filter(|field| !field.is_empty()),
            what: what.to_owned(),
            fix: fix.to_owned(),
        }
    }

    fn repeated(object: &Object) -> Self {
        Self {
            file: object.source.as_ref().map(|source| source.file.to_string()),
            line: object.source.as_ref().map(|source| source.line),
            level: Level::Error,
            reason: REPEATED.to_owned(),
            object: Some(object.id().to_string()),
            field: None,
            what: "the object is in the files already; of the two the first counts here, and the last that is applied \
                   on a cluster"
                .to_owned(),
            fix: "remove one of the two".to_owned(),
        }
    }
}

/// Everything that is found, by file and line. What the cluster has fills in for what the files do not have.
pub(super) fn gather(given: &ManifestFiles, cluster: Option<&Found>) -> Vec<Finding> {
    let own: BTreeMap<ObjectId, &Object> = given.objects.iter().map(|object| (object.id(), object)).collect();
    let options = match cluster {
        Some(found) => found.options.clone(),
        None => Options { meshed_by_label: true, ..Options::default() },
    };
    let others = cluster.into_iter().flat_map(|found| &found.objects).filter(|other| !own.contains_key(&other.id()));
    let objects: Vec<Object> = others.chain(&given.objects).cloned().collect();
    let (_, problems) = Snapshot::from_objects(&objects, options);

    let mut findings: Vec<Finding> = given
        .broken
        .iter()
        .map(|error| Finding {
            file: Some(error.file.clone()),
            line: Some(error.line),
            level: Level::Error,
            reason: UNREADABLE.to_owned(),
            object: None,
            field: None,
            what: error.message.clone(),
            fix: "correct the file".to_owned(),
        })
        .collect();
    // Kinds that are none of the mesh's may repeat: nobody here reads them.
    let used = given.repeated.iter().filter(|object| mesh_resources::is_used(object.group(), &object.kind));
    findings.extend(used.map(Finding::repeated));
    let known = Namespaces::of(&given.objects);
    for problem in &problems {
        let Some(object) = own.get(&problem.object) else { continue };
        let mut finding = Finding::of_problem(problem);
        let elsewhere = cluster.is_none().then(|| known.unknown(object, problem)).flatten();
        if let Some(namespace) = elsewhere {
            finding.level = Level::Note;
            finding.what = format!("{}; not judged: the files have no Service of namespace {namespace}", problem.what);
            finding.fix = "give its manifests as well, or use --with-cluster".to_owned();
        }
        findings.push(finding);
    }
    told::refused(&given.objects, &problems, &mut findings);
    told::not_in_force(&given.objects, &mut findings);
    findings.sort();
    findings.dedup();
    findings
}

/// Namespaces in which the files have objects that others refer to.
struct Namespaces<'o> {
    services: BTreeSet<&'o str>,
    grants: BTreeSet<&'o str>,
}

impl<'o> Namespaces<'o> {
    fn of(objects: &'o [Object]) -> Self {
        let of = |kind: &str| {
            objects.iter().filter(|object| object.is(kind)).map(|object| object.namespace.as_str()).collect()
        };
        Self { services: of("Service"), grants: of("ReferenceGrant") }
    }

    /// The namespace that a problem is about and that the files do not show.
    fn unknown(&self, object: &Object, problem: &Problem) -> Option<String> {
        let reason = problem.reason.as_str();
        if !OF_REFERENCES.contains(&reason) {
            return None;
        }
        // A problem of a field of a reference is one wherever the reference leads.
        let reference = at(&object.value, &problem.field)?.as_object()?;
        let namespace = reference.get("namespace").and_then(Value::as_str).unwrap_or(&object.namespace);
        let is_shown =
            self.services.contains(namespace) || (reason == "RefNotPermitted" && self.grants.contains(namespace));
        (!is_shown).then(|| namespace.to_owned())
    }
}

/// The value at a path such as `spec.rules[0].backendRefs[1]`.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split(['.', '[']).filter(|part| !part.is_empty()).try_fold(value, |value, part| match part.strip_suffix(']') {
        Some(index) => value.get(index.parse::<usize>().ok()?),
        None => value.get(part),
    })
}
