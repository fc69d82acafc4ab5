//! The demo's web service: says which version and which pod answered. HTTP/1.1 and HTTP/2 (prior knowledge).
//!
//! It knows nothing of the mesh: no TLS, no identity, no tracing. That is the point of the demo.

use std::{convert::Infallible, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use mesh_listen::Signals;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Response header with the version that answered.
pub(crate) const VERSION_HEADER: &str = "x-version";

/// Connections at once; beyond it new ones wait in the kernel's queue. A sidecar uses far fewer.
const MAX_CONNECTIONS: usize = 256;

/// How long open requests may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// From a connection's or request's first byte to the end of the request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments of `meshctl run app`.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// The version to answer with
    #[arg(long)]
    version: String,
    /// The pod's name to answer with
    #[arg(long)]
    pod: String,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(serve(args))
}

/// What every answer is made of.
struct Page {
    version: http::HeaderValue,
    body: Bytes,
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new().context("SIGTERM and SIGINT cannot be handled")?;
    let body = serde_json::json!({ "version": args.version, "pod": args.pod }).to_string();
    let version = args.version.parse().context("--version must be printable text")?;
    let page = Arc::new(Page { version, body: body.into() });
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is another process using it?", args.listen))?;
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        tokio::select! {
            _ = signals.wait() => break,
            accepted = accept(&listener, &permits) => {
                let (stream, permit) = accepted;
                let mut server = auto::Builder::new(TokioExecutor::new());
                server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                let page = page.clone();
                let service = service_fn(move |request| answer(page.clone(), request));
                let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    // A peer that goes away in the middle is its own affair.
                    let _ = connection.await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    // Connections that are still open after that are cut by the process's end.
    let _ = timeout(GRACE, graceful.shutdown()).await;
    Ok(ExitCode::SUCCESS)
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // The semaphore is never closed, so a permit always comes.
    let permit = permits.clone().acquire_owned().await.ok();
    let (stream, _) = mesh_listen::accept(listener).await;
    let _ = stream.set_nodelay(true);
    (stream, permit)
}

async fn answer(page: Arc<Page>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.uri().path() {
        "/" => (StatusCode::OK, page.body.clone()),
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"{\"error\":\"only / is served\"}")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(VERSION_HEADER, page.version.clone());
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn its_arguments_are_those_that_the_demo_passes() {
        let args = ["app", "--listen", "127.0.0.1:1", "--version", "v1", "--pod", "web-v1-0"];
        let args = Args::try_parse_from(args).unwrap();
        assert_eq!((args.version.as_str(), args.pod.as_str(), args.listen.port()), ("v1", "web-v1-0", 1));
    }
}
