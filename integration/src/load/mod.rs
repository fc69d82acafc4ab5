//! The load generator: as little work per request as possible, for it shares the processors with what it measures.
//!
//! - Closed loop: `--connections` clients, each sends its next request when the last was answered.
//! - Open loop (`--rate`): requests are due at fixed times whatever happens, and latency counts from the time a request
//!   was due, so that a stall is seen by all requests that it delays (`paced`).
//!
//! One thread does it all, HTTP/1.1 is written and parsed by hand (`http1`). It prints one JSON object and gives no
//! verdict.

mod bulk;
mod connect;
mod grpc;
mod http1;
mod idle;
mod paced;
mod tally;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use tally::Tally;

/// How long answers may come in after the time is over, before the run is given up.
const GRACE: Duration = Duration::from_secs(15);
/// Answers by the name of the server that gave them: a handful, so a search from the front is the quickest.
type Versions = Vec<(Box<[u8]>, u64)>;
/// How long a client waits before it connects again after an error, so that a dead server is not hammered.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// What to send.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// HTTP/1.1 GET on connections that stay open.
    Http1,
    /// gRPC unary calls of `bench.Echo`, over HTTP/2 with prior knowledge, one call at a time on each connection.
    Grpc,
    /// One connection for each request: connect, send a few bytes, read them back, close.
    Connect,
    /// One connection for each request: connect, say nothing, wait for the server's first bytes, close.
    Greeting,
    /// Bulk data on one connection, to a `--tcp-sink`.
    Tcp,
    /// HTTP/1.1 connections that send one request each and then stay open until stdin ends.
    Idle,
}

/// What a run does; each field is a flag of `mesh-load`.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "mesh-load", about = "Load generator for Mesh; prints one JSON object")]
pub struct Options {
    /// What to send.
    #[arg(value_enum)]
    pub mode: Mode,
    /// Where to: an address, or a name that is resolved once.
    #[arg(long, value_parser = resolve)]
    pub target: SocketAddr,
    /// Exit with 1 if any request failed.
    #[arg(long)]
    pub strict: bool,
    /// Host header or authority; the target's address if it is not given.
    #[arg(long)]
    pub host: Option<String>,
    /// Method of HTTP/1.1 requests; all but GET, HEAD and OPTIONS have a small body.
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// Path of HTTP/1.1 requests.
    #[arg(long, default_value = "/1k")]
    pub path: String,
    /// Connections (clients) at a time.
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
    /// How long, in seconds.
    #[arg(long, default_value_t = 8.0)]
    pub seconds: f64,
    /// A closed loop ends after this many requests, if its time is not over before.
    #[arg(long, conflicts_with = "rate")]
    pub count: Option<u64>,
    /// Requests per second of an open loop; a closed loop without it.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Payload of a gRPC message, in bytes.
    #[arg(long, default_value_t = 1024)]
    pub payload: usize,
}

fn resolve(target: &str) -> Result<SocketAddr> {
    target.to_socket_addrs()?.next().with_context(|| format!("{target} has no address"))
}

/// What came of it. Latencies are microseconds; in an open loop they count from the time a request was due.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests that were answered as expected.
    pub requests: u64,
    /// Requests that were not, or could not be sent.
    pub errors: u64,
    /// What the last error said.
    pub last_error: Option<String>,
    /// How often each error was met; at most 16 different ones are told apart.
    #[serde(default)]
    pub errors_by: BTreeMap<String, u64>,
    /// HTTP/1.1 answers by their header `x-version`, which the test server sends.
    #[serde(default)]
    pub versions: BTreeMap<String, u64>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Answered requests per second.
    pub rps: f64,
    /// Bytes of bodies (or of the bulk stream).
    pub bytes: u64,
    /// Median latency.
    pub p50_us: u64,
    /// Latency that 99 % keep below.
    pub p99_us: u64,
    /// Latency that 99.9 % keep below.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// Runs the load to its end.
///
/// # Errors
///
/// When the target never answers, or answers are still out long after the end. Failed requests are not errors of the
/// run: the report counts them.
pub async fn run(options: Options) -> Result<Report> {
    let limit = Duration::from_secs_f64(options.seconds) + GRACE;
    match options.mode {
        Mode::Idle => idle::run(&options).await,
        Mode::Tcp => timeout(limit, bulk::run(&options)).await.context("the stream stalled")?,
        Mode::Http1 | Mode::Grpc | Mode::Connect | Mode::Greeting => {
            let run = async {
                match options.rate {
                    Some(rate) => paced::run(&options, rate).await,
                    None => closed(&options).await,
                }
            };
            timeout(limit, run).await.context("answers are still out long after the end of the load")?
        }
    }
}

/// Every client sends its next request as soon as the last was answered.
async fn closed(options: &Options) -> Result<Report> {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let mut clients = JoinSet::new();
    let begun = Arc::new(AtomicU64::new(0));
    let count = options.count.unwrap_or(u64::MAX);
    for _ in 0..options.connections {
        let mut client = Client::new(options)?;
        let begun = begun.clone();
        clients.spawn(async move {
            let mut tally = Tally::default();
            let mut now = Instant::now();
            while now < end && begun.fetch_add(1, Ordering::Relaxed) < count {
                let sent = now;
                let result = client.exchange().await;
                now = Instant::now();
                tally.record(&result, now - sent);
                if result.is_err() {
                    sleep(AFTER_ERROR).await;
                    now = Instant::now();
                }
            }
            tally.versions(client.versions());
            tally
        });
    }
    Ok(Tally::merge(clients.join_all().await).report(start.elapsed()))
}

/// One client with at most one connection.
enum Client {
    Http1(http1::Client),
    Grpc(Box<grpc::Client>),
    Connect(connect::Client),
}

impl Client {
    fn new(options: &Options) -> Result<Self> {
        Ok(match options.mode {
            Mode::Grpc => Self::Grpc(Box::new(grpc::Client::new(options)?)),
            Mode::Connect => Self::Connect(connect::Client::new(options.target, true)),
            Mode::Greeting => Self::Connect(connect::Client::new(options.target, false)),
            Mode::Http1 | Mode::Idle | Mode::Tcp => Self::Http1(http1::Client::new(options)),
        })
    }

    /// Sends one request and reads its answer; the bytes of its body. Connects first where that is needed: a failed
    /// exchange leaves no connection behind.
    async fn exchange(&mut self) -> Result<u64> {
        match self {
            Self::Http1(client) => client.exchange().await,
            Self::Grpc(client) => client.exchange().await,
            Self::Connect(client) => client.exchange().await,
        }
    }

    /// Who answered, and how often.
    fn versions(self) -> Versions {
        match self {
            Self::Http1(client) => client.versions,
            Self::Grpc(_) | Self::Connect(_) => Versions::new(),
        }
    }
}
