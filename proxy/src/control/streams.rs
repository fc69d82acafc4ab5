//! The streams of policies and endpoints: ask, apply each update, ask again with back-off when the stream breaks.
//!
//! A stream lives as long as somebody holds its snapshot. `NOT_FOUND` before the first value ends that of an outbound
//! target, of which there may be many that never come: whoever needs one asks again. Ports of this pod and backends of
//! routes are few and will come, so they are asked for again from here. After a value, nothing but a newer value replaces
//! it.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use mesh_policy::{Endpoint, InboundPolicy, OutboundPolicy, ServiceRef};
use mesh_proto::{
    ConvertError, RouteDelta,
    v1::{
        self, EndpointsRequest, EndpointsUpdate, InboundRequest, OutboundRequest,
        destination_client::DestinationClient, policy_client::PolicyClient,
    },
};
use tonic::{Code, Response, Status, Streaming};

use super::{Control, EndpointSet, Snapshot};
use crate::random::Random;

/// Waits between attempts: doubled from the first to the last, with jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);
/// A stream that lasted this long was a good one: the waits begin anew. One that breaks at once does not count.
const STEADY: Duration = Duration::from_secs(5);
/// How often a stream without news looks whether anyone still needs it.
const LIVENESS: Duration = Duration::from_secs(30);
/// A target that the controller does not know is not asked for again for so long, however often it is called.
const UNKNOWN_FOR: Duration = Duration::from_millis(500);
/// Endpoints of one backend; more than any cluster has pods in one Service.
const MAX_ENDPOINTS: usize = 50_000;

pub(super) async fn outbound(control: Arc<Control>, target: String, snapshot: Weak<Snapshot<OutboundPolicy>>) {
    let ask = |control: &Control| {
        let mut client = PolicyClient::new(control.channel.clone());
        let request = OutboundRequest { target: target.clone(), workload: control.workload.clone(), deltas: true };
        async move { client.outbound(request).await }
    };
    let mut follows = false;
    let apply = |update: v1::OutboundPolicy| {
        let before = snapshot.upgrade().and_then(|held| held.get()).filter(|_| follows);
        let applied = apply_outbound(before.as_deref(), update);
        follows = applied.is_ok();
        applied
    };
    follow(&control, &snapshot, &format!("outbound policy of {target}"), Kind::Target, ask, apply).await;
}

pub(super) async fn inbound(control: Arc<Control>, port: u16, snapshot: Weak<Snapshot<InboundPolicy>>) {
    let ask = |control: &Control| {
        let mut client = PolicyClient::new(control.channel.clone());
        let listed_port = control.listed_ports.get(&port).copied().unwrap_or(port).into();
        let request = InboundRequest { port: port.into(), workload: control.workload.clone(), listed_port };
        async move { client.inbound(request).await }
    };
    let apply = |update: v1::InboundPolicy| InboundPolicy::try_from(update).map_err(Refused::whole);
    follow(&control, &snapshot, &format!("inbound policy of port {port}"), Kind::Port, ask, apply).await;
}

pub(super) async fn endpoints(control: Arc<Control>, service: ServiceRef, snapshot: Weak<Snapshot<EndpointSet>>) {
    let ask = |control: &Control| {
        let mut client = DestinationClient::new(control.channel.clone());
        let request = EndpointsRequest { service: Some((&service).into()), workload: control.workload.clone() };
        async move { client.endpoints(request).await }
    };
    let mut known = BTreeMap::new();
    let apply = |update: EndpointsUpdate| {
        apply_endpoints(&mut known, update).map_err(|why| Refused { why, leaves_a_gap: true })
    };
    follow(&control, &snapshot, &format!("endpoints of {service}"), Kind::Backend, ask, apply).await;
}

/// An update that is not put in force.
struct Refused {
    why: String,
    /// Later updates build on it, so everything is asked for anew.
    leaves_a_gap: bool,
}

impl Refused {
    /// One that says everything, as the next will.
    fn whole(error: ConvertError) -> Self {
        Self { why: error.to_string(), leaves_a_gap: false }
    }

    /// One that says what changed.
    fn delta(why: impl ToString) -> Self {
        Self { why: why.to_string(), leaves_a_gap: true }
    }
}

/// A whole policy, or a change of the one before: of none, where the one before was refused.
fn apply_outbound(before: Option<&OutboundPolicy>, mut update: v1::OutboundPolicy) -> Result<OutboundPolicy, Refused> {
    match (update.delta.take(), before) {
        (None, _) => OutboundPolicy::try_from(update).map_err(Refused::whole),
        (Some(delta), Some(before)) => {
            RouteDelta::try_from(delta).and_then(|delta| delta.apply(before)).map_err(Refused::delta)
        }
        (Some(_), None) => Err(Refused::delta("a change of what was refused")),
    }
}

/// Applies one delta. A malformed one changes nothing.
fn apply_endpoints(known: &mut BTreeMap<SocketAddr, Endpoint>, update: EndpointsUpdate) -> Result<EndpointSet, String> {
    let add =
        update.add.into_iter().map(Endpoint::try_from).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let remove = update.remove.iter().map(|a| a.parse::<SocketAddr>()).collect::<Result<Vec<_>, _>>();
    let remove = remove.map_err(|error| format!("remove: {error}"))?;
    let kept = if update.reset { 0 } else { known.len() };
    if kept + add.len() > MAX_ENDPOINTS {
        return Err(format!("more than {MAX_ENDPOINTS} endpoints"));
    }
    if update.reset {
        known.clear();
    }
    remove.iter().for_each(|address| drop(known.remove(address)));
    known.extend(add.into_iter().map(|endpoint| (endpoint.address, endpoint)));
    Ok(EndpointSet { endpoints: known.values().cloned().collect() })
}

/// What a stream is about, where that makes a difference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Target,
    Port,
    Backend,
}

async fn follow<M, T, F>(
    control: &Control,
    snapshot: &Weak<Snapshot<T>>,
    what: &str,
    kind: Kind,
    ask: impl Fn(&Control) -> F,
    mut apply: impl FnMut(M) -> Result<T, Refused>,
) where
    F: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    let random = Random::default();
    let mut backoff = BACKOFF_FIRST;
    let mut away = None;
    while snapshot.strong_count() > 0 {
        let asked = Instant::now();
        let ended = match ask(control).await {
            Ok(stream) => {
                away = None;
                read(control, snapshot, what, stream.into_inner(), &mut apply).await
            }
            Err(status) => {
                // That there is no such thing is an answer, too.
                match status.code() {
                    Code::NotFound => away = None,
                    _ if away.is_none() => away = Some(control.away.one()),
                    _ => {}
                }
                status
            }
        };
        if asked.elapsed() > STEADY {
            backoff = BACKOFF_FIRST;
        }
        let Some(alive) = snapshot.upgrade() else { return };
        if ended.code() == Code::NotFound && alive.get().is_none() {
            tracing::debug!("{what}: {}", ended.message());
            alive.absent();
            if kind == Kind::Target {
                tokio::time::sleep(UNKNOWN_FOR).await;
                return alive.not_found();
            }
        }
        drop(alive);
        control.metrics.stream_broken.increment(1);
        tracing::debug!("{what}: {} ({:?}); asking again in about {backoff:?}", ended.message(), ended.code());
        tokio::time::sleep(random.jitter(backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

/// Reads one stream to its end and says why it ended.
async fn read<M, T>(
    control: &Control,
    snapshot: &Weak<Snapshot<T>>,
    what: &str,
    mut stream: Streaming<M>,
    apply: &mut impl FnMut(M) -> Result<T, Refused>,
) -> Status {
    loop {
        let update = match tokio::time::timeout(LIVENESS, stream.message()).await {
            Err(_) if snapshot.strong_count() == 0 => return Status::cancelled("no longer needed"),
            Err(_) => continue,
            Ok(Ok(Some(update))) => update,
            Ok(Ok(None)) => return Status::unavailable("the controller ended the stream"),
            Ok(Err(status)) => return status,
        };
        let Some(alive) = snapshot.upgrade() else { return Status::cancelled("no longer needed") };
        match apply(update) {
            Ok(value) => {
                control.metrics.updates.increment(1);
                alive.publish(value);
            }
            Err(Refused { why, leaves_a_gap }) => {
                control.metrics.rejected.increment(1);
                tracing::warn!("{what}: refused an update, the last good one stays: {why}");
                if leaves_a_gap {
                    return Status::data_loss("an update was refused");
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn wire(address: &str) -> v1::Endpoint {
        v1::Endpoint { address: address.into(), ..Default::default() }
    }

    #[test]
    fn deltas_add_remove_and_reset() {
        let mut known = BTreeMap::new();
        let first =
            EndpointsUpdate { reset: true, add: vec![wire("127.0.0.1:1"), wire("127.0.0.1:2")], ..Default::default() };
        assert_eq!(apply_endpoints(&mut known, first).unwrap().endpoints.len(), 2);
        let second = EndpointsUpdate { remove: vec!["127.0.0.1:1".into()], ..Default::default() };
        assert_eq!(apply_endpoints(&mut known, second).unwrap().endpoints[0].address.port(), 2);
        let third = EndpointsUpdate { reset: true, ..Default::default() };
        assert!(apply_endpoints(&mut known, third).unwrap().endpoints.is_empty());
    }

    #[test]
    fn a_change_needs_what_it_changes() {
        let service = v1::ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
        let route = |name: &str| v1::Route { namespace: "shop".into(), name: name.into(), ..Default::default() };
        let whole =
            v1::OutboundPolicy { service: Some(service), routes: vec![route("a"), route("b")], ..Default::default() };
        let delta = |upsert: &[&str], removed: &[&str]| {
            let key = |name: &&str| v1::RouteKey { kind: 0, namespace: "shop".into(), name: (*name).into() };
            let upsert = upsert.iter().map(|name| route(name)).collect();
            let delta = v1::RouteDelta { upsert, removed: removed.iter().map(key).collect() };
            v1::OutboundPolicy { delta: Some(delta), ..Default::default() }
        };
        let Ok(before) = apply_outbound(None, whole) else { panic!("a whole policy needs nothing before") };
        let Ok(after) = apply_outbound(Some(&before), delta(&["c"], &["a"])) else { panic!("it follows") };
        assert_eq!(after.routes.routes().iter().map(|r| &*r.meta.name).collect::<Vec<_>>(), ["b", "c"]);
        for (before, bad) in
            [(None, delta(&["c"], &[])), (Some(&after), delta(&[], &["a"])), (Some(&after), delta(&["."], &[]))]
        {
            assert!(apply_outbound(before, bad).is_err_and(|refused| refused.leaves_a_gap));
        }
        assert!(apply_outbound(Some(&after), v1::OutboundPolicy::default()).is_err_and(|r| !r.leaves_a_gap));
    }

    #[test]
    fn a_reset_counts_without_what_it_forgets() {
        let all = |port: u16| (0..=255).map(|n| wire(&format!("10.0.{n}.1:{port}"))).collect::<Vec<_>>();
        let many = |port| (0..MAX_ENDPOINTS / 256).flat_map(|n| all(port + n as u16)).collect();
        let mut known = BTreeMap::new();
        for port in [1_000, 2_000] {
            let update = EndpointsUpdate { reset: true, add: many(port), ..Default::default() };
            assert!(apply_endpoints(&mut known, update).is_ok());
        }
    }

    #[test]
    fn a_malformed_delta_changes_nothing() {
        let mut known = BTreeMap::new();
        apply_endpoints(&mut known, EndpointsUpdate { add: vec![wire("127.0.0.1:1")], ..Default::default() }).unwrap();
        for bad in [
            EndpointsUpdate { reset: true, add: vec![wire("nonsense")], ..Default::default() },
            EndpointsUpdate { reset: true, remove: vec!["nonsense".into()], ..Default::default() },
        ] {
            assert!(apply_endpoints(&mut known, bad).is_err());
            assert_eq!(known.len(), 1);
        }
    }
}
