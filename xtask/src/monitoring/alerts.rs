//! Alert rules for Prometheus.

use std::fmt::Write;

/// One rule.
struct Alert {
    name: &'static str,
    /// `critical` where requests fail now or soon, `warning` otherwise.
    severity: &'static str,
    /// How long it must hold.
    lasts: &'static str,
    expression: &'static str,
    summary: &'static str,
    /// What to do next.
    next: &'static str,
}

/// The rules. Thresholds are where nearly everybody wants to know; docs/monitoring.md says how to have others.
const ALERTS: [Alert; 11] = [
    Alert {
        name: "MeshSuccessLow",
        severity: "critical",
        lasts: "5m",
        expression: "sum by (dst_namespace, dst_workload) (rate(mesh_requests_total{direction=\"inbound\", class=\"failure\"}[5m])) \
                     / sum by (dst_namespace, dst_workload) (rate(mesh_requests_total{direction=\"inbound\", class!=\"cancelled\"}[5m])) > 0.05",
        summary: "{{ $labels.dst_namespace }}/{{ $labels.dst_workload }} fails {{ $value | humanizePercentage }} of its requests",
        next: "meshctl routes shows where; the labels error and response_code of mesh_requests_total say why",
    },
    Alert {
        name: "MeshLatencyHigh",
        severity: "warning",
        lasts: "10m",
        expression: "histogram_quantile(0.99, sum by (le, dst_namespace, dst_workload) (rate(mesh_response_latency_seconds_bucket{direction=\"inbound\"}[5m]))) > 1",
        summary: "one request in a hundred to {{ $labels.dst_namespace }}/{{ $labels.dst_workload }} takes {{ $value | humanizeDuration }}",
        next: "compare it with direction=\"outbound\" of its callers: what is more there is the network or the proxies",
    },
    Alert {
        name: "MeshCertificateOld",
        severity: "critical",
        lasts: "5m",
        expression: "(mesh_certificate_expiry_seconds > 0) - time() < 3600",
        summary: "the certificate of {{ $labels.namespace }}/{{ $labels.pod }} ends in {{ $value | humanizeDuration }} and was not renewed",
        next: "meshctl check, and the logs of its mesh-proxy and of mesh-identity",
    },
    Alert {
        name: "MeshCertificateFailures",
        severity: "warning",
        lasts: "10m",
        expression: "increase(mesh_certificate_failures_total[15m]) > 3",
        summary: "{{ $labels.namespace }}/{{ $labels.pod }} asks for a certificate and gets none",
        next: "the log of its mesh-proxy says why",
    },
    Alert {
        name: "MeshIssuerEnds",
        severity: "critical",
        lasts: "10m",
        expression: "(mesh_controller_issuer_expiry_seconds > 0) - time() < 7 * 86400",
        summary: "the issuer of all certificates ends in {{ $value | humanizeDuration }}",
        next: "docs/identity.md: put a new one into the Secret mesh-issuer",
    },
    Alert {
        name: "MeshDiscoveryStale",
        severity: "warning",
        lasts: "1m",
        expression: "time() - (mesh_control_disconnected_since_seconds > 0) > 120",
        summary: "{{ $labels.namespace }}/{{ $labels.pod }} has heard nothing of mesh-destination for {{ $value | humanizeDuration }}",
        next: "what it knows stays in force; meshctl check, and the log of its mesh-proxy",
    },
    Alert {
        name: "MeshUpdatesRejected",
        severity: "warning",
        lasts: "0m",
        expression: "increase(mesh_control_rejected_total[15m]) > 0",
        summary: "{{ $labels.namespace }}/{{ $labels.pod }} refused an update of mesh-destination",
        next: "the log of its mesh-proxy says which; the last good value stays in force",
    },
    Alert {
        name: "MeshIdentityDown",
        severity: "critical",
        lasts: "5m",
        expression: "absent(mesh_controller_issuers_total)",
        summary: "no mesh-identity is scraped: no certificate is renewed",
        next: "kubectl -n mesh-system get pods; meshctl check",
    },
    Alert {
        name: "MeshDestinationDown",
        severity: "critical",
        lasts: "5m",
        expression: "absent(mesh_controller_objects)",
        summary: "no mesh-destination is scraped: new endpoints and policies reach no sidecar",
        next: "kubectl -n mesh-system get pods; meshctl check",
    },
    Alert {
        name: "MeshInjectorDown",
        severity: "critical",
        lasts: "5m",
        expression: "absent(mesh_injector_config_reloads_total)",
        summary: "no mesh-injector is scraped: pods that ask for a sidecar are not made",
        next: "kubectl -n mesh-system get pods; meshctl check",
    },
    Alert {
        name: "MeshAccessLogLost",
        severity: "warning",
        lasts: "0m",
        expression: "sum by (namespace, pod, why) (increase(mesh_access_log_lost_total[10m])) > 0",
        summary: "{{ $labels.namespace }}/{{ $labels.pod }} lost {{ $value | humanize }} lines of its access log ({{ $labels.why }})",
        next: "docs/access-log.md: log less of it, or give the sidecar more CPU",
    },
];

/// Names of the rules.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALERTS.iter().map(|alert| alert.name)
}

/// The file of rules.
pub(super) fn rules() -> String {
    let mut out =
        "# Written by `cargo xtask monitoring`; docs/monitoring.md explains it.\ngroups:\n- name: mesh\n  rules:\n"
            .to_owned();
    for alert in &ALERTS {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        // A String takes all that is written.
        let _ = write!(
            out,
            "  - alert: {}\n    expr: {}\n    for: {}\n    labels:\n      severity: {}\n    annotations:\n      summary: {}\n      description: {}\n",
            alert.name,
            quoted(alert.expression),
            alert.lasts,
            alert.severity,
            quoted(alert.summary),
            quoted(alert.next),
        );
    }
    out
}
