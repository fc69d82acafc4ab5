//! What goes over the wire comes back the same, and what should not come in does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod deltas;
mod refused;
mod strategies;

use std::collections::BTreeMap;

use mesh_policy::{
    AuthorizationPolicy, OutboundPolicy, Protocol, Route, RouteKind, RouteMeta, Rule, Target, WorkloadPolicy,
    route::RouteTable,
};
use mesh_proto::{EndpointsDelta, RouteDelta, v1};
use proptest::{collection::vec, prelude::*};
use prost::Message;
use strategies::{address, endpoint, outbound, rule, service, workload};

/// Through the bytes, as a peer does it.
fn over_the_wire<M: Message + Default>(wire: &M) -> M {
    M::decode(wire.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn outbound_policies_come_back(policy in outbound()) {
        let wire = over_the_wire(&v1::OutboundPolicy::from(&policy));
        prop_assert_eq!(OutboundPolicy::try_from(wire).unwrap(), policy);
    }

    /// A reader of deltas ends where a reader of whole policies does, whatever comes and goes between.
    #[test]
    fn folded_deltas_agree_with_whole_policies(target in service(), tables in vec(vec((0..4u8, 0..3u8, rule()), 0..6), 1..6)) {
        let policy = |table: &[(u8, u8, Rule)]| {
            let mut routes: BTreeMap<u8, Route> = BTreeMap::new();
            for (object, created, rule) in table {
                let meta = RouteMeta {
                    kind: RouteKind::Http,
                    namespace: "n".into(),
                    name: format!("r{object}").into(),
                    created: i64::from(*created),
                };
                routes.insert(*object, Route { meta, hostnames: Vec::new(), rules: vec![rule.clone()] });
            }
            let routes = RouteTable::new(routes.into_values().collect());
            OutboundPolicy { target: Target::Service(target.clone()), protocol: Protocol::Detect, routes }
        };
        let mut told = policy(&tables[0]);
        let mut held = told.clone();
        for table in &tables {
            let now = policy(table);
            let delta = RouteDelta::between(&told, &now).unwrap();
            let wire = over_the_wire(&v1::RouteDelta::from(&delta));
            let delta = RouteDelta::try_from(wire).unwrap();
            prop_assert_eq!(delta == RouteDelta::default(), told == now);
            held = delta.apply(&held).unwrap();
            prop_assert_eq!(&held, &now);
            told = now;
        }
    }

    /// And they take no more there than in memory, where what a pod is told has its bound: a message has room for twice that.
    #[test]
    fn policies_of_workloads_come_back(policy in workload()) {
        let wire = over_the_wire(&v1::WorkloadPolicy::from(&policy));
        let bytes: usize = policy.authorization.iter().map(AuthorizationPolicy::bytes).sum();
        prop_assert!(policy.authorization.is_empty() || wire.access.as_ref().unwrap().encoded_len() <= bytes);
        prop_assert_eq!(WorkloadPolicy::try_from(wire).unwrap(), policy);
    }

    #[test]
    fn endpoint_deltas_come_back(
        reset in any::<bool>(), add in vec(endpoint(), 0..4), remove in vec(address(), 0..4), version in any::<u64>()
    ) {
        let delta = EndpointsDelta { reset, add, remove, version };
        let wire = over_the_wire(&v1::EndpointsUpdate::from(&delta));
        prop_assert_eq!(EndpointsDelta::try_from(wire).unwrap(), delta);
    }

    /// Any bytes that happen to be a message are either refused or understood; they never panic.
    #[test]
    fn rubbish_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = v1::OutboundPolicy::decode(bytes.as_slice()) {
            let _ = OutboundPolicy::try_from(wire);
        }
        if let Ok(wire) = v1::WorkloadPolicy::decode(bytes.as_slice()) {
            let _ = WorkloadPolicy::try_from(wire);
        }
    }
}
