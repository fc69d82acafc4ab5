//! A replica whose watches are stalled sends proxies to another one: what it tells is older with every moment, and a proxy that
//! was told nothing newer cannot see that.
//!
//! It ends streams and does nothing else. Proxies keep what they have, and ask on another connection. It stays ready, for an
//! API server that is away for all replicas must not take destination away from new pods; and it ends no stream where it knows
//! of nobody else.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_credentials::jitter;
use mesh_resources::Snapshot;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::source::index::Published;

/// Watches that say nothing for so long are stalled: they begin anew every 15 s, and one that is silent for 20 s is given up.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// About how often streams are ended meanwhile. A proxy may have come back here, or the other replica gone.
const END_EVERY: Duration = Duration::from_secs(30);
/// Proxies in so many groups, by address, are sent away one group after the other, so that not all of them ask another
/// replica at once.
const GROUPS: usize = 16;
/// About how long after a group the next one follows: ten seconds for all.
const NEXT_GROUP: Duration = Duration::from_millis(600);

/// What ends streams: all of them at the end of the process, and those that are open when a replica that is stalled sends its
/// proxies away.
#[derive(Clone, Debug)]
pub struct Endings {
    cancel: CancellationToken,
    groups: Arc<Mutex<[CancellationToken; GROUPS]>>,
}

impl From<CancellationToken> for Endings {
    fn from(cancel: CancellationToken) -> Self {
        let groups = Arc::new(Mutex::new(std::array::from_fn(|_| cancel.child_token())));
        Self { cancel, groups }
    }
}

impl Endings {
    /// What ends a stream that begins now, of a proxy at this address.
    pub(crate) fn of(&self, proxy: SocketAddr) -> CancellationToken {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(proxy.ip());
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(hash as usize % GROUPS).unwrap_or(&self.cancel).clone()
    }

    /// Ends all streams that are open, one group of proxies after the other.
    async fn end_all(&self) {
        for group in 0..GROUPS {
            let next = self.cancel.child_token();
            if let Some(group) = self.groups.lock().unwrap_or_else(PoisonError::into_inner).get_mut(group) {
                std::mem::replace(group, next).cancel();
            }
            sleep(jitter(NEXT_GROUP)).await;
        }
    }
}

/// One replica of destination, which looks whether it is stalled.
#[derive(Debug)]
pub(crate) struct Replica {
    /// Since when nothing was heard of one of the kinds that endpoints are made of.
    pub(crate) heard: watch::Receiver<Instant>,
    /// What it knew last.
    pub(crate) index: watch::Receiver<Arc<Published>>,
    /// Its namespace.
    pub(crate) namespace: String,
    /// The Service that leads to it and to the other replicas.
    pub(crate) service: &'static str,
    /// Its pod.
    pub(crate) pod: String,
    /// What ends its streams.
    pub(crate) endings: Endings,
}

impl Replica {
    /// Looks for as long as it runs.
    pub(crate) async fn run(self) {
        loop {
            sleep(jitter(END_EVERY)).await;
            let silent = self.heard.borrow().elapsed();
            let is_stalled = silent > STALLED_AFTER;
            if is_stalled && has_another(&self.index.borrow().snapshot, &self.namespace, self.service, &self.pod) {
                tracing::warn!(
                    "nothing was heard of the API server for {silent:?}: proxies are sent to other replicas"
                );
                self.endings.end_all().await;
            }
        }
    }
}

/// Whether a Service has a ready endpoint beside this pod. It is not known of a pod that is not known itself.
fn has_another(snapshot: &Snapshot, namespace: &str, service: &str, pod: &str) -> bool {
    let Some(own) = snapshot.pod(&format!("{namespace}/{pod}")) else { return false };
    let is_of_service = |of: &Option<Arc<str>>| of.as_deref() == Some(service);
    let slices = snapshot.endpoint_slices.iter();
    let ours = slices.filter(|(key, slice)| *key.namespace == *namespace && is_of_service(&slice.service));
    ours.flat_map(|(_, slice)| &slice.endpoints)
        .any(|endpoint| endpoint.ready && endpoint.pod.as_deref() != Some(pod) && !own.ips.contains(&endpoint.address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use mesh_resources::{Object, Options};
    use serde_json::{Value, json};

    use super::*;
    use crate::{metrics::Metrics, source::index::Index};

    const SERVICE: &str = "mesh-destination";

    struct Fixture {
        index: Index,
        heard: watch::Sender<Instant>,
        endings: Endings,
        replica: tokio::task::JoinHandle<()>,
    }

    /// The replica `a`, which has heard of the API server just now.
    fn fixture() -> Fixture {
        let (index, published) = Index::new(Options::default(), Metrics::new());
        let heard = watch::Sender::new(Instant::now());
        let endings = Endings::from(CancellationToken::new());
        let (namespace, pod) = ("mesh-system".to_owned(), "a".to_owned());
        let replica = Replica {
            heard: heard.subscribe(),
            index: published,
            namespace,
            service: SERVICE,
            pod,
            endings: endings.clone(),
        };
        Fixture { index, heard, endings, replica: tokio::spawn(replica.run()) }
    }

    impl Fixture {
        fn put(&mut self, value: Value) {
            self.index.put(&Object::from_value(value, None).unwrap());
            self.index.publish();
        }

        fn pod(&mut self, name: &str, ip: &str) {
            self.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "mesh-system", "name": name},
                "spec": {"containers": []}, "status": {"podIP": ip, "phase": "Running"}}));
        }

        /// The endpoints of a Service: pod, address and whether it is ready.
        fn slice(&mut self, service: &str, endpoints: &[(&str, &str, bool)]) {
            let endpoint = |(pod, ip, ready): &(&str, &str, bool)| {
                let pod = json!({"kind": "Pod", "name": pod});
                json!({"addresses": [ip], "conditions": {"ready": ready}, "targetRef": pod})
            };
            let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
            self.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"namespace": "mesh-system", "name": service, "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": "grpc", "port": 4651}], "endpoints": endpoints}));
        }

        /// Streams of proxies of every group.
        fn streams(&self) -> Vec<CancellationToken> {
            (0..=255).map(|last| self.endings.of(([10, 0, 0, last], 1).into())).collect()
        }

        /// Whether streams that begin now are ended within some rounds.
        async fn ends_streams(&self) -> bool {
            let streams = self.streams();
            sleep(10 * END_EVERY).await;
            let ended = streams.iter().filter(|stream| stream.is_cancelled()).count();
            assert!(ended == 0 || ended == streams.len(), "{ended}");
            ended > 0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_hears_nothing_sends_proxies_to_another_that_it_knew() {
        let mut fixture = fixture();
        fixture.pod("a", "10.0.0.1");
        fixture.pod("b", "10.0.0.2");
        fixture.slice(SERVICE, &[("a", "10.0.0.1", true), ("b", "10.0.0.2", true)]);
        assert!(fixture.ends_streams().await);
        assert!(fixture.ends_streams().await, "and again who has come back");
        // One that hears goes on, whatever the others do.
        let (heard, hearing) = (fixture.heard.clone(), CancellationToken::new());
        heard.send_replace(Instant::now());
        let end = hearing.clone();
        tokio::spawn(end.run_until_cancelled_owned(async move {
            loop {
                sleep(STALLED_AFTER / 2).await;
                heard.send_replace(Instant::now());
            }
        }));
        // A round may have begun before.
        sleep(END_EVERY).await;
        assert!(!fixture.ends_streams().await);
        hearing.cancel();
        // The process goes down: all streams end.
        let streams = fixture.streams();
        fixture.endings.cancel.cancel();
        assert!(streams.iter().all(CancellationToken::is_cancelled));
        fixture.replica.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn alone_it_serves_on() {
        let mut fixture = fixture();
        fixture.slice(SERVICE, &[("b", "10.0.0.2", true)]);
        assert!(!fixture.ends_streams().await, "its own pod is not known");
        fixture.pod("a", "10.0.0.1");
        for others in [&[("a", "10.0.0.1", true)][..], &[("b", "10.0.0.2", false)], &[("", "10.0.0.1", true)]] {
            fixture.slice(SERVICE, others);
            fixture.slice("other", &[("b", "10.0.0.2", true)]);
            assert!(!fixture.ends_streams().await, "{others:?}");
        }
        fixture.replica.abort();
    }
}
