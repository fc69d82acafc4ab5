//! What the controller says, kept as snapshots that the data plane reads without a lock.
//!
//! All streams run on the control thread. A [`Snapshot`] holds the last good value for as long as anyone uses it, also
//! while the controller is away, and until the controller says that there is no such thing any more; a hundred concurrent
//! askers of one target share one subscription. Values that cannot be understood, or are too much (`ledger`), are refused
//! and counted, and the last good one stays.
//!
//! It decides nothing: what a policy means is `mesh-policy`'s.

mod endpoints;
mod lag;
mod ledger;
mod streams;
mod update;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use mesh_credentials::{
    Credentials, Event,
    channel::{self, Peer},
};
use mesh_policy::{Endpoint, OutboundPolicy, ServiceRef, WorkloadPolicy};
use mesh_proto::{names::Names, v1::ListedPort};
use metrics::Gauge;
use tokio::{runtime::Handle, sync::watch};
use tonic::transport::Channel;

use self::ledger::{Allowed, Ledger};
use crate::{
    config::{Config, InboundPort},
    metrics::ControlMetrics,
    tls::Tls,
};

/// A connection to a replica is given up for another one after so long at the earliest.
const REPLICA_AT_LEAST: Duration = Duration::from_millis(250);

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The controller has not answered yet.
    Pending,
    /// There is a value.
    Ready,
    /// The controller knows no such thing now.
    Absent,
    /// Nor did it know it, and it is no longer asked: whoever needs it subscribes anew.
    NotFound,
}

/// The latest value of one stream.
#[derive(Debug)]
pub(crate) struct Snapshot<T> {
    value: ArcSwapOption<T>,
    phase: watch::Sender<Phase>,
}

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self { value: ArcSwapOption::empty(), phase: watch::Sender::new(Phase::Pending) }
    }
}

impl<T> Snapshot<T> {
    /// The value now: one atomic load.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.value.load_full()
    }

    /// Whether `value` is still the one in force: one atomic load.
    pub(crate) fn is(&self, value: &Arc<T>) -> bool {
        self.value.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, value))
    }

    /// Wakes whenever something was published from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits for the first value, at most `limit`.
    pub(crate) async fn wait(&self, limit: Duration) -> Result<Arc<T>, Phase> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let mut phase = self.phase.subscribe();
        let settled = phase.wait_for(|p| *p != Phase::Pending);
        let phase =
            tokio::time::timeout(limit, settled).await.map_or(Phase::Pending, |p| p.map_or(Phase::Pending, |p| *p));
        self.get().ok_or(phase)
    }

    /// Whether the controller said that there is no such thing and the subscription has ended.
    pub(crate) fn is_not_found(&self) -> bool {
        self.value.load().is_none() && *self.phase.borrow() == Phase::NotFound
    }

    /// Waits for a value that will do, at most `limit`; the newest one otherwise.
    pub(crate) async fn wait_until(&self, limit: Duration, will_do: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let mut phase = self.phase.subscribe();
        let waiting = async {
            loop {
                phase.mark_unchanged();
                let found = self.get().filter(|value| will_do(value));
                if found.is_some() || phase.changed().await.is_err() {
                    return found;
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.ok().flatten().or_else(|| self.get())
    }

    pub(crate) fn publish(&self, value: T) {
        self.value.store(Some(Arc::new(value)));
        self.phase.send_replace(Phase::Ready);
    }

    fn absent(&self) {
        self.phase.send_replace(Phase::Absent);
    }

    /// Takes the value back: the controller says that there is no such thing any more.
    fn withdraw(&self) {
        self.value.store(None);
        self.absent();
    }

    fn not_found(&self) {
        self.phase.send_replace(Phase::NotFound);
    }
}

/// The endpoints of a backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EndpointSet {
    /// Sorted by address.
    pub endpoints: Vec<Endpoint>,
}

/// Snapshots for as long as somebody has them.
type Table<K, T> = Mutex<Weaks<K, T>>;

struct Weaks<K, T> {
    snapshots: HashMap<K, Weak<Snapshot<T>>>,
    /// When there are so many, those that nobody has any more are looked for: so many have been added since the last time
    /// that each pays for looking at two.
    sweep_at: usize,
}

/// Below so many snapshots nobody looks for what is gone.
const FIRST_SWEEP: usize = 64;

impl<K, T> Default for Weaks<K, T> {
    fn default() -> Self {
        Self { snapshots: HashMap::new(), sweep_at: FIRST_SWEEP }
    }
}

impl<K: Eq + Hash, T> Weaks<K, T> {
    fn insert(&mut self, key: K, snapshot: Weak<Snapshot<T>>) {
        self.snapshots.insert(key, snapshot);
        if self.snapshots.len() >= self.sweep_at {
            self.snapshots.retain(|_, snapshot| snapshot.strong_count() > 0);
            self.sweep_at = FIRST_SWEEP.max(2 * self.snapshots.len());
        }
    }
}

/// The controller as the data plane sees it.
pub(crate) struct Control {
    runtime: Handle,
    workload: String,
    /// The listening ports that stand for ports of the application: what EndpointSlices list.
    listed_ports: Vec<ListedPort>,
    names: Arc<Names>,
    destination: Peer,
    tls: Arc<Tls>,
    /// The connection to a replica of destination, and since when it is this one.
    channel: Mutex<(Channel, Instant)>,
    metrics: ControlMetrics,
    away: Away,
    ledger: Ledger,
    outbound: Table<String, OutboundPolicy>,
    /// Held for the life of the process: nothing inbound is served without it.
    inbound: Arc<Snapshot<WorkloadPolicy>>,
    endpoints: Table<ServiceRef, EndpointSet>,
}

impl Control {
    /// Keeps the credentials current on `runtime` (the control thread's) and prepares the streams.
    pub(crate) fn start(
        runtime: Handle,
        config: &Config,
        credentials: Credentials,
        tls: &Arc<Tls>,
        metrics: ControlMetrics,
    ) -> Arc<Self> {
        let _entered = runtime.enter();
        let names = Arc::new(Names::default());
        let destination = Peer { address: config.destination_addr.clone(), identity: config.destination_name.clone() };
        let channel = channel::lazy(names.clone(), destination.clone(), tls.client_control.clone(), tls.held.clone());
        let told = metrics.clone();
        runtime.spawn(credentials.run(names.clone(), move |event| told.tell(event)));
        Arc::new(Self {
            workload: config.workload.clone(),
            listed_ports: config.inbound_ports.iter().map(listed).collect(),
            names,
            destination,
            tls: tls.clone(),
            channel: Mutex::new((channel, Instant::now())),
            away: Away::new(metrics.disconnected_since.clone()),
            ledger: Ledger::new(
                Allowed { total: config.limits.control_bytes, share: config.limits.namespace_bytes },
                config.workload.split_once('/').map_or("", |(namespace, _)| namespace),
            ),
            metrics,
            outbound: Table::default(),
            inbound: Arc::default(),
            endpoints: Table::default(),
            runtime,
        })
    }

    /// Whether the policy of this pod was heard. Until then nothing is served, and whoever replaces another pod must not yet.
    pub(crate) fn is_known(&self) -> bool {
        self.inbound.get().is_some()
    }

    /// Asks for the policy of this pod, for the life of the process. Only once there is a certificate: a question without one
    /// fails, and the wait before the next would be a new pod's.
    pub(crate) fn follow_workload(self: &Arc<Self>, credentials: Credentials) {
        let control = self.clone();
        self.runtime.spawn(async move {
            credentials.ready().await;
            streams::inbound(&control).await;
        });
    }

    /// The policy of an outbound target, `host:port`.
    pub(crate) fn outbound(self: &Arc<Self>, target: &str) -> Arc<Snapshot<OutboundPolicy>> {
        self.subscribe(&self.outbound, target.to_owned(), streams::outbound)
    }

    /// The policy of this pod.
    pub(crate) fn inbound(&self) -> &Arc<Snapshot<WorkloadPolicy>> {
        &self.inbound
    }

    /// The endpoints of a backend.
    pub(crate) fn endpoints(self: &Arc<Self>, service: &ServiceRef) -> Arc<Snapshot<EndpointSet>> {
        self.subscribe(&self.endpoints, service.clone(), streams::endpoints)
    }

    /// The connection that streams are asked for on.
    fn channel(&self) -> Channel {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Asks on another connection from now on, which may lead to another replica: this one goes down, or lags behind.
    fn leave_replica(&self) {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        // All streams of a connection end at once.
        if channel.1.elapsed() >= REPLICA_AT_LEAST {
            let (config, held) = (self.tls.client_control.clone(), self.tls.held.clone());
            let new = channel::lazy(self.names.clone(), self.destination.clone(), config, held);
            *channel = (new, Instant::now());
        }
    }

    /// What is believed now, for `/config`.
    pub(crate) fn config_dump(&self) -> ConfigDump {
        ConfigDump { outbound: values(&self.outbound), inbound: self.inbound.get(), endpoints: values(&self.endpoints) }
    }

    /// One subscription a key: joins the running one or starts it. The table's lock is held for a look-up, never
    /// on the way of a request that was seen before (workers keep the snapshot).
    fn subscribe<K, T, F, S>(self: &Arc<Self>, table: &Table<K, T>, key: K, stream: S) -> Arc<Snapshot<T>>
    where
        K: Clone + Eq + Hash,
        F: Future<Output = ()> + Send + 'static,
        S: FnOnce(Arc<Self>, K, Weak<Snapshot<T>>) -> F,
    {
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = table.snapshots.get(&key).and_then(Weak::upgrade).filter(|s| !s.is_not_found()) {
            return snapshot;
        }
        let snapshot = Arc::new(Snapshot::default());
        table.insert(key.clone(), Arc::downgrade(&snapshot));
        self.runtime.spawn(stream(self.clone(), key, Arc::downgrade(&snapshot)));
        snapshot
    }
}

/// A listening port that stands for one of the application.
fn listed(port: &InboundPort) -> ListedPort {
    ListedPort { port: port.app.into(), listed: port.listen.into() }
}

impl ControlMetrics {
    /// What became of certificates and trust bundles.
    fn tell(&self, event: Event) {
        match event {
            Event::Certified { not_after } => {
                self.certificates.increment(1);
                self.certificate_ends.set(unix_seconds(not_after));
            }
            Event::Failed => self.certificate_failures.increment(1),
            Event::BundleRefused => self.rejected.increment(1),
        }
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// How many streams cannot be had now, and since when there is one: how stale what is believed may be.
#[derive(Debug)]
struct Away {
    streams: Mutex<usize>,
    since: Gauge,
}

impl Away {
    fn new(since: Gauge) -> Self {
        since.set(0.0);
        Self { streams: Mutex::default(), since }
    }

    /// Counts one stream as away for as long as the result lives.
    fn one(&self) -> OneAway<'_> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if *streams == 0 {
            self.since.set(unix_seconds(SystemTime::now()));
        }
        *streams += 1;
        OneAway(self)
    }
}

/// A stream that cannot be had.
struct OneAway<'a>(&'a Away);

impl Drop for OneAway<'_> {
    fn drop(&mut self) {
        let mut streams = self.0.streams.lock().unwrap_or_else(PoisonError::into_inner);
        *streams -= 1;
        if *streams == 0 {
            self.0.since.set(0.0);
        }
    }
}

/// A copy of everything believed, for people.
#[derive(Debug)]
pub(crate) struct ConfigDump {
    /// By target.
    pub outbound: Vec<(String, Option<Arc<OutboundPolicy>>)>,
    /// Of this pod; `None`: not heard yet.
    pub inbound: Option<Arc<WorkloadPolicy>>,
    /// By backend.
    pub endpoints: Vec<(ServiceRef, Option<Arc<EndpointSet>>)>,
}

fn values<K: Clone + Ord, T>(table: &Table<K, T>) -> Vec<(K, Option<Arc<T>>)> {
    let table = table.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all: Vec<_> =
        table.snapshots.iter().filter_map(|(key, snapshot)| Some((key.clone(), snapshot.upgrade()?.get()))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[cfg(test)]
mod tests;
