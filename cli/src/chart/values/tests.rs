//! Tests of the chart's values: wrong ones are named with their place, and defaults stay where nothing is given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;

#[test]
fn wrong_values_are_named_with_their_place() {
    for (given, expected) in [
        (json!({"proxy": {"workers": "two"}}), "proxy.workers: invalid type"),
        (json!({"proxy": {"threads": 2}}), "proxy.threads: unknown field `threads`"),
        (json!({"ha": null}), "missing field `ha`"),
        (json!({"ha": 1}), "ha: invalid type"),
        (json!({"proxy": {"workers": 65}}), "proxy.workers is 65, but must be from 1 to 64"),
        (json!({"identity": {"leafLifetime": "1d"}}), "identity.leafLifetime is \"1d\""),
        (json!({"trustDomain": "a b"}), "trustDomain is \"a b\""),
        (json!({"identity": {"trustAnchorsConfigMap": "a/b"}}), "must be the name of a ConfigMap, or empty"),
        (json!({"proxy": {"opaquePorts": ["x"]}}), "proxy.opaquePorts: \"x\" is no port"),
        (json!({"injector": {"resources": {"limits": {"cpu": "much"}}}}), "injector.resources: cpu is \"much\""),
        (json!({"injector": {"resources": {"limit": {}}}}), "injector.resources.limit"),
        (json!({"webhook": {"failurePolicy": "Maybe"}}), "webhook.failurePolicy: unknown variant"),
    ] {
        let message = Values::read(&with_defaults(given.clone()).unwrap()).unwrap_err().to_string();
        assert!(message.contains(expected), "{given}: {message}");
    }
}

#[test]
fn defaults_stay_where_nothing_is_given_and_null_takes_them_away() {
    let given =
        json!({"proxy": {"workers": 2}, "nodeSelector": {"kubernetes.io/os": null, "a": "b"}, "podLabels": {"x": "y"}});
    let all = with_defaults(given).unwrap();
    assert_eq!((&all["proxy"]["workers"], &all["proxy"]["uid"]), (&json!(2), &json!(4640)));
    assert_eq!(all["nodeSelector"], json!({"a": "b"}));
    assert_eq!(all["podLabels"], json!({"x": "y"}));
}
