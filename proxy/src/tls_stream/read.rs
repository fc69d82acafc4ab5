//! The receiving half: reads much at once, decrypts into the caller's buffer, and answers what is not data.

use std::{
    io, mem,
    task::{Context, Poll, ready},
};

use rustls::{AlertDescription, ContentType, Error as TlsError, HandshakeType, InvalidMessage, PeerMisbehaved};
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    Kernel,
    buffer::{BATCH, Buffer},
    record::{Fatal, HEADER, MAX_RECORD, Opener},
};

/// A caller with this much room gets a whole batch read for it.
const LARGE_READ: usize = 64 * 1024;
/// A handshake message after the handshake may be this long (a session ticket, which is then ignored).
const MAX_MESSAGE: usize = 64 * 1024;
/// Records in a row that carry no data: each costs us a decryption, and a key update a derivation.
const MAX_FRUITLESS: u8 = 32;

/// What the receiving half asks of the sending half.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The peer wants our keys updated before our next data.
    pub(super) key_update: bool,
    /// The peer must hear of its violation.
    pub(super) alert: Option<AlertDescription>,
}

/// See the module.
pub(super) struct Reader {
    opener: Opener,
    /// Received: whole records, and the beginning of one.
    input: Buffer,
    /// Plaintext at the front of `input` that is not taken yet: a record larger than the caller's buffer.
    plain: usize,
    /// Behind it: the rest of that record.
    tail: usize,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    fruitless: u8,
    end: Option<End>,
}

/// Why nothing more comes.
#[derive(Debug)]
enum End {
    /// The peer said close_notify.
    Closed,
    /// The transport ended without it: what came may be cut.
    Truncated,
    Failed(TlsError),
}

impl Reader {
    /// Goes on where the handshake ended; `input` is what that has not used.
    pub(super) fn new(opener: Opener, input: Buffer) -> Self {
        Self { opener, input, plain: 0, tail: 0, message: Vec::new(), fruitless: 0, end: None }
    }

    pub(super) fn poll_read<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        kernel: &mut Kernel,
        asked: &mut Asked,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.take_plain(buf) || self.open_records(kernel, asked, buf) {
                self.input.release();
                return Poll::Ready(Ok(()));
            }
            match &self.end {
                None => {
                    if ready!(self.input.poll_fill(io, cx, room(buf.remaining())))? == 0 {
                        self.finish(End::Truncated);
                    }
                }
                Some(End::Closed) => return Poll::Ready(Ok(())),
                Some(End::Truncated) => return Poll::Ready(Err(truncated())),
                Some(End::Failed(error)) => return Poll::Ready(Err(super::invalid(error.clone()))),
            }
        }
    }

    /// Gives what is decrypted already. Says whether there was any.
    fn take_plain(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.plain == 0 {
            return false;
        }
        let n = self.plain.min(buf.remaining());
        buf.put_slice(&self.input.data()[..n]);
        self.plain -= n;
        self.input.consume(n);
        if self.plain == 0 {
            self.input.consume(mem::take(&mut self.tail));
        }
        true
    }

    /// Decrypts whole records for as long as they fit. Says whether the caller got anything.
    fn open_records(&mut self, kernel: &mut Kernel, asked: &mut Asked, buf: &mut ReadBuf<'_>) -> bool {
        let before = buf.filled().len();
        while self.end.is_none() {
            match self.open_record(kernel, asked, buf, before) {
                Ok(true) => {}
                Ok(false) => break,
                Err(fatal) => {
                    asked.alert = fatal.alert;
                    self.finish(End::Failed(fatal.error));
                }
            }
        }
        buf.filled().len() > before
    }

    /// Decrypts one record, if it is whole, and if it fits or is the first. Says whether there may be another.
    /// `before` is what the caller's buffer held when it was handed to us.
    fn open_record(
        &mut self,
        kernel: &mut Kernel,
        asked: &mut Asked,
        buf: &mut ReadBuf<'_>,
        before: usize,
    ) -> Result<bool, Fatal> {
        let Some(length) = Opener::whole(self.input.data())? else { return Ok(false) };
        let room = Opener::room(length);
        if room <= buf.remaining() {
            let out = buf.initialize_unfilled_to(room);
            let (kind, n) = self.opener.open(&self.input.data()[..length], out)?;
            self.input.consume(length);
            if kind == ContentType::ApplicationData {
                self.fruitful(n)?;
                buf.advance(n);
            } else {
                self.control(kind, &out[..n], kernel, asked)?;
            }
            return Ok(true);
        }
        if buf.filled().len() > before {
            return Ok(false);
        }
        let (kind, n) = self.opener.open_in_place(&mut self.input.data_mut()[..length])?;
        self.input.consume(HEADER);
        if kind == ContentType::ApplicationData {
            self.fruitful(n)?;
            (self.plain, self.tail) = (n, length - HEADER - n);
            if n == 0 {
                self.input.consume(mem::take(&mut self.tail));
            }
            self.take_plain(buf);
        } else {
            let content = self.input.data()[..n].to_vec();
            self.input.consume(length - HEADER);
            self.control(kind, &content, kernel, asked)?;
        }
        Ok(self.plain == 0)
    }

    /// Application data: `n` bytes of it.
    fn fruitful(&mut self, n: usize) -> Result<(), Fatal> {
        if !self.message.is_empty() {
            return Err(interleaved());
        }
        match n {
            0 => self.tolerate(PeerMisbehaved::TooManyEmptyFragments),
            _ => {
                self.fruitless = 0;
                Ok(())
            }
        }
    }

    fn tolerate(&mut self, otherwise: PeerMisbehaved) -> Result<(), Fatal> {
        self.fruitless += 1;
        match self.fruitless {
            ..=MAX_FRUITLESS => Ok(()),
            _ => Err(Fatal::new(otherwise, AlertDescription::UnexpectedMessage)),
        }
    }

    /// A record that is not data.
    fn control(
        &mut self,
        kind: ContentType,
        content: &[u8],
        kernel: &mut Kernel,
        asked: &mut Asked,
    ) -> Result<(), Fatal> {
        match kind {
            // RFC 8446 section 5.4; only application data may be empty.
            ContentType::Handshake | ContentType::Alert if content.is_empty() => Err(unexpected("an empty record")),
            ContentType::Handshake => self.handshake(content, kernel, asked),
            _ if !self.message.is_empty() => Err(interleaved()),
            ContentType::Alert => self.alert(content),
            _ => Err(unexpected("a record of an unknown type")),
        }
    }

    fn alert(&mut self, content: &[u8]) -> Result<(), Fatal> {
        let [_level, description] = content else {
            let error = TlsError::InvalidMessage(InvalidMessage::MessageTooShort);
            return Err(Fatal::new(error, AlertDescription::DecodeError));
        };
        match AlertDescription::from(*description) {
            AlertDescription::CloseNotify => self.finish(End::Closed),
            AlertDescription::UserCanceled => self.tolerate(PeerMisbehaved::TooManyWarningAlertsReceived)?,
            other => return Err(Fatal { error: TlsError::AlertReceived(other), alert: None }),
        }
        Ok(())
    }

    /// Messages after the handshake (RFC 8446 section 4.6), which may be cut at any byte.
    fn handshake(&mut self, content: &[u8], kernel: &mut Kernel, asked: &mut Asked) -> Result<(), Fatal> {
        self.tolerate(PeerMisbehaved::TooManyKeyUpdateRequests)?;
        self.message.extend_from_slice(content);
        while let Some((&[kind, a, b, c], rest)) = self.message.split_first_chunk() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MAX_MESSAGE {
                let error = TlsError::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);
                return Err(Fatal::new(error, AlertDescription::DecodeError));
            }
            let Some(body) = rest.get(..length) else { return Ok(()) };
            match HandshakeType::from(kind) {
                HandshakeType::KeyUpdate => {
                    let (body, last) = (<[u8; 1]>::try_from(body).ok(), rest.len() == length);
                    self.key_update(body, last, kernel, asked)?;
                }
                // Resumption is not used; a server sends them all the same.
                HandshakeType::NewSessionTicket if kernel.is_client() => {}
                _ => return Err(unexpected("a handshake message after the handshake")),
            }
            self.message.drain(..4 + length);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    fn key_update(
        &mut self,
        body: Option<[u8; 1]>,
        last: bool,
        kernel: &mut Kernel,
        asked: &mut Asked,
    ) -> Result<(), Fatal> {
        if !last {
            return Err(Fatal::new(PeerMisbehaved::KeyEpochWithPendingFragment, AlertDescription::UnexpectedMessage));
        }
        match body {
            Some([0]) => {}
            Some([1]) => asked.key_update = true,
            _ => {
                let error = TlsError::InvalidMessage(InvalidMessage::InvalidKeyUpdate);
                return Err(Fatal::new(error, AlertDescription::DecodeError));
            }
        }
        let opener = kernel.next_receive_keys().and_then(Opener::new);
        self.opener = opener.map_err(|error| Fatal::new(error, AlertDescription::InternalError))?;
        Ok(())
    }

    /// Nothing more is read; what came behind the end is ignored (RFC 8446 section 6.1).
    fn finish(&mut self, end: End) {
        self.end = Some(end);
        self.input = Buffer::default();
        self.message = Vec::new();
    }
}

/// How much to read for a caller who has this much room: a batch for a large one, else what completes a record.
fn room(wanted: usize) -> usize {
    if wanted >= LARGE_READ { BATCH - MAX_RECORD } else { MAX_RECORD }
}

fn interleaved() -> Fatal {
    Fatal::new(PeerMisbehaved::MessageInterleavedWithHandshakeMessage, AlertDescription::UnexpectedMessage)
}

fn unexpected(what: &'static str) -> Fatal {
    let error = TlsError::InvalidMessage(InvalidMessage::UnexpectedMessage(what));
    Fatal::new(error, AlertDescription::UnexpectedMessage)
}

fn truncated() -> io::Error {
    let what = "the peer ended the connection without close_notify; what it sent may be cut";
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}

#[cfg(test)]
impl Reader {
    pub(super) fn held(&self) -> usize {
        self.input.held() + self.message.capacity()
    }
}
