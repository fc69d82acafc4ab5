//! Start and end of the process, top to bottom: configuration, trust, control thread, workers, drain.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    process::ExitCode,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use mesh_credentials::{Credentials, channel::Peer};
use mesh_listen::{Shared, Signals, bind};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, LocalOptions},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{
    access_log::Writer,
    admin::{Admin, Pages},
    authorization::{self, Callers},
    config::{Config, ConfigError, ProcessEnv},
    control::Control,
    expiry, gate,
    hairpin::Hairpin,
    init,
    listen::{self, Role},
    metrics::{ControlMetrics, Metrics},
    probe::Probes,
    tap::Taps,
    tls::Tls,
    transport::Parts,
    worker::Worker,
};

/// The configuration is wrong; the same as command lines use for wrong usage.
pub(crate) const EXIT_USAGE: u8 = 2;
/// After the drain, what is still open is closed; nothing may hold up the end of the process for longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A block this large, given back once, tells glibc's malloc to keep freed memory: from then on its heap serves blocks
/// up to this size and keeps twice as much at its top. Otherwise the read buffers of large bodies (64 to 256 KiB) go
/// back to the kernel after each request and are faulted in again: a tenth of the CPU of a 64 KiB response.
const KEPT_BLOCK: usize = 4 << 20;

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A variable is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The trust bundle cannot be read.
    #[error("trust bundle: {0}")]
    Trust(#[from] mesh_credentials::Error),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A port cannot be opened.
    #[error("cannot listen on {0}: {1}; is another proxy running, or the port taken?")]
    Listen(SocketAddr, io::Error),
    /// A thread or a runtime cannot be made.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Runs `mesh-proxy` with its arguments, those after its own name: none is the sidecar, `init` redirects a pod's
/// connections and exits, `await` blocks until the sidecar is ready. Everything else comes from the environment.
pub fn main_from_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    match args.iter().map(|arg| arg.to_str()).collect::<Vec<_>>()[..] {
        [] => main_from_env(),
        [Some("init")] => init::main_from_env(),
        [Some("await")] => gate::main_from_env(),
        _ => {
            eprintln!(
                "mesh-proxy: unknown arguments {args:?}; it takes none, or init, or await (MESH_* variables say the rest)"
            );
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Runs the proxy as its environment says, until SIGTERM or SIGINT. Blocks.
pub fn main_from_env() -> ExitCode {
    let config = match Config::from_env(&ProcessEnv) {
        Ok(config) => Arc::new(config),
        Err(error) => {
            eprintln!("mesh-proxy: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let log = init_log(&config.log);
    match run(config, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

type LogHandle = reload::Handle<EnvFilter, Registry>;

fn init_log(filter: &str) -> Option<LogHandle> {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).try_init().ok().map(|()| handle)
}

/// Starts every part, waits for a signal, drains.
fn run(config: Arc<Config>, log: Option<LogHandle>) -> Result<(), StartError> {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BLOCK)));
    let credentials = Credentials::new(mesh_credentials::Config {
        identity: Peer { address: config.identity_addr.clone(), identity: config.identity_name.clone() },
        token_file: config.token_file.clone(),
        trust_bundle_file: config.trust_bundle_file.clone(),
    })?;
    let tls = Arc::new(Tls::new(credentials.held().clone())?);
    let metrics = Arc::new(Metrics::new(config.limits.series));
    let (callers, taps, hairpin): (Arc<Callers>, Arc<Taps>, Arc<Hairpin>) = Default::default();
    let drain = CancellationToken::new();

    // The control thread is this one: identity, streams, admin pages, signals.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let control_metrics = ControlMetrics::new(&metrics);
    let control = Control::start(runtime.handle().clone(), &config, credentials.clone(), &tls, control_metrics);
    control.follow_workload(credentials);
    let admin = Admin {
        config: config.clone(),
        control: control.clone(),
        metrics: metrics.clone(),
        tls: tls.clone(),
        callers: callers.clone(),
        taps: taps.clone(),
        texts: Shared::default(),
        probes: Probes::new(&config)?,
        log,
    };
    runtime.block_on(serve_admin(Arc::new(admin)))?;

    // Workers get their listeners before any is started: a port that is taken is an error, not half a proxy.
    let addresses = listen::addresses(&config);
    let own: Vec<SocketAddr> = addresses.iter().map(|(address, _)| *address).collect();
    let writer = Writer::start(metrics.of_access_log(), config.limits.access_log_lines, config.access_log_format)?;
    let access_log = writer.sender();
    let parts = Parts { config: config.clone(), tls, metrics, hairpin, callers, access_log, taps, own };
    let mut workers: Vec<JoinHandle<()>> = Vec::new();
    for n in 0..config.workers {
        let listeners = open(&addresses, config.workers > 1)?;
        let (parts, control, drain) = (parts.clone(), control.clone(), drain.clone());
        let work = move || {
            let worker = move || Worker::new(parts, control, drain);
            if let Err(error) = work(worker, listeners) {
                tracing::error!("worker {n}: {error}");
            }
        };
        workers.push(thread::Builder::new().name(format!("worker-{n}")).spawn(work)?);
    }
    drop(parts);
    tracing::info!(
        "{} serves outbound on {}, inbound on {}, metrics on {}",
        config.workload,
        config.outbound_listen,
        config.inbound_listen,
        config.metrics_listen
    );

    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let signal = signals.wait().await;
        tracing::info!("{signal}: draining for at most {:?}", config.times.shutdown_grace);
        drain.cancel();
        let all_done = async {
            while workers.iter().any(|worker| !worker.is_finished()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = all_done => {}
            () = tokio::time::sleep(config.times.shutdown_grace + LAST_WORDS) => tracing::warn!("connections were still open"),
            _ = signals.wait() => tracing::warn!("a second signal: leaving at once"),
        }
        Ok::<(), StartError>(())
    })?;
    writer.finish(LAST_WORDS);
    Ok(())
}

/// Opens every traffic port once.
fn open(addresses: &[(SocketAddr, Role)], shared: bool) -> Result<Vec<(std::net::TcpListener, Role)>, StartError> {
    let one = |(address, role): &(SocketAddr, Role)| {
        let listener = bind(*address, shared).map_err(|error| StartError::Listen(*address, error))?;
        Ok((listener, role.clone()))
    };
    addresses.iter().map(one).collect()
}

async fn serve_admin(admin: Arc<Admin>) -> Result<(), StartError> {
    for (address, pages) in [(admin.config.admin_listen, Pages::Local), (admin.config.metrics_listen, Pages::ReadOnly)]
    {
        let listener =
            bind(address, false).and_then(TcpListener::from_std).map_err(|error| StartError::Listen(address, error))?;
        Handle::current().spawn(admin.clone().serve(listener, pages));
    }
    Ok(())
}

/// How often connections to endpoints that are gone are ended, where no request does it.
const FORGET_GONE_EVERY: Duration = Duration::from_secs(1);

/// One data-plane thread: accepts until the drain begins, then waits for what is open: first for what others asked of
/// the application, which until then may ask others.
fn work(worker: impl FnOnce() -> Worker, listeners: Vec<(std::net::TcpListener, Role)>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let worker = Rc::new(worker());
        for (listener, role) in listeners {
            let listener = TcpListener::from_std(listener)?;
            tokio::task::spawn_local(listen::run(worker.clone(), listener, role));
        }
        tokio::task::spawn_local(expiry::run(worker.transport.clone()));
        tokio::task::spawn_local(authorization::run(worker.authorization.clone()));
        tokio::task::spawn_local({
            let worker = worker.clone();
            async move { worker.follow_policy().await }
        });
        tokio::task::spawn_local({
            let worker = worker.clone();
            async move { worker.follow_viewers().await }
        });
        let tidying = async {
            loop {
                tokio::time::sleep(FORGET_GONE_EVERY).await;
                worker.forget_gone();
            }
        };
        tokio::select! {
            () = async {
                worker.drain.cancelled().await;
                worker.finish().await;
            } => {}
            () = tidying => {}
        }
        Ok(())
    })
}
