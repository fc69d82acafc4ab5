//! The gRPC service `Destination`: the endpoints of a backend, as deltas.

use std::{collections::BTreeMap, net::SocketAddr, pin::Pin, sync::Arc};

use futures_util::Stream;
use mesh_policy::{Endpoint, ServiceRef};
use mesh_proto::{
    EndpointsDelta,
    v1::{self, destination_server},
};
use mesh_resources::{Key, Locality};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    api::{
        cache::Cache,
        caller,
        compiler::Compiler,
        follow::{Changes, CompileTurn, Step, follow},
        interest::{Interest, Interests},
        stalled::Endings,
        streams::About,
    },
    metrics::Metrics,
    source::index::{Published, look},
};

/// Most endpoints that come or go in one update: about 1.5 MB, since gRPC readers take 4 MiB at most by default.
const MAX_PER_UPDATE: usize = 10_000;

/// Serves endpoints from the index.
#[derive(Clone, Debug)]
pub struct DestinationService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: watch::Receiver<Arc<Published>>,
    interests: Interests,
    endings: Endings,
    metrics: Arc<Metrics>,
    compiler: Compiler,
    /// By Service port, and by the caller's place where that matters.
    endpoints: Cache<(ServiceRef, Locality), Vec<Endpoint>>,
}

impl DestinationService {
    /// Streams end when `endings` says so.
    pub fn new(
        index: watch::Receiver<Arc<Published>>,
        interests: Interests,
        endings: impl Into<Endings>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let endings = endings.into();
        let endpoints = Cache::new(metrics.compilations.clone());
        let compiler = Compiler::start();
        Self { shared: Arc::new(Shared { index, interests, endings, metrics, compiler, endpoints }) }
    }
}

#[tonic::async_trait]
impl destination_server::Destination for DestinationService {
    type EndpointsStream = Pin<Box<dyn Stream<Item = Result<v1::EndpointsUpdate, Status>> + Send>>;

    async fn endpoints(
        &self,
        request: Request<v1::EndpointsRequest>,
    ) -> Result<Response<Self::EndpointsStream>, Status> {
        let (caller, peer) = (caller::identity(&request)?, caller::peer(&request)?);
        let v1::EndpointsRequest { service, workload } = request.into_inner();
        let service = service.ok_or_else(|| Status::invalid_argument("service: absent"))?;
        let service = ServiceRef::try_from(service).map_err(|e| Status::invalid_argument(format!("service.{e}")))?;
        let shared = self.shared.clone();
        let key = Key::of_service(&service);
        let published = shared.index.borrow().clone();
        caller::check_workload(&published, &caller, &workload)?;
        // The zone of the caller may be a part of the answer. A pod stays on its Node.
        let node = published.snapshot.pod(&workload).and_then(|pod| pod.node.clone()).map(Interest::Node);
        let interests = [Interest::Service(key)].into_iter().chain(node);
        let changes = Changes(interests.map(|interest| shared.interests.follow(interest)).collect());
        let turn = CompileTurn { compiler: Some(shared.compiler.clone()), namespace: caller.namespace().into() };
        let not_found = {
            let service = service.clone();
            move || Status::not_found(format!("{service} is no port of a Service; ask again once it is there"))
        };
        let (asked, claimed, client) = (service.clone(), workload.clone(), turn.namespace.clone());
        let current = Arc::new(move |published: &Published| {
            let depends = published.snapshot.depends_on_locality(&service);
            let place = if depends { published.snapshot.locality(&workload) } else { Locality::default() };
            shared.endpoints.get(published.version, &client, (service.clone(), place), |(service, place)| {
                published.snapshot.has_port(service).then(|| published.snapshot.endpoints_for(service, place))
            })
        });
        let first = current.clone();
        let is_known = turn.take(move || first(&published).is_some()).await;
        if !is_known.ok_or_else(|| Status::internal("the endpoints could not be found out; ask again"))? {
            return Err(not_found());
        }
        let about = About::Endpoints(asked);
        let open = peer.open(&claimed, about, &self.shared.endings.of(peer.address))?;
        let mut sent: Option<Arc<Vec<Endpoint>>> = None;
        let index = self.shared.index.clone();
        let stream = follow(changes, open, &self.shared.metrics.endpoints, turn, move || {
            let (published, seen) = look(&index);
            let Some(now) = current(&published) else { return Step::End(not_found()) };
            let before = sent.as_deref().map(Vec::as_slice);
            let Some(mut delta) = delta(before, &now, published.version) else { return Step::Same };
            let is_part = shorten(&mut delta, MAX_PER_UPDATE);
            let (changed, seen) = (published.changed.of_endpoints(), seen.of_endpoints());
            let update = v1::EndpointsUpdate { changed, seen, ..(&delta).into() };
            if is_part {
                sent = Some(Arc::new(applied(before, delta)));
                return Step::SendPart(update);
            }
            sent = Some(now);
            Step::Send(update)
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// What leads from what was sent to what is now; `None` when nothing does. The first is a reset, also when empty.
fn delta(sent: Option<&[Endpoint]>, now: &[Endpoint], version: u64) -> Option<EndpointsDelta> {
    let Some(sent) = sent else {
        return Some(EndpointsDelta { reset: true, add: now.to_vec(), remove: Vec::new(), version });
    };
    if std::ptr::eq(sent, now) {
        return None;
    }
    let by_address = |endpoints| -> BTreeMap<SocketAddr, &Endpoint> {
        <[Endpoint]>::iter(endpoints).map(|e| (e.address, e)).collect()
    };
    let (old, new) = (by_address(sent), by_address(now));
    let add: Vec<_> = new.values().filter(|e| old.get(&e.address) != Some(e)).map(|e| (*e).clone()).collect();
    let remove: Vec<_> = old.keys().filter(|address| !new.contains_key(address)).copied().collect();
    (!add.is_empty() || !remove.is_empty()).then_some(EndpointsDelta { reset: false, add, remove, version })
}

/// Shortens a delta to so many endpoints; says whether something is left. What comes goes before what leaves, so that a
/// proxy is never without endpoints in between.
fn shorten(delta: &mut EndpointsDelta, max: usize) -> bool {
    let left = (delta.add.len() + delta.remove.len()).saturating_sub(max);
    delta.add.truncate(max);
    delta.remove.truncate(max - delta.add.len());
    left > 0
}

/// The endpoints after a delta.
fn applied(before: Option<&[Endpoint]>, delta: EndpointsDelta) -> Vec<Endpoint> {
    let before = before.unwrap_or_default().iter().map(|endpoint| (endpoint.address, endpoint.clone()));
    let mut all: BTreeMap<SocketAddr, Endpoint> = before.collect();
    all.extend(delta.add.into_iter().map(|endpoint| (endpoint.address, endpoint)));
    delta.remove.iter().for_each(|address| drop(all.remove(address)));
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(port: u16, zone: &str) -> Endpoint {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        Endpoint { address, identity: None, zone: Some(zone.into()), workload: "".into(), controlled_by: "".into() }
    }

    #[test]
    fn only_what_changed() {
        let old = [at(1, "a"), at(2, "a"), at(3, "a")];
        let new = [at(2, "a"), at(3, "b"), at(4, "a")];
        let first = delta(None, &old, 1).unwrap();
        assert!(first.reset && first.add == old && first.remove.is_empty());
        let second = delta(Some(&old), &new, 2).unwrap();
        assert!(!second.reset);
        assert_eq!(second.add, [at(3, "b"), at(4, "a")]);
        assert_eq!(second.remove, [at(1, "a").address]);
        assert_eq!(delta(Some(&new), &new.clone(), 3), None);
        let none = delta(None, &[], 1).unwrap();
        assert!(none.reset && none.add.is_empty());
        assert_eq!(delta(Some(&old), &[], 4).unwrap().remove.len(), 3);
    }

    #[test]
    fn a_long_delta_goes_out_in_parts() {
        let old: Vec<_> = (1..=7).map(|port| at(port, "a")).collect();
        let new: Vec<_> = (5..=12).map(|port| at(port, "a")).collect();
        let mut sent: Option<Vec<Endpoint>> = None;
        let mut parts = Vec::new();
        for now in [&old, &new] {
            while let Some(mut delta) = delta(sent.as_deref(), now, 1) {
                let is_part = shorten(&mut delta, 3);
                parts.push((delta.reset, delta.add.len(), delta.remove.len()));
                assert!(delta.add.len() + delta.remove.len() <= 3);
                sent = Some(applied(sent.as_deref(), delta));
                assert_eq!(is_part, sent.as_ref() != Some(now));
            }
            assert_eq!(sent.as_ref(), Some(now));
        }
        let expected = [(true, 3, 0), (false, 3, 0), (false, 1, 0), (false, 3, 0), (false, 2, 1), (false, 0, 3)];
        assert_eq!(parts, expected);
    }
}
