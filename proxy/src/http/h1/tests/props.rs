//! Properties: what is encoded decodes to itself however it is cut, and no bytes make a parser panic.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::super::body::{Decoder, Step};
use super::super::framing::BodyLength;
use super::super::head::{self, HeadScanner};
use super::super::{Config, encode};

/// Decodes a body that arrives in `pieces`.
fn decode(pieces: &[&[u8]], length: BodyLength) -> Result<(Vec<u8>, Option<http::HeaderMap>, bool, usize), String> {
    let config = Config::default();
    let mut decoder = Decoder::new(length);
    let mut buf = BytesMut::new();
    let (mut data, mut trailers) = (Vec::new(), None);
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf, &config).map_err(|reason| reason.to_string())? {
                Step::Data(more) => data.extend_from_slice(&more),
                Step::Trailers(map) => trailers = Some(map),
                Step::NeedMore | Step::Done => break,
            }
        }
    }
    Ok((data, trailers, decoder.is_done(), buf.len()))
}

/// Cuts bytes at the given places.
fn cut<'a>(input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for place in places {
        pieces.push(&input[from..place]);
        from = place;
    }
    pieces.push(&input[from..]);
    pieces
}

proptest! {
    #[test]
    fn chunked_bodies_round_trip(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        trailer in prop::option::of("[a-z]{1,12}"),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            encode::chunk_size(&mut wire, chunk.len());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        let trailers = trailer.map(|value| {
            let mut map = http::HeaderMap::new();
            map.insert("x-sum", value.parse().unwrap());
            map
        });
        encode::last_chunk(&mut wire, trailers.as_ref());
        wire.extend_from_slice(&rest);
        let (data, got, done, left) = decode(&cut(&wire, &cuts), BodyLength::Chunked).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(got, trailers);
        prop_assert!(done);
        prop_assert_eq!(left, rest.len());
    }

    #[test]
    fn bodies_with_a_length_take_that_much(
        body in prop::collection::vec(any::<u8>(), 1..500),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
        length in 1usize..500,
    ) {
        let (data, _, done, left) = decode(&cut(&body, &cuts), BodyLength::Length(length as u64)).unwrap();
        prop_assert_eq!(&data[..], &body[..length.min(body.len())]);
        prop_assert_eq!(done, length <= body.len());
        prop_assert_eq!(left, body.len().saturating_sub(length));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let config = Config::default();
        let _ = HeadScanner::requests().take(&mut BytesMut::from(&bytes[..]), &config);
        let _ = decode(&[&bytes], BodyLength::Chunked);
        let whole = Bytes::from(bytes);
        let _ = head::parse_request(&whole, &config);
        let _ = head::parse_response(&whole, &config);
        let _ = head::parse_trailers(&whole, &config);
    }

    #[test]
    fn almost_requests_never_panic(text in "(GET|get|P OST|CONNECT|OPTIONS) ?(/|\\*|a:1|http://a[/?#]?)[ -~]{0,6} HTTP/1\\.[0-2]\r?\n([A-Za-z-]{1,16}:?[ \t]?[ -~\r\n]{0,12}\r\n){0,4}(Host: [ -~]{0,6}\r\n)?\r\n") {
        let config = Config::default();
        let mut buf = BytesMut::from(text.as_bytes());
        if let Ok(Some(raw)) = HeadScanner::requests().take(&mut buf, &config)
            && let Ok(request) = head::parse_request(&raw, &config)
        {
            prop_assert!(request.headers.get_all("host").iter().count() <= 1);
            prop_assert!(!(request.headers.contains_key("content-length") && request.headers.contains_key("transfer-encoding")));
        }
    }

    #[test]
    fn request_heads_round_trip(
        path in "/[a-z0-9/._~-]{0,30}(\\?[a-z0-9=&]{0,20})?",
        fields in prop::collection::vec(("x-[a-z]{1,10}", "[!-~]([ -~]{0,20}[!-~])?"), 0..90),
    ) {
        let mut request = http::Request::get(&path).header("host", "a");
        for (name, value) in &fields {
            request = request.header(name, value);
        }
        let request = request.body(()).unwrap();
        let mut wire = Vec::new();
        encode::request_head(&mut wire, &request, encode::LengthField::Length(7)).unwrap();
        let config = Config::default();
        let raw = HeadScanner::requests().take(&mut BytesMut::from(&wire[..]), &config).unwrap().unwrap();
        let mut parsed = head::parse_request(&raw, &config).unwrap();
        prop_assert_eq!(parsed.body, BodyLength::Length(7));
        parsed.headers.remove("content-length");
        prop_assert_eq!(parsed.uri.to_string(), path);
        prop_assert_eq!(&parsed.headers, request.headers());
    }
}
