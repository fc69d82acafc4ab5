//! The benchmark: a Mesh pair and an Envoy pair before the same server under the same load, in alternating rounds.
//!
//! Client → outbound proxy → mutual TLS 1.3 and HTTP/2 → inbound proxy → server, one worker in each proxy. What counts
//! is the ratio of both pairs within one round: absolute figures move with the machine, ratios hardly. Processor time
//! is that of all threads of both proxies, from `/proc`, divided by the answered requests. A round in which more than
//! one request in a thousand fails is an error, never a figure.
//!
//! What is our own and not a library's is also measured alone, beside that library ([`parts`]).
//!
//! With `--before` another build of Mesh is a party too, and what is asked is the ratio of this one to it.

mod cases;
mod certs;
mod change;
mod envoy;
mod mesh;
mod parts;
mod report;
mod testbed;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::harness::raise_file_limit;
use cases::Case;
use report::Results;
pub use testbed::Party;
use testbed::Testbed;

/// Open files of one process: 2,000 connections on both sides of a proxy, and room.
const OPEN_FILES: u64 = 8192;
/// Seconds of a round of the open-loop case: enough for twenty samples above the 99.9th percentile.
const PACED_SECONDS: f64 = 20.0;
/// The same with `--quick`.
const PACED_SECONDS_QUICK: f64 = 3.0;
/// Rounds where nothing else is said.
const ROUNDS: usize = 5;

/// What to measure; each field is a flag of `mesh-bench`.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "mesh-bench", about = "Measures a Mesh pair beside an Envoy pair")]
pub struct Options {
    /// Rounds; each measures all parties once. 5 if it is not given, 9 with --before, which takes no fewer.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Seconds of each measurement (the open loop takes 20 instead).
    #[arg(long, default_value_t = 8.0)]
    pub seconds: f64,
    /// Cases, separated by commas; all if it is not given.
    #[arg(long, value_delimiter = ',')]
    pub cases: Vec<String>,
    /// Parties to measure, separated by commas; all if it is not given, mesh and before with --before. A ratio needs both
    /// of its parties.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub parties: Vec<Party>,
    /// A folder with mesh-proxy and mesh-controller of another build, to compare this one with.
    #[arg(long, value_name = "DIR")]
    pub before: Option<PathBuf>,
    /// With --before: a case falls short if the ratio of its cost, after by before, lies above this from the first quartile of
    /// the rounds on.
    #[arg(long, default_value_t = 1.03)]
    pub bound: f64,
    /// With --before, which may be the same build: a hundred authorization policies of ten rules are about the server of this
    /// build, the last of which lets the client in, and none about the one before. For HTTP alone.
    #[arg(long, requires = "before")]
    pub policies: bool,
    /// File for the figures of every round, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// One short round: to see that it works, not to measure.
    #[arg(long)]
    pub quick: bool,
    /// The Envoy binary; needed where Envoy is measured.
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// Markdown file for the results; written only by a full run.
    #[arg(long)]
    pub docs: Option<PathBuf>,
}

impl Options {
    /// How many rounds there are.
    fn rounds(&self) -> Result<usize> {
        let least = if self.before.is_some() { change::LEAST_ROUNDS } else { 1 };
        let rounds = self.rounds.unwrap_or(least.max(ROUNDS));
        ensure!(rounds >= least, "--rounds is {least} at least: fewer make no spread");
        Ok(if self.quick { 1 } else { rounds })
    }

    /// Whether this party is measured.
    fn has(&self, party: Party) -> bool {
        match self.parties.is_empty() {
            true if self.before.is_some() => matches!(party, Party::Mesh | Party::Before),
            true => party != Party::Before,
            false => self.parties.contains(&party),
        }
    }
}

/// Runs all rounds and prints the table. Everything it starts ends with it, also when the future is dropped.
///
/// # Errors
///
/// When a process does not start, or requests fail, or a case falls short of what it cost before.
pub async fn run(mut options: Options) -> Result<()> {
    let rounds = options.rounds()?;
    if options.quick {
        options.seconds = options.seconds.min(2.0);
    }
    ensure!(options.seconds > 0.0, "--seconds is above 0");
    ensure!(!options.has(Party::Before) || options.before.is_some(), "the party before needs --before DIR");
    ensure!(!options.has(Party::Envoy) || options.envoy.is_some(), "the party envoy needs --envoy FILE");
    let mut cases = Case::select(&options.cases)?;
    // Beside nothing it says nothing.
    cases.retain(|case| !case.is_part() || options.has(Party::Library));
    let paced_seconds = if options.quick { PACED_SECONDS_QUICK } else { PACED_SECONDS };
    match raise_file_limit(OPEN_FILES)? {
        (found, now) if found == now => println!("open files: the soft limit {found:?} is enough"),
        (found, now) => println!("open files: soft limit raised from {found:?} to {now:?}"),
    }

    let testbed = Testbed::start(options.envoy.as_deref(), options.before.as_deref(), options.policies).await?;
    println!("{}", testbed.describe());
    let mut results = Results::default();
    for round in 0..rounds {
        for case in &cases {
            // Whoever comes first in one round comes last in the next: neither always meets the warmer machine.
            for party in case.order(round).into_iter().filter(|party| options.has(*party)) {
                let seconds = if case.paced() { paced_seconds } else { options.seconds };
                let figures = case.measure(&testbed, party, seconds).await;
                let figures = figures.with_context(|| format!("{} of {party:?}, round {}", case.name(), round + 1))?;
                println!("round {}/{rounds}  {}", round + 1, report::line(case.name(), party, &figures));
                results.add(case.name(), party, figures);
            }
        }
    }
    let (pairs, parts) = (results.pairs(), results.parts());
    let is_beside = options.has(Party::Envoy) || options.has(Party::Direct) || !options.has(Party::Before);
    let shown = [is_beside.then_some(&pairs), Some(&parts)].into_iter().flatten();
    for table in shown.filter(|table| !table.is_empty()) {
        println!("\n{table}");
    }
    let changes = results.changes();
    if !changes.is_empty() {
        println!("\n{}", change::table(&changes, options.bound));
    }
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&results.json())?;
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(docs) = &options.docs {
        let is_full = cases.len() == Case::all().len() && options.parties.is_empty() && options.before.is_none();
        if options.quick || !is_full {
            println!("{} stays as it is: only a full run writes it", docs.display());
        } else {
            let page = report::page(rounds, options.seconds, paced_seconds, &testbed.describe(), [&pairs, &parts]);
            fs::write(docs, page).with_context(|| format!("cannot write {}", docs.display()))?;
            println!("wrote {}", docs.display());
        }
    }
    let short = change::short(&changes, options.bound).count();
    // One round has no spread.
    ensure!(short == 0 || options.quick, "{short} figures fall short of what they were before; they are named above");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::*;

    fn options(flags: &[&str]) -> Options {
        Options::parse_from([&["mesh-bench"], flags].concat())
    }

    #[test]
    fn a_build_before_is_compared_with_over_rounds_enough_for_a_spread() {
        assert_eq!(options(&[]).rounds().unwrap(), 5);
        assert_eq!(options(&["--before", "dir"]).rounds().unwrap(), 9);
        assert!(options(&["--before", "dir", "--rounds", "8"]).rounds().is_err());
        assert_eq!(options(&["--before", "dir", "--rounds", "11"]).rounds().unwrap(), 11);
        let parties = |flags: &[&str]| {
            let options = options(flags);
            let all = [Party::Direct, Party::Envoy, Party::Mesh, Party::Before, Party::Library];
            all.into_iter().filter(|party| options.has(*party)).collect::<Vec<_>>()
        };
        assert_eq!(parties(&[]), [Party::Direct, Party::Envoy, Party::Mesh, Party::Library]);
        assert_eq!(parties(&["--before", "dir"]), [Party::Mesh, Party::Before]);
        assert_eq!(parties(&["--before", "dir", "--parties", "envoy,mesh"]), [Party::Envoy, Party::Mesh]);
    }

    #[test]
    fn who_is_first_alternates() {
        for case in Case::all() {
            let is_before_mesh = |round, party| {
                let place = |party| case.order(round).iter().position(|p| *p == party);
                place(party).map(|at| Some(at) < place(Party::Mesh))
            };
            for party in [Party::Before, Party::Envoy, Party::Library] {
                assert_eq!(is_before_mesh(0, party), is_before_mesh(1, party).map(|is_before| !is_before));
            }
        }
    }
}
