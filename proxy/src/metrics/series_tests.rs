//! Counting, and the bounds of it.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use mesh_policy::Class;

use super::{
    Direction, DirectionMetrics, Metrics, Series,
    room::{MAX_BYTES, MAX_LINES},
    series::MAX_OUTCOMES,
};
use crate::worker::tests::parts;

/// A direction, and its registry with room for so many label sets.
fn direction(sets: usize) -> (Arc<Metrics>, DirectionMetrics) {
    let (_, tls, _, _) = parts(&[]);
    let metrics = Arc::new(Metrics::new(sets));
    let readers = crate::record::Readers::new(crate::access_log::tests::queue(&metrics).0);
    let bound = DirectionMetrics::new(&metrics, &tls.held, Direction::Outbound, "shop/web-0", readers.into());
    (metrics, bound)
}

fn to(bound: &DirectionMetrics, backend: impl ToString) -> Series {
    let info = mesh_policy::Endpoint {
        address: ([10, 0, 0, 1], 80).into(),
        identity: None,
        zone: None,
        workload: "shop/web-0".into(),
        controlled_by: "web".into(),
    };
    bound.bind_outbound(&info, &super::Placed::default(), backend.to_string())
}

fn ok(series: &Series) {
    series.answered(Duration::ZERO);
    series.request(Class::Success, Some(StatusCode::OK), None, "", (Duration::ZERO, (1, 2)));
}

fn count(text: &str, start: &str) -> usize {
    text.lines().filter(|line| line.starts_with(start)).count()
}

#[tokio::test]
async fn requests_are_counted_by_code() {
    let (metrics, bound) = direction(10);
    let series = to(&bound, "shop/web:80");
    for (grpc, latency) in [(None, 300), (None, 700), (Some(14), 60_000_000)] {
        let took = Duration::from_micros(latency);
        series.answered(took);
        series.request(Class::of_response(StatusCode::OK, grpc), Some(StatusCode::OK), grpc, "", (took, (5, 7)));
    }
    series.request(Class::Cancelled, None, None, "client-closed", (Duration::ZERO, (0, 0)));
    let text = metrics.render();
    let of = |class, codes, error| {
        format!(r#"backend="shop/web:80",authority="",class="{class}",{codes},error="{error}"}}"#)
    };
    assert!(text.contains(&(of("success", r#"response_code="200",grpc_status="""#, "") + " 2")), "{text}");
    assert!(text.contains(&(of("failure", r#"response_code="200",grpc_status="14""#, "") + " 1")), "{text}");
    let cancelled = of("cancelled", r#"response_code="",grpc_status="""#, "client-closed");
    assert!(text.contains(&(cancelled + " 1")), "{text}");
    let labels = r#"direction="outbound",route="",backend="shop/web:80",src_namespace="shop",src_workload="""#;
    for line in [
        format!("mesh_response_latency_seconds_bucket{{{labels},le=\"0.0005\"}} 1"),
        format!("mesh_response_latency_seconds_count{{{labels}}} 3"),
        format!("mesh_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 4"),
        format!("mesh_body_bytes_total{{{labels},flow=\"received\"}} 21"),
        r#"dst_workload="web",dst_namespace="shop""#.to_owned(),
    ] {
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn label_sets_that_come_back_are_one() {
    let (metrics, bound) = direction(1);
    (0..2).for_each(|_| ok(&to(&bound, "shop/web:80")));
    let text = metrics.render();
    assert!(text.contains(r#"error=""} 2"#) && count(&text, "mesh_requests_total{") == 1, "{text}");
}

#[tokio::test]
async fn a_server_cannot_make_series_without_end() {
    let (metrics, bound) = direction(10);
    let series = to(&bound, "shop/web:80");
    for code in (100..1_000).map(|code| StatusCode::from_u16(code).unwrap()) {
        series.request(Class::of_status(code), Some(code), None, "", (Duration::ZERO, (0, 0)));
    }
    let text = metrics.render();
    assert_eq!(count(&text, "mesh_requests_total{"), MAX_OUTCOMES + Class::ALL.len() - 1, "none was cancelled");
    assert!(text.contains(r#"class="failure",response_code="other",grpc_status="",error=""} 500"#), "{text}");
}

#[tokio::test]
async fn the_budget_of_series_holds() {
    let (metrics, bound) = direction(100);
    (0..150).for_each(|n| ok(&to(&bound, n)));
    let text = metrics.render();
    assert_eq!(count(&text, "mesh_requests_total{"), 101);
    let rest = r#"mesh_requests_total{direction="outbound",overflow="true",class="success",response_code="other",grpc_status="",error=""} 50"#;
    assert!(text.contains(rest), "{text}");
}

#[tokio::test]
async fn the_page_has_an_end_whatever_there_is() {
    let (metrics, bound) = direction(usize::MAX);
    let long = "x".repeat(200);
    for n in 0..20_000 {
        let series = to(&bound, format!("{long}/{n}"));
        ok(&series);
        series.of_bytes().sent.increment(1);
        series.connection(Class::Success, "");
        metrics.peer(&format!("spiffe://cluster.local/ns/{long}/sa/{n}"));
        metrics.decisions(&format!("AuthorizationPolicy {long}/{n}").into()).count(super::Decided::Denied, true);
    }
    let text = metrics.render();
    assert!(text.lines().count() <= MAX_LINES + 500 && text.len() <= MAX_BYTES + 128 * 1024, "{}", text.len());
    let requests: u64 = text
        .lines()
        .filter(|line| line.starts_with("mesh_requests_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(requests, 20_000, "every one is counted");
}
