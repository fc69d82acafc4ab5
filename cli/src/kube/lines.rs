//! A page of a pod that comes line by line, for as long as it is read.

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;

use super::{Cluster, ClusterError, Stream, causes};

/// The longest line. A proxy's own are some dozen KiB at most.
const MAX_LINE: usize = 512 * 1024;
/// What is read of an answer that is no success.
const MAX_REFUSAL: usize = 4 * 1024;

/// The lines of a page. The connection ends with it.
pub(crate) struct Lines {
    body: Incoming,
    read: BytesMut,
    /// Bytes in `read` in which no end of a line is.
    scanned: usize,
    _connection: SendRequest<Empty<Bytes>>,
}

impl Cluster {
    /// `GET` of a page of a pod that comes line by line.
    pub(crate) async fn lines(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Lines, ClusterError> {
        self.forward(namespace, pod, port, |stream| Lines::ask(stream, path.to_owned())).await
    }
}

impl Lines {
    /// Asks for it over a connection. The error says what was answered instead.
    pub(crate) async fn ask(stream: Box<dyn Stream>, path: String) -> Result<Self, String> {
        let (sender, response) = exchange(stream, path).await?;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(Self { body, read: BytesMut::new(), scanned: 0, _connection: sender });
        }
        let told = Limited::new(body, MAX_REFUSAL).collect().await.map(http_body_util::Collected::to_bytes);
        let told = told.unwrap_or_default();
        Err(format!("the sidecar answers {}: {}", head.status, String::from_utf8_lossy(&told).trim()))
    }

    /// The next line, without its end; `None`: there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(length) = self.read[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(self.scanned + length).freeze();
                self.read.advance(1);
                self.scanned = 0;
                return Ok(Some(line));
            }
            self.scanned = self.read.len();
            if self.scanned > MAX_LINE {
                return Err("a line is too long".to_owned());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(causes(&error)),
                Some(Ok(frame)) => frame.data_ref().iter().for_each(|data| self.read.extend_from_slice(data)),
            }
        }
    }
}

/// One request, and its response. The connection lives as long as what is returned.
pub(super) async fn exchange(
    stream: Box<dyn Stream>,
    path: String,
) -> Result<(SendRequest<Empty<Bytes>>, Response<Incoming>), String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| causes(&error))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| causes(&error))?;
    Ok((sender, response))
}
