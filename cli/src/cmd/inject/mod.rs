//! `meshctl inject` and `meshctl uninject`: manifests in, manifests out. What is injected, and how, is `mesh-injector`'s
//! to say: these commands and the webhook can never differ.

mod documents;

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Parser;
use mesh_injector::{
    config::Config,
    manifest::{Change, Manner, Report, inject_document, uninject_document},
    secret::Secret,
};
use mesh_policy::well_known::{CONTROL_NAMESPACE, MESH_INJECTOR};
use serde_json::{Value, json};

use self::documents::Document;
use crate::{
    globals::Globals,
    kube::{Cluster, core_object},
    output::{self, Format, formats},
    yaml,
};

/// Manifests that are read, and the form in which they are printed.
#[derive(Debug, Parser)]
struct Manifests {
    /// Files and folders of manifests; - for standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Files and folders of manifests, as kubectl takes them
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    filenames: Vec<PathBuf>,
    /// How to print them
    #[arg(short, long, value_parser = formats(FORMATS), default_value_t = Format::Yaml)]
    output: Format,
}

/// What `-o` takes here.
const FORMATS: [(Format, &str); 2] = [
    (Format::Yaml, "YAML documents; what is not changed stays as it was written"),
    (Format::Json, "One JSON object, a List if there are several"),
];

/// Arguments of `meshctl inject`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  kubectl get deployment web -o yaml | meshctl inject - | kubectl apply -f -
  meshctl inject k8s/ | kubectl apply -f -
  meshctl inject --manual -f web.yaml > web-with-sidecar.yaml

Without --manual, pods get the label meshctl.dev/inject=enabled and the webhook does the rest.
What was done is said on standard error. Nothing is printed if one pod cannot be injected.
Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(crate) struct InjectArgs {
    #[command(flatten)]
    manifests: Manifests,
    /// Write the sidecar into the manifests, as the webhook would
    #[arg(long)]
    manual: bool,
    /// With --manual: the injector's configuration; by default that of the cluster
    #[arg(long, value_name = "FILE", requires = "manual")]
    config: Option<PathBuf>,
    /// With --manual: use this version's defaults instead of asking the cluster
    #[arg(long, requires = "manual", conflicts_with = "config")]
    ignore_cluster: bool,
}

/// Arguments of `meshctl uninject`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  kubectl get deployment web -o yaml | meshctl uninject - | kubectl apply -f -
  meshctl uninject k8s/ > k8s-without-mesh.yaml

Takes out the label, and whatever `meshctl inject --manual` wrote.
Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(crate) struct UninjectArgs {
    #[command(flatten)]
    manifests: Manifests,
}

/// Prints manifests with the mesh.
pub(crate) fn inject(args: &InjectArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let documents = args.manifests.read()?;
    let config = if args.manual { config(args, globals)? } else { Config::default() };
    let manner = if args.manual { Manner::Manual } else { Manner::Label };
    let namespace = globals.namespace.as_deref().unwrap_or("default");
    args.manifests
        .print(documents, "injected", |value| inject_document(value, manner, namespace, &config, &Secret::random))
}

/// Prints manifests without it.
pub(crate) fn uninject(args: &UninjectArgs) -> anyhow::Result<ExitCode> {
    args.manifests.print(args.manifests.read()?, "uninjected", uninject_document)
}

/// What the webhook of this cluster would add, or what a file or this version says.
fn config(args: &InjectArgs, globals: &Globals) -> anyhow::Result<Config> {
    if args.ignore_cluster {
        return Ok(Config::default());
    }
    if let Some(file) = &args.config {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        return Config::from_yaml(&text).with_context(|| file.display().to_string());
    }
    let instead = "give the injector's configuration with --config FILE, or use this version's with --ignore-cluster";
    let read = async {
        let cluster = Cluster::connect(globals).await?;
        Ok(cluster.get(&core_object(CONTROL_NAMESPACE, "configmaps", MESH_INJECTOR)).await?)
    };
    let found: Value = super::block_on(read)
        .with_context(|| format!("the injector's configuration could not be read from the cluster ({instead})"))?;
    let text = found.pointer("/data/config.yaml").and_then(Value::as_str).unwrap_or_default();
    Config::from_yaml(text).with_context(|| format!("ConfigMap {CONTROL_NAMESPACE}/{MESH_INJECTOR}, key config.yaml"))
}

impl Manifests {
    fn read(&self) -> anyhow::Result<Vec<Document>> {
        let names: Vec<PathBuf> = self.files.iter().chain(&self.filenames).cloned().collect();
        if names.is_empty() {
            bail!("no manifest was named: give files or folders, or - for standard input");
        }
        documents::read(&names)
    }

    /// Changes each document, notes what was done, and prints everything, or nothing if an object was refused.
    fn print(
        &self,
        documents: Vec<Document>,
        done: &str,
        change: impl Fn(&Value) -> (Value, Vec<Report>),
    ) -> anyhow::Result<ExitCode> {
        let (mut yaml_text, mut objects, mut refused) = (String::new(), Vec::new(), 0);
        for document in &documents {
            let mut text = document.text.clone();
            if let Some(value) = &document.value {
                let (changed, reports) = change(value);
                for report in &reports {
                    output::note(&told(document, report, done));
                    refused += usize::from(matches!(report.change, Change::Refused(_)));
                }
                if changed != *value {
                    text = documents::leading_comments(&document.text) + &yaml::write(&changed);
                }
                objects.push(changed);
            }
            let between = if yaml_text.is_empty() { "" } else { "---\n" };
            let _ = writeln!(yaml_text, "{between}{}", text.trim_end_matches('\n'));
        }
        if refused > 0 {
            bail!("{refused} of the objects cannot be {done}; nothing was printed");
        }
        if self.output == Format::Json {
            let list = |items: Vec<Value>| json!({ "apiVersion": "v1", "kind": "List", "items": items });
            let whole = if objects.len() == 1 { objects.remove(0) } else { list(objects) };
            output::line(&output::pretty(Format::Json, &whole)?)?;
        } else {
            output::line(yaml_text.trim_end_matches('\n'))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What was done with an object, for people.
fn told(document: &Document, report: &Report, done: &str) -> String {
    let namespace = report.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let object = format!("{} {namespace}{}", report.kind, report.name);
    match &report.change {
        Change::Changed => format!("{object}: {done}"),
        Change::Same => format!("{object}: is so already"),
        Change::NoPods => format!("{object}: has no pods"),
        Change::Skipped(skip) => format!("{object}: skipped, {skip}"),
        Change::Refused(refusal) => format!("{object} ({}:{}): REFUSED, {refusal}", document.file, document.line),
    }
}
