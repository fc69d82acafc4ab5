//! The streams of policies and endpoints: ask, apply each update, ask again with back-off when the stream breaks.
//!
//! A stream lives as long as somebody holds its snapshot. `NOT_FOUND` before the first value ends that of an outbound
//! target, of which there may be many that never come: whoever needs one asks again. The policy of this pod and backends
//! of routes are few and will come, so they are asked for again from here.
//!
//! After a value there are three kinds of no answer. The stream that gave it ends with `NOT_FOUND`: it is gone, at once.
//! Another stream begins with `NOT_FOUND`: its replica may lag behind, so that is believed when it has been said for a
//! while ([`DOUBTED_FOR`]). No stream can be had: the value stays for as long as it takes. What a replica takes from an
//! older state of the cluster than what is known is no answer either (`lag`). What becomes of an update is `update`'s.

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use mesh_credentials::{Backoff, jitter};
use mesh_policy::{OutboundPolicy, ServiceRef};
use mesh_proto::{
    convert::AUTHORIZATION_FORM,
    v1::{
        EndpointsRequest, OutboundRequest, WorkloadRequest, destination_client::DestinationClient,
        policy_client::PolicyClient,
    },
};
use tokio::time::Instant;
use tonic::{Code, Response, Status, Streaming};

use super::{
    Control, EndpointSet, OneAway, Snapshot,
    endpoints::Told,
    lag::Lag,
    update::{Backends, Refused, Take, Targets, Workload},
};

/// Waits between attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// A stream that lasted this long was a good one: the waits begin anew. One that breaks at once does not count.
const STEADY: Duration = Duration::from_secs(5);
/// How often a stream without news looks whether anyone still needs it.
const LIVENESS: Duration = Duration::from_secs(30);
/// A target that the controller does not know is not asked for again for so long, however often it is called.
const UNKNOWN_FOR: Duration = Duration::from_millis(500);
/// `NOT_FOUND` as the first answer of a stream is believed after so long of the same: longer than the watches of a replica
/// that has just started or is busy are behind.
const DOUBTED_FOR: Duration = Duration::from_secs(10);
/// How often it is asked again meanwhile, and a replica that lags.
const DOUBTED_EVERY: Duration = Duration::from_secs(1);
/// Most bytes of one update; the controller keeps well below.
const MAX_UPDATE_BYTES: usize = 4 * 1024 * 1024;

pub(super) async fn outbound(control: Arc<Control>, target: String, snapshot: Weak<Snapshot<OutboundPolicy>>) {
    let ask = |control: &Control| {
        let mut client = PolicyClient::new(control.channel()).max_decoding_message_size(MAX_UPDATE_BYTES);
        let request =
            OutboundRequest { target: target.clone(), workload: control.workload.clone(), deltas: true, unowned: true };
        async move { client.outbound(request).await }
    };
    let (held, lag) = (control.ledger.hold(), Lag::default());
    let take = Targets { snapshot: snapshot.clone(), held, lag, follows: false };
    follow(&control, &snapshot, &format!("outbound policy of {target}"), Kind::Target, ask, take).await;
}

pub(super) async fn inbound(control: &Control) {
    let ask = |control: &Control| {
        let mut client = PolicyClient::new(control.channel()).max_decoding_message_size(MAX_UPDATE_BYTES);
        let request = WorkloadRequest {
            workload: control.workload.clone(),
            listed_ports: control.listed_ports.clone(),
            authorization_form: AUTHORIZATION_FORM,
        };
        async move { client.workload(request).await }
    };
    let take = Workload { own: control.ledger.own().clone(), held: control.ledger.hold(), lag: Lag::default() };
    let snapshot = Arc::downgrade(&control.inbound);
    follow(control, &snapshot, "policy of this pod", Kind::Workload, ask, take).await;
}

pub(super) async fn endpoints(control: Arc<Control>, service: ServiceRef, snapshot: Weak<Snapshot<EndpointSet>>) {
    let ask = |control: &Control| {
        let mut client = DestinationClient::new(control.channel()).max_decoding_message_size(MAX_UPDATE_BYTES);
        let request = EndpointsRequest { service: Some((&service).into()), workload: control.workload.clone() };
        async move { client.endpoints(request).await }
    };
    let take = Backends { namespace: service.namespace.clone(), told: Told::default(), held: control.ledger.hold() };
    follow(&control, &snapshot, &format!("endpoints of {service}"), Kind::Backend, ask, take).await;
}

/// What a stream is about, where that makes a difference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Target,
    Workload,
    Backend,
}

async fn follow<T: Take, F>(
    control: &Control,
    snapshot: &Weak<Snapshot<T::Value>>,
    what: &str,
    kind: Kind,
    ask: impl Fn(&Control) -> F,
    mut take: T,
) where
    F: Future<Output = Result<Response<Streaming<T::Update>>, Status>>,
{
    let mut backoff = BACKOFF;
    let mut away = None;
    let mut doubted: Option<Instant> = None;
    let mut was_known = false;
    let mut told = None;
    while snapshot.strong_count() > 0 {
        let asked = Instant::now();
        let ended = match ask(control).await {
            Ok(stream) => read(control, snapshot, what, stream.into_inner(), &mut away, &mut take, &mut told).await,
            Err(status) => {
                // It is away, or knows less than it must, such as nothing of this pod: another one may do better.
                if status.code() == Code::Unavailable {
                    control.leave_replica();
                }
                Ended { status, gave: false, lags: false }
            }
        };
        // More bytes than one update may have, or policies that this version does not understand.
        if matches!(ended.status.code(), Code::OutOfRange | Code::FailedPrecondition) {
            tell(control, what, ended.status.message().to_owned(), &mut told);
        }
        if asked.elapsed() > STEADY {
            backoff.reset();
        }
        let Some(alive) = snapshot.upgrade() else { return };
        let Ended { status, gave, lags } = ended;
        was_known |= gave;
        if status.code() == Code::NotFound {
            // That there is no such thing is an answer, too.
            away = None;
            if alive.get().is_none() {
                tracing::debug!("{what}: {}", status.message());
                alive.absent();
                if kind == Kind::Target && !was_known {
                    tokio::time::sleep(UNKNOWN_FOR).await;
                    return alive.not_found();
                }
            } else if is_gone(kind, gave, &mut doubted) {
                tracing::debug!("{what}: {}; it is gone", status.message());
                alive.withdraw();
                take.gone();
            }
        } else {
            doubted = None;
            // A controller that went down on purpose is not away before it was asked again.
            if !gave && away.is_none() {
                away = Some(control.away.one());
            }
        }
        drop(alive);
        control.metrics.stream_broken.increment(1);
        let again = backoff.next_wait();
        let wait = if lags || doubted.is_some() { again.min(DOUBTED_EVERY) } else { again };
        tracing::debug!("{what}: {} ({:?}); asking again in about {wait:?}", status.message(), status.code());
        tokio::time::sleep(jitter(wait)).await;
    }
}

/// Counts a refused update, and says why unless that was said of the one before.
fn tell(control: &Control, what: &str, why: String, told: &mut Option<String>) {
    control.metrics.rejected.increment(1);
    if told.as_ref() != Some(&why) {
        tracing::warn!("{what}: refused an update, the last good one stays: {why}");
        *told = Some(why);
    }
}

/// Whether what a value was for is gone, now that a stream has ended with `NOT_FOUND`, after it `gave` a value or not. The
/// policy of this pod never is: who may call it is not less of a question while the pod is being deleted.
fn is_gone(kind: Kind, gave: bool, doubted: &mut Option<Instant>) -> bool {
    if kind == Kind::Workload {
        return false;
    }
    let since = *doubted.get_or_insert_with(Instant::now);
    let is_gone = gave || since.elapsed() >= DOUBTED_FOR;
    if is_gone {
        *doubted = None;
    }
    is_gone
}

/// How a stream ended.
struct Ended {
    status: Status,
    /// Whether it gave a value before.
    gave: bool,
    /// Its replica lags behind.
    lags: bool,
}

/// Reads one stream to its end.
async fn read<'c, T: Take>(
    control: &'c Control,
    snapshot: &Weak<Snapshot<T::Value>>,
    what: &str,
    mut stream: Streaming<T::Update>,
    away: &mut Option<OneAway<'c>>,
    take: &mut T,
    told: &mut Option<String>,
) -> Ended {
    let (mut gave, mut lags) = (false, false);
    let status = loop {
        let update = match tokio::time::timeout(LIVENESS, stream.message()).await {
            Err(_) if snapshot.strong_count() == 0 => break Status::cancelled("no longer needed"),
            Err(_) => continue,
            Ok(Ok(Some(update))) => update,
            Ok(Ok(None)) => {
                control.leave_replica();
                break Status::unavailable("the controller ended the stream");
            }
            Ok(Err(status)) => break status,
        };
        let Some(alive) = snapshot.upgrade() else { break Status::cancelled("no longer needed") };
        match take.take(update) {
            Ok(value) => {
                (gave, *away) = (true, None);
                control.metrics.updates.increment(1);
                *told = None;
                alive.publish(value);
            }
            Err(Refused { why, lags: true, .. }) => {
                tracing::info!("{what}: {why}; the last good one stays");
                control.leave_replica();
                lags = true;
                break Status::unavailable(why);
            }
            Err(Refused { why, leaves_a_gap, .. }) => {
                tell(control, what, why, told);
                if leaves_a_gap {
                    break Status::data_loss("an update was refused");
                }
            }
        }
    };
    Ended { status, gave, lags }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::{pin::Pin, task::Poll};

    use futures_core::Stream;
    use mesh_proto::v1::{
        self, EndpointsUpdate,
        destination_server::{Destination, DestinationServer},
    };
    use tokio::{net::TcpListener, sync::mpsc};
    use tonic::transport::{Endpoint, Server, server::TcpIncoming};

    use super::*;
    use crate::worker::tests::parts;

    /// Tells of one endpoint, and then of more than one update may be about; and each time that it is asked.
    struct Talkative(mpsc::Sender<()>);

    #[tonic::async_trait]
    impl Destination for Talkative {
        type EndpointsStream = Pin<Box<dyn Stream<Item = Result<EndpointsUpdate, Status>> + Send>>;

        async fn endpoints(
            &self,
            _: tonic::Request<EndpointsRequest>,
        ) -> Result<Response<Self::EndpointsStream>, Status> {
            self.0.send(()).await.map_err(|_| Status::cancelled("the test is over"))?;
            let endpoint = |n: u32| v1::Endpoint {
                address: format!("10.{}.{}.{}:80", n >> 16, n >> 8 & 255, n & 255),
                workload: "w".repeat(100),
                ..Default::default()
            };
            let mut updates = [1, 45_000].into_iter().map(move |count| {
                Ok(EndpointsUpdate { reset: true, add: (0..count).map(endpoint).collect(), ..Default::default() })
            });
            Ok(Response::new(Box::pin(Updates(move || updates.next()))))
        }
    }

    /// What comes of itself, and then nothing more.
    struct Updates<F>(F);

    impl<T, F: FnMut() -> Option<T> + Unpin> Stream for Updates<F> {
        type Item = T;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<Option<T>> {
            (self.0)().map_or(Poll::Pending, |update| Poll::Ready(Some(update)))
        }
    }

    #[tokio::test]
    async fn an_update_beyond_its_bytes_is_refused_and_the_last_good_one_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (told, mut asked)) = (listener.local_addr().unwrap(), mpsc::channel(1));
        let server = Server::builder().add_service(DestinationServer::new(Talkative(told)));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let (_, _, control, metrics) = parts(&[]);
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        control.channel.lock().unwrap().0 = channel;
        let endpoints = control.endpoints(&ServiceRef::new("shop", "web", 80));
        for _ in 0..2 {
            tokio::time::timeout(Duration::from_secs(20), asked.recv()).await.unwrap().unwrap();
        }
        let page = metrics.render();
        assert!(!page.contains("mesh_control_rejected_total 0"), "{page}");
        assert_eq!(endpoints.get().unwrap().endpoints.len(), 1);
    }

    /// Knows nothing of whoever asks.
    struct Behind;

    #[tonic::async_trait]
    impl Destination for Behind {
        type EndpointsStream = Pin<Box<dyn Stream<Item = Result<EndpointsUpdate, Status>> + Send>>;

        async fn endpoints(
            &self,
            _: tonic::Request<EndpointsRequest>,
        ) -> Result<Response<Self::EndpointsStream>, Status> {
            Err(Status::unavailable("no pod \"shop/web-1\" is known here"))
        }
    }

    #[tokio::test]
    async fn a_replica_that_does_not_know_this_pod_is_left_for_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(DestinationServer::new(Behind));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let (_, _, control, _) = parts(&[]);
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let chosen = std::time::Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        *control.channel.lock().unwrap() = (channel, chosen);
        let _endpoints = control.endpoints(&ServiceRef::new("shop", "web", 80));
        let left = async {
            while control.channel.lock().unwrap().1 == chosen {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), left).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn gone_is_believed_at_once_from_the_stream_that_knew_and_late_from_another() {
        for kind in [Kind::Target, Kind::Backend] {
            let mut doubted = None;
            assert!(is_gone(kind, true, &mut doubted));
            assert!(!is_gone(kind, false, &mut doubted) && doubted.is_some());
            tokio::time::advance(DOUBTED_FOR - Duration::from_millis(1)).await;
            assert!(!is_gone(kind, false, &mut doubted));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(is_gone(kind, false, &mut doubted) && doubted.is_none());
        }
        assert!(!is_gone(Kind::Workload, true, &mut None) && !is_gone(Kind::Workload, false, &mut None));
    }
}
