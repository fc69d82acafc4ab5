//! AdmissionReview v1: what the API server asks, and what it is answered. Pure: bytes in, bytes and facts out.
//!
//! Decoded by hand, with the pod as dynamic JSON, so that no field of a newer Kubernetes is lost on the way.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    config::Config,
    patch::{NamespaceFacts, Outcome, inject},
    pod::name_of,
    refusal::Refusal,
    secret::Secrets,
    skip::Skip,
};

/// Longest warning: the API server cuts longer ones (RFC 7234 headers carry them).
const MAX_WARNING: usize = 250;
/// Longest message of a refusal; it is repeated in Events of the pod's owner, which take 1 KiB.
const MAX_MESSAGE: usize = 900;

/// The answer, and what else is to be known of it.
#[derive(Debug)]
pub struct Review {
    /// The AdmissionReview to answer with (JSON).
    pub body: Vec<u8>,
    /// What was decided.
    pub verdict: Verdict,
    /// What people should find with `kubectl get events`. None on dry runs: they have no side effects.
    pub note: Option<Note>,
}

/// What was decided, for metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod gains the sidecar.
    Injected,
    /// The pod stays as it is.
    Skipped(Skip),
    /// The pod is refused.
    Refused(Refusal),
    /// It is no pod that is made.
    NotAPod,
}

/// Something to tell about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Namespace of the object.
    pub namespace: String,
    /// Whom it is about: the pod's owner, since pods of controllers have no name yet; else the pod.
    pub object: ObjectReference,
    /// Why the pod is left alone.
    pub skip: Skip,
}

/// An object, as Events name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectReference {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name; of a pod that has none yet, the beginning of it.
    pub name: String,
    /// Its uid, if it has one already.
    pub uid: Option<String>,
}

/// A request that is no AdmissionReview; the API server then does what the webhook's failurePolicy says.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// No JSON of the right shape.
    #[error("the request is no AdmissionReview: {0}")]
    Shape(#[from] serde_json::Error),
    /// Another version than is served.
    #[error("{0:?} is not served, only admission.k8s.io/v1; set admissionReviewVersions: [v1] in the webhook")]
    Version(String),
    /// There is nothing to review.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReviewRequest {
    #[serde(default)]
    api_version: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    dry_run: Option<bool>,
    #[serde(default)]
    object: Value,
}

#[derive(Default, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
}

/// Answers one AdmissionReview. `secrets` is for the probes of its pod.
pub fn review(body: &[u8], config: &Config, secrets: Secrets<'_>) -> Result<Review, ReviewError> {
    let asked: ReviewRequest = serde_json::from_slice(body)?;
    if asked.api_version != "admission.k8s.io/v1" {
        return Err(ReviewError::Version(asked.api_version.chars().take(MAX_WARNING).collect()));
    }
    let request = asked.request.ok_or(ReviewError::NoRequest)?;
    let mut response = json!({"uid": request.uid, "allowed": true});
    let is_new_pod = request.kind.group.is_empty()
        && request.kind.kind == "Pod"
        && request.operation == "CREATE"
        && request.sub_resource.is_empty();
    if !is_new_pod {
        return Ok(Review { body: answer(&response)?, verdict: Verdict::NotAPod, note: None });
    }
    let namespace = NamespaceFacts { name: request.namespace };
    let mut note = None;
    let verdict = match inject(&request.object, &namespace, config, secrets) {
        Ok(Outcome::Injected { patch, .. }) => {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(serde_json::to_vec(&patch)?).into();
            Verdict::Injected
        }
        Ok(Outcome::Skipped { reason }) => {
            if reason.is_notable() {
                let opted_out = reason == Skip::OptedOut;
                if !opted_out {
                    response["warnings"] = json!([cut(format!("mesh: not injected: {reason}"), MAX_WARNING)]);
                }
                let object = about(&request.object);
                let dry = request.dry_run == Some(true);
                note = (!dry).then(|| Note { namespace: namespace.name, object, skip: reason.clone() });
            }
            Verdict::Skipped(reason)
        }
        Err(refusal) => {
            let pod = about(&request.object);
            let message = format!("{} {} in namespace {}: {refusal}", pod.kind, pod.name, namespace.name);
            response["allowed"] = false.into();
            response["status"] = json!({
                "status": "Failure",
                "reason": "Invalid",
                "code": 422,
                "message": cut(message, MAX_MESSAGE),
            });
            Verdict::Refused(refusal)
        }
    };
    Ok(Review { body: answer(&response)?, verdict, note })
}

fn answer(response: &Value) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

/// The owner of a pod that a controller makes, or the pod.
fn about(pod: &Value) -> ObjectReference {
    let text = |of: &Value, field: &str| of.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let metadata = pod.get("metadata").unwrap_or(&Value::Null);
    let owners = metadata.get("ownerReferences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true))).or(owners.first());
    match owner.filter(|owner| !name_of(owner).is_empty()) {
        Some(owner) => ObjectReference {
            api_version: text(owner, "apiVersion"),
            kind: text(owner, "kind"),
            name: text(owner, "name"),
            uid: Some(text(owner, "uid")).filter(|uid| !uid.is_empty()),
        },
        None => {
            let name = Some(text(metadata, "name")).filter(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| text(metadata, "generateName"));
            let uid = Some(text(metadata, "uid")).filter(|uid| !uid.is_empty());
            ObjectReference { api_version: "v1".into(), kind: "Pod".into(), name, uid }
        }
    }
}

/// A text that is not longer than so many characters.
fn cut(text: String, most: usize) -> String {
    if text.chars().count() <= most { text } else { text.chars().take(most - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::secret::Secret;

    fn ask(change: impl FnOnce(&mut Value)) -> (Value, Review) {
        let mut asked = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u-1",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "namespace": "shop",
                "operation": "CREATE",
                "object": {
                    "metadata": {
                        "generateName": "web-6d4-",
                        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4", "uid": "r-1",
                            "controller": true}],
                    },
                    "spec": {"containers": [{"name": "web"}]},
                },
            },
        });
        change(&mut asked);
        let review = review(asked.to_string().as_bytes(), &Config::default(), &Secret::random).unwrap();
        let body: Value = serde_json::from_slice(&review.body).unwrap();
        assert_eq!(body["response"]["uid"], "u-1");
        (body["response"].clone(), review)
    }

    #[test]
    fn a_pod_is_patched() {
        let (response, review) = ask(|_| {});
        assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
        assert_eq!((review.verdict, review.note), (Verdict::Injected, None));
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "web"}]}});
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(pod["spec"]["initContainers"][1]["name"], "mesh-proxy");
    }

    #[test]
    fn a_skipped_pod_is_allowed_with_a_warning_and_a_note_about_its_owner() {
        let (response, review) = ask(|asked| asked["request"]["object"]["spec"]["hostNetwork"] = true.into());
        assert_eq!(response["allowed"], true);
        assert!(response["warnings"][0].as_str().unwrap().contains("node's network"), "{response}");
        assert!(response.get("patch").is_none());
        let note = review.note.unwrap();
        assert_eq!((&*note.namespace, &*note.object.kind, &*note.object.name), ("shop", "ReplicaSet", "web-6d4"));
        assert_eq!(note.object.uid.as_deref(), Some("r-1"));
    }

    #[test]
    fn a_dry_run_leaves_no_note() {
        let (response, review) = ask(|asked| {
            asked["request"]["dryRun"] = true.into();
            asked["request"]["object"]["spec"]["hostNetwork"] = true.into();
        });
        assert!(response["warnings"].is_array());
        assert_eq!(review.note, None);
    }

    #[test]
    fn a_refusal_names_owner_namespace_field_and_the_next_step() {
        let (response, _) = ask(|asked| {
            asked["request"]["object"]["metadata"]["annotations"] = json!({"config.meshctl.dev/proxy-workers": "many"});
        });
        assert_eq!(response["allowed"], false);
        let message = response["status"]["message"].as_str().unwrap();
        let parts =
            ["ReplicaSet web-6d4", "shop", "config.meshctl.dev/proxy-workers", "many", "from 1 to 64", "remove it"];
        for part in parts {
            assert!(message.contains(part), "{message} says {part}");
        }
    }

    #[test]
    fn whatever_is_no_new_pod_is_allowed_as_it_is() {
        for (field, value) in [
            ("operation", json!("UPDATE")),
            ("operation", json!("DELETE")),
            ("kind", json!({"group": "apps", "kind": "Pod"})),
            ("kind", json!({"group": "", "kind": "Service"})),
            ("subResource", json!("ephemeralcontainers")),
        ] {
            let (response, review) = ask(|asked| asked["request"][field] = value);
            assert_eq!((response, review.verdict), (json!({"uid": "u-1", "allowed": true}), Verdict::NotAPod));
        }
    }

    #[test]
    fn what_is_no_review_is_an_error() {
        let config = Config::default();
        for (text, expected) in [
            ("", "no AdmissionReview"),
            ("[]", "no AdmissionReview"),
            ("{}", "only admission.k8s.io/v1"),
            (r#"{"apiVersion": "admission.k8s.io/v1beta1"}"#, "v1beta1"),
            (r#"{"apiVersion": "admission.k8s.io/v1"}"#, "no request"),
            (r#"{"apiVersion": "admission.k8s.io/v1", "request": {}}"#, "uid"),
        ] {
            let error = review(text.as_bytes(), &config, &Secret::random).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn long_messages_are_cut() {
        let (response, _) = ask(|asked| {
            asked["request"]["object"]["metadata"]["ownerReferences"][0]["name"] = "é".repeat(5000).into();
            asked["request"]["object"]["metadata"]["labels"] = json!({"meshctl.dev/inject": "x"});
        });
        assert_eq!(response["status"]["message"].as_str().unwrap().chars().count(), MAX_MESSAGE);
    }
}
