//! `meshctl demo --requests N`: one run and its result.

use std::{
    process::ExitCode,
    sync::PoisonError,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio::time::{interval, sleep};

use super::{
    Demo, Signals, live,
    load::{self, Results},
    metrics::{self, Mtls, Scrape},
    process::Processes,
    report::DemoReport,
    stats::Tally,
};
use crate::output::{self, Format};

/// How long the sidecars may take to count a request whose answer has come.
const COUNTED_BOUND: Duration = Duration::from_secs(2);

/// Between two looks at their counters.
const POLL: Duration = Duration::from_millis(50);

/// Between two looks at the processes.
const CHECK: Duration = Duration::from_millis(500);

/// Sends the requests and prints the report.
pub(super) async fn run(demo: &Demo<'_>, processes: &mut Processes, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    let before = Scrape::of(demo.topology).await?;
    let results = Results::default();
    let begin = Instant::now();
    let load = load::run(demo.plan.clone(), results.clone());
    tokio::pin!(load);
    let mut check = interval(CHECK);
    loop {
        tokio::select! {
            biased;
            name = signals.next() => bail!("{name} before all requests were sent"),
            _ = check.tick() => processes.check()?,
            () = &mut load => break,
        }
    }
    let took = begin.elapsed();
    let total = results.lock().unwrap_or_else(PoisonError::into_inner).total.clone();
    let mtls = tokio::select! {
        name = signals.next() => bail!("{name} before the result was there"),
        mtls = counted(demo, &before, &total) => mtls?,
    };
    let report = DemoReport::new(&total, mtls, demo.startup);
    match demo.output {
        Format::Table => {
            let summary = live::summary(demo, &total, &report.mtls, took);
            summary.iter().try_for_each(|line| output::line(line))?;
        }
        format => output::object(format, &report)?,
    }
    match report.failure(total.last_failure.as_deref()) {
        Some(failure) => bail!(failure),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// What the sidecars say, once they have counted every request that succeeded.
async fn counted(demo: &Demo<'_>, before: &Scrape, total: &Tally) -> anyhow::Result<Mtls> {
    let bound = Instant::now() + COUNTED_BOUND;
    loop {
        let mtls = metrics::mtls(demo.topology, before, &Scrape::of(demo.topology).await?);
        if mtls.requests >= total.all.requests - total.all.failed || Instant::now() >= bound {
            return Ok(mtls);
        }
        sleep(POLL).await;
    }
}
