//! Large bodies stream: neither sidecar holds more than its windows.

use crate::support::{App, Client, H1, Mesh, Server};
use mesh_integration::harness::usage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes each way.
const SIZE: usize = 1 << 30;

/// The most that a sidecar may occupy, in KiB.
const MOST_KIB: u64 = 30 << 10;

/// The memory of both sidecars, the highest that was seen.
struct Peak {
    pids: [u32; 2],
    kib: [u64; 2],
}

impl Peak {
    fn of(client: &Client, server: &Server) -> Self {
        let mut peak = Self { pids: [client.proxy.process.pid(), server.proxy.process.pid()], kib: [0; 2] };
        peak.sample();
        peak
    }

    fn sample(&mut self) {
        for n in 0..2 {
            let now = usage(self.pids[n]).unwrap();
            self.kib[n] = self.kib[n].max(now.rss_kib);
        }
    }

    fn check(&self, what: &str) {
        println!("{what}: {:?} KiB", self.kib);
        assert!(self.kib.iter().all(|kib| *kib < MOST_KIB), "{what}: {:?} KiB", self.kib);
    }
}

#[tokio::test]
async fn a_download_streams() {
    let (_mesh, client, server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let mut peak = Peak::of(&client, &server);
    for path in ["bytes", "chunks"] {
        connection.send(format!("GET /{path}/{} HTTP/1.1\r\nhost: web.shop\r\n\r\n", SIZE)).await.unwrap();
        let head = connection.head().await.unwrap();
        assert_eq!(head.status, 200);
        let (mut got, mut sampled) = (0, 0);
        let body = connection.body(&head, |piece| {
            got += piece.len();
            if got - sampled > 8 << 20 {
                sampled = got;
                peak.sample();
            }
        });
        body.await.unwrap();
        assert_eq!(got, SIZE);
        peak.check(path);
    }
}

#[tokio::test]
async fn an_upload_streams() {
    // Counts the body and answers its length.
    let app = App::start(|mut stream| async move {
        let mut buffer = vec![0; 256 << 10];
        let (mut seen, mut head) = (Vec::new(), None);
        let mut got = 0usize;
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            got += n;
            if head.is_none() {
                seen.extend_from_slice(&buffer[..n]);
                let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                let text = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
                let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
                head = Some(end + 4 + length.unwrap_or(0));
            }
            if head == Some(got) {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{got}", got.to_string().len());
                let _ = stream.write_all(answer.as_bytes()).await;
                (head, got) = (None, 0);
                seen.clear();
            }
        }
    });
    let app = app.await;
    let (_mesh, client, server) = Mesh::around(app.address).await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let mut peak = Peak::of(&client, &server);
    let head = format!("POST /sink HTTP/1.1\r\nhost: web.shop\r\ncontent-length: {}\r\n\r\n", SIZE);
    connection.send(head).await.unwrap();
    let piece = vec![b'u'; 1 << 20];
    for n in 0..SIZE >> 20 {
        connection.send(&piece).await.unwrap();
        if n % 8 == 0 {
            peak.sample();
        }
    }
    let answer = connection.answer(false).await.unwrap();
    let total: usize = answer.text().parse().unwrap();
    assert!(answer.head.status == 200 && total >= SIZE, "{answer:?}");
    peak.check("upload");
}
