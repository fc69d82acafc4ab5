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
    labels::{Labels, label_text},
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
        let (route, backend) = (labels.route(), labels.backend());
        let timings = self.timings.of(&self.room, direction.as_str(), &route, backend);
        let set = self.set(labels.named(direction));
        let (outcomes, bytes) = Default::default();
        Series { metrics: self.clone(), direction, set, outcomes, timings, bytes }
    }

    fn set(&self, labels: Vec<(&'static str, String)>) -> Arc<Set> {
        let text = label_text(labels.iter().map(|(name, value)| (*name, value.as_str())));
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(&text) {
            return known.clone();
        }
        let direction = labels.first().cloned();
        let (text, labels, is_overflow) = match self.room.take_set() {
            true => (text, labels, false),
            false => {
                let all = direction.into_iter().chain([("overflow", "true".to_owned())]).collect::<Vec<_>>();
                (label_text(all.iter().map(|(name, value)| (*name, value.as_str()))), all, true)
            }
        };
        let new = || Arc::new(Set { labels: labels.into(), is_overflow, outcomes: Mutex::default() });
        sets.entry(text).or_insert_with(new).clone()
    }

    /// The overflow set of a direction.
    fn overflow(&self, direction: Direction) -> Arc<Set> {
        let labels = vec![("direction", direction.as_str().to_owned()), ("overflow", "true".to_owned())];
        let text = label_text(labels.iter().map(|(name, value)| (*name, value.as_str())));
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Set { labels: labels.into(), is_overflow: true, outcomes: Mutex::default() });
        sets.entry(text).or_insert_with(new).clone()
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
        let bytes =
            labels.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() + wanted.name().len();
        if !set.is_overflow && !self.room.take(1, bytes) {
            drop(outcomes);
            return self.outcome(direction, &self.overflow(direction), outcome);
        }
        let labels: Vec<(&'static str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let counter = self.counter(wanted.name(), &labels);
        outcomes.push((wanted, counter.clone()));
        counter
    }

    fn of_bytes(&self, direction: Direction, set: &Set) -> OfBytes {
        const LINES: usize = 3;
        let bytes = set.labels.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
        let overflow = [("direction", direction.as_str().to_owned()), ("overflow", "true".to_owned())];
        let own = set.is_overflow || self.room.take(LINES, bytes + "mesh_tcp_connections_open".len());
        let labels: &[(&'static str, String)] = if own { &set.labels } else { &overflow };
        let labels: Vec<(&'static str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let flow = |flow| self.counter("mesh_tcp_bytes_total", &[&labels[..], &[("flow", flow)]].concat());
        OfBytes {
            open: self.gauge("mesh_tcp_connections_open", &labels),
            sent: flow("sent"),
            received: flow("received"),
        }
    }
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
