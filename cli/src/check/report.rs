//! How the results of checks are printed: as text, one line where all is well, or as an object for scripts.

use std::time::Duration;

use crossterm::style::Color;
use serde::Serialize;

use super::{Status, run::Report};
use crate::output::{self, Format, JSON, Style, YAML};

/// What `-o` takes of `meshctl check`.
pub(crate) const FORMATS: [(Format, &str); 4] =
    [(Format::Table, "Every check, by area"), (Format::Short, "Only what is not well, and the result"), JSON, YAML];

/// Prints reports one after the other.
pub(crate) struct Teller {
    format: Format,
    style: Style,
    area: &'static str,
}

impl Teller {
    /// Begins.
    pub(crate) fn new(format: Format, style: Style) -> Self {
        Self { format, style, area: "" }
    }

    /// Whether all reports are printed together at the end.
    fn is_object(&self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// The text of one report, which may be none.
    pub(crate) fn text(&mut self, report: &Report) -> String {
        let check = report.check;
        let mut text = String::new();
        let plain = matches!(report.status, Status::Ok | Status::Skipped);
        if self.is_object() || (self.format == Format::Short && plain) {
            return text;
        }
        if self.format == Format::Table && self.area != check.area {
            let gap = if self.area.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{}\n", self.style.bold(check.area)));
            self.area = check.area;
        }
        let (word, colour) = match report.status {
            Status::Ok => ("ok     ", Color::Green),
            Status::Warning => ("warning", Color::Yellow),
            Status::Failed => ("FAILED ", Color::Red),
            Status::Skipped => ("skipped", Color::DarkGrey),
        };
        // A check that passed shows what was seen; any other begins with what should have been.
        let head = match report.status {
            Status::Ok => report.message.clone(),
            Status::Skipped | Status::Warning | Status::Failed => format!("{}: {}", check.what, report.message),
        };
        text.push_str(&format!("  {} {head}\n", self.style.paint(word, colour)));
        if !plain {
            text.push_str(&format!("          why:  {}\n", check.why));
            text.push_str(&format!("          mend: {}\n", report.fix));
            text.push_str(&format!(
                "          page: docs/checks/{id}.md, or: meshctl check --explain {id}\n",
                id = check.id
            ));
        }
        text
    }

    /// The last line, or the whole object.
    pub(crate) fn end(&self, reports: &[Report], took: Duration) -> anyhow::Result<String> {
        if self.is_object() {
            return output::pretty(self.format, &Object::new(reports, took));
        }
        let of = |status| reports.iter().filter(|report| report.status == status).count();
        let (failed, warnings, skipped) = (of(Status::Failed), of(Status::Warning), of(Status::Skipped));
        let mut parts = Vec::new();
        match failed {
            0 => parts.push(self.style.paint(&format!("{} passed", count(of(Status::Ok), "check")), Color::Green)),
            some => {
                parts.push(self.style.paint(&format!("{some} of {} failed", count(reports.len(), "check")), Color::Red))
            }
        }
        parts.extend((warnings > 0).then(|| count(warnings, "warning")));
        parts.extend((skipped > 0).then(|| format!("{skipped} skipped")));
        let gap = if self.format == Format::Table { "\n" } else { "" };
        Ok(format!("{gap}{}, in {:.1} s", parts.join(", "), took.as_secs_f64()))
    }
}

/// The object for a cluster that could not be asked at all, if one is wanted.
pub(crate) fn failed(format: Format, why: &str) -> anyhow::Result<Option<String>> {
    match format {
        Format::Json | Format::Yaml => {
            let object = serde_json::json!({ "result": Status::Failed, "seconds": 0.0, "checks": [], "error": why });
            output::pretty(format, &object).map(Some)
        }
        _ => Ok(None),
    }
}

/// The object of `-o json|yaml`; its keys are an interface.
#[derive(Serialize)]
struct Object<'r> {
    result: Status,
    seconds: f64,
    checks: Vec<CheckObject<'r>>,
}

/// A check in it.
#[derive(Serialize)]
struct CheckObject<'r> {
    id: &'r str,
    area: &'r str,
    what: &'r str,
    status: Status,
    #[serde(rename = "said")]
    message: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'r str>,
    #[serde(rename = "mend", skip_serializing_if = "Option::is_none")]
    fix: Option<&'r str>,
    page: String,
    milliseconds: u128,
}

impl<'r> Object<'r> {
    fn new(reports: &'r [Report], took: Duration) -> Self {
        let checks = reports.iter().map(CheckObject::from).collect();
        Self { result: result(reports), seconds: took.as_secs_f64(), checks }
    }
}

impl<'r> From<&'r Report> for CheckObject<'r> {
    fn from(report: &'r Report) -> Self {
        let is_bad = matches!(report.status, Status::Warning | Status::Failed);
        Self {
            id: report.check.id,
            area: report.check.area,
            what: report.check.what,
            status: report.status,
            message: &report.message,
            why: is_bad.then_some(report.check.why),
            fix: is_bad.then_some(&report.fix),
            page: format!("docs/checks/{}.md", report.check.id),
            milliseconds: report.took.as_millis(),
        }
    }
}

/// The worst status; what was skipped does not count.
pub(crate) fn result(reports: &[Report]) -> Status {
    let has = |status| reports.iter().any(|report| report.status == status);
    match (has(Status::Failed), has(Status::Warning)) {
        (true, _) => Status::Failed,
        (false, true) => Status::Warning,
        (false, false) => Status::Ok,
    }
}

/// Prints text that may be empty.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match text.strip_suffix('\n') {
        Some(text) => output::line(text),
        None if text.is_empty() => Ok(()),
        None => output::line(text),
    }
}

fn count(number: usize, what: &str) -> String {
    super::count(number, what)
}
