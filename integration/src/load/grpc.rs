//! gRPC unary calls on a bare HTTP/2 connection.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Version};

use super::{Options, http1::connect};
use crate::origin::grpc_message;

/// A client and its connection.
pub(super) struct Client {
    target: SocketAddr,
    head: Request<()>,
    message: Bytes,
    sender: Option<SendRequest<Bytes>>,
}

impl Client {
    pub(super) fn new(options: &Options) -> Result<Self> {
        let host = options.host.clone().unwrap_or_else(|| options.target.to_string());
        let head = Request::post(format!("http://{host}/bench.Echo/Unary"))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "mesh-load")
            .body(())?;
        let message = grpc_message(&vec![b'g'; options.payload]);
        Ok(Self { target: options.target, head, message, sender: None })
    }

    pub(super) async fn exchange(&mut self) -> Result<u64> {
        let sender = match self.sender.take() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let mut sender = sender.ready().await.context("the connection takes no more calls")?;
        let (response, mut body) = sender.send_request(self.head.clone(), false).context("cannot send")?;
        body.send_data(self.message.clone(), true).context("cannot send the message")?;
        let response = response.await.context("no response")?;
        ensure!(response.status() == 200, "status {}", response.status());
        let early = response.headers().get("grpc-status").cloned();
        let mut stream = response.into_body();
        let mut bytes = 0;
        while let Some(data) = stream.data().await {
            let data = data.context("the answer broke off")?;
            bytes += data.len();
            stream.flow_control().release_capacity(data.len())?;
        }
        let trailers = stream.trailers().await.context("no trailers")?;
        let status = early.or_else(|| trailers?.get("grpc-status").cloned());
        ensure!(status.as_ref().is_some_and(|s| s == "0"), "grpc-status {status:?}");
        ensure!(bytes == self.message.len(), "{bytes} bytes came back of {}", self.message.len());
        self.sender = Some(sender);
        Ok(bytes as u64)
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>> {
        let (sender, connection) = h2::client::handshake(connect(self.target).await?).await.context("no HTTP/2")?;
        // It ends with its last sender; its error shows in the exchange that meets it.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}
