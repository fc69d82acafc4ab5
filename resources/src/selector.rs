//! Label selectors, in the forms of Kubernetes: `LabelSelector`, and the plain map of a Service.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    problem::{Reason, Report},
    walker::{Invalid, MAX_LIST, Node},
};

/// Labels of an object, by name.
pub type Labels = BTreeMap<String, String>;

/// Fields of a `LabelSelector`.
pub(crate) const SELECTOR_FIELDS: [&str; 2] = ["matchLabels", "matchExpressions"];
/// Fields of an entry of `matchExpressions`.
pub(crate) const EXPRESSION_FIELDS: [&str; 3] = ["key", "operator", "values"];
/// Values of `operator`.
pub(crate) const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// A set of labels. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Box<[Requirement]>);

/// What must hold of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Box<[Box<str>]>),
    /// Also where there is no such label.
    NotIn(Box<[Box<str>]>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Reads a `LabelSelector`. One that is not understood in every part selects nothing that anyone could rely on.
    pub(crate) fn decode(node: &Node<'_>, report: &mut Report<'_>) -> Result<Self, Invalid> {
        node.only(&SELECTOR_FIELDS, report)?;
        let mut all = Vec::new();
        if let Some(labels) = node.object("matchLabels", report)? {
            all = equalities(&labels, report)?;
        }
        for item in node.at_most("matchExpressions", MAX_LIST, report)? {
            item.only(&EXPRESSION_FIELDS, report)?;
            let key = item.required_text("key", report)?;
            let values: Box<[Box<str>]> =
                item.texts("values", MAX_LIST, report)?.into_iter().map(|(_, text)| text.into()).collect();
            item.required_text("operator", report)?;
            let operator = item.one_of("operator", &OPERATORS, report)?;
            let is_list = matches!(operator, Some("In" | "NotIn"));
            if is_list == values.is_empty() {
                let what = if is_list { "In and NotIn need values" } else { "Exists and DoesNotExist take no values" };
                return Err(item.invalid("values", what.to_owned(), "correct operator or values", report));
            }
            let operator = match operator {
                Some("In") => Operator::In(values),
                Some("NotIn") => Operator::NotIn(values),
                Some("Exists") => Operator::Exists,
                _ => Operator::DoesNotExist,
            };
            all.push(Requirement { key: key.into(), operator });
        }
        Ok(Self(all.into()))
    }

    /// Reads the plain map of labels at a field, as a Service has it; `None` if there are none.
    pub(crate) fn of_map(node: &Node<'_>, name: &str, report: &mut Report<'_>) -> Result<Option<Self>, Invalid> {
        let Some(labels) = node.object(name, report)? else { return Ok(None) };
        let all = equalities(&labels, report)?;
        Ok((!all.is_empty()).then(|| Self(all.into())))
    }

    /// Whether labels are selected. `label` gives the value of one.
    pub(crate) fn selects<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.0.iter().all(|Requirement { key, operator }| {
            let value = label(key);
            let is_in = |values: &[Box<str>]| value.is_some_and(|value| values.iter().any(|wanted| **wanted == *value));
            match operator {
                Operator::In(values) => is_in(values),
                Operator::NotIn(values) => !is_in(values),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }

    /// Bytes that it takes beside itself, about.
    pub(crate) fn bytes(&self) -> usize {
        let texts = |Requirement { key, operator }: &Requirement| {
            let values = match operator {
                Operator::In(values) | Operator::NotIn(values) => &values[..],
                Operator::Exists | Operator::DoesNotExist => &[],
            };
            key.len() + values.iter().map(|value| size_of_val(value) + value.len() + 16).sum::<usize>()
        };
        size_of_val(&*self.0) + self.0.iter().map(texts).sum::<usize>()
    }
}

/// The labels of an object. What is no text is no label.
pub(crate) fn labels_of(object: &serde_json::Value) -> Labels {
    let labels = object.pointer("/metadata/labels").and_then(serde_json::Value::as_object);
    let texts =
        labels.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    texts.collect()
}

/// Bytes that labels take, about.
pub(crate) fn labels_bytes(labels: &Labels) -> usize {
    labels.iter().map(|(name, value)| 2 * (size_of::<String>() + 16) + name.len() + value.len()).sum()
}

/// The labels of a Namespace that an author may rely on. Its name is one of them, also where the object lacks it.
pub(crate) fn label_of_namespace<'l>(name: &'l Arc<str>, labels: Option<&'l Labels>, label: &str) -> Option<&'l str> {
    /// Label with the name of the namespace, which the API server sets.
    const NAME_LABEL: &str = "kubernetes.io/metadata.name";
    if label == NAME_LABEL { Some(name) } else { labels?.get(label).map(String::as_str) }
}

fn equalities(labels: &Node<'_>, report: &mut Report<'_>) -> Result<Vec<Requirement>, Invalid> {
    let names: Vec<&String> = labels.value.as_object().into_iter().flatten().map(|(name, _)| name).collect();
    if names.len() > MAX_LIST {
        let what = format!("there are {} labels; there must be at most {MAX_LIST}", names.len());
        report.schema(&labels.path, Reason::UnsupportedValue, what, "select by fewer labels");
        return Err(Invalid);
    }
    let equality = |name: &String| {
        let value = labels.text(name, report)?.unwrap_or_default();
        Ok(Requirement { key: name.as_str().into(), operator: Operator::In([value.into()].into()) })
    };
    names.into_iter().map(equality).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;
    use crate::object::ObjectId;

    fn decode(value: &Value) -> Result<Selector, Invalid> {
        let (kind, namespace, name) = ("Test".to_owned(), "n".to_owned(), "t".to_owned());
        Selector::decode(&Node::root(value), &mut Report::about(ObjectId::used(&kind, &namespace, &name)))
    }

    #[test]
    fn every_form_selects_as_kubernetes_does() {
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let web = [("app", "web"), ("tier", "front")];
        let other = [("app", "api"), ("old", "")];
        for (selector, of_web, of_other, of_none) in [
            (json!({}), true, true, true),
            (json!({"matchLabels": {"app": "web"}}), true, false, false),
            (json!({"matchLabels": {"app": "web", "tier": "back"}}), false, false, false),
            (expression("app", "In", json!(["web", "api"])), true, true, false),
            (expression("app", "NotIn", json!(["web"])), false, true, true),
            (expression("old", "Exists", Value::Null), false, true, false),
            (expression("old", "DoesNotExist", Value::Null), true, false, true),
            (
                json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
                true,
                false,
                false,
            ),
        ] {
            let found = decode(&selector).unwrap();
            let selects = |labels: &[(&str, &'static str)]| {
                found.selects(|name| labels.iter().find(|(label, _)| *label == name).map(|(_, value)| *value))
            };
            assert_eq!((selects(&web), selects(&other), selects(&[])), (of_web, of_other, of_none), "{selector}");
        }
    }

    #[test]
    fn what_is_not_understood_is_no_selector() {
        let many: serde_json::Map<String, Value> = (0..65).map(|n| (n.to_string(), json!("x"))).collect();
        for selector in [
            json!({"matchLabels": {"app": 1}}),
            json!({"matchLabels": many}),
            json!({"matchFields": []}),
            json!({"matchExpressions": [{"key": "app", "operator": "Near", "values": ["web"]}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "In"}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["web"]}]}),
            json!({"matchExpressions": [{"operator": "Exists"}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "Exists", "new": 1}]}),
            json!("app=web"),
        ] {
            assert_eq!(decode(&selector), Err(Invalid), "{selector}");
        }
    }

    #[test]
    fn a_namespace_has_its_name_as_a_label() {
        let (name, labels) = ("shop".into(), Labels::from([("team".to_owned(), "a".to_owned())]));
        let label = |label, labels| label_of_namespace(&name, labels, label);
        assert_eq!(label("kubernetes.io/metadata.name", None), Some("shop"));
        assert_eq!((label("team", Some(&labels)), label("team", None)), (Some("a"), None));
    }
}
