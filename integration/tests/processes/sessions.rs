//! Sessions that stay with a pod: the examples of docs/sessions.md.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::support::{Answer, Client, H1, Mesh, Server, TEST_WAIT};
use mesh_integration::harness::eventually;

/// What the page for users shows is what is tried here.
const PAGE: &str = include_str!("../../../docs/sessions.md");

/// The first example of the page with this text in it.
fn example(text: &str) -> &'static str {
    let mut blocks = PAGE.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(text)).unwrap_or_else(|| panic!("no example has {text}"))
}

/// Two replicas of each of two versions.
struct Stage {
    client: Client,
    mesh: Mesh,
    servers: Vec<Server>,
}

impl Stage {
    async fn new(route: &str) -> Self {
        let mesh = Mesh::start().await;
        for service in ["web", "web-v1", "web-v2"] {
            mesh.service(service, None);
        }
        let mut servers = Vec::new();
        for (service, pod) in [("web-v1", "v1-1"), ("web-v1", "v1-2"), ("web-v2", "v2-1"), ("web-v2", "v2-2")] {
            servers.push(mesh.server(service, pod, &[]).await);
        }
        mesh.manifests.write("route", route).unwrap();
        let client = mesh.client(&["web.shop:80", "web-v1.shop:80", "web-v2.shop:80"]).await;
        for (service, entry) in [("shop/web-v1:80", client.ports[1]), ("shop/web-v2:80", client.ports[2])] {
            mesh.until_endpoints(service, entry, &client, 2).await;
        }
        Self { client, mesh, servers }
    }
}

/// Asks with one more header line, which may be empty.
async fn ask(entry: SocketAddr, path: &str, line: &str) -> Answer {
    let mut connection = H1::connect(entry).await.unwrap();
    let line = if line.is_empty() { String::new() } else { format!("{line}\r\n") };
    connection.ask(format!("GET {path} HTTP/1.1\r\nhost: web.shop\r\n{line}\r\n")).await.unwrap()
}

/// The pod that answered, be it that it does not know the path.
fn pod(answer: &Answer) -> String {
    answer.head.get("x-version").unwrap_or_else(|| panic!("no test server answered: {answer:?}")).to_owned()
}

/// Asks until the response carries a header.
async fn begun(entry: SocketAddr, path: &str, header: &str) -> Answer {
    let given = async || {
        let answer = ask(entry, path, "").await;
        Ok(answer.head.get(header).is_some().then_some(answer))
    };
    eventually(&format!("a response with {header}"), TEST_WAIT, given).await.unwrap()
}

/// `name=TOKEN` of a response's cookie.
fn cookie(answer: &Answer) -> String {
    let cookie = answer.head.get("set-cookie").expect("a session begins");
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_cookie_stays_with_its_pod() {
    let stage = Stage::new(example("sessionName: cart")).await;
    let entry = stage.client.entry();
    let first = begun(entry, "/cart", "set-cookie").await;
    let given = first.head.get("set-cookie").unwrap();
    let token = given.strip_prefix("cart=").and_then(|rest| rest.strip_suffix("; Path=/cart; HttpOnly; SameSite=Lax"));
    let token = token.unwrap_or_else(|| panic!("{given}"));
    assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{given}");
    let (home, session) = (pod(&first), format!("cookie: other=1; {}", cookie(&first)));

    // Another proxy, which never saw the session begin, understands it.
    let other = stage.mesh.client(&["web.shop:80"]).await;
    for entry in [entry, other.entry()] {
        for _ in 0..40 {
            let answer = ask(entry, "/cart/1", &session).await;
            assert_eq!((pod(&answer), answer.head.get("set-cookie")), (home.clone(), None));
        }
    }
    let mut pods = BTreeSet::new();
    for _ in 0..100 {
        let answer = ask(entry, "/cart", "").await;
        pods.insert(pod(&answer));
        assert!(answer.head.get("set-cookie").is_some(), "who has no session is given one");
    }
    // Of two pods of a version the quicker one may get all that comes one by one.
    assert!(pods.len() > 1, "without the cookie others serve, too: {pods:?}");
    let without = ask(entry, "/", &session).await;
    assert!(
        pod(&without).starts_with("v1-") && without.head.get("set-cookie").is_none(),
        "another rule has no sessions"
    );

    // Rubbish is as nothing: served, with a new session.
    let zeros = "0".repeat(32);
    for bad in ["", "x", "\u{e9}", &zeros, &token[..31], &format!("{token}0")] {
        let answer = ask(entry, "/cart", &format!("cookie: cart={bad}")).await;
        assert!(!pod(&answer).is_empty() && answer.head.get("set-cookie").is_some(), "{bad}: {answer:?}");
    }
}

#[tokio::test]
async fn a_session_outlives_its_pod_somewhere_else() {
    let mut stage = Stage::new(example("sessionName: cart")).await;
    let entry = stage.client.entry();
    let first = begun(entry, "/cart", "set-cookie").await;
    let (home, session) = (pod(&first), format!("cookie: {}", cookie(&first)));
    // The application dies: its sidecar refuses what it cannot hand over.
    let dead = stage.servers.iter_mut().find(|server| server.pod == home).expect("it is one of ours");
    drop(dead.origin.take());
    let answer = ask(entry, "/cart", &session).await;
    let (next, moved) = (pod(&answer), format!("cookie: {}", cookie(&answer)));
    assert_ne!(next, home);
    for _ in 0..20 {
        let answer = ask(entry, "/cart", &moved).await;
        assert_eq!((pod(&answer), answer.head.get("set-cookie")), (next.clone(), None));
    }
    // The pod leaves its Service.
    let gone = stage.servers.iter().find(|server| server.pod == next).expect("it is one of ours");
    stage.mesh.remove_endpoint(&gone.service, &gone.pod);
    let left = async || {
        let answer = ask(entry, "/cart", &moved).await;
        // Of its own version only the dead one is left, which nobody can be served by.
        let is_served = answer.head.get("x-version").is_some_and(|pod| pod != next);
        Ok((is_served && answer.head.get("set-cookie").is_some()).then_some(()))
    };
    eventually("the session to begin anew elsewhere", TEST_WAIT, left).await.unwrap();
}

#[tokio::test]
async fn a_version_without_weight_keeps_no_sessions() {
    let stage = Stage::new(example("sessionName: cart")).await;
    let entry = stage.client.entry();
    let on_v2 = async || {
        let answer = ask(entry, "/cart", "").await;
        Ok((answer.head.get("set-cookie").is_some() && pod(&answer).starts_with("v2-")).then_some(answer))
    };
    let first = eventually("a session with the second version", TEST_WAIT, on_v2).await.unwrap();
    let session = format!("cookie: {}", cookie(&first));
    assert_eq!(pod(&ask(entry, "/cart", &session).await), pod(&first));
    let drained = example("sessionName: cart").replace("web-v2, port: 80, weight: 50", "web-v2, port: 80, weight: 0");
    stage.mesh.manifests.write("route", &drained).unwrap();
    let moved = async || {
        let answer = ask(entry, "/cart", &session).await;
        Ok((pod(&answer).starts_with("v1-") && answer.head.get("set-cookie").is_some()).then_some(()))
    };
    eventually("the session to leave the version that has no weight", TEST_WAIT, moved).await.unwrap();
}

#[tokio::test]
async fn as_v1_7_has_it_the_weights_choose_the_backend_and_the_session_its_pod() {
    let old = example("sessionName: cart");
    let stage = Stage::new(&old.replace("sessionName: cart, type: Cookie", "cookie: {name: cart}")).await;
    let entry = stage.client.entry();
    let first = begun(entry, "/cart", "set-cookie").await;
    assert!(first.head.get("set-cookie").unwrap().ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{first:?}");
    let (home, session) = (pod(&first), format!("cookie: {}", cookie(&first)));
    let mut elsewhere = 0;
    for _ in 0..100 {
        let answer = ask(entry, "/cart", &session).await;
        let is_known = answer.head.get("set-cookie").is_none();
        if pod(&answer)[..3] == home[..3] {
            assert_eq!((pod(&answer), is_known), (home.clone(), true));
        } else {
            assert!(!is_known, "a session of its own with the other version: {answer:?}");
            elsewhere += 1;
        }
    }
    // Half: six standard deviations are 30.
    assert!((20..=80).contains(&elsewhere), "{elsewhere}");
}

#[tokio::test]
async fn headers_and_permanent_cookies() {
    let stage = Stage::new(example("type: Header")).await;
    let entry = stage.client.entry();
    let first = begun(entry, "/", "x-session").await;
    let (home, token) = (pod(&first), first.head.get("x-session").unwrap().to_owned());
    assert!(first.head.get("set-cookie").is_none());
    for _ in 0..40 {
        let answer = ask(entry, "/", &format!("x-session: {token}")).await;
        assert_eq!((pod(&answer), answer.head.get("x-session")), (home.clone(), None));
    }
    // Of long ago: as if it were not there.
    let old = ask(entry, "/", &format!("x-session: 00000001{}", &token[8..])).await;
    assert!(old.head.get("x-session").is_some_and(|new| !new.starts_with("00000001")), "{old:?}");

    stage.mesh.manifests.write("route", example("lifetimeType: Permanent")).unwrap();
    let given = begun(entry, "/", "set-cookie").await;
    let given = given.head.get("set-cookie").unwrap();
    assert!(given.starts_with("web=") && given.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=86400"), "{given}");
}
