//! The path that routes are matched against: what most servers take a request's path for, whatever way it is written.
//!
//! `/%61dmin`, `//admin` and `/x/../admin` are `/admin` to many servers, so a rule for `/admin` must hold for them, and one
//! for `/` must not take them away from it. The request itself goes on as it came. What stays different: `%2F`, which some
//! servers keep apart from `/`, and every other encoded character that is reserved (RFC 3986 section 2.2).

use std::borrow::Cow;

/// Decodes what needs no encoding (RFC 3986 section 2.3), takes empty segments out, and resolves `.` and `..` (section
/// 5.2.4). Borrows where there is nothing to do, which is nearly always.
pub fn settle(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    let is_settled = bytes.iter().zip(bytes.iter().skip(1)).all(|two| !matches!(two, (b'/', b'/' | b'.') | (b'%', _)));
    if is_settled || bytes.first() != Some(&b'/') {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    let mut settled = String::with_capacity(decoded.len());
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            ".." => settled.truncate(settled.rfind('/').unwrap_or_default()),
            "" | "." => {}
            segment => {
                settled.push('/');
                settled.push_str(segment);
                continue;
            }
        }
        if is_last {
            settled.push('/');
        }
    }
    Cow::Owned(settled)
}

/// Decodes what needs no encoding (RFC 3986 section 2.3).
pub(crate) fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let code = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.map(char::from).filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')) {
            Some(c) => {
                decoded.push(c);
                rest = &after[2..];
            }
            None => {
                decoded.push('%');
                rest = after;
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ways_to_write_one_path() {
        for (written, settled) in [
            ("/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%61%64min/%7E", "/admin/~"),
            ("//admin", "/admin"),
            ("///a//b//", "/a/b/"),
            ("/x/../admin", "/admin"),
            ("/x/%2e%2E/admin", "/admin"),
            ("/./admin/.", "/admin/"),
            ("/admin/..", "/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/a/.b/..c/...", "/a/.b/..c/..."),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2fb%", "/a%2fb%"),
            ("/a%zz%4", "/a%zz%4"),
            ("/%+1", "/%+1"),
            ("/\u{e9}%c3%a9", "/\u{e9}%c3%a9"),
            ("*", "*"),
            ("", ""),
            ("/", "/"),
            ("//", "/"),
            ("/a/", "/a/"),
        ] {
            assert_eq!(settle(written), settled, "{written}");
        }
        assert!(matches!(settle("/shop/cart.html"), Cow::Borrowed(_)));
    }

    proptest! {
        /// Once is enough, but for what was encoded twice, which nobody decodes twice.
        #[test]
        fn what_is_settled_stays(path in "/([a.]{0,3}/|%2[ef]|%41){0,8}") {
            let once = settle(&path).into_owned();
            prop_assert_eq!(settle(&once), once.as_str());
            prop_assert!(!once.contains("//") && !once.split('/').any(|s| s == "." || s == ".."), "{} -> {}", path, once);
        }
    }
}
