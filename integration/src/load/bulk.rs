//! Bulk data on one connection: the goodput, counted by the server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::{Options, Report, http1::connect};

/// One write: large, so that the generator is not what is measured.
const CHUNK: usize = 256 << 10;

/// Writes for the given time, then ends its side and reads how much the sink received.
pub(super) async fn run(options: &Options) -> Result<Report> {
    let mut stream = connect(options.target).await?;
    let chunk = vec![b'b'; CHUNK];
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let mut sent = 0u64;
    while Instant::now() < end {
        stream.write_all(&chunk).await.context("the stream broke")?;
        sent += CHUNK as u64;
    }
    stream.shutdown().await?;
    let received = stream.read_u64().await.context("the sink did not say how much it got: is it a --tcp-sink?")?;
    ensure!(received == sent, "{sent} bytes were sent and {received} arrived");
    let seconds = start.elapsed().as_secs_f64();
    Ok(Report { requests: 1, bytes: received, seconds, rps: 1.0 / seconds, ..Report::default() })
}
