//! The options that set the chart's values, the same for `install` and `upgrade`.
//!
//! What wins: `--set`, `--set-string` and `--set-file` over the options with names of their own, those over
//! `--values`, later files over earlier ones, and all of them over the chart's defaults.

use std::{fs, io::Read as _, path::PathBuf};

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};

use super::{
    identity::{self, Made, Material},
    strvals::{self, ParseAs},
    values,
};

/// Where the options are listed in `--help`.
const VALUES: &str = "Values";
const IDENTITY: &str = "Identity";
/// Longest file of values or certificates: the API server takes no larger object.
const MAX_FILE: u64 = 1024 * 1024;

/// Options that set values.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ValuesArgs {
    /// Two replicas of each part, spread over nodes
    #[arg(long, help_heading = VALUES)]
    ha: bool,
    /// Set values, as in proxy.workers=2,podLabels.team=net (Helm's syntax); may be repeated
    #[arg(long, value_name = "KEY=VALUE", help_heading = VALUES)]
    set: Vec<String>,
    /// The same, but every value is text
    #[arg(long, value_name = "KEY=TEXT", help_heading = VALUES)]
    set_string: Vec<String>,
    /// Set values to the content of files
    #[arg(long, value_name = "KEY=FILE", help_heading = VALUES)]
    set_file: Vec<String>,
    /// A YAML file of values, or - for standard input; may be repeated, later ones win
    #[arg(long, short = 'f', value_name = "FILE", help_heading = VALUES)]
    values: Vec<PathBuf>,
    /// Where the images are, as in registry.example/mesh
    #[arg(long, value_name = "REGISTRY", help_heading = VALUES)]
    image_registry: Option<String>,
    /// The tag of the images
    #[arg(long, value_name = "TAG", help_heading = VALUES)]
    image_tag: Option<String>,
    /// The trust anchors (PEM)
    #[arg(long, value_name = "FILE", help_heading = IDENTITY)]
    identity_trust_anchors_file: Option<PathBuf>,
    /// The issuer's certificate (PEM), and after it what leads to an anchor
    #[arg(long, value_name = "FILE", help_heading = IDENTITY)]
    identity_issuer_certificate_file: Option<PathBuf>,
    /// The issuer's key (PEM)
    #[arg(long, value_name = "FILE", help_heading = IDENTITY)]
    identity_issuer_key_file: Option<PathBuf>,
    /// Something else, such as cert-manager, keeps the Secret mesh-issuer
    #[arg(long, help_heading = IDENTITY, conflicts_with_all = ["identity_issuer_certificate_file", "identity_issuer_key_file"])]
    identity_external_issuer: bool,
    /// How long the certificates of workloads last, as in 24h
    #[arg(long, value_name = "DURATION", help_heading = IDENTITY)]
    identity_issuance_lifetime: Option<String>,
}

impl ValuesArgs {
    /// The values of `base` with these options on top.
    pub(crate) fn over(&self, base: Value) -> anyhow::Result<Value> {
        let mut all = base;
        for file in &self.values {
            let name = file.display().to_string();
            values::merge(&mut all, values::read_yaml(&name, &read(file)?)?);
        }
        for (path, value) in self.named()? {
            let nested = path.iter().rev().fold(value, |inner, name| json!({ *name: inner }));
            values::merge(&mut all, nested);
        }
        let from_file = |name: &str| read(&PathBuf::from(name)).map_err(|error| format!("{error:#}"));
        let lines = [
            ("--set", &self.set, ParseAs::Typed),
            ("--set-string", &self.set_string, ParseAs::Text),
            ("--set-file", &self.set_file, ParseAs::File(&from_file)),
        ];
        for (flag, lines, parse_as) in lines {
            for line in lines {
                strvals::apply(&mut all, line, parse_as).map_err(|why| anyhow!("{flag} {line:?}: {why}"))?;
            }
        }
        Ok(all)
    }

    /// Options with names of their own, as paths and values.
    fn named(&self) -> anyhow::Result<Vec<(&'static [&'static str], Value)>> {
        let mut named: Vec<(&'static [&'static str], Value)> = Vec::new();
        if self.ha {
            named.push((&["ha"], true.into()));
        }
        if self.identity_external_issuer {
            named.push((&["identity", "external"], true.into()));
        }
        let texts: [(&'static [&'static str], _); 3] = [
            (&["image", "registry"], &self.image_registry),
            (&["image", "tag"], &self.image_tag),
            (&["identity", "leafLifetime"], &self.identity_issuance_lifetime),
        ];
        named.extend(texts.into_iter().filter_map(|(path, text)| Some((path, text.clone()?.into()))));
        let files: [(&'static [&'static str], _); 3] = [
            (&["identity", "trustAnchors"], &self.identity_trust_anchors_file),
            (&["identity", "issuer", "crt"], &self.identity_issuer_certificate_file),
            (&["identity", "issuer", "key"], &self.identity_issuer_key_file),
        ];
        for (path, file) in files {
            if let Some(file) = file {
                named.push((path, read(file)?.into()));
            }
        }
        Ok(named)
    }
}

/// Reads a file, or standard input for `-`.
fn read(file: &PathBuf) -> anyhow::Result<String> {
    let mut text = String::new();
    let limit = MAX_FILE + 1;
    if file.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text).context("standard input cannot be read")?;
    } else {
        let opened = fs::File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text));
        opened.with_context(|| format!("{} cannot be read", file.display()))?;
    }
    if text.len() as u64 > MAX_FILE {
        bail!("{} is longer than {MAX_FILE} bytes; is it the right file?", file.display());
    }
    Ok(text)
}

/// The identity that the values give: made when they have none, checked when they have all of it, refused when a part is
/// missing. What is made is added to `values`.
pub(crate) fn sign(values: &mut Value) -> anyhow::Result<Signing> {
    let all = values::with_defaults(values.clone())?;
    let read = values::Values::read(&all)?;
    let identity = read.identity;
    let parts = [
        ("identity.trustAnchors (--identity-trust-anchors-file)", &identity.trust_anchors),
        ("identity.issuer.crt (--identity-issuer-certificate-file)", &identity.issuer.crt),
        ("identity.issuer.key (--identity-issuer-key-file)", &identity.issuer.key),
    ];
    if identity.external {
        if identity.trust_anchors.is_empty() {
            bail!(
                "an external issuer needs {}: the certificates that it leads to, which every proxy trusts",
                parts[0].0
            );
        }
        return Ok(Signing::External { anchors: identity.trust_anchors });
    }
    let missing: Vec<_> = parts.iter().filter(|(_, text)| text.is_empty()).map(|(name, _)| *name).collect();
    if missing.len() == parts.len() {
        let made = identity::make(&read.trust_domain)?;
        made.material.check(&read.trust_domain)?;
        values::merge(values, made.material.values());
        return Ok(Signing::Made(made));
    }
    if !missing.is_empty() {
        bail!("of trust anchors, issuer and key all are needed, or none; missing: {}", missing.join(", "));
    }
    let material =
        Material { anchors: identity.trust_anchors, certificate: identity.issuer.crt, key: identity.issuer.key };
    material.check(&read.trust_domain)?;
    Ok(Signing::Given(material))
}

/// Where trust anchors and issuer come from.
pub(crate) enum Signing {
    /// Made now.
    Made(Made),
    /// Given, and valid.
    Given(Material),
    /// Kept by something else, such as cert-manager.
    External {
        /// The trust anchors (PEM) that its certificates lead to.
        anchors: String,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        values: ValuesArgs,
    }

    fn values_args(words: &[&str]) -> ValuesArgs {
        Line::try_parse_from(["x"].iter().chain(words)).unwrap().values
    }

    #[test]
    fn what_is_more_special_wins() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let one = file("one.yaml", "ha: false\nimage: {tag: a, registry: r}\nproxy: {workers: 2, uid: 7}\n");
        let two = file("two.yaml", "proxy: {workers: 3}\n");
        let text = file("text", "content");
        let set_file = format!("podLabels.file={text}");
        let words = ["-f", &one, "-f", &two, "--ha", "--image-tag", "b", "--set", "image.tag=c,preStopSeconds=1"];
        let words = [&words[..], &["--set-string", "podLabels.n=1", "--set-file", &set_file]].concat();
        let all = values_args(&words).over(json!({"proxy": {"uid": 1, "logLevel": "warn"}})).unwrap();
        let expected = json!({
            "ha": true, "image": {"tag": "c", "registry": "r"}, "preStopSeconds": 1,
            "proxy": {"workers": 3, "uid": 7, "logLevel": "warn"}, "podLabels": {"n": "1", "file": "content"},
        });
        assert_eq!(all, expected);
    }

    #[test]
    fn wrong_files_and_lines_are_named() {
        let message = |words: &[&str]| format!("{:#}", values_args(words).over(json!({})).unwrap_err());
        assert!(message(&["-f", "/nonexistent"]).contains("/nonexistent cannot be read"));
        assert!(message(&["--set", "a"]).contains("--set \"a\": a has no value"));
        assert!(message(&["--set-file", "a=/nonexistent"]).contains("/nonexistent cannot be read"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list.yaml");
        fs::write(&file, "- 1\n").unwrap();
        let file = file.display().to_string();
        assert!(message(&["-f", &file]).contains("list.yaml: values are a map"));
    }

    #[test]
    fn what_signs_is_made_given_or_external() {
        let mut nothing = json!({});
        assert!(matches!(sign(&mut nothing).unwrap(), Signing::Made(_)));
        assert!(nothing["identity"]["issuer"]["key"].as_str().unwrap().contains("PRIVATE KEY"));
        assert!(matches!(sign(&mut nothing).unwrap(), Signing::Given(_)), "what was made is good");
        let message = |mut values: Value| sign(&mut values).err().map(|error| format!("{error:#}")).unwrap();
        let some = json!({"identity": {"trustAnchors": "x"}});
        assert!(message(some).contains("missing: identity.issuer.crt"));
        assert!(message(json!({"identity": {"external": true}})).contains("needs identity.trustAnchors"));
        nothing["trustDomain"] = "a..b".into();
        assert!(message(nothing).contains("trustDomain is \"a..b\""));
        let mut external = json!({"identity": {"external": true, "trustAnchors": "x"}});
        assert!(matches!(sign(&mut external).unwrap(), Signing::External { .. }));
    }
}
