//! Services that are closed because routes to them are beyond all room, so that only the routes' names are known (`room`).
//!
//! A route that guards a Service must not open it by being too much. Where no other route of its namespace and of a kind that
//! goes before is in force, a route without rules stands for it.

use std::sync::Arc;

use mesh_policy::{Route, RouteKind, RouteMeta};

use crate::{object::Key, shared_map::SharedMap};

/// Most Services that are closed one by one for the routes of one namespace: far more than anyone has, in some hundred KiB.
/// Beyond it everything is closed that routes of the namespace could be attached to.
const MAX_CLOSED: usize = 4_096;
/// The name of the route that stands for those that are not in force.
const NAME: &str = "not-in-force";

/// See the module. By the namespace of the routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Closed {
    services: SharedMap<(Arc<str>, Key), RouteKind>,
    counts: SharedMap<Arc<str>, usize>,
}

impl Closed {
    /// The first kind of the routes of a namespace that close a Service.
    pub(crate) fn kind(&self, namespace: &Arc<str>, service: &Key) -> Option<RouteKind> {
        let all = || self.is_all(namespace).then_some(RouteKind::Tcp);
        self.services.get(&(namespace.clone(), service.clone())).copied().or_else(all)
    }

    /// Closes a Service. Says whether that is news.
    pub(crate) fn add(&mut self, namespace: &Arc<str>, service: Key, kind: RouteKind) -> bool {
        let at = (namespace.clone(), service);
        let before = self.services.get(&at).copied();
        if before.is_some_and(|before| before <= kind) {
            return false;
        }
        let count = self.counts.get(namespace).copied().unwrap_or_default();
        if before.is_none() {
            if count > MAX_CLOSED {
                return false;
            }
            self.counts.insert(namespace.clone(), count + 1);
            if count == MAX_CLOSED {
                return true;
            }
        }
        self.services.insert(at, kind);
        true
    }

    /// Whether everything is closed that routes of a namespace could be attached to.
    pub(crate) fn is_all(&self, namespace: &Arc<str>) -> bool {
        self.counts.get(namespace).is_some_and(|count| *count > MAX_CLOSED)
    }

    /// Opens what is closed for routes of a namespace. Gives what was closed.
    pub(crate) fn clear(&mut self, namespace: &Arc<str>) -> Vec<Key> {
        if self.counts.remove(namespace).is_none() {
            return Vec::new();
        }
        let of = self.services.range_from(&(namespace.clone(), Key::new("", ""))).map(|(at, _)| at.clone());
        let all: Vec<_> = of.take_while(|(of, _)| of == namespace).collect();
        all.iter().for_each(|at| drop(self.services.remove(at)));
        all.into_iter().map(|(_, service)| service).collect()
    }
}

/// The route that stands for those of a namespace that are not in force: it is attached and serves nothing.
pub(crate) fn stand_in(namespace: &Arc<str>, kind: RouteKind) -> Arc<Route> {
    let meta = RouteMeta { kind, namespace: namespace.clone(), name: NAME.into(), created: 0 };
    Arc::new(Route { meta, hostnames: Vec::new(), rules: Vec::new() })
}
