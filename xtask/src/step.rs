//! Running one command after the other, each under a heading, with its time.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{hung::Silence, stat::Stat};

/// The folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The cargo that runs us, in the workspace.
pub fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// A step that has ended.
struct Done {
    /// How many steps it is in.
    depth: usize,
    title: String,
    seconds: f64,
    /// Processor seconds of the programs that ran in it; nothing where the machine does not tell.
    cpu: Option<f64>,
    is_ok: bool,
}

/// The steps of this run, in the order in which they began. Each has its place from then on.
static STEPS: Mutex<Vec<Option<Done>>> = Mutex::new(Vec::new());
/// How many steps have begun and not ended.
static DEPTH: AtomicUsize = AtomicUsize::new(0);

/// Prints a heading, does the work and prints the time it took, which [`times`] shows again.
pub fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("\n=== {title}");
    let depth = DEPTH.fetch_add(1, Ordering::Relaxed);
    let place = steps().len();
    steps().push(None);
    let (start, cpu) = (Instant::now(), children_cpu());
    let done = work();
    let seconds = start.elapsed().as_secs_f64();
    let cpu = children_cpu().zip(cpu).map(|(after, before)| after - before);
    DEPTH.fetch_sub(1, Ordering::Relaxed);
    if let Some(row) = steps().get_mut(place) {
        *row = Some(Done { depth, title: title.to_owned(), seconds, cpu, is_ok: done.is_ok() });
    }
    let done = done.with_context(|| format!("failed: {title}"))?;
    println!("--- {title}: {seconds:.1} s");
    Ok(done)
}

fn steps() -> MutexGuard<'static, Vec<Option<Done>>> {
    // Nothing panics while it is held; if it did, the rows are as good as before.
    STEPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the time went: a line a step, those within another indented below it.
pub fn times() -> String {
    table(&steps().iter().flatten().collect::<Vec<_>>())
}

fn table(steps: &[&Done]) -> String {
    let mut table = String::from("   seconds  processor\n");
    for Done { depth, title, seconds, cpu, is_ok } in steps {
        let cpu = cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.0}"));
        let failed = if *is_ok { "" } else { "  FAILED" };
        let _ = writeln!(table, "{seconds:10.0} {cpu:>10}  {:indent$}{title}{failed}", "", indent = depth * 2);
    }
    let top: f64 = steps.iter().filter(|step| step.depth == 0).map(|step| step.seconds).sum();
    let _ = writeln!(table, "{top:10.0}             in all");
    table
}

/// Processor seconds of all programs that this one has started and that have ended. Those that run on, such as a cluster,
/// are not in it.
fn children_cpu() -> Option<f64> {
    Stat::of(process::id()).map(|stat| stat.children_cpu)
}

/// Runs a command whose output goes to ours.
pub fn run(mut command: Command) -> Result<()> {
    let name = shown(&command);
    let status = command.status().with_context(|| format!("cannot start `{name}`"))?;
    ensure!(status.success(), "`{name}` ended with {status}; its messages are above");
    Ok(())
}

/// Runs a command without a word, and gives its output; if it fails, with what it said.
pub fn quiet(mut command: Command) -> Result<String> {
    let name = shown(&command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{name}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{name}` ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose standard output is shown and also given to `line`, line by line. Whether it succeeded. One that
/// says nothing for too long is ended, which is an error.
pub fn run_lines(mut command: Command, silence: Silence, mut line: impl FnMut(&str)) -> Result<bool> {
    let name = shown(&command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{name}`"))?;
    let output = child.stdout.take().context("no output")?;
    let (said, heard) = mpsc::sync_channel(1);
    // Ends with the output, or, if that is never closed, with this process.
    thread::spawn(move || BufReader::new(output).split(b'\n').try_for_each(|text| said.send(text).map_err(drop)));
    loop {
        let text = match heard.recv_timeout(silence.limit) {
            Ok(text) => text?,
            Err(RecvTimeoutError::Disconnected) => return Ok(child.wait()?.success()),
            Err(RecvTimeoutError::Timeout) => bail!("`{name}` hangs: {}", silence.end(&mut child)),
        };
        let text = String::from_utf8_lossy(&text);
        writeln!(std::io::stdout(), "{text}")?;
        line(&text);
    }
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_step_once_and_sums_the_outer_ones() {
        let done = |depth, title: &str, seconds, is_ok| Done {
            depth,
            title: title.to_owned(),
            seconds,
            cpu: Some(2.0 * seconds),
            is_ok,
        };
        let steps = [done(0, "lints", 10.0, true), done(0, "suite", 30.0, false), done(1, "its image", 20.0, false)];
        let table = table(&steps.iter().collect::<Vec<_>>());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[1], "        10         20  lints");
        assert_eq!(lines[2], "        30         60  suite  FAILED");
        assert_eq!(lines[3], "        20         40    its image  FAILED");
        assert_eq!(lines[4], "        40             in all");
    }

    #[test]
    fn programs_that_have_ended_are_counted() {
        let Some(before) = children_cpu() else { return };
        let spun = Command::new("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]).status();
        assert!(spun.is_ok_and(|status| status.success()));
        assert!(children_cpu().is_some_and(|after| after > before));
    }
}
