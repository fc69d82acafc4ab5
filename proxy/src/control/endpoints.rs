//! What is told of the endpoints of one backend: deltas that build on each other.
//!
//! Which stream is asked when is `streams`'s.

use std::{collections::BTreeMap, net::SocketAddr};

use mesh_policy::Endpoint;
use mesh_proto::v1::EndpointsUpdate;

use super::{EndpointSet, lag::Lag, update::Refused};

/// Endpoints of one backend; more than any cluster has pods in one Service.
const MAX_ENDPOINTS: usize = 50_000;

/// What was told of a backend's endpoints, by whichever replica.
#[derive(Default)]
pub(super) struct Told {
    known: BTreeMap<SocketAddr, Endpoint>,
    lag: Lag,
}

impl Told {
    /// Applies an update, unless it begins with an older state than what is known.
    pub(super) fn apply(&mut self, update: EndpointsUpdate) -> Result<EndpointSet, Refused> {
        if update.reset {
            self.lag.admit(update.seen.as_ref())?;
        }
        let changed = update.changed;
        let applied = apply_endpoints(&mut self.known, update).map_err(Refused::delta)?;
        self.lag.reached(changed);
        Ok(applied)
    }

    /// Forgets the endpoints: what is told next is the whole.
    pub(super) fn forget(&mut self) {
        self.known.clear();
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mesh_proto::v1::{self, Revisions};

    use super::{super::lag::LAGS_AT_MOST, *};

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

    #[tokio::test(start_paused = true)]
    async fn a_replica_whose_watch_is_stalled_takes_nothing_away() {
        let update = |reset, add: &[&str], remove: &[&str], changed, seen| EndpointsUpdate {
            reset,
            add: add.iter().map(|address| wire(address)).collect(),
            remove: remove.iter().map(|address| (*address).to_owned()).collect(),
            changed: Some(Revisions { services: 1, endpoint_slices: changed, pods: changed, ..Default::default() }),
            seen: Some(Revisions { services: 1, endpoint_slices: seen, pods: seen, ..Default::default() }),
            ..Default::default()
        };
        let (old, new) = ("10.0.0.1:80", "10.0.0.2:80");
        let ports = |told: &Told| told.known.keys().map(ToString::to_string).collect::<Vec<_>>();
        let mut told = Told::default();
        // One replica tells of a rollout; the other one stopped before it.
        assert!(told.apply(update(true, &[old], &[], 100, 120)).is_ok());
        assert!(told.apply(update(false, &[new], &[old], 130, 130)).is_ok());
        let stalled = update(true, &[old], &[], 100, 125);
        assert!(told.apply(stalled.clone()).is_err_and(|refused| refused.lags && refused.leaves_a_gap));
        assert_eq!(ports(&told), [new], "what was known stays");
        // It catches up: by a bookmark, where nothing else changed.
        assert!(told.apply(update(true, &[new], &[], 100, 130)).is_ok());
        // One that never does is believed in the end, as after a backup.
        assert!(told.apply(update(false, &[new], &[], 140, 140)).is_ok());
        assert!(told.apply(stalled.clone()).is_err());
        tokio::time::advance(LAGS_AT_MOST).await;
        assert!(told.apply(stalled).is_ok());
        assert_eq!(ports(&told), [old]);
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
        let (all, more) = (known.clone(), EndpointsUpdate { add: many(3_000), ..Default::default() });
        assert!(apply_endpoints(&mut known, more).is_err() && known == all, "more than there may be");
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
