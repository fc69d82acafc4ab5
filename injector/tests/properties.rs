//! Properties of injection over generated objects: nothing panics, nothing is lost, nothing is done twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_injector::{
    config::Config,
    manifest::{Manner, inject_document, uninject_document},
    patch::{NamespaceFacts, Outcome, inject},
    secret::Secret,
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};

fn namespace() -> NamespaceFacts {
    NamespaceFacts { name: "shop".into() }
}

/// Any JSON, with the words of pods among its keys and values.
fn any_json() -> impl Strategy<Value = Value> {
    const WORDS: &[&str] = &[
        "metadata",
        "spec",
        "template",
        "jobTemplate",
        "containers",
        "initContainers",
        "volumes",
        "labels",
        "annotations",
        "name",
        "kind",
        "items",
        "lifecycle",
        "preStop",
        "livenessProbe",
        "httpGet",
        "port",
        "env",
        "value",
        "ports",
        "containerPort",
        "securityContext",
        "runAsUser",
        "meshctl.dev/inject",
        "meshctl.dev/injected",
        "meshctl.dev/injected-changes",
        "config.meshctl.dev/log-level",
        "config.meshctl.dev/",
        "restartPolicy",
        "terminationGracePeriodSeconds",
        "a/b~c",
    ];
    const TEXTS: &[&str] = &[
        "Pod",
        "List",
        "Namespace",
        "v1",
        "mesh-proxy",
        "mesh-identity",
        "enabled",
        "Never",
        env!("CARGO_PKG_VERSION"),
        "é\u{0}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(TEXTS).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 96, 6, |inner| {
        let key = prop_oneof![4 => select(WORDS).prop_map(str::to_owned), 1 => ".{0,6}"];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((key, inner), 0..6).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn object(fields: Vec<(&str, Option<Value>)>) -> Value {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Map<_, _>>().into()
}

fn container(prefix: &'static str) -> impl Strategy<Value = Value> {
    let lifecycle = prop_oneof![
        Just(json!({"postStart": {"exec": {"command": ["/bin/warm"]}}})),
        Just(
            json!({"postStart": {"httpGet": {"path": "/warm", "port": 80}}, "preStop": {"httpGet": {"port": "http"}}})
        ),
        Just(json!({"preStop": {"sleep": {"seconds": 7}}})),
        Just(json!({"preStop": {"exec": {"command": ["/bin/drain"]}}, "stopSignal": "SIGINT"})),
    ];
    let port = (1024u16..4000).prop_map(|port| json!([{"containerPort": port, "name": "http"}]));
    let probe = select(vec![
        json!({"httpGet": {"path": "/$(A)", "port": "http", "scheme": "HTTPS"}, "periodSeconds": 1, "timeoutSeconds": 2}),
        json!({"tcpSocket": {"port": "http"}}),
        json!({"grpc": {"port": 9090, "service": "x"}, "future": {}}),
        json!({"exec": {"command": ["/bin/ready"]}}),
    ]);
    let restart = option::of(Just(json!("Always")));
    ("[a-z]{1,6}", option::of(lifecycle), option::of(port), any::<bool>(), option::of(probe), restart).prop_map(
        move |(name, lifecycle, ports, odd, probe, restart)| {
            let odd = odd.then(|| json!({"future": [1, null, {"deep": true}]}));
            let name = format!("{prefix}{name}");
            let restart = restart.filter(|_| prefix == "i-");
            object(vec![
                ("name", Some(name.into())),
                ("lifecycle", lifecycle),
                ("ports", ports),
                ("futureField", odd),
                ("readinessProbe", probe),
                ("restartPolicy", restart),
            ])
        },
    )
}

/// A template of pods that Kubernetes would take, without empty maps and lists (they mean what absent ones do).
fn template() -> impl Strategy<Value = Value> {
    let labels = option::of(Just(json!({"app": "web", "x/y": "z"})));
    let annotations = option::of(select(vec![
        json!({"prometheus.io/scrape": "true"}),
        json!({"config.meshctl.dev/native-sidecar": "false"}),
        json!({"config.meshctl.dev/pre-stop-seconds": "0", "config.meshctl.dev/opaque-ports": "25"}),
        json!({"kubectl.kubernetes.io/default-container": "other", "config.meshctl.dev/native-sidecar": "false"}),
    ]));
    let volumes = option::of(Just(json!([{"name": "data", "emptyDir": {}}])));
    let restart = option::of(select(vec!["Always", "Never", "OnFailure"]));
    let grace = option::of(0u64..40);
    let lists = (vec(container("c-"), 1..4), option::of(vec(container("i-"), 1..3)));
    (labels, annotations, volumes, restart, grace, lists).prop_map(
        |(labels, annotations, volumes, restart, grace, lists)| {
            let mut containers = lists.0;
            containers.dedup_by(|a, b| a["name"] == b["name"]);
            let metadata = object(vec![("labels", labels), ("annotations", annotations)]);
            let metadata = Some(metadata).filter(|metadata| metadata.as_object().is_some_and(|map| !map.is_empty()));
            let spec = object(vec![
                ("containers", Some(containers.into())),
                ("initContainers", lists.1.map(Value::from)),
                ("volumes", volumes),
                ("restartPolicy", restart.map(Value::from)),
                ("terminationGracePeriodSeconds", grace.map(Value::from)),
            ]);
            object(vec![("metadata", metadata), ("spec", Some(spec))])
        },
    )
}

fn config() -> impl Strategy<Value = Config> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 0u32..20, any::<bool>(), any::<bool>()).prop_map(
        |(native, init, sleep, seconds, opaque, scraped)| {
            let mut config = Config { pre_stop_seconds: seconds, pre_stop_sleep: sleep, ..Config::default() };
            config.proxy.native_sidecar = native;
            config.init.enabled = init;
            config.proxy.scrape_annotations = scraped;
            if opaque {
                config.proxy.opaque_ports = "25,3306".parse().unwrap();
            }
            config
        },
    )
}

fn is_same(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Skipped { reason } if reason.slug() == "already-injected")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_json_panics(any in any_json(), config in config()) {
        let _ = inject(&any, &namespace(), &config, &Secret::random);
        for spec in [json!({"kind": "Pod", "spec": any}), json!({"spec": {"template": any}}), any] {
            let _ = inject(&spec, &namespace(), &config, &Secret::random);
            for manner in [Manner::Label, Manner::Manual] {
                let injected = inject_document(&spec, manner, "shop", &config, &Secret::random).0;
                let _ = uninject_document(&injected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_patch_makes_the_pod_and_only_adds(pod in template(), config in config()) {
        let Ok(Outcome::Injected { pod: injected, patch }) = inject(&pod, &namespace(), &config, &Secret::random) else { return Ok(()) };
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        prop_assert_eq!(&patched, &injected);
        prop_assert!(is_same(&inject(&injected, &namespace(), &config, &Secret::random).unwrap()), "twice is once");
        for (field, before) in pod["spec"].as_object().unwrap() {
            let Some(before) = before.as_array() else {
                prop_assert_eq!(before, &injected["spec"][field]);
                continue;
            };
            let names: Vec<_> = injected["spec"][field].as_array().unwrap().iter().map(|item| &item["name"]).collect();
            for item in before {
                prop_assert!(names.contains(&&item["name"]));
            }
        }
    }

    #[test]
    fn what_other_webhooks_do_between_survives(
        pod in template(), config in config(), added in container("w-"), first in any::<bool>(), init in any::<bool>(),
    ) {
        let Ok(Outcome::Injected { pod: mut other, .. }) = inject(&pod, &namespace(), &config, &Secret::random) else { return Ok(()) };
        let list = if init && other["spec"]["initContainers"].is_array() { "initContainers" } else { "containers" };
        let list = other["spec"][list].as_array_mut().unwrap();
        list.insert(if first { 0 } else { list.len() }, added.clone());
        other["metadata"]["annotations"]["other/webhook"] = "was here".into();
        other["metadata"]["labels"]["other"] = "too".into();
        let again = match inject(&other, &namespace(), &config, &Secret::random).unwrap() {
            Outcome::Injected { pod, .. } => pod,
            outcome => { prop_assert!(is_same(&outcome)); other.clone() }
        };
        // All that may differ is the hook and the probes of the container that came later, and the records of them.
        let mut expected = other;
        expected["metadata"]["annotations"]["meshctl.dev/injected-changes"] =
            again["metadata"]["annotations"]["meshctl.dev/injected-changes"].clone();
        for list in ["/spec/initContainers", "/spec/containers"] {
            let now = again.pointer(list).and_then(Value::as_array).into_iter().flatten();
            let before = expected.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
            for (before, now) in before.zip(now) {
                let fields: &[&str] = match before["name"].as_str() {
                    Some("mesh-proxy") => &["env"],
                    name if name == added["name"].as_str() => &["lifecycle", "readinessProbe"],
                    _ => &[],
                };
                for field in fields.iter().filter(|field| !now[**field].is_null()) {
                    before[*field] = now[*field].clone();
                }
            }
        }
        let without_nulls = |mut value: Value| {
            value["metadata"]["annotations"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
            value
        };
        prop_assert_eq!(without_nulls(expected), without_nulls(again.clone()));
        prop_assert!(is_same(&inject(&again, &namespace(), &config, &Secret::random).unwrap()));
    }

    #[test]
    fn uninject_is_the_inverse(pod in template(), config in config(), manual in any::<bool>(), form in 0..4) {
        let document = match form {
            0 => { let mut pod = pod; pod["kind"] = "Pod".into(); pod }
            1 => json!({"kind": "Deployment", "spec": {"replicas": 2, "template": pod}}),
            2 => json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": pod}}}}),
            _ => json!({"kind": "List", "items": [{"kind": "Service"}, {"kind": "Thing", "spec": {"template": pod}}]}),
        };
        let manner = if manual { Manner::Manual } else { Manner::Label };
        let (injected, _) = inject_document(&document, manner, "shop", &config, &Secret::random);
        prop_assert_eq!(uninject_document(&injected).0, document);
        prop_assert_eq!(inject_document(&injected, manner, "shop", &config, &Secret::random).0, injected, "twice is once");
    }
}
