//! What every listener of the mesh shares: how many connections and requests one source may hold, who has to go when all
//! places are taken, and the small server of read-only pages.
//!
//! Nobody is kept out by who holds most. A source has a few places of its own, and shares a pool for all beyond them; when
//! the pool or the whole is full, the source that holds most gives up what it used least recently, and the newcomer
//! stays. So thousands of proxies have a place each, some dozens behind one node's address have theirs, and whoever opens
//! all that he can only turns himself out.
//!
//! It opens no socket, speaks no TLS and knows no identity: what a source is, is the listener's to say.

pub mod pages;
pub mod places;
pub mod quota;
mod source;

pub use pages::{Page, Shared, serve_pages};
pub use places::{Ends, Place, Places};
pub use quota::{Quota, Taken};
pub use source::Source;

/// How many places there are, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Places that every source has; at least one.
    pub each: usize,
    /// Places beyond those, for all sources together.
    pub shared: usize,
    /// Places in all.
    pub total: usize,
}
