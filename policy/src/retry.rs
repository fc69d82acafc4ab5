//! Which failed attempts are made again (Gateway API, `HTTPRouteRetry`, GEP-1731; GEP-3388 for the budget).
//!
//! What was never delivered is tried at another endpoint, whatever the method and without any of this, unless a policy
//! of 0 attempts forbids it. Waiting, counting and keeping bodies are the proxy's.

use std::time::Duration;

use http::Method;

/// Longest wait between two attempts, where a policy says nothing: doubling stops there.
pub const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Retries of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Most attempts after the first; 0: the first is the only one, even if it was never delivered.
    pub attempts: u32,
    /// Least wait before the second attempt; doubled before each further one, up to [`Retry::max_backoff`].
    pub backoff: Duration,
    /// Where doubling stops. At least `backoff`.
    pub max_backoff: Duration,
    /// Statuses that are tried again, ascending.
    pub statuses: Vec<u16>,
    /// Codes of gRPC that are tried again, ascending (grpc/doc/statuscodes.md).
    pub grpc_codes: Vec<u8>,
    /// Whether an attempt that got no response (connection refused or reset, attempt's time limit) is made again.
    pub on_no_response: bool,
    /// Which methods may be repeated after something of the request may have been handled.
    pub methods: RetryMethods,
    /// How much load retries may add.
    pub budget: RetryBudget,
}

/// Methods that may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RetryMethods {
    /// Those that RFC 9110 section 9.2.2 calls idempotent.
    #[default]
    Idempotent,
    /// Those, and the ones listed, which the author of the route vouches for.
    Also(Vec<Method>),
}

/// Load that retries may add to a backend: a part of its requests, and a floor so that a quiet backend gets some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries for 100 requests.
    pub percent: u32,
    /// Retries a second that are allowed in any case.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    /// 20 % and 10 a second.
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}

impl Default for Retry {
    /// One retry after 25 ms of an attempt of an idempotent method that got no response.
    fn default() -> Self {
        Self {
            attempts: 1,
            backoff: Duration::from_millis(25),
            max_backoff: MAX_BACKOFF,
            statuses: Vec::new(),
            grpc_codes: Vec::new(),
            on_no_response: true,
            methods: RetryMethods::default(),
            budget: RetryBudget::default(),
        }
    }
}

/// How an attempt ended, as far as retries care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status; of gRPC with this code, if it stands in the head.
    Response {
        /// The status.
        status: u16,
        /// `grpc-status`, where the response has no body to wait for.
        grpc: Option<u8>,
    },
    /// None: the connection broke, or the attempt's time limit passed.
    NoResponse,
}

impl Retry {
    /// Whether an attempt that ended so is made again, if attempts, time and budget are left.
    pub fn wants(&self, outcome: Outcome, method: &Method) -> bool {
        let by_outcome = match outcome {
            Outcome::Response { status, grpc: Some(code) } => {
                self.grpc_codes.contains(&code) || self.statuses.contains(&status)
            }
            Outcome::Response { status, grpc: None } => self.statuses.contains(&status),
            Outcome::NoResponse => self.on_no_response,
        };
        by_outcome && self.methods.include(method)
    }

    /// Least wait before attempt `number` (1 is the first retry): doubled each time up to the most.
    pub fn wait(&self, number: u32) -> Duration {
        let factor = 1u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(factor).min(self.max_backoff)
    }
}

impl RetryMethods {
    /// Whether a method is among them.
    pub fn include(&self, method: &Method) -> bool {
        method.is_idempotent()
            || match self {
                Self::Idempotent => false,
                Self::Also(listed) => listed.contains(method),
            }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_method_is_repeated_if_it_is_idempotent_or_vouched_for() {
        let retry = Retry { statuses: vec![500, 503], grpc_codes: vec![14], ..Retry::default() };
        let status = |status| Outcome::Response { status, grpc: None };
        for (outcome, method, expected) in [
            (status(503), Method::GET, true),
            (status(503), Method::PUT, true),
            (status(503), Method::POST, false),
            (status(502), Method::GET, false),
            (status(200), Method::GET, false),
            (Outcome::NoResponse, Method::DELETE, true),
            (Outcome::NoResponse, Method::PATCH, false),
        ] {
            assert_eq!(retry.wants(outcome, &method), expected, "{outcome:?} {method}");
        }
        let retry = Retry { methods: RetryMethods::Also(vec![Method::POST]), on_no_response: false, ..retry };
        let grpc = |code| Outcome::Response { status: 200, grpc: Some(code) };
        assert!(retry.wants(grpc(14), &Method::POST) && !retry.wants(grpc(13), &Method::POST));
        assert!(retry.wants(status(500), &Method::POST) && !retry.wants(status(500), &Method::PATCH));
        assert!(!retry.wants(Outcome::NoResponse, &Method::GET));
    }

    #[test]
    fn waits_double_up_to_the_most() {
        let retry = Retry { backoff: Duration::from_millis(300), ..Retry::default() };
        let waits = [1, 2, 3, 4, 40].map(|number| retry.wait(number).as_millis());
        assert_eq!(waits, [300, 600, 1_000, 1_000, 1_000]);
    }
}
