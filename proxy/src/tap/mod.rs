//! `/tap`: shows requests and connections to whoever looks, while they pass.
//!
//! It reads records (`record`). Whoever asks is a [`Viewer`] with a [`Wish`], in a list that the workers follow. A worker notes only
//! what some viewer may want, and nothing at all while nobody looks. What has begun to be served, or has ended, goes into the
//! viewer's bounded queue; what does not fit, or is more than the viewer's rate, is skipped and counted. The control thread
//! makes lines of it (`lines`). A viewer is forgotten when its connection is gone, which also comes of reading nothing.

mod lines;
mod peer;
#[cfg(test)]
mod tests;
mod viewer;
mod wish;

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use mesh_listen::{
    Page,
    pages::{in_pieces, text},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

pub(crate) use self::viewer::Viewer;
use self::{
    viewer::{Event, WAITING},
    wish::Wish,
};

/// Those who look at a time. A record has a bit for each of them.
pub(crate) const MAX_VIEWERS: usize = 8;

/// Those who look now.
pub(crate) type Viewers = Arc<[Arc<Viewer>]>;

/// The list of those who look. One for the process.
pub(crate) struct Taps(watch::Sender<Viewers>);

impl Default for Taps {
    fn default() -> Self {
        Self(watch::Sender::new(Viewers::default()))
    }
}

/// One who looks, until this is dropped.
struct Tap {
    viewer: Arc<Viewer>,
    events: mpsc::Receiver<Event>,
    taps: Arc<Taps>,
    /// When it was last told of what it missed.
    told_at: Instant,
}

impl Taps {
    /// The list, and its changes.
    pub(crate) fn follow(&self) -> watch::Receiver<Viewers> {
        self.0.subscribe()
    }

    /// The page, for as long as it is read; an answer that says what is wrong with the query, or that too many look.
    pub(crate) fn page(self: &Arc<Self>, query: Option<&str>) -> Page {
        let wish = match Wish::read(query.unwrap_or_default()) {
            Ok(wish) => wish,
            Err(why) => return text(StatusCode::BAD_REQUEST, why + "\n"),
        };
        let Some(tap) = self.add(wish) else {
            let why = format!("{MAX_VIEWERS} look already, which are as many as may\n");
            return text(StatusCode::TOO_MANY_REQUESTS, why);
        };
        let (pieces, page) = in_pieces(StatusCode::OK, "application/x-ndjson");
        tokio::spawn(tap.show(pieces));
        page
    }

    fn add(self: &Arc<Self>, wish: Wish) -> Option<Tap> {
        let (queue, events) = mpsc::channel(WAITING);
        let viewer = Arc::new(Viewer::new(wish, queue));
        let is_added = self.0.send_if_modified(|all| {
            let has_room = all.len() < MAX_VIEWERS;
            if has_room {
                *all = all.iter().chain([&viewer]).cloned().collect();
            }
            has_room
        });
        is_added.then(|| Tap { viewer, events, taps: self.clone(), told_at: Instant::now() })
    }
}

impl Tap {
    /// Sends lines until nobody reads them.
    async fn show(mut self, pieces: mpsc::Sender<Bytes>) {
        while let Some(lines) = self.lines(&pieces).await {
            if pieces.send(lines.into()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let viewer = &self.viewer;
        let is_other = |other: &&Arc<Viewer>| !Arc::ptr_eq(other, viewer);
        self.taps.0.send_modify(|all| *all = all.iter().filter(is_other).cloned().collect());
    }
}
