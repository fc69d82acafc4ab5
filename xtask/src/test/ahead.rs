//! What the tests on a cluster need, built while everything before them runs: images, Kubernetes, the conformance suite.
//!
//! Compilers wait for each other and tests of processes wait for processes, so that of two cores one is often idle. A
//! process of its own fills the gaps with the scheduler's class for that (`SCHED_IDLE`, sched(7)), so that it takes nothing
//! from a test that measures. It decides nothing: whoever needs a thing later asks the cache or cargo for it, waits if it
//! is being built, builds it if it is not, and says what is wrong with it.

use std::{
    env,
    fs::File,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    cluster, conformance, images,
    step::{root, step},
};

use super::cluster::NEWEST;

/// Where it tells what it does.
const LOG: &str = "target/ahead.log";

/// The process, which ends with this.
pub struct Ahead(Option<Child>);

impl Ahead {
    /// Starts it. Without it everything is built later.
    pub fn start() -> Self {
        let start = || {
            let log = File::create(root().join(LOG)).ok()?;
            // `chrt` is of util-linux, as `nsenter`, which the cluster needs.
            let mut ahead = Command::new("chrt");
            ahead.args(["--idle", "0"]).arg(env::current_exe().ok()?).arg("ahead").process_group(0);
            ahead.stdin(Stdio::null()).stdout(log.try_clone().ok()?).stderr(log).spawn().ok()
        };
        Self(start())
    }
}

impl Ahead {
    /// Waits for its end, now at the pace of everything else.
    pub fn finish(mut self) -> Result<()> {
        let Some(mut child) = self.0.take() else { return Ok(()) };
        child.wait()?;
        println!("what it said is in {LOG}");
        Ok(())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        let is_running = matches!(child.try_wait(), Ok(None));
        // Its compilers are in its group, and would go on without it.
        if is_running && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _gone = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }
}

/// What the process does. A failure is told in its log, and by whoever needs the thing.
pub fn run() -> Result<()> {
    let works: [(&str, &dyn Fn() -> Result<()>); 3] = [
        ("images", &|| images::run_images(&images::Options::for_tests())),
        ("Kubernetes", &cluster::build_programs),
        ("conformance suite", &|| conformance::build(NEWEST)),
    ];
    for (title, work) in works {
        if let Err(error) = step(title, work) {
            eprintln!("{error:#}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io::{BufRead as _, BufReader},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::cluster::processes::is_alive;

    #[test]
    fn compilers_end_with_the_process_that_started_them() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 & echo $!; wait"]).process_group(0).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = pid.trim().parse().unwrap();
        assert!(is_alive(pid));
        drop(Ahead(Some(child)));
        let began = Instant::now();
        while is_alive(pid) {
            assert!(began.elapsed() < Duration::from_secs(20), "process {pid} goes on");
            std::thread::yield_now();
        }
    }
}
