//! The gRPC service `Policy`: what a proxy must know about a target or about a port of its own workload.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use mesh_policy::{Identity, InboundPolicy, OutboundPolicy, Target};
use mesh_proto::{
    RouteDelta,
    v1::{self, policy_server},
};
use mesh_resources::{Depends, Key, is_private};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    cache::Cache,
    caller,
    compiler::Compiler,
    follow::{Changes, Step, Turn, follow},
    index::{Published, look},
    metrics::Metrics,
    revisions::Revisions,
    stalled::Endings,
    streams::About,
    topics::{Topic, Topics},
};

/// Serves policies from the index.
#[derive(Clone, Debug)]
pub struct PolicyService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: watch::Receiver<Arc<Published>>,
    topics: Topics,
    endings: Endings,
    metrics: Arc<Metrics>,
    compiler: Compiler,
    /// By target as asked for and namespace of the client.
    outbound: Cache<(String, String), OutboundPolicy>,
    /// By workload, port, and the port that is listed for it.
    inbound: Cache<(String, u16, u16), InboundPolicy>,
}

impl PolicyService {
    /// Streams end when `endings` says so.
    pub fn new(
        index: watch::Receiver<Arc<Published>>,
        topics: Topics,
        endings: impl Into<Endings>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let endings = endings.into();
        let outbound = Cache::new(metrics.compilations.clone());
        let inbound = Cache::new(metrics.compilations.clone());
        let compiler = Compiler::start();
        Self { shared: Arc::new(Shared { index, topics, endings, metrics, compiler, outbound, inbound }) }
    }
}

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl policy_server::Policy for PolicyService {
    type OutboundStream = Updates<v1::OutboundPolicy>;
    type InboundStream = Updates<v1::InboundPolicy>;

    async fn outbound(&self, request: Request<v1::OutboundRequest>) -> Result<Response<Self::OutboundStream>, Status> {
        let (caller, peer) = (caller::identity(&request)?, caller::peer(&request)?);
        let v1::OutboundRequest { target, workload, deltas, unowned } = request.into_inner();
        caller::check_length("target", &target)?;
        let shared = self.shared.clone();
        let world = shared.index.borrow().clone();
        caller::check_workload(&world, &caller, &workload)?;
        let key = (target.to_ascii_lowercase(), caller.namespace().to_owned());
        let depends = world.snapshot.depends(&key.0, &key.1);
        let turn = shared.turn(&caller);
        let changes = Changes(topics(&depends, &turn.namespace).map(|topic| shared.topics.follow(topic)).collect());
        let (asked, client) = (key.clone(), turn.namespace.clone());
        let name = key.0.clone();
        let compile = Arc::new(move |world: &Published| {
            let compiled = shared.outbound.get(world.version, &client, key.clone(), |(target, namespace)| {
                let target = world.snapshot.resolve(target, namespace)?;
                Some(world.snapshot.outbound_policy(&target, namespace))
            });
            let policy = compiled.ok_or_else(|| not_found(&target))?;
            match policy.target {
                // Who has a public address is no standing question: thousands of them are called.
                Target::Outside(address) if !unowned || !is_private(address.ip()) => Err(not_found(&target)),
                // Not NOT_FOUND, which a proxy that does not understand more takes for outside of the mesh.
                Target::Unknown(_) if !unowned => Err(Status::unavailable(format!(
                    "it is not known who has {target}, an address of the cluster; ask again"
                ))),
                _ => Ok(policy),
            }
        });
        // Said at once, as the answer to the call, so that the proxy need not read a stream to learn it.
        let first = compile.clone();
        turn.take(move || first(&world).map(drop)).await.ok_or_else(failed)??;
        let open = peer.open(&workload, About::Outbound(name), &self.shared.endings.of(peer.address))?;
        let wire = move |last: Option<&OutboundPolicy>, now: &OutboundPolicy, changed: Revisions, seen: Revisions| {
            let delta = last.filter(|_| deltas).and_then(|last| RouteDelta::between(last, now));
            let message = match delta {
                Some(delta) => v1::OutboundPolicy { delta: Some((&delta).into()), ..Default::default() },
                None => now.into(),
            };
            v1::OutboundPolicy { changed: changed.wire(), seen: seen.wire(), ..message }
        };
        let is_followed = move |world: &Published| world.snapshot.depends(&asked.0, &asked.1) == depends;
        let compile = move |world: &Published| compile(world);
        let step = step(self.shared.index.clone(), is_followed, compile, wire);
        let stream = follow(changes, open, &self.shared.metrics.outbound, turn, step);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn inbound(&self, request: Request<v1::InboundRequest>) -> Result<Response<Self::InboundStream>, Status> {
        let (caller, peer) = (caller::identity(&request)?, caller::peer(&request)?);
        let v1::InboundRequest { workload, port, listed_port } = request.into_inner();
        let number = |number| {
            let port = u16::try_from(number).ok().filter(|port| *port != 0);
            port.ok_or_else(|| Status::invalid_argument(format!("port {number} is not from 1 to 65535")))
        };
        let port = number(port)?;
        let listed = if listed_port == 0 { port } else { number(listed_port)? };
        let shared = self.shared.clone();
        let world = shared.index.borrow().clone();
        caller::check_workload(&world, &caller, &workload)?;
        let (namespace, name) = workload.split_once('/').unwrap_or_default();
        let changes = Changes(vec![shared.topics.follow(Topic::Pod(Key::new(namespace, name)))]);
        let turn = shared.turn(&caller);
        let open = peer.open(&workload, About::Inbound(port, listed), &self.shared.endings.of(peer.address))?;
        let (key, client) = ((workload.clone(), port, listed), turn.namespace.clone());
        let compile = move |world: &Published| {
            let compile = |(workload, port, listed): &(String, u16, u16)| {
                world.snapshot.compile_inbound(workload, *port, *listed)
            };
            let gone = || Status::not_found(format!("the pod {workload} is gone; its last policy stays in force"));
            shared.inbound.get(world.version, &client, key.clone(), compile).ok_or_else(gone)
        };
        let wire = |_: Option<&InboundPolicy>, now: &InboundPolicy, _, _| v1::InboundPolicy::from(now);
        let step = step(self.shared.index.clone(), |_: &Published| true, compile, wire);
        let stream = follow(changes, open, &self.shared.metrics.inbound, turn, step);
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Shared {
    fn turn(&self, caller: &Identity) -> Turn {
        Turn { compiler: Some(self.compiler.clone()), namespace: caller.namespace().into() }
    }
}

/// The topics of what an answer for clients of a namespace depends on.
fn topics(depends: &[Depends], client: &Arc<str>) -> impl Iterator<Item = Topic> {
    let topic = |depends: &Depends| match depends {
        Depends::Policies(service) => Topic::Policies(service.clone(), client.clone()),
        Depends::Address(ip) => Topic::Address(*ip),
        Depends::Endpoints(service) => Topic::Service(service.clone()),
    };
    // What everything depends on is told of each topic.
    let nothing = depends.is_empty().then_some(Topic::Everything);
    depends.iter().map(topic).chain(nothing)
}

fn failed() -> Status {
    Status::internal("the answer could not be found out; ask again")
}

fn not_found(target: &str) -> Status {
    Status::not_found(format!(
        "{target} is no Service port and no pod; check the name, its namespace and the port, or ask again once it is there"
    ))
}

/// Sends what really changed. A stream ends where its answer depends on something else than what it follows (`is_followed`),
/// as an alias that names another Service now: the proxy asks again, and keeps what it has meanwhile. `wire` says it to who was
/// told the value before, if any, with what this replica has seen.
fn step<M, W>(
    index: watch::Receiver<Arc<Published>>,
    is_followed: impl Fn(&Published) -> bool + Send + 'static,
    compile: impl Fn(&Published) -> Result<Arc<M>, Status> + Send + 'static,
    wire: impl Fn(Option<&M>, &M, Revisions, Revisions) -> W + Send + 'static,
) -> impl FnMut() -> Step<W> + Send + 'static
where
    M: PartialEq + Send + Sync + 'static,
{
    let mut last: Option<Arc<M>> = None;
    move || {
        let (world, seen) = look(&index);
        if !is_followed(&world) {
            return Step::End(Status::unavailable("what the target stands for has changed; ask again"));
        }
        let now = match compile(&world) {
            Ok(now) => now,
            Err(status) => return Step::End(status),
        };
        let same = last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &now) || last == &now);
        if same {
            return Step::Same;
        }
        let message = wire(last.as_deref(), &now, world.changed, seen);
        last = Some(now);
        Step::Send(message)
    }
}
