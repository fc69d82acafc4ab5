//! Raw requests that parsers are known to read differently, each with what must happen to it.

use super::{raw_exchange, run};

/// Accepted (the requests that the service saw) or refused (status and reason).
enum Expect {
    Seen(&'static [&'static str]),
    Refused(u16, &'static str),
}
use Expect::{Refused, Seen};

const H: &str = "Host: a\r\n\r\n";

/// `{H}` stands for a Host header and the empty line.
const CORPUS: &[(&str, Expect)] = &[
    // Accepted.
    ("GET / HTTP/1.1\r\n{H}", Seen(&["GET / [] 0"])),
    ("\r\nGET / HTTP/1.1\r\n{H}", Seen(&["GET / [] 0"])),
    ("\n\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n\nGET /2 HTTP/1.1\r\n{H}", Seen(&["GET / [] 0", "GET /2 [] 0"])),
    ("GET / HTTP/1.0\r\n\r\n", Seen(&["GET / [] 0"])),
    ("GET /a?b=c&d HTTP/1.1\r\nHost:a:80  \r\n\r\n", Seen(&["GET /a?b=c&d [] 0"])),
    ("GET http://a/x HTTP/1.1\r\nHost: A:80\r\n\r\n", Seen(&["GET http://a/x [] 0"])),
    ("OPTIONS * HTTP/1.1\r\n{H}", Seen(&["OPTIONS * [] 0"])),
    ("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", Seen(&["GET / [] 0"])),
    ("POST / HTTP/1.1\r\nContent-Length: 3\r\nHost: a\r\n\r\nabc", Seen(&["POST / [abc] 0"])),
    ("POST / HTTP/1.1\r\nContent-Length: 003\r\nHost: a\r\n\r\nabc", Seen(&["POST / [abc] 0"])),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n{H}3\r\nabc\r\n0\r\n\r\n", Seen(&["POST / [abc] 0"])),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{H}3;x=y\r\nabc\r\n00\r\nx: y\r\n\r\n",
        Seen(&["POST / [abc] 1"]),
    ),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{H}3 \t;x=y\r\nabc\r\n0\r\n\r\n", Seen(&["POST / [abc] 0"])),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{H}0\r\ncontent-length: 5\r\n\r\n", Seen(&["POST / [] 0"])),
    ("GET / HTTP/1.1\r\n{H}GET /2 HTTP/1.1\r\n{H}", Seen(&["GET / [] 0", "GET /2 [] 0"])),
    ("PURGE //x//y HTTP/1.1\r\n{H}", Seen(&["PURGE //x//y [] 0"])),
    ("GET / HTTP/1.1\r\nX: a\u{e9}\tb\r\n{H}", Seen(&["GET / [] 0"])),
    ("GET / HTTP/1.1\r\nX:\r\n{H}", Seen(&["GET / [] 0"])),
    // Length against coding.
    (
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n{H}",
        Refused(400, "length-and-transfer-encoding"),
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n{H}",
        Refused(400, "length-and-transfer-encoding"),
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: x\r\nContent-Length: 0\r\n{H}",
        Refused(400, "length-and-transfer-encoding"),
    ),
    ("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n{H}abc", Seen(&["POST / [abc] 0"])),
    ("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n{H}abc", Refused(400, "repeated-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n{H}abc", Seen(&["POST / [abc] 0"])),
    ("POST / HTTP/1.1\r\nContent-Length: 3, 4\r\n{H}abc", Refused(400, "repeated-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: 3,\r\n{H}abc", Refused(400, "repeated-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: x, x\r\n{H}abc", Refused(400, "bad-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: +3\r\n{H}abc", Refused(400, "bad-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: -3\r\n{H}abc", Refused(400, "bad-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: 0x3\r\n{H}abc", Refused(400, "bad-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: 3 \t4\r\n{H}abc", Refused(400, "bad-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length:\r\n{H}abc", Refused(400, "bad-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: 3.0\r\n{H}abc", Refused(400, "bad-content-length")),
    ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n{H}", Refused(400, "bad-content-length")),
    ("POST / HTTP/1.1\r\nContent_Length: 3\r\n{H}abc", Refused(400, "bad-header-name")),
    ("POST / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n{H}", Refused(400, "bad-header-name")),
    // Transfer codings.
    ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n{H}", Refused(501, "unsupported-transfer-encoding")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n{H}", Refused(501, "unsupported-transfer-encoding")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n{H}", Refused(501, "unsupported-transfer-encoding")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n{H}", Refused(400, "bad-transfer-encoding")),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n{H}",
        Refused(400, "bad-transfer-encoding"),
    ),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n{H}", Refused(400, "bad-transfer-encoding")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n{H}", Refused(400, "bad-transfer-encoding")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked;q=1\r\n{H}", Refused(400, "bad-transfer-encoding")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked,\r\n{H}", Refused(400, "bad-transfer-encoding")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding:\r\n{H}", Refused(400, "bad-transfer-encoding")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n{H}", Refused(400, "bad-header-value")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n{H}", Refused(400, "folded-header")),
    ("POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n{H}", Refused(400, "space-before-colon")),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n{H}", Refused(400, "transfer-encoding-in-http10")),
    // Lines and names.
    ("GET / HTTP/1.1\nHost: a\n\n", Refused(400, "bare-lf")),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", Refused(400, "bare-lf")),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", Refused(400, "bare-lf")),
    ("GET / HTTP/1.1\r\nX: a\rContent-Length: 3\r\n{H}", Refused(400, "bare-cr")),
    ("GET / HTTP/1.1\rX: y\r\n{H}", Refused(400, "bare-cr")),
    ("\rGET / HTTP/1.1\r\n{H}", Refused(400, "bare-cr")),
    ("\r\r\nGET / HTTP/1.1\r\n{H}", Refused(400, "bare-cr")),
    // More empty lines than are skipped.
    ("\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\nGET / HTTP/1.1\r\n{H}", Refused(400, "bad-start-line")),
    // Refused at the end of its first line: what is no HTTP may never send an empty one.
    ("HELO mail.example\r\n", Refused(400, "bad-start-line")),
    ("GET /0.9\n", Refused(400, "bad-start-line")),
    (" GET / HTTP/1.1\r\n{H}", Refused(400, "bad-start-line")),
    ("GET / HTTP/1.1\r\n X: y\r\n{H}", Refused(400, "folded-header")),
    ("GET / HTTP/1.1\r\nX: y\r\n\tz\r\n{H}", Refused(400, "folded-header")),
    ("GET / HTTP/1.1\r\nX y\r\n{H}", Refused(400, "bad-header-name")),
    ("GET / HTTP/1.1\r\n: y\r\n{H}", Refused(400, "bad-header-name")),
    ("GET / HTTP/1.1\r\nX\x00: y\r\n{H}", Refused(400, "bad-header-name")),
    ("GET / HTTP/1.1\r\nX\u{e9}: y\r\n{H}", Refused(400, "bad-header-name")),
    ("GET / HTTP/1.1\r\nX: a\x00b\r\n{H}", Refused(400, "bad-header-value")),
    ("GET / HTTP/1.1\r\nX: a\x7fb\r\n{H}", Refused(400, "bad-header-value")),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", Refused(400, "missing-host")),
    ("GET / HTTP/1.1\r\nHost: a\r\n{H}", Refused(400, "repeated-host")),
    ("GET / HTTP/1.0\r\nHost: b\r\n{H}", Refused(400, "repeated-host")),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refused(400, "bad-host")),
    ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Refused(400, "bad-host")),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refused(400, "bad-host")),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Seen(&["GET / [] 0"])),
    ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Seen(&["GET / [] 0"])),
    ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Refused(400, "bad-host")),
    ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Refused(400, "bad-host")),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused(400, "bad-host")),
    ("GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", Refused(400, "bad-host")),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Refused(400, "bad-host")),
    ("GET http://b/ HTTP/1.1\r\n{H}", Seen(&["GET http://b/ [] 0"])),
    ("GET http://a:81/ HTTP/1.1\r\n{H}", Seen(&["GET http://a:81/ [] 0"])),
    ("GET http://a:/ HTTP/1.1\r\n{H}", Seen(&["GET http://a/ [] 0"])),
    ("GET http://b/ HTTP/1.1\r\nHost: x y\r\n\r\n", Refused(400, "bad-host")),
    ("OPTIONS http://a HTTP/1.1\r\n{H}", Seen(&["OPTIONS http://a* [] 0"])),
    ("OPTIONS http://a/ HTTP/1.1\r\n{H}", Seen(&["OPTIONS http://a/ [] 0"])),
    ("GET http://u@a/ HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    // Request lines.
    ("get / HTTP/1.1\r\n{H}", Refused(400, "method-case")),
    ("Post / HTTP/1.1\r\n{H}", Refused(400, "method-case")),
    ("G@T / HTTP/1.1\r\n{H}", Refused(400, "bad-method")),
    ("GET  / HTTP/1.1\r\n{H}", Refused(400, "bad-start-line")),
    ("GET /a b HTTP/1.1\r\n{H}", Refused(400, "bad-start-line")),
    ("GET /\u{e9} HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("GET /a#b HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("GET /a\\b HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("GET /a\\b?c HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("GET /a?b\\c`^{|} HTTP/1.1\r\n{H}", Seen(&["GET /a?b\\c`^{|} [] 0"])),
    ("GET a HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("GET * HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("GET ftp://a/ HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("CONNECT / HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("CONNECT a HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("CONNECT a: HTTP/1.1\r\n{H}", Refused(400, "bad-target")),
    ("CONNECT a:1 HTTP/1.1\r\nContent-Length: 3\r\n{H}", Refused(400, "body-not-allowed")),
    ("TRACE / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{H}", Refused(400, "body-not-allowed")),
    ("GET / HTTP/1.2\r\n{H}", Refused(505, "bad-version")),
    ("GET / HTTP/2.0\r\n{H}", Refused(505, "bad-version")),
    ("PRI * HTTP/2.0\r\n\r\n", Refused(505, "bad-version")),
    ("GET / HTTQ/1.1\r\n{H}", Refused(400, "bad-start-line")),
    ("GET / http/1.1\r\n{H}", Refused(400, "bad-start-line")),
    ("GET /\r\n\r\n", Refused(400, "bad-start-line")),
];

fn raw(text: &str) -> Vec<u8> {
    // U+00E9 stands for one raw byte above ASCII.
    text.replace("{H}", H).chars().map(|char| u32::from(char) as u8).collect()
}

fn check(input: &[u8], expect: &Expect, answer: &str, seen: &[String], context: &str) {
    let input = String::from_utf8_lossy(input);
    match expect {
        Seen(requests) => {
            assert_eq!(seen, *requests, "{context}: {input:?} was answered {answer:?}");
            assert_eq!(answer.matches("200 OK").count(), requests.len(), "{context}: {input:?}");
        }
        Refused(status, reason) => {
            assert_eq!(seen, &[] as &[String], "{context}: {input:?}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{context}: {input:?} got {answer:?}");
            assert!(answer.contains(&format!("mesh-proxy-error: {reason}\r\n")), "{context}: {input:?} got {answer:?}");
            assert!(answer.contains("connection: close\r\n"), "{context}: {input:?} got {answer:?}");
        }
    }
}

#[test]
fn each_request_is_accepted_or_refused_as_told() {
    assert!(CORPUS.len() >= 60);
    for (text, expect) in CORPUS {
        let input = raw(text);
        let (answer, seen, result) = run(raw_exchange(&[&input]));
        check(&input, expect, &answer, &seen, "whole");
        assert_eq!(result.is_ok(), matches!(expect, Seen(_)), "{text:?}: {result:?}");
    }
}

#[test]
fn a_request_means_the_same_however_it_is_cut() {
    for (text, expect) in CORPUS {
        let input = raw(text);
        for at in 1..input.len() {
            let (first, second) = input.split_at(at);
            let (answer, seen, _) = run(raw_exchange(&[first, second]));
            check(&input, expect, &answer, &seen, "cut");
        }
    }
}

#[test]
fn malformed_chunks_end_the_body_with_an_error() {
    let bad = [
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "\r\n",
        ";x\r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "10000000000000000\r\nabc",
        "-1\r\nabc\r\n0\r\n\r\n",
        "0\r\nx y\r\n\r\n",
        "0\r\nx: y\n\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "3\r\nab",
        "3\r\nabc\r\n0\r\n",
    ];
    for body in bad {
        let input = [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", body.as_bytes()].concat();
        let (answer, seen, _) = run(raw_exchange(&[&input]));
        assert_eq!(seen.len(), 1, "{body:?}");
        assert!(seen[0].contains("error: "), "{body:?} was taken as {seen:?}");
        assert!(answer.contains("connection: close"), "{body:?}: {answer}");
    }
}

#[test]
fn limits_have_their_own_statuses() {
    let many = |count: usize| {
        let fields: String = (0..count - 1).map(|at| format!("x-{at}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\n{fields}Host: a\r\n\r\n")
    };
    let wide = |size: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "v".repeat(size));
    let long = |size: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(size));
    let cases = [
        (many(1_000), "200"),
        (many(1_001), "431"),
        (wide(60 * 1024), "200"),
        (wide(128 * 1024), "431"),
        (long(60 * 1024), "200"),
        (long(65_534), "414"),
        (long(128 * 1024), "414"),
    ];
    for (input, status) in cases {
        let pieces: Vec<&[u8]> = input.as_bytes().chunks(1_400).collect();
        for cut in [&pieces[..], &[input.as_bytes()]] {
            let (answer, _, _) = run(raw_exchange(cut));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{} bytes: {answer:.80}", input.len());
        }
    }
    let extension = format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(20_000));
    let input = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{extension}");
    let (_, seen, _) = run(raw_exchange(&[input.as_bytes()]));
    assert!(seen[0].contains("chunk-extension"), "{seen:?}");
}
