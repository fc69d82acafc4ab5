//! What a viewer asks for.

use http::Method;
use mesh_policy::{Class, access_log::Attributes};

use super::peer::Peer;
use crate::{
    admin::decoded,
    finished::{Begun, Outcome},
    metrics::Direction,
    record::MAX_VALUE,
};

/// Events a second, if nothing is said.
const RATE: u32 = 100;
/// Most events a second: more are not read, and each costs its time.
const MAX_RATE: u32 = 1_000;

/// See the module. What is not named is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    direction: Option<Direction>,
    method: Option<Method>,
    /// What the path begins with.
    path: Option<String>,
    status: Option<Status>,
    class: Option<Class>,
    peer: Option<Peer>,
    /// Events a second.
    pub(super) rate: u32,
    /// What may have secrets in it and is told all the same.
    pub(super) attributes: Attributes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Code(u16),
    /// The first digit.
    Hundred(u16),
}

impl Wish {
    /// Reads a query. The error says what is wrong with it.
    pub(super) fn read(query: &str) -> Result<Self, String> {
        let attributes = Attributes::default();
        let (direction, method, path, status, class, peer) = Default::default();
        let mut read = Self { direction, method, path, status, class, peer, rate: RATE, attributes };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            read.take(name, &value)?;
        }
        Ok(read)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = |what: &str| format!("{name}={value:?}: {what}");
        match name {
            "direction" => {
                let known = [Direction::Outbound, Direction::Inbound].into_iter().find(|d| d.as_str() == value);
                self.direction = Some(known.ok_or_else(|| wrong("outbound or inbound"))?);
            }
            "method" => self.method = Some(value.parse().map_err(|_| wrong("no method of HTTP"))?),
            "path" if value.len() > MAX_VALUE => return Err(format!("path: at most {MAX_VALUE} bytes")),
            "path" => self.path = Some(value.to_owned()),
            "status" => self.status = Some(Status::read(value).ok_or_else(|| wrong("a code such as 404, or 5xx"))?),
            "class" => {
                let known = Class::ALL.into_iter().find(|class| class.as_str() == value);
                let words = || Class::ALL.map(Class::as_str).join(", ");
                self.class = Some(known.ok_or_else(|| wrong(&format!("one of {}", words())))?);
            }
            "peer" => {
                let what = "an identity, NAMESPACE/NAME or NAMESPACE";
                self.peer = Some(Peer::read(value).ok_or_else(|| wrong(what))?);
            }
            "rate" => {
                let rate = value.parse().ok().filter(|rate| (1..=MAX_RATE).contains(rate));
                self.rate = rate.ok_or_else(|| wrong(&format!("events a second, from 1 to {MAX_RATE}")))?;
            }
            "attributes" => self.attributes = Attributes::read(value)?,
            _ => return Err(format!("{name:?} is not known here")),
        }
        Ok(())
    }

    /// Whether something that begins may be wanted.
    pub(super) fn may_want(&self, direction: Direction, is_request: bool) -> bool {
        self.direction.is_none_or(|wanted| wanted == direction) && (is_request || !self.is_of_requests())
    }

    /// Whether only requests can be meant.
    fn is_of_requests(&self) -> bool {
        self.method.is_some() || self.path.is_some() || self.status.is_some()
    }

    /// Whether a request with this head may be wanted.
    pub(super) fn wants_head(&self, method: &Method, path: &str) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.path.as_ref().is_none_or(|wanted| path.starts_with(wanted.as_str()))
    }

    /// Whether something is wanted that has begun to be served, and whose head was. How it ends is not known then.
    pub(super) fn wants_open(&self, begun: &Begun) -> bool {
        self.status.is_none() && self.class.is_none() && self.is_other_side(begun)
    }

    /// Whether something is wanted that ended so, and whose head was, if it had one.
    pub(super) fn wants_end(&self, begun: &Begun, outcome: &Outcome) -> bool {
        let has_head = begun.noted.asked.is_some() || (self.method.is_none() && self.path.is_none());
        let status = outcome.status.map(|status| status.as_u16());
        has_head
            && self.status.is_none_or(|wanted| status.is_some_and(|status| wanted.is(status)))
            && self.class.is_none_or(|wanted| wanted == outcome.class)
            && self.is_other_side(begun)
    }

    fn is_other_side(&self, begun: &Begun) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.is_of(&begun.labels, begun.noted.pod.as_deref()))
    }
}

impl Status {
    fn read(text: &str) -> Option<Self> {
        match text.strip_suffix("xx") {
            Some(digit) => digit.parse().ok().filter(|digit| (1..=5).contains(digit)).map(Self::Hundred),
            None => text.parse().ok().filter(|code| (100..1_000).contains(code)).map(Self::Code),
        }
    }

    fn is(self, status: u16) -> bool {
        match self {
            Self::Code(code) => code == status,
            Self::Hundred(digit) => digit == status / 100,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_or_told_what_is_wrong_with_it() {
        let read = Wish::read("path=%2Fcart%20x&method=GET&status=5xx&class=failure&direction=inbound&rate=7").unwrap();
        assert_eq!((read.path.as_deref(), read.rate), (Some("/cart x"), 7));
        assert_eq!((read.method, read.status), (Some(Method::GET), Some(Status::Hundred(5))));
        assert_eq!(Wish::read("").unwrap().rate, RATE);
        let named = Wish::read("attributes=url.query,http.request.header.x-user").unwrap().attributes;
        assert!(named.query && named.headers == ["x-user"]);
        for wrong in [
            "status=6xx",
            "status=99",
            "status=xx",
            "class=bad",
            "direction=up",
            "rate=0",
            "rate=1001",
            "method=G%20T",
            "peer=",
            "other=1",
            "attributes=url.path",
            &format!("path=/{}", "x".repeat(MAX_VALUE)),
        ] {
            assert!(Wish::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        for secret in mesh_policy::access_log::SECRET {
            let why = Wish::read(&format!("attributes=http.request.header.{secret}")).unwrap_err();
            assert!(why.contains("credentials"), "{why}");
        }
    }

    #[test]
    fn what_begins_is_noted_only_if_it_may_be_wanted() {
        let may = |query: &str, direction, is_request| Wish::read(query).unwrap().may_want(direction, is_request);
        for (query, direction, is_request, expected) in [
            ("", Direction::Inbound, false, true),
            ("direction=outbound", Direction::Inbound, true, false),
            ("direction=outbound", Direction::Outbound, false, true),
            ("path=/", Direction::Outbound, false, false),
            ("method=GET", Direction::Outbound, true, true),
            ("status=2xx", Direction::Outbound, false, false),
            ("class=failure", Direction::Outbound, false, true),
        ] {
            assert_eq!(may(query, direction, is_request), expected, "{query}");
        }
        let head = |query: &str, path| Wish::read(query).unwrap().wants_head(&Method::GET, path);
        assert!(head("path=/cart", "/cart/7") && !head("path=/cart", "/car") && !head("method=POST", "/"));
    }
}
