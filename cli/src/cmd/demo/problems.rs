//! What the controller says is wrong with the manifests: `/problems`, one line of text each.

use std::net::SocketAddr;

use serde::Deserialize;

use super::metrics;

/// Problems that are shown; the rest is a number.
const MAX_SHOWN: usize = 4;

/// Characters of a problem that are kept.
const MAX_LINE: usize = 400;

/// One entry of the page; what is not shown is not read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    file: Option<String>,
    line: Option<u64>,
    object: Option<String>,
    field: Option<String>,
    what: String,
    fix: String,
}

/// The problems now in force, in words. When the controller cannot be asked or understood, that is the problem.
pub(super) async fn of(controller: SocketAddr) -> Vec<String> {
    match metrics::page(controller, "/problems").await {
        Ok(body) => lines(&body),
        Err(error) => vec![format!("the controller does not say what is wrong with the manifests: {error:#}")],
    }
}

fn lines(body: &[u8]) -> Vec<String> {
    let problems: Vec<Problem> = match serde_json::from_slice(body) {
        Ok(problems) => problems,
        Err(error) => return vec![format!("the controller's /problems is not understood: {error}")],
    };
    let mut lines: Vec<_> = problems.iter().take(MAX_SHOWN).map(Problem::text).collect();
    if problems.len() > MAX_SHOWN {
        lines.push(format!("and {} more", problems.len() - MAX_SHOWN));
    }
    lines
}

impl Problem {
    /// `file:line: HTTPRoute demo/web: field: what; fix: …`, without the parts that are absent.
    fn text(&self) -> String {
        let place = match (&self.file, self.line) {
            (Some(file), Some(line)) => Some(format!("{file}:{line}")),
            (file, _) => file.clone(),
        };
        let about = [place, self.object.clone(), self.field.clone(), Some(self.what.clone())];
        let mut text = about.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        if !self.fix.is_empty() {
            text = format!("{text}; fix: {}", self.fix);
        }
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_LINE).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_a_line_with_its_place() {
        let page = serde_json::json!([{
            "severity": "error", "file": "20-route.yaml", "line": 3, "column": 1, "object": "HTTPRoute demo/web",
            "field": "spec.rules[0]", "reason": "UnsupportedValue", "what": "no such field", "fix": "remove it"
        }]);
        assert_eq!(
            lines(page.to_string().as_bytes()),
            ["20-route.yaml:3: HTTPRoute demo/web: spec.rules[0]: no such field; fix: remove it"]
        );
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let page = br#"[{"file":null,"object":null,"field":null,"what":"the folder is gone","fix":""}]"#;
        assert_eq!(lines(page), ["the folder is gone"]);
        assert!(lines(b"[]").is_empty());
    }

    #[test]
    fn a_page_that_is_no_list_is_said_to_be_so() {
        assert!(lines(b"not json")[0].contains("/problems is not understood"));
    }

    #[test]
    fn there_is_an_end_to_them() {
        let page = serde_json::json!(vec![serde_json::json!({"what": "x".repeat(1_000)}); 9]).to_string();
        let lines = lines(page.as_bytes());
        assert_eq!((lines.len(), lines[4].as_str(), lines[0].len()), (5, "and 5 more", MAX_LINE));
    }
}
