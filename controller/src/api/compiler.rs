//! A thread that compiles, so that whoever serves streams, the Lease and probes never waits for a route.
//!
//! What is asked is short (a policy is bounded in size) and there may be much of it: each namespace of callers has its turn.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use tokio::sync::oneshot;

use crate::turns::Turns;

type Job = Box<dyn FnOnce() + Send>;

/// See the module. The thread ends when the last copy is dropped.
#[derive(Clone)]
pub(crate) struct Compiler(Arc<Handle>);

struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    turns: Turns<u64, Job>,
    /// Names jobs.
    last: u64,
    is_over: bool,
}

impl Compiler {
    /// Starts the thread. Where the system gives none, all is done by those who ask.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        if let Err(error) = thread::Builder::new().name("compile".to_owned()).spawn(move || of_thread.run()) {
            tracing::warn!("no thread to compile could be started: {error}; it is done where it is asked for");
            shared.lock().is_over = true;
        }
        Self(Arc::new(Handle(shared)))
    }

    /// Does something in the turn of a namespace. `None` when it failed, which is a defect and is logged.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        namespace: &Arc<str>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may be gone by then.
        let mut job: Option<Job> = Some(Box::new(move || drop(answer.send(job()))));
        {
            let mut queue = self.0.0.lock();
            if !queue.is_over
                && let Some(job) = job.take()
            {
                queue.last += 1;
                let name = queue.last;
                queue.turns.put(namespace, name, job);
            }
        }
        self.0.0.news.notify_one();
        if let Some(job) = job {
            job();
        }
        answered.await.ok()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut queue = self.lock();
            let job = loop {
                if let Some((_, job)) = queue.turns.next() {
                    break job;
                }
                if queue.is_over {
                    return;
                }
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("compiling failed; who asked is told to ask again, please report it");
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.news.notify_all();
    }
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compiler({} wait)", self.0.0.lock().turns.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::VecDeque;

    use super::*;

    #[tokio::test]
    async fn others_wait_for_one_job_of_a_namespace_with_many() {
        let compiler = Compiler::start();
        let [tenant, shop]: [Arc<str>; 2] = ["tenant", "shop"].map(Into::into);
        let order: Arc<Mutex<VecDeque<&str>>> = Arc::default();
        let (open, gate) = std::sync::mpsc::sync_channel::<()>(1);
        // The thread is held until all are asked.
        let first = compiler.run(&tenant, move || gate.recv());
        let note = |name: &'static str| {
            let order = order.clone();
            move || order.lock().unwrap().push_back(name)
        };
        let many = futures_util::future::join_all((0..50).map(|_| compiler.run(&tenant, note("tenant"))));
        let one = compiler.run(&shop, note("shop"));
        let release = async {
            while compiler.0.0.lock().turns.len() < 51 {
                tokio::task::yield_now().await;
            }
            open.send(()).unwrap();
        };
        tokio::join!(first, many, one, release);
        let place = order.lock().unwrap().iter().position(|name| *name == "shop").unwrap();
        assert!(place <= 1, "{place}");
    }

    #[tokio::test]
    async fn one_that_fails_is_told_and_the_next_is_done() {
        let compiler = Compiler::start();
        let shop: Arc<str> = "shop".into();
        assert_eq!(compiler.run(&shop, || panic!("a defect")).await, None::<()>);
        assert_eq!(compiler.run(&shop, || 1).await, Some(1));
    }
}
