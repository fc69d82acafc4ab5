//! How a redirect or a rewrite changes a path (Gateway API, `HTTPPathModifier`).

use crate::route::{PathMatch, RequestMatch, settle::behind};

/// A change of a path; the query stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// `ReplaceFullPath`: the whole path. Starts with `/`.
    Full(Box<str>),
    /// `ReplacePrefixMatch`: the part that the rule's `PathPrefix` matched. May be empty; a trailing `/` is ignored.
    Prefix(Box<str>),
}

impl PathModifier {
    /// The new path of a request whose path was matched by `matched`; `None` stands for a rule without matches, whose
    /// prefix is `/`. A match that is no prefix has nothing that could be replaced (the compiler of routes refuses such
    /// a rule), and the path stays. What stands behind the prefix stays as it was written. `*` is no path.
    pub fn apply(&self, path: &str, matched: Option<&RequestMatch>) -> String {
        if !path.starts_with('/') {
            return path.to_owned();
        }
        let replacement = match self {
            Self::Full(full) => return full.to_string(),
            Self::Prefix(replacement) => replacement.strip_suffix('/').unwrap_or(replacement),
        };
        let prefix = match matched.map(|matched| &matched.path) {
            None => "",
            Some(PathMatch::Prefix(prefix)) => prefix.strip_suffix('/').unwrap_or(prefix),
            Some(PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Grpc { .. }) => return path.to_owned(),
        };
        match (replacement, behind(path, prefix)) {
            // A path is never empty.
            ("", "") => "/".to_owned(),
            (_, rest) => format!("{replacement}{rest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn prefix(path: &str) -> RequestMatch {
        RequestMatch { path: PathMatch::Prefix(path.into()), ..RequestMatch::default() }
    }

    #[test]
    fn the_table_of_the_specification() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
            ("/x/../foo/b%61r", "/foo", "/xyz", "/xyz/b%61r"),
            ("/foo/200x100/https://example.com/a.png", "/foo", "/xyz", "/xyz/200x100/https://example.com/a.png"),
            ("//f%6Fo//a//b/", "/foo", "/xyz", "/xyz//a//b/"),
            ("/foo//", "/foo", "/xyz", "/xyz//"),
            ("/foo/%7Eu/a%2fb/./c", "/foo", "/xyz", "/xyz/%7Eu/a%2fb/./c"),
            ("/foo/a/../../foo/b", "/foo", "/xyz", "/xyz/b"),
            ("/../foo/..", "/", "/xyz", "/xyz/foo/.."),
            ("*", "/", "/xyz", "*"),
        ] {
            let modifier = PathModifier::Prefix(replacement.into());
            assert_eq!(modifier.apply(path, Some(&prefix(matched))), expected, "{path} {matched} {replacement}");
        }
        assert_eq!(PathModifier::Prefix("/v2".into()).apply("/a", None), "/v2/a");
        assert_eq!(PathModifier::Full("/all".into()).apply("/foo/bar", Some(&prefix("/foo"))), "/all");
        assert_eq!(PathModifier::Full("/all".into()).apply("*", None), "*");
    }

    proptest! {
        /// What the prefix did not match survives, and a path stays a path.
        #[test]
        fn the_rest_stays(root in "/[ab]{1,3}", rest in "(/[ab]{1,3}){0,3}/?", replacement in "(/[xy]{1,2}){0,2}/?") {
            let path = format!("{root}{rest}");
            let after = PathModifier::Prefix(replacement.into()).apply(&path, Some(&prefix(&root)));
            prop_assert!(after.starts_with('/') && after.ends_with(&rest), "{path} -> {after}");
        }
    }
}
