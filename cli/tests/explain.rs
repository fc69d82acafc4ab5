//! `meshctl explain` as a person runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{Folder, SHOP};

const GIVEN: [&str; 2] = ["--manifests", "shop.yaml"];

#[test]
fn codes_say_whether_it_would_be_served() {
    let folder = Folder::with(&[("shop.yaml", SHOP)]);
    for (request, code, said) in [
        (&["GET", "http://web.shop/cart"][..], 0, "  verdict   forwarded\n"),
        (&["http://web.shop/old?a"], 0, "answered 302, location http://new.test/old?a\n"),
        (&["http://web.shop/broken"], 1, "500: none of the rule's backends can be served"),
        (&["http://web.shop/"], 1, "404: routes are attached and no rule matches"),
        (&["http://absent.shop/"], 1, "nothing is known by this name"),
        (&["tcp://web.shop:80"], 0, "no route applies"),
        (&["tls://web.shop:80?sni=a.test", "-o", "yaml"], 0, "verdict: default"),
    ] {
        let args: Vec<&str> = ["explain"].iter().chain(request).chain(&GIVEN).copied().collect();
        let ended = folder.meshctl(&args);
        assert_eq!(ended.code, Some(code), "{request:?}: {}", ended.err);
        assert!(ended.out.contains(said), "{request:?}: {}", ended.out);
        assert!(!ended.out.contains('\u{1b}'), "no colour where nobody sees it");
    }
}

#[test]
fn what_cannot_be_judged_is_two() {
    let folder = Folder::with(&[("broken.yaml", "kind: ["), ("shop.yaml", SHOP)]);
    for (args, said) in [
        (&["explain"][..], "REQUEST"),
        (&["explain", "GET", "http://web.shop/", "--manifests", "broken.yaml"], "broken.yaml:1:"),
        (&["explain", "GET", "http://web.shop/", "--manifests", "absent.yaml"], "absent.yaml"),
        (&["explain", "GET", "http://web.shop/", "-H", "x", "--manifests", "shop.yaml"], "NAME:VALUE"),
        (&["explain", "GET", "ftp://web.shop/", "--manifests", "shop.yaml"], "use http, https, tls or tcp"),
        (&["explain", "GET", "http://web.shop/"], "no cluster is known here"),
    ] {
        let ended = folder.meshctl(args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{args:?}");
        assert!(ended.err.contains(said), "{args:?}: {}", ended.err);
    }
}

#[test]
fn scripts_get_one_object_from_standard_input_too() {
    let folder = Folder::with(&[]);
    let args =
        ["explain", "http://web.shop/cart", "-H", "User: 7", "--from", "clients", "--manifests", "-", "-o", "json"];
    let ended = folder.meshctl_with(&args, SHOP);
    let json: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((json["from"].as_str(), json["rule"]["name"].as_str()), (Some("clients"), Some("cart")), "{json}");
    assert_eq!((&json["backends"][1]["share"], &json["sent"]["headers"]["user"]), (&10.0.into(), &"7".into()));
    assert!(json["problems"][0].as_str().unwrap().starts_with("standard input:"), "{json}");
}

#[test]
fn help_has_examples_and_codes_and_shells_complete_it() {
    let folder = Folder::with(&[]);
    for command in ["explain", "authz", "lint", "test", "routes"] {
        let help = folder.meshctl(&[command, "--help"]).out;
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
        let script = folder.meshctl(&["completion", "bash"]).out;
        assert!(
            script.contains(&format!("meshctl__subcmd__{command}")) || script.contains(&format!("meshctl__{command}"))
        );
    }
}

#[test]
fn what_every_proxy_refuses_and_what_is_no_port_is_wrong_usage() {
    let folder = Folder::with(&[("shop.yaml", SHOP)]);
    for (words, said) in [
        (&["http://web.shop:65536/"][..], "is no port"),
        (&["tls://web.shop:0"], "is no port"),
        (&["get", "http://web.shop/"], "400 (method-case)"),
        (&["GET", "http://web.shop/ü"], "400 (bad-target)"),
    ] {
        let ended = folder.meshctl(&[&["explain", "--manifests", "shop.yaml"], words].concat());
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{words:?}");
        assert!(ended.err.contains(said), "{words:?}: {}", ended.err);
    }
    folder.write("none.yaml", "# nothing\n");
    let nothing = folder.meshctl(&["explain", "--manifests", "none.yaml", "http://web.shop/"]);
    assert!(nothing.code == Some(2) && nothing.err.contains("there is no manifest"), "{}", nothing.err);
}
