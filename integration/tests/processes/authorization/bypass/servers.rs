//! Servers that read paths and hosts in their own ways: nginx, HAProxy, Go, Node and Tomcat.

use std::{env, fs, io::Write as _, path::PathBuf, process::Command};

use mesh_integration::harness::{Process, free_port};

use crate::support::{Mesh, is_long};

/// Whether there is a Go to build servers with. Said aloud if not.
pub(super) fn has_go() -> bool {
    let has = Command::new("go").arg("version").output().is_ok_and(|said| said.status.success());
    if !has {
        // Not by a macro: those are kept back for tests that pass.
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: servers that read paths and hosts. There is no `go`.\n");
    }
    has
}

/// Servers that answer REACHED where their own reading of the path is below `/admin`, or of the host is `admin.shop`.
pub(super) fn servers(mesh: &Mesh) -> Vec<(&'static str, Process, u16)> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/path-servers");
    let folder = mesh.sandbox.path();
    let mut all = Vec::new();
    let mut start = |name: &'static str, command: &mut dyn FnMut(u16) -> Command| {
        let port = free_port();
        let process = Process::spawn(name, command(port), &folder.join(format!("{name}.log"))).unwrap();
        all.push((name, process, port));
    };
    let program = folder.join("server");
    let mut build = Command::new("go");
    build.arg("build").arg("-o").arg(&program).arg(data.join("server.go"));
    let built = build.env("GOFLAGS", "-buildvcs=false").env("GO111MODULE", "off").status();
    assert!(built.is_ok_and(|status| status.success()), "server.go is not built");
    for (name, how) in [("go", "mux"), ("go-clean", "raw")] {
        start(name, &mut |port| {
            let mut command = Command::new(&program);
            command.arg(port.to_string()).arg(how);
            command
        });
    }
    if !is_long() {
        return all;
    }
    start("nginx", &mut |port| {
        let config = folder.join("nginx.conf");
        let text = format!(
            "daemon off; pid {0}/nginx.pid; error_log stderr; events {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen 127.0.0.1:{port} default_server; server_name web; location = /admin {{ return 200 REACHED; }} location /admin/ {{ return 200 REACHED; }} location / {{ return 200 other; }} }}\n\
             server {{ listen 127.0.0.1:{port}; server_name admin.shop; location / {{ return 200 REACHED; }} }} }}\n",
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
             \x20 http-request return status 200 content-type text/plain string REACHED if {{ req.hdr(host) -m reg -i ^admin[.]shop[.]?(:[0-9]*)?$ }}\n\
             \x20 http-request return status 200 content-type text/plain string other\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-f").arg(config);
        command
    });
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
