//! Picks an endpoint: power of two choices over peak-EWMA latency times requests in flight.
//!
//! A failure counts as slowness, so an endpoint that fails fast attracts no requests. An endpoint that refused a request it
//! never handled is ejected at once, for 1 s doubling to 10 s, and its latency estimate is not changed. If all endpoints are
//! ejected, all are tried again: a guess is better than a certain failure.
//!
//! State is local to a worker, without locks. One worker does not know what another one learned.

mod budget;
mod endpoint;
mod ewma;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use budget::Budget;
pub(crate) use endpoint::Endpoint;
use mesh_policy::ServiceRef;

use crate::{
    control::{EndpointSet, Snapshot},
    random::Random,
};

/// The endpoints of one backend as one worker sees them.
pub(crate) struct Balancer {
    /// The backend.
    pub service: ServiceRef,
    source: Arc<Snapshot<EndpointSet>>,
    seen: RefCell<Option<Arc<EndpointSet>>>,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    times: Decay,
    /// The retry budget of the backend.
    pub budget: Budget,
    /// When this balancer was last used. The cache drops the least recently used one.
    used: Cell<Instant>,
}

/// How latency estimates decay and what failures cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decay {
    /// Time constant of the latency estimate.
    pub ewma: Duration,
    /// Time that a failed response adds to its sample.
    pub failure: Duration,
}

impl Balancer {
    /// Follows a backend's endpoints.
    pub(crate) fn new(service: ServiceRef, source: Arc<Snapshot<EndpointSet>>, times: Decay) -> Self {
        let now = Instant::now();
        let budget = Budget::new(now);
        let (seen, endpoints, used) = (RefCell::default(), RefCell::default(), Cell::new(now));
        Self { service, source, seen, endpoints, times, budget, used }
    }

    /// Waits until the endpoints are known, at most `limit`. If they are not, the phase says why.
    pub(crate) async fn ready(&self, limit: Duration) -> Result<(), crate::control::Phase> {
        self.source.wait(limit).await.map(drop)
    }

    /// Whether the endpoints are known.
    pub(crate) fn is_ready(&self) -> bool {
        self.source.get().is_some()
    }

    /// When it was last used.
    pub(crate) fn used(&self) -> Instant {
        self.used.get()
    }

    /// The endpoint for the next request, other than those in `tried`.
    pub(crate) fn pick(&self, random: &Random, now: Instant, tried: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        self.used.set(now);
        self.refresh(now);
        let endpoints = self.endpoints.borrow();
        let free = |e: &&Rc<Endpoint>| !tried.contains(&e.info.address);
        let usable = |e: &&Rc<Endpoint>| free(e) && e.is_admitted(now);
        let n = endpoints.len();
        if n > 1 {
            let first = random.below(n);
            let second = (first + 1 + random.below(n - 1)) % n;
            match (Some(&endpoints[first]).filter(usable), Some(&endpoints[second]).filter(usable)) {
                (Some(a), Some(b)) => return Some(cheaper(a, b, now).clone()),
                (Some(one), None) | (None, Some(one)) => return Some(one.clone()),
                (None, None) => {}
            }
        }
        // Few are left: look at each. Ejected ones are taken only when nothing else remains.
        let best =
            |candidates: &mut dyn Iterator<Item = &Rc<Endpoint>>| candidates.reduce(|a, b| cheaper(a, b, now)).cloned();
        best(&mut endpoints.iter().filter(usable)).or_else(|| best(&mut endpoints.iter().filter(free)))
    }

    /// The endpoint for whose address `is_it` is true, unless it is gone or ejected: a session stays with it.
    pub(crate) fn find(&self, now: Instant, is_it: impl Fn(SocketAddr) -> bool) -> Option<Rc<Endpoint>> {
        self.used.set(now);
        self.refresh(now);
        let endpoints = self.endpoints.borrow();
        endpoints.iter().find(|e| is_it(e.info.address)).filter(|e| e.is_admitted(now)).cloned()
    }

    /// Applies a newer set. Endpoints that stay keep their connections and estimates. Connections of the others end when no
    /// request is in flight on them.
    pub(crate) fn refresh(&self, now: Instant) {
        let Some(current) = self.source.get() else {
            // The backend is gone: connections to its endpoints end as well.
            if self.seen.take().is_some() {
                self.endpoints.take();
            }
            return;
        };
        if self.seen.borrow().as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &current)) {
            return;
        }
        let old = self.endpoints.take();
        // Sets are sorted by address, so that one change among thousands of endpoints does not block the worker.
        let at = |info: &mesh_policy::Endpoint| old.binary_search_by_key(&info.address, |e| e.info.address).ok();
        let keep = |info: &mesh_policy::Endpoint| Some(&old[at(info)?]).filter(|e| e.info == *info).cloned();
        let fresh = |info: &mesh_policy::Endpoint| Rc::new(Endpoint::new(info.clone(), self.times, now));
        let next = current.endpoints.iter().map(|info| keep(info).unwrap_or_else(|| fresh(info))).collect();
        self.endpoints.replace(next);
        self.seen.replace(Some(current));
    }
}

/// Costs within this factor are equal: small differences by chance must not send everything to one endpoint. Below 2, so that
/// one request in flight still makes a difference between two idle endpoints.
const EQUAL: f64 = 1.5;

/// The cheaper one; the first if they are equal.
fn cheaper<'e>(a: &'e Rc<Endpoint>, b: &'e Rc<Endpoint>, now: Instant) -> &'e Rc<Endpoint> {
    if a.cost(now) <= b.cost(now) * EQUAL { a } else { b }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DECAY: Decay = Decay { ewma: Duration::from_secs(5), failure: Duration::from_secs(1) };

    fn balancer(n: u16) -> Balancer {
        let source = Arc::new(Snapshot::default());
        let endpoint = |port| mesh_policy::Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            identity: None,
            zone: None,
            workload: "".into(),
            controlled_by: "".into(),
        };
        source.publish(EndpointSet { endpoints: (1..=n).map(endpoint).collect() });
        let service = ServiceRef::new("shop", "web", 80);
        Balancer::new(service, source, DECAY)
    }

    /// Sends `n` requests one after another, a millisecond apart; `serve` says how long a port takes and if it fails.
    fn shares(n: u32, serve: impl Fn(u16) -> (u64, bool)) -> Vec<u32> {
        let balancer = balancer(3);
        let random = Random::seeded(3);
        let mut now = Instant::now();
        let mut shares = vec![0; 3];
        for _ in 0..n {
            let endpoint = balancer.pick(&random, now, &[]).unwrap();
            let port = endpoint.info.address.port();
            shares[usize::from(port) - 1] += 1;
            let (ms, failed) = serve(port);
            now += Duration::from_millis(1);
            endpoint.observe(Duration::from_millis(ms), failed, now);
        }
        shares
    }

    #[test]
    fn a_slow_endpoint_gets_under_two_percent() {
        let shares = shares(10_000, |port| if port == 2 { (50, false) } else { (1, false) });
        assert!(shares[1] < 200, "{shares:?}");
    }

    #[test]
    fn failing_fast_is_not_being_fast() {
        let shares = shares(10_000, |port| if port == 2 { (0, true) } else { (1, false) });
        assert!(shares[1] < 200, "{shares:?}");
    }

    #[test]
    fn when_all_fail_all_share() {
        let shares = shares(10_000, |_| (1, true));
        assert!(shares.iter().all(|&s| s > 1_000), "{shares:?}");
    }

    #[test]
    fn one_that_refuses_leaves_and_comes_back() {
        let balancer = balancer(2);
        let random = Random::seeded(1);
        let now = Instant::now();
        let first = balancer.pick(&random, now, &[]).unwrap();
        first.eject(now);
        for _ in 0..100 {
            assert_ne!(balancer.pick(&random, now, &[]).unwrap().info.address, first.info.address);
        }
        let later = now + Duration::from_millis(1_500);
        assert!((0..100).any(|_| balancer.pick(&random, later, &[]).unwrap().info.address == first.info.address));
    }

    #[test]
    fn the_last_one_is_tried_although_it_refused() {
        let balancer = balancer(1);
        let now = Instant::now();
        balancer.pick(&Random::seeded(1), now, &[]).unwrap().eject(now);
        let last = balancer.pick(&Random::seeded(1), now, &[]).unwrap();
        assert!(balancer.pick(&Random::seeded(1), now, &[last.info.address]).is_none());
    }

    #[test]
    fn endpoints_that_stay_keep_their_state() {
        let balancer = balancer(2);
        let now = Instant::now();
        let random = Random::seeded(1);
        let kept = balancer.pick(&random, now, &[]).unwrap();
        let only = EndpointSet { endpoints: vec![kept.info.clone()] };
        balancer.source.publish(only);
        assert!(Rc::ptr_eq(&balancer.pick(&random, now, &[]).unwrap(), &kept));
        balancer.source.publish(EndpointSet::default());
        assert!(balancer.pick(&random, now, &[]).is_none());
    }
}
