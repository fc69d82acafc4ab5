//! Tests of the chart's values: wrong ones are named with their place, and defaults stay where nothing is given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;

#[test]
fn wrong_values_are_named_with_their_place() {
    for (given, expected) in [
        (json!({"proxy": {"workers": "two"}}), "proxy.workers must be a number, such as 1, and is \"two\""),
        (json!({"proxy": {"threads": 2}}), "proxy.threads: there is no such value; the nearest is proxy."),
        (json!({"ha": null}), "ha is taken away (null), and must be there"),
        (json!({"ha": 1}), "ha must be true or false, such as false, and is 1"),
        (json!({"nodeSelector": null}), "nodeSelector is taken away (null), and must be there; write {} for none"),
        (json!({"networkPolicy": true}), "networkPolicy must be a map of values"),
        (json!({"proxy": [1]}), "proxy must be a map of values"),
        (
            json!({"podLabels": {"app.kubernetes.io/name": "x"}}),
            "podLabels has app.kubernetes.io/name, which the chart sets",
        ),
        (json!({"proxy": {"workers": 65}}), "proxy.workers is 65, but must be from 1 to 64"),
        (json!({"identity": {"leafLifetime": "1d"}}), "identity.leafLifetime is \"1d\""),
        (json!({"trustDomain": "a b"}), "trustDomain is \"a b\""),
        (json!({"identity": {"trustAnchorsConfigMap": "a/b"}}), "must be the name of a ConfigMap, or empty"),
        (json!({"proxy": {"opaquePorts": ["x"]}}), "proxy.opaquePorts: \"x\" is no port"),
        (json!({"injector": {"resources": {"limits": {"cpu": "much"}}}}), "injector.resources: cpu is \"much\""),
        (json!({"injector": {"resources": {"limit": {}}}}), "injector.resources.limit"),
        (
            json!({"webhook": {"failurePolicy": "Maybe"}}),
            "webhook.failurePolicy is \"Maybe\", but must be Fail or Ignore",
        ),
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
