//! `meshctl demo`: a whole mesh on this machine, out of this one file.
//!
//! It starts what a cluster would run: the controller on a folder of ordinary manifests, two versions of a service with
//! two replicas each, and a sidecar for each of them and for the client, which is this process. Then it sends
//! requests through the client's sidecar and shows what became of them. Loopback only, no privilege, and at the end no
//! process and no file is left. With `--transparent` (root) every pod has a network of its own with redirection, and neither
//! client nor service knows of the mesh.
//!
//! The order of events is in [`session`]; everything about one concern is in a file of its own.

pub(crate) mod app;
mod folder;
mod live;
mod load;
mod manifests;
mod metrics;
mod namespaces;
mod once;
mod ports;
mod problems;
mod process;
mod progress;
mod report;
mod screen;
mod startup;
mod stats;
mod topology;
mod view;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    folder::Folder,
    load::LoadPlan,
    ports::Ports,
    process::Processes,
    progress::Progress,
    startup::Startup,
    topology::{CLUSTER_IPS, SERVICE_PORT, Topology},
};
use crate::{
    clock,
    output::{self, COMMON, Format, formats},
};

pub(crate) use self::{folder::SIDECARS, topology::NAMESPACE};

/// What the client asks for.
const URL: &str = "http://web.demo/";

/// Requests a second of the live view: enough to see shares, and little work for the machine.
const LIVE_RATE: f64 = 200.0;

/// Examples and exit codes of `meshctl demo --help`.
const HELP: &str = "\
Examples:
  meshctl demo                              watch it; edit the weights while it runs
  meshctl demo --requests 10000 -o json     one run, one JSON object (shares are in percent)
  sudo meshctl demo --transparent           the same with redirection: nobody knows of the mesh
  meshctl demo --dir ./mesh-demo            keep manifests and state in a folder of your own

Exit codes:
  0  ok, also when the live view is ended by Ctrl-C
  1  failed, interrupted before the end, or a request failed or did not go over mutual TLS
  2  wrong usage";

/// Arguments of `meshctl demo`.
#[derive(Debug, Parser)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Send exactly N requests as fast as they are answered (or at --rate), print the result and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Requests a second [default: 200, without a limit with --requests]
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Connections of the client, and so the most requests at once
    #[arg(long, value_name = "C", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// How to print the result; without --requests, json and yaml print the totals once a second
    #[arg(short, long, value_parser = formats(COMMON), default_value_t = Format::Table)]
    output: Format,
    /// Each pod in a network namespace of its own, its connections redirected to its sidecar; needs root and iproute2
    #[arg(long)]
    transparent: bool,
    /// Use this folder for manifests and state, and leave it there; edited services and routes in it are kept
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the temporary folder there at the end
    #[arg(long, conflicts_with = "dir")]
    keep: bool,
    /// How long the start may take, such as 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = start_timeout)]
    timeout: Duration,
}

/// Runs the demo. Whatever happens in between, it ends what it started and removes what it wrote.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the demo's runtime does not start")?.block_on(async {
        let mut signals = Signals::new()?;
        let mut processes = Processes::new()?;
        let folder = Folder::open(args.dir.as_deref(), args.keep)?;
        let outcome = session(&args, &folder, &mut processes, &mut signals).await;
        let stopped = processes.stop().await;
        if folder.temporary().is_none() {
            output::note(&format!("manifests and state stay in {}", folder.path().display()));
        }
        let removed = folder.close();
        let code = outcome?;
        stopped.and(removed)?;
        Ok(code)
    })
}

/// The demo from the first port to the result.
async fn session(
    args: &Args,
    folder: &Folder,
    processes: &mut Processes,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::new();
    let topology = if args.transparent { Topology::transparent()? } else { Topology::plan(&mut Ports::new())? };
    folder.write_manifests(&topology)?;
    folder.write_sidecars(&topology)?;
    output::note(&format!("manifests: {}", folder.manifests().display()));
    let plan = LoadPlan {
        to: if args.transparent { (CLUSTER_IPS[0], SERVICE_PORT).into() } else { topology.client.outbound },
        namespace: topology.client.namespace.clone(),
        uri: URL.parse().context("the demo's URL is wrong")?,
        connections: args.connections.into(),
        rate: args.rate.or(args.requests.is_none().then_some(LIVE_RATE)),
        requests: args.requests,
    };
    let deadline = Instant::now() + args.timeout;
    let startup = Startup { topology: &topology, folder, processes, progress: &mut progress, deadline };
    tokio::select! {
        biased;
        name = signals.next() => bail!("{name} before the demo was ready"),
        started = startup.run(&plan) => started?,
    }
    let startup = progress.elapsed();
    drop(progress);
    let demo = Demo { topology: &topology, folder, plan, output: args.output, startup };
    if args.requests.is_some() {
        once::run(&demo, processes, signals).await
    } else {
        live::run(&demo, processes, signals).await
    }
}

/// A demo that runs.
struct Demo<'d> {
    topology: &'d Topology,
    folder: &'d Folder,
    plan: LoadPlan,
    output: Format,
    /// From the start to the first good answer.
    startup: Duration,
}

/// The signals that end the demo: Ctrl-C, a polite kill, a terminal that was closed.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let handle = |kind| signal(kind).context("a signal cannot be handled, so nothing could be ended in order");
        Ok(Self {
            interrupt: handle(SignalKind::interrupt())?,
            terminate: handle(SignalKind::terminate())?,
            hangup: handle(SignalKind::hangup())?,
        })
    }

    /// Waits for one and names it.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
            _ = self.hangup.recv() => "terminal closed",
        }
    }
}

fn rate(text: &str) -> anyhow::Result<f64> {
    let rate: f64 = text.parse()?;
    if (0.1..=1_000_000.0).contains(&rate) { Ok(rate) } else { bail!("must be between 0.1 and 1000000") }
}

/// Longest start that is waited for.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

fn start_timeout(text: &str) -> Result<Duration, String> {
    let timeout = clock::duration(text, MAX_TIMEOUT)?;
    if timeout.is_zero() { Err("must not be zero".to_owned()) } else { Ok(timeout) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_read() {
        assert_eq!(start_timeout("2m"), Ok(Duration::from_secs(120)));
        assert!(["", "0s", "0", "25h", "-1s", "s"].iter().all(|t| start_timeout(t).is_err()));
        assert!(["0", "-1", "nan", "inf", "x"].iter().all(|t| rate(t).is_err()));
        assert_eq!(rate("12.5").unwrap(), 12.5);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let parse = |args: &[&str]| Args::try_parse_from([&["demo"], args].concat());
        assert!(parse(&["--requests", "0"]).is_err());
        assert!(parse(&["--connections", "0"]).is_err());
        assert!(parse(&["--keep", "--dir", "x"]).is_err());
        assert!(parse(&["-o", "wide"]).is_err());
        assert_eq!(parse(&["--requests", "5", "-o", "json"]).unwrap().requests, Some(5));
    }
}
