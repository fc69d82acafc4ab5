//! `meshctl upgrade`: the manifests of this version for a cluster that has Mesh, with the identity and the values that
//! it has.
//!
//! It writes nothing into the cluster; `--dry-run` shows what applying would change, as the API server sees it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Parser;
use http::Method;
use mesh_policy::well_known::{CONTROL_NAMESPACE, ISSUER_SECRET, VALUES_CONFIG_MAP, VERSION_LABEL};
use serde_json::{Value, json};

use crate::{
    chart::{
        self, Manifest, diff,
        identity::{self, Material},
        installed::{self, Extent, FoundIssuer, Installed},
        print, values,
        values_args::{Signing, ValuesArgs, sign},
    },
    globals::Globals,
    kube::{Cluster, path, trust_bundle, value},
    output::{self, Format, formats},
    yaml,
};

/// How many minor versions control plane and sidecars may be apart.
const SKEW: u64 = 1;

/// Arguments of `meshctl upgrade`.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  meshctl upgrade --dry-run                         # what would change
  meshctl upgrade | kubectl apply -f -
  meshctl upgrade --set proxy.logLevel=warn | kubectl apply -f -
  kubectl -n shop rollout restart deployment        # afterwards: new sidecars
  meshctl upgrade --identity-anchor-key-file anchor.key | kubectl apply -f -   # the next issuer
  meshctl upgrade --new-identity | kubectl apply -f -   # the Secret mesh-issuer is lost

What is lost is never made up: without the stored values (ConfigMap mesh-values) or the issuer (Secret mesh-issuer)
nothing is printed unless it is said what to do.
Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub(crate) struct Args {
    #[command(flatten)]
    values: ValuesArgs,
    /// Begin with the defaults: forget the values of the installation, or do without them where they are lost. The
    /// identity is kept
    #[arg(long)]
    reset_values: bool,
    /// Make the next issuer, for a year, with the key of the trust anchor (`meshctl install --identity-anchor-key-out`)
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    identity_anchor_key_file: Option<PathBuf>,
    /// Make a new trust anchor and issuer where the Secret mesh-issuer is lost
    #[arg(long, help_heading = "Identity", conflicts_with = "identity_anchor_key_file")]
    new_identity: bool,
    /// With --new-identity: where the key of the new trust anchor goes; otherwise it is not kept
    #[arg(long, value_name = "FILE", help_heading = "Identity", requires = "new_identity")]
    identity_anchor_key_out: Option<PathBuf>,
    /// Go on although sidecars are of versions that this one does not serve
    #[arg(long)]
    force: bool,
    /// Print what would change in the cluster, and no manifests
    #[arg(long, conflicts_with = "output")]
    dry_run: bool,
    /// Leave out the CustomResourceDefinitions of Mesh (policy.meshctl.dev)
    #[arg(long)]
    skip_crds: bool,
    /// How to print it
    #[arg(short, long, value_parser = formats(print::FORMATS))]
    output: Option<Format>,
}

/// Prints the manifests, or what they would change.
pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    super::install::only_namespace(globals)?;
    let format =
        if args.dry_run { Format::Yaml } else { print::wanted(args.output, "meshctl upgrade | kubectl apply -f -")? };
    super::block_on(async {
        let cluster = Cluster::connect(globals).await?;
        let found = Installed::look(&cluster).await?;
        may_upgrade(&found, cluster.server())?;
        check_skew(&cluster, &found, args.force).await?;
        let given = kept(args, &cluster, &found).await?;
        if let Extent::Half { missing, .. } = found.extent() {
            output::note(&format!("note: the installation is not whole; this adds {}", missing.join(", ")));
        }
        let mut manifests = if args.skip_crds { Vec::new() } else { chart::definitions()? };
        manifests.extend(chart::render(given)?);
        tell_leftovers(&cluster, &manifests).await?;
        if args.dry_run {
            return difference(&cluster, &manifests).await;
        }
        print::manifests(format, &manifests)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn may_upgrade(found: &Installed, server: &str) -> anyhow::Result<()> {
    match found.extent() {
        Extent::None => {
            bail!("Mesh is not installed at {server}; install it with `meshctl install | kubectl apply -f -`")
        }
        Extent::Ending => {
            bail!("the namespace {CONTROL_NAMESPACE} at {server} is being deleted; wait for it, then `meshctl install`")
        }
        _ if found.is_helms() => bail!("Helm installed Mesh at {server}, and knows its values: use `helm upgrade`"),
        Extent::Half { .. } | Extent::Whole => Ok(()),
    }
}

/// Refuses a control plane that could not serve what runs.
async fn check_skew(cluster: &Cluster, found: &Installed, force: bool) -> anyhow::Result<()> {
    let ours = env!("CARGO_PKG_VERSION");
    let Some(theirs) = found.version() else {
        bail!(
            "the version of the installation is unknown: its objects have no label app.kubernetes.io/version; remove it with `meshctl uninstall` and install again"
        );
    };
    if let Some(why) = too_far(theirs, ours) {
        bail!(
            "Mesh {theirs} cannot become {ours} at once: {why}; use a meshctl of a version between, or of the installation's own"
        );
    }
    let pods = match installed::injected_pods(cluster).await {
        Ok(pods) => pods,
        Err(error) if error.is_forbidden() => {
            output::note(&format!("note: the versions of sidecars were not seen: {error}"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let old: Vec<Value> =
        pods.into_iter().filter(|pod| too_far(value::label(pod, VERSION_LABEL), ours).is_some()).collect();
    if !old.is_empty() {
        let text = format!(
            "Mesh {ours} cannot serve the sidecars of {}: they are more than {SKEW} minor version apart",
            installed::named(&old)
        );
        if !force {
            bail!(
                "{text}; restart those pods first (kubectl rollout restart), so that they get the installed version's; --force goes \
                 on all the same"
            );
        }
        output::note(&format!("warning: {text}"));
    }
    Ok(())
}

/// Why two versions cannot work together, if so.
fn too_far(theirs: &str, ours: &str) -> Option<String> {
    let read = |version: &str| {
        let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u64>().ok());
        Some((parts.next()??, parts.next()??))
    };
    match (read(theirs), read(ours)) {
        (Some((major, _)), Some((other, _))) if major != other => Some("the major versions differ".to_owned()),
        (Some((_, minor)), Some((_, other))) if minor.abs_diff(other) > SKEW => {
            Some(format!("they are {} minor versions apart, and {SKEW} is served", minor.abs_diff(other)))
        }
        (Some(_), Some(_)) => None,
        _ => Some(format!("{theirs:?} is no version")),
    }
}

/// The values and the identity of the cluster, with what was given laid over.
async fn kept(args: &Args, cluster: &Cluster, found: &Installed) -> anyhow::Result<Value> {
    let mut base = if args.reset_values { json!({}) } else { stored(found)? };
    // An object of the installation stays in it, whatever values are reset.
    let ours = found.namespace.is_some() && !found.is_in_anothers_namespace();
    values::merge(&mut base, json!({"namespace": {"create": ours}}));
    values::take_away(&mut base)?;
    let all = values::with_defaults(base.clone())?;
    values::Values::read(&all).context(
        "the values of the installation, in the ConfigMap mesh-system/mesh-values, are not those of this version; correct \
         them there, or begin with the defaults (--reset-values)",
    )?;
    let over = args.values.over(base)?;
    let issuer = installed::issuer(cluster).await?;
    let external = is_external(&over, issuer.as_ref())?;
    let mut given = identity_of(issuer.map(|issuer| issuer.material), found.bundle.as_ref(), external);
    values::merge(&mut given, over);
    if let Some(file) = &args.identity_anchor_key_file {
        next_issuer(&mut given, file, external)?;
    }
    let signing = sign(&mut given)
        .context("the identity of the installation (Secret mesh-system/mesh-issuer), with what was given")?;
    tell_identity(args, &signing)?;
    Ok(given)
}

/// The values of the installation; where they are lost, whoever upgrades must give them.
fn stored(found: &Installed) -> anyhow::Result<Value> {
    found.stored_values()?.with_context(|| {
        format!(
            "the values of the installation are lost: there is no ConfigMap {CONTROL_NAMESPACE}/{VALUES_CONFIG_MAP} with them; put it \
             back (from a backup, or from the manifests that were applied), or begin with the defaults and say again \
             what was set: meshctl upgrade --reset-values --values FILE"
        )
    })
}

/// Whether something else keeps the issuer, by the values or by what was given; where neither says so, the Secret must.
fn is_external(given: &Value, issuer: Option<&FoundIssuer>) -> anyhow::Result<bool> {
    let external = &given["identity"]["external"];
    if external.is_null() && issuer.is_some_and(|issuer| !issuer.is_ours) {
        bail!(
            "the Secret {CONTROL_NAMESPACE}/{ISSUER_SECRET} does not carry the labels of an installation: say whether something else \
             keeps it (--identity-external-issuer) or not (--set identity.external=false)"
        );
    }
    Ok(*external == true)
}

/// The identity that is there, as values of the chart.
fn identity_of(issuer: Option<Material>, bundle: Option<&Value>, external: bool) -> Value {
    match (issuer, bundle) {
        (Some(material), _) if !external => material.values(),
        // What is trusted now, wherever mesh-identity has it from.
        (_, Some(bundle)) if external => json!({"identity": {"trustAnchors": trust_bundle::text(bundle)}}),
        (Some(material), None) => json!({"identity": {"trustAnchors": material.anchors}}),
        _ => json!({}),
    }
}

/// Prints which identity is used; refuses a new one that nobody asked for.
fn tell_identity(args: &Args, signing: &Signing) -> anyhow::Result<()> {
    match signing {
        Signing::Made(_) if !args.new_identity => bail!(
            "the issuer of the installation is lost: there is no Secret {CONTROL_NAMESPACE}/{ISSUER_SECRET} with one. A new identity \
             would be a new trust anchor for the whole cluster. mesh-identity goes on with what it holds until it is restarted; \
             meanwhile put the Secret back (from a backup, or from the manifests that were applied), give the files \
             (--identity-trust-anchors-file, --identity-issuer-certificate-file, --identity-issuer-key-file), or have \
             one made: --new-identity"
        ),
        Signing::Made(_) => {
            super::install::tell(signing, args.identity_anchor_key_out.as_deref())?;
            output::note(
                "note: sidecars take the new trust anchor and new certificates by themselves within seconds after this is applied; \
                 until each has, new connections between some may fail. No pod has to be restarted",
            );
        }
        _ if args.new_identity => bail!(
            "--new-identity is for an installation that has lost its issuer, and there is one; for other trust anchors see \
             docs/identity.md, \"New anchors\""
        ),
        Signing::Given(material) => {
            for line in material.describe() {
                let is_new = args.identity_anchor_key_file.is_some() && line.starts_with("issuer");
                output::note(&format!("{} {line}", if is_new { "made" } else { "kept" }));
            }
        }
        Signing::External { anchors } => {
            identity::describe("trust anchor", anchors).iter().for_each(|line| output::note(&format!("kept {line}")));
        }
    }
    Ok(())
}

/// Replaces the issuer in the values by a new one, under an anchor that is trusted already.
fn next_issuer(given: &mut Value, file: &Path, external: bool) -> anyhow::Result<()> {
    if external {
        bail!("something else keeps the issuer of this installation (identity.external): it makes the next one");
    }
    let key = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let all = values::Values::read(&values::with_defaults(given.clone())?)?;
    let next = identity::renew(&all.trust_domain, &all.identity.trust_anchors, &key)?;
    values::merge(given, next.values());
    Ok(())
}

/// Kinds that an installation has with certain values only: `kubectl apply` does not remove their objects.
const OPTIONAL: [(&str, &str, &str); 2] = [
    ("PodDisruptionBudget", "policy", "poddisruptionbudgets"),
    ("NetworkPolicy", "networking.k8s.io", "networkpolicies"),
];

/// Names the objects of ours in the cluster that this version, with these values, no longer has.
async fn tell_leftovers(cluster: &Cluster, manifests: &[Manifest]) -> anyhow::Result<()> {
    for (kind, group, resource) in OPTIONAL {
        let list = path(&["apis", group, "v1", "namespaces", CONTROL_NAMESPACE, resource]);
        let there = match cluster.list(&list, "labelSelector=app.kubernetes.io%2Fpart-of%3Dmesh").await {
            Ok(there) => there,
            Err(error) if error.is_forbidden() => continue,
            Err(error) => return Err(error.into()),
        };
        for left in there.iter().map(value::name).filter(|name| !has(manifests, kind, name)) {
            output::note(&format!(
                "no longer needed: kubectl -n {CONTROL_NAMESPACE} delete {} {left}",
                kind.to_lowercase()
            ));
        }
    }
    Ok(())
}

fn has(manifests: &[Manifest], kind: &str, name: &str) -> bool {
    manifests.iter().any(|manifest| manifest.object["kind"] == kind && value::name(&manifest.object) == name)
}

/// Prints what applying would change; the API server itself fills in defaults (a dry run of a replacement).
async fn difference(cluster: &Cluster, manifests: &[Manifest]) -> anyhow::Result<ExitCode> {
    let mut changed = 0;
    for manifest in manifests {
        let ours = &manifest.object;
        let title = format!("{} {}", value::text(ours, "/kind"), value::name(ours));
        let place = chart::object_path(ours).with_context(|| format!("{title} is of a kind whose path is unknown"))?;
        let live = cluster.find(&place).await?;
        let (old, new) = match &live {
            None => (String::new(), yaml::write(&diff::shown(ours))),
            Some(live) => {
                let merged = diff::merged(live, ours);
                let answer = cluster.exchange(Method::PUT, &format!("{place}?dryRun=All"), Some(&merged)).await;
                let then = answer.with_context(|| format!("{title} would be refused"))?.value;
                (yaml::write(&diff::shown(live)), yaml::write(&diff::shown(&then)))
            }
        };
        let lines = diff::lines(&old, &new);
        if !lines.is_empty() {
            changed += 1;
            let what = if live.is_some() { "changes" } else { "is new" };
            output::line(&format!("=== {title} {what}\n{}", lines.trim_end()))?;
        }
    }
    output::line(&format!("{changed} of {} objects would change", manifests.len()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
