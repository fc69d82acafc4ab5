//! `meshctl install`: the manifests of the control plane, for `kubectl apply -f -`.
//!
//! It writes nothing into a cluster. It looks whether Mesh is there already, since a second install would replace the
//! identity that running pods trust. The chart is in `crate::chart`.

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Parser;
use mesh_policy::well_known::{CONTROL_NAMESPACE, INJECT_LABEL, ISSUER_SECRET};
use serde_json::json;

use crate::{
    chart::{
        self, identity,
        installed::{Extent, Installed},
        print,
        values_args::{Signing, ValuesArgs, sign},
    },
    clock,
    globals::Globals,
    kube::{Cluster, ClusterError, core_object},
    output::{self, Format, formats},
};

/// How long the look at the cluster may take: manifests are printed also where no cluster answers.
const LOOK: Duration = Duration::from_secs(5);
/// The Gateway API's own definitions, its standard channel (Apache-2.0, The Kubernetes Authors).
pub(crate) const GATEWAY_API: &str = include_str!("../../gateway-api/standard-v1.6.3.yaml");

/// Arguments of `meshctl install`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl install | kubectl apply -f -
  meshctl install --ha --image-registry registry.example/mesh | kubectl apply -f -
  meshctl install --values mesh.yaml --set proxy.workers=2 -o yaml > mesh-manifests.yaml
  meshctl install --gateway-api-crds | kubectl apply --server-side -f -

A trust anchor (10 years) and an issuer (1 year) are made when none is given.
Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(crate) struct Args {
    #[command(flatten)]
    values: ValuesArgs,
    /// Where the key of the trust anchor that is made goes; otherwise it is not kept
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    identity_anchor_key_out: Option<PathBuf>,
    /// Leave out the CustomResourceDefinitions of Mesh (policy.meshctl.dev)
    #[arg(long)]
    skip_crds: bool,
    /// Print the CustomResourceDefinitions of the Gateway API v1.6.3 and nothing else
    #[arg(long)]
    gateway_api_crds: bool,
    /// Do not look whether Mesh is installed already
    #[arg(long)]
    ignore_cluster: bool,
    /// How to print it
    #[arg(short, long, value_parser = formats(print::FORMATS))]
    output: Option<Format>,
}

/// Prints the manifests.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    if args.gateway_api_crds {
        return gateway_api(args);
    }
    let format = print::wanted(args.output, "meshctl install | kubectl apply -f -")?;
    only_namespace(globals)?;
    // Helm needs the namespace before the chart; kubectl is given it with the rest, unless it is somebody else's.
    let found = if args.ignore_cluster { Room::unknown() } else { super::block_on(absent(globals))? };
    let mut given = args.values.over(json!({"namespace": {"create": found.create_namespace}}))?;
    let signing = sign(&mut given)?;
    if let (Signing::Made(_), Some(server)) = (&signing, &found.issuer_at) {
        bail!(
            "the Secret {CONTROL_NAMESPACE}/{ISSUER_SECRET} is at {server} already, and a new identity would take its place. If \
             something else keeps it (cert-manager), give --identity-external-issuer; if it is left from an installation that no \
             pod trusts any more, delete it: kubectl -n {CONTROL_NAMESPACE} delete secret {ISSUER_SECRET}"
        );
    }
    if args.identity_anchor_key_out.is_some() && !matches!(signing, Signing::Made(_)) {
        bail!("--identity-anchor-key-out is for an anchor that is made here, and the trust anchors were given");
    }
    let mut manifests = if args.skip_crds { Vec::new() } else { chart::definitions()? };
    manifests.extend(chart::render(given)?);
    tell(&signing, args.identity_anchor_key_out.as_deref())?;
    print::manifests(format, &manifests)?;
    Ok(ExitCode::SUCCESS)
}

/// The names of the control plane are fixed: refuses another namespace.
pub(crate) fn only_namespace(globals: &Globals) -> anyhow::Result<()> {
    match globals.namespace.as_deref() {
        None | Some(CONTROL_NAMESPACE) => Ok(()),
        Some(other) => bail!(
            "Mesh is installed into the namespace {CONTROL_NAMESPACE} only, not into {other}; leave out --namespace"
        ),
    }
}

/// What an install finds where no Mesh is.
struct Room {
    /// Whether the namespace is ours to make.
    create_namespace: bool,
    /// The server that has a Secret mesh-issuer already.
    issuer_at: Option<String>,
}

impl Room {
    /// Of a cluster that was not asked.
    fn unknown() -> Self {
        Self { create_namespace: true, issuer_at: None }
    }
}

/// Refuses when Mesh is in the cluster already, wholly or half, and when that cannot be seen: what is printed goes to
/// `kubectl apply`, and would replace the identity of an installation. Where no cluster is known there is none to ask.
async fn absent(globals: &Globals) -> anyhow::Result<Room> {
    let named = globals.context.is_some() || globals.kubeconfig.is_some();
    let look = async {
        let cluster = Cluster::connect(globals).await?;
        let found = Installed::look(&cluster).await?;
        let has_issuer = match cluster.find(&core_object(CONTROL_NAMESPACE, "secrets", ISSUER_SECRET)).await {
            Ok(found) => found.is_some(),
            // Whoever may not read it may not replace it either; kubectl will say so.
            Err(error) if error.is_forbidden() => false,
            Err(error) => return Err(error),
        };
        Ok::<_, ClusterError>((found, has_issuer, cluster.server().to_owned()))
    };
    let unknown = "whether Mesh is installed there already is unknown; --ignore-cluster does not look";
    let (found, has_issuer, server) = match tokio::time::timeout(LOOK, look).await {
        Ok(Ok(found)) => found,
        Ok(Err(ClusterError::NoKubeconfig { .. })) if !named => return Ok(Room::unknown()),
        Ok(Err(error)) => return Err(error).context(unknown),
        Err(_) => bail!("{unknown}: the cluster did not answer within {} s", LOOK.as_secs()),
    };
    judge(&found, &server)?;
    if found.is_in_anothers_namespace() {
        output::note(&format!(
            "note: the namespace {CONTROL_NAMESPACE} is there and stays as it is. Label it, so that our own pods are never injected: \
             kubectl label namespace {CONTROL_NAMESPACE} {INJECT_LABEL}=disabled"
        ));
    }
    Ok(Room { create_namespace: !found.is_in_anothers_namespace(), issuer_at: has_issuer.then_some(server) })
}

/// Whether an install may follow, by what is in the cluster.
fn judge(found: &Installed, server: &str) -> anyhow::Result<()> {
    let version = found.version().unwrap_or("of an unknown version");
    let upgrade =
        if found.is_helms() { "`helm upgrade`: Helm installed it" } else { "`meshctl upgrade | kubectl apply -f -`" };
    match found.extent() {
        Extent::None => Ok(()),
        Extent::Whole => bail!(
            "Mesh {version} is installed at {server} already; change or upgrade it with {upgrade}. A second install would \
             replace the identity that running pods trust (--ignore-cluster prints the manifests all the same)"
        ),
        Extent::Ending => bail!(
            "the namespace {CONTROL_NAMESPACE} at {server} is being deleted; wait for it: kubectl wait --for=delete \
             namespace/{CONTROL_NAMESPACE}"
        ),
        Extent::Half { there, missing } => bail!(
            "Mesh {version} is half installed at {server}: there is {}; missing is {}.{} Complete it with {upgrade}, which \
             keeps the identity, or remove it with `meshctl uninstall | kubectl delete -f -` and install again",
            there.join(", "),
            missing.join(", "),
            match found.age() {
                Some(age) if (0..120).contains(&age) => format!(
                    " Its youngest object was made {} ago: another install may be under way, then wait for it.",
                    clock::span(age)
                ),
                _ => String::new(),
            }
        ),
    }
}

/// Prints which identity is used, and writes the anchor's key where that was asked for.
pub(super) fn tell(signing: &Signing, key_out: Option<&Path>) -> anyhow::Result<()> {
    match signing {
        Signing::Made(made) => {
            for line in made.material.describe() {
                output::note(&format!("made {line}"));
            }
            match key_out {
                Some(file) => {
                    write_key(file, &made.anchor_key)?;
                    output::note(&format!("the anchor's key is in {}: keep it offline", file.display()));
                }
                None => output::note(
                    "the anchor's key is not kept: the next issuer needs a new anchor (--identity-anchor-key-out FILE keeps it)",
                ),
            }
        }
        Signing::Given(material) => {
            for line in material.describe() {
                output::note(&format!("given {line}"));
            }
        }
        Signing::External { anchors } => {
            for line in identity::describe("trust anchor", anchors) {
                output::note(&format!("given {line}"));
            }
            output::note(
                "the Secret mesh-system/mesh-issuer (tls.crt, tls.key, ca.crt) is kept by something else; mesh-identity waits for it",
            );
        }
    }
    Ok(())
}

/// Writes a key into a new file that only its owner can read; never over an existing one.
fn write_key(file: &Path, key: &str) -> anyhow::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(key.as_bytes()).and_then(|()| opened.sync_all()));
    written.with_context(|| format!("the anchor's key cannot be written to {} (which must not exist)", file.display()))
}

fn gateway_api(args: &Args) -> anyhow::Result<ExitCode> {
    match print::wanted(args.output, "meshctl install --gateway-api-crds | kubectl apply --server-side -f -")? {
        Format::Json => {
            let objects = chart::read_documents(GATEWAY_API).context("the Gateway API's definitions")?;
            print::manifests(Format::Json, &print::plain(objects))?;
        }
        _ => output::line(GATEWAY_API.trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::Value;

    use super::*;
    use crate::chart::installed::PARTS;

    fn object(name: &str, by: &str) -> Value {
        let labels = json!({"app.kubernetes.io/version": "0.1.0", "app.kubernetes.io/managed-by": by});
        json!({"metadata": {"name": name, "labels": labels, "creationTimestamp": clock::format(clock::now() - 5)}})
    }

    #[test]
    fn what_is_there_already_is_said_with_the_next_step() {
        let message = |found: &Installed| judge(found, "https://k").unwrap_err().to_string();
        judge(&Installed::default(), "https://k").unwrap();
        let mut found = Installed { bundle: Some(object("mesh-trust-bundle", "meshctl")), ..Installed::default() };
        let half = message(&found);
        assert!(
            half.contains("half installed") && half.contains("made 5 s ago") && half.contains("uninstall"),
            "{half}"
        );
        found.deployments = PARTS.map(|part| object(part, "meshctl")).into();
        found.values = Some(object("mesh-values", "meshctl"));
        found.webhook = Some(object("mesh-injector", "meshctl"));
        let whole = message(&found);
        assert!(whole.contains("Mesh 0.1.0 is installed") && whole.contains("meshctl upgrade"), "{whole}");
        found.deployments = PARTS.map(|part| object(part, "Helm")).into();
        assert!(message(&found).contains("helm upgrade"), "{}", message(&found));
        found.namespace = Some(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        assert!(message(&found).contains("being deleted"), "{}", message(&found));
    }

    #[test]
    fn the_anchors_key_is_for_its_owner_and_replaces_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        write_key(&file, "secret").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(format!("{:#}", write_key(&file, "other").unwrap_err()).contains("must not exist"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "secret");
    }

    #[test]
    fn an_issuance_lifetime_reaches_the_arguments() {
        let args = Args::try_parse_from(["install", "--identity-issuance-lifetime", "30m", "--ha"]).unwrap();
        let mut given = args.values.over(json!({})).unwrap();
        sign(&mut given).unwrap();
        let manifests = chart::render(given).unwrap();
        let identity = manifests
            .iter()
            .find(|m| m.object["kind"] == "Deployment" && m.object["metadata"]["name"] == "mesh-identity");
        let text = &identity.unwrap().text;
        assert!(text.contains("--leaf-lifetime=30m") && text.contains("replicas: 2"), "{text}");
    }
}
