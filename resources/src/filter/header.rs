//! Header modifiers, and the names of headers, which matches have as well.

use http::{HeaderName, HeaderValue};
use mesh_policy::HeaderModifier;

use crate::{
    problem::{Reason, Report},
    walker::{Invalid, MAX_LIST, Node},
};

/// Decodes `requestHeaderModifier` or `responseHeaderModifier`.
pub(super) fn decode(body: &Node<'_>, report: &mut Report<'_>) -> Result<HeaderModifier, Invalid> {
    body.only(&["set", "add", "remove"], report)?;
    let mut modifier = HeaderModifier::default();
    for (name, list) in [("set", &mut modifier.set), ("add", &mut modifier.add)] {
        for item in body.at_most(name, MAX_LIST, report)? {
            item.only(&["name", "value"], report)?;
            let header = decode_header_name(&item, report)?;
            check_changeable(&item, "name", &header, report)?;
            let Ok(value) = HeaderValue::from_str(item.required_text("value", report)?) else {
                let what = "a header cannot have this value".to_owned();
                return Err(item.unsupported("value", what, "use visible characters", report));
            };
            // Of equivalent names only the first counts.
            if list.iter().any(|(n, _)| *n == header) {
                let what = format!("{header} is in the list already; this entry is ignored");
                report.warning(&item.path, Reason::UnsupportedValue, what, "remove one of the two");
            } else {
                list.push((header, value));
            }
        }
    }
    for (item, text) in body.texts("remove", MAX_LIST, report)? {
        modifier.remove.push(HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            // The CRD takes any text here.
            let what = format!("{text:?} is not a header name");
            report.error(&item.path, Reason::UnsupportedValue, what, "use letters, digits and -");
            Invalid
        })?);
    }
    Ok(modifier)
}

/// Headers that a filter cannot set: the host is the authority's, what frames a message or belongs to its connection is the
/// proxies' (RFC 9110 section 7.6.1), and `mesh-` is what they tell each other.
fn check_changeable(node: &Node<'_>, field: &str, name: &HeaderName, report: &mut Report<'_>) -> Result<(), Invalid> {
    const FRAMING: [&str; 8] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = name.as_str();
    let fix = match name {
        "host" => "write a URLRewrite with `hostname`",
        _ if FRAMING.contains(&name) || name.starts_with("mesh-") || name.starts_with("mesh_") => "remove the entry",
        _ => return Ok(()),
    };
    Err(node.unsupported(field, format!("{name} cannot be set by a filter"), fix, report))
}

/// The `name` of a header entry.
pub(crate) fn decode_header_name(node: &Node<'_>, report: &mut Report<'_>) -> Result<HeaderName, Invalid> {
    let text = node.required_text("name", report)?;
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        node.invalid("name", format!("{text:?} is not a header name"), "use letters, digits and -", report)
    })
}
