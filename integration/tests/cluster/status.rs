//! What the API server shows in the status of routes, against a table written from the specification; and that nobody
//! writes what is there already, though the leader changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use mesh_integration::harness::series;
use serde_json::{Value, json};

use crate::kube::{Namespace, SYSTEM, apply, get, kubectl, page, rolled_out, text, try_apply, wait};

/// The table that `mesh-resources` is tested with as well.
const TABLE: &str = include_str!("../../../resources/tests/data/status.yaml");
const CONTROLLER: &str = "meshctl.dev/controller";
/// The kinds that have a status.
const KINDS: &str = "httproutes,grpcroutes,tlsroutes,tcproutes";
/// How often it is looked for the status of all cases, at least 200 ms apart; a second or two is usual.
const LOOKS: usize = 100;
const DEPLOYMENT: &str = "deployment/mesh-destination";

#[test]
fn the_status_of_broken_and_of_right_routes_is_that_of_the_table_and_stays() {
    let mut cases: Vec<Value> = serde_saphyr::from_str(TABLE).expect("the table is YAML");
    let right = cases.iter().filter(|case| case["right"] == true).count();
    assert!(right >= 10 && cases.len() - right >= 30, "{right} of {} are right", cases.len());

    // Each case has its objects in namespaces of its own.
    let mut names = BTreeSet::new();
    for (n, case) in cases.iter_mut().enumerate() {
        let mut own = BTreeSet::new();
        place(case, &format!("status-{n}-"), &mut own);
        names.extend(own);
    }
    let namespaces: Vec<_> = names.iter().map(|name| Namespace::new(name, false)).collect();
    let mut refused = String::new();
    for case in &cases {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": case["objects"]});
        let output = try_apply(&list.to_string());
        if !output.status.success() {
            let _ = writeln!(refused, "{}: {}", case["name"], String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(refused.is_empty(), "the API server refuses what the table says it takes:\n{refused}");

    let mut looks = 0;
    let wrong = wait("an answer about the routes", || {
        looks += 1;
        let routes = routes();
        let wrong: String = cases.iter().filter_map(|case| differs(case, &routes)).collect();
        (wrong.is_empty() || looks == LOOKS).then_some(wrong)
    });
    assert!(wrong.is_empty(), "not as the table says:\n{wrong}");
    println!("{} cases, {right} of them right: as the table says", cases.len());

    // A second replica writes nothing, and when it takes over it finds nothing to write.
    let before = versions(&names);
    let replicas = get(SYSTEM, &[DEPLOYMENT])["spec"]["replicas"].to_string();
    kubectl(&["scale", "-n", SYSTEM, DEPLOYMENT, "--replicas=2"]);
    rolled_out(SYSTEM, &[DEPLOYMENT]);
    let first = &namespaces[0].0;
    marker(first, "first");
    let leader = holder().expect("someone leads");
    for pod in pods() {
        let written = writes(&pod);
        assert!(pod == leader || written == 0.0, "{pod} does not lead and wrote {written}");
    }
    kubectl(&["delete", "pod", "-n", SYSTEM, &leader]);
    let next = wait("another leader", || holder().filter(|now| *now != leader && !now.is_empty()));
    marker(first, "second");
    println!("{leader} led, then {next}: {} routes were not written again", before.len());
    let after = versions(&names);
    let again: Vec<_> = before.iter().filter(|(route, version)| after.get(*route) != Some(*version)).collect();
    assert!(again.is_empty(), "written without need: {again:?}");
    kubectl(&["scale", "-n", SYSTEM, DEPLOYMENT, &format!("--replicas={replicas}")]);
    rolled_out(SYSTEM, &[DEPLOYMENT]);
    drop(namespaces);
}

/// Puts what is in a namespace into one of this name; notes those that there must be.
fn place(value: &mut Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(namespace) if name == "namespace" => {
                        namespace.insert_str(0, prefix);
                        found.insert(namespace.clone());
                    }
                    value => place(value, prefix, found),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| place(item, prefix, found)),
        _ => {}
    }
}

/// `HTTPRoute namespace/name`.
fn id(kind: &Value, namespace: &Value, name: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}/{}", word(kind), word(namespace), word(name))
}

/// Every route of the cluster.
fn routes() -> BTreeMap<String, Value> {
    let all = kubectl(&["get", KINDS, "--all-namespaces", "-o", "json"]);
    let mut all: Value = serde_json::from_str(&all).expect("kubectl prints JSON");
    let items = all["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let named = |route: Value| (id(&route["kind"], &route["metadata"]["namespace"], &route["metadata"]["name"]), route);
    items.into_iter().map(named).collect()
}

/// How a case's route is not as it should be.
fn differs(case: &Value, routes: &BTreeMap<String, Value>) -> Option<String> {
    let wanted = &case["route"];
    let id = id(&wanted["kind"], &wanted["namespace"], &wanted["name"]);
    let Some(route) = routes.get(&id) else { return Some(format!("{}: there is no {id}\n", case["name"])) };
    let no_entries = Vec::new();
    let entries = route["status"]["parents"].as_array().unwrap_or(&no_entries);
    let ours: Vec<&Value> = entries.iter().filter(|entry| entry["controllerName"] == CONTROLLER).collect();
    let found: Vec<Value> = ours.iter().map(|entry| as_written(entry)).collect();
    let mut wrong = String::new();
    if json!(found) != case["parents"] {
        let _ = writeln!(wrong, "{}: {id}: {} instead of {}", case["name"], json!(found), case["parents"]);
    }
    let parents = route["spec"]["parentRefs"].as_array().unwrap_or(&no_entries);
    for entry in ours {
        if !parents.contains(&entry["parentRef"]) {
            let _ = writeln!(wrong, "{}: {id} has no parent {}", case["name"], entry["parentRef"]);
        }
        for condition in entry["conditions"].as_array().unwrap_or(&no_entries) {
            if condition["observedGeneration"] != route["metadata"]["generation"] {
                let _ = writeln!(wrong, "{}: {id}: not of this generation: {condition}", case["name"]);
            }
        }
    }
    (!wrong.is_empty()).then_some(wrong)
}

/// An entry as the table writes it.
fn as_written(entry: &Value) -> Value {
    let mut written = json!({});
    for condition in entry["conditions"].as_array().into_iter().flatten() {
        let kind = text(condition, "/type");
        let (first, rest) = kind.split_at(1);
        written[format!("{}{rest}", first.to_lowercase())] =
            json!({"status": condition["status"] == "True", "reason": condition["reason"]});
    }
    written
}

/// The versions of the routes in these namespaces.
fn versions(namespaces: &BTreeSet<String>) -> BTreeMap<String, String> {
    let is_in = |route: &Value| namespaces.contains(&text(route, "/metadata/namespace"));
    let markers = |id: &str| id.contains("/marker-");
    let routes = routes().into_iter().filter(|(id, route)| is_in(route) && !markers(id));
    routes.map(|(id, route)| (id, text(&route, "/metadata/resourceVersion"))).collect()
}

/// Makes a route and waits until its status is written: whatever else was to be written is, too.
fn marker(namespace: &str, name: &str) {
    apply(&format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: marker-{name}, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: nobody}}]}}\n"
    ));
    wait("the status of a new route", || {
        let route = get(namespace, &["httproute", &format!("marker-{name}")]);
        let entries = route["status"]["parents"].as_array()?.clone();
        entries.iter().any(|entry| entry["controllerName"] == CONTROLLER).then_some(())
    });
}

/// Who leads.
fn holder() -> Option<String> {
    get(SYSTEM, &["lease", "mesh-destination"])["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

/// The pods of destination.
fn pods() -> Vec<String> {
    let pods = get(SYSTEM, &["pods", "-l", "app.kubernetes.io/component=destination"]);
    let running = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    pods["items"].as_array().into_iter().flatten().filter(running).map(|pod| text(pod, "/metadata/name")).collect()
}

/// How many statuses a pod wrote.
fn writes(pod: &str) -> f64 {
    let metrics = page(SYSTEM, pod, 4652, "/metrics");
    let written = series(&metrics, "mesh_controller_status_writes_total", &["result=\"written\""]).next();
    written.expect("it is counted")
}
