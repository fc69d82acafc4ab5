//! Callers of every kind, and what each protocol makes of being let in or refused.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use http::Request;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType, string::Ia5String};
use rustls::{ClientConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::super::certificates::{lasting, opened, proving};
use crate::support::{TEST_WAIT, grpc_message};

/// What a caller proves.
pub(super) struct Source {
    pub(super) name: &'static str,
    /// Who it is for a server, in the words of `meshctl authz`; `None`: nobody, as its certificate does not count.
    pub(super) from: Option<&'static str>,
    /// `None`: nothing, in plain text.
    leaf: Option<(rustls::pki_types::CertificateDer<'static>, Vec<u8>)>,
}

/// The protocols, in the order of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    Grpc,
    Upgrade,
    Bytes,
}

impl Protocol {
    pub(super) const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Grpc, Self::Upgrade, Self::Bytes];

    /// What is called in it.
    pub(super) fn service(self) -> &'static str {
        if self == Self::Bytes { "echo.shop:80" } else { "web.shop:80" }
    }

    /// What is asked, in the words of `meshctl authz`.
    pub(super) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Http1 | Self::Http2 => &["GET", "/1k"],
            Self::Grpc => &["grpc", "bench.Echo/Unary"],
            Self::Upgrade => &["GET", "/ws", "-H", "connection:upgrade", "-H", "upgrade:websocket"],
            Self::Bytes => &["tcp"],
        }
    }
}

/// What became of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    LetIn,
    /// Refused by policy, in the protocol's own words.
    Denied,
    /// No connection came about.
    Closed,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(super) const RIGHT: &str = "spiffe://cluster.local/ns/shop/sa/right";
pub(super) const WRONG: &str = "spiffe://cluster.local/ns/shop/sa/wrong";

/// The right one, the wrong one, one without identity; and six whose certificates do not count, so that nothing lets them in.
pub(super) fn sources(own: &Issuer<'_, KeyPair>) -> [Source; 9] {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let foreign = Issuer::new(ca, KeyPair::generate().unwrap());
    let hour = std::time::Duration::from_secs(3600);
    let good = |name, uri: &'static str| Source { name, from: Some(uri), leaf: Some(der(lasting(uri, hour, own))) };
    let odd =
        |name, uris: &[&str], is_expired| Source { name, from: None, leaf: Some(der(leaf(uris, is_expired, own))) };
    let foreign = Source { name: "self-signed", from: None, leaf: Some(der(leaf(&[RIGHT], false, &foreign))) };
    [
        good("right", RIGHT),
        good("wrong", WRONG),
        Source { name: "unmeshed", from: Some("none"), leaf: None },
        Source { from: None, ..good("another trust domain", "spiffe://evil.example/ns/shop/sa/right") },
        odd("expired", &[RIGHT], true),
        foreign,
        odd("wrong SAN", &["spiffe://cluster.local/right"], false),
        odd("two SANs", &[RIGHT, WRONG], false),
        odd("NUL in SAN", &["spiffe://cluster.local/ns/shop/sa/right\0.evil"], false),
    ]
}

fn der(
    (cert, key): (rustls::pki_types::CertificateDer<'static>, PrivateKeyDer<'static>),
) -> (rustls::pki_types::CertificateDer<'static>, Vec<u8>) {
    (cert, key.secret_der().to_vec())
}

fn leaf(
    uris: &[&str],
    is_expired: bool,
    issuer: &Issuer<'_, KeyPair>,
) -> (rustls::pki_types::CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI(Ia5String::try_from(*uri).unwrap())).collect();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    if is_expired {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    }
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    (cert.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

impl Source {
    fn config(&self, alpn: &[u8]) -> Option<Arc<ClientConfig>> {
        let (cert, key) = self.leaf.as_ref()?;
        Some(proving(cert.clone(), PrivateKeyDer::try_from(key.clone()).unwrap(), alpn))
    }

    async fn connect(&self, to: SocketAddr, alpn: &[u8]) -> Result<Box<dyn Io>> {
        Ok(match self.config(alpn) {
            Some(config) => Box::new(opened(to, config).await?),
            None => Box::new(TcpStream::connect(to).await?),
        })
    }

    /// Calls a server in a protocol.
    pub(super) async fn call(&self, to: SocketAddr, protocol: Protocol) -> Verdict {
        let asked = async {
            match protocol {
                Protocol::Http1 => {
                    self.http1(to, "GET /1k HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await
                }
                Protocol::Upgrade => {
                    let upgrade =
                        "GET /ws HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                    self.http1(to, upgrade).await
                }
                Protocol::Http2 => self.http2(to, false).await,
                Protocol::Grpc => self.http2(to, true).await,
                Protocol::Bytes => self.bytes(to).await,
            }
        };
        // A handshake that fails, or a connection that is closed before anything came of it.
        timeout(TEST_WAIT, asked).await.expect("an answer or an end").unwrap_or(Verdict::Closed)
    }

    async fn http1(&self, to: SocketAddr, request: &str) -> Result<Verdict> {
        let mut io = self.connect(to, b"mesh-h1").await?;
        io.write_all(request.as_bytes()).await?;
        let mut head = BytesMut::new();
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            if io.read_buf(&mut head).await? == 0 {
                bail!("closed after {head:?}");
            }
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
        Ok(match status {
            200 | 101 => Verdict::LetIn,
            403 => {
                assert!(head.contains("mesh-proxy-error: denied") && head.contains("mesh-decision-id: "), "{head}");
                assert!(!head.contains("authorizationpolicy"), "{head}");
                Verdict::Denied
            }
            _ => bail!("{head}"),
        })
    }

    async fn http2(&self, to: SocketAddr, is_grpc: bool) -> Result<Verdict> {
        let io = self.connect(to, b"mesh-h2").await?;
        let (mut send, connection) = h2::client::handshake(io).await?;
        let driver = tokio::spawn(connection);
        let answer = if is_grpc {
            let request = Request::post("http://web.shop/bench.Echo/Unary").header("content-type", "application/grpc");
            let (answer, mut body) = send.send_request(request.header("te", "trailers").body(())?, false)?;
            body.send_data(grpc_message(b"hello"), true)?;
            answer
        } else {
            send.send_request(Request::get("http://web.shop/1k").body(())?, true)?.0
        };
        let (head, mut body) = answer.await?.into_parts();
        while let Some(data) = body.data().await {
            let data: Bytes = data?;
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await?;
        driver.abort();
        let grpc = trailers.as_ref().and_then(|all| all.get("grpc-status")).or_else(|| head.headers.get("grpc-status"));
        let is_ours = head.headers.get("mesh-proxy-error").is_some_and(|error| error == "denied");
        Ok(match (head.status.as_u16(), grpc.and_then(|code| code.to_str().ok())) {
            (200, None | Some("0")) => Verdict::LetIn,
            (403, None) | (200, Some("7")) if is_ours && head.headers.contains_key("mesh-decision-id") => {
                Verdict::Denied
            }
            other => bail!("{other:?} {:?}", head.headers),
        })
    }

    async fn bytes(&self, to: SocketAddr) -> Result<Verdict> {
        let mut io = self.connect(to, b"mesh-tcp").await?;
        io.write_all(b"\x01probe").await?;
        let mut back = [0; 6];
        Ok(match io.read_exact(&mut back).await {
            Ok(_) if &back == b"\x01probe" => Verdict::LetIn,
            Ok(_) => bail!("{back:?}"),
            // TLS came about, so it is the policy; in plain text nothing else could have closed it.
            Err(_) => Verdict::Denied,
        })
    }
}
