//! HTTP/1.1 with keep-alive in memory, so that no system call is in the figure: a server that answers 1 KiB, and a client that
//! asks one request after the other, each against a peer that only moves prepared bytes. The library is hyper, with the
//! limit of time on a head that ours always has, and without the `date` that ours never writes.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{pending, ready},
    io,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::{JoinSet, spawn_local},
    time::sleep,
};

use super::{Role, Side, broken, cpu_us};
use crate::http::h1;

/// What is answered.
static BODY: [u8; 1024] = [b'x'; 1024];
/// What a prepared client sends.
const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nhost: web.bench\r\nuser-agent: mesh-parts\r\n\r\n";
/// What a prepared server sends before the body.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n";
/// Connections at a time.
const CONNECTIONS: usize = 32;
/// What a connection holds on its way: more than any message.
const PIPE: usize = 16 * 1024;

/// How many requests there were, and whether there are to be more.
#[derive(Default)]
struct Run {
    requests: Cell<u64>,
    is_over: Cell<bool>,
}

impl Run {
    /// Counts one. Whether another is to follow.
    fn answered(&self) -> bool {
        self.requests.set(self.requests.get() + 1);
        !self.is_over.get()
    }
}

/// The processor time of a request, in microseconds, with that of the prepared peer.
pub(super) async fn cost(side: Side, role: Role, time: Duration) -> io::Result<f64> {
    let run = Rc::new(Run::default());
    let before = cpu_us();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (client, server) = duplex(PIPE);
        let run = run.clone();
        match role {
            Role::Server => {
                spawn_local(serve(side, server));
                clients.spawn_local(async move { prepared_client(client, &run).await });
            }
            Role::Client => {
                spawn_local(prepared_server(server));
                clients.spawn_local(async move { ask(side, client, &run).await });
            }
        }
    }
    sleep(time).await;
    run.is_over.set(true);
    while let Some(ended) = clients.join_next().await {
        ended.map_err(broken)??;
    }
    Ok((cpu_us() - before) / run.requests.get() as f64)
}

/// Whether all requests were answered is for the client to say.
async fn serve(side: Side, io: DuplexStream) {
    match side {
        Side::Mesh => drop(serve_ours(io).await),
        Side::Library => drop(serve_hypers(io).await),
    }
}

async fn serve_ours(io: DuplexStream) -> Result<(), h1::Error> {
    let answers = |_: Request<h1::RecvBody>| ready(h1::server::Answer::from(answer()));
    h1::server::serve(io, &h1::Config::default(), pending(), answers, h1::server::refusal, |_| ()).await
}

async fn serve_hypers(io: DuplexStream) -> hyper::Result<()> {
    let answers = hyper::service::service_fn(|_| ready(Ok::<_, Infallible>(answer())));
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(h1::Config::default().header_read_timeout)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), answers)
        .await
}

fn answer() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(&BODY)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

async fn prepared_client(mut io: DuplexStream, run: &Run) -> io::Result<()> {
    let mut room = [0; PIPE];
    loop {
        io.write_all(REQUEST).await?;
        if !message(&mut io, &mut room, BODY.len()).await? {
            return Err(broken("the server closed the connection"));
        }
        if !run.answered() {
            return Ok(());
        }
    }
}

async fn prepared_server(mut io: DuplexStream) -> io::Result<()> {
    let (mut room, response) = ([0; PIPE], [HEAD, &BODY].concat());
    while message(&mut io, &mut room, 0).await? {
        io.write_all(&response).await?;
    }
    Ok(())
}

/// Reads to an empty line and so many bytes behind it. False if nothing comes.
async fn message(io: &mut DuplexStream, room: &mut [u8], body: usize) -> io::Result<bool> {
    let mut filled = 0;
    loop {
        match io.read(&mut room[filled..]).await? {
            0 => return Ok(false),
            read => filled += read,
        }
        let head = room[..filled].windows(4).position(|end| end == b"\r\n\r\n");
        if head.is_some_and(|at| filled >= at + 4 + body) {
            return Ok(true);
        }
    }
}

async fn ask(side: Side, io: DuplexStream, run: &Run) -> io::Result<()> {
    match side {
        Side::Mesh => {
            // Where a connection comes back to when a response has been read.
            let place = Rc::new(RefCell::new(Some(h1::client::Connection::new(io, &h1::Config::default()))));
            loop {
                let connection = place.take().ok_or_else(|| broken("the server closed the connection"))?;
                let place = place.clone();
                let reuse = move |connection| drop(place.replace(Some(connection)));
                let reply = h1::client::send(connection, request(), |_, _| (), reuse).await.map_err(broken)?;
                read(reply.response).await?;
                if !run.answered() {
                    return Ok(());
                }
            }
        }
        Side::Library => {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
            spawn_local(connection);
            loop {
                sender.ready().await.map_err(broken)?;
                read(sender.send_request(request()).await.map_err(broken)?).await?;
                if !run.answered() {
                    return Ok(());
                }
            }
        }
    }
}

fn request() -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static("/1k");
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("web.bench"));
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("mesh-parts"));
    request
}

/// Reads a response to its end.
async fn read<B>(response: Response<B>) -> io::Result<()>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let (head, mut body) = response.into_parts();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.map_err(broken)?.data_ref().map_or(0, Bytes::len);
    }
    if head.status == StatusCode::OK && length == BODY.len() {
        Ok(())
    } else {
        Err(broken(format!("status {} with {length} bytes", head.status)))
    }
}
