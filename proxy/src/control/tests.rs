//! Tests of what is known of the control plane: since when a stream is away, and snapshots that come, stay and are
//! withdrawn.
#![allow(clippy::unwrap_used)]

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use mesh_proto::v1::{
    self,
    policy_server::{Policy, PolicyServer},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use super::*;

#[test]
fn the_first_stream_that_is_away_says_since_when() {
    let metrics = crate::metrics::Metrics::new(1);
    let name = "mesh_control_disconnected_since_seconds";
    let away = Away::new(metrics.gauge(name, &[]));
    let since = || -> f64 {
        let text = metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
        line.and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
    };
    assert_eq!(since(), 0.0);
    let first = away.one();
    let begun = since();
    assert!(begun > 1e9, "{begun}");
    let second = away.one();
    drop(first);
    assert_eq!(since(), begun, "one is still away");
    drop(second);
    assert_eq!(since(), 0.0);
}

#[test]
fn what_nobody_has_is_dropped_and_the_rest_stays() {
    let mut table = Weaks::<usize, u32>::default();
    let kept: Vec<_> = (0..100).map(|_| Arc::new(Snapshot::default())).collect();
    for (key, snapshot) in kept.iter().enumerate() {
        table.insert(key, Arc::downgrade(snapshot));
    }
    for key in 100..10_000 {
        table.insert(key, Arc::downgrade(&Arc::default()));
        assert!(table.snapshots.len() <= 2 * (kept.len() + 1), "{}", table.snapshots.len());
    }
    assert!((0..100).all(|key| table.snapshots.get(&key).and_then(Weak::upgrade).is_some()));
}

#[tokio::test(start_paused = true)]
async fn what_is_absent_is_told_at_once_and_may_come_yet() {
    let snapshot = Snapshot::default();
    assert_eq!(snapshot.wait(Duration::from_secs(1)).await, Err(Phase::Pending));
    snapshot.absent();
    let begun = tokio::time::Instant::now();
    assert_eq!(snapshot.wait(Duration::from_secs(1)).await, Err(Phase::Absent));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!snapshot.is_not_found(), "it is still asked for");
    snapshot.publish(1);
    assert_eq!(snapshot.wait(Duration::from_secs(1)).await.as_deref(), Ok(&1));
    snapshot.withdraw();
    assert_eq!(snapshot.get(), None);
    assert_eq!(snapshot.wait(Duration::from_secs(1)).await, Err(Phase::Absent));
}

#[tokio::test(start_paused = true)]
async fn the_newest_value_is_taken_when_none_will_do_in_time() {
    let snapshot = Snapshot::default();
    snapshot.publish(1);
    let wait = |at_least| snapshot.wait_until(Duration::from_secs(1), move |value| *value >= at_least);
    assert_eq!(wait(1).await.as_deref(), Some(&1));
    let later = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        snapshot.publish(2);
    };
    assert_eq!(tokio::join!(wait(2), later).0.as_deref(), Some(&2));
    assert_eq!(wait(3).await.as_deref(), Some(&2));
}

/// A replica of the controller that answers one pod: what it says each time that it is asked.
struct Replica(Mutex<std::vec::IntoIter<Result<v1::WorkloadPolicy, Status>>>);

type Answer<T> = Result<Response<Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>>, Status>;

#[tonic::async_trait]
impl Policy for Replica {
    type OutboundStream = Pin<Box<dyn Stream<Item = Result<v1::OutboundPolicy, Status>> + Send>>;
    type WorkloadStream = Pin<Box<dyn Stream<Item = Result<v1::WorkloadPolicy, Status>> + Send>>;
    type InboundStream = Pin<Box<dyn Stream<Item = Result<v1::InboundPolicy, Status>> + Send>>;

    async fn outbound(&self, _: Request<v1::OutboundRequest>) -> Answer<v1::OutboundPolicy> {
        Err(Status::unimplemented("not asked"))
    }

    async fn workload(&self, request: Request<v1::WorkloadRequest>) -> Answer<v1::WorkloadPolicy> {
        let request = request.into_inner();
        assert_eq!((request.workload.as_str(), request.authorization_form), ("shop/web-1", 1));
        assert_eq!(request.listed_ports, [ListedPort { port: 8080, listed: 18080 }]);
        let next = self.0.lock().unwrap().next();
        let mut policy = Some(next.unwrap_or_else(|| Err(Status::unavailable("no more")))?);
        // One policy, and then the stream ends.
        Ok(Response::new(Box::pin(poll_fn_stream(move || policy.take().map(Ok)))))
    }

    async fn inbound(&self, _: Request<v1::InboundRequest>) -> Answer<v1::InboundPolicy> {
        Err(Status::unimplemented("not asked"))
    }
}

/// A stream of what `next` gives.
fn poll_fn_stream<T: Send + 'static>(
    next: impl FnMut() -> Option<T> + Send + Unpin + 'static,
) -> impl Stream<Item = T> {
    struct Given<F>(F);
    impl<T, F: FnMut() -> Option<T> + Unpin> Stream for Given<F> {
        type Item = T;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
            Poll::Ready((self.0)())
        }
    }
    Given(next)
}

#[tokio::test]
async fn the_policy_of_this_pod_is_heard_once_and_kept_whatever_comes_after() {
    let policy = |protocol: v1::Protocol| {
        let access = v1::Access { kind: Some(v1::access::Kind::All(true)) };
        let port = v1::PortPolicy { first: 8080, last: 8080, protocol: protocol.into(), ..Default::default() };
        v1::WorkloadPolicy { access: Some(access), ports: vec![port], ..Default::default() }
    };
    let answers = vec![
        Err(Status::unavailable("no pod \"shop/web-1\" is known here")),
        Ok(policy(v1::Protocol::Http1)),
        Err(Status::not_found("it is being deleted")),
        Err(Status::failed_precondition("a newer form")),
        // It lost who may call.
        Ok(v1::WorkloadPolicy { access: None, ..policy(v1::Protocol::Opaque) }),
        Ok(policy(v1::Protocol::Http2)),
    ];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", listener.local_addr().unwrap()));
    let server = Server::builder().add_service(PolicyServer::new(Replica(Mutex::new(answers.into_iter()))));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let (_, _, control, metrics) = crate::worker::tests::parts(&[("MESH_INBOUND_PORTS", "18080=8080")]);
    // A replica that was just chosen is not left.
    let soon = Instant::now() + Duration::from_secs(60);
    *control.channel.lock().unwrap() = (channel.unwrap().connect_lazy(), soon);
    assert!(!control.is_known());
    let mut changes = control.inbound().changes();
    let follows = control.clone();
    tokio::spawn(async move { streams::inbound(&follows).await });
    for expected in [mesh_policy::Protocol::Http1, mesh_policy::Protocol::Http2] {
        // Absent is told as well, so that nobody waits; the value stays.
        let heard =
            changes.wait_for(|_| control.inbound().get().is_some_and(|p| p.ports.get(8080).protocol == expected));
        tokio::time::timeout(Duration::from_secs(30), heard).await.unwrap().unwrap();
        assert!(control.is_known());
    }
    assert!(metrics.render().contains("mesh_control_rejected_total 2"), "{}", metrics.render());
}
