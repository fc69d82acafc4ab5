//! What every role does at its start and at its end: the log, listeners, servers, signals.
//!
//! The order of a role's own start is in its file (`role/`).

use std::{future::Future, io, io::Write, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_credentials::parts::Parts;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tracing_subscriber::EnvFilter;

use crate::{
    listener::{self, Limits},
    metrics::Metrics,
    server::ListenerTls,
};

/// Longest wait for open calls at the end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// Connections that the system holds while we are busy: a thousand proxies may come back at once.
const BACKLOG: i32 = 1024;

/// Logs to standard error. Keeps what is there already, for programs that run the controller inside themselves.
pub fn init_log(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).context("--log")?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    if log.try_init().is_err() {
        writeln!(std::io::stderr(), "the log was set up before; --log is not used")?;
    }
    Ok(())
}

/// Listens. `0.0.0.0` is every address of both families where the system has IPv6.
pub fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    let both = SocketAddr::from(([0; 8], address.port()));
    let is_any = address.is_ipv4() && address.ip().is_unspecified();
    let bound = if is_any { bind(both).or_else(|_| bind(address)) } else { bind(address) };
    bound.with_context(|| format!("{flag} {address}; is another controller running?"))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// SIGTERM and SIGINT, taken from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over.
    pub fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: going down"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: going down"),
        }
    }
}

/// What a role serves and keeps up, and its end.
#[derive(Debug)]
pub struct Servers {
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
    pub fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// What `/ready` says.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Which part ended, for `/ready` and `/live`.
    pub fn parts(&self) -> Parts {
        self.parts.clone()
    }

    /// From now on `/ready` says yes.
    pub fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Runs a part that ends by itself soon after [`Self::cancel`], and not before.
    pub fn spawn(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(self.parts.clone().run(part, move || cancel.is_cancelled(), task));
    }

    /// Runs a part on a thread of its own, which has to end soon after it is cancelled. An error says that the system gives
    /// no thread.
    pub fn thread<F>(
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
    pub fn until_the_end(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.spawn(part, async move {
            cancel.run_until_cancelled(task).await;
        });
    }

    /// Serves gRPC over TLS, within the bounds of the listener.
    pub fn grpc(
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
    pub async fn stop(self) {
        self.ready.send_replace(false);
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some calls did not end within {SHUTDOWN_LIMIT:?}; leaving them");
        }
    }
}
