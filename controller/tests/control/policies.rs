//! What proxies are told of policies and endpoints: what is in force, each change of it, and nothing of what is broken.

use std::time::Duration;

use mesh_policy::{OutboundPolicy, Protocol, Target};
use mesh_proto::{
    EndpointsDelta, RouteDelta,
    v1::{self, destination_client::DestinationClient, policy_client::PolicyClient},
};
use prost::Message;
use tonic::Code;

use crate::{
    ask, code_of,
    common::{Fixture, LIMIT, WORLD, next, route, slice},
    web, weights,
};

#[tokio::test]
async fn one_rule_of_a_thousand_routes_is_sent_alone_to_who_asks_for_changes() {
    let f = Fixture::start(&[]).await;
    let route = |n: usize, backend: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{n}, namespace: shop}}\nspec:\n  \
             parentRefs: [{{kind: Service, group: \"\", name: web, port: 80}}]\n  rules:\n  \
             - matches: [{{path: {{type: PathPrefix, value: /part-{n}}}}}]\n    backendRefs: [{{name: {backend}, port: 80}}]\n"
        )
    };
    let others: Vec<String> = (0..999).map(|n| route(n, "web")).collect();
    f.write("others.yaml", &others.join("---\n"));
    f.write("route.yaml", &route(999, "web"));
    let mut client = PolicyClient::new(f.proxy("shop.client").await);
    let request = v1::OutboundRequest { deltas: true, ..ask("web:80", "shop/client").into_inner() };
    let mut changes = client.outbound(request).await.unwrap().into_inner();
    let mut wholes = client.outbound(ask("web.shop:80", "shop/client")).await.unwrap().into_inner();

    // The first is whole; what the folder had not shown by then follows.
    let mut held = OutboundPolicy::try_from(next(&mut changes).await).unwrap();
    while held.routes.routes().len() < 1_000 {
        held = match next(&mut changes).await {
            v1::OutboundPolicy { delta: Some(delta), .. } => RouteDelta::try_from(delta).unwrap().apply(&held).unwrap(),
            whole => OutboundPolicy::try_from(whole).unwrap(),
        };
    }
    let mut whole = next(&mut wholes).await;
    while whole.routes.len() < 1_000 {
        whole = next(&mut wholes).await;
    }

    f.write("route.yaml", &route(999, "web-v2"));
    let change = next(&mut changes).await;
    let whole = next(&mut wholes).await;
    let (small, large) = (change.encoded_len(), whole.encoded_len());
    println!("{small} bytes instead of {large}");
    assert!(small * 50 < large, "{small} of {large}");
    let delta = RouteDelta::try_from(change.delta.expect("only what changed")).unwrap();
    assert_eq!((delta.upsert.len(), delta.removed.len()), (1, 0));
    assert_eq!(delta.apply(&held).unwrap(), OutboundPolicy::try_from(whole).unwrap());
    assert!(f.page("/metrics").await.1.contains("mesh_controller_policy_bytes_total{kind=\"outbound\"}"));
}

#[tokio::test]
async fn an_edit_of_weights_reaches_a_proxy_and_a_broken_file_changes_nothing() {
    let f = Fixture::start(&[]).await;
    let mut client = PolicyClient::new(f.proxy("shop.client").await);
    let mut stream = client.outbound(ask("web:80", "shop/client")).await.unwrap().into_inner();
    let first = next(&mut stream).await;
    assert_eq!(weights(first), [("shop/web:80".to_owned(), 90), ("shop/web-v2:80".to_owned(), 10)]);

    f.write("route.yaml", &route(50, 50));
    assert_eq!(weights(next(&mut stream).await)[1].1, 50);

    // Broken: it is reported with its place, and the route stays. The next thing the stream says is the mended file.
    f.write("route.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: [split\n");
    let problems = f.problems(|p| p.iter().any(|p| p["reason"] == "BrokenFile")).await;
    let broken = problems.iter().find(|p| p["reason"] == "BrokenFile").unwrap();
    assert_eq!(broken["file"], "route.yaml");
    assert!(broken["line"].as_u64().unwrap() >= 3 && broken["column"].as_u64().is_some(), "{broken}");
    let mut other = client.outbound(ask("web.shop.svc.cluster.local:80", "shop/client")).await.unwrap().into_inner();
    assert_eq!(weights(next(&mut other).await)[1].1, 50, "the last good route is in force for new streams too");

    f.write("route.yaml", &route(0, 1));
    assert_eq!(weights(next(&mut stream).await), [("shop/web:80".to_owned(), 0), ("shop/web-v2:80".to_owned(), 1)]);
    f.problems(<[_]>::is_empty).await;
}

#[tokio::test]
async fn an_object_that_a_cluster_would_refuse_changes_nothing_and_is_told() {
    let f = Fixture::start(&[]).await;
    let mut client = PolicyClient::new(f.proxy("shop.client").await);
    let mut stream = client.outbound(ask("web:80", "shop/client")).await.unwrap().into_inner();
    let before = next(&mut stream).await;

    let bad = route(90, 10).replace("weight: 10", "weight: -5");
    f.write("route.yaml", &format!("# moved by a line\n{bad}"));
    let problems = f.problems(|p| !p.is_empty()).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!((&problems[0]["reason"], &problems[0]["file"]), (&"Refused".into(), &"route.yaml".into()));
    assert_eq!((&problems[0]["line"], &problems[0]["object"]), (&10.into(), &"HTTPRoute shop/split".into()));
    let what = "weight is -5; it must be 0 to 1000000; the object is refused, its earlier version stays in force";
    assert_eq!(problems[0]["what"], what);
    let mut other = client.outbound(ask("web.shop:80", "shop/client")).await.unwrap().into_inner();
    assert_eq!(weights(next(&mut other).await), weights(before), "the earlier route is in force for new streams too");

    // The open stream heard nothing of it: the next thing it says is the mended file.
    f.write("route.yaml", &route(1, 2));
    assert_eq!(weights(next(&mut stream).await)[1].1, 2);
    f.problems(<[_]>::is_empty).await;
}

#[tokio::test]
async fn endpoints_come_as_deltas() {
    let f = Fixture::start(&[]).await;
    let channel = f.proxy("shop.client").await;
    let mut stream = DestinationClient::new(channel).endpoints(web()).await.unwrap().into_inner();
    let mut delta = async || EndpointsDelta::try_from(next(&mut stream).await).unwrap();
    let first = delta().await;
    assert!(first.reset);
    assert_eq!(first.add[0].address, "127.0.0.1:8001".parse().unwrap());
    assert_eq!(first.add[0].identity.as_ref().unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(&*first.add[0].workload, "shop/web-0");
    // A change elsewhere says nothing here: the next update is that of the second replica.
    f.write("route.yaml", &route(1, 1));
    f.write("slices.yaml", &slice(&[8001, 8002]));
    let second = delta().await;
    assert!(!second.reset && second.remove.is_empty() && second.version > first.version);
    assert_eq!(second.add.iter().map(|e| e.address.port()).collect::<Vec<_>>(), [8002]);
    std::fs::remove_file(f.dir.path().join("manifests/slices.yaml")).unwrap();
    let third = delta().await;
    assert!(third.add.is_empty() && third.remove.len() == 2);
}

#[tokio::test]
async fn an_empty_backend_is_said_to_be_empty() {
    let f = Fixture::start(&[]).await;
    let channel = f.proxy("shop.client").await;
    let mut request = web();
    request.service.as_mut().unwrap().name = "web-v2".into();
    let mut stream = DestinationClient::new(channel).endpoints(request).await.unwrap().into_inner();
    let first = next(&mut stream).await;
    assert!(first.reset && first.add.is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_what_goes_ends_the_stream() {
    let f = Fixture::start(&[]).await;
    let channel = f.proxy("shop.client").await;
    assert_eq!(code_of(channel.clone(), "nothing:80", "shop/client").await, Code::NotFound);
    assert_eq!(code_of(channel.clone(), "web:81", "shop/client").await, Code::NotFound);
    assert_eq!(code_of(channel.clone(), &"x".repeat(600), "shop/client").await, Code::InvalidArgument);
    let mut client = PolicyClient::new(channel);
    let mut stream = client.outbound(ask("web-v2:80", "shop/client")).await.unwrap().into_inner();
    next(&mut stream).await;
    // By its cluster address it is the same Service.
    let mut by_ip = client.outbound(ask("10.96.0.10:80", "shop/client")).await.unwrap().into_inner();
    let policy = OutboundPolicy::try_from(next(&mut by_ip).await).unwrap();
    assert!(matches!(&policy.target, Target::Service(s) if &*s.name == "web"));
    assert_eq!(policy.protocol, Protocol::Http1);

    f.write("world.yaml", &WORLD.replace("name: web-v2", "name: web-v3"));
    let end = tokio::time::timeout(LIMIT, async {
        loop {
            if let Err(status) = stream.message().await {
                break status;
            }
        }
    });
    assert_eq!(end.await.unwrap().code(), Code::NotFound);
}

#[tokio::test]
async fn who_has_a_private_address_is_a_standing_question() {
    let f = Fixture::start(&["--cluster-networks", "10.244.0.0/16,10.96.0.0/12"]).await;
    let channel = f.proxy("shop.client").await;
    // A proxy that does not know the answer takes NOT_FOUND for outside of the mesh, and is told so of nothing else.
    for (target, expected) in [
        ("10.1.0.1:80", Code::NotFound),
        ("192.0.2.1:80", Code::NotFound),
        ("10.244.0.7:80", Code::Unavailable),
        ("10.96.0.77:80", Code::Unavailable),
        ("10.96.0.10:81", Code::Unavailable),
    ] {
        assert_eq!(code_of(channel.clone(), target, "shop/client").await, expected, "{target}");
    }
    let mut client = PolicyClient::new(channel);
    let mut answer = async |target: &str| {
        let request = v1::OutboundRequest { unowned: true, ..ask(target, "shop/client").into_inner() };
        client.outbound(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(answer("192.0.2.1:80").await.unwrap_err().code(), Code::NotFound, "of a public one it is none");
    let target = |wire| OutboundPolicy::try_from(wire).unwrap().target;
    let mut within = answer("10.96.0.10:81").await.unwrap();
    assert!(matches!(target(next(&mut within).await), Target::Unknown(_)), "no port of the Service that has it");
    let (mut outside, mut unknown) = (answer("10.1.0.1:80").await.unwrap(), answer("10.244.0.7:80").await.unwrap());
    assert!(matches!(target(next(&mut outside).await), Target::Outside(_)));
    assert!(matches!(target(next(&mut unknown).await), Target::Unknown(_)));

    let pod = |name: &str, ip: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{meshctl.dev/inject: enabled}}}}\n\
             status: {{phase: Running, podIP: {ip}}}\n---\n"
        )
    };
    f.write("late.yaml", &(pod("late-a", "10.1.0.1") + &pod("late-b", "10.244.0.7")));
    for stream in [&mut outside, &mut unknown] {
        let told = target(next(stream).await);
        assert!(matches!(&told, Target::Endpoint(endpoint) if endpoint.identity.is_some()), "{told:?}");
    }
    f.write("late.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    assert!(matches!(target(next(&mut outside).await), Target::Outside(_)));
    assert!(matches!(target(next(&mut unknown).await), Target::Unknown(_)));
}

#[tokio::test]
async fn inbound_policy_of_ones_own_workload() {
    let f = Fixture::start(&[]).await;
    let mut client = PolicyClient::new(f.proxy("shop.web-0").await);
    let request = |workload: &str, port| v1::InboundRequest { workload: workload.into(), port, listed_port: 0 };
    let mut stream = client.inbound(request("shop/web-0", 8001)).await.unwrap().into_inner();
    let policy = next(&mut stream).await;
    assert_eq!(policy.access.unwrap().kind, Some(v1::access::Kind::All(true)));
    let refused = client.inbound(request("shop/client", 80)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(client.inbound(request("shop/web-0", 0)).await.unwrap_err().code(), Code::InvalidArgument);
}

fn about(workload: &str) -> v1::WorkloadRequest {
    let workload = workload.into();
    v1::WorkloadRequest { workload, listed_ports: Vec::new(), authorization_form: mesh_proto::AUTHORIZATION_FORM }
}

const CLOSED: &str = "apiVersion: policy.meshctl.dev/v1alpha1\nkind: AuthorizationPolicy\n\
    metadata: {name: closed, namespace: shop}\n\
    spec: {targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, enforcementLevel: Network}\n";

#[tokio::test]
async fn who_may_call_a_pod_is_told_to_its_own_proxy_and_followed() {
    let f = Fixture::start(&[]).await;
    let mut client = PolicyClient::new(f.proxy("shop.web-0").await);
    let mut stream = client.workload(about("shop/web-0")).await.unwrap().into_inner();
    let mut told = async || mesh_policy::WorkloadPolicy::try_from(next(&mut stream).await).unwrap();
    assert_eq!(told().await.authorization, []);
    f.write("closed.yaml", CLOSED);
    let [policy] = &told().await.authorization[..] else { panic!("one policy") };
    assert_eq!((&*policy.name, policy.rules.len()), ("AuthorizationPolicy shop/closed", 0));
    std::fs::remove_file(f.dir.path().join("manifests/closed.yaml")).unwrap();
    assert_eq!(told().await.authorization, []);

    let refused = client.workload(about("shop/client")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    // An older proxy is not told a part of it.
    let older = v1::WorkloadRequest { authorization_form: 0, ..about("shop/web-0") };
    assert_eq!(client.workload(older).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_file_that_was_never_read_opens_nothing() {
    let mut f = Fixture::start(&[]).await;
    f.write("closed.yaml", "kind: [");
    f.restart().await;
    let mut client = PolicyClient::new(f.proxy("shop.web-0").await);
    let refused = client.workload(about("shop/web-0")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    client.outbound(ask("web:80", "shop/web-0")).await.expect("what its pods call is another matter");
    f.write("closed.yaml", CLOSED);
    let mut stream = loop {
        match client.workload(about("shop/web-0")).await {
            Ok(stream) => break stream.into_inner(),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(mesh_policy::WorkloadPolicy::try_from(next(&mut stream).await).unwrap().authorization.len(), 1);
}

#[tokio::test]
async fn one_compilation_serves_many() {
    let f = Fixture::start(&[]).await;
    let key = f.certify(&f.token("shop.client")).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let copy = (key.0.clone(), rcgen::KeyPair::try_from(key.1.serialize_der()).unwrap());
        let mut client = PolicyClient::new(f.destination(Some(copy)));
        streams.push(client.outbound(ask("web:80", "shop/client")).await.unwrap().into_inner());
    }
    for stream in &mut streams {
        next(stream).await;
    }
    f.write("route.yaml", &route(1, 2));
    for stream in &mut streams {
        assert_eq!(weights(next(stream).await)[1].1, 2);
    }
    let metrics = f.page("/metrics").await.1;
    let count = |name: &str| -> u64 {
        let line = metrics.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(count("mesh_controller_streams{kind=\"outbound\"}"), 20);
    assert_eq!(count("mesh_controller_updates_total{kind=\"outbound\"}"), 40);
    assert!(count("mesh_controller_compilations_total") <= 4, "{metrics}");
    drop(streams);
    let closed = async {
        while !f.page("/metrics").await.1.contains("mesh_controller_streams{kind=\"outbound\"} 0") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("dropped streams are forgotten");
}

#[tokio::test]
async fn a_hundred_proxies_hear_of_one_change_and_their_trust_streams_stay_open() {
    let f = Fixture::start(&[]).await;
    let key = f.certify(&f.token("shop.client")).await.unwrap();
    let mut proxies = Vec::new();
    for _ in 0..100 {
        let copy = (key.0.clone(), rcgen::KeyPair::try_from(key.1.serialize_der()).unwrap());
        let mut client = PolicyClient::new(f.destination(Some(copy)));
        let mut policies = client.outbound(ask("web:80", "shop/client")).await.unwrap().into_inner();
        next(&mut policies).await;
        let mut trust = f.identity_client().trust(v1::TrustRequest {}).await.unwrap().into_inner();
        next(&mut trust).await;
        proxies.push((policies, trust));
    }
    f.write("route.yaml", &route(3, 4));
    for (policies, _) in &mut proxies {
        assert_eq!(weights(next(policies).await)[1].1, 4);
    }
    let metrics = f.page("/metrics").await.1;
    for line in ["connections 200", "streams{kind=\"outbound\"} 100", "streams{kind=\"trust\"} 100"] {
        assert!(metrics.contains(&format!("mesh_controller_{line}\n")), "{line} in {metrics}");
    }
    assert!(metrics.contains("mesh_controller_updates_total{kind=\"trust\"} 100\n"), "{metrics}");
}
