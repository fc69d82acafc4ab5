//! The configuration of all parts, from the templates in integration/cluster, and the keys.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    components::Component,
    layout::{self, BRIDGE, CGROUP, DNS, Layout, NODE, PAUSE_IMAGE, families, joined},
};
use crate::step::quiet;

/// Where distributions have the CNI plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Who uses the API, and the groups they are in: the parts of Kubernetes have their rights by these names.
const USERS: [(&str, &str, &str); 5] = [
    ("admin", "admin", "system:masters"),
    ("kubelet", "system:node:mesh-node", "system:nodes"),
    ("kube-controller-manager", "system:kube-controller-manager", ""),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kube-proxy", "system:kube-proxy", ""),
];

/// Where the CNI plugins are.
pub fn cni_folder() -> Option<&'static Path> {
    CNI_FOLDERS.iter().map(Path::new).find(|folder| folder.join("bridge").is_file())
}

/// Makes the run folder with everything in it that the parts read.
pub fn make(layout: &Layout, is_dual: bool) -> Result<()> {
    for folder in ["config/cni", "pki", "logs", "pods", "kubelet/plugins", "containerd", "etcd", "tmp"] {
        let folder = layout.run.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Keys and tokens: for root alone. etcd wants the same of its folder.
    for folder in ["pki", "config", "etcd"] {
        fs::set_permissions(layout.run.join(folder), fs::Permissions::from_mode(0o700))?;
    }
    let mut pki = Command::new(layout.node_tools.join("pki"));
    pki.arg(layout.run.join("pki")).args(Component::api_addresses(is_dual));
    quiet(pki)?;
    users(layout)?;
    let config = layout.run.join("config");
    for name in ["containerd.toml", "kubelet.yaml", "kube-proxy.yaml"] {
        layout::write(&config.join(name), &filled(layout, &format!("node/{name}"), is_dual, &[])?)?;
    }
    layout::write(&config.join("resolv.conf"), "# Pods reach nothing beyond this machine.\n")?;
    layout::write(&config.join("cni/10-cluster.conflist"), &format!("{:#}\n", cni(is_dual)))
}

/// A template with its values, and with those given.
pub fn filled(layout: &Layout, template: &str, is_dual: bool, more: &[(&str, &str)]) -> Result<String> {
    let path = layout.templates().join(template);
    let mut text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let run = layout.run.display().to_string();
    let socket = layout.socket().display().to_string();
    let cni = cni_folder().map(|folder| folder.display().to_string()).unwrap_or_default();
    let pods = joined(is_dual, |family| family.pods);
    let usual = [
        ("RUN", run.as_str()),
        ("SOCKET", &socket),
        ("CNI_BIN", &cni),
        ("POD_CIDRS", &pods),
        ("PAUSE", PAUSE_IMAGE),
        ("NODE", NODE),
        ("NODE_ADDRESS", families(false)[0].node),
        ("CGROUP", CGROUP),
        ("DNS", DNS),
    ];
    for (name, value) in usual.iter().chain(more) {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    anyhow::ensure!(!text.contains("{{"), "{} has a value that nobody gives", path.display());
    Ok(text)
}

/// Tokens, and a kubeconfig with each.
fn users(layout: &Layout) -> Result<()> {
    let authority = base64(&fs::read(layout.run.join("pki/ca.crt"))?);
    let server = layout::server();
    let mut tokens = String::new();
    for (file, user, groups) in USERS {
        let token = token()?;
        tokens += &format!("{token},{user},{file},\"{groups}\"\n");
        let values = [("SERVER", server.as_str()), ("CA", &authority), ("USER", user), ("TOKEN", &token)];
        let text = filled(layout, "node/kubeconfig.yaml", false, &values)?;
        let path: PathBuf = match file {
            "admin" => layout.kubeconfig(),
            other => layout.run.join(format!("config/{other}.kubeconfig")),
        };
        layout::write(&path, &text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    }
    layout::write(&layout.run.join("config/tokens.csv"), &tokens)
}

/// How pods are put on the bridge.
fn cni(is_dual: bool) -> serde_json::Value {
    let ranges: Vec<_> = families(is_dual).iter().map(|family| json!([{ "subnet": family.pods }])).collect();
    let routes: Vec<_> = ["0.0.0.0/0", "::/0"].iter().take(ranges.len()).map(|all| json!({ "dst": all })).collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "cluster",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": true,
                "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// 128 bits nobody can guess.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().chain([0, 0].iter()).take(3).fold(0usize, |group, byte| group << 8 | usize::from(*byte));
        for place in 0..4 {
            let sextet = group >> (18 - 6 * place) & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn base64_as_rfc_4648_has_it() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn every_template_is_filled() {
        let layout = Layout::new().unwrap();
        for name in ["containerd.toml", "kubelet.yaml", "kube-proxy.yaml"] {
            let text = filled(&layout, &format!("node/{name}"), true, &[]).unwrap();
            assert!(text.contains(&layout.run.display().to_string()), "{name}");
        }
        let error = filled(&layout, "node/kubeconfig.yaml", true, &[]).unwrap_err().to_string();
        assert!(error.contains("nobody gives"), "{error}");
    }

    #[test]
    fn pods_have_an_address_of_each_family() {
        assert_eq!(cni(false)["plugins"][0]["ipam"]["ranges"].as_array().unwrap().len(), 1);
        assert_eq!(cni(true)["plugins"][0]["ipam"]["ranges"][1][0]["subnet"], "fd00:10:88::/64");
    }
}
