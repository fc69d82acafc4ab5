//! What a route does to requests and responses: one file a filter, one variant here.
//!
//! A filter is a value and pure functions over it; carrying it out (answering, sending a copy) is the proxy's. A filter
//! that Mesh does not know never comes this far: the compiler of routes refuses its rule instead, because a filter left
//! out silently changes what a request means (Gateway API, `filters`).

pub mod cors;
pub mod header;
pub mod mirror;
pub mod path;
pub mod redirect;
pub mod rewrite;

pub use cors::{Cors, OriginMatch, Wildcard};
pub use header::HeaderModifier;
pub use mirror::Mirror;
pub use path::PathModifier;
pub use redirect::Redirect;
pub use rewrite::Rewrite;

use crate::{
    bounds::{OVERHEAD, target_bytes},
    facts::RequestFacts,
};

/// One filter of a rule or a backend, applied in the order written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `RequestHeaderModifier`: changes the request before it is sent.
    RequestHeaders(HeaderModifier),
    /// `ResponseHeaderModifier`: changes the response before it is answered.
    ResponseHeaders(HeaderModifier),
    /// `RequestRedirect`: answers instead of a backend.
    Redirect(Redirect),
    /// `URLRewrite`: changes the host or the path that the backend sees.
    Rewrite(Rewrite),
    /// `RequestMirror`: sends a copy elsewhere.
    Mirror(Mirror),
    /// `CORS`: answers preflights and tells browsers who may read the response.
    Cors(Cors),
}

/// What a filter answers in place of a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer<'f> {
    /// The place to ask instead.
    Redirect(&'f Redirect),
    /// What a CORS preflight asks for.
    Preflight(&'f Cors),
}

impl Filter {
    /// What it answers to a request in place of a backend; `None`: the request goes on.
    pub(crate) fn answer(&self, facts: &RequestFacts<'_>) -> Option<Answer<'_>> {
        match self {
            Self::Redirect(redirect) => Some(Answer::Redirect(redirect)),
            Self::Cors(cors) if Cors::is_preflight(facts) => Some(Answer::Preflight(cors)),
            Self::Cors(_) | Self::RequestHeaders(_) | Self::ResponseHeaders(_) | Self::Rewrite(_) | Self::Mirror(_) => {
                None
            }
        }
    }

    /// Its part of [`crate::Route::bytes`].
    pub(crate) fn bytes(&self) -> usize {
        let path = |path: &Option<PathModifier>| match path {
            Some(PathModifier::Full(text) | PathModifier::Prefix(text)) => text.len() + OVERHEAD,
            None => 0,
        };
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len() + OVERHEAD);
        size_of::<Self>()
            + match self {
                Self::RequestHeaders(headers) | Self::ResponseHeaders(headers) => headers.bytes(),
                Self::Redirect(redirect) => text(&redirect.scheme) + text(&redirect.hostname) + path(&redirect.path),
                Self::Rewrite(rewrite) => text(&rewrite.hostname) + path(&rewrite.path),
                Self::Mirror(mirror) => target_bytes(&mirror.target),
                Self::Cors(cors) => cors.bytes(),
            }
    }

    /// Changes the headers of a request, if this filter is about them.
    pub fn apply_request(&self, headers: &mut http::HeaderMap) {
        match self {
            Self::RequestHeaders(modifier) => modifier.apply(headers),
            Self::ResponseHeaders(_) | Self::Redirect(_) | Self::Rewrite(_) | Self::Mirror(_) | Self::Cors(_) => {}
        }
    }

    /// Changes the headers of a response, if this filter is about them. `origin` is the request's `Origin`.
    pub fn apply_response(&self, headers: &mut http::HeaderMap, origin: Option<&http::HeaderValue>) {
        match self {
            Self::ResponseHeaders(modifier) => modifier.apply(headers),
            Self::Cors(cors) => cors.apply_response(headers, origin),
            Self::RequestHeaders(_) | Self::Redirect(_) | Self::Rewrite(_) | Self::Mirror(_) => {}
        }
    }
}
