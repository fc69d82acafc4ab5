//! Who may call whom on a real cluster: what the API server takes, what sidecars do, that `meshctl authz` says the same, and
//! that kubelet's probes pass whatever policies say.

use crate::{
    apps::{App, service},
    kube::{Namespace, apply, cluster_ip, get, kubectl, load, pod, rolled_out, text, try_apply, try_meshctl, wait},
};

/// Policies about `web`, and whether `client`, `other`, one without a sidecar, and one that shares its node's addresses may GET
/// /1k and /64k.
const SETS: [(&str, &str); 11] = [
    ("", "++ ++ ++ ++"),
    (
        "kind: AuthorizationPolicy\nspec: {targetRefs: [{kind: Pod, selector: {matchLabels: {app: web}}}], action: ALLOW, enforcementLevel: Network}",
        "-- -- -- --",
    ),
    (
        "kind: AuthorizationPolicy\nspec: {targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, enforcementLevel: Network,\n  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: client}}], networkAttributes: {ports: [8080]}}]}",
        "++ -- -- --",
    ),
    (
        "kind: AuthorizationPolicy\nspec: {targetRefs: [{kind: Service, name: web}], action: ALLOW, enforcementLevel: Application,\n  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: client}}], to: [{method: GET, path: {type: Exact, value: /1k}}]}]}",
        "+- -- -- --",
    ),
    (
        "kind: AuthorizationPolicy\nspec: {targetRefs: [{kind: Service, name: web}], action: DENY, enforcementLevel: Application,\n  rules: [{sources: [{type: Namespace, namespace: govern, except: [{type: ServiceAccount, serviceAccount: {name: client}}]}], to: [{path: {value: /64k}}]}]}",
        "++ +- ++ ++",
    ),
    (
        "kind: AuthorizationPolicy\nspec: {targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: Unauthenticated}]}]}",
        "-- -- ++ ++",
    ),
    (
        "kind: AuthorizationPolicy\nspec: {targetRefs: [{kind: Pod, selector: {}}], action: DENY, mode: Shadow, enforcementLevel: Network, rules: [{}]}",
        "++ ++ ++ ++",
    ),
    (
        "kind: ClusterAuthorizationPolicy\nspec: {tier: Admin, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: govern}}, requireMeshIdentity: {}}",
        "++ ++ -- --",
    ),
    (
        "kind: ClusterAuthorizationPolicy\nspec: {tier: Admin, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: elsewhere}}, requireMeshIdentity: {}}",
        "++ ++ ++ ++",
    ),
    (
        "kind: ClusterAuthorizationPolicy\nspec: {tier: Baseline, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: govern}}, podSelector: {matchLabels: {app: web}},\n  action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: other, namespace: govern}}]}]}",
        "-- ++ -- --",
    ),
    (
        "kind: ClusterAuthorizationPolicy\nspec: {tier: Admin, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: govern}}, ports: [1], requireMeshIdentity: {}}",
        "++ ++ ++ ++",
    ),
];

/// A caller: its namespace, its pod, and how `meshctl authz` names it.
struct Caller {
    namespace: &'static str,
    pod: String,
    from: String,
}

impl Caller {
    /// Whether its request is let in; what is not is 403.
    fn may(&self, target: &str, path: &str) -> bool {
        let args = ["http1", "--target", target, "--host", "web", "--path", path, "--count", "1", "--connections", "1"];
        let report = load(self.namespace, &self.pod, &args);
        let is_let_in = report.errors == 0;
        assert!(is_let_in || report.errors_by.keys().any(|error| error.contains("403")), "{:?}", report.errors_by);
        is_let_in
    }

    /// What `meshctl authz` says.
    fn is_told(&self, path: &str) -> bool {
        let args = ["authz", "-n", "govern", "--from", &self.from, "--to", "svc/web", "GET", path];
        let said = try_meshctl(&args);
        let code = said.status.code();
        assert!(matches!(code, Some(0 | 1)), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
        code == Some(0)
    }
}

#[test]
fn callers_get_what_policies_say_and_meshctl_says_the_same() {
    let (governed, plain) = (Namespace::new("govern", true), Namespace::new("govern-plain", false));
    let apps = ["web", "client", "other"].map(|name| App::new(name).manifest(&governed.0)).concat();
    let node = App { spec: "hostNetwork: true", ..App::new("node") };
    let strangers = format!("{}{}", App::new("plain").manifest(&plain.0), listening(&node.manifest(&plain.0), 18080));
    apply(&format!("{apps}{}{strangers}", service(&governed.0, "web", "app: web")));
    rolled_out(&governed.0, &["deployment/web", "deployment/client", "deployment/other"]);
    rolled_out(&plain.0, &["deployment/plain", "deployment/node"]);
    let target = format!("{}:80", cluster_ip(&governed.0, "web"));
    let caller = |namespace: &'static str, app: &str, from: String| Caller {
        namespace,
        pod: pod(namespace, &format!("app={app}")),
        from,
    };
    let callers = [
        caller("govern", "client", "deploy/client".to_owned()),
        caller("govern", "other", "deploy/other".to_owned()),
        caller("govern-plain", "plain", "none".to_owned()),
        caller("govern-plain", "node", "none".to_owned()),
    ];
    let mut rows = 0;
    for (number, (policy, expected)) in SETS.iter().enumerate() {
        let _applied = (!policy.is_empty()).then(|| Applied::new(number, policy));
        let expected: Vec<Vec<bool>> =
            expected.split(' ').map(|of| of.bytes().map(|verdict| verdict == b'+').collect()).collect();
        let found = || -> Vec<Vec<bool>> {
            callers.iter().map(|caller| ["/1k", "/64k"].map(|path| caller.may(&target, path)).to_vec()).collect()
        };
        wait(&format!("{policy} in force"), || (found() == expected).then_some(()));
        let told: Vec<Vec<bool>> =
            callers.iter().map(|caller| ["/1k", "/64k"].map(|path| caller.is_told(path)).to_vec()).collect();
        assert_eq!(told, expected, "{policy}");
        rows += callers.len() * 2;
    }
    println!("{rows} rows");
}

/// An application that listens on another port: one that shares its node's addresses where nobody else does.
fn listening(manifest: &str, port: u16) -> String {
    let listens = manifest.replace("'[::]:8080'", &format!("'[::]:{port}'"));
    listens.replace("containerPort: 8080", &format!("containerPort: {port}"))
}

/// A policy, until dropped.
struct Applied(String);

impl Applied {
    fn new(number: usize, policy: &str) -> Self {
        let (kind, spec) = policy.split_once('\n').unwrap();
        let kind = kind.strip_prefix("kind: ").unwrap();
        let namespace = if kind == "AuthorizationPolicy" { ", namespace: govern" } else { "" };
        apply(&format!(
            "---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: set-{number}{namespace}}}\n{spec}\n"
        ));
        let name = format!("{kind}/set-{number}");
        let policy = Self(name);
        wait("a status", || {
            let found = get("govern", &[&policy.0]);
            let accepted = found.pointer("/status/ancestors/0/conditions/0/status");
            (accepted.and_then(|status| status.as_str()) == Some("True")).then_some(())
        });
        policy
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        kubectl(&["delete", "-n", "govern", &self.0]);
    }
}

#[test]
fn what_can_mean_nothing_is_refused_by_the_api_server() {
    let namespace = Namespace::new("govern-bad", true);
    let policy = |spec: &str| {
        format!(
            "---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: bad, namespace: {}}}\nspec: {{{spec}}}\n",
            namespace.0
        )
    };
    let cluster = |spec: &str| {
        format!(
            "---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: ClusterAuthorizationPolicy\nmetadata: {{name: bad}}\nspec: {{{spec}}}\n"
        )
    };
    let pods = "targetRefs: [{kind: Pod, selector: {}}]";
    for (manifest, field) in [
        (policy("action: ALLOW, enforcementLevel: Network"), "targetRefs"),
        (policy("targetRefs: [], action: ALLOW, enforcementLevel: Network"), "targetRefs"),
        (policy("targetRefs: [{kind: Gateway, name: x}], action: ALLOW, enforcementLevel: Network"), "kind"),
        (policy("targetRefs: [{kind: Pod, name: x}], action: ALLOW, enforcementLevel: Network"), "targetRefs"),
        (policy(&format!("{pods}, action: ALLOW")), "enforcementLevel"),
        (policy(&format!("{pods}, action: PERMIT, enforcementLevel: Network")), "action"),
        (policy(&format!("{pods}, action: DENY, enforcementLevel: Network")), "rule"),
        (
            policy(&format!("{pods}, action: ALLOW, enforcementLevel: Network, rules: [{{to: [{{method: GET}}]}}]")),
            "to",
        ),
        (
            policy(&format!(
                "{pods}, action: ALLOW, enforcementLevel: Network, rules: [{{sources: [{{type: Group}}]}}]"
            )),
            "type",
        ),
        (
            policy(&format!(
                "{pods}, action: ALLOW, enforcementLevel: Network, rules: [{{sources: [{{type: CIDR, cidr: 10.0.0.0/33}}]}}]"
            )),
            "cidr",
        ),
        (
            policy(&format!(
                "{pods}, action: ALLOW, enforcementLevel: Network, rules: [{{sources: [{{type: CIDR}}]}}]"
            )),
            "cidr",
        ),
        (
            policy(&format!(
                "{pods}, action: ALLOW, enforcementLevel: Network, rules: [{{networkAttributes: {{ports: [0]}}}}]"
            )),
            "ports",
        ),
        (cluster("tier: Admin, requireMeshIdentity: {}"), "namespaceSelector"),
        (cluster("tier: Owner, namespaceSelector: {}, requireMeshIdentity: {}"), "tier"),
        (cluster("tier: Admin, namespaceSelector: {}"), "requireMeshIdentity"),
        (
            cluster(
                "tier: Admin, namespaceSelector: {}, requireMeshIdentity: {}, action: ALLOW, enforcementLevel: Network",
            ),
            "requireMeshIdentity",
        ),
    ] {
        let said = try_apply(&manifest);
        let why = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && why.contains(field), "{manifest}: {why}");
    }
}

#[test]
fn probes_pass_under_a_deny_of_everything_and_nobody_elses_request_does() {
    let (closed, plain) = (Namespace::new("govern-probes", true), Namespace::new("govern-probes-plain", false));
    apply(&format!(
        "---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: closed, namespace: {}}}\n\
         spec: {{targetRefs: [{{kind: Pod, selector: {{}}}}], action: DENY, enforcementLevel: Network, rules: [{{}}]}}\n",
        closed.0
    ));
    let probes = |probe: &str| {
        format!(
            "startupProbe: {{{probe}, periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 2}}
        readinessProbe: {{{probe}, periodSeconds: 1, timeoutSeconds: 2}}
        livenessProbe: {{{probe}, periodSeconds: 1, failureThreshold: 3, timeoutSeconds: 2}}"
        )
    };
    let kinds = [
        ("http", "httpGet: {path: '/1k?x=1', port: http}"),
        ("tcp", "tcpSocket: {port: 8080}"),
        ("grpc", "grpc: {port: 8080}"),
    ];
    let apps: Vec<String> = kinds
        .iter()
        .map(|(name, probe)| App { container: &probes(probe), ..App::new(name) }.manifest(&closed.0))
        .collect();
    let hook = "lifecycle: {postStart: {httpGet: {path: /1k, port: 8080}}}";
    let node = listening(&App { spec: "hostNetwork: true", ..App::new("node") }.manifest(&plain.0), 18081);
    apply(&format!(
        "{}{}{}{node}{}",
        apps.concat(),
        App { container: hook, ..App::new("hook") }.manifest(&closed.0),
        App::new("plain").manifest(&plain.0),
        service(&closed.0, "http", "app: http")
    ));
    rolled_out(&closed.0, &["deployment/http", "deployment/tcp", "deployment/grpc", "deployment/hook"]);
    rolled_out(&plain.0, &["deployment/plain", "deployment/node"]);
    let ip = text(&get(&closed.0, &["pods", "-l", "app=http"]), "/items/0/status/podIP");
    for (namespace, app) in
        [("govern-probes", "tcp"), ("govern-probes-plain", "plain"), ("govern-probes-plain", "node")]
    {
        let caller = Caller {
            namespace: if namespace == closed.0 { "govern-probes" } else { "govern-probes-plain" },
            pod: pod(namespace, &format!("app={app}")),
            from: String::new(),
        };
        assert!(!caller.may(&format!("{ip}:8080"), "/1k?x=1"), "{app} got what the probe asks for");
        // The sidecar's own page asks for the secret.
        let args = [
            "http1",
            "--target",
            &format!("{ip}:4692"),
            "--path",
            "/probe/0123456789abcdef0123456789abcdef/0",
            "--count",
            "1",
            "--connections",
            "1",
        ];
        let report = load(namespace, &caller.pod, &args);
        assert!(report.errors_by.keys().any(|error| error.contains("404")), "{:?}", report.errors_by);
    }
    // A hook may come before its application listens; kubelet then begins anew.
    for app in ["http", "tcp", "grpc"] {
        let pods = get(&closed.0, &["pods", "-l", &format!("app={app}")]);
        let statuses = pods.pointer("/items/0/status/containerStatuses").and_then(serde_json::Value::as_array).unwrap();
        assert!(statuses.iter().all(|status| status["ready"] == true && status["restartCount"] == 0), "{statuses:?}");
    }
}

/// The manifest of docs/authorization.md with this name, in another namespace.
fn recipe(name: &str, namespace: &str) -> String {
    let page = include_str!("../../../docs/authorization.md");
    let blocks = page.split("```yaml\n").skip(1).filter_map(|part| part.split("```").next());
    let found =
        blocks.into_iter().find(|block| block.contains(&format!("metadata: {{name: {name}, namespace: shop}}")));
    format!("---\n{}", found.expect("the page has it").replace("namespace: shop", &format!("namespace: {namespace}")))
}

#[test]
fn recipes_let_in_whom_they_say_where_all_else_is_closed() {
    let name = "govern-recipes";
    let (closed, monitoring) = (Namespace::new(name, true), Namespace::new("govern-monitoring", true));
    let plain = Namespace::new("govern-outside", false);
    let metrics = listening(&App::new("metrics").manifest(name), 9090);
    let peers = App::new("db")
        .manifest(name)
        .replace("kind: Deployment", "kind: StatefulSet")
        .replace("spec:\n  replicas: 1", "spec:\n  serviceName: db\n  replicas: 2");
    let headless = service(name, "db", "app: db").replace("spec: {selector", "spec: {clusterIP: None, selector");
    let apps =
        format!("{}{metrics}{peers}{headless}{}", App::new("web").manifest(name), service(name, "web", "app: web"));
    let strangers =
        format!("{}{}", App::new("prometheus").manifest(&monitoring.0), App::new("checker").manifest(&plain.0));
    // The page's health check asks for what the test server does not have, and Prometheus is elsewhere.
    let health = recipe("health-checks", name).replace("/healthz", "/1k");
    let prometheus = recipe("metrics", name).replace("namespace: monitoring", "namespace: govern-monitoring");
    let jobs = format!(
        "---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: jobs, namespace: {name}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: web}}], action: ALLOW, enforcementLevel: Network,\n\
         \x20 rules: [{{sources: [{{type: ServiceAccount, serviceAccount: {{name: nightly}}}}]}}]}}\n"
    );
    apply(&format!("{}{}{health}{prometheus}{jobs}{apps}{strangers}", recipe("closed", name), recipe("peers", name)));
    rolled_out(name, &["deployment/web", "deployment/metrics", "statefulset/db"]);
    rolled_out(&monitoring.0, &["deployment/prometheus"]);
    rolled_out(&plain.0, &["deployment/checker"]);
    let ip = |app: &str, of: usize| {
        text(&get(name, &["pods", "-l", &format!("app={app}")]), &format!("/items/{of}/status/podIP"))
    };
    let web = format!("{}:8080", ip("web", 0));
    let caller = |namespace: &'static str, app: &str| Caller {
        namespace,
        pod: pod(namespace, &format!("app={app}")),
        from: String::new(),
    };
    let (checker, prometheus, db) = (
        caller("govern-outside", "checker"),
        caller("govern-monitoring", "prometheus"),
        caller("govern-recipes", "db"),
    );
    for (who, target, path, is_let_in) in [
        (&checker, &web, "/1k", true),
        (&checker, &web, "/64k", false),
        (&prometheus, &format!("{}:9090", ip("metrics", 0)), "/1k", true),
        (&prometheus, &web, "/64k", false),
        (&checker, &format!("{}:9090", ip("metrics", 0)), "/1k", false),
        (&db, &format!("{}:8080", ip("db", 0)), "/1k", true),
        (&db, &format!("{}:8080", ip("db", 1)), "/1k", true),
        (&db, &web, "/64k", false),
    ] {
        wait(&format!("{} at {target}{path}: {is_let_in}", who.pod), || {
            (who.may(target, path) == is_let_in).then_some(())
        });
    }
    apply(&format!(
        "---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: nightly, namespace: {name}}}}}\n---\n\
         apiVersion: batch/v1\nkind: Job\nmetadata: {{name: nightly, namespace: {name}}}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      \
         serviceAccountName: nightly\n      restartPolicy: Never\n      containers:\n      - name: app\n        image: {}\n        \
         command: [/mesh-load, http1, --target, 'web.{name}.svc:80', --host, web, --path, /64k, --count, '5', --connections, '1', --strict]\n",
        crate::apps::image()
    ));
    wait("the Job's end", || {
        let job = get(name, &["job/nightly"]);
        assert!(job.pointer("/status/failed").is_none(), "{job}");
        (job.pointer("/status/succeeded") == Some(&1.into())).then_some(())
    });
    drop((closed, monitoring, plain));
}
