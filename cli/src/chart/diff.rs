//! What `kubectl apply` would change, for `meshctl upgrade --dry-run`: the three-way merge of an object, and two texts
//! line by line.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use similar::{Algorithm, Change, DiffOp, capture_diff_slices_deadline, group_diff_ops};

/// What kubectl keeps of the object it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object as `kubectl apply` would send it: ours laid over what is there, without what we had there before and
/// have no longer. Lists are replaced: the API server gives their items the same defaults again.
pub(crate) fn merged(live: &Value, ours: &Value) -> Value {
    let last = live.pointer("/metadata/annotations").and_then(|all| all.get(LAST_APPLIED)).and_then(Value::as_str);
    let last = last.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    lay(live, &last, ours)
}

fn lay(live: &Value, last: &Value, ours: &Value) -> Value {
    let (Value::Object(there), Value::Object(wanted)) = (live, ours) else { return ours.clone() };
    let had = last.as_object();
    let mut all: Map<String, Value> = there
        .iter()
        .filter(|(name, _)| wanted.contains_key(*name) || !had.is_some_and(|had| had.contains_key(*name)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in wanted {
        let last = had.and_then(|had| had.get(name)).unwrap_or(&Value::Null);
        let value = all.get(name).map_or_else(|| value.clone(), |there| lay(there, last, value));
        all.insert(name.clone(), value);
    }
    Value::Object(all)
}

/// An object without what the API server alone writes.
pub(crate) fn shown(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        for name in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"] {
            metadata.remove(name);
        }
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove(LAST_APPLIED);
            annotations.remove("deployment.kubernetes.io/revision");
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    if let Value::Object(object) = &mut object {
        object.remove("status");
    }
    // The contents of Secrets are compared, never shown.
    if object["kind"] == "Secret"
        && let Some(Value::Object(data)) = object.get_mut("data")
    {
        for value in data.values_mut() {
            let length = value.as_str().unwrap_or_default().len();
            let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value.to_string().as_bytes());
            let sum: String = sum.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            *value = format!("({length} characters, {sum})").into();
        }
    }
    object
}

/// Lines around a change that are shown with it.
const AROUND: usize = 2;
/// How long the shortest difference is looked for; after it a longer one is shown.
const DIFF_TIMEOUT: Duration = Duration::from_secs(1);

/// The lines that differ, with `-` and `+` before them and a few others around; empty when none does.
pub(crate) fn lines(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let deadline = Some(Instant::now() + DIFF_TIMEOUT);
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, deadline);
    let line = |change: Change<&str>| format!("{} {}\n", change.tag(), change.value());
    let group = |ops: Vec<DiffOp>| ops.iter().flat_map(|op| op.iter_changes(&old, &new)).map(line).collect::<String>();
    group_diff_ops(ops, AROUND).into_iter().map(group).collect::<Vec<_>>().join("  ...\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_we_had_and_have_no_longer_goes_and_what_others_set_stays() {
        let last = json!({"metadata": {"labels": {"old": "1", "kept": "1"}}, "spec": {"args": ["a"]}}).to_string();
        let live = json!({
            "metadata": {"uid": "u", "labels": {"old": "1", "kept": "1", "theirs": "x"}, "annotations": {LAST_APPLIED: last}},
            "spec": {"args": ["a"], "clusterIP": "10.0.0.1"},
        });
        let ours = json!({"metadata": {"labels": {"kept": "2"}}, "spec": {"args": ["a", "b"]}});
        let merged = merged(&live, &ours);
        assert_eq!(merged["metadata"]["labels"], json!({"kept": "2", "theirs": "x"}));
        assert_eq!(merged["spec"], json!({"args": ["a", "b"], "clusterIP": "10.0.0.1"}));
        assert_eq!(shown(&merged)["metadata"], json!({"labels": {"kept": "2", "theirs": "x"}}));
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = |data: &str| json!({"kind": "Secret", "metadata": {}, "data": {"tls.key": data}});
        let (one, other) = (shown(&secret("c2VjcmV0")).to_string(), shown(&secret("c2VjcmVU")).to_string());
        assert!(!one.contains("c2VjcmV0") && one != other, "{one} {other}");
    }

    #[test]
    fn only_what_differs_is_shown_with_its_neighbours() {
        let old = (1..20).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let new = old.replace("\n5\n", "\nfive\n").replace("\n15\n", "\n15\nx\n");
        assert_eq!(lines(&old, &new), "  3\n  4\n- 5\n+ five\n  6\n  7\n  ...\n  14\n  15\n+ x\n  16\n  17\n");
        assert_eq!(lines("a\nb", "a\nb"), "");
        assert_eq!(lines("", "a"), "+ a\n");
    }
}
