//! What can go wrong on the way of a request: what happened, whose fault it is, and whether a retry is safe.
//!
//! One [`Reason`] is at once the `mesh-proxy-error` header, the `error` label of the metrics and a heading of
//! `docs/errors.md`.

mod reason;
mod told;

use std::{borrow::Cow, fmt};

pub(crate) use self::{
    reason::{Fault, Reason},
    told::{DecisionId, Told},
};

/// The header that carries the id of the decision that refused a request, as the log of this proxy has it.
pub(crate) const DECISION_HEADER: http::HeaderName = http::HeaderName::from_static("mesh-decision-id");
/// The header that carries [`Reason::as_str`] on every response the proxy makes itself.
pub(crate) const ERROR_HEADER: http::HeaderName = http::HeaderName::from_static("mesh-proxy-error");

/// How much of a request had gone out when it failed: decides whether it may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Certainly not handled: any method may be repeated elsewhere.
    Never,
    /// Nor was this, and the endpoint may well take it: only the connection that it was to go on was ending (GOAWAY).
    Closing,
    /// Perhaps handled and nothing of a response was seen: safe methods may be repeated once.
    Unknown,
    /// Handled, at least in part.
    Begun,
}

/// A failure on the way of a request or a connection.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    /// What happened.
    pub reason: Reason,
    /// Whether a retry is safe.
    pub delivery: Delivery,
    /// The particulars, for the log and for this pod's own application: names and addresses, never secrets.
    pub detail: Cow<'static, str>,
    /// What everybody else is told; `None`: the reason's name.
    pub told: Option<Box<Told>>,
}

impl Error {
    /// A failure before anything was delivered.
    pub(crate) fn undelivered(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, delivery: Delivery::Never, detail: detail.into(), told: None }
    }

    /// A connection that broke.
    pub(crate) fn connection(error: std::io::Error) -> Self {
        Self::unknown(Reason::UpstreamReset, format!("connection: {error}"))
    }

    /// Whether it is certain that nobody handled the request.
    pub(crate) fn is_undelivered(&self) -> bool {
        matches!(self.delivery, Delivery::Never | Delivery::Closing)
    }

    /// Whether it is the endpoint's: another one may do better. What is wrong with the request, or with this proxy, is
    /// wrong everywhere.
    pub(crate) fn is_of_the_endpoint(&self) -> bool {
        matches!(self.reason, Reason::ConnectFailed | Reason::Refused | Reason::IdentityMismatch | Reason::Loop)
    }

    /// A connection that was ending before it took the request.
    pub(crate) fn closing(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: Reason::Refused, delivery: Delivery::Closing, detail: detail.into(), told: None }
    }

    /// A failure after which it is not known whether the request was handled.
    pub(crate) fn unknown(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, delivery: Delivery::Unknown, detail: detail.into(), told: None }
    }

    /// A failure of what was handled, at least in part.
    pub(crate) fn begun(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, delivery: Delivery::Begun, detail: detail.into(), told: None }
    }

    /// The same, with what everybody is told.
    pub(crate) fn telling(self, text: impl Into<Cow<'static, str>>, decision: Option<DecisionId>) -> Self {
        Self { told: Some(Box::new(Told { text: text.into(), decision })), ..self }
    }

    /// What whoever knows nothing of this pod is told.
    pub(crate) fn public(&self) -> &str {
        self.told.as_ref().map_or(self.reason.as_str(), |told| &told.text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

impl std::error::Error for Error {}
