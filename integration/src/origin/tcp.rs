//! The plain TCP modes of the test server.

use std::io;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One read or write of bulk data: large, so that the server is not what a benchmark measures.
const CHUNK: usize = 256 << 10;

/// What a connection is for.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    /// Bytes come back.
    Echo,
    /// Bytes are dropped; their number is answered after the client's end.
    Sink,
    /// The text is sent at once, then bytes come back.
    Banner(Bytes),
    /// So many bytes are sent.
    Source(u64),
}

/// Serves one connection to its end; the client's way of closing is its own business.
pub(super) async fn serve(mut stream: TcpStream, mode: Mode) {
    let _ = match mode {
        Mode::Echo => echo(&mut stream).await,
        Mode::Sink => sink(&mut stream).await,
        Mode::Banner(text) => banner(&mut stream, &text).await,
        Mode::Source(bytes) => source(&mut stream, bytes).await,
    };
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn sink(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_all(&total.to_be_bytes()).await?;
    stream.shutdown().await
}

async fn banner(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text).await?;
    echo(stream).await
}

async fn source(stream: &mut TcpStream, mut left: u64) -> io::Result<()> {
    let chunk = vec![b's'; CHUNK];
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..take]).await?;
        left -= take as u64;
    }
    stream.shutdown().await
}
