//! One kind of object, listed and watched for as long as the process runs.
//!
//! A list is one reset: what is not in it is gone, everything else stays in force meanwhile. While the API server is away
//! nothing changes; afterwards the watch goes on where it was, or begins with a list when that is too long ago (410).
//! A kind whose CRD is not there is waited for. A kind whose version is served no longer is looked for in another one
//! before anything of it is forgotten, and one that has come in a better version is read in that within some minutes. A
//! kind that may not be read is told and tried again.
//!
//! It is our own and not kube-runtime's `watcher` (which `trust_writer` uses, for little), since that, as of 5.0:
//! - asks for pages of a fixed number of objects, reads each whole whatever its size and decodes it before the first object
//!   is handed on; here a page has a bound in bytes (`page`), and of each object only what is used is ever in memory (`pruned`);
//! - waits without limit for the answer to a list and for the beginning of a watch, and ends a silent watch without a word;
//!   here each has a limit, and silence is trouble that is told;
//! - lists anew only after a 410 inside a watch: one that is refused at its beginning, as by a server that was restored from
//!   a backup, is begun at the same version for ever;
//! - knows the one version that it is given: a CRD that is absent is an error like others, and a version that is served no
//!   longer stays one;
//! - is read object by object: whoever has no room can only leave all that comes after unread; here an object for which its
//!   namespace's share has no room goes on as its name, to be read later, and delays nobody else's.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ::kube::{
    Client, Error,
    api::{ListParams, WatchEvent, WatchParams},
    core::Request,
};
use futures_util::StreamExt;
use mesh_credentials::{Backoff, jitter};
use mesh_resources::{
    Key, Object,
    kinds::{Kind, Version},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    api::revisions,
    metrics::WatchMetrics,
    source::{
        object::{Origin, bytes_of, key_of, object},
        object_budget::{ObjectBudget, ObjectPermit},
        page::{self, MAX_PAGE_BYTES},
        pruned::{Prune, Pruned},
        waiting::queue,
    },
};

/// Objects of one page of a list, if they are not too large for one: some hundred KiB.
const PAGE: u32 = 250;
/// Longest wait for a page.
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a watch to begin.
const WATCH_LIMIT: Duration = Duration::from_secs(10);
/// How long the API server keeps a watch before it ends it and we begin the next, in seconds. It sends a bookmark two seconds
/// before that, so a watch that lives is never silent for longer. Short, for a watch that is stalled lets proxies call pods
/// that are gone.
const WATCH_SECONDS: u32 = 15;
/// A watch that is silent for longer is dead: by then it should have ended.
const SILENCE: Duration = Duration::from_secs(20);
/// Waits after failures. The last is short enough that a cluster is followed again within five seconds after its API server
/// is back.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
/// A watch that lasted this long was a good one: the waits begin anew.
const STEADY: Duration = Duration::from_secs(5);
/// How often it is asked whether a kind that was not there has come.
const DISCOVER_EVERY: Duration = Duration::from_secs(3);
/// How long a list waits for room, in all. A page may be more than one namespace's share, and is taken in within
/// milliseconds; who makes it take longer must not hold up what is behind.
const LIST_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks for room meanwhile.
const ROOM_LOOK: Duration = Duration::from_millis(5);

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Event {
    /// An object is there, or changed; the room that it takes while it waits; and the revision of the change, but in a list.
    Put(Box<Object>, ObjectPermit, Option<u64>),
    /// The same of one for which there is no room: it is to be read from there when its turn has come.
    Stale(Key, Arc<Origin>, Option<u64>),
    /// An object is gone, since a revision.
    Gone(Key, u64),
    /// A list has ended: of this kind there is nothing but these at a revision.
    Listed(HashSet<Key>, u64),
    /// Nothing else has changed up to a revision.
    Reached(u64),
    /// The API server does not serve the kind.
    Absent,
    /// The kind cannot be read now, and why.
    Trouble(Trouble),
    /// It can (again), here: changes are followed from now on.
    Following(Arc<Origin>),
}

/// Why a kind cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Permission is missing.
    Denied(String),
    /// The API server is away, or answers with errors.
    Away(String),
}

/// One watch.
pub(crate) struct KindWatch {
    pub(crate) client: Client,
    pub(crate) kind: &'static Kind,
    pub(crate) events: mpsc::Sender<(&'static Kind, Event)>,
    /// ObjectBudget for objects that wait to be taken in, for all watches together.
    pub(crate) room: Arc<ObjectBudget>,
    pub(crate) metrics: WatchMetrics,
}

/// Why a watch ended.
enum End {
    /// As it should; it goes on from the last version.
    Over,
    /// The version is too old, or the server knows it not: everything is listed anew.
    Expired,
    /// The kind is not served, or no longer in the version that it was read in.
    Absent,
    /// It failed.
    Failed(Trouble),
    /// Nobody listens any more.
    Closed,
}

impl KindWatch {
    /// Runs until nobody listens.
    pub(crate) async fn run<T: Prune>(self) {
        let mut backoff = BACKOFF;
        let mut version: Option<String> = None;
        let mut origin: Option<Arc<Origin>> = None;
        loop {
            let begun = Instant::now();
            let end = match (&origin, version.take()) {
                (None, _) => match self.discover().await {
                    Ok(found) => {
                        origin = Some(Arc::new(found));
                        continue;
                    }
                    Err(end) => end,
                },
                (Some(origin), None) => match self.list::<T>(origin).await {
                    Ok(at) => {
                        version = Some(at);
                        backoff.reset();
                        continue;
                    }
                    Err(end) => end,
                },
                (Some(origin), Some(mut at)) => {
                    let end = self.follow::<T>(origin, &mut at).await;
                    version = Some(at);
                    end
                }
            };
            if begun.elapsed() > STEADY {
                backoff.reset();
            }
            let again = backoff.next_wait();
            let wait = match end {
                End::Closed => return,
                End::Over => {
                    if let Some(better) = self.moved(origin.as_deref()).await {
                        (origin, version) = (Some(Arc::new(better)), None);
                    }
                    if begun.elapsed() > STEADY { Duration::ZERO } else { again }
                }
                End::Expired => {
                    version = None;
                    again
                }
                // Its version is gone; whether the kind is, discovery says.
                End::Absent if origin.is_some() => {
                    (origin, version) = (None, None);
                    again
                }
                End::Absent => {
                    version = None;
                    if !self.tell(Event::Absent).await {
                        return;
                    }
                    DISCOVER_EVERY
                }
                End::Failed(trouble) => {
                    self.metrics.failures.increment(1);
                    if !self.tell(Event::Trouble(trouble)).await {
                        return;
                    }
                    again
                }
            };
            sleep(jitter(wait)).await;
        }
    }

    /// Where the kind is.
    async fn discover(&self) -> Result<Origin, End> {
        let (group, plural) = (self.kind.group, self.kind.plural);
        let version = match self.kind.version {
            Version::Fixed(version) if group.is_empty() => {
                return Ok(Origin { path: format!("/api/{version}/{plural}"), api: version.to_owned() });
            }
            Version::Fixed(version) => version.to_owned(),
            Version::Served(_) => {
                let asked = timeout(LIST_LIMIT, ::kube::discovery::group(&self.client, group)).await;
                let served = match asked {
                    Ok(Ok(served)) => served,
                    Ok(Err(Error::Discovery(_))) => return Err(End::Absent),
                    Ok(Err(error)) => return Err(self.end_of(error)),
                    Err(_) => return Err(away("no answer about the API group".to_owned())),
                };
                // Not the version that the group prefers: a kind may not be in it.
                let kinds = served.resources_by_stability();
                let found = kinds.into_iter().find(|(resource, _)| resource.kind == self.kind.kind);
                found.ok_or(End::Absent)?.0.version
            }
        };
        Ok(Origin { path: format!("/apis/{group}/{version}/{plural}"), api: format!("{group}/{version}") })
    }

    /// Where the kind is by now, if that is elsewhere: in a better version.
    async fn moved(&self, from: Option<&Origin>) -> Option<Origin> {
        if matches!(self.kind.version, Version::Fixed(_)) {
            return None;
        }
        // What cannot be found out now is found out when the next watch ends.
        self.discover().await.ok().filter(|found| Some(found) != from)
    }

    /// Lists everything; gives the version that a watch begins with.
    async fn list<T: Prune>(&self, origin: &Arc<Origin>) -> Result<String, End> {
        let mut params = ListParams::default().limit(PAGE);
        let mut seen = HashSet::new();
        let (mut at_once, mut patience) = (PAGE, LIST_PATIENCE);
        loop {
            let request = Request::new(&origin.path).list(&params).map_err(|e| self.end_of(Error::BuildRequest(e)))?;
            let page = timeout(LIST_LIMIT, page::read::<Pruned<T>>(&self.client, request)).await;
            let page = page.map_err(|_| away("no answer to a list".to_owned()))?.map_err(|e| self.end_of(e))?;
            let Some(page) = page else {
                if at_once == 1 {
                    return Err(away(format!("an object has more than {MAX_PAGE_BYTES} bytes")));
                }
                at_once = (at_once / 4).max(1);
                params = params.limit(at_once);
                continue;
            };
            for Pruned(value, ..) in page.items.unwrap_or_default() {
                let Some(object) = object(self.kind, value, &origin.api) else { continue };
                seen.insert(key_of(&object));
                if !self.put(object, origin, None, &mut patience).await {
                    return Err(End::Closed);
                }
            }
            let continued = page.metadata.continue_.filter(|token| !token.is_empty());
            if let Some(token) = continued {
                params.continue_token = Some(token);
                continue;
            }
            self.metrics.seen();
            self.metrics.lists.increment(1);
            let version = page.metadata.resource_version.unwrap_or_default();
            let listed = Event::Listed(seen, revisions::parse(&version));
            return if self.tell(listed).await { Ok(version) } else { Err(End::Closed) };
        }
    }

    /// Follows changes from a version on, which it moves along.
    async fn follow<T: Prune>(&self, origin: &Arc<Origin>, version: &mut String) -> End {
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let request = match Request::new(&origin.path).watch(&params, version) {
            Ok(request) => request,
            Err(error) => return self.end_of(Error::BuildRequest(error)),
        };
        let stream = match timeout(WATCH_LIMIT, self.client.request_events::<Pruned<T>>(request)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.end_of(error),
            Err(_) => return away("no answer to a watch".to_owned()),
        };
        let mut stream = std::pin::pin!(stream);
        self.metrics.seen();
        if !self.tell(Event::Following(origin.clone())).await {
            return End::Closed;
        }
        loop {
            let event = match timeout(SILENCE, stream.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => return self.end_of(error),
                Ok(None) => return End::Over,
                Err(_) => return away(format!("the watch was silent for {SILENCE:?}")),
            };
            self.metrics.seen();
            // Others' events are behind it.
            let mut patience = Duration::ZERO;
            let told = match event {
                WatchEvent::Added(Pruned(value, ..)) | WatchEvent::Modified(Pruned(value, ..)) => {
                    version_of(&value, version);
                    let revision = Some(revisions::revision_of(&value));
                    match object(self.kind, value, &origin.api) {
                        Some(object) => self.put(object, origin, revision, &mut patience).await,
                        None => true,
                    }
                }
                WatchEvent::Deleted(Pruned(value, ..)) => {
                    version_of(&value, version);
                    let revision = revisions::revision_of(&value);
                    match object(self.kind, value, &origin.api) {
                        Some(gone) => self.tell(Event::Gone(key_of(&gone), revision)).await,
                        None => true,
                    }
                }
                WatchEvent::Bookmark(mark) => {
                    *version = mark.metadata.resource_version;
                    self.tell(Event::Reached(revisions::parse(version))).await
                }
                WatchEvent::Error(status) => return self.end_of(Error::Api(status)),
            };
            if !told {
                return End::Closed;
            }
        }
    }

    fn end_of(&self, error: Error) -> End {
        match error {
            Error::Api(status) => match status.code {
                // 504 is "too large resource version": a server that was restored from a backup.
                410 => End::Expired,
                504 if status.message.contains("resource version") => End::Expired,
                404 if matches!(self.kind.version, Version::Served(_)) => End::Absent,
                401 | 403 => End::Failed(Trouble::Denied(status.message.clone())),
                _ => away(status.message.clone()),
            },
            error => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(inner) = cause.source() {
                    cause = inner;
                }
                away(cause.to_string())
            }
        }
    }

    /// Passes an object on, or only its name where there is no room for it and no more patience; whether someone took it.
    async fn put(&self, object: Object, origin: &Arc<Origin>, revision: Option<u64>, patience: &mut Duration) -> bool {
        let (key, bytes) = (key_of(&object), bytes_of(&object.value));
        let place = loop {
            let place = self.room.take(&queue(self.kind.kind, &key), bytes);
            if place.is_some() || patience.is_zero() {
                break place;
            }
            sleep(ROOM_LOOK).await;
            *patience = patience.saturating_sub(ROOM_LOOK);
        };
        self.tell(match place {
            Some(place) => Event::Put(Box::new(object), place, revision),
            None => Event::Stale(key, origin.clone(), revision),
        })
        .await
    }

    /// Passes an event on; whether someone took it.
    async fn tell(&self, event: Event) -> bool {
        self.events.send((self.kind, event)).await.is_ok()
    }
}

fn away(why: String) -> End {
    End::Failed(Trouble::Away(why))
}

fn version_of(value: &Value, version: &mut String) {
    if let Some(text) = value.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
        text.clone_into(version);
    }
}
