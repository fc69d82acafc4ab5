//! Whoever makes one connection to a port of this pod, and what they may do.

use std::{
    borrow::Cow,
    cell::{OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

use mesh_policy::{
    ConnectionFacts, Identity, InboundDecision, InboundVerdict, Mode, RequestFacts, RuleRef, decide_inbound,
};

use super::{
    Admission, Authorization, Kept,
    callers::{Key, Protocol, Seen, Who},
    in_force::{InForce, Known, Prepared},
    open::Standing,
    refusals::Refusal,
};
use crate::{
    connections::Entry,
    error::{DecisionId, Delivery, Error, Reason},
    metrics::Decided,
};

/// The caller of one connection, and the port.
pub(crate) struct Subject {
    pub(super) authorization: Rc<Authorization>,
    pub(super) entry: Rc<Entry>,
    pub(super) port: u16,
    known: RefCell<Option<Known>>,
    /// Its entries among the callers of this pod, as soon as it is one.
    http: OnceCell<Arc<Seen>>,
    bytes: OnceCell<Arc<Seen>>,
}

impl Subject {
    /// Of a connection whose peer is known by now, if it has an identity.
    pub(crate) fn new(authorization: Rc<Authorization>, entry: Rc<Entry>, port: u16) -> Self {
        let (known, http, bytes) = Default::default();
        Self { authorization, entry, port, known, http, bytes }
    }

    /// How connections to the port are served, once that is known.
    pub(crate) async fn mode(&self) -> Result<Mode, Error> {
        Ok(self.prepared().await?.in_force.policy.ports.get(self.port).mode())
    }

    /// Whether it might send bytes now. Nothing comes of it: it is asked before the connection is known to be one of bytes.
    pub(crate) async fn may_send_bytes(&self) -> bool {
        let prepared = self.prepared().await;
        prepared.is_ok_and(|prepared| !prepared.decide(None).verdict.is_refused())
    }

    /// Decides about a request, or about bytes. What is allowed stays so until the result is dropped, or until policy changes.
    pub(crate) async fn admit(
        self: &Rc<Self>,
        request: Option<&RequestFacts<'_>>,
        keep: impl FnOnce() -> Option<Kept>,
    ) -> Result<Admission, Error> {
        let prepared = self.prepared().await?;
        let decision = prepared.decide(request);
        self.note(&prepared.in_force, &decision, request.is_some());
        match decision.verdict {
            InboundVerdict::Allow(_) => Ok(self.authorization.open.add(self, keep())),
            InboundVerdict::Deny(by) => Err(self.denied(by, request, false)),
            InboundVerdict::AmbiguousPath => Err(ambiguous()),
        }
    }

    /// Decides again about what is open: why it may not go on.
    pub(super) fn judge(&self, standing: &Standing, in_force: &Rc<InForce>) -> Option<Error> {
        let none = http::HeaderMap::new();
        let facts = standing.request.as_ref().map(|request| request.facts(&none));
        let headerless = match &standing.request {
            Some(request) if !request.has_headers() => Some(in_force.headerless()),
            _ => None,
        };
        let prepared = self.prepare(in_force.clone());
        let decision = match headerless {
            Some(policy) => decide_inbound(policy, &self.facts(), facts.as_ref(), &mut ()),
            None => prepared.decide(facts.as_ref()),
        };
        let error = match decision.verdict {
            InboundVerdict::Allow(_) => return None,
            InboundVerdict::AmbiguousPath => ambiguous(),
            InboundVerdict::Deny(by) => {
                self.count(in_force, self.seen(facts.is_some()), Decided::Denied, Some(by));
                self.denied(by, facts.as_ref(), true)
            }
        };
        Some(Error { delivery: Delivery::Begun, ..error })
    }

    /// Who calls, for the log.
    pub(super) fn who(&self) -> Cow<'_, str> {
        match self.entry.peer() {
            Some(identity) => identity.as_str().into(),
            None => self.entry.source().ip().to_canonical().to_string().into(),
        }
    }

    fn facts(&self) -> ConnectionFacts<'_> {
        ConnectionFacts { client: self.entry.peer(), source: self.entry.source().ip(), port: self.port }
    }

    /// What the policy in force means for this connection. Waits for the first policy: without one, nothing is allowed.
    async fn prepared(&self) -> Result<Prepared, Error> {
        let known = self.known.borrow().as_ref().and_then(Known::prepared);
        if let Some(known) = known.filter(|known| self.authorization.is_in_force(&known.in_force)) {
            return Ok(known);
        }
        Ok(self.prepare(self.authorization.in_force().await?))
    }

    /// What a policy means for this connection.
    fn prepare(&self, in_force: Rc<InForce>) -> Prepared {
        let mut known = self.known.borrow_mut();
        let prepared = known.as_ref().and_then(Known::prepared);
        if let Some(prepared) = prepared.filter(|prepared| Rc::ptr_eq(&prepared.in_force, &in_force)) {
            return prepared;
        }
        let prepared = Prepared::new(in_force, &self.facts());
        *known = Some(prepared.known());
        prepared
    }

    fn note(&self, in_force: &InForce, decision: &InboundDecision<'_>, is_request: bool) {
        let seen = self.seen(is_request);
        seen.now();
        match decision.verdict {
            InboundVerdict::Allow(by) => self.count(in_force, seen, Decided::Allowed, by),
            InboundVerdict::Deny(by) => self.count(in_force, seen, Decided::Denied, Some(by)),
            InboundVerdict::AmbiguousPath => {}
        }
        if let Some(InboundVerdict::Deny(by)) = decision.shadow
            && !decision.verdict.is_refused()
        {
            self.count(in_force, seen, Decided::ShadowDenied, Some(by));
        }
        for by in &decision.audited {
            self.count(in_force, seen, Decided::Audited, Some(*by));
        }
    }

    fn count(&self, in_force: &InForce, seen: &Seen, decided: Decided, by: Option<RuleRef<'_>>) {
        seen.count(decided, by);
        if let Some(decisions) = by.and_then(|by| in_force.decisions_of(by)) {
            decisions.count(decided, self.entry.peer().is_some());
        }
    }

    fn seen(&self, is_request: bool) -> &Seen {
        let (handle, protocol) = match is_request {
            true => (&self.http, Protocol::Http),
            false => (&self.bytes, Protocol::Bytes),
        };
        handle.get_or_init(|| {
            let source = || self.entry.source().ip().to_canonical();
            let caller = self.entry.peer().cloned().map_or_else(|| Who::Stranger(source()), Who::Identity);
            self.authorization.callers.of(Key { caller, port: self.port, protocol })
        })
    }

    fn denied(&self, by: RuleRef<'_>, request: Option<&RequestFacts<'_>>, was_open: bool) -> Error {
        let id = DecisionId(self.authorization.random.next());
        Refusal { id, by, subject: self, request, was_open }.log(&self.authorization.refusals);
        let who = self.entry.peer().map_or("a caller without identity", Identity::as_str);
        let told = match self.authorization.tells_details {
            true => format!("denied by {by}; decision {id}"),
            false => format!("denied; decision {id}, ask the owner of the server to look it up"),
        };
        Error::undelivered(Reason::Denied, format!("decision {id}: {by} does not let in {who}")).telling(told, Some(id))
    }
}

fn ambiguous() -> Error {
    let why = "servers read this path in several ways, and the port takes no such path";
    Error::undelivered(Reason::BadRequest, why).telling(format!("{}: {why}", Reason::BadRequest.as_str()), None)
}
