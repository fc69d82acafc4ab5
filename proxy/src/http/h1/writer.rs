//! Writing a body: frames are framed as the head promised, and a body that breaks the promise is an error, so
//! that no wrong message is ever completed. Used for responses by the server and for requests by the client.
//! It does not flush; the caller does when the body has nothing more at the moment.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::buf::WriteBuf;
use super::encode;

/// How a body is framed on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// No body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Plain bytes; the connection's end ends it.
    UntilClose,
}

/// Why a body could not be completed.
#[derive(Debug)]
pub(super) enum WriteFault {
    /// The body itself failed.
    Body(String),
    /// It had more or fewer bytes than its Content-Length.
    Length,
}

/// How far pumping came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// The body is wholly queued.
    Ended,
    /// The queue should be written first.
    Full,
    /// The body has nothing at the moment.
    Pending,
}

/// A body on its way out.
#[derive(Debug)]
pub(super) struct BodyWriter {
    framing: Framing,
    ended: bool,
}

impl BodyWriter {
    /// In front of the body.
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, ended: framing == Framing::Empty }
    }

    /// True once the body is wholly queued.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes frames until the body ends or waits, or the queue is full.
    pub(super) fn pump<B>(
        &mut self,
        body: &mut B,
        out: &mut WriteBuf,
        vectored: bool,
        cx: &mut Context<'_>,
    ) -> Result<Pumped, WriteFault>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        while !self.ended {
            if out.is_full() {
                return Ok(Pumped::Full);
            }
            if body.is_end_stream() {
                self.end(out)?;
                break;
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                // All that was promised is there: whether the body says so as well is not worth waiting for.
                Poll::Pending if self.framing == Framing::Length(0) => self.end(out)?,
                Poll::Pending => return Ok(Pumped::Pending),
                Poll::Ready(Some(Ok(frame))) => {
                    self.frame(frame, out, vectored)?;
                    if !self.ended && body.is_end_stream() {
                        self.end(out)?;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(WriteFault::Body(error.to_string())),
                Poll::Ready(None) => self.end(out)?,
            }
        }
        Ok(Pumped::Ended)
    }

    fn frame(&mut self, frame: Frame<Bytes>, out: &mut WriteBuf, vectored: bool) -> Result<(), WriteFault> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                if let (Framing::Chunked, Ok(trailers)) = (self.framing, frame.into_trailers()) {
                    encode::last_chunk(out.tail(), Some(&trailers));
                    self.ended = true;
                }
                return Ok(());
            }
        };
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Empty => return Err(WriteFault::Length),
            Framing::UntilClose => out.push(data, vectored),
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WriteFault::Length)?;
                out.push(data, vectored);
            }
            Framing::Chunked => {
                encode::chunk_size(out.tail(), data.len());
                out.push(data, vectored);
                out.tail().extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut WriteBuf) -> Result<(), WriteFault> {
        match self.framing {
            Framing::Length(left) if left > 0 => return Err(WriteFault::Length),
            Framing::Chunked => encode::last_chunk(out.tail(), None),
            _ => {}
        }
        self.ended = true;
        Ok(())
    }
}
