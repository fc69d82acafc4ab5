//! Dashboards for Grafana: the mesh, and one workload.

use serde_json::{Value, json};

/// Who is called, and only what its own sidecar counted: each request once.
const INBOUND: &str = r#"direction="inbound""#;
/// Of the workload that was chosen, as its own sidecar counted.
const TO: &str = r#"direction="inbound", dst_namespace="$namespace", dst_workload="$workload""#;
/// What the workload calls.
const FROM: &str = r#"direction="outbound", src_namespace="$namespace", src_workload="$workload""#;
/// Columns of a dashboard.
const WIDTH: usize = 24;
/// Height of a panel.
const HEIGHT: usize = 8;

/// A panel: its title, its unit, and its queries with the legend of each.
struct Panel {
    title: &'static str,
    unit: &'static str,
    queries: Vec<(String, &'static str)>,
}

fn panel(title: &'static str, unit: &'static str, queries: Vec<(String, &'static str)>) -> Panel {
    Panel { title, unit, queries }
}

/// Requests a second, by labels.
fn rate(filter: &str, by: &str) -> String {
    format!("sum by ({by}) (rate(mesh_requests_total{{{filter}}}[$__rate_interval]))")
}

/// The share of requests that the server did what it should for, by labels. Those whose caller left say nothing of it.
fn success(filter: &str, by: &str) -> String {
    let all = rate(&format!("{filter}, class!=\"cancelled\""), by);
    format!("1 - ({} or 0 * {all}) / {all}", rate(&format!("{filter}, class=\"failure\""), by))
}

fn quantile(quantile: &str, filter: &str, by: &str) -> String {
    let comma = if by.is_empty() { "" } else { ", " };
    format!(
        "histogram_quantile({quantile}, sum by (le{comma}{by}) (rate(mesh_response_latency_seconds_bucket{{{filter}}}[$__rate_interval])))"
    )
}

/// Half, and one in a hundred.
fn latencies(filter: &str) -> Vec<(String, &'static str)> {
    vec![
        (quantile("0.5", filter, ""), "half"),
        (quantile("0.95", filter, ""), "95 %"),
        (quantile("0.99", filter, ""), "99 %"),
    ]
}

/// The whole mesh.
pub(super) fn overview() -> Value {
    let by = "dst_namespace, dst_workload";
    let legend = "{{dst_namespace}}/{{dst_workload}}";
    let panels = vec![
        panel("Requests", "reqps", vec![(rate(INBOUND, by), legend)]),
        panel("Success", "percentunit", vec![(success(INBOUND, by), legend)]),
        panel("Latency of one in a hundred", "s", vec![(quantile("0.99", INBOUND, by), legend)]),
        panel("Requests by class", "reqps", vec![(rate(INBOUND, "class"), "{{class}}")]),
        panel("Requests by TLS", "reqps", vec![(rate(INBOUND, "tls"), "{{tls}}")]),
        panel(
            "Failures of proxies",
            "ops",
            vec![("sum by (error) (rate(mesh_errors_total[$__rate_interval]))".to_owned(), "{{error}}")],
        ),
        panel(
            "Certificates that end within a day",
            "s",
            vec![(
                "bottomk(10, (mesh_certificate_expiry_seconds > 0) - time() < 86400)".to_owned(),
                "{{namespace}}/{{pod}}",
            )],
        ),
        panel(
            "Sidecars without discovery",
            "short",
            vec![("count(mesh_control_disconnected_since_seconds > 0) or vector(0)".to_owned(), "sidecars")],
        ),
        panel(
            "Control plane",
            "short",
            vec![
                ("sum by (pod) (mesh_controller_problems)".to_owned(), "problems {{pod}}"),
                ("sum by (pod) (mesh_controller_connections)".to_owned(), "connections {{pod}}"),
            ],
        ),
        panel(
            "Lines of access logs that were lost",
            "ops",
            vec![("sum by (why) (rate(mesh_access_log_lost_total[$__rate_interval]))".to_owned(), "{{why}}")],
        ),
    ];
    dashboard("mesh-overview", "Mesh: overview", &panels, vec![])
}

/// One workload.
pub(super) fn workload() -> Value {
    let panels = vec![
        panel("Requests by class", "reqps", vec![(rate(TO, "class"), "{{class}}")]),
        panel("Success", "percentunit", vec![(success(TO, "dst_workload"), "success")]),
        panel("Latency", "s", latencies(TO)),
        panel("Requests by caller", "reqps", vec![(rate(TO, "src_identity"), "{{src_identity}}")]),
        panel(
            "Requests by code",
            "reqps",
            vec![(rate(TO, "response_code, grpc_status"), "{{response_code}} {{grpc_status}}")],
        ),
        panel("Failures by reason", "reqps", vec![(rate(&format!("{TO}, error!=\"\""), "error"), "{{error}}")]),
        panel("Calls by backend", "reqps", vec![(rate(FROM, "backend"), "{{backend}}")]),
        panel("Success of calls", "percentunit", vec![(success(FROM, "backend"), "{{backend}}")]),
        panel("Latency of calls", "s", vec![(quantile("0.99", FROM, "backend"), "{{backend}}")]),
        panel("Calls by route", "reqps", vec![(rate(FROM, "route, rule"), "{{route}} {{rule}}")]),
    ];
    let variables = vec![
        variable("namespace", "label_values(mesh_requests_total, dst_namespace)"),
        variable("workload", "label_values(mesh_requests_total{dst_namespace=\"$namespace\"}, dst_workload)"),
    ];
    dashboard("mesh-workload", "Mesh: workload", &panels, variables)
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn variable(name: &str, query: &str) -> Value {
    json!({ "name": name, "type": "query", "datasource": source(), "query": { "query": query, "refId": name }, "refresh": 2, "sort": 1 })
}

fn dashboard(uid: &str, title: &str, panels: &[Panel], variables: Vec<Value>) -> Value {
    let width = WIDTH / 2;
    let panels: Vec<Value> = (0..)
        .zip(panels)
        .map(|(n, panel): (usize, _)| {
            let targets: Vec<Value> = ('A'..='Z').zip(&panel.queries).map(|(name, (query, legend))| {
            json!({ "refId": name.to_string(), "datasource": source(), "expr": query, "legendFormat": legend })
        }).collect();
            json!({
                "id": n + 1, "type": "timeseries", "title": panel.title, "datasource": source(), "targets": targets,
                "gridPos": { "x": n % 2 * width, "y": n / 2 * HEIGHT, "w": width, "h": HEIGHT },
                "fieldConfig": { "defaults": { "unit": panel.unit, "min": 0 }, "overrides": [] },
            })
        })
        .collect();
    let chosen = json!({ "name": "datasource", "type": "datasource", "query": "prometheus" });
    let variables: Vec<Value> = [chosen].into_iter().chain(variables).collect();
    json!({
        "uid": uid, "title": title, "tags": ["mesh"], "schemaVersion": 39, "editable": true, "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" }, "templating": { "list": variables }, "panels": panels,
    })
}

/// The file of a dashboard.
pub(super) fn text(dashboard: &Value) -> String {
    format!("{dashboard:#}\n")
}
