//! `cargo xtask`: what people and continuous integration run. It needs cargo and nothing else to start; what a task
//! needs more, it installs into the user's cache and says so.

mod bench;
mod cache;
mod chart;
mod circles;
mod cluster;
mod conformance;
mod hung;
mod images;
mod limits;
mod monitoring;
mod stat;
mod step;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::Parser;

/// Tasks of the repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Everything that must hold before a change is merged: format, lints, licences, tests, documentation.
    Test(test::Options),
    /// Measure a Mesh pair beside an Envoy pair; writes docs/performance.md.
    Bench(bench::Options),
    /// Build the container images into target/images, without a container engine.
    Images(images::Options),
    /// A Kubernetes to try Mesh on: up, down, status, load.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// The Gateway API's own conformance suite, on the cluster that is up and the mesh in it; writes docs/conformance.
    Conformance(conformance::Options),
    /// Write the dashboards and alert rules in docs/monitoring.
    Monitoring,
    /// Build the tools that tests run into the user's cache, and print the variables that name them.
    Tools,
    /// What `test` starts beside itself: builds images, Kubernetes and the conformance suite before they are needed.
    #[command(hide = true)]
    Ahead,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        // It has said all itself: its closing line is the last.
        Task::Test(options) => return if test::test(&options) { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        Task::Bench(options) => bench::run_bench(&options),
        Task::Images(options) => images::run_images(&options),
        Task::Cluster(command) => cluster::run_cluster(&command),
        Task::Conformance(options) => conformance::run_conformance(&options),
        Task::Monitoring => monitoring::run_monitoring(),
        Task::Tools => tools::run_tools(),
        Task::Ahead => test::run_ahead(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The message alone: a backtrace of this program helps nobody.
            eprintln!("\ncargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
