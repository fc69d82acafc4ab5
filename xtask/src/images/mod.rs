//! `cargo xtask images`: container images from scratch, made without a container engine.
//!
//! Top to bottom: [`build`] compiles a static binary and strips a copy, [`elf`] proves that it is static, [`sbom`] lists
//! what is in it, [`layer`] packs binary and list, [`archive`] wraps the layer for `docker load`, `ctr image import`,
//! `kind load` and `skopeo`. The same sources make the same bytes. `Dockerfile` is the way for people with an engine.
//!
//! It pushes nothing: how to get an image into a cluster or a registry is in docs/development/images.md.

pub mod archive;
mod build;
mod elf;
pub mod layer;
mod sbom;

use std::{fs, io::Write as _, time::Instant};

use anyhow::{Context, Result, ensure};

use crate::step::{root, step};

use self::{
    archive::{Config, Image},
    build::Profile,
    layer::File,
};

/// The registry and path of our images; the chart's default is the same.
const REPOSITORY: &str = "docker.io/mesh";
/// Who our processes are: not root, and no application's user.
const USER: &str = "4640:4640";
/// An application's user: what runs as ours would not be redirected.
const APPLICATION: &str = "1000:1000";

/// Which images to build.
#[derive(clap::Args)]
pub struct Options {
    /// Only this image; otherwise all that a cluster runs (mesh-proxy and mesh-controller).
    #[arg(long, value_name = "NAME", value_parser = ["mesh-proxy", "mesh-controller", "mesh-test"])]
    only: Option<String>,
    /// For tests: also mesh-test, the test server and load generator that the tests on a cluster use, and all of them built in
    /// less time, without optimisation across crates.
    #[arg(long)]
    test: bool,
}

impl Options {
    /// What the tests on a cluster need.
    pub fn for_tests() -> Self {
        Self { only: None, test: true }
    }
}

/// What an image is made of.
struct Recipe {
    name: &'static str,
    title: &'static str,
    package: &'static str,
    user: &'static str,
    /// What runs when nothing else is said; `None` where there are several programs.
    entrypoint: Option<&'static str>,
    binaries: &'static [Binary],
}

impl Recipe {
    fn binary_names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.binaries.iter().map(|binary| binary.name)
    }
}

struct Binary {
    name: &'static str,
    /// Capabilities of the file, which a container must also be allowed.
    capability: Option<layer::Capability>,
}

const IMAGES: [Recipe; 2] = [
    Recipe {
        name: "mesh-proxy",
        title: "Mesh sidecar, and init container that redirects a pod's connections to it",
        package: "mesh-proxy",
        user: USER,
        entrypoint: Some("/mesh-proxy"),
        // Permitted, not effective: the sidecar, which drops all capabilities, could not even start an =ep file.
        binaries: &[Binary { name: "mesh-proxy", capability: Some(layer::Capability::NetAdminPermitted) }],
    },
    Recipe {
        name: "mesh-controller",
        title: "Mesh control plane: identity, destination and injector",
        package: "mesh-controller",
        user: USER,
        entrypoint: Some("/mesh-controller"),
        binaries: &[Binary { name: "mesh-controller", capability: None }],
    },
];

const TEST_IMAGE: Recipe = Recipe {
    name: "mesh-test",
    title: "Test server and load generator of Mesh; for tests, not for clusters of use",
    package: "mesh-integration",
    user: APPLICATION,
    entrypoint: None,
    binaries: &[Binary { name: "mesh-origin", capability: None }, Binary { name: "mesh-load", capability: None }],
};

/// Builds what is asked for into `target/images`.
pub fn run_images(options: &Options) -> Result<()> {
    let target = build::target()?;
    let is_wanted = |recipe: &&Recipe| match &options.only {
        Some(only) => only == recipe.name,
        None => options.test || recipe.name != TEST_IMAGE.name,
    };
    let start = Instant::now();
    let wanted: Vec<&Recipe> = IMAGES.iter().chain([&TEST_IMAGE]).filter(is_wanted).collect();
    let mut lines = Vec::new();
    if options.test {
        step("programs of all images", || {
            let binaries = wanted.iter().flat_map(|recipe| recipe.binary_names());
            build::build(wanted.iter().map(|recipe| recipe.package), binaries, Profile::Test, &target)
        })?;
    }
    for recipe in &wanted {
        let profile = if options.test { Profile::Test } else { Profile::Release };
        lines.push(step(&format!("image {}", recipe.name), || {
            if profile == Profile::Release {
                build::build([recipe.package], recipe.binary_names(), profile, &target)?;
            }
            image(recipe, profile, &target)
        })?);
    }
    let purpose = if options.test { " for tests" } else { "" };
    println!("\nimages{purpose} in target/images, {:.1} s in all:", start.elapsed().as_secs_f64());
    for line in lines {
        println!("  {line}");
    }
    Ok(())
}

/// Packs one image of binaries that are built, and says what came of it.
fn image(recipe: &Recipe, profile: Profile, target: &build::Target) -> Result<String> {
    let mut files = Vec::new();
    for binary in recipe.binaries {
        let path = build::strip(binary.name, profile, target)?;
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        elf::require_static(&content).with_context(|| format!("{} is not static", binary.name))?;
        files.push(File { path: binary.name.to_owned(), content, mode: 0o555, capability: binary.capability });
    }
    let binary_bytes: usize = files.iter().map(|file| file.content.len()).sum();
    let listed = sbom::sbom(recipe.package, recipe.name, target)?;
    files.push(File { path: "sbom.json".into(), content: listed.json.clone(), mode: 0o444, capability: None });
    let layer = layer::pack(files)?;
    let compressed = layer::compressed_size(&layer)?;
    let config = Config {
        title: recipe.title,
        version: env!("CARGO_PKG_VERSION"),
        revision: build::revision(),
        architecture: target.architecture,
        user: recipe.user,
        entrypoint: recipe.entrypoint,
    };
    let reference = format!("{REPOSITORY}/{}:{}", recipe.name, config.version);
    let archive = archive::write(&Image { reference: &reference, config, layer: &layer })?;
    let folder = root().join("target/images");
    fs::create_dir_all(&folder)?;
    put(&folder.join(format!("{}.tar", recipe.name)), &archive.bytes)?;
    put(&folder.join(format!("{}.sbom.json", recipe.name)), &listed.json)?;
    ensure!(!archive.bytes.is_empty() && binary_bytes > 0, "{} came out empty", recipe.name);
    Ok(format!(
        "{reference}: {} in all, {} compressed, of it {} of programs; {} crates listed; config sha256:{}",
        mib(layer.len()),
        mib(compressed),
        mib(binary_bytes),
        listed.components,
        &archive.config_digest[..12],
    ))
}

/// Writes a file as a whole or not at all: whoever imports it at this moment gets the one before.
fn put(path: &std::path::Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::File::create(&new).and_then(|mut file| file.write_all(content))?;
    fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_dockerfile_says_the_same() {
        let file = fs::read_to_string(root().join("Dockerfile")).unwrap();
        for recipe in &IMAGES {
            let (_, stage) = file.split_once(&format!("FROM scratch AS {}\n", recipe.name)).unwrap();
            let stage = stage.split("\nFROM ").next().unwrap();
            let entrypoint = format!("ENTRYPOINT [\"{}\"]", recipe.entrypoint.unwrap());
            let version = format!("image.version=\"{}\"", env!("CARGO_PKG_VERSION"));
            for part in [recipe.title, &format!("USER {USER}"), &entrypoint, &version] {
                assert!(stage.contains(part), "{}: {part}", recipe.name);
            }
            assert!(file.contains(&format!("{REPOSITORY}/{}:{}", recipe.name, env!("CARGO_PKG_VERSION"))));
            let is_capable = recipe.binaries.iter().any(|binary| binary.capability.is_some());
            assert_eq!(file.contains(&format!("setcap cap_net_admin=p /out/{}\n", recipe.name)), is_capable);
        }
    }
}
