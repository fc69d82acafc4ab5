//! Bound counters of one label set: where requests and connections came from, where they went, and how they ended.
//!
//! Nothing but a [`Record`](crate::record::Record) counts here.

use std::{
    cell::{OnceCell, RefCell},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use mesh_policy::Class;
use metrics::{Counter, Gauge};
use smallvec::SmallVec;

use super::{
    Direction, Metrics,
    labels::{Labels, label_text, overflow},
    timings::Timings,
};

/// Codes, grpc statuses and failures counted apart for one label set: a server that answers with every number there is
/// makes one more series, `other`.
pub(super) const MAX_OUTCOMES: usize = 64;

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

/// One label set, as all workers share it.
pub(super) struct Set {
    labels: Arc<[(&'static str, String)]>,
    /// It stands for all that there is no room for.
    is_overflow: bool,
    /// The outcomes that have a line.
    outcomes: Mutex<Outcomes>,
}

impl Set {
    fn new(labels: Arc<[(&'static str, String)]>, is_overflow: bool) -> Arc<Self> {
        Arc::new(Self { labels, is_overflow, outcomes: Mutex::default() })
    }
}

/// Handles of one label set. Owned by one worker.
pub(crate) struct Series {
    metrics: Arc<Metrics>,
    direction: Direction,
    set: Arc<Set>,
    outcomes: RefCell<Outcomes>,
    timings: Arc<Timings>,
    bytes: OnceCell<OfBytes>,
}

/// Handles of connections of bytes.
pub(crate) struct OfBytes {
    /// Those that are open.
    pub(crate) open: Gauge,
    /// Bytes towards the server.
    pub(crate) sent: Counter,
    /// Bytes from the server.
    pub(crate) received: Counter,
}

impl Series {
    /// What distinguishes it, as names and values.
    pub(crate) fn labels(&self) -> &Arc<[(&'static str, String)]> {
        &self.set.labels
    }

    /// The response's head came after so long.
    pub(crate) fn answered(&self, latency: Duration) {
        self.timings.answered(latency);
    }

    /// Counts one request that ended. `error`: why it failed.
    pub(crate) fn request(
        &self,
        class: Class,
        status: Option<StatusCode>,
        grpc: Option<u8>,
        error: &'static str,
        (took, bytes): (Duration, (u64, u64)),
    ) {
        self.timings.ended(took, bytes);
        self.count(Outcome { kind: Kind::Request(status, grpc), class, error });
    }

    /// Counts one connection of bytes that ended.
    pub(crate) fn connection(&self, class: Class, error: &'static str) {
        self.count(Outcome { kind: Kind::Bytes, class, error });
    }

    /// The handles of connections of bytes, bound when there is one.
    pub(crate) fn of_bytes(&self) -> &OfBytes {
        self.bytes.get_or_init(|| self.metrics.of_bytes(self.direction, &self.set))
    }

    fn count(&self, outcome: Outcome) {
        let mut outcomes = self.outcomes.borrow_mut();
        if let Some((_, counter)) = outcomes.iter().find(|(known, _)| *known == outcome) {
            return counter.increment(1);
        }
        let counter = self.metrics.outcome(self.direction, &self.set, outcome);
        counter.increment(1);
        // What is counted with others is looked up anew: a server may answer with every number there is.
        if outcomes.len() < MAX_OUTCOMES {
            outcomes.push((outcome, counter));
        }
    }
}

impl Metrics {
    /// The bound handles for these labels, or those of all that there is no room for.
    pub(crate) fn series(self: &Arc<Self>, direction: Direction, labels: &Labels<'_>) -> Series {
        let labels = labels.named(direction);
        let timings = self.timings.of(&self.room, direction, &labels);
        let set = self.set(direction, labels);
        let (outcomes, bytes) = Default::default();
        Series { metrics: self.clone(), direction, set, outcomes, timings, bytes }
    }

    /// The set of these labels, or the overflow set.
    fn set(&self, direction: Direction, labels: Vec<(&'static str, String)>) -> Arc<Set> {
        let text = label_text(&labels);
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(&text) {
            return known.clone();
        }
        if !self.room.take_set() {
            drop(sets);
            return self.overflow(direction);
        }
        sets.entry(text).or_insert_with(|| Set::new(labels.into(), false)).clone()
    }

    /// The overflow set of a direction.
    fn overflow(&self, direction: Direction) -> Arc<Set> {
        let labels = overflow(direction);
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.entry(label_text(&labels)).or_insert_with(|| Set::new(labels.into(), true)).clone()
    }

    /// The counter of an outcome: its own, one for all of its class where a set has too many, or one of the overflow set where the
    /// page is full.
    fn outcome(&self, direction: Direction, set: &Arc<Set>, outcome: Outcome) -> Counter {
        let merged = match outcome.kind {
            Kind::Bytes => Outcome { error: "", ..outcome },
            Kind::Request(..) | Kind::OtherRequest => Outcome { kind: Kind::OtherRequest, error: "", ..outcome },
        };
        let mut outcomes = set.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = if set.is_overflow || outcomes.len() >= MAX_OUTCOMES { [merged; 2] } else { [outcome, merged] };
        if let Some((_, known)) = wanted.iter().find_map(|wanted| outcomes.iter().find(|(known, _)| known == wanted)) {
            return known.clone();
        }
        let [wanted, _] = wanted;
        let labels = wanted.labels(&set.labels);
        if !set.is_overflow && !self.room.take(1, line_bytes(wanted.name(), &labels)) {
            drop(outcomes);
            return self.outcome(direction, &self.overflow(direction), outcome);
        }
        let counter = self.counter(wanted.name(), &borrowed(&labels));
        outcomes.push((wanted, counter.clone()));
        counter
    }

    fn of_bytes(&self, direction: Direction, set: &Set) -> OfBytes {
        const LINES: usize = 3;
        let overflow = overflow(direction);
        let has_room = || self.room.take(LINES, line_bytes("mesh_tcp_connections_open", &set.labels));
        let labels = borrowed(if set.is_overflow || has_room() { &set.labels } else { &overflow });
        let flow = |flow| self.counter("mesh_tcp_bytes_total", &[&labels[..], &[("flow", flow)]].concat());
        OfBytes {
            open: self.gauge("mesh_tcp_connections_open", &labels),
            sent: flow("sent"),
            received: flow("received"),
        }
    }
}

/// What a line of the page has in bytes, but for its value.
fn line_bytes(family: &str, labels: &[(&'static str, String)]) -> usize {
    family.len() + labels.iter().map(|(name, value)| name.len() + value.len() + r#"="","#.len()).sum::<usize>()
}

fn borrowed<'l>(labels: &'l [(&'static str, String)]) -> Vec<(&'static str, &'l str)> {
    labels.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Bytes => "mesh_tcp_connections_total",
            Kind::Request(..) | Kind::OtherRequest => "mesh_requests_total",
        }
    }

    /// Those of a label set, and its own.
    fn labels(&self, of_set: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
        let mut labels = of_set.to_vec();
        labels.push(("class", self.class.as_str().to_owned()));
        let codes = match self.kind {
            Kind::Bytes => None,
            Kind::OtherRequest => Some(("other".to_owned(), String::new())),
            Kind::Request(code, grpc) => Some((
                code.as_ref().map_or("", StatusCode::as_str).to_owned(),
                grpc.map(|code| code.to_string()).unwrap_or_default(),
            )),
        };
        labels.extend(codes.into_iter().flat_map(|(code, grpc)| [("response_code", code), ("grpc_status", grpc)]));
        labels.push(("error", self.error.to_owned()));
        labels
    }
}
