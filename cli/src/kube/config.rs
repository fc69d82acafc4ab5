//! Which cluster is meant: kubeconfig files as kubectl reads them, else the pod's own service account.

use std::{env, path::PathBuf, time::Duration};

use ::kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::{ClusterError, error::causes};
use crate::globals::Globals;

/// A person waits: an API server that does not take a connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence on a connection, forwarded ports included.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The configuration that the flags mean.
pub(super) async fn load(globals: &Globals) -> Result<Config, ClusterError> {
    let mut config = match read(globals)? {
        Some((kubeconfig, file)) => select(kubeconfig, &file, globals).await?,
        None => Config::incluster().map_err(|_| ClusterError::NoKubeconfig { tried: tried() })?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(IDLE_TIMEOUT);
    config.write_timeout = Some(IDLE_TIMEOUT);
    Ok(config)
}

/// The merged kubeconfig and the name of its file; `None` when there is none. Files that `KUBECONFIG` lists need not
/// all exist; the one that a flag names must.
fn read(globals: &Globals) -> Result<Option<(Kubeconfig, String)>, ClusterError> {
    let bad = |path: &PathBuf, error: KubeconfigError| ClusterError::BadKubeconfig {
        file: path.display().to_string(),
        why: causes(&error),
    };
    let paths = match &globals.kubeconfig {
        Some(path) => vec![path.clone()],
        None => candidates().into_iter().filter(|path| path.exists()).collect(),
    };
    let mut merged: Option<(Kubeconfig, String)> = None;
    for path in &paths {
        let next = Kubeconfig::read_from(path).map_err(|error| bad(path, error))?;
        let file = path.display().to_string();
        merged = Some(match merged {
            None => (next, file),
            Some((first, files)) => (first.merge(next).map_err(|error| bad(path, error))?, format!("{files}, {file}")),
        });
    }
    Ok(merged)
}

/// Where a kubeconfig may be when no flag names one.
fn candidates() -> Vec<PathBuf> {
    match env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
        Some(list) => env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => env::home_dir().map(|home| home.join(".kube").join("config")).into_iter().collect(),
    }
}

fn tried() -> String {
    let paths: Vec<_> = candidates().iter().map(|path| path.display().to_string()).collect();
    if paths.is_empty() {
        "there is no home folder to look in".to_owned()
    } else {
        format!("there is no {}", paths.join(", nor "))
    }
}

async fn select(kubeconfig: Kubeconfig, file: &str, globals: &Globals) -> Result<Config, ClusterError> {
    let names: Vec<_> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let known = if names.is_empty() {
        format!("{file} has none at all; name another with --kubeconfig FILE")
    } else {
        format!("there are: {}; choose one with --context", names.join(", "))
    };
    let wanted = globals.context.clone().or_else(|| kubeconfig.current_context.clone()).filter(|name| !name.is_empty());
    let Some(wanted) = wanted else {
        return Err(ClusterError::BadKubeconfig {
            file: file.to_owned(),
            why: format!("no context is the current one; {known}"),
        });
    };
    if !names.contains(&wanted) {
        return Err(ClusterError::NoContext { name: wanted, known });
    }
    let options = KubeConfigOptions { context: Some(wanted), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| ClusterError::BadKubeconfig { file: file.to_owned(), why: causes(&error) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const TWO: &str = r#"
apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: c, cluster: {server: "https://127.0.0.1:1"}}
contexts:
- {name: one, context: {cluster: c, user: u, namespace: shop}}
- {name: two, context: {cluster: c, user: u}}
users:
- {name: u, user: {token: t}}
"#;

    async fn loaded(text: &str, context: Option<&str>) -> Result<Config, ClusterError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, text).unwrap();
        let globals = Globals { kubeconfig: Some(file), context: context.map(str::to_owned), ..Globals::default() };
        load(&globals).await
    }

    #[tokio::test]
    async fn the_context_says_the_namespace() {
        assert_eq!(loaded(TWO, None).await.unwrap().default_namespace, "shop");
        assert_eq!(loaded(TWO, Some("two")).await.unwrap().default_namespace, "default");
    }

    #[tokio::test]
    async fn wrong_files_and_contexts_say_the_next_step() {
        let message = loaded(TWO, Some("three")).await.unwrap_err().to_string();
        assert!(
            message.contains("\"three\"") && message.contains("one, two") && message.contains("--context"),
            "{message}"
        );
        let message = loaded(&TWO.replace("current-context: one", ""), None).await.unwrap_err().to_string();
        assert!(message.contains("no context is the current one"), "{message}");
        let message = loaded("[", None).await.unwrap_err().to_string();
        assert!(message.contains("correct it"), "{message}");
        let absent = Globals { kubeconfig: Some("/nonexistent/config".into()), ..Globals::default() };
        let message = load(&absent).await.unwrap_err().to_string();
        assert!(message.contains("/nonexistent/config") && message.contains("--kubeconfig"), "{message}");
    }
}
