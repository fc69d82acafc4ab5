//! The gRPC service `Policy`: what a proxy must know about a target or about a port of its own workload.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use mesh_policy::{Identity, OutboundPolicy, Target, WorkloadPolicy};
use mesh_proto::{
    AUTHORIZATION_FORM, RouteDelta, for_port,
    v1::{self, policy_server},
};
use mesh_resources::{Depends, Key, is_private};
use prost::Message;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    api::{
        cache::Cache,
        caller,
        compiler::Compiler,
        follow::{Changes, CompileTurn, Step, follow},
        interest::{Interest, Interests},
        revisions::Revisions,
        server::PeerInfo,
        stalled::Endings,
        streams::About,
    },
    metrics::Metrics,
    source::index::{Published, look},
};

/// Most ports of a pod that are listed as others: far more than a proxy listens on for its application.
const MAX_LISTED: usize = 1_024;

/// Serves policies from the index.
#[derive(Clone, Debug)]
pub struct PolicyService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: watch::Receiver<Arc<Published>>,
    interests: Interests,
    endings: Endings,
    metrics: Arc<Metrics>,
    compiler: Compiler,
    /// By target as asked for and namespace of the client.
    outbound: Cache<(String, String), OutboundPolicy>,
    /// By workload and its ports that are listed as others.
    workloads: Cache<(String, Vec<(u16, u16)>), WorkloadPolicy>,
}

impl PolicyService {
    /// Streams end when `endings` says so.
    pub fn new(
        index: watch::Receiver<Arc<Published>>,
        interests: Interests,
        endings: impl Into<Endings>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let endings = endings.into();
        let outbound = Cache::new(metrics.compilations.clone());
        let workloads = Cache::new(metrics.compilations.clone());
        let compiler = Compiler::start();
        Self { shared: Arc::new(Shared { index, interests, endings, metrics, compiler, outbound, workloads }) }
    }
}

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl policy_server::Policy for PolicyService {
    type OutboundStream = Updates<v1::OutboundPolicy>;
    type InboundStream = Updates<v1::InboundPolicy>;
    type WorkloadStream = Updates<v1::WorkloadPolicy>;

    async fn outbound(&self, request: Request<v1::OutboundRequest>) -> Result<Response<Self::OutboundStream>, Status> {
        let (caller, peer) = (caller::identity(&request)?, caller::peer(&request)?);
        let v1::OutboundRequest { target, workload, deltas, unowned } = request.into_inner();
        caller::check_length("target", &target)?;
        let shared = self.shared.clone();
        let published = shared.index.borrow().clone();
        caller::check_workload(&published, &caller, &workload)?;
        let key = (target.to_ascii_lowercase(), caller.namespace().to_owned());
        let depends = published.snapshot.depends(&key.0, &key.1);
        let turn = shared.turn(&caller);
        let changes =
            Changes(interests(&depends, &turn.namespace).map(|interest| shared.interests.follow(interest)).collect());
        let (asked, client) = (key.clone(), turn.namespace.clone());
        let name = key.0.clone();
        let compile = Arc::new(move |published: &Published| {
            let compiled = shared.outbound.get(published.version, &client, key.clone(), |(target, namespace)| {
                let target = published.snapshot.resolve(target, namespace)?;
                Some(published.snapshot.outbound_policy(&target, namespace))
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
        turn.take(move || first(&published).map(drop)).await.ok_or_else(failed)??;
        let open = peer.open(&workload, About::Outbound(name), &self.shared.endings.of(peer.address))?;
        let wire = move |last: Option<&OutboundPolicy>, now: &OutboundPolicy, changed: Revisions, seen: Revisions| {
            let delta = last.filter(|_| deltas).and_then(|last| RouteDelta::between(last, now));
            let message = match delta {
                Some(delta) => v1::OutboundPolicy { delta: Some((&delta).into()), ..Default::default() },
                None => now.into(),
            };
            v1::OutboundPolicy { changed: changed.of_endpoints(), seen: seen.of_endpoints(), ..message }
        };
        let is_followed = move |published: &Published| published.snapshot.depends(&asked.0, &asked.1) == depends;
        let compile = move |published: &Published| compile(published);
        let step = step(self.shared.index.clone(), is_followed, compile, wire);
        let stream = follow(changes, open, &self.shared.metrics.outbound, turn, step);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn workload(&self, request: Request<v1::WorkloadRequest>) -> Result<Response<Self::WorkloadStream>, Status> {
        let (caller, peer) = (caller::identity(&request)?, caller::peer(&request)?);
        let v1::WorkloadRequest { workload, listed_ports, authorization_form } = request.into_inner();
        if authorization_form < AUTHORIZATION_FORM {
            return Err(Status::failed_precondition(format!(
                "this controller says who may call a pod in form {AUTHORIZATION_FORM}, and the proxy knows {authorization_form}; \
                 restart the pod to give it a newer proxy"
            )));
        }
        if listed_ports.len() > MAX_LISTED {
            return Err(Status::invalid_argument(format!("listed_ports has more than {MAX_LISTED} entries")));
        }
        let listed =
            listed_ports.into_iter().map(|v1::ListedPort { port, listed }| Ok((number(port)?, number(listed)?)));
        let listed = listed.collect::<Result<Vec<_>, Status>>()?;
        let about = About::Workload;
        let wire = |policy: &WorkloadPolicy, changed: Revisions, seen: Revisions| v1::WorkloadPolicy {
            changed: changed.of_workloads(),
            seen: seen.of_workloads(),
            ..policy.into()
        };
        self.shared.follow_workload(caller, &peer, workload, listed, about, wire).map(Response::new)
    }

    async fn inbound(&self, request: Request<v1::InboundRequest>) -> Result<Response<Self::InboundStream>, Status> {
        let (caller, peer) = (caller::identity(&request)?, caller::peer(&request)?);
        let v1::InboundRequest { workload, port, listed_port } = request.into_inner();
        let port = number(port)?;
        let listed = if listed_port == 0 { port } else { number(listed_port)? };
        let about = About::Inbound(port, listed);
        let wire = move |policy: &WorkloadPolicy, _, _| for_port(policy, port);
        self.shared.follow_workload(caller, &peer, workload, vec![(port, listed)], about, wire).map(Response::new)
    }
}

impl Shared {
    fn turn(&self, caller: &Identity) -> CompileTurn {
        CompileTurn { compiler: Some(self.compiler.clone()), namespace: caller.namespace().into() }
    }

    /// Follows the policy of a pod, as `wire` says it. Nobody is told of one before everything that may restrict callers was
    /// read: less than all would open what is closed.
    fn follow_workload<W: PartialEq + Message + Default + 'static>(
        self: &Arc<Self>,
        caller: Identity,
        peer: &PeerInfo,
        workload: String,
        listed: Vec<(u16, u16)>,
        about: About,
        wire: impl Fn(&WorkloadPolicy, Revisions, Revisions) -> W + Send + 'static,
    ) -> Result<Updates<W>, Status> {
        let published = self.index.borrow().clone();
        caller::check_workload(&published, &caller, &workload)?;
        if !published.knows_restrictions {
            return Err(Status::unavailable("not all policies that may restrict callers were read yet; see /problems"));
        }
        let (namespace, name) = workload.split_once('/').unwrap_or_default();
        let changes = Changes(vec![self.interests.follow(Interest::Pod(Key::new(namespace, name)))]);
        let turn = self.turn(&caller);
        let open = peer.open(&workload, about, &self.endings.of(peer.address))?;
        let (shared, key, client) = (self.clone(), (workload, listed), turn.namespace.clone());
        let compile = move |published: &Published| {
            let compile = |(workload, listed): &(String, Vec<_>)| published.snapshot.compile_workload(workload, listed);
            let gone = || Status::not_found(format!("the pod {} is gone; its last policy stays in force", key.0));
            shared.workloads.get(published.version, &client, key.clone(), compile).ok_or_else(gone)
        };
        let said = move |_: Option<&WorkloadPolicy>, now: &WorkloadPolicy, changed, seen| wire(now, changed, seen);
        let step = step(self.index.clone(), |_: &Published| true, compile, said);
        Ok(Box::pin(follow(changes, open, &self.metrics.inbound, turn, step)))
    }
}

/// The interests of what an answer for clients of a namespace depends on.
fn interests(depends: &[Depends], client: &Arc<str>) -> impl Iterator<Item = Interest> {
    depends.iter().map(|depends| match depends {
        Depends::Policies(service) => Interest::Policies(service.clone(), client.clone()),
        Depends::Address(ip) => Interest::Address(*ip),
        Depends::Endpoints(service) => Interest::Service(service.clone()),
    })
}

fn number(number: u32) -> Result<u16, Status> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    port.ok_or_else(|| Status::invalid_argument(format!("port {number} is not from 1 to 65535")))
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
        let (published, seen) = look(&index);
        if !is_followed(&published) {
            return Step::End(Status::unavailable("what the target stands for has changed; ask again"));
        }
        let now = match compile(&published) {
            Ok(now) => now,
            Err(status) => return Step::End(status),
        };
        let same = last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &now) || last == &now);
        if same {
            return Step::Same;
        }
        let message = wire(last.as_deref(), &now, published.changed, seen);
        last = Some(now);
        Step::Send(message)
    }
}
