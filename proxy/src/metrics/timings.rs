//! How long requests took and how large their bodies were, by direction, route, backend and the workload of this pod: fewer label
//! sets than requests are counted by, for a histogram has twenty lines.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    Direction,
    histogram::{Histogram, LINES},
    labels::{label_text, overflow},
    room::Room,
};

const FIRST_BYTE: &str = "mesh_response_latency_seconds";
const WHOLE: &str = "mesh_request_duration_seconds";
const BODIES: &str = "mesh_body_bytes_total";
/// The lines of one label set: two histograms, two flows of bytes.
const LINES_OF_A_SET: usize = 2 * LINES + 2;

/// One label set's.
#[derive(Default)]
pub(super) struct Timings {
    first_byte: Histogram,
    whole: Histogram,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Timings {
    /// The response's head came after so long.
    pub(super) fn answered(&self, after: Duration) {
        self.first_byte.observe(after);
    }

    /// The request ended after so long, and had bodies of so many bytes.
    pub(super) fn ended(&self, after: Duration, (sent, received): (u64, u64)) {
        self.whole.observe(after);
        self.sent.fetch_add(sent, Relaxed);
        self.received.fetch_add(received, Relaxed);
    }
}

/// All of them, by the text of their labels: those that come back, or are known to several workers, are one.
#[derive(Default)]
pub(super) struct AllTimings(Mutex<BTreeMap<String, Arc<Timings>>>);

impl AllTimings {
    /// Those of a label set, or of the one for all that there is no room for.
    pub(super) fn of(&self, room: &Room, direction: Direction, labels: &[(&'static str, String)]) -> Arc<Timings> {
        let names = match direction {
            Direction::Outbound => ["direction", "route", "backend", "src_namespace", "src_workload"],
            Direction::Inbound => ["direction", "route", "backend", "dst_namespace", "dst_workload"],
        };
        let text = label_text(names.iter().filter_map(|name| labels.iter().find(|(known, _)| known == name)));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&text) {
            return known.clone();
        }
        let bytes = WHOLE.len() + text.len() + r#"_bucket,le="0.0005""#.len();
        let text = match room.take(LINES_OF_A_SET, bytes) {
            true => text,
            false => label_text(&overflow(direction)),
        };
        all.entry(text).or_default().clone()
    }

    /// Those that have anything, in the text format of Prometheus.
    pub(super) fn render(&self, help: impl Fn(&str) -> &'static str, text: &mut String) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = |name, of: fn(&Timings) -> &Histogram, text: &mut String| {
            if all.values().any(|timings| !of(timings).is_empty()) {
                let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} histogram", help(name));
                all.iter().for_each(|(labels, timings)| of(timings).render(name, labels, text));
            }
        };
        histogram(FIRST_BYTE, |timings| &timings.first_byte, text);
        histogram(WHOLE, |timings| &timings.whole, text);
        let flows =
            |timings: &Timings| [("sent", timings.sent.load(Relaxed)), ("received", timings.received.load(Relaxed))];
        let lines = all.iter().flat_map(|(labels, timings)| flows(timings).map(|(flow, bytes)| (labels, flow, bytes)));
        let mut lines = lines.filter(|(.., bytes)| *bytes > 0).peekable();
        if lines.peek().is_some() {
            let _ = writeln!(text, "# HELP {BODIES} {}\n# TYPE {BODIES} counter", help(BODIES));
        }
        for (labels, flow, bytes) in lines {
            let _ = writeln!(text, "{BODIES}{{{labels}flow=\"{flow}\"}} {bytes}");
        }
    }
}
