//! Many connections that stay open after one request each: what they cost in memory.

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use tokio::{task::JoinSet, time::Instant};

use super::{Client, Options, Report};

/// How many are opened at a time: a burst of thousands would measure the listen queue.
const AT_A_TIME: usize = 32;

/// Opens all connections, prints the line `ready`, and holds them until stdin ends.
pub(super) async fn run(options: &Options) -> Result<Report> {
    let start = Instant::now();
    let mut held = Vec::with_capacity(options.connections);
    let mut opening = JoinSet::new();
    let mut begun = 0;
    while held.len() < options.connections {
        while begun < options.connections && opening.len() < AT_A_TIME {
            let mut client = Client::new(options)?;
            opening.spawn(async move { client.exchange().await.map(|bytes| (client, bytes)) });
            begun += 1;
        }
        let Some(opened) = opening.join_next().await else { bail!("no connection left to open") };
        held.push(opened?.with_context(|| format!("connection {} of {}", held.len() + 1, options.connections))?);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("ready");
    std::io::stdout().flush()?;
    // Blocks a thread of its own; the connections stay served meanwhile.
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    let requests = held.len() as u64;
    let bytes = held.iter().map(|(_, bytes)| bytes).sum();
    Ok(Report { requests, bytes, seconds, rps: requests as f64 / seconds, ..Report::default() })
}
