//! Limits: what is left out because there is too much of it, by namespace.
//!
//! It reads `/problems` of a replica of mesh-destination.

use std::{collections::BTreeMap, sync::Arc};

use mesh_policy::well_known::{CONTROL_NAMESPACE, MESH_DESTINATION, PAGES_PORT};
use serde_json::Value;

use super::{Check, Context, Finding, Outcome, When, count, identity::ready_pod, names, page};
use crate::kube::{ClusterError, value};

/// Reasons of problems that say that something is over a limit.
const OVER: [&str; 2] = ["TooLarge", "TooManyRoutes"];

pub(super) static CHECKS: &[Check] = &[Check {
    id: "control-plane-limits",
    area: "Control plane",
    what: "nothing is left out because there is too much of it",
    why: "a route, a Service or a slice that is over a limit is not in force; what else its namespace has goes on",
    fix: "kubectl get --raw /api/v1/namespaces/mesh-system/pods/POD:4652/proxy/problems",
    page: page!("control-plane-limits"),
    when: &[When::Installed, When::Proxy],
    after: &["control-plane-pods"],
    run: |context| Box::pin(limits(context)),
}];

async fn limits(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let Some(pod) = ready_pod(&context, MESH_DESTINATION).await? else {
        return Ok(Outcome::skip(format!("no pod of {MESH_DESTINATION} is ready")));
    };
    let page = context.cluster.page(CONTROL_NAMESPACE, value::name(&pod), PAGES_PORT, "/problems").await?;
    let Ok(problems) = serde_json::from_slice::<Vec<Value>>(&page.body) else {
        return Ok(Outcome::skip(format!("/problems of {} is no list of problems", value::name(&pod))));
    };
    let mut over: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for problem in problems.iter().filter(|problem| OVER.contains(&value::text(problem, "/reason"))) {
        // `Kind namespace/name`.
        let object = value::text(problem, "/object");
        let namespace =
            object.split_once(' ').and_then(|(_, name)| name.split_once('/')).map_or("", |(space, _)| space);
        if context.scope.as_deref().is_none_or(|scope| scope == namespace) {
            let objects = over.entry(namespace).or_default();
            if !objects.contains(&object) {
                objects.push(object);
            }
        }
    }
    if over.is_empty() {
        return Ok(Outcome::pass("nothing is left out because there is too much of it"));
    }
    let of = |(namespace, objects): (&&str, &Vec<&str>)| {
        format!("{} of {namespace} ({})", count(objects.len(), "object"), names(objects))
    };
    let message = names(&over.iter().map(of).collect::<Vec<_>>());
    Ok(Outcome::Warn(Finding::with_fix(
        format!("over a limit: {message}"),
        format!(
            "kubectl get --raw /api/v1/namespaces/{CONTROL_NAMESPACE}/pods/{}:{PAGES_PORT}/proxy/problems",
            value::name(&pod)
        ),
    )))
}
