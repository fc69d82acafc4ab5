//! Bodies that are made while they are read: any length, with a checksum in a trailer when asked for.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use ::http::{HeaderMap, HeaderValue};
use aws_lc_rs::digest;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// How much of a generated body is made at a time.
const PIECE: usize = 16 << 10;
/// The trailer that carries the checksum.
pub(super) const CHECKSUM: &str = "x-checksum";

/// `length` bytes of a fixed pattern.
pub(super) struct Pattern {
    left: u64,
    piece: Bytes,
    checksum: Option<digest::Context>,
    /// Whether the length is told beforehand; else HTTP/1.1 frames it in chunks.
    sized: bool,
}

impl Pattern {
    /// A body that ends after `length` bytes and is framed in chunks.
    pub(super) fn chunked(length: u64) -> Self {
        let piece: Vec<u8> = (0..PIECE).map(|n| b'a' + (n % 26) as u8).collect();
        Self { left: length, piece: piece.into(), checksum: None, sized: false }
    }

    /// A body whose length is announced.
    pub(super) fn sized(length: u64) -> Self {
        Self { sized: true, ..Self::chunked(length) }
    }

    /// The same as [`Pattern::chunked`], with the SHA-256 of the body in the trailer `x-checksum`.
    pub(super) fn with_checksum(length: u64) -> Self {
        Self { checksum: Some(digest::Context::new(&digest::SHA256)), ..Self::chunked(length) }
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left > 0 {
            let take = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
            let piece = self.piece.slice(..take);
            self.left -= take as u64;
            if let Some(checksum) = &mut self.checksum {
                checksum.update(&piece);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let trailer = self.checksum.take().and_then(|checksum| {
            let mut trailers = HeaderMap::new();
            trailers.insert(CHECKSUM, HeaderValue::from_str(&hex(checksum.finish().as_ref())).ok()?);
            Some(Ok(Frame::trailers(trailers)))
        });
        Poll::Ready(trailer)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.checksum.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn the_checksum_is_that_of_the_body() {
        let collected = Pattern::with_checksum(40_000).collect().await.unwrap();
        let trailer = collected.trailers().unwrap()[CHECKSUM].to_str().unwrap().to_owned();
        let body = collected.to_bytes();
        assert_eq!(body.len(), 40_000);
        assert_eq!(trailer, hex(digest::digest(&digest::SHA256, &body).as_ref()));
    }

    #[tokio::test]
    async fn lengths_are_exact() {
        for length in [0, 1, PIECE as u64, PIECE as u64 + 1] {
            let body = Pattern::sized(length);
            assert_eq!(body.size_hint().exact(), Some(length));
            assert_eq!(body.collect().await.unwrap().to_bytes().len() as u64, length);
        }
    }
}
