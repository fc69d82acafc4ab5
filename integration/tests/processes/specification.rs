//! The requests of `data/explain`, whose answers were written from the specification, sent through a real proxy by
//! HTTP/1.1, HTTP/2 and as gRPC. `meshctl test` decides the same files: decision, explanation and proxy must agree.
//!
//! What no caller can see (names of rules, time limits, mirrors) is `meshctl test`'s alone; connections (`tcp://`, `tls://`)
//! are sent by `connection_routes.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use super::specification_judge::{Seen, judge, texts};
use crate::support::{App, Grpc, H1, Mesh, TEST_WAIT, grpc_message};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_integration::harness::{Meshed, Proxy, ProxyConfig, eventually, free_port, http_get};
use serde_json::{Value, json};

/// Requests sent where several backends have a share: one of a tenth is missed once in 10^13 times.
const SHARED: usize = 300;
/// Fewer are a sign that the files were not read.
const LEAST: usize = 200;

/// A server that says who it is and what it was sent, whatever it is sent.
async fn server(name: &str) -> App {
    let name: std::sync::Arc<str> = name.into();
    App::start(move |stream| {
        let name = name.clone();
        async move {
            let answer = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                let (name, mut headers) = (name.clone(), BTreeMap::<String, Vec<String>>::new());
                for (header, value) in request.headers() {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    headers.entry(header.to_string()).or_default().push(value);
                }
                let host = request.uri().authority().map(ToString::to_string);
                let host = host.or_else(|| headers.get("host").map(|host| host[0].clone()));
                let path = request.uri().path_and_query().map(ToString::to_string);
                let body = json!({"name": &*name, "host": host, "path": path, "headers": headers}).to_string();
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::from(body))) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        }
    })
    .await
}

/// A file of tests on its stage: a server for each Service, a sidecar for each namespace that calls.
struct Stage {
    name: String,
    tests: Vec<Value>,
    /// Ports of sidecars by namespace and authority.
    entries: BTreeMap<(String, String), SocketAddr>,
    _proxies: Vec<Proxy>,
    _servers: Vec<App>,
    _mesh: Mesh,
}

impl Stage {
    async fn new(file: &Path) -> Self {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        // As for manifests: `y` is a text.
        let options = serde_saphyr::options! { strict_booleans: true };
        let text = std::fs::read_to_string(file).unwrap();
        let read: Value = serde_saphyr::from_str_with_options(&text, options).unwrap();
        let mesh = Mesh::start().await;
        let mut servers = Vec::new();
        for (n, object) in read["objects"].as_array().unwrap().iter().enumerate() {
            mesh.manifests.write(&format!("object-{n:03}"), &object.to_string()).unwrap();
            if object["kind"] == "Service" {
                // An ExternalName has no ports, and no endpoints.
                if let Some(slice) = slice(object, &mut servers).await {
                    mesh.manifests.write(&format!("slice-{n:03}"), &slice.to_string()).unwrap();
                }
            }
        }
        let tests: Vec<Value> =
            read["tests"].as_array().unwrap().iter().filter(|test| is_request(test)).cloned().collect();
        let callers: BTreeSet<(String, String)> = tests.iter().map(|test| (from(test), authority(test))).collect();
        let (mut entries, mut proxies) = (BTreeMap::new(), Vec::new());
        for namespace in callers.iter().map(|(namespace, _)| namespace).collect::<BTreeSet<_>>() {
            mesh.manifests.pod(namespace, "caller", "caller", "caller", Meshed::Yes).unwrap();
            let targets = callers.iter().filter(|(n, _)| n == namespace).map(|(_, authority)| authority);
            let outbound: Vec<_> = targets.map(|authority| (free_port(), authority.clone())).collect();
            for (port, authority) in &outbound {
                let entry = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                entries.insert((namespace.clone(), authority.clone()), entry);
            }
            let workload = format!("{namespace}/caller");
            let config = ProxyConfig { workload, inbound: Vec::new(), outbound, env: Vec::new() };
            proxies.push(Proxy::start(&mesh.sandbox, &mesh.controller, config).await.unwrap());
        }
        Self { name, tests, entries, _proxies: proxies, _servers: servers, _mesh: mesh }
    }
}

/// The endpoints of a Service: one server for each of its ports, all with the Service's name and the port.
async fn slice(service: &Value, servers: &mut Vec<App>) -> Option<Value> {
    let metadata = &service["metadata"];
    let (name, namespace) = (metadata["name"].as_str()?, metadata["namespace"].as_str().unwrap_or("default"));
    let mut ports = Vec::new();
    for port in service["spec"]["ports"].as_array()? {
        let app = server(&format!("{namespace}/{name}:{}", port["port"])).await;
        ports.push(
            json!({"name": port["name"].as_str().unwrap_or_default(), "port": app.address.port(), "protocol": "TCP"}),
        );
        servers.push(app);
    }
    Some(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}], "ports": ports}))
}

fn url(test: &Value) -> &str {
    test["request"]["url"].as_str().unwrap()
}

fn is_request(test: &Value) -> bool {
    url(test).starts_with("http://")
}

fn from(test: &Value) -> String {
    test["from"].as_str().unwrap_or("default").to_owned()
}

fn host_of(test: &Value) -> &str {
    url(test).trim_start_matches("http://").split('/').next().unwrap()
}

fn authority(test: &Value) -> String {
    let host = host_of(test);
    if host.contains(':') { host.to_owned() } else { format!("{host}:80") }
}

fn path_of(test: &Value) -> String {
    if let Some(call) = test["request"]["grpc"].as_str() {
        return format!("/{call}");
    }
    match url(test).trim_start_matches("http://").split_once('/') {
        Some((_, path)) => format!("/{path}"),
        None => "/".to_owned(),
    }
}

fn method_of(test: &Value) -> &str {
    let default = if test["request"]["grpc"].is_string() { "POST" } else { "GET" };
    test["request"]["method"].as_str().unwrap_or(default)
}

/// The Host and the other headers of a request.
fn headers_of(test: &Value) -> (String, Vec<(String, String)>) {
    let (mut host, mut headers) = (host_of(test).to_owned(), Vec::new());
    for (name, value) in test["request"]["headers"].as_object().into_iter().flatten() {
        for value in texts(value) {
            if name.eq_ignore_ascii_case("host") {
                host = value;
            } else {
                headers.push((name.clone(), value));
            }
        }
    }
    (host, headers)
}

async fn by_http1(entry: SocketAddr, test: &Value) -> Seen {
    let (host, headers) = headers_of(test);
    let mut request = format!("{} {} HTTP/1.1\r\nhost: {host}\r\n", method_of(test), path_of(test));
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let answer = H1::connect(entry).await.unwrap().ask(request + "\r\n").await.unwrap();
    Seen {
        status: answer.head.status,
        headers: answer.head.headers,
        body: answer.body,
        is_of_head: method_of(test) == "HEAD",
    }
}

async fn by_http2(entry: SocketAddr, test: &Value) -> Seen {
    let (host, headers) = headers_of(test);
    let mut request = http::Request::builder().method(method_of(test)).uri(format!("http://{host}{}", path_of(test)));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let grpc = test["request"]["grpc"].is_string();
    if grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let body = grpc.then(|| grpc_message(b""));
    let answer = Grpc::connect(entry).await.unwrap().exchange(request.body(()).unwrap(), body).await.unwrap().0;
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Seen {
        status: answer.status().as_u16(),
        headers: answer.headers().iter().map(header).collect(),
        body: answer.body().to_vec(),
        is_of_head: method_of(test) == "HEAD",
    }
}

/// One request, or as many as it takes to see every backend that has a share.
async fn run(stage: &Stage, test: &Value, failures: &mut Vec<String>) -> usize {
    let entry = stage.entries[&(from(test), authority(test))];
    let shares = test["expect"]["backends"].as_object();
    let with_share = |share: &&Value| share.as_f64().is_some_and(|share| share > 0.0);
    let wanted = shares.map_or(1, |shares| shares.values().filter(with_share).count());
    let mut sent = 0;
    for http2 in [false, true] {
        if test["request"]["grpc"].is_string() && !http2 {
            continue;
        }
        let mut met = BTreeSet::new();
        for _ in 0..if wanted > 1 { SHARED } else { 1 } {
            let seen = if http2 { by_http2(entry, test).await } else { by_http1(entry, test).await };
            sent += 1;
            match judge(test, &seen) {
                Ok(found) => drop(found.map(|found| met.insert(found))),
                Err(why) => {
                    let protocol = if http2 { "HTTP/2" } else { "HTTP/1.1" };
                    let body = String::from_utf8_lossy(&seen.body);
                    let (file, name) = (&stage.name, &test["name"]);
                    failures.push(format!(
                        "{file}: {name} by {protocol}: {why}: {} {:?} {body}",
                        seen.status, seen.headers
                    ));
                    return sent;
                }
            }
            if met.len() == wanted {
                break;
            }
        }
        if wanted > 1 && met.len() < wanted {
            failures.push(format!("{}: {}: only {met:?} were met", stage.name, test["name"]));
        }
    }
    sent
}

#[tokio::test]
async fn the_proxy_does_what_the_specification_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/explain");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let (mut tests, mut requests, mut failures) = (0, 0, Vec::new());
    for file in &files {
        let stage = Stage::new(file).await;
        ready(&stage).await;
        for test in &stage.tests {
            requests += run(&stage, test, &mut failures).await;
            tests += 1;
        }
    }
    println!("{tests} tests of {} files, {requests} requests, {} failed", files.len(), failures.len());
    assert!(tests >= LEAST, "{tests}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Waits until the controller has read the whole folder: every entry is answered, one that leads nowhere by the proxy.
async fn ready(stage: &Stage) {
    for ((namespace, authority), entry) in &stage.entries {
        let is_known = !stage.tests.iter().any(|test| {
            from(test) == *namespace
                && self::authority(test) == *authority
                && test["expect"]["verdict"] == "unknown-target"
        });
        let answered = async || {
            let Ok(mut connection) = H1::connect(*entry).await else { return Ok(None) };
            let Ok(answer) = connection.ask("GET /mesh-test-ready HTTP/1.1\r\nhost: ready\r\n\r\n").await else {
                return Ok(None);
            };
            let is_unknown = answer.head.proxy_error() == Some("unknown-target");
            Ok((is_unknown != is_known && answer.head.proxy_error() != Some("no-endpoints")).then_some(()))
        };
        eventually(&format!("{namespace} to know {authority}"), TEST_WAIT, answered).await.unwrap();
    }
    let controller = &stage._mesh.controller.addresses;
    assert_eq!(http_get(controller.metrics, "/ready").await.unwrap().status, 200);
}
