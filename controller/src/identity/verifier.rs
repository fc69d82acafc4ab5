//! Who a token stands for: the question that [`TokenVerifier`] answers, and its answer from the local token authority.
//!
//! On a cluster the API server answers it (`token_review`). What a verifier says becomes the names in a
//! certificate; nothing that the caller claims elsewhere does.

use std::{fmt, net::IpAddr, sync::Arc};

use mesh_policy::{
    Identity,
    well_known::{INJECT_LABEL, MESH_INJECTOR},
};
use tokio::sync::watch;

use crate::{
    identity::token::{Claims, TokenAuthority},
    source::index::Published,
};

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The SPIFFE ID.
    pub identity: Identity,
    /// A DNS name for those that serve clients outside the mesh: the injector, which the API server calls.
    pub dns_name: Option<String>,
    /// `namespace/pod`, for the log.
    pub workload: String,
}

/// The DNS name by which the API server calls the injector; its certificate has it besides its SPIFFE ID.
pub(crate) fn injector_dns_name(namespace: &str) -> String {
    format!("{MESH_INJECTOR}.{namespace}.svc")
}

/// Why there is no subject.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The token proves nothing. The fault is the caller's.
    #[error("{0}")]
    Token(String),
    /// The token is good, but whoever it stands for gets no certificate.
    #[error("{0}")]
    Denied(String),
    /// Nobody can tell at present; asking again is safe. The fault is not the caller's.
    #[error("{0}")]
    Unavailable(String),
}

/// Checks tokens.
#[tonic::async_trait]
pub(crate) trait TokenVerifier: fmt::Debug + Send + Sync {
    /// Whom a token stands for. `peer` is where it came from, so that one caller cannot take everyone's turn.
    async fn verify(&self, token: &str, peer: Option<IpAddr>) -> Result<Subject, Refusal>;
}

/// Tokens of the local authority, and the pods of the folder.
#[derive(Clone, Debug)]
pub(crate) struct LocalVerifier {
    /// Checks signatures.
    pub tokens: Arc<TokenAuthority>,
    /// Which pods there are.
    pub index: watch::Receiver<Arc<Published>>,
    /// Trust domain of the identities.
    pub trust_domain: Arc<str>,
}

#[tonic::async_trait]
impl TokenVerifier for LocalVerifier {
    async fn verify(&self, token: &str, _: Option<IpAddr>) -> Result<Subject, Refusal> {
        let claims = self.tokens.verify(token).map_err(|e| Refusal::Token(e.to_string()))?;
        self.subject(&claims)
    }
}

impl LocalVerifier {
    /// The pod must still be there, be meshed and run as that service account.
    fn subject(&self, claims: &Claims) -> Result<Subject, Refusal> {
        let workload = format!("{}/{}", claims.namespace(), claims.pod());
        let published = self.index.borrow().clone();
        let pod = published.snapshot.pod(&workload).ok_or_else(|| {
            Refusal::Denied(format!("the token is bound to the pod {workload}, which does not exist (any more)"))
        })?;
        if &*pod.service_account != claims.service_account() {
            return Err(Refusal::Denied(format!(
                "the token is for the service account {}, but the pod {workload} runs as {}",
                claims.service_account(),
                pod.service_account
            )));
        }
        if !pod.is_meshed() {
            return Err(Refusal::Denied(format!("the pod {workload} is not meshed; label it {INJECT_LABEL}: enabled")));
        }
        let identity = Identity::new(&self.trust_domain, claims.namespace(), claims.service_account())
            .map_err(|e| Refusal::Denied(e.to_string()))?;
        Ok(Subject { identity, dns_name: None, workload })
    }
}
