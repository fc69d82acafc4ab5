//! Figures of all rounds as a table, as JSON and as a page.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{cases::Figures, change::CostChange, testbed::Party};

/// The figures of each case and metric, in the order they came.
#[derive(Default)]
pub(super) struct Results {
    rows: Vec<Row>,
}

/// One metric of one case, a value a round.
#[derive(Default)]
struct Row {
    case: &'static str,
    metric: &'static str,
    mesh: Vec<f64>,
    envoy: Vec<f64>,
    direct: Vec<f64>,
    before: Vec<f64>,
    library: Vec<f64>,
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
                    self.rows.push(Row { case, metric, ..Row::default() });
                    let last = self.rows.len() - 1;
                    &mut self.rows[last]
                }
            };
            match party {
                Party::Mesh => row.mesh.push(value),
                Party::Envoy => row.envoy.push(value),
                Party::Direct => row.direct.push(value),
                Party::Before => row.before.push(value),
                Party::Library => row.library.push(value),
            }
        }
    }

    /// What the build before and this one cost, where both were measured.
    pub(super) fn changes(&self) -> Vec<CostChange> {
        let change = |row: &&Row| CostChange::of(row.case, row.metric, &row.before, &row.mesh);
        self.ordered().iter().filter_map(change).collect()
    }

    /// Case, then metric, then the rounds of each party and the ratio of Mesh to Envoy, or to the library.
    pub(super) fn json(&self) -> Value {
        let mut cases = Map::new();
        for row in &self.rows {
            let mut metric = match row.is_part() {
                true => json!({"mesh": row.mesh, "library": row.library}),
                false => json!({"mesh": row.mesh, "envoy": row.envoy}),
            };
            if !row.direct.is_empty() {
                metric["direct"] = json!(row.direct);
            }
            if let Some(change) = CostChange::of(row.case, row.metric, &row.before, &row.mesh) {
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

    /// What pairs of proxies cost, as a Markdown table.
    pub(super) fn pairs(&self) -> String {
        let head = ["case", "metric", "Mesh", "Envoy", "direct", "Mesh / Envoy: min / median / max"];
        let rows = self.ordered().into_iter().filter(|row| !row.is_part()).map(|row| {
            [row.case.to_owned(), row.metric.to_owned()]
                .into_iter()
                .chain([&row.mesh, &row.envoy, &row.direct].map(|values| median(values)))
                .chain([row.shown_ratio()])
                .collect()
        });
        table(&head, rows)
    }

    /// What parts of the proxy cost beside libraries, as a Markdown table.
    pub(super) fn parts(&self) -> String {
        let head = ["case", "metric", "Mesh", "library", "Mesh / library: min / median / max"];
        let rows = self.rows.iter().filter(|row| row.is_part()).map(|row| {
            [row.case.to_owned(), row.metric.to_owned()]
                .into_iter()
                .chain([median(&row.mesh), median(&row.library), row.shown_ratio()])
                .collect()
        });
        table(&head, rows)
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
    /// Whether it is of a part of the proxy, beside a library.
    fn is_part(&self) -> bool {
        !self.library.is_empty()
    }

    /// Mesh to Envoy or to the library, paired by round.
    fn ratio(&self) -> Option<Spread> {
        let others = if self.is_part() { &self.library } else { &self.envoy };
        let ratios: Vec<f64> = self.mesh.iter().zip(others).map(|(mesh, other)| mesh / other).collect();
        Spread::of(&ratios)
    }

    fn shown_ratio(&self) -> String {
        self.ratio().map_or("-".to_owned(), |r| format!("{:.2} / {:.2} / {:.2}", r.min, r.median, r.max))
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

/// A Markdown table, aligned so that it reads on a terminal too; nothing without rows.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = [head].into_iter().chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    if lines.len() == 1 {
        return String::new();
    }
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut table = String::new();
    for (n, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(table, "| {} |", cells.join(" | "));
        if n == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            let _ = writeln!(table, "|{}|", rules.join("|"));
        }
    }
    table
}

fn median(values: &[f64]) -> String {
    Spread::of(values).map_or("-".to_owned(), |spread| number(spread.median))
}

/// One measurement as a line of progress.
pub(super) fn line(case: &str, party: Party, figures: &Figures) -> String {
    let figures: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    format!("{case:17} {:7}  {}", party.key(), figures.join("  "))
}

/// The page with the results: what was compared, how, and the table. It names no date and no machine.
pub(super) fn page(rounds: usize, seconds: f64, paced_seconds: f64, machine: &str, tables: [&str; 2]) -> String {
    let [pairs, parts] = tables;
    format!(
        "# Performance\n\n\
         Written by `cargo xtask bench`; run it to get the figures of your own machine.\n\n\
         {machine}. Client, server and both proxies share the cores, so ratios count and absolute figures only orient.\n\n\
         ## Results\n\n\
         Medians of {rounds} rounds; the ratio Mesh / Envoy is taken within each round.\n\n\
         {pairs}\n\
         What is our own and not a library's, without the rest of the proxy:\n\n\
         {parts}\n\
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
         (`rss_2000_mib`).\n\
         - `codec_http1`: HTTP/1.1 alone, by our codec and by hyper (with the same limit of time on a head, and without \
         `date`), on 32 connections that stay open, with 1 KiB in each answer. The processor time of each request in a \
         server, and in a client, with that of a peer that only moves prepared bytes, in memory, so that no system call is \
         in it.\n\
         - `tls_record`: one connection of TLS 1.3 (AES-128-GCM) over loopback, by our record layer and by tokio-rustls, one \
         direction after the other. The processor time of both ends together for each MiB, in writes of 64 KiB and of \
         1 KiB; the handshake is not in it.\n",
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
        results.add("codec", Party::Mesh, vec![("cpu_us", 1.0)]);
        results.add("codec", Party::Library, vec![("cpu_us", 4.0)]);
        assert_eq!(results.json()["codec"]["cpu_us"]["ratio"]["median"], json!(0.25));
        assert!(results.parts().contains("| 0.25 / 0.25 / 0.25"), "{}", results.parts());
        let table = results.pairs();
        assert!(!table.contains("codec"), "{table}");
        assert!(table.contains("0.30 / 0.50 / 0.90") && table.contains("2.00"), "{table}");
        assert!(table.find("cpu_s_per_gb") < table.find("gb_per_s"), "{table}");
    }
}
