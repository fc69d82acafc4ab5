//! `meshctl install` and `helm template` give the same objects, in the same order, over many sets of values.
//!
//! `cargo xtask test` builds Helm; without it the test says aloud that it is skipped, and fails if `CI=true`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Parser;
use mesh_policy::well_known::CONTROL_NAMESPACE;
use serde_json::{Value, json};

use super::{definitions, identity, read_documents, render, values_args::ValuesArgs};
use crate::yaml;

/// Names it; `cargo xtask test` builds it and sets this, `cargo xtask tools` prints it.
const HELM: &str = "MESH_HELM";

/// Sets of values, as words that both commands take. `FILE:` is a file of values with the text that follows.
const SETS: &[&[&str]] = &[
    &[],
    &["--set", "ha=true"],
    &["--set", "namespace.create=true"],
    &["--set", "ha=true,namespace.create=true,networkPolicy.enabled=true"],
    &["--set", "networkPolicy.enabled=true"],
    &["--set", "monitoring.podMonitor=true,monitoring.scrapeAnnotations=true"],
    &["--set", "monitoring.scrapeAnnotations=true", "--set-string", r"podAnnotations.prometheus\.io/port=9100"],
    &["--set", "image.registry=registry.example:5000/m/esh,image.tag=1.2.3-rc.1"],
    &["--set", "image.pullPolicy=Always"],
    &["--set-string", "image.tag=12"],
    &["--set", "imagePullSecrets={one,two}"],
    &["--set", "imagePullSecrets[1]=b,imagePullSecrets[0]=a"],
    &["--set", "trustDomain=corp.example,clusterDomain=k8s.corp.example"],
    &["--set", "clusterNetworks={10.96.0.0/12,fd00:10:96::/112}"],
    &["--set", r"logLevel=info\,mesh_controller::source=debug"],
    &["--set", "identity.external=true"],
    &["--set", "identity.external=true,identity.trustAnchorsConfigMap=roots"],
    &["--set", "identity.leafLifetime=30m"],
    &["--set", "identity.replicas=3"],
    &["--set", "destination.replicas=5,injector.replicas=1,ha=true"],
    &["--set", "injector.resources.limits.cpu=2,injector.resources.requests.cpu=500m"],
    &["--set", "destination.resources.limits=null"],
    &["--set", "identity.resources.limits.memory=null"],
    &["--set", "webhook.failurePolicy=Ignore"],
    &["--set", "admissionPolicies.enabled=false"],
    &["--set", "proxy.image=registry.example/other@sha256:0123456789abcdef"],
    &["--set", "proxy.workers=4,proxy.uid=2102,proxy.shutdownGraceSeconds=0,proxy.nativeSidecar=false"],
    &["--set", "proxy.opaquePorts={25,3306-3310},proxy.skipInboundPorts={22},proxy.skipOutboundPorts={443,8443}"],
    &["--set", "proxy.logLevel=warn", "--set", "proxy.resources.limits.cpu=1,proxy.resources.requests.memory=32Mi"],
    &["--set", "init.enabled=false,preStopSeconds=0,preStopSleep=false"],
    &["--set", r"podLabels.team=net,podLabels.a\.example/b=c"],
    &["--set-string", r"podAnnotations.a\.example/number=1,podAnnotations.yes=no"],
    &["--set", r"nodeSelector.kubernetes\.io/os=null"],
    &["--set", r"nodeSelector.kubernetes\.io/arch=arm64"],
    &["--set", "tolerations[0].key=dedicated,tolerations[0].operator=Exists,tolerations[0].tolerationSeconds=60"],
    &["--set", "priorityClassName=system-cluster-critical"],
    &["FILE:ha: true\nproxy: {workers: 2, opaquePorts: [25, '3306-3310']}\ninit: {resources: {limits: {cpu: 0.5}}}\n"],
    &["FILE:ha: true\npodLabels: {a: b}\n", "FILE:ha: false\npodLabels: {c: 'd: \"e\" #f'}\n"],
    &["FILE:proxy: {workers: 2}\n", "--set", "proxy.workers=3"],
    &["FILE:{}\n"],
    &["FILE:# nothing\n"],
    &[
        "FILE:tolerations:\n- {key: a, operator: Equal, value: 'true', effect: NoSchedule}\n- operator: Exists\npodAnnotations: {text: \"two\\nlines\", number: '012'}\n",
    ],
];

/// Values that both refuse, and words that both say of it.
const REFUSED: &[(&[&str], &str)] = &[
    (&["--set", "identity.issuer.key="], "--set-file identity.issuer.key"),
    (&["--set", "identity.trustAnchors="], "--set-file identity.trustAnchors"),
    (&["--set", "proxy.threads=3"], "threads"),
    (&["--set", "ha=maybe"], "ha"),
    (&["--set", "monitoring.podMonitor=maybe"], "podMonitor"),
    (&["--set", "proxy.workers=0"], "workers"),
    (&["--set", "proxy.workers=null"], "workers"),
    (&["--set", "image.pullPolicy=Sometimes"], "IfNotPresent"),
    (&["--set", "trustDomain=A_b"], "trustDomain"),
    (&["--set", "podLabels=text"], "podLabels"),
    (&["--set", "a"], "a"),
];

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    values: ValuesArgs,
}

/// The words with names of files, and the same with what signs.
struct Words {
    _folder: tempfile::TempDir,
    words: Vec<String>,
}

impl Words {
    fn new(set: &[&str], signing: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: String, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let mut words = vec!["--values".to_owned(), file("signing.yaml".to_owned(), &yaml::write(signing))];
        for (n, word) in set.iter().enumerate() {
            match word.strip_prefix("FILE:") {
                Some(text) => words.extend(["--values".to_owned(), file(format!("{n}.yaml"), text)]),
                None => words.push((*word).to_owned()),
            }
        }
        Self { _folder: folder, words }
    }

    /// The objects by meshctl.
    fn ours(&self) -> Result<Vec<Value>, String> {
        let line = Line::try_parse_from(["install".to_owned()].iter().chain(&self.words)).map_err(|e| e.to_string())?;
        let given = line.values.over(json!({})).map_err(|error| format!("{error:#}"))?;
        let rendered = render(given).map_err(|error| error.to_string())?;
        let definitions = definitions().map_err(|error| error.to_string())?;
        Ok(definitions.into_iter().chain(rendered).map(|manifest| manifest.object).collect())
    }

    /// The objects by Helm.
    fn helms(&self, helm: &Path) -> Result<Vec<Value>, String> {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/mesh");
        let mut command = Command::new(helm);
        command
            .args([
                "template",
                "mesh",
                chart,
                "--namespace",
                CONTROL_NAMESPACE,
                "--kube-version",
                "1.34.0",
                "--include-crds",
            ])
            .args(&self.words);
        let output = command.output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(read_documents(&String::from_utf8(output.stdout).unwrap()).unwrap())
    }
}

/// YAML inside ConfigMaps is compared as what it says.
fn opened(mut objects: Vec<Value>) -> Vec<Value> {
    for object in &mut objects {
        if object["kind"] == "ConfigMap"
            && let Some(Value::Object(data)) = object.get_mut("data")
        {
            for (name, value) in data.iter_mut().filter(|(name, _)| name.ends_with(".yaml")) {
                let text = value.as_str().unwrap_or_else(|| panic!("{name} is no text"));
                *value = serde_saphyr::from_str(text).unwrap();
            }
        }
    }
    objects
}

#[test]
fn every_set_is_rendered_by_both_to_the_same() {
    assert!(SETS.len() >= 30);
    let Some(helm) = env::var_os(HELM).map(PathBuf::from) else {
        assert!(env::var("CI").as_deref() != Ok("true"), "there is no Helm: `cargo xtask test` builds it with Go");
        // Not by a macro: those are kept back for tests that pass.
        let _ =
            writeln!(std::io::stderr(), "\n!!! SKIPPED: Helm is not built. `cargo xtask test` builds it with Go.\n");
        return;
    };
    let signing = identity::make("cluster.local").unwrap().material.values();
    for set in SETS {
        let words = Words::new(set, &signing);
        let (ours, helms) = (words.ours(), words.helms(&helm));
        let (ours, helms) =
            (ours.unwrap_or_else(|e| panic!("{set:?}: {e}")), helms.unwrap_or_else(|e| panic!("{set:?}: {e}")));
        assert!(ours.len() > 15, "{set:?}");
        let (ours, helms) = (opened(ours), opened(helms));
        let names = |objects: &[Value]| {
            objects.iter().map(|o| format!("{} {}", o["kind"], o["metadata"]["name"])).collect::<Vec<_>>()
        };
        assert_eq!(names(&ours), names(&helms), "{set:?}");
        for (ours, helms) in ours.iter().zip(&helms) {
            assert_eq!(yaml::write(ours), yaml::write(helms), "{set:?}");
        }
    }
    for (set, expected) in REFUSED {
        let words = Words::new(set, &signing);
        for (who, message) in [("meshctl", words.ours().unwrap_err()), ("helm", words.helms(&helm).unwrap_err())] {
            assert!(message.contains(expected), "{who}: {set:?}: {message}");
        }
    }
}
