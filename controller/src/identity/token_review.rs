//! Who a ServiceAccount token stands for, by the API server's word (TokenReview).
//!
//! Only a token of our audience that is bound to a pod counts. The API server checks its signature, its end, and that
//! pod and service account still exist; here it is checked that the pod is the very one, runs as that service account,
//! has not ended, and is meshed. Processes of the control plane need no sidecar. Nothing is remembered between two
//! calls: whoever is deleted gets nothing more.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::{Api, Client, api::PostParams};
use mesh_policy::{
    Identity,
    well_known::{INJECT_LABEL, MESH_DESTINATION, MESH_IDENTITY, MESH_INJECTOR, PROXY_CONTAINER, TOKEN_AUDIENCE},
};
use serde::Deserialize;

use crate::{
    identity::{
        review_limit::ReviewLimit,
        token::MAX_TOKEN_BYTES,
        verifier::{Refusal, Subject, TokenVerifier, injector_dns_name},
    },
    kube::named::describe,
};

/// ServiceAccounts of our own namespace whose pods get certificates without a sidecar.
const CONTROL_PLANE: [&str; 2] = [MESH_DESTINATION, MESH_INJECTOR];
/// Longest check of one token, waiting for its turn included; the proxy asks again soon after.
const LIMIT: Duration = Duration::from_secs(8);
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API server.
pub(crate) struct KubeVerifier {
    reviews: Api<TokenReview>,
    client: Client,
    /// Of the control plane.
    namespace: String,
    trust_domain: Arc<str>,
    limit: ReviewLimit,
}

impl std::fmt::Debug for KubeVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeVerifier").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl KubeVerifier {
    /// `namespace` is the control plane's.
    pub(crate) fn new(client: Client, namespace: &str, trust_domain: Arc<str>) -> Self {
        let reviews = Api::all(client.clone());
        Self { reviews, client, namespace: namespace.to_owned(), trust_domain, limit: ReviewLimit::default() }
    }
}

#[tonic::async_trait]
impl TokenVerifier for KubeVerifier {
    async fn verify(&self, token: &str, peer: Option<IpAddr>) -> Result<Subject, Refusal> {
        // Rubbish costs the API server nothing.
        check_shape(token)?;
        let late = || {
            let what = format!("the token could not be checked within {LIMIT:?}: the API server or identity is busy");
            Refusal::Unavailable(format!("{what}; ask again"))
        };
        let checking = async {
            let _turn = self.limit.enter(peer).await.map_err(Refusal::Unavailable)?;
            self.check(token).await
        };
        tokio::time::timeout(LIMIT, checking).await.unwrap_or_else(|_| Err(late()))
    }
}

impl KubeVerifier {
    async fn check(&self, token: &str) -> Result<Subject, Refusal> {
        let spec = TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.reviews.create(&PostParams::default(), &review).await.map_err(|error| unavailable(&error))?;
        let bound = bound(answer)?;
        let is_control_plane =
            bound.namespace == self.namespace && CONTROL_PLANE.contains(&bound.service_account.as_str());
        let pod = self.pod(&bound).await?;
        check_pod(&bound, &pod, is_control_plane)?;
        let identity = Identity::new(&self.trust_domain, &bound.namespace, &bound.service_account)
            .map_err(|error| Refusal::Denied(format!("the service account cannot be an identity: {error}")))?;
        let is_injector = is_control_plane && bound.service_account == MESH_INJECTOR;
        let dns_name = is_injector.then(|| injector_dns_name(&self.namespace));
        Ok(Subject { identity, dns_name, workload: bound.workload() })
    }

    async fn pod(&self, bound: &Bound) -> Result<Pod, Refusal> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", bound.namespace, bound.pod);
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|error| Refusal::Denied(format!("the pod's name is none: {error}")))?;
        match self.client.request(request).await {
            Ok(pod) => Ok(pod),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(gone(bound)),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

/// Refuses what cannot be a token: three parts of base64url, and not too long.
fn check_shape(token: &str) -> Result<(), Refusal> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if token.len() <= MAX_TOKEN_BYTES && token.split('.').count() == 3 && token.split('.').all(is_part) {
        return Ok(());
    }
    Err(Refusal::Token("that is not a ServiceAccount token; send the file MESH_TOKEN_FILE as it is".to_owned()))
}

/// What a good token is bound to.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    namespace: String,
    service_account: String,
    pod: String,
    uid: String,
}

impl Bound {
    fn workload(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }
}

/// Reads the API server's answer.
fn bound(answer: TokenReview) -> Result<Bound, Refusal> {
    let status = answer.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        let why = status.error.unwrap_or_else(|| "no reason given".to_owned());
        return Err(Refusal::Token(format!(
            "the API server does not accept the token ({why}); it must be a projected one, for the audience {TOKEN_AUDIENCE}, \
             of a pod that still exists"
        )));
    }
    // An API server that knows no audiences answers with none: then the token may be for anyone.
    if !status.audiences.unwrap_or_default().iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(Refusal::Token(format!("the token is not for the audience {TOKEN_AUDIENCE}")));
    }
    let user = status.user.unwrap_or_default();
    let account = user.username.as_deref().and_then(service_account);
    let Some((namespace, service_account)) = account else {
        return Err(Refusal::Denied("the token is not of a service account".to_owned()));
    };
    let (Some(pod), Some(uid)) = (extra(&user, POD_NAME), extra(&user, POD_UID)) else {
        return Err(Refusal::Denied(format!(
            "the token of {namespace}/{service_account} is not bound to a pod; use the projected token of the pod"
        )));
    };
    Ok(Bound { namespace, service_account, pod, uid })
}

/// `system:serviceaccount:NAMESPACE:NAME`. Both become part of a path and of an identity.
fn service_account(username: &str) -> Option<(String, String)> {
    let (namespace, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let are_names = mesh_policy::name::is_label(namespace) && mesh_policy::name::is_subdomain(name);
    are_names.then(|| (namespace.to_owned(), name.to_owned()))
}

/// The one value of a claim.
fn extra(user: &UserInfo, key: &str) -> Option<String> {
    match user.extra.as_ref().unwrap_or(&BTreeMap::new()).get(key)?.as_slice() {
        [value] if mesh_policy::name::is_subdomain(value) => Some(value.clone()),
        _ => None,
    }
}

/// As much of a pod as is looked at.
#[derive(Debug, Default, Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    service_account_name: String,
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
struct Container {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
}

fn check_pod(bound: &Bound, pod: &Pod, is_control_plane: bool) -> Result<(), Refusal> {
    // Another of the same name took its place.
    if pod.metadata.uid != bound.uid {
        return Err(gone(bound));
    }
    if pod.spec.service_account_name != bound.service_account {
        return Err(Refusal::Denied(format!(
            "the token is for the service account {}, but the pod {} runs as {}",
            bound.service_account,
            bound.workload(),
            pod.spec.service_account_name
        )));
    }
    if ["Succeeded", "Failed"].contains(&pod.status.phase.as_str()) {
        return Err(Refusal::Denied(format!("the pod {} has ended ({})", bound.workload(), pod.status.phase)));
    }
    let is_meshed = pod.spec.containers.iter().chain(&pod.spec.init_containers).any(|c| c.name == PROXY_CONTAINER);
    if !is_meshed && !is_control_plane {
        return Err(Refusal::Denied(format!(
            "the pod {} is not meshed (it has no container {PROXY_CONTAINER}); label it {INJECT_LABEL}: enabled and start it \
             anew",
            bound.workload()
        )));
    }
    Ok(())
}

fn gone(bound: &Bound) -> Refusal {
    Refusal::Denied(format!("the token is bound to the pod {}, which does not exist (any more)", bound.workload()))
}

/// The caller, who has proved nothing yet, is told to ask again; the log says what is wrong, for it may be a missing right.
fn unavailable(error: &kube::Error) -> Refusal {
    if let kube::Error::Api(status) = error
        && status.code == 403
    {
        tracing::error!(
            "{}; give the ServiceAccount {MESH_IDENTITY} the rights of the chart's ClusterRole {MESH_IDENTITY}",
            status.message
        );
    } else {
        tracing::warn!("a token cannot be checked now: {}", describe(error));
    }
    Refusal::Unavailable("the token cannot be checked now; ask again".to_owned())
}

#[cfg(test)]
mod tests;
