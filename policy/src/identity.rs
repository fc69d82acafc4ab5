//! Workload identities: SPIFFE IDs of the one form that Mesh issues.
//!
//! It parses and compares; it never verifies a certificate (the proxy's `tls` does).

use std::{fmt, sync::Arc};

use crate::name::{is_label, is_subdomain};

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` (SPIFFE-ID, section 2).
///
/// Compared byte for byte, never by pattern. Cloning is a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<str>);

/// Why a text is not an [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The text does not start with `spiffe://`.
    Scheme,
    /// The trust domain is empty, too long (255 bytes) or has a character outside `[a-z0-9._-]` (SPIFFE-ID 2.1).
    TrustDomain,
    /// The path is not `/ns/<namespace>/sa/<service account>` with two Kubernetes names.
    Path,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "an identity starts with spiffe://",
            Self::TrustDomain => "the trust domain must be 1 to 255 of a-z 0-9 . _ -",
            Self::Path => "the path must be /ns/<namespace>/sa/<service account>",
        })
    }
}

impl std::error::Error for IdentityError {}

impl Identity {
    /// Makes the identity of a service account. Errors when a part is not a name that Kubernetes allows.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        Self::parse(&format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// Reads an identity from the text of a URI SAN.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let rest = text.strip_prefix("spiffe://").ok_or(IdentityError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(IdentityError::Path)?;
        if !Self::is_trust_domain(domain) {
            return Err(IdentityError::TrustDomain);
        }
        let mut parts = path.split('/');
        let shape = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        match shape {
            (Some("ns"), Some(ns), Some("sa"), Some(sa), None) if is_label(ns) && is_subdomain(sa) => {
                Ok(Self(text.into()))
            }
            _ => Err(IdentityError::Path),
        }
    }

    /// Whether a text can be the name of a trust domain (SPIFFE-ID 2.1).
    pub fn is_trust_domain(text: &str) -> bool {
        (1..=255).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    }

    /// The whole SPIFFE ID.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain, `cluster.local` by default.
    pub fn trust_domain(&self) -> &str {
        self.part(2)
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        self.part(4)
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        self.part(6)
    }

    /// The n-th piece between slashes; the shape was checked when the identity was made.
    fn part(&self, n: usize) -> &str {
        self.0.split('/').nth(n).unwrap_or_default()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn parts_are_read_back() {
        let id = Identity::new("cluster.local", "shop", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", "shop", "web"));
    }

    #[test]
    fn anything_else_is_refused() {
        for (text, why) in [
            ("http://cluster.local/ns/a/sa/b", IdentityError::Scheme),
            ("spiffe:///ns/a/sa/b", IdentityError::TrustDomain),
            ("spiffe://Cluster/ns/a/sa/b", IdentityError::TrustDomain),
            ("spiffe://c.l", IdentityError::Path),
            ("spiffe://c.l/ns/a/sa/b/", IdentityError::Path),
            ("spiffe://c.l/ns//sa/b", IdentityError::Path),
            ("spiffe://c.l/ns/a/sa/b\0evil", IdentityError::Path),
            ("spiffe://c.l/ns/a/sa/../b", IdentityError::Path),
            ("spiffe://c.l/ns/a/sa/b?x=1", IdentityError::Path),
        ] {
            assert_eq!(Identity::parse(text), Err(why), "{text}");
        }
    }
}
