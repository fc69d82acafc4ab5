//! What changed of the routes of a target: a thousand routes are not sent again because of one.

use std::{collections::HashMap, sync::Arc};

use mesh_policy::{OutboundPolicy, Route, RouteKind, RouteMeta, RouteTable};

use super::{ConvertError, MAX_ROUTES, list, name, route::kind};
use crate::v1;

/// Which object a route came from; a table has each once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The step from one policy of a target to the next, where only routes differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteDelta {
    /// Routes that are new or changed.
    pub upsert: Vec<Arc<Route>>,
    /// Routes that are gone.
    pub removed: Vec<RouteKey>,
}

impl From<&RouteMeta> for RouteKey {
    fn from(meta: &RouteMeta) -> Self {
        Self { kind: meta.kind, namespace: meta.namespace.clone(), name: meta.name.clone() }
    }
}

impl RouteDelta {
    /// What leads from one policy to another; `None`: more than routes differ, or a route is there twice, so that only the
    /// whole says it.
    pub fn between(old: &OutboundPolicy, new: &OutboundPolicy) -> Option<Self> {
        if (&old.target, old.protocol) != (&new.target, new.protocol) {
            return None;
        }
        by_key(new.routes.routes())?;
        let mut before = by_key(old.routes.routes())?;
        let differs = |route: &&Arc<Route>| {
            let old = before.remove(&RouteKey::from(&route.meta));
            // One that is shared is the same; only others are compared.
            !old.is_some_and(|old| Arc::ptr_eq(old, route) || old == *route)
        };
        let upsert = new.routes.routes().iter().filter(differs).cloned().collect();
        Some(Self { upsert, removed: before.into_keys().collect() })
    }

    /// The policy after this step. What does not follow from the policy before is refused: something in between was missed.
    pub fn apply(self, before: &OutboundPolicy) -> Result<OutboundPolicy, ConvertError> {
        let mut routes: HashMap<RouteKey, Arc<Route>> =
            before.routes.routes().iter().map(|route| (RouteKey::from(&route.meta), route.clone())).collect();
        for (i, key) in self.removed.iter().enumerate() {
            if routes.remove(key).is_none() {
                let what = format_args!("there is no {} {}/{}", key.kind.as_str(), key.namespace, key.name);
                return Err(ConvertError::new(format!("delta.removed[{i}]"), what));
            }
        }
        routes.extend(self.upsert.into_iter().map(|route| (RouteKey::from(&route.meta), route)));
        if routes.len() > MAX_ROUTES {
            let what = format_args!("leads to {} routes, at most {MAX_ROUTES} are allowed", routes.len());
            return Err(ConvertError::new("delta.upsert", what));
        }
        Ok(OutboundPolicy {
            target: before.target.clone(),
            protocol: before.protocol,
            routes: RouteTable::from_shared(routes.into_values().collect()),
        })
    }
}

fn by_key(routes: &[Arc<Route>]) -> Option<HashMap<RouteKey, &Arc<Route>>> {
    let all: HashMap<_, _> = routes.iter().map(|route| (RouteKey::from(&route.meta), route)).collect();
    (all.len() == routes.len()).then_some(all)
}

impl TryFrom<v1::RouteDelta> for RouteDelta {
    type Error = ConvertError;

    fn try_from(wire: v1::RouteDelta) -> Result<Self, ConvertError> {
        let key = |key: v1::RouteKey| {
            Ok(RouteKey {
                kind: kind(key.kind)?,
                namespace: name("namespace", &key.namespace)?,
                name: name("name", &key.name)?,
            })
        };
        Ok(Self {
            upsert: list("upsert", wire.upsert, MAX_ROUTES, |route| Route::try_from(route).map(Arc::new))?,
            removed: list("removed", wire.removed, MAX_ROUTES, key)?,
        })
    }
}

impl From<&RouteDelta> for v1::RouteDelta {
    fn from(model: &RouteDelta) -> Self {
        let key = |key: &RouteKey| v1::RouteKey {
            kind: v1::RouteKind::from(key.kind).into(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
        };
        let upsert = model.upsert.iter().map(|route| (&**route).into()).collect();
        Self { upsert, removed: model.removed.iter().map(key).collect() }
    }
}
