//! Connections between proxies end with the certificate, or with the anchor, that they were made with.
//!
//! A handshake looks at certificates once, and a connection may live for months: a peer whose certificate ended, or whose anchor
//! was withdrawn because it was stolen, must not go on because it came in time. HTTP ends in order, so that no request is lost:
//! shortly before a certificate's end, and [`RENEWAL`] after an anchor is gone, when whoever can has renewed. Bytes and
//! upgraded connections, which nothing can end in order, are cut when the anchor is gone, and with the certificate only if
//! the configuration says so. Streams that are still open a shutdown grace after that are cut alike.
//!
//! The side that opened a connection ends it first. It can do so without losing anything, for it knows what it begins; a
//! request that crosses our GOAWAY would have to be sent again. The other side ends what did not end by itself.
//!
//! It reads the table of live connections; what is proved and trusted is `mesh-credentials`'.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mesh_credentials::Proof;

use crate::{
    connections::{End, Entry, Side, Stage},
    tls_stream::Session,
    transport::Transport,
};

/// From an anchor's end to the end of what it vouched for. Proxies ask for another certificate one to three seconds after they
/// heard of the new anchors; before that, a connection that ends could not be made anew.
const RENEWAL: Duration = Duration::from_secs(5);
/// So much later than the side that opened a connection the other one ends it.
const AFTER_OPENER: Duration = Duration::from_secs(1);
/// A connection ends so long before its certificate, at most ...
const MOST_AHEAD: Duration = Duration::from_secs(30);
/// ... and at most this part of what is left of it when the connection begins: of 8 s, it is 0.8 s.
const AHEAD: f64 = 0.1;

/// Ends connections, for as long as the worker lives.
pub(crate) async fn run(transport: Rc<Transport>) {
    let (connections, held) = (&transport.connections, &transport.tls.held);
    let mut new_roots = held.new_roots();
    let mut gone = Gone::default();
    loop {
        let next = [connections.next_end(), gone.next()].into_iter().flatten().min();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = connections.earlier_end() => continue,
            // Its sender lives in `held`.
            _ = new_roots.changed() => {
                gone.look(&transport, Instant::now());
                continue;
            }
        }
        let now = Instant::now();
        for opened_here in [true, false] {
            let due = gone.take(now, opened_here);
            if !due.is_empty() {
                anchors_gone(&transport, now, opened_here, &due);
            }
        }
        for (entry, end) in connections.take_ended(now) {
            ended(&transport, &entry, end, now);
        }
    }
}

/// Enters what both sides proved in a handshake, and when that ends. False: it does not count any more.
pub(crate) fn proved(transport: &Transport, entry: &Rc<Entry>, session: &Session) -> bool {
    let held = &transport.tls.held;
    let Some(peer) = session.peer_certificates().and_then(|chain| held.proof(chain)) else { return false };
    entry.proved(peer, held.own_proof());
    if let Some(at) = end_of(transport, entry) {
        entry.ends_at(at, End::InOrder);
    }
    true
}

/// When a connection ends that was made with these certificates.
fn end_of(transport: &Transport, entry: &Entry) -> Option<Instant> {
    let not_after = entry.proofs().iter().map(|proof| proof.not_after()).min()?;
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let ahead = left.mul_f64(AHEAD).min(MOST_AHEAD);
    // The opener's in the first half of that time, the other side's in the last quarter: those of one certificate do not all
    // come back in one moment.
    let ahead = match entry.side() {
        Side::Upstream => ahead / 4 + transport.random.jitter(ahead / 2),
        Side::Inbound | Side::Outbound => transport.random.jitter(ahead / 6),
    };
    Instant::now().checked_add(left.saturating_sub(ahead))
}

/// The time of a connection has come: that of a certificate, or the last one of what should have ended in order.
fn ended(transport: &Transport, entry: &Rc<Entry>, end: End, now: Instant) {
    let cuts = transport.config.cut_at_certificate_end;
    match (end, entry.stage()) {
        (End::Now, _) => entry.end(End::Now),
        (_, Stage::Begun | Stage::Http) => {
            entry.end(End::InOrder);
            count(transport, entry, "certificate");
            if cuts {
                entry.ends_at(now + transport.config.times.shutdown_grace, End::Now);
            }
        }
        (_, Stage::Bytes | Stage::Upgraded) if cuts => {
            entry.end(End::Now);
            count(transport, entry, "certificate");
        }
        (_, Stage::Bytes | Stage::Upgraded) => {}
    }
}

/// Proofs for which no anchor vouches any more, each with its own time: anchors that go on changing put off nobody's end.
/// Connections of one certificate share its proof.
#[derive(Default)]
struct Gone(HashMap<*const Proof, Since>);

/// Since when no anchor vouches for a proof.
#[derive(Clone, Copy)]
struct Since {
    at: Instant,
    /// What was opened here with it has ended already.
    opened_ended: bool,
}

impl Since {
    fn due(self, opened_here: bool) -> Option<Instant> {
        match (opened_here, self.opened_ended) {
            (true, true) => None,
            (true, false) => Some(self.at + RENEWAL),
            (false, _) => Some(self.at + RENEWAL + AFTER_OPENER),
        }
    }
}

impl Gone {
    /// Other roots are in force.
    fn look(&mut self, transport: &Transport, now: Instant) {
        let held = &transport.tls.held;
        let mut known = HashMap::new();
        for entry in transport.connections.all() {
            for proof in entry.proofs() {
                known.entry(Arc::as_ptr(proof)).or_insert_with(|| held.still_vouches(proof));
            }
        }
        self.0.retain(|proof, _| known.get(proof) == Some(&false));
        for (proof, _) in known.into_iter().filter(|(_, vouched)| !vouched) {
            self.0.entry(proof).or_insert(Since { at: now, opened_ended: false });
        }
    }

    /// When the next connections end.
    fn next(&self) -> Option<Instant> {
        self.0.values().flat_map(|since| [true, false].into_iter().filter_map(|opened| since.due(opened))).min()
    }

    /// Proofs with which connections that were `opened_here`, or that were accepted, end now.
    fn take(&mut self, now: Instant, opened_here: bool) -> HashSet<*const Proof> {
        let is_due = |since: &Since| since.due(opened_here).is_some_and(|due| due <= now);
        let due = self.0.iter().filter(|(_, since)| is_due(since)).map(|(proof, _)| *proof).collect();
        match opened_here {
            true => self.0.values_mut().filter(|since| is_due(since)).for_each(|since| since.opened_ended = true),
            false => self.0.retain(|_, since| !is_due(since)),
        }
        due
    }
}

/// Ends the connections with such a proof for which still no anchor vouches: those that were `opened_here`, or those that were
/// accepted.
fn anchors_gone(transport: &Transport, now: Instant, opened_here: bool, due: &HashSet<*const Proof>) {
    let held = &transport.tls.held;
    for entry in transport.connections.all() {
        let is_meant = |proof: &Arc<Proof>| due.contains(&Arc::as_ptr(proof)) && !held.still_vouches(proof);
        let is_other = (entry.side() == Side::Upstream) != opened_here;
        if is_other || !entry.proofs().iter().any(is_meant) {
            continue;
        }
        count(transport, &entry, "anchor");
        match entry.stage() {
            Stage::Begun | Stage::Http => {
                entry.end(End::InOrder);
                entry.ends_at(now + transport.config.times.shutdown_grace, End::Now);
            }
            Stage::Bytes | Stage::Upgraded => entry.end(End::Now),
        }
    }
}

fn count(transport: &Transport, entry: &Entry, why: &str) {
    let labels = [("direction", entry.direction().as_str()), ("why", why)];
    transport.metrics.counter("mesh_connections_ended_total", &labels).increment(1);
    if let Some(peer) = entry.peer() {
        tracing::debug!("the connection with {peer} ends with its {why}");
    }
}
