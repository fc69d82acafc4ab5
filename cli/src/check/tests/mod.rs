//! Tests of the registry, of the runner, and of every check: over a cluster that is well, and over one that is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod control_plane;
mod each;
mod permissions;
mod well;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use super::{
    Check, Context, Status, When, all,
    report::{Teller, result},
    run::{Event, Report, run},
};
use crate::{
    kube::mock::Mock,
    output::{Format, Style},
};

/// Runs checks over a mock, without waiting.
async fn reports(mock: Mock, checks: &[&'static Check]) -> Vec<Report> {
    run(checks, Arc::new(Context::new(mock.cluster(), None)), Duration::ZERO, |_| {}).await
}

/// Runs one check by itself.
async fn one(mock: Mock, id: &str) -> Report {
    let check = all().find(|check| check.id == id).unwrap_or_else(|| panic!("no check {id}"));
    reports(mock, &[check]).await.remove(0)
}

fn of(when: When) -> Vec<&'static Check> {
    all().filter(|check| check.when.contains(&when)).collect()
}

#[test]
fn ids_are_unique_and_what_a_check_needs_stands_before_it() {
    let mut seen = BTreeSet::new();
    for check in all() {
        for needed in check.after {
            assert!(seen.contains(needed), "{} needs {needed}, which stands later or is not there", check.id);
        }
        assert!(seen.insert(check.id), "two checks are called {}", check.id);
        assert!(!check.when.is_empty(), "{} is never run", check.id);
    }
}

#[test]
fn every_page_is_of_a_check_and_has_its_parts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/checks");
    let pages: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|page| page.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let ids: BTreeSet<String> = all().map(|check| check.id.to_owned()).collect();
    assert_eq!(pages, ids);
    for check in all() {
        assert!(check.page.starts_with(&format!("# {}\n", check.id)), "{}", check.id);
        for part in ["## What is checked\n", "## Why it matters\n", "## How to mend it\n"] {
            assert!(check.page.contains(part), "{} has no {part}", check.id);
        }
    }
}

/// What the table says can be read aloud: a statement, a reason, a command.
#[test]
fn texts_are_written_alike() {
    for check in all() {
        for text in [check.what, check.why] {
            let first = text.chars().next().unwrap();
            assert!(first.is_lowercase() || text.starts_with("Mesh"), "{}: {text}", check.id);
            assert!(!text.ends_with('.') && text.len() < 180, "{}: {text}", check.id);
        }
        assert!(["kubectl ", "meshctl ", "timedatectl "].iter().any(|c| check.fix.starts_with(c)), "{}", check.id);
    }
}

#[tokio::test]
async fn a_cluster_that_is_well_passes_everything() {
    for when in [When::Installed, When::Proxy] {
        for report in reports(well::cluster(), &of(when)).await {
            assert_eq!(report.status, Status::Ok, "{}: {}", report.check.id, report.message);
        }
    }
    for report in reports(well::empty(), &of(When::Pre)).await {
        assert_eq!(report.status, Status::Ok, "{}: {}", report.check.id, report.message);
    }
}

#[tokio::test]
async fn what_needs_a_failed_check_is_skipped() {
    let mock = well::cluster().refuses("/version", 503, "etcd is away");
    let reports = reports(mock, &of(When::Installed)).await;
    assert_eq!(reports[0].status, Status::Failed);
    assert!(reports[1..].iter().all(|report| report.status == Status::Skipped), "{reports:?}");
    assert!(reports.last().unwrap().message.contains("did not pass"));
    assert_eq!(result(&reports), Status::Failed);
}

#[tokio::test(start_paused = true)]
async fn what_is_coming_up_is_asked_again() {
    let deployment = "/apis/apps/v1/namespaces/mesh-system/deployments/mesh-destination";
    let mock = well::cluster().after(deployment, 3, well::deployment("mesh-destination", 1, 0));
    let checks: Vec<_> = all().filter(|check| check.id == "control-plane-pods").collect();
    let (mut waits, mut ended) = (Vec::new(), 0);
    let context = Arc::new(Context::new(mock.cluster(), None));
    let reports = run(&checks, context, Duration::from_secs(60), |event| match event {
        Event::Waiting(_, message) => waits.push(message.to_owned()),
        Event::Ended(_) => ended += 1,
    })
    .await;
    assert_eq!((reports[0].status, ended, waits.len()), (Status::Ok, 1, 3), "{reports:?}");
    assert!(waits[0].contains("mesh-destination has 0 of 1 pods ready"), "{waits:?}");
}

/// The whole wait is not spent on one namespace of several that is behind; it is where only that one is checked.
#[tokio::test(start_paused = true)]
async fn a_check_of_the_cluster_does_not_wait_long_for_one_namespace() {
    static OF_SOME: Check = Check {
        id: "of-some",
        area: "",
        what: "",
        why: "",
        fix: "",
        page: "",
        when: &[When::Installed],
        after: &[],
        run: |context| {
            Box::pin(async move {
                let finding = "the namespace tenant has none".to_owned().into();
                let all = if context.scope.is_some() { 1 } else { 3 };
                match super::Outcome::some_not_yet(&context, finding, 1, all) {
                    // As it is, but for the time, which does not stand still for a test.
                    super::Outcome::Behind { finding, then, .. } => {
                        Ok(super::Outcome::Behind { finding, within: Duration::from_millis(20), then })
                    }
                    other => Ok(other),
                }
            })
        },
    };
    let mut reports = Vec::new();
    for (scope, wait) in [(None, Duration::from_secs(3600)), (Some("tenant".to_owned()), Duration::from_millis(20))] {
        let context = Arc::new(Context::new(well::cluster().cluster(), scope));
        reports.extend(run(&[&OF_SOME], context, wait, |_| {}).await);
    }
    assert!(reports.iter().all(|report| report.status == Status::Failed), "{reports:?}");
    assert!(reports.iter().all(|report| report.message.starts_with("the namespace tenant has none")), "{reports:?}");
}

#[tokio::test]
async fn reports_can_be_read_by_people_and_by_scripts() {
    let mock = well::cluster().object("/version", serde_json::json!({ "gitVersion": "v1.20.0" }));
    let reports = reports(mock, &of(When::Installed)[..2]).await;
    let text = |form| {
        let mut teller = Teller::new(form, Style::PLAIN);
        let told: String = reports.iter().map(|report| teller.text(report)).collect();
        told + &teller.end(&reports, Duration::from_millis(1_234)).unwrap()
    };
    assert_eq!(
        text(Format::Table),
        "Kubernetes\n  \
         FAILED  the API server answers and is new enough: https://mock:6443 is Kubernetes v1.20.0, older than 1.27\n          \
         why:  everything else is asked of it, and the manifests of Mesh need Kubernetes 1.27 or later\n          \
         mend: upgrade the cluster, or choose another with --context\n          \
         page: docs/checks/kubernetes-api.md, or: meshctl check --explain kubernetes-api\n  \
         skipped this user may look at what is checked: it needs kubernetes-api, which did not pass\n\
         \n1 of 2 checks failed, 1 skipped, in 1.2 s"
    );
    assert!(!text(Format::Short).contains("skipped this") && text(Format::Short).contains("mend: upgrade"));
    let json: serde_json::Value = serde_json::from_str(&text(Format::Json)).unwrap();
    assert_eq!((&json["result"], &json["checks"][0]["status"]), (&"failed".into(), &"failed".into()));
    assert_eq!(json["checks"][0]["page"], "docs/checks/kubernetes-api.md");
    assert_eq!(json["checks"][0]["mend"], "upgrade the cluster, or choose another with --context");
    assert!(json["checks"][0]["said"].as_str().is_some_and(|said| said.ends_with("older than 1.27")));
    assert!(json["checks"][1].get("mend").is_none());
    let yaml: serde_json::Value = serde_saphyr::from_str(&text(Format::Yaml)).unwrap();
    assert_eq!(yaml, json);
}
