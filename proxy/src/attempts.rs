//! The one loop of attempts: for requests, for requests that leave HTTP, for connections of bytes, and for what the inbound
//! side hands to its application.
//!
//! Whatever was certainly not handled goes to another endpoint. If only its connection was ending and there is no other
//! endpoint, it goes to the same one on a new connection. Whatever may have been handled is repeated by the rule's retry
//! policy, or once if it is safe, and only within the backend's retry budget. The [`Try`] defines one attempt, and what of it
//! may be repeated.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use mesh_policy::{ForwardTo, Retry, RetryBudget};
use metrics::Counter;
use smallvec::SmallVec;

use crate::{
    balance::{Balancer, Budget, Endpoint},
    error::{Delivery, Error, Reason},
    metrics::DirectionMetrics,
    random::Random,
    record::Record,
    target::OutboundTarget,
    worker::Worker,
};

/// Attempts at other endpoints for what was never delivered. Each goes to a different endpoint, so they cause no retry storm.
const MAX_REDELIVERIES: usize = 3;

/// Addresses of endpoints. Most requests are tried at one.
type Addresses = SmallVec<[SocketAddr; 4]>;

/// Where something may go.
pub(crate) enum Candidates<'c> {
    /// To any endpoint of a Service.
    Balanced(Rc<Balancer>),
    /// To one pod, or to the application of this pod; with the budget of its retries.
    One(Rc<Endpoint>, &'c Budget),
}

impl<'c> Candidates<'c> {
    /// The candidates of a destination, once its endpoints are known.
    pub(crate) async fn of(
        worker: &Worker,
        record: &Record,
        target: &'c OutboundTarget,
        to: ForwardTo<'_>,
    ) -> Result<Self, Error> {
        match to {
            ForwardTo::Endpoint(endpoint) => Ok(Self::One(target.direct(endpoint), &target.budget)),
            ForwardTo::Service(service) => {
                let balancer = worker.known_balancer(service);
                record.backend(&balancer);
                Ok(Self::Balanced(worker.ready(balancer).await?))
            }
        }
    }

    /// The endpoint for the next attempt, other than those in `tried`.
    pub(crate) fn pick(&self, random: &Random, tried: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        match self {
            Self::Balanced(balancer) => balancer.pick(random, Instant::now(), tried),
            Self::One(endpoint, _) => tried.is_empty().then(|| endpoint.clone()),
        }
    }

    /// The budget for retries of what may have been handled.
    pub(crate) fn budget(&self) -> &Budget {
        match self {
            Self::Balanced(balancer) => &balancer.budget,
            Self::One(_, budget) => budget,
        }
    }

    /// Name of the destination for error messages.
    fn name(&self) -> String {
        match self {
            Self::Balanced(balancer) => balancer.service.to_string(),
            Self::One(endpoint, _) => endpoint.info.address.to_string(),
        }
    }
}

/// What is tried.
pub(crate) trait Try {
    /// The result of an attempt that succeeds.
    type Answer;

    /// One attempt at one endpoint.
    async fn at(&mut self, endpoint: &Rc<Endpoint>) -> Result<Self::Answer, Error>;

    /// Whether it can be sent again: all of its data is still kept.
    fn can_begin_again(&self) -> bool;

    /// If this answer must be retried: the counter of such retries.
    fn unwanted(&self, _answer: &Self::Answer) -> Option<&Counter> {
        None
    }

    /// If it must be retried after this error, and may have been handled: the counter of such retries. `is_first`: no attempt
    /// failed before.
    fn unanswered(&self, _error: &Error, _is_first: bool) -> Option<&Counter> {
        None
    }
}

/// How something may be tried.
pub(crate) struct Attempts<'a> {
    /// Source of random numbers.
    pub(crate) random: &'a Random,
    /// Counts retries.
    pub(crate) metrics: &'a DirectionMetrics,
    /// Where it may go.
    pub(crate) candidates: Candidates<'a>,
    /// The endpoint of its session, or the preferred one: the first attempt goes there.
    pub(crate) sticky: Option<Rc<Endpoint>>,
    /// The rule's retry policy.
    pub(crate) retry: Option<&'a Retry>,
    /// The deadline.
    pub(crate) deadline: Option<Instant>,
    /// How often something that was never delivered is tried again; never more often than the retry policy has attempts.
    pub(crate) redeliveries: usize,
}

/// The attempts so far.
#[derive(Default)]
struct History {
    /// Endpoints that refused it.
    refused: Addresses,
    /// Endpoints whose connection was ending before it accepted the request.
    closing: Addresses,
    /// Endpoints at which it failed.
    failed: Addresses,
    /// Attempts after the first that count for the retry policy.
    retries: u32,
}

impl History {
    /// How many attempts were certainly not handled.
    fn undelivered(&self) -> usize {
        self.refused.len() + self.closing.len()
    }
}

impl<'a> Attempts<'a> {
    /// Without a policy, a session or a limit.
    pub(crate) fn new(random: &'a Random, metrics: &'a DirectionMetrics, candidates: Candidates<'a>) -> Self {
        let redeliveries = MAX_REDELIVERIES;
        Self { random, metrics, candidates, sticky: None, retry: None, deadline: None, redeliveries }
    }

    /// The loop. Returns the result of the last attempt, and its endpoint.
    pub(crate) async fn run<T: Try>(&self, tried: &mut T) -> Result<(T::Answer, Rc<Endpoint>), Error> {
        let mut history = History::default();
        let mut last: Option<Error> = None;
        loop {
            let Some(endpoint) = self.pick(&history) else {
                let Some(error) = last else {
                    return Err(Error::undelivered(Reason::NoEndpoints, self.candidates.name()));
                };
                // If the last attempt ended like this, nothing was delivered, and the kind of request does not matter.
                let wants =
                    self.retry.is_some() && (error.is_undelivered() || tried.unanswered(&error, true).is_some());
                let refused = &self.metrics.retries_refused;
                let Some(wait) = self.again(wants && tried.can_begin_again(), &mut history, refused) else {
                    return Err(error);
                };
                tokio::time::sleep(wait).await;
                history.refused.clear();
                history.closing.clear();
                last = Some(error);
                continue;
            };
            let error = match tried.at(&endpoint).await {
                Ok(answer) => {
                    let unwanted = tried.unwanted(&answer);
                    let again = unwanted.and_then(|why| self.again(tried.can_begin_again(), &mut history, why));
                    let Some(wait) = again else { return Ok((answer, endpoint)) };
                    tracing::debug!("{}: trying again after an answer", self.candidates.name());
                    // Its stream or connection ends here: the rest of this answer is not needed.
                    drop(answer);
                    history.failed.push(endpoint.info.address);
                    tokio::time::sleep(wait).await;
                    last = None;
                    continue;
                }
                Err(error) => error,
            };
            if error.is_undelivered() && error.is_of_the_endpoint() {
                if !tried.can_begin_again() {
                    return Err(error);
                }
                self.note_undelivered(&endpoint, &error, &mut history);
            } else {
                let unanswered = tried.unanswered(&error, history.failed.is_empty());
                let again = unanswered.and_then(|why| self.again(tried.can_begin_again(), &mut history, why));
                let Some(wait) = again else { return Err(error) };
                history.failed.push(endpoint.info.address);
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
            tracing::debug!("{}: {error}; trying again", self.candidates.name());
            last = Some(error);
        }
    }

    /// The endpoint for the next attempt. One that refused is never taken. One that failed, or whose connection was ending,
    /// is taken only if there is no other, with a new connection. A session stays with its endpoint as long as possible.
    fn pick(&self, history: &History) -> Option<Rc<Endpoint>> {
        if history.undelivered() > self.redeliveries() {
            return None;
        }
        if history.failed.is_empty() && history.refused.is_empty() && self.sticky.is_some() {
            return self.sticky.clone();
        }
        if history.failed.is_empty() && history.closing.is_empty() {
            return self.candidates.pick(self.random, &history.refused);
        }
        let mut avoided = history.refused.clone();
        avoided.extend(history.failed.iter().chain(&history.closing).copied());
        let another = self.candidates.pick(self.random, &avoided);
        another.or_else(|| self.candidates.pick(self.random, &history.refused))
    }

    fn note_undelivered(&self, endpoint: &Endpoint, error: &Error, history: &mut History) {
        // A server that is not a peer's proxy may refuse a stream on a connection that has not served one yet. It is tried
        // once more; after that, the server itself counts as refusing.
        let is_first = history.undelivered() == 0 && endpoint.info.identity.is_none();
        if error.delivery == Delivery::Closing || (error.reason == Reason::Refused && is_first) {
            history.closing.push(endpoint.info.address);
        } else {
            endpoint.eject(Instant::now());
            history.refused.push(endpoint.info.address);
        }
        if history.undelivered() <= self.redeliveries() {
            self.metrics.retries_refused.increment(1);
            history.retries += u32::from(self.retry.is_some());
        }
    }

    /// How long to wait before one more attempt. `None` if the policy, the time left or the backend's budget does not allow
    /// one. Spends from the budget and counts the retry.
    fn again(&self, is_possible: bool, history: &mut History, why: &Counter) -> Option<Duration> {
        let most = self.retry.map_or(1, |retry| retry.attempts);
        if !is_possible || history.retries >= most {
            return None;
        }
        let least = self.retry.map_or(Duration::ZERO, |retry| retry.wait(history.retries + 1));
        // Up to half as long again, so that attempts that failed together are not retried together.
        let wait = least + (self.random.jitter(least).saturating_sub(least / 2)) / 2;
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now + wait >= deadline) {
            return None;
        }
        let allowed = self.retry.map_or_else(RetryBudget::default, |retry| retry.budget);
        if !self.candidates.budget().spend(now, &allowed) {
            self.metrics.retries_over_budget.increment(1);
            return None;
        }
        history.retries += 1;
        why.increment(1);
        Some(wait)
    }

    fn redeliveries(&self) -> usize {
        self.retry.map_or(self.redeliveries, |retry| self.redeliveries.min(retry.attempts as usize))
    }
}
