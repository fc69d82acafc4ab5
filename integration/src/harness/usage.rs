//! What a process has cost so far: processor time of all its threads and memory, read from `/proc`.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A reading of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all threads that live now, in nanoseconds. The time of a thread that has ended is lost to it.
    pub cpu_ns: u64,
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// The part of it that is backed by no file, in KiB.
    pub anonymous_kib: u64,
}

/// Reads the cost of a process.
///
/// `/proc/PID/schedstat` is that of the main thread only, hence the sum over `task`.
///
/// # Errors
///
/// When the process is gone, or the kernel does not account for its threads.
pub fn usage(pid: u32) -> Result<Usage> {
    let mut cpu_ns = 0;
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
    for task in tasks {
        // A thread that ended between the listing and the reading is left out, as one that ended before.
        let Ok(stat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        cpu_ns += stat.split(' ').next().and_then(|n| n.parse::<u64>().ok()).context("schedstat is not as expected")?;
    }
    ensure!(cpu_ns > 0, "the kernel says nothing in /proc/{pid}/task/*/schedstat: it was built without it");
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |key: &str| {
        let line = rollup.lines().find_map(|l| l.strip_prefix(key));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("no {key} in smaps_rollup"))
    };
    Ok(Usage { cpu_ns, rss_kib: kib("Rss:")?, anonymous_kib: kib("Anonymous:")? })
}

/// Lifts this process's soft limit of open files to at least `wanted`; children inherit it. Returns what was found and
/// what is in force, `None` standing for no limit.
///
/// # Errors
///
/// When the hard limit is lower.
pub fn raise_file_limit(wanted: u64) -> Result<(Option<u64>, Option<u64>)> {
    let found = getrlimit(Resource::Nofile);
    if found.current.is_none_or(|n| n >= wanted) {
        return Ok((found.current, found.current));
    }
    let limit = Rlimit { current: Some(wanted), maximum: found.maximum };
    setrlimit(Resource::Nofile, limit).with_context(|| {
        format!("{wanted} open files are needed and the hard limit is {:?}: raise it", found.maximum)
    })?;
    Ok((found.current, Some(wanted)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn our_own_cost_grows_with_work() {
        let before = usage(std::process::id()).unwrap();
        let spent = std::thread::spawn(|| {
            let digest = (0..2_000).fold(0u64, |sum, n| {
                let block = vec![n as u8; 16 << 10];
                sum.wrapping_add(block.iter().map(|b| u64::from(*b)).sum::<u64>())
            });
            (digest, usage(std::process::id()).unwrap())
        });
        let (digest, after) = spent.join().unwrap();
        assert!(digest > 0 && after.cpu_ns > before.cpu_ns, "{before:?} {after:?}");
        assert!(after.rss_kib >= after.anonymous_kib && after.anonymous_kib > 0, "{after:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(usage(u32::MAX).is_err());
    }
}
