//! Crowds on the port that faces other pods: what strangers leave unfinished has a bound, strangers who hold all their places
//! keep no peer out, and a peer opens no more connections to the application than it may.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use mesh_integration::harness::{eventually, usage};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use super::{Attacker, Stream, attacks::block, peer};
use crate::h2_frames::{HEADERS, frame, preface};
use crate::support::{H1, Mesh, TEST_WAIT, metric};

/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;
const END_HEADERS: u8 = 4;
/// Of new connections of a peer, one in a hundred may take so much longer than twice what it took alone (debug build, busy
/// machine).
const SLACK: Duration = Duration::from_millis(200);

fn inbound(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn from(host: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 0))).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn what_strangers_leave_unfinished_has_one_bound() {
    let (_mesh, client, server) = Mesh::pair().await;
    let (to, pid) = (inbound(server.listen), server.proxy.process.pid());
    let before = usage(pid).unwrap().anonymous_kib;
    let head = [b"GET / HTTP/1.1\r\nhost: web.shop\r\n".to_vec(), b"x-a: ".to_vec(), vec![b'v'; 100_000]].concat();
    let block = [preface(), frame(HEADERS, 0, 1, &block("GET", "/"))];
    let more: Vec<_> =
        (0..6).map(|_| frame(9, 0, 1, &[&[0x0f, 0x10, 0x7f, 0x81, 0x7f][..], &vec![b'v'; 16_000]].concat())).collect();
    let begun = [block.concat(), more.concat()].concat();
    let hello = [&[0x16, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xff][..], &[3; 16_000]].concat();
    let mut held = Vec::new();
    for n in 0..600 {
        let mut tcp = from(1 + (n % 8) as u8, to).await;
        // It may be ended while it still speaks.
        let _ = timeout(Duration::from_secs(1), tcp.write_all([&head, &begun, &hello][n % 3])).await;
        held.push(tcp);
    }
    assert!(H1::connect(client.entry()).await.is_ok());
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(usage(pid).unwrap().anonymous_kib.saturating_sub(before));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{} connections that left heads unfinished: memory +{most} KiB", held.len());
    // Twice the bound of 16 MiB, as buffers double, and a margin.
    assert!(most < 40 << 10, "+{most} KiB");
    drop(held);
    let gone = async || Ok((metric(&server.proxy, "mesh_connections_open", &["inbound"]).await <= 2.0).then_some(()));
    eventually("nobody to be connected", TEST_WAIT, gone).await.unwrap();
}

/// A new connection of a peer and one request on it.
async fn called(attacker: &Attacker, to: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut stream = attacker.connect(to).await;
    let said = [preface(), frame(HEADERS, WHOLE, 1, &block("GET", "/1k"))];
    stream.write_all(&said.concat()).await.unwrap();
    answered(&mut *stream).await;
    begun.elapsed()
}

/// Reads until the head of a response.
async fn answered(stream: &mut dyn Stream) {
    let mut payload = vec![0; 1 << 17];
    loop {
        let mut head = [0; 9];
        timeout(TEST_WAIT, stream.read_exact(&mut head)).await.expect("an answer").unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        stream.read_exact(&mut payload[..length]).await.unwrap();
        if head[3] == HEADERS {
            return;
        }
    }
}

#[tokio::test]
async fn strangers_who_hold_all_their_places_keep_no_peer_out() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let env = [("MESH_MAX_CONNECTIONS", "200"), ("MESH_MAX_UNPROVED", "100")];
    let server = mesh.server_with("web", "web-1", &[], &env).await;
    let client = mesh.client(&["web.shop:80"]).await;
    mesh.until_ok(&client).await;
    let to = inbound(server.listen);
    let attacker = Attacker::Peer(peer::connector(mesh.sandbox.path(), "mesh-h2"));
    let p99 = async || {
        let mut took = Vec::new();
        for _ in 0..100 {
            took.push(called(&attacker, to).await);
        }
        took.sort();
        took[98]
    };
    p99().await;
    let alone = p99().await;

    // All places of strangers, then as many who wait for one, and some who say nothing.
    let request = b"GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n";
    let mut served = Vec::new();
    for n in 0..100 {
        let mut tcp = from(1 + (n % 20) as u8, to).await;
        tcp.write_all(request).await.unwrap();
        let read = timeout(TEST_WAIT, tcp.read(&mut [0; 4096])).await.expect("a place");
        assert!(read.unwrap() > 0);
        served.push(tcp);
    }
    let mut held = Vec::new();
    for n in 0..150 {
        let mut tcp = from(1 + (n % 20) as u8, to).await;
        if n % 2 == 0 {
            tcp.write_all(request).await.unwrap();
        }
        held.push(tcp);
    }
    let crowded = p99().await;
    println!("a new connection of a peer, p99: {alone:?} alone, {crowded:?} while strangers hold all places");
    assert!(crowded < 2 * alone + SLACK, "{alone:?}, then {crowded:?}");
    let open = metric(&server.proxy, "mesh_connections_open", &["inbound"]).await;
    assert!(open <= 300.0, "{open}");
    // Who is served is not ended for others.
    for tcp in &mut served {
        tcp.write_all(request).await.unwrap();
        let read = timeout(TEST_WAIT, tcp.read(&mut [0; 4096])).await.expect("an answer");
        assert!(read.unwrap() > 0, "it was ended");
    }
    // And a place that is given back goes to one who waits.
    drop(served);
    let mut byte = [0; 1];
    let taken = timeout(TEST_WAIT, held[148].read(&mut byte)).await.expect("a place");
    assert_eq!(taken.unwrap(), 1);
}

#[tokio::test]
async fn a_peer_opens_no_more_connections_to_the_application_than_it_may() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    // An application that takes whatever comes and answers nothing.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let app = listener.local_addr().unwrap();
    let (taken, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (taken.clone(), open.clone());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let (taken, open) = counters.clone();
            taken.fetch_add(1, Relaxed);
            open.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while tcp.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
                open.fetch_sub(1, Relaxed);
            });
        }
    });
    let server = mesh.sidecar("web", "web-1", app, &[("MESH_UPLOAD_TIMEOUT", "2s")]).await;
    let attacker = Attacker::Peer(peer::connector(mesh.sandbox.path(), "mesh-h2"));
    let orig = [&[0, 15][..], b"mesh-orig-proto", &[8], b"HTTP/1.1"].concat();
    let post = [block("POST", "/"), orig].concat();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = attacker.connect(inbound(server.listen)).await;
        let asked = (0..300).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &post));
        let said = preface();
        stream.write_all(&said.into_iter().chain(asked).collect::<Vec<_>>()).await.unwrap();
        held.push(stream);
    }
    let some = async || Ok((taken.load(Relaxed) > 100).then_some(()));
    eventually("connections to the application", TEST_WAIT, some).await.unwrap();
    let ended = async || Ok((open.load(Relaxed) == 0).then_some(()));
    eventually("requests that bring no body to be given up", TEST_WAIT, ended).await.unwrap();
    let all = taken.load(Relaxed);
    println!("2 connections of a peer, 600 requests without a body: {all} connections to the application, all ended");
    assert!(all <= 200, "{all}");
}
