//! One object by its name, followed by a watch and by asking again: what was missed is found within a minute.
//!
//! Only `get` and `watch` of that one name are asked for (a field selector of the name is what a `resourceNames` rule
//! allows), so that whoever may follow one Secret sees no other.

use std::{fmt, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Resource,
    api::{WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;

/// Longest wait before the object is read again, whether an event came or not.
pub(crate) const POLL: Duration = Duration::from_secs(60);
/// Shortest time between two readings, whatever the events say.
const READ_AT_MOST: Duration = Duration::from_millis(200);
/// Pause when the API server cannot be asked.
const RETRY: Duration = Duration::from_secs(2);
/// Longest single request, and what a watch may take beyond its own end.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// An object by name.
#[derive(Clone)]
pub(crate) struct Named<K> {
    api: Api<K>,
    name: String,
    poll: Duration,
}

impl<K> fmt::Debug for Named<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<K: Resource + Clone + DeserializeOwned + fmt::Debug> Named<K> {
    /// Follows one object.
    pub(crate) fn new(api: Api<K>, name: &str) -> Self {
        Self { api, name: name.to_owned(), poll: POLL }
    }

    /// The object now; `None` when there is none.
    pub(crate) async fn get(&self) -> Result<Option<K>, String> {
        limited(self.api.get_opt(&self.name)).await
    }

    /// Waits until the object is another than the one of this version, or until it is time to look anyway. After a
    /// failure it waits a little.
    pub(crate) async fn changed(&self, version: Option<&str>) {
        tokio::time::sleep(READ_AT_MOST).await;
        let poll = u32::try_from(self.poll.as_secs()).unwrap_or(u32::MAX);
        // No bookmarks: nothing resumes here, and with them an API server on an old etcd refuses to begin at version 0.
        let params =
            WatchParams::default().fields(&format!("metadata.name={}", self.name)).timeout(poll).disable_bookmarks();
        let watching = async {
            // From version 0 the object as it is comes first; its own version may be too old to begin at.
            let mut events = std::pin::pin!(limited(self.api.watch_metadata(&params, "0")).await?);
            while let Some(event) = events.next().await {
                match event.map_err(|error| describe(&error))? {
                    WatchEvent::Added(object) | WatchEvent::Modified(object)
                        if object.metadata.resource_version.as_deref() == version => {}
                    WatchEvent::Bookmark(_) => {}
                    WatchEvent::Error(status) => return Err(status.message),
                    WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_) => return Ok(()),
                }
            }
            Ok(())
        };
        match tokio::time::timeout(self.poll + REQUEST_LIMIT, watching).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::debug!("watching {}: {error}; looking again in {RETRY:?}", self.name);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// A request with a limit, and its error as people read it.
pub(crate) async fn limited<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err(format!("the API server did not answer within {REQUEST_LIMIT:?}")),
    }
}

/// What an API server said, or the innermost cause of its silence.
pub(crate) fn describe(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("the API server answered {}: {}", status.code, status.message);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!("the API server could not be asked: {cause}")
}
