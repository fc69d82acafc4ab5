//! Traffic of applications that know nothing of the mesh: meshed both ways, unmeshed both ways, outside, within.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use mesh_integration::harness::{eventually, http_get};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};

use crate::{
    mesh::{Mesh, PATIENCE, WEB, WEB6, answered, get},
    net::Pod,
};

const TLS: &str = "mesh_tls_connections_total";
const CLIENT: &str = "peer_identity=\"spiffe://cluster.local/ns/shop/sa/client\"";
const WEB_ID: &str = "peer_identity=\"spiffe://cluster.local/ns/shop/sa/web\"";

#[tokio::test]
async fn both_ways_are_taken_with_mutual_tls_by_ipv4_and_ipv6() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    let client = mesh.meshed("client", &[]).await;
    mesh.service(&web.pod, "web").await;
    let _all = mesh.app(&web.pod, "all", "[::]:8080", &[]).await;
    let _own = mesh.app(&web.pod, "own", web.pod.at(8081), &[]).await;
    let _own6 = mesh.app(&web.pod, "own6", web.pod.at6(8082), &[]).await;

    let began = Instant::now();
    assert_eq!(answered(&get(&client.pod, format!("{WEB}:80"))), "all", "a Service");
    println!("the first request of a fresh proxy took {:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(answered(&get(&client.pod, format!("{WEB}:80"))), "all");
    println!("the second took {:?}", began.elapsed());
    assert_eq!(answered(&get(&client.pod, format!("{WEB6}:80"))), "all", "a Service by IPv6");
    let served = web.metric("mesh_requests_total", &["direction=\"inbound\"", "sa/client"]).await;
    assert!(served >= 3.0, "the caller is known: {served}");
    for (address, name) in
        [(web.pod.at(8080), "all"), (web.pod.at6(8080), "all"), (web.pod.at(8081), "own"), (web.pod.at6(8082), "own6")]
    {
        assert_eq!(answered(&get(&client.pod, address)), name, "{address}");
    }
    let page = client.pod.block_on(|| http_get(web.pod.at(4692), "/metrics"));
    assert!(page.unwrap().body.contains(TLS), "a meshed Prometheus reads the pages of other proxies");
    assert!(web.metric(TLS, &["inbound", CLIENT]).await >= 3.0);
    assert!(client.metric(TLS, &["outbound", WEB_ID]).await >= 3.0);
}

#[tokio::test]
async fn the_unmeshed_are_served_and_called_as_they_are() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    let outside = mesh.net.pod();
    let _web = mesh.app(&web.pod, "web", "[::]:8080", &[]).await;
    let _banner = mesh.app(&outside, "banner", "[::]:2525", &["--tcp-banner", "220 hello"]).await;
    let _http = mesh.app(&outside, "http", "[::]:8080", &[]).await;

    for address in [web.pod.at(8080), web.pod.at6(8080)] {
        assert_eq!(answered(&get(&outside, address)), "web", "in, plain: {address}");
    }
    for address in [outside.at(8080), outside.at6(8080)] {
        assert_eq!(answered(&get(&web.pod, address)), "http", "out, plain: {address}");
    }
    for address in [outside.at(2525), outside.at6(2525)] {
        let began = Instant::now();
        assert_eq!(greeting(&web.pod, address), "220 hello", "whoever speaks first");
        assert!(began.elapsed() < Duration::from_secs(1), "nobody waited for the client: {:?}", began.elapsed());
    }
    assert!(web.metric("mesh_connections_total", &["opaque", "outbound"]).await >= 4.0, "it went through the proxy");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_meshed() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    let client = mesh.meshed("client", &[]).await;
    mesh.service(&web.pod, "web").await;
    let _db = mesh.app(&web.pod, "db", "0.0.0.0:5432", &["--tcp-banner", "5.7 ready"]).await;
    for _ in 0..2 {
        assert_eq!(greeting(&client.pod, SocketAddr::from((WEB, 5432))), "5.7 ready");
    }
    assert!(client.metric(TLS, &["outbound", WEB_ID]).await >= 2.0);
    assert!(web.metric(TLS, &["inbound", CLIENT]).await >= 2.0);
}

#[tokio::test]
async fn a_call_to_oneself_is_served_by_the_same_rules() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    mesh.service(&web.pod, "web").await;
    let _web = mesh.app(&web.pod, "web", web.pod.at(8080), &[]).await;
    for _ in 0..3 {
        assert_eq!(answered(&get(&web.pod, format!("{WEB}:80"))), "web", "by its Service");
    }
    assert!(web.metric(TLS, &["inbound", WEB_ID]).await >= 1.0, "with its own identity, over TLS");
    let before = web.metric(TLS, &["outbound"]).await;
    assert_eq!(answered(&get(&web.pod, web.pod.at(8080))), "web", "by its own address, within the pod");
    assert!((web.metric(TLS, &["outbound"]).await - before).abs() < 0.5, "that never left the pod");
}

#[tokio::test]
async fn what_is_known_as_outside_stays_so_without_the_controller() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let client = mesh.meshed("client", &[]).await;
    let outside = mesh.net.pod();
    let _app = mesh.app(&outside, "app", "[::]:8080", &[]).await;
    assert_eq!(answered(&get(&client.pod, outside.at(8080))), "app");
    mesh.without_controller().await;

    // At once, and after the verdict would have been asked for again.
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut slowest = Duration::ZERO;
    while Instant::now() < deadline {
        let began = Instant::now();
        assert_eq!(answered(&get(&client.pod, outside.at(8080))), "app");
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "nobody waits long for a controller that is away: {slowest:?}");

    let began = Instant::now();
    let refused = get(&client.pod, outside.at6(8080)).unwrap();
    assert_eq!(refused.status, 503, "never seen before, and nobody to ask");
    assert!(refused.head.contains("discovery-unavailable"), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn udp_and_ping_are_unhurt() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let client = mesh.meshed("client", &[]).await;
    let web = mesh.meshed("web", &[]).await;
    for address in [web.pod.at(5353), web.pod.at6(5353)] {
        let server = web.pod.run(|| UdpSocket::bind(address)).unwrap();
        let echoed = client.pod.run(|| {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"question", address).unwrap();
            let mut space = [0; 100];
            let (length, from) = server.recv_from(&mut space).unwrap();
            server.send_to(&space[..length], from).unwrap();
            let (length, from) = socket.recv_from(&mut space).unwrap();
            (space[..length].to_vec(), from)
        });
        assert_eq!(echoed, (b"question".to_vec(), address));
    }
    for address in [web.pod.at(0), web.pod.at6(0)] {
        assert!(client.pod.run(|| ping(address)), "{address}");
    }
}

/// Sends an echo request and reads the answer.
fn ping(to: SocketAddr) -> bool {
    let (family, protocol, request, reply) = match to.is_ipv4() {
        true => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        false => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(protocol)).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    // Type, code, checksum, identifier 1, number 1. The kernel writes the checksum of ICMPv6.
    let sum = !u16::from_be_bytes([request, 0]).wrapping_add(2);
    let [high, low] = if to.is_ipv4() { sum.to_be_bytes() } else { [0, 0] };
    rustix::net::send(&socket, &[request, 0, high, low, 0, 1, 0, 1], SendFlags::empty()).unwrap();
    let mut space = [0; 200];
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut space, RecvFlags::empty()).unwrap();
        // IPv4 comes with its header. Neighbour discovery may come in between.
        let message = if to.is_ipv4() { &space[20..length] } else { &space[..length] };
        if message[0] == reply {
            return message[4..8] == [0, 1, 0, 1];
        }
    }
}

/// Application TLS is bytes to the proxy; here a ClientHello and what a server answers to it.
#[tokio::test]
async fn tls_of_the_application_passes_untouched() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let client = mesh.meshed("client", &[]).await;
    let web = mesh.meshed("web", &[]).await;
    mesh.service(&web.pod, "web").await;
    let _echo = mesh.app(&web.pod, "echo", "[::]:5432", &["--tcp-echo"]).await;
    // The head of a record and of a ClientHello that offers nothing, then silence from which nothing more can be read.
    let hello =
        [&b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03"[..], &[7; 32], b"\x00\x00\x02\x13\x01\x01\x00\x00\x00"]
            .concat();
    for address in [SocketAddr::from((WEB, 5432)), web.pod.at6(5432)] {
        let echoed = client.pod.run(|| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&hello).unwrap();
            let mut back = vec![0; hello.len()];
            stream.read_exact(&mut back).unwrap();
            back
        });
        assert_eq!(echoed, hello);
    }
}

#[tokio::test]
async fn a_service_that_comes_is_seen_by_whoever_took_it_for_outside() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let client = mesh.meshed("client", &[]).await;
    let web = mesh.meshed("web", &[]).await;
    let _web = mesh.app(&web.pod, "web", "[::]:8080", &[]).await;
    let known = client.pod.run(|| TcpStream::connect_timeout(&SocketAddr::from((WEB, 80)), PATIENCE));
    assert!(known.is_ok(), "the proxy takes it, whatever becomes of it");
    mesh.service(&web.pod, "web").await;
    let pod = client.pod.clone();
    let served = async || Ok(get(&pod, format!("{WEB}:80")).ok().filter(|answer| answer.status == 200));
    eventually("the Service to be known", PATIENCE, served).await.unwrap();
    assert!(client.metric(TLS, &["outbound", WEB_ID]).await >= 1.0, "never in plain text");
}

fn greeting(pod: &Pod, address: SocketAddr) -> String {
    pod.run(|| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut space = [0; 100];
        let length = stream.read(&mut space).unwrap();
        String::from_utf8_lossy(&space[..length]).into_owned()
    })
}

/// A listener of a test's own in a pod.
pub fn listener(pod: &Pod, address: SocketAddr) -> TcpListener {
    pod.run(|| TcpListener::bind(address)).unwrap()
}
