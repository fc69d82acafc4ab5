//! Whom to believe: trust anchors by the trust domain that they are for.
//!
//! An anchor vouches for identities of its own domain and of no other: whoever holds the key of one cannot name a workload of
//! another (SPIFFE Trust Domain and Bundle, section 4). A domain without anchors here is believed nothing.

use std::collections::BTreeMap;

use mesh_policy::Identity;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

/// Roots of one trust domain: a rotation needs two, several clusters of one domain a few.
pub const MAX_ROOTS: usize = 32;
/// Trust domains beside our own.
pub const MAX_OTHER_DOMAINS: usize = 64;
/// Roots of all domains together; each takes about half a kilobyte in every proxy.
pub const MAX_ROOTS_IN_ALL: usize = 256;

/// The roots that are trusted: at least one of our own domain.
#[derive(Clone, Debug)]
pub struct Roots {
    own: Box<str>,
    domains: BTreeMap<Box<str>, Vec<TrustAnchor<'static>>>,
}

impl Roots {
    /// Our own domain and its roots. A certificate that cannot be read refuses the whole bundle, as does one root too many:
    /// half of a bundle is an outage.
    pub fn new(own: &str, roots: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut new = Self { own: own.into(), domains: BTreeMap::new() };
        new.insert(own, roots)?;
        Ok(new)
    }

    /// The same, and another domain's.
    pub fn with(mut self, domain: &str, roots: &[CertificateDer<'_>]) -> Result<Self, String> {
        if *domain == *self.own || self.domains.contains_key(domain) {
            return Err(format!("the trust domain {domain} is there twice"));
        }
        if !Identity::is_trust_domain(domain) {
            return Err(format!("{domain:?} is no trust domain"));
        }
        if self.domains.len() > MAX_OTHER_DOMAINS {
            return Err(format!("more than {MAX_OTHER_DOMAINS} trust domains beside our own"));
        }
        self.insert(domain, roots)?;
        Ok(self)
    }

    /// The same, with other roots of our own domain.
    pub(crate) fn with_own(mut self, roots: &[CertificateDer<'_>]) -> Result<Self, String> {
        let own = self.own.clone();
        self.insert(&own, roots)?;
        Ok(self)
    }

    fn insert(&mut self, domain: &str, roots: &[CertificateDer<'_>]) -> Result<(), String> {
        let of = |what: String| if *domain == *self.own { what } else { format!("of {domain}: {what}") };
        if roots.is_empty() {
            return Err(of("there is no certificate in it".to_owned()));
        }
        if roots.len() > MAX_ROOTS {
            return Err(of(format!("{} roots, more than {MAX_ROOTS}", roots.len())));
        }
        let anchor = |der: &CertificateDer<'_>| Ok(anchor_from_trusted_cert(der)?.to_owned());
        let anchors: Result<_, webpki::Error> = roots.iter().map(anchor).collect();
        self.domains.insert(domain.into(), anchors.map_err(|error| of(error.to_string()))?);
        if self.domains.values().map(Vec::len).sum::<usize>() > MAX_ROOTS_IN_ALL {
            return Err(format!("more than {MAX_ROOTS_IN_ALL} roots in all"));
        }
        Ok(())
    }

    /// Our own trust domain.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The anchors that vouch for a domain; none for one that is not trusted.
    pub(crate) fn of(&self, domain: &str) -> &[TrustAnchor<'static>] {
        self.domains.get(domain).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tls::tests::certificate;

    #[test]
    fn half_a_bundle_is_refused() {
        let root = certificate(&["spiffe://cluster.local"]);
        let own = |roots: &[CertificateDer<'_>]| Roots::new("cluster.local", roots);
        own(&[root.clone(), root.clone()]).unwrap();
        let refused = |certificates: &[CertificateDer<'_>]| own(certificates).unwrap_err();
        assert!(refused(&[]).contains("no certificate"));
        assert!(refused(&vec![root.clone(); MAX_ROOTS + 1]).contains("33 roots"));
        refused(&[root.clone(), CertificateDer::from(vec![0x30, 0])]);
        let both = own(std::slice::from_ref(&root)).unwrap().with("east.example", std::slice::from_ref(&root)).unwrap();
        assert_eq!(
            (both.of("cluster.local").len(), both.of("east.example").len(), both.of("example").len()),
            (1, 1, 0)
        );
        for (domain, roots) in [
            ("cluster.local", vec![root.clone()]),
            ("east.example", vec![root.clone()]),
            ("East.example", vec![root.clone()]),
            ("", vec![root.clone()]),
            ("west.example", vec![]),
            ("west.example", vec![CertificateDer::from(vec![0x30, 0])]),
        ] {
            assert!(both.clone().with(domain, &roots).is_err(), "{domain:?}");
        }
    }

    #[test]
    fn domains_are_bounded_in_number_and_in_all() {
        let root = certificate(&["spiffe://cluster.local"]);
        let grown = |count: usize, each: usize| {
            (0..count).try_fold(Roots::new("cluster.local", std::slice::from_ref(&root))?, |roots, n| {
                roots.with(&format!("d{n}"), &vec![root.clone(); each])
            })
        };
        grown(MAX_OTHER_DOMAINS, 1).unwrap();
        assert!(grown(MAX_OTHER_DOMAINS + 1, 1).unwrap_err().contains("trust domains"));
        assert!(grown(8, MAX_ROOTS).unwrap_err().contains("256 roots"));
    }
}
