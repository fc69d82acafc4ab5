//! Who may call a port.

use mesh_policy::{
    Action, AuthorizationPolicy, AuthorizationRule, Enforcement, Identity, Level, Operation, Ports, Principal,
    RequestMatch, Source, Tier, name::is_label,
};

use super::{ConvertError, MAX_IDENTITIES, MAX_PORTS, MAX_RULES, label, list, number};
use crate::v1::{self, authorization_condition::Kind as Condition, principal::Kind as Known};

impl TryFrom<v1::AuthorizationPolicy> for AuthorizationPolicy {
    type Error = ConvertError;

    fn try_from(wire: v1::AuthorizationPolicy) -> Result<Self, ConvertError> {
        let (tier, action, mode, level) = (wire.tier(), wire.action(), wire.mode(), wire.level());
        Ok(Self {
            name: label("name", &wire.name)?,
            tier: match tier {
                v1::AuthorizationTier::Admin => Tier::Admin,
                v1::AuthorizationTier::Namespace => Tier::Namespace,
                v1::AuthorizationTier::Baseline => Tier::Baseline,
                v1::AuthorizationTier::Unspecified => return Err(unknown("tier")),
            },
            action: match action {
                v1::AuthorizationAction::Allow => Action::Allow,
                v1::AuthorizationAction::Deny => Action::Deny,
                v1::AuthorizationAction::Audit => Action::Audit,
                v1::AuthorizationAction::Unspecified => return Err(unknown("action")),
            },
            mode: match mode {
                v1::AuthorizationMode::Enforce => Enforcement::Enforce,
                v1::AuthorizationMode::Shadow => Enforcement::Shadow,
                v1::AuthorizationMode::Unspecified => return Err(unknown("mode")),
            },
            level: match level {
                v1::AuthorizationLevel::Network => Level::Network,
                v1::AuthorizationLevel::Application => Level::Application,
                v1::AuthorizationLevel::Unspecified => return Err(unknown("level")),
            },
            ports: wire.ports.map(Ports::try_from).transpose().map_err(|error| error.within("ports"))?,
            rules: list("rules", wire.rules, MAX_RULES, AuthorizationRule::try_from)?,
        })
    }
}

/// Also what the generated accessors take for unspecified: a number that this version has no name for.
fn unknown(field: &str) -> ConvertError {
    ConvertError::new(field, "absent, or one that this version does not know")
}

impl TryFrom<v1::AuthorizationRule> for AuthorizationRule {
    type Error = ConvertError;

    fn try_from(wire: v1::AuthorizationRule) -> Result<Self, ConvertError> {
        let mut rule = Self::default();
        for (i, condition) in wire.conditions.into_iter().enumerate() {
            let field = format!("conditions[{i}]");
            let is_new = match condition.kind {
                Some(Condition::Sources(wire)) => {
                    let sources = list("sources", wire.sources, MAX_IDENTITIES, Source::try_from);
                    rule.sources.replace(sources.map_err(|error| error.within(&field))?).is_none()
                }
                Some(Condition::Ports(wire)) => {
                    let ports = Ports::try_from(wire).map_err(|error| error.within(&field))?;
                    rule.ports.replace(ports).is_none()
                }
                Some(Condition::Operations(wire)) => {
                    let to =
                        list("matches", wire.matches, MAX_RULES, |wire| RequestMatch::try_from(wire).map(Operation));
                    rule.to.replace(to.map_err(|error| error.within(&field))?).is_none()
                }
                None => return Err(ConvertError::new(field, "a condition that this version does not know")),
            };
            if !is_new {
                return Err(ConvertError::new(field, "a second condition of one kind"));
            }
        }
        Ok(rule)
    }
}

impl TryFrom<v1::Ports> for Ports {
    type Error = ConvertError;

    fn try_from(wire: v1::Ports) -> Result<Self, ConvertError> {
        let range = |range: v1::PortRange| Ok((number("first", range.first)?, number("last", range.last)?));
        let ranges: Vec<(u16, u16)> = list("ranges", wire.ranges, MAX_PORTS, range)?;
        let ports = Self::new(ranges.iter().copied());
        if *ports.ranges() != *ranges {
            return Err(ConvertError::new("ranges", "not sorted, or they touch each other"));
        }
        Ok(ports)
    }
}

impl TryFrom<v1::Source> for Source {
    type Error = ConvertError;

    fn try_from(wire: v1::Source) -> Result<Self, ConvertError> {
        Ok(Self {
            all: list("all", wire.all, MAX_RULES, Principal::try_from)?,
            except: list("except", wire.except, MAX_IDENTITIES, Principal::try_from)?,
        })
    }
}

impl TryFrom<v1::Principal> for Principal {
    type Error = ConvertError;

    fn try_from(wire: v1::Principal) -> Result<Self, ConvertError> {
        match wire.kind {
            Some(Known::SpiffeId(id)) => {
                Identity::parse(&id).map(Self::Identity).map_err(|error| ConvertError::new("spiffe_id", error))
            }
            Some(Known::Namespace(v1::NamespaceRef { trust_domain, namespace })) => {
                let trust_domain = domain("namespace.trust_domain", &trust_domain)?;
                if !is_label(&namespace) {
                    return Err(ConvertError::new("namespace.namespace", "not the name of a namespace"));
                }
                Ok(Self::Namespace { trust_domain, namespace: namespace.into() })
            }
            Some(Known::TrustDomain(name)) => domain("trust_domain", &name).map(Self::TrustDomain),
            Some(Known::Authenticated(true)) => Ok(Self::Authenticated),
            Some(Known::Unauthenticated(true)) => Ok(Self::Unauthenticated),
            Some(Known::Cidr(network)) => {
                network.parse().map(Self::Cidr).map_err(|error| ConvertError::new("cidr", error))
            }
            Some(Known::Authenticated(false) | Known::Unauthenticated(false)) => {
                Err(ConvertError::new("kind", "a kind that says false says nothing"))
            }
            None => Err(ConvertError::new("kind", "a principal that this version does not know")),
        }
    }
}

fn domain(field: &str, name: &str) -> Result<std::sync::Arc<str>, ConvertError> {
    match Identity::is_trust_domain(name) {
        true => Ok(name.into()),
        false => Err(ConvertError::new(field, "not the name of a trust domain")),
    }
}

impl From<&AuthorizationPolicy> for v1::AuthorizationPolicy {
    fn from(model: &AuthorizationPolicy) -> Self {
        let tier = match model.tier {
            Tier::Admin => v1::AuthorizationTier::Admin,
            Tier::Namespace => v1::AuthorizationTier::Namespace,
            Tier::Baseline => v1::AuthorizationTier::Baseline,
        };
        let action = match model.action {
            Action::Allow => v1::AuthorizationAction::Allow,
            Action::Deny => v1::AuthorizationAction::Deny,
            Action::Audit => v1::AuthorizationAction::Audit,
        };
        let mode = match model.mode {
            Enforcement::Enforce => v1::AuthorizationMode::Enforce,
            Enforcement::Shadow => v1::AuthorizationMode::Shadow,
        };
        let level = match model.level {
            Level::Network => v1::AuthorizationLevel::Network,
            Level::Application => v1::AuthorizationLevel::Application,
        };
        Self {
            name: model.name.to_string(),
            tier: tier.into(),
            action: action.into(),
            mode: mode.into(),
            level: level.into(),
            rules: model.rules.iter().map(Into::into).collect(),
            ports: model.ports.as_ref().map(Into::into),
        }
    }
}

impl From<&AuthorizationRule> for v1::AuthorizationRule {
    fn from(AuthorizationRule { sources, ports, to }: &AuthorizationRule) -> Self {
        let sources = sources
            .as_ref()
            .map(|sources| Condition::Sources(v1::Sources { sources: sources.iter().map(Into::into).collect() }));
        let ports = ports.as_ref().map(|ports| Condition::Ports(ports.into()));
        let to = to.as_ref().map(|to| {
            Condition::Operations(v1::Operations {
                matches: to.iter().map(|Operation(wanted)| wanted.into()).collect(),
            })
        });
        let conditions = sources.into_iter().chain(ports).chain(to);
        Self { conditions: conditions.map(|kind| v1::AuthorizationCondition { kind: Some(kind) }).collect() }
    }
}

impl From<&Ports> for v1::Ports {
    fn from(model: &Ports) -> Self {
        let range = |(first, last): &(u16, u16)| v1::PortRange { first: (*first).into(), last: (*last).into() };
        Self { ranges: model.ranges().iter().map(range).collect() }
    }
}

impl From<&Source> for v1::Source {
    fn from(Source { all, except }: &Source) -> Self {
        let wire = |list: &[Principal]| list.iter().map(Into::into).collect();
        Self { all: wire(all), except: wire(except) }
    }
}

impl From<&Principal> for v1::Principal {
    fn from(model: &Principal) -> Self {
        let kind = match model {
            Principal::Identity(identity) => Known::SpiffeId(identity.to_string()),
            Principal::Namespace { trust_domain, namespace } => Known::Namespace(v1::NamespaceRef {
                trust_domain: trust_domain.to_string(),
                namespace: namespace.to_string(),
            }),
            Principal::TrustDomain(name) => Known::TrustDomain(name.to_string()),
            Principal::Authenticated => Known::Authenticated(true),
            Principal::Unauthenticated => Known::Unauthenticated(true),
            Principal::Cidr(network) => Known::Cidr(network.to_string()),
        };
        Self { kind: Some(kind) }
    }
}
