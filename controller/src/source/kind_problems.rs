//! What is said of a kind of objects that cannot be read: what follows, and what to do.

use mesh_policy::well_known::{MESH_DESTINATION, POLICY_GROUP};
use mesh_resources::{Severity, kinds::Kind};

use crate::status::problems::ProblemEntry;

fn qualified(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.plural.to_owned() } else { format!("{}.{}", kind.plural, kind.group) }
}

/// What follows where it is not known who may call.
const UNTOLD: &str = "what was read of it before stays in force; until it was read once, no pod is told who may call it, so pods \
                      that start are not ready";

/// Permission is missing.
pub(super) fn denied(kind: &Kind, why: &str) -> ProblemEntry {
    let effect = if kind.restricts {
        UNTOLD
    } else if kind.is_needed {
        "without it nothing can be answered at a start; what was read before stays in force"
    } else {
        "what was read of it before stays in force"
    };
    let fix = format!("allow the ServiceAccount of {MESH_DESTINATION} to list and watch {}", qualified(kind));
    ProblemEntry::source(Severity::Error, "Denied", format!("no {} can be read: {why}; {effect}", kind.kind), fix)
}

/// The API server does not answer.
pub(super) fn away(kind: &Kind, why: &str) -> ProblemEntry {
    let what = format!("changes of {} cannot be followed: {why}; what was read before stays in force", kind.kind);
    ProblemEntry::source(Severity::Error, "Away", what, "see why the API server does not answer".to_owned())
}

/// It is not served, or about to be served no longer.
pub(super) fn absent(kind: &Kind) -> ProblemEntry {
    let effect = if kind.restricts { UNTOLD } else { "it is looked for again" };
    let what = format!("the API server serves no {}, or is about to stop; {effect}", qualified(kind));
    let fix = if kind.group == POLICY_GROUP {
        "install the definitions of Mesh: meshctl upgrade | kubectl apply -f -"
    } else {
        "install the Gateway API: meshctl install --gateway-api-crds | kubectl apply --server-side -f -"
    };
    let fix = fix.to_owned();
    let severity = if kind.restricts { Severity::Error } else { Severity::Warning };
    ProblemEntry::source(severity, "NotServed", what, fix)
}
