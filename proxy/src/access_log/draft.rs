//! What is noted of a request or connection on its way.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, Request, Version, header, uri::Authority};
use mesh_policy::{AccessLog, Class};

use crate::{error::DecisionId, http::headers};

/// Most characters of one value. Longer ones are cut, and end with an ellipsis.
const MAX_VALUE: usize = 1_024;
/// W3C Trace Context: where the trace id is in `traceparent`.
const TRACE_ID: std::ops::Range<usize> = 3..35;

/// See the module.
pub(crate) struct Draft {
    wanted: Rc<AccessLog>,
    is_sampled: bool,
    pub(super) noted: Noted,
}

/// What is told of it, and so leaves its thread.
pub(super) struct Noted {
    pub(super) began: SystemTime,
    pub(super) asked: Option<Asked>,
    /// Who called, of the inbound side; the endpoint of the last attempt, of the outbound side.
    pub(super) peer: Option<SocketAddr>,
    pub(super) rule: Option<Arc<str>>,
    pub(super) attempts: u32,
    pub(super) first_byte: Option<Duration>,
    pub(super) decision: Option<DecisionId>,
}

/// What a request said.
pub(super) struct Asked {
    pub(super) method: http::Method,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) version: Version,
    pub(super) user_agent: Option<String>,
    pub(super) trace_id: Option<String>,
    pub(super) is_grpc: bool,
    /// Those that were named.
    pub(super) headers: Vec<(HeaderName, String)>,
}

impl Draft {
    pub(super) fn new(wanted: Rc<AccessLog>, is_sampled: bool, began: SystemTime) -> Self {
        let (asked, peer, rule, first_byte, decision) = Default::default();
        Self { wanted, is_sampled, noted: Noted { began, asked, peer, rule, attempts: 0, first_byte, decision } }
    }

    /// Whether it is logged, now that it has ended so.
    pub(super) fn is_wanted(&self, class: Class, took: Duration) -> bool {
        self.wanted.wants(class, took, self.is_sampled)
    }

    /// The request's head.
    pub(crate) fn asked<B>(&mut self, request: &Request<B>, authority: Option<&Authority>) {
        let (fields, named) = (request.headers(), &self.wanted.attributes);
        let query = request.uri().query().filter(|_| named.query).map(shown);
        self.noted.asked = Some(Asked {
            method: request.method().clone(),
            host: shown(authority.map_or("", Authority::host)),
            path: shown(request.uri().path()),
            query,
            version: request.version(),
            user_agent: value(fields, &header::USER_AGENT),
            trace_id: trace_id(fields),
            is_grpc: headers::is_grpc(fields),
            headers: named.headers.iter().filter_map(|name| Some((name.clone(), value(fields, name)?))).collect(),
        });
    }

    /// Whoever called, or the endpoint of an attempt.
    pub(crate) fn peer(&mut self, address: SocketAddr) {
        self.noted.peer = Some(address);
    }

    /// An attempt at an endpoint begins.
    pub(crate) fn attempt(&mut self, at: SocketAddr) {
        self.noted.attempts += 1;
        self.noted.peer = Some(at);
    }

    /// The rule that decided.
    pub(crate) fn rule(&mut self, name: Option<&Arc<str>>) {
        self.noted.rule = name.cloned();
    }

    /// The response's head came, after so long.
    pub(crate) fn answered(&mut self, after: Duration) {
        self.noted.first_byte = Some(after);
    }

    /// The decision by which it was refused.
    pub(crate) fn decision(&mut self, id: DecisionId) {
        self.noted.decision = Some(id);
    }
}

/// All lines of a header as one list.
fn value(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut lines = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let first = lines.next()?;
    Some(shown(&lines.fold(first.into_owned(), |all, line| all + "," + &line)))
}

/// The trace id of `traceparent`, if it is one (W3C Trace Context, section 3.2).
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("traceparent")?.to_str().ok()?.get(TRACE_ID)?;
    let is_hex = id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (is_hex && id.bytes().any(|byte| byte != b'0')).then(|| id.to_owned())
}

/// A text as it is logged: short, and without characters that a terminal or a reader of lines would obey.
fn shown(text: &str) -> String {
    let harmless = |c: char| if is_obeyed(c) { char::REPLACEMENT_CHARACTER } else { c };
    let mut shown: String = text.chars().take(MAX_VALUE).map(harmless).collect();
    if shown.len() < text.len() && text.chars().nth(MAX_VALUE).is_some() {
        shown.push('\u{2026}');
    }
    shown
}

/// Control characters, line and paragraph separators, and those that turn the direction of text.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_shown() {
        assert_eq!(shown("a\u{1b}[31m\u{9b}b\r\n\u{202e}c"), "a\u{fffd}[31m\u{fffd}b\u{fffd}\u{fffd}\u{fffd}c");
        assert_eq!(shown("caf\u{e9}"), "caf\u{e9}");
        let long = shown(&"x".repeat(MAX_VALUE + 1));
        assert!(long.ends_with("x\u{2026}") && long.chars().count() == MAX_VALUE + 1);
        assert_eq!(shown(&"x".repeat(MAX_VALUE)).len(), MAX_VALUE);
    }

    #[test]
    fn a_trace_id_is_told_if_it_is_one() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_str(text).unwrap());
            trace_id(&headers)
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(of(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(), Some(id));
        for wrong in ["", "00-4bf92f", &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), &"\u{e9}".repeat(40)] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
