//! Sets of policies, and what each makes of the right caller, the wrong one, and one without identity, in each protocol. The
//! verdicts are written by hand.

/// One set.
pub(super) struct Set {
    pub(super) title: &'static str,
    /// Kind (`A`: AuthorizationPolicy about every pod of the namespace, `C`: ClusterAuthorizationPolicy) and `spec`.
    pub(super) policies: &'static [(char, &'static str)],
    /// For HTTP/1, HTTP/2, gRPC, an upgrade, bytes: `+` let in, `-` refused, of the right, the wrong and the unmeshed caller.
    pub(super) expected: [&'static str; 5],
}

/// The same in each protocol.
const fn all(verdicts: &'static str) -> [&'static str; 5] {
    [verdicts; 5]
}

/// Requests, and bytes.
const fn both(requests: &'static str, bytes: &'static str) -> [&'static str; 5] {
    [requests, requests, requests, requests, bytes]
}

const fn set(title: &'static str, policies: &'static [(char, &'static str)], expected: [&'static str; 5]) -> Set {
    Set { title, policies, expected }
}

macro_rules! right {
    () => {
        "sources: [{type: ServiceAccount, serviceAccount: {name: right}}]"
    };
}

macro_rules! wrong {
    () => {
        "sources: [{type: ServiceAccount, serviceAccount: {name: wrong}}]"
    };
}

const EVERYWHERE: &str = "namespaceSelector: {}, ";

/// All of them.
pub(super) const SETS: [Set; 44] = [
    set("no policy", &[], all("+++")),
    // The namespace's own tier.
    set(
        "an ALLOW at the connection",
        &[('A', concat!("action: ALLOW, enforcementLevel: Network, rules: [{", right!(), "}]"))],
        all("+--"),
    ),
    set(
        "an ALLOW of requests",
        &[('A', concat!("action: ALLOW, enforcementLevel: Application, rules: [{", right!(), "}]"))],
        both("+--", "---"),
    ),
    set(
        "a DENY at the connection",
        &[('A', concat!("action: DENY, enforcementLevel: Network, rules: [{", right!(), "}]"))],
        all("-++"),
    ),
    set(
        "a DENY of requests",
        &[('A', concat!("action: DENY, enforcementLevel: Application, rules: [{", right!(), "}]"))],
        all("-++"),
    ),
    set("an ALLOW without rules", &[('A', "action: ALLOW, enforcementLevel: Network")], all("---")),
    set("an ALLOW of nobody", &[('A', "action: ALLOW, enforcementLevel: Network, rules: [{sources: []}]")], all("---")),
    set("an ALLOW of anyone", &[('A', "action: ALLOW, enforcementLevel: Network, rules: [{}]")], all("+++")),
    set("a DENY of everyone", &[('A', "action: DENY, enforcementLevel: Network, rules: [{}]")], all("---")),
    set(
        "two ALLOWs add up",
        &[
            ('A', concat!("action: ALLOW, enforcementLevel: Network, rules: [{", right!(), "}]")),
            ('A', concat!("action: ALLOW, enforcementLevel: Network, rules: [{", wrong!(), "}]")),
        ],
        all("++-"),
    ),
    set(
        "a DENY goes before an ALLOW",
        &[
            ('A', "action: ALLOW, enforcementLevel: Network, rules: [{}]"),
            ('A', concat!("action: DENY, enforcementLevel: Network, rules: [{", wrong!(), "}]")),
        ],
        all("+-+"),
    ),
    set(
        "each level is a gate",
        &[
            ('A', concat!("action: ALLOW, enforcementLevel: Network, rules: [{", right!(), "}]")),
            ('A', concat!("action: ALLOW, enforcementLevel: Application, rules: [{", wrong!(), "}]")),
        ],
        all("---"),
    ),
    // What is asked.
    set(
        "an ALLOW of GET",
        &[(
            'A',
            concat!("action: ALLOW, enforcementLevel: Application, rules: [{", right!(), ", to: [{method: GET}]}]"),
        )],
        ["+--", "+--", "---", "+--", "---"],
    ),
    set(
        "an ALLOW of one path",
        &[(
            'A',
            concat!(
                "action: ALLOW, enforcementLevel: Application, rules: [{",
                right!(),
                ", to: [{path: {type: Exact, value: /1k}}]}]"
            ),
        )],
        ["+--", "+--", "---", "---", "---"],
    ),
    set(
        "an ALLOW of a service of gRPC",
        &[(
            'A',
            concat!(
                "action: ALLOW, enforcementLevel: Application, rules: [{",
                right!(),
                ", to: [{grpc: {method: {service: bench.Echo}}}]}]"
            ),
        )],
        ["---", "---", "+--", "---", "---"],
    ),
    set(
        "a DENY of GET, which bytes may be",
        &[(
            'A',
            concat!("action: DENY, enforcementLevel: Application, rules: [{", wrong!(), ", to: [{method: GET}]}]"),
        )],
        ["+-+", "+-+", "+++", "+-+", "+-+"],
    ),
    set(
        "a DENY of a method of gRPC, which bytes may be",
        &[(
            'A',
            "action: DENY, enforcementLevel: Application, rules: [{to: [{grpc: {method: {service: bench.Echo, method: Unary}}}]}]",
        )],
        ["+++", "+++", "---", "+++", "---"],
    ),
    set(
        "a DENY of nothing asked",
        &[(
            'A',
            "action: DENY, enforcementLevel: Application, rules: [{to: [{path: {type: PathPrefix, value: /admin}}]}]",
        )],
        ["+++", "+++", "+++", "+++", "---"],
    ),
    // Every kind of source.
    set(
        "by SPIFFE",
        &[(
            'A',
            "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: SPIFFE, spiffe: 'spiffe://cluster.local/ns/shop/sa/right'}]}]",
        )],
        all("+--"),
    ),
    set(
        "by another domain's SPIFFE",
        &[(
            'A',
            "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: SPIFFE, spiffe: 'spiffe://evil.example/ns/shop/sa/right'}]}]",
        )],
        all("---"),
    ),
    set(
        "by namespace",
        &[('A', "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: Namespace, namespace: shop}]}]")],
        all("++-"),
    ),
    set(
        "by another namespace",
        &[('A', "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: Namespace, namespace: bank}]}]")],
        all("---"),
    ),
    set(
        "by every account of the namespace",
        &[(
            'A',
            "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: '*'}}]}]",
        )],
        all("++-"),
    ),
    set(
        "by trust domain",
        &[(
            'A',
            "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: TrustDomain, trustDomain: cluster.local}]}]",
        )],
        all("++-"),
    ),
    set(
        "by address",
        &[('A', "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: CIDR, cidr: 127.0.0.0/8}]}]")],
        all("+++"),
    ),
    set(
        "by another address",
        &[('A', "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: CIDR, cidr: 10.0.0.0/8}]}]")],
        all("---"),
    ),
    set(
        "by account and address",
        &[(
            'A',
            "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: right}, cidr: 127.0.0.0/8}]}]",
        )],
        all("+--"),
    ),
    set(
        "by account and another address",
        &[(
            'A',
            "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: right}, cidr: 10.0.0.0/8}]}]",
        )],
        all("---"),
    ),
    set(
        "only without identity",
        &[('A', "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: Unauthenticated}]}]")],
        all("--+"),
    ),
    set(
        "an ALLOW with an exception",
        &[(
            'A',
            "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: Namespace, namespace: shop, except: [{type: ServiceAccount, serviceAccount: {name: wrong}}]}]}]",
        )],
        all("+--"),
    ),
    set(
        "an ALLOW whose exception the caller has nothing to compare with",
        &[(
            'A',
            "action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: CIDR, cidr: 127.0.0.0/8, except: [{type: ServiceAccount, serviceAccount: {name: wrong}}]}]}]",
        )],
        all("+--"),
    ),
    set(
        "a DENY whose exception the caller has nothing to compare with",
        &[(
            'A',
            "action: DENY, enforcementLevel: Network, rules: [{sources: [{type: CIDR, cidr: 127.0.0.0/8, except: [{type: ServiceAccount, serviceAccount: {name: right}}]}]}]",
        )],
        all("+--"),
    ),
    // The cluster's tiers.
    set("strict", &[('C', "tier: Admin, requireMeshIdentity: {}")], all("++-")),
    set("strict unless a namespace says otherwise", &[('C', "tier: Baseline, requireMeshIdentity: {}")], all("++-")),
    set(
        "strict, and a namespace that lets everyone in does not undo it",
        &[
            ('C', "tier: Admin, requireMeshIdentity: {}"),
            ('A', "action: ALLOW, enforcementLevel: Network, rules: [{}]"),
        ],
        all("++-"),
    ),
    set(
        "strict unless a namespace says otherwise, and it does",
        &[
            ('C', "tier: Baseline, requireMeshIdentity: {}"),
            ('A', "action: ALLOW, enforcementLevel: Network, rules: [{}]"),
        ],
        all("+++"),
    ),
    set(
        "strict but for an address",
        &[('C', "tier: Admin, requireMeshIdentity: {except: [{cidrs: [127.0.0.0/8]}]}")],
        all("+++"),
    ),
    set(
        "strict but for another port",
        &[('C', "tier: Admin, requireMeshIdentity: {except: [{ports: [1]}]}")],
        all("++-"),
    ),
    set(
        "an ALLOW of the cluster is final",
        &[
            (
                'C',
                "tier: Admin, action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: right, namespace: shop}}]}]",
            ),
            ('A', "action: DENY, enforcementLevel: Network, rules: [{}]"),
        ],
        all("+--"),
    ),
    set(
        "a DENY of the cluster is final",
        &[
            (
                'C',
                "tier: Admin, action: DENY, enforcementLevel: Network, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: right, namespace: shop}}]}]",
            ),
            ('A', concat!("action: ALLOW, enforcementLevel: Network, rules: [{", right!(), "}]")),
        ],
        all("---"),
    ),
    set(
        "the cluster's baseline, where nothing else speaks",
        &[(
            'C',
            "tier: Baseline, action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: right, namespace: shop}}]}]",
        )],
        all("+--"),
    ),
    set(
        "the cluster's baseline, where the namespace speaks",
        &[
            (
                'C',
                "tier: Baseline, action: ALLOW, enforcementLevel: Network, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: right, namespace: shop}}]}]",
            ),
            ('A', concat!("action: ALLOW, enforcementLevel: Network, rules: [{", wrong!(), "}]")),
        ],
        all("-+-"),
    ),
    // What changes nothing.
    set(
        "a policy in shadow",
        &[('A', "action: DENY, mode: Shadow, enforcementLevel: Network, rules: [{}]")],
        all("+++"),
    ),
    set("an audit", &[('A', "action: AUDIT, enforcementLevel: Network, rules: [{}]")], all("+++")),
];

impl Set {
    /// The names of its policies, as a sidecar has them; each set has names of its own.
    pub(super) fn names(&self, number: usize) -> Vec<String> {
        let name = |(place, (kind, _)): (usize, &(char, &str))| match kind {
            'A' => format!("AuthorizationPolicy shop/p{number}-{place}"),
            _ => format!("ClusterAuthorizationPolicy p{number}-{place}"),
        };
        self.policies.iter().enumerate().map(name).collect()
    }

    /// As manifests.
    pub(super) fn yaml(&self, number: usize) -> String {
        let mut all = String::from("# sets of policies\n");
        for (place, (kind, spec)) in self.policies.iter().enumerate() {
            let (kind, namespace, about) = match kind {
                'A' => ("AuthorizationPolicy", ", namespace: shop", "targetRefs: [{kind: Pod, selector: {}}], "),
                _ => ("ClusterAuthorizationPolicy", "", EVERYWHERE),
            };
            all += &format!(
                "---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: {kind}\n\
                 metadata: {{name: p{number}-{place}{namespace}}}\nspec: {{{about}{spec}}}\n"
            );
        }
        all
    }
}
