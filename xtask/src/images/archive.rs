//! A layer and its configuration as one archive: an OCI image layout that is at the same time what `docker save` writes,
//! so that every engine's own import takes it.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::Builder;

use super::layer::append;

/// When an image was made. A time of day would make every build another image.
const CREATED: &str = "1970-01-01T00:00:00Z";
const LICENCES: &str = "Apache-2.0";

/// What an image says of itself.
pub struct Config<'a> {
    /// One line for people.
    pub title: &'a str,
    /// The version of the binary.
    pub version: &'a str,
    /// The commit.
    pub revision: Option<String>,
    /// As images name it: amd64, arm64.
    pub architecture: &'a str,
    /// `uid:gid`.
    pub user: &'a str,
    /// What runs when nothing else is said.
    pub entrypoint: Option<&'a str>,
}

/// An image to write.
pub struct Image<'a> {
    /// `registry/path/name:tag`.
    pub reference: &'a str,
    /// What it says of itself.
    pub config: Config<'a>,
    /// The layer, a tar archive.
    pub layer: &'a [u8],
}

/// An archive.
pub struct Archive {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of the configuration, in hexadecimal: what engines call the image's ID.
    pub config_digest: String,
}

/// Writes the archive. Its parts are named by what is in them, so that the same image is the same bytes.
pub fn write(image: &Image<'_>) -> Result<Archive> {
    let layer_digest = sha256(image.layer);
    let config = serde_json::to_vec(&config(&image.config, &layer_digest))?;
    let config_digest = sha256(&config);
    let described = |kind: &str, digest: &str, size: usize| json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size });
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config_digest, config.len()),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer_digest, image.layer.len())],
    }))?;
    let manifest_digest = sha256(&manifest);
    let mut listed = described("application/vnd.oci.image.manifest.v1+json", &manifest_digest, manifest.len());
    listed["platform"] = json!({ "architecture": image.config.architecture, "os": "linux" });
    listed["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.config.version,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    });
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    let docker = json!([{
        "Config": blob(&config_digest),
        "RepoTags": [image.reference],
        "Layers": [blob(&layer_digest)],
    }]);
    let mut blobs =
        [(&config_digest, config.as_slice()), (&layer_digest, image.layer), (&manifest_digest, manifest.as_slice())];
    blobs.sort();
    let mut archive = Builder::new(Vec::new());
    for (digest, content) in blobs {
        append(&mut archive, &blob(digest), 0o444, content)?;
    }
    append(&mut archive, "index.json", 0o444, &serde_json::to_vec(&index)?)?;
    append(&mut archive, "manifest.json", 0o444, &serde_json::to_vec(&docker)?)?;
    append(&mut archive, "oci-layout", 0o444, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(Archive { bytes: archive.into_inner()?, config_digest })
}

fn config(config: &Config<'_>, layer_digest: &str) -> Value {
    let mut labels = json!({
        "org.opencontainers.image.title": config.title,
        "org.opencontainers.image.version": config.version,
        "org.opencontainers.image.licenses": LICENCES,
    });
    if let Some(revision) = &config.revision {
        labels["org.opencontainers.image.revision"] = json!(revision);
    }
    let mut run = json!({ "User": config.user, "WorkingDir": "/", "Labels": labels });
    if let Some(entrypoint) = config.entrypoint {
        run["Entrypoint"] = json!([entrypoint]);
    }
    json!({
        "created": CREATED,
        "architecture": config.architecture,
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        "history": [{ "created": CREATED, "created_by": "cargo xtask images" }],
    })
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

    fn image(layer: &[u8]) -> Archive {
        let config = Config {
            title: "A title",
            version: "1.2.3",
            revision: Some("abc".into()),
            architecture: "amd64",
            user: "4640:4640",
            entrypoint: Some("/mesh-proxy"),
        };
        write(&Image { reference: "docker.io/mesh/mesh-proxy:1.2.3", config, layer }).unwrap()
    }

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_same_image_is_the_same_bytes_and_another_is_not() {
        assert_eq!(image(b"layer").bytes, image(b"layer").bytes);
        assert_ne!(image(b"layer").config_digest, image(b"other").config_digest);
    }

    #[test]
    fn both_formats_lead_to_the_same_layer_and_every_digest_holds() {
        let archive = image(b"layer");
        let entries = entries(&archive.bytes);
        let parse = |name: &str| serde_json::from_slice::<Value>(&entries[name]).unwrap();
        for (name, content) in &entries {
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, sha256(content));
            }
        }
        let blob = |value: &Value| format!("blobs/sha256/{}", value.as_str().unwrap().strip_prefix("sha256:").unwrap());
        let (docker, index) = (parse("manifest.json"), parse("index.json"));
        let manifest = parse(&blob(&index["manifests"][0]["digest"]));
        assert_eq!(blob(&manifest["config"]["digest"]), docker[0]["Config"].as_str().unwrap());
        assert_eq!(blob(&manifest["layers"][0]["digest"]), docker[0]["Layers"][0].as_str().unwrap());
        assert_eq!(entries[docker[0]["Layers"][0].as_str().unwrap()], b"layer");
        assert_eq!(docker[0]["RepoTags"][0], "docker.io/mesh/mesh-proxy:1.2.3");
        let config = parse(docker[0]["Config"].as_str().unwrap());
        assert_eq!(config["config"]["User"], "4640:4640");
        assert_eq!(config["config"]["Entrypoint"][0], "/mesh-proxy");
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.revision"], "abc");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    }
}
