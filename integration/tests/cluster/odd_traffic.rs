//! What is not a plain request to a plain Deployment: Jobs, StatefulSets by name, servers that speak first, everything
//! that is not TCP, and pods that the mesh leaves alone.

use crate::{
    apps::{App, image, service, web_and_client},
    kube::{Namespace, apply, cluster_ip, get, in_node, kubectl, load, pod, rolled_out, text, try_kubectl, wait},
};

#[test]
fn a_job_whose_application_ends_is_complete() {
    let namespace = Namespace::new("jobs", true);
    apply(&format!("{}{}", App::new("web").manifest(&namespace.0), service(&namespace.0, "web", "app: web")));
    rolled_out(&namespace.0, &["deployment/web"]);
    let target = format!("{}:80", cluster_ip(&namespace.0, "web"));
    apply(&format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: once, namespace: jobs}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: app
        image: {}
        command: [/mesh-load, http1, --target, '{target}', --count, '10', --connections, '1']
",
        image()
    ));
    kubectl(&["wait", "-n", &namespace.0, "--for=condition=complete", "job/once", "--timeout=60s"]);
    let report = kubectl(&["logs", "-n", &namespace.0, "job/once", "-c", "app"]);
    assert!(report.contains("\"requests\":10,\"errors\":0"), "{report}");
}

#[test]
fn a_pod_of_a_stateful_set_is_reached_by_its_own_name() {
    let namespace = Namespace::new("stateful", true);
    let app = |name: &str| App { replicas: 2, ..App::new(name) }.manifest(&namespace.0);
    let set = app("db")
        .replace("kind: Deployment", "kind: StatefulSet")
        .replace("spec:\n  replicas", "spec:\n  serviceName: db\n  replicas");
    let headless = service(&namespace.0, "db", "app: db").replace("spec: {", "spec: {clusterIP: None, ");
    let client = App { replicas: 1, ..App::new("client") }.manifest(&namespace.0);
    apply(&format!(
        "{}{headless}{client}",
        set.replace("name: http, containerPort", "name: http, protocol: TCP, containerPort")
    ));
    rolled_out(&namespace.0, &["statefulset/db", "deployment/client"]);
    let client = pod(&namespace.0, "app=client");
    for n in 0..2 {
        let host = format!("db-{n}.db.{}.svc.cluster.local", namespace.0);
        let address = text(&get(&namespace.0, &["pod", &format!("db-{n}")]), "/status/podIP");
        let args = ["http1", "--target", &format!("{host}:8080"), "--count", "10", "--connections", "1"];
        let report = load(&namespace.0, &client, &args);
        assert_eq!((report.requests, report.errors), (10, 0), "{host} ({address}): {:?}", report.errors_by);
    }
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let namespace = Namespace::new("banner", true);
    let server = App { args: &["--tcp-banner", "220 ready"], ..App::new("smtp") }.manifest(&namespace.0);
    let client = App::new("client").manifest(&namespace.0);
    apply(&format!("{server}{client}{}", service(&namespace.0, "smtp", "app: smtp")));
    rolled_out(&namespace.0, &["deployment/smtp", "deployment/client"]);
    let client = pod(&namespace.0, "app=client");
    let target = format!("{}:80", cluster_ip(&namespace.0, "smtp"));
    let greeted = || {
        let report =
            load(&namespace.0, &client, &["greeting", "--target", &target, "--count", "1", "--connections", "1"]);
        assert_eq!((report.requests, report.errors), (1, 0), "{:?}", report.errors_by);
        report.max_us / 1000
    };
    println!("a greeting: {} ms the first time, {} ms then", greeted(), greeted());
}

#[test]
fn a_name_asked_for_over_udp_is_answered() {
    let namespace = Namespace::new("not-tcp", true);
    let client = web_and_client(&namespace.0);
    let args = ["http1", "--target", "web.not-tcp.svc.cluster.local:80", "--count", "5", "--connections", "1"];
    let report = load(&namespace.0, &client, &args);
    assert_eq!((report.requests, report.errors), (5, 0), "{:?}", report.errors_by);
}

#[test]
fn a_ping_is_answered_on_our_node() {
    let namespace = Namespace::new("pinged", true);
    apply(&App::new("web").manifest(&namespace.0));
    rolled_out(&namespace.0, &["deployment/web"]);
    let address = text(&get(&namespace.0, &["pod", &pod(&namespace.0, "app=web")]), "/status/podIP");
    let output = in_node("ping").args(["-c", "1", "-W", "2", &address]).output().expect("ping is installed");
    assert!(output.status.success(), "ICMP: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn pods_on_the_hosts_network_are_left_alone_and_told_why() {
    let namespace = Namespace::new("host-network", true);
    let spec = "hostNetwork: true";
    let app = App { spec, args: &["--listen", "127.0.0.1:18999"], ..App::new("agent") }.manifest(&namespace.0);
    // The flag given last would be a second --listen; the first one is taken out.
    apply(&app.replace("--listen, '[::]:8080', ", "").replace("ports: [{name: http, containerPort: 8080}]", ""));
    rolled_out(&namespace.0, &["deployment/agent"]);
    let pods = get(&namespace.0, &["pods", "-l", "app=agent"]);
    assert!(pods.pointer("/items/0/spec/initContainers").is_none(), "{pods}");
    wait("an Event that says why", || {
        let events = kubectl(&["get", "events", "-n", &namespace.0]);
        (events.to_lowercase().contains("hostnetwork") || events.contains("host network")).then_some(())
    });
}

#[test]
fn a_wrong_annotation_is_refused_with_the_reason() {
    let namespace = Namespace::new("refused", true);
    let metadata = "annotations: {config.meshctl.dev/log-level: loud}";
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: {}\n  {metadata}\nspec: {{containers: [{{name: app, image: {}}}]}}\n",
        namespace.0,
        image()
    );
    let output = crate::kube::try_apply(&pod);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("config.meshctl.dev/log-level"), "{said}");
    assert!(said.contains("loud"), "{said}");
    let none = try_kubectl(&["get", "pod", "-n", &namespace.0, "web"]);
    assert!(!none.status.success());
}
