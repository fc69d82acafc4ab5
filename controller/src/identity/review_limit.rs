//! How many tokens are checked at a time, and for whom: no flood of requests here becomes one at the API server, and no
//! single address takes everyone's turn.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Checks under way at once, each two requests to the API server of a few milliseconds: some thousand tokens a second,
/// which is more than an API server of a cluster of that size starts pods.
const CONCURRENT: usize = 32;
/// Checks under way and waiting. Those beyond are told to come back: a thousand wait less than half a second.
const WAITING: usize = 1024;
/// Of those, how many of one address. A sidecar asks for one at a time; behind a node's address there may be some.
const PER_ADDRESS: usize = 16;

/// Who is being served.
#[derive(Debug)]
pub(super) struct ReviewLimit {
    turns: Arc<Semaphore>,
    inside: Arc<Mutex<HashMap<Option<IpAddr>, usize>>>,
}

impl Default for ReviewLimit {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(CONCURRENT)), inside: Arc::default() }
    }
}

/// A turn; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct ReviewPermit {
    _place: Place,
    _permit: OwnedSemaphorePermit,
}

/// One of the places of an address, waiting or being served.
#[derive(Debug)]
struct Place {
    peer: Option<IpAddr>,
    inside: Arc<Mutex<HashMap<Option<IpAddr>, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = inside.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.peer);
            }
        }
    }
}

impl ReviewLimit {
    /// Waits for a turn, unless too many wait already.
    pub(super) async fn enter(&self, peer: Option<IpAddr>) -> Result<ReviewPermit, String> {
        let place = self.place(peer)?;
        // Never closed, so this is never an error.
        let permit = self.turns.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        Ok(ReviewPermit { _place: place, _permit: permit })
    }

    fn place(&self, peer: Option<IpAddr>) -> Result<Place, String> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.values().sum::<usize>() >= WAITING {
            return Err(format!("{WAITING} requests wait for their tokens to be checked; ask again"));
        }
        let count = inside.entry(peer).or_default();
        if *count >= PER_ADDRESS {
            return Err(format!("{PER_ADDRESS} requests of this address wait already; ask again"));
        }
        *count += 1;
        Ok(Place { peer, inside: self.inside.clone() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use futures_util::FutureExt;

    fn address(n: u32) -> Option<IpAddr> {
        Some(IpAddr::from(n.to_be_bytes()))
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_turn_and_places_come_back() {
        let limit = ReviewLimit::default();
        let mut turns = Vec::new();
        for _ in 0..PER_ADDRESS {
            turns.push(limit.enter(address(1)).await.unwrap());
        }
        assert!(limit.enter(address(1)).await.unwrap_err().contains("this address"));
        turns.push(limit.enter(address(2)).await.unwrap());
        // The rest of the turns, then one that waits for the first to end.
        for n in turns.len()..CONCURRENT {
            turns.push(limit.enter(address(100 + n as u32)).await.unwrap());
        }
        let mut waiting = Box::pin(limit.enter(address(3)));
        assert!(waiting.as_mut().now_or_never().is_none());
        turns.remove(0);
        waiting.await.unwrap();
        turns.clear();
        assert!(limit.inside.lock().unwrap().is_empty());
        limit.enter(address(1)).await.unwrap();
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_no_trace_and_the_queue_is_bounded() {
        let limit = ReviewLimit::default();
        let mut turns = Vec::new();
        for n in 0..CONCURRENT {
            turns.push(limit.enter(address(n as u32)).await.unwrap());
        }
        let mut queue = Vec::new();
        for n in CONCURRENT..WAITING {
            let mut waiting = Box::pin(limit.enter(address(n as u32)));
            assert!(waiting.as_mut().now_or_never().is_none());
            queue.push(waiting);
        }
        assert!(limit.enter(address(9999)).await.unwrap_err().contains("wait for their tokens"));
        drop(queue);
        assert_eq!(limit.inside.lock().unwrap().len(), CONCURRENT);
    }
}
