//! The handshake, by rustls; then its keys are taken over.
//!
//! rustls gets one record after the other and never one behind the handshake's last, so that nothing is decrypted twice
//! and no message is left half read when the keys change hands.

use std::{future::poll_fn, io, ops::Deref, pin::Pin, sync::Arc, task::ready};

use rustls::{
    ClientConfig, CommonState, Error as TlsError, ExtractedSecrets, InvalidMessage, PeerMisbehaved, ProtocolVersion,
    ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::ServerName,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Kernel, Session, Stream,
    buffer::Buffer,
    invalid,
    read::Reader,
    record::{HEADER, Opener, Sealer},
    write::Writer,
};

/// Received and not yet used: the longest message that rustls takes (64 KiB) in records, and one record more.
const MAX_INPUT: usize = 96 * 1024;
/// No record of any version is longer; rustls refuses one that says so.
const MAX_ANY_RECORD: usize = 16 * 1024 + 2048;
/// Read at once, at least: a whole flight, as a rule.
const READ: usize = 8 * 1024;

/// Opens a session as the client. `config` must allow TLS 1.3 alone, and `enable_secret_extraction`.
///
/// # Errors
/// What the transport says, `UnexpectedEof` when it ends, and `InvalidData` around a [`rustls::Error`] (of which the peer
/// is told by an alert).
pub(crate) async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: IO,
) -> io::Result<(Stream<IO>, Session)> {
    run(UnbufferedClientConnection::new(config, name).map_err(invalid)?, io).await
}

/// Opens a session as the server. The same holds as for [`connect`].
pub(crate) async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    io: IO,
) -> io::Result<(Stream<IO>, Session)> {
    run(UnbufferedServerConnection::new(config).map_err(invalid)?, io).await
}

/// What both sides of rustls's unbuffered connections have in common.
trait Side: Deref<Target: Deref<Target = CommonState>> {
    type Data;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn take_over(self) -> Result<(ExtractedSecrets, Kernel), TlsError>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn take_over(self) -> Result<(ExtractedSecrets, Kernel), TlsError> {
        self.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, Kernel::Client(kernel)))
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn take_over(self) -> Result<(ExtractedSecrets, Kernel), TlsError> {
        self.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, Kernel::Server(kernel)))
    }
}

/// What rustls wants next.
enum Next {
    /// To be asked again.
    Again,
    /// Another record.
    Input,
    Done,
}

async fn run<S: Side, IO: AsyncRead + AsyncWrite + Unpin>(side: S, mut io: IO) -> io::Result<(Stream<IO>, Session)> {
    let mut handshake = Handshake { side, input: Buffer::default(), given: 0, output: Buffer::default() };
    loop {
        match handshake.step() {
            Ok(Next::Again) => {}
            Ok(Next::Input) => {
                while !handshake.give_record() {
                    handshake.exchange(&mut io).await?;
                }
            }
            Ok(Next::Done) => {
                handshake.send(&mut io).await?;
                return handshake.finish(io).map_err(invalid);
            }
            Err(error) => {
                let _ = handshake.send(&mut io).await; // its alert; whether that gets out matters less than the error
                return Err(invalid(error));
            }
        }
    }
}

struct Handshake<S> {
    side: S,
    input: Buffer,
    /// Of `input`: what rustls has seen. Whole records.
    given: usize,
    output: Buffer,
}

impl<S: Side> Handshake<S> {
    fn step(&mut self) -> Result<Next, TlsError> {
        let UnbufferedStatus { discard, state } = self.side.process(&mut self.input.data_mut()[..self.given]);
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(message)) => encode(message, &mut self.output).map(|()| Next::Again),
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                Ok(Next::Again)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Next::Input),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Done),
            Ok(_) => Err(TlsError::General("application data or an end within the handshake".into())),
            Err(error) => Err(error),
        };
        self.discard(discard);
        match next {
            // A server could send early; ours waits for the client's proof.
            Ok(Next::Done) if self.side.is_handshaking() => Ok(Next::Input),
            Err(error) => {
                self.collect_alert();
                Err(error)
            }
            next => next,
        }
    }

    /// After an error: what rustls still wants to say. It must not see input again, which it would refuse again.
    fn collect_alert(&mut self) {
        while self.side.wants_write() {
            let UnbufferedStatus { discard, state } = self.side.process(&mut self.input.data_mut()[..self.given]);
            let Ok(ConnectionState::EncodeTlsData(message)) = state else { return };
            let encoded = encode(message, &mut self.output);
            self.discard(discard);
            if encoded.is_err() {
                return;
            }
        }
    }

    fn discard(&mut self, n: usize) {
        self.input.consume(n);
        self.given -= n;
    }

    /// Shows rustls one record more, if it is here. What is no record at all is shown too, for it to refuse.
    fn give_record(&mut self) -> bool {
        let behind = &self.input.data()[self.given..];
        let Some(header) = behind.first_chunk::<HEADER>() else { return false };
        let length = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
        let plausible = matches!(header[0], 20..=23) && length <= HEADER + MAX_ANY_RECORD;
        self.given += match plausible {
            true if behind.len() < length => return false,
            true => length,
            false => behind.len(),
        };
        true
    }

    /// Sends what there is to say, and waits for something new. Neither waits for the other: the peer may be writing too.
    async fn exchange<IO: AsyncRead + AsyncWrite + Unpin>(&mut self, io: &mut IO) -> io::Result<()> {
        if self.input.len() > MAX_INPUT {
            return Err(invalid(TlsError::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge)));
        }
        let received = poll_fn(|cx| {
            if self.output.poll_drain(io, cx)?.is_ready() {
                let _ = Pin::new(&mut *io).poll_flush(cx)?; // goes on with each poll
            }
            self.input.poll_fill(io, cx, READ)
        });
        match received.await? {
            0 => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended the connection within the handshake"))
            }
            _ => Ok(()),
        }
    }

    async fn send<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO) -> io::Result<()> {
        poll_fn(|cx| {
            ready!(self.output.poll_drain(io, cx))?;
            Pin::new(&mut *io).poll_flush(cx)
        })
        .await
    }

    fn finish<IO>(mut self, io: IO) -> Result<(Stream<IO>, Session), TlsError> {
        if self.given > 0 {
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        let common: &CommonState = &self.side;
        let (Some(ProtocolVersion::TLSv1_3), Some(suite)) =
            (common.protocol_version(), common.negotiated_cipher_suite())
        else {
            return Err(TlsError::General("only TLS 1.3 is spoken; allow nothing else in the configuration".into()));
        };
        let session = Session::of(common);
        self.input.park();
        let limit = suite.tls13().map_or(0, |suite| suite.common.confidentiality_limit);
        let (secrets, kernel) = self.side.take_over()?;
        let reader = Reader::new(Opener::new(secrets.rx)?, self.input);
        let writer = Writer::new(Sealer::new(secrets.tx)?, limit);
        Ok((Stream::new(io, reader, writer, kernel), session))
    }
}

fn encode<D>(mut message: EncodeTlsData<'_, D>, out: &mut Buffer) -> Result<(), TlsError> {
    let failed = |error: EncodeError| TlsError::General(error.to_string());
    let size = match message.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Err(error) => return Err(failed(error)),
        Ok(_) => return Ok(()),
    };
    out.reserve(size);
    let written = message.encode(out.spare_mut()).map_err(failed)?;
    out.grow(written);
    Ok(())
}
