//! Pods: who serves, as whom, and whether a proxy stands before it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use mesh_policy::{
    AccessLog, Identity,
    well_known::{
        INIT_CONTAINER, INJECT_LABEL, INJECTED_ANNOTATION, PROXY_CONTAINER, SKIP_INBOUND_PORTS_ANNOTATION,
        STRICT_PATH_PORTS_ANNOTATION,
    },
};

use crate::{
    access_log,
    object::Object,
    options::Options,
    problem::{Reason, Report},
    protocol::Declared,
    room::Bounded,
    selector::{Labels, labels_bytes, labels_of},
    service::{MAX_RANGES, includes, port_range, port_ranges},
    walker::Node,
};

/// Environment of [`INIT_CONTAINER`] that lists the ports that are not redirected.
pub const SKIP_INBOUND_PORTS_VARIABLE: &str = "MESH_SKIP_INBOUND_PORTS";

/// The first version whose proxies know policies.
const FIRST_WITH_POLICIES: [u64; 3] = [0, 2, 0];

/// A Pod, as far as the mesh cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Its own addresses: none while it has none, when it is over, and when it shares those of its node.
    pub ips: Vec<IpAddr>,
    /// The addresses of its node, if it shares them (`hostNetwork`) and is not over.
    pub node_ips: Vec<IpAddr>,
    /// Whether it has ended (`Succeeded` or `Failed`), and so has no address any more.
    pub is_over: bool,
    /// Name of its node, once it has one.
    pub node: Option<Arc<str>>,
    /// Its service account, `default` if the manifest names none.
    pub service_account: Arc<str>,
    /// The identity that its proxy proves; `None` when it is not meshed.
    pub identity: Option<Identity>,
    /// Its labels, by which policies and Services select it.
    pub labels: Labels,
    /// Container ports by name.
    pub ports: BTreeMap<String, u16>,
    /// The TCP ports that its containers declare, sorted; without those of its proxy.
    pub container_ports: Vec<u16>,
    /// Whether there was no room for its ports, so that not all are known.
    pub is_left_out: bool,
    /// Ranges of ports that take no path which servers read in several ways.
    pub strict_path_ports: Vec<(u16, u16)>,
    /// What its proxy logs, if its annotations say so.
    pub access_log: Option<Arc<AccessLog>>,
    /// Name of what controls it; see [`mesh_policy::Endpoint::controlled_by`].
    pub controlled_by: Arc<str>,
    /// Whether its proxy is of a version that knows policies. One of a folder of manifests is taken for a new one.
    pub knows_policies: bool,
    /// What its annotations say of its ports.
    pub declared: Declared,
    /// Ranges of ports whose connections do not come to its proxy, as it was injected: what `mesh-init` was given, which
    /// nobody can change later. In a folder of manifests, where nothing is injected, what the annotation says.
    pub skip_inbound_ports: Vec<(u16, u16)>,
}

impl Pod {
    /// Whether a proxy stands before it.
    pub fn is_meshed(&self) -> bool {
        self.identity.is_some()
    }

    /// The identity that answers at a port: none where the redirection leaves connections to the application.
    pub fn identity_at(&self, port: u16) -> Option<&Identity> {
        self.identity.as_ref().filter(|_| !includes(&self.skip_inbound_ports, port))
    }

    fn read_ports(&mut self, containers: &[Node<'_>], report: &mut Report<'_>) {
        for container in containers {
            let is_ours = matches!(container.text("name", report), Ok(Some(PROXY_CONTAINER | INIT_CONTAINER)));
            for port in container.items("ports", report).unwrap_or_default() {
                let Ok(Some(number)) = port.port("containerPort", report) else { continue };
                if let Ok(Some(name)) = port.text("name", report) {
                    self.ports.entry(name.to_owned()).or_insert(number);
                }
                let is_tcp = port.get("protocol").is_none_or(|protocol| protocol.value == "TCP");
                self.container_ports.extend((is_tcp && !is_ours).then_some(number));
            }
        }
        self.container_ports.sort_unstable();
        self.container_ports.dedup();
    }

    /// `namespace/name`.
    pub fn workload(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Bounded for Pod {
    fn bytes(&self) -> usize {
        let ports: usize = self.ports.keys().map(|name| size_of::<(String, u16)>() + name.len() + 32).sum();
        let ranges = self.declared.bytes()
            + size_of_val(&*self.skip_inbound_ports)
            + size_of_val(&*self.strict_path_ports)
            + size_of_val(&*self.container_ports)
            + access_log::bytes(self.access_log.as_deref())
            + self.controlled_by.len();
        size_of::<Self>() + 4 * (self.namespace.len() + self.name.len()) + ports + ranges + labels_bytes(&self.labels)
    }

    /// Who it is counts, and where, and which policies select it; not what its ports are called.
    fn left_out(self) -> Option<Self> {
        let (ports, container_ports) = (BTreeMap::new(), Vec::new());
        Some(Self { ports, container_ports, is_left_out: true, ..self })
    }

    /// Its addresses are its own, and perhaps its proxy's.
    fn may_go(&self) -> bool {
        self.ips.is_empty() && self.node_ips.is_empty()
    }
}

/// Decodes a Pod. A field that cannot be read counts as absent, but for the service account: without it the pod has no
/// identity, rather than another one.
pub(crate) fn decode(object: &Object, options: &Options, report: &mut Report<'_>) -> Pod {
    let root = Node::root(&object.value);
    let spec = root.object("spec", report).ok().flatten();
    let status = root.object("status", report).ok().flatten();
    let phase = status.as_ref().and_then(|status| status.text("phase", report).ok()?);
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let host_network = spec.as_ref().and_then(|spec| spec.flag("hostNetwork", report).ok()?) == Some(true);
    let service_account = spec.as_ref().map_or(Ok(None), |spec| spec.text("serviceAccountName", report));
    let account = service_account.ok().flatten().filter(|name| !name.is_empty()).unwrap_or("default");
    let mut containers = Vec::new();
    for list in ["containers", "initContainers"] {
        containers.extend(spec.iter().flat_map(|spec| spec.items(list, report).unwrap_or_default()));
    }
    let ips = match &status {
        Some(status) if !is_over => addresses(status, report),
        _ => Vec::new(),
    };
    let (ips, node_ips) = if host_network { (Vec::new(), ips) } else { (ips, Vec::new()) };
    let mut pod = Pod {
        namespace: object.namespace.as_str().into(),
        name: object.name.as_str().into(),
        ips,
        node_ips,
        is_over,
        node: spec.as_ref().and_then(|spec| spec.text("nodeName", report).ok()?).map(Into::into),
        service_account: account.into(),
        identity: None,
        labels: labels_of(&object.value),
        ports: BTreeMap::new(),
        container_ports: Vec::new(),
        is_left_out: false,
        strict_path_ports: port_ranges(&root, STRICT_PATH_PORTS_ANNOTATION, report),
        access_log: access_log::decode(&root, report),
        controlled_by: controlled_by(object).into(),
        knows_policies: options.meshed_by_label || knows_policies(object),
        declared: Declared::of(&root, report),
        skip_inbound_ports: if options.meshed_by_label {
            port_ranges(&root, SKIP_INBOUND_PORTS_ANNOTATION, report)
        } else {
            injected_skips(&containers, report)
        },
    };
    pod.read_ports(&containers, report);
    let is_meshed = if options.meshed_by_label {
        root.label(INJECT_LABEL, report) == Ok(Some("enabled"))
    } else {
        containers.iter().any(|container| container.text("name", report) == Ok(Some(PROXY_CONTAINER)))
    };
    // Nothing redirects the traffic of a node, so no proxy stands before a pod that shares its node's addresses.
    if is_meshed && !host_network && service_account.is_ok() {
        match Identity::new(&options.trust_domain, &object.namespace, account) {
            Ok(identity) => pod.identity = Some(identity),
            Err(why) => {
                let mark = report.mark();
                let fix = "use names that Kubernetes allows";
                report.schema("spec.serviceAccountName", Reason::UnsupportedValue, why.to_string(), fix);
                report.effect(mark, "the pod counts as not meshed");
            }
        }
    }
    pod
}

/// Digits behind the name of a CronJob in that of its Job: the minutes since 1970.
const SCHEDULED_DIGITS: usize = 8;

/// Name of what controls a pod: of a ReplicaSet its name without the hash that a Deployment adds, of the Job of a CronJob that
/// of the CronJob. What nothing controls goes by its own name.
fn controlled_by(object: &Object) -> &str {
    use serde_json::Value;
    let metadata = object.value.get("metadata");
    let owners = metadata.and_then(|metadata| metadata.get("ownerReferences")?.as_array());
    let is_controller = |owner: &&Value| owner.get("controller").and_then(|is| is.as_bool()) == Some(true);
    let Some(owner) = owners.and_then(|owners| owners.iter().find(is_controller)) else { return &object.name };
    let name = owner.get("name").and_then(Value::as_str).unwrap_or(&object.name);
    let hash = metadata.and_then(|metadata| metadata.get("labels")?.get("pod-template-hash")?.as_str());
    let parts = name.rsplit_once('-');
    match (owner.get("kind").and_then(Value::as_str), parts) {
        (Some("ReplicaSet"), Some((deployment, last))) if Some(last) == hash => deployment,
        (Some("Job"), Some((cron_job, last)))
            if last.len() == SCHEDULED_DIGITS && last.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            cron_job
        }
        _ => name,
    }
}

/// Whether the version that injected a pod is one whose proxies know policies. One that is not told is an old one.
fn knows_policies(object: &Object) -> bool {
    let annotations = object.value.pointer("/metadata/annotations").and_then(|all| all.get(INJECTED_ANNOTATION));
    let Some(version) = annotations.and_then(serde_json::Value::as_str) else { return false };
    // What stands behind the numbers says which build of a version it is.
    let numbers = version.split(['-', '+']).next().unwrap_or_default().split('.');
    let numbers: Option<Vec<u64>> = numbers.map(|number| number.parse().ok()).collect();
    numbers.is_some_and(|numbers| numbers.as_slice() >= &FIRST_WITH_POLICIES)
}

/// What the init container was told not to redirect. Without that container nobody knows of a port that is not redirected.
fn injected_skips(containers: &[Node<'_>], report: &mut Report<'_>) -> Vec<(u16, u16)> {
    let init = containers.iter().find(|container| container.text("name", report) == Ok(Some(INIT_CONTAINER)));
    let variables = init.map(|init| init.items("env", report).unwrap_or_default()).unwrap_or_default();
    let skips =
        variables.iter().find(|variable| variable.text("name", report) == Ok(Some(SKIP_INBOUND_PORTS_VARIABLE)));
    let text = skips.and_then(|variable| variable.text("value", report).ok()?);
    // One that is malformed ends init, and the pod never starts.
    let ranges = text.into_iter().flat_map(|text| text.split(',')).filter_map(|part| port_range(part.trim()));
    let mut ranges: Vec<_> = ranges.take(MAX_RANGES + 1).collect();
    if ranges.len() > MAX_RANGES {
        let mark = report.mark();
        let what = format!("{SKIP_INBOUND_PORTS_VARIABLE} has more than {MAX_RANGES} ranges, which no injector writes");
        report.error("spec.initContainers", Reason::TooLarge, what, "let the webhook inject the pod");
        report.effect(mark, "the other ports count as redirected");
        ranges.truncate(MAX_RANGES);
    }
    ranges
}

fn addresses(status: &Node<'_>, report: &mut Report<'_>) -> Vec<IpAddr> {
    let single = status.text("podIP", report).ok().flatten().map(|ip| (status.field("podIP"), ip));
    let several = status.items("podIPs", report).unwrap_or_default();
    let mut texts: Vec<_> = single.into_iter().collect();
    for node in several {
        texts.extend(node.text("ip", report).ok().flatten().map(|ip| (node.field("ip"), ip)));
    }
    let mut ips = Vec::new();
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ips.contains(&ip) => {}
            Ok(ip) => ips.push(ip),
            Err(_) => {
                let what = format!("{text:?} is not an IP address");
                report.schema(&field, Reason::UnsupportedValue, what, "write an IP address");
            }
        }
    }
    ips
}
