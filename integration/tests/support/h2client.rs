//! HTTP/2 with prior knowledge and gRPC on the bare `h2` client.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response};
use tokio::{net::TcpStream, time::timeout};

/// How long one step may take.
const STEP: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Clone)]
pub struct Grpc {
    sender: SendRequest<Bytes>,
}

impl Grpc {
    pub async fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        // Far more than a test leaves unread: the proxies are what is tested.
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(64 << 20).data_frame_budget(usize::MAX);
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender })
    }

    /// Begins a request.
    pub async fn begin(&self, request: Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        let mut sender = timeout(STEP, self.sender.clone().ready()).await.context("no room for a stream")??;
        Ok(sender.send_request(request, end)?)
    }

    /// Begins a call of `bench.Echo`.
    pub async fn call(&self, host: &str, method: &str) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        let request = Request::post(format!("http://{host}/bench.Echo/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        self.begin(request.body(())?, false).await
    }

    /// A whole exchange: head, body, trailers.
    pub async fn exchange(
        &self,
        request: Request<()>,
        body: Option<Bytes>,
    ) -> Result<(Response<Bytes>, Option<HeaderMap>)> {
        let (response, mut stream) = self.begin(request, body.is_none()).await?;
        if let Some(body) = body {
            stream.send_data(body, true)?;
        }
        finish(response).await
    }
}

/// Reads an answer to its end.
pub async fn finish(response: ResponseFuture) -> Result<(Response<Bytes>, Option<HeaderMap>)> {
    let response = timeout(STEP, response).await.context("no answer")??;
    let (head, mut stream) = response.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = next(&mut stream).await? {
        body.extend_from_slice(&data);
    }
    let trailers = timeout(STEP, stream.trailers()).await.context("no trailers")??;
    Ok((Response::from_parts(head, body.freeze()), trailers))
}

/// The next piece of a body.
pub async fn next(stream: &mut RecvStream) -> Result<Option<Bytes>> {
    let Some(data) = timeout(STEP, stream.data()).await.context("nothing came")? else { return Ok(None) };
    let data = data?;
    stream.flow_control().release_capacity(data.len())?;
    Ok(Some(data))
}

/// The grpc-status of an answer, from its trailers or its head.
pub fn grpc_status(answer: &(Response<Bytes>, Option<HeaderMap>)) -> Option<String> {
    let of = |headers: &HeaderMap| headers.get("grpc-status").and_then(|v| v.to_str().ok()).map(str::to_owned);
    answer.1.as_ref().and_then(of).or_else(|| of(answer.0.headers()))
}

/// A gRPC message around a payload.
pub fn grpc_message(payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(5 + payload.len());
    message.put_u8(0);
    message.put_u32(payload.len() as u32);
    message.put_slice(payload);
    message.freeze()
}
