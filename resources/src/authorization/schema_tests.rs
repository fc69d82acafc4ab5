//! Tests of `crds/`: that the decoder and the schemas know the same fields and bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use mesh_policy::well_known::POLICY_GROUP;
use serde_json::{Value, json};

use super::{
    CLUSTER_KIND, KIND,
    caller::{ACCOUNT_FIELDS, MAX_EXCEPT, SOURCE_FIELDS, TYPES},
    decode::{ACTIONS, CLUSTER_FIELDS, FIELDS, LEVELS, MODES, TIERS},
    mesh_identity::{EXCEPTION_FIELDS, MAX_EXCEPTIONS, MAX_OF_EXCEPTION, REQUIRE_FIELDS},
    rule::{ATTRIBUTE_FIELDS, RULE_FIELDS},
    target::{MAX_TARGETS, TARGET_FIELDS, TARGET_KINDS},
};
use crate::{
    selector::{EXPRESSION_FIELDS, OPERATORS, SELECTOR_FIELDS},
    walker::MAX_LIST,
};

/// The schema of a `spec`.
fn spec_of(text: &str, kind: &str, scope: &str) -> Value {
    let crd: Value = serde_saphyr::from_str(text).unwrap();
    assert_eq!((&crd["spec"]["group"], &crd["spec"]["scope"]), (&json!(POLICY_GROUP), &json!(scope)));
    assert_eq!(crd["spec"]["names"]["kind"], kind);
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap().clone()
}

fn both() -> [Value; 2] {
    [
        spec_of(include_str!("../../crds/authorizationpolicies.yaml"), KIND, "Namespaced"),
        spec_of(include_str!("../../crds/clusterauthorizationpolicies.yaml"), CLUSTER_KIND, "Cluster"),
    ]
}

fn fields(schema: &Value) -> BTreeSet<&str> {
    schema["properties"].as_object().unwrap().keys().map(String::as_str).collect()
}

fn set<'t>(fields: &[&'t str]) -> BTreeSet<&'t str> {
    fields.iter().copied().collect()
}

fn words<T>(known: &[(&'static str, T)]) -> Value {
    known.iter().map(|(word, _)| *word).collect()
}

#[test]
fn both_kinds_have_the_same_fields_and_bounds_as_the_decoder() {
    let [own, cluster] = both();
    assert_eq!((fields(&own), fields(&cluster)), (set(&FIELDS), set(&CLUSTER_FIELDS)));
    for spec in [&own, &cluster] {
        let of = &spec["properties"];
        assert_eq!((&of["action"]["enum"], &of["mode"]["enum"]), (&words(&ACTIONS), &words(&MODES)));
        assert_eq!(of["enforcementLevel"]["enum"], words(&LEVELS));
        assert_eq!(of["mode"]["default"], "Enforce");
        assert_eq!(of["rules"]["maxItems"], MAX_LIST);
        let rule = &of["rules"]["items"];
        assert_eq!(fields(rule), set(&RULE_FIELDS));
        let attributes = &rule["properties"]["networkAttributes"];
        assert_eq!(fields(attributes), set(&ATTRIBUTE_FIELDS));
        assert_eq!(attributes["properties"]["ports"]["maxItems"], MAX_LIST);
        let sources = &rule["properties"]["sources"];
        assert_eq!((&sources["maxItems"], fields(&sources["items"])), (&json!(MAX_LIST), set(&SOURCE_FIELDS)));
        let source = &sources["items"]["properties"];
        assert_eq!(
            (&source["type"]["enum"], fields(&source["serviceAccount"])),
            (&words(&TYPES), set(&ACCOUNT_FIELDS))
        );
        assert_eq!(source["except"]["maxItems"], MAX_EXCEPT);
        let excepted: BTreeSet<_> = SOURCE_FIELDS.into_iter().filter(|field| *field != "except").collect();
        assert_eq!(fields(&source["except"]["items"]), excepted);
        let to = &rule["properties"]["to"];
        assert_eq!(to["maxItems"], MAX_LIST);
        assert_eq!(fields(&to["items"]), set(&["method", "path", "headers", "queryParams", "grpc"]));
        assert_eq!(fields(&to["items"]["properties"]["grpc"]), set(&["method", "headers"]));
    }
    let targets = &own["properties"]["targetRefs"];
    assert_eq!((&targets["maxItems"], &targets["minItems"]), (&json!(MAX_TARGETS), &json!(1)));
    assert_eq!(fields(&targets["items"]), set(&TARGET_FIELDS));
    assert_eq!(targets["items"]["properties"]["kind"]["enum"], json!(TARGET_KINDS));
    let of = &cluster["properties"];
    assert_eq!((&of["tier"]["enum"], &of["ports"]["maxItems"]), (&words(&TIERS), &json!(MAX_LIST)));
    assert_eq!(fields(&of["requireMeshIdentity"]), set(&REQUIRE_FIELDS));
    let except = &of["requireMeshIdentity"]["properties"]["except"];
    assert_eq!((&except["maxItems"], fields(&except["items"])), (&json!(MAX_EXCEPTIONS), set(&EXCEPTION_FIELDS)));
    for field in EXCEPTION_FIELDS {
        assert_eq!(except["items"]["properties"][field]["maxItems"], MAX_OF_EXCEPTION, "{field}");
    }
    let selectors = [&targets["items"]["properties"]["selector"], &of["namespaceSelector"], &of["podSelector"]];
    for selector in selectors {
        assert_eq!(fields(selector), set(&SELECTOR_FIELDS));
        let expression = &selector["properties"]["matchExpressions"]["items"];
        assert_eq!(fields(expression), set(&EXPRESSION_FIELDS));
        assert_eq!(expression["properties"]["operator"]["enum"], json!(OPERATORS));
    }
}

#[test]
fn every_field_has_a_word_about_it() {
    fn check(at: &str, schema: &Value) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            let description = field["description"].as_str().unwrap_or_else(|| panic!("{at}"));
            assert!(description.ends_with('.'), "{at}");
            check(&at, field);
            check(&at, &field["items"]);
        }
    }
    both().iter().for_each(|spec| check("spec", spec));
}
