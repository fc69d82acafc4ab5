//! Picks an endpoint: power of two choices over peak-EWMA latency times requests in flight.
//!
//! A failure weighs as slowness, so that failing fast attracts nothing. An endpoint that refused a request it never
//! handled leaves at once, for 1 s doubling to 10 s, and its latency estimate is not touched. When every endpoint has
//! left, they are all tried again: a guess beats a certain failure.
//!
//! State is a worker's own: no lock, and what another worker learned is not known here.

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

pub use budget::Budget;
pub use endpoint::Endpoint;
use mesh_policy::ServiceRef;

use crate::{
    control::{EndpointSet, Snapshot},
    random::Random,
};

/// The endpoints of one backend as one worker sees them.
pub struct Balancer {
    /// The backend.
    pub service: ServiceRef,
    source: Arc<Snapshot<EndpointSet>>,
    seen: RefCell<Option<Arc<EndpointSet>>>,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    times: Decay,
    /// What retries it may be asked.
    pub budget: Budget,
    /// When this balancer was last asked; the cache forgets the one unused for longest.
    used: Cell<Instant>,
}

/// How estimates fade and what failures cost.
#[derive(Clone, Copy, Debug)]
pub struct Decay {
    /// Time constant of the latency estimate.
    pub ewma: Duration,
    /// What a failed response adds to its sample.
    pub failure: Duration,
}

impl Balancer {
    /// Follows a backend's endpoints.
    pub fn new(service: ServiceRef, source: Arc<Snapshot<EndpointSet>>, times: Decay) -> Self {
        let now = Instant::now();
        let budget = Budget::new(now);
        let (seen, endpoints, used) = (RefCell::default(), RefCell::default(), Cell::new(now));
        Self { service, source, seen, endpoints, times, budget, used }
    }

    /// Waits until the endpoints are known, at most `limit`. The phase says why they are not.
    pub async fn ready(&self, limit: Duration) -> Result<(), crate::control::Phase> {
        self.source.wait(limit).await.map(drop)
    }

    /// Whether the endpoints are known.
    pub(crate) fn is_ready(&self) -> bool {
        self.source.get().is_some()
    }

    /// When it was last asked.
    pub fn used(&self) -> Instant {
        self.used.get()
    }

    /// The endpoint for the next request that is none of `tried`.
    pub fn pick(&self, random: &Random, now: Instant, tried: &[SocketAddr]) -> Option<Rc<Endpoint>> {
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
        // Few are left: look at each, and at those that left only when nothing else remains.
        let best =
            |candidates: &mut dyn Iterator<Item = &Rc<Endpoint>>| candidates.reduce(|a, b| cheaper(a, b, now)).cloned();
        best(&mut endpoints.iter().filter(usable)).or_else(|| best(&mut endpoints.iter().filter(free)))
    }

    /// The endpoint whose address `is_it`, if it is there and did not refuse lately: what a session stays with.
    pub fn find(&self, now: Instant, is_it: impl Fn(SocketAddr) -> bool) -> Option<Rc<Endpoint>> {
        self.used.set(now);
        self.refresh(now);
        let endpoints = self.endpoints.borrow();
        endpoints.iter().find(|e| is_it(e.info.address)).filter(|e| e.is_admitted(now)).cloned()
    }

    /// Takes over a newer set; endpoints that stay keep their connections and estimates, those of the others end when nothing
    /// is under way on them.
    pub fn refresh(&self, now: Instant) {
        let Some(current) = self.source.get() else {
            // The backend is gone: what is still open to its endpoints ends with them.
            if self.seen.take().is_some() {
                self.endpoints.take();
            }
            return;
        };
        if self.seen.borrow().as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &current)) {
            return;
        }
        let old = self.endpoints.take();
        // Sets are sorted by address: thousands of endpoints must not stop the worker for each that comes or goes.
        let at = |info: &mesh_policy::Endpoint| old.binary_search_by_key(&info.address, |e| e.info.address).ok();
        let keep = |info: &mesh_policy::Endpoint| Some(&old[at(info)?]).filter(|e| e.info == *info).cloned();
        let fresh = |info: &mesh_policy::Endpoint| Rc::new(Endpoint::new(info.clone(), self.times, now));
        let next = current.endpoints.iter().map(|info| keep(info).unwrap_or_else(|| fresh(info))).collect();
        self.endpoints.replace(next);
        self.seen.replace(Some(current));
    }
}

/// Costs within this factor are equal: noise between equals must not send everything to one of them. Below 2, so that one
/// request in flight still tells two idle ones apart.
const EQUAL: f64 = 1.5;

/// The cheaper one; of equals, the first.
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
        };
        source.publish(EndpointSet { endpoints: (1..=n).map(endpoint).collect() });
        let service = ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
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
        first.refused(now);
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
        balancer.pick(&Random::seeded(1), now, &[]).unwrap().refused(now);
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
