//! One child process: its output in a file, its end with its handle.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// How much of a log is shown when a process fails: enough for the message before the end, little enough to read.
const TAIL_BYTES: usize = 4 << 10;

/// A running child. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr appended to `log`.
    ///
    /// # Errors
    ///
    /// When the log cannot be written or the program cannot be started (the message names both).
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("cannot write the log {}", log.display()))?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of what it has written, for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let mut from = log.len().saturating_sub(TAIL_BYTES);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        log[from..].to_owned()
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    ///
    /// When the kernel cannot say.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, with the end of the log, if the process has ended.
    ///
    /// # Errors
    ///
    /// As said.
    pub fn must_run(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its log ends with:\n{}", self.name, self.log_tail()),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits for that, at most `within`.
    ///
    /// # Errors
    ///
    /// When it is still running after that time; it is killed when the handle drops.
    pub async fn stop(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(within).await
    }

    /// Waits for its own end, at most `within`.
    ///
    /// # Errors
    ///
    /// When it is still running after that time.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end; its log ends with:\n{}", self.name, self.log_tail());
        eventually(&what, within, async || Ok(self.child.try_wait()?)).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of one of our binaries: in `MESH_BIN_DIR`, else beside the running executable (or in the folder above
/// `deps`), else in `target/debug` or `target/release` of the workspace.
///
/// # Errors
///
/// When it is in none of them; the message lists where it was looked for and how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("MESH_BIN_DIR").map(PathBuf::from).into_iter().collect();
    if let Some(beside) = env::current_exe()?.parent() {
        folders.push(beside.to_owned());
        folders.extend(beside.parent().filter(|_| beside.ends_with("deps")).map(Path::to_owned));
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    folders.extend([target.join("debug"), target.join("release")]);
    match folders.iter().map(|f| f.join(name)).find(|p| p.is_file()) {
        Some(found) => Ok(found),
        None => bail!("no binary {name} in {folders:?}: run `cargo build --workspace --bins` first"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_process_is_logged_stopped_and_reaped() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo started; exec sleep 60"]);
        let mut process = Process::spawn("sleeper", command, &dir.path().join("log")).unwrap();
        let logged = async || Ok(process.log().contains("started").then_some(()));
        eventually("the first line", Duration::from_secs(5), logged).await.unwrap();
        process.must_run().unwrap();
        let status = process.stop(Duration::from_secs(5)).await.unwrap();
        assert!(!status.success(), "ended by the signal");
        assert!(process.must_run().unwrap_err().to_string().contains("started"));
    }

    #[test]
    fn a_missing_binary_is_explained() {
        let error = binary("no-such-binary").unwrap_err().to_string();
        assert!(error.contains("cargo build"), "{error}");
    }
}
