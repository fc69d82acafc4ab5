//! Figures of all rounds as a table, as JSON and as a page.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{cases::Figures, change::Change, stage::Party};

/// The figures of each case and metric, in the order they came.
#[derive(Default)]
pub(super) struct Results {
    rows: Vec<Row>,
}

/// One metric of one case, a value a round.
struct Row {
    case: &'static str,
    metric: &'static str,
    mesh: Vec<f64>,
    envoy: Vec<f64>,
    direct: Vec<f64>,
    before: Vec<f64>,
}

/// Smallest, middle and largest of some values.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Results {
    /// Adds a measurement of one round.
    pub(super) fn add(&mut self, case: &'static str, party: Party, figures: Figures) {
        for (metric, value) in figures {
            let row = match self.rows.iter_mut().position(|row| (row.case, row.metric) == (case, metric)) {
                Some(at) => &mut self.rows[at],
                None => {
                    self.rows.push(Row { case, metric, mesh: vec![], envoy: vec![], direct: vec![], before: vec![] });
                    let last = self.rows.len() - 1;
                    &mut self.rows[last]
                }
            };
            match party {
                Party::Mesh => row.mesh.push(value),
                Party::Envoy => row.envoy.push(value),
                Party::Direct => row.direct.push(value),
                Party::Before => row.before.push(value),
            }
        }
    }

    /// What the build before and this one cost, where both were measured.
    pub(super) fn changes(&self) -> Vec<Change> {
        let change = |row: &&Row| Change::of(row.case, row.metric, &row.before, &row.mesh);
        self.ordered().iter().filter_map(change).collect()
    }

    /// Case, then metric, then the rounds of each party and the ratio of Mesh to Envoy.
    pub(super) fn json(&self) -> Value {
        let mut cases = Map::new();
        for row in &self.rows {
            let mut metric = json!({"mesh": row.mesh, "envoy": row.envoy});
            if !row.direct.is_empty() {
                metric["direct"] = json!(row.direct);
            }
            if let Some(change) = Change::of(row.case, row.metric, &row.before, &row.mesh) {
                metric["before"] = json!(row.before);
                metric["change"] = change.json();
            }
            if let Some(Spread { min, median, max }) = row.ratio() {
                metric["ratio"] = json!({"min": min, "median": median, "max": max});
            }
            cases.entry(row.case).or_insert_with(|| json!({}))[row.metric] = metric;
        }
        cases.into()
    }

    /// A Markdown table, aligned so that it reads on a terminal too.
    pub(super) fn table(&self) -> String {
        let mut lines =
            vec![["case", "metric", "Mesh", "Envoy", "direct", "Mesh / Envoy: min / median / max"].map(str::to_owned)];
        for row in self.ordered() {
            let median = |values: &[f64]| Spread::of(values).map_or("-".to_owned(), |spread| number(spread.median));
            let ratio =
                row.ratio().map_or("-".to_owned(), |r| format!("{:.2} / {:.2} / {:.2}", r.min, r.median, r.max));
            let cells = [median(&row.mesh), median(&row.envoy), median(&row.direct)];
            let [mesh, envoy, direct] = cells;
            lines.push([row.case.to_owned(), row.metric.to_owned(), mesh, envoy, direct, ratio]);
        }
        let widths: [usize; 6] = std::array::from_fn(|n| lines.iter().map(|line| line[n].len()).max().unwrap_or(0));
        let mut table = String::new();
        for (n, line) in lines.iter().enumerate() {
            let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let _ = writeln!(table, "| {} |", cells.join(" | "));
            if n == 0 {
                let _ = writeln!(table, "|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
            }
        }
        table
    }

    /// The rows, those of one case together.
    fn ordered(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        let first = |case| self.rows.iter().position(|row| row.case == case);
        // Stable: metrics keep their order, but those that only pairs have come first.
        rows.sort_by_key(|row| (first(row.case), !row.direct.is_empty()));
        rows
    }
}

impl Row {
    /// Mesh to Envoy, paired by round.
    fn ratio(&self) -> Option<Spread> {
        let ratios: Vec<f64> = self.mesh.iter().zip(&self.envoy).map(|(mesh, envoy)| mesh / envoy).collect();
        Spread::of(&ratios)
    }
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
        Some(Self { min, median, max })
    }
}

/// One measurement as a line of progress.
pub(super) fn line(case: &str, party: Party, figures: &Figures) -> String {
    let figures: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    format!("{case:17} {:6}  {}", party.key(), figures.join("  "))
}

/// The page with the results: what was compared, how, and the table. It names no date and no machine.
pub(super) fn page(rounds: usize, seconds: f64, paced_seconds: f64, stage: &str, table: &str) -> String {
    format!(
        "# Performance\n\n\
         Written by `cargo xtask bench`; run it to get the figures of your own machine.\n\n\
         {stage}. Client, server and both proxies share the cores, so ratios count and absolute figures only orient.\n\n\
         ## Results\n\n\
         Medians of {rounds} rounds; the ratio Mesh / Envoy is taken within each round.\n\n\
         {table}\n\
         ## Method\n\n\
         - Client → outbound proxy → inbound proxy → server, all on loopback; the same server and load for all. Each \
         round measures every party once on a fresh pair, {seconds} s (the open loop {paced_seconds} s) after {} s of \
         warming up; who comes first alternates. A round with more than one failed request in a thousand is refused.\n\
         - Both pairs: one worker in each proxy, mutual TLS 1.3 with X25519MLKEM768 and ECDSA P-256 chains, both SPIFFE \
         identities verified, no resumption, HTTP/2 between the proxies, metrics on, no access log.\n\
         - Mesh has its controller and an HTTPRoute in force. Envoy has a static configuration, makes no request ids \
         and authorises nothing beyond the peer's identity, which is in its favour.\n\
         - `cpu_us` is the processor time of all threads of both proxies (`/proc/PID/task/*/schedstat`) divided by the \
         answered requests; `cpu_s_per_gb` the same by the bytes that arrived.\n\
         - `http1_*_c32`, `grpc_unary_c32`: 32 connections, each sends its next request when the last was answered. \
         gRPC messages carry 1 KiB in each direction.\n\
         - `http1_1k_1000rps`: requests are due at fixed times on 32 connections; latency counts from the time a request \
         was due.\n\
         - `tcp`: one opaque stream from client to server. `connect`: one opaque connection for each request, each with \
         a full mutual handshake.\n\
         - `memory`: the outbound proxy; fresh (`rss_idle_mib`, of it without files `anon_idle_mib`), after load with \
         32 connections (`rss_after_mib`), and with 2,000 HTTP/1.1 connections open after one request each \
         (`rss_2000_mib`).\n",
        super::cases::WARM_UP
    )
}

/// Three significant digits or so: no run repeats more.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_paired_by_round() {
        let mut results = Results::default();
        for (mesh, envoy) in [(50.0, 100.0), (90.0, 100.0), (60.0, 200.0)] {
            results.add("tcp", Party::Direct, vec![("gb_per_s", 2.0)]);
            results.add("tcp", Party::Mesh, vec![("cpu_s_per_gb", mesh)]);
            results.add("tcp", Party::Envoy, vec![("cpu_s_per_gb", envoy)]);
        }
        let json = results.json();
        let metric = &json["tcp"]["cpu_s_per_gb"];
        assert_eq!(metric["ratio"], json!({"min": 0.3, "median": 0.5, "max": 0.9}));
        assert_eq!(metric["mesh"], json!([50.0, 90.0, 60.0]));
        assert!(metric.get("direct").is_none());
        let table = results.table();
        assert!(table.contains("0.30 / 0.50 / 0.90") && table.contains("2.00"), "{table}");
        assert!(table.find("cpu_s_per_gb") < table.find("gb_per_s"), "{table}");
    }
}
