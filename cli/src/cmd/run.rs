//! `meshctl run proxy|controller|app`, hidden: the processes that `meshctl demo` starts, out of the same file.
//!
//! When [`PARENT`] is set, standard input is a pipe from the parent, and its end is the parent's end: the process then
//! ends too, however the parent died. Nothing else is read from it.

use std::{
    env,
    ffi::OsString,
    io::{self, Read},
    path::PathBuf,
    process::{ExitCode, exit},
    thread,
};

use anyhow::Context;
use clap::{Parser, Subcommand};

use super::demo::app;

/// Environment variable: `1` makes a process end with its parent.
pub(crate) const PARENT: &str = "MESH_DEMO_PARENT";

/// Environment variable: a folder to remove when the parent died without doing it. Set for one process only, and never
/// for a folder that a person chose.
pub(crate) const FOLDER: &str = "MESH_DEMO_FOLDER";

/// Arguments of `meshctl run`.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    process: Process,
}

/// The processes.
#[derive(Debug, Subcommand)]
enum Process {
    /// The sidecar; configured by MESH_* variables
    Proxy,
    /// The redirection of a pod; configured by MESH_* variables
    Init,
    /// The control plane; takes the arguments of mesh-controller
    #[command(disable_help_flag = true)]
    Controller {
        /// Arguments of mesh-controller
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The demo's web service
    App(app::Args),
}

/// Runs the process until it ends or is told to.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if env::var_os(PARENT).is_some_and(|v| v == "1") {
        let folder = env::var_os(FOLDER).map(PathBuf::from);
        thread::Builder::new()
            .name("parent".into())
            .spawn(move || end_with_parent(folder))
            .context("no thread could be started to watch the parent process")?;
    }
    match args.process {
        Process::Proxy => Ok(mesh_proxy::main_from_env()),
        Process::Init => Ok(mesh_proxy::main_from_args(["init".into()])),
        Process::Controller { args } => {
            Ok(mesh_controller::main_from_args([OsString::from("mesh-controller")].into_iter().chain(args)))
        }
        Process::App(args) => app::run(args),
    }
}

fn end_with_parent(folder: Option<PathBuf>) {
    let mut ignored = [0; 64];
    let mut stdin = io::stdin().lock();
    loop {
        match stdin.read(&mut ignored) {
            Ok(0) => break,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    if let Some(folder) = folder {
        // Already gone when the parent ended in order: that is the aim.
        let _ = std::fs::remove_dir_all(folder);
    }
    exit(1);
}
