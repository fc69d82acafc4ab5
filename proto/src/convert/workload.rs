//! The policy of a server's pod.

use mesh_policy::{
    AccessLog, AuthorizationPolicy, AuthorizationRule, PortPolicies, PortPolicy, WorkloadPolicy,
    access_log::{Attributes, MAX_HEADERS, WHOLE},
};

use super::{
    ConvertError, MAX_POLICIES, MAX_PORT_POLICIES, label, list, number, outbound,
    route::{timeout, wire_duration},
};
use crate::v1::{self, access::Kind};

/// The newest form of authorization policies that this version understands and sends
/// (`WorkloadRequest.authorization_form`). 1: everything in `Access`.
pub const AUTHORIZATION_FORM: u32 = 1;

impl TryFrom<v1::WorkloadPolicy> for WorkloadPolicy {
    type Error = ConvertError;

    fn try_from(wire: v1::WorkloadPolicy) -> Result<Self, ConvertError> {
        // Absent access is refused, never read as "all": a message that lost a field must not open a port.
        let access = wire.access.ok_or_else(|| ConvertError::new("access", "absent"))?;
        let ports = list("ports", wire.ports, MAX_PORT_POLICIES, |port| {
            let policy = PortPolicy {
                protocol: outbound::protocol(port.protocol)?,
                has_request_routes: port.has_request_routes,
                strict_paths: port.strict_paths,
            };
            Ok((number("first", port.first)?, number("last", port.last)?, policy))
        })?;
        Ok(Self {
            ports: PortPolicies::new(ports).ok_or_else(|| ConvertError::new("ports", "not sorted, or they overlap"))?,
            authorization: policies(access).map_err(|error| error.within("access"))?,
            access_log: wire.access_log.map(access_log).transpose()?.unwrap_or_default(),
            controlled_by: label("controlled_by", &wire.controlled_by)?,
        })
    }
}

fn access_log(wire: v1::AccessLog) -> Result<AccessLog, ConvertError> {
    let bad = |what: String| ConvertError::new("access_log", what);
    if wire.sample > WHOLE {
        return Err(bad(format!("a sample of {} of a million", wire.sample)));
    }
    if wire.attributes.len() > MAX_HEADERS + 1 {
        return Err(bad(format!("{} attributes", wire.attributes.len())));
    }
    Ok(AccessLog {
        errors: wire.errors,
        slow: timeout("slow", wire.slow)?,
        sample: wire.sample,
        attributes: Attributes::read(&wire.attributes.join(",")).map_err(bad)?,
    })
}

fn policies(wire: v1::Access) -> Result<Vec<AuthorizationPolicy>, ConvertError> {
    match wire.kind {
        Some(Kind::All(true)) => Ok(Vec::new()),
        Some(Kind::Policies(v1::AuthorizationPolicies { policies })) => {
            list("policies", policies, MAX_POLICIES, AuthorizationPolicy::try_from)
        }
        Some(Kind::All(false)) => Err(ConvertError::new("all", "a kind that says false says nothing")),
        None => Err(ConvertError::new("kind", "an access that this version does not know")),
    }
}

impl From<&WorkloadPolicy> for v1::WorkloadPolicy {
    fn from(model: &WorkloadPolicy) -> Self {
        let port = |(first, last, policy): &(u16, u16, PortPolicy)| v1::PortPolicy {
            first: (*first).into(),
            last: (*last).into(),
            protocol: v1::Protocol::from(policy.protocol).into(),
            has_request_routes: policy.has_request_routes,
            strict_paths: policy.strict_paths,
        };
        Self {
            access: Some(access(model.authorization.iter().map(Into::into).collect())),
            ports: model.ports.ranges().iter().map(port).collect(),
            access_log: (model.access_log != AccessLog::default()).then(|| v1::AccessLog {
                errors: model.access_log.errors,
                slow: model.access_log.slow.map(wire_duration),
                sample: model.access_log.sample,
                attributes: model.access_log.attributes.names(),
            }),
            controlled_by: model.controlled_by.to_string(),
            ..Self::default()
        }
    }
}

fn access(policies: Vec<v1::AuthorizationPolicy>) -> v1::Access {
    let kind = match policies.is_empty() {
        true => Kind::All(true),
        false => Kind::Policies(v1::AuthorizationPolicies { policies }),
    };
    v1::Access { kind: Some(kind) }
}

/// What a proxy that does not know [`v1::WorkloadPolicy`] is told of one port: the policies that are about it, and their rules
/// for it, none of which says a port. Such a proxy does not know ranges of ports.
pub fn for_port(model: &WorkloadPolicy, port: u16) -> v1::InboundPolicy {
    let is_for = |rule: &&AuthorizationRule| rule.ports.as_ref().is_none_or(|ports| ports.contains(port));
    let about = model.authorization.iter().filter(|policy| policy.is_about(port)).map(|policy| {
        let rules = policy.rules.iter().filter(is_for).map(|rule| AuthorizationRule { ports: None, ..rule.clone() });
        (&AuthorizationPolicy { ports: None, rules: rules.collect(), ..policy.clone() }).into()
    });
    let known = model.ports.get(port);
    v1::InboundPolicy {
        protocol: v1::Protocol::from(known.protocol).into(),
        access: Some(access(about.collect())),
        has_request_routes: known.has_request_routes,
    }
}
