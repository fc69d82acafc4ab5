//! Filters of routes on real processes: redirects, rewrites, CORS, and header filters of rules and of backends.

use crate::support::{Answer, Client, H1, Mesh, Server, get, metric, until_answered};

/// The HTTPRoute of the Service `web` with the text of its rules.
fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: filters, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n{rules}"
    )
}

struct Stage {
    client: Client,
    _server: Server,
    _mesh: Mesh,
}

impl Stage {
    /// One server `v1`, and a route with these rules that is in force.
    async fn new(rules: &str) -> Self {
        let mesh = Mesh::start().await;
        mesh.service("web", None);
        mesh.service("web-v1", None);
        let server = mesh.server("web-v1", "v1-1", &[]).await;
        let ready = "  - matches: [{path: {type: Exact, value: /ready}}]\n    \
            filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]\n";
        mesh.manifests.write("route", &route(&format!("{ready}{rules}"))).unwrap();
        let client = mesh.client(&["web.shop:80", "web-v1.shop:80"]).await;
        until_answered(client.entry(), "/ready", |a| a.head.status == 301).await;
        until_answered(client.ports[1], "/", |a| a.head.status == 200).await;
        Self { client, _server: server, _mesh: mesh }
    }

    async fn ask(&self, request: &str) -> Answer {
        H1::connect(self.client.entry()).await.unwrap().ask(request).await.unwrap()
    }
}

#[tokio::test]
async fn redirects_say_where_with_every_code() {
    let mut rules = String::new();
    for code in [301, 302, 303, 307, 308] {
        rules += &format!(
            "  - matches: [{{path: {{type: PathPrefix, value: /{code}}}}}]\n    filters:\n    \
             - {{type: RequestRedirect, requestRedirect: {{statusCode: {code}, scheme: https, hostname: new.example, \
             path: {{type: ReplacePrefixMatch, replacePrefixMatch: /to}}}}}}\n    \
             - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-by, value: mesh}}]}}}}\n"
        );
    }
    rules += "  - matches: [{path: {type: PathPrefix, value: /port}}]\n    \
        filters: [{type: RequestRedirect, requestRedirect: {port: 8080}}]\n";
    let stage = Stage::new(&rules).await;
    let mut connection = H1::connect(stage.client.entry()).await.unwrap();
    for code in [301, 302, 303, 307, 308] {
        for (method, body) in [("GET", ""), ("HEAD", ""), ("POST", "content-length: 4\r\n\r\nbody")] {
            let end = if body.is_empty() { "\r\n" } else { body };
            let request = format!("{method} /{code}/a?b=c HTTP/1.1\r\nhost: web.shop\r\n{end}");
            let answer = connection.ask(request).await.unwrap();
            assert_eq!(answer.head.status, code, "{answer:?}");
            assert_eq!(answer.head.get("location"), Some("https://new.example/to/a?b=c"));
            assert_eq!((answer.head.get("content-length"), answer.head.get("x-by")), (Some("0"), Some("mesh")));
            assert_eq!((answer.head.proxy_error(), answer.body.len()), (None, 0));
        }
    }
    let answer = get(stage.client.entry(), "web.shop", "/port").await.unwrap();
    assert_eq!((answer.head.status, answer.head.get("location")), (302, Some("http://web.shop:8080/port")));
    // The port that was called is the Service's, which is the scheme's own.
    let answer = get(stage.client.entry(), "web.shop", "/ready").await.unwrap();
    assert_eq!(answer.head.get("location"), Some("http://web.shop/ready"));
    let labels = ["route=\"shop/filters\"", "backend=\"\"", "response_code=\"307\""];
    assert_eq!(metric(&stage.client.proxy, "mesh_requests_total", &labels).await, 3.0);
}

#[tokio::test]
async fn backends_of_one_rule_may_answer_differently() {
    let rules = "  - backendRefs:\n    - {name: web-v1, port: 80}\n    - name: web-v1\n      port: 80\n      filters:\n      \
        - {type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 307}}\n      \
        - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: backend}]}}\n";
    let stage = Stage::new(rules).await;
    let mut connection = H1::connect(stage.client.entry()).await.unwrap();
    let mut seen = [0, 0];
    for _ in 0..200 {
        let answer = connection.ask("GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.unwrap();
        match answer.head.status {
            200 => seen[0] += 1,
            307 => {
                seen[1] += 1;
                assert_eq!(answer.head.get("location"), Some("http://new.example/1k"));
                assert_eq!((answer.head.get("x-by"), answer.head.proxy_error()), (Some("backend"), None));
            }
            _ => panic!("{answer:?}"),
        }
    }
    // Half and half: five standard deviations are 35.
    assert!(seen.iter().all(|count| (65..=135).contains(count)), "{seen:?}");
}

#[tokio::test]
async fn rewrites_change_what_the_backend_sees() {
    let rules = "  - matches: [{path: {type: PathPrefix, value: /old}}]\n    filters:\n    \
        - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}\n    \
        backendRefs: [{name: web-v1, port: 80}]\n  \
        - matches: [{path: {type: PathPrefix, value: /full}}]\n    filters:\n    \
        - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /status/418}}}\n    \
        backendRefs: [{name: web-v1, port: 80}]\n  \
        - matches: [{path: {type: PathPrefix, value: /backend}}]\n    backendRefs:\n    \
        - name: web-v1\n      port: 80\n      filters:\n      \
        - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /}}}\n";
    let stage = Stage::new(rules).await;
    let entry = stage.client.entry();
    let seen = get(entry, "web.shop", "/old?x=/old").await.unwrap().json();
    assert_eq!((&seen["uri"], &seen["headers"]["host"]), (&"/?x=/old".into(), &"inner.example".into()), "{seen}");
    let answer = get(entry, "web.shop", "/old/1k").await.unwrap();
    assert_eq!((answer.head.status, answer.body.len()), (200, 1024));
    assert_eq!(get(entry, "web.shop", "/full/a/b?c").await.unwrap().head.status, 418);
    let seen = get(entry, "web.shop", "/backend/a?x=1").await.unwrap().json();
    assert_eq!((&seen["uri"], &seen["headers"]["host"]), (&"/?x=1".into(), &"web.shop".into()), "{seen}");
    assert_eq!(get(entry, "web.shop", "/older").await.unwrap().head.proxy_error(), Some("no-route"));
}

#[tokio::test]
async fn cors_answers_preflights_and_marks_responses() {
    let rules = "  - filters:\n    - type: CORS\n      cors: {allowOrigins: [\"https://*.example\"], allowMethods: [PUT], \
        allowHeaders: [x-one], exposeHeaders: [x-version], maxAge: 60}\n    \
        - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: mesh}]}}\n    \
        backendRefs: [{name: web-v1, port: 80}]\n";
    let stage = Stage::new(rules).await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /1k HTTP/1.1\r\nhost: web.shop\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\n\
             access-control-request-headers: x-one\r\n\r\n"
        )
    };
    let answer = stage.ask(&preflight("https://a.example")).await;
    assert_eq!((answer.head.status, answer.head.proxy_error()), (204, None), "{answer:?}");
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-one"),
        ("access-control-max-age", "60"),
        ("vary", "origin"),
        ("x-by", "mesh"),
    ] {
        assert_eq!(answer.head.get(name), Some(value), "{name} of {answer:?}");
    }
    assert_eq!(answer.head.get("x-version"), None, "the backend is not asked");
    assert_eq!(answer.head.headers.iter().filter(|(name, _)| name == "vary").count(), 1);
    let refused = stage.ask(&preflight("https://example.evil")).await;
    assert_eq!((refused.head.status, refused.head.get("access-control-allow-origin")), (204, None), "{refused:?}");
    let answer = stage.ask("GET /1k HTTP/1.1\r\nhost: web.shop\r\norigin: https://a.example\r\n\r\n").await;
    assert_eq!(answer.head.get("access-control-allow-origin"), Some("https://a.example"), "{answer:?}");
    assert_eq!(answer.head.get("access-control-expose-headers"), Some("x-version"));
    let answer = get(stage.client.entry(), "web.shop", "/1k").await.unwrap();
    assert_eq!((answer.head.status, answer.head.get("access-control-allow-origin")), (200, None));
    // OPTIONS that is no preflight is the backend's.
    let answer = stage.ask("OPTIONS /1k HTTP/1.1\r\nhost: web.shop\r\norigin: https://a.example\r\n\r\n").await;
    assert_eq!((answer.head.status, answer.head.get("x-version")), (200, Some("v1-1")), "{answer:?}");
}

#[tokio::test]
async fn header_filters_of_a_backend_follow_those_of_the_rule() {
    let rules = "  - filters:\n    \
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-both, value: rule}, {name: x-rule, value: \"1\"}]}}\n    \
        - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: rule}]}}\n    \
        backendRefs:\n    - name: web-v1\n      port: 80\n      filters:\n      \
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-both, value: backend}], remove: [x-gone]}}\n      \
        - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: backend}, {name: x-backend, value: \"1\"}]}}\n";
    let stage = Stage::new(rules).await;
    let answer = stage.ask("GET / HTTP/1.1\r\nhost: web.shop\r\nx-gone: 1\r\n\r\n").await;
    let seen = answer.json()["headers"].clone();
    assert_eq!(
        (&seen["x-both"], &seen["x-rule"], seen.get("x-gone")),
        (&"backend".into(), &"1".into(), None),
        "{seen}"
    );
    // On the way back the rule's come last.
    assert_eq!((answer.head.get("x-answer"), answer.head.get("x-backend")), (Some("rule"), Some("1")), "{answer:?}");
}
