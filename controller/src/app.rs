//! What every role does at its start and at its end: the log, listeners, servers.
//!
//! The order of a role's own start is in its file (`role/`).

use std::{future::Future, io::Write, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_credentials::parts::Parts;
use mesh_listen::Signals;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tracing_subscriber::EnvFilter;

use crate::{
    api::{
        listener::{self, Limits},
        server::ListenerTls,
    },
    metrics::Metrics,
};

/// Longest wait for open calls at the end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Logs to standard error. Keeps what is there already, for programs that run the controller inside themselves.
pub(crate) fn init_log(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).context("--log")?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    if log.try_init().is_err() {
        writeln!(std::io::stderr(), "the log was set up before; --log is not used")?;
    }
    Ok(())
}

/// Listens; an error names the flag that said where.
pub(crate) fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    mesh_listen::listen(address).with_context(|| format!("{flag} {address}; is another controller running?"))
}

/// Waits for a signal that ends the role.
pub(crate) async fn signalled(signals: &mut Signals) {
    tracing::info!("{}: going down", signals.wait().await);
}

/// What a role serves and keeps up, and its end.
#[derive(Debug)]
pub(crate) struct Servers {
    cancel: CancellationToken,
    ready: watch::Sender<bool>,
    parts: Parts,
    tasks: TaskTracker,
}

impl Default for Servers {
    fn default() -> Self {
        let (cancel, ready) = (CancellationToken::new(), watch::Sender::new(false));
        Self { cancel, ready, parts: Parts::default(), tasks: TaskTracker::new() }
    }
}

impl Servers {
    /// Cancelled when the role goes down.
    pub(crate) fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// What `/ready` says.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Which part ended, for `/ready` and `/live`.
    pub(crate) fn parts(&self) -> Parts {
        self.parts.clone()
    }

    /// From now on `/ready` says yes.
    pub(crate) fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Runs a part that ends by itself soon after [`Self::cancel`], and not before.
    pub(crate) fn spawn(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(self.parts.clone().run(part, move || cancel.is_cancelled(), task));
    }

    /// Runs a part on a thread of its own, which has to end soon after it is cancelled. An error says that the system gives
    /// no thread.
    pub(crate) fn thread<F>(
        &self,
        part: &'static str,
        task: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Result<()>
    where
        F: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (cancel, ended) = (self.cancel.clone(), CancellationToken::new());
        let guard = ended.clone().drop_guard();
        std::thread::Builder::new().name(part.to_owned()).spawn(move || {
            let _guard = guard;
            runtime.block_on(task(cancel));
        })?;
        self.spawn(part, async move { ended.cancelled().await });
        Ok(())
    }

    /// Runs a part that never ends by itself until [`Self::cancel`].
    pub(crate) fn until_the_end(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.spawn(part, async move {
            cancel.run_until_cancelled(task).await;
        });
    }

    /// Serves gRPC over TLS, within the bounds of the listener.
    pub(crate) fn grpc(
        &self,
        name: &'static str,
        routes: Routes,
        limits: Limits,
        listener: TcpListener,
        tls: ListenerTls,
        metrics: &Arc<Metrics>,
    ) {
        self.spawn(name, listener::serve(listener, tls, routes, limits, metrics.clone(), self.cancel.clone()));
    }

    /// Ends streams without error, takes no more connections and waits a little for open calls.
    pub(crate) async fn stop(self) {
        self.ready.send_replace(false);
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some calls did not end within {SHUTDOWN_LIMIT:?}; leaving them");
        }
    }
}
