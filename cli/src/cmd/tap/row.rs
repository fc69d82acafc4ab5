//! An event as a line.

use crossterm::style::Color;
use mesh_policy::access_log::HEADER_ATTRIBUTE;
use serde_json::{Map, Value};

use super::words::{cell, without_markup};
use crate::output::{self, Format, Style};

/// Columns, and how wide they are at least. Lines come one by one, so nobody knows the longest cell.
const COLUMNS: [(&str, usize); 11] = [
    ("TIME", 12),
    ("DIRECTION", 9),
    ("SOURCE", 18),
    ("DESTINATION", 24),
    ("METHOD", 6),
    ("PATH", 24),
    ("STATUS", 6),
    ("CLASS", 9),
    ("LATENCY", 9),
    ("ATTEMPTS", 8),
    ("DECISION", 16),
];
/// Those that `wide` has as well.
const MORE: [(&str, usize); 4] = [("POD", 20), ("ROUTE", 16), ("ERROR", 16), ("BYTES", 12)];
/// Characters of a cell; `wide` cuts nothing.
const MAX_CELL: usize = 60;
/// Where the class is.
const CLASS: usize = 7;
/// Where `HH:MM:SS.mmm` is in a time of RFC 3339.
const CLOCK: std::ops::Range<usize> = 11..23;

/// Prints events.
pub(super) struct Printer {
    format: Format,
    /// What may have secrets in it and was asked for.
    named: Vec<String>,
    style: Style,
}

impl Printer {
    pub(super) fn new(format: Format, named: Vec<String>, style: Style) -> Self {
        Self { format, named, style }
    }

    fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    fn columns(&self) -> impl Iterator<Item = (&'static str, usize)> {
        COLUMNS.into_iter().chain(MORE.into_iter().filter(|_| self.is_wide()))
    }

    /// Prints the head of a table.
    pub(super) fn begin(&self) -> anyhow::Result<()> {
        if self.format == Format::Json {
            return Ok(());
        }
        let titles: Vec<String> = self.columns().map(|(title, width)| format!("{title:<width$}")).collect();
        output::line(&self.style.bold(titles.join("  ").trim_end()))
    }

    /// Prints an event. Whether it was one of a request or connection.
    pub(super) fn print(&self, sidecar: &str, event: Map<String, Value>) -> anyhow::Result<bool> {
        let is_skipped = event.get("phase").is_some_and(|phase| phase == "skipped");
        if is_skipped && self.format != Format::Json {
            let count = event.get("count").and_then(Value::as_u64).unwrap_or_default();
            output::note(&format!("note: {sidecar}: {count} events were skipped; see --rate, or narrow what is shown"));
            return Ok(false);
        }
        output::line(&self.line(sidecar, event))?;
        Ok(!is_skipped)
    }

    /// The line of an event.
    pub(super) fn line(&self, sidecar: &str, mut event: Map<String, Value>) -> String {
        let is_secret = |name: &str| name == "url.query" || name.starts_with("http.re") && name.contains(".header.");
        event.retain(|name, _| !is_secret(name) || self.named.iter().any(|named| named == name));
        if self.format == Format::Json {
            event.insert("pod".to_owned(), sidecar.into());
            return without_markup(&Value::Object(event).to_string());
        }
        let cells = cells(&event).into_iter().chain(more(sidecar, &event).into_iter().filter(|_| self.is_wide()));
        let mut line = String::new();
        for (place, (text, (_, width))) in cells.zip(self.columns()).enumerate() {
            let gap = if place > 0 { "  " } else { "" };
            let text = self.cut(&cell(&text));
            let padded = format!("{text:<width$}");
            let shown = if place == CLASS { self.style.paint(&padded, colour(&text)) } else { padded };
            line += &format!("{gap}{shown}");
        }
        for name in &self.named {
            if let Some(value) = event.get(name) {
                let short = name.strip_prefix(HEADER_ATTRIBUTE).unwrap_or(name);
                line += &format!("  {}={}", cell(short), self.cut(&cell(&text(value))));
            }
        }
        line.trim_end().to_owned()
    }

    fn cut(&self, text: &str) -> String {
        if self.is_wide() || text.chars().nth(MAX_CELL).is_none() {
            return text.to_owned();
        }
        text.chars().take(MAX_CELL - 1).chain(['\u{2026}']).collect()
    }
}

/// A value as it is read by people; `-` where there is none.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn cells(event: &Map<String, Value>) -> [String; COLUMNS.len()] {
    let get = |name: &str| event.get(name).map_or_else(|| "-".to_owned(), text);
    let first = |names: &[&str]| names.iter().map(|name| get(name)).find(|text| text != "-");
    let or_none = |found: Option<String>| found.unwrap_or_else(|| "-".to_owned());
    let is_open = event.get("phase").is_some_and(|phase| phase == "open");
    let (is_inbound, peer) = (get("mesh.direction") == "inbound", first(&["network.peer.address"]));
    let source = first(&["mesh.source.identity"]).map(|identity| of_identity(&identity));
    let source = source.or_else(|| peer.clone().filter(|_| is_inbound));
    let workload =
        || Some(format!("{}/{}", first(&["mesh.destination.namespace"])?, first(&["mesh.destination.workload"])?));
    let destination = first(&["mesh.destination.pod"])
        .or_else(workload)
        .or_else(|| first(&["mesh.destination.identity"]).map(|identity| of_identity(&identity)))
        .or_else(|| first(&["mesh.backend"]))
        .or_else(|| peer.filter(|_| !is_inbound));
    let time = event.get("timestamp").and_then(Value::as_str).and_then(|time| time.get(CLOCK));
    let grpc = first(&["rpc.response.status_code"]).map(|code| format!("grpc:{code}"));
    let latency = ["mesh.first_byte", "mesh.duration"].iter().find_map(|name| event.get(*name)?.as_f64());
    [
        or_none(time.map(str::to_owned)),
        get("mesh.direction"),
        or_none(source),
        or_none(destination),
        get("http.request.method"),
        get("url.path"),
        or_none(grpc.or_else(|| first(&["http.response.status_code"]))),
        if is_open { "open".to_owned() } else { get("mesh.class") },
        or_none(latency.map(|seconds| format!("{:.1}ms", seconds * 1_000.0))),
        get("mesh.attempts"),
        get("mesh.decision.id"),
    ]
}

fn more(sidecar: &str, event: &Map<String, Value>) -> [String; MORE.len()] {
    let get = |name: &str| event.get(name).map_or_else(|| "-".to_owned(), text);
    let bytes = format!("{}/{}", get("mesh.bytes.sent"), get("mesh.bytes.received"));
    [sidecar.to_owned(), get("mesh.route"), get("error.type"), bytes]
}

/// `NAMESPACE/SERVICE-ACCOUNT` of an identity that has both; else the whole.
fn of_identity(identity: &str) -> String {
    let parsed = mesh_policy::Identity::parse(identity);
    parsed.map_or_else(|_| identity.to_owned(), |id| format!("{}/{}", id.namespace(), id.service_account()))
}

fn colour(class: &str) -> Color {
    match class {
        "success" => Color::Green,
        "failure" => Color::Red,
        "open" => Color::Cyan,
        _ => Color::Yellow,
    }
}
