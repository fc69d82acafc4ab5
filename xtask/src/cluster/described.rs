//! The cluster that is up, as `cluster up` has described it in target/cluster/env.json: for what runs on it.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::layout::Layout;

/// A cluster that was described.
pub struct Described(Value);

impl Described {
    /// Of the one that is up.
    pub fn read() -> Result<Self> {
        let described = fs::read(Layout::new()?.env_json())
            .context("no cluster is up: `cargo xtask cluster up`, or name one with --context")?;
        let described = Self(serde_json::from_slice(&described).context("target/cluster/env.json")?);
        for name in ["kubectl", "kubeconfig"] {
            ensure!(!described.text(name).is_empty(), "target/cluster/env.json has no {name}");
        }
        Ok(described)
    }

    /// A field; empty where this kind of cluster has none.
    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// `node`, `kind` or `context`.
    pub fn kind(&self) -> &str {
        self.text("kind")
    }

    /// Whether nothing of it is altered but what is put into namespaces of our own.
    pub fn is_somebody_elses(&self) -> bool {
        self.kind() == "context"
    }

    /// `kubectl` with these words, for it.
    pub fn kubectl(&self, words: &[&str]) -> Command {
        let mut kubectl = Command::new(self.text("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.text("kubeconfig")).args(words);
        kubectl
    }
}
