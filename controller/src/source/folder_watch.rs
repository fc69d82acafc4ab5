//! When the folder is read: soon after an event, and every few seconds for changes that no event told of.
//!
//! A file that is being written is waited for until its writer closes it, so that a part of it is not taken for the
//! whole; not for long, since a writer may hold it open.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{
    Event, EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::source::folder::Folder;

/// Quiet time after an event before the folder is read: an editor's several steps become one reading.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Longest wait while events keep coming, so that a file written without pause holds up nothing else.
const DEBOUNCE_AT_MOST: Duration = Duration::from_millis(300);
/// Longest wait for a file to be closed by its writer.
const WRITING_AT_MOST: Duration = Duration::from_secs(1);
/// Most files that are waited for; of more, none but these is.
const MAX_WRITING: usize = 1_000;
/// How often the folder is looked over without any event.
const POLL: Duration = Duration::from_secs(3);

/// Follows the folder until cancelled.
pub(crate) async fn follow(mut folder: Folder, cancel: CancellationToken) {
    let changes = Arc::new(Changes::default());
    let root = folder.root().to_owned();
    // The watch is bound to the folder's inode; another one under the same name needs another watch.
    let mut watch: Option<(Watch, Option<(u64, u64)>)> = None;
    let mut wait_for_event = false;
    loop {
        let identity = std::fs::metadata(&root).ok().map(|m| (m.dev(), m.ino()));
        if watch.as_ref().is_none_or(|(_, watched)| *watched != identity) {
            watch = identity.and_then(|_| Watch::start(&root, changes.clone())).map(|started| (started, identity));
            // What changed before the new watch stood made no event.
            wait_for_event = false;
        }
        if wait_for_event {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = changes.wake.notified() => changes.settled().await,
                () = tokio::time::sleep(POLL) => {}
            }
        }
        let reading = tokio::task::spawn_blocking(move || {
            folder.read();
            folder
        });
        folder = match reading.await {
            Ok(folder) => folder,
            Err(error) => {
                tracing::error!("reading the folder failed, it is no longer followed: {error}; restart the controller");
                return;
            }
        };
        wait_for_event = true;
    }
}

/// What the events told since the last reading.
#[derive(Debug, Default)]
struct Changes {
    wake: Notify,
    /// Files that were written to and not closed yet.
    writing: Mutex<HashSet<PathBuf>>,
}

impl Changes {
    /// Waits until events pause and files are written to their end; either has a bound, after which it is time to read.
    async fn settled(&self) {
        let pause = async { while tokio::time::timeout(DEBOUNCE, self.wake.notified()).await.is_ok() {} };
        // Either the events paused or it has been long enough.
        let _ = tokio::time::timeout(DEBOUNCE_AT_MOST, pause).await;
        let closed = async {
            while self.is_writing() {
                self.wake.notified().await;
            }
        };
        // Open for longer than that: read what is there, and again when it is closed.
        let _ = tokio::time::timeout(WRITING_AT_MOST, closed).await;
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_writing(&self) -> bool {
        !self.writing.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes in an event of the system's watch. Our own reading opens and closes files, which is no change.
    fn note(&self, event: notify::Result<Event>) {
        if let Ok(event) = event {
            let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Remove(_)
                | EventKind::Modify(ModifyKind::Name(_)) => writing.retain(|path| !event.paths.contains(path)),
                EventKind::Access(_) => return,
                EventKind::Modify(ModifyKind::Data(_)) if writing.len() < MAX_WRITING => writing.extend(event.paths),
                _ => {}
            }
        }
        // Also for an error: something may have been missed.
        self.wake.notify_one();
    }
}

/// Keeps a watch alive.
struct Watch {
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// `None` when the system gives no watch; looking every few seconds is then what remains.
    fn start(root: &Path, changes: Arc<Changes>) -> Option<Self> {
        let started = notify::recommended_watcher(move |event| changes.note(event))
            .and_then(|mut watcher| watcher.watch(root, RecursiveMode::Recursive).map(|()| watcher));
        match started {
            Ok(watcher) => Some(Self { _watcher: watcher }),
            Err(error) => {
                tracing::warn!("{} cannot be watched: {error}; it is looked over every {POLL:?}", root.display());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{metrics::Metrics, source::index::Index};
    use mesh_resources::Options;

    #[tokio::test]
    async fn edits_are_seen_by_write_by_rename_and_by_a_new_folder() {
        let dir = tempfile::tempdir().unwrap();
        let meta = "metadata: {name: web, namespace: shop}";
        let first = format!("apiVersion: v1\nkind: Service\n{meta}\nspec: {{ports: [{{port: 80}}]}}\n");
        std::fs::write(dir.path().join("a.yaml"), first).unwrap();
        let metrics = Metrics::new();
        let (index, mut rx) = Index::new(Options::default(), metrics.clone());
        let folder = Folder::new(dir.path().to_owned(), index, metrics);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(follow(folder, cancel.clone()));
        let path = dir.path().join("a.yaml");
        let text = |port: u16| {
            let text = std::fs::read_to_string(&path).unwrap();
            let at = text.find("port: ").unwrap() + 6;
            format!("{}{port}}}]}}\n", &text[..at])
        };
        let mut wait = async |port: u16| {
            let target = format!("web:{port}");
            let seen = rx.wait_for(|p| p.snapshot.resolve(&target, "shop").is_some());
            tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the edit arrives").unwrap();
        };
        wait(80).await;
        std::fs::write(&path, text(81)).unwrap();
        wait(81).await;
        let new = text(82);
        std::fs::write(dir.path().join("a.yaml~"), new).unwrap();
        std::fs::rename(dir.path().join("a.yaml~"), &path).unwrap();
        wait(82).await;
        let new = text(83);
        std::fs::remove_dir_all(dir.path()).unwrap();
        std::fs::create_dir(dir.path()).unwrap();
        std::fs::write(&path, new).unwrap();
        wait(83).await;
        cancel.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_written_is_waited_for_until_it_is_closed() {
        let changes = Arc::new(Changes::default());
        let event = |kind| Ok(Event::new(kind).add_path("a.yaml".into()));
        let data = || event(EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any)));
        let closed = || event(EventKind::Access(AccessKind::Close(AccessMode::Write)));
        // Truncated, and the rest only later than events usually pause.
        changes.note(data());
        let writer = tokio::spawn({
            let (changes, rest, closed) = (changes.clone(), data(), closed());
            async move {
                tokio::time::sleep(Duration::from_millis(400)).await;
                changes.note(rest);
                changes.note(closed);
            }
        });
        let begin = tokio::time::Instant::now();
        changes.settled().await;
        assert!(begin.elapsed() >= Duration::from_millis(400) && writer.is_finished(), "{:?}", begin.elapsed());
        // Never closed: not for ever. And what is over by then is forgotten.
        changes.note(data());
        let begin = tokio::time::Instant::now();
        changes.settled().await;
        assert!((DEBOUNCE..=DEBOUNCE_AT_MOST + WRITING_AT_MOST).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        assert!(!changes.is_writing());
    }

    #[tokio::test]
    async fn a_truncated_file_is_not_taken_for_an_emptied_one() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let changes = Arc::new(Changes::default());
        let _watch = Watch::start(dir.path(), changes.clone()).expect("a watch");
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "old").unwrap();
        let within = async |wanted: bool| {
            let seen = async {
                while changes.is_writing() != wanted {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the events arrive");
        };
        within(false).await;
        let mut file = std::fs::File::create(&path).unwrap();
        within(true).await;
        file.write_all(b"new").unwrap();
        drop(file);
        within(false).await;
    }
}
