//! Writing the final response: its framing and the connection's fate are settled once, then head and body leave
//! in as few writes as the body allows. A response that cannot be completed as promised ends the connection.
//! It does not change the service's headers beyond those the codec owns.

use std::cell::RefCell;
use std::task::Poll;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRAILER};
use http::{Response, StatusCode, Version};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::Error;
use super::super::encode::{self, ConnectionField, LengthField};
use super::super::framing::{members, parse_length};
use super::super::timer::LazyTimer;
use super::super::upgrade::OnUpgrade;
use super::super::writer::{BodyWriter, Framing, Pumped, WriteFault};
use super::conn::Conn;
use super::{Answer, Exchange};

/// What follows a response.
pub(super) enum Next<IO> {
    /// Another request may.
    Request,
    /// Nothing.
    Close,
    /// Another protocol.
    Upgrade(OnUpgrade<IO>),
}

/// Writes the answer to its end.
pub(super) async fn respond<IO, B>(
    conn: &RefCell<Conn<IO>>,
    timer: &mut LazyTimer,
    exchange: &Exchange,
    draining: bool,
    answer: Answer<B, IO>,
) -> Result<Next<IO>, Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let status = answer.response.status();
    if exchange.upgrades_with(status) {
        let (take_over, ready) = (answer.upgrade, conn.borrow().body_done());
        let Some(take_over) = take_over.filter(|_| ready) else {
            bad_gateway(conn, timer, exchange).await?;
            return Err(Error::Response("the service switched protocols without a taker, or unread".into()));
        };
        write_upgrade_head(conn, timer, exchange, &answer.response).await?;
        return Ok(Next::Upgrade(take_over));
    }
    if status.is_informational() {
        bad_gateway(conn, timer, exchange).await?;
        return Err(Error::Response("the service's final response has an interim status".into()));
    }
    let (framing, length) = response_framing(exchange, &answer.response);
    let keep = keeps(conn, exchange, draining, framing, &answer.response);
    let connection = match (keep, exchange.version) {
        (true, Version::HTTP_10) => ConnectionField::KeepAlive,
        (true, _) => ConnectionField::None,
        (false, _) => ConnectionField::Close,
    };
    let (parts, body) = answer.response.into_parts();
    let version = exchange.version;
    encode::response_head(conn.borrow_mut().out.tail(), version, status, &parts.headers, length, connection);
    write_body(conn, timer, &mut BodyWriter::new(framing), body).await?;
    let broken = conn.borrow().broken;
    Ok(if keep && !broken { Next::Request } else { Next::Close })
}

/// How the response's body is framed, and what its head says (RFC 9112 6.3).
fn response_framing<B: Body>(exchange: &Exchange, response: &Response<B>) -> (Framing, LengthField) {
    let status = response.status();
    let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
    let given = match (lengths.next(), lengths.next()) {
        (Some(length), None) => parse_length(length.as_bytes()),
        _ => None,
    };
    if exchange.head || status == StatusCode::NOT_MODIFIED {
        return (Framing::Empty, given.map_or(LengthField::None, LengthField::Length));
    }
    if status == StatusCode::NO_CONTENT {
        return (Framing::Empty, LengthField::None);
    }
    let http11 = exchange.version == Version::HTTP_11;
    let body = response.body();
    let known = match (given, body.size_hint().exact()) {
        (Some(given), _) => Some(given),
        (None, Some(0)) if !body.is_end_stream() && http11 => None,
        (None, Some(_)) if http11 && response.headers().contains_key(TRAILER) => None,
        (None, exact) => exact,
    };
    match known {
        Some(length) => (Framing::Length(length), LengthField::Length(length)),
        None if http11 => (Framing::Chunked, LengthField::Chunked),
        None => (Framing::UntilClose, LengthField::None),
    }
}

/// Whether the connection may carry another request.
fn keeps<IO, B>(
    conn: &RefCell<Conn<IO>>,
    exchange: &Exchange,
    draining: bool,
    framing: Framing,
    response: &Response<B>,
) -> bool {
    let mut conn = conn.borrow_mut();
    let awaits_continue = conn.begin_final();
    let asked_to_close = response
        .headers()
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| members(value.as_bytes()))
        .any(|option| option.eq_ignore_ascii_case(b"close"));
    // Behind what a client that closed its half has already sent comes nothing more.
    let says_no_more = conn.half_closed && conn.buffer_is_empty();
    exchange.keep_alive
        && !draining
        && !asked_to_close
        && !conn.broken
        && !says_no_more
        && !awaits_continue
        && !conn.too_much_unread()
        // A refused tunnel: what the client already sent into it must not be read as requests.
        && !exchange.connect
        && framing != Framing::UntilClose
}

/// Writes the body behind the queued head, watching the client meanwhile.
async fn write_body<IO, B>(
    conn: &RefCell<Conn<IO>>,
    timer: &mut LazyTimer,
    writer: &mut BodyWriter,
    mut body: B,
) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut out = std::mem::take(&mut conn.borrow_mut().out);
    let vectored = conn.borrow().is_write_vectored();
    // What waited when the client last took nothing.
    let mut stalled_at = None;
    let mut fault = None;
    let result = std::future::poll_fn(|cx| {
        loop {
            let pumped = match &fault {
                Some(_) => Pumped::Ended,
                None => writer.pump(&mut body, &mut out, vectored, cx).unwrap_or_else(|error| {
                    fault = Some(error);
                    Pumped::Ended
                }),
            };
            let mut conn = conn.borrow_mut();
            match conn.poll_flush(&mut out, cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Ready(Ok(())) if pumped == Pumped::Ended => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if pumped == Pumped::Full => continue,
                Poll::Ready(Ok(())) => stalled_at = None,
                Poll::Pending => {
                    if stalled_at != Some(out.len()) {
                        stalled_at = Some(out.len());
                        timer.set(conn.config().write_stall_timeout);
                    }
                    if timer.poll(cx).is_ready() {
                        return Poll::Ready(Err(Error::WriteStalled));
                    }
                }
            }
            return conn.poll_attend(cx).map(Err);
        }
    })
    .await;
    conn.borrow_mut().out = out;
    result?;
    match fault {
        None => Ok(()),
        Some(WriteFault::Body(error)) => Err(Error::Cut(error)),
        Some(WriteFault::Length) => Err(Error::Cut("its body does not match its Content-Length".into())),
    }
}

/// Writes the head of a 101, or of a 2xx to CONNECT, which has no framing fields.
async fn write_upgrade_head<IO, B>(
    conn: &RefCell<Conn<IO>>,
    timer: &mut LazyTimer,
    exchange: &Exchange,
    response: &Response<B>,
) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let connection = if exchange.connect { ConnectionField::None } else { ConnectionField::Upgrade };
    {
        let mut conn = conn.borrow_mut();
        conn.begin_final();
        let out = conn.out.tail();
        encode::response_head(
            out,
            exchange.version,
            response.status(),
            response.headers(),
            LengthField::None,
            connection,
        );
    }
    write_body(conn, timer, &mut BodyWriter::new(Framing::Empty), super::super::RecvBody::empty()).await
}

/// Answers 502 for a service whose response HTTP/1 cannot carry.
async fn bad_gateway<IO>(conn: &RefCell<Conn<IO>>, timer: &mut LazyTimer, exchange: &Exchange) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    {
        let mut conn = conn.borrow_mut();
        conn.begin_final();
        encode::response_head(
            conn.out.tail(),
            exchange.version,
            StatusCode::BAD_GATEWAY,
            &http::HeaderMap::new(),
            LengthField::Length(0),
            ConnectionField::Close,
        );
    }
    write_body(conn, timer, &mut BodyWriter::new(Framing::Empty), super::super::RecvBody::empty()).await
}

/// Answers a head that was refused, and says that the connection closes.
pub(super) async fn refuse<IO>(
    conn: &RefCell<Conn<IO>>,
    timer: &mut LazyTimer,
    response: Response<Bytes>,
) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    {
        let mut conn = conn.borrow_mut();
        let body = response.body();
        let length = LengthField::Length(body.len() as u64);
        let out = conn.out.tail();
        encode::response_head(
            out,
            Version::HTTP_11,
            response.status(),
            response.headers(),
            length,
            ConnectionField::Close,
        );
        out.extend_from_slice(body);
    }
    write_body(conn, timer, &mut BodyWriter::new(Framing::Empty), super::super::RecvBody::empty()).await
}
