//! Closed ports, loops, and connections to the proxy's own ports.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use mesh_integration::harness::{eventually, usage};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::{
    mesh::{Mesh, PATIENCE, WEB, answered, get},
    net::Pod,
};

fn connect(pod: &Pod, address: SocketAddr) -> Result<TcpStream, ErrorKind> {
    pod.run(|| TcpStream::connect_timeout(&address, PATIENCE)).map_err(|error| error.kind())
}

/// What a TCP, an HTTP and a gRPC probe of a closed port must see.
#[tokio::test]
async fn a_closed_port_is_refused_by_the_kernel() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    let outside = mesh.net.pod();
    let app = mesh.app(&web.pod, "web", "[::]:8080", &[]).await;
    let _v4 = mesh.app(&web.pod, "v4", "0.0.0.0:8081", &[]).await;
    let _local = mesh.app(&web.pod, "local", "127.0.0.1:8083", &[]).await;
    let refused = |address| matches!(connect(&outside, address), Err(ErrorKind::ConnectionRefused));

    for address in [web.pod.at(8080), web.pod.at6(8080), web.pod.at(8081)] {
        assert!(connect(&outside, address).is_ok(), "{address}");
    }
    for address in [web.pod.at(9), web.pod.at6(9), web.pod.at6(8081), web.pod.at(8083), web.pod.at6(8083)] {
        assert!(refused(address), "nothing listens at {address}");
    }
    drop(app);
    assert!(refused(web.pod.at(8080)) && refused(web.pod.at6(8080)), "the application is gone, and probes see it");
}

#[tokio::test]
async fn connections_to_the_proxys_own_ports_cannot_loop() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    let outside = mesh.net.pod();
    mesh.service(&web.pod, "web").await;
    let _web = mesh.app(&web.pod, "web", "[::]:8080", &[]).await;
    assert_eq!(answered(&get(&web.pod, format!("{WEB}:80"))), "web");
    let before = usage(web.proxy.pid()).unwrap().cpu_ns;

    for address in [web.pod.at(4640), web.pod.at6(4640), web.pod.at(4691)] {
        assert_eq!(connect(&outside, address).err(), Some(ErrorKind::ConnectionRefused), "{address}");
    }
    for address in [web.pod.at(4643), web.pod.at6(4643)] {
        assert!(is_closed(&outside, address), "from outside, {address}");
        assert!(is_closed(&web.pod, address), "from within, {address}");
    }
    for lo in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        assert!(is_closed(&web.pod, SocketAddr::new(lo, 4643)), "{lo}");
        let looped = get(&web.pod, SocketAddr::new(lo, 4640)).unwrap();
        assert_eq!(looped.status, 503, "as an HTTP proxy that is asked for itself: {looped:?}");
    }
    let spent = Duration::from_nanos(usage(web.proxy.pid()).unwrap().cpu_ns - before);
    assert!(spent < Duration::from_secs(1), "something went round: {spent:?} of processor time");
    assert_eq!(answered(&get(&web.pod, format!("{WEB}:80"))), "web", "and all is well");
}

/// Whether a request sent there is answered by nothing but the end of the connection.
fn is_closed(pod: &Pod, address: SocketAddr) -> bool {
    pod.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        match stream.read(&mut [0; 100]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    })
}

/// Another pod's port 4640 is a port like any other.
#[tokio::test]
async fn the_proxys_port_numbers_are_free_elsewhere() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let client = mesh.meshed("client", &[]).await;
    let outside = mesh.net.pod();
    let _a = mesh.app(&outside, "a", "[::]:4640", &[]).await;
    let _b = mesh.app(&outside, "b", "[::]:4643", &[]).await;
    for (port, name) in [(4640, "a"), (4643, "b")] {
        assert_eq!(answered(&get(&client.pod, outside.at(port))), name);
        assert_eq!(answered(&get(&client.pod, outside.at6(port))), name);
    }
}

#[tokio::test]
async fn skip_lists_leave_connections_alone() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let lists = [
        ("MESH_SKIP_INBOUND_PORTS", "8090,9000-9010"),
        ("MESH_SKIP_OUTBOUND_PORTS", "7000-7001"),
        ("MESH_SKIP_OUTBOUND_CIDRS", "10.77.0.3/32,fd77::3"),
    ];
    let pod = mesh.meshed("web", &lists).await;
    let listed = mesh.net.pod(); // 10.77.0.3
    let other = mesh.net.pod();
    // Who is on the other side tells whether the proxy is in between: it is the proxy's port that a connection comes from.
    let taken = |from: &Pod, to: SocketAddr, at: &Pod| {
        let listener = crate::traffic::listener(at, to);
        // On Linux a limit for reading is one for accepting, too (socket(7)).
        set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE)).unwrap();
        let stream = connect(from, to).unwrap();
        let (_, seen) = listener.accept().unwrap_or_else(|error| panic!("no connection to {to} arrived: {error}"));
        seen.port() != stream.local_addr().unwrap().port()
    };
    for (to, at, expected) in [
        (listed.at(8080), &listed, false),
        (listed.at6(8080), &listed, false),
        (other.at(8080), &other, true),
        (other.at6(8080), &other, true),
        (other.at(7001), &other, false),
        (other.at(7002), &other, true),
    ] {
        assert_eq!(taken(&pod.pod, to, at), expected, "out to {to}");
    }
    for (to, expected) in
        [(pod.pod.at(8090), false), (pod.pod.at6(9010), false), (pod.pod.at(9011), true), (pod.pod.at6(8091), true)]
    {
        assert_eq!(taken(&other, to, &pod.pod), expected, "in to {to}");
    }
}

#[tokio::test]
async fn an_application_that_comes_back_is_served_again() {
    let Some(mut mesh) = Mesh::new().await else { return };
    let web = mesh.meshed("web", &[]).await;
    let client = mesh.meshed("client", &[]).await;
    mesh.service(&web.pod, "web").await;
    let app = mesh.app(&web.pod, "first", "[::]:8080", &[]).await;
    assert_eq!(answered(&get(&client.pod, format!("{WEB}:80"))), "first");
    drop(app);
    let gone = get(&client.pod, format!("{WEB}:80")).unwrap();
    assert_eq!(gone.status, 503, "{gone:?}");
    let _app = mesh.app(&web.pod, "second", web.pod.at(8080), &[]).await;
    let pod = client.pod.clone();
    let served = async || Ok(get(&pod, format!("{WEB}:80")).ok().filter(|answer| answer.status == 200));
    let answer = eventually("the application's return to be seen", PATIENCE, served).await;
    assert_eq!(answered(&answer), "second");
}
