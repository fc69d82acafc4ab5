//! Static, stripped binaries: as they are released, reproducible from machine to machine as far as the tool chain is the
//! same, or soon built, for tests.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::step::{cargo, root, run};

/// Cargo's folder for images: other flags than usual must not make the usual one build everything anew.
const FOLDER: &str = "target/images-build";

/// What is built for: this machine's architecture.
pub struct Target {
    /// As rustc names it.
    pub triple: &'static str,
    /// As images name it.
    pub architecture: &'static str,
}

/// How binaries are built; a profile of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As they are released.
    Release,
    /// Without optimisation across crates, which takes most of the time of the other.
    Test,
}

impl Profile {
    /// As cargo names it, and its folder.
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Test => "image-test",
        }
    }
}

/// The target of this machine.
pub fn target() -> Result<Target> {
    ensure!(env::consts::OS == "linux", "images hold Linux binaries: run this on Linux, or build `Dockerfile`");
    match env::consts::ARCH {
        "x86_64" => Ok(Target { triple: "x86_64-unknown-linux-gnu", architecture: "amd64" }),
        "aarch64" => Ok(Target { triple: "aarch64-unknown-linux-gnu", architecture: "arm64" }),
        other => bail!("images are built on x86_64 and aarch64, and this is {other}"),
    }
}

/// Builds binaries of packages in one run of cargo. It unifies features over all of them: what is released is built by
/// itself, so that a binary holds no more than its list names.
pub fn build<'n>(
    packages: impl IntoIterator<Item = &'n str>,
    binaries: impl IntoIterator<Item = &'n str>,
    profile: Profile,
    target: &Target,
) -> Result<()> {
    let mut build = cargo(["build", "--locked", "--profile", profile.name(), "--target", target.triple]);
    build.args(packages.into_iter().flat_map(|package| ["--package", package]));
    build.args(["--target-dir", FOLDER]).args(binaries.into_iter().flat_map(|name| ["--bin", name]));
    let [rust, c] = flags()?;
    // With a target named, these are for what is linked into the binary, not for build scripts and macros.
    build.env("CARGO_ENCODED_RUSTFLAGS", rust).env("CFLAGS", &c).env("CXXFLAGS", &c);
    // By default aws-lc seeds itself from the jitter of the CPU as well: 30 ms of it in each process before its first key,
    // on the way of a pod's start. Without, the kernel's generator and RDRAND seed it.
    build.env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1");
    run(build).context("a static binary needs the C library as libc.a (Debian: libc6-dev) and a C compiler")
}

/// Flags of rustc and of the C compiler. Paths of this machine stay out of the binaries.
fn flags() -> Result<[String; 2]> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    let maps = [(home.display().to_string(), "/cargo"), (root().display().to_string(), "/mesh")];
    let mut rust: Vec<String> = vec![
        "-Ctarget-feature=+crt-static".into(),
        "-Clink-arg=-Wl,--build-id=sha1".into(),
        // The crate getrandom looks the call up by dlsym, which finds nothing in a static binary, and then wants
        // /dev/urandom. The call is in every kernel since 3.17.
        "--cfg=getrandom_backend=\"linux_getrandom\"".into(),
    ];
    rust.extend(maps.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")));
    let c: Vec<String> = maps.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();
    Ok([rust.join("\u{1f}"), c.join(" ")])
}

/// A copy of a built binary without symbols and debug information, which stay in the file beside it: the build ID tells
/// which belong together.
pub fn strip(name: &str, profile: Profile, target: &Target) -> Result<PathBuf> {
    let built = root().join(FOLDER).join(target.triple).join(profile.name());
    let folder = built.join("stripped");
    fs::create_dir_all(&folder)?;
    let stripped = folder.join(name);
    let mut strip = Command::new("strip");
    strip.args(["--strip-all", "--enable-deterministic-archives", "-o"]).arg(&stripped).arg(built.join(name));
    run(strip).context("`strip` is of the package that has the linker (Debian: binutils)")?;
    Ok(stripped)
}

/// The commit that is built, with `-dirty` where files differ from it; `None` outside of a repository.
pub fn revision() -> Option<String> {
    let git = |args: &[&str]| {
        let said = Command::new("git").args(args).current_dir(root()).output().ok()?;
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}
