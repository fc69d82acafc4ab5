//! How checks are told: as text that can be read aloud, one line where all is well, as JSON for scripts.

use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use crossterm::style::Color;
use serde::Serialize;

use super::{Status, run::Report};
use crate::output::{self, Style};

/// The forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Every check, by area
    Table,
    /// Only what is not well, and the result
    Short,
    /// One JSON object
    Json,
}

/// Tells reports one after the other.
pub struct Teller {
    form: Form,
    style: Style,
    area: &'static str,
}

impl Teller {
    /// Begins.
    pub fn new(form: Form, style: Style) -> Self {
        Self { form, style, area: "" }
    }

    /// The text of one report, which may be none.
    pub fn text(&mut self, report: &Report) -> String {
        let check = report.check;
        let mut text = String::new();
        let plain = matches!(report.status, Status::Ok | Status::Skipped);
        if self.form == Form::Json || (self.form == Form::Short && plain) {
            return text;
        }
        if self.form == Form::Table && self.area != check.area {
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
        // What passed is told by what was seen; the rest begins with what was looked for.
        let head = match report.status {
            Status::Ok => report.said.clone(),
            Status::Skipped | Status::Warning | Status::Failed => format!("{}: {}", check.what, report.said),
        };
        text.push_str(&format!("  {} {head}\n", self.style.paint(word, colour)));
        if !plain {
            text.push_str(&format!("          why:  {}\n", check.why));
            text.push_str(&format!("          mend: {}\n", report.mend));
            text.push_str(&format!(
                "          page: docs/checks/{id}.md, or: meshctl check --explain {id}\n",
                id = check.id
            ));
        }
        text
    }

    /// The end of it.
    pub fn end(&self, reports: &[Report], took: Duration) -> anyhow::Result<String> {
        if self.form == Form::Json {
            return json(reports, took);
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
        let gap = if self.form == Form::Table { "\n" } else { "" };
        Ok(format!("{gap}{}, in {:.1} s", parts.join(", "), took.as_secs_f64()))
    }
}

/// The object of `-o json`.
fn json(reports: &[Report], took: Duration) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Object<'r> {
        result: Status,
        seconds: f64,
        checks: Vec<Line<'r>>,
    }
    #[derive(Serialize)]
    struct Line<'r> {
        id: &'r str,
        area: &'r str,
        what: &'r str,
        status: Status,
        said: &'r str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'r str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mend: Option<&'r str>,
        page: String,
        milliseconds: u128,
    }
    let lines = reports.iter().map(|report| {
        let is_bad = matches!(report.status, Status::Warning | Status::Failed);
        Line {
            id: report.check.id,
            area: report.check.area,
            what: report.check.what,
            status: report.status,
            said: &report.said,
            why: is_bad.then_some(report.check.why),
            mend: is_bad.then_some(&report.mend),
            page: format!("docs/checks/{}.md", report.check.id),
            milliseconds: report.took.as_millis(),
        }
    });
    let object = Object { result: result(reports), seconds: took.as_secs_f64(), checks: lines.collect() };
    serde_json::to_string_pretty(&object).context("the result has no JSON form")
}

/// The worst that happened; what was skipped does not count.
pub fn result(reports: &[Report]) -> Status {
    let has = |status| reports.iter().any(|report| report.status == status);
    match (has(Status::Failed), has(Status::Warning)) {
        (true, _) => Status::Failed,
        (false, true) => Status::Warning,
        (false, false) => Status::Ok,
    }
}

/// Prints text that may be empty.
pub fn print(text: &str) -> anyhow::Result<()> {
    match text.strip_suffix('\n') {
        Some(text) => output::line(text),
        None if text.is_empty() => Ok(()),
        None => output::line(text),
    }
}

fn count(number: usize, what: &str) -> String {
    super::count(number, what)
}
