//! What a change costs: the ratio of this build to one before it, case by case, and whether that falls short.
//!
//! Each round measures both, one right after the other, so that what the machine does meanwhile meets both. A ratio is
//! that of cost: time or memory after by before, throughput before by after, so that more is always worse. Its spread
//! is from the first to the third quartile of the rounds: a single odd round is not in it, and a case falls short only
//! if all of the spread lies above the bound.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Fewest rounds from which a spread is taken.
pub(super) const LEAST_ROUNDS: usize = 9;
/// Metrics of which more is better.
const THROUGHPUT: [&str; 2] = ["rps", "gb_per_s"];

/// One metric of one case, before and after.
pub(super) struct CostChange {
    pub(super) case: &'static str,
    pub(super) metric: &'static str,
    /// Medians of the figures themselves.
    before: f64,
    after: f64,
    /// Of the ratios of the rounds: smallest, first quartile, median, third quartile, largest.
    ratio: [f64; 5],
}

impl CostChange {
    /// From the figures of each round; nothing without any.
    pub(super) fn of(case: &'static str, metric: &'static str, before: &[f64], after: &[f64]) -> Option<Self> {
        let cost = |(before, after): (&f64, &f64)| match THROUGHPUT.contains(&metric) {
            true => before / after,
            false => after / before,
        };
        let ratios = sorted(before.iter().zip(after).map(cost).collect());
        let quartile = |n: usize| quantile(&ratios, n as f64 / 4.0);
        Some(Self {
            case,
            metric,
            before: quantile(&sorted(before.to_vec()), 0.5)?,
            after: quantile(&sorted(after.to_vec()), 0.5)?,
            ratio: [quartile(0)?, quartile(1)?, quartile(2)?, quartile(3)?, quartile(4)?],
        })
    }

    /// Whether the whole spread lies above the bound.
    fn falls_short(&self, bound: f64) -> bool {
        self.ratio[1] > bound
    }

    /// For `--json`.
    pub(super) fn json(&self) -> Value {
        let [min, first, median, third, max] = self.ratio;
        json!({"min": min, "q1": first, "median": median, "q3": third, "max": max})
    }
}

/// A Markdown table of all changes, and a line for each case with its verdict.
pub(super) fn table(changes: &[CostChange], bound: f64) -> String {
    let mut table = String::from(
        "| case | metric | before | after | cost after / before: median | q1 .. q3 | min .. max |\n|---|---|---|---|---|---|---|\n",
    );
    for CostChange { case, metric, before, after, ratio: [min, first, median, third, max] } in changes {
        let _ = writeln!(
            table,
            "| {case} | {metric} | {before:.2} | {after:.2} | {median:.3} | {first:.3} .. {third:.3} | {min:.3} .. {max:.3} |"
        );
    }
    table.push('\n');
    let mut cases: Vec<&str> = changes.iter().map(|change| change.case).collect();
    cases.dedup();
    for case in cases {
        let short: Vec<String> = short(changes, bound)
            .filter(|change| change.case == case)
            .map(|change| {
                format!("{} {:.3} ({:.3} .. {:.3})", change.metric, change.ratio[2], change.ratio[1], change.ratio[3])
            })
            .collect();
        let _ = match short.is_empty() {
            true => writeln!(table, "{case}: holds"),
            false => writeln!(table, "{case}: FALLS SHORT of {bound}: {}", short.join(", ")),
        };
    }
    table
}

/// Those that fall short.
pub(super) fn short(changes: &[CostChange], bound: f64) -> impl Iterator<Item = &CostChange> {
    changes.iter().filter(move |change| change.falls_short(bound))
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Between the two nearest values, as they share the distance (type 7 of Hyndman and Fan, what R and NumPy do).
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let at = sorted.len().checked_sub(1)? as f64 * part;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (high - low) * at.fract())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Nine rounds with these costs after, and 100 before.
    fn cost(after: [f64; 9]) -> CostChange {
        CostChange::of("tcp", "cpu_us", &[100.0; 9], &after).unwrap()
    }

    #[test]
    fn only_a_whole_spread_above_the_bound_falls_short() {
        let dearer = cost([104.0, 105.0, 106.0, 104.5, 105.5, 103.9, 104.1, 106.2, 99.0]);
        assert!(dearer.falls_short(1.03), "one lucky round does not hide it: {:?}", dearer.ratio);
        let noisy = cost([104.0, 101.0, 106.0, 98.0, 105.5, 99.0, 104.1, 106.2, 110.0]);
        assert!(!noisy.falls_short(1.03), "{:?}", noisy.ratio);
        let table = table(&[dearer, noisy], 1.03);
        assert!(table.contains("tcp: FALLS SHORT of 1.03: cpu_us 1.045"), "{table}");
    }

    #[test]
    fn more_throughput_is_less_cost() {
        let faster = CostChange::of("tcp", "gb_per_s", &[1.0; 9], &[2.0; 9]).unwrap();
        assert!((faster.ratio[2] - 0.5).abs() < 1e-9);
        let slower = CostChange::of("http1_1k_c32", "rps", &[110.0; 9], &[100.0; 9]).unwrap();
        assert!(slower.falls_short(1.03));
        assert!(table(&[faster], 1.03).contains("tcp: holds"));
    }

    #[test]
    fn rounds_are_paired_and_quartiles_lie_between() {
        let change = CostChange::of("tcp", "cpu_us", &[10.0, 20.0, 40.0], &[20.0, 20.0, 20.0]).unwrap();
        assert_eq!(change.ratio, [0.5, 0.75, 1.0, 1.5, 2.0]);
        assert_eq!((change.before, change.after), (20.0, 20.0));
        assert!(CostChange::of("tcp", "cpu_us", &[], &[]).is_none());
    }
}
