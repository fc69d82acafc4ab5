//! `meshctl test` as a pipeline runs it, and the requests that the whole project agrees on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{Folder, SHOP, repository};

const TESTS: &str = "manifests: [shop.yaml]
tests:
- name: the cart
  request: {url: 'http://web.shop/cart'}
  expect: {route: shop/web, rule: cart, backends: {web: 90, web-v2: 10}}
- name: not so
  request: {url: 'http://web.shop/cart'}
  expect: {rule: 1, backends: {web: 50, web-v2: 50}}
";

#[test]
fn a_difference_is_readable_and_ends_with_one() {
    let folder = Folder::with(&[("shop.yaml", SHOP), ("web.yaml", TESTS)]);
    let ended = folder.meshctl(&["test", "web.yaml", "--junit", "report.xml"]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    for line in [
        "ok    the cart\n",
        "FAIL  not so (web.yaml)\n",
        "        expected 1\n        but is   0\n",
        "        expected web 50 %, web-v2 50 %\n        but is   shop/web:80 90 %, shop/web-v2:80 10 %\n",
        "1 passed, 1 failed\n",
    ] {
        assert!(ended.out.contains(line), "{line:?} is not in:\n{}", ended.out);
    }
    let report = folder.read("report.xml");
    assert!(report.contains("<testsuite name=\"web.yaml\" tests=\"2\" failures=\"1\""), "{report}");
    let json: Value = serde_json::from_str(&folder.meshctl(&["test", "web.yaml", "-o", "json"]).out).unwrap();
    assert_eq!((&json["passed"], &json["tests"][1]["differences"][0]["field"]), (&1.into(), &"rule".into()), "{json}");
    let yaml = folder.meshctl(&["test", "web.yaml", "-o", "yaml"]).out;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), json);
}

#[test]
fn what_cannot_be_read_is_two() {
    let folder = Folder::with(&[
        ("web.yaml", TESTS),
        ("odd.yaml", "tests: 7"),
        ("typo.yaml", &TESTS.replace("rule: 1", "rul: 1")),
    ]);
    for (file, message) in
        [("web.yaml", "shop.yaml"), ("odd.yaml", "odd.yaml: "), ("typo.yaml", "rul"), ("absent.yaml", "absent.yaml")]
    {
        let ended = folder.meshctl(&["test", file]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{file}");
        assert!(ended.err.contains(message), "{}", ended.err);
    }
}

/// Answers written by hand from the Gateway API; see the README beside them.
#[test]
fn requests_get_what_the_specification_says() {
    const FEWEST: u64 = 200;
    let folder = repository("integration/tests/data/explain");
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.ends_with(".yaml"))
        .collect();
    files.sort();
    let args: Vec<&str> = ["test"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let ended = Folder::with(&[]).meshctl(&args);
    let failed: String = ended.out.lines().filter(|line| !line.starts_with("ok  ")).collect::<Vec<_>>().join("\n");
    assert_eq!(ended.code, Some(0), "{failed}{}", ended.err);
    let last = ended.out.lines().last().unwrap();
    let passed: u64 = last.split_once(' ').unwrap().0.parse().unwrap();
    assert!(passed >= FEWEST, "{last}");
}
