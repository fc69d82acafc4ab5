//! A worker: one thread, one runtime, and everything that its connections share. Nothing here is shared with another
//! worker but snapshots, keys and counters, so nothing here is locked.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::{Identity, InboundPolicy, OutboundPolicy, ServiceRef, Target};
use tokio_util::sync::CancellationToken;

use crate::{
    balance::{Balancer, Budget, Decay, Endpoint},
    config::Config,
    connect::version_name,
    connections::{Connections, End, Side},
    control::{Control, Phase, Snapshot},
    error::{Error, Reason},
    handover::Handover,
    http::{app_places::AppPlaces, mirror::Mirrors, pool::Pool},
    metrics::{Direction, DirectionMetrics, Metrics},
    random::Random,
    remembered::{Remembered, Used},
    tls::Tls,
    tls_stream::Session,
};

/// Ports of the application that are remembered. Only where it listens are connections redirected, but a kernel that
/// cannot see that redirects all, and somebody may try them all.
const MAX_PORTS: usize = 1_024;
/// How long a destination that was outside the mesh waits for the controller to say so again. Without an answer it still is.
const SAID_AGAIN: Duration = Duration::from_millis(100);
/// How long what is cut at the end of the process has to be closed.
const CUT: Duration = Duration::from_millis(200);

/// What connections of one worker share.
pub struct Worker {
    /// The configuration.
    pub config: Arc<Config>,
    /// Keys and roots.
    pub tls: Arc<Tls>,
    /// Chance.
    pub random: Random,
    /// Handles for traffic from the application.
    pub outbound: Rc<DirectionMetrics>,
    /// Handles for traffic to the application.
    pub inbound: Rc<DirectionMetrics>,
    /// Cancelled when the proxy shuts down.
    pub drain: CancellationToken,
    /// The connections that are open.
    pub connections: Connections,
    /// Calls of the application to its own pod, on their way to the inbound side.
    pub handover: Arc<Handover>,
    /// Copies of requests that are under way.
    pub mirrors: Mirrors,
    /// The registry, to bind new series.
    pub metrics: Arc<Metrics>,
    control: Arc<Control>,
    targets: RefCell<Remembered<Box<str>, Rc<OutboundTarget>>>,
    balancers: RefCell<Remembered<ServiceRef, Rc<Balancer>>>,
    ports: RefCell<Remembered<SocketAddr, Rc<InboundPort>>>,
    own: Vec<SocketAddr>,
}

/// A destination of the application.
pub struct OutboundTarget {
    /// `host:port`.
    pub name: Box<str>,
    policy: Arc<Snapshot<OutboundPolicy>>,
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
    pub series: RefCell<Vec<(Option<Identity>, Rc<crate::metrics::Series>)>>,
    policy: Arc<Snapshot<InboundPolicy>>,
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

impl Used for Rc<Balancer> {
    fn used(&self) -> Instant {
        Balancer::used(self)
    }
}

impl Used for Rc<InboundPort> {
    fn used(&self) -> Instant {
        self.used.get()
    }
}

impl Worker {
    /// A worker over the process's shared parts. `own` are the proxy's own listening addresses.
    pub fn new(
        config: Arc<Config>,
        tls: Arc<Tls>,
        control: Arc<Control>,
        metrics: Arc<Metrics>,
        own: Vec<SocketAddr>,
        handover: Arc<Handover>,
        drain: CancellationToken,
    ) -> Self {
        let bound = |direction| Rc::new(DirectionMetrics::new(&metrics, &tls.held, direction));
        let (outbound, inbound) = (bound(Direction::Outbound), bound(Direction::Inbound));
        let open = [inbound.open.clone(), outbound.open.clone()];
        Self {
            random: Random::default(),
            connections: Connections::new(&config.limits, open),
            outbound,
            inbound,
            mirrors: Mirrors::new(&metrics),
            drain,
            targets: Remembered::new(config.limits.targets).into(),
            balancers: Remembered::new(config.limits.targets).into(),
            ports: Remembered::new(MAX_PORTS).into(),
            config,
            tls,
            metrics,
            control,
            handover,
            own,
        }
    }

    /// The handles of one direction.
    pub fn direction(&self, direction: Direction) -> &Rc<DirectionMetrics> {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }

    /// Ends what is open in order, each side in its turn: first what callers of the application began, for until that is
    /// done the application needs others. What is still open after the shutdown grace is cut.
    pub async fn finish(&self) {
        let (connections, grace) = (&self.connections, self.config.times.shutdown_grace);
        let none = async || {
            connections.none(Side::Inbound).await;
            connections.none(Side::Outbound).await;
        };
        let in_order = async {
            connections.close(Side::Inbound);
            // Half of the time at most: bytes may flow for as long as their ends like.
            let _ = tokio::time::timeout(grace / 2, connections.none(Side::Inbound)).await;
            connections.close(Side::Outbound);
            none().await;
        };
        if tokio::time::timeout(grace, in_order).await.is_err() {
            // Both ends are to see that it broke, which they would not if the process just ended.
            connections.end_where(End::Now, |_| true);
            let _ = tokio::time::timeout(CUT, none()).await;
        }
    }

    /// Lets go of endpoints that are gone, also where nobody calls their backend again: whoever has the address next gets no
    /// connection that was meant for them.
    pub fn forget_gone(&self) {
        let now = Instant::now();
        self.balancers.borrow().values().for_each(|balancer| balancer.refresh(now));
        self.targets.borrow().values().for_each(|target| target.forget_gone());
    }

    /// The destination named `name` (`host:port`), remembered.
    pub fn target(&self, name: &str) -> Rc<OutboundTarget> {
        let mut targets = self.targets.borrow_mut();
        let known = targets.get(name);
        if let Some(target) = known.filter(|t| !t.policy.is_not_found()) {
            target.used.set(Instant::now());
            return target.clone();
        }
        let external = known.is_some() && name.parse::<SocketAddr>().is_ok();
        let canonical = canonical(name);
        let now = Instant::now();
        let target = Rc::new(OutboundTarget {
            policy: self.control.outbound(&canonical),
            name: canonical.into(),
            direct: RefCell::default(),
            budget: Budget::new(now),
            used: Cell::new(now),
            external,
            asked: now,
        });
        targets.insert(name.into(), target.clone());
        target
    }

    /// The endpoints of a backend, remembered; waits for the first answer about them within the discovery timeout.
    pub async fn balancer(&self, service: &ServiceRef) -> Result<Rc<Balancer>, Error> {
        let balancer = self.known_balancer(service);
        match balancer.ready(self.config.times.discovery).await {
            Ok(()) => Ok(balancer),
            Err(Phase::Absent | Phase::NotFound) => {
                Err(Error::undelivered(Reason::NoEndpoints, format!("the controller knows no {service}")))
            }
            Err(_) => {
                let detail = format!("the controller did not answer about the endpoints of {service}");
                Err(Error::undelivered(Reason::DiscoveryUnavailable, detail))
            }
        }
    }

    /// The balancer of a backend; its endpoints may not be known yet.
    pub(crate) fn known_balancer(&self, service: &ServiceRef) -> Rc<Balancer> {
        let mut balancers = self.balancers.borrow_mut();
        if let Some(balancer) = balancers.get(service) {
            return balancer.clone();
        }
        let balancer = Rc::new(Balancer::new(self.control.endpoints(service), self.decay()));
        balancers.insert(service.clone(), balancer.clone());
        balancer
    }

    /// A port of the application, remembered.
    pub fn port(&self, address: SocketAddr) -> Rc<InboundPort> {
        let mut ports = self.ports.borrow_mut();
        if let Some(port) = ports.get(&address) {
            port.used.set(Instant::now());
            return port.clone();
        }
        let port = Rc::new(InboundPort {
            address,
            app_places: AppPlaces::new(self.config.limits.app_requests),
            pool: Pool::default(),
            budget: Budget::new(Instant::now()),
            series: RefCell::default(),
            policy: self.control.inbound(address.port()),
            used: Cell::new(Instant::now()),
        });
        ports.insert(address, port.clone());
        port
    }

    /// Whether an address is one of the proxy's own listeners: dialling it would loop.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        let local = || address.ip().is_loopback() || self.is_this_pod(address.ip());
        self.own.iter().any(|own| {
            own.port() == address.port() && (own.ip() == address.ip() || own.ip().is_unspecified() && local())
        })
    }

    /// Whether an address is this pod's.
    pub fn is_this_pod(&self, ip: IpAddr) -> bool {
        self.config.pod_ips.contains(&ip)
    }

    /// Counts a finished handshake. `peer` is the identity it proved.
    pub fn tls_finished(&self, direction: Direction, peer: &Identity, session: &Session) {
        let group = session.negotiated_key_exchange_group().map_or("unknown".into(), |g| format!("{:?}", g.name()));
        let labels = [
            ("direction", direction.as_str()),
            ("peer_identity", self.metrics.peer(peer.as_str())),
            ("version", version_name(session.protocol_version())),
            ("group", group.as_str()),
        ];
        self.metrics.counter("mesh_tls_connections_total", &labels).increment(1);
    }

    /// Counts a handshake that failed, by a bounded reason.
    pub fn tls_failed(&self, direction: Direction, error: &std::io::Error) {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        let reason = match inner {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired)) => "certificate-expired",
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => "unknown-issuer",
            Some(rustls::Error::InvalidCertificate(_)) => "certificate-invalid",
            Some(rustls::Error::NoCertificatesPresented) => "no-certificate",
            Some(rustls::Error::AlertReceived(_)) => "peer-alert",
            Some(rustls::Error::InvalidMessage(_)) => "garbage",
            Some(rustls::Error::PeerIncompatible(_)) => "incompatible",
            Some(_) => "protocol",
            None if error.kind() == std::io::ErrorKind::TimedOut => "timeout",
            None => "closed",
        };
        let labels = [("direction", direction.as_str()), ("reason", reason)];
        self.metrics.counter("mesh_tls_failures_total", &labels).increment(1);
        tracing::debug!("TLS handshake {}: {error}", direction.as_str());
    }

    fn decay(&self) -> Decay {
        Decay { ewma: self.config.times.ewma_decay, failure: self.config.times.failure_penalty }
    }
}

impl OutboundTarget {
    /// The policy now, waiting for the first one within the discovery timeout. An address that nobody has is none.
    pub async fn policy(&self, worker: &Worker) -> Result<Arc<OutboundPolicy>, Error> {
        let policy = match self.policy.get() {
            Some(policy) => policy,
            None => self.first(worker).await?,
        };
        match policy.target {
            Target::Service(_) | Target::Endpoint(_) => Ok(policy),
            Target::Outside(address) => Err(self.unowned(address)),
            Target::Unknown(_) => self.owned(worker).await,
        }
    }

    /// The policy once somebody has the address; that is waited for, since a pod may be known before its address is, but no
    /// longer than the discovery timeout after it was first asked for.
    async fn owned(&self, worker: &Worker) -> Result<Arc<OutboundPolicy>, Error> {
        let limit = worker.config.times.discovery.saturating_sub(self.asked.elapsed());
        let is_owned = |policy: &OutboundPolicy| !matches!(policy.target, Target::Unknown(_));
        match self.policy.wait_until(limit, is_owned).await {
            Some(policy) => match policy.target {
                Target::Service(_) | Target::Endpoint(_) => Ok(policy),
                Target::Outside(address) | Target::Unknown(address) => Err(self.unowned(address)),
            },
            None => self.first(worker).await,
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

    async fn first(&self, worker: &Worker) -> Result<Arc<OutboundPolicy>, Error> {
        let limit = match self.external {
            true => SAID_AGAIN.saturating_sub(self.asked.elapsed()),
            false => worker.config.times.discovery,
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
    fn forget_gone(&self) {
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
    pub fn direct(&self, worker: &Worker, endpoint: &mesh_policy::Endpoint) -> Rc<Endpoint> {
        let mut direct = self.direct.borrow_mut();
        match &*direct {
            Some(known) if known.info == *endpoint => known.clone(),
            _ => direct.insert(Rc::new(Endpoint::new(endpoint.clone(), worker.decay(), Instant::now()))).clone(),
        }
    }
}

impl InboundPort {
    /// The policy now. While the controller has not answered yet, it is waited for; without it, nothing is allowed.
    pub async fn policy(&self, worker: &Worker) -> Result<Arc<InboundPolicy>, Error> {
        if let Some(policy) = self.policy.get() {
            return Ok(policy);
        }
        self.policy.wait(worker.config.times.discovery).await.map_err(|phase| {
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
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use mesh_credentials::{Credentials, channel::Peer};
    use tokio::runtime::Handle;

    use super::*;
    use crate::{config::tests::minimal, metrics::ControlMetrics};

    /// What workers share, with these variables; the controller is away.
    pub(crate) fn parts(set: &[(&'static str, &'static str)]) -> (Arc<Config>, Arc<Tls>, Arc<Control>, Arc<Metrics>) {
        let mut env = minimal();
        env.0.extend(set.iter().copied());
        let config = Arc::new(Config::from_env(&env).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let root = rcgen::generate_simple_self_signed(vec!["root".to_owned()]).unwrap();
        std::fs::write(file("bundle.pem"), root.cert.pem()).unwrap();
        let credentials = Credentials::new(mesh_credentials::Config {
            identity: Peer { address: config.identity_addr.clone(), identity: config.identity_name.clone() },
            token_file: file("token"),
            trust_bundle_file: file("bundle.pem"),
        });
        let credentials = credentials.unwrap();
        let (tls, metrics) = (Arc::new(Tls::new(credentials.held().clone()).unwrap()), Arc::new(Metrics::default()));
        let control = Control::start(Handle::current(), &config, credentials, &tls, ControlMetrics::new(&metrics));
        (config, tls, control, metrics)
    }

    /// A worker with these variables whose controller is away.
    pub(crate) fn worker(set: &[(&'static str, &'static str)]) -> Rc<Worker> {
        let (config, tls, control, metrics) = parts(set);
        Rc::new(Worker::new(config, tls, control, metrics, Vec::new(), Arc::default(), CancellationToken::new()))
    }

    #[tokio::test]
    async fn destinations_and_ports_are_remembered_up_to_their_number() {
        let worker = worker(&[("MESH_MAX_TARGETS", "10")]);
        (0..20).for_each(|n| drop(worker.target(&format!("web-{n}.shop:80"))));
        (1..=MAX_PORTS as u16 + 10).for_each(|port| drop(worker.port(([127, 0, 0, 1], port).into())));
        let service = |n| ServiceRef { namespace: "shop".into(), name: format!("web-{n}").into(), port: 80 };
        (0..20).for_each(|n| drop(worker.known_balancer(&service(n))));
        assert_eq!(worker.targets.borrow().values().count(), 10);
        assert_eq!(worker.balancers.borrow().values().count(), 10);
        assert_eq!(worker.ports.borrow().values().count(), MAX_PORTS);
    }

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
