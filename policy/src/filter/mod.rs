//! Changes that a route makes to requests and responses: one file a filter, one variant here.
//!
//! A filter that Mesh does not know never comes this far: the compiler of routes refuses its rule instead, because a
//! filter left out silently changes what a request means (Gateway API, `filters`).

pub mod header;

pub use header::HeaderModifier;

/// One filter of a rule or a backend, applied in the order written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `RequestHeaderModifier`: changes the request before it is sent.
    RequestHeaders(HeaderModifier),
    /// `ResponseHeaderModifier`: changes the response before it is answered.
    ResponseHeaders(HeaderModifier),
}

impl Filter {
    /// Changes the headers of a request, if this filter is about requests.
    pub fn apply_request(&self, headers: &mut http::HeaderMap) {
        match self {
            Self::RequestHeaders(modifier) => modifier.apply(headers),
            Self::ResponseHeaders(_) => {}
        }
    }

    /// Changes the headers of a response, if this filter is about responses.
    pub fn apply_response(&self, headers: &mut http::HeaderMap) {
        match self {
            Self::RequestHeaders(_) => {}
            Self::ResponseHeaders(modifier) => modifier.apply(headers),
        }
    }
}
