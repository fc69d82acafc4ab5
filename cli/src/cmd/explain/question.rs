//! What is asked: a request or a connection, as the command line or a file of tests writes it.

use anyhow::{Context, anyhow, bail, ensure};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use mesh_policy::RequestFacts;

/// A request or a connection, and what it is sent to.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// `host:port` that is called.
    pub authority: String,
    /// What is sent there.
    pub asked: Asked,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// A request that the proxy sees.
    Request(Request),
    /// A connection whose bytes are passed as they are.
    Connection {
        /// The name that its ClientHello asks for.
        sni: Option<String>,
    },
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The method.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: String,
    /// The host without port: that of the URL, or of a `host` header.
    pub host: String,
    /// The path.
    pub path: String,
    /// The query.
    pub query: Option<String>,
    /// The headers, without `host`.
    pub headers: HeaderMap,
}

impl Request {
    /// What is decided by.
    pub(crate) fn facts(&self) -> RequestFacts<'_> {
        RequestFacts {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }
}

/// The content type that makes a request one of gRPC.
const GRPC: &str = "application/grpc";

impl Question {
    /// Reads the words of a command line: `URL`, `METHOD URL`, or `grpc AUTHORITY SERVICE/METHOD`.
    pub(crate) fn from_words(words: &[String], headers: HeaderMap) -> anyhow::Result<Self> {
        match words {
            [url] => Self::new("GET", url, headers),
            [grpc, authority, call] if grpc.eq_ignore_ascii_case("grpc") => Self::grpc(authority, call, headers),
            [method, url] if !method.eq_ignore_ascii_case("grpc") => Self::new(method, url, headers),
            _ => bail!(
                "what is asked is not understood; write METHOD URL, as in: GET http://web.shop/cart, or: grpc web.shop \
                 shop.Cart/Add, or a URL of a connection, as in: tls://web.shop:443 or tcp://db.shop:5432"
            ),
        }
    }

    /// A request, or for `tls://` and `tcp://` a connection.
    pub(crate) fn new(method: &str, url: &str, mut headers: HeaderMap) -> anyhow::Result<Self> {
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri =
            full.parse().with_context(|| format!("{url:?} is not a URL such as http://web.shop/cart?x=1"))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| anyhow!("{url:?} names no host"))?;
        let scheme = uri.scheme_str().unwrap_or("http").to_ascii_lowercase();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        ensure!(
            !authority.contains('@'),
            "{url:?} names a user, which no proxy takes; leave out what stands before the @"
        );
        let port = match (port_behind(authority, host)?, scheme.as_str()) {
            (Some(port), _) => port,
            (None, "http") => 80,
            (None, "https" | "tls") => 443,
            (None, "tcp") => bail!("{url:?} needs a port, as in tcp://db.shop:5432"),
            (None, _) => bail!("{url:?}: the scheme is {scheme}; use http, https, tls or tcp"),
        };
        let authority = format!("{host}:{port}");
        let asked = match scheme.as_str() {
            "http" | "https" => {
                let method = Method::from_bytes(method.as_bytes())
                    .map_err(|_| anyhow!("{method:?} is not a method; write one such as GET"))?;
                let target: Uri = uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
                if let Some((reason, help)) = mesh_proxy::refusal(&method, &target) {
                    bail!("every proxy answers {method} {url} with 400 ({reason}): {help}");
                }
                let given = headers.remove(header::HOST);
                let given = given.map(|given| host_of(&given)).transpose()?;
                Asked::Request(Request {
                    method,
                    scheme,
                    host: given.unwrap_or_else(|| host.to_owned()),
                    path: uri.path().to_owned(),
                    query: uri.query().map(str::to_owned),
                    headers,
                })
            }
            "tls" => {
                let asked = uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("sni=")));
                Asked::Connection { sni: Some(asked.unwrap_or(host).to_owned()) }
            }
            "tcp" => Asked::Connection { sni: None },
            other => bail!("{url:?}: the scheme is {other}; use http, https, tls or tcp"),
        };
        Ok(Self { authority, asked })
    }

    /// A call of gRPC.
    pub(crate) fn grpc(authority: &str, call: &str, mut headers: HeaderMap) -> anyhow::Result<Self> {
        let call = call.strip_prefix('/').unwrap_or(call);
        ensure!(
            call.split_once('/').is_some_and(|(service, method)| !service.is_empty() && !method.is_empty()),
            "{call:?} is not a call; write SERVICE/METHOD, as in shop.Cart/Add"
        );
        let base = authority.trim_end_matches('/');
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(GRPC));
        Self::new("POST", &format!("{base}/{call}"), headers)
    }

    /// The host that is called, without port.
    pub(crate) fn host(&self) -> &str {
        self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host)
    }
}

/// The host of a `host` header, without its port.
fn host_of(value: &HeaderValue) -> anyhow::Result<String> {
    let text = value.to_str().map_err(|_| anyhow!("the header host has a character that no host has"))?;
    let end = match text.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(end) => end + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let host = &text[..end];
    port_behind(text, host)?;
    Ok(host.to_owned())
}

/// The port that an authority names behind its host, if it does. The library that reads URLs passes over one that is none.
fn port_behind(authority: &str, host: &str) -> anyhow::Result<Option<u16>> {
    let rest = authority.strip_prefix(host).unwrap_or_default();
    match rest.strip_prefix(':') {
        None | Some("") if rest.is_empty() || rest == ":" => Ok(None),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Ok(port.parse().ok())
        }
        _ => bail!("{authority:?}: {:?} is no port; write one from 1 to 65535", rest.trim_start_matches(':')),
    }
}

/// Reads `NAME:VALUE`, as curl takes it.
pub(crate) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME:VALUE, as in x-user:7")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| format!("{name:?} is no header name"))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| format!("{value:?} is no header value"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn read(words: &[&str]) -> anyhow::Result<String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("other.test:81"));
        let question = Question::from_words(&words, headers)?;
        Ok(match question.asked {
            Asked::Request(r) => {
                let query = r.query.map_or(String::new(), |query| format!("?{query}"));
                format!("{} {} {} {}{query}", question.authority, r.method, r.host, r.path)
            }
            Asked::Connection { sni } => format!("{} {}", question.authority, sni.unwrap_or_default()),
        })
    }

    #[test]
    fn what_is_asked_is_read() {
        for (words, expected) in [
            (&["http://web.shop"][..], "web.shop:80 GET other.test /"),
            (&["http://web.shop:/"], "web.shop:80 GET other.test /"),
            (&["purge", "http://web.shop/%C3%BC"], "web.shop:80 purge other.test /%C3%BC"),
            (&["POST", "https://web.shop/a/b?x=1&y#z"], "web.shop:443 POST other.test /a/b?x=1&y"),
            (&["GET", "web.shop:8080/a"], "web.shop:8080 GET other.test /a"),
            (&["GET", "http://[fd00::1]:80/"], "[fd00::1]:80 GET other.test /"),
            (&["grpc", "web.shop:90", "shop.Cart/Add"], "web.shop:90 POST other.test /shop.Cart/Add"),
            (&["gRPC", "http://web.shop/", "/shop.Cart/Add"], "web.shop:80 POST other.test /shop.Cart/Add"),
            (&["tls://web.shop?sni=a.test"], "web.shop:443 a.test"),
            (&["tls://web.shop:8443"], "web.shop:8443 web.shop"),
            (&["tcp://db.shop:5432"], "db.shop:5432 "),
        ] {
            assert_eq!(read(words).unwrap(), expected, "{words:?}");
        }
    }

    #[test]
    fn what_is_not_understood_says_what_to_write() {
        for (words, said) in [
            (&[][..], "METHOD URL"),
            (&["grpc", "web.shop"], "METHOD URL"),
            (&["grpc", "web.shop", "Add"], "SERVICE/METHOD"),
            (&["GET", "ftp://web.shop/"], "use http, https, tls or tcp"),
            (&["tcp://db.shop"], "needs a port"),
            (&["G T", "http://web.shop/"], "is not a method"),
            (&["GET", "http:///a"], "http:///a"),
            (&["GET", "http://web.shop/a b"], "is not a URL"),
            (&["http://web.shop:0/"], "no port"),
            (&["http://web.shop:65536/"], "\"65536\" is no port"),
            (&["http://web.shop:abc/"], "no port"),
            (&["http://web.shop:-1/"], "no port"),
            (&["http://web.shop:+80/"], "no port"),
            (&["https://[fd00::1]:70000/"], "no port"),
            (&["tls://web.shop:65536"], "no port"),
            (&["tcp://web.shop:65536"], "no port"),
            (&["grpc", "web.shop:65536", "shop.Cart/Add"], "no port"),
            (&["http://me@web.shop/"], "names a user"),
            (&["get", "http://web.shop/"], "400 (method-case)"),
            (&["Post", "http://web.shop/"], "400 (method-case)"),
            (&["GET", "http://web.shop/ü"], "400 (bad-target)"),
            (&["CONNECT", "http://web.shop/"], "400 (bad-target)"),
        ] {
            let error = format!("{:#}", read(words).unwrap_err());
            assert!(error.contains(said), "{words:?}: {error}");
        }
        assert!(host_of(&HeaderValue::from_static("web.shop:65536")).is_err());
        assert_eq!(host_of(&HeaderValue::from_static("[::1]:80")).unwrap(), "[::1]");
        assert!(header("x").is_err() && header("a b:c").is_err() && header("a:\u{1}").is_err());
        assert_eq!(header("X-A: b:c").unwrap().1, "b:c");
    }
}
