//! What requests and connections are told apart by in the metrics: who called, who served, what decided. Bound when something
//! new is met, never for each request.

use std::{fmt::Write, rc::Rc};

use mesh_policy::{Identity, ServiceRef};

use super::{BoundSeries, Direction, DirectionMetrics, Placed, Series};

/// Label sets without an endpoint that stay bound; the one bound first makes room.
const MAX_UNPLACED: usize = 64;

/// One end of a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    /// Name of what controls its pod; empty where nobody vouches for it.
    workload: String,
    /// Its namespace.
    namespace: String,
    /// What its certificate proves; empty when it is not meshed.
    identity: String,
}

/// What distinguishes requests and connections; how they ended comes later.
#[derive(Debug)]
pub(crate) struct Labels<'l> {
    source: End,
    destination: End,
    /// Whether the hop between the proxies is mutual TLS.
    mutual_tls: bool,
    placed: &'l Placed,
    /// `namespace/name:port` of the backend, or the application's port.
    backend: String,
}

impl Labels<'_> {
    /// Their names and values.
    pub(super) fn named(&self, direction: Direction) -> Vec<(&'static str, String)> {
        let Self { source, destination, mutual_tls, placed, backend } = self;
        vec![
            ("direction", direction.as_str().to_owned()),
            ("src_workload", source.workload.clone()),
            ("src_namespace", source.namespace.clone()),
            ("src_identity", source.identity.clone()),
            ("dst_workload", destination.workload.clone()),
            ("dst_namespace", destination.namespace.clone()),
            ("dst_identity", destination.identity.clone()),
            ("tls", if *mutual_tls { "mutual" } else { "none" }.to_owned()),
            ("route", placed.route_label()),
            ("rule", placed.rule_label()),
            ("backend", backend.clone()),
            ("authority", placed.authority_label()),
        ]
    }
}

/// The labels of all of a direction that there is no room for.
pub(super) fn overflow(direction: Direction) -> [(&'static str, String); 2] {
    [("direction", direction.as_str().to_owned()), ("overflow", "true".to_owned())]
}

/// Labels as text, each with a comma behind it.
pub(super) fn label_text<'l>(labels: impl IntoIterator<Item = &'l (&'static str, String)>) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{name}=\"{escaped}\",");
    }
    text
}

/// What was met, and a backend, as far as they were known.
pub(super) type Known = (Placed, Option<ServiceRef>);

/// Bound series of what came to no endpoint: redirects, denials, backends without endpoints.
pub(super) type Unplaced = BoundSeries<Known, MAX_UNPLACED>;

impl DirectionMetrics {
    /// This pod.
    fn own(&self) -> End {
        let identity = self.held.identity();
        End {
            workload: self.workload.borrow().to_string(),
            namespace: self.namespace.to_string(),
            identity: identity.as_ref().map_or("", Identity::as_str).to_owned(),
        }
    }

    /// The handles for what this proxy's application sends to a server.
    pub(crate) fn bind_outbound(&self, server: &mesh_policy::Endpoint, placed: &Placed, backend: String) -> Series {
        let identity = server.identity.as_ref();
        let destination = End {
            workload: server.controlled_by.to_string(),
            namespace: server.workload.split_once('/').map_or("", |(namespace, _)| namespace).to_owned(),
            identity: identity.map_or("", Identity::as_str).to_owned(),
        };
        let mutual_tls = identity.is_some();
        let labels = Labels { source: self.own(), destination, mutual_tls, placed, backend };
        self.metrics.series(self.direction, &labels)
    }

    /// The handles for what a caller sends to a port of this proxy's application. Of the caller only what its certificate proves
    /// is told.
    pub(crate) fn bind_inbound(&self, caller: Option<&Identity>, port: u16) -> Series {
        let source = End {
            workload: String::new(),
            namespace: caller.map_or("", Identity::namespace).to_owned(),
            identity: caller.map_or("", Identity::as_str).to_owned(),
        };
        let (mutual_tls, placed, backend) = (caller.is_some(), &Placed::default(), port.to_string());
        self.metrics.series(self.direction, &Labels { source, destination: self.own(), mutual_tls, placed, backend })
    }

    /// The handles for what came to no endpoint, made at first use.
    pub(crate) fn unplaced(&self, placed: &Placed, backend: Option<&ServiceRef>) -> Rc<Series> {
        let is_meant = |(p, b): &Known| p == placed && b.as_ref() == backend;
        self.unplaced.get(is_meant, || {
            let (source, destination) = match self.direction {
                Direction::Outbound => (self.own(), End::default()),
                Direction::Inbound => (End::default(), self.own()),
            };
            let named = backend.map(ToString::to_string).unwrap_or_default();
            let labels = Labels { source, destination, mutual_tls: false, placed, backend: named };
            ((placed.clone(), backend.cloned()), self.metrics.series(self.direction, &labels))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{rc::Rc, sync::Arc};

    use mesh_policy::{RouteKind, RouteMeta};

    use super::*;

    #[tokio::test]
    async fn what_came_to_no_endpoint_is_bound_for_a_few_routes() {
        let worker = crate::worker::tests::worker(&[]);
        let series = |n: usize| {
            let (namespace, name): (Arc<str>, Arc<str>) = ("shop".into(), format!("route-{n}").into());
            let route = Some(RouteMeta { kind: RouteKind::Http, namespace, name, created: 0 });
            worker.outbound.unplaced(&Placed { route, ..Placed::default() }, None)
        };
        let (first, second) = (series(0), series(1));
        (2..=MAX_UNPLACED).for_each(|n| drop(series(n)));
        assert_eq!(worker.outbound.unplaced.len(), MAX_UNPLACED);
        assert!(Rc::ptr_eq(&second, &series(1)) && !Rc::ptr_eq(&first, &series(0)), "the one bound first made room");
    }
}
