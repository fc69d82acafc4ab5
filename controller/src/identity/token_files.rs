//! Token files of meshed pods, `tokens/<namespace>.<pod>` in the state folder: what the kubelet projects into a pod on
//! a cluster.
//!
//! A file is written anew after half of its token's life and removed with its pod.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::name::{is_label, is_subdomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{files, identity::token::TokenAuthority, source::index::Published};

/// Part of a token's life after which it is written anew; a proxy that reads in between has the rest to use it.
const REWRITE_AFTER: f64 = 0.5;
/// How often it is looked for tokens to write anew, as a part of their life.
const LOOK_EVERY: f64 = 0.1;
/// Shortest pause between two looks.
const LOOK_AT_LEAST: Duration = Duration::from_millis(200);

/// The token files and when each was written.
#[derive(Debug)]
pub(crate) struct TokenFiles {
    folder: PathBuf,
    authority: Arc<TokenAuthority>,
    lifetime: Duration,
    /// By file name: for which service account, and when.
    written: BTreeMap<String, (Arc<str>, Instant)>,
}

impl TokenFiles {
    /// Prepares the folder. Files that an earlier run left are removed or replaced by the first [`Self::write`].
    pub(crate) fn new(state: &Path, authority: Arc<TokenAuthority>, lifetime: Duration) -> io::Result<Self> {
        let folder = state.join("tokens");
        files::private_dir(&folder)?;
        Ok(Self { folder, authority, lifetime, written: BTreeMap::new() })
    }

    /// Keeps the files current until cancelled.
    pub(crate) async fn run(mut self, mut index: watch::Receiver<Arc<Published>>, cancel: CancellationToken) {
        let mut look = tokio::time::interval(self.lifetime.mul_f64(LOOK_EVERY).max(LOOK_AT_LEAST));
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = index.changed() => if changed.is_err() { return },
                _ = look.tick() => {}
            }
            let published = index.borrow_and_update().clone();
            // Each file waits for the disk, and the runtime has one thread.
            let written = tokio::task::spawn_blocking(move || {
                self.write(&published);
                self
            });
            self = match written.await {
                Ok(files) => files,
                Err(error) => {
                    tracing::error!("writing tokens failed, they are no longer kept: {error}; restart the controller");
                    return;
                }
            };
        }
    }

    /// Writes what is missing or old and removes what no pod needs.
    pub(crate) fn write(&mut self, published: &Published) {
        let mut wanted = BTreeMap::new();
        for pod in published.snapshot.pods.values().filter(|pod| pod.is_meshed()) {
            // Both become part of a file's name, and manifests may hold anything.
            if is_label(&pod.namespace) && is_subdomain(&pod.name) {
                wanted.insert(format!("{}.{}", pod.namespace, pod.name), pod);
            } else {
                tracing::warn!(
                    "no token for the pod {:?}: its namespace and name must be Kubernetes names",
                    pod.workload()
                );
            }
        }
        for (file, pod) in &wanted {
            let fresh = self.written.get(file).is_some_and(|(account, at)| {
                *account == pod.service_account && at.elapsed() < self.lifetime.mul_f64(REWRITE_AFTER)
            });
            if fresh {
                continue;
            }
            let token = self.authority.mint(&pod.namespace, &pod.name, &pod.service_account, self.lifetime);
            let path = self.folder.join(file);
            let result = token.map_err(|e| e.to_string()).and_then(|token| {
                files::write_atomically(&path, token.as_bytes(), files::PRIVATE).map_err(|e| e.to_string())
            });
            match result {
                Ok(()) => {
                    self.written.insert(file.clone(), (pod.service_account.clone(), Instant::now()));
                }
                Err(error) => tracing::error!("token {}: {error}; trying again", path.display()),
            }
        }
        self.written.retain(|file, _| wanted.contains_key(file));
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries.filter(|e| e.file_name().to_str().is_none_or(|name| !wanted.contains_key(name))) {
            if let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!("token {}: {error}", entry.path().display());
            }
        }
    }
}
