//! What is noted of a request or connection on its way.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, Request, StatusCode, header, uri::Authority};

use super::readers::Interest;
use crate::{
    error::{DecisionId, Reason},
    finished::{Asked, Attempt, Noted},
    http::headers,
    tap::Viewer,
};

/// Most characters of one value. Longer ones are cut, and end with an ellipsis.
pub(crate) const MAX_VALUE: usize = 1_024;
/// W3C Trace Context: where the trace id is in `traceparent`.
const TRACE_ID: std::ops::Range<usize> = 3..35;

/// Attempts that are told one by one; of further ones only the number is.
const MAX_ATTEMPTS: usize = 16;

/// See the module.
pub(crate) struct Draft {
    /// Who may read it.
    pub(super) interest: Rc<Interest>,
    /// Whether the access log may want it, and if so, whether it is one of its sample.
    pub(super) is_sampled: Option<bool>,
    /// A bit for each viewer of the interest that may want it.
    viewers: u8,
    /// Whether viewers were told that it begins to be served.
    is_open: bool,
    noted: Noted,
}

impl Draft {
    pub(super) fn new(interest: Rc<Interest>, is_sampled: Option<bool>, viewers: u8, began: SystemTime) -> Self {
        Self { interest, is_sampled, viewers, is_open: false, noted: Noted::at(began) }
    }

    /// Their bits.
    pub(super) fn bits(&self) -> u8 {
        self.viewers
    }

    /// Those who may want it.
    pub(super) fn viewers(&self) -> impl Iterator<Item = &Viewer> {
        self.interest.viewed_by(self.viewers)
    }

    /// Whether viewers are to be told that it begins to be served, which they are once.
    pub(super) fn opens(&mut self) -> bool {
        self.viewers != 0 && !std::mem::replace(&mut self.is_open, true)
    }

    /// Whether it is a request that may last.
    pub(super) fn may_last(&self) -> bool {
        self.noted.asked.as_ref().is_some_and(|asked| asked.is_grpc || asked.is_upgrade)
    }

    /// What was noted so far.
    pub(super) fn noted(&self) -> &Noted {
        &self.noted
    }

    /// What was noted.
    pub(super) fn into_noted(self) -> Noted {
        self.noted
    }

    /// The request's head. Whether somebody may still want it.
    pub(super) fn asked<B>(&mut self, request: &Request<B>, authority: Option<&Authority>) -> bool {
        self.viewers = self.interest.wanted_by(self.viewers, request.method(), request.uri().path());
        if self.viewers == 0 && self.is_sampled.is_none() {
            return false;
        }
        let (fields, named) = (request.headers(), &self.interest.attributes);
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
            is_upgrade: headers::upgrade_of(request).is_some(),
            headers: named.headers.iter().filter_map(|name| Some((name.clone(), value(fields, name)?))).collect(),
        });
        true
    }

    /// Whoever called, or the endpoint of an attempt.
    pub(super) fn peer(&mut self, address: SocketAddr) {
        self.noted.peer = Some(address);
    }

    /// An attempt at an endpoint begins, so long after the request.
    pub(super) fn attempt(&mut self, endpoint: &mesh_policy::Endpoint, began: Duration) {
        let at = endpoint.address;
        self.noted.attempts += 1;
        self.noted.peer = Some(at);
        self.noted.pod = Some(endpoint.workload.clone());
        if self.noted.tried.len() < MAX_ATTEMPTS {
            self.noted.tried.push(Attempt { at, began, ended: None, result: None });
        }
    }

    /// The attempt that began last had this answer, or this error.
    pub(super) fn attempted(&mut self, result: Result<StatusCode, Reason>, ended: Duration) {
        let is_told = self.noted.attempts as usize == self.noted.tried.len();
        if let Some(last) = self.noted.tried.last_mut().filter(|_| is_told) {
            last.ended = Some(ended);
            last.result = Some(result);
        }
    }

    /// The response's head came, after so long.
    pub(super) fn answered(&mut self, after: Duration) {
        self.noted.first_byte = Some(after);
    }

    /// The decision by which it was refused.
    pub(super) fn decision(&mut self, id: DecisionId) {
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
