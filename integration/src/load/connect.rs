//! One connection for each request, as clients without keep-alive make them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http1::connect;

/// What is sent and must come back: no protocol that a proxy would detect.
const HELLO: &[u8; 16] = b"\x01mesh-load-echo\x02";

/// A client; it keeps no connection.
pub(super) struct Client {
    target: SocketAddr,
    /// Whether it speaks first; otherwise it waits for the server's greeting.
    speaks: bool,
}

impl Client {
    pub(super) fn new(target: SocketAddr, speaks: bool) -> Self {
        Self { target, speaks }
    }

    pub(super) async fn exchange(&mut self) -> Result<u64> {
        let mut stream = connect(self.target).await?;
        let mut back = [0; HELLO.len()];
        if !self.speaks {
            let read = stream.read(&mut back).await.context("cannot read the greeting")?;
            ensure!(read > 0, "closed before the greeting");
            return Ok(read as u64);
        }
        stream.write_all(HELLO).await.context("cannot send")?;
        stream.read_exact(&mut back).await.context("closed before the echo")?;
        ensure!(back == *HELLO, "other bytes came back");
        Ok(back.len() as u64)
    }
}
