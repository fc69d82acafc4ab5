//! A probe by an HTTP request, over plain text or TLS, as kubelet makes it: its defaults, its redirects.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, StatusCode, Uri,
    header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, TRAILER, TRANSFER_ENCODING, USER_AGENT},
};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{MAX_ANSWER, application::Application, with_causes};
use crate::config::{HttpGet, Probe, Scheme};

/// Requests of one probe: the first, and those that redirects ask for. Kubelet's client makes as many.
const MAX_REQUESTS: usize = 10;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    scheme: Scheme,
    port: u16,
    /// Path with query.
    path: String,
    /// Whether a `Host` of the probe still holds: it does until a redirect names a host.
    own_host: bool,
}

/// The status that the application answers in the end.
pub(super) async fn get(application: &Application, probe: &Probe, get: &HttpGet) -> io::Result<StatusCode> {
    let mut target = Target {
        scheme: get.scheme.unwrap_or(Scheme::Http),
        port: probe.port,
        path: path(get.path.as_deref().unwrap_or_default()),
        own_host: true,
    };
    for _ in 0..MAX_REQUESTS {
        let (status, location) = once(application, &target, probe, get).await?;
        let to = location.filter(|_| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
        match to.and_then(|location| target.redirected(&location, application.ip())) {
            Some(next) => target = next,
            None => return Ok(status),
        }
    }
    Err(io::Error::other(format!("it redirects more than {} times", MAX_REQUESTS - 1)))
}

/// One request; the status of its answer, and where that leads.
async fn once(
    application: &Application,
    target: &Target,
    probe: &Probe,
    get: &HttpGet,
) -> io::Result<(StatusCode, Option<String>)> {
    let request = |is_h2| request(application.ip(), target, probe, get, is_h2);
    match target.scheme {
        Scheme::Http => h1(application.connect(target.port).await?, request(false)?).await,
        Scheme::Https => {
            let tls = application.connect_tls(target.port).await?;
            match tls.get_ref().1.alpn_protocol() {
                Some(b"h2") => h2(tls, request(true)?).await,
                _ => h1(tls, request(false)?).await,
            }
        }
    }
}

async fn h1(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> io::Result<(StatusCode, Option<String>)> {
    // Some servers look for names as Go writes them.
    let builder = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = builder.map_err(with_causes)?;
    beside(connection, async { read(sender.send_request(request).await).await }).await
}

async fn h2(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> io::Result<(StatusCode, Option<String>)> {
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.map_err(with_causes)?;
    beside(connection, async { read(sender.send_request(request).await).await }).await
}

/// Does something while a connection is driven. Whatever ends the connection, the work is told.
async fn beside<T>(connection: impl Future, work: impl Future<Output = T>) -> T {
    let driven = async {
        connection.await;
        std::future::pending::<Infallible>().await
    };
    let (driven, work) = (pin!(driven), pin!(work));
    tokio::select! {
        never = driven => match never {},
        done = work => done,
    }
}

/// Reads an answer as far as kubelet does.
async fn read(answer: hyper::Result<Response<Incoming>>) -> io::Result<(StatusCode, Option<String>)> {
    let (head, mut body) = answer.map_err(with_causes)?.into_parts();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.map_err(with_causes)?.data_ref().map_or(0, Bytes::len);
        if bytes >= MAX_ANSWER {
            break;
        }
    }
    let location = head.headers.get(LOCATION).and_then(|location| location.to_str().ok());
    Ok((head.status, location.map(str::to_owned)))
}

fn request(
    ip: IpAddr,
    target: &Target,
    probe: &Probe,
    get: &HttpGet,
    is_h2: bool,
) -> io::Result<Request<Empty<Bytes>>> {
    let mut request = Request::new(Empty::new());
    let mut host = authority(ip, target.port);
    let headers = request.headers_mut();
    let user_agent = if probe.is_hook() { super::HOOK_AGENT } else { super::USER_AGENT };
    for field in get.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&field.name).map_err(with_causes)?;
        let value = HeaderValue::try_from(&field.value).map_err(with_causes)?;
        match name {
            HOST if target.own_host && !field.value.is_empty() => host.clone_from(&field.value),
            // What the framing of a request without a body is, is not the pod's to say.
            HOST | CONTENT_LENGTH | TRANSFER_ENCODING | TRAILER => {}
            name => {
                headers.append(name, value);
            }
        }
    }
    for (name, default) in [(USER_AGENT, user_agent), (ACCEPT, "*/*")] {
        let empty = headers.get(&name).map(HeaderValue::is_empty);
        match empty {
            None => drop(headers.insert(name, HeaderValue::from_static(default))),
            Some(true) => drop(headers.remove(name)),
            Some(false) => {}
        }
    }
    let uri = if is_h2 {
        Uri::builder().scheme("https").authority(host).path_and_query(&*target.path).build()
    } else {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(HOST, HeaderValue::try_from(host).map_err(with_causes)?);
        Uri::builder().path_and_query(&*target.path).build()
    };
    *request.uri_mut() = uri.map_err(with_causes)?;
    Ok(request)
}

impl Target {
    /// Where a redirect leads, if that is this pod: others say nothing of its application, and the redirect is the answer.
    fn redirected(&self, location: &str, ip: IpAddr) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        let absolute = match location.strip_prefix("//") {
            Some(rest) => Some(format!("{}://{rest}", if self.scheme == Scheme::Http { "http" } else { "https" })),
            None => location.split(['/', '?']).next().filter(|first| first.contains(':')).map(|_| location.to_owned()),
        };
        if let Some(absolute) = absolute {
            let uri: Uri = absolute.parse().ok()?;
            let (scheme, port) = match uri.scheme_str()? {
                "http" => (Scheme::Http, 80),
                "https" => (Scheme::Https, 443),
                _ => return None,
            };
            let host: IpAddr = uri.host()?.trim_matches(['[', ']']).parse().ok()?;
            let target = uri.path_and_query().map_or("/", |path| path.as_str());
            let port = uri.port_u16().unwrap_or(port);
            return (host == ip).then(|| Self { scheme, port, path: path(target), own_host: false });
        }
        let (base, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let joined = match location.chars().next() {
            None => self.path.clone(),
            Some('/') => location.to_owned(),
            Some('?') => format!("{base}{location}"),
            Some(_) => format!("{}{location}", base.rsplit_once('/').map_or("/", |(folder, _)| &base[..=folder.len()])),
        };
        Some(Self { path: path(&joined), ..self.clone() })
    }
}

/// An address with a port, as in `Host`.
pub(super) fn authority(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

/// A path with query as a request line takes it: from the root, without fragment, and with other bytes escaped.
fn path(text: &str) -> String {
    let text = text.split('#').next().unwrap_or_default();
    let mut path = String::with_capacity(text.len() + 1);
    if !text.starts_with('/') {
        path.push('/');
    }
    for byte in text.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => path.push_str(&format!("%{byte:02X}")),
            byte if byte.is_ascii_graphic() => path.push(byte.into()),
            byte => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_requests_take_them() {
        for (text, written) in [
            ("", "/"),
            ("healthz", "/healthz"),
            ("/a?b=c%20d", "/a?b=c%20d"),
            ("/a b#c", "/a%20b"),
            ("/é\"{}", "/%C3%A9%22%7B%7D"),
        ] {
            assert_eq!(path(text), written);
            written.parse::<Uri>().unwrap();
        }
    }

    #[test]
    fn redirects_are_followed_within_the_pod() {
        let ip: IpAddr = "10.1.0.7".parse().unwrap();
        let from = Target { scheme: Scheme::Http, port: 8080, path: "/a/b?c".into(), own_host: true };
        let to = |location: &str| {
            let to = from.redirected(location, ip)?;
            Some((to.scheme == Scheme::Https, to.port, to.path, to.own_host))
        };
        let here = |path: &str| Some((false, 8080, path.to_owned(), true));
        for (location, path) in [("/x?y", "/x?y"), ("x", "/a/x"), ("?z", "/a/b?z"), ("", "/a/b?c"), ("#f", "/a/b?c")] {
            assert_eq!(to(location), here(path), "{location}");
        }
        assert_eq!(to("http://10.1.0.7/x"), Some((false, 80, "/x".into(), false)));
        assert_eq!(to("https://10.1.0.7:8443"), Some((true, 8443, "/".into(), false)));
        assert_eq!(to("//10.1.0.7:9/x"), Some((false, 9, "/x".into(), false)));
        for elsewhere in ["http://10.1.0.8/", "https://example.org/", "ftp://10.1.0.7/", "//example.org", "mailto:a"] {
            assert_eq!(to(elsewhere), None, "{elsewhere}");
        }
    }
}
