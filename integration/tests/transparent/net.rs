//! Pods as network namespaces: each with an interface, IPv4 and IPv6, on one bridge, with its node in between.
//!
//! The thread of a test lives in the node's namespace, so that everything it starts there, the controller above all, is
//! reached by the pods. [`Pod::run`] does something as a process of that pod. Everything goes with the handle.

use std::{
    env, fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::mesh::{Binaries, binaries};

/// The node's address on the bridge.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A node with its bridge.
pub struct Net {
    name: String,
    pods: Vec<String>,
    /// What the pods run, kept for as long as there are any.
    _binaries: Arc<Binaries>,
}

/// One pod's network.
#[derive(Clone)]
pub struct Pod {
    namespace: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Net {
    /// Makes the node and moves the calling thread into it. `None`, said aloud, where that takes more than this process
    /// may do; with `CI=true` that is a failure.
    pub fn new() -> Option<Self> {
        let root = rustix::process::geteuid().is_root();
        let missing = |tool: &&str| Command::new(tool).stdout(Stdio::null()).stderr(Stdio::null()).status().is_err();
        let missing = ["ip", "setcap"].into_iter().find(missing);
        if !root || missing.is_some() {
            let why = missing.filter(|_| root).map_or("network namespaces need root".into(), |tool| {
                format!("there is no `{tool}` (packages iproute2, libcap2-bin)")
            });
            assert!(env::var("CI").as_deref() != Ok("true"), "redirection was not tested: {why}");
            // Not by a macro: those are kept back for tests that pass.
            let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: redirection in network namespaces: {why}.\n");
            return None;
        }
        let name = format!("mesh-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip_batch(&[], &format!("netns add {name}"));
        let net = Self { name, pods: Vec::new(), _binaries: binaries() };
        // The bridge has an address of its own: otherwise it has the lowest of its ports', which changes as pods come, and pods
        // that know the old one do not reach the controller until their kernels ask again.
        let script = "link set lo up\nlink add br0 address 0a:58:0a:4d:00:01 type bridge\naddr add 10.77.0.1/24 dev br0\n\
                      addr add fd77::1/64 dev br0 nodad\nlink set br0 up";
        ip_batch(&["-n", &net.name], script);
        enter(&net.name);
        Some(net)
    }

    /// Adds a pod.
    pub fn pod(&mut self) -> Pod {
        let number = self.pods.len() as u8 + 2;
        let namespace = format!("{}-{number}", self.name);
        ip_batch(&[], &format!("netns add {namespace}"));
        self.pods.push(namespace.clone());
        let node = format!(
            "link add pod{number} type veth peer name eth0 netns {namespace}\nlink set pod{number} master br0 up"
        );
        ip_batch(&["-n", &self.name], &node);
        let pod = format!(
            "link set lo up\naddr add 10.77.0.{number}/24 dev eth0\naddr add fd77::{number:x}/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via 10.77.0.1\n-6 route add default via fd77::1"
        );
        // `ip -batch` takes no options in a line.
        for line in pod.lines() {
            match line.strip_prefix("-6 ") {
                Some(line) => ip_batch(&["-6", "-n", &namespace], line),
                None => ip_batch(&["-n", &namespace], line),
            }
        }
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into());
        Pod { namespace, v4: Ipv4Addr::new(10, 77, 0, number), v6 }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in self.pods.iter().chain([&self.name]) {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

impl Pod {
    /// Runs something in this pod, on a thread of its own. Processes that it starts live there too.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.namespace);
                what()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Awaits something in this pod.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, what: impl FnOnce() -> F + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(what())
        })
    }

    /// A port of this pod by IPv4.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), port)
    }

    /// A port of this pod by IPv6.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), port)
    }
}

fn enter(namespace: &str) {
    let file = fs::File::open(format!("/run/netns/{namespace}")).expect("the namespace that was just made");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
}

fn ip_batch(options: &[&str], script: &str) {
    let mut command = Command::new("ip");
    let mut child = command.args(options).args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "ip {options:?}: {script}");
}
