//! The demo's table as text: what the last seconds were like, and who verified whom. Pure: it neither measures nor
//! writes.

use crossterm::style::Color;

use super::{
    metrics::Mtls,
    stats::{Count, Tally},
    topology::{SERVICE, VERSIONS},
};
use crate::output::Style;

/// Cells of a share's bar.
const BAR: usize = 20;

/// Characters of the longest answer to whether there is mutual TLS.
const MTLS_ANSWER: usize = "mTLS not for all:".len();

/// Shortest time that a rate is computed over.
const MIN_SECONDS: f64 = 0.001;

/// Below it a success rate is shown as bad.
const ALL_WELL: f64 = 99.95;

/// What is shown.
#[derive(Debug)]
pub(super) struct View<'v> {
    /// The requests of the last seconds.
    pub window: &'v Tally,
    /// How long these seconds were.
    pub seconds: f64,
    /// All requests.
    pub total: &'v Tally,
    /// What the sidecars say.
    pub mtls: &'v Mtls,
    /// What the controller says about the manifests.
    pub problems: &'v [String],
    /// The file with the weights.
    pub route_file: &'v str,
}

impl View<'_> {
    /// The table for a terminal of `width` columns; 80 are enough for all but long paths and messages, which go on in
    /// the next line.
    pub(super) fn table(&self, width: usize, style: Style) -> Vec<String> {
        let mut lines = self.rows(width, style);
        lines.push(String::new());
        let all = &self.total.all;
        let totals = format!(
            "{} requests in all, {} failed (rates above: last {:.0} s)",
            all.requests, all.failed, self.seconds
        );
        lines.push(cut(&totals, width));
        for message in self.messages() {
            lines.extend(wrap(&message, width).into_iter().map(|l| style.paint(&l, Color::Yellow)));
        }
        lines.extend(wrap(&format!("edit {}: change the weights, save, watch the bars move", self.route_file), width));
        lines.push("Ctrl-C ends the demo and everything it started".to_owned());
        lines
    }

    /// The table of a run that is over. Rates make no sense without a time, so `seconds` is that of the whole run.
    pub(super) fn result(&self, width: usize, style: Style) -> Vec<String> {
        let mut lines = self.rows(width, style);
        lines.push(String::new());
        let all = &self.total.all;
        lines.push(format!("{} requests, {} failed", all.requests, all.failed));
        lines
    }

    fn rows(&self, width: usize, style: Style) -> Vec<String> {
        let head = format!(
            "{:<8} {:<28} {:>7} {:>8} {:>7} {:>7}  {}",
            "VERSION", "SHARE", "REQ/S", "SUCCESS", "P50 ms", "P99 ms", "mTLS"
        );
        let mut lines = vec![style.bold(&cut(&head, width))];
        for version in self.versions() {
            let empty = Count::default();
            let count = self.window.versions.get(&version).unwrap_or(&empty);
            let verified = self.mtls.by_version.get(&version).is_some_and(|names| !names.is_empty());
            let row = format!("{:<8} {} {}", cut(&version, 8), self.bar(&version), self.numbers(count));
            let mtls = if verified { style.paint("yes", Color::Green) } else { style.paint("no", Color::Red) };
            lines.push(format!("{}  {mtls}", cut(&row, width.saturating_sub(5))));
        }
        lines.push(cut(&format!("{:<8} {:<28} {}", "all", "", self.numbers(&self.window.all)), width));
        lines.push(String::new());
        lines.extend(self.identities(width, style));
        lines
    }

    /// One line, for a log: the same facts in fewer words, without the messages.
    pub(super) fn line(&self) -> String {
        let shares = self.versions().into_iter().map(|v| {
            let share = self.window.share(&v).map_or("-".to_owned(), |s| format!("{s:.1}%"));
            format!("{v} {share}")
        });
        let all = &self.window.all;
        format!(
            "{}  {:.1} req/s  {} ok  p50 {:.2} ms  p99 {:.2} ms  mTLS {}",
            shares.collect::<Vec<_>>().join("  "),
            self.per_second(all),
            all.success().map_or("-".to_owned(), |s| format!("{s:.1}%")),
            all.latency_ms(0.5),
            all.latency_ms(0.99),
            if self.all_mutual() { "yes" } else { "no" },
        )
    }

    /// What is wrong just now: why requests fail, and what the controller says about the manifests.
    pub(super) fn messages(&self) -> Vec<String> {
        let well = self.window.all.success().is_none_or(|s| s >= ALL_WELL);
        let failure = self.total.last_failure.iter().filter(|_| !well);
        failure.chain(self.problems).map(|message| format!("! {message}")).collect()
    }

    fn versions(&self) -> Vec<String> {
        let known = VERSIONS.iter().map(|v| (*v).to_owned());
        let others = self.total.versions.keys().filter(|v| !VERSIONS.contains(&v.as_str())).cloned();
        known.chain(others).collect()
    }

    fn bar(&self, version: &str) -> String {
        let share = self.window.share(version);
        let full = share.map_or(0, |s| (s * BAR as f64 / 100.0).round() as usize).min(BAR);
        let percent = share.map_or("-".to_owned(), |s| format!("{s:.1} %"));
        format!("{percent:>7} {}{}", "█".repeat(full), "░".repeat(BAR - full))
    }

    fn numbers(&self, count: &Count) -> String {
        if count.requests == 0 {
            return format!("{:>7} {:>8} {:>7} {:>7}", "0.0", "-", "-", "-");
        }
        format!(
            "{:>7.1} {:>8} {:>7.2} {:>7.2}",
            self.per_second(count),
            count.success().map_or("-".to_owned(), |s| format!("{s:.1} %")),
            count.latency_ms(0.5),
            count.latency_ms(0.99)
        )
    }

    fn per_second(&self, count: &Count) -> f64 {
        count.requests as f64 / self.seconds.max(MIN_SECONDS)
    }

    fn all_mutual(&self) -> bool {
        self.mtls.requests > 0 && self.mtls.requests >= self.total.all.requests - self.total.all.failed
    }

    fn identities(&self, width: usize, style: Style) -> Vec<String> {
        let Mtls { requests, version, group, client_identity, by_version, .. } = self.mtls;
        if *requests == 0 {
            return vec![format!("{} no request has gone over mutual TLS", style.paint("mTLS no:", Color::Red))];
        }
        let answer = if self.all_mutual() {
            style.paint("mTLS yes:", Color::Green)
        } else {
            style.paint("mTLS not for all:", Color::Red)
        };
        let over = format!(" {requests} requests over {version}, {group}");
        let mut lines = vec![format!("{answer}{}", cut(&over, width.saturating_sub(MTLS_ANSWER)))];
        lines.push(cut(&format!("  client  {client_identity}"), width));
        for (version, identities) in by_version {
            let names: Vec<_> = identities.iter().map(String::as_str).collect();
            let names = if names.is_empty() { "not called yet".to_owned() } else { names.join(", ") };
            lines.push(cut(&format!("  {:<7} {names}", format!("{SERVICE} {version}")), width));
        }
        lines
    }
}

/// At most `width` characters.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// In lines of at most `width` characters, broken between words where that is possible.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(20);
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        for c in word.chars() {
            if used == width {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(c);
            used += 1;
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::cmd::demo::stats::RequestOutcome;

    fn tally(v1: u32, v2: u32, failed: u32) -> Tally {
        let mut tally = Tally::default();
        let ok = |v: &str, us| RequestOutcome { version: Some(v.into()), failure: None, latency_us: us };
        (0..v1).for_each(|_| tally.record(&ok("v1", 810)));
        (0..v2).for_each(|_| tally.record(&ok("v2", 950)));
        let failure = Some("503 Service Unavailable: no endpoint of demo/web-v2:80".to_owned());
        (0..failed)
            .for_each(|_| tally.record(&RequestOutcome { version: None, failure: failure.clone(), latency_us: 100 }));
        tally
    }

    fn mtls(requests: u64) -> Mtls {
        let id = |sa: &str| format!("spiffe://cluster.local/ns/demo/sa/{sa}");
        Mtls {
            requests,
            version: "TLSv1.3".into(),
            group: "X25519MLKEM768".into(),
            client_identity: id("client"),
            server_identities: vec![id("web-v1"), id("web-v2")],
            by_version: BTreeMap::from(["v1", "v2"].map(|v| (v.to_owned(), BTreeSet::from([id(&format!("web-{v}"))])))),
        }
    }

    fn table(window: &Tally, mtls: &Mtls, problems: &[String], width: usize) -> Vec<String> {
        let route_file = "/tmp/meshctl-demo-x/manifests/20-route.yaml";
        View { window, seconds: 5.0, total: window, mtls, problems, route_file }.table(width, Style::PLAIN)
    }

    #[test]
    fn the_table_fits_eighty_columns() {
        let expected = "\
VERSION  SHARE                          REQ/S  SUCCESS  P50 ms  P99 ms  mTLS
v1        90.0 % ██████████████████░░   180.0  100.0 %    0.81    0.81  yes
v2        10.0 % ██░░░░░░░░░░░░░░░░░░    20.0  100.0 %    0.95    0.95  yes
all                                     200.0  100.0 %    0.81    0.95

mTLS yes: 1000 requests over TLSv1.3, X25519MLKEM768
  client  spiffe://cluster.local/ns/demo/sa/client
  web v1  spiffe://cluster.local/ns/demo/sa/web-v1
  web v2  spiffe://cluster.local/ns/demo/sa/web-v2

1000 requests in all, 0 failed (rates above: last 5 s)
edit /tmp/meshctl-demo-x/manifests/20-route.yaml: change the weights, save,
watch the bars move
Ctrl-C ends the demo and everything it started";
        let lines = table(&tally(900, 100, 0), &mtls(1_000), &[], 80);
        assert_eq!(lines.join("\n"), expected);
        assert!(lines.iter().all(|l| l.chars().count() <= 80));
    }

    #[test]
    fn failures_and_problems_are_shown_whole() {
        let problem = "20-route.yaml:18: HTTPRoute demo/web: spec.rules[0].backendRefs[1].weight: -1 is not a weight; fix: 0 or more";
        let lines = table(&tally(90, 0, 10), &mtls(90), &[problem.to_owned()], 80);
        let text = lines.join("\n");
        assert!(text.contains("! 503 Service Unavailable: no endpoint of demo/web-v2:80"), "{text}");
        assert!(lines.join(" ").contains(problem), "{text}");
        let all = lines.iter().find(|l| l.starts_with("all")).unwrap();
        assert!(all.contains("  90.0 %"), "success of all: {text}");
        assert!(lines.iter().all(|l| l.chars().count() <= 80), "{text}");
    }

    #[test]
    fn plain_text_is_called_no() {
        let text = table(&tally(10, 0, 0), &Mtls::default(), &[], 80).join("\n");
        assert!(text.contains("mTLS no: no request has gone over mutual TLS"));
        assert_eq!(text.matches("  no\n").count(), 2, "{text}");
        let text = table(&tally(10, 0, 0), &mtls(9), &[], 80).join("\n");
        assert!(text.contains("mTLS not for all: 9 requests"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_gets_narrow_lines() {
        let lines = table(&tally(90, 10, 0), &mtls(100), &["a problem of some length indeed".to_owned()], 50);
        assert!(lines.iter().all(|l| l.chars().count() <= 50), "{}", lines.join("\n"));
    }

    #[test]
    fn a_line_says_the_same() {
        let window = tally(900, 100, 0);
        let mtls = mtls(1_000);
        let view = View { window: &window, seconds: 5.0, total: &window, mtls: &mtls, problems: &[], route_file: "" };
        assert_eq!(view.line(), "v1 90.0%  v2 10.0%  200.0 req/s  100.0% ok  p50 0.81 ms  p99 0.95 ms  mTLS yes");
    }

    #[test]
    fn long_words_are_broken() {
        assert_eq!(wrap(&"x".repeat(45), 20), ["x".repeat(20), "x".repeat(20), "x".repeat(5)]);
        assert_eq!(wrap("one two", 20), ["one two"]);
    }
}
