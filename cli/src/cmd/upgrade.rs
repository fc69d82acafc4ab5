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
use serde_json::{Value, json};

use crate::{
    chart::{
        self, Manifest, diff,
        given::{Given, Signing, sign},
        identity,
        installed::{self, Extent, Installed},
        print::{self, Form},
        values, yaml,
    },
    globals::Globals,
    kube::{CONTROL_NAMESPACE, Cluster, path, trust_bundle, value},
    output,
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

Exit codes: 0 ok, 1 failed, 2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    given: Given,
    /// Forget the values of the installation; the identity is kept
    #[arg(long)]
    reset_values: bool,
    /// Make the next issuer, for a year, with the key of the trust anchor (`meshctl install --identity-anchor-key-out`)
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    identity_anchor_key_file: Option<PathBuf>,
    /// Print what would change in the cluster, and no manifests
    #[arg(long, conflicts_with = "output")]
    dry_run: bool,
    /// Leave out the CustomResourceDefinitions of Mesh (policy.meshctl.dev)
    #[arg(long)]
    skip_crds: bool,
    /// How to print it
    #[arg(short, long, value_enum)]
    output: Option<Form>,
}

/// Prints the manifests, or what they would change.
pub fn run(args: &Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    super::install::only_namespace(globals)?;
    let form =
        if args.dry_run { Form::Yaml } else { print::wanted(args.output, "meshctl upgrade | kubectl apply -f -")? };
    super::block_on(async {
        let cluster = Cluster::connect(globals).await?;
        let found = Installed::look(&cluster).await?;
        may_upgrade(&found, cluster.server())?;
        check_skew(&cluster, &found).await?;
        let given = kept(args, &cluster, &found).await?;
        let mut manifests = if args.skip_crds { Vec::new() } else { chart::definitions()? };
        manifests.extend(chart::render(given)?);
        tell_leftovers(&cluster, &manifests).await?;
        if args.dry_run {
            return difference(&cluster, &manifests).await;
        }
        print::manifests(form, &manifests)?;
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
        Extent::Half { missing, .. } => {
            output::note(&format!("note: the installation is not whole; this adds {}", missing.join(", ")));
            Ok(())
        }
        Extent::Whole => Ok(()),
    }
}

/// Refuses a control plane that could not serve what runs.
async fn check_skew(cluster: &Cluster, found: &Installed) -> anyhow::Result<()> {
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
    let old: Vec<Value> = pods
        .into_iter()
        .filter(|pod| too_far(value::label(pod, "meshctl.dev/proxy-version"), ours).is_some())
        .collect();
    if !old.is_empty() {
        let named = installed::named(&old);
        bail!(
            "Mesh {ours} cannot serve the sidecars of {named}: they are more than {SKEW} minor version apart; restart those pods first (kubectl rollout restart), so that they get the installed version's"
        );
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
    let mut base = if args.reset_values { json!({}) } else { found.stored_values()? };
    // An object of the installation stays in it, whatever values are reset.
    let ours = found.namespace.is_some() && !found.is_in_anothers_namespace();
    values::merge(&mut base, json!({"namespace": {"create": ours}}));
    values::take_away(&mut base)?;
    let stored = values::with_defaults(base.clone())?;
    values::Values::read(&stored).context(
        "the values of the installation, in the ConfigMap mesh-system/mesh-values, are not those of this version; correct \
         them there, or begin with the defaults (--reset-values)",
    )?;
    let secret = installed::material(cluster).await?;
    let external = base["identity"]["external"] == true;
    match (secret, &found.bundle) {
        (Some(material), _) if !external => values::merge(&mut base, material.values()),
        // What is trusted now, wherever mesh-identity has it from.
        (_, Some(bundle)) if external => {
            values::merge(&mut base, json!({"identity": {"trustAnchors": bundle["data"][trust_bundle::KEY]}}));
        }
        (Some(material), None) => {
            values::merge(&mut base, json!({"identity": {"trustAnchors": material.anchors}}));
        }
        _ => {}
    }
    let mut given = args.given.over(base)?;
    if let Some(file) = &args.identity_anchor_key_file {
        next_issuer(&mut given, file, external)?;
    }
    match sign(&mut given)
        .context("the identity of the installation (Secret mesh-system/mesh-issuer), with what was given")?
    {
        Signing::Made(made) => {
            // Only when the Secret is gone: nothing that runs can trust the new one without a restart.
            output::note(
                "warning: the Secret mesh-issuer is gone; a new identity was made, and every meshed pod must be restarted",
            );
            made.material.describe().iter().for_each(|line| output::note(&format!("made {line}")));
        }
        Signing::Given(material) => {
            for line in material.describe() {
                let is_new = args.identity_anchor_key_file.is_some() && line.starts_with("issuer");
                output::note(&format!("{} {line}", if is_new { "made" } else { "kept" }));
            }
        }
        Signing::External { anchors } => {
            identity::describe("trust anchor", &anchors).iter().for_each(|line| output::note(&format!("kept {line}")));
        }
    }
    Ok(given)
}

/// Lays a new issuer over the one that signs, under an anchor that is trusted already.
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

/// Kinds of which an installation has some only by certain values: `kubectl apply` does not remove them.
const OPTIONAL: [(&str, &str, &str); 2] = [
    ("PodDisruptionBudget", "policy", "poddisruptionbudgets"),
    ("NetworkPolicy", "networking.k8s.io", "networkpolicies"),
];

/// Names what the cluster has of ours and this version, with these values, has not.
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::kube::mock::Mock;

    #[test]
    fn versions_that_cannot_work_together() {
        for (theirs, ours) in [("0.1.0", "0.1.9"), ("0.1.0", "0.2.0"), ("0.3.1", "0.2.0"), ("v1.4.0-rc.1", "1.5.0")] {
            assert_eq!(too_far(theirs, ours), None, "{theirs} {ours}");
        }
        for (theirs, ours) in
            [("0.1.0", "0.3.0"), ("0.5.0", "0.3.0"), ("0.9.0", "1.0.0"), ("", "0.1.0"), ("new", "0.1.0")]
        {
            assert!(too_far(theirs, ours).is_some(), "{theirs} {ours}");
        }
    }

    fn args(words: &[&str]) -> Args {
        Args::try_parse_from(["upgrade"].iter().chain(words)).unwrap()
    }

    fn secret(made: &identity::Made) -> Value {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let (material, encode) = (&made.material, |text: &str| STANDARD.encode(text));
        json!({"data": {
            "ca.crt": encode(&material.anchors), "tls.crt": encode(&material.certificate), "tls.key": encode(&material.key),
        }})
    }

    fn installed(values: &str) -> Installed {
        let stored = json!({"data": {"values.yaml": values}});
        let namespace = json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "mesh"}}});
        Installed { values: Some(stored), namespace: Some(namespace), ..Installed::default() }
    }

    const SECRET: &str = "/api/v1/namespaces/mesh-system/secrets/mesh-issuer";

    #[tokio::test]
    async fn identity_and_values_are_kept_and_new_ones_laid_over() {
        let made = identity::make("corp.example").unwrap();
        let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
        let found = installed("trustDomain: corp.example\nproxy: {workers: 3, logLevel: warn}\n");
        let given = kept(&args(&["--set", "proxy.logLevel=info"]), &cluster, &found).await.unwrap();
        assert_eq!(given["proxy"], json!({"workers": 3, "logLevel": "info"}));
        assert_eq!(given["identity"]["issuer"]["key"], made.material.key);
        assert_eq!(given["namespace"]["create"], true);
        let reset =
            kept(&args(&["--reset-values", "--set", "trustDomain=corp.example"]), &cluster, &found).await.unwrap();
        assert_eq!(reset["proxy"], Value::Null);
        assert_eq!(reset["identity"]["trustAnchors"], made.material.anchors);
    }

    #[tokio::test]
    async fn with_an_external_issuer_everything_that_is_trusted_stays_so() {
        let (made, other) = (identity::make("cluster.local").unwrap(), identity::make("cluster.local").unwrap());
        let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
        let stored = "identity: {external: true, trustAnchorsConfigMap: roots}";
        let both = format!("{}{}", made.material.anchors, other.material.anchors);
        let bundle = Some(json!({"data": {"ca-bundle.pem": both}}));
        let given = kept(&args(&[]), &cluster, &Installed { bundle, ..installed(stored) }).await.unwrap();
        assert_eq!(given["identity"]["trustAnchors"], both);
        assert_eq!(given["identity"]["trustAnchorsConfigMap"], "roots");
        assert_eq!(given["identity"]["issuer"], Value::Null);
        let given = kept(&args(&[]), &cluster, &installed(stored)).await.unwrap();
        assert_eq!(given["identity"]["trustAnchors"], made.material.anchors);
    }

    #[tokio::test]
    async fn what_was_taken_away_stays_away() {
        let made = identity::make("cluster.local").unwrap();
        let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
        let mut all = values::with_defaults(json!({
            "destination": {"resources": {"limits": null}}, "nodeSelector": {"kubernetes.io/os": null},
        }))
        .unwrap();
        assert!(all["destination"]["resources"].get("limits").is_none());
        all["identity"].as_object_mut().unwrap().retain(|name, _| !["issuer", "trustAnchors"].contains(&name.as_str()));
        let given = kept(&args(&[]), &cluster, &installed(&all.to_string())).await.unwrap();
        let again = values::with_defaults(given).unwrap();
        for place in ["destination", "nodeSelector", "injector", "proxy"] {
            assert_eq!(again[place], all[place], "{place}");
        }
    }

    #[tokio::test]
    async fn a_changed_trust_domain_an_edited_secret_or_an_unknown_value_is_refused_with_the_object() {
        let made = identity::make("corp.example").unwrap();
        let cluster = Mock::default().object(SECRET, secret(&made)).cluster();
        let said = |error: anyhow::Error| format!("{error:#}");
        let unknown = kept(&args(&[]), &cluster, &installed("proxy: {threads: 3}")).await.unwrap_err();
        assert!(said(unknown).contains("--reset-values"));
        let mut garbage = secret(&made);
        garbage["data"]["tls.key"] = "AAAA".into();
        let cluster = Mock::default().object(SECRET, garbage).cluster();
        let wrong = said(kept(&args(&[]), &cluster, &installed("trustDomain: corp.example")).await.unwrap_err());
        assert!(wrong.contains("mesh-system/mesh-issuer") && wrong.contains("tls.key"), "{wrong}");
    }

    #[test]
    fn what_cannot_be_upgraded_says_what_to_do() {
        let said = |found: &Installed| may_upgrade(found, "https://k").unwrap_err().to_string();
        assert!(said(&Installed::default()).contains("meshctl install"));
        let labels = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}});
        assert!(said(&Installed { values: Some(labels), ..Installed::default() }).contains("helm upgrade"));
    }
}
