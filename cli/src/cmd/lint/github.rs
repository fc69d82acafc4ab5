//! Commands of GitHub's workflows: a line of output that becomes an annotation of a line of a file.

use super::finding::{Finding, Level};

/// `::error file=...,line=...,title=...::message`.
pub(super) fn command(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "notice",
    };
    let line = finding.line.map(|line| line.to_string());
    let properties = [("file", finding.file.as_ref()), ("line", line.as_ref()), ("title", Some(&finding.reason))];
    let properties: Vec<String> =
        properties.iter().filter_map(|(name, value)| Some(format!("{name}={}", property(value.as_ref()?)))).collect();
    let fix = if finding.fix.is_empty() { String::new() } else { format!("; fix: {}", finding.fix) };
    format!("::{level} {}::{}", properties.join(","), data(&format!("{}{fix}", finding.message())))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
