//! The open streams of policies and endpoints of one connection: one for each thing that a proxy asks about. Asked again,
//! the older stream ends: its proxy has lost it, or does not know what it does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_policy::ServiceRef;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::{
    account::{Account, OpenStream},
    follow::Ends,
};

/// What a stream is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum About {
    /// The policy of a target.
    Outbound(String),
    /// The policy of the pod.
    Workload,
    /// The policy of a port, listed as another.
    Inbound(u16, u16),
    /// The endpoints of a Service port.
    Endpoints(ServiceRef),
}

/// For which workload, about what.
type Question = (String, About);

/// Those of one connection that are open.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// The number of the next stream; none is given twice.
    next: u64,
    open: HashMap<Question, Ender>,
}

/// Ends a stream. The number tells it from one that took its place.
type Ender = (u64, CancellationToken);

/// An open stream, until dropped.
#[derive(Debug)]
pub(crate) struct Open {
    /// Cancelled when the stream has to end.
    cancel: CancellationToken,
    question: Question,
    number: u64,
    streams: Arc<Streams>,
    _counted: OpenStream,
}

impl Streams {
    /// Begins a stream that ends with `cancel`, in the place of the one that asks the same.
    pub(crate) fn open(
        self: &Arc<Self>,
        account: &Arc<Account>,
        workload: &str,
        about: About,
        cancel: &CancellationToken,
    ) -> Result<Open, Status> {
        let question = (workload.to_owned(), about);
        let cancel = cancel.child_token();
        let counted = account.open_stream(&cancel)?;
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = streams.next;
        streams.next += 1;
        if let Some((_, older)) = streams.open.insert(question.clone(), (number, cancel.clone())) {
            older.cancel();
        }
        drop(streams);
        Ok(Open { cancel, question, number, streams: self.clone(), _counted: counted })
    }
}

impl Ends for Open {
    fn ended(&self) -> &CancellationToken {
        &self.cancel
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut streams = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.open.get(&self.question).is_some_and(|(number, _)| *number == self.number) {
            streams.open.remove(&self.question);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn asked_again_the_older_ends_and_nothing_stays_behind() {
        let (streams, cancel) = (Arc::<Streams>::default(), CancellationToken::new());
        let account = Arc::<Account>::default();
        let open = |workload, about| streams.open(&account, workload, about, &cancel).unwrap();
        let first = open("shop/web", About::Inbound(80, 80));
        let beside = [open("shop/web", About::Inbound(81, 81)), open("shop/other", About::Inbound(80, 80))];
        let again = open("shop/web", About::Inbound(80, 80));
        assert!(first.cancel.is_cancelled() && !again.cancel.is_cancelled());
        assert!(beside.iter().all(|open| !open.cancel.is_cancelled()));
        drop(first);
        let third = open("shop/web", About::Inbound(80, 80));
        assert!(again.cancel.is_cancelled() && !third.cancel.is_cancelled(), "the first took nothing along");
        drop((beside, again, third));
        assert!(streams.0.lock().unwrap().open.is_empty());
    }

    #[test]
    fn a_stream_that_is_dropped_late_takes_no_later_one_along() {
        let (streams, cancel) = (Arc::<Streams>::default(), CancellationToken::new());
        let account = Arc::<Account>::default();
        let open = || streams.open(&account, "shop/web", About::Inbound(80, 80), &cancel).unwrap();
        let (first, second) = (open(), open());
        drop(second);
        let third = open();
        drop(first);
        let fourth = open();
        assert!(third.cancel.is_cancelled() && !fourth.cancel.is_cancelled(), "the third was still known");
    }
}
