//! Conversions between the model and the wire: `TryFrom` the wire, `From` a reference of the model.
//!
//! A message is never trusted, also not the controller's: sizes are bounded, names are names, addresses are addresses
//! and regular expressions are compiled within their limits. What a reader does not know (an unknown protocol, filter
//! or kind of match) refuses the whole message instead of changing its meaning; the receiver then keeps its last good
//! state. Nothing here logs or counts.

mod authorization;
mod delta;
mod endpoint;
mod filter;
mod outbound;
mod retry;
mod route;
mod workload;

pub use delta::{RouteDelta, RouteKey};
pub use endpoint::EndpointsDelta;
pub use workload::{AUTHORIZATION_FORM, for_port};

use std::{fmt, sync::Arc};

use mesh_policy::name::is_subdomain;

/// Routes of one target.
pub const MAX_ROUTES: usize = 1_024;
/// Rules of one route, and matches of one rule (the Gateway API allows 16 and 64; newer versions may allow more).
pub const MAX_RULES: usize = 256;
/// Hostnames of one route (the Gateway API allows a TLSRoute 1024).
pub const MAX_HOSTNAMES: usize = 1_024;
/// Filters, backends, header matches or query matches in one place (the Gateway API allows 16; origins of CORS 64).
pub const MAX_LIST: usize = 64;
/// Retries of one request, statuses and codes that are retried.
pub const MAX_RETRIES: u32 = 1_000;
/// Authorization policies of one pod.
pub const MAX_POLICIES: usize = 1_000;
/// Sources of one rule of a policy.
pub const MAX_IDENTITIES: usize = 10_000;
/// Ranges of ports of one rule of a policy.
pub const MAX_PORTS: usize = 1_000;
/// Ranges of ports of one pod of which something is known: all there can be.
pub const MAX_PORT_POLICIES: usize = 65_536;
/// Endpoints in one update.
pub const MAX_ENDPOINTS: usize = 50_000;
/// Bytes of a path, header or query value and of a reason (the Gateway API allows 4096).
pub const MAX_VALUE: usize = 8_192;
/// Longest timeout, seconds: the longest Gateway API duration (GEP-2257), `99999h`.
pub const MAX_TIMEOUT_SECONDS: i64 = 99_999 * 3_600;

/// Why a message was refused, and which of its fields is at fault. The fault is the sender's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConvertError {
    path: String,
    reason: String,
}

impl ConvertError {
    fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { path: field.into(), reason: reason.to_string() }
    }

    /// The field, from the message down, as in `routes[0].rules[2].filters[0]`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The same error seen from the message that holds the field.
    fn within(mut self, field: impl fmt::Display) -> Self {
        self.path = if self.path.is_empty() { field.to_string() } else { format!("{field}.{}", self.path) };
        self
    }
}

/// Converts a bounded list, naming the element at fault.
fn list<W, M>(
    field: &str,
    items: Vec<W>,
    max: usize,
    convert: impl Fn(W) -> Result<M, ConvertError>,
) -> Result<Vec<M>, ConvertError> {
    if items.len() > max {
        return Err(ConvertError::new(field, format_args!("{} elements, at most {max} are allowed", items.len())));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| convert(item).map_err(|e| e.within(format_args!("{field}[{i}]"))))
        .collect()
}

/// A Kubernetes name (DNS-1123 subdomain, RFC 1123).
fn name(field: &str, text: &str) -> Result<Arc<str>, ConvertError> {
    if is_subdomain(text) {
        Ok(text.into())
    } else {
        Err(ConvertError::new(field, "not a Kubernetes name (a-z 0-9 - . and at most 253)"))
    }
}

/// Text for people and metrics: bounded and without control characters, so that it cannot break a line of a log.
fn label(field: &str, text: &str) -> Result<Arc<str>, ConvertError> {
    value(field, text)?;
    if text.chars().any(char::is_control) {
        return Err(ConvertError::new(field, "has control characters"));
    }
    Ok(text.into())
}

/// A text of bounded length.
fn value(field: &str, text: &str) -> Result<(), ConvertError> {
    if text.len() > MAX_VALUE {
        return Err(ConvertError::new(field, format_args!("{} bytes, at most {MAX_VALUE} are allowed", text.len())));
    }
    Ok(())
}

/// A port other than 0.
fn port(field: &str, port: u32) -> Result<u16, ConvertError> {
    number(field, port)
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| ConvertError::new(field, format_args!("{port} is not a port (1 to 65535)")))
}

/// An end of a range of ports: 0 as well.
fn number(field: &str, number: u32) -> Result<u16, ConvertError> {
    u16::try_from(number).map_err(|_| ConvertError::new(field, format_args!("{number} is not 0 to 65535")))
}
