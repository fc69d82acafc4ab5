//! The image that the suite's pods run, `gateway-api/echo-advanced`: Istio's echo server and client, built from their
//! Go module and packed by our own code under the name that the suite's manifests have. No registry is asked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{module, suite::Built};
use crate::{
    cache::CacheEntry,
    images::{
        archive::{self, Config, Image},
        layer::{self, File},
    },
    step::{root, run},
    tools::go,
};

/// The module of the programs.
const MODULE: &str = "istio.io/istio";
/// The suite runs `client` in the pods; `server` is what the image starts.
const PROGRAMS: [&str; 2] = ["client", "server"];
/// Where the image has them: the suite starts `client` by its name alone.
const BIN: &str = "usr/local/bin";
/// What the server's flags name, and where the module has it: a certificate for tests, valid until 2296.
const CERTIFICATE: [(&str, &str); 2] =
    [("cert.crt", "tests/testdata/certs/dns/cert-chain.pem"), ("cert.key", "tests/testdata/certs/dns/key.pem")];
/// The user of the original image: an application's, which is redirected.
const USER: &str = "1338:1338";

/// Packs the image and gives its archive.
pub fn image(suite: &Built, work: &Path) -> Result<PathBuf> {
    let manifests = suite.manifests();
    let manifests = fs::read_to_string(&manifests).with_context(|| format!("cannot read {}", manifests.display()))?;
    let reference = reference(&manifests)?;
    let built = build()?;
    let mut files = Vec::new();
    let mut add = |path: String, from: PathBuf, mode: u32| {
        let content = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        files.push(File { path, content, mode, capability: None });
        anyhow::Ok(())
    };
    for program in PROGRAMS {
        add(format!("{BIN}/{program}"), built.join(program), 0o555)?;
    }
    for (name, _) in CERTIFICATE {
        add(name.to_owned(), built.join(name), 0o444)?;
    }
    let layer = layer::pack(files)?;
    let config = Config {
        title: "Istio's echo server and client, for the Gateway API's conformance suite",
        version: reference.rsplit(':').next().unwrap_or_default(),
        revision: None,
        architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        user: USER,
        entrypoint: Some(&format!("/{BIN}/server")),
    };
    let made = archive::write(&Image { reference, config, layer: &layer })?;
    let path = work.join("echo-advanced.tar");
    fs::write(&path, made.bytes).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{reference}: config sha256:{}", &made.config_digest[..12]);
    Ok(path)
}

/// Builds the programs, if they are not in the cache yet, with the certificate beside them.
fn build() -> Result<PathBuf> {
    let folder = root().join("integration/conformance/echo");
    let pins = ["go.mod", "go.sum"].map(|file| folder.join(file));
    CacheEntry::of("echo", "istio", &pins)?.built("Istio's echo server and client (some minutes)", |to| {
        let mut build = go(&folder);
        build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(format!("{}/", to.display()));
        build.args(PROGRAMS.map(|program| format!("{MODULE}/pkg/test/echo/cmd/{program}")));
        run(build)?;
        let mut list = go(&folder);
        list.args(["list", "-m", "-f", "{{.Dir}}", MODULE]);
        let sources = module(list, MODULE)?;
        for (name, from) in CERTIFICATE {
            let from = sources.join(from);
            fs::write(to.join(name), fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?)?;
        }
        Ok(())
    })
}

/// The one image that the manifests name.
fn reference(manifests: &str) -> Result<&str> {
    let mut names = manifests.lines().filter_map(|line| line.trim().strip_prefix("image: "));
    let name = names.next().context("the suite's manifests name no image")?;
    ensure!(names.all(|other| other == name), "the suite's manifests name more images than {name}");
    Ok(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_image_is_the_one_that_the_manifests_name() {
        let line = |name: &str| format!("      containers:\n        - name: echo\n          image: {name}\n");
        assert_eq!(reference(&(line("a/b:v1") + &line("a/b:v1"))).unwrap(), "a/b:v1");
        assert!(reference(&(line("a/b:v1") + &line("a/c:v1"))).unwrap_err().to_string().contains("a/b:v1"));
        assert!(reference("kind: Namespace\n").is_err());
    }
}
