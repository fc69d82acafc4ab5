//! What a page is made of: it is whole, or it comes in pieces for as long as somebody reads them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::pages::Life;

/// Who reads nothing of a page in pieces for so long, while there is something to read, is cut.
pub const UNREAD: Duration = Duration::from_secs(10);
/// How often a page in pieces is seen to be read while nothing comes.
const LOOK: Duration = Duration::from_secs(1);

/// The body of a page.
#[derive(Debug)]
pub struct Content(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Bytes),
    Pieces(Pieces),
}

/// Hyper asks for a piece only when it could write the last one, so whoever asks is read.
#[derive(Debug)]
struct Pieces {
    come: mpsc::Receiver<Bytes>,
    life: Option<Life>,
    looks: Interval,
}

impl Content {
    /// In pieces, until nobody sends any more.
    pub(crate) fn pieces(come: mpsc::Receiver<Bytes>) -> Self {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(Kind::Pieces(Pieces { come, life: None, looks }))
    }

    /// The connection that it goes over: in pieces, it lives for as long as they are read.
    pub(crate) fn keep(&mut self, life: &Life) {
        if let Kind::Pieces(pieces) = &mut self.0 {
            pieces.life = Some(life.clone());
        }
    }
}

impl From<Bytes> for Content {
    fn from(whole: Bytes) -> Self {
        Self(Kind::Whole(whole))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut self.0 {
            Kind::Whole(whole) if whole.is_empty() => None,
            Kind::Whole(whole) => Some(std::mem::take(whole)),
            Kind::Pieces(Pieces { come, life, looks }) => {
                while looks.poll_tick(context).is_ready() {}
                life.iter().for_each(|life| life.lasts(UNREAD));
                ready!(come.poll_recv(context))
            }
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Kind::Whole(whole) if whole.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            Kind::Pieces(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;

    use http::StatusCode;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        pages::{LIFE, in_pieces},
        serve_pages,
    };

    /// A server of one page in pieces, and where they are sent.
    async fn start() -> (SocketAddr, mpsc::Receiver<mpsc::Sender<Bytes>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, pages) = mpsc::channel(1);
        let answer = move |_| {
            let asked = asked.clone();
            async move {
                let (send, page) = in_pieces(StatusCode::OK, "text/plain");
                asked.send(send).await.unwrap();
                page
            }
        };
        tokio::spawn(serve_pages(listener, CancellationToken::new(), answer));
        (address, pages)
    }

    async fn ask(address: SocketAddr) -> TcpStream {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        tcp
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_come_for_as_long_as_they_are_read() {
        let (address, mut pages) = start().await;
        let mut tcp = ask(address).await;
        let send = pages.recv().await.unwrap();
        tokio::time::sleep(4 * LIFE).await;
        send.send(Bytes::from_static(b"first")).await.unwrap();
        let mut said = [0; 1024];
        let mut text = String::new();
        while !text.contains("first") {
            let read = tcp.read(&mut said).await.unwrap();
            assert!(read > 0, "{text}");
            text += std::str::from_utf8(&said[..read]).unwrap();
        }
        assert!(text.contains("transfer-encoding: chunked"), "{text}");
        // Who sends is told that the reader left.
        drop(tcp);
        send.closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_no_pieces_is_cut() {
        let (address, mut pages) = start().await;
        let _tcp = ask(address).await;
        let send = pages.recv().await.unwrap();
        let piece = Bytes::from(vec![b'x'; 1 << 20]);
        let began = tokio::time::Instant::now();
        while send.send(piece.clone()).await.is_ok() {}
        assert!(began.elapsed() < 2 * UNREAD, "{:?}", began.elapsed());
    }
}
