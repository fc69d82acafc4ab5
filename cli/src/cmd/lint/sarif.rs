//! SARIF 2.1.0, the format of static analysis results (OASIS), as code scanning takes it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    finding::{Finding, Level, REPEATED, UNREADABLE},
    told::{NOT_IN_FORCE, NOT_JUDGED, REFUSED},
};

/// Where the format is described.
const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// The log of one run. Its rules are the reasons.
pub(super) fn log(findings: &[Finding]) -> Value {
    let reasons: Vec<&str> = findings.iter().map(|f| f.reason.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let rules: Vec<Value> = reasons
        .iter()
        .map(|reason| json!({ "id": reason, "name": reason, "shortDescription": { "text": about(reason) } }))
        .collect();
    let results: Vec<Value> = findings.iter().map(|finding| result(finding, &reasons)).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "meshctl lint",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(finding: &Finding, reasons: &[&str]) -> Value {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    };
    let fix = if finding.fix.is_empty() { String::new() } else { format!(". Fix: {}", finding.fix) };
    let mut result = json!({
        "ruleId": finding.reason,
        "level": level,
        "message": { "text": format!("{}{fix}", finding.message()) },
    });
    if let Some(index) = reasons.iter().position(|reason| *reason == finding.reason) {
        result["ruleIndex"] = index.into();
    }
    let mut location = json!({});
    if let Some(file) = &finding.file {
        location["physicalLocation"] = json!({ "artifactLocation": { "uri": uri(file) } });
        if let Some(line) = finding.line {
            location["physicalLocation"]["region"] = json!({ "startLine": line.max(1) });
        }
    }
    if let Some(object) = &finding.object {
        let field = finding.field.as_ref().map(|field| format!(": {field}")).unwrap_or_default();
        location["logicalLocations"] = json!([{ "fullyQualifiedName": format!("{object}{field}"), "kind": "object" }]);
    }
    result["locations"] = json!([location]);
    result
}

/// A path as a reference of RFC 3986: what a path may have and a URI may not is percent-encoded.
fn uri(path: &str) -> String {
    let path = path.replace('\\', "/");
    path.split('/').map(crate::kube::encode).collect::<Vec<_>>().join("/")
}

fn about(reason: &str) -> &str {
    match reason {
        UNREADABLE => "The file cannot be read as manifests.",
        REPEATED => "The object is in the files more than once.",
        REFUSED => "An API server refuses the object.",
        NOT_JUDGED => "It could not be judged whether an API server takes the object.",
        NOT_IN_FORCE => "A setting stands where nobody reads it, or is misspelt.",
        "UnsupportedValue" => "A value or a field is wrong or not supported.",
        "BackendNotFound" => "A backend does not exist.",
        "InvalidKind" => "A backend is of a kind that is not a Service.",
        "RefNotPermitted" => "No ReferenceGrant allows a reference to another namespace.",
        "NoMatchingParent" => "A parent, or a port of one, does not exist.",
        "Conflicted" => "Another object of the same rank goes first.",
        "TooManyRoutes" => "More routes are attached to a port than it can have.",
        "IncompatibleFilters" => "Filters may not be combined.",
        other => other,
    }
}
