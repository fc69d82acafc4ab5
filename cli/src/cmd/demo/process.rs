//! The demo's processes: started out of this same file, watched, and ended together, whatever happens.
//!
//! Each runs in a process group of its own, so that Ctrl-C reaches only the parent, which ends them in order; each has
//! a pipe as standard input, whose end tells it that the parent is gone (see `run`). What they log is kept in memory,
//! the last lines of each, for the case that one fails.

use std::{
    collections::VecDeque,
    env,
    fs::File,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::PathBuf,
    process::{self, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, ChildStdin, Command},
    time::{Instant, timeout_at},
};

use super::namespaces::Namespace;
use crate::cmd::run::PARENT;

/// How long all processes together may take to end after SIGTERM before they are killed.
const TERM_BOUND: Duration = Duration::from_secs(4);

/// How long the kernel may take to report a killed process.
const KILL_BOUND: Duration = Duration::from_secs(2);

/// Lines of log that are kept of each process.
const LOG_LINES: usize = 12;

/// Characters of a line of log that are shown.
const LOG_LINE: usize = 300;

/// Bytes of a line that are read before it counts as a line; a log without line ends must not grow in memory.
const LOG_BUFFER: usize = 8 * 1024;

/// All processes that were started.
#[derive(Debug)]
pub(super) struct Processes {
    program: PathBuf,
    /// The same file, held open: another user may not be able to enter its folder.
    file: Option<File>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    child: Child,
    /// Held open: its end would end the process.
    _stdin: Option<ChildStdin>,
    log: Log,
}

/// Where a process runs, and as whom: by default where this one does, as the same user.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProcessPlacement<'p> {
    /// The pod's network.
    pub namespace: Option<&'p Namespace>,
    /// The user, and the group of the same number.
    pub uid: Option<u32>,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Processes {
    /// None yet. Errors when this program's own file is unknown.
    pub(super) fn new() -> anyhow::Result<Self> {
        let program = env::current_exe().context("cannot find this program's own file to start it again")?;
        let file = File::open(&program).ok();
        Ok(Self { program, file, running: Vec::new() })
    }

    /// Starts `meshctl run ARGS…` with `variables`, and none of the `MESH_*` variables of this process.
    pub(super) fn start(&mut self, name: &str, args: &[&str], variables: &[(&str, String)]) -> anyhow::Result<()> {
        self.start_in(ProcessPlacement::default(), name, args, variables)
    }

    /// The same in a pod, or as another user.
    pub(super) fn start_in(
        &mut self,
        place: ProcessPlacement<'_>,
        name: &str,
        args: &[&str],
        variables: &[(&str, String)],
    ) -> anyhow::Result<()> {
        let mut command = Command::from(self.command(place, args, variables));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let spawned = match place.namespace {
            None => command.spawn(),
            Some(namespace) => namespace.within(|| command.spawn())?,
        };
        let mut child = spawned.with_context(|| format!("{} ({name}) does not start", self.program.display()))?;
        let log = Log::default();
        if let Some(out) = child.stdout.take() {
            tokio::spawn(keep_last_lines(out, log.clone()));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(keep_last_lines(err, log.clone()));
        }
        let stdin = child.stdin.take();
        self.running.push(Running { name: name.to_owned(), child, _stdin: stdin, log });
        Ok(())
    }

    /// Runs `meshctl run ARGS…` in a pod to its end. Errors when it fails, with what it said.
    pub(super) fn complete(
        &self,
        namespace: &Namespace,
        args: &[&str],
        variables: &[(&str, String)],
    ) -> anyhow::Result<()> {
        let place = ProcessPlacement { namespace: Some(namespace), uid: None };
        let mut command = self.command(place, args, variables);
        let done = namespace.within(|| command.stdin(Stdio::null()).env_remove(PARENT).output())?;
        let done = done.with_context(|| format!("{} does not start", self.program.display()))?;
        let stderr = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{} failed ({}): {}", args.join(" "), ending(done.status), stderr.trim());
        Ok(())
    }

    fn command(&self, place: ProcessPlacement<'_>, args: &[&str], variables: &[(&str, String)]) -> process::Command {
        let mut command = match (place.uid, &self.file) {
            (Some(uid), Some(file)) => {
                let mut command = process::Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
                command.arg0(&self.program).uid(uid).gid(uid);
                command
            }
            _ => process::Command::new(&self.program),
        };
        command.arg("run").args(args);
        for (key, _) in env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("MESH_")) {
            command.env_remove(key);
        }
        let log_level = env::var("MESH_LOG").unwrap_or_else(|_| "info".into());
        command.env("MESH_LOG", log_level).env(PARENT, "1").env("NO_COLOR", "1");
        command.envs(variables.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Errors when a process has ended, which none should; the error has the last lines of its log.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for running in &mut self.running {
            if let Ok(Some(status)) = running.child.try_wait() {
                return Err(anyhow!("{} ended by itself ({})\n{}", running.name, ending(status), running.last_words()));
            }
        }
        Ok(())
    }

    /// The last lines of a process's log, indented, for an error about it.
    pub(super) fn last_words(&self, name: &str) -> String {
        self.running.iter().find(|r| r.name == name).map(Running::last_words).unwrap_or_default()
    }

    /// Ends all: SIGTERM to each, SIGKILL to those that remain after [`TERM_BOUND`], and waits for every one. Errors
    /// name a process that could not be ended.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for running in &self.running {
            signal(&running.child, Signal::TERM);
        }
        let bound = Instant::now() + TERM_BOUND;
        let mut left = Vec::new();
        for mut running in self.running.drain(..) {
            if !matches!(timeout_at(bound, running.child.wait()).await, Ok(Ok(_))) {
                signal(&running.child, Signal::KILL);
                left.push(running);
            }
        }
        let bound = Instant::now() + KILL_BOUND;
        for mut running in left {
            let gone = timeout_at(bound, running.child.wait()).await;
            gone.with_context(|| format!("{} did not end within {KILL_BOUND:?} of SIGKILL", running.name))??;
        }
        Ok(())
    }
}

impl Running {
    fn last_words(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.is_empty() {
            return format!("  {} logged nothing", self.name);
        }
        let lines: Vec<_> = log.iter().map(|l| format!("    {l}")).collect();
        format!("  last lines of its log:\n{}", lines.join("\n"))
    }
}

fn signal(child: &Child, signal: Signal) {
    // No id means that it was waited for already. An error means that it is gone: what was wanted.
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn ending(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

async fn keep_last_lines(from: impl AsyncRead + Unpin, log: Log) {
    let mut from = BufReader::with_capacity(LOG_BUFFER, from);
    let mut line = Vec::new();
    loop {
        let (used, ended) = match from.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => match bytes.iter().position(|&b| b == b'\n') {
                Some(end) => {
                    line.extend_from_slice(&bytes[..end]);
                    (end + 1, true)
                }
                None => {
                    line.extend_from_slice(bytes);
                    (bytes.len(), line.len() >= LOG_BUFFER)
                }
            },
        };
        from.consume(used);
        if ended {
            keep(&log, &line);
            line.clear();
        }
    }
    keep(&log, &line);
}

fn keep(log: &Log, line: &[u8]) {
    let text: String =
        String::from_utf8_lossy(line).chars().filter(|c| !c.is_control() || *c == '\t').take(LOG_LINE).collect();
    if text.trim().is_empty() {
        return;
    }
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    if log.len() == LOG_LINES {
        log.pop_front();
    }
    log.push_back(text);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn shell() -> Processes {
        Processes { program: "/bin/sh".into(), file: None, running: Vec::new() }
    }

    #[tokio::test]
    async fn only_the_last_lines_are_kept_and_escapes_are_not() {
        let log = Log::default();
        let text: String = (0..50).map(|n| format!("line \u{1b}{n}\n")).collect();
        keep_last_lines(text.as_bytes(), log.clone()).await;
        let log = log.lock().unwrap();
        assert_eq!(log.len(), LOG_LINES);
        assert_eq!(log.back().unwrap(), "line 49");
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut() {
        let log = Log::default();
        keep_last_lines(vec![b'x'; 100 * LOG_BUFFER].as_slice(), log.clone()).await;
        assert!(log.lock().unwrap().iter().all(|l| l.len() == LOG_LINE));
    }

    #[tokio::test]
    async fn a_process_that_ends_by_itself_is_an_error() {
        let mut processes = shell();
        // `sh run` looks for a script named `run`, finds none and says so.
        processes.start("nothing", &[], &[]).unwrap();
        let error = loop {
            match processes.check() {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert!(error.to_string().starts_with("nothing ended by itself (exit code"), "{error}");
        processes.stop().await.unwrap();
    }
}
