//! What lines say, and when there are any.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    io::{self, Write},
    rc::Rc,
    sync::mpsc::{Receiver, sync_channel},
    time::SystemTime,
};

use http::{HeaderValue, Request, StatusCode, uri::Authority};
use mesh_policy::{Class, WorkloadPolicy, access_log::Format};
use serde_json::Value;

use super::*;
use crate::{
    error::{DecisionId, Reason},
    finished::{Begun, Noted},
    metrics::{Direction, DirectionMetrics, Metrics},
    record::{Readers, Record},
    worker::tests::parts,
};

/// Room of the queue of a test.
const ROOM: usize = 8;

/// A queue, and what is put in it.
pub(crate) fn queue(metrics: &Metrics) -> (Sender, Receiver<Line>) {
    let (queue, lines) = sync_channel(ROOM);
    (Sender { queue, lost: metrics.counter("mesh_access_log_lost_total", &[("why", "queue")]) }, lines)
}

/// Any line.
fn line() -> Line {
    let outcome = Outcome { class: Class::Success, error: "", fault: None, status: None, grpc: None, bytes: (1, 2) };
    let labels =
        [("direction", "outbound"), ("src_identity", "spiffe://cluster.local/ns/shop/sa/front"), ("route", "")];
    let labels = labels.map(|(name, value)| (name, value.to_owned())).into();
    let begun = Begun { noted: Noted::at(SystemTime::UNIX_EPOCH), labels };
    let record = Finished { begun, outcome, took: Duration::from_millis(1500) };
    Wanted::new(&AccessLog::read("all").unwrap()).unwrap().line(Arc::new(record))
}

/// One worker's log, what comes of it, and handles whose records it logs.
struct Logged {
    readers: Rc<Readers>,
    lines: Receiver<Line>,
    direction: Rc<DirectionMetrics>,
    metrics: Arc<Metrics>,
}

impl Logged {
    fn new(wanted: &str, attributes: &str) -> Self {
        let (_, tls, _, metrics) = parts(&[]);
        let (sender, lines) = queue(&metrics);
        let readers = Rc::new(Readers::new(sender));
        let direction =
            Rc::new(DirectionMetrics::new(&metrics, &tls.held, Direction::Inbound, "shop/web-0", readers.clone()));
        let logged = Self { readers, lines, direction, metrics };
        logged.want(wanted, attributes);
        logged
    }

    fn want(&self, wanted: &str, attributes: &str) {
        let attributes = mesh_policy::access_log::Attributes::read(attributes).unwrap();
        let access_log = AccessLog { attributes, ..AccessLog::read(wanted).unwrap() };
        self.readers.follow(&WorkloadPolicy { access_log, ..WorkloadPolicy::default() });
    }

    fn begin(&self) -> Rc<Record> {
        let record = Record::request(&self.direction);
        let mut request = Request::get("/cart/7?token=secret").body(()).unwrap();
        let headers = request.headers_mut();
        headers.insert("x-user", HeaderValue::from_bytes(b"ada\xc2\x9b31m").unwrap());
        headers.insert("cookie", HeaderValue::from_static("session=secret"));
        let id = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", HeaderValue::from_static(id));
        record.caller(([10, 0, 0, 9], 1234).into());
        record.asked(&request, Some(&Authority::from_static("web.shop:8080")));
        record
    }

    fn text(&self, format: Format) -> Vec<String> {
        let mut text = String::new();
        self.lines.try_iter().for_each(|line| line.write(format, &mut text));
        text.lines().map(str::to_owned).collect()
    }

    fn told(&self) -> Vec<Value> {
        self.text(Format::Json).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_line_tells_what_is_known_and_no_secret() {
    let logged = Logged::new("all", "");
    let record = logged.begin();
    record.sent(5);
    record.failed(Reason::Denied);
    record.decided(DecisionId(7));
    record.answered(StatusCode::FORBIDDEN, None);
    record.received(11);
    assert_eq!(logged.told(), Vec::<Value>::new(), "not before its end");
    record.ended();
    let told = logged.told();
    let [line] = told.as_slice() else { panic!("{told:?}") };
    for (attribute, expected) in [
        ("mesh.direction", Value::from("inbound")),
        ("http.request.method", "GET".into()),
        ("server.address", "web.shop".into()),
        ("url.path", "/cart/7".into()),
        ("network.protocol.version", "1.1".into()),
        ("network.peer.address", "10.0.0.9".into()),
        ("network.peer.port", 1234.into()),
        ("http.response.status_code", 403.into()),
        ("mesh.class", "denied".into()),
        ("error.type", "denied".into()),
        ("mesh.fault", "config".into()),
        ("mesh.decision.id", "0000000000000007".into()),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736".into()),
        ("mesh.bytes.sent", 5.into()),
        ("mesh.bytes.received", 11.into()),
    ] {
        assert_eq!(line[attribute], expected, "{attribute} in {line}");
    }
    assert!(line["mesh.duration"].is_f64() && line["mesh.first_byte"].is_f64() && line["timestamp"].is_string());
    assert!(!line.to_string().contains("secret"), "{line}");
}

#[tokio::test]
async fn what_is_named_is_told_without_what_terminals_obey() {
    let logged = Logged::new("all", "url.query,http.request.header.x-user");
    logged.begin().ended();
    logged.begin().ended();
    let lines = logged.text(Format::Text);
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains(r#" url.query="token=secret""#), "{}", lines[0]);
    assert!(lines[0].contains("http.request.header.x-user=\"ada\u{fffd}31m\""), "{}", lines[0]);
    assert!(!lines[0].contains("session"), "{}", lines[0]);
}

#[tokio::test]
async fn only_what_is_wanted_is_logged_and_a_change_counts_at_once() {
    let logged = Logged::new("off", "");
    let end = |status| {
        let record = logged.begin();
        record.answered(status, None);
        record.ended();
        logged.told().len()
    };
    assert_eq!((end(StatusCode::OK), end(StatusCode::BAD_GATEWAY)), (0, 0));
    assert!(!logged.begin().is_drafted(), "nothing is noted of it");
    logged.want("errors", "");
    assert_eq!((end(StatusCode::OK), end(StatusCode::NOT_FOUND), end(StatusCode::BAD_GATEWAY)), (0, 0, 1));
    logged.want("slow=0s", "");
    assert_eq!(end(StatusCode::OK), 1);
    logged.want("sample=0.25", "");
    let sampled = (0..4_000).map(|_| end(StatusCode::OK)).sum::<usize>();
    assert!((800..1_200).contains(&sampled), "{sampled}");
}

#[tokio::test]
async fn what_does_not_fit_is_lost_and_counted() {
    let logged = Logged::new("all", "");
    (0..ROOM + 3).for_each(|_| logged.begin().ended());
    assert_eq!(logged.told().len(), ROOM);
    let page = logged.metrics.render();
    assert!(page.contains(r#"mesh_access_log_lost_total{why="queue"} 3"#), "{page}");
}

#[tokio::test]
async fn a_connection_of_bytes_has_a_line_too() {
    let logged = Logged::new("all", "");
    let record = Record::bytes(&logged.direction);
    record.sent(3);
    drop(record);
    Record::bytes(&logged.direction).forget();
    let told = logged.told();
    assert_eq!((told.len(), &told[0]["mesh.class"], &told[0]["error.type"]), (1, &"failure".into(), &"reset".into()));
    assert_eq!((&told[0]["mesh.bytes.sent"], &told[0]["url.path"]), (&3.into(), &Value::Null));
}

#[test]
fn lines_of_both_formats_have_the_same_attributes() {
    let written = |format| {
        let mut text = String::new();
        line().write(format, &mut text);
        text
    };
    let json: serde_json::Map<String, Value> = serde_json::from_str(&written(Format::Json)).unwrap();
    let text = written(Format::Text);
    assert!(json.iter().all(|(name, _)| text.contains(&format!("{name}="))), "{text}");
    assert!(text.contains("mesh.source.identity=spiffe://cluster.local/ns/shop/sa/front "), "{text}");
    assert_eq!(json["timestamp"], "1970-01-01T00:00:00.000Z");
}

/// A standard output of some kind.
struct Out {
    text: Vec<u8>,
    is_closed: bool,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_cannot_be_written_is_counted() {
    for is_closed in [false, true] {
        let metrics = Metrics::new(1);
        let (sender, lines) = queue(&metrics);
        (0..3).for_each(|_| sender.send(line()));
        drop(sender);
        let (written, unwritten) = (metrics.counter("written", &[]), metrics.counter("unwritten", &[]));
        let mut out = Out { text: Vec::new(), is_closed };
        writer::write(&lines, Format::Json, &mut out, &written, &unwritten);
        let counted = if is_closed { "unwritten 3" } else { "\nwritten 3" };
        assert!(format!("\n{}", metrics.render()).contains(counted), "{}", metrics.render());
        let lines = String::from_utf8(out.text).unwrap().lines().count();
        assert_eq!(lines, if is_closed { 0 } else { 3 });
    }
}
