//! A paced load of HTTP/1.1 requests whose every outcome is kept.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::H1;

/// One request to send.
#[derive(Clone, Debug)]
pub struct Shot {
    pub method: &'static str,
    pub path: String,
    pub host: String,
    /// Complete header lines, each with CR LF.
    pub headers: String,
    pub body: Vec<u8>,
}

impl Shot {
    /// A GET of a path.
    pub fn get(host: &str, path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), host: host.to_owned(), headers: String::new(), body: Vec::new() }
    }

    /// A POST with a body.
    pub fn post(host: &str, path: &str, body: Vec<u8>) -> Self {
        Self { method: "POST", body, ..Self::get(host, path) }
    }

    /// Its bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let length = match self.method {
            "GET" | "HEAD" => String::new(),
            _ => format!("content-length: {}\r\n", self.body.len()),
        };
        let Self { method, path, host, headers, body } = self;
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}{length}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}

/// What came of one request.
#[derive(Clone, Debug)]
pub struct ShotOutcome {
    pub method: &'static str,
    /// When it was sent.
    pub sent: Instant,
    pub took: Duration,
    /// The status, or 0 when there was no answer.
    pub status: u16,
    /// The answer's `x-version`: which test server it was.
    pub server: String,
    /// The answer's `mesh-proxy-error`, or why there was no answer.
    pub error: String,
    pub body: Vec<u8>,
}

impl ShotOutcome {
    /// Whether it was answered 200.
    pub fn ok(&self) -> bool {
        self.status == 200
    }
}

/// A load that runs until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: JoinSet<Vec<ShotOutcome>>,
}

impl Load {
    /// Sends `rate` requests a second over `connections` clients; `shot` makes the n-th one.
    pub fn start(
        to: SocketAddr,
        rate: f64,
        connections: usize,
        shot: impl Fn(u64) -> Shot + Send + Sync + 'static,
    ) -> Self {
        let (stop, sent, shot) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(shot));
        let mut clients = JoinSet::new();
        let period = Duration::from_secs_f64(connections as f64 / rate);
        let start = Instant::now();
        for n in 0..connections {
            let (stop, sent, shot) = (stop.clone(), sent.clone(), shot.clone());
            clients.spawn(async move {
                let mut ticks = tokio::time::interval_at(start + period.mul_f64(n as f64 / connections as f64), period);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                let (mut connection, mut outcomes) = (None, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let shot = shot(sent.fetch_add(1, Ordering::Relaxed));
                    outcomes.push(fire(to, &mut connection, &shot).await);
                }
                outcomes
            });
        }
        Self { stop, sent, clients }
    }

    /// How many requests were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the load and gives every outcome, in the order of sending.
    pub async fn stop(self) -> Vec<ShotOutcome> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all: Vec<_> = self.clients.join_all().await.into_iter().flatten().collect();
        all.sort_by_key(|outcome| outcome.sent);
        all
    }

    /// `count` requests as fast as `connections` clients send them.
    pub async fn burst(
        to: SocketAddr,
        count: u64,
        connections: usize,
        shot: impl Fn(u64) -> Shot + Send + Sync + 'static,
    ) -> Vec<ShotOutcome> {
        let (next, shot) = (Arc::new(AtomicU64::new(0)), Arc::new(shot));
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            let (next, shot) = (next.clone(), shot.clone());
            clients.spawn(async move {
                let (mut connection, mut outcomes) = (None, Vec::new());
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return outcomes;
                    }
                    outcomes.push(fire(to, &mut connection, &shot(n)).await);
                }
            });
        }
        clients.join_all().await.into_iter().flatten().collect()
    }
}

async fn fire(to: SocketAddr, kept: &mut Option<H1>, shot: &Shot) -> ShotOutcome {
    let sent = Instant::now();
    let exchange = async {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => H1::connect(to).await?,
        };
        let answer = connection.ask(shot.bytes()).await?;
        if !answer.head.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            *kept = Some(connection);
        }
        anyhow::Ok(answer)
    };
    let (status, server, error, body) = match exchange.await {
        Ok(answer) => {
            let text = |name| answer.head.get(name).unwrap_or_default().to_owned();
            (answer.head.status, text("x-version"), text("mesh-proxy-error"), answer.body)
        }
        Err(error) => (0, String::new(), format!("{error:#}"), Vec::new()),
    };
    ShotOutcome { method: shot.method, sent, took: sent.elapsed(), status, server, error, body }
}

/// How many outcomes there are of each status, server and error: what a failed assertion shows.
pub fn share(outcomes: &[ShotOutcome]) -> BTreeMap<(u16, String, String), usize> {
    outcomes.iter().fold(BTreeMap::new(), |mut map, o| {
        *map.entry((o.status, o.server.clone(), o.error.clone())).or_default() += 1;
        map
    })
}
