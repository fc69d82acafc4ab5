//! The open loop: requests are due at fixed times.
//!
//! A thread of its own sleeps until each request is due and hands that time to the next client in turn (the runtime's
//! timers count in milliseconds, too coarse here). A client that is still busy takes it late, and its latency counts
//! from the time it was due.

use std::{
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    sync::mpsc::{self, Sender},
    task::JoinSet,
};

use super::{Client, Options, Report, tally::Tally};

/// Requests that may be due at one client before more are counted as errors: seconds of standstill at usual rates.
const BACKLOG: usize = 1024;
/// How late the kernel may wake the pacing thread, in nanoseconds; its default is 50 µs.
const TIMER_SLACK_NS: u64 = 1_000;

/// Sends `rate` requests per second, spread over all clients.
pub(super) async fn run(options: &Options, rate: f64) -> Result<Report> {
    ensure!(rate > 0.0 && rate.is_finite(), "--rate is a number above 0");
    let mut clients = JoinSet::new();
    let mut due = Vec::new();
    for _ in 0..options.connections {
        let mut client = Client::new(options)?;
        let (sender, mut receiver) = mpsc::channel::<Instant>(BACKLOG);
        due.push(sender);
        clients.spawn(async move {
            let mut tally = Tally::default();
            while let Some(at) = receiver.recv().await {
                let result = client.exchange().await;
                tally.record(&result, at.elapsed());
            }
            tally.versions(client.versions());
            tally
        });
    }
    let (seconds, start) = (options.seconds, Instant::now());
    let pacer = thread::spawn(move || pace(&due, rate, seconds, start));
    let mut tallies = clients.join_all().await;
    let took = start.elapsed();
    let missed = pacer.join().ok().context("the pacing thread failed")?;
    let mut late = Tally::default();
    for _ in 0..missed {
        late.error(format!("more than {BACKLOG} requests were due at one client"));
    }
    tallies.push(late);
    Ok(Tally::merge(tallies).report(took))
}

/// Hands out the times, on a thread of its own that may sleep; how many found their client's queue full.
#[allow(clippy::disallowed_methods)]
fn pace(clients: &[Sender<Instant>], rate: f64, seconds: f64, start: Instant) -> u64 {
    // Without it the latencies are some 50 µs longer, for everything alike.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS));
    let total = (rate * seconds) as u64;
    let mut missed = 0;
    for (n, client) in (0..total).zip(clients.iter().cycle()) {
        let at = start + Duration::from_secs_f64(n as f64 / rate);
        thread::sleep(at.saturating_duration_since(Instant::now()));
        missed += u64::from(client.try_send(at).is_err());
    }
    missed
}
