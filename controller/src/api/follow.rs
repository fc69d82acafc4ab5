//! A stream that follows an interest: what a proxy must know now, and again whenever that changed.
//!
//! It holds what it sent last and nothing else. A proxy that reads slowly gets the newest state next, never a queue. What a
//! state means is found out by the [`Compiler`], in the turn of the caller's namespace.

use std::sync::Arc;

use futures_util::{Stream, future, stream};
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    api::compiler::Compiler,
    metrics::{GaugeGuard, StreamMetrics},
};

/// What a state of the cluster means for one stream.
#[allow(clippy::large_enum_variant)] // one value at a time, moved once
pub(crate) enum Step<T> {
    /// Something new to send.
    Send(T),
    /// A part of something new; the rest is asked for as soon as this was taken.
    SendPart(T),
    /// Nothing changed for this stream.
    Same,
    /// The stream ends; the proxy keeps what it has.
    End(Status),
}

/// Any of several things that may change; of none, what never changes.
#[derive(Debug)]
pub(crate) struct Changes<W>(pub(crate) Vec<watch::Receiver<W>>);

impl<W> Changes<W> {
    /// Waits for a change of any. `None` when one of them can change no more.
    async fn changed(&mut self) -> Option<()> {
        match &mut self.0[..] {
            [] => future::pending().await,
            [only] => only.changed().await.ok(),
            several => {
                let all = several.iter_mut().map(|receiver| Box::pin(receiver.changed()));
                future::select_all(all).await.0.ok()
            }
        }
    }

    fn mark_unchanged(&mut self) {
        self.0.iter_mut().for_each(watch::Receiver::mark_unchanged);
    }
}

/// Who asked, and who finds out for him.
#[derive(Clone, Debug)]
pub(crate) struct CompileTurn {
    /// `None`: it is so little that it is done at once.
    pub(crate) compiler: Option<Compiler>,
    /// The caller's namespace.
    pub(crate) namespace: Arc<str>,
}

impl CompileTurn {
    /// Of whoever asks for what is found out at once.
    pub(crate) fn none() -> Self {
        Self { compiler: None, namespace: "".into() }
    }

    /// Finds something out. `None` when that failed, which is a defect.
    pub(crate) async fn take<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match &self.compiler {
            Some(compiler) => compiler.run(&self.namespace, job).await,
            None => Some(job()),
        }
    }
}

/// What says that a stream has to end; held for as long as the stream is open.
pub(crate) trait Ends: Send + 'static {
    /// Cancelled at the end.
    fn ended(&self) -> &CancellationToken;
}

impl Ends for CancellationToken {
    fn ended(&self) -> &CancellationToken {
        self
    }
}

/// Looks now and after each change. Ends when `ends` says so, without an error: a shutdown is no fault of the proxy's.
pub(crate) fn follow<W, T, F, E>(
    changes: Changes<W>,
    ends: E,
    metrics: &StreamMetrics,
    turn: CompileTurn,
    step: F,
) -> impl Stream<Item = Result<T, Status>> + Send + use<W, T, F, E>
where
    E: Ends,
    W: Send + Sync + 'static,
    T: Message + 'static,
    F: FnMut() -> Step<T> + Send + 'static,
{
    struct State<W, F, E> {
        changes: Changes<W>,
        ends: E,
        turn: CompileTurn,
        step: F,
        looked: bool,
        metrics: StreamMetrics,
        _open: GaugeGuard,
    }
    let open = GaugeGuard::new(&metrics.open);
    let state = State { changes, ends, turn, step, looked: false, metrics: metrics.clone(), _open: open };
    stream::unfold(Some(state), |state| async {
        let mut state = state?;
        loop {
            if state.looked {
                tokio::select! {
                    () = state.ends.ended().cancelled() => return None,
                    changed = state.changes.changed() => changed?,
                }
            }
            state.looked = true;
            // What changes while it looks is looked at again.
            state.changes.mark_unchanged();
            let mut step = state.step;
            let looked = state.turn.take(move || {
                let found = step();
                (step, found)
            });
            let Some((step, found)) = looked.await else {
                return Some((Err(Status::internal("what to send could not be found out; ask again")), None));
            };
            state.step = step;
            match found {
                Step::SendPart(update) => {
                    state.looked = false;
                    state.metrics.sent(&update);
                    return Some((Ok(update), Some(state)));
                }
                Step::Send(update) => {
                    state.metrics.sent(&update);
                    return Some((Ok(update), Some(state)));
                }
                Step::Same => {}
                Step::End(status) => return Some((Err(status), None)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use futures_util::StreamExt;

    fn turn() -> CompileTurn {
        CompileTurn { compiler: Some(Compiler::start()), namespace: "shop".into() }
    }

    #[tokio::test]
    async fn only_the_newest_and_only_changes() {
        let metrics = crate::metrics::Metrics::new();
        let (tx, rx) = watch::channel(1);
        let cancel = CancellationToken::new();
        let mut last = 0;
        let state = rx.clone();
        let stream = follow(Changes(vec![rx]), cancel.clone(), &metrics.outbound, turn(), move || {
            let now = *state.borrow();
            if now < 0 {
                return Step::End(Status::not_found("gone"));
            }
            if std::mem::replace(&mut last, now) == now { Step::Same } else { Step::Send(now) }
        });
        let mut stream = std::pin::pin!(stream);
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        for n in [1, 2, 3, 4] {
            tx.send_replace(n);
        }
        assert_eq!(stream.next().await.unwrap().unwrap(), 4, "a slow reader skips what is old");
        tx.send_replace(-1);
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::NotFound);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn parts_follow_each_other_without_another_change() {
        let metrics = crate::metrics::Metrics::new();
        let (_tx, rx) = watch::channel(());
        let mut sent = 0;
        let stream = follow(Changes(vec![rx]), CancellationToken::new(), &metrics.outbound, turn(), move || {
            sent += 1;
            if sent < 3 { Step::SendPart(sent) } else { Step::Send(sent) }
        });
        let parts: Vec<_> = stream.take(3).map(Result::unwrap).collect().await;
        assert_eq!(parts, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_shutdown_ends_it_without_error() {
        let metrics = crate::metrics::Metrics::new();
        let (_tx, rx) = watch::channel(());
        let cancel = CancellationToken::new();
        let stream = follow(Changes(vec![rx]), cancel.clone(), &metrics.outbound, turn(), || Step::Send(1));
        let mut stream = std::pin::pin!(stream);
        assert!(stream.next().await.is_some());
        cancel.cancel();
        assert!(stream.next().await.is_none());
    }
}
