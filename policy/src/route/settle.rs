//! The path that routes are matched against: what most servers take a request's path for, whatever way it is written.
//!
//! `/%61dmin`, `//admin` and `/x/../admin` are `/admin` to many servers, so a rule for `/admin` must hold for them, and one
//! for `/` must not take them away from it. The request itself goes on as it came. What stays different: `%2F`, which some
//! servers keep apart from `/`, and every other encoded character that is reserved (RFC 3986 section 2.2).

use std::borrow::Cow;

/// Decodes what needs no encoding (RFC 3986 section 2.3), writes the other escapes in upper case (section 6.2.2.1), takes
/// empty segments out, and resolves `.` and `..` (section 5.2.4). Borrows where there is nothing to do, which is nearly always.
pub fn settle(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    let is_settled = bytes.iter().zip(bytes.iter().skip(1)).all(|two| !matches!(two, (b'/', b'/' | b'.') | (b'%', _)));
    if is_settled || bytes.first() != Some(&b'/') {
        return Cow::Borrowed(path);
    }
    Cow::Owned(resolve(&decode_unreserved(path), false))
}

/// The same with the empty segments kept, if there are any: for patterns that name them and could match nothing else.
pub(crate) fn settle_unmerged(path: &str) -> Option<String> {
    (path.starts_with('/') && path.contains("//")).then(|| resolve(&decode_unreserved(path), true))
}

/// Resolves `.` and `..`.
fn resolve(decoded: &str, keeps_empty: bool) -> String {
    let mut settled = String::with_capacity(decoded.len());
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            ".." => settled.truncate(settled.rfind('/').unwrap_or_default()),
            "." => {}
            "" if !keeps_empty || is_last => {}
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
    settled
}

/// What stands in a path behind the segments that settle to `prefix`, as it was written. It never leads above them: of several
/// places behind which a path is below its prefix, it is the last.
///
/// `path` is below `prefix`, which is settled and has no slash at its end; otherwise there is no such place, and it is the
/// whole path.
pub(crate) fn behind<'p>(path: &'p str, prefix: &str) -> &'p str {
    if let Cow::Borrowed(path) = settle(path) {
        return path.strip_prefix(prefix).unwrap_or(path);
    }
    let depth_of_prefix = prefix.matches('/').count();
    let (mut depth, mut end, mut rest) = (0, 0, path);
    for segment in path.split('/').skip(1) {
        end += 1 + segment.len();
        match &*decode_unreserved(segment) {
            // Above the root is the root.
            ".." if depth == 0 && depth_of_prefix > 0 => {}
            ".." if depth == 0 => rest = path.get(end..).unwrap_or_default(),
            ".." => depth -= 1,
            "" | "." => {}
            _ => {
                depth += 1;
                if depth == depth_of_prefix {
                    rest = path.get(end..).unwrap_or_default();
                }
            }
        }
    }
    rest
}

/// Decodes what needs no encoding (RFC 3986 section 2.3). The escapes that stay are in upper case, which is the same
/// (section 6.2.2.1).
pub(crate) fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).map(char::from);
        rest = match (code, digits) {
            (Some(c), _) if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') => {
                decoded.push(c);
                &after[2..]
            }
            (_, Some(digits)) => {
                decoded.push('%');
                decoded.extend(digits.chars().map(|digit| digit.to_ascii_uppercase()));
                &after[2..]
            }
            (_, None) => {
                decoded.push('%');
                after
            }
        };
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
            ("/a%2fb%", "/a%2Fb%"),
            ("/a%zz%4", "/a%zz%4"),
            ("/%+1", "/%+1"),
            ("/\u{e9}%c3%a9", "/\u{e9}%C3%A9"),
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

    #[test]
    fn what_is_behind_a_prefix_is_as_it_was_written() {
        for (path, prefix, rest) in [
            ("/a/b", "/a", "/b"),
            ("/a", "/a", ""),
            ("/a/", "/a", "/"),
            ("/a/x//y", "/a", "/x//y"),
            ("/a//", "/a", "//"),
            ("//a//b", "/a", "//b"),
            ("/%61/%7Eb%2f", "/a", "/%7Eb%2f"),
            ("/x/../a/b", "/a", "/b"),
            ("/a/./b/../c", "/a", "/./b/../c"),
            ("/a/b/../../a/c", "/a", "/c"),
            ("/../a/b", "/a", "/b"),
            ("/a/../b//c", "", "/a/../b//c"),
            ("/a/../../b//c", "", "/b//c"),
            ("/..", "", ""),
            ("/a//b/c%2F/d", "/a/b/c%2F", "/d"),
        ] {
            assert_eq!(behind(path, prefix), rest, "{path} {prefix}");
        }
    }

    #[test]
    fn empty_segments_are_kept_for_those_who_name_them() {
        for (path, unmerged) in [
            ("/a//b", Some("/a//b")),
            ("/a//../%7Eb//", Some("/a/~b//")),
            ("//", Some("//")),
            ("/a/b", None),
            ("/a/..", None),
        ] {
            assert_eq!(settle_unmerged(path).as_deref(), unmerged, "{path}");
        }
    }

    proptest! {
        /// The rest never leads above the prefix: put behind it, the path means what it meant.
        #[test]
        fn the_rest_stays_below(path in "/([ab]{0,2}/|\\.{1,2}/|%2[eE]/|%61){0,8}", depth in 0usize..3) {
            let settled = settle(&path).into_owned();
            let ends: Vec<usize> = settled.match_indices('/').map(|(at, _)| at).skip(1).chain([settled.len()]).collect();
            let end = if depth == 0 { 0 } else { ends.get(depth - 1).copied().unwrap_or(0) };
            let prefix = settled[..end].strip_suffix('/').unwrap_or(&settled[..end]);
            let again = format!("/p/q{}", behind(&path, prefix));
            prop_assert_eq!(settle(&again).into_owned(), format!("/p/q{}", &settled[prefix.len()..]), "{} {}", path, prefix);
        }

        /// Once is enough, but for what was encoded twice, which nobody decodes twice.
        #[test]
        fn what_is_settled_stays(path in "/([a.]{0,3}/|%2[ef]|%41){0,8}") {
            let once = settle(&path).into_owned();
            prop_assert_eq!(settle(&once), once.as_str());
            prop_assert!(!once.contains("//") && !once.split('/').any(|s| s == "." || s == ".."), "{} -> {}", path, once);
        }
    }
}
