//! Kubernetes objects in, policy out, with a problem for everything that is not understood.
//!
//! Pure: it reads no files and watches nothing. Objects are dynamic values decoded field by field, so that one unknown
//! field, enum value or filter of a newer Gateway API never loses the object (a typed crate with closed enums does).
//!
//! Reading order: [`object`] (text to objects), [`snapshot`] (objects to typed state, kept up by apply and delete), the
//! decoders ([`service`], [`endpoint_slice`], [`pod`], [`node`], [`route`] with `rule`, `backend` and `filter`, [`retry_policy`]),
//! `patterns` and `room` (how much there may be), `attach` (which routes are in force where), `links` and `route_links` (what
//! leads where), `owner` (who has an address), [`resolve`] (a name or
//! an address to a target), `endpoints` (a Service to its endpoints, for a caller), [`compile`] (a target to its policy),
//! [`authorization`] (who may call a pod), `workload` (a pod to its policy), [`problem`].

mod access_log;
mod attach;
pub mod authorization;
mod backend;
mod closed;
pub mod compile;
mod connection_route;
mod duration;
pub mod endpoint_slice;
mod endpoints;
mod filter;
mod grpc_route;
mod http_route;
pub mod kinds;
mod lines;
mod links;
pub mod node;
pub mod object;
mod options;
mod owner;
mod patterns;
pub mod pod;
mod policy_status;
pub mod problem;
pub mod protocol;
pub mod reference_grant;
pub mod resolve;
mod retry;
pub mod retry_policy;
mod room;
pub mod route;
mod route_links;
mod route_status;
mod route_sums;
mod rule;
pub mod selector;
pub mod service;
mod session;
pub mod shared_map;
pub mod snapshot;
mod status;
mod told;
mod walker;
mod workload;
pub mod yaml;

pub use attach::Found;
pub use backend::BackendObject;
pub use endpoints::Locality;
pub use filter::{FilterObject, MirrorObject, PolicyRef};
pub use ipnet::IpNet;
pub use kinds::{group_of, is_used};
pub use links::Touched;
pub use object::{Key, Object, ObjectId, ParseError, Source, StatusId, parse_manifests};
pub use options::Options;
pub use owner::is_private;
pub use pod::Pod;
pub use problem::{Class, Place, Problem, Reason, Severity};
pub use resolve::Depends;
pub use retry_policy::RetryPolicy;
pub use room::{MAX_ALL_BYTES, MAX_NAMESPACE_BYTES};
pub use route::RouteObject;
pub use route_links::MAX_ROUTES;
pub use route_status::RouteStatus;
pub use rule::RuleObject;
pub use service::Service;
pub use shared_map::SharedMap;
pub use snapshot::{Doubted, Snapshot};
pub use status::{Condition, Judged, ObjectStatus, StatusEntry};
pub use told::Told;
