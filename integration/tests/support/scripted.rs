//! An HTTP/1 application that answers as the test says and keeps what it was asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::App;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Start line and headers, lower case.
    pub head: String,
    pub body: Vec<u8>,
    /// When its caller left without an answer.
    pub left: Option<Instant>,
}

impl Received {
    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| line.split_once(": ").filter(|(n, _)| *n == name).map(|(_, v)| v))
    }
}

/// What it does with a request.
pub enum Does {
    /// Answers with this status and body.
    Answers(u16, String),
    /// Answers with this status, after so long.
    Waits(Duration, u16),
    /// Closes the connection.
    Closes,
    /// Says nothing until its caller leaves.
    Hangs,
}

/// The application.
pub struct Scripted {
    pub app: App,
    seen: Arc<Mutex<Vec<Received>>>,
}

impl Scripted {
    /// `does` is asked for each request; the first has number 0. Probes (`/probe`) are answered and not counted.
    pub async fn start(does: impl Fn(usize, &Received) -> Does + Send + Sync + 'static) -> Self {
        let (seen, does) = (Arc::new(Mutex::new(Vec::new())), Arc::new(does));
        let keep = seen.clone();
        let app = App::start(move |stream| serve(stream, keep.clone(), does.clone())).await;
        Self { app, seen }
    }

    pub fn address(&self) -> SocketAddr {
        self.app.address
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Received> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve<F>(mut stream: TcpStream, seen: Arc<Mutex<Vec<Received>>>, does: Arc<F>)
where
    F: Fn(usize, &Received) -> Does,
{
    let mut buffer = Vec::new();
    while let Some(received) = read(&mut stream, &mut buffer).await {
        if received.head.starts_with("get /probe") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            continue;
        }
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(received.clone());
            seen.len() - 1
        };
        match does(number, &received) {
            Does::Answers(status, body) => {
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
            }
            Does::Waits(long, status) => {
                tokio::time::sleep(long).await;
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
            }
            Does::Closes => return,
            Does::Hangs => {
                let mut rest = [0; 1024];
                while matches!(stream.read(&mut rest).await, Ok(1..)) {}
                seen.lock().unwrap()[number].left = Some(Instant::now());
                return;
            }
        }
    }
}

/// The next request, with a body by Content-Length or chunks.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let find = |buffer: &[u8], end: &[u8]| buffer.windows(end.len()).position(|w| w == end);
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
    buffer.drain(..end);
    let mut received = Received { head, ..Received::default() };
    let length: usize = received.get("content-length").map_or(0, |v| v.parse().unwrap());
    let chunked = received.get("transfer-encoding").is_some();
    while if chunked { find(buffer, b"0\r\n\r\n").is_none() } else { buffer.len() < length } {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let end = if chunked { find(buffer, b"0\r\n\r\n")? + 5 } else { length };
    received.body = buffer.drain(..end).collect();
    Some(received)
}
