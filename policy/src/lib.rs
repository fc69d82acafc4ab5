//! The decision core of Mesh: one in-memory model of routes and policies, and the pure functions that decide what happens to
//! a request or a connection.
//!
//! The proxy decides with it on every request, the controller compiles manifests into it, and the command line explains with
//! it, so the three never disagree. Nothing here reads a clock, draws a random number, logs, locks or does IO: time and
//! random bits are arguments.
//!
//! Reading order: [`model`] (the data types), [`facts`] (the inputs of a decision), [`mode`] (how a connection is served),
//! [`decide`] (which rule applies), [`plan`] (what then happens), [`authorization`] (who may call), [`trace`] (why a rule did
//! not match), [`name`] and [`identity`], [`route`] (matchers and precedence), [`filter`] (what a route does to a request),
//! [`retry`] and [`session`] (the other parts of a rule), [`outcome`] (how it ended), [`access_log`] (what is logged of it), [`bounds`] (how much there may be),
//! [`well_known`] (names that all parts share).

pub mod access_log;
pub mod authorization;
pub mod bounds;
pub mod decide;
pub mod duration;
pub mod facts;
pub mod filter;
pub mod identity;
pub mod mode;
pub mod model;
pub mod name;
pub mod outcome;
pub mod plan;
pub mod retry;
pub mod route;
pub mod session;
pub mod shown;
pub mod trace;
pub mod well_known;

pub use access_log::AccessLog;
pub use authorization::{
    Action, AuthorizationPolicy, AuthorizationRule, Enforcement, InboundDecision, InboundVerdict, Level, Operation,
    Ports, Prepared, Principal, RuleRef, Source, Tier, decide_inbound,
};
pub use decide::{OutboundDecision, OutboundVerdict, decide_connection, decide_outbound};
pub use facts::{ConnectionFacts, RequestFacts};
pub use filter::{Cors, Filter, HeaderModifier, Mirror, PathModifier, Redirect, Rewrite};
pub use identity::{Identity, IdentityError};
pub use mode::Mode;
pub use model::{
    Backend, BackendTarget, Endpoint, OutboundPolicy, PortPolicies, PortPolicy, Protocol, Route, RouteKind, RouteMeta,
    Rule, ServiceRef, Target, Timeouts, WorkloadPolicy,
};
pub use outcome::Class;
pub use plan::{Edits, Forward, ForwardTo, LocalReply, Plan, Refusal, RequestHead};
pub use retry::{Outcome, Retry, RetryBudget, RetryMethods};
pub use route::{
    HeaderMatch, HostMatch, PathMatch, Patterns, QueryMatch, RegexMatch, RequestMatch, RouteTable, StringMatch,
};
pub use session::{SessionCarrier, SessionPersistence};
pub use trace::{Explanation, RuleMiss, Step, Trace};
