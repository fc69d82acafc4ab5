//! The commands that know a cluster, as a person runs them where there is none: what they say and how they end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

fn run(program: &Path, args: &[&str], stdin: &str) -> Output {
    support::run(program, Path::new("."), args, stdin)
}

fn meshctl(args: &[&str]) -> Output {
    run(Path::new(env!("CARGO_BIN_EXE_meshctl")), args, "")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn without_a_kubeconfig_the_next_step_is_said() {
    for args in [&["check"][..], &["check", "--pre"], &["identity", "web"], &["diagnostics", "endpoints", "web:80"]] {
        let output = meshctl(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let message = text(&output.stderr);
        assert!(
            message.contains("no cluster is known here") && message.contains("--kubeconfig FILE"),
            "{args:?}: {message}"
        );
    }
    let output = meshctl(&["version"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), format!("meshctl {}\n", env!("CARGO_PKG_VERSION")))
    );
}

/// An API server that is not there, and one that answers nonsense.
#[test]
fn a_server_that_does_not_answer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    // A port of our own that nobody listens on any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- {{name: c, cluster: {{server: \"https://127.0.0.1:{port}\"}}}}\n\
         contexts:\n- {{name: c, context: {{cluster: c, user: u}}}}\nusers:\n- {{name: u, user: {{token: t}}}}\n"
    );
    fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();
    let begun = Instant::now();
    let output = meshctl(&["check", "--wait", "0", "-o", "short", "--kubeconfig", file]);
    let message = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&format!("https://127.0.0.1:{port} cannot be reached")), "{message}");
    assert!(message.contains("mend: kubectl cluster-info") && message.contains("1 of "), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    // Whether it has Mesh already is not known: what is printed would be applied, and replace its identity.
    let output = Command::new(env!("CARGO_BIN_EXE_meshctl")).arg("install").env("KUBECONFIG", file).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    let message = text(&output.stderr);
    assert!(message.contains("already is unknown") && message.contains("--ignore-cluster"), "{message}");

    let output = meshctl(&["check", "--context", "other", "--kubeconfig", file]);
    assert!(text(&output.stderr).contains("no context \"other\"; there are: c"), "{}", text(&output.stderr));
    let output = meshctl(&["version", "--kubeconfig", file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("meshctl "), "the client's version does not depend on a cluster");
}

#[test]
fn pages_and_usage_need_no_cluster() {
    let output = meshctl(&["check", "--explain", "webhook-called"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("# webhook-called\n"));
    let output = meshctl(&["check", "--explain", "nothing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no check \"nothing\"; there are: kubernetes-api, "));
    assert_eq!(meshctl(&["check", "--pre", "--proxy"]).status.code(), Some(2));
    assert_eq!(meshctl(&["check", "--wait", "soon"]).status.code(), Some(2));

    // kubectl finds plugins by name.
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("kubectl-mesh");
    symlink(env!("CARGO_BIN_EXE_meshctl"), &plugin).unwrap();
    let usage = text(&run(&plugin, &["check", "--help"], "").stdout);
    assert!(usage.contains("Usage: kubectl mesh check"), "{usage}");
    let usage = text(&meshctl(&["check", "--help"]).stdout);
    assert!(usage.contains("Usage: meshctl check"), "{usage}");

    let script = text(&meshctl(&["completion", "bash"]).stdout);
    for word in ["uninject", "diagnostics", "proxy-config", "--kubeconfig", "--explain"] {
        assert!(script.contains(word), "completion does not know {word}");
    }
}

const TWO: &str = "# the front\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  template:\n    spec:\n      \
containers: [{name: web, image: web}]\n---\n# stays as it is\napiVersion: v1\nkind: Service   # its comment, too\nmetadata:   {name: web}\n";

#[test]
fn manifests_are_injected_and_the_rest_stays_as_written() {
    let program = Path::new(env!("CARGO_BIN_EXE_meshctl"));
    let output = run(program, &["inject", "-"], TWO);
    let (made, message) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(message.contains("Deployment web: injected") && message.contains("Service web: has no pods"), "{message}");
    assert!(made.starts_with("# the front\n") && made.contains("meshctl.dev/inject: enabled"), "{made}");
    let untouched = TWO.split("---\n").nth(1).unwrap();
    assert!(made.ends_with(&format!("---\n{untouched}")), "{made}");

    // What it made is what it takes back; a second time it changes nothing.
    let again = run(program, &["inject", "-"], &made);
    assert_eq!(text(&again.stdout), made);
    assert!(text(&again.stderr).contains("Deployment web: is so already"), "{}", text(&again.stderr));
    let back = text(&run(program, &["uninject", "-"], &made).stdout);
    assert!(!back.contains("meshctl.dev"), "{back}");

    let manual = run(program, &["inject", "--manual", "--ignore-cluster", "-o", "json", "-"], TWO);
    let list: serde_json::Value = serde_json::from_slice(&manual.stdout).unwrap();
    let init = &list["items"][0]["spec"]["template"]["spec"]["initContainers"];
    assert_eq!((&init[0]["name"], &init[1]["name"]), (&"mesh-init".into(), &"mesh-proxy".into()), "{list}");
    let offline = run(program, &["inject", "--manual", "-"], TWO);
    assert_eq!(offline.status.code(), Some(1));
    assert!(text(&offline.stderr).contains("--config FILE"), "{}", text(&offline.stderr));
}

#[test]
fn folders_are_read_in_order_and_wrong_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("b/two.yml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: second}\n");
    write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}\n");
    write("notes.txt", "not: read");
    let shown = folder.path().to_str().unwrap();
    let made = text(&meshctl(&["inject", shown]).stdout);
    assert!(made.find("first").unwrap() < made.find("second").unwrap() && !made.contains("not: read"), "{made}");

    write("c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\nhello: world\n");
    let output = meshctl(&["inject", "-f", shown]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    let message = text(&output.stderr);
    assert!(message.contains("c.yaml:5: this is no Kubernetes manifest: it has no `apiVersion`"), "{message}");
    assert_eq!(meshctl(&["inject"]).status.code(), Some(2));

    // A pod that cannot be injected: nothing is printed, so that nothing half is applied.
    let refused = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {config.meshctl.dev/log-level: \"no level!\"}}\nspec: {containers: [{name: a}]}\n";
    let output = run(Path::new(env!("CARGO_BIN_EXE_meshctl")), &["inject", "-"], refused);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    assert!(text(&output.stderr).contains("Pod p (standard input:1): REFUSED"), "{}", text(&output.stderr));
}
