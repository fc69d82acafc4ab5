//! Callers: those that a rule matches, and those that it excludes.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use crate::{Identity, facts::ConnectionFacts};

/// One alternative of a rule: a caller for which all of `all` hold and none of `except`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// All must hold. Empty: anyone.
    pub all: Vec<Principal>,
    /// None may hold.
    ///
    /// A caller that lacks what an exception compares is in doubt: one without identity is not "other than shop/x". So an
    /// ALLOW does not let it in, and a DENY refuses it.
    pub except: Vec<Principal>,
}

/// One property of a caller. It is proved by a certificate, or it is the address of the connection; never a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Exactly this identity.
    Identity(Identity),
    /// Any identity of a namespace of a trust domain.
    Namespace {
        /// The trust domain.
        trust_domain: Arc<str>,
        /// The namespace.
        namespace: Arc<str>,
    },
    /// Any identity of a trust domain.
    TrustDomain(Arc<str>),
    /// Any verified identity.
    Authenticated,
    /// No verified identity: plain text, or the application's own TLS.
    Unauthenticated,
    /// The source address of the connection.
    Cidr(IpNet),
}

/// Whether a caller has a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Yes,
    No,
    /// The caller has no value to compare.
    Lacking,
}

impl Source {
    /// Whether the caller matches. `doubt` is the result for a caller in doubt: false in an ALLOW, true in a DENY.
    pub(super) fn holds(&self, facts: &ConnectionFacts<'_>, doubt: bool) -> bool {
        self.all.iter().all(|principal| principal.known(facts) == Known::Yes)
            && self.except.iter().all(|principal| match principal.known(facts) {
                Known::Yes => false,
                Known::No => true,
                Known::Lacking => doubt,
            })
    }
}

impl Principal {
    fn known(&self, facts: &ConnectionFacts<'_>) -> Known {
        let of_identity = |holds: fn(&Self, &Identity) -> bool| match facts.client {
            Some(client) if holds(self, client) => Known::Yes,
            Some(_) => Known::No,
            None => Known::Lacking,
        };
        let of = |holds| if holds { Known::Yes } else { Known::No };
        match self {
            Self::Identity(_) | Self::Namespace { .. } | Self::TrustDomain(_) => of_identity(Self::is_of),
            Self::Authenticated => of(facts.client.is_some()),
            Self::Unauthenticated => of(facts.client.is_none()),
            // A dual-stack socket shows IPv4 callers as IPv6.
            Self::Cidr(network) => of(network.contains(&facts.source.to_canonical())),
        }
    }

    fn is_of(&self, client: &Identity) -> bool {
        match self {
            Self::Identity(identity) => identity == client,
            Self::Namespace { trust_domain, namespace } => {
                client.trust_domain() == &**trust_domain && client.namespace() == &**namespace
            }
            Self::TrustDomain(trust_domain) => client.trust_domain() == &**trust_domain,
            Self::Authenticated | Self::Unauthenticated | Self::Cidr(_) => false,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(identity) => write!(f, "{identity}"),
            Self::Namespace { trust_domain, namespace } => write!(f, "namespace {namespace} of {trust_domain}"),
            Self::TrustDomain(trust_domain) => write!(f, "trust domain {trust_domain}"),
            Self::Authenticated => f.write_str("any identity"),
            Self::Unauthenticated => f.write_str("no identity"),
            Self::Cidr(network) => write!(f, "{network}"),
        }
    }
}

impl fmt::Display for Source {
    /// In one line: `namespace shop of cluster.local, not spiffe://...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all.is_empty() {
            f.write_str("anyone")?;
        }
        for (i, principal) in self.all.iter().enumerate() {
            write!(f, "{}{principal}", if i > 0 { ", " } else { "" })?;
        }
        self.except.iter().try_for_each(|principal| write!(f, ", not {principal}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exceptions_are_closed_to_callers_in_doubt() {
        let web = Identity::new("cluster.local", "shop", "web").unwrap();
        let other = Identity::new("cluster.local", "bank", "web").unwrap();
        let foreign = Identity::new("east.example", "shop", "web").unwrap();
        let cidr = |text: &str| Principal::Cidr(text.parse().unwrap());
        let namespace = || Principal::Namespace { trust_domain: "cluster.local".into(), namespace: "shop".into() };
        let source = |all: Vec<Principal>, except: Vec<Principal>| Source { all, except };
        // For an ALLOW and for a DENY: shop/web, bank/web, shop/web of another trust domain, a caller without identity.
        for (source, allow, deny) in [
            (source(vec![], vec![]), [true; 4], [true; 4]),
            (
                source(vec![Principal::Identity(web.clone())], vec![]),
                [true, false, false, false],
                [true, false, false, false],
            ),
            (source(vec![namespace()], vec![]), [true, false, false, false], [true, false, false, false]),
            (source(vec![], vec![namespace()]), [false, true, true, false], [false, true, true, true]),
            (
                source(vec![Principal::Authenticated], vec![Principal::Identity(web.clone())]),
                [false, true, true, false],
                [false, true, true, false],
            ),
            (
                source(vec![Principal::Unauthenticated], vec![]),
                [false, false, false, true],
                [false, false, false, true],
            ),
            (source(vec![Principal::Unauthenticated], vec![cidr("10.0.0.0/8")]), [false; 4], [false; 4]),
            (
                source(vec![Principal::TrustDomain("cluster.local".into()), cidr("10.1.0.0/16")], vec![]),
                [true, true, false, false],
                [true, true, false, false],
            ),
            (source(vec![], vec![cidr("10.2.0.0/16")]), [true; 4], [true; 4]),
        ] {
            for (doubt, expected) in [(false, allow), (true, deny)] {
                let held = [Some(&web), Some(&other), Some(&foreign), None].map(|client| {
                    let facts = ConnectionFacts { client, source: "::ffff:10.1.2.3".parse().unwrap(), port: 80 };
                    source.holds(&facts, doubt)
                });
                assert_eq!(held, expected, "{source}, in doubt {doubt}");
            }
        }
    }
}
