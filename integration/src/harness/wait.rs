//! Waiting for a state of another process: asked again in short steps until a deadline, never a fixed sleep.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::Process;

/// How long between two questions: short beside every start-up time here, long beside the cost of asking.
const STEP: Duration = Duration::from_millis(10);
/// The longest answer that [`http_get`] reads: a metrics page is well below.
const MAX_ANSWER: u64 = 16 << 20;
/// How long one HTTP question may take.
const ASK: Duration = Duration::from_secs(10);

/// Asks `probe` until it gives a value, at most `within`. `what` completes "waited … for".
///
/// # Errors
///
/// The probe's own error at once, or, at the deadline, a message that names what did not happen.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {within:?} in vain for {what}");
        }
        sleep(STEP).await;
    }
}

/// Waits until `GET /ready` on `address` answers 200, or fails as soon as the process has ended.
///
/// # Errors
///
/// With the end of the process's log.
pub async fn ready(process: &mut Process, address: SocketAddr, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        process.must_run()?;
        if http_get(address, "/ready").await.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let (name, tail) = (process.name(), process.log_tail());
            bail!("{name} was not ready at {address} within {within:?}; its log ends with:\n{tail}");
        }
        sleep(STEP).await;
    }
}

/// A small HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head as it came, without its last empty line.
    pub head: String,
    /// The body; chunked coding is undone.
    pub body: String,
}

/// One `GET` on a connection of its own, for admin pages and simple requests. `path` may be an absolute-form target.
///
/// # Errors
///
/// When the connection fails, takes over 10 s, or what comes back is not HTTP/1.1.
pub async fn http_get(address: SocketAddr, path: &str) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut raw = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut raw).await?;
        anyhow::Ok(raw)
    };
    let raw = timeout(ASK, exchange).await.with_context(|| format!("{address}{path} did not answer in {ASK:?}"))??;
    parse(&raw).with_context(|| format!("{address}{path} did not answer in HTTP/1.1"))
}

fn parse(raw: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(raw);
    let (head, body) = text.split_once("\r\n\r\n").context("the head has no end")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status code")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body).context("broken chunks")? } else { body.to_owned() };
    Ok(Answer { status, head: head.to_owned(), body })
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_are_parsed_with_and_without_chunks() {
        let plain = parse(b"HTTP/1.1 503 Nope\r\ncontent-length: 2\r\n\r\nno").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (503, "no"));
        let chunked =
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n").unwrap();
        assert_eq!((chunked.status, chunked.body.as_str()), (200, "abcd"));
        assert!(parse(b"SSH-2.0").is_err());
    }

    #[tokio::test]
    async fn waiting_ends_at_the_deadline_and_says_for_what() {
        let never = async || Ok(None::<()>);
        let error = eventually("a miracle", Duration::from_millis(20), never).await.unwrap_err();
        assert!(error.to_string().contains("a miracle"), "{error}");
    }
}
