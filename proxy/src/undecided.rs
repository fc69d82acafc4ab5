//! A connection whose client has not said enough to tell what it speaks, while the server is connected already: whoever
//! speaks first decides.
//!
//! What the client says is passed on, and watched until it tells. If it turns out to be HTTP, no server has seen a whole
//! request line of it: that connection is let go, and everything that the client said is served as HTTP. What a server
//! says to everyone (the SETTINGS of HTTP/2, a 408, a TLS alert) decides nothing and is kept back.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use mesh_policy::Mode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use crate::{
    connections::Entry,
    detect::{Look, Spoken},
    http::{h1, pool::Pool, settings::h1_config},
    io::{Rewind, reset},
    transport::Transport,
};

/// What a server says that decides nothing is kept back up to this. SETTINGS and a 408 are far smaller.
const MAX_HELD: usize = 16 * 1024;

/// Both sides of such a connection.
pub(crate) struct Undecided {
    /// Everything that the client said.
    read: BytesMut,
    /// So much of it is with the server.
    passed: usize,
    /// What the server said; the client has heard nothing of it.
    held: BytesMut,
    /// The server ended its side.
    server_ended: bool,
    /// The server spoke first, as its protocol has it.
    greeted: bool,
    /// What the client says is passed on as it comes.
    released: bool,
    /// When it will be.
    release_at: Option<Instant>,
    look: Look,
    words: Duration,
    complete: Duration,
}

impl Undecided {
    /// The client said `read` so far, which was kept back for long enough. What it says from now on is kept back for
    /// `words` if it may be the beginning of a request, for `complete` if it is that of a ClientHello.
    pub(crate) fn new(read: BytesMut, mode: Mode, words: Duration, complete: Duration) -> Self {
        Self {
            passed: 0,
            held: BytesMut::new(),
            server_ended: false,
            greeted: false,
            released: !read.is_empty(),
            release_at: None,
            look: Look::new(mode),
            read,
            words,
            complete,
        }
    }

    /// Waits until it is decided what the client speaks; [`Spoken::Opaque`] also when the server decided it.
    /// [`Spoken::Closed`]: nothing was said, and the connection is to end.
    ///
    /// # Errors
    /// One side's connection broke.
    pub(crate) async fn decided<C, S>(&mut self, entry: &Entry, client: &mut C, server: &mut S) -> io::Result<Spoken>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        let (mut ending, mut is_ending) = (pin!(entry.ending()), false);
        poll_fn(|cx| {
            is_ending = is_ending || ending.as_mut().poll(cx).is_ready();
            if is_ending && self.read.is_empty() && self.is_untouched() {
                return Poll::Ready(Ok(Spoken::Closed));
            }
            if let Poll::Ready(spoken) = self.poll_server(client, server, cx)? {
                return Poll::Ready(Ok(spoken));
            }
            loop {
                if self.released {
                    self.poll_pass(server, cx)?;
                }
                match poll_words(client, cx)? {
                    Poll::Ready(said) => {
                        if let Some(spoken) = self.said(&said) {
                            return Poll::Ready(Ok(spoken));
                        }
                    }
                    Poll::Pending => match self.poll_release(timer.as_mut(), cx) {
                        Poll::Ready(Spoken::Words) => {}
                        other => return other.map(Ok),
                    },
                }
            }
        })
        .await
    }

    /// Whether no byte went either way, so that the server's connection is as good as new.
    pub(crate) fn is_untouched(&self) -> bool {
        self.passed == 0 && self.held.is_empty() && !self.server_ended
    }

    /// Whether the server spoke first, by its protocol.
    pub(crate) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Bytes of the client that went to the server already.
    pub(crate) fn passed(&self) -> u64 {
        self.passed as u64
    }

    /// The client's connection from its first byte on.
    pub(crate) fn client_anew<C>(self, client: C) -> Rewind<C> {
        Rewind::new(self.read.freeze(), client)
    }

    /// Both connections from where they are, for bytes.
    pub(crate) fn both<C, S>(mut self, client: C, server: S) -> (Rewind<C>, Rewind<S>) {
        let rest: Bytes = self.read.split_off(self.passed).freeze();
        (Rewind::new(rest, client), Rewind::new(self.held.freeze(), server))
    }

    /// Lets a server's connection go: kept for the next request when nothing was said on it, as a client of its own would
    /// have used it; ended as broken when it holds the beginning of a request, which nobody may take for a whole one.
    pub(crate) fn let_go(&self, transport: &Transport, pool: &Pool, server: TcpStream) {
        if self.is_untouched() {
            pool.put_h1(transport, h1::client::Connection::new(server, &h1_config(&transport.config)));
        } else if self.passed > 0 {
            reset(server);
        }
    }

    /// What becomes of the application's connection when the client's broke. One on which nothing was said is not reset: the
    /// application would take it for a fault. `is_kept`: the next request may use it.
    pub(crate) fn broken(&self, transport: &Transport, pool: &Pool, server: TcpStream, is_kept: bool) {
        match self.is_untouched() {
            true if is_kept => self.let_go(transport, pool, server),
            true => drop(server),
            false => reset(server),
        }
    }

    fn poll_server<C, S>(&mut self, client: &mut C, server: &mut S, cx: &mut Context<'_>) -> io::Result<Poll<Spoken>>
    where
        C: AsyncWrite + Unpin,
        S: AsyncRead + Unpin,
    {
        while !self.server_ended {
            let Poll::Ready(said) = poll_words(server, cx)? else { return Ok(Poll::Pending) };
            self.held.extend_from_slice(&said);
            let tells = speaks_first(&self.held);
            if tells || self.held.len() > MAX_HELD || said.is_empty() && !self.held.is_empty() {
                self.greeted = tells && self.read.is_empty();
                return Ok(Poll::Ready(Spoken::Opaque));
            }
            self.server_ended = said.is_empty();
        }
        // It says nothing, and still listens: the client is told as much.
        match Pin::new(client).poll_shutdown(cx) {
            Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(Poll::Pending),
        }
    }

    /// Passes on what the client said, as far as the server takes it.
    fn poll_pass<S: AsyncWrite + Unpin>(&mut self, server: &mut S, cx: &mut Context<'_>) -> io::Result<()> {
        while let Some(rest) = self.read.get(self.passed..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *server).poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => self.passed += count,
                Poll::Pending => return Ok(()),
            }
        }
        let _flushing = Pin::new(server).poll_flush(cx)?;
        Ok(())
    }

    /// The client said this; nothing: it ended its side.
    fn said(&mut self, said: &[u8]) -> Option<Spoken> {
        self.read.extend_from_slice(said);
        let ended = said.is_empty();
        let told = self.look.at(&self.read, ended);
        if told.is_none() && !ended && !self.released && self.release_at.is_none() {
            self.release_at = Instant::now().checked_add(self.look.patience(&self.read, self.words, self.complete));
        }
        told.or_else(|| ended.then_some(Spoken::Opaque))
    }

    /// [`Spoken::Words`]: what was kept back is passed on from now.
    fn poll_release(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Spoken> {
        let Some(at) = self.release_at else { return Poll::Pending };
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        ready!(timer.poll(cx));
        self.release_at = None;
        let told = self.look.late(&self.read);
        self.released = told == Spoken::Words;
        Poll::Ready(told)
    }
}

/// Reads once. The space is the stack's: who waits holds none.
fn poll_words<T: AsyncRead + Unpin>(io: &mut T, cx: &mut Context<'_>) -> io::Result<Poll<BytesMut>> {
    let mut space = [0; 16 * 1024];
    let mut read = ReadBuf::new(&mut space);
    match Pin::new(io).poll_read(cx, &mut read)? {
        Poll::Ready(()) => Ok(Poll::Ready(read.filled().into())),
        Poll::Pending => Ok(Poll::Pending),
    }
}

/// Whether a server that said this before its client said enough does so by its protocol. Not if the client was only slow:
/// an HTTP/1 server then says that time is up, a TLS server too, and one of HTTP/2 sends its SETTINGS to everyone (RFC 9113
/// section 3.4). What may become one of these tells nothing yet.
fn speaks_first(said: &[u8]) -> bool {
    /// Type, flags and stream of a SETTINGS frame, behind the three bytes of its length.
    const SETTINGS: [u8; 6] = [4, 0, 0, 0, 0, 0];
    /// An alert of TLS 1.x (RFC 8446 section 5.1).
    const ALERT: [u8; 2] = [0x15, 3];
    let is_begun = |said: &[u8], word: &[u8]| said.iter().zip(word).all(|(said, word)| said == word);
    let settings = said.first() == Some(&0) && is_begun(said.get(3..).unwrap_or_default(), &SETTINGS);
    !(said.is_empty() || settings || is_begun(said, b"HTTP/") || is_begun(said, &ALERT))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::rc::Rc;

    use metrics::Gauge;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::connections::{Connections, End, Side};

    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0";
    const WORDS: Duration = Duration::from_millis(100);
    const COMPLETE: Duration = Duration::from_secs(10);

    #[test]
    fn impatience_is_no_greeting() {
        assert!(speaks_first(b"220 mail.example ESMTP\r\n") && speaks_first(b"SSH-2.0-OpenSSH\r\n"));
        assert!(speaks_first(b"\x4a\0\0\0\x0a8.0.36\0"), "MySQL");
        assert!(speaks_first(b"\x15\0\0\0"), "a length");
        for said in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n", b"HT", b"\x15\x03\x03\0\x02", SETTINGS, b"\0\0\x06"]
        {
            assert!(!speaks_first(said), "{said:?}");
        }
    }

    /// A client, a server, and what is between them: the ends that a test holds, and the decision as it is made.
    struct Stage {
        client: DuplexStream,
        server: DuplexStream,
        ours: (DuplexStream, DuplexStream),
        undecided: Undecided,
        entry: Rc<Entry>,
    }

    fn stage(read: &[u8]) -> Stage {
        let ((client, a), (b, server)) = (duplex(100_000), duplex(100_000));
        let limits = crate::config::Config::from_env(&crate::config::tests::minimal()).unwrap().limits;
        let connections = Connections::new(&limits, [Gauge::noop(), Gauge::noop()]);
        let entry = connections.add(Side::Inbound, ([127, 0, 0, 1], 1).into());
        let undecided = Undecided::new(read.into(), Mode::Detect, WORDS, COMPLETE);
        Stage { client, server, ours: (a, b), undecided, entry }
    }

    impl Stage {
        async fn decided(&mut self) -> Spoken {
            let entry = self.entry.clone();
            self.undecided.decided(&entry, &mut self.ours.0, &mut self.ours.1).await.unwrap()
        }

        /// Nothing is decided for a minute.
        async fn waits(&mut self) {
            tokio::time::timeout(Duration::from_secs(60), self.decided()).await.unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_client_is_heard_though_an_http2_server_said_its_settings() {
        for (late, spoken) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Spoken::Http2),
            (b"GET / HTTP/1.1\r\n", Spoken::Http1),
            (b"\0binary", Spoken::Opaque),
        ] {
            let mut stage = stage(b"");
            stage.server.write_all(SETTINGS).await.unwrap();
            stage.waits().await;
            stage.client.write_all(late).await.unwrap();
            assert_eq!(stage.decided().await, spoken);
            assert!(!stage.undecided.is_greeted() && !stage.undecided.is_untouched());
            let (mut client, mut server) = stage.undecided.both(stage.ours.0, stage.ours.1);
            let (mut said, mut answered) = (vec![0; late.len()], vec![0; SETTINGS.len()]);
            client.read_exact(&mut said).await.unwrap();
            server.read_exact(&mut answered).await.unwrap();
            assert_eq!((&said[..], &answered[..]), (late, SETTINGS), "nothing is lost");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn words_are_passed_on_and_still_become_http() {
        let mut stage = stage(b"");
        stage.client.write_all(b"GE").await.unwrap();
        stage.waits().await;
        let mut heard = [0; 2];
        stage.server.read_exact(&mut heard).await.unwrap();
        assert_eq!((&heard, stage.undecided.passed()), (b"GE", 2));
        stage.client.write_all(b"T / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(stage.decided().await, Spoken::Http1);
        assert_eq!(stage.undecided.passed(), 2, "no server has the whole line");
        let mut all = [0; 16];
        stage.undecided.client_anew(stage.ours.0).read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"GET / HTTP/1.1\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_words_decides() {
        let mut stage = stage(b"ruok");
        stage.server.write_all(b"imok").await.unwrap();
        assert_eq!(stage.decided().await, Spoken::Opaque);
        assert!(!stage.undecided.is_greeted(), "the client spoke first");
        let mut stage = self::stage(b"");
        stage.server.write_all(b"220 ready\r\n").await.unwrap();
        assert_eq!((stage.decided().await, stage.undecided.is_greeted()), (Spoken::Opaque, true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_of_one_side_ends_only_that() {
        let mut stage = stage(b"");
        stage.server.shutdown().await.unwrap();
        stage.waits().await;
        assert_eq!(stage.client.read(&mut [0; 1]).await.unwrap(), 0, "the client is told");
        stage.client.write_all(b"a line\n").await.unwrap();
        assert_eq!(stage.decided().await, Spoken::Opaque);
        let mut stage = self::stage(b"GET / HTTP/1.1");
        stage.client.shutdown().await.unwrap();
        assert_eq!(stage.decided().await, Spoken::Http1);
        let mut stage = self::stage(b"");
        stage.entry.end(End::InOrder);
        assert_eq!(stage.decided().await, Spoken::Closed, "nobody waits for a client that says nothing");
        let mut stage = self::stage(b"");
        stage.client.shutdown().await.unwrap();
        assert_eq!((stage.decided().await, stage.undecided.is_untouched()), (Spoken::Opaque, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_more_than_is_kept_back_decides() {
        let mut said = b"HTTP/1.1 408 Request Timeout\r\n".to_vec();
        said.resize(MAX_HELD, b'x');
        let mut stage = stage(b"");
        stage.server.write_all(&said).await.unwrap();
        stage.waits().await;
        stage.server.write_all(b"x").await.unwrap();
        assert_eq!(stage.decided().await, Spoken::Opaque);
    }
}
