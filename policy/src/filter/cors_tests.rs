//! Tests of `cors.rs`: origins by the text of the specification, preflights and responses by the Fetch standard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

#[test]
fn origins() {
    for (pattern, origin, expected) in [
        ("*", "https://a.example", true),
        ("*", "null", true),
        ("https://a.example", "https://a.example", true),
        ("https://a.example", "https://A.example", true),
        ("https://a.example", "https://a.example:443", true),
        ("https://a.example", "https://a.example:8443", false),
        ("https://a.example", "http://a.example", false),
        ("https://a.example", "https://a.example.evil", false),
        ("http://a.example:8080", "http://a.example:8080", true),
        ("http://a.example:80", "http://a.example", true),
        ("https://*.example.com", "https://a.example.com", true),
        ("https://*.example.com", "https://a.b.example.com", true),
        ("https://*.example.com", "https://example.com", false),
        ("https://*.example.com", "https://.example.com", false),
        ("https://*", "https://anything.at.all", true),
        ("https://*", "http://anything", false),
        ("https://a.example", "null", false),
        ("http://[::1]:80", "http://[::1]", true),
    ] {
        assert_eq!(OriginMatch::parse(pattern).unwrap().matches(origin), expected, "{pattern} {origin}");
        let shown = OriginMatch::parse(pattern).unwrap();
        assert_eq!(OriginMatch::parse(&shown.to_string()), Ok(shown), "{pattern}");
    }
    for text in ["", "a.example", "ftp://a", "https://", "https://a.*.com", "https://a:0", "https://a:x", "https://a/b"]
    {
        assert!(OriginMatch::parse(text).is_err(), "{text}");
    }
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn listed(text: &'static str) -> Wildcard {
    Wildcard::Listed(HeaderValue::from_static(text))
}

const PREFLIGHT: [(&str, &str); 3] = [
    ("origin", "https://shop.example"),
    ("access-control-request-method", "PUT"),
    ("access-control-request-headers", "x-a, x-b"),
];

fn cors(origins: &[&str]) -> Cors {
    Cors {
        allow_origins: origins.iter().map(|o| OriginMatch::parse(o).unwrap()).collect(),
        max_age: 5,
        ..Cors::default()
    }
}

#[test]
fn a_preflight_is_an_options_with_both_headers() {
    let (all, first, rest) = (headers(&PREFLIGHT), headers(&PREFLIGHT[..1]), headers(&PREFLIGHT[1..]));
    let facts = |method, headers| RequestFacts { method, host: "a", path: "/", query: None, headers };
    assert!(Cors::is_preflight(&facts(&Method::OPTIONS, &all)));
    assert!(!Cors::is_preflight(&facts(&Method::GET, &all)));
    assert!(!Cors::is_preflight(&facts(&Method::OPTIONS, &first)));
    assert!(!Cors::is_preflight(&facts(&Method::OPTIONS, &rest)));
}

#[test]
fn preflights() {
    let with =
        Cors { allow_methods: listed("PUT, DELETE"), allow_headers: listed("x-a"), ..cors(&["https://shop.example"]) };
    assert_eq!(
        with.preflight(&headers(&PREFLIGHT)),
        headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("vary", "origin"),
            ("access-control-allow-methods", "PUT, DELETE"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-max-age", "5"),
        ])
    );
    assert!(cors(&["https://other.example"]).preflight(&headers(&PREFLIGHT)).is_empty());
    let any = Cors { allow_methods: Wildcard::Any, allow_headers: Wildcard::Any, max_age: 60, ..cors(&["*"]) };
    assert_eq!(
        any.preflight(&headers(&PREFLIGHT)),
        headers(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "*"),
            ("access-control-allow-headers", "*"),
            ("access-control-max-age", "60"),
        ])
    );
    // With credentials no `*` is ever sent.
    let secret = Cors { allow_credentials: true, ..any };
    assert_eq!(
        secret.preflight(&headers(&PREFLIGHT)),
        headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("vary", "origin"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "PUT"),
            ("access-control-allow-headers", "x-a, x-b"),
            ("access-control-max-age", "60"),
        ])
    );
    assert!(!secret.preflight(&headers(&PREFLIGHT[..2])).contains_key("access-control-allow-headers"));
}

#[test]
fn responses() {
    let origin = HeaderValue::from_static("https://shop.example");
    let elsewhere = cors(&["https://a.b"]);
    let after = |cors: &Cors, origin: Option<&HeaderValue>| {
        let own = "the server's own";
        let mut all = headers(&[("access-control-allow-origin", own), ("access-control-allow-credentials", own)]);
        cors.apply_response(&mut all, origin);
        all
    };
    let with = Cors { expose_headers: listed("x-total"), ..cors(&["https://*.example"]) };
    assert_eq!(
        after(&with, Some(&origin)),
        headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("vary", "origin"),
            ("access-control-expose-headers", "x-total"),
        ])
    );
    // No cross-origin request: nothing to say. An origin that is not allowed is told nothing, whatever the server says.
    assert_eq!(after(&with, None).len(), 2);
    assert_eq!(after(&elsewhere, Some(&origin)), headers(&[]));
    let all = Cors { expose_headers: Wildcard::Any, ..cors(&["*"]) };
    assert_eq!(after(&all, Some(&origin))["access-control-expose-headers"], "*");
    let secret = Cors { allow_credentials: true, ..all };
    assert!(!after(&secret, Some(&origin)).contains_key("access-control-expose-headers"));
}
