//! Name and help of every metric family, in the order of `docs/metrics.md`, which a test compares with it.

/// All of them.
pub(crate) const CATALOGUE: &[(&str, &str)] = &[
    (
        "mesh_requests_total",
        "Requests that ended, by direction, who called and who served, what decided, class, codes and why they failed.",
    ),
    (
        "mesh_response_latency_seconds",
        "Time from the request's head to the response's head, by direction, route and backend.",
    ),
    (
        "mesh_request_duration_seconds",
        "Time from the request's head to the response's end, by direction, route and backend.",
    ),
    (
        "mesh_body_bytes_total",
        "Bytes of the bodies of requests that ended, by direction, route, backend and flow (sent towards or received from the server).",
    ),
    (
        "mesh_requests_in_flight",
        "Requests whose response has not ended, upgraded connections among them, by direction.",
    ),
    ("mesh_errors_total", "Requests and connections that failed, by reason."),
    (
        "mesh_retries_total",
        "Attempts beyond the first, by why: refused (never delivered), reset, timeout, status or grpc (a code).",
    ),
    ("mesh_retry_budget_exhausted_total", "Retries that were wanted and not made, as the backend's budget was spent."),
    (
        "mesh_mirrored_total",
        "Mirrored requests by result: answered, cut (too slow), failed, dropped (too many), no-endpoints or late.",
    ),
    ("mesh_connections_total", "Accepted connections by direction and protocol."),
    ("mesh_connections_open", "Accepted connections that are open now, by direction."),
    (
        "mesh_connections_ended_total",
        "Connections that were ended because their certificate ended, their anchor was withdrawn or policy does not allow them any more, by direction and why.",
    ),
    ("mesh_tls_connections_total", "Finished mutual TLS handshakes by direction, peer identity, version and group."),
    ("mesh_tls_failures_total", "TLS handshakes that failed, by direction and reason."),
    (
        "mesh_tcp_connections_total",
        "Connections of opaque bytes that ended, by direction, who called and who served, what decided, class and why they failed.",
    ),
    ("mesh_tcp_connections_open", "Connections of opaque bytes that are open now, labelled as those that ended."),
    (
        "mesh_tcp_bytes_total",
        "Opaque bytes copied, also of upgraded connections, labelled as the connections and by flow (sent towards or received from the server).",
    ),
    (
        "mesh_authorization_decisions_total",
        "Decisions of authorization policies about inbound requests and connections of bytes, by policy, verdict and tls.",
    ),
    ("mesh_access_log_lines_total", "Lines of the access log that were written."),
    (
        "mesh_access_log_lost_total",
        "Lines of the access log that were lost, by why: queue (too many at once) or write (standard output failed).",
    ),
    ("mesh_control_updates_total", "Updates from the controller that were put in force."),
    ("mesh_control_rejected_total", "Updates from the controller that were refused; the last good one stayed."),
    ("mesh_control_streams_broken_total", "Control streams that ended and were asked for again."),
    (
        "mesh_control_disconnected_since_seconds",
        "Since when a control stream cannot be had, seconds since 1970; 0 while all can.",
    ),
    ("mesh_certificates_total", "Certificates obtained."),
    ("mesh_certificate_failures_total", "Attempts to obtain a certificate that failed."),
    ("mesh_certificate_expiry_seconds", "When the certificate in force ends, seconds since 1970."),
    ("mesh_build_info", "Always 1; the version of the proxy is a label."),
    ("process_start_time_seconds", "When the process started, seconds since 1970."),
    ("process_cpu_seconds_total", "Processor time of the process, user and system."),
    ("process_resident_memory_bytes", "Memory of the process that is resident."),
    ("process_open_fds", "Open file descriptors of the process."),
];
