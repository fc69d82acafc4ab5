//! Each line of the table, each level, and that the order of the list never decides.
#![allow(clippy::unwrap_used)]

use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::*;
use crate::{
    Explanation, Identity, PortPolicies, PortPolicy,
    authorization::{Operation, Ports, Principal, Source, naive_tests::by_the_table},
    route::{PathMatch, RequestMatch},
};

fn web() -> Identity {
    Identity::new("cluster.local", "shop", "web").unwrap()
}

fn rule(sources: Option<Vec<Source>>) -> AuthorizationRule {
    AuthorizationRule { sources, ..AuthorizationRule::default() }
}

/// A rule for shop/web alone.
fn of_web() -> AuthorizationRule {
    rule(Some(vec![Source { all: vec![Principal::Identity(web())], except: Vec::new() }]))
}

fn policy(tier: Tier, action: Action, level: Level, rules: Vec<AuthorizationRule>) -> AuthorizationPolicy {
    let name = format!("{tier} {action} {level:?}").into();
    AuthorizationPolicy { name, tier, action, mode: Enforcement::Enforce, level, ports: None, rules }
}

fn port(authorization: Vec<AuthorizationPolicy>) -> WorkloadPolicy {
    WorkloadPolicy { authorization, ..WorkloadPolicy::default() }
}

fn connection(client: Option<&Identity>) -> ConnectionFacts<'_> {
    ConnectionFacts { client, source: [10, 0, 0, 1].into(), port: 8080 }
}

/// Whether a GET of `path` by shop/web is let in.
fn is_let_in(policy: &WorkloadPolicy, path: &str) -> bool {
    let (web, headers) = (web(), HeaderMap::new());
    let request = RequestFacts { method: &Method::GET, host: "web", path, query: None, headers: &headers };
    !decide_inbound(policy, &connection(Some(&web)), Some(&request), &mut ()).verdict.is_refused()
}

#[test]
fn each_line_goes_before_those_below_it() {
    use Action::{Allow, Deny};
    use Tier::{Admin, Baseline, Namespace};
    let (matching, other) = (|| vec![of_web()], || vec![rule(Some(Vec::new()))]);
    for level in Level::ALL {
        let of = |tier, action, rules| policy(tier, action, level, rules);
        for (policies, expected) in [
            (vec![], true),
            (vec![of(Admin, Deny, matching()), of(Admin, Allow, matching())], false),
            (vec![of(Admin, Allow, matching()), of(Namespace, Deny, matching())], true),
            (vec![of(Admin, Allow, other())], true),
            (vec![of(Admin, Allow, vec![])], true),
            (vec![of(Admin, Deny, other()), of(Namespace, Deny, matching())], false),
            (vec![of(Namespace, Deny, matching()), of(Namespace, Allow, matching())], false),
            (vec![of(Namespace, Allow, other())], false),
            (vec![of(Namespace, Allow, vec![])], false),
            (vec![of(Namespace, Allow, other()), of(Namespace, Allow, matching())], true),
            (vec![of(Namespace, Allow, matching()), of(Baseline, Deny, matching())], true),
            (vec![of(Namespace, Allow, other()), of(Baseline, Allow, matching())], false),
            (vec![of(Namespace, Deny, other()), of(Baseline, Deny, matching())], false),
            (vec![of(Baseline, Deny, matching()), of(Baseline, Allow, matching())], false),
            (vec![of(Baseline, Allow, matching())], true),
            (vec![of(Baseline, Allow, other())], false),
            (vec![of(Namespace, Action::Audit, matching())], true),
        ] {
            let policy = port(policies);
            assert_eq!(is_let_in(&policy, "/"), expected, "{policy:?}");
        }
    }
}

#[test]
fn both_levels_must_let_in() {
    for (network, application, expected) in [(true, true, true), (true, false, false), (false, true, false)] {
        let at = |level, lets_in: bool| {
            policy(Tier::Namespace, Action::Allow, level, if lets_in { vec![of_web()] } else { Vec::new() })
        };
        let policy = port(vec![at(Level::Network, network), at(Level::Application, application)]);
        assert_eq!(is_let_in(&policy, "/"), expected);
    }
}

#[test]
fn bytes_are_never_let_in_by_what_is_about_requests() {
    let public = || {
        let path = PathMatch::Prefix("/public".into());
        let to = Some(vec![Operation(RequestMatch { path, ..RequestMatch::default() })]);
        vec![AuthorizationRule { to, ..AuthorizationRule::default() }]
    };
    let everything = || vec![AuthorizationRule::default()];
    // What is decided about /public, about /, and about bytes.
    for (action, level, rules, expected) in [
        (Action::Allow, Level::Application, public(), [true, false, false]),
        (Action::Deny, Level::Application, public(), [false, true, false]),
        (Action::Allow, Level::Application, everything(), [true, true, false]),
        (Action::Allow, Level::Network, everything(), [true, true, true]),
        (Action::Deny, Level::Network, everything(), [false, false, false]),
        // A schema refuses it; if it comes all the same, it opens nothing.
        (Action::Allow, Level::Network, public(), [false, false, false]),
        (Action::Deny, Level::Network, public(), [false, false, false]),
    ] {
        let policy = port(vec![policy(Tier::Namespace, action, level, rules)]);
        let bytes = decide_inbound(&policy, &connection(None), None, &mut ()).verdict;
        let found = [is_let_in(&policy, "/public"), is_let_in(&policy, "/"), !bytes.is_refused()];
        assert_eq!(found, expected, "{policy:?}");
    }
}

#[test]
fn a_rule_is_for_its_ports() {
    for (ports, expected) in
        [(None, true), (Some(vec![8080, 1]), true), (Some(vec![80]), false), (Some(Vec::new()), false)]
    {
        let rules = vec![AuthorizationRule { ports: ports.map(Ports::only), ..AuthorizationRule::default() }];
        assert_eq!(
            is_let_in(&port(vec![policy(Tier::Namespace, Action::Allow, Level::Network, rules)]), "/"),
            expected
        );
    }
}

#[test]
fn a_policy_closes_only_the_ports_that_it_is_about() {
    for (ports, expected) in [(None, false), (Some([8080]), false), (Some([80]), true)] {
        for action in [Action::Allow, Action::Deny] {
            let rules = if action == Action::Deny { vec![AuthorizationRule::default()] } else { Vec::new() };
            let about = AuthorizationPolicy {
                ports: ports.map(Ports::only),
                ..policy(Tier::Namespace, action, Level::Network, rules)
            };
            assert_eq!(is_let_in(&port(vec![about]), "/"), expected, "{action} {ports:?}");
        }
    }
}

#[test]
fn a_strict_port_takes_no_path_that_is_read_in_several_ways() {
    let strict = PortPolicy { strict_paths: true, ..PortPolicy::default() };
    let policy =
        WorkloadPolicy { ports: PortPolicies::new([(8080, 8080, strict)]).unwrap(), ..WorkloadPolicy::default() };
    let decided = |path| {
        let headers = HeaderMap::new();
        let request = RequestFacts { method: &Method::GET, host: "web", path, query: None, headers: &headers };
        decide_inbound(&policy, &connection(None), Some(&request), &mut ()).verdict
    };
    for (path, is_taken) in [("/a/b", true), ("/%61", true), ("/a%2fb", false), ("/a;b", false), ("/a/../b", false)] {
        let expected = if is_taken { InboundVerdict::Allow(None) } else { InboundVerdict::AmbiguousPath };
        assert_eq!(decided(path), expected, "{path}");
    }
}

#[test]
fn shadow_and_audit_are_told_and_change_nothing() {
    let shadow = AuthorizationPolicy {
        mode: Enforcement::Shadow,
        ..policy(Tier::Namespace, Action::Allow, Level::Network, Vec::new())
    };
    let audit = policy(Tier::Namespace, Action::Audit, Level::Network, vec![of_web()]);
    let both = port(vec![shadow, audit]);
    let web = web();
    let decided = decide_inbound(&both, &connection(Some(&web)), None, &mut ());
    assert_eq!(decided.verdict, InboundVerdict::Allow(None));
    let [shadow, audit] = [0, 1].map(|place| &both.authorization[place]);
    assert_eq!(decided.shadow, Some(InboundVerdict::Deny(RuleRef { policy: shadow, rule: None })));
    assert_eq!(decided.audited.as_slice(), [RuleRef { policy: audit, rule: Some(0) }]);
    let decided = decide_inbound(&both, &connection(None), None, &mut ());
    assert!(decided.audited.is_empty());
    assert_eq!(decide_inbound(&port(Vec::new()), &connection(None), None, &mut ()).shadow, None);
}

#[test]
fn an_explanation_names_who_decided_and_what_was_missed() {
    let closing = port(vec![policy(Tier::Namespace, Action::Allow, Level::Network, vec![of_web()])]);
    let mut explanation = Explanation::default();
    decide_inbound(&closing, &connection(None), None, &mut explanation);
    let text = explanation.to_string();
    assert!(text.contains("rule 0: does not match, the caller is not spiffe://cluster.local/ns/shop/sa/web"), "{text}");
    assert!(text.contains("Namespace ALLOW Network closes the port"), "{text}");
    assert!(text.contains("a caller without identity"), "{text}");
}

fn any_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let tier = prop_oneof![Just(Tier::Admin), Just(Tier::Namespace), Just(Tier::Baseline)];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Audit)];
    let level = prop_oneof![Just(Level::Network), Just(Level::Application)];
    let rules = prop_oneof![Just(vec![of_web()]), Just(Vec::new()), Just(vec![rule(Some(Vec::new()))])];
    let mode = prop_oneof![3 => Just(Enforcement::Enforce), 1 => Just(Enforcement::Shadow)];
    (tier, action, level, rules, mode).prop_map(|(tier, action, level, rules, mode)| AuthorizationPolicy {
        mode,
        ..policy(tier, action, level, rules)
    })
}

fn oracle(policies: &[AuthorizationPolicy], with_shadow: bool) -> bool {
    by_the_table(policies, with_shadow, |rule, _| *rule == of_web())
}

proptest! {
    /// The table as it is written, whatever the order of the list.
    #[test]
    fn the_table_decides_and_never_the_order(policies in prop::collection::vec(any_policy(), 0..8)) {
        let (forward, mut reversed) = (port(policies.clone()), policies.clone());
        reversed.reverse();
        prop_assert_eq!(is_let_in(&forward, "/"), oracle(&policies, false));
        prop_assert_eq!(is_let_in(&port(reversed), "/"), oracle(&policies, false));
        let (web, headers) = (web(), HeaderMap::new());
        let request = RequestFacts { method: &Method::GET, host: "web", path: "/", query: None, headers: &headers };
        let shadow = decide_inbound(&forward, &connection(Some(&web)), Some(&request), &mut ()).shadow;
        let has_shadow = policies.iter().any(|p| p.mode == Enforcement::Shadow);
        prop_assert_eq!(shadow.map(|verdict| !verdict.is_refused()), has_shadow.then(|| oracle(&policies, true)));
    }
}
