//! One who looks, as workers see it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use http::Method;
use mesh_policy::access_log::Attributes;
use tokio::{sync::mpsc, time::Instant};

use super::wish::Wish;
use crate::{
    finished::{Begun, Finished},
    metrics::Direction,
};

/// Events that wait for a viewer.
pub(super) const WAITING: usize = 256;
/// Bytes that wait for a viewer. An event of a request with the longest values is some dozen KiB.
const WAITING_BYTES: usize = 1 << 20;

/// What a viewer is told.
#[derive(Clone)]
pub(super) enum Event {
    /// Something that may last has begun to be served.
    Open(Arc<Begun>),
    /// Something has ended.
    End(Arc<Finished>),
}

impl Event {
    fn size(&self) -> usize {
        match self {
            Self::Open(begun) => begun.size(),
            Self::End(finished) => finished.begun.size(),
        }
    }
}

/// See the module.
pub(crate) struct Viewer {
    wish: Wish,
    queue: mpsc::Sender<Event>,
    /// Bytes in the queue.
    waiting: AtomicUsize,
    /// Events for which there was no room, or no time; of those that the viewer was not told of yet.
    skipped: AtomicU64,
    began: Instant,
    /// The second, counted from the beginning, above the events that it had.
    second: AtomicU64,
}

/// Where the second is in [`Viewer::second`].
const SECOND: u32 = 32;

impl Viewer {
    pub(super) fn new(wish: Wish, queue: mpsc::Sender<Event>) -> Self {
        let (waiting, skipped, second) = Default::default();
        Self { wish, queue, waiting, skipped, began: Instant::now(), second }
    }

    /// What may have secrets in it and is told to it.
    pub(crate) fn attributes(&self) -> &Attributes {
        &self.wish.attributes
    }

    /// Whether it may want something that begins.
    pub(crate) fn may_want(&self, direction: Direction, is_request: bool) -> bool {
        !self.queue.is_closed() && self.wish.may_want(direction, is_request)
    }

    /// Whether it may want a request with this head.
    pub(crate) fn wants_head(&self, method: &Method, path: &str) -> bool {
        self.wish.wants_head(method, path)
    }

    /// Something has begun to be served.
    pub(crate) fn opened(&self, begun: &Arc<Begun>) {
        if self.wish.wants_open(begun) {
            self.tell(Event::Open(begun.clone()));
        }
    }

    /// Whether it wants what has ended.
    pub(crate) fn wants_end(&self, finished: &Finished) -> bool {
        self.wish.wants_end(&finished.begun, &finished.outcome)
    }

    /// Something that it wants has ended.
    pub(crate) fn ended(&self, finished: &Arc<Finished>) {
        self.tell(Event::End(finished.clone()));
    }

    fn tell(&self, event: Event) {
        let size = event.size();
        let has_room = self.waiting.load(Relaxed).saturating_add(size) <= WAITING_BYTES;
        if !has_room || !self.is_in_time() {
            self.skipped.fetch_add(1, Relaxed);
            return;
        }
        // Before the event can be taken.
        self.waiting.fetch_add(size, Relaxed);
        if self.queue.try_send(event).is_err() {
            self.waiting.fetch_sub(size, Relaxed);
            self.skipped.fetch_add(1, Relaxed);
        }
    }

    /// Takes one of this second's events.
    fn is_in_time(&self) -> bool {
        let now = self.began.elapsed().as_secs() << SECOND;
        let take = |had: u64| {
            let had = had.max(now);
            ((had & u64::from(u32::MAX)) < u64::from(self.wish.rate)).then_some(had + 1)
        };
        self.second.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// An event has left the queue.
    pub(super) fn taken(&self, event: &Event) {
        self.waiting.fetch_sub(event.size(), Relaxed);
    }

    /// How much it missed since this was last asked.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped.swap(0, Relaxed)
    }
}
