//! Admission policies: what holds the control plane's accounts to what they must do, where RBAC cannot.

use std::sync::Arc;

use mesh_policy::well_known::{MESH_IDENTITY, MESH_INJECTOR};
use serde_json::{Value, json};

use super::{
    Check, Context, Finding, Outcome, When,
    control_plane::may,
    kubernetes::{attributes, numbers},
    names, page,
};
use crate::{
    chart,
    kube::{ClusterError, value},
};

/// From this API server on, ValidatingAdmissionPolicies are served in `v1`.
const ADMISSION_POLICIES: (u64, u64) = (1, 30);
const GROUP: &str = "admissionregistration.k8s.io";

pub(super) static CHECKS: &[Check] = &[
    Check {
        id: "kubernetes-admission-policies",
        area: "Kubernetes",
        what: "the API server knows ValidatingAdmissionPolicy",
        why: "by such policies the control plane's accounts are held to what they must do; where they are not known they cannot be applied",
        fix: "meshctl install --set admissionPolicies.enabled=false | kubectl apply -f -",
        page: page!("kubernetes-admission-policies"),
        when: &[When::Pre],
        after: &["kubernetes-api"],
        run: |context| Box::pin(known(context)),
    },
    Check {
        id: "control-plane-admission-policies",
        area: "Control plane",
        what: "the control plane's accounts are held to what they must do",
        why: "without its admission policy, whoever has a pod of mesh-identity may turn the webhook on every object of the cluster",
        fix: "meshctl upgrade | kubectl apply -f -",
        page: page!("control-plane-admission-policies"),
        when: &[When::Installed],
        after: &["control-plane-namespace"],
        run: |context| Box::pin(held(context)),
    },
];

async fn known(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let version = context.cluster.get("/version").await?;
    let found = value::text(&version, "/gitVersion");
    Ok(match numbers(found) {
        Some(version) if version < ADMISSION_POLICIES => Outcome::warn(format!(
            "Kubernetes {found} does not know ValidatingAdmissionPolicy in v1, which came with {}.{}",
            ADMISSION_POLICIES.0, ADMISSION_POLICIES.1
        )),
        _ => Outcome::pass("ValidatingAdmissionPolicy is known"),
    })
}

async fn held(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let rendered = match chart::render(chart::largest()) {
        Ok(rendered) => rendered,
        Err(error) => return Ok(Outcome::skip(format!("the chart cannot be rendered: {error}"))),
    };
    let ours = rendered.iter().map(|manifest| &manifest.object);
    let (mut wrong, mut there) = (Vec::new(), 0);
    for ours in ours.filter(|object| value::text(object, "/kind").starts_with("ValidatingAdmissionPolicy")) {
        let title = format!("{} {}", value::text(ours, "/kind"), value::name(ours));
        let Some(place) = chart::object_path(ours) else { continue };
        let Some(found) = context.cluster.find(&place).await? else {
            wrong.push(format!("there is no {title}"));
            continue;
        };
        there += 1;
        // What another version wrote may differ; `control-plane-version` reports that.
        let is_of_ours = value::label(&found, "app.kubernetes.io/version") == context.version;
        if is_of_ours && !says_the_same(&ours["spec"], &found["spec"]) {
            wrong.push(format!("{title} is not as it was made"));
        }
    }
    let patch = attributes("patch", GROUP, "mutatingwebhookconfigurations", MESH_INJECTOR, false);
    if there == 0 && !may(&context, MESH_IDENTITY, &patch).await? {
        return Ok(Outcome::pass(format!(
            "there are no admission policies (admissionPolicies.enabled is false), and {MESH_IDENTITY} may not change the webhook"
        )));
    }
    Ok(match wrong.as_slice() {
        [] => Outcome::pass("identity, destination and injector are held to what they must do by admission policies"),
        wrong => Outcome::Fail(Finding::from(names(wrong))),
    })
}

/// Whether a spec says what ours says; what the API server adds where nothing was written changes nothing.
fn says_the_same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.iter().all(|(key, ours)| theirs.get(key).is_some_and(|theirs| says_the_same(ours, theirs)))
                && theirs.iter().all(|(key, theirs)| ours.contains_key(key) || is_default(theirs))
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| says_the_same(ours, theirs))
        }
        (ours, theirs) => ours == theirs,
    }
}

/// What the API server fills in (`matchPolicy`, `scope`, selectors), and what is as good as absent.
fn is_default(value: &Value) -> bool {
    [json!(null), json!({}), json!([]), json!("Equivalent"), json!("*")].contains(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn defaults_change_nothing_and_everything_else_does() {
        let ours =
            json!({"matchConstraints": {"resourceRules": [{"resources": ["leases"]}]}, "validationActions": ["Deny"]});
        let mut theirs = ours.clone();
        theirs["matchConstraints"]["matchPolicy"] = json!("Equivalent");
        theirs["matchConstraints"]["namespaceSelector"] = json!({});
        theirs["matchConstraints"]["resourceRules"][0]["scope"] = json!("*");
        assert!(says_the_same(&ours, &theirs));
        for (place, other) in [
            ("/validationActions", json!(["Audit"])),
            ("/validationActions", json!(["Deny", "Audit"])),
            ("/matchConstraints/namespaceSelector", json!({"matchLabels": {"a": "b"}})),
            ("/matchConstraints/resourceRules/0/scope", json!("Cluster")),
            ("/matchConstraints/resourceRules", json!([])),
        ] {
            let mut changed = theirs.clone();
            *changed.pointer_mut(place).unwrap() = other;
            assert!(!says_the_same(&ours, &changed), "{place}");
        }
    }
}
