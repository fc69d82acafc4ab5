//! Sessions that stay with an endpoint (Gateway API, `sessionPersistence`, GEP-1619): which endpoint a request's token
//! names, and the token that a response carries.
//!
//! A token is what every proxy of the mesh can make and check without having talked to another: the second in which the
//! session began, and hashes of the Service and of the endpoint's address. It shows no address, though somebody who knows
//! the Service's name can try all of them. It is no credential either: a forged one picks another endpoint of the same
//! rule, which the caller may reach anyway. What cannot be used (malformed, too old, of an endpoint that left) is as if
//! it were not there: the request is balanced and the response carries a new one.
//!
//! Rules without sessions never come here.

use std::{
    fmt::{self, Write},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh_policy::{
    Backend, BackendTarget, PathMatch, RequestMatch, Rule, ServiceRef, SessionCarrier, SessionPersistence,
};

use crate::{balance::Endpoint, worker::Worker};

/// Clocks of nodes differ; a session that began further in the future is forged, for it would outlive its time.
const SKEW_SECONDS: u32 = 300;
/// A token as text.
const TOKEN_LENGTH: usize = 32;

/// One request of a rule with sessions.
pub(crate) struct Session<'p> {
    persistence: &'p SessionPersistence,
    /// What the request carries, if it may be used.
    token: Option<Token>,
    /// Seconds since 1970.
    now: u32,
}

/// Which endpoint, since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    /// When the session began, seconds since 1970.
    began: u32,
    /// Half of the Service's hash: tells the backend without asking for the endpoints of all.
    service: u32,
    endpoint: u64,
}

impl<'p> Session<'p> {
    /// The session of a request with these headers.
    pub(crate) fn of(persistence: &'p SessionPersistence, headers: &HeaderMap, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX));
        let lives = |token: &Token| match persistence.absolute_timeout {
            None => true,
            Some(most) => {
                token.began <= now.saturating_add(SKEW_SECONDS)
                    && u64::from(now.saturating_sub(token.began)) < most.as_secs().max(1)
            }
        };
        let token = carried(persistence, headers).filter_map(Token::parse).find(lives);
        Self { persistence, token, now }
    }

    /// The endpoint that the session is with and its backend, as long as the endpoint is there and takes requests. `chosen`
    /// is the backend by weight, beside which others count only if sessions go before weights. Backends of weight 0 never
    /// do: who drains one means its sessions, too.
    pub(crate) async fn endpoint<'r>(
        &self,
        worker: &Worker,
        rule: &'r Rule,
        chosen: Option<&'r Backend>,
    ) -> Option<(&'r Backend, Rc<Endpoint>)> {
        let token = self.token?;
        let counts = |backend: &&Backend| {
            backend.weight > 0
                && (self.persistence.keeps_backend || chosen.is_some_and(|chosen| std::ptr::eq(*backend, chosen)))
        };
        for backend in rule.backends.iter().filter(counts) {
            let BackendTarget::Service(service) = &backend.target else { continue };
            let seed = of_service(service);
            if half(seed) != token.service {
                continue;
            }
            let Ok(balancer) = worker.balancer(service).await else { continue };
            let is_it = |address| of_endpoint(seed, address) == token.endpoint;
            if let Some(endpoint) = balancer.find(Instant::now(), is_it) {
                return Some((backend, endpoint));
            }
        }
        None
    }

    /// Puts the session into a response of this endpoint, unless the client has it already. `matched` is the match of the
    /// rule that held.
    pub(crate) fn give(
        &self,
        headers: &mut HeaderMap,
        matched: Option<&RequestMatch>,
        service: &ServiceRef,
        address: SocketAddr,
    ) {
        let seed = of_service(service);
        let token = Token { began: self.now, service: half(seed), endpoint: of_endpoint(seed, address) };
        let is_known = |had: Token| (had.service, had.endpoint) == (token.service, token.endpoint);
        if self.token.is_some_and(is_known) {
            return;
        }
        let SessionPersistence { name, carrier, path, absolute_timeout, .. } = self.persistence;
        let mut text = match carrier {
            SessionCarrier::Header => token.to_string(),
            SessionCarrier::SessionCookie | SessionCarrier::PermanentCookie => {
                let path = path.as_deref().unwrap_or_else(|| path_of(matched));
                format!("{name}={token}; Path={}; HttpOnly; SameSite=Lax", cookie_path(path))
            }
        };
        if let (SessionCarrier::PermanentCookie, Some(limit)) = (carrier, absolute_timeout) {
            let _ = write!(text, "; Max-Age={}", limit.as_secs().max(1)); // 0 would take it back
        }
        // Neither fails for a name that the model may hold.
        let Ok(value) = HeaderValue::try_from(text) else { return };
        match carrier {
            SessionCarrier::Header => {
                if let Ok(name) = HeaderName::try_from(&**name) {
                    headers.insert(name, value);
                }
            }
            SessionCarrier::SessionCookie | SessionCarrier::PermanentCookie => {
                headers.append(header::SET_COOKIE, value);
            }
        }
    }
}

/// What a request carries under the session's name. There may be several cookies of one name, the more specific path first
/// (RFC 6265 section 5.4).
fn carried<'h>(persistence: &'h SessionPersistence, headers: &'h HeaderMap) -> impl Iterator<Item = &'h str> {
    let name = &*persistence.name;
    let of_header = (persistence.carrier == SessionCarrier::Header).then(|| headers.get_all(name));
    let of_cookies = (persistence.carrier != SessionCarrier::Header).then(|| headers.get_all(header::COOKIE));
    let text = |value: &'h HeaderValue| value.to_str().ok();
    let pair = move |pair: &'h str| pair.trim().strip_prefix(name)?.strip_prefix('=');
    let cookies = of_cookies.into_iter().flatten().filter_map(text).flat_map(|line| line.split(';')).filter_map(pair);
    of_header.into_iter().flatten().filter_map(text).chain(cookies)
}

/// The path of a match, if it is one.
fn path_of(matched: Option<&RequestMatch>) -> &str {
    match matched.map(|m| &m.path) {
        Some(PathMatch::Exact(path) | PathMatch::Prefix(path)) => path,
        Some(PathMatch::Regex(_) | PathMatch::Grpc { .. }) | None => "/",
    }
}

/// Where the cookie is sent: the path, if it is one that a cookie can have.
fn cookie_path(path: &str) -> &str {
    if path.bytes().all(|b| b.is_ascii_graphic() && b != b';') { path } else { "/" }
}

impl Token {
    fn parse(text: &str) -> Option<Self> {
        if text.len() != TOKEN_LENGTH || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let number = |range: std::ops::Range<usize>| u64::from_str_radix(text.get(range)?, 16).ok();
        let (began, service) = (number(0..8)?, number(8..16)?);
        Some(Self { began: half(began), service: half(service), endpoint: number(16..32)? })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}{:016x}", self.began, self.service, self.endpoint)
    }
}

/// The lower half.
fn half(number: u64) -> u32 {
    (number & u64::from(u32::MAX)) as u32
}

/// The hash of tokens, the same in every proxy and every version: FNV-1a with 64 bits, its bits then mixed (the last step
/// of MurmurHash3), so that addresses in a row have nothing in common.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// Of a Service's cluster, namespace, name and port, from FNV's offset basis.
fn of_service(service: &ServiceRef) -> u64 {
    let cluster = service.cluster.as_ref().map_or(0xcbf2_9ce4_8422_2325, |cluster| {
        // No namespace has a slash: none of this cluster has such a beginning.
        hash(0xcbf2_9ce4_8422_2325, format!("{cluster}/").as_bytes())
    });
    let namespace = hash(cluster, service.namespace.as_bytes());
    hash(hash(namespace, service.name.as_bytes()), &service.port.to_be_bytes())
}

/// Of an address of that Service: its bytes and its port's, in the order of the network.
fn of_endpoint(service: u64, address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => hash(service, &ip.octets()),
        IpAddr::V6(ip) => hash(service, &ip.octets()),
    };
    hash(ip, &address.port().to_be_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn persistence(carrier: SessionCarrier, seconds: Option<u64>) -> SessionPersistence {
        let absolute_timeout = seconds.map(Duration::from_secs);
        SessionPersistence { name: "Sticky".into(), carrier, path: None, keeps_backend: true, absolute_timeout }
    }

    fn service() -> ServiceRef {
        ServiceRef::new("shop", "web", 80)
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn under(path: &str) -> RequestMatch {
        RequestMatch { path: PathMatch::Prefix(path.into()), ..Default::default() }
    }

    /// What a client with these headers is given by 10.1.2.3:8080.
    fn given(persistence: &SessionPersistence, request: &HeaderMap, now: u64, matched: &RequestMatch) -> HeaderMap {
        let mut response = HeaderMap::new();
        let session = Session::of(persistence, request, at(now));
        session.give(&mut response, Some(matched), &service(), "10.1.2.3:8080".parse().unwrap());
        response
    }

    #[test]
    fn tokens_are_the_same_in_every_proxy() {
        let seed = of_service(&service());
        let v4 = of_endpoint(seed, "10.1.2.3:8080".parse().unwrap());
        let v6 = of_endpoint(seed, "[fd00::1]:8080".parse().unwrap());
        let token = |endpoint| Token { began: 0x6553_f100, service: half(seed), endpoint };
        // These must never change: a client may keep its token across an upgrade of the mesh.
        assert_eq!(token(v4).to_string(), "6553f1002a8549581f549cb4d7b4d477");
        assert_eq!(token(v6).to_string(), "6553f1002a8549581fa54e19dde18f23");
        assert_eq!(Token::parse(&token(v4).to_string()), Some(token(v4)));
    }

    #[test]
    fn a_cookie_says_where_and_how_long() {
        let request = HeaderMap::new();
        let cookie = |carrier, seconds, matched: &RequestMatch| {
            let response = given(&persistence(carrier, seconds), &request, 0x6553_f100, matched);
            response[header::SET_COOKIE].to_str().unwrap().to_owned()
        };
        let (session, permanent) = (SessionCarrier::SessionCookie, SessionCarrier::PermanentCookie);
        let value = cookie(session, None, &under("/"));
        let (name, rest) = value.split_once('=').unwrap();
        let (token, attributes) = rest.split_once("; ").unwrap();
        assert_eq!((name, attributes), ("Sticky", "Path=/; HttpOnly; SameSite=Lax"));
        assert!(token.starts_with("6553f100") && Token::parse(token).is_some(), "{value}");
        assert!(!cookie(session, Some(60), &under("/")).contains("Max-Age"));
        assert!(cookie(permanent, Some(3600), &under("/")).ends_with("SameSite=Lax; Max-Age=3600"));
        for (path, shown) in
            [("/cart", "Path=/cart;"), ("/a;b", "Path=/;"), ("/a b", "Path=/;"), ("/%20", "Path=/%20;")]
        {
            let value = cookie(session, None, &under(path));
            assert!(value.contains(shown), "{value}");
        }
        let everywhere = SessionPersistence { path: Some("/".into()), ..persistence(session, None) };
        let value = given(&everywhere, &request, 1, &under("/cart"))[header::SET_COOKIE].clone();
        assert!(value.to_str().unwrap().contains("Path=/;"), "{value:?}");
        let regex = PathMatch::Regex(mesh_policy::RegexMatch::new("/a.*").unwrap());
        assert!(cookie(session, None, &RequestMatch { path: regex, ..Default::default() }).contains("Path=/;"));
    }

    #[test]
    fn who_has_the_session_is_not_given_it_again() {
        let by_header = persistence(SessionCarrier::Header, Some(60));
        let token = given(&by_header, &HeaderMap::new(), 1_000, &under("/"))["sticky"].clone();
        let by_cookie = persistence(SessionCarrier::SessionCookie, Some(60));
        let cookies = |line: String| HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(line).unwrap())]);
        let in_header = || HeaderMap::from_iter([(HeaderName::from_static("sticky"), token.clone())]);
        let text = token.to_str().unwrap();
        let other = "0".repeat(TOKEN_LENGTH);
        for (persistence, request, now, known) in [
            (&by_header, in_header(), 1_059, true),
            (&by_header, in_header(), 1_060, false),
            (&by_cookie, cookies(format!("a=b; Sticky={text};c=d")), 1_001, true),
            (&by_cookie, cookies(format!("Sticky=rubbish; Sticky={text}")), 1_001, true),
            // Names of cookies keep their case.
            (&by_cookie, cookies(format!("sticky={text}")), 1_001, false),
            (&by_cookie, cookies(format!("Sticky={text}")), 1_061, false),
            (&by_cookie, cookies(format!("Sticky={text}")), 1_000 - u64::from(SKEW_SECONDS) - 1, false),
            (&by_cookie, cookies(format!("Sticky={other}")), 1_001, false),
            (&by_cookie, in_header(), 1_001, false),
        ] {
            let response = given(persistence, &request, now, &under("/"));
            assert_eq!(response.is_empty(), known, "{request:?} at {now}: {response:?}");
        }
        // Without a limit a session never ends by age.
        let forever = persistence(SessionCarrier::SessionCookie, None);
        assert!(given(&forever, &cookies(format!("Sticky={text}")), 4_000_000_000, &under("/")).is_empty());
    }

    #[test]
    fn an_applications_cookies_stay() {
        let mut response = HeaderMap::from_iter([(header::SET_COOKIE, HeaderValue::from_static("own=1"))]);
        let cookie = persistence(SessionCarrier::SessionCookie, None);
        let session = Session::of(&cookie, &HeaderMap::new(), at(1));
        session.give(&mut response, None, &service(), "[::1]:80".parse().unwrap());
        assert_eq!(response.get_all(header::SET_COOKIE).iter().count(), 2);
    }

    #[test]
    fn addresses_in_a_row_have_nothing_in_common() {
        let seed = of_service(&service());
        let all: Vec<u64> = (0..=255).map(|n| of_endpoint(seed, SocketAddr::from(([10, 0, 0, n], 80)))).collect();
        let different: u32 = all.windows(2).map(|two| (two[0] ^ two[1]).count_ones()).sum();
        let mean = f64::from(different) / 255.0;
        assert!((28.0..36.0).contains(&mean), "{mean} of 64 bits change from one to the next");
        let other = of_service(&ServiceRef { port: 81, ..service() });
        assert_ne!(all[0], of_endpoint(other, SocketAddr::from(([10, 0, 0, 0], 80))));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC{0,40}|[0-9a-f]{32}|[+][0-9a-f]{31}") {
            if let Some(token) = Token::parse(&text) {
                prop_assert_eq!(token.to_string(), text.to_ascii_lowercase());
            }
        }
    }
}
