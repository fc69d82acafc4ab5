//! What to do with tests that hang: a run says which, and ends, long before whoever waits for it gives up.
//!
//! libtest has no limit for a test. It says which ones have been running for a minute, and then nothing. So a run of tests
//! that says nothing for [`Silence::limit`] is killed with all that it has started, and the ends of its processes' logs are
//! shown, as they are of a test that fails.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;

use crate::{
    cluster::processes::{pids, signal},
    stat::Stat,
};

/// How much of a log is shown: the last lines say what a process waits for.
const LINES: usize = 20;

/// How long a command may say nothing, and when it began.
pub struct Silence {
    /// Longer than the longest test takes on a slow machine.
    pub limit: Duration,
    began: SystemTime,
}

impl Silence {
    /// Begins now.
    pub fn new(limit: Duration) -> Self {
        Self { limit, began: SystemTime::now() }
    }

    /// Ends the command, and says what is known of why it hangs.
    pub fn end(&self, command: &mut process::Child) -> String {
        let all: Vec<u32> = with_descendants(command.id());
        let mut said = format!("it said nothing for {} min, and was killed", self.limit.as_secs() / 60);
        for log in logs(&env::temp_dir(), self.began) {
            let text = fs::read(&log).unwrap_or_default();
            said += &format!("\n--- the end of {}\n{}", log.display(), tail(&String::from_utf8_lossy(&text)));
        }
        for pid in all {
            signal(pid, Signal::KILL);
        }
        // It was killed, or had ended.
        let _ = command.wait();
        said
    }
}

/// A process and all that were started by it and by those, and are not yet orphans.
fn with_descendants(first: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = pids().into_iter().filter_map(|pid| Some((pid, Stat::of(pid)?.parent))).collect();
    let mut all = vec![first];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        all.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child));
        next += 1;
    }
    all
}

/// The logs in the sandboxes of tests (`mesh_integration::harness::Sandbox`) that something was written to since then.
fn logs(folder: &Path, since: SystemTime) -> Vec<PathBuf> {
    let files = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let sandboxes = files(folder).filter(|path| name(path).starts_with("mesh-"));
    let written = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).is_ok_and(|at| at >= since);
    let mut logs: Vec<PathBuf> =
        sandboxes.flat_map(|sandbox| files(&sandbox)).filter(|path| name(path).ends_with(".log")).collect();
    logs.retain(written);
    logs.sort();
    logs
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;
    use crate::{cluster::processes::is_alive, step::run_lines};

    #[test]
    fn what_says_nothing_is_killed_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let mut pid = 0;
        let silence = Silence::new(Duration::from_millis(100));
        let error = run_lines(command, silence, |line| pid = line.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("said nothing for 0 min"), "{error}");
        while is_alive(pid) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_logs_of_sandboxes_are_found_and_others_are_not() {
        let folder = env::temp_dir().join(format!("xtask-{}-hung", process::id()));
        for path in ["mesh-1/proxy.log", "mesh-1/addresses.json", "other/proxy.log"] {
            fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
            fs::write(folder.join(path), "x").unwrap();
        }
        let found = logs(&folder, SystemTime::UNIX_EPOCH);
        assert_eq!(found, [folder.join("mesh-1/proxy.log")]);
        assert!(logs(&folder, SystemTime::now() + Duration::from_secs(60)).is_empty());
        fs::remove_dir_all(folder).unwrap();
    }
}
