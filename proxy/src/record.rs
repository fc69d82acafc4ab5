//! One request, or one connection of bytes, from its first byte to its last: where it went and how it ended.
//!
//! A record begins when the request's head was read, or when the connection is known to be one of bytes. Every module on the
//! way notes what it knows. The record is finished once: when everything expected has arrived, or when its last holder drops
//! it. Then it is counted, and told to its readers (`readers`); nothing else counts an outcome. A response's latency is that of
//! its head, and is observed when the head arrives, because streams live for hours.

mod draft;
mod readers;

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Instant,
};

use http::{Request, StatusCode, uri::Authority};
use mesh_policy::Class;

pub(crate) use self::{
    draft::{Draft, MAX_VALUE},
    readers::Readers,
};
use crate::{
    balance::{Balancer, Endpoint},
    error::{DecisionId, Reason},
    finished::Outcome,
    metrics::{DirectionMetrics, Placed, Series},
};

/// The client went away before the response ended.
const CLIENT_CLOSED: &str = "client-closed";
/// One end of a connection reset it, or it was cut here.
const RESET: &str = "reset";

/// What is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Bytes,
}

/// What is known so far.
pub(crate) struct Record {
    metrics: Rc<DirectionMetrics>,
    kind: Kind,
    began: Instant,
    way: RefCell<Way>,
    /// It is one of bytes, or has become one, and counts as open.
    is_open: Cell<bool>,
    /// The series that it is counted in, once that is known for good.
    series: OnceCell<Rc<Series>>,
    status: Cell<Option<StatusCode>>,
    grpc: Cell<Option<u8>>,
    error: Cell<Option<Reason>>,
    finished: Cell<bool>,
    /// Bytes of the body towards the server, and back.
    passed: Cell<(u64, u64)>,
    /// What is noted for its readers, if there may be any.
    draft: RefCell<Option<Box<Draft>>>,
}

/// Where it went so far.
#[derive(Default)]
struct Way {
    placed: Placed,
    backend: Option<Rc<Balancer>>,
    endpoint: Option<Rc<Endpoint>>,
}

impl Record {
    /// Begins the record of a request whose head was read.
    pub(crate) fn request(metrics: &Rc<DirectionMetrics>) -> Rc<Self> {
        metrics.in_flight.increment(1.0);
        Rc::new(Self::new(metrics, Kind::Request))
    }

    /// Begins the record of a connection of bytes.
    pub(crate) fn bytes(metrics: &Rc<DirectionMetrics>) -> Self {
        Self::new(metrics, Kind::Bytes)
    }

    fn new(metrics: &Rc<DirectionMetrics>, kind: Kind) -> Self {
        Self {
            metrics: metrics.clone(),
            kind,
            began: Instant::now(),
            way: RefCell::default(),
            is_open: Cell::new(false),
            series: OnceCell::new(),
            status: Cell::new(None),
            grpc: Cell::new(None),
            error: Cell::new(None),
            finished: Cell::new(false),
            passed: Cell::default(),
            draft: RefCell::new(metrics.readers.begin(metrics.direction, kind == Kind::Request)),
        }
    }

    /// When it began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// What is asked for. Only readers look at it.
    pub(crate) fn asked<B>(&self, request: &Request<B>, authority: Option<&Authority>) {
        let mut draft = self.draft.borrow_mut();
        if draft.as_deref_mut().is_some_and(|draft| !draft.asked(request, authority)) {
            *draft = None;
        }
    }

    /// What may last (bytes, an upgrade, a call of gRPC) begins to be served.
    pub(crate) fn opened(&self) {
        let mut draft = self.draft.borrow_mut();
        if let Some(draft) = draft.as_deref_mut()
            && draft.opens()
        {
            self.metrics.readers.open(draft, self.series_so_far().labels());
        }
    }

    /// Who asks, of the inbound side.
    pub(crate) fn caller(&self, address: SocketAddr) {
        self.draft(|draft| draft.peer(address));
    }

    /// Whether it may have readers.
    #[cfg(test)]
    pub(crate) fn is_drafted(&self) -> bool {
        self.draft.borrow().is_some()
    }

    fn draft(&self, note: impl FnOnce(&mut Draft)) {
        if let Some(draft) = self.draft.borrow_mut().as_deref_mut() {
            note(draft);
        }
    }

    /// Bytes of its body went towards the server.
    pub(crate) fn sent(&self, bytes: u64) {
        let (sent, received) = self.passed.get();
        self.passed.set((sent + bytes, received));
        if self.is_open.get() {
            self.series().of_bytes().sent.increment(bytes);
        }
    }

    /// Bytes of its body came back.
    pub(crate) fn received(&self, bytes: u64) {
        let (sent, received) = self.passed.get();
        self.passed.set((sent, received + bytes));
        if self.is_open.get() {
            self.series().of_bytes().received.increment(bytes);
        }
    }

    /// What decided, and which name was called.
    pub(crate) fn placed(&self, placed: Placed) {
        self.way.borrow_mut().placed = placed;
    }

    /// Bytes begin to be copied both ways: a connection of them counts as open from now on.
    pub(crate) fn copies(&self) {
        self.is_open.set(true);
        if self.kind == Kind::Bytes {
            self.series().of_bytes().open.increment(1.0);
            self.opened();
        }
    }

    /// The backend that was chosen.
    pub(crate) fn backend(&self, backend: &Rc<Balancer>) {
        self.way.borrow_mut().backend = Some(backend.clone());
    }

    /// The endpoint of the attempt that begins.
    pub(crate) fn endpoint(&self, endpoint: &Rc<Endpoint>) {
        self.way.borrow_mut().endpoint = Some(endpoint.clone());
        let may_last = self.draft.borrow_mut().as_deref_mut().is_some_and(|draft| {
            draft.attempt(&endpoint.info, self.began.elapsed());
            draft.may_last()
        });
        if may_last {
            self.opened();
        }
    }

    /// The attempt that began last had this answer, or this error.
    pub(crate) fn attempted(&self, result: Result<StatusCode, Reason>) {
        self.draft(|draft| draft.attempted(result, self.began.elapsed()));
    }

    /// Sets the series that it is counted in, if that is known from the start.
    pub(crate) fn counted_in(&self, series: &Rc<Series>) {
        let _known = self.series.set(series.clone());
    }

    /// The head of the response arrived.
    pub(crate) fn answered(&self, status: StatusCode, grpc: Option<u8>) {
        self.status.set(Some(status));
        self.grpc.set(grpc);
        let after = self.began.elapsed();
        self.series().answered(after);
        self.draft(|draft| draft.answered(after));
    }

    /// The gRPC status arrived with the trailers.
    pub(crate) fn grpc(&self, code: u8) {
        self.grpc.set(Some(code));
    }

    /// It failed, or broke off.
    pub(crate) fn failed(&self, why: Reason) {
        self.error.set(Some(why));
    }

    /// Policy refused it by this decision.
    pub(crate) fn decided(&self, id: DecisionId) {
        self.draft(|draft| draft.decision(id));
    }

    /// Everything expected has arrived. That is the whole outcome, unless it failed.
    pub(crate) fn ended(&self) {
        self.finish(None);
    }

    /// Counts nothing: the connection that was opened for bytes is closed, because the client speaks HTTP.
    pub(crate) fn forget(&self) {
        self.finished.set(true);
    }

    /// The series for where it went, with the endpoint if it got that far.
    fn series(&self) -> &Rc<Series> {
        self.series.get_or_init(|| self.series_so_far())
    }

    /// The series for where it went so far; another attempt may still go elsewhere.
    fn series_so_far(&self) -> Rc<Series> {
        if let Some(known) = self.series.get() {
            return known.clone();
        }
        let Way { placed, backend, endpoint } = &*self.way.borrow();
        let service = backend.as_ref().map(|balancer| &balancer.service);
        let Some(endpoint) = endpoint else { return self.metrics.unplaced(placed, service) };
        endpoint.series(placed, || {
            let address = || endpoint.info.address.to_string();
            let backend = service.map_or_else(address, ToString::to_string);
            self.metrics.bind_outbound(&endpoint.info, placed, backend)
        })
    }

    /// Counts it, unless it was counted before. `cut`: what it is called, and its class, if it did not come to its end and
    /// nothing failed here.
    fn finish(&self, cut: Option<(&'static str, Class)>) {
        if self.finished.replace(true) {
            return;
        }
        let (error, class) = match (self.error.get(), cut) {
            (Some(reason), _) => {
                self.metrics.error(reason);
                (reason.as_str(), reason.class())
            }
            (None, Some(cut)) => cut,
            (None, None) => {
                let of_response = |status| Class::of_response(status, self.grpc.get());
                ("", self.status.get().map_or(Class::Success, of_response))
            }
        };
        match self.kind {
            Kind::Request => {
                self.metrics.in_flight.decrement(1.0);
                let bodies = if self.is_open.get() { (0, 0) } else { self.passed.get() };
                let (status, grpc, took) = (self.status.get(), self.grpc.get(), self.began.elapsed());
                self.series().request(class, status, grpc, error, (took, bodies));
            }
            Kind::Bytes => {
                if self.is_open.get() {
                    self.series().of_bytes().open.decrement(1.0);
                }
                self.series().connection(class, error);
            }
        }
        if let Some(draft) = self.draft.take() {
            let fault = self.error.get().map(Reason::fault);
            let (status, grpc, bytes) = (self.status.get(), self.grpc.get(), self.passed.get());
            let outcome = Outcome { class, error, fault, status, grpc, bytes };
            self.metrics.readers.end(*draft, outcome, self.began.elapsed(), self.series().labels());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.finish(Some(match self.kind {
            Kind::Bytes => (RESET, Class::Failure),
            Kind::Request => (CLIENT_CLOSED, Class::Cancelled),
        }));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mesh_policy::{RouteKind, RouteMeta, ServiceRef};

    use super::*;
    use crate::worker::tests::worker;

    fn route() -> RouteMeta {
        RouteMeta { kind: RouteKind::Http, namespace: "shop".into(), name: "split".into(), created: 0 }
    }

    /// The lines of a family.
    fn lines(page: &str, family: &str) -> Vec<String> {
        page.lines().filter(|line| line.starts_with(&format!("{family}{{"))).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_request_is_counted_once_however_it_ends() {
        let worker = worker(&[]);
        let page = || worker.transport.metrics.render();
        let ended = Record::request(&worker.outbound);
        ended.placed(Placed { route: Some(route()), ..Placed::default() });
        let service = ServiceRef::new("shop", "web", 80);
        ended.backend(&worker.known_balancer(&service));
        ended.failed(Reason::NoEndpoints);
        ended.answered(Reason::NoEndpoints.status(), None);
        assert!(page().contains(r#"mesh_requests_in_flight{direction="outbound"} 1"#), "{}", page());
        assert_eq!(lines(&page(), "mesh_requests_total"), Vec::<String>::new(), "not before its end");
        ended.ended();
        ended.failed(Reason::Timeout);
        drop(ended);
        let counted = lines(&page(), "mesh_requests_total");
        assert_eq!(counted.len(), 1, "{counted:?}");
        let labels = r#"route="shop/split",rule="",backend="shop/web:80",authority="",class="failure",response_code="503",grpc_status="",error="no-endpoints"} 1"#;
        assert!(counted[0].ends_with(labels), "{counted:?}");
        assert!(page().contains(r#"mesh_errors_total{direction="outbound",error="no-endpoints"} 1"#));
        assert!(page().contains(r#"mesh_requests_in_flight{direction="outbound"} 0"#));

        // Nobody waited for the response.
        drop(Record::request(&worker.inbound));
        let counted = lines(&page(), "mesh_requests_total");
        assert!(counted.iter().any(|line| {
            line.contains(r#"class="cancelled",response_code="",grpc_status="",error="client-closed"} 1"#)
        }));
    }

    #[tokio::test]
    async fn a_connection_of_bytes_is_counted_unless_it_was_none() {
        let worker = worker(&[]);
        let count = || lines(&worker.transport.metrics.render(), "mesh_tcp_connections_total");
        Record::bytes(&worker.outbound).forget();
        assert_eq!(count(), Vec::<String>::new());
        Record::bytes(&worker.outbound).ended();
        drop(Record::bytes(&worker.outbound));
        Record::bytes(&worker.outbound).failed(Reason::NoRoute);
        let errors = |error: &str| count().iter().filter(|l| l.ends_with(&format!("error=\"{error}\"}} 1"))).count();
        assert_eq!((errors(""), errors("reset"), errors("no-route"), count().len()), (1, 1, 1, 3), "{:?}", count());
    }
}
