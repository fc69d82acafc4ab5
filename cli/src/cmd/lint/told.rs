//! What is told of an object beside the problems of the mesh: what an API server refuses, and settings that are not in force.

use std::collections::BTreeSet;

use mesh_injector::misplaced::misplaced;
use mesh_policy::well_known::INJECT_LABEL;
use mesh_resources::{Class, Object, Problem};

use super::finding::{Finding, Level};
use crate::definitions::{Judge, Refused};

/// The reason for what no API server takes.
pub(super) const REFUSED: &str = "Refused";
/// The reason for what could not be asked.
pub(super) const NOT_JUDGED: &str = "NotJudged";
/// The reason for a setting that does nothing.
pub(super) const NOT_IN_FORCE: &str = "NotInForce";

/// What an API server refuses, and what of that could not be judged. Where a problem says of the same field that no API server takes it,
/// its words are kept, and it has the reason.
pub(super) fn refused(objects: &[Object], problems: &[Problem], findings: &mut Vec<Finding>) {
    let mut judge = Judge::default();
    for object in objects {
        let judgement = judge.judge(object);
        let id = object.id();
        for refused in &judgement.refused {
            let is_same = |problem: &&Problem| {
                problem.class == Class::Schema && problem.object == id && is_about(&problem.field, refused)
            };
            let told: Vec<&Problem> = problems.iter().filter(is_same).collect();
            if told.is_empty() {
                let what = format!("{}; an API server refuses the object", refused.what);
                let (field, fix) = (&refused.field, "correct it");
                findings.push(Finding::of(object, field, Level::Error, REFUSED, &what, fix));
            }
            let fields: Vec<&str> = told.iter().map(|problem| problem.field.as_str()).collect();
            let name = id.to_string();
            let mine = |finding: &&mut Finding| finding.object.as_ref() == Some(&name) && finding.level == Level::Error;
            for finding in findings.iter_mut().filter(mine) {
                if finding.field.as_deref().is_some_and(|field| fields.contains(&field)) {
                    REFUSED.clone_into(&mut finding.reason);
                }
            }
        }
        for what in &judgement.unjudged {
            let fix = "apply it with --dry-run=server to see what the API server says";
            findings.push(Finding::of(object, "", Level::Note, NOT_JUDGED, what, fix));
        }
    }
}

/// Whether a problem of a field is what was refused: the same field, or for a rule one below it.
fn is_about(field: &str, refused: &Refused) -> bool {
    match field.strip_prefix(refused.field.as_str()) {
        Some("") => true,
        Some(rest) => refused.is_rule && rest.starts_with(['.', '[']),
        None => false,
    }
}

/// Settings that nobody reads where they stand.
pub(super) fn not_in_force(objects: &[Object], findings: &mut Vec<Finding>) {
    let is_namespace = |object: &&Object| object.is("Namespace");
    let is_enabled = |object: &&Object| {
        let label = object.value.pointer("/metadata/labels").and_then(|labels| labels.get(INJECT_LABEL));
        label.is_some_and(|label| label == "enabled")
    };
    let meshed = objects.iter().filter(is_namespace).filter(is_enabled).map(|object| object.name.as_str());
    let meshed: BTreeSet<&str> = meshed.collect();
    for object in objects {
        for told in misplaced(&object.value, meshed.contains(object.namespace.as_str())) {
            let level = if told.is_refused { Level::Error } else { Level::Warning };
            findings.push(Finding::of(object, &told.field, level, NOT_IN_FORCE, &told.what, &told.fix));
        }
    }
}
