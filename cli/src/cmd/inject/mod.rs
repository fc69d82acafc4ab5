//! `meshctl inject` and `meshctl uninject`: manifests in, manifests out. What is injected, and how, is `mesh-injector`'s
//! to say: these commands and the webhook can never differ.

mod documents;

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Parser;
use mesh_injector::{
    config::Config,
    manifest::{Change, Manner, PLACES, Report, inject_document, uninject_document},
    secret::Secret,
};
use mesh_policy::well_known::{CONTROL_NAMESPACE, INJECT_LABEL, MESH_INJECTOR};
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
            let what = "no manifest was named: give files or folders, or - for standard input\n";
            clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, what).exit();
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
            if !text.ends_with('\n') {
                text.push('\n');
            }
            if let Some(value) = &document.value {
                let (changed, reports) = change(value);
                for report in &reports {
                    output::note(&told(document, report, done));
                    refused += usize::from(matches!(report.change, Change::Refused(_)));
                    // Why an object is refused is told already.
                    let is_told = matches!(report.change, Change::Refused(_));
                    for told in report.misplaced.iter().filter(|told| !is_told && !told.is_refused) {
                        output::note(&format!(
                            "{}: not in force: {}: {}; {}",
                            object_of(report),
                            told.field,
                            told.what,
                            told.fix
                        ));
                    }
                }
                if changed != *value || document.is_json {
                    text = format!("{}{}\n", documents::leading_comments(&document.text), yaml::write(&changed));
                }
                objects.push(changed);
            }
            let between = if yaml_text.is_empty() { "" } else { "---\n" };
            let _ = write!(yaml_text, "{between}{text}");
        }
        if refused > 0 {
            bail!("{refused} of the objects cannot be {done}; nothing was printed");
        }
        if self.output == Format::Json {
            let list = |items: Vec<Value>| json!({ "apiVersion": "v1", "kind": "List", "items": items });
            let whole = if objects.len() == 1 { objects.remove(0) } else { list(objects) };
            output::line(&output::pretty(Format::Json, &whole)?)?;
        } else {
            // With the line breaks at its end, which may be a part of its last value.
            output::line(yaml_text.strip_suffix('\n').unwrap_or(&yaml_text))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `Kind namespace/name`, as far as the manifest says it.
fn object_of(report: &Report) -> String {
    let namespace = report.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    format!("{} {namespace}{}", report.kind, report.name)
}

/// What was done with an object, for people.
fn told(document: &Document, report: &Report, done: &str) -> String {
    let object = object_of(report);
    match &report.change {
        Change::Changed => format!("{object}: {done}"),
        Change::Same => format!("{object}: is so already"),
        Change::NoPods => format!("{object}: has no pods"),
        Change::Elsewhere { containers } => format!(
            "{object}: left as it is; no template of pods was found at {PLACES}, but there are containers at {containers}: \
             give the template there the label {INJECT_LABEL}=enabled yourself"
        ),
        Change::Skipped(skip) => format!("{object}: skipped, {skip}"),
        Change::Refused(refusal) => format!("{object} ({}:{}): REFUSED, {refusal}", document.file, document.line),
    }
}
