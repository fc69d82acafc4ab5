//! The README's quick start on Kubernetes, each command as it is written there, with the time it takes and the memory
//! that the result needs.
//!
//! It leaves the mesh installed, for the tests that follow it (`cluster`). In a cluster of somebody else's it begins where
//! the README says that such a person begins, and takes the images from the registry that it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The section whose commands are run.
const SECTION: &str = "\n## On Kubernetes\n";
/// Where people with a cluster of their own begin.
const WITH_A_CLUSTER: &str = "meshctl check --pre";
/// Where images are said to be from, if nothing else is said.
const REGISTRY: &str = "docker.io/mesh";

#[test]
fn every_command_of_the_readme_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let section = readme.split(SECTION).nth(1).expect("the section").split("\n## ").next().unwrap();
    let mut commands = commands(section);
    if env::var("MESH_TEST_CLUSTER").is_ok_and(|kind| kind == "context") {
        let begin = commands.iter().position(|command| command == WITH_A_CLUSTER).expect("where to begin");
        commands = commands.split_off(begin);
    }
    if let Ok(registry) = env::var("MESH_TEST_REGISTRY") {
        commands.iter_mut().for_each(|command| *command = from_registry(command, &registry));
    }
    assert!(commands.len() >= 5, "{commands:?}");
    for command in &commands {
        let began = Instant::now();
        println!("$ {command}");
        let output = shell(root, command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        print!("{out}{err}");
        assert!(output.status.success(), "`{command}` ended with {}", output.status);
        println!("  took {:.1} s", began.elapsed().as_secs_f64());
    }
}

/// What stands behind `$ ` in the console blocks, without the remarks.
fn commands(section: &str) -> Vec<String> {
    let blocks = section.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ "));
    lines.map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned()).collect()
}

/// A command that takes images from another registry.
fn from_registry(command: &str, registry: &str) -> String {
    let install = command.replace("meshctl install", &format!("meshctl install --image-registry {registry}"));
    match install.strip_prefix("kubectl apply -f docs/") {
        Some(file) => format!("sed 's#{REGISTRY}/#{registry}/#' docs/{file} | kubectl apply -f -"),
        None => install,
    }
}

/// Runs a command as a person's shell does, with the `meshctl` that was built.
fn shell(root: &Path, command: &str) -> std::process::Output {
    let binaries = PathBuf::from(env::var_os("MESH_BIN_DIR").expect("MESH_BIN_DIR"));
    let path = env::join_paths([binaries].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap()))).unwrap();
    let kubeconfig = env::var_os("MESH_TEST_KUBECONFIG").expect("MESH_TEST_KUBECONFIG names the cluster under test");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", command]).current_dir(root).env("PATH", path).env("KUBECONFIG", kubeconfig);
    bash.output().expect("bash")
}
