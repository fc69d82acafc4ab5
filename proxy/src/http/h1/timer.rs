//! A deadline that may be moved for every message without touching the runtime's timer: the timer is only set
//! again when it fires too early, or when the deadline moves forward. It does not wait by itself.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A movable deadline.
#[derive(Default)]
pub(in crate::http) struct LazyTimer {
    /// The runtime's timer, made when first needed.
    sleep: Option<Pin<Box<Sleep>>>,
    /// The true deadline; none is never.
    deadline: Option<Instant>,
}

impl LazyTimer {
    /// Moves the deadline to `after` from now.
    pub(in crate::http) fn set(&mut self, after: Duration) {
        self.deadline = Instant::now().checked_add(after);
        if let (Some(sleep), Some(deadline)) = (&mut self.sleep, self.deadline)
            && (sleep.is_elapsed() || deadline < sleep.deadline())
        {
            sleep.as_mut().reset(deadline);
        }
    }

    /// Takes the deadline away.
    pub(in crate::http) fn clear(&mut self) {
        self.deadline = None;
    }

    /// True if a deadline is set.
    pub(in crate::http) fn is_set(&self) -> bool {
        self.deadline.is_some()
    }

    /// Ready once the deadline has passed.
    pub(in crate::http) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
