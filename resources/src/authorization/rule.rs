//! Rules of policies, and what follows from parts of them that are not understood.

use mesh_policy::{Action, AuthorizationRule, Level, Operation, Ports, RequestMatch};

use super::caller::nobody;
use crate::{
    grpc_route, http_route,
    problem::Report,
    walker::{Invalid, MAX_LIST, Node},
};

/// Fields of a rule.
pub(crate) const RULE_FIELDS: [&str; 3] = ["sources", "networkAttributes", "to"];
/// Fields of `networkAttributes`.
pub(crate) const ATTRIBUTE_FIELDS: [&str; 1] = ["ports"];

/// Reads the rules of one policy.
pub(super) struct Reader<'p> {
    pub(super) action: Action,
    pub(super) level: Level,
    /// The trust domain of the mesh.
    pub(super) trust_domain: &'p str,
    /// The policy's namespace, if it has one.
    pub(super) namespace: Option<&'p str>,
}

impl Reader<'_> {
    /// `rules`, each in its place. Gives what their patterns take, too.
    pub(super) fn rules(&self, spec: &Node<'_>, report: &mut Report<'_>) -> (Vec<AuthorizationRule>, usize) {
        let mark = report.mark();
        let nodes = match spec.at_most("rules", MAX_LIST, report) {
            Ok(nodes) if nodes.is_empty() && self.action != Action::Allow => {
                let what = format!("{} needs at least one rule", self.action);
                Err(spec.invalid("rules", what, "write one; {} matches everything", report))
            }
            nodes => nodes,
        };
        let mut pattern_bytes = 0;
        let mut rule = |node: &Node<'_>| {
            let (rule, bytes) = self.rule(node, report);
            pattern_bytes += bytes;
            rule
        };
        let rules = match nodes {
            Ok(nodes) => nodes.iter().map(&mut rule).collect(),
            Err(Invalid) if self.action == Action::Deny => vec![AuthorizationRule::default()],
            Err(Invalid) => Vec::new(),
        };
        report.effect(mark, self.follows());
        (rules, pattern_bytes)
    }

    /// What follows from a part that is not understood.
    pub(super) fn follows(&self) -> &'static str {
        match self.action {
            Action::Allow => "it lets nobody in",
            Action::Deny => "it counts as matching, so that more is denied",
            Action::Audit => "it matches nothing",
        }
    }

    fn rule(&self, node: &Node<'_>, report: &mut Report<'_>) -> (AuthorizationRule, usize) {
        report.take_rejection();
        let is_known = node.only(&RULE_FIELDS, report);
        let sources = self.list(node, "sources", |item, report| self.source(item, report), nobody, report);
        let ports = self.ports(node, report);
        let to = self.operations(node, report);
        let pattern_bytes = report.patterns.end_rule(matches!(to, Ok(Some(_))));
        let is_whole = report.take_rejection().is_none();
        let is_good = is_known.is_ok() && ports.is_ok() && to.is_ok() && (is_whole || self.action == Action::Allow);
        let mut rule = AuthorizationRule { sources, ports: ports.unwrap_or_default(), to: to.unwrap_or_default() };
        if !is_good && self.action != Action::Deny {
            rule.sources = Some(Vec::new());
        }
        (rule, pattern_bytes)
    }

    fn ports(&self, node: &Node<'_>, report: &mut Report<'_>) -> Result<Option<Ports>, Invalid> {
        let Some(attributes) = node.object("networkAttributes", report)? else { return Ok(None) };
        attributes.only(&ATTRIBUTE_FIELDS, report)?;
        match decode_ports(&attributes, MAX_LIST, report)? {
            None => Err(attributes.invalid("ports", "`ports` is required".to_owned(), "write it", report)),
            some => Ok(some),
        }
    }

    /// `to`. In a DENY, one operation that is not understood makes it match every request.
    fn operations(&self, node: &Node<'_>, report: &mut Report<'_>) -> Result<Option<Vec<Operation>>, Invalid> {
        if node.get("to").is_some() && self.level == Level::Network {
            let what = "at the level Network there are no requests, so no operations".to_owned();
            return Err(node.invalid("to", what, "remove it, or write enforcementLevel: Application", report));
        }
        let never = || Operation(RequestMatch::never());
        Ok(self.list(node, "to", |item, report| self.operation(item, report), never, report))
    }

    /// One operation: the match of an HTTPRoute, or that of a GRPCRoute below `grpc`.
    fn operation(&self, node: &Node<'_>, report: &mut Report<'_>) -> Result<Operation, Invalid> {
        let wanted = if node.get("grpc").is_some() {
            node.only(&["grpc"], report)?;
            let grpc = node.object("grpc", report)?;
            grpc.map(|grpc| grpc_route::decode_match(&grpc, report)).transpose()?.ok_or(Invalid)
        } else {
            http_route::decode_match(node, report)
        };
        wanted.map(|wanted| Operation::written(wanted, self.action))
    }

    /// A list of alternatives, each in its place. `None`: it is not there, or it is a DENY's and not all of it is understood.
    fn list<T>(
        &self,
        node: &Node<'_>,
        name: &str,
        read: impl Fn(&Node<'_>, &mut Report<'_>) -> Result<T, Invalid>,
        never: fn() -> T,
        report: &mut Report<'_>,
    ) -> Option<Vec<T>> {
        let is_deny = self.action == Action::Deny;
        node.get(name)?;
        let Ok(items) = node.at_most(name, MAX_LIST, report) else { return (!is_deny).then(Vec::new) };
        let all: Vec<_> = items.iter().map(|item| read(item, report)).collect();
        if is_deny {
            return all.into_iter().collect::<Result<_, _>>().ok();
        }
        Some(all.into_iter().map(|read| read.unwrap_or_else(|Invalid| never())).collect())
    }
}

/// `ports`; `None` if there are none.
pub(super) fn decode_ports(node: &Node<'_>, max: usize, report: &mut Report<'_>) -> Result<Option<Ports>, Invalid> {
    if node.get("ports").is_none() {
        return Ok(None);
    }
    let items = node.at_most("ports", max, report)?;
    if items.is_empty() {
        return Err(node.invalid("ports", "no port is listed".to_owned(), "list one, or remove it", report));
    }
    let port = |item: &Node<'_>| item.as_integer(1..=u32::from(u16::MAX), report);
    let numbers: Vec<u32> = items.iter().map(port).collect::<Result<_, _>>()?;
    Ok(Some(Ports::only(numbers.into_iter().filter_map(|number| u16::try_from(number).ok()))))
}
