//! One state of the cluster, as those who answer proxies see it.

use std::sync::Arc;

use mesh_resources::Snapshot;
use tokio::sync::watch;

use crate::{
    api::revisions::{Revisions, SeenRevisions},
    status::problems::ProblemEntry,
};

/// One state of the cluster.
#[derive(Debug)]
pub struct Published {
    /// Grows with every change.
    pub version: u64,
    /// All objects.
    pub snapshot: Snapshot,
    /// What is refused now, sorted; of one namespace with very much of it only a part.
    pub problems: Arc<[ProblemEntry]>,
    /// The last changes that are in it.
    pub(crate) changed: Revisions,
    /// What has been reached by now, also where nothing changed since.
    pub(crate) seen: Arc<SeenRevisions>,
    /// Whether everything that may restrict callers was read once. Before that nobody is told who may call a pod.
    pub(crate) knows_restrictions: bool,
}

impl Default for Published {
    fn default() -> Self {
        let (problems, changed, seen) = (Arc::new([]), Revisions::default(), Arc::default());
        Self { version: 0, snapshot: Snapshot::default(), problems, changed, seen, knows_restrictions: false }
    }
}

/// The state now, and what is in it for certain. That is read first: it moves on while answers are found out, also for what is
/// in a later state alone.
pub(crate) fn look(index: &watch::Receiver<Arc<Published>>) -> (Arc<Published>, Revisions) {
    let published = index.borrow();
    let seen = published.seen.get();
    (published.clone(), seen)
}
