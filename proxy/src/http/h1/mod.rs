//! HTTP/1.0 and HTTP/1.1 for a proxy: one strict codec, a server side and a client side.
//!
//! Why not a library: a proxy must see and write 1xx responses, pass trailers whatever `TE` said, refuse a head
//! that two parsers could read differently before anything is forwarded, and spend neither a channel nor a task
//! per request. Everything here runs on one thread (`Rc`, `RefCell`), and bodies are polled where they are used,
//! so back-pressure is simply not reading.
//!
//! Reading order: [`server::serve`] (a connection's life), [`client::send`] (one exchange), then the parts both
//! share: `head` and `target` (parsing), `framing` (where a message ends), `body` (decoding), `encode` and
//! `writer` (writing), `buf` (what is read ahead and what is not written yet).
//!
//! It does not: route, retry, pool, strip `mesh-` request headers, add `date` or `via`, or speak HTTP/0.9 and
//! HTTP/2. The codec owns `connection`, `keep-alive`, `proxy-connection`, `transfer-encoding` and
//! `content-length` on output; the caller removes other hop-by-hop fields.

mod body;
mod buf;
pub(crate) mod client;
mod config;
mod encode;
mod error;
pub(in crate::http) mod framing;
mod head;
mod recv;
pub(crate) mod server;
mod target;
pub(in crate::http) mod timer;
mod upgrade;
mod writer;

pub(crate) use config::Config;
pub(crate) use error::{BodyError, Error, ParseReason, QUIET, SendError, SendErrorKind};
pub(crate) use framing::members;
pub(crate) use recv::{Interim, RecvBody};
pub(crate) use upgrade::{OnUpgrade, Upgraded};

#[cfg(test)]
mod tests;
