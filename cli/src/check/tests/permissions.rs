//! What the chart's roles allow, what docs/permissions.md says of them, and what `control-plane-permissions` asks about: one
//! and the same.

use std::collections::BTreeSet;

use mesh_policy::well_known::CONTROL_NAMESPACE;
use serde_json::{Value, json};

use crate::{chart, check::control_plane::all_needed, kube::value};

/// Account, verb, API group, resource, name (or none), whether in the control plane's namespace only.
type Allowed = (String, String, String, String, String, bool);

/// The name that stands for a value's.
const NAMED_BY_VALUE: &str = "the value `identity.trustAnchorsConfigMap`";

fn rendered(given: Value) -> Vec<Value> {
    let mut all = chart::largest();
    chart::values::merge(&mut all, given);
    chart::render(all).unwrap().into_iter().map(|manifest| manifest.object).collect()
}

/// What the roles of the chart allow. Each is bound to the account of its name, in the same reach.
fn allowed(objects: &[Value]) -> BTreeSet<Allowed> {
    let mut all = BTreeSet::new();
    let is_role = |object: &&Value| matches!(value::text(object, "/kind"), "Role" | "ClusterRole");
    for role in objects.iter().filter(is_role).filter(|role| added_to(role).is_empty()) {
        let (account, inside) = (value::name(role), value::text(role, "/kind") == "Role");
        let bound = objects.iter().find(|object| {
            value::text(object, "/roleRef/kind") == value::text(role, "/kind")
                && value::text(object, "/roleRef/name") == account
        });
        let bound = bound.unwrap_or_else(|| panic!("{account} is bound to nobody"));
        let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": CONTROL_NAMESPACE}]);
        assert_eq!((&bound["subjects"], value::namespace(bound)), (&subject, value::namespace(role)));
        let texts = |rule: &Value, field: &str| -> Vec<String> {
            value::items(rule, field).iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        for rule in value::items(role, "/rules") {
            let mut names = texts(rule, "/resourceNames");
            if names.is_empty() {
                names.push(String::new());
            }
            for group in texts(rule, "/apiGroups") {
                for resource in texts(rule, "/resources") {
                    for name in &names {
                        for verb in texts(rule, "/verbs") {
                            let parts = [&group, &resource, &verb];
                            assert!(parts.iter().all(|part| !part.contains('*')), "a wildcard: {rule}");
                            let name = if name == "roots" { NAMED_BY_VALUE } else { name };
                            all.insert((
                                account.to_owned(),
                                verb,
                                group.clone(),
                                resource.clone(),
                                name.to_owned(),
                                inside,
                            ));
                        }
                    }
                }
            }
        }
    }
    all
}

/// The roles of Kubernetes that a role is added to.
fn added_to(role: &Value) -> Vec<&str> {
    let labels = role.pointer("/metadata/labels").and_then(Value::as_object).unwrap();
    labels.keys().filter_map(|name| name.strip_prefix("rbac.authorization.k8s.io/aggregate-to-")).collect()
}

/// The rows of the page's table.
fn documented() -> BTreeSet<Allowed> {
    let page = include_str!("../../../../docs/permissions.md");
    let mut all = BTreeSet::new();
    let (of_accounts, _) = page.split_once("## What people may do").unwrap();
    for row in of_accounts.lines().filter(|line| line.starts_with("| mesh-")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [account, verbs, group, resources, name, place, why, could, bound] = cells[..] else { panic!("{row}") };
        assert!([why, could, bound].iter().all(|text| !text.is_empty()), "{row}");
        let inside = match place {
            "cluster" => false,
            CONTROL_NAMESPACE => true,
            other => panic!("{other}: {row}"),
        };
        for resource in resources.split(", ") {
            for verb in verbs.split(", ") {
                let row = [account, verb, group, resource, name].map(str::to_owned);
                let [account, verb, group, resource, name] = row;
                assert!(all.insert((account, verb, group, resource, name, inside)), "twice");
            }
        }
    }
    all
}

#[test]
fn the_roles_of_the_chart_are_those_of_the_page() {
    let objects = rendered(json!({"identity": {"trustAnchorsConfigMap": "roots"}}));
    let (allowed, documented) = (allowed(&objects), documented());
    assert_eq!(allowed.difference(&documented).collect::<Vec<_>>(), Vec::<&Allowed>::new(), "not on the page");
    assert_eq!(documented.difference(&allowed).collect::<Vec<_>>(), Vec::<&Allowed>::new(), "not in the chart");
}

#[test]
fn what_people_may_do_is_what_the_page_says() {
    let page = include_str!("../../../../docs/permissions.md");
    let (_, of_people) = page.split_once("## What people may do").unwrap();
    let documented: Vec<&str> = of_people.lines().filter(|line| line.starts_with("| mesh-")).collect();
    let objects = rendered(json!({}));
    let roles = objects.iter().filter(|object| value::text(object, "/kind") == "ClusterRole");
    let rows = roles.filter(|role| !added_to(role).is_empty()).map(|role| {
        let list = |field: &str| {
            let texts: Vec<_> = value::items(&role["rules"][0], field).iter().filter_map(Value::as_str).collect();
            texts.join(", ")
        };
        assert_eq!(role["rules"].as_array().unwrap().len(), 1);
        let mut to = added_to(role);
        to.sort_unstable_by(|a, b| b.cmp(a));
        let to = to.join(", ");
        format!(
            "| {} | {to} | {} | {} | {} |",
            value::name(role),
            list("/verbs"),
            list("/apiGroups"),
            list("/resources")
        )
    });
    assert_eq!(rows.collect::<Vec<_>>(), documented);
}

#[test]
fn the_check_asks_about_every_resource_of_the_roles() {
    let allowed = allowed(&rendered(json!({"admissionPolicies": {"enabled": false}})));
    let asked: BTreeSet<Allowed> = all_needed()
        .iter()
        .map(|needed| {
            let [account, verb, group, name] =
                [needed.account, needed.verb, needed.group, needed.name].map(str::to_owned);
            (account, verb, group, needed.resource(), name, needed.inside)
        })
        .collect();
    assert_eq!(asked.difference(&allowed).collect::<Vec<_>>(), Vec::<&Allowed>::new(), "asked, and not given");
    let what = |all: &BTreeSet<Allowed>| -> BTreeSet<_> {
        all.iter()
            .map(|(account, _, group, resource, name, inside)| (account, group, resource, name, *inside))
            .map(|of| format!("{of:?}"))
            .collect()
    };
    assert_eq!(what(&asked), what(&allowed));
}

/// What makes whoever has identity's pod the master of the cluster is given only where it is bounded.
#[test]
fn the_webhook_may_be_changed_only_under_an_admission_policy() {
    let may_patch = |objects: &[Value]| {
        allowed(objects).iter().any(|(_, verb, _, resource, ..)| {
            resource == "mutatingwebhookconfigurations" && !matches!(verb.as_str(), "get" | "list" | "watch")
        })
    };
    let of_policies = |objects: &[Value]| -> Vec<String> {
        let kinds =
            objects.iter().filter(|object| value::text(object, "/kind").starts_with("ValidatingAdmissionPolicy"));
        kinds.map(|object| format!("{} {}", value::text(object, "/kind"), value::name(object))).collect()
    };
    let with = rendered(json!({}));
    assert!(may_patch(&with));
    let accounts = ["mesh-identity", "mesh-destination", "mesh-injector"];
    let mut expected: Vec<_> = accounts.map(|account| format!("ValidatingAdmissionPolicy {account}")).into();
    expected.extend(
        ["mesh-identity", "mesh-destination", "mesh-injector"]
            .map(|account| format!("ValidatingAdmissionPolicyBinding {account}")),
    );
    assert_eq!(of_policies(&with), expected);
    for binding in with.iter().filter(|object| object["kind"] == "ValidatingAdmissionPolicyBinding") {
        assert_eq!(binding["spec"], json!({"policyName": value::name(binding), "validationActions": ["Deny"]}));
    }
    for policy in with.iter().filter(|object| object["kind"] == "ValidatingAdmissionPolicy") {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        let condition =
            format!("request.userInfo.username == 'system:serviceaccount:mesh-system:{}'", value::name(policy));
        assert_eq!(policy["spec"]["matchConditions"][0]["expression"], condition, "others are not concerned");
        assert_eq!(value::items(policy, "/spec/matchConditions").len(), 1);
    }
    let without = rendered(json!({"admissionPolicies": {"enabled": false}}));
    assert!(!may_patch(&without) && of_policies(&without).is_empty());
}
