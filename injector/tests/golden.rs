//! Golden injections: `golden/NAME.in.yaml` becomes `golden/NAME.out.yaml`, byte for byte.
//!
//! `UPDATE_GOLDEN=1 cargo test -p mesh-injector --test golden` writes what comes out now; what it changed is for people
//! to read. The first comments of an input say the manner (`webhook`, `manual`, `label`), the configuration and the
//! namespace. VERSION stands for the version of the crate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use mesh_injector::{
    VERSION,
    config::Config,
    manifest::{Manner, inject_document, uninject_document},
    patch::{NamespaceFacts, Outcome, inject},
    refusal::Refusal,
    secret::Secret,
};
use serde_json::Value;

/// Fewer than these would mean that some were lost.
const AT_LEAST: usize = 60;

/// The secret of every pod here.
fn secret() -> Result<Secret, Refusal> {
    Ok(Secret::new([0x5e; 16]))
}

struct Case {
    name: String,
    manner: String,
    namespace: String,
    config: Config,
    documents: Vec<Value>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let names: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".in.yaml").map(str::to_owned))
        .collect();
    assert!(names.len() >= AT_LEAST, "only {} golden inputs", names.len());
    let case = |name: String| {
        let text = fs::read_to_string(folder.join(format!("{name}.in.yaml"))).unwrap().replace("VERSION", VERSION);
        let directive = |key: &str| {
            let prefix = format!("# {key}: ");
            text.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
        };
        let manner = directive("manner").unwrap_or_else(|| panic!("{name}: no manner"));
        let namespace = directive("namespace").unwrap_or_else(|| "shop".into());
        let config = Config::from_yaml(&directive("config").unwrap_or_else(|| "{}".into())).expect(&name);
        let documents = serde_saphyr::from_multiple::<Value>(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        Case { name, manner, namespace, config, documents }
    };
    names.into_iter().map(case).collect()
}

fn outcome(case: &Case) -> String {
    let mut out = String::new();
    for document in &case.documents {
        if case.manner == "webhook" {
            match inject(document, &NamespaceFacts { name: case.namespace.clone() }, &case.config, &secret) {
                Ok(Outcome::Injected { pod, patch }) => {
                    let operations: Vec<_> = patch.0.iter().map(|operation| operation.path().to_string()).collect();
                    writeln!(out, "# injected: {}\n---\n{}", operations.join(" "), yaml(&pod)).unwrap();
                }
                Ok(Outcome::Skipped { reason }) => writeln!(out, "# skipped ({}): {reason}", reason.slug()).unwrap(),
                Err(refusal) => writeln!(out, "# refused: {refusal}").unwrap(),
            }
        } else {
            let (injected, reports) = inject_document(document, manner(case), &case.namespace, &case.config, &secret);
            for report in reports {
                writeln!(out, "# {} {}: {:?}", report.kind, report.name, report.change).unwrap();
            }
            writeln!(out, "---\n{}", yaml(&injected)).unwrap();
        }
    }
    out.trim_end().replace(VERSION, "VERSION") + "\n"
}

fn manner(case: &Case) -> Manner {
    match &*case.manner {
        "manual" => Manner::Manual,
        "label" => Manner::Label,
        other => panic!("{}: manner {other}", case.name),
    }
}

fn yaml(value: &Value) -> String {
    let text = serde_saphyr::to_string(value).unwrap();
    assert_eq!(&serde_saphyr::from_str::<Value>(&text).unwrap(), value, "what is written reads the same");
    text.trim_end().to_owned()
}

#[test]
fn injections_are_what_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let (path, now) = (folder.join(format!("{}.out.yaml", case.name)), outcome(&case));
        if update {
            fs::write(path, now).unwrap();
        } else if fs::read_to_string(&path).ok().as_deref() != Some(&now) {
            wrong.push(format!("--- {} is now:\n{now}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}\nRun with UPDATE_GOLDEN=1 and read the difference.", wrong.join("\n"));
}

#[test]
fn injecting_twice_is_injecting_once() {
    for case in cases() {
        for document in &case.documents {
            if case.manner == "webhook" {
                let namespace = NamespaceFacts { name: case.namespace.clone() };
                let Ok(Outcome::Injected { pod, .. }) = inject(document, &namespace, &case.config, &secret) else {
                    continue;
                };
                let again = inject(&pod, &namespace, &case.config, &secret).unwrap();
                assert!(
                    matches!(&again, Outcome::Skipped { reason } if reason.slug() == "already-injected"),
                    "{}",
                    case.name
                );
            } else {
                let once = inject_document(document, manner(&case), &case.namespace, &case.config, &secret).0;
                let twice = inject_document(&once, manner(&case), &case.namespace, &case.config, &secret).0;
                assert_eq!(once, twice, "{}", case.name);
            }
        }
    }
}

#[test]
fn uninject_is_the_inverse() {
    let mut tried = 0;
    for case in cases().iter().filter(|case| case.manner != "webhook" && case.name != "deployment-old") {
        for document in &case.documents {
            let there = document.to_string().contains("meshctl.dev/inject\"");
            let injected = inject_document(document, manner(case), &case.namespace, &case.config, &secret).0;
            if injected != *document && !there {
                assert_eq!(uninject_document(&injected).0, *document, "{}", case.name);
                tried += 1;
            }
        }
    }
    assert!(tried >= 12, "only {tried} documents were tried");
}
