//! Until when a request is worth an answer: by its route, by its caller (`grpc-timeout`, gRPC over HTTP/2), and by the
//! proxy that sent it on (`mesh-timeout`). What goes on is the time that is left, so that no hop works for nobody.
//!
//! Requests without any limit carry no timer and no header.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Sleep, sleep_until};

use crate::error::{Error, Reason};

/// How long a gRPC caller waits.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The same between proxies, milliseconds, for everything that is no gRPC.
pub(super) const MESH_TIMEOUT: HeaderName = HeaderName::from_static("mesh-timeout");
/// What a peer's proxy waits longer than the caller's, which knows more about the request and is to give it up first, also
/// where both wake up late. Else an answer that says so may be cut by the one who passes it on.
const HEAD_START: Duration = Duration::from_millis(10);
/// Digits of a `grpc-timeout`.
const MOST_DIGITS: usize = 8;
/// What eight digits cannot say.
const TOO_LONG: u128 = 100_000_000;

/// A timer that fires when `at` has come.
pub(super) fn timer(at: Instant) -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(at.into()))
}

/// The earlier of two limits.
pub(super) fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// How long the caller itself waits: of a gRPC request (`grpc`) what its header says.
pub(crate) fn of_caller(grpc: bool, headers: &HeaderMap) -> Option<Duration> {
    if grpc { of_grpc(headers) } else { None }
}

/// How long a gRPC caller waits; what is malformed is the server's to refuse.
fn of_grpc(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if digits.len() > MOST_DIGITS {
        return None;
    }
    let amount = whole_number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3_600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// How long the proxy that sent the request on waits, by the value of [`MESH_TIMEOUT`].
pub(super) fn of_mesh(value: &HeaderValue) -> Option<Duration> {
    whole_number(value.as_bytes()).map(Duration::from_millis)
}

fn whole_number(digits: &[u8]) -> Option<u64> {
    let text = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok()
}

/// Says in a request what is left of its time: to gRPC servers in the caller's words, else to `peer`s only.
pub(super) fn hand_on(headers: &mut HeaderMap, at: Instant, now: Instant, grpc: bool, peer: bool) {
    let left = at.saturating_duration_since(now);
    if grpc {
        if let Ok(value) = HeaderValue::try_from(in_grpc(left)) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    } else if peer {
        let millis = (left + HEAD_START).as_nanos().div_ceil(1_000_000);
        headers.insert(MESH_TIMEOUT, HeaderValue::from(u64::try_from(millis).unwrap_or(u64::MAX)));
    }
}

/// In the finest unit that has room; never 0, which is no timeout (PROTOCOL-HTTP2.md, "Timeout").
fn in_grpc(left: Duration) -> String {
    match (left.as_micros().max(1), left.as_millis()) {
        (micros, _) if micros < TOO_LONG => format!("{micros}u"),
        (_, millis) if millis < TOO_LONG => format!("{millis}m"),
        _ => format!("{}S", u128::from(left.as_secs()).min(TOO_LONG - 1)),
    }
}

/// Does `work` until `late` fires, which then is dropped with all that it does upstream.
pub(super) async fn within<T>(
    late: Option<Pin<&mut Sleep>>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let fired = async {
        match late {
            Some(late) => late.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = fired => Err(Error::begun(Reason::Timeout, "no response in time")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        of_grpc(&HeaderMap::from_iter([(GRPC_TIMEOUT, text.parse().unwrap())]))
    }

    #[test]
    fn timeouts_of_grpc_are_read() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("100m", Some(Duration::from_millis(100))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("0m", Some(Duration::ZERO)),
            ("100000000m", None),
            ("1", None),
            ("m", None),
            ("1 m", None),
            ("+1m", None),
            ("-1m", None),
            ("1x", None),
            ("1.5S", None),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
        assert_eq!(of_grpc(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_left_goes_on() {
        let now = Instant::now();
        let handed = |left: Duration, grpc, peer| {
            let mut headers = HeaderMap::new();
            hand_on(&mut headers, now + left, now, grpc, peer);
            let value = |name| headers.get(name).map(|v: &HeaderValue| v.to_str().unwrap().to_owned());
            (value(GRPC_TIMEOUT), value(MESH_TIMEOUT))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(handed(Duration::from_millis(80), true, true), (some("80000u"), None));
        assert_eq!(handed(Duration::from_secs(100), true, true), (some("100000m"), None));
        assert_eq!(handed(Duration::from_secs(200_000), true, true), (some("200000S"), None));
        assert_eq!(handed(Duration::ZERO, true, false), (some("1u"), None));
        assert_eq!(handed(Duration::from_micros(80_001), false, true), (None, some("91")));
        assert_eq!(handed(Duration::ZERO, false, true), (None, some("10")));
        assert_eq!(handed(Duration::from_secs(1), false, false), (None, None));
    }

    #[test]
    fn a_peers_word_is_a_number() {
        for (text, expected) in
            [("80", Some(80)), ("", None), ("1s", None), ("-1", None), ("99999999999999999999", None)]
        {
            assert_eq!(of_mesh(&text.parse().unwrap()), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    proptest! {
        /// What is handed on is read again, and never longer than what is left.
        #[test]
        fn the_rest_is_never_longer(micros in 1u64..10_000_000_000_000_000) {
            let left = Duration::from_micros(micros);
            let read = parsed(&in_grpc(left)).unwrap();
            prop_assert!(read <= left && !read.is_zero(), "{left:?} became {read:?}");
        }

        #[test]
        fn any_text_is_read(text in "[ -~]{0,12}") {
            let _ = parsed(&text);
        }
    }
}
