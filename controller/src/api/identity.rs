//! The gRPC service `Identity`: certificates for those whose token proves who they are.
//!
//! The names in a certificate are those that the verifier read from the token, never any from the request.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use mesh_proto::v1::{self, identity_server};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::{
    api::{caller, server::PeerInfo},
    identity::{
        ca::{Authority, CaError},
        trust::{self, Bundle},
        verifier::{Refusal, TokenVerifier},
    },
    metrics::Metrics,
};

/// Issues certificates and tells whom to trust.
#[derive(Clone, Debug)]
pub(crate) struct IdentityService {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Checks tokens.
    pub verifier: Arc<dyn TokenVerifier>,
    /// The roots in force.
    pub bundle: watch::Receiver<Arc<Bundle>>,
    /// Ends streams.
    pub cancel: CancellationToken,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl identity_server::Identity for IdentityService {
    type TrustStream = Pin<Box<dyn Stream<Item = Result<v1::TrustBundle, Status>> + Send>>;

    async fn certify(&self, request: Request<v1::CertifyRequest>) -> Result<Response<v1::CertifyResponse>, Status> {
        match self.issue(&request).await {
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

    async fn trust(&self, request: Request<v1::TrustRequest>) -> Result<Response<Self::TrustStream>, Status> {
        let cancel = caller::peer(&request)?.begin_trust(&self.cancel);
        Ok(Response::new(Box::pin(trust::stream(self.bundle.clone(), cancel, &self.metrics))))
    }
}

impl IdentityService {
    async fn issue(&self, request: &Request<v1::CertifyRequest>) -> Result<v1::CertifyResponse, Status> {
        let peer = request.extensions().get::<PeerInfo>().map(|peer| peer.address.ip());
        let request = request.get_ref();
        let subject = self.verifier.verify(&request.token, peer).await.map_err(|refusal| match refusal {
            Refusal::Token(why) => Status::unauthenticated(why),
            Refusal::Denied(why) => Status::permission_denied(why),
            Refusal::Unavailable(why) => Status::unavailable(why),
        })?;
        let leaf = self.authority.sign_request(&request.csr_der, &subject.identity, subject.dns_name.as_deref());
        let leaf = leaf.map_err(|error| match error {
            CaError::Csr(_) => Status::invalid_argument(error.to_string()),
            // It will be served as soon as there is an issuer again.
            CaError::Ended => Status::unavailable(error.to_string()),
            CaError::Sign(_) => Status::internal(error.to_string()),
        })?;
        tracing::debug!("certificate for {}, pod {}", subject.identity, subject.workload);
        let chain_der = leaf.chain.iter().map(|certificate| certificate.to_vec()).collect();
        Ok(v1::CertifyResponse { chain_der, not_after: leaf.not_after })
    }
}
