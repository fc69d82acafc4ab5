//! Kubelet's probes: it asks the sidecar, and the sidecar asks the application in its place.
//!
//! Kubelet has no identity in the mesh, and no address of its own either: pods of the node's network have the node's, and
//! some networks show others by it too. A policy could let kubelet in only together with all of them. So the injector
//! sends kubelet to `/probe/SECRET/NUMBER` on the port of the pages, which is never redirected. The secret is in the pod's
//! spec: whoever knows it is kubelet, or may read the pod. What the application is asked for a number is fixed by
//! `MESH_PROBES`; a request chooses nothing of it, and is told no more than whether the application is well.
//!
//! The application is asked as kubelet would ask it (pkg/probe of Kubernetes): with its limits and its view of redirects,
//! at the pod's own address, and from the sidecar's user, whose connections are not redirected. So no policy is asked.

mod application;
mod grpc;
mod http_get;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    io, iter,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::StatusCode;
use mesh_listen::{
    Page,
    pages::{Life, text},
};
use mesh_policy::well_known::PROBE_PATH;
use tokio::{sync::Semaphore, time::timeout};

use self::application::Application;
use crate::config::{self, Action, Config, Probe};

/// Probes under way at once; an honest kubelet has a few.
const AT_ONCE: usize = 16;
/// Bytes that are read of an answer of the application, as by kubelet; they are dropped.
const MAX_ANSWER: usize = 10 * 1024;
/// Who asks: applications know kubelet by how it begins.
const USER_AGENT: &str = concat!("kube-probe/mesh-", env!("CARGO_PKG_VERSION"));
/// The same of hooks.
const HOOK_AGENT: &str = concat!("kube-lifecycle/mesh-", env!("CARGO_PKG_VERSION"));

/// The probes of this pod.
pub(crate) struct Probes {
    told: config::Probes,
    application: Application,
    places: Semaphore,
    /// Of each, whether it failed the last time: the log has what changes.
    failed: Vec<AtomicBool>,
}

/// Why an application is not well: what kubelet is answered.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    why: String,
}

impl Probes {
    /// Asks the application of this configuration.
    pub(crate) fn new(config: &Config) -> Result<Self, rustls::Error> {
        Ok(Self {
            told: config.probes.clone(),
            application: Application::of(&config.pod_ips)?,
            places: Semaphore::new(AT_ONCE),
            failed: config.probes.probes.iter().map(|_| AtomicBool::new(false)).collect(),
        })
    }

    /// The number of the probe that has a path; `None` for all other paths, also if their secret is wrong.
    pub(crate) fn number(&self, path: &str) -> Option<usize> {
        let (secret, number) = path.strip_prefix(PROBE_PATH)?.split_once('/')?;
        verify_slices_are_equal(secret.as_bytes(), self.told.secret.as_bytes()).ok()?;
        let is_number = number.bytes().all(|b| b.is_ascii_digit());
        number.parse().ok().filter(|number| is_number && *number < self.told.probes.len())
    }

    /// Asks the application. `None` is no answer: kubelet takes any for a success of a hook.
    pub(crate) async fn answer(&self, number: usize, life: Option<Life>) -> Option<Page> {
        let probe = self.told.probes.get(number)?;
        if let Some(life) = life {
            life.extend(probe.limit());
        }
        let asked = match self.places.try_acquire() {
            Ok(_place) => self.ask(probe).await,
            Err(_) => Err(Failure::new(format!("{AT_ONCE} probes are under way already"))),
        };
        self.note(number, probe, asked.as_ref().err());
        match asked {
            Ok(()) => Some(text(StatusCode::OK, "ok\n")),
            Err(_) if probe.is_hook() => None,
            Err(failure) => Some(text(failure.status, failure.why + "\n")),
        }
    }

    async fn ask(&self, probe: &Probe) -> Result<(), Failure> {
        let limit = probe.limit();
        match timeout(limit, self.fault(probe)).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some((status, said)))) => {
                Err(Failure { status, why: format!("the application answered {said} to {probe}") })
            }
            Ok(Err(error)) => Err(Failure::new(format!("the application did not answer {probe}: {error}"))),
            Err(_) => Err(Failure::new(format!("the application did not answer {probe} within {limit:?}"))),
        }
    }

    /// What the application answers if it is not well: the status for kubelet, and what it said.
    async fn fault(&self, probe: &Probe) -> io::Result<Option<(StatusCode, String)>> {
        match &probe.action {
            Action::HttpGet(get) => {
                let status = http_get::get(&self.application, probe, get).await?;
                let is_well = probe.is_hook() || (200..400).contains(&status.as_u16());
                Ok((!is_well).then(|| (status, status.as_u16().to_string())))
            }
            Action::TcpSocket(_) => self.application.connect(probe.port).await.map(|_| None),
            Action::Grpc(check) => {
                let said = grpc::check(&self.application, probe.port, check).await?;
                Ok(said.map(|said| (StatusCode::SERVICE_UNAVAILABLE, said)))
            }
        }
    }

    /// Tells the log of probes that begin to fail, or to succeed again: kubelet's events have the status alone.
    fn note(&self, number: usize, probe: &Probe, failure: Option<&Failure>) {
        let Some(failed) = self.failed.get(number) else { return };
        let before = failed.swap(failure.is_some(), Relaxed);
        let Probe { container, probe: name, .. } = probe;
        match failure {
            Some(Failure { why, .. }) if !before => tracing::info!("{name} of {container} fails: {why}"),
            None if before => tracing::info!("{name} of {container} succeeds again"),
            _ => {}
        }
    }
}

/// An error with what caused it, which the libraries tell only if asked.
fn with_causes(error: impl Error + 'static) -> io::Error {
    let causes = iter::successors(Some(&error as &(dyn Error + 'static)), |&error| error.source());
    io::Error::other(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

impl Failure {
    fn new(why: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, why }
    }
}
