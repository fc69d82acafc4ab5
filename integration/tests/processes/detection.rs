//! What a connection speaks, on ports that are declared to speak HTTP, have routes, or are neither: forms of a first line
//! that servers take, and clients that are late, slow or silent. docs/detection.md is the page.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{App, H1, Mesh, Server, TEST_WAIT, get, metric, until_answered};
use mesh_integration::harness::{eventually, http_get};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::floods::peer;

/// The forms, what five servers make of them, and what the proxy does.
const FORMS: &str = include_str!("../data/first-lines/forms.tsv");
/// Behind a form. The proxy takes the last field but one off what it serves.
const REST: &str = "Host: a\r\nmesh-x: 1\r\nConnection: close\r\n\r\n";
/// How long the proxies of this file wait for a head.
const HEADER_TIMEOUT: (&str, &str) = ("MESH_HEADER_TIMEOUT", "1s");

/// One row of the table.
struct Form {
    text: &'static str,
    sent: Vec<u8>,
    requests: &'static str,
    anything: &'static str,
    servers: Vec<&'static str>,
}

fn forms() -> Vec<Form> {
    let rows = FORMS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).skip(1);
    rows.map(|row| {
        let columns: Vec<&str> = row.split('\t').collect();
        let [text, requests, anything, servers @ ..] = &columns[..] else { panic!("{row}") };
        let sent = match text.strip_suffix("...") {
            Some(whole) => unescape(whole),
            None => {
                let line = unescape(text);
                let lf = line.ends_with(b"\n") && !line.ends_with(b"\r\n");
                [&line[..], if lf { REST.replace('\r', "") } else { REST.to_owned() }.as_bytes()].concat()
            }
        };
        Form { text, sent, requests, anything, servers: servers.to_vec() }
    })
    .collect()
}

/// `\r`, `\n`, `\t`, `\xHH`, and `{A*100}` for repetition.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some((part, after)) = rest.strip_prefix('{').and_then(|r| r.split_once('}'))
            && let Some((what, times)) = part.rsplit_once('*')
        {
            out.extend(unescape(what).repeat(times.parse().unwrap()));
            rest = after;
        } else if let Some(escaped) = rest.strip_prefix('\\') {
            let (byte, length) = match escaped.as_bytes().first() {
                Some(b'r') => (b'\r', 1),
                Some(b'n') => (b'\n', 1),
                Some(b't') => (b'\t', 1),
                Some(b'x') => (u8::from_str_radix(&escaped[1..3], 16).unwrap(), 3),
                _ => (b'\\', 0),
            };
            out.push(byte);
            rest = &escaped[length..];
        } else {
            out.push(next as u8);
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

/// An application that answers with the first bytes that it read.
async fn mirror() -> App {
    App::start(|mut stream| async move {
        let mut said = vec![0; 256 * 1024];
        let Ok(count @ 1..) = stream.read(&mut said).await else { return };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(&[head.as_bytes(), &said[..count]].concat()).await;
        let _ = stream.shutdown().await;
        while stream.read(&mut said).await.is_ok_and(|count| count > 0) {}
    })
    .await
}

/// What became of a form: `served`, `bytes`, the status that refused it, or `closed`.
async fn outcome<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T, sent: &[u8]) -> String {
    let mut got = Vec::new();
    let exchange = async {
        let _ = stream.write_all(sent).await;
        let _ = stream.flush().await;
        // What was written in vain resets the connection behind the answer.
        let _ = stream.read_to_end(&mut got).await;
    };
    tokio::time::timeout(TEST_WAIT, exchange).await.expect("an answer or an end");
    let body = got.windows(4).position(|end| end == b"\r\n\r\n").map(|at| &got[at + 4..]);
    let status = got.strip_prefix(b"HTTP/1.1 ").or_else(|| got.strip_prefix(b"HTTP/1.0 "));
    match (status, body) {
        (Some([b'2', ..]), Some(body)) if !body.is_empty() && sent.starts_with(body) => "bytes".to_owned(),
        (Some([b'2', ..]), Some(_)) => "served".to_owned(),
        (Some(status), _) => String::from_utf8_lossy(&status[..3]).into_owned(),
        (None, _) => "closed".to_owned(),
    }
}

/// Waits until a server's proxy knows what its port speaks.
async fn until_known(server: &Server, key: &str, value: serde_json::Value) {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, server.listen));
    let known = async || {
        let _ = get(at, "probe.test", "/probe").await;
        let config: serde_json::Value = serde_json::from_str(&http_get(server.proxy.admin, "/config").await?.body)?;
        let of_port = &config["inbound"]["ports"][0][key];
        // Of a port of which nothing is known, nothing is shown.
        let is_it = *of_port == value || (of_port.is_null() && value == false);
        Ok((config["inbound"].is_object() && is_it).then_some(()))
    };
    eventually(&format!("{key} to be {value}"), TEST_WAIT, known).await.unwrap();
}

#[tokio::test]
async fn what_servers_take_for_a_request_never_passes_routes_as_bytes() {
    let mesh = Mesh::start().await;
    let app = mirror().await;
    mesh.service("declared", Some("http"));
    mesh.service("routed", None);
    mesh.service("plain", None);
    mesh.manifests.http_route("shop", "routed", "routed", 80, "routed").unwrap();
    let mut servers = Vec::new();
    for service in ["declared", "routed", "plain"] {
        servers.push(mesh.sidecar(service, &format!("{service}-1"), app.address, &[HEADER_TIMEOUT]).await);
    }
    let destinations = ["declared.shop:80", "routed.shop:80", "plain.shop:80"];
    let client = mesh.client_with(&destinations, &[HEADER_TIMEOUT]).await;
    until_known(&servers[0], "protocol", "http1".into()).await;
    until_known(&servers[1], "hasRequestRoutes", true.into()).await;
    until_known(&servers[2], "hasRequestRoutes", false.into()).await;
    for entry in &client.ports {
        let answered = async || Ok(get(*entry, "a", "/").await.is_ok_and(|a| a.head.status == 200).then_some(()));
        eventually("the port to answer", TEST_WAIT, answered).await.unwrap();
    }
    let forms = Arc::new(forms());
    assert!(forms.len() >= 50, "{}", forms.len());
    let peer = peer::connector(mesh.sandbox.path(), "mesh-tcp");
    let mut tasks = Vec::new();
    for (at, service) in ["declared", "routed", "undeclared"].into_iter().enumerate() {
        let inbound = SocketAddr::from((Ipv4Addr::LOCALHOST, servers[at].listen));
        for (side, to, tls) in
            [("outbound", client.ports[at], None), ("inbound", inbound, None), ("mesh-tcp", inbound, Some(&peer))]
        {
            let (forms, tls): (_, Option<TlsConnector>) = (forms.clone(), tls.cloned());
            tasks.push(tokio::spawn(async move {
                let mut wrong = Vec::new();
                for form in forms.iter() {
                    let tcp = TcpStream::connect(to).await.unwrap();
                    let seen = match &tls {
                        None => outcome(tcp, &form.sent).await,
                        Some(tls) => {
                            let host = ServerName::IpAddress(to.ip().into());
                            outcome(tls.connect(host, tcp).await.unwrap(), &form.sent).await
                        }
                    };
                    let right = if service == "undeclared" { form.anything } else { form.requests };
                    if seen != right {
                        wrong.push(format!("{service} {side} {}: {seen}, not {right}", form.text));
                    }
                }
                wrong
            }));
        }
    }
    let mut wrong = Vec::new();
    for task in tasks {
        wrong.extend(task.await.unwrap());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table itself: where routes are nothing is bytes, and elsewhere nothing that says a version is.
#[test]
fn the_table_of_first_lines_lets_nothing_through() {
    for form in forms() {
        assert_ne!(form.requests, "bytes", "{}", form.text);
        assert_eq!(form.servers.len(), 5, "{}", form.text);
        let taken = form.servers.contains(&"taken");
        let says_version = |word: &str| {
            let digit =
                word.to_ascii_uppercase().strip_prefix("HTTP/").is_some_and(|v| v.starts_with(char::is_numeric));
            digit && !word.contains('"')
        };
        let line = String::from_utf8_lossy(&form.sent).into_owned();
        let line = line.trim_start_matches(['\r', '\n']).split('\n').next().unwrap();
        if taken && line.split(|c: char| c <= ' ').any(says_version) {
            assert_ne!(form.anything, "bytes", "{}", form.text);
        }
    }
}

/// A server that says this at once, and then nothing.
async fn greeter(greeting: &'static str) -> App {
    App::start(move |mut stream| async move {
        let _ = stream.write_all(greeting.as_bytes()).await;
        while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
    })
    .await
}

#[tokio::test]
async fn one_endpoint_that_speaks_first_changes_nothing_for_its_service() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let talker = greeter("hi\n").await;
    let first = mesh.sidecar("web", "web-1", talker.address, &[]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    let greeted = async || {
        let mut silent = H1::connect(client.entry()).await?;
        Ok(silent.raw(3).await.is_ok_and(|said| said == b"hi\n").then_some(()))
    };
    eventually("the greeting to be heard", TEST_WAIT, greeted).await.unwrap();
    let _second = mesh.server("web", "web-2", &[]).await;
    mesh.remove_endpoint("web", &first.pod);
    let forged = "GET / HTTP/1.1\r\nhost: web.shop\r\nmesh-forged: 1\r\n\r\n";
    let served = async || {
        let mut connection = H1::connect(client.entry()).await?;
        let Ok(answer) = connection.ask(forged).await else { return Ok(None) };
        if answer.head.status != 200 {
            return Ok(None);
        }
        assert!(answer.json()["headers"].get("mesh-forged").is_none(), "it went the way of HTTP: {answer:?}");
        Ok(Some(()))
    };
    eventually("the other endpoint to be asked", TEST_WAIT, served).await.unwrap();
}

#[tokio::test]
async fn routes_hold_while_an_endpoint_speaks_first() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let rule = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  \
                parentRefs: [{group: \"\", kind: Service, name: web, port: 80}]\n  rules:\n  \
                - matches: [{path: {type: PathPrefix, value: /ok}}]\n    backendRefs: [{name: web, port: 80}]\n";
    mesh.manifests.write("route", rule).unwrap();
    let talker = greeter("hi\n").await;
    let _server = mesh.sidecar("web", "web-1", talker.address, &[]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    until_answered(client.entry(), "/no", |answer| answer.head.status == 404).await;
    let mut silent = TcpStream::connect(client.entry()).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_millis(500), silent.read(&mut [0; 8])).await;
    assert!(heard.is_err(), "no server is connected for a client that may ask for anything: {heard:?}");
    silent.write_all(b"GET /no HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    silent.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 404");
    assert_eq!(talker.connections(), 0);
}

#[tokio::test]
async fn a_late_client_of_http2_is_served_as_http() {
    let (_mesh, client, server) = Mesh::pair().await;
    for late in [Duration::ZERO, Duration::from_millis(300)] {
        let before = metric(&client.proxy, "mesh_requests_total", &["response_code=\"200\""]).await;
        let tcp = TcpStream::connect(client.entry()).await.unwrap();
        tokio::time::sleep(late).await; // what is late cannot be waited for
        let (mut send, connection) = h2::client::handshake(tcp).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::get("http://web.shop/").header("mesh-forged", "1").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        let response = tokio::time::timeout(TEST_WAIT, response).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        let counted = async || {
            let now = metric(&client.proxy, "mesh_requests_total", &["response_code=\"200\""]).await;
            Ok((now > before).then_some(()))
        };
        eventually("the request to be counted as one", TEST_WAIT, counted).await.unwrap();
        driver.abort();
    }
    assert_eq!(metric(&server.proxy, "mesh_tcp_bytes_total", &["flow=\"sent\""]).await, 0.0);
}

/// An application that answers `imok` to four letters.
async fn zookeeper() -> App {
    App::start(|mut stream| async move {
        let mut word = [0; 4];
        if stream.read_exact(&mut word).await.is_ok() {
            let _ = stream.write_all(b"imok").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_few_letters_without_a_line_end_reach_their_server_at_once() {
    let app = zookeeper().await;
    let (_mesh, client, server) = Mesh::around(app.address).await;
    for entry in [client.entry(), SocketAddr::from((Ipv4Addr::LOCALHOST, server.listen))] {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            let mut connection = H1::connect(entry).await.unwrap();
            connection.send("ruok").await.unwrap();
            assert_eq!(connection.raw(4).await.unwrap(), b"imok");
            best = best.min(began.elapsed());
        }
        println!("ruok is answered after {best:?}");
        assert!(best < Duration::from_secs(1), "{best:?}");
    }
}

#[tokio::test]
async fn letters_that_become_a_request_lose_neither_routes_nor_stripping() {
    let (_mesh, client, server) = Mesh::pair().await;
    for entry in [client.entry(), SocketAddr::from((Ipv4Addr::LOCALHOST, server.listen))] {
        let mut connection = H1::connect(entry).await.unwrap();
        connection.send("GE").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await; // they are passed on by then
        let answer = connection.ask("T / HTTP/1.1\r\nhost: web.shop\r\nmesh-forged: 1\r\n\r\n").await.unwrap();
        assert_eq!(answer.head.status, 200);
        assert!(answer.json()["headers"].get("mesh-forged").is_none(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_at_once_hears_its_server() {
    let app = App::start(|mut stream| async move {
        // Says the day to whoever connects, as RFC 867 has it.
        let _ = stream.write_all(b"Sunday\r\n").await;
    })
    .await;
    let (_mesh, client, server) = Mesh::around(app.address).await;
    for entry in [client.entry(), SocketAddr::from((Ipv4Addr::LOCALHOST, server.listen))] {
        let mut stream = TcpStream::connect(entry).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        let read = tokio::time::timeout(TEST_WAIT, stream.read_to_string(&mut said)).await;
        assert_eq!((read.unwrap().unwrap(), said.as_str()), (8, "Sunday\r\n"));
    }
}

#[tokio::test]
async fn a_late_client_of_http1_costs_its_server_one_connection() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let app = App::start({
        let ends = ends.clone();
        move |mut stream| {
            let ends = ends.clone();
            async move {
                let mut said = [0; 4096];
                let read = stream.read(&mut said).await;
                let is_asked = matches!(read, Ok(1..));
                ends.lock().unwrap().push(read.map_err(|error| error.kind()));
                if is_asked {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                    let _ = stream.read(&mut said).await;
                }
            }
        }
    })
    .await;
    let (_mesh, client, server) = Mesh::around(app.address).await;
    for entry in [client.entry(), SocketAddr::from((Ipv4Addr::LOCALHOST, server.listen))] {
        ends.lock().unwrap().clear();
        let before = app.connections();
        let mut connection = H1::connect(entry).await.unwrap();
        let connected = async || Ok((app.connections() > before).then_some(()));
        eventually("the server to be connected", TEST_WAIT, connected).await.unwrap();
        let answer = connection.ask("GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await.unwrap();
        assert_eq!((answer.head.status, app.connections() - before), (200, 1));
        assert!(ends.lock().unwrap().iter().all(|end| matches!(end, Ok(1..))), "{:?}", ends.lock().unwrap());
    }
}
