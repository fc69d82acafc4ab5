//! Every way in which a server may read a path.
//!
//! `/a%2fb`, `/a\b`, `/a;x/b` and `/a%252fb` are `/a/b` to some servers and not to others, and `/a%3Ab` is `/a:b` to most. The
//! server behind a port is unknown, so an ALLOW must match in each reading, and a DENY in one. The request itself is forwarded unchanged.

use std::borrow::Cow;

use smallvec::{SmallVec, smallvec};

use crate::route::settle::{decode_unreserved, settle};

/// The readings of one path: nearly always one, never more than 64.
pub(super) type Readings<'r> = SmallVec<[Cow<'r, str>; 1]>;

/// Every reading of a path, each once.
pub(super) fn readings(path: &str) -> Readings<'_> {
    if let Cow::Borrowed(path) = settle(path)
        && !path.bytes().any(|byte| matches!(byte, b'%' | b'\\' | b';'))
    {
        return smallvec![Cow::Borrowed(path)];
    }
    // A character that needs no encoding means the same to everyone (RFC 3986 section 6.2.2.2).
    let mut variants: SmallVec<[String; 16]> = smallvec![decode_unreserved(path)];
    for change in [decoded as fn(&str) -> String, slashes, backslashes, without_parameters, wholly] {
        for place in 0..variants.len() {
            let changed = change(&variants[place]);
            if !variants.contains(&changed) {
                variants.push(changed);
            }
        }
    }
    let mut all = Readings::new();
    for variant in variants {
        let settled = settle(&variant).into_owned();
        for reading in [settled, variant] {
            if !all.iter().any(|known| **known == *reading) {
                all.push(Cow::Owned(reading));
            }
        }
    }
    all
}

/// Decoded once more, for double encoding.
fn decoded(path: &str) -> String {
    replace(path, "%25", "%")
}

/// An encoded slash as a slash.
fn slashes(path: &str) -> String {
    replace(path, "%2f", "/")
}

/// A backslash, also an encoded one, as a slash.
fn backslashes(path: &str) -> String {
    replace(path, "%5c", "\\").replace('\\', "/")
}

/// Segments without what follows a semicolon, also an encoded one.
fn without_parameters(path: &str) -> String {
    let path = replace(path, "%3b", ";");
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

/// With every encoded character decoded, as most servers do before they look for a handler.
pub(super) fn wholly(path: &str) -> String {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let code = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        decoded.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Replaces an encoded character, with hex digits in any case.
fn replace(path: &str, code: &str, by: &str) -> String {
    let replaced = path.replace(code, by);
    let upper = code.to_ascii_uppercase();
    if upper == code { replaced } else { replaced.replace(&upper, by) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_some_server_takes_for_a_path_is_among_its_readings() {
        for (path, read_as) in [
            ("/a/b", "/a/b"),
            ("/a//b", "/a/b"),
            ("/x/../a", "/a"),
            ("/x/../a", "/x/../a"),
            ("/a%2fb", "/a/b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a\\b", "/a/b"),
            ("/a%5Cb", "/a/b"),
            ("/a;v=1/b;c", "/a/b"),
            ("/a%3bv/b", "/a/b"),
            ("/a%252fb", "/a/b"),
            ("/x/..%2fa", "/a"),
            ("/x/..;/a", "/a"),
            ("/x/..%5ca", "/a"),
            ("/%61", "/a"),
            ("/%252561", "/%2561"),
            ("/v1/items%3Adelete", "/v1/items:delete"),
            ("/caf%c3%a9", "/caf\u{e9}"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("/a%2540b", "/a@b"),
            ("/%zz%4", "/%zz%4"),
        ] {
            let all = readings(path);
            assert!(all.iter().any(|reading| reading == read_as), "{path}: {all:?}");
        }
        assert_eq!(readings("/%61dmin").as_slice(), ["/admin"]);
        assert!(matches!(readings("/shop/cart").as_slice(), [Cow::Borrowed("/shop/cart")]));
    }

    proptest! {
        /// However much there is to decode, the number of readings stays small.
        #[test]
        fn readings_are_few(path in "/([a;\\\\/.]|%2[fF5]|%5c|%3b|%252f|%3a|%c3%a9){0,40}") {
            prop_assert!(readings(&path).len() <= 64, "{}", readings(&path).len());
        }
    }
}
