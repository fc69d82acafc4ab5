//! The HTTP routes of the test server.

use std::{
    convert::Infallible,
    fs::{self, File},
    io::Write as _,
    sync::Arc,
    time::Duration,
};

use ::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::{Options, body::Pattern, grpc};

/// Any body that the server sends.
pub(super) type AnyBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// What all connections share.
pub(super) struct App {
    name: String,
    version: HeaderValue,
    accept_log: Option<File>,
    fail: Option<StatusCode>,
    delay: Option<Duration>,
    one_kib: Bytes,
    sixty_four_kib: Bytes,
}

impl App {
    pub(super) fn new(options: &Options) -> Result<Self> {
        let open = |path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("cannot write the accept log {path:?}"))
        };
        Ok(Self {
            name: options.name.clone(),
            version: options.name.parse().context("--name is sent as a header")?,
            accept_log: options.accept_log.as_ref().map(open).transpose()?,
            fail: options.fail.map(StatusCode::from_u16).transpose().context("--fail is a status code")?,
            delay: options.delay(),
            one_kib: vec![b'x'; 1 << 10].into(),
            sixty_four_kib: vec![b'x'; 64 << 10].into(),
        })
    }
}

/// Answers one request.
pub(super) async fn answer(app: Arc<App>, request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
    // One write of one byte in append mode, the method's first letter: tests count the bytes to know how often a request
    // arrived.
    if let Some(mut log) = app.accept_log.as_ref()
        && let Err(error) = log.write_all(&request.method().as_str().as_bytes()[..1])
    {
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the accept log: {error}")));
    }
    if let Some(delay) = app.delay {
        tokio::time::sleep(delay).await;
    }
    let mut response = match app.fail {
        Some(status) => text(status, format!("{} fails as told by --fail\n", app.name)),
        None => route(&app, request).await,
    };
    response.headers_mut().insert(HeaderName::from_static("x-version"), app.version.clone());
    Ok(response)
}

async fn route(app: &App, request: Request<Incoming>) -> Response<AnyBody> {
    let path = request.uri().path().to_owned();
    if let Some(method) = path.strip_prefix("/bench.Echo/") {
        return grpc::answer(method, request).await;
    }
    if path == "/grpc.health.v1.Health/Check" {
        return grpc::healthy();
    }
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (first, rest) = (parts.next().unwrap_or_default(), parts.next());
    match (first, rest.map(str::parse::<u64>)) {
        ("1k", None) => full(StatusCode::OK, app.one_kib.clone()),
        ("64k", None) => full(StatusCode::OK, app.sixty_four_kib.clone()),
        ("", None) => describe(app, &request),
        ("echo", None) => echo(request),
        ("expect", None) => text(StatusCode::EXPECTATION_FAILED, "no body is wanted\n".to_owned()),
        ("ws", None) => upgrade(request),
        ("bytes", Some(Ok(length))) => Response::new(infallible(Pattern::sized(length))),
        ("chunks", Some(Ok(length))) => Response::new(infallible(Pattern::chunked(length))),
        ("trailer-download", Some(Ok(length))) => {
            let mut response = Response::new(infallible(Pattern::with_checksum(length)));
            response.headers_mut().insert(header::TRAILER, HeaderValue::from_static(super::body::CHECKSUM));
            response
        }
        ("status", Some(Ok(code))) => match u16::try_from(code).ok().and_then(|c| StatusCode::from_u16(c).ok()) {
            Some(status) => full(status, Bytes::new()),
            None => text(StatusCode::BAD_REQUEST, format!("{code} is no status code\n")),
        },
        ("delay", Some(Ok(ms))) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            text(StatusCode::OK, format!("after {ms} ms\n"))
        }
        ("headers", Some(Ok(count))) => headers(count),
        _ => text(StatusCode::NOT_FOUND, format!("no route {path}\n")),
    }
}

/// `/`: who answered, and what it was asked, as JSON.
fn describe(app: &App, request: &Request<Incoming>) -> Response<AnyBody> {
    let headers: serde_json::Map<String, serde_json::Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let body = serde_json::json!({
        "name": app.name,
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    let mut response = full(StatusCode::OK, body.to_string().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `/echo`: the body comes back as it arrives, trailers too.
fn echo(request: Request<Incoming>) -> Response<AnyBody> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let trailer = request.headers().get(header::TRAILER).cloned();
    let mut response = Response::new(UnsyncBoxBody::new(request.into_body()));
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    if let Some(trailer) = trailer {
        response.headers_mut().insert(header::TRAILER, trailer);
    }
    response
}

/// `/ws`: 101 to whatever protocol was asked for, then every byte comes back. The frames are the client's business.
fn upgrade(mut request: Request<Incoming>) -> Response<AnyBody> {
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
        return text(StatusCode::UPGRADE_REQUIRED, "ask for an upgrade\n".to_owned());
    };
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "an upgrade is asked for with GET\n".to_owned());
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
        }
    });
    let mut response = full(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
    response.headers_mut().insert(header::UPGRADE, protocol);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// `/headers/N`: N headers in the response.
fn headers(count: u64) -> Response<AnyBody> {
    let mut response = text(StatusCode::OK, format!("{count} headers\n"));
    for n in 0..count {
        if let Ok(name) = HeaderName::try_from(format!("x-header-{n}")) {
            response.headers_mut().insert(name, HeaderValue::from(n));
        }
    }
    response
}

fn text(status: StatusCode, body: String) -> Response<AnyBody> {
    full(status, body.into())
}

fn full(status: StatusCode, body: Bytes) -> Response<AnyBody> {
    let mut response = Response::new(infallible(Full::new(body)));
    *response.status_mut() = status;
    response
}

/// Boxes a body that cannot fail.
pub(super) fn infallible(body: impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static) -> AnyBody {
    UnsyncBoxBody::new(body.map_err(|never| match never {}))
}

/// How many requests an accept log counts.
///
/// # Errors
///
/// When it cannot be read.
pub fn accepted(accept_log: &std::path::Path) -> Result<u64> {
    let there = fs::metadata(accept_log).with_context(|| format!("no accept log {}", accept_log.display()))?;
    Ok(there.len())
}
