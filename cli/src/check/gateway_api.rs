//! The Gateway API: whether routes can be written, in a version that Mesh reads.

use std::sync::Arc;

use serde_json::Value;

use super::{Check, Context, Finding, Outcome, When, kubernetes::numbers, names, page};
use crate::kube::{ClusterError, value};

const AREA: &str = "Gateway API";
const GROUP: &str = "gateway.networking.k8s.io";
/// Routes for meshes, GRPCRoute among them, are stable from this release on.
const OLDEST: (u64, u64) = (1, 1);
/// The kinds that Mesh reads, with the version that it reads.
const KINDS: [(&str, &str); 3] = [("httproutes", "v1"), ("grpcroutes", "v1"), ("referencegrants", "v1beta1")];
/// Group of the kinds that Mesh brings.
const OURS: &str = "policy.meshctl.dev";
const MEND: &str = "meshctl install --gateway-api-crds | kubectl apply --server-side -f -";

pub(super) static CHECKS: &[Check] = &[
    Check {
        id: "gateway-api-present",
        area: AREA,
        what: "the Gateway API is there",
        why: "routes (weights, retries, rewrites) are written as its HTTPRoute and GRPCRoute; without it traffic is only encrypted and balanced",
        mend: MEND,
        page: page!("gateway-api-present"),
        when: &[When::Pre, When::Installed],
        after: &["kubernetes-api"],
        run: |context| Box::pin(present(context)),
    },
    Check {
        id: "gateway-api-served",
        area: AREA,
        what: "every kind of the Gateway API and of Mesh is served",
        why: "objects of a kind that is not served, or in another version, are not seen by anyone",
        mend: "kubectl get crd",
        page: page!("gateway-api-served"),
        when: &[When::Pre, When::Installed],
        after: &["kubernetes-api"],
        run: |context| Box::pin(served(context)),
    },
];

async fn present(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let Some(routes) = definition(&context, "httproutes", GROUP).await? else {
        return Ok(Outcome::warn("there is no HTTPRoute here"));
    };
    let version = value::annotation(&routes, "gateway.networking.k8s.io/bundle-version");
    let channel = value::annotation(&routes, "gateway.networking.k8s.io/channel");
    Ok(match numbers(version) {
        None => Outcome::pass("the Gateway API is there, and does not say which version it is"),
        Some(found) if found < OLDEST => {
            Outcome::warn(format!("the Gateway API is {version}, older than {}.{}", OLDEST.0, OLDEST.1))
        }
        Some(_) => Outcome::pass(format!("Gateway API {version}, {channel} channel")),
    })
}

async fn served(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (resource, version) in KINDS {
        let Some(found) = definition(&context, resource, GROUP).await? else { continue };
        seen += 1;
        let versions = value::items(&found, "/spec/versions");
        let is_served = |v: &Value| value::text(v, "/name") == version && value::flag(v, "/served");
        if !versions.iter().any(is_served) {
            wrong.push(format!("{resource} is not served in version {version}"));
        }
        wrong.extend(unready(&found));
    }
    let ours = format!(".{OURS}");
    let all = context.cluster.list("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "").await?;
    for found in all.iter().filter(|found| value::name(found).ends_with(&ours)) {
        seen += 1;
        wrong.extend(unready(found));
    }
    Ok(match (wrong.as_slice(), seen) {
        ([], 0) => Outcome::skip("there are none"),
        ([], 1) => Outcome::pass("1 kind of the Gateway API and of Mesh is served"),
        ([], seen) => Outcome::pass(format!("{seen} kinds of the Gateway API and of Mesh are served")),
        (wrong, _) => Outcome::NotYet(Finding::mend(names(wrong), MEND)),
    })
}

/// Why a definition is not served, if so.
fn unready(definition: &Value) -> Option<String> {
    let name = value::name(definition);
    if value::condition(definition, "NamesAccepted") == "False" {
        return Some(format!("the names of {name} are taken by another definition"));
    }
    (value::condition(definition, "Established") != "True").then(|| format!("{name} is not established"))
}

async fn definition(context: &Context, resource: &str, group: &str) -> Result<Option<Value>, ClusterError> {
    context.cluster.find(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{resource}.{group}")).await
}
