//! The demo's manifests: ordinary Kubernetes YAML, written to be read and edited by the user.
//!
//! It writes text and nothing else; the controller reads the folder as it reads anyone's.

use std::{fmt::Write, net::IpAddr};

use super::topology::{CLIENT, CLUSTER_IPS, NAMESPACE, Replica, SERVICE, SERVICE_PORT, Topology, VERSIONS};

/// The file with the weights.
pub(super) const ROUTE_FILE: &str = "20-route.yaml";

/// A file of the folder.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Its name in the folder.
    pub name: &'static str,
    /// Its text.
    pub text: String,
    /// Whether it has this run's addresses. Only such files are written over in a folder that is used again.
    pub has_addresses: bool,
}

/// All files, in the order of their names.
pub(super) fn all(topology: &Topology) -> Vec<Manifest> {
    vec![
        Manifest { name: "00-services.yaml", text: services(topology), has_addresses: topology.transparent },
        Manifest { name: "10-pods.yaml", text: pods(topology), has_addresses: true },
        Manifest { name: "11-endpointslices.yaml", text: slices(topology), has_addresses: true },
        Manifest { name: ROUTE_FILE, text: route(), has_addresses: false },
        Manifest { name: "30-policy.yaml", text: policy(), has_addresses: false },
    ]
}

fn services(topology: &Topology) -> String {
    let mut text = format!(
        "# {SERVICE} is what clients call. {SERVICE}-v1 and {SERVICE}-v2 are its versions, so that a route can name each.\n"
    );
    let names = [SERVICE.to_owned()].into_iter().chain(VERSIONS.map(|v| format!("{SERVICE}-{v}")));
    for (i, (name, ip)) in names.zip(CLUSTER_IPS).enumerate() {
        let separator = if i == 0 { "" } else { "---\n" };
        let address = if topology.transparent { format!("  clusterIP: {ip}\n") } else { String::new() };
        let _ = write!(
            text,
            "{separator}apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
{address}  ports:
    - name: http
      port: {SERVICE_PORT}
"
        );
    }
    text
}

fn pods(topology: &Topology) -> String {
    let mut text = String::from(
        "# Written anew at each start. The label meshctl.dev/inject says that a pod has a sidecar; its identity is made of\n\
         # its namespace and service account: spiffe://cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT.\n",
    );
    for replica in &topology.replicas {
        text += &pod(&replica.pod, &replica.service(), replica.sidecar.pod_ip(), Some(replica.app.port()));
        text += "---\n";
    }
    text += &pod(CLIENT, CLIENT, topology.client.pod_ip(), None);
    text
}

fn pod(name: &str, account: &str, ip: IpAddr, port: Option<u16>) -> String {
    let ports =
        port.map(|p| format!("\n      ports:\n        - name: http\n          containerPort: {p}")).unwrap_or_default();
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels:
    app: {account}
    meshctl.dev/inject: enabled
spec:
  serviceAccountName: {account}
  containers:
    - name: {account}
      image: meshctl{ports}
status:
  phase: Running
  podIP: {ip}
"
    )
}

fn slices(topology: &Topology) -> String {
    let mut text = String::from(
        "# Written anew at each start. Where each replica is reached, each in a slice of its own: on one machine without\n\
         # redirection all have the address 127.0.0.1 and differ by port, which is the sidecar's.\n",
    );
    let of_service = |name: String| topology.replicas.iter().map(move |r| (name.clone(), r));
    let of_version = topology.replicas.iter().map(|r| (r.service(), r));
    for (i, (service, replica)) in of_service(SERVICE.to_owned()).chain(of_version).enumerate() {
        if i > 0 {
            text += "---\n";
        }
        text += &slice(&service, replica);
    }
    text
}

fn slice(service: &str, replica: &Replica) -> String {
    let Replica { pod, listen, .. } = replica;
    // Slices of one Service differ by the pod: web-v1 has web-v1-0, web has web-for-web-v1-0.
    let name = if pod.starts_with(&format!("{service}-")) && service != SERVICE {
        pod.clone()
    } else {
        format!("{service}-for-{pod}")
    };
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels:
    kubernetes.io/service-name: {service}
addressType: IPv4
ports:
  - name: http
    protocol: TCP
    port: {port}
endpoints:
  - addresses: [{ip}]
    conditions:
      ready: true
    targetRef:
      kind: Pod
      name: {pod}
      namespace: {NAMESPACE}
",
        port = listen.port(),
        ip = listen.ip(),
    )
}

fn route() -> String {
    format!(
        "# How requests to {SERVICE} are shared out. Change the weights, save, and the next requests follow them.
# Only their proportion matters: 90 and 10 are the same as 9 and 1; 0 sends none.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {SERVICE}
  namespace: {NAMESPACE}
spec:
  parentRefs:
    - group: \"\"
      kind: Service
      name: {SERVICE}
      port: {SERVICE_PORT}
  rules:
    - backendRefs:
        - name: {SERVICE}-v1
          port: {SERVICE_PORT}
          weight: 90
        - name: {SERVICE}-v2
          port: {SERVICE_PORT}
          weight: 10
"
    )
}

/// Whom the policy of [`policy`] lets in, once the sign of a comment is gone from each of its lines.
fn policy() -> String {
    let labels = VERSIONS.map(|version| format!("{SERVICE}-{version}")).join(", ");
    let policy = format!(
        "apiVersion: policy.meshctl.dev/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: {SERVICE}
  namespace: {NAMESPACE}
spec:
  targetRefs:
    - kind: Pod
      selector:
        matchExpressions:
          - {{key: app, operator: In, values: [{labels}]}}
  action: ALLOW
  enforcementLevel: Application
  rules:
    - sources:
        - type: ServiceAccount
          serviceAccount: {{name: {CLIENT}}}
      to:
        - method: GET
          path: {{type: Exact, value: /}}
"
    );
    let mut text = format!(
        "# Who may call {SERVICE}. Take away the # before each line below and save: then only {CLIENT} may GET /, and everything\n\
         # else is answered 403. See who may: meshctl authz {SERVICE} -n {NAMESPACE} --manifests DIR\n\n"
    );
    policy.lines().for_each(|line| text += &format!("#{line}\n"));
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;
    use crate::cmd::demo::ports::Ports;

    fn objects() -> (Topology, Vec<Value>) {
        let topology = Topology::plan(&mut Ports::new()).unwrap();
        let objects =
            all(&topology).iter().flat_map(|m| serde_saphyr::from_multiple::<Value>(&m.text).expect(m.name)).collect();
        (topology, objects)
    }

    fn of_kind<'o>(objects: &'o [Value], kind: &str) -> Vec<&'o Value> {
        objects.iter().filter(|o| o["kind"] == kind).collect()
    }

    #[test]
    fn every_object_is_there_once() {
        let (_, objects) = objects();
        assert_eq!(of_kind(&objects, "Service").len(), 3);
        assert_eq!(of_kind(&objects, "Pod").len(), 5);
        assert_eq!(of_kind(&objects, "EndpointSlice").len(), 8);
        assert_eq!(of_kind(&objects, "HTTPRoute").len(), 1);
        let names: HashSet<_> =
            objects.iter().map(|o| (o["kind"].to_string(), o["metadata"]["name"].to_string())).collect();
        assert_eq!(names.len(), objects.len());
        assert!(objects.iter().all(|o| o["metadata"]["namespace"] == NAMESPACE && o["apiVersion"].is_string()));
    }

    #[test]
    fn slices_lead_to_the_sidecars_and_name_their_pods() {
        let (topology, objects) = objects();
        let slices = of_kind(&objects, "EndpointSlice");
        for replica in &topology.replicas {
            let leading: Vec<_> =
                slices.iter().filter(|s| s["ports"][0]["port"] == u64::from(replica.listen.port())).collect();
            assert_eq!(leading.len(), 2, "its version and the whole service");
            for slice in leading {
                assert_eq!(slice["endpoints"][0]["targetRef"]["name"], replica.pod.as_str());
                assert_eq!(slice["endpoints"][0]["addresses"][0], "127.0.0.1");
            }
        }
    }

    #[test]
    fn pods_are_meshed_and_have_the_account_of_their_version() {
        let (_, objects) = objects();
        for pod in of_kind(&objects, "Pod") {
            assert_eq!(pod["metadata"]["labels"]["meshctl.dev/inject"], "enabled");
            let name = pod["metadata"]["name"].as_str().unwrap();
            let account = pod["spec"]["serviceAccountName"].as_str().unwrap();
            assert!(name == account || name.rsplit_once('-').unwrap().0 == account, "{name} runs as {account}");
        }
    }

    #[test]
    fn the_policy_says_nothing_until_it_is_uncommented() {
        let (_, objects) = objects();
        assert!(of_kind(&objects, "AuthorizationPolicy").is_empty());
        let text: String =
            policy().lines().skip(2).map(|line| line.strip_prefix('#').unwrap_or(line).to_owned() + "\n").collect();
        let Value::Object(policy) = serde_saphyr::from_str(&text).unwrap() else { panic!("an object") };
        assert_eq!((&policy["kind"], &policy["spec"]["action"]), (&"AuthorizationPolicy".into(), &"ALLOW".into()));
        let found = mesh_resources::Snapshot::from_objects(
            &[mesh_resources::Object::from_value(Value::Object(policy), None).unwrap()],
            mesh_resources::Options::default(),
        );
        let schema = mesh_resources::Class::Schema;
        assert!(found.1.iter().all(|problem| problem.class != schema), "{:?}", found.1);
    }

    #[test]
    fn the_route_starts_with_ninety_to_ten() {
        let (_, objects) = objects();
        let route = of_kind(&objects, "HTTPRoute")[0];
        let backends = route["spec"]["rules"][0]["backendRefs"].as_array().unwrap();
        let weights: Vec<_> =
            backends.iter().map(|b| (b["name"].as_str().unwrap(), b["weight"].as_u64().unwrap())).collect();
        assert_eq!(weights, [("web-v1", 90), ("web-v2", 10)]);
        assert_eq!(route["spec"]["parentRefs"][0]["kind"], "Service");
    }
}
