//! The gRPC service `Destination`: the endpoints of a backend, as deltas.

use std::{collections::BTreeMap, net::SocketAddr, pin::Pin, sync::Arc};

use futures_util::Stream;
use mesh_policy::{Endpoint, ServiceRef};
use mesh_proto::{
    EndpointsDelta,
    v1::{self, destination_server},
};
use mesh_resources::Key;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    cache::Cache,
    caller,
    follow::{Step, follow},
    index::Published,
    metrics::Metrics,
};

/// Serves endpoints from the index.
#[derive(Clone, Debug)]
pub struct DestinationService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: watch::Receiver<Arc<Published>>,
    cancel: CancellationToken,
    metrics: Arc<Metrics>,
    endpoints: Cache<ServiceRef, Vec<Endpoint>>,
}

impl DestinationService {
    /// Streams end when `cancel` is cancelled.
    pub fn new(index: watch::Receiver<Arc<Published>>, cancel: CancellationToken, metrics: Arc<Metrics>) -> Self {
        let endpoints = Cache::new(metrics.compilations.clone());
        Self { shared: Arc::new(Shared { index, cancel, metrics, endpoints }) }
    }
}

#[tonic::async_trait]
impl destination_server::Destination for DestinationService {
    type EndpointsStream = Pin<Box<dyn Stream<Item = Result<v1::EndpointsUpdate, Status>> + Send>>;

    async fn endpoints(
        &self,
        request: Request<v1::EndpointsRequest>,
    ) -> Result<Response<Self::EndpointsStream>, Status> {
        let caller = caller::identity(&request)?;
        let v1::EndpointsRequest { service, workload } = request.into_inner();
        let service = service.ok_or_else(|| Status::invalid_argument("service: absent"))?;
        let service = ServiceRef::try_from(service).map_err(|e| Status::invalid_argument(format!("service.{e}")))?;
        let shared = self.shared.clone();
        let index = shared.index.clone();
        caller::check_workload(&index.borrow(), &caller, &workload)?;
        let not_found = {
            let service = service.clone();
            move || Status::not_found(format!("{service} is no port of a Service; ask again once it is there"))
        };
        let current = move |world: &Published| {
            shared.endpoints.get(world.version, service.clone(), |service| {
                let key = Key { namespace: service.namespace.clone(), name: service.name.clone() };
                world.snapshot.services.get(&key)?.port(service.port)?;
                Some(world.snapshot.endpoints(service))
            })
        };
        if current(&index.borrow()).is_none() {
            return Err(not_found());
        }
        let mut sent: Option<Arc<Vec<Endpoint>>> = None;
        let stream = follow(index, self.shared.cancel.clone(), &self.shared.metrics.endpoints, move |world| {
            let Some(now) = current(world) else { return Step::End(not_found()) };
            match delta(sent.as_deref().map(Vec::as_slice), &now, world.version) {
                None => Step::Same,
                Some(delta) => {
                    sent = Some(now);
                    Step::Send(v1::EndpointsUpdate::from(&delta))
                }
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(port: u16, zone: &str) -> Endpoint {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        Endpoint { address, identity: None, zone: Some(zone.into()), workload: "".into() }
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
}
