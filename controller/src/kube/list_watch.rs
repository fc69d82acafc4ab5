//! One kind of object, listed and watched for as long as the process runs.
//!
//! A list is one reset: what is not in it is gone, everything else stays in force meanwhile. While the API server is away
//! nothing changes; afterwards the watch goes on where it was, or begins with a list when that is too long ago (410).
//! A kind whose CRD is not there is waited for. A kind whose version is served no longer is looked for in another one
//! before anything of it is forgotten, and one that has come in a better version is read in that within some minutes. A
//! kind that may not be read is told and tried again.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ::kube::{
    Client, Error,
    api::{ListParams, WatchEvent, WatchParams},
    client::Body,
    core::{ListMeta, Request, Status},
};
use futures_util::StreamExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use mesh_credentials::jitter;
use mesh_resources::{
    Key, Object,
    kinds::{Kind, Version},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    lean::{Lean, Trim},
    object::{Origin, bytes_of, key_of, object},
    room::{Place, Room},
    waiting::queue,
};
use crate::{metrics::WatchMetrics, revisions};

/// Objects of one page of a list, if they are not too large for one: some hundred KiB.
const PAGE: u32 = 250;
/// Most bytes of one page as text. Of larger ones fewer objects are asked for at a time: an object may have 1.5 MiB, and is
/// some times that while it is decoded.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
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
/// Waits after failures: doubled from the first to the last, with jitter. The last is short enough that a cluster is
/// followed again within five seconds after its API server is back.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// See [`BACKOFF_FIRST`].
const BACKOFF_LAST: Duration = Duration::from_secs(3);
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
    Put(Box<Object>, Place, Option<u64>),
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
pub(crate) struct Watch {
    pub(crate) client: Client,
    pub(crate) kind: &'static Kind,
    pub(crate) events: mpsc::Sender<(&'static Kind, Event)>,
    /// Room for objects that wait to be taken in, for all watches together.
    pub(crate) room: Arc<Room>,
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

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

impl Watch {
    /// Runs until nobody listens.
    pub(crate) async fn run<T: Trim>(self) {
        let mut backoff = BACKOFF_FIRST;
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
                        backoff = BACKOFF_FIRST;
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
                backoff = BACKOFF_FIRST;
            }
            let wait = match end {
                End::Closed => return,
                End::Over => {
                    if let Some(better) = self.moved(origin.as_deref()).await {
                        (origin, version) = (Some(Arc::new(better)), None);
                    }
                    if begun.elapsed() > STEADY { Duration::ZERO } else { backoff }
                }
                End::Expired => {
                    version = None;
                    backoff
                }
                // Its version is gone; whether the kind is, discovery says.
                End::Absent if origin.is_some() => {
                    (origin, version) = (None, None);
                    backoff
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
                    backoff
                }
            };
            sleep(jitter(wait)).await;
            backoff = (backoff * 2).min(BACKOFF_LAST);
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
    async fn list<T: Trim>(&self, origin: &Arc<Origin>) -> Result<String, End> {
        let mut params = ListParams::default().limit(PAGE);
        let mut seen = HashSet::new();
        let (mut at_once, mut patience) = (PAGE, LIST_PATIENCE);
        loop {
            let request = Request::new(&origin.path).list(&params).map_err(|e| self.end_of(Error::BuildRequest(e)))?;
            let page = timeout(LIST_LIMIT, self.page::<T>(request)).await;
            let page = page.map_err(|_| away("no answer to a list".to_owned()))?.map_err(|e| self.end_of(e))?;
            let Some(page) = page else {
                if at_once == 1 {
                    return Err(away(format!("an object has more than {MAX_PAGE_BYTES} bytes")));
                }
                at_once = (at_once / 4).max(1);
                params = params.limit(at_once);
                continue;
            };
            for Lean(value, ..) in page.items.unwrap_or_default() {
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

    /// Reads one page; `None` when it is too large.
    async fn page<T: Trim>(&self, request: http::Request<Vec<u8>>) -> Result<Option<Page<Lean<T>>>, Error> {
        let response = self.client.send(request.map(Body::from)).await?;
        let code = response.status();
        let body = match Limited::new(response.into_body(), MAX_PAGE_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Ok(None),
            Err(error) => return Err(Error::Service(error)),
        };
        if code.is_success() {
            return serde_json::from_slice(&body).map(Some).map_err(Error::SerdeError);
        }
        let status = serde_json::from_slice::<Status>(&body);
        let unread =
            || Status::failure(&String::from_utf8_lossy(&body), "Failed to parse error data").with_code(code.as_u16());
        Err(Error::Api(status.unwrap_or_else(|_| unread()).boxed()))
    }

    /// Follows changes from a version on, which it moves along.
    async fn follow<T: Trim>(&self, origin: &Arc<Origin>, version: &mut String) -> End {
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let request = match Request::new(&origin.path).watch(&params, version) {
            Ok(request) => request,
            Err(error) => return self.end_of(Error::BuildRequest(error)),
        };
        let stream = match timeout(WATCH_LIMIT, self.client.request_events::<Lean<T>>(request)).await {
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
                WatchEvent::Added(Lean(value, ..)) | WatchEvent::Modified(Lean(value, ..)) => {
                    version_of(&value, version);
                    let revision = Some(revisions::revision_of(&value));
                    match object(self.kind, value, &origin.api) {
                        Some(object) => self.put(object, origin, revision, &mut patience).await,
                        None => true,
                    }
                }
                WatchEvent::Deleted(Lean(value, ..)) => {
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
