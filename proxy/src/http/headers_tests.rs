//! The rules of forwarding, field by field.

use super::*;

fn headers(list: &[(&str, &str)]) -> HeaderMap {
    list.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap())).collect()
}

#[test]
fn hop_by_hop_fields_go() {
    let mut map = headers(&[
        ("connection", "close, X-Mine, te"),
        ("x-mine", "1"),
        ("keep-alive", "5"),
        ("te", "gzip;q=1, trailers"),
        ("upgrade", "h2c"),
        ("x-forwarded-for", "1.2.3.4"),
    ]);
    strip_hop_by_hop(&mut map);
    assert_eq!(map, headers(&[("te", "trailers"), ("x-forwarded-for", "1.2.3.4")]));
}

#[test]
fn what_is_no_text_switches_no_rule_off() {
    let mut map = headers(&[("x-secret", "1"), ("upgrade", "h2c")]);
    map.insert("connection", HeaderValue::from_bytes(b"x-secret, \xff, upgrade").unwrap());
    map.insert("upgrade", HeaderValue::from_bytes(b"h2c, \xff").unwrap());
    let mut request = Request::new(());
    *request.headers_mut() = map;
    assert!(!wants_upgrade(&request));
    strip_hop_by_hop(request.headers_mut());
    assert!(request.headers().is_empty(), "{request:?}");
}

#[test]
fn words_of_other_meshes_about_the_caller_go() {
    let mut map = headers(&[
        ("X-Forwarded-Client-Cert", "By=a;URI=spiffe://evil"),
        ("x_forwarded_client_cert", "1"),
        ("l5d-client-id", "admin"),
        ("l5d_remote", "1"),
        ("x-forwarded-for", "1.2.3.4"),
        ("l5data", "2"),
    ]);
    strip_foreign_identities(&mut map);
    assert_eq!(map, headers(&[("x-forwarded-for", "1.2.3.4"), ("l5data", "2")]));
}

#[test]
fn ours_are_taken_from_strangers() {
    let mut map = headers(&[("mesh-orig-proto", "HTTP/1.0"), ("mesh-timeout", "1"), ("mesh_id", "1"), ("meshed", "2")]);
    assert_eq!(take_mesh(&mut map).unwrap(), "1");
    assert_eq!(map, headers(&[("meshed", "2")]));
    assert_eq!(take_mesh(&mut map), None);
}

#[test]
fn cookies_are_one_field_in_http1_and_values_are_what_http1_reads() {
    let mut request = Request::get("http://web/").version(Version::HTTP_2).header("cookie", "a=1");
    request = request.header("cookie", "b=2").header("x", " a b\t").header("y", " ");
    let mut request = request.body(()).unwrap();
    trim_values(request.headers_mut());
    to_h1_form(&mut request, Version::HTTP_11, None).unwrap();
    assert_eq!(*request.headers(), headers(&[("cookie", "a=1; b=2"), ("host", "web"), ("x", "a b"), ("y", "")]));
}

#[test]
fn a_peer_names_one_version_and_makes_no_tunnel_of_a_shared_connection() {
    for (method, named, version) in [
        ("GET", &[][..], Some(Version::HTTP_2)),
        ("CONNECT", &[], Some(Version::HTTP_2)),
        ("GET", &["HTTP/1.0"], Some(Version::HTTP_10)),
        ("GET", &["HTTP/1.1"], Some(Version::HTTP_11)),
        ("GET", &["HTTP/1.1", "HTTP/1.0"], None),
        ("GET", &["HTTP/2"], None),
        ("CONNECT", &["HTTP/1.1"], None),
    ] {
        let request = Request::builder().method(method).uri("web:80");
        let request = named.iter().fold(request, |request, one| request.header(ORIG_PROTO, *one));
        assert_eq!(take_orig_proto(&mut request.body(()).unwrap()).ok(), version, "{method} {named:?}");
    }
}

#[test]
fn what_leaves_http_is_an_upgrade_and_h2c_is_none() {
    for (upgrade, connection, wants) in [
        ("websocket", "keep-alive, Upgrade", true),
        ("websocket", "keep-alive", false),
        ("h2c", "Upgrade, HTTP2-Settings", false),
        ("foo, H2C", "upgrade", false),
    ] {
        let request = Request::get("/").header("upgrade", upgrade).header("connection", connection);
        assert_eq!(wants_upgrade(&request.body(()).unwrap()), wants, "{upgrade}; {connection}");
    }
}

#[test]
fn grpc_web_is_not_grpc() {
    for (kind, grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;charset=x", true),
        ("application/grpc-web+proto", false),
    ] {
        assert_eq!(is_grpc(&headers(&[("content-type", kind)])), grpc, "{kind}");
    }
}

#[test]
fn an_authority_is_one() {
    let ask = |uri: &str, hosts: &[&str]| {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        authority(&request.body(()).unwrap()).map(|a| a.map(|a| a.to_string())).map_err(|e| e.reason)
    };
    assert_eq!(ask("/", &["web:80"]), Ok(Some("web:80".into())));
    assert_eq!(ask("http://web/", &["WEB:80"]), Ok(Some("web".into())));
    assert_eq!(ask("/", &[]), Ok(None));
    for (uri, hosts) in [
        ("/", &["a", "b"][..]),
        ("http://a/", &["b"]),
        ("http://u@a/", &["a"]),
        ("/", &["u@a"]),
        ("/", &["a,b"]),
        ("/", &["a b"]),
    ] {
        assert_eq!(ask(uri, hosts), Err(Reason::BadRequest), "{uri} {hosts:?}");
    }
}

#[test]
fn forms_round_trip() {
    let mut request =
        Request::builder().uri("/a?b=c").header("host", "web.shop:8080").version(Version::HTTP_11).body(()).unwrap();
    let named = authority(&request).unwrap();
    to_h2_form(&mut request, named).unwrap();
    assert_eq!(request.uri(), "http://web.shop:8080/a?b=c");
    to_h1_form(&mut request, Version::HTTP_11, None).unwrap();
    assert_eq!(
        (request.uri().to_string(), &request.headers()["host"]),
        ("/a?b=c".into(), "web.shop:8080".parse::<HeaderValue>().as_ref().unwrap())
    );
}

#[test]
fn absolute_form_goes_on_as_such_if_it_is_asked_for() {
    for (keeps, written) in [(false, "/a?b"), (true, "https://new.example/a?b")] {
        let uri = "https://old.example/a?b";
        let mut request = Request::get(uri).header("host", "old.example").version(Version::HTTP_11).body(()).unwrap();
        assert!(is_absolute_form(&request));
        if keeps {
            keep_absolute_form(request.headers_mut());
        }
        let edited = Some(Authority::from_static("new.example"));
        to_h2_form(&mut request, edited.clone()).unwrap();
        to_h1_form(&mut request, Version::HTTP_11, edited).unwrap();
        assert_eq!(request.uri().to_string(), written);
        assert_eq!(*request.headers(), headers(&[("host", "new.example")]));
    }
}

#[test]
fn a_426_names_its_protocols_on_every_way() {
    for (version, is_peer, name) in [
        (Version::HTTP_11, true, Some("upgrade")),
        (Version::HTTP_2, true, Some("mesh-upgrade")),
        (Version::HTTP_2, false, None),
    ] {
        let response = |name: &str| Response::builder().status(426).header(name, "websocket").body(()).unwrap();
        let mut out = response("upgrade");
        let to = take_upgrade_to(&mut out, false);
        strip_hop_by_hop(out.headers_mut());
        give_upgrade_to(&mut out, to, version, is_peer);
        assert_eq!(out.headers().keys().next().map(HeaderName::as_str), name);
        assert_eq!(take_upgrade_to(&mut response("mesh-upgrade"), is_peer).is_some(), is_peer, "others may not set it");
    }
    assert_eq!(take_upgrade_to(&mut Response::builder().header("upgrade", "h2c").body(()).unwrap(), false), None);
}
