//! The name that a TLS client asks for (SNI): its ClientHello, read as far as that (RFC 8446 section 4.1.2, RFC 6066
//! section 3). TLSRoutes choose by it.
//!
//! The TLS is the application's own, of whatever version and with whatever extensions, so this knows the framing and
//! one extension, and leaves judging the rest to the server. Pure and total: any bytes have an answer. What two readers
//! could understand differently (two names, a length that does not fit) is no ClientHello here, for the server might
//! read the other one. Where a client encrypts its name (ECH), this sees the name outside.

/// One ClientHello, post-quantum key shares and large session tickets included; beyond it is no client of ours.
const MAX_HELLO: usize = 64 * 1024;
/// One record (RFC 8446 section 5.1).
const MAX_FRAGMENT: usize = 16 * 1024;
/// What may be read for one ClientHello, headers of small records included.
const MAX_READ: usize = 2 * MAX_HELLO;
/// A name on the wire: 253 characters, and a dot at the end.
const MAX_NAME: usize = 254;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// A ClientHello that is not complete.
    Partial,
    /// A ClientHello, and the name that it asks for.
    Complete(Option<Box<str>>),
    /// Something else.
    Other,
}

/// Reads what came so far.
pub(crate) fn read(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Ok(Some(message)) => server_name(&message).map_or(Hello::Other, Hello::Complete),
        Ok(None) if bytes.len() < MAX_READ => Hello::Partial,
        Ok(None) | Err(NotHello) => Hello::Other,
    }
}

/// The bytes are no ClientHello, whatever follows.
struct NotHello;

/// The body of the first handshake message, put together from its records; `None`: more is needed.
fn message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, NotHello> {
    let mut message = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE || header[1] != 3 || !(1..=MAX_FRAGMENT).contains(&length) {
            return Err(NotHello);
        }
        let here = length.min(rest.len());
        message.extend_from_slice(&rest[..here]);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(NotHello);
        }
        if let Some([_, a, b, c]) = message.first_chunk() {
            let size = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if size > MAX_HELLO {
                return Err(NotHello);
            }
            if message.len() >= 4 + size {
                message.truncate(4 + size);
                message.drain(..4);
                return Ok(Some(message));
            }
        }
        if here < length {
            return Ok(None);
        }
        bytes = &rest[length..];
    }
    match bytes {
        [] | [HANDSHAKE] | [HANDSHAKE, 3, ..] => Ok(None),
        _ => Err(NotHello),
    }
}

/// The name in the body of a ClientHello; `None`: the body is malformed.
fn server_name(body: &[u8]) -> Option<Option<Box<str>>> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?; // version and random
    hello.block(1)?; // session
    hello.block(2)?; // cipher suites
    hello.block(1)?; // compression
    if hello.0.is_empty() {
        return Some(None); // TLS 1.2 and before may have no extensions
    }
    let mut extensions = hello.block(2)?;
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.block(2)?;
        if kind == SERVER_NAME && name.replace(host_name(content)?).is_some() {
            return None;
        }
    }
    hello.0.is_empty().then_some(name)
}

/// The one name of the extension. Other kinds of names were never defined.
fn host_name(mut extension: Reader<'_>) -> Option<Box<str>> {
    let mut names = extension.block(2)?;
    let kind = names.number(1)?;
    let name = str::from_utf8(names.block(2)?.0).ok()?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_name);
    (kind == HOST_NAME && fits && names.0.is_empty() && extension.0.is_empty()).then(|| name.into())
}

/// What is left of a part.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes, the highest first; at most 3.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What follows a length of so many bytes.
    fn block(&mut self, bytes: usize) -> Option<Self> {
        let length = self.number(bytes)?;
        self.take(length).map(Self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

    use super::*;

    /// What a real client says first.
    fn hello(name: &'static str, versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut out = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut out).unwrap();
        }
        out
    }

    /// The same message in records of at most `size` bytes.
    fn in_records(mut hello: &[u8], size: usize) -> Vec<u8> {
        let mut message = Vec::new();
        while let Some((header, rest)) = hello.split_first_chunk::<5>() {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            message.extend_from_slice(&rest[..length]);
            hello = &rest[length..];
        }
        let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn named(name: &str) -> Hello {
        Hello::Complete(Some(name.into()))
    }

    #[test]
    fn the_names_of_real_clients() {
        let many: Vec<Vec<u8>> = (0..2_000).map(|n| format!("protocol-{n}").into_bytes()).collect();
        let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let both = [&version::TLS13, &version::TLS12];
        for (hello, expected) in [
            (hello("web.example", &[&version::TLS13], &[]), named("web.example")),
            (hello("web.example", &[&version::TLS12], &[b"h2"]), named("web.example")),
            (hello("a.b.c.web.example", &both, &[b"h2", b"http/1.1"]), named("a.b.c.web.example")),
            (hello("10.1.2.3", &[&version::TLS13], &[]), Hello::Complete(None)),
            (hello("::1", &[&version::TLS12], &[]), Hello::Complete(None)),
            (hello("large.example", &[&version::TLS13], &many), named("large.example")),
        ] {
            assert_eq!(read(&hello), expected);
            for size in [1, 2, 3, 100, 16_000] {
                let cut = in_records(&hello, size);
                match cut.len() < MAX_READ {
                    true => assert_eq!(read(&cut), expected, "in records of {size}"),
                    false => assert_eq!(read(&cut[..MAX_READ]), Hello::Other, "far more framing than message"),
                }
            }
            for cut in (0..hello.len()).step_by(1 + hello.len() / 500) {
                assert_eq!(read(&hello[..cut]), Hello::Partial, "cut at {cut}");
            }
            let more = [&hello[..], b"\x14\x03\x03\0\x01\x01 and whatever follows"].concat();
            assert_eq!(read(&more), expected);
        }
    }

    /// A ClientHello with these extensions and nothing else.
    fn made(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let with_length = |part: &[u8]| [&(part.len() as u16).to_be_bytes(), part].concat();
        let extension = |(kind, content): &(u16, &[u8])| [&kind.to_be_bytes()[..], &with_length(content)].concat();
        let all: Vec<u8> = extensions.iter().flat_map(extension).collect();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(if extensions.is_empty() { Vec::new() } else { with_length(&all) });
        let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
        [&[22, 3, 1][..], &with_length(&message)].concat()
    }

    fn names(list: &[(u8, &[u8])]) -> Vec<u8> {
        let with_length = |part: &[u8]| [&(part.len() as u16).to_be_bytes(), part].concat();
        let name = |(kind, name): &(u8, &[u8])| [&[*kind][..], &with_length(name)].concat();
        with_length(&list.iter().flat_map(name).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let one = names(&[(0, b"a.example")]);
        assert_eq!(read(&made(&[])), Hello::Complete(None));
        assert_eq!(read(&made(&[(10, b"\0\x02\0\x1d")])), Hello::Complete(None));
        assert_eq!(read(&made(&[(10, b"xx"), (0, &one)])), named("a.example"));
        assert_eq!(read(&made(&[(0, &names(&[(0, b"a_B.example.")]))])), named("a_B.example."));
        for bad in [
            made(&[(0, &one), (0, &one)]),
            made(&[(0, &names(&[(0, b"a.example"), (0, b"b.example")]))]),
            made(&[(0, &names(&[(1, b"a.example")]))]),
            made(&[(0, &names(&[(0, b"")]))]),
            made(&[(0, &names(&[(0, b"a.example\0")]))]),
            made(&[(0, &names(&[(0, "b\u{fc}cher.example".as_bytes())]))]),
            made(&[(0, &names(&[(0, &[b'a'; 255])]))]),
            made(&[(0, &names(&[]))]),
            made(&[(0, b"")]),
            made(&[(0, &[&one[..], b"x"].concat())]),
        ] {
            assert_eq!(read(&bad), Hello::Other, "{bad:?}");
        }
    }

    #[test]
    fn other_bytes_tell_early() {
        for (bytes, expected) in [
            (&b""[..], Hello::Partial),
            (b"\x16", Hello::Partial),
            (b"\x16\x03", Hello::Partial),
            (b"\x16\x03\x01\x02\0\x01", Hello::Partial),
            (b"\x16\x02", Hello::Other),
            (b"G", Hello::Other),
            (b"\x16\x03\x01\0\0", Hello::Other),
            (b"\x16\x03\x01\xff\xff", Hello::Other),
            (b"\x16\x03\x01\0\x05\x02", Hello::Other),
            (b"\x16\x03\x01\0\x05\x01\xff\xff\xff", Hello::Other),
            (b"\x15\x03\x01\0\x02\x01\0", Hello::Other),
        ] {
            assert_eq!(read(bytes), expected, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
            let _ = server_name(&bytes);
        }

        /// More bytes never make a refused hello a good one.
        #[test]
        fn a_spoilt_hello_has_an_answer(at in 0usize..120, byte in any::<u8>(), cut in 0usize..120) {
            let mut hello = made(&[(10, b"xx"), (0, &names(&[(0, b"web.example")])), (16, b"\0\x03\x02h2")]);
            let (at, cut) = (at % hello.len(), cut % hello.len());
            hello[at] = byte;
            if read(&hello[..cut]) == Hello::Other {
                prop_assert_eq!(read(&hello), Hello::Other);
            }
        }
    }
}
