//! Ways to write a path: none leads to a handler that a DENY names, however the server behind reads paths.
//!
//! `cargo test ... --test processes bypass -- --ignored` runs it, with nginx, HAProxy, Go, Node and Java on the PATH and the
//! archives of Tomcat (embed-core, annotations-api, servlet-api) in the folder `MESH_TOMCAT`.

use std::{collections::BTreeSet, env, fs, path::PathBuf, process::Command};

use anyhow::Result;
use mesh_integration::harness::{Process, free_port, ready};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// As many different ones are made up.
const VARIANTS: usize = 10_000;
const DENY: &str = "apiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\n\
    metadata: {name: admin, namespace: shop}\n\
    spec: {targetRefs: [{kind: Pod, selector: {}}], action: DENY, enforcementLevel: Application,\n\
    \x20 rules: [{to: [{path: {type: PathPrefix, value: /admin}}]}]}\n";

/// A small generator with a seed, so that a failure can be looked at again.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// What may stand before the slash.
const BEFORE: [&str; 9] =
    ["/public/..", "/x/y/../..", "/public/.", "/public/;a/..", "/./.", "/public%2f..", "/%2e", "/public/..;", "//"];
/// Ways to write the slash.
const SLASHES: [&str; 23] = [
    "/",
    "/",
    "/",
    "//",
    "/./",
    "%2f",
    "%2F",
    "\\",
    "/\\",
    "%5c",
    "%5C",
    "/%2e/",
    "/;/",
    "%252f",
    "/x/../",
    "/x/%2e%2e/",
    "/x/..%2f",
    "/x/..;/",
    "/x/..\\",
    "/x%2f..%2f",
    "/%2f",
    "%2f%2f",
    "///",
];
/// What may follow.
const BEHIND: [&str; 26] = [
    "",
    "/",
    "/secret",
    "//secret",
    ";x",
    ";x/secret",
    ";",
    "%3bx",
    "%2fsecret",
    "%2Fsecret",
    "\\secret",
    "%5csecret",
    "/.",
    "/..;/admin",
    "/./secret",
    "/%2e",
    "?x",
    "/secret?y=/public",
    "%00",
    "/%2e%2e/admin",
    "/../admin/secret",
    ".",
    "%20",
    "%23",
    "/;a=b/secret",
    "%252fsecret",
];

/// Different ways to write `/admin/secret`, and paths that some servers may take for it.
fn variants() -> Vec<String> {
    let mut random = Random(7);
    let mut all = BTreeSet::new();
    while all.len() < VARIANTS {
        let mut path = String::new();
        if random.below(3) == 0 {
            path += random.of(&BEFORE);
        }
        path += random.of(&SLASHES);
        for letter in "admin".bytes() {
            match random.below(9) {
                0 => path += &format!("%{letter:02x}"),
                1 => path += &format!("%{letter:02X}"),
                2 if random.below(4) == 0 => path += &format!("%25{letter:02x}"),
                _ => path.push(char::from(letter)),
            }
        }
        path += random.of(&BEHIND);
        if path.starts_with('/') || path.starts_with('%') || path.starts_with('\\') {
            // A target begins with a slash; without one nobody takes it for a path.
            all.insert(if path.starts_with('/') { path } else { format!("/{path}") });
        }
    }
    all.into_iter().collect()
}

/// A server that answers REACHED where its own reading of the path is below `/admin`.
fn servers(mesh: &Mesh) -> Vec<(&'static str, Process, u16)> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/path-servers");
    let folder = mesh.sandbox.path();
    let mut all = Vec::new();
    let mut start = |name: &'static str, command: &mut dyn FnMut(u16) -> Command| {
        let port = free_port();
        let process = Process::spawn(name, command(port), &folder.join(format!("{name}.log"))).unwrap();
        all.push((name, process, port));
    };
    start("nginx", &mut |port| {
        let config = folder.join("nginx.conf");
        let text = format!(
            "daemon off; pid {0}/nginx.pid; error_log stderr; events {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen 127.0.0.1:{port}; location = /admin {{ return 200 REACHED; }} location /admin/ {{ return 200 REACHED; }} location / {{ return 200 other; }} }} }}\n",
            folder.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(config);
        command
    });
    start("haproxy", &mut |port| {
        let config = folder.join("haproxy.cfg");
        let text = format!(
            "global\n  expose-experimental-directives\ndefaults\n  mode http\n  timeout client 60s\n  timeout connect 5s\n  timeout server 60s\n\
             frontend f\n  bind 127.0.0.1:{port}\n  option accept-invalid-http-request\n\
             \x20 http-request normalize-uri percent-decode-unreserved\n  http-request normalize-uri path-strip-dot\n\
             \x20 http-request normalize-uri path-strip-dotdot\n  http-request normalize-uri path-merge-slashes\n\
             \x20 http-request return status 200 content-type text/plain string REACHED if {{ path,url_dec -m reg ^/admin(/|$) }}\n\
             \x20 http-request return status 200 content-type text/plain string other\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-f").arg(config);
        command
    });
    for (name, how) in [("go", "mux"), ("go-clean", "raw")] {
        start(name, &mut |port| {
            let mut command = Command::new("go");
            command.args(["run"]).arg(data.join("server.go")).arg(port.to_string()).arg(how);
            command.env("GOFLAGS", "-buildvcs=false").env("GO111MODULE", "off");
            command
        });
    }
    start("node", &mut |port| {
        let mut command = Command::new("node");
        command.arg(data.join("server.js")).arg(port.to_string());
        command
    });
    start("tomcat", &mut |port| {
        let jars = env::var("MESH_TOMCAT").expect("MESH_TOMCAT names the folder of Tomcat's archives");
        let mut command = Command::new("java");
        command.arg("-cp").arg(format!("{jars}/*")).arg(data.join("Server.java")).arg(port.to_string()).arg(folder);
        command
    });
    all
}

/// Asks for paths one after another; the status and the body of each answer.
async fn ask(to: SocketAddr, paths: &[String]) -> Result<Vec<(u16, String)>> {
    let mut answers = Vec::with_capacity(paths.len());
    for path in paths {
        let mut io = tokio::net::TcpStream::connect(to).await?;
        io.write_all(format!("GET {path} HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        // A reset after the answer is an end, too.
        let _ = io.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        answers.push((status, text));
    }
    Ok(answers)
}

#[tokio::test]
#[ignore = "needs nginx, HAProxy, Go, Node and Tomcat"]
async fn no_way_to_write_a_path_leads_past_a_deny() {
    let mesh = Mesh::start().await;
    let (variants, mut passed) = (variants(), Vec::new());
    for (name, mut process, port) in servers(&mesh) {
        let app = SocketAddr::from(([127, 0, 0, 1], port));
        ready(&mut process, app, std::time::Duration::from_secs(120)).await.unwrap();
        let server = mesh.sidecar(name, &format!("{name}-1"), app, &[]).await;
        // Straight to the application first: what it takes for the denied path.
        let direct = ask(app, &variants).await.unwrap();
        let reached = direct.iter().filter(|(_, text)| text.ends_with("REACHED")).count();
        mesh.manifests.write("policies", DENY).unwrap();
        in_force(&server.proxy, &["AuthorizationPolicy shop/admin"]).await;
        let through = ask(Governed::inbound(&server), &variants).await.unwrap();
        let denied = through.iter().filter(|(status, _)| *status == 403).count();
        let bad = through.iter().filter(|(status, _)| *status == 400).count();
        println!(
            "{name}: reached directly by {reached} of {}, through the sidecar: {denied} denied, {bad} malformed",
            variants.len()
        );
        assert!(reached > 100, "{name} takes some for the denied path");
        for (path, (status, text)) in variants.iter().zip(&through) {
            if text.contains("REACHED") {
                passed.push(format!("{name}: {path}: {status}"));
            }
        }
        mesh.manifests.remove("policies").unwrap();
    }
    assert!(passed.is_empty(), "{} passed:\n{}", passed.len(), passed[..passed.len().min(40)].join("\n"));
}
