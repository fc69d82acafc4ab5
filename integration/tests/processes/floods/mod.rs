//! Attacks on the HTTP/2 server by raw frames, paced and bounded, on the port that an application uses and on the one that
//! faces other pods: the attacker is cut or gets no more than a bounded share, memory stays small, and the requests of
//! another connection are all served meanwhile.
//!
//! The frames of each attack come in small writes over some hundred milliseconds, for that is what passes limits that only
//! look at what is queued. `hostile.rs` and `hostile_http2.rs` have malformed messages and slow connections.

mod attacks;
mod crowds;
pub mod peer;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::h2_frames::{DATA, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame, preface};
use crate::support::{Grpc, H1, Mesh, TEST_WAIT, metric};
use attacks::{Attack, ENHANCE_YOUR_CALM, Expect, attacks, block};
use http::Request;
use mesh_integration::harness::{Proxy, eventually, usage};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf},
    net::TcpStream,
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_rustls::TlsConnector;

/// Pause between the writes of an attack: a few hundred of them make an attack, and each is read by itself.
const PACE: Duration = Duration::from_millis(1);
/// Memory that attacks may add, in KiB: what 100 stalled streams of 64 KiB and the allocator keep, and a margin. One that
/// is not bounded takes far more.
const MEMORY: u64 = 40 << 10;
/// A request that takes longer beside an attack was held up by it (debug build, busy machine).
const HELD_UP: Duration = Duration::from_secs(5);

/// What became of the attacker.
#[derive(Debug, Default)]
struct Fate {
    writes: usize,
    /// The error code of a GOAWAY.
    goaway: Option<u32>,
    closed: bool,
    /// Response heads.
    heads: usize,
    /// Bytes of DATA.
    data: usize,
}

/// Who attacks.
enum Attacker {
    /// Anybody, in plain text.
    Stranger,
    /// A workload of the mesh, in the place of its proxy.
    Peer(TlsConnector),
}

impl Attacker {
    async fn connect(&self, to: SocketAddr) -> Box<dyn Stream> {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match self {
            Self::Stranger => Box::new(stream),
            Self::Peer(tls) => Box::new(tls.connect(ServerName::IpAddress(to.ip().into()), stream).await.unwrap()),
        }
    }

    /// Frames without purpose that the proxy bears from such a client.
    fn free(&self) -> usize {
        match self {
            Self::Stranger => 1_000,
            Self::Peer(_) => 10_000,
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Runs an attack to its end or the connection's.
async fn attack(from: &Attacker, to: SocketAddr, writes: &[Vec<u8>]) -> Fate {
    let (read, mut write) = tokio::io::split(from.connect(to).await);
    let ended = Arc::new(AtomicBool::new(false));
    let mut reader = tokio::spawn(listen(read, ended.clone()));
    write.write_all(PREFACE).await.unwrap();
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut pace = interval(PACE);
    let mut sent = 0;
    for bytes in writes {
        pace.tick().await;
        let writing = async { write.write_all(bytes).await.and(write.flush().await) };
        let written = timeout(TEST_WAIT, writing).await.expect("the proxy neither reads nor closes");
        if written.is_err() || ended.load(Relaxed) {
            break;
        }
        sent += 1;
    }
    // What is still on its way: an end comes at once or not at all.
    let fate = match timeout(Duration::from_secs(2), &mut reader).await {
        Ok(fate) => fate.unwrap(),
        Err(_) => {
            let _ = timeout(TEST_WAIT, write.shutdown()).await;
            timeout(TEST_WAIT, reader)
                .await
                .expect("the connection ends with its client")
                .map(|f| Fate { closed: false, ..f })
                .unwrap()
        }
    };
    Fate { writes: sent, ..fate }
}

/// Reads what the proxy says until it closes.
async fn listen(mut from: ReadHalf<Box<dyn Stream>>, ended: Arc<AtomicBool>) -> Fate {
    let mut fate = Fate::default();
    let mut payload = vec![0; 1 << 24];
    loop {
        let mut head = [0; 9];
        if from.read_exact(&mut head).await.is_err() {
            break;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if from.read_exact(&mut payload[..length]).await.is_err() {
            break;
        }
        match head[3] {
            DATA => fate.data += length,
            HEADERS => fate.heads += 1,
            GOAWAY => fate.goaway = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            _ => {}
        }
    }
    ended.store(true, Relaxed);
    fate.closed = true;
    fate
}

/// Requests on another connection, one after the other, and the proxies' memory beside them.
struct Victim {
    stop: Arc<AtomicBool>,
    memory: Arc<AtomicU64>,
    task: JoinHandle<Vec<Result<Duration, String>>>,
}

impl Victim {
    async fn start(to: SocketAddr, pid: u32) -> Self {
        let (stop, memory) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let connection = Grpc::connect(to).await.unwrap();
        let (stopped, most) = (stop.clone(), memory.clone());
        let task = tokio::spawn(async move {
            let (mut outcomes, mut pace) = (Vec::new(), interval(Duration::from_millis(5)));
            while !stopped.load(Relaxed) {
                pace.tick().await;
                let began = Instant::now();
                let request = Request::get("http://web.shop/1k").body(()).unwrap();
                outcomes.push(match connection.exchange(request, None).await {
                    Ok((answer, _)) if answer.status() == 200 && answer.body().len() == 1024 => Ok(began.elapsed()),
                    Ok((answer, _)) => Err(format!("{answer:?}")),
                    Err(error) => Err(format!("{error:#}")),
                });
                most.fetch_max(usage(pid).unwrap().anonymous_kib, Relaxed);
            }
            outcomes
        });
        Self { stop, memory, task }
    }

    /// How many were served, and the slowest of them; one that was not served fails the test.
    async fn stop(self) -> (usize, Duration) {
        self.stop.store(true, Relaxed);
        let outcomes = self.task.await.unwrap();
        let failed: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {} requests failed, first {}", failed.len(), outcomes.len(), failed[0]);
        (outcomes.len(), outcomes.into_iter().flatten().max().unwrap_or_default())
    }
}

/// Every attack, one after the other, on one port of a proxy, beside requests to `victim`.
async fn besiege(attacker: Attacker, to: SocketAddr, victim: SocketAddr, proxy: &Proxy, direction: &str) {
    let pid = proxy.process.pid();
    let floods = async || metric(proxy, "mesh_errors_total", &[direction, "error=\"flood\""]).await;
    let before = usage(pid).unwrap().anonymous_kib;
    let mut wrong = Vec::new();
    for Attack { name, writes, expect } in attacks(attacker.free()) {
        let earlier = floods().await;
        let victim = Victim::start(victim, pid).await;
        let fate = attack(&attacker, to, &writes).await;
        let most = victim.memory.clone();
        let (served, slowest) = victim.stop().await;
        if matches!(expect, Expect::Calmed) {
            // It is counted where its connection ends, which the attacker may see a moment before. That it never is shows below.
            let is_counted = async || Ok((floods().await > earlier).then_some(()));
            let _never = eventually("the flood to be counted", TEST_WAIT, is_counted).await;
        }
        let (counted, grown) = (floods().await - earlier, most.load(Relaxed).saturating_sub(before));
        println!(
            "{direction} {name}: {} of {} writes, GOAWAY {:?}, closed {}, {} heads, {} bytes, counted {counted}; {served} other \
             requests, slowest {slowest:?}; memory +{grown} KiB",
            fate.writes,
            writes.len(),
            fate.goaway,
            fate.closed,
            fate.heads,
            fate.data
        );
        let cut = fate.closed && fate.writes < writes.len();
        let as_expected = match expect {
            Expect::Calmed => cut && counted == 1.0 && fate.goaway.is_none_or(|code| code == ENHANCE_YOUR_CALM),
            Expect::Cut => cut,
            Expect::Refused => fate.heads == writes.len() && fate.data < writes.len() * 1024, // `/1k` is that long
            Expect::Bounded => true,
        };
        if !as_expected || served == 0 || slowest > HELD_UP || grown > MEMORY {
            wrong
                .push(format!("{name}: expected {expect:?}, got {fate:?}, {served} served, {slowest:?}, +{grown} KiB"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gone = async || Ok((metric(proxy, "mesh_connections_open", &[direction]).await <= 1.0).then_some(()));
    eventually("no attacker to be connected", TEST_WAIT, gone).await.unwrap();
}

#[tokio::test]
async fn the_application_cannot_flood() {
    let (_mesh, client, _server) = Mesh::pair().await;
    besiege(Attacker::Stranger, client.entry(), client.entry(), &client.proxy, "outbound").await;
}

#[tokio::test]
async fn strangers_cannot_flood() {
    let (_mesh, _client, server) = Mesh::pair().await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    besiege(Attacker::Stranger, inbound, inbound, &server.proxy, "inbound").await;
}

#[tokio::test]
async fn peers_cannot_flood() {
    let (mesh, client, server) = Mesh::pair().await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    let attacker = Attacker::Peer(peer::connector(mesh.sandbox.path(), "mesh-h2"));
    besiege(attacker, inbound, client.entry(), &server.proxy, "inbound").await;
}

/// A hundred connections of each kind that never come to a request, on both ports.
#[tokio::test]
async fn connections_that_never_ask_are_ended_and_nobody_else_is_hurt() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let env = [("MESH_HEADER_TIMEOUT", "1s"), ("MESH_HANDSHAKE_TIMEOUT", "1s"), ("MESH_IDLE_TIMEOUT", "1s")];
    let server = mesh.server_with("web", "web-1", &[], &env).await;
    let client = mesh.client_with(&["web.shop:80"], &env).await;
    mesh.until_ok(&client).await;
    let begun = preface();
    let kinds = [
        ("half a head", b"GET / HTTP/1.1\r\nhost: web".to_vec()),
        // It says a version, so it is HTTP for whoever has nothing more to say.
        ("half a preface", b"PRI * HTTP/2.0\r\n".to_vec()),
        ("a preface and half a frame", [&begun[..], &[0, 0, 8, PING]].concat()),
        ("a header block without an end", [&begun[..], &frame(HEADERS, 1, 1, &block("GET", "/"))].concat()),
    ];
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    for (to, proxy, direction) in [(client.entry(), &client.proxy, "outbound"), (inbound, &server.proxy, "inbound")] {
        let pid = proxy.process.pid();
        let before = usage(pid).unwrap().anonymous_kib;
        let victim = Victim::start(to, pid).await;
        for (name, bytes) in &kinds {
            let mut held = Vec::new();
            for _ in 0..100 {
                let mut connection = H1::connect(to).await.unwrap();
                connection.send(bytes).await.unwrap();
                held.push(connection);
            }
            let began = Instant::now();
            for mut connection in held {
                let ended = connection.closed().await;
                assert!(ended.is_ok(), "{direction}: {name} is still open after {:?}", began.elapsed());
            }
            println!("{direction}: {name}: all ended after {:?}", began.elapsed());
        }
        let grown = victim.memory.load(Relaxed).saturating_sub(before);
        let (served, slowest) = victim.stop().await;
        println!("{direction}: {served} other requests, slowest {slowest:?}; memory +{grown} KiB");
        assert!(grown < MEMORY && slowest < HELD_UP, "{slowest:?}, +{grown} KiB");
        let gone = async || Ok((metric(proxy, "mesh_connections_open", &[direction]).await <= 1.0).then_some(()));
        eventually("nobody to be connected", TEST_WAIT, gone).await.unwrap();
    }
}
