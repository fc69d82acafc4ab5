//! What a request or a connection met on its way that its series tells apart: route, rule and the name that was called.

use std::sync::Arc;

use mesh_policy::{HostMatch, OutboundDecision, OutboundPolicy, RouteMeta, Rule, ServiceRef, Target};

/// See the module. Nothing is known of what was refused early.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The route that decided.
    pub(crate) route: Option<RouteMeta>,
    /// The place of the rule that decided in its route, and its name.
    pub(crate) rule: Option<(usize, Option<Arc<str>>)>,
    /// The name that was called.
    pub(crate) authority: Option<Authority>,
}

/// A name that was called, as far as the controller told it. Clients may write any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// One of the Service that was called.
    Service(ServiceRef),
    /// A hostname of the route.
    Hostname(HostMatch),
    /// Any other.
    Other,
}

impl Placed {
    /// Of a decision about a request for `host`, or about a connection.
    pub(crate) fn new(policy: &OutboundPolicy, decision: &OutboundDecision<'_>, host: Option<&str>) -> Self {
        let rule = |rule: &Rule| (decision.rule_index, rule.name.clone());
        Self {
            route: decision.route.cloned(),
            rule: decision.rule.map(rule),
            authority: host.map(|host| Authority::of(policy, decision, host)),
        }
    }

    /// The label of the route; empty for none.
    pub(super) fn route_label(&self) -> String {
        self.route.as_ref().map(|route| format!("{}/{}", route.namespace, route.name)).unwrap_or_default()
    }

    /// The label of the rule: its name, or its place in the route from 0.
    pub(super) fn rule_label(&self) -> String {
        match &self.rule {
            None => String::new(),
            Some((_, Some(name))) => name.to_string(),
            Some((place, None)) => place.to_string(),
        }
    }

    /// The label of the name that was called.
    pub(super) fn authority_label(&self) -> String {
        match &self.authority {
            None => String::new(),
            Some(Authority::Service(service)) => format!("{}.{}.svc", service.name, service.namespace),
            Some(Authority::Hostname(hostname)) => hostname.to_string(),
            Some(Authority::Other) => "other".to_owned(),
        }
    }
}

impl Authority {
    fn of(policy: &OutboundPolicy, decision: &OutboundDecision<'_>, host: &str) -> Self {
        let route = policy.routes.routes().get(decision.route_index).filter(|_| decision.route.is_some());
        let mut hostnames = route.into_iter().flat_map(|route| &route.hostnames);
        if let Some(hostname) = hostnames.find(|hostname| hostname.matches(host)) {
            return Self::Hostname(hostname.clone());
        }
        match &policy.target {
            Target::Service(service) if is_name_of(service, host) => Self::Service(service.clone()),
            _ => Self::Other,
        }
    }
}

/// Whether a host is `web`, `web.shop`, `web.shop.svc` or that with a cluster's domain.
fn is_name_of(service: &ServiceRef, host: &str) -> bool {
    let Some(rest) = after(host, &service.name) else { return false };
    let rest = match rest.strip_prefix('.') {
        None => return rest.is_empty(),
        Some(rest) => after(rest, &service.namespace),
    };
    rest.is_some_and(|rest| rest.is_empty() || rest == ".svc" || rest.starts_with(".svc."))
}

fn after<'h>(host: &'h str, name: &str) -> Option<&'h str> {
    let (start, rest) = host.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_service_are_known() {
        let web = ServiceRef::new("shop", "web", 80);
        for (host, expected) in [
            ("web", true),
            ("Web.shop", true),
            ("web.shop.svc", true),
            ("web.shop.svc.cluster.local", true),
            ("web.other", false),
            ("web.shop.example.com", false),
            ("webshop", false),
            ("we", false),
            ("", false),
        ] {
            assert_eq!(is_name_of(&web, host), expected, "{host}");
        }
    }
}
