//! What every program of the mesh has around its work: sockets that listen, how many connections and requests one source may
//! hold, who has to go when all places are taken, the small server of read-only pages, and the signals that end it.
//!
//! Nobody is kept out by who holds most. A source has a few places of its own, and shares a pool for all beyond them; when
//! the pool or the whole is full, the source that holds most gives up what it used least recently, and the newcomer
//! stays. So thousands of proxies have a place each, some dozens behind one node's address have theirs, and whoever opens
//! all that he can only turns himself out.
//!
//! It speaks no TLS and knows no identity: what a source is, is the listener's to say.

pub mod content;
pub mod pages;
pub mod places;
pub mod quota;
mod signals;
mod sockets;
mod source;

pub use content::Content;
pub use pages::{Page, Shared, serve_pages};
pub use places::{Ends, Place, Places};
pub use quota::{Quota, Taken};
pub use signals::Signals;
pub use sockets::{ACCEPT_PAUSE, accept, bind, listen};
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
