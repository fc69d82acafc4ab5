//! What the controller says is wrong with the manifests: `/problems`, one line of text each.

use std::net::SocketAddr;

use serde_json::Value;

use super::metrics;

/// Problems that are shown; the rest is a number.
const MAX_SHOWN: usize = 4;

/// Characters of a problem that are kept.
const MAX_LINE: usize = 400;

/// The problems now in force, in words. None when the controller cannot be asked just now: it is no news about the
/// manifests.
pub async fn of(controller: SocketAddr) -> Vec<String> {
    metrics::page(controller, "/problems").await.map_or_else(|_| Vec::new(), |body| lines(&body))
}

/// Reads the page: a list of problems, itself or in a field `problems`.
fn lines(body: &[u8]) -> Vec<String> {
    let page: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(list) = page.as_array().or_else(|| page["problems"].as_array()) else { return Vec::new() };
    let mut lines: Vec<_> = list.iter().take(MAX_SHOWN).map(line).collect();
    if list.len() > MAX_SHOWN {
        lines.push(format!("and {} more", list.len() - MAX_SHOWN));
    }
    lines
}

/// `file:line: HTTPRoute demo/web: field: what; fix: …`, without the parts that are absent.
fn line(problem: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let source = &problem["source"];
    let place = text(source).or_else(|| {
        let file = text(&source["file"])?;
        Some(text(&source["line"]).map_or(file.clone(), |line| format!("{file}:{line}")))
    });
    let object = &problem["object"];
    let object = text(object).or_else(|| {
        let name = text(&object["name"])?;
        let name = text(&object["namespace"]).map_or(name.clone(), |ns| format!("{ns}/{name}"));
        Some(format!("{} {name}", text(&object["kind"]).unwrap_or_default()))
    });
    let parts = [place, object, text(&problem["field"]), text(&problem["what"])];
    let mut line = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    if let Some(fix) = text(&problem["fix"]) {
        line = format!("{line}; fix: {fix}");
    }
    if line.is_empty() {
        line = problem.to_string();
    }
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_LINE).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_a_line_with_its_place() {
        let page = serde_json::json!([{
            "severity": "error", "object": {"kind": "HTTPRoute", "namespace": "demo", "name": "web"},
            "source": {"file": "20-route.yaml", "line": 3}, "field": "spec.rules[0]", "what": "no such field",
            "fix": "remove it", "reason": "UnsupportedValue"
        }]);
        assert_eq!(
            lines(page.to_string().as_bytes()),
            ["20-route.yaml:3: HTTPRoute demo/web: spec.rules[0]: no such field; fix: remove it"]
        );
    }

    #[test]
    fn what_is_absent_is_left_out_and_nonsense_is_shown_as_it_is() {
        assert_eq!(lines(br#"{"problems":[{"source":"a.yaml:7","what":"tab"}]}"#), ["a.yaml:7: tab"]);
        assert_eq!(lines(br#"[{"odd":1}]"#), [r#"{"odd":1}"#]);
        assert!(lines(b"not json").is_empty());
    }

    #[test]
    fn there_is_an_end_to_them() {
        let page = serde_json::json!(vec![serde_json::json!({"what": "x".repeat(1_000)}); 9]).to_string();
        let lines = lines(page.as_bytes());
        assert_eq!((lines.len(), lines[4].as_str(), lines[0].len()), (5, "and 5 more", MAX_LINE));
    }
}
