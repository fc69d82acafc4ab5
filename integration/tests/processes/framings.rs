//! HTTP/1 and HTTP/2 are judged alike, on every port of the proxies, and bodies that are compressed pass as they are.
use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::floods::peer;
use crate::h2_frames::{DATA, GOAWAY, HEADERS, RST_STREAM, block, frame, preface};
use crate::support::{App, H1, Mesh, Server};
use bytes::{Buf, Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub const STEP: Duration = Duration::from_secs(20);

/// A request's fields: names and values as bytes.
type Fields = Vec<(&'static str, &'static [u8])>;

/// What a server says to a request.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Status(u16),
    /// RST_STREAM, GOAWAY or the end of the connection.
    Cut,
}

/// Takes the next frame off a connection; `None` when that ended.
pub async fn next_frame(io: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<(u8, u32, Bytes)> {
    loop {
        if let Some(head) = buffer.first_chunk::<9>() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, stream) = (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            if buffer.len() >= 9 + length {
                buffer.advance(9);
                return Some((kind, stream, buffer.split_to(length).freeze()));
            }
        }
        if timeout(STEP, io.read_buf(buffer)).await.expect("a frame, or the end").ok()? == 0 {
            return None;
        }
    }
}

/// Asks one thing on a connection of its own.
async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, fields: &Fields, body: Option<&[u8]>) -> Said {
    let mut all = preface();
    all.extend(frame(HEADERS, if body.is_some() { 4 } else { 5 }, 1, &block(fields)));
    all.extend(body.map(|body| frame(DATA, 1, 1, body)).unwrap_or_default());
    if io.write_all(&all).await.is_err() || io.flush().await.is_err() {
        return Said::Cut;
    }
    let mut buffer = BytesMut::new();
    loop {
        match next_frame(&mut io, &mut buffer).await {
            // `:status` is one byte for the usual ones, and a literal of three digits else.
            Some((HEADERS, 1, block)) => {
                return Said::Status(match block[0] {
                    0x88 => 200,
                    0x8c => 400,
                    0x8d => 404,
                    0x8e => 500,
                    _ => String::from_utf8_lossy(&block[2..5]).parse().unwrap_or(0),
                });
            }
            Some((RST_STREAM, 1, _)) | Some((GOAWAY, ..)) | None => return Said::Cut,
            Some(_) => {}
        }
    }
}

fn request(changed: &[(&'static str, &'static [u8])]) -> Fields {
    let usual: [(&str, &[u8]); 4] =
        [(":method", b"GET"), (":scheme", b"http"), (":path", b"/1k"), (":authority", b"web.shop")];
    let value = |name: &str, usual| changed.iter().find(|(n, _)| *n == name).map_or(usual, |(_, value)| *value);
    let pseudo = usual.iter().map(|(name, usual)| (*name, value(name, usual)));
    let absent = |value: &[u8]| value == b"absent";
    let more = changed.iter().filter(|(name, _)| !name.starts_with(':') || *name == ":protocol").copied();
    let (protocol, more): (Vec<_>, Vec<_>) = more.partition(|(name, _)| *name == ":protocol");
    pseudo.chain(protocol).chain(more).filter(|(_, value)| !absent(value)).collect()
}

/// What HTTP/1 refuses, as HTTP/2: its name, its fields and whether it has a body.
fn refused() -> Vec<(&'static str, Fields, Option<&'static [u8]>)> {
    let post = |changed: &[(&'static str, &'static [u8])]| request(&[&[(":method", &b"POST"[..])], changed].concat());
    let body = Some(&b"hello"[..]);
    vec![
        ("backslash", request(&[(":path", b"/a\\..\\b")]), None),
        ("DEL", request(&[(":path", b"/a\x7fb")]), None),
        ("non-ASCII", request(&[(":path", b"/a\xc3\xa9")]), None),
        ("space", request(&[(":path", b"/a b")]), None),
        ("fragment", request(&[(":path", b"/1k#part")]), None),
        ("query without a path", request(&[(":path", b"?x=1")]), None),
        ("no absolute path", request(&[(":path", b"x")]), None),
        ("* with GET", request(&[(":path", b"*")]), None),
        ("method in lower case", request(&[(":method", b"get")]), None),
        ("underscored lengths", post(&[("transfer_encoding", b"chunked"), ("content_length", b"3")]), body),
        ("two lengths", post(&[("content-length", b"5"), ("content-length", b"6")]), body),
        ("length with a sign", post(&[("content-length", b"+5")]), body),
        ("length of nothing", request(&[("content-length", b"5")]), None),
        ("TRACE with a body", request(&[(":method", b"TRACE")]), body),
        ("authority list", request(&[(":authority", b"a,b")]), None),
        ("authority with delimiters", request(&[(":authority", b"a(b);c'd")]), None),
        ("user in the authority", request(&[(":authority", b"u@web.shop")]), None),
        ("bad port", request(&[(":authority", b"web.shop:x")]), None),
        ("empty authority", request(&[(":authority", b"")]), None),
        ("no authority", request(&[(":authority", b"absent")]), None),
        ("Host differs", request(&[("host", b"other.shop")]), None),
        ("Host with another port", request(&[("host", b"web.shop:81")]), None),
        ("two Hosts", request(&[("host", b"web.shop"), ("host", b"web.shop")]), None),
        ("empty Host", request(&[("host", b"")]), None),
        ("another scheme", request(&[(":scheme", b"ftp")]), None),
        ("TE", request(&[("te", b"gzip")]), None),
        ("Connection", request(&[("connection", b"close")]), None),
        ("Transfer-Encoding", post(&[("transfer-encoding", b"chunked")]), body),
        ("extended CONNECT", request(&[(":method", b"CONNECT"), (":protocol", b"websocket")]), None),
        ("CONNECT to no port", request(&[(":method", b"CONNECT"), (":scheme", b"absent"), (":path", b"absent")]), None),
    ]
}

/// Whether the application saw anything since the log was emptied.
fn seen(server: &Server) -> String {
    fs::read_to_string(&server.accept_log).unwrap()
}

#[tokio::test]
async fn what_http1_refuses_http2_does_not_carry() {
    let (mesh, client, server) = Mesh::pair().await;
    let connector = peer::connector(mesh.sandbox.path(), "mesh-h2");
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    let dial = async |to: SocketAddr| TcpStream::connect(to).await.unwrap();
    let as_peer = async |fields: &Fields, body| {
        let name = ServerName::try_from("localhost").unwrap();
        ask(connector.connect(name, dial(inbound).await).await.unwrap(), fields, body).await
    };
    let orig = |version| ("mesh-orig-proto", version);
    let http11 = [orig(&b"HTTP/1.1"[..])];
    // What is as it should be passes everywhere.
    let star = request(&[(":method", b"OPTIONS"), (":path", b"*")]);
    let host = request(&[("host", b"web.shop:80")]);
    // The application knows no `*`, and says so itself.
    for (fields, status) in [(request(&[]), 200), (host, 200), (star, 404)] {
        let passes = Said::Status(status);
        assert_eq!(ask(dial(client.entry()).await, &fields, None).await, passes, "{fields:?}");
        assert_eq!(ask(dial(inbound).await, &fields, None).await, passes, "{fields:?}");
        assert_eq!(as_peer(&[&fields[..], &http11].concat(), None).await, passes, "{fields:?}");
    }
    fs::write(&server.accept_log, "").unwrap();
    let mut wrong = Vec::new();
    let mut judge = |name: &str, from: &str, said: Said| {
        if !matches!(said, Said::Status(400) | Said::Cut) || !seen(&server).is_empty() {
            wrong.push(format!("{name} from {from}: {said:?}, and the application saw {:?}", seen(&server)));
            fs::write(&server.accept_log, "").unwrap();
        }
    };
    for (name, fields, body) in refused() {
        judge(name, "an application", ask(dial(client.entry()).await, &fields, body).await);
        judge(name, "a stranger", ask(dial(inbound).await, &fields, body).await);
        judge(name, "a peer", as_peer(&fields, body).await);
        judge(name, "a peer's HTTP/1", as_peer(&[&fields[..], &http11].concat(), body).await);
    }
    // What only a peer can say.
    let connect = request(&[
        (":method", b"CONNECT"),
        (":scheme", b"absent"),
        (":path", b"absent"),
        (":authority", b"web.shop:80"),
    ]);
    let smuggled = Some(&b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"[..]);
    judge("CONNECT of HTTP/1", "a peer", as_peer(&[&connect[..], &http11].concat(), smuggled).await);
    let twice = [&request(&[])[..], &[orig(b"HTTP/1.0"), orig(b"HTTP/1.1")]].concat();
    judge("two versions", "a peer", as_peer(&twice, None).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is compressed is bytes like others: nothing looks into it, so how much it would unfold to makes no difference.
#[tokio::test]
async fn what_is_compressed_passes_as_it_is() {
    const HELLO: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xcbH\xcd\xc9\xc9\x07\x00\x86\xa6\x106\x05\x00\x00\x00";
    // No end, and a checksum that is wrong: whoever unpacked it would have to say so.
    let broken = [&HELLO[..12], &[0xff; 1_000]].concat();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (bodies, seen) = ([HELLO.to_vec(), broken], asked.clone());
    for body in bodies {
        let (seen, answer) = (seen.clone(), body.clone());
        let app = App::start(move |mut stream| {
            let (seen, body) = (seen.clone(), answer.clone());
            async move {
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {
                    if read.ends_with(&body) || read.starts_with(b"GET") {
                        seen.lock().unwrap().push(String::from_utf8_lossy(&read).to_lowercase());
                        read.clear();
                        let head = format!(
                            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
                            body.len()
                        );
                        stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
                    }
                }
            }
        });
        let app = app.await;
        let (_mesh, client, _server) = Mesh::around(app.address).await;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = H1::connect(client.entry()).await.unwrap();
        // The application answers only when exactly these bytes have come.
        let answer = timeout(STEP, connection.ask([head.as_bytes(), &body].concat())).await.unwrap().unwrap();
        assert_eq!((answer.head.get("content-encoding"), &answer.body), (Some("gzip"), &body));
        assert!(asked.lock().unwrap().last().unwrap().contains("\r\ncontent-encoding: gzip\r\n"));
    }
}
