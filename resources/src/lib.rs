//! Kubernetes objects in, policy out, with a problem for everything that is not understood.
//!
//! Pure: it reads no files and watches nothing. Objects are dynamic values decoded field by field, so that one unknown
//! field, enum value or filter of a newer Gateway API never loses the object (a typed crate with closed enums does).
//!
//! Reading order: [`object`] (text to objects), [`snapshot`] (objects to typed state, kept up by apply and delete), the
//! decoders ([`service`], [`endpoint_slice`], [`pod`], [`node`], [`route`]), `links` (what leads where), [`resolve`] (a name or
//! an address to a target), `endpoints` (a Service to its endpoints, for a caller), [`compile`] (a target to its policy),
//! [`problem`].

pub mod compile;
mod duration;
pub mod endpoint_slice;
mod endpoints;
mod filter;
mod grpc_route;
mod http_route;
mod lines;
mod links;
pub mod node;
pub mod object;
pub mod pod;
pub mod problem;
pub mod reference_grant;
pub mod resolve;
pub mod route;
pub mod service;
pub mod shared_map;
pub mod snapshot;
mod walker;

pub use endpoints::Locality;
pub use links::Touched;
pub use object::{Object, ObjectId, ParseError, Source, parse_manifests};
pub use pod::Pod;
pub use problem::{Class, Place, Problem, Reason, Severity};
pub use resolve::Depends;
pub use route::RouteObject;
pub use service::Service;
pub use shared_map::SharedMap;
pub use snapshot::{Key, Options, Snapshot, is_used};
