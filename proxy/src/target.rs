//! What a worker calls and what is called through it: a destination of the application, and a port of it. Each knows its policy,
//! and waits for the first one.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::{Identity, InboundPolicy, OutboundPolicy, Target};

use crate::{
    balance::{Budget, Decay, Endpoint},
    config::Config,
    control::{Phase, Snapshot},
    error::{Error, Reason},
    http::{app_places::AppPlaces, pool::Pool},
    metrics::Series,
    remembered::Used,
};

/// How long a destination that was outside the mesh waits for the controller to say so again. Without an answer it still is.
const SAID_AGAIN: Duration = Duration::from_millis(100);

/// A destination of the application.
pub struct OutboundTarget {
    /// `host:port`.
    pub name: Box<str>,
    policy: Arc<Snapshot<OutboundPolicy>>,
    /// How long the first answer about it is waited for.
    discovery: Duration,
    decay: Decay,
    /// What retries the one endpoint may be asked, when the target is a pod's address.
    pub budget: Budget,
    /// That endpoint.
    direct: RefCell<Option<Rc<Endpoint>>>,
    used: Cell<Instant>,
    /// A public address that was nothing known when it was asked for last: for this one it is asked again. Of a private one
    /// the stream goes on and says when somebody has it.
    external: bool,
    asked: Instant,
}

/// A port of this pod's application.
pub struct InboundPort {
    /// Where the application listens.
    pub address: SocketAddr,
    /// HTTP/1 requests at the application.
    pub app_places: Rc<AppPlaces>,
    /// Connections to the application.
    pub pool: Pool,
    /// What retries it may be asked.
    pub budget: Budget,
    /// Bound metrics by caller; the last few callers.
    pub series: RefCell<Vec<(Option<Identity>, Rc<Series>)>>,
    policy: Arc<Snapshot<InboundPolicy>>,
    discovery: Duration,
    used: Cell<Instant>,
}

impl AsRef<Pool> for InboundPort {
    fn as_ref(&self) -> &Pool {
        &self.pool
    }
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
    /// One that is asked for now.
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

    /// It is asked for again.
    pub(crate) fn use_it(&self) {
        self.used.set(Instant::now());
    }

    /// Whether the controller knows nothing of it.
    pub(crate) fn is_not_found(&self) -> bool {
        self.policy.is_not_found()
    }

    /// The policy now, waiting for the first one within the discovery timeout. An address that nobody has is none.
    pub async fn policy(&self) -> Result<Arc<OutboundPolicy>, Error> {
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

    /// The policy once somebody has the address; that is waited for, since a pod may be known before its address is, but no
    /// longer than the discovery timeout after it was first asked for.
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

    /// What is said of an address that nobody is known to have.
    pub fn unowned(&self, address: SocketAddr) -> Error {
        let is_outside = self.policy.get().is_some_and(|policy| matches!(policy.target, Target::Outside(_)));
        if is_outside {
            return Error::undelivered(Reason::UnknownTarget, format!("nobody of the mesh has {address}"));
        }
        let detail = format!("the controller does not know who has {address}, an address of the cluster");
        Error::undelivered(Reason::UnknownAddress, detail)
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

    /// Lets go of the one endpoint if it is not what discovery says by now.
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

    /// The one endpoint of a pod's address, kept with its connections for as long as discovery says the same.
    pub fn direct(&self, endpoint: &mesh_policy::Endpoint) -> Rc<Endpoint> {
        let mut direct = self.direct.borrow_mut();
        match &*direct {
            Some(known) if known.info == *endpoint => known.clone(),
            _ => direct.insert(Rc::new(Endpoint::new(endpoint.clone(), self.decay, Instant::now()))).clone(),
        }
    }
}

impl InboundPort {
    /// One that is asked for now.
    pub(crate) fn new(address: SocketAddr, policy: Arc<Snapshot<InboundPolicy>>, config: &Config) -> Self {
        let now = Instant::now();
        Self {
            address,
            app_places: AppPlaces::new(config.limits.app_requests),
            pool: Pool::default(),
            budget: Budget::new(now),
            series: RefCell::default(),
            policy,
            discovery: config.times.discovery,
            used: Cell::new(now),
        }
    }

    /// It is asked for again.
    pub(crate) fn use_it(&self) {
        self.used.set(Instant::now());
    }

    /// The policy now. While the controller has not answered yet, it is waited for; without it, nothing is allowed.
    pub async fn policy(&self) -> Result<Arc<InboundPolicy>, Error> {
        if let Some(policy) = self.policy.get() {
            return Ok(policy);
        }
        self.policy.wait(self.discovery).await.map_err(|phase| {
            let why = if phase == Phase::Pending { "did not answer about" } else { "does not know this pod yet, nor" };
            let detail = format!("the controller {why} port {}", self.address.port());
            Error::undelivered(Reason::DiscoveryUnavailable, detail)
        })
    }
}

/// The form in which targets are asked for: lower case, with a port, without the root's trailing dot.
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
