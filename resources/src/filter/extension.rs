//! `ExtensionRef`: filters of other kinds. Ours is the RetryPolicy, of a rule's own filters and in the route's namespace.

use std::sync::Arc;

use mesh_policy::{name::is_subdomain, well_known::POLICY_GROUP};

use super::Site;
use crate::{
    problem::{Place, Reason, Report},
    walker::{Invalid, Node, short},
};

/// A reference to a RetryPolicy in the route's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRef {
    /// Its name.
    pub name: Arc<str>,
    /// Where the reference is.
    pub place: Place,
}

/// Decodes `extensionRef`.
pub(super) fn decode(body: &Node<'_>, site: Site<'_>, report: &mut Report<'_>) -> Result<PolicyRef, Invalid> {
    body.only(&["group", "kind", "name"], report)?;
    let group = body.text("group", report)?.unwrap_or_default();
    let kind = body.required_text("kind", report)?;
    body.required_text("name", report)?;
    let name = body.name("name", is_subdomain, report)?.unwrap_or_default();
    if (group, kind) != (POLICY_GROUP, "RetryPolicy") {
        let what = format!("{} of group {} is no filter that is known here", short(kind), short(group));
        report.error(&body.field("kind"), Reason::InvalidKind, what, "refer to a RetryPolicy of policy.meshctl.dev");
        return Err(Invalid);
    }
    if !site.is_rule {
        let what = "a RetryPolicy is for a rule, not for one of its backends";
        report.error(&body.path, Reason::UnsupportedValue, what, "write it into the filters of the rule");
        return Err(Invalid);
    }
    Ok(PolicyRef { name: name.into(), place: report.place(&body.path) })
}
