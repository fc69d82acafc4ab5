//! A worker: one thread, one runtime, and everything that its connections share. Nothing here is shared with another
//! worker but snapshots, keys and counters, so nothing here is locked.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::ServiceRef;
use tokio_util::sync::CancellationToken;

use crate::{
    authorization::Authorization,
    balance::{Balancer, Decay},
    config::Config,
    connections::{Connections, End, Side},
    control::{Control, Phase},
    error::{Error, Reason},
    http::mirrored::Mirrors,
    metrics::{Direction, DirectionMetrics},
    record::Readers,
    remembered::{Remembered, Used},
    tap::Taps,
    target::{InboundPort, OutboundTarget, canonical},
    transport::{Parts, Transport},
};

/// Ports of the application that are remembered. Only where it listens are connections redirected, but a kernel that
/// cannot see that redirects all, and somebody may try them all.
const MAX_PORTS: usize = 1_024;
/// How long what is cut at the end of the process has to be closed.
const CUT: Duration = Duration::from_millis(200);

/// What connections of one worker share.
pub(crate) struct Worker {
    /// The configuration.
    pub config: Arc<Config>,
    /// What its connections are made with.
    pub transport: Rc<Transport>,
    /// Handles for traffic from the application.
    pub outbound: Rc<DirectionMetrics>,
    /// Handles for traffic to the application.
    pub inbound: Rc<DirectionMetrics>,
    /// Cancelled when the proxy shuts down.
    pub drain: CancellationToken,
    /// Who may call this pod.
    pub authorization: Rc<Authorization>,
    /// Who reads the records of requests and connections.
    pub readers: Rc<Readers>,
    taps: Arc<Taps>,
    /// Copies of requests that are under way.
    pub mirrors: Rc<Mirrors>,
    control: Arc<Control>,
    targets: RefCell<Remembered<Box<str>, Rc<OutboundTarget>>>,
    balancers: RefCell<Remembered<ServiceRef, Rc<Balancer>>>,
    ports: RefCell<Remembered<SocketAddr, Rc<InboundPort>>>,
}

impl Used for Rc<Balancer> {
    fn used(&self) -> Instant {
        Balancer::used(self)
    }
}

impl Worker {
    /// A worker over the process's shared parts.
    pub(crate) fn new(parts: Parts, control: Arc<Control>, drain: CancellationToken) -> Self {
        let (config, metrics) = (parts.config.clone(), parts.metrics.clone());
        let readers = Rc::new(Readers::new(parts.access_log.clone()));
        let bound = |direction| {
            Rc::new(DirectionMetrics::new(&metrics, &parts.tls.held, direction, &config.workload, readers.clone()))
        };
        let (outbound, inbound) = (bound(Direction::Outbound), bound(Direction::Inbound));
        let open = [inbound.open.clone(), outbound.open.clone()];
        let (policy, callers, taps) = (control.inbound().clone(), parts.callers.clone(), parts.taps.clone());
        let authorization = Rc::new(Authorization::new(policy, callers, metrics.clone(), &config));
        Self {
            transport: Rc::new(Transport::new(parts, Connections::new(&config.limits, open))),
            outbound,
            inbound,
            authorization,
            readers,
            taps,
            mirrors: Rc::new(Mirrors::new(&metrics)),
            drain,
            targets: Remembered::new(config.limits.targets).into(),
            balancers: Remembered::new(config.limits.targets).into(),
            ports: Remembered::new(MAX_PORTS).into(),
            config,
            control,
        }
    }

    /// Tells readers and metrics what the policy of this pod says, for as long as the worker lives.
    pub(crate) async fn follow_policy(&self) {
        let mut changes = self.control.inbound().changes();
        loop {
            if let Some(policy) = self.control.inbound().get() {
                self.readers.follow(&policy);
                for direction in [&self.outbound, &self.inbound] {
                    *direction.workload.borrow_mut() = policy.controlled_by.clone();
                }
            }
            // Its sender lives in the snapshot.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Shows records to those who look, for as long as the worker lives.
    pub(crate) async fn follow_viewers(&self) {
        let mut changes = self.taps.follow();
        loop {
            self.readers.show(changes.borrow_and_update().clone());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The handles of one direction.
    pub(crate) fn direction(&self, direction: Direction) -> &Rc<DirectionMetrics> {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }

    /// Ends what is open in order, each side in its turn: first what callers of the application began, for until that is
    /// done the application needs others. What is still open after the shutdown grace is cut.
    pub(crate) async fn finish(&self) {
        let (connections, grace) = (&self.transport.connections, self.config.times.shutdown_grace);
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
    pub(crate) fn forget_gone(&self) {
        let now = Instant::now();
        self.balancers.borrow().values().for_each(|balancer| balancer.refresh(now));
        self.targets.borrow().values().for_each(|target| target.forget_gone());
    }

    /// The destination named `name` (`host:port`), remembered.
    pub(crate) fn target(&self, name: &str) -> Rc<OutboundTarget> {
        let mut targets = self.targets.borrow_mut();
        let known = targets.get(name);
        if let Some(target) = known.filter(|target| !target.is_not_found()) {
            target.use_it();
            return target.clone();
        }
        let external = known.is_some() && name.parse::<SocketAddr>().is_ok();
        let canonical = canonical(name);
        let policy = self.control.outbound(&canonical);
        let target = OutboundTarget::new(canonical.into(), policy, external, self.config.times.discovery, self.decay());
        let target = Rc::new(target);
        targets.insert(name.into(), target.clone());
        target
    }

    /// The endpoints of a backend, remembered, once they are known.
    pub(crate) async fn balancer(&self, service: &ServiceRef) -> Result<Rc<Balancer>, Error> {
        self.ready(self.known_balancer(service)).await
    }

    /// Waits for the first answer about a backend's endpoints, within the discovery timeout.
    pub(crate) async fn ready(&self, balancer: Rc<Balancer>) -> Result<Rc<Balancer>, Error> {
        let service = &balancer.service;
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
        let balancer = Rc::new(Balancer::new(service.clone(), self.control.endpoints(service), self.decay()));
        balancers.insert(service.clone(), balancer.clone());
        balancer
    }

    /// A port of the application, remembered.
    pub(crate) fn port(&self, address: SocketAddr) -> Rc<InboundPort> {
        let mut ports = self.ports.borrow_mut();
        if let Some(port) = ports.get(&address) {
            port.use_it();
            return port.clone();
        }
        let port = Rc::new(InboundPort::new(address, &self.config, self.decay()));
        ports.insert(address, port.clone());
        port
    }

    fn decay(&self) -> Decay {
        Decay { ewma: self.config.times.ewma_decay, failure: self.config.times.failure_penalty }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use mesh_credentials::{Credentials, channel::Peer};
    use tokio::runtime::Handle;

    use super::*;
    use crate::{
        config::tests::minimal,
        metrics::{ControlMetrics, Metrics},
        tls::Tls,
    };

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
        let (tls, metrics) =
            (Arc::new(Tls::new(credentials.held().clone()).unwrap()), Arc::new(Metrics::new(config.limits.series)));
        let control = Control::start(Handle::current(), &config, credentials, &tls, ControlMetrics::new(&metrics));
        (config, tls, control, metrics)
    }

    /// A worker with these variables whose controller is away.
    pub(crate) fn worker(set: &[(&'static str, &'static str)]) -> Rc<Worker> {
        let (config, tls, control, metrics) = parts(set);
        let (hairpin, callers, taps) = Default::default();
        let (access_log, _) = crate::access_log::tests::queue(&metrics);
        let parts = Parts { config, tls, metrics, hairpin, callers, access_log, taps, own: Vec::new() };
        Rc::new(Worker::new(parts, control, CancellationToken::new()))
    }

    #[tokio::test]
    async fn destinations_and_ports_are_remembered_up_to_their_number() {
        let worker = worker(&[("MESH_MAX_TARGETS", "10")]);
        (0..20).for_each(|n| drop(worker.target(&format!("web-{n}.shop:80"))));
        (1..=MAX_PORTS as u16 + 10).for_each(|port| drop(worker.port(([127, 0, 0, 1], port).into())));
        let service = |n| ServiceRef::new("shop", format!("web-{n}"), 80);
        (0..20).for_each(|n| drop(worker.known_balancer(&service(n))));
        assert_eq!(worker.targets.borrow().values().count(), 10);
        assert_eq!(worker.balancers.borrow().values().count(), 10);
        assert_eq!(worker.ports.borrow().values().count(), MAX_PORTS);
    }
}
