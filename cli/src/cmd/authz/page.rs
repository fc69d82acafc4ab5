//! The page `/authorization` of a sidecar, as it is read here: nothing else knows its keys.
//!
//! What an older or newer sidecar does not say counts as zero, and a caller that cannot be read is left out.

use std::net::IpAddr;

use mesh_policy::Identity;
use serde::Serialize;
use serde_json::Value;

use crate::kube::value;

/// How often something was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts {
    /// Let in.
    pub allowed: u64,
    /// Refused.
    pub denied: u64,
    /// Let in, and refused if policies in shadow were in force.
    pub shadow_denied: u64,
    /// Reported by an AUDIT.
    pub audited: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.shadow_denied += other.shadow_denied;
        self.audited += other.audited;
    }
}

/// A policy in force, and what it decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyCounts {
    pub name: String,
    pub action: String,
    pub mode: String,
    pub counts: Counts,
}

/// A caller of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallerCounts {
    /// Who it is; `None`: it proved nothing.
    pub identity: Option<Identity>,
    /// Where a caller without identity called from. `None` beside no identity: all for which the sidecar had no room.
    pub source: Option<IpAddr>,
    /// The port of the pod.
    pub port: u16,
    /// `http` or `bytes`.
    pub protocol: String,
    pub counts: Counts,
    /// The rule that refused it last.
    pub denied_by: Option<String>,
    /// The rule in shadow that would have refused it last.
    pub shadow_denied_by: Option<String>,
    /// When it called last, in seconds since 1970; 0: it is not known.
    pub last_seen: u64,
}

/// What a sidecar saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub policies: Vec<PolicyCounts>,
    pub callers: Vec<CallerCounts>,
}

impl Page {
    /// Reads the page. `None`: it is no such page.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let page: Value = serde_json::from_slice(body).ok()?;
        page.get("callers")?.as_array()?;
        let policies = value::items(&page, "/policies").iter().map(|policy| PolicyCounts {
            name: value::text(policy, "/name").to_owned(),
            action: value::text(policy, "/action").to_owned(),
            mode: value::text(policy, "/mode").to_owned(),
            counts: counts(policy),
        });
        let callers = value::items(&page, "/callers").iter().filter_map(caller);
        Some(Self { policies: policies.collect(), callers: callers.collect() })
    }
}

fn counts(of: &Value) -> Counts {
    let count = |key: &str| of.get(key).and_then(Value::as_u64).unwrap_or_default();
    Counts {
        allowed: count("allowed"),
        denied: count("denied"),
        shadow_denied: count("shadow_denied"),
        audited: count("audited"),
    }
}

fn caller(of: &Value) -> Option<CallerCounts> {
    let text = |key: &str| of.get(key).and_then(Value::as_str);
    let rule = |key: &str| {
        let by = of.get(key).filter(|by| by.is_object())?;
        let rule = by.get("rule").and_then(Value::as_u64).map(|rule| format!(" rule {rule}")).unwrap_or_default();
        Some(format!("{}{rule}", value::text(by, "/policy")))
    };
    Some(CallerCounts {
        // An identity that cannot be read is somebody: taking it for nobody would be wrong.
        identity: text("identity").map(Identity::parse).transpose().ok()?,
        source: text("source").map(str::parse).transpose().ok()?,
        port: of.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or_default(),
        protocol: text("protocol").unwrap_or_default().to_owned(),
        counts: counts(of),
        denied_by: rule("denied_by"),
        shadow_denied_by: rule("shadow_denied_by"),
        last_seen: of.get("last_seen").and_then(Value::as_u64).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_is_read_and_the_rest_is_nothing() {
        let page = json!({
            "policies": [{ "name": "AuthorizationPolicy shop/web", "action": "ALLOW", "mode": "Shadow", "allowed": 3 }],
            "callers": [
                { "identity": "spiffe://d/ns/a/sa/b", "source": null, "port": 80, "protocol": "http", "allowed": 2,
                  "denied": 1, "denied_by": { "policy": "AuthorizationPolicy shop/web", "rule": 1 }, "last_seen": 7 },
                { "identity": null, "source": "10.0.0.1", "port": 80, "protocol": "bytes", "shadow_denied": 4,
                  "shadow_denied_by": { "policy": "AuthorizationPolicy shop/web", "rule": null } },
                { "identity": "nonsense", "port": 80 },
                { "identity": null, "source": null, "port": null, "protocol": null, "allowed": 9, "overflow": true },
            ],
        });
        let read = Page::read(page.to_string().as_bytes()).unwrap();
        assert_eq!(read.policies[0].counts, Counts { allowed: 3, ..Counts::default() });
        assert_eq!(read.callers.len(), 3);
        let [first, second, others] = &read.callers[..] else { unreachable!() };
        assert_eq!(first.identity.as_ref().unwrap().service_account(), "b");
        assert_eq!(first.denied_by.as_deref(), Some("AuthorizationPolicy shop/web rule 1"));
        assert_eq!((second.counts.shadow_denied, second.last_seen), (4, 0));
        assert_eq!(second.shadow_denied_by.as_deref(), Some("AuthorizationPolicy shop/web"));
        assert_eq!((others.source, others.port, others.counts.allowed), (None, 0, 9));
        for body in ["", "{}", "[]", "not found"] {
            assert_eq!(Page::read(body.as_bytes()), None, "{body}");
        }
    }
}
