//! The Gateway API: whether routes can be written, in a version that Mesh reads.

use std::sync::Arc;

use mesh_policy::well_known::{CONTROL_NAMESPACE, GATEWAY_GROUP, MESH_DESTINATION, POLICY_GROUP};
use mesh_resources::kinds::{KINDS, Kind, Version};
use serde_json::Value;

use super::{Check, Context, Finding, Outcome, When, kubernetes::numbers, names, page};
use crate::kube::{ClusterError, value};

const AREA: &str = "Gateway API";
/// The oldest release that Mesh is tried with.
const OLDEST: (u64, u64) = (1, 4);
const FIX: &str = "meshctl install --gateway-api-crds | kubectl apply --server-side -f -";
const FIX_OURS: &str = "meshctl upgrade | kubectl apply -f -";

pub(super) static CHECKS: &[Check] = &[
    Check {
        id: "gateway-api-present",
        area: AREA,
        what: "the Gateway API is there",
        why: "routes (weights, retries, rewrites) are written as its own kinds; without it traffic is only encrypted and balanced",
        fix: FIX,
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
        fix: "kubectl get crd",
        page: page!("gateway-api-served"),
        when: &[When::Pre, When::Installed],
        after: &["kubernetes-api"],
        run: |context| Box::pin(served(context)),
    },
];

async fn present(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let Some(routes) = definition(&context, "httproutes", GATEWAY_GROUP).await? else {
        return Ok(Outcome::warn("there is no HTTPRoute here"));
    };
    let version = value::annotation(&routes, "gateway.networking.k8s.io/bundle-version");
    let channel = value::annotation(&routes, "gateway.networking.k8s.io/channel");
    let mut absent = Vec::new();
    for Kind { plural, kind, .. } in of_group(GATEWAY_GROUP) {
        if definition(&context, plural, GATEWAY_GROUP).await?.is_none() {
            absent.push(*kind);
        }
    }
    // Older releases lack kinds, or have them in the experimental channel; whoever does not use them misses nothing.
    let without = if absent.is_empty() { String::new() } else { format!(", without {}", absent.join(", ")) };
    Ok(match numbers(version) {
        None => Outcome::pass(format!("the Gateway API is there{without}, and does not say which version it is")),
        Some(found) if found < OLDEST => Outcome::warn(format!(
            "the Gateway API is {version}, older than {}.{}, the oldest that Mesh is tried with",
            OLDEST.0, OLDEST.1
        )),
        Some(_) => Outcome::pass(format!("Gateway API {version}, {channel} channel{without}")),
    })
}

async fn served(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for Kind { plural, version, .. } in of_group(GATEWAY_GROUP) {
        let Version::Served(versions) = version else { continue };
        let Some(found) = definition(&context, plural, GATEWAY_GROUP).await? else { continue };
        seen += 1;
        let served = value::items(&found, "/spec/versions").iter().filter(|v| value::flag(v, "/served"));
        let served: Vec<_> = served.map(|version| value::text(version, "/name")).collect();
        if !versions.iter().any(|known| served.contains(known)) {
            let served = if served.is_empty() { "no version".to_owned() } else { served.join(", ") };
            wrong.push(format!("{plural} is served in {served}, and Mesh reads {}", versions.join(", ")));
        }
        wrong.extend(unready(&found));
    }
    let all = context.cluster.list("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "").await?;
    let ours = format!(".{POLICY_GROUP}");
    for found in all.iter().filter(|found| value::name(found).ends_with(&ours)) {
        seen += 1;
        wrong.extend(unready(found));
    }
    if !wrong.is_empty() {
        return Ok(Outcome::NotYet(Finding::with_fix(names(&wrong), FIX)));
    }
    // They come with an installation.
    let is_installed =
        context.object("apps", "v1", CONTROL_NAMESPACE, "deployments", MESH_DESTINATION).await?.is_some();
    let expected: Vec<String> = of_group(POLICY_GROUP).map(|kind| format!("{}{ours}", kind.plural)).collect();
    let missing: Vec<_> = expected.iter().filter(|name| !all.iter().any(|found| value::name(found) == *name)).collect();
    if let Some(first) = missing.first().filter(|_| is_installed) {
        let message = format!("there is no {first}: policies of that kind cannot be written");
        return Ok(Outcome::Warn(Finding::with_fix(message, FIX_OURS)));
    }
    Ok(match seen {
        0 => Outcome::skip("there are none"),
        1 => Outcome::pass("1 kind of the Gateway API and of Mesh is served"),
        seen => Outcome::pass(format!("{seen} kinds of the Gateway API and of Mesh are served")),
    })
}

/// The kinds that Mesh reads of a group.
fn of_group(group: &'static str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| kind.group == group)
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
