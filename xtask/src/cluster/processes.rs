//! The processes of the node, found where they cannot lie: in /proc, by the PID namespace they are in.

use std::{fs, path::Path, path::PathBuf, process, time::Duration};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

use super::wait::until;
use crate::stat::Stat;

/// The name of a node's first process, at the end of its path.
pub const INIT: &str = "mesh-node-init";
/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(20);

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    /// As this machine counts.
    pub pid: u32,
    /// The last part of its program's path.
    pub name: String,
    /// Resident memory, in KiB.
    pub rss_kib: u64,
}

/// The first process of a node, and the run folder it is for.
pub struct Node {
    /// As this machine counts.
    pub pid: u32,
    /// From its command line.
    pub run: PathBuf,
    /// Its PID namespace.
    namespace: PathBuf,
}

/// All nodes on this machine, of this workspace and of others.
pub fn nodes() -> Vec<Node> {
    let mut nodes = Vec::new();
    for pid in pids() {
        let Some(words) = command_line(pid) else { continue };
        let [program, run] = words.as_slice() else { continue };
        let first_process = fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")));
        if program.ends_with(INIT)
            && first_process
            && let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/pid"))
        {
            nodes.push(Node { pid, run: run.into(), namespace });
        }
    }
    nodes
}

/// The node of a run folder.
pub fn node(run: &Path) -> Option<Node> {
    nodes().into_iter().find(|node| node.run == run)
}

impl Node {
    /// Its processes, but for those in its pods: they are in namespaces of their own.
    pub fn processes(&self) -> Vec<Process> {
        let is_ours = |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|is| is == self.namespace);
        pids().into_iter().filter(is_ours).filter_map(process).collect()
    }

    /// Kills it. The kernel kills all that is in it, and frees its mounts with the last of them.
    pub fn kill(&self) -> Result<()> {
        signal(self.pid, Signal::KILL);
        until(&format!("the end of process {}", self.pid), GONE, || Ok((!is_alive(self.pid)).then_some(())))
    }
}

/// Processes that look like ours and are in no node: what stays of an `up` that was killed in the midst.
pub fn strays(run: &Path) -> Vec<Process> {
    let own = process::id();
    let mentions = |pid: &u32| {
        let words = command_line(*pid).unwrap_or_default();
        *pid != own
            && words
                .iter()
                .skip(1)
                .any(|word| Path::new(word).starts_with(run) || word.contains(&format!("={}", run.display())))
    };
    let names = ["nsenter", "unshare", "setsid", "etcd", "containerd", "kube-apiserver", "kubelet", INIT];
    let found = pids().into_iter().filter(mentions).filter_map(process);
    found.filter(|process| names.contains(&process.name.as_str()) || process.name.starts_with("kube-")).collect()
}

/// Sends a signal; a process that is gone needs none.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// Whether it runs: one that is dead and not yet buried does not.
pub fn is_alive(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.is_alive())
}

fn process(pid: u32) -> Option<Process> {
    if !is_alive(pid) {
        return None;
    }
    let name = command_line(pid)?
        .first()
        .and_then(|program| Some(Path::new(program).file_name()?.to_string_lossy().into_owned()))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Some(Process { pid, name, rss_kib: rss.and_then(|kib| kib.trim().parse().ok()).unwrap_or(0) })
}

pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn command_line(pid: u32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> =
        bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    // It ends with a zero.
    Some(words.into_iter().rev().skip(1).rev().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_process_lives_until_it_is_dead_even_if_nobody_buried_it() {
        let own = process(process::id()).unwrap();
        assert!(own.rss_kib > 0 && !own.name.is_empty());
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(is_alive(child.id()));
        signal(child.id(), Signal::KILL);
        until("its end", GONE, || Ok((!is_alive(child.id())).then_some(()))).unwrap();
        // Only now: before that it was a zombie.
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn nobody_elses_run_folder_has_strays() {
        assert!(strays(Path::new("/nowhere/target/cluster")).is_empty());
        assert!(node(Path::new("/nowhere/target/cluster")).is_none());
    }
}
