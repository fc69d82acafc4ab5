//! Callers, as a policy writes them: `sources`, and what they except.

use ipnet::{IpNet, Ipv4Net};
use mesh_policy::{Action, Identity, Principal, Source, name::is_label, name::is_subdomain};

use super::rule::Reader;
use crate::{
    problem::{Reason, Report},
    walker::{Invalid, Node, short},
};

/// Most entries of `except`.
pub(crate) const MAX_EXCEPT: usize = 16;
/// Values of `type`, each with the field that it needs.
pub(crate) const TYPES: [(&str, Option<&str>); 6] = [
    ("ServiceAccount", Some("serviceAccount")),
    ("SPIFFE", Some("spiffe")),
    ("Namespace", Some("namespace")),
    ("TrustDomain", Some("trustDomain")),
    ("CIDR", Some("cidr")),
    ("Unauthenticated", None),
];
/// Fields of a source.
pub(crate) const SOURCE_FIELDS: [&str; 7] =
    ["type", "serviceAccount", "spiffe", "namespace", "trustDomain", "cidr", "except"];
/// Fields that say who the caller is, which one without identity is not.
const IDENTITY_FIELDS: [&str; 4] = ["serviceAccount", "spiffe", "namespace", "trustDomain"];
/// Fields of `serviceAccount`.
pub(crate) const ACCOUNT_FIELDS: [&str; 2] = ["name", "namespace"];
/// The name that stands for every service account of a namespace.
const EVERY_ACCOUNT: &str = "*";

/// Matches nobody. It stands in the place of a source that is not understood, so that those after it keep theirs.
pub(crate) fn nobody() -> Source {
    Source { all: vec![Principal::Authenticated, Principal::Unauthenticated], except: Vec::new() }
}

impl Reader<'_> {
    /// A source: its type's field, other fields that must hold as well, and exceptions.
    pub(super) fn source(&self, node: &Node<'_>, report: &mut Report<'_>) -> Result<Source, Invalid> {
        node.only(&SOURCE_FIELDS, report)?;
        let (kind, _) = type_of(node, report)?;
        let mut all = self.principals(node, report)?;
        if kind == "Unauthenticated" {
            if let Some(field) = IDENTITY_FIELDS.into_iter().find(|field| node.get(field).is_some()) {
                let what = format!("a caller without identity has no {field}");
                return Err(node.invalid(field, what, "remove it, or write another type", report));
            }
            all.push(Principal::Unauthenticated);
        }
        let except = self.exceptions(node, report)?;
        Ok(Source { all, except })
    }

    /// Those that a source excepts. In a DENY, one that is not understood is left out, so that more is denied.
    fn exceptions(&self, node: &Node<'_>, report: &mut Report<'_>) -> Result<Vec<Principal>, Invalid> {
        let is_deny = self.action == Action::Deny;
        let items = match node.at_most("except", MAX_EXCEPT, report) {
            Err(Invalid) if is_deny => return Ok(Vec::new()),
            items => items?,
        };
        let (mut except, mut is_good) = (Vec::new(), true);
        for item in items {
            match self.exception(&item, report) {
                Ok(principal) => except.push(principal),
                Err(Invalid) => is_good = false,
            }
        }
        if is_good || is_deny { Ok(except) } else { Err(Invalid) }
    }

    fn exception(&self, node: &Node<'_>, report: &mut Report<'_>) -> Result<Principal, Invalid> {
        node.only(&SOURCE_FIELDS, report)?;
        let (kind, own) = type_of(node, report)?;
        let others = SOURCE_FIELDS.into_iter().filter(|field| *field != "type" && Some(*field) != own);
        if let Some(other) = others.into_iter().find(|field| node.get(field).is_some()) {
            let what = format!("an exception of type {kind} has no {other}");
            return Err(node.invalid(other, what, "write an exception for each", report));
        }
        let mut all = self.principals(node, report)?;
        Ok(all.pop().unwrap_or(Principal::Unauthenticated))
    }

    /// What the fields of a source or an exception say, one each.
    fn principals(&self, node: &Node<'_>, report: &mut Report<'_>) -> Result<Vec<Principal>, Invalid> {
        let mut all = Vec::new();
        if let Some(account) = node.object("serviceAccount", report)? {
            all.push(self.account(&account, report)?);
        }
        if let Some(text) = node.text("spiffe", report)? {
            let identity = Identity::parse(text).map_err(|why| {
                let what = format!("{} is no identity of a workload: {why}", short(text));
                node.invalid("spiffe", what, "write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT", report)
            })?;
            all.push(Principal::Identity(identity));
        }
        if let Some(namespace) = node.name("namespace", is_label, report)? {
            all.push(self.namespace_of_mesh(namespace));
        }
        if let Some(name) = node.text("trustDomain", report)? {
            if !Identity::is_trust_domain(name) {
                let what = format!("{} is not the name of a trust domain", short(name));
                return Err(node.invalid("trustDomain", what, "write it as in east.example", report));
            }
            all.push(Principal::TrustDomain(name.into()));
        }
        if let Some(text) = node.text("cidr", report)? {
            let network = network(text).ok_or_else(|| {
                let what = format!("{} is not a network", short(text));
                node.invalid("cidr", what, "write one as in 10.0.0.0/8", report)
            })?;
            all.push(Principal::Cidr(network));
        }
        Ok(all)
    }

    fn account(&self, node: &Node<'_>, report: &mut Report<'_>) -> Result<Principal, Invalid> {
        node.only(&ACCOUNT_FIELDS, report)?;
        let name = node.required_text("name", report)?;
        let namespace = match (node.name("namespace", is_label, report)?, self.namespace) {
            (Some(namespace), _) | (None, Some(namespace)) => namespace,
            (None, None) => {
                let what = "`namespace` is required in a ClusterAuthorizationPolicy".to_owned();
                return Err(node.invalid("namespace", what, "write the namespace of the service account", report));
            }
        };
        if name == EVERY_ACCOUNT {
            return Ok(self.namespace_of_mesh(namespace));
        }
        node.name("name", is_subdomain, report)?;
        let identity = Identity::new(self.trust_domain, namespace, name).map_err(|why| {
            report.schema(&node.field("name"), Reason::UnsupportedValue, why.to_string(), "correct the name");
            Invalid
        })?;
        Ok(Principal::Identity(identity))
    }

    fn namespace_of_mesh(&self, namespace: &str) -> Principal {
        Principal::Namespace { trust_domain: self.trust_domain.into(), namespace: namespace.into() }
    }
}

/// The type of a source or an exception, and the field that it needs, which is there.
fn type_of(node: &Node<'_>, report: &mut Report<'_>) -> Result<(&'static str, Option<&'static str>), Invalid> {
    node.required_text("type", report)?;
    let kind = node.one_of("type", &TYPES.map(|(name, _)| name), report)?;
    let found = TYPES.into_iter().find(|(name, _)| Some(*name) == kind).ok_or(Invalid)?;
    match found.1.filter(|field| node.get(field).is_none()) {
        None => Ok(found),
        Some(field) => {
            let what = format!("a source of type {} needs `{field}`", found.0);
            Err(node.invalid(field, what, "write it", report))
        }
    }
}

/// A network. One of IPv4 that is written as IPv6 is one of IPv4, as the address of a caller is.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let network: IpNet = text.parse().ok()?;
    let mapped = match network {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let mapped = mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    Some(mapped.map_or(network, IpNet::V4).trunc())
}
