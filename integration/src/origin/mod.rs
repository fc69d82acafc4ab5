//! The test server: every kind of answer that a test or benchmark wants from an application.
//!
//! One port speaks HTTP/1.1, HTTP/2 with prior knowledge and gRPC (`http`, `grpc`), or, with one of the `--tcp-*`
//! flags, plain bytes (`tcp`). Only for loopback: it trusts its clients and bounds nothing but its own buffers.

mod body;
mod grpc;
mod http;
mod tcp;

pub(crate) use grpc::message as grpc_message;
pub use http::accepted;

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
};

/// Connections that may wait to be accepted: a benchmark opens thousands at once.
const BACKLOG: u32 = 4096;

/// What the server does; each field is a flag of `mesh-origin`.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "mesh-origin", about = "Test server for Mesh on loopback")]
pub struct Options {
    /// Address to listen on; port 0 takes a free one. The line `listening on ADDRESS` tells which.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Name in the header x-version and in the body of `/`.
    #[arg(long, default_value = "v1")]
    pub name: String,
    /// File that gets one byte for each request before it is handled.
    #[arg(long)]
    pub accept_log: Option<PathBuf>,
    /// Status that every request gets instead of its answer.
    #[arg(long)]
    pub fail: Option<u16>,
    /// Milliseconds to wait before every answer.
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u64,
    /// On SIGTERM: `exit` ends at once, whatever is open; `drain` takes no more connections, finishes what is open and
    /// ends then.
    #[arg(long, value_enum, default_value_t = OnTerm::Exit)]
    pub on_term: OnTerm,
    /// No HTTP: bytes come back.
    #[arg(long, group = "tcp")]
    pub tcp_echo: bool,
    /// No HTTP: bytes are dropped; after the client's end their number is answered, 8 bytes, big-endian.
    #[arg(long, group = "tcp")]
    pub tcp_sink: bool,
    /// No HTTP: this text is sent at once (the server speaks first), then bytes come back.
    #[arg(long, group = "tcp")]
    pub tcp_banner: Option<String>,
    /// No HTTP: this many bytes are sent, then the connection ends.
    #[arg(long, group = "tcp")]
    pub tcp_source: Option<u64>,
}

/// What the server does on SIGTERM.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTerm {
    /// Ends at once.
    Exit,
    /// Finishes what is open first.
    Drain,
}

impl Options {
    fn tcp(&self) -> Option<tcp::Mode> {
        let echo = self.tcp_echo.then_some(tcp::Mode::Echo);
        let sink = self.tcp_sink.then_some(tcp::Mode::Sink);
        let banner = self.tcp_banner.as_ref().map(|text| tcp::Mode::Banner(text.clone().into()));
        echo.or(sink).or(banner).or(self.tcp_source.map(tcp::Mode::Source))
    }

    fn delay(&self) -> Option<Duration> {
        (self.delay_ms > 0).then(|| Duration::from_millis(self.delay_ms))
    }
}

/// Listens and serves until the process ends.
///
/// # Errors
///
/// When the address cannot be bound or the accept log cannot be written.
pub async fn serve(options: Options) -> Result<()> {
    let listener = listen(options.listen)?;
    println!("listening on {}", listener.local_addr()?);
    // As the first process of a container it would not hear SIGTERM otherwise.
    let mut term = signal(SignalKind::terminate())?;
    let open = GracefulShutdown::new();
    tokio::select! {
        served = accept_all(&listener, &options, &open) => match served? {},
        _ = term.recv() => {}
    }
    if options.on_term == OnTerm::Drain {
        drop(listener);
        open.shutdown().await;
    }
    Ok(())
}

/// Serves every connection until SIGTERM, and then those that are open.
async fn accept_all(listener: &TcpListener, options: &Options, open: &GracefulShutdown) -> Result<Infallible> {
    if let Some(mode) = options.tcp() {
        loop {
            let stream = accept(listener).await?;
            tokio::spawn(tcp::serve(stream, mode.clone()));
        }
    }
    let app = Arc::new(http::App::new(options)?);
    loop {
        let stream = TokioIo::new(accept(listener).await?);
        let app = Arc::clone(&app);
        let service = hyper::service::service_fn(move |request| http::answer(Arc::clone(&app), request));
        let served = open.watch(connection().serve_connection_with_upgrades(stream, service).into_owned());
        // The client's way of closing is its own business.
        tokio::spawn(async move { served.await.unwrap_or_default() });
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot listen on {address}: is another server there?"))?;
    Ok(socket.listen(BACKLOG)?)
}

async fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connection() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // `/headers/N` and requests with a thousand headers are part of the tests.
    builder.http1().max_headers(4096).max_buf_size(1 << 20);
    builder.http2().max_concurrent_streams(4096).max_header_list_size(1 << 20);
    builder.http2().initial_stream_window_size(1 << 20).initial_connection_window_size(16 << 20);
    builder
}
