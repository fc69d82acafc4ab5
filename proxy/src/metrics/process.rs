//! The build and the process, read when somebody reads the page.

use std::{
    fmt::{Display, Write},
    fs,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

/// Ticks of a second in `/proc` (`CLK_TCK`, which is 100 wherever Linux runs).
const TICKS: f64 = 100.0;
/// Bytes of a page of memory, as the kernel tells in `/proc/self/auxv` (`AT_PAGESZ`).
static PAGE: LazyLock<u64> = LazyLock::new(|| page_size().unwrap_or(4096));
/// When the process started, near enough: when this was first asked for.
static STARTED: LazyLock<f64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));

/// Notes that the process has started.
pub(super) fn started() {
    LazyLock::force(&STARTED);
}

/// Appends what is known, in the text format of Prometheus.
pub(super) fn render(help: impl Fn(&str) -> &'static str, text: &mut String) {
    let mut family = |name: &str, kind: &str, labels: &str, value: Option<&dyn Display>| {
        if let Some(value) = value {
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n{name}{labels} {value}", help(name));
        }
    };
    let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    family("mesh_build_info", "gauge", version, Some(&1));
    family("process_start_time_seconds", "gauge", "", Some(&*STARTED));
    let file = |name| fs::read_to_string(format!("/proc/self/{name}")).ok();
    let cpu = file("stat").and_then(|stat| cpu_seconds(&stat));
    family("process_cpu_seconds_total", "counter", "", cpu.as_ref().map(|seconds| seconds as &dyn Display));
    let resident = file("statm").and_then(|statm| Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * *PAGE));
    family("process_resident_memory_bytes", "gauge", "", resident.as_ref().map(|bytes| bytes as &dyn Display));
    let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    family("process_open_fds", "gauge", "", open.as_ref().map(|count| count as &dyn Display));
}

/// User and system time of `/proc/self/stat` (proc(5)): the 14th and 15th field; the second is a name that may have spaces in it.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map_while(|field| field.parse::<f64>().ok());
    Some((fields.next()? + fields.next()?) / TICKS)
}

fn page_size() -> Option<u64> {
    /// As in `elf.h`.
    const AT_PAGESZ: u64 = 6;
    let words = fs::read("/proc/self/auxv").ok()?;
    let words: Vec<u64> = words.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    words.as_chunks::<2>().0.iter().find(|[kind, _]| *kind == AT_PAGESZ).map(|[_, size]| *size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_of_itself() {
        let mut text = String::new();
        render(|_| "Help.", &mut text);
        for family in [
            "mesh_build_info{version=",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
        ] {
            assert!(text.lines().any(|line| line.starts_with(family)), "{family}: {text}");
        }
        assert_eq!(cpu_seconds("7 (a) b) S 1 1 1 0 -1 4 5 0 0 0 250 50 0 0"), Some(3.0));
        assert_eq!(cpu_seconds("7 (a"), None);
    }
}
