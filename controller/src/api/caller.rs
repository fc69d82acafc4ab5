//! Who calls: the identity from the verified client certificate, and whether the workload it claims is its own.

use mesh_policy::Identity;
use tonic::{Request, Status};

use crate::{api::server::PeerInfo, source::index::Published};

/// Longest `namespace/pod` or target of a request: two Kubernetes names or a host name, and a port.
pub(crate) const MAX_NAME_BYTES: usize = 512;

/// Who calls, on which connection.
pub(crate) fn peer<T>(request: &Request<T>) -> Result<PeerInfo, Status> {
    let peer = request.extensions().get::<PeerInfo>().cloned();
    peer.ok_or_else(|| Status::internal("the listener did not say who calls"))
}

/// The caller's identity. The listener lets no one in without; this is the one place that reads it.
pub(crate) fn identity<T>(request: &Request<T>) -> Result<Identity, Status> {
    request
        .extensions()
        .get::<PeerInfo>()
        .and_then(|peer| peer.identity.clone())
        .ok_or_else(|| Status::unauthenticated("this service needs a client certificate of the mesh"))
}

/// Checks that a pod runs as the caller's service account. One that is not known may be so new that this replica has not heard
/// of it yet: that is `UNAVAILABLE`, and another one may know it.
pub(crate) fn check_workload(published: &Published, caller: &Identity, workload: &str) -> Result<(), Status> {
    check_length("workload", workload)?;
    let pod = published.snapshot.pod(workload).ok_or_else(|| {
        Status::unavailable(format!(
            "no pod {workload:?} is known here; ask again, or correct MESH_WORKLOAD, the namespace/name of one"
        ))
    })?;
    // Whole, its trust domain included.
    match &pod.identity {
        Some(identity) if identity == caller => Ok(()),
        Some(identity) => Err(Status::permission_denied(format!(
            "the caller is {caller}, but the pod {workload} runs as the service account {}/{}, {identity}",
            pod.namespace, pod.service_account
        ))),
        None => Err(Status::permission_denied(format!("the pod {workload} is not meshed, so nobody may ask for it"))),
    }
}

/// Refuses names that nothing can have, before they are looked up or repeated.
pub(crate) fn check_length(field: &str, text: &str) -> Result<(), Status> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err(Status::invalid_argument(format!("{field} must have 1 to {MAX_NAME_BYTES} bytes")));
    }
    Ok(())
}
