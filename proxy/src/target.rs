//! What a worker connects to, and what others reach through it: a destination of the application, and a port of the
//! application. A destination knows its policy, and waits for the first one.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::{Identity, OutboundDecision, OutboundPolicy, Refusal, Target};

use crate::{
    balance::{Budget, Decay, Endpoint},
    config::Config,
    control::{Phase, Snapshot},
    error::{Error, Reason},
    http::{app_places::AppPlaces, pool::Pool},
    metrics::BoundSeries,
    remembered::Used,
};

/// How long to wait for the controller to confirm a destination that was outside the mesh. Without an answer it is still
/// outside.
const SAID_AGAIN: Duration = Duration::from_millis(100);

/// Number of callers of one port whose metrics stay bound.
const MAX_BOUND_CALLERS: usize = 256;

/// A destination of the application.
pub(crate) struct OutboundTarget {
    /// `host:port`.
    pub name: Box<str>,
    policy: Arc<Snapshot<OutboundPolicy>>,
    /// How long the first answer about it is waited for.
    discovery: Duration,
    decay: Decay,
    /// The retry budget of the one endpoint, if the target is a pod's address.
    pub budget: Budget,
    /// That endpoint.
    direct: RefCell<Option<Rc<Endpoint>>>,
    used: Cell<Instant>,
    /// Set for a public address that was unknown when it was last looked up: it is looked up again. For a private address the
    /// stream stays open and says when somebody owns it.
    external: bool,
    asked: Instant,
}

/// A port of this pod's application.
pub(crate) struct InboundPort {
    /// Where the application listens.
    pub address: SocketAddr,
    /// HTTP/1 requests at the application.
    pub app_places: Rc<AppPlaces>,
    /// The application as an endpoint, with the connections to it.
    pub app: Rc<Endpoint>,
    /// The retry budget of the application.
    pub budget: Budget,
    /// Bound metrics of the last few callers.
    pub series: BoundSeries<Option<Identity>, MAX_BOUND_CALLERS>,
    used: Cell<Instant>,
}

impl AsRef<Pool> for Endpoint {
    fn as_ref(&self) -> &Pool {
        &self.pool
    }
}

impl Used for Rc<OutboundTarget> {
    fn used(&self) -> Instant {
        self.used.get()
    }
}

impl Used for Rc<InboundPort> {
    fn used(&self) -> Instant {
        self.used.get()
    }
}

impl OutboundTarget {
    /// A destination that is used from now on.
    pub(crate) fn new(
        name: Box<str>,
        policy: Arc<Snapshot<OutboundPolicy>>,
        external: bool,
        discovery: Duration,
        decay: Decay,
    ) -> Self {
        let now = Instant::now();
        let budget = Budget::new(now);
        let (direct, used) = (RefCell::default(), Cell::new(now));
        Self { name, policy, discovery, decay, budget, direct, used, external, asked: now }
    }

    /// Notes that it is used now.
    pub(crate) fn use_it(&self) {
        self.used.set(Instant::now());
    }

    /// Whether the controller does not know it.
    pub(crate) fn is_not_found(&self) -> bool {
        self.policy.is_not_found()
    }

    /// The current policy. Waits for the first one within the discovery timeout. An address without an owner has no policy.
    pub(crate) async fn policy(&self) -> Result<Arc<OutboundPolicy>, Error> {
        let policy = match self.policy.get() {
            Some(policy) => policy,
            None => self.first().await?,
        };
        match policy.target {
            Target::Service(_) | Target::Endpoint(_) => Ok(policy),
            Target::Outside(address) => Err(self.unowned(address)),
            Target::Unknown(_) => self.owned().await,
        }
    }

    /// The policy once somebody owns the address. It waits because a pod may be known before its address is, but no longer
    /// than the discovery timeout after the destination was first used.
    async fn owned(&self) -> Result<Arc<OutboundPolicy>, Error> {
        let limit = self.discovery.saturating_sub(self.asked.elapsed());
        let is_owned = |policy: &OutboundPolicy| !matches!(policy.target, Target::Unknown(_));
        match self.policy.wait_until(limit, is_owned).await {
            Some(policy) => match policy.target {
                Target::Service(_) | Target::Endpoint(_) => Ok(policy),
                Target::Outside(address) | Target::Unknown(address) => Err(self.unowned(address)),
            },
            None => self.first().await,
        }
    }

    /// The error for an address that has no known owner.
    pub(crate) fn unowned(&self, address: SocketAddr) -> Error {
        let is_outside = self.policy.get().is_some_and(|policy| matches!(policy.target, Target::Outside(_)));
        if is_outside {
            return Error::undelivered(Reason::UnknownTarget, format!("nobody of the mesh has {address}"));
        }
        let detail = format!("the controller does not know who has {address}, an address of the cluster");
        Error::undelivered(Reason::UnknownAddress, detail)
    }

    /// The error for a client whose request or connection nobody serves.
    pub(crate) fn refused(&self, refusal: Refusal<'_>, decision: &OutboundDecision<'_>) -> Error {
        let (reason, detail) = match refusal {
            Refusal::NoRoute => (Reason::NoRoute, format!("no rule of the routes of {} matches", self.name)),
            Refusal::NoBackend => {
                let of = decision.route.map(|route| format!("{}/{}", route.namespace, route.name)).unwrap_or_default();
                (Reason::InvalidBackend, format!("a rule of {of} has no backend"))
            }
            Refusal::InvalidBackend(why) => (Reason::InvalidBackend, why.to_owned()),
            Refusal::BadLocation => (Reason::BadRequest, "what it asks for cannot stand in a Location".to_owned()),
            Refusal::Unowned(Target::Outside(address) | Target::Unknown(address)) => return self.unowned(*address),
            Refusal::Unowned(Target::Service(_) | Target::Endpoint(_)) => {
                (Reason::UnknownTarget, self.name.to_string())
            }
        };
        Error::undelivered(reason, detail)
    }

    async fn first(&self) -> Result<Arc<OutboundPolicy>, Error> {
        let limit = match self.external {
            true => SAID_AGAIN.saturating_sub(self.asked.elapsed()),
            false => self.discovery,
        };
        self.policy.wait(limit).await.map_err(|phase| match phase {
            Phase::Absent | Phase::NotFound => {
                Error::undelivered(Reason::UnknownTarget, format!("the controller knows no {}", self.name))
            }
            Phase::Pending if self.external => {
                Error::undelivered(Reason::UnknownTarget, format!("the controller knew no {}", self.name))
            }
            _ => Error::undelivered(
                Reason::DiscoveryUnavailable,
                format!("the controller did not answer about {} within {limit:?}", self.name),
            ),
        })
    }

    /// Drops the one endpoint if discovery no longer names it.
    pub(crate) fn forget_gone(&self) {
        let policy = self.policy.get();
        let now = policy.as_ref().and_then(|policy| match &policy.target {
            Target::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        });
        if self.direct.borrow().as_ref().is_some_and(|known| Some(&known.info) != now) {
            self.direct.take();
        }
    }

    /// The one endpoint of a pod's address, kept with its connections for as long as discovery names it.
    pub(crate) fn direct(&self, endpoint: &mesh_policy::Endpoint) -> Rc<Endpoint> {
        let mut direct = self.direct.borrow_mut();
        match &*direct {
            Some(known) if known.info == *endpoint => known.clone(),
            _ => direct.insert(Rc::new(Endpoint::new(endpoint.clone(), self.decay, Instant::now()))).clone(),
        }
    }
}

impl InboundPort {
    /// A port that is used from now on.
    pub(crate) fn new(address: SocketAddr, config: &Config, decay: Decay) -> Self {
        let now = Instant::now();
        let info = mesh_policy::Endpoint {
            address,
            identity: None,
            zone: None,
            workload: "".into(),
            controlled_by: "".into(),
        };
        Self {
            address,
            app_places: AppPlaces::new(config.limits.app_requests),
            app: Rc::new(Endpoint::new(info, decay, now)),
            budget: Budget::new(now),
            series: BoundSeries::default(),
            used: Cell::new(now),
        }
    }

    /// Notes that it is used now.
    pub(crate) fn use_it(&self) {
        self.used.set(Instant::now());
    }
}

/// The form in which targets are looked up: lower case, with a port, without the trailing dot of the DNS root.
pub(crate) fn canonical(name: &str) -> String {
    let (host, port) = match name.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (name.trim_end_matches(':'), "80"),
    };
    format!("{}:{port}", host.trim_end_matches('.').to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_one_form() {
        for (given, canon) in [
            ("Web.Shop", "web.shop:80"),
            ("web.shop.:8080", "web.shop:8080"),
            ("[::1]:80", "[::1]:80"),
            ("web:", "web:80"),
        ] {
            assert_eq!(canonical(given), canon);
        }
    }
}
