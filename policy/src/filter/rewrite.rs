//! Rewrites (Gateway API, `HTTPURLRewriteFilter`).

use super::PathModifier;

/// Changes what the backend sees of the request's URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Replaces the host of the request, port and all.
    pub hostname: Option<Box<str>>,
    /// Replaces the path, or the prefix that matched.
    pub path: Option<PathModifier>,
}
