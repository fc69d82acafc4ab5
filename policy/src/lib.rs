//! The decision core of Mesh: one in-memory model of routes and policies, and the pure functions that decide
//! what happens to a request or a connection.
//!
//! The proxy decides with it on every request, the controller compiles manifests into it, and the command line
//! explains with it, so the three can never disagree. Nothing here reads a clock, draws a random number, logs,
//! locks or does IO: time and chance are arguments.
//!
//! Reading order: [`model`] (the nouns), [`facts`] (what a decision may look at), [`decide`] (the verbs),
//! [`trace`] (why a rule lost), [`name`] and [`identity`], [`route`] (matchers and precedence), [`filter`] (what a route does
//! to a request), [`retry`] and [`session`] (what a rule says beside), [`bounds`] (how much there may be).

pub mod bounds;
pub mod decide;
pub mod facts;
pub mod filter;
pub mod identity;
pub mod model;
pub mod name;
pub mod retry;
pub mod route;
pub mod session;
pub mod trace;

pub use decide::{
    DenyReason, InboundVerdict, OutboundDecision, OutboundVerdict, decide_connection, decide_inbound, decide_outbound,
};
pub use facts::{ConnectionFacts, RequestFacts};
pub use filter::{Cors, Filter, HeaderModifier, Mirror, PathModifier, Redirect, Rewrite};
pub use identity::{Identity, IdentityError};
pub use model::{
    Access, Backend, BackendTarget, Endpoint, InboundPolicy, OutboundPolicy, Protocol, Route, RouteKind, RouteMeta,
    Rule, ServiceRef, Target, Timeouts,
};
pub use retry::{Outcome, Retry, RetryBudget, RetryMethods};
pub use route::{
    HeaderMatch, HostMatch, PathMatch, Patterns, QueryMatch, RegexMatch, RequestMatch, RouteTable, StringMatch,
};
pub use session::{SessionCarrier, SessionPersistence};
pub use trace::{Explanation, Step, Trace};
