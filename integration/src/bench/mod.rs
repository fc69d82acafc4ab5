//! The benchmark: a Mesh pair and an Envoy pair before the same server under the same load, in alternating rounds.
//!
//! Client → outbound proxy → mutual TLS 1.3 and HTTP/2 → inbound proxy → server, one worker in each proxy. What counts
//! is the ratio of both pairs within one round: absolute figures move with the machine, ratios hardly. Processor time
//! is that of all threads of both proxies, from `/proc`, divided by the answered requests. A round in which more than
//! one request in a thousand fails is an error, never a figure.

mod cases;
mod certs;
mod envoy;
mod mesh;
mod report;
mod stage;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::harness::raise_file_limit;
use cases::Case;
use report::Results;
pub use stage::Party;
use stage::Stage;

/// Open files of one process: 2,000 connections on both sides of a proxy, and room.
const OPEN_FILES: u64 = 8192;
/// Seconds of a round of the open-loop case: enough for twenty samples above the 99.9th percentile.
const PACED_SECONDS: f64 = 20.0;
/// The same with `--quick`.
const PACED_SECONDS_QUICK: f64 = 3.0;

/// What to measure; each field is a flag of `mesh-bench`.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "mesh-bench", about = "Measures a Mesh pair beside an Envoy pair")]
pub struct Options {
    /// Rounds; each measures all parties once.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of each measurement (the open loop takes 20 instead).
    #[arg(long, default_value_t = 8.0)]
    pub seconds: f64,
    /// Cases, separated by commas; all if it is not given.
    #[arg(long, value_delimiter = ',')]
    pub cases: Vec<String>,
    /// Parties to measure, separated by commas; all if it is not given. The ratio needs mesh and envoy.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub parties: Vec<Party>,
    /// File for the figures of every round, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// One short round: to see that it works, not to measure.
    #[arg(long)]
    pub quick: bool,
    /// The Envoy binary.
    #[arg(long)]
    pub envoy: PathBuf,
    /// Markdown file for the results; written only by a full run.
    #[arg(long)]
    pub docs: Option<PathBuf>,
}

/// Runs all rounds and prints the table. Everything it starts ends with it, also when the future is dropped.
///
/// # Errors
///
/// When a process does not start, or requests fail.
pub async fn run(mut options: Options) -> Result<()> {
    if options.quick {
        (options.rounds, options.seconds) = (1, options.seconds.min(2.0));
    }
    ensure!(options.rounds > 0 && options.seconds > 0.0, "--rounds and --seconds are above 0");
    let cases = Case::select(&options.cases)?;
    let paced_seconds = if options.quick { PACED_SECONDS_QUICK } else { PACED_SECONDS };
    match raise_file_limit(OPEN_FILES)? {
        (found, now) if found == now => println!("open files: the soft limit {found:?} is enough"),
        (found, now) => println!("open files: soft limit raised from {found:?} to {now:?}"),
    }

    let stage = Stage::start(&options.envoy).await?;
    println!("{}", stage.describe());
    let mut results = Results::default();
    for round in 0..options.rounds {
        for case in &cases {
            // Whoever comes first in one round comes last in the next: neither always meets the warmer machine.
            let order = case.order(round);
            for party in order.into_iter().filter(|party| options.parties.is_empty() || options.parties.contains(party))
            {
                let seconds = if case.paced() { paced_seconds } else { options.seconds };
                let figures = case.measure(&stage, party, seconds).await;
                let figures = figures.with_context(|| format!("{} of {party:?}, round {}", case.name(), round + 1))?;
                println!("round {}/{}  {}", round + 1, options.rounds, report::line(case.name(), party, &figures));
                results.add(case.name(), party, figures);
            }
        }
    }
    let table = results.table();
    println!("\n{table}");
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&results.json())?;
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(docs) = &options.docs {
        if options.quick || cases.len() < Case::all().len() || !options.parties.is_empty() {
            println!("{} stays as it is: only a full run writes it", docs.display());
        } else {
            let page = report::page(&options, paced_seconds, &stage.describe(), &table);
            fs::write(docs, page).with_context(|| format!("cannot write {}", docs.display()))?;
            println!("wrote {}", docs.display());
        }
    }
    Ok(())
}
