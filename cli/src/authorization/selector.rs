//! Label selectors of workloads, over labels as they stand in objects.

use serde_json::Value;

use crate::kube::value;

/// Whether labels are selected. A selector that is absent selects nothing; an operator that is not known neither.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let holds = |requirement: &Value| {
        let has = labels.get(value::text(requirement, "/key"));
        let is_listed = has.is_some_and(|has| value::items(requirement, "/values").contains(has));
        match value::text(requirement, "/operator") {
            "In" => is_listed,
            "NotIn" => !is_listed,
            "Exists" => has.is_some(),
            "DoesNotExist" => has.is_none(),
            _ => false,
        }
    };
    selector.is_object()
        && equal.into_iter().flatten().all(|(key, wanted)| labels.get(key) == Some(wanted))
        && value::items(selector, "/matchExpressions").iter().all(holds)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_selected() {
        let labels = json!({ "app": "web", "tier": "front" });
        let expression = |operator, values: Value| json!({ "matchExpressions": [{ "key": "app", "operator": operator, "values": values }] });
        for (selector, expected) in [
            (json!({ "matchLabels": { "app": "web" } }), true),
            (json!({ "matchLabels": { "app": "db" } }), false),
            (json!({}), true),
            (Value::Null, false),
            (expression("In", json!(["web", "db"])), true),
            (expression("NotIn", json!(["web"])), false),
            (expression("Exists", Value::Null), true),
            (expression("DoesNotExist", Value::Null), false),
            (expression("Newer", Value::Null), false),
        ] {
            assert_eq!(selects(&selector, &labels), expected, "{selector}");
        }
    }
}
