//! Kubernetes objects in, policy out, with a problem for everything that is not understood.
//!
//! Pure: it reads no files and watches nothing. Objects are dynamic values decoded field by field, so that one unknown
//! field, enum value or filter of a newer Gateway API never loses the object (a typed crate with closed enums does).
//!
//! Reading order: [`object`] (text to objects), [`snapshot`] (objects to typed state, kept up by apply and delete), the
//! decoders ([`service`], [`endpoint_slice`], [`pod`], [`route`]), [`resolve`] (a name to a target, a Service to its
//! endpoints), [`compile`] (a target to its policy), [`problem`].

pub mod compile;
mod duration;
pub mod endpoint_slice;
mod filter;
mod grpc_route;
mod http_route;
mod lines;
pub mod object;
pub mod pod;
pub mod problem;
pub mod reference_grant;
pub mod resolve;
pub mod route;
pub mod service;
pub mod snapshot;
mod walker;

pub use object::{Object, ObjectId, ParseError, Source, parse_manifests};
pub use pod::Pod;
pub use problem::{Class, Place, Problem, Reason, Severity};
pub use route::RouteObject;
pub use service::Service;
pub use snapshot::{Key, Options, Snapshot};
