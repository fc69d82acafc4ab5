//! When the folder is read: soon after an event, and every few seconds for changes that no event told of.

use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use notify::{EventKind, RecursiveMode, Watcher, event::AccessKind};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::folder::Folder;

/// Quiet time after an event before the folder is read: an editor's several steps become one reading.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Longest wait while events keep coming, so that a file written without pause holds up nothing else.
const DEBOUNCE_AT_MOST: Duration = Duration::from_millis(300);
/// How often the folder is looked over without any event.
const POLL: Duration = Duration::from_secs(3);
/// Follows the folder until cancelled.
pub async fn follow(mut folder: Folder, cancel: CancellationToken) {
    let wake = Arc::new(Notify::new());
    let root = folder.root().to_owned();
    // The watch is bound to the folder's inode; another one under the same name needs another watch.
    let mut watch: Option<(Watch, Option<(u64, u64)>)> = None;
    let mut wait_for_event = false;
    loop {
        let identity = std::fs::metadata(&root).ok().map(|m| (m.dev(), m.ino()));
        if watch.as_ref().is_none_or(|(_, watched)| *watched != identity) {
            watch = identity.and_then(|_| Watch::start(&root, wake.clone())).map(|started| (started, identity));
            // What changed before the new watch stood made no event.
            wait_for_event = false;
        }
        if wait_for_event {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = wake.notified() => quiet(&wake).await,
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

/// Waits until events pause.
async fn quiet(wake: &Notify) {
    let pause = async { while tokio::time::timeout(DEBOUNCE, wake.notified()).await.is_ok() {} };
    // Either the events paused or it has been long enough; both mean: read now.
    let _ = tokio::time::timeout(DEBOUNCE_AT_MOST, pause).await;
}

/// Keeps a watch alive.
struct Watch {
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// `None` when the system gives no watch; looking every few seconds is then what remains.
    fn start(root: &Path, wake: Arc<Notify>) -> Option<Self> {
        let handler = move |event: notify::Result<notify::Event>| {
            // Our own reading opens and closes files; that is no change.
            let own = |e: &notify::Event| match e.kind {
                EventKind::Access(AccessKind::Close(notify::event::AccessMode::Write)) => false,
                EventKind::Access(_) => true,
                _ => false,
            };
            if !event.as_ref().is_ok_and(own) {
                wake.notify_one();
            }
        };
        let started = notify::recommended_watcher(handler)
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
    use crate::{index::Index, metrics::Metrics};
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
}
