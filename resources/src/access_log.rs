//! What the annotations of a Namespace or of a Pod say of the access log of sidecars. What is wrong is told, and counts as
//! absent.

use std::sync::Arc;

use mesh_policy::{
    access_log::{AccessLog, Attributes},
    well_known::{ACCESS_LOG_ANNOTATION, ACCESS_LOG_ATTRIBUTES_ANNOTATION},
};

use crate::{problem::Report, walker::Node};

/// The access log that an object's annotations ask for; `None`: they say nothing.
pub(crate) fn decode(root: &Node<'_>, report: &mut Report<'_>) -> Option<Arc<AccessLog>> {
    let annotations = root.get("metadata").and_then(|metadata| metadata.get("annotations"))?;
    let log = read(&annotations, ACCESS_LOG_ANNOTATION, AccessLog::read, "write one as in errors,slow=500ms", report)?;
    let fix = "write names as in url.query,http.request.header.x-user";
    let attributes = read(&annotations, ACCESS_LOG_ATTRIBUTES_ANNOTATION, Attributes::read, fix, report);
    Some(Arc::new(AccessLog { attributes: attributes.unwrap_or_default(), ..log }))
}

fn read<T>(
    annotations: &Node<'_>,
    name: &str,
    read: impl Fn(&str) -> Result<T, String>,
    fix: &'static str,
    report: &mut Report<'_>,
) -> Option<T> {
    let text = annotations.text(name, report).ok().flatten()?;
    match read(text) {
        Ok(read) => Some(read),
        Err(what) => {
            annotations.unsupported(name, what, fix, report);
            None
        }
    }
}

/// What it takes in memory, about.
pub(crate) fn bytes(log: Option<&AccessLog>) -> usize {
    let headers = |log: &AccessLog| log.attributes.headers.iter().map(|name| name.as_str().len() + 64).sum::<usize>();
    log.map_or(0, |log| size_of_val(log) + headers(log))
}
