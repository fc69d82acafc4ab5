//! Bound counters of one label set: where requests and connections came from, where they went, and how they ended.
//!
//! Nothing but a [`Record`](crate::record::Record) counts here.

use std::{
    cell::RefCell,
    fmt::Write,
    rc::Rc,
    sync::{Arc, PoisonError},
    time::Duration,
};

use http::StatusCode;
use mesh_policy::{Class, Identity, RouteMeta, ServiceRef};
use metrics::Counter;
use smallvec::SmallVec;

use super::{BoundSeries, Direction, DirectionMetrics, Histogram, MAX_SERIES, Metrics};

/// Codes, grpc statuses and failures counted apart for one label set: a server that answers with every number there is
/// makes one more series, `other`.
const MAX_OUTCOMES: usize = 64;
/// Label sets without an endpoint that stay bound; the one bound first makes room.
const MAX_UNPLACED: usize = 64;

/// What distinguishes requests and connections; how they ended comes later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels<'l> {
    /// The verified caller; empty when unknown.
    pub src_identity: &'l str,
    /// The verified server; empty when not meshed.
    pub dst_identity: &'l str,
    /// `namespace/pod` of the server, from discovery.
    pub dst_workload: &'l str,
    /// Whether the hop between the proxies is mutual TLS.
    pub mutual_tls: bool,
    /// `namespace/name` of the route; empty for the default.
    pub route: &'l str,
    /// `namespace/name:port` of the backend, or the application's port.
    pub backend: &'l str,
}

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    kind: Kind,
    class: Class,
    /// Why it failed; empty when it did not.
    error: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With these codes. There is none when nothing was answered.
    Request(Option<StatusCode>, Option<u8>),
    Bytes,
    /// One of too many that differ.
    OtherRequest,
}

/// Counters by outcome. A server has few of them.
type Outcomes = SmallVec<[(Outcome, Counter); 4]>;

/// Handles of one label set. Owned by one worker.
pub(crate) struct Series {
    metrics: Arc<Metrics>,
    labels: Arc<[(&'static str, String)]>,
    outcomes: RefCell<Outcomes>,
    latency: Arc<Histogram>,
}

impl Series {
    /// What distinguishes it, as names and values.
    pub(crate) fn labels(&self) -> &Arc<[(&'static str, String)]> {
        &self.labels
    }

    /// The response's head came after so long.
    pub(crate) fn answered(&self, latency: Duration) {
        self.latency.observe(latency);
    }

    /// Counts one request that ended. `error`: why it failed.
    pub(crate) fn request(&self, class: Class, status: Option<StatusCode>, grpc: Option<u8>, error: &'static str) {
        self.count(Outcome { kind: Kind::Request(status, grpc), class, error });
    }

    /// Counts one connection of bytes that ended.
    pub(crate) fn connection(&self, class: Class, error: &'static str) {
        self.count(Outcome { kind: Kind::Bytes, class, error });
    }

    fn count(&self, mut outcome: Outcome) {
        let mut outcomes = self.outcomes.borrow_mut();
        if outcomes.len() >= MAX_OUTCOMES
            && matches!(outcome.kind, Kind::Request(..))
            && !outcomes.iter().any(|(known, _)| *known == outcome)
        {
            outcome = Outcome { kind: Kind::OtherRequest, error: "", ..outcome };
        }
        if let Some((_, counter)) = outcomes.iter().find(|(known, _)| *known == outcome) {
            return counter.increment(1);
        }
        let counter = self.bind(outcome);
        counter.increment(1);
        outcomes.push((outcome, counter));
    }

    fn bind(&self, Outcome { kind, class, error }: Outcome) -> Counter {
        let mut labels: Vec<(&'static str, &str)> = self.labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
        labels.push(("class", class.as_str()));
        let (code, grpc) = match &kind {
            Kind::Bytes => {
                labels.push(("error", error));
                return self.metrics.counter("mesh_tcp_connections_total", &labels);
            }
            Kind::OtherRequest => ("other", String::new()),
            Kind::Request(code, grpc) => {
                (code.as_ref().map_or("", StatusCode::as_str), grpc.map(|code| code.to_string()).unwrap_or_default())
            }
        };
        labels.extend([("response_code", code), ("grpc_status", grpc.as_str()), ("error", error)]);
        self.metrics.counter("mesh_requests_total", &labels)
    }
}

impl Metrics {
    /// The bound handles for these labels, or the overflow series beyond the budget.
    pub(crate) fn series(self: &Arc<Self>, direction: Direction, labels: &Labels<'_>) -> Series {
        let direction = ("direction", direction.as_str().to_owned());
        let overflow = vec![direction.clone(), ("overflow", "true".to_owned())];
        let mut labels: Vec<(&'static str, String)> = vec![
            direction,
            ("src_identity", labels.src_identity.to_owned()),
            ("dst_identity", labels.dst_identity.to_owned()),
            ("dst_workload", labels.dst_workload.to_owned()),
            ("tls", if labels.mutual_tls { "mutual" } else { "none" }.to_owned()),
            ("route", labels.route.to_owned()),
            ("backend", labels.backend.to_owned()),
        ];
        let mut histograms = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = label_text(&labels);
        if histograms.len() >= MAX_SERIES && !histograms.contains_key(&text) {
            text = label_text(&overflow);
            labels = overflow;
        }
        let latency = histograms.entry(text).or_default().clone();
        Series { metrics: self.clone(), labels: labels.into(), outcomes: RefCell::default(), latency }
    }
}

pub(super) fn label_text(labels: &[(&'static str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{name}=\"{escaped}\",");
    }
    text
}

/// A route and a backend, as far as they were known.
pub(super) type Known = (Option<RouteMeta>, Option<ServiceRef>);

/// Bound series of what came to no endpoint: redirects, denials, backends without endpoints.
pub(super) type Unplaced = BoundSeries<Known, MAX_UNPLACED>;

impl DirectionMetrics {
    /// The handles for what this proxy's application sends to a server.
    pub(crate) fn bind_outbound(
        &self,
        server: &mesh_policy::Endpoint,
        route: Option<&RouteMeta>,
        backend: &str,
    ) -> Series {
        let own = self.held.identity();
        self.metrics.series(
            self.direction,
            &Labels {
                src_identity: own.as_ref().map_or("", Identity::as_str),
                dst_identity: server.identity.as_ref().map_or("", Identity::as_str),
                dst_workload: &server.workload,
                mutual_tls: server.identity.is_some(),
                route: &name(route),
                backend,
            },
        )
    }

    /// The handles for what a caller sends to a port of this proxy's application.
    pub(crate) fn bind_inbound(&self, caller: Option<&Identity>, workload: &str, port: u16) -> Series {
        let own = self.held.identity();
        self.metrics.series(
            self.direction,
            &Labels {
                src_identity: caller.map_or("", Identity::as_str),
                dst_identity: own.as_ref().map_or("", Identity::as_str),
                dst_workload: workload,
                mutual_tls: caller.is_some(),
                route: "",
                backend: &port.to_string(),
            },
        )
    }

    /// The handles for what came to no endpoint, made at first use.
    pub(crate) fn unplaced(&self, route: Option<&RouteMeta>, backend: Option<&ServiceRef>) -> Rc<Series> {
        let is_meant = |(r, b): &Known| r.as_ref() == route && b.as_ref() == backend;
        self.unplaced.get(is_meant, || {
            let own = self.held.identity();
            let own = own.as_ref().map_or("", Identity::as_str);
            let (src_identity, dst_identity) = match self.direction {
                Direction::Outbound => (own, ""),
                Direction::Inbound => ("", own),
            };
            let series = self.metrics.series(
                self.direction,
                &Labels {
                    src_identity,
                    dst_identity,
                    dst_workload: "",
                    mutual_tls: false,
                    route: &name(route),
                    backend: &backend.map(ToString::to_string).unwrap_or_default(),
                },
            );
            ((route.cloned(), backend.cloned()), series)
        })
    }
}

fn name(route: Option<&RouteMeta>) -> String {
    route.map(|route| format!("{}/{}", route.namespace, route.name)).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn labels(backend: &str) -> Labels<'_> {
        Labels { src_identity: "a", dst_identity: "b", dst_workload: "w", mutual_tls: true, route: "r", backend }
    }

    fn series(metrics: &Arc<Metrics>, backend: &str) -> Series {
        metrics.series(Direction::Outbound, &labels(backend))
    }

    #[test]
    fn requests_are_counted_by_code() {
        let metrics = Arc::new(Metrics::default());
        let series = series(&metrics, "shop/web:80");
        for (grpc, latency) in [(None, 300), (None, 700), (Some(14), 60_000_000)] {
            series.answered(Duration::from_micros(latency));
            series.request(Class::of_response(StatusCode::OK, grpc), Some(StatusCode::OK), grpc, "");
        }
        series.request(Class::Cancelled, None, None, "client-closed");
        let text = metrics.render();
        assert!(
            text.contains(r#"backend="shop/web:80",class="success",response_code="200",grpc_status="",error=""} 2"#),
            "{text}"
        );
        assert!(text.contains(r#"grpc_status="14",error=""} 1"#));
        assert!(text.contains(r#"le="0.0005"} 1"#) && text.contains(r#"le="+Inf"} 3"#));
        assert!(text.contains(r#"response_code="",grpc_status="",error="client-closed"} 1"#), "{text}");
        assert!(text.contains("mesh_response_latency_seconds_count{"));
    }

    #[test]
    fn label_sets_that_come_back_are_one() {
        let metrics = Arc::new(Metrics::default());
        for _ in 0..2 {
            series(&metrics, "shop/web:80").answered(Duration::ZERO);
        }
        let text = metrics.render();
        let counts: Vec<_> = text.lines().filter(|l| l.starts_with("mesh_response_latency_seconds_count")).collect();
        assert!(counts.len() == 1 && counts[0].ends_with(" 2"), "{text}");
    }

    #[test]
    fn a_server_cannot_make_series_without_end() {
        let metrics = Arc::new(Metrics::default());
        let series = series(&metrics, "shop/web:80");
        for code in (100..1_000).map(|code| StatusCode::from_u16(code).unwrap()) {
            series.request(Class::of_status(code), Some(code), None, "");
        }
        let text = metrics.render();
        let lines = text.lines().filter(|l| l.starts_with("mesh_requests_total{"));
        assert_eq!(lines.count(), MAX_OUTCOMES + Class::ALL.len() - 1, "none was cancelled");
        assert!(text.contains(r#"class="failure",response_code="other",grpc_status="",error=""} 500"#), "{text}");
    }

    #[test]
    fn the_budget_of_series_holds() {
        let metrics = Arc::new(Metrics::default());
        for i in 0..MAX_SERIES + 50 {
            let series = series(&metrics, &i.to_string());
            series.answered(Duration::ZERO);
            series.request(Class::Success, Some(StatusCode::OK), None, "");
        }
        let text = metrics.render();
        let lines = text.lines().filter(|l| l.starts_with("mesh_requests_total{")).count();
        assert_eq!(lines, MAX_SERIES + 1);
        let latencies = text.lines().filter(|l| l.starts_with("mesh_response_latency_seconds_count{")).count();
        assert_eq!(latencies, MAX_SERIES + 1);
        assert!(text.contains(r#"overflow="true""#));
    }

    #[tokio::test]
    async fn what_came_to_no_endpoint_is_bound_for_a_few_routes() {
        let worker = crate::worker::tests::worker(&[]);
        let series = |n: usize| {
            let (namespace, name) = ("shop".into(), format!("route-{n}").into());
            let route = RouteMeta { kind: mesh_policy::RouteKind::Http, namespace, name, created: 0 };
            worker.outbound.unplaced(Some(&route), None)
        };
        let (first, second) = (series(0), series(1));
        (2..=MAX_UNPLACED).for_each(|n| drop(series(n)));
        assert_eq!(worker.outbound.unplaced.len(), MAX_UNPLACED);
        assert!(Rc::ptr_eq(&second, &series(1)) && !Rc::ptr_eq(&first, &series(0)), "the one bound first made room");
    }
}
