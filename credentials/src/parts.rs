//! The parts that a process of the control plane consists of: tasks that run until it goes down, and which of them ended before.
//!
//! A part that ended leaves a process that looks alive and does half of its work, so `/ready` and `/live` say which it was, and
//! kubelet restarts it. Nothing is started anew here.

use std::{future::Future, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};

/// Which part ended first; clones are the same.
#[derive(Clone, Debug)]
pub struct Parts {
    ended: Arc<watch::Sender<Option<&'static str>>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self { ended: Arc::new(watch::Sender::new(None)) }
    }
}

impl Parts {
    /// The part that ended first, if one did.
    pub fn ended(&self) -> Option<&'static str> {
        *self.ended.borrow()
    }

    /// Runs a part. It may end once `is_leaving` says that the process goes down; before, its end is an error that stays,
    /// and so is a panic.
    pub async fn run(
        self,
        part: &'static str,
        is_leaving: impl Fn() -> bool,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        // A task of its own, for a panic ends no more than that. It ends with us, too.
        let mut running = Running(tokio::spawn(task));
        let ended = (&mut running.0).await;
        if is_leaving() {
            return;
        }
        let how = if ended.is_ok() { "ended by itself" } else { "panicked" };
        tracing::error!("{part} {how}: not ready any more, and not alive, so that it is restarted");
        self.ended.send_if_modified(|first| first.is_none() && first.replace(part).is_none());
    }
}

/// A task that ends when nobody waits for it any more.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn the_first_that_ended_is_named_unless_the_process_goes_down() {
        let parts = Parts::default();
        parts.clone().run("what may end", || true, async {}).await;
        assert_eq!(parts.ended(), None);
        parts.clone().run("the watch", || false, async { panic!("of a test") }).await;
        parts.clone().run("another", || false, async {}).await;
        assert_eq!(parts.ended(), Some("the watch"));
    }

    #[tokio::test]
    async fn who_waits_no_longer_ends_the_part() {
        let (held, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let part = Parts::default().run("a part", || false, async move {
            let _held = held;
            std::future::pending().await
        });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), part).await.is_err());
        assert_eq!(gone.recv().await, None);
    }
}
