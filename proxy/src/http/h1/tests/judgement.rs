//! One request, told in HTTP/1 and in HTTP/2, gets one verdict.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use proptest::prelude::*;

use super::super::{Config, ParseReason, head};
use crate::http::{headers, judge};

/// What a client means to ask.
#[derive(Clone, Debug)]
struct Meant {
    method: String,
    /// Path and query; nothing for CONNECT.
    path: Vec<u8>,
    authority: Vec<u8>,
    /// The authority is in the target: absolute-form, and `:authority` beside a Host field.
    host: Option<Vec<u8>>,
    fields: Vec<(String, Vec<u8>)>,
    /// A body whose length is told nowhere: chunked, and DATA.
    streamed: bool,
}

/// What is left of it when it is taken.
#[derive(Debug, PartialEq)]
struct Taken {
    method: Method,
    path: String,
    authority: String,
    fields: HeaderMap,
}

/// As HTTP/1.1 it is bytes.
fn http1(meant: &Meant) -> Result<Taken, ParseReason> {
    let connect = meant.method == "CONNECT";
    let mut text = [meant.method.as_bytes(), b" "].concat();
    if connect {
        text.extend_from_slice(&meant.authority);
    } else {
        if meant.host.is_some() {
            text.extend([b"http://", &meant.authority[..]].concat());
        }
        text.extend_from_slice(&meant.path);
    }
    text.extend([b" HTTP/1.1\r\nhost: ", &meant.host.as_ref().unwrap_or(&meant.authority)[..], b"\r\n"].concat());
    for (name, value) in &meant.fields {
        text.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    text.extend_from_slice(if meant.streamed { b"transfer-encoding: chunked\r\n\r\n" } else { b"\r\n" });
    let head = head::parse_request(&Bytes::from(text), &Config::default())?;
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
    request.headers_mut().remove("transfer-encoding");
    Ok(taken(request))
}

/// As HTTP/2 it is what the `h2` crate makes of its fields.
fn http2(meant: &Meant) -> Result<Taken, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(meant.method.as_bytes()).map_err(|e| said(&e))?;
    *request.version_mut() = http::Version::HTTP_2;
    let mut parts = http::uri::Parts::default();
    let authority = Bytes::from(meant.authority.clone());
    parts.authority = Some(Authority::from_maybe_shared(authority).map_err(|e| said(&e))?);
    if meant.method != "CONNECT" {
        if meant.path.contains(&b'#') {
            return Err("a fragment, of which `http::uri` would make nothing".into());
        }
        parts.scheme = Some(Scheme::HTTP);
        let path = Bytes::from(meant.path.clone());
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path).map_err(|e| said(&e))?);
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|e| said(&e))?;
    let host = meant.host.iter().map(|host| ("host".to_owned(), host.clone()));
    for (name, value) in host.chain(meant.fields.iter().cloned()) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| said(&e))?;
        request.headers_mut().append(name, HeaderValue::from_bytes(&value).map_err(|e| said(&e))?);
    }
    headers::trim_values(request.headers_mut());
    let length = meant.fields.iter().any(|(name, value)| name == "content-length" && value != b"0");
    judge::http2_request(&mut request, meant.streamed || length).map_err(|reason| reason.to_string())?;
    Ok(taken(request))
}

fn taken(mut request: Request<()>) -> Taken {
    let authority = headers::authority(&request).ok().flatten().map(|a| a.to_string()).unwrap_or_default();
    request.headers_mut().remove("host");
    Taken {
        method: request.method().clone(),
        path: request.uri().path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default(),
        authority,
        fields: std::mem::take(request.headers_mut()),
    }
}

fn bytes(regex: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    proptest::string::bytes_regex(regex).unwrap()
}

fn meant() -> impl Strategy<Value = Meant> {
    let method = prop_oneof![
        8 => prop::sample::select(vec!["GET", "POST", "HEAD", "PUT", "OPTIONS", "TRACE", "CONNECT", "PURGE"]).prop_map(String::from),
        1 => prop::sample::select(vec!["get", "Post", "connect", "purge", "M-SEARCH"]).prop_map(String::from),
        1 => "[A-Za-z!#$]{1,12}",
    ];
    let path = prop_oneof![
        6 => bytes("(?-u)/[a-z0-9/.%_~-]{0,12}(\\?[a-z0-9=&/?]{0,8})?"),
        3 => bytes("(?-u)/[\\x00-\\x09\\x0b\\x0c\\x0e-\\xff]{0,6}"),
        2 => bytes("(?-u)[*?/a-z]{1,3}"),
        1 => bytes("(?-u)/[a#?\\\\]{0,4}"),
    ];
    let authority = || {
        prop_oneof![
            6 => prop::sample::select(vec!["web.shop", "web.shop:80", "WEB.shop", "a_b:8080", "[::1]:80", "10.0.0.1"]).prop_map(|a| a.as_bytes().to_vec()),
            2 => prop::sample::select(vec![
                "", "u@web", "a,b", "web:", "web:x", "web:0", "web:99999", "a b", "a/b", "[::1", "[x]", "a%20b", "a(b)", "a;b", "a:1:2",
            ]).prop_map(|a| a.as_bytes().to_vec()),
            1 => bytes("(?-u)[\\x21-\\x7e]{1,6}"),
        ]
    };
    let field = prop_oneof![
        4 => ("x-[a-z0-9_]{1,6}", bytes("(?-u)[\\x00-\\x09\\x0b\\x0c\\x0e-\\xff]{0,6}")),
        4 => ("x-[a-z]{1,4}", bytes("(?-u)[ -~]{0,6}")),
        2 => (prop::sample::select(vec!["content-length"]).prop_map(String::from), bytes("(?-u)(0|3|003|3, 3|\\+3|3x| 3)")),
        1 => (prop::sample::select(vec!["content_length", "transfer_encoding", "cookie"]).prop_map(String::from), bytes("(?-u)[0-9a-z]{1,7}")),
    ];
    let host = prop::option::weighted(0.3, authority());
    let fields = prop::collection::vec(field, 0..4);
    let all = (method, path, authority(), host, fields, prop::bool::weighted(0.2), prop::bool::weighted(0.7));
    all.prop_map(|(method, path, authority, host, fields, streamed, same)| {
        let length = fields.iter().any(|(name, _)| name == "content-length");
        let streamed = streamed && !length && method != "CONNECT"; // whose bytes are a tunnel in HTTP/2
        let host = host.map(|host| if same { authority.clone() } else { host });
        Meant { method, path, authority, host, fields, streamed }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn both_framings_have_one_judgement(meant in meant()) {
        // Absolute-form needs an absolute path, or none, to be one target and not two.
        prop_assume!(meant.host.is_none() || meant.path.starts_with(b"/") || meant.method == "CONNECT");
        match (http1(&meant), http2(&meant)) {
            (Ok(one), Ok(two)) => prop_assert_eq!(one, two),
            (Err(_), Err(_)) => {}
            // What names the host twice is settled in HTTP/1 (RFC 9112 section 3.2.2) and malformed in HTTP/2 (RFC 9113
            // section 8.3.1), and so is a Host without a name (RFC 9112 section 3.3).
            (Ok(_), Err(_)) if meant.host.as_ref().is_some_and(|host| *host != meant.authority) => {}
            (Ok(_), Err(_)) if meant.authority.is_empty() => {}
            (one, two) => prop_assert!(false, "{:?} as HTTP/1, {:?} as HTTP/2", one, two),
        }
    }
}

#[test]
fn what_http1_refuses_http2_refuses_for_the_same_reason() {
    let plain = || Meant {
        method: "GET".into(),
        path: b"/x".to_vec(),
        authority: b"web.shop".to_vec(),
        host: None,
        fields: Vec::new(),
        streamed: false,
    };
    let field = |name: &str, value: &str| vec![(name.to_owned(), value.as_bytes().to_vec())];
    assert_eq!(http1(&plain()).ok(), http2(&plain()).ok());
    for (meant, reason) in [
        (Meant { path: b"/a\\..\\b".to_vec(), ..plain() }, ParseReason::BadTarget),
        (Meant { path: b"/a\xc3\xa9".to_vec(), ..plain() }, ParseReason::BadTarget),
        (Meant { path: b"*".to_vec(), ..plain() }, ParseReason::BadTarget),
        (Meant { path: b"?x=1".to_vec(), ..plain() }, ParseReason::BadTarget),
        (Meant { method: "get".into(), ..plain() }, ParseReason::MethodCase),
        (Meant { method: "CONNECT".into(), ..plain() }, ParseReason::BadTarget),
        (Meant { method: "CONNECT".into(), authority: b"web.shop:0".to_vec(), ..plain() }, ParseReason::BadTarget),
        (Meant { method: "TRACE".into(), streamed: true, ..plain() }, ParseReason::BodyNotAllowed),
        (Meant { host: Some(b"a,b".to_vec()), ..plain() }, ParseReason::BadHost),
        (Meant { host: Some(b"web.shop:x".to_vec()), ..plain() }, ParseReason::BadHost),
        (Meant { fields: field("content_length", "3"), ..plain() }, ParseReason::BadHeaderName),
        (Meant { fields: field("transfer_encoding", "chunked"), ..plain() }, ParseReason::BadHeaderName),
        (Meant { fields: field("content-length", "+3"), ..plain() }, ParseReason::BadLength),
        (
            Meant { fields: [field("content-length", "3"), field("content-length", "4")].concat(), ..plain() },
            ParseReason::RepeatedLength,
        ),
    ] {
        assert_eq!(http1(&meant).err(), Some(reason), "{meant:?}");
        assert_eq!(http2(&meant).err(), Some(reason.to_string()), "{meant:?}");
    }
    // Where only the place differs, the reason may: the target here, Host there.
    for authority in ["u@web.shop", "a(b);c", "web.shop:99999"] {
        let meant = Meant { authority: authority.into(), ..plain() };
        assert!(http1(&meant).is_err() && http2(&meant).is_err(), "{authority}");
    }
}

#[test]
fn what_is_said_in_several_forms_is_settled_in_both_framings() {
    let plain = || Meant {
        method: "POST".into(),
        path: b"/x".to_vec(),
        authority: b"web.shop".to_vec(),
        host: None,
        fields: Vec::new(),
        streamed: false,
    };
    let length = |value: &str| ("content-length".to_owned(), value.as_bytes().to_vec());
    for (meant, settled) in [
        (Meant { authority: b"web.shop:".to_vec(), ..plain() }, plain()),
        (Meant { host: Some(b"web.shop:".to_vec()), ..plain() }, plain()),
        (Meant { path: b"/x?a\\b".to_vec(), ..plain() }, Meant { path: b"/x?a\\b".to_vec(), ..plain() }),
        (Meant { fields: vec![length("3"), length("3")], ..plain() }, Meant { fields: vec![length("3")], ..plain() }),
        (Meant { fields: vec![length("3, 3")], ..plain() }, Meant { fields: vec![length("3")], ..plain() }),
    ] {
        let settled = http1(&settled).unwrap();
        assert_eq!(http1(&meant).as_ref(), Ok(&settled), "{meant:?}");
        assert_eq!(http2(&meant).as_ref(), Ok(&settled), "{meant:?}");
    }
    // Two hosts: the target's counts in HTTP/1, and both are one in HTTP/2.
    for (host, in_http2) in [("other.shop", ParseReason::HostMismatch), ("", ParseReason::BadHost)] {
        let meant = Meant { host: Some(host.as_bytes().to_vec()), ..plain() };
        assert_eq!(http1(&meant).unwrap().authority, "web.shop");
        assert_eq!(http2(&meant).err(), Some(in_http2.to_string()));
    }
}
