//! The gRPC service `Identity`: certificates for those whose token proves who they are.
//!
//! The names in a certificate come from the token and the pod it is bound to, never from the request.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use mesh_policy::Identity;
use mesh_proto::v1::{self, identity_server};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::{
    ca::{Authority, CaError},
    index::Published,
    metrics::Metrics,
    token::{Claims, TokenAuthority},
    trust::{self, Bundle},
};

/// Issues certificates and tells whom to trust.
#[derive(Clone, Debug)]
pub struct IdentityService {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Checks tokens.
    pub tokens: Arc<TokenAuthority>,
    /// Which pods there are.
    pub index: watch::Receiver<Arc<Published>>,
    /// The roots in force.
    pub bundle: watch::Receiver<Arc<Bundle>>,
    /// Trust domain of the identities.
    pub trust_domain: Arc<str>,
    /// Ends streams.
    pub cancel: CancellationToken,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl identity_server::Identity for IdentityService {
    type TrustStream = Pin<Box<dyn Stream<Item = Result<v1::TrustBundle, Status>> + Send>>;

    async fn certify(&self, request: Request<v1::CertifyRequest>) -> Result<Response<v1::CertifyResponse>, Status> {
        match self.issue(request.get_ref()) {
            Ok(response) => {
                self.metrics.certificates_issued.increment(1);
                Ok(Response::new(response))
            }
            Err(status) => {
                self.metrics.certificates_refused.increment(1);
                // Anyone can send rubbish, so that must not fill the log; a good token that is refused is worth a line.
                if status.code() == Code::Unauthenticated {
                    tracing::debug!("refused a certificate: {}", status.message());
                } else {
                    tracing::warn!("refused a certificate: {}", status.message());
                }
                Err(status)
            }
        }
    }

    async fn trust(&self, _: Request<v1::TrustRequest>) -> Result<Response<Self::TrustStream>, Status> {
        Ok(Response::new(Box::pin(trust::stream(self.bundle.clone(), self.cancel.clone(), &self.metrics))))
    }
}

impl IdentityService {
    fn issue(&self, request: &v1::CertifyRequest) -> Result<v1::CertifyResponse, Status> {
        let claims = self.tokens.verify(&request.token).map_err(|e| Status::unauthenticated(e.to_string()))?;
        let identity = self.identity_of(&claims)?;
        let leaf = self.authority.sign_request(&request.csr_der, &identity).map_err(|error| match error {
            CaError::Csr(_) => Status::invalid_argument(error.to_string()),
            other => Status::internal(other.to_string()),
        })?;
        tracing::debug!("certificate for {identity}, pod {}/{}", claims.namespace(), claims.pod());
        Ok(v1::CertifyResponse { chain_der: vec![leaf.der.to_vec()], not_after: leaf.not_after })
    }

    /// The identity that a token stands for: its pod must still be there, be meshed and run as that service account.
    fn identity_of(&self, claims: &Claims) -> Result<Identity, Status> {
        let workload = format!("{}/{}", claims.namespace(), claims.pod());
        let world = self.index.borrow().clone();
        let pod = world.snapshot.pod(&workload).ok_or_else(|| {
            Status::permission_denied(format!(
                "the token is bound to the pod {workload}, which does not exist (any more)"
            ))
        })?;
        if &*pod.service_account != claims.service_account() {
            return Err(Status::permission_denied(format!(
                "the token is for the service account {}, but the pod {workload} runs as {}",
                claims.service_account(),
                pod.service_account
            )));
        }
        if !pod.is_meshed() {
            return Err(Status::permission_denied(format!(
                "the pod {workload} is not meshed; label it meshctl.dev/inject: enabled"
            )));
        }
        Identity::new(&self.trust_domain, claims.namespace(), claims.service_account())
            .map_err(|e| Status::permission_denied(e.to_string()))
    }
}
