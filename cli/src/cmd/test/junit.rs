//! Results in the XML that CI servers read: that of Ant's JUnit task, as far as they agree on it.

use std::fmt::Write as _;

use super::{TestOutcome, details};

/// The report: a suite for each file.
pub(super) fn report(outcomes: &[TestOutcome]) -> String {
    let failures = |of: &[&TestOutcome]| of.iter().filter(|outcome| !outcome.passed).count();
    let all: Vec<&TestOutcome> = outcomes.iter().collect();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(xml, "<testsuites tests=\"{}\" failures=\"{}\">", all.len(), failures(&all));
    for of_file in outcomes.chunk_by(|a, b| a.file == b.file) {
        let of_file: Vec<&TestOutcome> = of_file.iter().collect();
        let Some(first) = of_file.first() else { continue };
        let name = escaped(&first.file);
        let (tests, failed) = (of_file.len(), failures(&of_file));
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failed}\" errors=\"0\" skipped=\"0\">"
        );
        for outcome in of_file {
            let case = format!("    <testcase classname=\"{name}\" name=\"{}\"", escaped(&outcome.name));
            if outcome.passed {
                let _ = writeln!(xml, "{case}/>");
                continue;
            }
            let fields: Vec<&str> = outcome.differences.iter().map(|difference| difference.field.as_str()).collect();
            let message = escaped(&format!("not as expected: {}", fields.join(", ")));
            let text = escaped(&details(outcome).join("\n"));
            let _ = writeln!(xml, "{case}>\n      <failure message=\"{message}\">{text}</failure>\n    </testcase>");
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// Text of XML 1.0, which has no place for most control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
