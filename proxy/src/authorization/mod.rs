//! Who may call this pod, carried out: each request and each connection of bytes is decided when it comes, and again when
//! policy changes while it is open.
//!
//! `mesh-policy` decides. Here is what comes of it: the counters of policies, the table of callers, the line of the log, and
//! the end of what is allowed no more, within moments and without touching anything else. AUDIT policies and those in shadow
//! are counted and change nothing.
//!
//! Reading order: [`Subject`] (the caller of one connection), `in_force` (the policy), `open` (what is open) and `kept` (its
//! facts), `refusals` (what is said of a refusal), `callers` (who called).

mod callers;
mod in_force;
mod kept;
mod open;
mod refusals;
mod subject;

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::WorkloadPolicy;
use metrics::Counter;

pub(crate) use self::{callers::Callers, kept::Kept, open::Admission, subject::Subject};
use self::{
    in_force::InForce,
    open::{Open, Stage, Standing},
    refusals::Limit,
};
use crate::{
    config::Config,
    connections::End,
    control::{Phase, Snapshot},
    error::{Error, Reason},
    metrics::{Direction, Metrics},
    random::Random,
};

/// So many are decided again before others of the worker get their turn.
const BATCH: usize = 64;
/// How often it is looked for requests that last.
const SETTLED: Duration = Duration::from_secs(10);
/// A response that has its connection to itself and whose client takes nothing may be on it for so long.
const STUCK: Duration = Duration::from_secs(1);

/// What the connections of one worker share about who may call.
pub(crate) struct Authorization {
    policy: Arc<Snapshot<WorkloadPolicy>>,
    in_force: RefCell<Option<Rc<InForce>>>,
    open: Open,
    callers: Arc<Callers>,
    refusals: Limit,
    random: Random,
    metrics: Arc<Metrics>,
    /// Connections that were ended.
    ended: Counter,
    /// How long the first policy is waited for.
    discovery: Duration,
    /// Whether whoever is refused is told by which policy.
    tells_details: bool,
}

impl Authorization {
    /// Nothing is open yet.
    pub(crate) fn new(
        policy: Arc<Snapshot<WorkloadPolicy>>,
        callers: Arc<Callers>,
        metrics: Arc<Metrics>,
        config: &Config,
    ) -> Self {
        let labels = [("direction", Direction::Inbound.as_str()), ("why", "policy")];
        Self {
            policy,
            in_force: RefCell::default(),
            open: Open::default(),
            callers,
            refusals: Limit::default(),
            random: Random::default(),
            ended: metrics.counter("mesh_connections_ended_total", &labels),
            metrics,
            discovery: config.times.discovery,
            tells_details: config.denial_details,
        }
    }

    /// Whether that is still the policy in force: one atomic load.
    fn is_in_force(&self, known: &InForce) -> bool {
        self.policy.is(&known.policy)
    }

    /// The policy in force. Waits for the first one.
    async fn in_force(&self) -> Result<Rc<InForce>, Error> {
        let policy = self.policy.wait(self.discovery).await.map_err(|phase| {
            let why = if phase == Phase::Pending { "did not answer about" } else { "does not know yet" };
            Error::undelivered(Reason::DiscoveryUnavailable, format!("the controller {why} who may call this pod"))
        })?;
        Ok(self.bound(policy))
    }

    /// A policy with its counters, which are bound once.
    fn bound(&self, policy: Arc<WorkloadPolicy>) -> Rc<InForce> {
        let mut in_force = self.in_force.borrow_mut();
        match &*in_force {
            Some(known) if Arc::ptr_eq(&known.policy, &policy) => known.clone(),
            _ => in_force.insert(Rc::new(InForce::new(policy, &self.metrics))).clone(),
        }
    }

    /// Decides again about everything that is open. What comes meanwhile is decided by the new policy anyway.
    async fn judge_again(&self) {
        let Some(in_force) = self.policy.get().map(|policy| self.bound(policy)) else { return };
        let mut first = 0;
        while first < self.open.places() {
            for place in first..first + BATCH {
                self.open.judge(place, |standing| {
                    let refused = standing.subject.judge(standing, &in_force)?;
                    self.end(standing);
                    Some(refused)
                });
            }
            first += BATCH;
            tokio::task::yield_now().await;
        }
    }

    /// Gives back what requests that last for long hold and do not need.
    async fn settle(&self) {
        for first in (0..self.open.places()).step_by(BATCH) {
            self.open.settle(first..first + BATCH);
            tokio::task::yield_now().await;
        }
    }

    /// Ends a connection that is nothing but what is refused. A request ends itself, and what is beside it goes on.
    fn end(&self, standing: &Standing) {
        let entry = &standing.subject.entry;
        if standing.stage == Stage::Connection {
            self.ended.increment(1);
            entry.end(End::Now);
        } else if standing.has_connection() {
            entry.ends_at(Instant::now() + STUCK, End::Now);
        }
    }
}

/// Ends what policy allows no more whenever it changes, for as long as the worker lives.
pub(crate) async fn run(authorization: Rc<Authorization>) {
    let mut changes = authorization.policy.changes();
    // Its sender lives in the snapshot.
    loop {
        match tokio::time::timeout(SETTLED, changes.changed()).await {
            Ok(Ok(())) => authorization.judge_again().await,
            Ok(Err(_)) => return,
            Err(_) => authorization.settle().await,
        }
    }
}

#[cfg(test)]
mod tests;
