//! The configuration in force: a file that is read again when it changes. A wrong one is told, and the last good one
//! stays.
//!
//! It is polled: kubelet writes a changed ConfigMap within a minute or so, and reading a small file now and then costs
//! less than a watch that must follow symbolic links.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use mesh_policy::well_known::MESH_INJECTOR;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    metrics::{Metrics, count},
};

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(5);
/// Largest file; a ConfigMap holds 1 MiB, this configuration takes 1 KiB.
const MAX_BYTES: usize = 256 * 1024;

/// A configuration that follows its file.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// What identities are made of; a file that says another one is not for this control plane.
    trust_domain: String,
    text: String,
    current: Arc<ArcSwap<Config>>,
}

impl ConfigFile {
    /// Reads the file for the first time.
    pub fn open(path: PathBuf, trust_domain: String) -> anyhow::Result<Self> {
        let text = read(&path)?;
        let config = parse(&path, &text, &trust_domain)?;
        Ok(Self { path, trust_domain, text, current: Arc::new(ArcSwap::from_pointee(config)) })
    }

    /// The configuration in force.
    pub fn current(&self) -> Arc<ArcSwap<Config>> {
        self.current.clone()
    }

    /// Follows the file until cancelled.
    pub async fn follow(mut self, metrics: Arc<Metrics>, cancel: CancellationToken) {
        while cancel.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            self.look(&metrics);
        }
    }

    fn look(&mut self, metrics: &Metrics) {
        let text = match read(&self.path) {
            Ok(text) if text == self.text => return,
            Ok(text) => text,
            Err(error) => {
                count(&metrics.config_rejected);
                return tracing::warn!("{error:#}; the configuration that was read before stays in force");
            }
        };
        match parse(&self.path, &text, &self.trust_domain) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                count(&metrics.config_reloads);
                tracing::info!("{} has changed and is in force", self.path.display());
            }
            Err(error) => {
                count(&metrics.config_rejected);
                tracing::error!("{error:#}; the configuration that was read before stays in force");
            }
        }
        // A wrong text is told once, not at each look.
        self.text = text;
    }
}

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: is the ConfigMap {MESH_INJECTOR} mounted there?", path.display()))?;
    ensure!(text.len() <= MAX_BYTES, "{} has {} bytes, more than {MAX_BYTES}", path.display(), text.len());
    Ok(text)
}

fn parse(path: &std::path::Path, text: &str, trust_domain: &str) -> anyhow::Result<Config> {
    let config = Config::from_yaml(text).with_context(|| path.display().to_string())?;
    if config.trust_domain != trust_domain {
        let there = &config.trust_domain;
        bail!(
            "{}: trustDomain is {there:?}, but --trust-domain is {trust_domain:?}: one of them is wrong",
            path.display()
        );
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn a_change_is_taken_and_a_wrong_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, "preStopSeconds: 1").unwrap();
        let mut file = ConfigFile::open(path.clone(), "cluster.local".into()).unwrap();
        let (current, metrics) = (file.current(), Metrics::default());
        let seconds = || current.load().pre_stop_seconds;
        let counts = |m: &Metrics| (m.config_reloads.load(Relaxed), m.config_rejected.load(Relaxed));

        file.look(&metrics);
        assert_eq!((seconds(), counts(&metrics)), (1, (0, 0)), "nothing changed");
        std::fs::write(&path, "preStopSeconds: 2").unwrap();
        file.look(&metrics);
        assert_eq!((seconds(), counts(&metrics)), (2, (1, 0)));
        for wrong in ["preStopSeconds: many", "trustDomain: other.example", ""] {
            std::fs::write(&path, wrong).unwrap();
            file.look(&metrics);
            file.look(&metrics);
        }
        assert_eq!((seconds(), counts(&metrics).0), (2, 1), "the last good one stays");
        std::fs::remove_file(&path).unwrap();
        file.look(&metrics);
        assert_eq!(seconds(), 2);
        std::fs::write(&path, "preStopSeconds: 3").unwrap();
        file.look(&metrics);
        assert_eq!(seconds(), 3);
    }

    #[test]
    fn a_start_without_a_good_one_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let open = || format!("{:#}", ConfigFile::open(path.clone(), "cluster.local".into()).unwrap_err());
        assert!(open().contains("is the ConfigMap mesh-injector mounted there?"));
        std::fs::write(&path, "trustDomain: other.example").unwrap();
        assert!(open().contains("--trust-domain is \"cluster.local\""), "{}", open());
    }
}
